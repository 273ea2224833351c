//! What `generate` says while it works: what is going to be made, and progress from events.

use crate::output::{self, bytes, duration};
use crate::progress::{Progress, left};
use crate::recipe::Recipe;
use anyid_runtime::{Event, Model};
use std::time::Duration;

/// Says what is going to be made.
pub(super) fn introduce(
    progress: &mut Progress,
    made: &Recipe,
    old: Option<&Recipe>,
    model: &Model,
) {
    if model.source == "built-in micro model" {
        progress.note("using the built-in micro model; --model DIR takes a real one");
    }
    if made.references.is_empty() {
        progress.note("no references: plain text-to-video");
    }
    if let Some(old) = old {
        if old.product != made.product {
            let (then, now) = (&old.product, &made.product);
            progress.warn(&format!(
                "the recipe is from version {then}, this is {now}: details may differ"
            ));
        }
        if old.instructions != made.instructions {
            let (then, now) = (&old.instructions, &made.instructions);
            progress.warn(&format!(
                "the recipe's run used {then} instructions, this machine {now}: the last bits of \
                 values differ"
            ));
        }
    }
    let [width, height, frames] = made.size;
    let references = output::plural(made.references.len(), "reference");
    progress.note(&format!(
        "{width}x{height}, {}, {}, {references}, {}",
        output::plural(frames, "frame"),
        output::plural(made.steps, "step"),
        made.precision
    ));
    if made.noise.is_none() {
        progress.note(&format!("seed {}", made.seed));
    }
}

/// Turns events into progress.
pub(super) struct Watcher<'w> {
    pub(super) progress: &'w mut Progress,
    /// Time of the steps so far.
    pub(super) steps: Duration,
    pub(super) warnings: &'w mut Vec<String>,
}

impl Watcher<'_> {
    pub(super) fn see(&mut self, event: Event) {
        match event {
            Event::Warning(text) => {
                self.progress.warn(&text);
                self.warnings.push(text);
            }
            Event::Phase(name) => self.progress.part(name),
            Event::Loading { done, total } => {
                let time = self.progress.elapsed();
                // Small weights are there at once; a line about them would be noise.
                if time < Duration::from_secs(1) {
                    return;
                }
                self.progress.update(done, total, || {
                    let rate = done as f64 / time.as_secs_f64().max(1e-3);
                    let (have, all) = (bytes(done), bytes(total));
                    format!("loading weights, {have} of {all}, {}/s", bytes(rate as u64))
                });
            }
            Event::Encoded { done, total } => {
                self.progress
                    .update(done as u64, total as u64, || format!("{done} of {total} encoded"));
            }
            Event::Step { done, total, time } => {
                self.steps += time;
                let steps = self.steps;
                self.progress.update(done as u64, total as u64, || {
                    let each = duration(steps.div_f64(done as f64));
                    let left = left(steps, done as u64, total as u64);
                    format!("step {done} of {total}, {each} a step{left}")
                });
            }
            Event::Decoded { done, total } => {
                let time = self.progress.elapsed();
                self.progress.update(done as u64, total as u64, || {
                    format!("frame {done} of {total}{}", left(time, done as u64, total as u64))
                });
            }
        }
    }
}
