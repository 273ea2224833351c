//! The folder of a project: `project.sqlite` with everything that is known, `media/` with what is
//! shown, `refs/` and `originals/` with what was given.
//!
//! Votes are only ever added. Every change is one transaction that is on the disk before somebody is
//! told of it (WAL, `synchronous = FULL`), so that a crash loses nothing that was answered. Several
//! programs may have a project open: one that serves, and others that import or export.

use crate::random;
use anyid_files::output::{make_folder, write_error};
use anyid_files::{Error, Result};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The database in the folder.
pub const DATABASE: &str = "project.sqlite";
/// The version of its tables.
const VERSION: i64 = 1;
/// Says that a database is one of ours (`PRAGMA application_id`).
const APPLICATION: i64 = 0x616e_7970;
/// How long another program's transaction is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The tables, as annotate.md §3 has them, with what else they need.
const TABLES: &str = "
CREATE TABLE project(id INTEGER PRIMARY KEY CHECK(id = 1), kind TEXT NOT NULL, name TEXT NOT NULL,
  created INTEGER NOT NULL, config_json TEXT NOT NULL, schema_version INTEGER NOT NULL,
  salt BLOB NOT NULL, paused INTEGER NOT NULL DEFAULT 0, withdrawn INTEGER NOT NULL DEFAULT 0);
CREATE TABLE asset(id INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK(kind IN ('image','video')),
  path TEXT NOT NULL, sha256 TEXT NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
  fps REAL, frames INTEGER NOT NULL, public_token TEXT NOT NULL UNIQUE,
  original TEXT, original_sha256 TEXT);
CREATE TABLE input_set(id INTEGER PRIMARY KEY, group_id TEXT NOT NULL, sample_id TEXT NOT NULL,
  prompt TEXT NOT NULL, preserve_json TEXT NOT NULL, primary_asset INTEGER REFERENCES asset,
  refs_json TEXT NOT NULL, sample_json TEXT NOT NULL, task TEXT, consent TEXT);
CREATE TABLE matchup(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
  input_set_id INTEGER NOT NULL REFERENCES input_set, asset_a INTEGER NOT NULL REFERENCES asset,
  asset_b INTEGER NOT NULL REFERENCES asset, seed_a INTEGER, seed_b INTEGER, system_a TEXT,
  system_b TEXT, split TEXT, check_kind TEXT CHECK(check_kind IN ('same','degraded','repeat')),
  expected TEXT CHECK(expected IN ('a','b')), repeat_of INTEGER REFERENCES matchup);
CREATE TABLE planned(name TEXT PRIMARY KEY, input_set_id INTEGER NOT NULL REFERENCES input_set,
  seed_a INTEGER NOT NULL, seed_b INTEGER NOT NULL);
CREATE TABLE annotator(id INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE,
  role TEXT NOT NULL CHECK(role IN ('annotator','participant','admin')),
  token_hash TEXT NOT NULL UNIQUE, created INTEGER NOT NULL, consent_at INTEGER,
  withdrawn_at INTEGER, void INTEGER NOT NULL DEFAULT 0, revoked INTEGER NOT NULL DEFAULT 0,
  meta_json TEXT NOT NULL DEFAULT '{}');
CREATE TABLE session(hash TEXT PRIMARY KEY, annotator_id INTEGER NOT NULL REFERENCES annotator
  ON DELETE CASCADE, expires INTEGER NOT NULL);
CREATE TABLE assignment(id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE,
  matchup_id INTEGER NOT NULL REFERENCES matchup,
  annotator_id INTEGER NOT NULL REFERENCES annotator ON DELETE CASCADE,
  track TEXT NOT NULL CHECK(track IN ('identity','prompt','study')), order_no INTEGER NOT NULL,
  swap INTEGER NOT NULL CHECK(swap IN (0,1)),
  state TEXT NOT NULL CHECK(state IN ('open','shown','done','skipped','void')), shown_at INTEGER,
  done_at INTEGER, lease_until INTEGER, UNIQUE(matchup_id, annotator_id, track),
  UNIQUE(annotator_id, track, order_no));
CREATE INDEX assignment_of_matchup ON assignment(track, matchup_id, state, annotator_id);
CREATE INDEX assignment_of_lease ON assignment(state, lease_until);
CREATE TABLE vote(id INTEGER PRIMARY KEY,
  assignment_id INTEGER NOT NULL REFERENCES assignment ON DELETE CASCADE,
  question TEXT NOT NULL CHECK(question IN ('identity','prompt','element','quality')),
  choice TEXT NOT NULL CHECK(choice IN ('left','right','tie','undo')),
  winner TEXT CHECK(winner IN ('a','b','tie')), ms_to_vote INTEGER, plays_left INTEGER,
  plays_right INTEGER, watched_left REAL, watched_right REAL, created INTEGER NOT NULL,
  superseded_by INTEGER REFERENCES vote ON DELETE SET NULL, nonce TEXT NOT NULL);
