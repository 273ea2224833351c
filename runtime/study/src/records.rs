//! The lines that stages hand to each other (`data.md` §8): one JSON object a line, with a schema.
//!
//! Fields that are not known are kept and written again. What a field means is said once, here; the
//! rules that values must satisfy are in `check.rs`.

use crate::face::Points;
use crate::geometry::Rect;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What frames and seconds are wrong by, at most, where times and rates are rounded.
const NEAR: f64 = 1e-3;

/// Names of the kinds of lines.
pub mod schema {
    /// A file of video, from `index`.
    pub const MEDIA: &str = "anyid.media/1";
    /// A piece of a file without cuts, from `shots`.
    pub const SHOT: &str = "anyid.shot/1";
    /// Detections that a user has.
    pub const BOXES: &str = "anyid.boxes/1";
    /// What was detected in a shot, from `detect`.
    pub const DETECTION: &str = "anyid.det/1";
    /// A clip, from `filter`.
    pub const CLIP: &str = "anyid.clip/1";
    /// Clips of one person, from `group`.
    pub const GROUP: &str = "anyid.group/1";
    /// What a clip shows, from `prompt describe`.
    pub const DESCRIPTION: &str = "anyid.desc/1";
    /// How alike two clips are, from `prompt compare`.
    pub const PAIR: &str = "anyid.pair/1";
    /// What samples are drawn from, for whoever draws them itself.
    pub const POOL: &str = "anyid.pool/1";
    /// A sample to learn from, from `sample`.
    pub const SAMPLE: &str = "anyid.sample/1";
}

/// Why something could not be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The code of the error.
    pub code: String,
    /// What was wrong.
    pub message: String,
}

impl Failure {
    /// That of an error.
    pub fn of(error: &anyid_files::Error) -> Self {
        Self { code: error.code().to_owned(), message: error.message().to_owned() }
    }
}

/// A file of video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Media {
    /// `anyid.media/1`.
    pub schema: String,
    /// The file, below the root.
    pub media: String,
    /// Its hash.
    pub sha256: String,
    /// Width in pixels as it is shown, turned as the file says.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Mean frames a second.
    pub fps: f64,
    /// Frames, where the file says it.
    pub frames: Option<usize>,
    /// What it is, such as `H.264 in MP4`.
    pub codec: String,
    /// What else is there.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A part of a file that is one take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shot {
    /// `anyid.shot/1`.
    pub schema: String,
    /// Where it is.
    #[serde(flatten)]
    pub span: Span,
    /// What else is there.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A face in a frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Face {
    /// The frame of the file.
    pub f: usize,
    /// Where it is.
    #[serde(rename = "box")]
    pub area: Rect,
    /// Its points.
    pub kps: Points,
    /// How sure the detector is.
    pub score: f64,
    /// Variance of the Laplacian.
    #[serde(default)]
    pub blur: f64,
    /// Mean luma.
    #[serde(default)]
    pub luma: f64,
    /// Share of pixels that are black or white.
    #[serde(default)]
    pub extremes: f64,
    /// Yaw, pitch and roll in degrees; none where the points lie on a line.
    #[serde(default)]
    pub pose: Option<[f64; 3]>,
    /// What recognition says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Vec<f32>>,
}

/// A person in a frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Person {
    /// The frame of the file.
    pub f: usize,
    /// Where the person is.
    #[serde(rename = "box")]
    pub area: Rect,
    /// How sure the detector is.
    pub score: f64,
    /// Whether it was concluded from a face.
    #[serde(default)]
    pub derived: bool,
}

/// What was detected in a shot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// `anyid.det/1`.
    pub schema: String,
    /// The shot.
    #[serde(flatten)]
    pub shot: Span,
    /// Frames that were looked at.
    pub sampled: Vec<usize>,
    /// Hashes of the first, middle and last of them, in hexadecimal.
    pub hashes: Vec<String>,
    /// All faces in them.
    pub faces: Vec<Face>,
    /// All persons in them.
    pub persons: Vec<Person>,
    /// What else is there.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A part of a file, as lines of later stages have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// The name of the clip.
    pub id: String,
    /// The file.
    pub media: String,
    /// Its hash.
    pub sha256: String,
    /// First frame.
    pub start: usize,
    /// The frame behind the last.
    pub end: usize,
    /// Mean frames a second.
    pub fps: f64,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Seconds.
    pub duration: f64,
    /// Seconds of each frame from the first, where the rate varies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<f64>,
}

impl Span {
    /// When a frame of it is shown, in seconds from its first one.
    pub fn seconds(&self, f: usize) -> f64 {
        let at = f.saturating_sub(self.start);
        self.times.get(at).copied().unwrap_or(at as f64 / self.fps)
    }

    /// How many frames of it can be the first of `frames` at `rate` a second that all lie in it.
    pub fn starts(&self, frames: usize, rate: f64) -> usize {
        let length = self.end.saturating_sub(self.start);
        let Some(last) = length.checked_sub(1) else { return 0 };
        let wanted = frames.saturating_sub(1) as f64 / rate;
        if self.times.is_empty() {
            return length.saturating_sub((wanted * self.fps - NEAR).ceil().max(0.0) as usize);
        }
        let latest = self.seconds(self.start + last) - wanted + NEAR;
        self.times.iter().take(length).take_while(|time| **time <= latest).count()
    }

