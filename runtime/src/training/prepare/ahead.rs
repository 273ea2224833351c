//! What the lines of a manifest tell of a run that is still to come: whether they are what it reads, and the
//! shapes of their samples.
//!
//! Nothing is encoded or kept. Of the clips of each shape one frame is read, until there is a sample that
//! is not left out.

use super::{Preparation, faulty, prompt_of, size_of};
use crate::error::Result;
use crate::media::standardise::Fit;
use crate::training::cache::Cache;
use crate::training::dataset::{Dataset, Item};
use crate::training::faults::refused;
use crate::training::labels::{Labels, slots_of};
use crate::training::manifest::{Clip, Manifest, Sample};
use crate::training::settings::TrainedNetwork;
use std::path::Path;
use std::sync::Arc;

impl Preparation<'_> {
    /// The manifest at `path`, which has lines that the run can use by themselves.
    ///
    /// # Errors
    /// E0911 and E0959 for the manifest, E0957 with every fault of its lines, E0958 where none is left.
    pub fn usable(&self, path: &Path) -> Result<Manifest> {
        let manifest = self.manifest(path)?;
        let total = manifest.samples.len() + manifest.remains.len();
        if !manifest.faults.is_empty() && !self.settings.data.skip_faulty {
            return Err(refused(&manifest.faults, total, path, self.settings));
        }
        match manifest.samples.is_empty() {
            true => Err(self.nothing_left(&faulty(&manifest.faults), path)),
            false => Ok(manifest),
        }
    }

    /// A sample of each shape that the lines of a manifest have, as far as they tell.
    ///
    /// # Errors
    /// E0977 for labels; E0603 without memory and E1002 when cancelled.
    pub fn sketch(&self, manifest: &Manifest, path: &Path) -> Result<Dataset> {
        let (mut items, mut text_rows) = (Vec::<Item>::new(), 0);
        for sample in &manifest.samples {
            self.cancel.check("while checking the manifest")?;
            let Some(item) = self.sketched(sample, &mut text_rows) else { continue };
            let shape = |item: &Item| (item.reference_frames(), item.tokens.len());
            let known = items.iter().any(|own| shape(own) == shape(&item));
            if !known && self.is_taken(sample)? {
                items.push(item);
            }
        }
        let labels: Vec<Labels> =
            manifest.samples.iter().map(|sample| sample.labels.clone()).collect();
        let slots = self.network.labelled().map(|labelled| slots_of(labelled, &labels, path));
        Ok(Dataset {
            manifest: manifest.sha256.clone(),
            items,
            slots: slots.transpose()?.unwrap_or_default(),
            excluded: Vec::new(),
            cache: Cache::there(&self.settings.cache()),
            black: String::new(),
            empty: String::new(),
            text_rows,
            held: Arc::default(),
        })
    }

    /// What the shape of a sample follows from; none where its prompt is faulty.
    fn sketched(&self, sample: &Sample, text_rows: &mut usize) -> Option<Item> {
        let latent =
            |clip: &Clip| (String::new(), self.model.geometry().latent_frames(clip.frames));
        match self.network {
            TrainedNetwork::Transformer => {
                *text_rows = self.tokens(&sample.prompt).ok()?.len().max(*text_rows);
                let references = sample.references.iter().map(latent).collect();
                Some(Item { references, ..prompt_of(sample, Vec::new()) })
            }
            TrainedNetwork::Text => Some(prompt_of(sample, self.tokens(&sample.prompt).ok()?)),
            TrainedNetwork::Vae | TrainedNetwork::Judge => Some(prompt_of(sample, Vec::new())),
        }
    }

    /// Whether the target of a sample can be read, and is large enough not to be left out.
    fn is_taken(&self, sample: &Sample) -> Result<bool> {
        if self.network == TrainedNetwork::Text {
            return Ok(true);
        }
        let clip = &sample.targets.clips()[0];
        let first = Clip { frames: 1, ..clip.clone() };
        let read = self.read(&first, Fit::Cover)?;
        Ok(read.is_ok_and(|read| !self.is_small(size_of(&read, clip))))
    }
}
