//! What all stages will need, looked at before the first of them trains: adapters, first values, manifests,
//! folders, judges and budgets.
//!
//! What an earlier stage is still to write is left out, and so are stages that are finished, but for results
//! of others that they were made with. Every fault of every stage is told at once.

use super::faults::Faults;
use super::file::{Base, Stage, Stages, Which, place};
use super::record::{self, Record};
use crate::adapter::{self, Adapter, Ground, Modules, Part, Tolerance, Used, Wanted, modules_of};
use crate::checkpoint::hash_file;
use crate::engine::Backend;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::pipeline::Cancel;
use crate::training::checkpoint::CHECKPOINT;
use crate::training::parameters::Kind;
use crate::training::request::{Training, count_once};
use std::collections::BTreeSet;
use std::path::Path;

/// The transformer that all stages have in common.
struct Start {
    model: Model,
    ground: Ground,
    modules: Modules,
}

impl Stages {
    /// Looks at what the first `count` stages will need.
    ///
    /// # Errors
    /// E0971 for a result that is no longer what a finished stage left, those of reading adapters, E0378 for
    /// one that would count twice, E0962 for a checkpoint or a best result, those of
    /// [`Training::foreseen`], E0970 with all where there are several; E1002 where `cancel` says to stop.
    pub(super) fn look_ahead(
        &self,
        count: usize,
        backend: &Backend,
        cancel: &Cancel,
    ) -> Result<()> {
        let model = Model::open(&self.model)?;
        let ground = Ground::of(&model.dit_weights)?;
        let modules = modules_of(model.dit_weights.set());
        let start = Start { model, ground, modules };
        let mut faults = Faults::default();
        for (at, stage) in self.list[..count].iter().enumerate() {
            let mut lost = BTreeSet::new();
            for from in self.needed(at) {
                if faults.note(&stage.name, self.stands(from))?.is_none() {
                    lost.insert(from);
                }
            }
            if self.record(at).exists() {
                continue;
            }
            self.look_at_adapters(at, &lost, &start, &mut faults)?;
            let settings = self.settings(at);
            let training = self.training(at, &settings, backend, None);
            let made =
                |path: &Path| self.maker(at, path).is_some_and(|from| !self.record(from).exists());
            let foreseen = training.foreseen(&start.model, &made, cancel)?.into_iter();
            for fault in self.best(at, &training).err().into_iter().chain(foreseen) {
                faults.note(&stage.name, Err::<(), _>(self.advised(at, fault)))?;
            }
        }
        faults.refuse(&self.path)
    }

    /// The stages whose results a stage is made with.
    fn needed(&self, at: usize) -> BTreeSet<usize> {
        let adapters = self.list[at].settings.model.adapters.iter();
        let makers = adapters.filter_map(|text| {
            let path = Wanted::parse(text).ok()?.path;
            let from = self.maker(at, &path)?;
            (place(&path) == place(&self.result_of(from))).then_some(from)
        });
        makers.chain(self.list[at].init_from).collect()
    }

    /// The earlier stage in whose folder a file lies, or will lie.
    fn maker(&self, at: usize, path: &Path) -> Option<usize> {
        let path = place(path);
        (0..at).find(|from| path.starts_with(place(&self.folder_of(*from))))
    }

    /// Looks at the adapters of the settings of a stage, as far as they are there and were not found to be
    /// `lost`.
    fn look_at_adapters(
        &self,
        at: usize,
        lost: &BTreeSet<usize>,
        start: &Start,
        faults: &mut Faults,
    ) -> Result<()> {
        let stage = &self.list[at];
        let (mut opened, mut used): (Vec<(Adapter, f64)>, Vec<Used>) = (Vec::new(), Vec::new());
        for text in &stage.settings.model.adapters {
            let Some(wanted) = faults.note(&stage.name, Wanted::parse(text))? else { continue };
            let adapter = self.adapter((at, lost), &wanted, start);
            let Some(adapter) = faults.note(&stage.name, adapter)?.flatten() else { continue };
            let name = format!("{wanted} of model.adapters");
            used.extend(adapter::used(&name, &adapter, wanted.scale)?);
            opened.push((adapter, wanted.scale));
        }
        let list: Vec<(&Adapter, f64)> = opened.iter().map(|(a, s)| (a, *s)).collect();
        faults.note(&stage.name, start.model.dit_weights.with_adapters(&list).map(drop))?;
        let from = stage.init_from.filter(|from| !lost.contains(from));
        if let Some((name, part)) = from.and_then(|from| self.trained(from)) {
            used.push((format!("{name}, with which init_from begins"), part));
        }
        let before = self.before(stage, start)?;
        let once = count_once(&start.ground, &used, &before);
        faults.note(
            &stage.name,
            once.map_err(|error| error.at(stage.settings.place("model.adapters"))),
        )?;
        Ok(())
    }

