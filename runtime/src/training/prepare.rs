//! From a manifest to what a run trains on: everything is looked at and encoded before the first step.
//!
//! Frames are counted by decoding, never from a duration. Every fault is reported at once, with its
//! line; what is left out on purpose has a reason and is counted. Clips and prompts go through the
//! encoders once and into the cache, so a run that was stopped here goes on where it was.

use super::cache::{Cache, Entry, Found};
use super::dataset::{Dataset, Item};
use super::manifest::{Clip, Manifest, Reading, Remains, Sample};
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
use std::sync::Arc;

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
            group: self.model.geometry().time,
            fps: Some(self.settings.video.fps),
        };
        let key = if path == data.manifest { "data.manifest" } else { "data.validation" };
        let mut manifest = Manifest::open(path, &reading).map_err(|error| match error.code() {
            "E0911" => {
                let from = self.settings.place(key);
                error.placed(format!("{}, which is {key} of {from}", path.display()))
            }
            _ => error,
        })?;
        for warning in &manifest.warnings {
            events(Event::Warning(format!("{}, {warning}", path.display())));
        }
        let folder = data.cache.clone().unwrap_or_else(|| self.settings.run.folder.join("cache"));
        let mut looked = Looked {
            cache: Cache::open(&folder)?,
            encoder: self.model.vae_weights.set().fingerprint()?,
            hashes: HashMap::new(),
            missing: BTreeMap::new(),
            events,
        };
        let (mut items, mut excluded) = (Vec::new(), Vec::new());
        let total = manifest.samples.len() + manifest.remains.len();
        let mut prompts: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (at, sample) in manifest.samples.iter().enumerate() {
            match self.look(sample, &mut looked, &mut prompts)? {
                Outcome::Fine(item) => items.push(*item),
                Outcome::Excluded(reason) => {
                    excluded.push((sample.line, sample.id.clone(), reason));
                }
                Outcome::Faulty(all) => {
                    let line = sample.line;
                    manifest.faults.extend(all.into_iter().map(|what| Fault { line, what }));
                }
            }
            (looked.events)(Event::Checked { done: at + 1, total });
        }
        if !data.skip_faulty {
            // All of a line is to be known, so what is left of a faulty one is looked at as well.
            for (at, remains) in (manifest.samples.len() + 1..).zip(&manifest.remains) {
                manifest.faults.extend(self.look_at_remains(remains)?);
                (looked.events)(Event::Checked { done: at, total });
            }
        }
        manifest.faults.sort_by_key(|fault| fault.line);
        let mut by_line: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for fault in &manifest.faults {
            by_line.entry(fault.line).or_default().push(&fault.what);
        }
        match data.skip_faulty {
            true => {
                excluded.extend(by_line.into_iter().map(|(line, all)| {
                    (line, String::new(), format!("faulty: {}", all.join("; ")))
                }))
            }
            false if by_line.is_empty() => {}
            false => return Err(refused(&by_line, path)),
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
        let empty = self.tokens("").map_or(0, |tokens| tokens.len());
        let text_rows = prompts.values().map(Vec::len).chain([empty]).max().unwrap_or(0);
        let longest = items.iter().flat_map(|item| &item.references);
        let longest = longest.map(|(_, frames)| *frames).max().unwrap_or(1);
        let black = self.encode_clips(&mut looked, self.model.geometry().frames(longest))?;
        let empty = self.encode_texts(&mut looked, prompts)?;
        let sha256 = manifest.sha256;
        let (cache, held) = (looked.cache, Arc::default());
        Ok(Dataset { manifest: sha256, items, excluded, cache, black, empty, text_rows, held })
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
        let mut faults = Vec::new();
        let tokens = self.tokens(&sample.prompt).map_err(|what| faults.push(what)).ok();
        let (mut targets, mut sizes, mut references) = (Vec::new(), Vec::new(), Vec::new());
        let names: &[&str] = if self.pairs { &["chosen", "rejected"] } else { &["target"] };
        for (name, clip) in names.iter().zip(sample.targets.clips()) {
            match self.clip(clip, Fit::Cover, &sample.id, looked)? {
                Ok((key, size)) => {
                    targets.push(key);
                    sizes.push(size);
                }
                Err(what) => faults.push(format!("{name}: {what}")),
            }
        }
        for (at, clip) in (1..).zip(&sample.references) {
            match self.clip(clip, Fit::Inside, &sample.id, looked)? {
                Ok((key, _)) => {
                    references.push((key, self.model.geometry().latent_frames(clip.frames)))
                }
                Err(what) => faults.push(format!("reference {at}: {what}")),
            }
        }
        // Keys are of the content: copies of one clip have one key.
        if let [chosen, rejected] = &targets[..]
            && chosen == rejected
        {
            faults.push("the chosen and the rejected clip are the same".to_owned());
        }
        if let [[width, height], other] = sizes[..]
            && [width, height] != other
        {
            faults.push(format!(
                "the chosen clip has {width}x{height} pixels, the rejected one {}x{}",
                other[0], other[1]
            ));
        }
        let (Some(tokens), true) = (tokens, faults.is_empty()) else {
            return Ok(Outcome::Faulty(faults));
        };
        let text = Cache::key(&self.text_parts(&tokens)?);
        prompts.insert(text.clone(), tokens);
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

    /// The tokens of a prompt, or what is wrong with it.
    fn tokens(&self, prompt: &str) -> std::result::Result<Vec<u32>, String> {
        let rows = self.model.dit.text_len;
        match self.model.tokenizer.encode(&clean(prompt), rows) {
            Ok(encoded) if encoded.truncated_at.is_some() => {
                Err(format!("the prompt has {} tokens, at most {rows}", encoded.full_len))
            }
            Ok(encoded) => Ok(encoded.ids),
            Err(error) => Err(error.message().to_owned()),
        }
    }

    /// What else is wrong with a line that has faults already.
    fn look_at_remains(&self, remains: &Remains) -> Result<Vec<Fault>> {
        self.stopped("while checking the manifest")?;
        let prompt = remains.prompt.as_deref().map(|prompt| self.tokens(prompt));
        let mut faults: Vec<String> =
            prompt.and_then(std::result::Result::err).into_iter().collect();
        for (place, clip) in &remains.clips {
            // References fit inside; of a target only the frame is another, not what can be read.
            let read = match self.hash(clip) {
                Ok(_) => self.read(clip, Fit::Inside)?.map(drop),
                Err(what) => Err(what),
            };
            faults.extend(read.err().map(|what| format!("{place}{what}")));
        }
        let line = remains.line;
        Ok(faults.into_iter().map(|what| Fault { line, what }).collect())
    }

    /// The hash of a file, or what is wrong with it.
    fn hash(&self, clip: &Clip) -> std::result::Result<String, String> {
        let hash = hash_file(&clip.media).map_err(|error| in_words(&error, &clip.media))?;
        match &clip.sha256 {
            Some(wanted) if !wanted.eq_ignore_ascii_case(&hash) => {
                let media = clip.media.display();
                Err(format!("{media} has SHA-256 {hash}, the manifest says {wanted}"))
            }
            _ => Ok(hash),
        }
    }

    /// The key of a clip and the size of its source, or what is wrong with it.
    fn clip(
        &self,
        clip: &Clip,
        fit: Fit,
        id: &str,
        looked: &mut Looked<'_>,
    ) -> Result<std::result::Result<(String, [usize; 2]), String>> {
        let known = looked.hashes.get(&clip.media);
        let hash = match known.filter(|_| clip.sha256.is_none()) {
            Some(hash) => hash.clone(),
            None => match self.hash(clip) {
                Ok(hash) => looked.hashes.entry(clip.media.clone()).or_insert(hash).clone(),
                Err(what) => return Ok(Err(what)),
            },
        };
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
            group: self.model.geometry().time,
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
    Faulty(Vec<String>),
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

/// Every fault of a manifest as one error, by line.
fn refused(by_line: &BTreeMap<usize, Vec<&str>>, path: &Path) -> Error {
    let mut message = match by_line.len() {
        1 => "1 line of the manifest cannot be used".to_owned(),
        count => format!("{count} lines of the manifest cannot be used"),
    };
    for (line, all) in by_line {
        all.iter().for_each(|what| message.push_str(&format!("\n  line {line}: {what}")));
    }
    // A file of another kind has the same fault in every line.
    let every = |said: &str| by_line.values().flatten().all(|what| what.contains(said));
    let help = if every("this is not ") {
        "a manifest has one JSON object a line, without breaks inside; docs/training.md shows one"
    } else if every("expected \"anyid.dpo/1\"") {
        "this is a manifest of samples, for `train lora` and `train full`; `train dpo` reads pairs"
    } else if every("expected \"anyid.sample/1\"") {
        "this is a manifest of pairs, for `train dpo`; `train lora` and `train full` read samples"
    } else {
        "correct these lines, or set data.skip_faulty = true to leave them out"
    };
    Error::input("E0957", message).at(path.display()).help(help)
}
