//! A run that is asked for, and what it came to.

use super::best::{Best, gone};
use super::cause::Cause;
use super::checkpoint::{CHECKPOINT, Folder, LOCK, Record, record_of};
use super::dataset::{Dataset, Item};
use super::faults::Gathered;
use super::identity::Comparing;
use super::judging::Judging;
use super::log::{EVENTS, LOG};
use super::memory::Memory;
use super::parameters::Kind;
use super::prepare::{Lines, Preparation};
use super::run::Loop;
use super::samples::SAMPLES;
use super::settings::TrainedNetwork;
use super::{Event, Settings, first, objective, result, rules, sources, targets};
use crate::adapter::{self, Ground, Tolerance, Used, Wanted, modules_by_name, modules_of, twice};
use crate::checkpoint::ModelFolder;
use crate::engine::finite::DAMAGED;
use crate::engine::{Backend, interrupted};
use crate::error::{Error, Kind as Fault, Result, plural};
use crate::files::check_way;
use crate::model::Model;
use crate::pipeline::{Cancel, Size};
use crate::safeguards::{Safeguards, unless_locked};
use crate::weights::ModelWeights;
use anyid_models::wan::{Geometry, Precision};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A run that is asked for.
pub struct Training<'t> {
    /// What is trained.
    pub kind: Kind,
    /// How.
    pub settings: &'t Settings,
    /// The device.
    pub backend: &'t Backend,
    /// Whether to go on from the checkpoint in the folder of the run.
    pub resume: bool,
    /// A file whose values a new run begins from: an adapter, or a transformer where all of it is
    /// trained.
    pub init_from: Option<PathBuf>,
    /// What asks for consent and keeps the audit log; a program that trains may leave it out.
    pub guards: Option<&'t Safeguards>,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The result.
    pub path: PathBuf,
    /// Updates in all.
    pub updates: u64,
    /// Mean loss of the last update.
    pub loss: Option<f64>,
    /// Numbers that were trained.
    pub parameters: u64,
    /// What was planned to be held meanwhile.
    pub memory: Memory,
    /// The best measurement of the validation set, and that of the untrained model.
    pub validation: Option<(f64, f64)>,
}

/// How whoever asked for a run goes on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// With the flag for it.
    Flag {
        /// Whether it was given this time as well.
        given: bool,
    },
    /// By the same command, which finds out itself where it was.
    Command,
}

impl Again {
    fn name(self) -> &'static str {
        match self {
            Self::Flag { .. } => "--resume",
            Self::Command => "the same command",
        }
    }
}

/// Codes of faults of the disk, of what the cache holds, and of values: something stands, and it is said what to
/// do before a run goes on or begins anew.
const PASSING: [&str; 7] = ["E0960", "E1001", "E1010", "E1011", "E1012", "E1013", "E1014"];

/// What stands in the folder of a run that has ended, and how to go on; `begun` says whether it had come as
/// far as to be ready for an update.
pub fn stands(folder: &Path, again: Again, begun: bool) -> String {
    let checkpoint = folder.join(CHECKPOINT);
    match record_of(&checkpoint) {
        Ok(record) => format!(
            "the checkpoint of update {} stands in {}: {} goes on from there",
            record.position.updates,
            checkpoint.display(),
            again.name()
        ),
        Err(_) if checkpoint.exists() => format!("{} cannot be read", checkpoint.display()),
        Err(_) => nothing_stands(folder, (again, begun), "begins again"),
    }
}

/// What helps where the folder of a run has no checkpoint; `then` says what the same command does, if it does
/// something.
fn nothing_stands(folder: &Path, (again, begun): (Again, bool), then: &str) -> String {
    let path = folder.display();
    match again {
        _ if begun && !Folder::is_begun(folder) => format!(
            "what the run had written is no longer in {path}: put it back, and {} goes on from its \
             last checkpoint",
            again.name()
        ),
        Again::Flag { given: true } if !Folder::is_begun(folder) => {
            format!("there is no run in {path} to continue: {}", no_run(folder))
        }
        _ => format!("nothing was trained yet: the same command {then}"),
    }
}

