//! `dot`: draws a function as Graphviz text.

use crate::args::ModuleArgs;
use crate::modules;
use crate::output;
use crate::render::Failure;
use clap::Args;

#[derive(Debug, Args)]
pub struct Dot {
    #[command(flatten)]
    pub module: ModuleArgs,
    /// Function [default: the last].
    #[arg(long, value_name = "NAME")]
    pub func: Option<String>,
}

/// Runs the verb.
///
/// # Errors
/// Findings about the text, E0913 for the function.
pub fn run(args: Dot) -> Result<(), Failure> {
    let module = modules::read(&args.module)?;
    let func = modules::function(&module, args.func.as_deref())?;
    output::print(&anyid_passes::view::dot(func))?;
    Ok(())
}
