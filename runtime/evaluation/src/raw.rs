//! What files of an evaluation hold: cases, what came of each video, and how it was measured.
//!
//! A folder of results has `run.json` ([`Run`]), `cases.jsonl` ([`Case`]) and `raw/SYSTEM/CASE.json`
//! ([`Raw`]). Numbers are stored as they were measured, per frame and reference; what tables show is
//! computed of them here ([`Raw::value`]), so that a normalisation can be changed without looking at a
//! video again.

use anyid_files::error::unreadable;
use anyid_files::{Error, Result, input};
use anyid_study::prompt::elements::Elements;
use anyid_study::records::Failure;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Largest file of results, in bytes.
const LARGEST: u64 = 256 << 20;

/// Names of the kinds of files.
pub mod schema {
    /// An evaluation set.
    pub const SET: &str = "anyid.evalset/1";
    /// A line of `cases.jsonl`.
    pub const CASE: &str = "anyid.case/1";
    /// What came of a video.
    pub const RAW: &str = "anyid.raw/1";
    /// How a run measured.
    pub const RUN: &str = "anyid.run/1";
    /// What tables show.
    pub const SUMMARY: &str = "anyid.summary/1";
}

/// What a case asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Task {
    /// A prompt that says everything.
    #[serde(rename = "IPT2V")]
    Ipt2v,
    /// A prompt without what the primary reference has to keep.
    #[serde(rename = "IEPT2V")]
    Iept2v,
}

impl Task {
    /// Both, in the order of tables.
    pub const ALL: [Self; 2] = [Self::Ipt2v, Self::Iept2v];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipt2v => "IPT2V",
            Self::Iept2v => "IEPT2V",
        }
    }
}

/// A prompt with a person, of which each system makes a video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// `anyid.case/1`.
    pub schema: String,
    /// Its name, which videos are called after.
    pub id: String,
    /// The case that this is a further seed of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// What is asked for.
    pub task: Task,
    /// Whose video it is.
    pub person: String,
    /// The prompt's name.
    pub prompt_id: String,
    /// The prompt.
    pub prompt: String,
    /// The prompt in few words, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_short: Option<serde_json::Value>,
    /// The prompt with all that references should keep as well, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_full: Option<String>,
    /// What the prompt says, element by element.
    pub elements: Elements,
    /// Elements that the prompt leaves to the primary reference.
    pub preserve: Vec<String>,
    /// Files of the person below the evaluation set.
    pub references: Vec<String>,
    /// The one whose hair, clothes and place are kept.
    pub primary: String,
    /// The seed of our videos.
    pub seed: u64,
    /// Whether the pronouns were changed to suit the person.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rewritten: bool,
    /// What else is there.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Case {
    /// What statistics count: all seeds of a case are one.
    pub fn unit(&self) -> &str {
        self.of.as_deref().unwrap_or(&self.id)
    }
}

/// What is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Faces beside all references, by ArcFace.
    HoliArc,
    /// The same by CurricularFace.
    HoliCur,
    /// What has to be kept beside the primary reference, by CLIP.
    EleClip,
    /// The same by DINOv2.
    EleDino,
    /// Hair, clothes, accessories and expression beside the prompt.
    App,
    /// Camera and action beside the prompt.
    Mot,
    /// Background beside the prompt.
    Bg,
    /// Quality of single frames.
    Sta,
    /// Quality of motion.
    Dyn,
}

impl Metric {
    /// All, in the order of tables.
    pub const ALL: [Self; 9] = [
        Self::HoliArc,
        Self::HoliCur,
        Self::EleClip,
        Self::EleDino,
        Self::App,
        Self::Mot,
        Self::Bg,
        Self::Sta,
        Self::Dyn,
    ];

    /// As files and flags write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::HoliArc => "holi_arc",
            Self::HoliCur => "holi_cur",
            Self::EleClip => "ele_clip",
            Self::EleDino => "ele_dino",
            Self::App => "app",
            Self::Mot => "mot",
            Self::Bg => "bg",
            Self::Sta => "sta",
            Self::Dyn => "dyn",
        }
    }

    /// As tables write it.
    pub fn title(self) -> &'static str {
        match self {
            Self::HoliArc => "Holi-Arc",
            Self::HoliCur => "Holi-Cur",
            Self::EleClip => "Ele-CLIP",
            Self::EleDino => "Ele-DINO",
            Self::App => "App",
            Self::Mot => "Mot",
            Self::Bg => "Bg",
            Self::Sta => "Sta",
            Self::Dyn => "Dyn",
        }
    }
}

