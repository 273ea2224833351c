//! Where a result will lie: what is there already, and how a temporary takes that name.
//!
//! Links are followed, so that the file they lead to is replaced and not the link. Names are taken
//! without ever destroying what may not be replaced, by the system's own exclusive renaming where
//! it has that. The order in which several names are taken is `together`'s business.

use super::fault::write_error;
use crate::error::{Error, Result};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What happens to a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is replaced, whenever it came, as compilers do.
    Overwrite,
    /// It is replaced if it is there from the beginning. One that comes later is kept, and the
    /// result gets a free name beside it.
    Replace,
    /// It is refused at the beginning (E1016). One that comes later is kept as with `Replace`.
    Keep,
}

/// A name for a result.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Links followed.
    pub(super) target: PathBuf,
    pub(super) existing: Existing,
    /// What was there at the beginning.
    pub(super) before: Option<Identity>,
}

/// Tells one version of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    number: (u64, u64),
    bytes: u64,
    changed: Option<SystemTime>,
}

impl Identity {
    pub(super) fn of(data: &Metadata) -> Self {
        #[cfg(unix)]
        let number = {
            use std::os::unix::fs::MetadataExt;
            (data.dev(), data.ino())
        };
        #[cfg(not(unix))]
        let number = (0, 0);
        Self { number, bytes: data.len(), changed: data.modified().ok() }
    }
}

impl Place {
    /// Looks at `path`; also gives what is there now.
    ///
    /// Errors: E1016 when something is there that shall be kept, E1013 for a circle of links.
    pub(super) fn find(path: &Path, existing: Existing) -> Result<(Self, Option<Metadata>)> {
        let target = follow(path).map_err(|fault| write_error(path, fault))?;
        let found = fs::metadata(&target).ok();
        // A pipe or a device is written into, not replaced.
        let kept = found.as_ref().is_some_and(|data| data.is_file() || data.is_dir());
        let empty = kept && is_empty_folder(&target);
        if existing == Existing::Keep && kept && !empty {
            return Err(in_the_way(path));
        }
        let before = found.as_ref().map(Identity::of);
        Ok((Self { target, existing, before }, found))
    }

