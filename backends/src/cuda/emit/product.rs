//! Products: linear with its parts, `dot`, and convolution as a product whose rows are read through the
//! positions that they look at.
//!
//! Operands of one half type whose rows are made of aligned pieces go to the tensor units, on Hopper by
//! warp groups if it is no convolution; all other floats are multiplied in f32, and whatever else `dot`
//! takes in doubles.

use super::anchor;
use super::writer::{Writer, element};
use super::{Architecture, Emitted, Place};
use anyid_ir::DType;
use anyid_ir::infer::sides;
use anyid_ir::kernel::{AnchorKernel, Load};

/// Rows and columns of a tile.
const TILE: usize = 64;
/// Elements of a piece of a half type.
const PIECE: usize = 8;

/// Whether rows of `width` elements of two operands can be read in pieces of a half type, and which.
fn halves(a: &Place, b: &Place, strides: [usize; 2], width: usize) -> Option<DType> {
    let dtype = a.ty.dtype;
    let pieces = strides.iter().chain([&width]).all(|size| size.is_multiple_of(PIECE));
    let both = matches!(dtype, DType::Bf16 | DType::F16) && b.ty.dtype == dtype;
    (both && pieces && a.takes(PIECE) && b.takes(PIECE)).then_some(dtype)
}

/// Whether its elements are multiplied in f32.
fn is_float(place: &Place) -> bool {
    matches!(place.ty.dtype, DType::F32 | DType::Bf16 | DType::F16)
}

/// Threads of a block that multiplies elements of this half type, or numbers.
fn threads(half: Option<DType>) -> usize {
    if half.is_some() { 128 } else { 256 }
}

/// A function `name` of (row, k) that gives the number at `place`, or of the row alone, which gives the
/// places of its pieces.
fn rows(out: &mut Writer, name: &str, operand: usize, place: &str, half: Option<DType>) {
    match half {
        Some(_) => {
            let first = place.strip_suffix(" + k").expect("pieces lie along k");
            out.line(format!("const auto {name} = [&](Size i) {{"));
            out.line(format!("const auto first = a{operand} + {first};"));
            out.line("return [first](Size k, bool&) { return first + k; };");
            out.line("};");
        }
        None => out.line(format!(
            "const auto {name} = [&](Size i, Size k) {{ return get<float>(a{operand}[{place}]); }};"
        )),
    }
}

/// Columns of a tile of a product with `n` of them: those of narrow ones are few.
fn columns(half: Option<DType>, n: usize) -> usize {
    if half.is_some() { TILE } else { n.next_power_of_two().clamp(16, TILE) }
}

/// The template of tiles with so many columns.
fn template(half: Option<DType>, columns: usize) -> String {
    match half {
        Some(dtype) => format!("product_of_halves<{}>", element(dtype)),
        None => format!("product_of_numbers<{columns}>"),
    }
}

/// The shared memory of both sides of such a tile, which all parts of a kernel use: each call of a
/// template would have its own.
fn shared_sides(out: &mut Writer, half: Option<DType>, columns: usize) {
    for (name, lines) in [("left", TILE), ("right", columns)] {
        out.line(match half {
            Some(_) => format!("SHARED(Bytes16, {name}, SIDE_OF_HALVES);"),
            None => format!("SHARED(float, {name}, SIDE_OF_NUMBERS<{lines}>);"),
        });
    }
}

/// The call of the template.
fn call(out: &mut Writer, template: &str, column: &str) {
    out.line(format!("{template}(left, right, m, n, k, row, {column}, a, b, end);"));
}

