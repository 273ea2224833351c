//! Safeguards on the command line: flags, policy files, and the verbs around them.
//!
//! A policy is joined from the system's file, the file of the environment variable
//! `ANYID_RT_POLICY`, that of `--policy`, and flags, in this order; behind a locked one nothing can be
//! weakened. What the settings mean is the business of the libraries.

pub mod audit;
pub mod consent;
pub mod policy;
pub mod provenance;
pub mod verify;
pub mod watermark;

use crate::render;
use anyid_runtime::Result;
use anyid_runtime::places::Places;
use anyid_runtime::safeguards::consent::Scope;
use anyid_runtime::safeguards::models::Llm;
use anyid_runtime::safeguards::policy::{Consent, FrameCheck, Layer, Mark, Policy, SYSTEM};
use anyid_runtime::safeguards::provenance::{Sign, Signer};
use anyid_runtime::safeguards::{Entry, LOG, Safeguards, output_hash, unless_locked};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The environment variable that names a policy.
const VARIABLE: &str = "ANYID_RT_POLICY";

/// Flags of the policy, and of what both results and training are about.
#[derive(Clone, Debug, Default, Args)]
pub struct PolicyArgs {
    /// A policy (TOML): which safeguards are on [default: the environment variable
    /// ANYID_RT_POLICY].
    #[arg(long, value_name = "FILE", help_heading = "Safeguards")]
    pub policy: Option<PathBuf>,
    /// What happens if no consent record covers a picture or clip of a person [default: warn, and require
    /// to train on a set with data.private].
    #[arg(long, value_enum, value_name = "MODE", help_heading = "Safeguards")]
    pub consent: Option<ConsentName>,
    /// Folders of consent records [default: consents].
    #[arg(long, value_name = "DIR", num_args = 1.., help_heading = "Safeguards")]
    pub consents: Vec<PathBuf>,
}

/// Flags of everything that safeguards are about.
#[derive(Clone, Debug, Default, Args)]
pub struct SafeguardArgs {
    #[command(flatten)]
    pub common: PolicyArgs,
    /// Do not look for rules in the prompt, except for the one that is always in force.
    #[arg(long, help_heading = "Safeguards")]
    pub no_text_filter: bool,
    /// A server whose language model looks at the prompt too: a file (TOML) with the keys of
    /// [moderation.llm] of a policy. It gets texts alone.
    #[arg(long, value_name = "PROFILE", help_heading = "Safeguards")]
    pub moderation_llm: Option<PathBuf>,
    /// Invisible watermark in results of 128x128 pixels and more [default: normal].
    #[arg(long, value_enum, value_name = "STRENGTH", help_heading = "Safeguards")]
    pub watermark: Option<MarkName>,
    /// A private key of the watermark [default: the published one].
    #[arg(long, value_name = "FILE", help_heading = "Safeguards")]
    pub watermark_key: Option<PathBuf>,
    /// Whether frames are looked at by the models that the policy names [default: auto].
    #[arg(long, value_enum, value_name = "MODE", help_heading = "Safeguards")]
    pub frame_check: Option<FrameCheckName>,
    /// Have results signed: ephemeral (by a new key for each), local (by the key of this installation),
    /// pem:CHAIN.pem,KEY.pem or command:PROGRAM [default: ephemeral, if this program can sign].
    #[arg(long, value_name = "SIGNER", help_heading = "Safeguards")]
    pub signer: Option<Signer>,
    /// Do not sign results.
    #[arg(long, conflicts_with = "signer", help_heading = "Safeguards")]
    pub no_provenance: bool,
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
    /// By the networks that the policy names.
    #[value(name = "videoseal")]
    VideoSeal,
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
            MarkName::VideoSeal => Self::VideoSeal,
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

/// A layer of one flag, so that a refusal names it.
fn layer(flag: &str, fill: impl Fn(&mut Layer)) -> Layer {
    let mut layer = Layer::flag(flag);
    fill(&mut layer);
    layer
}

impl PolicyArgs {
    /// The layers of the flags; those for training hold for private sets as well.
    fn layers(&self, training: bool) -> Vec<Layer> {
        let mode = self.consent.map(|mode| {
            layer("--consent", |layer| {
                layer.consent.mode = Some(mode.into());
                layer.consent.private = training.then_some(mode.into());
            })
        });
        let folders = (!self.consents.is_empty()).then(|| {
            layer("--consents", |layer| layer.consent.folders = Some(self.consents.clone()))
        });
        mode.into_iter().chain(folders).collect()
    }

