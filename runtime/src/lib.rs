//! The runtime of anyid-rt.

pub mod checkpoint;
pub mod error;
pub mod sampling;
pub mod text;

pub use error::{Error, Kind, Result};
