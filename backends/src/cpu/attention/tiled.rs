//! The products of attention and of its derivative by tiles; what lies between them is that of pairs.
//!
//! Contract: blocks lie as for pairs, words of two successive bf16, with two differences: rows are
//! filled up to sixteen, and what is multiplied over keys lies by channel, its pairs of keys side by
//! side, since a tile takes rows. Words behind the last pair need not be zero: lines that meet
//! them are made so here.

use std::marker::PhantomData;

use super::products::{Pairs, Products, Running};
use crate::cpu::amx::{Side, Sums, TileOps, multiply};
use crate::cpu::math::{LANES, Lanes};

/// Products of pairs by tiles.
pub(super) struct Tiled<T>(PhantomData<T>);

/// Bytes of a word.
const WORD: usize = 4;

/// sums[row] (+)= Σ_step a[row][step] · b[step], words of pairs: `a` and `b` in rows of so many words,
/// rows a multiple of sixteen, `columns` registers of sums.
///
/// # Safety
/// The rows are there, those of `a` and the lines of `b` up to a multiple of sixteen words or lines, of
/// which the last may be written; the tiles of this thread are configured.
#[inline(always)]
unsafe fn add<T: TileOps>(
    (a, a_row): (*const f32, usize),
    (b, b_row): (*mut f32, usize),
    steps: usize,
    (rows, columns): (usize, usize),
    (sums, sums_row): (*mut f32, usize),
    older: bool,
) {
    let whole = steps.next_multiple_of(LANES);
    // SAFETY: the caller's promise.
    unsafe {
        for line in steps..whole {
            b.add(line * b_row).write_bytes(0, columns * LANES);
        }
        let a = Side {
            at: a.cast(),
            pitch: a_row * WORD,
            step: LANES * WORD,
            across: LANES * a_row * WORD,
        };
        let b = Side {
            at: b.cast_const().cast(),
            pitch: b_row * WORD,
            step: LANES * b_row * WORD,
            across: LANES * WORD,
        };
        let sums = Sums { at: sums, pitch: sums_row * WORD };
        multiply::<T>(whole / LANES, a, b, (rows / LANES, columns), sums, !older);
    }
}

impl<T: TileOps> Products for Tiled<T> {
    type V = <Pairs as Products>::V;
    type Words = <Pairs as Products>::Words;
    const PAIRED: bool = true;
    const TILED: bool = true;
    #[inline(always)]
    unsafe fn words(at: *const f32) -> Self::Words {
        // SAFETY: the caller's promise.
        unsafe { Pairs::words(at) }
    }
    #[inline(always)]
    unsafe fn repeat(at: *const f32) -> Self::Words {
        // SAFETY: the caller's promise.
        unsafe { Pairs::repeat(at) }
    }
    #[inline(always)]
    fn accumulate(sum: Self::V, a: Self::Words, b: Self::Words) -> Self::V {
        Pairs::accumulate(sum, a, b)
    }
    #[inline(always)]
    unsafe fn store_pair(first: Self::V, second: Self::V, at: *mut f32, width: usize) {
        // SAFETY: the caller's promise.
        unsafe { Pairs::store_pair(first, second, at, width) }
    }
    #[inline(always)]
    unsafe fn store_row<const C: usize>(row: [Self::V; C], at: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { Pairs::store_row(row, at) }
    }

    #[inline(always)]
    unsafe fn score<const R: usize, const C: usize>(
        queries: *const f32,
        keys: *const f32,
        stride: usize,
        depth: usize,
        count: usize,
        scores: *mut f32,
    ) {
        let width = C * LANES;
        // SAFETY: the caller's promise; the depth is a multiple of sixteen, so no line is written.
        unsafe {
            let queries = queries.cast_mut();
            let (keys, queries) = ((keys, stride), (queries, width));
            add::<T>(keys, queries, depth, (count, C), (scores, width), false);
        }
    }

    #[inline(always)]
    unsafe fn mix<const R: usize, const C: usize>(
        weights: *mut f32,
        values: *const f32,
        stride: usize,
        steps: usize,
        dims: usize,
        output: *mut f32,
        running: Running,
        older: bool,
    ) {
        let width = C * LANES;
        // SAFETY: the caller's promise.
        unsafe {
            let shrink = running.at.add(2 * width);
            let grown = (0..width).any(|query| *shrink.add(query) != 1.0);
            for d in (0..dims).filter(|_| older && grown) {
                for c in 0..C {
                    let at = output.add(d * width + c * LANES);
                    let shrink = Self::V::load(shrink.add(c * LANES));
                    Self::V::load(at).mul(shrink).store(at);
                }
            }
            let (values, weights) = ((values, stride), (weights, width));
            add::<T>(values, weights, steps, (dims, C), (output, width), older);
        }
    }

    #[inline(always)]
    unsafe fn add<const R: usize, const C: usize>(
        factors: (*const f32, [usize; 2]),
        lines: (*mut f32, usize),
        steps: usize,
        rows: usize,
        sums: (*mut f32, usize),
        older: bool,
    ) {
        let (at, [row, step]) = factors;
        debug_assert_eq!(step, 1, "words of a row lie side by side");
        // SAFETY: the caller's promise.
        unsafe { add::<T>((at, row), lines, steps, (rows, C), sums, older) }
    }
}
