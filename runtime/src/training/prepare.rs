//! From a manifest to what a run trains on: everything is looked at and encoded before the first step.
//!
//! Frames are counted by decoding, never from a duration. Every fault is reported at once, with its
//! line; what is left out on purpose has a reason and is counted. Clips and prompts go through the
//! encoders once and into the cache, so a run that was stopped here goes on where it was.

mod ahead;
mod copies;
mod lines;

use super::cache::{Cache, Entry, Found, damage};
use super::dataset::{Dataset, Item, Sizes, Slot};
use super::faults::{Fault, Gathered, refused};
use super::labels::{Labelled, Labels, classify, slots_of};
use super::manifest::{Clip, Remains, Sample, Sure, more};
use super::settings::TrainedNetwork;
use super::{Event, Settings};
use crate::checkpoint::hash_file;
use crate::engine::Backend;
use crate::error::{Error, Result, plural};
use crate::media::ReadOptions;
use crate::media::standardise::{Fit, Reference, Segment, StandardiseOptions, read_segment};
use crate::model::Model;
use crate::pipeline::{Cancel, Size};
use crate::safeguards::Safeguards;
use crate::text::clean;
use anyid_files::manifest::Field;
pub(super) use lines::Lines;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

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
    /// What is trained, which decides what is wanted of a sample.
    pub network: TrainedNetwork,
    /// What asks for consent; nothing is asked for without it.
    pub guards: Option<&'p Safeguards>,
    /// Stops it.
    pub cancel: &'p Cancel,
}

/// Tokens of prompts by the keys of their entries, each with whose it is.
pub(super) type Prompts = BTreeMap<String, (Vec<u32>, String)>;

/// Something that is not in the cache yet.
pub(super) struct Missing {
    /// What its entry depends on.
    pub(super) parts: Value,
    pub(super) clip: Clip,
    pub(super) fit: Fit,
    pub(super) place: String,
}

/// What is found out about the samples.
pub(super) struct Looked<'e> {
    pub(super) cache: Cache,
    pub(super) encoder: String,
    pub(super) text_encoder: String,
    hashes: HashMap<PathBuf, String>,
    /// Frames a second of files of which several clips are taken, by their hashes.
    rates: HashMap<String, Option<f64>>,
    /// Sizes of the sources of clips that were looked at, by their keys.
    sizes: HashMap<String, [usize; 2]>,
    /// Clips of pairs that go on behind the frames that are taken of them.
    longer: BTreeSet<String>,
    pub(super) missing: BTreeMap<String, Missing>,
    /// Entries that were found damaged, and of which nothing was said yet.
    damaged: Vec<String>,
    /// What has names of entries and is none.
    pub(super) blocked: Vec<PathBuf>,
    /// Of targets that end before their lines say.
    short: Vec<String>,
    pub(super) events: &'e mut dyn FnMut(Event),
}

impl Looked<'_> {
    /// What the cache has under `key`; what is damaged, or in the way, is nothing, and will be told as that of
    /// `what`.
    ///
    /// # Errors
    /// As [`Cache::find`], but for what is in the way.
    pub(super) fn find(&mut self, key: &str, what: &str) -> Result<Option<Entry>> {
        if let Some(path) = self.cache.blocked(key) {
            self.blocked.push(path);
            return Ok(None);
        }
        Ok(match self.cache.find(key)? {
            Found::Entry(entry) => Some(entry),
            Found::Nothing => None,
            Found::Damaged => {
                self.damaged.push(self.cache.named(key, what));
                None
            }
        })
    }

    /// Warns of what was found damaged, and refuses what is in the way.
    ///
    /// # Errors
    /// E1014.
    pub(super) fn tell_damage(&mut self) -> Result<()> {
        self.cache.refuse(&self.blocked)?;
        let damaged = std::mem::take(&mut self.damaged);
        if !damaged.is_empty() {
            (self.events)(Event::Warning(damage(&damaged)));
        }
        Ok(())
    }
}

