//! The derivative of every op: what the cotangents of its results add to those of its operands.

use super::Walk;
use crate::CompileError;
use crate::program::{ProgramStep, ValueIndex};
use anyid_ir::{Axes, BinaryFn, CompareFn, DType, Op, TensorType};

impl Walk {
    /// Adds the parts that `step` contributes. `cotangents` are those of its results, `None` for
    /// one that what is differentiated does not depend on.
    pub(super) fn rule(
        &mut self,
        step: &ProgramStep,
        cotangents: &[Option<ValueIndex>],
    ) -> Result<(), CompileError> {
        let (x, y) = (step.operands.first().copied().unwrap_or_default(), step.result());
        let Some(d) = cotangents[0].or(cotangents.last().copied().flatten()) else { return Ok(()) };
        match &step.op {
            // None of these has a floating-point operand.
            Op::Const { .. } | Op::Iota { .. } | Op::Compare(_) | Op::RelativeBucket { .. } => {}
            Op::Cast => {
                let part = self.cast(d, self.ty(x).dtype);
                self.add_part(x, part);
            }
            Op::Reshape => {
                let part = self.reshape(d, &self.shape(x));
                self.add_part(x, part);
            }
            Op::Permute { perm } => {
                let mut back = Axes::from_elem(0, perm.len());
                perm.iter().enumerate().for_each(|(to, from)| back[*from] = to);
                let part = self.emit(Op::Permute { perm: back }, &[d], None);
                self.add_part(x, part);
            }
            Op::Broadcast => {
                let part = self.wide_sum(d, x);
                self.add_part(x, part);
            }
            Op::Slice { axis, start, len } => {
                let hi = self.shape(x)[*axis] - start - len;
                let part = self.emit(Op::Pad { axis: *axis, lo: *start, hi }, &[d], None);
                self.add_part(x, part);
            }
            Op::Index { axis, at } => {
                let mut shape = self.shape(d);
                shape.insert(*axis, 1);
                let one = self.reshape(d, &shape);
                let hi = self.shape(x)[*axis] - at - 1;
                let part = self.emit(Op::Pad { axis: *axis, lo: *at, hi }, &[one], None);
                self.add_part(x, part);
            }
            Op::Pad { axis, lo, .. } => {
                let (axis, start, len) = (*axis, *lo, self.shape(x)[*axis]);
                let part = self.emit(Op::Slice { axis, start, len }, &[d], None);
                self.add_part(x, part);
            }
            Op::Concat { axis } => {
                let (axis, mut start) = (*axis, 0);
                for value in &step.operands {
                    let len = self.shape(*value)[axis];
                    if self.wants(*value) {
                        let part = self.emit(Op::Slice { axis, start, len }, &[d], None);
                        self.add_part(*value, part);
                    }
                    start += len;
                }
            }
            Op::Gather => self.gather(step, d),
            Op::Unary(f) => self.unary_rule(*f, x, y, d, step)?,
            Op::Binary(f) => self.binary_rule(*f, [x, step.operands[1]], y, d),
            Op::Select => {
                let zero = self.number(0.0, d);
                for (at, [yes, no]) in [(1, [d, zero]), (2, [zero, d])] {
                    let value = step.operands[at];
                    if self.wants(value) {
                        let taken = self.select(x, yes, no);
                        let part = self.wide_sum(taken, value);
                        self.add_part(value, part);
                    }
                }
            }
            Op::Reduce { f, axes, .. } => self.reduce_rule(*f, axes, x, y, d),
            Op::Dot { transposed } => self.dot_rule(*transposed, [x, step.operands[1]], d),
            Op::Linear => self.linear(step, d),
            Op::Rope { heads } if !self.wants(step.operands[1]) => {
                let table = self.turned_back(step.operands[1]);
                let part = self.emit(Op::Rope { heads: *heads }, &[d, table], None);
                self.add_part(x, part);
            }
            Op::Modulate => self.modulate(step, d),
            Op::GateAdd => self.gate_add(step, d),
            Op::SegmentSum { segments } => {
                // Rows of segments that are not there get that of a zero.
                let of = step.operands[1];
                let (zero, last) = (self.number(0.0, of), self.number(*segments as f64, of));
                let before = self.compare(CompareFn::Lt, of, zero);
                let of = self.binary(BinaryFn::Min, of, last);
                let of = self.select(before, last, of);
                let table = self.emit(Op::Pad { axis: 0, lo: 0, hi: 1 }, &[d], None);
                let part = self.emit(Op::Gather, &[table, of], None);
                let part = self.cast(part, self.ty(x).dtype);
                self.add_part(x, part);
            }
            Op::Attention { heads, scale, last, .. }
                if cotangents.get(1).is_none_or(Option::is_none) =>
            {
                let bias = step.operands.len() == 4;
                let (heads, scale, last) = (*heads, *scale, *last);
                self.attention(step, d, Op::AttentionVjp { heads, scale, bias, last });
            }
            Op::Conv { stride, pad } => self.conv(step, d, *stride, *pad),
            Op::Silu => self.silu(x, d),
            Op::Attention { .. }
            | Op::AttentionVjp { .. }
            | Op::LayerNorm { .. }
            | Op::RmsNorm { .. }
            | Op::Rope { .. }
            | Op::RopeTable { .. }
            | Op::Gelu
            | Op::GeluErf
            | Op::Upsample { .. }
            | Op::TimestepEmbedding { .. }
            | Op::Patchify { .. }
            | Op::Unpatchify { .. } => self.through_parts(step, cotangents)?,
            Op::Weight { .. } | Op::Call { .. } | Op::Repeat { .. } | Op::Yield | Op::Return => {
                unreachable!("programs are straight and read weights as values")
            }
        }
        Ok(())
    }

