//! The flags of `world`, declared once.

use super::clips::Weights;
use super::eval::args::Eval;
use super::make::args::Make;
use super::pairs::args::Pairs;
use crate::args::PrecisionName;
use crate::cmd::generate::args::FormatName;
use anyid_models::wan::Precision;
use anyid_runtime::{Error, Model, Request, Result, Size};
use anyid_world::{MOST_SIDES, Painter, ReferenceForm, SIDE, Sampling, Split, World};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use std::ops::Range;
use std::path::PathBuf;

/// What is made of the drawn world.
#[derive(Debug, Subcommand)]
pub enum WorldVerb {
    /// Paint a clip of a person, or a picture of it.
    #[command(disable_version_flag = true)]
    Render(Render),
    /// Write samples to train with: a manifest and the pictures that it names.
    #[command(disable_version_flag = true)]
    Sample(Sample),
    /// Paint sets in one picture: references, and first and last frame of the target.
    #[command(disable_version_flag = true)]
    Sheet(Sheet),
    /// Measure what a model keeps of people that it has never seen.
    #[command(disable_version_flag = true)]
    Eval(Box<Eval>),
    /// Make pairs of clips of which one is better, for `train dpo`.
    #[command(disable_version_flag = true)]
    Pairs(Box<Pairs>),
    /// Make a model of the world from nothing: samples, trainings, pairs and figures, step by step.
    #[command(disable_version_flag = true)]
    Make(Box<Make>),
}

impl WorldVerb {
    /// Whether the report is wanted as JSON.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Render(args) => args.json,
            Self::Sample(args) => args.json,
            Self::Sheet(args) => args.json,
            Self::Eval(args) => args.json,
            Self::Pairs(args) => args.json,
            Self::Make(args) => args.json,
        }
    }
}

/// A version of the world as it is given: `2` or `world/2`.
pub fn version(text: &str) -> std::result::Result<World, String> {
    let named = World::named(text).or_else(|_| World::named(&format!("world/{text}")));
    named.map_err(|_| format!("versions are world/1 to world/{}", World::LATEST))
}

/// The version that is drawn.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Version of the world: world/1 or world/2, or its number alone.
    #[arg(long, value_name = "NAME", default_value = "world/2", value_parser = version)]
    pub version: World,
}

/// The form of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormName {
    Face,
    Portrait,
    Video,
}

impl From<FormName> for ReferenceForm {
    fn from(name: FormName) -> Self {
        match name {
            FormName::Face => Self::Face,
            FormName::Portrait => Self::Portrait,
            FormName::Video => Self::Video,
        }
    }
}

/// What the targets of samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TargetKind {
    Clips,
    Pictures,
}

/// What groups are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SplitName {
    Train,
    Validation,
    #[value(alias = "test")]
    HeldOut,
}

impl From<SplitName> for Split {
    fn from(name: SplitName) -> Self {
        match name {
            SplitName::Train => Self::Train,
            SplitName::Validation => Self::Validation,
            SplitName::HeldOut => Self::HeldOut,
        }
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Group and version say everything: the same numbers give the same bytes on every \
machine. docs/world.md describes the world."
)]
pub struct Render {
    #[command(flatten)]
    pub world: VersionArgs,
    /// Number of the person: 0 to 999,999 are for training, from 2,000,000 on for reports.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub group: u64,
    /// Number of the clip, 0 to 63.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub clip: usize,
    /// What is seen of it: all of it, or the picture of face or portrait that references are.
    #[arg(long, value_enum, default_value_t = FormName::Video)]
    pub form: FormName,
    /// Pixels of a side, a multiple of 48 up to 1536.
    #[arg(long, value_name = "N", default_value_t = 48, allow_negative_numbers = true)]
    pub size: usize,
    /// Frames in which a clip is shown.
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true)]
    pub frames: usize,
    /// Frames per second.
    #[arg(long, value_name = "F", default_value_t = 24.0, allow_negative_numbers = true)]
    pub fps: f64,
    /// Where it goes: for a clip a .mp4 or .gif file, a folder for PNG frames, or - for standard
    /// output; for face or portrait a .png file.
    #[arg(short, long = "output", value_name = "OUT")]
    pub output: PathBuf,
    /// Format for standard output, a pipe or a device [default: mp4, or as the name says].
    #[arg(long, value_enum)]
    pub format: Option<FormatName>,
    /// Replace what is there already.
    #[arg(long)]
    pub force: bool,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// How sets are drawn, whoever they are of.
