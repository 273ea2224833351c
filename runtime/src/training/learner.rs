//! What samples or pairs contribute: their losses, and their derivatives added to those of the batch.
//!
//! Preferences need no plan of their own. Their gradient is c · (∇e⁺ − ∇e⁻) with
//! c = (β/2) · sigmoid((β/2) Δ) (`anyid.md` §4.6). Where a call takes both clips of several pairs, their
//! errors are computed first, and the derivative is then that of a weighted sum. Where it takes one clip,
//! the chosen one goes with weight 1 and the rejected one with −1 into sums of the pair, of which the batch
//! gets c times: no second pass.

use super::Event;
use super::cache::{Cache, Entry, Found as Stored, damage};
use super::cause::{Cause, Peak};
use super::dataset::{Dataset, Item};
use super::draws::{Draw, Levels, turn};
use super::group::Calls;
use super::network::{Found, Network};
use super::objective::Example;
use super::optimise::{Collector, Sums};
use super::parameters::{Kind, Values};
use super::settings::{Draws, Settings, TrainedNetwork};
use crate::error::{Error, Kind as Fault, Result};
use crate::model::Model;
use crate::pipeline::{Cancel, tensor_f32};
use anyid_ir::Tensor;
use anyid_models::wan::Precision;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Numbers of one sample or pair by name; their means over a batch are logged.
pub type Numbers = BTreeMap<String, f64>;

/// A sample or pair in an epoch, and its place in the batch.
pub type Unit<'d> = (&'d Item, u64, u64);

/// The network, and everything that says what is asked of it.
pub struct Learner<'l> {
    /// The settings of the run.
    pub settings: &'l Settings,
    /// What is trained.
    pub kind: Kind,
    /// The model that the network is of.
    pub model: &'l Model,
    /// The table of noise levels.
    pub levels: Levels,
    /// The network.
    pub network: Network<'l>,
    /// What goes through it together.
    pub calls: Calls,
    /// Where gradients are summed up.
    pub collector: Collector,
    /// What the errors of the reference depend on beside pair and draw.
    pub reference: String,
    /// Where they are kept.
    pub cache: Cache,
    /// What is to be said of them.
    pub warnings: Vec<String>,
    /// Keys of those that were found damaged and told.
    pub told: BTreeSet<String>,
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

/// A pair under one draw, with what the untrained network gets on its clips.
struct Pair<'e> {
    clips: [Example<'e>; 2],
    reference: [f64; 2],
}

