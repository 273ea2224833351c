//! The answers that count now, as plain values: not superseded, not taken back.

use crate::Track;
use crate::project::{Project, failed};
use crate::rule::Counts;
use anyid_files::Result;
use std::collections::BTreeMap;

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub matchup: i64,
    pub name: String,
    pub track: Track,
    pub annotator: i64,
    pub label: String,
    /// Whether answers of this person are left out.
    pub void: bool,
    pub question: String,
    pub choice: String,
    /// `a`, `b` or `tie`.
    pub winner: String,
    pub swap: bool,
    pub order: i64,
    pub check: Option<String>,
    pub expected: Option<String>,
    pub repeat_of: Option<i64>,
    pub practice: bool,
    pub systems: [Option<String>; 2],
    pub ms: Option<i64>,
    pub created: i64,
    /// Seconds that a video takes.
    pub length: f64,
}

impl Answer {
    /// Whether it says something about a matchup: no check, no practice, of somebody who counts.
    pub fn counts(&self) -> bool {
        self.check.is_none() && !self.practice && !self.void
    }
}

/// All answers, in the order in which they were given.
///
/// # Errors
/// E1603.
pub fn all(project: &Project) -> Result<Vec<Answer>> {
    let database = project.database();
    let mut list = database
        .prepare(
            "SELECT m.id, m.name, s.track, p.id, p.label, p.void, v.question, v.choice, v.winner,
             s.swap, s.order_no, m.check_kind, m.expected, m.repeat_of, m.split, m.system_a,
             m.system_b, v.ms_to_vote, v.created, a.frames, a.fps
             FROM vote v JOIN assignment s ON s.id = v.assignment_id
             JOIN matchup m ON m.id = s.matchup_id
             JOIN asset a ON a.id = m.asset_a JOIN annotator p ON p.id = s.annotator_id
             WHERE v.superseded_by IS NULL AND v.choice <> 'undo' AND s.state = 'done'
             ORDER BY v.id",
        )
        .map_err(failed)?;
    let read = |row: &rusqlite::Row<'_>| {
        let track: String = row.get(2)?;
        let (frames, fps): (f64, Option<f64>) = (row.get::<_, i64>(19)? as f64, row.get(20)?);
        Ok(Answer {
            matchup: row.get(0)?,
            name: row.get(1)?,
            track: Track::named(&track).unwrap_or(Track::Study),
            annotator: row.get(3)?,
            label: row.get(4)?,
            void: row.get(5)?,
            question: row.get(6)?,
            choice: row.get(7)?,
            winner: row.get(8)?,
            swap: row.get(9)?,
            order: row.get(10)?,
            check: row.get(11)?,
            expected: row.get(12)?,
            repeat_of: row.get(13)?,
            practice: row.get::<_, Option<String>>(14)?.is_some_and(|split| split == "practice"),
            systems: [row.get(15)?, row.get(16)?],
            ms: row.get(17)?,
            created: row.get(18)?,
            length: frames / fps.filter(|fps| *fps > 0.0).unwrap_or(24.0),
        })
    };
    list.query_map([], read).and_then(Iterator::collect).map_err(failed)
}

/// The counts of each matchup in both tracks of annotation.
pub fn counts(answers: &[Answer]) -> BTreeMap<i64, [Counts; 2]> {
    let mut counts: BTreeMap<i64, [Counts; 2]> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.counts()) {
        let at = match answer.track {
            Track::Identity => 0,
            Track::Prompt => 1,
            Track::Study => continue,
        };
        counts.entry(answer.matchup).or_default()[at].add(&answer.winner);
    }
    counts
}

/// What people answered on each matchup, as categories.
pub fn units(answers: &[Answer], track: Track, question: Option<&str>) -> Vec<Vec<u8>> {
    let mut units: BTreeMap<i64, Vec<u8>> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.counts() && answer.track == track) {
        if question.is_none_or(|question| question == answer.question) {
            units.entry(answer.matchup).or_default().push(category(&answer.winner));
        }
    }
    units.into_values().collect()
}

/// A winner as a category.
pub fn category(winner: &str) -> u8 {
    match winner {
        "a" => 0,
        "b" => 1,
        _ => 2,
    }
}
