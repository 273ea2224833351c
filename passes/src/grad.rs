//! Reverse-mode differentiation of a straight-line program.
//!
//! The program gains steps that compute the derivative of one of its outputs, a number, with respect
//! to some of its inputs, and an output `grad.NAME` for each of these. Nothing else gets a step: a
//! value is *active* if it depends on such an input, and only active values that the output depends on
//! have a cotangent. One walk from the last step to the first turns the cotangents of a step's results
//! into those of its operands (`grad/rules.rs`).
//!
//! A composite without a rule of its own is differentiated as what it is defined to be: the primitives
//! of its decomposition, computed again from its operands. They are elementwise and sums over rows, so
//! fusion makes one launch of them, and nothing but the operands has to be kept.
//!
//! Cotangents have the type of their value. Where several steps read a value, what they contribute is
//! added in f32 (or f64) in the order of the walk and rounded once.

mod conv;
mod elementwise;
mod emit;
mod rules;

use crate::decompose::inline;
use crate::program::{Origin, Port, Program, Stage, Translation, ValueIndex};
use crate::{Asked, CompileError};
use anyid_ir::spelling::meant;
use anyid_ir::{BinaryFn, DType, Op, TensorType};
use smallvec::{SmallVec, smallvec};

/// What to differentiate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gradient {
    /// The output that is differentiated, by name: one element of f32 or f64.
    pub of: String,
    /// The inputs with respect to which, as patterns in which a star stands for any text. Weights
    /// that are [lifted](lift) are inputs.
    pub wrt: Vec<String>,
}

/// Whether `name` is what `pattern` describes, in which stars stand for any text.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    true
}

/// A program under differentiation: its own steps, then those of the derivative.
pub(crate) struct Walk {
    out: Program,
    /// Whether a value depends on what is differentiated by.
    active: Vec<bool>,
    /// What the steps walked so far contribute to the cotangent of each value.
    parts: Vec<SmallVec<[ValueIndex; 2]>>,
    /// Label of the step whose derivative is being added.
    label: String,
}

/// `program` with the derivative that `wish` asks for.
///
/// # Errors
/// E0521 where there is no such output or input, or the output is no number; E0522 for an op that has
/// no derivative on the way.
pub fn grad(program: Program, wish: &Gradient) -> Result<Program, CompileError> {
    let fault = |message: String| CompileError::new("E0521", message).about(Asked::Gradient);
    let names = |ports: &[Port]| -> String {
        let names: Vec<String> = ports.iter().map(|port| format!("%{}", port.name)).collect();
        names.join(", ")
    };
    let found = program.outputs.iter().find(|port| port.name == wish.of);
    let Some(Port { value: of, .. }) = found.cloned() else {
        let error = fault(format!("there is no output %{} to differentiate", wish.of));
        return Err(error.help(format!("the outputs are {}", names(&program.outputs))));
    };
    let ty = program.ty(of).clone();
    if ty.elements() != 1 || !matches!(ty.dtype, DType::F32 | DType::F64) {
        let error = fault(format!("output %{} is {ty}, not a number", wish.of));
        return Err(error.help("sum or average it to one element of f32"));
    }
    let mut chosen: Vec<Port> = Vec::new();
    for pattern in &wish.wrt {
        let fits = |port: &&Port| {
            port.branch == 0
                && matches(pattern, &port.name)
                && program.ty(port.value).dtype.is_float()
        };
        let own: Vec<Port> = program.inputs.iter().filter(fits).cloned().collect();
        if own.is_empty() {
            let error = fault(format!("no floating-point input is called \"{pattern}\""));
            let list = names(&program.inputs);
            let help = match program.inputs.len() {
                0..=12 => format!("the inputs are {list}"),
                count => {
                    format!("there are {count} inputs; weights are inputs once they are lifted")
                }
            };
            return Err(error.help(help));
        }
        own.into_iter().for_each(|port| {
            if chosen.iter().all(|other| other.value != port.value) {
                chosen.push(port);
            }
        });
    }
    let mut walk = Walk::new(program, chosen.iter().map(|port| port.value));
    let steps = walk.out.steps.len();
    walk.seed(of, wish, ty);
    walk.back(0..steps)?;
    for port in chosen {
        walk.label = format!("grad.{}", port.name);
        let ty = walk.out.ty(port.value).clone();
        let value = match walk.cotangent(port.value) {
            Some(value) => value,
            // What is differentiated does not depend on it.
            None => walk.constant(0.0, ty),
        };
        walk.out.outputs.push(Port::new(walk.label.clone(), value));
    }
    walk.out.steps[steps..].iter_mut().for_each(|step| step.stage = Stage::Backward);
    Ok(crate::simplify::simplify(walk.out))
}

impl Walk {
    fn new(program: Program, wrt: impl Iterator<Item = ValueIndex>) -> Self {
        let mut active = vec![false; program.values.len()];
        wrt.for_each(|value| active[value as usize] = true);
        let parts = vec![SmallVec::new(); program.values.len()];
        let steps = 0..program.steps.len();
        let mut walk = Self { out: program, active, parts, label: String::new() };
        walk.activate(steps);
        walk
    }

    /// Marks what depends on active values.
    fn activate(&mut self, steps: std::ops::Range<usize>) {
        self.active.resize(self.out.values.len(), false);
        self.parts.resize(self.out.values.len(), SmallVec::new());
        for step in &self.out.steps[steps] {
            let depends = step.operands.iter().any(|value| self.active[*value as usize]);
            for value in &step.results {
                self.active[*value as usize] =
                    depends && self.out.values[*value as usize].ty.dtype.is_float();
            }
        }
    }

