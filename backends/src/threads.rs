//! The one way to start a thread: a refusal of the system is an answer, with what to do about it.

use anyid_ir::memory::room;
use std::fmt;
use std::io;
use std::thread::{Builder, JoinHandle};

/// Bytes of a stack, where nothing else is said.
const STACK: usize = 2 << 20;
/// Bytes that must be left besides the stack.
const SPARE: usize = 1 << 20;

/// Why there are fewer threads than were asked for.
#[derive(Debug)]
pub struct ThreadsRefused {
    /// How many were asked for.
    pub asked: usize,
    /// How many of them could be had.
    pub started: usize,
    /// What the system says.
    pub cause: io::Error,
}

impl fmt::Display for ThreadsRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = if self.asked == 1 { "thread" } else { "threads" };
        write!(f, "{} of {} {threads} could be started", self.started, self.asked)
    }
}

impl std::error::Error for ThreadsRefused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// Starts a thread.
///
/// # Errors
/// Where the system refuses: limits on processes, on address space for its stack, or on a group.
pub fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ThreadsRefused> {
    start_with_stack(name, None, work)
}

/// [`start`] with a stack of so many bytes.
///
/// # Errors
/// As [`start`].
pub fn start_with_stack<T: Send + 'static>(
    name: &str,
    stack_bytes: Option<usize>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ThreadsRefused> {
    let stack = stack_bytes.unwrap_or(STACK);
    // Where the stack would take the last of the memory, what is allocated on the way could not be
    // had, and that would end the program.
    if room::<u8>(stack + SPARE).is_none() {
        let cause = io::ErrorKind::OutOfMemory.into();
        return Err(ThreadsRefused { asked: 1, started: 0, cause });
    }
    Builder::new()
        .name(name.to_owned())
        .stack_size(stack)
        .spawn(work)
        .map_err(|cause| ThreadsRefused { asked: 1, started: 0, cause })
}
