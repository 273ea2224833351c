//! The edges of arithmetic: infinities, NaN, signed zeros, the bounds of integers, rows without
//! anything to choose from. Every row of the table in `docs/ir.md` is a case here with its value,
//! and beside them every operation meets every special number of its type. Interpreter and
//! devices have to agree to the sign of a zero, in kernels of their own and fused, with every set of
//! instructions.

use anyid_ir::text::parse_module;
use anyid_ir::{DType, Evaluator, Mode, Module, Tensor, TensorType};
use anyid_passes::Options;
use anyid_tests::devices;
use anyid_tests::plans::{Named, Stored, run_plan};

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;
const LARGEST: f64 = f32::MAX as f64;

fn module(text: &str) -> Module {
    parse_module(text, &[]).unwrap_or_else(|e| panic!("{text}\n{e:?}"))
}

fn interpreted(module: &Module, inputs: &Named) -> Result<Vec<Tensor>, String> {
    let inputs: Vec<Tensor> = inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
    let evaluator = Evaluator::new(module, Mode::F32);
    evaluator.run("f", &inputs, &(), None).map_err(|e| e.to_string())
}

/// The answers of every device in every way it has, fused and not.
fn computed(module: &Module, inputs: &Named) -> Vec<(String, Result<Vec<Tensor>, String>)> {
    let mut all = Vec::new();
    for (way, options) in [("fused", Options::default()), ("apart", Options::unfused())] {
        let plan = anyid_passes::CompileRequest::new(module, "f").with(&options).plan();
        let plan = plan.unwrap_or_else(|e| panic!("{way}: {e}"));
        for device in devices::names().iter().flat_map(|name| devices::variants(name, 1)) {
            let out = run_plan(&device, &plan, &Stored::default(), inputs, 0xA5);
            let out = out.map_err(|e| format!("{e:?}"));
            let tensors = out.map(|named| named.into_iter().map(|(_, tensor)| tensor).collect());
            let about = device.about();
            all.push((format!("{way} {} {}", about.name, about.instructions), tensors));
        }
    }
    all
}

/// NaN is NaN, an infinity is that infinity, a zero has its sign; other numbers are within
/// `tolerance` of each other, relative to the larger of `floor` and themselves.
fn agree(given: f64, wanted: f64, tolerance: f64, floor: f64) -> bool {
    if given.is_nan() || wanted.is_nan() {
        return given.is_nan() && wanted.is_nan();
    }
    if given == wanted {
        return given != 0.0 || given.is_sign_negative() == wanted.is_sign_negative();
    }
    (given - wanted).abs() <= tolerance * wanted.abs().max(floor)
}

struct Fault(Vec<String>);

impl Fault {
    fn compare(&mut self, what: &str, module: &Module, inputs: &Named, close: (f64, f64)) {
        let wanted = interpreted(module, inputs);
        for (way, given) in computed(module, inputs) {
            match (&given, &wanted) {
                (Ok(given), Ok(wanted)) => {
                    for (given, wanted) in given.iter().zip(wanted) {
                        let (g, w) = (given.to_f64_vec(), wanted.to_f64_vec());
                        let bad = (0..w.len()).find(|i| !agree(g[*i], w[*i], close.0, close.1));
                        if let Some(at) = bad {
                            let (g, w) = (g[at], w[at]);
                            self.0.push(format!("{what}, {way}: {at} is {g:?}, not {w:?}"));
                        }
                    }
                }
                (Err(_), Err(_)) => {}
                _ => self.0.push(format!("{what}, {way}: {given:?}, not {wanted:?}")),
            }
        }
    }

    fn done(self, cases: usize) {
        let shown = self.0.iter().take(60).cloned().collect::<Vec<_>>().join("\n");
        assert!(self.0.is_empty(), "{} faults in {cases} cases:\n{shown}", self.0.len());
    }
}

fn tensor(dtype: DType, shape: &[usize], values: &[f64]) -> Tensor {
    let ty = TensorType::new(dtype, shape.iter().copied());
    Tensor::from_f64s(ty, values).unwrap_or_else(|e| panic!("{e}"))
}

fn vector(name: &str, dtype: DType, values: &[f64]) -> (String, Tensor) {
    (name.to_owned(), tensor(dtype, &[values.len()], values))
}

