//! The flags of `compile`.

use crate::args::{ModuleArgs, PassArgs, PhaseArgs};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// What `compile` prints instead of its summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// The module with its dims bound.
    Ir,
    /// The text of every kernel of the plans.
    Kernels,
    /// Steps and buffers with their places in memory.
    Plan,
    /// Every piece of workspace with its lifetime, as comma-separated values.
    Memory,
    /// The function as Graphviz text.
    Dot,
}

#[derive(Debug, Args)]
#[command(
    after_help = "With --vary the function becomes two phases: `prepare` computes what does not \
depend on the named inputs and runs once, `step` does the rest. Resident memory is weights + \
persistent + the largest peak. If this exceeds the budget, the exit code is 3, the changes that \
would make it fit are listed, and no plan is written."
)]
pub struct Compile {
    #[command(flatten)]
    pub module: ModuleArgs,
    #[command(flatten)]
    pub phases: PhaseArgs,
    /// Pairs of an input and a result that are one tensor, carried from each run to the next:
    /// s0=n0, or s*=n* for all pairs of that form. A function without the input begins the state.
    #[arg(long = "state", value_name = "INPUT=RESULT,…", value_delimiter = ',')]
    pub states: Vec<String>,
    /// Memory that weights and plan may take together, such as 16GiB.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub budget: Option<String>,
    /// Print this instead of the summary.
    #[arg(long, value_enum, conflicts_with = "json")]
    pub emit: Option<Emit>,
    /// Stop after this phase (bound, optimised, fused or planned) and print the result, as `opt`
    /// does.
    #[arg(long, value_name = "PHASE",
        conflicts_with_all = ["emit", "json", "output", "budget", "predict"])]
    pub to: Option<String>,
    /// Predict the shortest time of each phase: on this machine, which is measured (for about a
    /// second), or, for a target without a device here, from what is stated about one.
    #[arg(long)]
    pub predict: bool,
    /// Number of threads to predict for; 0 assumes all that the processor has.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "predict")]
    pub threads: usize,
    /// Print the summary as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Write the plan, for `run`; `-` for standard output.
    #[arg(short, long = "output", value_name = "FILE.plan")]
    pub output: Option<PathBuf>,
    /// Write a page for the browser that shows memory over launches, kernels with their times as
    /// --predict or the target's figures give them, and what was fused and why; `-` for standard
    /// output.
    #[arg(long, value_name = "FILE.html", conflicts_with = "to")]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub switches: PassArgs,
}
