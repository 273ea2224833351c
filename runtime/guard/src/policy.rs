//! Which safeguards are on, and who may change that.
//!
//! A policy is made of layers: the program's defaults, files, and flags. A later layer overrides an
//! earlier one, until a layer is locked; from then on layers may only tighten, and one that would
//! weaken is an error. A file counts as locked only if whoever runs the program cannot change it.

use crate::audit::AuditLog;
use crate::models::{Faces, Llm, OnError};
use crate::provenance::{Provenance, ProvenanceLayer, Sign};
use crate::signature::SecretKey;
use crate::watermark::Strength;
use anyid_files::error::{Error, Result, unreadable};
use anyid_files::input;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::fmt;
use std::path::{Path, PathBuf};

/// The file that is read first, if it is there.
pub const SYSTEM: &str = "/etc/anyid-rt/policy.toml";
const LARGEST: u64 = 1 << 20;

/// Whether results are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// No mark.
    Off,
    /// Faint.
    Light,
    /// As measured.
    Normal,
    /// Stronger than usual.
    Strong,
    /// By networks of the user's, which only they find again.
    VideoSeal,
}

/// Later ones are stricter, but for marks of another kind, which whoever looks for the one does not
/// find.
impl PartialOrd for Mark {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let rank = |mark: &Self| match mark {
            Self::Off => 0,
            Self::Light => 1,
            Self::Normal => 2,
            Self::Strong | Self::VideoSeal => 3,
        };
        let own = [self, other].map(|mark| *mark == Self::VideoSeal);
        let one_is_off = *self == Self::Off || *other == Self::Off;
        (own[0] == own[1] || one_is_off).then(|| rank(self).cmp(&rank(other)))
    }
}

impl Mark {
    /// How strong, if it is the program's own kind.
    pub fn strength(self) -> Option<Strength> {
        match self {
            Self::Off | Self::VideoSeal => None,
            Self::Light => Some(Strength::Light),
            Self::Normal => Some(Strength::Normal),
            Self::Strong => Some(Strength::Strong),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = if *self == Self::VideoSeal { "videoseal" } else { "off" };
        f.write_str(self.strength().map_or(other, Strength::name))
    }
}

/// What happens without consent; later ones are stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consent {
    /// Nothing.
    Off,
    /// A line is printed.
    Warn,
    /// Nothing is made.
    Require,
}

impl fmt::Display for Consent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Warn => "warn",
            Self::Require => "require",
        })
    }
}

/// Whether frames are looked at; later ones are stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameCheck {
    /// No.
    Off,
    /// If there is a model for it.
    Auto,
    /// Always.
    Require,
}

impl fmt::Display for FrameCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::Require => "require",
        })
    }
}

/// The settings in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Whether texts are checked beyond what always is.
    pub text_filter: bool,
    /// Files and folders of further rules.
    pub rules: Vec<PathBuf>,
    /// A language model that looks at texts too.
    pub llm: Option<Llm>,
    /// Whether results are marked.
    pub watermark: Mark,
    /// File of a private key of marks.
    pub watermark_key: Option<PathBuf>,
    /// The file that names the networks of `videoseal`.
    pub watermark_model: Option<PathBuf>,
    /// What happens without consent.
    pub consent: Consent,
    /// The same for training on sets that are marked as private, unless that is less strict.
    pub private: Consent,
    /// Folders of consent records.
    pub consents: Vec<PathBuf>,
    /// Issuers that count; all if there is none.
    pub issuers: Vec<String>,
    /// Whether a record has to be of an adult.
    pub adult: bool,
    /// What compares faces with enrolled ones.
    pub faces: Option<Faces>,
    /// Whether frames are looked at.
    pub frames: FrameCheck,
    /// The file that names the models that do so.
    pub frame_models: Option<PathBuf>,
    /// Signed statements of origin.
    pub provenance: Provenance,
    /// Whether decisions are written down.
    pub audit: bool,
    /// Where; the state folder if not said.
    pub audit_file: Option<PathBuf>,
    /// File of the key that signs the log.
    pub audit_key: Option<PathBuf>,
    /// Whether prompts are written down as text.
    pub store_prompts: bool,
    /// The layer that locked the policy.
    pub locked: Option<String>,
    /// The layers that said something, in order.
    pub sources: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            text_filter: true,
            rules: Vec::new(),
            llm: None,
            watermark: Mark::Normal,
            watermark_key: None,
            watermark_model: None,
            consent: Consent::Warn,
            private: Consent::Require,
            consents: vec![PathBuf::from("consents")],
            issuers: Vec::new(),
            adult: false,
            faces: None,
            frames: FrameCheck::Auto,
            frame_models: None,
            provenance: Provenance::default(),
            audit: true,
            audit_file: None,
            audit_key: None,
            store_prompts: false,
            locked: None,
            sources: Vec::new(),
        }
    }
}

