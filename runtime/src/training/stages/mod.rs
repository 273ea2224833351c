//! Runs one behind the other: the stages of one file, each on the model that those before it made.
//!
//! Contract: everything about the file is checked before the first stage, and what there is of adapters and
//! manifests as well. A stage that is finished is
//! skipped, one that was interrupted goes on, and after any interruption the same bytes come out. A stage
//! that misses a gate ends the stages, and what came before it stays. What runs do is for `request.rs`.

mod ahead;
mod assemble;
mod faults;
mod file;
mod gate;
mod once;
mod record;

pub use file::Stages;
use file::{Base, Stage};
pub use gate::{Gate, Measured};

use super::checkpoint::{CHECKPOINT, lock};
use super::log::LOG;
use super::request::{Again, Report, Training, interruption};
use super::{Event, Settings, result};
use crate::engine::{Backend, interrupted};
use crate::error::{Error, Kind as Fault, Result};
use crate::files::make_folder;
use crate::pipeline::Cancel;
use crate::safeguards::Safeguards;
use record::Record;
use std::path::{Path, PathBuf};

/// What is reported while stages run.
#[derive(Clone, Debug)]
pub enum StageEvent<'s> {
    /// A stage begins, or goes on.
    Begun {
        /// Its name.
        name: &'s str,
        /// Which one, from 1.
        number: usize,
        /// How many there are.
        total: usize,
    },
    /// A stage was finished before.
    Skipped {
        /// Its name.
        name: &'s str,
    },
    /// Something of its run.
    Training(Event),
    /// A gate was passed.
    Passed(Measured),
    /// The model with its result is there.
    Assembled {
        /// The folder.
        model: PathBuf,
    },
}

/// What a stage came to.
#[derive(Clone, Debug, PartialEq)]
pub struct StageReport {
    /// Its name.
    pub name: String,
    /// Whether it was finished before.
    pub skipped: bool,
    /// Updates of its run.
    pub updates: u64,
    /// Its gates.
    pub gates: Vec<Measured>,
    /// The model folder with its result.
    pub model: PathBuf,
}

/// An interruption of stages, after which nothing but the same command is needed.
fn resumable(error: Error) -> Error {
    match error.kind() {
        Fault::Interrupted => interruption(error, None).help("the same command goes on from here"),
        _ => error,
    }
}

