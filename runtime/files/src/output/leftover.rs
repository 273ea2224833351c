//! Leftovers of killed processes: what their temporaries are called, and when they may go.
//!
//! A temporary is called `.anyid-rt-MACHINE-PID-START-NUMBER.tmp`, all in hexadecimal, with an
//! ending where a program needs one. Its owner holds an advisory lock on it; the system gives the
//! lock up when the owner dies, however that happens. Where a file system has no locks, the name
//! begins `.anyid-rt-unlocked-` and the owner is looked for among the processes of this machine.
//! Only names of exactly this form, of the same user, whose owner is certainly gone, are removed.

use super::fault::too_many_files;
use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Leftovers that were removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Where they lay.
    pub folder: PathBuf,
    /// How many there were.
    pub count: usize,
    /// Their bytes on the disk.
    pub bytes: u64,
}

const PREFIX: &str = ".anyid-rt-";
const UNLOCKED: &str = "unlocked-";
/// Longest ending of a temporary's name.
const ENDING: usize = 16;

/// A process that owns temporaries, as its names say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    /// Whether it holds locks.
    locked: bool,
    /// The running system and its space of process numbers; 0 where unknown.
    machine: u32,
    pid: u32,
    /// When it started, in the system's ticks; 0 where unknown.
    start: u64,
}

/// This process, once the system has told.
static SELF: OnceLock<Owner> = OnceLock::new();

/// This process as an owner.
///
/// Errors: the system has no descriptor left to tell by. A name without these numbers would be one
/// that nobody ever sweeps.
fn own() -> io::Result<Owner> {
    if let Some(owner) = SELF.get() {
        return Ok(*owner);
    }
    let pid = std::process::id();
    let (machine, start) = (known(machine())?, known(started(pid))?);
    Ok(*SELF.get_or_init(|| Owner { locked: true, machine, pid, start }))
}

/// What the system tells, or 0 where it does not; an error where it could tell at another time.
fn known<T: Default>(told: io::Result<T>) -> io::Result<T> {
    match told {
        Err(fault) if !too_many_files(&fault) => Ok(T::default()),
        other => other,
    }
}

/// A name in `folder` for temporary `number`; the `ending` begins with a dot or is empty.
///
/// Errors: those of the system, which cannot tell who this process is.
pub(super) fn name_in(
    folder: &Path,
    locking: bool,
    number: u64,
    ending: &str,
) -> io::Result<PathBuf> {
    let Owner { machine, pid, start, .. } = own()?;
    let mark = if locking { "" } else { UNLOCKED };
    let plain = ending.strip_prefix('.').is_some_and(ending_is_plain);
    let ending = if plain { ending } else { "" };
    Ok(folder.join(format!("{PREFIX}{mark}{machine:x}-{pid:x}-{start:x}-{number:x}.tmp{ending}")))
}

/// Whether a file of this name is a temporary of some run, which is no contents of a folder.
pub fn is_temporary(name: &std::ffi::OsStr) -> bool {
    name.to_str().and_then(parse).is_some()
}

fn ending_is_plain(text: &str) -> bool {
    (1..=ENDING).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn parse(name: &str) -> Option<Owner> {
    let rest = name.strip_prefix(PREFIX)?;
    let (rest, locked) = match rest.strip_prefix(UNLOCKED) {
        Some(rest) => (rest, false),
        None => (rest, true),
    };
    let (numbers, ending) = rest.split_once(".tmp")?;
    if !ending.is_empty() && !ending.strip_prefix('.').is_some_and(ending_is_plain) {
        return None;
    }
    let hexadecimal = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        u64::from_str_radix(text, 16).ok().filter(|_| digits)
    };
    let numbers: Vec<u64> = numbers.split('-').map(hexadecimal).collect::<Option<_>>()?;
    let [machine, pid, start, _] = numbers[..] else { return None };
    Some(Owner { locked, machine: machine.try_into().ok()?, pid: pid.try_into().ok()?, start })
}

/// Why a temporary could not be claimed.
#[derive(Debug)]
pub(super) enum Unclaimed {
    /// Somebody took it for a leftover in the moment before it was locked.
    Taken,
    /// The file system has no locks.
    NoLocks,
    /// The system refuses, for a reason that another name does not change.
    Refused(io::Error),
}

