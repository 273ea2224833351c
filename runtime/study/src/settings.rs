//! What is set for making samples from videos: one TOML file for all stages, with the defaults of
//! `data.md`. Unknown keys are errors.

use crate::prompt::server::examples::BUILT_IN;
use anyid_files::input::{self, Refusal};
use anyid_files::{Error, Result, error};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Largest file of settings that is read, in bytes.
const LARGEST: u64 = 1 << 20;
/// Largest pitch of a face that is seen from the front, where 68 points say it.
const FRONT_PITCH: f64 = 40.0;

/// The settings of all stages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Of `shots`.
    pub shots: ShotSettings,
    /// Of `detect`.
    pub detect: DetectSettings,
    /// Of `filter`.
    pub filter: FilterSettings,
    /// Of `group`.
    pub group: GroupSettings,
    /// Of `sample`.
    pub sample: SampleSettings,
    /// Servers that describe and compare, by name.
    pub llm: std::collections::BTreeMap<String, crate::prompt::profile::Profile>,
    /// Of describing and comparing.
    pub prompt: crate::prompt::PromptSettings,
}

/// How cuts are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A change that stands out from those around it.
    #[default]
    Adaptive,
    /// A change above a threshold.
    Content,
    /// A file is one shot.
    None,
}

/// Settings of `shots`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShotSettings {
    /// How cuts are found.
    pub method: Method,
    /// The ratio (`adaptive`, 3) or the score (`content`, 27) of a cut.
    pub threshold: Option<f64>,
    /// The least score of a cut, with `adaptive`.
    pub min_content: f64,
    /// Fewest frames of a shot.
    pub min_frames: usize,
    /// Whether fades through black are cuts.
    pub fade: bool,
    /// Frames left out at both ends of a shot.
    pub trim: usize,
}

impl Default for ShotSettings {
    fn default() -> Self {
        Self {
            method: Method::Adaptive,
            threshold: None,
            min_content: 15.0,
            min_frames: 15,
            fade: false,
            trim: 2,
        }
    }
}

impl ShotSettings {
    /// The threshold of the method.
    pub fn threshold(&self) -> f64 {
        self.threshold.unwrap_or(if self.method == Method::Content { 27.0 } else { 3.0 })
    }
}

/// Kinds of face detectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaceKind {
    /// A folder with `pnet.onnx`, `rnet.onnx` and `onet.onnx`.
    Mtcnn,
    /// insightface's, with points.
    Scrfd,
    /// That of OpenCV's zoo.
    Yunet,
    /// biubug6's, of either backbone.
    Retinaface,
}

/// Kinds of person detectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PersonKind {
    /// As ultralytics exports it.
    Yolo,
    /// As its authors export it.
    Rtdetr,
}

/// Kinds of networks that tell faces apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityKind {
    /// insightface's, 512 numbers.
    Arcface,
    /// TFace's, 512 numbers.
    Curricularface,
    /// That of OpenCV's zoo, 128 numbers.
    Sface,
}

/// What runs ONNX files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A part of this program.
    #[default]
    Rten,
    /// ONNX Runtime, a library of the user's.
    Ort,
}

/// The side that a detector brings pictures to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Side {
    /// So many pixels.
    Pixels(usize),
    /// With SCRFD: a small side for very large faces, and 640.
    #[serde(with = "auto")]
    Auto,
}

/// The word of [`Side::Auto`].
mod auto {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("auto")
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "auto" => Ok(()),
            other => Err(D::Error::custom(format!("\"{other}\" is not a number or \"auto\""))),
        }
    }
}

/// A face detector of the user's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaceModel {
    /// What it is.
    pub kind: FaceKind,
    /// Where it lies.
    pub path: PathBuf,
    /// The side that pictures are brought to, 640 where it is not said; not of MTCNN.
    #[serde(default)]
    pub side: Option<Side>,
    /// Least score, where it is not that of its authors; not of MTCNN.
    #[serde(default)]
    pub score: Option<f64>,
    /// What runs it.
    #[serde(default)]
    pub engine: Engine,
}

impl FaceModel {
    /// The networks of MTCNN in a folder.
    pub fn mtcnn(path: PathBuf) -> Self {
        Self { kind: FaceKind::Mtcnn, path, side: None, score: None, engine: Engine::default() }
    }
}

