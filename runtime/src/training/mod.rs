//! Training as users meet it: from a manifest of clips to an adapter.
//!
//! [`Settings`] say what is wanted, a [`Dataset`] is what the manifest comes to after everything was
//! checked and encoded. Networks, gradients and the optimiser are modules of the IR; what is decided
//! here is which sample comes when, with which noise, and what is kept so that a run can go on.

pub mod about;
mod alarms;
mod best;
mod cache;
mod cause;
mod checkpoint;
mod classification;
mod dataset;
mod degrade;
mod denoising;
mod draws;
mod encode;
mod faults;
mod first;
mod fitting;
mod group;
mod identity;
mod judging;
mod labels;
mod learner;
mod log;
mod manifest;
mod memory;
mod network;
mod objective;
mod optimise;
mod outlook;
mod parameters;
mod prepare;
mod reconstruction;
mod request;
mod result;
mod rules;
mod run;
mod samples;
mod schedule;
mod settings;
mod sources;
mod stages;
mod statistics;
mod targets;

pub use anyid_files::manifest::Field;
pub use checkpoint::lock;
pub use dataset::{Condition, Dataset, Item};
pub use faults::Fault;
pub use identity::Alike;
pub use judging::Right;
pub use memory::Memory;
pub use outlook::{GOES_ON, LevelRow, Outlook, Shape, Sheet};
pub use parameters::Kind;
pub use prepare::Preparation;
pub use request::{Again, Report, Training, model, stands};
pub use rules::{GroupSettings, Method};
pub use schedule::Schedule;
pub use settings::{
    DataSettings, DpoSettings, Draws, Fresh, LoraSettings, LossWeight, ModelSettings, RunSettings,
    Settings, TrainSettings, TrainedNetwork, VideoSettings,
};
pub use sources::Override;
pub use stages::{Gate, Measured, StageEvent, StageReport, Stages};

use crate::error::{Error, Result, unreadable};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a run reports while it works.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A problem that does not stop the run.
    Warning(String),
    /// Something to know that is no problem of the run.
    Noted(String),
    /// Files of the manifest that were looked at, and in total.
    Checked {
        /// Lines done.
        done: usize,
        /// Lines in all.
        total: usize,
    },
    /// Everything is ready for the first update.
    Begun {
        /// Numbers that are trained.
        parameters: u64,
        /// Samples or pairs.
        samples: usize,
        /// What they are called: `sample` or `pair`.
        unit: &'static str,
        /// What the run holds from here on.
        memory: Memory,
        /// Updates that were made before.
        updates: u64,
        /// Updates in all.
        total: u64,
    },
    /// An update was made.
    Updated {
        /// Which, from 1.
        step: u64,
        /// Updates in all.
        total: u64,
        /// Mean loss of its batch.
        loss: f64,
        /// Norm of its gradient.
        norm: f64,
        /// Time that the rest will take.
        left: Duration,
    },
    /// The validation set was measured.
    Measured {
        /// Updates that were made.
        step: u64,
        /// Mean loss.
        loss: f64,
        /// That of the untrained model.
        base: f64,
    },
    /// A checkpoint was written.
    Saved {
        /// Updates that were made.
        step: u64,
    },
    /// A video was made of a sample.
    Sampled {
        /// Updates that were made.
        step: u64,
        /// Where it is.
        path: PathBuf,
    },
    /// A judge read these videos.
    Judged {
        /// Updates that were made.
        step: u64,
        /// What it read as it should be.
        right: Right,
    },
    /// Faces of these videos were compared with those of their references.
    Compared {
        /// Updates that were made.
        step: u64,
        /// How alike they are.
        alike: Alike,
    },
    /// Clips and prompts that were encoded, and in total.
    Encoded {
        /// Done.
        done: usize,
        /// In all.
        total: usize,
    },
}

/// A text file of at most `limit` bytes, without a mark of the byte order.
///
/// # Errors
/// E0911 where it cannot be read, or is no such file.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read_bytes(path, limit)?).map_err(|_| {
        Error::input("E0911", "the file is not UTF-8 text")
            .at(path.display())
            .help("save it as UTF-8")
    })
}

/// As [`read_text`], of text that may not be UTF-8 everywhere.
///
/// # Errors
/// E0911 where it cannot be read.
pub fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = crate::input::read(path, limit).map_err(|refusal| {
        let large = |limit: u64| {
            Error::input("E0911", format!("the file holds more than {limit} bytes"))
                .help("give a smaller file")
        };
        refusal.coded(path, |fault| unreadable(path, fault), large)
    })?;
    // Some editors put a mark of the byte order in front, which is not part of the text.
    if bytes.starts_with("\u{feff}".as_bytes()) {
        bytes.drain(.."\u{feff}".len());
    }
    Ok(bytes)
}
