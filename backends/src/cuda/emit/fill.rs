//! Tensors that are made of numbers alone.
//!
//! Lists of numbers, frequencies and thresholds are computed when the text is made, since their
//! roundings are part of what the tables mean; a kernel reads them beside its operands.

use super::writer::{Writer, double, element};
use super::{Emitted, Place};
use crate::element::write;
use anyid_ir::DType;
use anyid_ir::decompose::timestep_frequency;
use anyid_ir::kernel::Fill;

/// Threads of a block.
const THREADS: usize = 256;

/// The source of a fill.
pub(super) fn emit(fill: &Fill, operands: &[Place], result: &Place) -> Emitted {
    let elements = result.ty.elements();
    let mut out = Writer::new(fill.name().to_owned(), operands, std::slice::from_ref(result));
    out.size("elements", elements);
    out.line("const Size at = Size(blockIdx.x) * 256 + threadIdx.x;");
    out.line("if (at >= elements) return;");
    match fill {
        Fill::Const(values) => constant(&mut out, values, result),
        Fill::Iota(axis) => {
            let (stride, size) = (result.ty.strides()[*axis], result.ty.shape[*axis]);
            let ty = element(result.ty.dtype);
            out.line(format!("y0[at] = put<{ty}>(double(at / {stride} % {size}));"));
        }
        Fill::RopeTable { rows, cols, head_dim, theta } => {
            rope(&mut out, [*rows, *cols], *head_dim, *theta);
        }
        Fill::TimestepEmbedding(dim) => timesteps(&mut out, *dim),
        Fill::RelativeBucket { buckets, max_distance } => {
            buckets_of(&mut out, *buckets, *max_distance);
        }
    }
    out.finish(fill.name(), [elements.div_ceil(THREADS), 1, 1], THREADS)
}

fn constant(out: &mut Writer, values: &[f64], result: &Place) {
    let dtype = result.ty.dtype;
    let mut bytes = vec![0; values.len() * dtype.bytes()];
    for (at, value) in values.iter().enumerate() {
        write(dtype, &mut bytes, at, *value);
    }
    out.constants(element(dtype), bytes);
    let at = if values.len() == 1 { "0" } else { "at" };
    out.line(format!("y0[at] = constants[{at}];"));
}

/// Table `[frames·rows·cols, head_dim/2, 2]` of cosines and sines, angles in f64 (`dit.md` §4).
fn rope(out: &mut Writer, [rows, cols]: [usize; 2], head_dim: usize, theta: f64) {
    let spatial = 2 * (head_dim / 6);
    let temporal = head_dim - 2 * spatial;
    let (pairs, first_row, first_col) = (head_dim / 2, temporal / 2, (temporal + spatial) / 2);
    out.line(format!("const Size token = at / {head_dim}, pair = at / 2 % {pairs};"));
    out.line(format!(
        "const double position = pair < {first_row} ? double(a0[token / {}]) : pair < {first_col} \
         ? double(token / {cols} % {rows}) : double(token % {cols});",
        rows * cols
    ));
    out.line(format!(
        "const Size own = pair < {first_row} ? pair : pair < {first_col} ? pair - {first_row} : \
         pair - {first_col};"
    ));
    out.line(format!("const double channels = pair < {first_row} ? {temporal} : {spatial};"));
    let log = double(theta.ln());
    out.line(format!("const double frequency = exp(-2.0 * double(own) / channels * {log});"));
    out.line("const double angle = position * frequency;");
    out.line("y0[at] = float(at % 2 == 0 ? cos(angle) : sin(angle));");
}

/// Sinusoids `[G, dim]` of timesteps, cosines first (`dit.md` §3.2).
fn timesteps(out: &mut Writer, dim: usize) {
    let half = dim / 2;
    let frequencies = (0..half).flat_map(|i| timestep_frequency(i, half).to_le_bytes());
    out.constants("float", frequencies.collect());
    out.line(format!("const Size step = at / {dim}, own = at % {dim};"));
    // The product is rounded to f32 before its sine is taken.
    out.line(format!("const float turns = a0[step] * constants[own % {half}];"));
    out.line(format!("y0[at] = float(own < {half} ? cos(double(turns)) : sin(double(turns)));"));
}

/// Buckets of distances key − query: the sign, near distances, and thresholds of the far ones
/// (`text.md` §2).
fn buckets_of(out: &mut Writer, buckets: usize, max_distance: usize) {
    let mut place = [0; 4];
    let mut bytes = Vec::new();
    let thresholds = anyid_ir::decompose::bucket_thresholds(buckets, max_distance);
    for threshold in &thresholds {
        write(DType::I32, &mut place, 0, f64::from(*threshold));
        bytes.extend_from_slice(&place);
    }
    // An empty list has no memory.
    if bytes.is_empty() {
        bytes.extend_from_slice(&i32::MAX.to_le_bytes());
    }
    out.constants("int", bytes);
    let (half, near) = (buckets / 2, buckets / 4);
    out.line("const Size delta = a0[at];");
    out.line("const Size distance = delta < 0 ? -delta : delta;");
    out.line(format!("Size bucket = delta > 0 ? {half} : 0;"));
    out.line(format!("bucket += distance < {near} ? distance : {near};"));
    out.line(format!("for (int step = 0; step < {}; ++step) {{", thresholds.len()));
    out.line("bucket += distance >= constants[step];");
    out.line("}");
    out.line("y0[at] = int(bucket);");
}