/// One row of the table: an op on vectors, and what comes out.
struct Edge {
    op: &'static str,
    operands: &'static [(DType, &'static [f64])],
    result: (DType, &'static [f64]),
}

use DType::{Bf16, Bool, F16, F32, F64, I32, U8};

const EDGES: &[Edge] = &[
    Edge {
        op: "add",
        operands: &[(I32, &[2147483647.0, -2147483648.0]), (I32, &[1.0, -1.0])],
        result: (I32, &[2147483647.0, -2147483648.0]),
    },
    Edge {
        op: "sub",
        operands: &[(U8, &[1.0, 255.0]), (U8, &[2.0, 0.0])],
        result: (U8, &[0.0, 255.0]),
    },
    Edge {
        op: "mul",
        operands: &[(I32, &[65536.0, -65536.0]), (I32, &[65536.0, 65536.0])],
        result: (I32, &[2147483647.0, -2147483648.0]),
    },
    Edge {
        op: "div",
        operands: &[(I32, &[7.0, -7.0, 7.0, -2147483648.0]), (I32, &[2.0, 2.0, 0.0, -1.0])],
        result: (I32, &[3.0, -3.0, 0.0, 2147483647.0]),
    },
    Edge {
        op: "neg",
        operands: &[(I32, &[-2147483648.0, 5.0])],
        result: (I32, &[2147483647.0, -5.0]),
    },
    Edge { op: "neg", operands: &[(U8, &[0.0, 9.0])], result: (U8, &[0.0, 0.0]) },
    Edge { op: "abs", operands: &[(I32, &[-2147483648.0])], result: (I32, &[2147483647.0]) },
    Edge {
        op: "div",
        operands: &[(F32, &[1.0, -1.0, 0.0, 1.0]), (F32, &[0.0, 0.0, 0.0, -0.0])],
        result: (F32, &[INF, -INF, NAN, -INF]),
    },
    Edge {
        op: "mul",
        operands: &[(F32, &[1e38, -0.0, INF]), (F32, &[10.0, 2.0, 0.0])],
        result: (F32, &[INF, -0.0, NAN]),
    },
    Edge { op: "add", operands: &[(F16, &[65504.0]), (F16, &[64.0])], result: (F16, &[INF]) },
    Edge {
        op: "max",
        operands: &[(F32, &[NAN, 1.0, 0.0, -0.0]), (F32, &[1.0, NAN, -0.0, 0.0])],
        result: (F32, &[NAN, NAN, -0.0, 0.0]),
    },
    Edge {
        op: "min",
        operands: &[(F32, &[NAN, 1.0, 0.0, -0.0]), (F32, &[1.0, NAN, -0.0, 0.0])],
        result: (F32, &[NAN, NAN, -0.0, 0.0]),
    },
    Edge {
        op: "max",
        operands: &[(F64, &[NAN, 1.0, 0.0, -0.0]), (F64, &[1.0, NAN, -0.0, 0.0])],
        result: (F64, &[NAN, NAN, -0.0, 0.0]),
    },
    Edge {
        op: "eq",
        operands: &[(F32, &[NAN, 0.0, INF]), (F32, &[NAN, -0.0, INF])],
        result: (Bool, &[0.0, 1.0, 1.0]),
    },
    Edge {
        op: "lt",
        operands: &[(F32, &[NAN, 1.0, -0.0]), (F32, &[1.0, NAN, 0.0])],
        result: (Bool, &[0.0, 0.0, 0.0]),
    },
    Edge {
        op: "ge",
        operands: &[(F32, &[NAN, 1.0, -0.0]), (F32, &[1.0, NAN, 0.0])],
        result: (Bool, &[0.0, 0.0, 1.0]),
    },
    Edge {
        op: "select",
        operands: &[(Bool, &[1.0, 0.0]), (F32, &[1.0, NAN]), (F32, &[NAN, -0.0])],
        result: (F32, &[1.0, -0.0]),
    },
    Edge {
        op: "cast",
        operands: &[(F32, &[NAN, INF, -INF, 3e9, -2.9, 2.9])],
        result: (I32, &[0.0, 2147483647.0, -2147483648.0, 2147483647.0, -2.0, 2.0]),
    },
    Edge {
        op: "cast",
        operands: &[(F32, &[NAN, 300.0, -1.0, 254.9])],
        result: (U8, &[0.0, 255.0, 0.0, 254.0]),
    },
    Edge { op: "cast", operands: &[(I32, &[300.0, -1.0])], result: (U8, &[255.0, 0.0]) },
    Edge {
        op: "cast",
        operands: &[(F32, &[NAN, -0.0, 0.25, INF])],
        result: (Bool, &[1.0, 0.0, 1.0, 1.0]),
    },
    Edge {
        op: "cast",
        operands: &[(F32, &[65520.0, -65519.0, 1e-9, -1e-9, NAN])],
        result: (F16, &[INF, -65504.0, 0.0, -0.0, NAN]),
    },
    Edge {
        op: "cast",
        operands: &[(F32, &[LARGEST, -LARGEST, NAN])],
        result: (Bf16, &[INF, -INF, NAN]),
    },
    Edge {
        op: "cast",
        operands: &[(I32, &[16777217.0, 2147483647.0])],
        result: (F32, &[16777216.0, 2147483648.0]),
    },
    Edge {
        op: "sqrt",
        operands: &[(F32, &[-1.0, -0.0, 0.0, INF])],
        result: (F32, &[NAN, -0.0, 0.0, INF]),
    },
    Edge {
        op: "rsqrt",
        operands: &[(F32, &[-1.0, -0.0, 0.0, INF])],
        result: (F32, &[NAN, -INF, INF, 0.0]),
    },
    Edge {
        op: "log",
        operands: &[(F32, &[-1.0, -0.0, 0.0, INF])],
        result: (F32, &[NAN, -INF, -INF, INF]),
    },
    Edge {
        op: "exp",
        operands: &[(F32, &[-INF, INF, NAN, 89.0])],
        result: (F32, &[0.0, INF, NAN, INF]),
    },
    Edge { op: "recip", operands: &[(F32, &[0.0, -0.0, INF])], result: (F32, &[INF, -INF, 0.0]) },
    Edge {
        op: "tanh",
        operands: &[(F32, &[INF, -INF, -0.0, NAN])],
        result: (F32, &[1.0, -1.0, -0.0, NAN]),
    },
    Edge { op: "sin", operands: &[(F32, &[INF, -0.0])], result: (F32, &[NAN, -0.0]) },
    Edge { op: "cos", operands: &[(F32, &[-INF, 0.0])], result: (F32, &[NAN, 1.0]) },
    Edge {
        op: "floor",
        operands: &[(F32, &[-0.5, -0.0, INF, NAN])],
        result: (F32, &[-1.0, -0.0, INF, NAN]),
    },
    Edge { op: "neg", operands: &[(F32, &[0.0, -0.0, INF])], result: (F32, &[-0.0, 0.0, -INF]) },
    Edge {
        op: "silu",
        operands: &[(F32, &[-INF, INF, NAN, -0.0])],
        result: (F32, &[-0.0, INF, NAN, -0.0]),
    },
    Edge {
        op: "gelu {approx=erf}",
        operands: &[(F32, &[-INF, INF, NAN, -0.0])],
        result: (F32, &[-0.0, INF, NAN, -0.0]),
    },
    Edge {
        op: "erf",
        operands: &[(F32, &[-INF, INF, NAN, -0.0])],
        result: (F32, &[-1.0, 1.0, NAN, -0.0]),
    },
    Edge {
        op: "gelu {approx=tanh}",
        operands: &[(F32, &[-INF, INF, NAN, -0.0])],
        result: (F32, &[-0.0, INF, NAN, -0.0]),
    },
    Edge {
        op: "reduce_max {axes=[0]}",
        operands: &[(F32, &[-0.0, -0.0, -1.0])],
        result: (F32, &[0.0]),
    },
    Edge {
        op: "reduce_max {axes=[0]}",
        operands: &[(F32, &[1.0, NAN, INF])],
        result: (F32, &[NAN]),
    },
    Edge { op: "reduce_max {axes=[0]}", operands: &[(F64, &[-0.0, -INF])], result: (F64, &[0.0]) },
    Edge { op: "reduce_max {axes=[0]}", operands: &[(F32, &[-INF, -INF])], result: (F32, &[-INF]) },
    Edge { op: "reduce_sum {axes=[0]}", operands: &[(F32, &[-0.0, -0.0])], result: (F32, &[0.0]) },
    Edge { op: "reduce_sum {axes=[0]}", operands: &[(F32, &[INF, -INF])], result: (F32, &[NAN]) },
    Edge {
        op: "reduce_sum {axes=[0]}",
        operands: &[(I32, &[2147483647.0, 2147483647.0])],
        result: (I32, &[2147483647.0]),
    },
    Edge {
        op: "reduce_sum {axes=[0]}",
        operands: &[(U8, &[200.0, 200.0])],
        result: (U8, &[255.0]),
    },
    Edge {
        op: "reduce_mean {axes=[0]}",
        operands: &[(I32, &[-1.0, -2.0])],
        result: (I32, &[-1.0]),
    },
];

