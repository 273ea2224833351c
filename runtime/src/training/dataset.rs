//! What a run trains on: samples by the keys of what was encoded of them.

use super::cache::{Cache, hex};
use super::manifest::Clip;
use crate::error::{Error, Result, plural};
use crate::media::color::to_unit;
use anyid_ir::{DType, Tensor, TensorType};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// What a run trains on.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// SHA-256 of the manifest.
    pub manifest: String,
    /// How its prompts are written, where it says that.
    pub styles: BTreeSet<String>,
    /// Consent records of those who are shown, in this set and in that which is only measured.
    pub consents: Vec<String>,
    /// The samples, in the order of the manifest.
    pub items: Vec<Item>,
    /// What prompts or frames are told apart by, where classes are learned.
    pub slots: Vec<Slot>,
    /// What was left out: line, id and reason.
    pub excluded: Vec<(usize, String, String)>,
    pub(super) cache: Cache,
    pub(super) black: String,
    pub(super) empty: String,
    /// Rows of the longest prompt's context.
    pub(super) text_rows: usize,
    /// Bytes of what is encoded.
    pub(super) sizes: Sizes,
    pub(super) held: Arc<Mutex<Held>>,
}

/// Bytes of what is encoded; nothing of what is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Of a target.
    pub target: u64,
    /// Of a latent frame of a reference.
    pub frame: u64,
    /// Of the context of a prompt.
    pub text: u64,
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
    /// The tokens of its prompt, where the text encoder is trained.
    pub(super) tokens: Vec<u32>,
    /// Its class of each slot, where classes are learned; none for a slot that does not count.
    pub(super) classes: Vec<Option<usize>>,
    /// What the first target and the primary reference were read from.
    pub(super) shown: [Clip; 2],
    /// What its references were read from, where the transformer is trained.
    pub(super) read: Vec<Clip>,
}

/// Something that a prompt may say or frames may show, and what there is of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Its classes; none is that of prompts that do not name it.
    pub classes: Vec<Option<String>>,
}

impl Slot {
    /// Its name, and the classes that have one.
    pub fn named_classes(&self) -> (String, Vec<String>) {
        (self.name.clone(), self.classes.iter().flatten().cloned().collect())
    }
}

impl Item {
    /// The keys of its clips, the target first, and of its prompt.
    fn keys(&self) -> impl Iterator<Item = &str> {
        let references = self.references.iter().map(|(key, _)| key);
        self.targets.iter().chain(references).chain([&self.text]).map(String::as_str)
    }

    /// What the key at a place of [`Self::keys`] is of.
    fn called(&self, at: usize) -> String {
        let [target, primary] = &self.shown;
        let targets = self.targets.len();
        match at {
            0 if targets > 1 => format!("the chosen clip {}", target.media.display()),
            1 if targets > 1 => "the rejected clip".to_owned(),
            0 if targets > 0 => format!("the target {}", target.media.display()),
            _ if at == targets + self.references.len() => "the prompt".to_owned(),
            _ if at == targets => format!("the primary reference {}", primary.media.display()),
            _ => "another reference".to_owned(),
        }
    }

    /// The keys of what is encoded of it, with their bytes.
    pub(super) fn entries(&self, sizes: Sizes) -> impl Iterator<Item = (&str, u64)> {
        let of = move |(at, key)| {
            let reference = usize::checked_sub(at, self.targets.len());
            let reference = reference.map(|at| self.references.get(at));
            (
                key,
                match reference {
                    None => sizes.target,
                    Some(Some((_, frames))) => *frames as u64 * sizes.frame,
                    Some(None) => sizes.text,
                },
            )
        };
        self.keys().enumerate().map(of)
    }

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

/// Entries of the cache that are held in memory, so that small sets are read once.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: BTreeMap<String, Arc<Tensor>>,
    bytes: usize,
}

/// Characters of a key that tell keys apart well enough for a message.
const SHORT: usize = 6;

/// Bytes of entries that are held; those that come later are read again each time.
pub(super) const HELD_BYTES: usize = 64 << 20;

