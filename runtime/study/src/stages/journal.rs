//! The journal of a part: which items are in it as a whole, so that a run that was killed goes on
//! behind them.

use super::part::Part;
use anyid_files::output::write_error;
use anyid_files::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::PathBuf;

#[derive(Serialize, Deserialize)]
struct Head {
    config: String,
    input: String,
}

/// An item that is in the part as a whole.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) media: String,
    /// Where its lines end, in bytes.
    pub(super) end: u64,
    pub(super) records: usize,
    pub(super) error: bool,
}

/// What is finished of a part, line by line.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    pub(super) seconds_before: f64,
}

impl Journal {
    /// Opens the journal of a part for this process alone.
    pub(super) fn open(part: &Part<'_>) -> Result<Self> {
        let path = part.path("journal");
        let fail = |fault| write_error(&path, fault);
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Error::input("E1207", "another run is at work on this part")
                    .at(path.display())
                    .help("wait for it, or give each run a part of its own (--shard)"));
            }
            Err(std::fs::TryLockError::Error(fault)) => return Err(fail(fault)),
        }
        Ok(Self { path, file, seconds_before: 0.0 })
    }

    /// The items that are in the part as a whole; what stands behind them is cut off.
    pub(super) fn entries(&mut self, part: &Part<'_>, length: u64) -> Result<Vec<Entry>> {
        let fail = |fault| write_error(&self.path, fault);
        let mut reader = BufReader::new(&self.file);
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).map_err(fail)?;
        let head: Option<Head> =
            line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok());
        let mut kept = line.len() as u64;
        let mut entries: Vec<Entry> = Vec::new();
        match head {
            Some(head) if part.fits(&head.config, &head.input) => loop {
                line.clear();
                reader.read_until(b'\n', &mut line).map_err(fail)?;
                let entry = line.strip_suffix(b"\n").and_then(|l| serde_json::from_slice(l).ok());
                let last = entries.last().map_or(0, |entry| entry.end);
                let Some(entry) =
                    entry.filter(|entry: &Entry| entry.end >= last && entry.end <= length)
                else {
                    break;
                };
                kept += line.len() as u64;
                entries.push(entry);
            },
            Some(head) if !part.redo => return Err(part.other(&head.config, &self.path)),
            _ => kept = 0,
        }
        self.file.set_len(kept).map_err(fail)?;
        self.file.seek(SeekFrom::Start(kept)).map_err(fail)?;
        if kept == 0 {
            let head = Head { config: part.config.clone(), input: part.input.clone() };
            self.file.write_all(format!("{}\n", json!(head)).as_bytes()).map_err(fail)?;
        }
        Ok(entries)
    }

    pub(super) fn add(&mut self, entry: &Entry) -> Result<()> {
        let line = format!("{}\n", json!(entry));
        self.file.write_all(line.as_bytes()).map_err(|fault| write_error(&self.path, fault))
    }
}