/// What becomes of a cosine before it is averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// (cosine + 1) / 2.
    Affine,
    /// The cosine, at least 0.
    Positive,
    /// The cosine.
    Plain,
}

impl Norm {
    /// As flags write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Affine => "affine",
            Self::Positive => "positive",
            Self::Plain => "plain",
        }
    }

    /// Of a cosine.
    pub fn of(self, cosine: f64) -> f64 {
        match self {
            Self::Affine => f64::midpoint(cosine, 1.0),
            Self::Positive => cosine.max(0.0),
            Self::Plain => cosine,
        }
    }
}

/// The normalisations of headlines; the default is that of the preset `paper`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Norms {
    /// Of faces.
    pub holi: Norm,
    /// Of elements.
    pub ele: Norm,
}

impl Default for Norms {
    fn default() -> Self {
        Self { holi: Norm::Affine, ele: Norm::Plain }
    }
}

/// Facts of a video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Video {
    /// The file.
    pub path: String,
    /// Its hash.
    pub sha256: String,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Frames.
    pub frames: usize,
    /// Frames a second.
    pub fps: f64,
}

/// A reference that faces were compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// The file, below the evaluation set.
    pub file: String,
    /// Its hash.
    pub sha256: String,
    /// Whether it is a clip.
    pub clip: bool,
    /// Frames whose faces count: one of a picture.
    pub frames: Vec<usize>,
}

/// A frame of a video with its faces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaceFrame {
    /// Its number.
    pub f: usize,
    /// Its time in seconds.
    pub seconds: f64,
    /// Faces, the largest first: left, top, right, bottom in pixels.
    pub faces: Vec<[f64; 4]>,
    /// How sure the detector is of the largest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub score: Option<f64>,
    /// Degrees that the largest looks to the right of the picture.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub yaw: Option<f64>,
}

/// The face of a frame that is most like the references.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its place among the faces of the frame; 0 is the largest, which is scored.
    pub face: usize,
    /// Its mean cosine.
    pub cosine: f64,
}

/// What an encoder of faces says of a video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cosines {
    /// Hash of its file.
    pub model: String,
    /// Of the largest face of each frame with each reference, and with each frame of a clip; none where a
    /// frame has no face. `cosines[frame][reference][frame of the reference]`.
    pub cosines: Vec<Option<Vec<Vec<f64>>>>,
    /// The face most like the references in each frame.
    pub best: Vec<Option<Best>>,
}

/// What faces say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Hash of all that it depends on.
    pub key: String,
    /// All references of the person, those too that a system was not given.
    pub references: Vec<Reference>,
    /// The frames that were looked at.
    pub frames: Vec<FaceFrame>,
    /// ArcFace.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub arc: Option<Cosines>,
    /// CurricularFace.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cur: Option<Cosines>,
}

/// How outlines of elements came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Masks {
    /// By Grounding DINO and SAM.
    Segmented,
    /// By the box of the face: approximate, and left out of tables that compare.
    Geometric,
}

/// An element in a frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ElementFrame {
    /// The frame.
    pub f: usize,
    /// Whether the element was found; cosines of one that was not are 0.
    pub found: bool,
    /// Cosine by CLIP.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub clip: Option<f64>,
    /// Cosine by DINOv2.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dino: Option<f64>,
}

/// An element that has to be kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// `hairstyle`, `clothing`, `background` or `accessory`.
    pub element: String,
    /// Whether it was found in the primary reference; where it was not, it does not count.
    pub in_primary: bool,
    /// The frames that were looked at; empty where it does not count.
    pub frames: Vec<ElementFrame>,
}

/// What has to be kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptElements {
    /// Hash of all that it depends on.
    pub key: String,
    /// How outlines came about.
    pub masks: Masks,
    /// The elements of the case.
    pub elements: Vec<Kept>,
}

/// A fact of a prompt, as a judge found it in the frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// Its name in the list of facts of the prompt.
    pub id: String,
    /// Which element says it.
    pub element: String,
    /// What it says.
    pub text: String,
    /// How far the frames show it, from 0 to 1: one value for each repeat, none where there was no answer.
    pub values: Vec<Option<f64>>,
    /// What the judge saw.
    #[serde(default)]
    pub remarks: Vec<String>,
}

