//! Values that share memory: results over operands that die under them, operands of a
//! concatenation made where they end up, states and outputs made in their own memory.
//!
//! Every sharing is a proposal that two values lie at the same place. It stands if a run through the
//! launches finds, for every read, exactly the bytes the first form had there, if no launch writes
//! over an operand it cannot write in place, and if the most live bytes do not grow. So nothing here
//! is believed for its form: whatever is proposed, the meaning stays.

use super::Allow;
use super::check::Written;
use super::flow::{Contents, Flow, Source};
use crate::lower::LoweredStep;
use crate::program::ValueIndex;
use anyid_ir::Op;
use anyid_ir::kernel::Kernel;
use anyid_ir::plan::Root;
use anyid_ir::plan_live::ALIGNMENT;

/// Values by the memory they share.
#[derive(Clone, Debug)]
pub(crate) struct Classes {
    /// For every owner the value whose memory it lies in, itself for a class of its own, and where.
    at: Vec<(ValueIndex, u64)>,
    /// Bytes of each owner's memory.
    size: Vec<u64>,
    /// Memory that is not the workspace, and the first byte there.
    pub(crate) root: Vec<Option<(Root, u64)>>,
    /// Copies that are elided.
    pub(crate) dropped: Vec<bool>,
}

/// Whether a launch does nothing but copy.
pub(crate) fn is_copy(flow: &Flow, step: &LoweredStep) -> bool {
    step.kernel == Kernel::Op(Op::Cast) && flow.ty(step.operands[0]) == flow.ty(step.results[0])
}

impl Classes {
    /// Every owner by itself. `persistent` are first bytes of values that `prepare` left.
    pub(crate) fn new(flow: &Flow, persistent: &[u64]) -> Self {
        let count = flow.values.len();
        let root = |value: &super::flow::Value| match value.source {
            Source::Input(index) => Some((Root::Input(index), 0)),
            Source::Weight(index) => Some((Root::Weight(index), 0)),
            Source::Persistent(index) => Some((Root::Persistent, persistent[index as usize])),
            Source::State(index, _) => Some((Root::State(index), 0)),
            Source::Output(index) => Some((Root::Output(index), 0)),
            Source::Launch | Source::View | Source::Parts(_) => None,
        };
        Self {
            at: (0..count as u32).map(|value| (value, 0)).collect(),
            size: flow.values.iter().map(|value| value.ty.bytes()).collect(),
            root: flow.values.iter().map(root).collect(),
            dropped: vec![false; flow.steps.len()],
        }
    }

    fn find(&self, mut value: ValueIndex) -> (ValueIndex, u64) {
        let mut offset = 0;
        loop {
            let (next, more) = self.at[value as usize];
            if next == value {
                return (value, offset);
            }
            (value, offset) = (next, offset + more);
        }
    }

    /// The class a value lies in and its first byte there.
    pub(crate) fn place(&self, flow: &Flow, value: ValueIndex) -> (ValueIndex, u64) {
        let home = flow.home(value);
        let (class, offset) = self.find(home.owner);
        (class, offset + home.offset)
    }

    /// Bytes of a class.
    pub(crate) fn bytes(&self, class: ValueIndex) -> u64 {
        self.size[class as usize]
    }

    /// First and last launch that touches each class; outputs are touched after the last.
    pub(crate) fn intervals(&self, flow: &Flow) -> Vec<Option<(usize, usize)>> {
        let mut interval: Vec<Option<(usize, usize)>> = vec![None; flow.values.len()];
        let mut touch = |value: ValueIndex, at: usize| {
            let slot = &mut interval[self.place(flow, value).0 as usize];
            *slot = Some(slot.map_or((at, at), |(from, to)| (from.min(at), to.max(at))));
        };
        let steps = flow.steps.iter().enumerate().filter(|(at, _)| !self.dropped[*at]);
        for (at, step) in steps {
            for value in step.results.iter().chain(&step.operands) {
                touch(*value, at);
            }
        }
        for (_, value) in &flow.outputs {
            touch(*value, flow.steps.len());
        }
        interval
    }

    /// Puts `a` and `b` at the same place. `None` where that is impossible; otherwise the class that
    /// was moved into the other, if they were two.
    fn join(&mut self, flow: &Flow, a: ValueIndex, b: ValueIndex) -> Option<Option<ValueIndex>> {
        let (a, b) = (self.place(flow, a), self.place(flow, b));
        if a.0 == b.0 {
            return (a.1 == b.1).then_some(None);
        }
        for ((inner, at), (outer, to)) in [(a, b), (b, a)] {
            let fits = to >= at && to - at + self.size[inner as usize] <= self.size[outer as usize];
            // Weights lie in the form their kernels want.
            let weight = matches!(self.root[outer as usize], Some((Root::Weight(_), _)));
            if self.root[inner as usize].is_none() && fits && !weight {
                self.at[inner as usize] = (outer, to - at);
                return Some(Some(inner));
            }
        }
        None
    }

