//! Classifier-free guidance: v = v_u + g·(v_c − v_u) (`sampling.md` §7).
//!
//! The two velocities are two evaluations of the network at the same latents and timestep. The
//! caller decides which prompt and references the unconditional one gets.

use crate::error::{Error, Result};

/// Checks a guidance scale: a finite number from 0 to 100.
///
/// # Errors
/// E0928 for anything else.
pub fn check_scale(scale: f64) -> Result<()> {
    if (0.0..=100.0).contains(&scale) {
        return Ok(());
    }
    Err(Error::input("E0928", format!("guidance scale {scale} is not a number from 0 to 100"))
        .at("guidance")
        .help("5 is the usual value; 1 turns guidance off"))
}

/// Checks the noise levels between which guidance is at work: from 0 to 1, the lower one first.
///
/// # Errors
/// E1304 for anything else.
pub fn check_interval([low, high]: [f64; 2]) -> Result<()> {
    if (0.0..=1.0).contains(&low) && low < high && high <= 1.0 {
        return Ok(());
    }
    let message = format!("guidance cannot be at work at noise levels from {low} to {high}");
    Err(Error::input("E1304", message)
        .at("guidance interval")
        .help("noise levels fall from 1 to 0: 0.3..1 leaves guidance out of the last steps"))
}

/// Whether the unconditional evaluation is needed. At scale 1 it is not, because the mix is then
/// the conditional velocity.
pub fn needs_unconditional(scale: f32) -> bool {
    scale != 1.0
}

/// Writes v_uncond + scale·(v_cond − v_uncond) to `out`, element by element in f32.
///
/// # Errors
/// E0926 (internal) when the three lengths differ.
pub fn mix(v_cond: &[f32], v_uncond: &[f32], scale: f32, out: &mut [f32]) -> Result<()> {
    if v_cond.len() != v_uncond.len() || v_cond.len() != out.len() {
        return Err(Error::internal(
            "E0926",
            format!(
                "guidance got {} conditional and {} unconditional values for an output of {}",
                v_cond.len(),
                v_uncond.len(),
                out.len()
            ),
        )
        .at("guidance mix")
        .help("both branches must be evaluated on the same target"));
    }
    for ((out, cond), uncond) in out.iter_mut().zip(v_cond).zip(v_uncond) {
        *out = uncond + scale * (cond - uncond);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_linearly() {
        let mut out = [0.0; 3];
        mix(&[1.0, 2.0, -1.0], &[0.0, 2.0, 1.0], 5.0, &mut out).unwrap();
        assert_eq!(out, [5.0, 2.0, -9.0]);
        mix(&[1.0, 2.0, -1.0], &[0.0, 2.0, 1.0], 0.0, &mut out).unwrap();
        assert_eq!(out, [0.0, 2.0, 1.0]);
        assert!(!needs_unconditional(1.0) && needs_unconditional(5.0));
    }

    #[test]
    fn intervals_are_checked() {
        for bad in
            [[0.5, 0.5], [0.6, 0.5], [-0.1, 1.0], [0.0, 1.1], [f64::NAN, 1.0], [0.0, f64::NAN]]
        {
            assert_eq!(check_interval(bad).unwrap_err().code(), "E1304", "{bad:?}");
        }
        check_interval([0.0, 1.0]).unwrap();
        check_interval([0.25, 0.8]).unwrap();
    }

    #[test]
    fn refuses_bad_scales_and_lengths() {
        for scale in [f64::NAN, f64::INFINITY, -1.0, 100.5] {
            assert_eq!(check_scale(scale).unwrap_err().code(), "E0928");
        }
        for scale in [0.0, 1.0, 5.0, 100.0] {
            check_scale(scale).unwrap();
        }
        let mut out = [7.0; 2];
        assert_eq!(mix(&[1.0], &[1.0, 2.0], 5.0, &mut out).unwrap_err().code(), "E0926");
        assert_eq!(mix(&[1.0; 3], &[1.0; 3], 5.0, &mut out).unwrap_err().code(), "E0926");
        assert_eq!(out, [7.0; 2]);
    }
}
