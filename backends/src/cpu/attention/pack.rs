//! Moves of attention: queries, keys and values of one head into the words and strides of the
//! products, and the finished block back into rows.
//!
//! Contract: positions past the end of a row, a tile or a block are filled with zeros, so that
//! padded products add nothing. bf16 words hold two successive head dimensions (queries, keys) or
//! two successive keys (values), the first in the lower half.

use bytemuck::cast_slice;
use half::bf16;

use super::Source;
use super::products::Products;
use crate::cpu::math::lanes::{get, put};
use crate::cpu::math::{Element, LANES, Lanes};

/// Sixteen words of a row from word `at` on.
#[inline(always)]
fn words<P: Products, E: Element>(row: &[E], at: usize, round: bool) -> P::V {
    if !P::PAIRED {
        let value = get::<P::V, E>(row, at);
        return if round { value.round_bf16() } else { value };
    }
    if size_of::<E>() == 2 && 2 * (at + LANES) <= row.len() {
        // SAFETY: 32 elements of two bytes lie there; only their bits are moved.
        return unsafe { P::V::load(row.as_ptr().add(2 * at).cast()) };
    }
    let mut pairs = [bf16::ZERO; 2 * LANES];
    if size_of::<E>() == 2 {
        let from = (2 * at).min(row.len());
        let count = (row.len() - from).min(2 * LANES);
        pairs[..count].copy_from_slice(cast_slice(&row[from..from + count]));
    } else {
        put(&mut pairs[..LANES], 0, get::<P::V, E>(row, 2 * at));
        put(&mut pairs[LANES..], 0, get::<P::V, E>(row, 2 * at + LANES));
    }
    // SAFETY: 32 bf16 values are sixteen words; only their bits are moved.
    unsafe { P::V::load(pairs.as_ptr().cast()) }
}

/// Rows of one head inside an operand.
#[derive(Clone, Copy)]
pub(super) struct HeadRows<'a> {
    /// The operand.
    pub(super) source: Source<'a>,
    /// Element of the first row's first channel.
    pub(super) offset: usize,
    /// From one row to the next.
    pub(super) stride: usize,
    /// Channels of the head.
    pub(super) width: usize,
    /// Rows.
    pub(super) count: usize,
    /// Whether single words are rounded to bf16.
    pub(super) round: bool,
}

impl HeadRows<'_> {
    /// Sixteen elements of a row from `at` on, widened; zeros behind its end.
    #[inline(always)]
    pub(super) fn lanes<V: Lanes>(&self, row: usize, at: usize) -> V {
        let range = self.offset + row * self.stride..self.offset + row * self.stride + self.width;
        match self.source {
            Source::F32(data) => get(&data[range], at),
            Source::Bf16(data) => get(&data[range], at),
        }
    }
}

#[derive(Clone, Copy)]
struct Typed<'a, E> {
    data: &'a [E],
    rows: HeadRows<'a>,
}

impl<'a, E> Typed<'a, E> {
    #[inline(always)]
    fn row(&self, row: usize) -> &'a [E] {
        &self.data[self.rows.offset + row * self.rows.stride..][..self.rows.width]
    }
}

