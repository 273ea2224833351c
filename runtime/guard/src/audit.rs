//! The audit log: one line of JSON for each decision, chained by hashes.
//!
//! Each record holds the hash of the one before and its own. A line that is edited, removed or put in
//! shows in [`AuditLog::verify`]; lines cut off at the end do not, unless somebody knows the last hash. Writers
//! take turns by a lock file. At 64 MiB the log is continued in a new file, whose first record holds
//! the last hash of the old one. With a key, each hundredth record is signed: whoever writes a log
//! anew without the key, with all its hashes, cannot make that signature. What is written down is up
//! to the caller.

use crate::signature::{SecretKey, is_signed, signed_bytes};
use crate::time;
use anyid_files::error::{Error, Result, unreadable};
use anyid_files::output::{make_folder, write_error};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where a log continues in a new file.
const MOST_BYTES: u64 = 64 << 20;
/// The numbers of records that are signed, where there is a key, are its multiples.
pub const SIGNED_EVERY: u64 = 100;
/// No record is longer.
const LONGEST_LINE: u64 = 1 << 20;
/// What the first record has instead of a hash before it.
const BEGINNING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// An audit log.
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
    most_bytes: u64,
    key: Option<SecretKey>,
    signer: Option<String>,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// `generate`, `block`, `consent`, ….
    pub event: &'static str,
    /// `allow`, `warn` or `block`.
    pub decision: &'static str,
    /// Further members: `categories`, `refs`, `output_sha256`, ….
    pub more: Map<String, Value>,
}

/// What a log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Records in all files.
    pub records: u64,
    /// The last hash.
    pub head: String,
    /// The last record that is signed; 0 if none is.
    pub signed: u64,
    /// The public keys of those who signed, each once.
    pub signers: Vec<String>,
    /// Files, the oldest first.
    pub files: Vec<PathBuf>,
}

/// A moment as records state it: `2026-11-30T14:05:09Z`.
pub fn moment(moment: SystemTime) -> String {
    time::text(moment)
}

fn damaged(path: &Path, line: u64, what: impl Into<String>) -> Error {
    Error::input("E1108", what)
        .at(format!("{}:{line}", path.display()))
        .help("keep the file as evidence, move it away, and find out who changed it")
}

fn hash_of(record: &Value) -> Result<String> {
    Ok(crate::hex(&Sha256::digest(signed_bytes(record)?)))
}

