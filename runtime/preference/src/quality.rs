//! How good answers are: agreement per track, and what is odd about a person (annotate.md §6).
//!
//! Flags inform. Whether answers of somebody are left out is decided by a person and noted.

use crate::agreement::{RESAMPLINGS, cohen, fleiss, interval, krippendorff, raw};
use crate::answers::{self, Answer, category};
use crate::project::{Project, failed};
use crate::rates::{median, sign_test};
use crate::{QUESTIONS, Track};
use anyid_files::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Common items without which Cohen's kappa of two people says little.
const COMMON: usize = 30;
/// The last hidden checks that are looked at, and how many may fail.
const CHECKS: usize = 10;
const FAILED: usize = 2;
/// Repeated items, and the share that has to be answered alike.
const REPEATS: usize = 8;
const ALIKE: f64 = 0.6;
/// Items, and the shares of left answers between which there is nothing odd.
const SIDES: u64 = 40;
const EVEN: [f64; 2] = [0.35, 0.65];
/// Items, and how much longer than a clip an answer takes at least.
const TIMED: usize = 10;
const WATCHED: f64 = 1.2;

/// What is known of a person.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The pseudonym.
    pub label: String,
    /// Answers in each track that count if the person does.
    pub answers: BTreeMap<&'static str, usize>,
    /// Whether they are left out.
    pub void: bool,
    /// Hidden checks with a known answer: failed, of the last ten at most.
    pub failed: [usize; 2],
    /// Repeated items: answered alike, of all.
    pub repeats: [usize; 2],
    /// Answers for the left and for the right.
    pub sides: [u64; 2],
    /// The median time of an answer in seconds, and over the length of the clip.
    pub time: [f64; 2],
    /// What is odd, in words.
    pub flags: Vec<String>,
}

/// Reports of all who take part.
///
/// # Errors
/// E1603.
pub fn reports(project: &Project) -> Result<Vec<Report>> {
    let answers = answers::all(project)?;
    let people: Vec<(i64, String, bool)> = {
        let database = project.database();
        let mut list = database
            .prepare("SELECT id, label, void FROM annotator WHERE role <> 'admin' ORDER BY id")
            .map_err(failed)?;
        list.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .and_then(Iterator::collect)
            .map_err(failed)?
    };
    let of = |(id, label, void): (i64, String, bool)| {
        let own: Vec<&Answer> =
            answers.iter().filter(|answer| answer.annotator == id && !answer.practice).collect();
        Report { label, void, ..report(&own) }
    };
    Ok(people.into_iter().map(of).collect())
}

fn report(own: &[&Answer]) -> Report {
    let mut report = Report::default();
    for answer in own.iter().filter(|answer| answer.check.is_none()) {
        *report.answers.entry(answer.track.name()).or_default() += 1;
    }
    let kind =
        |kind: &'static str| own.iter().filter(move |answer| answer.check.as_deref() == Some(kind));
    let checked: Vec<bool> = kind("degraded")
        .filter(|answer| answer.expected.is_some())
        .map(|answer| answer.expected.as_ref() != Some(&answer.winner))
        .collect();
    let last = &checked[checked.len().saturating_sub(CHECKS)..];
    report.failed = [last.iter().filter(|failed| **failed).count(), last.len()];
    for answer in kind("repeat") {
        let first = own.iter().find(|first| {
            Some(first.matchup) == answer.repeat_of
                && first.track == answer.track
                && first.question == answer.question
        });
        if let Some(first) = first {
            report.repeats[0] += usize::from(first.winner == answer.winner);
            report.repeats[1] += 1;
        }
    }
    for answer in own {
        match answer.choice.as_str() {
            "left" => report.sides[0] += 1,
            "right" => report.sides[1] += 1,
            _ => {}
        }
    }
    let timed: Vec<(f64, f64)> =
        own.iter().filter_map(|answer| Some((answer.ms? as f64 / 1000.0, answer.length))).collect();
    let mut times: Vec<f64> = timed.iter().map(|(time, _)| *time).collect();
    let mut ratios: Vec<f64> = timed.iter().map(|(time, length)| time / length).collect();
    report.time = [median(&mut times), median(&mut ratios)];
    let [fails, of] = report.failed;
    if fails >= FAILED {
        report.flags.push(format!("failed {fails} of the last {of} hidden checks"));
    }
    let [alike, repeated] = report.repeats;
    if repeated >= REPEATS && (alike as f64) < ALIKE * repeated as f64 {
        report.flags.push(format!("answered {alike} of {repeated} repeated items as before"));
    }
    let [left, right] = report.sides;
    let (all, share) = (left + right, left as f64 / (left + right).max(1) as f64);
    if all >= SIDES && !(EVEN[0]..=EVEN[1]).contains(&share) && sign_test(left, all) < 0.01 {
        report.flags.push(format!("chose the left video in {left} of {all} answers"));
    }
    if timed.len() >= TIMED && report.time[1] < WATCHED {
        let what = "answers after {:.1} times the length of a clip";
        report.flags.push(what.replace("{:.1}", &format!("{:.1}", report.time[1])));
    }
    report
}

