//! Micro-kernels: the product of a few packed rows of A and one panel of B, at every level.
//!
//! Everything is counted in 32-bit words. One word of a panel is one f32, or two bf16 that follow
//! each other along K. The words of A are f32 for [`Words::F32`] and [`Words::Rounded`] (where one
//! word of B meets two words of A), and pairs of bf16 for [`Words::Pairs`].
//! Whatever the tile, one output element of a call is one chain of additions from zero in the order
//! of K, then added to the tile: its bits do not depend on how rows and columns are cut, and long
//! sums are sums of block sums, which keeps their error small.

use super::super::simd::Level;
use super::PanelKind;

/// Lanes of a column group; panel widths are multiples of it.
pub(crate) const LANES: usize = 16;

/// Most floats a tile can hold.
pub(crate) const TILE: usize = 12 * 32;

/// How a kernel wants the rows of A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// One f32 a word.
    F32,
    /// One f32 a word, rounded to bf16 (bf16 panels without `vdpbf16ps`).
    Rounded,
    /// Two bf16 a word.
    Pairs,
}

impl Words {
    /// The form of A that `level` uses against panels of `kind`.
    pub(crate) fn of(level: Level, kind: PanelKind) -> Words {
        match kind {
            PanelKind::F32 => Words::F32,
            PanelKind::Tiles(_) => Words::Pairs,
            PanelKind::Bf16 if level >= Level::Avx512Bf16 => Words::Pairs,
            PanelKind::Bf16 => Words::Rounded,
        }
    }

    /// Words of A for one word of B.
    pub(crate) fn per_panel_word(self) -> usize {
        if self == Words::Rounded { 2 } else { 1 }
    }
}

/// `tile[r][c] (+)= Σ_s a[r][s] · b[s][c]` for `steps` words of B.
///
/// Arguments: steps, A, words between rows of A, B (rows of `width` words), the tile (rows of
/// `width` floats), whether the tile starts from zero instead of its contents, and a place from
/// which two cache lines a step may be prefetched (a hint: any address will do).
pub(crate) type Micro = unsafe fn(
    steps: usize,
    a: *const u32,
    lda: usize,
    b: *const u32,
    tile: *mut f32,
    fresh: bool,
    ahead: *const u32,
);

/// Most rows of a tile over a panel of `width` columns.
pub(crate) fn tile_rows(level: Level, width: usize) -> usize {
    match (level, width / LANES) {
        (Level::Portable, _) => 4,
        (Level::Avx2, _) => 6,
        (_, 1 | 2) => 12,
        (_, 3) => 8,
        _ => 6,
    }
}

/// The kernel for at most `rows` rows and a panel of `width` columns, with the rows it computes.
pub(crate) fn micro(level: Level, words: Words, width: usize, rows: usize) -> (usize, Micro) {
    let groups = width / LANES;
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Bf16 => super::x86::micro512(words, groups, rows),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => super::x86::micro256(words, groups, rows),
        _ => portable(words, groups, rows),
    }
}

fn portable(words: Words, groups: usize, rows: usize) -> (usize, Micro) {
    macro_rules! pick {
        ($rounded:literal, $($g:literal)*) => {
            match (groups, rows) {
                $(($g, 4..) => (4, plain::<4, $g, $rounded> as Micro),
                ($g, 2..) => (2, plain::<2, $g, $rounded> as Micro),
                ($g, _) => (1, plain::<1, $g, $rounded> as Micro),)*
                _ => unreachable!("a panel has one to four column groups"),
            }
        };
    }
    if words == Words::Rounded { pick!(true, 1 2 3 4) } else { pick!(false, 1 2 3 4) }
}

/// Portable kernel, eight columns at a time so that the sums stay in registers.
///
/// # Safety
/// `a` must hold `R` rows of `steps` words (twice that if `ROUNDED`), `b` `steps` rows and `tile`
/// `R` rows of `16 * G` words.
unsafe fn plain<const R: usize, const G: usize, const ROUNDED: bool>(
    steps: usize,
    a: *const u32,
    lda: usize,
    b: *const u32,
    tile: *mut f32,
    fresh: bool,
    _ahead: *const u32,
) {
    const COLUMNS: usize = 8;
    let width = G * LANES;
    for first in (0..width).step_by(COLUMNS) {
        let mut sum = [[0f32; COLUMNS]; R];
        // SAFETY: all indices stay inside the regions the caller vouches for.
        unsafe {
            for step in 0..steps {
                let column = b.add(step * width + first).cast::<[u32; COLUMNS]>().read();
                for r in 0..R {
                    if ROUNDED {
                        let even = f32::from_bits(a.add(r * lda + 2 * step).read());
                        let odd = f32::from_bits(a.add(r * lda + 2 * step + 1).read());
                        for c in 0..COLUMNS {
                            sum[r][c] += even * f32::from_bits(column[c] << 16);
                            sum[r][c] += odd * f32::from_bits(column[c] & 0xffff_0000);
                        }
                    } else {
                        let value = f32::from_bits(a.add(r * lda + step).read());
                        for c in 0..COLUMNS {
                            sum[r][c] += value * f32::from_bits(column[c]);
                        }
                    }
                }
            }
            for r in 0..R {
                let place = tile.add(r * width + first).cast::<[f32; COLUMNS]>();
                let before = if fresh { [0.0; COLUMNS] } else { place.read() };
                place.write(std::array::from_fn(|c| before[c] + sum[r][c]));
            }
        }
    }
}
