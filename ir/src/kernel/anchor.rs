//! Products, attention and convolution with what is done on the way in and out.

use crate::named;
use crate::op::Op;
use crate::types::{DType, TensorType};

named! {
    /// A function on the sums of an anchor.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Activation {
        /// GELU, tanh form.
        Gelu = "gelu",
        /// x · sigmoid(x)
        Silu = "silu",
    }
}

/// What an anchor computes, with all that its operands do not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Anchor {
    /// `x · Wᵀ + b`
    Linear,
    /// Products of pairs.
    Dot {
        /// Whether a side lies the other way round: `[B…, K, M]`, `[B…, K, N]`.
        transposed: [bool; 2],
    },
    /// Multi-head softmax attention.
    Attention {
        /// Number of heads.
        heads: usize,
        /// Factor on the scores.
        scale: f64,
        /// Whether the logarithm of each softmax's sum is a second result.
        lse: bool,
        /// How many times the last key counts.
        last: usize,
    },
    /// The derivative of an attention.
    AttentionVjp {
        /// Its number of heads.
        heads: usize,
        /// Its factor on the scores.
        scale: f64,
        /// Whether it has a bias.
        bias: bool,
        /// How many times its last key counts.
        last: usize,
    },
    /// Convolution over `[T, H, W, C]`.
    Conv {
        /// Stride of time, rows, columns.
        stride: [usize; 3],
        /// Zeros in front of and behind time, rows, columns.
        pad: [[usize; 2]; 3],
    },
    /// Sums of the rows of each segment.
    SegmentSum {
        /// Number of segments.
        segments: usize,
    },
}

impl Anchor {
    /// The anchor of `op`, if it is one of these.
    pub fn of(op: &Op) -> Option<Self> {
        Some(match *op {
            Op::Linear => Self::Linear,
            Op::Dot { transposed } => Self::Dot { transposed },
            Op::Attention { heads, scale, lse, last } => {
                Self::Attention { heads, scale, lse, last }
            }
            Op::AttentionVjp { heads, scale, bias, last } => {
                Self::AttentionVjp { heads, scale, bias, last }
            }
            Op::Conv { stride, pad } => Self::Conv { stride, pad },
            Op::SegmentSum { segments } => Self::SegmentSum { segments },
            _ => return None,
        })
    }

    /// The op that it is.
    pub fn op(self) -> Op {
        match self {
            Self::Linear => Op::Linear,
            Self::Dot { transposed } => Op::Dot { transposed },
            Self::Attention { heads, scale, lse, last } => {
                Op::Attention { heads, scale, lse, last }
            }
            Self::AttentionVjp { heads, scale, bias, last } => {
                Op::AttentionVjp { heads, scale, bias, last }
            }
            Self::Conv { stride, pad } => Op::Conv { stride, pad },
            Self::SegmentSum { segments } => Op::SegmentSum { segments },
        }
    }

    /// Its name, that of the op.
    pub fn name(self) -> &'static str {
        self.op().name()
    }

    /// How many results it has.
    pub fn results(self) -> usize {
        self.op().results()
    }
}

/// How an anchor reads operand 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Load {
    /// As it lies.
    Own,
    /// Nearest neighbours of a clip `[T,H,W,C]`: where the op asks for element (t, h, w, c), that at
    /// (t/f₀, h/f₁, w/f₂, c) is read. The larger clip is never in memory.
    Nearest([usize; 3]),
}

impl Load {
    /// What the op sees of an operand of type `ty`; `None` where that has no such elements.
    pub fn seen(self, ty: &TensorType) -> Option<TensorType> {
        let mut ty = ty.clone();
        if let Self::Nearest(factors) = self {
            if ty.rank() != 4 {
                return None;
            }
            for (size, factor) in ty.shape.iter_mut().zip(factors) {
                *size = size.checked_mul(factor)?;
            }
        }
        Some(ty)
    }
}

/// How the finished value `v` of an anchor meets its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Combine {
    /// `v`
    Store,
    /// `residual + v`; the residual is the last operand.
    Add,
    /// `residual + v · gate[segment]`; operands end with residual, gate table, segments.
    GateAdd {
        /// Elements before the table's first row.
        offset: usize,
        /// Elements from one row of the table to the next.
        stride: usize,
    },
}

/// A product, attention or convolution, how it reads its first operand, and what happens to its sums
/// on the way out: bias (an operand of the op), activation, combination, rounding to the result's
/// type.
///
/// Of several results of an op the first is the sums; others are stored as they are.
///
/// The sums are f32 by definition. Where level 1 names a narrower type for a value in between, it is
/// rounded to that type: so the bits are those of the ops one by one.
#[derive(Clone, Debug, PartialEq)]
pub struct AnchorKernel {
    /// Names of the ops it was made of, joined with `+`.
    pub name: String,
    /// What each part computes.
    pub anchor: Anchor,
    /// Operands of one part. Parts share operand 0; the operands are operand 0, then
    /// operands 1.. of each part, then those of the combination.
    pub arity: usize,
    /// How many ops of this form it computes, each with results of its own.
    pub parts: usize,
    /// How operand 0 is read.
    pub load: Load,
    /// What the sums with their bias are rounded to before anything else happens.
    pub sums: Option<DType>,
    /// Applied to the sums after the bias.
    pub activation: Option<Activation>,
    /// What the activation gives is rounded to this before it is combined.
    pub activated: Option<DType>,
    /// Applied last.
    pub combine: Combine,
}

impl AnchorKernel {
    /// `anchor` on `arity` operands with nothing fused.
    pub fn plain(anchor: Anchor, arity: usize) -> Self {
        let name = anchor.name().to_owned();
        let (load, combine) = (Load::Own, Combine::Store);
        let (sums, activation, activated) = (None, None, None);
        Self { name, anchor, arity, parts: 1, load, sums, activation, activated, combine }
    }

    /// Number of operands.
    pub fn operands(&self) -> usize {
        let combine = match self.combine {
            Combine::Store => 0,
            Combine::Add => 1,
            Combine::GateAdd { .. } => 3,
        };
        self.own_operands() + combine
    }

    /// Number of results: those of the first part, then of the second, ….
    pub fn results(&self) -> usize {
        self.parts.saturating_mul(self.anchor.results())
    }

    /// Operands before those of the combination.
    pub fn own_operands(&self) -> usize {
        1 + self.parts.saturating_mul(self.arity.saturating_sub(1))
    }

    /// Position of the residual, if there is one.
    pub fn residual_operand(&self) -> Option<usize> {
        (self.combine != Combine::Store).then_some(self.own_operands())
    }

    /// Position of operand `operand` of part `part`; the first is the same for all.
    pub fn part_operand(&self, part: usize, operand: usize) -> usize {
        if operand == 0 { 0 } else { part * self.arity.saturating_sub(1) + operand }
    }

    /// Whether it is its op and nothing else.
    pub fn is_plain(&self) -> bool {
        self.parts == 1
            && self.load == Load::Own
            && self.sums.is_none()
            && self.activation.is_none()
            && self.combine == Combine::Store
    }
}
