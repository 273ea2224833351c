//! A lowered program as memory planning sees it: launches, values, and where the bytes of each
//! value come from.
//!
//! In the first form every launch writes memory of its own. Concatenation is a copy of each operand
//! into its range of the result; a state's new value is copied into the state's memory, an output
//! into the caller's. That form is always right; [`super::alias`] elides copies where values can be
//! made in place, and shows that it means the same.

mod edges;

use crate::StateSpec;
use crate::program::{Origin, Port, Program, ValueIndex};
use crate::storage::{Storage, storages};
use anyid_ir::TensorType;
use anyid_ir::kernel::{CopyKernel, Kernel};
use anyid_ir::plan::{Alignment, State, Step, WeightRef};
use std::borrow::Cow;
use std::collections::HashMap;

/// Most operands of a concatenation that is made of copies. More are joined by one launch: each copy
/// that is elided looks at all the others.
const MOST_PARTS: usize = 1 << 8;

/// One launch.
pub type LoweredStep = Step<ValueIndex>;

/// What puts the bytes of a value where they are.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The launch it is a result of; nothing for values that exist inside kernels only.
    Launch,
    /// It looks into its owner.
    View,
    /// Its parts, each a result of a launch, cover it in order.
    Parts(Vec<ValueIndex>),
    /// The caller.
    Input(u32),
    /// The checkpoint.
    Weight(u32),
    /// `prepare`.
    Persistent(u32),
    /// The memory of a state, and whether it holds anything when the plan begins.
    State(u32, bool),
    /// The memory of an output.
    Output(u32),
}

impl Source {
    /// Whether its bytes are there before the first launch.
    pub(crate) fn is_given(&self) -> bool {
        match self {
            Self::Launch | Self::View | Self::Parts(_) | Self::Output(_) => false,
            Self::State(_, given) => *given,
            Self::Input(_) | Self::Weight(_) | Self::Persistent(_) => true,
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub(crate) ty: TensorType,
    pub(crate) storage: Storage,
    pub(crate) source: Source,
}

/// The program.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    pub(crate) values: Vec<Value>,
    pub(crate) steps: Vec<LoweredStep>,
    pub(crate) inputs: Vec<Port>,
    /// Those of the caller, then those that are kept.
    pub(crate) outputs: Vec<Port>,
    pub(crate) states: Vec<State<ValueIndex>>,
    pub(crate) weights: Vec<WeightRef>,
    /// Concatenations that were made copies, as they were.
    pub(crate) concats: Vec<LoweredStep>,
    /// Where memory of a value may begin.
    pub(crate) alignment: Alignment,
}

/// Names of a flow's values in texts.
pub(crate) struct Names<'f> {
    flow: &'f Flow,
    /// For each value the launch that makes it and which of its results it is.
    makers: Vec<Option<(usize, usize)>>,
    inputs: HashMap<ValueIndex, Cow<'f, str>>,
}

impl<'f> Names<'f> {
    pub(crate) fn new(flow: &'f Flow) -> Self {
        let mut makers = vec![None; flow.values.len()];
        for (at, step) in flow.steps.iter().enumerate() {
            for (result, value) in step.results.iter().enumerate() {
                makers[*value as usize].get_or_insert((at, result));
            }
        }
        let mut inputs = HashMap::new();
        for port in &flow.inputs {
            inputs.entry(port.value).or_insert_with(|| port.title());
        }
        Self { flow, makers, inputs }
    }

