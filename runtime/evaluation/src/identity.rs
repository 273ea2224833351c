//! Faces of a video beside the references of its person: Holi-Arc and Holi-Cur (`evaluation.md` §4).
//!
//! All references of the person count, those too that a system was not given. Where a frame has
//! several faces, the largest is scored, and the one most like the references is noted.

use crate::footage::{facts, spread, take};
use crate::raw::{Best, Cosines, FaceFrame, ModelFile, Reference};
use crate::run::Moment;
use crate::settings::Settings;
use anyid_files::checkpoint::hash_file;
use anyid_files::media::RgbFrame;
use anyid_files::{Error, Result};
use anyid_study::detect::{self, Faces, Identities};
use anyid_study::face::{TEMPLATE, pose, similarity};
use anyid_study::filter::{cosine, unit};
use anyid_study::geometry::area;
use anyid_study::lines::hash;
use anyid_study::picture::Plane;
use anyid_study::records::Face;
use anyid_study::settings::{FaceKind, FaceModel, IdentityKind, Side};
use std::collections::BTreeMap;
use std::path::Path;

/// Frames of a clip among the references whose faces count.
pub const CLIP_FRAMES: usize = 8;
/// The smaller side that a detector tries where it found nothing.
const SMALLER: usize = 320;
/// What a frame is widened by on each side where nothing was found, and in which grey.
const MARGIN: f64 = 0.25;
const GREY: u8 = 128;
/// Most faces of a frame that are compared.
const MOST_FACES: usize = 8;

/// What finds faces, with what it tries where it finds none.
pub struct Detectors {
    tries: Vec<Box<dyn Faces>>,
}

impl Detectors {
    /// Opens a detector, at its own side and at a smaller one.
    ///
    /// # Errors
    /// E0911, E1208, E1209.
    pub fn open(model: &FaceModel) -> Result<Self> {
        let mut tries = vec![detect::finder(model)?];
        // MTCNN looks at all sizes, and "auto" has a smaller side already.
        if model.kind != FaceKind::Mtcnn && !matches!(model.side, Some(Side::Auto)) {
            let smaller = FaceModel { side: Some(Side::Pixels(SMALLER)), ..model.clone() };
            tries.push(detect::finder(&smaller)?);
        }
        Ok(Self { tries })
    }

    /// Detectors that are asked one after the other.
    pub fn of(tries: Vec<Box<dyn Faces>>) -> Self {
        Self { tries }
    }

    /// The faces in a frame, the largest first. Where there is none, the frame is looked at again with
    /// grey around it: faces that fill a picture are found so.
    ///
    /// # Errors
    /// E1208 where a model gives what it should not.
    pub fn faces(&self, f: usize, image: &RgbFrame) -> Result<Vec<Face>> {
        let mut faces = Vec::new();
        for finder in &self.tries {
            faces = finder.faces(f, image)?;
            if !faces.is_empty() {
                break;
            }
        }
        if let (true, Some(finder)) = (faces.is_empty(), self.tries.first()) {
            let [across, down] = [image.width, image.height].map(margin);
            faces = finder.faces(f, &padded(image, across, down))?;
            let (across, down) = (across as f64, down as f64);
            for face in &mut faces {
                let [left, top, right, bottom] = face.area;
                face.area = [left - across, top - down, right - across, bottom - down];
                face.kps = face.kps.map(|[x, y]| [x - across, y - down]);
            }
        }
        // Points that are all one cannot be brought to their place.
        faces.retain(|face| similarity(&face.kps, &TEMPLATE).is_some());
        faces.sort_by(|a, b| area(&b.area).total_cmp(&area(&a.area)));
        faces.truncate(MOST_FACES);
        Ok(faces)
    }
}

fn margin(side: usize) -> usize {
    (side as f64 * MARGIN).round() as usize
}

/// A picture with grey around it.
fn padded(image: &RgbFrame, across: usize, down: usize) -> RgbFrame {
    let (width, height) = (image.width + 2 * across, image.height + 2 * down);
    let mut data = vec![GREY; width * height * 3];
    for (row, source) in image.data.chunks_exact((3 * image.width).max(1)).enumerate() {
        let begin = 3 * ((row + down) * width + across);
        data[begin..begin + source.len()].copy_from_slice(source);
    }
    RgbFrame { width, height, data }
}

/// What both encoders say of a face.
type Found = [Option<Vec<f32>>; 2];

/// Which of the two encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// ArcFace.
    Arc,
    /// CurricularFace.
    Cur,
}

impl Which {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Arc, Self::Cur];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arc => "arc",
            Self::Cur => "cur",
        }
    }
}

