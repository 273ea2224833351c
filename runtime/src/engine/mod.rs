//! Compile and execute: modules become programs, programs run on named tensors.
//!
//! [`Compiler`] verifies a module, makes plans and loads the weights they name; a [`Program`] holds
//! both and runs its phases. Memory is allocated when the program is made, as the plans say, and
//! not inside a phase.

mod backend;
pub mod bisect;
pub mod budget;
mod compiler;
pub(crate) mod finite;
mod inputs;
pub(crate) mod memory_check;
pub mod plan_file;
mod program;
mod tracer;
mod watched;

pub use anyid_backends::device::{About, LaunchTime, Throughput, Times};
pub use anyid_backends::{Registry, Settings};
pub use backend::{AUTO, Backend, Best, Looked};
pub use compiler::{CompileRequest, Compiler, StateSpec, compile_error};
pub use finite::first_non_finite;
pub use inputs::{Inputs, Outputs};
pub use memory_check::{Bound, Limit, Room, available_memory, resident_memory};
pub use plan_file::PlanFile;
pub use program::{Prepared, Program, States, Trace};
pub(crate) use program::{interrupted, interrupted_in};
pub use tracer::Tracer;
pub use watched::Watched;