/// What helps where a folder has no run to go on with.
fn no_run(folder: &Path) -> String {
    let inside = Folder::runs_in(folder);
    match inside.is_empty() {
        true => {
            "name the folder of the run (--output or run.folder), or leave --resume out to start a \
                 new one"
                .to_owned()
        }
        false => format!(
            "the runs in it ({}) are those of stages or steps, which the command that began them goes \
             on with; name another folder (--output or run.folder)",
            inside.join(", ")
        ),
    }
}

/// An interruption as one of runs, whatever it came in the way of; `doing` says what it ended, where that
/// was no file that the user knows.
pub(super) fn interruption(error: Error, doing: Option<&str>) -> Error {
    if error.kind() != Fault::Interrupted || error.code() == "E1002" {
        return error;
    }
    // A file that could not be begun or completed any more.
    let name = error.place().and_then(|place| Path::new(place).file_name());
    let name = name.map_or("a file".into(), |name| name.to_string_lossy());
    interrupted(&doing.map_or_else(|| format!("before {name} was written"), str::to_owned))
}

/// The model that settings name, with its adapters.
///
/// # Errors
/// E07xx and E03xx for the model, E036x for adapters, E0378 for one that would count twice, E0901 and E0902
/// for a size that it does not take.
pub fn model(settings: &Settings) -> Result<Model> {
    let (model, mut faults) = (base(settings)?, Gathered::default());
    faults.note(settings.check_size(model.geometry()))?;
    let model = with_adapters(settings, Some(model), &mut faults)?;
    faults.refuse(settings.file())?;
    Ok(model.expect("it has no faults"))
}

/// The model that settings name, without its adapters.
///
/// # Errors
/// E07xx and E03xx.
fn base(settings: &Settings) -> Result<Model> {
    match &settings.model.path {
        Some(path) => Model::open(path),
        None => Model::built_in(),
    }
}

/// A model with the adapters that settings name; none where one cannot be used, which is among `faults` then:
/// E036x and E0377, E0378 for one that would count twice. Without a model they are looked at as such.
///
/// # Errors
/// Those that are no faults of what was asked for.
fn with_adapters(
    settings: &Settings,
    model: Option<Model>,
    faults: &mut Gathered,
) -> Result<Option<Model>> {
    let modules = match &model {
        Some(model) => modules_of(model.dit_weights.set()),
        None => modules_by_name(),
    };
    let (mut wanted, mut sound) = (Vec::new(), true);
    for text in &settings.model.adapters {
        let own = Wanted::parse(text).and_then(|own| {
            adapter::open(&own.path, &modules, Tolerance::default())?;
            Ok(own)
        });
        let own = faults.note(own)?;
        sound &= own.is_some();
        wanted.extend(own);
    }
    let Some(model) = model.filter(|_| sound) else { return Ok(None) };
    let applied = model.with_adapters(&wanted, Tolerance::default()).and_then(|model| {
        let place = settings.place("model.adapters");
        let once = count_once(&Ground::of(&model.dit_weights)?, &listed(&model), &[]);
        once.map_err(|error| error.at(place)).map(|()| model)
    });
    faults.note(applied)
}

/// The adapters of a model that settings name, with what they are called.
pub(super) fn listed(model: &Model) -> Vec<Used> {
    let used = model.used_adapters.iter().flatten().cloned();
    used.map(|(name, part)| (format!("{name} of model.adapters"), part)).collect()
}

