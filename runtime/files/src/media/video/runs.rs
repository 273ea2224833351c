//! Which frames have to be decoded for those that are shown.
//!
//! A run is a stretch of samples that one decoder takes from a key frame on. Without an edit list
//! and with one sample description there is one; an edit that starts elsewhere, or goes back,
//! starts another, and so does another description. All runs together never decode more frames
//! than a track may have.

use crate::error::Result;
use crate::media::mp4::{SAMPLE_LIMIT, Sample, Shown, Timeline};

/// Key frames that are looked at backwards from where an edit starts, before giving up and starting
/// at the beginning.
const KEY_TRIES: usize = 64;

/// A stretch of samples with the same description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The description, from 0.
    pub description: u16,
    /// The first sample.
    pub first: usize,
    /// One behind the last.
    pub end: usize,
}

/// The stretches of equal description, in decoding order.
pub(super) fn groups(samples: &[Sample]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if group.description == sample.description => group.end = index + 1,
            _ => {
                let (description, first, end) = (sample.description, index, index + 1);
                groups.push(Group { description, first, end });
            }
        }
    }
    groups
}

/// A stretch of samples to be decoded from its first on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The sample description, from 0.
    pub description: u16,
    /// The first sample.
    pub first: usize,
    /// One behind the last.
    pub end: usize,
    /// What is shown of it, in presentation order.
    pub shown: Vec<Shown>,
}

impl Run {
    /// Its samples that hold a frame, in decoding order.
    pub(super) fn samples<'a>(&self, samples: &'a [Sample]) -> impl Iterator<Item = usize> + 'a {
        (self.first..self.end).filter(|index| samples[*index].size > 0)
    }

    /// Its samples in the order in which the decoder gives their frames.
    pub(super) fn presented(&self, samples: &[Sample]) -> Vec<usize> {
        let mut order: Vec<usize> = self.samples(samples).collect();
        order.sort_by_key(|index| samples[*index].time);
        order
    }
}

/// The runs that give what `timeline` shows, in that order; none when they would decode absurdly
/// many frames. `keyed` tells whether a sample really is a key frame.
///
/// # Errors
/// What `keyed` returns.
pub(super) fn plan(
    samples: &[Sample],
    groups: &[Group],
    timeline: &Timeline,
    keyed: &mut dyn FnMut(usize) -> Result<bool>,
) -> Result<Option<Vec<Run>>> {
    let group_of = |shown: &Shown| groups.partition_point(|g| g.end <= shown.sample as usize);
    let mut runs: Vec<Run> = Vec::new();
    let mut decoded = 0usize;
    let piece = |a: &Shown, b: &Shown| a.edit == b.edit && group_of(a) == group_of(b);
    for shown in timeline.shown.chunk_by(piece) {
        let group = groups[group_of(&shown[0])];
        let places = || shown.iter().map(|s| s.sample as usize);
        let lowest = places().min().unwrap_or(group.first);
        let end = places().max().unwrap_or(group.first) + 1;
        let first = start(samples, group, lowest, keyed)?;
        // An edit that goes on where the one before it ended needs no other decoder.
        if let Some(run) = runs.last_mut()
            && (group.first..group.end).contains(&run.first)
            && (run.first..=run.end).contains(&first)
            && run.shown.last().is_some_and(|last| {
                let time = |s: &Shown| samples[s.sample as usize].time;
                time(last) < time(&shown[0])
            })
        {
            decoded = decoded.saturating_add(end.saturating_sub(run.end));
            run.end = run.end.max(end);
            run.shown.extend(shown);
        } else {
            decoded = decoded.saturating_add(end - first);
            let (description, shown) = (group.description, shown.to_vec());
            runs.push(Run { description, first, end, shown });
        }
        if decoded > SAMPLE_LIMIT {
            return Ok(None);
        }
    }
    Ok(Some(runs))
}

