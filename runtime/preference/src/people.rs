//! Who is asked: links that let people in, sessions, consent, withdrawal.
//!
//! A person is a pseudonym. Of links and sessions only SHA-256 is kept, and nothing about where
//! somebody comes from. A link stays good until it is revoked, so that people can stop and go on with
//! it, in another browser too.

use crate::project::{Kind, Project, failed, log, now};
use crate::random::{self, Draws, digest, same};
use anyid_files::{Error, Result};
use rusqlite::OptionalExtension;
use serde_json::json;

/// How long a session lasts, in milliseconds.
const SESSION: i64 = 30 * 24 * 3600 * 1000;
/// Longest pseudonym.
const LONGEST: usize = 40;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Answers in the tracks of annotation.
    Annotator,
    /// Takes part in a study.
    Participant,
    /// Looks at everything and asks for exports.
    Admin,
}

impl Role {
    /// Its name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Annotator => "annotator",
            Self::Participant => "participant",
            Self::Admin => "admin",
        }
    }

    fn named(name: &str) -> Self {
        match name {
            "admin" => Self::Admin,
            "participant" => Self::Participant,
            _ => Self::Annotator,
        }
    }
}

/// Somebody who has been let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// In the database.
    pub id: i64,
    /// The pseudonym.
    pub label: String,
    /// What they may do.
    pub role: Role,
    /// Whether they have agreed to take part.
    pub consented: bool,
}

impl Project {
    /// Lets somebody in; the token of their link, which is said once and not kept.
    ///
    /// # Errors
    /// E1609 for a pseudonym that is taken or none, E1603.
    pub fn invite(&self, label: &str, role: Role) -> Result<String> {
        let token = random::token()?;
        self.change(|work| self.add(work, label, role, &token).map(|_| ()))?;
        Ok(token)
    }

    pub(crate) fn add(
        &self,
        work: &rusqlite::Connection,
        label: &str,
        role: Role,
        token: &str,
    ) -> Result<i64> {
        let plain = |c: char| c.is_alphanumeric() || "-_. ".contains(c);
        if label.trim().is_empty() || label.chars().count() > LONGEST || !label.chars().all(plain) {
            let what = format!("a pseudonym has 1 to {LONGEST} letters, digits, spaces, - _ .");
            return Err(Error::input("E1609", what)
                .at(label)
                .help("choose one that does not tell who it is, such as anna-7"));
        }
        let known = "SELECT 1 FROM annotator WHERE label = ?";
        let known = work.query_row(known, [label], |_| Ok(())).optional().map_err(failed)?;
        if known.is_some() {
            return Err(Error::input("E1609", "somebody of this pseudonym is let in already")
                .at(label)
                .help("choose another one, or revoke it first"));
        }
        work.execute(
            "INSERT INTO annotator(label, role, token_hash, created) VALUES(?, ?, ?, ?)",
            (label, role.name(), digest(token), now()),
        )
        .map_err(failed)?;
        Ok(work.last_insert_rowid())
    }

    /// Makes a link and the sessions that came of it worthless; a new link for the same person.
    ///
    /// # Errors
    /// E1609 where nobody has this pseudonym, E1603.
    pub fn renew(&self, label: &str) -> Result<String> {
        let token = random::token()?;
        self.change(|work| {
            let id = self.find(work, label)?;
            work.execute(
                "UPDATE annotator SET token_hash = ?, revoked = 0 WHERE id = ?",
                (digest(&token), id),
            )
            .map_err(failed)?;
            work.execute("DELETE FROM session WHERE annotator_id = ?", [id]).map_err(failed)?;
            log(work, None, None, "renew", &json!({ "label": label }))
        })?;
        Ok(token)
    }

    /// Shuts somebody out; what they answered stays.
    ///
    /// # Errors
    /// As [`Self::renew`].
    pub fn revoke(&self, label: &str) -> Result<()> {
        self.change(|work| {
            let id = self.find(work, label)?;
            work.execute("UPDATE annotator SET revoked = 1 WHERE id = ?", [id]).map_err(failed)?;
            work.execute("DELETE FROM session WHERE annotator_id = ?", [id]).map_err(failed)?;
            log(work, None, None, "revoke", &json!({ "label": label }))
        })
    }

    fn find(&self, work: &rusqlite::Connection, label: &str) -> Result<i64> {
        let found = "SELECT id FROM annotator WHERE label = ?";
        let found = work.query_row(found, [label], |row| row.get(0)).optional().map_err(failed)?;
        found.ok_or_else(|| {
            Error::input("E1609", "nobody has this pseudonym")
                .at(label)
                .help("`status` lists who takes part")
        })
    }

    /// Leaves out what somebody answered, or counts it again. Everything is computed anew from then
    /// on, and that it was done is noted.
    ///
    /// # Errors
    /// As [`Self::renew`].
    pub fn set_void(&self, label: &str, void: bool) -> Result<()> {
        self.change(|work| {
            let id = self.find(work, label)?;
            work.execute("UPDATE annotator SET void = ? WHERE id = ?", (void, id))
                .map_err(failed)?;
            let kind = if void { "void" } else { "restore" };
            log(work, None, None, kind, &json!({ "label": label }))
        })
    }

