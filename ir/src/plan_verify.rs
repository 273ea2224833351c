//! Whether a plan keeps every promise that backends rest on: ids, types, places in memory, who may
//! write where and over what, that reads find what was written as that type, kernels and the types
//! they are launched with, sizes in the header.
//!
//! The promises, and what execution takes from each, are listed in `docs/plans.md`. A plan that
//! passes can be executed without undefined behaviour and without a panic, whoever wrote it; phases
//! that run on common memory pass [`phases`] too. What a run is given (inputs, segments, indices) is
//! not known here and checked when it runs.

pub mod phases;

use crate::diag::Diagnostic;
use crate::kernel::Kernel;
use crate::kernel::verify::small;
use crate::plan::{Branch, Buffer, BufferId, Columns, Plan, Port, Root, Step, title};
use crate::plan_live::{Unwritten, bounds, lifetimes, workspace};
use crate::types::TensorType;
use std::borrow::Cow;
use std::collections::HashSet;

/// What a port or state is called, and its branch.
type Title<'p> = (Cow<'p, str>, Branch);

/// Most findings reported for one plan.
const MOST: usize = 50;
/// Bytes of a memory, and of all weights together, stay below this.
const MOST_BYTES: u64 = 1 << 56;

/// What is wrong with `plan`; nothing for a good one. All findings are errors with code E0517.
pub fn verify_plan(plan: &Plan) -> Vec<Diagnostic> {
    let mut verifier = Verifier { plan, found: Vec::new() };
    // Everything later indexes by these ids.
    if verifier.ids() && verifier.types() {
        verifier.ports();
        for (at, step) in plan.steps.iter().enumerate() {
            verifier.step(at, step);
        }
        if verifier.found.is_empty() {
            verifier.reads();
            verifier.sizes();
        }
    }
    verifier.found.truncate(MOST);
    verifier.found
}

struct Verifier<'p> {
    plan: &'p Plan,
    found: Vec<Diagnostic>,
}

impl<'p> Verifier<'p> {
    fn fault(&mut self, place: String, message: String) {
        if self.found.len() < MOST {
            let place = format!("plan \"{}\": {place}", self.plan.name);
            self.found.push(Diagnostic::error("E0517", message).place(place));
        }
    }

    fn at(&self, at: usize) -> String {
        match self.plan.steps.get(at) {
            Some(step) => format!("step {at}, {} = {}", step.label(), step.kind()),
            None => "outputs".to_owned(),
        }
    }

    /// Whether all ids and indices are in range.
    fn ids(&mut self) -> bool {
        let plan = self.plan;
        let unknown = |id: &&BufferId| plan.buffers.get(**id).is_none();
        for (at, step) in plan.steps.iter().enumerate() {
            if let Some(id) = step.reads().iter().chain(step.results()).find(unknown) {
                self.fault(self.at(at), format!("there is no buffer {id:?}"));
            }
        }
        let ports = plan.ports().map(|port| ("port", &port.name, &port.buffer));
        let states = plan.states.iter().flat_map(|state| {
            state.before.iter().chain([&state.after]).map(|id| ("state", &state.name, id))
        });
        for (what, name, id) in ports.chain(states).filter(|(_, _, id)| unknown(id)) {
            self.fault(format!("{what} \"{name}\""), format!("there is no buffer {id:?}"));
        }
        for (id, buffer) in plan.buffers.iter() {
            let fine = match buffer.root {
                Root::Workspace | Root::Persistent => true,
                Root::Input(index) => (index as usize) < plan.inputs.len(),
                Root::Weight(index) => (index as usize) < plan.weights.len(),
                Root::State(index) => (index as usize) < plan.states.len(),
                Root::Output(index) => (index as usize) < plan.outputs.len(),
            };
            if !fine {
                self.fault(format!("buffer {id:?}"), "its memory does not exist".to_owned());
            }
        }
        self.found.is_empty()
    }

