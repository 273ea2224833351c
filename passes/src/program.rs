//! A straight-line program in single-assignment form: the shape every later pass works on.
//!
//! Values are numbered; a step reads values and makes one or several. Inputs, weights and persistent values
//! are values without a step. Nothing is placed in memory yet.

mod translation;

pub(crate) use translation::Translation;

use anyid_ir::plan::{Branch, WeightRef, title};
use anyid_ir::{Op, TensorType, infer};
use smallvec::SmallVec;
use std::borrow::Cow;

/// Index of a value.
pub type ValueIndex = u32;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Made by the step of this index, as its result of that index.
    Step(u32, u8),
    /// Input of this index.
    Input(u32),
    /// Weight of this index in [`Program::weights`]; the value's type may be another shape of it.
    Weight(u32),
    /// Value of this index in the persistent arena's list.
    Persistent(u32),
}

impl Origin {
    /// Whether it is there before the program runs, and no input.
    pub fn is_given(self) -> bool {
        matches!(self, Self::Weight(_) | Self::Persistent(_))
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramValue {
    /// Element type and shape.
    pub ty: TensorType,
    /// Its origin.
    pub origin: Origin,
}

/// Which part of a program a step belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// What the module describes.
    #[default]
    Forward,
    /// Its derivative.
    Backward,
    /// A forward step computed again for the derivative, which is equal to that step and no
    /// replacement for it.
    Again,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramStep {
    /// What it does; never a structure op or a weight.
    pub op: Op,
    /// Values read.
    pub operands: SmallVec<[ValueIndex; 4]>,
    /// Values made.
    pub results: SmallVec<[ValueIndex; 1]>,
    /// Scope and value name of each result, such as `blocks.3/q1`.
    pub labels: SmallVec<[String; 1]>,
    /// Which part of the program it belongs to.
    pub stage: Stage,
}

impl ProgramStep {
    /// The first value made, of most ops the only one.
    pub fn result(&self) -> ValueIndex {
        self.results[0]
    }

    /// Name of the step: that of its first result.
    pub fn label(&self) -> &str {
        &self.labels[0]
    }
}

/// Who a value at the edge of a program belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The caller, who gives an input and gets an output.
    Caller,
    /// The phases to come, for which an output is kept.
    Kept,
    /// The state of this index in the request: what it holds before the program runs, or afterwards.
    State(u32),
}

/// A named value at the edge of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name in the source.
    pub name: String,
    /// The branch it belongs to, where the program evaluates two; 0 otherwise.
    pub branch: Branch,
    /// Whose it is.
    pub role: Role,
    /// The value.
    pub value: ValueIndex,
}

impl Port {
    /// A port of the caller.
    pub fn new(name: impl Into<String>, value: ValueIndex) -> Self {
        Self { name: name.into(), branch: 0, role: Role::Caller, value }
    }

    /// How it is called: by its name and, where it has one, its branch.
    pub fn title(&self) -> Cow<'_, str> {
        title(&self.name, self.branch)
    }

    /// The port with another value.
    pub fn with(&self, value: ValueIndex) -> Self {
        Self { value, ..self.clone() }
    }
}

/// The program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// All values.
    pub values: Vec<ProgramValue>,
    /// Steps in order.
    pub steps: Vec<ProgramStep>,
    /// The inputs, those that are states among them.
    pub inputs: Vec<Port>,
    /// The outputs, with what is kept and what states become.
    pub outputs: Vec<Port>,
    /// Weights read.
    pub weights: Vec<WeightRef>,
}

impl Program {
    /// Adds a value and returns its index.
    pub fn value(&mut self, ty: TensorType, origin: Origin) -> ValueIndex {
        self.values.push(ProgramValue { ty, origin });
        (self.values.len() - 1) as ValueIndex
    }

    /// Type of a value.
    pub fn ty(&self, value: ValueIndex) -> &TensorType {
        &self.values[value as usize].ty
    }

    /// Types of some values.
    pub fn types(&self, values: &[ValueIndex]) -> SmallVec<[&TensorType; 4]> {
        values.iter().map(|value| self.ty(*value)).collect()
    }

    /// Adds an input of type `ty`, as `port` says but for the value, which is returned.
    pub fn input(&mut self, port: &Port, ty: TensorType) -> ValueIndex {
        let value = self.value(ty, Origin::Input(self.inputs.len() as u32));
        self.inputs.push(port.with(value));
        value
    }

    /// Adds a step and its one result.
    pub fn step(
        &mut self,
        op: Op,
        operands: SmallVec<[ValueIndex; 4]>,
        ty: TensorType,
        label: String,
    ) -> ValueIndex {
        self.step_of(op, operands, [(ty, label)])[0]
    }

    /// Adds a step and its results, of these types and labels.
    pub fn step_of(
        &mut self,
        op: Op,
        operands: SmallVec<[ValueIndex; 4]>,
        made: impl IntoIterator<Item = (TensorType, String)>,
    ) -> SmallVec<[ValueIndex; 1]> {
        let at = self.steps.len() as u32;
        let (mut results, mut labels) = (SmallVec::new(), SmallVec::new());
        for (result, (ty, label)) in (0..).zip(made) {
            results.push(self.value(ty, Origin::Step(at, result)));
            labels.push(label);
        }
        let (stage, made) = (Stage::Forward, results.clone());
        self.steps.push(ProgramStep { op, operands, results: made, labels, stage });
        results
    }

