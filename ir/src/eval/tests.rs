//! Primitives, loops, calls, weights, traces and errors of the interpreter.

use super::*;
use crate::builder::FuncBuilder;
use crate::entity::ValueId;
use crate::op::{Axes, BinaryFn, CompareFn, IndexArg, ReduceFn, UnaryFn};
use std::collections::BTreeMap;

fn ty(dtype: DType, shape: &[usize]) -> TensorType {
    TensorType::new(dtype, shape.iter().copied())
}

/// Runs what `build` makes of parameters with the inputs' types.
fn compute(
    inputs: &[Tensor],
    mode: Mode,
    build: impl FnOnce(&mut FuncBuilder<'_>, &[ValueId]) -> ValueId,
) -> Result<Tensor, EvalError> {
    let mut module = Module::default();
    let mut f = FuncBuilder::new(&module, "main");
    let params: Vec<ValueId> =
        inputs.iter().enumerate().map(|(i, x)| f.param(&format!("p{i}"), x.ty().clone())).collect();
    let y = build(&mut f, &params);
    let func = f.finish(&[y]);
    module.add(func);
    Evaluator::new(&module, mode).run("main", inputs, &(), None).map(|mut out| out.remove(0))
}

fn line(n: usize) -> Tensor {
    let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
    Tensor::from_f32([n], &values).unwrap()
}

#[test]
fn movement_ops_move_elements() {
    let x = line(24).reshaped([2, 3, 4]).unwrap();
    let run = |build: fn(&mut FuncBuilder<'_>, ValueId) -> ValueId| {
        compute(std::slice::from_ref(&x), Mode::F32, |f, p| build(f, p[0])).unwrap().to_f64_vec()
    };
    let permuted = run(|f, x| f.permute("y", x, &[2, 0, 1]));
    assert_eq!(permuted[..6], [0.0, 4.0, 8.0, 12.0, 16.0, 20.0]);
    assert_eq!(permuted[6], 1.0);
    let slice = run(|f, x| f.slice("y", x, 1, 1, 2));
    assert_eq!(slice[..9], [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 16.0]);
    let index = run(|f, x| f.index("y", x, 2, 3));
    assert_eq!(index, [3.0, 7.0, 11.0, 15.0, 19.0, 23.0]);
    let padded = run(|f, x| {
        let first = f.slice("f", x, 1, 0, 1);
        f.pad("y", first, 1, 1, 2)
    });
    assert_eq!(padded.len(), 32);
    assert_eq!(padded[..9], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 0.0]);
    let joined = run(|f, x| {
        let first = f.slice("f", x, 2, 0, 1);
        f.concat("y", &[first, x], 2)
    });
    assert_eq!(joined[..6], [0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
    let spread = run(|f, x| {
        let first = f.slice("f", x, 1, 0, 1);
        f.broadcast("y", first, [2, 3, 4])
    });
    assert_eq!(spread[..5], [0.0, 1.0, 2.0, 3.0, 0.0]);
    assert_eq!(spread[12], 12.0);
}

#[test]
fn empty_tensors_pass_through_every_kernel() {
    let x = Tensor::zeros(ty(DType::F32, &[0, 3]));
    let sum = compute(std::slice::from_ref(&x), Mode::F32, |f, p| {
        f.reduce("y", ReduceFn::Sum, p[0], &[0], false)
    });
    assert_eq!(sum.unwrap().to_f64_vec(), [0.0; 3]);
    let most = compute(std::slice::from_ref(&x), Mode::F32, |f, p| {
        f.reduce("y", ReduceFn::Max, p[0], &[0], true)
    });
    assert_eq!(most.unwrap().to_f64_vec(), [f64::NEG_INFINITY; 3]);
    let mean = compute(std::slice::from_ref(&x), Mode::F32, |f, p| {
        f.reduce("y", ReduceFn::Mean, p[0], &[0], true)
    });
    assert!(mean.unwrap().to_f64_vec()[0].is_nan());
    let dot = compute(std::slice::from_ref(&x), Mode::F32, |f, p| {
        let moved = f.permute("t", p[0], &[1, 0]);
        let product = f.op("d", Op::Dot { transposed: [false; 2] }, &[moved, moved], None);
        let sum = f.add("s", p[0], p[0]);
        let joined = f.concat("j", &[sum, product], 0);
        f.index("y", joined, 0, 2)
    });
    assert_eq!(dot.unwrap().to_f64_vec(), [0.0; 3]);
}

#[test]
fn dot_handles_every_remainder_and_batches() {
    for (m, n, k) in [(1, 1, 1), (4, 4, 3), (5, 7, 2), (3, 9, 5), (8, 6, 0)] {
        let a = line(2 * m * k).reshaped([2, m, k]).unwrap();
        let b = line(2 * n * k).reshaped([2, n, k]).unwrap();
        let y = compute(&[a.clone(), b.clone()], Mode::F32, |f, p| {
            f.op("y", Op::Dot { transposed: [false; 2] }, p, None)
        });
        let (a, b) = (a.to_f64_vec(), b.to_f64_vec());
        let mut wanted = Vec::new();
        for i in 0..2 {
            for r in 0..m {
                for c in 0..n {
                    let at = |j: usize| a[(i * m + r) * k + j] * b[(i * n + c) * k + j];
                    wanted.push((0..k).map(at).sum::<f64>());
                }
            }
        }
        assert_eq!(y.unwrap().to_f64_vec(), wanted);
    }
}

#[test]
fn broadcasting_aligns_trailing_axes() {
    let a = line(6).reshaped([2, 3]).unwrap();
    let b = line(2).reshaped([2, 1]).unwrap();
    let c = line(3);
    let y = compute(&[a, b, c], Mode::F32, |f, p| {
        let t = f.binary("t", BinaryFn::Sub, p[0], p[1]);
        let flag = f.compare("flag", CompareFn::Gt, t, p[2]);
        f.op("y", Op::Select, &[flag, p[1], p[2]], None)
    });
    // t = [0 1 2; 2 3 4]; above [0 1 2] in the second row only.
    assert_eq!(y.unwrap().to_f64_vec(), [0.0, 1.0, 2.0, 1.0, 1.0, 1.0]);
}

#[test]
fn every_result_is_rounded_to_its_type_and_f64_mode_keeps_it() {
    let x = Tensor::from_f32([1], &[1.0]).unwrap();
    let third = |mode| {
        compute(std::slice::from_ref(&x), mode, |f, p| {
            let three = f.scalar("three", DType::F32, 3.0);
            let y = f.binary("y", BinaryFn::Div, p[0], three);
            f.cast("h", y, DType::Bf16)
        })
        .unwrap()
    };
    let (rounded, exact) = (third(Mode::F32), third(Mode::F64));
    assert_eq!(rounded.dtype(), DType::Bf16);
    assert_eq!(rounded.to_f64_vec(), [f64::from(half::bf16::from_f32(1.0 / 3.0))]);
    assert_eq!(exact.dtype(), DType::F64);
    assert_eq!(exact.to_f64_vec(), [1.0 / 3.0]);
    // In f64 mode doubles may stand for any floating-point input.
    let fine = Tensor::from_f64s(ty(DType::F64, &[1]), &[1.0 + 1e-12]).unwrap();
    let mut module = Module::default();
    let mut f = FuncBuilder::new(&module, "main");
    let p = f.param("p", ty(DType::F32, &[1]));
    let func = f.finish(&[p]);
    module.add(func);
    let out =
        Evaluator::new(&module, Mode::F64).run("main", std::slice::from_ref(&fine), &(), None);
    assert_eq!(out.unwrap(), std::slice::from_ref(&fine));
    assert!(Evaluator::new(&module, Mode::F32).run("main", &[fine], &(), None).is_err());
}

#[test]
fn integer_arithmetic_is_total() {
    let a = Tensor::from_i32([4], &[7, -7, i32::MIN, 5]).unwrap();
    let b = Tensor::from_i32([4], &[2, 2, -1, 0]).unwrap();
    let divide = |f: &mut FuncBuilder<'_>, p: &[ValueId]| f.binary("y", BinaryFn::Div, p[0], p[1]);
    let y = compute(&[a.clone(), b], Mode::F32, divide).unwrap();
    assert_eq!(y.as_i32().unwrap(), [3, -3, i32::MAX, 0]);
    let y = compute(std::slice::from_ref(&a), Mode::F64, |f, p| f.mul("y", p[0], p[0])).unwrap();
    assert_eq!(y.as_i32().unwrap(), [49, 49, i32::MAX, 25]);
    let bytes = Tensor::from_u8([2], &[3, 250]).unwrap();
    let y = compute(&[bytes], Mode::F32, |f, p| {
        let five = f.scalar("five", DType::U8, 5.0);
        let less = f.binary("less", BinaryFn::Sub, p[0], five);
        let more = f.add("more", p[0], five);
        let more = f.add("more", more, five);
        f.concat("y", &[less, more], 0)
    });
    assert_eq!(y.unwrap().as_u8().unwrap(), [0, 245, 13, 255]);
}

#[test]
fn nan_is_not_hidden_by_extremes() {
    let x = Tensor::from_f32([3], &[1.0, f32::NAN, 2.0]).unwrap();
    for f in [BinaryFn::Max, BinaryFn::Min] {
        let y = compute(std::slice::from_ref(&x), Mode::F32, |b, p| {
            let zero = b.scalar("zero", DType::F32, 0.0);
            let left = b.binary("l", f, p[0], zero);
            b.binary("y", f, zero, left)
        });
        assert!(y.unwrap().to_f32_vec()[1].is_nan());
    }
    let y = compute(&[x], Mode::F32, |b, p| b.reduce("y", ReduceFn::Max, p[0], &[0], true));
    assert!(y.unwrap().to_f32_vec()[0].is_nan());
}

#[test]
fn constants_list_or_fill() {
    let y = compute(&[], Mode::F32, |f, _| {
        let list = f.literal("list", &[0.1, 2.0, 3.0], ty(DType::F32, &[3]));
        let fill = f.constant("fill", 7.0, ty(DType::F32, &[2]));
        f.concat("y", &[list, fill], 0)
    });
    assert_eq!(y.unwrap().as_f32().unwrap(), [0.1, 2.0, 3.0, 7.0, 7.0]);
}

/// Two layers of `x · w_l`, collecting the values between, and reading a scale a layer.
fn looped() -> Module {
    let mut module = Module { name: "m".into(), ..Module::default() };
    module.weights.add("blocks.{l:0..2}.proj.w", ty(DType::F32, &[2, 2])).unwrap();
    module.weights.add("head.b", ty(DType::F32, &[2])).unwrap();
    let mut f = FuncBuilder::new(&module, "block").indexed(&["l"], "blocks.{l}");
    let x = f.param("x", ty(DType::F32, &[1, 2]));
    let q = f.linear("q1", x, "proj.w", None, DType::F32);
    let func = f.finish(&[q]);
    module.add(func);
    let mut f = FuncBuilder::new(&module, "net");
    let x = f.param("x", ty(DType::F32, &[1, 2]));
    let scales = f.param("scales", ty(DType::F32, &[2, 2]));
    let out = f.repeat("layers", "l", 0..2, &[("h", x)], &[("s", scales)], |f, carries, slots| {
        let args = [IndexArg::Name("l".into())];
        let next = f.call("next", "block", &args, &[carries[0]])[0];
        let next = f.mul("scaled", next, slots[0]);
        (vec![next], vec![carries[0]])
    });
    let b = f.weight("head.b");
    let y = f.add("y", out[0], b);
    let func = f.finish(&[y, out[1]]);
    module.add(func);
    module
}

fn looped_weights() -> BTreeMap<String, Tensor> {
    let matrix = |v: &[f32]| Tensor::from_f32([2, 2], v).unwrap();
    BTreeMap::from([
        ("blocks.0.proj.w".to_owned(), matrix(&[1.0, 1.0, 0.0, 2.0])),
        ("blocks.1.proj.w".to_owned(), matrix(&[0.0, 1.0, 1.0, 0.0])),
        ("head.b".to_owned(), Tensor::from_f32([2], &[0.5, 0.25]).unwrap()),
    ])
}

fn looped_inputs() -> [Tensor; 2] {
    let x = Tensor::from_f32([1, 2], &[3.0, 4.0]).unwrap();
    [x, Tensor::from_f32([2, 2], &[1.0, 1.0, 10.0, 100.0]).unwrap()]
}

#[test]
fn loops_carry_stack_and_collect() {
    let module = looped();
    let evaluator = Evaluator::new(&module, Mode::F32);
    let out = evaluator.run("net", &looped_inputs(), &looped_weights(), None).unwrap();
    // [3,4] → [7,8] → swapped [8,7] · [10,100] → [80,700] + b
    assert_eq!(out[0].as_f32().unwrap(), [80.5, 700.25]);
    assert_eq!(out[1].ty(), &ty(DType::F32, &[2, 1, 2]));
    assert_eq!(out[1].as_f32().unwrap(), [3.0, 4.0, 7.0, 8.0]);
}

#[test]
fn traces_name_values_by_call_path() {
    let module = looped();
    let evaluator = Evaluator::new(&module, Mode::F32);
    let mut seen: Vec<(String, Vec<f64>)> = Vec::new();
    let mut trace = |event: &TraceEvent<'_>| {
        assert!(event.path.ends_with(&format!("/{}", event.name)));
        seen.push((event.path.to_owned(), event.value.to_f64_vec()));
    };
    let out = evaluator.run("net", &looped_inputs(), &looped_weights(), Some(&mut trace)).unwrap();
    let paths: Vec<&str> = seen.iter().map(|(path, _)| path.as_str()).collect();
    let wanted = [
        "net/blocks.0/q1",
        "net/l=0/next",
        "net/l=0/scaled",
        "net/blocks.1/q1",
        "net/l=1/next",
        "net/l=1/scaled",
        "net/layers.0",
        "net/layers.1",
        "net/y",
    ];
    assert_eq!(paths, wanted);
    assert_eq!(seen[3].1, [8.0, 7.0]);
    assert_eq!(seen[8].1, out[0].to_f64_vec());
}

#[test]
fn paths_keep_loops_that_nothing_else_tells_apart() {
    let module = looped();
    let block = &module.funcs[0];
    let mut path = TracePath::root(&module.funcs[1], &[]);
    path.enter("step", 4);
    path.enter("l", 1);
    let inner = path.call(block, &[IndexArg::Name("l".into())], &[1]);
    assert_eq!(inner.of("q1"), "net/step=4/blocks.1/q1");
    path.leave();
    assert_eq!(path.of("x"), "net/step=4/x");
    let mut plain = block.clone();
    plain.scope.clear();
    assert_eq!(TracePath::root(&plain, &[3]).of("q1"), "block<3>/q1");
}

#[test]
fn indexed_functions_run_by_name_with_numbers() {
    let module = looped();
    let evaluator = Evaluator::new(&module, Mode::F32);
    let x = &looped_inputs()[..1];
    let weights = looped_weights();
    let out = evaluator.run("block<1>", x, &weights, None).unwrap();
    assert_eq!(out[0].as_f32().unwrap(), [4.0, 3.0]);
    for (name, code) in [
        ("block", "E1040"),
        ("block<a>", "E1040"),
        ("block<1,2>", "E1040"),
        ("blok<1>", "E1040"),
        ("block<7>", "E1043"),
    ] {
        let error = evaluator.run(name, x, &weights, None).unwrap_err();
        assert_eq!(error.code, code, "{name}: {error}");
    }
    let error = evaluator.run("nett", x, &weights, None).unwrap_err();
    assert!(error.to_string().contains("did you mean `net`?"), "{error}");
}

#[test]
fn inputs_go_by_name() {
    let module = looped();
    let evaluator = Evaluator::new(&module, Mode::F32);
    let [x, scales] = looped_inputs();
    let weights = looped_weights();
    let out = evaluator.run_named("net", &[("scales", &scales), ("x", &x)], &weights, None);
    let out = out.unwrap();
    assert_eq!(out[0].0, "y");
    assert_eq!(out[1].0, "layers.1");
    let error = evaluator.run_named("net", &[("x", &x)], &weights, None).unwrap_err();
    assert_eq!(error.code, "E1041");
    assert!(error.message.contains("%scales of type f32[2,2] is missing"), "{error}");
    let extra = [("x", &x), ("scale", &scales)];
    let error = evaluator.run_named("net", &extra, &weights, None).unwrap_err();
    assert!(error.to_string().contains("did you mean `scales`?"), "{error}");
}

#[test]
fn faults_are_coded_and_placed() {
    let module = looped();
    let evaluator = Evaluator::new(&module, Mode::F32);
    let [x, scales] = looped_inputs();
    let mut weights = looped_weights();
    let code = |inputs: &[Tensor], weights: &BTreeMap<String, Tensor>| {
        let error = evaluator.run("net", inputs, weights, None).unwrap_err();
        assert!(error.place.is_some() && error.help.is_some(), "{error}");
        (error.code, error.to_string())
    };
    assert_eq!(code(std::slice::from_ref(&x), &weights).0, "E1041");
    assert_eq!(code(&[x.clone(), scales.clone(), x.clone()], &weights).0, "E1041");
    let (wrong, text) = code(&[x.cast(DType::Bf16), scales.clone()], &weights);
    assert_eq!(wrong, "E1042");
    assert!(text.contains("input %x is bf16[1,2], expected f32[1,2]"), "{text}");
    weights.insert("head.b".into(), x.clone());
    let (wrong, text) = code(&[x.clone(), scales.clone()], &weights);
    assert_eq!(wrong, "E1043");
    assert!(text.contains("\"head.b\": given as f32[1,2], expected f32[2]"), "{text}");
    weights.remove("blocks.1.proj.w");
    weights.insert("head.b".into(), Tensor::zeros(ty(DType::F32, &[2])));
    let (_, text) = code(&[x, scales], &weights);
    assert!(text.contains("weight \"blocks.1.proj.w\": not found"), "{text}");
    assert!(text.contains("@block: %proj.w = weight"), "{text}");
}

#[test]
fn indices_outside_a_table_are_faults() {
    let table = line(4).reshaped([2, 2]).unwrap();
    for index in [-1, 2] {
        let rows = Tensor::from_i32([1], &[index]).unwrap();
        let gather = |f: &mut FuncBuilder<'_>, p: &[ValueId]| f.op("y", Op::Gather, p, None);
        let error = compute(&[table.clone(), rows], Mode::F32, gather).unwrap_err();
        assert_eq!(error.code, "E1044");
        assert_eq!(error.place.as_deref(), Some("@main: %y = gather"));
    }
    let seg = Tensor::from_i32([2], &[0, 9]).unwrap();
    let inputs = [table.clone(), table.clone(), table, seg];
    let error = compute(&inputs, Mode::F32, |f, p| f.op("m", Op::Modulate, p, None)).unwrap_err();
    assert_eq!((error.code, error.place.as_deref()), ("E1044", Some("@main: %m = modulate")));
}

#[test]
fn absurd_sizes_and_depths_are_refused() {
    let huge = |f: &mut FuncBuilder<'_>, _: &[ValueId]| {
        f.constant("y", 0.0, ty(DType::F32, &[1 << 20, 1 << 20]))
    };
    assert_eq!(compute(&[], Mode::F32, huge).unwrap_err().code, "E1045");
    let mut module = Module::default();
    for i in 0..100 {
        let mut f = FuncBuilder::new(&module, &format!("f{i}"));
        let x = f.param("x", ty(DType::F32, &[1]));
        let y = if i == 0 { x } else { f.call("y", &format!("f{}", i - 1), &[], &[x])[0] };
        let func = f.finish(&[y]);
        module.add(func);
    }
    let evaluator = Evaluator::new(&module, Mode::F32);
    assert!(evaluator.run("f60", &[line(1)], &(), None).is_ok());
    assert_eq!(evaluator.run("f99", &[line(1)], &(), None).unwrap_err().code, "E1045");
}

