//! Bytes in use at every launch, under changes: ranges are added and taken away, the most is known
//! at any time. A tree of maxima, so that both cost a logarithm of the length.

/// The profile.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    steps: usize,
    leaves: usize,
    /// For each node what was added to its whole range, and the most in it with that.
    nodes: Vec<(i128, i128)>,
}

impl Profile {
    /// Nothing in use at any of `steps` launches.
    pub(crate) fn new(steps: usize) -> Self {
        let leaves = steps.max(1).next_power_of_two();
        Self { steps, leaves, nodes: vec![(0, 0); 2 * leaves] }
    }

    /// Adds `bytes` from launch `from` to launch `to`, both included; takes them away if negative.
    pub(crate) fn add(&mut self, from: usize, to: usize, bytes: i128) {
        let (mut low, mut high) = (from + self.leaves, to + self.leaves + 1);
        let (first, last) = (low, high - 1);
        while low < high {
            if low % 2 == 1 {
                self.raise(low, bytes);
                low += 1;
            }
            if high % 2 == 1 {
                high -= 1;
                self.raise(high, bytes);
            }
            (low, high) = (low / 2, high / 2);
        }
        for mut at in [first, last] {
            while at > 1 {
                at /= 2;
                let most = self.nodes[2 * at].1.max(self.nodes[2 * at + 1].1);
                self.nodes[at].1 = self.nodes[at].0 + most;
            }
        }
    }

    fn raise(&mut self, node: usize, bytes: i128) {
        let (own, most) = &mut self.nodes[node];
        *own += bytes;
        *most += bytes;
    }

    /// The most at one launch.
    pub(crate) fn most(&self) -> u64 {
        bytes(self.nodes[1].1)
    }

    /// Bytes at every launch.
    pub(crate) fn all(&self) -> Vec<u64> {
        let at = |step: usize| {
            let mut node = step + self.leaves;
            let mut sum = 0;
            while node > 0 {
                sum += self.nodes[node].0;
                node /= 2;
            }
            bytes(sum)
        };
        (0..self.steps).map(at).collect()
    }
}

fn bytes(sum: i128) -> u64 {
    u64::try_from(sum).expect("a sum of sizes is not negative")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_adding_one_by_one_gives() {
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for steps in [1, 2, 7, 64, 100] {
            let (mut profile, mut plain) = (Profile::new(steps), vec![0u64; steps]);
            let mut added: Vec<(usize, usize, i128)> = Vec::new();
            for round in 0..200 {
                let taken = if round % 3 == 0 { added.pop() } else { None };
                let (from, to, size) = match taken {
                    Some((from, to, size)) => (from, to, -size),
                    None => {
                        let from = random(steps);
                        let piece = (from, from + random(steps - from), random(1000) as i128);
                        added.push(piece);
                        piece
                    }
                };
                profile.add(from, to, size);
                for bytes in &mut plain[from..=to] {
                    *bytes = u64::try_from(i128::from(*bytes) + size).unwrap();
                }
                assert_eq!(profile.most(), *plain.iter().max().unwrap());
            }
            assert_eq!(profile.all(), plain);
        }
    }
}
