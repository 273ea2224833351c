//! JPEG: the segments are walked here, the pixels decoded by the `zune-jpeg` crate.
//!
//! What the decoder gets is written anew from the segments that matter: no metadata, no thumbnail,
//! nothing behind the first picture (camera formats put more pictures there). The colours of the
//! components are decided here as libjpeg does, and told to the decoder in the one way that is
//! unmistakable. A file whose data end early is refused: no part of a picture is made up.

use super::super::{SourceInfo, Visit};
use super::Reading;
use super::compose::{Layer, Outline, Pixels, play};
use super::metadata::{Metadata, PROFILE_BYTES};
use crate::error::Result;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Entropy-coded data are read in pieces of this size.
const PIECE: usize = 64 << 10;
/// More scans than any encoder writes.
const SCANS: usize = 100;

/// Reads a JPEG.
///
/// # Errors
/// See [`super::visit`].
pub(super) fn visit(reading: &mut Reading<'_>, visit: Visit<'_>) -> Result<SourceInfo> {
    let scan = scan(reading)?;
    let (width, height) = (usize::from(scan.frame.width), usize::from(scan.frame.height));
    let mut warnings = scan.metadata.warnings();
    if scan.frame.components.len() == 4 && warnings.is_empty() {
        warnings.push("its CMYK colours are converted without a profile".to_string());
    }
    let outline = Outline {
        width,
        height,
        frames: 1,
        layer_pixels: 0,
        orientation: scan.metadata.orientation(),
        warnings,
    };
    play(reading, outline, visit, |reading, _| {
        Ok(Layer::still(width, height, decode(reading, &scan)?))
    })
}

/// The fields of the frame header.
struct FrameHeader {
    width: u16,
    height: u16,
    /// Identifiers, in order.
    components: Vec<u8>,
    /// Bits that the packed data have at least: each block takes one code for its mean, and
    /// outside progressive files one for the rest.
    least_bits: u64,
}

/// What one walk through the segments tells.
struct Scan {
    frame: FrameHeader,
    metadata: Metadata,
    /// The picture without what does not matter for it.
    picture: Vec<u8>,
}

