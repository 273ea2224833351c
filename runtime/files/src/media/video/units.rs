//! NAL units of H.264 samples: with lengths in front, as MP4 has them, and with start codes, as the
//! decoder wants them (ISO/IEC 14496-15 §5.3).

use std::io::{Read, Seek, SeekFrom};

/// A NAL unit with its header byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit<'a>(pub &'a [u8]);

/// A slice of a picture that may need others before it.
pub(super) const SLICE: u8 = 1;
/// A slice of a picture that needs none before it (IDR).
pub(super) const KEY_SLICE: u8 = 5;
/// A sequence parameter set.
pub(super) const SEQUENCE_SET: u8 = 7;

impl Unit<'_> {
    /// `nal_unit_type`; 0 for an empty unit.
    pub(super) fn kind(self) -> u8 {
        self.0.first().map_or(0, |byte| byte & 0x1f)
    }
}

/// The units of a sample as far as their lengths add up; the last one may be cut.
pub(super) fn units(sample: &[u8], length_bytes: usize) -> impl Iterator<Item = Unit<'_>> {
    let mut rest = sample;
    std::iter::from_fn(move || {
        let (prefix, tail) = rest.split_at_checked(length_bytes).filter(|_| length_bytes > 0)?;
        let (unit, tail) = tail.split_at(length(prefix).min(tail.len()));
        rest = tail;
        Some(Unit(unit))
    })
}

/// Units of a sample that are looked at for its kind.
const UNIT_TRIES: usize = 64;

/// Whether the sample of `size` bytes at `offset` holds a picture that needs none before it. Only
/// the headers of its units are read.
///
/// # Errors
/// Those of reading; the end of the file is none.
pub(super) fn is_key(
    file: &mut (impl Read + Seek),
    offset: u64,
    size: u64,
    length_bytes: usize,
) -> std::io::Result<bool> {
    let mut at = offset;
    for _ in 0..UNIT_TRIES {
        let mut head = [0u8; 5];
        let head = &mut head[..length_bytes.min(4) + 1];
        if at.saturating_add(head.len() as u64) > offset.saturating_add(size) {
            break;
        }
        file.seek(SeekFrom::Start(at))?;
        match file.read_exact(head) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => break,
            read => read?,
        }
        let (prefix, unit) = head.split_at(head.len() - 1);
        match Unit(unit).kind() {
            KEY_SLICE => return Ok(true),
            SLICE => break,
            _ => at = at.saturating_add((prefix.len() + length(prefix)) as u64),
        }
    }
    Ok(false)
}

/// Adds a sample in start-code form; false when the lengths do not add up.
pub(super) fn to_start_codes(sample: &[u8], length_bytes: usize, out: &mut Vec<u8>) -> bool {
    let mut rest = sample;
    while !rest.is_empty() {
        let Some((prefix, tail)) = rest.split_at_checked(length_bytes) else { return false };
        let Some((unit, tail)) = tail.split_at_checked(length(prefix)) else { return false };
        with_start_code(unit, out);
        rest = tail;
    }
    true
}

/// Adds a unit with a start code in front.
pub(super) fn with_start_code(unit: &[u8], out: &mut Vec<u8>) {
    out.extend([0, 0, 0, 1]);
    out.extend(unit);
}

fn length(prefix: &[u8]) -> usize {
    prefix.iter().fold(0usize, |value, byte| value << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nal_lengths_must_add_up() {
        let mut out = Vec::new();
        assert!(to_start_codes(&[0, 2, 7, 8, 0, 1, 9], 2, &mut out));
        assert_eq!(out, [0, 0, 0, 1, 7, 8, 0, 0, 0, 1, 9]);
        assert!(!to_start_codes(&[0, 9, 1], 2, &mut Vec::new()));
        assert!(!to_start_codes(&[0], 2, &mut Vec::new()));
        assert!(!to_start_codes(&[255; 4], 4, &mut Vec::new()));
        assert!(!to_start_codes(&[0, 1, 5, 0], 2, &mut Vec::new()));
    }

    #[test]
    fn units_are_known_by_their_kind() {
        let kinds: Vec<u8> = units(&[0, 1, 0x67, 0, 0, 0, 9, 0x65, 1], 2).map(Unit::kind).collect();
        assert_eq!(kinds, [SEQUENCE_SET, 0, KEY_SLICE]);
        assert_eq!(units(&[1, 2, 3], 0).count(), 0);
    }

    #[test]
    fn key_frames_are_known_by_the_headers_of_their_units() {
        let key = |bytes: &[u8], offset: u64, size: u64| {
            is_key(&mut std::io::Cursor::new(bytes), offset, size, 2).unwrap()
        };
        let sample = [9, 0, 2, 0x67, 1, 0, 1, 0x65];
        assert!(key(&sample, 1, 7));
        assert!(!key(&sample, 1, 6), "the slice lies behind the sample");
        assert!(!key(&sample, 100, 6), "outside of the file");
        assert!(!key(&[0, 1, 0x41, 0, 1, 0x65], 0, 6), "another slice comes first");
        assert!(!key(&[0; 600], 0, 600), "nothing but empty units");
    }
}