/// A person detector of the user's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersonModel {
    /// What it is.
    pub kind: PersonKind,
    /// Where it lies.
    pub path: PathBuf,
    /// Least score, where it is not that of its authors.
    #[serde(default)]
    pub score: Option<f64>,
    /// What runs it.
    #[serde(default)]
    pub engine: Engine,
}

/// A network of the user's that tells faces apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityModel {
    /// What it is.
    pub kind: IdentityKind,
    /// Where it lies.
    pub path: PathBuf,
    /// Whether faces are aligned in twice the size first, to compare with measurements that do so.
    #[serde(default)]
    pub align224: bool,
    /// What runs it.
    #[serde(default)]
    pub engine: Engine,
}

/// Kinds of networks that tell how heads are turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoseKind {
    /// insightface's, 68 points in space.
    #[serde(rename = "1k3d68")]
    Points68,
}

/// A network of the user's that tells how heads are turned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoseModel {
    /// What it is.
    pub kind: PoseKind,
    /// Where it lies.
    pub path: PathBuf,
    /// The mean shape of its 68 points, a JSON list; by eyes, nose and mouth alone where it is not there.
    #[serde(default)]
    pub mean_shape: Option<PathBuf>,
    /// What runs it.
    #[serde(default)]
    pub engine: Engine,
}

/// Settings of `detect`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectSettings {
    /// Frames a second that are looked at.
    pub fps: f64,
    /// Fewest frames of a shot that are looked at.
    pub at_least: usize,
    /// Whether every frame is looked at.
    pub dense: bool,
    /// Detections that are there already.
    pub given: Option<PathBuf>,
    /// A face detector.
    pub face: Option<FaceModel>,
    /// A person detector.
    pub person: Option<PersonModel>,
    /// What tells faces apart.
    pub identity: Option<IdentityModel>,
    /// What tells how heads are turned, in place of the five points of a face.
    pub pose: Option<PoseModel>,
}

impl Default for DetectSettings {
    fn default() -> Self {
        Self {
            fps: 2.0,
            at_least: 5,
            dense: false,
            given: None,
            face: None,
            person: None,
            identity: None,
            pose: None,
        }
    }
}

/// What a second subject means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SingleSubject {
    /// Clips with others of a tenth of the size are left out.
    #[default]
    Strict,
    /// Clips are kept where others are below a twentieth.
    Largest,
}

/// Settings of `filter`: the gates of `data.md` §4.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FilterSettings {
    /// Least shorter side of the face in every frame that is used, in pixels.
    pub face_min: f64,
    /// Least median of it.
    pub face_median: f64,
    /// Least shorter side of the frame.
    pub frame_side: usize,
    /// Least score of the detector.
    pub score: f64,
    /// Least median of the variance of the Laplacian.
    pub blur: f64,
    /// Largest yaw of a frame that is used, in degrees.
    pub yaw: f64,
    /// Largest roll of a frame that is used.
    pub roll: f64,
    /// Largest yaw of a face that is seen from the front.
    pub front_yaw: f64,
    /// Largest pitch of one, where it is not 40 with `detect.pose` and any without: five points say the
    /// pitch wrongly.
    pub front_pitch: Option<f64>,
    /// Least share of frames that show it so.
    pub front_share: f64,
    /// Bounds of the mean luma of the face.
    pub luma: [f64; 2],
    /// Largest share of pixels that are black or white.
    pub extremes: f64,
    /// Least length in seconds.
    pub seconds: f64,
    /// What a second subject means.
    pub single_subject: SingleSubject,
    /// Least cosine between the face at the beginning, in the middle and at the end.
    pub cosine: f64,
}

impl Default for FilterSettings {
    fn default() -> Self {
        Self {
            face_min: 64.0,
            face_median: 96.0,
            frame_side: 360,
            score: 0.6,
            blur: 40.0,
            yaw: 75.0,
            roll: 45.0,
            front_yaw: 60.0,
            front_pitch: None,
            front_share: 0.5,
            luma: [40.0, 220.0],
            extremes: 0.25,
            seconds: 1.0,
            single_subject: SingleSubject::Strict,
            cosine: 0.35,
        }
    }
}

