//! Fused plans against unfused ones: each rule by itself, then random mixes of ops.

use crate::common::{check, in_place, kinds, plan, run, values};
use anyid_backends::RunError;
use anyid_ir::{
    BinaryFn, CompareFn, DType, FuncBuilder, Manifest, Module, Op, ReduceFn, TensorType, UnaryFn,
    ValueId,
};
use anyid_tests::devices;
use anyid_tests::plans::{Plans, Stored};
use std::sync::Arc;

fn ty(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape.iter().copied())
}

/// A module with function `f` made by `build` and weights `w.<name>` of the given shapes.
fn module(
    weights: &[(&str, DType, &[usize])],
    build: impl FnOnce(&mut FuncBuilder<'_>) -> Vec<ValueId>,
) -> Module {
    let mut manifest = Manifest::new("w");
    for (name, dtype, shape) in weights {
        manifest.add(name, TensorType::new(*dtype, shape.iter().copied())).unwrap();
    }
    let mut module = Module { name: "m".into(), weights: manifest, ..Module::default() };
    let mut b = FuncBuilder::new(&module, "f");
    let results = build(&mut b);
    let func = b.finish(&results);
    module.add(func);
    module
}

const N: usize = 70;
const D: usize = 150;

fn bf16() -> Option<TensorType> {
    Some(TensorType::new(DType::Bf16, []))
}

#[test]
fn norm_and_modulation_are_one_kernel_with_the_same_bits() {
    for width in [6, 64, D, 1100, 2500] {
        let m = module(&[], |b| {
            let x = b.param("x", ty(&[N, width]));
            let e = b.param("e", ty(&[2, 6, width]));
            let seg = b.param("seg", TensorType::new(DType::I32, [N]));
            let shift = b.index("shift", e, 1, 3);
            let scale = b.index("scale", e, 1, 4);
            let n = b.op("n", Op::LayerNorm { eps: 1e-6 }, &[x], None);
            vec![b.op("h", Op::Modulate, &[n, shift, scale, seg], bf16())]
        });
        assert_eq!(kinds(&check(&m, "f", 0.0)), ["layer_norm+modulate"]);
    }
}

#[test]
fn norm_and_rotation_of_two_branches_are_one_kernel_in_place() {
    let weights: [(&str, DType, &[usize]); 4] = [
        ("q", DType::Bf16, &[96, 64]),
        ("k", DType::Bf16, &[96, 64]),
        ("gq", DType::F32, &[96]),
        ("gk", DType::F32, &[96]),
    ];
    let m = module(&weights, |b| {
        let x = b.param("x", TensorType::new(DType::Bf16, [N, 64]));
        let table = b.param("table", ty(&[N, 6, 2]));
        let norm = Op::RmsNorm { eps: 1e-6, clamp: false };
        let mut out = Vec::new();
        for side in ["q", "k"] {
            let y = b.linear("y", x, side, None, DType::Bf16);
            let gain = b.weight(&format!("g{side}"));
            let y = b.op("n", norm.clone(), &[y, gain], None);
            out.push(b.op("r", Op::Rope { heads: 8 }, &[y, table], None));
        }
        out
    });
    let plan = check(&m, "f", 0.0);
    assert_eq!(kinds(&plan), ["linear*2", "rms_norm+rope+rms_norm+rope"]);
    assert_eq!(in_place(&plan), 1);
}

#[test]
fn products_take_activation_residual_gate_and_rounding() {
    let weights: [(&str, DType, &[usize]); 2] =
        [("w", DType::F32, &[D, D]), ("b", DType::F32, &[D])];
    let m = module(&weights, |b| {
        let x = b.param("x", ty(&[N, D]));
        let gate = b.param("gate", ty(&[2, 6, D]));
        let gate = b.index("g", gate, 1, 2);
        let seg = b.param("seg", TensorType::new(DType::I32, [N]));
        let y = b.linear("y", x, "w", Some("b"), DType::F32);
        let y = b.op("y", Op::Gelu, &[y], None);
        let o = b.linear("o", y, "w", Some("b"), DType::F32);
        let x1 = b.op("x1", Op::GateAdd, &[y, o, gate, seg], None);
        let o = b.linear("o", x1, "w", Some("b"), DType::F32);
        let x2 = b.add("x2", x1, o);
        let o = b.linear("o", x2, "w", None, DType::F32);
        let o = b.op("s", Op::Silu, &[o], None);
        vec![b.cast("c", o, DType::Bf16), x2]
    });
    let plan = check(&m, "f", 1e-2);
    let expected = ["linear+gelu", "linear+gate_add", "linear+add", "linear+silu+cast"];
    assert_eq!(kinds(&plan), expected);
    assert_eq!(in_place(&plan), 0, "each residual is also what its product reads");
}

#[test]
fn a_bf16_residual_is_added_in_f32_and_rounded_once_in_the_product() {
    let weights: [(&str, DType, &[usize]); 2] =
        [("w", DType::Bf16, &[D, D]), ("b", DType::F32, &[D])];
    let m = module(&weights, |b| {
        let x = b.param("x", TensorType::new(DType::Bf16, [N, D]));
        let a = b.param("a", TensorType::new(DType::Bf16, [N, D]));
        let gate = b.param("gate", ty(&[2, D]));
        let seg = b.param("seg", TensorType::new(DType::I32, [N]));
        let o = b.linear("o", a, "w", Some("b"), DType::F32);
        let x1 = b.op("x1", Op::GateAdd, &[x, o, gate, seg], None);
        let n = b.op("n", Op::LayerNorm { eps: 1e-6 }, &[x1], bf16());
        let o = b.linear("o2", n, "w", Some("b"), DType::F32);
        let wide = b.cast("wide", x1, DType::F32);
        let sum = b.add("sum", wide, o);
        vec![b.cast("x2", sum, DType::Bf16)]
    });
    let plan = check(&m, "f", 0.0);
    assert_eq!(kinds(&plan), ["linear+gate_add", "layer_norm", "linear+add+cast"]);
    assert_eq!(in_place(&plan), 1, "the second sum lies over the first");
}

#[test]
fn widening_costs_no_kernel_and_rounding_stays() {
    let m = module(&[("w", DType::Bf16, &[D, D])], |b| {
        let x = b.param("x", TensorType::new(DType::Bf16, [N, D]));
        let y = b.param("y", ty(&[N, D]));
        let wide = b.cast("wide", x, DType::F32);
        let norm = b.op("norm", Op::LayerNorm { eps: 1e-6 }, &[wide], None);
        let sum = b.add("sum", wide, norm);
        // Products read what lies in memory: the widened value is made for this one.
        let o = b.linear("o", x, "w", None, DType::F32);
        let narrow = b.cast("narrow", y, DType::Bf16);
        let again = b.cast("again", narrow, DType::F32);
        let rounded = b.binary("rounded", BinaryFn::Sub, y, again);
        let half = b.linear("half", x, "w", None, DType::Bf16);
        vec![sum, o, rounded, b.cast("back", half, DType::F32)]
    });
    let plan = check(&m, "f", 0.0);
    assert_eq!(kinds(&plan), ["layer_norm+add", "linear", "cast+sub", "linear+cast"]);
    let rounded = &run(&[&plan], 1)[2];
    assert!(values(rounded).iter().any(|v| *v != 0.0), "what bf16 cuts off");
}

#[test]
fn a_value_needed_elsewhere_is_stored_or_not_fused() {
    let m = module(&[("w", DType::F32, &[D, D])], |b| {
        let x = b.param("x", ty(&[N, D]));
        let o = b.linear("o", x, "w", None, DType::F32);
        let g = b.op("g", Op::Gelu, &[o], None);
        let s = b.unary("s", UnaryFn::Tanh, g);
        let p = b.add("p", s, g);
        vec![o, s, p]
    });
    assert_eq!(kinds(&check(&m, "f", 0.0)), ["linear", "gelu+tanh+add"]);
}

#[test]
fn nothing_is_fused_around_a_third_kernel() {
    // a feeds a product and, with it, the sum: fusing a with the sum would be a cycle.
    let m = module(&[("w", DType::F32, &[D, D])], |b| {
        let x = b.param("x", ty(&[N, D]));
        let a = b.unary("a", UnaryFn::Tanh, x);
        let norm = b.op("norm", Op::LayerNorm { eps: 1e-6 }, &[a], None);
        let o = b.linear("o", norm, "w", None, DType::F32);
        let n = b.op("n", Op::LayerNorm { eps: 1e-6 }, &[o], None);
        vec![b.mul("y", n, a)]
    });
    let expected = ["tanh+layer_norm", "linear", "layer_norm+mul"];
    assert_eq!(kinds(&check(&m, "f", 0.0)), expected);
    let cuts = anyid_passes::CompileRequest::new(&m, "f").unfused().unwrap();
    let why = |producer: &str| {
        let found = cuts.iter().find(|c| c.producer.ends_with(producer));
        found.map_or("", |c| c.reason.as_str()).to_owned()
    };
    assert!(why("/a").contains("lies between") || why("/norm").contains("anchors"), "{cuts:?}");
}

#[test]
fn table_sums_of_many_blocks_are_few_kernels() {
    let names: Vec<String> = (0..9).map(|l| format!("w{l}")).collect();
    let weights: Vec<(&str, DType, &[usize])> =
        names.iter().map(|n| (n.as_str(), DType::F32, &[1, 6, 40][..])).collect();
    let m = module(&weights, |b| {
        let e = b.param("e", ty(&[2, 6, 40]));
        let mut out = Vec::new();
        for name in &names {
            let w = b.weight(name);
            let sum = b.add("sum", e, w);
            out.push(sum);
        }
        out
    });
    assert_eq!(kinds(&check(&m, "f", 0.0)), ["add*7", "add*2"], "16 bindings each");
}

#[test]
fn norms_in_primitives_reductions_and_selection_fuse() {
    let m = module(&[], |b| {
        let x = b.param("x", ty(&[5, 14, D]));
        let square = b.mul("square", x, x);
        let mean = b.reduce("mean", ReduceFn::Mean, square, &[2], true);
        let eps = b.scalar("eps", DType::F32, 1e-6);
        let sum = b.add("sum", mean, eps);
        let rate = b.unary("rate", UnaryFn::Rsqrt, sum);
        let n = b.mul("n", x, rate);
        let largest = b.reduce("largest", ReduceFn::Max, n, &[2], false);
        let zero = b.scalar("zero", DType::F32, 0.0);
        let positive = b.compare("positive", CompareFn::Gt, n, zero);
        let low = b.unary("low", UnaryFn::Neg, n);
        let y = b.op("y", Op::Select, &[positive, n, low], None);
        let floor = b.unary("floor", UnaryFn::Floor, y);
        vec![b.binary("d", BinaryFn::Max, y, floor), largest, rate, positive]
    });
    let plan = check(&m, "f", 2e-7);
    assert_eq!(plan.steps.len(), 1, "{:?}", kinds(&plan));
}

#[test]
fn a_convolution_block_is_four_kernels() {
    let weights: [(&str, DType, &[usize]); 6] = [
        ("g0", DType::F32, &[20]),
        ("c0", DType::F32, &[24, 20, 3, 3, 3]),
        ("g1", DType::F32, &[24]),
        ("c1", DType::F32, &[24, 24, 3, 3, 3]),
        ("s", DType::F32, &[24, 20, 1, 1, 1]),
        ("b", DType::F32, &[24]),
    ];
    let m = module(&weights, |b| {
        let x = b.param("x", ty(&[2, 6, 7, 20]));
        let [g0, c0, g1, c1, s, bias] =
            ["g0", "c0", "g1", "c1", "s", "b"].map(|name| b.weight(name));
        let norm = Op::RmsNorm { eps: 1e-12, clamp: true };
        let conv = Op::Conv { stride: [1; 3], pad: [[2, 0], [1, 1], [1, 1]] };
        let h = b.op("h", norm.clone(), &[x, g0], None);
        let h = b.op("h", Op::Silu, &[h], None);
        let h = b.op("h", conv.clone(), &[h, c0, bias], None);
        let h = b.op("h", norm, &[h, g1], None);
        let h = b.op("h", Op::Silu, &[h], None);
        let h = b.op("h", conv, &[h, c1, bias], None);
        let skip = Op::Conv { stride: [1; 3], pad: [[0, 0]; 3] };
        let skip = b.op("skip", skip, &[x, s, bias], None);
        vec![b.add("res", h, skip)]
    });
    let plan = check(&m, "f", 1e-6);
    let mut names = kinds(&plan);
    names.sort_unstable();
    assert_eq!(names, ["conv", "conv", "conv+add", "rms_norm+silu", "rms_norm+silu"]);
    assert_eq!(in_place(&plan), 2, "the second norm and the sum");
}

#[test]
fn segments_outside_their_table_are_an_error() {
    let m = module(&[], |b| {
        let x = b.param("x", ty(&[3, 4]));
        let t = b.param("t", ty(&[2, 4]));
        let seg = b.param("seg", TensorType::new(DType::I32, [3]));
        vec![b.op("h", Op::GateAdd, &[x, x, t, seg], None)]
    });
    let plan = plan(&m, "f", &anyid_passes::Options::default());
    let device = devices::first(1);
    let mut plans = Plans::new(&device, &[&plan], Arc::new(Stored::default()), 0).unwrap();
    for bad in [2i32, -1] {
        let seg: Vec<u8> = [0, bad, 1].iter().flat_map(|s: &i32| s.to_le_bytes()).collect();
        let (x, t) = (vec![0u8; 48], vec![0u8; 32]);
        let mut out = vec![0u8; 48];
        let result = plans.run_bytes(0, &[&x, &t, &seg], &mut [&mut out]);
        let expected = Err(RunError::Index {
            label: result.as_ref().err().map_or(String::new(), |e| match e {
                RunError::Index { label, .. } => label.clone(),
                _ => String::new(),
            }),
            index: i64::from(bad),
            rows: 2,
        });
        assert_eq!(result, expected);
    }
}

/// Random straight-line functions over the whole mix of row ops, products and views.
#[test]
fn random_programs_keep_their_meaning() {
    let mut state = 12_345u64;
    let mut next = move |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % below
    };
    let weights: [(&str, DType, &[usize]); 3] =
        [("w", DType::F32, &[32, 32]), ("g", DType::F32, &[32]), ("t", DType::F32, &[1, 3, 32])];
    for case in 0..60 {
        let half = case % 3 == 2;
        let act = if half { DType::Bf16 } else { DType::F32 };
        let m = module(&weights, |b| {
            let x = b.param("x", TensorType::new(act, [24, 32]));
            let y = b.param("y", TensorType::new(act, [24, 32]));
            let table = b.param("table", ty(&[2, 3, 32]));
            let seg = b.param("seg", TensorType::new(DType::I32, [24]));
            let angles = b.param("angles", ty(&[24, 4, 2]));
            let mut live = vec![x, y];
            for _ in 0..4 + next(14) {
                let pick = |n: usize| live[live.len() - 1 - n % live.len().min(4)];
                let (a, o) = (pick(next(4)), pick(next(4)));
                let f = b.ty(a).dtype;
                let row = b.index("row", table, 1, next(3));
                let row2 = b.index("row2", table, 1, next(3));
                let gain = b.weight("g");
                let made = match next(16) {
                    0 => b.op("v", Op::LayerNorm { eps: 1e-6 }, &[a], None),
                    1 => {
                        b.op("v", Op::RmsNorm { eps: 1e-6, clamp: next(2) == 0 }, &[a, gain], None)
                    }
                    2 => b.op("v", Op::Modulate, &[a, row, row2, seg], None),
                    3 => b.op("v", Op::GateAdd, &[a, o, row, seg], None),
                    4 => b.op("v", Op::Gelu, &[a], None),
                    5 => b.op("v", Op::Silu, &[a], None),
                    6 => b.op("v", Op::Rope { heads: 4 }, &[a, angles], None),
                    7 | 8 => b.linear("v", a, "w", (next(2) == 0).then_some("g"), f),
                    9 => b.add("v", a, o),
                    10 => b.mul("v", a, o),
                    11 => b.unary("v", UnaryFn::Tanh, a),
                    12 => {
                        let r = b.reduce("r", ReduceFn::Mean, a, &[1], true);
                        b.binary("v", BinaryFn::Sub, a, r)
                    }
                    13 => {
                        let s = b.reshape("s", a, [8, 3, 32]);
                        let t = b.weight("t");
                        let t = b.cast("t", t, f);
                        let s = b.add("s", s, t);
                        b.reshape("v", s, [24, 32])
                    }
                    14 => {
                        let (top, rest) =
                            (b.slice("top", a, 0, 0, 10), b.slice("rest", a, 0, 10, 14));
                        b.concat("v", &[rest, top], 0)
                    }
                    _ => {
                        let turned = b.permute("turned", a, &[1, 0]);
                        let turned = b.unary("neg", UnaryFn::Neg, turned);
                        b.permute("v", turned, &[1, 0])
                    }
                };
                live.push(made);
            }
            let last = live.len() - 1;
            vec![live[last], live[last - 1 - next(2)]]
        });
        check(&m, "f", if half { 0.0 } else { 2e-5 });
    }
}
