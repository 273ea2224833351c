//! Ctrl-C: the first asks a long run to stop cleanly where it can, else and the second time the
//! program ends at once with what it had half written removed.
//!
//! The handler runs on a thread of its own, not inside a signal handler, so locks are fine.

use crate::output::note;
use anyid_runtime::files;
use anyid_runtime::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Exit code of an interrupted program.
pub const EXIT: u8 = 130;

struct State {
    /// Set on the first press, if the job at hand can stop by itself.
    flag: Option<Arc<AtomicBool>>,
    /// Folders being made, removed when the program ends early.
    folders: BTreeSet<PathBuf>,
}

static STATE: Mutex<State> = Mutex::new(State { flag: None, folders: BTreeSet::new() });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Installs the handler.
///
/// # Errors
/// E1000 where the system refuses one.
pub fn install() -> Result<()> {
    ctrlc::set_handler(pressed).map_err(|fault| {
        Error::internal("E1000", "the interrupt handler could not be installed").caused_by(fault)
    })
}

fn pressed() {
    let flag = state().flag.clone();
    if let Some(flag) = flag
        && !flag.swap(true, Ordering::Relaxed)
    {
        note("\nstopping after the work at hand; press Ctrl-C again to stop at once");
        return;
    }
    clean();
    note("\nerror[E1002]: interrupted; nothing half written was left");
    std::process::exit(EXIT.into());
}

/// Removes everything half written.
pub fn clean() {
    files::close();
    let folders = std::mem::take(&mut state().folders);
    for folder in folders {
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// From now on the first press sets `flag` instead of ending the program.
pub fn graceful(flag: Arc<AtomicBool>) {
    state().flag = Some(flag);
}

/// A folder in the making: removed when dropped or interrupted, unless it was kept.
pub struct PartialFolder {
    path: PathBuf,
}

impl PartialFolder {
    /// Watches over `path`, which need not exist yet.
    pub fn watch(path: PathBuf) -> Self {
        state().folders.insert(path.clone());
        Self { path }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        if state().folders.remove(&self.path) {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
