//! Result types of every op: the whole type rule, used by the builder, the parser and the
//! verifier alike.
//!
//! `declared` is the type the builder or the text asks for. Ops whose result is not fixed by the
//! operands (`const`, `reshape`, a free element type …) take it from there; for all others it is
//! ignored here and compared by the verifier.

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
    if operands.len() < least || operands.len() > most {
        let expected = if least == most {
            format!("{least}")
        } else if most == usize::MAX {
            format!("at least {least}")
        } else {
            format!("{least} to {most}")
        };
        return Err(fail(
            "E0201",
            None,
            format!("{} has {} operands, expected {expected}", op.name(), operands.len()),
            match op {
                // Elsewhere these have one operand and axes.
                Op::Binary(BinaryFn::Max) if operands.len() == 1 => {
                    "the largest element along an axis is `reduce_max %x {axes=[1]}`"
                }
                _ => "see docs/ir.md for the operands of each op",
            },
        ));
    }
    Rule { op, operands, declared }.result()
}

impl Rule<'_> {
    fn declared(&self) -> Result<&TensorType, TypeError> {
        self.declared.first().ok_or_else(|| {
            fail(
                "E0202",
                None,
                format!("{} needs its result type", self.op.name()),
                "write `: dtype[shape]`",
            )
        })
    }

    fn free_dtype(&self, default: DType) -> Result<DType, TypeError> {
        let dtype = self.declared.first().map_or(default, |t| t.dtype);
        if dtype.is_float() {
            Ok(dtype)
        } else {
            Err(fail(
                "E0203",
                None,
                format!("{} cannot give {dtype}", self.op.name()),
                "its result is a floating-point tensor",
            ))
        }
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

    /// Product of attributes, which no shape bounds yet.
    fn product<const N: usize>(&self, sizes: [usize; N]) -> Result<usize, TypeError> {
        let product = sizes.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
        product.ok_or_else(|| self.attribute(format!("sizes {sizes:?}"), "keep them small"))
    }

    fn same(&self) -> Inferred {
        self.one(self.operands[0].dtype, self.operands[0].shape.iter().copied())
    }

    fn shape_error(&self, operand: usize, expected: &str, help: &str) -> TypeError {
        fail(
            "E0204",
            operand,
            format!(
                "operand {} of {} is {}, expected {expected}",
                operand,
                self.op.name(),
                self.operands[operand]
            ),
            help,
        )
    }

    fn need_shape(&self, operand: usize, shape: &[usize], help: &str) -> Result<(), TypeError> {
        if self.operands[operand].shape.as_slice() == shape {
            return Ok(());
        }
        let list: Vec<String> = shape.iter().map(usize::to_string).collect();
        Err(self.shape_error(operand, &format!("shape [{}]", list.join(",")), help))
    }

    fn need_rank(&self, operand: usize, rank: usize, help: &str) -> Result<&[usize], TypeError> {
        let shape = &self.operands[operand].shape;
        if shape.len() == rank {
            Ok(shape)
        } else {
            Err(self.shape_error(operand, &format!("{rank} axes"), help))
        }
    }

    fn need_float(&self, operand: usize) -> Result<DType, TypeError> {
        let dtype = self.operands[operand].dtype;
        if dtype.is_float() {
            Ok(dtype)
        } else {
            Err(self.dtype_error(operand, "a floating-point type"))
        }
    }

    fn need_dtype(&self, operand: usize, dtype: DType) -> Result<(), TypeError> {
        if self.operands[operand].dtype == dtype {
            Ok(())
        } else {
            Err(self.dtype_error(operand, dtype.name()))
        }
    }

    fn dtype_error(&self, operand: usize, expected: &str) -> TypeError {
        fail(
            "E0203",
            operand,
            format!(
                "operand {operand} of {} is {}, expected {expected}",
                self.op.name(),
                self.operands[operand].dtype
            ),
            "there is no implicit conversion: insert `cast`",
        )
    }

    fn attribute(&self, message: impl Into<String>, help: &str) -> TypeError {
        fail("E0205", None, format!("{}: {}", self.op.name(), message.into()), help)
    }

    fn axis(&self, axis: usize, rank: usize) -> Result<usize, TypeError> {
        if axis < rank {
            Ok(axis)
        } else {
            Err(self.attribute(
                format!("axis {axis} of a tensor with {rank} axes"),
                "axes count from 0",
            ))
        }
    }

    fn same_pair(&self) -> Result<Shape, TypeError> {
        let [a, b] = [self.operands[0], self.operands[1]];
        if a.dtype != b.dtype {
            return Err(self.dtype_error(1, a.dtype.name()));
        }
        broadcast(&a.shape, &b.shape).ok_or_else(|| {
            self.shape_error(1, &format!("a shape that goes with {a}"), "sizes must be equal or 1")
        })
    }

    fn result(&self) -> Inferred {
        let x = self.operands.first().copied();
        match self.op {
            Op::Call { .. } | Op::Repeat { .. } | Op::Yield | Op::Return => {
                Ok(self.declared.iter().cloned().collect())
            }
            Op::Weight { .. } => {
                let ty = self.declared()?;
                self.one(ty.dtype, ty.shape.iter().copied())
            }
            Op::Const { values } => {
                let ty = self.declared()?;
                if values.len() != 1
                    && (values.len() != ty.elements() || values.len() > MOST_LITERALS)
                {
                    return Err(self.attribute(
                        format!("{} values for {ty}", values.len()),
                        "one value, or one per element up to 1024; larger tables are inputs",
                    ));
                }
                let name = if values.len() == 1 { "value" } else { "values" };
                values.iter().try_for_each(|v| self.held(name, *v, ty.dtype))?;
                self.one(ty.dtype, ty.shape.iter().copied())
            }
            Op::Iota { axis } => {
                let ty = self.declared()?;
                self.axis(*axis, ty.rank())?;
                self.one(ty.dtype, ty.shape.iter().copied())
            }
            Op::Cast => {
                let to = self.declared()?.dtype;
                self.one(to, self.operands[0].shape.iter().copied())
            }
            Op::Reshape => {
                let ty = self.declared()?;
                if ty.elements() != self.operands[0].elements() {
                    return Err(fail(
                        "E0204",
                        0,
                        format!(
                            "reshape of {} ({} elements) to {ty} ({} elements)",
                            self.operands[0],
                            self.operands[0].elements(),
                            ty.elements()
                        ),
                        "a reshape keeps the number of elements",
                    ));
                }
                self.one(self.operands[0].dtype, ty.shape.iter().copied())
            }
            Op::Permute { perm } => self.permute(perm),
            Op::Broadcast => {
                let ty = self.declared()?;
                let from = self.operands[0];
                let fits = from.rank() == ty.rank()
                    && from.shape.iter().zip(&ty.shape).all(|(a, b)| a == b || *a == 1);
                if !fits {
                    return Err(self.shape_error(
                        0,
                        &format!("a shape that repeats into {ty}"),
                        "same number of axes; sizes equal or 1",
                    ));
                }
                self.one(from.dtype, ty.shape.iter().copied())
            }
            Op::Slice { axis, start, len } => {
                let ty = self.operands[0];
                let axis = self.axis(*axis, ty.rank())?;
                if start.checked_add(*len).is_none_or(|end| end > ty.shape[axis]) {
                    return Err(self.attribute(
                        format!("positions {start}..{start}+{len} of axis {axis} of {ty}"),
                        "start + len must not pass the axis",
                    ));
                }
                let mut shape = ty.shape.clone();
                shape[axis] = *len;
                self.one(ty.dtype, shape)
            }
            Op::Index { axis, at } => {
                let ty = self.operands[0];
                let axis = self.axis(*axis, ty.rank())?;
                if *at >= ty.shape[axis] {
                    return Err(self.attribute(
                        format!("position {at} of axis {axis} of {ty}"),
                        "positions count from 0",
                    ));
                }
                let mut shape = ty.shape.clone();
                shape.remove(axis);
                self.one(ty.dtype, shape)
            }
            Op::Pad { axis, lo, hi } => {
                let ty = self.operands[0];
                let axis = self.axis(*axis, ty.rank())?;
                let mut shape = ty.shape.clone();
                shape[axis] = shape[axis]
                    .checked_add(*lo)
                    .and_then(|n| n.checked_add(*hi))
                    .ok_or_else(|| self.attribute("absurd padding", "keep it small"))?;
                self.one(ty.dtype, shape)
            }
            Op::Concat { axis } => self.concat(*axis),
            Op::Gather => {
                let (table, indices) = (self.operands[0], self.operands[1]);
                self.need_dtype(1, DType::I32)?;
                if table.rank() == 0 {
                    return Err(self.shape_error(0, "at least one axis", "a table [rows, …]"));
                }
                let tail = table.shape[1..].iter().copied();
                self.one(table.dtype, indices.shape.iter().copied().chain(tail))
            }
            Op::Unary(f) => {
                if !matches!(f, UnaryFn::Neg | UnaryFn::Abs) {
                    self.need_float(0)?;
                }
                self.same()
            }
            Op::Binary(f) => {
                let shape = self.same_pair()?;
                let dtype = self.operands[0].dtype;
                if dtype == DType::Bool && !matches!(f, BinaryFn::Max | BinaryFn::Min) {
                    return Err(self.dtype_error(0, "a number"));
                }
                self.one(dtype, shape)
            }
            Op::Compare(_) => {
                let shape = self.same_pair()?;
                self.one(DType::Bool, shape)
            }
            Op::Select => {
                self.need_dtype(0, DType::Bool)?;
                let [c, a, b] = [self.operands[0], self.operands[1], self.operands[2]];
                if a.dtype != b.dtype {
                    return Err(self.dtype_error(2, a.dtype.name()));
                }
                let shape = broadcast(&a.shape, &b.shape).and_then(|s| broadcast(&s, &c.shape));
                let shape = shape.ok_or_else(|| {
                    self.shape_error(2, "shapes that go together", "sizes must be equal or 1")
                })?;
                self.one(a.dtype, shape)
            }
            Op::Reduce { axes, keep, .. } => self.reduce(axes, *keep),
            Op::Dot { transposed } => self.dot(*transposed),
            Op::Linear => self.linear(),
            Op::Attention { heads, scale, lse } => self.attention(*heads, *scale, *lse),
            Op::AttentionVjp { heads, scale, .. } => self.attention_vjp(*heads, *scale),
            Op::LayerNorm { eps } => {
                self.need_float(0)?;
                self.positive("eps", *eps, self.wide())?;
                for operand in 1..self.operands.len() {
                    self.need_float(operand)?;
                    self.need_shape(
                        operand,
                        &[self.operands[0].last()],
                        "weight and bias are [D]",
                    )?;
                }
                self.norm_result()
            }
            Op::RmsNorm { eps, .. } => {
                self.need_float(0)?;
                self.need_float(1)?;
                self.positive("eps", *eps, self.wide())?;
                self.need_shape(1, &[self.operands[0].last()], "the gain is [D]")?;
                self.norm_result()
            }
            Op::Rope { heads } => self.rope(*heads),
            Op::RopeTable { rows, cols, head_dim, theta } => {
                self.need_dtype(0, DType::I32)?;
                let frames = self.need_rank(0, 1, "temporal positions [F]")?[0];
                if *head_dim < 6 || head_dim % 2 != 0 {
                    return Err(self.attribute(
                        format!("head_dim {head_dim}"),
                        "an even number of channels, at least 6",
                    ));
                }
                self.positive("theta", *theta, DType::F64)?;
                let tokens = self.product([frames, *rows, *cols])?;
                self.one(DType::F32, [tokens, head_dim / 2, 2])
            }
            Op::Gelu | Op::GeluErf | Op::Silu => {
                self.need_float(0)?;
                self.same()
            }
            Op::Modulate => {
                self.need_float(0)?;
                self.segments(1)?;
                self.segments(2)?;
                let dtype = self.free_dtype(self.operands[0].dtype)?;
                self.one(dtype, self.operands[0].shape.iter().copied())
            }
            Op::GateAdd => {
                self.need_float(0)?;
                self.need_float(1)?;
                let shape = self.operands[0].shape.clone();
                self.need_shape(1, &shape, "the branch has the shape of the residual")?;
                self.segments(2)?;
                self.same()
            }
            Op::SegmentSum { segments } => self.segment_sum(*segments),
            Op::Conv { stride, pad } => self.conv(*stride, *pad),
            Op::Upsample { factors } => {
                let ty = self.operands[0];
                if factors.len() != ty.rank() || factors.contains(&0) {
                    return Err(self.attribute("factors", "one positive factor an axis"));
                }
                let shape: Option<Shape> =
                    ty.shape.iter().zip(factors).map(|(s, f)| s.checked_mul(*f)).collect();
                let shape =
                    shape.ok_or_else(|| self.attribute("absurd factors", "keep them small"))?;
                self.one(ty.dtype, shape)
            }
            Op::TimestepEmbedding { dim } => {
                self.need_dtype(0, DType::F32)?;
                let steps = self.need_rank(0, 1, "timesteps [G]")?[0];
                if *dim == 0 || dim % 2 != 0 || *dim > 2 * MOST_LITERALS {
                    let help = "an even number of channels, at most 2048";
                    return Err(self.attribute(format!("dim {dim}"), help));
                }
                self.one(DType::F32, [steps, *dim])
            }
            Op::RelativeBucket { buckets, max_distance } => {
                self.need_dtype(0, DType::I32)?;
                if *buckets < 4
                    || buckets % 4 != 0
                    || *buckets > 4096
                    || *max_distance <= buckets / 4
                {
                    return Err(self.attribute(
                        format!("buckets {buckets}, max_distance {max_distance}"),
                        "buckets a multiple of 4; max_distance above buckets/4",
                    ));
                }
                self.same()
            }
            Op::Patchify { patch } => {
                let x = x.expect("arity checked");
                self.need_rank(0, 4, "a latent [C,F,H,W]")?;
                let [grid, volume] = self.grid(*patch, &x.shape[1..])?;
                let channels = self.product([x.shape[0], volume])?;
                self.one(x.dtype, [grid, channels])
            }
            Op::Unpatchify { patch, grid } => {
                let rows = self.need_rank(0, 2, "tokens [N, patch·C]")?.to_vec();
                let volume = self.product(*patch)?;
                let tokens = self.product(*grid)?;
                if volume == 0 || rows[1] % volume != 0 || tokens != rows[0] {
                    return Err(self.shape_error(
                        0,
                        &format!("{tokens} tokens of a multiple of {volume} channels"),
                        "one token a patch of the grid",
                    ));
                }
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
        let message = format!("{} is no number of {dtype}", crate::text::float(value));
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

    fn norm_result(&self) -> Inferred {
        if self.operands[0].rank() == 0 {
            return Err(self.shape_error(0, "at least one axis", "norms run over the last axis"));
        }
        let dtype = self.free_dtype(self.operands[0].dtype)?;
        self.one(dtype, self.operands[0].shape.iter().copied())
    }

    fn permute(&self, perm: &[usize]) -> Inferred {
        let ty = self.operands[0];
        let mut sorted: Vec<usize> = perm.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..ty.rank()) {
            return Err(self
                .attribute(format!("{perm:?} on {ty}"), "each axis of the operand exactly once"));
        }
        self.one(ty.dtype, perm.iter().map(|axis| ty.shape[*axis]))
    }

    fn concat(&self, axis: usize) -> Inferred {
        let first = self.operands[0];
        let axis = self.axis(axis, first.rank())?;
        let mut shape = first.shape.clone();
        for (i, ty) in self.operands.iter().enumerate().skip(1) {
            if ty.dtype != first.dtype {
                return Err(self.dtype_error(i, first.dtype.name()));
            }
            let fits = ty.rank() == first.rank()
                && (0..ty.rank()).all(|a| a == axis || ty.shape[a] == first.shape[a]);
            if !fits {
                return Err(self.shape_error(
                    i,
                    &format!("a shape equal to {first} but for axis {axis}"),
                    "only the joined axis may differ",
                ));
            }
            shape[axis] += ty.shape[axis];
        }
        self.one(first.dtype, shape)
    }

    fn reduce(&self, axes: &[usize], keep: bool) -> Inferred {
        let ty = self.operands[0];
        let ascending = axes.windows(2).all(|w| w[0] < w[1]);
        if axes.is_empty() || !ascending {
            return Err(self.attribute(format!("axes {axes:?}"), "one or more axes, ascending"));
        }
        for axis in axes {
            self.axis(*axis, ty.rank())?;
        }
        let shape = (0..ty.rank()).filter_map(|axis| {
            if !axes.contains(&axis) { Some(ty.shape[axis]) } else { keep.then_some(1) }
        });
        self.one(ty.dtype, shape)
    }

    fn dot(&self, transposed: [bool; 2]) -> Inferred {
        let [a, b] = [self.operands[0], self.operands[1]];
        self.need_float(0)?;
        if a.dtype != b.dtype {
            return Err(self.dtype_error(1, a.dtype.name()));
        }
        let rank = a.rank();
        let fits = rank >= 2 && b.rank() == rank && a.shape[..rank - 2] == b.shape[..rank - 2];
        let [(m, k), (n, other)] = match fits {
            true => [sides(a, transposed[0]), sides(b, transposed[1])],
            false => [(0, 0), (0, 1)],
        };
        if k != other {
            let side = if transposed[1] { "K, N" } else { "N, K" };
            return Err(self.shape_error(
                1,
                &format!("[batch…, {side}] to go with {a}"),
                "dot is [B…,M,K] · [B…,N,K] → [B…,M,N]; `transposed` turns a side round",
            ));
        }
        let batch = a.shape[..rank - 2].iter().copied();
        self.one(self.free_dtype(a.dtype)?, batch.chain([m, n]))
    }

    fn segment_sum(&self, segments: usize) -> Inferred {
        self.need_float(0)?;
        let shape = self.need_rank(0, 2, "rows [N, D]")?.to_vec();
        self.need_dtype(1, DType::I32)?;
        self.need_shape(1, &[shape[0]], "one segment index a row")?;
        self.one(self.free_dtype(self.operands[0].dtype)?, [segments, shape[1]])
    }

    fn linear(&self) -> Inferred {
        let [x, w] = [self.operands[0], self.operands[1]];
        self.need_float(0)?;
        self.need_float(1)?;
        let help = format!(
            "linear expects weight [out, in] with in = last axis of the input ({})",
            x.last()
        );
        if x.rank() == 0 || w.rank() != 2 || w.shape[1] != x.last() {
            return Err(self.shape_error(1, &format!("[out,{}]", x.last()), &help));
        }
        if self.operands.len() == 3 {
            self.need_float(2)?;
            self.need_shape(2, &[w.shape[0]], "the bias is [out]")?;
        }
        let mut shape = x.shape.clone();
        *shape.last_mut().expect("rank checked") = w.shape[0];
        self.one(self.free_dtype(x.dtype)?, shape)
    }

    fn attention(&self, heads: usize, scale: f64, lse: bool) -> Inferred {
        let [q, k, v] = [self.operands[0], self.operands[1], self.operands[2]];
        self.need_float(0)?;
        let rank = q.rank();
        if rank != 2 && rank != 3 {
            return Err(self.shape_error(
                0,
                "[N, D] or [B, N, D]",
                "queries are rows of all heads",
            ));
        }
        for operand in [1, 2] {
            if self.operands[operand].dtype != q.dtype {
                return Err(self.dtype_error(operand, q.dtype.name()));
            }
        }
        let fits =
            k.rank() == rank && k.last() == q.last() && k.shape[..rank - 2] == q.shape[..rank - 2];
        if !fits {
            return Err(self.shape_error(
                1,
                &format!("keys to go with {q}"),
                "same batch and width",
            ));
        }
        if v.rank() != rank || v.shape[..rank - 1] != k.shape[..rank - 1] || v.last() != q.last() {
            return Err(self.shape_error(2, &format!("values to go with {k}"), "one value a key"));
        }
        if heads == 0 || q.last() % heads != 0 {
            return Err(self.attribute(
                format!("{heads} heads of {} channels", q.last()),
                "heads must divide the channels",
            ));
        }
        if !scale.is_finite() {
            let error = self.attribute(format!("a scale of {scale}"), "a finite number");
            return Err(TypeError { attribute: Some("scale"), ..error });
        }
        self.held("scale", scale, self.wide())?;
        let (nq, nk) = (q.shape[rank - 2], k.shape[rank - 2]);
        if self.operands.len() == 4 {
            if nq.saturating_add(nk) > i32::MAX as usize {
                let help = "distances are counted in i32";
                return Err(self.shape_error(3, "fewer than 2^31 columns", help));
            }
            self.need_dtype(3, DType::F32)?;
            self.need_shape(
                3,
                &[heads, (nq + nk).saturating_sub(1)],
                "a bias by key − query: [heads, Nq+Nk−1]",
            )?;
        }
        let mut types = self.one(self.free_dtype(q.dtype)?, q.shape.iter().copied())?;
        if lse {
            let dtype = if q.dtype == DType::F64 { DType::F64 } else { DType::F32 };
            let batch = q.shape[..rank - 2].iter().copied();
            types.extend(self.one(dtype, batch.chain([heads, nq]))?);
        }
        Ok(types)
    }

    /// Operands are those of the attention, its two results and the first one's cotangent, the bias
    /// last.
    fn attention_vjp(&self, heads: usize, scale: f64) -> Inferred {
        let own: SmallVec<[&TensorType; 4]> =
            self.operands[..3].iter().chain(self.operands.get(6)).copied().collect();
        let [q, k, v] = [own[0], own[1], own[2]];
        let op = Op::Attention { heads, scale, lse: true };
        let made = Rule { op: &op, operands: &own, declared: std::slice::from_ref(q) };
        let made = made.attention(heads, scale, true)?;
        for (at, what) in [(3, "what the attention gave"), (5, "its cotangent")] {
            self.need_float(at)?;
            self.need_shape(at, &q.shape, what)?;
        }
        self.need_float(4)?;
        self.need_shape(4, &made[1].shape, "the log-sum-exp of the scores")?;
        let parts = [q, k, v].into_iter().chain(self.operands.get(6).copied());
        Ok(parts.cloned().collect())
    }

    fn rope(&self, heads: usize) -> Inferred {
        let x = self.operands[0];
        self.need_float(0)?;
        self.need_dtype(1, DType::F32)?;
        let shape = self.need_rank(0, 2, "rows [N, heads·head_dim]")?.to_vec();
        if heads == 0 || shape[1] % heads != 0 || !(shape[1] / heads).is_multiple_of(2) {
            return Err(self.attribute(
                format!("{heads} heads of {} channels", shape[1]),
                "heads must divide the channels into an even number",
            ));
        }
        self.need_shape(1, &[shape[0], shape[1] / heads / 2, 2], "cos and sin of each pair")?;
        self.one(x.dtype, shape)
    }

    /// `operand` is a table `[G, D]` picked by the `seg` operand 3, which is `[N]`.
    fn segments(&self, operand: usize) -> Result<(), TypeError> {
        let x = self.operands[0];
        let shape = self.need_rank(0, 2, "rows [N, D]")?;
        let table = self.need_rank(operand, 2, "a table [G, D]")?;
        if table[1] != shape[1] {
            return Err(self.shape_error(
                operand,
                &format!("[G,{}]", x.last()),
                "one row a segment",
            ));
        }
        self.need_dtype(operand, DType::F32)?;
        self.need_dtype(3, DType::I32)?;
        self.need_shape(3, &[shape[0]], "one segment index a row")
    }

    fn conv(&self, stride: [usize; 3], pad: [[usize; 2]; 3]) -> Inferred {
        let [x, w] = [self.operands[0], self.operands[1]];
        self.need_float(0)?;
        self.need_float(1)?;
        self.need_rank(0, 4, "a clip [T,H,W,C]")?;
        let kernel = match w.shape.as_slice() {
            [_, _, kt, kh, kw] => [*kt, *kh, *kw],
            [_, _, kh, kw] => [1, *kh, *kw],
            _ => {
                return Err(self.shape_error(1, "[out,in,kt,kh,kw] or [out,in,kh,kw]", "a kernel"));
            }
        };
        if w.shape[1] != x.shape[3] {
            return Err(self.shape_error(
                1,
                &format!("[out,{},…]", x.shape[3]),
                "the kernel's second axis is the input's channels",
            ));
        }
        if self.operands.len() == 3 {
            self.need_float(2)?;
            self.need_shape(2, &[w.shape[0]], "the bias is [out]")?;
        }
        let mut shape = x.shape.clone();
        for axis in 0..3 {
            let padded =
                x.shape[axis].checked_add(pad[axis][0]).and_then(|n| n.checked_add(pad[axis][1]));
            let room = padded.and_then(|n| n.checked_sub(kernel[axis]));
            match room {
                Some(room) if stride[axis] > 0 && kernel[axis] > 0 => {
                    shape[axis] = room / stride[axis] + 1;
                }
                _ => {
                    return Err(self.attribute(
                        format!(
                            "kernel {kernel:?} over {x} with stride {stride:?} and padding {pad:?}"
                        ),
                        "the padded input must hold the kernel and strides be positive",
                    ));
                }
            }
        }
        shape[3] = w.shape[0];
        self.one(self.free_dtype(x.dtype)?, shape)
    }

    fn grid(&self, patch: [usize; 3], sizes: &[usize]) -> Result<[usize; 2], TypeError> {
        if (0..3).any(|a| patch[a] == 0 || !sizes[a].is_multiple_of(patch[a])) {
            return Err(self.attribute(
                format!("patches {patch:?} over {sizes:?}"),
                "each patch size must divide its axis",
            ));
        }
        Ok([self.product([0, 1, 2].map(|a| sizes[a] / patch[a]))?, self.product(patch)?])
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
