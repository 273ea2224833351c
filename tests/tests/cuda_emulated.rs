//! Kernels for CUDA, executed on the processor: the op table in all its types. The device runs every
//! launch in several orders of its threads and wants the same bits of each.
//!
//! Needs a C++ compiler; where there is none the tests say that they are skipped.

use anyid_backends::device::Device;
use anyid_ir::plan::Plan;
use anyid_ir::{DType, Evaluator, Mode, Tensor};
use anyid_passes::{CompileRequest, Options};
use anyid_tests::close::difference;
use anyid_tests::devices;
use anyid_tests::op_cases::{Built, OpCase, cases};
use anyid_tests::plans::{Stored, run_guarded};
use std::sync::Arc;

/// Compiles the kernels of plans together: one call of the compiler takes many.
fn compile(device: &Arc<dyn Device>, plans: Vec<Plan>) {
    let none = device.clone().load(&[], Stored::default().shared(), &mut |_, _| true);
    let prepared = none.and_then(|weights| weights.prepare(plans));
    prepared.map(drop).unwrap_or_else(|error| panic!("{error}: {error:?}"));
}

fn interpreted(built: &Built) -> Vec<Tensor> {
    let inputs: Vec<Tensor> = built.inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
    Evaluator::new(&built.module, Mode::F32)
        .run("f", &inputs, &built.weights, None)
        .unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_op_table_agrees_with_the_interpreter_in_every_order_of_threads() {
    if let Some(name) = devices::emulated() {
        agrees(name, "");
    }
}

/// Other kernels than those for `sm_80` are products alone.
#[test]
fn products_of_warp_groups_agree_with_the_interpreter() {
    if devices::emulated().is_some() {
        agrees("cuda-emulated:sm_90a", "linear");
    }
}

/// The cases whose names begin so, on a device.
fn agrees(name: &str, begin: &str) {
    let device = devices::open(name, 1);
    let options = Options { target: device.about().target.clone(), ..Options::default() };
    let mut cases = cases();
    cases.retain(|case| case.name.starts_with(begin));
    let plan = |(case, dtype): (&OpCase, DType)| {
        let built = (case.build)(dtype);
        let plan = CompileRequest::new(&built.module, "f").with(&options).plan();
        plan.unwrap_or_else(|e| panic!("{}: {e}", case.name))
    };
    let all = || cases.iter().flat_map(|case| case.dtypes.iter().map(move |dtype| (case, *dtype)));
    let plans: Vec<Plan> = all().map(plan).collect();
    compile(&device, plans.clone());
    let mut failures = Vec::new();
    for ((case, dtype), plan) in all().zip(&plans) {
        let built = (case.build)(dtype);
        let outputs = match run_guarded(&device, plan, &built.weights, &built.inputs) {
            Ok(outputs) => outputs,
            Err(error) => {
                failures.push(format!("{}: {dtype}: {error}", case.name));
                continue;
            }
        };
        for ((result, given), golden) in outputs.iter().zip(&interpreted(&built)) {
            let (error, bound) = (difference(given, golden), case.tolerance.of(given.dtype()));
            if error > bound {
                let close = format!("{error:.2e} of {bound:.0e}");
                failures.push(format!("{}: {dtype} {result}: {close}", case.name));
            }
        }
    }
    let shown = failures.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {} failed:\n{shown}", failures.len(), plans.len());
    println!("{name}: {} modules", plans.len());
}