    /// A value's label, the part of another value that it is, or its number.
    pub(crate) fn of(&self, value: ValueIndex) -> String {
        let maker = self.makers[value as usize]
            .and_then(|(at, result)| self.flow.steps[at].labels.get(result));
        let each = &self.flow.values[value as usize];
        match (&each.source, maker) {
            (_, Some(label)) => label.clone(),
            (Source::Weight(at), None) => format!("${}", self.flow.weights[*at as usize].name),
            (Source::Persistent(at), None) => format!("persistent.{at}"),
            (Source::State(at, _), None) => format!("state.{at}"),
            (Source::Output(at), None) => format!("output.{at}"),
            (Source::View, None) => {
                let Storage { owner, offset, rows } = each.storage;
                let columns = if rows > 1 { "columns " } else { "" };
                format!("{}[{columns}{}..]", self.of(owner), offset / rows)
            }
            (Source::Input(_), None) if self.inputs.contains_key(&value) => {
                self.inputs[&value].to_string()
            }
            (Source::Parts(parts), None) => match parts.first() {
                Some(part) => format!("{}..", self.of(*part)),
                None => format!("%{value}"),
            },
            _ => format!("%{value}"),
        }
    }
}

impl Flow {
    /// The flow of a program's kernels in its first form.
    pub(crate) fn new(
        program: &Program,
        steps: Vec<LoweredStep>,
        states: &[StateSpec],
        alignment: Alignment,
    ) -> Self {
        let storages = storages(program);
        let value = |(at, value): (usize, &crate::program::ProgramValue)| {
            let source = match value.origin {
                Origin::Input(index) => Source::Input(index),
                Origin::Weight(index) => Source::Weight(index),
                Origin::Persistent(index) => Source::Persistent(index),
                Origin::Step(..) if storages[at].owner as usize != at => Source::View,
                Origin::Step(..) => Source::Launch,
            };
            Value { ty: value.ty.clone(), storage: storages[at], source }
        };
        let mut flow = Self {
            values: program.values.iter().enumerate().map(value).collect(),
            steps,
            inputs: program.inputs.clone(),
            outputs: program.outputs.clone(),
            states: Vec::new(),
            weights: program.weights.clone(),
            concats: Vec::new(),
            alignment,
        };
        flow.declare_states(states);
        flow
    }

    /// A value's name in texts. For many values keep [`Names`].
    pub(crate) fn name(&self, value: ValueIndex) -> String {
        Names::new(self).of(value)
    }

    pub(crate) fn ty(&self, value: ValueIndex) -> &TensorType {
        &self.values[value as usize].ty
    }

    /// Types of some values.
    pub(crate) fn types(&self, values: &[ValueIndex]) -> Vec<&TensorType> {
        values.iter().map(|value| self.ty(*value)).collect()
    }

    pub(crate) fn storage(&self, value: ValueIndex) -> Storage {
        self.values[value as usize].storage
    }

    pub(crate) fn bytes(&self, value: ValueIndex) -> u64 {
        self.ty(value).bytes()
    }

