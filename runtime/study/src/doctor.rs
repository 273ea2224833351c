//! Whether a set of references is any good: what can be measured of the files, and what to do about it.
//!
//! A reference is looked at as far as a run takes it (its first 121 frames at 24 a second), and faces are
//! measured as large as they will be in the video. The limits are the gates of `data.md` §4. Without
//! detections nothing is said of faces, and the report says so. Who a person is, is compared only where
//! detections come with embeddings; expressions are never looked at.

mod advice;
mod look;

use crate::detect::Source;
use crate::settings::FilterSettings;
use anyid_files::Result;
use anyid_files::error::{Error, plural};
use serde::Serialize;
use std::path::PathBuf;

pub use crate::prompt::lint::Severity;
pub use advice::MOST;

/// How references are looked at.
pub struct Options<'o> {
    /// Width and height of the video that they are for.
    pub size: [usize; 2],
    /// Where faces come from, if from anywhere.
    pub faces: Option<&'o Source>,
    /// The limits.
    pub gates: FilterSettings,
}

/// Something about the set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Which rule, or the code of the error for a file that cannot be read.
    pub code: &'static str,
    /// How grave it is.
    pub severity: Severity,
    /// Numbers of the references that it is about, from 1; none for the set.
    pub references: Vec<usize>,
    /// What was found.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// What was seen of the faces of a reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Faces {
    /// Frames that were looked at.
    pub frames: usize,
    /// Frames without a face.
    pub without: usize,
    /// Frames with several faces of a size.
    pub several: usize,
    /// The shorter side of the main face in the video, in pixels: the median.
    pub side: f64,
    /// The variance of the Laplacian of the main face: the median.
    pub sharpness: f64,
    /// Its brightness, of 255: the median.
    pub luma: f64,
    /// Where it looks, in degrees to the right of the picture: lowest and highest; none where its points say
    /// nothing.
    pub yaw: Option<[f64; 2]>,
    /// Its longer side over the shorter side of the picture: the median.
    pub share: f64,
    /// What recognition says of it.
    #[serde(skip)]
    pub embedding: Option<Vec<f32>>,
}

/// A reference that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Looked {
    /// The file.
    pub file: String,
    /// `picture` or `clip`.
    pub kind: &'static str,
    /// `face`, `portrait` or `video`: the form of references that it is most like; a picture has none where
    /// faces are not looked at.
    pub form: Option<&'static str>,
    /// Width as shown.
    pub width: usize,
    /// Height as shown.
    pub height: usize,
    /// Seconds that are taken of it; 0 of a picture.
    pub seconds: f64,
    /// Whether the clip goes on behind them.
    pub longer: bool,
    /// Where it cuts, in seconds.
    pub cuts: Vec<f64>,
    /// Latent frames that it adds to those of the video.
    pub latent_frames: usize,
    /// The variance of the Laplacian of its sharpest part: the median of its frames.
    pub sharpness: f64,
    /// What was seen of faces, if they were looked at.
    pub faces: Option<Faces>,
    /// Hash of the file.
    #[serde(skip)]
    pub sha256: String,
    /// Hashes of its frames.
    #[serde(skip)]
    pub hashes: Vec<u64>,
}

/// What came of looking at a set.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The references in their order; none for those that cannot be read.
    pub references: Vec<Option<Looked>>,
    /// What was found, the gravest first.
    pub findings: Vec<Finding>,
    /// What was not looked at.
    pub not_looked_at: Vec<&'static str>,
}

/// Looks at a set of references, the first of which is the primary one; `told` hears of each before.
///
/// # Errors
/// E1202 and E1208 of detections. Files that cannot be read are findings.
pub fn examine(
    files: &[PathBuf],
    options: &Options<'_>,
    told: &mut dyn FnMut(usize),
) -> Result<Report> {
    let (mut references, mut findings) = (Vec::new(), Vec::new());
    for (at, path) in files.iter().enumerate() {
        told(at);
        match look::look(path, options) {
            Ok(looked) => references.push(Some(looked)),
            // A fault of what finds faces is none of the file.
            Err(fault) if !fault.code().starts_with("E08") && fault.code() != "E0911" => {
                return Err(fault);
            }
            Err(fault) => {
                findings.push(Finding {
                    code: fault.code(),
                    severity: Severity::Error,
                    references: vec![at + 1],
                    message: format!("{}: {}", path.display(), fault.message()),
                    help: fault.help_text().unwrap_or("leave it out").to_owned(),
                });
                references.push(None);
            }
        }
    }
    advice::findings(&references, options, &mut findings);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let known = |looked: &Looked| looked.faces.as_ref().is_some_and(|f| f.embedding.is_some());
    let embedded = references.iter().flatten().filter(|looked| known(looked)).count();
    let mut not_looked_at = Vec::new();
    if options.faces.is_none() {
        not_looked_at.extend([
            "faces: how many there are, how large and how sharp they are",
            "views: where heads are turned",
        ]);
    }
    if embedded < 2 {
        not_looked_at.push("whether all references show the same person");
    }
    not_looked_at.push("expressions");
    Ok(Report { references, findings, not_looked_at })
}

/// Whether a set can be used.
///
/// # Errors
/// E1222 where a finding is an error.
pub fn verdict(report: &Report) -> Result<()> {
    let grave = |finding: &&Finding| finding.severity == Severity::Error;
    match report.findings.iter().filter(grave).count() {
        0 => Ok(()),
        errors => {
            Err(Error::input("E1222", format!("the references have {}", plural(errors, "error")))
                .help("mend what is marked as an error; warnings and notes are advice"))
        }
    }
}

#[cfg(test)]
mod tests;
