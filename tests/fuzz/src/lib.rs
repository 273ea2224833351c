//! Inputs by the million for everything that takes bytes from outside.
//!
//! A [`Target`](engine::Target) runs on bytes and says whether they were accepted or refused;
//! [`engine::fuzz`] makes the bytes, the same for the same seed, catches panics and watches time and
//! memory. `cargo run --release -p anyid-fuzz -- TARGET --runs N --seed S` runs one target.

pub mod engine;
pub mod formats;
pub mod memory;
pub mod mutate;
pub mod rng;
pub mod targets;