/// Refuses adapters that would count twice, beside those of `before` or as they are in the model.
///
/// # Errors
/// E0378.
pub(super) fn count_once(ground: &Ground, used: &[Used], before: &[Used]) -> Result<()> {
    let Some(same) = twice(&ground.merged, used, before).into_iter().next() else { return Ok(()) };
    let message = format!("an adapter would count twice: {same}");
    Err(Error::input("E0378", message).help(
        "name it once, with the scale that it is to have, or begin with a model without it; adapters are \
         compared by what is in their files",
    ))
}

/// What decides the weights that a run begins from.
pub fn identity(model: &Model, weights: &ModelWeights) -> Result<String> {
    let mut out = weights.fingerprint()?;
    for part in &model.parts_of_adapters {
        out.push_str(&format!(" + {} * {}", part.scale, part.sha256));
    }
    Ok(out)
}

impl<'t> Training<'t> {
    /// Where what a run learns from is looked at.
    pub(super) fn preparation<'p>(&self, model: &'p Model, cancel: &'p Cancel) -> Preparation<'p>
    where
        't: 'p,
    {
        let (settings, backend) = (self.settings, self.backend);
        let (pairs, network) = (self.kind == Kind::Dpo, settings.train.network);
        let guards = self.guards;
        Preparation { settings, model, backend, pairs, network, guards, cancel }
    }

    /// Trains.
    ///
    /// # Errors
    /// Those of [`Preparation::datasets`] and of the settings, E0990 where these come together; E0961 to E0964, E0966, E0972 and E0989 for the folder, the
    /// checkpoint and the first values, E0378 for an adapter that would count twice, E1001 for a non-finite value, E1002 of kind `Interrupted` when cancelled,
    /// then with a checkpoint; E101x where something cannot be written.
    pub fn run(&self, cancel: &Cancel, events: &mut dyn FnMut(Event)) -> Result<Report> {
        self.run_as(Again::Flag { given: self.resume }, cancel, events)
    }

    /// As [`Self::run`]; errors say that a run is gone on with by `again`.
    pub(super) fn run_as(
        &self,
        again: Again,
        cancel: &Cancel,
        events: &mut dyn FnMut(Event),
    ) -> Result<Report> {
        let begun = self.begin(cancel, events).map_err(|error| match error.kind() {
            Fault::Interrupted => {
                let doing = Some("before anything was computed");
                self.standing(error, (again, false), doing)
            }
            _ => error,
        });
        let (model, folder) = begun?;
        let prepared = self
            .prepare(&model, cancel, events)
            .map_err(|error| self.told(error, again, Some("while clips and prompts were encoded")));
        let (data, validation) = prepared?;
        let (manifest, consents) = (data.manifest.clone(), data.consents.clone());
        let objective = objective::of(&model, self.settings, &data)?;
        let all = data.items.iter().chain(validation.iter().flat_map(|data| &data.items));
        let longest = all.map(Item::reference_frames).max().unwrap_or(0);
        let run = Loop::open(self, (&model, objective), folder, data, validation, cancel, events);
        let doing = match self.resume {
            true => "before the run went on",
            false => "before the first update",
        };
        let opened = |error| self.told(self.advised(error, longest), again, Some(doing));
        let mut run = run.map_err(opened)?;
        let report =
            run.run(cancel, events).map_err(|error| match (error.kind(), error.code()) {
                // The checkpoint itself is at fault there.
                (Fault::Internal, _) | (_, "E0962") => error,
                _ => {
                    let error = run.explained(error, self.init_from.as_deref());
                    self.standing(self.advised(error, longest), (again, true), None)
                }
            })?;
        if let Some(guards) = self.guards {
            let kept = guards.trained(&manifest, &consents, &report.path, SystemTime::now());
            let complete = || format!("the result is complete: {}", report.path.display());
            let warning = unless_locked(kept, guards.policy());
            let warning = warning.map_err(|error| error.also(complete()))?;
            warning.into_iter().for_each(|warning| events(Event::Warning(warning)));
        }
        Ok(report)
    }

