//! The flags of `generate`.

use crate::args::{DeviceArgs, PrecisionName, ResidualName};
use crate::cmd::prompt::StyleName;
use crate::cmd::safeguards::SafeguardArgs;
use anyid_runtime::media::coding::Pixels;
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

/// What part of a noise level's range it is, as `LOW..HIGH`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval(pub [f64; 2]);

impl std::str::FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (low, high) = text.split_once("..")?;
            Some(Self([low.trim().parse().ok()?, high.trim().parse().ok()?]))
        };
        parse().ok_or_else(|| "write two noise levels, such as 0.3..1".to_owned())
    }
}

/// Seeds as they are given: numbers, and ranges with both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(pub Vec<u64>);

/// Most seeds of one run.
const MOST_SEEDS: u64 = 10_000;

impl std::str::FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut out: Vec<u64> = Vec::new();
        for part in text.split(',') {
            let ends = part.split_once("..").unwrap_or((part, part));
            let number = |text: &str| text.trim().parse::<u64>().ok();
            let Some((first, last)) = number(ends.0).zip(number(ends.1)) else {
                return Err("write seeds such as 1,2,3 or 1..4".to_owned());
            };
            if first > last || last - first >= MOST_SEEDS {
                return Err(format!("a range goes up, and over at most {MOST_SEEDS} seeds"));
            }
            for seed in first..=last {
                if out.contains(&seed) {
                    return Err(format!("seed {seed} is there twice"));
                }
                out.push(seed);
            }
        }
        Ok(Self(out))
    }
}

/// The cache of steps as it is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cache {
    /// Every step is evaluated.
    None,
    /// EasyCache with this threshold.
    Easy(f64),
}

/// Threshold of a cache that is given without one.
const USUAL_THRESHOLD: f64 = 0.05;

impl std::str::FromStr for Cache {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse().ok().map(Self::Easy);
        let found = match text.split_once(':') {
            None if text == "none" => Some(Self::None),
            None if text == "easycache" => Some(Self::Easy(USUAL_THRESHOLD)),
            Some(("easycache", threshold)) => number(threshold),
            _ => None,
        };
        found.ok_or_else(|| "write easycache:THRESHOLD, such as easycache:0.05, or none".to_owned())
    }
}

