//! The edges of a flow: states get memory of their own, outputs are copied into the caller's.

use super::{Flow, LoweredStep, Names, Source};
use crate::StateSpec;
use crate::program::{Port, Role, ValueIndex};
use crate::storage::Storage;
use anyid_ir::plan::State;
use std::collections::HashMap;

impl Flow {
    /// Takes states out of the inputs and outputs and gives them memory.
    pub(super) fn declare_states(&mut self, specs: &[StateSpec]) {
        self.keep_old_states();
        let is_state = |port: &Port| matches!(port.role, Role::State(_));
        let mut ends: Vec<Port> = self.outputs.iter().filter(|p| is_state(p)).cloned().collect();
        let rank = |port: &Port| match port.role {
            Role::State(index) => index as usize,
            Role::Caller | Role::Kept => unreachable!("these are states"),
        };
        ends.sort_by_key(|port| (port.branch, rank(port)));
        let mut moved = Vec::new();
        for (index, port) in (0..).zip(ends) {
            let before = self.state_before(&port);
            let memory = match before {
                Some(before) => {
                    self.values[before as usize].source = Source::State(index, true);
                    before
                }
                None => self.value(self.ty(port.value).clone(), None, Source::State(index, false)),
            };
            if before != Some(port.value) {
                moved.push((port.value, memory));
            }
            let (name, branch) = (specs[rank(&port)].name.clone(), port.branch);
            let ty = self.ty(port.value).clone();
            self.states.push(State { name, branch, ty, before, after: port.value });
        }
        let copies = self.copy_early(&moved);
        let changed = self.states.iter_mut().filter(|state| state.before != Some(state.after));
        changed.zip(copies).for_each(|(state, to)| state.after = to);
        self.inputs.retain(|port| !is_state(port));
        self.outputs.retain(|port| !is_state(port));
        self.outputs.sort_by_key(|port| port.role == Role::Kept);
        for (at, port) in (0..).zip(&self.inputs) {
            self.values[port.value as usize].source = Source::Input(at);
        }
    }

    /// The input that a state which ends in `port` begins with.
    fn state_before(&self, port: &Port) -> Option<ValueIndex> {
        let same = |input: &&Port| (input.role, input.branch) == (port.role, port.branch);
        self.inputs.iter().find(same).map(|input| input.value)
    }

    /// Copies, in front of everything, old states that leave the function as something else than
    /// themselves: their memory will not hold them any more.
    fn keep_old_states(&mut self) {
        let begins = self.inputs.iter().filter(|port| matches!(port.role, Role::State(_)));
        let begins: Vec<ValueIndex> = begins.map(|port| port.value).collect();
        for at in 0..self.outputs.len() {
            let port = self.outputs[at].clone();
            let stays =
                matches!(port.role, Role::State(_)) && self.state_before(&port) == Some(port.value);
            if !stays && begins.contains(&self.storage(port.value).owner) {
                let ty = self.ty(port.value).clone();
                let to = self.value(ty, None, Source::Launch);
                let label = format!("{}[old]", port.title());
                self.steps.insert(0, self.copy(port.value, to, label));
                self.outputs[at].value = to;
            }
        }
    }

    /// Outputs for the caller that launches make, as opposed to those handed through.
    pub(crate) fn made_outputs(&self) -> Vec<usize> {
        (0..self.outputs.len()).filter(|at| self.is_made(*at)).collect()
    }

    fn is_made(&self, output: usize) -> bool {
        let port = &self.outputs[output];
        let owner = self.storage(port.value).owner as usize;
        let made = matches!(self.values[owner].source, Source::Launch | Source::Parts(_));
        made && port.role == Role::Caller
    }

    /// Copies the outputs at these positions into the caller's memory, each as soon as it is made;
    /// the values that lie there.
    pub(crate) fn return_outputs(&mut self, positions: &[usize]) -> Vec<ValueIndex> {
        let mut wanted = Vec::with_capacity(positions.len());
        for at in positions {
            let value = self.outputs[*at].value;
            let ty = self.ty(value).clone();
            wanted.push((value, self.value(ty, None, Source::Output(*at as u32))));
        }
        let copies = self.copy_early(&wanted);
        for (at, to) in positions.iter().zip(&copies) {
            self.outputs[*at].value = *to;
        }
        copies
    }

    /// Adds copies of values over the whole of memories, each as early as that may be: once the value
    /// is made and nothing looks into the memory any more. Returns the values that lie there then.
    fn copy_early(&mut self, wanted: &[(ValueIndex, ValueIndex)]) -> Vec<ValueIndex> {
        // By owner: which bytes are made behind which place, and behind which none is read any more.
        let mut made: HashMap<ValueIndex, Vec<(u64, u64, usize)>> = HashMap::new();
        let mut free: HashMap<ValueIndex, usize> = HashMap::new();
        for (value, memory) in wanted {
            made.entry(self.storage(*value).owner).or_default();
            free.insert(self.storage(*memory).owner, 0);
        }
        for (place, step) in (1..).zip(&self.steps) {
            for value in &step.results {
                let storage = self.storage(*value);
                if let Some(made) = made.get_mut(&storage.owner) {
                    made.push((storage.offset, storage.offset + self.bytes(*value), place));
                }
            }
            for value in &step.operands {
                free.entry(self.storage(*value).owner).and_modify(|last| *last = place);
            }
        }
        let labels: Vec<String> = {
            let names = Names::new(self);
            wanted.iter().map(|(value, _)| format!("{}[kept]", names.of(*value))).collect()
        };
        let mut copies = Vec::with_capacity(wanted.len());
        let mut placed: Vec<(usize, LoweredStep)> = Vec::with_capacity(wanted.len());
        for ((value, memory), label) in wanted.iter().zip(labels) {
            let (storage, ty) = (self.storage(*value), self.ty(*value).clone());
            let (from, end) = (storage.offset, storage.offset + ty.bytes());
            let makes =
                made[&storage.owner].iter().filter(|(start, to, _)| *start < end && from < *to);
            let owner = self.storage(*memory).owner;
            let place = makes.map(|(_, _, place)| *place).fold(free[&owner], usize::max);
            let to = self.value(ty, Some(Storage::at(owner, 0)), Source::Launch);
            placed.push((place, self.copy(*value, to, label)));
            copies.push(to);
        }
        // Of copies at one place the last comes first.
        placed.reverse();
        placed.sort_by_key(|(place, _)| *place);
        let mut steps = Vec::with_capacity(self.steps.len() + placed.len());
        let mut placed = placed.into_iter().peekable();
        for (at, step) in std::mem::take(&mut self.steps).into_iter().enumerate() {
            while let Some((_, copy)) = placed.next_if(|(place, _)| *place <= at) {
                steps.push(copy);
            }
            steps.push(step);
        }
        steps.extend(placed.map(|(_, copy)| copy));
        self.steps = steps;
        copies
    }
}