    /// The policy of files and `flags`.
    fn joined(&self, flags: Vec<Layer>) -> Result<Policy> {
        let mut layers = Vec::new();
        let system = Path::new(SYSTEM);
        let named = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        // One that is there and cannot be seen is not one that is missing: reading it will fail.
        let there = system.try_exists().unwrap_or(true);
        let files = there.then(|| system.to_owned()).into_iter().chain(named);
        for path in files.chain(self.policy.clone()) {
            layers.push(Layer::read(&path)?);
        }
        layers.extend(flags);
        Policy::of(&layers)
    }

    /// What the policy in force names that concerns training.
    ///
    /// # Errors
    /// As [`SafeguardArgs::policy`] and [`Safeguards::open`].
    pub fn for_training(&self) -> Result<Safeguards> {
        Safeguards::open(self.joined(self.layers(true))?, state_folder(), Scope::Train)
    }
}

impl SafeguardArgs {
    fn layers(&self) -> Result<Vec<Layer>> {
        let mut layers = self.common.layers(false);
        let llm = self.moderation_llm.as_deref().map(Llm::read).transpose()?;
        let mut add = |flag: &str, fill: &dyn Fn(&mut Layer)| layers.push(layer(flag, fill));
        if self.no_text_filter {
            add("--no-text-filter", &|layer| layer.text.filter = Some(false));
        }
        if llm.is_some() {
            add("--moderation-llm", &|layer| layer.moderation.llm.clone_from(&llm));
        }
        if let Some(mark) = self.watermark {
            add("--watermark", &|layer| layer.watermark.strength = Some(mark.into()));
        }
        if let Some(key) = &self.watermark_key {
            add("--watermark-key", &|layer| layer.watermark.key = Some(key.clone()));
        }
        if let Some(mode) = self.frame_check {
            add("--frame-check", &|layer| layer.frames.check = Some(mode.into()));
        }
        if let Some(signer) = &self.signer {
            add("--signer", &|layer| {
                layer.provenance.sign = Some(Sign::Require);
                layer.provenance.set_signer(signer);
            });
        }
        if self.no_provenance {
            add("--no-provenance", &|layer| layer.provenance.sign = Some(Sign::Off));
        }
        Ok(layers)
    }

    /// The files that are read.
    pub fn add_places(&self, places: &mut Places) {
        let policy = &self.common.policy;
        let read = [
            ("--policy", policy),
            ("--watermark-key", &self.watermark_key),
            ("--moderation-llm", &self.moderation_llm),
        ];
        for (flag, path) in read {
            if let Some(path) = path {
                places.reads(flag, path);
            }
        }
        if let Some(Signer::Pem { certificates, key }) = &self.signer {
            places.reads("--signer", certificates);
            places.reads("--signer", key);
        }
    }

    /// The policy in force.
    ///
    /// # Errors
    /// As [`Layer::read`], [`Llm::read`] and [`Policy::of`].
    pub fn policy(&self) -> Result<Policy> {
        self.common.joined(self.layers()?)
    }

    /// What the policy in force names that concerns results.
    ///
    /// # Errors
    /// As [`Self::policy`] and [`Safeguards::open`].
    pub fn open(&self) -> Result<Safeguards> {
        Safeguards::open(self.policy()?, state_folder(), Scope::Generate)
    }
}

/// Writes down in the log of the policy that files or the environment name what was done by a verb that
/// has no flags for it.
///
/// # Errors
/// Those of the policy; those of the log if the policy is locked, and else they are told.
pub fn write_down(event: &'static str, members: Value) -> Result<()> {
    let policy = SafeguardArgs::default().policy()?;
    let more = match members {
        Value::Object(more) => more,
        _ => Map::new(),
    };
    let log = policy.audit_log(audit_log());
    let kept = log.and_then(|log| match log {
        Some(log) => log.append(&Entry { event, decision: "allow", more }, SystemTime::now()),
        None => Ok(()),
    });
    unless_locked(kept, &policy)?.iter().for_each(|warning| render::warn(warning));
    Ok(())
}

/// Writes down that a model or an adapter was written in another form.
///
/// # Errors
/// As [`write_down`], and E0911 if it cannot be read.
pub fn write_down_export(verb: &str, output: &Path) -> Result<()> {
    write_down("export", json!({ "what": verb, "output_sha256": output_hash(output)? }))
        .map_err(|error| error.also(format!("the result is complete: {}", output.display())))
}

/// The state folder of the user.
pub fn state_folder() -> Option<PathBuf> {
    let variable = |name: &str| -> Option<OsString> {
        std::env::var_os(name).filter(|value| Path::new(value).is_absolute())
    };
    let state = variable("XDG_STATE_HOME").map(PathBuf::from);
    let home = || Some(Path::new(&variable("HOME")?).join(".local/state"));
    Some(state.or_else(home)?.join("anyid-rt"))
}

/// Where the audit log is unless a policy says.
pub fn audit_log() -> Option<PathBuf> {
    state_folder().map(|folder| folder.join(LOG))
}
