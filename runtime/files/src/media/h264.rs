//! Reads an H.264 sequence parameter set: size, sample format and colour signalling.
//!
//! Only what decides how to decode and show a stream (ITU-T H.264 §7.3.2.1.1 and Annex E);
//! slices are the decoder's business.

use super::color::{ColourTags, Matrix};
use crate::error::{Error, Kind, Result};

/// The part of a sequence parameter set that we act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceParameters {
    /// `profile_idc`: 66 Baseline, 77 Main, 100 High, 110 High 10, …
    pub profile: u8,
    /// `chroma_format_idc`: 0 grey, 1 is 4:2:0, 2 is 4:2:2, 3 is 4:4:4.
    pub chroma_format: u32,
    /// Bits per sample, the larger of luma and chroma.
    pub bit_depth: u32,
    /// Whether pictures may be coded as fields.
    pub interlaced: bool,
    /// Width after cropping.
    pub width: u32,
    /// Height after cropping.
    pub height: u32,
    /// Shape of a pixel, when signalled.
    pub pixel_aspect: Option<(u16, u16)>,
    /// `video_full_range_flag`, when the stream says what kind of signal it is.
    pub full_range: Option<bool>,
    /// `colour_primaries`, `transfer_characteristics` and `matrix_coefficients`, when signalled.
    pub colour: Option<[u8; 3]>,
}

