//! `compile`: compiles IR text into plans and reports what they need before anything runs.

pub mod args;
mod prediction;
mod states;
mod summary;

use super::passes;
use super::plans::{functions, plans};
use crate::cmd::compile::args::{Compile, Emit};
use crate::cmd::opt::Opt;
use crate::modules;
use crate::output;
use crate::page::Page;
use crate::render::Failure;
use anyid_ir::kernel::Target;
use anyid_ir::plan::Plan;
use anyid_ir::plan_text::print_plans;
use anyid_ir::{Func, Module, text};
use anyid_passes::kernels::kernels;
use anyid_passes::remat::{Choice, within};
use anyid_passes::report::memory_table;
use anyid_passes::{fit, view};
use anyid_runtime::engine::{PlanFile, StateSpec, Watched, budget, compile_error};
use anyid_runtime::files::{AtomicFile, is_standard_output};
use anyid_runtime::places::Places;
use anyid_runtime::{Error, Kind, Result};
use prediction::Prediction;
use std::path::PathBuf;
use std::time::Instant;
use summary::Summary;

/// Runs the verb.
///
/// # Errors
/// Findings about the text, E05xx if it cannot be compiled, E0601 with exit code 3 if the plan does
/// not fit the budget, E0602 for a budget that cannot be read, E101x for the output.
pub fn run(args: Compile) -> std::result::Result<(), Failure> {
    let target = passes::target(&args.switches.target)?;
    if let Some(phase) = args.to {
        let func = match args.phases.func.as_slice() {
            [] => None,
            [name] => Some(name.clone()),
            _ => {
                return Err(Error::input(
                    "E0913",
                    "--to prints one function, and several are named",
                )
                .at("--func")
                .help("name one function")
                .into());
            }
        };
        let Compile { module, phases, switches, .. } = args;
        let (to, passes, print_after, output) = (Some(phase), Vec::new(), None, None);
        return super::opt::run(Opt {
            module,
            passes,
            to,
            func,
            vary: phases.vary,
            print_after,
            output,
            switches,
        });
    }
    let parsed = args.budget.as_deref().map(budget::parse).transpose();
    let budget = parsed.map_err(|error| error.at("--budget"))?;
    let places = places(&args)?;
    places.check()?;
    // Opened before the work, so that it fails early if the result cannot be written there.
    let output_file = args.output.as_ref().map(AtomicFile::create).transpose()?;
    let page_file = args.report.as_ref().map(AtomicFile::create).transpose()?;
    let begun = Instant::now();
    let module = modules::read(&args.module)?;
    let funcs = functions(&module, &args.phases.func)?;
    let states = states::specs(&module, &funcs, &args.states)?;
    let mut args = args;
    args.switches.explain = args.report.is_some();
    let kept = match budget {
        Some(budget) => kept_within(budget, &module, &funcs, &states, &mut args)?,
        None => Choice::default(),
    };
    // What was chosen is planned already; what passes do is only seen while they run.
    let (phases, watched) = match kept.plans.is_empty() || args.switches.watched() {
        true => plans(&module, &funcs, &states, &args.phases.vary, &args.switches, &places)?,
        false => (kept.plans, Vec::new()),
    };
    let took = begun.elapsed();
    let phases = PlanFile::new(target.name, phases)?;
    let certificate = match budget {
        None => None,
        Some(bytes) => {
            let unsplit = match args.phases.vary.is_empty() {
                true => None,
                false => {
                    let whole =
                        passes::request(&module, funcs[0], &[], &states[0], &args.switches)?;
                    Some(whole.plan().map_err(compile_error)?)
                }
            };
            let names: Vec<&str> = funcs.iter().map(|func| func.name.as_str()).collect();
            let plans = phases.phases();
            Some(
                fit::certify(&module, &names, plans, unsplit.as_ref(), bytes)
                    .map_err(compile_error)?,
            )
        }
    };
    let prediction = match args.predict {
        true => Some(Prediction::of(&target, args.threads, phases.phases())?),
        false => None,
    };
    if let Some(file) = page_file {
        page(&args, &target, phases.phases(), &watched, prediction.as_ref()).write(file)?;
    }
    let summary =
        Summary::new(&target, phases.phases(), took, prediction, certificate).kept(kept.tried);
    let over = summary.over_budget();
    if let Some(file) = output_file.filter(|_| over.is_none()) {
        phases.write_in(file)?;
    }
    match (args.emit, args.json) {
        (Some(emit), _) => output::print(&emitted(emit, &module, &funcs, phases.phases()))?,
        (None, true) => {
            let mut out = summary.json();
            passes::report_json(&watched, &args.switches, &mut out);
            output::print_json(&out)?;
        }
        (None, false) => {
            let mut out = summary.text();
            out.push_str(&passes::report(&watched, &args.switches));
            let plan = args.output.as_deref().filter(|_| over.is_none());
            for path in plan.into_iter().chain(args.report.as_deref()) {
                out.push_str(&format!("wrote {}\n", path.display()));
            }
            output::report(&out, streamed(&args).map_or("", |_| "-").as_ref())?;
        }
    }
    match over {
        None => Ok(()),
        Some(message) => Err(Error::new(Kind::Budget, "E0601", message)
            .at("--budget")
            .help("see the list of changes above, or give a larger budget")
            .into()),
    }
}

