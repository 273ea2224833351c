//! The folder of a run: its lock, and the checkpoint that it goes on from.
//!
//! A checkpoint is one file with everything that the rest of the run depends on: parameters, moments,
//! average, the gradient summed up so far, the position, and the settings. It appears whole or not at
//! all, and a digest says whether it is still what was written. A file for the next one is always
//! open, because none can be opened once the program was told to end.

use super::cache::hex;
use super::dataset::Dataset;
use super::log::LOG;
use super::parameters::{Flat, Kind};
use super::result;
use super::samples::SAMPLES;
use super::settings::Settings;
use crate::checkpoint::{Checkpoint, Encoding, SafetensorsWriter, TensorSpec, write_error};
use crate::error::{Error, Kind as Fault, Result};
use crate::files::{AtomicFile, make_folder};
use crate::weights::read_tensors;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Name of the checkpoint in the folder of a run.
pub const CHECKPOINT: &str = "checkpoint.safetensors";
/// Key of its header.
pub(super) const KEY: &str = "anyid.training";
/// What it is called in its header.
const SCHEMA: &str = "anyid.training/1";

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Samples or pairs done, over all epochs.
    pub samples: u64,
    /// Updates done.
    pub updates: u64,
    /// Sums over the samples of the batch so far, by name.
    pub batch: BTreeMap<String, f64>,
    /// Mean loss of the last update.
    pub loss: Option<f64>,
    /// The best measurement of the validation set.
    pub best: Option<f64>,
    /// Measurements since then.
    pub since_best: u64,
    /// What the untrained model gets on the validation set.
    pub base: Option<f64>,
    /// Problems that were reported already.
    pub reported: Vec<String>,
    /// The line of the log for the last update, while the validation set is still to be measured.
    pub row: Option<Map<String, Value>>,
}

/// Everything about a run but the values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    schema: String,
    /// What is trained.
    pub kind: String,
    /// The settings.
    pub settings: Value,
    /// SHA-256 of the manifest.
    pub manifest: String,
    /// Digest of what it is trained on, by content.
    pub data: String,
    /// Digest of what it is measured on, if it is.
    pub validation: Option<String>,
    /// Fingerprint of the transformer, with its adapters.
    pub model: String,
    /// The device and its instructions, which decide the last bits.
    pub device: String,
    /// How far it is.
    pub position: Position,
    /// Digest of the values.
    digest: String,
}

