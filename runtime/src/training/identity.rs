//! How much the videos of a run look like the person of their references.
//!
//! Contract: what is compared are the files that were written, with all references of their sample as
//! the network saw them, by the models of an evaluation's settings (`evaluation.md` §4). What came of the
//! videos of a checkpoint is one file. Nothing that is learned depends on it.

use super::dataset::{Dataset, Item};
use super::samples::{SAMPLES, video_path};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::files::{AtomicFile, Existing};
use crate::media::standardise::{Segment, StandardiseOptions, read_segment};
use crate::media::{ReadOptions, RgbFrame};
use anyid_evaluation::footage::{facts, spread, take};
use anyid_evaluation::identity::{CLIP_FRAMES, Measure, Seen};
use anyid_evaluation::raw::{Norm, Reference};
use anyid_evaluation::settings::Settings as Evaluation;
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What compares, and the references that it has looked at.
pub struct Comparing {
    measure: Measure,
    seen: BTreeMap<String, Vec<Seen>>,
}

/// How alike the videos of a checkpoint are to their references.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alike {
    /// The mean over videos, 0 to 100 with 50 for unrelated faces; none where no reference has a face.
    pub holi: Option<f64>,
    /// The share of frames that have a face.
    pub coverage: f64,
    /// How many videos there are.
    pub videos: usize,
}

impl Comparing {
    /// Opens the models of `validate.config`.
    ///
    /// # Errors
    /// E1706 for settings that compare no faces, those of settings and models.
    pub fn open(settings: &Settings) -> Result<Option<Self>> {
        let Some(path) = &settings.validate.config else { return Ok(None) };
        let own = Evaluation::open(path)?;
        let measure = Measure::open(&own)?.ok_or_else(|| {
            Error::input("E1706", "these settings compare no faces")
                .at(path.display())
                .help("set face and arc in them, or leave validate.config out")
        })?;
        Ok(Some(Self { measure, seen: BTreeMap::new() }))
    }

    /// The file of how alike the videos of update `step` are, in `folder`.
    pub fn path(folder: &Path, step: u64) -> PathBuf {
        folder.join(format!("{step:06}.identity.json"))
    }

    /// Compares the videos of update `step` with their references, and writes what came of it.
    ///
    /// # Errors
    /// Those of decoding and of models, E101x where it cannot be written.
    pub fn compare(&mut self, settings: &Settings, data: &Dataset, step: u64) -> Result<Alike> {
        let folder = settings.run.folder.join(SAMPLES);
        let (mut own, mut values, mut covered) = (Map::new(), Vec::new(), Vec::new());
        for item in data.items.iter().take(settings.run.samples) {
            let path = video_path(&folder, step, &item.id);
            let places = spread(facts(&path)?.frames, self.measure.frames);
            let moments = take(&path, &places.iter().copied().collect())?;
            let seen = self.references(settings, item)?.clone();
            let looked = self.measure.video(&places, &moments, &seen.iter().collect::<Vec<_>>())?;
            let with = looked.frames.iter().filter(|frame| !frame.faces.is_empty()).count();
            let coverage = with as f64 / places.len().max(1) as f64;
            // ArcFace where it is there.
            let cosines = looked.cosines.into_iter().flatten().next().filter(|_| !seen.is_empty());
            let holi = cosines.as_ref().map(|cosines| 100.0 * cosines.holi(Norm::Affine));
            let plain = cosines.as_ref().map(|cosines| 100.0 * cosines.holi(Norm::Plain));
            let references = seen.len();
            own.insert(
                item.id.clone(),
                json!({"holi": holi, "plain": plain, "coverage": coverage, "references": references}),
            );
            values.extend(holi);
            covered.push(coverage);
        }
        let mean =
            |all: &[f64]| (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64);
        let alike = Alike {
            holi: mean(&values),
            coverage: mean(&covered).unwrap_or(0.0),
            videos: covered.len(),
        };
        let value = json!({
            "step": step, "holi": alike.holi, "coverage": alike.coverage,
            "models": self.measure.models, "videos": own,
        });
        let mut file = AtomicFile::create_as(Self::path(&folder, step), Existing::Overwrite)?;
        file.append(format!("{value:#}\n").as_bytes())?;
        file.commit()?;
        Ok(alike)
    }

    /// The references of a sample that have a face, as the network saw them.
    fn references(&mut self, settings: &Settings, item: &Item) -> Result<&Vec<Seen>> {
        if !self.seen.contains_key(&item.id) {
            let mut all = Vec::new();
            for clip in &item.read {
                let size = settings.size();
                let options = StandardiseOptions {
                    fps: settings.video.fps,
                    max_frames: clip.frames,
                    ..StandardiseOptions::new(size.width, size.height)
                };
                let segment = Segment { start: clip.start, crop: clip.crop };
                let read = ReadOptions::default();
                let found = read_segment(&clip.media, &segment, &options, &read, &mut |_| Ok(()))?;
                let count = if found.frames.len() > 1 { CLIP_FRAMES } else { 1 };
                let places = spread(found.frames.len(), count);
                let about = Reference {
                    file: clip.media.display().to_string(),
                    sha256: clip.sha256.clone().unwrap_or_default(),
                    clip: count > 1,
                    frames: Vec::new(),
                };
                let (width, height) = (found.width, found.height);
                let image =
                    |at: &usize| (*at, RgbFrame { width, height, data: found.frames[*at].clone() });
                let images: Vec<(usize, RgbFrame)> = places.iter().map(image).collect();
                let images = images.iter().map(|(at, image)| (*at, image));
                let seen = self.measure.seen(about, images)?;
                all.extend((!seen.reference.frames.is_empty()).then_some(seen));
            }
            self.seen.insert(item.id.clone(), all);
        }
        Ok(&self.seen[&item.id])
    }
}