/// What a judge says of a video: one value for each repeat, from 0 to 100, none where there was no answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Hash of all that it depends on.
    pub key: String,
    /// The model that was asked for.
    pub model: String,
    /// The model that the server says answered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server_model: Option<String>,
    /// Hashes of the instructions by their names.
    pub templates: BTreeMap<String, String>,
    /// Whether the three numbers of the prompt were asked for directly.
    #[serde(default)]
    pub holistic: bool,
    /// Facts of the prompt; none where it was judged as a whole.
    #[serde(default)]
    pub facts: Vec<Fact>,
    /// Appearance; none where the prompt says nothing of it.
    pub app: Option<Vec<Option<f64>>>,
    /// Motion; none where the prompt says nothing of it.
    pub mot: Option<Vec<Option<f64>>>,
    /// Background; none where the prompt says nothing of it.
    pub bg: Option<Vec<Option<f64>>>,
    /// Quality of single frames.
    pub sta: Option<Vec<Option<f64>>>,
    /// Quality of motion.
    #[serde(rename = "dyn")]
    pub dynamic: Option<Vec<Option<f64>>>,
    /// Defects that were named.
    #[serde(default)]
    pub defects: Vec<String>,
    /// Names of the answers in the cache.
    #[serde(default)]
    pub answers: Vec<String>,
    /// Requests that came to nothing.
    #[serde(default)]
    pub failures: Vec<Failure>,
}

impl Judged {
    /// The values of all repeats.
    pub fn repeats(&self, metric: Metric) -> Option<&[Option<f64>]> {
        match metric {
            Metric::App => self.app.as_deref(),
            Metric::Mot => self.mot.as_deref(),
            Metric::Bg => self.bg.as_deref(),
            Metric::Sta => self.sta.as_deref(),
            Metric::Dyn => self.dynamic.as_deref(),
            Metric::HoliArc | Metric::HoliCur | Metric::EleClip | Metric::EleDino => None,
        }
    }
}

/// What came of a case with a system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Raw {
    /// `anyid.raw/1`.
    pub schema: String,
    /// Whose video it is.
    pub system: String,
    /// Of which case.
    pub case: String,
    /// What statistics count it as ([`Case::unit`]).
    pub unit: String,
    /// What the case asks for.
    pub task: Task,
    /// The video; none where it is missing or cannot be read.
    pub video: Option<Video>,
    /// Why there is none, for a video that is there and cannot be read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<Failure>,
    /// Faces; none where they were not looked at.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub identity: Option<Identity>,
    /// What has to be kept; none where it was not looked at.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub elements: Option<KeptElements>,
    /// What a judge says; none where none was asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub judged: Option<Judged>,
}

/// The mean, or none of nothing.
fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0usize);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

impl Cosines {
    /// The score of a video from 0 to 1: over references of frames with a face. A video without any is 0.
    pub fn holi(&self, norm: Norm) -> f64 {
        let references = self.cosines.iter().flatten().map(Vec::len).max().unwrap_or(0);
        let of = |at: usize| {
            let frames = self.cosines.iter().flatten();
            mean(frames.filter_map(|frame| {
                frame.get(at).and_then(|set| mean(set.iter().map(|cosine| norm.of(*cosine))))
            }))
        };
        mean((0..references).filter_map(of)).unwrap_or(0.0)
    }

    /// The same where frames without a face count as unrelated to all references: cosine 0.
    pub fn strict(&self, norm: Norm) -> f64 {
        let with = self.cosines.iter().flatten().count();
        let without = self.cosines.len() - with;
        let sum = self.holi(norm) * with as f64 + norm.of(0.0) * without as f64;
        if self.cosines.is_empty() { 0.0 } else { sum / self.cosines.len() as f64 }
    }

    /// The mean cosine of each frame over references; none where there is no face.
    pub fn curve(&self) -> Vec<Option<f64>> {
        let of =
            |sets: &Vec<Vec<f64>>| mean(sets.iter().filter_map(|set| mean(set.iter().copied())));
        self.cosines.iter().map(|frame| frame.as_ref().and_then(of)).collect()
    }

    /// The mean cosine with each reference.
    pub fn per_reference(&self, references: usize) -> Vec<Option<f64>> {
        let of = |at: usize| {
            let frames = self.cosines.iter().flatten();
            mean(frames.filter_map(|sets| sets.get(at).and_then(|set| mean(set.iter().copied()))))
        };
        (0..references).map(of).collect()
    }

    /// How much more the video is like the primary reference than like the others: the largest cosine with
    /// the primary over frames, less the mean with the others.
    pub fn copy_score(&self, primary: usize) -> Option<f64> {
        let own = self
            .cosines
            .iter()
            .flatten()
            .filter_map(|sets| sets.get(primary).and_then(|set| mean(set.iter().copied())));
        let own = own.reduce(f64::max)?;
        let references = self.cosines.iter().flatten().map(Vec::len).max().unwrap_or(0);
        let others = self.per_reference(references).into_iter().enumerate();
        let others = others.filter(|(at, _)| *at != primary).filter_map(|(_, cosine)| cosine);
        Some(own - mean(others)?)
    }

