//! The operations on tiles on eight tiles in memory, one set for each thread, for machines without AMX.
//!
//! The arithmetic of a product is that of Intel's description of `tdpbf16ps`: for each sum, elements
//! of K with even and with odd numbers are two chains of fused multiply-adds from zero, which are
//! added to each other and then to the sum; every step rounds to nearest even, takes denormals as
//! zeros and gives zeros for them. What a NaN carries is not described and not reproduced.
//! Tiles that are not configured, or given back, are not there: using them panics.

use super::{ROW_BYTES, ROWS, TileOps};
use crate::cpu::simd::Level;
use std::cell::{Cell, UnsafeCell};

/// Tiles in memory.
pub(super) struct Emulated;

/// Words of a row, and of a tile.
const WIDTH: usize = ROW_BYTES / 4;
const WORDS: usize = ROWS * WIDTH;

/// Eight tiles.
#[repr(align(64))]
struct Eight([UnsafeCell<[u32; WORDS]>; 8]);

thread_local! {
    static CONFIGURED: Cell<bool> = const { Cell::new(false) };
    static TILES: Eight = const { Eight([const { UnsafeCell::new([0; WORDS]) }; 8]) };
}

/// The place of a tile of this thread.
fn tile(index: usize) -> *mut [u32; WORDS] {
    assert!(CONFIGURED.get(), "tiles are used before they are configured on this thread");
    TILES.with(|tiles| tiles.0[index].get())
}

impl TileOps for Emulated {
    fn configure() {
        CONFIGURED.set(true);
        // What a kernel finds in tiles that it has not filled is of no use to it.
        for index in 0..8 {
            // SAFETY: a tile of this thread, which nobody else refers to.
            unsafe { (*tile(index)).fill(f32::NAN.to_bits()) };
        }
    }

    fn release() {
        CONFIGURED.set(false);
    }

    unsafe fn zero<const T: usize>() {
        // SAFETY: a tile of this thread, which nobody else refers to.
        unsafe { (*tile(T)).fill(0) }
    }

    unsafe fn load<const T: usize>(from: *const u8, pitch: usize) {
        let to = tile(T).cast::<u8>();
        for row in 0..ROWS {
            // SAFETY: the caller's promise, and a row of a tile.
            unsafe {
                let from = from.add(row * pitch);
                std::ptr::copy_nonoverlapping(from, to.add(row * ROW_BYTES), ROW_BYTES);
            }
        }
    }

    unsafe fn stream<const T: usize>(from: *const u8, pitch: usize) {
        // SAFETY: the caller's promise.
        unsafe { Self::load::<T>(from, pitch) }
    }

    unsafe fn multiply<const C: usize, const A: usize, const B: usize>() {
        const { assert!(A != B && A != C && B != C, "three tiles") };
        // SAFETY: three different tiles of this thread, which nobody else refers to.
        unsafe { multiply(&mut *tile(C), &*tile(A), &*tile(B)) }
    }

    unsafe fn store<const T: usize>(to: *mut u8, pitch: usize) {
        let from = tile(T).cast::<u8>();
        for row in 0..ROWS {
            // SAFETY: the caller's promise, and a row of a tile.
            unsafe {
                let to = to.add(row * pitch);
                std::ptr::copy_nonoverlapping(from.add(row * ROW_BYTES), to, ROW_BYTES);
            }
        }
    }
}