    /// Whether something is there now that must not be replaced.
    pub(super) fn taken(&self) -> bool {
        let Ok(found) = fs::symlink_metadata(&self.target) else { return false };
        match self.existing {
            Existing::Overwrite => false,
            Existing::Replace | Existing::Keep => self.before != Some(Identity::of(&found)),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        folder_of(&self.target)
    }
}

/// The coded error for a result that would replace something.
fn in_the_way(path: &Path) -> Error {
    let what = match path.is_dir() {
        true => "a folder of this name exists and holds files",
        false => "a file of this name exists",
    };
    Error::input("E1016", what)
        .at(path.display())
        .help("choose another name, or give --force to have it replaced")
}

pub(super) fn is_empty_folder(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// The folder that holds `path`; the current one for a bare name.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Follows links, also one to a file that does not exist yet.
fn follow(path: &Path) -> io::Result<PathBuf> {
    if fs::metadata(path).is_ok_and(|data| data.is_file() || data.is_dir()) {
        return fs::canonicalize(path);
    }
    let mut path = path.to_owned();
    for _ in 0..40 {
        let Ok(next) = fs::read_link(&path) else { return Ok(path) };
        path = folder_of(&path).join(next);
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "too many links"))
}

/// `out.mp4` as `out-2.mp4`.
pub(super) fn numbered(path: &Path, number: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default();
    let mut name = stem.to_owned();
    name.push(format!("-{number}"));
    if let Some(ending) = path.extension() {
        name.push(".");
        name.push(ending);
    }
    path.with_file_name(name)
}

/// How a name was taken, for taking it back.
#[derive(Debug)]
pub(super) enum Taken {
    /// Nothing was there.
    Free,
    /// What was there lies under the temporary name now.
    Swapped,
    /// What was there is gone.
    Replaced,
}

/// Gives the temporary `from` the name `to`; what is there is replaced if `replace`.
///
/// Errors: `AlreadyExists` if something is there and not `replace`.
pub(super) fn take(from: &Path, to: &Path, replace: bool) -> io::Result<Taken> {
    match rename_exclusively(from, to) {
        Ok(()) => return Ok(Taken::Free),
        Err(fault) if fault.kind() == ErrorKind::AlreadyExists && replace => {}
        Err(fault) => return Err(fault),
    }
    match swap(from, to) {
        Ok(()) => Ok(Taken::Swapped),
        Err(_) if to.is_dir() => {
            // Without an exchange: aside under a name that nobody sweeps, as a crash between the
            // two renames must not lose it.
            let aside = (1..).map(|n| numbered(to, n)).find(|path| !path.exists());
            let aside = aside.unwrap_or_else(|| to.with_extension("old"));
            fs::rename(to, &aside)?;
            if let Err(fault) = fs::rename(from, to) {
                let _ = fs::rename(&aside, to);
                return Err(fault);
            }
            let _ = fs::remove_dir_all(&aside);
            Ok(Taken::Replaced)
        }
        Err(_) => fs::rename(from, to).map(|()| Taken::Replaced),
    }
}

/// Takes a name back after [`take`], as far as that is possible.
pub(super) fn give_back(from: &Path, to: &Path, taken: &Taken) {
    let _ = match taken {
        Taken::Free => fs::rename(to, from),
        Taken::Swapped => swap(from, to),
        Taken::Replaced => Ok(()),
    };
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
fn rename_with(from: &Path, to: &Path, flags: rustix::fs::RenameFlags) -> io::Result<()> {
    use rustix::fs::{CWD, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, flags)?)
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
fn swap(from: &Path, to: &Path) -> io::Result<()> {
    rename_with(from, to, rustix::fs::RenameFlags::EXCHANGE)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos")))]
fn swap(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

fn rename_exclusively(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
    match rename_with(from, to, rustix::fs::RenameFlags::NOREPLACE) {
        // Not every file system has it.
        Err(fault) if matches!(fault.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {}
        other => return other,
    }
    rename_by_link(from, to)
}

/// Exclusive renaming for file systems without it: a second link, else a look before the rename.
fn rename_by_link(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        match fs::hard_link(from, to) {
            Ok(()) => return fs::remove_file(from),
            Err(fault) if fault.kind() == ErrorKind::AlreadyExists => return Err(fault),
            Err(_) => {}
        }
    }
    match fs::symlink_metadata(to) {
        Ok(_) => Err(ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

/// Makes renames in `folder` last; not every file system can.
pub(super) fn sync_folder(folder: &Path) {
    #[cfg(unix)]
    let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
    #[cfg(not(unix))]
    let _ = folder;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::testing::TempFolder;

    #[test]
    fn names_are_taken_and_given_back() {
        let folder = TempFolder::new();
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        let (new, old) = (folder.write("new", b"new"), folder.write("old", b"old"));
        assert_eq!(take(&new, &old, false).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!((read("new"), read("old")), (b"new".to_vec(), b"old".to_vec()));
        let taken = take(&new, &old, true).unwrap();
        assert_eq!(read("old"), b"new");
        give_back(&new, &old, &taken);
        if !matches!(taken, Taken::Replaced) {
            assert_eq!((read("new"), read("old")), (b"new".to_vec(), b"old".to_vec()));
        }
        let free = folder.path().join("free");
        let new = folder.write("new", b"new");
        let taken = take(&new, &free, false).unwrap();
        assert!(!new.exists() && free.exists());
        give_back(&new, &free, &taken);
        assert!(new.exists() && !free.exists());
    }

    #[test]
    fn exclusive_renaming_by_a_link_destroys_nothing() {
        let folder = TempFolder::new();
        let (new, old) = (folder.write("new", b"new"), folder.write("old", b"old"));
        assert_eq!(rename_by_link(&new, &old).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&old).unwrap(), b"old");
        rename_by_link(&new, &folder.path().join("free")).unwrap();
        assert_eq!(folder.names(), ["free", "old"]);
        let frames = folder.path().join("frames");
        fs::create_dir(&frames).unwrap();
        rename_by_link(&frames, &old).unwrap_err();
        rename_by_link(&frames, &folder.path().join("other")).unwrap();
        assert_eq!(folder.names(), ["free", "old", "other"]);
    }

    #[test]
    fn a_name_is_numbered_before_its_ending() {
        assert_eq!(numbered(Path::new("a/out.mp4"), 2), Path::new("a/out-2.mp4"));
        assert_eq!(numbered(Path::new("frames"), 1), Path::new("frames-1"));
    }
}
