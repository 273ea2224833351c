//! Consent records: who agreed to what is made of which pictures, signed by whoever keeps the form.
//!
//! A record names a person by a pseudonym and pictures by their SHA-256. It is valid if it is
//! signed by its issuer, in force today, not revoked, and for the use in question. Records say that
//! somebody vouches; they prove nothing about the pictures. Records of faces cover new pictures of
//! the same person; the networks that compare them are the user's, and are run elsewhere
//! ([`Records::faces`]).

use crate::signature::{SecretKey, is_signed};
use crate::time::is_date;
use anyid_files::error::{Error, Result, unreadable};
use anyid_files::input;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The schema of a record.
pub const SCHEMA: &str = "anyid.consent/1";
const REVOCATION: &str = "anyid.revocation/1";
/// The file of revocations in a folder of records.
pub const REVOKED: &str = "revoked.jsonl";
const LARGEST: u64 = 1 << 20;
const MOST_RECORDS: usize = 100_000;

/// What a record may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Videos.
    Generate,
    /// Measurements.
    Evaluate,
    /// Studies with people.
    Study,
    /// Training.
    Train,
}

impl Scope {
    /// All.
    pub const ALL: [Self; 4] = [Self::Generate, Self::Evaluate, Self::Study, Self::Train];

    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Evaluate => "evaluate",
            Self::Study => "study",
            Self::Train => "train",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(name: &str) -> std::result::Result<Self, ()> {
        Self::ALL.into_iter().find(|scope| scope.name() == name).ok_or(())
    }
}

/// What may be shown to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Publish {
    /// Nothing.
    #[default]
    No,
    /// Results.
    Results,
    /// Everything.
    Yes,
}

/// A picture that a record is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Picture {
    /// A file.
    File {
        /// SHA-256 of its bytes.
        sha256: String,
        /// What it is used as.
        role: String,
    },
    /// Any picture of a face like an enrolled one.
    Face {
        /// `face`.
        r#match: String,
        /// SHA-256 of the enrolled pictures.
        enrolled: Vec<String>,
        /// Least cosine of the embeddings, above 0.
        min_cos: f64,
    },
}

/// Who signs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// In words.
    pub name: String,
    /// `ed25519:` and the public key in base64.
    pub key: String,
}

/// A consent record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: String,
    /// Its id, letters, digits and dashes.
    pub id: String,
    /// A pseudonym.
    pub person: String,
    /// Whether the person is of age.
    pub adult: bool,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// What may be shown.
    #[serde(default)]
    pub publish: Publish,
    /// What was agreed on beyond that, in words.
    #[serde(default)]
    pub restrictions: Vec<String>,
    /// The pictures.
    pub references: Vec<Picture>,
    /// First day.
    pub not_before: String,
    /// Day from which on it is not valid.
    pub expires: String,
    /// How it was given, in words.
    #[serde(default)]
    pub how: String,
    /// Who signs.
    pub issuer: Issuer,
    /// Where revocations are listed.
    #[serde(default)]
    pub revocation: String,
    /// Signature in base64.
    #[serde(default)]
    pub sig: String,
}

fn bad(path: &Path, what: impl Into<String>) -> Error {
    Error::input("E1106", what)
        .at(path.display())
        .help("ask the issuer for a record that is in order; `anyid-rt consent verify` checks one")
}

