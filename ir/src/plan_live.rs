//! When each piece of a plan's workspace is in use, read off the plan itself.
//!
//! One sweep over the steps keeps the map of written bytes, of states and outputs too. It knows
//! nothing of how the plan was made, so it serves both as the check that no step reads what is not
//! there and as the source of the live set at the peak.

use crate::entity::Entity;
use crate::plan::{BufferId, Plan, Root};
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
    /// First byte in the workspace.
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
    let list = sweep.list.into_iter().filter(|(memory, ..)| *memory == Memory::Workspace);
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
    let results = plan.steps.iter().flat_map(|step| step.results());
    let results = results.map(|id| plan.buffer(*id)).filter(|b| b.root == Root::Workspace);
    let sum = results.map(|b| plan.alignment.round_up(b.ty.bytes())).fold(0, u64::saturating_add);
    (live.into_iter().max().unwrap_or(0), sum)
}

/// Memory whose contents the plan itself must write before it reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Memory {
    Workspace,
    Persistent,
    State(u32),
    Output(u32),
}

struct Sweep<'p> {
    plan: &'p Plan,
    /// Whether persistent memory is written here rather than by an earlier phase.
    keeps: bool,
    /// With the number of writes before each.
    list: Vec<(Memory, usize, Lifetime)>,
    writes: usize,
    /// What is written from a byte on: its end and its lifetime; entries are disjoint.
    written: BTreeMap<(Memory, u64), (u64, usize)>,
    /// Buffers that were written by themselves rather than in parts.
    made: HashSet<BufferId>,
    faults: Vec<Unwritten>,
}

impl Sweep<'_> {
    /// Where a buffer lies, if its contents are followed and it has any.
    fn range(&self, buffer: BufferId) -> Option<(Memory, u64, u64)> {
        let place = self.plan.buffer(buffer);
        let memory = match place.root {
            Root::Workspace => Memory::Workspace,
            Root::State(index) => Memory::State(index),
            Root::Output(index) => Memory::Output(index),
            Root::Persistent if self.keeps => Memory::Persistent,
            Root::Persistent | Root::Input(_) | Root::Weight(_) => return None,
        };
        let bytes = place.ty.bytes();
        (bytes > 0).then(|| (memory, place.offset, place.offset.saturating_add(bytes)))
    }

    fn read(&mut self, step: usize, buffer: BufferId) {
        let Some((memory, start, end)) = self.range(buffer) else { return };
        let own = self.made.contains(&buffer);
        let mut at = start;
        while at < end {
            let found = self.written.range((memory, 0)..=(memory, at)).next_back();
            let found = found.map(|(_, entry)| *entry).filter(|(end, _)| *end > at);
            let Some((piece, index)) = found else {
                self.faults.push(Unwritten { step, buffer, found: None });
                return;
            };
            let life = &mut self.list[index].2;
            life.to = life.to.max(step);
            let dtype = |id: BufferId| self.plan.buffer(id).ty.dtype;
            let other = Some(life.buffer).filter(|found| dtype(*found) != dtype(buffer));
            // What it finds was written later by something else, or is no element of its type.
            if (own && life.buffer != buffer) || other.is_some() {
                self.faults.push(Unwritten { step, buffer, found: other.filter(|_| !own) });
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

    fn piece(&mut self, memory: Memory, order: usize, start: u64, end: u64, life: Lifetime) {
        let (offset, bytes) = self.aligned(start, end);
        self.written.insert((memory, start), (end, self.list.len()));
        self.list.push((memory, order, Lifetime { offset, bytes, ..life }));
    }

    fn write(&mut self, step: usize, buffer: BufferId) {
        let Some((memory, start, end)) = self.range(buffer) else { return };
        let overwritten: Vec<((Memory, u64), (u64, usize))> = self
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
        self.made.insert(buffer);
        let life = Lifetime { buffer, from: step, to: step, offset: 0, bytes: 0 };
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
