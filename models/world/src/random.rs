//! Random numbers that depend on a key alone.
//!
//! Every draw has a stream of its own, keyed by what it is for (a person, one clip of a person, a
//! sample): nothing depends on what was drawn before, so that clip 7 of group 12 is the same
//! whether or not clips 0 to 6 were asked for. Not for secrets.

/// A stream of random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
}

/// Spreads every bit of `z` over all of the result.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Stream {
    /// The stream of a key. Keys that differ anywhere, in length too, have unrelated streams.
    pub fn new(key: &[u64]) -> Self {
        let state = key.iter().fold(mix(key.len() as u64), |state, &part| {
            mix(state.wrapping_add(STEP) ^ mix(part.wrapping_add(STEP)))
        });
        Self { state }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// A whole number below `count`, which is at least 1.
    pub fn below(&mut self, count: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(count)) >> 32) as u32
    }

    /// A number of 24 bits from 0 to just below 1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 16_777_216.0
    }

    /// A number between two others.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// True with probability `share`.
    pub fn chance(&mut self, share: f32) -> bool {
        self.unit() < share
    }

    /// A place in `shares`, each as probable as its share of the sum.
    pub fn weighted(&mut self, shares: &[f32]) -> usize {
        let mut left = self.unit() * shares.iter().sum::<f32>();
        for (at, share) in shares.iter().enumerate() {
            left -= share;
            if left < 0.0 {
                return at;
            }
        }
        shares.len() - 1
    }

    /// `count` different numbers below `total` in random order; `count` is at most `total`.
    pub fn distinct(&mut self, total: u32, count: usize) -> Vec<u32> {
        let mut all: Vec<u32> = (0..total).collect();
        for at in 0..count {
            let other = at + self.below(total - at as u32) as usize;
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_depend_on_their_key_alone() {
        let first = Stream::new(&[1, 2]).bits();
        assert_eq!(Stream::new(&[1, 2]).bits(), first);
        for other in [&[2, 1][..], &[1, 2, 0], &[1], &[0, 2], &[]] {
            assert_ne!(Stream::new(other).bits(), first);
        }
        // The stream is part of what a world is: its numbers may not change.
        assert_eq!(Stream::new(&[1, 0, 7]).bits(), 13_482_513_211_806_558_514);
    }

    #[test]
    fn draws_have_their_shares() {
        let mut stream = Stream::new(&[5]);
        let mut counts = [0; 3];
        let mut whole = [0; 7];
        for _ in 0..70_000 {
            counts[stream.weighted(&[0.5, 0.3, 0.2])] += 1;
            whole[stream.below(7) as usize] += 1;
            let unit = stream.unit();
            assert!((0.0..1.0).contains(&unit));
        }
        for (count, share) in counts.iter().zip([0.5, 0.3, 0.2]) {
            assert!((f64::from(*count) / 70_000.0 - share).abs() < 0.008, "{counts:?}");
        }
        assert!(whole.iter().all(|count| (9_600..10_400).contains(count)), "{whole:?}");
    }

    #[test]
    fn distinct_numbers_are_distinct() {
        let mut stream = Stream::new(&[9]);
        let mut firsts = [0; 5];
        for _ in 0..5_000 {
            let drawn = stream.distinct(5, 3);
            firsts[drawn[0] as usize] += 1;
            assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2] && drawn[0] != drawn[2]);
            assert!(drawn.iter().all(|&number| number < 5));
        }
        assert!(firsts.iter().all(|count| (850..1150).contains(count)), "{firsts:?}");
    }
}
