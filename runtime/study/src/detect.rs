//! Where faces and persons come from: detections that a user has, or models of the user's.

#[cfg(feature = "curate")]
mod boxes;
#[cfg(feature = "curate")]
pub mod mtcnn;
#[cfg(feature = "curate")]
mod points;
#[cfg(feature = "curate")]
mod recognise;
#[cfg(feature = "curate")]
mod retinaface;
#[cfg(feature = "curate")]
mod rtdetr;
#[cfg(feature = "curate")]
mod scrfd;
#[cfg(all(test, feature = "curate"))]
mod tests;
#[cfg(feature = "curate")]
mod yolo;
#[cfg(feature = "curate")]
mod yunet;

use crate::face::Points;
use crate::geometry::Rect;
use crate::lines::{Lines, parsed};
use crate::picture::Plane;
use crate::records::{Face, Person, schema};
use crate::settings::{
    DetectSettings, FaceKind, FaceModel, IdentityKind, IdentityModel, PersonModel, PoseModel,
};
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

/// What finds faces.
pub trait Faces: Send + Sync {
    /// The faces in a frame, the surest first.
    ///
    /// # Errors
    /// E1208 where a model gives what it should not.
    fn faces(&self, f: usize, image: &RgbFrame) -> Result<Vec<Face>>;
}

/// What finds persons.
pub trait Persons: Send + Sync {
    /// The persons in a frame, the surest first.
    ///
    /// # Errors
    /// E1208 where a model gives what it should not.
    fn persons(&self, f: usize, image: &RgbFrame) -> Result<Vec<Person>>;
}

/// What tells faces apart.
pub trait Identities: Send + Sync {
    /// What it says of a face; none where the points are no face's.
    ///
    /// # Errors
    /// E1208 where a model gives what it should not.
    fn embedding(&self, plane: &Plane, points: &Points) -> Result<Option<Vec<f32>>>;
}

/// What tells how heads are turned, better than five points do.
pub trait Poses: Send + Sync {
    /// Yaw, pitch and roll of the face in a box, in degrees; none where it is no face.
    ///
    /// # Errors
    /// E1208 where a model gives what it should not.
    fn pose(&self, plane: &Plane, area: &Rect) -> Result<Option<[f64; 3]>>;
}

/// Where faces and persons come from.
pub struct Source {
    given: Option<Given>,
    faces: Option<Box<dyn Faces>>,
    persons: Option<Box<dyn Persons>>,
    identity: Option<Box<dyn Identities>>,
    pose: Option<Box<dyn Poses>>,
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

/// What users of models have to know of their licences.
pub fn licences(settings: &DetectSettings) -> Vec<&'static str> {
    let face = settings.face.as_ref().map(|model| model.kind);
    let identity = settings.identity.as_ref().map(|model| model.kind);
    let person = settings.person.as_ref().map(|model| model.kind);
    let mut notes = Vec::new();
    let points = settings.pose.is_some();
    if face == Some(FaceKind::Scrfd) || identity == Some(IdentityKind::Arcface) || points {
        notes.push("model files of insightface are for non-commercial research only");
    }
    if person == Some(crate::settings::PersonKind::Yolo) {
        notes.push("model files of ultralytics have the licence AGPL-3.0");
    }
    notes
}

/// Opens a detector of faces.
///
/// # Errors
/// E1209 where this program has no models, E1208 where a model is another one, E0911.
#[cfg(feature = "curate")]
pub fn finder(model: &FaceModel) -> Result<Box<dyn Faces>> {
    use crate::settings::Side;
    let (path, engine, score) = (&model.path, model.engine, model.score);
    let side = model.side.unwrap_or(Side::Pixels(640));
    let pixels = if let Side::Pixels(pixels) = side { pixels } else { 640 };
    Ok(match model.kind {
        FaceKind::Mtcnn => Box::new(mtcnn::Mtcnn::open(path, engine)?),
        FaceKind::Scrfd => Box::new(scrfd::Scrfd::open(path, engine, side, score)?),
        FaceKind::Yunet => Box::new(yunet::Yunet::open(path, engine, pixels, score)?),
        FaceKind::Retinaface => {
            Box::new(retinaface::Retinaface::open(path, engine, pixels, score)?)
        }
    })
}

#[cfg(feature = "curate")]
fn person_finder(model: &PersonModel) -> Result<Box<dyn Persons>> {
    use crate::settings::PersonKind;
    let (path, engine, score) = (&model.path, model.engine, model.score);
    Ok(match model.kind {
        PersonKind::Yolo => Box::new(yolo::Yolo::open(path, engine, score)?),
        PersonKind::Rtdetr => Box::new(rtdetr::RtDetr::open(path, engine, score)?),
    })
}

