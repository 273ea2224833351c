//! Arithmetic that gives the same bits on every machine.
//!
//! Addition, multiplication, division and square root of IEEE 754 are exact to the last bit
//! everywhere, and Rust neither reorders nor fuses them. The functions of a C library are not: they
//! differ between systems. So the few that a frame needs (sine, arc tangent, power) are series
//! here, accurate to about 1e-6, which is far below one level of 255.
//!
//! [`Lanes`] are eight neighbouring pixels of a row. Every operation works on each of them alone,
//! so that the compiler may use vector instructions of any width without changing a bit.

use std::f32::consts::{FRAC_PI_2, FRAC_PI_4, LN_2, PI, SQRT_2, TAU};
use std::ops::{Add, Div, Mul, Neg, Sub};

/// Pixels that are computed together.
pub const LANES: usize = 8;

/// Added to a number of less than 2²² in magnitude, this rounds it to a whole one, which is then in
/// the low bits. Vector instructions of every processor can do so, other than conversions.
const ROUND: f32 = 12_582_912.0;

/// The largest whole number that is not above `x`; `|x|` has to be below 2²².
#[inline(always)]
pub fn floor(x: f32) -> f32 {
    let whole = (x + ROUND) - ROUND;
    if whole > x { whole - 1.0 } else { whole }
}

/// The part of `x` behind its floor, 0 to 1.
#[inline(always)]
pub fn fract(x: f32) -> f32 {
    x - floor(x)
}