/// `x · Wᵀ` of every part with all that follows.
pub(super) fn linear(
    kernel: &AnchorKernel,
    operands: &[Place],
    results: &[Place],
    architecture: Architecture,
) -> Emitted {
    let x = &operands[0];
    let k = x.ty.last();
    let m = x.ty.elements() / k.max(1);
    let stride = x.stride(k);
    if let Some(emitted) = of_few(kernel, operands, results, [m, k, stride]) {
        return emitted;
    }
    let kinds: Vec<Option<DType>> = (0..kernel.parts)
        .map(|part| halves(x, &operands[kernel.part_operand(part, 1)], [stride, k], k))
        .collect();
    // One launch has one number of threads.
    let half = kinds.iter().all(|kind| *kind == kinds[0]).then_some(kinds[0]).flatten();
    if let (Architecture::Sm90a, Some(half)) = (architecture, half) {
        return by_groups(kernel, operands, results, half);
    }
    let comment = format!("{}: sums of {k}", kernel.name);
    let mut out = Writer::new(comment, operands, results);
    out.size("m", m);
    let k_text = format!("const Size k = {k}, row = Size(blockIdx.x) * {TILE};");
    out.line(k_text);
    let width = |part: usize| operands[kernel.part_operand(part, 1)].ty.shape[0];
    let columns = columns(half, (0..kernel.parts).map(width).max().unwrap_or(0));
    shared_sides(&mut out, half, columns);
    let mut first = 0;
    for part in 0..kernel.parts {
        let (weight, n) = (kernel.part_operand(part, 1), width(part));
        let tiles = n.div_ceil(columns);
        let last = part + 1 == kernel.parts;
        out.line(match last {
            true => "{".to_owned(),
            false => format!("if (blockIdx.y < {}) {{", first + tiles),
        });
        out.line(format!("const Size n = {n};"));
        rows(&mut out, "a", 0, &format!("i * {stride} + k"), half);
        rows(&mut out, "b", weight, &format!("i * {k} + k"), half);
        let bias = (kernel.arity > 2).then(|| kernel.part_operand(part, 2));
        anchor::end(&mut out, kernel, bias, operands, (part, &results[part]));
        let column = format!("Size(blockIdx.y - {first}) * {columns}");
        call(&mut out, &template(half, columns), &column);
        if !last {
            out.line("return;");
        }
        out.line("}");
        first += tiles;
    }
    out.finish(&kernel.name, [m.div_ceil(TILE), first, 1], threads(half))
}

/// Most rows of a product that reads little but its weights, and columns of a block.
const FEW: usize = 8;
const FEW_COLUMNS: usize = 8;

/// [`linear`] of few rows, if all weights have one type and are read in pieces as `x` is: tiles would be
/// nearly empty, and few blocks would read the weights.
fn of_few(
    kernel: &AnchorKernel,
    operands: &[Place],
    results: &[Place],
    [m, k, stride]: [usize; 3],
) -> Option<Emitted> {
    let weight = |part: usize| &operands[kernel.part_operand(part, 1)];
    let dtype = weight(0).ty.dtype;
    let piece = 16 / dtype.bytes();
    let pieces = |place: &Place| is_float(place) && place.takes(piece);
    let weights =
        (0..kernel.parts).all(|part| weight(part).ty.dtype == dtype && pieces(weight(part)));
    let fits = [k, stride].iter().all(|size| size.is_multiple_of(piece));
    if m > FEW || !fits || !weights || !pieces(&operands[0]) {
        return None;
    }
    let rows = m.next_power_of_two();
    let comment = format!("{}: sums of {k}, few rows", kernel.name);
    let mut out = Writer::new(comment, operands, results);
    out.size("m", m);
    let (ty, of_x) = (element(dtype), element(operands[0].ty.dtype));
    out.line(format!("const auto a = [&](Size i, Size k, float (&to)[{piece}]) {{"));
    out.line(format!("load_wide<{piece}, float, {of_x}>(to, a0 + (i * {stride} + k));"));
    out.line("};");
    let mut first = 0;
    for part in 0..kernel.parts {
        let (at, n) = (kernel.part_operand(part, 1), weight(part).ty.shape[0]);
        let (end, last) = (first + n.div_ceil(FEW_COLUMNS), part + 1 == kernel.parts);
        out.line(match last {
            true => "{".to_owned(),
            false => format!("if (blockIdx.x < {end}) {{"),
        });
        out.line(format!("const auto b = [&](Size j) {{ return a{at} + j * {k}; }};"));
        let bias = (kernel.arity > 2).then(|| kernel.part_operand(part, 2));
        anchor::end(&mut out, kernel, bias, operands, (part, &results[part]));
        out.line(format!(
            "product_of_few<{ty}, {rows}>(m, {n}, {k}, Size(blockIdx.x - {first}) * {FEW_COLUMNS}, \
             a, b, end);"
        ));
        if !last {
            out.line("return;");
        }
        out.line("}");
        first = end;
    }
    Some(out.finish(&kernel.name, [first, 1, 1], 256))
}

/// Rows of a tile of warp groups, and stages of its ring.
const GROUP_ROWS: usize = 128;
const STAGES: usize = 4;

