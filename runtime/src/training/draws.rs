//! What is drawn at random: the order of samples, noise levels, noise, and when the null forms are
//! taken (`anyid.md` §4.5).
//!
//! Everything is a function of seed, sample, epoch and place in the batch, and of nothing that came before
//! it, so a run that goes on draws what it would have drawn. Noise comes from the counter-based generator of
//! sampling; the other numbers are bits of a hash.

use super::settings::{LossWeight, TrainSettings};
use crate::sampling::noise::NoiseStream;
use anyid_study::random::{below, bits, unit};

/// The table of noise levels with their weights in the loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    sigmas: Vec<f64>,
    weights: Vec<f64>,
}

impl Levels {
    /// The table: u = 1 − j/n, σ = shift · u / (1 + (shift − 1) u) for j = 0 … n−1. With
    /// `diffsynth` the weight is exp(−2 ((τ − 500)/1000)²) less its least value, and 1 on average.
    pub fn new(train: &TrainSettings) -> Self {
        let count = train.timesteps as usize;
        let sigma = |j: usize| {
            let u = 1.0 - j as f64 / count as f64;
            train.shift * u / (1.0 + (train.shift - 1.0) * u)
        };
        let sigmas: Vec<f64> = (0..count).map(sigma).collect();
        let weights = match train.loss_weight {
            LossWeight::None => vec![1.0; count],
            LossWeight::Diffsynth => {
                let bell = |sigma: &f64| (-2.0 * (sigma - 0.5).powi(2)).exp();
                let bells: Vec<f64> = sigmas.iter().map(bell).collect();
                let least = bells.iter().copied().fold(f64::INFINITY, f64::min);
                let sum: f64 = bells.iter().map(|bell| bell - least).sum();
                bells.iter().map(|bell| (bell - least) * count as f64 / sum).collect()
            }
        };
        Self { sigmas, weights }
    }

    /// Rows of the table.
    pub fn len(&self) -> usize {
        self.sigmas.len()
    }

    /// The noise level of row `j`.
    pub fn sigma(&self, j: usize) -> f64 {
        self.sigmas[j]
    }

    /// What the loss at row `j` counts.
    pub fn weight(&self, j: usize) -> f64 {
        self.weights[j]
    }
}

/// What is drawn for one use of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// The row of the table of noise levels.
    pub level: usize,
    /// Whether references and prompt are replaced by their null forms.
    pub null: bool,
    /// Key of the noise.
    noise: u64,
}

/// A level of stratum `at` of `count`, from 64 random bits.
fn stratum(bits: u64, (at, count): (u64, u64), levels: &Levels) -> usize {
    let place = (at as f64 + unit(bits)) / count as f64;
    ((place * levels.len() as f64) as usize).min(levels.len() - 1)
}

impl Draw {
    /// The draw of a sample in an epoch, where it is at `place` of its batch.
    pub fn of(train: &TrainSettings, levels: &Levels, id: &str, epoch: u64, place: u64) -> Self {
        let [noise, level, _, _] = bits(train.seed, "sample", id, epoch);
        let null = Self::null(train.seed, id, epoch, train.null_probability);
        let level = match train.stratified {
            true => stratum(level, (place, train.batch), levels),
            false => below(level, levels.len()),
        };
        Self { level, null, noise }
    }

    /// Whether a sample or pair has its null forms in an epoch.
    pub fn null(seed: u64, id: &str, epoch: u64, probability: f64) -> bool {
        unit(bits(seed, "sample", id, epoch)[2]) < probability
    }

    /// Draw `at` of `count` fixed ones, over which the noise levels are spread evenly. `purpose`
    /// tells those of validation from those of preferences.
    pub fn fixed(
        train: &TrainSettings,
        levels: &Levels,
        purpose: &str,
        id: &str,
        (at, count): (u32, u32),
    ) -> Self {
        let [noise, level, _, _] = bits(train.seed, purpose, id, u64::from(at));
        let level = stratum(level, (at.into(), count.into()), levels);
        Self { level, null: false, noise }
    }

    /// This draw with the null decision of another.
    pub fn with_null(self, null: bool) -> Self {
        Self { null, ..self }
    }

    /// Three numbers in [0, 1) besides.
    pub fn shares(&self) -> [f64; 3] {
        let [a, b, c, _] = bits(self.noise, "shares", "", 0);
        [a, b, c].map(unit)
    }

    /// Fills with its normal noise.
    pub fn fill_noise(&self, into: &mut [f32]) {
        NoiseStream::new(self.noise, NoiseStream::TRAINING).fill(0, into);
    }
}

/// The order of samples in an epoch, as positions among `ids`. It depends on the ids alone, not on
/// their order in the manifest.
pub fn order(seed: u64, ids: &[&str], epoch: u64) -> Vec<usize> {
    let mut keys: Vec<([u64; 4], &str, usize)> =
        (0..).zip(ids).map(|(at, id)| (bits(seed, "order", id, epoch), *id, at)).collect();
    keys.sort_unstable();
    keys.into_iter().map(|(_, _, at)| at).collect()
}

