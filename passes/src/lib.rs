//! From a verified module to executable plans.
//!
//! The passes and their order are one table, [`pipeline::PASSES`]; [`driver`] runs it. In short:
//! calls are inlined and repeats unrolled into a straight-line [`Program`]; local rewrites, constants,
//! equal and unused steps; what does not change per step moves to `prepare`; steps are grouped into
//! kernels; values share memory, lifetimes are found, offsets packed and checked.
//!
//! This crate knows no device, file or model.

pub mod canonicalize;
mod columns;
pub mod cost;
pub mod decompose;
pub mod driver;
pub mod fit;
pub mod flatten;
pub mod fold;
pub mod fuse;
pub mod grad;
pub mod join_branches;
pub mod kernels;
pub mod lora;
pub mod lower;
pub mod memory;
pub mod pipeline;
pub mod program;
pub mod remat;
pub mod report;
pub mod request;
pub mod rewrite;
mod schedule;
pub mod simplify;
pub mod split;
pub mod split_rows;
pub mod state;
mod storage;
pub mod straight;
pub mod view;

pub use grad::Gradient;
pub use lora::LoraTarget;
pub use program::Program;
pub use remat::{Keeping, Remat};
pub use request::{CompileRequest, Options, StateSpec};

/// The part of a request that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The inputs that vary.
    Varying,
    /// The inputs in which branches differ.
    Branches,
    /// The states.
    States,
    /// The phase to go to.
    Phase,
    /// The passes to run.
    Passes,
    /// The passes left out.
    Without,
    /// The linears that get an adapter.
    Lora,
    /// The weights made inputs.
    Lifted,
    /// What is differentiated, and by what.
    Gradient,
    /// What is kept for the derivative.
    Remat,
}

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
    /// What of the request is at fault, where that is known.
    pub asked: Option<Asked>,
}

impl CompileError {
    /// An error without place and help.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), place: None, help: None, asked: None }
    }

    /// The error about a part of the request.
    #[must_use]
    pub fn about(self, asked: Asked) -> Self {
        Self { asked: Some(asked), ..self }
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

    /// The error of compiling that was told to end.
    pub(crate) fn stopped() -> Self {
        Self::new("E1002", "interrupted while compiling")
    }

    /// Whether compiling was told to end, and nothing is at fault.
    pub fn is_stopped(&self) -> bool {
        self.code == "E1002"
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
