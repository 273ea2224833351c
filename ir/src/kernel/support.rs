//! Which level-1 ops a target has kernels for, on which types: a table of composites, as primitives are
//! kernels on every element type. What the table does not name, or refuses, is decomposed before
//! fusion; fused kernels are made of what is accepted, and [`Target::runs`] says so of any. Nothing is
//! said about speed.

use super::{AnchorKernel, Combine, Kernel, Load, Target};
use crate::op::Op;
use crate::types::{DType, TensorType};

/// What a target needs of the types of an op that it has a kernel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Native {
    /// A product, attention or convolution in the element types of [`Target::products`].
    Product,
    /// A map or norm of rows in the element types of [`Target::rows`].
    Rows,
    /// Moves or makes data of any type.
    Data,
}

/// Composites that are one kernel each in level 2, last those of derivatives; what a table does not
/// name is decomposed.
pub const NATIVE: &[(&str, Native)] = &[
    ("linear", Native::Product),
    ("attention", Native::Product),
    ("conv", Native::Product),
    ("layer_norm", Native::Rows),
    ("rms_norm", Native::Rows),
    ("rope", Native::Rows),
    ("gelu", Native::Rows),
    ("silu", Native::Rows),
    ("modulate", Native::Rows),
    ("gate_add", Native::Rows),
    ("upsample", Native::Data),
    ("patchify", Native::Data),
    ("unpatchify", Native::Data),
    ("rope_table", Native::Data),
    ("timestep_embedding", Native::Data),
    ("relative_bucket", Native::Data),
    ("attention_vjp", Native::Product),
    ("segment_sum", Native::Rows),
];

/// [`NATIVE`] without what derivatives alone need.
pub const FORWARD: &[(&str, Native)] = NATIVE.split_at(NATIVE.len() - 2).0;

fn need(holds: bool, why: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(why) }
}

