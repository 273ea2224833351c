//! What the cache lacks is made: clips and prompts go through the encoders, and pixels are kept.
//!
//! What is done already stays in the cache, so a run that was stopped here goes on where it was.

use super::Event;
use super::cache::{Cache, Entry, Found};
use super::prepare::{Looked, Missing, Preparation, size_of};
use crate::error::{Error, Result};
use crate::media::standardise::Reference;
use crate::pipeline::{ClipEncoder, Size, encode_prompts};
use anyid_ir::Tensor;
use serde_json::{Value, json};
use std::collections::BTreeMap;

impl Preparation<'_> {
    /// Encodes what is missing, and black frames; gives their key.
    pub(super) fn encode_clips(
        &self,
        looked: &mut Looked<'_>,
        black_frames: usize,
    ) -> Result<String> {
        let size = self.settings.size();
        let black_parts = json!({
            "black": black_frames, "width": size.width, "height": size.height,
            "encoder": looked.encoder,
        });
        let black = Cache::key(&black_parts);
        let has_black = matches!(looked.cache.find(&black)?, Found::Entry(_));
        let total = looked.missing.len() + usize::from(!has_black);
        if total == 0 {
            return Ok(black);
        }
        let lengths = looked.missing.values().map(|missing| missing.clip.frames);
        let frames = lengths.chain([black_frames]).max().unwrap_or(1);
        let mut encoder = ClipEncoder::open(self.model, self.backend, Size { frames, ..size })?;
        let missing = std::mem::take(&mut looked.missing);
        for (done, missing) in (1..).zip(missing.into_values()) {
            self.stopped("while encoding clips")?;
            let read = self.read_again(&missing)?;
            let value = encoder.read(&read, &missing.place)?;
            let source = size_of(&read, &missing.clip);
            looked.cache.store(&missing.parts, &Entry { value, source })?;
            (looked.events)(Event::Encoded { done, total });
        }
        if !has_black {
            let value = encoder.black(black_frames)?;
            looked
                .cache
                .store(&black_parts, &Entry { value, source: [size.width, size.height] })?;
            (looked.events)(Event::Encoded { done: total, total });
        }
        Ok(black)
    }

    /// Keeps the pixels of what is missing.
    pub(super) fn keep_pixels(&self, looked: &mut Looked<'_>) -> Result<()> {
        let missing = std::mem::take(&mut looked.missing);
        let total = missing.len();
        for (done, missing) in (1..).zip(missing.into_values()) {
            self.stopped("while reading clips")?;
            let read = self.read_again(&missing)?;
            let (size, source) = (self.settings.size(), size_of(&read, &missing.clip));
            let shape = [read.frames.len(), size.height, size.width, 3];
            let value = Tensor::from_u8(shape, &read.frames.concat())
                .map_err(|error| Error::internal("E1009", error.to_string()))?;
            looked.cache.store(&missing.parts, &Entry { value, source })?;
            (looked.events)(Event::Encoded { done, total });
        }
        Ok(())
    }

    /// Reads a clip that was looked at before.
    fn read_again(&self, missing: &Missing) -> Result<Reference> {
        self.read(&missing.clip, missing.fit)?.map_err(|what| {
            Error::input("E0960", what)
                .at(&missing.place)
                .help("the file was changed while it was read: start again")
        })
    }

    /// What the entry of a prompt depends on.
    pub(super) fn text_parts(&self, looked: &Looked<'_>, tokens: &[u32]) -> Result<Value> {
        Ok(json!({
            "tokens": tokens, "rows": self.model.dit.text_len,
            "encoder": looked.text_encoder,
            "precision": self.settings.precision(self.model.default_precision())?.name(),
        }))
    }

    /// Encodes the prompts that are missing, and the empty one; gives its key.
    pub(super) fn encode_texts(
        &self,
        looked: &mut Looked<'_>,
        mut prompts: BTreeMap<String, Vec<u32>>,
    ) -> Result<String> {
        let rows = self.model.dit.text_len;
        let nothing = self.model.tokenizer.encode("", rows)?.ids;
        let empty = Cache::key(&self.text_parts(looked, &nothing)?);
        prompts.insert(empty.clone(), nothing);
        let mut missing = Vec::new();
        for (key, tokens) in prompts {
            if !matches!(looked.cache.find(&key)?, Found::Entry(_)) {
                missing.push((key, tokens));
            }
        }
        let precision = self.settings.precision(self.model.default_precision())?;
        /// Prompts whose contexts are held at a time.
        const TOGETHER: usize = 256;
        let (mut done, total) = (0, missing.len());
        for some in missing.chunks(TOGETHER) {
            self.stopped("while encoding prompts")?;
            let ids: Vec<Vec<u32>> = some.iter().map(|(_, tokens)| tokens.clone()).collect();
            let contexts = encode_prompts(self.model, self.backend, &ids, rows, precision)?;
            for ((_, tokens), value) in some.iter().zip(contexts) {
                let parts = self.text_parts(looked, tokens)?;
                looked.cache.store(&parts, &Entry { value, source: [0, 0] })?;
                done += 1;
            }
            (looked.events)(Event::Encoded { done, total });
        }
        Ok(empty)
    }
}
