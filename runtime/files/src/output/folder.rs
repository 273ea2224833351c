//! Folders made whole or not at all: filled under a temporary name, then renamed.
//!
//! Contract: as for `AtomicFile`. A folder that is replaced is exchanged as a whole; what was in
//! it goes when the new one has its name. What the folder holds is the caller's business.

use super::direct::is_direct;
use super::fault::write_error;
use super::place::{Existing, Place, sync_folder};
use super::registry::{PROCESS, Registry, Temporary};
use super::together::{self, Whole};
use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// A folder that appears under its name only when it is complete.
#[derive(Debug)]
pub struct AtomicFolder {
    place: Place,
    temporary: Temporary,
}

impl AtomicFolder {
    /// Starts a folder that will lie at `path`. Missing folders above it are not made. An empty
    /// folder of this name may always be replaced. A folder at which a file system is mounted cannot
    /// be renamed: it is filled file by file when everything is complete.
    ///
    /// # Errors
    /// E1010–E1013 as `AtomicFile`, E1014 where `path` names no folder or something else is there,
    /// E1016 with [`Existing::Keep`] for a folder that holds files, E1018 for one that cannot be
    /// replaced.
    pub fn create(path: impl AsRef<Path>, existing: Existing) -> Result<Self> {
        Self::create_in(&PROCESS, path.as_ref(), existing)
    }

    pub(super) fn create_in(
        registry: &'static Registry,
        path: &Path,
        existing: Existing,
    ) -> Result<Self> {
        // `frames/..` and `.` have no name to put a temporary beside; the resolved folder has. A
        // slash at the end would hide a link.
        let plain: PathBuf = match path.is_dir() {
            true => path.canonicalize().map_err(|fault| write_error(path, fault))?,
            false => path.components().collect(),
        };
        if plain.file_name().is_none() {
            return Err(Error::input("E1014", "the path names no folder that could be made")
                .at(path.display())
                .help("give a folder name, such as frames"));
        }
        if is_direct(path) {
            return Err(Error::input("E1014", "a folder cannot go to a pipe or a device")
                .at(path.display())
                .help("give a folder name, such as frames"));
        }
        let (place, found) = Place::find(&plain, existing)?;
        if found.is_some_and(|found| !found.is_dir()) {
            return Err(Error::input("E1014", "a file of this name is in the way of the folder")
                .at(path.display())
                .help("name another folder, or remove the file"));
        }
        let temporary =
            registry.folder(place.workshop()).map_err(|fault| write_error(&place.target, fault))?;
        if let Ok(found) = fs::metadata(&place.target) {
            // Best effort: not every file system has permissions.
            let _ = fs::set_permissions(temporary.path(), found.permissions());
        }
        Ok(Self { place, temporary })
    }

    /// The name under which the folder will appear.
    pub fn path(&self) -> &Path {
        &self.place.target
    }

    /// The name under which it lies until then.
    pub fn temporary_path(&self) -> &Path {
        self.temporary.path()
    }

    /// Puts a file into it.
    ///
    /// # Errors
    /// E1011–E1013, the last of kind `Interrupted` when the run was told to end.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.put(name, OpenOptions::new().write(true).create_new(true), bytes)
    }

    /// Puts bytes behind those of a file in it, which is made if it is not there.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn append(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.put(name, OpenOptions::new().append(true).create(true), bytes)
    }

    fn put(&self, name: &str, how: &OpenOptions, bytes: &[u8]) -> Result<()> {
        let path = self.temporary.path().join(name);
        // What is written is brought to the disk when the folder is complete.
        how.open(&path).and_then(|mut file| file.write_all(bytes)).map_err(|fault| {
            match fault.kind() {
                // Gone with the end of the run: nothing else removes it.
                ErrorKind::NotFound => write_error(self.path(), super::registry::ended()),
                _ => write_error(self.path(), fault),
            }
        })
    }

    /// Makes a folder in it.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn make_folder(&self, name: &str) -> Result<()> {
        fs::create_dir(self.temporary.path().join(name)).map_err(|fault| match fault.kind() {
            ErrorKind::NotFound => write_error(self.path(), super::registry::ended()),
            _ => write_error(self.path(), fault),
        })
    }

    /// Completes the folder on the disk, for taking its name together with others.
    ///
    /// # Errors
    /// E1011–E1013.
    pub fn finish(self) -> Result<Whole> {
        bring_to_disk(self.temporary.path())
            .map_err(|fault| write_error(&self.place.target, fault))?;
        Ok(Whole::new(self.place, Some(self.temporary)))
    }

    /// Makes the folder appear under its name, or under a free one beside it if something came
    /// there that must be kept; gives that name.
    ///
    /// # Errors
    /// As `AtomicFile::commit`.
    pub fn commit(self) -> Result<PathBuf> {
        together::commit(vec![self.finish()?]).map(|mut paths| paths.swap_remove(0))
    }
}

