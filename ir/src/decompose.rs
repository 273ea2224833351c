//! What every composite op means: its decomposition into primitives.
//!
//! The decomposition *is* the definition. The interpreter runs nothing else, and a backend's kernel
//! for a composite is right when it agrees with it within rounding. Arithmetic is done in f32, or
//! in f64 where an operand or the result is f64, and cast to the result's element type once at the
//! end. Primitives are left as they are; functions, loops and calls are not looked into.

mod layout;
mod matrix;
mod rows;
mod tables;

#[cfg(test)]
mod tests;

pub use tables::{bucket_thresholds, timestep_frequency};

use crate::builder::FuncBuilder;
use crate::entity::ValueId;
use crate::graph::{Func, Module};
use crate::op::{BinaryFn, Op, ReduceFn};
use crate::types::{DType, TensorType};

/// Adds the primitives that stand for `op` on `operands` to `builder`; the values returned have the
/// types `results` and may be operands themselves where the op changes nothing. A primitive is added
/// as it is.
///
/// Panics, as the builder does, where `op` does not hold on the operands' types. Structure ops
/// have bodies and are not for this function.
pub fn decompose(
    op: &Op,
    builder: &mut FuncBuilder<'_>,
    operands: &[ValueId],
    results: &[TensorType],
) -> Vec<ValueId> {
    let result = &results[0];
    let doubles =
        result.dtype == DType::F64 || operands.iter().any(|v| builder.ty(*v).dtype == DType::F64);
    let wide = if doubles { DType::F64 } else { DType::F32 };
    let mut parts = Parts { b: builder, wide, result };
    let made = match op {
        Op::Linear => parts.linear(operands),
        Op::Attention { heads, scale, last, .. } => {
            return parts.attention(operands, *heads, (*scale, *last), results.get(1));
        }
        Op::AttentionVjp { heads, scale, last, .. } => {
            return parts.attention_vjp(operands, results, *heads, (*scale, *last));
        }
        Op::LayerNorm { eps } => parts.layer_norm(operands, *eps),
        Op::RmsNorm { eps, clamp } => parts.rms_norm(operands, *eps, *clamp),
        Op::Rope { heads } => parts.rope(operands, *heads),
        Op::RopeTable { rows, cols, head_dim, theta } => {
            parts.rope_table(operands[0], [*rows, *cols], *head_dim, *theta)
        }
        Op::Gelu => parts.gelu(operands[0]),
        Op::GeluErf => parts.gelu_erf(operands[0]),
        Op::Silu => parts.silu(operands[0]),
        Op::Modulate => parts.modulate(operands),
        Op::GateAdd => parts.gate_add(operands),
        Op::SegmentSum { segments } => {
            let sums = parts.segment_sum(operands, *segments);
            parts.finish(sums)
        }
        Op::Conv { stride, pad } => parts.conv(operands, *stride, *pad),
        Op::Upsample { factors } => parts.upsample(operands[0], factors),
        Op::TimestepEmbedding { dim } => parts.timestep_embedding(operands[0], *dim),
        Op::RelativeBucket { buckets, max_distance } => {
            parts.relative_bucket(operands[0], *buckets, *max_distance)
        }
        Op::Patchify { patch } => parts.patchify(operands[0], *patch),
        Op::Unpatchify { patch, grid } => parts.unpatchify(operands[0], *patch, *grid),
        Op::Weight { .. }
        | Op::Const { .. }
        | Op::Iota { .. }
        | Op::Cast
        | Op::Reshape
        | Op::Permute { .. }
        | Op::Broadcast
        | Op::Slice { .. }
        | Op::Index { .. }
        | Op::Pad { .. }
        | Op::Concat { .. }
        | Op::Gather
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Compare(_)
        | Op::Reduce { .. }
        | Op::Dot { .. }
        | Op::Call { .. }
        | Op::Repeat { .. }
        | Op::Yield
        | Op::Return => parts.b.op(op.name(), op.clone(), operands, Some(result.clone())),
    };
    vec![made]
}