/// An encoder of faces with the hash of its file.
pub struct Encoder {
    /// The encoder.
    pub encoder: Box<dyn Identities>,
    /// The hash.
    pub sha256: String,
}

/// What measures identity.
pub struct Measure {
    /// What finds faces.
    pub detectors: Detectors,
    /// ArcFace and CurricularFace, as far as they are there.
    pub encoders: [Option<Encoder>; 2],
    /// Their files.
    pub models: Vec<ModelFile>,
    /// Frames of a video that are looked at.
    pub frames: usize,
    /// Hash of the models and of all that is set about them.
    pub key: String,
}

/// The hash of a model: of its file, or of the names and hashes of the files of its folder.
///
/// # Errors
/// E0911.
pub fn model_hash(path: &Path) -> Result<String> {
    if !path.is_dir() {
        return hash_file(path);
    }
    let entries =
        std::fs::read_dir(path).map_err(|fault| anyid_files::error::unreadable(path, fault))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.is_file() && path.extension().is_some_and(|end| end == "onnx"));
    files.sort();
    let mut all = String::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        all.push_str(&format!("{name} {}\n", hash_file(&file)?));
    }
    Ok(hash(all.as_bytes()))
}

/// What a file is called in records: its name without the ending.
fn called(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

impl Measure {
    /// Opens the models that are set; none where no encoder of faces is.
    ///
    /// # Errors
    /// E0911, E1208, E1209.
    pub fn open(settings: &Settings) -> Result<Option<Self>> {
        let Some(face) = &settings.face else { return Ok(None) };
        if settings.arc.is_none() && settings.cur.is_none() {
            return Ok(None);
        }
        let insightface = "model files of insightface are for non-commercial research only";
        let mut models = vec![ModelFile {
            role: "face".into(),
            name: serde_json::json!(face.kind).as_str().unwrap_or_default().to_owned(),
            sha256: model_hash(&face.path)?,
            licence: (face.kind == FaceKind::Scrfd).then(|| insightface.to_owned()),
        }];
        let mut described = serde_json::json!({ "face": [face.kind, face.side, face.score] });
        let mut encoders = [None, None];
        let settled = [
            (Which::Arc, &settings.arc, IdentityKind::Arcface),
            (Which::Cur, &settings.cur, IdentityKind::Curricularface),
        ];
        for (at, (which, set, kind)) in settled.into_iter().enumerate() {
            let Some(set) = set else { continue };
            let sha256 = hash_file(&set.path)?;
            models.push(ModelFile {
                role: which.name().into(),
                name: called(&set.path),
                sha256: sha256.clone(),
                licence: (which == Which::Arc).then(|| insightface.to_owned()),
            });
            described[which.name()] = serde_json::json!({ "align224": set.align224 });
            encoders[at] = Some(Encoder { encoder: detect::recogniser(&set.model(kind))?, sha256 });
        }
        let detectors = Detectors::open(face)?;
        Ok(Some(Self::of(detectors, encoders, models, settings.frames, &described.to_string())))
    }

    /// Of parts that are open; `set` says how they are set.
    pub fn of(
        detectors: Detectors,
        encoders: [Option<Encoder>; 2],
        models: Vec<ModelFile>,
        frames: usize,
        set: &str,
    ) -> Self {
        let all = serde_json::json!({
            "rules": "identity/1", "models": models, "frames": frames, "set": set,
        });
        let key = hash(all.to_string().as_bytes());
        Self { detectors, encoders, models, frames, key }
    }

    /// Embeddings of a face by the encoders that are there.
    fn embeddings(&self, plane: &Plane, face: &Face) -> Result<Found> {
        let mut out = [None, None];
        for (out, encoder) in out.iter_mut().zip(&self.encoders) {
            if let Some(encoder) = encoder {
                *out = encoder.encoder.embedding(plane, &face.kps)?.map(|values| unit(&values));
            }
        }
        Ok(out)
    }

    /// Looks at a reference: the largest face of a picture, and of frames spread over a clip.
    ///
    /// # Errors
    /// E1701 where it has no face, those of decoding.
    pub fn reference(&self, root: &Path, file: &str) -> Result<Seen> {
        let path = root.join(file);
        let facts = facts(&path)?;
        let count = if facts.clip { CLIP_FRAMES } else { 1 };
        let places = spread(facts.frames, count);
        let frames = take(&path, &places.iter().copied().collect())?;
        let about = Reference {
            file: file.to_owned(),
            sha256: hash_file(&path)?,
            clip: facts.clip,
            frames: Vec::new(),
        };
        let images = places.iter().map(|at| (*at, &frames[at].image));
        let seen = self.seen(about, images)?;
        match seen.reference.frames.is_empty() {
            false => Ok(seen),
            true => Err(Error::input("E1701", "no face is found in this reference")
                .at(path.display())
                .help("give one in which the face is seen; `eval check` looks at all of them")),
        }
    }

    /// Looks at pictures of a reference: the largest face of each counts, those without one are left out.
    ///
    /// # Errors
    /// E1208 where a model gives what it should not.
    pub fn seen<'i>(
        &self,
        reference: Reference,
        images: impl IntoIterator<Item = (usize, &'i RgbFrame)>,
    ) -> Result<Seen> {
        let mut seen = Seen { reference, embeddings: [Vec::new(), Vec::new()] };
        for (at, image) in images {
            let Some(face) = self.detectors.faces(at, image)?.into_iter().next() else { continue };
            let found = self.embeddings(&Plane::rgb(image), &face)?;
            seen.reference.frames.push(at);
            for (all, found) in seen.embeddings.iter_mut().zip(found) {
                all.extend(found);
            }
        }
        Ok(seen)
    }

    /// Looks at frames of a video, in the order of `places`, beside the references of its person.
    ///
    /// # Errors
    /// E1208 where a model gives what it should not.
    pub fn video(
        &self,
        places: &[usize],
        moments: &BTreeMap<usize, Moment>,
        references: &[&Seen],
    ) -> Result<Looked> {
        let mut frames: BTreeMap<usize, (FaceFrame, Vec<Found>)> = BTreeMap::new();
        for at in places {
            if frames.contains_key(at) {
                continue;
            }
            let Moment { seconds, image } = &moments[at];
            let faces = self.detectors.faces(*at, image)?;
            let plane = Plane::rgb(image);
            let found = faces.iter().map(|face| self.embeddings(&plane, face));
            let found = found.collect::<Result<Vec<_>>>()?;
            let largest = faces.first();
            let frame = FaceFrame {
                f: *at,
                seconds: *seconds,
                faces: faces.iter().map(|face| face.area).collect(),
                score: largest.map(|face| face.score),
                yaw: largest.and_then(|face| pose(&face.kps)).map(|pose| pose.yaw),
            };
            frames.insert(*at, (frame, found));
        }
        let all: Vec<_> = places.iter().map(|at| &frames[at]).collect();
        let cosines = Which::ALL.map(|which| {
            let encoder = self.encoders[which as usize].as_ref()?;
            Some(compared(which, &encoder.sha256, &all, references))
        });
        let embeddings = Which::ALL.map(|which| {
            let of = |found: &Vec<Found>| found.first()?[which as usize].clone();
            all.iter().filter_map(|(frame, found)| Some((frame.f, of(found)?))).collect()
        });
        let frames = all.iter().map(|(frame, _)| frame.clone()).collect();
        Ok(Looked { frames, cosines, embeddings })
    }
}

/// A reference that was looked at.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it is.
    pub reference: Reference,
    /// Embeddings of its frames by each encoder, of length 1.
    pub embeddings: [Vec<Vec<f32>>; 2],
}

