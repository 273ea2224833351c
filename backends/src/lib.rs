//! Backends: what executes a plan.
//!
//! A backend allocates what the plan says, runs its steps and decides nothing. Only the CPU
//! backend exists by default. No backend knows passes or models.

pub mod cpu;
pub mod threads;
mod weights;

pub use weights::{StoredWeight, WeightFault, WeightProvider};
