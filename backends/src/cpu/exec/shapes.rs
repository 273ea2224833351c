//! The shapes of a step's kernel, and the scratch that it needs.

use super::super::attention::{self, AttentionShape};
use super::super::conv::{self, ConvShape, UpsampleShape};
use super::super::{Cpu, gemm, kernel_shape, panel_kind, upsampled};
use anyid_ir::kernel::{AnchorKernel, Kernel, Load};
use anyid_ir::plan::{Plan, Root, Step};
use anyid_ir::{DType, Op};

pub(super) fn attention_shape(
    plan: &Plan,
    step: &Step,
    heads: usize,
) -> (AttentionShape, attention::Precision) {
    let (q, k) = (&plan.buffer(step.operands[0]).ty, &plan.buffer(step.operands[1]).ty);
    let rank = q.rank();
    let shape = AttentionShape {
        batch: if rank == 3 { q.shape[0] } else { 1 },
        heads,
        head_dim: q.last() / heads,
        queries: q.shape[rank - 2],
        keys: k.shape[rank - 2],
    };
    let precision = match q.dtype {
        DType::Bf16 => attention::Precision::Bf16,
        _ => attention::Precision::F32,
    };
    (shape, precision)
}

pub(super) fn conv_shape(
    plan: &Plan,
    step: &Step,
    stride: [usize; 3],
    pad: [[usize; 2]; 3],
) -> ConvShape {
    let x = &plan.buffer(step.operands[0]).ty;
    let kernel = kernel_shape(&plan.buffer(step.operands[1]).ty.shape);
    ConvShape {
        input: [x.shape[0], x.shape[1], x.shape[2]],
        cin: kernel[1],
        cout: kernel[0],
        kernel: [kernel[2], kernel[3], kernel[4]],
        stride,
        padding: pad.map(|[lo, hi]| (lo, hi)),
    }
}

/// The shape of a convolution that reads through a load, where there is a kernel for it.
pub(super) fn doubled_shape(
    plan: &Plan,
    step: &Step,
    kernel: &AnchorKernel,
) -> Option<UpsampleShape> {
    let [x, w] = [0, 1].map(|at| &plan.buffer(step.operands[at]).ty);
    let shape = upsampled(kernel.load, &kernel.op, x, w)?;
    conv::upsample_conv_fits(&shape, panel_kind(x.dtype, w.dtype)).then_some(shape)
}

/// Rows, columns and length of the sums of a part of a linear step.
pub(super) fn linear_shape(plan: &Plan, step: &Step, weight: usize) -> (usize, usize, usize) {
    let (x, w) = (&plan.buffer(step.operands[0]).ty, &plan.buffer(step.operands[weight]).ty);
    let k = x.last();
    (x.elements() / k.max(1), w.shape[0], k)
}

pub(super) fn scratch_bytes(cpu: &Cpu, plan: &Plan, step: &Step) -> usize {
    let Kernel::Anchor(kernel) = &step.kernel else { return 0 };
    // A launch without results is none, and shapes without elements may have any size.
    if step.results.iter().all(|id| plan.buffer(*id).ty.elements() == 0) {
        return 0;
    }
    let workers = cpu.pool().threads();
    let dtype = |at: usize| plan.buffer(step.operands[at]).ty.dtype;
    match &kernel.op {
        Op::Linear => (0..kernel.parts)
            .map(|part| {
                let weight = kernel.part_operand(part, 1);
                let shape = linear_shape(plan, step, weight);
                let kind = panel_kind(dtype(0), dtype(weight));
                if matches!(plan.buffer(step.operands[weight]).root, Root::Weight(_)) {
                    gemm::gemm_scratch_bytes(cpu.level(), shape, kind, workers)
                } else {
                    gemm::gemm_dynamic_scratch_bytes(cpu.level(), shape, kind, workers)
                }
            })
            .max()
            .unwrap_or(0),
        Op::Attention { heads, .. } => {
            let (shape, precision) = attention_shape(plan, step, *heads);
            let bias = kernel.arity == 4;
            attention::scratch_bytes(cpu.level(), &shape, precision, bias, workers)
        }
        Op::Conv { stride, pad } => {
            let (level, kind) = (cpu.level(), panel_kind(dtype(0), dtype(1)));
            if kernel.load != Load::Own {
                let shape = doubled_shape(plan, step, kernel);
                return shape.map_or(0, |s| conv::upsample_conv_scratch_bytes(level, &s, kind));
            }
            let shape = conv_shape(plan, step, *stride, *pad);
            conv::conv_scratch_bytes(level, &shape, kind, workers)
        }
        _ => 0,
    }
}
