//! A video that is to be made: what it shall be, what has become of it, and its two JSON forms.
//!
//! One form is the record in the folder of the queue, the other the object that clients are given,
//! in the shape of OpenAI's `video` with what is ours behind it.

use anyid_runtime::sampling::{ScheduleKind, SolverKind};
use anyid_runtime::{Error, Request, Size};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// Version of the record that is written; newer ones are refused.
pub const VERSION: u32 = 1;

/// Frames a second of every video.
pub const RATE: f64 = 24.0;

/// What has become of a video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits.
    Queued,
    /// It is being made.
    InProgress,
    /// It is there.
    Completed,
    /// It could not be made.
    Failed,
    /// A client does not want it any more.
    Cancelled,
}

impl Status {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens to it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// What a client has chosen, defaults included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub prompt: String,
    #[serde(default)]
    pub negative_prompt: Option<String>,
    pub width: usize,
    pub height: usize,
    pub frames: usize,
    pub steps: usize,
    pub guidance: f64,
    pub shift: Option<f64>,
    pub solver: Option<String>,
    pub schedule: Option<String>,
    pub seed: u64,
}

impl Settings {
    /// The request for it, without references.
    ///
    /// # Errors
    /// E0921 and E0922 for names that are none.
    pub fn request(&self) -> Result<Request, Error> {
        Ok(Request {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            size: Size { width: self.width, height: self.height, frames: self.frames },
            steps: self.steps,
            guidance: self.guidance,
            shift: self.shift,
            solver: self.solver.as_deref().map(str::parse::<SolverKind>).transpose()?,
            schedule: self.schedule.as_deref().map(str::parse::<ScheduleKind>).transpose()?,
            seed: self.seed,
            ..Request::default()
        })
    }
}

/// Why a video could not be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub code: String,
    pub message: String,
    /// For whoever runs the server: it may name files.
    pub help: Option<String>,
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        Self {
            code: error.code().to_owned(),
            message: error.message().to_owned(),
            help: error.help_text().map(str::to_owned),
        }
    }
}

/// The record of a video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    pub version: u32,
    pub id: String,
    /// Videos are made in this order.
    pub number: u64,
    /// What clients call the model.
    pub model: String,
    pub status: Status,
    /// Whether it is to be removed once nobody works on it.
    pub deleted: bool,
    pub settings: Settings,
    pub references: usize,
    /// How often it was begun since it last went forward, without what ended in good order.
    pub attempts: u32,
    /// The steps of sampling that were done when a server last found it open.
    #[serde(default)]
    pub reached: usize,
    pub created_at: u64,
    pub started_at: Option<u64>,
    pub completed_at: Option<u64>,
    pub error: Option<Fault>,
    pub warnings: Vec<String>,
}

/// How far a video is that is being made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Of a hundred, and never less than before.
    pub percent: u8,
    /// What is being done, and how much of it is done.
    pub stage: Option<(&'static str, usize, usize)>,
}

impl Job {
    /// The object that clients are given; `ahead` videos are made before it.
    pub fn video(&self, progress: Progress, ahead: Option<usize>) -> Value {
        let Settings { prompt, width, height, frames, .. } = &self.settings;
        let percent = match self.status {
            Status::Completed => 100,
            Status::InProgress => progress.percent.min(99),
            Status::Queued | Status::Failed | Status::Cancelled => 0,
        };
        let stage = progress.stage.filter(|_| self.status == Status::InProgress);
        json!({
            "id": self.id,
            "object": "video",
            "model": self.model,
            "status": self.status.name(),
            "progress": percent,
            "created_at": self.created_at,
            "completed_at": self.completed_at,
            "expires_at": null,
            "size": format!("{width}x{height}"),
            "seconds": seconds(*frames),
            "prompt": prompt,
            "negative_prompt": self.settings.negative_prompt,
            "remixed_from_video_id": null,
            "error": self.error.as_ref().map(|fault| {
                json!({ "code": fault.code, "message": fault.message })
            }),
            "started_at": self.started_at,
            "queue_position": ahead,
            "stage": stage.map(|(name, done, total)| {
                json!({ "name": name, "done": done, "total": total })
            }),
            "frames": frames,
            "fps": RATE,
            "references": self.references,
            "steps": self.settings.steps,
            "guidance": self.settings.guidance,
            "shift": self.settings.shift,
            "solver": self.settings.solver,
            "schedule": self.settings.schedule,
            "seed": self.settings.seed,
            "warnings": self.warnings,
        })
    }
}

/// The length of a video as the API says it, `5` for 121 frames: the first frame takes no time.
fn seconds(frames: usize) -> String {
    let text = format!("{:.2}", frames.saturating_sub(1) as f64 / RATE);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// 64 bits that differ from call to call.
pub fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds each of these with random bits from the system.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// A name that no other video has.
pub fn fresh_id() -> String {
    format!("video_{:016x}{:016x}", random(), random())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn settings(prompt: &str) -> Settings {
        Settings {
            prompt: prompt.to_owned(),
            negative_prompt: None,
            width: 48,
            height: 48,
            frames: 5,
            steps: 2,
            guidance: 1.0,
            shift: None,
            solver: None,
            schedule: None,
            seed: 7,
        }
    }

    #[test]
    fn lengths_read_as_they_are_asked_for() {
        for (frames, text) in [(1, "0"), (5, "0.17"), (25, "1"), (121, "5"), (97, "4"), (241, "10")]
        {
            assert_eq!(seconds(frames), text, "{frames}");
        }
    }

    #[test]
    fn a_name_is_taken_once() {
        let (a, b) = (fresh_id(), fresh_id());
        assert!(a != b && a.len() == 38 && a.starts_with("video_"), "{a}");
    }
}