/// Makes the new temporary `path`, open as `file`, visibly ours; gives what must stay open.
pub(super) fn claim(path: &Path, file: &File, locking: bool) -> Result<File, Unclaimed> {
    let holder = file.try_clone().map_err(Unclaimed::Refused)?;
    if !locking {
        return Ok(holder);
    }
    match holder.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Unclaimed::Taken),
        Err(TryLockError::Error(_)) => return Err(Unclaimed::NoLocks),
    }
    let held = holder.metadata().map_err(Unclaimed::Refused)?;
    match fs::symlink_metadata(path) {
        Ok(named) if same(&named, &held) => Ok(holder),
        Err(fault) if fault.kind() != ErrorKind::NotFound => Err(Unclaimed::Refused(fault)),
        _ => Err(Unclaimed::Taken),
    }
}

/// Removes the leftovers in `folder`; none if there were none.
pub(super) fn sweep(folder: &Path) -> Option<Swept> {
    let mut swept = Swept { folder: folder.to_owned(), count: 0, bytes: 0 };
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let Some(owner) = entry.file_name().to_str().and_then(parse) else { continue };
        if let Some(bytes) = remove_if_left(&entry.path(), owner) {
            swept.count += 1;
            swept.bytes += bytes;
        }
    }
    (swept.count > 0).then_some(swept)
}

/// The bytes of a leftover that was removed.
fn remove_if_left(path: &Path, owner: Owner) -> Option<u64> {
    let found = fs::symlink_metadata(path).ok()?;
    // Never a link, a pipe or another user's.
    if !(found.is_file() || found.is_dir()) || !mine(&found) {
        return None;
    }
    if !owner.locked && !certainly_gone(owner) {
        return None;
    }
    let file = File::open(path).ok()?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return None,
        // The owner could lock, so this system cannot tell whether it still does.
        Err(TryLockError::Error(_)) if owner.locked => return None,
        Err(TryLockError::Error(_)) => {}
    }
    if !same(&found, &file.metadata().ok()?) {
        return None;
    }
    let bytes = size(path, &found);
    let gone = match found.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    gone.is_ok().then_some(bytes)
}

fn size(path: &Path, found: &Metadata) -> u64 {
    if !found.is_dir() {
        return found.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
}

#[cfg(unix)]
fn same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(unix)]
fn mine(found: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    found.uid() == rustix::process::geteuid().as_raw()
}

#[cfg(not(unix))]
fn same(a: &Metadata, b: &Metadata) -> bool {
    a.created().ok() == b.created().ok()
}

#[cfg(not(unix))]
fn mine(_: &Metadata) -> bool {
    true
}

/// Whether the process is one of this running system, which no longer knows it.
fn certainly_gone(owner: Owner) -> bool {
    let Ok(ours) = own() else { return false };
    owner.machine != 0
        && owner.machine == ours.machine
        && owner.start != 0
        && match started(owner.pid) {
            Ok(start) => start != owner.start,
            Err(fault) => fault.kind() == ErrorKind::NotFound,
        }
}

/// When a process started, in ticks since the system did.
fn started(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program, in parentheses, may hold anything.
    let ticks = text.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19));
    ticks.and_then(|ticks| ticks.parse().ok()).ok_or_else(|| ErrorKind::InvalidData.into())
}

/// A number for the running system and its space of process numbers.
fn machine() -> io::Result<u32> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let space = fs::read_link("/proc/self/ns/pid")?;
    // FNV-1a; any even spread would do.
    let text = format!("{}{}", boot.trim(), space.display());
    let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    Ok(text.bytes().fold(0x811c_9dc5, hash))
}

#[cfg(test)]
mod tests {
    use super::super::registry::Registry;
    use super::*;
    use crate::testing::TempFolder;

