//! What one sample or pair contributes: its loss, and its derivatives added to those of the batch.
//!
//! Preferences need no plan of their own. Their gradient is c · (∇e⁺ − ∇e⁻) with
//! c = (β/2) · sigmoid((β/2) Δ), so the plan of supervised tuning runs on the chosen clip with
//! cotangent 1 and on the rejected one with −1 into sums of the pair, of which the batch gets c times
//! (`anyid.md` §4.6).

use super::cache::{Cache, Entry, Found};
use super::dataset::{Condition, Dataset, Item};
use super::draws::{Draw, Levels, turn};
use super::network::{Example, Network};
use super::optimise::{Optimiser, Sums};
use super::parameters::{Flat, Kind};
use super::settings::{Draws, Settings};
use crate::error::{Kind as Fault, Result};
use crate::pipeline::{Cancel, tensor_f32};
use anyid_ir::Tensor;
use serde_json::json;
use std::collections::BTreeMap;

/// Parameters by name, as the network takes them.
pub type Values = Vec<(String, Tensor)>;

/// Numbers of one sample or pair by name; their means over a batch are logged.
pub type Numbers = BTreeMap<String, f64>;

/// The network, and everything that says what is asked of it.
pub struct Learner<'l> {
    /// The settings of the run.
    pub settings: &'l Settings,
    /// What is trained.
    pub kind: Kind,
    /// The table of noise levels.
    pub levels: Levels,
    /// The network.
    pub network: Network,
    /// The values before training, for the reference of preferences and for comparison.
    pub untrained: Values,
    /// What the errors of the reference depend on beside pair and draw.
    pub reference: String,
    /// Where they are kept.
    pub cache: Cache,
}

/// `Δ` of a pair with its parts, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preference {
    /// Loss of the pair.
    pub loss: f64,
    /// Its derivative with respect to the error of the chosen clip, without that of supervised tuning.
    pub factor: f64,
    /// −Δ: above 0 the policy prefers what was chosen.
    pub margin: f64,
}

impl Preference {
    /// Of errors less those of the reference, for the chosen and the rejected clip.
    pub fn of(settings: &Settings, [chosen, rejected]: [f64; 2]) -> Self {
        let dpo = &settings.dpo;
        let half = dpo.beta / 2.0;
        let delta = chosen - dpo.rejected_weight * rejected;
        let x = half * delta;
        // log(1 + exp x), which stays finite for large x.
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        let sigmoid = 1.0 / (1.0 + (-x).exp());
        let wrong = dpo.label_smoothing;
        let loss = (1.0 - wrong) * softplus(x) + wrong * softplus(-x);
        let factor = half * ((1.0 - wrong) * sigmoid - wrong * (1.0 - sigmoid));
        Self { loss, factor, margin: -delta }
    }
}

