//! The registry: every temporary and child program of this process, and whether more may come.
//!
//! Contract: making, starting and renaming hold its lock, so that ending the run comes either
//! before or after each of them. Children die before files are removed, or they would write them
//! again. It is the one global of the library, as a signal concerns the process as a whole; tests
//! have registries of their own. It does not know signals.

use super::child::Group;
use super::leftover::{self, Swept};
use super::place::folder_of;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How far the end of the run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Everything may be made.
    Open,
    /// The run was told to stop: only records of it, such as traces, may still be completed.
    Stopping,
    /// Nothing more.
    Closed,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    folder: bool,
    /// Whether it outlives [`stop`].
    record: bool,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    live: BTreeMap<PathBuf, Entry>,
    children: BTreeMap<u32, Group>,
    next: u64,
    swept: Vec<Swept>,
    /// Temporaries that were asked for in each folder.
    asked: BTreeMap<PathBuf, u64>,
}

/// Everything half made, under one lock.
#[derive(Debug)]
pub(super) struct Registry {
    state: Mutex<State>,
    /// Held while things are removed, so that nobody ends the process half way.
    ending: Mutex<()>,
}

/// That of this process.
pub(super) static PROCESS: Registry = Registry::new();

/// Tells the run to end: nothing new can be made, started or renamed, children are killed, and
/// temporaries removed. Records of the run ([`AtomicFile::keep_when_stopped`]) can still be
/// completed. For a program that was told to end, on an ordinary thread (it takes locks).
///
/// [`AtomicFile::keep_when_stopped`]: super::AtomicFile::keep_when_stopped
pub fn stop() {
    PROCESS.end(Stage::Stopping);
}

/// As [`stop`], records included. The process can exit when this returns.
pub fn close() {
    PROCESS.end(Stage::Closed);
}

/// As [`close`], for a process that ends at once and whose other threads may never give a lock back,
/// as after a failed allocation. What is locked longer than a moment stays for the next run to sweep.
pub fn close_without_waiting() {
    PROCESS.end_without_waiting();
}

/// Whether [`stop`] or [`close`] was called.
pub fn stopped() -> bool {
    PROCESS.lock().stage != Stage::Open
}

/// What was swept since the last call: leftovers of killed processes, by folder.
pub fn take_swept() -> Vec<Swept> {
    std::mem::take(&mut PROCESS.lock().swept)
}

/// The fault of everything that is asked for after the end.
pub(super) fn ended() -> io::Error {
    io::Error::new(ErrorKind::Interrupted, "the run was told to end")
}

/// Names that are tried for a temporary before it is given up.
const NAMES: usize = 10_000;

/// How long killed children are waited for: they die at once unless a disk holds them.
const DYING: Duration = Duration::from_secs(1);