#[test]
fn every_edge_of_the_table_has_its_value() {
    let mut faults = Fault(Vec::new());
    for edge in EDGES {
        let (name, attributes) = edge.op.split_once(' ').unwrap_or((edge.op, ""));
        let mut inputs = Named::new();
        let (mut params, mut operands) = (Vec::new(), Vec::new());
        for (at, (dtype, values)) in edge.operands.iter().enumerate() {
            params.push(format!("%x{at}: {dtype}[{}]", values.len()));
            operands.push(format!("%x{at}"));
            inputs.push(vector(&format!("x{at}"), *dtype, values));
        }
        let (dtype, wanted) = edge.result;
        let shape =
            if name.starts_with("reduce") { String::new() } else { wanted.len().to_string() };
        let text = format!(
            "module @m\nfunc @f({}) -> {dtype}[{shape}] {{\n  %y = {name} {} {attributes} : \
             {dtype}[{shape}]\n  return %y\n}}\n",
            params.join(", "),
            operands.join(", "),
        );
        let module = module(&text);
        let what = format!("{} of {:?}", edge.op, edge.operands);
        let given = interpreted(&module, &inputs).map(|out| out[0].to_f64_vec());
        let same = |given: &[f64]| given.iter().zip(wanted).all(|(g, w)| agree(*g, *w, 0.0, 0.0));
        if !given.as_ref().is_ok_and(|given| given.len() == wanted.len() && same(given)) {
            faults.0.push(format!("{what}: {given:?}, not {wanted:?}"));
        }
        faults.compare(&what, &module, &inputs, (0.0, 0.0));
    }
    faults.done(EDGES.len());
}

