//! The index of MP4 and MOV files: reading it, and setting an exact rate in one.
//!
//! Reads just what decoding one H.264 track needs (ISO/IEC 14496-12 sample tables and fragments,
//! 14496-15 `avcC`), from hostile files too: every table is bounded by its box, nothing recurses,
//! and no box is trusted to move the reader on. Edit lists, sound and encryption are not read.
//! Writing is the muxing library's work; its fixed 90 kHz clock is corrected here.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Index boxes together larger than this are refused.
const INDEX_LIMIT: u64 = 256 << 20;
/// More frames than a day at 40 a second.
const SAMPLE_LIMIT: usize = 4 << 20;

/// Fragments are searched once for each video track.
const TRACK_LIMIT: usize = 16;

/// One box inside a byte slice; offsets are into that slice.
#[derive(Clone, Copy, Debug)]
struct Atom {
    name: [u8; 4],
    body: usize,
    end: usize,
}

/// The boxes of `bytes[start..end]`, as far as they are well formed.
fn children(bytes: &[u8], start: usize, end: usize) -> Vec<Atom> {
    let mut atoms = Vec::new();
    let mut at = start;
    while at + 8 <= end.min(bytes.len()) {
        let Some(short) = word(bytes, at) else { break };
        let name = [bytes[at + 4], bytes[at + 5], bytes[at + 6], bytes[at + 7]];
        let (mut size, mut body) = (u64::from(short), 8);
        if size == 1 {
            let Some(long) = long(bytes, at + 8) else { break };
            (size, body) = (long, 16);
        } else if size == 0 {
            size = (end - at) as u64;
        }
        if size < body as u64 || size > (end - at) as u64 {
            break;
        }
        let next = at + size as usize;
        atoms.push(Atom { name, body: at + body, end: next });
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
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// A table of `entry`-byte rows: a count at `count`, then the rows; cut to what the box holds.
fn rows(bytes: &[u8], atom: Atom, count: usize, entry: usize) -> std::slice::ChunksExact<'_, u8> {
    let start = (count + 4).min(atom.end);
    let claimed = word(bytes, count).unwrap_or(0) as usize;
    let end = claimed.saturating_mul(entry).saturating_add(start).min(atom.end);
    bytes.get(start..end).unwrap_or_default().chunks_exact(entry)
}

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
}

/// The decoder configuration of an H.264 track.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AvcConfig {
    /// Bytes of the length before every NAL unit.
    pub length_bytes: usize,
    /// Sequence parameter sets.
    pub sequence_sets: Vec<Vec<u8>>,
    /// Picture parameter sets.
    pub picture_sets: Vec<Vec<u8>>,
}

/// A video track.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    id: u32,
    /// The four letters of its sample description.
    pub codec: [u8; 4],
    /// Present for H.264 with parameter sets in the index.
    pub avc: Option<AvcConfig>,
    /// a, b, c, d of the display matrix.
    pub matrix: [i32; 4],
    /// Ticks a second.
    pub timescale: u32,
    /// In decoding order.
    pub samples: Vec<Sample>,
    /// Decoding time at which the next fragment starts, unless it says so itself.
    clock: i64,
}

/// What the index of a file says.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// How many tracks of any kind there are.
    pub tracks: usize,
    /// The video tracks.
    pub videos: Vec<Track>,
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
    let mut index = Index::default();
    for trak in children(moov, top.body, top.end) {
        if &trak.name != b"trak" {
            continue;
        }
        index.tracks += 1;
        let handler = find(moov, trak.body, trak.end, &[b"mdia", b"hdlr"]);
        if handler.and_then(|h| moov.get(h.body + 8..h.body + 12)) == Some(b"vide") {
            index.videos.push(parse_track(moov, trak)?);
            if index.videos.len() > TRACK_LIMIT {
                return None;
            }
        }
    }
    let defaults = find(moov, top.body, top.end, &[b"mvex"]);
    let defaults = defaults.map(|mvex| children(moov, mvex.body, mvex.end)).unwrap_or_default();
    for track in &mut index.videos {
        let ours = |a: &&Atom| &a.name == b"trex" && word(moov, a.body + 4) == Some(track.id);
        let trex = defaults.iter().find(ours);
        let value = |at: usize| trex.and_then(|a| word(moov, a.body + at)).unwrap_or(0);
        let (duration, size) = (value(12), value(16));
        for (start, moof) in moofs {
            add_fragment(track, *start, moof, duration, size)?;
        }
    }
    Some(index)
}

