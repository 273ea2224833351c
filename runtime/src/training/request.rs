//! A run that is asked for, and what it came to.

use super::checkpoint::{CHECKPOINT, Folder, record_of};
use super::dataset::{Dataset, Item};
use super::memory::Memory;
use super::parameters::Kind;
use super::prepare::Preparation;
use super::run::Loop;
use super::settings::TrainedNetwork;
use super::{Event, Settings, first, objective, rules, targets};
use crate::adapter::{Ground, Tolerance, Used, Wanted, twice};
use crate::engine::{Backend, interrupted};
use crate::error::{Error, Kind as Fault, Result, plural};
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
pub(super) enum Again {
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

/// Codes of faults of the disk, of what the cache holds, and of values: nothing that a run was asked for is
/// wrong, and it can go on once they are mended.
const PASSING: [&str; 7] = ["E0960", "E1001", "E1010", "E1011", "E1012", "E1013", "E1014"];

/// An interruption as one of runs, whatever it came in the way of.
pub(super) fn interruption(error: Error) -> Error {
    if error.kind() != Fault::Interrupted || error.code() == "E1002" {
        return error;
    }
    // A file that could not be begun or completed any more.
    let name = error.place().and_then(|place| Path::new(place).file_name());
    let name = name.map_or("a file".into(), |name| name.to_string_lossy());
    interrupted(&format!("before {name} was written"))
}

/// The model that settings name, with its adapters.
///
/// # Errors
/// E07xx and E03xx for the model, E036x for adapters, E0378 for one that would count twice, E0901 and E0902
/// for a size that it does not take.
pub fn model(settings: &Settings) -> Result<Model> {
    let model = match &settings.model.path {
        Some(path) => Model::open(path)?,
        None => Model::built_in()?,
    };
    let adapters = settings.model.adapters.iter();
    let wanted: Result<Vec<_>> = adapters.map(|text| Wanted::parse(text)).collect();
    settings.check_size(model.geometry())?;
    let model = model.with_adapters(&wanted?, Tolerance::default())?;
    let place = settings.place("model.adapters");
    count_once(&Ground::of(&model.dit_weights)?, &listed(&model), &[])
        .map_err(|error| error.at(place))?;
    Ok(model)
}

/// The adapters of a model that settings name, with what they are called.
pub(super) fn listed(model: &Model) -> Vec<Used> {
    let used = model.used_adapters().into_iter();
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
        let begun = self.begin(events).map_err(|error| match error.kind() {
            Fault::Interrupted => self.standing(error, again),
            _ => error,
        });
        let (model, folder) = begun?;
        let prepared = self.prepare(&model, cancel, events);
        let (data, validation) = prepared.map_err(|error| self.told(error, again))?;
        let objective = objective::of(&model, self.settings, &data)?;
        let all = data.items.iter().chain(validation.iter().flat_map(|data| &data.items));
        let longest = all.map(Item::reference_frames).max().unwrap_or(0);
        let about = (longest, self.precision(&model)?);
        let run = Loop::open(self, (&model, objective), folder, data, validation, cancel, events);
        let mut run = run.map_err(|error| self.told(self.advised(error, about), again))?;
        run.run(cancel, events).map_err(|error| match (error.kind(), error.code()) {
            // The checkpoint itself is at fault there.
            (Fault::Internal, _) | (_, "E0962") => error,
            _ => self.standing(self.advised(error, about), again),
        })
    }

    /// An error of preparing a run: where nothing that it was asked for is wrong, with what stands.
    fn told(&self, error: Error, again: Again) -> Error {
        let cache = self.settings.cache();
        let entry = |place: &str| Path::new(place).starts_with(&cache);
        let passing = PASSING.contains(&error.code())
            || (error.code() == "E0911" && error.place().is_some_and(entry))
            || error.kind() == Fault::Interrupted;
        if passing { self.standing(error, again) } else { error }
    }

    /// An error of a run that has its folder, with the checkpoint that stands there and how to go on.
    fn standing(&self, error: Error, again: Again) -> Error {
        let folder = &self.settings.run.folder;
        let (checkpoint, again) = (folder.join(CHECKPOINT), again.name());
        let updates = record_of(&checkpoint).map(|record| record.position.updates).ok();
        let error = interruption(error);
        let ended = error.kind() == Fault::Interrupted;
        match updates {
            Some(updates) if ended => error.at(checkpoint.display()).advised(format!(
                "the checkpoint of update {updates} stands: {again} goes on from here"
            )),
            Some(updates) => error.also(format!(
                "the checkpoint of update {updates} stands in {}: {again} goes on from there",
                checkpoint.display()
            )),
            // It is there and cannot be read: that will be said when the run goes on.
            None if checkpoint.exists() => error,
            None if ended => error.at(folder.display()).advised(
                "nothing was trained yet: the same command goes on, and what was encoded is in the \
                 cache",
            ),
            None => error.also("nothing was trained yet: the same command begins again"),
        }
    }

    /// What a run trains on, and what it is measured on.
    fn prepare(
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
        Ok((learned, measured))
    }

    /// The model and the folder of a run, and all that can be known before anything is looked at.
    fn begin(&self, events: &mut dyn FnMut(Event)) -> Result<(Model, Folder)> {
        let settings = self.settings;
        let model = model(settings)?;
        objective::check(self.kind, settings)?;
        model.warnings.iter().for_each(|warning| events(Event::Warning(warning.clone())));
        if self.kind == Kind::Dpo && settings.train.learning_rate > 2e-5 {
            let rate = settings.train.learning_rate;
            events(Event::Warning(format!(
                "train.learning_rate is {rate}: above 2e-5, preference tuning often forgets what was \
                 learned before"
            )));
        }
        self.check_targets(&model)?;
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
        let folder = Folder::open(&settings.run.folder)?;
        if folder.has_checkpoint() && !self.resume {
            return Err(Error::input("E0964", "there is already a run in this folder")
                .at(settings.run.folder.display())
                .help("continue it with --resume, or give this run another folder (--output or run.folder)"));
        }
        if let Some(name) = folder.results().filter(|_| !folder.has_checkpoint()) {
            let message =
                format!("this folder has {name}, but not the checkpoint of the run that made it");
            return Err(Error::input("E0964", message).at(settings.run.folder.display()).help(
                "move the file elsewhere, or give this run another folder (--output or run.folder)",
            ));
        }
        Ok((model, folder))
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
                error.advised(format!("take a smaller train.learning_rate in a new run{or}"))
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

#[cfg(test)]
mod tests;