/// What can be kept for the derivative within `budget`, where that is left to us: what was planned, with
/// the best of it in `args` as well.
///
/// # Errors
/// As [`passes::request`].
fn kept_within(
    budget: u64,
    module: &Module,
    funcs: &[&Func],
    states: &[Vec<StateSpec>],
    args: &mut Compile,
) -> Result<Choice> {
    let ([func], true, None) = (funcs, args.switches.grad.is_some(), &args.switches.remat) else {
        return Ok(Choice::default());
    };
    let request = passes::request(module, func, &args.phases.vary, &states[0], &args.switches)?;
    let choice = within(&request, budget, &|_| 0).map_err(passes::placed)?;
    args.switches.remat = choice.tried.last().map(|best| best.keeping.to_string());
    Ok(choice)
}

/// The page of what was compiled. Without --predict, times follow from the figures that are stated for
/// the target, so that the page is the same on every machine.
fn page<'p>(
    args: &Compile,
    target: &'p Target,
    plans: &'p [Plan],
    watched: &'p [Watched],
    prediction: Option<&'p Prediction>,
) -> Page<'p> {
    let file = args.module.file.file_name().unwrap_or_default().to_string_lossy();
    let funcs: Vec<String> = watched.iter().map(|each| format!("@{}", each.func)).collect();
    let (machine, origin) = match prediction {
        Some(found) if found.measured => (found.machine.as_ref(), "measured here"),
        _ => (target.machine.as_ref(), "stated for the target"),
    };
    Page {
        title: format!("{} of {file}", funcs.join(", ")),
        target: target.name,
        facts: vec![("target", target.name.to_owned())],
        plans,
        watched,
        machine,
        origin,
        measured: None,
    }
}

/// Every file that is read and written, standard output included.
///
/// # Errors
/// E0948 where the plan or the page and something else are to go to standard output.
fn places(args: &Compile) -> Result<Places> {
    let mut places = modules::reads(&args.module.file, None, None);
    if let Some(path) = &args.output {
        places.writes("--output", path);
    }
    if let Some(path) = &args.report {
        places.writes("--report", path);
    }
    let Some(streamed) = streamed(args) else {
        places.prints("the report");
        return Ok(places);
    };
    let Some(flag) = args.json.then_some("--json").or(args.emit.map(|_| "--emit")) else {
        return Ok(places);
    };
    let what = format!("the {streamed} and what {flag} prints cannot both go there");
    Err(Error::input("E0948", what)
        .at("standard output")
        .help(format!("write the {streamed} to a file, or leave {flag} out")))
}

/// What goes to standard output instead of the summary.
fn streamed(args: &Compile) -> Option<&'static str> {
    let to = |path: &Option<PathBuf>| path.as_deref().is_some_and(is_standard_output);
    to(&args.output).then_some("plan").or(to(&args.report).then_some("page"))
}

fn emitted(emit: Emit, module: &Module, funcs: &[&Func], phases: &[Plan]) -> String {
    match emit {
        Emit::Ir => text::print(module),
        Emit::Kernels => super::kernels::texts(&kernels(phases)),
        Emit::Plan => print_plans(phases),
        Emit::Memory => {
            let tables: Vec<String> = phases.iter().map(memory_table).collect();
            tables
                .iter()
                .enumerate()
                // One header for all phases.
                .map(|(at, table)| match table.split_once('\n') {
                    Some((_, rest)) if at > 0 => rest,
                    _ => table.as_str(),
                })
                .collect()
        }
        Emit::Dot => funcs.iter().map(|func| view::dot(func)).collect::<Vec<_>>().join("\n"),
    }
}
