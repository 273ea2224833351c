//! Support for the tests of the whole product: fixtures, tolerances, devices, engines, model folders, the op
//! table, random graphs.

pub mod close;
pub mod devices;
pub mod engines;
pub mod fixtures;
pub mod folders;
pub mod graphs;
pub use anyid_backends::check::{cases as op_cases, meaning as kernel_meaning};
pub mod plans;
pub mod primitives;
mod second_device;
