//! The flags of the verbs under `bench`.

use crate::args::{DeviceArgs, ModuleArgs, PassArgs, PhaseArgs, PrecisionName, ResidualName};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    pub what: BenchWhat,
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// Single operations.
    Ops(BenchOps),
    /// The row kernels that IR text compiles to, at their shapes, compared with a copy of memory.
    Rows(Box<BenchRows>),
    /// Blocks of the diffusion transformer, or a whole sampling step of it.
    Dit(BenchDit),
    /// One half of the autoencoder on a clip.
    Vae(BenchVae),
    /// The text encoder.
    Text(BenchText),
    /// Blocks of the diffusion transformer with low-rank adapters, or all of its weights, forward and
    /// backward.
    Train(BenchTrain),
}

/// What measurements of networks have in common.
#[derive(Debug, Args)]
#[command(
    after_help = "Weights are random and made in memory. A first run does not count, and the times \
of the other runs do not include loading and packing. Memory is shown as the plans state it and as \
the peak of the process."
)]
pub struct BenchPhase {
    /// Sizes of the network: micro, small, world or wan2.2-ti2v-5b.
    #[arg(long, value_name = "NAME", default_value = "wan2.2-ti2v-5b", conflicts_with = "model")]
    pub preset: String,
    /// Sizes of the network of this model folder, or of the folder of the network alone.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Arithmetic of the network [default: f32 for the autoencoder, else bf16].
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionName>,
    /// Number of timed runs.
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true)]
    pub repeats: usize,
    #[command(flatten)]
    pub on: DeviceArgs,
    /// Also time every step of the plans, in further runs.
    #[arg(long)]
    pub profile: bool,
    /// Write a page for the browser that shows memory over launches, kernels against the peaks of
    /// this machine, launches in time, and what was fused and why. Steps are timed as with --profile.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BenchDit {
    #[command(flatten)]
    pub phase: BenchPhase,
    /// Number of blocks, one after the other.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub blocks: usize,
    /// Tokens of the sequence.
    #[arg(long, value_name = "N", default_value_t = 1024, allow_negative_numbers = true)]
    pub tokens: usize,
    /// Rows of the text context.
    #[arg(long, value_name = "N", default_value_t = 512, allow_negative_numbers = true)]
    pub text_tokens: usize,
    /// Element type of the transformer's residual stream; bf16 takes less memory, and results
    /// differ slightly.
    #[arg(long, value_enum, default_value = "f32")]
    pub residual: ResidualName,
    /// Measure the whole step with embeddings, time path and head, not only the blocks.
    #[arg(long)]
    pub all: bool,
    /// Evaluate both branches of guidance: together where the compiler finds that faster, or apart.
    #[arg(long, value_enum, value_name = "HOW", num_args = 0..=1, default_missing_value = "auto")]
    pub guided: Option<Guided>,
}

/// How the branches of guidance are evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Guided {
    /// As in sampling.
    Auto,
    /// One after the other.
    Apart,
}

/// A half of the autoencoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// Pixels to latents.
    Encode,
    /// Latents to pixels.
    Decode,
}

#[derive(Debug, Args)]
pub struct BenchVae {
    #[command(flatten)]
    pub phase: BenchPhase,
    /// Which half.
    #[arg(long, value_enum, default_value = "decode")]
    pub direction: Direction,
    /// Pixel frames, 4k+1; one run processes all of them.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub frames: usize,
    /// Width and height in pixels, multiples of 16.
    #[arg(long, value_name = "WxH", default_value = "256x256", allow_hyphen_values = true)]
    pub size: String,
}

#[derive(Debug, Args)]
pub struct BenchText {
    #[command(flatten)]
    pub phase: BenchPhase,
    /// Layers of the encoder.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub layers: usize,
    /// Tokens of the prompt.
    #[arg(long, value_name = "N", default_value_t = 512, allow_negative_numbers = true)]
    pub tokens: usize,
}

#[derive(Debug, Args)]
pub struct BenchTrain {
    #[command(flatten)]
    pub phase: BenchPhase,
    /// Number of blocks, one after the other.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub blocks: usize,
    /// Tokens of a sample; with --all, the first of its latent frames is a reference.
    #[arg(long, value_name = "N", default_value_t = 1024, allow_negative_numbers = true)]
    pub tokens: usize,
    /// Rows of the text context of a sample.
    #[arg(long, value_name = "N", default_value_t = 512, allow_negative_numbers = true)]
    pub text_tokens: usize,
    /// Rank of the adapters, which all matrices of attention and feed-forward have.
    #[arg(long, value_name = "N", default_value_t = 128, allow_negative_numbers = true)]
    pub rank: usize,
    /// Train every weight of the whole transformer, from the loss of samples on.
    #[arg(long, conflicts_with = "rank")]
    pub all: bool,
    /// Samples of a call.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_negative_numbers = true,
        requires = "all"
    )]
    pub samples: usize,
    /// Element type of the transformer's residual stream.
    #[arg(long, value_enum, default_value = "f32")]
    pub residual: ResidualName,
}

#[derive(Debug, Args)]
pub struct BenchOps {
    #[command(flatten)]
    pub on: DeviceArgs,
    /// Approximate time for which each operation is measured, in seconds.
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub seconds: f64,
    /// Measure only operations whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BenchRows {
    #[command(flatten)]
    pub module: ModuleArgs,
    #[command(flatten)]
    pub phases: PhaseArgs,
    #[command(flatten)]
    pub on: DeviceArgs,
    /// Approximate time for which each kernel is measured, in seconds.
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    pub seconds: f64,
    /// Measure only kernels whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub switches: PassArgs,
}
