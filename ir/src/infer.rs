//! Result types of every op: the whole type rule, used by the builder, the parser and the
//! verifier alike.
//!
//! `declared` is the type the builder or the text asks for. Ops whose result is not fixed by the
//! operands (`const`, `reshape`, a free element type …) take it from there; for all others it is
//! ignored here and compared by the verifier.

mod rules;

use crate::op::{BinaryFn, Op, UnaryFn};
use crate::types::{DType, Shape, TensorType};
use smallvec::SmallVec;

/// Why an op is ill-typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeError {
    /// Diagnostic code.
    pub code: &'static str,
    /// The operand at fault, if one is.
    pub operand: Option<usize>,
    /// The attribute at fault, if one is known by name.
    pub attribute: Option<&'static str>,
    /// What is wrong.
    pub message: String,
    /// What the op expects.
    pub help: String,
}

/// Result types of one op.
pub type Inferred = Result<SmallVec<[TensorType; 1]>, TypeError>;

fn fail(
    code: &'static str,
    operand: impl Into<Option<usize>>,
    message: String,
    help: &str,
) -> TypeError {
    TypeError { code, operand: operand.into(), attribute: None, message, help: help.to_owned() }
}

/// Shape after NumPy-style broadcasting, or `None`.
pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Shape> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |axis| s[axis]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// Size of the axis of a side of `dot` that stays, and of the one that is summed over.
pub fn sides(ty: &TensorType, transposed: bool) -> (usize, usize) {
    let [first, last] = [ty.shape[ty.rank() - 2], ty.last()];
    if transposed { (last, first) } else { (first, last) }
}

/// Most elements a literal may list.
const MOST_LITERALS: usize = 1024;

struct Rule<'a> {
    op: &'a Op,
    operands: &'a [&'a TensorType],
    declared: &'a [TensorType],
}

/// Result types of `op` on `operands`.
///
/// Structure ops (`call`, `repeat`, `yield`, `return`) are typed by the verifier, which knows the
/// module; here they return `declared`.
pub fn infer(op: &Op, operands: &[&TensorType], declared: &[TensorType]) -> Inferred {
    let (least, most) = op.arity();
    if (least..=most).contains(&operands.len()) {
        return Rule { op, operands, declared }.result();
    }
    let expected = match most {
        _ if least == most => format!("{least}"),
        usize::MAX => format!("at least {least}"),
        _ => format!("{least} to {most}"),
    };
    let help = match op {
        // Elsewhere these have one operand and axes.
        Op::Binary(BinaryFn::Max) if operands.len() == 1 => {
            "the largest element along an axis is `reduce_max %x {axes=[1]}`"
        }
        _ => "see docs/ir.md for the operands of each op",
    };
    let message = format!("{} has {} operands, expected {expected}", op.name(), operands.len());
    Err(fail("E0201", None, message, help))
}

