//! Vector arithmetic of the CPU backend: sixteen-lane values for every instruction set, and `f32`
//! exp, tanh, GELU (tanh form) and SiLU made of them.
//!
//! Contract: the same element gives the same bits wherever it stands in a slice; NaN stays NaN;
//! infinities give the limits. Accuracy (relative, against exact values): exp 2e-7 (also where the
//! result is subnormal, within one unit there), tanh and SiLU 1e-6; GELU 1e-6 down to
//! |GELU(u)| = 3e-4·|u|, and in its tail 2e-7·|ln| of that ratio. Speeds for tables of constants
//! are not the aim here: those want a correctly rounded exp (see `rows`).

pub mod lanes;
#[cfg(target_arch = "x86_64")]
pub mod lanes_x86;

pub use lanes::{Element, LANES, Lanes};
use lanes::{get, put};

/// Compiles a function body for every level and picks the form at run time.
///
/// `vectorised! { pub fn name<V, T: Bound>(argument: Type) -> Type { body } }` makes
/// `name(level, argument)`; in the body `V` is the [`Lanes`] type of the level, or of the highest one
/// that the machine has.
macro_rules! vectorised {
    ($(#[$note:meta])* $vis:vis fn $name:ident<$v:ident $(, $g:ident: $bound:path)*>(
        $($arg:ident: $type:ty),* $(,)?
    ) $(-> $result:ty)? $body:block) => {
        $(#[$note])*
        $vis fn $name<$($g: $bound),*>(
            level: $crate::cpu::simd::Level, $($arg: $type),*
        ) $(-> $result)? {
            #[inline(always)]
            fn lanes<$v: $crate::cpu::math::Lanes, $($g: $bound),*>(
                $($arg: $type),*
            ) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2<$($g: $bound),*>($($arg: $type),*) $(-> $result)? {
                lanes::<$crate::cpu::math::lanes_x86::Avx2, $($g),*>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512<$($g: $bound),*>($($arg: $type),*) $(-> $result)? {
                lanes::<$crate::cpu::math::lanes_x86::Avx512, $($g),*>($($arg),*)
            }

            match level.usable() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the machine has the instructions of a usable level.
                $crate::cpu::simd::Level::Avx2 => unsafe { avx2::<$($g),*>($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::cpu::simd::Level::Avx512 | $crate::cpu::simd::Level::Avx512Bf16 => unsafe {
                    avx512::<$($g),*>($($arg),*)
                },
                _ => lanes::<$crate::cpu::math::lanes::Portable, $($g),*>($($arg),*),
            }
        }
    };
}
pub(crate) use vectorised;

/// ln 2 in two parts: the first has nine significant bits: its product with an exponent is exact.
pub(crate) const LN2_HIGH: f32 = 0.693_359_4;
pub(crate) const LN2_LOW: f32 = -2.121_944_4e-4;

/// Polynomial in `x`, highest power first.
#[inline(always)]
pub fn polynomial<V: Lanes, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let mut value = V::splat(coefficients[0]);
    for &next in &coefficients[1..] {
        value = value.fma(x, V::splat(next));
    }
    value
}

/// e^x on lanes.
#[inline(always)]
pub fn exp<V: Lanes>(x: V) -> V {
    // min and max give their argument back where it is NaN; ±105 and 89 lie past the range of f32.
    let x = V::splat(-105.0).max(V::splat(89.0).min(x));
    let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
    let r = n.fma(V::splat(-LN2_HIGH), x);
    let r = n.fma(V::splat(-LN2_LOW), r);
    let p = polynomial(
        r,
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5],
    );
    p.fma(r.mul(r), r).add(V::splat(1.0)).scale(n)
}

/// 2^x on lanes for x ≤ 128, degree 6: relative error 1e-7; 0 below -150.
#[inline(always)]
pub fn exp2<V: Lanes>(x: V) -> V {
    let x = V::splat(-151.0).max(x);
    let n = x.round();
    let p = polynomial(
        x.sub(n),
        [
            1.559_467_8e-4,
            1.340_664_3e-3,
            9.617_693e-3,
            5.550_310_3e-2,
            0.240_226_52,
            std::f32::consts::LN_2,
            1.0,
        ],
    );
    p.scale(n)
}

/// What [`exp2_rough`] gives for 0.
pub const ROUGH_ONE: f32 = 0.999_999_3;

/// 2^x as [`exp2`] with degree 4: relative error 3e-6, for results that are rounded to bf16.
#[inline(always)]
pub fn exp2_rough<V: Lanes>(x: V) -> V {
    let x = V::splat(-151.0).max(x);
    let n = x.round();
    let p =
        polynomial(x.sub(n), [9.570_102e-3, 5.591_786e-2, 0.240_247_44, 0.693_121_8, ROUGH_ONE]);
    p.scale(n)
}

/// tanh on lanes.
#[inline(always)]
pub fn tanh<V: Lanes>(x: V) -> V {
    let z = x.mul(x);
    let p = polynomial(
        z,
        [-5.704_988_7e-3, 2.063_908_8e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8],
    );
    // The sign is that of x at 0 too.
    let small = p.fma(z.mul(x), x).with_sign(x);
    let size = x.abs();
    let e = exp(size.add(size)).add(V::splat(1.0));
    let large = V::splat(1.0).sub(V::splat(2.0).div(e)).with_sign(x);
    size.select_less(V::splat(0.625), small, large)
}

/// x·σ(argument): the shared end of SiLU and GELU, without overflow on either side.
#[inline(always)]
fn times_sigmoid<V: Lanes>(x: V, argument: V) -> V {
    let one = V::splat(1.0);
    let e = exp(argument.abs().neg());
    let share = argument.select_less(V::splat(0.0), e, one).div(e.add(one));
    // The bound keeps 0·∞ out at -∞; e is already 0 there.
    V::splat(-200.0).max(x).mul(share)
}

/// x·σ(x) on lanes.
#[inline(always)]
pub fn silu<V: Lanes>(x: V) -> V {
    times_sigmoid(x, x)
}

/// GELU in its tanh form on lanes: 0.5u(1+tanh(√(2/π)(u+0.044715u³))) = u·σ(2√(2/π)(u+0.044715u³)).
#[inline(always)]
pub fn gelu_tanh<V: Lanes>(u: V) -> V {
    const LINEAR: f32 = 1.595_769_2;
    const CUBIC: f32 = 0.071_354_814;
    let inner = u.mul(u).fma(V::splat(CUBIC), V::splat(LINEAR));
    times_sigmoid(u, u.mul(inner))
}

macro_rules! slices {
    ($($(#[$note:meta])* $module:ident $name:ident;)*) => {
        $(vectorised! {
            $(#[$note])*
            ///
            /// # Panics
            /// When the slices differ in length.
            pub fn $name<V>(input: &[f32], output: &mut [f32]) {
                assert_eq!(input.len(), output.len(), "input and output have one length");
                for at in (0..input.len()).step_by(LANES) {
                    put(output, at, $module::<V>(get(input, at)));
                }
            }
        })*
    };
}
slices! {
    /// output = e^input.
    exp exp_slice;
    /// output = tanh(input).
    tanh tanh_slice;
    /// output = GELU(input), tanh form.
    gelu_tanh gelu_tanh_slice;
    /// output = input·σ(input).
    silu silu_slice;
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::super::simd::Level;
    use super::*;

    fn sweep() -> Vec<f32> {
        let mut points: Vec<f32> = (-110_000..=110_000).map(|i| i as f32 * 1e-3 + 3.3e-5).collect();
        for power in -40..0 {
            for step in 0..16 {
                let x = (1.0 + step as f32 / 16.0) * 2.0_f32.powi(power);
                points.extend([x, -x]);
            }
        }
        points
    }

    fn worst(slice: fn(Level, &[f32], &mut [f32]), exact: fn(f64) -> f64, floor: fn(f64) -> f64) {
        let input = sweep();
        for level in Level::available() {
            let mut output = vec![0.0; input.len()];
            slice(level, &input, &mut output);
            for (&x, &y) in input.iter().zip(&output) {
                let want = exact(f64::from(x));
                if want > f64::from(f32::MAX) {
                    assert_eq!(y, f32::INFINITY, "{level:?} at {x}");
                    continue;
                }
                let error = (f64::from(y) - want).abs();
                assert!(error <= floor(f64::from(x)), "{level:?} at {x}: {y} for {want}");
            }
        }
    }

    fn exact_gelu(u: f64) -> f64 {
        let s = 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (u + 0.044715 * u * u * u);
        u / (1.0 + (-s).exp())
    }

    #[test]
    fn functions_are_accurate_at_every_level() {
        worst(exp_slice, f64::exp, |x| 2e-7 * x.exp() + 1.5e-45);
        worst(tanh_slice, f64::tanh, |x| 1e-6 * x.tanh().abs());
        worst(
            silu_slice,
            |x| x / (1.0 + (-x).exp()),
            |x| 1e-6 * (x / (1.0 + (-x).exp())).abs() + 1e-43,
        );
        worst(gelu_tanh_slice, exact_gelu, |u| {
            let value = exact_gelu(u).abs();
            let tail = if value > 0.0 { (u.abs() / value).max(1.0).ln() } else { 0.0 };
            (1e-6_f64).max(2e-7 * tail) * value + 1e-43
        });
    }

    #[test]
    fn limits_and_nan() {
        let input = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e30, -1e30, 0.0, -0.0];
        let mut output = [0.0; 7];
        let inf = f32::INFINITY;
        for level in Level::available() {
            let mut check = |slice: fn(Level, &[f32], &mut [f32]), want: [f32; 7]| {
                slice(level, &input, &mut output);
                for (got, want) in output.iter().zip(want) {
                    assert!(got.is_nan() == want.is_nan(), "{level:?} {output:?}");
                    assert!(want.is_nan() || *got == want, "{level:?} {output:?}");
                }
            };
            check(exp_slice, [inf, 0.0, f32::NAN, inf, 0.0, 1.0, 1.0]);
            check(tanh_slice, [1.0, -1.0, f32::NAN, 1.0, -1.0, 0.0, 0.0]);
            check(silu_slice, [inf, 0.0, f32::NAN, 1e30, 0.0, 0.0, 0.0]);
            check(gelu_tanh_slice, [inf, 0.0, f32::NAN, 1e30, 0.0, 0.0, 0.0]);
        }
    }

    #[test]
    fn position_in_the_slice_does_not_matter() {
        let input: Vec<f32> = (0..100).map(|i| (i as f32 * 0.77).sin() * 9.0).collect();
        for level in Level::available() {
            for slice in [exp_slice, tanh_slice, gelu_tanh_slice, silu_slice] {
                let mut whole = vec![0.0; input.len()];
                slice(level, &input, &mut whole);
                for (start, length) in [(0, 1), (3, 17), (50, 15), (99, 1), (7, 33), (5, 0)] {
                    let mut part = vec![9.0; length + 2];
                    slice(level, &input[start..start + length], &mut part[1..=length]);
                    assert_eq!(part[0], 9.0);
                    assert_eq!(part[length + 1], 9.0);
                    for (a, b) in part[1..=length].iter().zip(&whole[start..]) {
                        assert_eq!(a.to_bits(), b.to_bits());
                    }
                }
            }
        }
    }

    vectorised! {
        fn convert<V, I: Element, O: Element>(input: &[I], output: &mut [O]) {
            for at in (0..input.len()).step_by(LANES) {
                put::<V, O>(output, at, get(input, at));
            }
        }
    }

    #[test]
    fn half_conversions_agree_with_scalar_rounding() {
        let mut input: Vec<f32> = (0..40_000_u32)
            .map(|i| f32::from_bits(i.wrapping_mul(107_374).wrapping_add(i << 7)))
            .collect();
        input.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, 1e-45]);
        input.extend([1.001_953_1, 1.005_859_4, 65_519.99, 65_520.0, 2.98e-8]);
        for level in Level::available() {
            let mut brain = vec![bf16::ZERO; input.len()];
            convert(level, &input, &mut brain);
            let mut half = vec![f16::ZERO; input.len()];
            convert(level, &input, &mut half);
            let mut back = vec![0.0_f32; input.len()];
            convert(level, &brain, &mut back);
            for (at, &x) in input.iter().enumerate() {
                let want = bf16::from_f32(x);
                assert_eq!(brain[at].to_bits(), want.to_bits(), "{level:?} {x}");
                assert_eq!(back[at].to_bits(), want.to_f32().to_bits());
                let want = f16::from_f32(x);
                assert!(
                    half[at].to_bits() == want.to_bits() || (x.is_nan() && half[at].is_nan()),
                    "{level:?} {x}"
                );
            }
        }
    }

    vectorised! {
        fn moves<V>(square: &mut [f32]) {
            let mut rows = [V::splat(0.0); LANES];
            for (index, row) in rows.iter_mut().enumerate() {
                *row = get(square, index * LANES);
            }
            V::transpose(&mut rows);
            for (index, row) in rows.into_iter().enumerate() {
                put(square, index * LANES, row);
            }
            let first = get::<V, f32>(square, 0);
            put(square, 256, first.even());
            put(square, 272, first.odd());
            put(square, 288, first.swap_pairs().neg_even());
            square[304] = first.sum();
            square[305] = first.largest();
        }
    }

    vectorised! {
        fn chosen<V>(a: &[f32], b: &[f32], less: &mut [f32], equal: &mut [f32]) {
            let (a, b) = (get::<V, f32>(a, 0), get::<V, f32>(b, 0));
            let (yes, no) = (V::splat(1.0), V::splat(0.0));
            put(less, 0, a.select_less(b, yes, no));
            put(equal, 0, a.select_equal(b, yes, no));
        }
    }

    #[test]
    fn comparisons_are_those_of_single_numbers() {
        let values = [0.0, -0.0, 1.5, -1.5, 1e-45, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        for level in Level::available() {
            for a in values {
                let (mut less, mut equal) = ([9.0; 8], [9.0; 8]);
                chosen(level, &[a; 8], &values, &mut less, &mut equal);
                let want = |holds: fn(&f32, &f32) -> bool| {
                    values.map(|b| f32::from(u8::from(holds(&a, &b))))
                };
                assert_eq!(less, want(f32::lt), "{level:?} {a}");
                assert_eq!(equal, want(f32::eq), "{level:?} {a}");
            }
        }
    }

    #[test]
    fn lane_moves() {
        for level in Level::available() {
            let mut square: Vec<f32> = (0..306).map(|i| i as f32).collect();
            moves(level, &mut square);
            for row in 0..LANES {
                for column in 0..LANES {
                    assert_eq!(square[row * LANES + column], (column * LANES + row) as f32);
                }
            }
            for lane in 0..LANES {
                let at = |lane: usize| (lane * LANES) as f32;
                assert_eq!(square[256 + lane], at(lane & !1));
                assert_eq!(square[272 + lane], at(lane | 1));
                let sign = if lane % 2 == 0 { -1.0 } else { 1.0 };
                assert_eq!(square[288 + lane], sign * at(lane ^ 1));
            }
            assert_eq!(square[304], 1920.0);
            assert_eq!(square[305], 240.0);
        }
    }
}