impl Record {
    /// The record of a run at its beginning.
    pub fn new(
        kind: Kind,
        settings: &Settings,
        data: &Dataset,
        validation: Option<&Dataset>,
        model: &str,
        device: &str,
    ) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            kind: kind.name().to_owned(),
            settings: settings.to_json(),
            manifest: data.manifest.clone(),
            data: data.digest(),
            validation: validation.map(Dataset::digest),
            model: model.to_owned(),
            device: device.to_owned(),
            position: Position::default(),
            digest: String::new(),
        }
    }

    /// Refuses to go on from `self` as `now`, which differs; what differs is named.
    ///
    /// # Errors
    /// E0963.
    pub fn same(&self, now: &Self, settings: &Settings, path: &Path) -> Result<()> {
        let text = |digest: &Option<String>| digest.clone().unwrap_or_else(|| "none".to_owned());
        let mut rows = settings.differences(&self.settings);
        for (key, then, now) in [
            ("what is trained", self.kind.clone(), now.kind.clone()),
            ("SHA-256 of the manifest", self.manifest.clone(), now.manifest.clone()),
            ("digest of clips and prompts", self.data.clone(), now.data.clone()),
            ("digest of the validation set", text(&self.validation), text(&now.validation)),
            ("fingerprint of the model", self.model.clone(), now.model.clone()),
            ("device", self.device.clone(), now.device.clone()),
        ] {
            if then != now {
                rows.push((key.to_owned(), then, now));
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let rows: Vec<String> = rows
            .into_iter()
            .map(|(key, then, now)| format!("\n  {key}: {then}, now {now}"))
            .collect();
        let message = format!("the run was started with other settings:{}", rows.concat());
        Err(Error::input("E0963", message).at(path.display()).help(
            "use the settings that it was started with, or start a new run with --init-from and \
             another run.folder",
        ))
    }
}

/// The locked folder of a run.
pub struct Folder {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
    /// The file of the next checkpoint.
    next: Option<AtomicFile>,
}

impl Folder {
    /// Makes the folder if it is not there, and locks it.
    ///
    /// # Errors
    /// E0961 where another run is at work in it, E1011 to E1014 where it cannot be made or written.
    pub fn open(path: &Path) -> Result<Self> {
        make_folder(path)?;
        let name = path.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&name);
        let lock = lock.map_err(|fault| write_error(&name, fault))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::input("E0961", "another run is using this folder")
                    .at(path.display())
                    .help("wait for it or stop it, or give this run another run.folder"));
            }
            Err(TryLockError::Error(fault)) => return Err(write_error(&name, fault)),
        }
        let mut folder = Self { path: path.to_owned(), _lock: lock, next: None };
        folder.next = Some(folder.file()?);
        Ok(folder)
    }

    /// The path of a file in it.
    pub fn file_path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn file(&self) -> Result<AtomicFile> {
        let file = AtomicFile::create(self.file_path(CHECKPOINT))?;
        file.keep_when_stopped();
        Ok(file)
    }

    /// A file in it with the name of something that a run leaves, if there is one. A log without a line
    /// is none: a run that was killed before its first checkpoint leaves it.
    pub fn results(&self) -> Option<String> {
        let mut all = result::all_names().into_iter().chain([LOG, SAMPLES].map(str::to_owned));
        all.find(|name| {
            let about = self.file_path(name).symlink_metadata();
            about.is_ok_and(|about| name != LOG || !about.is_file() || about.len() > 0)
        })
    }

    /// What the checkpoint says about the run, where there is one and the run is to go on.
    ///
    /// # Errors
    /// E0962 where it is not a checkpoint of a run.
    pub fn begun(&self, resume: bool) -> Result<Option<Record>> {
        let there = resume && self.has_checkpoint();
        there.then(|| record_of(&self.file_path(CHECKPOINT))).transpose()
    }

    /// Whether there is a checkpoint.
    pub fn has_checkpoint(&self) -> bool {
        self.file_path(CHECKPOINT).exists()
    }

    /// Replaces the checkpoint. Values are vectors by name.
    ///
    /// # Errors
    /// E1012 disk full, E1011 and E1013 otherwise; the checkpoint before it stays.
    pub fn save(&mut self, record: &Record, values: &BTreeMap<String, Flat>) -> Result<()> {
        let mut record = record.clone();
        record.digest = digest(values);
        let text = serde_json::to_string(&record).expect("a record has a JSON form");
        let header = BTreeMap::from([(KEY.to_owned(), text)]);
        let each = || {
            values.iter().flat_map(|(kind, flat)| {
                flat.iter().enumerate().map(move |(at, tensor)| (format!("{kind}.{at}"), tensor))
            })
        };
        let specs: Vec<TensorSpec> = each()
            .map(|(name, tensor)| {
                TensorSpec::new(name, Encoding::F32, vec![tensor.elements() as u64])
            })
            .collect();
        let file = match self.next.take() {
            Some(file) => file,
            None => self.file()?,
        };
        let mut writer = SafetensorsWriter::create_in(file, &specs, &header)?;
        for (name, tensor) in each() {
            writer.write(&name, tensor.bytes())?;
        }
        writer.finish()?;
        self.next = match self.file() {
            // Told to end: this one was the last.
            Err(error) if error.kind() == Fault::Interrupted => None,
            other => Some(other?),
        };
        Ok(())
    }

    /// Reads the values of the checkpoint of `record`, where `sizes` says what vectors of a kind have.
    ///
    /// # Errors
    /// E0962 where they are not as they were written, or of other parameters.
    pub fn load(
        &self,
        record: &Record,
        sizes: &dyn Fn(&str) -> Vec<usize>,
    ) -> Result<BTreeMap<String, Flat>> {
        let path = self.file_path(CHECKPOINT);
        let fault = |message: &str| {
            Error::input("E0962", message.to_owned())
                .at(path.display())
                .help("restore it from a copy, or start a new run in another run.folder")
        };
        let tensors = read_tensors(&path).map_err(|error| match error.code() {
            "E0603" => error,
            _ => fault("the checkpoint cannot be read").caused_by(error),
        })?;
        let mut placed = BTreeMap::new();
        for (name, tensor) in tensors {
            let (kind, at) = name.split_once('.').unwrap_or((&name, ""));
            placed.insert((kind.to_owned(), at.parse::<usize>().unwrap_or(0)), tensor);
        }
        let mut values: BTreeMap<String, Flat> = BTreeMap::new();
        for ((kind, _), tensor) in placed {
            values.entry(kind).or_default().push(tensor);
        }
        if digest(&values) != record.digest {
            return Err(fault("the checkpoint was changed after it was written"));
        }
        let fits = |(kind, flat): (&String, &Flat)| {
            flat.iter().map(|tensor| tensor.elements()).eq(sizes(kind))
        };
        match values.iter().all(fits) {
            true => Ok(values),
            false => Err(fault("the checkpoint is for other parameters")),
        }
    }
}

/// What a checkpoint says about its run.
///
/// # Errors
/// E0962 where it is none.
pub fn record_of(path: &Path) -> Result<Record> {
    let fault = |message: &str| {
        Error::input("E0962", message.to_owned())
            .at(path.display())
            .help("give the checkpoint of a training run, unchanged")
    };
    let file = Checkpoint::open(path)
        .map_err(|error| fault("the checkpoint cannot be read").caused_by(error))?;
    let text =
        file.metadata().get(KEY).ok_or_else(|| fault("this is not the checkpoint of a run"))?;
    let record: Record = serde_json::from_str(text).map_err(|error| {
        fault("this checkpoint was written by another version").caused_by(error)
    })?;
    match record.schema == SCHEMA {
        true => Ok(record),
        false => Err(fault("this checkpoint was written by another version")),
    }
}

fn digest(values: &BTreeMap<String, Flat>) -> String {
    let mut hasher = Sha256::new();
    for (kind, flat) in values {
        hasher.update(kind);
        flat.iter().for_each(|tensor| hasher.update(tensor.bytes()));
    }
    hex(hasher)
}
