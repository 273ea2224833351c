//! The derivatives of elementwise functions and of reductions.

use super::Walk;
use crate::CompileError;
use crate::program::{ProgramStep, ValueIndex};
use anyid_ir::{Axes, BinaryFn, CompareFn, Op, ReduceFn, TensorType, UnaryFn};
use std::f64::consts::FRAC_2_SQRT_PI;

impl Walk {
    pub(super) fn unary_rule(
        &mut self,
        f: UnaryFn,
        x: ValueIndex,
        y: ValueIndex,
        d: ValueIndex,
        step: &ProgramStep,
    ) -> Result<(), CompileError> {
        let part = match f {
            UnaryFn::Neg => self.unary(UnaryFn::Neg, d),
            UnaryFn::Abs => {
                // The derivative at zero is zero.
                let zero = self.number(0.0, x);
                let (above, below) =
                    (self.compare(CompareFn::Gt, x, zero), self.compare(CompareFn::Lt, x, zero));
                let negative = self.unary(UnaryFn::Neg, d);
                let rest = self.select(below, negative, zero);
                self.select(above, d, rest)
            }
            UnaryFn::Exp => self.mul(d, y),
            UnaryFn::Log => self.binary(BinaryFn::Div, d, x),
            UnaryFn::Sqrt => {
                // Where a norm is held above a least one, the root of zero has no cotangent.
                let zero = self.number(0.0, d);
                let unasked = self.compare(CompareFn::Eq, d, zero);
                let half = self.times(d, 0.5);
                let part = self.binary(BinaryFn::Div, half, y);
                self.select(unasked, zero, part)
            }
            UnaryFn::Rsqrt => {
                let square = self.mul(y, y);
                let cube = self.mul(square, y);
                let part = self.mul(d, cube);
                self.times(part, -0.5)
            }
            UnaryFn::Recip => {
                let square = self.mul(y, y);
                let part = self.mul(d, square);
                self.unary(UnaryFn::Neg, part)
            }
            UnaryFn::Tanh => {
                let square = self.mul(y, y);
                let one = self.number(1.0, y);
                let slope = self.binary(BinaryFn::Sub, one, square);
                self.mul(d, slope)
            }
            UnaryFn::Sin => {
                let slope = self.unary(UnaryFn::Cos, x);
                self.mul(d, slope)
            }
            UnaryFn::Cos => {
                let slope = self.unary(UnaryFn::Sin, x);
                let part = self.mul(d, slope);
                self.unary(UnaryFn::Neg, part)
            }
            UnaryFn::Erf => {
                let square = self.mul(x, x);
                let power = self.unary(UnaryFn::Neg, square);
                let power = self.unary(UnaryFn::Exp, power);
                let slope = self.times(power, FRAC_2_SQRT_PI);
                self.mul(d, slope)
            }
            UnaryFn::Floor => {
                let message = format!("floor has no derivative, and %{} needs one", step.label());
                return Err(CompileError::new("E0522", message)
                    .at(step.label())
                    .help("cast to i32 and back where the value shall count as fixed"));
            }
        };
        self.add_part(x, part);
        Ok(())
    }

    /// σ (1 + x (1 − σ)) with σ = ½ (1 + tanh ½x): row kernels compute tanh on vectors, and eˣ, of which
    /// the definition is made, number by number.
    pub(super) fn silu(&mut self, x: ValueIndex, d: ValueIndex) {
        let wide = self.wide(x);
        let [at, d] = [x, d].map(|value| self.cast(value, wide));
        // −∞ must not meet a zero.
        let lowest = self.number(-1e4, at);
        let at = self.binary(BinaryFn::Max, at, lowest);
        let (one, half) = (self.number(1.0, at), self.number(0.5, at));
        let argument = self.mul(at, half);
        let gate = self.unary(UnaryFn::Tanh, argument);
        let gate = self.mul(gate, half);
        let gate = self.binary(BinaryFn::Add, gate, half);
        let rest = self.binary(BinaryFn::Sub, one, gate);
        let rest = self.mul(at, rest);
        let rest = self.binary(BinaryFn::Add, rest, one);
        let slope = self.mul(gate, rest);
        let part = self.mul(d, slope);
        let part = self.cast(part, self.ty(x).dtype);
        self.add_part(x, part);
    }

    pub(super) fn binary_rule(
        &mut self,
        f: BinaryFn,
        operands: [ValueIndex; 2],
        y: ValueIndex,
        d: ValueIndex,
    ) {
        let [a, b] = operands;
        for (side, value) in operands.into_iter().enumerate() {
            if !self.wants(value) {
                continue;
            }
            let part = match (f, side) {
                (BinaryFn::Add, _) | (BinaryFn::Sub, 0) => d,
                (BinaryFn::Sub, _) => self.unary(UnaryFn::Neg, d),
                (BinaryFn::Mul, 0) => self.mul(d, b),
                (BinaryFn::Mul, _) => self.mul(d, a),
                (BinaryFn::Div, 0) => self.binary(BinaryFn::Div, d, b),
                (BinaryFn::Div, _) => {
                    let share = self.binary(BinaryFn::Div, y, b);
                    let part = self.mul(d, share);
                    self.unary(UnaryFn::Neg, part)
                }
                (BinaryFn::Max | BinaryFn::Min, _) => {
                    // Equal operands share it.
                    let (own, other) = if side == 0 { (a, b) } else { (b, a) };
                    let beats = if f == BinaryFn::Max { CompareFn::Gt } else { CompareFn::Lt };
                    let wins = self.compare(beats, own, other);
                    let ties = self.compare(CompareFn::Eq, own, other);
                    let (zero, half) = (self.number(0.0, d), self.times(d, 0.5));
                    let rest = self.select(ties, half, zero);
                    self.select(wins, d, rest)
                }
            };
            let part = self.wide_sum(part, value);
            self.add_part(value, part);
        }
    }

    pub(super) fn reduce_rule(
        &mut self,
        f: ReduceFn,
        axes: &Axes,
        x: ValueIndex,
        y: ValueIndex,
        d: ValueIndex,
    ) {
        let shape = self.shape(x);
        let mut kept = shape.clone();
        axes.iter().for_each(|axis| kept[*axis] = 1);
        let count: usize = axes.iter().map(|axis| shape[*axis]).product();
        let d = self.reshape(d, &kept);
        let part = match f {
            ReduceFn::Sum => self.spread(d, &shape),
            ReduceFn::Mean => {
                let share = self.times(d, 1.0 / count as f64);
                self.spread(share, &shape)
            }
            ReduceFn::Max => {
                // Equal elements share it.
                let y = self.reshape(y, &kept);
                let largest = self.compare(CompareFn::Eq, x, y);
                let (one, zero) = (self.number(1.0, d), self.number(0.0, d));
                let ones = self.select(largest, one, zero);
                let ties = self.sum(ones, axes.clone());
                let share = self.binary(BinaryFn::Div, d, ties);
                self.mul(ones, share)
            }
        };
        self.add_part(x, part);
    }

    fn spread(&mut self, x: ValueIndex, shape: &[usize]) -> ValueIndex {
        if self.shape(x).as_slice() == shape {
            return x;
        }
        let ty = TensorType::new(self.ty(x).dtype, shape.iter().copied());
        self.emit(Op::Broadcast, &[x], Some(ty))
    }
}
