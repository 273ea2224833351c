//! Values made narrower: blocks of GGUF as ggml's reference quantiser makes them, and eight-bit floats
//! under one scale.
//!
//! Contract: what is written here is decoded by `encoding` and by other programs alike. The choice of
//! scales is that of ggml's functions without importance matrices, operation by operation in f32.
//! Nothing here knows which weights may be narrower.

use half::f16;

use super::encoding::Encoding;
use crate::error::{Error, Result};

/// Largest value of `float8_e4m3fn`.
pub const LARGEST_E4M3: f32 = 448.0;

impl Encoding {
    /// Whether values can be made narrower to it, in whole blocks.
    pub fn can_quantise(self) -> bool {
        matches!(self, Self::Q8_0 | Self::Q4K)
    }

    /// Writes whole blocks of values in this encoding.
    ///
    /// # Errors
    /// E0322 for a wrong length, or an encoding that is only read.
    pub fn quantise(self, values: &[f32], out: &mut [u8]) -> Result<()> {
        let fits = self.bytes_of(&[values.len() as u64]) == Some(out.len() as u64);
        if !fits || !self.can_quantise() {
            let (given, room) = (values.len(), out.len());
            let what = format!("{given} values are to be written into {room} bytes as {self}");
            return Err(Error::internal("E0322", what)
                .help("this is a fault of the program: please report it"));
        }
        if self == Self::Q8_0 {
            let blocks = out.as_chunks_mut::<34>().0.iter_mut();
            blocks.zip(values.as_chunks::<32>().0).for_each(|(out, values)| q8_0(values, out));
        } else {
            let blocks = out.as_chunks_mut::<144>().0.iter_mut();
            blocks.zip(values.as_chunks::<256>().0).for_each(|(out, values)| q4_k(values, out));
        }
        Ok(())
    }
}

/// The code of `float8_e4m3fn` that is nearest to a value, even where two are; what is beyond the
/// largest becomes that.
pub fn to_e4m3(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    if value.is_nan() {
        return sign | 0x7f;
    }
    let size = value.abs().min(LARGEST_E4M3);
    // Below 2^-6 all steps are 2^-9; from there on each power of two has eight.
    let exponent = (size.to_bits() >> 23).cast_signed() - 127;
    let code = if exponent < -6 {
        (size * 512.0).round_ties_even() as u8
    } else {
        let steps = (size * 2f32.powi(3 - exponent)).round_ties_even() as i32;
        // Sixteen steps are the first of the next power.
        (((exponent + 7) << 3) + steps - 8) as u8
    };
    sign | code.min(0x7e)
}

fn q8_0(values: &[f32; 32], out: &mut [u8; 34]) {
    let most = values.iter().fold(0f32, |most, value| most.max(value.abs()));
    let d = most / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (out, value) in out[2..].iter_mut().zip(values) {
        *out = ((value * inverse).round() as i8).cast_unsigned();
    }
}

/// The nearest whole number, even where two are.
fn nearest(value: f32) -> i32 {
    value.round_ties_even() as i32
}

/// Scale and minimum for a run of values of four bits each, of several tries the one with the
/// smallest weighted error.
fn scale_and_min(x: &[f32], weights: &[f32]) -> (f32, f32) {
    const MOST: i32 = 15;
    const TRIES: i32 = 20;
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (weights[0], weights[0] * x[0]);
    for (value, w) in x.iter().zip(weights).skip(1) {
        (min, max) = (min.min(*value), max.max(*value));
        sum_w += w;
        sum_x += w * value;
    }
    min = min.min(0.0);
    if max == min {
        return (0.0, -min);
    }
    let levels = |inverse: f32, min: f32| {
        x.iter().map(move |value| nearest(inverse * (value - min)).clamp(0, MOST) as f32)
    };
    let error = |scale: f32, min: f32, inverse: f32, from: f32| {
        let of = levels(inverse, from).zip(x).zip(weights);
        of.fold(0f32, |sum, ((level, value), w)| {
            let off = scale * level + min - value;
            sum + w * (off * off)
        })
    };
    let first = MOST as f32 / (max - min);
    let mut best = (1.0 / first, min);
    let mut best_error = error(best.0, best.1, first, min);
    for attempt in 0..=TRIES {
        let inverse = (-1.0 + 0.1 * attempt as f32 + MOST as f32) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0f32, 0f32, 0f32);
        for ((level, value), w) in levels(inverse, min).zip(x).zip(weights) {
            sum_l += w * level;
            sum_l2 += w * level * level;
            sum_xl += w * level * value;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut lower = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        if lower > 0.0 {
            (lower, scale) = (0.0, sum_xl / sum_l2);
        }
        let now = error(scale, lower, inverse, min);
        if now < best_error {
            (best_error, best) = (now, (scale, lower));
            min = lower;
        }
    }
    (best.0, -best.1)
}