    /// By how much the cosine changes from the first frame to the last: the slope of the straight line
    /// through the frames with a face, over the whole video.
    pub fn drift(&self) -> Option<f64> {
        let last = self.cosines.len().checked_sub(1).filter(|last| *last > 0)? as f64;
        let curve = self.curve();
        let points: Vec<(f64, f64)> = curve
            .iter()
            .enumerate()
            .filter_map(|(at, value)| value.map(|value| (at as f64 / last, value)))
            .collect();
        let x = mean(points.iter().map(|point| point.0))?;
        let y = mean(points.iter().map(|point| point.1))?;
        let along: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
        let square: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
        (square > 0.0).then(|| along / square)
    }
}

impl Identity {
    /// Share of the frames that have a face.
    pub fn coverage(&self) -> f64 {
        let with = self.frames.iter().filter(|frame| !frame.faces.is_empty()).count();
        if self.frames.is_empty() { 0.0 } else { with as f64 / self.frames.len() as f64 }
    }

    /// What an encoder says, for its metric.
    pub fn cosines(&self, metric: Metric) -> Option<&Cosines> {
        match metric {
            Metric::HoliArc => self.arc.as_ref(),
            Metric::HoliCur => self.cur.as_ref(),
            _ => None,
        }
    }
}

impl Kept {
    /// The score from 0 to 1; none where the element does not count or was not measured.
    pub fn score(&self, metric: Metric, norm: Norm) -> Option<f64> {
        let of = |frame: &ElementFrame| match metric {
            Metric::EleClip => frame.clip,
            Metric::EleDino => frame.dino,
            _ => None,
        };
        let values: Option<Vec<f64>> = self.frames.iter().map(of).collect();
        mean(values?.into_iter().map(|cosine| norm.of(cosine))).filter(|_| self.in_primary)
    }
}

/// The middle of the values that are there.
pub fn median(values: &[Option<f64>]) -> Option<f64> {
    let mut there: Vec<f64> = values.iter().copied().flatten().collect();
    there.sort_by(f64::total_cmp);
    let middle = there.len() / 2;
    match there.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(there[middle]),
        _ => Some(f64::midpoint(there[middle - 1], there[middle])),
    }
}

impl Raw {
    /// A score from 0 to 100; none where the video is missing, the case does not ask for it, or it was not
    /// measured.
    pub fn value(&self, metric: Metric, norms: Norms) -> Option<f64> {
        match metric {
            Metric::HoliArc | Metric::HoliCur => {
                let cosines = self.identity.as_ref()?.cosines(metric)?;
                Some(100.0 * cosines.holi(norms.holi))
            }
            Metric::EleClip | Metric::EleDino => {
                let elements = &self.elements.as_ref()?.elements;
                let scores = elements.iter().filter_map(|kept| kept.score(metric, norms.ele));
                Some(100.0 * mean(scores)?)
            }
            Metric::App | Metric::Mot | Metric::Bg | Metric::Sta | Metric::Dyn => {
                median(self.judged.as_ref()?.repeats(metric)?)
            }
        }
    }
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// What it is for: `face`, `arc`, `cur`, `clip`, `dino`, `grounding`, `sam_encoder`, `sam_decoder`.
    pub role: String,
    /// What it is, such as `scrfd` or `w600k_r50`.
    pub name: String,
    /// Hash of the file, or of all files of a folder.
    pub sha256: String,
    /// What its licence asks for, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub licence: Option<String>,
}

/// How a run measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// `anyid.run/1`.
    pub schema: String,
    /// The program's version.
    pub version: String,
    /// The command.
    #[serde(default)]
    pub command: String,
    /// Hash of `cases.jsonl`.
    pub cases: String,
    /// The systems, sorted by their names.
    pub systems: Vec<String>,
    /// Cases that are not asked of a system, by its name: its tasks where they are not all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, BTreeSet<Task>>,
    /// Notes on systems by their names, such as which prompts they were given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
    /// The models.
    pub models: Vec<ModelFile>,
    /// Frames of a video whose faces are looked at.
    pub frames: usize,
    /// The normalisations.
    pub norms: Norms,
    /// The judge of prompts and quality, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub judge: Option<serde_json::Value>,
}

/// A folder of results that was read.
#[derive(Clone, Debug)]
pub struct Results {
    /// The folder.
    pub folder: PathBuf,
    /// How it was measured.
    pub run: Run,
    /// Its cases, in their order.
    pub cases: Vec<Case>,
    /// What came of them, by system and case.
    pub raws: BTreeMap<(String, String), Raw>,
}

