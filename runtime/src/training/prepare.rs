//! From a manifest to what a run trains on: everything is looked at and encoded before the first step.
//!
//! Frames are counted by decoding, never from a duration. Every fault is reported at once, with its
//! line; what is left out on purpose has a reason and is counted. Clips and prompts go through the
//! encoders once and into the cache, so a run that was stopped here goes on where it was.

use super::cache::{Cache, Entry, Found};
use super::dataset::{Dataset, Item};
use super::manifest::{Clip, Manifest, Reading, Sample};
use super::{Event, Fault, Settings};
use crate::checkpoint::hash_file;
use crate::engine::Backend;
use crate::error::{Error, Result};
use crate::media::ReadOptions;
use crate::media::standardise::{Fit, Reference, Segment, StandardiseOptions, read_segment};
use crate::model::Model;
use crate::pipeline::{Cancel, ClipEncoder, Size, encode_prompts};
use crate::text::clean;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Where clips and prompts are looked at and encoded.
pub struct Preparation<'p> {
    /// The settings of the run.
    pub settings: &'p Settings,
    /// The model whose encoders are used.
    pub model: &'p Model,
    /// The device.
    pub backend: &'p Backend,
    /// Whether the manifest is one of pairs.
    pub pairs: bool,
    /// Stops it between two clips.
    pub cancel: &'p Cancel,
}

/// Something that is not in the cache yet.
struct Missing {
    /// What its entry depends on.
    parts: Value,
    clip: Clip,
    fit: Fit,
    place: String,
}

/// What is found out about the samples.
struct Looked<'e> {
    cache: Cache,
    encoder: String,
    hashes: HashMap<PathBuf, String>,
    missing: BTreeMap<String, Missing>,
    events: &'e mut dyn FnMut(Event),
}

