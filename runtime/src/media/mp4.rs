//! Box-level work on MP4 files around the parsing and writing libraries.
//!
//! For reading: finds the index, tells a cut-off file from a whole one, bounds what the tables
//! claim (the parser expands them in memory) and hides tracks and boxes we never use. For writing:
//! sets an exact frame rate, which the writing library's fixed 90 kHz clock cannot always express.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Index boxes larger than this are refused.
const INDEX_LIMIT: u64 = 256 << 20;
/// More frames than a day at 40 a second.
const SAMPLE_LIMIT: u64 = 4 << 20;

/// One box inside a byte slice; offsets are into that slice.
#[derive(Clone, Copy, Debug)]
struct Atom {
    name: [u8; 4],
    start: usize,
    body: usize,
    end: usize,
}

/// The boxes of `bytes[start..end]`, as far as they are well formed.
fn children(bytes: &[u8], start: usize, end: usize) -> Vec<Atom> {
    let mut atoms = Vec::new();
    let mut at = start;
    while at + 8 <= end {
        let word = |offset: usize| -> [u8; 4] {
            bytes[at + offset..at + offset + 4].try_into().expect("four bytes are in range")
        };
        let (mut size, mut body) = (u64::from(u32::from_be_bytes(word(0))), 8);
        if size == 1 {
            if at + 16 > end {
                break;
            }
            let high = u64::from(u32::from_be_bytes(word(8)));
            size = high << 32 | u64::from(u32::from_be_bytes(word(12)));
            body = 16;
        } else if size == 0 {
            size = (end - at) as u64;
        }
        if size < body as u64 || size > (end - at) as u64 {
            break;
        }
        let next = at + size as usize;
        atoms.push(Atom { name: word(4), start: at, body: at + body, end: next });
        at = next;
    }
    atoms
}

