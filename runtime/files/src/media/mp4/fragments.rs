//! Movie fragments (ISO/IEC 14496-12 §8.8): `moof` boxes, each with runs of samples of any track.
//!
//! All tracks are walked, not only those of video: where a run does not say where its data begin,
//! they follow those of the run before it, whichever track that was of. The index of segments
//! (`sidx`) and of random access (`mfra`) repeat what the fragments say and are not read.

use super::boxes::{Atom, children, find, long, word};
use super::{SAMPLE_LIMIT, Sample, Track, description_index};

/// `sample_is_non_sync_sample` of the sample flags.
const NOT_SYNC: u32 = 0x1_0000;

/// What fragments of a track take for granted (`trex`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Defaults {
    track: u32,
    description: u32,
    duration: u32,
    size: u32,
    flags: u32,
}

/// The defaults of all tracks, from `mvex`.
pub(super) fn parse_defaults(moov: &[u8], top: Atom) -> Vec<Defaults> {
    let Some(mvex) = find(moov, top.body, top.end, &[b"mvex"]) else { return Vec::new() };
    let boxes = children(moov, mvex.body, mvex.end);
    let one = |a: &Atom| {
        let field = |at: usize| (a.body + at + 4 <= a.end).then(|| word(moov, a.body + at))?;
        Some(Defaults {
            track: field(4)?,
            description: field(8)?,
            duration: field(12)?,
            size: field(16)?,
            flags: field(20)?,
        })
    };
    boxes.iter().filter(|a| &a.name == b"trex").filter_map(one).collect()
}

/// Adds the samples of a fragment, which starts at `start` in the file, to the tracks they are of.
/// None when a box contradicts itself.
pub(super) fn add_fragment(
    tracks: &mut [Track],
    defaults: &[Defaults],
    start: u64,
    moof: &[u8],
) -> Option<()> {
    let top = *children(moof, 0, moof.len()).first()?;
    // Where the data of the next run begin, unless it says so.
    let mut follows = start;
    for traf in children(moof, top.body, top.end) {
        let boxes = children(moof, traf.body, traf.end);
        let Some(tfhd) = boxes.iter().find(|a| &a.name == b"tfhd") else { continue };
        if &traf.name != b"traf" {
            continue;
        }
        let (flags, id) = (word(moof, tfhd.body)?, word(moof, tfhd.body + 4)?);
        let mut run = defaults
            .iter()
            .find(|d| d.track == id)
            .copied()
            .unwrap_or(Defaults { description: 1, ..Defaults::default() });
        let mut at = tfhd.body + 8;
        let mut base = follows;
        if flags & 0x1 != 0 {
            base = long(moof, at)?;
            at += 8;
        } else if flags & 0x2_0000 != 0 {
            base = start;
        }
        let fields = [&mut run.description, &mut run.duration, &mut run.size, &mut run.flags];
        for (bit, field) in [0x2, 0x8, 0x10, 0x20].into_iter().zip(fields) {
            if flags & bit != 0 {
                *field = word(moof, at)?;
                at += 4;
            }
        }
        let mut track = tracks.iter_mut().find(|t| t.id == id);
        if let Some(track) = &mut track {
            let tfdt = boxes.iter().find(|a| &a.name == b"tfdt");
            if let Some(time) = tfdt.map(|a| parse_time(moof, *a)) {
                track.clock = time?;
                if track.samples.is_empty() {
                    track.begin = track.clock;
                }
            }
        }
        follows = base;
        for trun in boxes.iter().filter(|a| &a.name == b"trun") {
            follows = add_run(track.as_deref_mut(), moof, *trun, base, follows, run)?;
        }
    }
    Some(())
}

fn parse_time(moof: &[u8], tfdt: Atom) -> Option<i64> {
    if moof.get(tfdt.body) == Some(&1) {
        i64::try_from(long(moof, tfdt.body + 4)?).ok()
    } else {
        Some(i64::from(word(moof, tfdt.body + 4)?))
    }
}

/// Adds one run; gives the place behind its data.
fn add_run(
    mut track: Option<&mut Track>,
    moof: &[u8],
    trun: Atom,
    base: u64,
    follows: u64,
    defaults: Defaults,
) -> Option<u64> {
    let flags = word(moof, trun.body)?;
    let count = word(moof, trun.body + 4)? as usize;
    let mut offset = follows;
    let mut at = trun.body + 8;
    if flags & 0x1 != 0 {
        offset = base.checked_add_signed(i64::from(word(moof, at)?.cast_signed()))?;
        at += 4;
    }
    let mut first_flags = None;
    if flags & 0x4 != 0 {
        first_flags = Some(word(moof, at)?);
        at += 4;
    }
    let description = match &track {
        Some(track) => {
            if track.samples.len().saturating_add(count) > SAMPLE_LIMIT {
                return None;
            }
            description_index(defaults.description, track.descriptions.len())?
        }
        // Sound without a field of its own in the run: nothing to walk.
        None if flags & 0x200 == 0 => {
            return offset.checked_add(u64::from(defaults.size).checked_mul(count as u64)?);
        }
        None => 0,
    };
    for index in 0..count {
        let mut field = |bit: u32| -> Option<Option<u32>> {
            if flags & bit == 0 {
                return Some(None);
            }
            at += 4;
            if at > trun.end { None } else { word(moof, at - 4).map(Some) }
        };
        let duration = field(0x100)?.unwrap_or(defaults.duration);
        let size = u64::from(field(0x200)?.unwrap_or(defaults.size));
        let kind = field(0x400)?.unwrap_or(defaults.flags);
        let kind = if index == 0 { first_flags.unwrap_or(kind) } else { kind };
        let shift = i64::from(field(0x800)?.unwrap_or(0).cast_signed());
        if let Some(track) = &mut track {
            // As in the sample tables: a negative duration is corrupt, time moves on by a tick.
            let duration = i64::from(i32::try_from(duration).unwrap_or(1));
            let time = track.clock.checked_add(shift)?;
            let sync = kind & NOT_SYNC == 0;
            track.samples.push(Sample { offset, size, time, duration, sync, description });
            track.clock = track.clock.checked_add(duration)?;
        }
        offset = offset.checked_add(size)?;
    }
    Some(offset)
}

