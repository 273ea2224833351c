//! Layer norm, RMS norms, modulation, gated sums and rotary positions over rows.
//!
//! Contract: statistics and arithmetic in `f32`; variance as the mean of squared deviations. The
//! formulas are those of the DiT (§3.4, §4), the text encoder (§2) and the VAE (§3).

use super::super::math::lanes::{get, put};
use super::super::math::{Element, LANES, Lanes, silu, vectorised};
use super::super::simd::Level;
use super::super::threads::Pool;
use super::{Rows, RowsMut, each_block};

/// A table [groups, width] of `f32` rows, `stride` elements apart.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// The rows.
    pub data: &'a [f32],
    /// From one row to the next.
    pub stride: usize,
}

impl<'a> Table<'a> {
    #[inline(always)]
    fn row(&self, group: i32, width: usize) -> &'a [f32] {
        &self.data[group as usize * self.stride..][..width]
    }

    fn check(&self, segments: &[i32], rows: usize, width: usize) {
        assert_eq!(segments.len(), rows, "one segment per row");
        for &group in segments {
            let end = usize::try_from(group).ok().map(|group| group * self.stride + width);
            assert!(end.is_some_and(|end| end <= self.data.len()), "segment {group} is no group");
        }
    }
}

/// `y = n·(1 + scale[segment]) + shift[segment]`.
#[derive(Clone, Copy, Debug)]
pub struct Modulation<'a> {
    /// Scales, less 1.
    pub scale: Table<'a>,
    /// Shifts.
    pub shift: Table<'a>,
    /// Group of every row.
    pub segments: &'a [i32],
}

/// Parameters of [`layer_norm`].
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// Added to the variance.
    pub eps: f32,
    /// Factor per channel.
    pub weight: Option<&'a [f32]>,
    /// Summand per channel.
    pub bias: Option<&'a [f32]>,
    /// Modulation after that.
    pub modulation: Option<Modulation<'a>>,
}

/// Σ x over a row in the fixed association.
#[inline(always)]
pub(super) fn row_sum<V: Lanes, I: Element>(x: &[I]) -> f32 {
    let mut sums = [V::splat(0.0); 4];
    for at in (0..x.len()).step_by(4 * LANES) {
        for part in 0..4 {
            sums[part] = sums[part].add(get(x, at + part * LANES));
        }
    }
    sums[0].add(sums[2]).add(sums[1].add(sums[3])).sum()
}

/// Σ x² over a row.
#[inline(always)]
fn row_squares<V: Lanes, I: Element>(x: &[I]) -> f32 {
    let mut sums = [V::splat(0.0); 4];
    for at in (0..x.len()).step_by(4 * LANES) {
        for part in 0..4 {
            let value = get::<V, I>(x, at + part * LANES);
            sums[part] = value.fma(value, sums[part]);
        }
    }
    sums[0].add(sums[2]).add(sums[1].add(sums[3])).sum()
}

/// Σ (x − mean)² over a row; lanes past its end count nothing.
#[inline(always)]
fn row_deviations<V: Lanes, I: Element>(x: &[I], mean: f32) -> f32 {
    let centre = V::splat(mean);
    let mut sums = [V::splat(0.0); 4];
    for at in (0..x.len()).step_by(4 * LANES) {
        for part in 0..4 {
            let at = at + part * LANES;
            if at < x.len() {
                let mut off = get::<V, I>(x, at).sub(centre);
                if at + LANES > x.len() {
                    let mut lanes = off.array();
                    lanes[x.len() - at..].fill(0.0);
                    off = get(&lanes, 0);
                }
                sums[part] = off.fma(off, sums[part]);
            }
        }
    }
    sums[0].add(sums[2]).add(sums[1].add(sums[3])).sum()
}

vectorised! {
    fn layer_norm_rows<V, I: Element, O: Element>(
        x: Rows<'_, I>, first: usize, norm: &LayerNorm<'_>, y: &mut RowsMut<'_, O>
    ) {
        let width = x.width;
        for index in 0..y.rows {
            let row = x.row(first + index);
            let mean = row_sum::<V, I>(row) / width as f32;
            let variance = row_deviations::<V, I>(row, mean) / width as f32;
            let rate = V::splat(1.0 / (variance + norm.eps).sqrt());
            let centre = V::splat(mean);
            let modulation = norm.modulation.map(|modulation| {
                let group = modulation.segments[first + index];
                (modulation.scale.row(group, width), modulation.shift.row(group, width))
            });
            let out = y.row(index);
            for at in (0..width).step_by(LANES) {
                let mut value = get::<V, I>(row, at).sub(centre).mul(rate);
                match (norm.weight, norm.bias) {
                    (Some(weight), Some(bias)) => value = value.fma(get(weight, at), get(bias, at)),
                    (Some(weight), None) => value = value.mul(get(weight, at)),
                    (None, Some(bias)) => value = value.add(get(bias, at)),
                    (None, None) => {}
                }
                if let Some((scale, shift)) = modulation {
                    value = modulated(value, get(scale, at), get(shift, at));
                }
                put(out, at, value);
            }
        }
    }
}

