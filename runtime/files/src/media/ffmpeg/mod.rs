//! The optional `ffmpeg` program: reads what we cannot decode, writes what we cannot encode.
//!
//! `process.rs` starts it, `log.rs` understands what it says, `read.rs` decodes, `clock.rs` times
//! the frames, `plan.rs` decides how colours and shapes come out, `write.rs` encodes and looks at the result,
//! `tags.rs` reads and writes texts. When reading, the
//! program is told everything that we know already and left nothing to find out: the demuxer, the
//! stream, the colours; its input is an open descriptor, so there are no names, no patterns, no
//! other files and no network. Nothing here is needed for MP4/H.264, GIF or pictures.

mod clock;
mod log;
mod plan;
mod process;
mod read;
mod tags;
mod write;

pub use process::find;
pub(super) use read::{Bitstream, decode, visit};
pub(super) use tags::texts;
pub(super) use write::{FfmpegSink, unheld};

use super::ReadOptions;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The program that is to read `path`, or why there is none.
///
/// # Errors
/// `E0807`.
pub(super) fn needed(path: &Path, name: &str, options: &ReadOptions) -> Result<PathBuf> {
    options.allow_ffmpeg.then(find).flatten().ok_or_else(|| {
        let why = if options.allow_ffmpeg { "is not on the PATH" } else { "may not be used here" };
        let what = format!("this is {name}; reading it needs ffmpeg, which {why}");
        Error::input("E0807", what).at(path.display()).help(
            "install ffmpeg, or convert the file elsewhere: a clip to an H.264 MP4, \
             a picture to PNG",
        )
    })
}

#[cfg(test)]
mod tests;
