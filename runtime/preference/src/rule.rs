//! How votes decide a matchup, and which matchups become pairs (annotate.md §5).

/// A video of a matchup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

impl Side {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Votes on one matchup in one track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// For the first video.
    pub a: u32,
    /// For the second.
    pub b: u32,
    /// For neither.
    pub tie: u32,
}

impl Counts {
    /// Adds a vote for `winner`: `a`, `b`, or another for a tie.
    pub fn add(&mut self, winner: &str) {
        match winner {
            "a" => self.a += 1,
            "b" => self.b += 1,
            _ => self.tie += 1,
        }
    }

    /// All of them.
    pub fn total(self) -> u32 {
        self.a + self.b + self.tie
    }
}

/// How many votes a decision takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Majority {
    /// More than the other, and two thirds of all with the ties.
    #[default]
    TwoThirds,
    /// All.
    Unanimous,
}

impl Majority {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::TwoThirds => "majority2/3",
            Self::Unanimous => "unanimous",
        }
    }

    /// The video that a track is decided for, if it is.
    pub fn winner(self, counts: Counts) -> Option<Side> {
        let total = counts.total();
        let needed = match self {
            Self::TwoThirds => (2 * total).div_ceil(3),
            Self::Unanimous => total,
        };
        match (counts.a, counts.b) {
            (a, b) if a > b && a >= needed => Some(Side::A),
            (a, b) if b > a && b >= needed => Some(Side::B),
            _ => None,
        }
    }

    /// The video that is better on both tracks: Pareto dominance, without which there is no pair.
    pub fn chosen(self, identity: Counts, prompt: Counts) -> Option<Side> {
        let (identity, prompt) = (self.winner(identity)?, self.winner(prompt)?);
        (identity == prompt).then_some(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of a pattern of three votes, as digits of base 3.
    fn pattern(code: u32) -> Counts {
        let mut counts = Counts::default();
        for place in [1, 3, 9] {
            counts.add(["a", "b", "tie"][(code / place % 3) as usize]);
        }
        counts
    }

    /// The rule of three votes by hand: two of three and more than the other.
    fn by_hand(counts: Counts) -> Option<Side> {
        match (counts.a, counts.b, counts.tie) {
            (3, 0, 0) | (2, 1, 0) | (2, 0, 1) => Some(Side::A),
            (0, 3, 0) | (1, 2, 0) | (0, 2, 1) => Some(Side::B),
            _ => None,
        }
    }

    #[test]
    fn all_patterns_of_three_votes_in_two_tracks_give_the_pairs_of_the_rule() {
        let (mut valid, mut agreeing) = (0, 0);
        for first in 0..27 {
            for second in 0..27 {
                let (identity, prompt) = (pattern(first), pattern(second));
                let (one, two) = (by_hand(identity), by_hand(prompt));
                assert_eq!(Majority::TwoThirds.winner(identity), one, "{identity:?}");
                let expected = one.filter(|side| two == Some(*side));
                assert_eq!(Majority::TwoThirds.chosen(identity, prompt), expected);
                valid += u32::from(expected.is_some());
                let strict = Majority::Unanimous.chosen(identity, prompt);
                agreeing += u32::from(strict.is_some());
                assert!(strict.is_none() || strict == expected);
            }
        }
        // 7 of the 27 patterns are decided for either video.
        assert_eq!((valid, agreeing), (2 * 7 * 7, 2));
    }

    #[test]
    fn one_vote_decides_and_none_does_not() {
        for majority in [Majority::TwoThirds, Majority::Unanimous] {
            assert_eq!(majority.winner(Counts { a: 1, b: 0, tie: 0 }), Some(Side::A));
            assert_eq!(majority.winner(Counts { a: 0, b: 1, tie: 0 }), Some(Side::B));
            assert_eq!(majority.winner(Counts { a: 0, b: 0, tie: 1 }), None);
            assert_eq!(majority.winner(Counts::default()), None);
        }
        // Four of seven are not two thirds, five are.
        assert_eq!(Majority::TwoThirds.winner(Counts { a: 4, b: 1, tie: 2 }), None);
        assert_eq!(Majority::TwoThirds.winner(Counts { a: 5, b: 1, tie: 1 }), Some(Side::A));
    }
}
