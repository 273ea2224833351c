//! An evaluation set: people, their references and their consent (`evaluation.md` §1), and whether it is
//! any good.
//!
//! A set is a folder with `set.json` and a folder for each person: `person.json`, four portraits, a clip,
//! and a consent record. Smaller sets, and people with fewer references, are sets as well.

mod look;
#[cfg(test)]
mod tests;

use crate::raw::{is_name, schema};
use anyid_files::error::{plural, unreadable};
use anyid_files::media::{Signature, sniff};
use anyid_files::{Error, Result, input};
use anyid_guard::consent::{Demand, Publish, Record, Records, Scope};
use anyid_study::prompt::lint::Severity;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

pub use look::{Gates, Look, Measured, check};

/// Largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;
/// The file of a set and those of a person.
pub const SET: &str = "set.json";
const PERSON: &str = "person.json";
const CONSENT: &str = "consent.json";

/// `set.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// `anyid.evalset/1`.
    pub schema: String,
    /// What it is called.
    pub name: String,
    /// How many people there are.
    #[serde(default)]
    pub people: Option<usize>,
    /// The licence of its pictures.
    #[serde(default)]
    pub license: String,
    /// Whether the people are drawn and nobody, so that nobody has to agree.
    #[serde(default)]
    pub synthetic: bool,
    /// What else is there.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Whom pronouns of prompts fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gender {
    /// She.
    #[serde(rename = "f")]
    Female,
    /// He.
    #[serde(rename = "m")]
    Male,
}

impl Gender {
    /// As files write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Female => "f",
            Self::Male => "m",
        }
    }
}

/// `person.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PersonFile {
    id: String,
    gender: Gender,
    #[serde(default)]
    consent: Option<String>,
    #[serde(default)]
    primary: Option<String>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// A person with references.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    /// The name of the folder.
    pub id: String,
    /// Whom pronouns of prompts fit.
    pub gender: Gender,
    /// Files of references below the set: the primary one, then the other pictures, then clips, each in
    /// the order of their names.
    pub references: Vec<String>,
    /// How many of them are pictures.
    pub pictures: usize,
    /// The consent record below the set.
    pub consent: String,
}

/// A set.
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    /// The folder.
    pub folder: PathBuf,
    /// What it says of itself.
    pub about: About,
    /// The people, in the order of their names.
    pub people: Vec<Person>,
}

fn bad(path: &Path, what: impl Into<String>) -> Error {
    Error::input("E1701", what)
        .at(path.display())
        .help("docs/evaluation.md has the form of an evaluation set")
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let large = |limit| bad(path, format!("the file is larger than {limit} bytes"));
    let bytes = input::read(path, LARGEST)
        .map_err(|refusal| refusal.coded(path, |cause| unreadable(path, cause), large))?;
    serde_json::from_slice(&bytes).map_err(|cause| bad(path, cause.to_string()))
}

impl Set {
    /// Reads a set; its pictures are not looked at.
    ///
    /// # Errors
    /// E0911, E1701.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(SET);
        let about: About = read(&path)?;
        if about.schema != schema::SET {
            return Err(bad(&path, format!("this is \"{}\", no evaluation set", about.schema)));
        }
        let entries = std::fs::read_dir(folder).map_err(|fault| unreadable(folder, fault))?;
        let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        folders.retain(|path| path.join(PERSON).is_file());
        folders.sort();
        let people = folders.iter().map(|path| person(path)).collect::<Result<Vec<_>>>()?;
        if people.is_empty() {
            return Err(bad(folder, "there is no person in this set"));
        }
        match about.people.filter(|count| *count != people.len()) {
            Some(count) => {
                let what = format!("the set says {}, and there are {}", count, people.len());
                Err(bad(&path, what).help("correct \"people\", or bring back what is missing"))
            }
            None => Ok(Self { folder: folder.to_owned(), about, people }),
        }
    }
}

