//! Modules made by code survive printing and parsing; hostile text is answered quickly.

use anyid_ir::text::{LARGEST_SOURCE, parse, parse_bytes, parse_module, print, print_func};
use anyid_ir::verify::verify;
use anyid_ir::*;
use std::collections::HashMap;
use std::time::Instant;

fn ty(dtype: DType, shape: &[usize]) -> TensorType {
    TensorType::new(dtype, shape.iter().copied())
}

fn f32s(shape: &[usize]) -> TensorType {
    ty(DType::F32, shape)
}

/// A function's structure without names, locations and weight order: each operand as the number
/// of the value in program order, or the path of a weight.
fn structure(func: &Func) -> Vec<String> {
    let mut numbers: HashMap<ValueId, String> = HashMap::new();
    let mut out = Vec::new();
    let number = |numbers: &mut HashMap<ValueId, String>, values: &[ValueId]| {
        for value in values {
            let next = format!("#{}", numbers.len());
            numbers.insert(*value, next);
        }
    };
    let mut weights = HashMap::new();
    for id in func.walk() {
        if let Op::Weight { path } = &func.nodes[id].op {
            weights.insert(func.nodes[id].results[0], format!("${path}"));
        }
    }
    number(&mut numbers, func.params());
    for id in func.walk() {
        let node = &func.nodes[id];
        if matches!(node.op, Op::Weight { .. }) {
            continue;
        }
        let name = |v: &ValueId| weights.get(v).or_else(|| numbers.get(v)).unwrap().clone();
        let operands: Vec<String> = node.operands.iter().map(name).collect();
        let types: Vec<String> = node.results.iter().map(|v| func.ty(*v).to_string()).collect();
        out.push(format!("{:?} {operands:?} {types:?}", node.op));
        number(&mut numbers, &node.results);
        if let Some(body) = node.body {
            number(&mut numbers, &func.blocks[body].params);
        }
    }
    out
}

#[track_caller]
fn round_trip(module: &Module) -> String {
    let findings = verify(module);
    assert_eq!(findings, [], "{}", print(module));
    let text = print(module);
    let again = parse_module(&text, &[]).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"));
    assert_eq!(print(&again), text);
    assert_eq!(again.weights, module.weights);
    assert_eq!(again.dims, module.dims);
    for (a, b) in module.funcs.iter().zip(&again.funcs) {
        assert_eq!(structure(a), structure(b), "{text}");
        assert_eq!((&a.index_params, &a.scope), (&b.index_params, &b.scope));
        assert_eq!(a.results, b.results);
    }
    assert_eq!(outputs(module), outputs(&again), "{text}");
    text
}

/// Values that differ by element and suit every op: between 0 and 2, integers 0 and 1.
fn values(ty: &TensorType, seed: usize) -> Tensor {
    let whole = !ty.dtype.is_float();
    let value = |i: usize| {
        let x = ((i + seed) * 37 % 64) as f64 / 32.0;
        if whole { x.floor() } else { x }
    };
    Tensor::from_f64s(ty.clone(), &(0..ty.elements()).map(value).collect::<Vec<_>>()).unwrap()
}

/// Bit patterns of what the last function gives.
fn outputs(module: &Module) -> Vec<Vec<u64>> {
    let main = module.main().unwrap();
    let inputs: Vec<Tensor> =
        main.param_types().enumerate().map(|(i, (_, ty))| values(ty, i)).collect();
    let weights = eval::WeightsFrom(|name: &str, ty: &TensorType| Ok(values(ty, name.len())));
    let out = Evaluator::new(module, Mode::F32).run(&main.name, &inputs, &weights, None).unwrap();
    out.iter().map(|t| t.to_f64_vec().into_iter().map(f64::to_bits).collect()).collect()
}

