//! The optimiser on the device: gradients collected over a batch, then one update (`anyid.md` §4.3).
//!
//! Parameters, moments and sums are states of two programs, changed in place. What is read and written
//! from outside are whole vectors, for checkpoints and for the network's inputs.

use super::network::Values;
use super::parameters::{Flat, Parameters};
use super::settings::TrainSettings;
use crate::engine::{Backend, CompileRequest, Compiler, Inputs, Program, StateSpec, States};
use crate::error::Result;
use crate::pipeline::tensor_f32;
use crate::weights::ModelWeights;
use anyid_ir::{Module, Tensor};
use anyid_models::optimiser::{COEFFICIENTS, Carried, Extras, Numbers, adamw, begin, collect};
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
    /// Names of vectors: of sums, what is added to them, and gradients.
    names: Names,
}

struct Names {
    groups: Vec<String>,
    added: Vec<String>,
    gradients: Vec<String>,
}

/// A program whose phases carry states. Each phase has the name of its function.
fn program(
    backend: &Backend,
    phases: impl IntoIterator<Item = (Module, Vec<Carried>)>,
) -> Result<Program> {
    let mut compiler = Compiler::new(backend);
    for (module, carried) in phases {
        let states = carried.into_iter();
        let states = states.map(|(name, input, output)| StateSpec { name, input, output });
        let func = module.funcs.last().expect("there is one").name.clone();
        compiler = compiler.add(&func, CompileRequest::new(&module, &func).carrying(states))?;
    }
    let none = ModelWeights::as_named(crate::checkpoint::WeightSet::default());
    compiler.load(Arc::new(none), &mut |_, _| true)
}

impl Optimiser {
    /// The optimiser of `parameters`, with all states zero.
    ///
    /// # Errors
    /// E05xx where it cannot be compiled, E0603 where there is no memory for its states.
    pub fn open(backend: &Backend, parameters: &Parameters, train: &TrainSettings) -> Result<Self> {
        let extras = Extras { clip: train.clip > 0.0, average: train.average > 0.0 };
        let groups = &parameters.groups;
        let collecting = program(backend, [begin(groups), collect(groups)])?;
        let updating = program(backend, [adamw(groups, extras)])?;
        let state = updating.states("update")?;
        let named = |kind: &str| groups.iter().map(|g| format!("{kind}{}", g.name)).collect();
        let names = Names { groups: named(""), added: named("d."), gradients: named("g.") };
        Ok(Self { collecting, updating, state, extras, names })
    }

    /// The vectors that are kept besides the sums: `p`, `m`, `v`, and `a` with an average.
    pub fn kinds(&self) -> &'static [&'static str] {
        if self.extras.average { &["p", "m", "v", "a"] } else { &["p", "m", "v"] }
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
        let names = self.names.groups.iter();
        names.map(|name| self.state.get(&format!("{kind}.{name}"))).collect()
    }

    /// Sets vectors of one kind.
    ///
    /// # Errors
    /// E0561 for vectors of other sizes.
    pub fn set(&mut self, kind: &str, values: &Flat) -> Result<()> {
        let mut all = self.names.groups.iter().zip(values);
        all.try_for_each(|(name, value)| self.state.set(&format!("{kind}.{name}"), value))
    }

    /// Copies the parameters to where the network takes them from.
    ///
    /// # Errors
    /// E0561 never: they are the same parameters.
    pub fn give(&self, parameters: &Parameters, values: &mut Values) -> Result<()> {
        for (at, group) in self.names.groups.iter().enumerate() {
            self.state.read(&format!("p.{group}"), &mut |bytes| {
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
    pub fn update(&mut self, step: u64, train: &TrainSettings, gradient: &Flat) -> Result<f64> {
        let rise =
            if train.warmup > 0 { (step as f64 / train.warmup as f64).min(1.0) } else { 1.0 };
        let numbers = Numbers {
            rate: train.learning_rate * rise,
            weight_decay: train.weight_decay,
            betas: [train.beta1, train.beta2],
            epsilon: train.epsilon,
            clip: train.clip,
            average: train.average,
        };
        let coefficients: Vec<Tensor> = numbers
            .coefficients(step)
            .iter()
            .map(|number| tensor_f32([], &[*number as f32]))
            .collect::<Result<_>>()?;
        let inputs = Inputs::new()
            .all(COEFFICIENTS.into_iter().zip(&coefficients))
            .all(self.names.gradients.iter().map(String::as_str).zip(gradient));
        let outputs = self.updating.call_with_states("update", &inputs, &mut self.state)?;
        Ok(outputs.get("norm")?.to_f64_vec()[0])
    }
}

impl Sums {
    /// Forgets what was summed up.
    pub fn clear(&mut self) {
        self.empty = true;
    }
}
