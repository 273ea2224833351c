//! Manifests: `anyid.sample/1` for supervised tuning and `anyid.dpo/1` for preferences, one JSON
//! object a line (`formats.md` §6).
//!
//! Every line is read and every fault noted with its line, so that one look mends them all. Whether
//! the media can be decoded is found out by `prepare.rs`. Unknown fields are left alone.

use super::{Fault, read_text};
use crate::checkpoint::hash_file;
use crate::error::{Error, Result};
use crate::media::standardise::model_frames;
use crate::pipeline::MOST_REFERENCES;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// Largest manifest that is read, in bytes.
const LARGEST: u64 = 4 << 30;

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
    /// Left, top, right and bottom of what is taken.
    pub crop: Option<[f64; 4]>,
    /// SHA-256 that the file must have.
    pub sha256: Option<String>,
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
}

/// A manifest that was read.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// SHA-256 of the file.
    pub sha256: String,
    /// The lines that are sound by themselves.
    pub samples: Vec<Sample>,
    /// What is wrong with the others.
    pub faults: Vec<Fault>,
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
    /// Frames a second of the run.
    pub fps: f64,
}

impl Manifest {
    /// Reads the manifest at `path`.
    ///
    /// # Errors
    /// E0911 where it cannot be read, E0959 where it is not the one that was locked.
    pub fn open(path: &Path, reading: &Reading<'_>) -> Result<Self> {
        let text = read_text(path, LARGEST)?;
        let sha256 = hash_file(path)?;
        if let Some(locked) = reading.locked
            && !locked.eq_ignore_ascii_case(&sha256)
        {
            let message = format!("the manifest has SHA-256 {sha256}, not {locked}");
            return Err(Error::input("E0959", message)
                .at(path.display())
                .help("it was changed since it was locked: restore it, or lock it anew"));
        }
        let mut manifest = Self { sha256, ..Self::default() };
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            if text.trim().is_empty() {
                continue;
            }
            let read = Line { reading }.sample(line, text);
            let read = read.and_then(|sample| match &sample {
                Some(own) => match seen.insert(own.id.clone(), line) {
                    Some(first) => Err(format!("id \"{}\" is that of line {first}, too", own.id)),
                    None => Ok(sample),
                },
                None => Ok(sample),
            });
            match read {
                Ok(sample) => manifest.samples.extend(sample),
                Err(what) => manifest.faults.push(Fault { line, what }),
            }
        }
        Ok(manifest)
    }
}

/// Reads lines. A fault is said in words; the line is known to the caller.
struct Line<'r> {
    reading: &'r Reading<'r>,
}

type Read<T> = std::result::Result<T, String>;