impl Record {
    /// Reads a record and checks its form, not its signature.
    ///
    /// # Errors
    /// E1106 it is no record, E0911 it cannot be read.
    pub fn read(path: &Path) -> Result<(Self, Value)> {
        let large = |limit| bad(path, format!("a record has at most {limit} bytes"));
        let bytes = input::read(path, LARGEST)
            .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|fault| bad(path, format!("this is no consent record: {fault}")))?;
        let record: Self = serde_json::from_value(value.clone())
            .map_err(|fault| bad(path, format!("this is no consent record: {fault}")))?;
        record.check_form().map_err(|what| bad(path, what))?;
        Ok((record, value))
    }

    /// Whether its form is in order.
    ///
    /// # Errors
    /// E1106.
    pub fn check(&self) -> Result<()> {
        self.check_form().map_err(|what| Error::input("E1106", what))
    }

    fn check_form(&self) -> std::result::Result<(), String> {
        let simple = |id: &str| {
            !id.is_empty()
                && id.len() <= 64
                && id.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
        };
        if self.schema != SCHEMA {
            return Err(format!("this is no consent record: its schema is not {SCHEMA}"));
        }
        if !simple(&self.id) || !simple(&self.person) {
            return Err("\"id\" and \"person\" are letters, digits and dashes".to_owned());
        }
        if self.scopes.is_empty() || self.references.is_empty() {
            return Err("a record without scopes or pictures allows nothing".to_owned());
        }
        if !is_date(&self.not_before) || !is_date(&self.expires) {
            return Err("\"not_before\" and \"expires\" are dates such as 2027-11-01".to_owned());
        }
        if self.not_before >= self.expires {
            return Err("the record expires before it begins".to_owned());
        }
        for picture in &self.references {
            let hashes: Vec<&String> = match picture {
                Picture::File { sha256, .. } => vec![sha256],
                Picture::Face { enrolled, .. } => enrolled.iter().collect(),
            };
            if hashes.is_empty() || hashes.iter().any(|hash| crate::unhex::<32>(hash).is_none()) {
                return Err("a picture is named by 64 hexadecimal digits".to_owned());
            }
            if let Picture::Face { r#match, min_cos, .. } = picture
                && (r#match != "face" || !(*min_cos > 0.0 && *min_cos <= 1.0))
            {
                return Err(
                    "\"match\" is \"face\", with \"min_cos\" above 0 and at most 1".to_owned()
                );
            }
        }
        Ok(())
    }

    /// Sets the issuer's key and signs.
    ///
    /// # Errors
    /// E1106 for a record whose form is not in order.
    pub fn sign(&mut self, key: &SecretKey) -> Result<()> {
        self.check()?;
        self.issuer.key = key.public();
        self.sig.clear();
        self.sig = key.sign(&json!(self))?;
        Ok(())
    }

    /// Whether the record is for this picture.
    pub fn names(&self, sha256: &str) -> bool {
        self.references.iter().any(|picture| match picture {
            Picture::File { sha256: known, .. } => known.eq_ignore_ascii_case(sha256),
            Picture::Face { .. } => false,
        })
    }
}

/// Why no record covers a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// None names it.
    NoRecord,
    /// One names it and does not count; its id and why.
    Not(String, &'static str),
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRecord => f.write_str("no consent record"),
            Self::Not(id, why) => write!(f, "consent record {id} {why}"),
        }
    }
}

/// A face that a record covers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Enrolled<'r> {
    /// The record.
    pub id: &'r str,
    /// SHA-256 of the enrolled pictures.
    pub pictures: &'r [String],
    /// Least cosine of the embeddings.
    pub min_cos: f64,
}

/// What is asked of records.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'d> {
    /// The use.
    pub scope: Scope,
    /// The day, as `2026-11-30`.
    pub today: &'d str,
    /// Whether only adults are shown.
    pub adult: bool,
    /// Public keys that are trusted; every key if there is none.
    pub issuers: &'d [String],
}

/// The records of some folders.
#[derive(Default)]
pub struct Records {
    list: Vec<(PathBuf, Record, Value)>,
    /// Ids that were revoked, each with the key that did it.
    revoked: Vec<(String, String)>,
}

impl Records {
    /// Reads every `*.json` and the revocations of `folders`. A folder that is missing has none.
    ///
    /// # Errors
    /// As [`Record::read`] for a record that is damaged, and E1106 for a revocation that is.
    pub fn open(folders: &[PathBuf]) -> Result<Self> {
        let mut records = Self::default();
        for folder in folders {
            let entries = match std::fs::read_dir(folder) {
                Ok(entries) => entries,
                Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => continue,
                Err(fault) => return Err(unreadable(folder, fault)),
            };
            let mut paths: Vec<PathBuf> = entries
                .take(MOST_RECORDS)
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
                .collect();
            paths.sort();
            for path in paths {
                let (record, value) = Record::read(&path)?;
                records.list.push((path, record, value));
            }
            records.read_revocations(&folder.join(REVOKED))?;
        }
        Ok(records)
    }

