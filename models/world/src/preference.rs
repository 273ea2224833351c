//! Preferences: which of two clips of one set is better, if one is.
//!
//! A clip is judged on two tracks: how much of the person it shows, and how much of what it should
//! show besides. One clip is preferred where it is better and in neither track worse (Pareto
//! dominance), so that neither track is bought with the other; and where it is better by a margin, so
//! that what a single small feature decides by chance does not count.

use crate::measure::{Part, Parts};

/// What a clip came to on both tracks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tracks {
    /// Attributes of the person that can be seen, and how many are right.
    pub identity: Part,
    /// Elements that can be seen, named by the prompt or left to the primary, and how many are right.
    pub prompt: Part,
}

impl Tracks {
    /// The tracks of what [`parts`](crate::parts) gave.
    pub fn of(parts: &Parts) -> Self {
        let part = |name: &str| parts.get(name).copied().unwrap_or_default();
        let (mentioned, inherited) = (part("mentioned"), part("inherited"));
        let prompt =
            Part { sum: mentioned.sum + inherited.sum, cases: mentioned.cases + inherited.cases };
        Self { identity: part("identity"), prompt }
    }

    /// The shares that are right of identity and prompt; none where one of them has nothing to be seen.
    pub fn shares(&self) -> Option<[f64; 2]> {
        let share = |part: Part| (part.cases > 0.0).then(|| part.sum / part.cases);
        Some([share(self.identity)?, share(self.prompt)?])
    }
}

/// Which of two clips is preferred: the one that is worse on no track, and better by at least `margin`
/// in the sum of the shares.
pub fn preferred(clips: &[Tracks; 2], margin: f64) -> Option<usize> {
    let [one, other] = [clips[0].shares()?, clips[1].shares()?];
    let better = |a: [f64; 2], b: [f64; 2]| {
        let more = [a[0] - b[0], a[1] - b[1]];
        let sum = more[0] + more[1];
        more[0] >= 0.0 && more[1] >= 0.0 && sum > 0.0 && sum >= margin
    };
    match (better(one, other), better(other, one)) {
        (true, _) => Some(0),
        (_, true) => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracks(identity: (f64, f64), prompt: (f64, f64)) -> Tracks {
        let part = |(sum, cases)| Part { sum, cases };
        Tracks { identity: part(identity), prompt: part(prompt) }
    }

    #[test]
    fn a_clip_is_preferred_that_is_nowhere_worse_and_better_by_the_margin() {
        let low = tracks((4.0, 8.0), (6.0, 8.0));
        let prefer = |other: Tracks, margin| preferred(&[low, other], margin);
        assert_eq!(prefer(tracks((6.0, 8.0), (6.0, 8.0)), 0.25), Some(1));
        assert_eq!(prefer(tracks((6.0, 8.0), (6.0, 8.0)), 0.26), None, "not by the margin");
        assert_eq!(prefer(tracks((5.0, 8.0), (7.0, 8.0)), 0.25), Some(1), "in the sum");
        assert_eq!(prefer(tracks((8.0, 8.0), (5.0, 8.0)), 0.1), None, "worse on one track");
        assert_eq!(prefer(tracks((3.0, 8.0), (2.0, 8.0)), 0.1), Some(0));
        assert_eq!(prefer(low, 0.0), None, "neither is better");
        // Shares count, not cases: what can be seen may differ.
        assert_eq!(prefer(tracks((3.0, 4.0), (3.0, 4.0)), 0.15), Some(1));
        assert_eq!(prefer(tracks((0.0, 0.0), (8.0, 8.0)), 0.1), None, "nothing to compare");
    }

    #[test]
    fn the_prompt_is_all_elements_together() {
        let part = |sum, cases| Part { sum, cases };
        let parts: Parts = [
            ("identity", part(5.0, 9.0)),
            ("large", part(3.0, 3.0)),
            ("mentioned", part(3.0, 4.0)),
            ("inherited", part(1.0, 4.0)),
        ]
        .map(|(name, part)| (name.to_owned(), part))
        .into();
        let found = Tracks::of(&parts);
        assert_eq!(found, tracks((5.0, 9.0), (4.0, 8.0)));
        assert_eq!(found.shares(), Some([5.0 / 9.0, 0.5]));
        assert_eq!(Tracks::of(&Parts::new()).shares(), None);
    }
}