    /// `x` summed over what repeats in it to have the shape of `value`, in wide arithmetic.
    pub(super) fn wide_sum(&mut self, x: ValueIndex, value: ValueIndex) -> ValueIndex {
        let shape = self.shape(value);
        if self.shape(x) == shape {
            return x;
        }
        let wide = self.cast(x, self.wide(x));
        self.unrepeated(wide, &shape)
    }

    fn gather(&mut self, step: &ProgramStep, d: ValueIndex) {
        let (table, rows) = (step.operands[0], step.operands[1]);
        let shape = self.shape(table);
        let (segments, width) = (shape[0], shape[1..].iter().product());
        let count = self.ty(rows).elements();
        let flat = self.reshape(d, &[count, width]);
        let rows = self.reshape(rows, &[count]);
        let ty = TensorType::new(self.wide(table), [segments, width]);
        let sums = self.emit(Op::SegmentSum { segments }, &[flat, rows], Some(ty));
        let part = self.reshape(sums, &shape);
        self.add_part(table, part);
    }

    /// Of `A · Bᵀ` by A it is `D · B`, by B it is `Dᵀ · A`: everything is read as it lies, and what is
    /// contracted of A and B is the axis that stayed.
    fn dot_rule(
        &mut self,
        [turned_a, turned_b]: [bool; 2],
        [a, b]: [ValueIndex; 2],
        d: ValueIndex,
    ) {
        let d = self.cast(d, self.ty(a).dtype);
        if self.wants(a) {
            let dtype = self.ty(a).dtype;
            let part = match turned_a {
                false => self.dot([false, !turned_b], d, b, dtype),
                true => self.dot([!turned_b, false], b, d, dtype),
            };
            self.add_part(a, part);
        }
        if self.wants(b) {
            let dtype = self.ty(b).dtype;
            let part = match turned_b {
                false => self.dot([true, !turned_a], d, a, dtype),
                true => self.dot([!turned_a, true], a, d, dtype),
            };
            self.add_part(b, part);
        }
    }

    /// What products of `x` and `w` are computed in back: as they are themselves, in bf16 where both
    /// operands are.
    pub(super) fn product_type(&self, x: ValueIndex, w: ValueIndex) -> DType {
        let same = self.ty(x).dtype == self.ty(w).dtype;
        let doubles = [x, w].iter().any(|value| self.wide(*value) == DType::F64);
        match same {
            true => self.ty(x).dtype,
            false if doubles => DType::F64,
            false => DType::F32,
        }
    }

