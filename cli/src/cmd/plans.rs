//! The functions that the command line names, compiled: what `compile` and `kernels` work on.

use super::passes::{self, Watched};
use super::run::no_index;
use crate::args::PassArgs;
use crate::modules;
use anyid_ir::plan::Plan;
use anyid_ir::{Func, Module};
use anyid_passes::driver::Selection;
use anyid_runtime::engine::StateSpec;
use anyid_runtime::{Error, Result};

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
    if !vary.is_empty() && funcs.len() > 1 {
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
        let request = passes::request(module, func, vary, states, &own);
        let outcome = passes::run(&request, &own, &Selection::All, &|_| false);
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
            unfused: outcome.state.unfused,
            last: outcome.last,
        });
    }
    Ok((plans, watched))
}