#[derive(Debug, Args)]
pub struct SetArgs {
    #[command(flatten)]
    pub world: VersionArgs,
    /// Clips of each person, 2 to 64.
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true)]
    pub clips: usize,
    /// Seed of the draws.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub seed: u64,
    /// References of a set: a number, or the least and the most, such as 1-3, each number being as
    /// frequent.
    #[arg(long, value_name = "N|N-N", default_value = "1-3", value_parser = references,
        allow_hyphen_values = true)]
    pub references: (usize, usize),
    /// Forms of the first reference.
    #[arg(long, value_enum, value_name = "FORM,…", value_delimiter = ',',
        default_values = ["portrait", "video"])]
    pub primary_forms: Vec<FormName>,
    /// Forms of the others.
    #[arg(long, value_enum, value_name = "FORM,…", value_delimiter = ',',
        default_values = ["face", "portrait", "video"])]
    pub forms: Vec<FormName>,
}

/// The model that makes clips.
#[derive(Debug, Args)]
pub struct WeightArgs {
    /// Model folder [default: the built-in model].
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// An adapter (LoRA) for its transformer with its scale [default: 1]; may be given several times.
    #[arg(long = "lora", value_name = "PATH[:SCALE]", allow_hyphen_values = true)]
    pub adapters: Vec<String>,
}

impl WeightArgs {
    /// The model with its adapters.
    ///
    /// # Errors
    /// E0361 and others for what names no adapter.
    pub fn weights(&self) -> Result<Weights> {
        let adapters = crate::cmd::lora::wanted(&self.adapters)?;
        Ok(Weights { folder: self.model.clone(), adapters })
    }
}

/// How a model makes clips.
#[derive(Debug, Args)]
pub struct ClipArgs {
    /// Pixels of a side, a multiple of 48 that the model takes.
    #[arg(long, value_name = "N", default_value_t = 48, allow_negative_numbers = true)]
    pub size: usize,
    /// Frames of a clip; 1 for models of single pictures.
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true)]
    pub frames: usize,
    /// Sampling steps.
    #[arg(long, value_name = "N", default_value_t = 12, allow_negative_numbers = true)]
    pub steps: usize,
    /// Shift of the noise schedule [default: the model's].
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub shift: Option<f64>,
    /// Guidance scale; 1 turns guidance off.
    #[arg(long, value_name = "G", default_value_t = 2.0, allow_negative_numbers = true)]
    pub guidance: f64,
    /// unipc, euler or dpmpp [default: the model's].
    #[arg(long, value_name = "NAME")]
    pub solver: Option<String>,
    /// Arithmetic of the networks [default: bf16 where the weights are bf16, else f32].
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionName>,
}

impl ClipArgs {
    /// How each clip is made, without what is of its set.
    ///
    /// # Errors
    /// E091x for names of solvers.
    pub fn request(&self) -> Result<Request> {
        let solver = self.solver.as_deref();
        let solver =
            solver.map(|name| name.parse().map_err(|e: Error| e.at("--solver"))).transpose()?;
        Ok(Request {
            size: Size { width: self.size, height: self.size, frames: self.frames },
            steps: self.steps,
            shift: self.shift,
            guidance: self.guidance,
            solver,
            precision: self.precision.map(Into::into),
            ..Request::default()
        })
    }

