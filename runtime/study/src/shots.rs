//! Where a video cuts, frame by frame and with a few numbers of memory (`data.md` §2).
//!
//! The rules are those of PySceneDetect's content and adaptive detectors. Dissolves are found by
//! neither; fades through black only where they are asked for.

use crate::picture::Hsv;
use crate::settings::{Method, ShotSettings};
use crate::shrink::Shrink;
use anyid_files::Result;
use anyid_files::media::{DecodedFrame, TimedFrame};
use std::collections::VecDeque;

/// Frames on each side that an adaptive score is compared with.
const WINDOW: usize = 2;
/// The largest ratio, and that of a change in stillness.
const MOST_RATIO: f64 = 255.0;
/// Mean of red, green and blue below which a frame is black.
const BLACK: f64 = 12.0;

/// Finds cuts in frames that are pushed one after the other.
#[derive(Debug)]
pub struct Cutter {
    settings: ShotSettings,
    count: usize,
    /// By the size of the first frame, which is that of all.
    shrink: Option<Shrink>,
    hsv: Hsv,
    before: Option<Vec<u8>>,
    /// The scores of the newest frames, at most five.
    scores: VecDeque<f64>,
    last_cut: usize,
    flashes: Flashes,
    black_since: Option<usize>,
    cuts: Vec<usize>,
}

/// Merges changes that follow each other closely, as PySceneDetect's filter of flashes does.
#[derive(Debug, Default)]
struct Flashes {
    last_above: Option<usize>,
    enabled: bool,
    merging_since: Option<usize>,
}

impl Flashes {
    /// A cut, given whether frame `at` is above the threshold.
    fn push(&mut self, at: usize, above: bool, least: usize) -> Option<usize> {
        let last = *self.last_above.get_or_insert(at);
        let long = at - last >= least;
        if above {
            self.last_above = Some(at);
        }
        let last = if above { at } else { last };
        if let Some(since) = self.merging_since {
            let ended = long && !above && last - since >= least;
            self.merging_since = self.merging_since.filter(|_| !ended);
            return ended.then_some(last);
        }
        if !above {
            return None;
        }
        if long {
            self.enabled = true;
            return Some(at);
        }
        self.merging_since = self.enabled.then_some(at);
        None
    }
}

/// The mean differences of hue, saturation and value over three: a frame against the one before.
fn content(before: &[u8], after: &[u8]) -> f64 {
    // Pieces of which 32 bits hold the sum.
    let pieces = before.chunks(1 << 16).zip(after.chunks(1 << 16));
    let of = |(a, b): (&[u8], &[u8])| -> u32 {
        a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
    };
    let sum: u64 = pieces.map(|piece| u64::from(of(piece))).sum();
    sum as f64 / (before.len() / 3).max(1) as f64 / 3.0
}

impl Cutter {
    /// For frames from the first on.
    pub fn new(settings: &ShotSettings) -> Self {
        Self {
            settings: settings.clone(),
            count: 0,
            shrink: None,
            hsv: Hsv::default(),
            before: None,
            scores: VecDeque::new(),
            last_cut: 0,
            flashes: Flashes::default(),
            black_since: None,
            cuts: Vec::new(),
        }
    }

    /// Takes the next frame; gives its score. All frames have one size.
    ///
    /// # Errors
    /// Those of making its colours.
    pub fn push(&mut self, mut frame: DecodedFrame<'_>) -> Result<f64> {
        let at = self.count;
        self.count += 1;
        if self.settings.method == Method::None {
            return Ok(0.0);
        }
        if self.settings.fade {
            let (time, duration) = (frame.time, frame.duration);
            let image = frame.image()?;
            self.faded(at, &image.data);
            frame = TimedFrame { image, time, duration }.into();
        }
        let shrink = self.shrink.get_or_insert_with(|| Shrink::new(frame.width, frame.height));
        let colours = self.hsv.convert(&shrink.shrunk(&frame)?);
        let score = self.before.as_ref().map_or(0.0, |before| content(before, &colours));
        self.before = Some(colours);
        match self.settings.method {
            Method::None => {}
            Method::Content => {
                let above = score >= self.settings.threshold();
                self.cuts.extend(self.flashes.push(at, above, self.settings.min_frames));
            }
            Method::Adaptive => self.adaptive(at, score),
        }
        Ok(score)
    }

