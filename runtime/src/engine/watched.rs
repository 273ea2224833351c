//! What the passes did to a function, and what they refused to do: the source of every report that
//! explains a plan.

use anyid_passes::driver::{Outcome, Record};
use anyid_passes::fuse::UnfusedEdge;
use anyid_passes::rewrite::{Refusal, Rewrite};
use anyid_passes::state::Compilation;

/// Passes that make kernels of steps.
const FUSING: [&str; 2] = ["fuse", "pack-linears"];

/// What a run of the passes gives besides its result.
#[derive(Clone)]
pub struct Watched {
    /// The function.
    pub func: String,
    /// What each pass did.
    pub records: Vec<Record>,
    /// Why kernels were not fused, if requested.
    pub unfused: Vec<UnfusedEdge>,
    /// Every rewrite that was made.
    pub rewrites: Vec<Rewrite>,
    /// Why values do not share memory, if requested.
    pub refused: Vec<Refusal>,
}

impl Watched {
    /// What a run of the passes over `func` left.
    pub fn of<'m>(func: &str, outcome: Outcome<'m>) -> (Compilation<'m>, Self) {
        let Outcome { mut state, records, rewrites, refused } = outcome;
        let unfused = std::mem::take(&mut state.unfused);
        (state, Self { func: func.to_owned(), records, unfused, rewrites, refused })
    }

    /// Whether two branches became one program.
    pub fn joins_branches(&self) -> bool {
        self.rewrites.iter().any(|made| made.pass == "join-branches")
    }

    /// The rewrites that made one kernel of two steps, or began one.
    pub fn fused(&self) -> impl Iterator<Item = &Rewrite> {
        self.rewrites.iter().filter(|made| FUSING.contains(&made.pass))
    }

    /// The rewrites that put two values in the same memory.
    pub fn shared(&self) -> impl Iterator<Item = &Rewrite> {
        self.rewrites.iter().filter(|made| made.pass == "alias")
    }
}
