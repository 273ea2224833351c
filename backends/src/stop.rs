//! How work is told to stop, for every device.
//!
//! Whoever starts work puts it inside [`with_stop`]; whoever does it asks [`stop_requested`] as often
//! as is cheap. Work that was told to stop ends early, and what it has written is worthless: whoever
//! started it looks at the flag before using the result. Nothing is allocated.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    /// The flag that stops the work of this thread, or null; see [`with_stop`].
    static STOP: Cell<*const AtomicBool> = const { Cell::new(std::ptr::null()) };
}

/// Sets the flag of this thread back when a scope ends, however it ends.
pub(crate) struct StopScope(*const AtomicBool);

impl StopScope {
    /// Makes `flag` the one of this thread. It is null, or lives as long as the scope.
    pub(crate) fn enter(flag: *const AtomicBool) -> Self {
        Self(STOP.replace(flag))
    }
}

impl Drop for StopScope {
    fn drop(&mut self) {
        STOP.set(self.0);
    }
}

/// Does `work`, which ends early once `flag` is set. The result is then worthless, if nothing else
/// looks at the flag.
pub fn with_stop<T>(flag: &AtomicBool, work: impl FnOnce() -> T) -> T {
    let _scope = StopScope::enter(flag);
    work()
}

/// Whether the work of this thread was told to stop.
pub fn stop_requested() -> bool {
    is_set(flag())
}

/// The flag of this thread, for threads that work on its behalf.
pub(crate) fn flag() -> *const AtomicBool {
    STOP.get()
}

/// Whether a flag that [`flag`] gave is set.
pub(crate) fn is_set(flag: *const AtomicBool) -> bool {
    // SAFETY: a flag that is not null is borrowed by the `with_stop` that surrounds this call, or
    // surrounds the work that this thread does for another, which waits for it.
    !flag.is_null() && unsafe { (*flag).load(Ordering::Relaxed) }
}

/// `0..count` for loops on one thread that may be long: ends early when the work shall stop.
pub(crate) fn until_stopped(count: usize) -> impl Iterator<Item = usize> {
    const OFTEN: usize = 1 << 13;
    (0..count).take_while(|at| at % OFTEN != 0 || !stop_requested())
}