    /// An error of preparing a run: where nothing that it was asked for is wrong, with what stands.
    fn told(&self, error: Error, again: Again, doing: Option<&str>) -> Error {
        let place = error.place().map(Path::new);
        let given = place.is_some() && place == self.init_from.as_deref();
        let passing = (PASSING.contains(&error.code()) && !given)
            || (error.code() == "E0911" && self.is_beside(&error))
            || error.kind() == Fault::Interrupted;
        if passing { self.standing(error, (again, false), doing) } else { error }
    }

    /// Whether an error is of what a run keeps or shows beside what it learns: an entry of the cache, which is
    /// made again where it is gone, or a video.
    fn is_beside(&self, error: &Error) -> bool {
        let samples = self.settings.run.folder.join(SAMPLES);
        let place = error.place().map(Path::new);
        place.is_some_and(|place| {
            place.starts_with(self.settings.cache()) || place.starts_with(samples)
        })
    }

    /// An error of a run that has its folder, with the checkpoint that stands there and how to go on.
    fn standing(&self, error: Error, (again, begun): (Again, bool), doing: Option<&str>) -> Error {
        let folder = &self.settings.run.folder;
        let checkpoint = folder.join(CHECKPOINT);
        let error = interruption(error, doing);
        let ended = error.kind() == Fault::Interrupted;
        let record = record_of(&checkpoint).ok();
        if error.code() == "E1001" && !self.is_beside(&error) {
            return self.come_again(error, record.as_ref(), again);
        }
        match record {
            Some(record) if ended => error.at(checkpoint.display()).advised(format!(
                "the checkpoint of update {} stands: {} goes on from here",
                record.position.updates,
                again.name()
            )),
            // It is there and cannot be read: that will be said when the run goes on.
            None if checkpoint.exists() => error,
            None if ended => error.at(folder.display()).advised(nothing_stands(
                folder,
                (again, begun),
                "goes on, and what was encoded is in the cache",
            )),
            _ => error.also(stands(folder, again, begun)),
        }
    }

    /// The error of a value that is not finite, which a run that goes on computes once more: what has to be
    /// another is said, and where the run can begin anew.
    fn come_again(&self, error: Error, record: Option<&Record>, again: Again) -> Error {
        let folder = &self.settings.run.folder;
        let damaged = error.help_text() == Some(DAMAGED);
        let updates = record.map(|record| record.position.updates);
        let anew = match again {
            Again::Flag { .. } => "start a new run in another run.folder".to_owned(),
            Again::Command => {
                format!("remove {}: the same command then makes the stage anew", folder.display())
            }
        };
        let help =
            error.help_text().unwrap_or("check the weights with `anyid-rt inspect`").to_owned();
        let get = "the model is damaged or was converted wrongly: get it again";
        error.advised(match (damaged, updates, again) {
            (_, None, _) => {
                let first = if damaged { get } else { help.as_str() };
                format!("{first}; nothing was trained yet: the same command then begins again")
            }
            (true, Some(0), _) => format!("{get}, and {anew}"),
            // With what it is now, they could not have been made.
            (true, Some(updates), _) => format!(
                "the model was changed after update {updates}: put back what it was; {}",
                stands(folder, again, true)
            ),
            (false, Some(_), Again::Command) => format!("{help}, and {anew}"),
            (false, Some(_), Again::Flag { .. }) => {
                let learned = record.and_then(|record| record.learned(folder));
                let learned = learned.map_or(String::new(), |learned| format!("; {learned}"));
                format!("{help}, and {anew}: --resume comes to the same value{learned}")
            }
        })
    }

    /// What a run trains on, and what it is measured on.
    pub(super) fn prepare(
        &self,
        model: &Model,
        cancel: &Cancel,
        events: &mut dyn FnMut(Event),
    ) -> Result<(Dataset, Option<Dataset>)> {
        let sets = self.preparation(model, cancel).datasets(events);
        let (learned, measured) = sets.map_err(|error| self.unencoded(model, error))?;
        let unit = self.kind.unit();
        let shared = measured.as_ref().and_then(|measured| measured.shared_with(&learned, unit));
        shared.into_iter().for_each(|shared| events(Event::Warning(shared)));
        Ok((learned, measured))
    }

