//! The flags of the verbs under `lora`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What is done with adapters.
#[derive(Debug, Subcommand)]
pub enum Lora {
    /// Say what an adapter changes, by which rank and scale.
    Inspect(LoraInspect),
    /// Write an adapter in another dialect.
    Convert(LoraConvert),
    /// Join several adapters into one of summed rank, exactly.
    Combine(LoraCombine),
    /// Write a model, or a transformer's checkpoint, with adapters merged into its weights.
    Merge(LoraMerge),
}

#[derive(Debug, Args)]
pub struct LoraInspect {
    /// The adapter: a file, or PEFT's folder.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Compare it with this model's tensors.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// List every module.
    #[arg(long)]
    pub modules: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// How an adapter is written, and what it is compared with.
#[derive(Debug, Args)]
pub struct AdapterOutput {
    /// The dialect: comfyui, diffsynth, diffusers, peft (a folder) or musubi.
    #[arg(long, value_name = "DIALECT", default_value = "comfyui")]
    pub to: String,
    /// The file to write; for peft a folder.
    #[arg(short, long = "output", value_name = "OUT")]
    pub output: PathBuf,
    /// Compare what is read with this model's tensors.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Leave out tensors that are for no module that is known.
    #[arg(long)]
    pub allow_unmatched: bool,
    /// Replace an existing result.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct LoraConvert {
    /// The adapter: a file, or PEFT's folder.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    #[command(flatten)]
    pub write: AdapterOutput,
}

#[derive(Debug, Args)]
pub struct LoraCombine {
    /// The adapters, each with its scale [default: 1].
    #[arg(value_name = "PATH[:SCALE]", required = true, num_args = 1..)]
    pub adapters: Vec<String>,
    #[command(flatten)]
    pub write: AdapterOutput,
}

#[derive(Debug, Args)]
pub struct LoraMerge {
    /// A model folder, a checkpoint file of the transformer, or the index of its shards.
    #[arg(value_name = "BASE")]
    pub base: PathBuf,
    /// An adapter with its scale [default: 1]; may be given several times.
    #[arg(long = "lora", value_name = "PATH[:SCALE]", required = true)]
    pub adapters: Vec<String>,
    /// The folder to write, or the file where BASE is one.
    #[arg(short, long = "output", value_name = "OUT")]
    pub output: PathBuf,
    /// Leave out tensors that are for no module of the model.
    #[arg(long)]
    pub allow_unmatched: bool,
    /// Accept adapters that were trained for another arrangement of the references.
    #[arg(long)]
    pub allow_mismatch: bool,
    /// Replace an existing result.
    #[arg(long)]
    pub force: bool,
}