impl Learner<'_> {
    /// Adds what `item` contributes in `epoch` to `batch`.
    ///
    /// # Errors
    /// E1001 with the sample for a non-finite value, E0960 where the cache was changed.
    pub fn learn(
        &mut self,
        data: &Dataset,
        (item, epoch): (&Item, u64),
        values: &Values,
        optimiser: &mut Optimiser,
        (batch, pair): (&mut Sums, &mut Sums),
    ) -> Result<Numbers> {
        match self.kind {
            Kind::Lora | Kind::Full => {
                let draw = Draw::of(&self.settings.train, &self.levels, &item.id, epoch);
                let condition = data.condition(item, draw.null)?;
                let weight = self.levels.weight(draw.level);
                let factor = weight / self.settings.train.batch as f64;
                let clean = data.target(item, 0)?;
                let (error, outputs) =
                    self.with_example(item, &clean, &condition, &draw, |n, e| {
                        n.gradient(e, values, factor)
                    })?;
                optimiser.add(batch, &self.network.parameters, &outputs)?;
                Ok(named([("loss", weight * error), ("error", error)]))
            }
            Kind::Dpo => self.prefer(data, (item, epoch), values, optimiser, (batch, pair)),
        }
    }

    fn prefer(
        &mut self,
        data: &Dataset,
        (item, epoch): (&Item, u64),
        values: &Values,
        optimiser: &mut Optimiser,
        (batch, pair): (&mut Sums, &mut Sums),
    ) -> Result<Numbers> {
        let train = &self.settings.train;
        let dpo = self.settings.dpo.clone();
        let null = Draw::null(train.seed, &item.id, epoch, dpo.null_probability);
        let share = 1.0 / train.batch as f64;
        let condition = data.condition(item, null)?;
        let (draw, reference) = match dpo.draws {
            Draws::Fixed(count) => {
                let at = turn(train.seed, &item.id, epoch, count);
                let draw = Draw::fixed(train, &self.levels, "dpo", &item.id, (at, count));
                let known = self.known_errors(data, item, &condition, (&draw, at, count), null)?;
                (draw, known)
            }
            Draws::Fresh(_) => {
                let draw = Draw::of(train, &self.levels, &item.id, epoch);
                (draw, self.untrained_errors(data, item, &condition, &draw)?)
            }
        };
        let zeros = self.network.parameters.zeros();
        optimiser.set_sums(pair, &zeros)?;
        let mut errors = [0.0; 2];
        for (member, cotangent) in [(0, 1.0), (1, -dpo.rejected_weight)] {
            let clean = data.target(item, member)?;
            let (error, outputs) = self.with_example(item, &clean, &condition, &draw, |n, e| {
                n.gradient(e, values, cotangent)
            })?;
            optimiser.add(pair, &self.network.parameters, &outputs)?;
            errors[member] = error;
            if member == 0 && dpo.sft_weight > 0.0 {
                let chosen = optimiser.summed(pair)?;
                optimiser.add_flat(batch, &chosen, dpo.sft_weight * share)?;
            }
        }
        let gain = [errors[0] - reference[0], errors[1] - reference[1]];
        let preference = Preference::of(self.settings, gain);
        let summed: Flat = optimiser.summed(pair)?;
        optimiser.add_flat(batch, &summed, preference.factor * share)?;
        Ok(named([
            ("loss", preference.loss + dpo.sft_weight * errors[0]),
            ("margin", preference.margin),
            ("accuracy", f64::from(u8::from(preference.margin > 0.0))),
            ("chosen", gain[0]),
            ("rejected", gain[1]),
        ]))
    }

    /// As [`Self::untrained_errors`], computed once for draw `at` of `count`.
    fn known_errors(
        &mut self,
        data: &Dataset,
        item: &Item,
        condition: &Condition,
        (draw, at, count): (&Draw, u32, u32),
        nulled: bool,
    ) -> Result<[f64; 2]> {
        let train = &self.settings.train;
        let parts = json!({
            "errors": self.reference, "pair": data.identity(item), "id": item.id, "draw": at,
            "draws": count, "null": nulled, "seed": train.seed, "shift": train.shift,
            "timesteps": train.timesteps,
        });
        if let Found::Entry(entry) = self.cache.find(&Cache::key(&parts))? {
            let values = entry.value.to_f64_vec();
            return Ok([values[0], values[1]]);
        }
        let errors = self.untrained_errors(data, item, condition, draw)?;
        // Errors are f32, so nothing is lost.
        let value = tensor_f32([2], &errors.map(|error| error as f32))?;
        match self.cache.store(&parts, &Entry { value, source: [0, 0] }) {
            // Told to end: the sample is completed all the same, and this computed again.
            Err(error) if error.kind() == Fault::Interrupted => Ok(errors),
            stored => stored.map(|()| errors),
        }
    }

    /// Errors of the untrained network on both members of a pair.
    fn untrained_errors(
        &mut self,
        data: &Dataset,
        item: &Item,
        condition: &Condition,
        draw: &Draw,
    ) -> Result<[f64; 2]> {
        let mut errors = [0.0; 2];
        for (member, error) in errors.iter_mut().enumerate() {
            let clean = data.target(item, member)?;
            *error = self.untrained_loss(item, &clean, condition, draw)?;
        }
        Ok(errors)
    }

    fn untrained_loss(
        &mut self,
        item: &Item,
        clean: &Tensor,
        condition: &Condition,
        draw: &Draw,
    ) -> Result<f64> {
        let untrained = std::mem::take(&mut self.untrained);
        let loss = self.with_example(item, clean, condition, draw, |n, e| n.loss(e, &untrained));
        self.untrained = untrained;
        loss
    }

    /// Measures a validation set at fixed draws: means of the numbers of [`Self::learn`], without
    /// weights of noise levels. `None` where `cancel` says to stop before the end.
    ///
    /// # Errors
    /// As [`Self::learn`].
    pub fn measure(
        &mut self,
        data: &Dataset,
        values: &Values,
        cancel: &Cancel,
    ) -> Result<Option<Numbers>> {
        let count = self.settings.run.validation_draws;
        let mut sums = Numbers::new();
        for item in &data.items {
            let condition = data.condition(item, false)?;
            for at in 0..count {
                if cancel.is_cancelled() {
                    return Ok(None);
                }
                let train = &self.settings.train;
                let draw = Draw::fixed(train, &self.levels, "validation", &item.id, (at, count));
                let numbers = self.measured(data, item, &condition, &draw, values)?;
                for (name, value) in numbers {
                    *sums.entry(name).or_insert(0.0) += value;
                }
            }
        }
        let all = data.items.len() as f64 * f64::from(count);
        sums.values_mut().for_each(|sum| *sum /= all);
        Ok(Some(sums))
    }

    fn measured(
        &mut self,
        data: &Dataset,
        item: &Item,
        condition: &Condition,
        draw: &Draw,
        values: &Values,
    ) -> Result<Numbers> {
        let clean = data.target(item, 0)?;
        let error = self.with_example(item, &clean, condition, draw, |n, e| n.loss(e, values))?;
        if self.kind != Kind::Dpo {
            return Ok(named([("loss", error)]));
        }
        let before = self.untrained_loss(item, &clean, condition, draw)?;
        let clean = data.target(item, 1)?;
        let other = self.with_example(item, &clean, condition, draw, |n, e| n.loss(e, values))?;
        let gain = [error - before, other - self.untrained_loss(item, &clean, condition, draw)?];
        let preference = Preference::of(self.settings, gain);
        Ok(named([
            ("loss", preference.loss),
            ("margin", preference.margin),
            ("accuracy", f64::from(u8::from(preference.margin > 0.0))),
            ("chosen", gain[0]),
            ("rejected", gain[1]),
        ]))
    }

    fn with_example<T>(
        &mut self,
        item: &Item,
        clean: &Tensor,
        condition: &Condition,
        draw: &Draw,
        run: impl FnOnce(&mut Network, &Example<'_>) -> Result<T>,
    ) -> Result<T> {
        let noise = draw.noise(clean.shape())?;
        let (sigma, place) = (self.levels.sigma(draw.level), format!("sample {}", item.id));
        let example = Example { clean, condition, noise: &noise, sigma, place: &place };
        run(&mut self.network, &example)
    }
}

