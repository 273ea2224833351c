//! Pictures and animations: PNG (and APNG), JPEG, WebP, BMP, GIF.
//!
//! Every picture ends as 8-bit RGB: 16-bit samples are scaled down, grey is spread, palettes are
//! looked up, transparency is laid over black, and the EXIF orientation is applied. Animations give
//! full frames with their delays. Colour profiles are not applied; wide-gamut ones give a warning.

use super::{Limits, MediaKind, ReadOptions, RgbFrame, SourceInfo, TimedFrame, Visit, guard};
use crate::error::{Error, Result};
use ::image::codecs::{bmp, gif, jpeg, png, webp};
use ::image::{
    AnimationDecoder, DynamicImage, Frames, ImageDecoder, ImageError, ImageFormat, ImageResult,
};
use std::fs::File;
use std::io::{Cursor, Read};
use std::ops::ControlFlow;
use std::path::Path;

/// Compressed pictures larger than this are refused unread.
const FILE_LIMIT: u64 = 1 << 30;

/// Decodes a picture or animation and hands its frames to `visit`.
///
/// # Errors
/// `E0805` damaged or cut off, `E0806` too large, `E0809` an animation without frames, `E0812`.
pub(super) fn visit(
    path: &Path,
    file: File,
    format: ImageFormat,
    options: &ReadOptions,
    visit: Visit<'_>,
) -> Result<SourceInfo> {
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(|e| super::unreadable(path, e))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(Error::input("E0806", "a picture file of more than 1 GiB")
            .at(path.display())
            .help("scale the picture down first"));
    }
    let name = name(format);
    let bytes = bytes.as_slice();
    let limits = &options.limits;
    let built = |what: &str| format!("the {name} {what}");
    match format {
        ImageFormat::Gif => {
            let decoder = begin(path, name, || gif::GifDecoder::new(Cursor::new(bytes)))?;
            let decoder = bound(path, name, limits, decoder)?;
            let frames = guard(path, &built("animation"), || decoder.into_frames())?;
            animate(path, name, frames, visit)
        }
        ImageFormat::WebP => {
            let decoder = begin(path, name, || webp::WebPDecoder::new(Cursor::new(bytes)))?;
            if decoder.has_animation() {
                let decoder = bound(path, name, limits, decoder)?;
                let frames = guard(path, &built("animation"), || decoder.into_frames())?;
                return animate(path, "WebP", frames, visit);
            }
            still(path, name, limits, decoder, visit)
        }
        ImageFormat::Png => {
            let decoder = begin(path, name, || png::PngDecoder::new(Cursor::new(bytes)))?;
            if guard(path, &built("header"), || decoder.is_apng())?.unwrap_or(false) {
                let decoder = bound(path, name, limits, decoder)?;
                let decoder = begin(path, name, || decoder.apng())?;
                let frames = guard(path, &built("animation"), || decoder.into_frames())?;
                return animate(path, "PNG", frames, visit);
            }
            still(path, name, limits, decoder, visit)
        }
        ImageFormat::Bmp => {
            let decoder = begin(path, name, || bmp::BmpDecoder::new(Cursor::new(bytes)))?;
            still(path, name, limits, decoder, visit)
        }
        _ => {
            // The decoder fills a cut-off JPEG with grey instead of failing.
            if !jpeg_is_complete(bytes) {
                return Err(damaged(path, name, "it ends in the middle of the picture"));
            }
            let decoder = begin(path, name, || jpeg::JpegDecoder::new(Cursor::new(bytes)))?;
            still(path, name, limits, decoder, visit)
        }
    }
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Gif => "GIF",
        ImageFormat::WebP => "WebP",
        ImageFormat::Bmp => "BMP",
        _ => "JPEG",
    }
}

fn damaged(path: &Path, name: &str, why: impl std::fmt::Display) -> Error {
    Error::input("E0805", format!("the {name} file is damaged or cut off: {why}"))
        .at(path.display())
        .help("open it in a picture viewer and export it again, or fetch it again")
}

fn decoding(path: &Path, name: &str, error: ImageError) -> Error {
    match error {
        ImageError::Limits(_) => {
            Error::input("E0806", format!("the {name} picture needs too much memory"))
                .at(path.display())
                .help("scale the picture down first")
        }
        other => damaged(path, name, &other),
    }
}

/// Runs a decoder's constructor, which reads the header.
fn begin<T>(path: &Path, name: &str, make: impl FnOnce() -> ImageResult<T>) -> Result<T> {
    guard(path, &format!("the {name} header"), make)?.map_err(|e| decoding(path, name, e))
}

/// Checks the size before anything is decoded and hands the bound to the decoder.
fn bound<D: ImageDecoder>(path: &Path, name: &str, limits: &Limits, mut decoder: D) -> Result<D> {
    let (width, height) = decoder.dimensions();
    let bytes = u64::from(decoder.color_type().bytes_per_pixel());
    limits.check(path, u64::from(width), u64::from(height), bytes.max(3))?;
    let mut inner = ::image::Limits::no_limits();
    // Twice: decoders keep a canvas beside the frame they hand out.
    inner.max_alloc = Some(limits.frame_bytes.saturating_mul(2));
    guard(path, &format!("the {name} header"), || decoder.set_limits(inner))?
        .map_err(|e| decoding(path, name, e))?;
    Ok(decoder)
}

