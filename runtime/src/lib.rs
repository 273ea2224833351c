//! The runtime of anyid-rt: from a model folder, pictures of a person and a prompt to a video.
//!
//! [`Pipeline`] is the whole sampling run; [`engine`] compiles and executes any module on named
//! tensors. Library errors carry a code, the place and what to do ([`Error`]); nothing here knows
//! terminals or flags.

pub mod adapter;
pub mod convert;
pub mod engine;
pub mod error;
pub mod halved;
pub mod init;
pub mod judge;
pub mod model;
pub mod pipeline;
pub mod recipe;
pub mod safeguards;
pub mod sampling;
pub mod text;
pub mod training;
pub mod weights;

pub use anyid_backends as backends;
pub use anyid_evaluation as evaluation;
pub use anyid_files::output as files;
pub use anyid_files::{checkpoint, input, media, places, shard};
pub use anyid_ir as ir;
pub use anyid_models as models;
pub use anyid_passes as passes;
pub use anyid_study as study;

pub use anyid_ir::plan::Plan;
pub use anyid_ir::{DType, Module, Tensor, TensorType};
pub use anyid_models::wan::{Precision, Residual};
pub use engine::{Backend, CompileRequest, Compiler, Inputs, Outputs, Program, Room, StateSpec};
pub use error::{Error, Kind, Result};
pub use model::Model;
pub use pipeline::{
    Cancel, Event, FileOptions, Finished, Keep, PhasePlan, PhaseReport, Pipeline, Preflight,
    Receiver, ReferenceSource, Request, RunReport, Size,
};