/// Files in one folder from which on the whole file system is brought to the disk at once: for each
/// file by itself, the disk is waited for some milliseconds.
const MANY: usize = 64;

/// Brings a folder of ours to the disk.
fn bring_to_disk(folder: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let mut count = 0;
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                count += 1;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                }
            }
            if count >= MANY {
                return Ok(rustix::fs::syncfs(File::open(folder)?)?);
            }
        }
    }
    sync_all(folder, 0)
}

/// Brings every file in a folder to the disk; two levels are all that we make.
fn sync_all(folder: &Path, depth: usize) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && depth < 4 {
            sync_all(&entry.path(), depth + 1)?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(folder);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::testing::TempFolder;

    fn own_registry() -> &'static Registry {
        Box::leak(Box::new(Registry::new()))
    }

    fn frames(folder: &TempFolder, existing: Existing) -> Result<AtomicFolder> {
        AtomicFolder::create_in(own_registry(), &folder.path().join("frames"), existing)
    }

    #[test]
    fn a_folder_appears_whole_and_an_old_one_is_replaced_as_asked() {
        let folder = TempFolder::new();
        let made = frames(&folder, Existing::Keep).unwrap();
        made.write("a", b"1").unwrap();
        assert_eq!(folder.names().len(), 1);
        assert_eq!(made.commit().unwrap(), folder.path().canonicalize().unwrap().join("frames"));
        assert_eq!(folder.names(), ["frames"]);
        assert_eq!(frames(&folder, Existing::Keep).unwrap_err().code(), "E1016");
        let made = frames(&folder, Existing::Replace).unwrap();
        made.write("b", b"2").unwrap();
        made.commit().unwrap();
        assert_eq!(folder.names(), ["frames"]);
        assert!(!folder.path().join("frames/a").exists());
        assert_eq!(fs::read(folder.path().join("frames/b")).unwrap(), b"2");
        let made = frames(&folder, Existing::Replace).unwrap();
        made.make_folder("in").unwrap();
        for piece in ["one ", "two"] {
            made.append("in/c", piece.as_bytes()).unwrap();
        }
        assert_eq!(made.write("in/c", b"again").unwrap_err().code(), "E1013");
        made.commit().unwrap();
        assert_eq!(fs::read(folder.path().join("frames/in/c")).unwrap(), b"one two");
    }

    #[test]
    fn what_came_meanwhile_is_kept_and_an_empty_folder_is_taken() {
        let folder = TempFolder::new();
        fs::create_dir(folder.path().join("frames")).unwrap();
        let first = frames(&folder, Existing::Keep).unwrap();
        let second = frames(&folder, Existing::Keep).unwrap();
        first.write("a", b"1").unwrap();
        second.write("a", b"2").unwrap();
        first.commit().unwrap();
        assert!(second.commit().unwrap().ends_with("frames-1"));
        assert_eq!(folder.names(), ["frames", "frames-1"]);
        assert_eq!(fs::read(folder.path().join("frames/a")).unwrap(), b"1");
        assert_eq!(fs::read(folder.path().join("frames-1/a")).unwrap(), b"2");
    }

    #[test]
    fn the_end_of_the_run_removes_a_folder_that_is_still_written() {
        let folder = TempFolder::new();
        let registry = own_registry();
        let made =
            AtomicFolder::create_in(registry, &folder.path().join("x"), Existing::Keep).unwrap();
        made.write("a", b"1").unwrap();
        registry.end_for_test(false);
        assert_eq!(folder.names().len(), 0);
        let error = made.write("b", b"1").unwrap_err();
        assert_eq!((error.code(), error.kind()), ("E1013", Kind::Interrupted));
        assert_eq!(made.append("b", b"1").unwrap_err().kind(), Kind::Interrupted);
        assert_eq!(made.make_folder("c").unwrap_err().kind(), Kind::Interrupted);
        let refused = AtomicFolder::create_in(registry, &folder.path().join("y"), Existing::Keep);
        assert_eq!(refused.unwrap_err().kind(), Kind::Interrupted);
    }

    #[test]
    fn what_is_no_folder_is_refused() {
        let folder = TempFolder::new();
        folder.write("frames", b"a file");
        assert_eq!(frames(&folder, Existing::Replace).unwrap_err().code(), "E1014");
        let root = AtomicFolder::create_in(own_registry(), Path::new("/"), Existing::Replace);
        assert_eq!(root.unwrap_err().code(), "E1014");
        assert_eq!(folder.names(), ["frames"]);
    }
}