    /// Whether every type is small enough for products of sizes and has elements, as the types of
    /// modules have.
    fn types(&mut self) -> bool {
        let plan = self.plan;
        let buffers =
            plan.buffers.iter().map(|(id, buffer)| (format!("buffer {id:?}"), &buffer.ty));
        let weights = plan.weights.iter().map(|w| (format!("weight \"{}\"", w.name), &w.ty));
        let states = plan.states.iter().map(|s| (format!("state \"{}\"", s.name), &s.ty));
        for (place, ty) in buffers.chain(weights).chain(states) {
            if !small(ty) {
                self.fault(place, format!("{ty} is too large"));
            } else if ty.elements() == 0 {
                self.fault(place, format!("{ty} has no elements"));
            }
        }
        let sizes = [plan.workspace_bytes, plan.persistent_bytes, plan.state_bytes()];
        if let Some(size) = sizes.into_iter().find(|size| *size >= MOST_BYTES) {
            self.fault("memory".to_owned(), format!("{size} bytes are too many"));
        }
        if self.found.is_empty() {
            let sum = |sum: u64, bytes| sum.saturating_add(bytes);
            let all = plan.weights.iter().map(|weight| weight.ty.bytes()).fold(0, sum);
            if all >= MOST_BYTES {
                self.fault("weights".to_owned(), format!("{all} bytes are too many"));
            }
        }
        self.found.is_empty()
    }

