//! BMP: decoded by the `image` crate, with the declared sizes checked before.

use super::super::{SourceInfo, Visit, guard, unreadable};
use super::Reading;
use super::compose::{Layer, Outline, Pixels, play};
use super::metadata::{Metadata, PROFILE_BYTES};
use crate::error::{Error, Result};
use ::image::codecs::bmp::BmpDecoder;
use ::image::{ColorType, ImageDecoder, ImageError};

/// Reads a BMP.
///
/// # Errors
/// See [`super::visit`].
pub(super) fn visit(reading: &mut Reading<'_>, visit: Visit<'_>) -> Result<SourceInfo> {
    let mut metadata = Metadata::default();
    // The longest header can name a profile, by its distance from the header and its length.
    if let Some([124, 0, 0, 0]) = reading.peek::<4>(14)?
        && let Some([b'D', b'E', b'B', b'M']) = reading.peek::<4>(14 + 56)?
        && let Some([a, b, c, d, e, f, g, h]) = reading.peek::<8>(14 + 112)?
    {
        let (at, length) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let profile = reading.some(14 + u64::from(at), length.into(), PROFILE_BYTES)?;
        metadata.add_profile(&profile);
    }
    let (path, limits) = (reading.path, reading.limits);
    let held = reading.input.length();
    let packed = matches!(reading.peek::<4>(14 + 16)?, Some([1 | 2, 0, 0, 0]));
    let reader = reading.input.rewound().map_err(|e| unreadable(path, e))?;
    let begun = guard(path, "the BMP header", || BmpDecoder::new(reader))?;
    let decoder = match begun {
        Ok(decoder) => decoder,
        Err(error) => return Err(decoding(reading, error)),
    };
    let (width, height) = decoder.dimensions();
    let colour = decoder.color_type();
    limits.check(path, width.into(), height.into(), u64::from(colour.bytes_per_pixel()).max(3))?;
    // A run of packed pixels is two bytes for 255 of them; what is skipped is not worth a face.
    if packed && held < u64::from(width) * u64::from(height) / 128 {
        drop(decoder);
        return Err(reading.damaged("it holds less data than a picture of its size needs"));
    }
    let decoded = guard(path, "the BMP picture", || {
        let mut pixels = vec![0; decoder.total_bytes() as usize];
        decoder.read_image(&mut pixels).map(|()| pixels)
    })?;
    let pixels = match decoded {
        Ok(pixels) if colour == ColorType::Rgba8 => Pixels::Rgba(pixels),
        Ok(pixels) => Pixels::Rgb(pixels),
        Err(error) => return Err(decoding(reading, error)),
    };
    let outline = Outline {
        width: width as usize,
        height: height as usize,
        frames: 1,
        layer_pixels: 0,
        orientation: metadata.orientation(),
        warnings: metadata.warnings(),
    };
    let mut pixels = Some(pixels);
    play(reading, outline, visit, |_, _| {
        let pixels = pixels.take().expect("a BMP has one frame");
        Ok(Layer::still(width as usize, height as usize, pixels))
    })
}

fn decoding(reading: &Reading<'_>, error: ImageError) -> Error {
    match error {
        ImageError::Limits(_) => reading.too_large(),
        ImageError::Unsupported(what) => reading.unsupported(format!("this kind of BMP ({what})")),
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            reading.cut_off()
        }
        other => reading.damaged(other),
    }
}
