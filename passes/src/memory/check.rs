//! An independent check of a placement: sweeps over time that know nothing of how it was made.

use super::flow::{Contents, Flow, Segment, Segments};
use super::pack::Interval;
use crate::program::ValueIndex;
use anyid_ir::Entity;
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

/// Which bytes of a memory were written last by whom.
#[derive(Default)]
pub(crate) struct Written {
    /// First byte: one past the last, the writer, and the first of its bytes that lies there.
    ranges: BTreeMap<u64, (u64, ValueIndex, u64)>,
}

impl Written {
    /// `by` writes all its bytes to `from..to`.
    pub(crate) fn write(&mut self, from: u64, to: u64, by: ValueIndex) {
        if from == to {
            return;
        }
        let hit: Vec<(u64, (u64, ValueIndex, u64))> = self
            .ranges
            .range(..to)
            .rev()
            .take_while(|(_, (end, ..))| *end > from)
            .map(|(start, rest)| (*start, *rest))
            .collect();
        for (start, (end, other, at)) in hit {
            self.ranges.remove(&start);
            if start < from {
                self.ranges.insert(start, (from, other, at));
            }
            if end > to {
                self.ranges.insert(to, (end, other, at + (to - start)));
            }
        }
        self.ranges.insert(from, (to, by, 0));
    }

    /// Whether `from..to` holds exactly `expected`.
    pub(crate) fn holds(&self, from: u64, to: u64, expected: &[Segment]) -> bool {
        let mut at = from;
        for segment in expected {
            let end = from + segment.end;
            let mut wanted = segment.at;
            while at < end {
                let found = self.ranges.range(..=at).next_back();
                let Some((start, (stop, by, first))) = found else { return false };
                if *stop <= at || *by != segment.write || first + (at - start) != wanted {
                    return false;
                }
                let next = end.min(*stop);
                wanted += next - at;
                at = next;
            }
        }
        at == to
    }
}

/// Panics if a launch would read a byte that something else has overwritten, or write over an
/// operand it cannot write in place. What each value has to hold comes from the `flow`; where it
/// lies comes from the finished plan, whose buffers are the flow's values.
pub(crate) fn check_reads(plan: &Plan, flow: &Flow, dropped: &[bool]) {
    let mut contents = flow.contents(dropped);
    let mut memories: BTreeMap<(u8, u32), Written> = BTreeMap::new();
    let extent = |value: ValueIndex| {
        let buffer = plan.buffer(BufferId::from_index(value as usize));
        let memory = match buffer.root {
            Root::Workspace => (0, 0),
            Root::State(index) => (1, index),
            Root::Output(index) => (2, index),
            Root::Persistent | Root::Input(_) | Root::Weight(_) => return None,
        };
        let bytes = buffer.ty.bytes();
        (bytes > 0).then(|| (memory, buffer.offset, buffer.offset + bytes))
    };
    for before in flow.states.iter().filter_map(|state| state.before) {
        if let Some((memory, from, to)) = extent(before) {
            memories.entry(memory).or_default().write(from, to, before);
        }
    }
    let read = |memories: &BTreeMap<(u8, u32), Written>,
                contents: &mut Contents,
                value: ValueIndex,
                what: &str| {
        let Some((memory, from, to)) = extent(value) else { return };
        let expected: Segments = flow.segments(contents, value);
        let holds = memories.get(&memory).is_some_and(|m| m.holds(from, to, &expected));
        assert!(holds, "{what} reads {value}, which is not there");
    };
    for (_, step) in flow.steps.iter().enumerate().filter(|(at, _)| !dropped[*at]) {
        let label = step.labels.last().map_or("", String::as_str);
        for operand in &step.operands {
            read(&memories, &mut contents, *operand, label);
        }
        for (result, value) in step.results.iter().enumerate() {
            let Some((memory, from, to)) = extent(*value) else { continue };
            let inside = memory.0 != 0 || to <= plan.workspace_bytes;
            assert!(inside, "{label} passes the peak");
            for (operand, other) in step.operands.iter().enumerate() {
                let Some((home, start, end)) = extent(*other) else { continue };
                let apart = home != memory || to <= start || end <= from;
                let same = (start, end) == (from, to);
                let allowed = same && step.kernel.writes_in_place(operand, result);
                assert!(apart || allowed, "{label} writes over its operand {other}");
            }
            for other in &step.results[..result] {
                let Some((home, start, end)) = extent(*other) else { continue };
                let apart = home != memory || to <= start || end <= from;
                assert!(apart, "{label} writes a byte twice");
            }
        }
        for value in &step.results {
            if let Some((memory, from, to)) = extent(*value) {
                memories.entry(memory).or_default().write(from, to, *value);
            }
        }
    }
    for (name, value) in &flow.outputs {
        read(&memories, &mut contents, *value, name);
    }
    for state in &flow.states {
        read(&memories, &mut contents, state.after, &state.name);
    }
}
