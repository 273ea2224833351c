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
#[derive(Clone, Debug)]
pub struct Line {
    section: String,
    name: String,
    verdict: Verdict,
    figures: String,
    /// More for programs.
    more: Value,
    /// The group that it is one of: it is in the table only where it is wrong.
    group: Option<String>,
    /// The part of its bound that is used up.
    share: f64,
}

impl Line {
    pub fn new(
        section: impl Into<String>,
        name: impl Into<String>,
        verdict: Verdict,
        figures: impl Into<String>,
    ) -> Self {
        let (section, name, figures) = (section.into(), name.into(), figures.into());
        Self { section, name, verdict, figures, more: Value::Null, group: None, share: 0.0 }
    }

    /// With more for programs.
    pub fn with(self, more: Value) -> Self {
        Self { more, ..self }
    }

    /// One of a group, which uses up a share of its bound.
    pub fn of(self, group: &str, share: f64) -> Self {
        Self { group: Some(group.to_owned()), share, ..self }
    }

    /// Whether the device was lost over it: codes stand in front of what went wrong.
    pub fn is_lost(&self) -> bool {
        self.verdict == Verdict::Wrong && self.figures.starts_with("[E0862]")
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line of another run of the same, which is none of its group.
    pub fn again(self, name: String) -> Self {
        Self { name, group: None, ..self }
    }

    pub fn json(&self) -> Value {
        json!({
            "section": self.section,
            "name": self.name,
            "verdict": self.verdict.word().to_lowercase(),
            "figures": self.figures,
            "more": self.more,
            "group": self.group,
            "share": self.share,
        })
    }

    /// What [`Self::json`] made; `None` for anything else.
    pub fn parse(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let verdict = text("verdict")?;
        let mut all = [Verdict::Right, Verdict::Wrong, Verdict::Left].into_iter();
        Some(Self {
            section: text("section")?,
            name: text("name")?,
            verdict: all.find(|own| own.word().to_lowercase() == verdict)?,
            figures: text("figures")?,
            more: value["more"].clone(),
            group: text("group"),
            share: value["share"].as_f64().unwrap_or(f64::INFINITY),
        })
    }
}

/// Checks that are summed up in one line.
#[derive(Debug)]
struct Group {
    section: String,
    name: String,
    /// How many there are.
    count: usize,
}

/// Everything that was found.
pub struct Report {
    versions: Vec<(String, Value)>,
    lines: Vec<Line>,
    groups: Vec<Group>,
    times: Vec<(String, Duration)>,
    /// Why checks are left out.
    left: &'static str,
}

impl Report {
    pub fn new(versions: Vec<(&'static str, Value)>) -> Self {
        let versions = versions.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let left = "for want of time";
        Self { versions, lines: Vec::new(), groups: Vec::new(), times: Vec::new(), left }
    }

    pub fn push(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Adds what the figures are of.
    pub fn version(&mut self, name: String, value: Value) {
        self.versions.retain(|(own, _)| *own != name);
        self.versions.push((name, value));
    }

    /// Says how many checks a group has.
    pub fn expects(&mut self, section: &str, name: String, count: usize) {
        let same = |own: &&mut Group| own.section == section && own.name == name;
        match self.groups.iter_mut().find(same) {
            Some(own) => own.count = count,
            None => self.groups.push(Group { section: section.to_owned(), name, count }),
        }
    }

    /// Says why the checks are left out that are not done.
    pub fn leaves(&mut self, why: &'static str) {
        self.left = why;
    }

    /// Says how long a section took.
    pub fn took(&mut self, section: &str, time: Duration) {
        self.times.push((section.to_owned(), time));
    }

    /// How many checks came out wrong.
    pub fn wrong(&self) -> usize {
        self.lines.iter().filter(|line| line.verdict == Verdict::Wrong).count()
    }

    /// How many checks were done.
    pub fn checks(&self) -> usize {
        self.lines.iter().filter(|line| line.verdict != Verdict::Left).count()
    }

    /// Whether there was nothing that could be checked.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.groups.iter().all(|group| group.count == 0)
    }

    /// What each group came to, as a line.
    fn sums(&self) -> Vec<Line> {
        self.groups.iter().filter(|group| group.count > 0).map(|group| self.sum(group)).collect()
    }

    fn sum(&self, group: &Group) -> Line {
        let own = |line: &&Line| {
            line.section == group.section && line.group.as_deref() == Some(&*group.name)
        };
        let (mut done, mut wrong, mut nearest) = (0, 0, None::<&Line>);
        for line in self.lines.iter().filter(own) {
            done += 1;
            match line.verdict {
                Verdict::Wrong => wrong += 1,
                _ if line.share > nearest.map_or(0.0, |line| line.share) => nearest = Some(line),
                _ => {}
            }
        }
        let verdict = match (done, wrong) {
            (0, _) => Verdict::Left,
            (_, 0) => Verdict::Right,
            _ => Verdict::Wrong,
        };
        let mut figures = format!("{} of {done} right", done - wrong);
        if let Some(line) = nearest {
            let short: String = line.name.chars().take(48).collect();
            let share = line.share * 100.0;
            figures.push_str(&format!("; nearest to its bound: {share:.0} % ({short})"));
        }
        match group.count.saturating_sub(done) {
            0 => {}
            left => figures.push_str(&format!("; {left} left out {}", self.left)),
        }
        Line::new(&*group.section, &*group.name, verdict, figures)
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        for (name, value) in &self.versions {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            out.push_str(&format!("{name:8}  {value}\n"));
        }
        let sums = self.sums();
        let details = self.lines.iter().filter(|line| line.group.is_some());
        let details: Vec<&Line> = details.filter(|line| line.verdict == Verdict::Wrong).collect();
        let whole: Vec<&Line> = self.lines.iter().filter(|line| line.group.is_none()).collect();
        // The last line and one for what is left out.
        let room = MOST.saturating_sub(self.versions.len() + 2);
        let own = room.saturating_sub(sums.len() + whole.len()).min(details.len());
        let dropped = details.len() - own;
        let mut kept: Vec<&Line> =
            details.into_iter().take(own).chain(&sums).chain(whole).collect();
        kept.truncate(room);
        let rows: Vec<Vec<String>> = kept
            .iter()
            .map(|line| {
                let Line { section, name, verdict, figures, .. } = line;
                vec![section.clone(), name.clone(), verdict.word().to_owned(), figures.clone()]
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
        let versions: serde_json::Map<String, Value> = self.versions.iter().cloned().collect();
        let times: serde_json::Map<String, Value> = self
            .times
            .iter()
            .map(|(name, time)| (name.clone(), json!(time.as_secs_f64())))
            .collect();
        let lines: Vec<Value> = self.lines.iter().map(Line::json).collect();
        json!({
            "versions": versions,
            "checks": self.checks(),
            "wrong": self.wrong(),
            "seconds": times,
            "lines": lines,
            "sums": self.sums().iter().map(Line::json).collect::<Vec<_>>(),
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
        report.expects("ops", "op table".to_owned(), 230);
        for at in 0..200 {
            let verdict = if at % 2 == 0 { Verdict::Wrong } else { Verdict::Right };
            let line = Line::new("ops", format!("case {at}"), verdict, "");
            report.push(line.of("op table", f64::from(at) / 400.0));
        }
        report.push(Line::new("speed", "product", Verdict::Left, "no time"));
        report.took("ops", Duration::from_secs(3));
        let text = report.text();
        assert!(text.lines().count() <= MOST, "{text}");
        let sum =
            "100 of 200 right; nearest to its bound: 50 % (case 199); 30 left out for want of time";
        assert!(text.contains(sum) && text.contains("more that are WRONG"), "{text}");
        assert!(text.ends_with("200 checks, 100 wrong; ops 3 s\n"), "{text}");
        assert!(!text.contains("case 1 "), "details that are right are not shown");
        let json = report.json();
        let count = |key: &str| json[key].as_array().unwrap().len();
        assert_eq!((json["wrong"].as_u64(), count("lines"), count("sums")), (Some(100), 201, 1));
        assert_eq!(json["versions"]["seed"], 7);
        report.leaves("after the interruption");
        assert!(report.text().contains("30 left out after the interruption"));
    }

    #[test]
    fn lines_pass_as_json() {
        let line = Line::new("kernels", "dit linear", Verdict::Wrong, "[E0862] cuda:0 was lost");
        let line = line.of("dit linear", f64::INFINITY).with(json!({ "seed": 3 }));
        let again = Line::parse(&line.json()).unwrap();
        assert_eq!(again.json(), line.json());
        assert!(again.is_lost() && again.share.is_infinite());
        assert!(Line::parse(&json!({ "section": "ops" })).is_none());
    }
}
