//! Fusion: its rules one by one, and what it makes of the networks.

mod common;
mod networks;
mod rules;
