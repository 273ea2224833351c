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

/// Runs of 32 values in a block of Q4_K.
const RUNS: usize = 8;
/// One number of each run.
type Lanes = [f32; RUNS];

/// The nearest whole number, even where two are, of one that lies below 2^22: added to 1.5 · 2^23 it loses
/// its fraction, which one instruction does for several values where rounding is a call for each. Larger
/// ones stay large.
fn nearest(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (value + SHIFT) - SHIFT
}

/// The level nearest to a value; what is no number becomes 0.
fn level(value: f32, most: f32) -> f32 {
    nearest(value).max(0.0).min(most)
}

fn lanes(of: impl Fn(usize) -> f32) -> Lanes {
    std::array::from_fn(of)
}

/// Scales and minima for runs of values of four bits each: `x[i][r]` is value `i` of run `r`. Of several
/// tries, those with the smallest weighted error.
///
/// Runs lie beside each other, so that the same operation is done for all of them at once; each run by
/// itself sees the reference's operations in their order.
fn scales_and_mins(x: &[Lanes; 32], weights: &[Lanes; 32]) -> (Lanes, Lanes) {
    const MOST: f32 = 15.0;
    const TRIES: i32 = 20;
    let (mut min, mut max, mut sum_w) = (x[0], x[0], weights[0]);
    let mut sum_x = lanes(|r| weights[0][r] * x[0][r]);
    for (x, w) in x.iter().zip(weights).skip(1) {
        for r in 0..RUNS {
            (min[r], max[r]) = (min[r].min(x[r]), max[r].max(x[r]));
            sum_w[r] += w[r];
            sum_x[r] += w[r] * x[r];
        }
    }
    for min in &mut min {
        *min = min.min(0.0);
    }
    let flat: [bool; RUNS] = std::array::from_fn(|r| max[r] == min[r]);
    let only = min;
    let error = |scale: &Lanes, lower: &Lanes, inverse: &Lanes, from: &Lanes| {
        let mut sum = [0f32; RUNS];
        for (x, w) in x.iter().zip(weights) {
            for r in 0..RUNS {
                let off = scale[r] * level(inverse[r] * (x[r] - from[r]), MOST) + lower[r] - x[r];
                sum[r] += w[r] * (off * off);
            }
        }
        sum
    };
    let first = lanes(|r| MOST / (max[r] - min[r]));
    let (mut best_scale, mut best_min) = (lanes(|r| 1.0 / first[r]), min);
    let mut best_error = error(&best_scale, &best_min, &first, &min);
    for attempt in 0..=TRIES {
        let steps = -1.0 + 0.1 * attempt as f32 + MOST;
        let inverse = lanes(|r| steps / (max[r] - min[r]));
        let [mut sum_l, mut sum_l2, mut sum_xl] = [[0f32; RUNS]; 3];
        for (x, w) in x.iter().zip(weights) {
            for r in 0..RUNS {
                let level = level(inverse[r] * (x[r] - min[r]), MOST);
                sum_l[r] += w[r] * level;
                sum_l2[r] += w[r] * level * level;
                sum_xl[r] += w[r] * level * x[r];
            }
        }
        let determinant = lanes(|r| sum_w[r] * sum_l2[r] - sum_l[r] * sum_l[r]);
        let mut scale = lanes(|r| (sum_w[r] * sum_xl[r] - sum_x[r] * sum_l[r]) / determinant[r]);
        let mut lower = lanes(|r| (sum_l2[r] * sum_x[r] - sum_l[r] * sum_xl[r]) / determinant[r]);
        for r in 0..RUNS {
            if lower[r] > 0.0 {
                (lower[r], scale[r]) = (0.0, sum_xl[r] / sum_l2[r]);
            }
        }
        let now = error(&scale, &lower, &inverse, &min);
        for r in 0..RUNS {
            if determinant[r] > 0.0 && now[r] < best_error[r] {
                (best_error[r], best_scale[r], best_min[r]) = (now[r], scale[r], lower[r]);
                min[r] = lower[r];
            }
        }
    }
    let or = |r: usize, plain: f32, found: f32| if flat[r] { plain } else { found };
    (lanes(|r| or(r, 0.0, best_scale[r])), lanes(|r| or(r, -only[r], -best_min[r])))
}

fn q4_k(values: &[f32; 256], out: &mut [u8; 144]) {
    let x: [Lanes; 32] = std::array::from_fn(|i| lanes(|r| values[32 * r + i]));
    let mut square = [0f32; RUNS];
    for x in &x {
        for r in 0..RUNS {
            square[r] += x[r] * x[r];
        }
    }
    let usual = square.map(|square| (square / 32.0).sqrt());
    let weights = x.map(|x| lanes(|r| usual[r] + x[r].abs()));
    let (scales, mins) = scales_and_mins(&x, &weights);
    let largest = |of: &Lanes| of.iter().fold(0f32, |most, value| most.max(*value));
    let (most, most_min) = (largest(&scales), largest(&mins));
    let six = |values: Lanes, most: f32| {
        let per = if most > 0.0 { 63.0 / most } else { 0.0 };
        values.map(|value| level(per * value, 63.0) as u8)
    };
    let (scales, mins) = (six(scales, most), six(mins, most_min));
    let (d, dmin) = (f16::from_f32(most / 63.0), f16::from_f32(most_min / 63.0));
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&dmin.to_le_bytes());
    out[4..16].fill(0);
    for (g, (&scale, &min)) in scales.iter().zip(&mins).enumerate() {
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
    let runs = levels.as_chunks_mut::<32>().0.iter_mut().zip(values.as_chunks::<32>().0);
    for ((levels, x), (scale, min)) in runs.zip(scales.into_iter().zip(mins)) {
        let (scale, min) = (d.to_f32() * f32::from(scale), dmin.to_f32() * f32::from(min));
        if scale == 0.0 {
            continue;
        }
        for (out, value) in levels.iter_mut().zip(x) {
            *out = level((value + min) / scale, 15.0) as u8;
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

    /// The search for one run alone, as the reference has it.
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
            x.iter().map(move |value| {
                (inverse * (value - min)).round_ties_even().clamp(0.0, MOST as f32)
            })
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

    #[test]
    fn runs_beside_each_other_find_what_each_finds_alone() {
        let mut blocks = numbers(64 * 256, 7);
        // Runs of one value, of one sign, with one that is far off, tiny and huge ones.
        blocks[..32].fill(0.0);
        blocks[32..64].fill(-0.25);
        blocks[64..128].iter_mut().for_each(|value| *value = value.abs());
        blocks[128..192].iter_mut().for_each(|value| *value = -value.abs() - 0.1);
        blocks[200] = 40.0;
        blocks[256..512].iter_mut().for_each(|value| *value *= 1e-30);
        blocks[512..768].iter_mut().for_each(|value| *value *= 1e15);
        blocks[768..1024].iter_mut().for_each(|value| *value *= 1e-42);
        for block in blocks.as_chunks::<256>().0 {
            let x: [Lanes; 32] = std::array::from_fn(|i| lanes(|r| block[32 * r + i]));
            let weights = x.map(|x| x.map(|value| 0.02 + value.abs()));
            let (scales, mins) = scales_and_mins(&x, &weights);
            for r in 0..RUNS {
                let [x, w] =
                    [&x, &weights].map(|of| std::array::from_fn::<f32, 32, _>(|i| of[i][r]));
                let alone = scale_and_min(&x, &w);
                let bits = |(a, b): (f32, f32)| (a.to_bits(), b.to_bits());
                assert_eq!(bits((scales[r], mins[r])), bits(alone), "run {r}: {x:?}");
            }
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
