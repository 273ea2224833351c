//! Numbers drawn at random: those that depend on a key alone, for what must be the same again, and
//! those of the system, for what nobody may guess.
//!
//! A key is hashed (SHA-256) to the state of SplitMix64 (Steele, Lea, Flood, "Fast splittable
//! pseudorandom number generators", 2014), which is fast enough for ten thousand resamplings.

use anyid_files::{Error, Result};
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

/// `N` random bytes of the system.
///
/// # Errors
/// E1603 where the system has none.
pub fn secret<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|fault| {
        Error::input("E1603", format!("the system gives no random numbers: {fault}"))
            .help("wait until it has started wholly, and try again")
    })?;
    Ok(bytes)
}

/// A name of 128 random bits in hexadecimal, which nobody can guess.
///
/// # Errors
/// As [`secret`].
pub fn token() -> Result<String> {
    secret::<16>().map(|bytes| anyid_guard::hex(&bytes))
}

/// SHA-256 of a text in hexadecimal: what is kept of a token.
pub fn digest(text: &str) -> String {
    anyid_guard::hex(&Sha256::digest(text.as_bytes()))
}

/// Whether two texts are the same, in a time that depends on their lengths alone.
pub fn same(a: &str, b: &str) -> bool {
    a.len() == b.len()
        && a.bytes().zip(b.bytes()).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
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
    fn secrets_differ_and_are_compared_as_wholes() {
        let (a, b) = (token().unwrap(), token().unwrap());
        assert!(a.len() == 32 && a != b);
        assert!(same(&a, &a) && !same(&a, &b) && !same(&a, &a[1..]));
    }
}