/// What one file or one flag says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Layer {
    /// Where it is from: a path or a flag.
    #[serde(skip)]
    pub source: String,
    /// Whether later layers may only tighten.
    pub locked: bool,
    /// Texts.
    pub text: TextLayer,
    /// Models that look at texts.
    pub moderation: ModerationLayer,
    /// Marks.
    pub watermark: MarkLayer,
    /// Consent.
    pub consent: ConsentLayer,
    /// Frames.
    pub frames: FrameLayer,
    /// Statements of origin.
    pub provenance: ProvenanceLayer,
    /// The log.
    pub audit: AuditLayer,
}

/// `[text]` of a policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextLayer {
    /// [`Policy::text_filter`].
    pub filter: Option<bool>,
    /// [`Policy::rules`], added to those before.
    pub rules: Vec<PathBuf>,
}

/// `[moderation]` of a policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModerationLayer {
    /// [`Policy::llm`].
    pub llm: Option<Llm>,
}

/// `[watermark]` of a policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MarkLayer {
    /// [`Policy::watermark`].
    pub strength: Option<Mark>,
    /// [`Policy::watermark_key`].
    pub key: Option<PathBuf>,
    /// [`Policy::watermark_model`].
    pub model: Option<PathBuf>,
}

/// `[consent]` of a policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsentLayer {
    /// [`Policy::consent`].
    pub mode: Option<Consent>,
    /// [`Policy::private`].
    pub private: Option<Consent>,
    /// [`Policy::consents`].
    pub folders: Option<Vec<PathBuf>>,
    /// [`Policy::issuers`].
    pub issuers: Option<Vec<String>>,
    /// [`Policy::adult`].
    pub adult: Option<bool>,
    /// [`Policy::faces`].
    pub faces: Option<Faces>,
}

/// `[frames]` of a policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrameLayer {
    /// [`Policy::frames`].
    pub check: Option<FrameCheck>,
    /// [`Policy::frame_models`].
    pub models: Option<PathBuf>,
}

/// `[audit]` of a policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditLayer {
    /// [`Policy::audit`].
    pub enabled: Option<bool>,
    /// [`Policy::audit_file`].
    pub file: Option<PathBuf>,
    /// [`Policy::audit_key`].
    pub key: Option<PathBuf>,
    /// [`Policy::store_prompts`].
    pub store_prompts: Option<bool>,
}

impl Layer {
    /// A layer of a flag.
    pub fn flag(source: impl Into<String>) -> Self {
        Self { source: source.into(), ..Self::default() }
    }

