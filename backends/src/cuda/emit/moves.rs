//! Copies and gathers: elements that are moved as they are, in pieces as long as alignment allows.
//!
//! A thread moves a piece. What kind of number it holds does not matter, so pieces are plain bytes.

use super::writer::Writer;
use super::{Emitted, Place};
use anyid_ir::kernel::{CopyKernel, Part};

/// Threads of a block.
const THREADS: usize = 256;

/// The type of a piece of so many bytes.
fn bytes(count: usize) -> &'static str {
    match count {
        1 => "unsigned char",
        2 => "unsigned short",
        4 => "unsigned int",
        8 => "unsigned long long",
        16 => "Bytes16",
        _ => unreachable!("pieces are powers of two up to sixteen bytes"),
    }
}

/// Elements of the longest piece for which `fits` holds, of elements of `size` bytes.
fn piece(size: usize, fits: impl Fn(usize) -> bool) -> usize {
    let counts = [16, 8, 4, 2].map(|bytes| bytes / size);
    counts.into_iter().filter(|count| *count > 1).find(|count| fits(*count)).unwrap_or(1)
}

/// Whether part `part` of a copy is made of pieces of `count` elements.
fn divides(part: &Part, operands: &[Place], count: usize) -> bool {
    let Part::Strided { operand, offset, axes } = part else {
        let Part::Zeros(zeros) = part else { unreachable!("the other kind") };
        return zeros.is_multiple_of(count);
    };
    let Some(((size, 1), outer)) = axes.split_last().map(|(last, outer)| (*last, outer)) else {
        return false;
    };
    operands[*operand].takes(count)
        && size.is_multiple_of(count)
        && offset.is_multiple_of(count)
        && outer.iter().all(|(_, stride)| stride.is_multiple_of(count))
}

/// The source of a copy.
pub(super) fn copy(kernel: &CopyKernel, operands: &[Place], result: &Place) -> Emitted {
    let size = result.ty.dtype.bytes();
    let whole = |count: usize| {
        // Only the last axis of a part may be cut, which must not be one of the lines.
        let cut = kernel.parts.iter().all(|part| match part {
            Part::Strided { axes, .. } => {
                let lines: usize =
                    axes.iter().rev().skip(1).map(|(size, _)| *size).product::<usize>();
                lines >= kernel.lines && lines.is_multiple_of(kernel.lines)
            }
            Part::Zeros(_) => true,
        });
        cut && result.takes(count) && kernel.parts.iter().all(|part| divides(part, operands, count))
    };
    let count = piece(size, whole);
    let ty = bytes(count * size);
    let lengths: Vec<usize> =
        kernel.parts.iter().map(|part| kernel.length(part).expect("verified") / count).collect();
    let line: usize = lengths.iter().sum();
    let comment = format!("{}: {} lines of {line} pieces", kernel.name, kernel.lines);
    let mut out = Writer::new(comment, operands, std::slice::from_ref(result));
    let total = kernel.lines * line;
    out.size("pieces", total);
    out.line("const Size at = Size(blockIdx.x) * 256 + threadIdx.x;");
    out.line("if (at >= pieces) return;");
    let strided = kernel.parts.iter().any(|part| matches!(part, Part::Strided { .. }));
    if strided {
        out.line(format!("const Size line = at / {line}, own = at % {line};"));
    }
    out.line(format!("auto to = whole<{ty}>(y0) + at;"));
    let mut first = 0;
    for (at, (part, length)) in kernel.parts.iter().zip(&lengths).enumerate() {
        let last = at + 1 == kernel.parts.len();
        if !last {
            out.line(format!("if (own < {}) {{", first + length));
        }
        match part {
            Part::Zeros(_) => out.line("*to = {};"),
            Part::Strided { operand, offset, axes } => {
                out.line(format!("const Size e = line * {length} + own - {first};"));
                let place = strided_place(axes, offset / count, count);
                out.line(format!("*to = whole<const {ty}>(a{operand})[{place}];"));
            }
        }
        if !last {
            out.line("return;");
            out.line("}");
        }
        first += length;
    }
    out.finish(&kernel.name, [total.div_ceil(THREADS), 1, 1], THREADS)
}

/// Where piece `e` of a part lies: axes in elements, the last of them consecutive if pieces have
/// several.
fn strided_place(axes: &[(usize, usize)], offset: usize, count: usize) -> String {
    let mut terms = Vec::new();
    if offset > 0 {
        terms.push(offset.to_string());
    }
    let mut inner = 1;
    for (at, (size, stride)) in axes.iter().enumerate().rev() {
        let last = at + 1 == axes.len();
        let (size, stride) = match (last, count) {
            (_, 1) => (*size, *stride),
            (true, _) => (size / count, 1),
            (false, _) => (*size, stride / count),
        };
        let index = match (inner, at) {
            (1, 0) => "e".to_owned(),
            (inner, 0) => format!("e / {inner}"),
            (1, _) => format!("e % {size}"),
            (inner, _) => format!("e / {inner} % {size}"),
        };
        if stride > 0 && size > 1 {
            terms.push(if stride == 1 { index } else { format!("{index} * {stride}") });
        }
        inner *= size;
    }
    if terms.is_empty() { "0".to_owned() } else { terms.join(" + ") }
}

/// The source of a gather of rows.
pub(super) fn gather(table: &Place, indices: &Place, result: &Place) -> Emitted {
    let rows = table.ty.shape[0];
    let width = table.ty.elements() / rows.max(1);
    let size = table.ty.dtype.bytes();
    let count = piece(size, |count| {
        width.is_multiple_of(count) && table.takes(count) && result.takes(count)
    });
    let (ty, pieces) = (bytes(count * size), width / count);
    let comment = format!("gather: rows of {pieces} pieces");
    let operands = [table.clone(), indices.clone()];
    let mut out = Writer::new(comment, &operands, std::slice::from_ref(result));
    let total = indices.ty.elements() * pieces;
    let fault = out.table(rows);
    out.size("pieces", total);
    out.line("const Size at = Size(blockIdx.x) * 256 + threadIdx.x;");
    out.line("if (at >= pieces) return;");
    out.line(format!("const Size i = at / {pieces};"));
    out.line(format!("const Size row = picked(a1[i], {rows}, {fault}, i);"));
    out.line(format!(
        "whole<{ty}>(y0)[at] = whole<const {ty}>(a0)[row * {pieces} + at % {pieces}];"
    ));
    out.finish("gather", [total.div_ceil(THREADS), 1, 1], THREADS)
}
