//! Edit lists (ISO/IEC 14496-12 §8.6.6): which frames of a track are shown, and when.
//!
//! An edit shows a span of the media; an empty one shows nothing for a while. A frame is shown when
//! its presentation time lies in the span, as ffmpeg has it. The first frame shown is at time 0. A
//! speed other than 1 is not applied, as in all common players; the caller is told of it.

use super::boxes::{Atom, find, long, rows, word};
use super::{SAMPLE_LIMIT, Sample};

/// Lists longer than this are refused: decoding may have to start anew for each entry.
const EDIT_LIMIT: usize = 1 << 12;

/// One entry of an edit list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::media) struct Edit {
    /// Ticks of the movie; 0 is "to the end".
    duration: u64,
    /// Presentation time in the media at which the edit starts; none where nothing is shown.
    start: Option<i64>,
    /// Speed in units of 1/65536.
    rate: i32,
}

/// The edits of a track; empty without a list, none when it is absurdly long.
pub(super) fn parse_edits(moov: &[u8], trak: Atom) -> Option<Vec<Edit>> {
    let Some(elst) = find(moov, trak.body, trak.end, &[b"edts", b"elst"]) else {
        return Some(Vec::new());
    };
    let wide = moov.get(elst.body) == Some(&1);
    let rows = rows(moov, elst, elst.body + 4, if wide { 20 } else { 12 });
    if rows.len() > EDIT_LIMIT {
        return None;
    }
    let edit = |row: &[u8]| {
        let (duration, start, rate) = if wide {
            (long(row, 0)?, long(row, 8)?.cast_signed(), word(row, 16)?)
        } else {
            (u64::from(word(row, 0)?), i64::from(word(row, 4)?.cast_signed()), word(row, 8)?)
        };
        Some(Edit { duration, start: (start != -1).then_some(start), rate: rate.cast_signed() })
    };
    rows.map(edit).collect()
}

/// A frame as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::media) struct Shown {
    /// Its place among the track's samples.
    pub sample: u32,
    /// When, in ticks of the media from the first frame shown.
    pub time: i64,
    /// For how long, in ticks of the media.
    pub duration: i64,
    /// Which edit shows it: frames of one edit are in presentation order.
    pub edit: u32,
}

/// What an edit list makes of a track.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::media) struct Timeline {
    /// In the order of showing.
    pub shown: Vec<Shown>,
    /// Whether an edit asks for a speed other than 1.
    pub speeds: bool,
}

/// The clocks of a track: ticks a second of movie and media, where decoding begins and ends, and
/// whether there are fragments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub movie: u32,
    pub media: u32,
    /// Decoding time from the first sample to behind the last.
    pub span: i64,
    /// Edit lists of fragmented files are written before the length is known.
    pub fragmented: bool,
}

