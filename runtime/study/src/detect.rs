//! Where faces come from: detections that a user has, or a model of the user's.

#[cfg(feature = "curate")]
pub mod mtcnn;
#[cfg(feature = "curate")]
mod names;
#[cfg(feature = "curate")]
mod onnx;

use crate::lines::{Lines, parsed};
use crate::records::{Face, Person, schema};
use crate::settings::{DetectSettings, FaceModel};
use anyid_files::input::open_regular;
use anyid_files::media::RgbFrame;
use anyid_files::{Error, Result, error};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Frames with the faces and persons in them.
pub type Frames = BTreeMap<usize, (Vec<Face>, Vec<Person>)>;

/// Where faces come from.
pub enum Source {
    /// A file of lines `anyid.boxes/1`.
    Given(Given),
    /// MTCNN.
    #[cfg(feature = "curate")]
    Mtcnn(Box<mtcnn::Mtcnn>),
}

/// Detections that are there already. Of the file only the places of lines are held.
pub struct Given {
    path: PathBuf,
    places: BTreeMap<String, Vec<u64>>,
    file: Mutex<BufReader<File>>,
}

#[derive(Deserialize)]
struct Boxes {
    media: String,
    f: usize,
    #[serde(default)]
    faces: Vec<GivenFace>,
    #[serde(default)]
    persons: Vec<GivenPerson>,
}

#[derive(Deserialize)]
struct GivenFace {
    #[serde(rename = "box")]
    area: [f64; 4],
    kps: [[f64; 2]; 5],
    #[serde(default = "one")]
    score: f64,
    #[serde(default)]
    embedding: Option<Vec<f32>>,
}

#[derive(Deserialize)]
struct GivenPerson {
    #[serde(rename = "box")]
    area: [f64; 4],
    #[serde(default = "one")]
    score: f64,
}

fn one() -> f64 {
    1.0
}

impl Boxes {
    fn check(&self) -> std::result::Result<(), String> {
        let right = |area: &[f64; 4]| {
            area.iter().all(|v| v.is_finite()) && area[0] < area[2] && area[1] < area[3]
        };
        let score = |score: f64| (0.0..=1.0).contains(&score);
        let faces = self.faces.iter().all(|face| {
            right(&face.area)
                && score(face.score)
                && face.kps.iter().flatten().all(|v| v.is_finite())
        });
        let persons = self.persons.iter().all(|person| right(&person.area) && score(person.score));
        match faces && persons {
            true => Ok(()),
            false => Err("a box is left, top, right, bottom with a score from 0 to 1".to_owned()),
        }
    }
}

impl Given {
    /// Looks at every line once.
    ///
    /// # Errors
    /// E0911, E1202.
    pub fn open(path: &Path) -> Result<Self> {
        let mut places: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut lines = Lines::open(path)?;
        let (file, _) = open_regular(path).map_err(|fault| error::unreadable(path, fault))?;
        let mut at = 0u64;
        let mut raw = BufReader::new(file);
        // The same lines once more for their places: empty ones are not handed out above.
        let mut bytes = Vec::new();
        while let Some(line) = lines.next() {
            let boxes: Boxes = parsed(&line?, schema::BOXES).map_err(|what| lines.fault(what))?;
            boxes.check().map_err(|what| lines.fault(what))?;
            loop {
                bytes.clear();
                let read = raw.read_until(b'\n', &mut bytes);
                let read = read.map_err(|fault| error::unreadable(path, fault))? as u64;
                at += read;
                if !bytes.trim_ascii().is_empty() || read == 0 {
                    places.entry(boxes.media.clone()).or_default().push(at - read);
                    break;
                }
            }
        }
        Ok(Self { path: path.to_owned(), places, file: Mutex::new(raw) })
    }

    fn frames_of(&self, media: &str) -> Result<Frames> {
        let mut out = Frames::new();
        let fail = |fault| error::unreadable(&self.path, fault);
        let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for place in self.places.get(media).into_iter().flatten() {
            file.seek(SeekFrom::Start(*place)).map_err(fail)?;
            let mut line = String::new();
            file.read_line(&mut line).map_err(fail)?;
            let changed = |what| {
                Error::input("E1202", format!("the file changed while it was read: {what}"))
                    .at(self.path.display())
                    .help("start again")
            };
            let boxes: Boxes = parsed(&line, schema::BOXES).map_err(changed)?;
            let f = boxes.f;
            let (faces, persons) = out.entry(f).or_default();
            faces.extend(boxes.faces.into_iter().map(|face| Face {
                f,
                area: face.area,
                kps: face.kps,
                score: face.score,
                blur: 0.0,
                luma: 0.0,
                extremes: 0.0,
                pose: None,
                embedding: face.embedding,
            }));
            persons.extend(boxes.persons.into_iter().map(|person| Person {
                f,
                area: person.area,
                score: person.score,
                derived: false,
            }));
        }
        Ok(out)
    }
}