#[test]
fn composites_that_would_be_absurd_inside_are_refused() {
    let code = |op: Op, shapes: &[&[usize]]| {
        let inputs: Vec<Tensor> =
            shapes.iter().map(|shape| Tensor::zeros(ty(DType::F32, shape))).collect();
        compute(&inputs, Mode::F32, |f, p| f.op("y", op, p, None)).map_err(|e| e.code)
    };
    let long: &[usize] = &[1 << 15, 1];
    assert_eq!(
        code(Op::Attention { heads: 1, scale: 1.0, lse: false, last: 1 }, &[long; 3]),
        Err("E1045")
    );
    let no_channels: &[usize] = &[4, 0];
    let many = 1 << 60;
    assert_eq!(
        code(Op::Attention { heads: many, scale: 1.0, lse: false, last: 1 }, &[no_channels; 3]),
        Err("E1045")
    );
    assert_eq!(code(Op::Rope { heads: many }, &[no_channels, &[4, 0, 2]]), Err("E1045"));
    let conv = |stride, lo| Op::Conv { stride: [stride, 1, 1], pad: [[lo, 0], [0; 2], [0; 2]] };
    let (clip, kernel): (&[usize], &[usize]) = (&[2, 1, 1, 1], &[1, 1, 1, 1, 1]);
    assert_eq!(code(conv(1 << 40, 1 << 40), &[clip, kernel]), Err("E1045"));
    assert_eq!(code(conv(usize::MAX, 0), &[clip, kernel]).unwrap().shape(), [1, 1, 1, 1]);
    assert_eq!(code(conv(1, 0), &[&[1, 80, 80, 1], &[1, 1, 80, 80]]), Err("E1045"));
    let wide = Op::Upsample { factors: Axes::from_slice(&[1, 1 << 40]) };
    assert_eq!(code(wide, &[&[0, 1]]), Err("E1045"));
}