#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Without --model the built-in model is used: it makes clips of drawn people, such as \
those in examples/characters, 48x48 pixels and 5 frames. A photograph as a reference is outside of its \
world. Prompts are made of few words: docs/world.md has them. Size, frames, steps and guidance are by \
default those that the model was made for, which its transformer/config.json says (sample_width, \
sample_height, sample_frames, sample_steps, sample_guidance); where it says nothing, 1280x704, 121 \
frames, 50 steps, 5.\n\n\
A recipe is written next to the result (OUT.recipe.json), and into it, there without the folders of the \
files that were read. `generate --recipe FILE -o OUT` repeats \
the run exactly; flags given together with --recipe override it.\n\n\
--jobs FILE makes many videos. A line is an object whose keys are flags: {\"id\": \"a\", \"ref\": \
[\"me.jpg\"], \"prompt\": \"…\", \"seed\": 3}. Flags of the command hold for all lines, and a line \
overrides them. Without \"output\" the video of a line is ID.mp4 in the folder that -o names. All faults of \
all lines are told before the first video. The same command goes on where it was stopped: videos that are \
there are not made again. Several processes share the lines with --shard K/N, or by the variables of Slurm, MPI, \
Kubernetes (with --shards N) or torchrun."
)]
pub struct Generate {
    /// Pictures or clips of the person, up to 5; the first is the primary one. Without any, the
    /// video is made from the prompt alone.
    #[arg(long = "ref", value_name = "FILE", num_args = 1..)]
    pub references: Vec<PathBuf>,
    /// The first frame of the video, as Wan's image-to-video takes it: a picture, or a clip of which the
    /// first frame is taken. It fills the picture, and what is too much is cut off.
    #[arg(long, value_name = "FILE")]
    pub first_frame: Option<PathBuf>,
    /// What the video should show.
    #[arg(long, value_name = "TEXT",
        required_unless_present_any = ["recipe", "latents", "resume", "jobs", "changes"])]
    pub prompt: Option<String>,
    /// In place of a prompt, what of the video is other than in the primary reference, such as
    /// hairstyle="She has short red hair."; once for each of shot, hairstyle, clothing, accessory, expression,
    /// action and background. What is not named stays.
    #[arg(long = "change", value_name = "ELEMENT=TEXT", conflicts_with_all = ["prompt", "jobs"])]
    pub changes: Vec<String>,
    /// An element that is meant to stay, as all do that no --change names; checked, and not said.
    #[arg(long, value_name = "ELEMENT", requires = "changes", conflicts_with = "prompt")]
    pub keep: Vec<String>,
    /// How --change writes the prompt: as the adapter was trained [default: plain].
    #[arg(long, value_enum, requires = "changes")]
    pub prompt_style: Option<StyleName>,
    /// What guidance leads away from, in place of the empty prompt. Models that were tuned for references
    /// learned one null state, the empty prompt with black references, which this is not.
    #[arg(long, value_name = "TEXT")]
    pub negative_prompt: Option<String>,
    /// Where the video goes: a .mp4, .gif, .apng or .webp file, a folder for PNG frames, or - for
    /// standard output.
    #[arg(short, long = "output", value_name = "OUT",
        required_unless_present_any = ["recipe", "latents", "resume", "jobs"])]
    pub output: Option<PathBuf>,
    /// Replace results that exist already: the video, its recipe, latents, the trace.
    #[arg(long)]
    pub force: bool,
    /// Format for standard output, a pipe or a device [default: mp4, or as the name says].
    #[arg(long, value_enum)]
    pub format: Option<FormatName>,
    /// h264, h265, av1, vp9 or prores; all but h264 in MP4 need ffmpeg [default: h264, or what is usual in
    /// the container].
    #[arg(long, value_enum, hide_possible_values = true)]
    pub codec: Option<CodecName>,
    /// Quality of the file on the scale of constant rate factors: lower is better and larger
    /// [default: 18 for h264].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub quality: Option<u8>,
    /// How samples are stored: yuv420p, yuv422p, yuv444p, or these with 10le behind them for ten bits;
    /// all but yuv420p need ffmpeg [default: yuv420p, of prores yuv422p10le].
    #[arg(long, value_name = "NAME", value_parser = pixels)]
    pub pix_format: Option<Pixels>,
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
    /// Noise levels of the steps in place of a schedule, falling from at most 1, such as
    /// 0.999,0.94,0.83,0.63 for a model of few steps. No shift is applied to them. The solver unipc
    /// cannot begin at 1; the others can.
    #[arg(long, value_name = "LEVEL,…", value_delimiter = ',', allow_negative_numbers = true,
        conflicts_with_all = ["steps", "shift", "schedule"])]
    pub sigmas: Vec<f64>,
    /// Shift of the noise schedule [default: the model's].
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub shift: Option<f64>,
    /// Guidance scale; 1 turns guidance off [default: the model's].
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub guidance: Option<f64>,
    /// Noise levels at which guidance is at work; in other steps half of the work is saved
    /// [default: all, 0..1].
    #[arg(long, value_name = "LOW..HIGH", allow_hyphen_values = true)]
    pub guidance_interval: Option<Interval>,
    /// Leave out steps in which the network changes little: easycache:THRESHOLD, larger for more. The
    /// result changes; docs/performance.md has how much [default: none].
    #[arg(long, value_name = "NAME:T", allow_hyphen_values = true)]
    pub cache: Option<Cache>,
    /// unipc, euler, dpmpp, or lcm for models of few steps [default: the model's].
    #[arg(long, value_name = "NAME")]
    pub solver: Option<String>,
    /// wan or diffusers: where the noise levels come from [default: the model's].
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<String>,
    /// Seed of the start noise: a number, or `random` for a new one in each run; the recipe records
    /// it [default: 0].
    #[arg(long, value_name = "N|random", allow_negative_numbers = true)]
    pub seed: Option<Seed>,
    /// Several seeds, 1,2,3 or 1..4 with both ends: a video for each, whose names get -seed1, -seed2, …
    /// in front of their ending.
    #[arg(long, value_name = "LIST", conflicts_with_all = ["seed", "noise"])]
    pub seeds: Option<Seeds>,
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
    /// Store the state of sampling beside the result (OUT.state.safetensors) until the video is complete,
    /// and go on from it if it is there, to the same bits. With FILE it lies there; given alone, FILE says
    /// what the run is.
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub resume: Option<Option<PathBuf>>,
    /// Show what is being made, in terminals that show pictures (kitty, iTerm2 and others); with FILE, also
    /// in this animated PNG. Colours are rough, and come from the references.
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub preview: Option<Option<PathBuf>>,
    /// Steps from one preview to the next [default: 5].
    #[arg(long, value_name = "N", requires = "preview", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub preview_every: Option<u16>,
    /// Make the videos that the lines of this file describe, JSON objects with flags as keys.
    #[arg(long, value_name = "FILE", visible_alias = "batch",
        conflicts_with_all = ["recipe", "latents", "save_latents", "noise"])]
    pub jobs: Option<PathBuf>,
    /// Make only part K of N parts of the jobs, counted from 0 [default: what a launcher's variables
    /// say, or all].
    #[arg(long, value_name = "K/N", requires = "jobs")]
    pub shard: Option<String>,
    /// Number of parts, for launchers that do not say it.
    #[arg(long, value_name = "N", requires = "jobs")]
    pub shards: Option<usize>,
    /// Only decode these latents: a file from --save-latents, or the file that a run leaves next to
    /// its result if decoding fails. Model, frame rate and output are taken from it unless given.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["references", "first_frame", "prompt",
        "negative_prompt", "size", "frames", "steps", "sigmas", "shift", "guidance",
        "guidance_interval", "cache", "solver", "schedule", "seed", "seeds", "noise", "residual",
        "save_latents", "recipe", "resume", "preview", "adapters"])]
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
    /// Write down what the models that look at frames gave: values, and no pictures.
    #[arg(long, value_name = "FILE", help_heading = "Safeguards")]
    pub moderation_report: Option<PathBuf>,
    #[command(flatten)]
    pub safeguards: SafeguardArgs,
    /// File of defaults, TOML whose table `generate` has flags as keys; those of the command come before
    /// them [default: anyid-rt/config.toml in $XDG_CONFIG_HOME or ~/.config, where there is one].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
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