    /// A session for the holder of a link, if it is good.
    ///
    /// # Errors
    /// E1603.
    pub fn enter(&self, token: &str) -> Result<Option<String>> {
        let hash = digest(token);
        let session = random::secret::<32>().map(|bytes| anyid_guard::hex(&bytes))?;
        self.change(|work| {
            let found = "SELECT id, token_hash FROM annotator WHERE token_hash = ? AND revoked = 0";
            let found: Option<(i64, String)> = work
                .query_row(found, [&hash], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
                .map_err(failed)?;
            let Some((id, _)) = found.filter(|(_, known)| same(known, &hash)) else {
                return Ok(None);
            };
            work.execute("DELETE FROM session WHERE expires < ?", [now()]).map_err(failed)?;
            work.execute(
                "INSERT INTO session VALUES(?, ?, ?)",
                (digest(&session), id, now() + SESSION),
            )
            .map_err(failed)?;
            Ok(Some(session))
        })
    }

    /// Who has this session.
    ///
    /// # Errors
    /// E1603.
    pub fn person(&self, session: &str) -> Result<Option<Person>> {
        let hash = digest(session);
        let database = self.database();
        let mut found = database
            .prepare_cached(
                "SELECT p.id, p.label, p.role, p.consent_at FROM session s JOIN annotator p
                 ON p.id = s.annotator_id WHERE s.hash = ? AND s.expires > ? AND p.revoked = 0",
            )
            .map_err(failed)?;
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Person {
                id: row.get(0)?,
                label: row.get(1)?,
                role: Role::named(&row.get::<_, String>(2)?),
                consented: row.get::<_, Option<i64>>(3)?.is_some(),
            })
        };
        found.query_row((hash, now()), read).optional().map_err(failed)
    }

    /// Notes that somebody has agreed to take part.
    ///
    /// # Errors
    /// E1603.
    pub fn consent(&self, person: &Person) -> Result<()> {
        self.change(|work| {
            work.execute(
                "UPDATE annotator SET consent_at = COALESCE(consent_at, ?) WHERE id = ?",
                (now(), person.id),
            )
            .map_err(failed)?;
            Ok(())
        })
    }

    /// The code by which a participant can have everything deleted; it follows from secret bytes of
    /// the project, so that it need not be kept.
    pub fn withdrawal_code(&self, label: &str) -> String {
        let mut draws = Draws::new(&self.salt, "withdraw", label);
        // Without letters and digits that look alike.
        const SIGNS: &[u8; 31] = b"ABCDEFGHJKLMNPQRSTUVWXYZ2345678";
        let mut sign = || char::from(SIGNS[draws.below(SIGNS.len())]);
        (0..3).map(|_| (0..4).map(|_| sign()).collect()).collect::<Vec<String>>().join("-")
    }

    /// Deletes everything of a participant: answers, events, sessions and the person. A counter is
    /// what stays.
    ///
    /// # Errors
    /// E1609 where nobody has this code, E1603.
    pub fn withdraw(&self, code: &str) -> Result<()> {
        let code = code.trim().to_ascii_uppercase();
        self.change(|work| {
            let mut list = work
                .prepare("SELECT id, label FROM annotator WHERE role = 'participant'")
                .map_err(failed)?;
            let people: Vec<(i64, String)> = list
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
                .and_then(Iterator::collect)
                .map_err(failed)?;
            let found = people.iter().find(|(_, label)| same(&self.withdrawal_code(label), &code));
            let Some((id, label)) = found else {
                return Err(Error::input("E1609", "nobody has this code")
                    .help("it is on the last page of the study, such as K7QM-24RT-XW3B"));
            };
            work.execute("DELETE FROM event WHERE json_extract(data_json, '$.label') = ?", [label])
                .map_err(failed)?;
            // Their votes, events, assignments and sessions go with them.
            work.execute("DELETE FROM annotator WHERE id = ?", [id]).map_err(failed)?;
            work.execute("UPDATE project SET withdrawn = withdrawn + 1", []).map_err(failed)?;
            Ok(())
        })?;
        // Nothing of it stays in the files either.
        let database = self.database();
        database
            .execute_batch(
                "PRAGMA wal_checkpoint(TRUNCATE); VACUUM; PRAGMA wal_checkpoint(TRUNCATE)",
            )
            .or_else(|fault| match fault.sqlite_error_code() {
                // Another program reads; the rows are gone all the same.
                Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                    Ok(())
                }
                _ => Err(fault),
            })
            .map_err(failed)
    }

    /// The tracks that are asked about.
    pub fn tracks(&self) -> &'static [crate::Track] {
        match self.kind {
            Kind::Annotate => &crate::Track::ANNOTATION,
            Kind::Study => &[crate::Track::Study],
        }
    }
}
