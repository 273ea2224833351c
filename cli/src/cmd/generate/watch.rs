//! What `generate` prints while it works: what is going to be made, and its progress.

use crate::output::{self, bytes, duration};
use crate::pictures;
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
    sampling: bool,
) {
    if model.is_built_in() {
        progress.note(
            "using the built-in model, which knows people of its drawn world alone, such as those in \
             examples/characters; --model DIR takes another",
        );
        if sampling && !made.references.is_empty() {
            progress.note("a photograph as a reference is outside of that world");
        }
    }
    if sampling && made.references.is_empty() {
        progress.note("no references: plain text-to-video");
    }
    if let Some(old) = old {
        if old.product != made.product {
            let (then, now) = (&old.product, &made.product);
            progress.warn(&format!(
                "the recipe is from version {then}, this is {now}: details may differ"
            ));
        }
        if old.model.fingerprints != made.model.fingerprints {
            progress.warn("the model is not that of the recipe's run: the result is another one");
        }
        let then = [old.device.as_str(), &old.instructions];
        if let Some(warning) = elsewhere(then, [&made.device, &made.instructions]) {
            progress.warn(&warning);
        }
    }
    let [width, height, frames] = made.size;
    let references = output::plural(made.references.len(), "reference");
    if !sampling {
        let frames = output::plural(frames, "frame");
        progress.note(&format!("{width}x{height}, {frames}, decoded from latents"));
        return;
    }
    for adapter in &made.adapters {
        let (path, scale) = (adapter.file.path.display(), adapter.scale);
        progress.note(&format!("adapter {path}, scale {scale}"));
    }
    progress.note(&format!(
        "{width}x{height}, {}, {}, {references}, {}",
        output::plural(frames, "frame"),
        output::plural(made.steps, "step"),
        made.precision
    ));
    let choices = &made.choices;
    if let Some(first) = &choices.first_frame {
        progress.note(&format!("the first frame is {}", first.path.display()));
    }
    if choices.negative_prompt.is_some() {
        progress.note(match made.guidance == 1.0 {
            true => "guidance is 1, so that the negative prompt has no effect",
            false => {
                "guidance leads away from the negative prompt with black references, not from the null \
                 state that models for references learn, which has the empty prompt"
            }
        });
    }
    if let Some(threshold) = choices.cache {
        progress.note(&format!("steps may be left out: easycache, threshold {threshold}"));
    }
    progress.detail(&format!("computed on {}, instructions: {}", made.device, made.instructions));
    if made.noise.is_none() {
        progress.note(&format!("seed {}", made.seed));
    }
}

/// What a recipe repeated on another device means; `None` on one that gives the same bits. Each is a
/// device and its instructions.
fn elsewhere([then, there]: [&str; 2], [now, here]: [&str; 2]) -> Option<String> {
    let kind = |device: &str| device.split(':').next().unwrap_or_default().to_owned();
    if kind(then) != kind(now) {
        return Some(format!(
            "the recipe's run computed on {then} ({there}), this one computes on {now} ({here}): the \
             last bits of values differ; --device {then} takes the same device"
        ));
    }
    (there != here).then(|| {
        format!(
            "the recipe's run used {there} instructions, {now} uses {here}: the last bits of values \
             differ"
        )
    })
}

/// Turns events into progress.
pub(super) struct Watcher<'w> {
    pub(super) progress: &'w mut Progress,
    /// Time of the steps so far.
    pub(super) steps: Duration,
    pub(super) warnings: &'w mut Vec<String>,
    /// The reference being read, from 1; 0 before the first.
    pub(super) reading: usize,
    /// Steps that an earlier run has made.
    pub(super) resumed: usize,
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
                // Small weights load at once, so a line about them would only be noise.
                if time < Duration::from_secs(1) {
                    return;
                }
                self.progress.update(done, total, || {
                    let rate = done as f64 / time.as_secs_f64().max(1e-3);
                    let (have, all) = (bytes(done), bytes(total));
                    format!("loading weights, {have} of {all}, {}/s", bytes(rate as u64))
                });
            }
            Event::Detail(text) => self.progress.detail(&text),
            Event::Finished(phase) => self.progress.detail(&format!(
                "{} took {}, with {} of weights and {} planned",
                phase.name,
                duration(phase.time),
                bytes(phase.weight_bytes),
                bytes(phase.plan_bytes)
            )),
            Event::Reading { reference, references, frames } => {
                if self.reading != reference {
                    self.reading = reference;
                    self.progress.part("reading");
                }
                // The number of frames is not known before the last one.
                self.progress.update(frames as u64, u64::MAX, || {
                    let frames = output::plural(frames, "frame");
                    format!("reference {reference} of {references}, {frames}")
                });
            }
            Event::Encoded { reference, references, done, total } => {
                let time = self.progress.elapsed();
                self.progress.update(done as u64, total as u64, || {
                    let what = match reference {
                        Some(reference) => format!("reference {reference} of {references}"),
                        None if references == 0 => "the first frame".to_owned(),
                        None if done == total => {
                            format!("{} encoded", output::plural(references, "reference"))
                        }
                        None => "black references for guidance".to_owned(),
                    };
                    format!("{what}{}", left(time, done as u64, total as u64))
                });
            }
            Event::Resumed { done, total } => {
                self.resumed = done;
                self.progress.note(&format!("going on behind step {done} of {total}"));
            }
            Event::Step { done, total, time } => {
                self.steps += time;
                let (steps, own) = (self.steps, done - self.resumed);
                self.progress.update(done as u64, total as u64, || {
                    let each = duration(steps.div_f64(own as f64));
                    let left = left(steps, own as u64, (total - self.resumed) as u64);
                    format!("step {done} of {total}, {each} a step{left}")
                });
            }
            Event::Preview { done, png } => {
                if let Some(protocol) = pictures::protocol() {
                    self.progress.note(&format!("preview behind step {done}:"));
                    output::note(&protocol.shown(&png));
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_on_another_device_says_what_that_means() {
        let said = |[then, there]: [&str; 2], [now, here]: [&str; 2]| {
            elsewhere([then, there], [now, here])
        };
        assert_eq!(said(["cpu", "avx2"], ["cpu", "avx2"]), None);
        assert_eq!(said(["cuda:0", "sm_90a, NVRTC 13.0"], ["cuda:1", "sm_90a, NVRTC 13.0"]), None);
        let other = said(["cpu", "avx2"], ["cpu", "amx"]).unwrap();
        assert!(other.contains("avx2 instructions, cpu uses amx"), "{other}");
        let gpu = said(["cuda:0", "sm_90a, NVRTC 13.0"], ["cpu", "avx2"]).unwrap();
        assert!(gpu.contains("computed on cuda:0") && gpu.contains("--device cuda:0"), "{gpu}");
        let newer = said(["cuda:0", "sm_90a, NVRTC 13.0"], ["cuda:0", "sm_90a, NVRTC 13.1"]);
        assert!(newer.unwrap().contains("last bits"));
    }
}