    fn linear(&mut self, step: &ProgramStep, d: ValueIndex) {
        let (x, w) = (step.operands[0], step.operands[1]);
        let shape = self.shape(x);
        let (inputs, outputs) = (self.ty(x).last(), self.shape(w)[0]);
        let rows = self.ty(x).elements() / inputs.max(1);
        let flat = self.reshape(d, &[rows, outputs]);
        let dtype = self.product_type(x, w);
        if self.wants(x) {
            let (own, w) = (self.cast(flat, dtype), self.cast(w, dtype));
            let part = self.dot([false, true], own, w, self.ty(x).dtype);
            let part = self.reshape(part, &shape);
            self.add_part(x, part);
        }
        if self.wants(w) {
            let own = self.cast(flat, dtype);
            let rows = self.reshape(x, &[rows, inputs]);
            let rows = self.cast(rows, dtype);
            let part = self.dot([true, true], own, rows, self.wide(w));
            self.add_part(w, part);
        }
        if let Some(bias) = step.operands.get(2).copied().filter(|bias| self.wants(*bias)) {
            let part = self.wide_sum(flat, bias);
            self.add_part(bias, part);
        }
    }

    /// From the result and the log-sum-exp, which the attention gives from now on.
    fn attention(&mut self, step: &ProgramStep, d: ValueIndex, vjp: Op) {
        let lse = self.with_lse(step.result());
        let mut operands = step.operands.to_vec();
        operands.splice(3..3, [step.result(), lse, d]);
        let parts = self.emit_all(vjp, &operands, &[]);
        for (value, part) in step.operands.iter().zip(parts) {
            self.add_part(*value, part);
        }
    }

    /// The rotary table that turns the other way.
    fn turned_back(&mut self, table: ValueIndex) -> ValueIndex {
        let ty = TensorType::new(self.ty(table).dtype, [1, 1, 2]);
        let signs = self.emit(Op::Const { values: vec![1.0, -1.0] }, &[], Some(ty));
        self.mul(table, signs)
    }

    /// Of `n · (1 + scale[seg]) + shift[seg]`.
    fn modulate(&mut self, step: &ProgramStep, d: ValueIndex) {
        let [n, shift, scale, segments] = [0, 1, 2, 3].map(|at| step.operands[at]);
        if self.wants(n) {
            let zero = self.constant(0.0, self.ty(shift).clone());
            let ty = self.ty(n).clone();
            let part = self.emit(Op::Modulate, &[d, zero, scale, segments], Some(ty));
            self.add_part(n, part);
        }
        if self.wants(shift) {
            self.segments(d, segments, shift);
        }
        if self.wants(scale) {
            let dtype = self.wide(scale);
            let (d, n) = (self.cast(d, dtype), self.cast(n, dtype));
            let product = self.mul(d, n);
            self.segments(product, segments, scale);
        }
    }

    /// Of `x + o · gate[seg]`.
    fn gate_add(&mut self, step: &ProgramStep, d: ValueIndex) {
        let [x, o, gate, segments] = [0, 1, 2, 3].map(|at| step.operands[at]);
        self.add_part(x, d);
        if self.wants(o) {
            let zero = self.constant(0.0, self.ty(d).clone());
            let part = self.emit(Op::GateAdd, &[zero, d, gate, segments], None);
            self.add_part(o, part);
        }
        if self.wants(gate) {
            let dtype = self.wide(gate);
            let (d, o) = (self.cast(d, dtype), self.cast(o, dtype));
            let product = self.mul(d, o);
            self.segments(product, segments, gate);
        }
    }

    /// The sums of the rows of `x` of each segment go to `table`.
    fn segments(&mut self, x: ValueIndex, segments: ValueIndex, table: ValueIndex) {
        let ty = self.ty(table).clone();
        let op = Op::SegmentSum { segments: ty.shape[0] };
        let part = self.emit(op, &[x, segments], Some(ty));
        self.add_part(table, part);
    }
}
