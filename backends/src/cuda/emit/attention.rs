//! Attention and its derivative in blocks: scores are never in memory.

use super::writer::{Writer, double, element};
use super::{Architecture, Emitted, Place};
use anyid_ir::DType;
use anyid_ir::kernel::AnchorKernel;

/// Queries of a block, and those where the tensor units multiply.
const ROWS: usize = 16;
const HALF_ROWS: usize = 64;
/// Elements of a piece of a half type, and the widest head that the tensor units take.
const PIECE: usize = 8;
const MOST_WIDTH: usize = 256;

/// The half type of queries, keys and values if they can be read in pieces.
fn halves(operands: &[Place], [all, width]: [usize; 2]) -> Option<DType> {
    let dtype = operands[0].ty.dtype;
    let fits = |place: &Place| {
        place.ty.dtype == dtype && place.takes(PIECE) && place.stride(all).is_multiple_of(PIECE)
    };
    let half = matches!(dtype, DType::Bf16 | DType::F16) && operands[..3].iter().all(fits);
    (half && width.is_multiple_of(16) && width <= MOST_WIDTH).then_some(dtype)
}

/// Queries and keys of a block of warp groups, and bytes of their tiles' rows.
const GROUP_ROWS: usize = 128;
const PART_BYTES: usize = 128 * GROUP_ROWS;
/// Blocks of keys and of values that are loaded ahead.
const GROUP_STAGES: usize = 4;

/// The source of an attention with so many heads, a factor on the scores, the logarithms of its sums
/// as a second result, and a last key that counts so often.
pub(super) fn emit(
    kernel: &AnchorKernel,
    (heads, scale, lse, last): (usize, f64, bool, usize),
    operands: &[Place],
    results: &[Place],
    architecture: Architecture,
) -> Emitted {
    let all = results[0].ty.last();
    let width = all / heads;
    let batched = results[0].ty.rank() == 3;
    let rows = |place: &Place| place.ty.shape[usize::from(batched)];
    let (queries, keys) = (rows(&operands[0]), rows(&operands[1]));
    let pages = if batched { results[0].ty.shape[0] } else { 1 };
    let half = halves(operands, [all, width]);
    // A load of several rows would go on in the next page.
    let fits = architecture == Architecture::Sm90a && !batched && matches!(width, 64 | 128);
    let groups = half.filter(|_| fits);
    let (tile, units) = match (groups, half) {
        (Some(_), _) => (GROUP_ROWS, " by warp groups"),
        (None, Some(_)) => (HALF_ROWS, " by tensor units"),
        (None, None) => (ROWS, ""),
    };
    let tiles = queries.div_ceil(tile);
    let comment = format!("{}: {heads} heads of {width}{units}", kernel.name);
    let mut out = Writer::new(comment, operands, results);
    if half.is_some() && groups.is_none() {
        out.resident(2);
    }
    out.size("queries", queries);
    out.size("keys", keys);
    out.size("tiles", tiles);
    out.line(format!("const Size first = blockIdx.x % tiles * {tile};"));
    out.line(format!(
        "const Size head = blockIdx.x / tiles % {heads}, page = blockIdx.x / tiles / {heads};"
    ));
    for (at, (name, count)) in
        [("q", "queries"), ("k", "keys"), ("v", "keys")].into_iter().enumerate()
    {
        if groups.is_some() {
            out.map(name, at, GROUP_ROWS);
            continue;
        }
        let stride = operands[at].stride(all);
        let place = format!("(page * {count} + i) * {stride} + head * {width} + channel");
        let given = match half {
            Some(_) => format!("a{at} + {place}"),
            None => format!("get<float>(a{at}[{place}])"),
        };
        out.line(format!("const auto {name} = [&](Size i, int channel) {{ return {given}; }};"));
    }
    let table = (operands.len() > 3).then_some(3);
    score(&mut out, (scale, last), table);
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
    if let Some(dtype) = groups {
        // The factor is rounded as in `score`.
        let plain = table.is_none() && (scale as f32) > 0.0;
        out.line(format!(
            "attend_by_groups<{}, {width}, {GROUP_STAGES}, {plain}>(q, k, v, queries, keys, first, \
             head * {width}, float({}), score, end, log_sum);",
            element(dtype),
            double(scale)
        ));
        let mut emitted = out.finish(&kernel.name, [tiles * heads, 1, 1], 384);
        let bytes = (GROUP_STAGES + 1) * width / 64 * PART_BYTES;
        emitted.grid.shared_bytes = bytes as u32;
        return emitted;
    }
    let template = match half {
        Some(dtype) => format!("attend_halves<{}, {width}>", element(dtype)),
        None => format!("attend<{width}>"),
    };
    out.line(format!("{template}(queries, keys, first, q, k, v, score, end, log_sum);"));
    out.finish(&kernel.name, [tiles * heads * pages, 1, 1], 128)
}

