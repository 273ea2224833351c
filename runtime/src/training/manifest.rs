//! Manifests: `anyid.sample/1` for supervised tuning and `anyid.dpo/1` for preferences, one JSON
//! object a line (`formats.md` §6).
//!
//! Every line is read and every fault of it noted, so that one look shows all that is to be
//! corrected. Whether the media can be decoded is found out by `prepare.rs`. Unknown fields are left
//! alone.

use super::faults::Fault;
use super::labels::{Labelled, Labels};
use super::read_bytes;
use crate::checkpoint::hash_file;
use crate::error::{Error, Result, plural};
use crate::media::standardise::model_frames;
use crate::pipeline::MOST_REFERENCES;
use anyid_files::manifest::{Field, Notes, Object, once, same_field};
use anyid_study::pool::{self, Wanted};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// Largest manifest that is read, in bytes.
pub(super) const LARGEST: u64 = 4 << 30;
/// Most frames of a reference that are used.
const MOST_FRAMES: usize = 121;

/// What the lines of a manifest are.
pub const SCHEMAS: [&str; 2] = ["anyid.sample/1", "anyid.dpo/1"];

/// Schemas of all files of lines that the program writes or reads: what they are, and what reads them.
pub(super) const LINES: [(&str, &str, &str); 4] = [
    (
        SCHEMAS[0],
        "a manifest of samples",
        "`train lora` and `train full` (`train check` and `train check full`)",
    ),
    (SCHEMAS[1], "a manifest of pairs", "`train dpo` (`train check dpo`)"),
    (
        "anyid.pairs/1",
        "a file of verdicts on pairs",
        "`world pairs`, beside the manifest that it wrote",
    ),
    ("anyid.verdicts/1", "a file of verdicts of an evaluation", "`world eval --keep`"),
];

/// A part of a picture or clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// The file.
    pub media: PathBuf,
    /// Which clip of a collection it is of, where that is said.
    pub clip: Option<String>,
    /// Its first frame.
    pub start: usize,
    /// Frames wanted, at the rate of the run; 1 for a picture.
    pub frames: usize,
    /// Frames that a target has by what its line says.
    pub said: Option<usize>,
    /// Left, top, right and bottom of what is taken.
    pub crop: Option<[f64; 4]>,
    /// SHA-256 that the file must have.
    pub sha256: Option<String>,
}

impl Clip {
    /// Whether both are one clip by their names.
    pub fn named_as(&self, other: &Self) -> bool {
        match (&self.clip, &other.clip) {
            (Some(own), Some(other)) => own == other,
            _ => self.media == other.media,
        }
    }

    /// Whether both are in one file, by its name or by the hash that is stated.
    pub fn one_file(&self, other: &Self) -> bool {
        self.media == other.media || (self.sha256.is_some() && self.sha256 == other.sha256)
    }
}

/// What is known of a clip. Checks that build upon a field with a fault are left out: what they would
/// find follows from it, or is not so once it is corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sure {
    /// Its file, and the hash that it must have.
    pub file: bool,
    /// Which clip of a collection it is of.
    pub name: bool,
    /// Which frames are taken: the first one, how many, and their rate.
    pub frames: bool,
}

impl Sure {
    /// Everything.
    pub const ALL: Self = Self { file: true, name: true, frames: true };

    /// What is known of two clips.
    pub fn and(self, other: Self) -> Self {
        Self {
            file: self.file && other.file,
            name: self.name && other.name,
            frames: self.frames && other.frames,
        }
    }
}

/// What is to be learned from: one clip, or a pair of which the first was preferred.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// A clip to learn.
    Clip(Clip),
    /// The chosen and the rejected clip of a pair.
    Pair([Clip; 2]),
}

impl Targets {
    /// The clips, the chosen one first.
    pub fn clips(&self) -> &[Clip] {
        match self {
            Self::Clip(clip) => std::slice::from_ref(clip),
            Self::Pair(clips) => clips,
        }
    }

    /// What they are in a line, in the same order.
    pub fn fields(&self) -> impl Iterator<Item = Field> {
        let fields: &[Field] = match self {
            Self::Clip(_) => &[Field::Target],
            Self::Pair(_) => &[Field::Chosen, Field::Rejected],
        };
        fields.iter().copied()
    }
}

/// One line of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its line, from 1.
    pub line: usize,
    /// Its name.
    pub id: String,
    /// What is learned.
    pub targets: Targets,
    /// The references, the primary first.
    pub references: Vec<Clip>,
    /// The prompt.
    pub prompt: String,
    /// The class of each slot that is named, where labels are wanted.
    pub labels: Labels,
}

/// What can still be looked at of a line with faults: its prompt, and its clips by what they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remains {
    /// The line, from 1.
    pub line: usize,
    /// Its id; empty where it has none.
    pub id: String,
    /// The prompt.
    pub prompt: Option<String>,
    /// The clips, each with its place in the line and what is known of it.
    pub clips: Vec<(Field, Clip, Sure)>,
}