macro_rules! typed {
    ($(#[$note:meta])* $name:ident => $typed:ident($($arg:ident: $type:ty),*)) => {
        $(#[$note])*
        #[inline(always)]
        pub(super) unsafe fn $name<P: Products>(rows: HeadRows<'_>, $($arg: $type),*) {
            // SAFETY: the caller's promise.
            unsafe {
                match rows.source {
                    Source::F32(data) => $typed::<P, f32>(Typed { data, rows }, $($arg),*),
                    Source::Bf16(data) => $typed::<P, bf16>(Typed { data, rows }, $($arg),*),
                }
            }
        }
    };
}

typed! {
    /// Tiles of queries, `target[tile][depth][lanes]`: 16·`columns` lanes, in the last tile as many
    /// sixteens as there are queries left; lanes without a query are zero.
    ///
    /// # Safety
    /// `target` has room for `depth` words for every query, their number filled up to sixteens.
    queries => typed_queries(depth: usize, columns: usize, target: *mut f32)
}

#[inline(always)]
unsafe fn typed_queries<P: Products, E: Element>(
    source: Typed<'_, E>,
    depth: usize,
    columns: usize,
    target: *mut f32,
) {
    let HeadRows { count, round, .. } = source.rows;
    for tile in (0..count).step_by(columns * LANES) {
        let sixteens = columns.min((count - tile).div_ceil(LANES));
        for sixteen in 0..sixteens {
            let first = tile + sixteen * LANES;
            for d in (0..depth).step_by(LANES) {
                let mut block = [P::V::splat(0.0); LANES];
                for (query, lane) in (first..count).zip(&mut block) {
                    *lane = words::<P, E>(source.row(query), d, round);
                }
                P::V::transpose(&mut block);
                for (row, lane) in (d..depth).zip(block) {
                    let at = tile * depth + row * sixteens * LANES + sixteen * LANES;
                    // SAFETY: inside this tile's part of the target.
                    unsafe { lane.store(target.add(at)) };
                }
            }
        }
    }
}

typed! {
    /// Rows of keys, or of values where words are single: `target[row][stride]`, with zeros in rows
    /// up to `padded` and behind every row up to `filled` words.
    ///
    /// # Safety
    /// `target` has room for `[padded][stride]` words; `filled` is a multiple of 16, at most the
    /// stride.
    rows => typed_rows(padded: usize, filled: usize, stride: usize, target: *mut f32)
}

#[inline(always)]
unsafe fn typed_rows<P: Products, E: Element>(
    source: Typed<'_, E>,
    padded: usize,
    filled: usize,
    stride: usize,
    target: *mut f32,
) {
    let HeadRows { count, round, .. } = source.rows;
    for row in 0..padded {
        let from = if row < count { source.row(row) } else { &[] };
        for at in (0..filled).step_by(LANES) {
            // SAFETY: filled is a multiple of 16 and at most the stride.
            unsafe { words::<P, E>(from, at, round).store(target.add(row * stride + at)) };
        }
    }
}

typed! {
    /// Pairs of rows of values: `target[pair][stride]`, word d = (row 2·pair, row 2·pair + 1) at d,
    /// and zeros up to `filled` words.
    ///
    /// # Safety
    /// `target` has room for `[ceil(count/2)][stride]` words; width ≤ `filled` ≤ `stride`.
    paired_rows => typed_paired_rows(filled: usize, stride: usize, target: *mut f32)
}

#[inline(always)]
unsafe fn typed_paired_rows<P: Products, E: Element>(
    source: Typed<'_, E>,
    filled: usize,
    stride: usize,
    target: *mut f32,
) {
    let HeadRows { count, width, .. } = source.rows;
    for pair in 0..count.div_ceil(2) {
        // SAFETY: the row of words lies inside the target, which is initialised memory.
        let to = unsafe {
            std::slice::from_raw_parts_mut(target.add(pair * stride).cast::<u32>(), filled)
        };
        let (to, rest) = to.split_at_mut(width);
        rest.fill(0);
        let first = source.row(2 * pair);
        if 2 * pair + 1 == count {
            for (word, &low) in to.iter_mut().zip(first) {
                *word = u32::from(bits(low));
            }
            continue;
        }
        let second = source.row(2 * pair + 1);
        for ((word, &low), &high) in to.iter_mut().zip(first).zip(second) {
            *word = u32::from(bits(low)) | u32::from(bits(high)) << 16;
        }
    }
}

/// Rows of keys or values by channel: `target[channel][stride]`, pairs of rows side by side, and zeros
/// up to sixteen pairs and `dims` channels, a multiple of sixteen.
///
/// # Safety
/// `target` has room for `[dims][stride]` words, `through` for `[16][dims]`.
#[inline(always)]
pub(super) unsafe fn by_channel<P: Products>(
    rows: HeadRows<'_>,
    dims: usize,
    stride: usize,
    through: *mut f32,
    target: *mut f32,
) {
    for first in (0..rows.count).step_by(2 * LANES) {
        let count = (rows.count - first).min(2 * LANES);
        let some = HeadRows { offset: rows.offset + first * rows.stride, count, ..rows };
        // SAFETY: the caller's promise.
        unsafe {
            paired_rows::<P>(some, dims, dims, through);
            for d in (0..dims).step_by(LANES) {
                let mut block = [P::V::splat(0.0); LANES];
                for (pair, lane) in (0..count.div_ceil(2)).zip(&mut block) {
                    *lane = P::V::load(through.add(pair * dims + d));
                }
                P::V::transpose(&mut block);
                for (channel, lane) in (d..).zip(block) {
                    lane.store(target.add(channel * stride + first / 2));
                }
            }
        }
    }
}

#[inline(always)]
fn bits<E: Element>(value: E) -> u16 {
    if size_of::<E>() == 2 {
        bytemuck::cast::<E, u16>(value)
    } else {
        bf16::from_f32(value.to_f32()).to_bits()
    }
}

/// Writes a finished tile `[dims][16·sixteens]` as rows: out[query] = tile[·][query] · share[query].
///
/// # Safety
/// `tile` and `share` are readable as said; rows `0..count` of `width` elements, `row_stride` apart,
/// are writable from `target` on and belong to the caller alone.
#[inline(always)]
pub(super) unsafe fn finish<V: Lanes, E: Element>(
    tile: *const f32,
    share: *const f32,
    sixteens: usize,
    width: usize,
    count: usize,
    target: *mut E,
    row_stride: usize,
) {
    for sixteen in 0..sixteens {
        let first = sixteen * LANES;
        // SAFETY: every access lies inside the blocks of the caller's promise.
        unsafe {
            let share = V::load(share.add(first));
            for d in (0..width).step_by(LANES) {
                let mut block = [V::splat(0.0); LANES];
                for (row, lane) in (d..width).zip(&mut block) {
                    *lane = V::load(tile.add((row * sixteens + sixteen) * LANES)).mul(share);
                }
                V::transpose(&mut block);
                for (query, lane) in (first..count).zip(block) {
                    let row = target.add(query * row_stride);
                    put(std::slice::from_raw_parts_mut(row, width), d, lane);
                }
            }
        }
    }
}
