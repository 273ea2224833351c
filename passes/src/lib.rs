//! From a verified module to executable plans.
//!
//! The passes and their order are one table, [`pipeline::PASSES`]; [`driver`] runs it. In short:
//! calls are inlined and repeats unrolled into a straight-line [`Program`]; local rewrites, constants,
//! equal and unused steps; what does not change per step moves to `prepare`; steps are grouped into
//! kernels; values share memory, lifetimes are found, offsets packed and checked.
//!
//! This crate knows no device, file or model.

pub mod canonicalize;
pub mod cost;
pub mod decompose;
pub mod driver;
pub mod fit;
pub mod flatten;
pub mod fold;
pub mod fuse;
mod home;
pub mod kernels;
pub mod lower;
pub mod memory;
pub mod pipeline;
pub mod program;
pub mod report;
pub mod rewrite;
mod schedule;
pub mod simplify;
pub mod split;
pub mod split_rows;
pub mod state;
pub mod straight;
pub mod view;
pub mod zip;

use anyid_ir::Module;
use anyid_ir::kernel::Target;
use anyid_ir::plan::Plan;
use driver::{Selection, drive, unobserved};
use pipeline::{PASSES, Pass};

pub use memory::StateSpec;
pub use program::Program;
pub use split::Split;

/// Why a function cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// Diagnostic code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where: the label of a node, where one is at fault.
    pub place: Option<String>,
    /// What to do.
    pub help: Option<String>,
}

impl CompileError {
    /// An error without place and help.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), place: None, help: None }
    }

    /// The error at a place.
    #[must_use]
    pub fn at(self, place: impl Into<String>) -> Self {
        Self { place: Some(place.into()), ..self }
    }

    /// The error with what to do.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Whether the compiler is at fault and not what it was given.
    pub fn is_internal(&self) -> bool {
        self.code == "E0507"
    }
}

impl std::fmt::Display for CompileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        match &self.place {
            Some(place) => write!(f, " at {place}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CompileError {}

/// How to compile.
#[derive(Clone, Debug)]
pub struct Options {
    /// Passes that are left out, by name.
    pub without: Vec<String>,
    /// What the device's kernels can do.
    pub target: Target,
    /// How many rewrites may be made; `None` for any number.
    pub stop_after: Option<u64>,
    /// Whether the result of every pass is verified.
    pub verify_each: bool,
    /// Whether to say why neighbouring kernels were not fused.
    pub explain: bool,
    /// Inputs and outputs that are carried from one run to the next, of a function that is not
    /// split.
    pub states: Vec<StateSpec>,
    /// Inputs in which two branches differ that are evaluated together, where that is faster.
    pub branches: Vec<String>,
    /// The table of passes.
    pub passes: &'static [Pass],
}

impl Default for Options {
    fn default() -> Self {
        Self {
            without: Vec::new(),
            target: Target::default(),
            stop_after: None,
            verify_each: false,
            explain: false,
            states: Vec::new(),
            branches: Vec::new(),
            passes: PASSES,
        }
    }
}

impl Options {
    /// Every step that is needed a kernel of its own, nothing written in place.
    pub fn unfused() -> Self {
        Self::default().off("fuse").off("pack-linears").off("split-rows").off("alias")
    }

    /// [`Self::unfused`], with no value replaced by another: all that the source names and the
    /// result needs exist, once each.
    pub fn traceable() -> Self {
        Self::unfused().off("canonicalize").off("fold")
    }

    /// Without the pass called `name`.
    #[must_use]
    pub fn off(mut self, name: &str) -> Self {
        self.without.push(name.to_owned());
        self
    }

    /// Whether the pass called `name` may rewrite.
    pub fn runs(&self, name: &str) -> bool {
        !self.without.iter().any(|other| other == name)
    }
}

/// Compiles one function into one plan, with default options.
///
/// # Errors
/// E0501, E0502 and E0505 for what cannot be compiled.
pub fn compile(module: &Module, func: &str) -> Result<Plan, CompileError> {
    compile_with(module, func, &Options::default())
}

/// Compiles one function into one plan.
///
/// # Errors
/// As [`compile`], and E0504 for a pass left out that is none.
pub fn compile_with(module: &Module, func: &str, options: &Options) -> Result<Plan, CompileError> {
    let out = drive(module, func, None, options, &Selection::All, &mut unobserved)?;
    let mut parts = out.state.parts.into_iter();
    Ok(parts.next().and_then(|part| part.plan).expect("the last pass makes a plan"))
}

/// Compiles one function into one plan that keeps `states` from one run to the next.
///
/// # Errors
/// As [`compile_with`], and E0509 for states that the function does not have.
pub fn compile_with_states(
    module: &Module,
    func: &str,
    options: &Options,
    states: &[StateSpec],
) -> Result<Plan, CompileError> {
    compile_with(module, func, &Options { states: states.to_vec(), ..options.clone() })
}

/// Compiles one function into `prepare` and `step`, where only the inputs named in `varying`
/// change between steps, with default options.
///
/// # Errors
/// As [`compile`], and E0503 for an input that is none.
pub fn compile_split(
    module: &Module,
    func: &str,
    varying: &[&str],
) -> Result<Split<Plan>, CompileError> {
    compile_split_with(module, func, varying, &Options::default())
}

/// Compiles one function into `prepare` and `step`, where only the inputs named in `varying`
/// change between steps.
///
/// # Errors
/// As [`compile_split`], and E0504 for a pass left out that is none.
pub fn compile_split_with(
    module: &Module,
    func: &str,
    varying: &[&str],
    options: &Options,
) -> Result<Split<Plan>, CompileError> {
    let out = drive(module, func, Some(varying), options, &Selection::All, &mut unobserved)?;
    let persistent = out.state.persistent;
    let mut plans = out.state.parts.into_iter().filter_map(|part| part.plan);
    let (prepare, step) = (plans.next(), plans.next());
    let halves = "hoist makes two phases of a function that is split";
    Ok(Split { prepare: prepare.expect(halves), step: step.expect(halves), persistent })
}

/// What fusion left between kernels of one function, edge by edge.
///
/// # Errors
/// As [`compile_with`].
pub fn explain(
    module: &Module,
    func: &str,
    options: &Options,
) -> Result<Vec<fuse::Cut>, CompileError> {
    let options = Options { explain: true, ..options.clone() };
    Ok(drive(module, func, None, &options, &Selection::All, &mut unobserved)?.state.cuts)
}
