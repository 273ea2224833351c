//! The optimisers on the device: gradients collected over a batch, then one update (`anyid.md` §4.3).
//!
//! Parameters, moments and sums are states of two programs, changed in place. The network takes the
//! parameters from where they lie; checkpoints are written from there and read back into it.

use super::checkpoint::Vectors;
use super::parameters::{Flat, Parameters, Values};
use super::rules::MOMENTUM;
use super::schedule::share;
use super::settings::Settings;
use crate::engine::{Backend, CompileRequest, Compiler, Inputs, Program, StateSpec, States};
use crate::error::Result;
use crate::pipeline::{Cancel, tensor_f32};
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

/// Sums up gradients.
pub struct Collector {
    program: Program,
    /// Names of what is added, and of sums.
    added: Vec<String>,
    gradients: Vec<String>,
}

/// The optimiser with its states.
pub struct Optimiser {
    program: Program,
    state: States,
    extras: Extras,
    groups: Vec<Group>,
    /// Names of gradients.
    gradients: Vec<String>,
}

/// Names of vectors of one kind.
fn named(kind: &str, parameters: &Parameters) -> Vec<String> {
    parameters.groups.iter().map(|group| format!("{kind}{}", group.name)).collect()
}

/// Bytes of workspace and scratch that the programs of both take.
///
/// # Errors
/// E05xx where they cannot be compiled, E1002 where `cancel` says to stop.
pub fn planned_bytes(
    backend: &Backend,
    parameters: &Parameters,
    settings: &Settings,
    cancel: &Cancel,
) -> Result<u64> {
    let groups = &parameters.groups;
    let sums = compiled(backend, cancel, [begin(groups), collect(groups)])?;
    let update = compiled(backend, cancel, [update(groups, extras(settings))])?;
    Ok(sums.memory_bytes() + update.memory_bytes())
}

/// Bytes of what an optimiser keeps from one update to the next.
pub fn kept_bytes(parameters: &Parameters, settings: &Settings) -> u64 {
    let extras = extras(settings);
    let kept = |group: &Group| (group.kept(extras).count() * group.elements) as u64;
    4 * parameters.groups.iter().map(kept).sum::<u64>()
}

fn extras(settings: &Settings) -> Extras {
    Extras { clip: settings.train.clip > 0.0, average: settings.train.average > 0.0 }
}

/// Phases that carry states, each with the name of its function.
fn compiled(
    backend: &Backend,
    cancel: &Cancel,
    phases: impl IntoIterator<Item = (Module, Vec<Carried>)>,
) -> Result<Compiler> {
    let mut compiler = Compiler::new(backend).stopped_by(cancel.flag());
    for (module, carried) in phases {
        let states = carried.into_iter();
        let states = states.map(|(name, input, output)| StateSpec { name, input, output });
        let func = module.funcs.last().expect("there is one").name.clone();
        compiler = compiler.add(&func, CompileRequest::new(&module, &func).carrying(states))?;
    }
    Ok(compiler)
}

/// A program without weights.
fn loaded(compiler: Compiler) -> Result<Program> {
    let none = ModelWeights::as_named(crate::checkpoint::WeightSet::default());
    compiler.load(Arc::new(none), &mut |_, _| true)
}

impl Collector {
    /// Sums for the gradients of `parameters`.
    ///
    /// # Errors
    /// E05xx where they cannot be compiled, E0603 where there is no memory for them, E1002 where `cancel`
    /// says to stop.
    pub fn open(backend: &Backend, parameters: &Parameters, cancel: &Cancel) -> Result<Self> {
        let groups = &parameters.groups;
        let program = loaded(compiled(backend, cancel, [begin(groups), collect(groups)])?)?;
        let (added, gradients) = (named("d.", parameters), named("g.", parameters));
        Ok(Self { program, added, gradients })
    }

    /// Bytes of workspace and scratch.
    pub fn bytes(&self) -> u64 {
        self.program.memory_bytes()
    }

    /// Sums of nothing.
    ///
    /// # Errors
    /// E0603 where there is no memory for them.
    pub fn sums(&self) -> Result<Sums> {
        Ok(Sums { states: self.program.states("collect")?, empty: true })
    }

    /// Shows what was summed up in vector `at`; in pieces where that is nothing.
    ///
    /// # Errors
    /// E0561 never: there is such a vector.
    pub fn read(&self, sums: &Sums, at: usize, look: &mut dyn FnMut(&[u8])) -> Result<()> {
        if !sums.empty {
            return sums.states.read(&self.gradients[at], look);
        }
        let mut all = sums.states.iter();
        let own = all.find(|(name, _, _)| *name == self.gradients[at]);
        let mut left = own.map_or(0, |(_, _, ty)| ty.bytes());
        let zeros = [0u8; 1 << 12];
        while left > 0 {
            let some = left.min(zeros.len() as u64);
            look(&zeros[..some as usize]);
            left -= some;
        }
        Ok(())
    }

