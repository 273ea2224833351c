//! Steps that are not evaluated: EasyCache (Zhou et al., "Less is Enough: Training-Free Video
//! Diffusion Acceleration via Runtime-Adaptive Caching", 2025).
//!
//! What the network adds to its latents, v − x, changes slowly in the middle of a run. How fast is
//! measured where the network is evaluated: k = mean|v_i − v_{i−1}| / mean|x_i − x_{i−1}|. In front of
//! each step the change of v that k predicts, relative to mean|v|, is added up; while the sum stays
//! below a threshold the step takes v = x + (v − x of the last evaluation), and otherwise the network
//! is evaluated and the sum begins again at 0. The first steps and the last one are always evaluated.
//! The decision depends on values of the run alone, so a run is repeatable; it is another run than
//! without a cache.

use super::{Fill, first_non_finite, state_buffer};
use crate::error::{Error, Result};

/// Steps at the beginning that are always evaluated: two give the first rate, and the picture is laid
/// out in them.
const FIRST: usize = 3;
/// Names under which a state keeps it.
const KEPT: [&str; 4] = ["latents", "velocity", "added", "added_null"];
/// Name of what it keeps as numbers.
const NUMBERS: &str = "numbers";

/// Checks a threshold: a number above 0, at most 1.
///
/// # Errors
/// E1306 for anything else.
pub fn check_threshold(threshold: f64) -> Result<()> {
    if threshold > 0.0 && threshold <= 1.0 {
        return Ok(());
    }
    let message =
        format!("the threshold of the step cache is {threshold}, not above 0 and up to 1");
    Err(Error::input("E1306", message)
        .help("0.05 leaves out few steps, 0.2 many; without the option every step is evaluated"))
}

/// What is kept of earlier steps.
#[derive(Debug)]
pub struct StepCache {
    threshold: f32,
    steps: usize,
    /// x and v of the step before.
    latents: Vec<f32>,
    velocity: Vec<f32>,
    /// v − x of the last evaluation, of each branch of guidance.
    added: Vec<Vec<f32>>,
    /// Rate of change of the velocity; negative before it is known.
    rate: f32,
    /// The change since the last evaluation.
    change: f32,
    /// Steps that were evaluated; as a number of f32, exact up to 1000.
    evaluated: f32,
    /// Whether the last evaluation was of so many branches.
    branches: f32,
}

impl StepCache {
    /// A cache for `steps` steps of latents with `elements` values and so many branches of guidance.
    ///
    /// # Errors
    /// E1306 for a bad threshold, E0927 without memory.
    pub fn new(threshold: f64, steps: usize, elements: usize, branches: usize) -> Result<Self> {
        check_threshold(threshold)?;
        Ok(Self {
            threshold: threshold as f32,
            steps,
            latents: state_buffer(elements)?,
            velocity: state_buffer(elements)?,
            added: (0..branches).map(|_| state_buffer(elements)).collect::<Result<_>>()?,
            rate: -1.0,
            change: 0.0,
            evaluated: 0.0,
            branches: 0.0,
        })
    }

    /// Buffers of the latent's size that it holds with so many branches.
    pub fn buffers(branches: usize) -> usize {
        2 + branches
    }

    /// Steps that were evaluated so far.
    pub fn evaluated(&self) -> usize {
        self.evaluated as usize
    }

    /// The change since the last evaluation if step `index` at `latents` can be left out, with so many
    /// branches; none if it is to be evaluated.
    pub fn change(&self, index: usize, latents: &[f32], branches: usize) -> Option<f32> {
        let fixed = index < FIRST || index + 1 >= self.steps || self.rate < 0.0;
        if fixed || branches as f32 > self.branches {
            return None;
        }
        let size = mean(self.velocity.iter().copied());
        let moved = difference(latents, &self.latents);
        let change = self.change + self.rate * moved / size.max(f32::MIN_POSITIVE);
        // NaN is not less.
        (change < self.threshold).then_some(change)
    }

    /// Takes in a step that was evaluated: its latents and the velocity of each branch.
    pub fn learn(&mut self, index: usize, latents: &[f32], velocities: &[&[f32]]) {
        if index > 0 {
            let moved = difference(latents, &self.latents);
            let turned = difference(velocities[0], &self.velocity);
            if moved > 0.0 && turned.is_finite() {
                self.rate = turned / moved;
            }
        }
        for (added, velocity) in self.added.iter_mut().zip(velocities) {
            for ((added, v), x) in added.iter_mut().zip(*velocity).zip(latents) {
                *added = v - x;
            }
        }
        self.latents.copy_from_slice(latents);
        self.velocity.copy_from_slice(velocities[0]);
        self.change = 0.0;
        self.evaluated += 1.0;
        self.branches = velocities.len() as f32;
    }

    /// Writes the velocity of a branch in a step that is left out.
    pub fn predict(&self, branch: usize, latents: &[f32], out: &mut [f32]) {
        for ((out, x), added) in out.iter_mut().zip(latents).zip(&self.added[branch]) {
            *out = x + added;
        }
    }

    /// Takes in a step that was left out, whose first branch has `velocity`, with its change.
    pub fn left_out(&mut self, latents: &[f32], velocity: &[f32], change: f32) {
        self.change = change;
        self.latents.copy_from_slice(latents);
        self.velocity.copy_from_slice(velocity);
    }

