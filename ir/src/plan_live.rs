//! When each piece of a plan's workspace is in use, read off the plan itself.
//!
//! One sweep over the steps keeps the map of written bytes. It knows nothing of how the plan was
//! made, so it serves both as the check that no step reads what is not there and as the source of
//! the live set at the peak.

use crate::entity::Entity;
use crate::plan::{BufferId, Plan, Root};
use std::collections::{BTreeMap, HashMap};

/// Alignment of every buffer that a step writes, in bytes.
pub const ALIGNMENT: u64 = 64;

/// A piece of workspace from the step that writes it to the last one that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The buffer written.
    pub buffer: BufferId,
    /// Step that writes it.
    pub from: usize,
    /// Last step that reads it; the number of steps for an output.
    pub to: usize,
    /// First byte in the workspace.
    pub offset: u64,
    /// Bytes, rounded up to the alignment.
    pub bytes: u64,
}

/// A read of workspace bytes that are not there (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwritten {
    /// The step that reads; the number of steps for an output.
    pub step: usize,
    /// The buffer read.
    pub buffer: BufferId,
}

/// Lifetimes in the order of writing, and reads that find nothing. Every id of the plan must be in
/// range.
pub fn lifetimes(plan: &Plan) -> (Vec<Lifetime>, Vec<Unwritten>) {
    let mut sweep = Sweep {
        plan,
        list: Vec::new(),
        written: BTreeMap::new(),
        made: HashMap::new(),
        faults: Vec::new(),
    };
    for (at, step) in plan.steps.iter().enumerate() {
        for buffer in step.reads() {
            sweep.read(at, *buffer);
        }
        for buffer in step.results() {
            sweep.write(at, *buffer);
        }
    }
    for port in &plan.outputs {
        sweep.read(plan.steps.len(), port.buffer);
    }
    (sweep.list, sweep.faults)
}

/// Bytes live at every step, and after the last.
pub fn live_bytes(lifetimes: &[Lifetime], steps: usize) -> Vec<u64> {
    let mut starts = vec![0u64; steps + 2];
    let mut ends = vec![0u64; steps + 2];
    for life in lifetimes {
        starts[life.from] += life.bytes;
        ends[life.to + 1] += life.bytes;
    }
    let mut live = 0;
    (0..=steps)
        .map(|at| {
            live = live + starts[at] - ends[at];
            live
        })
        .collect()
}

struct Sweep<'p> {
    plan: &'p Plan,
    list: Vec<Lifetime>,
    /// First byte and index of what is written there; entries are disjoint.
    written: BTreeMap<u64, usize>,
    /// Latest lifetime of buffers that steps write.
    made: HashMap<BufferId, usize>,
    faults: Vec<Unwritten>,
}

impl Sweep<'_> {
    /// The bytes of a buffer, if it lies in the workspace and has any.
    fn range(&self, buffer: BufferId) -> Option<(u64, u64)> {
        let place = self.plan.buffer(buffer);
        let bytes = place.ty.bytes();
        let inside = place.root == Root::Workspace && bytes > 0;
        inside.then(|| (place.offset, place.offset.saturating_add(bytes)))
    }

    fn read(&mut self, step: usize, buffer: BufferId) {
        let Some((start, end)) = self.range(buffer) else { return };
        let mut at = start;
        let mut own = self.made.get(&buffer).copied();
        while at < end {
            let found = self.written.range(..=at).next_back().map(|(_, i)| *i);
            let Some(index) = found.filter(|i| self.list[*i].end() > at) else {
                self.faults.push(Unwritten { step, buffer });
                return;
            };
            self.list[index].to = self.list[index].to.max(step);
            own = own.filter(|own| *own != index);
            at = self.list[index].end();
        }
        if own.is_some() {
            // What it finds was written later by something else.
            self.faults.push(Unwritten { step, buffer });
        }
    }

    fn write(&mut self, step: usize, buffer: BufferId) {
        let Some((offset, end)) = self.range(buffer) else { return };
        let overwritten: Vec<u64> = self
            .written
            .range(..end)
            .rev()
            .take_while(|(_, i)| self.list[**i].end() > offset)
            .map(|(at, _)| *at)
            .collect();
        for at in overwritten {
            let index = self.written.remove(&at).expect("it was just found");
            let life = &mut self.list[index];
            // A result over its operand: one piece of memory, counted once at this step.
            if life.to == step && life.from < step {
                life.to = step - 1;
            }
        }
        let bytes = (end - offset).next_multiple_of(ALIGNMENT);
        self.made.insert(buffer, self.list.len());
        self.written.insert(offset, self.list.len());
        self.list.push(Lifetime { buffer, from: step, to: step, offset, bytes });
    }
}

impl Lifetime {
    fn end(&self) -> u64 {
        self.offset + self.bytes
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
