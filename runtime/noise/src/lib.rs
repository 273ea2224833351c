//! Counter-based normal noise: element `i` of a stream depends only on (seed, stream, i)
//! (`sampling.md` §10).
//!
//! Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) makes four
//! 32-bit words from a counter and a key, and Box–Muller turns pairs of words into normal values.
//! Any range can be made by itself, in any order, on any number of threads, with the same result.
//!
//! The layout is fixed and part of every recipe: key = (seed low, seed high), counter =
//! (block low, block high, stream, 0), block = i / 4; words 0, 1 give elements 0 (cosine) and 1
//! (sine) of the block, words 2, 3 give elements 2 and 3. Logarithm, sine and cosine are computed
//! here with IEEE basic operations only, so that the bits do not depend on a platform's library.
//! Seeds of other programs are not reproduced.

/// A reproducible stream of independent N(0,1) values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseStream {
    seed: u64,
    stream: u32,
}

impl NoiseStream {
    /// The stream number of a run's start latents.
    pub const LATENTS: u32 = 0;
    /// The stream number of the noise of training.
    pub const TRAINING: u32 = 1;
    /// The stream number of noise that a solver adds in its steps.
    pub const AGAIN: u32 = 2;

    /// Stream number `stream` of `seed`. Different numbers give unrelated values.
    pub fn new(seed: u64, stream: u32) -> Self {
        Self { seed, stream }
    }

    /// Element `index` of the stream.
    pub fn at(self, index: u64) -> f32 {
        self.block(index / 4)[(index % 4) as usize]
    }

    /// Writes elements `start`, `start`+1, … to `out`; indices wrap around at 2^64.
    pub fn fill(self, start: u64, out: &mut [f32]) {
        let mut index = start;
        let mut rest = out;
        while !rest.is_empty() {
            let block = self.block(index / 4);
            let lane = (index % 4) as usize;
            let count = rest.len().min(4 - lane);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&block[lane..lane + count]);
            index = index.wrapping_add(count as u64);
            rest = later;
        }
    }

    /// The four elements 4·block … 4·block+3.
    fn block(self, block: u64) -> [f32; 4] {
        let counter = [block as u32, (block >> 32) as u32, self.stream, 0];
        let words = philox(counter, [self.seed as u32, (self.seed >> 32) as u32]);
        let [a, b] = normal_pair(words[0], words[1]);
        let [c, d] = normal_pair(words[2], words[3]);
        [a, b, c, d]
    }
}

/// Philox 4x32 with 10 rounds.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for _ in 0..10 {
        let first = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Box–Muller in f64: radius from `a`, angle from `b`; |value| < 6.8.
fn normal_pair(a: u32, b: u32) -> [f32; 2] {
    // The half keeps the uniform inside (0, 1), so that the logarithm is finite.
    let uniform = (f64::from(a) + 0.5) / 4_294_967_296.0;
    let radius = (-2.0 * ln_of_uniform(uniform)).sqrt();
    let (sine, cosine) = turn(b);
    [(radius * cosine) as f32, (radius * sine) as f32]
}

/// ln u for a normal number u > 0, to about 1e-16 absolute or relative, whichever is larger.
fn ln_of_uniform(u: f64) -> f64 {
    // u = m·2^e with m in [√½, √2); ln m = 2·artanh((m − 1)/(m + 1)), |argument| ≤ 0.172.
    let bits = u.to_bits();
    let mut exponent = ((bits >> 52) & 0x7FF) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000F_FFFF_FFFF_FFFF) | 0x3FF0_0000_0000_0000);
    if mantissa >= std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for k in (0..=11).rev() {
        sum = sum * square + 1.0 / f64::from(2 * k + 1);
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * sum
}

