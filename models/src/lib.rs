//! The networks of anyid-rt as graph builders, their configurations and tensor names.
//!
//! Builders make level-1 modules for any sizes of the Wan2.2 classes; nothing is wired to the
//! numbers of the 5B model. This crate knows no files, devices or runtime.

pub mod wan;