CREATE INDEX vote_of_assignment ON vote(assignment_id, question);
CREATE INDEX vote_superseded ON vote(superseded_by);
CREATE UNIQUE INDEX vote_once ON vote(assignment_id, nonce, question);
CREATE TABLE event(id INTEGER PRIMARY KEY,
  annotator_id INTEGER REFERENCES annotator ON DELETE CASCADE,
  assignment_id INTEGER REFERENCES assignment ON DELETE CASCADE, at INTEGER NOT NULL,
  kind TEXT NOT NULL, data_json TEXT NOT NULL);
CREATE INDEX event_of_annotator ON event(annotator_id);
CREATE INDEX event_of_assignment ON event(assignment_id);
CREATE TABLE export(id INTEGER PRIMARY KEY, at INTEGER NOT NULL, path TEXT NOT NULL,
  sha256 TEXT NOT NULL, locked INTEGER NOT NULL, filter_json TEXT NOT NULL,
  counts_json TEXT NOT NULL);
";

/// What a project is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pairs for preference tuning, in two tracks.
    Annotate,
    /// A blind comparison of systems.
    Study,
}

impl Kind {
    /// Its name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Annotate => "annotate",
            Self::Study => "study",
        }
    }
}

/// How people are asked; kept in the project.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// People who judge each matchup in each track.
    pub votes: u32,
    /// Whether "can't tell" is an answer.
    pub tie: bool,
    /// Whether a pair needs all votes.
    pub unanimous: bool,
    /// Pairs that are wanted.
    pub target: u32,
    /// Share of hidden checks.
    pub checks: f64,
    /// Items between both tracks of a matchup for one person.
    pub apart: u32,
    /// Seconds after which an item that was not answered goes to others.
    pub lease: u32,
    /// How often both videos must have played to their end before an answer is taken.
    pub watch: f64,
    /// Whom people can ask.
    pub contact: String,
}

impl Settings {
    /// The usual ones.
    pub fn of(kind: Kind) -> Self {
        Self {
            votes: 3,
            tie: kind == Kind::Annotate,
            unanimous: false,
            target: 1000,
            checks: 0.05,
            apart: 50,
            lease: 15 * 60,
            watch: 1.0,
            contact: String::new(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "votes_per_track": self.votes, "allow_tie": self.tie, "unanimous": self.unanimous,
            "target": self.target, "checks": self.checks, "apart": self.apart,
            "lease_s": self.lease, "min_watch": self.watch, "contact": self.contact,
        })
    }

    fn read(value: &Value, kind: Kind) -> Self {
        let usual = Self::of(kind);
        let whole = |key: &str, usual: u32| {
            value[key].as_u64().and_then(|number| number.try_into().ok()).unwrap_or(usual)
        };
        Self {
            votes: whole("votes_per_track", usual.votes).max(1),
            tie: value["allow_tie"].as_bool().unwrap_or(usual.tie),
            unanimous: value["unanimous"].as_bool().unwrap_or(usual.unanimous),
            target: whole("target", usual.target),
            checks: value["checks"].as_f64().unwrap_or(usual.checks).clamp(0.0, 0.5),
            apart: whole("apart", usual.apart),
            lease: whole("lease_s", usual.lease).max(1),
            watch: value["min_watch"].as_f64().unwrap_or(usual.watch).clamp(0.0, 10.0),
            contact: value["contact"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

/// An open project.
pub struct Project {
    folder: PathBuf,
    connection: Mutex<Connection>,
    /// What it is for.
    pub kind: Kind,
    /// What it is called.
    pub name: String,
    /// How people are asked.
    pub settings: Settings,
    /// Random bytes on which orders and sides depend.
    pub(crate) salt: Vec<u8>,
}

/// An error of the database.
pub(crate) fn failed(fault: rusqlite::Error) -> Error {
    let code = fault.sqlite_error_code();
    let (what, help) = match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            ("the project is in use by another program", "try again when that is done")
        }
        Some(ErrorCode::DiskFull) => {
            ("the disk is full", "make room: what was answered before is kept")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            ("the project cannot be written", "look at the permissions of its folder")
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            ("the project is damaged", "restore it from a copy made by `backup`")
        }
        _ => ("the project cannot be read or written", "see the cause"),
    };
    Error::input("E1603", what).help(help).caused_by(fault)
}

/// Milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Project {
    /// Makes a project in a folder that is empty or is not there.
    ///
    /// # Errors
    /// E1600 for a folder with something in it, E1603 and E101x where it cannot be written.
    pub fn create(folder: &Path, kind: Kind, settings: &Settings) -> Result<Self> {
        let taken = |what: &str| {
            Error::input("E1600", what.to_owned())
                .at(folder.display())
                .help("give a folder that is empty or is not there yet")
        };
        if folder.join(DATABASE).exists() {
            return Err(taken("there is a project in this folder already"));
        }
        if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(taken("there is something else in this folder"));
        }
        for name in ["media", "refs", "originals"] {
            make_folder(&folder.join(name))?;
        }
        let name = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = folder.join(DATABASE);
        let mut connection = Connection::open(&path).map_err(failed)?;
        let salt = random::secret::<32>()?;
        prepare(&connection)?;
        let made = connection.transaction().and_then(|work| {
            work.execute_batch(TABLES)?;
            work.execute(
                "INSERT INTO project VALUES(1, ?, ?, ?, ?, ?, ?, 0, 0)",
                (kind.name(), &name, now(), settings.json().to_string(), VERSION, salt),
            )?;
            work.pragma_update(None, "user_version", VERSION)?;
            work.pragma_update(None, "application_id", APPLICATION)?;
            work.commit()
        });
        made.map_err(|fault| failed(fault).at(path.display()))?;
        drop(connection);
        Self::open(folder)
    }

