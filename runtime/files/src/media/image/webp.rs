//! WebP: the container is walked here, the `image-webp` crate decodes each frame as a still.
//!
//! A frame of an animation and a picture by itself are the same thing here: a VP8 or VP8L stream,
//! perhaps with an alpha plane beside it, that is wrapped in the smallest file that holds it.

use super::super::{SourceInfo, Visit};
use super::Reading;
use super::compose::{Blend, Dispose, Layer, Outline, Pixels, Place, play};
use super::metadata::{Metadata, PROFILE_BYTES, TEXT_BYTES};
use crate::error::Result;
use image_webp::{DecodingError, WebPDecoder};
use std::io::Cursor;

/// Reads a WebP: a picture or an animation.
///
/// # Errors
/// See [`super::visit`].
pub(super) fn visit(reading: &mut Reading<'_>, visit: Visit<'_>) -> Result<SourceInfo> {
    let head = reading.bytes(0, 12)?;
    let end = 8 + u64::from(word(&head[4..]));
    if end > reading.input.length() {
        return Err(reading.cut_off());
    }
    let scan = scan(reading, end)?;
    let (width, height) = scan.canvas;
    reading.limits.check(reading.path, width as u64, height as u64, 4)?;
    let mut outline = Outline {
        width,
        height,
        frames: 1,
        layer_pixels: 0,
        orientation: scan.metadata.orientation(),
        warnings: scan.metadata.warnings(),
    };
    if !scan.animated {
        return play(reading, outline, visit, |reading, _| {
            let mut parts = parts(reading, scan.first, end)?;
            if !scan.alpha {
                parts.alpha = None;
            }
            let pixels = decode(reading, &parts, scan.alpha, scan.canvas)?;
            Ok(Layer::still(width, height, pixels))
        });
    }
    outline.frames = scan.frames;
    outline.layer_pixels = scan.layer_pixels;
    let mut at = scan.first;
    play(reading, outline, visit, |reading, _| {
        loop {
            let Some(next) = chunk(reading, at, end)? else { return Err(reading.cut_off()) };
            at = next.end();
            if &next.kind == b"ANMF" {
                return layer(reading, &next, scan.canvas);
            }
        }
    })
}

/// What one walk through the chunks tells.
struct Scan {
    canvas: (usize, usize),
    /// Whether the file says that it is an animation.
    animated: bool,
    /// Whether the file says that it has transparency; a frame of an animation says so by itself.
    alpha: bool,
    metadata: Metadata,
    /// Where the chunks of the picture begin.
    first: u64,
    frames: usize,
    layer_pixels: u64,
}

struct Chunk {
    kind: [u8; 4],
    at: u64,
    length: u64,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.at + self.length + self.length % 2
    }
}

