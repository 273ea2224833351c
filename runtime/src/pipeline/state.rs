//! The state of a sampling that is not finished: stored behind its steps, and gone on from to the same
//! bits.
//!
//! A state is a safetensors file with the latents and what solver and step cache keep; its metadata has
//! the recipe of the run and the number of steps that are done. Only a run with the same recipe goes on
//! from it, apart from where its results go. Behind the last step it is a file of latents like any
//! other. It is replaced whole or not at all, and removed when the video is complete. That a state
//! cannot be stored does not end a run.

use super::context::tensor_f32;
use super::kept::{RECIPE_KEY, shell_word};
use super::preview::Preview;
use super::sample::{KeptTensor, LATENTS, Sampler};
use super::{FileOptions, Request};
use crate::checkpoint::{Checkpoint, Encoding, save_in};
use crate::error::{Error, Kind, Result};
use crate::files::{self, AtomicFile, Existing, Own};
use crate::recipe::Recipe;
use crate::weights::read_tensors;
use anyid_ir::Tensor;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Metadata key of a state: the steps that are done, and all of them, such as `3/50`.
pub const STEP_KEY: &str = "anyid-rt step";
/// What is appended to the name of a result.
const SUFFIX: &str = ".state.safetensors";
/// The part of the time of a run that storing states may take.
const SHARE: u32 = 10;
/// Keys of a recipe in which runs with the same latents may differ.
const FREE: [&str; 9] = [
    "output",
    "fps",
    "codec",
    "quality",
    "pix_format",
    "version",
    "decoded_from",
    "tiles",
    "safeguards",
];

/// The file of the state of a result: in the same folder, with `.state.safetensors` appended.
pub fn state_beside(output: &Path) -> PathBuf {
    let clean: PathBuf = output.components().collect();
    let mut name = clean.file_name().unwrap_or_default().to_os_string();
    name.push(SUFFIX);
    clean.with_file_name(name)
}

/// What a sampling goes on from.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingState {
    /// Steps that are done.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    latents: Tensor,
    tensors: BTreeMap<String, Tensor>,
}

impl SamplingState {
    /// A copy of a state, for going on from it without a file.
    ///
    /// # Errors
    /// As [`StepState::tensors`].
    pub fn of(state: &StepState<'_>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (name, shape, values) in state.tensors()? {
            tensors.insert(name, tensor_f32(shape, &values)?);
        }
        let latents = tensors.remove(LATENTS).expect("a state has latents");
        Ok(Self { done: state.done, total: state.total, latents, tensors })
    }

    /// The latents `f32[C,F,h,w]` behind the steps that are done.
    pub fn latents(&self) -> &Tensor {
        &self.latents
    }

    /// Whether only decoding is left.
    pub fn is_complete(&self) -> bool {
        self.done == self.total
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().chain([&self.latents]).map(|tensor| tensor.ty().bytes()).sum()
    }

    /// Writes what is kept under a name.
    pub(super) fn fill(&self, name: &str, to: &mut [f32]) -> Result<()> {
        let kept = self.tensors.get(name).and_then(|tensor| tensor.as_f32().ok());
        match kept.filter(|values| values.len() == to.len()) {
            Some(values) => to.copy_from_slice(values),
            None => {
                let message = format!("the state has no tensor \"{name}\" of {} values", to.len());
                return Err(Error::input("E1301", message).help(START_AGAIN));
            }
        }
        Ok(())
    }
}

/// Advice where a state is of no use.
const START_AGAIN: &str = "remove the file, and the run starts from its first step";

/// A state that was found on the disk.
#[derive(Clone, Debug)]
pub struct FoundState {
    /// The file.
    pub path: PathBuf,
    /// The recipe of the run that stored it.
    pub recipe: Recipe,
    /// The state.
    pub state: SamplingState,
}

