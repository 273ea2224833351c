//! `run`: runs a function of IR text on named tensors, on the CPU backend or the interpreter.

use crate::args::{DeviceArgs, ModuleArgs, WeightArgs};
use crate::modules;
use crate::output::{self, duration};
use crate::progress::Progress;
use crate::render::Failure;
use crate::tensors::{self, Named};
use crate::trace::{self, TraceFile};
use anyid_ir::{Diagnostic, Evaluator, Func, Mode, Module, Tensor};
use anyid_runtime::engine::Compiler;
use anyid_runtime::files::{self, AtomicFile, Existing, is_standard_output};
use anyid_runtime::places::Places;
use anyid_runtime::weights::{ModelWeights, writable, write_tensors_in};
use anyid_runtime::{Backend, Error, Inputs, Outputs, Program, Result};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug, Args)]
#[command(
    after_help = "Inputs are found by name. An additional leading axis of size 1 (a batch of one) \
is dropped. Floating-point tensors are converted to the type that the module wants, 64-bit \
integers to i32; nothing else is converted."
)]
pub struct Run {
    #[command(flatten)]
    pub module: ModuleArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// Safetensors file with the inputs by name.
    #[arg(long, value_name = "FILE")]
    pub inputs: Option<PathBuf>,
    /// Safetensors file for the results, under their names; `-` for standard output.
    #[arg(short, long = "output", value_name = "FILE")]
    pub output: PathBuf,
    /// Function [default: the last].
    #[arg(long, value_name = "NAME")]
    pub func: Option<String>,
    /// Use the reference interpreter instead of a device.
    #[arg(long)]
    pub interp: bool,
    /// Write a trace of all launches as JSON, for Perfetto and chrome://tracing
    /// [default: the environment variable ANYID_RT_TRACE].
    #[arg(long, value_name = "FILE", conflicts_with = "interp")]
    pub trace: Option<PathBuf>,
    #[command(flatten)]
    pub on: DeviceArgs,
}

/// Runs the verb.
///
/// # Errors
/// Findings about the text, E03xx for weights and files, E0520 for a result that cannot be written,
/// E1005 for inputs, E05xx from compiling.
pub fn run(args: Run) -> std::result::Result<(), Failure> {
    let module = modules::read(&args.module)?;
    let func = modules::function(&module, args.func.as_deref())?;
    no_index(func)?;
    writable(func.result_names().iter().map(String::as_str))?;
    // Opened before the work, so that it fails early if the result cannot be written there.
    places(&args).check()?;
    let output_file = AtomicFile::create(&args.output)?;
    let trace = TraceFile::wanted(args.trace.as_deref(), Existing::Overwrite)?;
    let (inputs, unused) = tensors::from_file(func, args.inputs.as_deref())?;
    let matched = modules::need_weights(&module.weights, &args.weights)?;
    let mut progress = Progress::new();
    if !unused.is_empty() {
        progress.warn(&format!(
            "no parameter of @{} is called {}",
            func.name,
            tensors::shown(&unused)
        ));
    }
    let begun = Instant::now();
    let mut traced = Ok(());
    let results = if args.interp {
        progress.part("interpreting");
        let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
        Evaluator::new(&module, Mode::F32)
            .run_named(&func.name, &given, &*matched.weights, None)
            .map_err(|error| eval_error(*error))?
    } else {
        let backend = trace.watch(args.on.open()?);
        let mut program = compile(&backend, &module, func, &matched.weights, &mut progress)?;
        progress.part("running");
        let outputs = program.call(&func.name, &named(&inputs));
        traced = trace.write();
        owned(outputs?)
    };
    progress.clear();
    let tensors = results.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let whole = write_tensors_in(output_file, tensors, &std::collections::BTreeMap::new())?;
    files::commit(vec![whole])?;
    let mut out = format!("ran @{} in {}\n", func.name, duration(begun.elapsed()));
    for (name, tensor) in &results {
        out.push_str(&format!("  {name}: {}\n", tensor.ty()));
    }
    out.push_str(&format!("wrote {}\n", args.output.display()));
    let told = output::report(&out, &args.output);
    // What fails now does not concern the results.
    let complete = format!("the results are complete: {}", args.output.display());
    told.and(traced).map_err(|error| error.also(complete))?;
    Ok(())
}

/// Every file that is read and written.
pub fn places(args: &Run) -> Places {
    let mut places = modules::reads(&args.module.file, Some(&args.weights), args.inputs.as_deref());
    places.writes("--output", &args.output);
    if let Some(path) = trace::path(args.trace.as_deref()).filter(|_| !args.interp) {
        places.writes("--trace", &path);
    }
    if !is_standard_output(&args.output) {
        places.prints("the report");
    }
    places
}

/// Refuses functions that need index values, which only calls give.
///
/// # Errors
/// E0913.
pub fn no_index(func: &Func) -> Result<()> {
    if func.index_params.is_empty() {
        return Ok(());
    }
    let names = func.index_params.join(", ");
    Err(Error::input("E0913", format!("@{} has index parameters <{names}>", func.name))
        .help("run a function that calls it with values, such as the module's last"))
}

/// Compiles `func` as a program with one phase of its name.
///
/// # Errors
/// E05xx and E0301.
pub fn compile(
    backend: &Backend,
    module: &Module,
    func: &Func,
    weights: &Arc<ModelWeights>,
    progress: &mut Progress,
) -> Result<Program> {
    progress.part("loading");
    Compiler::new(backend).phase(&func.name, module, &func.name)?.load(
        weights.clone(),
        &mut |done, total| {
            let text = || format!("{} of {}", output::bytes(done), output::bytes(total));
            progress.update(done, total, text);
            true
        },
    )
}

/// Inputs by name.
pub fn named(inputs: &[(String, Tensor)]) -> Inputs<'_> {
    Inputs::new().all(inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)))
}

/// Results with their names.
pub fn owned(outputs: Outputs) -> Named {
    let names: Vec<String> = outputs.iter().map(|(name, _)| name.into_owned()).collect();
    names.into_iter().zip(outputs.into_tensors()).collect()
}

/// An error of the interpreter as one of the runtime.
pub fn eval_error(error: Diagnostic) -> Error {
    // The verifier has accepted the module, so a malformed one is a bug of ours.
    let make = if error.code == "E1046" { Error::internal } else { Error::input };
    let mut out = make(error.code, error.message);
    if let Some(place) = error.place {
        out = out.at(place);
    }
    if let Some(help) = error.help {
        out = out.help(help);
    }
    out
}
