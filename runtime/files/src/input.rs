//! Reading what a user names: one bounded way for every text and small binary file.
//!
//! Contract: a read ends, whatever the name stands for, and takes memory for what was read and no
//! more than its limit. Regular files are read as they are (a stated size is not believed: files of
//! `/proc` state none, sparse files state too much, others grow). Pipes are read while something
//! writes to them. Folders, devices and sockets are refused. It does not interpret what it reads.

use crate::error::{Error, Result};
use crate::output::{no_descriptor, too_many_files};
use crate::threads;
use anyid_ir::memory;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::Path;
#[cfg(unix)]
use std::time::Duration;

/// Why a file was not read.
#[derive(Debug)]
pub enum Refusal {
    /// It cannot be opened or read, or is nothing that can be.
    Unreadable(io::Error),
    /// It holds more than the limit, in bytes.
    TooLarge(u64),
    /// There is no memory for its contents; the bytes that were wanted.
    NoMemory(u64),
    /// There is no thread to wait for a pipe with.
    NoThread(io::Error),
}

impl Refusal {
    /// The coded error: `unreadable` and `too_large` make those of the two faults of the file.
    pub fn coded(
        self,
        path: &Path,
        unreadable: impl FnOnce(io::Error) -> Error,
        too_large: impl FnOnce(u64) -> Error,
    ) -> Error {
        match self {
            Self::Unreadable(fault) if too_many_files(&fault) => no_descriptor(fault),
            Self::Unreadable(fault) => unreadable(fault),
            Self::TooLarge(limit) => too_large(limit),
            Self::NoMemory(bytes) => Error::no_memory(bytes, "the contents of a file"),
            Self::NoThread(cause) => Error::threads(1, 0, cause),
        }
        .at(path.display())
    }
}

impl From<io::Error> for Refusal {
    fn from(fault: io::Error) -> Self {
        Self::Unreadable(fault)
    }
}

/// What a name stands for, as far as reading goes.
enum Source {
    Regular,
    Pipe,
}

fn unfit(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, what)
}

