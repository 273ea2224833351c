//! Every case of the op table three ways: the interpreter, the interpreter on decomposed modules,
//! and every device, which has to give the same bits for any number of threads and whatever its memory
//! held before, and to agree with the interpreter with every set of instructions. Devices that compile
//! kernels for long run a fixed sample of the table, emulated ones in all orders of their threads; with
//! `ANYID_OP_TABLE=all` all of it, in one order, for which every kernel of the table has to be compiled.

use anyid_backends::cpu::conv::{ConvShape, conv_algorithm};
use anyid_backends::cpu::gemm::PanelKind;
use anyid_backends::{Device, LoadError, RunError, Settings};
use anyid_ir::plan::Plan;
use anyid_ir::{Axes, DType, Evaluator, FuncBuilder, Mode, Module, Op, Tensor, TensorType};
use anyid_passes::report::PhaseSummary;
use anyid_passes::{CompileRequest, Options};
use anyid_tests::close::difference;
use anyid_tests::devices;
use anyid_tests::op_cases::{Built, OpCase, Tolerance, cases, closed_set, noise, seed_of};
use anyid_tests::plans::{Named, Stored, run_guarded, run_plan};
use anyid_tests::primitives::primitives;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The outputs of the interpreter.
fn interpreted(built: &Built, module: &Module) -> Vec<Tensor> {
    let inputs: Vec<Tensor> = built.inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
    Evaluator::new(module, Mode::F32)
        .run("f", &inputs, &built.weights, None)
        .unwrap_or_else(|e| panic!("{e}"))
}

/// Each case in each of its types.
fn each(mut check: impl FnMut(&OpCase, DType, &Built)) {
    for case in cases() {
        for dtype in &case.dtypes {
            check(&case, *dtype, &(case.build)(*dtype));
        }
    }
}

fn report(failures: &[String], count: usize) {
    let shown = failures.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {count} failed:\n{shown}", failures.len());
}

#[test]
fn every_op_of_the_closed_set_has_a_case() {
    let mut used = BTreeSet::new();
    each(|case, _, built| {
        let first = anyid_ir::verify::verify(&built.module).into_iter().next();
        assert_eq!(first, None, "{}", case.name);
        for func in &built.module.funcs {
            used.extend(func.walk().iter().map(|node| func.nodes[*node].op.name()));
        }
    });
    let missing: Vec<&str> = closed_set().into_iter().filter(|name| !used.contains(name)).collect();
    assert!(missing.is_empty(), "ops without a case: {missing:?}");
    assert_eq!(closed_set().len(), closed_set().iter().collect::<BTreeSet<_>>().len());
}

/// The backend chooses by shape how it convolves; the table has shapes for each way.
#[test]
fn convolutions_are_computed_in_every_way_there_is() {
    let mut ways = BTreeSet::new();
    each(|_, dtype, built| {
        let func = built.module.main().expect("a case has a function");
        for node in func.walk().into_iter().map(|node| &func.nodes[node]) {
            let Op::Conv { stride, pad } = node.op else { continue };
            let [x, w] = [0, 1].map(|operand| &func.ty(node.operands[operand]).shape);
            let taps = &w[2..];
            let shape = ConvShape {
                input: [x[0], x[1], x[2]],
                cin: w[1],
                cout: w[0],
                kernel: if let [h, w] = *taps { [1, h, w] } else { [taps[0], taps[1], taps[2]] },
                stride,
                padding: pad.map(|[lo, hi]| (lo, hi)),
            };
            let kind = if dtype == DType::Bf16 { PanelKind::Bf16 } else { PanelKind::F32 };
            ways.insert(format!("{kind:?} {:?}", conv_algorithm(&shape, kind)));
        }
    });
    let all = [
        "Bf16 Direct",
        "Bf16 Winograd(Two)",
        "F32 Direct",
        "F32 Winograd(Four)",
        "F32 Winograd(Two)",
    ];
    assert_eq!(ways.iter().collect::<Vec<_>>(), all);
}

