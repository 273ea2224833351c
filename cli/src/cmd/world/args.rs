//! The flags of `world`, declared once.

use super::eval::args::Eval;
use super::make::args::{Make, Pack};
use super::pairs::args::Pairs;
use crate::cmd::generate::args::FormatName;
use anyid_runtime::{Error, Result};
use anyid_world::{ReferenceForm, Sampling, Split, World};
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
    /// Store the model of a folder of `world make` small: weights in f16, with its recipe.
    #[command(disable_version_flag = true)]
    Pack(Pack),
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
            Self::Pack(args) => args.json,
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
    /// Number of threads that paint; 0 uses all that the processor has. The result does not depend on it.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub threads: usize,
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