/// `tdpbf16ps`.
fn multiply(c: &mut [u32; WORDS], a: &[u32; WORDS], b: &[u32; WORDS]) {
    match Level::detect().usable() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the level.
        Level::Avx512 | Level::Avx512Bf16 => unsafe { x86::multiply_512(c, a, b) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { x86::multiply_256(c, a, b) },
        _ => steps(c, a, b, fused_by_doubles),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{WORDS, steps};

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
    pub(super) fn multiply_512(c: &mut [u32; WORDS], a: &[u32; WORDS], b: &[u32; WORDS]) {
        steps(c, a, b, f32::mul_add);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn multiply_256(c: &mut [u32; WORDS], a: &[u32; WORDS], b: &[u32; WORDS]) {
        steps(c, a, b, f32::mul_add);
    }
}

/// `a·b + sum`, rounded once, for factors that are bf16 values: their product is exact in doubles,
/// and doubles have more than twice the digits of the sum, so that rounding it twice changes
/// nothing where the result is no denormal.
#[inline(always)]
fn fused_by_doubles(a: f32, b: f32, sum: f32) -> f32 {
    (f64::from(a) * f64::from(b) + f64::from(sum)) as f32
}

/// The steps of the description, with any fused multiply-add.
#[inline(always)]
fn steps(
    c: &mut [u32; WORDS],
    a: &[u32; WORDS],
    b: &[u32; WORDS],
    fused: impl Fn(f32, f32, f32) -> f32,
) {
    for (sums, a) in c.chunks_exact_mut(WIDTH).zip(a.chunks_exact(WIDTH)) {
        let (mut even, mut odd) = ([0f32; WIDTH], [0f32; WIDTH]);
        for (a, b) in a.iter().zip(b.chunks_exact(WIDTH)) {
            let (a_even, a_odd) = (low(*a), high(*a));
            for column in 0..WIDTH {
                even[column] = flush(fused(a_even, low(b[column]), even[column]));
                odd[column] = flush(fused(a_odd, high(b[column]), odd[column]));
            }
        }
        for (column, sum) in sums.iter_mut().enumerate() {
            let pair = flush(even[column] + odd[column]);
            *sum = flush(flush(f32::from_bits(*sum)) + pair).to_bits();
        }
    }
}

/// The first of a pair of bf16.
#[inline(always)]
fn low(word: u32) -> f32 {
    flush(f32::from_bits(word << 16))
}

/// The second of a pair of bf16.
#[inline(always)]
fn high(word: u32) -> f32 {
    flush(f32::from_bits(word & 0xffff_0000))
}

/// A denormal as a zero of its sign.
#[inline(always)]
fn flush(value: f32) -> f32 {
    let bits = value.to_bits();
    let kept = if bits & 0x7f80_0000 == 0 { 0x8000_0000 } else { u32::MAX };
    f32::from_bits(bits & kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(first: f32, second: f32) -> u32 {
        (first.to_bits() >> 16) | (second.to_bits() & 0xffff_0000)
    }

    /// A tile of pairs by row and column.
    fn tile_of(of: impl Fn(usize, usize) -> u32) -> [u32; WORDS] {
        std::array::from_fn(|at| of(at / WIDTH, at % WIDTH))
    }

    fn value(bits: u32) -> f32 {
        f32::from_bits(bits)
    }

    #[test]
    fn even_and_odd_elements_are_chains_of_their_own() {
        // In even places 1, 2⁻²⁴ and 2⁻²⁴ by turns would vanish one by one after the 1; in odd ones
        // they add up first.
        let tiny = 2f32.powi(-24);
        let a = tile_of(|_, k| match k {
            0 => pair(1.0, tiny),
            1 => pair(0.0, tiny),
            2 => pair(tiny, 0.0),
            _ => 0,
        });
        let b = tile_of(|_, _| pair(1.0, 1.0));
        let mut c = tile_of(|_, _| 0);
        multiply(&mut c, &a, &b);
        // Even: 1 + 2⁻²⁴ = 1 (ties to even). Odd: 2⁻²³. Sum: 1 + 2⁻²³.
        assert!(c.iter().all(|sum| value(*sum) == 1.0 + 2.0 * tiny), "{:e}", value(c[0]));
        // They meet each other before the older sum: 2²⁴ + (1 + 1) where 1 alone would vanish.
        let ones = tile_of(|_, k| if k == 0 { pair(1.0, 1.0) } else { 0 });
        let mut c = tile_of(|_, _| 16_777_216f32.to_bits());
        multiply(&mut c, &ones, &b);
        assert!(c.iter().all(|sum| value(*sum) == 16_777_218.0));
    }

    #[test]
    fn denormals_are_zeros_at_every_step() {
        let (least, denormal) = (f32::MIN_POSITIVE, f32::MIN_POSITIVE / 2.0);
        let ones = tile_of(|_, _| pair(1.0, 1.0));
        let one = |first: f32, second: f32| {
            let a = tile_of(|_, k| if k == 0 { pair(first, second) } else { 0 });
            let mut c = tile_of(|_, _| 0);
            multiply(&mut c, &a, &ones);
            value(c[0])
        };
        // Operands, sums of a chain, pairs.
        assert_eq!(one(denormal, 0.0), 0.0);
        assert_eq!(one(least, 0.0), least);
        assert_eq!(one(1.5 * least, -least), 0.0);
        let mut c = tile_of(|_, _| denormal.to_bits());
        multiply(&mut c, &tile_of(|_, _| 0), &ones);
        assert_eq!(value(c[0]), 0.0);
        // Results of a product.
        let a = tile_of(|_, k| if k == 0 { pair(least, 0.0) } else { 0 });
        let halves = tile_of(|_, _| pair(0.5, 0.5));
        let mut c = tile_of(|_, _| 0);
        multiply(&mut c, &a, &halves);
        assert_eq!(value(c[0]), 0.0);
    }

    #[test]
    fn infinities_and_nan_go_on() {
        let b = tile_of(|k, n| if n == 1 && k == 0 { pair(0.0, 1.0) } else { pair(1.0, 1.0) });
        let a = tile_of(|_, k| if k == 0 { pair(f32::INFINITY, 1.0) } else { 0 });
        let mut c = tile_of(|_, _| 0);
        multiply(&mut c, &a, &b);
        assert_eq!(value(c[0]), f32::INFINITY);
        assert!(value(c[1]).is_nan());
    }

    /// Both ways of fusing give the same bits, also where sums nearly cancel or underflow.
    #[test]
    fn every_body_gives_the_same_bits() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u32
        };
        // Finite values with exponents over a narrow, a wide and a low range.
        for (base, range) in [(120, 14), (1, 250), (1, 70)] {
            for _ in 0..50 {
                let mut element = |mask: u32| {
                    let bits = next();
                    let exponent = base + (bits >> 8) % range;
                    (bits & 0x8000_0000 | exponent << 23 | bits & 0x007f_ffff) & mask
                };
                let [a, b]: [[u32; WORDS]; 2] = std::array::from_fn(|_| {
                    std::array::from_fn(|_| element(0xffff_0000) >> 16 | element(0xffff_0000))
                });
                let c: [u32; WORDS] = std::array::from_fn(|_| element(u32::MAX));
                let (mut fast, mut plain) = (c, c);
                multiply(&mut fast, &a, &b);
                steps(&mut plain, &a, &b, fused_by_doubles);
                let same =
                    |(x, y): (&u32, &u32)| x == y || value(*x).is_nan() && value(*y).is_nan();
                assert!(fast.iter().zip(&plain).all(same), "{base} {range}");
            }
        }
    }
}