impl SequenceParameters {
    /// Parses a NAL unit of type 7 (header byte included, start code not); none if it is not one
    /// or ends early.
    pub fn parse(nal: &[u8]) -> Option<Self> {
        if nal.first()? & 0x1f != 7 {
            return None;
        }
        let payload = unescape(&nal[1..]);
        let mut bits = Bits { bytes: &payload, at: 0 };
        let profile = bits.read(8)? as u8;
        bits.read(16)?; // constraint flags and level
        bits.unsigned()?; // seq_parameter_set_id
        let (mut chroma_format, mut bit_depth, mut separate) = (1, 8, false);
        if [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135].contains(&profile) {
            chroma_format = bits.unsigned()?;
            separate = chroma_format == 3 && bits.flag()?;
            bit_depth = bits.unsigned()?.max(bits.unsigned()?).saturating_add(8);
            bits.flag()?; // lossless bypass
            if bits.flag()? {
                for list in 0..if chroma_format == 3 { 12 } else { 8 } {
                    if bits.flag()? {
                        skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.unsigned()?; // log2_max_frame_num
        match bits.unsigned()? {
            0 => {
                bits.unsigned()?;
            }
            1 => {
                bits.flag()?;
                bits.unsigned()?;
                bits.unsigned()?;
                // At most 255 by the standard; a hostile count ends at the end of the data.
                for _ in 0..bits.unsigned()?.min(255) {
                    bits.unsigned()?;
                }
            }
            _ => {}
        }
        bits.unsigned()?; // max_num_ref_frames
        bits.flag()?; // gaps_in_frame_num
        let columns = bits.unsigned()?.checked_add(1)?;
        let rows = bits.unsigned()?.checked_add(1)?;
        let interlaced = !bits.flag()?;
        if interlaced {
            bits.flag()?; // mb_adaptive_frame_field
        }
        bits.flag()?; // direct_8x8_inference
        let field_factor = if interlaced { 2 } else { 1 };
        let (mut width, mut height) =
            (columns.checked_mul(16)?, rows.checked_mul(16)?.checked_mul(field_factor)?);
        if bits.flag()? {
            let format = if separate { 0 } else { chroma_format };
            let across = if matches!(format, 1 | 2) { 2 } else { 1 };
            let down = if format == 1 { 2 } else { 1 } * field_factor;
            let [left, right, top, bottom] =
                [bits.unsigned()?, bits.unsigned()?, bits.unsigned()?, bits.unsigned()?];
            width = width.checked_sub(left.checked_add(right)?.checked_mul(across)?)?;
            height = height.checked_sub(top.checked_add(bottom)?.checked_mul(down)?)?;
        }
        let mut parameters = Self {
            profile,
            chroma_format,
            bit_depth,
            interlaced,
            width,
            height,
            pixel_aspect: None,
            full_range: None,
            colour: None,
        };
        if bits.flag()? {
            // A cut-off description of usability loses the colour tag only.
            let _ = parameters.read_usability(&mut bits);
        }
        Some(parameters)
    }

    fn read_usability(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        if bits.flag()? {
            let code = bits.read(8)?;
            self.pixel_aspect = if code == 255 {
                Some((bits.read(16)? as u16, bits.read(16)? as u16))
            } else {
                // ITU-T H.264 table E-1.
                const SHAPES: [(u16, u16); 16] = [
                    (1, 1),
                    (12, 11),
                    (10, 11),
                    (16, 11),
                    (40, 33),
                    (24, 11),
                    (20, 11),
                    (32, 11),
                    (80, 33),
                    (18, 11),
                    (15, 11),
                    (64, 33),
                    (160, 99),
                    (4, 3),
                    (3, 2),
                    (2, 1),
                ];
                (code as usize).checked_sub(1).and_then(|i| SHAPES.get(i)).copied()
            };
        }
        if bits.flag()? {
            bits.flag()?; // overscan_appropriate
        }
        if bits.flag()? {
            bits.read(3)?; // video_format
            self.full_range = Some(bits.flag()?);
            if bits.flag()? {
                self.colour = Some([bits.read(8)?, bits.read(8)?, bits.read(8)?].map(|v| v as u8));
            }
        }
        Some(())
    }

    /// The colours of the stream in a container that says `container` of them. What the stream says
    /// wins, and a description counts as a whole even where it says "unspecified", as in ffmpeg.
    pub fn tags(&self, container: ColourTags) -> ColourTags {
        let mut tags = container;
        if let Some([primaries, transfer, matrix]) = self.colour {
            tags = ColourTags { primaries, transfer, matrix, ..tags };
        } else if Matrix::from_code(tags.matrix).is_none() {
            // RGB and the like: nothing that a container could know better than a silent stream.
            tags.matrix = 2;
        }
        tags.full_range = self.full_range.or(container.full_range);
        tags
    }

    /// What the built-in decoder cannot do with this stream, in words; none when it can decode it.
    pub fn obstacle(&self) -> Option<String> {
        if self.bit_depth > 8 {
            Some(format!("H.264 with {} bits a sample", self.bit_depth))
        } else if self.chroma_format != 1 {
            let name = ["without colour (4:0:0)", "4:2:0", "4:2:2", "4:4:4"];
            let name = name.get(self.chroma_format as usize).unwrap_or(&"of an unknown kind");
            Some(format!("H.264 {name}"))
        } else if self.interlaced {
            Some("interlaced H.264".to_string())
        } else if self.colour.is_some_and(|[_, _, matrix]| Matrix::from_code(matrix).is_none()) {
            Some("H.264 with RGB or YCgCo samples".to_string())
        } else {
            None
        }
    }
}

/// Removes the emulation-prevention bytes: 00 00 03 stands for 00 00.
fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut zeros = 0;
    for byte in bytes {
        if zeros >= 2 && *byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
        out.push(*byte);
    }
    out
}

fn skip_scaling_list(bits: &mut Bits<'_>, size: usize) -> Option<()> {
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..size {
        if next != 0 {
            let code = i64::from(bits.unsigned()?);
            let delta = if code % 2 == 1 { (code + 1) / 2 } else { -(code / 2) };
            next = (last + delta).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

/// Big-endian bit reader.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn flag(&mut self) -> Option<bool> {
        let byte = *self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    fn read(&mut self, count: usize) -> Option<u32> {
        (0..count).try_fold(0, |value, _| Some(value << 1 | u32::from(self.flag()?)))
    }

    /// Exp-Golomb code `ue(v)`.
    fn unsigned(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1u32 << zeros) - 1 + self.read(zeros)?)
    }
}

/// Pixels of the largest frame that the codec takes (level 5.2: 36,864 blocks of 16x16).
const LARGEST_FRAME: u64 = 36_864 * 256;
/// Pixels of all references of a stream (level 5.2: 184,320 blocks).
const REFERENCES: u64 = 184_320 * 256;
/// Most references, and frames on their way in and out beside them.
const FRAMES: [u64; 2] = [16, 4];
/// What the codec takes beside frames.
const CODEC_BYTES: u64 = 24 << 20;

/// The error of a decoder or encoder that there is no memory for.
pub(super) fn no_codec_memory() -> Error {
    Error::new(Kind::Budget, "E0603", "there is no memory for the H.264 codec")
        .help("free memory, or raise the limit (`ulimit -v`)")
}

/// Whether there is room for a decoder or encoder of frames of so many pixels.
///
/// The codec does not survive a refused allocation (it writes through a null pointer), so room for
/// all that it may ask for is asked for first, and left to it.
///
/// # Errors
/// `E0603` where there is none.
pub(super) fn codec_room(pixels: u64) -> Result<()> {
    let pixels = pixels.min(LARGEST_FRAME);
    let held = (pixels * FRAMES[0]).min(REFERENCES) + pixels * FRAMES[1];
    // Three bytes for two pixels of YUV, with margins around the picture.
    let bytes = 2 * held + CODEC_BYTES;
    let room = usize::try_from(bytes).ok().and_then(anyid_ir::memory::room::<u8>);
    room.map(drop).ok_or_else(no_codec_memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes bits, so that the tests state fields rather than bytes.
    #[derive(Default)]
    struct Writer(Vec<bool>);

    impl Writer {
        fn bits(&mut self, value: u32, count: u32) -> &mut Self {
            self.0.extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
            self
        }
        fn ue(&mut self, value: u32) -> &mut Self {
            let length = 32 - (value + 1).leading_zeros();
            self.bits(0, length - 1).bits(value + 1, length)
        }
        fn nal(&self) -> Vec<u8> {
            let mut bits = self.0.clone();
            bits.push(true);
            bits.resize(bits.len().div_ceil(8) * 8, false);
            let byte = |b: &[bool]| b.iter().fold(0, |v, bit| v << 1 | u8::from(*bit));
            let mut out = vec![0x67];
            let mut zeros = 0;
            for value in bits.chunks(8).map(byte) {
                if zeros >= 2 && value <= 3 {
                    out.push(3);
                    zeros = 0;
                }
                zeros = if value == 0 { zeros + 1 } else { 0 };
                out.push(value);
            }
            out
        }
    }

    #[test]
    fn reads_size_cropping_and_colour() {
        let mut w = Writer::default();
        w.bits(77, 8).bits(0, 16).ue(0).ue(0).ue(0).ue(2).ue(1).bits(0, 1);
        w.ue(119).ue(67).bits(1, 1).bits(1, 1); // 1920x1088, progressive
        w.bits(1, 1).ue(0).ue(0).ue(0).ue(4); // crop 8 lines
        w.bits(1, 1); // usability
        w.bits(1, 1).bits(255, 8).bits(4, 16).bits(3, 16);
        w.bits(0, 1).bits(1, 1).bits(5, 3).bits(1, 1).bits(1, 1).bits(1, 8).bits(1, 8).bits(1, 8);
        let sps = SequenceParameters::parse(&w.nal()).unwrap();
        assert_eq!((sps.width, sps.height), (1920, 1080));
        assert_eq!(sps.pixel_aspect, Some((4, 3)));
        assert_eq!((sps.colour, sps.full_range), (Some([1; 3]), Some(true)));
        assert_eq!(sps.obstacle(), None);
    }

    #[test]
    fn the_stream_wins_over_its_container() {
        let mut w = Writer::default();
        w.bits(66, 8).bits(0, 16).ue(0).ue(0).ue(2).ue(1).bits(0, 1).ue(9).ue(7).bits(0b1100, 4);
        let silent = SequenceParameters::parse(&w.nal()).unwrap();
        let boxed = ColourTags { primaries: 9, transfer: 18, matrix: 9, full_range: Some(true) };
        assert_eq!(silent.tags(boxed), boxed);
        assert_eq!(
            silent.tags(ColourTags { matrix: 0, ..boxed }),
            ColourTags { matrix: 2, ..boxed }
        );
        let unsaid = SequenceParameters { colour: Some([2; 3]), full_range: Some(false), ..silent };
        let expected = ColourTags { full_range: Some(false), ..ColourTags::default() };
        assert_eq!(unsaid.tags(boxed), expected);
        let ranged = SequenceParameters { full_range: Some(false), ..silent };
        assert_eq!(ranged.tags(boxed), ColourTags { full_range: Some(false), ..boxed });
    }

    #[test]
    fn names_what_cannot_be_decoded() {
        let mut w = Writer::default();
        w.bits(110, 8).bits(0, 16).ue(0).ue(1).ue(2).ue(2).bits(0, 1).bits(0, 1);
        w.ue(0).ue(2).ue(1).bits(0, 1).ue(10).ue(8).bits(1, 1).bits(1, 1).bits(0, 1).bits(0, 1);
        let sps = SequenceParameters::parse(&w.nal()).unwrap();
        assert_eq!(sps.obstacle().unwrap(), "H.264 with 10 bits a sample");
    }

    #[test]
    fn cut_or_foreign_data_gives_none() {
        let mut w = Writer::default();
        w.bits(66, 8).bits(0, 16).ue(0).ue(0).ue(2).ue(1).bits(0, 1).ue(9).ue(7).bits(7, 3);
        let nal = w.nal();
        for length in 0..nal.len() - 2 {
            assert_eq!(SequenceParameters::parse(&nal[..length]), None);
        }
        assert_eq!(SequenceParameters::parse(&[0x68, 1, 2, 3]), None);
        assert_eq!(SequenceParameters::parse(&[0x67, 66, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
