//! Stopping one run from anywhere, and that run alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The handle with which a run is stopped. Clones stop the same run; a handle that was used stays
/// so, and the next run takes a fresh one.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A handle that nobody has used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the runs that were given this handle soon, with an error of kind `Interrupted`.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was used.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag behind it, for those who hold one: setting it is [`Self::cancel`].
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}
