//! The heavy composites: linear, attention, convolution.

use super::Parts;
use crate::entity::ValueId;
use crate::op::{BinaryFn, CompareFn, Op, ReduceFn, UnaryFn};
use crate::types::{DType, TensorType};

impl Parts<'_, '_> {
    /// `x · Wᵀ (+ b)`, with the leading axes of `x` flattened.
    pub(super) fn linear(&mut self, operands: &[ValueId]) -> ValueId {
        let x = self.widen(operands[0]);
        let w = self.widen(operands[1]);
        let (inputs, outputs) = (self.b.shape(w)[1], self.b.shape(w)[0]);
        let leading = self.result.shape[..self.result.rank() - 1].iter().product();
        let rows = self.reshape("rows", x, [leading, inputs]);
        let y = self.dot("product", rows, w);
        self.biased(y, operands.get(2), outputs)
    }

    /// The last step of a product `[…, outputs]`, whose bias comes last.
    fn biased(&mut self, mut y: ValueId, bias: Option<&ValueId>, outputs: usize) -> ValueId {
        if let Some(bias) = bias {
            let bias = self.widen(*bias);
            let bias = self.reshape("bias", bias, [1, outputs]);
            y = self.b.add("biased", y, bias);
        }
        self.finish(y)
    }

    /// Per head `softmax(q kᵀ · scale + bias) v`. Channels are head-major. Where its type is given,
    /// the second result is `ln Σ exp` of each row of scores. The last key counts `last` times.
    pub(super) fn attention(
        &mut self,
        operands: &[ValueId],
        heads: usize,
        (scale, last): (f64, usize),
        lse: Option<&TensorType>,
    ) -> Vec<ValueId> {
        let batched = self.result.rank() == 3;
        let batch = if batched { self.result.shape[0] } else { 1 };
        let width = self.result.last() / heads;
        let rows = |parts: &Self, v: ValueId| parts.b.shape(v)[usize::from(batched)];
        let (nq, nk) = (rows(self, operands[0]), rows(self, operands[1]));

        let q = self.split_heads("q", operands[0], [batch, nq, heads, width], [0, 2, 1, 3]);
        let k = self.split_heads("k", operands[1], [batch, nk, heads, width], [0, 2, 1, 3]);
        // Transposed, because `dot` contracts the last axis of both sides.
        let v = self.split_heads("v", operands[2], [batch, nk, heads, width], [0, 2, 3, 1]);

        let scores = self.scores([q, k], (scale, last), operands.get(3), [nq, nk]);
        let [weights, largest, total] = self.softmax(scores);
        let mixed = self.dot("mixed", weights, v);
        let rows = self.b.permute("merged", mixed, &[0, 2, 1, 3]);
        let mut made = vec![self.finish(rows)];
        if let Some(ty) = lse {
            // −∞ in a row of nothing but −∞, whose total is 1.
            let sum = self.b.unary("logarithm", UnaryFn::Log, total);
            let sum = self.b.add("lse", largest, sum);
            made.push(self.finish_as(sum, ty));
        }
        made
    }