#[test]
fn empty_loops_return_their_inputs() {
    let mut module = Module::default();
    let mut f = FuncBuilder::new(&module, "main");
    let x = f.param("x", ty(DType::F32, &[2]));
    let out = f.repeat("r", "i", 3..3, &[("c", x)], &[], |f, c, _| {
        let y = f.unary("y", UnaryFn::Exp, c[0]);
        (vec![y], vec![y])
    });
    let func = f.finish(&out);
    module.add(func);
    let out = Evaluator::new(&module, Mode::F32).run("main", &[line(2)], &(), None).unwrap();
    assert_eq!(out[0], line(2));
    assert_eq!(out[1].ty(), &ty(DType::F32, &[0, 2]));
}

#[test]
fn outer_values_live_through_a_loop_that_uses_them_last() {
    let x = line(2);
    let y = compute(&[x], Mode::F32, |f, p| {
        let k = f.add("k", p[0], p[0]);
        let nested = |f: &mut FuncBuilder<'_>, c: &[ValueId], _: &[ValueId]| {
            let inner = f.repeat("inner", "j", 0..2, &[("d", c[0])], &[], |f, d, _| {
                (vec![f.add("s", d[0], k)], vec![])
            });
            (inner, vec![])
        };
        f.repeat("outer", "i", 0..3, &[("c", p[0])], &[], nested)[0]
    });
    assert_eq!(y.unwrap().to_f64_vec(), [0.0, 13.0]);
}

