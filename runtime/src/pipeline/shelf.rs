//! Programs that are kept between requests.
//!
//! At most one program is kept for each phase, that of the last request. A request takes a program
//! that fits off the shelf and puts it back when the phase is over, whether it succeeded or not.
//! Two simultaneous requests never share a program: the second finds the shelf empty and makes its
//! own, and the program of the request that ends last is kept. Results have the same bits in all
//! cases, because a run does not depend on anything that another run has left behind.

use crate::engine::Program;
use anyid_backends::give_back_freed;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a pipeline does with the weights and plans of a phase when the phase is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Releases them before the next phase begins, which takes the least memory.
    #[default]
    Released,
    /// Keeps them for the next request, which need not load or compile again if its sizes are the
    /// same. All networks are then in memory at the same time.
    Loaded,
}

/// The name of a phase, and what its program was made for.
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
        // The map of programs stays valid even if a thread panics.
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program of `phase` that was made for `key`. A program made for another key is released,
    /// because a newer one will soon take its place.
    pub(crate) fn take(self: &Arc<Self>, phase: &'static str, key: &str) -> Option<Lent> {
        let (made_for, program) = self.programs().remove(phase)?;
        (made_for == key).then(|| self.lend(phase, key.to_owned(), program))
    }

    /// A program in use, which returns to the shelf when it is dropped.
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
    /// `None` only while it is being dropped.
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
        let Some(program) = self.program.take() else { return };
        match self.shelf.keep {
            Keep::Loaded => {
                let kept = (std::mem::take(&mut self.key), program);
                let before = self.shelf.programs().insert(self.phase, kept);
                // This happens outside the lock, because releasing much memory takes time.
                drop(before);
            }
            Keep::Released => {
                drop(program);
                // The next phase may need all that the plans leave it.
                give_back_freed();
            }
        }
    }
}
