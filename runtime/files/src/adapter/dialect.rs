//! The dialects of adapters: what they are called, and by what one recognises them.

use std::fmt;
use std::str::FromStr;

use super::modules::Prefix;
use crate::error::{Error, Result};

/// A way of writing adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `diffusion_model.` and original names, with an alpha for each module.
    ComfyUi,
    /// Original names with `.default.`; there is no alpha, the factors are scaled.
    DiffSynth,
    /// `transformer.` and diffusers names; alpha in the header.
    Diffusers,
    /// A folder with `adapter_config.json`.
    Peft,
    /// `lora_unet_` and names with underscores, as kohya's trainers and musubi-tuner write them.
    Musubi,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::ComfyUi, Self::DiffSynth, Self::Diffusers, Self::Peft, Self::Musubi];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ComfyUi => "comfyui",
            Self::DiffSynth => "diffsynth",
            Self::Diffusers => "diffusers",
            Self::Peft => "peft",
            Self::Musubi => "musubi",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dialect {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|dialect| dialect.name()).collect();
            Error::input("E0374", format!("there is no dialect \"{name}\""))
                .help(format!("the dialects are {}", names.join(", ")))
        })
    }
}

/// The dialect that kinds of prefixes and ways of spelling show; `header` says whether the file has
/// the header of diffusers.
pub(super) fn recognised(spellings: &[(Prefix, &'static str)], header: bool) -> Option<Dialect> {
    let first = |wanted: Prefix| spellings.iter().any(|(prefix, _)| *prefix == wanted);
    if first(Prefix::Peft) {
        Some(Dialect::Peft)
    } else if spellings.iter().any(|(_, way)| *way == "default") {
        Some(Dialect::DiffSynth)
    } else if first(Prefix::Underscored) {
        Some(Dialect::Musubi)
    } else if first(Prefix::Transformer) || header {
        Some(Dialect::Diffusers)
    } else if first(Prefix::Plain) {
        Some(Dialect::ComfyUi)
    } else {
        None
    }
}
