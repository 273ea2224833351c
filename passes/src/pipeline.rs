//! The passes, in the order in which they run.
//!
//! One table drives [`CompileRequest::compile`](crate::CompileRequest::compile) and the command line's `opt`. A pass is a name, a
//! phase and a function; it may assume the level its predecessors leave and nothing else, and never
//! looks at a device. There is one fixpoint loop, inside `canonicalize`; all else runs once.
//! `docs/passes.md` shows this table; a test compares them.

mod run;

use crate::state::{Compilation, Context, Level};
use crate::{Asked, CompileError, canonicalize, fold, simplify};
use anyid_ir::named;
use anyid_ir::spelling::meant;
use run::*;

named! {
    /// A stretch of the pipeline that ends at a level which can be printed and checked.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Phase {
        /// Sizes are numbers; one straight-line program.
        Bound = "bound",
        /// Programs that compute each thing once, where it belongs.
        Optimised = "optimised",
        /// Programs in ops of the target, grouped into kernels.
        Fused = "fused",
        /// Kernels in order and every byte in its place.
        Planned = "planned",
    }
}

impl Phase {
    /// The phase called `name`.
    ///
    /// # Errors
    /// E0508, with the nearest name.
    pub fn find(name: &str) -> Result<Self, CompileError> {
        Self::from_name(name).ok_or_else(|| {
            let error = CompileError::new("E0508", format!("there is no phase \"{name}\""));
            error.about(Asked::Phase).help(known(name, "phases", &Self::ALL.map(Self::name)))
        })
    }
}

/// The function of a pass.
pub type PassFunction = fn(&mut Compilation<'_>, &mut Context<'_>) -> Done;

/// What a pass ends with.
pub type Done = Result<(), CompileError>;

/// One pass.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Its name.
    pub name: &'static str,
    /// The phase it belongs to.
    pub phase: Phase,
    /// What it does, in one line.
    pub doc: &'static str,
    /// Whether it can be left out.
    pub optional: bool,
    /// The level it works on.
    pub level: Level,
    /// Whether what follows needs what it makes, though it may be left out.
    pub makes_level: bool,
    /// What it runs.
    pub run: PassFunction,
}

impl Pass {
    /// Whether it works on programs and leaves programs.
    pub fn keeps_programs(&self) -> bool {
        self.level <= Level::Program && !self.makes_level
    }

    const fn makes_level(self) -> Self {
        Self { makes_level: true, ..self }
    }
}

const fn pass(
    phase: Phase,
    level: Level,
    name: &'static str,
    doc: &'static str,
    optional: bool,
    run: PassFunction,
) -> Pass {
    Pass { name, phase, doc, optional, level, makes_level: false, run }
}

/// Every pass, in order. Passes that see both phases of a split function belong behind `hoist`.
#[rustfmt::skip]
pub const PASSES: &[Pass] = &[
    pass(Phase::Bound, Level::Module, "specialize",
        "checks that every size is a number: named dims are bound when text is read",
        false, specialize),
    pass(Phase::Bound, Level::Module, "inline",
        "calls inlined and repeats unrolled into one straight-line program, weights by absolute name",
        false, inline),
    pass(Phase::Bound, Level::Program, "inject-lora",
        "low-rank adapters put beside the linears that are asked for", false, inject_lora),
    pass(Phase::Optimised, Level::Program, "canonicalize",
        "small local rewrites until none applies: chains of views, casts that lose nothing, neutral operands",
        true, |s, c| each(s, c, canonicalize::canonicalize)),
    pass(Phase::Optimised, Level::Program, "fold",
        "steps on known numbers computed once and for all, with the interpreter's arithmetic",
        true, |s, c| each(s, c, fold::fold)),
    pass(Phase::Optimised, Level::Program, "cse",
        "equal steps computed once", true, |s, c| each(s, c, simplify::share)),
    pass(Phase::Optimised, Level::Program, "dce",
        "steps, and results of steps, that no output needs dropped",
        true, |s, c| each(s, c, simplify::drop_unused)),
    pass(Phase::Optimised, Level::Program, "lift",
        "weights that are asked for made inputs, in f32", false, run_lift),
    pass(Phase::Optimised, Level::Program, "grad",
        "steps added that compute the derivative that is asked for", false, run_grad),
    pass(Phase::Optimised, Level::Program, "remat",
        "forward steps computed again for the derivative, so that less is kept until then, as asked for",
        false, run_remat),
    pass(Phase::Optimised, Level::Program, "join-branches",
        "two branches that differ in some inputs made one, where the time to read weights is shared",
        true, join_branches),
    pass(Phase::Optimised, Level::Program, "hoist",
        "what does not depend on the inputs that change per step moved to prepare",
        true, hoist),
    pass(Phase::Fused, Level::Program, "decompose",
        "ops that the target has no kernel for replaced by their decomposition",
        false, run_decompose),
    pass(Phase::Fused, Level::Program, "fuse",
        "neighbouring steps grouped into kernels: epilogues of products, rows with rows",
        true, fuse).makes_level(),
    pass(Phase::Fused, Level::Groups, "pack-linears",
        "linears on one operand grouped into one product of several parts",
        true, pack_linears),
    pass(Phase::Planned, Level::Groups, "lower",
        "groups written down as kernels, composites over rows expanded",
        false, run_lower),
    pass(Phase::Planned, Level::Kernels, "schedule",
        "kernels in the order with least memory alive: program order or a greedy one, then moves at the peak",
        true, run_schedule),
    pass(Phase::Planned, Level::Kernels, "split-rows",
        "row-wise kernels at the peak run in pieces of rows where that lowers it",
        true, run_split_rows),
    pass(Phase::Planned, Level::Kernels, "share-columns",
        "columns of a value read where they lie, parts of a product made columns of one value",
        true, run_share_columns),
    pass(Phase::Planned, Level::Kernels, "alias",
        "results written over operands that die under them, parts where the whole is, states and outputs in place",
        true, alias).makes_level(),
    pass(Phase::Planned, Level::Kernels, "pack",
        "memory that is free again given to later values; without it each has its own",
        true, pack).makes_level(),
    pass(Phase::Planned, Level::Kernels, "assemble",
        "the plan put together from kernels and places, and checked",
        false, assemble),
];