impl Learner<'_> {
    /// Adds what a group of samples or pairs of one shape contributes to `batch`; gives the sums of their
    /// numbers. Where the clips of a pair go one after the other, their sums are `pair`. `None`, and nothing
    /// was added, where `cancel` said to stop while what the untrained network gets was computed.
    ///
    /// # Errors
    /// E1001 with the sample for a non-finite value, E0960 where the cache was changed.
    pub fn learn(
        &mut self,
        (data, group): (&Dataset, &[Unit<'_>]),
        values: Values<'_>,
        (batch, pair): (&mut Sums, Option<&mut Sums>),
        cancel: &Cancel,
    ) -> Result<Option<Vec<Numbers>>> {
        if self.kind == Kind::Dpo {
            let Some(pairs) = self.pairs((data, group), values, cancel)? else { return Ok(None) };
            return self.prefer(pairs, group, values, (batch, pair)).map(Some);
        }
        let (train, objective) = (&self.settings.train, self.network.objective());
        let mut examples = Vec::new();
        for (item, epoch, place) in group {
            let draw = Draw::of(train, &self.levels, &item.id, *epoch, *place);
            let weight = objective.weight(&draw) / train.batch as f64;
            examples.push(Example { data, item, member: 0, draw, learned: true, weight });
        }
        let found = self.network.differentiate(&examples, values)?;
        self.collector.add(batch, &self.network.gradient, 1.0)?;
        let objective = self.network.objective();
        let each = found.iter().zip(&examples);
        let logged = |(found, e): (&Found, &Example<'_>)| {
            objective.logged(e.item, found, objective.weight(&e.draw))
        };
        Ok(Some(each.map(logged).collect()))
    }

    /// `error`, if it is one of a value that is not finite, with what is known of its cause: whether updates
    /// have a part in it (`learned`), and the largest of the values of a file that the run began with.
    pub fn explained(&self, error: Error, learned: bool, first: Option<(&Path, Peak)>) -> Error {
        let Self { settings, kind, model, .. } = *self;
        let mut weights = vec![&**self.network.objective().weights()];
        let noisy = settings.train.network == TrainedNetwork::Transformer;
        if noisy {
            // What they have encoded is what it is given.
            weights.extend([&*model.vae_weights, &*model.text_weights]);
        }
        let precision = settings.precision(model.default_precision());
        let narrow = noisy && precision.is_ok_and(|own| own == Precision::Bf16);
        Cause { run: Some((settings, kind)), weights, first, learned, narrow }.of(error)
    }

    /// Says what there is to be said.
    pub fn warn(&mut self, events: &mut dyn FnMut(Event)) {
        self.warnings.drain(..).for_each(|warning| events(Event::Warning(warning)));
    }

    fn prefer(
        &mut self,
        mut pairs: Vec<Pair<'_>>,
        group: &[Unit<'_>],
        values: Values<'_>,
        (batch, sums): (&mut Sums, Option<&mut Sums>),
    ) -> Result<Vec<Numbers>> {
        let (settings, share) = (self.settings, 1.0 / self.settings.train.batch as f64);
        let dpo = &settings.dpo;
        if let Some(sums) = sums.filter(|_| self.calls.of(group[0].0.reference_frames()).clips == 1)
        {
            let Pair { clips, reference } = &mut pairs[0];
            sums.clear();
            let mut errors = [0.0; 2];
            for (member, weight) in [(0, 1.0), (1, -dpo.rejected_weight)] {
                clips[member].weight = weight;
                let found = self.network.differentiate(&clips[member..=member], values)?;
                errors[member] = found[0][0];
                let gradient = &self.network.gradient;
                if member == 0 && dpo.sft_weight > 0.0 {
                    self.collector.add(batch, gradient, dpo.sft_weight * share)?;
                }
                self.collector.add(sums, gradient, 1.0)?;
            }
            let (factor, numbers) = preferred(settings, errors, *reference, dpo.sft_weight);
            self.collector.summed(sums, &mut self.network.gradient)?;
            self.collector.add(batch, &self.network.gradient, factor * share)?;
            return Ok(vec![numbers]);
        }
        let mut examples: Vec<Example<'_>> = pairs.iter().flat_map(|pair| pair.clips).collect();
        let found = self.network.losses(&examples, values)?;
        let mut out = Vec::new();
        for (at, pair) in pairs.iter().enumerate() {
            let errors = [found[2 * at][0], found[2 * at + 1][0]];
            let reference = pair.reference;
            let (factor, numbers) = preferred(settings, errors, reference, dpo.sft_weight);
            examples[2 * at].weight = (factor + dpo.sft_weight) * share;
            examples[2 * at + 1].weight = -dpo.rejected_weight * factor * share;
            out.push(numbers);
        }
        self.network.differentiate(&examples, values)?;
        self.collector.add(batch, &self.network.gradient, 1.0)?;
        Ok(out)
    }

    /// What the errors of the untrained network on a pair depend on, for one of its `count` fixed draws.
    fn reference_parts(
        &self,
        data: &Dataset,
        item: &Item,
        (at, count): (u32, u32),
        nulled: bool,
    ) -> Value {
        let train = &self.settings.train;
        json!({
            "errors": self.reference, "pair": data.identity(item), "id": item.id,
            "draw": at, "draws": count, "null": nulled, "seed": train.seed,
            "shift": train.shift, "timesteps": train.timesteps,
        })
    }

    /// Looks at the errors of the untrained network that the cache has for these samples of the run, so that
    /// everything that is damaged or in the way is told at once, and not when it is reached.
    ///
    /// # Errors
    /// E1014 for what is in the way, E1002 where `cancel` says to stop, and those of reading entries.
    pub fn look_ahead(
        &mut self,
        data: &Dataset,
        samples: Range<u64>,
        cancel: &Cancel,
    ) -> Result<()> {
        let (Kind::Dpo, Draws::Fixed(count)) = (self.kind, self.settings.dpo.draws) else {
            return Ok(());
        };
        let (seed, nulls) = (self.settings.train.seed, self.settings.dpo.null_probability);
        let pairs = data.items.len() as u64;
        // After so many epochs every draw was taken once.
        let first = samples.start / pairs;
        let epochs = first..samples.end.div_ceil(pairs).min(first + u64::from(count));
        let (mut damaged, mut blocked): (Vec<String>, Vec<PathBuf>) = Default::default();
        for item in &data.items {
            cancel.check("while reading the cache")?;
            for epoch in epochs.clone() {
                let at = turn(seed, &item.id, epoch, count);
                let nulled = Draw::null(seed, &item.id, epoch, nulls);
                let key = Cache::key(&self.reference_parts(data, item, (at, count), nulled));
                if let Some(path) = self.cache.blocked(&key) {
                    blocked.push(path);
                } else if let Stored::Damaged = self.cache.find(&key)? {
                    damaged.push(self.cache.named(&key, &errors_on(item)));
                    self.told.insert(key);
                }
            }
        }
        self.cache.refuse(&blocked)?;
        if !damaged.is_empty() {
            self.warnings.push(damage(&damaged));
        }
        Ok(())
    }

    /// Pairs under their draws of an epoch. What the untrained network gets on fixed draws is computed
    /// once; `None` where `cancel` says to stop meanwhile.
    fn pairs<'e>(
        &mut self,
        (data, group): (&'e Dataset, &[Unit<'e>]),
        values: Values<'_>,
        cancel: &Cancel,
    ) -> Result<Option<Vec<Pair<'e>>>> {
        let (train, dpo) = (&self.settings.train, &self.settings.dpo);
        let (mut out, mut missing, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
        for (item, epoch, place) in group {
            let nulled = Draw::null(train.seed, &item.id, *epoch, dpo.null_probability);
            let (draw, known) = match dpo.draws {
                Draws::Fixed(count) => {
                    let at = turn(train.seed, &item.id, *epoch, count);
                    let draw = Draw::fixed(train, &self.levels, "dpo", &item.id, (at, count));
                    let parts = self.reference_parts(data, item, (at, count), nulled);
                    (draw, Some(parts))
                }
                Draws::Fresh(_) => (Draw::of(train, &self.levels, &item.id, *epoch, *place), None),
            };
            let draw = draw.with_null(nulled);
            let clip = |member| Example { data, item, member, draw, learned: true, weight: 0.0 };
            let mut pair = Pair { clips: [clip(0), clip(1)], reference: [0.0; 2] };
            let stored = match &known {
                Some(parts) => {
                    let key = Cache::key(parts);
                    match self.cache.find(&key)? {
                        Stored::Entry(entry) if entry.value.elements() == 2 => {
                            self.cache.finite(&key, &entry.value, &errors_on(item))?;
                            Some(entry.value.to_f64_vec())
                        }
                        Stored::Nothing => None,
                        Stored::Entry(_) | Stored::Damaged => {
                            if self.told.insert(key.clone()) {
                                damaged.push(self.cache.named(&key, &errors_on(item)));
                            }
                            None
                        }
                    }
                }
                None => None,
            };
            match stored {
                Some(values) => pair.reference = [values[0], values[1]],
                None => missing.push((out.len(), known)),
            }
            out.push(pair);
        }
        if !damaged.is_empty() {
            self.warnings.push(damage(&damaged));
        }
        let clips: Vec<Example<'_>> = missing.iter().flat_map(|(at, _)| out[*at].clips).collect();
        let Some(found) = self.untrained(&clips, values, cancel)? else { return Ok(None) };
        for ((at, known), errors) in missing.iter().zip(found.chunks_exact(2)) {
            out[*at].reference = [errors[0][0], errors[1][0]];
            let Some(parts) = known else { continue };
            // Errors are f32, so nothing is lost.
            let value = tensor_f32([2], &out[*at].reference.map(|error| error as f32))?;
            match self.cache.store(parts, &Entry { value, source: [0, 0] }) {
                // Told to end: this is computed again.
                Err(error) if error.kind() == Fault::Interrupted => {}
                stored => stored?,
            }
        }
        let stopped = !missing.is_empty() && cancel.is_cancelled();
        Ok(Some(out).filter(|_| !stopped))
    }

    /// What the untrained network gets: that of `values` with adapters that change nothing, or one with
    /// the weights of the model, which are read to where derivatives are otherwise.
    fn untrained(
        &mut self,
        examples: &[Example<'_>],
        values: Values<'_>,
        cancel: &Cancel,
    ) -> Result<Option<Vec<Found>>> {
        // Whatever was learned, it has no part in this.
        let own = |this: &Self, error| this.explained(error, false, None);
        if self.kind != Kind::Full {
            let zeros = self.network.parameters.zeros_of();
            let found = self.losses(examples, values.of_base(&zeros), cancel);
            return found.map_err(|error| own(self, error));
        }
        let mut room = std::mem::take(&mut self.network.gradient);
        let (parameters, weights) = (&self.network.parameters, self.network.objective().weights());
        let read = parameters.first(&mut room, self.kind, self.settings, weights, cancel);
        let found = read.and_then(|()| {
            let vectors: Vec<&[u8]> = room.iter().map(Tensor::bytes).collect();
            self.losses(examples, Values::of(&vectors), cancel)
        });
        self.network.gradient = room;
        match found {
            Err(error) if error.kind() == Fault::Interrupted => Ok(None),
            found => found.map_err(|error| own(self, error)),
        }
    }

    /// What is found of examples of any shapes, in their order. `None` where `cancel` says to stop
    /// before the end.
    fn losses(
        &mut self,
        examples: &[Example<'_>],
        values: Values<'_>,
        cancel: &Cancel,
    ) -> Result<Option<Vec<Found>>> {
        let objective = self.network.objective();
        let shapes: Vec<usize> =
            examples.iter().map(|example| objective.shape(example.item)).collect();
        let mut out = vec![Found::new(); examples.len()];
        for places in self.calls.clip_groups(&shapes) {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            let some: Vec<Example<'_>> = places.iter().map(|at| examples[*at]).collect();
            let found = self.network.losses(&some, values)?;
            places.into_iter().zip(found).for_each(|(at, found)| out[at] = found);
        }
        Ok(Some(out))
    }

    /// Measures a validation set at fixed draws, with the network as it is or untrained: means of the
    /// numbers of [`Self::learn`], without weights of noise levels. `None` where `cancel` says to stop
    /// before the end.
    ///
    /// # Errors
    /// As [`Self::learn`].
    pub fn measure(
        &mut self,
        data: &Dataset,
        (values, trained): (Values<'_>, bool),
        cancel: &Cancel,
    ) -> Result<Option<Numbers>> {
        let settings = self.settings;
        let drawn = self.network.objective().drawn();
        let count = if drawn { settings.run.validation_draws } else { 1 };
        let members = if self.kind == Kind::Dpo { 2 } else { 1 };
        let mut examples = Vec::new();
        for (item, at) in data.items.iter().flat_map(|item| (0..count).map(move |at| (item, at))) {
            let train = &settings.train;
            let draw = Draw::fixed(train, &self.levels, "validation", &item.id, (at, count));
            let clip = |member| Example { data, item, member, draw, learned: false, weight: 0.0 };
            examples.extend((0..members).map(clip));
        }
        let found = match trained {
            true => self.losses(&examples, values, cancel)?,
            false => self.untrained(&examples, values, cancel)?,
        };
        let Some(found) = found else { return Ok(None) };
        let objective = self.network.objective();
        let mut sums = Numbers::new();
        let mut count = |numbers: Numbers| {
            numbers.into_iter().for_each(|(name, value)| *sums.entry(name).or_insert(0.0) += value);
        };
        if self.kind == Kind::Dpo {
            let before = self.untrained(&examples, values, cancel)?;
            let Some(before) = before else { return Ok(None) };
            // A clip's likelihood is a mean over noise, of which each draw is an estimate: over its
            // draws, a pair says more than with one of them.
            let draws = settings.run.validation_draws as usize;
            let pairs = found.chunks_exact(2 * draws).zip(before.chunks_exact(2 * draws));
            for (own, before) in pairs {
                let mut margin = 0.0;
                for (own, before) in own.chunks_exact(2).zip(before.chunks_exact(2)) {
                    let [errors, reference] = [own, before].map(|both| [both[0][0], both[1][0]]);
                    let (_, numbers) = preferred(settings, errors, reference, 0.0);
                    margin += numbers["margin"];
                    count(numbers);
                }
                let right = f64::from(u8::from(margin > 0.0)) * draws as f64;
                count(named([("pair_accuracy", right)]));
            }
        } else {
            let each = found.iter().zip(&examples);
            each.for_each(|(found, example)| count(objective.logged(example.item, found, 1.0)));
        }
        let all = (examples.len() / members) as f64;
        sums.values_mut().for_each(|sum| *sum /= all);
        self.network.objective().settled(&mut sums);
        Ok(Some(sums))
    }
}

/// What the difference of gradients of a pair counts, and its numbers, where the error of the chosen clip
/// counts `supervised` by itself.
fn preferred(
    settings: &Settings,
    errors: [f64; 2],
    reference: [f64; 2],
    supervised: f64,
) -> (f64, Numbers) {
    let gain = [errors[0] - reference[0], errors[1] - reference[1]];
    let preference = Preference::of(settings, gain);
    let numbers = named([
        ("loss", preference.loss + supervised * errors[0]),
        ("margin", preference.margin),
        ("accuracy", f64::from(u8::from(preference.margin > 0.0))),
        ("chosen", gain[0]),
        ("rejected", gain[1]),
    ]);
    (preference.factor, numbers)
}

/// What an entry of the cache is that has what the untrained network gets on a pair.
fn errors_on(item: &Item) -> String {
    format!("the errors of the untrained network on {}", item.id)
}

/// Numbers by name.
pub fn named<const N: usize>(numbers: [(&str, f64); N]) -> Numbers {
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
