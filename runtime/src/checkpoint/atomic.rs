//! Files written whole or not at all: a temporary name in the target folder, then a rename.
//!
//! Contract: until `commit` succeeds the target is untouched; a dropped writer leaves nothing
//! behind. The temporaries of this process are registered, so that a program that is interrupted
//! can remove them before it exits. Existing special files (`/dev/stdout`, pipes) cannot be
//! replaced by renaming and are written directly. Sharing a target between processes is safe: the
//! last rename wins.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Kind, Result};

/// A file that appears under its name only when it is complete.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    /// `None` when the target is a special file that is written directly.
    temporary: Option<PathBuf>,
    /// `None` once closed.
    file: Option<BufWriter<File>>,
}

#[derive(Debug, Default)]
struct Registry {
    live: BTreeSet<PathBuf>,
    next: u64,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { live: BTreeSet::new(), next: 0 });

fn registry() -> MutexGuard<'static, Registry> {
    // A set of paths stays meaningful whatever a panicking thread was doing.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes every temporary file of this process and returns how many there were.
///
/// For an interrupt handler that runs on a thread of its own just before the program exits (not
/// inside a raw signal handler: it takes a lock). Writers still alive fail on commit with E1013.
pub fn remove_all_temporaries() -> usize {
    remove_temporaries(|_| true)
}

fn remove_temporaries(chosen: impl Fn(&Path) -> bool) -> usize {
    let mut registry = registry();
    let removed: Vec<PathBuf> = registry.live.extract_if(.., |path| chosen(path)).collect();
    removed.iter().filter(|path| fs::remove_file(path).is_ok()).count()
}

const BUFFER_BYTES: usize = 256 << 10;

impl AtomicFile {
    /// Starts a file that will replace `path`. Missing folders are not made.
    ///
    /// Errors: E1010 folder missing, E1011 not writable, E1012 disk full, E1013 other faults,
    /// E1014 when `path` is a folder or names no file.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fail = |fault: io::Error| write_error(path, fault);
        if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(Error::input("E1014", "the path names no file")
                .at(path.display())
                .help("give a file name, such as out.safetensors"));
        }
        let existing = fs::metadata(path).ok();
        if let Some(existing) = &existing {
            if existing.is_dir() {
                return Err(Error::input("E1014", "a folder of this name is in the way")
                    .at(path.display())
                    .help("give a file name inside it, or another name"));
            }
            if !existing.is_file() {
                let file = OpenOptions::new().write(true).open(path).map_err(fail)?;
                let file = Some(BufWriter::with_capacity(BUFFER_BYTES, file));
                return Ok(Self { target: path.to_owned(), temporary: None, file });
            }
            if existing.permissions().readonly() {
                return Err(write_error(path, ErrorKind::PermissionDenied.into()));
            }
        }
        // A link is followed, so that the file it points to is replaced and not the link.
        let target = match existing.is_some() {
            true => fs::canonicalize(path).map_err(fail)?,
            false => path.to_owned(),
        };
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let (file, temporary) = create_temporary(folder).map_err(fail)?;
        let mut made = Self {
            target,
            temporary: Some(temporary.clone()),
            file: Some(BufWriter::with_capacity(BUFFER_BYTES, file)),
        };
        if let Some(existing) = existing
            && let Err(fault) = fs::set_permissions(&temporary, existing.permissions())
            // Some file systems have no permissions to set.
            && fault.kind() != ErrorKind::Unsupported
            && fault.kind() != ErrorKind::PermissionDenied
        {
            made.discard();
            return Err(write_error(path, fault));
        }
        Ok(made)
    }

    /// The name under which the file will appear.
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Appends bytes at the current position. Errors: E1012 disk full, E1011 or E1013 otherwise.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(|fault| write_error(&self.target, fault))
    }

    /// Flushes to the disk and closes, leaving only the rename to [`AtomicFile::commit`]. For
    /// several files that shall appear together. Errors: as [`AtomicFile::append`].
    pub fn close(&mut self) -> Result<()> {
        let Some(buffered) = self.file.take() else { return Ok(()) };
        let outcome = buffered.into_inner().map_err(io::IntoInnerError::into_error);
        let synced = outcome.and_then(|file| match file.sync_all() {
            // Pipes and devices have nothing to synchronise.
            Err(_) if self.temporary.is_none() => Ok(()),
            other => other,
        });
        synced.map_err(|fault| write_error(&self.target, fault))
    }

    /// Makes the file appear under its name.
    ///
    /// Errors: as [`AtomicFile::append`]; E1013 of kind `Interrupted` after
    /// [`remove_all_temporaries`]. Whatever goes wrong, the target is as it was before.
    pub fn commit(mut self) -> Result<()> {
        self.close()?;
        let Some(temporary) = self.temporary.take() else { return Ok(()) };
        // Held over the rename, so that an interrupt comes either before or after it.
        let mut registry = registry();
        if !registry.live.remove(&temporary) {
            return Err(Error::new(
                Kind::Interrupted,
                "E1013",
                "the file was not written: the program was interrupted",
            )
            .at(self.target.display())
            .help("start again; whatever was at this path before is unchanged"));
        }
        if let Err(fault) = fs::rename(&temporary, &self.target) {
            let _ = fs::remove_file(&temporary);
            return Err(write_error(&self.target, fault));
        }
        drop(registry);
        #[cfg(unix)]
        if let Some(folder) = self.target.parent() {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            // The data are safe already; not every file system can synchronise a folder.
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }

    fn discard(&mut self) {
        // Dropping the buffer would write it out first.
        if let Some(buffered) = self.file.take() {
            drop(buffered.into_parts().0);
        }
        if let Some(temporary) = self.temporary.take()
            && registry().live.remove(&temporary)
        {
            let _ = fs::remove_file(&temporary);
        }
    }

    fn open_file(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the file is closed already"))
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        self.discard();
    }
}

