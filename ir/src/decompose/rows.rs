//! Composites that work on each row or element by itself: norms, rotation, activations,
//! modulation.

use super::Parts;
use crate::entity::ValueId;
use crate::op::{BinaryFn, CompareFn, ReduceFn, UnaryFn};
use crate::types::{DType, TensorType};

/// Below this both activations are zero in every type; above it nothing overflows to a NaN.
const LOWEST: f64 = -1e4;

impl Parts<'_, '_> {
    /// `(x − mean) / √(mean((x − mean)²) + eps) · w + b`.
    pub(super) fn layer_norm(&mut self, operands: &[ValueId], eps: f64) -> ValueId {
        let x = self.widen(operands[0]);
        let mean = self.reduce_last("mean", ReduceFn::Mean, x);
        let centered = self.sub("centered", x, mean);
        let square = self.b.mul("square", centered, centered);
        let variance = self.reduce_last("variance", ReduceFn::Mean, square);
        let variance = self.plus("variance_eps", variance, eps);
        let scale = self.b.unary("scale", UnaryFn::Rsqrt, variance);
        let mut y = self.b.mul("normal", centered, scale);
        let affine = [("weighted", BinaryFn::Mul), ("biased", BinaryFn::Add)];
        for (operand, (name, f)) in operands[1..].iter().zip(affine) {
            let operand = self.widen(*operand);
            y = self.b.binary(name, f, y, operand);
        }
        self.finish(y)
    }

    /// `x / √(mean x² + eps) · g`, or with `clamp` `x / max(‖x‖, eps) · √D · g`.
    ///
    /// For a bf16 result everything up to the one cast at the end is f32. The reference model
    /// rounds to bf16 once more before the gain; that difference is within bf16 noise.
    pub(super) fn rms_norm(&mut self, operands: &[ValueId], eps: f64, clamp: bool) -> ValueId {
        let x = self.widen(operands[0]);
        let gain = self.widen(operands[1]);
        let square = self.b.mul("square", x, x);
        let normal = if clamp {
            let total = self.reduce_last("total", ReduceFn::Sum, square);
            let norm = self.b.unary("norm", UnaryFn::Sqrt, total);
            let least = self.scalar("least", eps);
            let norm = self.b.binary("norm", BinaryFn::Max, norm, least);
            let unit = self.div("unit", x, norm);
            let channels = self.result.last() as f64;
            self.times("normal", unit, channels.sqrt())
        } else {
            let mean = self.reduce_last("mean_square", ReduceFn::Mean, square);
            let mean = self.plus("mean_square_eps", mean, eps);
            let scale = self.b.unary("scale", UnaryFn::Rsqrt, mean);
            self.b.mul("normal", x, scale)
        };
        let y = self.b.mul("gained", normal, gain);
        self.finish(y)
    }

    /// Neighbouring channels `(a, b)` of each head to `(a cos − b sin, a sin + b cos)`.
    pub(super) fn rope(&mut self, operands: &[ValueId], heads: usize) -> ValueId {
        let x = self.widen(operands[0]);
        let table = self.widen(operands[1]);
        let rows = self.result.shape[0];
        let pairs = self.result.last() / heads / 2;
        let x = self.reshape("pairs", x, [rows, heads, pairs, 2]);
        let a = self.b.index("a", x, 3, 0);
        let b = self.b.index("b", x, 3, 1);
        let cos = self.b.index("cos", table, 2, 0);
        let cos = self.reshape("cos", cos, [rows, 1, pairs]);
        let sin = self.b.index("sin", table, 2, 1);
        let sin = self.reshape("sin", sin, [rows, 1, pairs]);
        let (a_cos, b_sin) = (self.b.mul("a_cos", a, cos), self.b.mul("b_sin", b, sin));
        let (a_sin, b_cos) = (self.b.mul("a_sin", a, sin), self.b.mul("b_cos", b, cos));
        let first = self.sub("first", a_cos, b_sin);
        let second = self.b.add("second", a_sin, b_cos);
        let turned = self.pair("turned", first, second);
        self.finish(turned)
    }

