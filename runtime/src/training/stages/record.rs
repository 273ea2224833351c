//! What a finished stage was made of: a file behind everything else that it wrote.
//!
//! It is there only where the model of the stage is complete, and says whether the stage would be made
//! again in the same way.

use super::file::{Stage, Stages};
use crate::adapter::{Adapter, Wanted, modules_by_name};
use crate::checkpoint::{ModelFolder, hash_file};
use crate::error::{Error, Result};
use crate::files::AtomicFile;
use crate::model::Model;
use crate::training::cache::hex;
use crate::training::read_text;
use crate::training::settings::differing;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Its name in the folder of a stage.
pub const NAME: &str = "stage.json";
const SCHEMA: &str = "anyid.stage/1";

/// A stage as it was made, or would be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`SCHEMA`].
    schema: String,
    /// `lora`, `dpo` or `full`.
    kind: String,
    /// The settings of its run.
    settings: Value,
    /// SHA-256 of the manifest.
    manifest: String,
    /// Digest of the model that it begins with.
    base: String,
    /// SHA-256 of the file whose values it begins with.
    init_from: Option<String>,
    /// Which result counts.
    result: String,
    /// SHA-256 of the manifest that it was measured on. Records of before there was this have none, and
    /// neither have stages without one.
    #[serde(default)]
    validation: Option<String>,
    /// Scales and SHA-256 of the adapters on the model. As above.
    #[serde(default)]
    adapters: Option<String>,
    /// Updates of its run.
    pub updates: u64,
    /// Digest of the model with its result.
    model: String,
    /// SHA-256 of the result that counts. As above.
    #[serde(default)]
    pub left: Option<String>,
}

impl Record {
    /// Of a stage that is to be made.
    ///
    /// # Errors
    /// Those of reading the model and its adapters, and E0911 where a manifest cannot be read.
    pub fn new(stages: &Stages, stage: &Stage, base: &Path) -> Result<Self> {
        let init_from = stage.init_from.map(|from| hash_file(stages.result_of(from)));
        let unread = |key: &str, path: &Path, error: Error| {
            let what = key.split_once('.').map_or(key, |(_, name)| name);
            // One error, and not the error of reading in it.
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let cause = cause.unwrap_or_else(|| error.message().to_owned());
            Error::input("E0911", format!("the {what} cannot be read"))
                .at(path.display())
                .help(format!("{key} of stage {} names it", stage.name))
                .caused_by(std::io::Error::other(cause))
        };
        let hashed =
            |key: &str, path: &Path| hash_file(path).map_err(|error| unread(key, path, error));
        let data = &stage.settings.data;
        let validation = data.validation.as_ref().map(|path| hashed("data.validation", path));
        let mut adapters = Vec::new();
        for text in &stage.settings.model.adapters {
            let Wanted { path, scale } = Wanted::parse(text)?;
            let adapter = Adapter::open(&path, &modules_by_name())?;
            adapters.push(format!("{scale} * {}", hashed("model.adapters", &adapter.path)?));
        }
        Ok(Self {
            schema: SCHEMA.to_owned(),
            kind: stage.kind.name().to_owned(),
            settings: stage.settings.to_json(),
            manifest: hashed("data.manifest", &data.manifest)?,
            validation: validation.transpose()?,
            adapters: Some(adapters.join(" + ")).filter(|all| !all.is_empty()),
            base: identity(base)?,
            init_from: init_from.transpose()?,
            result: stage.which.name().to_owned(),
            updates: 0,
            model: String::new(),
            left: None,
        })
    }

    /// The one at `path`, if there is one.
    ///
    /// # Errors
    /// E0971 where it cannot be read.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(path, 1 << 22)?;
        let read = serde_json::from_str::<Self>(&text).ok();
        read.filter(|record| record.schema == SCHEMA).map(Some).ok_or_else(|| {
            Error::input("E0971", "this is not what a stage of this version leaves")
                .at(path.display())
                .help("restore it, or remove the folder of the stage to make it anew")
        })
    }

    /// The record of the stage when its model is there.
    ///
    /// # Errors
    /// Those of reading the model and the result.
    pub fn finish(self, updates: u64, model: &Path, result: &Path) -> Result<Self> {
        Ok(Self { updates, model: identity(model)?, left: Some(hash_file(result)?), ..self })
    }

    /// Writes it.
    ///
    /// # Errors
    /// E101x.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("a record has a JSON form");
        let mut file = AtomicFile::create(path)?;
        file.append(text.as_bytes())?;
        file.commit().map(drop)
    }

    /// Refuses a finished stage in `folder` that would be made otherwise `now`, or whose model was changed.
    /// `anew` says how to make it once more.
    ///
    /// # Errors
    /// E0971, and those of reading the model.
    pub fn same(&self, now: &Self, folder: &Path, anew: &str) -> Result<()> {
        let model = folder.join("model");
        let lost = |what: &str| {
            let message = format!("the stage was finished, and its model {what}");
            Error::input("E0971", message).at(model.display()).help(format!(
                "restore it, or remove {}: it is then put together again from what the run of the \
                 stage left",
                folder.join(NAME).display()
            ))
        };
        if !model.exists() {
            return Err(lost("is no longer there"));
        }
        // What helps with files of others is of no use here.
        let found = identity(&model);
        let found = found.map_err(|error| lost(&format!("cannot be read: {}", error.message())))?;
        let text = |of: &Option<String>| of.clone().unwrap_or_else(|| "nothing".to_owned());
        let mut rows = differing(&self.settings, &now.settings);
        // A run may be made longer, a finished stage may not.
        let steps = |record: &Self| record.settings["train"]["steps"].to_string();
        rows.retain(|(key, ..)| key != "train.steps");
        // What was not hashed then is compared by its path.
        let path = |record: &Self, [section, key]: [&str; 2]| {
            Some(record.settings[section][key].to_string())
        };
        for (what, names, then, now_is) in [
            (
                "manifest of the validation set",
                ["data", "validation"],
                &self.validation,
                &now.validation,
            ),
            ("adapters", ["model", "adapters"], &self.adapters, &now.adapters),
        ] {
            let [then, now_is] = match then {
                Some(_) => [then.clone(), now_is.clone()],
                None => [path(self, names), path(now, names)],
            };
            if then != now_is {
                rows.push((format!("SHA-256 of the {what}"), text(&then), text(&now_is)));
            }
        }
        for (key, then, now) in [
            ("kind", self.kind.clone(), now.kind.clone()),
            ("train.steps", steps(self), steps(now)),
            ("SHA-256 of the manifest", self.manifest.clone(), now.manifest.clone()),
            ("digest of the model that it begins with", self.base.clone(), now.base.clone()),
            ("SHA-256 of init_from", text(&self.init_from), text(&now.init_from)),
            ("result", self.result.clone(), now.result.clone()),
            ("digest of its model", self.model.clone(), found),
        ] {
            if then != now {
                rows.push((key.to_owned(), then, now));
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let rows: Vec<String> =
            rows.iter().map(|(key, then, now)| format!("\n  {key}: {then}, now {now}")).collect();
        let message = format!("the stage was finished with something else:{}", rows.concat());
        let help = format!("go back to what it was made with, or {anew}");
        Err(Error::input("E0971", message).at(folder.display()).help(help))
    }
}

/// Digest of a model: of its weights, and of the files that configure it.
fn identity(model: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    for fingerprint in Model::open(model)?.fingerprints()? {
        hasher.update(fingerprint);
    }
    for path in ModelFolder::open(model)?.files()? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".json") {
            hasher.update(format!("{name}={}\n", hash_file(&path)?));
        }
    }
    Ok(hex(hasher))
}
