//! Numbers drawn at random that depend on a key alone: on a seed, on what they are for, and on their
//! place, but on nothing that was drawn before.

use sha2::{Digest, Sha256};

/// Four numbers of 64 bits that depend on all of these.
pub fn bits(seed: u64, purpose: &str, id: &str, number: u64) -> [u64; 4] {
    let hash = Sha256::new()
        .chain_update(seed.to_le_bytes())
        .chain_update(purpose)
        .chain_update([0])
        .chain_update(id)
        .chain_update([0])
        .chain_update(number.to_le_bytes())
        .finalize();
    std::array::from_fn(|at| {
        let bytes: [u8; 8] = hash[8 * at..8 * at + 8].try_into().expect("a hash has 32 bytes");
        u64::from_le_bytes(bytes)
    })
}

/// A whole number below `bound`, from 64 random bits.
pub fn below(bits: u64, bound: usize) -> usize {
    ((u128::from(bits) * bound as u128) >> 64) as usize
}

/// A number in [0, 1) from 64 random bits.
pub fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// The numbers of one key, one after the other.
#[derive(Clone, Debug)]
pub struct Draws {
    seed: u64,
    purpose: &'static str,
    id: String,
    next: u64,
    words: [u64; 4],
}

impl Draws {
    /// The numbers of a key.
    pub fn new(seed: u64, purpose: &'static str, id: impl Into<String>) -> Self {
        Self { seed, purpose, id: id.into(), next: 0, words: [0; 4] }
    }

    fn bits(&mut self) -> u64 {
        let at = (self.next % 4) as usize;
        if at == 0 {
            self.words = bits(self.seed, self.purpose, &self.id, self.next / 4);
        }
        self.next += 1;
        self.words[at]
    }

    /// A whole number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        below(self.bits(), bound)
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        unit(self.bits())
    }

    /// A number from `low` to just below `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A place in `weights`, each as probable as its share of their sum; 0 where all are 0.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f64>();
        for (at, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return at;
            }
        }
        weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_their_key_alone() {
        let first: Vec<u64> = (0..9)
            .map({
                let mut draws = Draws::new(7, "sample", "3");
                move |_| draws.bits()
            })
            .collect();
        let mut again = Draws::new(7, "sample", "3");
        assert!(first.iter().all(|word| *word == again.bits()));
        assert_ne!(Draws::new(8, "sample", "3").bits(), first[0]);
        assert_ne!(Draws::new(7, "sample", "4").bits(), first[0]);
        // What was drawn stays so: manifests are made again from their seed.
        assert_eq!(bits(0, "order", "a", 0)[0], 0x2723_a6a6_b81a_b7bf);
    }

    #[test]
    fn numbers_have_their_bounds_and_shares() {
        let mut draws = Draws::new(1, "test", "");
        let mut counts = [0u32; 3];
        for _ in 0..30_000 {
            let (whole, part) = (draws.below(5), draws.between(-2.0, 3.0));
            assert!(whole < 5 && (-2.0..3.0).contains(&part));
            counts[draws.weighted(&[2.0, 0.0, 1.0])] += 1;
        }
        // Three standard errors of 20,000 of 30,000.
        assert!((19_755..=20_245).contains(&counts[0]) && counts[1] == 0, "{counts:?}");
        assert_eq!(Draws::new(1, "", "").weighted(&[0.0, 0.0]), 0);
    }
}
