//! Files written whole or not at all: a temporary name in the target folder, then a rename.
//!
//! Contract: until `commit` succeeds the target is untouched; a dropped writer leaves nothing
//! behind. Existing special files (`/dev/stdout`, pipes) cannot be replaced by renaming and are
//! written directly. A program that writes by name gets the temporary's. Several files that shall
//! appear together are [`Whole`]s for `together`.

use super::direct::{is_direct, is_standard_output, open_direct};
use super::fault::write_error;
use super::place::{Existing, Place, folder_of};
use super::registry::{PROCESS, Registry, Temporary};
use super::together::{self, Whole};
use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file that appears under its name only when it is complete.
#[derive(Debug)]
pub struct AtomicFile {
    place: Place,
    /// `None` when the target is a special file that is written directly.
    temporary: Option<Temporary>,
    /// `None` once closed.
    file: Option<BufWriter<File>>,
}

const BUFFER_BYTES: usize = 256 << 10;

impl AtomicFile {
    /// Starts a file that will replace `path`. Missing folders are not made. Standard output (`-`),
    /// pipes and devices are written as the bytes come.
    ///
    /// Errors: E1010 folder missing, E1011 not writable, E1012 disk full, E1013 other faults (of
    /// kind `Interrupted` when the run was told to end), E1014 when `path` is a folder or names no
    /// file.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        Self::create_as(path, Existing::Overwrite)
    }

    /// As [`AtomicFile::create`], with a rule for a file that is there already.
    ///
    /// Errors: also E1016 with [`Existing::Keep`].
    pub fn create_as(path: impl AsRef<Path>, existing: Existing) -> Result<Self> {
        Self::create_in(&PROCESS, path.as_ref(), existing, "")
    }

    /// As [`AtomicFile::create_as`], for a program that writes [`AtomicFile::temporary_path`] by
    /// itself. That has the ending of `path`, by which such programs choose a format.
    ///
    /// Errors: also E1014 for pipes and devices.
    pub fn for_program(path: impl AsRef<Path>, existing: Existing) -> Result<Self> {
        let path = path.as_ref();
        let ending = path.extension().map(|e| format!(".{}", e.to_string_lossy()));
        let made = Self::create_in(&PROCESS, path, existing, &ending.unwrap_or_default())?;
        if made.temporary.is_none() {
            return Err(Error::input("E1014", "this is not a file that a program could replace")
                .at(path.display())
                .help("give the name of a file"));
        }
        Ok(made)
    }

    pub(super) fn create_in(
        registry: &'static Registry,
        path: &Path,
        existing: Existing,
        ending: &str,
    ) -> Result<Self> {
        let fail = |fault: io::Error| write_error(path, fault);
        if is_direct(path) {
            let file = Some(BufWriter::with_capacity(BUFFER_BYTES, open_direct(path)?));
            return Ok(Self { place: Place::direct(path), temporary: None, file });
        }
        if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(Error::input("E1014", "the path names no file")
                .at(path.display())
                .help("give a file name, such as out.safetensors"));
        }
        if path.is_dir() && existing != Existing::Beside {
            return Err(Error::input("E1014", "a folder of this name is in the way")
                .at(path.display())
                .help("give a file name inside it, or another name"));
        }
        let (place, found) = Place::find(path, existing)?;
        if found.as_ref().is_some_and(|found| found.permissions().readonly()) {
            return Err(write_error(path, ErrorKind::PermissionDenied.into()));
        }
        let (file, temporary) =
            registry.file(folder_of(&place.target), ending, false).map_err(fail)?;
        if let Some(found) = found
            && let Err(fault) = fs::set_permissions(temporary.path(), found.permissions())
            // Some file systems have no permissions to set.
            && fault.kind() != ErrorKind::Unsupported
            && fault.kind() != ErrorKind::PermissionDenied
        {
            return Err(write_error(path, fault));
        }
        let file = Some(BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(Self { place, temporary: Some(temporary), file })
    }

    /// Whether this is standard output, where nothing else may be written then.
    pub fn is_standard_output(&self) -> bool {
        is_standard_output(&self.place.target)
    }

    /// The name under which the file will appear.
    pub fn path(&self) -> &Path {
        &self.place.target
    }

    /// The name under which it lies until then; none for pipes and devices.
    pub fn temporary_path(&self) -> Option<&Path> {
        self.temporary.as_ref().map(Temporary::path)
    }

    /// Lets the file be completed after [`stop`](super::stop): for records of a run that was told
    /// to end, such as its trace.
    pub fn keep_when_stopped(&self) {
        if let Some(temporary) = &self.temporary {
            temporary.keep_when_stopped();
        }
    }

    /// Lets the file be lost or damaged if the power fails, even after it has its name: for what is
    /// checked whenever it is read and can be made again. Bringing a file to the disk takes
    /// milliseconds, and there may be tens of thousands of these.
    pub fn let_be_lost(&mut self) {
        self.place.fleeting = true;
    }

    /// Appends bytes at the current position. Errors: E1012 disk full, E1011 or E1013 otherwise.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(|fault| write_error(&self.place.target, fault))
    }

    /// Flushes to the disk (but see [`AtomicFile::let_be_lost`]) and closes, leaving only the rename to [`AtomicFile::commit`]. For
    /// several files that shall appear together. Errors: as [`AtomicFile::append`].
    pub fn close(&mut self) -> Result<()> {
        let Some(buffered) = self.file.take() else { return Ok(()) };
        let outcome = buffered.into_inner().map_err(io::IntoInnerError::into_error);
        let fleeting = self.place.fleeting;
        let synced =
            outcome.and_then(|file| match if fleeting { Ok(()) } else { file.sync_all() } {
                // Pipes and devices have nothing to synchronise.
                Err(_) if self.temporary.is_none() => Ok(()),
                other => other,
            });
        synced.map_err(|fault| write_error(&self.place.target, fault))
    }

    /// Closes the file, for taking its name together with others.
    ///
    /// Errors: as [`AtomicFile::append`].
    pub fn finish(mut self) -> Result<Whole> {
        self.close()?;
        Ok(Whole::new(self.place.clone(), self.temporary.take()))
    }

    /// Makes the file appear under its name, or under a free one beside it if something came there
    /// that must be kept; gives that name.
    ///
    /// Errors: as [`AtomicFile::append`]; E1013 of kind `Interrupted` after [`stop`](super::stop).
    /// Whatever goes wrong, the target is as it was before.
    pub fn commit(self) -> Result<PathBuf> {
        together::commit(vec![self.finish()?]).map(|mut paths| paths.swap_remove(0))
    }

    fn open_file(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the file is closed already"))
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // Dropping the buffer would write it out first.
        if let Some(buffered) = self.file.take() {
            drop(buffered.into_parts().0);
        }
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::error::Kind;
    use crate::testing::TempFolder;

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
    fn the_end_of_the_run_removes_the_temporaries_but_for_records() {
        let folder = TempFolder::new();
        let registry: &'static Registry = Box::leak(Box::new(Registry::new()));
        let create = |name: &str| {
            AtomicFile::create_in(registry, &folder.path().join(name), Existing::Keep, "")
        };
        let (mut first, second, record) = (create("a"), create("b"), create("c"));
        first.as_mut().unwrap().append(b"x").unwrap();
        let (record, late) = (record.unwrap(), create("d").unwrap());
        record.keep_when_stopped();
        late.keep_when_stopped();
        assert_eq!(folder.names().len(), 4);
        registry.end_for_test(false);
        assert_eq!(folder.names().len(), 2);
        let error = first.unwrap().commit().unwrap_err();
        assert_eq!((error.code(), error.kind()), ("E1013", Kind::Interrupted));
        assert_eq!(create("e").unwrap_err().kind(), Kind::Interrupted);
        drop(second);
        record.commit().unwrap();
        registry.end_for_test(true);
        assert_eq!(folder.names(), ["c"]);
        assert_eq!(late.commit().unwrap_err().kind(), Kind::Interrupted);
        assert_eq!(folder.names(), ["c"]);
    }

    #[test]
    fn what_is_there_is_kept_or_replaced_as_asked() {
        let folder = TempFolder::new();
        let path = folder.write("out.mp4", b"old");
        let refused = AtomicFile::create_as(&path, Existing::Keep).unwrap_err();
        assert_eq!(refused.code(), "E1016");
        let write = |existing, bytes: &[u8]| {
            let mut file = AtomicFile::create_as(&path, existing).unwrap();
            file.append(bytes).unwrap();
            file
        };
        // Whoever comes second finds a file that it was not told to replace.
        let (first, second) = (write(Existing::Replace, b"1"), write(Existing::Replace, b"2"));
        let third = write(Existing::Overwrite, b"3");
        assert!(first.commit().unwrap().ends_with("out.mp4"));
        assert!(second.commit().unwrap().ends_with("out-1.mp4"));
        assert_eq!(fs::read(&path).unwrap(), b"1");
        assert!(third.commit().unwrap().ends_with("out.mp4"));
        assert_eq!(fs::read(&path).unwrap(), b"3");
        fs::remove_file(&path).unwrap();
        let late = write(Existing::Keep, b"late");
        fs::write(&path, b"came meanwhile").unwrap();
        assert!(late.commit().unwrap().ends_with("out-2.mp4"));
        assert_eq!(fs::read(&path).unwrap(), b"came meanwhile");
        assert_eq!(folder.names(), ["out-1.mp4", "out-2.mp4", "out.mp4"]);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_without_its_file_is_followed_and_circles_are_refused() {
        let folder = TempFolder::new();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("file", &link).unwrap();
        let mut file = AtomicFile::create_as(&link, Existing::Keep).unwrap();
        file.append(b"x").unwrap();
        file.commit().unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"x");
        let circle = folder.path().join("circle");
        std::os::unix::fs::symlink("circle", &circle).unwrap();
        assert_eq!(AtomicFile::create(&circle).unwrap_err().code(), "E1013");
    }

    #[test]
    fn a_program_writes_the_temporary_by_its_name() {
        let folder = TempFolder::new();
        let path = folder.path().join("out.mkv");
        let file = AtomicFile::for_program(&path, Existing::Keep).unwrap();
        let temporary = file.temporary_path().unwrap().to_owned();
        assert_eq!(temporary.extension().unwrap(), "mkv");
        // As programs do: opened anew and emptied first.
        fs::write(&temporary, b"by a program").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"by a program");
        assert_eq!(folder.names(), ["out.mkv"]);
        #[cfg(target_os = "linux")]
        assert_eq!(
            AtomicFile::for_program("/dev/null", Existing::Keep).unwrap_err().code(),
            "E1014"
        );
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
