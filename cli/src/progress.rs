//! Progress on standard error: one line that is redrawn on a terminal, a few plain lines elsewhere.
//!
//! Plain lines are written when a part of the work is complete, and now and then during long parts.
//! They contain no control characters, so logs stay readable.

use crate::output::{self, capable_terminal, duration, note};
use crate::render;
use std::io::Write;
use std::time::{Duration, Instant};

/// Least time between two drawings on a terminal.
const REDRAW: Duration = Duration::from_millis(80);
/// Least time between two plain lines inside one part of the work.
const LINE: Duration = Duration::from_secs(20);

/// Where progress is shown.
pub struct Progress {
    terminal: bool,
    quiet: bool,
    /// Whether the terminal shows a line that has to be removed before other text.
    open: bool,
    shown: Option<Instant>,
    part: String,
    begun: Instant,
}

impl Progress {
    /// Progress on standard error.
    pub fn new() -> Self {
        let terminal = capable_terminal();
        let quiet = output::quiet();
        Self {
            terminal,
            quiet,
            open: false,
            shown: None,
            part: String::new(),
            begun: Instant::now(),
        }
    }

    /// Begins a part of the work.
    pub fn part(&mut self, name: &str) {
        self.clear();
        name.clone_into(&mut self.part);
        self.begun = Instant::now();
        self.shown = (!self.terminal).then(Instant::now);
        if self.terminal && !self.quiet {
            self.draw(name);
        }
    }

    /// Time since the part began.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Shows that `done` of `total` are done; `text` is made only if it is shown.
    pub fn update(&mut self, done: u64, total: u64, text: impl FnOnce() -> String) {
        let complete = done >= total;
        let wait = if self.terminal { REDRAW } else { LINE };
        if self.quiet {
            return;
        }
        if !complete && self.shown.is_some_and(|at| at.elapsed() < wait) {
            return;
        }
        self.shown = Some(Instant::now());
        let line = format!("{}: {}", self.part, text());
        if self.terminal {
            self.draw(&line);
        } else {
            note(&line);
        }
    }

    /// Writes a line that stays, unless `--quiet` is given.
    pub fn note(&mut self, line: &str) {
        if !self.quiet {
            self.clear();
            note(line);
        }
    }

    /// Writes a line that stays if `--verbose` is given.
    pub fn detail(&mut self, line: &str) {
        if output::verbose() {
            self.clear();
            note(line);
        }
    }

    /// Writes a warning that stays.
    pub fn warn(&mut self, message: &str) {
        self.clear();
        render::warn(message);
    }

    /// Removes the line on the terminal.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.open) {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }

    fn draw(&mut self, line: &str) {
        // One row of a narrow terminal, since a wrapped line could not be redrawn.
        let line: String = line.chars().take(78).collect();
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "\r{line}\x1b[K").and_then(|()| err.flush());
        self.open = true;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// `, 12 s left` when `done` of `total` took `time`; empty when nothing can be said.
pub fn left(time: Duration, done: u64, total: u64) -> String {
    if done == 0 || done >= total {
        return String::new();
    }
    let rest = time.mul_f64((total - done) as f64 / done as f64);
    format!(", {} left", duration(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_follows_from_the_rate() {
        assert_eq!(left(Duration::from_secs(10), 1, 3), ", 20.0 s left");
        assert_eq!(left(Duration::from_secs(10), 3, 3), "");
        assert_eq!(left(Duration::ZERO, 0, 3), "");
    }
}
