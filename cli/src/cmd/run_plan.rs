//! `run` of a plan file: the phases as they were compiled, without the IR they came from.

use super::run::owned;
use crate::cmd::run::Run;
use crate::modules;
use crate::output::{self, duration};
use crate::progress::Progress;
use crate::render::Failure;
use crate::tensors::{self, Named};
use crate::trace::TraceFile;
use anyid_ir::plan::{Plan, Port};
use anyid_ir::spelling::nearest;
use anyid_ir::{Manifest, Tensor, TensorType};
use anyid_runtime::engine::{Compiler, Inputs, PlanFile, Program, plan_file};
use anyid_runtime::files::{self, AtomicFile, Existing};
use anyid_runtime::input;
use anyid_runtime::weights::{writable, write_tensors_in};
use anyid_runtime::{Error, Result};
use std::borrow::Cow;
use std::path::Path;
use std::time::Instant;

/// Whether the file at `path` is a plan; `false` also for one that cannot be read.
pub fn is_plan(path: &Path) -> bool {
    // What a pipe has given is gone: there the name alone decides.
    let named = path.extension().is_some_and(|e| e == "plan");
    named || input::head(path, 64).is_ok_and(|head| plan_file::is_plan(&head))
}

/// Runs the verb on a plan file.
///
/// # Errors
/// E0510 to E0520 for the file, E03xx for weight files, E1005 for inputs.
pub fn run(args: Run) -> std::result::Result<(), Failure> {
    if args.interp || !args.module.dims.is_empty() {
        let flag = if args.interp { "--interp" } else { "--dim" };
        return Err(Error::input("E0518", "a plan is compiled and can only be run unchanged")
            .at(flag)
            .help("run the IR file it was made from")
            .into());
    }
    super::run::places(&args).check()?;
    let trace = TraceFile::wanted(args.trace.as_deref(), Existing::Overwrite)?;
    let backend = trace.watch(args.on.open()?);
    let file = PlanFile::open(&args.module.file, backend.target())?;
    let phases = chosen(&file, args.func.as_deref())?;
    for plan in &phases {
        if plan.states.iter().any(|state| state.before.is_some()) {
            let message = format!("phase {} continues what another run has left", plan.name);
            return Err(Error::input("E0518", message)
                .at("--func")
                .help("run the phase that begins, or IR text, where states are inputs")
                .into());
        }
    }
    let returned = phases.iter().flat_map(|plan| plan.outputs.iter());
    let titles: Vec<Cow<'_, str>> = returned.map(Port::title).collect();
    writable(titles.iter().map(Cow::as_ref))?;
    // Held to the end: it tells early whether the result can be written there.
    let output_file = AtomicFile::create(&args.output)?;
    let mut ports: Vec<(String, TensorType)> = Vec::new();
    for plan in &phases {
        let inputs = plan.inputs.iter();
        ports.extend(inputs.map(|p| (p.title().into_owned(), plan.buffer(p.buffer).ty.clone())));
    }
    let (inputs, unused) = tensors::from_ports(&ports, "the plan", args.inputs.as_deref())?;
    let manifest = manifest(&file)?;
    let mut wanted = args.weights;
    // A plan names the weights it reads, not all that its module declares.
    wanted.allow_extra = true;
    let matched = modules::need_weights(&manifest, &wanted).map_err(other_weights)?;
    let mut progress = Progress::new();
    if !unused.is_empty() {
        progress.warn(&format!("no input of the plan is called {}", tensors::shown(&unused)));
    }
    let names: Vec<String> = phases.iter().map(|plan| plan.name.clone()).collect();
    let split = file.split();
    progress.part("loading");
    let mut program = Compiler::new(&backend).phases_of(file).load(
        matched.weights.clone(),
        &mut |done, total| {
            let text = || format!("{} of {}", output::bytes(done), output::bytes(total));
            progress.update(done, total, text);
            true
        },
    )?;
    progress.part("running");
    let begun = Instant::now();
    let given = |program: &Program, phase: &str| given(program.plan(phase), &inputs);
    let last = names.last().expect("a plan file has phases");
    let mut states = program.states(last)?;
    let results: Named = if split {
        let mut prepared = program.prepare(&given(&program, "prepare"))?;
        let mut outputs = program.outputs(last)?;
        let inputs = given(&program, last);
        program.step_with_states(&mut prepared, &inputs, &mut states, &mut outputs)?;
        owned(outputs)
    } else {
        let inputs = given(&program, last);
        owned(program.call_with_states(last, &inputs, &mut states)?)
    };
    let took = duration(begun.elapsed());
    let traced = trace.write();
    progress.clear();
    let tensors = results.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let whole = write_tensors_in(output_file, tensors, &std::collections::BTreeMap::new())?;
    files::commit(vec![whole])?;
    let mut out = format!("ran {} in {took}\n", names.join(" and "));
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

/// The inputs of a phase, each for the branch it belongs to.
fn given<'a>(plan: Option<&Plan>, tensors: &'a [(String, Tensor)]) -> Inputs<'a> {
    let Some(plan) = plan else { return Inputs::new() };
    plan.inputs.iter().fold(Inputs::new(), |inputs, port| {
        let ty = &plan.buffer(port.buffer).ty;
        let own = |(title, tensor): &&(String, Tensor)| *title == port.title() && tensor.ty() == ty;
        let Some((title, tensor)) = tensors.iter().find(own) else { return inputs };
        inputs.set_branch(port.branch, &title[..port.name.len()], tensor)
    })
}

/// The phases to run: `prepare` and `step` of a split function, else the one named or the only
/// one.
fn chosen<'f>(file: &'f PlanFile, name: Option<&str>) -> Result<Vec<&'f Plan>> {
    let names: Vec<&str> = file.phases().iter().map(|plan| plan.name.as_str()).collect();
    let fault =
        |message: String, help: String| Err(Error::input("E0518", message).at("--func").help(help));
    match name.map(|name| name.trim_start_matches('@')) {
        None if file.split() || names.len() == 1 => Ok(file.phases().iter().collect()),
        None => fault(
            format!("the plan has {} phases", names.len()),
            format!("name one with --func: {}", names.join(", ")),
        ),
        Some(_) if file.split() => fault(
            "prepare and step of a plan run together".to_owned(),
            "leave --func away".to_owned(),
        ),
        Some(name) => match file.phases().iter().find(|plan| plan.name == name) {
            Some(plan) => Ok(vec![plan]),
            None => {
                let help = match nearest(name, names.iter().copied()) {
                    Some(meant) => format!("did you mean {meant}?"),
                    None => format!("its phases are {}", names.join(", ")),
                };
                fault(format!("the plan has no phase {name}"), help)
            }
        },
    }
}

fn manifest(file: &PlanFile) -> Result<Manifest> {
    let mut manifest = Manifest::new("plan");
    for weight in file.weights() {
        let added = manifest.add(&weight.name, weight.ty.clone());
        if added.is_err() || manifest.get(&weight.name).is_none() {
            let message = format!("\"{}\" cannot be the name of a weight", weight.name);
            return Err(Error::input("E0517", message).help("make the plan again"));
        }
    }
    Ok(manifest)
}

/// Missing tensors and other shapes mean that the plan was compiled for other weights.
fn other_weights(error: Error) -> Error {
    if !matches!(error.code(), "E0301" | "E0303" | "E0307") || error.place().is_none() {
        return error;
    }
    let place = error.place().unwrap_or_default().to_owned();
    Error::input("E0515", "these are not the weights the plan was compiled for")
        .at(place)
        .help("give its own weights, or compile the module of these")
        .caused_by(error)
}