    /// Reads a policy file. Relative paths in it start at its folder.
    ///
    /// # Errors
    /// E0911 it cannot be read, E1102 it is no policy or contradicts itself, E1104 it is locked and
    /// whoever runs the program can change it.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |what: String| {
            Error::input("E1102", what).at(path.display()).help("docs/safety.md describes policies")
        };
        let large = |limit| bad(format!("a policy has at most {limit} bytes"));
        let bytes = input::read(path, LARGEST)
            .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| bad("this is no text".to_owned()))?;
        let mut layer: Self = toml::from_str(text)
            .map_err(|fault| bad(format!("this is no policy: {}", fault.to_string().trim_end())))?;
        layer.source = path.display().to_string();
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let AuditLayer { file, key, .. } = &mut layer.audit;
        let MarkLayer { key: mark, model, .. } = &mut layer.watermark;
        let files = [mark, model, &mut layer.frames.models, file, key].into_iter().flatten();
        let lists = layer.text.rules.iter_mut().chain(layer.consent.folders.iter_mut().flatten());
        files.chain(lists).for_each(|path| *path = folder.join(&*path));
        layer.provenance.start_at(&folder);
        layer.moderation.llm.iter_mut().for_each(|llm| llm.start_at(&folder));
        layer.consent.faces.iter_mut().for_each(|faces| faces.start_at(&folder));
        layer.contradiction().map_or(Ok(()), |what| Err(bad(what.to_owned())))?;
        if layer.locked {
            check_owner(path)?;
        }
        Ok(layer)
    }

    fn contradiction(&self) -> Option<&'static str> {
        let Self { locked, moderation, watermark, consent, audit, provenance, .. } = self;
        let open = moderation.llm.as_ref().is_some_and(|llm| llm.on_error == OnError::Rules);
        let off = consent.mode == Some(Consent::Off);
        if watermark.strength == Some(Mark::Off) && watermark.key.is_some() {
            Some("[watermark] has a key, and strength is \"off\"")
        } else if watermark.strength == Some(Mark::VideoSeal) && watermark.key.is_some() {
            Some("[watermark] has a key, and the networks of \"videoseal\" take none")
        } else if off && (consent.issuers.is_some() || consent.adult == Some(true)) {
            Some("[consent] asks something of records, and mode is \"off\"")
        } else if audit.enabled == Some(false)
            && (audit.file.is_some() || audit.key.is_some() || audit.store_prompts == Some(true))
        {
            Some("[audit] says what the log is like, and enabled is false")
        } else if *locked && open {
            Some(
                "a locked policy says on_error = \"closed\" in [moderation.llm]: else whoever cuts the \
                 connection turns it off",
            )
        } else if *locked && audit.enabled != Some(false) && audit.file.is_none() {
            Some("a locked policy names [audit] file: the usual place is the user's own")
        } else {
            provenance.contradiction()
        }
    }
}