fn special(dtype: DType) -> Vec<f64> {
    let floats = [
        0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, INF, -INF, NAN, 88.9, -104.5, 1e4, -1e4, -150.0,
        255.5, 300.0, 65504.0, 65520.0, 3e9, -3e9, 1e-7, -1e-7, 1e-40, 1e30, -1e30, LARGEST,
        -LARGEST, 1e-45,
    ];
    let numbers: &[f64] = match dtype {
        I32 => &[0.0, 1.0, -1.0, 2.0, -7.0, 255.0, 300.0, 65536.0, 2147483647.0, -2147483648.0],
        U8 => &[0.0, 1.0, 2.0, 7.0, 128.0, 254.0, 255.0],
        Bool => &[0.0, 1.0],
        _ => &floats,
    };
    numbers.iter().map(|v| dtype.round(*v)).collect()
}

#[test]
fn every_function_agrees_on_every_special_number() {
    let (mut faults, mut cases) = (Fault(Vec::new()), 0);
    for dtype in DType::ALL {
        let values = special(dtype);
        let n = values.len();
        let x = vector("x", dtype, &values);
        let mut unary: Vec<(String, DType)> =
            DType::ALL.iter().map(|to| ("cast".to_owned(), *to)).collect();
        if dtype != Bool {
            unary.extend(["neg", "abs"].map(|op| (op.to_owned(), dtype)));
        }
        if dtype.is_float() {
            let more = [
                "exp",
                "log",
                "sqrt",
                "rsqrt",
                "recip",
                "tanh",
                "sin",
                "cos",
                "floor",
                "erf",
                "silu",
                "gelu {approx=tanh}",
                "gelu {approx=erf}",
            ];
            unary.extend(more.map(|op| (op.to_owned(), dtype)));
        }
        for (op, to) in unary {
            let (op, attributes) = op.split_once(' ').unwrap_or((&op, ""));
            let text = format!(
                "module @m\nfunc @f(%x: {dtype}[{n}]) -> {to}[{n}] {{\n  %y = {op} %x \
                 {attributes} : {to}[{n}]\n  return %y\n}}\n"
            );
            cases += 1;
            // Beyond this the argument of a wave says nothing in singles.
            let exact = matches!(op, "cast" | "neg" | "abs" | "sqrt" | "recip" | "floor");
            let close = match (exact, dtype) {
                (true, _) => (0.0, 0.0),
                (_, F32 | F64) => (5e-6, 1e-36),
                _ => (1e-2, 1e-6),
            };
            let inputs = vec![x.clone()];
            faults.compare(&format!("{op} {dtype} to {to}"), &module(&text), &inputs, close);
        }
        let mut binary = vec!["max", "min", "eq", "lt", "le", "gt", "ge"];
        if dtype != Bool {
            binary.extend(["add", "sub", "mul", "div"]);
        }
        let all: Vec<f64> = values.iter().flat_map(|a| values.iter().map(move |_| *a)).collect();
        let other: Vec<f64> = values.iter().flat_map(|_| values.iter().copied()).collect();
        for op in binary {
            let compares = matches!(op, "eq" | "lt" | "le" | "gt" | "ge");
            let to = if compares { Bool } else { dtype };
            // Dense rows, and one operand repeated along each axis.
            for [a, b] in
                [[format!("{n},{n}"), format!("{n},{n}")], [format!("{n},1"), format!("1,{n}")]]
            {
                let text = format!(
                    "module @m\nfunc @f(%x: {dtype}[{a}], %z: {dtype}[{b}]) -> {to}[{n},{n}] {{\n  \
                     %y = {op} %x, %z\n  return %y\n}}\n"
                );
                let dense = !a.ends_with(",1");
                let inputs = if dense {
                    vec![
                        ("x".to_owned(), tensor(dtype, &[n, n], &all)),
                        ("z".to_owned(), tensor(dtype, &[n, n], &other)),
                    ]
                } else {
                    vec![
                        ("x".to_owned(), tensor(dtype, &[n, 1], &values)),
                        ("z".to_owned(), tensor(dtype, &[1, n], &values)),
                    ]
                };
                cases += 1;
                faults.compare(&format!("{op} {dtype} [{a}]"), &module(&text), &inputs, (0.0, 0.0));
            }
        }
    }
    faults.done(cases);
}