    /// Whether the plan still means the same for everything in a class.
    fn holds(&self, flow: &Flow, contents: &mut Contents, class: ValueIndex) -> bool {
        let mut written = Written::default();
        let writable = match self.root[class as usize] {
            None | Some((Root::State(_) | Root::Output(_), _)) => true,
            // What leaves `prepare` is made by launches.
            Some((Root::Persistent, _)) => {
                !matches!(flow.values[class as usize].source, Source::Persistent(_))
            }
            Some(_) => false,
        };
        let extent = |value: ValueIndex| -> Option<(u64, u64)> {
            let (at, offset) = self.place(flow, value);
            (at == class).then(|| (offset, offset + flow.bytes(value)))
        };
        let given = match flow.values[class as usize].source {
            Source::Launch | Source::View | Source::Parts(_) => false,
            Source::State(_, given) => given,
            Source::Output(_) => false,
            Source::Input(_) | Source::Weight(_) | Source::Persistent(_) => true,
        };
        if given {
            written.write(0, self.size[class as usize], class);
        }
        let mut finds = |written: &Written, value: ValueIndex| match extent(value) {
            Some((from, to)) => written.holds(from, to, &flow.segments(contents, value)),
            None => true,
        };
        for (at, step) in flow.steps.iter().enumerate() {
            if self.dropped[at] {
                continue;
            }
            if !step.operands.iter().all(|value| finds(&written, *value)) {
                return false;
            }
            for (result, value) in step.results.iter().enumerate() {
                let Some((from, to)) = extent(*value) else { continue };
                if !writable || !from.is_multiple_of(ALIGNMENT) {
                    return false;
                }
                let meets = |other: ValueIndex| {
                    extent(other).filter(|(start, end)| *start < to && from < *end)
                };
                let spoils = |(operand, other): (usize, &ValueIndex)| {
                    meets(*other).is_some_and(|range| {
                        range != (from, to) || !step.kernel.writes_in_place(operand, result)
                    })
                };
                if step.operands.iter().enumerate().any(spoils)
                    || step.results[..result].iter().any(|other| meets(*other).is_some())
                {
                    return false;
                }
            }
            for value in &step.results {
                if let Some((from, to)) = extent(*value) {
                    written.write(from, to, *value);
                }
            }
        }
        let outputs = flow.outputs.iter().map(|(_, value)| *value);
        let mut left = outputs.chain(flow.states.iter().map(|state| state.after));
        left.all(|value| finds(&written, value))
    }
}

fn label(step: &LoweredStep, result: usize) -> &str {
    step.labels.get(result).map_or("", String::as_str)
}

/// The search for memory to share.
pub(crate) struct Search<'f> {
    flow: &'f Flow,
    pub(crate) classes: Classes,
    contents: Contents,
    bound: u64,
}

impl<'f> Search<'f> {
    /// Begins with `classes`, in which nothing is shared.
    pub(crate) fn new(flow: &'f Flow, classes: Classes) -> Self {
        let contents = flow.contents(&classes.dropped);
        let bound = classes.bound(flow);
        Self { flow, classes, contents, bound }
    }

    /// Elides copies and lets results take over operands, in the order of the launches.
    pub(crate) fn run(mut self, allow: Allow<'_>) -> Classes {
        for at in 0..self.flow.steps.len() {
            if is_copy(self.flow, &self.flow.steps[at]) {
                self.elide(at, allow);
            }
        }
        for at in 0..self.flow.steps.len() {
            if !self.classes.dropped[at] {
                self.in_place(at, allow);
            }
        }
        self.classes
    }

    fn elide(&mut self, at: usize, allow: Allow<'_>) {
        let step = &self.flow.steps[at];
        let (from, to) = (step.operands[0], step.results[0]);
        let Some(moved) = self.classes.join(self.flow, from, to) else { return };
        self.classes.dropped[at] = true;
        self.contents = self.flow.contents(&self.classes.dropped);
        if !self.accept(to, false) || !allow("copy elided", label(step, 0)) {
            self.classes.dropped[at] = false;
            self.contents = self.flow.contents(&self.classes.dropped);
            self.part(moved);
        }
    }

    fn in_place(&mut self, at: usize, allow: Allow<'_>) {
        let step = &self.flow.steps[at];
        for (result, to) in step.results.iter().enumerate() {
            for (operand, from) in step.operands.iter().enumerate() {
                let fits = step.kernel.writes_in_place(operand, result)
                    && self.flow.bytes(*from) == self.flow.bytes(*to);
                if !fits {
                    continue;
                }
                let sizes = [*from, *to].map(|v| self.classes.place(self.flow, v).0);
                let [a, b] = sizes.map(|class| self.classes.bytes(class));
                let Some(Some(moved)) = self.classes.join(self.flow, *from, *to) else { continue };
                // In a larger memory it occupies that for longer: only where the peak gains.
                if self.accept(*to, a != b) && allow("result over an operand", label(step, result))
                {
                    break;
                }
                self.part(Some(moved));
            }
        }
    }

    fn part(&mut self, moved: Option<ValueIndex>) {
        if let Some(moved) = moved {
            self.classes.at[moved as usize] = (moved, 0);
        }
    }

    /// Whether the classes as they are now can stand.
    fn accept(&mut self, changed: ValueIndex, must_gain: bool) -> bool {
        let (class, _) = self.classes.place(self.flow, changed);
        if !self.classes.holds(self.flow, &mut self.contents, class) {
            return false;
        }
        let bound = self.classes.bound(self.flow);
        let stands = bound < self.bound || (bound == self.bound && !must_gain);
        if stands {
            self.bound = bound;
        }
        stands
    }
}
