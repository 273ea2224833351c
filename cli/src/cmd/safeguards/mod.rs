//! Safeguards on the command line: flags, policy files, and the verbs around them.
//!
//! A policy is joined from the system's file, the file of the environment variable
//! `ANYID_RT_POLICY`, that of `--policy`, and flags, in this order; behind a locked one nothing can be
//! weakened. What the settings mean is the business of the libraries.

pub mod audit;
pub mod consent;
pub mod policy;
pub mod watermark;

use anyid_runtime::Result;
use anyid_runtime::places::Places;
use anyid_runtime::safeguards::Safeguards;
use anyid_runtime::safeguards::policy::{Consent, FrameCheck, Layer, Mark, Policy, SYSTEM};
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The environment variable that names a policy.
const VARIABLE: &str = "ANYID_RT_POLICY";

/// Flags of everything that safeguards are about.
#[derive(Clone, Debug, Default, Args)]
pub struct SafeguardArgs {
    /// A policy (TOML): which safeguards are on [default: the environment variable
    /// ANYID_RT_POLICY].
    #[arg(long, value_name = "FILE", help_heading = "Safeguards")]
    pub policy: Option<PathBuf>,
    /// Do not look for rules in the prompt, except for the one that is always in force.
    #[arg(long, help_heading = "Safeguards")]
    pub no_text_filter: bool,
    /// Invisible watermark in results of 128x128 pixels and more [default: normal].
    #[arg(long, value_enum, value_name = "STRENGTH", help_heading = "Safeguards")]
    pub watermark: Option<MarkName>,
    /// A private key of the watermark [default: the published one].
    #[arg(long, value_name = "FILE", help_heading = "Safeguards")]
    pub watermark_key: Option<PathBuf>,
    /// What happens if no consent record covers a reference [default: warn].
    #[arg(long, value_enum, value_name = "MODE", help_heading = "Safeguards")]
    pub consent: Option<ConsentName>,
    /// Folders of consent records [default: consents].
    #[arg(long, value_name = "DIR", num_args = 1.., help_heading = "Safeguards")]
    pub consents: Vec<PathBuf>,
    /// Whether frames are checked; this program has no model that could [default: auto].
    #[arg(long, value_enum, value_name = "MODE", help_heading = "Safeguards")]
    pub frame_check: Option<FrameCheckName>,
}

/// Strength of the watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MarkName {
    /// No mark.
    Off,
    /// Faint: less than what was measured.
    Light,
    /// As measured.
    Normal,
    /// Stronger; may be seen in flat areas.
    Strong,
}

/// What happens without consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConsentName {
    /// Nothing is said.
    Off,
    /// A line is printed.
    Warn,
    /// Nothing is made.
    Require,
}

/// Whether frames are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FrameCheckName {
    /// No.
    Off,
    /// If there is a model.
    Auto,
    /// Nothing is made without.
    Require,
}

impl From<MarkName> for Mark {
    fn from(name: MarkName) -> Self {
        match name {
            MarkName::Off => Self::Off,
            MarkName::Light => Self::Light,
            MarkName::Normal => Self::Normal,
            MarkName::Strong => Self::Strong,
        }
    }
}

impl From<ConsentName> for Consent {
    fn from(name: ConsentName) -> Self {
        match name {
            ConsentName::Off => Self::Off,
            ConsentName::Warn => Self::Warn,
            ConsentName::Require => Self::Require,
        }
    }
}

impl From<FrameCheckName> for FrameCheck {
    fn from(name: FrameCheckName) -> Self {
        match name {
            FrameCheckName::Off => Self::Off,
            FrameCheckName::Auto => Self::Auto,
            FrameCheckName::Require => Self::Require,
        }
    }
}

impl SafeguardArgs {
    /// One layer for each flag, so that a refusal names it.
    fn layers(&self) -> Vec<Layer> {
        let mut layers = Vec::new();
        let mut add = |flag: &str, fill: &dyn Fn(&mut Layer)| {
            let mut layer = Layer::flag(flag);
            fill(&mut layer);
            layers.push(layer);
        };
        if self.no_text_filter {
            add("--no-text-filter", &|layer| layer.text.filter = Some(false));
        }
        if let Some(mark) = self.watermark {
            add("--watermark", &|layer| layer.watermark.strength = Some(mark.into()));
        }
        if let Some(key) = &self.watermark_key {
            add("--watermark-key", &|layer| layer.watermark.key = Some(key.clone()));
        }
        if let Some(mode) = self.consent {
            add("--consent", &|layer| layer.consent.mode = Some(mode.into()));
        }
        if !self.consents.is_empty() {
            add("--consents", &|layer| layer.consent.folders = Some(self.consents.clone()));
        }
        if let Some(mode) = self.frame_check {
            add("--frame-check", &|layer| layer.frames.check = Some(mode.into()));
        }
        layers
    }

    /// The files that are read.
    pub fn add_places(&self, places: &mut Places) {
        for (flag, path) in [("--policy", &self.policy), ("--watermark-key", &self.watermark_key)] {
            if let Some(path) = path {
                places.reads(flag, path);
            }
        }
    }

    /// The policy in force.
    ///
    /// # Errors
    /// As [`Layer::read`] and [`Policy::of`].
    pub fn policy(&self) -> Result<Policy> {
        let mut layers = Vec::new();
        let system = Path::new(SYSTEM);
        let named = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        let files = system.exists().then(|| system.to_owned()).into_iter().chain(named);
        for path in files.chain(self.policy.clone()) {
            layers.push(Layer::read(&path)?);
        }
        layers.extend(self.layers());
        Policy::of(&layers)
    }

    /// What the policy in force names.
    ///
    /// # Errors
    /// As [`Self::policy`] and [`Safeguards::open`].
    pub fn open(&self) -> Result<Safeguards> {
        Safeguards::open(self.policy()?, audit_log())
    }
}

/// The state folder of the user.
fn state_folder() -> Option<PathBuf> {
    let variable = |name: &str| -> Option<OsString> {
        std::env::var_os(name).filter(|value| Path::new(value).is_absolute())
    };
    let state = variable("XDG_STATE_HOME").map(PathBuf::from);
    let home = || Some(Path::new(&variable("HOME")?).join(".local/state"));
    Some(state.or_else(home)?.join("anyid-rt"))
}

/// Where the audit log is unless a policy says.
pub fn audit_log() -> Option<PathBuf> {
    state_folder().map(|folder| folder.join("audit.jsonl"))
}