/// Sine and cosine of 2π·b/2^32. The reduction to an eighth of a turn is exact in integers.
fn turn(b: u32) -> (f64, f64) {
    let quarter = b.wrapping_add(0x2000_0000) >> 30;
    // Signed distance to the nearest multiple of a quarter turn, in [−2^29, 2^29).
    let rest = b.wrapping_sub(quarter << 30) as i32;
    let x = f64::from(rest) * (std::f64::consts::TAU / 4_294_967_296.0);
    let square = x * x;
    let (mut sine, mut cosine) = (1.0, 1.0);
    for k in (1..=8).rev() {
        let k = f64::from(2 * k);
        sine = 1.0 - square / (k * (k + 1.0)) * sine;
        cosine = 1.0 - square / ((k - 1.0) * k) * cosine;
    }
    sine *= x;
    match quarter {
        0 => (sine, cosine),
        1 => (cosine, -sine),
        2 => (-sine, -cosine),
        _ => (-cosine, sine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answers() {
        // The known-answer vectors published with Random123.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]
        );
        assert_eq!(
            philox(
                [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
                [0xA409_3822, 0x299F_31D0]
            ),
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1]
        );
    }

    #[test]
    fn pinned_values() {
        // Recipes rely on these bits: a change breaks every stored seed.
        const FIRST: [u32; 8] = [
            0xBF78_5E5C,
            0x3E46_ACE8,
            0xBF9E_28D2,
            0x3FF6_433B,
            0xBD95_E030,
            0x3E0E_7A0F,
            0xBF8D_A733,
            0x3EA7_42FD,
        ];
        let mut got = [0.0f32; 8];
        NoiseStream::new(42, NoiseStream::LATENTS).fill(0, &mut got);
        assert_eq!(got.map(f32::to_bits), FIRST, "{got:?}");
        assert!((got[0] + 0.970_189_8).abs() < 1e-6 && (got[3] - 1.923_926_8).abs() < 1e-6);
    }

    #[test]
    fn any_chunking_gives_the_same_values() {
        let stream = NoiseStream::new(0x0123_4567_89AB_CDEF, 3);
        let mut whole = vec![0.0; 1000];
        stream.fill(0, &mut whole);
        for chunk in [1, 3, 4, 7, 64, 999] {
            let mut parts = vec![0.0; 1000];
            for (k, part) in parts.chunks_mut(chunk).enumerate() {
                stream.fill((k * chunk) as u64, part);
            }
            assert_eq!(whole, parts, "{chunk}");
        }
        for (i, value) in whole.iter().enumerate() {
            assert_eq!(stream.at(i as u64), *value);
        }
        // Far beyond 2^32 blocks, and across the end of the counter.
        let far = (1u64 << 40) + 5;
        let mut few = [0.0; 3];
        stream.fill(far, &mut few);
        assert_eq!(few, [stream.at(far), stream.at(far + 1), stream.at(far + 2)]);
        let mut wrapped = [0.0; 2];
        stream.fill(u64::MAX, &mut wrapped);
        assert_eq!(wrapped[1], stream.at(0));
    }

    fn sample(seed: u64, stream: u32, count: usize) -> Vec<f64> {
        let mut values = vec![0.0f32; count];
        NoiseStream::new(seed, stream).fill(0, &mut values);
        values.into_iter().map(f64::from).collect()
    }

    #[test]
    fn moments_are_those_of_a_normal() {
        const COUNT: usize = 1 << 20;
        let n = COUNT as f64;
        for seed in [0, 1, u64::MAX] {
            let values = sample(seed, 0, COUNT);
            let moment = |p: i32| values.iter().map(|v| v.powi(p)).sum::<f64>() / n;
            // Five standard errors of each sample moment.
            assert!(moment(1).abs() < 5.0 * (1.0 / n).sqrt());
            assert!((moment(2) - 1.0).abs() < 5.0 * (2.0 / n).sqrt());
            assert!(moment(3).abs() < 5.0 * (15.0 / n).sqrt());
            assert!((moment(4) - 3.0).abs() < 5.0 * (96.0 / n).sqrt());
            let beyond = values.iter().filter(|v| v.abs() > 3.0).count() as f64 / n;
            assert!((beyond - 0.0026998).abs() < 5.0 * (0.0027 / n).sqrt());
            assert!(values.iter().all(|v| v.abs() < 6.8));
        }
    }

    #[test]
    fn neighbours_streams_and_seeds_are_uncorrelated() {
        const COUNT: usize = 1 << 18;
        let bound = 5.0 / (COUNT as f64).sqrt();
        let base = sample(5, 0, COUNT);
        let dot =
            |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / COUNT as f64;
        for lag in 1..=8 {
            assert!(dot(&base[lag..], &base).abs() < bound, "{lag}");
        }
        for other in [sample(5, 1, COUNT), sample(6, 0, COUNT), sample(5 << 32, 0, COUNT)] {
            assert!(dot(&base, &other).abs() < bound);
        }
    }

    #[test]
    fn own_functions_agree_with_the_library() {
        let mut words = (0..200_000u32).map(|k| k.wrapping_mul(2_654_435_761)).collect::<Vec<_>>();
        words.extend([0, 1, u32::MAX, 1 << 29, (1 << 29) - 1, 1 << 30, 3 << 30, 0xE000_0000]);
        for word in words {
            let u = (f64::from(word) + 0.5) / 4_294_967_296.0;
            let (own, library) = (ln_of_uniform(u), u.ln());
            assert!((own - library).abs() <= 1e-15 * library.abs().max(1.0), "{u}");
            let angle = std::f64::consts::TAU * (f64::from(word) / 4_294_967_296.0);
            let (sine, cosine) = turn(word);
            assert!((sine - angle.sin()).abs() < 2e-15, "{word}");
            assert!((cosine - angle.cos()).abs() < 2e-15, "{word}");
        }
        assert_eq!(turn(0), (0.0, 1.0));
        assert_eq!(turn(1 << 30).0, 1.0);
    }
}
