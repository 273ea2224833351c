//! Operands that lie the other way round, one element of K after the other: a [K, N] or [K, M].
//!
//! What stands side by side in a panel is then contiguous in memory, so that a panel is filled line
//! by line; rows of A are lines turned in blocks. Both give the words that an operand lying along K
//! gives, so a product has the same bits whichever way its sides lie.

use super::super::caches::{prefetch, prefetch_later};
use super::super::simd::Level;
use super::PanelKind;
use super::matrix::{Dtype, WeightSource, Weights, as_words, decode};
use super::micro::{LANES, Words};
use super::pack::{Packed, Panel, STEP, WIDTH, k_words, place, transpose};
use super::rows::{Convert, RowLoader, narrow_one};
use std::ops::Range;

/// Elements of K that are asked for ahead of their use.
const AHEAD: usize = 8;

impl Weights<'_> {
    /// Whether it is elements of K that lie apart.
    pub(super) fn turned(&self) -> bool {
        self.n_stride == 1 && self.k_stride > 1
    }

    /// The words in form `words` that begin with element `k.start` of K of the columns `n`, at most
    /// [`WIDTH`] of them and not more than there is room for; words past the columns, and elements past
    /// `k`, are zero.
    fn line(&self, level: Level, words: Words, n: Range<usize>, k: Range<usize>, out: &mut [u32]) {
        let from = k.start * self.k_stride + n.start;
        let next = (words == Words::Pairs && k.len() > 1).then_some(from + self.k_stride);
        out[n.len()..].fill(0);
        let out = &mut out[..n.len()];
        // Lines are too far apart for the machine to foresee the next.
        let size = self.dtype.size();
        for k in AHEAD..AHEAD + k.len() {
            let later = self.bytes.as_ptr().wrapping_add((from + k * self.k_stride) * size);
            prefetch(later, n.len() * size);
        }
        let run = |from: usize| &self.bytes[size * from..][..size * n.len()];
        match (words, self.dtype) {
            (Words::Pairs, Dtype::Bf16) => return interleave(level, run(from), next.map(run), out),
            (Words::F32, Dtype::F32) => {
                for (out, bytes) in out.iter_mut().zip(run(from).as_chunks().0) {
                    *out = u32::from_le_bytes(*bytes);
                }
                return;
            }
            _ => {}
        }
        let (mut low, mut high) = ([0.0; WIDTH], [0.0; WIDTH]);
        let (low, high) = (&mut low[..n.len()], &mut high[..n.len()]);
        decode(level, self.bytes, self.dtype, from, low);
        if let Some(next) = next {
            decode(level, self.bytes, self.dtype, next, high);
        }
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            *out = match words {
                Words::F32 => low.to_bits(),
                Words::Rounded => u32::from(narrow_one(*low)) << 16,
                Words::Pairs => u32::from(narrow_one(*low)) | u32::from(narrow_one(*high)) << 16,
            };
        }
    }

    /// Whether [`Self::square`] has words of this form at `level`.
    fn has_squares(&self, level: Level, words: Words) -> bool {
        match (words, self.dtype) {
            (Words::F32, Dtype::F32) => level >= Level::Avx512,
            (Words::Pairs, Dtype::Bf16) => level >= Level::Avx512Bf16,
            _ => false,
        }
    }

    /// Writes sixteen words of sixteen columns from element `k` of K and column `n` on, a line for each
    /// column.
    ///
    /// # Safety
    /// There are so many elements, and room for the lines; the level has [squares](Self::has_squares).
    unsafe fn square(&self, words: Words, n: usize, k: usize, to: *mut u32, lda: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as the caller vouches.
        unsafe {
            let from = self.bytes.as_ptr().add((k * self.k_stride + n) * self.dtype.size());
            match words {
                Words::Pairs => x86::square_of_pairs(from, 2 * self.k_stride, to, lda),
                _ => transpose(Level::Avx512, from.cast(), self.k_stride, LANES, to, lda),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no level has {words:?} of {n}, {k} for {to:?}, {lda}");
    }

    /// Fills rows `words` of a panel.
    ///
    /// # Safety
    /// As [`super::pack::pack_panel`].
    pub(super) unsafe fn fill_panel(
        &self,
        level: Level,
        Panel { n, k, p, kind }: Panel,
        words: Range<usize>,
        panel: *mut u32,
    ) {
        let width = super::panel_width(n, p);
        let (columns, rows) = (p * WIDTH..(p * WIDTH + WIDTH).min(n), k_words(k, kind));
        let (form, each) = match kind {
            PanelKind::F32 => (Words::F32, 1),
            PanelKind::Bf16 | PanelKind::Tiles(_) => (Words::Pairs, 2),
        };
        let mut line = [0; WIDTH];
        for word in words {
            let elements = word * each..(word * each + each).min(k);
            if !matches!(kind, PanelKind::Tiles(_)) {
                // SAFETY: a row of the panel, which no other task writes.
                let row = unsafe {
                    std::slice::from_raw_parts_mut(panel.wrapping_add(word * width), width)
                };
                self.line(level, form, columns.clone(), elements, row);
                continue;
            }
            match elements.is_empty() {
                true => line.fill(0),
                false => self.line(level, form, columns.clone(), elements, &mut line),
            }
            for column in (0..width).step_by(LANES) {
                let (at, _) = place(kind, width, rows, word, column);
                // SAFETY: part of a row of the panel, which is at most as wide as the line.
                unsafe {
                    let from = line.as_ptr().add(column);
                    std::ptr::copy_nonoverlapping(from, panel.wrapping_add(at), LANES);
                }
            }
        }
    }
}

/// A packed matrix W [N, K] as one [K, N]: what is contracted back is what stands side by side in its
/// panels.
pub(super) struct Turned<'a>(pub(super) Packed<'a>);

