//! Steps of the derivative, one line each.

use super::Walk;
use crate::program::{Origin, ValueIndex};
use anyid_ir::{Axes, BinaryFn, CompareFn, DType, Op, ReduceFn, Shape, TensorType, UnaryFn, infer};
use smallvec::SmallVec;

impl Walk {
    pub(super) fn ty(&self, value: ValueIndex) -> &TensorType {
        self.out.ty(value)
    }

    pub(super) fn shape(&self, value: ValueIndex) -> Shape {
        self.out.ty(value).shape.clone()
    }

    /// Adds a step; `declared` is the type of its result where the operands leave it open.
    pub(super) fn emit(
        &mut self,
        op: Op,
        operands: &[ValueIndex],
        declared: Option<TensorType>,
    ) -> ValueIndex {
        self.emit_all(op, operands, declared.as_slice())[0]
    }

    pub(super) fn emit_all(
        &mut self,
        op: Op,
        operands: &[ValueIndex],
        declared: &[TensorType],
    ) -> SmallVec<[ValueIndex; 1]> {
        let label = format!("{}.grad.{}", self.label, op.name());
        let results = self.out.emit(op, operands, declared, &label);
        self.active.resize(self.out.values.len(), false);
        self.parts.resize(self.out.values.len(), SmallVec::new());
        results
    }

    pub(super) fn constant(&mut self, value: f64, ty: TensorType) -> ValueIndex {
        self.emit(Op::Const { values: vec![value] }, &[], Some(ty))
    }

    /// A number that goes with the elements of `like`.
    pub(super) fn number(&mut self, value: f64, like: ValueIndex) -> ValueIndex {
        self.constant(value, TensorType::new(self.ty(like).dtype, []))
    }

    pub(super) fn cast(&mut self, x: ValueIndex, dtype: DType) -> ValueIndex {
        if self.ty(x).dtype == dtype {
            return x;
        }
        let ty = self.ty(x).with_dtype(dtype);
        self.emit(Op::Cast, &[x], Some(ty))
    }

    pub(super) fn unary(&mut self, f: UnaryFn, x: ValueIndex) -> ValueIndex {
        self.emit(Op::Unary(f), &[x], None)
    }

    pub(super) fn binary(&mut self, f: BinaryFn, a: ValueIndex, b: ValueIndex) -> ValueIndex {
        self.emit(Op::Binary(f), &[a, b], None)
    }

    pub(super) fn mul(&mut self, a: ValueIndex, b: ValueIndex) -> ValueIndex {
        self.binary(BinaryFn::Mul, a, b)
    }

    pub(super) fn times(&mut self, x: ValueIndex, factor: f64) -> ValueIndex {
        let factor = self.number(factor, x);
        self.mul(x, factor)
    }

    pub(super) fn compare(&mut self, f: CompareFn, a: ValueIndex, b: ValueIndex) -> ValueIndex {
        self.emit(Op::Compare(f), &[a, b], None)
    }

    pub(super) fn select(&mut self, c: ValueIndex, yes: ValueIndex, no: ValueIndex) -> ValueIndex {
        self.emit(Op::Select, &[c, yes, no], None)
    }

    pub(super) fn reshape(&mut self, x: ValueIndex, shape: &[usize]) -> ValueIndex {
        if self.ty(x).shape.as_slice() == shape {
            return x;
        }
        let ty = TensorType::new(self.ty(x).dtype, shape.iter().copied());
        self.emit(Op::Reshape, &[x], Some(ty))
    }

    pub(super) fn sum(&mut self, x: ValueIndex, axes: Axes) -> ValueIndex {
        if axes.is_empty() {
            return x;
        }
        self.emit(Op::Reduce { f: ReduceFn::Sum, axes, keep: true }, &[x], None)
    }

    /// `x` summed over the axes along which a value of `shape` was repeated to have its shape.
    pub(super) fn unrepeated(&mut self, x: ValueIndex, shape: &[usize]) -> ValueIndex {
        let from = self.shape(x);
        let skip = from.len() - shape.len();
        let repeated = |axis: &usize| match axis.checked_sub(skip) {
            None => true,
            Some(own) => shape[own] == 1 && from[*axis] != 1,
        };
        let axes: Axes = (0..from.len()).filter(repeated).collect();
        let sums = self.sum(x, axes);
        self.reshape(sums, shape)
    }

    /// The log-sum-exp of the attention that makes `out`.
    pub(super) fn with_lse(&mut self, out: ValueIndex) -> ValueIndex {
        let Origin::Step(at, _) = self.out.values[out as usize].origin else {
            unreachable!("a step made it")
        };
        let step = &self.out.steps[at as usize];
        if let [_, lse] = step.results[..] {
            return lse;
        }
        let Op::Attention { heads, scale, last, .. } = step.op else {
            unreachable!("it is an attention")
        };
        let op = Op::Attention { heads, scale, lse: true, last };
        let types: SmallVec<[&TensorType; 4]> =
            step.operands.iter().map(|v| self.out.ty(*v)).collect();
        let made = infer(&op, &types, std::slice::from_ref(self.out.ty(out)));
        let ty = made.expect("it is one without as well").remove(1);
        drop(types);
        let lse = self.out.value(ty, Origin::Step(at, 1));
        self.active.push(false);
        self.parts.push(SmallVec::new());
        let step = &mut self.out.steps[at as usize];
        step.op = op;
        step.results.push(lse);
        step.labels.push(format!("{}.lse", step.labels[0]));
        lse
    }

    pub(super) fn dot(
        &mut self,
        transposed: [bool; 2],
        a: ValueIndex,
        b: ValueIndex,
        dtype: DType,
    ) -> ValueIndex {
        // Only the element type is taken from what is declared.
        let declared = TensorType::new(dtype, []);
        self.emit(Op::Dot { transposed }, &[a, b], Some(declared))
    }
}