/// A manifest that was read.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// SHA-256 of the file.
    pub sha256: String,
    /// The lines that are sound by themselves.
    pub samples: Vec<Sample>,
    /// What is wrong with the others, line by line.
    pub faults: Vec<Fault>,
    /// What is left of those.
    pub remains: Vec<Remains>,
    /// What is odd, in words, once for each kind.
    pub warnings: Vec<String>,
    /// How prompts are written, where lines say it.
    pub styles: BTreeSet<String>,
}

/// What a line says of how its prompt is written; a pair in its sample.
#[derive(Deserialize)]
struct Styled {
    prompt_style: Option<String>,
    sample: Option<Box<Styled>>,
}

impl Styled {
    fn of(line: &[u8]) -> Option<String> {
        let own: Self = serde_json::from_slice(line).ok()?;
        own.prompt_style.or(own.sample.and_then(|sample| sample.prompt_style))
    }
}

/// How a manifest is read.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'r> {
    /// Whether it is one of pairs.
    pub pairs: bool,
    /// What its paths start at.
    pub root: &'r Path,
    /// SHA-256 that it must have.
    pub locked: Option<&'r str>,
    /// Frames of targets.
    pub frames: usize,
    /// Clips are cut to a multiple of so many frames and one.
    pub group: usize,
    /// The labels that lines must have.
    pub labels: Option<Labelled>,
    /// Frames a second of the run; any rate will do without it.
    pub fps: Option<f64>,
    /// What is wanted of targets that are drawn; without it, the file has to have all samples in it.
    pub drawn: Option<Wanted>,
}

impl Manifest {
    /// Reads the manifest at `path`, or draws what it stands for.
    ///
    /// # Errors
    /// Those of drawing;
    /// E0911 where the file cannot be read, E0959 where it is not the one whose hash the settings state.
    pub fn open(path: &Path, reading: &Reading<'_>) -> Result<Self> {
        let bytes = read_bytes(path, LARGEST)?;
        let sha256 = hash_file(path)?;
        if let Some(locked) = reading.locked
            && !locked.eq_ignore_ascii_case(&sha256)
        {
            let message = format!("the manifest has SHA-256 {sha256}, data.sha256 is {locked}");
            return Err(Error::input("E0959", message).at(path.display()).help(
                "restore the file, or set data.sha256 to its new hash if the change is meant",
            ));
        }
        let bytes = match reading.drawn {
            Some(wanted) if pool::is_pool(&bytes) => {
                pool::drawn(path, &bytes, wanted)?.into_bytes()
            }
            _ => bytes,
        };
        let mut manifest = Self { sha256, ..Self::default() };
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut odd: BTreeMap<&str, (String, usize)> = BTreeMap::new();
        let mut first = true;
        for (line, bytes) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let mut read = Line { reading, notes: Notes::default(), remains: Remains::default() };
            let sample = read.sample(bytes, std::mem::take(&mut first), &mut |id| {
                let first = *seen.entry(id.to_owned()).or_insert(line);
                (first != line).then_some(first)
            });
            let Line { notes, remains, .. } = read;
            // A missing field that is probably misspelt is a fault already.
            let told = |what: &str| notes.faults.iter().any(|(_, fault)| same_field(fault, what));
            for (kind, what) in notes.warnings.into_iter().filter(|(_, what)| !told(what)) {
                odd.entry(kind).or_insert_with(|| (format!("line {line}: {what}"), 0)).1 += 1;
            }
            match (sample, notes.faults.is_empty()) {
                (Some(sample), true) => {
                    manifest.styles.extend(Styled::of(bytes));
                    manifest.samples.push(Sample { line, ..sample });
                }
                (None, true) => {}
                (_, false) => {
                    let id = || remains.id.clone();
                    let fault = |(field, what)| Fault { line, id: id(), field, what };
                    manifest.faults.extend(notes.faults.into_iter().map(fault));
                    manifest.remains.push(Remains { line, ..remains });
                }
            }
        }
        manifest.warnings = odd.into_values().map(|(what, count)| more(what, count)).collect();
        Ok(manifest)
    }
}

/// A warning with how often there is one of its kind.
pub(super) fn more(what: String, count: usize) -> String {
    match count {
        1 => what,
        2 => format!("{what} (and one more like this)"),
        count => format!("{what} (and {} more like this)", count - 1),
    }
}

/// Reads a line and notes what is wrong with it.
struct Line<'r> {
    reading: &'r Reading<'r>,
    notes: Notes,
    remains: Remains,
}

