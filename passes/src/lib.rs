//! From a verified module to executable plans.
//!
//! The phases, in order:
//! 1. [`flatten`]: calls inlined and repeats unrolled into one straight-line program with absolute
//!    weight names; views of weights become weights of another shape.
//! 2. [`simplify`]: equal steps computed once, unused steps dropped.
//! 3. [`split`]: what does not depend on the inputs that change per step moves to `prepare`.
//! 4. [`memory`]: views share memory, lifetimes are found, offsets packed and checked.
//!
//! This crate knows no device, file or model.

pub mod cost;
pub mod fit;
pub mod flatten;
pub mod memory;
pub mod program;
pub mod report;
pub mod simplify;
pub mod split;
pub mod straight;
pub mod view;

use anyid_ir::Module;
use anyid_ir::plan::Plan;

pub use program::Program;
pub use split::Split;

/// Why a function cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// Diagnostic code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for CompileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)
    }
}

impl std::error::Error for CompileError {}

/// Compiles one function into one plan.
pub fn compile(module: &Module, func: &str) -> Result<Plan, CompileError> {
    let program = simplify::simplify(flatten::flatten(module, func)?);
    Ok(memory::plan(&program, func))
}

/// Compiles one function into `prepare` and `step`, where only the inputs named in `varying`
/// change between steps.
pub fn compile_split(
    module: &Module,
    func: &str,
    varying: &[&str],
) -> Result<Split<Plan>, CompileError> {
    let program = simplify::simplify(flatten::flatten(module, func)?);
    let split = split::split(&program, varying)?;
    Ok(memory::plan_split(&split))
}
