//! Makes the videos of the queue, one after the other, on one thread.
//!
//! The pipeline keeps its networks loaded between videos. A video that cannot be made is recorded as
//! failed with its code, and the next one is begun. One in the middle of which the process ended goes on
//! from the state of its sampling.

use crate::Making;
use crate::job::{Progress, RATE, Status};
use crate::queue::{Outcome, Queue, Work, is_full};
use anyid_runtime::files::write_error;
use anyid_runtime::safeguards::Safeguards;
use anyid_runtime::{Error, Event, FileOptions, Kind, Pipeline, ReferenceSource, Request, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Warnings that are kept of one video.
const WARNINGS: usize = 20;

/// What the thread works with.
pub struct Worker {
    pub queue: Arc<Queue>,
    pub pipeline: Arc<Pipeline>,
    pub making: Making,
    pub safeguards: Arc<Safeguards>,
    /// Threads for marking frames.
    pub threads: usize,
    /// Time for one video.
    pub most: Option<Duration>,
    /// Set when the process is told to end.
    pub stop: Arc<AtomicBool>,
    /// Is told what happens, for whoever runs the server.
    pub log: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Worker {
    /// Works until the queue stops.
    pub fn run(&self) {
        while let Some(work) = self.queue.take() {
            (self.log)(&format!("{} begins", work.id));
            let begun = Instant::now();
            // A bug of ours costs this video and not the others.
            let made = catch_unwind(AssertUnwindSafe(|| self.make(&work))).unwrap_or_else(|_| {
                Err(Error::internal("E1000", "a broken invariant while the video was made"))
            });
            let late = self.most.filter(|most| begun.elapsed() > *most);
            let outcome = match (made, late) {
                (Ok(warnings), _) => Outcome::Made(warnings),
                (Err(error), _) if is_full(&error) => Outcome::NoRoom(error),
                (Err(error), _) if error.kind() != Kind::Interrupted => Outcome::Failed(error),
                (Err(_), Some(most)) if !self.stop.load(Ordering::Relaxed) => {
                    let what = format!("this video took more than {} seconds", most.as_secs_f64());
                    Outcome::Failed(Error::input("E1415", what).help(
                        "ask for fewer steps, fewer frames or a smaller size; whoever runs the \
                         server can allow more: --most-minutes",
                    ))
                }
                (Err(_), _) => Outcome::Stopped,
            };
            let fault = match &outcome {
                Outcome::Failed(error) | Outcome::NoRoom(error) => {
                    format!(": [{}] {}", error.code(), error.message())
                }
                Outcome::Made(_) | Outcome::Stopped => String::new(),
            };
            let time = begun.elapsed().as_secs_f64();
            match self.queue.finish(&work, outcome) {
                Ok(status) => {
                    let status = status.map_or("deleted", Status::name);
                    (self.log)(&format!("{} is {status} after {time:.1} s{fault}", work.id));
                }
                Err(error) => (self.log)(&format!("{}: {error}", work.id)),
            }
        }
    }

    /// Makes one video; the warnings of the run. It goes on from the state of an earlier run, unless that
    /// is of no use any more, such as one of another version of the program.
    fn make(&self, work: &Work) -> Result<Vec<String>> {
        let found = work.state.exists();
        match self.attempt(work) {
            Err(error) if found && is_of_state(&error, &work.state) => {
                (self.log)(&format!("{} begins anew: {}", work.id, error.message()));
                std::fs::remove_file(&work.state).map_err(|e| write_error(&work.state, e))?;
                self.attempt(work)
            }
            made => made,
        }
    }

    fn attempt(&self, work: &Work) -> Result<Vec<String>> {
        let Making { budget, tiles, precision, residual } = self.making;
        let references = work.references.iter().cloned().map(ReferenceSource::File).collect();
        let request =
            Request { references, budget, tiles, precision, residual, ..work.settings.request()? };
        let state = Some(work.state.clone());
        let options = FileOptions { fps: RATE, recipe: true, state, ..FileOptions::default() };
        let (begun, mut warnings, mut course) = (Instant::now(), Vec::new(), Course::default());
        let mut see = |event: Event| {
            if self.most.is_some_and(|most| begun.elapsed() > most) {
                work.cancel.cancel();
            }
            if let Event::Warning(text) = &event
                && warnings.len() < WARNINGS
            {
                warnings.push(text.clone());
            }
            if let Event::Resumed { done, total } = event {
                (self.log)(&format!("{} goes on behind step {done} of {total}", work.id));
            }
            if let Some(progress) = course.see(&event) {
                self.queue.progress(progress);
            }
        };
        self.safeguards.generate_to_file(
            &self.pipeline,
            &request,
            &work.output,
            &options,
            self.threads,
            &work.cancel,
            &mut see,
        )?;
        Ok(warnings)
    }
}

/// Whether an error is about the state that a run would go on from.
fn is_of_state(error: &Error, state: &Path) -> bool {
    let there = error.place().is_some_and(|place| Path::new(place) == state);
    !is_full(error) && (there || ["E1301", "E1302"].contains(&error.code()))
}

/// How far a run is, by its events.
#[derive(Default)]
struct Course(Progress);

/// Of a hundred, where the parts of a run end.
const READ: usize = 2;
const TEXT: usize = 4;
const ENCODED: usize = 10;
const SAMPLED: usize = 88;
const DECODED: usize = 99;

impl Course {
    /// The progress, if the event is about that.
    fn see(&mut self, event: &Event) -> Option<Progress> {
        let between = |from: usize, to: usize, done: usize, total: usize| {
            from + (to - from) * done.min(total) / total.max(1)
        };
        let (percent, stage) = match event {
            Event::Reading { reference, references, .. } => {
                let read = reference.saturating_sub(1);
                (between(0, READ, read, *references), ("reading", read, *references))
            }
            Event::Phase(name) => {
                let percent = match *name {
                    "text" => READ,
                    "references" => TEXT,
                    "sampling" => ENCODED,
                    "decoding" => SAMPLED,
                    _ => 0,
                };
                (percent, (*name, 0, 0))
            }
            Event::Encoded { done, total, .. } => {
                (between(TEXT, ENCODED, *done, *total), ("references", *done, *total))
            }
            Event::Step { done, total, .. } | Event::Resumed { done, total } => {
                (between(ENCODED, SAMPLED, *done, *total), ("sampling", *done, *total))
            }
            Event::Decoded { done, total } => {
                (between(SAMPLED, DECODED, *done, *total), ("decoding", *done, *total))
            }
            Event::Warning(_)
            | Event::Detail(_)
            | Event::Finished(_)
            | Event::Loading { .. }
            | Event::Preview { .. } => {
                return None;
            }
        };
        let percent = u8::try_from(percent).unwrap_or(u8::MAX).max(self.0.percent);
        self.0 = Progress { percent, stage: Some(stage) };
        Some(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_goes_one_way_and_ends_before_the_file_is_there() {
        let mut course = Course::default();
        let time = Duration::ZERO;
        let events = [
            Event::Reading { reference: 1, references: 2, frames: 1 },
            Event::Reading { reference: 2, references: 2, frames: 1 },
            Event::Phase("text"),
            Event::Phase("references"),
            Event::Encoded { reference: Some(1), references: 2, done: 2, total: 4 },
            Event::Phase("sampling"),
            Event::Step { done: 1, total: 2, time },
            Event::Step { done: 2, total: 2, time },
            Event::Phase("decoding"),
            Event::Decoded { done: 5, total: 5 },
            // A phase that is done anew does not turn it back.
            Event::Phase("text"),
        ];
        let seen: Vec<u8> = events.iter().map(|event| course.see(event).unwrap().percent).collect();
        assert_eq!(seen, [0, 1, 2, 4, 7, 10, 49, 88, 88, 99, 99]);
        assert_eq!(course.see(&Event::Warning("w".into())), None);
    }
}