/// The smaller of two numbers, neither of which is NaN.
#[inline(always)]
pub fn least(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// The larger of two numbers, neither of which is NaN.
#[inline(always)]
pub fn most(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `x`, or the end of `low` to `high` that it is beyond.
#[inline(always)]
pub fn clamp(x: f32, low: f32, high: f32) -> f32 {
    most(least(x, high), low)
}

/// Length of the vector (x, y).
#[inline(always)]
pub fn length(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

/// Sine of an angle in radians, of at most a few hundred turns.
pub fn sin(x: f32) -> f32 {
    Lanes::all(x).sin().0[0]
}

/// Cosine of an angle in radians.
pub fn cos(x: f32) -> f32 {
    Lanes::all(x).cos().0[0]
}

/// Slow at both ends: 0 at 0 and 1 at 1.
pub fn ease(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

/// One value for each of eight neighbouring pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// The same value for all.
    #[inline(always)]
    pub fn all(value: f32) -> Self {
        Self([value; LANES])
    }

    /// Each value changed by `f`.
    #[inline(always)]
    pub fn map(self, f: impl Fn(f32) -> f32) -> Self {
        let mut out = self.0;
        for value in &mut out {
            *value = f(*value);
        }
        Self(out)
    }

    /// Each pair of values joined by `f`.
    #[inline(always)]
    pub fn with(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self.0;
        for (value, other) in out.iter_mut().zip(other.0) {
            *value = f(*value, other);
        }
        Self(out)
    }

    /// Magnitudes.
    #[inline(always)]
    pub fn abs(self) -> Self {
        self.map(f32::abs)
    }

    /// The smaller of each pair.
    #[inline(always)]
    pub fn least(self, other: Self) -> Self {
        self.with(other, least)
    }

    /// The larger of each pair.
    #[inline(always)]
    pub fn most(self, other: Self) -> Self {
        self.with(other, most)
    }

    /// Lengths of the vectors (self, other).
    #[inline(always)]
    pub fn length(self, other: Self) -> Self {
        self.with(other, length)
    }

    /// One of each pair, the first where `test` holds for `self`.
    #[inline(always)]
    fn choose(self, test: impl Fn(f32) -> bool, one: Self, other: Self) -> Self {
        let mut out = one.0;
        for at in 0..LANES {
            out[at] = if test(self.0[at]) { one.0[at] } else { other.0[at] };
        }
        Self(out)
    }

    /// Sines of angles in radians, of at most a few hundred turns.
    ///
    /// Here and below each step is one over all lanes: compilers make vector instructions of that,
    /// but not of the whole function for each lane.
    #[inline(always)]
    pub fn sin(self) -> Self {
        /// 2π in two parts, the first of so few bits that its multiples are exact.
        const TURN: [f32; 2] = [6.281_25, 1.935_307_2e-3];
        let turns = (self * (1.0 / TAU) + 0.5).map(floor);
        let x = (self - turns * TURN[0]) - turns * TURN[1];
        // sin(π - x) = sin(x) brings the angle to -π/2..π/2, where the series converges fast.
        let x = x.map(|x| if x > FRAC_PI_2 { PI - x } else { x });
        let x = x.map(|x| if x < -FRAC_PI_2 { -PI - x } else { x });
        let q = x * x;
        let one = Self::all(1.0);
        let series = one - q * (1.0 / 110.0);
        let series = one - q * (1.0 / 72.0) * series;
        let series = one - q * (1.0 / 42.0) * series;
        let series = one - q * (1.0 / 20.0) * series;
        x * (one - q * (1.0 / 6.0) * series)
    }

    /// Cosines of angles in radians.
    #[inline(always)]
    pub fn cos(self) -> Self {
        (self + FRAC_PI_2).sin()
    }

    /// The angles of the vectors (x, self) against the x axis, -π to π; 0 for the zero vector.
    #[inline(always)]
    pub fn atan2(self, x: Self) -> Self {
        /// Tangent of π/8.
        const EIGHTH: f32 = SQRT_2 - 1.0;
        let (a, b) = (self.abs(), x.abs());
        let ratio = a.least(b) / a.most(b).map(|long| most(long, f32::MIN_POSITIVE));
        // atan(t) = π/4 + atan((t - 1)/(t + 1)) keeps the argument of the series below tan(π/8).
        let far = |ratio| ratio > EIGHTH;
        let t = ratio.choose(far, (ratio - 1.0) / (ratio + 1.0), ratio);
        let q = t * t;
        let series = -(q * (1.0 / 13.0)) + 1.0 / 11.0;
        let series = -(q * series) + 1.0 / 9.0;
        let series = -(q * series) + 1.0 / 7.0;
        let series = -(q * series) + 1.0 / 5.0;
        let series = -(q * series) + 1.0 / 3.0;
        let angle = t * (-(q * series) + 1.0);
        let angle = ratio.choose(far, angle + FRAC_PI_4, angle);
        let angle = (a - b).choose(|over| over > 0.0, -angle + FRAC_PI_2, angle);
        let angle = x.choose(|x| x < 0.0, -angle + PI, angle);
        self.choose(|y| y < 0.0, -angle, angle)
    }

    /// Powers of numbers of at least 0, where results are within the range of f32.
    #[inline(always)]
    pub fn pow(self, exponent: f32) -> Self {
        // x = m · 2^e with m in √½..√2; the logarithm of m is an odd series in (m - 1)/(m + 1).
        const HALF_ROOT: u32 = 0x3f35_04f3;
        let above = self.0.map(|x| most(x, f32::MIN_POSITIVE).to_bits().wrapping_sub(HALF_ROOT));
        let twos = Self(above.map(|bits| ((bits as i32) >> 23) as f32));
        let mantissa = |bits: u32| f32::from_bits((bits & 0x007f_ffff).wrapping_add(HALF_ROOT));
        let m = Self(above.map(mantissa));
        let s = (m - 1.0) / (m + 1.0);
        let q = s * s;
        let series = q * (q * (1.0 / 9.0) + 1.0 / 7.0) + 1.0 / 5.0;
        let log = s * (2.0 / LN_2) * (q * (q * series + 1.0 / 3.0) + 1.0);
        let power = ((twos + log) * exponent).map(|power| clamp(power, -126.0, 126.0));
        // 2^(k + f), with f in -½..½ and k in the low bits of `rounded`.
        let rounded = power + ROUND;
        let f = (power - (rounded - ROUND)) * LN_2;
        let series = f * (f * (1.0 / 5040.0) + 1.0 / 720.0) + 1.0 / 120.0;
        let series = f * (f * series + 1.0 / 24.0) + 1.0 / 6.0;
        let series = f * (f * (f * series + 1.0 / 2.0) + 1.0) + 1.0;
        let whole = |rounded: f32| rounded.to_bits().wrapping_sub(ROUND.to_bits());
        let two = |rounded: f32| f32::from_bits(whole(rounded).wrapping_add(127) << 23);
        let result = series * Self(rounded.0.map(two));
        self.choose(|x| x > 0.0, result, Self::all(0.0))
    }
}

macro_rules! operator {
    ($name:ident, $method:ident, $sign:tt) => {
        impl $name for Lanes {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.with(other, |a, b| a $sign b)
            }
        }
        impl $name<f32> for Lanes {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: f32) -> Self {
                self.map(|a| a $sign other)
            }
        }
    };
}
operator!(Add, add, +);
operator!(Sub, sub, -);
operator!(Mul, mul, *);
operator!(Div, div, /);

impl Neg for Lanes {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        self.map(|a| -a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atan2(y: f32, x: f32) -> f32 {
        Lanes::all(y).atan2(Lanes::all(x)).0[0]
    }

    fn pow(x: f32, exponent: f32) -> f32 {
        Lanes::all(x).pow(exponent).0[0]
    }

    /// Calls `with` for numbers from `low` to `high`.
    fn sweep(low: f64, high: f64, mut with: impl FnMut(f32)) {
        for step in 0..=20_000 {
            with((low + (high - low) * f64::from(step) / 20_000.0) as f32);
        }
    }

    #[test]
    fn series_agree_with_f64() {
        sweep(-60.0, 60.0, |x| {
            assert!((f64::from(sin(x)) - f64::from(x).sin()).abs() < 2e-6, "sin {x}");
            assert!((f64::from(cos(x)) - f64::from(x).cos()).abs() < 4e-6, "cos {x}");
            assert_eq!(floor(x), x.floor());
        });
        sweep(-3.2, 3.2, |angle| {
            for radius in [1e-3f32, 0.7, 12.0] {
                let (y, x) = (radius * angle.sin(), radius * angle.cos());
                let exact = f64::from(y).atan2(f64::from(x));
                assert!((f64::from(atan2(y, x)) - exact).abs() < 2e-6, "atan2 {y} {x}");
            }
        });
        sweep(0.0, 30.0, |x| {
            for y in [2.0f32, 2.2, 4.0, 1.0 / 2.2] {
                let exact = f64::from(x).powf(f64::from(y));
                let close = (f64::from(pow(x, y)) - exact).abs() <= 3e-6 * exact;
                assert!(close, "{x}^{y}: {} {exact}", pow(x, y));
            }
        });
        assert_eq!(pow(0.0, 2.2), 0.0);
        assert_eq!(atan2(0.0, 0.0), 0.0);
    }

    #[test]
    fn the_bits_of_the_series_stay() {
        // A change of one bit anywhere would change the frames of every machine.
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut add = |x: f32| hash = (hash ^ u64::from(x.to_bits())).wrapping_mul(0x100_0000_01b3);
        for step in -4000..4000 {
            let x = step as f32 / 128.0;
            add(sin(x));
            add(cos(x));
            add(atan2(x, 1.5));
            add(atan2(x - 3.0, -0.25));
            add(pow(x.abs(), 2.2));
            add(length(x, 0.3));
        }
        assert_eq!(hash, 15_920_862_155_396_030_376);
    }
}