impl Rule<'_> {
    fn declared(&self) -> Result<&TensorType, TypeError> {
        self.declared.first().ok_or_else(|| {
            let message = format!("{} needs its result type", self.op.name());
            fail("E0202", None, message, "write `: dtype[shape]`")
        })
    }

    fn free_dtype(&self, default: DType) -> Result<DType, TypeError> {
        let dtype = self.declared.first().map_or(default, |t| t.dtype);
        let message = || format!("{} cannot give {dtype}", self.op.name());
        let error = || fail("E0203", None, message(), "its result is a floating-point tensor");
        dtype.is_float().then_some(dtype).ok_or_else(error)
    }

    fn one(&self, dtype: DType, shape: impl IntoIterator<Item = usize>) -> Inferred {
        let ty = TensorType::new(dtype, shape);
        // Bounds keep every later product of sizes inside 64 bits.
        let elements = ty.shape.iter().try_fold(1usize, |n, s| n.checked_mul(*s));
        match elements {
            Some(n) if n < 1 << 48 => Ok(smallvec::smallvec![ty]),
            _ => Err(fail("E0208", None, format!("{ty} is too large"), "at most 2^48 elements")),
        }
    }

    /// The shape of operand 0 in another element type.
    fn shaped(&self, dtype: DType) -> Inferred {
        self.one(dtype, self.operands[0].shape.iter().copied())
    }

    /// The type of operand 0.
    fn same(&self) -> Inferred {
        self.shaped(self.operands[0].dtype)
    }

    /// Product of attributes, which no shape bounds yet.
    fn product<const N: usize>(&self, sizes: [usize; N]) -> Result<usize, TypeError> {
        let product = sizes.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
        product.ok_or_else(|| self.attribute(format!("sizes {sizes:?}"), "keep them small"))
    }

    fn shape_error(&self, operand: usize, expected: &str, help: &str) -> TypeError {
        let (op, given) = (self.op.name(), self.operands[operand]);
        let message = format!("operand {operand} of {op} is {given}, expected {expected}");
        fail("E0204", operand, message, help)
    }

    /// E0204 unless operand `operand` has the shape that is expected.
    fn need(
        &self,
        operand: usize,
        holds: bool,
        expected: impl FnOnce() -> String,
        help: &str,
    ) -> Result<(), TypeError> {
        if holds { Ok(()) } else { Err(self.shape_error(operand, &expected(), help)) }
    }

    fn need_shape(&self, operand: usize, shape: &[usize], help: &str) -> Result<(), TypeError> {
        let list = || shape.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let same = self.operands[operand].shape.as_slice() == shape;
        self.need(operand, same, || format!("shape [{}]", list()), help)
    }

    fn need_rank(&self, operand: usize, rank: usize, help: &str) -> Result<&[usize], TypeError> {
        let shape = &self.operands[operand].shape;
        self.need(operand, shape.len() == rank, || format!("{rank} axes"), help)?;
        Ok(shape)
    }

    /// E0203 unless operand `operand` has the element type that is expected.
    fn need_type(&self, operand: usize, holds: bool, expected: &str) -> Result<(), TypeError> {
        if holds {
            return Ok(());
        }
        let (op, given) = (self.op.name(), self.operands[operand].dtype);
        let message = format!("operand {operand} of {op} is {given}, expected {expected}");
        Err(fail("E0203", operand, message, "there is no implicit conversion: insert `cast`"))
    }

    fn need_float(&self, operands: std::ops::Range<usize>) -> Result<(), TypeError> {
        let float = |at: usize| self.operands[at].dtype.is_float();
        operands
            .into_iter()
            .try_for_each(|at| self.need_type(at, float(at), "a floating-point type"))
    }

    fn need_dtype(&self, operand: usize, dtype: DType) -> Result<(), TypeError> {
        self.need_type(operand, self.operands[operand].dtype == dtype, dtype.name())
    }

    fn attribute(&self, message: impl Into<String>, help: &str) -> TypeError {
        fail("E0205", None, format!("{}: {}", self.op.name(), message.into()), help)
    }

    /// E0205 unless an attribute is as it has to be.
    fn allow(
        &self,
        holds: bool,
        message: impl FnOnce() -> String,
        help: &str,
    ) -> Result<(), TypeError> {
        if holds { Ok(()) } else { Err(self.attribute(message(), help)) }
    }

    fn axis(&self, axis: usize, rank: usize) -> Result<usize, TypeError> {
        let message = || format!("axis {axis} of a tensor with {rank} axes");
        self.allow(axis < rank, message, "axes count from 0")?;
        Ok(axis)
    }

    fn same_pair(&self) -> Result<Shape, TypeError> {
        let [a, b] = [self.operands[0], self.operands[1]];
        self.need_dtype(1, a.dtype)?;
        broadcast(&a.shape, &b.shape).ok_or_else(|| {
            self.shape_error(1, &format!("a shape that goes with {a}"), "sizes must be equal or 1")
        })
    }

    fn result(&self) -> Inferred {
        match self.op {
            Op::Call { .. } | Op::Repeat { .. } | Op::Yield | Op::Return => {
                Ok(self.declared.iter().cloned().collect())
            }
            Op::Weight { .. } => {
                let ty = self.declared()?;
                self.one(ty.dtype, ty.shape.iter().copied())
            }
            Op::Const { values } => self.literal(values),
            Op::Iota { axis } => {
                let ty = self.declared()?;
                self.axis(*axis, ty.rank())?;
                self.one(ty.dtype, ty.shape.iter().copied())
            }
            Op::Cast => self.shaped(self.declared()?.dtype),
            Op::Reshape => self.reshape(),
            Op::Permute { perm } => self.permute(perm),
            Op::Broadcast => {
                let (from, ty) = (self.operands[0], self.declared()?);
                let fits = from.rank() == ty.rank()
                    && from.shape.iter().zip(&ty.shape).all(|(a, b)| a == b || *a == 1);
                let help = "same number of axes; sizes equal or 1";
                self.need(0, fits, || format!("a shape that repeats into {ty}"), help)?;
                self.one(from.dtype, ty.shape.iter().copied())
            }
            Op::Slice { axis, start, len } => self.along(*axis, |ty, axis| {
                let fits = start.checked_add(*len).is_some_and(|end| end <= ty.shape[axis]);
                let message = || format!("positions {start}..{start}+{len} of axis {axis} of {ty}");
                self.allow(fits, message, "start + len must not pass the axis")?;
                Ok(Some(*len))
            }),
            Op::Index { axis, at } => self.along(*axis, |ty, axis| {
                let message = || format!("position {at} of axis {axis} of {ty}");
                self.allow(*at < ty.shape[axis], message, "positions count from 0")?;
                Ok(None)
            }),
            Op::Pad { axis, lo, hi } => self.along(*axis, |ty, axis| {
                let padded = ty.shape[axis].checked_add(*lo).and_then(|n| n.checked_add(*hi));
                padded.map(Some).ok_or_else(|| self.attribute("absurd padding", "keep it small"))
            }),
            Op::Concat { axis } => self.concat(*axis),
            Op::Gather => {
                let (table, indices) = (self.operands[0], self.operands[1]);
                self.need_dtype(1, DType::I32)?;
                self.need(0, table.rank() > 0, || "at least one axis".into(), "a table [rows, …]")?;
                let tail = table.shape[1..].iter().copied();
                self.one(table.dtype, indices.shape.iter().copied().chain(tail))
            }
            Op::Unary(UnaryFn::Neg | UnaryFn::Abs) => self.same(),
            Op::Unary(_) | Op::Gelu | Op::GeluErf | Op::Silu => {
                self.need_float(0..1)?;
                self.same()
            }
            Op::Binary(f) => {
                let (shape, dtype) = (self.same_pair()?, self.operands[0].dtype);
                let chosen = matches!(f, BinaryFn::Max | BinaryFn::Min);
                self.need_type(0, dtype != DType::Bool || chosen, "a number")?;
                self.one(dtype, shape)
            }
            Op::Compare(_) => self.one(DType::Bool, self.same_pair()?),
            Op::Select => {
                self.need_dtype(0, DType::Bool)?;
                let [c, a, b] = [self.operands[0], self.operands[1], self.operands[2]];
                self.need_dtype(2, a.dtype)?;
                let shape = broadcast(&a.shape, &b.shape).and_then(|s| broadcast(&s, &c.shape));
                let shape = shape.ok_or_else(|| {
                    self.shape_error(2, "shapes that go together", "sizes must be equal or 1")
                })?;
                self.one(a.dtype, shape)
            }
            Op::Reduce { axes, keep, .. } => self.reduce(axes, *keep),
            Op::Dot { transposed } => self.dot(*transposed),
            Op::Linear => self.linear(),
            Op::Attention { heads, scale, lse, last } => {
                self.attention(*heads, *scale, *lse, *last)
            }
            Op::AttentionVjp { heads, scale, last, .. } => {
                self.attention_vjp(*heads, *scale, *last)
            }
            Op::LayerNorm { eps } => self.norm(*eps, "weight and bias are [D]"),
            Op::RmsNorm { eps, .. } => self.norm(*eps, "the gain is [D]"),
            Op::Rope { heads } => self.rope(*heads),
            Op::RopeTable { rows, cols, head_dim, theta } => {
                self.need_dtype(0, DType::I32)?;
                let frames = self.need_rank(0, 1, "temporal positions [F]")?[0];
                let help = "an even number of channels, at least 6";
                let fits = *head_dim >= 6 && head_dim % 2 == 0;
                self.allow(fits, || format!("head_dim {head_dim}"), help)?;
                self.positive("theta", *theta, DType::F64)?;
                let tokens = self.product([frames, *rows, *cols])?;
                self.one(DType::F32, [tokens, head_dim / 2, 2])
            }
            Op::Modulate => {
                self.need_float(0..1)?;
                self.segments(1)?;
                self.segments(2)?;
                self.shaped(self.free_dtype(self.operands[0].dtype)?)
            }
            Op::GateAdd => {
                self.need_float(0..2)?;
                let help = "the branch has the shape of the residual";
                self.need_shape(1, &self.operands[0].shape, help)?;
                self.segments(2)?;
                self.same()
            }
            Op::SegmentSum { segments } => {
                self.need_float(0..1)?;
                let shape = self.need_rank(0, 2, "rows [N, D]")?;
                self.need_dtype(1, DType::I32)?;
                self.need_shape(1, &shape[..1], "one segment index a row")?;
                self.one(self.free_dtype(self.operands[0].dtype)?, [*segments, shape[1]])
            }
            Op::Conv { stride, pad } => self.conv(*stride, *pad),
            Op::Upsample { factors } => {
                let ty = self.operands[0];
                let fits = factors.len() == ty.rank() && !factors.contains(&0);
                self.allow(fits, || "factors".into(), "one positive factor an axis")?;
                let shape: Option<Shape> =
                    ty.shape.iter().zip(factors).map(|(s, f)| s.checked_mul(*f)).collect();
                let absurd = || self.attribute("absurd factors", "keep them small");
                self.one(ty.dtype, shape.ok_or_else(absurd)?)
            }
            Op::TimestepEmbedding { dim } => {
                self.need_dtype(0, DType::F32)?;
                let steps = self.need_rank(0, 1, "timesteps [G]")?[0];
                let fits = *dim > 0 && dim % 2 == 0 && *dim <= 2 * MOST_LITERALS;
                let help = "an even number of channels, at most 2048";
                self.allow(fits, || format!("dim {dim}"), help)?;
                self.one(DType::F32, [steps, *dim])
            }
            Op::RelativeBucket { buckets, max_distance } => {
                self.need_dtype(0, DType::I32)?;
                let fits =
                    (4..=4096).contains(buckets) && buckets % 4 == 0 && *max_distance > buckets / 4;
                let message = || format!("buckets {buckets}, max_distance {max_distance}");
                let help = "buckets a multiple of 4; max_distance above buckets/4";
                self.allow(fits, message, help)?;
                self.same()
            }
            Op::Patchify { patch } => {
                let x = self.operands[0];
                self.need_rank(0, 4, "a latent [C,F,H,W]")?;
                let [grid, volume] = self.grid(*patch, &x.shape[1..])?;
                let channels = self.product([x.shape[0], volume])?;
                self.one(x.dtype, [grid, channels])
            }
            Op::Unpatchify { patch, grid } => {
                let rows = self.need_rank(0, 2, "tokens [N, patch·C]")?;
                let (volume, tokens) = (self.product(*patch)?, self.product(*grid)?);
                let fits = volume > 0 && rows[1] % volume == 0 && tokens == rows[0];
                let expected = || format!("{tokens} tokens of a multiple of {volume} channels");
                self.need(0, fits, expected, "one token a patch of the grid")?;
                let axis = |a: usize| self.product([grid[a], patch[a]]);
                let shape = [rows[1] / volume, axis(0)?, axis(1)?, axis(2)?];
                self.one(self.operands[0].dtype, shape)
            }
        }
    }

    /// The type in which a composite computes: that of its decomposition.
    fn wide(&self) -> DType {
        let mut types = self.operands.iter().copied().chain(self.declared);
        if types.any(|ty| ty.dtype == DType::F64) { DType::F64 } else { DType::F32 }
    }

    /// E0211 unless `value`, of attribute `name`, is a number of `dtype`.
    fn held(&self, name: &'static str, value: f64, dtype: DType) -> Result<(), TypeError> {
        let Some(why) = dtype.refusal(value) else { return Ok(()) };
        let message = format!("{} is not a number of {dtype}", crate::text::float(value));
        let help = format!("{why}; `cast` is the only conversion");
        Err(TypeError { attribute: Some(name), ..fail("E0211", None, message, &help) })
    }

    fn positive(&self, name: &'static str, value: f64, dtype: DType) -> Result<(), TypeError> {
        if value > 0.0 && value.is_finite() {
            return self.held(name, value, dtype);
        }
        let error =
            self.attribute(format!("{value} is not a positive number"), "a positive number");
        Err(TypeError { attribute: Some(name), ..error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_attributes_are_errors_not_overflows() {
        let code = |op: Op, dtype, shape: &[usize]| {
            let ty = TensorType::new(dtype, shape.iter().copied());
            infer(&op, &[&ty], &[]).map_err(|e| e.code)
        };
        let large = 1 << 40;
        let patch = [large, large, 1];
        assert_eq!(code(Op::Patchify { patch }, DType::F32, &[1, 0, 0, 1]), Err("E0205"));
        let op = Op::Unpatchify { patch, grid: [1, 1, 1] };
        assert_eq!(code(op, DType::F32, &[1, 4]), Err("E0205"));
        let op = Op::Unpatchify { patch: [1, 1, 1], grid: [large, large, 0] };
        assert_eq!(code(op, DType::F32, &[0, 4]), Err("E0205"));
        let op = Op::RopeTable { rows: large, cols: large, head_dim: 8, theta: 1.0 };
        assert_eq!(code(op, DType::I32, &[2]), Err("E0205"));
    }
}