    /// Refuses a size that frames of the world, or one of the models, cannot have, and says which both can.
    ///
    /// # Errors
    /// E0982 for the world, E0901 for a model.
    pub fn check_size<'m>(&self, models: impl IntoIterator<Item = &'m Model>) -> Result<()> {
        let (size, mut step) = (self.size, SIDE);
        let mut refused = Painter::new(size).err().map(super::coded);
        for model in models {
            let geometry = model.geometry();
            step = geometry.sides().into_iter().fold(step, least_common_multiple);
            let own = Size { width: size, height: size, frames: 1 };
            refused = refused.or(own.check(geometry).err());
        }
        let Some(error) = refused else { return Ok(()) };
        let near = (size / step).max(1) * step;
        let help = match Painter::new(near) {
            Ok(_) => format!("use {near}: world and model take multiples of {step}"),
            Err(_) => {
                let most = SIDE * MOST_SIDES;
                format!("world and model would take multiples of {step}, and at most {most}")
            }
        };
        Err(error.advised(help).at(format!("--size {size}")))
    }

    /// Refuses what a model cannot make.
    ///
    /// # Errors
    /// As [`Request::check`], naming the flags of sizes.
    pub fn check(&self, request: &Request, model: &Model) -> Result<()> {
        request.check(model).map_err(|error| match error.code() {
            "E0901" => error.at(format!("--size {}", self.size)),
            "E0902" => error.at(format!("--frames {}", self.frames)),
            _ => error,
        })
    }

    /// What decides the clips that a model makes.
    pub fn about(&self) -> Map<String, Value> {
        let precision = self.precision.map(|name| Precision::from(name).name());
        let about = json!({
            "size": self.size, "frames": self.frames, "steps": self.steps, "shift": self.shift,
            "guidance": self.guidance, "solver": self.solver, "precision": precision,
        });
        about.as_object().cloned().unwrap_or_default()
    }
}

/// The smallest number that is a multiple of both.
fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut greatest, mut rest) = (a, b);
    while rest > 0 {
        (greatest, rest) = (rest, greatest % rest);
    }
    a / greatest.max(1) * b
}

/// How sets are drawn.
#[derive(Debug, Args)]
pub struct DrawArgs {
    #[command(flatten)]
    pub set: SetArgs,
    /// Which people: for training, for choosing among checkpoints, or for reports.
    #[arg(long, value_enum, default_value_t = SplitName::Train)]
    pub split: SplitName,
    /// The first of its people, counted from 0.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub first: u64,
    /// How many people there are to draw from.
    #[arg(long, value_name = "N", default_value_t = 4000, allow_negative_numbers = true)]
    pub groups: u64,
    /// Prompts that say all (absolute), or what the first reference does not show (differential), or
    /// the share of absolute ones, such as 0.15.
    #[arg(long, value_name = "KIND|SHARE", default_value = "0.15", value_parser = prompts,
        allow_hyphen_values = true)]
    pub prompts: f32,
}

fn references(text: &str) -> std::result::Result<(usize, usize), String> {
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse().ok();
    number(least).zip(number(most)).ok_or_else(|| "write 2, or 1-3".to_owned())
}

fn prompts(text: &str) -> std::result::Result<f32, String> {
    match text {
        "differential" => Ok(0.0),
        "absolute" => Ok(1.0),
        _ => {
            let wrong = "write differential, absolute, or a share of absolute ones such as 0.15";
            text.parse().map_err(|_| wrong.to_owned())
        }
    }
}

impl SetArgs {
    /// How sets of these groups are drawn.
    ///
    /// # Errors
    /// E0981 and E0986 for what cannot be drawn.
    pub fn sampling(&self, groups: Range<u64>) -> Result<Sampling> {
        let forms = |names: &[FormName]| names.iter().map(|name| (*name).into()).collect();
        let sampling = Sampling {
            clips: self.clips,
            references: self.references.0..=self.references.1,
            primary_forms: forms(&self.primary_forms),
            auxiliary_forms: forms(&self.forms),
            ..Sampling::new(groups)
        };
        sampling.check().map_err(|error| self.refused(error))?;
        Ok(sampling)
    }

