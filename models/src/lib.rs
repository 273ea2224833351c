//! The networks of anyid-rt as graph builders, their configurations and tensor names.
//!
//! Builders make level-1 modules for any sizes of the Wan2.2 classes; the numbers of the 5B model
//! are not hard-wired. This crate knows no files, devices or runtime.

pub mod builtin;
pub mod classes;
pub mod judge;
pub mod optimiser;
pub mod wan;
