//! Signed statements of origin (C2PA) in results: made, signed and read.
//!
//! The statement says that a network made the result, of which references and how, and which
//! safeguards were on; a signature over it and the result shows any change afterwards. What is stated is
//! in `manifest`, who signs in `signer`, and what follows from a statement and a watermark in `verdict`.
//! Everything but these plain values needs the feature `c2pa`; without it a program can make keys, and
//! says that it signs and reads nothing. Nothing here uses a network: no time-stamps, no lists of
//! revoked certificates, no statements that lie elsewhere.

mod certificate;
mod local;
pub mod manifest;
#[cfg(feature = "c2pa")]
mod sealer;
#[cfg(feature = "c2pa")]
mod signer;
mod verdict;
#[cfg(not(feature = "c2pa"))]
mod without;

pub use local::{LOCAL, init};
#[cfg(feature = "c2pa")]
pub use sealer::{Sealer, read};
pub use verdict::{Mark, Statement, Verdict, agree};
#[cfg(not(feature = "c2pa"))]
pub use without::{Sealer, read};

/// Whether this program signs and reads statements.
pub const OFFERED: bool = cfg!(feature = "c2pa");

/// How a folder of frames is called where forms are named.
pub const FRAMES: &str = "frames";

/// Beside the frames of a folder: their hashes, as `sha256sum` writes them, and the statement about that
/// list.
pub use anyid_files::media::writer::BESIDE_FRAMES as FRAME_FILES;

/// Whether results of this form have a place for a statement: the ending of a file, or [`FRAMES`].
pub fn has_place(form: &str) -> bool {
    ["mp4", "m4v", "mov", "gif", "png", "webp", FRAMES].contains(&form)
}
