//! Queries that the blocks cannot answer: one at a time, as the decomposition says.
//!
//! The online softmax keeps the largest score as a single in units of log2. Where that is far from
//! 0 its rounding alone moves the weights, and where every key is masked, or a score is infinite or
//! NaN, it says nothing. Such queries are computed here from their inputs, three passes over the
//! keys and nothing kept but the result. They are rare; nothing here is fast.

use half::bf16;

use super::{Attention, Operand, Precision, Source};

/// Largest scores, in units of log2, up to which the blocks are exact within their tolerance: half
/// a unit in the last place of it is 1/256.
const FARTHEST: f32 = (1 << 16) as f32;

/// Whether a query whose largest score came out as `largest` has to be computed here.
pub(super) fn is_needed(largest: f32) -> bool {
    largest.is_nan() || largest.abs() >= FARTHEST
}

/// One query of one head.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    /// Inputs.
    pub(super) call: &'a Attention<'a>,
    /// Which batch.
    pub(super) batch: usize,
    /// Which head.
    pub(super) head: usize,
    /// Which query.
    pub(super) query: usize,
    /// Keys it meets.
    pub(super) keys: usize,
}

impl Query<'_> {
    fn value(&self, operand: &Operand<'_>, row: usize, d: usize) -> f32 {
        let channel = self.head * self.call.shape.head_dim + d;
        let at = self.batch * operand.batch_stride + row * operand.row_stride + channel;
        match operand.data {
            Source::Bf16(data) => data[at].to_f32(),
            Source::F32(data) if self.call.precision == Precision::Bf16 => {
                bf16::from_f32(data[at]).to_f32()
            }
            Source::F32(data) => data[at],
        }
    }

    fn score(&self, key: usize) -> f32 {
        let Attention { shape, scale, last, relative_bias, .. } = self.call;
        let product = |d| {
            let query = f64::from(self.value(&self.call.query, self.query, d));
            query * f64::from(self.value(&self.call.key, key, d))
        };
        let score = (0..shape.head_dim).map(product).sum::<f64>() as f32 * scale;
        let span = shape.queries + shape.keys - 1;
        let bias = |bias: &[f32]| bias[self.head * span + key + shape.queries - 1 - self.query];
        let counts = if key + 1 == self.keys { (*last as f64).ln() as f32 } else { 0.0 };
        score + relative_bias.map_or(0.0, bias) + counts
    }

    /// Writes the result, channel `d` to `lane[d · stride]`, and gives the logarithm of the sum of
    /// e^score.
    ///
    /// # Safety
    /// Those places are writable and belong to the caller alone.
    pub(super) unsafe fn answer(&self, lane: *mut f32, stride: usize) -> f32 {
        let width = self.call.shape.head_dim;
        // SAFETY: the caller's promise; d is below the width.
        let place = |d: usize| unsafe { &mut *lane.add(d * stride) };
        (0..width).for_each(|d| *place(d) = 0.0);
        let mut largest = f32::NEG_INFINITY;
        for key in 0..self.keys {
            let score = self.score(key);
            if score > largest || score.is_nan() {
                largest = score;
            }
            if largest.is_nan() {
                (0..width).for_each(|d| *place(d) = f32::NAN);
                return f32::NAN;
            }
        }
        let base = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
        let power = |key| f64::from(self.score(key) - base).exp() as f32;
        let total = (0..self.keys).map(|key| f64::from(power(key))).sum::<f64>() as f32;
        // Below 1 only where every key is masked; a NaN stays.
        let total = if total < 1.0 { 1.0 } else { total };
        for key in 0..self.keys {
            let share = power(key) / total;
            (0..width).for_each(|d| *place(d) += share * self.value(&self.call.value, key, d));
        }
        // −∞ where every key is masked, and the total 1.
        (f64::from(largest) + f64::from(total).ln()) as f32
    }
}