#[test]
fn weight_paths_take_loop_indices_and_sources_may_be_functions() {
    let mut module = Module::default();
    module.weights.add("g.{i:0..3}", ty(DType::F32, &[1])).unwrap();
    let mut f = FuncBuilder::new(&module, "one").indexed(&["i"], "");
    let x = f.param("x", ty(DType::F32, &[1]));
    let g = f.weight("g.{i}");
    let y = f.add("y", x, g);
    let func = f.finish(&[y]);
    module.add(func);
    let mut f = FuncBuilder::new(&module, "main");
    let x = f.param("x", ty(DType::F32, &[1]));
    let y = f.call("a", "one", &[IndexArg::Int(2)], &[x])[0];
    let func = f.finish(&[y]);
    module.add(func);
    let weights = WeightsFrom(|name: &str, ty: &TensorType| {
        let number = name.strip_prefix("g.").and_then(|n| n.parse::<f64>().ok());
        let number = number.ok_or("what name is this")?;
        Tensor::from_f64s(ty.clone(), &[number]).map_err(|e| e.to_string())
    });
    let out = Evaluator::new(&module, Mode::F32).run("main", &[line(1)], &weights, None).unwrap();
    assert_eq!(out[0].as_f32().unwrap(), [2.0]);
    let error = Evaluator::new(&module, Mode::F32).run("main", &[line(1)], &(), None).unwrap_err();
    assert!(error.message.contains("no weights were given"), "{error}");
}