fn still<D: ImageDecoder>(
    path: &Path,
    name: &str,
    limits: &Limits,
    decoder: D,
    visit: Visit<'_>,
) -> Result<SourceInfo> {
    let mut decoder = bound(path, name, limits, decoder)?;
    let mut warnings = Vec::new();
    let decoded = guard(path, &format!("the {name} picture"), || {
        // Metadata that cannot be read must not cost the picture.
        let orientation =
            decoder.orientation().unwrap_or(::image::metadata::Orientation::NoTransforms);
        if let Some(profile) = decoder.icc_profile().ok().flatten().and_then(wide_gamut) {
            warnings.push(format!("its {profile} colour profile is not applied: taken as sRGB"));
        }
        let mut picture = DynamicImage::from_decoder(decoder)?;
        picture.apply_orientation(orientation);
        Ok(flatten(picture))
    })?;
    let image: RgbFrame = decoded.map_err(|e| decoding(path, name, e))?;
    let info = SourceInfo {
        path: path.to_path_buf(),
        kind: MediaKind::Image,
        width: image.width,
        height: image.height,
        fps: None,
        frames: 1,
        description: format!("{name} picture"),
        warnings,
    };
    let _ = visit(TimedFrame { image, time: 0.0, duration: 0.0 })?;
    Ok(info)
}

/// The name of a wide-gamut profile, found by its text (plain or UTF-16).
fn wide_gamut(profile: Vec<u8>) -> Option<&'static str> {
    let text: Vec<u8> = profile.into_iter().filter(|b| *b != 0).collect();
    ["Display P3", "Adobe RGB", "ProPhoto", "BT.2020", "Rec. 2020"]
        .into_iter()
        .find(|name| text.windows(name.len()).any(|window| window == name.as_bytes()))
}

/// To RGB, transparency over black.
fn flatten(picture: DynamicImage) -> RgbFrame {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let data = if picture.color().has_alpha() {
        over_black(&picture.into_rgba8())
    } else {
        picture.into_rgb8().into_raw()
    };
    RgbFrame { width, height, data }
}

fn over_black(rgba: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(rgba.len() / 4 * 3);
    for pixel in rgba.chunks_exact(4) {
        let alpha = u32::from(pixel[3]);
        data.extend(pixel[..3].iter().map(|c| ((u32::from(*c) * alpha + 127) / 255) as u8));
    }
    data
}

/// Hands out the frames of an animation. Delays below 20 ms count as 100 ms, as browsers do.
fn animate(path: &Path, name: &str, frames: Frames<'_>, visit: Visit<'_>) -> Result<SourceInfo> {
    let mut frames = frames;
    let (mut time, mut count, mut size) = (0.0f64, 0usize, (0, 0));
    let mut stopped = false;
    while !stopped {
        let next = guard(path, &format!("frame {count} of the {name}"), || frames.next())?;
        let Some(frame) = next else { break };
        let frame = frame.map_err(|e| match e {
            ImageError::Limits(_) => decoding(path, name, e),
            e => damaged(path, name, format!("frame {count} (from 0): {e}")),
        })?;
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let delay = f64::from(numerator) / f64::from(denominator.max(1)) / 1000.0;
        let duration = if delay < 0.02 { 0.1 } else { delay };
        let rgba = frame.into_buffer();
        size = (rgba.width() as usize, rgba.height() as usize);
        let image = RgbFrame { width: size.0, height: size.1, data: over_black(&rgba) };
        count += 1;
        stopped = visit(TimedFrame { image, time, duration })? == ControlFlow::Break(());
        time += duration;
    }
    if count == 0 {
        return Err(Error::input("E0809", format!("the {name} holds no frame"))
            .at(path.display())
            .help("export it again with at least one frame"));
    }
    let single = count == 1 && !stopped;
    Ok(SourceInfo {
        path: path.to_path_buf(),
        kind: if single { MediaKind::Image } else { MediaKind::Video },
        width: size.0,
        height: size.1,
        fps: (!single).then(|| count as f64 / time),
        frames: count,
        description: if single { format!("{name} picture") } else { format!("{name} animation") },
        warnings: Vec::new(),
    })
}

