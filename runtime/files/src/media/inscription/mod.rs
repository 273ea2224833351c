//! Texts beside the pictures of a media file: how it was made, as programs write it there.
//!
//! [`read`] lists the texts of PNG, GIF, MP4, MOV and WebP files, and of others where `ffmpeg` is there; an
//! [`Inscription`] is what the writer puts into a result. What a text means is not known here. Files
//! are hostile: no size is believed, texts are bounded, and one that is damaged, too long or in another
//! coding is left out with a warning, because metadata must not cost the picture. `formats.md §7`.

mod gif;
mod mp4;
mod png;
mod webp;

pub(super) use gif::{comment as gif_comment, head_bytes as gif_head_bytes};
pub(super) use mp4::inscribe as inscribe_mp4;
pub(super) use png::{chunk as png_chunk, chunks as png_chunks};
pub(super) use webp::packet as webp_packet;

use super::ffmpeg;
use super::sniff::{Foreign, Signature, sniff};
use crate::error::Result;
use ::image::ImageFormat;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

/// Most bytes of the texts of one file together.
const TOTAL: usize = 16 << 20;
/// Most bytes of one text of a PNG file, after inflation.
const PNG_TEXT: usize = 1 << 20;
/// Most texts of one file.
const COUNT: usize = 1000;

/// The key under which a text of our own lies, in forms that have keys.
pub const KEY: &str = "anyid";
/// The key of settings in the form of A1111's web interface.
pub const PARAMETERS: &str = "parameters";
/// The key of a comment, in forms that have no other.
pub const COMMENT: &str = "comment";

/// What a result says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inscription {
    /// JSON in one line, for programs.
    pub json: String,
    /// Settings in the form of A1111's web interface, for programs that know nothing else; only pictures
    /// have them.
    pub parameters: String,
}

impl Inscription {
    /// The JSON under its key, for forms in which it lies among comments.
    pub(super) fn keyed(&self) -> String {
        format!("{{\"{KEY}\":{}}}", self.json)
    }
}

/// A text of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// What it is called there.
    pub key: String,
    /// It.
    pub text: String,
}

/// The texts of a file, in its order.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// They.
    pub list: Vec<Text>,
    /// Which were left out, and why.
    pub warnings: Vec<String>,
    bytes: usize,
}

impl Texts {
    /// The first text of this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.list.iter().find(|text| text.key == key).map(|text| text.text.as_str())
    }

    fn add(&mut self, key: impl Into<String>, text: String) {
        let key = key.into();
        let bytes = self.bytes.saturating_add(key.len()).saturating_add(text.len());
        if bytes > TOTAL || self.list.len() >= COUNT {
            return self.left_out(&key, "the file has more texts than are read");
        }
        self.bytes = bytes;
        self.list.push(Text { key, text });
    }

    fn add_utf8(&mut self, key: &str, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.add(key, text.to_owned()),
            Err(fault) => {
                let at = fault.valid_up_to();
                self.left_out(key, &format!("it is not UTF-8 (byte {at})"));
            }
        }
    }

    fn left_out(&mut self, key: &str, why: &str) {
        let key: String = key.chars().filter(|c| !c.is_control()).take(60).collect();
        let warning = format!("the text `{key}` of the file is left out: {why}");
        if self.warnings.len() < COUNT && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// Characters of Latin-1.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Fills `buffer`; whether the file had enough.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(fault) if fault.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// The next `count` bytes, fewer where the file ends; memory is taken for what is there.
fn some(file: &mut impl Read, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether a file that begins with `head` is a picture or a clip, in which texts may lie.
pub fn may_hold(head: &[u8]) -> bool {
    !matches!(sniff(head), Signature::NotMedia(_))
}

/// The texts of a media file. `allow_ffmpeg` says whether an `ffmpeg` on the PATH may be asked about
/// forms that are not read here. A form without texts has none.
///
/// # Errors
/// `E0801` to `E0803` for a file that cannot be read, `E0811` where `ffmpeg` cannot be started.
pub fn read(path: &Path, allow_ffmpeg: bool) -> Result<Texts> {
    let (file, length, head) = super::open(path)?;
    let mut texts = Texts::default();
    let signature = sniff(&head);
    if let Signature::Foreign(Foreign { demuxer, .. }) = signature {
        if let Some(program) = allow_ffmpeg.then(ffmpeg::find).flatten() {
            ffmpeg::texts(&program, path, demuxer, TOTAL as u64, &mut |key, text| {
                texts.add_utf8(key, text);
            })?;
        }
        return Ok(texts);
    }
    let mut file = BufReader::new(file);
    match signature {
        Signature::Still(ImageFormat::Png) => png::read(&mut file, &mut texts),
        Signature::Still(ImageFormat::Gif) => gif::read(&mut file, &mut texts),
        Signature::Still(ImageFormat::WebP) => webp::read(&mut file, &mut texts),
        Signature::Mp4 => mp4::read(&mut file, length, &mut texts),
        Signature::Still(_)
        | Signature::Heif(_)
        | Signature::Foreign(_)
        | Signature::NotMedia(_) => Ok(()),
    }
    .map_err(|fault| super::unreadable(path, fault))?;
    Ok(texts)
}

/// Moves on by `count` bytes, beyond the end too.
fn skip(file: &mut (impl Read + Seek), count: u64) -> io::Result<()> {
    file.seek_relative(i64::try_from(count).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