/// Codecs of videos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CodecName {
    H264,
    H265,
    Av1,
    Vp9,
    Prores,
}

impl From<CodecName> for anyid_runtime::media::coding::Codec {
    fn from(name: CodecName) -> Self {
        match name {
            CodecName::H264 => Self::H264,
            CodecName::H265 => Self::H265,
            CodecName::Av1 => Self::Av1,
            CodecName::Vp9 => Self::Vp9,
            CodecName::Prores => Self::Prores,
        }
    }
}

/// A pixel format by name.
fn pixels(name: &str) -> Result<Pixels, String> {
    Pixels::named(name).ok_or_else(|| {
        let names: Vec<&str> = Pixels::ALL.iter().map(|pixels| pixels.name()).collect();
        format!("it is one of {}", names.join(", "))
    })
}

/// Video formats that can go through a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatName {
    Mp4,
    Gif,
    Apng,
    Webp,
    Mkv,
    Webm,
    Mov,
}

impl From<FormatName> for anyid_runtime::media::writer::Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Mp4 => Self::Mp4,
            FormatName::Gif => Self::Gif,
            FormatName::Apng => Self::Apng,
            FormatName::Webp => Self::Webp,
            FormatName::Mkv => Self::Mkv,
            FormatName::Webm => Self::Webm,
            FormatName::Mov => Self::Mov,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_numbers_and_ranges_with_both_ends() {
        let seeds = |text: &str| text.parse::<Seeds>().map(|seeds| seeds.0);
        assert_eq!(seeds("3").unwrap(), [3]);
        assert_eq!(seeds("1,2,5..7, 9").unwrap(), [1, 2, 5, 6, 7, 9]);
        assert_eq!(seeds("18446744073709551615").unwrap(), [u64::MAX]);
        for bad in ["", "1,", "a", "4..1", "1..20000", "1,1", "1..3,2", "-1", "1..2..3"] {
            assert!(seeds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn caches_and_intervals_have_names_and_numbers() {
        assert_eq!("easycache:0.2".parse(), Ok(Cache::Easy(0.2)));
        assert_eq!("easycache".parse(), Ok(Cache::Easy(USUAL_THRESHOLD)));
        assert_eq!("none".parse(), Ok(Cache::None));
        for bad in ["", "teacache:0.1", "easycache:", "easycache:x", "0.1"] {
            assert!(bad.parse::<Cache>().is_err(), "{bad}");
        }
        assert_eq!("0.3..1".parse(), Ok(Interval([0.3, 1.0])));
        for bad in ["", "0.3", "a..b", "0.3..", "0.1..0.2..0.3"] {
            assert!(bad.parse::<Interval>().is_err(), "{bad}");
        }
    }
}