    /// Of `softmax(q kᵀ · scale + bias) v` on operands q, k, v, the result, its log-sum-exp, the
    /// cotangent, the bias: with weights P, `dv = Pᵀ d`; with `S = P · (d vᵀ − Σ d · result)`,
    /// `dq = S k · scale`, `dk = Sᵀ q · scale` and the bias gets the diagonals of S.
    pub(super) fn attention_vjp(
        &mut self,
        operands: &[ValueId],
        results: &[TensorType],
        heads: usize,
        (scale, last): (f64, usize),
    ) -> Vec<ValueId> {
        let batched = self.result.rank() == 3;
        let batch = if batched { self.result.shape[0] } else { 1 };
        let width = self.result.last() / heads;
        let mut split = |name: &str, at: usize| {
            let rows = self.b.shape(operands[at])[usize::from(batched)];
            self.split_heads(name, operands[at], [batch, rows, heads, width], [0, 2, 1, 3])
        };
        let [q, k, v] = [("q", 0), ("k", 1), ("v", 2)].map(|(name, at)| split(name, at));
        let [out, d] = [("out", 3), ("d", 5)].map(|(name, at)| split(name, at));
        let (nq, nk) = (self.b.shape(q)[2], self.b.shape(k)[2]);
        let lse = self.widen(operands[4]);
        let lse = self.reshape("lse", lse, [batch, heads, nq, 1]);

        let scores = self.scores([q, k], (scale, last), operands.get(6), [nq, nk]);
        let weights = self.sub("shifted", scores, lse);
        let weights = self.b.unary("weights", UnaryFn::Exp, weights);
        // A row of nothing but −∞ has no weights.
        let nothing = self.scalar("nothing", f64::NEG_INFINITY);
        let masked = self.b.compare("masked", CompareFn::Eq, lse, nothing);
        let zero = self.scalar("zero", 0.0);
        let weights = self.select("weights", masked, zero, weights);
        let product = self.b.mul("product", d, out);
        let own = self.reduce_last("own", ReduceFn::Sum, product);
        let slopes = self.dot("slopes", d, v);
        let slopes = self.sub("centred", slopes, own);
        let slopes = self.b.mul("slopes", weights, slopes);
        let turned = |parts: &mut Self, name: &str, a, turned_a, b| {
            parts.b.op(name, Op::Dot { transposed: [turned_a, true] }, &[a, b], None)
        };
        let dq = turned(self, "dq", slopes, false, k);
        let dk = turned(self, "dk", slopes, true, q);
        let dv = turned(self, "dv", weights, true, d);
        let [dq, dk] = [dq, dk].map(|x| self.times("scaled", x, scale));
        let merged = |parts: &mut Self, x: ValueId, ty: &TensorType| {
            let rows = parts.b.permute("merged", x, &[0, 2, 1, 3]);
            parts.finish_as(rows, ty)
        };
        let mut made: Vec<ValueId> =
            [dq, dk, dv].into_iter().zip(results).map(|(x, ty)| merged(self, x, ty)).collect();
        if let Some(ty) = results.get(3) {
            let sums = self.diagonals(slopes, nq, nk);
            made.push(self.finish_as(sums, ty));
        }
        made
    }

    /// `q kᵀ · scale`, with a table over key − query as bias if there is one, and with the logarithm of
    /// `last` for the last key.
    fn scores(
        &mut self,
        [q, k]: [ValueId; 2],
        (scale, last): (f64, usize),
        bias: Option<&ValueId>,
        [nq, nk]: [usize; 2],
    ) -> ValueId {
        let scores = self.dot("scores", q, k);
        let mut scores = self.times("scaled", scores, scale);
        if last != 1 {
            let key = self.b.iota("key", 0, TensorType::new(DType::I32, [nk]));
            let end = self.b.scalar("end", DType::I32, nk as f64 - 1.0);
            let at_end = self.b.compare("at_end", CompareFn::Eq, key, end);
            let more = [("more", (last as f64).ln()), ("zero", 0.0)];
            let [more, zero] = more.map(|(name, value)| self.scalar(name, value));
            let counts = self.select("counts", at_end, more, zero);
            scores = self.b.add("counted", scores, counts);
        }
        let Some(table) = bias else { return scores };
        // `[heads, Nq, Nk]` of a table `[heads, Nq+Nk−1]`.
        let column = self.differences(TensorType::new(DType::I32, [nq, nk]));
        let table = self.widen(*table);
        let by_column = self.b.permute("by_column", table, &[1, 0]);
        let picked = self.gather("picked", by_column, column);
        let bias = self.b.permute("bias", picked, &[2, 0, 1]);
        self.b.add("biased", scores, bias)
    }

    /// Key − query at each place of `[…, Nq, Nk]`, counted from 0 for the smallest.
    fn differences(&mut self, grid: TensorType) -> ValueId {
        let (keys, queries) = (grid.rank() - 1, grid.rank() - 2);
        let first = grid.shape[queries] as f64 - 1.0;
        let key = self.b.iota("key", keys, grid.clone());
        let query = self.b.iota("query", queries, grid);
        let difference = self.sub("difference", key, query);
        let first = self.b.scalar("first", DType::I32, first);
        self.b.add("column", difference, first)
    }

    /// Sums of `[batch, heads, Nq, Nk]` by key − query, as a table `[heads, Nq+Nk−1]`.
    fn diagonals(&mut self, x: ValueId, nq: usize, nk: usize) -> ValueId {
        let (batch, heads) = (self.b.shape(x)[0], self.b.shape(x)[1]);
        let column = self.differences(TensorType::new(DType::I32, [batch, nq, nk]));
        let column = self.reshape("column", column, [batch * nq * nk]);
        let rows = self.b.permute("by_place", x, &[0, 2, 3, 1]);
        let rows = self.reshape("rows", rows, [batch * nq * nk, heads]);
        let sums = self.segment_sum(&[rows, column], nq + nk - 1);
        self.b.permute("diagonals", sums, &[1, 0])
    }