    /// An adapter of the settings of a stage; none where an earlier one is still to write it, or `lost` it.
    fn adapter(
        &self,
        (at, lost): (usize, &BTreeSet<usize>),
        wanted: &Wanted,
        start: &Start,
    ) -> Result<Option<Adapter>> {
        let path = &wanted.path;
        let open = || adapter::open(path, &start.modules, Tolerance::default()).map(Some);
        match self.maker(at, path) {
            None => open(),
            Some(from) if lost.contains(&from) || !self.record(from).exists() => Ok(None),
            Some(from) => open().map_err(|error| self.lost(from, path, Some(&error))),
        }
    }

    /// The adapter of a finished stage.
    fn trained(&self, at: usize) -> Option<Used> {
        let Stage { name, kind, .. } = &self.list[at];
        let there = *kind != Kind::Full && self.record(at).exists();
        let sha256 = there.then(|| hash_file(self.result_of(at)).ok()).flatten()?;
        Some((format!("the adapter of stage {name}"), Part { sha256, scale: 1.0 }))
    }

    /// Adapters that are in the model that a stage begins with, as far as they are there.
    fn before(&self, stage: &Stage, start: &Start) -> Result<Vec<Used>> {
        let Base::Stage(base) = stage.base else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        for run in self.runs(base) {
            for text in &self.list[run].settings.model.adapters {
                let wanted = Wanted::parse(text)?;
                // What cannot be read is told of where it is used.
                let Ok(adapter) = Adapter::open(&wanted.path, &start.modules) else { continue };
                out.extend(adapter::used(&wanted.to_string(), &adapter, wanted.scale)?);
            }
            out.extend(self.trained(run));
        }
        let model = &self.list[base].name;
        let named =
            |(name, part)| (format!("{name}, which is in the model of stage {model},"), part);
        Ok(out.into_iter().map(named).collect())
    }

    /// Refuses the result of a finished stage that is no longer what it left.
    ///
    /// # Errors
    /// E0971.
    fn stands(&self, at: usize) -> Result<()> {
        let Some(record) = Record::open(&self.record(at))? else { return Ok(()) };
        let path = self.result_of(at);
        let found = hash_file(&path).map_err(|error| self.lost(at, &path, Some(&error)))?;
        match record.left {
            Some(left) if left != found => Err(self.lost(at, &path, None)),
            _ => Ok(()),
        }
    }

    /// Refuses to go on with a stage whose best result is not the one that its run wrote, or is gone and
    /// counts.
    ///
    /// # Errors
    /// E0962, also for a checkpoint that cannot be read.
    fn best(&self, at: usize, training: &Training<'_>) -> Result<()> {
        match training.best_gone()? {
            Some(gone) if self.list[at].which == Which::Best => {
                Err(Error::input("E0962", gone).at(training.best_path().display()))
            }
            _ => Ok(()),
        }
    }

    /// The error of a result of a finished stage that is not there, or cannot be used any more.
    fn lost(&self, at: usize, path: &Path, why: Option<&Error>) -> Error {
        let Stage { name, which, .. } = &self.list[at];
        let folder = self.folder_of(at);
        let (file, record) = (path.file_name().unwrap_or_default(), folder.join(record::NAME));
        let what = match why {
            _ if !path.exists() => "is no longer there".to_owned(),
            Some(error) => format!("cannot be read: {}", error.message()),
            None => "was changed since".to_owned(),
        };
        let message =
            format!("stage {name} was finished, and {}, which it left, {what}", file.display());
        // What its checkpoint has is written again; the best result is in none.
        let kept = folder.join(CHECKPOINT).exists() && path == self.result_of(at);
        let help = match (kept, which) {
            (true, Which::Last | Which::Average) => format!(
                "restore it, or remove {}: it is then written again from the checkpoint of the stage",
                record.display()
            ),
            _ => format!("restore it, or {}", self.anew(at)),
        };
        Error::input("E0971", message).at(path.display()).help(help)
    }
}
