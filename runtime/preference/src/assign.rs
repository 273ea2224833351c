//! What is asked next, of whom, and which video is on the left (annotate.md §4).
//!
//! The state is in the database alone: whoever comes back, in whatever browser, gets the item that
//! was open. An item is lent for some time; who does not answer in that time may lose it to another.
//! Sides are drawn in blocks of ten of which five are swapped.

use crate::people::Person;
use crate::project::{Kind, Project, failed, now};
use crate::random::{self, Draws};
use crate::{Track, check};
use anyid_files::Result;
use rusqlite::{Connection, Transaction};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// Items of which half are swapped.
const BLOCK: usize = 10;
/// The first items of somebody, among which there is no hidden check.
const PLAIN: i64 = 3;
/// Items that are lent beside the one that is looked at, so that their videos can be fetched.
const AHEAD: usize = 2;
/// Reports of a matchup after which nobody is asked about it any more.
const REPORTS: i64 = 2;

/// How far somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Items that they answered.
    pub done: i64,
    /// Those and the ones that they can still be asked.
    pub of: i64,
}

/// An item that somebody looks at.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its assignment, in the database.
    pub id: i64,
    /// What pages call it.
    pub token: String,
    /// Its track.
    pub track: Track,
    /// Whether it does not count.
    pub practice: bool,
    /// Whether the second video is on the left.
    pub swap: bool,
    matchup: i64,
    /// How far they are.
    pub progress: Progress,
    /// Videos that will be shown next, so that they can be fetched.
    pub ahead: Vec<String>,
}

impl Project {
    /// The item that `person` is to answer in `track`; `None` where there is nothing more to ask.
    ///
    /// # Errors
    /// E1603.
    pub fn next(&self, person: &Person, track: Track) -> Result<Option<Item>> {
        self.next_at(person, track, now())
    }

    /// As [`Self::next`], at a time in milliseconds since 1970.
    ///
    /// # Errors
    /// E1603.
    pub fn next_at(&self, person: &Person, track: Track, now: i64) -> Result<Option<Item>> {
        let lease = now + 1000 * i64::from(self.settings.lease);
        self.change(|work| {
            if self.kind == Kind::Annotate {
                work.prepare_cached(
                    "UPDATE assignment SET state = 'void' WHERE state IN ('open','shown')
                     AND lease_until < ? AND annotator_id <> ?",
                )
                .and_then(|mut expire| expire.execute((now, person.id)))
                .map_err(failed)?;
            }
            let own = || -> Result<Vec<i64>> {
                work.prepare_cached(
                    "SELECT id FROM assignment WHERE annotator_id = ? AND track = ?
                     AND state IN ('open','shown') ORDER BY order_no LIMIT ?",
                )
                .and_then(|mut open| {
                    let key = (person.id, track.name(), 1 + AHEAD as i64);
                    open.query_map(key, |row| row.get(0)).and_then(Iterator::collect)
                })
                .map_err(failed)
            };
            let mut open = own()?;
            let mut left = 0;
            if self.kind == Kind::Annotate {
                while open.len() <= AHEAD && self.draw(work, person, track, lease)? {
                    open = own()?;
                }
                left = self.candidates(work, person, track)?.len();
            }
            let Some(id) = open.first().copied() else { return Ok(None) };
            work.prepare_cached(
                "UPDATE assignment SET lease_until = ? WHERE annotator_id = ? AND track = ?
                 AND state IN ('open','shown')",
            )
            .and_then(|mut renew| renew.execute((lease, person.id, track.name())))
            .map_err(failed)?;
            work.prepare_cached(
                "UPDATE assignment SET state = 'shown', shown_at = COALESCE(shown_at, ?)
                 WHERE id = ?",
            )
            .and_then(|mut show| show.execute((now, id)))
            .map_err(failed)?;
            let mut item = self.item(work, id, left as i64)?;
            for later in &open[1..] {
                item.ahead.extend(self.shown_by(work, *later)?);
            }
            Ok(Some(item))
        })
    }

