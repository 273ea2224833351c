//! Which samples go through the network in one call.
//!
//! A call takes samples of one shape. The samples of a batch are taken in their order; each shape has
//! a group that is filled until it is as large as a call may be. What is left over is cut into powers of
//! two, so that a few plans serve every number of samples. All of it follows from the batch alone, so a
//! run that goes on makes the groups that it would have made.

use super::parameters::Kind;
use super::settings::TrainSettings;
use std::collections::BTreeMap;

/// Numbers that the widest stream of values between two layers holds, over all samples of a call, where
/// the settings say nothing. Products are fast from there on, and memory grows with it.
const NUMBERS: usize = 1 << 21;

/// What a call takes, for each shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    most: BTreeMap<usize, Call>,
}

/// What a call takes of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Samples, or pairs, that are learned from together at most.
    pub units: usize,
    /// Clips of each in one call: both of a pair, if there is room for two.
    pub clips: usize,
}

impl Calls {
    /// For these shapes, each with the numbers that its widest stream holds for one clip.
    pub fn new(
        train: &TrainSettings,
        kind: Kind,
        shapes: impl IntoIterator<Item = (usize, usize)>,
    ) -> Self {
        let members = if kind == Kind::Dpo { 2 } else { 1 };
        let batch = usize::try_from(train.batch).unwrap_or(usize::MAX);
        let call = |numbers: usize| {
            let fast = || fitting(batch, NUMBERS / numbers.max(1) / members) * members;
            match train.together.map_or_else(fast, |count| count as usize) / members {
                0 => Call { units: 1, clips: 1 },
                units => Call { units: units.min(batch), clips: members },
            }
        };
        Self { most: shapes.into_iter().map(|(shape, numbers)| (shape, call(numbers))).collect() }
    }

    /// What a call takes of samples of a shape.
    pub fn of(&self, shape: usize) -> Call {
        self.most.get(&shape).copied().unwrap_or(Call { units: 1, clips: 1 })
    }

    /// The shapes.
    pub fn shapes(&self) -> impl Iterator<Item = usize> {
        self.most.keys().copied()
    }

    /// Whether there are pairs whose clips go through the network one after the other.
    pub fn apart(&self, kind: Kind) -> bool {
        kind == Kind::Dpo && self.most.values().any(|call| call.clips == 1)
    }

    /// Clips in the calls with derivatives, largest first: what batches of `batch` are cut into.
    pub fn batches(&self, shape: usize, batch: u64) -> Vec<usize> {
        let Call { units, clips } = self.of(shape);
        let mut all = match self.most.len() {
            // Every batch is all of one shape.
            1 => cut(usize::try_from(batch).unwrap_or(usize::MAX), units),
            _ => any(units),
        };
        all.dedup();
        all.into_iter().map(|size| size * clips).collect()
    }

    /// Clips in the calls without derivatives, largest first: for any number of clips.
    pub fn measurements(&self, shape: usize) -> Vec<usize> {
        let Call { units, clips } = self.of(shape);
        any(units).into_iter().map(|size| size * clips).collect()
    }

    /// Samples or pairs of these shapes in groups, by their places.
    pub fn groups(&self, shapes: &[usize]) -> Vec<Vec<usize>> {
        self.grouped(shapes, &|call| call.units)
    }

    /// Clips of these shapes in groups, by their places. Those of a pair lie one behind the other.
    pub fn clip_groups(&self, shapes: &[usize]) -> Vec<Vec<usize>> {
        self.grouped(shapes, &|call| call.units * call.clips)
    }

    fn grouped(&self, shapes: &[usize], most: &dyn Fn(Call) -> usize) -> Vec<Vec<usize>> {
        let mut places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, shape) in shapes.iter().enumerate() {
            places.entry(*shape).or_default().push(at);
        }
        let mut out = Vec::new();
        for (shape, places) in places {
            let mut rest = &places[..];
            for size in cut(rest.len(), most(self.of(shape))) {
                let (own, left) = rest.split_at(size);
                out.push(own.to_vec());
                rest = left;
            }
        }
        out.sort_unstable();
        out
    }
}