#[inline(always)]
fn modulated<V: Lanes>(value: V, scale: V, shift: V) -> V {
    value.fma(scale.add(V::splat(1.0)), shift)
}

fn check_shapes<I, O>(x: &Rows<'_, I>, y: &RowsMut<'_, O>) {
    assert_eq!((x.rows, x.width), (y.rows, y.width), "input and output have one shape");
}

fn check_vector(vector: Option<&[f32]>, width: usize) {
    assert!(vector.is_none_or(|vector| vector.len() == width), "one parameter per channel");
}

fn check_modulation(modulation: &Modulation<'_>, rows: usize, width: usize) {
    modulation.scale.check(modulation.segments, rows, width);
    modulation.shift.check(modulation.segments, rows, width);
}

/// y = (x − mean)/√(variance + eps)·weight + bias over every row, then the modulation, if any.
///
/// # Panics
/// When shapes differ, or a segment names no group.
pub fn layer_norm<I: Element, O: Element>(
    pool: &Pool,
    level: Level,
    x: Rows<'_, I>,
    norm: &LayerNorm<'_>,
    y: RowsMut<'_, O>,
) {
    check_shapes(&x, &y);
    check_vector(norm.weight, x.width);
    check_vector(norm.bias, x.width);
    if let Some(modulation) = &norm.modulation {
        check_modulation(modulation, x.rows, x.width);
    }
    each_block(pool, y, &|first, mut y| layer_norm_rows(level, x, first, norm, &mut y));
}

vectorised! {
    fn modulate_rows<V, I: Element, O: Element>(
        x: Rows<'_, I>, first: usize, modulation: &Modulation<'_>, y: &mut RowsMut<'_, O>
    ) {
        for index in 0..y.rows {
            let group = modulation.segments[first + index];
            let scale = modulation.scale.row(group, x.width);
            let shift = modulation.shift.row(group, x.width);
            let (row, out) = (x.row(first + index), y.row(index));
            for at in (0..row.len()).step_by(LANES) {
                put(out, at, modulated::<V>(get(row, at), get(scale, at), get(shift, at)));
            }
        }
    }
}

/// `y = x·(1 + scale[segment]) + shift[segment]`.
///
/// # Panics
/// When shapes differ, or a segment names no group.
pub fn modulate<I: Element, O: Element>(
    pool: &Pool,
    level: Level,
    x: Rows<'_, I>,
    modulation: &Modulation<'_>,
    y: RowsMut<'_, O>,
) {
    check_shapes(&x, &y);
    check_modulation(modulation, x.rows, x.width);
    each_block(pool, y, &|first, mut y| modulate_rows(level, x, first, modulation, &mut y));
}

vectorised! {
    fn gate_add_rows<V, I: Element, B: Element, O: Element>(
        x: Option<Rows<'_, I>>, branch: Rows<'_, B>, first: usize, gate: Table<'_>,
        segments: &[i32], y: &mut RowsMut<'_, O>
    ) {
        for index in 0..y.rows {
            let gate = gate.row(segments[first + index], branch.width);
            let (add, out) = (branch.row(first + index), y.row(index));
            let row = x.map(|x| x.row(first + index));
            for at in (0..add.len()).step_by(LANES) {
                let old: V = match row {
                    Some(row) => get(row, at),
                    None => get(out, at),
                };
                put(out, at, get::<V, B>(add, at).fma(get(gate, at), old));
            }
        }
    }
}

/// `y = x + branch·gate[segment]`.
///
/// # Panics
/// When shapes differ, or a segment names no group.
pub fn gate_add<I: Element, B: Element, O: Element>(
    pool: &Pool,
    level: Level,
    x: Rows<'_, I>,
    branch: Rows<'_, B>,
    gate: Table<'_>,
    segments: &[i32],
    y: RowsMut<'_, O>,
) {
    check_shapes(&x, &y);
    check_shapes(&branch, &y);
    gate.check(segments, y.rows, y.width);
    each_block(pool, y, &|first, mut y| {
        gate_add_rows(level, Some(x), branch, first, gate, segments, &mut y);
    });
}

/// `x += branch·gate[segment]`.
///
/// # Panics
/// When shapes differ, or a segment names no group.
pub fn gate_add_in_place<B: Element, O: Element>(
    pool: &Pool,
    level: Level,
    x: RowsMut<'_, O>,
    branch: Rows<'_, B>,
    gate: Table<'_>,
    segments: &[i32],
) {
    check_shapes(&branch, &x);
    gate.check(segments, x.rows, x.width);
    each_block(pool, x, &|first, mut x| {
        gate_add_rows(level, None::<Rows<'_, O>>, branch, first, gate, segments, &mut x);
    });
}

/// What [`rms_norm`] divides by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RmsForm {
    /// √(mean x² + eps): the DiT and the text encoder.
    Mean {
        /// Added to the mean square.
        eps: f32,
    },
    /// max(‖x‖₂, eps)/√width: the VAE.
    Clamped {
        /// Smallest norm.
        eps: f32,
    },
}

