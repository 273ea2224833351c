//! Micro-kernels in AVX-512 and AVX2 intrinsics; see [`super::micro`] for the contract.
//!
//! AVX-512 tiles keep up to 24 sums in registers: 12×16, 12×32, 8×48 and 6×64. AVX2 tiles keep 12
//! (6 rows × 16 columns) and walk a panel in groups of 16 columns.

use super::micro::{LANES, Micro, Words};
use std::arch::x86_64::*;

/// Steps by which rows of B are asked for ahead of their use.
const AHEAD: usize = 8;

/// An AVX-512 kernel of at most `rows` rows for `groups` columns groups.
pub(super) fn micro512(words: Words, groups: usize, rows: usize) -> (usize, Micro) {
    macro_rules! pick {
        ($kernel:ident; $($g:literal: $($r:literal)*;)*) => {
            match (groups, rows) {
                $($(($g, $r..) => ($r, $kernel::<$r, $g> as Micro),)*)*
                _ => unreachable!("a tile has a row, a panel one to four column groups"),
            }
        };
    }
    macro_rules! table {
        ($kernel:ident) => {
            pick!($kernel; 1: 12 8 4 2 1; 2: 12 8 6 4 3 2 1; 3: 8 6 4 3 2 1; 4: 6 5 4 3 2 1;)
        };
    }
    match words {
        Words::F32 => table!(f32_512),
        Words::Rounded => table!(rounded_512),
        Words::Pairs => table!(pairs_512),
    }
}

/// An AVX2 kernel of at most `rows` rows for `groups` column groups.
pub(super) fn micro256(words: Words, groups: usize, rows: usize) -> (usize, Micro) {
    macro_rules! pick {
        ($kernel:ident; $($g:literal)*) => {
            match (groups, rows) {
                $(($g, 6..) => (6, $kernel::<6, $g> as Micro),
                ($g, 4..) => (4, $kernel::<4, $g> as Micro),
                ($g, 2..) => (2, $kernel::<2, $g> as Micro),
                ($g, 1..) => (1, $kernel::<1, $g> as Micro),)*
                _ => unreachable!("a tile has a row, a panel one to four column groups"),
            }
        };
    }
    if words == Words::Rounded { pick!(rounded_256; 1 2 3 4) } else { pick!(f32_256; 1 2 3 4) }
}

/// Writes or adds sums to a tile. Not a function: sums would leave their registers on the way there.
macro_rules! finish_512 {
    ($tile:expr, $sum:expr, $fresh:expr) => {
        for r in 0..R {
            for g in 0..G {
                let place = $tile.add((r * G + g) * LANES);
                let before = if $fresh { _mm512_setzero_ps() } else { _mm512_loadu_ps(place) };
                _mm512_storeu_ps(place, _mm512_add_ps(before, $sum[r][g]));
            }
        }
    };
}

macro_rules! kernel512 {
    ($name:ident, $features:literal, $doc:literal, |$a:ident, $b:ident, $sum:ident| $body:expr) => {
        #[doc = $doc]
        ///
        /// # Safety
        /// The machine has the features, `a` holds `R` rows of `steps` words, `b` `steps` rows and
        /// `tile` `R` rows of `16 * G` words.
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize, const G: usize>(
            steps: usize,
            a: *const u32,
            lda: usize,
            b: *const u32,
            tile: *mut f32,
            fresh: bool,
            ahead: *const u32,
        ) {
            // SAFETY: all offsets stay inside the regions the caller vouches for.
            unsafe {
                let mut sum = [[_mm512_setzero_ps(); G]; R];
                let mut rows = [a; R];
                for r in 1..R {
                    rows[r] = a.add(r * lda);
                }
                for step in 0..steps {
                    let next = ahead.wrapping_add(step * 2 * LANES).cast::<i8>();
                    _mm_prefetch::<_MM_HINT_T1>(next);
                    _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64));
                    let mut column = [_mm512_setzero_si512(); G];
                    for g in 0..G {
                        let later = b.wrapping_add(((step + AHEAD) * G + g) * LANES);
                        _mm_prefetch::<_MM_HINT_T0>(later.cast());
                        column[g] = _mm512_loadu_si512(b.add((step * G + g) * LANES).cast());
                    }
                    for r in 0..R {
                        let $a = _mm512_set1_epi32(*rows[r].add(step) as i32);
                        for g in 0..G {
                            let $b = column[g];
                            let $sum = sum[r][g];
                            sum[r][g] = $body;
                        }
                    }
                }
                finish_512!(tile, sum, fresh);
            }
        }
    };
}

kernel512!(f32_512, "avx512f", "f32 rows, f32 panel.", |a, b, sum| {
    _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum)
});

kernel512!(pairs_512, "avx512f,avx512bf16", "bf16 rows, bf16 panel.", |a, b, sum| {
    _mm512_dpbf16_ps(sum, as_bf16(a), as_bf16(b))
});

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn as_bf16(value: __m512i) -> __m512bh {
    // SAFETY: both are 64 plain bytes.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(value) }
}

