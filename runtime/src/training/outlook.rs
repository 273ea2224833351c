//! What a run would do, found out without doing it: samples, shapes, memory, noise levels.
//!
//! Clips and prompts are encoded, as a run would do first, and every shape is compiled. No weight of
//! the transformer is loaded. A clip shows what the autoencoder makes of three targets, beside what
//! they were made of: whether crops, sizes and frames are what was meant is best seen. Of a run that is
//! still to come ([`Training::foreseen`]), what the lines of its manifests tell is looked at alone.

use super::dataset::{Dataset, Item};
use super::draws::{Draw, Levels};
use super::faults::Gathered;
use super::group::Calls;
use super::judging::Judging;
use super::memory::Memory;
use super::network::Wanted;
use super::parameters::Kind;
use super::prepare::Preparation;
use super::request::{Training, interruption};
use super::settings::TrainedNetwork;
use super::{Event, objective, optimise};
use crate::error::{Error, Kind as Fault, Result};
use crate::files::{Existing, make_folder};
use crate::media::color::{Rounding, planar_to_rgb};
use crate::media::standardise::Fit;
use crate::media::writer::{VideoWriter, WriterOptions};
use crate::model::Model;
use crate::pipeline::{Cancel, Size, decode_latents, encode_pixels};
use anyid_ir::{DType, Tensor, TensorType};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a run would do.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// Samples or pairs to train on.
    pub samples: usize,
    /// What they are called: `sample` or `pair`.
    pub unit: &'static str,
    /// Samples left out, by reason.
    pub excluded: BTreeMap<String, usize>,
    /// The distinct shapes.
    pub shapes: Vec<Shape>,
    /// Numbers that would be trained.
    pub parameters: u64,
    /// What it would hold while it trains.
    pub memory: Memory,
    /// Noise levels in tenths.
    pub levels: Vec<LevelRow>,
    /// Targets after encoding and decoding, where clips are looked at.
    pub sheet: Option<Sheet>,
}

/// Samples of one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What it is, in words.
    pub what: String,
    /// Latent frames of all references, where there are any.
    pub reference_frames: Option<usize>,
    /// Samples.
    pub samples: usize,
    /// Tokens of one clip, where there are any.
    pub tokens: Option<usize>,
    /// Clips in one call.
    pub together: usize,
    /// Workspace of the plan with derivatives.
    pub workspace_bytes: u64,
    /// What blocks keep for the derivative, as `train.keep` has it.
    pub kept: String,
}

/// A tenth of the noise levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LevelRow {
    /// Its upper end.
    pub sigma: f64,
    /// Share of the draws of the first epochs.
    pub share: f64,
    /// Mean weight of the loss.
    pub weight: f64,
}

/// Targets after encoding and decoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    /// A clip with a row for each: primary reference, target, and what the autoencoder gives back.
    pub path: PathBuf,
    /// Peak signal-to-noise ratio of each, in decibels.
    pub psnr: Vec<f64>,
}

/// Name of the clip in the folder of the run.
const SHEET: &str = "check.mp4";
/// What helps where it was interrupted.
pub const GOES_ON: &str = "the same command goes on: what was encoded is in the cache";
/// Targets that are shown.
const SHOWN: usize = 3;

/// Decodes what the cache has of some targets and shows it beside what it was made of.
fn sheet(preparation: &Preparation<'_>, data: &Dataset) -> Result<Sheet> {
    let Size { width, height, frames } = preparation.settings.size();
    let items: Vec<&Item> = data.items.iter().take(SHOWN).collect();
    let (wide, tall) = (3 * width, items.len() * height);
    let mut pictures = vec![vec![0u8; 3 * wide * tall]; frames];
    let mut psnr = Vec::new();
    let mut rgb = vec![0u8; 3 * width * height];
    for (row, item) in items.into_iter().enumerate() {
        preparation.cancel.check("while decoding")?;
        let changed = |what: String| Error::input("E0960", what).help("start again");
        let [target, reference] = &item.shown;
        let target = preparation.read(target, Fit::Cover)?.map_err(changed)?;
        let reference = preparation.read(reference, Fit::Inside)?.map_err(changed)?;
        let (model, backend) = (preparation.model, preparation.backend);
        let latents = match preparation.network {
            TrainedNetwork::Transformer => data.target(item, 0)?,
            TrainedNetwork::Vae | TrainedNetwork::Text | TrainedNetwork::Judge => {
                let shape = [3, frames, height, width];
                let mut pixels = Tensor::zeros(TensorType::new(DType::F32, shape));
                data.fill_pixels(item, 0, pixels.as_f32_mut().expect("they are f32"))?;
                Arc::new(encode_pixels(model, backend, &pixels)?)
            }
        };
        let decoded = decode_latents(model, backend, &latents)?;
        let planes = decoded.as_f32().expect("frames are f32");
        let mut square = 0.0;
        for (at, picture) in pictures.iter_mut().enumerate() {
            planar_to_rgb(planes, frames, at, height, width, Rounding::Truncate, &mut rgb);
            let apart = rgb.iter().zip(&target.frames[at]);
            square += apart.map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum::<f64>();
            let shown = &reference.frames[at.min(reference.frames.len() - 1)];
            for (column, part) in [shown, &target.frames[at], &rgb].into_iter().enumerate() {
                for (y, line) in part.chunks_exact(3 * width).enumerate() {
                    let from = 3 * ((row * height + y) * wide + column * width);
                    picture[from..from + 3 * width].copy_from_slice(line);
                }
            }
        }
        let mean = square / (frames * 3 * width * height) as f64;
        psnr.push(10.0 * (255.0f64.powi(2) / mean.max(1e-3)).log10());
    }
    let folder = &preparation.settings.run.folder;
    make_folder(folder)?;
    let path = folder.join(SHEET);
    let fps = preparation.settings.video.fps;
    let options = WriterOptions { existing: Existing::Overwrite, ..WriterOptions::default() };
    let mut writer = VideoWriter::create(&path, wide, tall, fps, &options)?;
    pictures.iter().try_for_each(|picture| writer.push(picture))?;
    writer.finish()?;
    Ok(Sheet { path, psnr })
}