impl Registry {
    pub(super) const fn new() -> Self {
        let state = State {
            stage: Stage::Open,
            live: BTreeMap::new(),
            children: BTreeMap::new(),
            next: 0,
            swept: Vec::new(),
            asked: BTreeMap::new(),
        };
        Self { state: Mutex::new(state), ending: Mutex::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The collections stay meaningful whatever a panicking thread was doing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, stage: Stage) {
        let _ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<(PathBuf, Entry)> = {
            let mut state = self.lock();
            state.stage = state.stage.max(stage);
            state.children.values().for_each(Group::kill);
            let gone = |_: &PathBuf, entry: &mut Entry| stage == Stage::Closed || !entry.record;
            state.live.extract_if(.., gone).collect()
        };
        let begun = Instant::now();
        while self.lock().children.values().any(Group::lives) && begun.elapsed() < DYING {
            std::thread::sleep(Duration::from_millis(2));
        }
        for (path, entry) in gone {
            let path = match entry.folder {
                // Whoever still writes into it finds the name gone and cannot fill it again.
                true => {
                    let hidden = leftover::name_in(folder_of(&path), true, self.number(), "");
                    let moved =
                        hidden.and_then(|hidden| fs::rename(&path, &hidden).map(|()| hidden));
                    moved.unwrap_or(path)
                }
                false => path,
            };
            remove(&path, entry.folder);
        }
    }

    fn end_without_waiting(&self) {
        let mut tries = 0;
        let mut state = loop {
            match self.state.try_lock() {
                Ok(state) => break state,
                Err(TryLockError::Poisoned(state)) => break state.into_inner(),
                Err(TryLockError::WouldBlock) if tries < 200 => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(TryLockError::WouldBlock) => return,
            }
        };
        state.stage = Stage::Closed;
        state.children.values().for_each(Group::kill);
        let gone = std::mem::take(&mut state.live);
        drop(state);
        for (path, entry) in gone {
            remove(&path, entry.folder);
        }
    }

    fn number(&self) -> u64 {
        let mut state = self.lock();
        state.next += 1;
        state.next
    }

    /// Makes a temporary file in `folder`; `ending` is appended to its name.
    pub(super) fn file(
        &'static self,
        folder: &Path,
        ending: &str,
        record: bool,
    ) -> io::Result<(File, Temporary)> {
        self.make(folder, ending, Entry { folder: false, record }, |path| {
            OpenOptions::new().write(true).read(true).create_new(true).open(path)
        })
    }

    /// Makes a temporary folder in `folder`.
    pub(super) fn folder(&'static self, folder: &Path) -> io::Result<Temporary> {
        let made = self.make(folder, "", Entry { folder: true, record: false }, |path| {
            fs::create_dir(path)?;
            File::open(path).inspect_err(|_| {
                // It is not in the registry yet, so nobody else would.
                let _ = fs::remove_dir(path);
            })
        });
        made.map(|(_, temporary)| temporary)
    }

    fn make(
        &'static self,
        folder: &Path,
        ending: &str,
        entry: Entry,
        create: impl Fn(&Path) -> io::Result<File>,
    ) -> io::Result<(File, Temporary)> {
        self.sweep(folder);
        let mut locking = true;
        for _ in 0..NAMES {
            let mut state = self.lock();
            if state.stage > Stage::Open {
                return Err(ended());
            }
            state.next += 1;
            let path = leftover::name_in(folder, locking, state.next, ending)?;
            let file = match create(&path) {
                Ok(file) => file,
                // Another's, whatever it is.
                Err(fault) if fault.kind() == ErrorKind::AlreadyExists => continue,
                Err(fault) => return Err(fault),
            };
            match leftover::claim(&path, &file, locking) {
                Ok(holder) => {
                    state.live.insert(path.clone(), entry);
                    let temporary = Temporary { path, registry: self, holder: Some(holder) };
                    return Ok((file, temporary));
                }
                // Whoever took it removes it.
                Err(leftover::Unclaimed::Taken) => {}
                Err(leftover::Unclaimed::NoLocks) => {
                    remove(&path, entry.folder);
                    locking = false;
                }
                Err(leftover::Unclaimed::Refused(fault)) => {
                    // A folder is removed by opening it, which takes a descriptor.
                    drop(file);
                    remove(&path, entry.folder);
                    return Err(fault);
                }
            }
        }
        Err(io::Error::other("every temporary name is taken at once by somebody else"))
    }

    /// Takes files of a child into the registry, until what this gives is dropped: if the run ends before
    /// that, they are removed.
    pub(super) fn adopt(&'static self, paths: &[&Path]) -> io::Result<Adopted> {
        let mut state = self.lock();
        if state.stage > Stage::Open {
            return Err(ended());
        }
        let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
        let entry = Entry { folder: false, record: false };
        state.live.extend(paths.iter().map(|path| (path.clone(), entry)));
        Ok(Adopted { paths, registry: self })
    }

    /// Removes what killed processes left in `folder`, unless we are at work there already. It is read
    /// for the first temporary, the second, the fourth and so on: a folder of many files is not read
    /// anew for each of them.
    fn sweep(&self, folder: &Path) {
        let mut state = self.lock();
        let busy = state.live.keys().any(|path| path.parent() == Some(folder));
        let asked = state.asked.entry(folder.to_owned()).or_default();
        *asked += u64::from(!busy);
        if busy || !asked.is_power_of_two() {
            return;
        }
        drop(state);
        if let Some(swept) = leftover::sweep(folder) {
            self.lock().swept.push(swept);
        }
    }

    /// Starts a child by `start` and takes it into the registry.
    pub(super) fn start<T>(
        &self,
        start: impl FnOnce() -> io::Result<(u32, Group, T)>,
    ) -> io::Result<T> {
        let mut state = self.lock();
        if state.stage > Stage::Open {
            return Err(ended());
        }
        let (pid, group, started) = start()?;
        state.children.insert(pid, group);
        Ok(started)
    }

    /// Forgets a child that has ended; `reap` frees its number under the lock, so that nobody
    /// kills a stranger who gets it.
    pub(super) fn reap<T>(&self, pid: u32, reap: impl FnOnce() -> T) -> T {
        let mut state = self.lock();
        state.children.remove(&pid);
        reap()
    }

    /// Lets `place` give final names to temporaries that are whole, unless they are gone: then the
    /// run has ended.
    pub(super) fn place<T>(
        &self,
        paths: &[&Path],
        place: impl FnOnce(&mut Live<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.lock();
        if paths.iter().any(|path| !state.live.contains_key(*path)) {
            return Err(ended());
        }
        place(&mut Live(&mut state))
    }

    /// Ends it as [`stop`] or [`close`] end that of the process.
    #[cfg(test)]
    pub(super) fn end_for_test(&self, records_too: bool) {
        self.end(if records_too { Stage::Closed } else { Stage::Stopping });
    }
}

/// The temporaries, while names are taken.
pub(super) struct Live<'a>(&'a mut State);

impl Live<'_> {
    /// It has its final name.
    pub(super) fn forget(&mut self, path: &Path) {
        self.0.live.remove(path);
    }