/// The chunk at `at`; none at the end.
fn chunk(reading: &mut Reading<'_>, at: u64, end: u64) -> Result<Option<Chunk>> {
    if at + 8 > end {
        return Ok(None);
    }
    let Some(head) = reading.peek::<8>(at)? else { return Ok(None) };
    let [kind @ .., a, b, c, d] = head;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    if at + 8 + length > end {
        return Err(reading.cut_off());
    }
    Ok(Some(Chunk { kind, at: at + 8, length }))
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn three(bytes: &[u8]) -> usize {
    word(&[bytes[0], bytes[1], bytes[2], 0]) as usize
}

fn scan(reading: &mut Reading<'_>, end: u64) -> Result<Scan> {
    let Some(first) = chunk(reading, 12, end)? else { return Err(reading.cut_off()) };
    let mut scan = Scan {
        canvas: (0, 0),
        animated: false,
        alpha: true,
        metadata: Metadata::default(),
        first: 12,
        frames: 0,
        layer_pixels: 0,
    };
    if &first.kind != b"VP8X" {
        // The simple form: one stream, whose own header has the size.
        let parts = parts(reading, 12, end)?;
        scan.canvas = parts.size;
        return Ok(scan);
    }
    if first.length < 10 {
        return Err(reading.damaged("its header is too short"));
    }
    let header = reading.bytes(first.at, 10)?;
    scan.canvas = (three(&header[4..]) + 1, three(&header[7..]) + 1);
    scan.animated = header[0] & 0x02 != 0;
    scan.alpha = header[0] & 0x10 != 0;
    scan.first = first.end();
    let mut at = scan.first;
    while let Some(next) = chunk(reading, at, end)? {
        at = next.end();
        match &next.kind {
            b"ANMF" => {
                scan.frames += 1;
                if let Some(head) = reading.peek::<12>(next.at)? {
                    let pixels = (three(&head[6..]) as u64 + 1) * (three(&head[9..]) as u64 + 1);
                    scan.layer_pixels = scan.layer_pixels.saturating_add(pixels);
                }
            }
            b"ICCP" => {
                let profile = reading.some(next.at, next.length, PROFILE_BYTES)?;
                scan.metadata.add_profile(&profile);
            }
            b"EXIF" => {
                let block = reading.some(next.at, next.length, TEXT_BYTES)?;
                scan.metadata.add_exif(&block);
            }
            b"XMP " => {
                let packet = reading.some(next.at, next.length, TEXT_BYTES)?;
                scan.metadata.add_xmp(&packet);
            }
            _ => {}
        }
    }
    Ok(scan)
}

/// The streams of one picture.
struct Parts {
    /// `VP8 ` or `VP8L`.
    kind: [u8; 4],
    stream: Vec<u8>,
    /// The alpha plane of a `VP8 ` stream.
    alpha: Option<Vec<u8>>,
    /// As the stream's own header says.
    size: (usize, usize),
}

/// Finds the streams of the picture whose chunks begin at `at`.
fn parts(reading: &mut Reading<'_>, at: u64, end: u64) -> Result<Parts> {
    let mut at = at;
    let mut alpha = None;
    while let Some(next) = chunk(reading, at, end)? {
        at = next.end();
        match &next.kind {
            b"ALPH" if alpha.is_none() => alpha = Some(next),
            b"VP8 " | b"VP8L" => {
                let head = reading.some(next.at, next.length, 10)?;
                let size = match (&next.kind, head.as_slice()) {
                    (b"VP8 ", [_, _, _, 0x9d, 0x01, 0x2a, w, x, h, y]) => {
                        let side = |low: u8, high: u8| {
                            usize::from(u16::from_le_bytes([low, high]) & 0x3fff)
                        };
                        (side(*w, *x), side(*h, *y))
                    }
                    (b"VP8L", [0x2f, a, b, c, d, ..]) => {
                        let bits = word(&[*a, *b, *c, *d]) as usize;
                        ((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1)
                    }
                    _ => return Err(reading.damaged("a picture stream has no sound header")),
                };
                let most = room(size);
                let stream = reading.some(next.at, next.length, most)?;
                let alpha = match alpha.filter(|_| &next.kind == b"VP8 ") {
                    Some(chunk) => Some(reading.some(chunk.at, chunk.length, most)?),
                    None => None,
                };
                return Ok(Parts { kind: next.kind, stream, alpha, size });
            }
            _ => {}
        }
    }
    Err(reading.damaged("it holds no picture"))
}

/// More bytes than a stream of this size can need.
fn room((width, height): (usize, usize)) -> usize {
    (width * height).saturating_mul(8).saturating_add(1 << 20)
}

/// One frame of an animation.
fn layer(reading: &mut Reading<'_>, frame: &Chunk, canvas: (usize, usize)) -> Result<Layer> {
    if frame.length < 16 {
        return Err(reading.damaged("a frame is too short"));
    }
    let head = reading.bytes(frame.at, 16)?;
    let place = Place {
        x: three(&head) * 2,
        y: three(&head[3..]) * 2,
        width: three(&head[6..]) + 1,
        height: three(&head[9..]) + 1,
    };
    if place.x + place.width > canvas.0 || place.y + place.height > canvas.1 {
        return Err(reading.damaged("a frame reaches beyond the canvas"));
    }
    let parts = parts(reading, frame.at + 16, frame.at + frame.length)?;
    Ok(Layer {
        place,
        pixels: decode(reading, &parts, true, (place.width, place.height))?,
        blend: if head[15] & 2 == 0 { Blend::Over } else { Blend::Source },
        dispose: if head[15] & 1 == 0 { Dispose::Keep } else { Dispose::Background },
        delay: three(&head[12..]) as f64 / 1000.0,
    })
}

/// Decodes one picture; `size` is what it must have.
fn decode(
    reading: &Reading<'_>,
    parts: &Parts,
    alpha: bool,
    size: (usize, usize),
) -> Result<Pixels> {
    if parts.size != size {
        let ((a, b), (c, d)) = (parts.size, size);
        return Err(reading.damaged(format!("a picture of {a}x{b} stands where {c}x{d} belongs")));
    }
    let file = wrapped(parts);
    let decoded = reading.guard(|| {
        let mut decoder = WebPDecoder::new(Cursor::new(file.as_slice()))?;
        let bytes = decoder.output_buffer_size().ok_or(DecodingError::ImageTooLarge)?;
        let mut pixels = vec![0; bytes];
        decoder.read_image(&mut pixels)?;
        Ok((decoder.has_alpha(), pixels))
    })?;
    match decoded {
        Ok((true, mut pixels)) if !alpha => {
            pixels.chunks_exact_mut(4).for_each(|pixel| pixel[3] = 255);
            Ok(Pixels::Rgba(pixels))
        }
        Ok((true, pixels)) => Ok(Pixels::Rgba(pixels)),
        Ok((false, pixels)) => Ok(Pixels::Rgb(pixels)),
        Err(DecodingError::MemoryLimitExceeded) => Err(reading.too_large()),
        Err(error) => Err(reading.damaged(error)),
    }
}

/// The smallest file that holds one picture.
fn wrapped(parts: &Parts) -> Vec<u8> {
    let mut file = b"RIFF\0\0\0\0WEBP".to_vec();
    if let Some(alpha) = &parts.alpha {
        let mut header = [0; 10];
        header[0] = 0x10;
        header[4..7].copy_from_slice(&(parts.size.0 as u32 - 1).to_le_bytes()[..3]);
        header[7..].copy_from_slice(&(parts.size.1 as u32 - 1).to_le_bytes()[..3]);
        push_chunk(&mut file, b"VP8X", &header);
        push_chunk(&mut file, b"ALPH", alpha);
    }
    push_chunk(&mut file, &parts.kind, &parts.stream);
    let size = (file.len() - 8) as u32;
    file[4..8].copy_from_slice(&size.to_le_bytes());
    file
}

fn push_chunk(file: &mut Vec<u8>, kind: &[u8; 4], bytes: &[u8]) {
    file.extend(kind);
    file.extend((bytes.len() as u32).to_le_bytes());
    file.extend(bytes);
    file.extend(&[0][..bytes.len() % 2]);
}
