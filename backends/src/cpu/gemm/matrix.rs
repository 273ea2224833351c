//! Stored weights: their types, their layouts, and reading runs of them as f32.
//!
//! Bytes may lie at any address, as in a file read into memory; elements are little endian.

use super::super::caches::prefetch;
use super::super::simd::Level;
use super::PanelKind;
use super::pack::STEP;
use super::rows::narrow_one;
use half::slice::HalfFloatSliceExt;
use std::ops::Range;

/// Elements of half precision that are decoded at once.
const RUN: usize = 64;

/// Element type of stored weights, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        if self == Dtype::F32 { 4 } else { 2 }
    }
}

/// A matrix W [N, K] in stored form, at any byte alignment.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// The stored elements.
    pub bytes: &'a [u8],
    /// Their type.
    pub dtype: Dtype,
    /// Elements from W[n, k] to W[n + 1, k].
    pub n_stride: usize,
    /// Elements from W[n, k] to W[n, k + 1].
    pub k_stride: usize,
}

impl<'a> Weights<'a> {
    /// W stored as [N, K], row after row (the layout of a linear layer's weight).
    pub fn row_major(bytes: &'a [u8], dtype: Dtype, k: usize) -> Weights<'a> {
        Weights { bytes, dtype, n_stride: k, k_stride: 1 }
    }

    /// W stored as its transpose [K, N] (for x · B with B as usual).
    pub fn transposed(bytes: &'a [u8], dtype: Dtype, n: usize) -> Weights<'a> {
        Weights { bytes, dtype, n_stride: 1, k_stride: n }
    }

    /// The matrix `page` of a batch of which this is the first, each of so many elements.
    pub(super) fn page(self, page: usize, elements: usize) -> Weights<'a> {
        Weights { bytes: &self.bytes[page * elements * self.dtype.size()..], ..self }
    }
}

/// Where packing takes its rows from.
pub(crate) trait WeightSource: Sync {
    /// Writes W[n, k] for all `k` of the range to `out`, as f32. The machine has `level`.
    fn fill(&self, level: Level, n: usize, k: Range<usize>, out: &mut [f32]);

    /// Writes W[n, k] for all `k` of the range, at most [`STEP`] words of them, to `out` as words of
    /// panels; words past the range are zero.
    fn words(&self, level: Level, kind: PanelKind, n: usize, k: Range<usize>, out: &mut [u32]) {
        let mut row = [0f32; 2 * STEP];
        let row = &mut row[..out.len() * kind.elements()];
        self.fill(level, n, k.clone(), &mut row[..k.len()]);
        as_words(level, kind, row, out);
    }
}

/// A row of values as words of panels.
pub(super) fn as_words(level: Level, kind: PanelKind, row: &[f32], out: &mut [u32]) {
    match kind {
        PanelKind::F32 => {
            for (word, value) in out.iter_mut().zip(row) {
                *word = value.to_bits();
            }
        }
        PanelKind::Bf16 | PanelKind::Tiles(_) => match level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the level.
            Level::Avx512 | Level::Avx512Bf16 => unsafe { x86::pair_up_512(row, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx2 => unsafe { x86::pair_up_256(row, out) },
            _ => pair_up(row, out),
        },
    }
}

/// Pairs of values as words of bf16.
#[inline(always)]
fn pair_up(row: &[f32], words: &mut [u32]) {
    for (word, pair) in words.iter_mut().zip(row.chunks_exact(2)) {
        let (low, high) = (narrow_one(pair[0]), narrow_one(pair[1]));
        *word = u32::from(low) | u32::from(high) << 16;
    }
}

impl WeightSource for Weights<'_> {
    fn fill(&self, level: Level, n: usize, k: Range<usize>, out: &mut [f32]) {
        let from = n * self.n_stride + k.start * self.k_stride;
        if self.k_stride == 1 {
            // A row is read in short runs between those of 63 others, too short for the machine
            // to foresee the next.
            let size = self.dtype.size();
            let next = self.bytes.as_ptr().wrapping_add((from + out.len()) * size);
            prefetch(next, out.len() * size);
            decode(level, self.bytes, self.dtype, from, out);
        } else {
            for (index, out) in out.iter_mut().enumerate() {
                *out = decode_one(self.bytes, self.dtype, from + index * self.k_stride);
            }
        }
    }
}

/// Element `at` of stored elements.
pub(crate) fn decode_one(bytes: &[u8], dtype: Dtype, at: usize) -> f32 {
    let b = &bytes[at * dtype.size()..][..dtype.size()];
    match dtype {
        Dtype::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        Dtype::Bf16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        Dtype::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
    }
}

/// Stored elements from `at` on, as many as `out` holds.
pub(super) fn decode(level: Level, bytes: &[u8], dtype: Dtype, at: usize, out: &mut [f32]) {
    let bytes = &bytes[at * dtype.size()..][..out.len() * dtype.size()];
    match dtype {
        Dtype::F32 => {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Dtype::Bf16 => match level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the level.
            Level::Avx512 | Level::Avx512Bf16 => unsafe { x86::widen_512(bytes, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx2 => unsafe { x86::widen_256(bytes, out) },
            _ => widen(bytes, out),
        },
        Dtype::F16 => {
            for (out, bytes) in out.chunks_mut(RUN).zip(bytes.chunks(2 * RUN)) {
                let mut halves = [half::f16::ZERO; RUN];
                for (half, b) in halves.iter_mut().zip(bytes.chunks_exact(2)) {
                    *half = half::f16::from_le_bytes([b[0], b[1]]);
                }
                halves[..out.len()].convert_to_f32_slice(out);
            }
        }
    }
}

#[inline(always)]
fn widen(bytes: &[u8], out: &mut [f32]) {
    for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) fn pair_up_512(row: &[f32], words: &mut [u32]) {
        super::pair_up(row, words);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn pair_up_256(row: &[f32], words: &mut [u32]) {
        super::pair_up(row, words);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) fn widen_512(bytes: &[u8], out: &mut [f32]) {
        super::widen(bytes, out);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn widen_256(bytes: &[u8], out: &mut [f32]) {
        super::widen(bytes, out);
    }
}