fn source(about: &Metadata) -> io::Result<Source> {
    if about.is_file() {
        return Ok(Source::Regular);
    }
    if about.is_dir() {
        return Err(unfit("it is a folder, not a file"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = about.file_type();
        if kind.is_fifo() {
            return Ok(Source::Pipe);
        }
        if kind.is_socket() {
            return Err(unfit("it is a socket, not a file"));
        }
    }
    Err(unfit("it is a device, which has no end: save what it gives to a file"))
}

/// Opens a regular file for reading; its size as the system states it.
///
/// # Errors
/// Those of the system, and `InvalidInput` for what is no regular file.
pub fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let regular = |about: &Metadata| match source(about)? {
        Source::Regular => Ok(about.len()),
        Source::Pipe => Err(unfit("it is a pipe: save what comes out of it to a file")),
    };
    // Asked before opening, which waits where a pipe has no writer, and again of what was opened.
    regular(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    let size = regular(&file.metadata()?)?;
    Ok((file, size))
}

/// The first `count` bytes of a regular file, fewer where it is shorter.
///
/// # Errors
/// As [`open_regular`].
pub fn head(path: &Path, count: u64) -> io::Result<Vec<u8>> {
    let (file, _) = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The contents of a regular file or a pipe, at most `limit` bytes.
///
/// A pipe is waited for: five seconds until something opens it for writing, a minute for the next
/// bytes.
///
/// # Errors
/// What stands in the way; see [`Refusal`].
pub fn read(path: &Path, limit: u64) -> std::result::Result<Vec<u8>, Refusal> {
    match source(&std::fs::metadata(path)?)? {
        Source::Regular => {
            let (file, size) = open_regular(path)?;
            if size > limit {
                return Err(Refusal::TooLarge(limit));
            }
            let mut reader = file;
            collect(limit, |piece| reader.read(piece))
        }
        Source::Pipe => pipe(path, limit),
    }
}

/// Bytes read at a time.
const PIECE: usize = 64 << 10;

/// Everything that `next` gives until it gives nothing, at most `limit` bytes.
fn collect(
    limit: u64,
    mut next: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> std::result::Result<Vec<u8>, Refusal> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut piece = memory::zeroed(PIECE).ok_or(Refusal::NoMemory(PIECE as u64))?;
    loop {
        let count = match next(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(count) => count,
            Err(fault) if fault.kind() == ErrorKind::Interrupted => continue,
            Err(fault) => return Err(fault.into()),
        };
        if bytes.len() as u64 + count as u64 > limit {
            return Err(Refusal::TooLarge(limit));
        }
        // Grows by halves, so that little is asked for in vain.
        if bytes.capacity() - bytes.len() < count {
            let more = count.max(bytes.len() / 2);
            memory::ask(|| bytes.try_reserve_exact(more))
                .map_err(|_| Refusal::NoMemory((bytes.len() + more) as u64))?;
        }
        bytes.extend_from_slice(&piece[..count]);
    }
}

/// How long a pipe may have no writer, and how long one may be silent.
#[cfg(unix)]
const NO_WRITER: Duration = Duration::from_secs(5);
#[cfg(unix)]
const SILENT: Duration = Duration::from_secs(60);

/// Opening a pipe waits for its other end, and so does reading: both happen on a thread, whose
/// silence has a limit.
#[cfg(unix)]
fn pipe(path: &Path, limit: u64) -> std::result::Result<Vec<u8>, Refusal> {
    use std::sync::mpsc::{RecvTimeoutError, sync_channel};
    let (give, take) = sync_channel::<io::Result<Vec<u8>>>(1);
    let name = path.to_owned();
    let read = move || {
        let mut file = match File::open(&name) {
            Ok(file) => file,
            Err(fault) => return drop(give.send(Err(fault))),
        };
        // Nothing yet: this says that there is another end.
        let mut piece = Ok(Vec::new());
        while give.send(piece).is_ok() {
            let mut bytes = vec![0; PIECE];
            piece = loop {
                match file.read(&mut bytes) {
                    Ok(0) => return,
                    Ok(count) => {
                        bytes.truncate(count);
                        break Ok(bytes);
                    }
                    Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                    Err(fault) => break Err(fault),
                }
            };
        }
    };
    threads::start("anyid-pipe", read).map_err(Refusal::NoThread)?;
    match take.recv_timeout(NO_WRITER) {
        Ok(opened) => drop(opened?),
        Err(_) => {
            // Opened for both directions a pipe has a writer, and the thread finds its end.
            let _ = std::fs::OpenOptions::new().read(true).write(true).open(path);
            let what = "it is a pipe, and for 5 seconds nothing opened it for writing";
            return Err(io::Error::new(ErrorKind::TimedOut, what).into());
        }
    }
    let mut rest: Vec<u8> = Vec::new();
    collect(limit, |piece| {
        if rest.is_empty() {
            rest = match take.recv_timeout(SILENT) {
                Ok(bytes) => bytes?,
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) => {
                    let what = "it is a pipe, and for a minute nothing came out of it";
                    return Err(io::Error::new(ErrorKind::TimedOut, what));
                }
            };
        }
        let count = rest.len().min(piece.len());
        piece[..count].copy_from_slice(&rest[..count]);
        rest.drain(..count);
        Ok(count)
    })
}

#[cfg(not(unix))]
fn pipe(_: &Path, _: u64) -> std::result::Result<Vec<u8>, Refusal> {
    Err(unfit("it is a pipe: save what comes out of it to a file").into())
}

/// The text of a small file of the system itself, such as those of `/proc`; `None` where there is
/// none.
pub fn system_text(path: &str) -> Option<String> {
    String::from_utf8(read(Path::new(path), 1 << 20).ok()?).ok()
}

/// [`read`] as UTF-8 text without a byte order mark.
///
/// # Errors
/// `unreadable` where it cannot be read, `malformed` where it is too large or no text, E0603.
pub(crate) fn read_text(
    path: &Path,
    max_bytes: u64,
    unreadable: &'static str,
    malformed: &'static str,
) -> Result<String> {
    let fail = |fault: io::Error| {
        let what = match fault.kind() {
            ErrorKind::NotFound => "the file does not exist",
            ErrorKind::PermissionDenied => "the file may not be read",
            _ => "the file cannot be read",
        };
        Error::input(unreadable, what)
            .at(path.display())
            .help("fetch the file, or check its path and permissions")
            .caused_by(fault)
    };
    let bad = |what: String| {
        Error::input(malformed, what).at(path.display()).help("fetch or write the file again")
    };
    let large = |limit| bad(format!("the file is larger than {} MiB", limit >> 20));
    let bytes = read(path, max_bytes).map_err(|refusal| refusal.coded(path, fail, large))?;
    let text = String::from_utf8(bytes).map_err(|fault| {
        bad(format!("the file is not UTF-8 text: bad byte at {}", fault.utf8_error().valid_up_to()))
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;

    fn why(path: &Path) -> String {
        match read(path, 1000).unwrap_err() {
            Refusal::Unreadable(fault) => fault.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_are_read_up_to_the_limit() {
        let folder = TempFolder::new();
        let path = folder.write("a", vec![7; 1000]);
        assert_eq!(read(&path, 1000).unwrap(), vec![7; 1000]);
        assert!(matches!(read(&path, 999), Err(Refusal::TooLarge(999))));
        assert_eq!(head(&path, 3).unwrap(), [7; 3]);
        assert_eq!(read(&folder.write("none", b""), 0).unwrap(), [0; 0]);
        assert!(why(folder.path()).contains("folder"));
        assert!(matches!(read(&folder.path().join("absent"), 1), Err(Refusal::Unreadable(_))));
        let long: Vec<u8> = (0..300_000u32).map(|at| at as u8).collect();
        assert_eq!(read(&folder.write("long", &long), 300_000).unwrap(), long);
    }

    #[test]
    fn a_reader_without_an_end_is_stopped_at_the_limit() {
        let mut given = 0;
        let endless = |piece: &mut [u8]| {
            given += piece.len();
            Ok(piece.len())
        };
        assert!(matches!(collect(1 << 20, endless), Err(Refusal::TooLarge(_))));
        assert!(given <= (1 << 20) + PIECE);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn devices_are_refused_and_files_of_no_stated_size_are_read() {
        for device in ["/dev/zero", "/dev/random", "/dev/null"] {
            assert!(why(Path::new(device)).contains("device"), "{device}");
            assert!(
                head(Path::new(device), 5).is_err() && open_regular(Path::new(device)).is_err()
            );
        }
        assert!(system_text("/proc/self/status").unwrap().contains("VmPeak"));
        assert!(system_text("/proc/no-such-file").is_none());
        let folder = TempFolder::new();
        let sparse = folder.write("sparse", b"");
        let file = std::fs::OpenOptions::new().write(true).open(&sparse).unwrap();
        if file.set_len(1 << 40).is_ok() {
            assert!(matches!(read(&sparse, 1 << 20), Err(Refusal::TooLarge(_))));
        }
        let socket = folder.path().join("socket");
        let _bound = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(why(&socket).contains("socket"));
    }

    /// A named pipe, where the system has the program that makes one.
    #[cfg(unix)]
    fn named_pipe(folder: &TempFolder) -> Option<std::path::PathBuf> {
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        if !made.is_ok_and(|status| status.success()) {
            println!("skipped: there is no mkfifo");
            return None;
        }
        Some(path)
    }

    #[test]
    #[cfg(unix)]
    fn pipes_are_read_to_their_end() {
        let folder = TempFolder::new();
        let Some(path) = named_pipe(&folder) else { return };
        for (size, limit) in [(200_000, 200_000), (1_000_000, 500_000)] {
            let to = path.clone();
            let writer = std::thread::spawn(move || std::fs::write(to, vec![3; size]).is_ok());
            let outcome = read(&path, limit);
            match size as u64 <= limit {
                true => assert_eq!(outcome.unwrap(), vec![3; size]),
                false => assert!(matches!(outcome, Err(Refusal::TooLarge(_)))),
            }
            writer.join().unwrap();
        }
        assert!(head(&path, 5).is_err(), "what was looked at would be gone");
    }

    #[test]
    #[cfg(unix)]
    fn a_pipe_that_nothing_writes_to_is_given_up() {
        let folder = TempFolder::new();
        let Some(path) = named_pipe(&folder) else { return };
        assert!(why(&path).contains("nothing opened it for writing"));
    }
}