impl Report {
    /// As a value for pages and programs.
    pub fn json(&self) -> Value {
        json!({
            "label": self.label, "answers": self.answers, "void": self.void,
            "checks_failed": self.failed[0], "checks": self.failed[1],
            "repeats_alike": self.repeats[0], "repeats": self.repeats[1],
            "left": self.sides[0], "right": self.sides[1], "median_s": self.time[0],
            "median_clips": self.time[1], "flags": self.flags,
        })
    }
}

/// Agreement in one track, or on one question of a study.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// The track or the question.
    pub name: &'static str,
    /// Items with two answers or more.
    pub items: usize,
    /// Share of equal answers.
    pub raw: Option<f64>,
    /// Krippendorff's alpha and its interval.
    pub alpha: Option<f64>,
    /// The 95 % interval of alpha.
    pub interval: Option<[f64; 2]>,
    /// Fleiss' kappa, where every item has as many answers.
    pub fleiss: Option<f64>,
    /// Cohen's kappa of two people with their common items.
    pub cohen: Vec<(String, String, usize, Option<f64>)>,
}

impl Agreement {
    /// As a value for pages and programs; `null` is not defined.
    pub fn json(&self) -> Value {
        let pair = |(a, b, items, kappa): &(String, String, usize, Option<f64>)| json!({ "a": a, "b": b, "items": items, "kappa": kappa });
        json!({
            "name": self.name, "items": self.items, "raw": self.raw, "alpha": self.alpha,
            "interval": self.interval, "fleiss": self.fleiss,
            "cohen": self.cohen.iter().map(pair).collect::<Vec<_>>(),
        })
    }
}

/// Agreement of those whose answers count.
///
/// # Errors
/// E1603.
pub fn agreement(project: &Project) -> Result<Vec<Agreement>> {
    let answers = answers::all(project)?;
    let of = |name: &'static str, track: Track, question: Option<&'static str>| {
        let units: Vec<Vec<u8>> = answers::units(&answers, track, question)
            .into_iter()
            .filter(|unit| unit.len() > 1)
            .collect();
        Agreement {
            name,
            items: units.len(),
            raw: raw(&units),
            alpha: krippendorff(&units),
            interval: interval(&units, RESAMPLINGS, krippendorff),
            fleiss: fleiss(&units),
            cohen: pairs(&answers, track, question),
        }
    };
    Ok(match project.tracks() {
        [Track::Study] => {
            QUESTIONS.iter().map(|question| of(question, Track::Study, Some(question))).collect()
        }
        tracks => tracks.iter().map(|track| of(track.name(), *track, None)).collect(),
    })
}