/// The pass of `table` called `name`.
///
/// # Errors
/// E0504, with the nearest name.
pub fn find<'t>(table: &'t [Pass], name: &str) -> Result<&'t Pass, CompileError> {
    table.iter().find(|pass| pass.name == name).ok_or_else(|| {
        let names: Vec<&str> = table.iter().map(|pass| pass.name).collect();
        let error = CompileError::new("E0504", format!("there is no pass \"{name}\""));
        error.about(Asked::Passes).help(known(name, "passes", &names))
    })
}

/// The pass of `table` called `name`, to be left out.
///
/// # Errors
/// E0504, also for a pass that cannot be left out.
pub fn find_optional<'t>(table: &'t [Pass], name: &str) -> Result<&'t Pass, CompileError> {
    let names: Vec<&str> = table.iter().filter(|p| p.optional).map(|pass| pass.name).collect();
    let pass = find(table, name).map_err(|error| {
        error.about(Asked::Without).help(known(name, "passes that can be left out", &names))
    })?;
    if pass.optional {
        return Ok(pass);
    }
    let error = CompileError::new("E0504", format!("pass \"{name}\" cannot be left out"));
    Err(error.about(Asked::Without).help(format!("those that can are {}", names.join(", "))))
}

/// The names that there are, or the one that was probably meant.
fn known(name: &str, what: &str, names: &[&str]) -> String {
    let all = || format!("the {what} are {}", names.join(", "));
    meant(name, "", names.iter().copied(), all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_or_the_nearest_is_suggested() {
        assert_eq!(find(PASSES, "cse").unwrap().phase, Phase::Optimised);
        let error = find(PASSES, "canonicalise").unwrap_err();
        assert_eq!(error.help.as_deref(), Some("did you mean canonicalize?"));
        assert!(find(PASSES, "zzzzzz").unwrap_err().help.unwrap().contains("specialize, inline"));
        assert_eq!(find_optional(PASSES, "lower").unwrap_err().code, "E0504");
        assert!(find_optional(PASSES, "fold").is_ok());
        // What cannot be left out is not offered.
        let help = |name: &str| find_optional(PASSES, name).unwrap_err().help.unwrap();
        assert_eq!(help("fuze"), "did you mean fuse?");
        assert!(help("zzzzzz").starts_with("the passes that can be left out are canonicalize, "));
        assert!(!help("loweer").contains("lower"), "{}", help("loweer"));
        assert_eq!(Phase::find("fused").unwrap(), Phase::Fused);
        let error = Phase::find("optimized").unwrap_err();
        assert_eq!((error.code, error.help.as_deref()), ("E0508", Some("did you mean optimised?")));
    }

    #[test]
    fn phases_and_levels_only_go_down_and_names_differ() {
        for pair in PASSES.windows(2) {
            assert!(pair[0].phase <= pair[1].phase, "{:?}", pair[1]);
            assert!(pair[0].level <= pair[1].level, "{:?}", pair[1]);
        }
        for (at, pass) in PASSES.iter().enumerate() {
            assert!(!PASSES[..at].iter().any(|other| other.name == pass.name), "{pass:?}");
        }
    }

    /// The table in the documentation is this one.
    #[test]
    fn the_documentation_shows_the_table() {
        let page = include_str!("../../docs/passes.md");
        let rows: Vec<String> = PASSES
            .iter()
            .map(|pass| {
                let (name, phase, doc) = (pass.name, pass.phase.name(), pass.doc);
                let off = if pass.optional { "yes" } else { "no" };
                format!("| `{name}` | {phase} | {off} | {doc} |")
            })
            .collect();
        let is_row = |line: &&str| line.contains(" | yes | ") || line.contains(" | no | ");
        let shown: Vec<&str> = page.lines().filter(is_row).collect();
        assert_eq!(shown, rows);
    }
}
