//! Answers: they are added, never altered. Who answers again or takes an answer back adds a row, and
//! the earlier one says which row took its place.

use crate::people::Person;
use crate::project::{Kind, Project, failed, log, now};
use crate::{Track, random};
use anyid_files::{Error, Result};
use rusqlite::{Connection, OptionalExtension};
use serde_json::{Value, json};

/// Longest data of an event, in bytes.
const EVENT_BYTES: usize = 1024;
/// What pages tell of.
const EVENTS: [&str; 9] =
    ["play", "pause", "seek", "speed", "zoom", "enlarge", "focus", "flag", "failed"];
/// Why an item is skipped.
pub const REASONS: [&str; 3] = ["broken", "unsafe", "other"];

/// Answers to one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Ballot {
    /// The token of the assignment.
    pub item: String,
    /// A name that the page gives to this attempt: sent again, it is not counted twice.
    pub nonce: String,
    /// Each question with its answer.
    pub answers: Vec<(String, String)>,
    /// `ms`, `plays_left`, `plays_right`, `watched_left`, `watched_right`.
    pub timing: Value,
}

/// What became of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// They are kept.
    Kept,
    /// They were kept before.
    Again,
}

/// An assignment of somebody.
struct Lent {
    id: i64,
    matchup: i64,
    track: Track,
    swap: bool,
    state: String,
    keeps: bool,
}

fn gone(what: &str) -> Error {
    Error::input("E1615", what).help("go on with the item that is open now")
}

/// The winner of a choice.
pub(crate) fn winner(choice: &str, swap: bool) -> Option<&'static str> {
    match (choice, swap) {
        ("left", false) | ("right", true) => Some("a"),
        ("right", false) | ("left", true) => Some("b"),
        ("tie", _) => Some("tie"),
        _ => None,
    }
}

impl Project {
    fn lent(&self, work: &Connection, person: &Person, token: &str) -> Result<Lent> {
        let found = work
            .prepare_cached(
                "SELECT s.id, s.matchup_id, s.track, s.swap, s.state, i.preserve_json
                 FROM assignment s JOIN matchup m ON m.id = s.matchup_id
                 JOIN input_set i ON i.id = m.input_set_id
                 WHERE s.token = ? AND s.annotator_id = ?",
            )
            .and_then(|mut found| {
                found
                    .query_row((token, person.id), |row| {
                        let track: String = row.get(2)?;
                        Ok(Lent {
                            id: row.get(0)?,
                            matchup: row.get(1)?,
                            track: Track::named(&track).unwrap_or(Track::Study),
                            swap: row.get(3)?,
                            state: row.get(4)?,
                            keeps: row.get::<_, String>(5)? != "[]",
                        })
                    })
                    .optional()
            })
            .map_err(failed)?;
        found.ok_or_else(|| gone("this item is not yours"))
    }

    /// Refuses what can no longer be answered.
    fn still(&self, work: &Connection, lent: &Lent) -> Result<()> {
        match lent.state.as_str() {
            "open" | "shown" => Ok(()),
            "void" => {
                // The lease ran out; if nobody has taken the place, the answer is as good as ever.
                let taken: u32 = work
                    .query_row(
                        "SELECT COUNT(*) FROM assignment s JOIN annotator p
                         ON p.id = s.annotator_id WHERE s.track = ? AND s.matchup_id = ?
                         AND s.state IN ('done','shown','open') AND p.void = 0",
                        (lent.track.name(), lent.matchup),
                        |row| row.get(0),
                    )
                    .map_err(failed)?;
                match taken < self.settings.votes {
                    true => Ok(()),
                    false => Err(gone("this item went to somebody else in the meantime")),
                }
            }
            "done" => Err(gone("this item is answered already: go back to change the answer")),
            _ => Err(gone("this item was skipped")),
        }
    }

    /// Keeps answers; when this returns, they are on the disk.
    ///
    /// # Errors
    /// E1615 where the item is gone, E1612 for answers that are none, E1603.
    pub fn vote(&self, person: &Person, ballot: &Ballot) -> Result<Told> {
        let unfit = |what: String| Error::input("E1612", what).help("load the page again");
        if !(8..=64).contains(&ballot.nonce.len()) || !ballot.nonce.is_ascii() {
            return Err(unfit("\"nonce\" has 8 to 64 letters and digits".to_owned()));
        }
        self.change(|work| {
            let lent = self.lent(work, person, &ballot.item)?;
            let again = work
                .prepare_cached("SELECT 1 FROM vote WHERE assignment_id = ? AND nonce = ? LIMIT 1")
                .and_then(|mut again| {
                    again.query_row((lent.id, &ballot.nonce), |_| Ok(())).optional()
                })
                .map_err(failed)?;
            if again.is_some() {
                return Ok(Told::Again);
            }
            self.still(work, &lent)?;
            let questions = lent.track.questions(lent.keeps);
            let mut asked: Vec<&str> =
                ballot.answers.iter().map(|(question, _)| question.as_str()).collect();
            asked.sort_unstable();
            let mut expected = questions.clone();
            expected.sort_unstable();
            if asked != expected {
                let what = format!("the questions to answer are: {}", questions.join(", "));
                return Err(unfit(what));
            }
            for (question, choice) in &ballot.answers {
                let Some(winner) = winner(choice, lent.swap) else {
                    return Err(unfit("an answer is left, right or tie".to_owned()));
                };
                if winner == "tie" && !self.settings.tie {
                    return Err(unfit("here, one of the two has to be chosen".to_owned()));
                }
                self.put(work, lent.id, question, choice, Some(winner), ballot)?;
            }
            work.prepare_cached("UPDATE assignment SET state = 'done', done_at = ? WHERE id = ?")
                .and_then(|mut done| done.execute((now(), lent.id)))
                .map_err(failed)?;
            Ok(Told::Kept)
        })
    }

