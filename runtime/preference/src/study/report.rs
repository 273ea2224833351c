//! Rates at which our system wins, with intervals that know that people give many answers each
//! (annotate.md §7.1).

use super::chart;
use crate::QUESTIONS;
use crate::answers::{self, Answer};
use crate::project::{Project, failed};
use crate::rates::{self, bradley_terry, holm, nested, sign_test, wilson};
use crate::table::line;
use anyid_files::Result as Outcome;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// One question about one other system, or all of them together.
#[derive(Clone, Debug)]
pub struct Row {
    /// The question.
    pub question: &'static str,
    /// The other system; `None` for all.
    pub other: Option<String>,
    /// Answers for ours, for the other, and for neither.
    pub wins: u64,
    /// Answers for the other.
    pub losses: u64,
    /// Answers for neither.
    pub ties: u64,
    /// The rate of winning; ties are half a win.
    pub rate: f64,
    /// Wilson's interval, as if all answers were independent.
    pub wilson: [f64; 2],
    /// The headline interval: people and their answers drawn with replacement.
    pub nested: [f64; 2],
    /// The exact sign test, and after Holm's correction over all rows of single systems.
    pub p: f64,
    /// After the correction; of all systems together it is not one of the family.
    pub holm: Option<f64>,
}

/// A system with its strength and interval.
pub type Strength = (String, f64, [f64; 2]);

/// What a study came to.
#[derive(Clone, Debug)]
pub struct Result {
    /// Our system.
    pub ours: String,
    /// People whose answers count, and those who had theirs deleted.
    pub people: usize,
    /// Those who withdrew.
    pub withdrawn: i64,
    /// All questions, each with every other system and with all of them.
    pub rows: Vec<Row>,
    /// Strengths after Bradley and Terry, for each question, where there are several systems.
    pub strengths: Vec<(&'static str, Vec<Strength>)>,
}

/// Computes the results of a study.
///
/// # Errors
/// E1606 where nobody has answered, E1603.
pub fn report(project: &Project, resamplings: usize) -> Outcome<Result> {
    let answers: Vec<Answer> =
        answers::all(project)?.into_iter().filter(|answer| answer.counts()).collect();
    let withdrawn = {
        let sql = "SELECT withdrawn FROM project";
        project.database().query_row(sql, [], |row| row.get(0)).map_err(failed)?
    };
    let named = |answer: &Answer| answer.systems[0].clone();
    let Some(ours) = answers.iter().find_map(named) else {
        return Err(anyid_files::Error::input("E1606", "nobody has answered yet")
            .at(project.folder().display())
            .help("send out the links, and report when people have taken part"));
    };
    let others: BTreeSet<String> =
        answers.iter().filter_map(|answer| answer.systems[1].clone()).collect();
    let people: BTreeSet<i64> = answers.iter().map(|answer| answer.annotator).collect();
    let mut rows = Vec::new();
    for question in QUESTIONS {
        let own: Vec<&Answer> =
            answers.iter().filter(|answer| answer.question == question).collect();
        if own.is_empty() {
            continue;
        }
        for other in others.iter().map(Some).chain([None]) {
            let of =
                |answer: &&&Answer| other.is_none_or(|o| answer.systems[1].as_ref() == Some(o));
            let part: Vec<&Answer> = own.iter().filter(of).copied().collect();
            if !part.is_empty() {
                rows.push(row(question, other, &part, resamplings));
            }
        }
    }
    let single: Vec<usize> = (0..rows.len()).filter(|at| rows[*at].other.is_some()).collect();
    let corrected = holm(&single.iter().map(|at| rows[*at].p).collect::<Vec<f64>>());
    for (at, value) in single.into_iter().zip(corrected) {
        rows[at].holm = Some(value);
    }
    let mut strengths = Vec::new();
    if others.len() > 1 {
        let names: Vec<String> = [ours.clone()].into_iter().chain(others).collect();
        for question in QUESTIONS {
            strengths
                .extend(strength(&answers, question, &names, resamplings).map(|s| (question, s)));
        }
    }
    Ok(Result { ours, people: people.len(), withdrawn, rows, strengths })
}

/// What an answer is worth for ours.
fn score(answer: &Answer) -> f64 {
    match answer.winner.as_str() {
        "a" => 1.0,
        "b" => 0.0,
        _ => 0.5,
    }
}

fn row(
    question: &'static str,
    other: Option<&String>,
    part: &[&Answer],
    resamplings: usize,
) -> Row {
    let count = |winner: &str| part.iter().filter(|a| a.winner == winner).count() as u64;
    let (wins, losses, ties) = (count("a"), count("b"), count("tie"));
    let mut people: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for answer in part {
        people.entry(answer.annotator).or_default().push(score(answer));
    }
    let scores: Vec<Vec<f64>> = people.into_values().collect();
    let all = part.len() as f64;
    let worth = wins as f64 + 0.5 * ties as f64;
    let seed = format!("{question}/{}", other.map_or("", String::as_str));
    Row {
        question,
        other: other.cloned(),
        wins,
        losses,
        ties,
        rate: worth / all,
        wilson: wilson(worth, all),
        nested: nested(&scores, resamplings, &seed).unwrap_or([0.0, 1.0]),
        p: sign_test(wins, wins + losses),
        holm: None,
    }
}

/// Strengths of all systems on one question, with intervals over people.
fn strength(
    answers: &[Answer],
    question: &str,
    names: &[String],
    resamplings: usize,
) -> Option<Vec<Strength>> {
    let mut people: BTreeMap<i64, Vec<(usize, f64)>> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.question == question) {
        let other = names.iter().position(|name| Some(name) == answer.systems[1].as_ref())?;
        people.entry(answer.annotator).or_default().push((other, score(answer)));
    }
    let people: Vec<Vec<(usize, f64)>> = people.into_values().collect();
    let of = |drawn: &[usize]| {
        let mut wins = vec![vec![0.0; names.len()]; names.len()];
        for (other, score) in drawn.iter().flat_map(|at| &people[*at]) {
            wins[0][*other] += score;
            wins[*other][0] += 1.0 - score;
        }
        bradley_terry(&wins)
    };
    let everybody: Vec<usize> = (0..people.len()).collect();
    let strengths = of(&everybody)?;
    let mut draws = crate::random::Draws::new(b"0", "strength", question);
    let resampled: Vec<Vec<f64>> = (0..resamplings.min(1000))
        .filter_map(|_| {
            let drawn: Vec<usize> = people.iter().map(|_| draws.below(people.len())).collect();
            of(&drawn)
        })
        .collect();
    let interval = |at: usize| {
        let mut values: Vec<f64> = resampled.iter().map(|strengths| strengths[at]).collect();
        if values.is_empty() { [0.0, 1.0] } else { rates::middle(&mut values) }
    };
    Some((0..names.len()).map(|at| (names[at].clone(), strengths[at], interval(at))).collect())
}

