//! The sample tables of a track (ISO/IEC 14496-12 §8.6 and §8.7), expanded to one entry a frame.
//!
//! Sizes (`stsz`, `stz2`), places (`stsc`, `stco`, `co64`), times (`stts`, `ctts`), key frames
//! (`stss`) and which sample description each frame uses. Every table is bounded by its box, and
//! the number of frames by a limit.

use super::boxes::{Atom, find, long, rows, word};
use super::{SAMPLE_LIMIT, Sample};

/// The samples of a `stbl` with `descriptions` sample descriptions, in decoding order; none when a
/// table that must be there is not, or contradicts another.
pub(super) fn parse_samples(moov: &[u8], stbl: Atom, descriptions: usize) -> Option<Vec<Sample>> {
    let at = |name: &[u8; 4]| find(moov, stbl.body, stbl.end, &[name]);
    let mut samples = match (at(b"stsz"), at(b"stz2")) {
        (Some(stsz), _) => sizes(moov, stsz)?,
        (None, Some(stz2)) => compact_sizes(moov, stz2)?,
        (None, None) => return None,
    };
    if samples.is_empty() {
        return Some(samples);
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
    place(&mut samples, &chunks, rows(moov, stsc, stsc.body + 4, 12), descriptions)?;

    let stts = at(b"stts")?;
    let durations = rows(moov, stts, stts.body + 4, 8);
    let mut time = 0i64;
    // Fewer durations than frames: the last one goes on.
    for (sample, duration) in samples.iter_mut().zip(run_lengths(durations, true)) {
        // A negative one is a corrupt table's; time moves on by a tick, as ffmpeg has it.
        let duration = if duration < 0 { 1 } else { i64::from(duration) };
        (sample.time, sample.duration) = (time, duration);
        time = time.checked_add(duration)?;
    }
    // Offsets are signed in either version: many writers put negative ones into version 0.
    if let Some(ctts) = at(b"ctts") {
        let shifts = run_lengths(rows(moov, ctts, ctts.body + 4, 8), false);
        for (sample, shift) in samples.iter_mut().zip(shifts) {
            sample.time = sample.time.checked_add(i64::from(shift))?;
        }
    }
    match at(b"stss") {
        // Without the table every frame is a key frame.
        None => samples.iter_mut().for_each(|s| s.sync = true),
        Some(stss) => {
            for number in rows(moov, stss, stss.body + 4, 4).map(first_word) {
                let index = (number as usize).wrapping_sub(1);
                if let Some(sample) = samples.get_mut(index) {
                    sample.sync = true;
                }
            }
        }
    }
    Some(samples)
}

fn first_word(row: &[u8]) -> u32 {
    word(row, 0).unwrap_or(0)
}

/// Samples with their sizes, from `stsz`.
fn sizes(moov: &[u8], stsz: Atom) -> Option<Vec<Sample>> {
    let (fixed, count) = (word(moov, stsz.body + 4)?, word(moov, stsz.body + 8)? as usize);
    if count > SAMPLE_LIMIT {
        return None;
    }
    let mut samples = vec![Sample { size: u64::from(fixed), ..Sample::default() }; count];
    if fixed == 0 {
        let sizes = rows(moov, stsz, stsz.body + 8, 4);
        if sizes.len() < count {
            return None;
        }
        sizes.zip(&mut samples).for_each(|(row, s)| s.size = u64::from(first_word(row)));
    }
    Some(samples)
}

/// Samples with their sizes, from `stz2`: fields of 4, 8 or 16 bits.
fn compact_sizes(moov: &[u8], stz2: Atom) -> Option<Vec<Sample>> {
    let (bits, count) = (word(moov, stz2.body + 4)? & 0xff, word(moov, stz2.body + 8)? as usize);
    let table = moov.get(stz2.body + 12..stz2.end)?;
    if count > SAMPLE_LIMIT || !matches!(bits, 4 | 8 | 16) {
        return None;
    }
    let size = |index: usize| -> Option<u64> {
        Some(match bits {
            16 => u64::from(*table.get(2 * index)?) << 8 | u64::from(*table.get(2 * index + 1)?),
            8 => u64::from(*table.get(index)?),
            _ => u64::from(
                *table.get(index / 2)? >> if index.is_multiple_of(2) { 4 } else { 0 } & 15,
            ),
        })
    };
    (0..count).map(|index| Some(Sample { size: size(index)?, ..Sample::default() })).collect()
}

/// Gives every sample its place and its description: chunks start at `chunks`, and `runs` says how
/// many samples each holds.
fn place(
    samples: &mut [Sample],
    chunks: &[u64],
    runs: std::slice::ChunksExact<'_, u8>,
    descriptions: usize,
) -> Option<()> {
    let value = |row: &[u8], at: usize| word(row, at).unwrap_or(0);
    let mut runs = runs.map(|row| (value(row, 0), value(row, 4), value(row, 8))).peekable();
    let (mut per_chunk, mut description, mut placed) = (0usize, 0u16, 0usize);
    for (chunk, start) in chunks.iter().enumerate() {
        while let Some((_, count, number)) = runs.next_if(|r| r.0 as usize <= chunk + 1) {
            per_chunk = count as usize;
            description = super::description_index(number, descriptions)?;
        }
        let mut offset = *start;
        let end = placed.saturating_add(per_chunk).min(samples.len());
        for sample in samples.get_mut(placed..end)? {
            (sample.offset, sample.description) = (offset, description);
            offset = offset.checked_add(sample.size)?;
        }
        placed = end;
    }
    (placed == samples.len()).then_some(())
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

#[cfg(test)]
mod tests {
    use super::super::boxes::testing::{atom, words};
    use super::*;

    fn list(name: &[u8; 4], values: &[u32]) -> Vec<u8> {
        atom(name, &words(values))
    }

    fn tables(stsz: &[u32], stsc: &[u32], stco: &[u32], stts: &[u32], ctts: &[u32]) -> Vec<u8> {
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
        parse_samples(bytes, stbl, 2)
    }

    #[test]
    fn tables_expand_to_samples() {
        let mut bytes = tables(
            &[0, 0, 5, 10, 20, 30, 40, 50],
            &[0, 2, 1, 2, 1, 2, 1, 2], // two samples in chunk 1, then one each
            &[0, 4, 1000, 2000, 3000, 4000],
            &[0, 2, 2, 100, 3, 50],
            &[0, 2, 1, 7, 1, -7i32 as u32],
        );
        bytes.extend(list(b"stss", &[0, 4, 1, 4, 0, 99]));
        let found = samples(&bytes).unwrap();
        let places: Vec<(u64, u64)> = found.iter().map(|s| (s.offset, s.size)).collect();
        assert_eq!(places, [(1000, 10), (1010, 20), (2000, 30), (3000, 40), (4000, 50)]);
        let times: Vec<(i64, i64)> = found.iter().map(|s| (s.time, s.duration)).collect();
        assert_eq!(times, [(7, 100), (93, 100), (200, 50), (250, 50), (300, 50)]);
        let kinds: Vec<(u16, bool)> = found.iter().map(|s| (s.description, s.sync)).collect();
        assert_eq!(kinds, [(0, true), (0, false), (1, false), (1, true), (1, false)]);
    }

    #[test]
    fn compact_sizes_are_read_in_every_width() {
        let table = |bits: u32, fields: &[u8]| {
            let stz2 = atom(b"stz2", &[words(&[0, bits, 3]), fields.to_vec()].concat());
            let rest = tables(&[], &[0, 1, 1, 3, 1], &[0, 1, 40], &[0, 1, 3, 5], &[0, 0]);
            let rest = &rest[8..]; // without the empty `stsz`
            samples(&[stz2, rest.to_vec()].concat())
                .map(|all| all.iter().map(|s| s.size).collect::<Vec<_>>())
        };
        assert_eq!(table(4, &[0x12, 0x3f]), Some(vec![1, 2, 3]));
        assert_eq!(table(8, &[7, 8, 9]), Some(vec![7, 8, 9]));
        assert_eq!(table(16, &[1, 0, 0, 2, 0, 3]), Some(vec![256, 2, 3]));
        assert_eq!(table(16, &[1, 0, 0, 2, 0]), None);
        assert_eq!(table(12, &[1, 0, 0, 2, 0, 3]), None);
    }

    #[test]
    fn corrupt_durations_move_on_by_a_tick() {
        let bytes = tables(
            &[0, 9, 3],
            &[0, 1, 1, 3, 1],
            &[0, 1, 500],
            &[0, 3, 1, u32::MAX, 1, 0, 1, 40],
            &[0, 0],
        );
        let times: Vec<i64> = samples(&bytes).unwrap().iter().map(|s| s.time).collect();
        assert_eq!(times, [0, 1, 1]);
        // Every frame is a key frame where no table says which are.
        assert!(samples(&bytes).unwrap().iter().all(|s| s.sync));
    }

    #[test]
    fn tables_that_claim_too_much_are_refused() {
        let good = (&[0, 1, 1, 1, 1][..], &[0, 1, 500][..], &[0, 1, 1, 40][..]);
        // A fixed size and four thousand million frames.
        assert!(samples(&tables(&[0, 9, u32::MAX], good.0, good.1, good.2, &[0, 0])).is_none());
        // More sizes than the box holds; fewer chunks than frames.
        assert!(samples(&tables(&[0, 0, 9, 1], good.0, good.1, good.2, &[0, 0])).is_none());
        assert!(samples(&tables(&[0, 9, 3], good.0, good.1, good.2, &[0, 0])).is_none());
        // A sample description that is not there.
        for number in [0, 3, u32::MAX] {
            let runs = [0, 1, 1, 1, number];
            assert!(samples(&tables(&[0, 9, 1], &runs, good.1, good.2, &[0, 0])).is_none());
        }
        // A run of four thousand million durations is not expanded.
        let long = tables(&[0, 9, 1], good.0, good.1, &[0, 1, u32::MAX, 40], &[0, 0]);
        assert_eq!(samples(&long).unwrap()[0].duration, 40);
    }
}
