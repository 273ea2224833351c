//! Packed weights: panels of up to 64 columns (rows of W), K running down each panel.
//!
//! Layout, in 32-bit words: panel `p` starts at word `WIDTH·p·kw` where `kw` is K for f32 panels
//! and ⌈K/2⌉ for bf16, and holds `kw` rows of `width` words; the last panel is as wide as it needs
//! in steps of 16. A bf16 word holds elements 2w (low half) and 2w+1 of K. Missing columns and the
//! second half of an odd K are zero.
//!
//! For products by tiles a panel is cut further: first into 32 columns, then into sixteen words of
//! K, then into sixteen columns, which make a tile of sixteen rows. K is filled up to whole tiles.

use super::super::buffer::AlignedBytes;
use super::super::simd::Level;
use super::super::threads::{ALIGN, Pool, SharedPtr};
use super::PanelKind;
use super::matrix::{WeightSource, Weights};
use super::micro::LANES;
use std::ops::Range;

/// Columns of a full panel.
pub(crate) const WIDTH: usize = 64;

/// Columns that lie together in panels for tiles, two tiles of them.
pub(crate) const TILE_COLUMNS: usize = 2 * LANES;

/// Elements of K in a tile.
pub(crate) const TILE_K: usize = 2 * LANES;

/// Words of K that one packing step turns at a time.
pub(super) const STEP: usize = 64;

/// Words of K in one packing task.
const CHUNK: usize = 512;

/// Words of K in panels of `kind`.
pub(crate) fn k_words(k: usize, kind: PanelKind) -> usize {
    match kind {
        PanelKind::F32 => k,
        PanelKind::Bf16 => k.div_ceil(2),
        PanelKind::Tiles(_) => k.div_ceil(TILE_K) * LANES,
    }
}

/// Where a word of a column stands in a panel of `width` columns and `words` words of K, and how far
/// behind it the next word of the column; sixteen columns from a multiple of sixteen on lie together.
pub(super) fn place(
    kind: PanelKind,
    width: usize,
    words: usize,
    word: usize,
    column: usize,
) -> (usize, usize) {
    let PanelKind::Tiles(_) = kind else { return (word * width + column, width) };
    let (pair, column) = (column / TILE_COLUMNS, column % TILE_COLUMNS);
    let across = (width - pair * TILE_COLUMNS).min(TILE_COLUMNS) / LANES;
    let tile = word / LANES * across + column / LANES;
    let inside = word % LANES * LANES + column % LANES;
    (pair * TILE_COLUMNS * words + tile * LANES * LANES + inside, LANES)
}

/// Columns of panel `p` of `n`, padding included.
pub(crate) fn panel_width(n: usize, p: usize) -> usize {
    (n - p * WIDTH).min(WIDTH).next_multiple_of(LANES)
}

/// Bytes of an `n`×`k` matrix in panels of `kind`.
pub fn packed_bytes(n: usize, k: usize, kind: PanelKind) -> usize {
    n.next_multiple_of(LANES) * k_words(k, kind) * 4
}

/// Packs W [n, k] into `to`, in parallel.
///
/// # Panics
/// If `to` is not aligned to [`ALIGN`] bytes, is shorter than [`packed_bytes`], or the weights are
/// too short for the shape.
pub fn pack_into(
    pool: &Pool,
    level: Level,
    weights: Weights<'_>,
    (n, k): (usize, usize),
    kind: PanelKind,
    to: &mut [u8],
) {
    pack_pages(pool, level, weights, 0..1, (n, k), kind, to);
}

/// [`pack_into`] for some dense pages of a batch, each behind the other.
pub(super) fn pack_pages(
    pool: &Pool,
    level: Level,
    first: Weights<'_>,
    pages: Range<usize>,
    (n, k): (usize, usize),
    kind: PanelKind,
    to: &mut [u8],
) {
    if !pages.is_empty() {
        check(&first, pages.end, (n, k));
    }
    pack_panels(pool, level, pages.len(), (n, k), kind, to, &|level, page, panel, words, to| {
        // SAFETY: `to` is that panel, and its rows `words` are this task's.
        unsafe { fill_panel(level, first.page(pages.start + page, n * k), panel, words, to) };
    });
}

