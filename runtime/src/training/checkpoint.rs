//! The folder of a run: its lock, and the checkpoint that it goes on from.
//!
//! A checkpoint is one file with everything that the rest of the run depends on: parameters, moments,
//! average, the gradient summed up so far, the position, and the settings. It appears whole or not at
//! all, and a digest says whether it is still what was written. A file for the next one is always
//! open, because none can be opened once the program was told to end.

use super::best::Kept;
use super::cache::hex;
use super::dataset::Dataset;
use super::log::LOG;
use super::parameters::{Flat, Kind, Parameters};
use super::result;
use super::samples::SAMPLES;
use super::settings::{Settings, TrainedNetwork};
use crate::checkpoint::{Checkpoint, Encoding, SafetensorsWriter, TensorSpec, write_error};
use crate::error::{Error, Kind as Fault, Result, plural};
use crate::files::{AtomicFile, make_folder};
use crate::pipeline::Cancel;
use anyid_ir::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// What an interruption ends while a checkpoint is read.
const READING: &str = "while reading the checkpoint";

/// Name of the checkpoint in the folder of a run.
pub const CHECKPOINT: &str = "checkpoint.safetensors";
/// Name of the file that is locked.
pub(super) const LOCK: &str = "lock";
/// Key of its header.
pub(super) const KEY: &str = "anyid.training";
/// What it is called in its header.
const SCHEMA: &str = "anyid.training/1";

/// What is compared: the kind of a run, its manifest and model, clips and prompts, and those of the validation
/// set.
const TRAINED: &str = "what is trained";
const MANIFEST: &str = "SHA-256 of the manifest";
const MODEL: &str = "fingerprint of the model";
const DATA: &str = "digest of clips and prompts";
const VALIDATION: &str = "digest of the validation set";
/// Samples that are named where they differ.
const NAMED: usize = 3;

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
    /// The result of it, as it was written. Checkpoints of before there was this have none.
    #[serde(default)]
    pub kept: Option<Kept>,
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
    /// Of both, samples in short ([`Dataset::parts`]), so that what changed can be named. Checkpoints of
    /// before there was this have none.
    #[serde(default)]
    parts: [String; 2],
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
            parts: [Some(data), validation].map(|set| set.map_or(String::new(), Dataset::parts)),
            model: model.to_owned(),
            device: device.to_owned(),
            position: Position::default(),
            digest: String::new(),
        }
    }

    /// Refuses to go on from `self` as `now`, which differs; what differs is named. `sets` is what is
    /// trained on now, and what is measured.
    ///
    /// # Errors
    /// E0963.
    pub fn same(
        &self,
        now: &Self,
        settings: &Settings,
        sets: [Option<&Dataset>; 2],
        path: &Path,
    ) -> Result<()> {
        let rows = self.apart(now, settings, sets);
        if rows.is_empty() {
            return Ok(());
        }
        // What a new run could not begin with, or should not.
        let other = |key: &str| {
            [TRAINED, MODEL, "train.network"].contains(&key) || key.starts_with("lora.")
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let learned = self.learned(folder).filter(|_| !rows.iter().any(|(key, ..)| other(key)));
        let learned = learned.map_or(String::new(), |learned| format!("; {learned}"));
        let rows = rows.into_iter().map(|(_, row)| row);
        let message =
            format!("the run was started with other settings:{}", rows.collect::<String>());
        Err(Error::input("E0963", message).at(path.display()).help(format!(
            "use the settings that it was started with, or start a new run in another \
             run.folder{learned}"
        )))
    }

    /// Where a run as `now` would not be this one, by keys, each with what is said of it. What merely
    /// follows from another difference is left out.
    fn apart(
        &self,
        now: &Self,
        settings: &Settings,
        sets: [Option<&Dataset>; 2],
    ) -> Vec<(String, String)> {
        let row = |(key, then, now): (String, String, String)| {
            let said = format!("\n  {key}: {then}, now {now}");
            (key, said)
        };
        let named = |key: &str, then: &str, now: &str| {
            row((key.to_owned(), then.to_owned(), now.to_owned()))
        };
        if self.kind != now.kind {
            // Nothing else of one kind of run is that of another.
            return vec![named(TRAINED, &self.kind, &now.kind)];
        }
        let mut rows: Vec<(String, String)> =
            settings.differences(&self.settings).into_iter().map(row).collect();
        // These decide how clips and prompts are encoded.
        let encoding = |key: &str| {
            key.starts_with("video.") || ["train.network", "model.precision"].contains(&key)
        };
        let other_encoding = rows.iter().any(|(key, _)| encoding(key)) || self.model != now.model;
        let [learned, measured] = [0, 1].map(|at| {
            let apart = sets[at].map_or(Vec::new(), |set| set.apart(&self.parts[at]));
            let named = apart.iter().take(NAMED).map(|what| format!("\n    {what}"));
            let more = match apart.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!("\n    and {}", plural(more, "more sample")),
            };
            Some(named.collect::<String>() + &more).filter(|_| !other_encoding)
        });
        let text = |digest: &Option<String>| digest.clone().unwrap_or_else(|| "none".to_owned());
        let data = self.data != now.data;
        if self.manifest != now.manifest {
            let (key, said) = named(MANIFEST, &self.manifest, &now.manifest);
            rows.push((key, said + learned.as_deref().filter(|_| data).unwrap_or_default()));
        } else if let (true, Some(learned)) = (data, &learned) {
            let (key, said) = named(DATA, &self.data, &now.data);
            rows.push((key, said + learned));
        }
        let [then, now_is] = [self, now].map(|record| text(&record.validation));
        let given = self.validation.is_some() != now.validation.is_some();
        if then != now_is && (given || measured.is_some()) {
            let (key, said) = named(VALIDATION, &then, &now_is);
            rows.push((key, said + measured.as_deref().unwrap_or_default()));
        }
        for (key, then, now) in
            [(MODEL, &self.model, &now.model), ("device", &self.device, &now.device)]
        {
            if then != now {
                rows.push(named(key, then, now));
            }
        }
        rows
    }

    /// How a new run can begin with what this one, in `folder`, has learned; none where there is no way.
    pub fn learned(&self, folder: &Path) -> Option<String> {
        let train = &self.settings["train"];
        let name = match self.kind == Kind::Full.name() {
            true => serde_json::from_value::<TrainedNetwork>(train["network"].clone()).ok()?.file(),
            false => "adapter",
        };
        let file = |end: &str| folder.join(format!("{name}{end}.safetensors"));
        let [last, best] = ["", result::BEST].map(file);
        if last.is_file() {
            return Some(format!("--init-from {} begins with its result", last.display()));
        }
        if best.is_file() {
            return Some(format!("--init-from {} begins with its best so far", best.display()));
        }
        let Position { updates, row, .. } = &self.position;
        let longer = train["schedule"].as_str().is_none_or(|how| how == "constant");
        // A run that has as many updates as it is to have writes its result.
        (*updates > 0 && row.is_none() && longer).then(|| {
            format!(
                "--init-from begins with what it has learned so far, which its own command with \
                 --resume --steps {updates} writes as {name}.safetensors"
            )
        })
    }
}

