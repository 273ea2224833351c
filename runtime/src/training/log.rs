//! What a run records while it goes: a line of JSON for each update, and the same numbers for
//! TensorBoard.
//!
//! Lines are appended and never rewritten. When a run goes on from a checkpoint, the lines of updates
//! behind it are dropped, since they are made again, and the file for TensorBoard is written anew
//! from those that stay.

use super::read_bytes;
use crate::checkpoint::write_error;
use crate::error::{Result, plural};
use crate::files::AtomicFile;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Name of the log in the folder of a run.
pub const LOG: &str = "log.jsonl";
/// Name of the file for TensorBoard.
pub const EVENTS: &str = "events.out.tfevents.0.anyid-rt";

/// The open logs of a run.
pub struct Log {
    lines: (PathBuf, File),
    events: (PathBuf, File),
}

impl Log {
    /// Opens the logs in `folder` and drops what comes after update `updates`. Gives what is to be said where
    /// lines of updates before it are not there.
    ///
    /// # Errors
    /// E0911 where the log cannot be read, E1011 to E1014 where it cannot be written.
    pub fn open(folder: &Path, updates: u64) -> Result<(Self, Option<String>)> {
        let (lines, events) = (folder.join(LOG), folder.join(EVENTS));
        let old = match lines.is_file() {
            true => read_bytes(&lines, u64::MAX >> 1)?,
            false => Vec::new(),
        };
        let (mut kept, mut logged, mut foreign) = (Vec::new(), BTreeSet::new(), 0);
        let mut scalars = event(0, &text_field(3, "brain.Event:2"));
        for line in old.split_inclusive(|byte| *byte == b'\n') {
            let row = serde_json::from_slice::<Value>(line).ok();
            let step = row.as_ref().and_then(|row| row.get("step")?.as_u64());
            match (row, step) {
                (Some(Value::Object(row)), Some(step)) => {
                    if step <= updates {
                        kept.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
                        kept.push(b'\n');
                        scalars.extend(summary(step, &row));
                        logged.insert(step);
                    }
                }
                // The last line of a run that was killed may be incomplete.
                _ if line.trim_ascii().is_empty() => {}
                _ => foreign += usize::from(line.ends_with(b"\n")),
            }
        }
        let lost: Vec<u64> = (1..=updates).filter(|step| !logged.contains(step)).collect();
        if kept != old {
            let mut file = AtomicFile::create(&lines)?;
            file.append(&kept)?;
            file.commit()?;
        }
        let mut file = AtomicFile::create(&events)?;
        file.append(&scalars)?;
        file.commit()?;
        let append = |path: PathBuf| -> Result<(PathBuf, File)> {
            let file = File::options().create(true).append(true).open(&path);
            let file = file.map_err(|fault| write_error(&path, fault))?;
            Ok((path, file))
        };
        let said = lost_lines(&lines, &lost, foreign);
        Ok((Self { lines: append(lines)?, events: append(events)? }, said))
    }

    /// Appends what there is to say after update `step`.
    ///
    /// # Errors
    /// E1012 disk full, E1013 otherwise.
    pub fn add(&mut self, step: u64, row: &Map<String, Value>) -> Result<()> {
        let mut line = Map::from_iter([("step".to_owned(), Value::from(step))]);
        line.extend(row.iter().map(|(key, value)| (key.clone(), value.clone())));
        let text = format!("{}\n", Value::Object(line.clone()));
        for ((path, file), bytes) in
            [(&mut self.lines, text.as_bytes()), (&mut self.events, &summary(step, &line))]
        {
            file.write_all(bytes).map_err(|fault| write_error(path, fault))?;
        }
        Ok(())
    }
}

/// What is to be said of a log that lacks the lines of these updates, and of lines in it that are none.
fn lost_lines(log: &Path, lost: &[u64], foreign: usize) -> Option<String> {
    let left_out = match foreign {
        0 => String::new(),
        1 => "1 line of it cannot be read and is dropped".to_owned(),
        count => format!("{count} lines of it cannot be read and are dropped"),
    };
    let [first, .., last] = lost else {
        let one = lost.first().map(|only| format!("it lacks the line of update {only}"));
        let said: Vec<String> =
            one.into_iter().chain(Some(left_out).filter(|said| !said.is_empty())).collect();
        return (!said.is_empty()).then(|| format!("{}: {}", log.display(), said.join("; ")));
    };
    let left_out = if left_out.is_empty() { left_out } else { format!("; {left_out}") };
    Some(format!(
        "{}: it lacks the lines of {} from {first} to {last}, whose numbers are lost{left_out}",
        log.display(),
        plural(lost.len(), "update"),
    ))
}