    /// The tokens of both videos of an assignment.
    fn shown_by(&self, work: &Connection, id: i64) -> Result<[String; 2]> {
        work.prepare_cached(
            "SELECT a.public_token, b.public_token FROM assignment s
             JOIN matchup m ON m.id = s.matchup_id JOIN asset a ON a.id = m.asset_a
             JOIN asset b ON b.id = m.asset_b WHERE s.id = ?",
        )
        .and_then(|mut both| both.query_row([id], |row| Ok([row.get(0)?, row.get(1)?])))
        .map_err(failed)
    }

    /// The item of an assignment; `left` others can be asked besides.
    fn item(&self, work: &Connection, id: i64, left: i64) -> Result<Item> {
        let read = |row: &rusqlite::Row<'_>| {
            let track: String = row.get(1)?;
            Ok(Item {
                id,
                token: row.get(0)?,
                track: Track::named(&track).unwrap_or(Track::Study),
                practice: row.get::<_, Option<String>>(2)?.is_some_and(|split| split == "practice"),
                swap: row.get(3)?,
                matchup: row.get(4)?,
                progress: Progress { done: row.get(5)?, of: row.get::<_, i64>(6)? + left },
                ahead: Vec::new(),
            })
        };
        work.prepare_cached(
            "SELECT s.token, s.track, m.split, s.swap, m.id,
               (SELECT COUNT(*) FROM assignment o JOIN matchup n ON n.id = o.matchup_id
                WHERE o.annotator_id = s.annotator_id AND o.track = s.track AND o.state = 'done'
                AND n.split IS NOT 'practice'),
               (SELECT COUNT(*) FROM assignment o JOIN matchup n ON n.id = o.matchup_id
                WHERE o.annotator_id = s.annotator_id AND o.track = s.track
                AND o.state IN ('open','shown','done') AND n.split IS NOT 'practice')
             FROM assignment s JOIN matchup m ON m.id = s.matchup_id WHERE s.id = ?",
        )
        .and_then(|mut item| item.query_row([id], read))
        .map_err(failed)
    }

    /// Matchups that `person` can be asked about in `track`, with the votes that each has or is lent
    /// for, and their names.
    fn candidates(
        &self,
        work: &Connection,
        person: &Person,
        track: Track,
    ) -> Result<Vec<(i64, i64, String)>> {
        let mut list = work
            .prepare_cached(
                "SELECT m.id, (SELECT COUNT(*) FROM assignment s JOIN annotator p
                   ON p.id = s.annotator_id WHERE s.track = ?1 AND s.matchup_id = m.id
                   AND s.state IN ('done','shown','open') AND p.void = 0) AS taken, m.name
                 FROM matchup m WHERE m.check_kind IS NULL AND m.split IS NULL
                 AND NOT EXISTS (SELECT 1 FROM assignment s WHERE s.track = ?1
                   AND s.matchup_id = m.id AND s.annotator_id = ?2 AND s.state <> 'void')
                 AND taken < ?3
                 AND (SELECT COUNT(*) FROM assignment s WHERE s.matchup_id = m.id
                   AND s.track IN ('identity','prompt') AND s.state = 'skipped') < ?4",
            )
            .map_err(failed)?;
        let found: Vec<(i64, i64, String)> = list
            .query_map((track.name(), person.id, self.settings.votes, REPORTS), |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .and_then(Iterator::collect)
            .map_err(failed)?;
        let (near, all) = self.other_track(work, person, track)?;
        let people: i64 = work
            .prepare_cached("SELECT COUNT(*) FROM annotator WHERE role='annotator' AND void=0")
            .and_then(|mut people| people.query_row([], |row| row.get(0)))
            .map_err(failed)?;
        // Where there are people enough, the tracks of a matchup go to different ones.
        let apart = people >= 2 * i64::from(self.settings.votes);
        let taken = if apart { all } else { near };
        Ok(found.into_iter().filter(|(id, ..)| !taken.contains(id)).collect())
    }

    /// Matchups that `person` has seen in the other track: those of the last items, and all.
    fn other_track(
        &self,
        work: &Connection,
        person: &Person,
        track: Track,
    ) -> Result<(HashSet<i64>, HashSet<i64>)> {
        let mut list = work
            .prepare_cached(
                "SELECT COALESCE(m.repeat_of, m.id), s.track FROM assignment s
                 JOIN matchup m ON m.id = s.matchup_id WHERE s.annotator_id = ?
                 AND s.state IN ('open','shown','done','skipped') ORDER BY s.id DESC",
            )
            .map_err(failed)?;
        let seen: Vec<(i64, String)> = list
            .query_map([person.id], |row| Ok((row.get(0)?, row.get(1)?)))
            .and_then(Iterator::collect)
            .map_err(failed)?;
        let matchups: i64 = work
            .prepare_cached("SELECT COUNT(*) FROM matchup WHERE check_kind IS NULL")
            .and_then(|mut count| count.query_row([], |row| row.get(0)))
            .map_err(failed)?;
        // Small projects have no items enough to lie between.
        let apart = (self.settings.apart as usize).min(matchups as usize / 2);
        let (mut near, mut all) = (HashSet::new(), HashSet::new());
        for (at, (id, other)) in seen.into_iter().enumerate() {
            if other != track.name() {
                all.insert(id);
                if at < apart {
                    near.insert(id);
                }
            }
        }
        Ok((near, all))
    }

    /// Lends a new item; whether there was one.
    fn draw(
        &self,
        work: &Transaction<'_>,
        person: &Person,
        track: Track,
        lease: i64,
    ) -> Result<bool> {
        let order: i64 = work
            .prepare_cached(
                "SELECT COALESCE(MAX(order_no) + 1, 0) FROM assignment
                 WHERE annotator_id = ? AND track = ?",
            )
            .and_then(|mut last| last.query_row((person.id, track.name()), |row| row.get(0)))
            .map_err(failed)?;
        let candidates = self.candidates(work, person, track)?;
        let swap = self.swap(person.id, track, order);
        let key = format!("{}/{}/{order}", person.id, track.name());
        let checked = order >= PLAIN
            && !candidates.is_empty()
            && Draws::new(&self.salt, "check", &key).unit() < self.settings.checks;
        let hidden = match checked {
            true => check::draw(self, work, person, track, order, swap)?,
            false => None,
        };
        let rank = |id: i64| {
            Draws::new(&self.salt, "order", &format!("{}/{}/{id}", person.id, track.name())).bits()
        };
        let least = candidates.iter().map(|(_, taken, _)| *taken).min();
        let drawn = candidates.iter().filter(|(_, taken, _)| Some(*taken) == least);
        let drawn = drawn.map(|(id, ..)| *id).min_by_key(|id| (rank(*id), *id));
        let Some(matchup) = hidden.or(drawn) else { return Ok(false) };
        // Lent before and lost: it is taken up again, on the side where it was.
        let again = work
            .prepare_cached(
                "UPDATE assignment SET state = 'open', lease_until = ? WHERE matchup_id = ?
                 AND annotator_id = ? AND track = ? AND state = 'void'",
            )
            .and_then(|mut again| again.execute((lease, matchup, person.id, track.name())))
            .map_err(failed)?;
        if again > 0 {
            return Ok(true);
        }
        let token = random::token()?;
        work.prepare_cached(
            "INSERT INTO assignment(token, matchup_id, annotator_id, track, order_no, swap, state,
             lease_until) VALUES(?, ?, ?, ?, ?, ?, 'open', ?)",
        )
        .and_then(|mut add| {
            add.execute((token, matchup, person.id, track.name(), order, swap, lease))
        })
        .map_err(failed)?;
        Ok(true)
    }

    /// Whether the item `order` of somebody has the second video on the left.
    pub(crate) fn swap(&self, person: i64, track: Track, order: i64) -> bool {
        let order = usize::try_from(order).unwrap_or_default();
        let block = format!("{person}/{}/{}", track.name(), order / BLOCK);
        let mut swaps: [bool; BLOCK] = std::array::from_fn(|at| at % 2 == 1);
        Draws::new(&self.salt, "sides", &block).shuffle(&mut swaps);
        swaps[order % BLOCK]
    }

    /// What the page of an item needs, and nothing else: no name, path, seed, system or answer of
    /// others; and in the track of identity no prompt.
    ///
    /// # Errors
    /// E1603.
    pub fn payload(&self, item: &Item) -> Result<Value> {
        let database = self.database();
        let (prompt, preserve, primary, refs, a, b) = database
            .prepare_cached(
                "SELECT i.prompt, i.preserve_json, i.primary_asset, i.refs_json, m.asset_a,
                 m.asset_b FROM matchup m JOIN input_set i ON i.id = m.input_set_id
                 WHERE m.id = ?",
            )
            .and_then(|mut set| {
                set.query_row([item.matchup], |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get::<_, String>(1)?,
                        row.get::<_, Option<i64>>(2)?,
                        row.get::<_, String>(3)?,
                        row.get::<_, i64>(4)?,
                        row.get::<_, i64>(5)?,
                    ))
                })
            })
            .map_err(failed)?;
        let asset = |id: i64| {
            database
                .prepare_cached(
                    "SELECT public_token, kind, fps, frames, width, height FROM asset WHERE id = ?",
                )
                .and_then(|mut asset| {
                    asset.query_row([id], |row| {
                        Ok(json!({
                            "token": row.get::<_, String>(0)?, "kind": row.get::<_, String>(1)?,
                            "fps": row.get::<_, Option<f64>>(2)?, "frames": row.get::<_, i64>(3)?,
                            "width": row.get::<_, i64>(4)?, "height": row.get::<_, i64>(5)?,
                        }))
                    })
                })
                .map_err(failed)
        };
        let preserve: Value = serde_json::from_str(&preserve).unwrap_or_else(|_| json!([]));
        let keeps = preserve.as_array().is_some_and(|list| !list.is_empty());
        let refs: Vec<i64> = match item.track {
            Track::Identity => serde_json::from_str(&refs).unwrap_or_default(),
            Track::Prompt | Track::Study => primary.into_iter().collect(),
        };
        let refs = refs.into_iter().map(asset).collect::<Result<Vec<Value>>>()?;
        let sides = if item.swap { [b, a] } else { [a, b] };
        let sides = sides.into_iter().map(asset).collect::<Result<Vec<Value>>>()?;
        let mut payload = json!({
            "id": item.token,
            "track": item.track.name(),
            "media": sides.iter().map(|side| side["token"].clone()).collect::<Vec<_>>(),
            "fps": sides[0]["fps"],
            "frames": sides[0]["frames"],
            "width": sides[0]["width"],
            "height": sides[0]["height"],
            "refs": refs,
            "questions": item.track.questions(keeps),
            "tie": self.settings.tie,
            "min_watch": self.settings.watch,
            "practice": item.practice,
            "progress": { "done": item.progress.done, "of": item.progress.of },
            "answered": self.answered(&database, item.id)?,
            "ahead": item.ahead,
        });
        if item.track != Track::Identity {
            payload["prompt"] = prompt.into();
            payload["preserve"] = preserve;
        }
        Ok(payload)
    }

    /// What was answered before the item was opened again.
    fn answered(&self, database: &Connection, id: i64) -> Result<Value> {
        let mut list = database
            .prepare_cached(
                "SELECT question, choice FROM vote WHERE assignment_id = ? AND choice <> 'undo'
                 ORDER BY id",
            )
            .map_err(failed)?;
        let rows = list.query_map([id], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)));
        let rows = rows.and_then(Iterator::collect::<rusqlite::Result<Vec<(String, String)>>>);
        let answers: Map<String, Value> =
            rows.map_err(failed)?.into_iter().map(|(key, value)| (key, value.into())).collect();
        Ok(answers.into())
    }
}
