//! What a run trains on: samples by the keys of what was encoded of them.

use super::cache::{Cache, hex};
use super::manifest::Clip;
use crate::error::Result;
use crate::pipeline::{concat_time, prefix_time};
use anyid_ir::Tensor;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What a run trains on.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// SHA-256 of the manifest.
    pub manifest: String,
    /// The samples, in the order of the manifest.
    pub items: Vec<Item>,
    /// What was left out: line, id and reason.
    pub excluded: Vec<(usize, String, String)>,
    pub(super) cache: Cache,
    pub(super) black: String,
    pub(super) empty: String,
}

/// A sample or pair, by the keys of what was encoded of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its id.
    pub id: String,
    /// Its line in the manifest.
    pub line: usize,
    /// The clip, or the chosen and the rejected one.
    pub(super) targets: Vec<String>,
    /// The references with their latent frames, the primary first.
    pub(super) references: Vec<(String, usize)>,
    pub(super) text: String,
    /// What the first target and the primary reference were read from.
    pub(super) shown: [Clip; 2],
}

impl Item {
    /// Latent frames of all references.
    pub fn reference_frames(&self) -> usize {
        self.references.iter().map(|(_, frames)| frames).sum()
    }
}

/// What the network is given beside a target.
#[derive(Clone, Debug)]
pub struct Condition {
    /// Latents of the references along time, `f32[C,R,h,w]`.
    pub references: Tensor,
    /// The text context.
    pub text: Tensor,
}

impl Dataset {
    /// Latents of target `member` of a sample.
    ///
    /// # Errors
    /// E0960 and E1001 for what the cache holds.
    pub fn target(&self, item: &Item, member: usize) -> Result<Tensor> {
        self.cache.value(&item.targets[member], &format!("sample {}", item.id))
    }

    /// References and prompt of a sample, or their null forms: black references of the same lengths
    /// and the empty prompt.
    ///
    /// # Errors
    /// E0960 and E1001 for what the cache holds.
    pub fn condition(&self, item: &Item, null: bool) -> Result<Condition> {
        let place = format!("sample {}", item.id);
        let text = self.cache.value(if null { &self.empty } else { &item.text }, &place)?;
        let mut parts = Vec::new();
        let black = if null { Some(self.cache.value(&self.black, "black frames")?) } else { None };
        for (key, frames) in &item.references {
            parts.push(match &black {
                Some(black) => prefix_time(black, 0, *frames)?,
                None => self.cache.value(key, &place)?,
            });
        }
        Ok(Condition { references: concat_time(&parts)?, text })
    }

    /// What a sample is made of, by content.
    pub fn identity(&self, item: &Item) -> String {
        let references: Vec<&str> = item.references.iter().map(|(key, _)| key.as_str()).collect();
        format!("{} {} {}", item.targets.join(" "), references.join(" "), item.text)
    }

    /// A digest of all samples by content, in order.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for item in &self.items {
            hasher.update(format!("{} {}\n", item.id, self.identity(item)));
        }
        hex(hasher)
    }

    /// Where what was encoded is kept.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Excluded samples by reason, with their number.
    pub fn exclusions(&self) -> BTreeMap<&str, usize> {
        let mut out = BTreeMap::new();
        for (_, _, reason) in &self.excluded {
            *out.entry(reason.split(':').next().unwrap_or(reason)).or_insert(0) += 1;
        }
        out
    }
}
