//! GIF: the blocks are walked here, the `weezl` crate unpacks each frame.
//!
//! As browsers do: the background is transparent whatever colour is named for it; the first frame
//! may enlarge the canvas and later ones are cut to it; an index without a colour shows nothing. A
//! missing end mark is no damage, a frame without all its pixels is. Comments and applications'
//! blocks are skipped unread.

use super::super::{SourceInfo, Visit};
use super::Reading;
use super::compose::{Blend, Dispose, Layer, Outline, Pixels, Place, play};
use crate::error::Result;
use ::image::metadata::Orientation;
use weezl::decode::Decoder;
use weezl::{BitOrder, LzwError, LzwStatus};

/// Reads a GIF: a picture or an animation.
///
/// # Errors
/// See [`super::visit`].
pub(super) fn visit(reading: &mut Reading<'_>, visit: Visit<'_>) -> Result<SourceInfo> {
    let head = reading.bytes(0, 13)?;
    let start = 13 + colours(head[10]) as u64 * 3;
    let palette = match start {
        13 => None,
        _ => Some(reading.bytes(13, start as usize - 13)?),
    };
    let (mut width, mut height) = (half(&head[6..]), half(&head[8..]));
    let mut outline = Outline {
        width,
        height,
        frames: 0,
        layer_pixels: 0,
        orientation: Orientation::NoTransforms,
        warnings: Vec::new(),
    };
    let mut walk = Walk { at: start, strayed: false };
    while let Some(image) = walk.next_image(reading)? {
        if outline.frames == 0 {
            width = width.max(image.place.x + image.place.width);
            height = height.max(image.place.y + image.place.height);
        }
        outline.frames += 1;
        let pixels = image.place.width as u64 * image.place.height as u64;
        outline.layer_pixels = outline.layer_pixels.saturating_add(pixels);
    }
    if walk.strayed {
        if outline.frames == 0 {
            return Err(reading.damaged("its blocks are not those of a GIF"));
        }
        let frames = outline.frames;
        outline.warnings.push(format!("what follows its first {frames} frames is not GIF data"));
    }
    if outline.frames > 0 {
        reading.limits.check(reading.path, width as u64, height as u64, 4)?;
    }
    (outline.width, outline.height) = (width, height);
    let mut walk = Walk { at: start, strayed: false };
    play(reading, outline, visit, |reading, _| match walk.next_image(reading)? {
        Some(image) => layer(reading, &image, palette.as_deref()),
        None => Err(reading.cut_off()),
    })
}

fn half(bytes: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// Colours of the table that a flag byte announces.
fn colours(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 2 << (flags & 7) }
}

/// One image block with the control block that applies to it.
struct Image {
    place: Place,
    interlaced: bool,
    /// Where the local colours begin, and how many there are.
    palette: Option<(u64, usize)>,
    /// Where the packed pixels begin.
    data: u64,
    control: Control,
}

#[derive(Clone, Copy)]
struct Control {
    dispose: Dispose,
    delay: f64,
    transparent: Option<u8>,
}

/// A place among the blocks.
struct Walk {
    at: u64,
    /// Whether something was met that is no block.
    strayed: bool,
}

impl Walk {
    /// The next image block; none at the end of the animation.
    fn next_image(&mut self, reading: &mut Reading<'_>) -> Result<Option<Image>> {
        let mut control = Control { dispose: Dispose::Keep, delay: 0.0, transparent: None };
        loop {
            let Some([kind]) = reading.peek::<1>(self.at)? else { return Ok(None) };
            match kind {
                b'!' => {
                    let label = reading.bytes(self.at + 1, 1)?[0];
                    let first = self.at + 2;
                    if label == 0xf9
                        && let Some([4..=255, flags, low, high, index]) =
                            reading.peek::<5>(first)?
                    {
                        control = Control {
                            dispose: match flags >> 2 & 7 {
                                0 | 1 => Dispose::Keep,
                                2 => Dispose::Background,
                                _ => Dispose::Previous,
                            },
                            delay: f64::from(u16::from_le_bytes([low, high])) / 100.0,
                            transparent: (flags & 1 != 0).then_some(index),
                        };
                    }
                    let (end, whole) = skip_blocks(reading, first)?;
                    if !whole {
                        return Err(reading.cut_off());
                    }
                    self.at = end;
                }
                b',' => {
                    let head = reading.bytes(self.at + 1, 9)?;
                    let place = Place {
                        x: half(&head),
                        y: half(&head[2..]),
                        width: half(&head[4..]),
                        height: half(&head[6..]),
                    };
                    let count = colours(head[8]);
                    let colours_at = self.at + 10;
                    let data = colours_at + count as u64 * 3;
                    // The code size stands in front of the blocks.
                    self.at = skip_blocks(reading, data + 1)?.0;
                    return Ok(Some(Image {
                        place,
                        interlaced: head[8] & 0x40 != 0,
                        palette: (count > 0).then_some((colours_at, count * 3)),
                        data,
                        control,
                    }));
                }
                // Some encoders pad with zeros.
                0 => self.at += 1,
                other => {
                    self.strayed = other != b';';
                    return Ok(None);
                }
            }
        }
    }
}

