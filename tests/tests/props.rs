//! Random graphs through every pass and both ways to run: the verifier accepts them, text gives
//! them back, plans keep their bounds, and no pass changes what a graph computes.
//!
//! The numbers are the same in every run; `PROPTEST_CASES` asks for more of them. A failure prints
//! the shrunken module as text.

use anyid_backends::Device;
use anyid_ir::Kernel;
use anyid_ir::kernel::text::{parse_kernels, print_kernels};
use anyid_ir::plan::Plan;
use anyid_ir::plan_text::{parse_plans, print_plans};
use anyid_ir::plan_verify::verify_plan;
use anyid_ir::{DType, Evaluator, FuncBuilder, Mode, Module, Tensor, TensorType, text, verify};
use anyid_passes::driver::{Selection, drive, unobserved};
use anyid_passes::rewrite::Rewrites;
use anyid_passes::{
    CompileRequest, Options, Program, StateSpec, canonicalize, flatten, fold, pipeline, simplify,
    straight,
};
use anyid_tests::close::difference;
use anyid_tests::devices;
use anyid_tests::graphs::{Graph, Recipe, graph};
use anyid_tests::op_cases::{noise, seed_of};
use anyid_tests::plans::{Named, Plans, Stored, run_guarded, run_plan};
use anyid_tests::primitives::primitives;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

fn recipes() -> impl Strategy<Value = Recipe> {
    let choices = |most| prop::collection::vec(any::<[u16; 4]>(), 1..=most);
    (any::<[u8; 4]>(), choices(8), choices(17)).prop_map(|(sizes, inner, outer)| Recipe {
        sizes,
        inner,
        outer,
    })
}

