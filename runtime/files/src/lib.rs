//! Files of anyid-rt: what a user names is read here, and what a run makes is written here.
//!
//! Checkpoints, pictures and clips, bounded reading of everything else, results that appear whole
//! or not at all, and the coded [`Error`] of every library call. Nothing here knows an engine, a
//! pass, a device or the meaning of a tensor; the runtime above joins files with networks.

pub mod adapter;
pub mod checkpoint;
pub mod error;
pub mod input;
pub mod manifest;
pub mod markup;
pub mod media;
pub mod output;
pub mod places;
pub mod resample;
pub mod shard;
pub mod table;
#[cfg(test)]
mod testing;
mod threads;

pub use error::{Error, Kind, Result};
