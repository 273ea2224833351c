//! From a verified module to executable plans.
//!
//! The phases, in order:
//! 1. [`flatten`]: calls inlined and repeats unrolled into one straight-line program with absolute
//!    weight names; views of weights become weights of another shape.
//! 2. [`simplify`]: equal steps computed once, unused steps dropped.
//! 3. [`split`]: what does not depend on the inputs that change per step moves to `prepare`.
//! 4. [`fuse`] and [`lower`]: steps are grouped into kernels, composites over rows expanded.
//! 5. [`memory`]: views share memory, results take over what dies under them, lifetimes are found,
//!    offsets packed and checked.
//!
//! This crate knows no device, file or model.

pub mod cost;
pub mod fit;
pub mod flatten;
pub mod fuse;
pub mod lower;
pub mod memory;
pub mod program;
pub mod report;
pub mod simplify;
pub mod split;
pub mod split_rows;
pub mod straight;
pub mod view;

use anyid_ir::Module;
use anyid_ir::kernel::Target;
use anyid_ir::plan::Plan;

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
}

impl std::fmt::Display for CompileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)
    }
}

impl std::error::Error for CompileError {}

/// How to compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether neighbouring steps become one kernel. Off, every step's value exists by itself.
    pub fuse: bool,
    /// Whether results may take over the memory of operands that die under them, and be made where
    /// they are needed rather than copied there.
    pub in_place: bool,
    /// Whether row-wise kernels at the peak may run in pieces of rows. Needs `in_place`.
    pub split_rows: bool,
    /// What the device's kernels can do.
    pub target: Target,
}

impl Default for Options {
    fn default() -> Self {
        Self { fuse: true, in_place: true, split_rows: true, target: Target::default() }
    }
}

impl Options {
    /// Every step a kernel of its own, nothing written in place.
    pub fn unfused() -> Self {
        Self { fuse: false, in_place: false, ..Self::default() }
    }
}

/// Compiles one function into one plan, with default options.
pub fn compile(module: &Module, func: &str) -> Result<Plan, CompileError> {
    compile_with(module, func, &Options::default())
}

/// Compiles one function into one plan.
pub fn compile_with(module: &Module, func: &str, options: &Options) -> Result<Plan, CompileError> {
    let program = simplify::simplify(flatten::flatten(module, func)?);
    Ok(memory::plan(&program, func, options))
}

/// Compiles one function into one plan that keeps `states` from one run to the next.
///
/// # Errors
/// E0509 for states that the function does not have or that are declared wrongly.
pub fn compile_with_states(
    module: &Module,
    func: &str,
    options: &Options,
    states: &[StateSpec],
) -> Result<Plan, CompileError> {
    let program = simplify::simplify(flatten::flatten(module, func)?);
    let fault = |message: String| CompileError { code: "E0509", message };
    for (at, spec) in states.iter().enumerate() {
        let name = &spec.name;
        let Some((_, output)) = program.outputs.get(spec.output) else {
            let count = program.outputs.len();
            return Err(fault(format!("state {name}: there are only {count} outputs")));
        };
        if let Some(position) = spec.input {
            let Some((_, input)) = program.inputs.get(position) else {
                let count = program.inputs.len();
                return Err(fault(format!("state {name}: there are only {count} inputs")));
            };
            let (before, after) = (program.ty(*input), program.ty(*output));
            if before != after {
                return Err(fault(format!("state {name} begins as {before} and ends as {after}")));
            }
        }
        let clash = |other: &&StateSpec| {
            other.name == *name
                || other.output == spec.output
                || (spec.input.is_some() && other.input == spec.input)
        };
        if let Some(other) = states[..at].iter().find(clash) {
            return Err(fault(format!("states {} and {name} are not two", other.name)));
        }
    }
    Ok(memory::plan_with_states(&program, func, options, states))
}

/// Compiles one function into `prepare` and `step`, where only the inputs named in `varying`
/// change between steps, with default options.
pub fn compile_split(
    module: &Module,
    func: &str,
    varying: &[&str],
) -> Result<Split<Plan>, CompileError> {
    compile_split_with(module, func, varying, &Options::default())
}

/// Compiles one function into `prepare` and `step`, where only the inputs named in `varying`
/// change between steps.
pub fn compile_split_with(
    module: &Module,
    func: &str,
    varying: &[&str],
    options: &Options,
) -> Result<Split<Plan>, CompileError> {
    let program = simplify::simplify(flatten::flatten(module, func)?);
    let split = split::split(&program, varying)?;
    Ok(memory::plan_split(&split, options))
}

/// What fusion left between kernels of one function, edge by edge.
pub fn explain(
    module: &Module,
    func: &str,
    options: &Options,
) -> Result<Vec<fuse::Cut>, CompileError> {
    let program = simplify::simplify(flatten::flatten(module, func)?);
    Ok(lower::lower(&program, options.fuse, &options.target).1)
}
