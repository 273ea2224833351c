//! The invisible watermark `tile-ss/1`: a tiled spread-spectrum pattern with a sync signal.
//!
//! [`Marker`] puts an id of 32 bits into frames, [`Detector`] finds it again without the original.
//! It deters and informs. Whoever has the key can remove or forge a mark, and everybody has the
//! public one; what it survives is measured by the example `attacks` (`watermark.md`).

pub mod code;
pub mod detect;
pub mod embed;
mod fourier;
mod pattern;
pub mod plane;
pub mod repeat;
#[cfg(test)]
#[path = "../../tests/scenes/mod.rs"]
mod testing;

pub use code::Payload;
pub use detect::{Detection, Detector, Picker, Search};
pub use embed::{Marker, Strength, fits};
pub use pattern::Key;
pub use plane::Luma;
