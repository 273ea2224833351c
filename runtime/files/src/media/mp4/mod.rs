//! The index of MP4 and MOV files.
//!
//! Reads what deciding about and decoding one H.264 track needs (ISO/IEC 14496-12, 14496-15,
//! QuickTime's relatives): sample descriptions (`entry.rs`), sample tables (`samples.rs`),
//! fragments (`fragments.rs`), edit lists (`edits.rs`), and how movie and track are turned. From
//! hostile files too: every table is bounded by its box, nothing recurses, and no box is trusted to
//! move the reader on. Sound and encryption are not read. Writing is the muxing library's work; its fixed
//! clock is corrected in `rate.rs`.

pub(super) mod boxes;
mod edits;
mod entry;
mod fragments;
mod rate;
mod samples;

pub(super) use edits::{Shown, Timeline};
pub(super) use entry::Description;
pub(super) use rate::set_rate;

use crate::error::{Error, Result};
use boxes::{Atom, children, find, long, word};
use edits::{Clocks, Edit};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Index boxes together larger than this are refused.
const INDEX_LIMIT: u64 = 256 << 20;
/// More frames than a day at 40 a second.
pub(super) const SAMPLE_LIMIT: usize = 4 << 20;

/// More video tracks than this are refused.
const TRACK_LIMIT: usize = 16;

/// A compressed frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Where it starts in the file.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
    /// Presentation time in ticks, from an arbitrary origin.
    pub time: i64,
    /// Ticks to the next frame in decoding order.
    pub duration: i64,
    /// Whether the file calls it a key frame.
    pub sync: bool,
    /// Its sample description, from 0.
    pub description: u16,
}

/// A video track.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    /// Its number in the file.
    pub id: u32,
    /// Whether players show it unasked.
    pub enabled: bool,
    /// Whether it holds the pictures of another track's chapters.
    pub chapters: bool,
    /// Whether the file has sound beside it.
    pub sound: bool,
    /// How its frames are coded; at least one.
    pub descriptions: Vec<Description>,
    /// Width and height that the track is scaled to, before it is turned.
    pub size: (f64, f64),
    /// a, b, c, d of the display matrix, that of the movie included.
    pub matrix: [f64; 4],
    /// Ticks a second.
    pub timescale: u32,
    /// In decoding order.
    pub samples: Vec<Sample>,
    edits: Vec<Edit>,
    /// Ticks of the movie a second, which edit lists count in.
    movie_timescale: u32,
    fragmented: bool,
    /// Decoding time of the first sample.
    begin: i64,
    /// Decoding time behind the last sample, where the next fragment starts unless it says so.
    clock: i64,
}

impl Track {
    /// Which frames are shown, and when; none when the edit list claims too much.
    pub(super) fn timeline(&self) -> Option<Timeline> {
        let clocks = Clocks {
            movie: self.movie_timescale,
            media: self.timescale,
            span: self.clock.saturating_sub(self.begin),
            fragmented: self.fragmented,
        };
        edits::timeline(&self.samples, &self.edits, clocks)
    }
}

/// What the index of a file says.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// How many tracks of any kind there are.
    pub tracks: usize,
    /// Whether the index is compressed, as very old QuickTime files have it; it is not read then.
    pub compressed: bool,
    /// The video tracks.
    pub videos: Vec<Track>,
}

/// The place of description `number` (from 1) of a track that has `count`; none if it has not.
fn description_index(number: u32, count: usize) -> Option<u16> {
    let index = number.checked_sub(1)?;
    ((index as usize) < count).then(|| u16::try_from(index).ok())?
}

