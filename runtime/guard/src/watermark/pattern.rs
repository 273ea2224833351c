//! The patterns of a key: one to find the tile by, and one for each channel bit.
//!
//! Patterns are normal noise limited to a ring of frequencies and made orthogonal. They live as
//! vectors of the ring's coefficients, where everything that is done with them is a short sum; only
//! a tile that is embedded becomes pixels. A vector of length one is a tile of variance one
//! (`watermark.md` §1).

use super::code::{CHANNEL_BITS, Payload};
use super::fourier::{CELLS, Field, Fourier, SIDE, WIDEST};
use anyid_noise::NoiseStream;
use sha2::{Digest, Sha256};

/// The share of the pattern that a tile is found by.
const SYNC: f64 = 0.6;
/// The squares of the frequencies of the ring, which begins at 6 cycles a tile.
const BAND: std::ops::RangeInclusive<f64> = 36.0..=(WIDEST * WIDEST) as f64;

/// A key of patterns.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    secret: Vec<u8>,
    version: u8,
}

impl std::fmt::Debug for Key {
    // A private key must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.version == 1 { "Key(public)" } else { "Key(private)" })
    }
}

impl Key {
    /// The published key: anybody can find its marks, and forge or remove them.
    pub fn public() -> Self {
        Self { secret: b"anyid-rt public watermark key 1".to_vec(), version: 1 }
    }

    /// A private key.
    pub fn private(secret: &[u8; 32]) -> Self {
        Self { secret: secret.to_vec(), version: 2 }
    }

    /// The version that marks under this key carry.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// The stream of numbers that pattern `index` is drawn from.
    fn stream(&self, index: usize) -> NoiseStream {
        let mut hash = Sha256::new();
        hash.update(b"tile-ss/1");
        hash.update(&self.secret);
        hash.update((index as u32).to_le_bytes());
        let digest = hash.finalize();
        let seed = u64::from_le_bytes(digest[..8].try_into().expect("eight bytes"));
        let stream = u32::from_le_bytes(digest[8..12].try_into().expect("four bytes"));
        NoiseStream::new(seed, stream)
    }
}

/// Coefficients of the ring: real parts, then imaginary parts.
pub type Vector = Vec<f64>;

/// The patterns of one key.
pub struct Patterns {
    fourier: Fourier,
    /// Half of the ring, as rows and columns of the transform; the other half mirrors it.
    ring: Vec<(usize, usize)>,
    /// The pattern to find a tile by, then one for each bit.
    vectors: Vec<Vector>,
    version: u8,
}

/// Row or column of the frequency −f.
fn opposite(f: usize) -> usize {
    (SIDE - f) % SIDE
}

