//! How signals end the program: SIGINT (Ctrl-C), SIGTERM, SIGHUP, SIGQUIT and SIGXCPU.
//!
//! The first shuts the registry of files and children, so that nothing half made stays or gets a
//! name, and asks the work at hand to stop; the program ends when it does, after a few seconds at
//! the latest. A second one ends the program at once. Either way the exit code is 128 and the
//! number of the first. SIGPIPE and SIGXFSZ end nothing: what was being written fails instead. A
//! SIGHUP that whoever started us had ignored (`nohup`) stays so; the others are taken all the same,
//! as shells ignore SIGINT for whatever they start in the background.
//!
//! All this happens on a thread of its own, not inside a signal handler, so locks are fine.

use crate::output::note;
use crate::render::Failure;
use anyid_runtime::{Error, Kind, Result, files};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

/// Exit code of a run that was stopped without a signal's doing.
pub const EXIT: u8 = 130;

/// How long the work at hand may take to stop. It looks for the wish several times a second.
const PATIENCE: Duration = Duration::from_secs(3);

/// The signal that came first; 0 before.
static FIRST: AtomicI32 = AtomicI32::new(0);

/// Set on the first signal, if the job at hand can stop by itself.
static FLAG: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

/// From now on the first signal sets `flag` instead of ending the program.
pub fn graceful(flag: Arc<AtomicBool>) {
    // One that came just before must not be lost.
    if FIRST.load(Ordering::SeqCst) != 0 {
        flag.store(true, Ordering::Relaxed);
    }
    *FLAG.lock().unwrap_or_else(PoisonError::into_inner) = Some(flag);
}

/// Removes everything half made.
pub fn clean() {
    files::close();
}

/// Says what killed runs had left and this one removed.
pub fn say_swept() {
    for swept in files::take_swept() {
        let what = crate::output::plural(swept.count, "leftover");
        let (bytes, folder) = (crate::output::bytes(swept.bytes), swept.folder.display());
        note(&format!("removed {what} of killed runs in {folder} ({bytes})"));
    }
}

/// If a signal came, `failure` is its consequence: gives the interruption and the exit code.
pub fn ended(failure: Failure) -> (Failure, Option<u8>) {
    let signal = FIRST.load(Ordering::SeqCst);
    if signal == 0 {
        return (failure, None);
    }
    // Waits for the thread that cleans, too.
    files::close();
    let says_where = matches!(&failure, Failure::Error(error) if error.code() == "E1002");
    let failure = if says_where { failure } else { interrupted(signal).into() };
    (failure, Some(exit_code(signal)))
}

fn interrupted(signal: i32) -> Error {
    let what = format!("interrupted by {}; nothing half written was left", name(signal));
    Error::new(Kind::Interrupted, "E1002", what)
}

fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(EXIT)
}

/// Says something unless standard error is stuck, which must not keep the program from ending.
fn say(line: String) {
    let (done, wait) = mpsc::channel();
    let said = std::thread::Builder::new().spawn(move || {
        note(&line);
        let _ = done.send(());
    });
    if said.is_ok() {
        let _ = wait.recv_timeout(Duration::from_millis(300));
    }
}

fn came(signal: i32) {
    if FIRST.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        end();
    }
    let flag = FLAG.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(flag) = flag else { end() };
    flag.store(true, Ordering::Relaxed);
    let watching = std::thread::Builder::new().spawn(|| {
        std::thread::sleep(PATIENCE);
        end();
    });
    if watching.is_err() {
        end();
    }
    files::stop();
    say(format!("\nstopping on {}; a second one stops at once", name(signal)));
}

/// Ends the program.
fn end() -> ! {
    let signal = FIRST.load(Ordering::SeqCst);
    files::close();
    let error = interrupted(signal);
    say(format!("\nerror[{}]: {}", error.code(), error.message()));
    exit(exit_code(signal).into())
}

#[cfg(unix)]
mod system {
    use super::{Error, Result, came};
    use anyid_backends::threads;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU, SIGXFSZ};
    use signal_hook::iterator::Signals;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    /// Installs the handlers.
    ///
    /// # Errors
    /// E1000 where the system refuses them, E1025 where it refuses their thread.
    pub fn install() -> Result<()> {
        let refused = |fault: std::io::Error| {
            Error::internal("E1000", "the handlers of signals could not be installed")
                .caused_by(fault)
        };
        // A handler that does nothing: the write that went too far fails, with a code. SIGPIPE is
        // ignored by the standard library already.
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

    /// The signals that were ignored when we were started, as bits, where the system tells.
    fn ignored() -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
    }

    pub fn name(signal: i32) -> &'static str {
        signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
    }

    /// Without running what other code wants done at the end: threads are in the middle of work.
    pub fn exit(code: i32) -> ! {
        signal_hook::low_level::exit(code)
    }
}

// Elsewhere the system ends the program, and the next run sweeps what it left.
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
