//! `opt`: passes by name over IR text, with the result as IR text.
//!
//! Passes work on straight-line programs; a module becomes one before the first pass, and every
//! result is printed as functions without calls and repeats. `split` makes two of them.

use super::compile::compile_error;
use super::run::no_index;
use crate::args::Opt;
use crate::modules;
use crate::output;
use crate::render::Failure;
use anyid_ir::weights::nearest;
use anyid_ir::{Module, text, verify};
use anyid_passes::flatten::flatten;
use anyid_passes::simplify::simplify;
use anyid_passes::split::split;
use anyid_passes::{Program, straight};
use anyid_runtime::init::write_bytes;
use anyid_runtime::{Error, Result};

/// The passes there are.
const PASSES: [(&str, Pass); 3] =
    [("flatten", Pass::Flatten), ("simplify", Pass::Simplify), ("split", Pass::Split)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Flatten,
    Simplify,
    Split,
}

/// Runs the verb.
///
/// # Errors
/// Findings about the text, E0504 for a pass that there is not, E05xx of the passes.
pub fn run(args: Opt) -> std::result::Result<(), Failure> {
    let passes = passes(&args.passes, "--passes")?;
    let shown: Vec<&str> = match args.print_after.as_deref() {
        None => Vec::new(),
        Some("all") => PASSES.iter().map(|(name, _)| *name).collect(),
        Some(name) => {
            find(name, "--print-after")?;
            vec![name]
        }
    };
    let module = modules::read(&args.module)?;
    let func = modules::function(&module, args.func.as_deref())?;
    no_index(func)?;
    // Functions by name; one until `split`.
    let mut programs: Vec<(String, Program)> =
        vec![(func.name.clone(), flatten(&module, &func.name).map_err(compile_error)?)];
    let mut out = String::new();
    for (at, (name, pass)) in passes.iter().enumerate() {
        match pass {
            // The module is flat already.
            Pass::Flatten => {}
            Pass::Simplify => {
                let all = std::mem::take(&mut programs).into_iter();
                programs = all.map(|(name, program)| (name, simplify(program))).collect();
            }
            Pass::Split => programs = split_one(&programs, &args.vary)?,
        }
        if shown.contains(name) && at + 1 < passes.len() {
            out.push_str(&format!("// after {name}\n{}\n", printed(&module, &programs)?));
        }
    }
    let last = printed(&module, &programs)?;
    match args.output {
        None => output::print(&format!("{out}{last}"))?,
        Some(path) => {
            output::print(&out)?;
            write_bytes(&path, last.as_bytes())?;
        }
    }
    Ok(())
}

fn find(name: &str, flag: &str) -> Result<Pass> {
    let names = || PASSES.iter().map(|(name, _)| *name);
    if let Some((_, pass)) = PASSES.iter().find(|(n, _)| *n == name) {
        return Ok(*pass);
    }
    let help = match nearest(name, names()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("the passes are {}", names().collect::<Vec<_>>().join(", ")),
    };
    Err(Error::input("E0504", format!("there is no pass \"{name}\"")).at(flag).help(help))
}

fn passes<'a>(names: &'a [String], flag: &str) -> Result<Vec<(&'a str, Pass)>> {
    names.iter().map(|name| Ok((name.as_str(), find(name, flag)?))).collect()
}

fn split_one(programs: &[(String, Program)], vary: &[String]) -> Result<Vec<(String, Program)>> {
    let [(_, program)] = programs else {
        return Err(Error::input("E0504", "split runs once").at("--passes").help("name it once"));
    };
    let names: Vec<&str> = vary.iter().map(|name| name.trim_start_matches('%')).collect();
    let parts = split(program, &names).map_err(|error| compile_error(error).at("--vary"))?;
    Ok(vec![("prepare".to_owned(), parts.prepare), ("step".to_owned(), parts.step)])
}

/// The programs as a module's text, verified.
fn printed(from: &Module, programs: &[(String, Program)]) -> Result<String> {
    let mut module = straight::empty(from);
    for (name, program) in programs {
        straight::add_function(&mut module, program, name);
    }
    match verify::verify(&module).into_iter().find(|d| d.is_error()) {
        None => Ok(text::print(&module)),
        Some(fault) => Err(Error::internal(fault.code, fault.message)
            .at(fault.place.unwrap_or_else(|| "the result of a pass".to_owned()))),
    }
}