/// Runs `check` on 256 graphs, or `PROPTEST_CASES` of them.
fn each(check: impl Fn(&Graph, &Recipe) -> Result<(), String>) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(256);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let numbers = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, numbers);
    let result = runner.run(&recipes(), |recipe| {
        let graph = graph(&recipe);
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&graph, &recipe)));
        let outcome = outcome.unwrap_or_else(|_| Err("it panicked".to_owned()));
        outcome.map_err(|why| TestCaseError::fail(format!("{why}\n{}", text::print(&graph.module))))
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn expect(holds: bool, what: impl Fn() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn interpreted(graph: &Graph, module: &Module, mode: Mode) -> Result<Vec<Tensor>, String> {
    let inputs: Vec<Tensor> = graph.inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
    Evaluator::new(module, mode)
        .run("main", &inputs, &graph.weights, None)
        .map_err(|error| error.to_string())
}

/// Runs a plan in memory full of NaN.
fn run(device: &Arc<dyn Device>, graph: &Graph, plan: &Plan) -> Result<Named, String> {
    run_plan(device, plan, &graph.weights, &graph.inputs, 0xFF)
        .map_err(|error| format!("{error:?}"))
}

fn same(what: &str, a: &Named, b: &Named) -> Result<(), String> {
    expect(a.len() == b.len(), || format!("{what}: {} outputs, not {}", b.len(), a.len()))?;
    for ((name, a), (_, b)) in a.iter().zip(b) {
        expect(a == b, || format!("{what}: %{name} has other bits"))?;
    }
    Ok(())
}

/// `given` is about as near to the exact result as the interpreter's singles are.
fn close(what: &str, given: &Named, singles: &[Tensor], exact: &[Tensor]) -> Result<(), String> {
    expect(given.len() == exact.len(), || format!("{what}: {} outputs", given.len()))?;
    for (((name, given), singles), exact) in given.iter().zip(singles).zip(exact) {
        let error = |tensor: &Tensor| difference(&tensor.cast(exact.dtype()), exact);
        let (error, own) = (error(given), error(singles));
        let bound = 3e-5 + 32.0 * own;
        expect(error <= bound, || {
            format!("{what}: %{name} is {error:.1e} off, allowed {bound:.1e}")
        })?;
    }
    Ok(())
}

#[test]
fn the_verifier_accepts_what_the_builder_made() {
    each(|graph, _| {
        let found = verify::verify(&graph.module);
        expect(found.is_empty(), || format!("{found:?}"))?;
        let found = verify::verify(&primitives(&graph.module, "main"));
        expect(found.is_empty(), || format!("decomposed: {found:?}"))
    });
}

/// The graphs would show little if most choices fell back to something simple.
#[test]
fn the_graphs_use_the_patterns_of_the_model() {
    let used = std::cell::RefCell::new(std::collections::BTreeMap::<&str, usize>::new());
    each(|graph, _| {
        let funcs = graph.module.funcs.iter();
        let nodes = funcs.flat_map(|f| f.walk().into_iter().map(|node| f.nodes[node].op.name()));
        let names: std::collections::BTreeSet<&str> = nodes.collect();
        names.into_iter().for_each(|name| *used.borrow_mut().entry(name).or_default() += 1);
        Ok(())
    });
    let used = used.into_inner();
    let rare: Vec<&str> = anyid_tests::op_cases::closed_set()
        .into_iter()
        .filter(|name| used.get(name).copied().unwrap_or(0) < 3)
        .collect();
    // Rounding down is not for computed numbers: it makes a step of the smallest error. The others
    // are made by derivatives.
    assert_eq!(rare, ["floor", "attention_vjp", "segment_sum"], "{used:?}");
}

#[test]
fn text_gives_the_module_back() {
    each(|graph, _| {
        let printed = text::print(&graph.module);
        let module = text::parse_module(&printed, &[]).map_err(|found| format!("{found:?}"))?;
        expect(text::print(&module) == printed, || "printed again it is another text".to_owned())?;
        let (a, b) = (
            interpreted(graph, &graph.module, Mode::F32)?,
            interpreted(graph, &module, Mode::F32)?,
        );
        expect(a == b, || "the parsed module computes something else".to_owned())
    });
}

/// Kernels and plans as text, of everything compiled and of every op by itself.
#[test]
fn text_gives_kernels_and_plans_back() {
    each(|graph, recipe| {
        let split = split(graph, recipe)?;
        let whole = |options: &Options| {
            CompileRequest::new(&graph.module, "main")
                .with(options)
                .plan()
                .map_err(|e| e.to_string())
        };
        let (fused, unfused) = (whole(&Options::default())?, whole(&Options::unfused())?);
        for plans in [split.to_vec(), vec![fused], vec![unfused]] {
            let printed = print_plans(&plans);
            let parsed = parse_plans(&printed).map_err(|fault| format!("{fault}\n{printed}"))?;
            expect(print_plans(&parsed) == printed, || format!("another plan:\n{printed}"))?;
            let steps = plans.iter().flat_map(|plan| &plan.steps);
            let kernels: Vec<Kernel> = steps.map(|step| step.kernel.clone()).collect();
            let printed = print_kernels(&kernels);
            let parsed = parse_kernels(&printed).map_err(|fault| format!("{fault}\n{printed}"))?;
            let same = parsed.len() == kernels.len() && print_kernels(&parsed) == printed;
            expect(same, || format!("other kernels:\n{printed}"))?;
        }
        Ok(())
    });
}

#[test]
fn plans_keep_their_bounds() {
    each(|graph, recipe| {
        let split = split(graph, recipe)?;
        let plan = CompileRequest::new(&graph.module, "main").plan().map_err(|e| e.to_string())?;
        for plan in [&plan, &split[0], &split[1]] {
            expect(verify_plan(plan).is_empty(), || format!("{:?}", verify_plan(plan)))?;
            let (least, used, most) =
                (plan.lower_bound_bytes, plan.workspace_bytes, plan.naive_bytes);
            let shown = || format!("@{}: {least} ≤ {used} ≤ {most}", plan.name);
            expect(least <= used && used <= most, shown)?;
        }
        Ok(())
    });
}

#[test]
fn plans_on_a_device_compute_what_the_graph_says() {
    let device = devices::first(2);
    each(|graph, _| {
        let singles = interpreted(graph, &graph.module, Mode::F32)?;
        let exact = interpreted(graph, &graph.module, Mode::F64)?;
        let plan = CompileRequest::new(&graph.module, "main").plan().map_err(|e| e.to_string())?;
        close("composites", &run(&device, graph, &plan)?, &singles, &exact)?;
        let parts = primitives(&graph.module, "main");
        let plan = CompileRequest::new(&parts, "main").plan().map_err(|e| e.to_string())?;
        close("primitives", &run(&device, graph, &plan)?, &singles, &exact)
    });
}

/// The program as a module, interpreted.
fn evaluated(graph: &Graph, program: &Program) -> Result<Vec<Tensor>, String> {
    program.verify()?;
    let mut module = straight::empty(&graph.module);
    straight::add_function(&mut module, program, "main");
    let found = verify::verify(&module);
    expect(found.is_empty(), || format!("{found:?}\n{}", text::print(&module)))?;
    interpreted(graph, &module, Mode::F32)
}

/// What the passes over programs do, one by one and one after the other.
#[test]
fn passes_over_programs_change_no_bit_and_twice_is_once() {
    type Pass = fn(Program, &mut Rewrites) -> Program;
    let passes: [(&str, Pass); 4] = [
        ("canonicalize", canonicalize::canonicalize),
        ("fold", fold::fold),
        ("cse", simplify::share),
        ("dce", simplify::drop_unused),
    ];
    let made = std::cell::Cell::new([0u64; 4]);
    each(|graph, recipe| {
        let right = interpreted(graph, &graph.module, Mode::F32)?;
        let program = flatten::flatten(&graph.module, "main").map_err(|e| e.to_string())?;
        expect(evaluated(graph, &program)? == right, || "inline changes a bit".to_owned())?;
        let mut all = program.clone();
        for (at, (name, pass)) in passes.iter().enumerate() {
            let mut rewrites = Rewrites::unlimited();
            let once = pass(program.clone(), &mut rewrites);
            let mut counts = made.get();
            counts[at] += rewrites.done();
            made.set(counts);
            expect(evaluated(graph, &once)? == right, || format!("{name} changes a bit"))?;
            let done = rewrites.done();
            let again = pass(once.clone(), &mut rewrites);
            let same = format!("{again:?}") == format!("{once:?}") && rewrites.done() == done;
            expect(same, || format!("{name} twice is not once"))?;
            let some = done.saturating_sub(u64::from(recipe.sizes[0]) % 4);
            let partial = pass(program.clone(), &mut Rewrites::new(Some(some)));
            let what = || format!("{name} stopped after {some} changes a bit");
            expect(evaluated(graph, &partial)? == right, what)?;
            all = pass(all, &mut rewrites);
            expect(evaluated(graph, &all)? == right, || format!("all up to {name}"))?;
        }
        expect(all.steps.len() <= program.steps.len(), || "there are more steps".to_owned())
    });
    let made = made.get();
    assert!(made.iter().all(|count| *count > 50), "the graphs give little to do: {made:?}");
}

#[test]
fn dropping_equal_and_unused_steps_changes_no_bit_of_a_plan() {
    let device = devices::first(2);
    let options = Options::traceable();
    each(|graph, _| {
        let plan = |options: &Options| {
            CompileRequest::new(&graph.module, "main")
                .with(options)
                .plan()
                .map_err(|e| e.to_string())
        };
        let plain = run(&device, graph, &plan(&options.clone().off("cse").off("dce"))?)?;
        same("simplified", &plain, &run(&device, graph, &plan(&options)?)?)
    });
}

/// Each pass alone left out, and the compiler stopped after any number of rewrites: still what the
/// graph says, in sound plans.
#[test]
fn any_pass_left_out_and_any_number_of_rewrites_compute_the_same() {
    let device = devices::first(2);
    let optional: Vec<&str> =
        pipeline::PASSES.iter().filter(|pass| pass.optional).map(|pass| pass.name).collect();
    let next = std::cell::Cell::new(0);
    each(|graph, recipe| {
        let singles = interpreted(graph, &graph.module, Mode::F32)?;
        let exact = interpreted(graph, &graph.module, Mode::F64)?;
        let checked = Options { verify_each: true, ..Options::default() };
        let compiled = |options: &Options| -> Result<(Plan, u64), String> {
            let all = Selection::All;
            let outcome = drive(&request(graph, options), &all, &mut unobserved)
                .map_err(|e| e.to_string())?;
            let plan = outcome.state.parts.into_iter().next().and_then(|part| part.plan);
            Ok((plan.ok_or("no plan")?, outcome.rewrites.len() as u64))
        };
        // One of them a graph: all of them often enough.
        let name = optional[next.replace(next.get() + 1) % optional.len()];
        let (plan, _) = compiled(&checked.clone().off(name))?;
        close(&format!("without {name}"), &run(&device, graph, &plan)?, &singles, &exact)?;
        let (_, total) = compiled(&checked)?;
        let numbers = recipe.outer.iter().flatten().fold(0u64, |all, n| all + u64::from(*n));
        let limit = numbers % (total + 1);
        let (plan, done) = compiled(&Options { stop_after: Some(limit), ..checked })?;
        expect(done == limit, || format!("{done} rewrites, not {limit}"))?;
        close(&format!("{limit} rewrites"), &run(&device, graph, &plan)?, &singles, &exact)
    });
}

/// Each pass alone, with every other one that can be left out left out.
#[test]
fn any_pass_alone_computes_the_same() {
    let device = devices::first(2);
    let optional: Vec<&str> =
        pipeline::PASSES.iter().filter(|pass| pass.optional).map(|pass| pass.name).collect();
    let next = std::cell::Cell::new(0);
    let made = std::cell::RefCell::new(std::collections::BTreeMap::<&str, u64>::new());
    each(|graph, _| {
        let name = optional[next.replace(next.get() + 1) % optional.len()];
        let without =
            optional.iter().filter(|other| **other != name).map(|name| (*name).to_owned());
        let options =
            Options { verify_each: true, without: without.collect(), ..Options::default() };
        let all = Selection::All;
        let outcome = drive(&request(graph, &options), &all, &mut unobserved)
            .map_err(|error| error.to_string())?;
        *made.borrow_mut().entry(name).or_default() += outcome.rewrites.len() as u64;
        let plan = outcome.state.parts.into_iter().next().and_then(|part| part.plan);
        let singles = interpreted(graph, &graph.module, Mode::F32)?;
        let exact = interpreted(graph, &graph.module, Mode::F64)?;
        let given = run(&device, graph, &plan.ok_or("no plan")?)?;
        close(&format!("{name} alone"), &given, &singles, &exact)
    });
    // Passes that find something in small graphs without a split, and by themselves.
    let made = made.into_inner();
    for name in ["canonicalize", "cse", "dce", "fuse", "pack-linears", "alias", "pack"] {
        assert!(made[name] > 0, "{name}: {made:?}");
    }
}

/// A target without any composite: everything is decomposed, and it still runs.
#[test]
fn a_target_of_primitives_computes_the_same() {
    let device = devices::first(2);
    let mut options = Options { verify_each: true, ..Options::default() };
    (options.target.products, options.target.rows) = (&[], &[]);
    each(|graph, _| {
        let singles = interpreted(graph, &graph.module, Mode::F32)?;
        let exact = interpreted(graph, &graph.module, Mode::F64)?;
        let plan = CompileRequest::new(&graph.module, "main")
            .with(&options)
            .plan()
            .map_err(|e| e.to_string())?;
        let heavy = plan.steps.iter().find(|step| step.kind() == "linear");
        expect(heavy.is_none(), || "there is a linear left".to_owned())?;
        close("primitives", &run(&device, graph, &plan)?, &singles, &exact)
    });
}

/// Memory shared or not, parts of products side by side or apart, kernels in program order or another:
/// the same bits, in memory full of NaN and, with gaps between the pieces of memory, without a byte
/// written outside them.
#[test]
fn sharing_memory_changes_no_bit() {
    let device = devices::first(2);
    let read = std::cell::Cell::new(0);
    each(|graph, _| {
        let with =
            |options: &Options| CompileRequest::new(&graph.module, "main").with(options).plan();
        let apart = ["share-columns", "alias", "pack", "schedule"];
        let apart = apart.into_iter().fold(Options::default(), Options::off);
        let apart = with(&apart).map_err(|e| e.to_string())?;
        let plan = CompileRequest::new(&graph.module, "main").plan().map_err(|e| e.to_string())?;
        expect(verify_plan(&plan).is_empty(), || format!("{:?}", verify_plan(&plan)))?;
        let want = run(&device, graph, &apart)?;
        same("shared", &want, &run(&device, graph, &plan)?)?;
        let unpacked = with(&Options::default().off("pack")).map_err(|e| e.to_string())?;
        let mut joint = Options::default();
        joint.target.joint_parts = true;
        let joint = with(&joint).map_err(|e| e.to_string())?;
        expect(verify_plan(&joint).is_empty(), || format!("{:?}", verify_plan(&joint)))?;
        let operands = plan.steps.iter().flat_map(|step| step.reads());
        let columns = operands.filter(|id| plan.buffer(**id).columns.is_some()).count();
        read.set(read.get() + columns);
        for plan in [&plan, &unpacked, &apart, &joint] {
            let guarded = run_guarded(&device, plan, &graph.weights, &graph.inputs)?;
            same("guarded", &want, &guarded)?;
        }
        Ok(())
    });
    assert!(read.get() > 0, "nothing is read by columns");
}

/// Outputs as states: inputs of equal types become what the states held before. The outputs that
/// are left and the states after two runs are those of two plain runs that hand the values on.
#[test]
fn states_are_what_handing_on_would_be() {
    let device = devices::first(2);
    let carried = std::cell::Cell::new(0);
    each(|graph, recipe| {
        let plain = CompileRequest::new(&graph.module, "main").plan().map_err(|e| e.to_string())?;
        let mut free: Vec<usize> = (0..plain.inputs.len()).collect();
        let mut states: Vec<StateSpec> = Vec::new();
        for (output, port) in plain.outputs.iter().enumerate() {
            let ty = &plain.buffer(port.buffer).ty;
            let same = |at: &usize| plain.buffer(plain.inputs[*at].buffer).ty == *ty;
            let input = free.iter().position(same).map(|at| free.remove(at));
            if input.is_some() || recipe.sizes[0] % 3 == 0 {
                let name = format!("s{output}");
                states.push(StateSpec { name, input, output });
            }
        }
        carried.set(carried.get() + states.iter().filter(|s| s.input.is_some()).count());
        let options = Options::default();
        let plan = CompileRequest::new(&graph.module, "main")
            .with(&options)
            .carrying(states.iter().cloned())
            .plan();
        let plan = plan.map_err(|e| e.to_string())?;
        expect(verify_plan(&plan).is_empty(), || format!("{:?}", verify_plan(&plan)))?;
        let mut inputs = graph.inputs.clone();
        let mut plans =
            Plans::new(&device, &[&plan], Arc::new(graph.weights.clone()), 0xFF).unwrap();
        let place = |at: usize| inputs_place(graph, &plain.inputs[at].name);
        for spec in &states {
            if let Some(input) = spec.input {
                plans.set_state(0, &spec.name, &inputs[place(input)].1);
            }
        }
        for _ in 0..2 {
            let want = run_plan(&device, &plain, &graph.weights, &inputs, 0).unwrap();
            let got = plans.run(0, &inputs).map_err(|e| format!("{e:?}"))?;
            let mut left: Named = Vec::new();
            for (output, (name, value)) in want.iter().enumerate() {
                match states.iter().find(|spec| spec.output == output) {
                    None => left.push((name.clone(), value.clone())),
                    Some(spec) => {
                        expect(plans.state(0, &spec.name) == *value, || {
                            format!("state {} is not what %{name} was", spec.name)
                        })?;
                        if let Some(input) = spec.input {
                            inputs[place(input)].1 = value.clone();
                        }
                    }
                }
            }
            same("beside states", &left, &got)?;
        }
        Ok(())
    });
    assert!(carried.get() > 50, "{} states were carried", carried.get());
}

fn inputs_place(graph: &Graph, name: &str) -> usize {
    graph.inputs.iter().position(|(other, _)| other == name).expect("an input of the graph")
}

/// To the bit without fusion; with it, an epilogue may leave out a rounding of the half types, and
/// which epilogues there are depends on where the function is cut.
#[test]
fn splitting_changes_no_bit() {
    let device = devices::first(2);
    each(|graph, recipe| {
        let singles = interpreted(graph, &graph.module, Mode::F32)?;
        let exact = interpreted(graph, &graph.module, Mode::F64)?;
        for options in [Options::default().off("fuse"), Options::default()] {
            let plan = CompileRequest::new(&graph.module, "main")
                .with(&options)
                .plan()
                .map_err(|e| e.to_string())?;
            let whole = run(&device, graph, &plan)?;
            let split = split_with(graph, recipe, &options)?;
            let plans = split.each_ref();
            let mut plans = Plans::new(&device, &plans, graph.weights.shared(), 0xFF)
                .map_err(|e| e.to_string())?;
            plans.run(0, &graph.inputs).map_err(|error| format!("{error:?}"))?;
            let mut first: Option<Named> = None;
            for _ in 0..2 {
                let outputs = plans.run(1, &graph.inputs).map_err(|error| format!("{error:?}"))?;
                match options.runs("fuse") {
                    false => same("split", &whole, &outputs)?,
                    true => close("split", &outputs, &singles, &exact)?,
                }
                if let Some(first) = &first {
                    same("a second step", first, &outputs)?;
                }
                first = Some(outputs);
            }
        }
        Ok(())
    });
}

/// What `prepare` keeps may begin in the middle of a value, or be an input or a weight.
#[test]
fn kept_values_may_be_parts_of_others() {
    let mut module = Module { name: "parts".into(), ..Module::default() };
    let rows = TensorType::new(DType::F32, [3, 2, 5]);
    module.weights.add("w", rows.clone()).expect("one name");
    let mut f = FuncBuilder::new(&module, "main");
    let [x, c] = ["x", "c"].map(|name| f.param(name, TensorType::new(DType::F32, [2, 5])));
    let (stack, w) = (f.param("s", rows.clone()), f.weight("w"));
    let fixed = f.mul("fixed", stack, w);
    let mut sum = x;
    for at in [2, 1, 0] {
        let parts = [("fixed", fixed), ("stack", stack), ("weight", w)];
        for (name, whole) in parts {
            let part = f.index(name, whole, 0, at);
            let line = f.slice(name, part, 0, at % 2, 1);
            let both = f.mul("both", part, line);
            sum = f.add("sum", sum, both);
            let first = f.add("first", sum, line);
            sum = f.mul("sum", first, c);
        }
    }
    let tail = f.slice("tail", fixed, 0, 1, 2);
    let func = f.finish(&[sum, tail, c, w]);
    module.add(func);
    let inputs = module.funcs[0].param_types();
    let inputs: Named =
        inputs.map(|(name, ty)| (name.to_owned(), noise(ty.clone(), seed_of(name)))).collect();
    let mut weights = Stored::default();
    weights.insert("w", noise(rows, 1));
    let graph = Graph { module, inputs, weights };
    let device = devices::first(2);
    let whole = CompileRequest::new(&graph.module, "main").plan().unwrap();
    let whole = run(&device, &graph, &whole).unwrap();
    for varying in [&["x"][..], &["c"], &["s"], &["x", "s"], &["x", "c", "s"], &[]] {
        let request = CompileRequest::new(&graph.module, "main");
        let split = request.varying(varying.iter().copied()).split().unwrap();
        let plans = split.each_ref();
        let mut plans = Plans::new(&device, &plans, graph.weights.shared(), 0xFF).unwrap();
        plans.run(0, &graph.inputs).unwrap();
        same("split", &whole, &plans.run(1, &graph.inputs).unwrap()).unwrap();
    }
}

fn request<'g>(graph: &'g Graph, options: &Options) -> CompileRequest<'g> {
    CompileRequest::new(&graph.module, "main").with(options)
}

/// `main` split by a subset of its parameters that the recipe chooses.
fn split(graph: &Graph, recipe: &Recipe) -> Result<[Plan; 2], String> {
    split_with(graph, recipe, &Options::default())
}

fn split_with(graph: &Graph, recipe: &Recipe, options: &Options) -> Result<[Plan; 2], String> {
    let bits = recipe.sizes.iter().fold(recipe.outer.len(), |all, size| all + *size as usize);
    let chosen = graph.inputs.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
    let varying: Vec<&str> = chosen.map(|(_, (name, _))| name.as_str()).collect();
    CompileRequest::new(&graph.module, "main")
        .varying(varying.iter().copied())
        .with(options)
        .split()
        .map_err(|e| e.to_string())
}