/// A row or column as a signed frequency.
pub fn signed(f: usize) -> f64 {
    if f < SIDE / 2 { f as f64 } else { f as f64 - SIDE as f64 }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Patterns {
    /// Draws the patterns of `key`.
    pub fn new(key: &Key) -> Self {
        let half = |&(y, x): &(usize, usize)| {
            let (v, u) = (signed(y), signed(x));
            BAND.contains(&(v * v + u * u)) && (v > 0.0 || v == 0.0 && u > 0.0)
        };
        let ring = (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (y, x))).filter(half).collect();
        let mut patterns =
            Self { fourier: Fourier::new(), ring, vectors: Vec::new(), version: key.version };
        let mut values = vec![0f32; CELLS];
        for index in 0..=CHANNEL_BITS {
            key.stream(index).fill(0, &mut values);
            let drawn = patterns.analyse(values.iter().map(|&v| f64::from(v)));
            let mut vector = patterns.coefficients(&drawn, false);
            // Twice, because once leaves what rounding has left.
            for _ in 0..2 {
                for earlier in &patterns.vectors {
                    let share = dot(&vector, earlier);
                    vector.iter_mut().zip(earlier).for_each(|(v, e)| *v -= share * e);
                }
            }
            let length = dot(&vector, &vector).sqrt();
            vector.iter_mut().for_each(|v| *v /= length);
            patterns.vectors.push(vector);
        }
        patterns
    }

    /// The version of marks under this key.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// The transform of a tile.
    pub fn analyse(&self, tile: impl Iterator<Item = f64>) -> Field {
        let mut field = Field::real(tile);
        self.fourier.forward(&mut field);
        field
    }

    /// The ring's coefficients of a transform, of the mirrored tile if `flip`.
    pub fn coefficients(&self, field: &Field, flip: bool) -> Vector {
        let scale = std::f64::consts::SQRT_2 / CELLS as f64;
        let place = |&(y, x): &(usize, usize)| y * SIDE + if flip { opposite(x) } else { x };
        let places: Vec<usize> = self.ring.iter().map(place).collect();
        let parts = [&field.re, &field.im];
        parts.iter().flat_map(|part| places.iter().map(|&at| part[at] * scale)).collect()
    }

    /// The coefficients with the strengths of rings one cycle wide drawn together: divided by the square
    /// root of each ring's. Pictures are strong at low frequencies, where the mark is no stronger.
    pub fn evened(&self, vector: &[f64]) -> Vector {
        const RINGS: usize = WIDEST + 1;
        let count = self.ring.len();
        let ring = |at: usize| {
            let (y, x) = self.ring[at % count];
            (signed(y).hypot(signed(x)) as usize).min(WIDEST)
        };
        let (mut power, mut members) = ([0f64; RINGS], [0f64; RINGS]);
        for (at, value) in vector.iter().enumerate() {
            power[ring(at)] += value * value;
            members[ring(at)] += 1.0;
        }
        let even = |(at, value): (usize, &f64)| {
            let mean = power[ring(at)] / members[ring(at)];
            if mean > 0.0 { value / mean.powf(0.25) } else { 0.0 }
        };
        vector.iter().enumerate().map(even).collect()
    }

    /// How strongly the tile of these coefficients, moved back by `[y, x]` cells, has the pattern that a
    /// tile is found by.
    pub fn sync_at(&self, vector: &[f64], by: [f64; 2]) -> f64 {
        dot(&self.vectors[0], &self.moved_back(vector, by))
    }

    /// The pixels that belong to coefficients: of `first` as real and of `second` as imaginary parts.
    fn synthesise(&self, first: &[f64], second: Option<&[f64]>) -> Field {
        let mut field = Field::zero();
        let scale = CELLS as f64 / std::f64::consts::SQRT_2;
        let count = self.ring.len();
        for (k, &(y, x)) in self.ring.iter().enumerate() {
            let (at, mirror) = (y * SIDE + x, opposite(y) * SIDE + opposite(x));
            let (a, b) = (first[k] * scale, first[count + k] * scale);
            let (c, d) = second.map_or((0.0, 0.0), |v| (v[k] * scale, v[count + k] * scale));
            // (a + ib) + i(c + id), and the same of the conjugates.
            (field.re[at], field.im[at]) = (a - d, b + c);
            (field.re[mirror], field.im[mirror]) = (a + d, c - b);
        }
        self.fourier.inverse(&mut field);
        field
    }

    /// The tile that carries `payload`: mean 0, variance 1.
    pub fn tile(&self, payload: Payload) -> Vec<f32> {
        let (sync, bits) = self.vectors.split_first().expect("there are 97 patterns");
        let share = ((1.0 - SYNC * SYNC) / CHANNEL_BITS as f64).sqrt();
        let mut sum: Vector = sync.iter().map(|v| SYNC * v).collect();
        for (bit, pattern) in payload.channel().into_iter().zip(bits) {
            let sign = if bit { share } else { -share };
            sum.iter_mut().zip(pattern).for_each(|(s, p)| *s += sign * p);
        }
        let length = dot(&sum, &sum).sqrt();
        sum.iter_mut().for_each(|v| *v /= length);
        self.synthesise(&sum, None).re.iter().map(|&v| v as f32).collect()
    }

    /// How well the tile of these coefficients agrees with the pattern that it is found by, at each
    /// shift.
    pub fn agreement(&self, vector: &[f64]) -> Vec<f64> {
        self.synthesise(&self.with_sync(vector), None).re
    }

    /// [`Self::agreement`] of two tiles at once, in half of the time.
    pub fn agreements(&self, first: &[f64], second: &[f64]) -> [Vec<f64>; 2] {
        let both = self.synthesise(&self.with_sync(first), Some(&self.with_sync(second)));
        [both.re, both.im]
    }

    /// Coefficients times the conjugate of those of the pattern that a tile is found by.
    fn with_sync(&self, vector: &[f64]) -> Vector {
        let count = self.ring.len();
        let ((a, b), (c, d)) = (vector.split_at(count), self.vectors[0].split_at(count));
        let mut product = vec![0.0; 2 * count];
        for at in 0..count {
            product[at] = a[at] * c[at] + b[at] * d[at];
            product[count + at] = b[at] * c[at] - a[at] * d[at];
        }
        product
    }

    /// The coefficients of the tile moved back by `[y, x]` cells, which may be fractions.
    pub fn moved_back(&self, vector: &[f64], by: [f64; 2]) -> Vector {
        let count = self.ring.len();
        let mut out = vec![0.0; 2 * count];
        for (at, &(y, x)) in self.ring.iter().enumerate() {
            let cycles = (signed(y) * by[0] + signed(x) * by[1]) / SIDE as f64;
            let (s, c) = (std::f64::consts::TAU * cycles).sin_cos();
            let (re, im) = (vector[at], vector[count + at]);
            (out[at], out[count + at]) = (re * c - im * s, re * s + im * c);
        }
        out
    }

    /// The soft channel bits of a tile in place.
    pub fn bits(&self, vector: &[f64]) -> [f64; CHANNEL_BITS] {
        std::array::from_fn(|bit| dot(&self.vectors[1 + bit], vector))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_orthogonal_and_their_numbers_are_pinned() {
        let patterns = Patterns::new(&Key::public());
        assert_eq!(patterns.vectors.len(), 97);
        assert!(2 * patterns.ring.len() >= 880, "{}", patterns.ring.len());
        for (a, one) in patterns.vectors.iter().enumerate() {
            for (b, other) in patterns.vectors.iter().enumerate() {
                let expected = f64::from(u8::from(a == b));
                assert!((dot(one, other) - expected).abs() < 1e-12, "{a} {b}");
            }
        }
        // Marks that exist can only be found while these numbers stay.
        let pixels = patterns.synthesise(&patterns.vectors[0], None).re;
        let mean = pixels.iter().sum::<f64>() / CELLS as f64;
        let square = pixels.iter().map(|v| v * v).sum::<f64>() / CELLS as f64;
        assert!(mean.abs() < 1e-12 && (square - 1.0).abs() < 1e-12, "{mean} {square}");
        let first: Vec<f32> = pixels[..8].iter().map(|&v| v as f32).collect();
        assert_eq!(first, FIRST);
    }

    const FIRST: [f32; 8] =
        [1.381448, 1.1750097, 0.8810123, 0.5414895, 0.1817969, -0.16056874, -0.426073, -0.5518482];

    #[test]
    fn a_tile_has_unit_variance_and_holds_its_bits() {
        let patterns = Patterns::new(&Key::private(&[7; 32]));
        let payload = Payload { version: 2, id: 0x0123_4567 };
        let tile = patterns.tile(payload);
        let square = tile.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / CELLS as f64;
        assert!((square - 1.0).abs() < 1e-6, "{square}");
        let moved = |at: usize| {
            let (y, x) = (at / SIDE, at % SIDE);
            f64::from(tile[(y + SIDE - 5) % SIDE * SIDE + (x + SIDE - 9) % SIDE])
        };
        let vector = patterns.coefficients(&patterns.analyse((0..CELLS).map(moved)), false);
        let agreement = patterns.agreement(&vector);
        let best = (0..CELLS).fold(0, |b, at| if agreement[at] > agreement[b] { at } else { b });
        assert_eq!((best / SIDE, best % SIDE), (5, 9));
        let soft = patterns.bits(&patterns.moved_back(&vector, [5.0, 9.0]));
        assert_eq!(Payload::decode(&soft), Some(payload));
        assert!(soft.iter().zip(payload.channel()).all(|(s, bit)| (*s > 0.0) == bit));
    }

    #[test]
    fn keys_do_not_print_their_secret() {
        assert_eq!(format!("{:?}", Key::private(&[42; 32])), "Key(private)");
        assert_eq!(format!("{:?}", Key::public()), "Key(public)");
    }
}
