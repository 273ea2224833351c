//! What a picture says about itself beside its pixels: which way up it is, and in which colours.
//!
//! The orientation comes from EXIF, and where EXIF has none from XMP, as Pillow does; its values
//! are applied. Colours are not converted: what is clearly unlike sRGB (wide primaries, another
//! transfer curve, HDR) gives a warning. Callers hand over bounded pieces; what cannot be
//! understood says nothing, for metadata must not cost the picture.

use ::image::metadata::Orientation;
use std::io::Read;

/// Bytes of one piece of EXIF or XMP that are looked at.
pub(super) const TEXT_BYTES: usize = 1 << 20;
/// Bytes of a colour profile that are looked at.
pub(super) const PROFILE_BYTES: usize = 4 << 20;

/// Differences of chromaticities up to this are taken for another rounding of sRGB.
const SAME_COLOUR: f64 = 0.03;

/// What has been found so far.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    exif: Option<Orientation>,
    raw_exif: Option<Orientation>,
    xmp: Option<Orientation>,
    /// `cICP`: primaries and transfer.
    coding: Option<[u8; 2]>,
    /// Whether a profile was there, and what is to be said about it.
    profile: Option<Option<String>>,
    srgb: bool,
    gamma: Option<f64>,
    wide_chromaticities: bool,
}

impl Metadata {
    /// EXIF, with or without the mark that JPEG puts in front.
    pub(super) fn add_exif(&mut self, block: &[u8]) {
        self.exif = self.exif.or(exif_orientation(block));
    }

    /// EXIF as ImageMagick writes it into text: a line, a name, a length, then hexadecimal digits.
    pub(super) fn add_raw_exif(&mut self, text: &[u8]) {
        let mut digits = text.splitn(4, |b| *b == b'\n').nth(3).unwrap_or_default().iter();
        let mut block = Vec::new();
        let mut digit = || digits.by_ref().find_map(|b| char::from(*b).to_digit(16));
        while let (Some(high), Some(low)) = (digit(), digit()) {
            block.push((high << 4 | low) as u8);
        }
        self.raw_exif = self.raw_exif.or(exif_orientation(&block));
    }

    /// An XMP packet.
    pub(super) fn add_xmp(&mut self, packet: &[u8]) {
        let mark = b"tiff:Orientation";
        let found = packet.windows(mark.len() + 3).find_map(|window| {
            let value = match window.strip_prefix(mark)? {
                [b'=', b'"', digit] => *digit,
                [b'>', digit, _] => *digit,
                _ => return None,
            };
            value.is_ascii_digit().then(|| value - b'0')
        });
        self.xmp = self.xmp.or(found.and_then(Orientation::from_exif));
    }

    /// An ICC profile, or its beginning.
    pub(super) fn add_profile(&mut self, profile: &[u8]) {
        if !profile.is_empty() {
            self.profile.get_or_insert_with(|| profile_fault(profile));
        }
    }

    /// An ICC profile, deflated.
    pub(super) fn add_deflated_profile(&mut self, deflated: &[u8]) {
        self.add_profile(&inflate(deflated, PROFILE_BYTES));
    }

    /// PNG's `cICP`.
    pub(super) fn add_coding(&mut self, chunk: &[u8]) {
        if let [primaries, transfer, _, _] = chunk {
            self.coding.get_or_insert([*primaries, *transfer]);
        }
    }

    /// PNG's `sRGB`.
    pub(super) fn add_srgb(&mut self) {
        self.srgb = true;
    }

    /// PNG's `gAMA`, in hundred-thousandths.
    pub(super) fn add_gamma(&mut self, chunk: &[u8]) {
        if let [value] = numbers(chunk)[..] {
            self.gamma.get_or_insert(value);
        }
    }

    /// PNG's `cHRM`, in hundred-thousandths.
    pub(super) fn add_chromaticities(&mut self, chunk: &[u8]) {
        const SRGB: [f64; 8] = [0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06];
        let found = numbers(chunk);
        self.wide_chromaticities |=
            found.len() == 8 && found.iter().zip(SRGB).any(|(a, b)| (a - b).abs() > SAME_COLOUR);
    }

    /// How the picture has to be turned.
    pub(super) fn orientation(&self) -> Orientation {
        self.exif.or(self.raw_exif).or(self.xmp).unwrap_or(Orientation::NoTransforms)
    }

