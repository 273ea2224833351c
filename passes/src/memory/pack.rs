//! Offsets for intervals of known size and lifetime.
//!
//! Three deterministic orders (size, lifetime, first use) are each placed greedily into the lowest
//! gap that is free over the interval's whole life; the lowest peak wins. On programs of this
//! shape that is within a fraction of a percent of the lower bound (architecture paper §5.3).

/// Memory needed from step `from` to step `to`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// First step that touches it.
    pub from: usize,
    /// Last step that touches it.
    pub to: usize,
    /// Bytes, a multiple of the alignment.
    pub size: u64,
}

impl Interval {
    fn overlaps(&self, other: &Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// A placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Offset of each interval.
    pub offsets: Vec<u64>,
    /// Bytes of the arena.
    pub peak: u64,
}

/// The best of the three orders.
pub fn pack(intervals: &[Interval]) -> Packing {
    let order = |key: &dyn Fn(usize) -> (std::cmp::Reverse<u64>, usize)| {
        let mut order: Vec<usize> = (0..intervals.len()).collect();
        order.sort_by_key(|i| key(*i));
        order
    };
    let size = |i: usize| (std::cmp::Reverse(intervals[i].size), i);
    let life = |i: usize| (std::cmp::Reverse((intervals[i].to - intervals[i].from) as u64), i);
    let first = |i: usize| (std::cmp::Reverse(0), intervals[i].from);
    [order(&size), order(&life), order(&first)]
        .iter()
        .map(|order| place(intervals, order))
        .min_by_key(|packing| packing.peak)
        .expect("three orders were tried")
}

fn place(intervals: &[Interval], order: &[usize]) -> Packing {
    let mut offsets = vec![0; intervals.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(order.len());
    let mut peak = 0;
    let mut busy: Vec<(u64, u64)> = Vec::new();
    for &i in order {
        busy.clear();
        busy.extend(
            placed
                .iter()
                .filter(|j| intervals[**j].overlaps(&intervals[i]))
                .map(|j| (offsets[*j], offsets[*j] + intervals[*j].size)),
        );
        busy.sort_unstable();
        let mut at = 0;
        for (start, end) in &busy {
            if at + intervals[i].size <= *start {
                break;
            }
            at = at.max(*end);
        }
        offsets[i] = at;
        peak = peak.max(at + intervals[i].size);
        placed.push(i);
    }
    Packing { offsets, peak }
}

/// Largest sum of sizes live at one step.
pub fn lower_bound(intervals: &[Interval]) -> u64 {
    let last = intervals.iter().map(|i| i.to).max().unwrap_or(0);
    let mut change = vec![0i128; last + 2];
    for interval in intervals {
        change[interval.from] += i128::from(interval.size);
        change[interval.to + 1] -= i128::from(interval.size);
    }
    let mut live = 0;
    let mut most = 0;
    for delta in change {
        live += delta;
        most = most.max(live);
    }
    u64::try_from(most).expect("a sum of sizes is not negative")
}
