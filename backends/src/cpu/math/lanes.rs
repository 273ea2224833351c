//! Sixteen `f32` lanes as one value, in three widths of instruction set, and the element types
//! that load into them. Kernels are written once over [`Lanes`]; the macro `vectorised!` compiles
//! them for every level and picks one at run time.
//!
//! Contract: every lane is computed alone and alike, so a result never depends on where an element
//! stands; reductions over lanes follow one fixed tree. The portable form rounds products and sums
//! separately, the others contract them (fused multiply-add).

use bytemuck::Pod;
use half::{bf16, f16};

/// Number of lanes of every [`Lanes`] type.
pub const LANES: usize = 16;

/// Sixteen `f32` lanes.
///
/// A value of the AVX types may be made only inside code compiled for that level (the macro
/// `vectorised!` sees to it); that is the reason why the operations themselves are safe to call.
pub trait Lanes: Copy {
    /// Values that a loop can hold at once, besides those it works with: 2, 4 or 8.
    const STRIP: usize;

    /// All lanes equal to `value`.
    fn splat(value: f32) -> Self;
    /// Sixteen values from `at`.
    ///
    /// # Safety
    /// `at..at+16` is readable; no alignment is needed.
    unsafe fn load(at: *const f32) -> Self;
    /// Writes the sixteen lanes to `at`.
    ///
    /// # Safety
    /// `at..at+16` is writable; no alignment is needed.
    unsafe fn store(self, at: *mut f32);
    /// Like [`Lanes::store`], past the caches where there is an instruction for that. Whoever uses it
    /// ends with a fence before others read.
    ///
    /// # Safety
    /// As [`Lanes::store`], and `at` is a multiple of 64 bytes.
    #[inline(always)]
    unsafe fn stream(self, at: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { self.store(at) }
    }
    /// Sixteen bf16 values from `at`, widened (exact).
    ///
    /// # Safety
    /// `at..at+16` is readable.
    unsafe fn load_bf16(at: *const bf16) -> Self;
    /// Writes the lanes rounded to bf16, to nearest even; NaN stays NaN.
    ///
    /// # Safety
    /// `at..at+16` is writable.
    unsafe fn store_bf16(self, at: *mut bf16);
    /// [`Lanes::store_bf16`] as [`Lanes::stream`] does it.
    ///
    /// # Safety
    /// As [`Lanes::store_bf16`], and `at` is a multiple of 32 bytes.
    #[inline(always)]
    unsafe fn stream_bf16(self, at: *mut bf16) {
        // SAFETY: the caller's promise.
        unsafe { self.store_bf16(at) }
    }
    /// Sixteen f16 values from `at`, widened (exact).
    ///
    /// # Safety
    /// `at..at+16` is readable.
    unsafe fn load_f16(at: *const f16) -> Self;
    /// Writes the lanes rounded to f16, to nearest even; NaN stays NaN.
    ///
    /// # Safety
    /// `at..at+16` is writable.
    unsafe fn store_f16(self, at: *mut f16);
    /// Lane sum.
    fn add(self, other: Self) -> Self;
    /// Lane difference.
    fn sub(self, other: Self) -> Self;
    /// Lane product.
    fn mul(self, other: Self) -> Self;
    /// Lane quotient.
    fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, contracted except in the portable form.
    fn fma(self, factor: Self, addend: Self) -> Self;
    /// The larger lane; **`other` where either is NaN**.
    fn max(self, other: Self) -> Self;
    /// The smaller lane; **`other` where either is NaN**.
    fn min(self, other: Self) -> Self;
    /// Square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// Magnitude.
    fn abs(self) -> Self;
    /// Sign turned, zeros and NaN included.
    fn neg(self) -> Self;
    /// Nearest integer, ties to even; right for magnitudes below 2^22.
    fn round(self) -> Self;
    /// `self * 2^exponent` for integral `exponent` in [-252, 254], with one rounding.
    fn scale(self, exponent: Self) -> Self;
    /// `if self < other { yes } else { no }`; a NaN compares false.
    fn select_less(self, other: Self, yes: Self, no: Self) -> Self;
    /// `if self == other { yes } else { no }`; a NaN equals nothing.
    fn select_equal(self, other: Self, yes: Self, no: Self) -> Self;
    /// `if self is NaN { self } else { other }`.
    fn nan_or(self, other: Self) -> Self;
    /// The magnitude of `self` with the sign of `sign`.
    fn with_sign(self, sign: Self) -> Self;
    /// Rounded to bf16 and widened again.
    fn round_bf16(self) -> Self;
    /// Lanes 0, 0, 2, 2, 4, 4, ..
    fn even(self) -> Self;
    /// Lanes 1, 1, 3, 3, 5, 5, ..
    fn odd(self) -> Self;
    /// Lanes 1, 0, 3, 2, 5, 4, ..
    fn swap_pairs(self) -> Self;
    /// Lanes with the sign of 0, 2, 4, .. turned.
    fn neg_even(self) -> Self;
    /// Rows become columns; bits move unchanged.
    fn transpose(rows: &mut [Self; LANES]);