    /// The revocations of one folder, without its records.
    ///
    /// # Errors
    /// E1106 for a revocation that is damaged.
    pub fn revocations(folder: &Path) -> Result<Self> {
        let mut records = Self::default();
        records.read_revocations(&folder.join(REVOKED))?;
        Ok(records)
    }

    fn read_revocations(&mut self, path: &Path) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        let large = |limit| bad(path, format!("a list has at most {limit} bytes"));
        let bytes = input::read(path, 64 * LARGEST)
            .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
        for (at, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
            // A line that cannot be trusted might have been one that revoked.
            let wrong = |what: &str| {
                let place = format!("{}:{}", path.display(), at + 1);
                Error::input("E1106", what).at(place).help("restore the list from a copy")
            };
            let value: Value =
                serde_json::from_str(line).map_err(|_| wrong("this is no revocation"))?;
            let (id, key) = (value["id"].as_str(), value["key"].as_str());
            let (Some(id), Some(key), true) = (id, key, value["schema"] == REVOCATION) else {
                return Err(wrong("this is no revocation"));
            };
            if !is_signed(&value, key)? {
                return Err(wrong("the revocation was changed: its signature is wrong"));
            }
            self.revoked.push((id.to_owned(), key.to_owned()));
        }
        Ok(())
    }

    /// Adds a record that was read, with the file it is in.
    pub fn add(&mut self, path: PathBuf, record: Record, value: Value) {
        self.list.push((path, record, value));
    }

    /// All records with the files they are in.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Record)> {
        self.list.iter().map(|(path, record, _)| (path.as_path(), record))
    }

    /// What is wrong with a record, whatever it is used for.
    ///
    /// # Errors
    /// E1106 for numbers that have no canonical form.
    pub fn fault(
        &self,
        record: &Record,
        value: &Value,
        today: &str,
        issuers: &[String],
    ) -> Result<Option<&'static str>> {
        let Record { id, issuer, .. } = record;
        let revoked = |(known, key): &(String, String)| known == id && *key == issuer.key;
        Ok(if !is_signed(value, &issuer.key)? {
            Some("is forged or was changed: its signature is wrong")
        } else if !issuers.is_empty() && !issuers.contains(&issuer.key) {
            Some("is signed by an issuer that the policy does not trust")
        } else if self.revoked.iter().any(revoked) {
            Some("was revoked")
        } else if today < record.not_before.as_str() {
            Some("is not valid yet")
        } else if today >= record.expires.as_str() {
            Some("has expired")
        } else {
            None
        })
    }

    /// The id of the record that covers the picture of this hash, or why there is none.
    ///
    /// # Errors
    /// As [`Self::fault`].
    pub fn covers(
        &self,
        sha256: &str,
        demand: &Demand<'_>,
    ) -> Result<std::result::Result<&str, Gap>> {
        let mut gap = Gap::NoRecord;
        for (_, record, value) in self.list.iter().filter(|(_, record, _)| record.names(sha256)) {
            match self.unfit(record, value, demand)? {
                None => return Ok(Ok(&record.id)),
                Some(why) => gap = Gap::Not(record.id.clone(), why),
            }
        }
        Ok(Err(gap))
    }

    /// The faces that records cover which are in order and allow the use.
    ///
    /// # Errors
    /// As [`Self::fault`].
    pub fn faces(&self, demand: &Demand<'_>) -> Result<Vec<Enrolled<'_>>> {
        let mut all = Vec::new();
        for (_, record, value) in &self.list {
            let faces: Vec<Enrolled<'_>> = record
                .references
                .iter()
                .filter_map(|picture| match picture {
                    Picture::File { .. } => None,
                    Picture::Face { enrolled, min_cos, .. } => {
                        Some(Enrolled { id: &record.id, pictures: enrolled, min_cos: *min_cos })
                    }
                })
                .collect();
            if !faces.is_empty() && self.unfit(record, value, demand)?.is_none() {
                all.extend(faces);
            }
        }
        Ok(all)
    }

    /// Why a record does not count for what is asked.
    fn unfit(
        &self,
        record: &Record,
        value: &Value,
        demand: &Demand<'_>,
    ) -> Result<Option<&'static str>> {
        Ok(match self.fault(record, value, demand.today, demand.issuers)? {
            Some(fault) => Some(fault),
            None if !record.scopes.contains(&demand.scope) => Some("does not allow this use"),
            None if demand.adult && !record.adult => Some("is not of an adult"),
            None => None,
        })
    }
}

