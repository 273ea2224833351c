//! What devices are compared with: the op table, the meaning of kernels, and results of single rows of
//! kernels that are too large to be computed whole.
//!
//! Nothing here runs on a device or knows one. The interpreter does the arithmetic.

pub mod cases;
pub mod meaning;
pub mod sampled;
mod stored;

pub use stored::Stored;