    fn ports(&mut self) {
        let plan = self.plan;
        for (index, port) in plan.inputs.iter().enumerate() {
            if !plan.buffer(port.buffer).is_whole(Root::Input(index as u32)) {
                let message = format!("{:?} is not the whole of input {index}", port.buffer);
                self.fault(format!("input \"{}\"", port.name), message);
            }
        }
        for (index, port) in plan.outputs.iter().enumerate() {
            let place = format!("output \"{}\"", port.name);
            let buffer = plan.buffer(port.buffer);
            self.leaves(&place, buffer);
            if matches!(buffer.root, Root::Output(at) if at as usize != index) {
                let message = format!("{:?} lies in memory that is not its own", port.buffer);
                self.fault(place, message);
            }
        }
        for port in &plan.kept {
            let place = format!("kept \"{}\"", port.name);
            let buffer = plan.buffer(port.buffer);
            if self.leaves(&place, buffer) && buffer.root != Root::Persistent {
                let message = format!("{:?} is kept and not in persistent memory", port.buffer);
                self.fault(place, message);
            }
        }
        // Those that are used are looked at where they are.
        let steps = plan.steps.iter().flat_map(|step| step.reads().iter().chain(step.results()));
        let ports = plan.outputs.iter().chain(&plan.kept).map(|port| &port.buffer);
        let used: HashSet<BufferId> = steps.chain(ports).copied().collect();
        for (id, buffer) in plan.buffers.iter().filter(|(id, _)| !used.contains(id)) {
            if let Err(message) = self.inside(buffer) {
                self.fault(format!("buffer {id:?}"), message);
            }
        }
        self.states();
        // Kept values are known by their places.
        let ports = |list: &'p [Port]| list.iter().map(|p| (p.title(), p.branch)).collect();
        let states = plan.states.iter().map(|s| (title(&s.name, s.branch), s.branch)).collect();
        let lists: [(&str, Vec<Title<'_>>); 3] =
            [("input", ports(&plan.inputs)), ("output", ports(&plan.outputs)), ("state", states)];
        for (first, mut names) in lists {
            names.sort_unstable();
            if let Some(pair) = names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                let name = &pair[0].0;
                self.fault(format!("{first} \"{name}\""), "it is there twice".to_owned());
            }
            if let Some((name, branch)) = names.iter().find(|(_, branch)| *branch > 1) {
                let message = format!("there is no branch {branch}");
                self.fault(format!("{first} \"{name}\""), message);
            }
        }
    }

    /// Whether a buffer that leaves the plan is dense and inside its memory.
    fn leaves(&mut self, place: &str, buffer: &Buffer) -> bool {
        let dense = buffer.columns.is_none().then_some(());
        let dense = dense.ok_or_else(|| "columns do not leave a plan".to_owned());
        let found = self.inside(buffer).and(dense);
        let fine = found.is_ok();
        if let Err(message) = found {
            self.fault(place.to_owned(), message);
        }
        fine
    }

    /// Whether every state begins and ends as the whole of its memory.
    fn states(&mut self) {
        let plan = self.plan;
        for (index, state) in plan.states.iter().enumerate() {
            for id in state.before.iter().chain([&state.after]) {
                let buffer = plan.buffer(*id);
                let whole = buffer.is_whole(Root::State(index as u32));
                if !whole || buffer.ty != state.ty {
                    let message = format!("{id:?} is not the whole of it");
                    self.fault(format!("state \"{}\"", state.name), message);
                }
            }
        }
    }

    /// Whether a buffer that is read lies inside its memory and fits it.
    fn inside(&self, buffer: &Buffer) -> Result<(), String> {
        let (plan, dtype) = (self.plan, buffer.ty.dtype);
        let aligned = |bytes: u64| bytes.is_multiple_of(dtype.bytes() as u64);
        if let Some(columns) = buffer.columns {
            let Columns { first, width, stride } = columns;
            if width == 0 || !buffer.ty.bytes().is_multiple_of(width) {
                return Err(format!("{} has no rows of {width} bytes", buffer.ty));
            }
            if first.checked_add(width).is_none_or(|end| end > stride) {
                let end = first.saturating_add(width);
                return Err(format!("columns {first}..{end} pass their row of {stride} bytes"));
            }
            if !aligned(first) || !aligned(width) || !aligned(stride) {
                return Err(format!("its columns are not aligned to {dtype}"));
            }
        }
        let (start, end) = buffer.span().ok_or("its end passes 2^64 bytes")?;
        if !aligned(start) {
            return Err(format!("offset {start} is not aligned to {dtype}"));
        }
        let size = match buffer.root {
            Root::Workspace => plan.workspace_bytes,
            Root::Persistent => plan.persistent_bytes,
            Root::Input(index) => {
                let whole = &plan.buffer(plan.inputs[index as usize].buffer).ty;
                if whole.dtype != dtype {
                    return Err(format!("{} is not part of the input {whole}", buffer.ty));
                }
                whole.bytes()
            }
            Root::State(index) => plan.states[index as usize].ty.bytes(),
            Root::Output(index) => {
                let port = plan.buffer(plan.outputs[index as usize].buffer);
                if port.root != Root::Output(index) {
                    return Err(format!("output {index} is not in memory of its own"));
                }
                port.ty.bytes()
            }
            Root::Weight(index) => {
                let whole = &plan.weights[index as usize].ty;
                let same = whole.dtype == dtype
                    && whole.elements() == buffer.ty.elements()
                    && (buffer.offset, buffer.columns) == (0, None);
                return match same {
                    true => Ok(()),
                    false => Err(format!("{} is not all of the weight {whole}", buffer.ty)),
                };
            }
        };
        if end > size {
            return Err(format!("bytes {start}..{end} pass its memory of {size} bytes"));
        }
        Ok(())
    }

    fn step(&mut self, at: usize, step: &Step) {
        let plan = self.plan;
        let [operands, results] = [step.reads(), step.results()].map(|ids| plan.types(ids));
        if let Err(message) = step.kernel.check(&operands, &results) {
            self.fault(self.at(at), message);
        }
        if step.labels.len() != step.results().len() {
            let (labels, results) = (step.labels.len(), step.results().len());
            self.fault(self.at(at), format!("{labels} labels for {results} results"));
        }
        for (position, id) in step.reads().iter().enumerate() {
            self.bound(at, "operand", *id, |kernel, ty, width| {
                kernel.reads_columns(position, ty, width)
            });
        }
        for (position, id) in step.results().iter().enumerate() {
            let result = plan.buffer(*id);
            self.bound(at, "result", *id, |kernel, ty, width| {
                kernel.writes_columns(position, ty, width)
            });
            if result.root == Root::Persistent && plan.kept.is_empty() {
                let message = format!("result {id:?} is kept, but no value of the plan is");
                self.fault(self.at(at), message);
            }
            if matches!(result.root, Root::Input(_) | Root::Weight(_)) {
                self.fault(self.at(at), format!("result {id:?} overwrites an input or a weight"));
            }
            let Columns { first, stride, .. } = result.columns.unwrap_or_default();
            if ![result.offset, first, stride].iter().all(|at| plan.alignment.holds(*at)) {
                let bytes = plan.alignment.bytes();
                let message = format!("result {id:?} is not aligned to {bytes} bytes");
                self.fault(self.at(at), message);
            }
            let shared = |(operand, other): &(usize, &BufferId)| {
                let other = plan.buffer(**other);
                let same = other.same_bytes(result) && other.ty.dtype == result.ty.dtype;
                // Row kernels alone keep the columns of a row apart.
                let meets = match step.kernel {
                    Kernel::Row(_) => result.overlaps(other),
                    _ => result.mixes(other),
                };
                meets && !(same && step.kernel.writes_in_place(*operand, position))
            };
            if let Some((_, other)) = step.reads().iter().enumerate().find(shared) {
                let message = format!("result {id:?} shares bytes with operand {other:?}");
                self.fault(self.at(at), message);
            }
            let twice = |other: &&BufferId| result.overlaps(plan.buffer(**other));
            if let Some(other) = step.results()[..position].iter().find(twice) {
                let message = format!("results {other:?} and {id:?} share bytes");
                self.fault(self.at(at), message);
            }
        }
    }

    /// Whether an operand or result lies inside its memory and, if it is columns, the kernel takes
    /// such.
    fn bound(
        &mut self,
        at: usize,
        what: &str,
        id: BufferId,
        takes: impl FnOnce(&Kernel, &TensorType, usize) -> bool,
    ) {
        let Buffer { ty, columns, .. } = self.plan.buffer(id);
        let width = columns.map(|columns| columns.width as usize / ty.dtype.bytes());
        let kernel = &self.plan.steps[at].kernel;
        let taken = width.is_none_or(|width| takes(kernel, ty, width)).then_some(());
        let taken = taken.ok_or_else(|| "its kernel takes no columns here".to_owned());
        if let Err(message) = self.inside(self.plan.buffer(id)).and(taken) {
            self.fault(self.at(at), format!("{what} {id:?}: {message}"));
        }
    }

    fn reads(&mut self) {
        let (_, faults) = lifetimes(self.plan);
        for Unwritten { step, buffer, found } in faults {
            let message = match found {
                None => format!("{buffer:?} is read where it was not written"),
                Some(other) => {
                    format!("{buffer:?} is read where {other:?} of another type was written")
                }
            };
            self.fault(self.at(step), message);
        }
    }

    fn sizes(&mut self) {
        let plan = self.plan;
        let peak = workspace(plan);
        if plan.workspace_bytes != peak {
            let message = format!("workspace is {} bytes, used are {peak}", plan.workspace_bytes);
            self.fault("memory".to_owned(), message);
        }
        let (bound, sum) = bounds(plan);
        if (plan.lower_bound_bytes, plan.naive_bytes) != (bound, sum) {
            let message = format!(
                "lower bound {} and sum {} should be {bound} and {sum}",
                plan.lower_bound_bytes, plan.naive_bytes
            );
            self.fault("memory".to_owned(), message);
        }
        if peak > sum {
            let message = format!("workspace of {peak} bytes for {sum} in all");
            self.fault("memory".to_owned(), message);
        }
    }
}

#[cfg(test)]
mod tests;