fn single(build: impl FnOnce(&mut FuncBuilder<'_>) -> Vec<ValueId>) -> Module {
    let mut module = Module { name: "test".into(), ..Module::default() };
    let mut f = FuncBuilder::new(&module, "f");
    let results = build(&mut f);
    let func = f.finish(&results);
    module.add(func);
    module
}

/// Every op and every attribute in one function.
fn every_op() -> Module {
    single(|f| {
        let x = f.param("x", f32s(&[4, 6]));
        let y = f.param("y", f32s(&[4, 6]));
        let i = f.param("i", ty(DType::I32, &[3]));
        let clip = f.param("clip", f32s(&[3, 5, 5, 2]));
        let kernel = f.param("kernel", f32s(&[4, 2, 3, 3, 3]));
        let flat = f.param("flat", f32s(&[4, 2, 3, 3]));
        let latent = f.param("latent", f32s(&[2, 2, 4, 6]));
        let seg = f.param("seg", ty(DType::I32, &[4]));
        let table = f.param("table", f32s(&[4, 3, 2]));
        let row = f.param("row", f32s(&[6]));
        let modulation = f.param("modulation", f32s(&[2, 6]));
        let mut out = vec![
            f.scalar("c", DType::Bf16, 0.1),
            f.constant("c", f64::NEG_INFINITY, f32s(&[2, 2])),
            f.constant("c", -0.0, f32s(&[2])),
            f.literal("list", &[1.0, -2.5, 1e-30, f64::INFINITY], f32s(&[2, 2])),
            f.literal("ints", &[1.0, -2.0], ty(DType::I32, &[2])),
            f.iota("iota", 1, ty(DType::I32, &[2, 3])),
            f.cast("half", x, DType::F16),
            f.cast("wide", x, DType::F64),
            f.cast("bytes", x, DType::U8),
            f.cast("truth", x, DType::Bool),
            f.reshape("r", x, [2, 12]),
            f.reshape("scalar", row, [1, 1, 6]),
            f.permute("p", clip, &[3, 0, 1, 2]),
            f.slice("s", x, 1, 2, 3),
            f.index("at", x, 0, 3),
            f.pad("pad", x, 0, 1, 0),
            f.concat("cat", &[x, y, x], 0),
            f.op("g", Op::Gather, &[x, i], None),
            f.op("dot", Op::Dot { transposed: [false; 2] }, &[x, y], None),
            f.op("dot", Op::Dot { transposed: [true; 2] }, &[x, x], None),
            f.op("sums", Op::SegmentSum { segments: 3 }, &[x, seg], None),
            f.op(
                "attn",
                Op::Attention { heads: 2, scale: 0.125, lse: false, last: 1 },
                &[x, y, y],
                None,
            ),
            f.op("ln", Op::LayerNorm { eps: 1e-5 }, &[x], Some(ty(DType::Bf16, &[]))),
            f.op("ln", Op::LayerNorm { eps: 1e-5 }, &[x, row, row], None),
            f.op("rms", Op::RmsNorm { eps: 1e-6, clamp: false }, &[x, row], None),
            f.op("rms", Op::RmsNorm { eps: 1e-12, clamp: true }, &[x, row], None),
            f.op("rope", Op::Rope { heads: 1 }, &[x, table], None),
            f.op("gelu", Op::Gelu, &[x], None),
            f.op("gelu_erf", Op::GeluErf, &[x], None),
            f.op("silu", Op::Silu, &[x], None),
            f.op("mod", Op::Modulate, &[x, modulation, modulation, seg], None),
            f.op("gate", Op::GateAdd, &[x, y, modulation, seg], None),
            f.op("conv", Op::Conv { stride: [1; 3], pad: [[0; 2]; 3] }, &[clip, kernel], None),
            f.op("up", Op::Upsample { factors: Axes::from_slice(&[2, 3]) }, &[x], None),
            f.op("te", Op::TimestepEmbedding { dim: 8 }, &[row], None),
            f.op("rb", Op::RelativeBucket { buckets: 32, max_distance: 128 }, &[i], None),
            f.linear_of("lin", &[x, y], DType::Bf16),
        ];
        let several = Op::Attention { heads: 2, scale: 0.125, lse: true, last: 1 };
        out.extend(f.op_of("several", several, &[x, y, y], &[]));
        let stride = Op::Conv { stride: [2, 2, 1], pad: [[2, 0], [1, 1], [0, 1]] };
        out.push(f.op("conv", stride, &[clip, kernel], None));
        out.push(f.op("conv", Op::Conv { stride: [1; 3], pad: [[0; 2]; 3] }, &[clip, flat], None));
        let rope = Op::RopeTable { rows: 2, cols: 3, head_dim: 12, theta: 10000.0 };
        out.push(f.op("rope_table", rope, &[i], None));
        let tokens = f.op("tok", Op::Patchify { patch: [1, 2, 2] }, &[latent], None);
        let unpatchify = Op::Unpatchify { patch: [1, 2, 2], grid: [2, 2, 3] };
        out.push(f.op("video", unpatchify, &[tokens], None));
        let small = f.reshape("small", row, [1, 6]);
        out.push(f.broadcast("b", small, [5, 6]));
        for function in UnaryFn::ALL {
            let name = function.name();
            out.push(f.unary(name, function, x));
        }
        for function in BinaryFn::ALL {
            let name = function.name();
            out.push(f.binary(name, function, x, y));
        }
        for function in CompareFn::ALL {
            let name = function.name();
            let condition = f.compare(name, function, x, y);
            out.push(f.op("sel", Op::Select, &[condition, x, y], None));
        }
        for function in ReduceFn::ALL {
            let name = function.name();
            out.push(f.reduce(name, function, x, &[0, 1], false));
            out.push(f.reduce(name, function, x, &[1], true));
        }
        out
    })
}

#[test]
fn every_op_prints_and_parses_back() {
    let text = round_trip(&every_op());
    assert!(text.contains("%c.1"), "names are made unique:\n{text}");
    assert!(text.contains("{value=-inf}") && text.contains("{value=-0.0}"), "{text}");
    assert!(text.contains("conv %clip, %kernel {stride=[2,2,1], pad=[2,0,1,1,0,1]}"), "{text}");
}

fn looped() -> Module {
    let mut module = Module { name: "looped".into(), ..Module::default() };
    module.weights = Manifest::new("dit");
    module.weights.add("blocks.{l:0..3}.w", f32s(&[4, 4])).unwrap();
    module.weights.add("blocks.{l:0..3}.b", f32s(&[4])).unwrap();
    module.weights.add("head.odd-name", f32s(&[4])).unwrap();
    module.dims.push(BoundDim { name: "N".into(), value: 2 });
    let mut f = FuncBuilder::new(&module, "block").indexed(&["l"], "blocks.{l}");
    let x = f.param("x", f32s(&[2, 4]));
    let y = f.linear("y", x, "w", Some("b"), DType::F32);
    let func = f.finish(&[y, x]);
    module.add(func);

    let mut f = FuncBuilder::new(&module, "main");
    let x = f.param("x", f32s(&[2, 4]));
    let stack = f.param("stack", f32s(&[3, 4]));
    let odd = f.weight("head.odd-name");
    let out = f.repeat("r", "l", 0..3, &[("x", x)], &[("s", stack)], |f, carries, slots| {
        let args = [IndexArg::Name("l".into())];
        let y = f.call("y", "block", &args, &[carries[0]]);
        let b = f.weight("blocks.{l}.b");
        let z = f.add("z", y[0], slots[0]);
        let z = f.add("z", z, b);
        let z = f.add("z", z, odd);
        let inner = f.repeat("r", "k", 1..2, &[], &[], |f, _, _| {
            let v = f.call("v", "block", &[IndexArg::Name("k".into())], &[z]);
            (vec![], vec![v[1]])
        });
        (vec![z], vec![inner[0]])
    });
    let last = f.call("last", "block", &[IndexArg::Int(2)], &[out[0]]);
    let func = f.finish(&[last[0], out[1]]);
    module.add(func);
    module
}

#[test]
fn loops_calls_and_weights_round_trip() {
    let text = round_trip(&looped());
    for part in [
        "// N = 2\n",
        "repeat l in 0..3 carry(%x.1 = %x) each(%s = %stack) {",
        "repeat k in 1..2 carry() {",
        "call @block<2>(",
        "$blocks.{l}.b",
        "$\"head.odd-name\"",
        "scope \"blocks.{l}\" {",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(text.contains(&print_func(&looped().funcs[0])));
}

#[test]
fn the_printed_form_is_stable() {
    let text = round_trip(&looped());
    let expected = "\
func @block<l>(%x: f32[2,4]) -> f32[2,4], f32[2,4] scope \"blocks.{l}\" {
  %y = linear %x, $w, $b : f32[2,4]
  return %y, %x
}
";
    assert!(text.contains(expected), "{text}");
}

/// A generator of numbers below a bound.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }
}