    /// What it keeps, by name, with the size of the latents.
    pub fn kept(&self) -> Vec<(&'static str, &[f32])> {
        let first = [self.latents.as_slice(), self.velocity.as_slice()];
        let all = first.into_iter().chain(self.added.iter().map(Vec::as_slice));
        KEPT.into_iter().zip(all).collect()
    }

    /// What it keeps as numbers, under a name of their own.
    pub fn numbers(&self) -> (&'static str, [f32; 4]) {
        (NUMBERS, [self.rate, self.change, self.evaluated, self.branches])
    }

    /// Goes on from what another cache kept; `fill` writes that.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn resume(&mut self, fill: Fill<'_>) -> Result<()> {
        fill(KEPT[0], &mut self.latents)?;
        fill(KEPT[1], &mut self.velocity)?;
        for (name, added) in KEPT[2..].iter().zip(&mut self.added) {
            fill(name, added)?;
        }
        let mut numbers = [0.0; 4];
        fill(NUMBERS, &mut numbers)?;
        if first_non_finite(&numbers).is_none() {
            [self.rate, self.change, self.evaluated, self.branches] = numbers;
        }
        Ok(())
    }
}

/// Mean of absolute values, summed in f64 in order.
fn mean(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let count = values.len().max(1) as f64;
    (values.map(|value| f64::from(value.abs())).sum::<f64>() / count) as f32
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    mean(a.iter().zip(b).map(|(a, b)| a - b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Euler steps of a run of 40 with v = 0.3·x ± 1; gives the steps that were evaluated and x.
    fn run(cache: &mut StepCache, from: usize, x: &mut [f32], to: usize) -> Vec<usize> {
        let mut evaluated = Vec::new();
        for index in from..to {
            let mut velocity = [0.0; 2];
            match cache.change(index, x, 1) {
                None => {
                    evaluated.push(index);
                    velocity = [0.3 * x[0] + 1.0, 0.3 * x[1] - 1.0];
                    cache.learn(index, x, &[&velocity]);
                }
                Some(change) => {
                    cache.predict(0, x, &mut velocity);
                    cache.left_out(x, &velocity, change);
                }
            }
            for (x, v) in x.iter_mut().zip(velocity) {
                *x -= v / 40.0;
            }
        }
        evaluated
    }

    #[test]
    fn larger_thresholds_leave_out_more_and_err_more() {
        let exact = {
            let mut x = [1.0, -2.0];
            // So small a threshold leaves out nothing.
            let mut cache = StepCache::new(1e-9, 40, 2, 1).unwrap();
            assert_eq!(run(&mut cache, 0, &mut x, 40).len(), 40);
            x
        };
        let moved = difference(&exact, &[1.0, -2.0]);
        let (mut count, mut error) = (40, 0.0);
        for threshold in [0.02, 0.1, 0.5] {
            let mut x = [1.0, -2.0];
            let mut cache = StepCache::new(threshold, 40, 2, 1).unwrap();
            let evaluated = run(&mut cache, 0, &mut x, 40);
            assert_eq!(cache.evaluated(), evaluated.len());
            let apart = difference(&x, &exact);
            assert!(evaluated.len() < count && apart > error, "{threshold}: {evaluated:?} {apart}");
            assert!(evaluated.starts_with(&[0, 1, 2]) && evaluated.ends_with(&[39]));
            // The velocity turns by 0.3 of what the latents move, which is what is kept below the
            // threshold; what is predicted turns by all of it, and so is off by 0.7.
            assert!(
                apart < threshold as f32 * moved * 0.7 / 0.3,
                "{threshold}: {apart} of {moved}"
            );
            (count, error) = (evaluated.len(), apart);
        }
    }

    #[test]
    fn a_cache_goes_on_from_what_another_kept() {
        let mut whole = [1.0, -2.0];
        run(&mut StepCache::new(0.1, 40, 2, 1).unwrap(), 0, &mut whole, 40);
        for done in [1, 7, 20] {
            let mut x = [1.0, -2.0];
            let mut first = StepCache::new(0.1, 40, 2, 1).unwrap();
            run(&mut first, 0, &mut x, done);
            let mut second = StepCache::new(0.1, 40, 2, 1).unwrap();
            let (name, numbers) = first.numbers();
            second
                .resume(&mut |wanted, to| {
                    match first.kept().iter().find(|(own, _)| *own == wanted) {
                        Some((_, from)) => to.copy_from_slice(from),
                        None => {
                            assert_eq!(wanted, name);
                            to.copy_from_slice(&numbers);
                        }
                    }
                    Ok(())
                })
                .unwrap();
            run(&mut second, done, &mut x, 40);
            assert_eq!(x, whole, "{done}");
        }
    }

    #[test]
    fn a_branch_that_was_not_evaluated_is_due() {
        let mut cache = StepCache::new(1.0, 40, 1, 2).unwrap();
        for index in 0..FIRST {
            assert_eq!(cache.change(index, &[1.0], 1), None);
            cache.learn(index, &[1.0 - 0.01 * index as f32], &[&[1.0 + 0.01 * index as f32]]);
        }
        assert!(cache.change(FIRST, &[0.97], 1).is_some());
        assert_eq!(cache.change(FIRST, &[0.97], 2), None, "there is nothing of the second");
    }

    #[test]
    fn thresholds_are_checked() {
        for bad in [0.0, -1.0, 1.01, f64::NAN, f64::INFINITY] {
            assert_eq!(check_threshold(bad).unwrap_err().code(), "E1306");
        }
        check_threshold(0.05).unwrap();
    }
}