/// Numbers between 0 and 1 from a fixed sequence.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn pick<'v, T>(&mut self, values: &'v [T]) -> &'v T {
        &values[(self.next() * values.len() as f64) as usize]
    }
}

#[test]
fn reductions_and_norms_agree_on_rows_of_special_numbers() {
    let (mut faults, mut cases) = (Fault(Vec::new()), 0);
    let mut random = Numbers(3);
    for dtype in [F32, Bf16, F16, F64, I32, U8] {
        for width in [1usize, 2, 8, 16, 17, 70] {
            let rows = 12;
            let choice: Vec<f64> = match dtype.is_float() {
                true => vec![0.0, -0.0, 1.0, -1.0, 2.0, -INF, INF, NAN],
                false => special(dtype),
            };
            // The first rows hold one number each; the later ones two or more.
            let values: Vec<f64> = (0..rows)
                .flat_map(|row| {
                    let few: Vec<f64> = (0..1 + row / 8).map(|_| *random.pick(&choice)).collect();
                    let one = [choice[row % choice.len()]];
                    let from = if row < 8 { one.to_vec() } else { few };
                    (0..width).map(|_| *random.pick(&from)).collect::<Vec<_>>()
                })
                .collect();
            let x = tensor(dtype, &[rows, width], &values);
            for op in ["reduce_sum", "reduce_mean", "reduce_max"] {
                for axis in [0, 1] {
                    let size = if axis == 0 { width } else { rows };
                    let text = format!(
                        "module @m\nfunc @f(%x: {dtype}[{rows},{width}]) -> {dtype}[{size}] {{\n  \
                         %y = {op} %x {{axes=[{axis}]}}\n  return %y\n}}\n"
                    );
                    cases += 1;
                    let what = format!("{op} {dtype} {width} over {axis}");
                    let inputs = vec![("x".to_owned(), x.clone())];
                    faults.compare(&what, &module(&text), &inputs, (1e-6, 1.0));
                }
            }
            if !dtype.is_float() {
                continue;
            }
            for op in [
                "layer_norm %x {eps=1e-6}",
                "rms_norm %x, %g {eps=1e-6}",
                "rms_norm %x, %g {eps=1e-6, clamp=true}",
            ] {
                let text = format!(
                    "module @m\nfunc @f(%x: {dtype}[{rows},{width}], %g: {dtype}[{width}]) -> \
                     {dtype}[{rows},{width}] {{\n  %y = {op}\n  return %y\n}}\n"
                );
                cases += 1;
                let gain = tensor(dtype, &[width], &vec![1.0; width]);
                let inputs = vec![("x".to_owned(), x.clone()), ("g".to_owned(), gain)];
                let close = if matches!(dtype, F32 | F64) { (1e-4, 1.0) } else { (2e-2, 1.0) };
                faults.compare(&format!("{op} {dtype} {width}"), &module(&text), &inputs, close);
            }
        }
    }
    faults.done(cases);
}

