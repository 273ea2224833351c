//! How alike descriptions are, by a model (`prompts.md` §2 and §4): one pair a request, several of them
//! where the model judges them as it does single ones, and the median of several answers.

use super::answer::Question;
use super::ask::{Ask, Part, Shown};
use super::client::{Outcome, Server};
use super::examples::{self, Stage};
use super::{Estimate, Told, asked_all, costs};
use crate::lines::all;
use crate::prompt::PromptSettings;
use crate::prompt::differ::Difference;
use crate::prompt::elements::{Element, Elements};
use crate::records::{Group, schema};
use crate::stages::Job;
use anyid_files::Result;
use anyid_files::output::AtomicFile;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ops::Range;

/// The instruction of comparisons.
pub const COMPARE: &str = include_str!("compare.v1.txt");
/// What is added to it for several pairs.
const BATCH: &str = include_str!("compare.batch.v1.txt");
/// Pairs that are judged both one by one and several at once before all others are.
const PROBE: usize = 50;
/// Least share of decisions that are the same then.
const LEAST_AGREEMENT: f64 = 0.95;

/// Two descriptions: of a reference and of a target.
pub type Pair<'p> = (&'p Elements, &'p Elements);

/// A pair as requests have it.
pub fn words_of_pair(reference: &Elements, target: &Elements) -> String {
    format!("REFERENCE {} TARGET {}", json!(reference), json!(target))
}

/// What is asked about two descriptions.
pub fn about_pair(reference: &Elements, target: &Elements) -> Ask {
    let text = words_of_pair(reference, target);
    Ask::new(Question::Compare, COMPARE, vec![Part::Text(text)])
}

/// What came of a pair.
#[derive(Clone, Debug, PartialEq)]
enum Judged {
    /// Scores and reasons.
    Scores(Value),
    Refused,
    Failed,
}

/// The middle of some numbers, between the two middle ones of an even number.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

/// The median of several answers about a pair, each score with the reason of the answer nearest to it.
fn middle(answers: &[Value]) -> Value {
    if let [only] = answers {
        return only.clone();
    }
    let (mut scores, mut reasons) = (Map::new(), Map::new());
    for element in Element::ALL {
        let name = element.name();
        let of = |answer: &Value| answer["scores"][name].as_f64().unwrap_or(0.0);
        let score = median(answers.iter().map(of).collect());
        let far = |answer: &&Value| (of(answer) - score).abs();
        let near = answers.iter().min_by(|a, b| far(a).total_cmp(&far(b)));
        scores.insert(name.to_owned(), json!(score));
        reasons.insert(name.to_owned(), near.map_or(Value::Null, |a| a["reasons"][name].clone()));
    }
    json!({"scores": scores, "reasons": reasons})
}

/// Who judges pairs, and how.
struct Judge<'j> {
    server: &'j Server,
    examples: Vec<Shown>,
    votes: usize,
    batch: usize,
    gamma: f64,
}