impl Line<'_> {
    /// The sample of a line; none for the header of a manifest of pairs, and where faults were noted.
    /// `before` gives the line that has an id already.
    fn sample(
        &mut self,
        bytes: &[u8],
        first: bool,
        before: &mut dyn FnMut(&str) -> Option<usize>,
    ) -> Option<Sample> {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(fault) => {
                let place = fault.valid_up_to() + 1;
                let what = format!("this is not UTF-8 text, at byte {place}");
                self.notes.faults.push((Field::Line, what));
                return None;
            }
        };
        let value = match once::value(text, &mut self.notes.faults) {
            Ok(value) => value,
            Err(fault) => {
                // The line that it names is that of the text it was given.
                let (what, place) = (fault.to_string(), fault.column());
                let what = what.split(" at line ").next().unwrap_or_default();
                let what = match once::no_number(text, place) {
                    Some(word) => format!("{word} is no number of JSON"),
                    None => what.replace("expected ident", "expected null, true or false"),
                };
                let what = format!("this is not JSON: {what}, at column {place}");
                self.notes.faults.push((Field::Line, what));
                return None;
            }
        };
        let line = Object::listed(&value, Field::Line, &mut self.notes)?;
        let notes = &mut self.notes;
        let wanted = SCHEMAS[usize::from(self.reading.pairs)];
        let other = line.string(notes, "schema").filter(|schema| *schema != wanted);
        if let Some(schema) = other {
            line.fault(
                notes,
                "schema",
                format!("\"schema\" is \"{schema}\", expected \"{wanted}\""),
            );
        }
        if self.reading.pairs
            && first
            && !["chosen", "rejected", "sample"].map(|k| line.has(k)).contains(&true)
        {
            return None;
        }
        let id = line.identifier(notes, "id");
        self.remains.id = id.clone().unwrap_or_default();
        let once = id.as_ref().filter(|_| !line.is_twice(notes, "id"));
        if let Some((id, first)) = once.and_then(|id| Some((id, before(id)?))) {
            line.fault(notes, "id", format!("id \"{id}\" is also that of line {first}"));
        }
        // What else a line of another kind has is not what is looked for here. A schema that nothing has is
        // probably misspelt.
        if other.is_some_and(|schema| LINES.iter().any(|(known, ..)| *known == schema)) {
            return None;
        }
        let known: &[&str] = match self.reading.pairs {
            true => &["schema", "id", "sample", "chosen", "rejected"],
            false => &["schema", "id", "target", "references", "prompt"],
        };
        let known: Vec<&str> =
            known.iter().copied().chain(self.reading.labels.map(Labelled::field)).collect();
        line.spelling(notes, &known, &[]);
        let (targets, described) = match self.reading.pairs {
            true => {
                let chosen = self.member(&line, "chosen");
                let rejected = self.member(&line, "rejected");
                let pair = chosen.zip(rejected).map(|(a, b)| Targets::Pair([a, b]));
                (pair, line.section(&mut self.notes, "sample"))
            }
            false => {
                let section = line.section(&mut self.notes, "target");
                (section.and_then(|own| self.target(&own)).map(Targets::Clip), Some(line))
            }
        };
        let learned = self.remains.clips.len();
        let described = described?;
        let references = self.references(&described);
        let prompt = described.string(&mut self.notes, "prompt").map(str::to_owned);
        if !described.is_twice(&self.notes, "prompt") {
            self.remains.prompt.clone_from(&prompt);
        }
        if targets.is_some() && references.is_some() {
            self.apart(learned);
        }
        let labels = match self.reading.labels {
            Some(labelled) => self.labels(&described, labelled),
            None => Labels::new(),
        };
        let (line, targets, references) = (0, targets?, references?);
        Some(Sample { line, id: id?, targets, references, prompt: prompt?, labels })
    }

    /// The class of each slot that is named: a number or a text.
    fn labels(&mut self, object: &Object<'_>, labelled: Labelled) -> Labels {
        let own = object.section(&mut self.notes, labelled.field());
        own.map_or(Labels::new(), |own| own.each(&mut self.notes))
    }

    fn target(&mut self, object: &Object<'_>) -> Option<Clip> {
        let notes = &mut self.notes;
        let known = ["media", "clip", "crop", "sha256", "start", "frames", "fps"];
        object.spelling(notes, &known, &["frame"]);
        let before = notes.faults.len();
        let start = object.count(notes, "start").unwrap_or(0);
        let wanted = self.reading.frames;
        let said = object.required_count(notes, "frames");
        match said {
            Some(frames) if frames < wanted => {
                object.fault(
                    notes,
                    "frames",
                    format!("it has {}, the run takes {wanted}", plural(frames, "frame")),
                );
            }
            _ => {}
        }
        match object.number(notes, "fps").zip(self.reading.fps) {
            Some((fps, rate)) if fps != rate => {
                let what = format!("\"fps\" is {fps}, that of the run is {rate}");
                let what = format!("{what}: set video.fps, or cut the clips at {rate}");
                object.fault(notes, "fps", what);
            }
            _ => {}
        }
        let frames = notes.faults.len() == before
            && !["start", "frames", "fps"].into_iter().any(|key| object.is_twice(notes, key));
        let (clip, sure) = self.clip(object, "media")?;
        let clip = Clip { start, frames: wanted, said, ..clip };
        let sure = Sure { frames, ..sure };
        self.remains.clips.push((Field::Target, clip.clone(), sure));
        Some(clip)
    }

    fn member(&mut self, object: &Object<'_>, name: &str) -> Option<Clip> {
        let own = object.section(&mut self.notes, name)?;
        own.spelling(&mut self.notes, &["video", "clip", "crop", "sha256"], &[]);
        let (clip, sure) = self.clip(&own, "video")?;
        let clip = Clip { frames: self.reading.frames, ..clip };
        self.remains.clips.push((Field::Line.below(name), clip.clone(), sure));
        Some(clip)
    }

    fn references(&mut self, object: &Object<'_>) -> Option<Vec<Clip>> {
        let notes = &mut self.notes;
        let list = object.required(notes, "references")?;
        let Some(list) = list.as_array() else {
            object.fault(notes, "references", "\"references\" is not a list");
            return None;
        };
        if list.is_empty() || list.len() > MOST_REFERENCES {
            let what = format!("{} references, expected 1 to {MOST_REFERENCES}", list.len());
            object.fault(notes, "references", what);
        }
        let (mut out, mut primary) = (Vec::new(), Vec::new());
        for (at, value) in list.iter().enumerate() {
            let field = Field::Reference(at + 1);
            let Some(own) = Object::listed(value, field, &mut self.notes) else { continue };
            match own.text(&mut self.notes, "role").as_deref() {
                None | Some("aux") => {}
                Some("primary") => primary.push(at),
                Some(role) => {
                    let what = format!("\"role\" is \"{role}\": primary or aux");
                    own.fault(&mut self.notes, "role", what);
                }
            }
            if let Some((clip, sure)) = self.reference(&own) {
                self.remains.clips.push((field, clip.clone(), sure));
                out.push(clip);
            }
        }
        if primary.len() > 1 {
            let what = format!("{} primary references, expected one", primary.len());
            object.fault(&mut self.notes, "references", what);
        }
        if out.is_empty() || out.len() != list.len() {
            return None;
        }
        // The order of the others stays.
        primary.first().into_iter().for_each(|at| out[..=*at].rotate_right(1));
        Some(out)
    }

    fn reference(&mut self, object: &Object<'_>) -> Option<(Clip, Sure)> {
        let notes = &mut self.notes;
        let before = notes.faults.len();
        let (start, frames) = match object.string(notes, "form") {
            Some("face" | "portrait") => {
                let known = ["role", "form", "media", "clip", "crop", "sha256", "frame"];
                object.spelling(notes, &known, &["start", "frames"]);
                (object.count(notes, "frame").unwrap_or(0), 1)
            }
            Some("video") => {
                let known = ["role", "form", "media", "clip", "crop", "sha256", "start", "frames"];
                object.spelling(notes, &known, &["frame"]);
                let start = object.count(notes, "start").unwrap_or(0);
                let frames = object.required_count(notes, "frames");
                let used = model_frames(frames.unwrap_or(1).min(MOST_FRAMES), self.reading.group);
                match frames {
                    Some(0) => object.fault(notes, "frames", "\"frames\" is 0"),
                    Some(frames) if frames > used => {
                        let what = match used {
                            1 => format!("of {frames} frames the first one is used"),
                            used => format!("of {frames} frames the first {used} are used"),
                        };
                        object.warn(notes, "cut", what);
                    }
                    _ => {}
                }
                (start, used)
            }
            Some(other) => {
                let what = format!("\"form\" is \"{other}\": face, portrait or video");
                object.fault(notes, "form", what);
                (0, 1)
            }
            None => (0, 1),
        };
        let mut keys = ["form", "frame", "start", "frames"].into_iter();
        let sound = notes.faults.len() == before;
        let frames_sure = sound && !keys.any(|key| object.is_twice(notes, key));
        let (clip, sure) = self.clip(object, "media")?;
        let clip = Clip { start, frames: frames.max(1), ..clip };
        Some((clip, Sure { frames: frames_sure, ..sure }))
    }

    /// The file and the crop; the frames are those of a picture.
    fn clip(&mut self, object: &Object<'_>, key: &str) -> Option<(Clip, Sure)> {
        let notes = &mut self.notes;
        let crop = object.crop(notes, "crop");
        let [(clip, name), (sha256, hash)] = ["clip", "sha256"].map(|key| {
            let before = notes.faults.len();
            let text = match key {
                "sha256" => object.hash(notes, key),
                _ => object.text(notes, key),
            };
            (text, notes.faults.len() == before && !object.is_twice(notes, key))
        });
        let media = self.reading.root.join(object.path(notes, key)?);
        let file = hash && !object.is_twice(notes, key);
        let clip = Clip { media, clip, start: 0, frames: 1, said: None, crop, sha256 };
        Some((clip, Sure { file, name, frames: true }))
    }

    /// Refuses what is learned among what is given, and a pair of one clip, as far as names that are sure
    /// tell. The first `learned` clips of the line are those that are learned.
    fn apart(&mut self, learned: usize) {
        let (targets, references) = self.remains.clips.split_at(learned);
        let mut faults = Vec::new();
        for (_, target, own) in targets {
            let among = |(_, reference, other): &(Field, Clip, Sure)| {
                let sure = own.and(*other);
                sure.file && sure.name && reference.named_as(target)
            };
            if references.iter().any(among) {
                let name = match &target.clip {
                    Some(clip) => format!("clip \"{clip}\""),
                    None => target.media.display().to_string(),
                };
                faults.push(format!("the target is among the references: {name}"));
            }
        }
        if let [(_, chosen, own), (_, rejected, other)] = targets
            && own.and(*other).file
            && chosen.one_file(rejected)
        {
            faults.push("the chosen and the rejected clip are the same".to_owned());
        }
        self.notes.faults.extend(faults.into_iter().map(|what| (Field::Several, what)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn line(change: impl Fn(&mut Value)) -> String {
        let mut value = serde_json::json!({
            "schema": "anyid.sample/1", "id": "s_1", "more": {"left": "alone"},
            "target": {"clip": "c_t", "media": "t.mp4", "start": 3, "frames": 9, "fps": 24,
                       "crop": [0, 12, 64, 76]},
            "references": [
                {"role": "aux", "form": "video", "clip": "c_a", "media": "a.mp4", "start": 50,
                 "frames": 8, "crop": null},
                {"role": "primary", "form": "portrait", "clip": "c_p", "media": "p.mp4",
                 "frame": 13},
            ],
            "prompt": "He smiles.",
        });
        change(&mut value);
        value.to_string()
    }

    fn pair(change: impl Fn(&mut Value)) -> String {
        let sample: Value = serde_json::from_str(&line(|_| {})).unwrap();
        let mut value = serde_json::json!({
            "schema": "anyid.dpo/1", "id": "m_1", "sample": sample,
            "chosen": {"video": "gen/a.mp4", "sha256": "aa".repeat(32)},
            "rejected": {"video": "gen/b.mp4", "sha256": "bb".repeat(32)},
        });
        change(&mut value);
        value.to_string()
    }

    fn open(lines: &[String], pairs: bool, locked: Option<&str>) -> Result<Manifest> {
        open_with(lines, pairs, locked, None)
    }

    fn open_with(
        lines: &[String],
        pairs: bool,
        locked: Option<&str>,
        labels: Option<Labelled>,
    ) -> Result<Manifest> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        std::fs::write(&path, lines.join("\n")).unwrap();
        let root = Path::new("/media");
        Manifest::open(
            &path,
            &Reading {
                pairs,
                root,
                locked,
                frames: 5,
                group: 4,
                labels,
                fps: Some(24.0),
                drawn: None,
            },
        )
    }

    fn fault(text: String, pairs: bool) -> String {
        let manifest = open(&[text], pairs, None).unwrap();
        assert!(manifest.samples.is_empty());
        assert_eq!((manifest.faults.len(), manifest.faults[0].line), (1, 1));
        manifest.faults[0].what.clone()
    }

    #[test]
    fn a_sample_is_read_with_its_primary_reference_first() {
        let manifest = open(&[line(|_| {}), String::new()], false, None).unwrap();
        assert_eq!((manifest.faults.len(), manifest.samples.len()), (0, 1));
        let sample = &manifest.samples[0];
        let Targets::Clip(target) = &sample.targets else { panic!("{sample:?}") };
        assert_eq!((target.start, target.frames), (3, 5));
        assert_eq!(target.media, Path::new("/media/t.mp4"));
        assert_eq!(target.crop, Some([0.0, 12.0, 64.0, 76.0]));
        let own: Vec<(&str, usize, usize)> = sample
            .references
            .iter()
            .map(|clip| (clip.clip.as_deref().unwrap(), clip.start, clip.frames))
            .collect();
        assert_eq!(own, [("c_p", 13, 1), ("c_a", 50, 5)]);
    }

    #[test]
    fn labels_are_numbers_or_texts_and_needed_where_they_are_wanted() {
        let read_as = |labelled, change: fn(&mut Value)| {
            open_with(&[line(change)], false, None, Some(labelled)).unwrap()
        };
        let read = |change: fn(&mut Value)| read_as(Labelled::Prompt, change);
        let fine = read(|v| v["labels"] = serde_json::json!({"hair": 3, "shot": "wide"}));
        let labels: Vec<(&str, &str)> =
            fine.samples[0].labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(labels, [("hair", "3"), ("shot", "wide")]);
        type Change = fn(&mut Value);
        let rows: [(Change, &str); 4] = [
            (|_| {}, "\"labels\" is missing"),
            (|v| v["labels"] = "wide".into(), "\"labels\" is not a JSON object"),
            (|v| v["labels"] = serde_json::json!({"shot": -1}), "labels: \"shot\" is -1"),
            (|v| v["labels"] = serde_json::json!({"a b": 1}), "labels: \"a b\""),
        ];
        for (change, what) in rows {
            let found = read(change);
            assert!(found.faults[0].what.contains(what), "{:?}", found.faults);
        }
        assert!(open(&[line(|_| {})], false, None).unwrap().faults.is_empty());
        let shown = read_as(Labelled::Frames, |v| v["shows"] = serde_json::json!({"skin": 2}));
        assert_eq!(shown.samples[0].labels["skin"], "2");
        let missing = read_as(Labelled::Frames, |v| v["labels"] = serde_json::json!({"skin": 2}));
        assert_eq!(missing.faults[0].what, "\"shows\" is missing");
    }

    #[test]
    fn every_fault_of_a_sample_is_named() {
        type Change = fn(&mut Value);
        let rows: [(Change, &str); 26] = [
            (|v| v["schema"] = "anyid.clip/1".into(), "\"schema\" is \"anyid.clip/1\""),
            (|v| v["id"] = "a b".into(), "\"id\" is \"a b\""),
            (|v| v["id"] = Value::Null, "\"id\" is null, not text"),
            (|v| v["prompt"] = " ".into(), "\"prompt\" is empty"),
            (|v| v["references"] = serde_json::json!([]), "0 references"),
            (|v| v["references"] = vec![v["references"][0].clone(); 6].into(), "6 references"),
            (|v| v["references"] = "x".into(), "\"references\" is not a list"),
            (|v| v["references"][0]["clip"] = "c_t".into(), "the target is among the references"),
            (|v| v["references"][0]["role"] = "primary".into(), "2 primary references"),
            (|v| v["references"][0]["form"] = "hand".into(), "reference 1: \"form\""),
            (|v| v["references"][1]["media"] = "../p".into(), "reference 2: \"media\""),
            (|v| v["references"][1]["media"] = "/p".into(), "reference 2: \"media\""),
            (|v| v["target"]["media"] = "a\\b".into(), "target: \"media\""),
            (|v| v["target"]["crop"] = serde_json::json!([1, 2, 3]), "target: \"crop\""),
            (|v| v["target"]["frames"] = 4.into(), "target: it has 4 frames, the run takes 5"),
            (|v| v["target"]["frames"] = (-1).into(), "target: \"frames\" is -1"),
            (|v| v["target"]["fps"] = 25.into(), "target: \"fps\" is 25"),
            (|v| v["target"]["fps"] = "24".into(), "target: \"fps\" is \"24\", not a number"),
            (|v| v["target"]["start"] = 1.5.into(), "target: \"start\" is 1.5, not a whole"),
            (|v| v["references"][0]["role"] = "boss".into(), "reference 1: \"role\" is \"boss\""),
            (|v| v["references"][0]["role"] = 1.into(), "reference 1: \"role\" is a number"),
            (|v| v["references"][1]["clip"] = 3.into(), "reference 2: \"clip\" is a number"),
            (|v| v["references"][0]["frames"] = 0.into(), "reference 1: \"frames\" is 0"),
            (|v| v["references"][1] = "p".into(), "reference 2: this is not a JSON object"),
            (
                |v| v["target"]["sha256"] = "AA".into(),
                "target: \"sha256\" is \"AA\", not 64 hexadecimal digits",
            ),
            (|v| v["references"][0]["sha256"] = "g".repeat(64).into(), "not 64 hexadecimal digits"),
        ];
        for (change, said) in rows {
            let fault = fault(line(change), false);
            assert!(fault.contains(said), "{fault}, expected {said}");
        }
        let text = fault("{\"schema\": ".to_owned(), false);
        assert_eq!(text, "this is not JSON: EOF while parsing a value, at column 11");
        for (word, column) in [("NaN", 6), ("nan", 7), ("-Infinity", 7), ("Infinity", 6)] {
            let text = fault(format!("{{\"a\":{word}}}"), false);
            assert_eq!(
                text,
                format!("this is not JSON: {word} is no number of JSON, at column {column}")
            );
        }
        assert!(fault("[]".to_owned(), false).contains("not a JSON object"));
        let mut missing: Value = serde_json::from_str(&line(|_| {})).unwrap();
        let target = missing.as_object_mut().unwrap().remove("target").unwrap();
        assert!(fault(missing.to_string(), false).contains("\"target\" is missing"));
        missing["targets"] = target;
        let text = fault(missing.to_string(), false);
        assert!(text.contains("\"target\" is missing; is it \"targets\"?"), "{text}");
    }

    #[test]
    fn a_schema_that_nothing_has_hides_no_other_fault_and_one_of_another_kind_those_of_this_kind() {
        let wrong = |schema: &'static str| {
            let text = line(move |v| {
                v["schema"] = schema.into();
                v["id"] = "a b".into();
                v["prompt"] = "".into();
            });
            let manifest = open(&[text], false, None).unwrap();
            manifest.faults.into_iter().map(|fault| fault.what).collect::<Vec<_>>()
        };
        let faults = wrong("anyid.sample/2");
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert_eq!(faults[0], "\"schema\" is \"anyid.sample/2\", expected \"anyid.sample/1\"");
        assert!(faults[1].contains("\"id\" is \"a b\"") && faults[2].contains("\"prompt\""));
        // Names are those of any kind; a prompt is elsewhere in a pair.
        let faults = wrong("anyid.dpo/1");
        assert!(faults.len() == 2 && faults[1].contains("\"id\""), "{faults:?}");
    }

    #[test]
    fn a_misspelt_field_is_said_once() {
        let text = line(|v| {
            let target = v.as_object_mut().unwrap().remove("target").unwrap();
            v["targets"] = target;
        });
        let manifest = open(&[text], false, None).unwrap();
        assert_eq!(manifest.faults.len(), 1);
        assert!(manifest.warnings.iter().all(|what| !what.contains("targets")));
        assert_eq!(manifest.faults[0].what, "\"target\" is missing; is it \"targets\"?");
    }

    #[test]
    fn all_faults_of_a_line_are_named_and_the_rest_of_it_is_kept() {
        let text = line(|v| {
            v["id"] = "a b".into();
            v["target"]["frames"] = 4.into();
            v["target"]["crop"] = serde_json::json!([1]);
            v["references"][0]["role"] = "boss".into();
            v["references"][1]["form"] = "hand".into();
            v["prompt"] = "".into();
        });
        let manifest = open(&[text], false, None).unwrap();
        let all: Vec<&str> = manifest.faults.iter().map(|fault| fault.what.as_str()).collect();
        for said in ["\"id\"", "4 frames", "\"crop\"", "\"role\"", "\"form\"", "\"prompt\""] {
            assert_eq!(all.iter().filter(|what| what.contains(said)).count(), 1, "{said}: {all:?}");
        }
        assert_eq!(all.len(), 6, "{all:?}");
        assert!(manifest.faults.iter().all(|fault| fault.line == 1));
        let places: Vec<Field> = manifest.remains[0].clips.iter().map(|own| own.0).collect();
        assert_eq!(places, [Field::Target, Field::Reference(1), Field::Reference(2)]);
        let mut fields: Vec<Field> = manifest.faults.iter().map(|fault| fault.field).collect();
        fields.sort();
        let target = [Field::Target; 2];
        let references = [Field::Reference(1), Field::Reference(2)];
        assert_eq!(fields, [&[Field::Id], &target[..], &references, &[Field::Prompt]].concat());
    }

    #[test]
    fn checks_that_build_upon_a_faulty_field_are_left_out() {
        type Change = fn(&mut Value);
        // One file without names of clips, so that nothing but the field keeps target and reference apart.
        let rows: [(Change, &str, Sure); 9] = [
            (
                |v| v["target"]["start"] = 1.5.into(),
                "\"start\"",
                Sure { frames: false, ..Sure::ALL },
            ),
            (|v| v["target"]["fps"] = 25.into(), "\"fps\"", Sure { frames: false, ..Sure::ALL }),
            (|v| v["target"]["frames"] = 4.into(), "4 frames", Sure { frames: false, ..Sure::ALL }),
            (|v| v["target"]["clip"] = 3.into(), "\"clip\"", Sure { name: false, ..Sure::ALL }),
            (|v| v["target"]["sha256"] = 3.into(), "\"sha256\"", Sure { file: false, ..Sure::ALL }),
            (|v| v["target"]["crop"] = 3.into(), "\"crop\"", Sure::ALL),
            (|v| v["references"][1]["frame"] = (-1).into(), "\"frame\"", Sure::ALL),
            (|v| v["references"][1]["clip"] = 3.into(), "reference 2: \"clip\"", Sure::ALL),
            (|v| v["id"] = "a b".into(), "\"id\"", Sure::ALL),
        ];
        for (change, said, sure) in rows {
            let text = line(|v| {
                v["references"][1]["media"] = "t.mp4".into();
                change(v);
            });
            let manifest = open(&[text], false, None).unwrap();
            let all: Vec<&str> = manifest.faults.iter().map(|fault| fault.what.as_str()).collect();
            assert!(all.len() == 1 && all[0].contains(said), "{all:?}, expected {said}");
            assert_eq!(manifest.remains[0].clips[0].2, sure, "{said}");
        }
        // Which of two values of a field is meant is not known either.
        let twice = |from: &str, to: &str| {
            let text = line(|v| v["references"][1]["media"] = "t.mp4".into()).replacen(from, to, 1);
            // One with the same id before it.
            let before = from.contains("\"id\"").then(|| line(|_| {}));
            let lines: Vec<String> = before.into_iter().chain([text]).collect();
            let manifest = open(&lines, false, None).unwrap();
            let faults = manifest.faults.into_iter();
            let own: Vec<String> = faults.map(|fault| fault.what).collect();
            (own, manifest.remains[0].clips[0].2)
        };
        let (faults, _) = twice("\"id\":\"s_1\"", "\"id\":\"s_1\",\"id\":\"s_2\"");
        assert_eq!(faults, ["\"id\" is there twice"]);
        let (faults, sure) = twice("\"clip\":\"c_t\"", "\"clip\":\"c_p\",\"clip\":\"c_t\"");
        assert_eq!(
            (&faults[..], sure.name),
            (&["target: \"clip\" is there twice".to_owned()][..], false)
        );
        let (faults, sure) =
            twice("\"media\":\"t.mp4\"", "\"media\":\"p.mp4\",\"media\":\"t.mp4\"");
        assert_eq!(
            (&faults[..], sure.file),
            (&["target: \"media\" is there twice".to_owned()][..], false)
        );
        // A reference without a form still has a file that can be looked at.
        let formless = line(|v| drop(v["references"][0].as_object_mut().unwrap().remove("form")));
        let manifest = open(&[formless], false, None).unwrap();
        assert_eq!(manifest.faults.len(), 1, "{:?}", manifest.faults);
        let (place, clip, sure) = &manifest.remains[0].clips[1];
        assert_eq!(
            (*place, clip.media.as_path()),
            (Field::Reference(1), Path::new("/media/a.mp4"))
        );
        assert!(!sure.frames && sure.file && sure.name);
    }

    #[test]
    fn what_is_odd_is_said_once_for_each_kind() {
        let long = |v: &mut Value| v["references"][0]["frames"] = 999.into();
        let lines = [
            line(long),
            line(|v| {
                v["id"] = "s_2".into();
                long(v);
                v["target"].as_object_mut().unwrap().remove("start");
                v["target"]["strat"] = 3.into();
                v["references"][1]["frames"] = 9.into();
            }),
        ];
        let manifest = open(&lines, false, None).unwrap();
        assert!(manifest.faults.is_empty(), "{:?}", manifest.faults);
        assert_eq!(manifest.warnings.len(), 3, "{:?}", manifest.warnings);
        for said in [
            "line 1: reference 1: of 999 frames the first 121 are used (and one more like this)",
            "line 2: target: \"strat\" is not read; is \"start\" meant?",
            "line 2: reference 2: \"frames\" is not read here",
        ] {
            assert!(manifest.warnings.iter().any(|own| own == said), "{:?}", manifest.warnings);
        }
        let cut = open(&[line(|_| {})], false, None).unwrap().warnings;
        assert_eq!(cut, ["line 1: reference 1: of 8 frames the first 5 are used"]);
    }

    #[test]
    fn a_mark_of_the_byte_order_in_front_is_no_part_of_the_text() {
        let manifest = open(&[format!("\u{feff}{}", line(|_| {}))], false, None).unwrap();
        assert_eq!((manifest.samples.len(), manifest.faults.len()), (1, 0));
    }

    #[test]
    fn ids_are_told_apart_and_sound_lines_stay() {
        let lines = [line(|_| {}), line(|v| v["id"] = "s_2".into()), line(|_| {}), "x".to_owned()];
        let manifest = open(&lines, false, None).unwrap();
        assert_eq!(manifest.samples.len(), 2);
        let lines: Vec<usize> = manifest.faults.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [3, 4]);
        assert!(manifest.faults[0].what.contains("line 1"), "{:?}", manifest.faults);
    }

    #[test]
    fn pairs_have_a_header_and_two_different_clips() {
        let header = "{\"schema\": \"anyid.dpo/1\", \"pairs\": 1}".to_owned();
        let manifest = open(&[header.clone(), pair(|_| {})], true, None).unwrap();
        assert!(manifest.faults.is_empty(), "{:?}", manifest.faults);
        let Targets::Pair([chosen, _]) = &manifest.samples[0].targets else { panic!() };
        assert_eq!((chosen.sha256.as_deref(), chosen.frames), (Some(&*"aa".repeat(32)), 5));
        let same = fault(pair(|v| v["rejected"]["video"] = "gen/a.mp4".into()), true);
        assert!(same.contains("are the same"), "{same}");
        let same = fault(pair(|v| v["rejected"]["sha256"] = "aa".repeat(32).into()), true);
        assert!(same.contains("are the same"), "{same}");
        let among = pair(|v| v["sample"]["references"][0]["media"] = "gen/b.mp4".into());
        assert!(fault(among, true).contains("among the references"));
        // A header stands first only, and a pair that lacks a clip is none.
        let manifest = open(&[pair(|_| {}), header], true, None).unwrap();
        assert_eq!(manifest.faults[0].line, 2);
        let short = fault(pair(|v| drop(v.as_object_mut().unwrap().remove("chosen"))), true);
        assert!(short.contains("\"chosen\" is missing"), "{short}");
    }

    #[test]
    fn a_locked_manifest_that_was_changed_is_refused() {
        let lines = [line(|_| {})];
        let sha256 = open(&lines, false, None).unwrap().sha256;
        assert!(open(&lines, false, Some(&sha256.to_uppercase())).is_ok());
        let error = open(&[line(|v| v["prompt"] = "x".into())], false, Some(&sha256)).unwrap_err();
        assert_eq!(error.code(), "E0959");
    }
}
