//! Where a result will lie: what is there already, and how a temporary takes that name.
//!
//! Links are followed, so that the file they lead to is replaced and not the link. Names are taken
//! without ever destroying what may not be replaced, by the system's own exclusive renaming where
//! it has that. The order in which several names are taken is `together`'s business.

use super::fault::write_error;
use super::{leftover, obstacle};
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::ffi::OsString;
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
    /// It is kept, whenever it came, and the result gets a free name beside it. Links are not
    /// followed. For what nobody asked for.
    Beside,
}

/// A name for a result.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Links followed.
    pub(super) target: PathBuf,
    pub(super) existing: Existing,
    /// What was there at the beginning.
    pub(super) before: Option<Identity>,
    /// For a folder at which a file system is mounted, which cannot be renamed: the names in it
    /// that are replaced. The result is moved into it file by file.
    pub(super) inside: Option<BTreeSet<OsString>>,
    /// Whether it may be lost when the power fails: nothing waits for the disk then.
    pub(super) fleeting: bool,
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
    /// Errors: E1016 when something is there that shall be kept, E1018 when it could not be
    /// replaced, E1013 for a circle of links or a name that is too long, E1011 for a folder that
    /// may not be searched.
    pub(super) fn find(path: &Path, existing: Existing) -> Result<(Self, Option<Metadata>)> {
        let fail = |fault: io::Error| write_error(path, fault);
        let target = match existing {
            Existing::Beside => path.to_owned(),
            _ => follow(path).map_err(fail)?,
        };
        let found = match fs::symlink_metadata(&target) {
            Ok(found) => Some(found),
            // The second is found again, and said better, where the temporary is made.
            Err(fault) if is_absent(&fault) => None,
            Err(fault) => return Err(fail(fault)),
        };
        if existing == Existing::Beside {
            obstacle::check(path, &target, None)?;
            return Ok((
                Self { target, existing, before: None, inside: None, fleeting: false },
                None,
            ));
        }
        // A pipe or a device is written into, not replaced.
        let kept = found.as_ref().is_some_and(|data| data.is_file() || data.is_dir());
        let empty = kept && is_empty_folder(&target);
        if existing == Existing::Keep && kept && !empty {
            return Err(in_the_way(path));
        }
        obstacle::check(path, &target, found.as_ref().filter(|_| kept))?;
        let folder = found.as_ref().is_some_and(Metadata::is_dir);
        let inside = match folder && obstacle::is_mounted(&target) {
            true => Some(contents(&target).map_err(fail)?.into_iter().collect()),
            false => None,
        };
        let before = found.as_ref().map(Identity::of);
        Ok((Self { target, existing, before, inside, fleeting: false }, found))
    }

    /// A pipe or a device, which has no name to take.
    pub(super) fn direct(path: &Path) -> Self {
        let (target, existing) = (path.to_owned(), Existing::Overwrite);
        Self { target, existing, before: None, inside: None, fleeting: false }
    }

    /// Where the temporary lies until it takes the name.
    pub(super) fn workshop(&self) -> &Path {
        if self.inside.is_some() { &self.target } else { folder_of(&self.target) }
    }

    /// Whether something is there now that must not be replaced.
    pub(super) fn taken(&self) -> bool {
        // What came into a mounted folder is found when the result is moved into it.
        if self.inside.is_some() {
            return false;
        }
        let Ok(found) = fs::symlink_metadata(&self.target) else { return false };
        match self.existing {
            Existing::Overwrite => false,
            Existing::Replace | Existing::Keep => self.before != Some(Identity::of(&found)),
            Existing::Beside => true,
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

/// Whether a fault says that nothing of this name is there.
pub(super) fn is_absent(fault: &io::Error) -> bool {
    matches!(fault.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The names in a folder, but for the temporaries of runs.
pub(super) fn contents(folder: &Path) -> io::Result<Vec<OsString>> {
    let names = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name()));
    names.filter(|name| !matches!(name, Ok(name) if leftover::is_temporary(name))).collect()
}

/// Whether a folder holds nothing, but for what a killed run may have left.
pub fn is_empty_folder(path: &Path) -> bool {
    contents(path).is_ok_and(|names| names.is_empty())
}

/// The folder that holds `path`; the current one for a bare name.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Follows links, also one to a file that does not exist yet.
pub(super) fn follow(path: &Path) -> io::Result<PathBuf> {
    match fs::metadata(path) {
        Ok(data) if data.is_file() || data.is_dir() => return fs::canonicalize(path),
        // The text of a link to a pipe (`pipe:[7]`) is no path.
        Ok(_) => return Ok(path.to_owned()),
        Err(_) => {}
    }
    let mut path = path.to_owned();
    for _ in 0..40 {
        let Ok(next) = fs::read_link(&path) else { return Ok(path) };
        path = folder_of(&path).join(next);
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "too many links"))
}

/// A name in `folder` that nobody could guess, so that nobody has put anything there.
pub fn fresh_name(folder: &Path, before: &str, after: &str) -> PathBuf {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds each of these with random bits from the system.
    let random = std::hash::RandomState::new().build_hasher().finish();
    folder.join(format!("{before}{random:016x}{after}"))
}

/// Longest name that is made by numbering: room is left for what lies beside a result.
const LONGEST_NAME: usize = 220;

/// `out.mp4` as `out-2.mp4`; a very long stem is cut.
pub(super) fn numbered(path: &Path, number: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default();
    let ending = path.extension();
    let room = LONGEST_NAME.saturating_sub(ending.map_or(0, |ending| ending.len() + 1));
    let mut name = match stem.to_str() {
        Some(text) if text.len() > room => OsString::from(&text[..text.floor_char_boundary(room)]),
        _ => stem.to_owned(),
    };
    name.push(format!("-{number}"));
    if let Some(ending) = ending {
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
    /// File by file, from the first place to the second.
    Filled(Vec<(PathBuf, PathBuf)>),
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
            match fs::rename(to, &aside) {
                // A folder from a lower layer of an image cannot be moved; its files can.
                Err(fault) if fault.kind() == ErrorKind::CrossesDevices => {
                    let old = contents(to)?.into_iter().collect();
                    return fill(from, to, &old);
                }
                outcome => outcome?,
            }
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

/// Moves what is in the temporary folder `from` into `to`, on the same file system, and the `old`
/// names of `to` into `from`, where they go with it. Everything, or nothing.
///
/// Errors: also when a file of a wanted name came there meanwhile.
pub(super) fn fill(from: &Path, to: &Path, old: &BTreeSet<OsString>) -> io::Result<Taken> {
    let mut done: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut all = || {
        let new = contents(from)?;
        let aside = from.join(".replaced");
        if !old.is_empty() {
            fs::create_dir(&aside)?;
        }
        for name in old {
            match fs::rename(to.join(name), aside.join(name)) {
                Ok(()) => done.push((to.join(name), aside.join(name))),
                Err(fault) if fault.kind() == ErrorKind::NotFound => {}
                Err(fault) => return Err(fault),
            }
        }
        for name in new {
            let (here, there) = (from.join(&name), to.join(&name));
            rename_exclusively(&here, &there).map_err(|fault| match fault.kind() {
                ErrorKind::AlreadyExists => {
                    io::Error::other(format!("{} came there meanwhile", there.display()))
                }
                _ => fault,
            })?;
            done.push((here, there));
        }
        Ok(())
    };
    let outcome = all();
    let taken = Taken::Filled(done);
    match outcome {
        Ok(()) => sync_folder(to),
        Err(_) => give_back(from, to, &taken),
    }
    outcome.map(|()| taken)
}

/// Takes a name back after [`take`] or [`fill`], as far as that is possible.
pub(super) fn give_back(from: &Path, to: &Path, taken: &Taken) {
    let _ = match taken {
        Taken::Free => fs::rename(to, from),
        Taken::Swapped => swap(from, to),
        Taken::Replaced => Ok(()),
        Taken::Filled(done) => done.iter().rev().try_for_each(|(from, to)| fs::rename(to, from)),
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
    use crate::testing::TempFolder;

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
    fn a_folder_is_filled_as_a_whole_or_stays_as_it_was() {
        let folder = TempFolder::new();
        folder.write("frames/a", b"old");
        folder.write("frames/b", b"old");
        folder.write("new/a", b"new");
        folder.write("new/c", b"new");
        let (new, frames) = (folder.path().join("new"), folder.path().join("frames"));
        let old = |names: &[&str]| names.iter().map(OsString::from).collect::<BTreeSet<_>>();
        let names = |folder: &Path| {
            let mut names = contents(folder).unwrap();
            names.sort();
            names
        };
        // The second file cannot take its name.
        let fault = fill(&new, &frames, &old(&["b"])).unwrap_err();
        assert!(fault.to_string().contains("came there meanwhile"), "{fault}");
        assert_eq!(names(&frames), ["a", "b"]);
        assert_eq!(fs::read(frames.join("a")).unwrap(), b"old");
        fs::remove_dir(new.join(".replaced")).unwrap();
        let taken = fill(&new, &frames, &old(&["a", "b", "gone"])).unwrap();
        assert_eq!(names(&frames), ["a", "c"]);
        assert_eq!(fs::read(frames.join("a")).unwrap(), b"new");
        give_back(&new, &frames, &taken);
        assert_eq!(names(&frames), ["a", "b"]);
    }

    #[test]
    fn a_name_is_numbered_before_its_ending() {
        assert_eq!(numbered(Path::new("a/out.mp4"), 2), Path::new("a/out-2.mp4"));
        assert_eq!(numbered(Path::new("frames"), 1), Path::new("frames-1"));
        let long = numbered(Path::new(&format!("{}.mp4", "ö".repeat(120))), 17);
        let name = long.to_str().unwrap();
        assert!((200..=224).contains(&name.len()) && name.ends_with("ö-17.mp4"), "{name}");
    }
}