#[test]
fn decomposed_modules_compute_the_same_bits() {
    let (mut failures, mut count) = (Vec::new(), 0);
    each(|case, dtype, built| {
        count += 1;
        let parts = primitives(&built.module, "f");
        let composites = parts.funcs.iter().flat_map(|f| f.walk().into_iter().map(move |n| (f, n)));
        for (func, node) in composites {
            assert!(!func.nodes[node].op.is_composite(), "{}", case.name);
        }
        let (whole, apart) = (interpreted(built, &built.module), interpreted(built, &parts));
        if whole.iter().zip(&apart).any(|(a, b)| difference(a, b) != 0.0) {
            failures.push(format!("{} {dtype}", case.name));
        }
    });
    report(&failures, count);
}

#[test]
fn every_device_agrees_with_the_interpreter() {
    for name in devices::names() {
        if devices::is_slow(name) { sampled(name) } else { agrees(name) }
    }
}

/// The table on one device: in every way it has, bit for bit the same for any number of threads and
/// whatever its memory held.
fn agrees(name: &str) {
    let [ways, ones, threes] = [2, 1, 3].map(|threads| devices::variants(name, threads));
    devices::say_skipped(&ways);
    let (mut failures, mut count, mut worst) = (Vec::new(), 0, 0.0f64);
    each(|case, dtype, built| {
        count += 1;
        let reference = interpreted(built, &built.module);
        let options = Options { target: ways[0].about().target.clone(), ..Options::default() };
        let plan = CompileRequest::new(&built.module, "f").with(&options).plan();
        let plan = plan.unwrap_or_else(|e| panic!("{e}"));
        let run = |device: &Arc<dyn Device>, garbage: u8| {
            run_plan(device, &plan, &built.weights, &built.inputs, garbage)
        };
        for (at, device) in ways.iter().enumerate() {
            let way = format!("{name} {}", device.about().instructions);
            let outputs = match run(device, 0) {
                Ok(outputs) => outputs,
                Err(error) => {
                    failures.push(format!("{}: {dtype} {way} {error:?}", case.name));
                    continue;
                }
            };
            assert_eq!(outputs.len(), reference.len(), "{}", case.name);
            for ((result, given), golden) in outputs.iter().zip(&reference) {
                let (error, bound) = (difference(given, golden), case.tolerance.of(given.dtype()));
                if bound > 0.0 {
                    worst = worst.max(error / bound);
                }
                if error > bound {
                    let (case, close) = (&case.name, format!("{error:.2e} of {bound:.0e}"));
                    failures.push(format!("{case}: {dtype} {way} {result}: {close}"));
                }
            }
            let bits = Ok(outputs);
            match (&bits, run_guarded(device, &plan, &built.weights, &built.inputs)) {
                (Ok(bits), Ok(guarded)) if equal(bits, &guarded) => {}
                (_, guarded) => {
                    let why = guarded.err().unwrap_or_else(|| "other bits".to_owned());
                    failures.push(format!("{}: {dtype} {way} with gaps: {why}", case.name));
                }
            }
            for (what, again) in [
                ("one thread", run(&ones[at], 0)),
                ("three threads", run(&threes[at], 0)),
                ("memory of NaN", run(device, 0xFF)),
                ("memory of other numbers", run(&ones[at], 0x3F)),
            ] {
                if !same(&bits, &again) {
                    let case = &case.name;
                    failures.push(format!("{case}: {dtype} {way} other bits with {what}"));
                }
            }
        }
    });
    println!("{name}: {count} modules, largest error {worst:.2} of its tolerance");
    report(&failures, count);
}

/// Most modules of the sample for each op and type, and for the ops that have templates of their own.
const FEW: usize = 3;
const MORE: usize = 16;
/// Most operations of a module of the sample.
const SMALL: u64 = 30_000_000;
/// The same on GPUs through Vulkan, whose driver on processors compiles each kernel for long.
const FEW_OF_SHADERS: usize = 2;
const MORE_OF_SHADERS: usize = 5;
/// Modules whose kernels are compiled together.
const TOGETHER: usize = 600;

/// Whether emulated devices run all of the table.
fn all_of_it() -> bool {
    std::env::var("ANYID_OP_TABLE").is_ok_and(|which| which == "all")
}

