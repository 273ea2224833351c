//! Level 2: kernels, the unit a backend launches.
//!
//! There are five classes, and nothing else runs. A [`RowKernel`] is a straight-line program over the
//! rows of one shared space (elementwise kernels are row kernels without reductions); an
//! [`AnchorKernel`] is a product, attention or convolution with a load and an epilogue; a
//! [`CopyKernel`] moves elements by strides; a gather picks rows of a table; a [`Fill`] makes a
//! tensor of numbers alone. A kernel names its operands and results by position: the step that
//! launches it binds buffers to them. Text form in [`mod@text`], rules in [`mod@verify`], what a
//! device can do in [`mod@target`] and [`mod@support`].

mod anchor;
mod columns;
mod copy;
mod fill;
pub(crate) mod parse;
pub mod support;
pub mod target;
pub mod text;
pub mod verify;

use crate::named;
use crate::op::{BinaryFn, CompareFn, Op, UnaryFn};
use crate::types::{DType, TensorType};
use smallvec::{SmallVec, smallvec};

pub use anchor::{Activation, Anchor, AnchorKernel, Combine, Load};
pub use copy::{Axes, CopyKernel, MOST_AXES, Part, copies, looked};
pub use fill::Fill;
pub use support::{FORWARD, NATIVE, Native};
pub use target::{
    EpilogueSupport, KernelLimits, LoadSupport, Machine, RowFusion, RowSplit, Sizes, Target,
};

/// What one step of a plan runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Kernel {
    /// A straight-line program over rows.
    Row(RowKernel),
    /// A product, attention or convolution with its epilogue.
    Anchor(AnchorKernel),
    /// Strided parts of the operands put together.
    Copy(CopyKernel),
    /// Rows of table operand 0 picked by the `i32` indices of operand 1.
    Gather,
    /// A tensor made of numbers.
    Fill(Fill),
}

impl Kernel {
    /// Name for tables and traces: an op's name, or those of the ops fused, joined with `+`.
    pub fn name(&self) -> &str {
        match self {
            Self::Row(kernel) => &kernel.name,
            Self::Anchor(kernel) => &kernel.name,
            Self::Copy(kernel) => &kernel.name,
            Self::Gather => Op::Gather.name(),
            Self::Fill(fill) => fill.name(),
        }
    }

    /// Whether result `result` may be written over operand `operand`, whose buffer it then is:
    /// every byte of the operand is read before, or by the same row that writes it.
    pub fn writes_in_place(&self, operand: usize, result: usize) -> bool {
        match self {
            Self::Row(kernel) => kernel.writes_in_place(operand, result),
            Self::Anchor(kernel) => kernel.residual_operand() == Some(operand) && result == 0,
            Self::Copy(_) | Self::Gather | Self::Fill(_) => false,
        }
    }
}

/// A register of a row kernel: the value made by the instruction of this index.
pub type Register = u16;

/// Which row of an operand belongs to row `i` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowMap {
    /// Row `i / divisor % modulus`.
    Affine {
        /// Consecutive rows that share one row of the operand; at least 1.
        divisor: usize,
        /// Rows of the operand before they repeat; `usize::MAX` where they do not.
        modulus: usize,
    },
    /// One row for all.
    Fixed,
    /// The row that `i32` operand of this position names for row `i`.
    Segment(usize),
}

impl RowMap {
    /// Row `i` itself.
    pub const OWN: Self = Self::Affine { divisor: 1, modulus: usize::MAX };
}

/// Which element of its row belongs to column `j`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Columns {
    /// Element `j`: a vector.
    All,
    /// Element 0 for every column: a per-row scalar.
    One,
    /// Element `j % period`: a vector that repeats.
    Every(usize),
    /// Element `j · step`, in the scalar form alone.
    Step(usize),
}

/// How a row kernel reads an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// Position of the operand.
    pub operand: usize,
    /// Row of the operand for each row.
    pub rows: RowMap,
    /// Element for each column.
    pub columns: Columns,
    /// Elements before the first row.
    pub offset: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

impl Access {
    /// Whether row `i` is row `i` of a dense tensor with `width` elements a row, of which all are read
    /// or the first.
    pub fn is_own(&self, width: usize) -> bool {
        let plain = matches!(self.columns, Columns::All | Columns::One);
        plain && (self.rows, self.offset, self.stride) == (RowMap::OWN, 0, width)
    }
}

/// Elementwise functions of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowFn {
    /// A primitive of level 1.
    Primitive(UnaryFn),
    /// GELU, tanh form.
    Gelu,
    /// x · sigmoid(x)
    Silu,
}