    /// `½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    pub(super) fn gelu(&mut self, x: ValueId) -> ValueId {
        let x = self.above_lowest(x);
        let square = self.b.mul("square", x, x);
        let cube = self.b.mul("cube", square, x);
        let cube = self.times("cube_part", cube, 0.044715);
        let inner = self.b.add("inner", x, cube);
        let inner = self.times("argument", inner, (2.0 / std::f64::consts::PI).sqrt());
        let gate = self.b.unary("tanh", UnaryFn::Tanh, inner);
        self.gated_half(x, gate)
    }

    /// `½ x (1 + gate)`.
    fn gated_half(&mut self, x: ValueId, gate: ValueId) -> ValueId {
        let gate = self.plus("gate", gate, 1.0);
        let half = self.times("half", x, 0.5);
        let y = self.b.mul("gelu", half, gate);
        self.finish(y)
    }

    /// `½ x (1 + erf(x/√2))`.
    pub(super) fn gelu_erf(&mut self, x: ValueId) -> ValueId {
        let x = self.above_lowest(x);
        let inner = self.times("argument", x, std::f64::consts::FRAC_1_SQRT_2);
        let gate = self.b.unary("erf", UnaryFn::Erf, inner);
        self.gated_half(x, gate)
    }

    /// `x / (1 + e⁻ˣ)`.
    pub(super) fn silu(&mut self, x: ValueId) -> ValueId {
        let x = self.above_lowest(x);
        let negative = self.b.unary("negative", UnaryFn::Neg, x);
        let power = self.b.unary("power", UnaryFn::Exp, negative);
        let divisor = self.plus("divisor", power, 1.0);
        let y = self.div("silu", x, divisor);
        self.finish(y)
    }

    /// Keeps −∞ from meeting a zero factor: the result is a NaN for a NaN only.
    fn above_lowest(&mut self, x: ValueId) -> ValueId {
        let x = self.widen(x);
        let lowest = self.scalar("lowest", LOWEST);
        self.b.binary("x", BinaryFn::Max, x, lowest)
    }

    /// `n · (1 + scale[seg]) + shift[seg]` on operands `n, shift, scale, seg`.
    pub(super) fn modulate(&mut self, operands: &[ValueId]) -> ValueId {
        let n = self.widen(operands[0]);
        let shift = self.segment_rows("shift", operands[1], operands[3]);
        let scale = self.segment_rows("scale", operands[2], operands[3]);
        let factor = self.plus("factor", scale, 1.0);
        let scaled = self.b.mul("scaled", n, factor);
        let y = self.b.add("modulated", scaled, shift);
        self.finish(y)
    }

    /// `x + o · gate[seg]` on operands `x, o, gate, seg`.
    pub(super) fn gate_add(&mut self, operands: &[ValueId]) -> ValueId {
        let x = self.widen(operands[0]);
        let branch = self.widen(operands[1]);
        let gate = self.segment_rows("gate", operands[2], operands[3]);
        let gated = self.b.mul("gated", branch, gate);
        let y = self.b.add("sum", x, gated);
        self.finish(y)
    }

    /// Row `g` is the sum of the rows whose segment is `g`, in their order.
    pub(super) fn segment_sum(&mut self, operands: &[ValueId], segments: usize) -> ValueId {
        let x = self.widen(operands[0]);
        let (rows, width) = (self.b.shape(x)[0], self.b.shape(x)[1]);
        let x = self.reshape("rows", x, [1, rows, width]);
        let own = self.b.iota("segments", 0, TensorType::new(DType::I32, [segments, 1, 1]));
        let of = self.reshape("of", operands[1], [1, rows, 1]);
        let its = self.b.compare("its", CompareFn::Eq, own, of);
        let zero = self.scalar("zero", 0.0);
        let taken = self.select("taken", its, x, zero);
        self.b.reduce("sums", ReduceFn::Sum, taken, &[1], false)
    }

    fn segment_rows(&mut self, name: &str, table: ValueId, segments: ValueId) -> ValueId {
        let table = self.widen(table);
        self.gather(name, table, segments)
    }
}