impl AuditLog {
    /// The log in `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), most_bytes: MOST_BYTES, key: None, signer: None }
    }

    /// The same, whose records of certain numbers ([`SIGNED_EVERY`]) are signed from now on.
    pub fn signed_with(self, key: Option<SecretKey>) -> Self {
        Self { key, ..self }
    }

    /// The same, whose records of these numbers have to be signed by the key of this public text.
    pub fn expecting(self, signer: Option<String>) -> Self {
        Self { signer, ..self }
    }

    /// Its newest file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a record. It is on the disk when this returns.
    ///
    /// # Errors
    /// E1108 the last record is damaged, E1010–E1014 it cannot be written.
    pub fn append(&self, entry: &Entry, now: SystemTime) -> Result<()> {
        let fail = |fault| write_error(&self.path, fault);
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            make_folder(folder)?;
        }
        let lock_path = self.path.with_extension("lock");
        let lock = private(OpenOptions::new().create(true).truncate(false).write(true))
            .open(&lock_path)
            .map_err(|fault| write_error(&lock_path, fault))?;
        lock.lock().map_err(|fault| write_error(&lock_path, fault))?;
        let last = match self.last()? {
            Some(last) => Some(last),
            // A log that was continued elsewhere and not yet written to.
            None => match self.files()?.pop() {
                Some(older) => Self::new(older).last()?,
                None => None,
            },
        };
        let (seq, prev) = match &last {
            Some(record) => (record["seq"].as_u64().unwrap_or(0) + 1, record["hash"].clone()),
            None => (1, json!(BEGINNING)),
        };
        if std::fs::metadata(&self.path).is_ok_and(|about| about.len() >= self.most_bytes) {
            let older = self.older(seq - 1);
            std::fs::rename(&self.path, &older).map_err(|fault| write_error(&older, fault))?;
        }
        let mut record = json!({
            "seq": seq,
            "at": time::text(now),
            "prev": prev,
            "event": entry.event,
            "decision": entry.decision,
        });
        let members = record.as_object_mut().expect("it is an object");
        members.extend(entry.more.clone());
        let key = self.key.as_ref().filter(|_| seq % SIGNED_EVERY == 0);
        if let Some(key) = key {
            record["key"] = json!(key.public());
        }
        let hash = hash_of(&record)?;
        record["hash"] = json!(hash);
        if let Some(key) = key {
            // Of the hash of the record before as well, and so of all before.
            record["sig"] = json!(key.sign(&record)?);
        }
        let mut file =
            private(OpenOptions::new().create(true).append(true)).open(&self.path).map_err(fail)?;
        // In one call, so that a fault leaves a whole line or a torn one, and no two mixed.
        file.write_all(format!("{record}\n").as_bytes()).map_err(fail)?;
        file.sync_all().map_err(fail)
    }

    /// Checks the last record, which the next one is chained to.
    ///
    /// # Errors
    /// E1108 it is damaged, E0911 it cannot be read.
    pub fn check_end(&self) -> Result<()> {
        self.last().map(drop)
    }

    /// The last record, if there is one.
    fn last(&self) -> Result<Option<Value>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(fault)
                if matches!(fault.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            Err(fault) => return Err(unreadable(&self.path, fault)),
        };
        let fail = |fault| unreadable(&self.path, fault);
        let length = file.metadata().map_err(fail)?.len();
        if length == 0 {
            return Ok(None);
        }
        let start = length.saturating_sub(LONGEST_LINE);
        file.seek(SeekFrom::Start(start)).map_err(fail)?;
        let mut tail = Vec::new();
        file.take(LONGEST_LINE).read_to_end(&mut tail).map_err(fail)?;
        let text = String::from_utf8_lossy(&tail);
        let whole = text.ends_with('\n');
        let line = text.trim_end_matches('\n').rsplit('\n').next().unwrap_or_default();
        let record: Option<Value> = serde_json::from_str(line).ok().filter(|_| whole);
        let record = match record {
            Some(record) if hash_of(&record).is_ok_and(|hash| hash == record["hash"]) => record,
            // The line is counted only where it is wrong.
            _ => {
                return Err(self
                    .verify()
                    .err()
                    .unwrap_or_else(|| damaged(&self.path, 0, "the last record is damaged")));
            }
        };
        Ok(Some(record))
    }

    /// The name of an older file whose last record is `seq`.
    fn older(&self, seq: u64) -> PathBuf {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!("{stem}-{seq:012}.jsonl"))
    }

    /// Older files, the oldest first.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let stem = format!("{}-", self.path.file_stem().unwrap_or_default().to_string_lossy());
        let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let number = name.strip_prefix(&stem).and_then(|rest| rest.strip_suffix(".jsonl"));
                number.is_some_and(|n| n.len() == 12 && n.bytes().all(|c| c.is_ascii_digit()))
            })
            .collect();
        found.sort();
        Ok(found)
    }

    /// Every record, the oldest first, to `visit`, after it was checked.
    ///
    /// # Errors
    /// E1108 naming the first line that is wrong, E0911 a file cannot be read, and what `visit`
    /// gives.
    pub fn read(&self, visit: &mut dyn FnMut(&Value) -> Result<()>) -> Result<Verified> {
        let mut files = self.files()?;
        if self.path.exists() || files.is_empty() {
            files.push(self.path.clone());
        }
        let (mut records, mut head) = (0, BEGINNING.to_owned());
        let (mut signed, mut signers) = (0, Vec::<String>::new());
        for path in &files {
            let file = File::open(path).map_err(|fault| unreadable(path, fault))?;
            let mut reader = BufReader::new(file);
            for line in 1.. {
                let mut text = Vec::new();
                let limit = LONGEST_LINE + 1;
                let read = reader.by_ref().take(limit).read_until(b'\n', &mut text);
                if read.map_err(|fault| unreadable(path, fault))? == 0 {
                    break;
                }
                let bad = |what: &str| damaged(path, line, what);
                if text.pop() != Some(b'\n') {
                    return Err(bad("the record is torn: its end is missing"));
                }
                let record: Value = serde_json::from_slice(&text)
                    .map_err(|fault| bad("the record is not JSON").caused_by(fault))?;
                let hash = record["hash"].as_str().unwrap_or_default();
                if !hash_of(&record).is_ok_and(|own| own == hash) {
                    return Err(bad("the record was edited: its hash is another"));
                }
                if record["prev"] != json!(head) || record["seq"] != json!(records + 1) {
                    return Err(bad("a record before this one was removed, added or moved"));
                }
                head = hash.to_owned();
                records += 1;
                match (record["key"].as_str(), &self.signer) {
                    (Some(key), _) if !is_signed(&record, key)? => {
                        return Err(bad("the signature of the record is wrong"));
                    }
                    (key, Some(signer))
                        if records % SIGNED_EVERY == 0 && key != Some(signer.as_str()) =>
                    {
                        return Err(bad("the record is not signed by the key that was given"));
                    }
                    (Some(key), _) => {
                        signed = records;
                        if !signers.iter().any(|known| known == key) {
                            signers.push(key.to_owned());
                        }
                    }
                    (None, _) => {}
                }
                visit(&record)?;
            }
        }
        Ok(Verified { records, head, signed, signers, files })
    }

    /// Checks the whole log.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn verify(&self) -> Result<Verified> {
        self.read(&mut |_| Ok(()))
    }
}

#[cfg(unix)]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600)
}

