//! The optimisers on the device: gradients collected over a batch, then one update (`anyid.md` §4.3).
//!
//! Parameters, moments and sums are states of two programs, changed in place. What is read and written
//! from outside are whole vectors, for checkpoints and for the network's inputs.

use super::network::Values;
use super::parameters::{Flat, Parameters};
use super::rules::MOMENTUM;
use super::schedule::share;
use super::settings::Settings;
use crate::engine::{Backend, CompileRequest, Compiler, Inputs, Program, StateSpec, States};
use crate::error::Result;
use crate::pipeline::tensor_f32;
use crate::weights::ModelWeights;
use anyid_ir::{Module, Tensor};
use anyid_models::optimiser::{Carried, Extras, Group, Numbers, Rates, begin, collect, update};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Sums of gradients on the device.
pub struct Sums {
    states: States,
    /// Whether nothing is in them yet, whatever the memory holds.
    empty: bool,
}

/// The optimiser with its states.
pub struct Optimiser {
    collecting: Program,
    updating: Program,
    state: States,
    extras: Extras,
    groups: Vec<Group>,
    /// Names of vectors: what is added to sums, and gradients.
    names: Names,
}

struct Names {
    added: Vec<String>,
    gradients: Vec<String>,
}

/// Phases that carry states. Each has the name of its function.
fn compiled(
    backend: &Backend,
    phases: impl IntoIterator<Item = (Module, Vec<Carried>)>,
) -> Result<Compiler> {
    let mut compiler = Compiler::new(backend);
    for (module, carried) in phases {
        let states = carried.into_iter();
        let states = states.map(|(name, input, output)| StateSpec { name, input, output });
        let func = module.funcs.last().expect("there is one").name.clone();
        compiler = compiler.add(&func, CompileRequest::new(&module, &func).carrying(states))?;
    }
    Ok(compiler)
}

fn loaded(compiler: Compiler) -> Result<Program> {
    let none = ModelWeights::as_named(crate::checkpoint::WeightSet::default());
    compiler.load(Arc::new(none), &mut |_, _| true)
}

fn extras(settings: &Settings) -> Extras {
    Extras { clip: settings.train.clip > 0.0, average: settings.train.average > 0.0 }
}

/// Bytes that an optimiser takes beside sums of gradients: what it keeps from one update to the next, and
/// what it computes with.
///
/// # Errors
/// E05xx where it cannot be compiled.
pub fn bytes(backend: &Backend, parameters: &Parameters, settings: &Settings) -> Result<u64> {
    let (groups, extras) = (&parameters.groups, extras(settings));
    let kept = groups.iter().map(|group| (group.kept(extras).count() * group.elements) as u64);
    let vectors = 4 * kept.sum::<u64>();
    // Only Muon needs more than a few numbers for each vector.
    match groups.iter().any(|group| group.matrices.is_some()) {
        true => Ok(vectors + compiled(backend, [update(groups, extras)])?.memory_bytes()),
        false => Ok(vectors),
    }
}

impl Optimiser {
    /// The optimiser of `parameters`, with all states zero.
    ///
    /// # Errors
    /// E05xx where it cannot be compiled, E0603 where there is no memory for its states.
    pub fn open(backend: &Backend, parameters: &Parameters, settings: &Settings) -> Result<Self> {
        let (groups, extras) = (parameters.groups.clone(), extras(settings));
        let collecting = loaded(compiled(backend, [begin(&groups), collect(&groups)])?)?;
        let updating = loaded(compiled(backend, [update(&groups, extras)])?)?;
        let state = updating.states("update")?;
        let named = |kind: &str| groups.iter().map(|g| format!("{kind}.{}", g.name)).collect();
        let names = Names { added: named("d"), gradients: named("g") };
        Ok(Self { collecting, updating, state, extras, groups, names })
    }

