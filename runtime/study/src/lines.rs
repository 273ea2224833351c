//! Files of lines: read one by one, each fault with its number.

use anyid_files::input::open_regular;
use anyid_files::{Error, Result, error};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Longest line that is read, in bytes.
const LONGEST: u64 = 64 << 20;

/// SHA-256 in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The lines of a file, one after the other; empty ones are left out.
pub struct Lines {
    path: PathBuf,
    reader: Option<BufReader<std::fs::File>>,
    number: usize,
}

impl Lines {
    /// Opens a file.
    ///
    /// # Errors
    /// E0911.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, _) = open_regular(path).map_err(|fault| error::unreadable(path, fault))?;
        Ok(Self { path: path.to_owned(), reader: Some(BufReader::new(file)), number: 0 })
    }

    /// The line that was read last, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The error E1202 for the line that was read last.
    pub fn fault(&self, what: impl std::fmt::Display) -> Error {
        Error::input("E1202", format!("line {}: {what}", self.number))
            .at(self.path.display())
            .help("`anyid-rt data check FILE` shows all that is wrong with a file")
    }

    fn read(&mut self) -> Result<Option<String>> {
        loop {
            let Some(reader) = &mut self.reader else { return Ok(None) };
            let mut bytes = Vec::new();
            self.number += 1;
            reader
                .by_ref()
                .take(LONGEST + 1)
                .read_until(b'\n', &mut bytes)
                .map_err(|fault| error::unreadable(&self.path, fault))?;
            if bytes.is_empty() {
                self.reader = None;
                return Ok(None);
            }
            if bytes.len() as u64 > LONGEST {
                return Err(self.fault(format!("it is longer than {LONGEST} bytes")));
            }
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            return match String::from_utf8(bytes) {
                Ok(line) => Ok(Some(line)),
                Err(fault) => {
                    let place = fault.utf8_error().valid_up_to() + 1;
                    Err(self.fault(format!("this is not UTF-8 text, at byte {place}")))
                }
            };
        }
    }
}

impl Iterator for Lines {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.reader = None;
        }
        read.transpose()
    }
}

/// What a line says, which must be of a schema.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parsed<T: DeserializeOwned>(line: &str, schema: &str) -> Result<T, String> {
    let value: serde_json::Value = serde_json::from_str(line).map_err(|fault| {
        let what = fault.to_string();
        let what = what.split(" at line ").next().unwrap_or_default();
        format!("this is not JSON: {what}, at column {}", fault.column())
    })?;
    match value.get("schema").and_then(|found| found.as_str()) {
        Some(found) if found == schema => {}
        Some(found) => return Err(format!("\"schema\" is \"{found}\", expected \"{schema}\"")),
        None => return Err(format!("\"schema\" is missing, expected \"{schema}\"")),
    }
    T::deserialize(value).map_err(|fault| fault.to_string())
}

/// Every line of a file.
///
/// # Errors
/// E0911, E1202.
pub fn all<T: DeserializeOwned>(path: &Path, schema: &str) -> Result<Vec<T>> {
    let mut lines = Lines::open(path)?;
    let mut out = Vec::new();
    while let Some(line) = lines.next() {
        out.push(parsed(&line?, schema).map_err(|what| lines.fault(what))?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Group, schema};
    use crate::testing::TempFolder;

    #[test]
    fn faults_have_their_line() {
        let folder = TempFolder::new("lines");
        let read = |text: &[u8]| all::<Group>(&folder.write("x.jsonl", text), schema::GROUP);
        let good = r#"{"schema":"anyid.group/1","id":"a","clips":["b"],"medoid":null,"cohesion":null,"given":true,"outliers":[],"duplicates_of":[],"copies":[],"consent":"c.json"}"#;
        let groups = read(format!("\n{good}\n\n{good}").as_bytes()).unwrap();
        assert_eq!((groups.len(), groups[0].other["consent"].as_str()), (2, Some("c.json")));
        for (text, part) in [
            ("{", "line 2: this is not JSON"),
            ("{}", "line 2: \"schema\" is missing"),
            (r#"{"schema": "anyid.clip/1"}"#, "expected \"anyid.group/1\""),
            (r#"{"schema": "anyid.group/1"}"#, "missing field"),
        ] {
            let error = read(format!("{good}\n{text}\n").as_bytes()).unwrap_err();
            assert!(error.code() == "E1202" && error.message().contains(part), "{error}");
        }
        let error = read(b"\xff\n").unwrap_err();
        assert!(error.message().contains("line 1: this is not UTF-8 text, at byte 1"), "{error}");
        assert_eq!(all::<Group>(&folder.path().join("no"), "x").unwrap_err().code(), "E0911");
    }
}