    /// The error of a value that is not finite, in what an encoder or the decoder gave, with what is known of
    /// its cause.
    pub(super) fn unencoded(&self, model: &Model, error: Error) -> Error {
        let weights = vec![&*model.vae_weights, &*model.text_weights];
        let precision = self.settings.precision(model.default_precision());
        let narrow = precision.is_ok_and(|own| own == Precision::Bf16);
        Cause { run: None, weights, first: None, learned: false, narrow }.of(error)
    }

    /// The model, with all that can be known of the settings before anything is looked at; none where what is
    /// wrong is among `faults`: those of [`base`] and [`with_adapters`], E0976 for what cannot be trained so,
    /// E0523, E0965 and E0968 for targets and groups, E0979 for a folder that is none for results, and
    /// those of [`Judging::open`].
    ///
    /// # Errors
    /// Those that are no faults of what was asked for.
    pub(super) fn opened(
        &self,
        faults: &mut Gathered,
        events: &mut dyn FnMut(Event),
    ) -> Result<Option<Model>> {
        let settings = self.settings;
        faults.note(self.check_folders())?;
        let model = faults.note(base(settings))?;
        let asked = objective::check(self.kind, settings);
        let mut own: Vec<Error> = Vec::new();
        if let Some(model) = &model {
            own.extend(settings.check_size(model.geometry()).err());
            own.extend(asked.is_ok().then(|| self.check_targets(model).err()).flatten());
        }
        own.extend(asked.err());
        faults.note(sources::refuse_all(own, settings.file()))?;
        faults.note(Judging::open(settings, &[], self.backend))?;
        faults.note(Comparing::open(settings))?;
        let model = with_adapters(settings, model, faults)?;
        let Some(sound) = model.as_ref().filter(|_| faults.is_empty()) else { return Ok(model) };
        sound.warnings.iter().for_each(|warning| events(Event::Warning(warning.clone())));
        let train = &settings.train;
        if self.kind == Kind::Dpo && train.learning_rate > 2e-5 {
            let rate = train.learning_rate;
            events(Event::Warning(format!(
                "train.learning_rate is {rate}: above 2e-5, preference tuning often forgets what was \
                 learned before"
            )));
        }
        let clips = if self.kind == Kind::Dpo { 2 } else { 1 };
        let most = train.batch.saturating_mul(clips);
        match train.together {
            Some(together) if together > most => events(Event::Warning(format!(
                "train.together is {together}, and a batch has {}: calls take {most}",
                plural(most as usize, "clip")
            ))),
            Some(together) if together > 1 && together % clips > 0 => {
                events(Event::Warning(format!(
                    "train.together is {together}: calls take whole pairs, {} clips",
                    together - 1
                )));
            }
            _ => {}
        }
        Ok(model)
    }

    /// The model, unless there are faults: then all of them are told, with those of the manifests as far as
    /// they do not follow from others.
    ///
    /// # Errors
    /// The only fault, or all of them, as [`Gathered::refuse`].
    pub(super) fn without_faults(
        &self,
        model: Option<Model>,
        mut faults: Gathered,
    ) -> Result<Model> {
        let settings = self.settings;
        let (kind, network) = (self.kind, settings.train.network);
        let group = model.as_ref().map_or(Geometry::TI2V_5B, Model::geometry).time;
        let size = model.as_ref().is_none_or(|own| settings.check_size(own.geometry()).is_ok());
        // Of another kind of run it is not known what its lines are.
        if !faults.is_empty() && objective::check(kind, settings).is_ok() {
            let (pairs, timed) = (kind == Kind::Dpo, size && network != TrainedNetwork::Text);
            for fault in (Lines { settings, pairs, network, group, timed }).faults() {
                faults.note(Err::<(), _>(fault))?;
            }
        }
        faults.refuse(settings.file())?;
        Ok(model.expect("it is there where nothing is wrong"))
    }