/// A file of results.
///
/// # Errors
/// E0911, E1704 for what is none.
pub fn read<T: DeserializeOwned>(path: &Path, schema: &str) -> Result<T> {
    let value: serde_json::Value = serde_json::from_slice(&bytes(path)?)
        .map_err(|cause| fault(path, format!("this is no {schema}: {cause}")))?;
    if value["schema"] != schema {
        return Err(fault(path, format!("this is no {schema}, but {}", value["schema"])));
    }
    serde_json::from_value(value).map_err(|cause| fault(path, format!("{schema}: {cause}")))
}

fn fault(path: &Path, what: String) -> Error {
    Error::input("E1704", what)
        .at(path.display())
        .help("give a folder that `eval run` has written, whole")
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    let large = |limit| fault(path, format!("the file is larger than {limit} bytes"));
    input::read(path, LARGEST)
        .map_err(|refusal| refusal.coded(path, |cause| unreadable(path, cause), large))
}

/// The cases of a file.
///
/// # Errors
/// E0911, E1702 for lines that are no cases.
pub fn read_cases(path: &Path) -> Result<Vec<Case>> {
    let wrong = |what: String| {
        Error::input("E1702", what)
            .at(path.display())
            .help("write the cases with `eval cases`, and give the file as it is")
    };
    let text =
        String::from_utf8(bytes(path)?).map_err(|_| wrong("this is not UTF-8 text".to_owned()))?;
    let mut list: Vec<Case> = Vec::new();
    let mut names = BTreeSet::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let case: Case = serde_json::from_str(line)
            .map_err(|cause| wrong(format!("line {number} is no case: {cause}")))?;
        if case.schema != schema::CASE {
            return Err(wrong(format!("line {number} is \"{}\", no case", case.schema)));
        }
        if !is_name(&case.id) {
            return Err(wrong(format!("line {number}: \"{}\" cannot name a file", case.id)));
        }
        if !case.references.contains(&case.primary) {
            let what = format!("line {number}: the primary reference is none of the references");
            return Err(wrong(what));
        }
        if !names.insert(case.id.clone()) {
            return Err(wrong(format!("line {number}: there is another case \"{}\"", case.id)));
        }
        list.push(case);
    }
    match list.is_empty() {
        true => Err(wrong("the file has no cases".to_owned())),
        false => Ok(list),
    }
}

/// Whether a text names files: letters, digits, `.`, `_` and `-`, not first a point, at most 64.
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=64).contains(&text.len()) && !text.starts_with('.') && text.chars().all(fits)
}

impl Results {
    /// Reads a folder.
    ///
    /// # Errors
    /// E0911, E1702, E1704 for a folder that is not whole.
    pub fn open(folder: &Path) -> Result<Self> {
        let run: Run = read(&folder.join("run.json"), schema::RUN)?;
        let cases = read_cases(&folder.join("cases.jsonl"))?;
        let mut raws = BTreeMap::new();
        for system in &run.systems {
            for case in &cases {
                let asked = run.tasks.get(system).is_none_or(|tasks| tasks.contains(&case.task));
                if !asked {
                    continue;
                }
                let path = raw_path(folder, system, &case.id);
                let raw: Raw = read(&path, schema::RAW)?;
                if raw.system != *system || raw.case != case.id {
                    let what = format!("this is of case {} and system {}", raw.case, raw.system);
                    return Err(fault(&path, what));
                }
                raws.insert((system.clone(), case.id.clone()), raw);
            }
        }
        Ok(Self { folder: folder.to_owned(), run, cases, raws })
    }

    /// The scores of a system by what statistics count: the mean over seeds. Cases whose video is missing,
    /// or that are not asked for it, are not there.
    pub fn values(&self, system: &str, metric: Metric, task: Option<Task>) -> BTreeMap<&str, f64> {
        let mut found: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for case in self.cases.iter().filter(|case| task.is_none_or(|task| case.task == task)) {
            let raw = self.raws.get(&(system.to_owned(), case.id.clone()));
            if let Some(value) = raw.and_then(|raw| raw.value(metric, self.run.norms)) {
                found.entry(case.unit()).or_default().push(value);
            }
        }
        found.into_iter().filter_map(|(unit, all)| Some((unit, mean(all)?))).collect()
    }
}

/// Where what came of a case is.
pub fn raw_path(folder: &Path, system: &str, case: &str) -> PathBuf {
    folder.join("raw").join(system).join(format!("{case}.json"))
}
