//! The flags of `world make`.

use crate::args::DeviceArgs;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(
    after_help = "The recipe says what is made, step by step: samples, the model to begin with, \
trainings, pairs, evaluations, and the gates that they have to pass. It is written to DIR/recipe.toml, \
which may be changed. The same command always goes on where it was, to the same bytes; remove the \
folder of a step to make it anew. docs/world.md describes recipes."
)]
pub struct Make {
    /// The folder in which everything is made.
    #[arg(short, long = "output", value_name = "DIR")]
    pub output: PathBuf,
    /// Another recipe [default: DIR/recipe.toml if it is there, else the built-in one].
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    pub recipe: Option<PathBuf>,
    /// The built-in recipe of ten minutes, which shows every step and makes no good model.
    #[arg(long)]
    pub quick: bool,
    /// The step to end with.
    #[arg(long, value_name = "STEP")]
    pub until: Option<String>,
    /// Seed of samples, first values and trainings that have none of their own [default: the recipe's].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub on: DeviceArgs,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}
