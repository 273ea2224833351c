//! Support for the tests of the whole product: fixtures, tolerances, engines.

pub mod close;
pub mod engines;
pub mod fixtures;
