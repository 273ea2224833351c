//! Composites that compute tables from positions: rotary angles, timestep sinusoids, relative
//! buckets. Their rounding is part of their meaning; golden values depend on it.

use super::Parts;
use crate::entity::ValueId;
use crate::op::{BinaryFn, CompareFn, UnaryFn};
use crate::types::{DType, TensorType};

impl Parts<'_, '_> {
    /// Cosine and sine of `position · θ_j` for every token, in f64, cast once at the end.
    ///
    /// Rows and columns have `n = 2·⌊head_dim/6⌋` channels each, time the rest; the angle of pair
    /// `j` on an axis with `n` channels is `θ_j = theta^(−2j/n)`. Pairs are ordered time, rows,
    /// columns; tokens frame, row, column.
    pub(super) fn rope_table(
        &mut self,
        positions: ValueId,
        [rows, cols]: [usize; 2],
        head_dim: usize,
        theta: f64,
    ) -> ValueId {
        self.wide = DType::F64;
        let frames = self.b.shape(positions)[0];
        let spatial = 2 * (head_dim / 6);
        let temporal = head_dim - 2 * spatial;
        let times = self.b.cast("time", positions, DType::F64);
        let row = self.b.iota("row", 0, TensorType::new(DType::F64, [rows]));
        let col = self.b.iota("col", 0, TensorType::new(DType::F64, [cols]));
        let grid = [frames, rows, cols];
        let axes = [(times, temporal), (row, spatial), (col, spatial)];
        let mut parts = Vec::with_capacity(3);
        for (axis, (position, channels)) in axes.into_iter().enumerate() {
            let turns = self.axis_turns(position, channels, theta);
            let mut shape = [1, 1, 1, channels / 2, 2];
            shape[axis] = grid[axis];
            let turns = self.reshape("turns", turns, shape);
            shape[..3].copy_from_slice(&grid);
            parts.push(self.b.broadcast("grid", turns, shape));
        }
        let table = self.b.concat("table", &parts, 3);
        self.finish(table)
    }

    /// `[n]` positions to `[n, channels/2, 2]` cosines and sines.
    fn axis_turns(&mut self, position: ValueId, channels: usize, theta: f64) -> ValueId {
        let count = self.b.shape(position)[0];
        let pair = self.b.iota("pair", 1, TensorType::new(DType::F64, [1, channels / 2]));
        let exponent = self.times("channel", pair, -2.0);
        let size = self.scalar("channels", channels as f64);
        let exponent = self.div("exponent", exponent, size);
        let power = self.times("log_frequency", exponent, theta.ln());
        let frequency = self.b.unary("frequency", UnaryFn::Exp, power);
        let position = self.reshape("position", position, [count, 1]);
        let angle = self.b.mul("angle", position, frequency);
        let cos = self.b.unary("cos", UnaryFn::Cos, angle);
        let sin = self.b.unary("sin", UnaryFn::Sin, angle);
        self.pair("turns", cos, sin)
    }

    /// `[cos(t·ω_i)…, sin(t·ω_i)…]` with ω from [`timestep_frequency`], the argument rounded to
    /// f32, cosine and sine correctly rounded of it.
    pub(super) fn timestep_embedding(&mut self, steps: ValueId, dim: usize) -> ValueId {
        let half = dim / 2;
        let count = self.b.shape(steps)[0];
        let frequencies: Vec<f64> =
            (0..half).map(|i| f64::from(timestep_frequency(i, half))).collect();
        let ty = TensorType::new(DType::F32, [1, half]);
        let frequency = self.b.literal("frequency", &frequencies, ty);
        let steps = self.reshape("steps", steps, [count, 1]);
        let argument = self.b.mul("argument", steps, frequency);
        let argument = self.b.cast("argument_f64", argument, DType::F64);
        let cos = self.b.unary("cos", UnaryFn::Cos, argument);
        let sin = self.b.unary("sin", UnaryFn::Sin, argument);
        let both = self.b.concat("waves", &[cos, sin], 1);
        self.finish(both)
    }