/// Which of `count` draws of a pair an epoch takes: all of them, one after the other, in an order
/// that each pair has for itself.
pub fn turn(seed: u64, id: &str, epoch: u64, count: u32) -> u32 {
    let count = u64::from(count);
    let mut rest: Vec<u64> = (0..count).collect();
    let words = |at: u64| bits(seed, "turn", id, at)[0];
    // Fisher and Yates, as far as the place that is asked for.
    let wanted = epoch % count;
    for at in 0..=wanted {
        let other = at + below(words(at), (count - at) as usize) as u64;
        rest.swap(at as usize, other as usize);
    }
    rest[wanted as usize] as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_papers() {
        let levels = Levels::new(&TrainSettings::default());
        let near = |a: f64, b: f64, to: f64| assert!((a - b).abs() < to, "{a} is not {b}");
        near(levels.sigma(0), 1.0, 1e-15);
        near(levels.sigma(500) * 1000.0, 833.333, 1e-3);
        near(levels.sigma(999) * 1000.0, 4.980, 1e-3);
        // anyid.md: weights at these timesteps.
        for (timestep, weight) in
            [(1000.0, 0.0), (999.8, 0.00128), (937.5, 0.398), (833.3, 1.025), (4.98, 0.032)]
        {
            let tau = |j: &usize| (levels.sigma(*j) * 1000.0 - timestep).abs();
            let j = (0..1000).min_by(|a, b| tau(a).total_cmp(&tau(b))).unwrap();
            near(levels.weight(j), weight, 6e-3);
        }
        near((0..1000).map(|j| levels.weight(j)).sum(), 1000.0, 1e-9);
        let plain = TrainSettings { loss_weight: LossWeight::None, ..TrainSettings::default() };
        assert_eq!(Levels::new(&plain).weight(0), 1.0);
    }

    #[test]
    fn draws_depend_on_seed_sample_and_epoch_alone() {
        let train = TrainSettings::default();
        let levels = Levels::new(&train);
        let draw = Draw::of(&train, &levels, "a", 3, 0);
        assert_eq!(draw, Draw::of(&train, &levels, "a", 3, 0));
        assert_ne!(draw, Draw::of(&train, &levels, "a", 4, 0));
        assert_ne!(draw, Draw::of(&train, &levels, "b", 3, 0));
        let noise = |draw: &Draw| {
            let mut values = [0f32; 6];
            draw.fill_noise(&mut values);
            values
        };
        assert_eq!(noise(&draw), noise(&Draw::of(&train, &levels, "a", 3, 0)));
        let other = TrainSettings { seed: 1, ..train };
        assert_ne!(draw, Draw::of(&other, &levels, "a", 3, 0));
    }

    #[test]
    fn levels_are_uniform_and_a_tenth_of_the_samples_is_null() {
        let train = TrainSettings::default();
        let levels = Levels::new(&train);
        let draws: Vec<Draw> =
            (0..20_000).map(|epoch| Draw::of(&train, &levels, "s", epoch, 0)).collect();
        let mean = draws.iter().map(|draw| draw.level as f64).sum::<f64>() / 20_000.0;
        // Five standard errors.
        assert!((mean - 499.5).abs() < 5.0 * 288.7 / 20_000f64.sqrt(), "{mean}");
        let null = draws.iter().filter(|draw| draw.null).count() as f64 / 20_000.0;
        assert!((null - 0.1).abs() < 5.0 * (0.09f64 / 20_000.0).sqrt(), "{null}");
        assert!(draws.iter().any(|d| d.level < 5) && draws.iter().any(|d| d.level > 994));
    }

    #[test]
    fn fixed_draws_cover_the_levels_evenly() {
        let train = TrainSettings::default();
        let levels = Levels::new(&train);
        for at in 0..16 {
            let draw = Draw::fixed(&train, &levels, "dpo", "m_1", (at, 16));
            let (from, to) = (at as usize * 1000 / 16, (at as usize + 1) * 1000 / 16);
            assert!((from..=to).contains(&draw.level) && !draw.null, "{at}: {draw:?}");
        }
    }

    #[test]
    fn the_levels_of_a_batch_are_spread_evenly_where_settings_say_so() {
        let train = TrainSettings { batch: 8, stratified: true, ..TrainSettings::default() };
        let levels = Levels::new(&train);
        let mut seen = Vec::new();
        for epoch in 0..2000 {
            for place in 0..8 {
                let draw = Draw::of(&train, &levels, "s", epoch, place);
                let [from, to] = [place, place + 1].map(|at| at as usize * 125);
                assert!((from..to).contains(&draw.level), "{place}: {draw:?}");
                if place == 3 {
                    seen.push(draw.level as f64);
                }
                // Noise and null decision are those of any place.
                let plain = Draw::of(&train, &levels, "s", epoch, 0);
                assert_eq!(draw.with_null(plain.null).noise, plain.noise);
                assert_eq!(draw.null, plain.null);
            }
        }
        // Uniform within it: the mean by five standard errors, and both ends.
        let mean = seen.iter().sum::<f64>() / 2000.0;
        assert!((mean - 437.0).abs() < 5.0 * 36.1 / 2000f64.sqrt(), "{mean}");
        assert!(seen.contains(&375.0) && seen.contains(&499.0));
    }

    #[test]
    fn every_epoch_has_each_sample_once_in_an_order_of_its_own() {
        let ids = ["a", "b", "c", "d", "e", "f", "g"];
        let first = order(0, &ids, 0);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
        assert!((1..5).any(|epoch| order(0, &ids, epoch) != first));
        // The same samples in another order of the manifest.
        let turned: Vec<&str> = ids.iter().rev().copied().collect();
        let names = |ids: &[&str], order: Vec<usize>| -> Vec<String> {
            order.into_iter().map(|at| ids[at].to_owned()).collect()
        };
        assert_eq!(names(&turned, order(0, &turned, 0)), names(&ids, first));
    }

    #[test]
    fn every_draw_of_a_pair_has_its_turn() {
        let mut seen: Vec<u32> = (0..16).map(|epoch| turn(0, "m", epoch, 16)).collect();
        assert_eq!(turn(0, "m", 16, 16), seen[0]);
        seen.sort_unstable();
        assert_eq!(seen, (0..16).collect::<Vec<u32>>());
    }
}