    /// What a user should know about the colours. The most specific mark counts, as in PNG's rules.
    pub(super) fn warnings(&self) -> Vec<String> {
        let taken = "taken as sRGB";
        let found = if let Some([primaries, transfer]) = self.coding {
            match (primaries, transfer) {
                (_, 16) => Some(format!("its HDR brightness (PQ) is not tone-mapped: {taken}")),
                (_, 18) => Some(format!("its HDR brightness (HLG) is not tone-mapped: {taken}")),
                (9, _) => Some(format!("its wide colours (BT.2020) are not converted: {taken}")),
                (11 | 12, _) => Some(format!("its wide colours (P3) are not converted: {taken}")),
                (_, 8) => Some(format!("its linear brightness is not converted: {taken}")),
                _ => None,
            }
        } else if let Some(fault) = &self.profile {
            fault.as_ref().map(|name| format!("its {name} is not applied: {taken}"))
        } else if self.srgb {
            None
        } else if self.wide_chromaticities {
            Some(format!("its own primary colours (cHRM) are not converted: {taken}"))
        } else {
            let odd = self.gamma.filter(|gamma| *gamma > 0.0 && (gamma - 0.45455).abs() > 0.05);
            odd.map(|gamma| format!("its gamma of {:.2} is not applied: {taken}", 1.0 / gamma))
        };
        found.into_iter().collect()
    }
}

/// At most `most` bytes of what a zlib stream holds; damage ends it.
pub(in crate::media) fn inflate(deflated: &[u8], most: usize) -> Vec<u8> {
    let mut inflated = Vec::new();
    // What could be read before an error stays.
    let _ = flate2::read::ZlibDecoder::new(deflated).take(most as u64).read_to_end(&mut inflated);
    inflated
}

fn exif_orientation(block: &[u8]) -> Option<Orientation> {
    Orientation::from_exif_chunk(block.strip_prefix(b"Exif\0\0").unwrap_or(block))
}

/// PNG's numbers: big-endian, in hundred-thousandths.
fn numbers(chunk: &[u8]) -> Vec<f64> {
    let one = |b: &[u8]| f64::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]])) / 100_000.0;
    chunk.chunks_exact(4).map(one).collect()
}

/// What makes an ICC profile unlike sRGB, if anything does: a well-known name in its text, or its
/// primaries.
fn profile_fault(profile: &[u8]) -> Option<String> {
    let text: Vec<u8> = profile.iter().copied().filter(|b| *b != 0).collect();
    let names = ["Display P3", "Adobe RGB", "ProPhoto", "BT.2020", "Rec. 2020", "Rec2020"];
    let named = names
        .into_iter()
        .find(|name| text.windows(name.len()).any(|window| window == name.as_bytes()));
    if let Some(name) = named {
        return Some(format!("{name} colour profile"));
    }
    match profile.get(16..20)? {
        b"RGB " => wide_primaries(profile).then(|| "wide-gamut colour profile".to_string()),
        b"CMYK" => Some("CMYK colour profile".to_string()),
        _ => None,
    }
}

/// Whether the primaries of an RGB profile, which are given for the D50 white, differ from sRGB's.
fn wide_primaries(profile: &[u8]) -> bool {
    const SRGB: [(&[u8; 4], [f64; 3]); 3] = [
        (b"rXYZ", [0.4361, 0.2225, 0.0139]),
        (b"gXYZ", [0.3851, 0.7169, 0.0971]),
        (b"bXYZ", [0.1431, 0.0606, 0.7141]),
    ];
    let word = |at: usize| {
        let bytes: [u8; 4] = profile.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    };
    let tags = word(128).unwrap_or(0).min(200) as usize;
    (0..tags).any(|tag| {
        let entry = 132 + tag * 12;
        let name = profile.get(entry..entry + 4);
        let Some((_, right)) = SRGB.iter().find(|(tag, _)| name == Some(&tag[..])) else {
            return false;
        };
        let Some(at) = word(entry + 4).map(|at| at as usize) else { return false };
        (0..3).any(|axis| {
            let value = word(at.saturating_add(8 + axis * 4));
            value.is_some_and(|v| (f64::from(v as i32) / 65536.0 - right[axis]).abs() > SAME_COLOUR)
        })
    })
}
