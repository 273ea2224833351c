//! Functions of f32 by additions, products and whole numbers alone: what a shading language promises of
//! its own is too little, and differs from device to device.

use cubecl::prelude::*;

/// A half as f32, exactly.
#[cube]
pub(crate) fn widened(bits: u32) -> f32 {
    let sign = (bits & 0x8000u32) << 16u32;
    let size = bits & 0x7fffu32;
    let normal = (size << 13u32) + 0x3800_0000u32;
    let special = (size << 13u32) | 0x7f80_0000u32;
    // Without numbers below the normal ones, which a device may take for 0.
    let small = u32::reinterpret(f32::cast_from(size) * 5.960_464_5e-8f32);
    let found = select(size >= 0x7c00u32, special, select(size < 0x400u32, small, normal));
    f32::reinterpret(found | sign)
}

/// The bits of a number rounded to bf16.
#[cube]
pub(crate) fn rounded_bf16(value: f32) -> u32 {
    let bits = u32::reinterpret(value);
    let nan = (bits >> 16u32) | 0x40u32;
    let rounded = (bits + 0x7fffu32 + ((bits >> 16u32) & 1u32)) >> 16u32;
    select((bits & 0x7fff_ffffu32) > 0x7f80_0000u32, nan, rounded)
}

/// The bits of a number rounded to f16.
#[cube]
pub(crate) fn rounded_f16(value: f32) -> u32 {
    let bits = u32::reinterpret(value);
    let sign = (bits >> 16u32) & 0x8000u32;
    let size = bits & 0x7fff_ffffu32;
    let shifted = size - 0x3800_0000u32;
    let normal = (shifted + 0xfffu32 + ((shifted >> 13u32) & 1u32)) >> 13u32;
    // The last bit of a number near one half is worth as much as that of the smallest halves.
    let small = u32::reinterpret(f32::reinterpret(size) + 0.5f32) - 0x3f00_0000u32;
    let finite = select(size < 0x3880_0000u32, small, normal);
    let bounded = select(size >= 0x477f_f000u32, 0x7c00u32, finite);
    select(size > 0x7f80_0000u32, 0x7e00u32, bounded) | sign
}

/// A number cut off to a whole one and kept inside its bounds; 0 for NaN.
#[cube]
pub(crate) fn whole(value: f32) -> i32 {
    let inside = value > -2_147_483_600.0f32 && value < 2_147_483_600.0f32;
    let cut = i32::cast_from(select(inside, value, 0.0f32));
    let above = select(value >= 2_147_483_600.0f32, i32::new(comptime!(i64::from(i32::MAX))), cut);
    select(value <= -2_147_483_600.0f32, i32::new(comptime!(i64::from(i32::MIN))), above)
}

/// The same for a byte.
#[cube]
pub(crate) fn byte(value: f32) -> u32 {
    let low = select(value > 0.0f32, value, 0.0f32);
    u32::cast_from(select(low < 255.0f32, low, 255.0f32))
}

/// Whether it is no number. A comparison with itself does not tell, since compilers take it that all are numbers.
#[cube]
pub(crate) fn is_none(x: f32) -> bool {
    // Bits are those of a variable, since CUDA C++ has none of a literal.
    let own = RuntimeCell::<f32>::new(x);
    (u32::reinterpret(own.read()) & 0x7fff_ffffu32) > 0x7f80_0000u32
}

/// NaN where one of both is; of equal ones the second.
#[cube]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    select(a > b || is_none(a), a, b)
}

/// The same for the smaller one.
#[cube]
pub(crate) fn smaller(a: f32, b: f32) -> f32 {
    select(a < b || is_none(a), a, b)
}

/// A power of two with this exponent, from -126 to 127.
#[cube]
fn power_of_two(exponent: i32) -> f32 {
    f32::reinterpret(u32::reinterpret(exponent + 127i32) << 23u32)
}

/// e^x: a power of two times a polynomial between ±ln 2 / 2.
#[cube]
pub(crate) fn exponential(x: f32) -> f32 {
    let inside = select(x < 89.0f32, select(x > -104.0f32, x, -104.0f32), 89.0f32);
    let steps = (inside * 1.442_695f32 + 0.5f32).floor();
    let rest = (inside - steps * 0.693_359_4f32) - steps * -2.121_944_4e-4f32;
    let high = (rest * 1.987_569_2e-4f32 + 1.398_2e-3f32) * rest + 8.333_452e-3f32;
    let series = ((high * rest + 4.166_579_6e-2f32) * rest + 0.166_666_66f32) * rest + 0.5f32;
    let share = series * rest * rest + rest + 1.0f32;
    // In two steps, as the power alone may be too large or too small.
    let half = (steps * 0.5f32).floor();
    let first = power_of_two(i32::cast_from(half));
    let second = power_of_two(i32::cast_from(steps - half));
    let found = share * first * second;
    select(is_none(x), x, found)
}