fn attention(
    dtype: DType,
    batch: usize,
    [queries, keys]: [usize; 2],
    scale: &str,
    biased: bool,
) -> String {
    let lead = if batch == 1 { String::new() } else { format!("{batch},") };
    let (q, k) = (format!("{dtype}[{lead}{queries},8]"), format!("{dtype}[{lead}{keys},8]"));
    let (param, operand) = match biased {
        true => (format!(", %b: f32[2,{}]", queries + keys - 1), ", %b"),
        false => (String::new(), ""),
    };
    let sums = format!("f32[{lead}2,{queries}]");
    format!(
        "module @m\nfunc @f(%q: {q}, %k: {k}, %v: {k}{param}) -> {q}, {sums} {{\n  %y, %lse = \
         attention %q, %k, %v{operand} {{heads=2, scale={scale}, lse=true}} : {q}, {sums}\n  \
         return %y, %lse\n}}\n"
    )
}

/// Biases over every distance: what is masked, which finite numbers stand beside it, and where.
fn biases(random: &mut Numbers, length: usize) -> Vec<f64> {
    let kinds: [&[f64]; 12] = [
        &[-INF],
        &[-INF, 0.0],
        &[-INF, 0.0, 1.5, -2.0],
        &[-LARGEST],
        &[-LARGEST, -INF],
        &[-LARGEST, -3e38],
        &[-1e30, -1e30],
        &[-1e9],
        &[-1e9, 0.0],
        &[1e10],
        &[INF, 0.0],
        &[NAN, 0.0, 0.0, 0.0],
    ];
    let mut all = Vec::with_capacity(2 * length);
    for _ in 0..2 {
        let from = random.pick(&kinds).to_vec();
        let other = random.pick(&kinds).to_vec();
        let turn = (random.next() * length as f64) as usize;
        for at in 0..length {
            all.push(*random.pick(if at < turn { &from } else { &other }));
        }
    }
    all
}

#[test]
fn attention_rows_agree_whatever_is_masked() {
    let mut faults = Fault(Vec::new());
    let mut random = Numbers(11);
    let cases = 240;
    for case in 0..cases {
        let dtype = if case % 3 == 2 { Bf16 } else { F32 };
        let batch = 1 + case % 2;
        let queries = *random.pick(&[1usize, 3, 20, 70]);
        let keys = *random.pick(&[1usize, 2, 7, 140, 300]);
        let mut rows = |count: usize, size: f64| {
            let values: Vec<f64> =
                (0..batch * count * 8).map(|_| (random.next() - 0.5) * size).collect();
            let shape = if batch == 1 { vec![count, 8] } else { vec![batch, count, 8] };
            tensor(dtype, &shape, &values)
        };
        let (q, k, v) = (rows(queries, 2.0), rows(keys, 2.0), rows(keys, 2.0));
        let bias = tensor(F32, &[2, queries + keys - 1], &biases(&mut random, queries + keys - 1));
        let text = attention(dtype, batch, [queries, keys], "0.5", true);
        let inputs: Named = [("q", q), ("k", k), ("v", v), ("b", bias)]
            .map(|(name, tensor)| (name.to_owned(), tensor))
            .into();
        let close = if dtype == F32 { (1e-5, 1.0) } else { (2e-2, 1.0) };
        let what = format!("case {case}, {dtype} {batch}x{queries}x{keys}");
        faults.compare(&what, &module(&text), &inputs, close);
    }
    faults.done(cases);
}

