//! The benchmark: how well systems keep a person's identity and follow a prompt (`evaluation.md`).
//!
//! [`set`] looks at an evaluation set, [`cases`] draws cases of it, and [`run`] scores the videos that
//! [`systems`] made of them: faces ([`identity`]), what has to be kept ([`elements`]), and what a model
//! that looks at frames says ([`vlm`]). What came of a case is a file ([`raw`]); [`statistics`],
//! [`report`], [`diff`] and [`gate`] read only those. Nothing here makes a video, knows a device or a
//! terminal.

pub mod cases;
pub mod diff;
pub mod elements;
pub mod footage;
pub mod gate;
pub mod identity;
pub mod raw;
pub mod report;
pub mod run;
pub mod set;
pub mod settings;
pub mod statistics;
pub mod summary;
pub mod systems;
#[cfg(test)]
mod testing;
pub mod vlm;

pub use anyid_files::{Error, Kind, Result};
