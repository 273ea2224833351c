//! The type rules that are longer than a few lines.

use super::{Inferred, MOST_LITERALS, Rule, TypeError, fail, sides};
use crate::op::Op;
use crate::types::{DType, TensorType};
use smallvec::SmallVec;

impl Rule<'_> {
    pub(super) fn literal(&self, values: &[f64]) -> Inferred {
        let ty = self.declared()?;
        let one = values.len() == 1;
        let fits = one || (values.len() == ty.elements() && values.len() <= MOST_LITERALS);
        let message = || format!("{} values for {ty}", values.len());
        let help = "one value, or one per element up to 1024; larger tables are inputs";
        self.allow(fits, message, help)?;
        let name = if one { "value" } else { "values" };
        values.iter().try_for_each(|v| self.held(name, *v, ty.dtype))?;
        self.one(ty.dtype, ty.shape.iter().copied())
    }

    pub(super) fn reshape(&self) -> Inferred {
        let (from, ty) = (self.operands[0], self.declared()?);
        let [have, want] = [from, ty].map(TensorType::elements);
        if have != want {
            let message = format!("reshape of {from} ({have} elements) to {ty} ({want} elements)");
            return Err(fail("E0204", 0, message, "a reshape keeps the number of elements"));
        }
        self.one(from.dtype, ty.shape.iter().copied())
    }

    /// Operand 0 with another size of an axis, or without it.
    pub(super) fn along(
        &self,
        axis: usize,
        size: impl FnOnce(&TensorType, usize) -> Result<Option<usize>, TypeError>,
    ) -> Inferred {
        let ty = self.operands[0];
        let axis = self.axis(axis, ty.rank())?;
        let mut shape = ty.shape.clone();
        match size(ty, axis)? {
            Some(size) => shape[axis] = size,
            None => drop(shape.remove(axis)),
        }
        self.one(ty.dtype, shape)
    }

    /// A norm over the last axis, whose further operands have its length.
    pub(super) fn norm(&self, eps: f64, help: &str) -> Inferred {
        let x = self.operands[0];
        self.need_float(0..1)?;
        // The gain of an RMS norm is looked at before its number.
        if matches!(self.op, Op::RmsNorm { .. }) {
            self.need_float(1..2)?;
        }
        self.positive("eps", eps, self.wide())?;
        for operand in 1..self.operands.len() {
            self.need_float(operand..operand + 1)?;
            self.need_shape(operand, &[x.last()], help)?;
        }
        self.need(0, x.rank() > 0, || "at least one axis".into(), "norms run over the last axis")?;
        self.shaped(self.free_dtype(x.dtype)?)
    }

    pub(super) fn permute(&self, perm: &[usize]) -> Inferred {
        let ty = self.operands[0];
        let mut sorted: Vec<usize> = perm.to_vec();
        sorted.sort_unstable();
        let fits = sorted.iter().copied().eq(0..ty.rank());
        let help = "each axis of the operand exactly once";
        self.allow(fits, || format!("{perm:?} on {ty}"), help)?;
        self.one(ty.dtype, perm.iter().map(|axis| ty.shape[*axis]))
    }

    pub(super) fn concat(&self, axis: usize) -> Inferred {
        let first = self.operands[0];
        let axis = self.axis(axis, first.rank())?;
        let mut shape = first.shape.clone();
        for (i, ty) in self.operands.iter().enumerate().skip(1) {
            self.need_dtype(i, first.dtype)?;
            let fits = ty.rank() == first.rank()
                && (0..ty.rank()).all(|a| a == axis || ty.shape[a] == first.shape[a]);
            let expected = || format!("a shape equal to {first} but for axis {axis}");
            self.need(i, fits, expected, "only the joined axis may differ")?;
            shape[axis] += ty.shape[axis];
        }
        self.one(first.dtype, shape)
    }

    pub(super) fn reduce(&self, axes: &[usize], keep: bool) -> Inferred {
        let ty = self.operands[0];
        let ascending = !axes.is_empty() && axes.windows(2).all(|w| w[0] < w[1]);
        self.allow(ascending, || format!("axes {axes:?}"), "one or more axes, ascending")?;
        for axis in axes {
            self.axis(*axis, ty.rank())?;
        }
        let shape = (0..ty.rank()).filter_map(|axis| {
            if !axes.contains(&axis) { Some(ty.shape[axis]) } else { keep.then_some(1) }
        });
        self.one(ty.dtype, shape)
    }

    pub(super) fn dot(&self, transposed: [bool; 2]) -> Inferred {
        let [a, b] = [self.operands[0], self.operands[1]];
        self.need_float(0..1)?;
        self.need_dtype(1, a.dtype)?;
        let rank = a.rank();
        let fits = rank >= 2 && b.rank() == rank && a.shape[..rank - 2] == b.shape[..rank - 2];
        let [(m, k), (n, other)] = match fits {
            true => [sides(a, transposed[0]), sides(b, transposed[1])],
            false => [(0, 0), (0, 1)],
        };
        let side = if transposed[1] { "K, N" } else { "N, K" };
        let help = "dot is [B…,M,K] · [B…,N,K] → [B…,M,N]; `transposed` turns a side round";
        self.need(1, k == other, || format!("[batch…, {side}] to go with {a}"), help)?;
        let batch = a.shape[..rank - 2].iter().copied();
        self.one(self.free_dtype(a.dtype)?, batch.chain([m, n]))
    }

    /// The bias of a product, one number an output, is operand 2 where there is one.
    pub(super) fn bias(&self, outputs: usize) -> Result<(), TypeError> {
        self.need_float(2..self.operands.len())?;
        match self.operands.len() {
            3 => self.need_shape(2, &[outputs], "the bias is [out]"),
            _ => Ok(()),
        }
    }

    pub(super) fn linear(&self) -> Inferred {
        let [x, w] = [self.operands[0], self.operands[1]];
        self.need_float(0..2)?;
        let last = x.last();
        let help =
            format!("linear expects weight [out, in] with in = last axis of the input ({last})");
        let fits = x.rank() > 0 && w.rank() == 2 && w.shape[1] == last;
        self.need(1, fits, || format!("[out,{last}]"), &help)?;
        self.bias(w.shape[0])?;
        let mut shape = x.shape.clone();
        *shape.last_mut().expect("rank checked") = w.shape[0];
        self.one(self.free_dtype(x.dtype)?, shape)
    }

    pub(super) fn attention(&self, heads: usize, scale: f64, lse: bool, last: usize) -> Inferred {
        let [q, k, v] = [self.operands[0], self.operands[1], self.operands[2]];
        self.need_float(0..1)?;
        let rank = q.rank();
        let rows = matches!(rank, 2 | 3);
        self.need(0, rows, || "[N, D] or [B, N, D]".into(), "queries are rows of all heads")?;
        self.need_dtype(1, q.dtype)?;
        self.need_dtype(2, q.dtype)?;
        let fits =
            k.rank() == rank && k.last() == q.last() && k.shape[..rank - 2] == q.shape[..rank - 2];
        self.need(1, fits, || format!("keys to go with {q}"), "same batch and width")?;
        let fits =
            v.rank() == rank && v.shape[..rank - 1] == k.shape[..rank - 1] && v.last() == q.last();
        self.need(2, fits, || format!("values to go with {k}"), "one value a key")?;
        self.heads(heads, q.last(), 1, "heads must divide the channels")?;
        if !scale.is_finite() {
            let error = self.attribute(format!("a scale of {scale}"), "a finite number");
            return Err(TypeError { attribute: Some("scale"), ..error });
        }
        self.held("scale", scale, self.wide())?;
        self.allow(last > 0, || "the last key counts 0 times".into(), "a number from 1 on")?;
        let (nq, nk) = (q.shape[rank - 2], k.shape[rank - 2]);
        if self.operands.len() == 4 {
            let few = nq.saturating_add(nk) <= i32::MAX as usize;
            let help = "distances are counted in i32";
            self.need(3, few, || "fewer than 2^31 columns".into(), help)?;
            self.need_dtype(3, DType::F32)?;
            let shape = [heads, (nq + nk).saturating_sub(1)];
            self.need_shape(3, &shape, "a bias by key − query: [heads, Nq+Nk−1]")?;
        }
        let mut types = self.shaped(self.free_dtype(q.dtype)?)?;
        if lse {
            let dtype = if q.dtype == DType::F64 { DType::F64 } else { DType::F32 };
            let batch = q.shape[..rank - 2].iter().copied();
            types.extend(self.one(dtype, batch.chain([heads, nq]))?);
        }
        Ok(types)
    }

    /// Operands are those of the attention, its two results and the first one's cotangent, the bias
    /// last.
    pub(super) fn attention_vjp(&self, heads: usize, scale: f64, last: usize) -> Inferred {
        let own: SmallVec<[&TensorType; 4]> =
            self.operands[..3].iter().chain(self.operands.get(6)).copied().collect();
        let op = Op::Attention { heads, scale, lse: true, last };
        let made = Rule { op: &op, operands: &own, declared: std::slice::from_ref(own[0]) };
        let made = made.attention(heads, scale, true, last)?;
        for (at, what) in [(3, "what the attention gave"), (5, "its cotangent")] {
            self.need_float(at..at + 1)?;
            self.need_shape(at, &own[0].shape, what)?;
        }
        self.need_float(4..5)?;
        self.need_shape(4, &made[1].shape, "the log-sum-exp of the scores")?;
        Ok(own.into_iter().cloned().collect())
    }

    /// Heads divide the channels of a row into multiples of a number.
    pub(super) fn heads(
        &self,
        heads: usize,
        channels: usize,
        multiple: usize,
        help: &str,
    ) -> Result<(), TypeError> {
        let fits = heads > 0
            && channels.is_multiple_of(heads)
            && (channels / heads).is_multiple_of(multiple);
        self.allow(fits, || format!("{heads} heads of {channels} channels"), help)
    }

    pub(super) fn rope(&self, heads: usize) -> Inferred {
        self.need_float(0..1)?;
        self.need_dtype(1, DType::F32)?;
        let shape = self.need_rank(0, 2, "rows [N, heads·head_dim]")?;
        let help = "heads must divide the channels into an even number";
        self.heads(heads, shape[1], 2, help)?;
        self.need_shape(1, &[shape[0], shape[1] / heads / 2, 2], "cos and sin of each pair")?;
        self.same()
    }

    /// `operand` is a table `[G, D]` picked by the `seg` operand 3, which is `[N]`.
    pub(super) fn segments(&self, operand: usize) -> Result<(), TypeError> {
        let shape = self.need_rank(0, 2, "rows [N, D]")?;
        let table = self.need_rank(operand, 2, "a table [G, D]")?;
        let same = table[1] == shape[1];
        self.need(operand, same, || format!("[G,{}]", shape[1]), "one row a segment")?;
        self.need_dtype(operand, DType::F32)?;
        self.need_dtype(3, DType::I32)?;
        self.need_shape(3, &[shape[0]], "one segment index a row")
    }

    pub(super) fn conv(&self, stride: [usize; 3], pad: [[usize; 2]; 3]) -> Inferred {
        let [x, w] = [self.operands[0], self.operands[1]];
        self.need_float(0..2)?;
        self.need_rank(0, 4, "a clip [T,H,W,C]")?;
        let kernel = match w.shape[..] {
            [_, _, kt, kh, kw] => [kt, kh, kw],
            [_, _, kh, kw] => [1, kh, kw],
            _ => {
                return Err(self.shape_error(1, "[out,in,kt,kh,kw] or [out,in,kh,kw]", "a kernel"));
            }
        };
        let help = "the kernel's second axis is the input's channels";
        self.need(1, w.shape[1] == x.shape[3], || format!("[out,{},…]", x.shape[3]), help)?;
        self.bias(w.shape[0])?;
        let mut shape = x.shape.clone();
        for axis in 0..3 {
            let [before, behind] = pad[axis];
            let padded = x.shape[axis].checked_add(before).and_then(|n| n.checked_add(behind));
            let room = padded.and_then(|n| n.checked_sub(kernel[axis]));
            let room = room.filter(|_| stride[axis] > 0 && kernel[axis] > 0);
            shape[axis] = room.map(|room| room / stride[axis] + 1).ok_or_else(|| {
                let message = format!(
                    "kernel {kernel:?} over {x} with stride {stride:?} and padding {pad:?}"
                );
                let help = "the padded input must hold the kernel and strides be positive";
                self.attribute(message, help)
            })?;
        }
        shape[3] = w.shape[0];
        self.one(self.free_dtype(x.dtype)?, shape)
    }

    pub(super) fn grid(&self, patch: [usize; 3], sizes: &[usize]) -> Result<[usize; 2], TypeError> {
        let fits = (0..3).all(|a| patch[a] > 0 && sizes[a].is_multiple_of(patch[a]));
        let message = || format!("patches {patch:?} over {sizes:?}");
        self.allow(fits, message, "each patch size must divide its axis")?;
        Ok([self.product([0, 1, 2].map(|a| sizes[a] / patch[a]))?, self.product(patch)?])
    }
}