/// Reads the index of an MP4 file of `length` bytes.
///
/// # Errors
/// `E0808` when the index is missing, cut off or damaged; `E0801` when the file cannot be read.
pub(super) fn read_index(path: &Path, file: &mut File, length: u64) -> Result<Index> {
    let unreadable = |e| super::unreadable(path, e);
    let broken = |what: String, help: &str| {
        Error::input("E0808", what).at(path.display()).help(help.to_string())
    };
    let again = "the recording or download did not finish; fetch or export it again";
    let (mut at, mut loaded) = (0u64, 0u64);
    let mut moov: Option<Vec<u8>> = None;
    let mut moofs: Vec<(u64, Vec<u8>)> = Vec::new();
    while at + 8 <= length {
        let mut header = [0u8; 16];
        file.seek(SeekFrom::Start(at)).map_err(unreadable)?;
        file.read_exact(&mut header[..8]).map_err(unreadable)?;
        let mut size = u64::from(word(&header, 0).unwrap_or(0));
        let name = [header[4], header[5], header[6], header[7]];
        let mut body = 8;
        if size == 1 && at + 16 <= length {
            file.read_exact(&mut header[8..]).map_err(unreadable)?;
            (size, body) = (long(&header, 8).unwrap_or(0), 16);
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
                return Err(broken("the file is cut off inside its index".to_string(), again));
            }
            loaded = loaded.saturating_add(size);
            if loaded > INDEX_LIMIT {
                let what = format!("the file's index claims {} MiB or more", loaded >> 20);
                return Err(broken(what, "the file is damaged; export it again"));
            }
            let mut bytes = vec![0; size as usize];
            file.seek(SeekFrom::Start(at)).map_err(unreadable)?;
            file.read_exact(&mut bytes).map_err(unreadable)?;
            if &name == b"moof" {
                moofs.push((at, bytes));
            } else {
                moov.get_or_insert(bytes);
            }
        }
        at = next;
    }
    let Some(moov) = moov else {
        let what = "the file has no index (`moov`), so its frames cannot be found";
        return Err(broken(what.to_string(), again));
    };
    parse(&moov, &moofs).ok_or_else(|| {
        broken(
            "the file's index is damaged".to_string(),
            "export the file again, or convert it: ffmpeg -i IN -c:v libx264 OUT.mp4",
        )
    })
}

/// None when a table that must be there is not, or claims more than is sane.
fn parse(moov: &[u8], moofs: &[(u64, Vec<u8>)]) -> Option<Index> {
    let top = *children(moov, 0, moov.len()).first()?;
    let boxes = children(moov, top.body, top.end);
    let movie = Movie::parse(moov, &boxes);
    let compressed = boxes.iter().any(|a| &a.name == b"cmov");
    let mut index = Index { compressed, ..Index::default() };
    let (mut chapters, mut sound) = (Vec::new(), false);
    for trak in boxes.iter().filter(|a| &a.name == b"trak") {
        index.tracks += 1;
        if let Some(list) = find(moov, trak.body, trak.end, &[b"tref", b"chap"]) {
            let body = moov.get(list.body..list.end).unwrap_or_default();
            chapters.extend(body.chunks_exact(4).filter_map(|id| word(id, 0)));
        }
        let handler = find(moov, trak.body, trak.end, &[b"mdia", b"hdlr"]);
        let handler = handler.and_then(|h| moov.get(h.body + 8..h.body + 12));
        sound |= handler == Some(b"soun");
        if handler == Some(b"vide") {
            let mut track = parse_track(moov, *trak, &movie)?;
            track.fragmented = !moofs.is_empty();
            index.videos.push(track);
            if index.videos.len() > TRACK_LIMIT {
                return None;
            }
        }
    }
    let defaults = fragments::parse_defaults(moov, top);
    for (start, moof) in moofs {
        fragments::add_fragment(&mut index.videos, &defaults, *start, moof)?;
    }
    for track in &mut index.videos {
        (track.chapters, track.sound) = (chapters.contains(&track.id), sound);
    }
    Some(index)
}

/// What holds for all tracks.
struct Movie {
    /// Ticks a second.
    timescale: u32,
    /// a, b, c, d of its display matrix.
    matrix: [f64; 4],
}

