//! The stages from a folder of videos to a manifest, one by one or all together (`data.md` §1).
//!
//! `index`, `shots`, `detect` and `filter` go file by file and may be shared among machines; their
//! parts are put together by `merge`. `group`, `sample`, `report` and `check` look at everything.

pub mod claim;
pub mod items;
mod journal;
pub mod media;
pub mod merge;
pub mod part;
mod workers;

use crate::detect::Source;
use crate::filter;
use crate::group::grouped;
use crate::lines::{all, hash, parsed};
use crate::pool;
use crate::prompt::aspects;
use crate::prompt::server::costs;
use crate::records::{Clip, Detection, Group, schema};
use crate::sample::{Pool, Texts};
use crate::settings::{SampleSettings, Settings};
use anyid_files::checkpoint::hash_file;
use anyid_files::output::{AtomicFile, make_folder};
use anyid_files::shard::Shard;
use anyid_files::{Error, Result};
use claim::{Claimed, Items};
use items::{Item, items};
use merge::merge;
use part::{Done, Part, config_hash};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Which files are videos.
    Index,
    /// Where they cut.
    Shots,
    /// Who is in them.
    Detect,
    /// Which may be used.
    Filter,
}

impl Stage {
    /// Those that go file by file, in their order.
    pub const ALL: [Self; 4] = [Self::Index, Self::Shots, Self::Detect, Self::Filter];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Shots => "shots",
            Self::Detect => "detect",
            Self::Filter => "filter",
        }
    }

    /// The file that it makes.
    pub fn file(self) -> &'static str {
        match self {
            Self::Index => "media.jsonl",
            Self::Shots => "shots.jsonl",
            Self::Detect => "detections.jsonl",
            Self::Filter => "clips.jsonl",
        }
    }

    fn schema(self) -> &'static str {
        match self {
            Self::Index => schema::MEDIA,
            Self::Shots => schema::SHOT,
            Self::Detect => schema::DETECTION,
            Self::Filter => schema::CLIP,
        }
    }

    /// The stage whose lines it reads.
    fn before(self) -> Option<Self> {
        match self {
            Self::Index => None,
            Self::Shots => Some(Self::Index),
            Self::Detect => Some(Self::Shots),
            Self::Filter => Some(Self::Detect),
        }
    }
}

/// What is to be done, and where.
#[derive(Clone, Debug)]
pub struct Job {
    /// The folder of the videos.
    pub root: PathBuf,
    /// The lines that are read, where they are not those of the stage before in `out`.
    pub lines: Option<PathBuf>,
    /// The folder of results.
    pub out: PathBuf,
    /// The settings.
    pub settings: Settings,
    /// The part of the work.
    pub shard: Shard,
    /// Threads.
    pub threads: usize,
    /// Whether what was made otherwise is made again.
    pub redo: bool,
}

/// What a whole run came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// What each stage says of itself.
    pub stages: Vec<(&'static str, Done)>,
    /// Groups.
    pub groups: usize,
    /// Clips that are in none.
    pub left: usize,
    /// Samples.
    pub samples: usize,
}

