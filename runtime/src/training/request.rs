//! A run that is asked for, and what it came to.

use super::best::{Best, gone};
use super::checkpoint::{CHECKPOINT, Folder, Record, record_of};
use super::dataset::{Dataset, Item};
use super::judging::Judging;
use super::log::{EVENTS, LOG};
use super::memory::Memory;
use super::parameters::Kind;
use super::prepare::Preparation;
use super::run::Loop;
use super::samples::SAMPLES;
use super::settings::TrainedNetwork;
use super::{Event, Settings, first, objective, result, rules, sources, targets};
use crate::adapter::{Ground, Tolerance, Used, Wanted, twice};
use crate::checkpoint::ModelFolder;
use crate::engine::finite::DAMAGED;
use crate::engine::{Backend, interrupted};
use crate::error::{Error, Kind as Fault, Result, plural};
use crate::files::check_way;
use crate::model::Model;
use crate::pipeline::{Cancel, Size};
use crate::weights::ModelWeights;
use anyid_models::wan::Precision;
use std::path::{Path, PathBuf};

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
    Flag,
    /// By the same command, which finds out itself where it was.
    Command,
}

impl Again {
    fn name(self) -> &'static str {
        match self {
            Self::Flag => "--resume",
            Self::Command => "the same command",
        }
    }
}

/// Codes of faults of the disk, of what the cache holds, and of values: something stands, and it is said what to
/// do before a run goes on or begins anew.
const PASSING: [&str; 7] = ["E0960", "E1001", "E1010", "E1011", "E1012", "E1013", "E1014"];

