//! The bytes of a file, by range, and what can happen to a file after it was opened.
//!
//! A file is never mapped: one that gets shorter, is written over, or lies on a medium that fails is
//! then an error of a read, with the name of the file, where a mapping would end the process. A file
//! that is replaced by renaming, as this program writes, goes on being read as it was.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyid_ir::memory;

use crate::error::{Error, Result};
use crate::input;
use crate::output::{no_descriptor, too_many_files};

/// An open file, or bytes that stand for one.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    File {
        file: File,
        /// Length and time of the last change when it was opened.
        length: u64,
        changed: Option<SystemTime>,
    },
    Memory(Cow<'static, [u8]>),
}

/// Bytes read at a time where not all are wanted at once.
const PIECE: u64 = 1 << 20;

impl Source {
    /// Opens a regular file.
    ///
    /// # Errors
    /// E0310.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let (file, length) = input::open_regular(path).map_err(|fault| open_error(path, fault))?;
        let changed = file.metadata().map_err(|fault| open_error(path, fault))?.modified().ok();
        Ok(Self { path: path.to_owned(), bytes: Bytes::File { file, length, changed } })
    }

    /// Bytes in memory; `label` stands in for a path.
    pub(super) fn in_memory(bytes: Cow<'static, [u8]>, label: PathBuf) -> Self {
        Self { path: label, bytes: Bytes::Memory(bytes) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn length(&self) -> u64 {
        match &self.bytes {
            Bytes::File { length, .. } => *length,
            Bytes::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Fills `out` with the bytes from `from` on, which lie inside [`Source::length`]; `what` is
    /// being read.
    ///
    /// # Errors
    /// E0330 where the file has become shorter since it was opened, E0331 where it was changed,
    /// E0332 where the system cannot read it.
    pub(super) fn read(
        &self,
        from: u64,
        out: &mut [u8],
        what: impl FnOnce() -> String,
    ) -> Result<()> {
        let fault = match &self.bytes {
            Bytes::Memory(bytes) => {
                out.copy_from_slice(&bytes[from as usize..from as usize + out.len()]);
                return Ok(());
            }
            Bytes::File { file, length, changed } => {
                match fill(file, from, out).and_then(|()| still(file, *length, *changed)) {
                    Ok(()) => return Ok(()),
                    Err(fault) => fault,
                }
            }
        };
        Err(fault.coded(&what()).at(self.path.display()))
    }

    /// `head` and what follows it up to the byte `until`, which lies inside [`Source::length`].
    ///
    /// # Errors
    /// As [`Source::read`], and E0603 where there is no memory for them.
    pub(super) fn bytes(&self, until: u64, what: &str, mut head: Vec<u8>) -> Result<Vec<u8>> {
        while (head.len() as u64) < until {
            let from = head.len();
            let count = (until - from as u64).min(PIECE) as usize;
            memory::ask(|| head.try_reserve(count))
                .map_err(|_| Error::no_memory(until, what).at(self.path.display()))?;
            head.resize(from + count, 0);
            self.read(from as u64, &mut head[from..], || what.to_owned())?;
        }
        Ok(head)
    }

    /// Calls `take` with the bytes from `from` up to `until`, a piece after the other.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub(super) fn pieces(&self, from: u64, until: u64, mut take: impl FnMut(&[u8])) -> Result<()> {
        let mut buffer = vec![0; PIECE.min(until.saturating_sub(from)) as usize];
        let mut at = from;
        while at < until {
            let piece = &mut buffer[..PIECE.min(until - at) as usize];
            self.read(at, piece, || "the file".to_owned())?;
            take(piece);
            at += piece.len() as u64;
        }
        Ok(())
    }
}

/// What can happen to a file after it was opened.
#[derive(Debug)]
enum Fault {
    Shorter,
    Changed,
    Failed(io::Error),
}

impl Fault {
    /// The coded error; `what` was being read.
    fn coded(self, what: &str) -> Error {
        match self {
            Self::Shorter => {
                Error::input("E0330", format!("the file got shorter while {what} was read"))
                    .help("another program cut or rewrites it: wait for that, then start again")
            }
            Self::Changed => {
                Error::input("E0331", format!("the file was changed while {what} was read"))
                    .help("another program writes to it: wait for that, then start again")
            }
            Self::Failed(fault) => Error::input("E0332", format!("reading {what} failed"))
                .help("the disk, the network drive or the connection to it may be at fault")
                .caused_by(fault),
        }
    }
}

/// Whether a file is what it was when it was opened, as far as length and time tell.
fn still(file: &File, length: u64, changed: Option<SystemTime>) -> Result<(), Fault> {
    let about = file.metadata().map_err(Fault::Failed)?;
    if about.len() < length {
        return Err(Fault::Shorter);
    }
    match about.len() == length && about.modified().ok() == changed {
        true => Ok(()),
        false => Err(Fault::Changed),
    }
}

/// Reads the bytes from `from` on until `out` is full.
fn fill(file: &File, mut from: u64, mut out: &mut [u8]) -> Result<(), Fault> {
    while !out.is_empty() {
        match read_some(file, from, out) {
            Ok(0) => return Err(Fault::Shorter),
            Ok(count) => {
                from += count as u64;
                out = &mut out[count..];
            }
            Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
            Err(fault) => return Err(Fault::Failed(fault)),
        }
    }
    Ok(())
}

#[cfg(unix)]
fn read_some(file: &File, from: u64, out: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, out, from)
}

#[cfg(windows)]
fn read_some(file: &File, from: u64, out: &mut [u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, out, from)
}

fn open_error(path: &Path, fault: io::Error) -> Error {
    if too_many_files(&fault) {
        return no_descriptor(fault).at(path.display());
    }
    let (what, help) = match fault.kind() {
        ErrorKind::NotFound => ("the file does not exist", "check the path for typing mistakes"),
        ErrorKind::PermissionDenied => {
            ("the file may not be read", "check its permissions and those of its folders")
        }
        ErrorKind::InvalidInput => (
            "this is not a checkpoint file",
            "name the file itself: of a folder one inside it, of a pipe or device a copy",
        ),
        _ => ("the file cannot be read", "see the cause; the file system may be at fault"),
    };
    Error::input("E0310", what).at(path.display()).help(help).caused_by(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_medium_that_fails_is_an_error_with_its_cause() {
        // Reading a process' memory at an address where there is none is an input error.
        let bytes =
            Bytes::File { file: File::open("/proc/self/mem").unwrap(), length: 8, changed: None };
        let source = Source { path: "weights".into(), bytes };
        let error = source.read(0, &mut [0; 8], || "tensor `w`".to_owned()).unwrap_err();
        assert_eq!((error.code(), error.place()), ("E0332", Some("weights")), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }
}