fn parse_track(moov: &[u8], trak: Atom) -> Option<Track> {
    let at = |path: &[&[u8; 4]]| find(moov, trak.body, trak.end, path);
    let tkhd = at(&[b"tkhd"])?;
    let mdhd = at(&[b"mdia", b"mdhd"])?;
    let wide = |atom: Atom| moov.get(atom.body) == Some(&1);
    let matrix = tkhd.body + if wide(tkhd) { 52 } else { 40 };
    let entry = |i: usize| word(moov, matrix + 4 * i).map(u32::cast_signed);
    let stbl = at(&[b"mdia", b"minf", b"stbl"])?;
    let stsd = find(moov, stbl.body, stbl.end, &[b"stsd"])?;
    let description = *children(moov, stsd.body + 8, stsd.end).first()?;
    let avc = matches!(&description.name, b"avc1" | b"avc3")
        .then(|| find(moov, description.body + 78, description.end, &[b"avcC"]))
        .flatten()
        .and_then(|a| parse_avc(moov.get(a.body..a.end)?));
    let samples = parse_samples(moov, stbl)?;
    let clock = samples.iter().fold(0i64, |sum, s| sum.saturating_add(s.duration));
    Some(Track {
        id: word(moov, tkhd.body + if wide(tkhd) { 20 } else { 12 })?,
        codec: description.name,
        avc: avc.filter(|avc| !avc.sequence_sets.is_empty()),
        matrix: [entry(0)?, entry(1)?, entry(3)?, entry(4)?],
        timescale: word(moov, mdhd.body + if wide(mdhd) { 20 } else { 12 })?,
        samples,
        clock,
    })
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

/// Expands the sample tables.
fn parse_samples(moov: &[u8], stbl: Atom) -> Option<Vec<Sample>> {
    let at = |name: &[u8; 4]| find(moov, stbl.body, stbl.end, &[name]);
    let stsz = at(b"stsz")?;
    let (fixed, count) = (word(moov, stsz.body + 4)?, word(moov, stsz.body + 8)? as usize);
    if count > SAMPLE_LIMIT {
        return None;
    }
    let mut samples = vec![Sample { size: u64::from(fixed), ..Sample::default() }; count];
    if count == 0 {
        return Some(samples);
    }
    let first_word = |row: &[u8]| word(row, 0).unwrap_or(0);
    if fixed == 0 {
        let sizes = rows(moov, stsz, stsz.body + 8, 4);
        if sizes.len() < count {
            return None;
        }
        sizes.zip(&mut samples).for_each(|(row, s)| s.size = u64::from(first_word(row)));
    }

    let chunks: Vec<u64> = match (at(b"stco"), at(b"co64")) {
        (Some(a), _) => {
            rows(moov, a, a.body + 4, 4).map(|row| u64::from(first_word(row))).collect()
        }
        (None, Some(a)) => {
            rows(moov, a, a.body + 4, 8).map(|row| long(row, 0).unwrap_or(0)).collect()
        }
        (None, None) => return None,
    };
    let stsc = at(b"stsc")?;
    let mut runs = rows(moov, stsc, stsc.body + 4, 12)
        .map(|row| (first_word(row), word(row, 4).unwrap_or(0)))
        .peekable();
    let (mut per_chunk, mut placed) = (0usize, 0usize);
    for (chunk, start) in chunks.iter().enumerate() {
        while let Some((_, samples)) = runs.next_if(|(first, _)| *first as usize <= chunk + 1) {
            per_chunk = samples as usize;
        }
        let mut offset = *start;
        let end = placed.saturating_add(per_chunk).min(count);
        for sample in samples.get_mut(placed..end)? {
            sample.offset = offset;
            offset = offset.checked_add(sample.size)?;
        }
        placed = end;
    }
    if placed < count {
        return None;
    }

    let stts = at(b"stts")?;
    let durations = rows(moov, stts, stts.body + 4, 8);
    let mut time = 0i64;
    // Fewer durations than frames: the last one goes on.
    for (sample, duration) in samples.iter_mut().zip(run_lengths(durations, true)) {
        (sample.time, sample.duration) = (time, i64::from(duration.cast_unsigned()));
        time = time.checked_add(sample.duration)?;
    }
    if let Some(ctts) = at(b"ctts") {
        let shifts = run_lengths(rows(moov, ctts, ctts.body + 4, 8), false);
        for (sample, shift) in samples.iter_mut().zip(shifts) {
            sample.time = sample.time.checked_add(i64::from(shift))?;
        }
    }
    Some(samples)
}

/// Values of (count, value) rows, one for each sample; then the last one for ever, or zeros.
fn run_lengths<'a>(
    rows: std::slice::ChunksExact<'a, u8>,
    go_on: bool,
) -> impl Iterator<Item = i32> + 'a {
    let last = rows.clone().next_back().and_then(|row| word(row, 4)).unwrap_or(0).cast_signed();
    let expand = |row: &'a [u8]| {
        let (count, value) = (word(row, 0).unwrap_or(0), word(row, 4).unwrap_or(0).cast_signed());
        std::iter::repeat_n(value, count as usize)
    };
    rows.flat_map(expand).chain(std::iter::repeat(if go_on { last } else { 0 }))
}