/// f32 rows holding bf16 values, bf16 panel.
///
/// # Safety
/// As the others, with `2 * steps` words in a row of `a`.
#[target_feature(enable = "avx512f")]
unsafe fn rounded_512<const R: usize, const G: usize>(
    steps: usize,
    a: *const u32,
    lda: usize,
    b: *const u32,
    tile: *mut f32,
    fresh: bool,
    _ahead: *const u32,
) {
    // SAFETY: all offsets stay inside the regions the caller vouches for.
    unsafe {
        let high = _mm512_set1_epi32(0xffff_0000u32 as i32);
        let mut sum = [[_mm512_setzero_ps(); G]; R];
        for step in 0..steps {
            let mut even = [_mm512_setzero_ps(); G];
            let mut odd = [_mm512_setzero_ps(); G];
            for g in 0..G {
                let word = _mm512_loadu_si512(b.add((step * G + g) * LANES).cast());
                even[g] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(word));
                odd[g] = _mm512_castsi512_ps(_mm512_and_si512(word, high));
            }
            for r in 0..R {
                let pair = a.add(r * lda + 2 * step).cast::<f32>();
                let (first, second) = (_mm512_set1_ps(*pair), _mm512_set1_ps(*pair.add(1)));
                for g in 0..G {
                    sum[r][g] = _mm512_fmadd_ps(first, even[g], sum[r][g]);
                    sum[r][g] = _mm512_fmadd_ps(second, odd[g], sum[r][g]);
                }
            }
        }
        finish_512!(tile, sum, fresh);
    }
}

/// f32 rows, f32 panel.
///
/// # Safety
/// The machine has the features, `a` holds `R` rows of `steps` words, `b` `steps` rows and `tile`
/// `R` rows of `16 * G` words.
#[target_feature(enable = "avx2,fma")]
unsafe fn f32_256<const R: usize, const G: usize>(
    steps: usize,
    a: *const u32,
    lda: usize,
    b: *const u32,
    tile: *mut f32,
    fresh: bool,
    _ahead: *const u32,
) {
    // SAFETY: all offsets stay inside the regions the caller vouches for.
    unsafe {
        for g in 0..G {
            let (b, tile) = (b.add(g * LANES).cast::<f32>(), tile.add(g * LANES));
            let mut sum = [[_mm256_setzero_ps(); 2]; R];
            for step in 0..steps {
                let left = _mm256_loadu_ps(b.add(step * G * LANES));
                let right = _mm256_loadu_ps(b.add(step * G * LANES + 8));
                for r in 0..R {
                    let value = _mm256_set1_ps(*a.add(r * lda + step).cast::<f32>());
                    sum[r][0] = _mm256_fmadd_ps(value, left, sum[r][0]);
                    sum[r][1] = _mm256_fmadd_ps(value, right, sum[r][1]);
                }
            }
            finish_256::<R, G>(tile, &sum, fresh);
        }
    }
}

/// f32 rows holding bf16 values, bf16 panel.
///
/// # Safety
/// As [`f32_256`], with `2 * steps` words in a row of `a`.
#[target_feature(enable = "avx2,fma")]
unsafe fn rounded_256<const R: usize, const G: usize>(
    steps: usize,
    a: *const u32,
    lda: usize,
    b: *const u32,
    tile: *mut f32,
    fresh: bool,
    _ahead: *const u32,
) {
    // SAFETY: all offsets stay inside the regions the caller vouches for.
    unsafe {
        let high = _mm256_set1_epi32(0xffff_0000u32 as i32);
        for g in 0..G {
            let (b, tile) = (b.add(g * LANES), tile.add(g * LANES));
            let mut sum = [[_mm256_setzero_ps(); 2]; R];
            for step in 0..steps {
                let left = _mm256_loadu_si256(b.add(step * G * LANES).cast());
                let right = _mm256_loadu_si256(b.add(step * G * LANES + 8).cast());
                let even = [left, right].map(|w| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w)));
                let odd = [left, right].map(|w| _mm256_castsi256_ps(_mm256_and_si256(w, high)));
                for r in 0..R {
                    let pair = a.add(r * lda + 2 * step).cast::<f32>();
                    let (first, second) = (_mm256_set1_ps(*pair), _mm256_set1_ps(*pair.add(1)));
                    for half in 0..2 {
                        sum[r][half] = _mm256_fmadd_ps(first, even[half], sum[r][half]);
                        sum[r][half] = _mm256_fmadd_ps(second, odd[half], sum[r][half]);
                    }
                }
            }
            finish_256::<R, G>(tile, &sum, fresh);
        }
    }
}

/// Writes or adds the sums to 16 columns of the tile.
///
/// # Safety
/// `tile` holds `R` rows at a distance of `16 * G` floats, 16 columns of each.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn finish_256<const R: usize, const G: usize>(
    tile: *mut f32,
    sum: &[[__m256; 2]; R],
    fresh: bool,
) {
    for r in 0..R {
        for half in 0..2 {
            // SAFETY: inside the tile.
            unsafe {
                let place = tile.add(r * G * LANES + half * 8);
                let before = if fresh { _mm256_setzero_ps() } else { _mm256_loadu_ps(place) };
                _mm256_storeu_ps(place, _mm256_add_ps(before, sum[r][half]));
            }
        }
    }
}
