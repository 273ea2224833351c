//! Asking a model whether a video may be made of texts. Texts are all that is sent: there is no way
//! to send a picture with them.

use super::answer::{DECISIONS, Question};
use super::ask::{Ask, Part};
use super::client::{Outcome, Server};
use crate::prompt::cache::Mode;
use crate::prompt::profile::Profile;
use anyid_files::Result;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// The instruction.
pub const MODERATE: &str = include_str!("moderate.v1.txt");
/// Times that a fault which may pass is waited for: somebody waits for the video.
const TRIES: u32 = 3;
/// Longest time that is waited between two tries.
const LONGEST: Duration = Duration::from_secs(2);
/// Seconds that an answer may take, if the profile does not say.
const SECONDS: f64 = 20.0;
/// Most characters of a reason that are kept.
const MOST_REASON: usize = 200;

/// What a model decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// 0 to allow, 1 to warn, 2 to block: the place in [`DECISIONS`].
    pub decision: usize,
    /// What it is about, of [`super::answer::CATEGORIES`].
    pub categories: Vec<String>,
    /// One sentence, without control characters.
    pub reason: String,
}

/// Opens the server of a profile; no answer is kept, since the question holds the prompt. A key is
/// looked up by `variable`.
///
/// # Errors
/// Those of [`Server::open`].
pub fn open(profile: &Profile, variable: &dyn Fn(&str) -> Option<String>) -> Result<Server> {
    let profile = Profile { timeout_s: profile.timeout_s.or(Some(SECONDS)), ..profile.clone() };
    let server = Server::open(&profile, Path::new(""), Mode::Off, false, None, variable)?;
    let sleep = |wait: Duration| std::thread::sleep(wait.min(LONGEST));
    Ok(server.trying(TRIES).sleeping(sleep))
}

/// What the model decides about texts that are used together; why there is no decision where it
/// gave no sound answer.
///
/// # Errors
/// Those of [`Server::ask`].
pub fn moderate(server: &Server, texts: &[&str]) -> Result<std::result::Result<Told, String>> {
    let user = vec![Part::Text(json!({"texts": texts}).to_string())];
    let value = match server.ask(&Ask::new(Question::Moderate, MODERATE, user))? {
        Outcome::Answered(answered, _) => answered.value,
        Outcome::Refused => return Ok(Err("it does not want to answer".to_owned())),
        Outcome::Failed(what) => return Ok(Err(what)),
    };
    let decision = value["decision"].as_str().unwrap_or_default();
    let names = value["categories"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let reason = value["reason"].as_str().unwrap_or_default();
    Ok(Ok(Told {
        decision: DECISIONS
            .iter()
            .position(|name| *name == decision)
            .unwrap_or(DECISIONS.len() - 1),
        categories: names.map(str::to_owned).collect(),
        reason: reason.chars().filter(|c| !c.is_control()).take(MOST_REASON).collect(),
    }))
}