/// [`linear`] by warp groups, whose operands the tensor memory unit loads. Blocks of one part follow each
/// other along x, parts along y.
fn by_groups(kernel: &AnchorKernel, operands: &[Place], results: &[Place], half: DType) -> Emitted {
    let k = operands[0].ty.last();
    let m = operands[0].ty.elements() / k;
    let widths: Vec<usize> =
        (0..kernel.parts).map(|part| operands[kernel.part_operand(part, 1)].ty.shape[0]).collect();
    // The widest tile that the widest part fills.
    let widest = widths.iter().copied().max().unwrap_or(0);
    let columns = if widest > 128 { 256 } else { widest.next_power_of_two().clamp(64, 128) };
    let tiles = m.div_ceil(GROUP_ROWS) * widest.div_ceil(columns);
    let comment = format!("{}: sums of {k} by warp groups", kernel.name);
    let mut out = Writer::new(comment, operands, results);
    out.size("m", m);
    out.blocks();
    out.map("x", 0, GROUP_ROWS);
    for (part, n) in widths.iter().enumerate() {
        let weight = kernel.part_operand(part, 1);
        out.map(&format!("w{part}"), weight, columns);
        out.line(format!("if (blockIdx.y == {part}) {{"));
        let bias = (kernel.arity > 2).then(|| kernel.part_operand(part, 2));
        anchor::end(&mut out, kernel, bias, operands, (part, &results[part]));
        let ty = element(half);
        out.line(format!(
            "product_of_groups<{ty}, {columns}, {STAGES}>(x, w{part}, m, {n}, {k}, blocks, end);"
        ));
        out.line("}");
    }
    let mut emitted = out.finish(&kernel.name, [tiles, kernel.parts, 1], 384);
    emitted.grid.shared_bytes = (STAGES * (GROUP_ROWS + columns) * 128) as u32;
    emitted
}

/// Products of pairs of matrices.
pub(super) fn dot(
    kernel: &AnchorKernel,
    transposed: [bool; 2],
    operands: &[Place],
    results: &[Place],
) -> Emitted {
    let [a, b] = [&operands[0], &operands[1]];
    let [(m, k), (n, _)] = [sides(&a.ty, transposed[0]), sides(&b.ty, transposed[1])];
    let pages: usize = a.ty.shape[..a.ty.rank() - 2].iter().product();
    let place = |turned: bool, size: usize| match turned {
        true => format!("page * {} + k * {size} + i", size * k),
        false => format!("page * {} + i * {k} + k", size * k),
    };
    let places = [place(transposed[0], m), place(transposed[1], n)];
    let mut out = Writer::new(format!("{}: sums of {k}", kernel.name), operands, results);
    if !(is_float(a) && is_float(b) && is_float(&results[0])) {
        return exact(out, kernel, places, [pages, m, n, k], &results[0]);
    }
    let plain = transposed == [false, false];
    let half = if plain { halves(a, b, [k, k], k) } else { None };
    let tiles = m.div_ceil(TILE);
    out.line(format!("const Size m = {m}, n = {n}, k = {k};"));
    out.line(format!(
        "const Size page = blockIdx.x / {tiles}, row = blockIdx.x % {tiles} * {TILE};"
    ));
    for (at, (name, place)) in ["a", "b"].iter().zip(&places).enumerate() {
        rows(&mut out, name, at, place, half);
    }
    anchor::end(&mut out, kernel, None, operands, (0, &results[0]));
    out.line("const auto of_page = [&](Size i, Size j, float v) { end(page * m + i, j, v); };");
    let columns = columns(half, n);
    shared_sides(&mut out, half, columns);
    let (template, column) = (template(half, columns), format!("Size(blockIdx.y) * {columns}"));
    out.line(format!("{template}(left, right, m, n, k, row, {column}, a, b, of_page);"));
    out.finish(&kernel.name, [pages * tiles, n.div_ceil(columns), 1], threads(half))
}

/// Products that are summed in doubles, a thread for every sum.
fn exact(
    mut out: Writer,
    kernel: &AnchorKernel,
    [a, b]: [String; 2],
    [pages, m, n, k]: [usize; 4],
    result: &Place,
) -> Emitted {
    let total = pages * m * n;
    out.line("const Size at = Size(blockIdx.x) * 256 + threadIdx.x;");
    out.line(format!("if (at >= {total}) return;"));
    out.line(format!("const Size page = at / {}, row = at / {n} % {m}, column = at % {n};", m * n));
    out.line("double sum = 0.0;");
    out.line(format!("for (Size k = 0; k < {k}; ++k) {{"));
    for (at, (place, index)) in [(a, "row"), (b, "column")].into_iter().enumerate() {
        out.line(format!("const auto place{at} = [&](Size i) {{ return {place}; }};"));
        out.line(format!("const double factor{at} = get<double>(a{at}[place{at}({index})]);"));
    }
    out.line("sum += factor0 * factor1;");
    out.line("}");
    out.line(format!("y0[at] = put<{}>(sum);", element(result.ty.dtype)));
    out.finish(&kernel.name, [total.div_ceil(256), 1, 1], 256)
}

