//! Pictures and animations as PNG files in memory: every byte of a pixel is kept.
//!
//! An animation is an APNG: one file of many frames, each of which our own reader decodes by itself,
//! so that a part of it can be named by where it begins. It repeats without end. Sizes and rates are
//! checked by who calls.

use super::RgbFrame;
use crate::error::{Error, Result};
use ::image::codecs::png::{CompressionType, FilterType, PngEncoder};
use ::image::{ExtendedColorType, ImageEncoder};
use ::png::{BitDepth, ColorType, Compression, Encoder, EncodingError};

/// One picture as a PNG file.
///
/// # Errors
/// E0824 where the encoder fails, E0825 for a picture that is not filled.
pub fn picture(frame: &RgbFrame) -> Result<Vec<u8>> {
    picture_of(frame.width, frame.height, &frame.data)
}

pub(super) fn picture_of(width: usize, height: usize, rgb: &[u8]) -> Result<Vec<u8>> {
    let expected = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
    if expected != Some(rgb.len()) {
        return Err(unfilled());
    }
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive)
        .write_image(rgb, width as u32, height as u32, ExtendedColorType::Rgb8)
        .map_err(|e| Error::internal("E0824", "the PNG encoder failed").caused_by(e))?;
    Ok(bytes)
}

/// Frames of `width` × `height` pixels, RGB one behind the other, as an animated PNG file that shows
/// `rate` of them a second.
///
/// # Errors
/// E0824 where the encoder fails, E0825 for no frames and ones that are not filled.
pub fn animation(frames: &[u8], width: usize, height: usize, rate: u16) -> Result<Vec<u8>> {
    let bytes = width * height * 3;
    let count = frames.len().checked_div(bytes).unwrap_or(0);
    if count == 0 || count * bytes != frames.len() {
        return Err(unfilled());
    }
    let write = || -> std::result::Result<Vec<u8>, EncodingError> {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, width as u32, height as u32);
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_compression(Compression::Balanced);
        encoder.set_animated(count as u32, 0)?;
        encoder.set_frame_delay(1, rate)?;
        let mut writer = encoder.write_header()?;
        for frame in frames.chunks_exact(bytes) {
            writer.write_image_data(frame)?;
        }
        writer.finish()?;
        Ok(out)
    };
    write().map_err(|e| Error::internal("E0824", "the PNG encoder failed").caused_by(e))
}

fn unfilled() -> Error {
    Error::internal("E0825", "a picture that is not filled")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{MediaKind, ReadOptions, read_clip};
    use crate::testing::TempFolder;

    #[test]
    fn pictures_and_animations_are_read_as_they_were_written() {
        let folder = TempFolder::new();
        let frames: Vec<u8> = (0..7 * 6 * 4 * 3).map(|at: u32| (at * 37 % 251) as u8).collect();
        let path = folder.write("a", animation(&frames, 6, 4, 24).unwrap());
        let clip = read_clip(&path, &ReadOptions::default()).unwrap();
        assert_eq!((clip.kind, clip.frames.len()), (MediaKind::Video, 7));
        assert!((clip.fps.unwrap() - 24.0).abs() < 1e-6);
        assert!(clip.frames.iter().flat_map(|frame| &frame.data).eq(&frames));
        assert!(clip.source.warnings.is_empty(), "{:?}", clip.source.warnings);
        let frame = &clip.frames[3];
        let path = folder.write("b", picture(frame).unwrap());
        let still = read_clip(&path, &ReadOptions::default()).unwrap();
        assert_eq!((still.kind, &still.frames[0]), (MediaKind::Image, frame));
    }

    #[test]
    fn what_is_not_filled_is_a_fault_of_ours() {
        assert_eq!(animation(&[0; 10], 2, 2, 24).unwrap_err().code(), "E0825");
        assert_eq!(animation(&[], 2, 2, 24).unwrap_err().code(), "E0825");
        let empty = RgbFrame { width: 2, height: 2, data: vec![0; 3] };
        assert_eq!(picture(&empty).unwrap_err().code(), "E0825");
    }
}