impl Turned<'_> {
    /// Runs of the words that hold element `n` of K, for the columns `k`.
    fn runs(&self, n: usize, k: Range<usize>) -> impl Iterator<Item = &[u32]> {
        let Self(packed) = self;
        let row = n / packed.kind().elements();
        let each = packed.together();
        (k.start / each..k.end.div_ceil(each))
            .map(move |at| packed.words(row, k.start.max(at * each)..k.end.min((at + 1) * each)))
    }
}

impl WeightSource for Turned<'_> {
    fn fill(&self, _: Level, n: usize, k: Range<usize>, out: &mut [f32]) {
        let words = self.runs(n, k).flatten();
        for (out, word) in out.iter_mut().zip(words) {
            *out = f32::from_bits(match (self.0.kind(), n % 2) {
                (PanelKind::F32, _) => *word,
                (PanelKind::Bf16 | PanelKind::Tiles(_), 0) => word << 16,
                (PanelKind::Bf16 | PanelKind::Tiles(_), _) => word & 0xffff_0000,
            });
        }
    }

    fn words(&self, level: Level, kind: PanelKind, n: usize, k: Range<usize>, out: &mut [u32]) {
        // Pairs begin at even columns, and so do panels.
        let even = k.start.is_multiple_of(2);
        if kind.elements() != self.0.kind().elements() || !even {
            let mut row = [0f32; 2 * STEP];
            let row = &mut row[..out.len() * kind.elements()];
            self.fill(level, n, k.clone(), &mut row[..k.len()]);
            return as_words(level, kind, row, out);
        }
        let count = k.len().div_ceil(kind.elements());
        out[count..].fill(0);
        let mut out = &mut out[..count];
        for run in self.runs(n, k) {
            let (own, rest) = out.split_at_mut(run.len().div_ceil(kind.elements()));
            match kind {
                PanelKind::F32 => own.copy_from_slice(run),
                PanelKind::Bf16 | PanelKind::Tiles(_) => halves(level, run, n % 2, own),
            }
            out = rest;
        }
    }
}

impl RowLoader for Turned<'_> {
    unsafe fn load(
        &self,
        convert: Convert,
        rows: Range<usize>,
        k: Range<usize>,
        to: *mut u32,
        lda: usize,
    ) {
        let kind = if convert.words == Words::Pairs { PanelKind::Bf16 } else { PanelKind::F32 };
        let each = kind.elements();
        // Rows side by side in memory are read one after the other.
        for first in k.clone().step_by(STEP * each) {
            let run = first..(first + STEP * each).min(k.end);
            for row in rows.clone() {
                let (at, words) = ((first - k.start) / each, run.len().div_ceil(each));
                // SAFETY: the caller vouches for the row of scratch.
                unsafe {
                    let out = to.add((row - rows.start) * lda + at);
                    let out = std::slice::from_raw_parts_mut(out, words);
                    self.words(convert.level, kind, row, run.clone(), out);
                    if convert.words == Words::Rounded {
                        convert.round_words(out);
                    }
                }
            }
        }
        if convert.words == Words::Rounded && k.len() % 2 == 1 {
            for row in 0..rows.len() {
                // SAFETY: a row holds an even number of elements.
                unsafe { convert.pad(to.add(row * lda), k.len()) };
            }
        }
    }

    fn ask(&self, rows: Range<usize>, k: Range<usize>) {
        // Rows that are halves of the same words are asked for once.
        for row in rows.step_by(self.0.kind().elements()) {
            for run in self.runs(row, k.clone()) {
                prefetch_later(run.as_ptr().cast(), size_of_val(run));
            }
        }
    }
}

