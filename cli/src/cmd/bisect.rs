//! `bisect`: finds the first rewrite of the compiler that changes a result, compared with the
//! interpreter.

use super::passes;
use super::run::{eval_error, no_index};
use crate::args::{DeviceArgs, ModuleArgs, PassArgs, WeightArgs};
use crate::modules;
use crate::output;
use crate::progress::Progress;
use crate::render::Failure;
use crate::tensors;
use anyid_ir::{Evaluator, Mode, Tensor};
use anyid_runtime::Error;
use anyid_runtime::engine::bisect::{Bisection, Case, Difference, bisect};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(
    after_help = "Results are compared with those of the interpreter. If all rewrites together \
change a result by more than the tolerance, a binary search over their number finds the first \
that does."
)]
pub struct Bisect {
    #[command(flatten)]
    pub module: ModuleArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// Safetensors file with the inputs by name [default: random inputs].
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    pub inputs: Option<PathBuf>,
    /// Seed of the random inputs.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Largest difference allowed, relative to the largest value of the result.
    #[arg(long, value_name = "X", default_value_t = 1e-4, allow_negative_numbers = true)]
    pub tolerance: f64,
    /// Function [default: the last].
    #[arg(long, value_name = "NAME")]
    pub func: Option<String>,
    /// Inputs that change in every step; the function is split into prepare and step.
    #[arg(long, value_name = "INPUT,…", value_delimiter = ',')]
    pub vary: Vec<String>,
    /// Leave these passes out.
    #[arg(long, value_name = "PASS,…", value_delimiter = ',')]
    pub without: Vec<String>,
    #[command(flatten)]
    pub on: DeviceArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
///
/// # Errors
/// E0919 if a rewrite changes a result, or if results differ without any rewrite; else as `run`.
pub fn run(args: Bisect) -> std::result::Result<(), Failure> {
    let tolerance = tensors::tolerance(args.tolerance)?;
    let module = modules::read(&args.module)?;
    let func = modules::function(&module, args.func.as_deref())?;
    no_index(func)?;
    let inputs = tensors::given(&module, func, args.inputs.as_deref(), args.seed)?;
    let matched = modules::need_weights(&module.weights, &args.weights)?;
    let mut progress = Progress::new();
    progress.part("interpreting");
    let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let expected = Evaluator::new(&module, Mode::F32)
        .run_named(&func.name, &given, &*matched.weights, None)
        .map_err(|error| eval_error(*error))?;
    let backend = args.on.open()?;
    let switches = PassArgs {
        target: backend.target().to_owned(),
        without: args.without.clone(),
        ..PassArgs::default()
    };
    let case = Case {
        request: passes::request(&module, func, &args.vary, &[], &switches)?,
        weights: matched.weights.clone(),
        inputs: &inputs,
        expected: &expected,
        tolerance,
    };
    let found = bisect(&backend, &case, &mut |run| progress.part(&format!("run {run}")));
    progress.clear();
    let found = found?;
    if args.json {
        output::print_json(&report_json(&found))?;
    } else {
        output::print(&report(&found, tolerance))?;
    }
    match verdict(&found) {
        None => Ok(()),
        Some(message) => Err(Error::input("E0919", message)
            .at(args.module.file.display())
            .help("with bf16 give a wider --tolerance; else please report it with the IR text")
            .into()),
    }
}

/// What is wrong, if anything is.
fn verdict(found: &Bisection) -> Option<String> {
    match (&found.culprit, &found.none) {
        (Some(culprit), _) => {
            let rewrite = &culprit.rewrite;
            let (number, pass, label) = (rewrite.number, rewrite.pass, &rewrite.label);
            Some(format!("rewrite {number} of pass {pass} at {label} changes a result"))
        }
        (None, Some(_)) => {
            Some("the results differ without any rewrite, so the bug is in a kernel".to_owned())
        }
        (None, None) => None,
    }
}

fn far(difference: &Difference) -> String {
    format!("{:.3e} relative, in {}", difference.relative, difference.result)
}

fn report(found: &Bisection, tolerance: f64) -> String {
    let Bisection { rewrites, runs, all, none, culprit } = found;
    let runs = output::plural(*runs, "run");
    let mut out = format!("{rewrites} rewrites, {runs}\nwith all of them: {}\n", far(all));
    if let Some(none) = none {
        out.push_str(&format!("with none: {}\n", far(none)));
    }
    if let Some(culprit) = culprit {
        let rewrite = &culprit.rewrite;
        out.push_str(&format!(
            "first that changes a result: rewrite {}\n  pass {}, {}, at {}\n  before: {}\n  \
             after: {}\n",
            rewrite.number,
            rewrite.pass,
            rewrite.rule,
            rewrite.label,
            far(&culprit.without),
            far(&culprit.with)
        ));
    } else if none.is_none() {
        out.push_str(&format!("no rewrite changes a result by more than {tolerance:e}\n"));
    }
    out
}

fn report_json(found: &Bisection) -> Value {
    let difference = |d: &Difference| {
        // JSON has no infinities.
        let relative = match d.relative.is_finite() {
            true => json!(d.relative),
            false => json!(d.relative.to_string()),
        };
        json!({ "result": d.result, "relative": relative })
    };
    let culprit = found.culprit.as_ref().map(|culprit| {
        let rewrite = &culprit.rewrite;
        json!({
            "rewrite": rewrite.number,
            "pass": rewrite.pass,
            "rule": rewrite.rule,
            "label": rewrite.label,
            "before": difference(&culprit.without),
            "after": difference(&culprit.with),
        })
    });
    json!({
        "rewrites": found.rewrites,
        "runs": found.runs,
        "with_all": difference(&found.all),
        "with_none": found.none.as_ref().map(difference),
        "first": culprit,
    })
}
