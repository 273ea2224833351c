//! The AVX2 and AVX-512 forms of [`Lanes`].
//!
//! Contract: made and used only inside functions compiled for the level (see `vectorised!`). Every
//! operation is one or two instructions; both forms round alike and so give the same bits.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::lanes::{LANES, Lanes};

/// Two 256-bit registers: AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(__m256, __m256);

/// One 512-bit register: AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub struct Avx512(pub __m512);

macro_rules! lanewise {
    ($($name:ident($($arg:ident),*) = |$($each:ident),*| $body:expr;)*) => {
        $(#[inline(always)]
        fn $name(self $(, $arg: Self)*) -> Self {
            #[inline(always)]
            fn one($($each: __m256),*) -> __m256 {
                // SAFETY: a value of this type exists only where AVX2, FMA and F16C do.
                unsafe { $body }
            }
            Self(one(self.0 $(, $arg.0)*), one(self.1 $(, $arg.1)*))
        })*
    };
}

#[inline(always)]
unsafe fn narrow_bits_256(value: __m256) -> __m256i {
    // SAFETY: the caller runs on AVX2.
    unsafe {
        let bits = _mm256_castps_si256(value);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
        let rounded = _mm256_add_epi32(bits, bias);
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(value, value));
        _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
    }
}

#[inline(always)]
unsafe fn power_256(exponent: __m256i) -> __m256 {
    // SAFETY: the caller runs on AVX2.
    unsafe {
        let biased = _mm256_add_epi32(exponent, _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
}

impl Lanes for Avx2 {
    const STRIP: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: reached only from code compiled for AVX2.
        let all = unsafe { _mm256_set1_ps(value) };
        Self(all, all)
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_ps(at, self.0);
            _mm256_storeu_ps(at.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn stream(self, at: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_stream_ps(at, self.0);
            _mm256_stream_ps(at.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(at: *const bf16) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.add(8).cast()));
            Self(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, at: *mut bf16) {
        // SAFETY: the caller's promise.
        unsafe {
            let packed = _mm256_packus_epi32(narrow_bits_256(self.0), narrow_bits_256(self.1));
            _mm256_storeu_si256(at.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }
    #[inline(always)]
    unsafe fn stream_bf16(self, at: *mut bf16) {
        // SAFETY: the caller's promise.
        unsafe {
            let packed = _mm256_packus_epi32(narrow_bits_256(self.0), narrow_bits_256(self.1));
            _mm256_stream_si256(at.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }
    #[inline(always)]
    unsafe fn load_f16(at: *const f16) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let low = _mm256_cvtph_ps(_mm_loadu_si128(at.cast()));
            Self(low, _mm256_cvtph_ps(_mm_loadu_si128(at.add(8).cast())))
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, at: *mut f16) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm_storeu_si128(at.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0));
            let upper = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1);
            _mm_storeu_si128(at.add(8).cast(), upper);
        }
    }
    lanewise! {
        add(other) = |a, b| _mm256_add_ps(a, b);
        sub(other) = |a, b| _mm256_sub_ps(a, b);
        mul(other) = |a, b| _mm256_mul_ps(a, b);
        div(other) = |a, b| _mm256_div_ps(a, b);
        fma(factor, addend) = |a, b, c| _mm256_fmadd_ps(a, b, c);
        max(other) = |a, b| _mm256_max_ps(a, b);
        min(other) = |a, b| _mm256_min_ps(a, b);
        sqrt() = |a| _mm256_sqrt_ps(a);
        abs() = |a| _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        neg() = |a| _mm256_xor_ps(_mm256_set1_ps(-0.0), a);
        round() = |a| _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        scale(exponent) = |a, n| {
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let first = _mm256_mul_ps(a, power_256(half));
            _mm256_mul_ps(first, power_256(_mm256_sub_epi32(n, half)))
        };
        select_less(other, yes, no) = |a, b, yes, no| {
            _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
        };
        select_equal(other, yes, no) = |a, b, yes, no| {
            _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b))
        };
        nan_or(other) = |a, b| _mm256_blendv_ps(b, a, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a));
        with_sign(sign) = |a, sign| {
            let mask = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_andnot_ps(mask, a), _mm256_and_ps(mask, sign))
        };
        round_bf16() = |a| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(narrow_bits_256(a)));
        even() = |a| _mm256_moveldup_ps(a);
        odd() = |a| _mm256_movehdup_ps(a);
        swap_pairs() = |a| _mm256_permute_ps::<0b10_11_00_01>(a);
        neg_even() = |a| {
            _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi64x(0x8000_0000)))
        };
    }
    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        let mut from = [[0.0_f32; LANES]; LANES];
        let mut to = from;
        for (row, values) in rows.iter().zip(&mut from) {
            *values = row.array();
        }
        for row in 0..LANES {
            for column in 0..LANES {
                to[column][row] = from[row][column];
            }
        }
        for (row, values) in rows.iter_mut().zip(&to) {
            // SAFETY: sixteen values stand at the pointer.
            *row = unsafe { Self::load(values.as_ptr()) };
        }
    }
}

macro_rules! lanewise_512 {
    ($($name:ident($($arg:ident),*) = |$($each:ident),*| $body:expr;)*) => {
        $(#[inline(always)]
        fn $name(self $(, $arg: Self)*) -> Self {
            #[inline(always)]
            fn one($($each: __m512),*) -> __m512 {
                // SAFETY: a value of this type exists only where AVX-512 F, BW, DQ and VL do.
                unsafe { $body }
            }
            Self(one(self.0 $(, $arg.0)*))
        })*
    };
}