impl Target {
    /// Whether there is a kernel for `op` on `operands`, of which those in `weights` come from the
    /// manifest, with results of the types `results`. Primitives are kernels on every type.
    ///
    /// # Errors
    /// The reason why not.
    pub fn native(
        &self,
        op: &Op,
        operands: &[&TensorType],
        weights: &[bool],
        results: &[&TensorType],
    ) -> Result<(), &'static str> {
        const PRODUCTS: &str = "products of these element types";
        const ROWS: &str = "rows of these element types";
        let mut shapes = operands.iter().chain(results);
        need(shapes.all(|ty| ty.rank() <= self.axes), "tensors of so many axes")?;
        if !op.is_composite() {
            return Ok(());
        }
        // Both forms of gelu have one name, and that by erf is no function of rows.
        let named = |(name, _): &&(&str, Native)| *name == op.name() && *op != Op::GeluErf;
        let found = self.native.iter().find(named);
        let (_, native) = found.ok_or("this op in one piece")?;
        let (set, why) = match native {
            Native::Data => return Ok(()),
            Native::Product => (self.products, PRODUCTS),
            Native::Rows => (self.rows, ROWS),
        };
        // Operands of the set's types: queries, keys and values, branches, gains.
        let data = match op {
            Op::Attention { .. } => 3,
            Op::AttentionVjp { .. } => 4,
            Op::GateAdd => 2,
            Op::LayerNorm { .. } | Op::RmsNorm { .. } => operands.len(),
            _ => 1,
        };
        need(operands[..data].iter().chain([&results[0]]).all(|ty| set.contains(&ty.dtype)), why)?;
        let half = |dtype| matches!(dtype, DType::Bf16 | DType::F16);
        // Vectors of weights are widened when they are loaded.
        let vector = |at: usize| match (operands.get(at), weights.get(at)) {
            (Some(ty), Some(weight)) => ty.dtype == DType::F32 || (*weight && half(ty.dtype)),
            _ => true,
        };
        match op {
            Op::Linear | Op::Conv { .. } => {
                let linear = *op == Op::Linear;
                let limits = if linear { &self.linear_limits } else { &self.conv_limits };
                let kernel = &operands[1];
                need(!limits.stored || weights[1], "a kernel that is not a weight")?;
                need(limits.depth.hold(kernel.shape[1]), "products of this depth")?;
                need(limits.width.hold(kernel.shape[0]), "products of this width")?;
                need(kernel.dtype == DType::F32 || half(kernel.dtype), PRODUCTS)?;
                need(vector(2), "a bias of this element type")
            }
            Op::Attention { heads, scale, last, .. }
            | Op::AttentionVjp { heads, scale, last, .. } => {
                if let Op::AttentionVjp { .. } = op {
                    need(operands[4].dtype == DType::F32, "sums of this element type")?;
                    need(set.contains(&operands[5].dtype), why)?;
                }
                let width = operands[0].last() / heads;
                need(self.head_widths.hold(width), "heads of this width")?;
                // What a key counts is a part of its score before the scale.
                let least = if *last == 1 { 0.0 } else { f64::from(f32::MIN_POSITIVE) };
                need(*scale >= least && scale.is_finite(), "a scale that is not a positive number")
            }
            _ => Ok(()),
        }
    }

    /// Whether the target runs `kernel`, which is [sound](Kernel::check) on these types, on
    /// `operands`, of which those in `weights` are weights. Passes make no other kernels.
    ///
    /// # Errors
    /// The reason why not.
    pub fn runs(
        &self,
        kernel: &Kernel,
        operands: &[&TensorType],
        weights: &[bool],
        results: &[&TensorType],
    ) -> Result<(), &'static str> {
        match kernel {
            Kernel::Row(_) | Kernel::Copy(_) | Kernel::Gather => Ok(()),
            Kernel::Fill(fill) => self.native(&fill.op(), operands, weights, results),
            Kernel::Anchor(anchor) => {
                for (part, results) in results.chunks(anchor.anchor.results()).enumerate() {
                    let own = (0..anchor.arity).map(|at| anchor.part_operand(part, at));
                    let (types, stored): (Vec<&TensorType>, Vec<bool>) =
                        own.map(|at| (operands[at], weights[at])).unzip();
                    self.native(&anchor.anchor.op(), &types, &stored, results)?;
                    if anchor.load != Load::Own {
                        need(stored[1], "a load with a kernel that is not a weight")?;
                        (self.conv_load)(anchor.load, anchor.anchor, types[0], types[1])?;
                    }
                }
                self.ends(anchor, operands, results)
            }
        }
    }

    /// Whether the target has the epilogue of an anchor.
    fn ends(
        &self,
        anchor: &AnchorKernel,
        operands: &[&TensorType],
        results: &[&TensorType],
    ) -> Result<(), &'static str> {
        let support = self.epilogue(anchor.anchor, operands);
        let rounds = |dtype| support.results.contains(&dtype);
        let activation = anchor.activation.is_none_or(|f| support.activations.contains(&f));
        need(activation, "this activation behind it")?;
        let mut between = [anchor.sums, anchor.activated].into_iter().flatten();
        need(between.all(rounds), "a rounding in between to this element type")?;
        if let Some(residual) = anchor.residual_operand() {
            let added = support.residual.contains(&operands[residual].dtype);
            need(added && rounds(results[0].dtype), "a residual of this element type")?;
        }
        let gated = matches!(anchor.combine, Combine::GateAdd { .. });
        need(support.gate || !gated, "a gate behind it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Anchor;

    #[test]
    fn what_depends_on_types_and_on_weights() {
        let target = Target::default();
        let ty = |dtype| TensorType::new(dtype, [4, 4]);
        let all = DType::ALL.into_iter().filter(|dtype| dtype.is_float());
        for dtype in all {
            let (x, v) = (ty(dtype), TensorType::new(dtype, [4]));
            let linear = |weight| {
                let operands = [&x, &x, &v];
                target.native(&Op::Linear, &operands, &[false, true, weight], &[&x]).is_ok()
            };
            assert_eq!(linear(true), matches!(dtype, DType::F32 | DType::Bf16), "{dtype}");
            assert_eq!(linear(false), dtype == DType::F32, "{dtype}: a bias that is no weight");
            let rows = target.native(&Op::Silu, &[&x], &[false], &[&x]).is_ok();
            assert_eq!(rows, dtype != DType::F64, "{dtype}");
        }
        let (x, wide) = (ty(DType::F32), ty(DType::F64));
        let runs = |residual: &TensorType, weight: &TensorType| {
            let kernel =
                AnchorKernel { combine: Combine::Add, ..AnchorKernel::plain(Anchor::Linear, 2) };
            let operands = [&x, weight, residual];
            target.runs(&Kernel::Anchor(kernel), &operands, &[false, true, false], &[&x]).is_ok()
        };
        assert!(runs(&x, &x) && !runs(&wide, &x) && !runs(&x, &wide));
        let few = Target { native: &NATIVE[1..], ..Target::default() };
        let bare = Kernel::Anchor(AnchorKernel::plain(Anchor::Linear, 2));
        for (target, runs) in [(&target, true), (&few, false)] {
            assert_eq!(target.runs(&bare, &[&x, &x], &[false, true], &[&x]).is_ok(), runs);
        }
        assert!(target.native(&Op::GeluErf, &[&x], &[false], &[&x]).is_err());
        for (scale, fine) in [(0.5, true), (-1.0, false), (f64::NAN, false), (f64::INFINITY, false)]
        {
            let op = Op::Attention { heads: 1, scale, lse: false, last: 1 };
            let native = target.native(&op, &[&x, &x, &x], &[false; 3], &[&x]);
            assert_eq!(native.is_ok(), fine, "{scale}");
        }
    }
}
