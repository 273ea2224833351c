//! Plans of one step, for tests.

use anyid_ir::plan::Plan;
use anyid_ir::plan_text::parse_plans;
use std::fmt::Write;

/// A plan that runs a kernel on its inputs, of the types `operands`, to its outputs, of the types
/// `results`; an operand with the word `weight` in front of its type is a weight. The kernel is given
/// without the word and the number in front.
pub(super) fn plan(kernel: &str, operands: &[&str], results: &[&str]) -> Plan {
    let mut text = String::from(
        "plan \"toy\" {\n  memory alignment=256 workspace=0 lower_bound=0 naive=0 persistent=0\n",
    );
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "  {line}").expect("text grows");
    let weights: Vec<&str> = operands.iter().filter_map(|ty| ty.strip_prefix("weight ")).collect();
    for (at, ty) in weights.iter().enumerate() {
        line(format_args!("weight {at} \"w{at}\" : {ty}"));
    }
    let (mut given, mut stored) = (0, 0);
    let mut inputs = Vec::new();
    for (at, ty) in operands.iter().enumerate() {
        if let Some(ty) = ty.strip_prefix("weight ") {
            line(format_args!("buffer %{at} = weight {stored} + 0 : {ty}"));
            stored += 1;
        } else {
            line(format_args!("buffer %{at} = input {given} + 0 : {ty}"));
            inputs.push(at);
            given += 1;
        }
    }
    for at in inputs {
        line(format_args!("input \"x{at}\" = %{at}"));
    }
    let first = operands.len();
    for at in 0..results.len() {
        line(format_args!("output \"y{at}\" = %{}", first + at));
    }
    let named = |from: usize, count: usize| {
        (from..from + count).map(|at| format!("%{at}")).collect::<Vec<_>>().join(", ")
    };
    let places: Vec<String> = results
        .iter()
        .enumerate()
        .map(|(at, ty)| format!("output {at} + 0 {ty} \"toy/y{at}\""))
        .collect();
    let run = if kernel == "gather" { "gather" } else { "k0" };
    if run == "k0" {
        line(format_args!("kernel k0 \"toy\" {kernel}"));
    }
    let (made, read) = (named(first, results.len()), named(0, first));
    line(format_args!("{made} = {run} {read} : {}", places.join(", ")));
    text += "}\n";
    let plans = parse_plans(&text).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    let plan = plans.into_iter().next().expect("one was written");
    for step in &plan.steps {
        let types = |ids: &[_]| plan.types(ids);
        let sound = step.kernel.check(&types(&step.operands), &types(&step.results));
        sound.unwrap_or_else(|why| panic!("{why}\n{text}"));
    }
    plan
}