impl Line<'_> {
    /// The sample of a line; none for the header of a manifest of pairs.
    fn sample(&self, line: usize, text: &str) -> Read<Option<Sample>> {
        let value: Value =
            serde_json::from_str(text).map_err(|fault| format!("no JSON: {fault}"))?;
        let object = value.as_object().ok_or("no JSON object")?;
        let wanted = if self.reading.pairs { "anyid.dpo/1" } else { "anyid.sample/1" };
        let schema = string(object, "schema")?;
        if schema != wanted {
            return Err(format!("\"schema\" is \"{schema}\", expected \"{wanted}\""));
        }
        if self.reading.pairs && line == 1 && !object.contains_key("chosen") {
            return Ok(None);
        }
        let id = identifier(object, "id")?;
        let (targets, described) = match self.reading.pairs {
            true => {
                let pair = [self.member(object, "chosen")?, self.member(object, "rejected")?];
                (Targets::Pair(pair), section(object, "sample")?)
            }
            false => (Targets::Clip(self.target(section(object, "target")?)?), object),
        };
        let references = self.references(described)?;
        let prompt = string(described, "prompt")?.to_owned();
        self.apart(&targets, &references)?;
        Ok(Some(Sample { line, id, targets, references, prompt }))
    }

    fn target(&self, object: &Map<String, Value>) -> Read<Clip> {
        let within = |fault: String| format!("target: {fault}");
        let mut clip = self.clip(object, "media").map_err(within)?;
        clip.start = count(object, "start")?.unwrap_or(0);
        let frames = count(object, "frames").map_err(within)?;
        let frames = frames.ok_or("target: \"frames\" is missing")?;
        if let Some(fps) = object.get("fps").and_then(Value::as_f64)
            && fps != self.reading.fps
        {
            return Err(format!(
                "target: \"fps\" is {fps}, the run's is {}: set video.fps, or sample anew",
                self.reading.fps
            ));
        }
        if frames < self.reading.frames {
            let wanted = self.reading.frames;
            return Err(format!("target: it has {frames} frames, the run takes {wanted}"));
        }
        clip.frames = self.reading.frames;
        Ok(clip)
    }

    fn member(&self, object: &Map<String, Value>, name: &str) -> Read<Clip> {
        let within = |fault: String| format!("{name}: {fault}");
        let mut clip = self.clip(section(object, name)?, "video").map_err(within)?;
        clip.frames = self.reading.frames;
        Ok(clip)
    }

    fn references(&self, object: &Map<String, Value>) -> Read<Vec<Clip>> {
        let list = object.get("references").ok_or("\"references\" is missing")?;
        let list = list.as_array().ok_or("\"references\" is no list")?;
        if list.is_empty() || list.len() > MOST_REFERENCES {
            let count = list.len();
            return Err(format!("{count} references, expected 1 to {MOST_REFERENCES}"));
        }
        let mut out = Vec::new();
        let mut primary = Vec::new();
        for (at, value) in (1..).zip(list) {
            let within = |fault: String| format!("reference {at}: {fault}");
            let object = value.as_object().ok_or(format!("reference {at}: no JSON object"))?;
            if object.get("role").and_then(Value::as_str) == Some("primary") {
                primary.push(at - 1);
            }
            out.push(self.reference(object).map_err(within)?);
        }
        match primary[..] {
            [] => {}
            // The order of the others stays.
            [at] => out[..=at].rotate_right(1),
            _ => return Err(format!("{} primary references, expected one", primary.len())),
        }
        Ok(out)
    }

    fn reference(&self, object: &Map<String, Value>) -> Read<Clip> {
        let mut clip = self.clip(object, "media")?;
        match string(object, "form")? {
            "face" | "portrait" => clip.start = count(object, "frame")?.unwrap_or(0),
            "video" => {
                clip.start = count(object, "start")?.unwrap_or(0);
                let frames = count(object, "frames")?.ok_or("\"frames\" is missing")?;
                clip.frames = model_frames(frames.min(121), self.reading.group);
                if clip.frames == 0 {
                    return Err("\"frames\" is 0".to_owned());
                }
            }
            other => return Err(format!("\"form\" is \"{other}\": face, portrait or video")),
        }
        Ok(clip)
    }

    /// The file and the crop; the frames are those of a picture.
    fn clip(&self, object: &Map<String, Value>, key: &str) -> Read<Clip> {
        let name = string(object, key)?;
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if name.contains('\\') || !Path::new(name).components().all(plain) {
            return Err(format!(
                "\"{key}\" is \"{name}\": a path below the root, with / and no .."
            ));
        }
        let crop = match object.get("crop") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let sides: Option<Vec<f64>> =
                    value.as_array().and_then(|sides| sides.iter().map(Value::as_f64).collect());
                let sides = sides.and_then(|sides| <[f64; 4]>::try_from(sides).ok());
                Some(sides.ok_or("\"crop\" is no list of four numbers")?)
            }
        };
        let clip = object.get("clip").and_then(Value::as_str).map(str::to_owned);
        let sha256 = object.get("sha256").and_then(Value::as_str).map(str::to_owned);
        let media = self.reading.root.join(name);
        Ok(Clip { media, clip, start: 0, frames: 1, crop, sha256 })
    }

    /// Refuses what is learned among what is given, and a pair of one clip.
    fn apart(&self, targets: &Targets, references: &[Clip]) -> Read<()> {
        let one = |a: &Clip, b: &Clip| match (&a.clip, &b.clip) {
            (Some(a), Some(b)) => a == b,
            _ => a.media == b.media,
        };
        for target in targets.clips() {
            if let Some(at) = references.iter().position(|reference| one(reference, target)) {
                return Err(format!("the target is among the references: the one at {}", at + 1));
            }
        }
        match targets {
            Targets::Pair([chosen, rejected])
                if chosen.media == rejected.media
                    || (chosen.sha256.is_some() && chosen.sha256 == rejected.sha256) =>
            {
                Err("the chosen and the rejected clip are the same".to_owned())
            }
            _ => Ok(()),
        }
    }
}

