//! PNG and APNG: the chunks are walked here, the pixels of each frame decoded by the `png` crate.
//!
//! Every frame is wrapped as a small PNG of its own, so that metadata never reaches the decoder.
//! Checksums of what is used are checked; what does not matter for the picture may be damaged. An
//! animation is a sequence of frames as the specification orders them; a default image that is not
//! part of it is not shown. An animation that says it has no frames is its default image.

use super::super::{SourceInfo, Visit};
use super::Reading;
use super::compose::{Blend, Dispose, Layer, Outline, Pixels, Place, play};
use super::metadata::{Metadata, PROFILE_BYTES, TEXT_BYTES, inflate};
use crate::error::Result;
use ::png::{BitDepth, ColorType, Decoder, DecodingError, Transformations};
use std::io::Cursor;

const SIGNATURE: &[u8; 8] = b"\x89PNG\r\n\x1a\n";
/// Image data is read in pieces of this size.
const PIECE: usize = 64 << 10;

/// Reads a PNG: a picture or an animation.
///
/// # Errors
/// See [`super::visit`].
pub(super) fn visit(reading: &mut Reading<'_>, visit: Visit<'_>) -> Result<SourceInfo> {
    let scan = scan(reading)?;
    let (width, height) = (scan.header.width(), scan.header.height());
    reading.limits.check(reading.path, width.into(), height.into(), scan.header.pixel_bytes())?;
    let (width, height) = (width as usize, height as usize);
    let mut outline = Outline {
        width,
        height,
        frames: 1,
        layer_pixels: 0,
        orientation: scan.metadata.orientation(),
        warnings: scan.metadata.warnings(),
    };
    let Some(first) = scan.data else {
        return Err(reading.damaged("it holds no picture data"));
    };
    if header_needs_palette(&scan) {
        return Err(reading.damaged("its palette is missing or wrong"));
    }
    let Some(frames) = scan.animation() else {
        return play(reading, outline, visit, |reading, _| {
            let mut at = first;
            let data = image_data(reading, &mut at, b"IDAT", &mut None, &scan, &scan.header)?;
            let pixels = decode(reading, &scan, &scan.header, &data)?;
            Ok(Layer::still(width, height, pixels))
        });
    };
    if scan.controls < frames {
        let held = scan.controls;
        return Err(reading.damaged(format!("it announces {frames} frames and holds {held}")));
    }
    outline.frames = frames;
    outline.layer_pixels = scan.layer_pixels;
    // `IDAT` carries no sequence number; controls and `fdAT` count on from 0 together.
    let (mut at, mut sequence) = (SIGNATURE.len() as u64, 0u32);
    play(reading, outline, visit, |reading, _| {
        let control = next_control(reading, &mut at, &mut sequence)?;
        let header = scan.header.sized(control.width, control.height);
        let place = Place {
            x: control.x as usize,
            y: control.y as usize,
            width: control.width as usize,
            height: control.height as usize,
        };
        if place.x + place.width > width || place.y + place.height > height {
            return Err(reading.damaged("a frame reaches beyond the canvas"));
        }
        let default = at <= first;
        if default && (control.width as usize, control.height as usize) != (width, height) {
            return Err(reading.damaged("its first frame has not the size of the canvas"));
        }
        let kind = if default { b"IDAT" } else { b"fdAT" };
        let mut numbered = (!default).then_some(&mut sequence);
        let data = image_data(reading, &mut at, kind, &mut numbered, &scan, &header)?;
        Ok(Layer {
            place,
            pixels: decode(reading, &scan, &header, &data)?,
            blend: control.blend,
            dispose: control.dispose,
            delay: control.delay,
        })
    })
}

fn header_needs_palette(scan: &Scan) -> bool {
    let held = scan.palette.len();
    scan.header.colour() == 3 && (held == 0 || !held.is_multiple_of(3))
}

/// The fields of `IHDR`.
#[derive(Clone, Copy)]
struct Header([u8; 13]);

impl Header {
    fn width(&self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }

