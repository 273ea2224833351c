//! Partial evaluation by dependence: what does not depend on the inputs that change per step is
//! computed once, by `prepare`; `step` reads it from the persistent arena.
//!
//! On the transformer this finds the text context with every block's text keys and values, the
//! rotary table and the references' patch embedding, without being told about any of them.

use crate::CompileError;
use crate::program::{Origin, Program, ValueIndex};
use crate::rewrite::Rewrites;
use crate::simplify::simplify;
use anyid_ir::{Op, TensorType};

/// A program split in two. `prepare` has as outputs the persistent values in order; `step` reads
/// them as [`Origin::Persistent`].
#[derive(Clone, Debug, PartialEq)]
pub struct Split<P> {
    /// Runs once a request.
    pub prepare: P,
    /// Runs every step.
    pub step: P,
    /// Types of the persistent values.
    pub persistent: Vec<TensorType>,
}

/// Splits `program` by the inputs named in `varying`; all other inputs belong to `prepare`.
///
/// # Errors
/// E0503 for a name that no input has.
pub fn split(program: &Program, varying: &[&str]) -> Result<Split<Program>, CompileError> {
    split_with(program, varying, &mut Rewrites::unlimited())
}

/// [`split`], with every step that moves to `prepare` a rewrite.
///
/// # Errors
/// As [`split`].
pub fn split_with(
    program: &Program,
    varying: &[&str],
    rewrites: &mut Rewrites,
) -> Result<Split<Program>, CompileError> {
    if let Some(missing) =
        varying.iter().find(|name| !program.inputs.iter().any(|(n, _)| n == *name))
    {
        let message = format!("there is no input %{missing} to split by");
        let inputs: Vec<String> =
            program.inputs.iter().map(|(name, _)| format!("%{name}")).collect();
        let help = format!("the inputs are {}", inputs.join(", "));
        return Err(CompileError::new("E0503", message).help(help));
    }
    let mut varies = vec![false; program.values.len()];
    for (name, value) in &program.inputs {
        varies[*value as usize] = varying.contains(&name.as_str());
    }
    let is_output = |value: ValueIndex| program.outputs.iter().any(|(_, v)| *v == value);
    // A literal costs nothing to make again and would only occupy persistent memory: each side makes
    // its own, and what is made of literals does not depend on anything.
    let is_literal = |value: ValueIndex| {
        let maker = program.maker(value);
        maker.is_some_and(|step| matches!(step.op, Op::Const { .. } | Op::Iota { .. }))
    };
    for step in &program.steps {
        let depends = step.operands.iter().any(|v| varies[*v as usize] && !is_literal(*v));
        varies[step.result as usize] = depends
            || is_output(step.result)
            || is_literal(step.result)
            || !rewrites.allow("moved to prepare", &step.label);
    }
    // Constants used only by `prepare` move back there.
    let mut used_by_prepare = vec![false; program.values.len()];
    for step in &program.steps {
        if !varies[step.result as usize] {
            for operand in &step.operands {
                used_by_prepare[*operand as usize] = true;
            }
        }
    }

    let mut prepare = Side::new(program);
    let mut step = Side::new(program);
    for (name, value) in &program.inputs {
        let side = if varies[*value as usize] { &mut step } else { &mut prepare };
        side.input(name, *value);
    }
    let mut persistent = Vec::new();
    for each in &program.steps {
        let result = each.result as usize;
        if varies[result] {
            if used_by_prepare[result] && each.operands.is_empty() {
                prepare.copy(each);
            }
            for operand in &each.operands {
                let origin = program.values[*operand as usize].origin;
                let from_prepare =
                    !varies[*operand as usize] && !matches!(origin, Origin::Weight(_));
                if from_prepare && step.moved[*operand as usize].is_none() {
                    let ty = program.ty(*operand).clone();
                    let index = persistent.len() as u32;
                    persistent.push(ty.clone());
                    let name = format!("persistent.{index}");
                    prepare.output(&name, *operand);
                    let value = step.out.value(ty, Origin::Persistent(index));
                    step.moved[*operand as usize] = Some(value);
                }
            }
            step.copy(each);
        } else {
            prepare.copy(each);
        }
    }
    for (name, value) in &program.outputs {
        if step.moved[*value as usize].is_none() {
            // An output that is an unvarying input or weight: hand it through.
            let ty = program.ty(*value).clone();
            if matches!(program.values[*value as usize].origin, Origin::Weight(_)) {
                step.weight(*value);
            } else {
                let index = persistent.len() as u32;
                persistent.push(ty.clone());
                prepare.output(&format!("persistent.{index}"), *value);
                step.moved[*value as usize] = Some(step.out.value(ty, Origin::Persistent(index)));
            }
        }
        step.output(name, *value);
    }
    Ok(Split { prepare: simplify(prepare.out), step: simplify(step.out), persistent })
}

struct Side<'p> {
    program: &'p Program,
    out: Program,
    moved: Vec<Option<ValueIndex>>,
}

impl<'p> Side<'p> {
    fn new(program: &'p Program) -> Self {
        Self { program, out: Program::default(), moved: vec![None; program.values.len()] }
    }

    fn input(&mut self, name: &str, value: ValueIndex) {
        let index = self.out.inputs.len() as u32;
        let ty = self.program.ty(value).clone();
        let moved = self.out.value(ty, Origin::Input(index));
        self.out.inputs.push((name.to_owned(), moved));
        self.moved[value as usize] = Some(moved);
    }

    fn weight(&mut self, value: ValueIndex) -> ValueIndex {
        if let Some(moved) = self.moved[value as usize] {
            return moved;
        }
        let Origin::Weight(index) = self.program.values[value as usize].origin else {
            unreachable!("only weights are copied on demand")
        };
        let weight = &self.program.weights[index as usize];
        let at = self.out.weights.iter().position(|w| w.name == weight.name).unwrap_or_else(|| {
            self.out.weights.push(weight.clone());
            self.out.weights.len() - 1
        });
        let ty = self.program.ty(value).clone();
        let moved = self.out.value(ty, Origin::Weight(at as u32));
        self.moved[value as usize] = Some(moved);
        moved
    }

    fn copy(&mut self, step: &crate::program::ProgramStep) {
        if self.moved[step.result as usize].is_some() {
            return;
        }
        let operands = step
            .operands
            .iter()
            .map(|v| match self.moved[*v as usize] {
                Some(moved) => moved,
                None => self.weight(*v),
            })
            .collect();
        let ty = self.program.ty(step.result).clone();
        let result = self.out.step(step.op.clone(), operands, ty, step.label.clone());
        self.moved[step.result as usize] = Some(result);
    }

    fn output(&mut self, name: &str, value: ValueIndex) {
        let moved = match self.moved[value as usize] {
            Some(moved) => moved,
            None => self.weight(value),
        };
        self.out.outputs.push((name.to_owned(), moved));
    }
}
