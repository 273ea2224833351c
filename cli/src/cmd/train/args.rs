//! The flags of `train`, declared once. What a run does is said by its settings; flags override them.

use crate::args::DeviceArgs;
use crate::cmd::safeguards::PolicyArgs;
use anyid_runtime::training::Override;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What is trained, or looked at.
#[derive(Debug, Subcommand)]
pub enum Train {
    /// Train an adapter (LoRA) on clips of people with references and prompts.
    Lora(TrainArgs),
    /// Train an adapter on pairs of clips of which one was preferred.
    Dpo(TrainArgs),
    /// Train every weight of the transformer, of the autoencoder (train.network = "vae"), or of the text
    /// encoder (train.network = "text").
    Full(TrainArgs),
    /// Run stages one behind the other, each on the model of those before it, and go on where they were.
    Stages(StagesArgs),
    /// Check a manifest, encode what it names, and say what a run would do.
    Check(CheckArgs),
}

impl Train {
    /// Whether the report is wanted as JSON.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Lora(args) | Self::Dpo(args) | Self::Full(args) => args.settings.json,
            Self::Stages(args) => args.json,
            Self::Check(args) => args.settings.json,
        }
    }
}

/// Where settings come from.
#[derive(Debug, Args)]
pub struct SettingsArgs {
    /// The settings of the run, a TOML file; docs/training.md lists them.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Another value for a setting; may be given several times.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Updates in all.
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Folder of the run.
    #[arg(short, long = "output", value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Seed of the order, the noise and the first values.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub on: DeviceArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl SettingsArgs {
    /// Everything that overrides the file.
    pub fn overrides(&self) -> Vec<Override> {
        let mut out: Vec<Override> = self.overrides.iter().map(Override::set).collect();
        // A number above what TOML holds stays text, and is refused as such.
        for (key, flag, value) in
            [("train.steps", "--steps", self.steps), ("train.seed", "--seed", self.seed)]
        {
            out.extend(value.map(|value| Override {
                text: format!("{key}={value}"),
                flag: format!("{flag} {value}"),
            }));
        }
        out.extend(self.output.as_ref().map(|path| {
            let text = path.to_string_lossy();
            Override {
                text: format!("run.folder={}", serde_json::Value::from(text.as_ref())),
                flag: format!("--output {text}"),
            }
        }));
        out
    }
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Continue from the checkpoint in the folder of the run.
    #[arg(long, conflicts_with = "init_from")]
    pub resume: bool,
    /// Start a new run from the values of an adapter; for `full`, from the file of a whole network of the
    /// kind that is trained: transformer.safetensors, vae.safetensors or text_encoder.safetensors.
    #[arg(long, value_name = "FILE")]
    pub init_from: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct StagesArgs {
    /// The stages, a TOML file; docs/training.md describes it.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The stage to end with.
    #[arg(long, value_name = "NAME")]
    pub until: Option<String>,
    #[command(flatten)]
    pub on: DeviceArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// The run that is meant.
    #[arg(value_name = "KIND", value_parser = ["lora", "dpo", "full"], default_value = "lora")]
    pub kind: String,
}
