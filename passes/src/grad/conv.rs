//! The derivative of a convolution: by the picture a convolution with the kernel turned round, by the
//! kernel a product for each tap.

use super::Walk;
use crate::program::{ProgramStep, ValueIndex};
use anyid_ir::{Axes, DType, Op, TensorType};

impl Walk {
    /// Of `conv(x, w) + b`.
    pub(super) fn conv(
        &mut self,
        step: &ProgramStep,
        d: ValueIndex,
        stride: [usize; 3],
        pad: [[usize; 2]; 3],
    ) {
        let (x, w) = (step.operands[0], step.operands[1]);
        let dtype = self.product_type(x, w);
        let out = [0, 1, 2].map(|axis| self.shape(d)[axis]);
        // A single position needs no stride, however large.
        let stride = [0, 1, 2].map(|axis| if out[axis] == 1 { 1 } else { stride[axis] });
        let own = self.cast(d, dtype);
        if self.wants(x) {
            self.by_picture([x, w], own, stride, pad);
        }
        if self.wants(w) {
            self.by_kernel([x, w], own, stride, pad);
        }
        if let Some(bias) = step.operands.get(2).copied().filter(|bias| self.wants(*bias)) {
            let width = self.ty(d).last();
            let flat = self.reshape(d, &[out.iter().product(), width]);
            let part = self.wide_sum(flat, bias);
            self.add_part(bias, part);
        }
    }

    /// The kernel with all three axes of taps.
    fn taps(&mut self, w: ValueIndex, dtype: DType) -> (ValueIndex, [usize; 5]) {
        let shape = match self.shape(w)[..] {
            [o, i, t, h, w] => [o, i, t, h, w],
            [o, i, h, w] => [o, i, 1, h, w],
            _ => unreachable!("the type rule admits two or three axes of taps"),
        };
        let w = self.cast(w, dtype);
        (self.reshape(w, &shape), shape)
    }

    /// Each position of the result was read through every tap; backwards, each position of the picture
    /// reads them through the taps in the other order. Steps leave zeros between.
    fn by_picture(
        &mut self,
        [x, w]: [ValueIndex; 2],
        d: ValueIndex,
        stride: [usize; 3],
        pad: [[usize; 2]; 3],
    ) {
        let (mut kernel, [_, _, taps @ ..]) = self.taps(w, self.ty(d).dtype);
        for axis in 2..5 {
            kernel = self.turned_round(kernel, axis);
        }
        let perm = Axes::from_slice(&[1, 0, 2, 3, 4]);
        let kernel = self.emit(Op::Permute { perm }, &[kernel], None);
        let (mut d, mut own) = (d, [[0; 2]; 3]);
        for axis in 0..3 {
            d = self.apart(d, axis, stride[axis]);
            let (size, input) = (self.shape(d)[axis], self.shape(x)[axis]);
            // Zeros around it; where there would be fewer than none, positions that nothing reads.
            let lo = taps[axis] as isize - 1 - pad[axis][0] as isize;
            let hi = (input + taps[axis] - 1) as isize - lo - size as isize;
            let cut = [lo, hi].map(|zeros| zeros.min(0).unsigned_abs());
            if cut != [0, 0] {
                let op = Op::Slice { axis, start: cut[0], len: size - cut[0] - cut[1] };
                d = self.emit(op, &[d], None);
            }
            own[axis] = [lo, hi].map(|zeros| zeros.max(0) as usize);
        }
        let declared = TensorType::new(self.ty(x).dtype, []);
        let op = Op::Conv { stride: [1; 3], pad: own };
        let part = self.emit(op, &[d, kernel], Some(declared));
        self.add_part(x, part);
    }

    /// For each tap, the product of what the result's positions read through it and their cotangents.
    fn by_kernel(
        &mut self,
        [x, w]: [ValueIndex; 2],
        d: ValueIndex,
        stride: [usize; 3],
        pad: [[usize; 2]; 3],
    ) {
        let out = [0, 1, 2].map(|axis| self.shape(d)[axis]);
        let (_, [outputs, inputs, taps @ ..]) = self.taps(w, self.ty(w).dtype);
        let mut padded = self.cast(x, self.ty(d).dtype);
        for axis in 0..3 {
            // The last of a tap's whole steps may end behind the picture.
            let lo = pad[axis][0];
            let need = taps[axis] - 1 + out[axis] * stride[axis];
            let hi = need.saturating_sub(self.shape(x)[axis] + lo);
            if lo + hi > 0 {
                padded = self.emit(Op::Pad { axis, lo, hi }, &[padded], None);
            }
        }
        let positions = out.iter().product();
        let d = self.reshape(d, &[positions, outputs]);
        let mut parts = Vec::new();
        for t in 0..taps[0] {
            let frames = self.every(padded, 0, [t, stride[0], out[0]]);
            for h in 0..taps[1] {
                let lines = self.every(frames, 1, [h, stride[1], out[1]]);
                for w in 0..taps[2] {
                    let seen = self.every(lines, 2, [w, stride[2], out[2]]);
                    let seen = self.reshape(seen, &[positions, inputs]);
                    let part = self.dot([true, true], d, seen, self.wide(x));
                    parts.push(self.reshape(part, &[1, outputs, inputs]));
                }
            }
        }
        let all = self.emit(Op::Concat { axis: 0 }, &parts, None);
        let perm = Axes::from_slice(&[1, 2, 0]);
        let part = self.emit(Op::Permute { perm }, &[all], None);
        let part = self.reshape(part, &self.shape(w));
        let part = self.cast(part, self.ty(w).dtype);
        self.add_part(w, part);
    }

    /// `x` with an axis in the other order.
    fn turned_round(&mut self, x: ValueIndex, axis: usize) -> ValueIndex {
        let size = self.shape(x)[axis];
        if size == 1 {
            return x;
        }
        let one = |walk: &mut Self, start| walk.emit(Op::Slice { axis, start, len: 1 }, &[x], None);
        let parts: Vec<ValueIndex> = (0..size).rev().map(|at| one(self, at)).collect();
        self.emit(Op::Concat { axis }, &parts, None)
    }

    /// `x` with `step - 1` zeros between the positions of an axis.
    fn apart(&mut self, x: ValueIndex, axis: usize, step: usize) -> ValueIndex {
        if step == 1 {
            return x;
        }
        let mut shape = self.shape(x);
        let size = shape[axis];
        shape.insert(axis + 1, 1);
        let x = self.reshape(x, &shape);
        let x = self.emit(Op::Pad { axis: axis + 1, lo: 0, hi: step - 1 }, &[x], None);
        shape.remove(axis + 1);
        shape[axis] = size * step;
        let x = self.reshape(x, &shape);
        self.emit(Op::Slice { axis, start: 0, len: (size - 1) * step + 1 }, &[x], None)
    }

    /// Positions `start, start + step, …` of an axis, `count` of them.
    fn every(
        &mut self,
        x: ValueIndex,
        axis: usize,
        [start, step, count]: [usize; 3],
    ) -> ValueIndex {
        let span = self.emit(Op::Slice { axis, start, len: count * step }, &[x], None);
        if step == 1 {
            return span;
        }
        let mut shape = self.shape(span);
        shape[axis] = count;
        shape.insert(axis + 1, step);
        let span = self.reshape(span, &shape);
        self.emit(Op::Index { axis: axis + 1, at: 0 }, &[span], None)
    }
}