fn random_nodes(f: &mut FuncBuilder<'_>, r: &mut Random, pool: &mut Vec<ValueId>, depth: usize) {
    const NAMES: [&str; 6] = ["x", "y", "x.1", "", "h h", "x"];
    for _ in 0..1 + r.below(6) {
        let x = pool[r.below(pool.len())];
        let shape = f.shape(x);
        let name = NAMES[r.below(NAMES.len())];
        let axis = r.below(shape.len().max(1));
        let made = match r.below(9) {
            0 => f.binary(name, BinaryFn::ALL[r.below(6)], x, x),
            1 => f.unary(name, UnaryFn::Tanh, x),
            2 if shape.len() < 5 => {
                let mut larger = shape.to_vec();
                larger.insert(r.below(shape.len() + 1), 1);
                f.reshape(name, x, larger)
            }
            3 if shape.len() > 1 => f.reduce(name, ReduceFn::Sum, x, &[axis], r.below(2) == 0),
            4 if !shape.is_empty() && shape[axis] < 9 => f.concat(name, &[x, x], axis),
            5 if !shape.is_empty() => f.pad(name, x, axis, r.below(2), r.below(2)),
            6 => f.scalar(name, DType::F32, r.below(9) as f64 / 7.0),
            7 if depth < 3 => {
                let (lo, length) = (r.below(2) as u32, 1 + r.below(2) as u32);
                let index = ["i", "j", "k"][depth];
                let other = pool[r.below(pool.len())];
                let mut inner = pool.clone();
                let carries = [("x", x), ("c", other)];
                let out = f.repeat(name, index, lo..lo + length, &carries, &[], |f, c, _| {
                    inner.extend(c);
                    random_nodes(f, r, &mut inner, depth + 1);
                    let sum = f.add("sum", c[0], c[0]);
                    (vec![sum, c[1]], vec![*inner.last().unwrap()])
                });
                pool.extend(&out);
                out[r.below(out.len())]
            }
            _ => f.unary(name, UnaryFn::Neg, x),
        };
        if f.ty(made).rank() < 5 && f.ty(made).elements() < 4096 {
            pool.push(made);
        }
    }
}

