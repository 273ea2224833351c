//! Verdicts on disk: one JSON object a line. The first says how clips are made, a line for each arm
//! with which weights, and the others what a clip of an arm gave.
//!
//! Lines are written as soon as there is something to keep, so an evaluation that was stopped goes
//! on where it was, and may go on with more people and arms. A last line that was cut off by a kill is
//! dropped; any other that cannot be read means that the file is something else, which is left alone.

use anyid_runtime::error::unreadable;
use anyid_runtime::files::write_error;
use anyid_runtime::{Error, Result};
use anyid_world::{Part, Parts};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What the first line is.
const SCHEMA: &str = "anyid.verdicts/1";
/// How every file begins.
const HEADER: &[u8] = b"{\"about\"";
const NO_HEADER: &str = "its first line is no header";
/// Largest file that is read, in bytes.
const LARGEST: u64 = 1 << 30;

/// The verdicts of an evaluation: what each arm's clip of each group gave.
#[derive(Debug, Default)]
pub struct Verdicts {
    parts: BTreeMap<(String, u64), Parts>,
    file: Option<(PathBuf, File)>,
}

impl Verdicts {
    /// Verdicts that are kept in memory alone, or in a file too. `about` is how clips are made, and
    /// `arms` has the weights of each arm.
    ///
    /// # Errors
    /// E0988 for a file of something else or of another evaluation, E0911 where it cannot be read,
    /// E1010 to E1013 where it cannot be written.
    pub fn open(path: Option<&Path>, about: &Value, arms: &[(String, Value)]) -> Result<Self> {
        let mut out = Self::default();
        let Some(path) = path else { return Ok(out) };
        let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = opened.map_err(|fault| write_error(path, fault))?;
        let found = file.metadata().map_err(|fault| unreadable(path, fault))?;
        if !found.is_file() || found.len() > LARGEST {
            return Err(foreign(path, "it is no file, or too large"));
        }
        let mut text = Vec::new();
        let read = (&file).take(LARGEST).read_to_end(&mut text);
        read.map_err(|fault| unreadable(path, fault))?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let begins = text.iter().zip(HEADER).all(|(byte, wanted)| byte == wanted);
        let known = out.read(path, &text[..whole], about, arms)?;
        if !begins {
            return Err(foreign(path, NO_HEADER));
        }
        let cut = file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0)));
        cut.map_err(|fault| write_error(path, fault))?;
        out.file = Some((path.to_owned(), file));
        if whole == 0 {
            out.append(&json!({"about": about, "schema": SCHEMA}))?;
        }
        for (name, weights) in arms.iter().filter(|(name, _)| !known.contains(name)) {
            out.append(&json!({"arm": name, "weights": weights}))?;
        }
        Ok(out)
    }

    /// Takes the lines of a file; gives the arms that it has.
    fn read(
        &mut self,
        path: &Path,
        text: &[u8],
        about: &Value,
        arms: &[(String, Value)],
    ) -> Result<BTreeSet<String>> {
        let mut known = BTreeSet::new();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        for (number, line) in (1..).zip(lines) {
            let wrong = || foreign(path, &format!("its line {number} is no verdict"));
            let value: Value = match serde_json::from_slice(line) {
                Ok(value) => value,
                Err(_) if number == 1 => return Err(foreign(path, NO_HEADER)),
                Err(_) => return Err(wrong()),
            };
            if number == 1 {
                check(path, &value, about)?;
                continue;
            }
            let arm = value.get("arm").and_then(Value::as_str).ok_or_else(wrong)?.to_owned();
            if let Some(weights) = value.get("weights") {
                let now = arms.iter().find(|(name, _)| *name == arm);
                if now.is_some_and(|(_, now)| now != weights) {
                    return Err(foreign(path, &format!("its arm \"{arm}\" is of other weights")));
                }
                known.insert(arm);
                continue;
            }
            let (group, parts) = verdict(&value).ok_or_else(wrong)?;
            self.parts.insert((arm, group), parts);
        }
        Ok(known)
    }

    /// What the clip of an arm for a group gave, if it was judged.
    pub fn of(&self, arm: &str, group: u64) -> Option<&Parts> {
        self.parts.get(&(arm.to_owned(), group))
    }

    /// Keeps what the clip of an arm for a group gave.
    ///
    /// # Errors
    /// E1012 and others where the file cannot be written.
    pub fn put(&mut self, arm: &str, group: u64, parts: Parts) -> Result<()> {
        let list: Map<String, Value> = parts
            .iter()
            .map(|(name, part)| (name.clone(), json!([part.sum, part.cases])))
            .collect();
        self.append(&json!({"arm": arm, "group": group, "parts": list}))?;
        self.parts.insert((arm.to_owned(), group), parts);
        Ok(())
    }

    fn append(&mut self, line: &Value) -> Result<()> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        file.write_all(format!("{line}\n").as_bytes()).map_err(|fault| write_error(path, fault))
    }
}

fn foreign(path: &Path, why: &str) -> Error {
    Error::input("E0988", format!("this file does not hold verdicts of this evaluation: {why}"))
        .at(path.display())
        .help("give another file to --keep, or remove this one to begin again")
}

/// Compares the header with what the evaluation is.
fn check(path: &Path, header: &Value, about: &Value) -> Result<()> {
    if header.get("schema").and_then(Value::as_str) != Some(SCHEMA) {
        return Err(foreign(path, NO_HEADER));
    }
    let found = header.get("about").unwrap_or(&Value::Null);
    let keys = about.as_object().into_iter().flatten();
    for (key, wanted) in keys {
        // Through text, as it went into the file.
        let text = |value: &Value| value.to_string();
        let other = found.get(key).unwrap_or(&Value::Null);
        if text(other) != text(wanted) {
            return Err(foreign(path, &format!("its \"{key}\" is {other}, not {wanted}")));
        }
    }
    Ok(())
}

fn verdict(value: &Value) -> Option<(u64, Parts)> {
    let mut parts = Parts::new();
    for (name, part) in value.get("parts")?.as_object()? {
        let (sum, cases) = (part.get(0)?.as_f64()?, part.get(1)?.as_f64()?);
        parts.insert(name.clone(), Part { sum, cases });
    }
    Some((value.get("group")?.as_u64()?, parts))
}
