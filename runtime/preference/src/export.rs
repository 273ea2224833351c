//! What came out, as files: pairs for `train dpo`, all votes, and the forms of other tools
//! (annotate.md §5). Votes of other tools come in as the same table.

use crate::answers::{self, Answer};
use crate::project::{Project, failed, log, now};
use crate::random;
use crate::rule::{Counts, Side};
use crate::table::{Table, line};
use crate::votes::winner;
use crate::{Track, quality};
use anyid_files::checkpoint::hash_file;
use anyid_files::output::AtomicFile;
use anyid_files::{Error, Result};
use rusqlite::OptionalExtension;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A form of export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `anyid.dpo/1`, pairs for preference tuning.
    Dpo,
    /// A vote a line, as JSON.
    Jsonl,
    /// A vote a row.
    Csv,
    /// The table of VideoAlign.
    VideoAlign,
    /// Tasks of Label Studio with results.
    LabelStudio,
}

impl Form {
    /// All, with their names.
    pub const ALL: [(&'static str, Self); 5] = [
        ("dpo", Self::Dpo),
        ("jsonl", Self::Jsonl),
        ("csv", Self::Csv),
        ("videoalign", Self::VideoAlign),
        ("label-studio", Self::LabelStudio),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, form)| *form == self).map_or("dpo", |(name, _)| name)
    }
}

/// The columns of votes as a table, which `import_votes` reads too.
const COLUMNS: [&str; 9] =
    ["matchup", "track", "question", "annotator", "winner", "choice", "seconds", "minute", "check"];

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Lines that are no header.
    pub lines: usize,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// A matchup with what is known of its videos.
struct Matchup {
    id: i64,
    name: String,
    prompt: String,
    sample: Value,
    /// Path below the project, hash, seed, rate and frames of each video.
    videos: [Video; 2],
}

#[derive(Clone)]
struct Video {
    path: String,
    sha256: String,
    seed: Option<i64>,
    fps: f64,
    frames: i64,
}

impl Project {
    /// Writes what is known in `form` to `path`. With `lock`, the hash of the file is noted: the
    /// project then says if the file is changed, and the trainer refuses it (`data.sha256`).
    ///
    /// # Errors
    /// E1606 where there is nothing to write, or a locked file has been changed; E1603, E101x.
    pub fn export(&self, form: Form, path: &Path, lock: bool) -> Result<Written> {
        self.refuse_changed(path)?;
        let answers = answers::all(self)?;
        let (text, lines, counts) = match form {
            Form::Dpo => self.pairs(&answers)?,
            Form::Jsonl => self.votes(&answers, false),
            Form::Csv => self.votes(&answers, true),
            Form::VideoAlign => self.video_align(&answers)?,
            Form::LabelStudio => self.label_studio(&answers)?,
        };
        if lines == 0 {
            let (what, help) = match form {
                Form::Dpo => (
                    "there is no valid pair yet",
                    "a pair needs decisions for the same video in both tracks: see `status`",
                ),
                _ => ("nobody has answered yet", "export again when people have"),
            };
            return Err(Error::input("E1606", what).at(self.folder().display()).help(help));
        }
        let mut file = AtomicFile::create(path)?;
        file.append(text.as_bytes())?;
        let direct = file.is_standard_output();
        file.commit()?;
        use sha2::Digest;
        let sha256 = anyid_guard::hex(&sha2::Sha256::digest(text.as_bytes()));
        let place = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        self.change(|work| {
            work.execute(
                "INSERT INTO export(at, path, sha256, locked, filter_json, counts_json)
                 VALUES(?,?,?,?,?,?)",
                (
                    now(),
                    place.to_string_lossy(),
                    &sha256,
                    lock && !direct,
                    json!({ "form": form.name(), "rule": self.majority().name() }).to_string(),
                    counts.to_string(),
                ),
            )
            .map_err(failed)?;
            log(work, None, None, "export", &json!({ "form": form.name(), "sha256": sha256 }))
        })?;
        Ok(Written { lines, sha256 })
    }

