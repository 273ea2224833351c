//! Files that grow by a JSON object a line as soon as there is something to keep, so that work which
//! was stopped goes on where it was.
//!
//! The first line says what the lines are about: a file of something else, or of other settings, is
//! left alone. A last line that was cut off by a kill is dropped.

use anyid_runtime::error::unreadable;
use anyid_runtime::files::write_error;
use anyid_runtime::{Error, Result};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// How every file begins.
const HEADER: &[u8] = b"{\"about\"";
const NO_HEADER: &str = "its first line is no header";
/// Largest file that is read, in bytes.
const LARGEST: u64 = 1 << 30;

/// What the lines of a file are.
#[derive(Debug)]
pub struct Lines {
    /// What the header says.
    pub schema: &'static str,
    /// The code of the error for a file of something else.
    pub code: &'static str,
    /// What such a file does not hold.
    pub what: &'static str,
    /// What helps.
    pub help: &'static str,
}

impl Lines {
    fn foreign(&self, path: &Path, why: &str) -> Error {
        Error::input(self.code, format!("this file does not hold {}: {why}", self.what))
            .at(path.display())
            .help(self.help)
    }
}

/// A file that grows.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    file: File,
}

impl Kept {
    /// Opens the file, or makes it, with a header that says `about`. `take` gets every other line
    /// with its number, and says why it is none of this file.
    ///
    /// # Errors
    /// That of `lines` for a file of something else, E0911 where it cannot be read, E1010 to E1013 where
    /// it cannot be written.
    pub fn open(
        path: &Path,
        lines: &Lines,
        about: &Value,
        take: &mut dyn FnMut(usize, &Value) -> std::result::Result<(), String>,
    ) -> Result<Self> {
        let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = opened.map_err(|fault| write_error(path, fault))?;
        let found = file.metadata().map_err(|fault| unreadable(path, fault))?;
        if !found.is_file() || found.len() > LARGEST {
            return Err(lines.foreign(path, "it is no file, or too large"));
        }
        let mut text = Vec::new();
        let read = (&file).take(LARGEST).read_to_end(&mut text);
        read.map_err(|fault| unreadable(path, fault))?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let begins = text.iter().zip(HEADER).all(|(byte, wanted)| byte == wanted);
        let list = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        for (number, line) in (1..).zip(list) {
            let taken = match (number, serde_json::from_slice::<Value>(line)) {
                (1, Ok(header)) => check(lines.schema, &header, about),
                (1, Err(_)) => Err(NO_HEADER.to_owned()),
                (_, Ok(value)) => take(number, &value),
                (_, Err(_)) => Err(format!("its line {number} is no JSON")),
            };
            taken.map_err(|why| lines.foreign(path, &why))?;
        }
        if !begins {
            return Err(lines.foreign(path, NO_HEADER));
        }
        let cut = file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0)));
        cut.map_err(|fault| write_error(path, fault))?;
        let mut out = Self { path: path.to_owned(), file };
        if whole == 0 {
            out.append(&json!({"about": about, "schema": lines.schema}))?;
        }
        Ok(out)
    }

    /// Puts a line behind the others.
    ///
    /// # Errors
    /// E1012 and others where the file cannot be written.
    pub fn append(&mut self, line: &Value) -> Result<()> {
        let (path, text) = (&self.path, format!("{line}\n"));
        self.file.write_all(text.as_bytes()).map_err(|fault| write_error(path, fault))
    }
}

/// Compares the header with what the file should be about.
fn check(schema: &str, header: &Value, about: &Value) -> std::result::Result<(), String> {
    if header.get("schema").and_then(Value::as_str) != Some(schema) {
        return Err(NO_HEADER.to_owned());
    }
    let found = header.get("about").unwrap_or(&Value::Null);
    for (key, wanted) in about.as_object().into_iter().flatten() {
        // Through text, as it went into the file.
        let text = |value: &Value| value.to_string();
        let other = found.get(key).unwrap_or(&Value::Null);
        if text(other) != text(wanted) {
            return Err(format!("its \"{key}\" is {other}, not {wanted}"));
        }
    }
    Ok(())
}