/// The end of a chain of blocks, and whether its end mark was there.
fn skip_blocks(reading: &mut Reading<'_>, at: u64) -> Result<(u64, bool)> {
    let mut at = at;
    loop {
        match reading.peek::<1>(at)? {
            None => return Ok((at, false)),
            Some([0]) => return Ok((at + 1, true)),
            Some([length]) => at += 1 + u64::from(length),
        }
    }
}

/// Unpacks one frame.
fn layer(reading: &mut Reading<'_>, image: &Image, palette: Option<&[u8]>) -> Result<Layer> {
    let Place { width, height, .. } = image.place;
    let local = match image.palette {
        Some((at, count)) => Some(reading.bytes(at, count)?),
        None => None,
    };
    let pixels = if width == 0 || height == 0 {
        Vec::new()
    } else {
        reading.limits.check(reading.path, width as u64, height as u64, 4)?;
        let indices = unpack(reading, image)?;
        coloured(&indices, local.as_deref().or(palette), image.control.transparent)
    };
    Ok(Layer {
        place: image.place,
        pixels: Pixels::Rgba(pixels),
        blend: Blend::Over,
        dispose: image.control.dispose,
        delay: image.control.delay,
    })
}

/// The colour indices of a frame, rows in order.
fn unpack(reading: &mut Reading<'_>, image: &Image) -> Result<Vec<u8>> {
    let Place { width, height, .. } = image.place;
    // Two codes of twelve bits for each pixel are the most that can be needed.
    let most = width * height * 3 + 1024;
    let mut packed = reading.bytes(image.data, 1)?;
    let mut at = image.data + 1;
    while let Some([length @ 1..=255]) = reading.peek::<1>(at)? {
        // A last block that the end of the file cuts may still hold all that is needed.
        let left = reading.input.length() - at - 1;
        packed.extend(reading.some(at + 1, left.min(u64::from(length)), 255)?);
        at += 1 + u64::from(length);
        if packed.len() > most {
            break;
        }
    }
    let (code_bits, packed) = (packed[0], &packed[1..]);
    if !(1..=11).contains(&code_bits) {
        return Err(reading.damaged("a frame has an impossible code size"));
    }
    let stored = reading.guard(|| pixels(code_bits, packed, width * height))?;
    let stored = stored.map_err(|error| reading.damaged(error))?;
    let stored = stored.ok_or_else(|| reading.damaged("a frame lacks some of its pixels"))?;
    Ok(if image.interlaced { ordered(&stored, width) } else { stored })
}

/// Unpacks `count` indices; none when the data hold fewer.
fn pixels(code_bits: u8, packed: &[u8], count: usize) -> Result<Option<Vec<u8>>, LzwError> {
    let mut decoder = Decoder::new(BitOrder::Lsb, code_bits);
    let mut pixels = vec![0; count];
    let (mut read, mut filled) = (0, 0);
    while filled < count {
        let step = decoder.decode_bytes(&packed[read..], &mut pixels[filled..]);
        read += step.consumed_in;
        filled += step.consumed_out;
        // The end mark may stand too early, and it may be missing.
        let ended = matches!(step.status?, LzwStatus::Done);
        if ended || step.consumed_in + step.consumed_out == 0 {
            break;
        }
    }
    Ok((filled == count).then_some(pixels))
}

/// Rows in order, from the four passes of an interlaced frame.
fn ordered(stored: &[u8], width: usize) -> Vec<u8> {
    let height = stored.len() / width;
    let passes = [(0, 8), (4, 8), (2, 4), (1, 2)];
    let order = passes.into_iter().flat_map(|(first, step)| (first..height).step_by(step));
    let mut rows = vec![0; stored.len()];
    for (row, from) in order.zip(stored.chunks_exact(width)) {
        rows[row * width..][..width].copy_from_slice(from);
    }
    rows
}

/// Indices as RGBA. Without any palette they are greys.
fn coloured(indices: &[u8], palette: Option<&[u8]>, transparent: Option<u8>) -> Vec<u8> {
    let mut table = [[0u8; 4]; 256];
    for (index, entry) in table.iter_mut().enumerate() {
        let colour = match palette {
            Some(palette) => palette.get(index * 3..index * 3 + 3),
            None => Some(&[index as u8; 3][..]),
        };
        if let Some(colour) = colour
            && transparent != Some(index as u8)
        {
            *entry = [colour[0], colour[1], colour[2], 255];
        }
    }
    indices.iter().flat_map(|index| table[usize::from(*index)]).collect()
}