/// The line that revokes a record.
///
/// # Errors
/// As [`SecretKey::sign`].
pub fn revocation(id: &str, today: &str, key: &SecretKey) -> Result<String> {
    let mut value = json!({ "schema": REVOCATION, "id": id, "at": today, "key": key.public() });
    value["sig"] = json!(key.sign(&value)?);
    Ok(format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICTURE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const OTHER: &str = "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn record() -> Record {
        Record {
            schema: SCHEMA.to_owned(),
            id: "c-7f3a".to_owned(),
            person: "p-001".to_owned(),
            adult: true,
            scopes: vec![Scope::Generate, Scope::Evaluate],
            publish: Publish::No,
            restrictions: vec!["no political content".to_owned()],
            references: vec![Picture::File { sha256: PICTURE.to_owned(), role: "any".to_owned() }],
            not_before: "2026-11-01".to_owned(),
            expires: "2027-11-01".to_owned(),
            how: "signed form".to_owned(),
            issuer: Issuer { name: "studio".to_owned(), key: String::new() },
            revocation: String::new(),
            sig: String::new(),
        }
    }

    fn key() -> SecretKey {
        SecretKey::of(&[3; 32])
    }

    const DEMAND: Demand<'static> =
        Demand { scope: Scope::Generate, today: "2026-11-30", adult: true, issuers: &[] };

    /// What a folder with these records says about a picture.
    fn ask(list: &[Value], revoked: &str, sha256: &str, demand: &Demand<'_>) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (at, value) in list.iter().enumerate() {
            std::fs::write(folder.path().join(format!("{at}.json")), value.to_string()).unwrap();
        }
        if !revoked.is_empty() {
            std::fs::write(folder.path().join(REVOKED), revoked).unwrap();
        }
        let records = match Records::open(&[folder.path().to_owned()]) {
            Ok(records) => records,
            Err(error) => return format!("{}: {}", error.code(), error.message()),
        };
        match records.covers(sha256, demand).unwrap() {
            Ok(id) => id.to_owned(),
            Err(gap) => gap.to_string(),
        }
    }

    fn signed(change: impl FnOnce(&mut Record)) -> Value {
        let mut made = record();
        change(&mut made);
        made.sign(&key()).unwrap();
        json!(made)
    }

    #[test]
    fn a_record_counts_only_as_it_was_signed() {
        let good = signed(|_| ());
        let with = |demand: Demand<'_>| ask(std::slice::from_ref(&good), "", PICTURE, &demand);
        assert_eq!(with(DEMAND), "c-7f3a");
        assert_eq!(
            with(Demand { today: "2026-10-31", ..DEMAND }),
            "consent record c-7f3a is not valid yet"
        );
        assert_eq!(
            with(Demand { today: "2027-11-01", ..DEMAND }),
            "consent record c-7f3a has expired"
        );
        assert!(
            with(Demand { scope: Scope::Train, ..DEMAND }).ends_with("does not allow this use")
        );
        let trusted = [key().public()];
        assert_eq!(with(Demand { issuers: &trusted, ..DEMAND }), "c-7f3a");
        let others = [SecretKey::of(&[4; 32]).public()];
        assert!(with(Demand { issuers: &others, ..DEMAND }).ends_with("does not trust"));
        assert_eq!(ask(&[], "", PICTURE, &DEMAND), "no consent record");
        assert_eq!(ask(std::slice::from_ref(&good), "", OTHER, &DEMAND), "no consent record");

        let mut forged = good.clone();
        forged["references"][0]["sha256"] = json!(OTHER);
        assert!(ask(&[forged], "", OTHER, &DEMAND).contains("forged"));
        let mut longer = good.clone();
        longer["expires"] = json!("2037-11-01");
        assert!(ask(&[longer.clone()], "", PICTURE, &DEMAND).contains("forged"));
        // One that is in order counts beside one that is not.
        assert_eq!(ask(&[longer, good.clone()], "", PICTURE, &DEMAND), "c-7f3a");
        let child = signed(|record| record.adult = false);
        assert!(
            ask(std::slice::from_ref(&child), "", PICTURE, &DEMAND).ends_with("is not of an adult")
        );
        assert_eq!(ask(&[child], "", PICTURE, &Demand { adult: false, ..DEMAND }), "c-7f3a");
    }

    #[test]
    fn revocations_count_from_the_issuer_only() {
        let good = [signed(|_| ())];
        let own = revocation("c-7f3a", "2026-11-20", &key()).unwrap();
        assert!(ask(&good, &own, PICTURE, &DEMAND).ends_with("was revoked"));
        let foreign = revocation("c-7f3a", "2026-11-20", &SecretKey::of(&[9; 32])).unwrap();
        assert_eq!(ask(&good, &foreign, PICTURE, &DEMAND), "c-7f3a");
        let other = revocation("c-0001", "2026-11-20", &key()).unwrap();
        assert_eq!(ask(&good, &other, PICTURE, &DEMAND), "c-7f3a");
        let changed = own.replace("c-7f3a", "c-7f3b");
        assert!(ask(&good, &changed, PICTURE, &DEMAND).starts_with("E1106"));
        assert!(ask(&good, "torn", PICTURE, &DEMAND).starts_with("E1106"));
    }

    #[test]
    fn records_that_are_not_in_order_are_refused() {
        let change = |what: &str, to: Value| {
            let mut value = signed(|_| ());
            value[what] = to;
            ask(&[value], "", PICTURE, &DEMAND)
        };
        for (what, to) in [
            ("schema", json!("anyid.consent/2")),
            ("id", json!("../c")),
            ("scopes", json!([])),
            ("scopes", json!(["everything"])),
            ("references", json!([{ "sha256": "abc", "role": "any" }])),
            ("not_before", json!("tomorrow")),
            ("expires", json!("2020-01-01")),
            ("extra", json!(1)),
            ("adult", json!("yes")),
        ] {
            assert!(change(what, to.clone()).starts_with("E1106"), "{what} {to}");
        }
        for face in [
            json!({ "match": "hand", "enrolled": [PICTURE], "min_cos": 0.45 }),
            json!({ "match": "face", "enrolled": [], "min_cos": 0.45 }),
            json!({ "match": "face", "enrolled": ["abc"], "min_cos": 0.45 }),
            json!({ "match": "face", "enrolled": [PICTURE], "min_cos": 0 }),
            json!({ "match": "face", "enrolled": [PICTURE], "min_cos": 1.5 }),
        ] {
            assert!(change("references", json!([face])).starts_with("E1106"), "{face}");
        }
    }

    #[test]
    fn faces_are_those_of_records_that_count() {
        let face = json!([{ "match": "face", "enrolled": [PICTURE], "min_cos": 0.45 }]);
        let faces = |change: &dyn Fn(&mut Record), demand: &Demand<'_>| {
            let folder = tempfile::tempdir().unwrap();
            let mut made = record();
            made.references = serde_json::from_value(face.clone()).unwrap();
            made.sign(&key()).unwrap();
            change(&mut made);
            let path = folder.path().join("a.json");
            std::fs::write(path, json!(made).to_string()).unwrap();
            let records = Records::open(&[folder.path().to_owned()]).unwrap();
            assert_eq!(records.covers(PICTURE, demand).unwrap(), Err(Gap::NoRecord));
            let found = records.faces(demand).unwrap();
            found.iter().map(|face| (face.id.to_owned(), face.min_cos)).collect::<Vec<_>>()
        };
        assert_eq!(faces(&|_| (), &DEMAND), [("c-7f3a".to_owned(), 0.45)]);
        // Made looser after it was signed, for another use, by another issuer, too late.
        let looser = |record: &mut Record| match &mut record.references[0] {
            Picture::Face { min_cos, .. } => *min_cos = 0.1,
            Picture::File { .. } => unreachable!("it is a face"),
        };
        assert!(faces(&looser, &DEMAND).is_empty());
        assert!(faces(&|_| (), &Demand { scope: Scope::Train, ..DEMAND }).is_empty());
        let others = [SecretKey::of(&[4; 32]).public()];
        assert!(faces(&|_| (), &Demand { issuers: &others, ..DEMAND }).is_empty());
        assert!(faces(&|_| (), &Demand { today: "2027-11-01", ..DEMAND }).is_empty());
    }
}
