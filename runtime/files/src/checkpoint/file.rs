//! One checkpoint file: its header in memory, its tensors read by byte range when they are wanted.
//!
//! Nothing but the header is read on opening. A file is never mapped: one that gets shorter, is
//! written over, or lies on a medium that fails is then an error of a read, with the name of file
//! and tensor, where a mapping would end the process. A file that is replaced by renaming, as this
//! program writes, goes on being read as it was.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyid_ir::memory;

use super::header::{Header, TensorEntry};
use crate::error::{Error, Result};
use crate::input;

/// A safetensors file, open and checked.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    header: Header,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File {
        file: File,
        /// Length and time of the last change when it was opened.
        length: u64,
        changed: Option<SystemTime>,
    },
    Memory(Vec<u8>),
}

impl Source {
    fn length(&self) -> u64 {
        match self {
            Self::File { length, .. } => *length,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Fills `out` with the bytes from `from` on, which lie inside [`Self::length`].
    fn read(&self, from: u64, out: &mut [u8]) -> std::result::Result<(), Fault> {
        match self {
            Self::Memory(bytes) => {
                out.copy_from_slice(&bytes[from as usize..from as usize + out.len()]);
                Ok(())
            }
            Self::File { file, length, changed } => {
                fill(file, from, out)?;
                let about = file.metadata().map_err(Fault::Failed)?;
                if about.len() < *length {
                    return Err(Fault::Shorter);
                }
                match about.len() == *length && about.modified().ok() == *changed {
                    true => Ok(()),
                    false => Err(Fault::Changed),
                }
            }
        }
    }
}

/// What can happen to a file after it was opened.
#[derive(Debug)]
pub(super) enum Fault {
    Shorter,
    Changed,
    Failed(io::Error),
}

impl Fault {
    /// The coded error; `what` was being read.
    pub(super) fn coded(self, path: &Path, what: &str) -> Error {
        let error = match self {
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
        };
        error.at(path.display())
    }
}

/// Reads the bytes from `from` on until `out` is full.
pub(super) fn fill(file: &File, mut from: u64, mut out: &mut [u8]) -> Result<(), Fault> {
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

/// Bytes looked at to tell what a file is and how long its header, and read of it at a time.
const FIRST: u64 = 4096;
const PIECE: u64 = 1 << 20;

impl Checkpoint {
    /// Opens a safetensors file and parses its header.
    ///
    /// Errors: E0310 when it cannot be opened, E0311–E0320 when its contents are wrong, E0330 to
    /// E0332 when it changes or fails meanwhile.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, length) = open_file(path)?;
        let changed = file.metadata().map_err(|fault| open_error(path, fault))?.modified().ok();
        let source = Source::File { file, length, changed };
        let read = |head: &mut Vec<u8>, until: u64| -> Result<()> {
            while (head.len() as u64) < until {
                let from = head.len();
                let count = (until - from as u64).min(PIECE) as usize;
                memory::ask(|| head.try_reserve(count))
                    .map_err(|_| Error::no_memory(until, "the header").at(path.display()))?;
                head.resize(from + count, 0);
                source
                    .read(from as u64, &mut head[from..])
                    .map_err(|fault| fault.coded(path, "the header"))?;
            }
            Ok(())
        };
        let mut head = Vec::new();
        read(&mut head, length.min(FIRST))?;
        let end = Header::end(&head, length).map_err(|fault| fault.at(path.display()))?;
        read(&mut head, end)?;
        let header = Header::parse_head(&head, length).map_err(|fault| fault.at(path.display()))?;
        Ok(Self { path: path.to_owned(), header, source })
    }

    /// Takes the contents of a safetensors file from memory; `label` stands in for its path.
    ///
    /// Errors: E0311–E0320 as [`Checkpoint::open`].
    pub fn from_bytes(bytes: Vec<u8>, label: impl Into<PathBuf>) -> Result<Self> {
        let path = label.into();
        let header = Header::parse(&bytes).map_err(|fault| fault.at(path.display()))?;
        Ok(Self { path, header, source: Source::Memory(bytes) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The parsed header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The `__metadata__` map; empty if the file has none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.header.metadata()
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.header.tensors().len()
    }

    /// Whether the file holds no tensor.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the header says about the tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.header.position(name).map(|position| &self.header.tensors()[position])
    }

    /// Names and tensors in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &TensorEntry)> {
        self.header.tensors().iter().map(|entry| (entry.name.as_str(), entry))
    }

    /// Fills `out` with bytes of the tensor at `position` of [`Header::tensors`], `from` bytes
    /// behind its first.
    ///
    /// Errors: E0330 where the file has become shorter since it was opened, E0331 where it was
    /// changed, E0332 where the system cannot read it.
    ///
    /// # Panics
    /// If `position` is not below [`Checkpoint::len`], or the range ends behind the tensor.
    pub fn read(&self, position: usize, from: u64, out: &mut [u8]) -> Result<()> {
        let entry = &self.header.tensors()[position];
        let inside = from.checked_add(out.len() as u64).is_some_and(|end| end <= entry.bytes());
        assert!(inside, "{} bytes from {from} of {} bytes", out.len(), entry.bytes());
        let at = self.header.data_offset() + entry.begin + from;
        self.source
            .read(at, out)
            .map_err(|fault| fault.coded(&self.path, &format!("tensor `{}`", entry.name)))
    }

    /// All bytes of the tensor at `position`: for small ones.
    ///
    /// Errors: as [`Checkpoint::read`], and E0603 where there is no memory for them.
    ///
    /// # Panics
    /// If `position` is not below [`Checkpoint::len`].
    pub fn contents(&self, position: usize) -> Result<Vec<u8>> {
        let entry = &self.header.tensors()[position];
        let room = usize::try_from(entry.bytes()).ok().and_then(memory::zeroed);
        let mut bytes = room.ok_or_else(|| {
            Error::no_memory(entry.bytes(), &format!("tensor `{}`", entry.name))
                .at(self.path.display())
        })?;
        self.read(position, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// The [`fingerprint`](super::fingerprint) of the contents, also of a file that exists in
    /// memory only.
    ///
    /// Errors: E0330 to E0332 as [`Checkpoint::read`].
    pub fn fingerprint(&self) -> Result<String> {
        super::digest::of_parts(self.header.data_offset(), self.source.length(), |from, out| {
            self.source.read(from, out).map_err(|fault| fault.coded(&self.path, "the file"))
        })
    }
}

/// Opens a regular file; its length. Errors: E0310.
pub(super) fn open_file(path: &Path) -> Result<(File, u64)> {
    input::open_regular(path).map_err(|fault| open_error(path, fault))
}

pub(super) fn open_error(path: &Path, fault: io::Error) -> Error {
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
    use super::super::testing::{TempFolder, file, fixtures};
    use super::super::{fingerprint, hash_file};
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;

    #[test]
    fn every_fixture_reads_as_the_reference_crate_reads_it() {
        let mut folders = vec![fixtures()];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "safetensors") {
                    files += 1;
                    let ours = Checkpoint::open(&path).unwrap();
                    let bytes = std::fs::read(&path).unwrap();
                    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
                    assert_eq!(ours.len(), theirs.len());
                    for (name, tensor) in ours.iter() {
                        let other = theirs.tensor(name).unwrap();
                        let shape: Vec<usize> = tensor.shape.iter().map(|&n| n as usize).collect();
                        assert_eq!(shape, other.shape());
                        let position = ours.header().position(name).unwrap();
                        assert_eq!(ours.contents(position).unwrap(), other.data());
                        assert_eq!(tensor.dtype.name(), other.dtype().to_string());
                        assert_eq!(ours.tensor(name), Some(tensor));
                    }
                }
            }
        }
        assert!(files > 20, "{files}");
    }

    #[test]
    fn opening_fails_with_the_path() {
        let folder = TempFolder::new();
        for (path, code) in [
            (folder.path().join("absent.safetensors"), "E0310"),
            (folder.path().to_owned(), "E0310"),
            (PathBuf::from("/dev/zero"), "E0310"),
            (folder.write("empty.safetensors", b""), "E0311"),
            (folder.write("cut.safetensors", &file("{}", &[])[..9]), "E0312"),
        ] {
            let error = Checkpoint::open(&path).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert_eq!(error.place(), Some(path.display().to_string().as_str()));
            assert!(error.help_text().is_some());
        }
        let missing = folder.path().join("absent");
        assert_eq!(fingerprint(&missing).unwrap_err().code(), "E0310");
        assert_eq!(hash_file(&missing, |_, _| {}).unwrap_err().code(), "E0310");
    }

    /// A file of one tensor `w` of `length` bytes, each 1.
    fn ones(length: usize) -> Vec<u8> {
        let text =
            format!(r#"{{"w":{{"dtype":"U8","shape":[{length}],"data_offsets":[0,{length}]}}}}"#);
        file(&text, &vec![1; length])
    }

    #[test]
    fn a_file_that_gets_shorter_is_an_error_with_its_name() {
        let folder = TempFolder::new();
        let path = folder.write("cut.safetensors", ones(100_000));
        let whole = std::fs::metadata(&path).unwrap().len();
        let open = Checkpoint::open(&path).unwrap();
        let cut = OpenOptions::new().write(true).open(&path).unwrap();
        let mut piece = [0; 10];
        // Also where the bytes that are asked for are still there.
        for (length, from) in [(whole - 1, 0), (whole - 1, 99_990), (200, 50_000), (0, 0)] {
            cut.set_len(length).unwrap();
            let error = open.read(0, from, &mut piece).unwrap_err();
            assert_eq!(error.code(), "E0330", "{error}");
            assert!(error.message().contains("`w`"), "{error}");
            assert_eq!(error.place(), Some(path.display().to_string().as_str()));
            assert_eq!(open.contents(0).unwrap_err().code(), "E0330");
            assert_eq!(open.fingerprint().unwrap_err().code(), "E0330");
        }
    }

    #[test]
    fn a_file_that_is_written_over_is_an_error_and_one_that_is_replaced_is_not() {
        let folder = TempFolder::new();
        let path = folder.write("a.safetensors", ones(5000));
        let open = Checkpoint::open(&path).unwrap();
        let other = folder.write("b.safetensors", ones(6000));
        std::fs::rename(other, &path).unwrap();
        assert_eq!(open.contents(0).unwrap(), vec![1; 5000], "the file that was opened");
        let open = Checkpoint::open(&path).unwrap();
        let mut over = OpenOptions::new().append(true).open(&path).unwrap();
        over.write_all(b"more").unwrap();
        assert_eq!(open.contents(0).unwrap_err().code(), "E0331");
        over.set_len(over.metadata().unwrap().len() - 4).unwrap();
        let earlier = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        over.set_modified(earlier).unwrap();
        assert_eq!(open.contents(0).unwrap_err().code(), "E0331", "of the same length");
        assert_eq!(Checkpoint::open(&path).unwrap().contents(0).unwrap().len(), 6000);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_medium_that_fails_is_an_error_with_its_cause() {
        // Reading another process' memory at an address where there is none is an input error.
        let file = File::open("/proc/self/mem").unwrap();
        let fault = fill(&file, 0, &mut [0; 8]).unwrap_err();
        let error = fault.coded(Path::new("weights"), "tensor `w`");
        assert_eq!((error.code(), error.place()), ("E0332", Some("weights")), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }

    #[test]
    #[cfg(unix)]
    fn a_file_of_a_terabyte_of_nothing_is_refused_at_once() {
        let folder = TempFolder::new();
        let length = 1u64 << 40;
        let text = format!(
            r#"{{"w":{{"dtype":"U8","shape":[{}],"data_offsets":[0,{}]}}}}"#,
            length, length
        );
        let path = folder.write("sparse.safetensors", file(&text, &[]));
        let sparse = OpenOptions::new().write(true).open(&path).unwrap();
        if let Err(fault) = sparse.set_len(length + 8 + text.len() as u64) {
            println!("skipped: this file system holds no file of a terabyte: {fault}");
            return;
        }
        let open = Checkpoint::open(&path).unwrap();
        let mut piece = [1; 100];
        open.read(0, length - 100, &mut piece).unwrap();
        assert_eq!(piece, [0; 100]);
        sparse.set_len(100).unwrap();
        assert_eq!(Checkpoint::open(&path).unwrap_err().code(), "E0319");
        let path = folder.write("zeros.safetensors", b"");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        assert_eq!(Checkpoint::open(&path).unwrap_err().code(), "E0312");
    }
}