/// The cases and types that emulated devices run: of each op and type a few, chosen by a number that
/// depends on their names alone.
fn chosen(cases: &[OpCase], (few, more): (usize, usize)) -> Vec<(&OpCase, DType)> {
    let mut by_op: BTreeMap<String, Vec<(u64, &OpCase, DType)>> = BTreeMap::new();
    for case in cases {
        let op = case.name.split(' ').next().unwrap_or_default();
        for dtype in &case.dtypes {
            let number = seed_of(&format!("{} {dtype}", case.name));
            let list = by_op.entry(format!("{op} {dtype}")).or_default();
            list.push((number, case, *dtype));
        }
    }
    let some = |(op, mut list): (String, Vec<(u64, _, _)>)| {
        list.sort_by_key(|(number, ..)| *number);
        let templates = ["linear ", "attention", "conv ", "dot "];
        let most = if templates.iter().any(|own| op.starts_with(own)) { more } else { few };
        list.truncate(if all_of_it() { usize::MAX } else { most });
        list.into_iter().map(|(_, case, dtype)| (case, dtype))
    };
    by_op.into_iter().flat_map(some).collect()
}

/// A module of the table with its plan.
struct Ready {
    name: String,
    tolerance: Tolerance,
    built: Built,
    plan: Plan,
}

/// The sample of the table on a device that compiles kernels for long.
fn sampled(name: &str) {
    let settings = if all_of_it() { Settings::default() } else { devices::in_all_orders(1) };
    let [device, one] =
        [settings, Settings::default()].map(|settings| devices::open_with(name, &settings));
    let options = Options { target: device.about().target.clone(), ..Options::default() };
    let cases = cases();
    let ready = |(case, dtype): &(&OpCase, DType)| {
        let built = (case.build)(*dtype);
        let plan = CompileRequest::new(&built.module, "f").with(&options).plan();
        let plan = plan.unwrap_or_else(|e| panic!("{e}"));
        let small = all_of_it() || PhaseSummary::of(&plan).flops <= SMALL;
        let name = format!("{} {dtype}", case.name);
        small.then_some(Ready { name, tolerance: case.tolerance, built, plan })
    };
    let (mut failures, mut count, mut worst) = (Vec::new(), 0, 0.0f64);
    let mut refused = BTreeSet::new();
    let sizes = match devices::is_emulated(name) {
        true => (FEW, MORE),
        false => (FEW_OF_SHADERS, MORE_OF_SHADERS),
    };
    for group in chosen(&cases, sizes).chunks(TOGETHER) {
        let mut ready: Vec<Ready> = group.iter().filter_map(ready).collect();
        ready.retain(|ready| {
            let dtype = ready.refused(&device);
            refused.extend(dtype);
            dtype.is_none()
        });
        let plans: Vec<Plan> = ready.iter().map(|ready| ready.plan.clone()).collect();
        devices::compile_together(&device, &plans);
        devices::compile_together(&one, &plans);
        let next = AtomicUsize::new(0);
        let work = || {
            let (mut failures, mut worst) = (Vec::new(), 0.0f64);
            while let Some(ready) = ready.get(next.fetch_add(1, Ordering::Relaxed)) {
                worst = worst.max(ready.compare(&device, &one, &mut failures));
            }
            (failures, worst)
        };
        let made = std::thread::scope(|scope| {
            let workers = [(); 2].map(|()| scope.spawn(work));
            workers.map(|worker| worker.join().expect("failures are listed"))
        });
        for (mut own, most) in made {
            failures.append(&mut own);
            worst = worst.max(most);
        }
        count += ready.len();
        if all_of_it() {
            println!("{name}: {count} modules, {} failures", failures.len());
        }
    }
    println!("{name}: {count} modules, largest error {worst:.2} of its tolerance");
    let pinned = if name.starts_with("wgpu") { &[DType::F64][..] } else { &[] };
    assert_eq!(refused.into_iter().collect::<Vec<_>>(), pinned, "types that {name} refuses");
    failures.sort();
    report(&failures, count);
    assert!(count > 400, "only {count} modules");
}