/// Where groups come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// The first folder of a path is the person.
    #[default]
    Folders,
    /// Faces are compared.
    Flat,
    /// A file says it.
    File,
}

/// Settings of `group` (`data.md` §5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupSettings {
    /// Where groups come from.
    pub layout: Layout,
    /// With `file`: a CSV of path and identity, or EchoShot's JSON.
    pub file: Option<PathBuf>,
    /// Least cosine of two clips that are linked.
    pub edge: f64,
    /// Least cosine to the medoid.
    pub chain: f64,
    /// Cosine to the medoid below which a clip of a given group is an outlier.
    pub outlier: f64,
    /// Cosine of medoids above which two groups are told to be one.
    pub duplicate: f64,
    /// Whether groups of one clip are kept.
    pub keep_singletons: bool,
    /// Largest number of bits in which the hashes of copies differ.
    pub copies: u32,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            layout: Layout::Folders,
            file: None,
            edge: 0.48,
            chain: 0.38,
            outlier: 0.30,
            duplicate: 0.60,
            keep_singletons: false,
            copies: 4,
        }
    }
}

/// How probable the forms of references are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forms {
    /// One frame, the face.
    pub face: f64,
    /// One frame, the person.
    pub portrait: f64,
    /// Several frames.
    pub video: f64,
}

/// How targets of another shape are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetCrop {
    /// In the middle.
    #[default]
    Centre,
    /// So that the person is inside.
    Subject,
}

/// Settings of `sample` (`data.md` §6 and §7).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SampleSettings {
    /// Samples of an epoch.
    pub count: usize,
    /// What all draws depend on.
    pub seed: u64,
    /// The first epoch.
    pub epoch: u64,
    /// How many epochs are drawn.
    pub epochs: u64,
    /// Width of targets.
    pub width: usize,
    /// Height of targets.
    pub height: usize,
    /// Frames of targets.
    pub frames: usize,
    /// Frames a second that clips are sampled to.
    pub fps: f64,
    /// Fewest and most references.
    pub references: [usize; 2],
    /// How probable the forms are.
    pub forms: Forms,
    /// Those of the primary reference, where they are others.
    pub primary_forms: Option<Forms>,
    /// Whether further parts of clips that are used already make up for clips that are not there.
    pub repeat_clips: bool,
    /// Whether groups with more clips are more probable, by the square root.
    pub by_size: bool,
    /// How probable it is that a prompt says everything.
    pub full_prompt: f64,
    /// Elements more alike than this are not said.
    pub gamma: f64,
    /// How prompts are written.
    pub style: crate::prompt::style::Style,
    /// How targets are cut.
    pub target_crop: TargetCrop,
    /// Whether targets may be enlarged by more than a third.
    pub allow_upscale: bool,
}

impl Default for SampleSettings {
    fn default() -> Self {
        Self {
            count: 1000,
            seed: 0,
            epoch: 0,
            epochs: 1,
            width: 1280,
            height: 704,
            frames: 121,
            fps: 24.0,
            references: [1, 5],
            forms: Forms { face: 1.0, portrait: 1.0, video: 1.0 },
            primary_forms: None,
            repeat_clips: true,
            by_size: false,
            full_prompt: 0.0,
            gamma: 0.8,
            style: crate::prompt::style::Style::default(),
            target_crop: TargetCrop::Centre,
            allow_upscale: false,
        }
    }
}

/// The contents of a text file of at most `limit` bytes.
///
/// # Errors
/// E0911 where it cannot be read, E1201 where it is too large or no text.
pub fn text(path: &Path, limit: u64) -> Result<String> {
    let large = |limit: u64| {
        Error::input("E1201", format!("the file is larger than {limit} bytes"))
            .help("give a file of settings or texts")
    };
    let unreadable = |fault| error::unreadable(path, fault);
    let bytes =
        input::read(path, limit).map_err(|fault: Refusal| fault.coded(path, unreadable, large))?;
    String::from_utf8(bytes).map_err(|fault| {
        let place = fault.utf8_error().valid_up_to() + 1;
        Error::input("E1201", format!("this is not UTF-8 text, at byte {place}"))
            .at(path.display())
            .help("save it as UTF-8")
    })
}

