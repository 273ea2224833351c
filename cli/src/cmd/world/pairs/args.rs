//! The flags of `world pairs`.

use crate::args::DeviceArgs;
use crate::cmd::world::args::SetArgs;
use crate::cmd::world::clips::{ClipArgs, WeightArgs};
use anyid_runtime::Result;
use anyid_world::{Sampling, Split};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// People that may be learned from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LearningSplit {
    Train,
    Validation,
}

impl From<LearningSplit> for Split {
    fn from(name: LearningSplit) -> Self {
        match name {
            LearningSplit::Train => Self::Train,
            LearningSplit::Validation => Self::Validation,
        }
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "The model makes two clips of each set from two seeds, and the judge reads first and \
last frame of both: how much of the person they show, and how much of what they should show besides. \
A pair is kept where one clip is worse in neither and better by --margin in the sum of both shares.\n\n\
DIR/manifest.jsonl has a pair a line; `train dpo` reads it with data.manifest. DIR/verdicts.jsonl has \
what the judge read in every clip: the same command goes on where it was stopped, and one with more \
sets adds them."
)]
pub struct Pairs {
    #[command(flatten)]
    pub set: SetArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// How many sets are drawn at most.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub sets: u64,
    /// Which people: for training, or for choosing among checkpoints.
    #[arg(long, value_enum, default_value_t = LearningSplit::Train)]
    pub split: LearningSplit,
    /// The first of its people, counted from 0.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub first: u64,
    /// How many people there are to draw from.
    #[arg(long, value_name = "N", default_value_t = 4000, allow_negative_numbers = true)]
    pub groups: u64,
    /// By how much the better clip has to be better, in the sum of the shares of both tracks.
    #[arg(long, value_name = "SHARE", default_value_t = 0.15, value_parser = margin,
        allow_negative_numbers = true)]
    pub margin: f64,
    /// Stop as soon as there are so many pairs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..),
        allow_negative_numbers = true)]
    pub enough: Option<u64>,
    #[command(flatten)]
    pub made: ClipArgs,
    #[command(flatten)]
    pub on: DeviceArgs,
    /// The folder that is made, or goes on.
    #[arg(short, long = "output", value_name = "DIR")]
    pub output: PathBuf,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}

fn margin(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().ok().filter(|margin| (0.0..=2.0).contains(margin));
    number.ok_or_else(|| "write a number from 0 to 2, such as 0.15".to_owned())
}

impl Pairs {
    /// How the sets are drawn: with differential prompts alone, as the method means it.
    ///
    /// # Errors
    /// E0981 for groups that there are not, E0986 for what else cannot be drawn.
    pub fn sampling(&self) -> Result<Sampling> {
        let groups = Split::from(self.split).some(self.first, self.groups);
        let sampling = self.set.sampling(groups.map_err(crate::cmd::world::coded)?)?;
        Ok(Sampling { absolute: 0.0, ..sampling })
    }
}