/// The low or high halves of words, two neighbours as a word; a last one alone is the lower half.
fn halves(level: Level, words: &[u32], half: usize, out: &mut [u32]) {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the level.
        Level::Avx512 | Level::Avx512Bf16 => unsafe { x86::halves_512(words, half, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { x86::halves_256(words, half, out) },
        _ => halved(words, half, out),
    }
}

#[inline(always)]
fn halved(words: &[u32], half: usize, out: &mut [u32]) {
    let shift = 16 * half as u32;
    let (pairs, last) = words.as_chunks::<2>();
    for (out, [low, high]) in out.iter_mut().zip(pairs) {
        *out = (low >> shift & 0xffff) | (high >> shift & 0xffff) << 16;
    }
    if let (Some(word), Some(out)) = (last.first(), out.last_mut()) {
        *out = word >> shift & 0xffff;
    }
}

/// The matrices A of a batch, each [K, M], one after the other; row `i` of page `p` is `p · M + i`.
pub(super) struct Columns<'a> {
    /// The first page's.
    pub(super) first: Weights<'a>,
    /// Rows of a page, and length of the sums.
    pub(super) m: usize,
    pub(super) k: usize,
}

impl RowLoader for Columns<'_> {
    unsafe fn load(
        &self,
        convert: Convert,
        rows: Range<usize>,
        k: Range<usize>,
        to: *mut u32,
        lda: usize,
    ) {
        let page = rows.start / self.m;
        let rows = rows.start - page * self.m..rows.end - page * self.m;
        let source = self.first.page(page, self.m * self.k);
        let each = if convert.words == Words::Pairs { 2 } else { 1 };
        let words = k.len().div_ceil(each);
        // Whole squares go straight from where they lie.
        let whole = |count: usize| match source.has_squares(convert.level, convert.words) {
            true => count / LANES * LANES,
            false => 0,
        };
        let (tall, long) = (whole(rows.len()), whole(k.len() / each));
        let size = source.dtype.size();
        for word in (0..long).step_by(LANES) {
            let first = k.start + word * each;
            for k in first + LANES * each..first + 2 * LANES * each {
                let later = (k * source.k_stride + rows.start) * size;
                prefetch(source.bytes.as_ptr().wrapping_add(later), tall * size);
            }
            for row in (0..tall).step_by(LANES) {
                // SAFETY: inside the page, and the caller vouches for the rows of scratch.
                unsafe {
                    let to = to.add(row * lda + word);
                    source.square(convert.words, rows.start + row, first, to, lda);
                }
            }
        }
        let some = [(0..tall, long..words), (tall..rows.len(), 0..words)];
        for (own, words) in
            some.into_iter().filter(|(own, words)| !own.is_empty() && !words.is_empty())
        {
            let k = k.start + words.start * each..k.end.min(k.start + words.end * each);
            // SAFETY: as above.
            unsafe {
                let to = to.add(own.start * lda + words.start);
                turn_lines(
                    &source,
                    convert,
                    rows.start + own.start..rows.start + own.end,
                    k,
                    to,
                    lda,
                );
            }
        }
    }
}

