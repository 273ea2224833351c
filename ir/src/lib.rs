//! The intermediate representation of anyid-rt: tensor graphs as data.
//!
//! Level 1 is a module of functions over typed tensor values, with a closed set of operations, a
//! weight manifest instead of weights, and `repeat` as the only loop. This crate owns the data
//! types, the text form, the verifier, diagnostics, the decomposition of every composite op into
//! primitives (its definition) and a reference interpreter. It knows no passes, devices or files.
//!
//! ```
//! use anyid_ir::{DType, FuncBuilder, Module, TensorType};
//!
//! let mut module = Module { name: "example".into(), ..Module::default() };
//! let mut f = FuncBuilder::new(&module, "double");
//! let x = f.param("x", TensorType::new(DType::F32, [2, 3]));
//! let y = f.add("y", x, x);
//! let func = f.finish(&[y]);
//! module.add(func);
//! assert_eq!(module.main().unwrap().results[0].to_string(), "f32[2,3]");
//! ```

pub mod builder;
pub mod decompose;
pub mod diag;
pub mod entity;
mod erf;
pub mod eval;
pub mod graph;
mod indices;
pub mod infer;
pub mod kernel;
mod line;
pub mod manifest;
pub mod memory;
mod named;
pub mod op;
pub mod plan;
pub mod plan_live;
pub mod plan_text;
pub mod plan_verify;
pub mod spelling;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;

pub use builder::FuncBuilder;
pub use decompose::decompose;
pub use diag::{Diagnostic, Loc, Span};
pub use entity::{Arena, BlockId, Entity, NodeId, ValueId};
pub use erf::erf;
pub use eval::{EvalError, Evaluator, Mode, TraceEvent, WeightSource};
pub use graph::{Block, BoundDim, Def, Func, Module, Node, Value};
pub use infer::infer;
pub use kernel::{Kernel, Target};
pub use manifest::{Manifest, WeightEntry};
pub use op::{Axes, BinaryFn, CompareFn, IndexArg, Op, OpClass, ReduceFn, UnaryFn};
pub use tensor::{Tensor, TensorError};
pub use types::{DType, Shape, TensorType};
