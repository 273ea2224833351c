//! Bringing rows of A into the form a micro-kernel reads: converted and laid side by side.
//!
//! The block of A that a task works on is copied into its scratch row by row, without
//! transposition: conversion is then one linear pass, and any gather of rows (the shifted pixels
//! of a convolution) is a matter of where each run is read.

use super::super::caches::{prefetch, prefetch_later};
use super::super::simd::Level;
use super::matrix::Dtype;
use super::micro::Words;
use half::bf16;
use std::ops::Range;

/// A borrowed slice of activations, in either type the kernels read.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

impl<'a> Slice<'a> {
    /// The elements from `first` on; none past the end.
    pub fn from(self, first: usize) -> Slice<'a> {
        match self {
            Slice::F32(data) => Slice::F32(&data[first.min(data.len())..]),
            Slice::Bf16(data) => Slice::Bf16(&data[first.min(data.len())..]),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Slice::F32(data) => data.len(),
            Slice::Bf16(data) => data.len(),
        }
    }

    /// The elements' bytes and type.
    pub(super) fn stored(self) -> (&'a [u8], Dtype) {
        match self {
            Slice::F32(data) => (bytemuck::cast_slice(data), Dtype::F32),
            Slice::Bf16(data) => (bytemuck::cast_slice(data), Dtype::Bf16),
        }
    }

    /// Hints that `count` elements from `from` will be read soon; out of range is no harm.
    #[inline]
    fn prefetch(&self, from: usize, count: usize) {
        match self {
            Slice::F32(data) => prefetch(data.as_ptr().wrapping_add(from).cast(), count * 4),
            Slice::Bf16(data) => prefetch(data.as_ptr().wrapping_add(from).cast(), count * 2),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The matrix A of a product: `M` rows of `K` elements, `stride` elements apart.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The elements.
    pub data: Slice<'a>,
    /// Elements from one row to the next, at least `K`.
    pub stride: usize,
}

/// A source of rows for the product's driver.
pub(crate) trait RowLoader: Sync {
    /// Writes elements `k` of `rows` in the form of `convert`, one row every `lda` words, and
    /// zeros behind them up to an even number of elements.
    ///
    /// # Safety
    /// `rows` and `k` lie inside the matrix, and `to` holds a row of the form for each of `rows`.
    unsafe fn load(
        &self,
        convert: Convert,
        rows: Range<usize>,
        k: Range<usize>,
        to: *mut u32,
        lda: usize,
    );

    /// Where the whole rows from `first` on lie in form `words`, one behind the other, so that nothing
    /// need be loaded. They are spread evenly over the sets of a cache then.
    fn in_place(&self, words: Words, first: usize, k: usize) -> Option<*const u32> {
        let _ = (words, first, k);
        None
    }

    /// Hints that these elements are loaded next, if it is worth it.
    fn ask(&self, rows: Range<usize>, k: Range<usize>) {
        let _ = (rows, k);
    }
}

impl RowLoader for Rows<'_> {
    unsafe fn load(
        &self,
        convert: Convert,
        rows: Range<usize>,
        k: Range<usize>,
        to: *mut u32,
        lda: usize,
    ) {
        for (index, row) in rows.enumerate() {
            self.data.prefetch((row + 4) * self.stride + k.start, k.len());
            // SAFETY: the caller vouches for the row of scratch; the source is bounds checked.
            unsafe {
                let out = to.add(index * lda);
                convert.run(self.data, row * self.stride + k.start, k.len(), out, 0);
                convert.pad(out, k.len());
            }
        }
    }

    fn in_place(&self, words: Words, first: usize, k: usize) -> Option<*const u32> {
        let (bytes, dtype) = self.data.stored();
        let same = match (words, dtype) {
            (Words::F32, Dtype::F32) => true,
            (Words::Pairs, Dtype::Bf16) => k.is_multiple_of(2),
            _ => false,
        };
        let from = bytes.as_ptr().wrapping_add(first * k * dtype.size()).cast::<u32>();
        (same && self.stride == k && from.is_aligned()).then_some(from)
    }

    fn ask(&self, rows: Range<usize>, k: Range<usize>) {
        let (bytes, dtype) = self.data.stored();
        for row in rows {
            let at = (row * self.stride + k.start) * dtype.size();
            prefetch_later(bytes.as_ptr().wrapping_add(at), k.len() * dtype.size());
        }
    }
}

/// Copies runs of elements into the words of a micro-kernel.
#[derive(Clone, Copy)]
pub(crate) struct Convert {
    pub(super) words: Words,
    pub(super) level: Level,
}

impl Convert {
    pub(crate) fn new(level: Level, words: Words) -> Convert {
        Convert { words, level }
    }