fn named<const N: usize>(numbers: [(&str, f64); N]) -> Numbers {
    numbers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl Fn(&mut Settings)) -> Settings {
        let mut settings = Settings::default();
        settings.dpo.beta = 4.0;
        change(&mut settings);
        settings
    }

    #[test]
    fn the_loss_begins_at_the_logarithm_of_two() {
        let start = Preference::of(&settings(|_| {}), [0.0, 0.0]);
        assert_eq!((start.loss, start.factor, start.margin), (std::f64::consts::LN_2, 1.0, 0.0));
    }

    #[test]
    fn fitting_what_was_chosen_lowers_the_loss_and_the_factor_is_its_derivative() {
        let settings = settings(|s| s.dpo.label_smoothing = 0.1);
        let better = Preference::of(&settings, [-0.1, 0.1]);
        let worse = Preference::of(&settings, [0.1, -0.1]);
        assert!(better.loss < std::f64::consts::LN_2 && better.margin > 0.0);
        assert!(worse.loss > std::f64::consts::LN_2 && worse.margin < 0.0);
        for gain in [[0.3, -0.2], [-0.5, 0.1], [0.0, 0.0]] {
            let at = |step: f64| Preference::of(&settings, [gain[0] + step, gain[1]]).loss;
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            let factor = Preference::of(&settings, gain).factor;
            assert!((slope - factor).abs() < 1e-8, "{slope} {factor}");
        }
    }

    #[test]
    fn large_differences_stay_finite() {
        let settings = settings(|s| s.dpo.beta = 5000.0);
        for gain in [[1e3, -1e3], [-1e3, 1e3]] {
            let preference = Preference::of(&settings, gain);
            assert!(preference.loss.is_finite() && preference.factor.is_finite());
        }
        assert_eq!(Preference::of(&settings, [1.0, 0.0]).factor, 2500.0);
    }
}