/// Cohen's kappa of every two people with enough common items.
fn pairs(
    answers: &[Answer],
    track: Track,
    question: Option<&str>,
) -> Vec<(String, String, usize, Option<f64>)> {
    let mut people: BTreeMap<&str, BTreeMap<i64, u8>> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.counts() && answer.track == track) {
        if question.is_none_or(|question| question == answer.question) {
            let own = people.entry(&answer.label).or_default();
            own.insert(answer.matchup, category(&answer.winner));
        }
    }
    let list: Vec<_> = people.into_iter().collect();
    let mut found = Vec::new();
    for (at, (first, own)) in list.iter().enumerate() {
        for (second, other) in &list[at + 1..] {
            let common: Vec<(u8, u8)> = own
                .iter()
                .filter_map(|(matchup, value)| Some((*value, *other.get(matchup)?)))
                .collect();
            if common.len() >= COMMON {
                found.push((
                    (*first).to_owned(),
                    (*second).to_owned(),
                    common.len(),
                    cohen(&common),
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(order: i64) -> Answer {
        Answer {
            matchup: order,
            name: order.to_string(),
            track: Track::Identity,
            annotator: 1,
            label: "x".to_owned(),
            void: false,
            question: "identity".to_owned(),
            choice: ["left", "right"][order as usize % 2].to_owned(),
            winner: "a".to_owned(),
            swap: false,
            order,
            check: None,
            expected: None,
            repeat_of: None,
            practice: false,
            systems: [None, None],
            ms: Some(8000),
            created: 0,
            length: 5.0,
        }
    }

    fn flags(own: &[Answer]) -> Vec<String> {
        report(&own.iter().collect::<Vec<_>>()).flags
    }

    #[test]
    fn who_answers_well_has_no_flag() {
        let own: Vec<Answer> = (0..60).map(answer).collect();
        assert!(flags(&own).is_empty());
    }

    #[test]
    fn failed_checks_count_among_the_last_ten() {
        let mut own: Vec<Answer> = (0..12).map(answer).collect();
        for answer in &mut own {
            (answer.check, answer.expected) = (Some("degraded".into()), Some("a".into()));
        }
        own[0].winner = "b".into();
        own[1].winner = "tie".into();
        assert!(flags(&own).is_empty(), "both are longer ago");
        own[2].winner = "b".into();
        own[11].winner = "b".into();
        assert_eq!(flags(&own), ["failed 2 of the last 10 hidden checks"]);
    }

    #[test]
    fn repetitions_are_compared_with_the_first_answer() {
        let mut own: Vec<Answer> = (0..16).map(answer).collect();
        for at in 8..16 {
            (own[at].check, own[at].repeat_of) = (Some("repeat".into()), Some(at as i64 - 8));
            own[at].winner = if at < 12 { "a".into() } else { "b".into() };
        }
        assert_eq!(flags(&own), ["answered 4 of 8 repeated items as before"]);
        own[12].winner = "a".into();
        assert!(flags(&own).is_empty(), "5 of 8 are 62 %");
    }

    #[test]
    fn a_side_that_is_preferred_shows_after_forty_answers() {
        let lean = |count: i64, left: i64| -> Vec<Answer> {
            let side = |at: i64| if at < left { "left" } else { "right" };
            (0..count).map(|at| Answer { choice: side(at).into(), ..answer(at) }).collect()
        };
        assert!(flags(&lean(39, 39)).is_empty());
        assert!(flags(&lean(40, 26)).is_empty(), "65 % are still even");
        assert!(flags(&lean(40, 27)).is_empty(), "67 % of 40 may be chance");
        assert_eq!(flags(&lean(40, 30)), ["chose the left video in 30 of 40 answers"]);
    }

    #[test]
    fn answers_before_the_clip_was_seen_show() {
        let fast = |ms| (0..10).map(|at| Answer { ms: Some(ms), ..answer(at) }).collect::<Vec<_>>();
        assert_eq!(flags(&fast(5500)), ["answers after 1.1 times the length of a clip"]);
        assert!(flags(&fast(6000)).is_empty());
    }
}