/// For encoders that want a writer; turn their errors into coded ones with [`write_error`].
impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open_file()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open_file()?.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.open_file()?.seek(position)
    }
}

fn create_temporary(folder: &Path) -> io::Result<(File, PathBuf)> {
    let mut registry = registry();
    loop {
        let number = registry.next;
        registry.next += 1;
        let path = folder.join(format!(".anyid-rt-{:x}-{number:x}.tmp", std::process::id()));
        match OpenOptions::new().write(true).read(true).create_new(true).open(&path) {
            Ok(file) => {
                registry.live.insert(path.clone());
                return Ok((file, path));
            }
            // Left behind by a killed process that had the same number: never reuse it.
            Err(fault) if fault.kind() == ErrorKind::AlreadyExists => {}
            Err(fault) => return Err(fault),
        }
    }
}

/// The coded error for a failure to write `path`: E1010 folder missing, E1011 not writable, E1012
/// disk full, E1013 anything else.
pub fn write_error(path: &Path, fault: io::Error) -> Error {
    let (code, message, help) = match fault.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            let folder = path.parent().unwrap_or(path);
            (
                "E1010",
                format!("the folder {} does not exist", folder.display()),
                "make the folder first, or check the path for typing mistakes",
            )
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => (
            "E1011",
            "no permission to write here".to_owned(),
            "check the permissions of the file and its folder, or write somewhere else",
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (
            "E1012",
            "the disk is full".to_owned(),
            "free some space or write to another disk; no partial file was left",
        ),
        ErrorKind::FileTooLarge => (
            "E1013",
            "the file is too large for this file system or limit".to_owned(),
            "write to another disk, or raise the limit (`ulimit -f`)",
        ),
        _ => (
            "E1013",
            "writing failed".to_owned(),
            "see the cause; the disk or its connection may be at fault",
        ),
    };
    Error::input(code, message).at(path.display()).help(help).caused_by(fault)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::testing::TempFolder;
    use super::*;

    #[test]
    fn appears_only_when_committed() {
        let folder = TempFolder::new();
        let path = folder.write("out.bin", b"old");
        let mut file = AtomicFile::create(&path).unwrap();
        file.append(b"new ").unwrap();
        file.append(&vec![7; 1 << 20]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(folder.names().len(), 2);
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap().len(), 4 + (1 << 20));
        assert_eq!(folder.names(), ["out.bin"]);
    }

    #[test]
    fn dropping_leaves_everything_as_it_was() {
        let folder = TempFolder::new();
        let path = folder.write("out.bin", b"old");
        let mut file = AtomicFile::create(&path).unwrap();
        file.append(b"new").unwrap();
        drop(file);
        let mut closed = AtomicFile::create(&path).unwrap();
        closed.append(b"new").unwrap();
        closed.close().unwrap();
        assert_eq!(closed.append(b"more").unwrap_err().code(), "E1013");
        drop(closed);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(folder.names(), ["out.bin"]);
    }

    #[test]
    fn an_interrupt_removes_the_temporaries() {
        let folder = TempFolder::new();
        let mut first = AtomicFile::create(folder.path().join("a")).unwrap();
        let second = AtomicFile::create(folder.path().join("b")).unwrap();
        first.append(b"x").unwrap();
        assert_eq!(folder.names().len(), 2);
        // Not all of them: other tests of this process hold temporaries as well.
        let ours = |path: &Path| path.starts_with(folder.path());
        assert_eq!(remove_temporaries(ours), 2);
        assert_eq!(folder.names().len(), 0);
        let error = first.commit().unwrap_err();
        assert_eq!((error.code(), error.kind()), ("E1013", Kind::Interrupted));
        drop(second);
        assert_eq!(folder.names().len(), 0);
        assert_eq!(remove_temporaries(ours), 0);
    }

    #[test]
    fn seeks_like_a_file() {
        let folder = TempFolder::new();
        let path = folder.path().join("out");
        let mut file = AtomicFile::create(&path).unwrap();
        file.append(b"____body").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.append(b"head").unwrap();
        file.flush().unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"headbody");
    }

    #[test]
    fn failures_carry_code_path_and_help() {
        let folder = TempFolder::new();
        let file = folder.write("file", b"");
        for (path, code) in [
            (folder.path().join("none/out"), "E1010"),
            (file.join("out"), "E1010"),
            (folder.path().to_owned(), "E1014"),
            (folder.path().join("out/"), "E1014"),
            (PathBuf::from("/"), "E1014"),
            (PathBuf::from(""), "E1014"),
            (folder.path().join("x".repeat(300)), "E1013"),
        ] {
            let outcome = AtomicFile::create(&path).and_then(AtomicFile::commit);
            let error = outcome.unwrap_err();
            assert_eq!(error.code(), code, "{} {error}", path.display());
            assert_eq!(error.place(), Some(path.display().to_string().as_str()));
            assert!(error.help_text().is_some());
        }
        let mut locked = fs::metadata(&file).unwrap().permissions();
        locked.set_readonly(true);
        fs::set_permissions(&file, locked).unwrap();
        assert_eq!(AtomicFile::create(&file).unwrap_err().code(), "E1011");
        assert_eq!(folder.names(), ["file"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_recognised() {
        let mut file = AtomicFile::create("/dev/full").unwrap();
        let outcome = file.append(&vec![0; 2 * BUFFER_BYTES]);
        let error = outcome.unwrap_err();
        assert_eq!(error.code(), "E1012");
        assert_eq!(error.place(), Some("/dev/full"));
        // Small writes stay in the buffer: closing must report them.
        let mut file = AtomicFile::create("/dev/full").unwrap();
        file.append(b"x").unwrap();
        assert_eq!(file.commit().unwrap_err().code(), "E1012");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn special_files_are_written_in_place() {
        let mut file = AtomicFile::create("/dev/null").unwrap();
        file.append(b"x").unwrap();
        file.commit().unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    #[cfg(unix)]
    fn links_and_permissions_survive() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = TempFolder::new();
        let real = folder.write("real", b"old");
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link");
        symlink(&real, &link).unwrap();
        let mut file = AtomicFile::create(&link).unwrap();
        file.append(b"new").unwrap();
        file.commit().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let mut text = String::new();
        File::open(&real).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "new");
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
