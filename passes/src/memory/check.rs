//! An independent check of a placement: a sweep over time that knows nothing of how it was made.

use super::pack::Interval;
use anyid_ir::plan::{BufferId, Plan, Root};
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

/// Panics if a step would read a byte that something else has overwritten, or writes over an
/// operand it cannot write in place. `owner` gives the buffer a view looks into; nothing is
/// assumed about which buffers share memory.
pub fn check_reads(plan: &Plan, owner: &dyn Fn(BufferId) -> BufferId) {
    // First byte of every range written last by one buffer: its end and that buffer.
    let mut written: BTreeMap<u64, (u64, BufferId)> = BTreeMap::new();
    let extent = |id: BufferId| {
        let buffer = plan.buffer(id);
        let inside = buffer.root == Root::Workspace && buffer.ty.bytes() > 0;
        inside.then(|| (buffer.offset, buffer.offset + buffer.ty.bytes()))
    };
    let read = |written: &BTreeMap<u64, (u64, BufferId)>, id: BufferId, what: &str| {
        let Some((from, to)) = extent(id) else { return };
        let mut at = from;
        while at < to {
            let found = written.range(..=at).next_back().filter(|(_, (end, _))| *end > at);
            let Some((_, (end, by))) = found else {
                panic!("{what} reads {id:?} at byte {at}, which nobody wrote")
            };
            assert!(*by == owner(id), "{what} reads {id:?}, overwritten by {by:?}");
            at = *end;
        }
    };
    for step in &plan.steps {
        for operand in &step.operands {
            read(&written, *operand, step.label());
        }
        for (result, id) in step.results.iter().enumerate() {
            let Some((from, to)) = extent(*id) else { continue };
            assert!(to <= plan.workspace_bytes, "{id:?} passes the peak");
            for (operand, other) in step.operands.iter().enumerate() {
                let Some((start, end)) = extent(*other) else { continue };
                let apart = to <= start || end <= from;
                let same = (start, end) == (from, to);
                let allowed = same && step.kernel.writes_in_place(operand, result);
                assert!(apart || allowed, "{} writes over its operand {other:?}", step.label());
            }
            for other in &step.results[..result] {
                let Some((start, end)) = extent(*other) else { continue };
                assert!(to <= start || end <= from, "{} writes a byte twice", step.label());
            }
        }
        for id in &step.results {
            let Some((from, to)) = extent(*id) else { continue };
            let hit: Vec<(u64, (u64, BufferId))> = written
                .range(..to)
                .rev()
                .take_while(|(_, (end, _))| *end > from)
                .map(|(start, rest)| (*start, *rest))
                .collect();
            for (start, (end, by)) in hit {
                written.remove(&start);
                if start < from {
                    written.insert(start, (from, by));
                }
                if end > to {
                    written.insert(to, (end, by));
                }
            }
            written.insert(from, (to, *id));
        }
    }
    for port in &plan.outputs {
        read(&written, port.buffer, &port.name);
    }
}