/// # Panics
/// If there are fewer than so many dense pages.
pub(super) fn check(first: &Weights<'_>, pages: usize, (n, k): (usize, usize)) {
    if n > 0 && k > 0 && pages > 0 {
        let last = (n - 1) * first.n_stride + (k - 1) * first.k_stride;
        let needed = ((pages - 1) * n * k + last + 1) * first.dtype.size();
        let len = first.bytes.len();
        assert!(len >= needed, "weights have {len} bytes, need {needed} for [{n}, {k}]");
    }
}

/// Fills rows `words` of a panel of stored weights.
///
/// # Safety
/// As [`pack_panel`].
pub(super) unsafe fn fill_panel(
    level: Level,
    weights: Weights<'_>,
    panel: Panel,
    words: Range<usize>,
    to: *mut u32,
) {
    // SAFETY: passed on.
    unsafe {
        match weights.turned() {
            true => weights.fill_panel(level, panel, words, to),
            false => pack_panel(level, &weights, panel, words, to),
        }
    }
}

/// [`pack_into`] for any source of rows.
pub(crate) fn pack_source(
    pool: &Pool,
    level: Level,
    source: &dyn WeightSource,
    (n, k): (usize, usize),
    kind: PanelKind,
    to: &mut [u8],
) {
    pack_panels(pool, level, 1, (n, k), kind, to, &|level, _, panel, words, to| {
        // SAFETY: `to` is that panel, and its rows `words` are this task's.
        unsafe { pack_panel(level, source, panel, words, to) };
    });
}

/// Which panel of a matrix [n, k] of this kind.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) p: usize,
    pub(super) kind: PanelKind,
}

/// Fills some rows of a panel of a page, which is at the pointer and of which no other task writes
/// them; rows before them need not be memory.
pub(super) type FillRows<'a> = dyn Fn(Level, usize, Panel, Range<usize>, *mut u32) + Sync + 'a;

/// Has all rows of all panels of `pages` matrices filled, in parallel.
fn pack_panels(
    pool: &Pool,
    level: Level,
    pages: usize,
    (n, k): (usize, usize),
    kind: PanelKind,
    to: &mut [u8],
    fill: &FillRows<'_>,
) {
    let level = level.usable();
    let needed = pages * packed_bytes(n, k, kind);
    assert!(to.len() >= needed, "buffer has {} bytes, needs {needed}", to.len());
    let aligned = needed == 0 || to.as_ptr().align_offset(ALIGN) == 0;
    assert!(aligned, "packed weights must be {ALIGN}-byte aligned");
    let words = k_words(k, kind);
    let chunks = words.div_ceil(CHUNK);
    let base = SharedPtr::new(to.as_mut_ptr().cast::<u32>());
    let (each, panels) = (packed_bytes(n, k, kind) / 4, n.div_ceil(WIDTH));
    pool.run(pages * panels * chunks, &|task, _| {
        let (page, p, chunk) = (task / chunks / panels, task / chunks % panels, task % chunks);
        let range = chunk * CHUNK..((chunk + 1) * CHUNK).min(words);
        // SAFETY: the panel starts there and ends inside `needed`; each task has rows of its own.
        let panel = unsafe { base.get().add(page * each + p * WIDTH * words) };
        fill(level, page, Panel { n, k, p, kind }, range, panel);
    });
}

/// # Safety
/// `panel` is panel `p` of the matrix, and this task alone writes its rows `words`; the machine has
/// the level.
pub(super) unsafe fn pack_panel(
    level: Level,
    source: &dyn WeightSource,
    Panel { n, k, p, kind }: Panel,
    words: Range<usize>,
    panel: *mut u32,
) {
    let width = panel_width(n, p);
    let per_word = kind.elements();
    let mut block = [[0u32; STEP]; WIDTH];
    for first in words.clone().step_by(STEP) {
        let count = STEP.min(words.end - first);
        let elements = first * per_word..((first + count) * per_word).min(k);
        for column in 0..width {
            let words = &mut block[column];
            if p * WIDTH + column >= n {
                words.fill(0);
                continue;
            }
            let words = &mut words[..count];
            source.words(level, kind, p * WIDTH + column, elements.clone(), words);
        }
        for column in (0..width).step_by(LANES) {
            for word in (0..count).step_by(LANES) {
                let rows = LANES.min(count - word);
                let (at, pitch) = place(kind, width, k_words(k, kind), first + word, column);
                // SAFETY: rows `first + word ..` and 16 columns of the panel lie inside it.
                unsafe {
                    let from = block.as_flattened()[column * STEP + word..].as_ptr();
                    transpose(level, from, STEP, rows, panel.wrapping_add(at), pitch);
                }
            }
        }
    }
}