/// Rows of the elements `k` of columns of a page, by lines of them.
///
/// # Safety
/// `to` holds the rows, in whole cache lines.
unsafe fn turn_lines(
    source: &Weights<'_>,
    convert: Convert,
    rows: Range<usize>,
    k: Range<usize>,
    to: *mut u32,
    lda: usize,
) {
    let each = if convert.words == Words::Pairs { 2 } else { 1 };
    let words = k.len().div_ceil(each);
    let mut block = [[0; STEP]; WIDTH];
    for row in rows.clone().step_by(STEP) {
        let run = row..(row + STEP).min(rows.end);
        for first in (0..words).step_by(WIDTH) {
            let count = WIDTH.min(words - first);
            for (line, word) in block.iter_mut().zip(first..first + count) {
                let elements = k.start + word * each..(k.start + word * each + each).min(k.end);
                source.line(convert.level, convert.words, run.clone(), elements, line);
            }
            let whole = count.next_multiple_of(LANES);
            block[count..whole].fill([0; STEP]);
            for word in (0..whole).step_by(LANES) {
                for at in (0..run.len()).step_by(LANES) {
                    let height = LANES.min(run.len() - at);
                    // SAFETY: rows are whole cache lines, so they hold sixteen words from here.
                    unsafe {
                        let from = block.as_flattened()[word * STEP + at..].as_ptr();
                        let to = to.add((row - rows.start + at) * lda + first + word);
                        transpose(convert.level, from, STEP, height, to, lda);
                    }
                }
            }
        }
    }
}

/// Words of the bf16 of two runs, those of the first in the lower halves; without a second run the
/// upper halves are zero.
fn interleave(level: Level, low: &[u8], high: Option<&[u8]>, out: &mut [u32]) {
    let zeros = [0; 2 * WIDTH];
    let high = high.unwrap_or(&zeros[..low.len()]);
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the level.
        Level::Avx512 | Level::Avx512Bf16 => unsafe { x86::interleave_512(low, high, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { x86::interleave_256(low, high, out) },
        _ => interleaved(low, high, out),
    }
}

#[inline(always)]
fn interleaved(low: &[u8], high: &[u8], out: &mut [u32]) {
    for ((out, low), high) in out.iter_mut().zip(low.chunks_exact(2)).zip(high.chunks_exact(2)) {
        *out = u32::from_le_bytes([low[0], low[1], high[0], high[1]]);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::pack::x86::turn_512;
    use super::LANES;
    use std::arch::x86_64::*;

    /// Sixteen words of the bf16 at two places, those of the first in the lower halves.
    ///
    /// # Safety
    /// There are sixteen of them at both.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn pairs(low: *const u8, high: *const u8) -> __m512i {
        // SAFETY: as the caller vouches.
        let [low, high] = unsafe { [low, high].map(|at| _mm256_loadu_si256(at.cast())) };
        let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high));
        _mm512_or_si512(_mm512_cvtepu16_epi32(low), high)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) fn interleave_512(low: &[u8], high: &[u8], out: &mut [u32]) {
        let whole = out.len() / LANES * LANES;
        let (out, rest) = out.split_at_mut(whole);
        let ([low, low_rest], [high, high_rest]) =
            (low.split_at(2 * whole).into(), high.split_at(2 * whole).into());
        let lines = low.chunks_exact(2 * LANES).zip(high.chunks_exact(2 * LANES));
        for (out, (low, high)) in out.chunks_exact_mut(LANES).zip(lines) {
            // SAFETY: sixteen words, and two bytes of each at both places.
            unsafe {
                let words = pairs(low.as_ptr(), high.as_ptr());
                _mm512_storeu_si512(out.as_mut_ptr().cast(), words);
            }
        }
        super::interleaved(low_rest, high_rest, rest);
    }

    /// Turns sixteen pairs of lines of sixteen bf16, `stride` bytes apart, into sixteen lines of sixteen
    /// words, `lda` words apart.
    ///
    /// # Safety
    /// All of them are inside their memory.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn square_of_pairs(from: *const u8, stride: usize, to: *mut u32, lda: usize) {
        let mut lines = [_mm512_setzero_si512(); LANES];
        for (at, line) in lines.iter_mut().enumerate() {
            // SAFETY: as the caller vouches.
            *line = unsafe { pairs(from.add(2 * at * stride), from.add((2 * at + 1) * stride)) };
        }
        // SAFETY: as the caller vouches.
        unsafe { turn_512(lines, to, lda) };
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) fn halves_512(words: &[u32], half: usize, out: &mut [u32]) {
        super::halved(words, half, out);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn halves_256(words: &[u32], half: usize, out: &mut [u32]) {
        super::halved(words, half, out);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn interleave_256(low: &[u8], high: &[u8], out: &mut [u32]) {
        super::interleaved(low, high, out);
    }
}