impl Judge<'_> {
    fn ask(&self, pairs: &[Pair<'_>], range: &Range<usize>, vote: usize) -> Ask {
        let mut ask = match &pairs[range.clone()] {
            [(reference, target)] => {
                Ask { examples: self.examples.clone(), ..about_pair(reference, target) }
            }
            several => {
                let lines = several.iter().enumerate().map(|(at, (reference, target))| {
                    format!("PAIR {} {}", at + 1, words_of_pair(reference, target))
                });
                let text = lines.collect::<Vec<String>>().join("\n");
                let system = format!("{COMPARE}\n{BATCH}");
                Ask::new(Question::Several(several.len()), system, vec![Part::Text(text)])
            }
        };
        ask.vote = vote;
        ask
    }

    /// Judges pairs in requests of these ranges, which follow on each other; each pair is handed on
    /// with what came of it.
    fn judged(
        &self,
        pairs: &[Pair<'_>],
        ranges: &[Range<usize>],
        take: &mut dyn FnMut(usize, Judged) -> Result<()>,
    ) -> Result<()> {
        let ask = |at: usize| Ok(self.ask(pairs, &ranges[at / self.votes], at % self.votes));
        let (mut answers, mut refused) = (Vec::new(), false);
        asked_all(self.server, ranges.len() * self.votes, &ask, &mut |at, outcome| {
            match outcome {
                Outcome::Answered(answered, _) => answers.push(answered.value),
                Outcome::Refused => refused = true,
                Outcome::Failed(_) => {}
            }
            if at % self.votes + 1 < self.votes {
                return Ok(());
            }
            let (answers, refused) = (std::mem::take(&mut answers), std::mem::take(&mut refused));
            let range = ranges[at / self.votes].clone();
            for (place, pair) in range.clone().enumerate() {
                let own = |answer: &Value| match range.len() {
                    1 => answer.clone(),
                    _ => answer["pairs"][place].clone(),
                };
                let own: Vec<Value> = answers.iter().map(own).collect();
                // Most of those that were asked for.
                let judged = match own.len() * 2 > self.votes {
                    true => Judged::Scores(middle(&own)),
                    false if refused => Judged::Refused,
                    false => Judged::Failed,
                };
                take(pair, judged)?;
            }
            Ok(())
        })
    }

    /// Judges pairs one by one.
    fn singly(
        &self,
        pairs: &[Pair<'_>],
        range: Range<usize>,
        take: &mut dyn FnMut(usize, Judged) -> Result<()>,
    ) -> Result<()> {
        let ranges: Vec<Range<usize>> = range.map(|at| at..at + 1).collect();
        self.judged(pairs, &ranges, take)
    }

    /// Judges pairs several at once; where that gives nothing, one by one.
    fn together(
        &self,
        pairs: &[Pair<'_>],
        range: Range<usize>,
        take: &mut dyn FnMut(usize, Judged) -> Result<()>,
    ) -> Result<()> {
        // So many at a time that all requests are in use, and no more is held.
        let block = self.batch * self.server.profile().concurrency.clamp(1, 64);
        for begin in range.clone().step_by(block) {
            let end = (begin + block).min(range.end);
            let cut = |at: usize| at..(at + self.batch).min(end);
            let ranges: Vec<Range<usize>> = (begin..end).step_by(self.batch).map(cut).collect();
            let mut found = Vec::new();
            self.judged(pairs, &ranges, &mut |_, judged| {
                found.push(judged);
                Ok(())
            })?;
            let open: Vec<Range<usize>> = (begin..end)
                .filter(|at| !matches!(found[at - begin], Judged::Scores(_)))
                .map(|at| at..at + 1)
                .collect();
            self.judged(pairs, &open, &mut |at, judged| {
                found[at - begin] = judged;
                Ok(())
            })?;
            for (at, judged) in (begin..end).zip(found) {
                take(at, judged)?;
            }
        }
        Ok(())
    }

    /// The share of decisions about elements that two judgements have in common.
    fn agreement(&self, one: &[Judged], other: &[Judged]) -> f64 {
        let kept = |judged: &Judged, element: Element| match judged {
            Judged::Scores(value) => Some(value["scores"][element.name()].as_f64()? > self.gamma),
            Judged::Refused | Judged::Failed => None,
        };
        let (mut same, mut all) = (0.0, 0.0);
        for (one, other) in one.iter().zip(other) {
            for element in Element::ALL {
                // What is not judged one by one tells nothing.
                let Some(own) = kept(one, element) else { continue };
                all += 1.0;
                same += if kept(other, element) == Some(own) { 1.0 } else { 0.0 };
            }
        }
        same / f64::max(all, 1.0)
    }

    /// Judges all pairs in their order. Several at once only where that agrees with one by one, of
    /// which the share is given.
    fn all(
        &self,
        pairs: &[Pair<'_>],
        take: &mut dyn FnMut(usize, Judged) -> Result<()>,
    ) -> Result<Option<f64>> {
        if self.batch < 2 || pairs.len() <= PROBE {
            self.singly(pairs, 0..pairs.len(), take)?;
            return Ok(None);
        }
        let (mut one, mut other) = (Vec::new(), Vec::new());
        self.singly(pairs, 0..PROBE, &mut |at, judged| {
            one.push(judged.clone());
            take(at, judged)
        })?;
        self.together(pairs, 0..PROBE, &mut |_, judged| {
            other.push(judged);
            Ok(())
        })?;
        let agreement = self.agreement(&one, &other);
        match agreement >= LEAST_AGREEMENT {
            true => self.together(pairs, PROBE..pairs.len(), take)?,
            false => self.singly(pairs, PROBE..pairs.len(), take)?,
        }
        Ok(Some(agreement))
    }
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
    let requests = pairs.len() * job.settings.prompt.votes;
    Ok(Estimate::of(requests, 0, COMPARE.len() + asked / pairs.len().max(1), server))
}

/// How alike descriptions are, in the order of the pairs; none where no answer was sound.
///
/// # Errors
/// Those of asking, E0911 and E1202 for examples.
pub fn scores(
    pairs: &[Pair<'_>],
    server: &Server,
    settings: &PromptSettings,
) -> Result<Vec<[Option<f64>; 7]>> {
    let examples = examples::of(settings, Stage::Compare)?;
    let judge = Judge { server, examples, votes: settings.votes, batch: 1, gamma: 0.0 };
    let mut found = Vec::new();
    judge.all(pairs, &mut |_, judged| {
        found.push(match judged {
            Judged::Scores(value) => {
                Element::ALL.map(|element| value["scores"][element.name()].as_f64())
            }
            Judged::Refused | Judged::Failed => [None; 7],
        });
        Ok(())
    })?;
    Ok(found)
}

/// Compares every two clips of each group that are described, into `pairs.jsonl`.
///
/// # Errors
/// Those of asking, E0911, E1202, E101x.
pub fn compare(job: &Job, server: &Server) -> Result<Told> {
    let before = server.costs();
    let groups: Vec<Group> = all(&job.path("groups.jsonl"), schema::GROUP)?;
    let texts: BTreeMap<String, Elements> = job.texts()?.described;
    let named = pairs(&groups, &texts);
    let pairs: Vec<Pair<'_>> = named.iter().map(|(a, b)| (&texts[*a], &texts[*b])).collect();
    let settings = &job.settings.prompt;
    let gamma = job.settings.sample.gamma;
    let examples = examples::of(settings, Stage::Compare)?;
    let judge = Judge { server, examples, votes: settings.votes, batch: settings.batch, gamma };
    let mut told = Told::default();
    let mut file = AtomicFile::create(job.path("pairs.jsonl"))?;
    let outcome = judge.all(&pairs, &mut |at, judged| {
        let (reference, target) = named[at];
        let value = match judged {
            Judged::Scores(value) => value,
            Judged::Refused => {
                told.refused += 1;
                return Ok(());
            }
            Judged::Failed => {
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
            "kept": kept, "gamma": gamma, "model": server.model(),
        });
        told.lines += 1;
        file.append(format!("{line}\n").as_bytes())
    });
    told.costs = server.costs().since(&before);
    // What was paid is paid, however the run ended.
    costs::add(&job.out, "compare", server, &told.costs)?;
    told.agreement = outcome?;
    file.commit()?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_answers_have_a_middle_with_its_reason() {
        let answer = |score: f64| {
            let of = |value: Value| {
                Value::from(Map::from_iter(
                    Element::ALL.map(|element| (element.name().to_owned(), value.clone())),
                ))
            };
            json!({"scores": of(json!(score)), "reasons": of(json!(format!("by {score}")))})
        };
        let found = middle(&[answer(1.0), answer(0.4), answer(0.65)]);
        assert_eq!(
            (&found["scores"]["shot"], &found["reasons"]["shot"]),
            (&json!(0.65), &json!("by 0.65"))
        );
        assert_eq!(middle(&[answer(1.0), answer(0.5)])["scores"]["action"], 0.75);
        assert_eq!(middle(&[answer(0.3)]), answer(0.3));
    }
}
