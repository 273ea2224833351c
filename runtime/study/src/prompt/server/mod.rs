//! Descriptions and comparisons by a model behind the chat-completions interface (`prompts.md` §3 and
//! §4): which clips are asked about, and what becomes of the answers.

pub mod answer;
pub mod client;

use crate::lines::all;
use crate::picture::Plane;
use crate::prompt::benchmark::{Entry, plans};
use crate::prompt::differ::Difference;
use crate::prompt::elements::{Element, Elements};
use crate::records::{Clip, Group, schema};
use crate::stages::Job;
use answer::Question;
use anyid_files::media::{ReadOptions, RgbFrame, visit_frames};
use anyid_files::output::AtomicFile;
use anyid_files::{Error, Result};
use client::{Ask, Outcome, Part, Server};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// The instruction of descriptions; a part of what their names in the cache depend on.
pub const DESCRIBE: &str = include_str!("describe.v1.txt");
/// The instruction of comparisons.
pub const COMPARE: &str = include_str!("compare.v1.txt");
/// The instruction of prompts for a benchmark.
pub const INVENT: &str = include_str!("ipt2v.v1.txt");
/// How often a prompt for a benchmark is asked for.
const ROUNDS: usize = 4;
/// Tokens of a picture, as long as no server said anything else.
pub const PICTURE_TOKENS: f64 = 1100.0;
/// Tokens of an answer, about.
const ANSWER_TOKENS: f64 = 350.0;
/// Longer side of frames that are sent, in pixels.
const SIDE: usize = 768;

/// What came of a stage.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Told {
    /// Lines that were written.
    pub lines: usize,
    /// Clips, or pairs, that the server did not want to answer about.
    pub refused: usize,
    /// Those of which no answer was sound.
    pub failed: usize,
    /// What it cost.
    pub costs: client::Costs,
}

/// A frame as a JPEG file of at most [`SIDE`] pixels, without anything else of its file.
fn jpeg(frame: &RgbFrame) -> Result<Vec<u8>> {
    let longer = frame.width.max(frame.height);
    let side = |side: usize| (side * SIDE / longer).max(1);
    let small = match longer > SIDE {
        true => Plane::rgb(frame).area(side(frame.width), side(frame.height)),
        false => Plane::rgb(frame),
    };
    let bytes: Vec<u8> = small.data.iter().map(|value| value.round() as u8).collect();
    let mut out = Vec::new();
    let (width, height) = (small.width as u32, small.height as u32);
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, 85)
        .encode(&bytes, width, height, image::ExtendedColorType::Rgb8)
        .map_err(|cause| Error::internal("E1013", "a picture cannot be coded").caused_by(cause))?;
    Ok(out)
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