/// The decomposition of `op` as a function of its operands: parameters of the types `operands`,
/// results of the types `results`. It holds primitives only and uses no weights. Panics as
/// [`decompose`].
pub fn decomposed(op: &Op, operands: &[TensorType], results: &[TensorType]) -> Func {
    let empty = Module::default();
    let mut builder = FuncBuilder::new(&empty, op.name());
    let params: Vec<ValueId> = operands
        .iter()
        .enumerate()
        .map(|(i, ty)| builder.param(&format!("operand{i}"), ty.clone()))
        .collect();
    let values = decompose(op, &mut builder, &params, results);
    builder.finish(&values)
}

/// One decomposition under construction.
struct Parts<'b, 'm> {
    b: &'b mut FuncBuilder<'m>,
    /// Element type of the arithmetic: f32, or f64 for doubles.
    wide: DType,
    result: &'b TensorType,
}

impl Parts<'_, '_> {
    fn shape(&self, x: ValueId) -> Vec<usize> {
        self.b.ty(x).shape.to_vec()
    }

    fn widen(&mut self, x: ValueId) -> ValueId {
        self.b.cast("wide", x, self.wide)
    }

    /// The last step: the result's shape and element type.
    fn finish(&mut self, x: ValueId) -> ValueId {
        self.finish_as(x, self.result)
    }

    /// The last step of a result of type `ty`.
    fn finish_as(&mut self, x: ValueId, ty: &TensorType) -> ValueId {
        let x = self.reshape("shaped", x, ty.shape.iter().copied());
        self.b.cast("narrow", x, ty.dtype)
    }

    fn reshape(
        &mut self,
        name: &str,
        x: ValueId,
        shape: impl IntoIterator<Item = usize>,
    ) -> ValueId {
        let shape: Vec<usize> = shape.into_iter().collect();
        if self.b.ty(x).shape.as_slice() == shape.as_slice() {
            return x;
        }
        self.b.reshape(name, x, shape)
    }

    fn scalar(&mut self, name: &str, value: f64) -> ValueId {
        self.b.scalar(name, self.wide, value)
    }

    /// `x · value`.
    fn times(&mut self, name: &str, x: ValueId, value: f64) -> ValueId {
        let factor = self.scalar("factor", value);
        self.b.mul(name, x, factor)
    }

    /// `x + value`.
    fn plus(&mut self, name: &str, x: ValueId, value: f64) -> ValueId {
        let term = self.scalar("term", value);
        self.b.add(name, x, term)
    }

    fn sub(&mut self, name: &str, a: ValueId, b: ValueId) -> ValueId {
        self.b.binary(name, BinaryFn::Sub, a, b)
    }

    fn div(&mut self, name: &str, a: ValueId, b: ValueId) -> ValueId {
        self.b.binary(name, BinaryFn::Div, a, b)
    }

    /// Reduction over the last axis, which stays with size 1.
    fn reduce_last(&mut self, name: &str, f: ReduceFn, x: ValueId) -> ValueId {
        let axis = self.b.ty(x).rank() - 1;
        self.b.reduce(name, f, x, &[axis], true)
    }

    fn dot(&mut self, name: &str, a: ValueId, b: ValueId) -> ValueId {
        self.b.op(name, Op::Dot { transposed: [false; 2] }, &[a, b], None)
    }

    fn gather(&mut self, name: &str, table: ValueId, rows: ValueId) -> ValueId {
        self.b.op(name, Op::Gather, &[table, rows], None)
    }

    fn select(&mut self, name: &str, condition: ValueId, yes: ValueId, no: ValueId) -> ValueId {
        self.b.op(name, Op::Select, &[condition, yes, no], None)
    }

    /// `a` and `b` side by side on a new last axis of size 2.
    fn pair(&mut self, name: &str, a: ValueId, b: ValueId) -> ValueId {
        let mut shape = self.shape(a);
        let axis = shape.len();
        shape.push(1);
        let a = self.reshape("first", a, shape.clone());
        let b = self.reshape("second", b, shape);
        self.b.concat(name, &[a, b], axis)
    }
}
