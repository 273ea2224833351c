//! When frames are shown, and what changes on the way.
//!
//! Frames keep the times that the file gives them. Where these are a constant rate to within the
//! file's own clock, the exact rate is used: milliseconds would make 23.976 out of 24. Times that
//! are missing or go back are repaired, so that every frame is later than the one before. Frames
//! themselves are not looked at.

use super::log::Note;
use crate::error::Result;
use crate::media::{RgbFrame, TimedFrame, Visit};
use std::ops::ControlFlow;

/// Rates above this are guesses from a clock, not rates.
const RATE_LIMIT: f64 = 1000.0;
/// The rate of streams without a clock.
const RATE_WITHOUT_CLOCK: (u64, u64) = (25, 1);

/// Hands out frames one behind, as the time that a frame stays is that to the next.
#[derive(Default)]
pub(super) struct Shown {
    held: Option<(RgbFrame, f64)>,
    /// Frames handed out.
    pub count: usize,
    /// How long the last of them stayed.
    pub last: f64,
}

impl Shown {
    /// Takes the next frame and hands out the one before it.
    pub(super) fn next(
        &mut self,
        image: RgbFrame,
        time: f64,
        visit: Visit<'_>,
    ) -> Result<ControlFlow<()>> {
        match self.held.replace((image, time)) {
            Some((image, before)) => self.give(image, before, time - before, visit),
            None => Ok(ControlFlow::Continue(())),
        }
    }

    /// The last frame stays as long as the one before it, or for `step`.
    pub(super) fn end(&mut self, step: f64, visit: Visit<'_>) -> Result<ControlFlow<()>> {
        let stays = if self.count > 0 { self.last } else { step };
        match self.held.take() {
            Some((image, time)) => self.give(image, time, stays, visit),
            None => Ok(ControlFlow::Continue(())),
        }
    }

    fn give(
        &mut self,
        image: RgbFrame,
        time: f64,
        duration: f64,
        visit: Visit<'_>,
    ) -> Result<ControlFlow<()>> {
        self.count += 1;
        self.last = duration;
        visit(TimedFrame { image, time, duration })
    }
}

/// Times of frames: those of the file, or an exact rate where they are one.
pub(super) struct Clock {
    rate: (u64, u64),
    /// How far a time may be from the rate by the file's rounding alone.
    slack: f64,
    first: Option<f64>,
    count: u64,
    last: f64,
    /// The times have left the rate.
    free: bool,
}

impl Clock {
    /// For a stream with this first frame.
    pub(super) fn new(note: &Note) -> Self {
        let usable = |(over, under): &(u64, u64)| *over as f64 / *under as f64 <= RATE_LIMIT;
        let rate = note.rate.filter(usable).unwrap_or(RATE_WITHOUT_CLOCK);
        // Half a tick for each of the two times that are compared.
        let slack = note.tick.clamp(0.0, 0.5 * rate.1 as f64 / rate.0 as f64) + 1e-6;
        Self { rate, slack, first: None, count: 0, last: 0.0, free: false }
    }

    /// Seconds from frame to frame at the nominal rate.
    pub(super) fn step(&self) -> f64 {
        self.rate.1 as f64 / self.rate.0 as f64
    }

    /// The time of the next frame, from 0; later than the one before.
    pub(super) fn time(&mut self, said: Option<f64>) -> f64 {
        let number = self.count;
        self.count += 1;
        let exact = number as f64 * self.rate.1 as f64 / self.rate.0 as f64;
        let said = said.map(|said| said - *self.first.get_or_insert(said));
        let mut time = match said {
            Some(said) if self.free || (said - exact).abs() > self.slack => {
                self.free = true;
                said
            }
            _ if self.free => self.last + self.step(),
            _ => exact,
        };
        if number > 0 && time <= self.last {
            time = self.last + self.step();
        }
        self.last = time;
        time
    }

    /// Mean frames a second of `count` frames, the last of which stays for `last`.
    pub(super) fn rate(&self, count: usize, last: f64) -> Option<f64> {
        if !self.free {
            return Some(self.rate.0 as f64 / self.rate.1 as f64);
        }
        let total = self.last + last;
        (total > 0.0).then(|| count as f64 / total)
    }
}

/// What differs from the first frame, said once each.
pub(super) struct Changes {
    first: Note,
    /// In words.
    pub warnings: Vec<String>,
    size: bool,
    fields: bool,
    colours: bool,
}

impl Changes {
    /// Compared with this first frame.
    pub(super) fn new(first: Note) -> Self {
        let fields = first.interlaced;
        Self { first, warnings: Vec::new(), size: false, fields, colours: false }
    }

    /// Looks at a frame.
    pub(super) fn look(&mut self, note: Option<&Note>) {
        let Some(note) = note else { return };
        let mut once = |said: &mut bool, differs: bool, what: &str| {
            if differs && !*said {
                *said = true;
                self.warnings.push(format!("{what} at frame {}", note.number));
            }
        };
        let first = &self.first;
        let size = note.size != first.size || note.pixels != first.pixels;
        once(&mut self.size, size, "the picture size changes: scaled to the first, from there on,");
        once(&mut self.fields, note.interlaced, "interlaced, and not deinterlaced: it begins");
        once(&mut self.colours, note.tags != first.tags, "the description of its colours changes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(rate: (u64, u64), tick: f64) -> Clock {
        Clock::new(&Note { rate: Some(rate), tick, ..Note::default() })
    }

    #[test]
    fn rounded_times_of_a_rate_become_the_rate() {
        let mut clock = clock((30000, 1001), 0.001);
        for n in 0..500 {
            let exact = n as f64 * 1001.0 / 30000.0;
            let said = 7.0 + (exact * 1000.0).round() / 1000.0;
            assert!((clock.time(Some(said)) - exact).abs() < 1e-12);
        }
        assert_eq!(clock.rate(500, 1.0), Some(30000.0 / 1001.0));
    }

    #[test]
    fn times_of_their_own_are_kept() {
        let mut clock = clock((10, 1), 0.001);
        let times: Vec<f64> =
            [5.0, 5.1, 5.2, 5.5, 6.5].iter().map(|t| clock.time(Some(*t))).collect();
        for (time, right) in times.iter().zip([0.0, 0.1, 0.2, 0.5, 1.5]) {
            assert!((time - right).abs() < 1e-9, "{times:?}");
        }
        assert!((clock.rate(5, 1.0).unwrap() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn missing_and_broken_times_still_go_forward() {
        let mut clock = clock((25, 1), 0.001);
        let said = [Some(0.0), None, Some(-3.0), Some(0.1), None, Some(f64::MIN)];
        let times: Vec<f64> = said.iter().map(|t| clock.time(*t)).collect();
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
        let mut without = Clock::new(&Note::default());
        assert_eq!([without.time(None), without.time(None)], [0.0, 0.04]);
    }
}