    /// Looks for fades through black.
    fn faded(&mut self, at: usize, rgb: &[u8]) {
        let sum: u64 = rgb.iter().map(|value| u64::from(*value)).sum();
        let black = (sum as f64) < BLACK * rgb.len() as f64;
        match (black, self.black_since) {
            (true, None) => self.black_since = Some(at),
            (false, Some(since)) => {
                self.black_since = None;
                // A beginning in black is no cut.
                if since > 0 {
                    self.cuts.push(since.midpoint(at));
                }
            }
            _ => {}
        }
    }

    fn adaptive(&mut self, newest: usize, score: f64) {
        self.scores.push_back(score);
        if self.scores.len() > 2 * WINDOW + 1 {
            self.scores.pop_front();
        }
        if self.scores.len() < 2 * WINDOW + 1 {
            return;
        }
        let centre = self.scores[WINDOW];
        let mean = (self.scores.iter().sum::<f64>() - centre) / (2 * WINDOW) as f64;
        let ratio = match mean < 1e-5 {
            true if centre >= self.settings.min_content => MOST_RATIO,
            true => 0.0,
            false => (centre / mean).min(MOST_RATIO),
        };
        let long = newest - self.last_cut >= self.settings.min_frames;
        if ratio >= self.settings.threshold() && centre >= self.settings.min_content && long {
            self.last_cut = newest - WINDOW;
            self.cuts.push(self.last_cut);
        }
    }

    /// Frames that were pushed.
    pub fn frames(&self) -> usize {
        self.count
    }