/// Applies an edit list; without one everything is shown. None when the edits together show more
/// frames than a track may have.
pub(super) fn timeline(samples: &[Sample], edits: &[Edit], clocks: Clocks) -> Option<Timeline> {
    // A sample without bytes repeats the one before it and gives no frame of its own. Places fit 32
    // bits: SAMPLE_LIMIT is far below.
    let mut order: Vec<usize> =
        (0..samples.len()).filter(|index| samples[*index].size > 0).collect();
    order.sort_by_key(|index| samples[*index].time);
    let time = |place: usize| samples[order[place]].time;
    let Some(last) = order.len().checked_sub(1) else { return Some(Timeline::default()) };
    // Sample tables have the times of decoding: what of their sum is left for the last frame. Often
    // missing or wrong, in which case it stays as long as the one before it.
    let before = if last > 0 { time(last).saturating_sub(time(last - 1)) } else { 0 };
    let left = clocks.span.saturating_sub(time(last).saturating_sub(time(0)));
    let last_duration = if left > 0 { left } else { before };
    let natural = |place: usize| match place == last {
        true => last_duration,
        false => time(place + 1).saturating_sub(time(place)),
    };

    let whole = [Edit { duration: 0, start: Some(i64::MIN), rate: 1 << 16 }];
    let listed = !edits.is_empty();
    let edits = if listed { edits } else { &whole };
    let mut timeline = Timeline::default();
    let mut now = 0i64;
    for (index, edit) in edits.iter().enumerate() {
        let open = edit.duration == 0 || clocks.fragmented && index + 1 == edits.len();
        let duration = if open { None } else { Some(to_media(edit.duration, clocks)) };
        let Some(start) = edit.start else {
            now = now.saturating_add(duration.unwrap_or(0));
            continue;
        };
        timeline.speeds |= edit.rate != 1 << 16;
        let from = order.partition_point(|i| samples[*i].time < start);
        let end = duration.map(|duration| start.saturating_add(duration));
        let to = end.map_or(order.len(), |end| order.partition_point(|i| samples[*i].time < end));
        if timeline.shown.len().saturating_add(to.saturating_sub(from)) > SAMPLE_LIMIT {
            return None;
        }
        // Without a list the first frame starts the clock.
        let start = if listed { start } else { time(0) };
        for place in from..to.max(from) {
            let since = time(place).checked_sub(start)?;
            timeline.shown.push(Shown {
                sample: order[place] as u32,
                time: now.checked_add(since)?,
                duration: natural(place),
                edit: index as u32,
            });
        }
        now = now.saturating_add(match duration {
            Some(duration) => duration,
            None => time(last).saturating_add(last_duration).saturating_sub(start).max(0),
        });
    }
    let first = timeline.shown.first().map_or(0, |s| s.time);
    timeline.shown.iter_mut().for_each(|s| s.time -= first);
    // What comes next ends a frame, sooner than the media has it or (after an empty edit) later.
    let next: Vec<i64> = timeline.shown.iter().skip(1).map(|s| s.time).collect();
    for (shown, next) in timeline.shown.iter_mut().zip(next) {
        shown.duration = next.saturating_sub(shown.time).max(0);
    }
    Some(timeline)
}

