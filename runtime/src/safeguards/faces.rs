//! Records of consent that cover a face: new pictures of a person are compared with enrolled ones.
//!
//! Detector and recognition are networks of the user's, run on this machine. What they say of a
//! face is held while files are compared and never written. A file is covered if each frame that is
//! looked at shows exactly one face, and that face is like one of an enrolled picture.

use crate::error::{Error, Result};
use anyid_files::checkpoint::hash_file;
use anyid_files::error::unreadable;
use anyid_files::media::{ReadOptions, visit_frames};
use anyid_guard::consent::{Enrolled, Gap};
use anyid_guard::models::Faces;
use anyid_study::detect::Source;
use anyid_study::moderation::EVERY;
use anyid_study::settings::{Engine, Settings};
use serde_json::json;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Most enrolled pictures.
const MOST: usize = 10_000;

/// The networks of a policy, and where enrolled pictures are.
pub(super) struct Comparison {
    source: Source,
    /// By SHA-256.
    pictures: HashMap<String, PathBuf>,
}

/// What is known of the faces of files while they are compared.
#[derive(Default)]
pub(super) struct Seen(HashMap<PathBuf, Vec<Vec<Vec<f32>>>>);

impl Comparison {
    /// Opens the networks, and looks through the folders of enrolled pictures.
    ///
    /// # Errors
    /// E1102 for settings that are none, E1209 where this program runs no networks, E1208 for
    /// another network, E0911 for what cannot be read.
    pub(super) fn open(faces: &Faces) -> Result<Self> {
        let bad = |fault: String| {
            Error::input("E1102", format!("[consent.faces]: {fault}")).help(
                "face and identity are as [detect.face] and [detect.identity] of docs/data.md",
            )
        };
        let detect = json!({ "face": faces.face, "identity": faces.identity });
        let detect = serde_json::from_value(detect).map_err(|fault| bad(fault.to_string()))?;
        let settings = Settings { detect, ..Settings::default() };
        settings.check().map_err(|error| bad(error.message().to_owned()))?;
        let Settings { detect, .. } = &settings;
        let engines =
            [detect.face.as_ref().map(|m| m.engine), detect.identity.as_ref().map(|m| m.engine)];
        // Its library is found through the environment, where a lock could be left by another
        // library.
        if engines.contains(&Some(Engine::Ort)) {
            return Err(bad("networks that compare faces are run without ONNX Runtime".to_owned()));
        }
        let source = Source::open(&settings.detect).map_err(|error| match error.code() {
            "E1209" => {
                let what = "this program was built without networks that compare faces";
                Error::input("E1209", what).help(
                    "build it with `--features curate`, or leave [consent.faces] out of the policy: records \
                     of files count without",
                )
            }
            _ => error,
        })?;
        let mut pictures = HashMap::new();
        for folder in &faces.pictures {
            let entries = std::fs::read_dir(folder).map_err(|fault| unreadable(folder, fault))?;
            let mut inside: Vec<PathBuf> =
                entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
            inside.sort();
            for path in inside {
                if pictures.len() == MOST {
                    return Err(bad(format!("there are more than {MOST} enrolled pictures"))
                        .at(folder.display()));
                }
                pictures.insert(hash_file(&path)?, path);
            }
        }
        Ok(Self { source, pictures })
    }

    /// What recognition says of the faces in each frame of a file that is looked at.
    fn faces<'s>(&self, path: &Path, seen: &'s mut Seen) -> Result<&'s [Vec<Vec<f32>>]> {
        if !seen.0.contains_key(path) {
            let mut frames = Vec::new();
            let (mut last, mut count) = (None, 0usize);
            let mut look = |at: usize, image: &anyid_files::media::RgbFrame| -> Result<()> {
                let (faces, _) = self.source.look(at, image, None)?;
                // A face that recognition cannot use is one that is like none.
                frames.push(
                    faces.into_iter().map(|face| face.embedding.unwrap_or_default()).collect(),
                );
                Ok(())
            };
            visit_frames(path, &ReadOptions::default(), &mut |frame| {
                last = None;
                match count.is_multiple_of(EVERY) {
                    true => look(count, &frame.image)?,
                    false => last = Some(frame.image.clone()),
                }
                count += 1;
                Ok(ControlFlow::Continue(()))
            })?;
            if let Some(last) = &last {
                look(count - 1, last)?;
            }
            seen.0.insert(path.to_owned(), frames);
        }
        Ok(&seen.0[path])
    }

    /// The record whose face a file shows, or why there is none.
    ///
    /// # Errors
    /// E08xx for files that are no pictures, E1208 where a network gives what it should not.
    pub(super) fn covers<'r>(
        &self,
        path: &Path,
        enrolled: &[Enrolled<'r>],
        seen: &mut Seen,
    ) -> Result<std::result::Result<&'r str, Gap>> {
        let shown = self.faces(path, seen)?.to_vec();
        let Some(first) = enrolled.first() else { return Ok(Err(Gap::NoRecord)) };
        let single: Option<Vec<&Vec<f32>>> = shown
            .iter()
            .map(|faces| match &faces[..] {
                [one] => Some(one),
                _ => None,
            })
            .collect();
        let Some(single) = single.filter(|frames| !frames.is_empty()) else {
            let why = "is of a face, and the picture does not show exactly one";
            return Ok(Err(Gap::Not(first.id.to_owned(), why)));
        };
        let mut missing = None;
        for face in enrolled {
            let mut known: Vec<Vec<f32>> = Vec::new();
            for hash in face.pictures {
                match self.pictures.get(&hash.to_ascii_lowercase()) {
                    // Of a picture of several people nobody can say whose face was meant.
                    Some(path) => {
                        let frames = self.faces(path, seen)?.iter();
                        known.extend(frames.filter(|faces| faces.len() == 1).flatten().cloned());
                    }
                    None => missing = Some(face.id),
                }
            }
            let like =
                |one: &&Vec<f32>| known.iter().any(|other| cosine(one, other) >= face.min_cos);
            if single.iter().all(like) {
                return Ok(Ok(face.id));
            }
        }
        Ok(Err(match missing {
            Some(id) => {
                let why = "is of a face, and an enrolled picture is not in the folders of [consent.faces]";
                Gap::Not(id.to_owned(), why)
            }
            None => Gap::NoRecord,
        }))
    }
}

/// How alike two faces are; −1 of what is not one.
fn cosine(one: &[f32], other: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let lengths = (product(one, one) * product(other, other)).sqrt();
    match one.len() == other.len() && lengths > 0.0 && lengths.is_finite() {
        true => product(one, other) / lengths,
        false => -1.0,
    }
}
