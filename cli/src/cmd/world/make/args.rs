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

#[derive(Debug, Args)]
#[command(
    after_help = "The folder is a model in the layout of diffusers with its weights in f16, the recipe \
that it was made by, and provenance.json, which has what each step took and the digests of the weights."
)]
pub struct Pack {
    /// The folder of `world make`.
    #[arg(value_name = "DIR")]
    pub made: PathBuf,
    /// The folder that is written.
    #[arg(short, long = "output", value_name = "FOLDER")]
    pub output: PathBuf,
    /// The training whose model is packed [default: the last one that is finished].
    #[arg(long, value_name = "STEP")]
    pub step: Option<String>,
    /// Sampling steps that the model is used with by default.
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub steps: usize,
    /// Guidance scale that the model is used with by default.
    #[arg(long, value_name = "G", default_value_t = 2.0)]
    pub guidance: f64,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}