impl Ready {
    /// The type for which the device refuses the module before it loads anything, with a code.
    fn refused(&self, device: &Arc<dyn Device>) -> Option<DType> {
        let loaded =
            device.clone().load(&[&self.plan], self.built.weights.shared(), &mut |_, _| true);
        let Err(LoadError::Failed(fault)) = loaded else { return None };
        let name = fault.message.rsplit(' ').next().unwrap_or_default().to_owned();
        assert_eq!(fault.code, "E0872", "{}: {}", self.name, fault.message);
        let of = |dtype: &DType| dtype.name() == name;
        let dtype = DType::ALL.into_iter().find(of);
        let dtype = dtype.unwrap_or_else(|| panic!("{}: {}", self.name, fault.message));
        let types = self.plan.buffers.iter().any(|(_, buffer)| buffer.ty.dtype == dtype);
        assert!(types, "{}: there is no {dtype} in it", self.name);
        Some(dtype)
    }

    /// Runs the module on `device`, and again on `one`; the largest error as a share of its tolerance.
    fn compare(
        &self,
        device: &Arc<dyn Device>,
        one: &Arc<dyn Device>,
        failures: &mut Vec<String>,
    ) -> f64 {
        let Self { name, tolerance, built, plan } = self;
        let run = |device: &Arc<dyn Device>, garbage: u8| {
            run_plan(device, plan, &built.weights, &built.inputs, garbage)
        };
        let outputs = match run(device, 0) {
            Ok(outputs) => outputs,
            Err(error) => {
                failures.push(format!("{name}: {error:?}"));
                return 0.0;
            }
        };
        let mut worst = 0.0f64;
        let reference = interpreted(built, &built.module);
        assert_eq!(outputs.len(), reference.len(), "{name}");
        for ((result, given), golden) in outputs.iter().zip(&reference) {
            let (error, bound) = (difference(given, golden), tolerance.of(given.dtype()));
            if bound > 0.0 {
                worst = worst.max(error / bound);
            }
            if error > bound {
                failures.push(format!("{name} {result}: {error:.2e} of {bound:.0e}"));
            }
        }
        match run_guarded(one, plan, &built.weights, &built.inputs) {
            Ok(guarded) if equal(&outputs, &guarded) => {}
            guarded => {
                let why = guarded.err().unwrap_or_else(|| "other bits".to_owned());
                failures.push(format!("{name} with gaps: {why}"));
            }
        }
        if !same(&Ok(outputs), &run(one, 0xFF)) {
            failures.push(format!("{name}: other bits with memory of NaN"));
        }
        worst
    }
}

/// Largest module that is run in primitives.
const MOST_OPERATIONS: u64 = 100_000_000;

/// The definition of every op, and every op in a kernel of its own, with gaps between the pieces of
/// memory: as near to the interpreter as kernels are.
#[test]
fn decomposed_and_unfused_modules_agree() {
    let device = devices::first(2);
    let (mut failures, mut count) = (Vec::new(), 0);
    each(|case, dtype, built| {
        count += 1;
        let reference = interpreted(built, &built.module);
        let apart = primitives(&built.module, "f");
        for (what, module, options) in [
            ("decomposed", &apart, Options::default()),
            ("unfused", &built.module, Options::unfused()),
        ] {
            let plan = anyid_passes::CompileRequest::new(module, "f").with(&options).plan();
            let plan = plan.unwrap_or_else(|e| panic!("{}: {e}", case.name));
            // Primitives are computed element by element; large products would take seconds.
            if what == "decomposed" && PhaseSummary::of(&plan).flops > MOST_OPERATIONS {
                continue;
            }
            let outputs = match run_guarded(&device, &plan, &built.weights, &built.inputs) {
                Ok(outputs) => outputs,
                Err(error) => {
                    failures.push(format!("{}: {dtype} {what}: {error}", case.name));
                    continue;
                }
            };
            for ((name, given), golden) in outputs.iter().zip(&reference) {
                let (error, bound) = (difference(given, golden), case.tolerance.of(given.dtype()));
                if error > bound {
                    let close = format!("{error:.2e} of {bound:.0e}");
                    failures.push(format!("{}: {dtype} {what} {name}: {close}", case.name));
                }
            }
        }
    });
    report(&failures, count);
}

/// Equal bits; NaN patterns may differ.
fn same(a: &Result<Named, RunError>, b: &Result<Named, RunError>) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => equal(a, b),
        _ => a.is_err() == b.is_err(),
    }
}

fn equal(a: &Named, b: &Named) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((_, a), (_, b))| a == b || difference(a, b) == 0.0)
}