#[test]
fn random_modules_round_trip_and_compute_the_same() {
    for seed in 0..200 {
        let module = single(|f| {
            let mut r = Random(seed);
            let x = f.param("x", f32s(&[2, 3]));
            let y = f.param("y", f32s(&[1]));
            let mut pool = vec![x, y];
            for _ in 0..3 {
                random_nodes(f, &mut r, &mut pool, 0);
            }
            pool
        });
        round_trip(&module);
    }
}

#[test]
fn hints_of_any_kind_become_names() {
    let module = single(|f| {
        let x = f.param("", f32s(&[2]));
        let hints = ["ffn.h", "a b", "x.1", "x", "x", "x.1", "\u{e4}", "%", "0", "é\"\n"];
        hints.iter().fold(vec![x], |mut values, hint| {
            values.push(f.unary(hint, UnaryFn::Neg, *values.last().unwrap()));
            values
        })
    });
    round_trip(&module);
}

#[test]
fn numbers_as_operands_become_constants_of_the_other_operand() {
    let text = "module @m\nfunc @f(%x: bf16[2,3]) -> bf16[2,3] {\n  %y = mul %x, 0.5\n  \
                %c = gt %y, -1\n  %z = select %c, %y, -inf\n  return %z\n}\n";
    let module = parse_module(text, &[]).unwrap();
    let printed = print(&module);
    assert!(printed.contains("%y.c = const {value=0.5}"), "{printed}");
    assert!(printed.contains(": bf16[]") && printed.contains("value=-inf"), "{printed}");
    assert_eq!(print(&parse_module(&printed, &[]).unwrap()), printed);
}

#[test]
fn one_weight_node_stands_at_the_head_of_the_block_that_needs_it() {
    let module = parse_module(&print(&looped()), &[]).unwrap();
    let main = module.func("main").unwrap();
    let paths = |block: BlockId| -> Vec<String> {
        let nodes = main.blocks[block].nodes.iter().map(|n| &main.nodes[*n].op);
        nodes
            .map_while(|op| match op {
                Op::Weight { path } => Some(path.clone()),
                _ => None,
            })
            .collect()
    };
    assert_eq!(paths(main.entry), ["head.odd-name"]);
    let body = main.blocks.ids().find(|b| !paths(*b).is_empty() && *b != main.entry).unwrap();
    assert_eq!(paths(body), ["blocks.{l}.b"]);
}

// ---- hostile text

fn codes(text: &str) -> Vec<&'static str> {
    parse(text).1.iter().map(|d| d.code).collect()
}