fn q4_k(values: &[f32; 256], out: &mut [u8; 144]) {
    let mut found = [(0f32, 0f32); 8];
    for (found, x) in found.iter_mut().zip(values.as_chunks::<32>().0) {
        let square = x.iter().fold(0f32, |sum, value| sum + value * value);
        let usual = (square / 32.0).sqrt();
        let weights = x.map(|value| usual + value.abs());
        *found = scale_and_min(x, &weights);
    }
    let most = found.iter().fold((0f32, 0f32), |most, of| (most.0.max(of.0), most.1.max(of.1)));
    let inverse = |most: f32| if most > 0.0 { 63.0 / most } else { 0.0 };
    let (per_scale, per_min) = (inverse(most.0), inverse(most.1));
    let six = |value: f32, per: f32| nearest(per * value).clamp(0, 63) as u8;
    let six = found.map(|(scale, min)| (six(scale, per_scale), six(min, per_min)));
    let (d, dmin) = (f16::from_f32(most.0 / 63.0), f16::from_f32(most.1 / 63.0));
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&dmin.to_le_bytes());
    out[4..16].fill(0);
    for (g, (scale, min)) in six.into_iter().enumerate() {
        if g < 4 {
            out[4 + g] |= scale;
            out[8 + g] |= min;
        } else {
            out[8 + g] = scale & 15 | (min & 15) << 4;
            out[g] |= scale >> 4 << 6;
            out[4 + g] |= min >> 4 << 6;
        }
    }
    let mut levels = [0u8; 256];
    let runs = levels.as_chunks_mut::<32>().0.iter_mut().zip(values.as_chunks::<32>().0).zip(six);
    for ((levels, x), (scale, min)) in runs {
        let (scale, min) = (d.to_f32() * f32::from(scale), dmin.to_f32() * f32::from(min));
        if scale == 0.0 {
            continue;
        }
        for (level, value) in levels.iter_mut().zip(x) {
            *level = nearest((value + min) / scale).clamp(0, 15) as u8;
        }
    }
    // Two runs share 32 bytes.
    for (two, out) in levels.as_chunks::<64>().0.iter().zip(out[16..].chunks_exact_mut(32)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = two[i] | two[32 + i] << 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look like weights: many small ones and a few large.
    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..count).map(|_| (next() + next() + next()) * 0.05).collect()
    }

    fn error(encoding: Encoding, values: &[f32]) -> f64 {
        let mut bytes = vec![0; encoding.bytes_of(&[values.len() as u64]).unwrap() as usize];
        encoding.quantise(values, &mut bytes).unwrap();
        let mut back = vec![0.0; values.len()];
        encoding.decode(&bytes, &mut back).unwrap();
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let off = square(&mut values.iter().zip(&back).map(|(a, b)| f64::from(a - b)));
        // Of zeros, every error is too large.
        (off / square(&mut values.iter().map(|v| f64::from(*v))).max(f64::MIN_POSITIVE)).sqrt()
    }

    #[test]
    fn narrower_values_are_as_near_as_their_bits_allow() {
        let values = numbers(4096, 1);
        // A uniform step of 1/127 of the largest of 32, and four bits for each of 32.
        let (eight, four) = (error(Encoding::Q8_0, &values), error(Encoding::Q4K, &values));
        assert!(eight > 1e-3 && eight < 6e-3, "{eight}");
        assert!(four > 0.04 && four < 0.08, "{four}");
        for values in [vec![0.0; 256], vec![1.0; 256], vec![-3.5; 256]] {
            assert!(error(Encoding::Q4K, &values) <= 0.01, "{:?}", values[0]);
            assert!(error(Encoding::Q8_0, &values) <= 0.005, "{:?}", values[0]);
        }
        assert!(!Encoding::Q6K.can_quantise());
        for (encoding, count, room) in
            [(Encoding::Q6K, 256, 210), (Encoding::Q8_0, 31, 34), (Encoding::Q8_0, 32, 33)]
        {
            let error = encoding.quantise(&vec![0.0; count], &mut vec![0; room]).unwrap_err();
            assert_eq!(error.code(), "E0322");
        }
    }

    #[test]
    fn every_code_of_eight_bits_is_its_own_nearest_and_ties_go_to_even() {
        let codes: Vec<u8> = (0..=255).collect();
        let mut table = [0.0; 256];
        Encoding::F8E4M3.decode(&codes, &mut table).unwrap();
        for (code, value) in codes.iter().zip(table).filter(|(_, value)| !value.is_nan()) {
            assert_eq!(to_e4m3(value), *code, "{value}");
        }
        for code in 0..0x7eu8 {
            let (low, high) = (table[usize::from(code)], table[usize::from(code) + 1]);
            let middle = (low + high) / 2.0;
            let even = if code % 2 == 0 { code } else { code + 1 };
            assert_eq!(to_e4m3(middle), even, "{middle}");
            assert_eq!(to_e4m3(middle.next_down()), code);
            assert_eq!(to_e4m3(-middle.next_up()), 0x80 | (code + 1));
        }
        assert_eq!((to_e4m3(1e9), to_e4m3(f32::NEG_INFINITY)), (0x7e, 0xfe));
        assert_eq!(to_e4m3(f32::NAN) & 0x7f, 0x7f);
    }
}
