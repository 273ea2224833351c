//! From a folder of videos to samples that a training reads, and to prompts that say what changes.
//!
//! [`stages`] runs the steps one by one or all together; each reads lines of JSON and writes lines of
//! JSON (`records`). Pictures and clips are decoded by `anyid-files`. Nothing here knows a network of
//! the product, a device or a terminal; models that detect faces are the user's own files.

pub mod check;
pub mod detect;
pub mod doctor;
#[cfg(feature = "curate")]
pub mod encode;
pub mod face;
pub mod filter;
pub mod geometry;
pub mod group;
pub mod lines;
pub mod materialize;
#[cfg(feature = "curate")]
mod model;
pub mod moderation;
pub mod picture;
pub mod pool;
pub mod prompt;
pub mod random;
pub mod records;
pub mod report;
pub mod sample;
pub mod settings;
pub mod shots;
mod shrink;
pub mod stages;
#[cfg(test)]
mod testing;
#[cfg(all(test, feature = "curate"))]
#[path = "../tests/tiny_onnx/mod.rs"]
mod tiny_onnx;
pub mod videoseal;

pub use anyid_files::{Error, Kind, Result};
