//! Which level-1 ops a target has kernels for, on which types: composites only, as primitives run on
//! every element type. What is refused here is decomposed before fusion; fused kernels are made of
//! what is accepted, and [`Target::runs`] says so of any. Nothing is said about speed.

use super::{AnchorKernel, Combine, Kernel, Load, Target};
use crate::op::Op;
use crate::types::{DType, TensorType};

impl Target {
    /// Whether there is a kernel for `op` on `operands`, of which those in `weights` come from the
    /// manifest, with a result of type `result`.
    ///
    /// # Errors
    /// The reason why not.
    pub fn native(
        &self,
        op: &Op,
        operands: &[&TensorType],
        weights: &[bool],
        result: &TensorType,
    ) -> Result<(), &'static str> {
        let half = |dtype| matches!(dtype, DType::Bf16 | DType::F16);
        // Weights are widened when they are loaded.
        let vector = |at: usize| match (operands.get(at), weights.get(at)) {
            (Some(ty), Some(weight)) => ty.dtype == DType::F32 || (*weight && half(ty.dtype)),
            _ => true,
        };
        let matrix = |at: usize| operands[at].dtype == DType::F32 || half(operands[at].dtype);
        let product = |ty: &TensorType| self.products.contains(&ty.dtype);
        let row = |ty: &TensorType| self.rows.contains(&ty.dtype);
        const PRODUCTS: &str = "products of these element types";
        const ROWS: &str = "rows of these element types";
        let need = |holds: bool, why: &'static str| if holds { Ok(()) } else { Err(why) };
        let shapes = operands.iter().copied().chain([result]);
        need(shapes.into_iter().all(|ty| ty.rank() <= self.axes), "tensors of so many axes")?;
        match op {
            Op::Linear => {
                need(product(operands[0]) && product(result) && matrix(1), PRODUCTS)?;
                need(vector(2), "a bias of this element type")
            }
            Op::Conv { .. } => {
                need(weights[1], "a kernel that is no weight")?;
                need(product(operands[0]) && product(result) && matrix(1), PRODUCTS)?;
                need(vector(2), "a bias of this element type")
            }
            Op::Attention { scale, .. } => {
                need(*scale >= 0.0 && scale.is_finite(), "a scale that is no positive number")?;
                need(operands[..3].iter().all(|ty| product(ty)) && product(result), PRODUCTS)
            }
            Op::LayerNorm { .. } => {
                need(row(operands[0]) && row(result), ROWS)?;
                need(vector(1) && vector(2), "a gain or bias of this element type")
            }
            Op::RmsNorm { .. } => {
                need(row(operands[0]) && row(result), ROWS)?;
                need(vector(1), "a gain of this element type")
            }
            Op::Rope { .. } | Op::Gelu | Op::Silu | Op::Modulate => {
                need(row(operands[0]) && row(result), ROWS)
            }
            // Its decomposition is one row kernel.
            Op::GeluErf => Err("gelu by erf in one piece"),
            Op::GateAdd => need(operands[..2].iter().all(|ty| row(ty)) && row(result), ROWS),
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
            Kernel::Row(_) => Ok(()),
            // Products are anchors, fused with something or not.
            Kernel::Op(Op::Linear | Op::Attention { .. } | Op::Conv { .. }) => {
                Err("a product that is no anchor")
            }
            Kernel::Op(op) => self.native(op, operands, weights, results[0]),
            Kernel::Anchor(anchor) => {
                for (part, result) in results.iter().enumerate() {
                    let own = |at| if at == 0 { 0 } else { anchor.part_operand(part, at) };
                    let types: Vec<&TensorType> =
                        (0..anchor.arity).map(|at| operands[own(at)]).collect();
                    let stored: Vec<bool> = (0..anchor.arity).map(|at| weights[own(at)]).collect();
                    self.native(&anchor.op, &types, &stored, result)?;
                    if anchor.load != Load::Own {
                        (self.conv_load.0)(anchor.load, &anchor.op, types[0], types[1])?;
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
        let support = self.epilogue(&anchor.op);
        if anchor.activation.is_some() && !support.activation {
            return Err("an activation behind it");
        }
        let rounded = [anchor.sums, anchor.activated].into_iter().flatten();
        if !rounded.into_iter().all(|dtype| support.results.contains(&dtype)) {
            return Err("a rounding in between to this element type");
        }
        if let Some(residual) = anchor.residual_operand() {
            let holds = support.residual.contains(&operands[residual].dtype)
                && support.results.contains(&results[0].dtype);
            if !holds {
                return Err("a residual of this element type");
            }
        }
        match anchor.combine {
            Combine::GateAdd { .. } if !support.gate => Err("a gate behind it"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_depends_on_types_and_on_weights() {
        let target = Target::default();
        let ty = |dtype| TensorType::new(dtype, [4, 4]);
        let all = DType::ALL.into_iter().filter(|dtype| dtype.is_float());
        for dtype in all {
            let (x, v) = (ty(dtype), TensorType::new(dtype, [4]));
            let linear = |weight| {
                let operands = [&x, &x, &v];
                target.native(&Op::Linear, &operands, &[false, true, weight], &x).is_ok()
            };
            assert_eq!(linear(true), matches!(dtype, DType::F32 | DType::Bf16), "{dtype}");
            assert_eq!(linear(false), dtype == DType::F32, "{dtype}: a bias that is no weight");
            let rows = target.native(&Op::Silu, &[&x], &[false], &x).is_ok();
            assert_eq!(rows, dtype != DType::F64, "{dtype}");
        }
        let (x, wide) = (ty(DType::F32), ty(DType::F64));
        let runs = |residual: &TensorType, weight: &TensorType| {
            let kernel =
                AnchorKernel { combine: Combine::Add, ..AnchorKernel::plain(Op::Linear, 2) };
            let operands = [&x, weight, residual];
            target.runs(&Kernel::Anchor(kernel), &operands, &[false, true, false], &[&x]).is_ok()
        };
        assert!(runs(&x, &x) && !runs(&wide, &x) && !runs(&x, &wide));
        let bare = Kernel::Op(Op::Linear);
        assert!(target.runs(&bare, &[&x, &x], &[false, true], &[&x]).is_err());
        for (scale, fine) in [(0.5, true), (-1.0, false), (f64::NAN, false), (f64::INFINITY, false)]
        {
            let op = Op::Attention { heads: 1, scale };
            let native = target.native(&op, &[&x, &x, &x], &[false; 3], &x);
            assert_eq!(native.is_ok(), fine, "{scale}");
        }
    }
}