/// Convolution over `[T, H, W, C]`: rows are the positions of the result, and k goes through channels and
/// inside them through taps, as the kernel is stored; where that comes packed, through taps and inside
/// them through channels, which lie together.
pub(super) fn conv(
    kernel: &AnchorKernel,
    stride: [usize; 3],
    pad: [[usize; 2]; 3],
    operands: &[Place],
    results: &[Place],
) -> Emitted {
    let (x, w, y) = (&operands[0].ty, &operands[1].ty, &results[0].ty);
    let taps = match w.shape[2..] {
        [kt, kh, kw] => [kt, kh, kw],
        [kh, kw] => [1, kh, kw],
        _ => unreachable!("verified: a kernel has four or five axes"),
    };
    let factors = match kernel.load {
        Load::Own => [1; 3],
        Load::Nearest(factors) => factors,
    };
    let (n, channels) = (w.shape[0], w.shape[1]);
    let each: usize = taps.iter().product();
    let (m, k) = (y.elements() / n.max(1), channels * each);
    let half = match operands[1].packs {
        true => halves(&operands[0], &operands[1], [channels; 2], channels),
        false => None,
    };
    let units = if half.is_some() { " by tensor units" } else { "" };
    let mut out = Writer::new(format!("{}: sums of {k}{units}", kernel.name), operands, results);
    out.line(format!("const Size m = {m}, n = {n}, k = {k}, row = Size(blockIdx.x) * {TILE};"));
    let (height, width) = (y.shape[1], y.shape[2]);
    let places = [
        format!("i / {}", height * width),
        format!("i / {width} % {height}"),
        format!("i % {width}"),
    ];
    let turns = [
        format!("tap / {}", taps[1] * taps[2]),
        format!("tap / {} % {}", taps[2], taps[1]),
        format!("tap % {}", taps[2]),
    ];
    let names = ["t", "h", "w"];
    let sizes: Vec<usize> = x.shape[..3].iter().zip(factors).map(|(size, f)| size * f).collect();
    let inside: Vec<String> = names
        .iter()
        .zip(&sizes)
        .map(|(name, size)| format!("{name} >= 0 && {name} < {size}"))
        .collect();
    let inside = inside.join(" && ");
    let divided = |(name, factor): (&str, usize)| match factor {
        1 => name.to_owned(),
        factor => format!("{name} / {factor}"),
    };
    let [t, h, w] = [0, 1, 2].map(|axis| divided((names[axis], factors[axis])));
    let (height, width) = (x.shape[1], x.shape[2]);
    let place = format!("((Size({t}) * {height} + {h}) * {width} + {w}) * {channels}");
    if half.is_some() {
        // What depends on the row alone is computed once; numbers of places are small.
        out.line("const auto a = [&](Size i) {");
        for axis in 0..3 {
            let (name, [front, _]) = (names[axis], pad[axis]);
            out.line(format!(
                "const int {name}0 = int({}) * {} - {front};",
                places[axis], stride[axis]
            ));
        }
        out.line("return [&, t0, h0, w0](Size at, bool& there) {");
        out.line(format!("const int tap = int(at) / {channels}, channel = int(at) % {channels};"));
        for axis in 0..3 {
            out.line(format!("const int {0} = {0}0 + {1};", names[axis], turns[axis]));
        }
        out.line(format!("there = there && {inside};"));
        out.line(format!("return a0 + (there ? {place} + channel : 0);"));
        out.line("};");
        out.line("};");
        rows(&mut out, "b", 1, &format!("i * {k} + k"), half);
    } else {
        out.line("const auto a = [&](Size i, Size k) {");
        out.line(format!("const Size channel = k / {each}, tap = k % {each};"));
        for axis in 0..3 {
            let (name, place, turn) = (names[axis], &places[axis], &turns[axis]);
            let [front, _] = pad[axis];
            out.line(format!(
                "const Size {name} = ({place}) * {} + {turn} - {front};",
                stride[axis]
            ));
        }
        out.line(format!("if (!({inside})) return 0.0f;"));
        out.line(format!("return get<float>(a0[{place} + channel]);"));
        out.line("};");
        rows(&mut out, "b", 1, &format!("i * {k} + k"), None);
    }
    let bias = (kernel.arity > 2).then_some(2);
    anchor::end(&mut out, kernel, bias, operands, (0, &results[0]));
    let columns = columns(half, n);
    shared_sides(&mut out, half, columns);
    call(&mut out, &template(half, columns), &format!("Size(blockIdx.y) * {columns}"));
    let blocks = [m.div_ceil(TILE), n.div_ceil(columns), 1];
    let mut emitted = out.finish(&kernel.name, blocks, threads(half));
    emitted.packed.extend(half.map(|_| 1));
    emitted
}
