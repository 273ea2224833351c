//! Descriptions and comparisons by a model behind the chat-completions interface (`prompts.md` §3 and
//! §4): which clips are asked about, and what becomes of the answers.

pub mod answer;
pub mod ask;
pub mod client;
pub mod compare;
pub mod costs;
pub mod exact;
pub mod examples;
pub mod judge;
pub mod media;
pub mod moderate;
mod retry;
pub mod sort;
mod transport;

use crate::prompt::benchmark::{Entry, plans};
use crate::prompt::elements::Elements;
use crate::records::{Clip, schema};
use crate::stages::Job;
use answer::Question;
use anyid_files::output::AtomicFile;
use anyid_files::{Error, Result};
use ask::{Ask, Part};
use client::{Outcome, Server};
use examples::Stage;
use media::about_clip;
use serde_json::{Value, json};
use std::path::Path;

/// The instruction of descriptions; a part of what their names in the cache depend on.
pub const DESCRIBE: &str = include_str!("describe.v1.txt");
/// The instruction of prompts for a benchmark.
pub const INVENT: &str = include_str!("ipt2v.v1.txt");
/// The instruction of prompts in few words.
pub const SIMPLIFY: &str = include_str!("simplify.v1.txt");
/// How often a prompt for a benchmark is asked for.
const ROUNDS: usize = 4;
/// Tokens of a picture, as long as no server said anything else.
pub const PICTURE_TOKENS: f64 = 1100.0;
/// Pictures that a clip counts as.
pub const CLIP_PICTURES: f64 = 8.0;
/// Tokens of an answer, about.
const ANSWER_TOKENS: f64 = 350.0;

/// What came of a stage.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Told {
    /// Lines that were written.
    pub lines: usize,
    /// Clips, or pairs, that the server did not want to answer about.
    pub refused: usize,
    /// Those of which no answer was sound.
    pub failed: usize,
    /// Where several pairs go into a request: the share of decisions that are those of single ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// What it cost.
    pub costs: client::Costs,
}

/// Whether pictures of people may be sent to a server: to this machine always, to others where the user
/// said so once for the folder of results.
///
/// # Errors
/// E1235 where it was not said, E101x.
pub fn allowed(out: &Path, server: &Server, pictures: usize, yes: bool) -> Result<()> {
    let path = out.join("sending.json");
    let said =
        std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let said = said.is_some_and(|said| said["to"] == server.address());
    if server.is_here() || said {
        return Ok(());
    }
    if !yes {
        let message = format!("{pictures} pictures of people would leave this machine");
        return Err(Error::input("E1235", message).at(server.address()).help(
            "say --yes if the people in them agreed to that; it is asked once for each folder",
        ));
    }
    let mut file = AtomicFile::create(path)?;
    file.append(format!("{}\n", json!({"to": server.address()})).as_bytes())?;
    file.commit().map(drop)
}

/// What a run would send at most, where nothing is kept yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// Requests.
    pub requests: usize,
    /// Pictures in them.
    pub pictures: usize,
    /// Tokens sent, about.
    pub tokens_in: f64,
    /// Tokens of answers, about.
    pub tokens_out: f64,
    /// Money, where prices are known.
    pub money: Option<f64>,
}

impl Estimate {
    /// Of so many requests, with so many pictures together and so much text each.
    fn of(requests: usize, pictures: usize, text: usize, server: &Server) -> Self {
        let tokens_in = pictures as f64 * PICTURE_TOKENS + (requests * text) as f64 / 4.0;
        let tokens_out = requests as f64 * ANSWER_TOKENS;
        let money = server.price(tokens_in, tokens_out);
        Self { requests, pictures, tokens_in, tokens_out, money }
    }
}

/// What describing the clips that are kept would send.
///
/// # Errors
/// E0911, E1202.
pub fn describe_estimate(job: &Job, server: &Server) -> Result<Estimate> {
    let clips = job.clips_read()?;
    let kept: Vec<&Clip> = clips.iter().filter(|clip| clip.keep).collect();
    let pictures = kept.iter().map(|clip| media::pictures(clip, server.profile())).sum();
    Ok(Estimate::of(kept.len(), pictures, DESCRIBE.len(), server))
}

