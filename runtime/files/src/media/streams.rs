//! Which of a file's video streams is meant. Shared by both readers of video.
//!
//! Pictures attached to a file (cover art, chapter thumbnails) never win over video, nor streams
//! that are switched off over those that are on; among the rest the default one, then the largest.
//! Nothing is guessed beyond that: a tie is a question to the user.

use crate::error::{Error, Result};
use std::path::Path;

/// What there is to know of a video stream before it is decoded.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    /// What it is called in messages, such as `track 2`.
    pub name: String,
    /// Stored width in pixels.
    pub width: u64,
    /// Stored height in pixels.
    pub height: u64,
    /// Cover art, a thumbnail of a chapter: no video of its own.
    pub attached: bool,
    /// Switched off: players show it only when asked to.
    pub disabled: bool,
    /// Marked as the one to be shown.
    pub default: bool,
}

/// The place of the main stream, and a warning when there were others; `streams` holds only those
/// with frames, at least one.
///
/// # Errors
/// `E0835` when several are alike in all that decides.
pub(super) fn main_stream(path: &Path, streams: &[Stream]) -> Result<(usize, Option<String>)> {
    let rank = |s: &Stream| {
        let area = s.width.saturating_mul(s.height);
        (!s.attached, !s.disabled, s.default, area)
    };
    let best = streams.iter().map(rank).max();
    let mut winners = streams.iter().enumerate().filter(|(_, s)| Some(rank(s)) == best);
    let Some((chosen, stream)) = winners.next() else {
        return Err(Error::internal("E0835", "there is no stream to choose from"));
    };
    let name = |s: &Stream| format!("{} ({}x{})", s.name, s.width, s.height);
    let rivals: Vec<String> = winners.map(|(_, s)| name(s)).collect();
    if !rivals.is_empty() {
        let what = format!(
            "the file has several videos, and nothing says which is meant: {}, {}",
            name(stream),
            rivals.join(", ")
        );
        return Err(Error::input("E0835", what).at(path.display()).help(
            "keep one of them, for example the first: ffmpeg -i IN -map 0:v:0 -c copy OUT.mp4",
        ));
    }
    // Cover art beside a video is nothing to speak of.
    let others = streams.iter().enumerate().filter(|(index, s)| *index != chosen && !s.attached);
    let others: Vec<String> = others.map(|(_, s)| name(s)).collect();
    let mut warning = (!others.is_empty())
        .then(|| format!("{} is taken, not {}", name(stream), others.join(", ")));
    if stream.disabled && !stream.attached {
        warning = Some(format!("{} is switched off in the file: shown all the same", name(stream)));
    }
    Ok((chosen, warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str, side: u64) -> Stream {
        Stream { name: name.to_string(), width: side, height: side, ..Stream::default() }
    }

    fn pick(streams: &[Stream]) -> (usize, Option<String>) {
        main_stream(Path::new("x.mp4"), streams).unwrap()
    }

    #[test]
    fn the_main_stream_is_on_default_and_large() {
        assert_eq!(pick(&[stream("a", 9)]), (0, None));
        let cover = Stream { attached: true, ..stream("cover", 999) };
        assert_eq!(pick(&[cover.clone(), stream("b", 9)]), (1, None));
        assert_eq!(pick(&[cover]), (0, None));
        let off = Stream { disabled: true, ..stream("off", 99) };
        let (chosen, warning) = pick(&[off.clone(), stream("b", 9)]);
        assert_eq!((chosen, warning.unwrap().as_str()), (1, "b (9x9) is taken, not off (99x99)"));
        let (chosen, warning) = pick(&[off]);
        assert!(chosen == 0 && warning.unwrap().contains("switched off"));
        let default = Stream { default: true, ..stream("default", 9) };
        assert_eq!(pick(&[stream("a", 99), default]).0, 1);
        assert_eq!(pick(&[stream("a", 9), stream("b", 99)]).0, 1);
    }

    #[test]
    fn a_tie_is_a_question() {
        let error = main_stream(Path::new("x.mp4"), &[stream("a", 9), stream("b", 9)]).unwrap_err();
        assert_eq!(error.code(), "E0835");
        assert!(error.message().contains("a (9x9), b (9x9)"), "{error}");
    }
}