    /// The last hash under which each locked file was written.
    fn locked(&self) -> Result<Vec<(String, String)>> {
        let database = self.database();
        let mut list = database
            .prepare(
                "SELECT path, sha256 FROM export e WHERE locked = 1 AND id = (SELECT MAX(id)
                 FROM export WHERE path = e.path) ORDER BY path",
            )
            .map_err(failed)?;
        list.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .and_then(Iterator::collect)
            .map_err(failed)
    }

    /// Locked files that are not as they were written, or are gone.
    ///
    /// # Errors
    /// E1603.
    pub fn changed_exports(&self) -> Result<Vec<String>> {
        let changed = |(path, sha256): &(String, String)| {
            hash_file(path).map_or(true, |found| found != *sha256)
        };
        Ok(self.locked()?.into_iter().filter(changed).map(|(path, _)| path).collect())
    }

    /// Does not write over a file that was locked and changed by somebody since.
    fn refuse_changed(&self, path: &Path) -> Result<()> {
        let place = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let place = place.to_string_lossy().into_owned();
        let found = self.locked()?.into_iter().find(|(path, _)| *path == place);
        match found {
            Some((_, sha256)) if path.exists() && hash_file(path)? != sha256 => {
                Err(Error::input("E1606", "this file was locked, and has been changed since")
                    .at(path.display())
                    .help("look at what was changed; write to another name, or remove it first"))
            }
            _ => Ok(()),
        }
    }

    fn matchups(&self) -> Result<Vec<Matchup>> {
        let database = self.database();
        let mut list = database
            .prepare(
                "SELECT m.id, m.name, i.prompt, i.sample_json, m.seed_a, m.seed_b,
                 a.original, a.original_sha256, a.fps, a.frames,
                 b.original, b.original_sha256, b.fps, b.frames
                 FROM matchup m JOIN input_set i ON i.id = m.input_set_id
                 JOIN asset a ON a.id = m.asset_a JOIN asset b ON b.id = m.asset_b
                 WHERE m.check_kind IS NULL AND m.split IS NULL ORDER BY m.name",
            )
            .map_err(failed)?;
        let read = |row: &rusqlite::Row<'_>| {
            let video = |seed: usize, at: usize| -> rusqlite::Result<Video> {
                Ok(Video {
                    path: row.get::<_, Option<String>>(at)?.unwrap_or_default(),
                    sha256: row.get::<_, Option<String>>(at + 1)?.unwrap_or_default(),
                    seed: row.get(seed)?,
                    fps: row.get::<_, Option<f64>>(at + 2)?.unwrap_or_default(),
                    frames: row.get(at + 3)?,
                })
            };
            Ok(Matchup {
                id: row.get(0)?,
                name: row.get(1)?,
                prompt: row.get(2)?,
                sample: serde_json::from_str(&row.get::<_, String>(3)?).unwrap_or_default(),
                videos: [video(4, 6)?, video(5, 10)?],
            })
        };
        list.query_map([], read).and_then(Iterator::collect).map_err(failed)
    }

    /// Pairs that are better on both tracks, with a header that says how they were found.
    fn pairs(&self, answers: &[Answer]) -> Result<(String, usize, Value)> {
        let (majority, status) = (self.majority(), self.status()?);
        let counts = answers::counts(answers);
        let mut people: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for answer in answers.iter().filter(|answer| answer.counts()) {
            people.entry(answer.matchup).or_default().push(answer.annotator);
        }
        let agreement: Vec<Value> =
            quality::agreement(self)?.iter().map(quality::Agreement::json).collect();
        let rule = majority.name();
        let counted = json!({ "matchups": status.matchups, "complete": status.complete,
                              "valid": status.valid, "decided": status.decided });
        let header = json!({
            "schema": "anyid.dpo/1", "project": random::digest(&anyid_guard::hex(&self.salt)),
            "rule": rule, "votes_per_track": self.settings.votes, "counts": counted,
            "agreement": agreement,
        });
        let (mut text, mut lines) = (format!("{header}\n"), 0);
        for matchup in self.matchups()? {
            let tracks = counts.get(&matchup.id).copied().unwrap_or_default();
            let Some(chosen) = majority.chosen(tracks[0], tracks[1]) else { continue };
            let video = |side: Side| {
                let own = &matchup.videos[usize::from(side == Side::B)];
                let mut value = json!({ "video": own.path, "sha256": own.sha256 });
                if let Some(seed) = own.seed {
                    value["seed"] = seed.into();
                }
                value
            };
            let votes = |counts: Counts| json!({ "a": counts.a, "b": counts.b, "tie": counts.tie });
            let mut own = people.remove(&matchup.id).unwrap_or_default();
            own.sort_unstable();
            own.dedup();
            let pair = json!({
                "schema": "anyid.dpo/1", "id": matchup.name, "sample": matchup.sample,
                "chosen": video(chosen), "rejected": video(chosen.other()),
                "votes": { "identity": votes(tracks[0]), "prompt": votes(tracks[1]) },
                "rule": rule, "annotators": own.len(),
            });
            text.push_str(&format!("{pair}\n"));
            lines += 1;
        }
        Ok((text, lines, counted))
    }

    /// All votes, without anything that says who somebody is or when exactly it was.
    fn votes(&self, answers: &[Answer], table: bool) -> (String, usize, Value) {
        let mut text = if table { line(&COLUMNS) } else { String::new() };
        let mut names: BTreeMap<i64, String> = BTreeMap::new();
        let mut lines = 0;
        for answer in answers.iter().filter(|answer| !answer.practice && !answer.void) {
            let known = names.len();
            let name =
                names.entry(answer.annotator).or_insert_with(|| format!("p{:03}", known + 1));
            let seconds = answer.ms.map(|ms| ms as f64 / 1000.0);
            let minute = answer.created / 60_000 * 60;
            let check = answer.check.clone().unwrap_or_default();
            if table {
                text.push_str(&line(&[
                    answer.name.as_str(),
                    answer.track.name(),
                    &answer.question,
                    name,
                    &answer.winner,
                    &answer.choice,
                    &seconds.map_or_else(String::new, |value| format!("{value:.1}")),
                    &minute.to_string(),
                    &check,
                ]));
            } else {
                let vote = json!({
                    "matchup": answer.name, "track": answer.track.name(),
                    "question": answer.question, "annotator": name, "winner": answer.winner,
                    "choice": answer.choice, "swap": answer.swap, "order": answer.order,
                    "seconds": seconds, "minute": minute, "check": answer.check,
                    "system_a": answer.systems[0], "system_b": answer.systems[1],
                });
                text.push_str(&format!("{vote}\n"));
            }
            lines += 1;
        }
        (text, lines, json!({ "votes": lines, "annotators": names.len() }))
    }

    /// The table of VideoAlign: `TA` is the prompt track, the last column that of identity.
    fn video_align(&self, answers: &[Answer]) -> Result<(String, usize, Value)> {
        let mut text = line(&[
            "path_A",
            "path_B",
            "prompt",
            "VQ",
            "MQ",
            "TA",
            "fps_A",
            "num_frames_A",
            "fps_B",
            "num_frames_B",
            "ID",
        ]);
        let counts = answers::counts(answers);
        let majority = self.majority();
        let mut lines = 0;
        for matchup in self.matchups()? {
            let Some(tracks) = counts.get(&matchup.id) else { continue };
            let said = |counts: Counts| match (counts.total(), majority.winner(counts)) {
                (0, _) => "",
                (_, Some(Side::A)) => "A",
                (_, Some(Side::B)) => "B",
                (_, None) => "same",
            };
            let [a, b] = &matchup.videos;
            text.push_str(&line(&[
                a.path.as_str(),
                &b.path,
                &matchup.prompt,
                "",
                "",
                said(tracks[1]),
                &a.fps.to_string(),
                &a.frames.to_string(),
                &b.fps.to_string(),
                &b.frames.to_string(),
                said(tracks[0]),
            ]));
            lines += 1;
        }
        Ok((text, lines, json!({ "matchups": lines })))
    }

    /// Tasks of Label Studio, each with a result of `pairwise` for every vote.
    fn label_studio(&self, answers: &[Answer]) -> Result<(String, usize, Value)> {
        let mut by: BTreeMap<i64, Vec<&Answer>> = BTreeMap::new();
        for answer in answers.iter().filter(|answer| answer.counts()) {
            by.entry(answer.matchup).or_default().push(answer);
        }
        let mut tasks = Vec::new();
        for matchup in self.matchups()? {
            let Some(own) = by.get(&matchup.id) else { continue };
            let annotation = |answer: &&Answer| {
                let selected = match answer.winner.as_str() {
                    "a" => "left",
                    "b" => "right",
                    _ => "equal",
                };
                json!({
                    "completed_by": answer.annotator,
                    "result": [{ "from_name": answer.question, "to_name": "left,right",
                                 "type": "pairwise", "value": { "selected": selected } }],
                })
            };
            tasks.push(json!({
                "data": { "id": matchup.name, "prompt": matchup.prompt,
                          "left": matchup.videos[0].path, "right": matchup.videos[1].path },
                "annotations": own.iter().map(annotation).collect::<Vec<_>>(),
            }));
        }
        let lines = tasks.len();
        let text = serde_json::to_string_pretty(&tasks).unwrap_or_default();
        Ok((text + "\n", lines, json!({ "matchups": lines })))
    }

    /// Takes in votes of another tool: a table with `matchup`, `track`, `annotator` and `winner`
    /// (`a`, `b` or `tie`). People of that table become annotators without a link. All rows come in,
    /// or none; how many.
    ///
    /// # Errors
    /// E1607 for rows that do not fit, E1603.
    pub fn import_votes(&self, path: &Path) -> Result<usize> {
        let table = Table::read(path, "E1607", &["matchup", "track", "annotator", "winner"])?;
        self.change(|work| {
            let mut count = 0;
            for (number, row) in table.rows() {
                let bad = |what: String| {
                    Error::input("E1607", format!("line {number}: {what}"))
                        .at(path.display())
                        .help("nothing was taken in: correct the line and import the table again")
                };
                if row.get("check").is_some() {
                    continue;
                }
                let value = |name: &'static str| {
                    row.get(name).ok_or_else(|| bad(format!("it has no {name}")))
                };
                let (name, who) = (value("matchup")?, value("annotator")?);
                let track = Track::named(value("track")?)
                    .filter(|track| self.tracks().contains(track))
                    .ok_or_else(|| bad("the track is identity or prompt".to_owned()))?;
                let won = value("winner")?;
                if !["a", "b", "tie"].contains(&won) || (won == "tie" && !self.settings.tie) {
                    return Err(bad(format!("\"{won}\" is no winner here")));
                }
                let question = row.get("question").unwrap_or(track.name());
                if !track.questions(true).contains(&question) {
                    return Err(bad(format!("\"{question}\" is no question of this track")));
                }
                let found = "SELECT id FROM matchup WHERE name = ?";
                let matchup: i64 = work
                    .query_row(found, [name], |row| row.get(0))
                    .optional()
                    .map_err(failed)?
                    .ok_or_else(|| bad(format!("there is no matchup \"{name}\"")))?;
                let found = "SELECT id FROM annotator WHERE label = ?";
                let person: Option<i64> =
                    work.query_row(found, [who], |row| row.get(0)).optional().map_err(failed)?;
                let person = match person {
                    Some(person) => person,
                    // Nobody knows the token, so nobody enters.
                    None => self
                        .add(work, who, crate::Role::Annotator, &random::token()?)
                        .map_err(|error| bad(error.message().to_owned()))?,
                };
                let order = "SELECT COALESCE(MAX(order_no) + 1, 0) FROM assignment
                             WHERE annotator_id = ? AND track = ?";
                let order: i64 = work
                    .query_row(order, (person, track.name()), |row| row.get(0))
                    .map_err(failed)?;
                let known = "SELECT s.id FROM assignment s WHERE s.matchup_id = ? AND
                             s.annotator_id = ? AND s.track = ?";
                let known: Option<i64> = work
                    .query_row(known, (matchup, person, track.name()), |row| row.get(0))
                    .optional()
                    .map_err(failed)?;
                let twice = known.is_some_and(|id| {
                    let sql = "SELECT 1 FROM vote WHERE assignment_id = ? AND question = ?";
                    work.query_row(sql, (id, question), |_| Ok(())).is_ok()
                });
                if twice {
                    return Err(bad(format!("{who} has answered about {name} already")));
                }
                let id = match known {
                    Some(id) => id,
                    None => {
                        work.execute(
                            "INSERT INTO assignment(token, matchup_id, annotator_id, track,
                             order_no, swap, state, done_at) VALUES(?,?,?,?,?,0,'done',?)",
                            (random::token()?, matchup, person, track.name(), order, now()),
                        )
                        .map_err(failed)?;
                        work.last_insert_rowid()
                    }
                };
                let choice = match won {
                    "a" => "left",
                    "b" => "right",
                    _ => "tie",
                };
                work.execute(
                    "INSERT INTO vote(assignment_id, question, choice, winner, created, nonce)
                     VALUES(?,?,?,?,?,?)",
                    (id, question, choice, winner(choice, false), now(), random::token()?),
                )
                .map_err(failed)?;
                count += 1;
            }
            log(work, None, None, "import", &json!({ "votes": count }))?;
            Ok(count)
        })
    }
}