/// Prompts of a benchmark by plans that are drawn from the seed. One that is not as planned is asked
/// for again, with what was wrong.
///
/// # Errors
/// E1237 where one does not become sound; those of asking.
pub fn invent(server: &Server, count: usize, seed: u64) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    for (at, (gender, plan)) in plans(count, seed).into_iter().enumerate() {
        let pronoun = if gender == "m" { "he" } else { "she" };
        let mut faults: Vec<String> = Vec::new();
        for round in 0..ROUNDS {
            let mut text = format!("PLAN {} PRONOUN {pronoun}", json!(plan));
            if round > 0 {
                text.push_str(&format!("\nAttempt {}. Wrong before: ", round + 1));
                text.push_str(&faults.join("; "));
            }
            let ask = Ask::new(Question::Invent, INVENT, vec![Part::Text(text)]);
            let elements = match server.ask(&ask)? {
                Outcome::Answered(answered, _) => {
                    serde_json::from_value::<Elements>(answered.value["elements"].clone())
                        .map_err(|fault| Error::internal("E1013", fault.to_string()))?
                }
                Outcome::Refused => {
                    faults = vec!["the server does not want to answer".to_owned()];
                    continue;
                }
                Outcome::Failed(what) => {
                    faults = vec![what];
                    continue;
                }
            };
            let id = format!("P{:03}", at + 1);
            let entry = Entry { id, gender: gender.clone(), plan: plan.clone(), elements };
            faults = entry.faults(&entries);
            if faults.is_empty() {
                entries.push(entry);
                break;
            }
        }
        if !faults.is_empty() {
            let message = format!("prompt {} of {count}: {}", at + 1, faults.join("; "));
            return Err(Error::input("E1237", message)
                .at(server.address())
                .help("ask a stronger model, or draw other plans (--seed); answers are kept"));
        }
    }
    Ok(entries)
}

/// Asks about several things at a time; answers come in the order of what was asked.
fn asked_all(
    server: &Server,
    count: usize,
    ask: &(dyn Fn(usize) -> Result<Ask> + Sync),
    take: &mut dyn FnMut(usize, Outcome) -> Result<()>,
) -> Result<()> {
    let width = server.profile().concurrency.clamp(1, 64);
    for begin in (0..count).step_by(width) {
        let chunk = begin..(begin + width).min(count);
        let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                chunk.clone().map(|at| scope.spawn(move || server.ask(&ask(at)?))).collect();
            threads
                .into_iter()
                .map(|thread| match thread.join() {
                    Ok(outcome) => outcome,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
                .collect()
        });
        for (at, outcome) in chunk.zip(outcomes) {
            take(at, outcome?)?;
        }
    }
    Ok(())
}

/// Prompts in few words, one for each, for a system whose text encoder takes no more.
///
/// # Errors
/// E1237 where one does not become sound; those of asking.
pub fn simplify(server: &Server, prompts: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let ask = |at: usize| {
        let text = Part::Text(format!("PROMPT {}", prompts[at]));
        Ok(Ask::new(Question::Simplify, SIMPLIFY, vec![text]))
    };
    asked_all(server, prompts.len(), &ask, &mut |at, outcome| {
        let what = match outcome {
            Outcome::Answered(answered, _) => {
                all.push(answered.value["prompt"].as_str().unwrap_or_default().to_owned());
                return Ok(());
            }
            Outcome::Refused => "the server does not want to answer".to_owned(),
            Outcome::Failed(what) => what,
        };
        let message = format!("prompt {} of {} in few words: {what}", at + 1, prompts.len());
        Err(Error::input("E1237", message)
            .at(server.address())
            .help("ask a stronger model; answers are kept"))
    })?;
    Ok(all)
}

/// Describes the clips that are kept, into `desc.jsonl`.
///
/// # Errors
/// Those of asking and decoding, E0911, E1202, E101x.
pub fn describe(job: &Job, server: &Server) -> Result<Told> {
    let before = server.costs();
    let clips: Vec<Clip> = job.clips_read()?.into_iter().filter(|clip| clip.keep).collect();
    let examples = examples::of(&job.settings.prompt, Stage::Describe)?;
    let mut told = Told::default();
    let mut file = AtomicFile::create(job.path("desc.jsonl"))?;
    let ask = |at: usize| {
        let mut ask = about_clip(&job.root, &clips[at], server.profile())?;
        ask.examples.clone_from(&examples);
        Ok(ask)
    };
    let outcome = asked_all(server, clips.len(), &ask, &mut |at, outcome| {
        let span = &clips[at].span;
        let line = match outcome {
            Outcome::Answered(answered, key) => json!({
                "schema": schema::DESCRIPTION, "clip": span.id, "media": span.media,
                "media_key": span.sha256, "elements": answered.value["elements"],
                "pronoun": answered.value["pronoun"], "people": answered.value["people"],
                "model": server.model(),
                "template": format!("describe.v1#{}", &crate::lines::hash(DESCRIBE.as_bytes())[..12]),
                "cache": key,
            }),
            Outcome::Refused => {
                told.refused += 1;
                return Ok(());
            }
            Outcome::Failed(_) => {
                told.failed += 1;
                return Ok(());
            }
        };
        told.lines += 1;
        file.append(format!("{line}\n").as_bytes())
    });
    told.costs = server.costs().since(&before);
    // What was paid is paid, however the run ended.
    costs::add(&job.out, "describe", server, &told.costs)?;
    outcome?;
    file.commit()?;
    Ok(told)
}
