//! Frames of videos and pictures: how many there are, and those that are looked at.
//!
//! Videos of different systems have different lengths and rates, so that frames are chosen by their
//! share of the way through. A file is decoded twice: to count, and to take frames out, so that a few
//! frames are held and not all.

use crate::run::Moment;
use anyid_files::media::{MediaKind, ReadOptions, visit_frames};
use anyid_files::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Frames; 1 of a picture.
    pub frames: usize,
    /// Frames a second; none of a picture.
    pub fps: Option<f64>,
    /// Whether it has several frames.
    pub clip: bool,
    /// How long it is.
    pub seconds: f64,
}

/// Counts the frames of a file.
///
/// # Errors
/// Those of decoding.
pub fn facts(path: &Path) -> Result<Facts> {
    let (mut frames, mut seconds) = (0, 0.0);
    let info = visit_frames(path, &ReadOptions::default(), &mut |frame| {
        frames += 1;
        seconds = frame.time + frame.duration;
        Ok(ControlFlow::Continue(()))
    })?;
    let clip = info.kind == MediaKind::Video && frames > 1;
    Ok(Facts {
        width: info.width,
        height: info.height,
        frames,
        fps: info.fps,
        clip,
        seconds: if clip { seconds } else { 0.0 },
    })
}

/// Numbers of `count` frames spread evenly over `total`, both ends among them: those of
/// `round(linspace(0, total - 1, count))`, a half to the even number. A short video has some twice.
pub fn spread(total: usize, count: usize) -> Vec<usize> {
    let last = total.saturating_sub(1);
    let step = last as f64 / count.saturating_sub(1).max(1) as f64;
    let place = |at: usize| match at + 1 == count && count > 1 {
        true => last,
        false => (at as f64 * step).round_ties_even() as usize,
    };
    (0..count).map(place).collect()
}

/// The frames of these numbers.
///
/// # Errors
/// Those of decoding; E0810 where the file has fewer frames than before.
pub fn take(path: &Path, wanted: &BTreeSet<usize>) -> Result<BTreeMap<usize, Moment>> {
    let mut found = BTreeMap::new();
    let last = wanted.last().copied().unwrap_or(0);
    let mut at = 0;
    visit_frames(path, &ReadOptions::default(), &mut |frame| {
        if wanted.contains(&at) {
            found.insert(at, Moment { seconds: frame.time, image: frame.image });
        }
        at += 1;
        Ok(if at > last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    match found.len() == wanted.len() {
        true => Ok(found),
        false => Err(Error::input("E0810", format!("the file has {at} frames, fewer than before"))
            .at(path.display())
            .help("wait until it is written as a whole, and start again")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_numpy() {
        // np.round(np.linspace(0, T - 1, n)).astype(int)
        assert_eq!(
            spread(121, 16),
            [0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120]
        );
        assert_eq!(spread(5, 8), [0, 1, 1, 2, 2, 3, 3, 4]);
        assert_eq!(spread(2, 3), [0, 0, 1]);
        assert_eq!(spread(4, 3), [0, 2, 3]);
        assert_eq!(spread(1, 4), [0; 4]);
        assert_eq!(spread(9, 1), [0]);
    }
}
