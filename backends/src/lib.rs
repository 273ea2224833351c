//! Backends: what executes a plan.
//!
//! [`device`] is the contract between the runtime and a backend, [`registry`] finds devices by name;
//! what all of them share is beside these. A backend allocates what the plan says, runs its steps and
//! decides nothing. Only the CPU backend exists by default. No backend knows passes or models.

mod arena;
mod buffer;
pub mod check;
pub mod cpu;
#[cfg(feature = "cubecl-wgpu")]
pub mod cube;
pub mod cuda;
pub mod device;
mod element;
pub mod errors;
#[cfg(feature = "gpu")]
mod places;
mod provider;
pub mod registry;
mod row_passes;
pub mod stop;
#[cfg(feature = "gpu")]
mod stored;
pub mod targets;
pub mod threads;

pub use arena::HostArena;
pub use buffer::{AlignedBytes, give_back_freed};
pub use device::Device;
pub use errors::{LoadError, OpenError, RunError};
pub use provider::{Fault, StoredWeight, WeightProvider};
pub use registry::{Registry, Settings};
