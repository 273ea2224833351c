//! What the cache lacks is made: clips and prompts go through the encoders, and pixels are kept.
//!
//! What is done already stays in the cache, so a run that was stopped here goes on where it was.

use super::Event;
use super::cache::{Cache, Entry};
use super::prepare::{Looked, Missing, Preparation, Prompts, size_of};
use crate::error::{Error, Result};
use crate::media::standardise::Reference;
use crate::pipeline::{ClipEncoder, Size, encode_each};
use anyid_ir::Tensor;
use serde_json::{Value, json};

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
        let has_black = looked.find(&black, "black frames")?.is_some();
        looked.tell_damage()?;
        let total = looked.missing.len() + usize::from(!has_black);
        if total == 0 {
            return Ok(black);
        }
        let lengths = looked.missing.values().map(|missing| missing.clip.frames);
        let frames = lengths.chain([black_frames]).max().unwrap_or(1);
        let size_of_all = Size { frames, ..size };
        let mut encoder = ClipEncoder::open(self.model, self.backend, size_of_all, self.cancel)?;
        let missing = std::mem::take(&mut looked.missing);
        for (done, missing) in (1..).zip(missing.into_values()) {
            self.cancel.check("while encoding clips")?;
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
        looked.tell_damage()?;
        let missing = std::mem::take(&mut looked.missing);
        let total = missing.len();
        for (done, missing) in (1..).zip(missing.into_values()) {
            self.cancel.check("while reading clips")?;
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
        mut prompts: Prompts,
    ) -> Result<String> {
        let rows = self.model.dit.text_len;
        let nothing = self.model.tokenizer.encode("", rows)?.ids;
        let empty = Cache::key(&self.text_parts(looked, &nothing)?);
        prompts.insert(empty.clone(), (nothing, "the empty prompt".to_owned()));
        let mut missing = Vec::new();
        for (key, (tokens, whose)) in prompts {
            if looked.find(&key, &whose)?.is_none() {
                missing.push(tokens);
            }
        }
        looked.tell_damage()?;
        let precision = self.settings.precision(self.model.default_precision())?;
        /// Prompts for which the encoder is compiled and loaded at a time.
        const TOGETHER: usize = 256;
        let (mut done, total) = (0, missing.len());
        let encoder = (self.model, self.backend, self.cancel);
        for some in missing.chunks(TOGETHER) {
            self.cancel.check("while encoding prompts")?;
            let mut tokens = some.iter();
            encode_each(encoder, (some, rows), precision, &mut |value| {
                let own = tokens.next().expect("there is a context for each");
                let parts = self.text_parts(looked, own)?;
                looked.cache.store(&parts, &Entry { value, source: [0, 0] })?;
                done += 1;
                (looked.events)(Event::Encoded { done, total });
                Ok(())
            })?;
        }
        Ok(empty)
    }
}
