//! When each piece of a plan's workspace is in use, read off the plan itself.
//!
//! One sweep over the steps keeps the map of written bytes, of states and outputs too. It knows
//! nothing of how the plan was made, so it serves both as the check that no step reads what is not
//! there and as the source of the live set at the peak.
//!
//! Where a step looks at columns, bytes of their grid are counted column by column from then on
//! ([`Buffer::place`]). That is exact for all of the grid and for its columns. Whatever else overlaps a
//! part of the grid ends it: what the grid held counts as not written.

use crate::entity::Entity;
use crate::plan::{Buffer, BufferId, Grid, Plan, Root};
use std::collections::{BTreeMap, HashSet};

/// A piece of workspace from the step that writes it to the last one that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The buffer written. Where another result took over a part of it, each part is a piece.
    pub buffer: BufferId,
    /// Step that writes it.
    pub from: usize,
    /// Last step that reads it; the number of steps for an output. Memory that a result takes over
    /// from an operand belongs to the result at that step.
    pub to: usize,
    /// First byte in the workspace; of columns as [`Buffer::place`] counts.
    pub offset: u64,
    /// Bytes, in units of the alignment.
    pub bytes: u64,
}

/// A read of bytes that are not there (any more), or that are of another element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwritten {
    /// The step that reads; the number of steps for an output.
    pub step: usize,
    /// The buffer read.
    pub buffer: BufferId,
    /// What is there instead, where that is of another element type.
    pub found: Option<BufferId>,
}

/// Lifetimes in the workspace in the order of writing, and reads of the workspace, of states, of
/// outputs and, where the plan keeps values, of persistent memory that find nothing or
/// elements of another type. Every id of the plan must be in range.
pub fn lifetimes(plan: &Plan) -> (Vec<Lifetime>, Vec<Unwritten>) {
    let mut sweep = Sweep {
        plan,
        keeps: !plan.kept.is_empty(),
        list: Vec::new(),
        writes: 0,
        written: BTreeMap::new(),
        grids: BTreeMap::new(),
        made: HashSet::new(),
        faults: Vec::new(),
    };
    for state in &plan.states {
        if let Some(before) = state.before {
            sweep.write(0, before);
        }
    }
    for (at, step) in plan.steps.iter().enumerate() {
        for buffer in step.reads() {
            sweep.read(at, *buffer);
        }
        for buffer in step.results() {
            sweep.write(at, *buffer);
        }
    }
    let ports = plan.outputs.iter().chain(&plan.kept).map(|port| port.buffer);
    for buffer in ports.chain(plan.states.iter().map(|state| state.after)) {
        sweep.read(plan.steps.len(), buffer);
    }
    let list = sweep.list.into_iter().filter(|(memory, ..)| *memory == Root::Workspace);
    let mut list: Vec<(usize, Lifetime)> = list.map(|(_, order, life)| (order, life)).collect();
    // Pieces that were cut apart but lived equally long are one.
    list.sort_by_key(|(order, life)| (*order, life.to, life.offset));
    list.dedup_by(|(later, next), (order, life)| {
        let one = (*later, next.to, next.offset) == (*order, life.to, life.offset + life.bytes);
        if one {
            life.bytes += next.bytes;
        }
        one
    });
    (list.into_iter().map(|(_, life)| life).collect(), sweep.faults)
}

/// Bytes live at every step, and after the last.
pub fn live_bytes(lifetimes: &[Lifetime], steps: usize) -> Vec<u64> {
    let mut starts = vec![0u64; steps + 2];
    let mut ends = vec![0u64; steps + 2];
    for life in lifetimes {
        starts[life.from] = starts[life.from].saturating_add(life.bytes);
        ends[life.to + 1] = ends[life.to + 1].saturating_add(life.bytes);
    }
    let mut live = 0u64;
    (0..=steps)
        .map(|at| {
            live = live.saturating_add(starts[at]).saturating_sub(ends[at]);
            live
        })
        .collect()
}

