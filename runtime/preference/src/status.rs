//! How far a project is: matchups, decisions, pairs, and what that leads to.

use crate::answers;
use crate::project::{Kind, Project, failed};
use crate::rule::{Majority, Side};
use anyid_files::Result;
use serde_json::{Value, json};

/// Numbers of a project of annotation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Status {
    /// Matchups that people are asked about.
    pub matchups: usize,
    /// Pairs of `jobs.jsonl` that are not there yet.
    pub waiting: usize,
    /// Matchups with all their votes, in each track.
    pub judged: [usize; 2],
    /// Matchups that are decided, in each track.
    pub decided: [usize; 2],
    /// Decided in both: by the winner of identity and of prompt, A before B.
    pub table: [[usize; 2]; 2],
    /// Valid pairs.
    pub valid: usize,
    /// Matchups with all votes in both tracks.
    pub complete: usize,
    /// Valid pairs among those, as a share.
    pub yielded: Option<f64>,
    /// Matchups that would reach the target at this share.
    pub projected: Option<usize>,
    /// The target.
    pub target: u32,
}

impl Project {
    /// The rule by which votes decide.
    pub fn majority(&self) -> Majority {
        if self.settings.unanimous { Majority::Unanimous } else { Majority::TwoThirds }
    }

    /// Where annotation stands.
    ///
    /// # Errors
    /// E1603.
    pub fn status(&self) -> Result<Status> {
        let counts = answers::counts(&answers::all(self)?);
        let number = |sql: &str| -> Result<usize> {
            let count = self.database().query_row(sql, [], |row| row.get::<_, i64>(0));
            count.map(|count| count as usize).map_err(failed)
        };
        let mut status = Status {
            matchups: number(
                "SELECT COUNT(*) FROM matchup WHERE check_kind IS NULL AND split IS NULL",
            )?,
            waiting: number(
                "SELECT COUNT(*) FROM planned WHERE name NOT IN (SELECT name FROM matchup)",
            )?,
            target: self.settings.target,
            ..Status::default()
        };
        let majority = self.majority();
        let mut valid_of_complete = 0;
        for tracks in counts.values() {
            let full = tracks.map(|counts| counts.total() >= self.settings.votes);
            let winners = tracks.map(|counts| majority.winner(counts));
            for at in 0..2 {
                status.judged[at] += usize::from(full[at]);
                status.decided[at] += usize::from(winners[at].is_some());
            }
            let valid = majority.chosen(tracks[0], tracks[1]).is_some();
            status.valid += usize::from(valid);
            if let [Some(identity), Some(prompt)] = winners {
                status.table[usize::from(identity == Side::B)][usize::from(prompt == Side::B)] += 1;
            }
            if full == [true, true] {
                status.complete += 1;
                valid_of_complete += usize::from(valid);
            }
        }
        if status.complete > 0 {
            let share = valid_of_complete as f64 / status.complete as f64;
            status.yielded = Some(share);
            if share > 0.0 {
                status.projected = Some((f64::from(status.target) / share).ceil() as usize);
            }
        }
        Ok(status)
    }

    /// Everything that an overseer looks at, for pages and programs.
    ///
    /// # Errors
    /// E1603.
    pub fn overview(&self) -> Result<Value> {
        let people: Vec<Value> =
            crate::quality::reports(self)?.iter().map(crate::quality::Report::json).collect();
        let agreement: Vec<Value> =
            crate::quality::agreement(self)?.iter().map(crate::quality::Agreement::json).collect();
        let withdrawn: i64 = {
            let read = "SELECT withdrawn FROM project";
            self.database().query_row(read, [], |row| row.get(0)).map_err(failed)?
        };
        let mut value = json!({
            "kind": self.kind.name(), "name": self.name, "paused": self.is_paused()?,
            "people": people, "agreement": agreement, "withdrawn": withdrawn,
        });
        if self.kind == Kind::Annotate {
            let status = self.status()?;
            value["status"] = json!({
                "matchups": status.matchups, "waiting": status.waiting, "judged": status.judged,
                "decided": status.decided, "table": status.table, "valid": status.valid,
                "complete": status.complete, "yield": status.yielded,
                "projected": status.projected, "target": status.target,
                "votes_per_track": self.settings.votes, "rule": self.majority().name(),
            });
            value["changed"] = json!(self.changed_exports()?);
        }
        Ok(value)
    }

    /// Matchups on which people differ, the most contested first, with the tokens of their media.
    ///
    /// # Errors
    /// E1603.
    pub fn contested(&self, most: usize) -> Result<Vec<Value>> {
        let answers = answers::all(self)?;
        let mut list: Vec<(usize, i64)> = Vec::new();
        let mut by: std::collections::BTreeMap<i64, Vec<&answers::Answer>> = Default::default();
        for answer in answers.iter().filter(|answer| answer.counts()) {
            by.entry(answer.matchup).or_default().push(answer);
        }
        for (matchup, own) in &by {
            let pairs = own.iter().enumerate().flat_map(|(at, a)| {
                own[at + 1..]
                    .iter()
                    .filter(move |b| a.question == b.question && a.winner != b.winner)
            });
            let unequal = pairs.count();
            if unequal > 0 {
                list.push((unequal, *matchup));
            }
        }
        list.sort_by_key(|(unequal, matchup)| (std::cmp::Reverse(*unequal), *matchup));
        list.truncate(most);
        list.into_iter().map(|(_, matchup)| self.look(matchup, &by[&matchup])).collect()
    }

    /// One matchup for an overseer, by its name.
    ///
    /// # Errors
    /// E1612 where there is none of this name, E1603.
    pub fn matchup(&self, name: &str) -> Result<Value> {
        use rusqlite::OptionalExtension;
        let found = "SELECT id FROM matchup WHERE name = ?";
        let found: Option<i64> = self
            .database()
            .query_row(found, [name], |row| row.get(0))
            .optional()
            .map_err(failed)?;
        let id = found.ok_or_else(|| {
            anyid_files::Error::input("E1612", "there is no matchup of this name")
        })?;
        let answers = answers::all(self)?;
        let own: Vec<&answers::Answer> = answers.iter().filter(|a| a.matchup == id).collect();
        self.look(id, &own)
    }

    fn look(&self, matchup: i64, own: &[&answers::Answer]) -> Result<Value> {
        let votes: Vec<Value> = own
            .iter()
            .map(|answer| {
                json!({ "who": answer.label, "question": answer.question,
                        "track": answer.track.name(), "winner": answer.winner })
            })
            .collect();
        self.database()
            .query_row(
                "SELECT m.name, i.prompt, i.preserve_json, a.public_token, b.public_token
                 FROM matchup m JOIN input_set i ON i.id = m.input_set_id
                 JOIN asset a ON a.id = m.asset_a JOIN asset b ON b.id = m.asset_b WHERE m.id = ?",
                [matchup],
                |row| {
                    Ok(json!({
                        "name": row.get::<_, String>(0)?, "prompt": row.get::<_, String>(1)?,
                        "media": [row.get::<_, String>(3)?, row.get::<_, String>(4)?],
                        "votes": votes,
                    }))
                },
            )
            .map_err(failed)
    }
}
