//! What is set for an evaluation: one TOML file with the user's models and the servers that judge.
//! Unknown keys are errors.

use crate::raw::{Norm, Norms};
use anyid_files::{Error, Result};
use anyid_study::prompt::profile::Profile;
use anyid_study::settings::{Engine, FaceKind, FaceModel, IdentityKind, IdentityModel, Side};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest file of settings that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// A network that tells faces apart; what it is, its place in the settings says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recognition {
    /// Where it lies.
    pub path: PathBuf,
    /// Whether faces are aligned in twice the size first, to compare with measurements that do so.
    #[serde(default)]
    pub align224: bool,
    /// What runs it.
    #[serde(default)]
    pub engine: Engine,
}

impl Recognition {
    /// As the library of detectors takes it.
    pub fn model(&self, kind: IdentityKind) -> IdentityModel {
        let Self { path, align224, engine } = self;
        IdentityModel { kind, path: path.clone(), align224: *align224, engine: *engine }
    }
}

/// A network that measures pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoder {
    /// Where it lies.
    pub path: PathBuf,
    /// What runs it.
    #[serde(default)]
    pub engine: Engine,
}

/// The networks that outline what a phrase names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Grounding DINO.
    pub grounding: PathBuf,
    /// The words of its tokenizer, `vocab.txt` of BERT (uncased).
    pub vocabulary: PathBuf,
    /// The encoder of SAM.
    pub sam_encoder: PathBuf,
    /// The decoder of SAM.
    pub sam_decoder: PathBuf,
    /// What runs them.
    #[serde(default)]
    pub engine: Engine,
}

/// The settings of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Frames of a video whose faces are looked at.
    pub frames: usize,
    /// What becomes of cosines of faces.
    pub norm_holi: Norm,
    /// What becomes of cosines of elements.
    pub norm_ele: Norm,
    /// The detector of faces.
    pub face: Option<FaceModel>,
    /// ArcFace.
    pub arc: Option<Recognition>,
    /// CurricularFace.
    pub cur: Option<Recognition>,
    /// The visual half of CLIP.
    pub clip: Option<Encoder>,
    /// DINOv2.
    pub dino: Option<Encoder>,
    /// What outlines elements.
    pub segment: Option<Segment>,
    /// The server that judges, one of `llm`.
    pub judge: Option<String>,
    /// Servers by their names.
    pub llm: BTreeMap<String, Profile>,
}

impl Default for Settings {
    fn default() -> Self {
        let norms = Norms::default();
        Self {
            frames: 16,
            norm_holi: norms.holi,
            norm_ele: norms.ele,
            face: None,
            arc: None,
            cur: None,
            clip: None,
            dino: None,
            segment: None,
            judge: None,
            llm: BTreeMap::new(),
        }
    }
}

fn bad(what: String) -> Error {
    Error::input("E1706", what).help("docs/evaluation.md has a table of all settings")
}

