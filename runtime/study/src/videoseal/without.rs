//! The interface of `networks` in a program that runs none.

use super::Settings;
use crate::picture::Plane;
use anyid_files::media::RgbFrame;
use anyid_files::{Error, Result};
use std::path::Path;

/// Networks that put marks into frames: none can be opened.
#[derive(Debug)]
pub enum Networks {}

impl Networks {
    /// Refuses.
    ///
    /// # Errors
    /// E1209.
    pub fn open(path: &Path) -> Result<Self> {
        let what = "this program was built without networks that put marks into frames";
        Err(Error::input("E1209", what)
            .at(path.display())
            .help("build it with `--features curate`, or use one of the program's own strengths"))
    }

    /// What was read.
    pub fn settings(&self) -> &Settings {
        match *self {}
    }

    /// Makes a difference.
    ///
    /// # Errors
    /// None: there is no such value.
    pub fn delta(&self, _: &RgbFrame, _: &[bool]) -> Result<Plane> {
        match *self {}
    }

    /// Reads bits.
    ///
    /// # Errors
    /// None: there is no such value.
    pub fn bits(&self, _: &RgbFrame) -> Result<Vec<f32>> {
        match *self {}
    }
}
