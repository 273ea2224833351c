//! A blind study of systems (annotate.md §7): who is shown what, and what came of it.

mod chart;
mod plan;
mod report;

pub(crate) use plan::instructions;
pub use plan::{Cases, Invited, System, invite, take};
pub use report::{Result as Outcome, Row, report};

/// The instructions that participants read, which can be edited in the project.
pub const INSTRUCTIONS: &str = "instructions.md";
