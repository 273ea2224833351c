//! Anchors: which template a product, an attention or a convolution is made with, and what happens to
//! its sums in the same kernel.

use super::writer::{Writer, element};
use super::{Architecture, Emitted, Place, attention, product};
use crate::row_passes::gate_rows;
use anyid_ir::DType;
use anyid_ir::kernel::{Activation, Anchor, AnchorKernel, Combine};

/// The source of an anchor.
pub(super) fn emit(
    kernel: &AnchorKernel,
    operands: &[Place],
    results: &[Place],
    architecture: Architecture,
) -> Emitted {
    match kernel.anchor {
        Anchor::Linear => product::linear(kernel, operands, results, architecture),
        Anchor::Dot { transposed } => product::dot(kernel, transposed, operands, results),
        Anchor::Conv { stride, pad } => product::conv(kernel, stride, pad, operands, results),
        Anchor::Attention { heads, scale, lse, last } => {
            attention::emit(kernel, (heads, scale, lse, last), operands, results, architecture)
        }
        Anchor::SegmentSum { segments } => segment_sum(segments, operands, results),
        Anchor::AttentionVjp { heads, scale, bias, last } => {
            attention::vjp(kernel, (heads, scale, bias, last), operands, results)
        }
    }
}

/// Writes the function `end` of (row, column, sum): bias, roundings, activation, residual and gate, in
/// this order, and the result `result`.
pub(super) fn end(
    out: &mut Writer,
    kernel: &AnchorKernel,
    bias: Option<usize>,
    operands: &[Place],
    (at, result): (usize, &Place),
) {
    let width = result.ty.last();
    let (ty, stride) = (element(result.ty.dtype), result.stride(width));
    let gate = match kernel.combine {
        Combine::GateAdd { offset, stride } => {
            let residual = kernel.own_operands();
            let elements = operands[residual + 1].ty.elements();
            let rows = gate_rows((offset, stride), width, elements);
            Some((residual, offset, stride, rows, out.table(rows)))
        }
        _ => None,
    };
    out.line("const auto end = [&](Size i, Size j, float v) {");
    if let Some(bias) = bias {
        out.line(format!("v += get<float>(a{bias}[j]);"));
    }
    round(out, kernel.sums);
    match kernel.activation {
        None => {}
        Some(Activation::Gelu) => out.line("v = gelu(v);"),
        Some(Activation::Silu) => out.line("v = silu(v);"),
    }
    round(out, kernel.activated);
    if let Some((residual, offset, stride, rows, fault)) = gate {
        let (table, segments) = (residual + 1, residual + 2);
        out.line(format!("const Size row = picked(a{segments}[i], {rows}, {fault}, i);"));
        out.line(format!("v *= a{table}[{offset} + row * {stride} + j];"));
    }
    if let Some(residual) = kernel.residual_operand() {
        let stride = operands[residual].stride(width);
        out.line(format!("v = get<float>(a{residual}[i * {stride} + j]) + v;"));
    }
    out.line(format!("y{at}[i * {stride} + j] = put<{ty}>(v);"));
    out.line("};");
}

fn round(out: &mut Writer, to: Option<DType>) {
    if let Some(dtype) = to {
        out.line(format!("v = through<{}>(v);", element(dtype)));
    }
}

/// Sums of the rows of each segment, in doubles and ascending order, a thread for every sum. Rows whose segment is
/// none of them count nowhere.
fn segment_sum(segments: usize, operands: &[Place], results: &[Place]) -> Emitted {
    let (rows, width) = (operands[0].ty.shape[0], operands[0].ty.last());
    let total = segments * width;
    let mut out = Writer::new(format!("segment_sum: {segments} of {width}"), operands, results);
    out.size("rows", rows);
    out.line("const Size at = Size(blockIdx.x) * 256 + threadIdx.x;");
    out.line(format!("if (at >= {total}) return;"));
    out.line(format!("const Size segment = at / {width}, j = at % {width};"));
    out.line("double sum = 0.0;");
    out.line("for (Size i = 0; i < rows; ++i) {");
    out.line(format!("if (Size(a1[i]) == segment) sum += get<double>(a0[i * {width} + j]);"));
    out.line("}");
    out.line(format!("y0[at] = put<{}>(sum);", element(results[0].ty.dtype)));
    out.finish("segment_sum", [total.div_ceil(256), 1, 1], 256)
}