#[cfg(not(unix))]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> Entry {
        let mut more = Map::new();
        more.insert("number".to_owned(), json!(number));
        Entry { event: "generate", decision: "allow", more }
    }

    fn log(folder: &Path, count: u64) -> AuditLog {
        let log = AuditLog::new(folder.join("state/audit.jsonl"));
        (0..count).for_each(|k| log.append(&entry(k), SystemTime::UNIX_EPOCH).unwrap());
        log
    }

    fn place(log: &AuditLog) -> String {
        let error = log.verify().unwrap_err();
        assert_eq!(error.code(), "E1108", "{error}");
        error.place().unwrap().rsplit(':').next().unwrap().to_owned()
    }

    #[test]
    fn records_are_chained_and_changes_are_named_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), 5);
        assert_eq!(log.verify().unwrap().records, 5);
        let text = std::fs::read_to_string(log.path()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let write = |lines: &[&str]| {
            std::fs::write(log.path(), lines.join("\n") + "\n").unwrap();
        };
        write(&[lines[0], lines[1], lines[3], lines[4]]);
        assert_eq!(place(&log), "3");
        let edited = lines[2].replace("allow", "block");
        write(&[lines[0], lines[1], &edited, lines[3], lines[4]]);
        assert_eq!(place(&log), "3");
        write(&[lines[0], lines[2], lines[1], lines[3], lines[4]]);
        assert_eq!(place(&log), "2");
        write(&[lines[1], lines[2]]);
        assert_eq!(place(&log), "1");
        write(&[lines[0], "{", lines[2]]);
        assert_eq!(place(&log), "2");
        // A torn end: nothing is appended to it.
        std::fs::write(log.path(), &text[..text.len() - 9]).unwrap();
        assert_eq!(place(&log), "5");
        let error = log.append(&entry(9), SystemTime::UNIX_EPOCH).unwrap_err();
        assert!(error.code() == "E1108" && error.place().unwrap().ends_with(":5"), "{error}");
        std::fs::write(log.path(), &text).unwrap();
        log.append(&entry(9), SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(log.verify().unwrap().records, 6);
    }

    #[test]
    fn many_writers_keep_the_chain() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| log(folder.path(), 6));
            }
        });
        assert_eq!(log(folder.path(), 0).verify().unwrap().records, 48);
    }

    #[test]
    fn a_long_log_goes_on_in_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::new(folder.path().join("audit.jsonl"));
        let log = AuditLog { most_bytes: 1000, ..log };
        (0..20).for_each(|k| log.append(&entry(k), SystemTime::now()).unwrap());
        let found = log.verify().unwrap();
        assert!(found.records == 20 && found.files.len() > 3, "{found:?}");
        // An older file that is gone is noticed.
        std::fs::remove_file(&found.files[1]).unwrap();
        assert_eq!(place(&log), "1");
    }

    #[test]
    fn each_hundredth_record_is_signed_where_there_is_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let key = SecretKey::of(&[5; 32]);
        let path = folder.path().join("audit.jsonl");
        let log = AuditLog::new(&path).signed_with(Some(key.clone()));
        (0..205).for_each(|k| log.append(&entry(k), SystemTime::UNIX_EPOCH).unwrap());
        let found = log.verify().unwrap();
        assert_eq!((found.records, found.signed), (205, 200));
        assert_eq!(found.signers, [key.public()]);
        let expecting = |key: &SecretKey| log.clone().expecting(Some(key.public()));
        assert_eq!(expecting(&key).verify().unwrap(), found);
        let other = SecretKey::of(&[6; 32]);
        assert_eq!(place(&expecting(&other)), "100");
        assert!(!format!("{log:?}").contains("0505"), "no secret is shown");

        // A signature that is taken away or put in from elsewhere shows by itself.
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let write = |lines: &[Value]| {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(&path, text).unwrap();
        };
        let mut without = lines.clone();
        without[99].as_object_mut().unwrap().remove("sig");
        write(&without);
        assert_eq!(place(&log), "100");
        let mut foreign = lines.clone();
        foreign[199]["sig"] = foreign[99]["sig"].clone();
        write(&foreign);
        assert_eq!(place(&log), "200");

        // A log that was written anew with all its hashes is whole by itself; the key tells.
        std::fs::remove_file(&path).unwrap();
        let forged = AuditLog::new(&path);
        (0..205).for_each(|k| forged.append(&entry(k + 1), SystemTime::UNIX_EPOCH).unwrap());
        assert_eq!(log.verify().unwrap().signed, 0);
        assert_eq!(place(&expecting(&key)), "100");
    }

    #[test]
    fn what_cannot_be_written_or_read_is_said() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let log = AuditLog::new(folder.path().join("file/audit.jsonl"));
        let code = log.append(&entry(0), SystemTime::now()).unwrap_err().code();
        assert!(["E1014", "E1010"].contains(&code), "{code}");
        let none = AuditLog::new(folder.path().join("none.jsonl")).verify().unwrap_err();
        assert_eq!(none.code(), "E0911");
    }
}
