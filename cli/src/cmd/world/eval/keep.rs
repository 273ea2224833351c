//! Verdicts on disk: one JSON object a line behind a header that says of which evaluation they are.
//!
//! Lines are written as soon as there is something to keep, so an evaluation that was stopped goes
//! on where it was. A last line that was cut off by a kill is dropped; any other that cannot be read
//! means that the file is something else, which is left alone.

use anyid_runtime::error::unreadable;
use anyid_runtime::files::write_error;
use anyid_runtime::{Error, Result};
use anyid_world::{Part, Parts};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What the first line is.
const SCHEMA: &str = "anyid.verdicts/1";
/// Largest file that is read, in bytes.
const LARGEST: u64 = 1 << 30;

/// The verdicts of an evaluation: what each arm's clip of each group gave.
#[derive(Debug, Default)]
pub struct Verdicts {
    parts: BTreeMap<(String, u64), Parts>,
    file: Option<(PathBuf, File)>,
}

impl Verdicts {
    /// Verdicts that are kept in memory alone, or in a file too. `about` is what decides them.
    ///
    /// # Errors
    /// E0988 for a file of something else or of another evaluation, E0911 where it cannot be read,
    /// E1010 to E1013 where it cannot be written.
    pub fn open(path: Option<&Path>, about: &Value) -> Result<Self> {
        let mut out = Self::default();
        let Some(path) = path else { return Ok(out) };
        let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = opened.map_err(|fault| write_error(path, fault))?;
        let about_file = file.metadata().map_err(|fault| unreadable(path, fault))?;
        if !about_file.is_file() || about_file.len() > LARGEST {
            return Err(foreign(path, "it is no file, or too large"));
        }
        let mut text = Vec::new();
        let read = (&file).take(LARGEST).read_to_end(&mut text);
        read.map_err(|fault| unreadable(path, fault))?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole == 0 && !b"{\"about\"".starts_with(&text[..text.len().min(8)]) {
            return Err(foreign(path, "its first line is no header"));
        }
        let mut lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let header = json!({"about": about, "schema": SCHEMA});
        match lines.next() {
            Some(line) => {
                let found: Value = serde_json::from_slice(line)
                    .map_err(|_| foreign(path, "its first line is no header"))?;
                check(path, &found, about)?;
            }
            None => {
                cut(&mut file, 0).map_err(|fault| write_error(path, fault))?;
                out.file = Some((path.to_owned(), file));
                out.append(&header)?;
                return Ok(out);
            }
        }
        for (number, line) in (2..).zip(lines) {
            let (arm, group, parts) = verdict(line)
                .ok_or_else(|| foreign(path, &format!("its line {number} is no verdict")))?;
            out.parts.insert((arm, group), parts);
        }
        cut(&mut file, whole as u64).map_err(|fault| write_error(path, fault))?;
        out.file = Some((path.to_owned(), file));
        Ok(out)
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

/// Drops what follows.
fn cut(file: &mut File, length: u64) -> std::io::Result<()> {
    file.set_len(length)?;
    file.seek(SeekFrom::End(0)).map(drop)
}

fn foreign(path: &Path, why: &str) -> Error {
    Error::input("E0988", format!("this file does not hold verdicts of this evaluation: {why}"))
        .at(path.display())
        .help("give another file to --keep, or remove this one to begin again")
}

/// Compares the header with what the evaluation is.
fn check(path: &Path, header: &Value, about: &Value) -> Result<()> {
    if header.get("schema").and_then(Value::as_str) != Some(SCHEMA) {
        return Err(foreign(path, "its first line is no header"));
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

fn verdict(line: &[u8]) -> Option<(String, u64, Parts)> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let mut parts = Parts::new();
    for (name, part) in value.get("parts")?.as_object()? {
        let (sum, cases) = (part.get(0)?.as_f64()?, part.get(1)?.as_f64()?);
        parts.insert(name.clone(), Part { sum, cases });
    }
    Some((value.get("arm")?.as_str()?.to_owned(), value.get("group")?.as_u64()?, parts))
}