/// The first descendant along a path of names.
fn find(bytes: &[u8], start: usize, end: usize, path: &[&[u8; 4]]) -> Option<Atom> {
    let (mut range, mut found) = ((start, end), None);
    for name in path {
        let atom = children(bytes, range.0, range.1).into_iter().find(|a| a.name == **name)?;
        range = (atom.body, atom.end);
        found = Some(atom);
    }
    found
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// What a scan of the file's top level found.
#[derive(Debug)]
pub(super) struct Scan {
    /// `ftyp` and a trimmed `moov`: only video tracks, only the boxes the parser needs. Sample
    /// offsets in it still count from the start of the real file.
    pub index: Vec<u8>,
    /// Whether the samples are described by fragments spread over the file.
    pub fragmented: bool,
    /// Where the last well-formed box says it ends; beyond the file's length when it is cut off.
    pub end: u64,
    /// Tracks in the file and how many of them are video.
    pub tracks: (usize, usize),
}

/// Reads the top level of an MP4 file.
///
/// # Errors
/// `E0808` when the index is missing, cut off or absurd; `E0801` when the file cannot be read.
pub(super) fn scan(path: &Path, file: &mut File, length: u64) -> Result<Scan> {
    let unreadable = |e| super::unreadable(path, e);
    let broken = |what: String, help: &str| {
        Error::input("E0808", what).at(path.display()).help(help.to_string())
    };
    let again = "the recording or download did not finish; fetch or export it again";
    let (mut at, mut end, mut samples) = (0u64, 0u64, 0u64);
    let (mut index, mut fragmented, mut tracks) = (None, false, (0, 0));
    while at + 8 <= length {
        let mut header = [0u8; 16];
        file.seek(SeekFrom::Start(at)).map_err(unreadable)?;
        file.read_exact(&mut header[..8]).map_err(unreadable)?;
        let mut size = u64::from(word(&header, 0).unwrap_or(0));
        let name: [u8; 4] = header[4..8].try_into().expect("four bytes");
        let mut body = 8;
        if size == 1 && at + 16 <= length {
            file.read_exact(&mut header[8..]).map_err(unreadable)?;
            size = u64::from_be_bytes(header[8..].try_into().expect("eight bytes"));
            body = 16;
        } else if size == 0 {
            size = length - at;
        }
        // Rubbish after the last box does not matter once the index is known.
        if size < body || !name.iter().all(|b| (0x20..0x7f).contains(b) || *b == 0xa9) {
            break;
        }
        let next = at.saturating_add(size);
        if &name == b"moov" || &name == b"moof" {
            if next > length {
                let what = "the file is cut off inside its index";
                return Err(broken(what.to_string(), again));
            }
            if size > INDEX_LIMIT {
                let what = format!("the file's index claims {} MiB", size >> 20);
                return Err(broken(what, "the file is damaged; export it again"));
            }
            let mut bytes = vec![0; size as usize];
            file.seek(SeekFrom::Start(at)).map_err(unreadable)?;
            file.read_exact(&mut bytes).map_err(unreadable)?;
            let is_index = &name == b"moov";
            if is_index {
                tracks = trim(&mut bytes);
                index.get_or_insert_with(|| {
                    let mut whole = b"\0\0\0\x14ftypisom\0\0\x02\0isom".to_vec();
                    whole.extend(&bytes);
                    whole
                });
            } else {
                fragmented = true;
            }
            samples = samples.saturating_add(claimed_samples(&bytes));
            if samples > SAMPLE_LIMIT.min(length) {
                let what = format!("the file's index claims {samples} frames or more");
                return Err(broken(what, "the file is damaged; export it again"));
            }
        }
        end = next;
        at = next;
    }
    let Some(index) = index else {
        let what = "the file has no index (`moov`), so its frames cannot be found";
        return Err(broken(what.to_string(), again));
    };
    Ok(Scan { index, fragmented, end, tracks })
}

/// Renames every box that the parser may stumble over and we never use; counts tracks and video
/// tracks.
fn trim(moov: &mut [u8]) -> (usize, usize) {
    let Some(top) = children(moov, 0, moov.len()).first().copied() else { return (0, 0) };
    let (mut tracks, mut videos, mut hide) = (0, 0, Vec::new());
    for atom in children(moov, top.body, top.end) {
        match &atom.name {
            b"trak" => {
                tracks += 1;
                let handler = find(moov, atom.body, atom.end, &[b"mdia", b"hdlr"]);
                let kind = handler.and_then(|h| moov.get(h.body + 8..h.body + 12));
                if kind != Some(b"vide") {
                    hide.push(atom.start);
                    continue;
                }
                videos += 1;
                let inside = children(moov, atom.body, atom.end);
                hide.extend(
                    inside
                        .iter()
                        .filter(|a| !matches!(&a.name, b"tkhd" | b"mdia"))
                        .map(|a| a.start),
                );
            }
            b"mvhd" | b"mvex" => {}
            _ => hide.push(atom.start),
        }
    }
    for start in hide {
        moov[start + 4..start + 8].copy_from_slice(b"free");
    }
    (tracks, videos)
}

/// How many samples the tables of a `moov` or `moof` box claim.
fn claimed_samples(bytes: &[u8]) -> u64 {
    let (mut total, mut stack) = (0u64, vec![(0, bytes.len())]);
    while let Some((start, end)) = stack.pop() {
        for atom in children(bytes, start, end) {
            let count = match &atom.name {
                b"moov" | b"trak" | b"mdia" | b"minf" | b"stbl" | b"moof" | b"traf" => {
                    stack.push((atom.body, atom.end));
                    None
                }
                b"stsz" => word(bytes, atom.body + 8),
                b"trun" => word(bytes, atom.body + 4),
                _ => None,
            };
            total = total.saturating_add(u64::from(count.unwrap_or(0)));
        }
    }
    total
}

/// Sets the clock of the single video track that the writing library made: `timescale` ticks a
/// second and `delta` ticks a frame. The frames must have been written `delta` ticks apart.
///
/// # Errors
/// `E0824` when the boxes are not where the library puts them (a broken invariant).
pub(super) fn set_rate(file: &mut [u8], timescale: u32, delta: u32, frames: u32) -> Result<()> {
    let media = u64::from(delta) * u64::from(frames);
    let movie = media * 1000 / u64::from(timescale);
    let patches = || -> Option<Vec<(usize, u32)>> {
        let media = u32::try_from(media).ok()?;
        let movie = u32::try_from(movie).ok()?;
        let at = |path: &[&[u8; 4]]| -> Option<usize> {
            let atom = find(file, 0, file.len(), path)?;
            // Version 0 layouts only; the library takes version 1 beyond 2^32 ticks.
            (file.get(atom.body) == Some(&0)).then_some(atom.body)
        };
        let mvhd = at(&[b"moov", b"mvhd"])?;
        let tkhd = at(&[b"moov", b"trak", b"tkhd"])?;
        let mdhd = at(&[b"moov", b"trak", b"mdia", b"mdhd"])?;
        let stts = at(&[b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"])?;
        // One run of equal durations, or the frames were not equally spaced.
        let even = word(file, stts + 4)? == 1 && word(file, stts + 8)? == frames;
        let movie_clock = word(file, mvhd + 12)? == 1000;
        (even && movie_clock).then(|| {
            vec![
                (mvhd + 16, movie),
                (tkhd + 20, movie),
                (mdhd + 12, timescale),
                (mdhd + 16, media),
                (stts + 12, delta),
            ]
        })
    };
    let Some(patches) = patches() else {
        return Err(Error::internal("E0824", "the MP4 index is not laid out as expected"));
    };
    for (at, value) in patches {
        let Some(place) = file.get_mut(at..at + 4) else {
            return Err(Error::internal("E0824", "the MP4 index is shorter than expected"));
        };
        place.copy_from_slice(&value.to_be_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atom(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut out = (body.len() as u32 + 8).to_be_bytes().to_vec();
        out.extend(name);
        out.extend(body);
        out
    }

    #[test]
    fn sound_tracks_are_hidden_and_counted() {
        let track = |kind: &[u8; 4]| {
            let handler = [&[0; 8][..], kind, &[0; 13]].concat();
            atom(b"trak", &[atom(b"edts", &[]), atom(b"mdia", &atom(b"hdlr", &handler))].concat())
        };
        let mut moov =
            atom(b"moov", &[track(b"soun"), track(b"vide"), atom(b"udta", &[1, 2])].concat());
        assert_eq!(trim(&mut moov), (2, 1));
        let names: Vec<[u8; 4]> = children(&moov, 8, moov.len()).iter().map(|a| a.name).collect();
        assert_eq!(names, [*b"free", *b"trak", *b"free"]);
        let inside = find(&moov, 8, moov.len(), &[b"trak"]).unwrap();
        assert_eq!(children(&moov, inside.body, inside.end)[0].name, *b"free");
    }

    #[test]
    fn claims_are_summed_and_malformed_boxes_end_the_walk() {
        let stsz = atom(b"stsz", &[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 1, 0]);
        let stbl = atom(b"stbl", &stsz);
        let moov = atom(b"moov", &atom(b"trak", &atom(b"mdia", &atom(b"minf", &stbl))));
        assert_eq!(claimed_samples(&moov), 256);
        let mut bad = moov.clone();
        bad[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(claimed_samples(&bad), 0);
        assert!(children(&[0, 0, 0, 3, 1, 2, 3, 4], 0, 8).is_empty());
    }
}
