//! Results that appear together: all of them under their names, or none.
//!
//! Contract: runs that write into one folder take turns, so that the result and the files beside
//! it are of one run. What came to a name while the run worked is kept: the result and what lies
//! beside it then get a free name. Nothing is renamed before all contents are on the disk, unless they may be lost. A crash
//! in the middle may leave a result without the file beside it, never with that of another run.

use super::fault::write_error;
use super::place::{
    Existing, Identity, Place, Taken, fill, folder_of, give_back, is_absent, numbered, sync_folder,
    take,
};
use super::registry::{Live, Temporary};
use crate::error::Result;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A result that is complete on the disk and lacks only its name.
#[derive(Debug)]
pub struct Whole {
    place: Place,
    /// None for a pipe or a device, which has it already.
    temporary: Option<Temporary>,
}

/// A file that this run has made, and may therefore remove again.
#[derive(Debug)]
pub struct Own {
    path: PathBuf,
    /// None for a pipe or a device.
    file: Option<Number>,
}

#[cfg(unix)]
type Number = (u64, u64);
#[cfg(not(unix))]
type Number = Option<std::time::SystemTime>;

fn number(path: &Path) -> Option<Number> {
    let data = fs::symlink_metadata(path).ok()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Some((data.dev(), data.ino()))
    }
    #[cfg(not(unix))]
    {
        Some(data.created().ok())
    }
}

impl Own {
    /// Where it was put.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a file at all: what went to a pipe or a device is not.
    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Whether it is still there: not removed, moved away or replaced by another.
    pub fn is_there(&self) -> bool {
        self.file.is_some() && number(&self.path) == self.file
    }

    /// Removes it, unless that is another file by now.
    pub fn remove(self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// As [`commit`], for one file that may have to be removed again.
///
/// Errors: as [`commit`].
pub fn commit_own(result: Whole) -> Result<Own> {
    let file = result.temporary_path().and_then(number);
    let path = commit(vec![result])?.swap_remove(0);
    Ok(Own { path, file })
}

/// A file that lies beside a result and is named after it, such as its recipe.
pub struct Beside<'a> {
    /// The file, without contents.
    pub file: super::AtomicFile,
    /// What follows the name of the result.
    pub suffix: &'a str,
    /// Its contents, given the name that the result has in the end.
    pub contents: &'a dyn Fn(&Path) -> Vec<u8>,
}

/// How long other runs are waited for that take names in a folder: they need some milliseconds.
const TURN: Duration = Duration::from_secs(20);
/// Numbers that are tried for a free name.
const NUMBERS: usize = 10_000;

impl Whole {
    pub(super) fn new(place: Place, temporary: Option<Temporary>) -> Self {
        Self { place, temporary }
    }

    /// The name it was made for.
    pub fn path(&self) -> &Path {
        &self.place.target
    }

    /// Whether it has a name to take: what went to a pipe or a device does not.
    pub fn is_file(&self) -> bool {
        self.temporary.is_some()
    }

    /// Where it lies until it has its name.
    pub fn temporary_path(&self) -> Option<&Path> {
        self.temporary.as_ref().map(Temporary::path)
    }

    /// Its bytes; 0 for what is no file.
    pub fn bytes(&self) -> u64 {
        self.temporary_path().and_then(|path| fs::metadata(path).ok()).map_or(0, |data| data.len())
    }