    /// Refuses folders of models and adapters as places for results and for the cache.
    ///
    /// # Errors
    /// E0979.
    fn check_folders(&self) -> Result<()> {
        let settings = self.settings;
        let known = |folder: &Path| {
            let has = |name: &str| folder.join(name).is_file();
            let part =
                folder.parent().is_some_and(|model| model.join("model_index.json").is_file());
            match has("config.json") {
                _ if has("model_index.json") => Some(("a model folder", "model_index.json")),
                _ if has("adapter_config.json") => {
                    Some(("the folder of an adapter", "adapter_config.json"))
                }
                true if part => Some(("a part of a model folder", "config.json")),
                true if ModelFolder::open(folder).is_ok() => {
                    Some(("a model folder", "config.json"))
                }
                _ => None,
            }
        };
        let real = |path: &Path| path.canonicalize().ok();
        let adapters = settings.model.adapters.iter();
        let adapters: Vec<PathBuf> =
            adapters.filter_map(|text| Wanted::parse(text).ok()).map(|own| own.path).collect();
        let used = settings.model.path.iter().map(|path| (path, "the model that is trained"));
        let used = used.chain(adapters.iter().map(|path| (path, "an adapter of the model")));
        let used: Vec<(PathBuf, &str)> =
            used.filter_map(|(path, what)| Some((real(path)?, what))).collect();
        for (key, folder) in
            [("run.folder", &settings.run.folder), ("data.cache", &settings.cache())]
        {
            let (own, path) = (real(folder), folder.display());
            let own = used.iter().find(|(used, _)| own.as_ref() == Some(used));
            let what = match (own, known(folder)) {
                (Some((_, what)), _) => format!("{key}, {path}, is the folder of {what}"),
                (None, Some((what, name))) => format!("{key}, {path}, is {what}: it has {name}"),
                (None, None) => continue,
            };
            return Err(Error::input("E0979", what).at(settings.place(key)).help(match key {
                "run.folder" => "give the run a folder of its own (--output or run.folder)",
                _ => "give the cache a folder of its own",
            }));
        }
        Ok(())
    }

    /// Refuses folders with the names of files that the run writes, all of them.
    ///
    /// # Errors
    /// E1014.
    fn check_names(&self) -> Result<()> {
        let folder = &self.settings.run.folder;
        let name = result::name(self.kind, self.settings.train.network);
        let results = result::ENDS
            .iter()
            .flat_map(|end| ["safetensors", "json"].map(|kind| format!("{name}{end}.{kind}")));
        let files = [CHECKPOINT, LOG, EVENTS, LOCK].map(str::to_owned);
        let mut found: Vec<String> =
            files.into_iter().chain(results).filter(|name| folder.join(name).is_dir()).collect();
        found.extend(folder.join(SAMPLES).is_file().then(|| SAMPLES.to_owned()));
        let what = match &found[..] {
            [] => return Ok(()),
            [one] if one == SAMPLES => "a file has the name of a folder that the run makes",
            [_] => "a folder has the name of a file that the run writes",
            _ => "folders have names of files that the run writes",
        };
        Err(Error::input("E1014", format!("{what}: {}", found.join(", ")))
            .at(folder.display())
            .help("move them elsewhere, or give this run another folder (--output or run.folder)"))
    }