    /// The lanes as an array.
    #[inline(always)]
    fn array(self) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: the array has sixteen places.
        unsafe { self.store(out.as_mut_ptr()) };
        out
    }

    /// Sum of the lanes by halves: 16 → 8 → 4 → 2 → 1.
    #[inline(always)]
    fn sum(self) -> f32 {
        fold(self.array(), |a, b| a + b)
    }

    /// Largest lane; NaN if any lane is NaN.
    #[inline(always)]
    fn largest(self) -> f32 {
        fold(self.array(), |a, b| if a > b || a.is_nan() { a } else { b })
    }
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = combine(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// A stored element type that computes in `f32`.
pub trait Element: Pod + Send + Sync + 'static {
    /// Widened value (exact).
    fn to_f32(self) -> f32;
    /// Rounded value, to nearest even.
    fn from_f32(value: f32) -> Self;
    /// Sixteen elements.
    ///
    /// # Safety
    /// `at..at+16` is readable.
    unsafe fn load<V: Lanes>(at: *const Self) -> V;
    /// Writes sixteen elements.
    ///
    /// # Safety
    /// `at..at+16` is writable.
    unsafe fn store<V: Lanes>(value: V, at: *mut Self);
    /// Writes sixteen elements past the caches, if it can be done.
    ///
    /// # Safety
    /// `at..at+16` is writable, and begins at a multiple of its size.
    unsafe fn stream<V: Lanes>(value: V, at: *mut Self);
}

macro_rules! element {
    ($type:ty, $to:expr, $from:expr, $load:ident, $store:ident, $stream:ident) => {
        impl Element for $type {
            #[inline(always)]
            fn to_f32(self) -> f32 {
                $to(self)
            }
            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                $from(value)
            }
            #[inline(always)]
            unsafe fn load<V: Lanes>(at: *const Self) -> V {
                // SAFETY: the caller's promise.
                unsafe { V::$load(at) }
            }
            #[inline(always)]
            unsafe fn store<V: Lanes>(value: V, at: *mut Self) {
                // SAFETY: the caller's promise.
                unsafe { value.$store(at) }
            }
            #[inline(always)]
            unsafe fn stream<V: Lanes>(value: V, at: *mut Self) {
                // SAFETY: the caller's promise.
                unsafe { value.$stream(at) }
            }
        }
    };
}
element!(f32, |x| x, |x| x, load, store, stream);
element!(bf16, bf16::to_f32, bf16::from_f32, load_bf16, store_bf16, stream_bf16);
element!(f16, f16::to_f32, f16::from_f32, load_f16, store_f16, store_f16);

/// Elements `at..at+16` of `data`; lanes past its end are 0.
#[inline(always)]
pub fn get<V: Lanes, E: Element>(data: &[E], at: usize) -> V {
    if at + LANES <= data.len() {
        // SAFETY: the range lies inside the slice.
        unsafe { E::load(data.as_ptr().add(at)) }
    } else {
        get_part(data, at)
    }
}

#[inline(always)]
fn get_part<V: Lanes, E: Element>(data: &[E], at: usize) -> V {
    let mut part = [E::zeroed(); LANES];
    let count = data.len().saturating_sub(at);
    if count > 0 {
        part[..count].copy_from_slice(&data[at..]);
    }
    // SAFETY: the array has sixteen places.
    unsafe { E::load(part.as_ptr()) }
}

/// Writes lanes to `at..at+16` of `data`; lanes past its end are dropped.
#[inline(always)]
pub fn put<V: Lanes, E: Element>(data: &mut [E], at: usize, value: V) {
    if at + LANES <= data.len() {
        // SAFETY: the range lies inside the slice.
        unsafe { E::store(value, data.as_mut_ptr().add(at)) }
    } else if at < data.len() {
        let mut part = [E::zeroed(); LANES];
        // SAFETY: the array has sixteen places.
        unsafe { E::store(value, part.as_mut_ptr()) };
        let count = data.len() - at;
        data[at..].copy_from_slice(&part[..count]);
    }
}