impl Dataset {
    /// What the cache has under `key`; `place` says whose it is.
    fn value(&self, key: &str, place: &dyn Fn() -> String) -> Result<Arc<Tensor>> {
        // Nothing panics while it is locked.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = held.entries.get(key) {
            return Ok(value.clone());
        }
        let value = Arc::new(self.cache.value(key, &place())?);
        let bytes = value.bytes().len();
        if held.bytes + bytes <= HELD_BYTES {
            held.bytes += bytes;
            held.entries.insert(key.to_owned(), value.clone());
        }
        Ok(value)
    }

    /// Latents of target `member` of a sample, or its pixels `u8[T,H,W,3]` where pixels are learned
    /// from.
    ///
    /// # Errors
    /// E0960 and E1001 for what the cache holds.
    pub fn target(&self, item: &Item, member: usize) -> Result<Arc<Tensor>> {
        self.value(&item.targets[member], &|| format!("sample {}", item.id))
    }

    /// Writes the latents of target `member` of a sample.
    ///
    /// # Errors
    /// As [`Self::target`].
    pub fn fill_target(&self, item: &Item, member: usize, into: &mut [f32]) -> Result<()> {
        let value = self.target(item, member)?;
        let values = value.as_f32().ok().filter(|values| values.len() == into.len());
        let values = values.ok_or_else(|| self.other_size(&item.targets[member], item))?;
        into.copy_from_slice(values);
        Ok(())
    }

    /// Writes the pixels of target `member` of a sample, from −1 to 1, colour by colour: all frames, or
    /// first and last one where there is room for two only.
    ///
    /// # Errors
    /// As [`Self::target`].
    pub fn fill_pixels(&self, item: &Item, member: usize, into: &mut [f32]) -> Result<()> {
        let pixels = self.target(item, member)?;
        let other_size = || self.other_size(&item.targets[member], item);
        let ([count, ..], Ok(bytes)) = (four(&pixels).ok_or_else(other_size)?, pixels.as_u8())
        else {
            return Err(other_size());
        };
        let frame = bytes.len() / count;
        let step = match into.len() {
            all if all == bytes.len() => 1,
            two if two == 2 * frame && count > 1 => count - 1,
            _ => return Err(other_size()),
        };
        let plane = frame / 3;
        let frames = bytes.chunks_exact(frame).step_by(step);
        let shown = into.len() / frame;
        for (at, frame) in frames.enumerate() {
            for colour in 0..3 {
                let own = frame.iter().skip(colour).step_by(3);
                let to = (colour * shown + at) * plane;
                into[to..to + plane]
                    .iter_mut()
                    .zip(own)
                    .for_each(|(to, from)| *to = to_unit(*from));
            }
        }
        Ok(())
    }

    /// Writes the text context of a sample, or that of the empty prompt: as many rows as there is room
    /// for, behind which there are only zeros.
    ///
    /// # Errors
    /// As [`Self::target`].
    pub fn fill_text(&self, item: &Item, null: bool, into: &mut [f32]) -> Result<()> {
        let key = if null { &self.empty } else { &item.text };
        let context = self.value(key, &|| format!("sample {}", item.id))?;
        let rows = context.as_f32().ok().and_then(|values| values.split_at_checked(into.len()));
        let Some((rows, rest)) = rows.filter(|(_, rest)| rest.iter().all(|value| *value == 0.0))
        else {
            return Err(self.other_size(key, item));
        };
        debug_assert!(rest.len().is_multiple_of(context.ty().last()));
        into.copy_from_slice(rows);
        Ok(())
    }

    /// Writes the latents of the references of a sample along time, or black ones of the same lengths.
    ///
    /// # Errors
    /// As [`Self::target`].
    pub fn fill_references(&self, item: &Item, null: bool, into: &mut [f32]) -> Result<()> {
        let all = item.reference_frames();
        let mut before = 0;
        for (key, frames) in &item.references {
            let part = match null {
                true => self.value(&self.black, &|| "black frames".to_owned())?,
                false => self.value(key, &|| format!("sample {}", item.id))?,
            };
            let other_size = || self.other_size(if null { &self.black } else { key }, item);
            let (Some([channels, own, rows, columns]), Ok(values)) = (four(&part), part.as_f32())
            else {
                return Err(other_size());
            };
            let plane = rows * columns;
            if *frames > own || into.len() != channels * all * plane {
                return Err(other_size());
            }
            for channel in 0..channels {
                let to = (channel * all + before) * plane;
                let from = channel * own * plane;
                into[to..to + frames * plane].copy_from_slice(&values[from..from + frames * plane]);
            }
            before += frames;
        }
        Ok(())
    }

    /// References and prompt of a sample, or their null forms: black references of the same lengths
    /// and the empty prompt.
    ///
    /// # Errors
    /// As [`Self::target`].
    pub fn condition(&self, item: &Item, null: bool) -> Result<Condition> {
        let place = || format!("sample {}", item.id);
        let first = &item.references[0].0;
        let sizes = four(&*self.value(first, &place)?);
        let [channels, _, rows, columns] = sizes.ok_or_else(|| self.other_size(first, item))?;
        let shape = [channels, item.reference_frames(), rows, columns];
        let mut references = Tensor::zeros(TensorType::new(DType::F32, shape));
        let values = references.as_f32_mut().expect("it is f32");
        self.fill_references(item, null, values)?;
        let text = self.value(if null { &self.empty } else { &item.text }, &place)?;
        Ok(Condition { references, text: (*text).clone() })
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

    /// The keys of all samples in short, in order: enough to say which of them differ.
    pub fn parts(&self) -> String {
        self.items.iter().flat_map(Item::keys).map(|key| &key[..key.len().min(SHORT)]).collect()
    }

    /// Which samples have other clips or prompts than those with these [`Self::parts`]: each with its line
    /// and what differs. None where those were others altogether.
    pub fn apart(&self, parts: &str) -> Vec<String> {
        if parts.len() != self.parts().len() {
            return Vec::new();
        }
        let mut rest = parts;
        let mut out = Vec::new();
        for item in &self.items {
            let mut what = Vec::new();
            for (at, key) in item.keys().enumerate() {
                let own = &key[..key.len().min(SHORT)];
                let (then, left) = rest.split_at_checked(own.len()).unwrap_or((rest, ""));
                rest = left;
                if then != own {
                    what.push(item.called(at));
                }
            }
            if !what.is_empty() {
                out.push(format!("line {} ({}): {}", item.line, item.id, what.join(", ")));
            }
        }
        out
    }

    /// What is to be said where this set is measured and `learned` from has the same clips, or the same prompts
    /// where there is nothing but prompts. `unit` is what a sample is called.
    pub fn shared_with(&self, learned: &Self, unit: &str) -> Option<String> {
        let key = |item: &Item| match item.targets[..] {
            [] => item.text.clone(),
            _ => item.targets.join(" "),
        };
        let known: BTreeSet<String> = learned.items.iter().map(key).collect();
        let same: Vec<&Item> =
            self.items.iter().filter(|item| known.contains(&key(item))).collect();
        let prompts = self.items.iter().all(|item| item.targets.is_empty());
        let all = same.len() == self.items.len();
        // People may say the same; only a set of nothing else says nothing.
        if same.is_empty() || (prompts && !all) {
            return None;
        }
        let named: Vec<&str> = same.iter().take(3).map(|item| item.id.as_str()).collect();
        let more = if same.len() > named.len() { ", …" } else { "" };
        let count = match all {
            true => format!("all {}", plural(same.len(), unit)),
            false => format!("{} of {}", same.len(), plural(self.items.len(), unit)),
        };
        Some(format!(
            "{count} of data.validation are learned from as well ({}{more}): what is measured on them says \
             nothing about others",
            named.join(", ")
        ))
    }

    /// The error of an entry that is whole and of another size than its key says.
    fn other_size(&self, key: &str, item: &Item) -> Error {
        let how = "is of another size than its key says";
        self.cache
            .changed(key, &format!("sample {}", item.id), how)
            .advised("remove this file: what it holds is then made again")
    }

    /// Bytes of entries of the cache that a run holds at most: of those that are kept in memory, and of
    /// one more where that are not all.
    pub fn held_bytes(&self) -> u64 {
        let references = self.items.iter().flat_map(|item| &item.references);
        let longest = references.map(|(_, frames)| *frames).max().unwrap_or(0);
        let black = (self.black.as_str(), longest as u64 * self.sizes.frame);
        let items = self.items.iter().flat_map(|item| item.entries(self.sizes));
        let entries = items.chain([black, (self.empty.as_str(), self.sizes.text)]);
        let entries: BTreeMap<&str, u64> = entries.collect();
        let all = entries.values().copied().fold(0, u64::saturating_add);
        match all > HELD_BYTES as u64 {
            true => HELD_BYTES as u64 + entries.into_values().max().unwrap_or(0),
            false => all,
        }
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

fn four(tensor: &Tensor) -> Option<[usize; 4]> {
    tensor.shape().try_into().ok()
}
