//! Offsets for intervals of known size and lifetime.
//!
//! Three deterministic orders (size, lifetime, first use) are each placed greedily into the lowest
//! gap that is free over the interval's whole life; the lowest peak wins. On programs of this
//! shape that is within a fraction of a percent of the lower bound (architecture paper §5.3). Where
//! it is more than 2 % above, a bounded loop moves buffers at the peak forward in the best order;
//! its choices come from a fixed seed, so equal programs get equal plans.

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

/// Most rounds of the improvement loop.
const ROUNDS: usize = 2000;
/// Most pairs of buffers that the loop compares in all; keeps large programs fast.
const MOST_PAIRS: usize = 1 << 28;

/// The best of the three orders, improved where it is more than 2 % above the lower bound.
pub fn pack(intervals: &[Interval]) -> Packing {
    let order = |key: &dyn Fn(usize) -> (std::cmp::Reverse<u64>, usize)| {
        let mut order: Vec<usize> = (0..intervals.len()).collect();
        order.sort_by_key(|i| key(*i));
        order
    };
    let size = |i: usize| (std::cmp::Reverse(intervals[i].size), i);
    let life = |i: usize| (std::cmp::Reverse((intervals[i].to - intervals[i].from) as u64), i);
    let first = |i: usize| (std::cmp::Reverse(0), intervals[i].from);
    let (best, order) = [order(&size), order(&life), order(&first)]
        .into_iter()
        .map(|order| (place(intervals, &order), order))
        .min_by_key(|(packing, _)| packing.peak)
        .expect("three orders were tried");
    let bound = lower_bound(intervals);
    if close(best.peak, bound) { best } else { improve(intervals, order, best, bound) }
}

/// Every interval behind the one before it, as if no memory were reused.
pub fn apart(intervals: &[Interval]) -> Packing {
    let mut peak = 0;
    let mut offsets = Vec::with_capacity(intervals.len());
    for interval in intervals {
        offsets.push(peak);
        peak += interval.size;
    }
    Packing { offsets, peak }
}

/// Whether `peak` is within 2 % of `bound`.
fn close(peak: u64, bound: u64) -> bool {
    u128::from(peak) * 50 <= u128::from(bound) * 51
}

/// Places buffers that reach the peak earlier in the order, keeping every change that does not
/// make the peak higher, until it is close to `bound` or the rounds are used up.
fn improve(
    intervals: &[Interval],
    mut order: Vec<usize>,
    mut best: Packing,
    bound: u64,
) -> Packing {
    let pairs = intervals.len().pow(2).max(1);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for _ in 0..ROUNDS.min(MOST_PAIRS / pairs) {
        let at_peak: Vec<usize> = (0..order.len())
            .filter(|at| best.offsets[order[*at]] + intervals[order[*at]].size == best.peak)
            .collect();
        let Some(from) = at_peak.get(random(at_peak.len())).copied() else { break };
        let mut changed = order.clone();
        let moved = changed.remove(from);
        changed.insert(random(from), moved);
        let packing = place(intervals, &changed);
        if packing.peak <= best.peak {
            (order, best) = (changed, packing);
            if close(best.peak, bound) {
                break;
            }
        }
    }
    best
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_cases_are_improved_and_stay_disjoint() {
        let mut state = 7u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let (mut improved, mut cases) = (0, 0);
        for _ in 0..20 {
            let intervals: Vec<Interval> = (0..120)
                .map(|_| {
                    let from = random(200) as usize;
                    let to = from + random(60) as usize;
                    Interval { from, to, size: 64 * (1 + random(100)) }
                })
                .collect();
            let mut order: Vec<usize> = (0..intervals.len()).collect();
            order.sort_by_key(|i| (std::cmp::Reverse(intervals[*i].size), *i));
            let plain = place(&intervals, &order);
            let packing = pack(&intervals);
            super::super::check::check(&intervals, &packing.offsets, packing.peak);
            assert!(packing.peak <= plain.peak && packing.peak >= lower_bound(&intervals));
            assert_eq!(pack(&intervals), packing, "the same twice");
            cases += usize::from(!close(plain.peak, lower_bound(&intervals)));
            improved += usize::from(packing.peak < plain.peak);
        }
        assert!(cases > 10 && improved > cases / 2, "{improved} of {cases}");
        assert_eq!(pack(&[]).peak, 0);
    }
}