impl Preparation<'_> {
    /// Checks and encodes what is learned from, and what is only measured, where the settings name that. Both
    /// are checked before anything is encoded, and all that is wrong with them is said at once.
    ///
    /// # Errors
    /// E0911 and E0959 for a manifest, E0957 with every fault of its lines, E0958 where nothing is
    /// left, E0990 where these come together; E1105 where consent is required and missing; E0977 and E0978 for labels; E1001 for a non-finite value,
    /// E1002 when cancelled, E101x where the cache cannot be written.
    pub fn datasets(&self, events: &mut dyn FnMut(Event)) -> Result<(Dataset, Option<Dataset>)> {
        let data = &self.settings.data;
        let mut looked = self.nothing_looked_at(events)?;
        let mut faults = Gathered::default();
        let learned = faults.note(self.examine(&data.manifest, &mut looked))?;
        let measured = data.validation.as_ref().map(|path| self.examine(path, &mut looked));
        let mut measured = measured.map(|own| faults.note(own)).transpose()?.flatten();
        faults.refuse(self.settings.file())?;
        let consents = self.ask(&mut looked)?;
        let mut learned = learned.expect("it has no faults");
        let sets = std::iter::once(&mut learned).chain(&mut measured);
        let slots = match self.network.labelled() {
            Some(labelled) => self.classify(labelled, sets)?,
            None => Vec::new(),
        };
        let mut learned = self.encode(learned, &slots, &mut looked)?;
        learned.consents = consents;
        let measured = measured.map(|own| self.encode(own, &slots, &mut looked)).transpose()?;
        Ok((learned, measured))
    }

    /// Asks for consent to training on all files that were looked at; gives the records that say so.
    fn ask(&self, looked: &mut Looked<'_>) -> Result<Vec<String>> {
        let Some(guards) = self.guards else { return Ok(Vec::new()) };
        let files = looked.hashes.iter().map(|(path, hash)| (path.as_path(), hash.as_str()));
        let mut files: Vec<(&Path, &str)> = files.collect();
        files.sort_unstable();
        let private = self.settings.data.private;
        let (ids, missing) = guards.check_training(&files, private, SystemTime::now())?;
        let event = if private { Event::Warning } else { Event::Noted };
        missing.map(event).into_iter().for_each(&mut *looked.events);
        Ok(ids)
    }

    /// Where nothing was looked at yet.
    fn nothing_looked_at<'e>(&self, events: &'e mut dyn FnMut(Event)) -> Result<Looked<'e>> {
        // They read megabytes of the weights.
        let [encoder, text_encoder] = match self.network {
            TrainedNetwork::Transformer => {
                let [_, encoder, text_encoder] = self.model.fingerprints()?;
                [encoder, text_encoder]
            }
            TrainedNetwork::Vae | TrainedNetwork::Text | TrainedNetwork::Judge => {
                [(); 2].map(|()| "none".to_owned())
            }
        };
        Ok(Looked {
            cache: Cache::open(&self.settings.cache())?,
            encoder,
            text_encoder,
            hashes: HashMap::new(),
            rates: HashMap::new(),
            sizes: HashMap::new(),
            longer: BTreeSet::new(),
            missing: BTreeMap::new(),
            damaged: Vec::new(),
            blocked: Vec::new(),
            short: Vec::new(),
            events,
        })
    }

    /// Looks at all that the manifest at `path` names.
    fn examine(&self, path: &Path, looked: &mut Looked<'_>) -> Result<Examined> {
        let data = &self.settings.data;
        let mut manifest = self.lines().open(path)?;
        for warning in &manifest.warnings {
            (looked.events)(Event::Warning(format!("{}, {warning}", path.display())));
        }
        let (mut items, mut labels, mut excluded) = (Vec::new(), Vec::new(), Vec::new());
        let total = manifest.samples.len() + manifest.remains.len();
        let mut prompts = Prompts::new();
        for (at, sample) in manifest.samples.iter().enumerate() {
            match self.look(sample, looked, &mut prompts)? {
                Outcome::Fine(item) => {
                    items.push(*item);
                    labels.push(sample.labels.clone());
                }
                Outcome::Excluded(reason) => {
                    excluded.push((sample.line, sample.id.clone(), reason));
                }
                Outcome::Faulty(all) => {
                    let (line, id) = (sample.line, &sample.id);
                    let fault = |(field, what)| Fault { line, id: id.clone(), field, what };
                    manifest.faults.extend(all.into_iter().map(fault));
                }
            }
            (looked.events)(Event::Checked { done: at + 1, total });
        }
        let short = std::mem::take(&mut looked.short);
        if !data.skip_faulty {
            // All of a line is to be known, so what is left of a faulty one is looked at as well.
            for (at, remains) in (manifest.samples.len() + 1..).zip(&manifest.remains) {
                manifest.faults.extend(self.look_at_remains(remains, looked)?);
                (looked.events)(Event::Checked { done: at, total });
            }
        }
        manifest.faults.sort_by_key(|fault| fault.line);
        match data.skip_faulty {
            true => excluded.extend(faulty(&manifest.faults)),
            false if manifest.faults.is_empty() => {}
            false => return Err(refused(&manifest.faults, total, path, self.settings)),
        }
        if let Some(first) = short.first() {
            let what = more(first.clone(), short.len());
            (looked.events)(Event::Warning(format!("{}, {what}", path.display())));
        }
        if items.is_empty() {
            return Err(self.nothing_left(&excluded, path));
        }
        for what in left_out(&excluded, if self.pairs { "pair" } else { "sample" }) {
            (looked.events)(Event::Warning(format!("{}: {what}", path.display())));
        }
        let empty = self.tokens("").map_or(0, |tokens| tokens.len());
        let rows = prompts.values().map(|(tokens, _)| tokens.len());
        let text_rows = rows.chain([empty]).max().unwrap_or(0);
        let longest = items.iter().flat_map(|item| &item.references);
        let longest = longest.map(|(_, frames)| *frames).max().unwrap_or(1);
        // Of prompts as well before clips are encoded, which may take hours.
        let blocked: Vec<PathBuf> =
            prompts.keys().filter_map(|key| looked.cache.blocked(key)).collect();
        looked.blocked.extend(blocked);
        let (path, sha256, styles) = (path.to_owned(), manifest.sha256, manifest.styles);
        Ok(Examined { path, sha256, styles, items, labels, excluded, prompts, text_rows, longest })
    }

    /// Gives all samples their classes; the slots are those of the first set.
    fn classify<'s>(
        &self,
        labelled: Labelled,
        sets: impl Iterator<Item = &'s mut Examined>,
    ) -> Result<Vec<Slot>> {
        let mut slots = None;
        for Examined { items, labels, path, .. } in sets {
            let slots = match &mut slots {
                Some(slots) => slots,
                none => none.insert(slots_of(labelled, labels, path)?),
            };
            classify(labelled, items, labels, slots, path)?;
        }
        Ok(slots.unwrap_or_default())
    }

    /// Encodes what the cache lacks of a set.
    fn encode(&self, own: Examined, slots: &[Slot], looked: &mut Looked<'_>) -> Result<Dataset> {
        let [black, empty] = match self.network {
            TrainedNetwork::Transformer => [
                self.encode_clips(looked, self.model.geometry().frames(own.longest))?,
                self.encode_texts(looked, own.prompts)?,
            ],
            TrainedNetwork::Vae | TrainedNetwork::Judge => {
                self.keep_pixels(looked)?;
                [String::new(), String::new()]
            }
            TrainedNetwork::Text => [String::new(), String::new()],
        };
        Ok(Dataset {
            manifest: own.sha256,
            styles: own.styles,
            consents: Vec::new(),
            items: own.items,
            slots: slots.to_vec(),
            excluded: own.excluded,
            cache: looked.cache.clone(),
            black,
            empty,
            text_rows: own.text_rows,
            sizes: self.sizes(),
            held: Arc::default(),
        })
    }

    /// Bytes of what is encoded.
    fn sizes(&self) -> Sizes {
        let (size, dit) = (self.settings.size(), &self.model.dit);
        let bytes = |numbers: &[usize]| numbers.iter().fold(1, |all, one| all * *one as u64);
        match self.network {
            TrainedNetwork::Transformer => {
                let [frames, rows, columns] = size.latent(self.model.geometry());
                let frame = bytes(&[4, dit.in_channels, rows, columns]);
                let text = bytes(&[4, dit.text_len, dit.text_dim]);
                Sizes { target: frames as u64 * frame, frame, text }
            }
            TrainedNetwork::Vae | TrainedNetwork::Judge => {
                let target = bytes(&[size.frames, size.height, size.width, 3]);
                Sizes { target, ..Sizes::default() }
            }
            TrainedNetwork::Text => Sizes::default(),
        }
    }

    /// The error of a manifest of which nothing is left.
    fn nothing_left(&self, excluded: &[Excluded], path: &Path) -> Error {
        let unit = if self.pairs { "pair" } else { "sample" };
        let message = match excluded.len() {
            0 => format!("the manifest has no {unit}"),
            1 => format!("the only {unit} is left out: {}", excluded[0].2),
            count => format!("none of {count} {unit}s is left: {}", excluded[0].2),
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
        Error::input("E0958", message).at(path.display()).help(help)
    }

    /// How the lines of its manifests are read.
    fn lines(&self) -> Lines<'_> {
        let Self { settings, pairs, network, .. } = *self;
        // Where no clip is looked at, any length and rate will do.
        let timed = network != TrainedNetwork::Text;
        Lines { settings, pairs, network, group: self.model.geometry().time, timed }
    }

    /// Looks at all that a sample names.
    fn look(
        &self,
        sample: &Sample,
        looked: &mut Looked<'_>,
        prompts: &mut Prompts,
    ) -> Result<Outcome> {
        self.cancel.check("while checking the manifest")?;
        let mut faults = Vec::new();
        let tokens = match self.network {
            TrainedNetwork::Transformer | TrainedNetwork::Text => {
                let tokens = self.tokens(&sample.prompt);
                tokens.map_err(|what| faults.push((Field::Prompt, what))).unwrap_or_default()
            }
            TrainedNetwork::Vae | TrainedNetwork::Judge => Vec::new(),
        };
        if self.network == TrainedNetwork::Text {
            return Ok(match faults.is_empty() {
                true => Outcome::Fine(Box::new(prompt_of(sample, tokens))),
                false => Outcome::Faulty(faults),
            });
        }
        let (mut targets, mut sizes) = (Vec::new(), Vec::new());
        let [mut learned, mut beside] = [Vec::new(), Vec::new()];
        for (field, clip) in sample.targets.fields().zip(sample.targets.clips()) {
            let mut sure = Sure::ALL;
            match self.clip(clip, Fit::Cover, &sample.id, looked)? {
                Ok((key, size)) => {
                    targets.push(key);
                    sizes.push(size);
                }
                Err(what) => {
                    faults.push((field, format!("{field}{what}")));
                    sure = self.sure_of_unread(clip, sure, looked);
                }
            }
            learned.push((clip, sure));
        }
        let references = match self.network {
            TrainedNetwork::Transformer => &sample.references[..],
            TrainedNetwork::Vae | TrainedNetwork::Text | TrainedNetwork::Judge => &[],
        };
        let mut given = Vec::new();
        for (at, clip) in (1..).zip(references) {
            let mut sure = Sure::ALL;
            match self.clip(clip, Fit::Inside, &sample.id, looked)? {
                Ok((key, _)) => given.push((key, self.model.geometry().latent_frames(clip.frames))),
                Err(what) => {
                    let field = Field::Reference(at);
                    faults.push((field, format!("{field}{what}")));
                    sure = self.sure_of_unread(clip, sure, looked);
                }
            }
            beside.push((clip, sure));
        }
        faults.extend(self.copies(&learned, &beside, looked)?);
        if let [[width, height], other] = sizes[..]
            && [width, height] != other
        {
            let [wide, high] = other;
            let what = format!(
                "the chosen clip has {width}x{height} pixels, the rejected one {wide}x{high}"
            );
            faults.push((Field::Several, what));
        }
        if !faults.is_empty() {
            return Ok(Outcome::Faulty(faults));
        }
        let mut text = String::new();
        match self.network {
            TrainedNetwork::Transformer => {
                text = Cache::key(&self.text_parts(looked, &tokens)?);
                let whose = || (tokens, format!("the prompt of sample {}", sample.id));
                prompts.entry(text.clone()).or_insert_with(whose);
            }
            // What it is to learn of the target; there is nothing in the cache of that.
            TrainedNetwork::Judge => text = Cache::key(&json!({"labels": sample.labels})),
            TrainedNetwork::Vae | TrainedNetwork::Text => {}
        }
        if let Some([width, height]) = Some(sizes[0]).filter(|size| self.is_small(*size)) {
            return Ok(Outcome::Excluded(format!(
                "the target would be enlarged: it has {width}x{height} pixels"
            )));
        }
        self.remark(sample, &targets, looked);
        let (id, line, references) = (sample.id.clone(), sample.line, given);
        let target = &sample.targets.clips()[0];
        let beside = match self.network {
            TrainedNetwork::Transformer => &sample.references[0],
            TrainedNetwork::Vae | TrainedNetwork::Text | TrainedNetwork::Judge => target,
        };
        let shown = [target.clone(), beside.clone()];
        let (tokens, classes) = (Vec::new(), Vec::new());
        Ok(Outcome::Fine(Box::new(Item {
            id,
            line,
            targets,
            references,
            text,
            tokens,
            classes,
            shown,
            read: sample.references.clone(),
        })))
    }

    /// Whether a target of this size is left out, because it would be enlarged.
    fn is_small(&self, [width, height]: [usize; 2]) -> bool {
        let video = &self.settings.video;
        let share = (width as f64 / video.width as f64).min(height as f64 / video.height as f64);
        share < 0.75 && !self.settings.data.allow_upscale && !self.pairs
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
    fn look_at_remains(&self, remains: &Remains, looked: &mut Looked<'_>) -> Result<Vec<Fault>> {
        self.cancel.check("while checking the manifest")?;
        let [read, shown] = match self.network {
            TrainedNetwork::Transformer => [true, true],
            TrainedNetwork::Vae | TrainedNetwork::Judge => [false, true],
            TrainedNetwork::Text => [true, false],
        };
        let prompt = remains.prompt.as_deref().filter(|_| read).map(|prompt| self.tokens(prompt));
        let prompt = prompt.and_then(std::result::Result::err);
        let mut faults: Vec<(Field, String)> =
            prompt.into_iter().map(|what| (Field::Prompt, what)).collect();
        let wanted = |field: Field| shown && (read || !field.is_reference());
        let [mut targets, mut references] = [Vec::new(), Vec::new()];
        for (field, clip, sure) in remains.clips.iter().filter(|(field, ..)| wanted(*field)) {
            let mut sure = *sure;
            if sure.file {
                // Where frames are not known, whether there is one that can be read.
                let first = Clip { start: 0, frames: 1, ..clip.clone() };
                let part = if sure.frames { clip } else { &first };
                // References fit inside; of a target only the frame is another, not what can be read.
                let read = match self.known_hash(clip, looked) {
                    Ok(_) => self.read(part, Fit::Inside)?.map(drop),
                    Err(what) => Err(what),
                };
                if let Err(what) = read {
                    faults.push((*field, format!("{field}{what}")));
                    sure = self.sure_of_unread(clip, sure, looked);
                }
            }
            let own = if field.is_reference() { &mut references } else { &mut targets };
            own.push((clip, sure));
        }
        faults.extend(self.copies(&targets, &references, looked)?);
        let (line, id) = (remains.line, &remains.id);
        let fault = |(field, what)| Fault { line, id: id.clone(), field, what };
        Ok(faults.into_iter().map(fault).collect())
    }

    /// What is still sure of a clip that could not be read.
    fn sure_of_unread(&self, clip: &Clip, sure: Sure, looked: &mut Looked<'_>) -> Sure {
        let file = sure.file && self.known_hash(clip, looked).is_ok();
        Sure { file, frames: false, ..sure }
    }

    /// The hash of a file, or what is wrong with it.
    fn known_hash(
        &self,
        clip: &Clip,
        looked: &mut Looked<'_>,
    ) -> std::result::Result<String, String> {
        let known = looked.hashes.get(&clip.media);
        if let Some(hash) = known.filter(|_| clip.sha256.is_none()) {
            return Ok(hash.clone());
        }
        if clip.media.is_dir() {
            return Err(format!("{}: this is a folder", clip.media.display()));
        }
        let hash = hash_file(&clip.media).map_err(|error| in_words(&error, &clip.media))?;
        let hash = looked.hashes.entry(clip.media.clone()).or_insert(hash).clone();
        match &clip.sha256 {
            Some(wanted) if !wanted.eq_ignore_ascii_case(&hash) => {
                let media = clip.media.display();
                Err(format!("{media} has SHA-256 {hash}, the manifest says {wanted}"))
            }
            _ => Ok(hash),
        }
    }

    /// What the entry of a clip depends on, whose file has this hash and which goes through this encoder.
    fn clip_parts(&self, clip: &Clip, fit: Fit, [hash, encoder]: [&str; 2]) -> Value {
        let video = &self.settings.video;
        json!({
            "media": hash, "start": clip.start, "frames": clip.frames, "fps": video.fps,
            "crop": clip.crop, "fit": format!("{fit:?}"), "width": video.width,
            "height": video.height, "encoder": encoder,
        })
    }

    /// The key of a clip and the size of its source, or what is wrong with it.
    fn clip(
        &self,
        clip: &Clip,
        fit: Fit,
        id: &str,
        looked: &mut Looked<'_>,
    ) -> Result<std::result::Result<(String, [usize; 2]), String>> {
        let hash = match self.known_hash(clip, looked) {
            Ok(hash) => hash,
            Err(what) => return Ok(Err(what)),
        };
        let parts = self.clip_parts(clip, fit, [&hash, &looked.encoder]);
        let key = Cache::key(&parts);
        // Many lines name the same clips.
        if let Some(source) = looked.sizes.get(&key) {
            return Ok(Ok((key, *source)));
        }
        if let Some(entry) = looked.find(&key, &clip.media.display().to_string())? {
            looked.sizes.insert(key.clone(), entry.source);
            return Ok(Ok((key, entry.source)));
        }
        // Of a pair, whether one clip goes on where the other ends is to be known.
        let beyond = if self.pairs && fit == Fit::Cover { 1 } else { 0 };
        let source = match self.read_beyond(clip, fit, beyond)? {
            Ok(read) => {
                if read.frames.len() > clip.frames {
                    looked.longer.insert(key.clone());
                }
                looked.short.extend(self.cut_off(clip, id, &read));
                size_of(&read, clip)
            }
            Err(what) => return Ok(Err(what)),
        };
        let place = format!("sample {id}, {}", clip.media.display());
        let missing = Missing { parts, clip: clip.clone(), fit, place };
        looked.missing.insert(key.clone(), missing);
        looked.sizes.insert(key.clone(), source);
        Ok(Ok((key, source)))
    }

    /// What is to be said of a target that ends before all frames that its line says it has: what a run takes
    /// is there.
    fn cut_off(&self, clip: &Clip, id: &str, read: &Reference) -> Option<String> {
        let (said, total) = clip.said.zip(read.source.total)?;
        let all = self.taken(&Clip { frames: said.max(1), ..clip.clone() }, read.source.fps);
        (all.end > total).then(|| {
            format!(
                "sample {id}: the target has {} by its line, and {} ends before that: it has {} in all, \
                 of which {} are taken from {} on",
                plural(said, "frame"),
                clip.media.display(),
                plural(total, "frame"),
                clip.frames,
                clip.start,
            )
        })
    }

    /// Decodes a clip, or says what is wrong with it.
    pub(super) fn read(
        &self,
        clip: &Clip,
        fit: Fit,
    ) -> Result<std::result::Result<Reference, String>> {
        self.read_beyond(clip, fit, 0)
    }

    /// As [`Self::read`], with up to so many groups of frames more.
    fn read_beyond(
        &self,
        clip: &Clip,
        fit: Fit,
        groups: usize,
    ) -> Result<std::result::Result<Reference, String>> {
        let Size { width, height, .. } = self.settings.size();
        let group = self.model.geometry().time;
        let most = clip.frames + groups * group;
        let options = StandardiseOptions {
            fit,
            fps: self.settings.video.fps,
            max_frames: most,
            group,
            ..StandardiseOptions::new(width, height)
        };
        let segment = Segment { start: clip.start, crop: clip.crop };
        let mut seen = |_| self.cancel.check("while reading clips");
        match read_segment(&clip.media, &segment, &options, &ReadOptions::default(), &mut seen) {
            Ok(read) if read.frames.len() < clip.frames => {
                let (media, there) = (clip.media.display(), read.frames.len());
                let needed = match clip.frames {
                    1 => "1 is".to_owned(),
                    frames => format!("{frames} are"),
                };
                Ok(Err(format!(
                    "{media} gives {} at {} a second from frame {} on, {} needed",
                    plural(there, "frame"),
                    options.fps,
                    clip.start,
                    needed
                )))
            }
            Ok(mut read) => {
                read.frames.truncate(most);
                Ok(Ok(read))
            }
            Err(error) if ["E1002", "E0603"].contains(&error.code()) => Err(error),
            Err(error) => Ok(Err(in_words(&error, &clip.media))),
        }
    }
}