impl Movie {
    fn parse(moov: &[u8], boxes: &[Atom]) -> Self {
        let mut movie = Self { timescale: 1, matrix: [1.0, 0.0, 0.0, 1.0] };
        if let Some(mvhd) = boxes.iter().find(|a| &a.name == b"mvhd") {
            let (clock, matrix) = if wide(moov, *mvhd) { (20, 48) } else { (12, 36) };
            movie.timescale = word(moov, mvhd.body + clock).unwrap_or(1);
            movie.matrix = parse_matrix(moov, mvhd.body + matrix).unwrap_or(movie.matrix);
        }
        movie
    }
}

/// Whether a box has the 64-bit fields of version 1.
fn wide(moov: &[u8], atom: Atom) -> bool {
    moov.get(atom.body) == Some(&1)
}

/// a, b, c, d of a matrix of nine words; the identity where all are zero, as some writers leave it.
fn parse_matrix(moov: &[u8], at: usize) -> Option<[f64; 4]> {
    let entry =
        |i: usize| word(moov, at + 4 * i).map(|v| f64::from(v.cast_signed()) / f64::from(1 << 16));
    let matrix = [entry(0)?, entry(1)?, entry(3)?, entry(4)?];
    Some(if matrix == [0.0; 4] { [1.0, 0.0, 0.0, 1.0] } else { matrix })
}

/// First `a`, then `b`.
fn combine([a, b, c, d]: [f64; 4], [e, f, g, h]: [f64; 4]) -> [f64; 4] {
    [a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h]
}

fn parse_track(moov: &[u8], trak: Atom, movie: &Movie) -> Option<Track> {
    let at = |path: &[&[u8; 4]]| find(moov, trak.body, trak.end, path);
    let tkhd = at(&[b"tkhd"])?;
    let mdhd = at(&[b"mdia", b"mdhd"])?;
    let matrix = tkhd.body + if wide(moov, tkhd) { 52 } else { 40 };
    let side = |at: usize| word(moov, at).map(|v| f64::from(v) / f64::from(1 << 16));
    let stbl = at(&[b"mdia", b"minf", b"stbl"])?;
    let stsd = find(moov, stbl.body, stbl.end, &[b"stsd"])?;
    let descriptions = entry::parse_descriptions(moov, stsd)?;
    let samples = samples::parse_samples(moov, stbl, descriptions.len())?;
    let clock = samples.iter().fold(0i64, |sum, s| sum.saturating_add(s.duration));
    Some(Track {
        id: word(moov, tkhd.body + if wide(moov, tkhd) { 20 } else { 12 })?,
        enabled: word(moov, tkhd.body)? & 1 != 0,
        descriptions,
        size: (side(matrix + 36)?, side(matrix + 40)?),
        matrix: combine(parse_matrix(moov, matrix)?, movie.matrix),
        timescale: word(moov, mdhd.body + if wide(moov, mdhd) { 20 } else { 12 })?,
        samples,
        edits: edits::parse_edits(moov, trak)?,
        movie_timescale: movie.timescale,
        clock,
        ..Track::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_combined_track_first() {
        let (right, mirror) = ([0.0, 1.0, -1.0, 0.0], [-1.0, 0.0, 0.0, 1.0]);
        assert_eq!(combine(right, right), [-1.0, 0.0, 0.0, -1.0]);
        // A point at (1, 0) goes down to (0, 1), where the mirror leaves it.
        assert_eq!(combine(right, mirror), [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(combine(mirror, right), [0.0, -1.0, -1.0, 0.0]);
        assert_eq!(parse_matrix(&[0; 36], 0), Some([1.0, 0.0, 0.0, 1.0]));
        assert_eq!(parse_matrix(&[0; 12], 0), None);
    }

    #[test]
    fn descriptions_are_counted_from_one() {
        let found = [0, 1, 3, 4, u32::MAX].map(|number| description_index(number, 3));
        assert_eq!(found, [None, Some(0), Some(2), None, None]);
    }
}