/// What stands in the folder of a run that has ended, and how to go on.
pub fn stands(folder: &Path, again: Again) -> String {
    let (checkpoint, again) = (folder.join(CHECKPOINT), again.name());
    match record_of(&checkpoint) {
        Ok(record) => format!(
            "the checkpoint of update {} stands in {}: {again} goes on from there",
            record.position.updates,
            checkpoint.display()
        ),
        Err(_) if checkpoint.exists() => format!("{} cannot be read", checkpoint.display()),
        Err(_) => "nothing was trained yet: the same command begins again".to_owned(),
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
    let (model, size) = model_and_size(settings)?;
    size.map_or(Ok(model), Err)
}

/// [`model`], with the error of a size by itself.
fn model_and_size(settings: &Settings) -> Result<(Model, Option<Error>)> {
    let model = match &settings.model.path {
        Some(path) => Model::open(path)?,
        None => Model::built_in()?,
    };
    let adapters = settings.model.adapters.iter();
    let wanted: Result<Vec<_>> = adapters.map(|text| Wanted::parse(text)).collect();
    let size = settings.check_size(model.geometry()).err();
    let model = model.with_adapters(&wanted?, Tolerance::default())?;
    let place = settings.place("model.adapters");
    count_once(&Ground::of(&model.dit_weights)?, &listed(&model), &[])
        .map_err(|error| error.at(place))?;
    Ok((model, size))
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
        Preparation { settings, model, backend, pairs, network, cancel }
    }

    /// Trains.
    ///
    /// # Errors
    /// Those of [`Preparation::dataset`]; E0961 to E0964, E0966, E0972 and E0989 for the folder, the
    /// checkpoint and the first values, E0378 for an adapter that would count twice, E1001 for a non-finite value, E1002 of kind `Interrupted` when cancelled,
    /// then with a checkpoint; E101x where something cannot be written.
    pub fn run(&self, cancel: &Cancel, events: &mut dyn FnMut(Event)) -> Result<Report> {
        self.run_as(Again::Flag, cancel, events)
    }

    /// As [`Self::run`]; errors say that a run is gone on with by `again`.
    pub(super) fn run_as(
        &self,
        again: Again,
        cancel: &Cancel,
        events: &mut dyn FnMut(Event),
    ) -> Result<Report> {
        let begun = self.begin(cancel, events).map_err(|error| match error.kind() {
            Fault::Interrupted => self.standing(error, again, Some("before anything was computed")),
            _ => error,
        });
        let (model, folder) = begun?;
        let precision = self.precision(&model)?;
        let prepared = self.prepare(&model, cancel, events).map_err(|error| {
            let doing = Some("while clips and prompts were encoded");
            self.told(unencoded(error, precision), again, doing)
        });
        let (data, validation) = prepared?;
        let objective = objective::of(&model, self.settings, &data)?;
        let all = data.items.iter().chain(validation.iter().flat_map(|data| &data.items));
        let longest = all.map(Item::reference_frames).max().unwrap_or(0);
        let about = (longest, precision);
        let run = Loop::open(self, (&model, objective), folder, data, validation, cancel, events);
        let doing = match self.resume {
            true => "before the run went on",
            false => "before the first update",
        };
        let opened = |error| self.told(self.advised(error, about), again, Some(doing));
        let mut run = run.map_err(opened)?;
        run.run(cancel, events).map_err(|error| match (error.kind(), error.code()) {
            // The checkpoint itself is at fault there.
            (Fault::Internal, _) | (_, "E0962") => error,
            _ => self.standing(self.advised(error, about), again, None),
        })
    }

    /// An error of preparing a run: where nothing that it was asked for is wrong, with what stands.
    fn told(&self, error: Error, again: Again, doing: Option<&str>) -> Error {
        let place = error.place().map(Path::new);
        let given = place.is_some() && place == self.init_from.as_deref();
        let passing = (PASSING.contains(&error.code()) && !given)
            || (error.code() == "E0911" && self.is_beside(&error))
            || error.kind() == Fault::Interrupted;
        if passing { self.standing(error, again, doing) } else { error }
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
    fn standing(&self, error: Error, again: Again, doing: Option<&str>) -> Error {
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
            None if ended => error.at(folder.display()).advised(
                "nothing was trained yet: the same command goes on, and what was encoded is in the \
                 cache",
            ),
            _ => error.also(stands(folder, again)),
        }
    }

    /// The error of a value that is not finite, which a run that goes on computes once more: what has to be
    /// another is said, and where the run can begin anew.
    fn come_again(&self, error: Error, record: Option<&Record>, again: Again) -> Error {
        let folder = &self.settings.run.folder;
        let damaged = error.help_text() == Some(DAMAGED);
        let updates = record.map(|record| record.position.updates);
        let anew = match again {
            Again::Flag => "start a new run in another run.folder".to_owned(),
            Again::Command => {
                format!("remove {}: the same command then makes the stage anew", folder.display())
            }
        };
        let help = error.help_text().unwrap_or("take a smaller train.learning_rate").to_owned();
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
                stands(folder, again)
            ),
            (false, Some(_), Again::Command) => {
                format!("{help} in the settings of the stage, and {anew}")
            }
            (false, Some(_), Again::Flag) => {
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
        let (data, preparation) = (&self.settings.data, self.preparation(model, cancel));
        let learned = preparation.dataset(&data.manifest, None, events)?;
        let measured = match &data.validation {
            Some(path) => Some(preparation.dataset(path, Some(&learned.slots), events)?),
            None => None,
        };
        let unit = self.kind.unit();
        let shared = measured.as_ref().and_then(|measured| measured.shared_with(&learned, unit));
        shared.into_iter().for_each(|shared| events(Event::Warning(shared)));
        Ok((learned, measured))
    }

    /// The model, with all that can be known of the settings before anything is looked at. What is wrong with
    /// them is said at once.
    ///
    /// # Errors
    /// Those of [`model`], E0976 for what cannot be trained so, E0523, E0965 and E0968 for targets and groups,
    /// E0979 for a folder that is none for results, those of [`Judging::open`].
    pub(super) fn opened(&self, events: &mut dyn FnMut(Event)) -> Result<Model> {
        let settings = self.settings;
        self.check_folders()?;
        let (model, size) = model_and_size(settings)?;
        let mut faults: Vec<Error> = size.into_iter().collect();
        match objective::check(self.kind, settings) {
            Ok(()) => faults.extend(self.check_targets(&model).err()),
            Err(fault) => faults.push(fault),
        }
        faults.extend(Judging::open(settings, &[], self.backend).err());
        sources::refuse_all(faults, settings.file())?;
        model.warnings.iter().for_each(|warning| events(Event::Warning(warning.clone())));
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
        let files = [CHECKPOINT, LOG, EVENTS, "lock"].map(str::to_owned);
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
        let model = self.opened(events)?;
        if let Some(path) = &self.init_from {
            let warning = first::check_first(path, self.kind, settings, &model)?;
            warning.into_iter().for_each(|warning| events(Event::Warning(warning)));
        }
        if self.resume && !Folder::is_begun(&settings.run.folder) {
            return Err(Error::input("E0989", "there is no run in this folder to continue")
                .at(settings.run.folder.display())
                .help(
                    "name the folder of the run (--output or run.folder), or leave --resume out to \
                     start a new one",
                ));
        }
        self.check_names()?;
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

    /// What the network that is trained computes in.
    pub(super) fn precision(&self, model: &Model) -> Result<Precision> {
        match self.settings.train.network {
            TrainedNetwork::Transformer => self.settings.precision(model.default_precision()),
            TrainedNetwork::Vae | TrainedNetwork::Text | TrainedNetwork::Judge => {
                Ok(Precision::F32)
            }
        }
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
    fn advised(&self, error: Error, (longest, precision): (usize, Precision)) -> Error {
        let Size { width, height, frames } = self.settings.size();
        match error.code() {
            // A weight that holds one is named, and its help is right here as well.
            "E1001" if error.help_text().is_none_or(|help| help.contains("--precision")) => {
                let or = match precision {
                    Precision::Bf16 => ", or model.precision = \"f32\"",
                    Precision::F32 => "",
                };
                error.advised(format!("take a smaller train.learning_rate{or}"))
            }
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

/// A value that is not finite in what an encoder gave: elsewhere a flag helps, here a setting.
fn unencoded(error: Error, precision: Precision) -> Error {
    if error.code() != "E1001"
        || !error.help_text().is_some_and(|help| help.contains("--precision"))
    {
        return error;
    }
    error.advised(match precision {
        Precision::Bf16 => {
            "set model.precision = \"f32\", or check the weights with `anyid-rt inspect`"
        }
        Precision::F32 => "check the weights with `anyid-rt inspect`",
    })
}

#[cfg(test)]
mod tests;