    /// Copies `count` elements of `source` from `from` to element `at` of the row at `row`.
    ///
    /// # Safety
    /// The row holds at least `at + count` elements in this form.
    pub(crate) unsafe fn run(
        self,
        source: Slice<'_>,
        from: usize,
        count: usize,
        row: *mut u32,
        at: usize,
    ) {
        // SAFETY: the destination is the caller's; the sources are sliced to `count`.
        unsafe {
            match (self.words, source) {
                (Words::F32, Slice::F32(data)) => {
                    let data = &data[from..from + count];
                    std::ptr::copy_nonoverlapping(data.as_ptr(), row.cast::<f32>().add(at), count);
                }
                (Words::Pairs, Slice::Bf16(data)) => {
                    let data = &data[from..from + count];
                    std::ptr::copy_nonoverlapping(data.as_ptr(), row.cast::<bf16>().add(at), count);
                }
                (Words::F32 | Words::Rounded, Slice::Bf16(data)) => {
                    let data = &data[from..from + count];
                    self.widen(data, row.cast::<f32>().add(at));
                }
                (Words::Rounded, Slice::F32(data)) => {
                    let data = &data[from..from + count];
                    self.round(data, row.cast::<f32>().add(at));
                }
                (Words::Pairs, Slice::F32(data)) => {
                    let data = &data[from..from + count];
                    self.narrow(data, row.cast::<u16>().add(at));
                }
            }
        }
    }

    /// Rounds words that are f32 to bf16.
    pub(super) fn round_words(self, words: &mut [u32]) {
        for word in words {
            *word = u32::from(narrow_one(f32::from_bits(*word))) << 16;
        }
    }

    /// Zeros `count` elements from element `at` of the row at `row`.
    ///
    /// # Safety
    /// The row holds at least `at + count` elements in this form.
    pub(crate) unsafe fn zeros(self, row: *mut u32, at: usize, count: usize) {
        // SAFETY: the destination is the caller's; all-zero bits are zero in each form.
        unsafe {
            match self.words {
                Words::F32 | Words::Rounded => row.add(at).write_bytes(0, count),
                Words::Pairs => row.cast::<u16>().add(at).write_bytes(0, count),
            }
        }
    }

    /// Zeros the element behind an odd number of them.
    ///
    /// # Safety
    /// The row holds `count` elements rounded up to even.
    pub(crate) unsafe fn pad(self, row: *mut u32, count: usize) {
        if count % 2 == 1 && self.words != Words::F32 {
            // SAFETY: as the caller vouches.
            unsafe { self.zeros(row, count, 1) };
        }
    }

    unsafe fn widen(self, from: &[bf16], to: *mut f32) {
        // SAFETY: `to` holds as many elements as `from`; the level was clamped to the machine's.
        unsafe {
            let to = std::slice::from_raw_parts_mut(to, from.len());
            match self.level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 | Level::Avx512Bf16 => x86::widen_512(from, to),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => x86::widen_256(from, to),
                _ => widen(from, to),
            }
        }
    }

    unsafe fn round(self, from: &[f32], to: *mut f32) {
        // SAFETY: as in `widen`.
        unsafe {
            let to = std::slice::from_raw_parts_mut(to, from.len());
            match self.level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 | Level::Avx512Bf16 => x86::round_512(from, to),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => x86::round_256(from, to),
                _ => round(from, to),
            }
        }
    }

    unsafe fn narrow(self, from: &[f32], to: *mut u16) {
        // SAFETY: as in `widen`.
        unsafe {
            match self.level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512Bf16 => x86::narrow_512(from, to),
                // Emulated tiles take pairs where vectors do not.
                _ => {
                    for (index, &value) in from.iter().enumerate() {
                        to.add(index).write(narrow_one(value));
                    }
                }
            }
        }
    }
}

/// The bits of the nearest bf16, ties to even; a NaN stays one.
#[inline(always)]
pub(crate) fn narrow_one(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if value.is_nan() { quiet } else { rounded }) as u16
}

#[inline(always)]
fn widen(from: &[bf16], to: &mut [f32]) {
    for (value, out) in from.iter().zip(to) {
        *out = f32::from_bits(u32::from(value.to_bits()) << 16);
    }
}

#[inline(always)]
fn round(from: &[f32], to: &mut [f32]) {
    for (value, out) in from.iter().zip(to) {
        *out = f32::from_bits(u32::from(narrow_one(*value)) << 16);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use half::bf16;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) fn widen_512(from: &[bf16], to: &mut [f32]) {
        super::widen(from, to);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn widen_256(from: &[bf16], to: &mut [f32]) {
        super::widen(from, to);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) fn round_512(from: &[f32], to: &mut [f32]) {
        super::round(from, to);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn round_256(from: &[f32], to: &mut [f32]) {
        super::round(from, to);
    }

    /// # Safety
    /// `to` holds as many elements as `from`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn narrow_512(from: &[f32], to: *mut u16) {
        let whole = from.len() / 32 * 32;
        // SAFETY: vectors cover `from[..whole]`, the masked rest `from[whole..]`, `to` alike.
        unsafe {
            for at in (0..whole).step_by(32) {
                let low = _mm512_loadu_ps(from.as_ptr().add(at));
                let high = _mm512_loadu_ps(from.as_ptr().add(at + 16));
                let both = _mm512_cvtne2ps_pbh(high, low);
                to.add(at).cast::<__m512bh>().write_unaligned(both);
            }
            for at in (whole..from.len()).step_by(16) {
                let count = (from.len() - at).min(16);
                let mask = (0xffffu32 >> (16 - count)) as u16;
                let value = _mm512_maskz_loadu_ps(mask, from.as_ptr().add(at));
                let half = _mm512_cvtneps_pbh(value);
                let half = std::mem::transmute::<__m256bh, __m256i>(half);
                _mm256_mask_storeu_epi16(to.add(at).cast(), mask, half);
            }
        }
    }
}
