//! What files of training are, found out without doing anything with them.

use super::checkpoint::{CHECKPOINT, KEY, LOCK, Record, record_of, unread};
use super::faults::Fault;
use super::log::LOG;
use super::manifest::{Manifest, Reading, SCHEMAS};
use super::parameters::Kind;
use super::settings::{Settings, lasting_digest};
use super::{read_bytes, read_text, result, sources};
use crate::checkpoint::WeightSet;
use crate::error::Result;
use anyid_models::wan::Geometry;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A training run, by its checkpoint.
#[derive(Clone, Debug)]
pub struct RunAbout {
    /// What is trained: `lora`, `dpo` or `full`.
    pub kind: String,
    /// Updates done, and in all.
    pub updates: [u64; 2],
    /// Samples or pairs done, over all epochs.
    pub samples: u64,
    /// Mean loss of the last update.
    pub loss: Option<f64>,
    /// The best measurement of the validation set, and that of the untrained model.
    pub validation: Option<[f64; 2]>,
    /// Digest of the settings that decide the result.
    pub settings: String,
    /// SHA-256 of the manifest.
    pub manifest: String,
    /// Fingerprint of the transformer, with its adapters.
    pub model: String,
    /// The device with its instructions.
    pub device: String,
}

/// A manifest.
#[derive(Clone, Debug)]
pub struct ManifestAbout {
    /// Its schema.
    pub schema: &'static str,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Lines that are sound by themselves, by the number of their references.
    pub samples: BTreeMap<usize, usize>,
    /// What is wrong with the others.
    pub faults: Vec<Fault>,
    /// What is odd.
    pub warnings: Vec<String>,
}

/// The folder of a run.
#[derive(Clone, Debug)]
pub struct FolderAbout {
    /// The run, where its checkpoint is there.
    pub run: Option<RunAbout>,
    /// Lines of the log.
    pub lines: usize,
    /// Results that are there.
    pub results: Vec<PathBuf>,
}

/// The run of a checkpoint; none where the file is another one.
///
/// # Errors
/// E0962 for one of another version.
pub fn run(path: &Path, set: &WeightSet) -> Result<Option<RunAbout>> {
    let one = set.files().any(|file| file.metadata().contains_key(KEY));
    Ok(if one { Some(of(record_of(path)?)) } else { None })
}

fn of(record: Record) -> RunAbout {
    let position = &record.position;
    RunAbout {
        updates: [position.updates, record.settings["train"]["steps"].as_u64().unwrap_or(0)],
        samples: position.samples,
        loss: position.loss,
        validation: position.best.zip(position.base).map(<[f64; 2]>::from),
        settings: lasting_digest(&record.settings),
        kind: record.kind,
        manifest: record.manifest,
        model: record.model,
        device: record.device,
    }
}

/// A manifest; none where the first line of the text is not one of a manifest.
///
/// # Errors
/// E0911 where it cannot be read.
pub fn manifest(path: &Path) -> Result<Option<ManifestAbout>> {
    let bytes = read_bytes(path, super::manifest::LARGEST)?;
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let first = lines.find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
    let first: serde_json::Value = serde_json::from_slice(first).unwrap_or_default();
    let Some(pairs) = SCHEMAS.iter().position(|schema| first["schema"] == **schema) else {
        return Ok(None);
    };
    let root = path.parent().unwrap_or(Path::new(""));
    let (group, labels) = (Geometry::TI2V_5B.time, None);
    let pairs = pairs == 1;
    let reading =
        Reading { pairs, root, locked: None, frames: 1, group, labels, fps: None, drawn: None };
    let Manifest { sha256, samples: read, faults, warnings, .. } = Manifest::open(path, &reading)?;
    let mut samples = BTreeMap::new();
    for sample in read {
        *samples.entry(sample.references.len()).or_insert(0) += 1;
    }
    Ok(Some(ManifestAbout {
        schema: SCHEMAS[usize::from(pairs)],
        sha256,
        samples,
        faults,
        warnings,
    }))
}

/// Settings with their digest; none for TOML without a section of settings.
///
/// # Errors
/// As [`Settings::open`].
pub fn settings(path: &Path) -> Result<Option<(Settings, String)>> {
    let text = read_text(path, 1 << 20)?;
    let known = Settings::default().to_json();
    let known = known.as_object().expect("settings are sections");
    if !sources::sections(&text, path)?.iter().any(|section| known.contains_key(section)) {
        return Ok(None);
    }
    let settings = Settings::open(path, &[], Kind::Lora)?;
    let digest = lasting_digest(&settings.to_json());
    Ok(Some((settings, digest)))
}

/// The folder of a run; none for another one.
///
/// # Errors
/// E0962 for a checkpoint that is none, E0911 for a log that cannot be read.
pub fn folder(path: &Path) -> Result<Option<FolderAbout>> {
    let [checkpoint, log] = [CHECKPOINT, LOG].map(|name| path.join(name));
    let logged = log.is_file() && path.join(LOCK).is_file();
    if !checkpoint.is_file() && !logged {
        return Ok(None);
    }
    let run = match checkpoint.is_file() {
        true => {
            let set = WeightSet::open(&checkpoint).map_err(|error| unread(&checkpoint, &error))?;
            run(&checkpoint, &set)?
        }
        false => None,
    };
    let lines = match log.is_file() {
        true => read_text(&log, super::manifest::LARGEST)?.lines().count(),
        false => 0,
    };
    let all = result::all_names().into_iter().map(|name| path.join(name));
    let results = all.filter(|path| path.is_file()).collect();
    Ok((run.is_some() || lines > 0).then_some(FolderAbout { run, lines, results }))
}