#[cfg(test)]
mod tests {
    use super::super::boxes::testing::{atom, words};
    use super::super::entry::Description;
    use super::*;

    fn track(id: u32) -> Track {
        Track { id, descriptions: vec![Description::default(); 2], ..Track::default() }
    }

    fn moof(trafs: &[Vec<Vec<u8>>]) -> Vec<u8> {
        let trafs: Vec<u8> = trafs.iter().flat_map(|t| atom(b"traf", &t.concat())).collect();
        atom(b"moof", &trafs)
    }

    fn places(track: &Track) -> Vec<(u64, u64, i64)> {
        track.samples.iter().map(|s| (s.offset, s.size, s.time)).collect()
    }

    #[test]
    fn fragments_add_samples_to_their_track() {
        let tfhd = atom(b"tfhd", &words(&[0x20028, 7, 25, NOT_SYNC]));
        let tfdt = atom(b"tfdt", &words(&[0, 500]));
        let trun = atom(b"trun", &words(&[0x205 | 0x800, 2, 100, 0, 11, 25, 12, 0]));
        let moof = moof(&[vec![tfhd, tfdt, trun]]);
        let mut tracks = [track(8), track(7)];
        add_fragment(&mut tracks, &[], 9000, &moof).unwrap();
        assert!(tracks[0].samples.is_empty());
        assert_eq!(places(&tracks[1]), [(9100, 11, 525), (9111, 12, 525)]);
        // The first sample has flags of its own, the others those of the header.
        assert_eq!(tracks[1].samples.iter().map(|s| s.sync).collect::<Vec<_>>(), [true, false]);
        assert_eq!((tracks[1].begin, tracks[1].clock), (500, 550));
    }

    #[test]
    fn data_without_a_place_follow_those_before() {
        let run = |id: u32, sizes: &[u32]| {
            let head = [0x200, sizes.len() as u32];
            vec![atom(b"tfhd", &words(&[0, id])), atom(b"trun", &words(&[&head, sizes].concat()))]
        };
        // Sound first, its data before those of the video; then a second run of the same track.
        let mut video = run(7, &[5, 6]);
        video.push(atom(b"trun", &words(&[0x200, 1, 7])));
        let moof = moof(&[run(1, &[10, 20]), video]);
        let mut tracks = [track(7)];
        add_fragment(&mut tracks, &[], 100, &moof).unwrap();
        let offsets: Vec<u64> = tracks[0].samples.iter().map(|s| s.offset).collect();
        assert_eq!(offsets, [130, 135, 141]);
    }

    #[test]
    fn defaults_of_the_movie_fill_in() {
        let trex = atom(b"trex", &words(&[0, 7, 2, 40, 9, NOT_SYNC]));
        let moov = atom(b"moov", &atom(b"mvex", &trex));
        let defaults = parse_defaults(&moov, children(&moov, 0, moov.len())[0]);
        let traf = vec![atom(b"tfhd", &words(&[0, 7])), atom(b"trun", &words(&[0, 3]))];
        let mut tracks = [track(7)];
        add_fragment(&mut tracks, &defaults, 0, &moof(&[traf])).unwrap();
        assert_eq!(places(&tracks[0]), [(0, 9, 0), (9, 9, 40), (18, 9, 80)]);
        assert!(tracks[0].samples.iter().all(|s| s.description == 1 && !s.sync));
    }

    #[test]
    fn runs_that_claim_too_much_are_refused() {
        let refuse = |trun: &[u32], id: u32| {
            let traf = vec![atom(b"tfhd", &words(&[0, id])), atom(b"trun", &words(trun))];
            add_fragment(&mut [track(7)], &[], 0, &moof(&[traf])).is_none()
        };
        assert!(refuse(&[0x200, 9, 11], 7), "ends before its samples do");
        assert!(refuse(&[0x200, 9, 11], 1), "so does sound");
        assert!(refuse(&[0, u32::MAX], 7), "more frames than the limit");
        assert!(!refuse(&[0, u32::MAX], 1), "sound of a fixed size is not walked");
        // A sample description that is not there.
        let traf = vec![atom(b"tfhd", &words(&[2, 7, 3])), atom(b"trun", &words(&[0, 1]))];
        assert!(add_fragment(&mut [track(7)], &[], 0, &moof(&[traf])).is_none());
    }
}