/// Ticks of the movie as ticks of the media, rounded; all ones, as for an unknown duration, is more
/// than any media has.
fn to_media(ticks: u64, clocks: Clocks) -> i64 {
    let movie = u128::from(clocks.movie.max(1));
    let scaled = (u128::from(ticks) * u128::from(clocks.media) + movie / 2) / movie;
    i64::try_from(scaled).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::boxes::testing::{atom, words};
    use super::*;

    /// Six frames of 10 ticks from 20 on, in the order I P B B P B.
    fn samples() -> Vec<Sample> {
        let times = [20, 50, 30, 40, 70, 60];
        let sample = |time| Sample { size: 1, time, duration: 10, ..Sample::default() };
        times.map(sample).to_vec()
    }

    const CLOCKS: Clocks = Clocks { movie: 1000, media: 100, span: 60, fragmented: false };

    fn edit(duration: u64, start: i64) -> Edit {
        Edit { duration, start: (start != -1).then_some(start), rate: 1 << 16 }
    }

    /// (sample, time, duration) of what is shown.
    fn show(edits: &[Edit], clocks: Clocks) -> Vec<(u32, i64, i64)> {
        let timeline = timeline(&samples(), edits, clocks).unwrap();
        timeline.shown.iter().map(|s| (s.sample, s.time, s.duration)).collect()
    }

    #[test]
    fn without_a_list_everything_is_shown_in_order() {
        let all = [(0, 0, 10), (2, 10, 10), (3, 20, 10), (1, 30, 10), (5, 40, 10), (4, 50, 10)];
        assert_eq!(show(&[], CLOCKS), all);
        // What the table leaves for the last frame, or else the duration before it.
        let long = Clocks { span: 75, ..CLOCKS };
        assert_eq!(show(&[], long)[5], (4, 50, 25));
        let short = Clocks { span: 50, ..CLOCKS };
        assert_eq!(show(&[], short)[5], (4, 50, 10));
        assert_eq!(timeline(&[], &[], CLOCKS).unwrap(), Timeline::default());
    }

    #[test]
    fn edits_trim_join_and_pause() {
        let trimmed = [(3, 0, 10), (1, 10, 10)];
        assert_eq!(show(&[edit(200, 40)], CLOCKS), trimmed);
        // An empty edit in front moves nothing: the first frame shown is at 0.
        assert_eq!(show(&[edit(700, -1), edit(200, 40)], CLOCKS), trimmed);
        // Backwards, with a pause of 30 ticks: the frame before it stays.
        let edits = [edit(200, 60), edit(300, -1), edit(100, 20)];
        assert_eq!(show(&edits, CLOCKS), [(5, 0, 10), (4, 10, 40), (0, 50, 10)]);
        // The start of the edit counts, not that of its first frame; the end is open.
        assert_eq!(show(&[edit(100, 20), edit(0, 55)], CLOCKS)[1..], [(5, 15, 10), (4, 25, 10)]);
        // Longer than the media; nothing of the media.
        assert_eq!(show(&[edit(90_000, 60)], CLOCKS), [(5, 0, 10), (4, 10, 10)]);
        assert_eq!(show(&[edit(500, 900)], CLOCKS), []);
        let fragmented = Clocks { fragmented: true, ..CLOCKS };
        assert_eq!(show(&[edit(100, 60)], fragmented), [(5, 0, 10), (4, 10, 10)]);
    }

    #[test]
    fn speeds_are_told_of() {
        let slow = Edit { rate: 1 << 15, ..edit(200, 20) };
        assert!(timeline(&samples(), &[slow], CLOCKS).unwrap().speeds);
        assert!(!timeline(&samples(), &[edit(200, 20)], CLOCKS).unwrap().speeds);
    }

    #[test]
    fn lists_that_claim_too_much_are_refused() {
        let many = vec![edit(0, 0); SAMPLE_LIMIT / 6 + 1];
        assert_eq!(timeline(&samples(), &many, CLOCKS), None);
        // Times beyond what can be counted; a duration that nothing follows is only long.
        let endless = edit(u64::MAX, 0);
        assert_eq!(timeline(&samples(), &[endless; 30], CLOCKS), None);
        assert_eq!(show(&[endless], CLOCKS).len(), 6);
        assert_eq!(timeline(&samples(), &[edit(10, i64::MIN + 1)], CLOCKS).unwrap().shown, []);
    }

    #[test]
    fn both_versions_are_read() {
        let list = |elst: Vec<u8>| {
            let bytes = atom(b"edts", &atom(b"elst", &elst));
            let trak = Atom { name: *b"trak", body: 0, end: bytes.len() };
            parse_edits(&bytes, trak).unwrap()
        };
        let expected = [edit(7, -1), Edit { rate: 1 << 15, ..edit(9, 5) }];
        let narrow = words(&[0, 2, 7, u32::MAX, 1 << 16, 9, 5, 1 << 15]);
        assert_eq!(list(narrow), expected);
        let wide = [1 << 24, 2, 0, 7, u32::MAX, u32::MAX, 1 << 16, 0, 9, 0, 5, 1 << 15];
        assert_eq!(list(words(&wide)), expected);
        let many = 1 + EDIT_LIMIT as u32;
        let elst = [words(&[0, many]), words(&vec![1; 3 * many as usize])].concat();
        let bytes = atom(b"edts", &atom(b"elst", &elst));
        let trak = Atom { name: *b"trak", body: 0, end: bytes.len() };
        assert_eq!(parse_edits(&bytes, trak), None);
        let none = Atom { name: *b"trak", body: 0, end: 0 };
        assert_eq!(parse_edits(&[], none), Some(Vec::new()));
    }
}