/// Reads the folder of a person.
fn person(folder: &Path) -> Result<Person> {
    let path = folder.join(PERSON);
    let file: PersonFile = read(&path)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if file.id != name || !is_name(&name) {
        return Err(bad(&path, format!("the id \"{}\" is not that of its folder", file.id))
            .help("ids are the names of folders: letters, digits, \".\", \"_\" and \"-\""));
    }
    let (mut pictures, mut clips) = (Vec::new(), Vec::new());
    let entries = std::fs::read_dir(folder).map_err(|fault| unreadable(folder, fault))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let own = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !file.is_file() || own.starts_with('.') {
            continue;
        }
        match sniff(&input::head(&file, 256).unwrap_or_default()) {
            Signature::Still(_) if own.ends_with(".gif") => clips.push(own),
            Signature::Still(_) | Signature::Heif(_) => pictures.push(own),
            Signature::Mp4 => clips.push(own),
            Signature::Foreign(foreign) if foreign.picture => pictures.push(own),
            Signature::Foreign(_) => clips.push(own),
            // Broken pictures are said by name, and not passed over.
            Signature::NotMedia(_) if is_media_name(&own) => pictures.push(own),
            Signature::NotMedia(_) => {}
        }
    }
    let primary = match &file.primary {
        Some(primary) => primary.clone(),
        None => pictures.first().or(clips.first()).cloned().unwrap_or_default(),
    };
    let known = |list: &[String]| list.contains(&primary);
    if !known(&pictures) && !known(&clips) {
        let what = match file.primary {
            Some(primary) => format!("the primary reference \"{primary}\" is not there"),
            None => "there is no reference".to_owned(),
        };
        return Err(bad(&path, what));
    }
    let count = pictures.len();
    let others = pictures.into_iter().chain(clips).filter(|own| *own != primary);
    let below = |own: &String| format!("{name}/{own}");
    let references = std::iter::once(primary.clone()).chain(others).collect::<Vec<_>>();
    let consent = file.consent.unwrap_or_else(|| CONSENT.to_owned());
    Ok(Person {
        id: name.clone(),
        gender: file.gender,
        references: references.iter().map(below).collect(),
        pictures: count,
        consent: below(&consent),
    })
}

fn is_media_name(name: &str) -> bool {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    let endings = ["png", "jpg", "jpeg", "webp", "bmp", "heic", "avif", "mp4", "mov", "webm"];
    ending.is_some_and(|ending| endings.contains(&ending.as_str()))
}

/// Something about a set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Which rule, or the code of the error for a file that cannot be read.
    pub code: &'static str,
    /// How grave it is.
    pub severity: Severity,
    /// The person, or nothing for the set.
    pub person: String,
    /// The files that it is about.
    pub files: Vec<String>,
    /// What was found.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// What came of looking at a set.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was measured, person by person.
    pub people: Vec<Look>,
    /// What was found, the gravest first.
    pub findings: Vec<Finding>,
    /// What was not looked at.
    pub not_looked_at: Vec<&'static str>,
}

impl Report {
    /// Whether the set can be used.
    ///
    /// # Errors
    /// E1701 where a finding is an error.
    pub fn verdict(&self) -> Result<()> {
        let grave = |finding: &&Finding| finding.severity == Severity::Error;
        match self.findings.iter().filter(grave).count() {
            0 => Ok(()),
            errors => {
                Err(Error::input("E1701", format!("the set has {}", plural(errors, "error")))
                    .help("mend what is marked as an error; warnings and notes are advice"))
            }
        }
    }
}

/// Why the consent of a person does not cover a file with this hash; none where it does.
///
/// # Errors
/// E1106 for records and revocations that are damaged.
fn gap(set: &Set, person: &Person, hashes: &[String], today: &str) -> Result<Option<String>> {
    let path = set.folder.join(&person.consent);
    if !path.is_file() {
        return Ok(Some("there is no consent record".to_owned()));
    }
    let (record, value) = Record::read(&path)?;
    let mut records = Records::revocations(&set.folder)?;
    records.add(path, record, value);
    let demand = Demand { scope: Scope::Evaluate, today, adult: false, issuers: &[] };
    for hash in hashes {
        if let Err(gap) = records.covers(hash, &demand)? {
            return Ok(Some(gap.to_string()));
        }
    }
    Ok(None)
}

/// What the consent of a person allows to show to others on a day: nothing where there is no record, or one that
/// is forged, damaged, revoked, or not valid on that day.
pub fn publish(folder: &Path, person: &str, today: &str) -> Publish {
    let agreed = || -> Result<Publish> {
        let (record, value) = Record::read(&folder.join(person).join(CONSENT))?;
        let records = Records::revocations(folder)?;
        Ok(match records.fault(&record, &value, today, &[])? {
            None => record.publish,
            Some(_) => Publish::No,
        })
    };
    agreed().unwrap_or(Publish::No)
}