/// The numbers of a row as an event.
fn summary(step: u64, row: &Map<String, Value>) -> Vec<u8> {
    let mut values = Vec::new();
    let mut add = |name: &str, value: &Value| {
        if let Some(number) = value.as_f64() {
            let mut one = text_field(1, name);
            one.push(2 << 3 | 5);
            one.extend((number as f32).to_le_bytes());
            values.extend(bytes_field(1, &one));
        }
    };
    let told = |name: &str| name != "step" && name != "seconds_left";
    for (name, value) in row.iter().filter(|(name, _)| told(name)) {
        match value {
            Value::Object(parts) => {
                parts.iter().for_each(|(part, value)| add(&format!("{name}/{part}"), value));
            }
            value => add(name, value),
        }
    }
    event(step, &bytes_field(5, &values))
}

/// An event as a record of TensorBoard's files: length, its checksum, the message, its checksum.
/// It has no time of day, so that two runs alike write the same file.
fn event(step: u64, what: &[u8]) -> Vec<u8> {
    let mut message = vec![1 << 3 | 1];
    // Seconds since some beginning; TensorBoard shows differences.
    message.extend((step as f64).to_le_bytes());
    message.push(2 << 3);
    message.extend(varint(step));
    message.extend(what);
    let length = (message.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked(&length).to_le_bytes());
    out.extend(&message);
    out.extend(masked(&message).to_le_bytes());
    out
}

fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    out.extend(varint(bytes.len() as u64));
    out.extend(bytes);
    out
}

fn text_field(number: u8, text: &str) -> Vec<u8> {
    bytes_field(number, text.as_bytes())
}

/// A whole number as protocol buffers write it.
fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

/// The CRC-32C of bytes, rotated and shifted as the format of records wants it.
fn masked(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    });
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn checksums_are_crc_32c() {
        // The check value of CRC-32C, and of 32 zero bytes (RFC 3720).
        let crc = |bytes: &[u8]| masked(bytes).wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!((crc(b"123456789"), crc(&[0; 32])), (0xe306_9283, 0x8a91_36aa));
    }

    #[test]
    fn records_hold_the_numbers_by_name() {
        let bytes = summary(300, &row(json!({"step": 300, "loss": 0.5, "moved": {"a": 2.0}})));
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(bytes.len(), 8 + 4 + length + 4);
        let message = &bytes[12..12 + length];
        assert_eq!(message[9..12], [2 << 3, 0xac, 0x02], "the step, 300");
        let has = |text: &[u8]| message.windows(text.len()).any(|part| part == text);
        let mut loss = b"\x0a\x04loss\x15".to_vec();
        loss.extend(0.5f32.to_le_bytes());
        assert!(has(&loss) && has(b"moved/a") && !has(b"step"));
    }

    #[test]
    fn lines_behind_a_checkpoint_are_dropped_when_a_run_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), 0).unwrap().0;
        for step in 1..=3 {
            log.add(step, &row(json!({"loss": 0.5}))).unwrap();
        }
        drop(log);
        let path = folder.path().join(LOG);
        let whole = std::fs::read_to_string(&path).unwrap();
        let events = std::fs::read(folder.path().join(EVENTS)).unwrap();
        // A run that was killed while it wrote a line.
        std::fs::write(&path, format!("{whole}{{\"step\":4,\"lo")).unwrap();
        let (mut log, said) = Log::open(folder.path(), 2).unwrap();
        assert_eq!(said, None);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        log.add(3, &row(json!({"loss": 0.5}))).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
        assert_eq!(std::fs::read(folder.path().join(EVENTS)).unwrap(), events);
    }

    #[test]
    fn what_is_lost_of_a_log_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOG);
        let mut log = Log::open(folder.path(), 0).unwrap().0;
        (1..=5).for_each(|step| log.add(step, &row(json!({"loss": 0.5}))).unwrap());
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        let garbage: &[u8] = b"\xff\xfe\x00 none\n";
        for (bytes, said) in [
            (whole.clone(), None),
            (
                Vec::new(),
                Some("it lacks the lines of 5 updates from 1 to 5, whose numbers are lost"),
            ),
            (
                [lines[0], lines[2], lines[3], lines[4]].concat(),
                Some("it lacks the line of update 2"),
            ),
            (
                [garbage, lines[3], garbage].concat(),
                Some("from 1 to 5, whose numbers are lost; 2 lines of it cannot be read and are"),
            ),
            ([&whole, garbage].concat(), Some(": 1 line of it cannot be read and is dropped")),
        ] {
            std::fs::write(&path, &bytes).unwrap();
            let told = Log::open(folder.path(), 5).unwrap().1;
            assert_eq!(told.is_some(), said.is_some(), "{told:?}");
            let told = told.unwrap_or_default();
            assert!(told.contains(said.unwrap_or_default()), "{told}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_a_coded_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), 0).unwrap().0;
        log.lines.1 = File::options().append(true).open("/dev/full").unwrap();
        let error = log.add(1, &row(json!({"loss": 0.5}))).unwrap_err();
        assert_eq!(error.code(), "E1012");
    }
}