    /// What decides the sets that are drawn, whoever they are of.
    pub fn about(&self) -> Map<String, Value> {
        let forms = |list: &[FormName]| -> Vec<&str> {
            list.iter().map(|name| ReferenceForm::from(*name).name()).collect()
        };
        let about = json!({
            "world": self.world.version.to_string(), "seed": self.seed, "clips": self.clips,
            "references": [self.references.0, self.references.1],
            "primary_forms": forms(&self.primary_forms), "forms": forms(&self.forms),
        });
        about.as_object().cloned().unwrap_or_default()
    }

    /// An error of how sets are drawn, with the flag that says it.
    fn refused(&self, error: anyid_world::Error) -> Error {
        let ((least, most), part) = (self.references, error.part());
        let coded = super::coded(error);
        match part {
            Some("clips") => coded.at(format!("--clips {}", self.clips)),
            Some("references") if least == most => coded.at(format!("--references {least}")),
            Some("references") => coded.at(format!("--references {least}-{most}")),
            Some("primary_forms") => coded.at("--primary-forms"),
            Some("auxiliary_forms") => coded.at("--forms"),
            _ => coded,
        }
    }
}

impl DrawArgs {
    /// The world that is drawn.
    pub fn world(&self) -> World {
        self.set.world.version
    }

    /// How the sets are drawn.
    ///
    /// # Errors
    /// E0981 for groups that there are not, E0986 for what else cannot be drawn.
    pub fn sampling(&self) -> Result<Sampling> {
        let split = Split::from(self.split);
        let place = format!("--first {} --groups {}", self.first, self.groups);
        let groups = split.some(self.first, self.groups).map_err(super::said(&place))?;
        let sampling = self.set.sampling(groups).map_err(|error| error.at(place))?;
        let sampling = Sampling { absolute: self.prompts, ..sampling };
        sampling.check().map_err(super::said(format!("--prompts {}", self.prompts)))?;
        Ok(sampling)
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "DIR/manifest.jsonl has a sample a line; `train` reads it with data.manifest. \
DIR/groups has a file for each person, an animated PNG that holds every pixel as it was painted. The \
folder appears when it is complete."
)]
pub struct Sample {
    #[command(flatten)]
    pub draw: DrawArgs,
    /// How many samples are drawn.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub count: u64,
    /// Pixels of a side, a multiple of 48 up to 1536.
    #[arg(long, value_name = "N", default_value_t = 48, allow_negative_numbers = true)]
    pub size: usize,
    /// What the targets are: clips, or single pictures of every form, as an autoencoder learns from.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = TargetKind::Clips)]
    pub targets: TargetKind,
    /// Also write what first and last frame of each target clip show, which a judge is trained on.
    #[arg(long)]
    pub shows: bool,
    /// The folder that is made.
    #[arg(short, long = "output", value_name = "DIR")]
    pub output: PathBuf,
    /// Replace a folder of samples that is there already.
    #[arg(long)]
    pub force: bool,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Sheet {
    #[command(flatten)]
    pub draw: DrawArgs,
    /// Show sets of a manifest of `world sample` instead of drawing some.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["split", "first", "groups", "clips",
        "seed", "references", "primary_forms", "forms", "prompts"])]
    pub manifest: Option<PathBuf>,
    /// How many sets are shown, one in a row.
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true)]
    pub count: u64,
    /// Pixels of a side of each frame, a multiple of 48 up to 1536.
    #[arg(long, value_name = "N", default_value_t = 96, allow_negative_numbers = true)]
    pub size: usize,
    /// White pixels between frames.
    #[arg(long, value_name = "N", default_value_t = 4, allow_negative_numbers = true)]
    pub gap: usize,
    /// The .png file to write.
    #[arg(short, long = "output", value_name = "OUT.png")]
    pub output: PathBuf,
    /// Replace what is there already.
    #[arg(long)]
    pub force: bool,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}