    /// What is read behind the last launch: outputs, and what states become.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = ValueIndex> + '_ {
        let outputs = self.outputs.iter().map(|port| port.value);
        outputs.chain(self.states.iter().map(|state| state.after))
    }

    /// For every value that owns memory the launches that read it, ascending; the number of launches
    /// stands for what leaves the flow.
    pub(crate) fn readers(&self) -> Vec<Vec<usize>> {
        let mut readers = vec![Vec::new(); self.values.len()];
        for (at, step) in self.steps.iter().enumerate() {
            for value in &step.operands {
                readers[self.storage(*value).owner as usize].push(at);
            }
        }
        for value in self.leaving() {
            readers[self.storage(value).owner as usize].push(self.steps.len());
        }
        readers
    }

    /// Adds a value; one whose storage is `None` owns its memory.
    pub(crate) fn value(
        &mut self,
        ty: TensorType,
        storage: Option<Storage>,
        source: Source,
    ) -> ValueIndex {
        let index = self.values.len() as ValueIndex;
        let storage = storage.unwrap_or(Storage::at(index, 0));
        self.values.push(Value { ty, storage, source });
        index
    }

    /// A view of `ty` into `value`, `offset` bytes from its start.
    pub(crate) fn view(&mut self, value: ValueIndex, offset: u64, ty: TensorType) -> ValueIndex {
        let storage = self.storage(value);
        let storage = Storage { offset: storage.offset + offset, ..storage };
        self.value(ty, Some(storage), Source::View)
    }

    /// Concatenations that are contiguous in their result, as copies into its ranges.
    pub(crate) fn split_concats(&mut self) {
        let mut steps = Vec::with_capacity(self.steps.len());
        for step in std::mem::take(&mut self.steps) {
            let Some(offsets) = self.parts(&step) else {
                steps.push(step);
                continue;
            };
            let owner = step.results[0];
            let mut parts = Vec::with_capacity(offsets.len());
            for (at, (from, offset)) in step.operands.iter().zip(offsets).enumerate() {
                let ty = self.ty(*from).clone();
                let storage = Storage::at(owner, offset);
                let to = self.value(ty, Some(storage), Source::Launch);
                let label = format!("{}[{at}]", step.label_of(0));
                steps.push(self.copy(*from, to, label));
                parts.push(to);
            }
            self.values[owner as usize].source = Source::Parts(parts);
            self.concats.push(step);
        }
        self.steps = steps;
    }

    /// Makes concatenations one launch again where no copy of their parts is elided.
    pub(crate) fn rejoin_concats(&mut self, elided: &[bool]) -> bool {
        // The concatenation that each of the copies belongs to.
        let mut whole: HashMap<ValueIndex, usize> = HashMap::new();
        let mut rejoined = Vec::new();
        for concat in std::mem::take(&mut self.concats) {
            let owner = concat.results[0] as usize;
            let Source::Parts(parts) = &self.values[owner].source else {
                unreachable!("its parts were made with it")
            };
            if parts.iter().any(|part| elided[*part as usize]) {
                self.concats.push(concat);
                continue;
            }
            whole.extend(parts.iter().map(|part| (*part, rejoined.len())));
            self.values[owner].source = Source::Launch;
            rejoined.push(Some(concat));
        }
        let changed = !rejoined.is_empty();
        let mut steps = Vec::with_capacity(self.steps.len());
        // It stands where the last of its copies stood.
        for step in std::mem::take(&mut self.steps).into_iter().rev() {
            match whole.get(&step.results[0]) {
                Some(at) => steps.extend(rejoined[*at].take()),
                None => steps.push(step),
            }
        }
        steps.reverse();
        self.steps = steps;
        changed
    }

    /// How long it takes to look at all of it, in launches of a few operands each.
    pub(crate) fn length(&self) -> usize {
        let values = |step: &LoweredStep| step.operands.len() + step.results.len();
        let touched: usize = self.steps.iter().map(values).sum();
        self.steps.len().max(touched / 16).max(self.outputs.len())
    }

    /// First byte of each operand in the result, where a step is a concatenation that can be made
    /// of copies.
    fn parts(&self, step: &LoweredStep) -> Option<Vec<u64>> {
        let Kernel::Copy(kernel) = &step.kernel else { return None };
        let types = self.types(&step.operands);
        // One part alone is a copy as it is.
        if !(2..=MOST_PARTS).contains(&kernel.parts.len()) || !kernel.joins_whole(&types) {
            return None;
        }
        // What is looked at by columns is made at once.
        if self.values.iter().any(|v| v.storage.owner == step.results[0] && v.storage.rows > 1) {
            return None;
        }
        let mut end = 0u64;
        let mut offsets = Vec::new();
        for operand in &step.operands {
            if !self.alignment.holds(end) || self.bytes(*operand) == 0 {
                return None;
            }
            offsets.push(end);
            end += self.bytes(*operand);
        }
        Some(offsets)
    }

    /// Copies `from` into the memory of `to`.
    fn copy(&self, from: ValueIndex, to: ValueIndex, label: String) -> LoweredStep {
        LoweredStep {
            kernel: Kernel::Copy(CopyKernel::whole("copy", self.ty(from).elements())),
            operands: smallvec::smallvec![from],
            results: smallvec::smallvec![to],
            labels: vec![label],
        }
    }
}
