//! No adapter of stages counts twice: what is in the model that a stage begins with, as far as the file of
//! stages tells.
//!
//! An adapter that a stage is still to write is known by the stage alone, so paths are compared here. What
//! is in files is compared by `ahead.rs`.

use super::file::{Base, INIT_FROM, START, Stage, Stages, fault, place};
use crate::adapter::Wanted;
use crate::error::Result;
use crate::training::parameters::Kind;
use crate::training::result;
use crate::training::settings::{Settings, TrainedNetwork};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// An adapter that is in a model already, or in what a stage begins from: its file, and who has it.
type Before = (PathBuf, String);

impl Stages {
    /// Refuses the result of stage `from` as first values of one that trains something else.
    pub(super) fn check_trained(
        &self,
        from: usize,
        (kind, network): (Kind, TrainedNetwork),
    ) -> Result<()> {
        let stage = &self.list[from];
        let whole = |kind: Kind| kind == Kind::Full;
        if whole(stage.kind) == whole(kind) && stage.settings.train.network == network {
            return Ok(());
        }
        let help = "an adapter begins with an adapter, a network with the same network";
        let message = format!("init_from names stage {}, which trains something else", stage.name);
        Err(fault(message, help.to_owned()).at(INIT_FROM))
    }

    /// Refuses the result of stage `from` as first values of an adapter on a model that has it already.
    pub(super) fn check_first(&self, from: usize, kind: Kind, base: Base) -> Result<()> {
        let stage = &self.list[from];
        let (Base::Stage(at), false) = (base, kind == Kind::Full) else { return Ok(()) };
        let merged = self.merged(at);
        let twice = self.adapters_of(from).into_iter().find(|own| merged.contains(own));
        let Some(twice) = twice.map(|twice| &self.list[twice].name) else { return Ok(()) };
        let message = format!(
            "the adapter of stage {twice} would count twice: init_from begins with it, and the model of \
             stage {} has it already",
            self.list[at].name
        );
        let own = match stage.base {
            Base::Start => START,
            Base::Stage(before) => &self.list[before].name,
        };
        let help = format!(
            "write model = \"{own}\", which stage {} began with, or leave init_from out: a new adapter is \
             then trained on top",
            stage.name
        );
        Err(fault(message, help).at(INIT_FROM))
    }

    /// Refuses an adapter of the settings of a stage that is in its model already, or in what it begins from,
    /// as far as paths tell: a file that an earlier stage is still to write has no content yet.
    pub(super) fn check_adapters(
        &self,
        settings: &Settings,
        base: Base,
        init_from: Option<usize>,
    ) -> Result<()> {
        if settings.train.network != TrainedNetwork::Transformer {
            return Ok(());
        }
        let mut before: Vec<Before> = Vec::new();
        let of_stages = |stages: BTreeSet<usize>, whose: &str| {
            let files = stages.into_iter().flat_map(move |at| {
                let name = result::name(Kind::Lora, TrainedNetwork::Transformer);
                let file = move |end| self.folder_of(at).join(format!("{name}{end}.safetensors"));
                result::ENDS.map(file).map(|path| (at, path))
            });
            let row = |(at, path): (usize, PathBuf)| {
                (place(&path), format!("{whose} the adapter of stage {}", self.list[at].name))
            };
            files.map(row).collect::<Vec<Before>>()
        };
        if let Base::Stage(at) = base {
            let name = &self.list[at].name;
            before.extend(of_stages(self.merged(at), &format!("the model of stage {name} has")));
            for run in self.runs(at) {
                let Stage { name: own, settings, .. } = &self.list[run];
                for Wanted { path, .. } in wanted(settings)? {
                    let has =
                        format!("the model of stage {name} has it by model.adapters of {own}");
                    before.push((place(&path), has));
                }
            }
        }
        let from = init_from.map_or_else(BTreeSet::new, |from| self.adapters_of(from));
        before.extend(of_stages(from, "init_from begins with"));
        for Wanted { path, .. } in wanted(settings)? {
            let own = place(&path);
            let Some((_, has)) = before.iter().find(|(path, _)| *path == own) else { continue };
            let message = format!(
                "an adapter would count twice: {} of model.adapters, and {has}",
                path.display()
            );
            let help = "leave it out of model.adapters, or begin with a model without it";
            return Err(fault(message, help.to_owned()).at("settings"));
        }
        Ok(())
    }

    /// The stages whose runs made the transformer of the model of a stage, the first one first.
    pub(super) fn runs(&self, at: usize) -> Vec<usize> {
        let Stage { kind, base, init_from, settings, .. } = &self.list[at];
        // A whole transformer that goes on from another one has what that has.
        let whole = *kind == Kind::Full;
        let trained = settings.train.network == TrainedNetwork::Transformer;
        let before = match (init_from.filter(|_| whole && trained), base) {
            (Some(from), _) => Some(from),
            (None, Base::Stage(before)) => Some(*before),
            (None, Base::Start) => None,
        };
        let mut out = before.map_or_else(Vec::new, |before| self.runs(before));
        out.extend(trained.then_some(at));
        out
    }

    /// An adapter's stage, and those whose values it goes on from.
    fn adapters_of(&self, at: usize) -> BTreeSet<usize> {
        std::iter::successors(Some(at), |at| self.list[*at].init_from).collect()
    }

    /// The stages whose adapters are in the transformer of the model of a stage.
    fn merged(&self, at: usize) -> BTreeSet<usize> {
        let runs = self.runs(at).into_iter();
        let adapters = runs.filter(|run| self.list[*run].kind != Kind::Full);
        adapters.flat_map(|run| self.adapters_of(run)).collect()
    }
}

/// The adapters of settings that do something.
///
/// # Errors
/// E0377.
fn wanted(settings: &Settings) -> Result<Vec<Wanted>> {
    let all = settings.model.adapters.iter().map(|text| Wanted::parse(text));
    let all: Vec<Wanted> = all.collect::<Result<_>>()?;
    Ok(all.into_iter().filter(|wanted| wanted.scale != 0.0).collect())
}
