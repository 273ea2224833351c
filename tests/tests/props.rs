//! Random graphs through every pass and both ways to run: the verifier accepts them, text gives
//! them back, plans keep their bounds, and no pass changes what a graph computes.
//!
//! The numbers are the same in every run; `PROPTEST_CASES` asks for more of them. A failure prints
//! the shrunken module as text.

use anyid_backends::cpu::Cpu;
use anyid_ir::plan::Plan;
use anyid_ir::{Evaluator, Mode, Module, Tensor, decompose_module, text, verify};
use anyid_passes::{compile, compile_split, flatten, memory, simplify};
use anyid_tests::close::difference;
use anyid_tests::graphs::{Graph, Recipe, graph};
use anyid_tests::plans::{Named, Plans, run_plan};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn recipes() -> impl Strategy<Value = Recipe> {
    let choices = |most| prop::collection::vec(any::<[u16; 4]>(), 1..=most);
    (any::<[u8; 4]>(), choices(8), choices(17))
        .prop_map(|(sizes, inner, outer)| Recipe { sizes, inner, outer })
}

/// Runs `check` on 128 graphs, or `PROPTEST_CASES` of them.
fn each(check: impl Fn(&Graph, &Recipe) -> Result<(), String>) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(128);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let numbers = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, numbers);
    let result = runner.run(&recipes(), |recipe| {
        let graph = graph(&recipe);
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&graph, &recipe)));
        let outcome = outcome.unwrap_or_else(|_| Err("it panicked".to_owned()));
        outcome.map_err(|why| {
            TestCaseError::fail(format!("{why}\n{}", text::print(&graph.module)))
        })
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

fn cpu() -> Cpu {
    Cpu::open(2, None).unwrap_or_else(|e| panic!("{e}"))
}

/// Runs a plan in memory full of NaN.
fn run(cpu: &Cpu, graph: &Graph, plan: &Plan) -> Result<Named, String> {
    run_plan(cpu, plan, &graph.weights, &graph.inputs, 0xFF).map_err(|error| format!("{error:?}"))
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
        expect(error <= bound, || format!("{what}: %{name} is {error:.1e} off, allowed {bound:.1e}"))?;
    }
    Ok(())
}

#[test]
fn the_verifier_accepts_what_the_builder_made() {
    each(|graph, _| {
        let found = verify::verify(&graph.module);
        expect(found.is_empty(), || format!("{found:?}"))?;
        let found = verify::verify(&decompose_module(&graph.module));
        expect(found.is_empty(), || format!("decomposed: {found:?}"))
    });
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

#[test]
fn plans_keep_their_bounds() {
    each(|graph, recipe| {
        let split = split(graph, recipe)?;
        let plan = compile(&graph.module, "main").map_err(|e| e.to_string())?;
        for plan in [&plan, &split.prepare, &split.step] {
            let (least, used, most) =
                (plan.lower_bound_bytes, plan.workspace_bytes, plan.naive_bytes);
            let shown = || format!("@{}: {least} ≤ {used} ≤ {most}", plan.name);
            expect(least <= used && used <= most, shown)?;
        }
        Ok(())
    });
}

#[test]
fn plans_on_the_cpu_compute_what_the_graph_says() {
    let cpu = cpu();
    each(|graph, _| {
        let singles = interpreted(graph, &graph.module, Mode::F32)?;
        let exact = interpreted(graph, &graph.module, Mode::F64)?;
        let plan = compile(&graph.module, "main").map_err(|e| e.to_string())?;
        close("composites", &run(&cpu, graph, &plan)?, &singles, &exact)?;
        let parts = decompose_module(&graph.module);
        let plan = compile(&parts, "main").map_err(|e| e.to_string())?;
        close("primitives", &run(&cpu, graph, &plan)?, &singles, &exact)
    });
}

#[test]
fn simplifying_changes_no_bit() {
    let cpu = cpu();
    each(|graph, _| {
        let program = flatten::flatten(&graph.module, "main").map_err(|e| e.to_string())?;
        let plain = run(&cpu, graph, &memory::plan(&program, "main"))?;
        let simple = simplify::simplify(program.clone());
        expect(simple.steps.len() <= program.steps.len(), || "there are more steps".to_owned())?;
        same("simplified", &plain, &run(&cpu, graph, &memory::plan(&simple, "main"))?)?;
        let again = simplify::simplify(simple.clone());
        expect(again == simple, || "simplifying twice is not simplifying once".to_owned())
    });
}

#[test]
fn splitting_changes_no_bit() {
    let cpu = cpu();
    each(|graph, recipe| {
        let plan = compile(&graph.module, "main").map_err(|e| e.to_string())?;
        let whole = run(&cpu, graph, &plan)?;
        let split = split(graph, recipe)?;
        let plans = [&split.prepare, &split.step];
        let mut plans = Plans::new(&cpu, &plans, &graph.weights, 0xFF).map_err(|e| e.to_string())?;
        plans.run(0, &graph.inputs).map_err(|error| format!("{error:?}"))?;
        for _ in 0..2 {
            let outputs = plans.run(1, &graph.inputs).map_err(|error| format!("{error:?}"))?;
            same("split", &whole, &outputs)?;
        }
        Ok(())
    });
}

/// `main` split by a subset of its parameters that the recipe chooses.
fn split(graph: &Graph, recipe: &Recipe) -> Result<anyid_passes::Split<Plan>, String> {
    let bits = recipe.sizes.iter().fold(recipe.outer.len(), |all, size| all + *size as usize);
    let chosen = graph.inputs.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
    let varying: Vec<&str> = chosen.map(|(_, (name, _))| name.as_str()).collect();
    compile_split(&graph.module, "main", &varying).map_err(|e| e.to_string())
}
