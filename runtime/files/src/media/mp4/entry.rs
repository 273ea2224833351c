//! Sample descriptions: how the frames of a video track are coded and shown, as the container has
//! it (ISO/IEC 14496-12 §12.1, 14496-15 `avcC`, QuickTime's `colr` and `fiel`).
//!
//! A track may have several, and each frame names its own. What the stream itself says of the same
//! things is read elsewhere; which wins is the reader's decision.

use super::boxes::{Atom, children, word};
use crate::media::color::ColourTags;
use crate::media::display::Crop;

/// More descriptions than this are refused; joined clips have one a piece.
const DESCRIPTION_LIMIT: usize = 1024;

/// The decoder configuration of an H.264 track.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::media) struct AvcConfig {
    /// Bytes of the length before every NAL unit.
    pub length_bytes: usize,
    /// Sequence parameter sets; none where they travel with the frames.
    pub sequence_sets: Vec<Vec<u8>>,
    /// Picture parameter sets.
    pub picture_sets: Vec<Vec<u8>>,
}

/// A sample description of a video track.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::media) struct Description {
    /// Its four letters.
    pub codec: [u8; 4],
    /// Stored width and height in pixels, as the container has them.
    pub size: (u16, u16),
    /// Present for H.264.
    pub avc: Option<AvcConfig>,
    /// `pasp`: width and height of a pixel; zeros say nothing.
    pub pixel_aspect: Option<(u32, u32)>,
    /// `colr`: all unspecified without the box.
    pub tags: ColourTags,
    /// `clap`: the part of the picture that is to be shown.
    pub aperture: Option<Crop>,
    /// `fiel`: whether frames are made of two fields.
    pub fields: bool,
}

/// The descriptions of an `stsd` box; none when it has none or absurdly many.
pub(super) fn parse_descriptions(moov: &[u8], stsd: Atom) -> Option<Vec<Description>> {
    let entries = children(moov, stsd.body + 8, stsd.end);
    if entries.is_empty() || entries.len() > DESCRIPTION_LIMIT {
        return None;
    }
    Some(entries.iter().map(|entry| parse_entry(moov, *entry)).collect())
}

fn parse_entry(moov: &[u8], entry: Atom) -> Description {
    let side = |at: usize| word(moov, entry.body + at).unwrap_or(0);
    // Two 16-bit fields after 24 bytes of what does not matter.
    let size = ((side(24) >> 16) as u16, (side(24) & 0xffff) as u16);
    let mut description = Description { codec: entry.name, size, ..Description::default() };
    for part in children(moov, entry.body + 78, entry.end) {
        let body = moov.get(part.body..part.end).unwrap_or_default();
        match &part.name {
            b"avcC" if matches!(&entry.name, b"avc1" | b"avc3") => {
                description.avc = description.avc.or_else(|| parse_avc(body));
            }
            b"pasp" => description.pixel_aspect = word(body, 0).zip(word(body, 4)),
            b"colr" => description.tags = parse_colour(body).unwrap_or(description.tags),
            b"clap" => description.aperture = parse_aperture(body, size),
            b"fiel" => description.fields = body.first() == Some(&2),
            _ => {}
        }
    }
    description
}

fn parse_avc(body: &[u8]) -> Option<AvcConfig> {
    let (sequence_sets, rest) = parse_sets(body.get(5)? & 0x1f, body.get(6..)?)?;
    let (count, rest) = rest.split_first()?;
    let (picture_sets, _) = parse_sets(*count, rest)?;
    Some(AvcConfig { length_bytes: usize::from(body[4] & 3) + 1, sequence_sets, picture_sets })
}

/// Parameter sets with 16-bit lengths, and what follows them.
fn parse_sets(count: u8, mut rest: &[u8]) -> Option<(Vec<Vec<u8>>, &[u8])> {
    let mut sets = Vec::new();
    for _ in 0..count {
        let (length, tail) = rest.split_at_checked(2)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let (set, tail) = tail.split_at_checked(length)?;
        sets.push(set.to_vec());
        rest = tail;
    }
    Some((sets, rest))
}

/// `nclx` of MP4 and `nclc` of QuickTime; none for colour profiles, which are not applied.
fn parse_colour(body: &[u8]) -> Option<ColourTags> {
    let code = |at: usize| -> Option<u8> {
        let value = u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]);
        // Codes fit a byte; others, and those that are reserved, say nothing.
        Some(u8::try_from(value).ok().filter(|v| !matches!(v, 3 | 255)).unwrap_or(2))
    };
    let full_range = match body.get(..4)? {
        b"nclx" => Some(body.get(10)? & 0x80 != 0),
        b"nclc" => None,
        _ => return None,
    };
    Some(ColourTags { primaries: code(4)?, transfer: code(6)?, matrix: code(8)?, full_range })
}

