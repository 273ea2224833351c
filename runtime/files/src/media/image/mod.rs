//! Pictures and animations: PNG (and APNG), JPEG, WebP, BMP, GIF.
//!
//! The containers are walked by us, so that only what is useful is read and every size is checked
//! before it is used; crates decode the pixels of one still at a time. Frames of animations are
//! composed in one place, `compose.rs`, whatever the format. Every picture ends as 8-bit RGB:
//! 16-bit samples are scaled down, grey is spread, palettes are looked up, transparency is laid
//! over black, and the orientation in the metadata is applied, to moving pictures as to still ones.
//! Colour profiles are not applied; those that are not like sRGB give a warning.

mod bmp;
mod compose;
mod gif;
mod input;
mod jpeg;
mod metadata;
mod png;
#[cfg(test)]
mod tests;
mod webp;

pub(super) use metadata::inflate;

use super::{Limits, ReadOptions, SourceInfo, Visit};
use crate::error::{Error, Result};
use ::image::ImageFormat;
use input::Input;
use std::fmt::Display;
use std::fs::File;
use std::path::Path;

/// Decodes a picture or animation and hands its frames to `visit`.
///
/// # Errors
/// `E0801` not readable, `E0805` damaged or cut off, `E0806` too large, `E0809` without frames,
/// `E0812`, `E0830` an animation that unpacks to too much, `E0831` a kind of JPEG or BMP that is
/// not decoded here.
pub(super) fn visit(
    path: &Path,
    file: File,
    format: ImageFormat,
    options: &ReadOptions,
    visit: Visit<'_>,
) -> Result<SourceInfo> {
    let input = Input::new(file).map_err(|e| super::unreadable(path, e))?;
    let (name, read): (_, fn(&mut Reading<'_>, Visit<'_>) -> Result<SourceInfo>) = match format {
        ImageFormat::Png => ("PNG", png::visit),
        ImageFormat::Gif => ("GIF", gif::visit),
        ImageFormat::WebP => ("WebP", webp::visit),
        ImageFormat::Bmp => ("BMP", bmp::visit),
        _ => ("JPEG", jpeg::visit),
    };
    read(&mut Reading { path, name, limits: &options.limits, input }, visit)
}

/// A picture file that is being read: what every format needs.
struct Reading<'a> {
    path: &'a Path,
    /// The format's name for messages.
    name: &'static str,
    limits: &'a Limits,
    input: Input,
}

impl Reading<'_> {
    /// `E0805`: some bytes are wrong.
    fn damaged(&self, why: impl Display) -> Error {
        let name = self.name;
        Error::input("E0805", format!("the {name} file is damaged or cut off: {why}"))
            .at(self.path.display())
            .help("open it in a picture viewer and export it again, or fetch it again")
    }

    /// `E0805`: the file is shorter than it says.
    fn cut_off(&self) -> Error {
        self.damaged("it ends in the middle of the picture")
    }

    /// `E0831`: sound, but of a kind that is not decoded here.
    fn unsupported(&self, what: impl Display) -> Error {
        Error::input("E0831", format!("{what} is not supported"))
            .at(self.path.display())
            .help("open it in a picture program and export it as PNG or as an ordinary JPEG")
    }

    /// `E0806`: a decoder asks for more memory than a frame may take.
    fn too_large(&self) -> Error {
        Error::input("E0806", format!("the {} picture needs too much memory", self.name))
            .at(self.path.display())
            .help("scale the picture down first")
    }

    /// `count` bytes at `at`.
    ///
    /// # Errors
    /// `E0801`, `E0805` when the file ends before.
    fn bytes(&mut self, at: u64, count: usize) -> Result<Vec<u8>> {
        let bytes = self.input.bytes(at, count).map_err(|e| super::unreadable(self.path, e))?;
        bytes.ok_or_else(|| self.cut_off())
    }

    /// The `N` bytes at `at`; none where the file ends before.
    ///
    /// # Errors
    /// `E0801`.
    fn peek<const N: usize>(&mut self, at: u64) -> Result<Option<[u8; N]>> {
        self.input.array(at).map_err(|e| super::unreadable(self.path, e))
    }

    /// At most `most` of the `count` bytes at `at`; empty where the file ends before. For metadata,
    /// which must not cost the picture.
    ///
    /// # Errors
    /// `E0801`.
    fn some(&mut self, at: u64, count: u64, most: usize) -> Result<Vec<u8>> {
        let count = usize::try_from(count).unwrap_or(most).min(most);
        let bytes = self.input.bytes(at, count).map_err(|e| super::unreadable(self.path, e))?;
        Ok(bytes.unwrap_or_default())
    }

    /// Runs a decoder; a panic inside becomes `E0812`.
    fn guard<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        super::guard(self.path, &format!("the {} picture", self.name), work)
    }
}
