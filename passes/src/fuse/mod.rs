//! Fusion: which steps of a straight-line program become one kernel.
//!
//! No pattern library: steps are classified by how they touch rows, and groups grow by score as
//! long as the result is one launchable kernel. What the kernels of the
//! device can take comes from a [`Target`](anyid_ir::kernel::Target).

pub mod classify;
pub mod ends;
pub mod explain;
pub mod group;
mod join;
mod paths;
pub mod view;

pub use explain::{UnfusedEdge, explain};
pub use group::{Group, Grouping, Groups, alone};
