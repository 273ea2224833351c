//! The coded parts of a picture: their data, and decoding them in one go.
//!
//! Tiles become one bare bitstream, a frame each, so that a grid costs one start of `ffmpeg`. What
//! comes back must be as many frames as there are parts, each of the size that the file gives; less
//! is refused, as a part is never the whole. Parts are not put together here.

use super::items::{Bytes, Extent, Item, Meta, Property};
use super::{Heif, colours};
use crate::error::Result;
use crate::media::RgbFrame;
use crate::media::color::ColourTags;
use crate::media::ffmpeg::{self, Bitstream};

impl Heif<'_> {
    /// Decodes coded images of one kind and size, all in one go.
    pub(super) fn coded(
        &mut self,
        meta: &Meta<'_>,
        ids: &[u32],
        tags: ColourTags,
        opacity: bool,
    ) -> Result<Vec<RgbFrame>> {
        let whole = ids.len() == 1;
        let (mut hevc, mut av1) = (Vec::new(), Vec::new());
        let (mut size, mut tags, mut coded) = (None, tags, 0u64);
        for id in ids {
            let Some(item) = meta.items.get(id) else {
                return Err(self.damaged("a part of it is missing"));
            };
            self.known(item)?;
            let turned = |property: &Property| {
                use Property::{Aperture, Mirror, Rotation};
                matches!(property, Aperture(_) | Mirror { .. } | Rotation(_))
            };
            if !whole && item.properties.iter().any(|(property, _)| turned(property)) {
                return Err(self.refused("its tiles are turned one by one"));
            }
            let said = super::size(item).ok_or_else(|| self.damaged("a part of it has no size"))?;
            self.options.limits.check(self.path, said.0.into(), said.1.into(), 3)?;
            if *size.get_or_insert(said) != said {
                return Err(self.refused("its tiles differ in size"));
            }
            tags = tags.or(colours(item));
            let data = self.data(meta, item)?;
            coded += data.len() as u64;
            if coded > self.length.saturating_mul(4) {
                return Err(self.refused("its tiles are the same data over and over"));
            }
            let how = item.properties.iter().find_map(|(property, _)| match property.as_ref() {
                known @ (Property::Hevc { .. } | Property::Av1(_)) => Some(known),
                _ => None,
            });
            match (&item.kind, how) {
                (b"hvc1" | b"hev1", Some(Property::Hevc { sets, length })) => {
                    hevc.extend(sets);
                    if !start_codes(&data, *length, &mut hevc) {
                        return Err(self.damaged("its coded picture is not valid HEVC"));
                    }
                }
                (b"av01", Some(Property::Av1(sequence))) => {
                    // A temporal delimiter, the sequence, the picture.
                    av1.push([&[0x12, 0], sequence.as_slice(), &data].concat());
                }
                (kind, _) => {
                    let what = format!("it is coded as `{}`", kind.escape_ascii());
                    return Err(self.refused(&what));
                }
            }
        }
        let size = size.unwrap_or_default();
        let (demuxer, bytes) = match (hevc.is_empty(), av1.is_empty()) {
            (false, true) => ("hevc", hevc),
            (true, false) => ("ivf", ivf(&av1, size)),
            _ => return Err(self.refused("its tiles are coded in different ways")),
        };
        let (count, size) = (ids.len(), (size.0 as usize, size.1 as usize));
        let stream = Bitstream { name: self.name, demuxer, bytes, count, size, tags, opacity };
        let Some((frames, warnings)) = ffmpeg::decode(self.path, &stream, self.options)? else {
            return Err(self.refused("its parts do not have the size that it gives"));
        };
        self.warnings.extend(warnings);
        if frames.len() != count {
            let what = format!("ffmpeg decodes {} of its {count} parts", frames.len());
            return Err(self.refused(&what));
        }
        Ok(frames)
    }

    /// The data of an item, pieced together.
    pub(super) fn data(&mut self, meta: &Meta<'_>, item: &Item) -> Result<Vec<u8>> {
        if item.location.elsewhere {
            return Err(self.refused("a part of it lies in another file"));
        }
        let mut data = Vec::new();
        for Extent { offset, length } in item.location.extents.clone() {
            match item.location.method {
                0 => {
                    let rest = self.length.saturating_sub(offset);
                    let length = if length == 0 { rest } else { length };
                    if data.len() as u64 + length > self.length {
                        return Err(self.damaged("its parts are larger than the file"));
                    }
                    data.extend(self.read(offset, length)?);
                }
                1 => {
                    let from = usize::try_from(offset).unwrap_or(usize::MAX);
                    let inside = meta.data.get(from..).unwrap_or_default();
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    let piece = if length == 0 { Some(inside) } else { inside.get(..length) };
                    let piece = piece.ok_or_else(|| self.damaged("a part of it is missing"))?;
                    if data.len() as u64 + piece.len() as u64 > self.length {
                        return Err(self.damaged("its parts are larger than the file"));
                    }
                    data.extend(piece);
                }
                _ => return Err(self.refused("its parts are cut out of other parts")),
            }
        }
        if data.is_empty() {
            return Err(self.damaged("a part of it is empty"));
        }
        Ok(data)
    }
}

/// Length-prefixed units as a stream with start codes; false when the lengths do not add up.
fn start_codes(data: &[u8], length: usize, out: &mut Vec<u8>) -> bool {
    let mut rest = Bytes(data);
    while !rest.0.is_empty() {
        let unit = rest.number(length).and_then(|size| rest.take(usize::try_from(size).ok()?));
        let Some(unit) = unit else { return false };
        out.extend([0, 0, 0, 1]);
        out.extend(unit);
    }
    true
}

/// AV1 frames in the simplest container that `ffmpeg` reads.
fn ivf(frames: &[Vec<u8>], (width, height): (u32, u32)) -> Vec<u8> {
    let mut out = b"DKIF\0\0\x20\0AV01".to_vec();
    out.extend((width as u16).to_le_bytes());
    out.extend((height as u16).to_le_bytes());
    for word in [25u32, 1, frames.len() as u32, 0] {
        out.extend(word.to_le_bytes());
    }
    for (time, frame) in frames.iter().enumerate() {
        out.extend((frame.len() as u32).to_le_bytes());
        out.extend((time as u64).to_le_bytes());
        out.extend(frame);
    }
    out
}