    /// Bucket of `δ`: `B/2` for `δ > 0`, plus `|δ|` below `B/4` and logarithmic steps from there,
    /// with `B` buckets. The steps are integer thresholds, so no logarithm is rounded at run time.
    pub(super) fn relative_bucket(
        &mut self,
        delta: ValueId,
        buckets: usize,
        max_distance: usize,
    ) -> ValueId {
        let integer =
            |parts: &mut Self, name: &str, value: f64| parts.b.scalar(name, DType::I32, value);
        let zero = integer(self, "zero", 0.0);
        let one = integer(self, "one", 1.0);
        let after = integer(self, "after", (buckets / 2) as f64);
        let exact = integer(self, "exact", (buckets / 4) as f64);
        let positive = self.b.compare("positive", CompareFn::Gt, delta, zero);
        let side = self.select("side", positive, after, zero);
        let distance = self.b.unary("distance", UnaryFn::Abs, delta);
        let near = self.b.binary("near", BinaryFn::Min, distance, exact);
        let mut bucket = self.b.add("bucket", side, near);
        for threshold in bucket_thresholds(buckets, max_distance) {
            let threshold = integer(self, "threshold", f64::from(threshold));
            let reached = self.b.compare("reached", CompareFn::Ge, distance, threshold);
            let step = self.select("step", reached, one, zero);
            bucket = self.b.add("bucket", bucket, step);
        }
        bucket
    }
}

/// Smallest distances at which the buckets after the first `e = buckets/4` begin, ascending:
/// `⌈e · (max_distance/e)^(j/e)⌉` for `j = 1 … e − 1`. Those no i32 reaches are left out.
///
/// For 32 buckets and distance 128 these are 12, 16, 23, 32, 46, 64, 91, which agrees with the
/// reference's single-precision logarithm everywhere up to 300 at least.
pub fn bucket_thresholds(buckets: usize, max_distance: usize) -> Vec<i32> {
    let exact = (buckets / 4) as f64;
    let ratio = max_distance as f64 / exact;
    (1..buckets / 4)
        .map(|j| {
            let bound = exact * ratio.powf(j as f64 / exact);
            // Powers that are whole numbers must not be pushed up by a last bit.
            let whole = bound.round();
            if (bound - whole).abs() < 1e-9 * bound { whole } else { bound.ceil() }
        })
        .take_while(|bound| *bound <= f64::from(i32::MAX))
        .map(|bound| bound as i32)
        .collect()
}

/// Arguments at which the reference library's f32 exponential is one unit in the last place off
/// the correctly rounded value (f32 bits, units), among the frequencies of the usual widths. The
/// library gives the same on every processor it was tried on.
const REFERENCE_EXP: [(u32, i32); 7] = [
    (0xbdeb_c8e3, 1),
    (0xbf5d_0c55, 1),
    (0xc01a_bbd5, 1),
    (0xc023_bd49, 1),
    (0xc09e_1c61, 1),
    (0xc0a7_5239, -1),
    (0xc0f4_12f3, 1),
];

/// Frequency `i` of `half` of the timestep sinusoid: e^(−ln 10000 · i / half) with every operation
/// rounded to f32 as the reference does (`dit.md` §3.2). One unit in the last place of it is
/// 3e-5 in the sinusoid at timestep 1000, so the reference's own roundings are kept.
pub fn timestep_frequency(i: usize, half: usize) -> f32 {
    let exponent = -(10000f64.ln() as f32) * i as f32 / half as f32;
    let rounded = f64::from(exponent).exp() as f32;
    match REFERENCE_EXP.iter().find(|(bits, _)| *bits == exponent.to_bits()) {
        Some((_, units)) => f32::from_bits(rounded.to_bits().wrapping_add_signed(*units)),
        None => rounded,
    }
}