/// The lower bound of a plan's workspace and its size without reuse: the most bytes live at one
/// step, and the sum of all results that lie there.
pub fn bounds(plan: &Plan) -> (u64, u64) {
    let live = live_bytes(&lifetimes(plan).0, plan.steps.len());
    let sum = results(plan).map(|b| plan.alignment.round_up(b.ty.bytes()));
    let sum = sum.fold(0, u64::saturating_add);
    (live.into_iter().max().unwrap_or(0), sum)
}

/// Bytes of workspace that the results of a plan reach into.
pub fn workspace(plan: &Plan) -> u64 {
    let ends = results(plan).filter_map(Buffer::span).map(|(_, end)| plan.alignment.round_up(end));
    ends.max().unwrap_or(0)
}

/// Results in the workspace.
fn results(plan: &Plan) -> impl Iterator<Item = &Buffer> {
    let results = plan.steps.iter().flat_map(|step| step.results());
    results.map(|id| plan.buffer(*id)).filter(|buffer| buffer.root == Root::Workspace)
}

struct Sweep<'p> {
    plan: &'p Plan,
    /// Whether persistent memory is written here rather than by an earlier phase.
    keeps: bool,
    /// With the number of writes before each.
    list: Vec<(Root, usize, Lifetime)>,
    writes: usize,
    /// What is written from a byte on: its end and its lifetime; entries are disjoint.
    written: BTreeMap<(Root, u64), (u64, usize)>,
    /// Grids in which bytes are counted by columns, by their first byte; they are disjoint.
    grids: BTreeMap<(Root, u64), Grid>,
    /// Buffers that were written by themselves rather than in parts.
    made: HashSet<BufferId>,
    faults: Vec<Unwritten>,
}