impl Settings {
    /// Reads a file; its paths start at its folder.
    ///
    /// # Errors
    /// E0911 where it cannot be read, E1201 for what is no text, E1706 for what is wrong in it.
    pub fn open(path: &Path) -> Result<Self> {
        let text = anyid_study::settings::text(path, LARGEST)?;
        let mut settings = Self::parse(&text).map_err(|fault| fault.at(path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let segment = settings.segment.as_mut();
        let paths = [
            settings.face.as_mut().map(|model| &mut model.path),
            settings.arc.as_mut().map(|model| &mut model.path),
            settings.cur.as_mut().map(|model| &mut model.path),
            settings.clip.as_mut().map(|model| &mut model.path),
            settings.dino.as_mut().map(|model| &mut model.path),
        ];
        let of_segment = segment.into_iter().flat_map(|segment| {
            [
                &mut segment.grounding,
                &mut segment.vocabulary,
                &mut segment.sam_encoder,
                &mut segment.sam_decoder,
            ]
        });
        for path in paths.into_iter().flatten().chain(of_segment) {
            *path = folder.join(&*path);
        }
        Ok(settings)
    }

    /// Reads settings from text.
    ///
    /// # Errors
    /// E1706.
    pub fn parse(text: &str) -> Result<Self> {
        let settings: Self = toml::from_str(text).map_err(|fault| {
            let line = fault.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let line = line.map_or(String::new(), |line| format!("line {line}: "));
            bad(format!("{line}{}", fault.message().trim_end().replace('\n', " ")))
        })?;
        settings.check()?;
        Ok(settings)
    }

    /// Whether the values make sense together.
    ///
    /// # Errors
    /// E1706 with all that is wrong.
    pub fn check(&self) -> Result<()> {
        let encoders = self.clip.is_some() || self.dino.is_some();
        let side = self.face.as_ref().and_then(|face| face.side);
        let rules = [
            ((1..=1024).contains(&self.frames), "frames is from 1 to 1024"),
            (
                self.face.is_some() || (self.arc.is_none() && self.cur.is_none()),
                "arc and cur compare faces: face has to name what finds them",
            ),
            (
                self.face.is_none() || self.arc.is_some() || self.cur.is_some() || encoders,
                "face finds faces that nothing compares: set arc or cur",
            ),
            (
                self.segment.is_none() || encoders,
                "segment outlines elements that nothing compares: set clip or dino",
            ),
            (
                self.face.as_ref().is_none_or(|face| {
                    face.kind != FaceKind::Mtcnn || face.side.is_none() && face.score.is_none()
                }),
                "side and score of face are not those of mtcnn",
            ),
            (
                match side {
                    Some(Side::Pixels(side)) => (32..=4096).contains(&side),
                    Some(Side::Auto) => {
                        self.face.as_ref().is_some_and(|face| face.kind == FaceKind::Scrfd)
                    }
                    None => true,
                },
                "the side of face is from 32 to 4096, or \"auto\" with scrfd",
            ),
            (
                self.judge.as_ref().is_none_or(|name| self.llm.contains_key(name)),
                "judge is the name of a server in [llm]",
            ),
        ];
        let wrong: Vec<&str> =
            rules.iter().filter(|(fits, _)| !fits).map(|(_, rule)| *rule).collect();
        if wrong.is_empty() { Ok(()) } else { Err(bad(wrong.join("; "))) }
    }

    /// The normalisations.
    pub fn norms(&self) -> Norms {
        Norms { holi: self.norm_holi, ele: self.norm_ele }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_the_defaults_of_the_paper_and_name_what_is_wrong() {
        let settings = Settings::parse("").unwrap();
        assert_eq!((settings.frames, settings.norms()), (16, Norms::default()));
        assert_eq!((settings.norm_holi, settings.norm_ele), (Norm::Affine, Norm::Plain));
        let face = "[face]\nkind = \"mtcnn\"\npath = \"m\"\n";
        let read = Settings::parse(&format!("{face}[arc]\npath = \"a.onnx\"")).unwrap();
        assert_eq!(read.arc.unwrap().model(IdentityKind::Arcface).path, PathBuf::from("a.onnx"));
        for (text, part) in [
            ("frames = 0", "frames is from 1 to 1024"),
            ("norm_holi = \"raw\"", "line 1: unknown variant `raw`"),
            ("\nframe = 3", "line 2: unknown field `frame`"),
            ("[arc]\npath = \"a\"", "face has to name what finds them"),
            (face, "nothing compares: set arc or cur"),
            ("judge = \"a\"", "judge is the name of a server"),
            ("[face]\nkind = \"yunet\"\npath = \"m\"\nside = \"auto\"", "\"auto\" with scrfd"),
        ] {
            let error = Settings::parse(text).unwrap_err();
            assert_eq!(error.code(), "E1706");
            assert!(error.message().contains(part), "{text}: {error}");
        }
    }
}