/// Walks the markers of a JPEG to its end-of-image mark.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // Entropy-coded data, padding and stuffed zeros are all skipped by looking for the next
        // 0xFF that is followed by a real marker.
        let Some(offset) = bytes.get(at..).and_then(|rest| rest.iter().position(|b| *b == 0xff))
        else {
            return false;
        };
        at += offset + 1;
        match bytes.get(at) {
            None => return false,
            Some(0xd9) => return true,
            // Stuffing, restart marks, temporary mark, start of image, fill bytes: no length.
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(0xff) => {}
            Some(_) => {
                let Some(length) = bytes.get(at + 1..at + 3) else { return false };
                at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_clip;
    use super::*;
    use ::image::{ExtendedColorType, ImageEncoder};

    fn scratch(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("anyid-image-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder.join(name)
    }

    fn png_file(name: &str, width: u32, data: &[u8], color: ExtendedColorType) -> Vec<u8> {
        let path = scratch(name);
        let mut bytes = Vec::new();
        png::PngEncoder::new(&mut bytes).write_image(data, width, 1, color).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let clip = read_clip(&path, &ReadOptions::default()).unwrap();
        assert_eq!((clip.kind, clip.fps, clip.frames.len()), (MediaKind::Image, None, 1));
        clip.frames[0].data.clone()
    }

    #[test]
    fn every_png_colour_kind_becomes_rgb() {
        use ExtendedColorType as C;
        assert_eq!(png_file("l8.png", 2, &[7, 200], C::L8), [7, 7, 7, 200, 200, 200]);
        assert_eq!(png_file("la8.png", 2, &[200, 255, 200, 0], C::La8), [200, 200, 200, 0, 0, 0]);
        assert_eq!(png_file("rgba.png", 1, &[250, 100, 50, 128], C::Rgba8), [125, 50, 25]);
        let sixteen: Vec<u8> = [65535u16, 257 * 77].iter().flat_map(|v| v.to_ne_bytes()).collect();
        assert_eq!(png_file("l16.png", 2, &sixteen, C::L16), [255, 255, 255, 77, 77, 77]);
        let sixteen: Vec<u8> = [257u16, 514, 65535].iter().flat_map(|v| v.to_ne_bytes()).collect();
        assert_eq!(png_file("rgb16.png", 1, &sixteen, C::Rgb16), [1, 2, 255]);
    }

    #[test]
    fn jpeg_orientation_is_applied_and_cut_files_are_refused() {
        let mut pixels = vec![0u8; 32 * 16 * 3];
        for (i, pixel) in pixels.chunks_exact_mut(3).enumerate() {
            pixel.fill(if i % 32 < 16 { 255 } else { 0 });
        }
        let mut bytes = Vec::new();
        jpeg::JpegEncoder::new_with_quality(&mut bytes, 95)
            .write_image(&pixels, 32, 16, ExtendedColorType::Rgb8)
            .unwrap();
        // An EXIF block that says orientation 6: turn a quarter clockwise.
        let exif = b"\xff\xe1\0\x22Exif\0\0MM\0*\0\0\0\x08\
                     \0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let mut turned = bytes[..2].to_vec();
        turned.extend(exif);
        turned.extend(&bytes[2..]);
        let path = scratch("turned.jpg");
        std::fs::write(&path, &turned).unwrap();
        let clip = read_clip(&path, &ReadOptions::default()).unwrap();
        let frame = &clip.frames[0];
        assert_eq!((frame.width, frame.height), (16, 32));
        assert!(frame.data[0] > 240 && frame.data[frame.data.len() - 1] < 15);

        for keep in [turned.len() - 2, turned.len() / 2, 30, 3] {
            std::fs::write(&path, &turned[..keep]).unwrap();
            let error = read_clip(&path, &ReadOptions::default()).unwrap_err();
            assert_eq!(error.code(), "E0805", "{keep} bytes: {error}");
        }
    }

    #[test]
    fn animations_keep_their_delays_and_single_frames_are_pictures() {
        let frame = |shade: u8, delay: u32| {
            let buffer = ::image::RgbaImage::from_pixel(4, 4, [shade, shade, shade, 255].into());
            ::image::Frame::from_parts(buffer, 0, 0, ::image::Delay::from_numer_denom_ms(delay, 1))
        };
        let path = scratch("a.gif");
        let write = |frames: Vec<::image::Frame>| {
            let mut bytes = Vec::new();
            gif::GifEncoder::new(&mut bytes).encode_frames(frames).unwrap();
            std::fs::write(&path, bytes).unwrap();
        };
        write(vec![frame(0, 100), frame(90, 300), frame(200, 0)]);
        let mut seen = Vec::new();
        let info = super::super::visit_frames(&path, &ReadOptions::default(), &mut |f| {
            seen.push((f.image.data[0], (f.time * 1e3).round(), (f.duration * 1e3).round()));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        assert_eq!(seen, [(0, 0.0, 100.0), (90, 100.0, 300.0), (200, 400.0, 100.0)]);
        assert_eq!((info.kind, info.fps), (MediaKind::Video, Some(6.0)));
        write(vec![frame(50, 100)]);
        let clip = read_clip(&path, &ReadOptions::default()).unwrap();
        assert_eq!((clip.kind, clip.fps), (MediaKind::Image, None));
    }

    #[test]
    fn absurd_sizes_are_refused_before_decoding() {
        let mut bytes = Vec::new();
        let data = vec![0; 64];
        png::PngEncoder::new(&mut bytes).write_image(&data, 8, 8, ExtendedColorType::L8).unwrap();
        bytes[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        let crc = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        let path = scratch("bomb.png");
        std::fs::write(&path, &bytes).unwrap();
        let error = read_clip(&path, &ReadOptions::default()).unwrap_err();
        assert_eq!(error.code(), "E0806", "{error}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |mut crc, byte| {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            }
            crc
        })
    }
}
