//! What the lines of a manifest tell of a run that is still to come: whether they are what it reads, the
//! shapes of their samples, and how much will be held of what is encoded of them.
//!
//! Nothing is encoded or kept. Of the clips of each shape one frame is read, until there is a sample that
//! is not left out; and of all clips, as long as what is encoded of them is less than what is held at most.

use super::{Preparation, faulty, prompt_of, size_of};
use crate::checkpoint::hash_file;
use crate::error::Result;
use crate::media::standardise::Fit;
use crate::training::cache::Cache;
use crate::training::dataset::{Dataset, HELD_BYTES, Item};
use crate::training::faults::refused;
use crate::training::labels::{Labels, slots_of};
use crate::training::manifest::{Clip, Manifest, Sample};
use crate::training::settings::TrainedNetwork;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Hashes of files; none of one that cannot be read.
type Hashes = HashMap<PathBuf, Option<String>>;

impl Preparation<'_> {
    /// The manifest at `path`, which has lines that the run can use by themselves.
    ///
    /// # Errors
    /// E0911 and E0959 for the manifest, E0957 with every fault of its lines, E0958 where none is left.
    pub fn usable(&self, path: &Path) -> Result<Manifest> {
        let manifest = self.lines().open(path)?;
        let total = manifest.samples.len() + manifest.remains.len();
        if !manifest.faults.is_empty() && !self.settings.data.skip_faulty {
            return Err(refused(&manifest.faults, total, path, self.settings));
        }
        match manifest.samples.is_empty() {
            true => Err(self.nothing_left(&faulty(&manifest.faults), path)),
            false => Ok(manifest),
        }
    }

    /// The ids of the first samples of a manifest that are not left out.
    ///
    /// # Errors
    /// E0603 without memory and E1002 when cancelled.
    pub fn first_ids<'m>(&self, manifest: &'m Manifest, count: usize) -> Result<Vec<&'m str>> {
        let mut out = Vec::new();
        for sample in &manifest.samples {
            if out.len() == count {
                break;
            }
            self.cancel.check("while checking the manifest")?;
            if self.shape_of(sample).is_some() && self.is_taken(sample)? {
                out.push(sample.id.as_str());
            }
        }
        Ok(out)
    }

    /// Samples of a manifest, as far as its lines tell: of each shape one at least, and so many that what is
    /// held of them is what is held of all.
    ///
    /// # Errors
    /// E0977 for labels; E0603 without memory and E1002 when cancelled.
    pub fn sketch(&self, manifest: &Manifest, path: &Path) -> Result<Dataset> {
        let empty = self.tokens("").unwrap_or_default();
        let (mut items, mut text_rows) = (Vec::<Item>::new(), empty.len());
        let (sizes, mut hashes) = (self.sizes(), Hashes::new());
        let (mut shapes, mut entries, mut bytes) = (BTreeSet::new(), BTreeSet::new(), 0);
        for sample in &manifest.samples {
            self.cancel.check("while checking the manifest")?;
            let Some((shape, rows)) = self.shape_of(sample) else { continue };
            text_rows = text_rows.max(rows);
            if bytes > HELD_BYTES as u64 && shapes.contains(&shape) {
                continue;
            }
            let Some(item) = self.sketched(sample, &mut hashes) else { continue };
            if !self.is_taken(sample)? {
                continue;
            }
            for (key, own) in item.entries(sizes) {
                if entries.insert(key.to_owned()) {
                    bytes += own;
                }
            }
            shapes.insert(shape);
            items.push(item);
        }
        let labels: Vec<Labels> =
            manifest.samples.iter().map(|sample| sample.labels.clone()).collect();
        let slots = self.network.labelled().map(|labelled| slots_of(labelled, &labels, path));
        Ok(Dataset {
            manifest: manifest.sha256.clone(),
            styles: manifest.styles.clone(),
            consents: Vec::new(),
            items,
            slots: slots.transpose()?.unwrap_or_default(),
            excluded: Vec::new(),
            cache: Cache::there(&self.settings.cache()),
            black: "black frames".to_owned(),
            empty: text_key(&empty),
            text_rows,
            sizes,
            held: Arc::default(),
        })
    }

    /// Latent frames of the references of a sample and tokens of its prompt, from which its shape follows, and
    /// rows of its text context; none where its prompt is faulty.
    fn shape_of(&self, sample: &Sample) -> Option<((Vec<usize>, usize), usize)> {
        let tokens = || self.tokens(&sample.prompt).ok().map(|tokens| tokens.len());
        let frames = |clip: &Clip| self.model.geometry().latent_frames(clip.frames);
        match self.network {
            TrainedNetwork::Transformer => {
                Some(((sample.references.iter().map(frames).collect(), 0), tokens()?))
            }
            TrainedNetwork::Text => Some(((Vec::new(), tokens()?), 0)),
            TrainedNetwork::Vae | TrainedNetwork::Judge => Some(((Vec::new(), 0), 0)),
        }
    }

    /// A sample with keys that tell apart what is encoded of it; none where its prompt or a file is faulty.
    fn sketched(&self, sample: &Sample, hashes: &mut Hashes) -> Option<Item> {
        let mut keys = |clips: &[Clip], fit: Fit| -> Option<Vec<String>> {
            let key = |clip: &Clip| {
                let hash = hashes.entry(clip.media.clone());
                let hash = hash.or_insert_with(|| hash_file(&clip.media).ok()).as_deref()?;
                Some(Cache::key(&self.clip_parts(clip, fit, [hash, ""])))
            };
            clips.iter().map(key).collect()
        };
        let (item, targets) = (prompt_of(sample, Vec::new()), sample.targets.clips());
        Some(match self.network {
            TrainedNetwork::Transformer => {
                let targets = keys(targets, Fit::Cover)?;
                let references = keys(&sample.references, Fit::Inside)?.into_iter();
                let geometry = self.model.geometry();
                let frames = |clip: &Clip| geometry.latent_frames(clip.frames);
                let references = references.zip(sample.references.iter().map(frames)).collect();
                let text = text_key(&self.tokens(&sample.prompt).ok()?);
                Item { targets, references, text, ..item }
            }
            TrainedNetwork::Text => prompt_of(sample, self.tokens(&sample.prompt).ok()?),
            TrainedNetwork::Vae | TrainedNetwork::Judge => {
                Item { targets: keys(targets, Fit::Cover)?, ..item }
            }
        })
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

/// A key that tells prompts apart by their tokens.
fn text_key(tokens: &[u32]) -> String {
    Cache::key(&json!({ "tokens": tokens }))
}