    /// Adds a step of another program on operands of this one, and its results.
    pub fn step_like(
        &mut self,
        from: &Self,
        step: &ProgramStep,
        operands: SmallVec<[ValueIndex; 4]>,
    ) -> SmallVec<[ValueIndex; 1]> {
        let types = step.results.iter().map(|value| from.ty(*value).clone());
        let made = self.step_of(step.op.clone(), operands, types.zip(step.labels.iter().cloned()));
        self.steps.last_mut().expect("it was just added").stage = step.stage;
        made
    }

    /// Adds a step and its results, all of one label, of the types that its op gives on these operands;
    /// `declared` are types of results where the operands leave them open.
    pub(crate) fn emit(
        &mut self,
        op: Op,
        operands: &[ValueIndex],
        declared: &[TensorType],
        label: &str,
    ) -> SmallVec<[ValueIndex; 1]> {
        let types: Vec<&TensorType> = operands.iter().map(|value| self.ty(*value)).collect();
        let made = infer(&op, &types, declared).unwrap_or_else(|error| {
            unreachable!("{label} is well typed: {} of {types:?}: {}", op.name(), error.message)
        });
        let made: SmallVec<[_; 1]> = made.into_iter().map(|ty| (ty, label.to_owned())).collect();
        self.step_of(op, operands.iter().copied().collect(), made)
    }

    /// Whether a value is a weight, perhaps in another shape.
    pub(crate) fn is_weight(&self, value: ValueIndex) -> bool {
        matches!(self.values[value as usize].origin, Origin::Weight(_))
    }

    /// The number that every element of a value is, if a literal of one value makes it.
    pub(crate) fn number(&self, value: ValueIndex) -> Option<f64> {
        match &self.maker(value)?.op {
            Op::Const { values } if values.len() == 1 => {
                Some(self.ty(value).dtype.round(values[0]))
            }
            _ => None,
        }
    }

    /// The step that makes a value, if one does.
    pub fn maker(&self, value: ValueIndex) -> Option<&ProgramStep> {
        match self.values[value as usize].origin {
            Origin::Step(at, _) => Some(&self.steps[at as usize]),
            _ => None,
        }
    }

    /// Name of a value for people: label, input, weight or `persistent.N`.
    pub fn name(&self, value: ValueIndex) -> String {
        match self.values[value as usize].origin {
            Origin::Step(at, result) => self.steps[at as usize].labels[usize::from(result)].clone(),
            Origin::Input(at) => self.inputs[at as usize].title().into_owned(),
            Origin::Weight(at) => format!("${}", self.weights[at as usize].name),
            Origin::Persistent(at) => format!("persistent.{at}"),
        }
    }

    /// The program with each value read as `replaced` says and only the steps in `kept`, values
    /// numbered anew. Inputs and persistent values stay, and the weights something reads. What a
    /// kept step or an output reads must be kept; replacements come before what they replace.
    pub fn rebuilt(&self, replaced: &[ValueIndex], kept: &[bool]) -> Self {
        let mut read = vec![false; self.values.len()];
        for (step, _) in self.steps.iter().zip(kept).filter(|(_, kept)| **kept) {
            for operand in &step.operands {
                read[replaced[*operand as usize] as usize] = true;
            }
        }
        for port in &self.outputs {
            read[replaced[port.value as usize] as usize] = true;
        }
        let mut copy = Translation::new(self);
        for (at, value) in (0..).zip(&self.values) {
            let weight = matches!(value.origin, Origin::Weight(_));
            if value.origin.is_given() && (!weight || read[at as usize]) {
                copy.find(at);
            }
        }
        for (step, _) in self.steps.iter().zip(kept).filter(|(_, kept)| **kept) {
            let operands = step.operands.iter().map(|v| copy.find(replaced[*v as usize])).collect();
            copy.step_on(step, operands);
        }
        for (value, replaced) in replaced.iter().enumerate() {
            copy.moved[value] = copy.moved[*replaced as usize];
        }
        copy.done()
    }