    /// Adds a row, which takes the place of the one before it.
    fn put(
        &self,
        work: &Connection,
        assignment: i64,
        question: &str,
        choice: &str,
        winner: Option<&str>,
        ballot: &Ballot,
    ) -> Result<()> {
        let whole = |key: &str| ballot.timing[key].as_u64().map(|v| v.min(1 << 40) as i64);
        let real = |key: &str| ballot.timing[key].as_f64().filter(|v| (0.0..1e9).contains(v));
        work.prepare_cached(
            "INSERT INTO vote(assignment_id, question, choice, winner, ms_to_vote, plays_left,
             plays_right, watched_left, watched_right, created, nonce)
             VALUES(?,?,?,?,?,?,?,?,?,?,?)",
        )
        .and_then(|mut add| {
            add.execute((
                assignment,
                question,
                choice,
                winner,
                whole("ms"),
                whole("plays_left"),
                whole("plays_right"),
                real("watched_left"),
                real("watched_right"),
                now(),
                &ballot.nonce,
            ))
        })
        .map_err(failed)?;
        let id = work.last_insert_rowid();
        work.prepare_cached(
            "UPDATE vote SET superseded_by = ?1 WHERE assignment_id = ?2 AND question = ?3
             AND superseded_by IS NULL AND id <> ?1",
        )
        .and_then(|mut supersede| supersede.execute((id, assignment, question)))
        .map_err(failed)?;
        Ok(())
    }

    /// Opens the item before the one that is open; whether there was one.
    ///
    /// # Errors
    /// E1603.
    pub fn undo(&self, person: &Person, track: Track) -> Result<bool> {
        let lease = now() + 1000 * i64::from(self.settings.lease);
        self.change(|work| {
            let before: Option<(i64, String)> = work
                .query_row(
                    "SELECT id, state FROM assignment WHERE annotator_id = ?1 AND track = ?2
                     AND state IN ('done','skipped') AND order_no < COALESCE(
                       (SELECT MIN(order_no) FROM assignment WHERE annotator_id = ?1
                        AND track = ?2 AND state IN ('open','shown')), 9223372036854775807)
                     ORDER BY order_no DESC LIMIT 1",
                    (person.id, track.name()),
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()
                .map_err(failed)?;
            let Some((id, state)) = before else { return Ok(false) };
            if state == "done" {
                let mut current = work
                    .prepare(
                        "SELECT question FROM vote WHERE assignment_id = ?
                         AND superseded_by IS NULL AND choice <> 'undo'",
                    )
                    .map_err(failed)?;
                let questions: Vec<String> = current
                    .query_map([id], |row| row.get(0))
                    .and_then(Iterator::collect)
                    .map_err(failed)?;
                let ballot = Ballot {
                    item: String::new(),
                    nonce: random::token()?,
                    answers: Vec::new(),
                    timing: Value::Null,
                };
                for question in questions {
                    self.put(work, id, &question, "undo", None, &ballot)?;
                }
            }
            work.execute(
                "UPDATE assignment SET state = 'shown', done_at = NULL, lease_until = ?
                 WHERE id = ?",
                (lease, id),
            )
            .map_err(failed)?;
            log(work, Some(person.id), Some(id), "undo", &json!({}))?;
            Ok(true)
        })
    }

    /// Leaves an item to others.
    ///
    /// # Errors
    /// E1615 where the item is gone, E1612 for a reason that is none, E1603.
    pub fn skip(&self, person: &Person, token: &str, reason: &str) -> Result<()> {
        if !REASONS.contains(&reason) {
            let what = format!("a reason is one of: {}", REASONS.join(", "));
            return Err(Error::input("E1612", what).help("load the page again"));
        }
        self.change(|work| {
            let lent = self.lent(work, person, token)?;
            match lent.state.as_str() {
                // Sent again.
                "skipped" => return Ok(()),
                "done" => return Err(gone("this item is answered already")),
                _ => {}
            }
            work.execute(
                "UPDATE assignment SET state = 'skipped', done_at = ? WHERE id = ?",
                (now(), lent.id),
            )
            .map_err(failed)?;
            log(work, Some(person.id), Some(lent.id), "skip", &json!({ "reason": reason }))
        })
    }

    /// Notes what somebody does, and that the item is still looked at.
    ///
    /// # Errors
    /// E1615 for an item of somebody else, E1612 for an event that is none, E1603.
    pub fn event(&self, person: &Person, token: &str, kind: &str, data: &Value) -> Result<()> {
        let text = data.to_string();
        if !EVENTS.contains(&kind) || text.len() > EVENT_BYTES {
            let what = format!("an event is one of: {}", EVENTS.join(", "));
            return Err(Error::input("E1612", what).help("load the page again"));
        }
        let lease = now() + 1000 * i64::from(self.settings.lease);
        self.change(|work| {
            let lent = self.lent(work, person, token)?;
            if self.kind == Kind::Annotate {
                work.execute(
                    "UPDATE assignment SET lease_until = ? WHERE id = ? AND state = 'shown'",
                    (lease, lent.id),
                )
                .map_err(failed)?;
            }
            log(work, Some(person.id), Some(lent.id), kind, data)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_means_the_video_that_was_there() {
        for (choice, swap, expected) in [
            ("left", false, Some("a")),
            ("right", false, Some("b")),
            ("left", true, Some("b")),
            ("right", true, Some("a")),
            ("tie", false, Some("tie")),
            ("tie", true, Some("tie")),
            ("undo", false, None),
            ("", true, None),
        ] {
            assert_eq!(winner(choice, swap), expected, "{choice} {swap}");
        }
    }
}