    /// Opens a project.
    ///
    /// # Errors
    /// E1600 where there is none, or one of a newer version; E1603 where it cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(DATABASE);
        let none = |what: String| {
            Error::input("E1600", what)
                .at(folder.display())
                .help("name the folder of a project, or make one with `init`")
        };
        if !path.is_file() {
            return Err(none("there is no project in this folder".to_owned()));
        }
        let at = |fault| failed(fault).at(path.display());
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(at)?;
        let number = |name: &str| {
            connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0))
        };
        let (application, version) =
            (number("application_id").map_err(at)?, number("user_version").map_err(at)?);
        if application != APPLICATION {
            return Err(none("this database is no project".to_owned()));
        }
        // Older versions are brought up to date here when there are any.
        if version != VERSION {
            return Err(none(format!(
                "the project has version {version}, this program reads {VERSION}"
            )));
        }
        prepare(&connection).map_err(|error| error.at(path.display()))?;
        let read = connection.query_row(
            "SELECT kind, name, config_json, salt FROM project WHERE id = 1",
            [],
            |row| {
                Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, String>(2)?, row.get(3)?))
            },
        );
        let (kind, name, settings, salt) = read.map_err(at)?;
        let kind = match kind.as_str() {
            "study" => Kind::Study,
            _ => Kind::Annotate,
        };
        let settings = serde_json::from_str(&settings).unwrap_or_default();
        let settings = Settings::read(&settings, kind);
        let folder = folder.to_owned();
        Ok(Self { folder, connection: Mutex::new(connection), kind, name, settings, salt })
    }

    /// Opens a project that must be of `kind`.
    ///
    /// # Errors
    /// As [`Self::open`], and E1600 for one of the other kind.
    pub fn open_as(folder: &Path, kind: Kind) -> Result<Self> {
        let project = Self::open(folder)?;
        match project.kind == kind {
            true => Ok(project),
            false => {
                let verb = project.kind.name();
                let what = format!("this project is made for `{verb}`");
                Err(Error::input("E1600", what)
                    .at(folder.display())
                    .help(format!("use the verb `{verb}`")))
            }
        }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The database, for reading.
    pub(crate) fn database(&self) -> MutexGuard<'_, Connection> {
        // Whoever panicked while it held this left a transaction that was rolled back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` in one transaction, which is on the disk afterwards.
    ///
    /// # Errors
    /// Those of `work`, and E1603.
    pub(crate) fn change<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut connection = self.database();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let done = work(&transaction)?;
        transaction.commit().map_err(failed)?;
        Ok(done)
    }

    /// Whether nobody is asked for now.
    ///
    /// # Errors
    /// E1603.
    pub fn is_paused(&self) -> Result<bool> {
        let read = self.database().query_row("SELECT paused FROM project", [], |row| row.get(0));
        read.map_err(failed)
    }

    /// Stops asking, or goes on.
    ///
    /// # Errors
    /// E1603.
    pub fn pause(&self, paused: bool) -> Result<()> {
        self.change(|work| {
            work.execute("UPDATE project SET paused = ?", [paused]).map_err(failed)?;
            log(work, None, None, "pause", &json!({ "paused": paused }))
        })
    }

    /// Copies the database as it is to `path`, while others go on.
    ///
    /// # Errors
    /// E1600 where there is something already, E1603 and E101x where it cannot be written.
    pub fn backup(&self, path: &Path) -> Result<()> {
        if path.exists() {
            return Err(Error::input("E1600", "there is something of this name already")
                .at(path.display())
                .help("give the copy a name of its own"));
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let copied = self.database().backup("main", &part, None).map_err(failed);
        let named = copied
            .and_then(|()| std::fs::rename(&part, path).map_err(|fault| write_error(path, fault)));
        if named.is_err() {
            // What cannot be removed was not made.
            let _ = std::fs::remove_file(&part);
        }
        named
    }
}

/// Notes what happened, in the transaction in which it happens.
pub(crate) fn log(
    work: &Connection,
    annotator: Option<i64>,
    assignment: Option<i64>,
    kind: &str,
    data: &Value,
) -> Result<()> {
    work.execute(
        "INSERT INTO event(annotator_id, assignment_id, at, kind, data_json) VALUES(?,?,?,?,?)",
        (annotator, assignment, now(), kind, data.to_string()),
    )
    .map_err(failed)?;
    Ok(())
}

/// What holds for every connection.
fn prepare(connection: &Connection) -> Result<()> {
    let set = || {
        connection.busy_timeout(PATIENCE)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        // Others may have given us the file.
        connection.pragma_update(None, "trusted_schema", false)
    };
    connection.set_prepared_statement_cache_capacity(64);
    set().map_err(failed)
}