    /// The vectors that are kept besides the sums: `p`, `m`, `v`, and `a` with an average.
    pub fn kinds(&self) -> BTreeSet<&'static str> {
        self.groups.iter().flat_map(|group| group.kept(self.extras)).collect()
    }

    /// The groups that have vectors of a kind.
    pub fn with<'o>(&'o self, kind: &'o str) -> impl Iterator<Item = &'o Group> {
        self.groups.iter().filter(move |group| group.kept(self.extras).any(|own| own == kind))
    }

    /// Sums of nothing.
    ///
    /// # Errors
    /// E0603 where there is no memory for them.
    pub fn sums(&self) -> Result<Sums> {
        Ok(Sums { states: self.collecting.states("collect")?, empty: true })
    }

    /// Vectors of one kind.
    ///
    /// # Errors
    /// E0603 without memory.
    pub fn get(&self, kind: &str) -> Result<Flat> {
        self.with(kind).map(|group| self.state.get(&format!("{kind}.{}", group.name))).collect()
    }

    /// Sets vectors of one kind.
    ///
    /// # Errors
    /// E0561 for vectors of other sizes.
    pub fn set(&mut self, kind: &str, values: &Flat) -> Result<()> {
        let names = self.with(kind).map(|group| format!("{kind}.{}", group.name));
        let names: Vec<String> = names.collect();
        names.iter().zip(values).try_for_each(|(name, value)| self.state.set(name, value))
    }

    /// Copies the parameters to where the network takes them from.
    ///
    /// # Errors
    /// E0561 never: they are the same parameters.
    pub fn give(&self, parameters: &Parameters, values: &mut Values) -> Result<()> {
        for (at, group) in self.groups.iter().enumerate() {
            self.state.read(&format!("p.{}", group.name), &mut |bytes| {
                let each = parameters.list.iter().zip(values.iter_mut());
                for (parameter, (_, value)) in each {
                    let (own, range) = parameter.place();
                    if own == at {
                        value.bytes_mut().copy_from_slice(&bytes[4 * range.start..4 * range.end]);
                    }
                }
            })?;
        }
        Ok(())
    }

    /// Copies what was summed up into vectors.
    ///
    /// # Errors
    /// E0561 never: they are the same parameters.
    pub fn summed(&self, sums: &Sums, into: &mut Flat) -> Result<()> {
        for (name, into) in self.names.gradients.iter().zip(into) {
            match sums.empty {
                true => into.bytes_mut().fill(0),
                false => sums.states.read(name, &mut |bytes| {
                    into.bytes_mut().copy_from_slice(bytes);
                })?,
            }
        }
        Ok(())
    }

    /// Sets sums.
    ///
    /// # Errors
    /// E0561 for vectors of other sizes.
    pub fn set_sums(&self, sums: &mut Sums, values: &Flat) -> Result<()> {
        sums.empty = false;
        let mut all = self.names.gradients.iter().zip(values);
        all.try_for_each(|(name, value)| sums.states.set(name, value))
    }

    /// Adds `factor` times vectors to `sums`.
    ///
    /// # Errors
    /// E1005 for vectors of other sizes.
    pub fn add(&mut self, sums: &mut Sums, values: &Flat, factor: f64) -> Result<()> {
        let factor = tensor_f32([], &[factor as f32])?;
        let named = self.names.added.iter().map(String::as_str).zip(values);
        let inputs = Inputs::new().set("factor", &factor).all(named);
        let phase = if std::mem::take(&mut sums.empty) { "begin" } else { "collect" };
        self.collecting.call_with_states(phase, &inputs, &mut sums.states).map(drop)
    }

    /// Update `step` (from 1) with a gradient; gives its norm.
    ///
    /// # Errors
    /// E1005 for vectors of other sizes.
    pub fn update(&mut self, step: u64, settings: &Settings, gradient: &Flat) -> Result<f64> {
        let mut numbers = numbers(settings, step);
        // The update has no inputs for groups behind the last that anything is in.
        numbers.rates.truncate(self.groups.iter().map(|group| group.rates + 1).max().unwrap_or(0));
        let coefficients: Vec<(String, Tensor)> = numbers
            .coefficients(step)
            .into_iter()
            .map(|(name, number)| Ok((name, tensor_f32([], &[number as f32])?)))
            .collect::<Result<_>>()?;
        let inputs = Inputs::new()
            .all(coefficients.iter().map(|(name, number)| (name.as_str(), number)))
            .all(self.names.gradients.iter().map(String::as_str).zip(gradient));
        let outputs = self.updating.call_with_states("update", &inputs, &mut self.state)?;
        Ok(outputs.get("norm")?.to_f64_vec()[0])
    }
}

/// The numbers of an update: the set of `[train]`, then that of each group.
fn numbers(settings: &Settings, step: u64) -> Numbers {
    let train = &settings.train;
    let share = share(train, step);
    let rest =
        Rates { rate: train.learning_rate, weight_decay: train.weight_decay, momentum: MOMENTUM };
    let own = settings.group.iter().map(|group| Rates {
        rate: group.learning_rate.unwrap_or(rest.rate),
        weight_decay: group.weight_decay.unwrap_or(rest.weight_decay),
        momentum: group.momentum.unwrap_or(rest.momentum),
    });
    let all = std::iter::once(rest).chain(own);
    Numbers {
        rates: all.map(|own| Rates { rate: own.rate * share, ..own }).collect(),
        betas: [train.beta1, train.beta2],
        epsilon: train.epsilon,
        clip: train.clip,
        average: match train.average_warmup {
            true => train.average.min(step as f64 / (step as f64 + 9.0)),
            false => train.average,
        },
    }
}

impl Sums {
    /// Forgets what was summed up.
    pub fn clear(&mut self) {
        self.empty = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::{GroupSettings, Schedule};

    #[test]
    fn groups_have_rates_of_their_own_under_one_schedule() {
        let mut settings = Settings::default();
        let train = &mut settings.train;
        (train.learning_rate, train.weight_decay) = (1e-3, 0.1);
        (train.steps, train.warmup) = (100, 4);
        (train.schedule, train.decay) = (Schedule::Linear, 0.5);
        let group = |rate, decay, momentum| GroupSettings {
            learning_rate: rate,
            weight_decay: decay,
            momentum,
            ..GroupSettings::default()
        };
        settings.group = vec![group(Some(0.02), Some(0.0), Some(0.9)), group(None, None, None)];
        for (step, share) in [(1, 0.25), (50, 1.0), (76, 0.5)] {
            let found = numbers(&settings, step).rates;
            let expected = [(1e-3, 0.1, MOMENTUM), (0.02, 0.0, 0.9), (1e-3, 0.1, MOMENTUM)];
            assert_eq!(found.len(), expected.len());
            for (found, (rate, decay, momentum)) in found.iter().zip(expected) {
                assert!((found.rate - rate * share).abs() < 1e-15, "{step}: {found:?}");
                assert_eq!((found.weight_decay, found.momentum), (decay, momentum));
            }
        }
    }

    #[test]
    fn the_decay_of_the_average_rises_where_settings_say_so() {
        let mut settings = Settings::default();
        settings.train.average = 0.998;
        assert_eq!(numbers(&settings, 1).average, 0.998);
        settings.train.average_warmup = true;
        let at = |step| numbers(&settings, step).average;
        assert_eq!((at(1), at(9), at(100_000)), (0.1, 0.5, 0.998));
    }
}