impl Training<'_> {
    /// Checks and encodes what the manifest names, and finds out what the run would do.
    ///
    /// # Errors
    /// Those of [`Preparation::datasets`] and of the settings, E05xx where the network cannot be compiled, E101x where the
    /// clip cannot be written.
    pub fn check(&self, cancel: &Cancel, events: &mut dyn FnMut(Event)) -> Result<Outlook> {
        self.look(cancel, events).map_err(|error| match error.kind() {
            Fault::Interrupted => {
                let shown = error.place().is_some_and(|place| place.ends_with(SHEET));
                let doing = Some("while clips and prompts were encoded").filter(|_| !shown);
                interruption(error, doing).help(GOES_ON)
            }
            _ => error,
        })
    }

    fn look(&self, cancel: &Cancel, events: &mut dyn FnMut(Event)) -> Result<Outlook> {
        let (settings, backend) = (self.settings, self.backend);
        cancel.check("before anything was computed")?;
        let mut faults = Gathered::default();
        let model = self.opened(&mut faults, events)?;
        let model = self.without_faults(model, faults)?;
        let preparation = self.preparation(&model, cancel);
        let (data, validation) = self.prepare(&model, cancel, events)?;
        let sets: Vec<&Dataset> = std::iter::once(&data).chain(&validation).collect();
        let mut objective = objective::of(&model, settings, &data)?;
        objective.fit(sets.iter().map(|data| data.text_rows).max().unwrap_or(0));
        let mut by_shape: BTreeMap<usize, usize> = BTreeMap::new();
        for item in &data.items {
            *by_shape.entry(objective.shape(item)).or_insert(0) += 1;
        }
        let streams = by_shape.keys().map(|shape| (*shape, objective.stream(*shape)));
        let calls = Calls::new(&settings.train, self.kind, streams);
        let measured = self.kind == Kind::Dpo || settings.data.validation.is_some();
        let (kind, calls) = (self.kind, &calls);
        let judging = Judging::of(settings, validation.as_ref().unwrap_or(&data), backend)?;
        let beside = Memory::beside(settings, &model, backend, (&sets, judging.as_ref()), cancel)?;
        let wanted =
            Wanted { objective: &*objective, settings, kind, calls, measured, beside, cancel };
        let (compiler, kept) = wanted.compile(backend)?;
        let shape = |(shape, samples): (&usize, &usize)| Shape {
            what: objective.describe(*shape),
            reference_frames: objective.drawn().then_some(*shape),
            samples: *samples,
            tokens: objective.tokens(*shape),
            together: calls.batches(*shape, settings.train.batch)[0],
            workspace_bytes: wanted.largest(&compiler, *shape).workspace_bytes,
            kept: kept.get(shape).copied().unwrap_or_default().to_string(),
        };
        let shapes: Vec<Shape> = by_shape.iter().map(shape).collect();
        let any = *by_shape.keys().next().expect("there is a sample");
        let parameters = wanted.parameters(wanted.largest(&compiler, any));
        let mut memory = beside.with(&wanted, &compiler, &parameters);
        memory.plans += optimise::planned_bytes(backend, &parameters, settings, cancel)?;
        let ids: Vec<&str> = data.items.iter().map(|item| item.id.as_str()).collect();
        Ok(Outlook {
            samples: data.items.len(),
            unit: self.kind.unit(),
            excluded: data.exclusions().into_iter().map(|(k, n)| (k.to_owned(), n)).collect(),
            shapes,
            parameters: parameters.elements(),
            memory,
            levels: if objective.drawn() { self.levels(&ids) } else { Vec::new() },
            sheet: match settings.train.network {
                TrainedNetwork::Transformer | TrainedNetwork::Vae => {
                    let shown = sheet(&preparation, &data);
                    Some(shown.map_err(|error| self.unencoded(&model, error))?)
                }
                TrainedNetwork::Text | TrainedNetwork::Judge => None,
            },
        })
    }

    /// What is wrong with the folders, the manifests, the judge and the budget of a run that is still to come,
    /// as far as the lines of the manifests tell. A judge is left out where it is still to be `made`.
    ///
    /// # Errors
    /// E1002 where `cancel` says to stop.
    pub(super) fn foreseen(
        &self,
        model: &Model,
        made: &dyn Fn(&Path) -> bool,
        cancel: &Cancel,
    ) -> Result<Vec<Error>> {
        let (settings, preparation) = (self.settings, self.preparation(model, cancel));
        let (mut found, mut faults) = (Vec::new(), self.faults_of_folders());
        let places = faults.len();
        for path in std::iter::once(&settings.data.manifest).chain(&settings.data.validation) {
            match preparation.usable(path) {
                Ok(manifest) => found.push((path, manifest)),
                Err(error) => faults.push(error),
            }
        }
        let sound = faults.len() == places;
        let judge = settings.run.judge.as_deref();
        let later = judge.is_some_and(made);
        let judging = match found.last().filter(|_| sound) {
            _ if later => Ok(None),
            Some((_, shown)) if judge.is_some() => {
                let ids = preparation.first_ids(shown, settings.run.samples);
                ids.and_then(|ids| Judging::open(settings, &ids, self.backend))
            }
            _ => Judging::open(settings, &[], self.backend),
        };
        let train = &settings.train;
        let limited = train.budget.is_some() && train.keep.is_none();
        match judging {
            Ok(judging) if limited && sound => {
                let sets = found.iter().map(|(path, manifest)| preparation.sketch(manifest, path));
                let sets = sets.collect::<Result<Vec<_>>>();
                let fits =
                    sets.and_then(|sets| self.fits(model, (&sets, judging.as_ref()), cancel));
                faults.extend(fits.err().map(|error| match error.code() {
                    // What it takes is not known yet.
                    "E0601" if later => error.advised(
                        "give a larger train.budget, with room for the judge; or take a smaller \
                         train.together, fewer or shorter references, a smaller video, or bf16",
                    ),
                    _ => error,
                }));
            }
            judging => faults.extend(judging.err()),
        }
        match faults.iter().position(|error| error.kind() == Fault::Interrupted) {
            Some(at) => Err(faults.swap_remove(at)),
            None => Ok(faults),
        }
    }

    /// Refuses a budget that is too small for samples like these, which were not encoded.
    fn fits(
        &self,
        model: &Model,
        (sets, judging): (&[Dataset], Option<&Judging>),
        cancel: &Cancel,
    ) -> Result<()> {
        let (settings, kind, backend) = (self.settings, self.kind, self.backend);
        let sets: Vec<&Dataset> = sets.iter().collect();
        let mut objective = objective::of(model, settings, sets[0])?;
        objective.fit(sets.iter().map(|data| data.text_rows).max().unwrap_or(0));
        let items = sets.iter().flat_map(|data| &data.items);
        let shapes: BTreeSet<usize> = items.map(|item| objective.shape(item)).collect();
        let streams = shapes.into_iter().map(|shape| (shape, objective.stream(shape)));
        let calls = &Calls::new(&settings.train, kind, streams);
        let measured = kind == Kind::Dpo || settings.data.validation.is_some();
        let beside = Memory::beside(settings, model, backend, (&sets, judging), cancel)?;
        let wanted =
            Wanted { objective: &*objective, settings, kind, calls, measured, beside, cancel };
        wanted.fits(backend)
    }

    /// The noise levels that the first epochs draw.
    fn levels(&self, ids: &[&str]) -> Vec<LevelRow> {
        /// Draws that are looked at.
        const DRAWS: u64 = 10_000;
        let train = &self.settings.train;
        let levels = Levels::new(train);
        let mut rows = [(0u64, 0.0); 10];
        for at in 0..DRAWS {
            let count = ids.len() as u64;
            let (id, epoch) = (ids[(at % count) as usize], at / count);
            let draw = Draw::of(train, &levels, id, epoch, at % train.batch);
            let tenth = (levels.sigma(draw.level) * 10.0).ceil().clamp(1.0, 10.0) as usize - 1;
            rows[tenth].0 += 1;
            rows[tenth].1 += levels.weight(draw.level);
        }
        let row = |(at, (count, weight)): (usize, (u64, f64))| LevelRow {
            sigma: (at + 1) as f64 / 10.0,
            share: count as f64 / DRAWS as f64,
            weight: weight / count.max(1) as f64,
        };
        rows.into_iter().enumerate().map(row).collect()
    }
}