    /// The frame behind the last one that `frames` at `rate` a second from `start` on are of;
    /// behind the end where they do not lie in it.
    pub fn until(&self, start: usize, frames: usize, rate: f64) -> usize {
        let wanted = frames.saturating_sub(1) as f64 / rate;
        if self.times.is_empty() {
            return start + (wanted * self.fps - NEAR).ceil().max(0.0) as usize + 1;
        }
        let latest = self.seconds(start) + wanted - NEAR;
        (start + 1..=self.end).find(|f| self.seconds(f - 1) >= latest).unwrap_or(self.end + 1)
    }
}

/// What was measured of a clip.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Frames that were looked at.
    pub n: usize,
    /// Share of them with exactly one face.
    pub single: f64,
    /// Share without one.
    pub none: f64,
    /// Share with two or more.
    pub several: f64,
    /// Share with two or more persons.
    pub persons: f64,
    /// Median of the variance of the Laplacian.
    pub blur_med: f64,
    /// Median of the shorter side of the face.
    pub face_med: f64,
    /// The 90th percentile of |yaw|.
    pub yaw_p90: f64,
    /// Share of frames that show the face from the front.
    pub front: f64,
    /// Median of the mean luma.
    pub luma_med: f64,
    /// Median share of black and white pixels.
    pub extremes_med: f64,
    /// Mean way of the points from frame to frame, over the distance of the eyes.
    pub motion: f64,
    /// Least cosine between beginning, middle and end, where faces are compared.
    pub cosine: Option<f64>,
}

/// A clip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clip {
    /// `anyid.clip/1`.
    pub schema: String,
    /// Where it is.
    #[serde(flatten)]
    pub span: Span,
    /// The main person's face, at most once a frame.
    pub faces: Vec<Face>,
    /// The main person.
    pub persons: Vec<Person>,
    /// Frames whose face can be used.
    pub usable: Vec<usize>,
    /// Hashes of three frames.
    pub hashes: Vec<String>,
    /// What recognition says of the person, of length 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Vec<f32>>,
    /// What was measured.
    pub quality: Quality,
    /// Whether it may be used.
    pub keep: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What else is there.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Clips of one person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// `anyid.group/1`.
    pub schema: String,
    /// Its name.
    pub id: String,
    /// Its clips.
    pub clips: Vec<String>,
    /// The clip that is nearest to all others.
    pub medoid: Option<String>,
    /// Mean cosine of clips to it.
    pub cohesion: Option<f64>,
    /// Whether it was given.
    pub given: bool,
    /// Clips of it that seem to be of someone else.
    pub outliers: Vec<String>,
    /// Groups that seem to be of the same person.
    pub duplicates_of: Vec<String>,
    /// Clips that show the same, in sets.
    pub copies: Vec<Vec<String>>,
    /// What else is there.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(times: Vec<f64>) -> Span {
        Span {
            id: "c_1".into(),
            media: "a.mp4".into(),
            sha256: String::new(),
            start: 10,
            end: 40,
            // As it is written of 23.976.
            fps: 23.976024,
            width: 64,
            height: 48,
            duration: 30.0 / 23.976024,
            times,
        }
    }

    #[test]
    fn frames_of_an_even_rate_are_counted() {
        let even = span(Vec::new());
        let rate = 24000.0 / 1001.0;
        assert_eq!(
            (even.starts(30, rate), even.starts(31, rate), even.starts(5, rate)),
            (1, 0, 26)
        );
        assert_eq!((even.until(10, 30, rate), even.until(35, 5, rate)), (40, 40));
        assert_eq!((even.starts(1, 24.0), even.until(39, 1, 24.0)), (30, 40));
        // At half of the rate there are half as many.
        assert_eq!((even.starts(15, rate / 2.0), even.until(10, 15, rate / 2.0)), (2, 39));
    }

    #[test]
    fn frames_of_a_rate_that_varies_are_counted_by_their_times() {
        // Ten frames of a tenth of a second, then twenty of a fiftieth.
        let times = (0..30).map(|at| at.min(10) as f64 * 0.1 + (at.max(10) - 10) as f64 * 0.02);
        let varied = span(times.collect());
        assert!((varied.seconds(21) - 1.02).abs() < 1e-9);
        // 1.38 s in all: half a second begins in the first 0.88 s, and 1.4 s nowhere.
        assert_eq!((varied.starts(6, 10.0), varied.starts(15, 10.0)), (9, 0));
        assert_eq!((varied.until(10, 6, 10.0), varied.until(18, 6, 10.0)), (16, 36));
        assert_eq!(varied.until(19, 6, 10.0), 41, "behind the end");
        let every: Vec<usize> = (1..=14).map(|frames| varied.starts(frames, 10.0)).collect();
        assert!(every.windows(2).all(|pair| pair[0] >= pair[1]), "{every:?}");
        for frames in 1..=14 {
            let last = 10 + varied.starts(frames, 10.0) - 1;
            assert!(varied.until(last, frames, 10.0) <= 40, "{frames}");
        }
    }
}