/// A kind of vectors, and the places of the parameters' vectors that have one of it.
pub type Vectors = (&'static str, Vec<usize>);

/// Shows a vector of a kind, by its place.
pub type Read<'r> = dyn Fn(&str, usize, &mut dyn FnMut(&[u8])) -> Result<()> + 'r;

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
        let mut folder = Self { path: path.to_owned(), _lock: lock(path)?, next: None };
        folder.next = Some(folder.file()?);
        Ok(folder)
    }

    /// Whether a run was begun in the folder at `path`, or something of one is there. A lock alone is that of
    /// a run too, unless there are others below it.
    pub fn is_begun(path: &Path) -> bool {
        let all = result::all_names().into_iter();
        let mut all = all.chain([LOG, CHECKPOINT].map(str::to_owned));
        all.any(|name| path.join(name).exists())
            || (path.join(LOCK).exists() && Self::runs_in(path).is_empty())
    }

    /// Names of the folders in the one at `path` that runs were begun in, such as those of stages.
    pub fn runs_in(path: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let runs = entries.filter(|entry| entry.path().join(LOCK).is_file());
        let mut names: Vec<String> =
            runs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
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

    /// A file in the folder at `path` with the name of something that a run leaves, if there is one. A log
    /// without a line is none: a run that was killed before its first checkpoint leaves it.
    pub fn results(path: &Path) -> Option<String> {
        let mut all = result::all_names().into_iter().chain([LOG, SAMPLES].map(str::to_owned));
        all.find(|name| {
            let about = path.join(name).symlink_metadata();
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

    /// Replaces the checkpoint. Its values are vectors of these kinds, as long as the parameters are; `read`
    /// shows one, whole or in pieces, so that there is never a copy of them.
    ///
    /// # Errors
    /// E1012 disk full, E1011 and E1013 otherwise; the checkpoint before it stays.
    pub fn save(
        &mut self,
        record: &Record,
        (kinds, parameters): (&[Vectors], &Parameters),
        read: &Read<'_>,
    ) -> Result<()> {
        let mut hasher = Sha256::new();
        let mut vectors = Vec::new();
        for (kind, groups) in kinds {
            hasher.update(kind);
            for (number, group) in groups.iter().enumerate() {
                read(kind, *group, &mut |piece| hasher.update(piece))?;
                let shape = vec![parameters.groups[*group].elements as u64];
                let spec = TensorSpec::new(format!("{kind}.{number}"), Encoding::F32, shape);
                vectors.push((spec, *kind, *group));
            }
        }
        let specs: Vec<TensorSpec> = vectors.iter().map(|(spec, ..)| spec.clone()).collect();
        let record = Record { digest: hex(hasher), ..record.clone() };
        let text = serde_json::to_string(&record).expect("a record has a JSON form");
        let header = BTreeMap::from([(KEY.to_owned(), text)]);
        let file = match self.next.take() {
            Some(file) => file,
            None => self.file()?,
        };
        let mut writer = SafetensorsWriter::create_in(file, &specs, &header)?;
        for (spec, kind, group) in &vectors {
            let mut written = Ok(());
            read(kind, *group, &mut |piece| {
                if written.is_ok() {
                    written = writer.write(&spec.name, piece);
                }
            })?;
            written?;
        }
        writer.finish()?;
        self.next = match self.file() {
            // Told to end: this one was the last.
            Err(error) if error.kind() == Fault::Interrupted => None,
            other => Some(other?),
        };
        Ok(())
    }

    /// Reads the values of the checkpoint of `record`, vectors of these kinds for these parameters.
    /// Each goes through its place in `room` to `take`, once it is known that all of them are sound.
    ///
    /// # Errors
    /// E0962 where they are not as they were written, or of other parameters; E1002 where `cancel` says to
    /// stop; those of `take`.
    pub fn load(
        &self,
        (record, kinds): (&Record, &[Vectors]),
        room: &mut Flat,
        cancel: &Cancel,
        take: &mut dyn FnMut(&str, usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let path = self.file_path(CHECKPOINT);
        let fault = |message: &str| {
            Error::input("E0962", message.to_owned())
                .at(path.display())
                .help("restore it from a copy, or start a new run in another run.folder")
        };
        let unread = |error: Error| match error.code() {
            "E0603" => error,
            _ => unread(&path, &error),
        };
        let file = Checkpoint::open(&path).map_err(unread)?;
        // Vectors by kind and number, as they were written.
        let mut placed: BTreeMap<(&str, usize), usize> = BTreeMap::new();
        for (position, (name, _)) in file.iter().enumerate() {
            let (kind, at) = name.split_once('.').unwrap_or((name, ""));
            placed.insert((kind, at.parse().unwrap_or(usize::MAX)), position);
        }
        let (mut hasher, mut before) = (Sha256::new(), "");
        let mut piece = vec![0u8; 1 << 16];
        for ((kind, _), position) in &placed {
            if *kind != before {
                hasher.update(kind);
                before = *kind;
            }
            let bytes = file.table().tensors()[*position].bytes;
            cancel.check(READING)?;
            for from in (0..bytes).step_by(piece.len()) {
                let some = &mut piece[..(bytes - from).min(1 << 16) as usize];
                file.read(*position, from, some).map_err(unread)?;
                hasher.update(some);
            }
        }
        if hex(hasher) != record.digest {
            return Err(fault("the checkpoint was changed after it was written"));
        }
        for (kind, groups) in kinds {
            for (number, group) in groups.iter().enumerate() {
                cancel.check(READING)?;
                let position = placed.get(&(*kind, number));
                let position = position.ok_or_else(|| fault("the checkpoint is incomplete"))?;
                let (tensor, room) = (&file.table().tensors()[*position], &mut room[*group]);
                if tensor.elements() != room.elements() as u64
                    || tensor.bytes != room.bytes().len() as u64
                {
                    return Err(fault("the checkpoint is for other parameters"));
                }
                file.read(*position, 0, room.bytes_mut()).map_err(unread)?;
                take(kind, *group, room)?;
            }
        }
        Ok(())
    }
}

/// Locks a folder, for as long as the file is held.
///
/// # Errors
/// E0961 where another program holds it, E1011 to E1013 where it cannot be written.
pub fn lock(folder: &Path) -> Result<File> {
    let name = folder.join(LOCK);
    let lock = File::options().create(true).truncate(false).write(true).open(&name);
    let lock = lock.map_err(|fault| write_error(&name, fault))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(Error::input("E0961", "another run is using this folder")
                .at(folder.display())
                .help("wait for it or stop it, or give this run another folder"))
        }
        Err(TryLockError::Error(fault)) => Err(write_error(&name, fault)),
    }
}

/// The error of a checkpoint that cannot be read. What helps with files of others is of no use here: it is
/// a file of this program that was changed or cut off behind it.
pub fn unread(path: &Path, error: &Error) -> Error {
    Error::input("E0962", format!("the checkpoint cannot be read: {}", error.message()))
        .at(path.display())
        .help("restore it from a copy, or start a new run in another run.folder")
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
    let file = Checkpoint::open(path).map_err(|error| unread(path, &error))?;
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