    /// A free temporary name beside `path`.
    pub(super) fn another_name(&mut self, path: &Path) -> io::Result<PathBuf> {
        for _ in 0..NAMES {
            self.0.next += 1;
            let name = leftover::name_in(folder_of(path), true, self.0.next, "")?;
            match fs::symlink_metadata(&name) {
                Ok(_) => {}
                Err(fault) if fault.kind() == ErrorKind::NotFound => return Ok(name),
                Err(fault) => return Err(fault),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }
}

fn remove(path: &Path, folder: bool) {
    // A writer may be in the middle of making one more file in the folder.
    for _ in 0..5 {
        let outcome = match folder {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
        match outcome {
            Err(fault) if fault.kind() != ErrorKind::NotFound => {
                std::thread::sleep(Duration::from_millis(2));
            }
            _ => return,
        }
    }
}

/// Files of a child that are in the registry.
#[derive(Debug)]
pub(super) struct Adopted {
    paths: Vec<PathBuf>,
    registry: &'static Registry,
}

impl Drop for Adopted {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        for path in &self.paths {
            state.live.remove(path);
        }
    }
}

/// A temporary file or folder of this process; removed when dropped, unless it got its name.
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    registry: &'static Registry,
    /// Its lock tells other processes that the owner lives.
    holder: Option<File>,
}

impl Temporary {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Marks it as a record of the run, which outlives [`stop`].
    pub(super) fn keep_when_stopped(&self) {
        if let Some(entry) = self.registry.lock().live.get_mut(&self.path) {
            entry.record = true;
        }
    }

    pub(super) fn registry(&self) -> &'static Registry {
        self.registry
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let entry = self.registry.lock().live.remove(&self.path);
        // Removing a folder takes a descriptor, and this may be the last one.
        self.holder = None;
        if let Some(entry) = entry {
            remove(&self.path, entry.folder);
        }
    }
}