/// What is asked about a clip: frames spread evenly over it, each with its time.
///
/// # Errors
/// Those of decoding.
pub fn about_clip(root: &Path, clip: &Clip, most: usize) -> Result<Ask> {
    let span = &clip.span;
    let length = span.end - span.start;
    let count = most.clamp(1, 16).min(length);
    let wanted: Vec<usize> =
        (0..count).map(|at| span.start + (2 * at + 1) * length / (2 * count)).collect();
    let head = format!("Clip of {:.2} s. Pronoun hint: none.", span.duration);
    let mut user = vec![Part::Text(head)];
    let mut at = 0;
    visit_frames(&root.join(&span.media), &ReadOptions::default(), &mut |frame| {
        if let Some(number) = wanted.iter().position(|f| *f == at) {
            let time = span.seconds(at);
            user.push(Part::Text(format!("Frame {} of {count}, t = {time:.2} s", number + 1)));
            user.push(Part::Picture(jpeg(&frame.image)?));
        }
        at += 1;
        let done = wanted.last().is_some_and(|last| at > *last);
        Ok(if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    user.push(Part::Text("Return the JSON object.".to_owned()));
    Ok(Ask { question: Question::Describe, system: DESCRIBE.to_owned(), user })
}

/// What is asked about two descriptions.
pub fn about_pair(reference: &Elements, target: &Elements) -> Ask {
    let text = format!("REFERENCE {} TARGET {}", json!(reference), json!(target));
    Ask { question: Question::Compare, system: COMPARE.to_owned(), user: vec![Part::Text(text)] }
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
pub fn describe_estimate(job: &Job, server: &Server, most: usize) -> Result<Estimate> {
    let clips = job.clips_read()?;
    let kept = clips.iter().filter(|clip| clip.keep);
    let pictures = kept.clone().map(|clip| most.clamp(1, 16).min(clip.span.end - clip.span.start));
    Ok(Estimate::of(kept.clone().count(), pictures.sum(), DESCRIBE.len(), server))
}

/// What comparing the clips of each group would send.
///
/// # Errors
/// E0911, E1202.
pub fn compare_estimate(job: &Job, server: &Server) -> Result<Estimate> {
    let groups: Vec<Group> = all(&job.path("groups.jsonl"), schema::GROUP)?;
    let texts = job.texts()?.described;
    let pairs = pairs(&groups, &texts);
    let length = |name: &String| json!(texts[name]).to_string().len();
    let asked: usize = pairs.iter().map(|(a, b)| length(a) + length(b)).sum();
    Ok(Estimate::of(pairs.len(), 0, COMPARE.len() + asked / pairs.len().max(1), server))
}

/// Every two clips of each group that are described.
fn pairs<'g>(
    groups: &'g [Group],
    texts: &BTreeMap<String, Elements>,
) -> Vec<(&'g String, &'g String)> {
    let mut pairs = Vec::new();
    for group in groups {
        for reference in &group.clips {
            let others = group.clips.iter().filter(|target| *target != reference);
            let known = others.filter(|t| texts.contains_key(*t) && texts.contains_key(reference));
            pairs.extend(known.map(|target| (reference, target)));
        }
    }
    pairs
}

/// How alike descriptions are, in the order of the pairs; none where no answer was sound.
///
/// # Errors
/// Those of asking.
pub fn scores(
    pairs: &[(&Elements, &Elements)],
    server: &Server,
    at_a_time: usize,
) -> Result<Vec<[Option<f64>; 7]>> {
    let mut all = Vec::new();
    let ask = |at: usize| Ok(about_pair(pairs[at].0, pairs[at].1));
    asked_all(server, at_a_time, pairs.len(), &ask, &mut |_, outcome| {
        all.push(match outcome {
            Outcome::Answered(answered, _) => {
                Element::ALL.map(|element| answered.value["scores"][element.name()].as_f64())
            }
            Outcome::Refused | Outcome::Failed(_) => [None; 7],
        });
        Ok(())
    })?;
    Ok(all)
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
            let user = vec![Part::Text(text)];
            let ask = Ask { question: Question::Invent, system: INVENT.to_owned(), user };
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
    at_a_time: usize,
    count: usize,
    ask: &(dyn Fn(usize) -> Result<Ask> + Sync),
    take: &mut dyn FnMut(usize, Outcome) -> Result<()>,
) -> Result<()> {
    let width = at_a_time.clamp(1, 64);
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

/// Describes the clips that are kept, into `desc.jsonl`.
///
/// # Errors
/// Those of asking and decoding, E0911, E1202, E101x.
pub fn describe(job: &Job, server: &Server, at_a_time: usize, most: usize) -> Result<Told> {
    let clips: Vec<Clip> = job.clips_read()?.into_iter().filter(|clip| clip.keep).collect();
    let mut told = Told::default();
    let mut file = AtomicFile::create(job.path("desc.jsonl"))?;
    let ask = |at: usize| about_clip(&job.root, &clips[at], most);
    asked_all(server, at_a_time, clips.len(), &ask, &mut |at, outcome| {
        let span = &clips[at].span;
        let line = match outcome {
            Outcome::Answered(answered, key) => json!({
                "schema": schema::DESCRIPTION, "clip": span.id, "media": span.media,
                "elements": answered.value["elements"], "pronoun": answered.value["pronoun"],
                "people": answered.value["people"], "model": server.model(),
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
    })?;
    file.commit()?;
    told.costs = server.costs();
    Ok(told)
}

/// Compares every two clips of each group that are described, into `pairs.jsonl`.
///
/// # Errors
/// Those of asking, E0911, E1202, E101x.
pub fn compare(job: &Job, server: &Server, at_a_time: usize) -> Result<Told> {
    let groups: Vec<Group> = all(&job.path("groups.jsonl"), schema::GROUP)?;
    let texts: BTreeMap<String, Elements> = job.texts()?.described;
    let pairs = pairs(&groups, &texts);
    let mut told = Told::default();
    let mut file = AtomicFile::create(job.path("pairs.jsonl"))?;
    let gamma = job.settings.sample.gamma;
    let ask = |at: usize| Ok(about_pair(&texts[pairs[at].0], &texts[pairs[at].1]));
    asked_all(server, at_a_time, pairs.len(), &ask, &mut |at, outcome| {
        let (reference, target) = pairs[at];
        let value = match outcome {
            Outcome::Answered(answered, _) => answered.value,
            Outcome::Refused => {
                told.refused += 1;
                return Ok(());
            }
            Outcome::Failed(_) => {
                told.failed += 1;
                return Ok(());
            }
        };
        let scores = Element::ALL.map(|element| value["scores"][element.name()].as_f64());
        let difference = Difference {
            target: &texts[target],
            scores: &scores,
            form: "portrait",
            gamma,
            style: job.settings.sample.style,
            full: false,
        };
        let found = difference.prompt();
        let kept: Vec<&str> =
            found.iter().flat_map(|f| f.kept.iter().map(|element| element.name())).collect();
        let line: Value = json!({
            "schema": schema::PAIR, "ref": reference, "target": target, "scores": value["scores"],
            "reasons": value["reasons"], "prompt": found.as_ref().map_or("", |f| &f.prompt),
            "kept": kept, "gamma": gamma,
        });
        told.lines += 1;
        file.append(format!("{line}\n").as_bytes())
    })?;
    file.commit()?;
    told.costs = server.costs();
    Ok(told)
}
