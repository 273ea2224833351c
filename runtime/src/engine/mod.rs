//! Compile and execute: modules become programs, programs run on named tensors.
//!
//! [`Compiler`] verifies a module, makes plans and loads the weights they name; a [`Program`] holds
//! both and runs its phases. Memory is allocated when the program is made, as the plans say, and
//! not inside a phase.

pub mod bisect;
pub(crate) mod finite;
mod inputs;
pub mod plan_file;
mod program;
pub(crate) mod room;
mod tracer;

pub use finite::first_non_finite;
pub use inputs::{Inputs, Outputs};
pub use plan_file::PlanFile;
pub(crate) use program::interrupted;
pub use program::{
    Backend, CompileRequest, Compiler, Observer, Prepared, Program, StateSpec, States, Trace,
    compile_error,
};
pub use room::{Bound, Limit, Room, available_memory};
pub use tracer::Tracer;