/// What is told while a stage is at work: its name and how many items are done.
pub type Told<'t> = &'t mut dyn FnMut(&'static str, usize);

impl Job {
    /// The file in `out` of this name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// Does one stage: its part, and where that is all, its file.
    ///
    /// # Errors
    /// Those of the stage.
    pub fn stage(&self, stage: Stage, told: Told<'_>) -> Result<Done> {
        let (part, source) = self.part(stage)?;
        let work = |item: &Item| self.work(stage, item, source.as_ref());
        let mut items = self.items(stage)?;
        let done = part.run(&mut items, &work, &mut |count| told(stage.name(), count))?;
        if self.shard == Shard::WHOLE {
            self.merge(stage)?;
        }
        Ok(done)
    }

    /// Does as much of a stage as no other process is at work on, and makes its file where everything is
    /// finished. All processes share the folder of results and that of leases.
    ///
    /// # Errors
    /// Those of the stage.
    pub fn claim(&self, stage: Stage, leases: &Path, told: Told<'_>) -> Result<Claimed> {
        let (part, source) = self.part(stage)?;
        let work = |item: &Item| self.work(stage, item, source.as_ref());
        let mut told = |count| told(stage.name(), count);
        let claimed = part.claimed(leases, &|| self.items(stage), &work, &mut told)?;
        if claimed.done.is_some() {
            self.merge(stage)?;
        }
        Ok(claimed)
    }

    /// The file that a stage reads.
    fn before(&self, stage: Stage) -> Option<PathBuf> {
        let before = stage.before()?;
        Some(self.lines.clone().unwrap_or_else(|| self.path(before.file())))
    }

    /// The files of video that a stage is about.
    fn items(&self, stage: Stage) -> Result<Items> {
        match self.before(stage) {
            None => {
                let item = |media| Ok(Item { media, lines: Vec::new() });
                Ok(Box::new(media::walk(&self.root)?.0.into_iter().map(item)))
            }
            Some(path) => Ok(Box::new(items(&path)?)),
        }
    }

    /// The part of a stage that is this job's, and where faces come from.
    fn part(&self, stage: Stage) -> Result<(Part<'static>, Option<Source>)> {
        let settings = &self.settings;
        let source = match stage {
            Stage::Detect => Some(Source::open(&settings.detect)?),
            Stage::Index | Stage::Shots | Stage::Filter => None,
        };
        let config = match stage {
            Stage::Index => json!({}),
            Stage::Shots => json!(settings.shots),
            Stage::Detect => self.detect_config()?,
            Stage::Filter => json!(settings.gates()),
        };
        let input = match self.before(stage) {
            None => {
                let size = |name: &String| {
                    let path = self.root.join(name);
                    std::fs::metadata(&path).map_or(0, |about| about.len())
                };
                let (found, _) = media::walk(&self.root)?;
                let all: Vec<String> =
                    found.iter().map(|name| format!("{name} {}\n", size(name))).collect();
                hash(all.concat().as_bytes())
            }
            Some(path) => {
                // A file that is not there is one of lines, and no checkpoint.
                drop(items(&path)?);
                hash_file(&path)?
            }
        };
        make_folder(&self.out)?;
        let part = Part {
            folder: self.out.join(stage.name()),
            shard: self.shard,
            schema: stage.schema(),
            config: config_hash(stage.name(), &config),
            input,
            threads: self.threads,
            redo: self.redo,
        };
        Ok((part, source))
    }

    /// What a stage makes of a file.
    fn work(&self, stage: Stage, item: &Item, source: Option<&Source>) -> Result<Vec<Value>> {
        match (stage, source) {
            (Stage::Index, _) => media::index(&self.root, item),
            (Stage::Shots, _) => media::shots(&self.root, item, &self.settings.shots),
            (Stage::Detect, Some(source)) => {
                media::detect(&self.root, item, &self.settings.detect, source)
            }
            (Stage::Detect | Stage::Filter, _) => self.clips(item),
        }
    }

    /// Settings of detection; what they name counts by its content.
    fn detect_config(&self) -> Result<Value> {
        let detect = &self.settings.detect;
        let mut config = json!(detect);
        if let Some(path) = &detect.given {
            config["given"] = hash_file(path)?.into();
        }
        let models = [
            ("face", detect.face.as_ref().map(|model| &model.path)),
            ("person", detect.person.as_ref().map(|model| &model.path)),
            ("identity", detect.identity.as_ref().map(|model| &model.path)),
            ("pose", detect.pose.as_ref().map(|model| &model.path)),
        ];
        for (name, path) in models {
            if let Some(path) = path {
                config[name]["path"] = json!(hashes(path)?);
            }
        }
        if let Some(path) = detect.pose.as_ref().and_then(|model| model.mean_shape.as_ref()) {
            config["pose"]["mean_shape"] = hash_file(path)?.into();
        }
        Ok(config)
    }

    fn clips(&self, item: &Item) -> Result<Vec<Value>> {
        let gates = self.settings.gates();
        let clip = |line: &String| {
            let found: Detection = parsed(line, schema::DETECTION).map_err(|what| {
                Error::input("E1202", format!("{}: {what}", item.media))
                    .help("make the detections again")
            })?;
            Ok(json!(filter::clip(found, &gates)))
        };
        item.lines.iter().map(clip).collect()
    }

    /// Puts the parts of a stage together, and notes what they say together.
    ///
    /// # Errors
    /// E1205, E101x.
    pub fn merge(&self, stage: Stage) -> Result<Done> {
        let done = merge(&self.out.join(stage.name()), &self.path(stage.file()))?;
        let stats = json!({
            "stage": stage.name(), "items": done.items, "records": done.records,
            "errors": done.errors,
        });
        self.write(&format!("{}.stats.json", stage.name()), &[stats])?;
        Ok(done)
    }

    fn write(&self, name: &str, lines: &[Value]) -> Result<()> {
        let mut file = AtomicFile::create(self.path(name))?;
        for line in lines {
            file.append(format!("{line}\n").as_bytes())?;
        }
        file.commit().map(drop)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str, schema: &str) -> Result<Vec<T>> {
        let path = self.path(name);
        // Lines of files that failed are no lines of this schema's fields.
        let mut out = Vec::new();
        for item in items(&path)? {
            for line in item?.lines {
                let fault = |what| Error::input("E1202", what).at(path.display());
                out.push(parsed(&line, schema).map_err(fault)?);
            }
        }
        Ok(out)
    }

    /// The clips of the filter.
    ///
    /// # Errors
    /// E0911, E1202.
    pub fn clips_read(&self) -> Result<Vec<Clip>> {
        self.read(Stage::Filter.file(), schema::CLIP)
    }

    /// Groups clips; gives how many groups there are and how many clips are in none.
    ///
    /// # Errors
    /// E1210, E0911, E1202, E101x.
    pub fn group(&self) -> Result<(usize, usize)> {
        crate::group::check_file(&self.settings.group)?;
        let found = grouped(&self.clips_read()?, &self.settings.group)?;
        let lines: Vec<Value> = found.groups.iter().map(|group| json!(group)).collect();
        self.write("groups.jsonl", &lines)?;
        let stats = json!({"stage": "group", "groups": lines.len(), "left": found.left});
        self.write("group.stats.json", &[stats])?;
        Ok((lines.len(), found.left.len()))
    }

    /// Reads what users say of their clips (`NAME.aspects.toml` beside a file); gives how many clips
    /// are described. What a server said of others stays.
    ///
    /// # Errors
    /// E1220 for a faulty file, E0911, E1202, E101x.
    pub fn describe(&self) -> Result<usize> {
        let mut said = BTreeMap::new();
        for line in optional(&self.path("desc.jsonl"), schema::DESCRIPTION)? {
            if !line["model"].is_null() {
                said.insert(line["clip"].as_str().unwrap_or_default().to_owned(), line);
            }
        }
        let mut lines = Vec::new();
        for clip in self.clips_read()?.iter().filter(|clip| clip.keep) {
            let media = self.root.join(&clip.span.media);
            let Some(path) = aspects::beside(&media) else {
                lines.extend(said.remove(&clip.span.id));
                continue;
            };
            let aspects = aspects::read(&path)?;
            lines.push(json!({
                "schema": schema::DESCRIPTION, "clip": clip.span.id, "media": clip.span.media,
                "elements": aspects.elements, "pronoun": aspects.pronoun, "people": "one",
                "model": null, "template": "aspects",
            }));
        }
        self.write("desc.jsonl", &lines)?;
        Ok(lines.len())
    }

    /// What clips show and how alike they are, as far as it was said.
    ///
    /// # Errors
    /// E0911, E1202.
    pub fn texts(&self) -> Result<Texts> {
        let mut texts = Texts { similarity: self.settings.prompt.similarity, ..Texts::default() };
        let described = self.path("desc.jsonl");
        for line in optional(&described, schema::DESCRIPTION)? {
            let elements = serde_json::from_value(line["elements"].clone());
            let elements = elements.map_err(|fault| {
                Error::input("E1202", format!("\"elements\": {fault}")).at(described.display())
            })?;
            let clip = line["clip"].as_str().unwrap_or_default().to_owned();
            if !line["model"].is_null() {
                let by = [line["model"].clone(), line["cache"].clone()];
                texts.describers.insert(clip.clone(), by);
            }
            texts.described.insert(clip, elements);
        }
        for line in optional(&self.path("pairs.jsonl"), schema::PAIR)? {
            let name = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            let scores = crate::prompt::elements::Element::ALL
                .map(|element| line["scores"][element.name()].as_f64());
            let pair = (name("ref"), name("target"));
            if !line["model"].is_null() {
                texts.judges.insert(pair.clone(), line["model"].clone());
            }
            texts.compared.insert(pair, scores);
        }
        Ok(texts)
    }

    /// Draws samples into `train.jsonl`, and says in `pool.json` how; gives how many.
    ///
    /// # Errors
    /// E1211 where nothing can be drawn, E0911, E1202, E101x.
    pub fn sample(&self, told: Told<'_>) -> Result<usize> {
        let mut file = AtomicFile::create(self.path("train.jsonl"))?;
        let made =
            self.samples(told, &mut |sample| file.append(format!("{sample}\n").as_bytes()))?;
        file.commit()?;
        self.write(pool::FILE, &[pool::line(self)?])?;
        let stats = json!({"stage": "sample", "samples": made, "costs": costs::of(&self.out)});
        self.write("sample.stats.json", &[stats])?;
        Ok(made)
    }

    /// Draws samples, and hands on one after the other; gives how many.
    ///
    /// # Errors
    /// E1211 where nothing can be drawn, E0911, E1202, those of `take`.
    pub fn samples(
        &self,
        told: Told<'_>,
        take: &mut dyn FnMut(Value) -> Result<()>,
    ) -> Result<usize> {
        let clips = self.clips_read()?;
        let groups: Vec<Group> = all(&self.path("groups.jsonl"), schema::GROUP)?;
        let texts = self.texts()?;
        let settings = &self.settings.sample;
        let pool = Pool::new(&groups, &clips, &texts, settings);
        if pool.is_empty() {
            return Err(self.no_samples(&clips, &groups, &texts));
        }
        let mut made = 0;
        for epoch in settings.epoch..settings.epoch.saturating_add(settings.epochs) {
            for index in 0..settings.count {
                if let Some(sample) = pool.sample(epoch, index as u64) {
                    take(sample)?;
                    made += 1;
                }
                if index % 256 == 0 {
                    told("sample", made);
                }
            }
        }
        told("sample", made);
        Ok(made)
    }

    fn no_samples(&self, clips: &[Clip], groups: &[Group], texts: &Texts) -> Error {
        let settings = &self.settings.sample;
        let kept = clips.iter().filter(|clip| clip.keep).count();
        let targets =
            clips.iter().filter(|c| c.keep && crate::sample::may_be_target(c, settings)).count();
        let SampleSettings { width, height, frames, fps, .. } = settings;
        let message = format!(
            "no sample can be made: {kept} of {} clips are kept, {targets} of them are long and \
             large enough for targets of {frames} frames at {fps} a second and {width}x{height} \
             pixels, {} are described, and there are {} groups",
            clips.len(),
            texts.described.len(),
            groups.len()
        );
        let help = match (kept, targets, texts.described.len()) {
            (0, ..) => "`anyid-rt data report` shows at which gate clips are lost",
            (_, 0, _) => {
                "set targets with sample.frames, width and height to those of the training, or take \
                 longer and larger videos"
            }
            (.., 0) => {
                "say what clips show: NAME.aspects.toml beside a video, or `anyid-rt prompt describe`"
            }
            _ => "a group needs a target that is described and another clip that is no copy of it",
        };
        Error::input("E1211", message).at(self.out.display()).help(help)
    }

    /// Every stage from videos to samples.
    ///
    /// # Errors
    /// Those of the stages; E1203 for a part of the work.
    pub fn all(&self, told: Told<'_>) -> Result<Totals> {
        if self.shard != Shard::WHOLE {
            return Err(Error::input("E1203", "a part of the work has no groups and no samples")
                .at("--shard")
                .help("run `index`, `shots`, `detect` and `filter` part by part, then `merge`"));
        }
        let mut totals = Totals::default();
        for stage in Stage::ALL {
            totals.stages.push((stage.name(), self.stage(stage, told)?));
        }
        (totals.groups, totals.left) = self.group()?;
        self.describe()?;
        totals.samples = self.sample(told)?;
        Ok(totals)
    }
}

/// Hashes of a model's file, or of those in its folder.
fn hashes(path: &Path) -> Result<Vec<String>> {
    if !path.is_dir() {
        return Ok(vec![hash_file(path)?]);
    }
    let mut names: Vec<PathBuf> = std::fs::read_dir(path)
        .map_err(|fault| anyid_files::error::unreadable(path, fault))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "onnx"))
        .collect();
    names.sort();
    names.iter().map(hash_file).collect()
}

/// The lines of a file, if it is there.
fn optional(path: &Path, schema: &str) -> Result<Vec<Value>> {
    if path.exists() { all(path, schema) } else { Ok(Vec::new()) }
}
