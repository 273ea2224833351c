//! The step between products of attention's derivative.

use super::super::products::{Products, power};
use crate::cpu::math::{LANES, Lanes};

/// What makes weights of a tile's scores.
#[derive(Clone, Copy)]
pub(super) struct Weighing {
    /// Factor of a score, in units of log2; with a bias that of the biased score.
    pub(super) factor: f32,
    /// The scale before the bias is added, and the bias of the tile's first query and the block's first
    /// key; that of a later query stands after it, that of a later key before it. Null without.
    pub(super) scale: f32,
    pub(super) bias: *const f32,
    /// Where the cotangents of the bias are added up, in the same order.
    pub(super) bias_sums: *mut f32,
    /// What is added to a query's scores, and taken from its weights' cotangents.
    pub(super) base: *const f32,
    pub(super) own: *const f32,
    /// Whether words are rounded to bf16.
    pub(super) round: bool,
}

/// Turns `count` rows of scores into weights 2^(factor·score + base), and those of the weights'
/// cotangents into the scores', weight · (cotangent − own), both in the words of products over queries.
/// For products of pairs the latter are stored as pairs of keys as well.
///
/// # Safety
/// `scores` and `slopes` hold `[count][16C]`, `pairs` half of that if products are of pairs; the bias and
/// its sums, if any, reach `count` places back and `16C` forward.
#[inline(always)]
pub(super) unsafe fn weigh<P: Products, const C: usize>(
    scores: *mut f32,
    slopes: *mut f32,
    pairs: *mut f32,
    count: usize,
    weighing: &Weighing,
) {
    let width = C * LANES;
    let factor = P::V::splat(weighing.factor);
    let rough = P::PAIRED || weighing.round;
    // SAFETY: every pointer stays inside the blocks that the caller promised.
    unsafe {
        let (mut base, mut own) = ([P::V::splat(0.0); C], [P::V::splat(0.0); C]);
        for c in 0..C {
            base[c] = P::V::load(weighing.base.add(c * LANES));
            own[c] = P::V::load(weighing.own.add(c * LANES));
        }
        for first in (0..count).step_by(2) {
            let mut both = [[P::V::splat(0.0); C]; 2];
            for (key, made) in (first..count).zip(&mut both) {
                let mut weights = [P::V::splat(0.0); C];
                for c in 0..C {
                    let at = key * width + c * LANES;
                    let mut score = P::V::load(scores.add(at));
                    if !weighing.bias.is_null() {
                        let bias = P::V::load(weighing.bias.sub(key).add(c * LANES));
                        score = score.fma(P::V::splat(weighing.scale), bias);
                    }
                    let weight = power(score.fma(factor, base[c]), rough);
                    let slope = weight.mul(P::V::load(slopes.add(at)).sub(own[c]));
                    if !weighing.bias_sums.is_null() {
                        let sum = weighing.bias_sums.sub(key).add(c * LANES);
                        P::V::load(sum).add(slope).store(sum);
                    }
                    (weights[c], made[c]) = match weighing.round && !P::PAIRED {
                        true => (weight.round_bf16(), slope.round_bf16()),
                        false => (weight, slope),
                    };
                }
                P::store_row(weights, scores.add(key * width));
                P::store_row(*made, slopes.add(key * width));
            }
            if P::PAIRED {
                let [first_key, second_key] = both;
                for c in 0..C {
                    let at = pairs.add(first / 2 * width + c * LANES);
                    P::store_pair(first_key[c], second_key[c], at, width);
                }
            }
        }
    }
}
