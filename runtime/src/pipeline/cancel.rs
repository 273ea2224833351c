//! Stops one run, and only that run, from anywhere.

use crate::error::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The handle that stops a run. Clones stop the same run. A handle that has been used stays used,
/// so the next run needs a new one.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A handle that has not been used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the runs that were given this handle soon, with an error of kind `Interrupted`.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it has been used.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An interruption, if it has been used; `doing` says what that ends, such as `while reading`.
    ///
    /// # Errors
    /// E1002.
    pub fn check(&self, doing: &str) -> Result<()> {
        match self.is_cancelled() {
            true => Err(crate::engine::interrupted(doing)),
            false => Ok(()),
        }
    }

    /// The flag behind the handle, for code that works with a flag; setting it is [`Self::cancel`].
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}
