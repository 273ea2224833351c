//! People compare videos: pairs for preference tuning, and blind studies of systems.
//!
//! A [`Project`] is a folder with a database and the media that are shown. [`import`] puts matchups
//! into it, [`server`] asks people about them, and [`export`] and [`study`] say what came out. The
//! rules and statistics ([`rule`], [`agreement`], [`rates`]) are functions of plain values. Nothing
//! here knows a network, a device or the terminal, and nothing leaves the machine.

pub mod agreement;
mod answers;
mod assign;
mod check;
pub mod export;
pub mod import;
mod media;
mod people;
mod project;
pub mod quality;
mod random;
pub mod rates;
pub mod rule;
pub mod server;
pub mod status;
pub mod study;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod votes;

use anyid_files::table;
pub use assign::{Item, Progress};
pub use people::{Person, Role};
pub use project::{Kind, Project, Settings};
pub use votes::{Ballot, Told};

/// A question of a track, in the order in which they are asked.
pub const QUESTIONS: [&str; 4] = ["identity", "element", "prompt", "quality"];

/// A track: a way of being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Track {
    /// Which video keeps the person; without the prompt.
    Identity,
    /// Which video follows the prompt.
    Prompt,
    /// All questions of a study.
    Study,
}

impl Track {
    /// The two tracks of annotation.
    pub const ANNOTATION: [Self; 2] = [Self::Identity, Self::Prompt];

    /// Its name in paths, files and the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Prompt => "prompt",
            Self::Study => "study",
        }
    }

    /// The track of a name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Identity, Self::Prompt, Self::Study].into_iter().find(|track| track.name() == name)
    }

    /// The questions that are asked; the one about elements only where some are kept.
    pub fn questions(self, keeps: bool) -> Vec<&'static str> {
        match self {
            Self::Identity => vec!["identity"],
            Self::Prompt => vec!["prompt"],
            Self::Study => {
                QUESTIONS.into_iter().filter(|question| keeps || *question != "element").collect()
            }
        }
    }
}