impl Preparation<'_> {
    /// Checks and encodes what the manifest at `path` names.
    ///
    /// # Errors
    /// E0911 and E0959 for the manifest, E0957 with every fault of its lines, E0958 where nothing is
    /// left, E1001 for a non-finite value, E1002 when cancelled, E101x where the cache cannot be
    /// written.
    pub fn dataset(&self, path: &Path, events: &mut dyn FnMut(Event)) -> Result<Dataset> {
        let data = &self.settings.data;
        let beside = path.parent().unwrap_or(Path::new(""));
        let reading = Reading {
            pairs: self.pairs,
            root: data.root.as_deref().unwrap_or(beside),
            locked: data.sha256.as_deref().filter(|_| path == data.manifest),
            frames: self.settings.video.frames,
            fps: self.settings.video.fps,
        };
        let mut manifest = Manifest::open(path, &reading)?;
        let folder = data.cache.clone().unwrap_or_else(|| self.settings.run.folder.join("cache"));
        let mut looked = Looked {
            cache: Cache::open(&folder)?,
            encoder: self.model.vae_weights.set().fingerprint()?,
            hashes: HashMap::new(),
            missing: BTreeMap::new(),
            events,
        };
        let (total, mut items, mut excluded) = (manifest.samples.len(), Vec::new(), Vec::new());
        let mut prompts: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (at, sample) in manifest.samples.iter().enumerate() {
            match self.look(sample, &mut looked, &mut prompts)? {
                Outcome::Fine(item) => items.push(*item),
                Outcome::Excluded(reason) => {
                    excluded.push((sample.line, sample.id.clone(), reason));
                }
                Outcome::Faulty(what) => manifest.faults.push(Fault { line: sample.line, what }),
            }
            (looked.events)(Event::Checked { done: at + 1, total });
        }
        manifest.faults.sort_by_key(|fault| fault.line);
        match data.skip_faulty {
            true => excluded.extend(
                manifest
                    .faults
                    .into_iter()
                    .map(|fault| (fault.line, String::new(), format!("faulty: {}", fault.what))),
            ),
            false if manifest.faults.is_empty() => {}
            false => return Err(refused(&manifest.faults, path)),
        }
        if items.is_empty() {
            let message = match excluded.len() {
                0 => "the manifest has no sample".to_owned(),
                count => format!("none of {count} samples is left: {}", excluded[0].2),
            };
            let help = match excluded.first() {
                None => "a manifest has one JSON object a line; see docs/spec/formats.md",
                Some((_, _, reason)) if reason.starts_with("faulty") => {
                    "correct the lines; without data.skip_faulty, each is listed with what is wrong"
                }
                Some(_) => {
                    "take larger clips, smaller video.width and video.height, or set \
                     data.allow_upscale = true"
                }
            };
            return Err(Error::input("E0958", message).at(path.display()).help(help));
        }
        let longest = items.iter().flat_map(|item| &item.references);
        let longest = longest.map(|(_, frames)| *frames).max().unwrap_or(1);
        let black = self.encode_clips(&mut looked, 4 * (longest - 1) + 1)?;
        let empty = self.encode_texts(&mut looked, prompts)?;
        let sha256 = manifest.sha256;
        Ok(Dataset { manifest: sha256, items, excluded, cache: looked.cache, black, empty })
    }

    fn stopped(&self, doing: &str) -> Result<()> {
        match self.cancel.is_cancelled() {
            true => Err(crate::engine::interrupted(doing)),
            false => Ok(()),
        }
    }

    /// Looks at all that a sample names.
    fn look(
        &self,
        sample: &Sample,
        looked: &mut Looked<'_>,
        prompts: &mut BTreeMap<String, Vec<u32>>,
    ) -> Result<Outcome> {
        self.stopped("while checking the manifest")?;
        let rows = self.model.dit.text_len;
        let tokens = match self.model.tokenizer.encode(&clean(&sample.prompt), rows) {
            Ok(encoded) if encoded.truncated_at.is_some() => {
                let count = encoded.full_len;
                return Ok(Outcome::Faulty(format!(
                    "the prompt has {count} tokens, at most {rows}"
                )));
            }
            Ok(encoded) => encoded.ids,
            Err(error) => return Ok(Outcome::Faulty(error.message().to_owned())),
        };
        let text = Cache::key(&self.text_parts(&tokens)?);
        prompts.insert(text.clone(), tokens);
        let (mut targets, mut sizes, mut references) = (Vec::new(), Vec::new(), Vec::new());
        for clip in sample.targets.clips() {
            match self.clip(clip, Fit::Cover, &sample.id, looked)? {
                Ok((key, size)) => {
                    targets.push(key);
                    sizes.push(size);
                }
                Err(what) => {
                    let which = match (self.pairs, targets.len()) {
                        (false, _) => "target",
                        (true, 0) => "chosen",
                        (true, _) => "rejected",
                    };
                    return Ok(Outcome::Faulty(format!("{which}: {what}")));
                }
            }
        }
        // Keys are of the content: copies of one clip have one key.
        if let [chosen, rejected] = &targets[..]
            && chosen == rejected
        {
            let what = "the chosen and the rejected clip are the same";
            return Ok(Outcome::Faulty(what.to_owned()));
        }
        for (at, clip) in (1..).zip(&sample.references) {
            match self.clip(clip, Fit::Inside, &sample.id, looked)? {
                Ok((key, _)) => references.push((key, 1 + (clip.frames - 1) / 4)),
                Err(what) => return Ok(Outcome::Faulty(format!("reference {at}: {what}"))),
            }
        }
        if let [[width, height], other] = sizes[..]
            && [width, height] != other
        {
            return Ok(Outcome::Faulty(format!(
                "the chosen clip has {width}x{height} pixels, the rejected one {}x{}",
                other[0], other[1]
            )));
        }
        let [width, height] = sizes[0];
        let video = &self.settings.video;
        let share = (width as f64 / video.width as f64).min(height as f64 / video.height as f64);
        if share < 0.75 && !self.settings.data.allow_upscale && !self.pairs {
            return Ok(Outcome::Excluded(format!(
                "the target would be enlarged: it has {width}x{height} pixels"
            )));
        }
        let (id, line) = (sample.id.clone(), sample.line);
        let shown = [sample.targets.clips()[0].clone(), sample.references[0].clone()];
        Ok(Outcome::Fine(Box::new(Item { id, line, targets, references, text, shown })))
    }

    /// The key of a clip and the size of its source, or what is wrong with it.
    fn clip(
        &self,
        clip: &Clip,
        fit: Fit,
        id: &str,
        looked: &mut Looked<'_>,
    ) -> Result<std::result::Result<(String, [usize; 2]), String>> {
        let hash = match looked.hashes.get(&clip.media) {
            Some(hash) => hash.clone(),
            None => match hash_file(&clip.media) {
                Ok(hash) => looked.hashes.entry(clip.media.clone()).or_insert(hash).clone(),
                Err(error) => return Ok(Err(in_words(&error, &clip.media))),
            },
        };
        if let Some(wanted) = &clip.sha256
            && !wanted.eq_ignore_ascii_case(&hash)
        {
            let media = clip.media.display();
            return Ok(Err(format!("{media} has SHA-256 {hash}, the manifest says {wanted}")));
        }
        let video = &self.settings.video;
        let parts = json!({
            "media": hash, "start": clip.start, "frames": clip.frames, "fps": video.fps,
            "crop": clip.crop, "fit": format!("{fit:?}"), "width": video.width,
            "height": video.height, "encoder": looked.encoder,
        });
        let key = Cache::key(&parts);
        match looked.cache.find(&key)? {
            Found::Entry(entry) => return Ok(Ok((key, entry.source))),
            Found::Nothing => {}
            Found::Damaged => (looked.events)(Event::Warning(format!(
                "what was encoded of {} is damaged in the cache and made again",
                clip.media.display()
            ))),
        }
        let source = match self.read(clip, fit)? {
            Ok(read) => size_of(&read, clip),
            Err(what) => return Ok(Err(what)),
        };
        let place = format!("sample {id}, {}", clip.media.display());
        let missing = Missing { parts, clip: clip.clone(), fit, place };
        looked.missing.insert(key.clone(), missing);
        Ok(Ok((key, source)))
    }

    /// Decodes a clip, or says what is wrong with it.
    pub(super) fn read(
        &self,
        clip: &Clip,
        fit: Fit,
    ) -> Result<std::result::Result<Reference, String>> {
        let Size { width, height, .. } = self.settings.size();
        let options = StandardiseOptions {
            fit,
            fps: self.settings.video.fps,
            max_frames: clip.frames,
            ..StandardiseOptions::new(width, height)
        };
        let segment = Segment { start: clip.start, crop: clip.crop };
        let mut seen = |_| self.stopped("while reading clips");
        match read_segment(&clip.media, &segment, &options, &ReadOptions::default(), &mut seen) {
            Ok(read) if read.frames.len() < clip.frames => {
                let (media, there) = (clip.media.display(), read.frames.len());
                Ok(Err(format!(
                    "{media} gives {there} frames at {} a second from frame {} on, {} are needed",
                    options.fps, clip.start, clip.frames
                )))
            }
            Ok(mut read) => {
                read.frames.truncate(clip.frames);
                Ok(Ok(read))
            }
            Err(error) if ["E1002", "E0603"].contains(&error.code()) => Err(error),
            Err(error) => Ok(Err(in_words(&error, &clip.media))),
        }
    }

    /// Encodes what is missing, and black frames; gives their key.
    fn encode_clips(&self, looked: &mut Looked<'_>, black_frames: usize) -> Result<String> {
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
            let read = self.read(&missing.clip, missing.fit)?.map_err(|what| {
                Error::input("E0960", what)
                    .at(&missing.place)
                    .help("the file was changed while it was read: start again")
            })?;
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

    /// What the entry of a prompt depends on.
    fn text_parts(&self, tokens: &[u32]) -> Result<Value> {
        Ok(json!({
            "tokens": tokens, "rows": self.model.dit.text_len,
            "encoder": self.model.text_weights.set().fingerprint()?,
            "precision": self.settings.precision(self.model.default_precision())?.name(),
        }))
    }

    /// Encodes the prompts that are missing, and the empty one; gives its key.
    fn encode_texts(
        &self,
        looked: &mut Looked<'_>,
        mut prompts: BTreeMap<String, Vec<u32>>,
    ) -> Result<String> {
        let rows = self.model.dit.text_len;
        let nothing = self.model.tokenizer.encode("", rows)?.ids;
        let empty = Cache::key(&self.text_parts(&nothing)?);
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
                let parts = self.text_parts(tokens)?;
                looked.cache.store(&parts, &Entry { value, source: [0, 0] })?;
                done += 1;
            }
            (looked.events)(Event::Encoded { done, total });
        }
        Ok(empty)
    }
}

/// What a look at a sample gives.
enum Outcome {
    Fine(Box<Item>),
    Excluded(String),
    Faulty(String),
}

/// Width and height of what is taken of a source.
fn size_of(read: &Reference, clip: &Clip) -> [usize; 2] {
    match clip.crop {
        Some([left, top, right, bottom]) => {
            [right.round() - left.round(), bottom.round() - top.round()].map(|side| side as usize)
        }
        None => [read.source.width, read.source.height],
    }
}

/// An error of a file as one line of a list.
fn in_words(error: &Error, media: &Path) -> String {
    format!("{}: {}", media.display(), error.message())
}

/// Every fault of a manifest as one error.
fn refused(faults: &[Fault], path: &Path) -> Error {
    let mut message = match faults.len() {
        1 => "1 line of the manifest cannot be used".to_owned(),
        count => format!("{count} lines of the manifest cannot be used"),
    };
    for fault in faults {
        message.push_str(&format!("\n  line {}: {}", fault.line, fault.what));
    }
    Error::input("E0957", message)
        .at(path.display())
        .help("mend these lines, or leave them out with data.skip_faulty = true")
}
