//! Tensors of numbers: literals, counters, and closed-form tables of rotary angles, timestep
//! sinusoids and relative position buckets.

use super::threads::until_stopped;
use crate::element::write;
use anyid_ir::{DType, TensorType};

/// One value for every element, or the elements.
pub fn constant(values: &[f64], dtype: DType, out: &mut [u8]) {
    for (at, value) in values.iter().enumerate() {
        write(dtype, out, at, *value);
    }
    // One value fills everything, in copies that double.
    let mut done = values.len() * dtype.bytes();
    while (1..out.len()).contains(&done) {
        let more = done.min(out.len() - done);
        out.copy_within(..more, done);
        done += more;
    }
}

/// 0, 1, 2, … along an axis.
pub fn iota(axis: usize, ty: &TensorType, out: &mut [u8]) {
    let stride = ty.strides()[axis];
    for at in until_stopped(ty.elements()) {
        write(ty.dtype, out, at, (at / stride % ty.shape[axis]) as f64);
    }
}

/// Rotary table `[frames·rows·cols, head_dim/2, 2]` of (cos, sin), angles in f64 (`dit.md` §4).
pub fn rope(
    frames: &[i32],
    rows: usize,
    cols: usize,
    head_dim: usize,
    theta: f64,
    out: &mut [f32],
) {
    let spatial = 2 * (head_dim / 6);
    let temporal = head_dim - 2 * spatial;
    let pairs = head_dim / 2;
    let mut at = 0;
    for frame in frames {
        for row in 0..rows {
            for col in 0..cols {
                for pair in 0..pairs {
                    let (position, j, n) = if pair < temporal / 2 {
                        (f64::from(*frame), pair, temporal)
                    } else if pair < (temporal + spatial) / 2 {
                        (row as f64, pair - temporal / 2, spatial)
                    } else {
                        (col as f64, pair - (temporal + spatial) / 2, spatial)
                    };
                    let frequency = (-(2.0 * j as f64) / n as f64 * theta.ln()).exp();
                    let (sin, cos) = (position * frequency).sin_cos();
                    out[at] = cos as f32;
                    out[at + 1] = sin as f32;
                    at += 2;
                }
            }
        }
    }
}

/// Sinusoid `[G, dim]` of timesteps, cosines first, with the reference's f32 roundings
/// (`dit.md` §3.2).
pub fn timesteps(t: &[f32], dim: usize, out: &mut [f32]) {
    let half = dim / 2;
    for (step, value) in t.iter().enumerate() {
        for i in 0..half {
            let frequency = anyid_ir::decompose::timestep_frequency(i, half);
            let argument = f64::from(value * frequency);
            out[step * dim + i] = argument.cos() as f32;
            out[step * dim + half + i] = argument.sin() as f32;
        }
    }
}

/// Bidirectional relative bucket of each offset key − query (`text.md` §2).
pub fn relative_buckets(delta: &[i32], buckets: usize, max_distance: usize, out: &mut [i32]) {
    let half = (buckets / 2) as i32;
    let exact = half / 2;
    for (to, delta) in out.iter_mut().zip(delta) {
        let base = if *delta > 0 { half } else { 0 };
        let distance = delta.saturating_abs();
        let bucket = if distance < exact {
            distance
        } else {
            let steps = |d: i32| {
                // The boundary distances are exact powers in the reference's f32 logarithm.
                let ratio = (f64::from(d) / f64::from(exact)).ln()
                    / (max_distance as f64 / f64::from(exact)).ln();
                (ratio * f64::from(half - exact) + 1e-9).floor() as i32
            };
            (exact + steps(distance)).min(half - 1)
        };
        *to = base + bucket;
    }
}