/// The last true key frame of the group at or before `lowest`; the group's first sample otherwise.
fn start(
    samples: &[Sample],
    group: Group,
    lowest: usize,
    keyed: &mut dyn FnMut(usize) -> Result<bool>,
) -> Result<usize> {
    let candidates = (group.first..=lowest).rev().filter(|index| {
        let sample = samples[*index];
        sample.sync && sample.size > 0
    });
    for index in candidates.take(KEY_TRIES) {
        if index == group.first || keyed(index)? {
            return Ok(index);
        }
    }
    Ok(group.first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve frames with a key frame every four, 10 ticks apart, the last four of description 1.
    fn samples() -> Vec<Sample> {
        let sample = |index: usize| Sample {
            size: 1,
            time: index as i64 * 10,
            duration: 10,
            sync: index.is_multiple_of(4),
            description: u16::from(index >= 8),
            ..Sample::default()
        };
        (0..12).map(sample).collect()
    }

    fn shown(edits: &[&[u32]]) -> Timeline {
        let all = edits.iter().zip(0..).flat_map(|(list, edit)| {
            list.iter().map(move |sample| Shown { sample: *sample, time: 0, duration: 0, edit })
        });
        Timeline { shown: all.collect(), speeds: false }
    }

    /// (first, end, frames shown) of each run.
    fn runs(edits: &[&[u32]], keys: &[usize]) -> Vec<(usize, usize, Vec<u32>)> {
        let samples = samples();
        let mut keyed = |index: usize| Ok(keys.contains(&index));
        let runs = plan(&samples, &groups(&samples), &shown(edits), &mut keyed).unwrap().unwrap();
        let list = |run: &Run| run.shown.iter().map(|s| s.sample).collect();
        runs.iter().map(|run| (run.first, run.end, list(run))).collect()
    }

    #[test]
    fn decoding_starts_at_true_key_frames() {
        let keys = [0, 4, 8];
        assert_eq!(runs(&[&[5, 6]], &keys), [(4, 7, vec![5, 6])]);
        // Called a key frame, but none.
        assert_eq!(runs(&[&[5, 6]], &[0, 8]), [(0, 7, vec![5, 6])]);
        assert_eq!(runs(&[&[3]], &[]), [(0, 4, vec![3])]);
    }

    #[test]
    fn descriptions_and_jumps_start_another_run() {
        let keys = [0, 4, 8];
        let whole: Vec<u32> = (6..10).collect();
        assert_eq!(runs(&[&whole], &keys), [(4, 8, vec![6, 7]), (8, 10, vec![8, 9])]);
        // Going on in the same stretch needs no other run, going back or far ahead does.
        assert_eq!(runs(&[&[1], &[3]], &keys), [(0, 4, vec![1, 3])]);
        assert_eq!(runs(&[&[3], &[4, 5]], &keys), [(0, 6, vec![3, 4, 5])]);
        assert_eq!(runs(&[&[1], &[5]], &keys), [(0, 2, vec![1]), (4, 6, vec![5])]);
        assert_eq!(runs(&[&[5], &[1]], &keys), [(4, 6, vec![5]), (0, 2, vec![1])]);
        assert_eq!(runs(&[&[1], &[1]], &keys), [(0, 2, vec![1]), (0, 2, vec![1])]);
    }

    #[test]
    fn frames_come_in_presentation_order() {
        let mut samples = samples();
        (samples[1].time, samples[2].time) = (20, 10);
        samples[3].size = 0;
        let run = Run { description: 0, first: 0, end: 5, shown: Vec::new() };
        assert_eq!(run.presented(&samples), [0, 2, 1, 4]);
    }

    #[test]
    fn lists_that_decode_too_much_are_refused() {
        let samples = vec![Sample { size: 1, ..Sample::default() }; 1 << 12];
        let edit = vec![(1 << 12) - 1];
        let edits = vec![edit.as_slice(); (1 << 10) + 1];
        let runs = plan(&samples, &groups(&samples), &shown(&edits), &mut |_| Ok(false));
        assert_eq!(runs.unwrap(), None);
    }
}