    /// Begins with the derivative of `of` by itself, which is 1.
    fn seed(&mut self, of: ValueIndex, wish: &Gradient, ty: TensorType) {
        self.label = format!("grad.{}", wish.of);
        let seed = self.constant(1.0, ty);
        self.add_part(of, seed);
    }

    /// Walks back over `steps`.
    fn back(&mut self, steps: std::ops::Range<usize>) -> Result<(), CompileError> {
        for at in steps.rev() {
            let step = self.out.steps[at].clone();
            let needed = |value: &ValueIndex| {
                self.active[*value as usize] && !self.parts[*value as usize].is_empty()
            };
            if !step.results.iter().any(needed) {
                continue;
            }
            self.label = step.label().to_owned();
            let results: SmallVec<[Option<ValueIndex>; 1]> =
                step.results.iter().map(|value| self.cotangent(*value)).collect();
            self.rule(&step, &results)?;
        }
        Ok(())
    }

    /// Whether the derivative by `value` is wanted.
    fn wants(&self, value: ValueIndex) -> bool {
        self.active[value as usize]
    }

    /// Adds `part` to the cotangent of `value`, if that is wanted.
    fn add_part(&mut self, value: ValueIndex, part: ValueIndex) {
        if self.wants(value) {
            self.parts[value as usize].push(part);
        }
    }

    /// The cotangent of `value`: the sum of its parts, in its type.
    fn cotangent(&mut self, value: ValueIndex) -> Option<ValueIndex> {
        let parts = std::mem::take(&mut self.parts[value as usize]);
        let (ty, wide) = (self.out.ty(value).clone(), self.wide(value));
        let mut parts = parts.into_iter();
        let mut sum = parts.next()?;
        for part in parts {
            let (a, b) = (self.cast(sum, wide), self.cast(part, wide));
            sum = self.binary(BinaryFn::Add, a, b);
        }
        let sum = self.cast(sum, ty.dtype);
        // Kept as the one part, for whoever asks again.
        self.parts[value as usize] = smallvec![sum];
        Some(sum)
    }

    /// What is computed with a value: f32, or f64 for doubles.
    fn wide(&self, value: ValueIndex) -> DType {
        if self.out.ty(value).dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// Differentiates a composite as its decomposition, whose last values take the cotangents.
    fn through_parts(
        &mut self,
        step: &crate::program::ProgramStep,
        cotangents: &[Option<ValueIndex>],
    ) -> Result<(), CompileError> {
        let from = self.out.steps.len();
        let types: Vec<TensorType> = self.out.types(&step.results).into_iter().cloned().collect();
        let again = inline(&mut self.out, step, &step.operands, &types, |out, op, v, ty, label| {
            out.step(op.clone(), v, ty, label)
        });
        let to = self.out.steps.len();
        self.activate(from..to);
        for (value, cotangent) in again.iter().zip(cotangents) {
            // Where the op changes nothing on these operands, its result is an operand.
            if let Some(cotangent) = cotangent {
                self.add_part(*value, *cotangent);
            }
        }
        self.back(from..to)
    }
}

/// `program` with the weights called as `patterns` say made inputs of the same names, in f32 where they
/// are stored narrower: what is trained.
///
/// # Errors
/// E0521 for a pattern that no weight fits.
pub fn lift(program: &Program, patterns: &[String]) -> Result<Program, CompileError> {
    for pattern in patterns {
        if !program.weights.iter().any(|weight| matches(pattern, &weight.name)) {
            let names = program.weights.iter().map(|weight| weight.name.as_str());
            let some = names.clone().take(6).collect::<Vec<_>>().join(", ");
            let help = meant(pattern, "", names, || format!("weights are called {some}"));
            let message = format!("no weight is called \"{pattern}\"");
            return Err(CompileError::new("E0521", message).about(Asked::Lifted).help(help));
        }
    }
    let lifted = |name: &str| patterns.iter().any(|pattern| matches(pattern, name));
    let mut copy = Translation::new(program);
    let mut given: Vec<Option<ValueIndex>> = vec![None; program.weights.len()];
    for (at, value) in program.values.iter().enumerate() {
        let Origin::Weight(index) = value.origin else { continue };
        let weight = &program.weights[index as usize];
        if !lifted(&weight.name) {
            continue;
        }
        let ty = match weight.ty.dtype {
            DType::Bf16 | DType::F16 => weight.ty.with_dtype(DType::F32),
            _ => weight.ty.clone(),
        };
        let out = &mut copy.out;
        let own = *given[index as usize]
            .get_or_insert_with(|| out.input(&Port::new(weight.name.as_str(), 0), ty));
        copy.moved[at] = Some(as_declared(out, own, &value.ty, &weight.name));
    }
    copy.given();
    program.steps.iter().for_each(|step| copy.step(step));
    let out = copy.done();
    // Inputs and weights are numbered first.
    let same: Vec<ValueIndex> = (0..out.values.len() as u32).collect();
    Ok(out.rebuilt(&same, &vec![true; out.steps.len()]))
}

/// A lifted weight in the type and shape in which a step reads it.
fn as_declared(out: &mut Program, own: ValueIndex, ty: &TensorType, name: &str) -> ValueIndex {
    let mut value = own;
    if out.ty(value).dtype != ty.dtype {
        let narrow = out.ty(value).with_dtype(ty.dtype);
        value = out.step(Op::Cast, smallvec![value], narrow, format!("{name}.stored"));
    }
    if out.ty(value).shape != ty.shape {
        value = out.step(Op::Reshape, smallvec![value], ty.clone(), format!("{name}.shaped"));
    }
    value
}
