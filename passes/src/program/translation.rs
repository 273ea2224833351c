//! Programs that are made of others.

use super::{Origin, Port, Program, ProgramStep, ValueIndex};
use smallvec::SmallVec;

/// A program that is made of another step by step.
pub(crate) struct Translation<'p> {
    from: &'p Program,
    pub(crate) out: Program,
    /// Where each value of the other program is in this one, if it is there already.
    pub(crate) moved: Vec<Option<ValueIndex>>,
    /// The same of each weight.
    weights: Vec<Option<u32>>,
}

impl<'p> Translation<'p> {
    /// Nothing yet of `from`.
    pub(crate) fn empty(from: &'p Program) -> Self {
        let (moved, weights) = (vec![None; from.values.len()], vec![None; from.weights.len()]);
        Self { from, out: Program::default(), moved, weights }
    }

    /// The inputs of `from` and nothing else yet.
    pub(crate) fn new(from: &'p Program) -> Self {
        let mut copy = Self::empty(from);
        from.inputs.iter().for_each(|port| copy.input(port));
        copy
    }

    /// Adds an input of the other program.
    pub(crate) fn input(&mut self, port: &Port) {
        let ty = self.from.ty(port.value).clone();
        self.moved[port.value as usize] = Some(self.out.input(port, ty));
    }

    /// Adds the values of weights and what is persistent.
    pub(crate) fn given(&mut self) {
        for (at, value) in (0..).zip(&self.from.values) {
            if value.origin.is_given() {
                self.find(at);
            }
        }
    }

    /// Where a value of the other program is; weights and what is persistent are added where they are
    /// asked for.
    pub(crate) fn find(&mut self, value: ValueIndex) -> ValueIndex {
        if let Some(moved) = self.moved[value as usize] {
            return moved;
        }
        let given = &self.from.values[value as usize];
        let origin = match given.origin {
            Origin::Weight(index) => {
                Origin::Weight(*self.weights[index as usize].get_or_insert_with(|| {
                    self.out.weights.push(self.from.weights[index as usize].clone());
                    self.out.weights.len() as u32 - 1
                }))
            }
            Origin::Persistent(_) => given.origin,
            Origin::Input(_) | Origin::Step(..) => unreachable!("what is read comes first"),
        };
        let moved = self.out.value(given.ty.clone(), origin);
        self.moved[value as usize] = Some(moved);
        moved
    }

    /// What a step of the other program reads.
    pub(crate) fn operands(&mut self, step: &ProgramStep) -> SmallVec<[ValueIndex; 4]> {
        step.operands.iter().map(|value| self.find(*value)).collect()
    }

    /// `made` takes the place of what a step of the other program makes.
    pub(crate) fn made(&mut self, step: &ProgramStep, made: &[ValueIndex]) {
        for (value, made) in step.results.iter().zip(made) {
            self.moved[*value as usize] = Some(*made);
        }
    }

    /// Adds a step of the other program on these operands.
    pub(crate) fn step_on(&mut self, step: &ProgramStep, operands: SmallVec<[ValueIndex; 4]>) {
        let made = self.out.step_like(self.from, step, operands);
        self.made(step, &made);
    }

    /// Adds a step of the other program.
    pub(crate) fn step(&mut self, step: &ProgramStep) {
        let operands = self.operands(step);
        self.step_on(step, operands);
    }

    /// The program, with the outputs of the other.
    pub(crate) fn done(mut self) -> Program {
        for port in &self.from.outputs {
            let output = port.with(self.find(port.value));
            self.out.outputs.push(output);
        }
        self.out
    }
}
