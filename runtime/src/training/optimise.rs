//! The optimiser on the device: gradients collected over a batch, then one update (`anyid.md` §4.3).
//!
//! Parameters, moments and sums are states of two programs, changed in place. What is read and written
//! from outside are whole vectors, for checkpoints and for the network's inputs.

use super::parameters::{Flat, Parameters};
use super::settings::TrainSettings;
use crate::engine::{
    Backend, CompileRequest, Compiler, Inputs, Outputs, Program, StateSpec, States,
};
use crate::error::Result;
use crate::pipeline::tensor_f32;
use crate::weights::ModelWeights;
use anyid_ir::{Module, Tensor};
use anyid_models::optimiser::{COEFFICIENTS, Carried, Extras, Numbers, adamw, collect};
use std::sync::Arc;

/// Sums of gradients on the device.
pub struct Sums(States);

/// The optimiser with its states.
pub struct Optimiser {
    collecting: Program,
    updating: Program,
    state: States,
    extras: Extras,
    /// Room for the gradient of one sample.
    part: Flat,
    names: Vec<String>,
}

/// A program of one phase that carries states.
fn program(
    backend: &Backend,
    phase: &str,
    (module, carried): (Module, Vec<Carried>),
) -> Result<Program> {
    let states = carried.into_iter().map(|(name, input, output)| StateSpec {
        name,
        input: Some(input),
        output,
    });
    let request = CompileRequest::new(&module, phase).carrying(states);
    let none = ModelWeights::as_named(crate::checkpoint::WeightSet::default());
    Compiler::new(backend).add(phase, request)?.load(Arc::new(none), &mut |_, _| true)
}

impl Optimiser {
    /// The optimiser of `parameters`, with all states zero.
    ///
    /// # Errors
    /// E05xx where it cannot be compiled, E0603 where there is no memory for its states.
    pub fn open(backend: &Backend, parameters: &Parameters, train: &TrainSettings) -> Result<Self> {
        let extras = Extras { clip: train.clip > 0.0, average: train.average > 0.0 };
        let collecting = program(backend, "collect", collect(&parameters.groups))?;
        let updating = program(backend, "update", adamw(&parameters.groups, extras))?;
        let state = updating.states("update")?;
        let names = parameters.groups.iter().map(|group| group.name.clone()).collect();
        Ok(Self { collecting, updating, state, extras, part: parameters.zeros(), names })
    }

    /// The vectors that are kept besides the sums: `p`, `m`, `v`, and `a` with an average.
    pub fn kinds(&self) -> &'static [&'static str] {
        if self.extras.average { &["p", "m", "v", "a"] } else { &["p", "m", "v"] }
    }

    /// Sums that are zero.
    ///
    /// # Errors
    /// E0603 where there is no memory for them.
    pub fn sums(&self) -> Result<Sums> {
        Ok(Sums(self.collecting.states("collect")?))
    }

    /// Vectors of one kind.
    ///
    /// # Errors
    /// E0603 without memory.
    pub fn get(&self, kind: &str) -> Result<Flat> {
        self.names.iter().map(|name| self.state.get(&format!("{kind}.{name}"))).collect()
    }

    /// Sets vectors of one kind.
    ///
    /// # Errors
    /// E0561 for vectors of other sizes.
    pub fn set(&mut self, kind: &str, values: &Flat) -> Result<()> {
        let mut all = self.names.iter().zip(values);
        all.try_for_each(|(name, value)| self.state.set(&format!("{kind}.{name}"), value))
    }

    /// What was summed up.
    ///
    /// # Errors
    /// E0603 without memory.
    pub fn summed(&self, sums: &Sums) -> Result<Flat> {
        self.names.iter().map(|name| sums.0.get(&format!("g.{name}"))).collect()
    }

    /// Sets sums.
    ///
    /// # Errors
    /// E0561 for vectors of other sizes.
    pub fn set_sums(&self, sums: &mut Sums, values: &Flat) -> Result<()> {
        let mut all = self.names.iter().zip(values);
        all.try_for_each(|(name, value)| sums.0.set(&format!("g.{name}"), value))
    }

    /// Adds the derivatives among `outputs` to `sums`.
    ///
    /// # Errors
    /// E1009 where one is missing.
    pub fn add(
        &mut self,
        sums: &mut Sums,
        parameters: &Parameters,
        outputs: &Outputs,
    ) -> Result<()> {
        for parameter in &parameters.list {
            let gradient = outputs.get(&format!("grad.{}", parameter.name))?;
            let (group, range) = parameter.place();
            let all = self.part[group].as_f32_mut().expect("vectors are f32");
            match gradient.as_f32() {
                Ok(values) => all[range].copy_from_slice(values),
                Err(_) => all[range].copy_from_slice(&gradient.to_f32_vec()),
            }
        }
        let part = std::mem::take(&mut self.part);
        let added = self.add_flat(sums, &part, 1.0);
        self.part = part;
        added
    }

    /// Adds `factor` times vectors to `sums`.
    ///
    /// # Errors
    /// E1005 for vectors of other sizes.
    pub fn add_flat(&mut self, sums: &mut Sums, values: &Flat, factor: f64) -> Result<()> {
        let factor = tensor_f32([], &[factor as f32])?;
        let names: Vec<String> = self.names.iter().map(|name| format!("d.{name}")).collect();
        let named = names.iter().map(String::as_str).zip(values);
        let inputs = Inputs::new().set("factor", &factor).all(named);
        self.collecting.call_with_states("collect", &inputs, &mut sums.0).map(drop)
    }

    /// Update `step` (from 1) with the gradient `sum`; gives its norm.
    ///
    /// # Errors
    /// E1005 for vectors of other sizes.
    pub fn update(&mut self, step: u64, train: &TrainSettings, sum: &Flat) -> Result<f64> {
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
        let names: Vec<String> = self.names.iter().map(|name| format!("g.{name}")).collect();
        let inputs = Inputs::new()
            .all(COEFFICIENTS.into_iter().zip(&coefficients))
            .all(names.iter().map(String::as_str).zip(sum));
        let outputs = self.updating.call_with_states("update", &inputs, &mut self.state)?;
        Ok(outputs.get("norm")?.to_f64_vec()[0])
    }
}