    /// Softmax over the last axis, and each row's largest score and sum of weights. A row of nothing
    /// but −∞ gets no weights: its largest score counts as 0 there, and the sum of its weights,
    /// which is at least 1 in every other row, as 1.
    fn softmax(&mut self, scores: ValueId) -> [ValueId; 3] {
        let largest = self.reduce_last("largest", ReduceFn::Max, scores);
        let nothing = self.scalar("nothing", f64::NEG_INFINITY);
        let masked = self.b.compare("masked", CompareFn::Eq, largest, nothing);
        let zero = self.scalar("zero", 0.0);
        let base = self.select("largest", masked, zero, largest);
        let shifted = self.sub("shifted", scores, base);
        let weights = self.b.unary("weights", UnaryFn::Exp, shifted);
        let total = self.reduce_last("total", ReduceFn::Sum, weights);
        let one = self.scalar("one", 1.0);
        let total = self.b.binary("total", BinaryFn::Max, total, one);
        [self.div("softmax", weights, total), largest, total]
    }

    fn split_heads(
        &mut self,
        name: &str,
        x: ValueId,
        shape: [usize; 4],
        perm: [usize; 4],
    ) -> ValueId {
        let x = self.widen(x);
        let x = self.reshape(name, x, shape);
        self.b.permute(name, x, &perm)
    }

    /// Zero padding, then for each kernel tap the positions it sees times the tap's `[O, C]`
    /// matrix, summed in the order time, rows, columns; the bias last.
    pub(super) fn conv(
        &mut self,
        operands: &[ValueId],
        stride: [usize; 3],
        pad: [[usize; 2]; 3],
    ) -> ValueId {
        let mut x = self.widen(operands[0]);
        let w = self.widen(operands[1]);
        let w_shape = self.shape(w);
        let (outputs, inputs) = (w_shape[0], w_shape[1]);
        let kernel = match w_shape[2..] {
            [kt, kh, kw] => [kt, kh, kw],
            [kh, kw] => [1, kh, kw],
            _ => unreachable!("the type rule admits two or three kernel axes"),
        };
        let w = self.reshape("kernel", w, [outputs, inputs, kernel[0], kernel[1], kernel[2]]);
        let taps = self.b.permute("taps", w, &[2, 3, 4, 0, 1]);

        let out: [usize; 3] = [0, 1, 2].map(|axis| self.result.shape[axis]);
        // A single position needs no stride, however large.
        let stride = [0, 1, 2].map(|axis| if out[axis] == 1 { 1 } else { stride[axis] });
        for axis in 0..3 {
            // Every tap takes `out` whole strides, so the last of them may end behind the input.
            let have = self.b.shape(x)[axis] + pad[axis][0] + pad[axis][1];
            let need = kernel[axis] - 1 + out[axis] * stride[axis];
            let behind = pad[axis][1] + need.saturating_sub(have);
            if pad[axis][0] + behind > 0 {
                x = self.b.pad("padded", x, axis, pad[axis][0], behind);
            }
        }
        let positions = out.iter().product();
        let mut sum: Option<ValueId> = None;
        for a in 0..kernel[0] {
            let frames = self.strided(x, 0, a, stride[0], out[0]);
            let taps = self.b.index("taps", taps, 0, a);
            for b in 0..kernel[1] {
                let lines = self.strided(frames, 1, b, stride[1], out[1]);
                let taps = self.b.index("taps", taps, 0, b);
                for c in 0..kernel[2] {
                    let seen = self.strided(lines, 2, c, stride[2], out[2]);
                    let seen = self.reshape("seen", seen, [positions, inputs]);
                    let tap = self.b.index("tap", taps, 0, c);
                    let part = self.dot("part", seen, tap);
                    sum = Some(match sum {
                        Some(sum) => self.b.add("sum", sum, part),
                        None => part,
                    });
                }
            }
        }
        let y = sum.expect("the type rule wants at least one tap an axis");
        self.biased(y, operands.get(2), outputs)
    }

    /// Positions `start, start + step, …` of `axis`, `count` of them. There is no strided slice,
    /// so whole strides become an axis of their own of which the first position is taken.
    fn strided(
        &mut self,
        x: ValueId,
        axis: usize,
        start: usize,
        step: usize,
        count: usize,
    ) -> ValueId {
        let span = self.b.slice("span", x, axis, start, count * step);
        if step == 1 {
            return span;
        }
        let mut shape = self.shape(span);
        shape[axis] = count;
        shape.insert(axis + 1, step);
        let strides = self.reshape("strides", span, shape);
        self.b.index("strided", strides, axis + 1, 0)
    }
}
