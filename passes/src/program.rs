//! A straight-line program in single-assignment form: the shape every later pass works on.
//!
//! Values are numbered; a step reads values and makes one. Inputs, weights and persistent values
//! are values without a step. Nothing is placed in memory yet.

use anyid_ir::plan::WeightRef;
use anyid_ir::{Op, TensorType};
use smallvec::SmallVec;

/// Index of a value.
pub type ValueIndex = u32;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Made by the step of this index.
    Step(u32),
    /// Input of this index.
    Input(u32),
    /// Weight of this index in [`Program::weights`]; the value's type may be another shape of it.
    Weight(u32),
    /// Value of this index in the persistent arena's list.
    Persistent(u32),
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramValue {
    /// Element type and shape.
    pub ty: TensorType,
    /// Its origin.
    pub origin: Origin,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramStep {
    /// What it does; never a structure op or a weight.
    pub op: Op,
    /// Values read.
    pub operands: SmallVec<[ValueIndex; 4]>,
    /// Value made.
    pub result: ValueIndex,
    /// Scope and value name, such as `blocks.3/q1`.
    pub label: String,
}

/// The program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// All values.
    pub values: Vec<ProgramValue>,
    /// Steps in order.
    pub steps: Vec<ProgramStep>,
    /// Names and values of the inputs.
    pub inputs: Vec<(String, ValueIndex)>,
    /// Names and values of the outputs.
    pub outputs: Vec<(String, ValueIndex)>,
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

    /// Adds a step and its result.
    pub fn step(
        &mut self,
        op: Op,
        operands: SmallVec<[ValueIndex; 4]>,
        ty: TensorType,
        label: String,
    ) -> ValueIndex {
        let result = self.value(ty, Origin::Step(self.steps.len() as u32));
        self.steps.push(ProgramStep { op, operands, result, label });
        result
    }
}