/// A module of one op on parameters.
fn one_op(op: Op, operands: &[TensorType]) -> Module {
    let mut module = Module { name: "case".into(), ..Module::default() };
    let mut f = FuncBuilder::new(&module, "f");
    let values: Vec<_> =
        operands.iter().enumerate().map(|(i, ty)| f.param(&format!("x{i}"), ty.clone())).collect();
    let made = f.op_of("y", op, &values, &[]);
    let func = f.finish(&made);
    module.add(func);
    module
}

fn f32(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape.iter().copied())
}

/// A row that a table does not have is an error of the run, on a device as in the interpreter.
#[test]
fn rows_outside_a_table_are_errors() {
    let device = devices::first(2);
    let segments = |rows| TensorType::new(DType::I32, [rows]);
    let (x, table) = (f32(&[3, 4]), f32(&[2, 4]));
    let ops = [
        (Op::Gather, vec![table.clone(), segments(3)]),
        (Op::Modulate, vec![x.clone(), table.clone(), table.clone(), segments(3)]),
        (Op::GateAdd, vec![x.clone(), x.clone(), table.clone(), segments(3)]),
    ];
    for (op, types) in ops {
        let name = op.name();
        let module = one_op(op, &types);
        for wrong in [2, -1, i32::MAX, i32::MIN] {
            let inputs: Named = types
                .iter()
                .enumerate()
                .map(|(i, ty)| {
                    let tensor = match ty.dtype {
                        DType::I32 => Tensor::from_i32([3], &[0, wrong, 1]).unwrap(),
                        _ => Tensor::zeros(ty.clone()),
                    };
                    (format!("x{i}"), tensor)
                })
                .collect();
            let plan = CompileRequest::new(&module, "f").plan().unwrap();
            let error = run_plan(&device, &plan, &Stored::default(), &inputs, 0).unwrap_err();
            let RunError::Index { index, rows, .. } = error else { panic!("{name}: {error:?}") };
            assert_eq!((index, rows), (i64::from(wrong), 2), "{name}");
            let tensors: Vec<Tensor> = inputs.into_iter().map(|(_, tensor)| tensor).collect();
            let error = Evaluator::new(&module, Mode::F32).run("f", &tensors, &(), None);
            assert_eq!(error.unwrap_err().code, "E1044", "{name}");
        }
    }
}

/// Every module that verifies runs: what has no kernel is decomposed.
#[test]
fn ops_without_a_kernel_run_as_primitives() {
    let device = devices::first(2);
    let rows = |dtype| TensorType::new(dtype, [3, 4]);
    let vector = |dtype| TensorType::new(dtype, [4]);
    let half = DType::F16;
    let conv = Op::Conv { stride: [1; 3], pad: [[0, 0], [1, 0], [0, 1]] };
    let pixels = |dtype| TensorType::new(dtype, [1, 2, 2, 3]);
    let kernel = |dtype| TensorType::new(dtype, [4, 3, 1, 2]);
    let norm = Op::RmsNorm { eps: 1.0, clamp: false };
    let cases = [
        (Op::Attention { heads: 2, scale: -1.0, lse: false, last: 1 }, vec![rows(DType::F32); 3]),
        (Op::Attention { heads: 2, scale: 1.0, lse: false, last: 1 }, vec![rows(DType::F64); 3]),
        (Op::Attention { heads: 2, scale: 1.0, lse: false, last: 1 }, vec![rows(half); 3]),
        (Op::Attention { heads: 2, scale: 1.0, lse: true, last: 1 }, vec![rows(DType::F64); 3]),
        (Op::Attention { heads: 2, scale: -1.0, lse: true, last: 1 }, vec![rows(half); 3]),
        (Op::Linear, vec![rows(DType::F64); 2]),
        (Op::Linear, vec![rows(half), rows(half), TensorType::new(half, [3])]),
        (Op::Linear, vec![rows(DType::F32), rows(DType::F64)]),
        (
            Op::Linear,
            vec![rows(DType::F32); 2].into_iter().chain([TensorType::new(half, [3])]).collect(),
        ),
        (Op::LayerNorm { eps: 1.0 }, vec![rows(DType::F64)]),
        (Op::LayerNorm { eps: 1.0 }, vec![rows(DType::Bf16), vector(half), vector(DType::F64)]),
        (norm.clone(), vec![rows(DType::F64), vector(DType::F32)]),
        (norm, vec![rows(DType::F32), vector(DType::Bf16)]),
        (Op::Silu, vec![rows(DType::F64)]),
        (Op::Gelu, vec![rows(DType::F64)]),
        (conv.clone(), vec![pixels(DType::F32), kernel(DType::F32)]),
        (conv.clone(), vec![pixels(half), kernel(half)]),
        (conv, vec![pixels(DType::F64), kernel(DType::F64)]),
    ];
    for (op, types) in cases {
        let shown = format!("{op:?} {types:?}");
        let module = one_op(op, &types);
        assert!(anyid_ir::verify::verify(&module).is_empty(), "{shown}");
        let inputs: Named = types
            .iter()
            .enumerate()
            .map(|(i, ty)| (format!("x{i}"), noise(ty.clone(), 7 + i as u64)))
            .collect();
        let tensors: Vec<Tensor> = inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
        let right = Evaluator::new(&module, Mode::F32).run("f", &tensors, &(), None).unwrap();
        for options in [Options::default(), Options::unfused()] {
            let plan = CompileRequest::new(&module, "f").with(&options).plan().unwrap();
            let given = run_plan(&device, &plan, &Stored::default(), &inputs, 0xFF).unwrap();
            for ((_, given), right) in given.iter().zip(&right) {
                let bound = match right.dtype() {
                    DType::F64 => 1e-14,
                    DType::F32 => 1e-5,
                    _ => 8e-3,
                };
                let error = difference(given, right);
                assert!(error <= bound, "{shown}: {error}");
            }
        }
    }
}