/// Adds the samples that a movie fragment, starting at `start` in the file, holds for `track`.
fn add_fragment(
    track: &mut Track,
    start: u64,
    moof: &[u8],
    duration: u32,
    size: u32,
) -> Option<()> {
    let top = *children(moof, 0, moof.len()).first()?;
    for traf in children(moof, top.body, top.end) {
        let boxes = children(moof, traf.body, traf.end);
        let Some(tfhd) = boxes.iter().find(|a| &a.name == b"tfhd") else { continue };
        if &traf.name != b"traf" || word(moof, tfhd.body + 4)? != track.id {
            continue;
        }
        let flags = word(moof, tfhd.body)?;
        let (mut base, mut duration, mut size) = (start, duration, size);
        let mut at = tfhd.body + 8;
        if flags & 0x1 != 0 {
            base = long(moof, at)?;
            at += 8;
        }
        for (bit, value) in [(0x2, None), (0x8, Some(&mut duration)), (0x10, Some(&mut size))] {
            if flags & bit != 0 {
                let given = word(moof, at)?;
                at += 4;
                if let Some(value) = value {
                    *value = given;
                }
            }
        }
        let mut time = match boxes.iter().find(|a| &a.name == b"tfdt") {
            Some(a) if moof.get(a.body) == Some(&1) => {
                i64::try_from(long(moof, a.body + 4)?).ok()?
            }
            Some(a) => i64::from(word(moof, a.body + 4)?),
            None => track.clock,
        };
        let mut offset = base;
        for trun in boxes.iter().filter(|a| &a.name == b"trun") {
            add_run(track, moof, *trun, base, (duration, size), &mut offset, &mut time)?;
        }
        track.clock = time;
    }
    Some(())
}