/// Writes `from[c * stride + r]` to `to[r * width + c]` for 16 columns and `rows` rows.
///
/// # Safety
/// `from` holds sixteen lines of that many words and `to` the rows; the machine has the level.
pub(super) unsafe fn transpose(
    level: Level,
    from: *const u32,
    stride: usize,
    rows: usize,
    to: *mut u32,
    width: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if level >= Level::Avx512 && rows == LANES {
        // SAFETY: passed on.
        unsafe { x86::transpose_512(from, stride, to, width) };
        return;
    }
    let _ = level;
    for r in 0..rows {
        for c in 0..LANES {
            // SAFETY: inside the lines and the rows.
            unsafe { to.add(r * width + c).write(from.add(c * stride + r).read()) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::LANES;
    use std::arch::x86_64::*;

    /// # Safety
    /// As [`super::transpose`] with 16 rows.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose_512(
        from: *const u32,
        stride: usize,
        to: *mut u32,
        width: usize,
    ) {
        let mut v = [_mm512_setzero_si512(); LANES];
        for c in 0..LANES {
            // SAFETY: 16 words of line c.
            v[c] = unsafe { _mm512_loadu_si512(from.add(c * stride).cast()) };
        }
        // SAFETY: passed on.
        unsafe { turn_512(v, to, width) };
    }

    /// [`transpose_512`] of lines in registers.
    ///
    /// # Safety
    /// `to` holds sixteen rows `width` apart.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in super::super) unsafe fn turn_512(mut v: [__m512i; LANES], to: *mut u32, width: usize) {
        let mut t = [_mm512_setzero_si512(); LANES];
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
        }
        for i in 0..4 {
            v[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
            v[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
            v[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
            v[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
        }
        // Now lane group q of v[4i + j] holds column 4q + j of rows 4i..4i + 4.
        for j in 0..4 {
            let low = _mm512_shuffle_i32x4::<0x44>(v[j], v[4 + j]);
            let high = _mm512_shuffle_i32x4::<0xee>(v[j], v[4 + j]);
            let low2 = _mm512_shuffle_i32x4::<0x44>(v[8 + j], v[12 + j]);
            let high2 = _mm512_shuffle_i32x4::<0xee>(v[8 + j], v[12 + j]);
            let lines = [
                _mm512_shuffle_i32x4::<0x88>(low, low2),
                _mm512_shuffle_i32x4::<0xdd>(low, low2),
                _mm512_shuffle_i32x4::<0x88>(high, high2),
                _mm512_shuffle_i32x4::<0xdd>(high, high2),
            ];
            for (q, line) in lines.into_iter().enumerate() {
                // SAFETY: row 4q + j of the 16 that `to` holds.
                unsafe { _mm512_storeu_si512(to.add((4 * q + j) * width).cast(), line) };
            }
        }
    }
}

/// A view of packed weights.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    n: usize,
    k: usize,
    kind: PanelKind,
    words: &'a [u8],
    /// Words of K in the buffer's panels, and the first of them that counts.
    rows: usize,
    first: usize,
}

impl<'a> Packed<'a> {
    /// Views a buffer that [`pack_into`] filled for the same shape and kind.
    ///
    /// # Panics
    /// If the buffer is not aligned to [`ALIGN`] or shorter than [`packed_bytes`].
    pub fn from_bytes(n: usize, k: usize, kind: PanelKind, bytes: &'a [u8]) -> Packed<'a> {
        let needed = packed_bytes(n, k, kind);
        assert!(bytes.len() >= needed, "packed buffer has {} bytes, needs {needed}", bytes.len());
        let aligned = needed == 0 || bytes.as_ptr().align_offset(ALIGN) == 0;
        assert!(aligned, "packed weights must be {ALIGN}-byte aligned");
        Packed { n, k, kind, words: &bytes[..needed], rows: k_words(k, kind), first: 0 }
    }

    /// The matrix of the elements `k` alone; `None` where bf16 pairs stand across its beginning.
    pub(crate) fn part(self, k: Range<usize>) -> Option<Packed<'a>> {
        assert!(k.start <= k.end && k.end <= self.k, "part {k:?} of {} elements", self.k);
        let each = match self.kind {
            PanelKind::F32 => 1,
            PanelKind::Bf16 => 2,
            PanelKind::Tiles(_) => TILE_K,
        };
        let whole = |k: usize| k.is_multiple_of(each);
        if !whole(k.start) || (!whole(k.end) && k.end < self.k) {
            return None;
        }
        let first = self.first + k.start / self.kind.elements();
        Some(Packed { k: k.len(), first, ..self })
    }

    /// Columns of the product (rows of W).
    pub fn n(&self) -> usize {
        self.n
    }

    /// Length of the sums.
    pub fn k(&self) -> usize {
        self.k
    }

    /// What the panels hold.
    pub fn kind(&self) -> PanelKind {
        self.kind
    }

    /// Columns that lie side by side, from every multiple of their number on.
    pub(super) fn together(&self) -> usize {
        if matches!(self.kind, PanelKind::Tiles(_)) { LANES } else { WIDTH }
    }

    /// Columns that lie [together](Self::together), in a row of words of K.
    pub(super) fn words(&self, word: usize, columns: Range<usize>) -> &'a [u32] {
        let (p, column) = (columns.start / WIDTH, columns.start % WIDTH);
        let width = panel_width(self.n, p);
        let (at, _) = place(self.kind, width, self.rows, self.first + word, column);
        let words = &self.words[(p * WIDTH * self.rows + at) * 4..][..columns.len() * 4];
        // SAFETY: words of any bits, in memory that is aligned to more than theirs.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), columns.len()) }
    }

    /// Where the tiles of step `step` of the 32 columns number `q` begin; steps follow each other.
    pub(crate) fn tiles(&self, q: usize, step: usize) -> *const u8 {
        let width = (self.n.next_multiple_of(LANES) - q * TILE_COLUMNS).min(TILE_COLUMNS);
        let word = q * TILE_COLUMNS * self.rows + (self.first + step * LANES) * width;
        self.words.as_ptr().wrapping_add(word * 4)
    }

    /// First word of panel `p` (inside the buffer for `p` below ⌈n/64⌉).
    pub(crate) fn panel(&self, p: usize) -> *const u32 {
        let word = p * WIDTH * self.rows + self.first * panel_width(self.n, p);
        self.words[word * 4..].as_ptr().cast()
    }
}

/// Packed weights in storage of their own.
pub struct PackedMatrix {
    n: usize,
    k: usize,
    kind: PanelKind,
    storage: AlignedBytes,
}

impl PackedMatrix {
    /// Packs W [n, k] into new storage, in parallel.
    ///
    /// # Panics
    /// If the weights are too short for the shape.
    pub fn new(
        pool: &Pool,
        level: Level,
        weights: Weights<'_>,
        (n, k): (usize, usize),
        kind: PanelKind,
    ) -> PackedMatrix {
        let mut packed = PackedMatrix::zeroed((n, k), kind);
        pack_into(pool, level, weights, (n, k), kind, packed.bytes_mut());
        packed
    }

    /// Storage for an `n`×`k` matrix, all zero.
    pub(crate) fn zeroed((n, k): (usize, usize), kind: PanelKind) -> PackedMatrix {
        let bytes = packed_bytes(n, k, kind).next_multiple_of(ALIGN);
        PackedMatrix { n, k, kind, storage: AlignedBytes::zeroed(bytes) }
    }

    /// [`PackedMatrix::zeroed`], or `None` where the system does not give the memory.
    pub(crate) fn try_zeroed((n, k): (usize, usize), kind: PanelKind) -> Option<PackedMatrix> {
        let bytes = packed_bytes(n, k, kind).next_multiple_of(ALIGN);
        Some(PackedMatrix { n, k, kind, storage: AlignedBytes::try_zeroed(bytes)? })
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.storage.bytes_mut()
    }

    /// The packed bytes, as [`pack_into`] writes them.
    pub fn bytes(&self) -> &[u8] {
        self.storage.bytes()
    }

    /// The view that products take.
    pub fn view(&self) -> Packed<'_> {
        Packed::from_bytes(self.n, self.k, self.kind, self.bytes())
    }
}