/// Rotary positions: interleaved pairs of channels of every head turned by a row's angles.
#[derive(Clone, Copy, Debug)]
pub struct Rope<'a> {
    /// Channels of a head, even.
    pub head_dim: usize,
    /// (cos, sin) of every row and pair, [rows, head_dim/2, 2].
    pub table: &'a [f32],
}

impl<'a> Rope<'a> {
    fn check(&self, rows: usize, width: usize) {
        assert!(self.head_dim.is_multiple_of(2) && self.head_dim > 0, "pairs of channels");
        assert_eq!(width % self.head_dim, 0, "whole heads");
        assert_eq!(self.table.len(), rows * self.head_dim, "one angle per row and pair");
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        &self.table[row * self.head_dim..][..self.head_dim]
    }
}

/// (a, b) → (a·cos − b·sin, b·cos + a·sin) on interleaved pairs.
#[inline(always)]
fn turned<V: Lanes>(value: V, angles: V) -> V {
    let across = value.swap_pairs().mul(angles.odd().neg_even());
    value.fma(angles.even(), across)
}

/// Parameters of [`rms_norm`].
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// Divisor.
    pub form: RmsForm,
    /// Factor per channel.
    pub gain: &'a [f32],
    /// Round to bf16 before the gain, as the references with bf16 weights do.
    pub round_bf16: bool,
    /// x·σ(x) after the gain.
    pub silu: bool,
    /// Rotary positions at the end.
    pub rope: Option<Rope<'a>>,
}

vectorised! {
    fn rms_norm_rows<V, I: Element, O: Element>(
        x: Rows<'_, I>, first: usize, norm: &RmsNorm<'_>, y: &mut RowsMut<'_, O>
    ) {
        let width = x.width;
        let head = norm.rope.map_or(width, |rope| rope.head_dim);
        for index in 0..y.rows {
            let row = x.row(first + index);
            let squares = row_squares::<V, I>(row);
            let rate = match norm.form {
                RmsForm::Mean { eps } => 1.0 / (squares / width as f32 + eps).sqrt(),
                RmsForm::Clamped { eps } => {
                    let norm = squares.sqrt();
                    // Not `max`, which would lose a NaN.
                    (width as f32).sqrt() / if norm < eps { eps } else { norm }
                }
            };
            let rate = V::splat(rate);
            let angles = norm.rope.map(|rope| rope.row(first + index));
            let out = y.row(index);
            for start in (0..width).step_by(head) {
                let gain = &norm.gain[start..start + head];
                let (row, out) = (&row[start..start + head], &mut out[start..start + head]);
                for at in (0..head).step_by(LANES) {
                    let mut value = get::<V, I>(row, at).mul(rate);
                    if norm.round_bf16 {
                        value = value.round_bf16();
                    }
                    value = value.mul(get(gain, at));
                    if norm.silu {
                        value = silu(value);
                    }
                    if let Some(angles) = angles {
                        value = turned(value, get(angles, at));
                    }
                    put(out, at, value);
                }
            }
        }
    }
}

/// y = x / divisor · gain over every row, then SiLU and rotary positions where asked for.
///
/// # Panics
/// When shapes differ.
pub fn rms_norm<I: Element, O: Element>(
    pool: &Pool,
    level: Level,
    x: Rows<'_, I>,
    norm: &RmsNorm<'_>,
    y: RowsMut<'_, O>,
) {
    check_shapes(&x, &y);
    check_vector(Some(norm.gain), x.width);
    if let Some(rope) = &norm.rope {
        rope.check(x.rows, x.width);
    }
    each_block(pool, y, &|first, mut y| rms_norm_rows(level, x, first, norm, &mut y));
}

vectorised! {
    fn rope_rows<V, I: Element, O: Element>(
        x: Rows<'_, I>, first: usize, rope: &Rope<'_>, y: &mut RowsMut<'_, O>
    ) {
        for index in 0..y.rows {
            let angles = rope.row(first + index);
            let heads = x.row(first + index).chunks_exact(rope.head_dim);
            for (row, out) in heads.zip(y.row(index).chunks_exact_mut(rope.head_dim)) {
                for at in (0..row.len()).step_by(LANES) {
                    put(out, at, turned::<V>(get(row, at), get(angles, at)));
                }
            }
        }
    }
}

/// Turns the pairs of channels of every head by the angles of the row.
///
/// # Panics
/// When shapes differ, or the head size is odd or no divisor of the width.
pub fn rope<I: Element, O: Element>(
    pool: &Pool,
    level: Level,
    x: Rows<'_, I>,
    rope: &Rope<'_>,
    y: RowsMut<'_, O>,
) {
    check_shapes(&x, &y);
    rope.check(x.rows, x.width);
    each_block(pool, y, &|first, mut y| rope_rows(level, x, first, rope, &mut y));
}

#[cfg(test)]
mod tests;