/// The form for any machine: plain arithmetic on an array.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        let mut out = self.0;
        for value in &mut out {
            *value = f(*value);
        }
        Self(out)
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self.0;
        for (value, &second) in out.iter_mut().zip(&other.0) {
            *value = f(*value, second);
        }
        Self(out)
    }

    #[inline(always)]
    fn pick(self, lane: impl Fn(usize) -> usize) -> Self {
        let mut out = self.0;
        for (index, value) in out.iter_mut().enumerate() {
            *value = self.0[lane(index)];
        }
        Self(out)
    }
}

/// 1.5·2^23: adding it leaves the nearest integer in the low bits of the significand.
const ROUNDER: f32 = 12_582_912.0;

impl Lanes for Portable {
    const STRIP: usize = 2;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller's promise; the read asks for no alignment.
        Self(unsafe { at.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller's promise; the write asks for no alignment.
        unsafe { at.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn load_bf16(at: *const bf16) -> Self {
        // SAFETY: the caller's promise.
        let bits = unsafe { at.cast::<[u16; LANES]>().read_unaligned() };
        let mut out = [0.0; LANES];
        for (value, &bits) in out.iter_mut().zip(&bits) {
            *value = f32::from_bits(u32::from(bits) << 16);
        }
        Self(out)
    }
    #[inline(always)]
    unsafe fn store_bf16(self, at: *mut bf16) {
        let mut bits = [0_u16; LANES];
        for (bits, value) in bits.iter_mut().zip(self.0) {
            *bits = bf16_bits(value);
        }
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[u16; LANES]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn load_f16(at: *const f16) -> Self {
        // SAFETY: the caller's promise.
        let stored = unsafe { at.cast::<[f16; LANES]>().read_unaligned() };
        Self(stored.map(f16::to_f32))
    }
    #[inline(always)]
    unsafe fn store_f16(self, at: *mut f16) {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[f16; LANES]>().write_unaligned(self.0.map(f16::from_f32)) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, factor: Self, addend: Self) -> Self {
        self.mul(factor).add(addend)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.map(f32::sqrt)
    }
    #[inline(always)]
    fn abs(self) -> Self {
        self.map(f32::abs)
    }
    #[inline(always)]
    fn neg(self) -> Self {
        self.map(|x| -x)
    }
    #[inline(always)]
    fn round(self) -> Self {
        self.map(|x| (x + ROUNDER) - ROUNDER)
    }
    #[inline(always)]
    fn scale(self, exponent: Self) -> Self {
        self.zip(exponent, |x, n| {
            let n = (n + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
            let half = n >> 1;
            let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
            x * power(half) * power(n.wrapping_sub(half))
        })
    }
    #[inline(always)]
    fn select_less(self, other: Self, yes: Self, no: Self) -> Self {
        let mut out = no.0;
        for lane in 0..LANES {
            out[lane] = if self.0[lane] < other.0[lane] { yes.0[lane] } else { no.0[lane] };
        }
        Self(out)
    }
    #[inline(always)]
    fn select_equal(self, other: Self, yes: Self, no: Self) -> Self {
        let mut out = no.0;
        for lane in 0..LANES {
            out[lane] = if self.0[lane] == other.0[lane] { yes.0[lane] } else { no.0[lane] };
        }
        Self(out)
    }
    #[inline(always)]
    fn nan_or(self, other: Self) -> Self {
        self.zip(other, |a, b| if a.is_nan() { a } else { b })
    }
    #[inline(always)]
    fn with_sign(self, sign: Self) -> Self {
        self.zip(sign, f32::copysign)
    }
    #[inline(always)]
    fn round_bf16(self) -> Self {
        self.map(|x| f32::from_bits(u32::from(bf16_bits(x)) << 16))
    }
    #[inline(always)]
    fn even(self) -> Self {
        self.pick(|lane| lane & !1)
    }
    #[inline(always)]
    fn odd(self) -> Self {
        self.pick(|lane| lane | 1)
    }
    #[inline(always)]
    fn swap_pairs(self) -> Self {
        self.pick(|lane| lane ^ 1)
    }
    #[inline(always)]
    fn neg_even(self) -> Self {
        let mut out = self.0;
        for pair in 0..LANES / 2 {
            out[2 * pair] = -out[2 * pair];
        }
        Self(out)
    }
    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        for row in 0..LANES {
            for column in row + 1..LANES {
                let held = rows[row].0[column];
                rows[row].0[column] = rows[column].0[row];
                rows[column].0[row] = held;
            }
        }
    }
}

/// bf16 bits of `value`, to nearest even; a NaN keeps its sign and upper bits and becomes quiet.
#[inline(always)]
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let chosen = if value.is_nan() { bits | 0x0040_0000 } else { rounded };
    (chosen >> 16) as u16
}