/// The aperture in whole pixels; none when it is empty, or no smaller than the picture.
fn parse_aperture(body: &[u8], (width, height): (u16, u16)) -> Option<Crop> {
    let ratio = |at: usize, signed: bool| -> Option<f64> {
        let (over, under) = (word(body, at)?, word(body, at + 4)?);
        let over = if signed { f64::from(over.cast_signed()) } else { f64::from(over) };
        (under != 0).then(|| over / f64::from(under.cast_signed()))
    };
    // The centre of the aperture lies `offset` from that of the picture.
    let side = |full: u16, size: f64, offset: f64| -> Option<(usize, usize)> {
        let full = f64::from(full);
        let start = ((full - size) / 2.0 + offset).floor().max(0.0);
        let size = size.round().min(full - start);
        (size >= 1.0).then_some((start as usize, size as usize))
    };
    let (left, wide) = side(width, ratio(0, false)?, ratio(16, true)?)?;
    let (top, high) = side(height, ratio(8, false)?, ratio(24, true)?)?;
    let whole = (wide, high) == (usize::from(width), usize::from(height));
    (!whole).then_some(Crop { left, top, width: wide, height: high })
}

#[cfg(test)]
mod tests {
    use super::super::boxes::testing::{atom, words};
    use super::*;

    fn entry(parts: &[Vec<u8>]) -> Description {
        let mut fields = vec![0u8; 78];
        fields[24..28].copy_from_slice(&[0, 64, 0, 48]);
        let bytes = atom(b"avc1", &[fields, parts.concat()].concat());
        let stsd = [words(&[0, 1]), bytes].concat();
        let all = Atom { name: *b"stsd", body: 0, end: stsd.len() };
        parse_descriptions(&stsd, all).unwrap().remove(0)
    }

    #[test]
    fn what_the_container_says_of_pictures_is_read() {
        let nclx = [b"nclx".to_vec(), vec![0, 9, 0, 18, 0, 9, 0x80]].concat();
        let found = entry(&[
            atom(b"pasp", &words(&[4, 3])),
            atom(b"colr", &nclx),
            atom(b"clap", &words(&[95, 2, 33, 1, 1, 2, -1i32 as u32, 2])),
            atom(b"fiel", &[2, 1]),
        ]);
        assert_eq!((found.size, found.pixel_aspect, found.fields), ((64, 48), Some((4, 3)), true));
        let tags = ColourTags { primaries: 9, transfer: 18, matrix: 9, full_range: Some(true) };
        assert_eq!(found.tags, tags);
        // 47.5 wide and half a pixel right of the middle; 33 high and half a pixel up.
        let aperture = Crop { left: 8, top: 7, width: 48, height: 33 };
        assert_eq!(found.aperture, Some(aperture));
        let nclc = [b"nclc".to_vec(), vec![0, 1, 0, 1, 0, 1]].concat();
        let found = entry(&[atom(b"colr", &nclc)]);
        assert_eq!((found.tags.matrix, found.tags.full_range), (1, None));
        let reserved = [b"nclc".to_vec(), vec![9, 1, 0, 3, 0, 255]].concat();
        assert_eq!(entry(&[atom(b"colr", &reserved)]).tags, ColourTags::default());
    }

    #[test]
    fn nonsense_says_nothing() {
        let aperture = |values: [u32; 8]| entry(&[atom(b"clap", &words(&values))]).aperture;
        assert_eq!(aperture([64, 1, 48, 1, 0, 1, 0, 1]), None); // the whole picture
        assert_eq!(aperture([0, 1, 48, 1, 0, 1, 0, 1]), None);
        assert_eq!(aperture([64, 0, 48, 1, 0, 1, 0, 1]), None);
        assert_eq!(aperture([9, 1, 9, 1, 9999, 1, 0, 1]), None);
        let outside = aperture([u32::MAX, 1, 20, 1, 0, 1, 0, 1]).unwrap();
        assert_eq!((outside.left, outside.width, outside.height), (0, 64, 20));
        let cut = entry(&[atom(b"colr", b"nclx\0\x01"), atom(b"pasp", &[1]), atom(b"fiel", &[])]);
        assert_eq!(cut, Description { codec: *b"avc1", size: (64, 48), ..Description::default() });
        assert!(parse_avc(&[1, 66, 0, 30, 3, 1, 0, 200, 9]).is_none());
        let empty = Atom { name: *b"stsd", body: 0, end: 8 };
        assert!(parse_descriptions(&[0; 8], empty).is_none());
    }
}