/// The size of parts of a batch of at most `most`: one that leaves nothing over, if it is not much smaller.
fn fitting(batch: usize, most: usize) -> usize {
    let most = most.min(batch);
    let divides = |size: &usize| batch.is_multiple_of(*size);
    (most.div_ceil(2).max(1)..=most).rev().find(divides).unwrap_or(most)
}

/// `count` in parts of at most `most`: whole ones, then powers of two.
fn cut(count: usize, most: usize) -> Vec<usize> {
    let mut out = vec![most; count / most];
    let mut rest = count % most;
    while rest > 0 {
        let size = 1 << rest.ilog2();
        out.push(size);
        rest -= size;
    }
    out
}

/// The parts that any number may be [`cut`] into, largest first.
fn any(most: usize) -> Vec<usize> {
    let powers = (0..usize::BITS).map(|bit| 1usize << bit).take_while(|size| *size < most);
    let mut out: Vec<usize> = powers.chain([most]).collect();
    out.reverse();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(kind: Kind, together: Option<u64>, batch: u64, shapes: &[(usize, usize)]) -> Calls {
        let train = TrainSettings { together, batch, ..TrainSettings::default() };
        Calls::new(&train, kind, shapes.iter().copied())
    }

    #[test]
    fn a_call_takes_what_is_asked_for_or_fits() {
        let of = |kind, together, batch| {
            let Call { units, clips } = calls(kind, together, batch, &[(1, NUMBERS / 10)]).of(1);
            (units, clips)
        };
        assert_eq!(of(Kind::Lora, None, 20), (10, 1));
        assert_eq!(of(Kind::Lora, None, 32), (8, 1), "four calls, and nothing over");
        assert_eq!(of(Kind::Lora, None, 31), (10, 1));
        assert_eq!(of(Kind::Lora, None, 4), (4, 1), "never more than a batch");
        assert_eq!(of(Kind::Full, Some(3), 64), (3, 1));
        assert_eq!(of(Kind::Full, Some(5), 64), (5, 1));
        assert_eq!(of(Kind::Dpo, None, 64), (4, 2));
        assert_eq!(of(Kind::Dpo, Some(1), 64), (1, 1), "one member of a pair after the other");
        assert_eq!(calls(Kind::Lora, None, 8, &[(1, 2 * NUMBERS)]).of(1).units, 1);
    }

    #[test]
    fn every_sample_is_in_one_group_of_its_shape_and_those_of_one_keep_their_order() {
        let calls = calls(Kind::Lora, Some(4), 16, &[(1, 1), (2, 1)]);
        let shapes = [1, 2, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1];
        let groups = calls.groups(&shapes);
        let expected = [vec![0, 2, 3, 5], vec![1, 4], vec![6, 7, 9, 10], vec![8], vec![11]];
        assert_eq!(groups, expected);
        let sizes = calls.batches(1, 16);
        assert_eq!(sizes, [4, 2, 1]);
        assert!(groups.iter().all(|group| sizes.contains(&group.len())));
        let alone = self::calls(Kind::Lora, Some(1), 16, &[(1, 1), (2, 1)]);
        let each: Vec<Vec<usize>> = (0..shapes.len()).map(|at| vec![at]).collect();
        assert_eq!(alone.groups(&shapes), each, "one by one in the order of the batch");
    }

    #[test]
    fn few_plans_serve_every_number() {
        for most in 1..20 {
            for count in 0..100 {
                let parts = cut(count, most);
                assert_eq!(parts.iter().sum::<usize>(), count);
                assert!(parts.iter().all(|part| any(most).contains(part)), "{count} by {most}");
            }
        }
        assert_eq!(calls(Kind::Lora, Some(8), 32, &[(1, 1)]).batches(1, 32), [8]);
        assert_eq!(calls(Kind::Lora, Some(8), 20, &[(1, 1)]).batches(1, 20), [8, 4]);
        assert_eq!(calls(Kind::Dpo, Some(8), 32, &[(1, 1)]).measurements(1), [8, 4, 2]);
    }
}
