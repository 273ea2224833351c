//! The interface of `adapter` in a program that runs no models.

use super::Settings;
use anyid_files::media::RgbFrame;
use anyid_files::{Error, Result};

/// What looks at pictures: nothing, as none can be opened.
#[derive(Debug)]
pub enum Checker {}

impl Checker {
    /// Refuses.
    ///
    /// # Errors
    /// E1110.
    pub fn open(_: Settings) -> Result<Self> {
        let what = "this program was built without models that look at frames";
        Err(Error::input("E1110", what)
            .help("build with `--features moderation`, or leave `models` out of the policy"))
    }

    /// What was read.
    pub fn settings(&self) -> &Settings {
        match *self {}
    }

    /// Looks at a picture.
    ///
    /// # Errors
    /// None: there is no such value.
    pub fn value(&self, _: &RgbFrame) -> Result<f64> {
        match *self {}
    }
}