/// The natural logarithm: of the exponent, and by a polynomial of what is between √½ and √2.
#[cube]
pub(crate) fn logarithm(x: f32) -> f32 {
    let bits = u32::reinterpret(x);
    // A number below the normal ones as the whole number that its bits are, in units of 2^-149.
    let small = bits < 0x0080_0000u32;
    let normal = select(small, u32::reinterpret(f32::cast_from(bits)), bits);
    // To the exponent of a number that is at least √½ of the next power of two.
    let moved = normal + comptime!(0x3f80_0000u32 - 0x3f35_04f3);
    let exponent = i32::reinterpret(moved >> 23u32) - select(small, 276i32, 127i32);
    let share = f32::reinterpret((moved & 0x007f_ffffu32) + 0x3f35_04f3u32) - 1.0f32;
    let high = ((share * 7.037_683_6e-2f32 - 0.115_146_1f32) * share + 0.116_769_98f32) * share
        - 0.124_201_41f32;
    let middle = ((high * share + 0.142_493_23f32) * share - 0.166_680_58f32) * share;
    let low = ((middle + 0.200_007_15f32) * share - 0.249_999_94f32) * share + 0.333_333_3f32;
    let steps = f32::cast_from(exponent);
    let square = share * share;
    let rest = low * share * square - steps * 2.121_944_4e-4f32 - 0.5f32 * square;
    let found = steps * 0.693_359_4f32 + (share + rest);
    // Of +∞ and of no number itself, of 0 −∞, of less no number.
    let itself = select(bits >= 0x7f80_0000u32, x, found);
    let none = f32::reinterpret(bits | 0x7fc0_0000u32);
    let negative = select(bits > 0x8000_0000u32, none, itself);
    let zero = (bits & 0x7fff_ffffu32) == 0u32;
    select(zero, f32::reinterpret(bits | 0xff80_0000u32), negative)
}

/// x · σ(argument), without overflow on either side.
#[cube]
fn times_sigmoid(x: f32, argument: f32) -> f32 {
    let power = exponential(-argument.abs());
    let share = select(argument < 0.0f32, power, 1.0f32) / (power + 1.0f32);
    // The bound keeps 0·∞ out at −∞, where the share is 0.
    select(x < -200.0f32, -200.0f32, x) * share
}

/// x · σ(x)
#[cube]
pub(crate) fn silu(x: f32) -> f32 {
    times_sigmoid(x, x)
}

/// GELU in the form with a tangent, whose argument is half that of the sigmoid.
#[cube]
pub(crate) fn gelu(x: f32) -> f32 {
    times_sigmoid(x, x * (1.595_769_2f32 + 0.071_354_814f32 * x * x))
}

/// Hyperbolic tangent: of small arguments a polynomial, else by an exponential.
#[cube]
pub(crate) fn tangent(x: f32) -> f32 {
    let size = x.abs();
    let power = exponential(-2.0f32 * size);
    let far = (1.0f32 - power) / (1.0f32 + power);
    let square = size * size;
    let high = (square * -5.704_988_7e-3f32 + 2.063_908_9e-2f32) * square - 5.373_971_6e-2f32;
    let series = (high * square + 0.133_314_42f32) * square - 0.333_332_8f32;
    let near = series * square * size + size;
    let found = select(size < 0.625f32, near, far);
    let signed = select(x < 0.0f32, -found, found);
    select(is_none(x), x, signed)
}

/// The sine of x turned forward by so many quarters: 0, or 1 for the cosine. The argument is brought near
/// 0 in three steps, which are exact up to some thousand turns.
#[cube]
pub(crate) fn sine(x: f32, quarters: u32) -> f32 {
    let steps = (x * 0.636_619_8f32 + 0.5f32).floor();
    let first = x - steps * 1.570_312_5f32;
    let second = first - steps * 4.837_512_97e-4f32;
    let rest = second - steps * 7.549_789_95e-8f32;
    let turned = u32::reinterpret(whole(steps)) + quarters;
    sine_of_quarter(rest, turned)
}

/// The sine of an angle between ±π/4 that lies behind so many quarters.
#[cube]
pub(crate) fn sine_of_quarter(rest: f32, quarters: u32) -> f32 {
    let square = rest * rest;
    let odd = (square * -1.951_529_6e-4f32 + 8.332_161e-3f32) * square - 0.166_666_55f32;
    let sine = odd * square * rest + rest;
    let even = (square * 2.443_315_7e-5f32 - 1.388_731_6e-3f32) * square + 4.166_664_6e-2f32;
    let cosine = even * square * square - 0.5f32 * square + 1.0f32;
    let found = select((quarters & 1u32) == 0u32, sine, cosine);
    select((quarters & 2u32) == 0u32, found, -found)
}

/// The error function: a series of nothing but positive terms near 0, one minus an exponential elsewhere.
#[cube]
pub(crate) fn error_function(x: f32) -> f32 {
    let size = x.abs();
    let bounded = select(size < 4.0f32, size, 4.0f32);
    let square = bounded * bounded;
    let power = exponential(-square);
    // x · e^−x² · 2/√π · Σ (2x²)ⁿ / (2n + 1)!!, for small arguments.
    let mut series = 1.128_379_2f32;
    let mut term = 1.128_379_2f32;
    #[unroll]
    for n in 1..21 {
        term *= square * comptime!(2.0f32 / (2 * n + 1) as f32);
        series += term;
    }
    // The continued fraction of the rest, for large ones.
    let mut fraction = bounded;
    #[unroll]
    for n in 1..24 {
        fraction = bounded + comptime!((24 - n) as f32 * 0.5) / fraction;
    }
    let rest = power / fraction * 0.564_189_6f32;
    let found = select(bounded < 2.0f32, series * bounded * power, 1.0f32 - rest);
    let signed = select(x < 0.0f32, -found, found);
    select(is_none(x), x, signed)
}