/// What a look at a sample gives.
enum Outcome {
    Fine(Box<Item>),
    Excluded(String),
    Faulty(Vec<(Field, String)>),
}

/// A manifest whose lines were looked at, and of which nothing was encoded yet.
struct Examined {
    path: PathBuf,
    sha256: String,
    styles: BTreeSet<String>,
    items: Vec<Item>,
    /// The labels of each.
    labels: Vec<Labels>,
    excluded: Vec<Excluded>,
    prompts: Prompts,
    /// Rows of the longest prompt.
    text_rows: usize,
    /// Latent frames of the longest reference.
    longest: usize,
}

/// What is left out: its line, id and the reason.
type Excluded = (usize, String, String);

/// What is to be said of what is left out: for each reason how many, and the first with what it is in detail.
fn left_out(excluded: &[Excluded], unit: &str) -> Vec<String> {
    let mut all: BTreeMap<&str, Vec<(usize, &str)>> = BTreeMap::new();
    for (line, _, reason) in excluded {
        let (reason, detail) = reason.split_once(": ").unwrap_or((reason, ""));
        all.entry(reason).or_default().push((*line, detail));
    }
    let said = |(reason, mut own): (&str, Vec<(usize, &str)>)| {
        own.sort_unstable();
        let (count, (line, detail)) = (plural(own.len(), unit), own[0]);
        format!("{count} left out: {reason}; the first is line {line}: {detail}")
    };
    all.into_iter().map(said).collect()
}

/// Lines with faults, as what is left out.
fn faulty(faults: &[Fault]) -> Vec<Excluded> {
    let mut by_line: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for fault in faults {
        by_line.entry(fault.line).or_default().push(&fault.what);
    }
    let all = by_line.into_iter();
    all.map(|(line, all)| (line, String::new(), format!("faulty: {}", all.join("; ")))).collect()
}

/// A sample of which only the prompt is wanted, whose clips nobody looks at.
fn prompt_of(sample: &Sample, tokens: Vec<u32>) -> Item {
    let clip = &sample.targets.clips()[0];
    Item {
        id: sample.id.clone(),
        line: sample.line,
        targets: Vec::new(),
        references: Vec::new(),
        text: Cache::key(&json!({"tokens": tokens, "labels": sample.labels})),
        tokens,
        classes: Vec::new(),
        shown: [clip.clone(), clip.clone()],
        read: Vec::new(),
    }
}

/// Width and height of what is taken of a source.
pub(super) fn size_of(read: &Reference, clip: &Clip) -> [usize; 2] {
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

#[cfg(test)]
mod tests;
