//! The flags of `generate`.

use crate::args::{DeviceArgs, PrecisionName, ResidualName};
use crate::cmd::safeguards::SafeguardArgs;
use anyid_runtime::model::Parts;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// A seed as it is given: a number, or a request for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    /// This one.
    Number(u64),
    /// One that the program draws at random and records.
    Random,
}

impl std::str::FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "random" => Ok(Self::Random),
            _ => text.parse().map(Self::Number).map_err(|_| {
                "a seed is a whole number from 0 to 18446744073709551615, or `random`".to_owned()
            }),
        }
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without --model the built-in model is used: it makes clips of drawn people, such as \
those in examples/characters, 48x48 pixels and 5 frames. A photograph as a reference is outside of its \
world. Prompts are made of few words: docs/world.md has them. Size, frames, steps and guidance are by \
default those that the model was made for, which its transformer/config.json says (sample_width, \
sample_height, sample_frames, sample_steps, sample_guidance); where it says nothing, 1280x704, 121 \
frames, 50 steps, 5.\n\n\
A recipe is written next to the result (OUT.recipe.json), and into it, there without the folders of the \
files that were read. `generate --recipe FILE -o OUT` repeats \
the run exactly; flags given together with --recipe override it."
)]
pub struct Generate {
    /// Pictures or clips of the person, up to 5; the first is the primary one. Without any, the
    /// video is made from the prompt alone.
    #[arg(long = "ref", value_name = "FILE", num_args = 1..)]
    pub references: Vec<PathBuf>,
    /// What the video should show.
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["recipe", "latents"])]
    pub prompt: Option<String>,
    /// Where the video goes: a .mp4 or .gif file, a folder for PNG frames, or - for standard
    /// output.
    #[arg(short, long = "output", value_name = "OUT",
        required_unless_present_any = ["recipe", "latents"])]
    pub output: Option<PathBuf>,
    /// Replace results that exist already: the video, its recipe, latents, the trace.
    #[arg(long)]
    pub force: bool,
    /// Format for standard output, a pipe or a device [default: mp4, or as the name says].
    #[arg(long, value_enum)]
    pub format: Option<FormatName>,
    /// Model folder (diffusers, or the original checkpoint's).
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Weights of the transformer: safetensors, GGUF, .pth, or an index of shards. Replaces that of
    /// --model, and so do the next three.
    #[arg(long, value_name = "FILE")]
    pub transformer: Option<PathBuf>,
    /// Weights of the umT5 text encoder.
    #[arg(long, value_name = "FILE")]
    pub text_encoder: Option<PathBuf>,
    /// Weights of the autoencoder.
    #[arg(long, value_name = "FILE")]
    pub vae: Option<PathBuf>,
    /// tokenizer.json or spiece.model [default: the text encoder's].
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// An adapter (LoRA) for the transformer with its scale [default: 1]; may be given several
    /// times.
    #[arg(long = "lora", value_name = "PATH[:SCALE]", allow_hyphen_values = true)]
    pub adapters: Vec<String>,
    /// Leave out tensors of adapters that are for no module of the model.
    #[arg(long)]
    pub allow_unmatched: bool,
    /// Accept adapters that were trained for another arrangement of the references.
    #[arg(long)]
    pub allow_mismatch: bool,
    /// Width and height in pixels, multiples of what the model takes: 32 for Wan2.2.
    #[arg(long, value_name = "WxH", allow_hyphen_values = true)]
    pub size: Option<String>,
    /// Number of frames, 4k+1.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub frames: Option<usize>,
    /// Frames per second of the result [default: 24].
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub fps: Option<f64>,
    /// Sampling steps [default: the model's].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub steps: Option<usize>,
    /// Shift of the noise schedule [default: the model's].
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub shift: Option<f64>,
    /// Guidance scale; 1 turns guidance off [default: the model's].
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub guidance: Option<f64>,
    /// unipc, euler or dpmpp [default: the model's].
    #[arg(long, value_name = "NAME")]
    pub solver: Option<String>,
    /// wan or diffusers: where the noise levels come from [default: the model's].
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<String>,
    /// Seed of the start noise: a number, or `random` for a new one in each run; the recipe records
    /// it [default: 0].
    #[arg(long, value_name = "N|random", allow_negative_numbers = true)]
    pub seed: Option<Seed>,
    /// Start noise from a safetensors file with a tensor `noise` of shape `C,F,h,w` or `1,C,F,h,w`.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    pub noise: Option<PathBuf>,
    /// Arithmetic of the networks [default: bf16 where the weights are bf16, else f32].
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionName>,
    /// Element type of the transformer's residual stream; bf16 takes less memory, and results
    /// differ slightly [default: f32].
    #[arg(long, value_enum)]
    pub residual: Option<ResidualName>,
    /// Memory that the run may hold, such as 12GiB, or `auto` for what is free. Where it would need
    /// more, weights are read again in every step, which changes nothing but time, and the
    /// autoencoder works in tiles [default: such runs are refused].
    #[arg(long, value_name = "SIZE|auto", allow_hyphen_values = true)]
    pub budget: Option<String>,
    /// The largest tiles that the autoencoder works in; pixels differ slightly where they meet
    /// [default: whole pictures].
    #[arg(long, value_name = "WxH", allow_hyphen_values = true)]
    pub tile: Option<String>,
    #[command(flatten)]
    pub on: DeviceArgs,
    /// Also write the final latents (tensor `latents` of shape `C,F,h,w`).
    #[arg(long, value_name = "FILE")]
    pub save_latents: Option<PathBuf>,
    /// Only decode these latents: a file from --save-latents, or the file that a run leaves next to
    /// its result if decoding fails. Model, frame rate and output are taken from it unless given.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["references", "prompt", "size", "frames",
        "steps", "shift", "guidance", "solver", "schedule", "seed", "noise", "residual",
        "save_latents", "recipe", "adapters"])]
    pub latents: Option<PathBuf>,
    /// Check everything and show what each phase needs, then stop without writing anything.
    #[arg(long)]
    pub dry_run: bool,
    /// Repeat a run from its recipe: OUT.recipe.json, or a video or frame that holds one. Settings of
    /// ComfyUI and A1111 in such files are taken as far as they mean something here.
    #[arg(long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// Leave the recipe out of the video itself; the one beside it is still written.
    #[arg(long)]
    pub no_recipe_inside: bool,
    /// Write a trace of all launches as JSON, for Perfetto and chrome://tracing
    /// [default: the environment variable ANYID_RT_TRACE].
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    #[command(flatten)]
    pub safeguards: SafeguardArgs,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl Generate {
    /// The folder and the files of the model.
    pub fn parts(&self) -> Parts {
        Parts {
            folder: self.model.clone(),
            transformer: self.transformer.clone(),
            text_encoder: self.text_encoder.clone(),
            vae: self.vae.clone(),
            tokenizer: self.tokenizer.clone(),
        }
    }
}

/// Video formats that can go through a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatName {
    Mp4,
    Gif,
    Mkv,
    Webm,
    Mov,
}

impl From<FormatName> for anyid_runtime::media::writer::Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Mp4 => Self::Mp4,
            FormatName::Gif => Self::Gif,
            FormatName::Mkv => Self::Mkv,
            FormatName::Webm => Self::Webm,
            FormatName::Mov => Self::Mov,
        }
    }
}