impl RowFn {
    /// Name in kernel text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primitive(f) => f.name(),
            Self::Gelu => "gelu",
            Self::Silu => "silu",
        }
    }
}

named! {
    /// Reductions over a row, in f32.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum RowReduce {
        /// Σ x
        Sum = "sum",
        /// Σ x / width
        Mean = "mean",
        /// Largest element; NaN if any is
        Max = "max_over",
        /// Σ x²
        SumSquares = "sum_squares",
        /// Σ x² / width
        MeanSquares = "mean_squares",
    }
}

/// One instruction. All but `Store` make the register of their index, in the kernel's arithmetic: a
/// vector over the columns, or a scalar where every operand is one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Instruction {
    /// An operand's row.
    Load(Access),
    /// The same number everywhere; a scalar.
    Const(f32),
    /// `f(x)`
    Unary(RowFn, Register),
    /// `f(a, b)`
    Binary(BinaryFn, Register, Register),
    /// `a · b + c`, rounded once where the machine can.
    Fma(Register, Register, Register),
    /// 1 where it holds, else 0.
    Compare(CompareFn, Register, Register),
    /// `condition ≠ 0 ? a : b`
    Select(Register, Register, Register),
    /// A scalar for each row of a vector.
    Reduce(RowReduce, Register),
    /// Neighbouring columns `(a, b)` turned by the neighbours `(cos, sin)` of the second.
    Rotate(Register, Register),
    /// Rounded to an element type and widened again.
    Round(DType, Register),
    /// Writes a register to the own row of a result; a scalar fills it.
    Store {
        /// Position of the result.
        result: usize,
        /// What is written.
        value: Register,
    },
}

impl Instruction {
    /// Registers read.
    pub fn reads(mut self) -> SmallVec<[Register; 3]> {
        self.registers().into_iter().map(|register| *register).collect()
    }

    /// Registers read, to be changed.
    pub fn registers(&mut self) -> SmallVec<[&mut Register; 3]> {
        match self {
            Self::Load(_) | Self::Const(_) => smallvec![],
            Self::Unary(_, x) | Self::Reduce(_, x) | Self::Round(_, x) => smallvec![x],
            Self::Binary(_, a, b) | Self::Compare(_, a, b) | Self::Rotate(a, b) => smallvec![a, b],
            Self::Fma(a, b, c) | Self::Select(a, b, c) => smallvec![a, b, c],
            Self::Store { value, .. } => smallvec![value],
        }
    }
}

/// A straight-line program that every row of a space runs by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct RowKernel {
    /// Names of the ops it was made of, joined with `+`.
    pub name: String,
    /// Rows of the space.
    pub rows: usize,
    /// Columns of a row.
    pub width: usize,
    /// What registers hold: f32, or in the scalar form, which is for all other element types, f64,
    /// or i32 (doubles that are whole numbers; divided with the fraction cut off, by zero to 0).
    pub arithmetic: DType,
    /// Types of the operands.
    pub operands: Vec<TensorType>,
    /// Types of the results: `width` elements a row, or one.
    pub results: Vec<TensorType>,
    /// The program; stores stand at its end.
    pub code: Vec<Instruction>,
}

impl RowKernel {
    /// Elements a row of result `result` (which must be there) has: the width, or 1.
    pub fn result_width(&self, result: usize) -> usize {
        self.results[result].elements() / self.rows.max(1)
    }

    /// Whether a register is a scalar per row rather than a vector, for all registers.
    pub fn scalars(&self) -> Vec<bool> {
        let mut scalars: Vec<bool> = Vec::with_capacity(self.code.len());
        for instruction in &self.code {
            let scalar = match instruction {
                Instruction::Load(access) => access.columns == Columns::One,
                Instruction::Const(_) | Instruction::Reduce(..) => true,
                other => other.reads().iter().all(|r| scalars[*r as usize]),
            };
            scalars.push(scalar);
        }
        scalars
    }

    fn writes_in_place(&self, operand: usize, result: usize) -> bool {
        let (Some(from), Some(to)) = (self.operands.get(operand), self.results.get(result)) else {
            return false;
        };
        let alike = from.dtype == to.dtype && from.elements() == to.elements();
        let vector = self.arithmetic == DType::F32 && self.result_width(result) == self.width;
        let reads = |instruction: &Instruction| match instruction {
            Instruction::Load(access) => {
                let own = access.is_own(self.width) && access.columns == Columns::All;
                let segments = access.rows == RowMap::Segment(operand);
                !segments && (access.operand != operand || own)
            }
            _ => true,
        };
        alike && vector && self.code.iter().all(reads)
    }
}