#[test]
fn a_loop_index_does_not_reach_into_the_scope() {
    let mut module = Module::default();
    module.weights.add("b.{l:0..3}.w", ty(DType::F32, &[1])).unwrap();
    let mut f = FuncBuilder::new(&module, "block").indexed(&["l"], "b.{l}");
    let x = f.param("x", ty(DType::F32, &[1]));
    let w = f.weight("w");
    let out =
        f.repeat("r", "l", 0..2, &[("c", x)], &[], |f, c, _| (vec![f.add("s", c[0], w)], vec![]));
    let mut func = f.finish(&out);
    // As in text: the weight stands inside the loop.
    let node = func.blocks[func.entry].nodes.remove(0);
    let body = func.blocks.ids().nth(1).unwrap();
    func.blocks[body].nodes.insert(0, node);
    module.add(func);
    let weights = WeightsFrom(|name: &str, ty: &TensorType| {
        assert_eq!(name, "b.2.w");
        Tensor::from_f64s(ty.clone(), &[5.0]).map_err(|e| e.to_string())
    });
    let out = Evaluator::new(&module, Mode::F32).run("block<2>", &[line(1)], &weights, None);
    assert_eq!(out.unwrap()[0].as_f32().unwrap(), [10.0]);
}

#[test]
fn reductions_over_any_axes() {
    let x = line(24).reshaped([2, 3, 4]).unwrap();
    for axes in [vec![0], vec![1], vec![2], vec![0, 2], vec![0, 1, 2]] {
        let y = compute(std::slice::from_ref(&x), Mode::F32, |f, p| {
            let op = Op::Reduce { f: ReduceFn::Sum, axes: Axes::from_slice(&axes), keep: true };
            f.op("y", op, p, None)
        });
        let kept: Vec<usize> = [2, 3, 4]
            .iter()
            .enumerate()
            .map(|(i, s)| if axes.contains(&i) { 1 } else { *s })
            .collect();
        let mut wanted = vec![0.0; kept.iter().product()];
        for at in 0..24 {
            let place = [at / 12, at / 4 % 3, at % 4];
            let to = (0..3).fold(0, |n, a| n * kept[a] + place[a].min(kept[a] - 1));
            wanted[to] += at as f64;
        }
        assert_eq!(y.unwrap().to_f64_vec(), wanted, "{axes:?}");
    }
}

/// Modules that the verifier would refuse end in errors too, not in panics.
#[test]
fn malformed_modules_are_errors() {
    let broken = |change: &dyn Fn(&mut Func)| {
        let mut module = Module { name: "m".into(), ..Module::default() };
        let mut f = FuncBuilder::new(&module, "f");
        let x = f.param("x", ty(DType::F32, &[2]));
        let n = f.unary("n", UnaryFn::Neg, x);
        let y = f.add("y", n, x);
        let mut func = f.finish(&[y]);
        change(&mut func);
        module.add(func);
        let out = Evaluator::new(&module, Mode::F32).run("f", &[line(2)], &(), None);
        out.unwrap_err().code
    };
    // Without an end, without what is read, and with an operand too few.
    assert_eq!(broken(&|f| f.blocks[f.entry].nodes.truncate(2)), "E1046");
    let first = |f: &mut Func| drop(f.blocks[f.entry].nodes.drain(..1));
    assert_eq!(broken(&first), "E1046");
    assert_eq!(broken(&|f| f.nodes[f.blocks[f.entry].nodes[1]].operands.truncate(1)), "E1046");
}
