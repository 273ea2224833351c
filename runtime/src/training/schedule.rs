//! The learning rate over a run: it rises, stays, and falls.
//!
//! The share of an update depends on its number and the settings alone, so a run that goes on has the
//! rates that it would have had.

use super::settings::TrainSettings;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How the rate falls over the last part of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Not at all.
    #[default]
    Constant,
    /// By the same amount in each update.
    Linear,
    /// As half a wave of the cosine.
    Cosine,
}

/// What the rates count in update `step` (from 1): over the warmup they rise, update by update, to 1; with a
/// share r = (1 − (step − 1)/steps) / decay of the last part still to come, they fall as r, or as
/// (1 − cos πr)/2, but not below `floor`.
pub fn share(train: &TrainSettings, step: u64) -> f64 {
    let rise = if train.warmup > 0 { (step as f64 / train.warmup as f64).min(1.0) } else { 1.0 };
    let left = 1.0 - step.saturating_sub(1) as f64 / train.steps as f64;
    let rest = (left / train.decay).clamp(0.0, 1.0);
    let fall = match train.schedule {
        Schedule::Constant => return rise,
        Schedule::Linear => rest,
        Schedule::Cosine => (1.0 - (PI * rest).cos()) / 2.0,
    };
    rise * fall.max(train.floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(schedule: Schedule) -> TrainSettings {
        let (steps, warmup) = (100, 10);
        TrainSettings { schedule, steps, warmup, floor: 0.03, ..TrainSettings::default() }
    }

    #[test]
    fn rates_rise_stay_and_fall_over_the_last_part() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        let linear = |step| share(&train(Schedule::Linear), step);
        near(linear(1), 0.1);
        near(linear(10), 1.0);
        // The last 35 of 100: update 66 is the first with all of them to come.
        near(linear(66), 1.0);
        near(linear(67), 34.0 / 35.0);
        near(linear(84), 17.0 / 35.0);
        near(linear(99), 2.0 / 35.0);
        near(linear(100), 0.03);
        let cosine = |step| share(&train(Schedule::Cosine), step);
        near(cosine(66), 1.0);
        near(cosine(84), (1.0 - (PI * 17.0 / 35.0).cos()) / 2.0);
        near(cosine(100), 0.03);
        let constant = |step| share(&train(Schedule::Constant), step);
        assert_eq!((constant(5), constant(10), constant(100)), (0.5, 1.0, 1.0));
    }

    #[test]
    fn a_part_may_be_the_whole_run_and_the_end_is_not_passed() {
        let train = TrainSettings { decay: 1.0, warmup: 0, floor: 0.0, ..train(Schedule::Linear) };
        assert_eq!((share(&train, 1), share(&train, 51), share(&train, 101)), (1.0, 0.5, 0.0));
    }
}