/// A video that was looked at.
#[derive(Clone, Debug)]
pub struct Looked {
    /// Its frames.
    pub frames: Vec<FaceFrame>,
    /// What each encoder says.
    pub cosines: [Option<Cosines>; 2],
    /// Embeddings of its largest faces by each encoder, with their frames.
    pub embeddings: [Vec<(usize, Vec<f32>)>; 2],
}

/// Cosines of an encoder.
fn compared(
    which: Which,
    model: &str,
    frames: &[&(FaceFrame, Vec<Found>)],
    references: &[&Seen],
) -> Cosines {
    let with_all = |face: &[f32]| -> Vec<Vec<f64>> {
        let of = |seen: &&Seen| {
            seen.embeddings[which as usize].iter().map(|own| cosine(face, own)).collect()
        };
        references.iter().map(of).collect()
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let mut out = Cosines { model: model.to_owned(), cosines: Vec::new(), best: Vec::new() };
    for (_, faces) in frames {
        let own: Vec<Option<Vec<Vec<f64>>>> =
            faces.iter().map(|found| found[which as usize].as_deref().map(with_all)).collect();
        let likeness = own.iter().enumerate().filter_map(|(face, sets)| {
            let per: Vec<f64> = sets.as_ref()?.iter().map(|set| mean(set)).collect();
            Some(Best { face, cosine: mean(&per) })
        });
        // Of equals the larger face, which stands first.
        let best =
            likeness.reduce(|best, next| if next.cosine > best.cosine { next } else { best });
        out.best.push(best);
        out.cosines.push(own.into_iter().next().flatten());
    }
    out
}

#[cfg(test)]
mod tests;
