//! An independent check of a placement: a sweep over time that knows nothing of how it was made.

use super::pack::Interval;
use std::collections::BTreeMap;

/// Panics, naming the pair, if two intervals that live at the same time share a byte or one passes
/// the peak: that would be a broken invariant of the packer, never an input fault.
pub fn check(intervals: &[Interval], offsets: &[u64], peak: u64) {
    let mut events: Vec<(usize, bool, usize)> = Vec::with_capacity(2 * intervals.len());
    for (i, interval) in intervals.iter().enumerate() {
        assert!(offsets[i] + interval.size <= peak, "buffer {i} passes the peak of {peak} bytes");
        assert_eq!(offsets[i] % super::ALIGNMENT, 0, "buffer {i} is misaligned");
        if interval.size > 0 {
            events.push((interval.from, true, i));
            events.push((interval.to + 1, false, i));
        }
    }
    // Ends sort before starts of the same time because `false < true`.
    events.sort_unstable();
    let mut live: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, starts, i) in events {
        if !starts {
            live.remove(&offsets[i]);
            continue;
        }
        let end = offsets[i] + intervals[i].size;
        if let Some((_, j)) = live.range(..end).next_back() {
            let other_end = offsets[*j] + intervals[*j].size;
            assert!(other_end <= offsets[i], "buffers {i} and {j} overlap in time and memory");
        }
        live.insert(offsets[i], i);
    }
}