impl Source {
    /// What the settings name.
    ///
    /// # Errors
    /// E1212 where they name nothing, E1209 where this program has no models, E1208 where a model is
    /// another one, E0911, E1202.
    pub fn open(settings: &DetectSettings) -> Result<Self> {
        match (&settings.given, &settings.face) {
            (Some(path), _) => Ok(Self::Given(Given::open(path)?)),
            (None, Some(model)) => Self::model(model),
            (None, None) => Err(Error::input("E1212", "nothing says where faces are").help(
                "set detect.given to a file of detections (anyid.boxes/1), or detect.face to a \
                 detector of yours, such as { kind = \"mtcnn\", path = \"mtcnn\" }",
            )),
        }
    }

    #[cfg(feature = "curate")]
    fn model(model: &FaceModel) -> Result<Self> {
        Ok(Self::Mtcnn(Box::new(mtcnn::Mtcnn::open(&model.path)?)))
    }

    #[cfg(not(feature = "curate"))]
    fn model(model: &FaceModel) -> Result<Self> {
        Err(Error::input("E1209", "this program was built without detectors")
            .at(model.path.display())
            .help("build it with --features curate, or give detections (detect.given)"))
    }

    /// The frames of a file whose detections are given; none where a model looks for them.
    ///
    /// # Errors
    /// E0911, E1202.
    pub fn frames_of(&self, media: &str) -> Result<Option<Frames>> {
        match self {
            Self::Given(given) => given.frames_of(media).map(Some),
            #[cfg(feature = "curate")]
            Self::Mtcnn(_) => Ok(None),
        }
    }

    /// The faces in a frame.
    ///
    /// # Errors
    /// E1208 where a model gives what it should not.
    pub fn faces(&self, f: usize, image: &RgbFrame) -> Result<Vec<Face>> {
        match self {
            Self::Given(_) => {
                let _ = (f, image);
                Ok(Vec::new())
            }
            #[cfg(feature = "curate")]
            Self::Mtcnn(model) => model.faces(f, image),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;

    const LINE: &str = r#"{"schema":"anyid.boxes/1","media":"a.mp4","f":3,"faces":[{"box":[1,2,30,40],"kps":[[5,9],[20,9],[12,15],[6,22],[19,22]],"embedding":[1,0]}],"persons":[{"box":[0,0,40,90],"score":0.5}]}"#;

    #[test]
    fn detections_are_found_by_their_file_and_frame() {
        let folder = TempFolder::new("given");
        let other = LINE.replace("a.mp4", "b.mp4");
        let empty = r#"{"schema":"anyid.boxes/1","media":"a.mp4","f":9}"#;
        let path = folder.write("boxes.jsonl", format!("{LINE}\n\n{other}\n{empty}"));
        let settings = DetectSettings { given: Some(path), ..DetectSettings::default() };
        let source = Source::open(&settings).unwrap();
        let frames = source.frames_of("a.mp4").unwrap().unwrap();
        assert_eq!(frames.keys().copied().collect::<Vec<_>>(), [3, 9]);
        let (faces, persons) = &frames[&3];
        assert_eq!((faces[0].area, faces[0].score), ([1.0, 2.0, 30.0, 40.0], 1.0));
        assert_eq!((persons[0].score, persons[0].derived), (0.5, false));
        assert!(frames[&9].0.is_empty());
        assert!(source.frames_of("c.mp4").unwrap().unwrap().is_empty());
    }

    #[test]
    fn faults_of_detections_have_their_line() {
        let folder = TempFolder::new("faulty");
        for (from, to) in [
            ("[1,2,30,40]", "[30,2,1,40]"),
            ("\"score\":0.5", "\"score\":7"),
            ("\"f\":3", "\"g\":3"),
        ] {
            let path = folder.write("boxes.jsonl", format!("{LINE}\n{}", LINE.replace(from, to)));
            let settings = DetectSettings { given: Some(path), ..DetectSettings::default() };
            let fault = Source::open(&settings).err().unwrap();
            assert!(fault.code() == "E1202" && fault.message().starts_with("line 2"), "{fault}");
        }
        assert_eq!(Source::open(&DetectSettings::default()).err().unwrap().code(), "E1212");
    }
}
