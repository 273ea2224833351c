//! The way up of pictures that `ffmpeg` decodes, and turning them.
//!
//! A TIFF says it in its first directory. Whether `ffmpeg` looks there depends on its version, so it
//! is told not to, and we do. Pictures that we decode ourselves are turned where they are decoded.

use super::RgbFrame;
use ::image::metadata::Orientation;
use ::image::{DynamicImage, RgbImage};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The tag of a directory entry that holds the orientation.
const ORIENTATION: u16 = 274;

/// What the file says, for kinds that say it outside of the pixels' own coding.
pub(super) fn read(path: &Path, demuxer: &str) -> Option<Orientation> {
    match demuxer {
        "tiff_pipe" => tiff(&mut File::open(path).ok()?),
        _ => None,
    }
}

fn tiff(file: &mut (impl Read + Seek)) -> Option<Orientation> {
    let mut head = [0; 8];
    file.read_exact(&mut head).ok()?;
    let little = match &head[..4] {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |b: &[u8]| match little {
        true => u16::from_le_bytes([b[0], b[1]]),
        false => u16::from_be_bytes([b[0], b[1]]),
    };
    let start = match little {
        true => u32::from_le_bytes([head[4], head[5], head[6], head[7]]),
        false => u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
    };
    file.seek(SeekFrom::Start(u64::from(start))).ok()?;
    let mut count = [0; 2];
    file.read_exact(&mut count).ok()?;
    let mut entries = Vec::new();
    file.take(u64::from(short(&count)) * 12).read_to_end(&mut entries).ok()?;
    let entry = entries.chunks_exact(12).find(|entry| short(entry) == ORIENTATION)?;
    Orientation::from_exif(u8::try_from(short(&entry[8..])).ok()?)
}

/// The picture the right way up.
pub(super) fn apply(frame: RgbFrame, orientation: Orientation) -> RgbFrame {
    let (width, height) = (frame.width, frame.height);
    let Some(picture) = RgbImage::from_raw(width as u32, height as u32, frame.data) else {
        // A frame always holds as many bytes as its size says.
        return RgbFrame { width, height, data: Vec::new() };
    };
    let mut picture = DynamicImage::ImageRgb8(picture);
    picture.apply_orientation(orientation);
    let picture = picture.into_rgb8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    RgbFrame { width, height, data: picture.into_raw() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn directory(little: bool, entries: &[(u16, u16)]) -> Vec<u8> {
        let short = |v: u16| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let long = |v: u32| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let mut bytes = if little { b"II*\0".to_vec() } else { b"MM\0*".to_vec() };
        bytes.extend(long(8));
        bytes.extend(short(entries.len() as u16));
        for (tag, value) in entries {
            bytes.extend(short(*tag));
            bytes.extend(short(3));
            bytes.extend(long(1));
            bytes.extend(short(*value));
            bytes.extend([0; 2]);
        }
        bytes
    }

    #[test]
    fn both_orders_of_bytes_are_read() {
        for little in [true, false] {
            let file = directory(little, &[(256, 9), (274, 6), (282, 1)]);
            assert_eq!(tiff(&mut Cursor::new(&file)), Some(Orientation::Rotate90));
            for end in 0..file.len() {
                let _ = tiff(&mut Cursor::new(&file[..end]));
            }
            let without = directory(little, &[(256, 9)]);
            assert_eq!(tiff(&mut Cursor::new(without)), None);
            let absurd = directory(little, &[(274, 999)]);
            assert_eq!(tiff(&mut Cursor::new(absurd)), None);
        }
    }

    #[test]
    fn a_quarter_turn_swaps_the_sides() {
        let frame = RgbFrame { width: 2, height: 1, data: vec![1, 1, 1, 2, 2, 2] };
        let turned = apply(frame, Orientation::Rotate90);
        assert_eq!((turned.width, turned.height, turned.data), (1, 2, vec![1, 1, 1, 2, 2, 2]));
    }
}
