//! Programs kept between requests.
//!
//! One program for each phase at most: that of the last request. A request takes what fits it off
//! the shelf and brings it back when the phase is over, however it ended. Two requests at the same
//! time never share a program: the second finds the place empty and makes one of its own, of which
//! the later one to end stays. What they compute is the same to the bit, since a run depends on
//! nothing that another has left.

use crate::engine::Program;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a pipeline does with the weights and plans of a phase when the phase is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Releases them before the next phase begins: least memory.
    #[default]
    Released,
    /// Keeps them for the next request, which needs neither load nor compile where its sizes are
    /// the same. The networks are then in memory side by side.
    Loaded,
}

/// A phase's name, and what its program was made for.
type Kept = (String, Program);

/// The programs kept.
#[derive(Default)]
pub(crate) struct Shelf {
    keep: Keep,
    programs: Mutex<BTreeMap<&'static str, Kept>>,
}

impl Shelf {
    /// An empty one.
    pub(crate) fn new(keep: Keep) -> Arc<Self> {
        Arc::new(Self { keep, programs: Mutex::default() })
    }

    pub(crate) fn keep(&self) -> Keep {
        self.keep
    }

    fn programs(&self) -> MutexGuard<'_, BTreeMap<&'static str, Kept>> {
        // A map of programs stays whole whatever a panicking thread was doing.
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program of `phase` made for `key`. One made for another is released, as there will soon
    /// be a newer.
    pub(crate) fn take(self: &Arc<Self>, phase: &'static str, key: &str) -> Option<Lent> {
        let (made_for, program) = self.programs().remove(phase)?;
        (made_for == key).then(|| self.lend(phase, key.to_owned(), program))
    }

    /// A program in use, which comes here when it is dropped.
    pub(crate) fn lend(
        self: &Arc<Self>,
        phase: &'static str,
        key: String,
        program: Program,
    ) -> Lent {
        Lent { shelf: Arc::clone(self), phase, key, program: Some(program) }
    }
}

/// A program in use.
pub(crate) struct Lent {
    shelf: Arc<Shelf>,
    phase: &'static str,
    key: String,
    /// `None` only while it is dropped.
    program: Option<Program>,
}

impl Deref for Lent {
    type Target = Program;

    fn deref(&self) -> &Program {
        self.program.as_ref().expect("a lent program is there until it is brought back")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Program {
        self.program.as_mut().expect("a lent program is there until it is brought back")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Keep::Loaded, Some(program)) = (self.shelf.keep, self.program.take()) {
            let kept = (std::mem::take(&mut self.key), program);
            let before = self.shelf.programs().insert(self.phase, kept);
            // Outside the lock: releasing much memory takes time.
            drop(before);
        }
    }
}
