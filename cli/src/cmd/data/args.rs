//! The flags of `data`, declared once.

use anyid_runtime::shard::Shard;
use anyid_runtime::study::settings::Settings;
use anyid_runtime::study::stages::{Job, Stage};
use anyid_runtime::{Error, Result};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// The steps from videos to samples.
#[derive(Debug, Subcommand)]
pub enum DataVerb {
    /// List the videos of a folder: size, rate, frames, hash.
    Index(Work),
    /// Find where videos cut.
    Shots(Work),
    /// Find faces and persons at sampled frames, and measure them.
    Detect(Work),
    /// Say which clips may be used, and why others may not.
    Filter(Work),
    /// Put the clips of a person together.
    Group(Group),
    /// Read what users say of their clips (NAME.aspects.toml beside a video).
    Describe(Work),
    /// Draw samples to train with: targets, references, prompts.
    Sample(Sample),
    /// Do all of these, from videos to samples.
    All(Work),
    /// Put the parts of a step together that several machines made.
    Merge(Merge),
    /// Write a page on what came of the videos: gates, distributions, reachable references.
    Report(Report),
    /// Check a file of lines: fields, paths, ranges, and whether parts lie in their clips.
    Check(Check),
}

/// A step, where it reads and writes.
#[derive(Clone, Debug, Args)]
pub struct Work {
    /// The folder of the videos, or the lines of the step before.
    #[arg(long = "in", value_name = "DIR|FILE")]
    pub input: PathBuf,
    /// The folder of the videos, where --in is a file.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// The folder of results.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Settings (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// This part of the work, such as 3/16. Without it, variables of Slurm, MPI, Kubernetes or
    /// torchrun say it.
    #[arg(long, value_name = "K/N")]
    pub shard: Option<String>,
    /// Number of parts, where the launcher does not say it.
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
    /// Share the work of a step with other processes by leases in this folder, file by file; all of them
    /// write to the same OUT.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["shard", "shards"])]
    pub claim: Option<PathBuf>,
    /// Threads. Results do not depend on them.
    #[arg(long, value_name = "T")]
    pub threads: Option<usize>,
    /// Make again what was made with other settings or from other files.
    #[arg(long)]
    pub redo: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Steps whose parts are put together.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StageName {
    /// The list of videos.
    Index,
    /// The shots.
    Shots,
    /// The detections.
    Detect,
    /// The clips.
    Filter,
}

impl From<StageName> for Stage {
    fn from(name: StageName) -> Self {
        match name {
            StageName::Index => Self::Index,
            StageName::Shots => Self::Shots,
            StageName::Detect => Self::Detect,
            StageName::Filter => Self::Filter,
        }
    }
}

/// Clips that are put together.
#[derive(Clone, Debug, Args)]
pub struct Group {
    /// Where they are.
    #[command(flatten)]
    pub work: Work,
    /// Put nothing together, and say from which cosine on faces are one person, by pairs of which it is
    /// known: lines `path,path,1` for one person and `path,path,0` for two.
    #[arg(long, value_name = "FILE")]
    pub calibrate: Option<PathBuf>,
}

/// Samples that are drawn.
#[derive(Clone, Debug, Args)]
pub struct Sample {
    /// Where they are.
    #[command(flatten)]
    pub work: Work,
    /// Cut the targets and references of all samples out into this folder as well, as MP4 and PNG files
    /// with a manifest of their own.
    #[arg(long, value_name = "DIR")]
    pub materialize: Option<PathBuf>,
    /// Cut out the first N samples alone.
    #[arg(long, value_name = "N", requires = "materialize")]
    pub first: Option<usize>,
}

/// Parts that are put together.
#[derive(Debug, Args)]
pub struct Merge {
    /// The step.
    #[arg(value_name = "STEP")]
    pub stage: StageName,
    /// The folder of results.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A page on the results.
#[derive(Debug, Args)]
pub struct Report {
    /// The folder of results, where report.json, report.md and report.html are written.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The folder of the videos, for pictures in the page.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Show faces; they are blurred otherwise.
    #[arg(long)]
    pub show_faces: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A file that is checked.
#[derive(Debug, Args)]
pub struct Check {
    /// The file of lines.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The clips that its parts must lie in (clips.jsonl).
    #[arg(long, value_name = "FILE")]
    pub clips: Option<PathBuf>,
    /// The folder below which the files that it names must be.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

impl DataVerb {
    /// Whether JSON is printed.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Index(work)
            | Self::Shots(work)
            | Self::Detect(work)
            | Self::Filter(work)
            | Self::Describe(work)
            | Self::All(work) => work.json,
            Self::Sample(args) => args.work.json,
            Self::Group(args) => args.work.json,
            Self::Merge(args) => args.json,
            Self::Report(args) => args.json,
            Self::Check(args) => args.json,
        }
    }
}

impl Work {
    /// What is to be done, and who said which part of it.
    ///
    /// # Errors
    /// E1201 for the settings, E1307 for the part, E0911.
    pub fn job(&self) -> Result<(Job, Option<&'static str>)> {
        let settings = match &self.config {
            Some(path) => Settings::open(path)?,
            None => Settings::default(),
        };
        let variable = |name: &str| std::env::var(name).ok();
        let (shard, source) = match self.claim {
            Some(_) => (Shard::WHOLE, None),
            None => Shard::find(self.shard.as_deref(), self.shards, &variable)?,
        };
        let lines = self.input.is_file().then(|| self.input.clone());
        let root = match (&self.root, &lines) {
            (Some(root), _) => root.clone(),
            (None, None) => self.input.clone(),
            (None, Some(_)) => {
                return Err(Error::input("E0900", "nothing says where the videos are")
                    .at("--root")
                    .help("--in is a file: name the folder of the videos with --root"));
            }
        };
        let threads = self.threads.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        });
        let (out, redo) = (self.out.clone(), self.redo);
        Ok((Job { root, lines, out, settings, shard, threads: threads.max(1), redo }, source))
    }
}