    /// The shots, first frame and the one behind the last, with what is trimmed at both ends left
    /// out; and how many are nothing then.
    pub fn finish(mut self) -> (Vec<[usize; 2]>, usize) {
        self.cuts.sort_unstable();
        self.cuts.dedup();
        let begins = std::iter::once(0).chain(self.cuts.iter().copied());
        let ends = self.cuts.iter().copied().chain([self.count]);
        let trim = self.settings.trim;
        let shots = begins.zip(ends).map(|(begin, end)| [begin + trim, end.saturating_sub(trim)]);
        let (kept, empty): (Vec<_>, Vec<_>) = shots.partition(|[begin, end]| begin < end);
        (kept, empty.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_files::media::RgbFrame;

    fn push(cutter: &mut Cutter, image: RgbFrame) -> f64 {
        cutter.push(TimedFrame { image, time: 0.0, duration: 0.0 }.into()).unwrap()
    }

    fn frame(colour: impl Fn(usize, usize) -> [u8; 3]) -> RgbFrame {
        let (width, height) = (64, 48);
        let data = (0..width * height).flat_map(|at| colour(at % width, at / width)).collect();
        RgbFrame { width, height, data }
    }

    fn flat(colour: [u8; 3]) -> RgbFrame {
        frame(|_, _| colour)
    }

    /// A pattern that is smooth over many pixels, moved to the left.
    fn scene(kind: usize, shift: f64) -> RgbFrame {
        frame(|x, y| {
            let (u, v) = (x as f64 + shift, y as f64);
            let wave = |a: f64, b: f64| (128.0 + 100.0 * ((u * a + v * b) / 9.0).sin()) as u8;
            match kind {
                0 => [wave(0.3, 0.1), 180, 60],
                _ => [30, wave(0.1, 0.4), wave(0.2, 0.2)],
            }
        })
    }

    fn cut(method: Method, frames: impl IntoIterator<Item = RgbFrame>) -> Vec<[usize; 2]> {
        let settings = ShotSettings { method, trim: 0, ..ShotSettings::default() };
        let mut cutter = Cutter::new(&settings);
        for frame in frames {
            push(&mut cutter, frame);
        }
        cutter.finish().0
    }

    #[test]
    fn the_score_is_the_mean_of_three_differences() {
        let mut cutter = Cutter::new(&ShotSettings::default());
        assert_eq!(push(&mut cutter, flat([255, 0, 0])), 0.0);
        assert_eq!(push(&mut cutter, flat([0, 255, 0])), 20.0);
        assert_eq!(push(&mut cutter, flat([0, 255, 0])), 0.0);
    }

    #[test]
    fn a_cut_is_found_at_its_frame() {
        let clip = || (0..40).map(|t| scene(usize::from(t >= 23), f64::from(t) * 0.3));
        for method in [Method::Adaptive, Method::Content] {
            assert_eq!(cut(method, clip()), [[0, 23], [23, 40]], "{method:?}");
        }
        assert_eq!(cut(Method::None, clip()), [[0, 40]]);
        let trimmed = ShotSettings::default();
        let mut cutter = Cutter::new(&trimmed);
        clip().for_each(|frame| {
            push(&mut cutter, frame);
        });
        assert_eq!((cutter.frames(), cutter.finish()), (40, (vec![[2, 21], [25, 38]], 0)));
    }

    #[test]
    fn a_pan_and_stillness_have_no_cut() {
        for method in [Method::Adaptive, Method::Content] {
            assert_eq!(cut(method, (0..60).map(|t| scene(0, f64::from(t)))), [[0, 60]]);
            assert_eq!(cut(method, (0..60).map(|_| scene(1, 0.0))), [[0, 60]]);
        }
    }

    #[test]
    fn a_flash_is_no_cut() {
        // Frames 4 to 6 of a shot: nothing was cut yet, and it ends before a scene may be so short.
        let flash = |t: i32| match (4..7).contains(&t) {
            true => flat([255, 255, 255]),
            false => scene(0, f64::from(t) * 0.2),
        };
        assert_eq!(cut(Method::Content, (0..60).map(flash)), [[0, 60]]);
        assert_eq!(cut(Method::Adaptive, (0..60).map(flash)), [[0, 60]]);
    }

    #[test]
    fn cuts_that_follow_closely_are_merged_into_the_last() {
        let mut flashes = Flashes::default();
        let above = [20, 40, 43, 47];
        let cuts: Vec<usize> =
            (0..90).filter_map(|at| flashes.push(at, above.contains(&at), 15)).collect();
        // 43 and 47 come too soon, and never last long enough to be a cut of their own.
        assert_eq!(cuts, [20, 40]);
        let mut flashes = Flashes::default();
        let cuts: Vec<usize> = (0..90)
            .filter_map(|at| flashes.push(at, at == 20 || (25..45).contains(&at), 15))
            .collect();
        assert_eq!(cuts, [20, 44]);
    }

    #[test]
    fn fades_through_black_are_cuts_where_they_are_asked_for() {
        let level = |t: i32| match t {
            0..20 => 200 - 10 * t,
            20..26 => 0,
            _ => (10 * (t - 25)).min(200),
        };
        let clip = || (0..60).map(|t| flat([level(t) as u8; 3]));
        assert_eq!(cut(Method::Adaptive, clip()), [[0, 60]]);
        let settings = ShotSettings { fade: true, trim: 0, ..ShotSettings::default() };
        let mut cutter = Cutter::new(&settings);
        clip().for_each(|frame| {
            push(&mut cutter, frame);
        });
        // Black from 19 (level 10) to 26 (level 10) on; bright again at 27.
        assert_eq!(cutter.finish().0, [[0, 23], [23, 60]]);
    }

    #[test]
    fn shots_that_are_nothing_when_trimmed_are_counted() {
        let settings = ShotSettings { method: Method::None, ..ShotSettings::default() };
        for (frames, expected) in [(0, (vec![], 1)), (4, (vec![], 1)), (5, (vec![[2, 3]], 0))] {
            let mut cutter = Cutter::new(&settings);
            (0..frames).for_each(|_| {
                push(&mut cutter, flat([9; 3]));
            });
            assert_eq!(cutter.finish(), expected, "{frames}");
        }
    }
}
