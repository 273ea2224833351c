//! How signals end the program: SIGINT (Ctrl-C), SIGTERM, SIGHUP, SIGQUIT and SIGXCPU.
//!
//! The first signal closes the registry of files and child programs, so that no partial file stays
//! or gets its final name, and asks the current work to stop. The program ends when the work has
//! stopped, after a few seconds at the latest; training first ends the sample that it is at. A second signal ends the program at once,
//! and what stands then is said all the same. In both
//! cases the exit code is 128 plus the number of the first signal. SIGPIPE and SIGXFSZ do not end
//! the program; the write fails instead. If SIGHUP was ignored when the program was started
//! (`nohup`), it stays ignored. The other signals are handled even then, because shells ignore
//! SIGINT for programs that they start in the background.
//!
//! All this happens on a thread of its own and not inside a signal handler, so locks may be used.

use crate::output::note;
use crate::render::Failure;
use anyid_runtime::{Error, Kind, Result, files};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

/// Exit code of a run that was stopped without a signal.
pub const EXIT: u8 = 130;

/// How long the current work may take to stop. It checks several times a second whether to stop.
const PATIENCE: Duration = Duration::from_secs(3);

/// The first signal; 0 if there was none yet.
static FIRST: AtomicI32 = AtomicI32::new(0);

/// Set on the first signal, if the current work can stop by itself.
static FLAG: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

/// Whether anything was begun.
static BEGUN: AtomicBool = AtomicBool::new(false);

/// Says what stands if the program ends now.
type Standing = Box<dyn Fn() -> String + Send + Sync>;

/// What the current work leaves, and how it is gone on with.
static STANDING: Mutex<Option<Arc<Standing>>> = Mutex::new(None);

/// How long reading that may take, which the disk may not allow.
const READING: Duration = Duration::from_millis(300);

/// From here on something is done that a signal ends.
pub fn begin() {
    BEGUN.store(true, Ordering::SeqCst);
}

/// If a signal ends the program at once, it says what `standing` gives.
pub fn leaves(standing: impl Fn() -> String + Send + Sync + 'static) {
    *STANDING.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(Box::new(standing)));
}

/// Whether the current work may take as long as it needs.
static UNLIMITED: AtomicBool = AtomicBool::new(false);

/// As [`graceful`], for work whose unit may take minutes: it ends when the work has stopped, or on a
/// second signal.
pub fn graceful_without_limit(flag: Arc<AtomicBool>) {
    UNLIMITED.store(true, Ordering::SeqCst);
    graceful(flag);
}

/// From now on the first signal sets `flag` instead of ending the program.
pub fn graceful(flag: Arc<AtomicBool>) {
    // A signal that came just before must not be lost.
    if FIRST.load(Ordering::SeqCst) != 0 {
        flag.store(true, Ordering::Relaxed);
    }
    *FLAG.lock().unwrap_or_else(PoisonError::into_inner) = Some(flag);
}

/// Removes all partial results.
pub fn clean() {
    files::close();
}

/// Reports the leftovers of killed runs that this run has removed.
pub fn say_swept() {
    for swept in files::take_swept() {
        let what = crate::output::plural(swept.count, "leftover");
        let (bytes, folder) = (crate::output::bytes(swept.bytes), swept.folder.display());
        note(&format!("removed {what} of killed runs in {folder} ({bytes})"));
    }
}

/// If a signal came, `failure` is its consequence; returns the interruption and the exit code.
pub fn ended(failure: Failure) -> (Failure, Option<u8>) {
    let signal = FIRST.load(Ordering::SeqCst);
    if signal == 0 {
        return (failure, None);
    }
    // This also waits for the thread that cleans up.
    files::close();
    let says_where = matches!(&failure, Failure::Error(error) if error.code() == "E1002");
    let failure = if says_where { failure } else { interrupted(signal).into() };
    (failure, Some(exit_code(signal)))
}

fn interrupted(signal: i32) -> Error {
    let left = match BEGUN.load(Ordering::SeqCst) {
        true => "no partial file was left",
        false => "nothing was done yet",
    };
    let what = format!("interrupted by {}; {left}", name(signal));
    let error = Error::new(Kind::Interrupted, "E1002", what);
    let standing = STANDING.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match standing.and_then(|standing| in_time(READING, move || standing())) {
        Some(standing) => error.help(standing),
        None => error,
    }
}

/// What `work` gives, unless that takes longer than `limit`.
fn in_time<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, wait) = mpsc::channel();
    let begun = std::thread::Builder::new().spawn(move || {
        let _ = done.send(work());
    });
    begun.ok().and_then(|_| wait.recv_timeout(limit).ok())
}

fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(EXIT)
}

/// Prints a message, unless standard error is stuck, which must not keep the program from ending.
fn say(line: String) {
    in_time(Duration::from_millis(300), move || note(&line));
}

fn came(signal: i32) {
    if FIRST.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        end();
    }
    let flag = FLAG.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(flag) = flag else { end() };
    flag.store(true, Ordering::Relaxed);
    if !UNLIMITED.load(Ordering::SeqCst) {
        let watching = std::thread::Builder::new().spawn(|| {
            std::thread::sleep(PATIENCE);
            end();
        });
        if watching.is_err() {
            end();
        }
    }
    files::stop();
    say(format!("\nstopping on {}; a second signal stops at once", name(signal)));
}

/// Ends the program.
fn end() -> ! {
    let signal = FIRST.load(Ordering::SeqCst);
    files::close();
    let error = interrupted(signal);
    let help = error.help_text().map_or(String::new(), |help| format!("\n  help: {help}"));
    say(format!("\nerror[{}]: {}{help}", error.code(), error.message()));
    exit(exit_code(signal).into())
}

#[cfg(unix)]
mod system {
    use super::{Error, Result, came, files};
    use anyid_backends::threads;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU, SIGXFSZ};
    use signal_hook::iterator::Signals;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    /// Installs the handlers.
    ///
    /// # Errors
    /// E1000 if the system refuses them, E1013 if too many files are open, E1025 if it refuses their thread.
    pub fn install() -> Result<()> {
        let refused = |fault: std::io::Error| match files::too_many_files(&fault) {
            true => files::no_descriptor(fault),
            false => Error::internal("E1000", "the handlers of signals could not be installed")
                .caused_by(fault),
        };
        // This handler does nothing, so the write that exceeds the limit fails with a code. The
        // standard library already ignores SIGPIPE.
        signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(refused)?;
        let ignored = ignored();
        let wanted = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU]
            .into_iter()
            .filter(|signal| *signal != SIGHUP || ignored & (1 << (signal - 1)) == 0);
        let mut signals = Signals::new(wanted).map_err(refused)?;
        threads::start("signals", move || signals.forever().for_each(came))
            .map_err(anyid_runtime::error::threads)?;
        Ok(())
    }

    /// The signals that were ignored when the program was started, as bits, if the system tells.
    fn ignored() -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
    }

    pub fn name(signal: i32) -> &'static str {
        signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
    }

    /// Does not run the exit handlers of other code, because threads are in the middle of work.
    pub fn exit(code: i32) -> ! {
        signal_hook::low_level::exit(code)
    }
}

// On other systems a signal ends the program, and the next run removes what it left.
#[cfg(not(unix))]
mod system {
    pub fn install() -> super::Result<()> {
        Ok(())
    }

    pub fn name(_: i32) -> &'static str {
        "a signal"
    }

    pub fn exit(code: i32) -> ! {
        std::process::exit(code)
    }
}

pub use system::install;
use system::{exit, name};