fn section<'v>(object: &'v Map<String, Value>, key: &str) -> Read<&'v Map<String, Value>> {
    let value = object.get(key).ok_or(format!("\"{key}\" is missing"))?;
    value.as_object().ok_or(format!("\"{key}\" is no JSON object"))
}

fn string<'v>(object: &'v Map<String, Value>, key: &str) -> Read<&'v str> {
    match object.get(key) {
        None => Err(format!("\"{key}\" is missing")),
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text),
        Some(Value::String(_)) => Err(format!("\"{key}\" is empty")),
        Some(_) => Err(format!("\"{key}\" is no text")),
    }
}

fn identifier(object: &Map<String, Value>, key: &str) -> Read<String> {
    let text = string(object, key)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match text.len() <= 64 && text.chars().all(fits) {
        true => Ok(text.to_owned()),
        false => Err(format!("\"{key}\" is \"{text}\": at most 64 letters, digits, _ and -")),
    }
}

fn count(object: &Map<String, Value>, key: &str) -> Read<Option<usize>> {
    /// More frames than any clip has.
    const MOST: u64 = 100_000_000;
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) if number <= MOST => Ok(Some(number as usize)),
            _ => Err(format!("\"{key}\" is {value}: a whole number")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            "chosen": {"video": "gen/a.mp4", "sha256": "aa"},
            "rejected": {"video": "gen/b.mp4", "sha256": "bb"},
        });
        change(&mut value);
        value.to_string()
    }

    fn open(lines: &[String], pairs: bool, locked: Option<&str>) -> Result<Manifest> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        std::fs::write(&path, lines.join("\n")).unwrap();
        let root = Path::new("/media");
        Manifest::open(&path, &Reading { pairs, root, locked, frames: 5, group: 4, fps: 24.0 })
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
    fn every_fault_of_a_sample_is_named() {
        type Change = fn(&mut Value);
        let rows: [(Change, &str); 17] = [
            (|v| v["schema"] = "anyid.clip/1".into(), "\"schema\" is \"anyid.clip/1\""),
            (|v| v["id"] = "a b".into(), "\"id\" is \"a b\""),
            (|v| v["id"] = Value::Null, "\"id\" is no text"),
            (|v| v["prompt"] = " ".into(), "\"prompt\" is empty"),
            (|v| v["references"] = serde_json::json!([]), "0 references"),
            (|v| v["references"] = vec![v["references"][0].clone(); 6].into(), "6 references"),
            (|v| v["references"] = "x".into(), "\"references\" is no list"),
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
        ];
        for (change, said) in rows {
            let fault = fault(line(change), false);
            assert!(fault.contains(said), "{fault}, expected {said}");
        }
        assert!(fault("{\"schema\": ".to_owned(), false).contains("no JSON"));
        assert!(fault("[]".to_owned(), false).contains("no JSON object"));
        let mut missing: Value = serde_json::from_str(&line(|_| {})).unwrap();
        missing.as_object_mut().unwrap().remove("target");
        assert!(fault(missing.to_string(), false).contains("\"target\" is missing"));
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
        assert_eq!((chosen.sha256.as_deref(), chosen.frames), (Some("aa"), 5));
        let same = fault(pair(|v| v["rejected"]["video"] = "gen/a.mp4".into()), true);
        assert!(same.contains("are the same"), "{same}");
        let same = fault(pair(|v| v["rejected"]["sha256"] = "aa".into()), true);
        assert!(same.contains("are the same"), "{same}");
        let among = pair(|v| v["sample"]["references"][0]["media"] = "gen/b.mp4".into());
        assert!(fault(among, true).contains("among the references"));
        // A header stands first only.
        let manifest = open(&[pair(|_| {}), header], true, None).unwrap();
        assert_eq!(manifest.faults[0].line, 2);
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