#[inline(always)]
unsafe fn narrow_bits_512(value: __m512) -> __m512i {
    // SAFETY: the caller runs on AVX-512.
    unsafe {
        let bits = _mm512_castps_si512(value);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
        let rounded = _mm512_add_epi32(bits, bias);
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
        let chosen = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
        _mm512_srli_epi32::<16>(chosen)
    }
}

#[inline(always)]
unsafe fn join_low(x: __m512, y: __m512) -> __m512 {
    // SAFETY: the caller runs on AVX-512.
    unsafe { _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(x), _mm512_castps_pd(y))) }
}

#[inline(always)]
unsafe fn join_high(x: __m512, y: __m512) -> __m512 {
    // SAFETY: the caller runs on AVX-512.
    unsafe { _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(x), _mm512_castps_pd(y))) }
}

impl Lanes for Avx512 {
    const STRIP: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: reached only from code compiled for AVX-512.
        Self(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { _mm512_loadu_ps(at) })
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(at, self.0) }
    }
    #[inline(always)]
    unsafe fn stream(self, at: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_stream_ps(at, self.0) }
    }
    #[inline(always)]
    unsafe fn load_bf16(at: *const bf16) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, at: *mut bf16) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_si256(at.cast(), _mm512_cvtepi32_epi16(narrow_bits_512(self.0)));
        }
    }
    #[inline(always)]
    unsafe fn stream_bf16(self, at: *mut bf16) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_stream_si256(at.cast(), _mm512_cvtepi32_epi16(narrow_bits_512(self.0)));
        }
    }
    #[inline(always)]
    unsafe fn load_f16(at: *const f16) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) })
    }
    #[inline(always)]
    unsafe fn store_f16(self, at: *mut f16) {
        // SAFETY: the caller's promise.
        unsafe {
            let narrow = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
            _mm256_storeu_si256(at.cast(), narrow);
        }
    }
    lanewise_512! {
        add(other) = |a, b| _mm512_add_ps(a, b);
        sub(other) = |a, b| _mm512_sub_ps(a, b);
        mul(other) = |a, b| _mm512_mul_ps(a, b);
        div(other) = |a, b| _mm512_div_ps(a, b);
        fma(factor, addend) = |a, b, c| _mm512_fmadd_ps(a, b, c);
        max(other) = |a, b| _mm512_max_ps(a, b);
        min(other) = |a, b| _mm512_min_ps(a, b);
        sqrt() = |a| _mm512_sqrt_ps(a);
        abs() = |a| _mm512_andnot_ps(_mm512_set1_ps(-0.0), a);
        neg() = |a| _mm512_xor_ps(_mm512_set1_ps(-0.0), a);
        round() = |a| {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        };
        scale(exponent) = |a, n| _mm512_scalef_ps(a, n);
        select_less(other, yes, no) = |a, b, yes, no| {
            _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), yes)
        };
        select_equal(other, yes, no) = |a, b, yes, no| {
            _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b), yes)
        };
        nan_or(other) = |a, b| {
            _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a), a)
        };
        with_sign(sign) = |a, sign| {
            let mask = _mm512_set1_ps(-0.0);
            _mm512_or_ps(_mm512_andnot_ps(mask, a), _mm512_and_ps(mask, sign))
        };
        round_bf16() = |a| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(narrow_bits_512(a)));
        even() = |a| _mm512_moveldup_ps(a);
        odd() = |a| _mm512_movehdup_ps(a);
        swap_pairs() = |a| _mm512_permute_ps::<0b10_11_00_01>(a);
        neg_even() = |a| {
            _mm512_xor_ps(a, _mm512_castsi512_ps(_mm512_set1_epi64(0x8000_0000)))
        };
    }
    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        // SAFETY: a value of this type exists only where AVX-512 does.
        unsafe {
            let mut a = [_mm512_setzero_ps(); LANES];
            for pair in 0..8 {
                let (x, y) = (rows[2 * pair].0, rows[2 * pair + 1].0);
                a[2 * pair] = _mm512_unpacklo_ps(x, y);
                a[2 * pair + 1] = _mm512_unpackhi_ps(x, y);
            }
            let mut b = [_mm512_setzero_ps(); LANES];
            for quad in 0..4 {
                let q = 4 * quad;
                b[q] = join_low(a[q], a[q + 2]);
                b[q + 1] = join_high(a[q], a[q + 2]);
                b[q + 2] = join_low(a[q + 1], a[q + 3]);
                b[q + 3] = join_high(a[q + 1], a[q + 3]);
            }
            // b[4q + i] holds, in 128-bit part p, column 4p + i of rows 4q..4q+4.
            for i in 0..4 {
                let even_low = _mm512_shuffle_f32x4::<0b10_00_10_00>(b[i], b[4 + i]);
                let odd_low = _mm512_shuffle_f32x4::<0b11_01_11_01>(b[i], b[4 + i]);
                let even_high = _mm512_shuffle_f32x4::<0b10_00_10_00>(b[8 + i], b[12 + i]);
                let odd_high = _mm512_shuffle_f32x4::<0b11_01_11_01>(b[8 + i], b[12 + i]);
                rows[i].0 = _mm512_shuffle_f32x4::<0b10_00_10_00>(even_low, even_high);
                rows[8 + i].0 = _mm512_shuffle_f32x4::<0b11_01_11_01>(even_low, even_high);
                rows[4 + i].0 = _mm512_shuffle_f32x4::<0b10_00_10_00>(odd_low, odd_high);
                rows[12 + i].0 = _mm512_shuffle_f32x4::<0b11_01_11_01>(odd_low, odd_high);
            }
        }
    }
}