#[test]
fn huge_and_garbage_text_is_answered_quickly() {
    let start = Instant::now();
    let too_large = vec![b'x'; LARGEST_SOURCE + 1];
    assert_eq!(parse_bytes(&too_large).1[0].code, "E0110");
    assert_eq!(parse_bytes(b"module @m\n\xff\xfe").1[0].code, "E0108");
    let size = 60 << 20;
    let header = "module @m\nfunc @f() {\n  %a = add ";
    let body = "module @m\nfunc @f() {\n";
    // Head, repeated part.
    let cases = [
        ("", "("),
        ("", "\u{1F600}"),
        ("", "x"),
        ("", "%a = b\n"),
        (header, "("),
        (header, "%a,"),
        (header, "-"),
        ("module @m\ndim A = ", "("),
        ("module @m\ndim A = ", "1+"),
        ("module @m\ndim A = ", "-"),
        ("module @m\ndim ", "A, "),
        (body, "repeat l in 0..1 {\n"),
        (body, "%a = ^\n"),
        (body, "%a = b {\n"),
        (body, "%a = neg %a\n"),
        ("module @m\n", "func @f() {\n"),
        ("module @m\nweights @w {\n", "\"a\n"),
        ("module @m\nweights @w {\n", "\"a\" : f32[1]\n"),
        ("module @m\n", "\n"),
    ];
    for (head, part) in cases {
        let text = format!("{head}{}", part.repeat(size / part.len()));
        let begin = Instant::now();
        let (source, found) = parse(&text);
        assert!(found.len() <= 50, "{head}{part}");
        let (_, more) = source.bind(&[]);
        let accepted = found.is_empty() && more.is_empty();
        assert_eq!(accepted, part == "\n", "{head}{part}");
        let seconds = begin.elapsed().as_secs_f64();
        let codes: Vec<_> = found.iter().chain(&more).map(|d| d.code).take(3).collect();
        eprintln!("{seconds:6.2} s  {:3} findings {codes:?} {part:?}", found.len() + more.len());
        assert!(seconds < 20.0, "{head}{part}: {seconds} s");
    }
    eprintln!("{:.1} s together", start.elapsed().as_secs_f64());
}

#[test]
fn nesting_is_limited_and_limits_are_errors() {
    let deep = |n: usize| format!("module @m\ndim A = {}1{}", "(".repeat(n), ")".repeat(n));
    assert_eq!(codes(&deep(60)), [""; 0]);
    assert_eq!(codes(&deep(100)), ["E0109"]);
    let loops = |n: usize| {
        let open = "repeat l in 0..1 {\n".repeat(n);
        format!("module @m\nfunc @f() {{\n{open}{}return\n}}", "yield\n}\n".repeat(n))
    };
    assert_eq!(codes(&loops(40)), [""; 0]);
    assert_eq!(codes(&loops(100)), ["E0109"]);
}

#[test]
fn every_prefix_and_every_broken_byte_of_a_module_is_answered() {
    let text = print(&looped());
    for end in 0..text.len() {
        if text.is_char_boundary(end) {
            let (source, _) = parse(&text[..end]);
            let _ = source.bind(&[]);
        }
    }
    // Replacing any byte by any sign must not panic either, whatever it is called.
    for sign in ["{", "}", "(", "%", "\n", "\"", "9", " ", ",", "$", "/"] {
        for at in 0..text.len() {
            let broken = format!("{}{sign}{}", &text[..at], &text[at + 1..]);
            if let Ok(module) = parse_module(&broken, &[]) {
                assert_eq!(verify(&module), []);
                let printed = print(&module);
                let again = parse_module(&printed, &[]).unwrap();
                assert_eq!(print(&again), printed);
            }
        }
    }
}

/// A name that a result gets because its own is taken is not that of another result either.
#[test]
fn results_have_names_of_their_own() {
    let text = "module @m\nfunc @f(%x: f32[2]) -> f32[2], f32[2], f32[2], f32[2] {\n  \
        %y.2 = silu %x\n  %y = neg %x\n  %y.3 = exp %x\n  return %y.2, %y, %y, %y.3\n}\n";
    let module = anyid_ir::text::parse_module(text, &[]).unwrap();
    assert_eq!(module.func("f").unwrap().result_names(), ["y.2", "y", "y.4", "y.3"]);
}