    /// What every program must satisfy: indices in range, origins that agree with steps, inputs
    /// and weights, definitions before uses, no structure ops, and recorded types that are the
    /// inferred ones.
    ///
    /// # Errors
    /// The first broken rule, in words.
    pub fn verify(&self) -> Result<(), String> {
        let count = self.values.len();
        for (at, value) in self.values.iter().enumerate() {
            let fine = match value.origin {
                Origin::Step(step, result) => self
                    .steps
                    .get(step as usize)
                    .and_then(|step| step.results.get(usize::from(result)))
                    .is_some_and(|result| *result as usize == at),
                Origin::Input(input) => {
                    self.inputs.get(input as usize).is_some_and(|port| port.value as usize == at)
                }
                Origin::Weight(weight) => self.weights.get(weight as usize).is_some_and(|weight| {
                    let (own, whole) = (&value.ty, &weight.ty);
                    own.dtype == whole.dtype && own.elements() == whole.elements()
                }),
                Origin::Persistent(_) => true,
            };
            if !fine {
                return Err(format!("value {at} is not what its origin {:?} says", value.origin));
            }
        }
        let mut defined: Vec<bool> =
            self.values.iter().map(|v| !matches!(v.origin, Origin::Step(..))).collect();
        for (at, step) in self.steps.iter().enumerate() {
            let place = || format!("step {at}, {} = {}", step.labels.join(", "), step.op.name());
            if step.labels.len() != step.results.len() {
                return Err(format!("{}: not one label for each result", place()));
            }
            if step.op.is_structure() || matches!(step.op, Op::Weight { .. }) {
                return Err(format!("{}: such an op is not a step", place()));
            }
            let early = |v: &&ValueIndex| !defined.get(**v as usize).copied().unwrap_or(false);
            if let Some(value) = step.operands.iter().find(early) {
                return Err(format!("{}: value {value} is read before it is made", place()));
            }
            for (index, result) in (0..).zip(&step.results) {
                let value = self.values.get(*result as usize);
                if value.is_none_or(|value| value.origin != Origin::Step(at as u32, index)) {
                    return Err(format!("{}: value {result} is not its result", place()));
                }
                defined[*result as usize] = true;
            }
            let types = self.types(&step.operands);
            let recorded: Vec<TensorType> =
                step.results.iter().map(|v| self.ty(*v).clone()).collect();
            let inferred = infer(&step.op, &types, &recorded)
                .map_err(|error| format!("{}: {}", place(), error.message))?;
            if inferred.as_slice() != recorded {
                let [inferred, recorded] = [&inferred[..], &recorded].map(TensorType::list);
                return Err(format!("{}: it gives {inferred}, recorded is {recorded}", place()));
            }
        }
        match self.outputs.iter().find(|port| port.value as usize >= count) {
            Some(Port { name, value, .. }) => {
                Err(format!("output {name} is value {value}, which is not there"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::{BinaryFn, DType};

    fn program() -> Program {
        let ty = TensorType::new(DType::F32, [2]);
        let mut program = Program::default();
        let x = program.input(&Port::new("x", 0), ty.clone());
        program.weights.push(WeightRef { name: "w".into(), ty: ty.clone() });
        let w = program.value(ty.clone(), Origin::Weight(0));
        let add = Op::Binary(BinaryFn::Add);
        let a = program.step(add.clone(), smallvec::smallvec![x, w], ty.clone(), "a".into());
        let b = program.step(add, smallvec::smallvec![a, x], ty, "b".into());
        program.outputs.push(Port::new("b", b));
        program
    }

    #[test]
    fn each_rule_of_programs_is_checked() {
        assert_eq!(program().verify(), Ok(()));
        let broken = |change: fn(&mut Program)| {
            let mut program = program();
            change(&mut program);
            program.verify().unwrap_err()
        };
        assert!(broken(|p| p.steps.swap(0, 1)).contains("origin"));
        assert!(broken(|p| p.steps[0].operands[1] = 3).contains("before it is made"));
        assert!(broken(|p| p.steps[0].operands[1] = 9).contains("before it is made"));
        assert!(broken(|p| p.steps[0].op = Op::Return).contains("not a step"));
        assert!(broken(|p| p.steps[0].labels.push("c".into())).contains("one label for each"));
        assert!(broken(|p| p.values[3].origin = Origin::Step(1, 1)).contains("origin"));
        let twice = broken(|p| {
            p.steps[1].results.push(3);
            p.steps[1].labels.push("c".into());
        });
        assert!(twice.contains("value 3 is not its result"), "{twice}");
        let more = broken(|p| {
            let ty = p.values[3].ty.clone();
            let extra = p.value(ty, Origin::Step(1, 1));
            p.steps[1].results.push(extra);
            p.steps[1].labels.push("c".into());
        });
        assert!(more.contains("it gives f32[2], recorded is f32[2], f32[2]"), "{more}");
        assert!(broken(|p| p.values[3].ty.shape[0] = 3).contains("recorded is"));
        assert!(
            broken(|p| p.steps[0].op = Op::Dot { transposed: [false; 2] })
                .contains("step 0, a = dot")
        );
        assert!(broken(|p| p.values[1].origin = Origin::Weight(1)).contains("origin"));
        assert!(broken(|p| p.values[1].ty.dtype = DType::Bf16).contains("origin"));
        assert!(broken(|p| p.outputs[0].value = 17).contains("output b"));
    }

    #[test]
    fn rebuilding_numbers_anew_and_drops_unread_weights() {
        let program = program();
        let replaced = [0, 1, 0, 3];
        let out = program.rebuilt(&replaced, &[false, true]);
        assert_eq!(out.verify(), Ok(()));
        assert_eq!((out.steps.len(), out.weights.len(), out.values.len()), (1, 0, 2));
        assert_eq!(out.steps[0].operands.as_slice(), [0, 0]);
        assert_eq!(program.name(1), "$w");
    }
}
