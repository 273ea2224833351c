//! What a check found: lines for people, at most 60 of them, and everything for programs.

use crate::output;
use anyid_runtime::Error;
use serde_json::{Value, json};
use std::time::Duration;

/// Most lines of the table.
const MOST: usize = 60;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong,
    /// Not done, and why is said.
    Left,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong => "WRONG",
            Self::Left => "left out",
        }
    }
}

/// One finding.
pub struct Line {
    section: &'static str,
    name: String,
    verdict: Verdict,
    figures: String,
    /// More for programs.
    more: Value,
    /// How many checks it stands for.
    checks: usize,
    /// Whether it is too small a matter for the table unless it is wrong.
    detail: bool,
}

impl Line {
    pub fn new(
        section: &'static str,
        name: impl Into<String>,
        verdict: Verdict,
        figures: impl Into<String>,
    ) -> Self {
        let (name, figures) = (name.into(), figures.into());
        Self { section, name, verdict, figures, more: Value::Null, checks: 1, detail: false }
    }

    /// With more for programs.
    pub fn with(self, more: Value) -> Self {
        Self { more, ..self }
    }

    /// One of many: in the table only where it is wrong.
    pub fn detail(self) -> Self {
        Self { detail: true, ..self }
    }

    /// A sum over others, which is no check of its own.
    pub fn sum(self) -> Self {
        Self { checks: 0, ..self }
    }
}

/// Everything that was found.
pub struct Report {
    versions: Vec<(&'static str, Value)>,
    lines: Vec<Line>,
    times: Vec<(&'static str, Duration)>,
}

impl Report {
    pub fn new(versions: Vec<(&'static str, Value)>) -> Self {
        Self { versions, lines: Vec::new(), times: Vec::new() }
    }

    pub fn push(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Adds what the figures are of.
    pub fn version(&mut self, name: &'static str, value: Value) {
        self.versions.push((name, value));
    }

    /// Says how long a section took.
    pub fn took(&mut self, section: &'static str, time: Duration) {
        self.times.push((section, time));
    }

    /// How many checks came out wrong.
    pub fn wrong(&self) -> usize {
        let wrong = self.lines.iter().filter(|line| line.verdict == Verdict::Wrong);
        wrong.map(|line| line.checks).sum()
    }

    /// How many checks were done.
    pub fn checks(&self) -> usize {
        let done = self.lines.iter().filter(|line| line.verdict != Verdict::Left);
        done.map(|line| line.checks).sum()
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        for (name, value) in &self.versions {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            out.push_str(&format!("{name:8}  {value}\n"));
        }
        let shown = self.lines.iter().filter(|line| !line.detail || line.verdict == Verdict::Wrong);
        let shown: Vec<&Line> = shown.collect();
        // The last line and one for what is left out.
        let room = MOST.saturating_sub(self.versions.len() + 2);
        let (mut kept, mut dropped) = (Vec::new(), 0);
        let mut details = shown.len().saturating_sub(room);
        for line in shown {
            if line.detail && details > 0 {
                (details, dropped) = (details - 1, dropped + 1);
            } else {
                kept.push(line);
            }
        }
        kept.truncate(room);
        let rows: Vec<Vec<String>> = kept
            .iter()
            .map(|line| {
                let Line { section, name, verdict, figures, .. } = line;
                vec![
                    (*section).to_owned(),
                    name.clone(),
                    verdict.word().to_owned(),
                    figures.clone(),
                ]
            })
            .collect();
        out.push_str(&output::table(&rows));
        if dropped > 0 {
            out.push_str(&format!("{dropped} more that are WRONG are in the file of --json\n"));
        }
        let times: Vec<String> = self
            .times
            .iter()
            .map(|(name, time)| format!("{name} {:.0} s", time.as_secs_f64()))
            .collect();
        let (done, wrong) = (self.checks(), self.wrong());
        out.push_str(&format!("{done} checks, {wrong} wrong; {}\n", times.join(", ")));
        out
    }

    pub fn json(&self) -> Value {
        let line = |line: &Line| {
            json!({
                "section": line.section,
                "name": line.name,
                "verdict": line.verdict.word().to_lowercase(),
                "figures": line.figures,
                "more": line.more,
            })
        };
        let named = |(name, value): &(&str, Value)| ((*name).to_owned(), value.clone());
        let versions: serde_json::Map<String, Value> = self.versions.iter().map(named).collect();
        let times: serde_json::Map<String, Value> = self
            .times
            .iter()
            .map(|(name, time)| ((*name).to_owned(), json!(time.as_secs_f64())))
            .collect();
        json!({
            "versions": versions,
            "checks": self.checks(),
            "wrong": self.wrong(),
            "seconds": times,
            "lines": self.lines.iter().map(line).collect::<Vec<_>>(),
        })
    }
}

/// An error in one line.
pub fn short(error: &Error) -> String {
    let place = error.place().map_or_else(String::new, |place| format!(" ({place})"));
    let cause =
        std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
    format!("[{}] {}{place}{cause}", error.code(), error.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_sixty_lines_at_most_and_keeps_the_sums() {
        let mut report = Report::new(vec![("device", json!("cuda:0")), ("seed", json!(7))]);
        for at in 0..200 {
            let verdict = if at % 2 == 0 { Verdict::Wrong } else { Verdict::Right };
            report.push(Line::new("ops", format!("case {at}"), verdict, "").detail());
        }
        report.push(Line::new("ops", "all", Verdict::Wrong, "100 of 200").sum());
        report.push(Line::new("speed", "product", Verdict::Left, "no time"));
        report.took("ops", Duration::from_secs(3));
        let text = report.text();
        assert!(text.lines().count() <= MOST, "{text}");
        assert!(text.contains("100 of 200") && text.contains("more that are WRONG"), "{text}");
        assert!(text.ends_with("200 checks, 100 wrong; ops 3 s\n"), "{text}");
        assert!(!text.contains("case 1 "), "details that are right are not shown");
        let json = report.json();
        assert_eq!(
            (json["wrong"].as_u64(), json["lines"].as_array().unwrap().len()),
            (Some(100), 202)
        );
        assert_eq!(json["versions"]["seed"], 7);
    }
}
