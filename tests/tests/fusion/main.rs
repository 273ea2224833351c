//! Fusion: its rules one by one, and what it makes of the networks.

mod common;
mod hostile;
mod loads;
mod networks;
mod rounding;
mod rules;
