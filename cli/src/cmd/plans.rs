//! The functions that the command line names, compiled: what `compile` and `kernels` work on.

use super::passes;
use super::run::no_index;
use crate::args::PassArgs;
use crate::modules;
use anyid_ir::plan::Plan;
use anyid_ir::{Func, Module};
use anyid_passes::driver::Selection;
use anyid_runtime::engine::{StateSpec, Watched};
use anyid_runtime::places::Places;
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
/// `places` are the files that are read and written besides.
///
/// # Errors
/// E05xx, E095x and E101x for dumps, E0913 where several functions are to be split.
pub fn plans(
    module: &Module,
    funcs: &[&Func],
    states: &[Vec<StateSpec>],
    vary: &[String],
    switches: &PassArgs,
    places: &Places,
) -> Result<(Vec<Plan>, Vec<Watched>)> {
    if !vary.is_empty() && funcs.len() > 1 {
        return Err(Error::input("E0913", "--vary splits one function, and several are named")
            .at("--func")
            .help("name one function, or leave --vary out"));
    }
    if let [first, second] = funcs
        && (first.name.as_str(), second.name.as_str()) == ("prepare", "step")
    {
        let message = "@prepare and @step are what the phases of a split function are called";
        return Err(Error::input("E0913", message)
            .at("--func")
            .help("compile each by itself, or give them other names"));
    }
    let (mut plans, mut watched) = (Vec::new(), Vec::new());
    for (func, states) in funcs.iter().zip(states) {
        let mut own = switches.clone();
        if funcs.len() > 1 {
            // Passes are numbered for each function.
            let folder = switches.dump_dir.as_deref();
            own.dump_dir = folder.map(|folder| passes::inner_folder(folder, func)).transpose()?;
        }
        let request = passes::request(module, func, vary, states, &own)?;
        let outcome = passes::run(&request, &own, &Selection::All, &|_| false, places);
        let (outcome, _) = outcome.map_err(|error| match error.code() {
            "E0503" => {
                let inputs: Vec<String> =
                    func.param_types().map(|(name, _)| format!("%{name}")).collect();
                error.help(format!("the inputs of @{} are {}", func.name, inputs.join(", ")))
            }
            _ => error,
        })?;
        let (state, seen) = Watched::of(&func.name, outcome);
        plans.extend(state.parts.into_iter().filter_map(|part| part.plan));
        watched.push(seen);
    }
    Ok((plans, watched))
}
