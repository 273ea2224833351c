//! Support for the tests of the whole product: fixtures, tolerances, engines, the op table, random graphs.

pub mod close;
pub mod engines;
pub mod fixtures;
pub mod graphs;
pub mod op_cases;
pub mod plans;