    fn height(&self) -> u32 {
        u32::from_be_bytes([self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    fn sized(&self, width: u32, height: u32) -> Self {
        let mut header = *self;
        header.0[..4].copy_from_slice(&width.to_be_bytes());
        header.0[4..8].copy_from_slice(&height.to_be_bytes());
        header
    }

    fn depth(&self) -> u8 {
        self.0[8]
    }

    fn colour(&self) -> u8 {
        self.0[9]
    }

    fn channels(&self) -> u64 {
        match self.colour() {
            2 => 3,
            4 => 2,
            6 => 4,
            _ => 1,
        }
    }

    /// Bytes of a decoded pixel, at most.
    fn pixel_bytes(&self) -> u64 {
        let wide = if self.depth() == 16 { 2 } else { 1 };
        let channels = if self.colour() == 3 { 4 } else { self.channels() + 1 };
        (channels.min(4) * wide).max(3)
    }

    /// Bytes that the inflated picture can have, filter bytes and interlacing included.
    fn raw_bytes(&self) -> u64 {
        let row = (u64::from(self.width()) * self.channels() * u64::from(self.depth())).div_ceil(8);
        (row + 8) * u64::from(self.height()) * 2
    }
}

/// What one walk through the chunks tells.
struct Scan {
    header: Header,
    palette: Vec<u8>,
    transparency: Vec<u8>,
    metadata: Metadata,
    /// Where the first `IDAT` begins.
    data: Option<u64>,
    /// Frames that a valid `acTL` announces.
    announced: Option<u32>,
    /// Frame controls.
    controls: usize,
    layer_pixels: u64,
}

impl Scan {
    /// The number of frames, if this is an animation.
    fn animation(&self) -> Option<usize> {
        let announced = self.announced.filter(|n| *n > 0 && *n <= 0x8000_0000)?;
        (self.controls > 0).then_some(announced as usize)
    }
}

struct Chunk {
    kind: [u8; 4],
    /// Where its contents begin.
    at: u64,
    length: u64,
}

impl Chunk {
    fn start(&self) -> u64 {
        self.at - 8
    }

    fn end(&self) -> u64 {
        self.at + self.length + 4
    }
}

/// The chunk at `at`; none at the end of the file or where something else follows.
fn chunk(reading: &mut Reading<'_>, at: u64) -> Result<Option<Chunk>> {
    let Some(head) = reading.peek::<8>(at)? else { return Ok(None) };
    let [a, b, c, d, kind @ ..] = head;
    let length = u64::from(u32::from_be_bytes([a, b, c, d]));
    let named = kind.iter().all(u8::is_ascii_alphabetic) && length < 1 << 31;
    Ok(named.then_some(Chunk { kind, at: at + 8, length }))
}

/// The contents of a short chunk that matters; none when its checksum is wrong.
fn contents(reading: &mut Reading<'_>, chunk: &Chunk, most: usize) -> Result<Option<Vec<u8>>> {
    if chunk.length > most as u64 {
        return Ok(None);
    }
    let bytes = reading.bytes(chunk.at, chunk.length as usize)?;
    let Some(sum) = reading.peek::<4>(chunk.at + chunk.length)? else { return Ok(None) };
    let mut crc = flate2::Crc::new();
    crc.update(&chunk.kind);
    crc.update(&bytes);
    Ok((crc.sum() == u32::from_be_bytes(sum)).then_some(bytes))
}

/// Walks all chunks once.
fn scan(reading: &mut Reading<'_>) -> Result<Scan> {
    let mut at = SIGNATURE.len() as u64;
    let first = chunk(reading, at)?.filter(|c| &c.kind == b"IHDR" && c.length == 13);
    let Some(first) = first else {
        return Err(reading.damaged("its header is missing"));
    };
    let header = contents(reading, &first, 13)?.and_then(|bytes| bytes.try_into().ok());
    let Some(header) = header.map(Header) else {
        return Err(reading.damaged("its header has a wrong checksum"));
    };
    let mut scan = Scan {
        header,
        palette: Vec::new(),
        transparency: Vec::new(),
        metadata: Metadata::default(),
        data: None,
        announced: None,
        controls: 0,
        layer_pixels: 0,
    };
    let mut announcements = 0;
    at = first.end();
    while let Some(next) = chunk(reading, at)? {
        at = next.end();
        match &next.kind {
            b"IEND" => break,
            b"IDAT" => {
                scan.data.get_or_insert(next.start());
            }
            b"PLTE" => {
                scan.palette = contents(reading, &next, 768)?
                    .ok_or_else(|| reading.damaged("its palette is wrong"))?;
            }
            b"tRNS" => scan.transparency = contents(reading, &next, 256)?.unwrap_or_default(),
            b"acTL" if scan.data.is_none() => {
                announcements += 1;
                let count = contents(reading, &next, 8)?;
                let count =
                    count.and_then(|bytes| bytes.first_chunk().map(|b| u32::from_be_bytes(*b)));
                // Two of them contradict each other: then it is no animation.
                scan.announced = count.filter(|_| announcements == 1);
            }
            b"fcTL" => {
                scan.controls += 1;
                if let Some(size) = reading.peek::<8>(next.at + 4)? {
                    let [a, b, c, d, e, f, g, h] = size.map(u64::from);
                    let width = a << 24 | b << 16 | c << 8 | d;
                    let height = e << 24 | f << 16 | g << 8 | h;
                    scan.layer_pixels = scan.layer_pixels.saturating_add(width * height);
                }
            }
            _ => describe(reading, &next, &mut scan.metadata)?,
        }
    }
    Ok(scan)
}

/// Takes from a chunk what it says about the picture.
fn describe(reading: &mut Reading<'_>, chunk: &Chunk, metadata: &mut Metadata) -> Result<()> {
    match &chunk.kind {
        b"eXIf" => {
            let block = reading.some(chunk.at, chunk.length, TEXT_BYTES)?;
            metadata.add_exif(&block);
        }
        b"iCCP" => {
            let bytes = reading.some(chunk.at, chunk.length, PROFILE_BYTES)?;
            // A name, a zero, the method (0), the deflated profile.
            if let Some(end) = bytes.iter().take(80).position(|b| *b == 0)
                && bytes.get(end + 1) == Some(&0)
            {
                metadata.add_deflated_profile(&bytes[end + 2..]);
            }
        }
        b"cICP" => metadata.add_coding(&reading.some(chunk.at, chunk.length, 4)?),
        b"sRGB" => metadata.add_srgb(),
        b"gAMA" => metadata.add_gamma(&reading.some(chunk.at, chunk.length, 4)?),
        b"cHRM" => metadata.add_chromaticities(&reading.some(chunk.at, chunk.length, 32)?),
        b"tEXt" | b"zTXt" | b"iTXt" => {
            let head = reading.some(chunk.at, chunk.length, 80)?;
            let key = head.split(|b| *b == 0).next().unwrap_or_default();
            let exif = key == b"Raw profile type exif";
            if exif || key == b"XML:com.adobe.xmp" {
                let bytes = reading.some(chunk.at, chunk.length, TEXT_BYTES)?;
                let text = text(&chunk.kind, &bytes[key.len() + 1..]);
                if exif { metadata.add_raw_exif(&text) } else { metadata.add_xmp(&text) }
            }
        }
        _ => {}
    }
    Ok(())
}

/// The words of a text chunk, from behind its key.
fn text(kind: &[u8; 4], bytes: &[u8]) -> Vec<u8> {
    match (kind, bytes) {
        (b"tEXt", text) => text.to_vec(),
        (b"zTXt", [0, deflated @ ..]) => inflate(deflated, TEXT_BYTES),
        (b"iTXt", [packed, method, rest @ ..]) => {
            // Two more words, language and key in that language, stand before the text.
            let text = rest.splitn(3, |b| *b == 0).nth(2).unwrap_or_default();
            match (packed, method) {
                (0, _) => text.to_vec(),
                (_, 0) => inflate(text, TEXT_BYTES),
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

/// The fields of `fcTL`.
struct Control {
    width: u32,
    height: u32,
    x: u32,
    y: u32,
    delay: f64,
    dispose: Dispose,
    blend: Blend,
}

/// Moves on to the next `fcTL` and behind it.
fn next_control(reading: &mut Reading<'_>, at: &mut u64, sequence: &mut u32) -> Result<Control> {
    loop {
        let Some(next) = chunk(reading, *at)? else { return Err(reading.cut_off()) };
        *at = next.end();
        if &next.kind != b"fcTL" {
            continue;
        }
        let bytes = contents(reading, &next, 26)?.filter(|bytes| bytes.len() == 26);
        let bytes = bytes.ok_or_else(|| reading.damaged("a frame has a wrong header"))?;
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let half = |at: usize| f64::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        expect_number(reading, word(0), sequence)?;
        let (width, height, x, y) = (word(4), word(8), word(12), word(16));
        if width == 0 || height == 0 {
            return Err(reading.damaged("a frame is empty"));
        }
        let divisor = if half(22) == 0.0 { 100.0 } else { half(22) };
        let dispose = match bytes[24] {
            1 => Dispose::Background,
            2 => Dispose::Previous,
            _ => Dispose::Keep,
        };
        let blend = if bytes[25] == 1 { Blend::Over } else { Blend::Source };
        return Ok(Control { width, height, x, y, delay: half(20) / divisor, dispose, blend });
    }
}

fn expect_number(reading: &Reading<'_>, found: u32, sequence: &mut u32) -> Result<()> {
    if found != *sequence {
        return Err(reading.damaged("its frames are out of order or one is missing"));
    }
    *sequence = sequence.wrapping_add(1);
    Ok(())
}

/// Gathers the image data of one frame, checked. More than the frame can need is not kept.
fn image_data(
    reading: &mut Reading<'_>,
    at: &mut u64,
    kind: &[u8; 4],
    sequence: &mut Option<&mut u32>,
    scan: &Scan,
    header: &Header,
) -> Result<Vec<u8>> {
    // Deflate adds five bytes in 64 KiB to what it cannot pack; the rest is room for odd encoders.
    let raw = header.raw_bytes();
    let most = usize::try_from(raw + raw / 8 + (64 << 10)).unwrap_or(usize::MAX);
    let mut data = wrapped(scan, header);
    let start = data.len();
    let mut begun = false;
    while let Some(next) = chunk(reading, *at)? {
        if &next.kind != kind {
            // The data of a frame stand together; other chunks may come before them only.
            if begun || matches!(&next.kind, b"fcTL" | b"IEND") {
                break;
            }
            *at = next.end();
            continue;
        }
        begun = true;
        *at = next.end();
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        let (mut from, end) = (next.at, next.at + next.length);
        if let Some(sequence) = sequence {
            let number = reading.bytes(from, 4)?;
            let number = [number[0], number[1], number[2], number[3]];
            crc.update(&number);
            expect_number(reading, u32::from_be_bytes(number), sequence)?;
            from += 4;
        }
        while from < end {
            let piece = reading.bytes(from, (end - from).min(PIECE as u64) as usize)?;
            from += piece.len() as u64;
            crc.update(&piece);
            let room = (start + most).saturating_sub(data.len());
            data.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        let sum = reading.bytes(end.max(from), 4)?;
        if crc.sum() != u32::from_be_bytes([sum[0], sum[1], sum[2], sum[3]]) {
            return Err(reading.damaged("the checksum of its picture data is wrong"));
        }
    }
    let length = (data.len() - start) as u32;
    data[start - 8..start - 4].copy_from_slice(&length.to_be_bytes());
    // No checksum: it has been checked above, and the decoder does not look at it.
    data.extend([0; 4]);
    push_chunk(&mut data, b"IEND", &[]);
    Ok(data)
}

/// A PNG up to where its image data begin.
fn wrapped(scan: &Scan, header: &Header) -> Vec<u8> {
    let mut png = SIGNATURE.to_vec();
    push_chunk(&mut png, b"IHDR", &header.0);
    if header.colour() == 3 {
        push_chunk(&mut png, b"PLTE", &scan.palette);
    }
    // A wrong length, or transparency where alpha is, means nothing.
    let mut transparency = scan.transparency.as_slice();
    let sound = match header.colour() {
        0 => transparency.len() == 2,
        2 => transparency.len() == 6,
        3 => {
            transparency = &transparency[..transparency.len().min(scan.palette.len() / 3)];
            !transparency.is_empty()
        }
        _ => false,
    };
    if sound {
        push_chunk(&mut png, b"tRNS", transparency);
    }
    png.extend([0; 4]);
    png.extend(b"IDAT");
    png
}

fn push_chunk(png: &mut Vec<u8>, kind: &[u8; 4], bytes: &[u8]) {
    png.extend((bytes.len() as u32).to_be_bytes());
    png.extend(kind);
    png.extend(bytes);
    png.extend([0; 4]);
}

/// Decodes one wrapped frame.
fn decode(reading: &Reading<'_>, scan: &Scan, header: &Header, data: &[u8]) -> Result<Pixels> {
    let (width, height) = (header.width(), header.height());
    reading.limits.check(reading.path, width.into(), height.into(), scan.header.pixel_bytes())?;
    let decoded = reading.guard(|| {
        let mut options = ::png::DecodeOptions::default();
        options.set_ignore_crc(true);
        let mut decoder = Decoder::new_with_options(Cursor::new(data), options);
        decoder.set_limits(::png::Limits { bytes: 64 << 20 });
        decoder.set_transformations(Transformations::EXPAND);
        let mut reader = decoder.read_info()?;
        let size = reader.output_buffer_size().ok_or(DecodingError::LimitsExceeded)?;
        let mut pixels = vec![0; size];
        let info = reader.next_frame(&mut pixels)?;
        if info.bit_depth == BitDepth::Sixteen {
            pixels = narrowed(pixels);
        }
        Ok(match info.color_type {
            ColorType::Grayscale => {
                Pixels::Rgb(pixels.into_iter().flat_map(|grey| [grey; 3]).collect())
            }
            ColorType::GrayscaleAlpha => {
                let pairs = pixels.chunks_exact(2);
                Pixels::Rgba(pairs.flat_map(|p| [p[0], p[0], p[0], p[1]]).collect())
            }
            ColorType::Rgba => Pixels::Rgba(pixels),
            ColorType::Rgb | ColorType::Indexed => Pixels::Rgb(pixels),
        })
    })?;
    decoded.map_err(|error: DecodingError| match error {
        DecodingError::LimitsExceeded => reading.too_large(),
        other => reading.damaged(other),
    })
}

/// Sixteen-bit samples to eight, rounded, in the memory that they have.
fn narrowed(mut samples: Vec<u8>) -> Vec<u8> {
    let count = samples.len() / 2;
    for at in 0..count {
        let value = u32::from(u16::from_be_bytes([samples[2 * at], samples[2 * at + 1]]));
        samples[at] = ((value * 255 + 32_895) >> 16) as u8;
    }
    samples.truncate(count);
    samples
}
