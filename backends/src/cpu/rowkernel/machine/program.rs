//! What machine code is made of: a row kernel as operations on vectors of sixteen lanes.
//!
//! Values are numbered by the operation that makes them. A kernel has stages, as the interpreter's
//! code has, and a stage numbers (once a block, over the rows) and vectors (once a row). Whether two
//! kernels have the same code is whether their programs are equal.

use anyid_ir::DType;
use anyid_ir::kernel::RowReduce;

/// Vectors that a loop over columns works on in one turn: as many as sums have.
pub(super) const TURN: usize = 4;

/// An operand of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// What an operation has made.
    Value(u16),
    /// The same bits in every lane.
    Const(u32),
    /// The row's own number of a scalar, in every lane.
    Scalar(u16),
    /// A row of `f32`, where it lies.
    Row(u16),
}

/// Functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum One {
    Sqrt,
    /// Nearest integer.
    Round,
    /// To f16 and back.
    Half,
    /// Lanes 0, 0, 2, 2, ..
    Even,
    /// Lanes 1, 1, 3, 3, ..
    Odd,
    /// Lanes 1, 0, 3, 2, ..
    Swap,
}

/// Functions of two operands, as the instructions have them: the larger and the smaller are the
/// second where one is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Two {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    And,
    Or,
    Xor,
    /// Sum of integers.
    Count,
    /// first · 2^second
    Scale,
}

impl Two {
    /// Whether the sides may be exchanged. Only which of two NaNs remains depends on them.
    pub fn turns(self) -> bool {
        matches!(self, Self::Add | Self::Mul | Self::And | Self::Or | Self::Xor | Self::Count)
    }
}

/// Questions to two operands, answered lane by lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Test {
    Equal,
    Less,
    LessOrEqual,
    /// Not equal, or NaN.
    Differs,
    /// Neither is NaN.
    Ordered,
    /// One is NaN.
    Unordered,
    /// They have a bit in common.
    Bits,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Op {
    /// A row, which repeats after so many elements if that is said.
    Load {
        pointer: u16,
        dtype: DType,
        period: Option<usize>,
    },
    /// The numbers of a scalar for the rows of the block.
    Number(u16),
    One(One, Source),
    Two(Two, Source, Source),
    /// first · second + third
    Fma(Source, Source, Source),
    /// first · second - third in even lanes, + third in odd ones
    Turn(Source, Source, Source),
    /// A mask.
    Test(Test, Source, Source),
    /// In lanes of the mask f(second, third), in others the first.
    Masked(Two, u16, Source, Source, Source),
    /// In lanes of the mask the second, in others the first.
    Blend(u16, Source, Source),
    /// A row of a result; bf16 in the upper halves of the lanes.
    Store {
        pointer: u16,
        dtype: DType,
        streamed: bool,
        value: Source,
    },
    /// The numbers of a scalar.
    Keep(u16, Source),
    /// Added to the sums of a reduction.
    Reduce(RowReduce, u16, Source),
}

impl Op {
    /// What it reads, masks apart.
    pub fn sources(&self) -> impl Iterator<Item = Source> + use<> {
        let (a, b, c) = match *self {
            Self::Load { .. } | Self::Number(_) => (None, None, None),
            Self::One(_, a)
            | Self::Keep(_, a)
            | Self::Reduce(_, _, a)
            | Self::Store { value: a, .. } => (Some(a), None, None),
            Self::Two(_, a, b) | Self::Test(_, a, b) | Self::Blend(_, a, b) => {
                (Some(a), Some(b), None)
            }
            Self::Fma(a, b, c) | Self::Turn(a, b, c) | Self::Masked(_, _, a, b, c) => {
                (Some(a), Some(b), Some(c))
            }
        };
        [a, b, c].into_iter().flatten()
    }

    /// The mask it reads.
    pub fn mask(&self) -> Option<u16> {
        match *self {
            Self::Masked(_, mask, ..) | Self::Blend(mask, ..) => Some(mask),
            _ => None,
        }
    }
}

/// What rows a pointer goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pointer {
    Load(usize),
    Result(usize),
}

/// Rows that are asked for: a pointer, bytes of an element.
pub(super) type Asked = (u16, usize);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Stage {
    /// Once a block.
    pub numbers: Vec<Op>,
    /// Once a row, for each turn of columns.
    pub vectors: Vec<Op>,
    /// Reductions finished at the end of a row, and the scalar of each.
    pub finished: Vec<(RowReduce, u16)>,
    /// Rows that are asked for, a block behind the one that is worked on.
    pub asked: Vec<Asked>,
}

/// The one element that a result has for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Single {
    Const(u32),
    Scalar(usize),
}

/// A row kernel for the generator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::cpu::rowkernel) struct Program {
    pub(super) width: usize,
    /// Whether a row may be several tasks.
    pub(super) split: bool,
    /// Numbers of a scalar.
    pub(super) pitch: usize,
    /// Rows of a block.
    pub(super) block: usize,
    pub(super) pointers: Vec<Pointer>,
    /// Scalars that are loads.
    pub(super) numbers: Vec<(usize, usize)>,
    pub(super) singles: Vec<(usize, Single)>,
    pub(super) stages: Vec<Stage>,
}

impl Program {
    /// Rows of pointers that code is given: a block, and the one behind it if rows are asked for.
    pub(super) fn pointer_rows(&self) -> usize {
        let later = self.stages.iter().any(|stage| !stage.asked.is_empty());
        self.block * (1 + usize::from(later))
    }

    /// Whether rows of a pointer are asked for a block ahead.
    pub(super) fn later(&self, pointer: usize) -> bool {
        let mut stages = self.stages.iter();
        stages.any(|stage| stage.asked.iter().any(|(own, _)| usize::from(*own) == pointer))
    }

    /// Bytes of them.
    pub(in crate::cpu::rowkernel) fn pointer_bytes(&self) -> usize {
        self.pointer_rows() * self.pointers.len() * size_of::<*const u8>()
    }
}
