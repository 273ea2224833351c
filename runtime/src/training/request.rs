//! A run that is asked for, and what it came to.

use super::checkpoint::Folder;
use super::parameters::Kind;
use super::prepare::Preparation;
use super::run::Loop;
use super::{Event, Settings};
use crate::checkpoint::hash_file;
use crate::engine::Backend;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::pipeline::Cancel;
use std::path::PathBuf;

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
    /// An adapter whose values a new run begins from.
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
    /// The best measurement of the validation set, and that of the untrained model.
    pub validation: Option<(f64, f64)>,
}

/// The model that settings name, with its adapters.
///
/// # Errors
/// E07xx and E03xx for the model, E036x for adapters, E0901 and E0902 for a size that it does not take.
pub fn model(settings: &Settings) -> Result<Model> {
    let model = match &settings.model.path {
        Some(path) => Model::open(path)?,
        None => Model::micro()?,
    };
    let adapters = settings.model.adapters.iter();
    let wanted: Result<Vec<_>> = adapters.map(|text| crate::adapter::Wanted::parse(text)).collect();
    settings.size().check(model.geometry()).map_err(|error| error.at("video"))?;
    model.with_adapters(&wanted?, crate::adapter::Tolerance::default())
}

/// What decides the weights that a run begins from.
pub fn identity(model: &Model) -> Result<String> {
    let mut out = model.fingerprints()?[0].clone();
    for (adapter, scale) in &model.adapters {
        out.push_str(&format!(" + {scale} * {}", hash_file(&adapter.path)?));
    }
    Ok(out)
}

impl Training<'_> {
    /// Trains.
    ///
    /// # Errors
    /// Those of [`Preparation::dataset`]; E0961 to E0964 and E0966 for the folder, the checkpoint and
    /// the first values, E1001 for a non-finite value, E1002 of kind `Interrupted` when cancelled,
    /// then with a checkpoint; E101x where something cannot be written.
    pub fn run(&self, cancel: &Cancel, events: &mut dyn FnMut(Event)) -> Result<Report> {
        let settings = self.settings;
        let model = model(settings)?;
        model.warnings.iter().for_each(|warning| events(Event::Warning(warning.clone())));
        if self.kind == Kind::Dpo && settings.train.learning_rate > 2e-5 {
            let rate = settings.train.learning_rate;
            events(Event::Warning(format!(
                "train.learning_rate is {rate}; above 2e-5 preferences often forget what was learned"
            )));
        }
        let folder = Folder::open(&settings.run.folder)?;
        if folder.has_checkpoint() && !self.resume {
            return Err(Error::input("E0964", "there is a run in this folder already")
                .at(settings.run.folder.display())
                .help("go on with it by --resume, or give this one its own run.folder"));
        }
        if let Some(name) = folder.results().filter(|_| !folder.has_checkpoint()) {
            let message = format!("{name} is in this folder, and no checkpoint of its run");
            return Err(Error::input("E0964", message)
                .at(settings.run.folder.display())
                .help("keep it elsewhere, or give this run its own run.folder"));
        }
        let pairs = self.kind == Kind::Dpo;
        let backend = self.backend;
        let preparation = Preparation { settings, model: &model, backend, pairs, cancel };
        let data = preparation.dataset(&settings.data.manifest, events)?;
        let validation = match &settings.data.validation {
            Some(path) => Some(preparation.dataset(path, events)?),
            None => None,
        };
        Loop::open(self, &model, folder, data, validation, events)?.run(cancel, events)
    }
}