/// Opens what tells faces apart.
///
/// # Errors
/// As [`finder`].
#[cfg(feature = "curate")]
pub fn recogniser(model: &IdentityModel) -> Result<Box<dyn Identities>> {
    let (path, engine, twice) = (&model.path, model.engine, model.align224);
    Ok(Box::new(recognise::Recogniser::open(path, engine, model.kind, twice)?))
}

#[cfg(feature = "curate")]
fn turner(model: &PoseModel) -> Result<Box<dyn Poses>> {
    Ok(Box::new(points::Points68::open(model)?))
}

#[cfg(not(feature = "curate"))]
fn turner(model: &PoseModel) -> Result<Box<dyn Poses>> {
    Err(missing(&model.path))
}

#[cfg(not(feature = "curate"))]
fn missing(path: &Path) -> Error {
    Error::input("E1209", "this program was built without detectors")
        .at(path.display())
        .help("build it with --features curate, or give detections (detect.given)")
}

/// Says that there are no detectors.
///
/// # Errors
/// E1209.
#[cfg(not(feature = "curate"))]
pub fn finder(model: &FaceModel) -> Result<Box<dyn Faces>> {
    Err(missing(&model.path))
}

#[cfg(not(feature = "curate"))]
fn person_finder(model: &PersonModel) -> Result<Box<dyn Persons>> {
    Err(missing(&model.path))
}

/// Says that nothing tells faces apart.
///
/// # Errors
/// E1209.
#[cfg(not(feature = "curate"))]
pub fn recogniser(model: &IdentityModel) -> Result<Box<dyn Identities>> {
    Err(missing(&model.path))
}

impl Source {
    /// What the settings name.
    ///
    /// # Errors
    /// E1212 where they do not say where faces are, E1209 where this program has no models, E1208 where
    /// a model is another one, E0911, E1202.
    pub fn open(settings: &DetectSettings) -> Result<Self> {
        let (given, faces) = match (&settings.given, &settings.face) {
            (Some(path), _) => (Some(Given::open(path)?), None),
            (None, Some(model)) => (None, Some(finder(model)?)),
            (None, None) => {
                return Err(Error::input("E1212", "nothing says where faces are").help(
                    "set detect.given to a file of detections (anyid.boxes/1), or detect.face to a \
                     detector of yours, such as { kind = \"mtcnn\", path = \"mtcnn\" }",
                ));
            }
        };
        let persons = settings.person.as_ref().map(person_finder).transpose()?;
        let identity = settings.identity.as_ref().map(recogniser).transpose()?;
        let pose = settings.pose.as_ref().map(turner).transpose()?;
        Ok(Self { given, faces, persons, identity, pose })
    }

    /// The frames of a file whose detections are given; none where a model looks for them.
    ///
    /// # Errors
    /// E0911, E1202.
    pub fn frames_of(&self, media: &str) -> Result<Option<Frames>> {
        self.given.as_ref().map(|given| given.frames_of(media)).transpose()
    }

    /// The faces and persons in a frame, of which `given` are known already. What is given is not looked
    /// for; what a face lacks to be told from others is added.
    ///
    /// # Errors
    /// E1208 where a model gives what it should not.
    pub fn look(
        &self,
        f: usize,
        image: &RgbFrame,
        given: Option<&(Vec<Face>, Vec<Person>)>,
    ) -> Result<(Vec<Face>, Vec<Person>)> {
        let (mut faces, mut persons) = given.cloned().unwrap_or_default();
        if let (None, Some(finder)) = (given, &self.faces) {
            faces = finder.faces(f, image)?;
        }
        if let (true, Some(finder)) = (persons.is_empty(), &self.persons) {
            persons = finder.persons(f, image)?;
        }
        if faces.is_empty() || (self.identity.is_none() && self.pose.is_none()) {
            return Ok((faces, persons));
        }
        let plane = Plane::rgb(image);
        for face in &mut faces {
            if let (None, Some(identity)) = (&face.embedding, &self.identity) {
                face.embedding = identity.embedding(&plane, &face.kps)?;
            }
            if let Some(turner) = &self.pose {
                face.pose = turner.pose(&plane, &face.area)?;
            }
        }
        Ok((faces, persons))
    }
}

#[cfg(test)]
mod given_tests {
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
