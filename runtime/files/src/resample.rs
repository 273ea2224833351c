//! Numbers drawn at random that depend on a key alone, and what statistics make of draws: the same for
//! votes of people and for scores of videos.
//!
//! A key is hashed (SHA-256) to the state of SplitMix64 (Steele, Lea, Flood, "Fast splittable
//! pseudorandom number generators", 2014), which is fast enough for ten thousand resamplings.

use sha2::{Digest, Sha256};

/// The numbers of one key, one after the other.
#[derive(Clone, Debug)]
pub struct Draws(u64);

impl Draws {
    /// The numbers that depend on `seed`, on what they are for, and on `id`.
    pub fn new(seed: &[u8], purpose: &str, id: &str) -> Self {
        let hash = Sha256::new()
            .chain_update(seed)
            .chain_update([0])
            .chain_update(purpose)
            .chain_update([0])
            .chain_update(id)
            .finalize();
        let first: [u8; 8] = hash[..8].try_into().expect("a hash has 32 bytes");
        Self(u64::from_le_bytes(first))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A whole number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts a list into a random order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}

/// The 2.5 % and 97.5 % points of values, between neighbours by their distance.
pub fn middle(values: &mut [f64]) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [0.025, 0.975].map(|share| {
        let place = share * (values.len() - 1) as f64;
        let (low, part) = (place.floor() as usize, place.fract());
        let high = (low + 1).min(values.len() - 1);
        values[low] + part * (values[high] - values[low])
    })
}

/// The p values after Holm's correction (1979), in their order.
pub fn holm(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let (mut corrected, mut least) = (vec![0.0; values.len()], 0.0f64);
    for (rank, at) in order.into_iter().enumerate() {
        least = least.max((values.len() - rank) as f64 * values[at]).min(1.0);
        corrected[at] = least;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_their_key_alone() {
        let words = |seed: &[u8], id| {
            let mut draws = Draws::new(seed, "test", id);
            [draws.bits(), draws.bits()]
        };
        assert_eq!(words(b"1", "a"), words(b"1", "a"));
        assert_ne!(words(b"1", "a"), words(b"2", "a"));
        assert_ne!(words(b"1", "a"), words(b"1", "b"));
        let mut list: Vec<u32> = (0..100).collect();
        Draws::new(b"", "", "").shuffle(&mut list);
        assert_ne!(list, (0..100).collect::<Vec<_>>());
        list.sort_unstable();
        assert_eq!(list, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn corrections_of_holm_keep_their_order() {
        let corrected = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (value, expected) in corrected.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((value - expected).abs() < 1e-12, "{corrected:?}");
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }
}