#[cfg(unix)]
fn check_owner(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let user = rustix::process::geteuid().as_raw();
    let refuse = |path: &Path, what: String| {
        Err(Error::input("E1104", format!("the policy is locked, and {what}"))
            .at(path.display())
            .help("chown root:root and chmod 644 the file, and keep it in a folder of root's"))
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    for place in [path, folder.unwrap_or(Path::new("."))] {
        let about = std::fs::metadata(place).map_err(|fault| unreadable(place, fault))?;
        let (owner, mode) = (about.uid(), about.mode());
        if owner == user && user != 0 {
            return refuse(place, "it belongs to the user whom it should bind".to_owned());
        }
        // In a folder with the sticky bit only owners rename.
        let sticky = about.is_dir() && mode & 0o1000 != 0;
        if mode & 0o022 != 0 && !sticky {
            return refuse(place, format!("others may change it (mode {:03o})", mode & 0o777));
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_owner(path: &Path) -> Result<()> {
    let what = "the policy is locked, and here nothing tells who may change it";
    Err(Error::input("E1104", what).at(path.display()).help("remove `locked` from the policy"))
}

/// Joins layers.
struct Joining<'j> {
    source: &'j str,
    lock: Option<String>,
}

impl Joining<'_> {
    fn refuse<T>(
        &self,
        setting: &str,
        now: impl fmt::Display,
        asked: impl fmt::Display,
    ) -> Result<T> {
        let lock = self.lock.as_deref().unwrap_or_default();
        let what = format!("{setting} is {now} by a locked policy, and {asked} would weaken it");
        Err(Error::input("E1103", what)
            .at(self.source)
            .help(format!("leave it out, or ask whoever keeps {lock}")))
    }

    /// A setting whose larger values are stricter.
    fn ordered<T: Copy + PartialOrd + fmt::Display>(
        &self,
        setting: &str,
        now: &mut T,
        asked: Option<T>,
    ) -> Result<()> {
        match asked {
            // Also what cannot be compared, such as marks of different kinds.
            Some(asked)
                if self.lock.is_some()
                    && asked.partial_cmp(now).is_none_or(|order| order == Ordering::Less) =>
            {
                self.refuse(setting, *now, asked)
            }
            Some(asked) => {
                *now = asked;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A setting that has no stricter value.
    fn fixed<T: Clone + PartialEq + fmt::Debug>(
        &self,
        setting: &str,
        now: &mut T,
        asked: Option<T>,
    ) -> Result<()> {
        match asked {
            Some(asked) if self.lock.is_some() && asked != *now => {
                self.refuse(setting, format!("{now:?}"), format!("{asked:?}"))
            }
            Some(asked) => {
                *now = asked;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Policy {
    /// The policy of layers, in order.
    ///
    /// # Errors
    /// E1103 a layer behind a locked one would weaken it.
    pub fn of(layers: &[Layer]) -> Result<Self> {
        let mut policy = Self::default();
        for layer in layers {
            policy.join(layer)?;
        }
        Ok(policy)
    }

    fn join(&mut self, layer: &Layer) -> Result<()> {
        let Layer { source, locked, text, moderation, watermark, .. } = layer;
        let Layer { consent, frames, provenance, audit, .. } = layer;
        let joining = Joining { source, lock: self.locked.clone() };
        let on = |value: Option<bool>| value.map(OnOff);
        let mut filter = OnOff(self.text_filter);
        joining.ordered("the filter of texts", &mut filter, on(text.filter))?;
        self.text_filter = filter.0;
        self.rules.extend(text.rules.iter().cloned());
        // One that is added can only refuse more.
        match &self.llm {
            None => self.llm.clone_from(&moderation.llm),
            Some(_) => {
                let asked = moderation.llm.clone().map(Some);
                joining.fixed("the language model that looks at texts", &mut self.llm, asked)?;
            }
        }
        joining.ordered("the watermark", &mut self.watermark, watermark.strength)?;
        let key = watermark.key.clone().map(Some);
        joining.fixed("the watermark's key", &mut self.watermark_key, key)?;
        let model = watermark.model.clone().map(Some);
        joining.fixed("the watermark's networks", &mut self.watermark_model, model)?;
        joining.ordered("consent", &mut self.consent, consent.mode)?;
        joining.ordered("consent for private sets", &mut self.private, consent.private)?;
        joining.fixed(
            "the place of consent records",
            &mut self.consents,
            consent.folders.clone(),
        )?;
        joining.fixed("the list of issuers", &mut self.issuers, consent.issuers.clone())?;
        let mut adult = OnOff(self.adult);
        joining.ordered("the demand for adults", &mut adult, on(consent.adult))?;
        self.adult = adult.0;
        let faces = consent.faces.clone().map(Some);
        joining.fixed("what compares faces", &mut self.faces, faces)?;
        joining.ordered("the check of frames", &mut self.frames, frames.check)?;
        let models = frames.models.clone().map(Some);
        joining.fixed("the models that look at frames", &mut self.frame_models, models)?;
        let own = &mut self.provenance;
        joining.ordered("signing", &mut own.sign, provenance.sign)?;
        joining.fixed("the signer", &mut own.signer, provenance.chosen())?;
        joining.fixed("how prompts are told", &mut own.prompt, provenance.prompt)?;
        let salt = provenance.salt.clone().map(Some);
        joining.fixed("the salt of references", &mut own.salt, salt)?;
        joining.fixed("the time for signing", &mut own.patience, provenance.patience)?;
        joining.fixed(
            "whom signatures are trusted of",
            &mut own.trust,
            provenance.trust.clone(),
        )?;
        let mut kept = OnOff(self.audit);
        joining.ordered("the audit log", &mut kept, on(audit.enabled))?;
        self.audit = kept.0;
        let file = audit.file.clone().map(Some);
        joining.fixed("the place of the audit log", &mut self.audit_file, file)?;
        let key = audit.key.clone().map(Some);
        joining.fixed("the key of the audit log", &mut self.audit_key, key)?;
        joining.fixed("keeping prompts", &mut self.store_prompts, audit.store_prompts)?;
        if *locked {
            self.locked.get_or_insert_with(|| source.clone());
        }
        self.sources.push(source.clone());
        Ok(())
    }

    /// The settings as JSON, as results and records state them.
    pub fn to_json(&self) -> Value {
        let paths = |list: &[PathBuf]| -> Vec<String> {
            list.iter().map(|path| path.display().to_string()).collect()
        };
        json!({
            "text_filter": self.text_filter,
            "rules": paths(&self.rules),
            "moderation_llm": self.llm.as_ref().map(Llm::name),
            "watermark": self.watermark.to_string(),
            "watermark_key": if self.watermark_key.is_some() { "private" } else { "public" },
            "watermark_model": self.watermark_model.as_ref().map(|path| path.display().to_string()),
            "consent": self.consent.to_string(),
            "consent_private": self.private.to_string(),
            "consents": paths(&self.consents),
            "issuers": self.issuers,
            "adult": self.adult,
            "faces": self.faces.as_ref().map(|faces| paths(&faces.pictures)),
            "frames": self.frames.to_string(),
            "frame_models": self.frame_models.as_ref().map(|path| path.display().to_string()),
            "provenance": self.provenance.sign.to_string(),
            "signer": self.provenance.signer.to_string(),
            "provenance_prompt": self.provenance.prompt.to_string(),
            "provenance_salt": self.provenance.salt.as_ref().map(|path| path.display().to_string()),
            "provenance_trust": paths(&self.provenance.trust),
            "audit": self.audit,
            "audit_file": self.audit_file.as_ref().map(|path| path.display().to_string()),
            "audit_key": self.audit_key.as_ref().map(|path| path.display().to_string()),
            "store_prompts": self.store_prompts,
            "locked": self.locked,
            "sources": self.sources,
        })
    }

    /// The audit log, unless it is off; `usual` is where it is if nothing says.
    ///
    /// # Errors
    /// E1107 the key that signs it cannot be used.
    pub fn audit_log(&self, usual: Option<PathBuf>) -> Result<Option<AuditLog>> {
        let place = self.audit_file.clone().or(usual).filter(|_| self.audit);
        let key = self.audit_key.as_deref().filter(|_| place.is_some());
        let key = key.map(SecretKey::read).transpose()?;
        Ok(place.map(|place| AuditLog::new(place).signed_with(key)))
    }

    /// What is off that is on by default, in words.
    pub fn switched_off(&self) -> Vec<&'static str> {
        let all = [
            (!self.text_filter, "the filter of texts"),
            (self.watermark == Mark::Off, "the watermark"),
            (self.consent == Consent::Off, "the check of consent"),
            (self.frames == FrameCheck::Off, "the check of frames"),
            (self.provenance.sign == Sign::Off, "the signed statement of origin"),
            (!self.audit, "the audit log"),
        ];
        all.into_iter().filter(|(off, _)| *off).map(|(_, what)| what).collect()
    }
}

/// A switch in words.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct OnOff(bool);

impl fmt::Display for OnOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "on" } else { "off" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(text: &str) -> Layer {
        let mut layer: Layer = toml::from_str(text).unwrap();
        layer.source = text.to_owned();
        layer
    }

    const LOCKED: &str = "locked = true\n[audit]\nfile = \"/var/log/a.jsonl\"\n[consent]\nmode = \
                          \"require\"\nadult = true\nissuers = [\"ed25519:x\"]\n[frames]\ncheck = \"auto\"\n[watermark]\nkey = \"/k\"\n\
                          [moderation.llm]\nkind = \"vllm\"\nmodel = \"m\"\non_error = \"closed\"\n";

    #[test]
    fn later_layers_override_and_rules_add_up() {
        let policy = Policy::of(&[
            layer("[watermark]\nstrength = \"strong\"\n[text]\nrules = [\"a\"]"),
            layer("[watermark]\nstrength = \"off\"\n[text]\nrules = [\"b\"]\n[consent]\nmode = \"off\""),
        ])
        .unwrap();
        assert_eq!(policy.watermark, Mark::Off);
        assert_eq!(policy.rules, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(policy.switched_off(), ["the watermark", "the check of consent"]);
        assert_eq!(Policy::of(&[]).unwrap(), Policy::default());
        assert_eq!(Policy::default().switched_off(), [""; 0]);
    }

    /// A line for each setting that would make [`LOCKED`] weaker.
    const WEAKER: [&str; 29] = [
        "[text]\nfilter = false",
        "[watermark]\nstrength = \"off\"",
        "[watermark]\nstrength = \"light\"",
        "[watermark]\nkey = \"/mine\"",
        "[consent]\nmode = \"warn\"",
        "[consent]\nmode = \"off\"",
        "[consent]\nadult = false",
        "[consent]\nissuers = []",
        "[consent]\nissuers = [\"ed25519:x\", \"ed25519:mine\"]",
        "[consent]\nfolders = [\"/mine\"]",
        "[frames]\ncheck = \"off\"",
        "[frames]\nmodels = \"/mine\"",
        "[provenance]\nsign = \"off\"",
        "[provenance]\nsigner = \"local\"",
        "[provenance]\nsigner = \"command\"\ncommand = [\"mine\"]",
        "[provenance]\nprompt = \"text\"",
        "[provenance]\nsalt = \"/mine\"",
        "[provenance]\npatience = 1",
        "[audit]\nenabled = false",
        "[audit]\nfile = \"/tmp/x\"",
        "[audit]\nkey = \"/mine\"",
        "[consent]\nprivate = \"warn\"",
        "[audit]\nstore_prompts = true",
        "[watermark]\nstrength = \"videoseal\"",
        "[watermark]\nmodel = \"/mine\"",
        "[consent.faces]\nface = {}\nidentity = {}\npictures = []",
        "[provenance]\ntrust = [\"/mine\"]",
        "[moderation.llm]\nkind = \"vllm\"\nmodel = \"mine\"",
        "[moderation.llm]\nkind = \"vllm\"\nmodel = \"m\"\non_error = \"rules\"",
    ];

    #[test]
    fn nothing_weakens_a_locked_policy() {
        let locked = layer(LOCKED);
        for weaker in WEAKER {
            let error = Policy::of(&[locked.clone(), layer(weaker)]).unwrap_err();
            assert_eq!(error.code(), "E1103", "{weaker}");
            assert!(error.to_string().contains("would weaken it"), "{error}");
            // The same from a layer that claims to be locked itself, and from one behind another.
            let claimed = format!("locked = true\n{weaker}");
            let between = layer("[text]\nfilter = true");
            let layers = [locked.clone(), between, layer(&claimed)];
            assert_eq!(Policy::of(&layers).unwrap_err().code(), "E1103", "{weaker}");
            // Without a lock it is allowed.
            Policy::of(&[layer(&LOCKED.replace("locked = true", "")), layer(weaker)]).unwrap();
        }
        for tighter in [
            "",
            "[text]\nfilter = true\nrules = [\"more\"]",
            "[watermark]\nstrength = \"strong\"",
            "[frames]\ncheck = \"require\"",
            "[provenance]\nsign = \"require\"\nsigner = \"ephemeral\"",
            "[consent]\nmode = \"require\"\nadult = true",
            "[moderation.llm]\nkind = \"vllm\"\nmodel = \"m\"\non_error = \"closed\"",
            "locked = false",
        ] {
            let policy = Policy::of(&[locked.clone(), layer(tighter)]).unwrap();
            assert!(policy.locked.is_some(), "{tighter}");
        }
    }

    /// Names that a policy may have at this place, by what is said where there is another.
    fn known(section: &str) -> Vec<String> {
        let text = format!("{section}\nzzz = 1\n");
        let fault = toml::from_str::<Layer>(&text).unwrap_err().message().to_owned();
        let names = fault.split_once("expected ").expect("the names are said").1;
        names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_setting_has_a_line_among_those_that_would_weaken() {
        // What only adds, and what belongs to the signer, which is fixed as a whole.
        let free = ["text.rules", "provenance.certificates", "provenance.key"];
        let sections = known("");
        assert!(sections.len() > 6, "{sections:?}");
        for section in sections.iter().filter(|name| *name != "locked") {
            for key in known(&format!("[{section}]")) {
                let named = |line: &str| {
                    line.split_once('\n').is_some_and(|(head, rest)| {
                        head == format!("[{section}.{key}]")
                            || head == format!("[{section}]")
                                && rest.lines().any(|l| l.starts_with(&format!("{key} = ")))
                    })
                };
                let path = format!("{section}.{key}");
                assert!(
                    free.contains(&path.as_str()) || WEAKER.iter().any(|line| named(line)),
                    "{path} is in no line of WEAKER: say how it could weaken a locked policy"
                );
            }
        }
    }

    #[test]
    fn a_lock_lets_models_be_added_that_refuse_more_and_marks_be_turned_on() {
        let locked =
            layer("locked = true\n[audit]\nfile = \"/a\"\n[watermark]\nstrength = \"off\"");
        let more = "[moderation.llm]\nkind = \"vllm\"\nmodel = \"m\"\n";
        let policy = Policy::of(&[locked.clone(), layer(more)]).unwrap();
        assert_eq!(policy.llm.as_ref().map(|llm| llm.on_error), Some(OnError::Rules));
        // From then on it stays.
        let error =
            Policy::of(&[locked.clone(), layer(more), layer(&more.replace("\"m\"", "\"n\""))]);
        assert_eq!(error.unwrap_err().code(), "E1103");
        for (first, then, fine) in [
            ("light", "strong", true),
            ("videoseal", "videoseal", true),
            ("videoseal", "strong", false),
            ("strong", "videoseal", false),
            ("videoseal", "off", false),
        ] {
            let mark = |name: &str| layer(&format!("[watermark]\nstrength = \"{name}\""));
            let joined = Policy::of(&[locked.clone(), mark(first), mark(then)]);
            // What is off may become either.
            assert!(Policy::of(&[locked.clone(), mark(first)]).is_ok(), "{first}");
            assert_eq!(joined.is_err(), !fine, "{first} {then}");
        }
    }

    #[test]
    fn policies_that_are_wrong_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        for (text, code, what) in [
            ("x = 1", "E1102", "unknown field"),
            ("[watermark]\nstrength = \"loud\"", "E1102", "unknown variant"),
            ("[watermark]\nstrength = \"off\"\nkey = \"k\"", "E1102", "has a key"),
            ("[consent]\nmode = \"off\"\nadult = true", "E1102", "asks something"),
            ("[audit]\nenabled = false\nfile = \"a\"", "E1102", "says what the log"),
            ("[audit]\nenabled = false\nkey = \"a\"", "E1102", "says what the log"),
            ("locked = true", "E1102", "names [audit] file"),
            (
                "locked = true\n[moderation.llm]\nkind = \"vllm\"\nmodel = \"m\"",
                "E1102",
                "on_error = \"closed\"",
            ),
            ("[provenance]\nsigner = \"pem\"\nkey = \"k\"", "E1102", "needs certificates"),
            ("[provenance]\nkey = \"k\"", "E1102", "go with signer"),
            ("[provenance]\nsign = \"off\"\nsigner = \"local\"", "E1102", "has a signer"),
            ("[provenance]\nsigner = \"cloud\"", "E1102", "unknown variant"),
            ("[watermark]\nstrength = \"videoseal\"\nkey = \"k\"", "E1102", "take none"),
            ("[moderation.llm]\nkind = \"vllm\"", "E1102", "needs model"),
            (
                "[moderation.llm]\nkind = \"vllm\"\nmodel = \"m\"\non_error = \"open\"",
                "E1102",
                "\"closed\"",
            ),
            ("[consent.faces]\nface = {}", "E1102", "missing field"),
            ("= =", "E1102", "this is no policy"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Layer::read(&path).unwrap_err();
            assert_eq!(error.code(), code, "{text}");
            assert!(error.to_string().contains(what), "{text}: {error}");
        }
        std::fs::write(&path, [0xFF, 0xFE]).unwrap();
        assert_eq!(Layer::read(&path).unwrap_err().code(), "E1102");
        assert_eq!(Layer::read(&folder.path().join("none")).unwrap_err().code(), "E0911");
        std::fs::write(&path, "[text]\nrules = [\"mine\"]").unwrap();
        assert_eq!(Layer::read(&path).unwrap().text.rules, [folder.path().join("mine")]);
    }

    #[cfg(unix)]
    #[test]
    fn a_locked_policy_must_be_out_of_reach() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, LOCKED).unwrap();
        let mode = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for (file, parent) in [(0o666, 0o755), (0o664, 0o755), (0o644, 0o777), (0o644, 0o775)] {
            mode(&path, file);
            mode(folder.path(), parent);
            let error = Layer::read(&path).unwrap_err();
            assert_eq!(error.code(), "E1104", "{file:o} {parent:o}");
        }
        mode(&path, 0o644);
        mode(folder.path(), 0o755);
        match rustix::process::geteuid().is_root() {
            true => assert!(Layer::read(&path).unwrap().locked),
            false => assert_eq!(Layer::read(&path).unwrap_err().code(), "E1104"),
        }
    }
}