impl FoundState {
    /// Reads the state at `path`; none if there is no file.
    ///
    /// # Errors
    /// E1301 for a file that is no state, E03xx and E0911 where it cannot be read, E0910 for its recipe.
    pub fn find(path: &Path) -> Result<Option<Self>> {
        if std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
        {
            return Ok(None);
        }
        let no_state = |what: String| {
            Error::input("E1301", what).at(path.display()).help(
                "give the state that a run with --resume left (OUT.state.safetensors); where the \
                 file is nothing of yours, remove it",
            )
        };
        // A file of ours is written whole: it was cut or changed since.
        let damaged = |error: Error| {
            error.advised(
                "this was to be the state of a sampling: remove the file, and the same command begins \
                 anew",
            )
        };
        let file = Checkpoint::open(path).map_err(damaged)?;
        let (recipe, step) = (file.metadata().get(RECIPE_KEY), file.metadata().get(STEP_KEY));
        let (Some(recipe), Some(step)) = (recipe, step) else {
            return Err(no_state("the file is not the state of a sampling".to_owned()));
        };
        let recipe = Recipe::parse(recipe.as_bytes(), path)?;
        let numbers = step
            .split_once('/')
            .map(|(done, total)| (done.parse::<usize>().ok(), total.parse::<usize>().ok()));
        let Some((Some(done), Some(total))) = numbers.filter(|(done, total)| done <= total) else {
            return Err(no_state(format!("\"{step}\" is not a number of steps")));
        };
        let mut tensors: BTreeMap<String, Tensor> =
            read_tensors(path).map_err(damaged)?.into_iter().collect();
        if let Some((name, _)) = tensors.iter().find(|(_, tensor)| tensor.as_f32().is_err()) {
            return Err(no_state(format!("the tensor \"{name}\" is not f32")));
        }
        let latents = tensors.remove(LATENTS).filter(|latents| latents.shape().len() == 4);
        let Some(latents) = latents else {
            return Err(no_state(format!("there is no tensor \"{LATENTS}\" of four axes")));
        };
        let state = SamplingState { done, total, latents, tensors };
        Ok(Some(Self { path: path.to_owned(), recipe, state }))
    }

    /// Checks that it is of the run that `made` describes.
    ///
    /// # Errors
    /// E1302 naming what differs.
    pub fn check(&self, made: &Recipe) -> Result<()> {
        let differs = differences(&self.recipe, made);
        if differs.is_empty() {
            return Ok(());
        }
        let message = format!("the state is of another run: {} differ", differs.join(", "));
        Err(Error::input("E1302", message).at(self.path.display()).help(
            "repeat that run with what it was given, or remove the file, and this one starts from \
             its first step",
        ))
    }
}

/// The settings in which two runs differ, of those that latents depend on.
pub fn differences(one: &Recipe, other: &Recipe) -> Vec<String> {
    let both = [one, other].map(|recipe| {
        let mut value = recipe.to_json();
        without_paths(&mut value);
        value
    });
    let keys = both.iter().filter_map(Value::as_object).flat_map(|object| object.keys());
    let keys: BTreeSet<&String> = keys.filter(|key| !FREE.contains(&key.as_str())).collect();
    let named = |key: &&String| both[0].get(key.as_str()) != both[1].get(key.as_str());
    keys.into_iter().filter(named).map(|key| key.replace('_', " ")).collect()
}

/// Leaves out where files lie and how they were described: their hashes say which they are.
fn without_paths(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for key in ["path", "files", "read_as"] {
                fields.remove(key);
            }
            fields.values_mut().for_each(without_paths);
        }
        Value::Array(list) => list.iter_mut().for_each(without_paths),
        _ => {}
    }
}

/// A sampling behind one of its steps, for whoever stores it.
pub struct StepState<'s> {
    /// Steps that are done.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    /// Whether there may be no later state: the run was told to end, or it was the last step.
    pub pressing: bool,
    pub(super) sampler: &'s Sampler,
}

impl StepState<'_> {
    /// The tensors of the state, `latents` among them.
    ///
    /// # Errors
    /// E0603 without memory for a copy.
    pub fn tensors(&self) -> Result<Vec<KeptTensor<'_>>> {
        self.sampler.kept()
    }

    /// Pictures of what is predicted, if the request has [`Request::preview`] and references say which
    /// colours latents have.
    pub fn preview(&self) -> Option<Preview> {
        self.sampler.preview(self.done)
    }
}

/// The file of the state of a run.
pub(super) struct StateFile {
    path: PathBuf,
    /// Opened before it is needed: after a signal no new file is opened.
    next: Option<AtomicFile>,
    /// The newest state, with the steps that are done.
    newest: Option<(usize, Own)>,
    /// Whether that is the state of the last step.
    complete: bool,
    /// The steps that a state had which was there from the beginning.
    found: Option<usize>,
    begun: Instant,
    spent: Duration,
    /// Whether the user was told that it cannot be stored.
    told: bool,
    flags: String,
}

