//! Programs that are made of others.

use super::{Program, ProgramStep, ValueIndex};
use smallvec::SmallVec;

/// A program that is made of another step by step.
pub(crate) struct Translation<'p> {
    from: &'p Program,
    pub(crate) out: Program,
    /// Where each value of the other program is in this one; `ValueIndex::MAX` for all that are to come.
    pub(crate) moved: Vec<ValueIndex>,
}

impl<'p> Translation<'p> {
    /// The inputs and weights of `from` and nothing else yet.
    pub(crate) fn new(from: &'p Program) -> Self {
        let mut out = Program { weights: from.weights.clone(), ..Program::default() };
        let mut moved = vec![ValueIndex::MAX; from.values.len()];
        for port in &from.inputs {
            moved[port.value as usize] = out.input(port, from.ty(port.value).clone());
        }
        Self { from, out, moved }
    }

    /// Adds the values of weights and what is persistent.
    pub(crate) fn given(&mut self) {
        for (at, value) in self.from.values.iter().enumerate() {
            if value.origin.is_given() {
                self.moved[at] = self.out.value(value.ty.clone(), value.origin);
            }
        }
    }

    /// What a step of the other program reads.
    pub(crate) fn operands(&self, step: &ProgramStep) -> SmallVec<[ValueIndex; 4]> {
        step.operands.iter().map(|value| self.moved[*value as usize]).collect()
    }

    /// `made` takes the place of what a step of the other program makes.
    pub(crate) fn made(&mut self, step: &ProgramStep, made: &[ValueIndex]) {
        for (value, made) in step.results.iter().zip(made) {
            self.moved[*value as usize] = *made;
        }
    }

    /// Adds a step of the other program on these operands.
    pub(crate) fn step_on(&mut self, step: &ProgramStep, operands: SmallVec<[ValueIndex; 4]>) {
        let made = self.out.step_like(self.from, step, operands);
        self.made(step, &made);
    }

    /// Adds a step of the other program.
    pub(crate) fn step(&mut self, step: &ProgramStep) {
        self.step_on(step, self.operands(step));
    }

    /// The program, with the outputs of the other.
    pub(crate) fn done(mut self) -> Program {
        let outputs = self.from.outputs.iter();
        self.out.outputs = outputs.map(|p| p.with(self.moved[p.value as usize])).collect();
        self.out
    }
}