    /// Copies what was summed up into vectors.
    ///
    /// # Errors
    /// E0561 never: they are the same parameters.
    pub fn summed(&self, sums: &Sums, into: &mut Flat) -> Result<()> {
        for (at, into) in into.iter_mut().enumerate() {
            let (into, mut done) = (into.bytes_mut(), 0);
            self.read(sums, at, &mut |bytes| {
                into[done..done + bytes.len()].copy_from_slice(bytes);
                done += bytes.len();
            })?;
        }
        Ok(())
    }

    /// Sets vector `at` of sums.
    ///
    /// # Errors
    /// E0561 for a vector of another size.
    pub fn set(&self, sums: &mut Sums, at: usize, value: &Tensor) -> Result<()> {
        sums.empty = false;
        sums.states.set(&self.gradients[at], value)
    }

    /// Adds `factor` times vectors to `sums`.
    ///
    /// # Errors
    /// E1005 for vectors of other sizes.
    pub fn add(&mut self, sums: &mut Sums, values: &Flat, factor: f64) -> Result<()> {
        let factor = tensor_f32([], &[factor as f32])?;
        let named = self.added.iter().map(String::as_str).zip(values);
        let inputs = Inputs::new().set("factor", &factor).all(named);
        let phase = if std::mem::take(&mut sums.empty) { "begin" } else { "collect" };
        self.program.call_with_states(phase, &inputs, &mut sums.states).map(drop)
    }
}

impl Optimiser {
    /// The optimiser of `parameters`, with all states zero.
    ///
    /// # Errors
    /// E05xx where it cannot be compiled, E0603 where there is no memory for its states, E1002 where
    /// `cancel` says to stop.
    pub fn open(
        backend: &Backend,
        parameters: &Parameters,
        settings: &Settings,
        cancel: &Cancel,
    ) -> Result<Self> {
        let (groups, extras) = (parameters.groups.clone(), extras(settings));
        let program = loaded(compiled(backend, cancel, [update(&groups, extras)])?)?;
        let state = program.states("update")?;
        let gradients = named("g.", parameters);
        Ok(Self { program, state, extras, groups, gradients })
    }

    /// Bytes of workspace and scratch.
    pub fn bytes(&self) -> u64 {
        self.program.memory_bytes()
    }

    /// The vectors that are kept besides the sums: `p`, `m`, `v`, and `a` with an average.
    pub fn kinds(&self) -> BTreeSet<&'static str> {
        self.groups.iter().flat_map(|group| group.kept(self.extras)).collect()
    }

    /// The kinds, each with the places of the groups that have a vector of it.
    pub fn vectors(&self) -> Vec<Vectors> {
        let places = |kind: &'static str| {
            let has = |group: &Group| group.kept(self.extras).any(|own| own == kind);
            let groups = self.groups.iter().enumerate().filter(|(_, group)| has(group));
            (kind, groups.map(|(at, _)| at).collect())
        };
        self.kinds().into_iter().map(places).collect()
    }

    /// Calls `use_them` with the values that parameters have now, or their averages (`a`), as they
    /// lie in the states.
    ///
    /// # Errors
    /// Those of `use_them`.
    pub fn with<R>(&self, kind: &str, use_them: impl FnOnce(Values<'_>) -> Result<R>) -> Result<R> {
        let names: Vec<String> =
            self.groups.iter().map(|group| format!("{kind}.{}", group.name)).collect();
        let (mut once, mut out) = (Some(use_them), None);
        self.state.read_all(&names, &mut |vectors| {
            out = once.take().map(|use_them| use_them(Values::of(vectors)));
        })?;
        out.expect("vectors are shown once")
    }

    /// Shows vector `at` of one kind.
    ///
    /// # Errors
    /// E0561 for a kind that there is not.
    pub fn read(&self, kind: &str, at: usize, look: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.state.read(&format!("{kind}.{}", self.groups[at].name), look)
    }

    /// Sets vector `at` of one kind.
    ///
    /// # Errors
    /// E0561 for a vector of another size.
    pub fn set(&mut self, kind: &str, at: usize, value: &Tensor) -> Result<()> {
        self.state.set(&format!("{kind}.{}", self.groups[at].name), value)
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
            .all(self.gradients.iter().map(String::as_str).zip(gradient));
        let outputs = self.program.call_with_states("update", &inputs, &mut self.state)?;
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