impl Stages {
    /// Runs what is not finished, as far as stage `until`, if that is said.
    ///
    /// # Errors
    /// E0969 for a gate that is missed, E0970 for a stage that there is not, E0971 for one that was made
    /// otherwise or whose result was changed, E0961 where others run in the same folder; those of comparing
    /// stages with the model, of what they will need, of [`Training::run`], of reading models, and E101x where something cannot be written.
    pub fn run(
        &self,
        backend: &Backend,
        guards: Option<&Safeguards>,
        until: Option<&str>,
        cancel: &Cancel,
        events: &mut dyn FnMut(StageEvent<'_>),
    ) -> Result<Vec<StageReport>> {
        let last = match until {
            None => self.list.len(),
            Some(name) => {
                let at = self.list.iter().position(|stage| stage.name == name);
                1 + at.ok_or_else(|| self.refused(format!("there is no stage \"{name}\"")))?
            }
        };
        self.compare_once()?;
        self.look_ahead(last, backend, cancel).map_err(resumable)?;
        make_folder(&self.folder)?;
        let _lock = lock(&self.folder)?;
        let mut out = Vec::new();
        for (at, stage) in self.list[..last].iter().enumerate() {
            if cancel.is_cancelled() {
                return Err(resumable(interrupted(&format!("before stage {}", stage.name))));
            }
            let base = self.base(stage);
            let now = Record::new(self, stage, &base)?;
            let report = match Record::open(&self.record(at))? {
                Some(record) => {
                    record.same(&now, &self.folder_of(at), &self.anew(at))?;
                    events(StageEvent::Skipped { name: &stage.name });
                    let gates = self.gates(at, &mut |_| ())?;
                    let (updates, model) = (record.updates, self.model_of(at));
                    StageReport { name: stage.name.clone(), skipped: true, updates, gates, model }
                }
                None => {
                    let (number, total) = (at + 1, last);
                    events(StageEvent::Begun { name: &stage.name, number, total });
                    self.make(at, now, (backend, guards), cancel, events).map_err(resumable)?
                }
            };
            out.push(report);
        }
        Ok(out)
    }

    /// Trains a stage, checks its gates, and makes its model.
    fn make(
        &self,
        at: usize,
        now: Record,
        (backend, guards): (&Backend, Option<&Safeguards>),
        cancel: &Cancel,
        events: &mut dyn FnMut(StageEvent<'_>),
    ) -> Result<StageReport> {
        let stage = &self.list[at];
        let settings = self.settings(at);
        let training = self.training(at, &settings, backend, guards);
        let Report { updates, .. } = self.train(at, &training, cancel, &mut |event| {
            events(StageEvent::Training(event));
        })?;
        let gates = self.gates(at, &mut |gate| events(StageEvent::Passed(gate)))?;
        let (base, model) = (self.base(stage), self.model_of(at));
        assemble::model(&base, stage, &self.result_of(at), &model)?;
        now.finish(updates, &model, &self.result_of(at))?.write(&self.record(at))?;
        events(StageEvent::Assembled { model: model.clone() });
        Ok(StageReport { name: stage.name.clone(), skipped: false, updates, gates, model })
    }

    /// The run of a stage, which is stopped at the first gate that it misses on its way.
    fn train(
        &self,
        at: usize,
        training: &Training<'_>,
        cancel: &Cancel,
        events: &mut dyn FnMut(Event),
    ) -> Result<Report> {
        let stage = &self.list[at];
        let log = self.folder_of(at).join(LOG);
        let mut left: Vec<&Gate> = stage.gates.iter().filter(|gate| gate.at.is_some()).collect();
        // What an interrupted run has missed already.
        self.pass_on_the_way(at, &left, &log)?;
        let mut missed = None;
        let report = training.run_as(Again::Command, cancel, &mut |event| {
            if let Event::Updated { step, .. } = event {
                // The line of an update is in the log when the next one has been made.
                let due = |gate: &&Gate| gate.at.is_some_and(|at| at < step);
                let (now, later): (Vec<&Gate>, Vec<&Gate>) = left.iter().copied().partition(due);
                left = later;
                if let Err(error) = self.pass_on_the_way(at, &now, &log) {
                    missed.get_or_insert(error);
                    cancel.cancel();
                }
            }
            events(event);
        });
        match missed {
            Some(error) => Err(error),
            None => report.map_err(|error| self.advised(at, error)),
        }
    }

    /// An error of the run of a stage: what helps a run by itself is not for a stage.
    fn advised(&self, at: usize, error: Error) -> Error {
        let first = match error.code() {
            "E0962" => "restore it from a copy",
            "E0963" => "go back to what the stage was begun with",
            "E0964" => "move the file elsewhere",
            _ => return error,
        };
        error.advised(format!("{first}, or {}", self.anew(at)))
    }

    /// How to make a stage once more.
    fn anew(&self, at: usize) -> String {
        let folder = self.folder_of(at);
        let behind = self.behind(at).into_iter().map(|path| path.display().to_string());
        let behind: Vec<String> = behind.collect();
        let behind = match behind.is_empty() {
            true => String::new(),
            false => format!(", and {}, which were made behind it", behind.join(", ")),
        };
        format!("remove {} to make it anew{behind}", folder.display())
    }

    /// Checks gates on the way of a run, as far as it has come.
    fn pass_on_the_way(&self, at: usize, gates: &[&Gate], log: &Path) -> Result<()> {
        for gate in gates {
            if let Some(measured) = gate.measured(log, true)? {
                self.pass(at, &measured)?;
            }
        }
        Ok(())
    }

    /// Checks all gates of a run that has ended.
    fn gates(&self, at: usize, passed: &mut dyn FnMut(Measured)) -> Result<Vec<Measured>> {
        let log = self.folder_of(at).join(LOG);
        let mut out = Vec::new();
        for gate in &self.list[at].gates {
            let Some(measured) = gate.measured(&log, false)? else {
                let Stage { name, .. } = &self.list[at];
                let message = format!(
                    "stage {name} has a gate for {}, which its log does not have",
                    gate.value
                );
                let help = match gate.at {
                    Some(at) => format!("it was not measured up to update {at}: leave at out"),
                    None => "take another number of the log".to_owned(),
                };
                return Err(Error::input("E0970", message).at(log.display()).help(help));
            };
            self.pass(at, &measured)?;
            passed(measured.clone());
            out.push(measured);
        }
        Ok(out)
    }

    fn pass(&self, at: usize, measured: &Measured) -> Result<()> {
        if measured.passes() {
            return Ok(());
        }
        let stage = &self.list[at];
        let good = self.base(stage);
        Err(Error::input("E0969", format!("stage {} missed a gate: {measured}", stage.name))
            .at(self.folder_of(at).join(LOG).display())
            .help(format!(
                "the model that it began with is as it was, in {}; move the bound, or remove the \
                 folder of the stage and train it with other settings",
                good.display()
            )))
    }

    /// The run of a stage with its settings.
    fn training<'t>(
        &self,
        at: usize,
        settings: &'t Settings,
        backend: &'t Backend,
        guards: Option<&'t Safeguards>,
    ) -> Training<'t> {
        let stage = &self.list[at];
        let resume = settings.run.folder.join(CHECKPOINT).exists();
        let init_from = stage.init_from.map(|from| self.result_of(from));
        Training { kind: stage.kind, settings, backend, resume, init_from, guards }
    }

