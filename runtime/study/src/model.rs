//! Models of the user's in ONNX files: what they have in common, and what runs them (`data.md` §3).

mod names;
pub mod network;
#[cfg(feature = "ort")]
mod ort;
pub mod pixels;
mod rten;
