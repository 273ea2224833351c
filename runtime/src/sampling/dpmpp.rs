//! DPM-Solver++ for flow matching: order 2, midpoint, multistep (`sampling.md` §5).
//!
//! Step 0 has order 1, and so has the last step, which ends at level 0. A schedule may start at
//! σ = 1, where λ = −∞; the limits of the formulas are written out for that case.

use super::{Fill, Run, Schedule, Solver, SolverKind, lambda, state_buffer};
use crate::error::Result;

/// The DPM-Solver++ solver; keeps one buffer of the latent's size.
#[derive(Clone, Debug)]
pub struct Dpmpp {
    run: Run,
    /// The x0-prediction of step i−1.
    newest: Vec<f32>,
}

/// x_next = sample·x + now·m_i + difference·(m_i − m_{i−1}).
#[derive(Clone, Copy, Debug)]
struct Coefficients {
    sample: f32,
    now: f32,
    difference: f32,
}

impl Dpmpp {
    /// A solver for `schedule` and `elements` values.
    ///
    /// # Errors
    /// E0925 when the noise levels do not fall strictly to 0, E0927 without memory for the state.
    pub fn new(schedule: &Schedule, elements: usize) -> Result<Self> {
        Ok(Self { run: Run::new(schedule, elements)?, newest: state_buffer(elements)? })
    }

    /// Coefficients from step `i` to i+1, for a next level above 0.
    fn coefficients(&self, i: usize) -> Coefficients {
        let (next, now) = (self.run.sigma(i + 1), self.run.sigma(i));
        let alpha = 1.0 - next;
        // At σ = 1 h is +∞ and exp_m1(−∞) = −1 exactly, which is the limit wanted.
        let h = lambda(next) - lambda(now);
        let e = (-h).exp_m1();
        let mut difference = 0.0;
        // A previous level of 1 makes h0 infinite, so that the difference quotient vanishes.
        if i >= 1 && self.run.sigmas[i - 1] < 1.0 {
            let r0 = (lambda(now) - lambda(self.run.sigma(i - 1))) / h;
            difference = -0.5 * alpha * e / r0;
        }
        Coefficients {
            sample: (next / now) as f32,
            now: (-alpha * e) as f32,
            difference: difference as f32,
        }
    }
}

impl Solver for Dpmpp {
    fn step(&mut self, index: usize, x: &mut [f32], velocity: &[f32]) -> Result<()> {
        self.run.admit(index, x, velocity)?;
        let sigma = self.run.sigmas[index];
        if index + 1 == self.run.steps() {
            for (x, v) in x.iter_mut().zip(velocity) {
                *x -= sigma * v;
            }
            return Ok(());
        }
        let coefficients = self.coefficients(index);
        for ((x, v), newest) in x.iter_mut().zip(velocity).zip(&mut self.newest) {
            let now = *x - sigma * v;
            *x = coefficients.sample * *x
                + coefficients.now * now
                + coefficients.difference * (now - *newest);
            *newest = now;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.run.next = 0;
        // Step 0 multiplies this buffer by 0, so it must hold finite values even after a bad run.
        self.newest.fill(0.0);
    }

    fn kept(&self) -> Vec<(&'static str, &[f32])> {
        vec![("newest", &self.newest)]
    }

    fn resume(&mut self, done: usize, fill: Fill<'_>) -> Result<()> {
        fill("newest", &mut self.newest)?;
        self.run.resume(done)
    }

    fn kind(&self) -> SolverKind {
        SolverKind::Dpmpp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_two_steps_after_noise_level_one_are_first_order() {
        let schedule = Schedule { sigmas: vec![1.0, 0.8, 0.5, 0.2, 0.0], timesteps: vec![0.0; 4] };
        let mut solver = Dpmpp::new(&schedule, 1).unwrap();
        let mut x = [2.0f32];
        // m0 = 2 − 1·0.5 = 1.5; x1 = 0.8·2 + 0.2·1.5.
        solver.step(0, &mut x, &[0.5]).unwrap();
        assert!((x[0] - 1.9).abs() < 1e-6);
        // m1 = 1.9 − 0.8·1 = 1.1; first order again: σ2/σ1·x + (1 − σ2/σ1)·m1 on this path.
        solver.step(1, &mut x, &[1.0]).unwrap();
        let (h, alpha) = (lambda(f64::from(0.5f32)) - lambda(f64::from(0.8f32)), 0.5);
        let expected = 0.625 * 1.9 - alpha * (-h).exp_m1() * 1.1;
        assert!((f64::from(x[0]) - expected).abs() < 1e-6);
        // Second order from here.
        let before = f64::from(x[0]);
        solver.step(2, &mut x, &[-1.0]).unwrap();
        let (s2, s3) = (f64::from(0.5f32), f64::from(0.2f32));
        let h = lambda(s3) - lambda(s2);
        let h0 = lambda(s2) - lambda(f64::from(0.8f32));
        let m2 = before + 0.5;
        let (alpha, e) = (1.0 - s3, (-h).exp_m1());
        let d1 = (m2 - 1.1) / (h0 / h);
        let expected = s3 / s2 * before - alpha * e * m2 - 0.5 * alpha * e * d1;
        assert!((f64::from(x[0]) - expected).abs() < 1e-6);
        // The last step is the x0-prediction.
        let before = x[0];
        solver.step(3, &mut x, &[2.0]).unwrap();
        assert!((x[0] - (before - 0.4)).abs() < 1e-6);
    }

    #[test]
    fn a_reset_forgets_non_finite_values() {
        let schedule = Schedule { sigmas: vec![0.9, 0.5, 0.0], timesteps: vec![900.0, 500.0] };
        let mut solver = Dpmpp::new(&schedule, 1).unwrap();
        let mut x = [f32::NAN];
        solver.step(0, &mut x, &[0.0]).unwrap();
        solver.reset();
        let mut x = [1.0];
        solver.step(0, &mut x, &[0.0]).unwrap();
        assert!(x[0].is_finite());
    }
}