/// A question in words.
pub(super) fn title(question: &str) -> &'static str {
    match question {
        "identity" => "Identity fidelity",
        "element" => "Element consistency",
        "prompt" => "Prompt controllability",
        _ => "Visual quality",
    }
}

fn percent(value: f64) -> String {
    format!("{:.1}", 100.0 * value)
}

impl Result {
    /// The bars of the paper's figure, with intervals: one for each question and system.
    pub fn svg(&self) -> String {
        chart::bars(self)
    }

    /// The table as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "# {} against others\n\n{} people; {} withdrew and had their answers deleted. Rates in \
             percent with 95 % intervals; a tie is half a win.\n\n\
             | question | against | wins | losses | ties | rate | interval | Wilson | p | Holm |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
            self.ours, self.people, self.withdrawn
        );
        for row in &self.rows {
            let holm = row.holm.map_or("–".to_owned(), |p| format!("{p:.2e}"));
            text.push_str(&format!(
                "| {} | {} | {} | {} | {} | {} | {} to {} | {} to {} | {:.2e} | {holm} |\n",
                title(row.question),
                row.other.as_deref().unwrap_or("all").replace('|', "\\|"),
                row.wins,
                row.losses,
                row.ties,
                percent(row.rate),
                percent(row.nested[0]),
                percent(row.nested[1]),
                percent(row.wilson[0]),
                percent(row.wilson[1]),
                row.p,
            ));
        }
        text.push_str(
            "\nThe interval draws people and each one's answers with replacement; Wilson's takes all \
             answers as independent. p is of the exact sign test on both sides.\n",
        );
        for (question, strengths) in &self.strengths {
            text.push_str(&format!(
                "\n## {}: strengths after Bradley and Terry\n\n| system | strength | interval |\n\
                 |---|---|---|\n",
                title(question)
            ));
            for (name, value, [low, high]) in strengths {
                let name = name.replace('|', "\\|");
                text.push_str(&format!("| {name} | {value:.3} | {low:.3} to {high:.3} |\n"));
            }
        }
        text
    }

    /// The table with commas.
    pub fn csv(&self) -> String {
        let mut text = line(&[
            "question",
            "against",
            "wins",
            "losses",
            "ties",
            "rate",
            "low",
            "high",
            "wilson_low",
            "wilson_high",
            "p",
            "holm",
        ]);
        for row in &self.rows {
            text.push_str(&line(&[
                row.question.to_owned(),
                row.other.clone().unwrap_or_else(|| "all".to_owned()),
                row.wins.to_string(),
                row.losses.to_string(),
                row.ties.to_string(),
                format!("{:.6}", row.rate),
                format!("{:.6}", row.nested[0]),
                format!("{:.6}", row.nested[1]),
                format!("{:.6}", row.wilson[0]),
                format!("{:.6}", row.wilson[1]),
                format!("{:.6e}", row.p),
                row.holm.map_or_else(String::new, |p| format!("{p:.6e}")),
            ]));
        }
        text
    }

    /// Everything for programs.
    pub fn json(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "question": row.question, "against": row.other, "wins": row.wins,
                "losses": row.losses, "ties": row.ties, "rate": row.rate, "interval": row.nested,
                "wilson": row.wilson, "p": row.p, "holm": row.holm,
            })
        };
        let strength = |(question, list): &(&str, Vec<Strength>)| {
            let list = list.iter().map(|(name, value, interval)| {
                json!({ "system": name, "strength": value, "interval": interval })
            });
            json!({ "question": question, "systems": list.collect::<Vec<_>>() })
        };
        json!({
            "ours": self.ours, "people": self.people, "withdrawn": self.withdrawn,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "strengths": self.strengths.iter().map(strength).collect::<Vec<_>>(),
        })
    }
}