fn add_run(
    track: &mut Track,
    moof: &[u8],
    trun: Atom,
    base: u64,
    (duration, size): (u32, u32),
    offset: &mut u64,
    time: &mut i64,
) -> Option<()> {
    let flags = word(moof, trun.body)?;
    let count = word(moof, trun.body + 4)? as usize;
    if track.samples.len().saturating_add(count) > SAMPLE_LIMIT {
        return None;
    }
    let mut at = trun.body + 8;
    if flags & 0x1 != 0 {
        *offset = base.checked_add_signed(i64::from(word(moof, at)?.cast_signed()))?;
        at += 4;
    }
    if flags & 0x4 != 0 {
        at += 4;
    }
    for _ in 0..count {
        let mut field = |bit: u32| -> Option<Option<u32>> {
            if flags & bit == 0 {
                return Some(None);
            }
            at += 4;
            if at > trun.end { None } else { word(moof, at - 4).map(Some) }
        };
        let duration = i64::from(field(0x100)?.unwrap_or(duration));
        let size = u64::from(field(0x200)?.unwrap_or(size));
        field(0x400)?;
        let shift = i64::from(field(0x800)?.unwrap_or(0).cast_signed());
        let shown = time.checked_add(shift)?;
        track.samples.push(Sample { offset: *offset, size, time: shown, duration });
        *offset = offset.checked_add(size)?;
        *time = time.checked_add(duration)?;
    }
    Some(())
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

    fn words(values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_be_bytes()).collect()
    }

    fn tables(stsz: &[u32], stsc: &[u32], stco: &[u32], stts: &[u32], ctts: &[u32]) -> Vec<u8> {
        let list = |name: &[u8; 4], values: &[u32]| atom(name, &words(values));
        [
            list(b"stsz", stsz),
            list(b"stsc", stsc),
            list(b"stco", stco),
            list(b"stts", stts),
            list(b"ctts", ctts),
        ]
        .concat()
    }

    fn samples(bytes: &[u8]) -> Option<Vec<Sample>> {
        let stbl = Atom { name: *b"stbl", body: 0, end: bytes.len() };
        parse_samples(bytes, stbl)
    }

    #[test]
    fn tables_expand_to_samples() {
        let bytes = tables(
            &[0, 0, 5, 10, 20, 30, 40, 50],
            &[0, 2, 1, 2, 1, 2, 1, 1], // two samples in chunk 1, then one each
            &[0, 4, 1000, 2000, 3000, 4000],
            &[0, 2, 2, 100, 3, 50],
            &[0, 2, 1, 7, 1, -7i32 as u32],
        );
        let found = samples(&bytes).unwrap();
        let places: Vec<(u64, u64)> = found.iter().map(|s| (s.offset, s.size)).collect();
        assert_eq!(places, [(1000, 10), (1010, 20), (2000, 30), (3000, 40), (4000, 50)]);
        let times: Vec<(i64, i64)> = found.iter().map(|s| (s.time, s.duration)).collect();
        assert_eq!(times, [(7, 100), (93, 100), (200, 50), (250, 50), (300, 50)]);
    }

    #[test]
    fn tables_that_claim_too_much_are_refused() {
        let good = (&[0, 2, 1, 1, 1, 1][..], &[0, 1, 500][..], &[0, 1, 1, 40][..]);
        // A fixed size and four thousand million frames.
        assert!(samples(&tables(&[0, 9, u32::MAX], good.0, good.1, good.2, &[0, 0])).is_none());
        // More sizes than the box holds; fewer chunks than frames.
        assert!(samples(&tables(&[0, 0, 9, 1], good.0, good.1, good.2, &[0, 0])).is_none());
        assert!(samples(&tables(&[0, 9, 3], good.0, good.1, good.2, &[0, 0])).is_none());
        // A run of four thousand million durations is not expanded.
        let long = tables(&[0, 9, 1], good.0, good.1, &[0, 1, u32::MAX, 40], &[0, 0]);
        assert_eq!(samples(&long).unwrap()[0].duration, 40);
    }

    #[test]
    fn fragments_add_samples() {
        let tfhd = atom(b"tfhd", &words(&[0x20008, 7, 25]));
        let tfdt = atom(b"tfdt", &words(&[0, 500]));
        let trun = atom(b"trun", &words(&[0x201 | 0x800, 2, 100, 11, 25, 12, 0]));
        let moof = atom(b"moof", &atom(b"traf", &[tfhd, tfdt, trun].concat()));
        let mut track = Track { id: 7, ..Track::default() };
        add_fragment(&mut track, 9000, &moof, 1, 1).unwrap();
        let expected = [
            Sample { offset: 9100, size: 11, time: 525, duration: 25 },
            Sample { offset: 9111, size: 12, time: 525, duration: 25 },
        ];
        assert_eq!(track.samples, expected);
        let mut other = Track { id: 8, ..Track::default() };
        add_fragment(&mut other, 9000, &moof, 1, 1).unwrap();
        assert!(other.samples.is_empty());
        // A run that ends before its samples do.
        let trun = atom(b"trun", &words(&[0x200, 9, 11]));
        let traf = [atom(b"tfhd", &words(&[0, 7])), trun].concat();
        let moof = atom(b"moof", &atom(b"traf", &traf));
        assert!(add_fragment(&mut track, 0, &moof, 1, 1).is_none());
    }

    #[test]
    fn malformed_boxes_end_the_walk() {
        assert!(children(&[0, 0, 0, 3, 1, 2, 3, 4], 0, 8).is_empty());
        assert!(children(&[0, 0, 1, 0, 1, 2, 3, 4], 0, 8).is_empty());
        // Size zero reaches to the end and moves on.
        let bytes = [atom(b"free", &[]), vec![0, 0, 0, 0, b'm', b'd', b'a', b't', 9]].concat();
        assert_eq!(children(&bytes, 0, bytes.len()).len(), 2);
        assert!(parse_avc(&[1, 66, 0, 30, 3, 1, 0, 200, 9]).is_none());
    }
}
