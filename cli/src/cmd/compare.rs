//! `compare`: runs a function in two ways and shows the first value that differs.
//!
//! Backend and interpreter give values the same names, from the path of calls and iterations.
//! Values that only one way has are left out (a backend drops unused and repeated ones); results
//! are always compared.

use super::run::{compile, eval_error, named, no_index, owned};
use crate::args::{ModuleArgs, WeightArgs};
use crate::modules::{self, Matched};
use crate::output;
use crate::progress::Progress;
use crate::render::Failure;
use crate::tensors::{self, Named};
use anyid_ir::{Evaluator, Func, Mode, Module, Tensor};
use anyid_runtime::{Backend, Error, Result};
use clap::Args;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;

/// A way to run a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Reference interpreter; every result is rounded to its type.
    Interp,
    /// Reference interpreter in double precision throughout.
    InterpF64,
    /// A device by name.
    Device(String),
}

impl From<&str> for Way {
    fn from(name: &str) -> Self {
        match name {
            "interp" => Self::Interp,
            "interp-f64" => Self::InterpF64,
            _ => Self::Device(name.to_owned()),
        }
    }
}

#[derive(Debug, Args)]
pub struct Compare {
    #[command(flatten)]
    pub module: ModuleArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// The first way: interp, interp-f64 (double precision throughout) or a device such as cpu.
    /// Errors are relative to its values.
    #[arg(long, value_name = "WAY", default_value = "interp")]
    pub a: Way,
    /// The second way.
    #[arg(long, value_name = "WAY", default_value = "cpu")]
    pub b: Way,
    /// Safetensors file with the inputs by name [default: random inputs].
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    pub inputs: Option<PathBuf>,
    /// Seed of the random inputs.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Largest difference allowed, relative to the largest value of the tensor.
    #[arg(long, value_name = "X", default_value_t = 1e-4, allow_negative_numbers = true)]
    pub tolerance: f64,
    /// Function [default: the last].
    #[arg(long, value_name = "NAME")]
    pub func: Option<String>,
    /// Number of threads; 0 uses all that the processor has.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Everything one way computed.
struct Record {
    /// Values in program order, by path.
    values: Named,
    /// Results.
    results: Named,
}

/// How far two tensors are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Distance {
    /// Largest difference.
    largest: f64,
    /// The same, divided by the largest value of the first tensor.
    relative: f64,
    /// Element where it is.
    at: usize,
}

/// Runs the verb.
///
/// # Errors
/// E0914 when values differ by more than the tolerance; else as `run`.
pub fn run(args: Compare) -> std::result::Result<(), Failure> {
    let tolerance = tensors::tolerance(args.tolerance)?;
    let module = modules::read(&args.module)?;
    let func = modules::function(&module, args.func.as_deref())?;
    no_index(func)?;
    let inputs = tensors::given(&module, func, args.inputs.as_deref(), args.seed)?;
    let matched = modules::need_weights(&module.weights, &args.weights)?;
    let mut progress = Progress::new();
    let [a, b] = [&args.a, &args.b]
        .map(|way| record(way, &args, &module, func, &inputs, &matched, &mut progress));
    let (a, b) = (a?, b?);
    progress.clear();

    let mut rows = Vec::new();
    for (path, x, y) in pairs(&a.values, &b.values) {
        rows.push((path, distance(x, y)));
    }
    let inner = rows.len();
    for ((name, x), (_, y)) in a.results.iter().zip(&b.results) {
        rows.push((format!("result {name}"), distance(x, y)));
    }
    let worse = |d: &Distance| d.relative > tolerance || d.relative.is_nan();
    let first = rows.iter().find(|(_, d)| worse(d));
    let differing = rows.iter().filter(|(_, d)| worse(d)).count();
    let results = &rows[inner..];
    if args.json {
        let row = |(path, d): &(String, Distance)| {
            let (largest, relative) = (number(d.largest), number(d.relative));
            json!({ "path": path, "max_abs": largest, "relative": relative, "at": d.at })
        };
        output::print_json(&json!({
            "function": func.name,
            "tolerance": tolerance,
            "values_compared": inner,
            "values_of_a": a.values.len(),
            "values_of_b": b.values.len(),
            "differing": differing,
            "first": first.map(row),
            "results": results.iter().map(row).collect::<Vec<_>>(),
            "equal": first.is_none(),
        }))?;
    } else {
        let mut out = format!(
            "compared {} and {} of @{}\n",
            output::plural(inner, "value"),
            output::plural(results.len(), "result"),
            func.name
        );
        let header = ["", "max abs", "relative", "element"].map(str::to_owned).to_vec();
        let mut table = vec![header];
        let worst = rows[..inner].iter().max_by(|x, y| x.1.relative.total_cmp(&y.1.relative));
        table.extend(worst.map(|(path, d)| cells(&format!("largest inside: {path}"), d)));
        table.extend(results.iter().map(|(path, d)| cells(path, d)));
        out.push_str(&output::table(&table));
        output::print(&out)?;
    }
    match first {
        None => {
            if !args.json {
                output::print(&format!("equal within {:e}\n", tolerance))?;
            }
            Ok(())
        }
        Some((path, d)) => Err(Error::input(
            "E0914",
            format!(
                "{differing} of {} tensors differ; the first is {path}: largest difference {:.3e}, \
                 relative {:.3e}, at element {}",
                rows.len(),
                d.largest,
                d.relative,
                d.at
            ),
        )
        .at(args.module.file.display())
        .help("the values before it agree, so the op that makes it is the reason")
        .into()),
    }
}