    /// The model and the folder of a run, and all that can be known before anything is looked at.
    fn begin(&self, cancel: &Cancel, events: &mut dyn FnMut(Event)) -> Result<(Model, Folder)> {
        let settings = self.settings;
        cancel.check("before anything was computed")?;
        let mut faults = Gathered::default();
        let model = self.opened(&mut faults, events)?;
        if let (Some(path), Some(model)) = (&self.init_from, &model) {
            let first = first::check_first(path, self.kind, settings, model);
            let warning = faults.note(first)?.flatten();
            warning.into_iter().for_each(|warning| events(Event::Warning(warning)));
        }
        let own = &settings.run.folder;
        if self.resume && !Folder::is_begun(own) {
            let none = Error::input("E0989", "there is no run in this folder to continue");
            faults.note(Err::<(), _>(none.at(own.display()).help(no_run(own))))?;
        }
        faults.note(self.check_names())?;
        let model = self.without_faults(model, faults)?;
        let folder = Folder::open(&settings.run.folder)?;
        self.check_results()?;
        Ok((model, folder))
    }

    /// Refuses a folder with another run in it, or with something of one.
    ///
    /// # Errors
    /// E0964.
    fn check_results(&self) -> Result<()> {
        let folder = &self.settings.run.folder;
        let (message, help) = match (folder.join(CHECKPOINT).exists(), Folder::results(folder)) {
            (true, _) if !self.resume => {
                ("there is already a run in this folder".to_owned(), "continue it with --resume")
            }
            (false, Some(name)) => (
                format!("this folder has {name}, but not the checkpoint of the run that made it"),
                "move the file elsewhere",
            ),
            _ => return Ok(()),
        };
        Err(Error::input("E0964", message)
            .at(folder.display())
            .help(format!("{help}, or give this run another folder (--output or run.folder)")))
    }

    /// What is wrong with the folders of a run that is still to come, and with what is in them. Nothing is
    /// made.
    pub(super) fn faults_of_folders(&self) -> Vec<Error> {
        let (settings, cache) = (self.settings, self.settings.cache());
        let mut out: Vec<Error> = [&settings.run.folder, &cache]
            .into_iter()
            .filter_map(|path| check_way(path).err())
            .collect();
        let checks = [self.check_folders(), self.check_names(), self.check_results()];
        out.extend(checks.into_iter().filter_map(Result::err));
        out
    }

    /// The file of its best result.
    pub(super) fn best_path(&self) -> PathBuf {
        let settings = self.settings;
        settings.run.folder.join(result::file(self.kind, settings.train.network, result::BEST))
    }

    /// What is to be said of the best result of a run that is to go on where it is no longer there.
    ///
    /// # Errors
    /// E0962 where it is not the one that the run wrote, or the checkpoint cannot be read.
    pub(super) fn best_gone(&self) -> Result<Option<String>> {
        let settings = self.settings;
        if !self.resume {
            return Ok(None);
        }
        let Record { position, .. } = record_of(&settings.run.folder.join(CHECKPOINT))?;
        if settings.data.validation.is_none() {
            return Ok(None);
        }
        let found = Best::find(&position, &self.best_path(), settings.train.steps)?;
        Ok((found == Best::Gone).then(|| gone(&position)))
    }

    /// Refuses targets of an adapter and groups of parameters that the model does not have.
    pub(super) fn check_targets(&self, model: &Model) -> Result<()> {
        if self.kind != Kind::Full {
            targets::check(self.settings, model)?;
        }
        rules::check(self.settings, self.kind, model)
    }

    /// An error of running a network with what helps here: elsewhere flags do, here settings.
    /// `longest` is the largest number of latent frames of references.
    fn advised(&self, error: Error, longest: usize) -> Error {
        let Size { width, height, frames } = self.settings.size();
        match error.code() {
            "E0603" => error
                .detailed(format_args!(
                    "the largest sample is {width}x{height} pixels, {}, and {} of references",
                    plural(frames, "frame"),
                    plural(longest, "latent frame"),
                ))
                .advised(
                    "set train.budget, or take a smaller video, fewer or shorter references, \
                     bf16, or a smaller lora.rank",
                ),
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests;
