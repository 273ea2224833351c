//! What was written where: the check of a finished plan, which knows nothing of how it was made.

use super::contents::{Contents, Segment, Segments};
use super::flow::Flow;
use super::pack::Piece;
use crate::program::ValueIndex;
use anyid_ir::Entity;
use anyid_ir::plan::{Alignment, BufferId, Plan, Root};
use std::collections::BTreeMap;

/// Which bytes of a memory were written last by whom, and how long each piece is in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    /// First byte: what lies from there on.
    ranges: BTreeMap<u64, Range>,
    pieces: Vec<(u64, u64, usize, usize)>,
}

/// A range of bytes.
#[derive(Clone, Copy, Debug)]
struct Range {
    end: u64,
    writer: ValueIndex,
    /// The first of the writer's bytes that lies there.
    at: u64,
    /// The piece it belongs to.
    piece: usize,
}

impl Written {
    /// `by` writes all its bytes to `from..to` in step `step`.
    pub(crate) fn write(&mut self, step: usize, from: u64, to: u64, by: ValueIndex) {
        if from == to {
            return;
        }
        let hit: Vec<(u64, Range)> = self
            .ranges
            .range(..to)
            .rev()
            .take_while(|(_, range)| range.end > from)
            .map(|(start, range)| (*start, *range))
            .collect();
        if let [(start, range)] = hit[..]
            && (start, range.end) == (from, to)
        {
            let (first, last, begun, used) = &mut self.pieces[range.piece];
            // Taken over as a whole: the same piece, in use on.
            if (*first, *last) == (from, to) && *used == step && *begun < step {
                self.ranges.insert(from, Range { writer: by, at: 0, ..range });
                return;
            }
        }
        for (start, range) in hit {
            self.ranges.remove(&start);
            let (_, _, begun, used) = self.pieces[range.piece];
            let mut rest = |start: u64, end: u64, at: u64| {
                self.ranges.insert(start, Range { end, at, piece: self.pieces.len(), ..range });
                self.pieces.push((start, end, begun, used));
            };
            if start < from {
                rest(start, from, range.at);
            }
            if range.end > to {
                rest(to, range.end, range.at + (to - start));
            }
            // Memory that is taken over in the step that reads it last belongs to the result.
            let used = if used == step && begun < step { step - 1 } else { used };
            self.pieces[range.piece] = (start.max(from), range.end.min(to), begun, used);
        }
        self.ranges.insert(from, Range { end: to, writer: by, at: 0, piece: self.pieces.len() });
        self.pieces.push((from, to, step, step));
    }

    /// How many pieces there are or were, before any are joined.
    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether `from..to` holds exactly `expected`; it is then in use until `step`.
    pub(crate) fn read(&mut self, step: usize, from: u64, to: u64, expected: &[Segment]) -> bool {
        let mut at = from;
        for segment in expected {
            let end = from + segment.end;
            let mut wanted = segment.at;
            while at < end {
                let found = self.ranges.range(..=at).next_back();
                let Some((start, range)) = found else { return false };
                let first = range.at + (at - start);
                if range.end <= at || range.writer != segment.write || first != wanted {
                    return false;
                }
                self.pieces[range.piece].3 = step;
                let next = end.min(range.end);
                wanted += next - at;
                at = next;
            }
        }
        at == to
    }

    /// All pieces, those that were cut apart but lived equally long or follow each other joined.
    pub(crate) fn pieces(&self, alignment: Alignment) -> Vec<Piece> {
        let mut pieces = self.pieces.clone();
        pieces.sort_unstable_by_key(|(start, _, from, to)| (*from, *to, *start));
        let mut out: Vec<Piece> = Vec::with_capacity(pieces.len());
        for (start, end, from, to) in pieces {
            let (offset, end) = (alignment.round_up(start), alignment.round_up(end));
            let beside = out.last_mut().filter(|last| {
                (last.from, last.to, last.offset + last.bytes) == (from, to, offset)
            });
            match beside {
                Some(last) => last.bytes = end - last.offset,
                None => out.push(Piece { from, to, offset, bytes: end - offset }),
            }
        }
        let mut joined: Vec<Piece> = Vec::with_capacity(out.len());
        let mut open: BTreeMap<(u64, u64), usize> = BTreeMap::new();
        for piece in out.into_iter().filter(|piece| piece.bytes > 0) {
            let place = open.entry((piece.offset, piece.bytes)).or_insert(usize::MAX);
            match joined.get_mut(*place).filter(|last| last.to + 1 == piece.from) {
                Some(last) => last.to = piece.to,
                None => {
                    *place = joined.len();
                    joined.push(piece);
                }
            }
        }
        joined
    }
}

/// Panics if a launch would read a byte that something else has overwritten, or write over an
/// operand it cannot write in place. What each value has to hold comes from the `flow`; where it
/// lies comes from the finished plan, whose buffers are the flow's values.
pub(crate) fn check_reads(plan: &Plan, flow: &Flow, dropped: &[bool]) {
    let mut contents = flow.contents(dropped);
    let mut memories: BTreeMap<Root, Written> = BTreeMap::new();
    let buffer = |value: ValueIndex| plan.buffer(BufferId::from_index(value as usize));
    let extent = |value: ValueIndex| {
        let memory = buffer(value).root;
        let made = matches!(memory, Root::Workspace | Root::State(_) | Root::Output(_));
        let (from, to) = buffer(value).place().expect("columns lie in their rows");
        (made && from < to).then_some((memory, from, to))
    };
    for before in flow.states.iter().filter_map(|state| state.before) {
        if let Some((memory, from, to)) = extent(before) {
            memories.entry(memory).or_default().write(0, from, to, before);
        }
    }
    let read = |memories: &mut BTreeMap<Root, Written>,
                contents: &mut Contents,
                value: ValueIndex,
                what: &str| {
        let Some((memory, from, to)) = extent(value) else { return };
        let expected: Segments = flow.segments(contents, value);
        let holds = memories.get_mut(&memory).is_some_and(|m| m.read(0, from, to, &expected));
        assert!(holds, "{what} reads {value}, which is not there");
    };
    for (_, step) in flow.steps.iter().enumerate().filter(|(at, _)| !dropped[*at]) {
        let label = step.label();
        for operand in &step.operands {
            read(&mut memories, &mut contents, *operand, label);
        }
        for (result, value) in step.results.iter().enumerate() {
            let Some((memory, _, to)) = extent(*value) else { continue };
            let inside = memory != Root::Workspace || to <= plan.workspace_bytes;
            assert!(inside, "{label} passes the peak");
            for (operand, other) in step.operands.iter().enumerate() {
                let apart = !buffer(*other).overlaps(buffer(*value));
                let same = buffer(*other).same_bytes(buffer(*value));
                let allowed = same && step.kernel.writes_in_place(operand, result);
                assert!(apart || allowed, "{label} writes over its operand {other}");
            }
            for other in &step.results[..result] {
                let apart = !buffer(*other).overlaps(buffer(*value));
                assert!(apart, "{label} writes a byte twice");
            }
        }
        for value in &step.results {
            if let Some((memory, from, to)) = extent(*value) {
                memories.entry(memory).or_default().write(0, from, to, *value);
            }
        }
    }
    for port in &flow.outputs {
        read(&mut memories, &mut contents, port.value, &port.name);
    }
    for state in &flow.states {
        read(&mut memories, &mut contents, state.after, &state.name);
    }
}
