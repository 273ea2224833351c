//! `compile`: IR text to plans, with what they need said before anything runs.

mod budget;
mod states;
mod summary;

use super::passes::{self, Watched};
use super::run::no_index;
use crate::args::{Compile, Emit, Opt, PassArgs};
use crate::modules;
use crate::output;
use crate::render::Failure;
use anyid_ir::plan::Plan;
use anyid_ir::plan_text::print_plans;
use anyid_ir::{Func, Module, text};
use anyid_passes::cost::Machine;
use anyid_passes::driver::Selection;
use anyid_passes::kernels::kernels;
use anyid_passes::report::memory_table;
use anyid_passes::{compile_with, fit, view};
use anyid_runtime::engine::{PlanFile, StateSpec, compile_error};
use anyid_runtime::{Backend, Error, Kind, Result};
use std::time::{Duration, Instant};
use summary::Summary;

/// Runs the verb.
///
/// # Errors
/// Findings about the text, E05xx where it cannot be compiled, E0601 with exit code 3 where the
/// plan does not fit the budget, E0602 for a budget that is none, E101x for the output.
pub fn run(args: Compile) -> std::result::Result<(), Failure> {
    known(&args.target)?;
    if let Some(phase) = args.to {
        let func = match args.func.as_slice() {
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
        let Compile { module, vary, switches, .. } = args;
        let (to, passes, print_after, output) = (Some(phase), Vec::new(), None, None);
        return super::opt::run(Opt {
            module,
            passes,
            to,
            func,
            vary,
            print_after,
            output,
            switches,
        });
    }
    let budget = args.budget.as_deref().map(budget::parse).transpose()?;
    if let Some(path) = &args.output {
        // Taken and given back: it tells early whether the result can be written there.
        drop(anyid_runtime::checkpoint::AtomicFile::create(path)?);
    }
    let begun = Instant::now();
    let module = modules::read(&args.module)?;
    let funcs = functions(&module, &args.func)?;
    let states = states::specs(&funcs, &args.states)?;
    let (phases, watched) = plans(&module, &funcs, &states, &args.vary, &args.switches)?;
    let took = begun.elapsed();
    let phases = PlanFile::new(&args.target, phases)?;
    let certificate = match budget {
        None => None,
        Some(bytes) => {
            let unsplit = match args.vary.is_empty() {
                true => None,
                false => {
                    let options = passes::options(&args.switches);
                    Some(compile_with(&module, &funcs[0].name, &options).map_err(compile_error)?)
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
    let machine = if args.predict { Some(measure(args.threads)?) } else { None };
    let summary = Summary::new(phases.phases(), took, machine.as_ref(), certificate);
    let over = summary.over_budget();
    if let Some(path) = args.output.as_deref().filter(|_| over.is_none()) {
        phases.write(path)?;
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
            if let Some(path) = args.output.as_deref().filter(|_| over.is_none()) {
                out.push_str(&format!("wrote {}\n", path.display()));
            }
            output::print(&out)?;
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

/// Refuses targets that this build does not have.
///
/// # Errors
/// E0506.
fn known(target: &str) -> Result<()> {
    if target == "cpu" {
        return Ok(());
    }
    let error = Error::input("E0506", format!("there is no target \"{target}\"")).at("--target");
    Err(error.help("this build compiles for cpu"))
}

/// The functions to compile: those named, or the last.
///
/// # Errors
/// E0913.
pub fn functions<'m>(module: &'m Module, names: &[String]) -> Result<Vec<&'m Func>> {
    let mut funcs = Vec::new();
    let named: Vec<Option<&str>> = match names {
        [] => vec![None],
        names => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    for name in named {
        let func = modules::function(module, name)?;
        no_index(func)?;
        if funcs.iter().any(|other: &&Func| other.name == func.name) {
            return Err(Error::input("E0913", format!("@{} is named twice", func.name))
                .at("--func")
                .help("name each function once"));
        }
        funcs.push(func);
    }
    Ok(funcs)
}

/// The plans of `funcs`, each with its `states`, or of both phases of the only one with `vary`.
///
/// # Errors
/// E05xx, E0913 where several functions are to be split.
pub fn plans(
    module: &Module,
    funcs: &[&Func],
    states: &[Vec<StateSpec>],
    vary: &[String],
    switches: &PassArgs,
) -> Result<(Vec<Plan>, Vec<Watched>)> {
    let names: Vec<&str> = vary.iter().map(|name| name.trim_start_matches('%')).collect();
    let vary = (!names.is_empty()).then_some(names.as_slice());
    if vary.is_some() && funcs.len() > 1 {
        return Err(Error::input("E0913", "--vary splits one function, and several are named")
            .at("--func")
            .help("name one function, or leave --vary away"));
    }
    let (mut plans, mut watched) = (Vec::new(), Vec::new());
    for (func, states) in funcs.iter().zip(states) {
        let mut own = switches.clone();
        if funcs.len() > 1 {
            // Passes are numbered for each function.
            own.dump_dir = switches.dump_dir.as_ref().map(|folder| folder.join(&func.name));
        }
        let outcome =
            passes::run(module, &func.name, vary, states, &own, &Selection::All, &|_| false);
        let (outcome, _) = outcome.map_err(|error| match error.code() {
            "E0503" => {
                let inputs: Vec<String> =
                    func.param_types().map(|(name, _)| format!("%{name}")).collect();
                error.help(format!("the inputs of @{} are {}", func.name, inputs.join(", ")))
            }
            _ => error,
        })?;
        plans.extend(outcome.state.parts.into_iter().filter_map(|part| part.plan));
        watched.push(Watched {
            func: func.name.clone(),
            records: outcome.records,
            cuts: outcome.state.cuts,
            last: outcome.last,
        });
    }
    Ok((plans, watched))
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
                // One head for all phases.
                .map(|(at, table)| match table.split_once('\n') {
                    Some((_, rest)) if at > 0 => rest,
                    _ => table.as_str(),
                })
                .collect()
        }
        Emit::Dot => funcs.iter().map(|func| view::dot(func)).collect::<Vec<_>>().join("\n"),
    }
}

/// What this machine can do, for the prediction.
fn measure(threads: usize) -> Result<Machine> {
    let backend = Backend::open("cpu", threads)?;
    let cpu = backend.cpu();
    let time = Duration::from_millis(200);
    let peak = anyid_backends::cpu::peak::measure(cpu.pool(), cpu.level(), time);
    Ok(Machine {
        f32_flops: peak.f32_gflops * 1e9,
        bf16_flops: peak.bf16_gflops.unwrap_or(peak.f32_gflops) * 1e9,
        bytes_per_second: peak.copy_gb_per_second * 1e9,
    })
}