    /// The settings of the run of a stage.
    fn settings(&self, at: usize) -> Settings {
        let stage = &self.list[at];
        let mut settings = stage.settings.clone();
        settings.run.folder = self.folder_of(at);
        settings.model.path = Some(self.base(stage));
        let shared = || self.folder.join("cache");
        settings.data.cache = Some(settings.data.cache.unwrap_or_else(shared));
        settings
    }

    /// The model folder that a stage begins with.
    fn base(&self, stage: &Stage) -> PathBuf {
        match stage.base {
            Base::Start => self.model.clone(),
            Base::Stage(at) => self.model_of(at),
        }
    }

    /// The folder of the run of a stage.
    fn folder_of(&self, at: usize) -> PathBuf {
        self.folder.join(&self.list[at].name)
    }

    /// The model folder with the result of a stage.
    fn model_of(&self, at: usize) -> PathBuf {
        self.folder_of(at).join("model")
    }

    /// The folders there are of stages that begin with what a stage made, or with what these made.
    fn behind(&self, at: usize) -> Vec<PathBuf> {
        let mut follows = vec![false; self.list.len()];
        follows[at] = true;
        for (own, stage) in self.list.iter().enumerate() {
            let base = match stage.base {
                Base::Start => None,
                Base::Stage(before) => Some(before),
            };
            let mut from = base.into_iter().chain(stage.init_from);
            follows[own] |= from.any(|before| follows[before]);
        }
        let folders = (0..follows.len()).filter(|own| *own != at && follows[*own]);
        folders.map(|own| self.folder_of(own)).filter(|folder| folder.exists()).collect()
    }

    fn record(&self, at: usize) -> PathBuf {
        self.folder_of(at).join(record::NAME)
    }

    /// The file that the run of a stage leaves and that counts.
    fn result_of(&self, at: usize) -> PathBuf {
        let Stage { kind, which, settings, .. } = &self.list[at];
        let name = result::name(*kind, settings.train.network);
        self.folder_of(at).join(format!("{name}{}.safetensors", which.end()))
    }

    fn refused(&self, message: String) -> Error {
        let names: Vec<&str> = self.list.iter().map(|stage| stage.name.as_str()).collect();
        Error::input("E0970", message)
            .at(self.path.display())
            .help(format!("the stages are {}", names.join(", ")))
    }
}
