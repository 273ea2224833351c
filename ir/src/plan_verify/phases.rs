//! Whether the phases of one program fit each other.
//!
//! `prepare` and `step` run on the same persistent memory: `prepare` returns nothing and writes all
//! that `step` reads, in the same places and types, and `step` writes none of it, as it runs many
//! times. All other phases run by themselves and have no such memory. Weights, states and, of
//! `prepare` and `step`, inputs of one name are of one type.

use super::{MOST, verify_plan};
use crate::diag::Diagnostic;
use crate::plan::{Buffer, Plan, Root};
use crate::types::TensorType;
use std::collections::BTreeMap;

/// Whether these phases are `prepare` and `step` of one function.
pub fn is_split(phases: &[Plan]) -> bool {
    matches!(phases, [first, second] if first.name == "prepare" && second.name == "step")
}

/// What is wrong with `phases`, alone and together; nothing for good ones. All findings are errors
/// with code E0517.
pub fn verify_phases(phases: &[Plan]) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = phases.iter().flat_map(verify_plan).collect();
    if found.is_empty() {
        let mut checked = Phases { found };
        checked.together(phases);
        found = checked.found;
    }
    found.truncate(MOST);
    found
}

struct Phases {
    found: Vec<Diagnostic>,
}

impl Phases {
    fn fault(&mut self, plan: &Plan, message: String) {
        let place = format!("plan \"{}\"", plan.name);
        self.found.push(Diagnostic::error("E0517", message).place(place));
    }

    fn together(&mut self, phases: &[Plan]) {
        if phases.is_empty() {
            let message = "the plan has no phase".to_owned();
            return self.found.push(Diagnostic::error("E0517", message));
        }
        let mut names: Vec<&str> = phases.iter().map(|plan| plan.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let message = format!("there are two phases \"{}\"", pair[0]);
            self.found.push(Diagnostic::error("E0517", message));
        }
        if let Some(other) = phases.iter().find(|plan| plan.alignment != phases[0].alignment) {
            self.fault(other, "its alignment is not that of the first phase".to_owned());
        }
        let split = is_split(phases);
        let (mut weights, mut states, mut inputs) = <[Known<'_>; 3]>::default().into();
        for plan in phases {
            for weight in &plan.weights {
                self.same(plan, &mut weights, ("weight", &weight.name, &weight.ty));
            }
            for state in &plan.states {
                self.same(plan, &mut states, ("state", &state.name, &state.ty));
            }
            for port in plan.inputs.iter().filter(|_| split) {
                let ty = &plan.buffer(port.buffer).ty;
                self.same(plan, &mut inputs, ("input", &port.name, ty));
            }
        }
        match phases {
            [prepare, step] if split => self.split(prepare, step),
            _ => {
                for plan in phases.iter().filter(|p| p.persistent_bytes > 0 || !p.kept.is_empty()) {
                    let message = "persistent memory without a prepare and a step".to_owned();
                    self.fault(plan, message);
                }
            }
        }
    }

    /// Whether what has this name had the same type before.
    fn same<'p>(
        &mut self,
        plan: &Plan,
        known: &mut Known<'p>,
        (what, name, ty): (&str, &'p str, &'p TensorType),
    ) {
        let first = known.entry(name).or_insert(ty);
        if *first != ty {
            let message = format!("{what} \"{name}\" is both {first} and {ty}");
            self.fault(plan, message);
        }
    }

    fn split(&mut self, prepare: &Plan, step: &Plan) {
        if prepare.persistent_bytes != step.persistent_bytes {
            let message = "prepare and step disagree about persistent memory".to_owned();
            self.fault(step, message);
        }
        if let Some(port) = prepare.outputs.first() {
            self.fault(prepare, format!("prepare keeps its results, output \"{}\" too", port.name));
        }
        if !step.kept.is_empty() {
            self.fault(step, "step keeps values, which only prepare does".to_owned());
        }
        if let Some(state) = prepare.states.first() {
            let message = format!("state \"{}\" of prepare, which runs once", state.name);
            self.fault(prepare, message);
        }
        let kept: Vec<&Buffer> =
            prepare.kept.iter().map(|port| prepare.buffer(port.buffer)).collect();
        // All reads of `prepare` find what it wrote itself, unless it keeps nothing.
        let readers = [prepare, step].into_iter().filter(|plan| plan.kept.is_empty());
        for plan in readers {
            for (id, buffer) in plan.buffers.iter() {
                if buffer.root == Root::Persistent && !kept.iter().any(|k| holds(k, buffer)) {
                    let message =
                        format!("{id:?} is not part of a {} that prepare keeps", buffer.ty);
                    self.fault(plan, message);
                }
            }
        }
    }
}

type Known<'p> = BTreeMap<&'p str, &'p TensorType>;

/// Whether `part` lies in `whole`, in elements of its type.
fn holds(whole: &Buffer, part: &Buffer) -> bool {
    let (Some((from, to)), Some((start, end))) = (whole.span(), part.span()) else { return false };
    whole.ty.dtype == part.ty.dtype && from <= start && end <= to
}