fn scan(reading: &mut Reading<'_>) -> Result<Scan> {
    let mut metadata = Metadata::default();
    let mut profile: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut body = Vec::new();
    let mut frame: Option<FrameHeader> = None;
    let (mut jfif, mut adobe, mut scans, mut packed) = (false, None, 0, 0);
    let mut at = 2u64;
    loop {
        let [mark, marker] = reading.peek::<2>(at)?.ok_or_else(|| reading.cut_off())?;
        if mark != 0xff || marker == 0xff {
            // Fill bytes; libjpeg skips others too.
            at += 1;
            continue;
        }
        at += 2;
        match marker {
            0xd9 => break,
            // Without a length: stuffing, restart marks, temporary mark, start of image.
            0x00 | 0x01 | 0xd0..=0xd8 => continue,
            _ => {}
        }
        let length = reading.bytes(at, 2)?;
        let length = u16::from_be_bytes([length[0], length[1]]);
        let inner = usize::from(length.max(2)) - 2;
        let start = at + 2;
        at = start + inner as u64;
        match marker {
            // Comments and most applications' segments say nothing about the picture.
            0xe0 => jfif |= reading.some(start, inner as u64, 5)? == b"JFIF\0",
            0xe1 => {
                let bytes = reading.bytes(start, inner)?;
                if bytes.starts_with(b"Exif\0\0") {
                    metadata.add_exif(&bytes);
                } else if bytes.starts_with(b"http://ns.adobe.com/xap/1.0/\0") {
                    metadata.add_xmp(&bytes);
                }
            }
            0xe2 => {
                let bytes = reading.bytes(start, inner)?;
                let held: usize = profile.iter().map(|(_, part)| part.len()).sum();
                if let Some([number, _, part @ ..]) = bytes.strip_prefix(b"ICC_PROFILE\0")
                    && held < PROFILE_BYTES
                {
                    profile.push((*number, part.to_vec()));
                }
            }
            0xee => {
                let bytes = reading.some(start, inner as u64, 12)?;
                if bytes.len() == 12 && bytes.starts_with(b"Adobe") {
                    adobe = Some(bytes[11]);
                }
            }
            0xe3..=0xef | 0xfe => {}
            _ => {
                let bytes = reading.bytes(start, inner)?;
                if matches!(marker, 0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf) {
                    if frame.is_some() {
                        return Err(reading.damaged("it has two frame headers"));
                    }
                    frame = Some(frame_header(reading, marker, &bytes)?);
                }
                body.extend([0xff, marker]);
                body.extend(length.max(2).to_be_bytes());
                body.extend(&bytes);
                let most = frame.as_ref().map_or(1 << 20, most_bytes);
                if marker == 0xda {
                    scans += 1;
                    let before = body.len();
                    at = entropy_coded(reading, at, &mut body, most)?;
                    packed += (body.len() - before) as u64;
                }
                if body.len() > most || scans > SCANS {
                    return Err(
                        reading.damaged("it holds more data than a picture of its size can")
                    );
                }
            }
        }
    }
    let Some(frame) = frame.filter(|_| scans > 0) else {
        return Err(reading.damaged("it ends before the picture begins"));
    };
    if packed * 8 < frame.least_bits {
        return Err(reading.damaged("it holds less data than a picture of its size needs"));
    }
    profile.sort_by_key(|(number, _)| *number);
    metadata.add_profile(&profile.into_iter().flat_map(|(_, part)| part).collect::<Vec<u8>>());
    let mut picture = vec![0xff, 0xd8];
    if let Some(transform) = transform(&frame, jfif, adobe) {
        picture.extend(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0");
        picture.push(transform);
    }
    picture.extend(body);
    picture.extend([0xff, 0xd9]);
    Ok(Scan { frame, metadata, picture })
}

/// Reads and judges a frame header.
fn frame_header(reading: &Reading<'_>, marker: u8, bytes: &[u8]) -> Result<FrameHeader> {
    let [precision, h1, h0, w1, w0, count, rest @ ..] = bytes else {
        return Err(reading.damaged("its frame header is too short"));
    };
    match marker {
        0xc0..=0xc2 => {}
        0xc3 | 0xc7 | 0xcb | 0xcf => return Err(reading.unsupported("a lossless JPEG")),
        0xc9 | 0xca => return Err(reading.unsupported("a JPEG with arithmetic coding")),
        _ => return Err(reading.unsupported("a hierarchical JPEG")),
    }
    if *precision != 8 {
        return Err(reading.unsupported(format!("a JPEG with {precision} bits a sample")));
    }
    let parts: Vec<[u8; 3]> = rest.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
    let components: Vec<u8> = parts.iter().map(|[name, _, _]| *name).collect();
    if components.len() != usize::from(*count) || !matches!(count, 1 | 3 | 4) {
        return Err(reading.unsupported(format!("a JPEG with {count} colour components")));
    }
    let (width, height) = (u16::from_be_bytes([*w1, *w0]), u16::from_be_bytes([*h1, *h0]));
    let (wide, high) = (u64::from(width), u64::from(height));
    reading.limits.check(reading.path, wide, high, u64::from(*count).max(3))?;
    let sampling = |part: &[u8; 3]| (u64::from(part[1] >> 4), u64::from(part[1] & 15));
    let most = parts.iter().map(sampling).fold((1u64, 1u64), |a, b| (a.0.max(b.0), a.1.max(b.1)));
    let blocks = |part: &[u8; 3]| {
        let (across, down) = sampling(part);
        (wide * across).div_ceil(most.0).div_ceil(8) * (high * down).div_ceil(most.1).div_ceil(8)
    };
    let least_bits = parts.iter().map(blocks).sum::<u64>() * if marker == 0xc2 { 1 } else { 2 };
    Ok(FrameHeader { width, height, components, least_bits })
}

/// More bytes than any encoder makes of a picture of this size.
fn most_bytes(frame: &FrameHeader) -> usize {
    let pixels = usize::from(frame.width) * usize::from(frame.height);
    pixels.saturating_mul(frame.components.len() * 4).saturating_add(1 << 20)
}

/// What to tell the decoder about the colours, by libjpeg's rules.
fn transform(frame: &FrameHeader, jfif: bool, adobe: Option<u8>) -> Option<u8> {
    match frame.components[..] {
        [_, _, _] => Some(match adobe {
            _ if jfif => 1,
            Some(0) => 0,
            Some(_) => 1,
            None if frame.components == *b"RGB" => 0,
            None => 1,
        }),
        [_, _, _, _] => Some(match adobe {
            None | Some(0) => 0,
            Some(_) => 2,
        }),
        _ => None,
    }
}

/// Copies entropy-coded data up to the next marker and gives its place.
fn entropy_coded(
    reading: &mut Reading<'_>,
    start: u64,
    body: &mut Vec<u8>,
    most: usize,
) -> Result<u64> {
    let mut at = start;
    loop {
        // One byte more than is taken, to see what follows a mark at the end of the piece.
        let left = reading.input.length().saturating_sub(at);
        let piece = reading.some(at, left, PIECE)?;
        if piece.len() < 2 || body.len() > most {
            // The caller finds that nothing follows, or that there is too much.
            return Ok(at);
        }
        let marker = piece
            .windows(2)
            .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xd0..=0xd7 | 0xff));
        let taken = marker.unwrap_or(piece.len() - 1);
        body.extend_from_slice(&piece[..taken]);
        at += taken as u64;
        if marker.is_some() {
            return Ok(at);
        }
    }
}

fn decode(reading: &Reading<'_>, scan: &Scan) -> Result<Pixels> {
    let grey = scan.frame.components.len() == 1;
    let size = (usize::from(scan.frame.width), usize::from(scan.frame.height));
    let decoded = reading.guard(|| {
        let options = DecoderOptions::default()
            .set_strict_mode(true)
            .set_max_width(size.0)
            .set_max_height(size.1)
            .jpeg_set_max_scans(SCANS)
            .jpeg_set_out_colorspace(if grey { ColorSpace::Luma } else { ColorSpace::RGB });
        let stream = ZCursor::new(scan.picture.as_slice());
        JpegDecoder::new_with_options(stream, options).decode()
    })?;
    let pixels = decoded.map_err(|error| reading.damaged(format!("{error:?}")))?;
    let expected = size.0 * size.1 * if grey { 1 } else { 3 };
    if pixels.len() != expected {
        return Err(reading.damaged("the decoder gave another size than the header"));
    }
    Ok(Pixels::Rgb(match grey {
        true => pixels.into_iter().flat_map(|grey| [grey; 3]).collect(),
        false => pixels,
    }))
}