impl StateFile {
    /// Opens the file that `options` name, if they do.
    ///
    /// # Errors
    /// Those of [`AtomicFile::create_as`].
    pub(super) fn open(options: &FileOptions) -> Result<Option<Self>> {
        let Some(path) = &options.state else { return Ok(None) };
        let flags = match options.writer.existing {
            Existing::Keep => "",
            _ => " --force",
        };
        Ok(Some(Self {
            path: path.clone(),
            next: Some(open(path)?),
            newest: None,
            complete: false,
            found: None,
            begun: Instant::now(),
            spent: Duration::ZERO,
            told: false,
            flags: flags.to_owned(),
        }))
    }

    /// The run goes on from a state that was there.
    pub(super) fn goes_on(&mut self, done: usize) {
        self.found = Some(done);
    }

    /// Stores a state if it is time for it; gives a warning if that failed.
    pub(super) fn store(&mut self, state: &StepState<'_>, made: &Recipe) -> Option<String> {
        let due = self.spent.saturating_mul(SHARE) <= self.begun.elapsed();
        if !due && !state.pressing {
            return None;
        }
        let since = Instant::now();
        let stored = self.written(state, made);
        self.spent += since.elapsed();
        match stored {
            Ok(own) => {
                self.newest = Some((state.done, own));
                self.complete = state.done == state.total;
                // It is needed only behind a later step, and opening it may fail.
                self.next = match state.done < state.total {
                    true => open(&self.path).ok(),
                    false => None,
                };
                None
            }
            Err(_) if std::mem::replace(&mut self.told, true) => None,
            Err(error) if error.kind() == Kind::Interrupted => None,
            Err(error) => Some(format!(
                "the state of sampling could not be stored in {} ({}): the run goes on without it",
                self.path.display(),
                error.message()
            )),
        }
    }

    fn written(&mut self, state: &StepState<'_>, made: &Recipe) -> Result<Own> {
        let file = match self.next.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        let rows = state.tensors()?;
        let shapes: Vec<Vec<u64>> =
            rows.iter().map(|(_, shape, _)| shape.iter().map(|n| *n as u64).collect()).collect();
        let rows: Vec<(&str, Encoding, &[u64], &[u8])> = rows
            .iter()
            .zip(&shapes)
            .map(|((name, _, values), shape)| {
                (name.as_str(), Encoding::F32, shape.as_slice(), bytemuck::cast_slice(&values[..]))
            })
            .collect();
        let metadata = BTreeMap::from([
            (RECIPE_KEY.to_owned(), made.to_json().to_string()),
            (STEP_KEY.to_owned(), format!("{}/{}", state.done, state.total)),
        ]);
        files::commit_own(save_in(file, &rows, &metadata)?)
    }

    /// Whether the state of the last step was stored and is still there: it has the latents.
    pub(super) fn has_latents(&self) -> bool {
        self.complete && self.newest.as_ref().is_some_and(|(_, own)| own.is_there())
    }

    /// The video is complete: what was stored for it is removed.
    pub(super) fn done(self) {
        match (self.newest, self.found) {
            (Some((_, own)), _) => own.remove(),
            (None, Some(_)) => drop(std::fs::remove_file(&self.path)),
            (None, None) => {}
        }
    }

    /// What the user should know after the run has failed.
    pub(super) fn advice(self) -> Option<String> {
        let done = match (&self.newest, self.found) {
            (Some((done, own)), _) => own.is_there().then_some(*done)?,
            (None, found) => found?,
        };
        let (shown, word, flags) = (self.path.display(), shell_word(&self.path), self.flags);
        let steps = crate::error::plural(done, "step");
        Some(format!(
            "the state behind {steps} is in {shown}: the same command goes on from there, and so does \
             `anyid-rt generate --resume {word}{flags}`"
        ))
    }
}

fn open(path: &Path) -> Result<AtomicFile> {
    let file = AtomicFile::create_as(path, Existing::Overwrite)?;
    file.keep_when_stopped();
    Ok(file)
}

impl Request {
    /// Latents that are finished already: given ones, or those of a complete state.
    pub(super) fn finished_latents(&self) -> Option<&Tensor> {
        let complete = self.resume.as_ref().filter(|state| state.is_complete());
        self.latents.as_ref().or(complete.map(SamplingState::latents))
    }
}
