//! Pictures and animations of every kind, sound, odd, damaged and hostile.

use super::super::testing::Folder;
use super::super::{Clip, MediaKind, RgbFrame, SourceInfo, read_clip, visit_frames};
use super::*;
use ::image::codecs::{bmp, gif, jpeg, png, webp};
use ::image::{ExtendedColorType, ImageEncoder};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::ControlFlow;

mod bounds;
mod composed;
mod odd;
mod turned;

fn read(bytes: &[u8]) -> Result<Clip> {
    let folder = Folder::new();
    let result = read_clip(&folder.file("x", bytes), &ReadOptions::default());
    if let Err(error) = &result {
        assert!(error.place().is_some() && error.help_text().is_some(), "{error}");
    }
    result
}

fn code(bytes: &[u8]) -> &'static str {
    read(bytes).unwrap_err().code()
}

/// Frames with their times in milliseconds, and what the file was.
fn shown(bytes: &[u8]) -> (SourceInfo, Vec<(RgbFrame, f64, f64)>) {
    let folder = Folder::new();
    let mut seen = Vec::new();
    let path = folder.file("x", bytes);
    let info = visit_frames(&path, &ReadOptions::default(), &mut |f| {
        let milliseconds = |seconds: f64| (seconds * 1e6).round() / 1e3;
        seen.push((f.image, milliseconds(f.time), milliseconds(f.duration)));
        Ok(ControlFlow::Continue(()))
    });
    (info.unwrap(), seen)
}

fn png_chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut chunk = (body.len() as u32).to_be_bytes().to_vec();
    chunk.extend(kind);
    chunk.extend(body);
    let mut crc = flate2::Crc::new();
    crc.update(&chunk[4..]);
    chunk.extend(crc.sum().to_be_bytes());
    chunk
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A PNG of the given header fields with `extra` chunks before its data.
fn png_of(width: u32, height: u32, depth: u8, colour: u8, extra: &[u8], rows: &[u8]) -> Vec<u8> {
    let mut header = width.to_be_bytes().to_vec();
    header.extend(height.to_be_bytes());
    header.extend([depth, colour, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(png_chunk(b"IHDR", &header));
    file.extend(extra);
    file.extend(png_chunk(b"IDAT", &zlib(rows)));
    file.extend(png_chunk(b"IEND", b""));
    file
}

/// Two pixels, red and green, side by side.
fn small_png(extra: &[u8]) -> Vec<u8> {
    png_of(2, 1, 8, 2, extra, &[0, 255, 0, 0, 0, 255, 0])
}

/// A JPEG, its left half white and its right half black.
fn small_jpeg() -> Vec<u8> {
    let mut pixels = vec![0u8; 32 * 16 * 3];
    for (i, pixel) in pixels.chunks_exact_mut(3).enumerate() {
        pixel.fill(if i % 32 < 16 { 255 } else { 0 });
    }
    let mut bytes = Vec::new();
    jpeg::JpegEncoder::new_with_quality(&mut bytes, 95)
        .write_image(&pixels, 32, 16, ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

fn riff(chunks: &[u8]) -> Vec<u8> {
    let mut file = b"RIFF".to_vec();
    file.extend((chunks.len() as u32 + 4).to_le_bytes());
    file.extend(b"WEBP");
    file.extend(chunks);
    file
}

fn riff_chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut chunk = kind.to_vec();
    chunk.extend((body.len() as u32).to_le_bytes());
    chunk.extend(body);
    chunk.extend(&[0][..body.len() % 2]);
    chunk
}

/// The `VP8L` chunk of a picture.
fn lossless(width: u32, height: u32, rgba: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    webp::WebPEncoder::new_lossless(&mut file)
        .write_image(rgba, width, height, ExtendedColorType::Rgba8)
        .unwrap();
    let at = file.windows(4).position(|w| w == b"VP8L").unwrap();
    file[at..].to_vec()
}

/// `VP8X` with these flags for a canvas of this size.
fn extended(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let mut body = vec![flags, 0, 0, 0];
    body.extend(&(width - 1).to_le_bytes()[..3]);
    body.extend(&(height - 1).to_le_bytes()[..3]);
    riff_chunk(b"VP8X", &body)
}

/// EXIF that holds an orientation and nothing else.
fn exif(orientation: u8) -> Vec<u8> {
    let mut block = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    block.extend([orientation, 0, 0, 0, 0, 0, 0]);
    block
}
