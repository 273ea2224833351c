//! The folder of a run: who is at work in it, what it holds, and whether that fits what is to be added.

use crate::identity::{Looked, Which};
use crate::raw::{self, Results, Run, schema};
use anyid_files::checkpoint::{Encoding, WeightSet, hash_file, save};
use anyid_files::output::{AtomicFile, make_folder, write_error};
use anyid_files::shard::Shard;
use anyid_files::{Error, Result, error};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// The folder, which no other run of the same part can enter while this is held.
pub struct Folder {
    path: PathBuf,
    /// Held for as long as the run is at work.
    _locks: Vec<File>,
}

fn locked(path: &Path, alone: bool) -> Result<File> {
    let fail = |fault| write_error(path, fault);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(fail)?;
    let lock = if alone { file.try_lock() } else { file.try_lock_shared() };
    match lock {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::input("E1705", "another run is at work in this folder")
                .at(path.display())
                .help("wait for it, give each run a part of its own (--shard), or another folder"))
        }
        Err(TryLockError::Error(fault)) => Err(fail(fault)),
    }
}

fn other(path: &Path, what: String) -> Error {
    Error::input("E1705", what)
        .at(path.display())
        .help("write to another folder (--out), or measure all of it again (--redo)")
}

impl Folder {
    /// Enters a folder: alone for a whole run, beside other parts for a part.
    ///
    /// # Errors
    /// E1705 where another run is at work, E101x.
    pub fn open(path: &Path, shard: Shard) -> Result<Self> {
        make_folder(path)?;
        let whole = shard == Shard::WHOLE;
        let mut locks = vec![locked(&path.join("run.lock"), whole)?];
        if !whole {
            locks.push(locked(&path.join(format!("{}.lock", shard.name())), true)?);
        }
        Ok(Self { path: path.to_owned(), _locks: locks })
    }

    /// The record of the folder with what is added by `run`.
    ///
    /// # Errors
    /// E1705 where the folder has results of other cases, or that were measured otherwise; E101x.
    pub fn agree(&self, mut run: Run, cases: &Path, redo: bool) -> Result<Run> {
        let path = self.path.join("run.json");
        let own = self.path.join("cases.jsonl");
        if path.exists() {
            let old: Run = raw::read(&path, schema::RUN)?;
            if old.cases != run.cases {
                return Err(Error::input("E1705", "the folder has results of other cases")
                    .at(path.display())
                    .help("write to another folder (--out)"));
            }
            match (measured_otherwise(&old, &run), redo) {
                (Some(what), false) => {
                    return Err(other(&path, format!("its results were measured with {what}")));
                }
                // Results of systems that are not measured again fit no more.
                (Some(_), true) => {}
                (None, _) => joined(&mut run, old),
            }
        }
        if !own.exists() || hash_file(&own)? != run.cases {
            let bytes = std::fs::read(cases).map_err(|fault| error::unreadable(cases, fault))?;
            let mut file = AtomicFile::create(&own)?;
            file.append(&bytes)?;
            file.commit()?;
        }
        super::write_json(&path, &run)?;
        Ok(run)
    }
}

/// What two runs measure in different ways, of what both measure.
fn measured_otherwise(old: &Run, new: &Run) -> Option<String> {
    for model in &new.models {
        let known = old.models.iter().find(|known| known.role == model.role);
        if let Some(known) = known.filter(|known| known.sha256 != model.sha256) {
            return Some(format!("another model for {} ({})", model.role, known.name));
        }
    }
    if old.frames != new.frames && old.frames > 0 && new.frames > 0 {
        return Some(format!("{} frames of a video", old.frames));
    }
    match (&old.judge, &new.judge) {
        (Some(old), Some(new)) if old != new => Some("another judge".to_owned()),
        _ => None,
    }
}

/// Adds what an earlier run has measured.
fn joined(run: &mut Run, old: Run) {
    let systems: BTreeSet<String> =
        run.systems.drain(..).chain(old.systems.iter().cloned()).collect();
    // What is said of a system now holds.
    let earlier = |name: &String| !run.notes.contains_key(name);
    let notes: Vec<_> = old.notes.into_iter().filter(|(name, _)| earlier(name)).collect();
    run.notes.extend(notes);
    for (name, tasks) in old.tasks {
        run.tasks.entry(name).or_insert(tasks);
    }
    run.systems = systems.into_iter().collect();
    for model in old.models {
        if !run.models.iter().any(|own| own.role == model.role) {
            run.models.push(model);
        }
    }
    run.models.sort_by(|a, b| a.role.cmp(&b.role));
    run.frames = run.frames.max(old.frames);
    run.judge = run.judge.take().or(old.judge);
}

/// The file of the embeddings of one video.
fn part(out: &Path, system: &str, case: &str) -> PathBuf {
    out.join("embeddings").join(system).join(format!("{case}.safetensors"))
}

/// Writes the embeddings of a video: for each encoder, the numbers of frames with a face, and what it
/// says of the largest face of each.
///
/// # Errors
/// E101x.
pub fn write_embeddings(out: &Path, system: &str, case: &str, looked: &Looked) -> Result<()> {
    let path = part(out, system, case);
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let mut tensors: Vec<(&str, Vec<u64>, Vec<u8>)> = Vec::new();
    for which in Which::ALL {
        let all = &looked.embeddings[which as usize];
        let Some((_, first)) = all.first() else { continue };
        let values = all.iter().flat_map(|(_, values)| values.iter().flat_map(|v| v.to_le_bytes()));
        let shape = vec![all.len() as u64, first.len() as u64];
        tensors.push((which.name(), shape, values.collect()));
    }
    if tensors.is_empty() {
        // Those of an earlier video are none of this one.
        let _ = std::fs::remove_file(&path);
        return Ok(());
    }
    let borrowed: Vec<_> = tensors
        .iter()
        .map(|(name, shape, bytes)| (*name, Encoding::F32, &shape[..], &bytes[..]))
        .collect();
    save(path, &borrowed, &BTreeMap::new())
}

/// Puts the embeddings of all videos into one file: tensors `SYSTEM/CASE/arc` and `SYSTEM/CASE/cur`.
///
/// # Errors
/// E101x, and those of files that were damaged.
pub fn join_embeddings(results: &Results) -> Result<()> {
    let mut tensors: Vec<(String, Vec<u64>, Vec<u8>)> = Vec::new();
    for (system, case) in results.raws.keys() {
        let path = part(&results.folder, system, case);
        if !path.is_file() {
            continue;
        }
        let set = WeightSet::open(&path)?;
        for which in Which::ALL {
            let Some(weight) = set.tensor(which.name()) else { continue };
            let shape = weight.shape.clone();
            tensors.push((
                format!("{system}/{case}/{}", which.name()),
                shape,
                set.contents(which.name())?,
            ));
        }
    }
    let borrowed: Vec<_> = tensors
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), Encoding::F32, &shape[..], &bytes[..]))
        .collect();
    save(results.folder.join("embeddings.safetensors"), &borrowed, &BTreeMap::new())
}