/// The cases of the table in the types that their kernels do not have.
#[test]
fn every_case_runs_in_every_float_type() {
    let device = devices::first(2);
    let (mut failures, mut count) = (Vec::new(), 0);
    let floats = [DType::F32, DType::Bf16, DType::F16, DType::F64];
    for case in cases() {
        // Cases of integers, tables and literals are for their own types.
        let literal = ["const ", "iota "].iter().any(|op| case.name.starts_with(op));
        if literal || !case.dtypes.contains(&DType::F32) {
            continue;
        }
        for dtype in floats.into_iter().filter(|dtype| !case.dtypes.contains(dtype)) {
            let built = (case.build)(dtype);
            assert!(anyid_ir::verify::verify(&built.module).is_empty(), "{}", case.name);
            count += 1;
            let right = interpreted(&built, &built.module);
            let plan = CompileRequest::new(&built.module, "f").plan();
            let plan = plan.unwrap_or_else(|e| panic!("{e}"));
            let given = match run_plan(&device, &plan, &built.weights, &built.inputs, 0xFF) {
                Ok(given) => given,
                Err(error) => {
                    failures.push(format!("{} {dtype}: {error:?}", case.name));
                    continue;
                }
            };
            for ((name, given), right) in given.iter().zip(&right) {
                let bound = match given.dtype() {
                    DType::F64 => 1e-12,
                    DType::F32 => 1e-4,
                    DType::Bf16 | DType::F16 => 1.6e-2,
                    DType::I32 | DType::U8 | DType::Bool => 0.0,
                };
                let error = difference(given, right);
                if error > bound {
                    failures.push(format!("{} {dtype} {name}: {error:.1e}", case.name));
                }
            }
        }
    }
    report(&failures, count);
    assert!(count > 20, "only {count} cases");
}

#[test]
fn tensors_without_elements_are_refused() {
    for (op, shape) in [
        (Op::Silu, &[0, 3][..]),
        (Op::Permute { perm: Axes::from_slice(&[1, 0]) }, &[3, 0]),
        (Op::Slice { axis: 0, start: 1, len: 0 }, &[3, 2]),
        (
            Op::Reduce { f: anyid_ir::ReduceFn::Mean, axes: Axes::from_slice(&[1]), keep: true },
            &[2, 0],
        ),
    ] {
        let name = op.name();
        let module = one_op(op, &[f32(shape)]);
        let codes: Vec<_> = anyid_ir::verify::verify(&module).iter().map(|d| d.code).collect();
        assert!(codes.contains(&"E0114"), "{name}: {codes:?}");
    }
}