    /// Something complete that went to the pipe or device `path`.
    pub fn sent(path: &Path) -> Self {
        Self { place: Place::direct(path), temporary: None }
    }
}

/// Gives all of `results` their names; one whose name is taken by something that must be kept gets
/// a free one beside it. Gives the names, in order.
///
/// Errors: E1010–E1013; E1013 of kind `Interrupted` when the run was told to end. Then everything
/// is as before.
pub fn commit(results: Vec<Whole>) -> Result<Vec<PathBuf>> {
    let mut named = Vec::new();
    for result in results {
        named.push(Named { name: result.path().to_owned(), result, beside: false });
    }
    settle(named, None)
}

/// As [`commit`], with a file beside the first of `results`: both move to a free name together.
/// Its name is the last that is given.
///
/// Errors: as [`commit`].
pub fn commit_with(results: Vec<Whole>, beside: Beside<'_>) -> Result<Vec<PathBuf>> {
    let Beside { file, suffix, contents } = beside;
    let file = file.finish()?;
    let mut named = Vec::new();
    for result in results {
        named.push(Named { name: result.path().to_owned(), result, beside: false });
    }
    // Second, so that the time in which the result lies there without it is short.
    named.insert(1, Named { name: file.path().to_owned(), result: file, beside: true });
    let mut names = settle(named, Some((suffix, contents)))?;
    let beside = names.remove(1);
    names.push(beside);
    Ok(names)
}

struct Named {
    result: Whole,
    name: PathBuf,
    /// Whether it is named after the first.
    beside: bool,
}

type Side<'a> = (&'a str, &'a dyn Fn(&Path) -> Vec<u8>);

fn settle(mut all: Vec<Named>, side: Option<Side<'_>>) -> Result<Vec<PathBuf>> {
    let Some(registry) = all.iter().find_map(|n| n.result.temporary.as_ref()).map(|t| t.registry())
    else {
        return Ok(all.into_iter().map(|named| named.name).collect());
    };
    let _turns = turns(&all);
    for _ in 0..100 {
        choose_names(&mut all, side.map(|(suffix, _)| suffix));
        if let Some((_, contents)) = side {
            write_side(&all, contents)?;
        }
        let paths: Vec<&Path> =
            all.iter().filter_map(|n| n.result.temporary.as_ref()).map(Temporary::path).collect();
        let mut at = all[0].name.clone();
        let outcome = registry.place(&paths, |live| take_names(&all, live, &mut at));
        match outcome {
            Ok(()) => {
                let lasting = all.iter().filter(|named| !named.result.place.fleeting);
                let folders: BTreeSet<&Path> = lasting.map(|n| folder_of(&n.name)).collect();
                folders.into_iter().for_each(sync_folder);
                return Ok(all.into_iter().map(|named| named.name).collect());
            }
            // Something came to the name between the look and the rename.
            Err(fault) if fault.kind() == ErrorKind::AlreadyExists => {}
            Err(fault) => return Err(write_error(&at, fault)),
        }
    }
    Err(write_error(&all[0].name, io::Error::other("names are taken faster than tried")))
}

/// The name each result gets: its own, or a free one.
fn choose_names(all: &mut [Named], suffix: Option<&str>) {
    let beside = |path: &Path| suffix.map(|suffix| with_suffix(path, suffix));
    let side_taken = all.iter().any(|n| n.beside && n.result.place.taken());
    let free = |path: &Path| fs::symlink_metadata(path).is_err_and(|fault| is_absent(&fault));
    let mut first = None;
    for (index, named) in all.iter_mut().enumerate() {
        let own = named.result.path().to_owned();
        if named.result.temporary.is_none() {
            continue;
        }
        if named.beside {
            // Its own name may have been reached through a link: kept while the result keeps its.
            let moved = first.as_ref().and_then(|path: &Option<PathBuf>| path.as_deref());
            named.name = moved.and_then(beside).unwrap_or(own);
            continue;
        }
        let taken = named.result.place.taken() || (index == 0 && side_taken);
        let next = || {
            let all_free = |path: &PathBuf| {
                free(path) && (index > 0 || beside(path).is_none_or(|path| free(&path)))
            };
            (1..NUMBERS).map(|number| numbered(&own, number)).find(all_free)
        };
        let moved = if taken { next() } else { None };
        if index == 0 {
            first = Some(moved.clone());
        }
        named.name = moved.unwrap_or(own);
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

fn write_side(all: &[Named], contents: &dyn Fn(&Path) -> Vec<u8>) -> Result<()> {
    let side = all.iter().find(|named| named.beside);
    let Some((side, temporary)) = side.and_then(|n| Some((n, n.result.temporary.as_ref()?))) else {
        return Ok(());
    };
    let write = || {
        let mut file = OpenOptions::new().write(true).truncate(true).open(temporary.path())?;
        file.write_all(&contents(&all[0].name))?;
        file.sync_all()
    };
    write().map_err(|fault| write_error(&side.name, fault))
}

/// Renames everything, or takes back what was renamed. `at` is where it failed.
fn take_names(all: &[Named], live: &mut Live<'_>, at: &mut PathBuf) -> io::Result<()> {
    let mut done: Vec<(PathBuf, PathBuf, Taken)> = Vec::new();
    let mut asides: Vec<PathBuf> = Vec::new();
    let outcome = (|| {
        for named in all.iter().filter(|named| named.beside) {
            // Away first, or a crash could leave it beside the new result.
            if may_replace(named) && named.name.exists() {
                *at = named.name.clone();
                let aside = live.another_name(&named.name)?;
                fs::rename(&named.name, &aside)?;
                done.push((named.name.clone(), aside.clone(), Taken::Free));
                asides.push(aside);
            }
        }
        for named in all {
            let Some(temporary) = &named.result.temporary else { continue };
            *at = named.name.clone();
            let replace = may_replace(named) && !named.beside;
            let taken = match &named.result.place.inside {
                Some(old) => fill(temporary.path(), &named.name, old)?,
                None => take(temporary.path(), &named.name, replace)?,
            };
            let swapped = matches!(taken, Taken::Swapped);
            done.push((temporary.path().to_owned(), named.name.clone(), taken));
            if swapped && !was_expected(named, temporary.path()) {
                return Err(ErrorKind::AlreadyExists.into());
            }
        }
        Ok(())
    })();
    if outcome.is_err() {
        for (from, to, taken) in done.iter().rev() {
            give_back(from, to, taken);
        }
        return outcome;
    }
    for aside in &asides {
        let _ = fs::remove_file(aside);
    }
    for (from, _, taken) in &done {
        // What was swapped out is a temporary now, and goes with it, as does the emptied folder.
        if !matches!(taken, Taken::Swapped | Taken::Filled(_)) {
            live.forget(from);
        }
    }
    Ok(())
}

/// Whether what has the name now may go.
fn may_replace(named: &Named) -> bool {
    let place = &named.result.place;
    let expected = place.before.is_some() && !place.taken();
    named.name == place.target && (place.existing == Existing::Overwrite || expected)
}

/// Whether what was swapped out is what was looked at before.
fn was_expected(named: &Named, swapped_out: &Path) -> bool {
    let place = &named.result.place;
    let now = fs::symlink_metadata(swapped_out).ok().map(|data| Identity::of(&data));
    place.existing == Existing::Overwrite || now == place.before
}

/// The turn of this process in every folder where names are taken.
fn turns(all: &[Named]) -> Vec<File> {
    let single = all.len() == 1 && all[0].result.place.existing == Existing::Overwrite;
    if single {
        return Vec::new();
    }
    let folders: BTreeSet<PathBuf> =
        all.iter().filter_map(|n| fs::canonicalize(n.result.place.folder()).ok()).collect();
    folders.iter().filter_map(|folder| turn(folder)).collect()
}

/// Waits for the lock of a folder; without one where there are no locks, or nobody lets go.
fn turn(folder: &Path) -> Option<File> {
    let folder = File::open(folder).ok()?;
    let begun = Instant::now();
    loop {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            Err(fs::TryLockError::WouldBlock) if begun.elapsed() < TURN => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(_) => return None,
        }
    }
}
