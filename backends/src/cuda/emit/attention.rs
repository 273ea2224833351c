//! Attention in blocks: scores are never in memory.

use super::writer::{Writer, double, element};
use super::{Emitted, Place};
use anyid_ir::kernel::AnchorKernel;

/// Queries of a block.
const ROWS: usize = 16;

/// The source of an attention with so many heads, a factor on the scores, the logarithms of its sums
/// as a second result, and a last key that counts so often.
pub(super) fn emit(
    kernel: &AnchorKernel,
    (heads, scale, lse, last): (usize, f64, bool, usize),
    operands: &[Place],
    results: &[Place],
) -> Emitted {
    let all = results[0].ty.last();
    let width = all / heads;
    let batched = results[0].ty.rank() == 3;
    let rows = |place: &Place| place.ty.shape[usize::from(batched)];
    let (queries, keys) = (rows(&operands[0]), rows(&operands[1]));
    let pages = if batched { results[0].ty.shape[0] } else { 1 };
    let tiles = queries.div_ceil(ROWS);
    let comment = format!("{}: {heads} heads of {width}", kernel.name);
    let mut out = Writer::new(comment, operands, results);
    out.size("queries", queries);
    out.size("keys", keys);
    out.size("tiles", tiles);
    out.line(format!("const Size first = blockIdx.x % tiles * {ROWS};"));
    out.line(format!(
        "const Size head = blockIdx.x / tiles % {heads}, page = blockIdx.x / tiles / {heads};"
    ));
    for (at, (name, count)) in
        [("q", "queries"), ("k", "keys"), ("v", "keys")].into_iter().enumerate()
    {
        let stride = operands[at].stride(all);
        out.line(format!(
            "const auto {name} = [&](Size i, int channel) {{ \
             return get<float>(a{at}[(page * {count} + i) * {stride} + head * {width} + channel]); }};"
        ));
    }
    // Rounded once each, as the definition rounds them.
    out.line("const auto score = [&](Size i, Size j, float v) {");
    out.line(format!("v *= float({});", double(scale)));
    if last != 1 {
        out.line(format!("if (j + 1 == keys) v += float({});", double((last as f64).ln())));
    }
    if operands.len() > 3 {
        out.line("v += get<float>(a3[head * (queries + keys - 1) + j - i + queries - 1]);");
    }
    out.line("return v;");
    out.line("};");
    let (ty, stride) = (element(results[0].ty.dtype), results[0].stride(all));
    out.line("const auto end = [&](Size i, int channel, float v) {");
    out.line(format!(
        "y0[(page * queries + i) * {stride} + head * {width} + channel] = put<{ty}>(v);"
    ));
    out.line("};");
    out.line("const auto log_sum = [&](Size i, float v) {");
    if lse {
        out.line(format!("y1[(page * {heads} + head) * queries + i] = v;"));
    }
    out.line("};");
    out.line(format!("attend<{width}>(queries, keys, first, q, k, v, score, end, log_sum);"));
    out.finish(&kernel.name, [tiles * heads * pages, 1, 1], 128)
}