/// Writes the function `score` of (query, key, product of both).
fn score(out: &mut Writer, (scale, last): (f64, usize), table: Option<usize>) {
    // Rounded once each, as the definition rounds them.
    out.line("const auto score = [&](Size i, Size j, float v) {");
    out.line(format!("v *= float({});", double(scale)));
    if last != 1 {
        out.line(format!("if (j + 1 == keys) v += float({});", double((last as f64).ln())));
    }
    if let Some(table) = table {
        out.line(format!(
            "v += get<float>(a{table}[head * (queries + keys - 1) + j - i + queries - 1]);"
        ));
    }
    out.line("return v;");
    out.line("};");
}

/// The source of the derivative of an attention. Blocks own tiles of queries, tiles of keys, and behind
/// them tiles of the bias's differences, so that every sum is formed by one block in one order.
pub(super) fn vjp(
    kernel: &AnchorKernel,
    (heads, scale, bias, last): (usize, f64, bool, usize),
    operands: &[Place],
    results: &[Place],
) -> Emitted {
    let all = results[0].ty.last();
    let width = all / heads;
    let batched = results[0].ty.rank() == 3;
    let rows = |place: &Place| place.ty.shape[usize::from(batched)];
    let (queries, keys) = (rows(&operands[0]), rows(&operands[1]));
    let pages = if batched { results[0].ty.shape[0] } else { 1 };
    // `BackTile` has as many.
    let tile = if width <= 128 { 16 } else { 8 };
    let (across, down) = (queries.div_ceil(tile), keys.div_ceil(tile));
    let comment = format!("{}: {heads} heads of {width}", kernel.name);
    let mut out = Writer::new(comment, operands, results);
    for (name, size) in [
        ("pages", pages),
        ("queries", queries),
        ("keys", keys),
        ("query_tiles", across),
        ("key_tiles", down),
    ] {
        out.size(name, size);
    }
    out.line("const Size own = blockIdx.x, tiles = query_tiles + key_tiles;");
    let mut blocks = pages * heads * (across + down);
    if bias {
        let differences = (queries + keys - 1).div_ceil(tile);
        out.size("differences", differences);
        blocks += heads * differences;
        out.line(format!("const Size behind = own - pages * {heads} * tiles;"));
        out.line(format!(
            "const Size head = behind >= 0 ? behind / differences : own / tiles % {heads};"
        ));
    } else {
        out.line(format!("const Size head = own / tiles % {heads};"));
    }
    let names = [("q", 0), ("k", 1), ("v", 2), ("out", 3), ("slope", 5)];
    for (name, at) in names {
        let (stride, count) =
            (operands[at].stride(all), if matches!(at, 1 | 2) { "keys" } else { "queries" });
        out.line(format!(
            "const auto all_{name} = [&](Size page, Size i, int channel) {{ \
             return get<float>(a{at}[(page * {count} + i) * {stride} + head * {width} + channel]); }};"
        ));
    }
    out.line(format!(
        "const auto all_log_sum = [&](Size page, Size i) {{ \
         return a4[(page * {heads} + head) * queries + i]; }};"
    ));
    score(&mut out, (scale, last), bias.then_some(6));
    out.line(format!("SHARED(float, memory, BACK_FLOATS<{width}>);"));
    if bias {
        let ty = element(results[3].ty.dtype);
        out.line("if (behind >= 0) {");
        out.line("const auto end = [&](Size at, float v) {");
        out.line(format!("y3[head * (queries + keys - 1) + at] = put<{ty}>(v);"));
        out.line("};");
        out.line(format!(
            "attend_back_bias<{width}>(memory, pages, queries, keys, behind % differences * {tile}, \
             all_q, all_k, all_v, all_out, all_slope, score, all_log_sum, end);"
        ));
        out.line("return;");
        out.line("}");
    }
    out.line(format!("const Size page = own / tiles / {heads}, tile = own % tiles;"));
    for (name, _) in names {
        out.line(format!(
            "const auto {name} = [&](Size i, int channel) {{ return all_{name}(page, i, channel); }};"
        ));
    }
    out.line("const auto log_sum = [&](Size i) { return all_log_sum(page, i); };");
    for (name, at, count) in [("query", 0, "queries"), ("key", 1, "keys"), ("value", 2, "keys")] {
        let (ty, stride) = (element(results[at].ty.dtype), results[at].stride(all));
        let factor = if at == 2 { String::new() } else { format!(" * float({})", double(scale)) };
        out.line(format!("const auto {name}_end = [&](Size i, int channel, float v) {{"));
        out.line(format!(
            "y{at}[(page * {count} + i) * {stride} + head * {width} + channel] = put<{ty}>(v{factor});"
        ));
        out.line("};");
    }
    let given = "q, k, v, out, slope, score, log_sum";
    out.line("if (tile < query_tiles) {");
    out.line(format!(
        "attend_back_queries<{width}>(memory, queries, keys, tile * {tile}, {given}, query_end);"
    ));
    out.line("return;");
    out.line("}");
    out.line(format!(
        "attend_back_keys<{width}>(memory, queries, keys, (tile - query_tiles) * {tile}, {given}, \
         key_end, value_end);"
    ));
    out.finish(&kernel.name, [blocks, 1, 1], 128)
}