impl Sweep<'_> {
    /// The memory that a buffer lies in, if the plan itself must write what is read there and it has
    /// any.
    fn memory(&self, buffer: &Buffer) -> Option<Root> {
        let followed = match buffer.root {
            Root::Workspace | Root::State(_) | Root::Output(_) => true,
            Root::Persistent => self.keeps,
            Root::Input(_) | Root::Weight(_) => false,
        };
        (followed && buffer.ty.bytes() > 0).then_some(buffer.root)
    }

    /// Grids that share a byte with `from..to`.
    fn grids(&self, memory: Root, from: u64, to: u64) -> Vec<Grid> {
        let below = self.grids.range((memory, 0)..(memory, to)).rev().map(|(_, grid)| *grid);
        below.take_while(|grid| grid.end > from).collect()
    }

    /// Counts the bytes of a buffer as it does, if that says the same of all that is there. A grid
    /// begins where one write, or none, made all of it.
    fn settled(&mut self, memory: Root, buffer: &Buffer, (from, to): (u64, u64)) -> bool {
        let own = buffer.grid();
        for grid in self.grids(memory, from, to) {
            let inside = own.is_none() && from <= grid.start && grid.end <= to;
            if own != Some(grid) && !inside {
                return false;
            }
        }
        let Some(grid) = own.filter(|grid| self.grids.get(&(memory, grid.start)) != Some(grid))
        else {
            return true;
        };
        let last = self.written.range((memory, 0)..(memory, to)).next_back();
        let (start, (end, index)) = match last.map(|((_, start), entry)| (*start, *entry)) {
            Some(found) if found.1.0 > from => found,
            _ => return self.grids.insert((memory, grid.start), grid).is_none(),
        };
        if start > from || end < to {
            return false;
        }
        self.written.remove(&(memory, start));
        let (_, order, life) = self.list[index];
        for (start, end) in [(start, from), (to, end)].into_iter().filter(|(a, b)| a < b) {
            self.piece(memory, order, start, end, life);
        }
        self.written.insert((memory, from), (to, index));
        let (offset, bytes) = self.aligned(from, to);
        self.list[index].2 = Lifetime { offset, bytes, ..life };
        self.grids.insert((memory, grid.start), grid).is_none()
    }

    fn read(&mut self, step: usize, id: BufferId) {
        let buffer = self.plan.buffer(id);
        let Some(memory) = self.memory(buffer) else { return };
        let (Some(span), Some((start, end))) = (buffer.span(), buffer.place()) else { return };
        let own = self.made.contains(&id);
        if !self.settled(memory, buffer, span) {
            self.faults.push(Unwritten { step, buffer: id, found: None });
            return;
        }
        let mut at = start;
        while at < end {
            let found = self.written.range((memory, 0)..=(memory, at)).next_back();
            let found = found.map(|(_, entry)| *entry).filter(|(end, _)| *end > at);
            let Some((piece, index)) = found else {
                self.faults.push(Unwritten { step, buffer: id, found: None });
                return;
            };
            let life = &mut self.list[index].2;
            life.to = life.to.max(step);
            let dtype = |id: BufferId| self.plan.buffer(id).ty.dtype;
            let other = Some(life.buffer).filter(|found| dtype(*found) != dtype(id));
            // What it finds was written later by something else, or is no element of its type.
            if (own && life.buffer != id) || other.is_some() {
                let found = other.filter(|_| !own);
                self.faults.push(Unwritten { step, buffer: id, found });
                return;
            }
            at = piece;
        }
    }

    /// First byte and length of what `start..end` takes, as buffers begin at aligned places.
    fn aligned(&self, start: u64, end: u64) -> (u64, u64) {
        let [start, end] = [start, end].map(|byte| self.plan.alignment.round_up(byte));
        (start, end.saturating_sub(start))
    }

    fn piece(&mut self, memory: Root, order: usize, start: u64, end: u64, life: Lifetime) {
        let (offset, bytes) = self.aligned(start, end);
        self.written.insert((memory, start), (end, self.list.len()));
        self.list.push((memory, order, Lifetime { offset, bytes, ..life }));
    }

    /// Ends what lies in `start..end`.
    fn clear(&mut self, step: usize, memory: Root, start: u64, end: u64) {
        let overwritten: Vec<((Root, u64), (u64, usize))> = self
            .written
            .range((memory, 0)..(memory, end))
            .rev()
            .take_while(|(_, (piece, _))| *piece > start)
            .map(|(at, entry)| (*at, *entry))
            .collect();
        for ((_, from), (to, index)) in overwritten {
            self.written.remove(&(memory, from));
            let (_, order, life) = self.list[index];
            if from < start {
                self.piece(memory, order, from, start, life);
            }
            if to > end {
                self.piece(memory, order, end, to, life);
            }
            let range = self.aligned(from.max(start), to.min(end));
            let life = &mut self.list[index].2;
            // A result over its operand: one piece of memory, counted once at this step.
            if life.to == step && life.from < step {
                life.to = step - 1;
            }
            (life.offset, life.bytes) = range;
        }
    }

    fn write(&mut self, step: usize, id: BufferId) {
        let buffer = self.plan.buffer(id);
        let Some(memory) = self.memory(buffer) else { return };
        let (Some((from, to)), Some((start, end))) = (buffer.span(), buffer.place()) else {
            return;
        };
        for grid in self.grids(memory, from, to) {
            let all = from <= grid.start && grid.end <= to;
            if buffer.grid() != Some(grid) {
                self.grids.remove(&(memory, grid.start));
                if !all || buffer.columns.is_some() {
                    self.clear(step, memory, grid.start, grid.end);
                }
            }
        }
        if buffer.columns.is_some() && !self.settled(memory, buffer, (from, to)) {
            self.clear(step, memory, from, to);
            self.settled(memory, buffer, (from, to));
        }
        self.clear(step, memory, start, end);
        self.made.insert(id);
        let life = Lifetime { buffer: id, from: step, to: step, offset: 0, bytes: 0 };
        self.writes += 1;
        self.piece(memory, self.writes, start, end, life);
    }
}

impl Plan {
    /// For every buffer, the step that writes it (the last, if several do).
    pub fn makers(&self) -> Vec<Option<usize>> {
        let mut makers = vec![None; self.buffers.len()];
        for (at, step) in self.steps.iter().enumerate() {
            for buffer in step.results() {
                if let Some(maker) = makers.get_mut(buffer.index()) {
                    *maker = Some(at);
                }
            }
        }
        makers
    }
}