    #[test]
    fn only_names_of_the_exact_form_are_ours() {
        let owner = Owner { locked: true, machine: 0xa1, pid: 0x2b, start: 0x3c };
        assert_eq!(parse(".anyid-rt-a1-2b-3c-0.tmp"), Some(owner));
        assert_eq!(parse(".anyid-rt-a1-2b-3c-0.tmp.mkv"), Some(owner));
        let unlocked = Owner { locked: false, ..owner };
        assert_eq!(parse(".anyid-rt-unlocked-a1-2b-3c-ff.tmp"), Some(unlocked));
        for other in [
            "anyid-rt-a1-2b-3c-0.tmp",
            ".anyid-rt-a1-2b-3c-0.tmp~",
            ".anyid-rt-a1-2b-3c-0.tmp.m.k",
            ".anyid-rt-a1-2b-3c-0.tmp.",
            ".anyid-rt-a1-2b-3c.tmp",
            ".anyid-rt-a1-2b-3c-0-0.tmp",
            ".anyid-rt-A1-2b-3c-0.tmp",
            ".anyid-rt-+1-2b-3c-0.tmp",
            ".anyid-rt-a1-2b-3c-0",
            ".anyid-rt--2b-3c-0.tmp",
            ".anyid-rt-123456789-2b-3c-0.tmp",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
        let made = name_in(Path::new("/x"), true, 7, ".mkv").unwrap();
        let made = made.file_name().unwrap().to_str().unwrap();
        assert_eq!(parse(made), Some(own().unwrap()));
    }

    #[test]
    fn leftovers_go_and_everything_else_stays() {
        let folder = TempFolder::new();
        let gone = ".anyid-rt-a1-2b-3c-0.tmp";
        folder.write(gone, b"half");
        folder.write(".anyid-rt-a1-2b-3c-1.tmp.mkv", b"half");
        folder.write(".anyid-rt-a1-2b-3c-2.tmp/frame_00000.png", b"half");
        // Not ours, another machine's without locks, one of a live process.
        folder.write(".anyid-rt-notes.tmp", b"mine");
        folder.write(".anyid-rt-unlocked-a1-2b-3c-0.tmp", b"other");
        let Owner { machine, pid, start, .. } = own().unwrap();
        let live = format!(".anyid-rt-unlocked-{machine:x}-{pid:x}-{start:x}-ffff.tmp");
        folder.write(&live, b"live");
        let dead = format!(".anyid-rt-unlocked-{machine:x}-{pid:x}-{:x}-ffff.tmp", start + 1);
        folder.write(&dead, b"dead");
        #[cfg(unix)]
        std::os::unix::fs::symlink("x", folder.path().join(".anyid-rt-a1-2b-3c-3.tmp")).unwrap();
        let swept = sweep(folder.path()).unwrap();
        let dead = u64::from(machine != 0);
        assert_eq!((swept.count as u64, swept.bytes), (3 + dead, 12 + 4 * dead));
        let names = folder.names();
        assert!(!names.iter().any(|name| name == gone || name.ends_with("mkv")), "{names:?}");
        assert!(names.contains(&live), "{names:?}");
        assert!(names.iter().any(|name| name == ".anyid-rt-notes.tmp"));
        assert!(names.iter().any(|name| name == ".anyid-rt-unlocked-a1-2b-3c-0.tmp"));
        assert_eq!(sweep(folder.path()), None);
    }

    #[test]
    fn a_folder_of_many_files_is_read_ever_more_rarely() {
        let folder = TempFolder::new();
        let registry: &'static Registry = Box::leak(Box::new(Registry::new()));
        let gone = ".anyid-rt-a1-2b-3c-0.tmp".to_owned();
        let swept = |_: &u32| {
            folder.write(&gone, b"half");
            drop(registry.file(folder.path(), "", false).unwrap());
            !folder.names().contains(&gone)
        };
        assert_eq!((1..=9).filter(swept).collect::<Vec<u32>>(), [1, 2, 4, 8]);
    }

    #[test]
    fn a_living_owner_keeps_its_temporaries() {
        let folder = TempFolder::new();
        let registry: &'static Registry = Box::leak(Box::new(Registry::new()));
        let (file, temporary) = registry.file(folder.path(), "", false).unwrap();
        let directory = registry.folder(folder.path()).unwrap();
        assert_eq!(sweep(folder.path()), None);
        // Closing the file for writing changes nothing: the owner still has it.
        drop(file);
        assert_eq!(sweep(folder.path()), None);
        assert_eq!(folder.names().len(), 2);
        drop((temporary, directory));
        assert_eq!(folder.names().len(), 0);
    }
}
