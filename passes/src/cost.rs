//! What a step costs: floating-point operations of the heavy ops, bytes of everything.
//!
//! Linear, attention with its derivative, `dot` and convolution count two operations for each
//! multiply-add, padding of convolutions included; every other op counts none, because it is bound by
//! the bytes it moves.
//! Bytes are those of the operands read and the results written, each once; of a table only the
//! rows that are picked.

use anyid_ir::infer::sides;
use anyid_ir::kernel::{Anchor, Kernel, Machine};
use anyid_ir::plan::{Plan, Step};
use anyid_ir::{DType, TensorType};

/// Cost of a step or of a whole plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// Those of them that are neither operands nor results of products, attention and convolutions: what
    /// the kernels between them move, and what their ends read.
    pub bytes_between: u64,
}

impl Cost {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            flops: self.flops.saturating_add(other.flops),
            bytes: self.bytes.saturating_add(other.bytes),
            bytes_between: self.bytes_between.saturating_add(other.bytes_between),
        }
    }
}

/// Floating-point operations of `anchor` on operands and with a first result of these types.
fn flops(anchor: Anchor, operands: &[&TensorType], result: &TensorType) -> u64 {
    let elements = |types: &[&TensorType]| types.first().map_or(0, |ty| ty.elements() as u64);
    let out = result.elements() as u64;
    let last = |at: usize| operands.get(at).map_or(1, |ty| ty.last()) as u64;
    let macs = match anchor {
        Anchor::Linear => out.saturating_mul(last(0)),
        Anchor::Dot { transposed } => {
            out.saturating_mul(sides(operands[0], transposed[0]).1 as u64)
        }
        Anchor::Attention { .. } | Anchor::AttentionVjp { .. } => {
            // Queries · keysᵀ and weights · values, each rows × keys × width over all heads; back
            // two products for each of them, and the first one again.
            let rank = operands[1].rank();
            let keys = operands[1].shape[rank - 2] as u64;
            let products = if let Anchor::Attention { .. } = anchor { 2 } else { 5 };
            elements(operands).saturating_mul(keys).saturating_mul(products)
        }
        Anchor::Conv { .. } => {
            let kernel: u64 = operands[1].shape[1..].iter().map(|size| *size as u64).product();
            out.saturating_mul(kernel)
        }
        Anchor::SegmentSum { .. } => 0,
    };
    macs.saturating_mul(2)
}

/// Cost of one step of `plan`.
pub fn step_cost(plan: &Plan, step: &Step) -> Cost {
    let [operands, results] = [step.reads(), step.results()].map(|ids| plan.types(ids));
    let sum =
        |types: &[&TensorType]| types.iter().map(|ty| ty.bytes()).fold(0, u64::saturating_add);
    let written = sum(&results);
    let read = match &step.kernel {
        // Only what is looked at, however much there is of it.
        Kernel::Copy(_) => sum(&operands).min(written),
        Kernel::Gather => written.saturating_add(operands[1].bytes()),
        Kernel::Row(_) | Kernel::Anchor(_) | Kernel::Fill(_) => sum(&operands),
    };
    let mut total = 0u64;
    if let Kernel::Anchor(kernel) = &step.kernel {
        for (part, results) in results.chunks(kernel.anchor.results()).enumerate() {
            let own: Vec<&TensorType> =
                (0..kernel.arity).map(|at| operands[kernel.part_operand(part, at)]).collect();
            total = total.saturating_add(flops(kernel.anchor, &own, results[0]));
        }
    }
    let bytes = read.saturating_add(written);
    let bytes_between = match &step.kernel {
        Kernel::Anchor(kernel) => sum(&operands[kernel.own_operands()..]),
        _ => bytes,
    };
    Cost { flops: total, bytes, bytes_between }
}

/// Cost of all steps.
pub fn plan_cost(plan: &Plan) -> Cost {
    plan.steps.iter().map(|step| step_cost(plan, step)).fold(Cost::default(), Cost::plus)
}

/// Seconds a step takes on `machine` at the least: its launch, and then the peak rate of its
/// arithmetic or of memory, whichever is slower. No cache or imbalance is counted.
pub fn step_seconds(plan: &Plan, step: &Step, machine: &Machine) -> f64 {
    let cost = step_cost(plan, step);
    let dtype = step.reads().first().map_or(DType::F32, |id| plan.buffer(*id).ty.dtype);
    let arithmetic = cost.flops as f64 / machine.rate(dtype);
    machine.launch_seconds + arithmetic.max(cost.bytes as f64 / machine.bytes_per_second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::kernel::{AnchorKernel, Combine};

    #[test]
    fn heavy_ops_count_two_operations_a_multiply_add() {
        let ty = |shape: &[usize]| TensorType::new(DType::F32, shape.iter().copied());
        let cost = |kernel: Kernel, operands: &[TensorType], result: TensorType| {
            let mut plan = Plan::default();
            let mut buffer = |ty: &TensorType| {
                let (ty, root) = (ty.clone(), anyid_ir::plan::Root::Workspace);
                plan.buffers.push(anyid_ir::plan::Buffer::dense(ty, root, 0))
            };
            let operands = operands.iter().map(&mut buffer).collect();
            let results = smallvec::smallvec![buffer(&result)];
            let step = Step { kernel, operands, results, labels: vec![String::new()] };
            step_cost(&plan, &step)
        };
        let anchor = |anchor, arity| Kernel::Anchor(AnchorKernel::plain(anchor, arity));
        let linear = anchor(Anchor::Linear, 3);
        let linear = cost(linear, &[ty(&[5, 8]), ty(&[3, 8]), ty(&[3])], ty(&[5, 3]));
        assert_eq!(
            linear,
            Cost { flops: 2 * 5 * 8 * 3, bytes: 4 * (40 + 24 + 3 + 15), bytes_between: 0 }
        );
        let attention = Anchor::Attention { heads: 2, scale: 1.0, lse: false, last: 1 };
        let qkv = [ty(&[5, 8]), ty(&[7, 8]), ty(&[7, 8])];
        assert_eq!(cost(anchor(attention, 3), &qkv, ty(&[5, 8])).flops, 4 * 5 * 7 * 8);
        let conv = Anchor::Conv { stride: [1; 3], pad: [[1; 2]; 3] };
        let operands = [ty(&[2, 4, 4, 6]), ty(&[9, 6, 3, 3, 3])];
        let flops = cost(anchor(conv, 2), &operands, ty(&[2, 4, 4, 9])).flops;
        assert_eq!(flops, 2 * 2 * 16 * 9 * 6 * 27);
        let dot = cost(
            anchor(Anchor::Dot { transposed: [false; 2] }, 2),
            &[ty(&[2, 3, 4]), ty(&[2, 5, 4])],
            ty(&[2, 3, 5]),
        );
        assert_eq!(dot.flops, 2 * 2 * 3 * 5 * 4);
        let ids = TensorType::new(DType::I32, [2]);
        let rows = cost(Kernel::Gather, &[ty(&[1000, 8]), ids], ty(&[2, 8]));
        assert_eq!(rows, Cost { flops: 0, bytes: 64 + 8 + 64, bytes_between: 64 + 8 + 64 });
        let mut added = AnchorKernel::plain(Anchor::Linear, 2);
        added.combine = Combine::Add;
        let operands = [ty(&[5, 8]), ty(&[3, 8]), ty(&[5, 3])];
        let added = cost(Kernel::Anchor(added), &operands, ty(&[5, 3]));
        assert_eq!((added.bytes, added.bytes_between), (4 * (40 + 24 + 15 + 15), 4 * 15));
    }
}