fn cells(path: &str, d: &Distance) -> Vec<String> {
    vec![
        path.to_owned(),
        format!("{:.2e}", d.largest),
        format!("{:.2e}", d.relative),
        d.at.to_string(),
    ]
}

/// JSON has no infinities.
fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

fn record(
    way: &Way,
    args: &Compare,
    module: &Module,
    func: &Func,
    inputs: &[(String, Tensor)],
    matched: &Matched,
    progress: &mut Progress,
) -> Result<Record> {
    let mut values = Vec::new();
    let results = match way {
        Way::Device(name) => {
            let opened = Backend::open(name, args.threads);
            let backend = opened.map_err(|error| match error.code() {
                "E0904" | "E0560" => error.at(format!("the device of --a or --b, {name}")),
                _ => error,
            })?;
            let mut program = compile(&backend, module, func, &matched.weights, progress)?;
            progress.part("running");
            let mut trace =
                |label: &str, tensor: &Tensor| values.push((label.to_owned(), tensor.clone()));
            owned(program.traced(&func.name, &named(inputs), None, &mut trace)?)
        }
        Way::Interp | Way::InterpF64 => {
            progress.part("interpreting");
            let mode = if *way == Way::Interp { Mode::F32 } else { Mode::F64 };
            let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
            let mut trace = |event: &anyid_ir::TraceEvent<'_>| {
                values.push((event.path.to_owned(), event.value.clone()));
            };
            Evaluator::new(module, mode)
                .run_named(&func.name, &given, &*matched.weights, Some(&mut trace))
                .map_err(|error| eval_error(*error))?
        }
    };
    Ok(Record { values, results })
}

/// Values with the same path, of the same shape and number of occurrences, in the order of `a`.
fn pairs<'r>(
    a: &'r [(String, Tensor)],
    b: &'r [(String, Tensor)],
) -> Vec<(String, &'r Tensor, &'r Tensor)> {
    let group = |list: &'r [(String, Tensor)]| {
        let mut map: HashMap<&'r str, Vec<&'r Tensor>> = HashMap::new();
        for (path, tensor) in list {
            map.entry(path).or_default().push(tensor);
        }
        map
    };
    let (in_a, in_b) = (group(a), group(b));
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut out = Vec::new();
    for (path, x) in a {
        let nth = seen.entry(path).or_default();
        let others = in_b.get(path.as_str()).filter(|list| list.len() == in_a[path.as_str()].len());
        if let Some(y) = others.and_then(|list| list.get(*nth))
            && x.shape() == y.shape()
        {
            out.push((path.clone(), x, *y));
        }
        *nth += 1;
    }
    out
}

fn distance(a: &Tensor, b: &Tensor) -> Distance {
    let (x, y) = (a.to_f64_vec(), b.to_f64_vec());
    let mut out = Distance { largest: 0.0, relative: 0.0, at: 0 };
    let mut scale = 0f64;
    for (at, (x, y)) in x.iter().zip(&y).enumerate() {
        scale = scale.max(if x.is_finite() { x.abs() } else { 0.0 });
        let same = x == y || x.is_nan() && y.is_nan();
        let apart = match (x - y).abs() {
            _ if same => 0.0,
            apart if apart.is_nan() => f64::INFINITY,
            apart => apart,
        };
        if apart > out.largest {
            (out.largest, out.at) = (apart, at);
        }
    }
    out.relative = if out.largest == 0.0 { 0.0 } else { out.largest / scale };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_f32([values.len()], values).unwrap()
    }

    #[test]
    fn distances_are_relative_to_the_largest_value() {
        let d = distance(&tensor(&[1.0, -4.0]), &tensor(&[1.5, -4.0]));
        assert_eq!(d, Distance { largest: 0.5, relative: 0.125, at: 0 });
        assert_eq!(distance(&tensor(&[f32::NAN]), &tensor(&[f32::NAN])).largest, 0.0);
        assert_eq!(distance(&tensor(&[1.0]), &tensor(&[f32::NAN])).largest, f64::INFINITY);
        assert!(distance(&tensor(&[0.0]), &tensor(&[1.0])).relative.is_infinite());
    }

    #[test]
    fn only_values_both_have_are_paired() {
        let list = |names: &[&str]| -> Vec<(String, Tensor)> {
            names.iter().enumerate().map(|(i, n)| ((*n).to_owned(), tensor(&[i as f32]))).collect()
        };
        let (a, b) = (list(&["x", "y", "x", "z"]), list(&["x", "x", "z", "z", "w"]));
        let paired = pairs(&a, &b);
        let found: Vec<(&str, f64, f64)> = paired
            .iter()
            .map(|(path, x, y)| (path.as_str(), x.to_f64_vec()[0], y.to_f64_vec()[0]))
            .collect();
        assert_eq!(found, [("x", 0.0, 0.0), ("x", 2.0, 1.0)]);
    }
}