impl Settings {
    /// Reads a file; its paths start at its folder.
    ///
    /// # Errors
    /// E0911 where it cannot be read, E1201 for what is wrong in it.
    pub fn open(path: &Path) -> Result<Self> {
        let mut settings = Self::parse(&text(path, LARGEST)?).map_err(|e| e.at(path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let pose = settings.detect.pose.as_mut();
        let pose = pose.map(|model| (&mut model.path, model.mean_shape.as_mut()));
        let (pose, shape) = pose.map_or((None, None), |(path, shape)| (Some(path), shape));
        let paths = [
            pose,
            shape,
            settings.detect.given.as_mut(),
            settings.detect.face.as_mut().map(|model| &mut model.path),
            settings.detect.person.as_mut().map(|model| &mut model.path),
            settings.detect.identity.as_mut().map(|model| &mut model.path),
            settings.group.file.as_mut(),
            // Those that come with the program have a name and no file.
            settings.prompt.examples.as_mut().filter(|path| path.as_os_str() != BUILT_IN),
        ];
        for path in paths.into_iter().flatten() {
            *path = folder.join(&*path);
        }
        Ok(settings)
    }

    /// The gates of `filter`, which depend on what faces were looked at with.
    pub fn gates(&self) -> FilterSettings {
        let usual = self.detect.pose.as_ref().map(|_| FRONT_PITCH);
        let front_pitch = self.filter.front_pitch.or(usual);
        FilterSettings { front_pitch, ..self.filter.clone() }
    }

    /// Reads settings from text.
    ///
    /// # Errors
    /// E1201.
    pub fn parse(text: &str) -> Result<Self> {
        let settings: Self = toml::from_str(text).map_err(|fault| {
            let line = fault.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let line = line.map_or(String::new(), |line| format!("line {line}: "));
            let what = fault.message().trim_end().replace('\n', " ");
            Error::input("E1201", format!("{line}{what}"))
                .help("docs/data.md has a table of all settings")
        })?;
        settings.check()?;
        Ok(settings)
    }

    /// Whether the values make sense.
    ///
    /// # Errors
    /// E1201 with all that is wrong.
    pub fn check(&self) -> Result<()> {
        let (detect, filter, group, sample) =
            (&self.detect, &self.filter, &self.group, &self.sample);
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let cosine = |value: f64| (-1.0..=1.0).contains(&value);
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let forms = |forms: &Forms| {
            let all = [forms.face, forms.portrait, forms.video];
            all.iter().all(|v| v.is_finite() && *v >= 0.0) && all.iter().any(|v| *v > 0.0)
        };
        let rules = [
            (positive(self.shots.threshold()), "shots.threshold is a number above 0"),
            (self.shots.min_content >= 0.0, "shots.min_content is a number from 0"),
            (positive(detect.fps) && detect.fps <= 1000.0, "detect.fps is a rate above 0"),
            (detect.at_least > 0, "detect.at_least is 1 or more"),
            (
                detect.given.is_none() || detect.face.is_none(),
                "detect.given and detect.face are two sources of the same",
            ),
            (
                detect.face.as_ref().is_none_or(|face| {
                    face.kind != FaceKind::Mtcnn || face.side.is_none() && face.score.is_none()
                }),
                "side and score of detect.face are not those of mtcnn",
            ),
            (
                detect.face.as_ref().is_none_or(|face| {
                    face.kind == FaceKind::Scrfd || face.side != Some(Side::Auto)
                }),
                "the side \"auto\" of detect.face is that of scrfd",
            ),
            (
                detect.face.as_ref().is_none_or(|face| match face.side {
                    Some(Side::Pixels(side)) => (32..=4096).contains(&side),
                    Some(Side::Auto) | None => true,
                }),
                "the side of detect.face is from 32 to 4096",
            ),
            (share(filter.score), "filter.score is from 0 to 1"),
            (share(filter.front_share), "filter.front_share is from 0 to 1"),
            (share(filter.extremes), "filter.extremes is from 0 to 1"),
            (cosine(filter.cosine), "filter.cosine is from -1 to 1"),
            (filter.luma[0] <= filter.luma[1], "filter.luma is the lower and the upper bound"),
            (
                [group.edge, group.chain, group.outlier, group.duplicate].map(cosine) == [true; 4],
                "cosines of [group] are from -1 to 1",
            ),
            (
                (group.layout == Layout::File) == group.file.is_some(),
                "group.file goes with group.layout = \"file\", and with that alone",
            ),
            (sample.width > 0 && sample.height > 0, "sample.width and height are 1 or more"),
            (sample.frames > 0, "sample.frames is 1 or more"),
            (sample.epochs > 0, "sample.epochs is 1 or more"),
            (positive(sample.fps) && sample.fps <= 1000.0, "sample.fps is a rate above 0"),
            (
                (1..=5).contains(&sample.references[0])
                    && (sample.references[0]..=5).contains(&sample.references[1]),
                "sample.references is the fewest and the most, from 1 to 5",
            ),
            (forms(&sample.forms), "sample.forms are numbers from 0, not all 0"),
            (
                sample.primary_forms.as_ref().is_none_or(forms),
                "sample.primary_forms are numbers from 0, not all 0",
            ),
            (share(sample.full_prompt), "sample.full_prompt is from 0 to 1"),
            (share(sample.gamma), "sample.gamma is from 0 to 1"),
            (
                [&self.prompt.describe, &self.prompt.compare]
                    .into_iter()
                    .flatten()
                    .all(|name| self.llm.contains_key(name)),
                "prompt.describe and prompt.compare are names of servers in [llm]",
            ),
            ((1..=15).contains(&self.prompt.votes), "prompt.votes is from 1 to 15"),
            ((1..=10).contains(&self.prompt.batch), "prompt.batch is from 1 to 10"),
        ];
        let wrong: Vec<&str> =
            rules.iter().filter(|(fits, _)| !fits).map(|(_, rule)| *rule).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Error::input("E1201", wrong.join("; "))
            .help("docs/data.md has a table of all settings"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_the_defaults_and_name_what_is_wrong() {
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        let read = Settings::parse("[shots]\nmethod = \"content\"\n[sample]\nseed = 7\n").unwrap();
        assert_eq!((read.shots.threshold(), read.sample.seed), (27.0, 7));
        let face = "[detect.face]\nkind = \"scrfd\"\npath = \"m\"\nside = ";
        for (word, side) in [("\"auto\"", Side::Auto), ("320", Side::Pixels(320))] {
            let read = Settings::parse(&format!("{face}{word}")).unwrap();
            assert_eq!(read.detect.face.as_ref().unwrap().side, Some(side));
            // As it is written into what a part is made from.
            let written = serde_json::json!(read.detect);
            assert_eq!(serde_json::from_value::<DetectSettings>(written).unwrap(), read.detect);
        }
        for (text, part) in [
            ("[shots]\nmethod = \"magic\"", "line 2: unknown variant `magic`"),
            ("[shots]\n\nminimum = 3", "line 3: unknown field `minimum`"),
            ("[detect]\nfps = 0.0", "detect.fps is a rate above 0"),
            ("[group]\nlayout = \"file\"", "group.file goes with"),
            ("[sample]\nreferences = [3, 2]", "sample.references"),
            ("[sample.forms]\nface = 0.0\nportrait = 0.0\nvideo = 0.0", "not all 0"),
            ("[sample", "line 1: "),
            ("[detect.face]\nkind = \"mtcnn\"\npath = \"m\"\nscore = 0.5", "not those of mtcnn"),
            ("[detect.face]\nkind = \"yunet\"\npath = \"m\"\nside = \"auto\"", "that of scrfd"),
            ("[detect.face]\nkind = \"yunet\"\npath = \"m\"\nside = 8", "from 32 to 4096"),
            ("[detect.face]\nkind = \"other\"\npath = \"m\"", "unknown variant `other`"),
            ("[prompt]\ndescribe = \"a\"", "names of servers in [llm]"),
        ] {
            let error = Settings::parse(text).unwrap_err();
            assert_eq!(error.code(), "E1201");
            assert!(error.message().contains(part), "{text}: {error}");
        }
    }
}
