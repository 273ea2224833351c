//! `opt`: runs passes over IR text and prints the result.
//!
//! Up to the optimised phase the result is IR again, as functions without calls and repeats, which
//! every verb reads; after that it is groups, kernels and plans. With `hoist` there are two
//! functions.

use super::passes;
use super::run::no_index;
use crate::args::{ModuleArgs, PassArgs};
use crate::modules;
use crate::output;
use crate::render::Failure;
use anyid_ir::verify;
use anyid_passes::driver::Selection;
use anyid_passes::pipeline::Phase;
use anyid_passes::state::{Compilation, Level};
use anyid_runtime::engine::Watched;
use anyid_runtime::files::is_standard_output;
use anyid_runtime::init::write_bytes;
use anyid_runtime::{Error, Result};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(
    after_help = "Passes in order: specialize, inline, inject-lora (with --inject-lora); canonicalize, \
fold, cse, dce, lift (with --lift), grad and remat (with --grad), join-branches (with --branches), hoist (needs \
--vary: @prepare and @step); decompose, fuse, pack-linears; lower, schedule, split-rows, \
share-columns, alias, pack, assemble. The phases end with inject-lora (bound), hoist \
(optimised), pack-linears (fused) and assemble (planned). Passes that a named pass needs are run before it."
)]
pub struct Opt {
    #[command(flatten)]
    pub module: ModuleArgs,
    /// Run these passes in this order.
    #[arg(long, value_name = "PASS,…", value_delimiter = ',', conflicts_with = "to")]
    pub passes: Vec<String>,
    /// Run all passes up to the end of this phase: bound, optimised, fused or planned
    /// [default: optimised].
    #[arg(long, value_name = "PHASE")]
    pub to: Option<String>,
    /// Function [default: the last].
    #[arg(long, value_name = "NAME")]
    pub func: Option<String>,
    /// Inputs that change in every step, for hoist.
    #[arg(long, value_name = "INPUT,…", value_delimiter = ',')]
    pub vary: Vec<String>,
    /// Also print the text after this pass, or after all.
    #[arg(long, value_name = "PASS|all")]
    pub print_after: Option<String>,
    /// The file to write [default: standard output].
    #[arg(short, long = "output", value_name = "FILE.ir")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub switches: PassArgs,
}

/// Runs the verb.
///
/// # Errors
/// Findings about the text, E0504 and E0508 for unknown passes and phases, E05xx of the passes,
/// E0917 for the folder of dumps, E101x for the output.
pub fn run(args: Opt) -> std::result::Result<(), Failure> {
    let output = args.output.filter(|path| !is_standard_output(path));
    let mut places = modules::reads(&args.module.file, None, None);
    if let Some(path) = &output {
        places.writes("--output", path);
    }
    if output.is_none() || args.print_after.is_some() {
        places.prints("the text");
    }
    places.check()?;
    let wanted = passes::shown(args.print_after.as_deref())?;
    let selection = match &args.to {
        _ if !args.passes.is_empty() => Selection::Named(args.passes.clone()),
        None => Selection::To(Phase::Optimised),
        Some(name) => {
            let phase = Phase::find(name).map_err(passes::placed)?;
            Selection::To(phase)
        }
    };
    let module = modules::read(&args.module)?;
    let func = modules::function(&module, args.func.as_deref())?;
    no_index(func)?;
    let switches = &args.switches;
    let request = passes::request(&module, func, &args.vary, &[], switches)?;
    let (outcome, texts) = passes::run(&request, switches, &selection, &wanted, &places)?;
    let (state, watched) = Watched::of(&func.name, outcome);
    checked(&state)?;
    let last = state.text();
    let mut out = String::new();
    // The text of the last pass follows anyway.
    let ended = watched.records.last().map(|record| record.pass);
    let shown = texts.len() - usize::from(texts.last().is_some_and(|(n, _)| Some(&**n) == ended));
    for (name, text) in &texts[..shown] {
        out.push_str(&format!("// after {name}\n{text}\n"));
    }
    match output {
        None => output::print(&format!("{out}{last}"))?,
        Some(path) => {
            output::print(&out)?;
            write_bytes(&path, last.as_bytes())?;
        }
    }
    // Goes to standard error, because the text is for a file or another program.
    let report = passes::report(&[watched], switches);
    if !report.is_empty() {
        output::note(report.trim());
    }
    Ok(())
}

/// Programs are IR again and must therefore satisfy its verifier.
fn checked(state: &Compilation<'_>) -> Result<()> {
    if state.level() != Level::Program {
        return Ok(());
    }
    match verify::verify(&state.straight()).into_iter().next() {
        None => Ok(()),
        Some(fault) => Err(Error::internal(fault.code, fault.message)
            .at(fault.place.unwrap_or_else(|| "the result of a pass".to_owned()))),
    }
}