#[test]
fn large_and_infinite_queries_agree() {
    let mut faults = Fault(Vec::new());
    let mut random = Numbers(12);
    let mut cases = 0;
    for size in [1e3, 1e5, 1e10, 1e18, 1e19, INF] {
        for scale in ["0.5", "0", "-0.5", "1e-10"] {
            cases += 1;
            let mut rows = |size: f64| {
                let odd = |v: f64| if size == INF && v.abs() > 0.4 { v.signum() * INF } else { v };
                let times = if size == INF { 1.0 } else { size };
                let values: Vec<f64> =
                    (0..9 * 8).map(|_| odd(random.next() - 0.5) * times).collect();
                tensor(F32, &[9, 8], &values)
            };
            let inputs: Named = [("q", rows(size)), ("k", rows(size)), ("v", rows(1.0))]
                .map(|(name, tensor)| (name.to_owned(), tensor))
                .into();
            let text = attention(F32, 1, [9, 9], scale, false);
            faults.compare(
                &format!("size {size}, scale {scale}"),
                &module(&text),
                &inputs,
                (0.1, 1.0),
            );
        }
    }
    faults.done(cases);
}

#[test]
fn a_row_with_every_key_masked_is_zero_and_sums_to_nothing() {
    let text = attention(F32, 1, [3, 4], "0.5", true);
    let module = module(&text);
    let inputs: Named = vec![
        ("q".into(), tensor(F32, &[3, 8], &[0.1; 24])),
        ("k".into(), tensor(F32, &[4, 8], &[0.2; 32])),
        ("v".into(), tensor(F32, &[4, 8], &[1.0; 32])),
        ("b".into(), tensor(F32, &[2, 6], &[-INF; 12])),
    ];
    let all = computed(&module, &inputs).into_iter().map(|(_, out)| out);
    for out in all.chain([interpreted(&module, &inputs)]) {
        let out = out.unwrap();
        assert!(out[0].to_f64_vec().iter().all(|v| v.to_bits() == 0.0f64.to_bits()), "{out:?}");
        assert!(out[1].to_f64_vec().iter().all(|v| *v == -INF), "{out:?}");
    }
}

#[test]
fn rows_outside_a_table_are_errors_everywhere() {
    let gather = "module @m\nfunc @f(%t: f32[3,2], %i: i32[2]) -> f32[2,2] {\n  %y = gather %t, %i\n  \
                  return %y\n}\n";
    let picked = "module @m\nfunc @f(%t: f32[3,2], %x: f32[2,2], %i: i32[2]) -> f32[2,2] {\n  \
                  %y = gate_add %x, %x, %t, %i\n  return %y\n}\n";
    let table = ("t".to_owned(), tensor(F32, &[3, 2], &[1.0; 6]));
    let x = ("x".to_owned(), tensor(F32, &[2, 2], &[1.0; 4]));
    for rows in [[0.0, 3.0], [-1.0, 0.0], [2147483647.0, 0.0], [-2147483648.0, 1.0]] {
        let index = vector("i", I32, &rows);
        for (text, inputs) in [
            (gather, vec![table.clone(), index.clone()]),
            (picked, vec![table.clone(), x.clone(), index.clone()]),
        ] {
            let module = module(text);
            assert!(interpreted(&module, &inputs).is_err(), "{rows:?}");
            for (way, out) in computed(&module, &inputs) {
                assert!(out.is_err(), "{way} {rows:?}: {out:?}");
            }
        }
    }
}
