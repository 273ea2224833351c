//! The transformer under training: its loss at a draw, with and without derivatives.
//!
//! One program serves a whole run: a phase with derivatives and one without for each number of latent
//! frames of references that occurs, on one set of weights and one workspace. What is trained is given
//! as inputs, so the weights themselves never change.

use super::dataset::Condition;
use super::parameters::{Kind, Parameters, targets};
use super::settings::Settings;
use crate::engine::{
    Backend, CompileRequest, Compiler, Inputs, Outputs, Program, budget, compile_error, finite,
    memory_check,
};
use crate::error::{Error, Kind as Fault, Result};
use crate::model::Model;
use crate::pipeline::{tensor_f32, tensor_i32};
use anyid_ir::Tensor;
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::loss::with_draw;
use anyid_passes::remat::{Keeping, within};
use anyid_passes::{Gradient, Options};
use std::collections::BTreeMap;

/// A clip with what the network is given beside it, under one draw.
pub struct Example<'e> {
    /// Clean latents of the target.
    pub clean: &'e Tensor,
    /// References and text.
    pub condition: &'e Condition,
    /// Noise of the shape of the target.
    pub noise: &'e Tensor,
    /// The noise level.
    pub sigma: f64,
    /// Which sample it is, for errors.
    pub place: &'e str,
}

/// The loaded transformer.
pub struct Network {
    program: Program,
    /// What is trained.
    pub parameters: Parameters,
    /// The segment of every token, by latent frames of references.
    segments: BTreeMap<usize, Tensor>,
}

/// Compiles the transformer for these numbers of latent frames of references.
///
/// # Errors
/// E0523 for targets that no linear has, and other E05xx where it cannot be compiled; E0601 and E0602
/// for the budget.
pub fn compile(
    model: &Model,
    backend: &Backend,
    settings: &Settings,
    kind: Kind,
    reference_frames: &[usize],
) -> Result<Compiler> {
    let precision = settings.precision(model.default_precision())?;
    let mut compiler = Compiler::new(backend);
    for frames in reference_frames {
        let module = with_draw(dit(&model.dit, &size(model, settings, *frames), precision));
        let given = |function: &str| {
            let request = CompileRequest::new(&module, function);
            match kind {
                Kind::Lora | Kind::Dpo => request.with_lora(targets(&settings.lora)),
                Kind::Full => request.lifting(["*"]),
            }
        };
        let wrt = match kind {
            Kind::Lora | Kind::Dpo => {
                ["*.lora_A.weight", "*.lora_B.weight"].map(str::to_owned).to_vec()
            }
            Kind::Full => module.weights.tensors().map(|(name, _)| name.to_owned()).collect(),
        };
        let request = given("train");
        compiler = compiler.add(&phase("value", *frames), request.clone())?;
        if settings.run.samples > 0 {
            compiler = compiler.add(&phase("sample", *frames), given("dit"))?;
        }
        let gradient = Gradient { of: "loss".into(), wrt, factor: Some("factor".into()) };
        let request = request.with_gradient(gradient);
        let keeping = keeping(backend, settings, &request, *frames)?;
        compiler = compiler.add(&phase("grad", *frames), request.keeping(keeping))?;
    }
    Ok(compiler)
}

/// What blocks keep for their derivative: what the settings say, or the fastest that fits their budget
/// together with the optimiser.
///
/// # Errors
/// E0524 for a choice that there is not, E0602 for a budget that cannot be read, E0601 of kind
/// `Budget` for one that nothing fits.
fn keeping(
    backend: &Backend,
    settings: &Settings,
    request: &CompileRequest<'_>,
    frames: usize,
) -> Result<Keeping> {
    if let Some(text) = &settings.train.keep {
        return text.parse().map_err(compile_error).map_err(|error: Error| error.at("train.keep"));
    }
    let Some(text) = &settings.train.budget else { return Ok(Keeping::default()) };
    let budget = budget::parse(text).map_err(|error| error.at("train.budget"))?;
    let options = Options { target: backend.about().target.clone(), ..Options::default() };
    let request = request.clone().with(&options);
    let plan = request.plan().map_err(compile_error)?;
    let own = vector_bytes(settings, &Parameters::of_plan(&plan));
    let left = budget.saturating_sub(own);
    let tried = within(&request, left, &|_| 0).map_err(compile_error)?.tried;
    let least = tried.last().expect("at least one choice is planned");
    let needed = least.memory.total();
    match needed <= left {
        true => Ok(least.keeping),
        false => {
            let [needed, budget] = [needed + own, budget].map(memory_check::size);
            let message = format!(
                "samples with {frames} latent frames of references need {needed}, the budget is {budget}"
            );
            Err(Error::new(Fault::Budget, "E0601", message)
                .at("train.budget")
                .help("nothing less can be kept: take fewer or shorter references, a smaller video, or bf16"))
        }
    }
}

/// Bytes of the vectors of a run: parameters as inputs and as a state, two moments, the sum and the
/// part of a sample, the average, and the sum of a pair.
pub fn vector_bytes(settings: &Settings, parameters: &Parameters) -> u64 {
    let vectors = 7 + u64::from(settings.train.average > 0.0);
    4 * vectors * parameters.elements()
}

fn phase(what: &str, reference_frames: usize) -> String {
    format!("{what}.{reference_frames}")
}

fn size(model: &Model, settings: &Settings, reference_frames: usize) -> DitSize {
    let [frames, height, width] = settings.size().latent(model.geometry());
    let text_tokens = model.dit.text_len;
    let timesteps = if reference_frames > 0 { 2 } else { 1 };
    DitSize { reference_frames, frames, height, width, text_tokens, timesteps }
}

impl Network {
    /// Compiles and loads the transformer.
    ///
    /// # Errors
    /// As [`compile`], E0603 where there is no memory for it, E0330 to E0332 where the weights cannot
    /// be read.
    pub fn open(
        model: &Model,
        backend: &Backend,
        settings: &Settings,
        kind: Kind,
        reference_frames: &[usize],
    ) -> Result<Self> {
        let compiler = compile(model, backend, settings, kind, reference_frames)?;
        let gradient = compiler.plans().find(|(name, _)| name.starts_with("grad."));
        let (_, plan) = gradient.ok_or_else(|| Error::internal("E1009", "there is no sample"))?;
        let parameters = Parameters::of_plan(plan);
        let mut segments = BTreeMap::new();
        for frames in reference_frames {
            let size = size(model, settings, *frames);
            let clean = frames * size.tokens_per_frame(&model.dit);
            let all = size.tokens(&model.dit);
            let values: Vec<i32> = (0..all).map(|at| i32::from(at >= clean && clean > 0)).collect();
            segments.insert(*frames, tensor_i32([all], &values)?);
        }
        let program = compiler.load(model.dit_weights.clone(), &mut |_, _| true)?;
        Ok(Self { program, parameters, segments })
    }

    /// Bytes of weights, workspace and scratch.
    pub fn bytes(&self) -> u64 {
        self.program.weight_bytes() + self.program.memory_bytes()
    }

    /// The loss of an example.
    ///
    /// # Errors
    /// E1001 with sample and node for a non-finite value.
    pub fn loss(&mut self, example: &Example<'_>, values: &[(String, Tensor)]) -> Result<f64> {
        let outputs = self.run("value", example, values, None)?;
        loss_of(&outputs)
    }

    /// The loss of an example, and `grad.NAME` of every parameter times `factor`.
    ///
    /// # Errors
    /// E1001 with sample and node for a non-finite value.
    pub fn gradient(
        &mut self,
        example: &Example<'_>,
        values: &[(String, Tensor)],
        factor: f64,
    ) -> Result<(f64, Outputs)> {
        let factor = tensor_f32([], &[factor as f32])?;
        let outputs = self.run("grad", example, values, Some(&factor))?;
        Ok((loss_of(&outputs)?, outputs))
    }

    /// The velocity of noisy latents at a timestep under a condition, as sampling asks for it.
    ///
    /// # Errors
    /// E1001 with `place` and node for a non-finite value.
    pub fn velocity(
        &mut self,
        (latents, time, condition): (&Tensor, f32, &Condition),
        values: &[(String, Tensor)],
        place: &str,
    ) -> Result<Vec<f32>> {
        let frames = condition.references.shape()[1];
        let mut times = vec![time];
        if frames > 0 {
            times.insert(0, 0.0);
        }
        let times = tensor_f32([times.len()], &times)?;
        let inputs = [("lat", latents), ("t", &times)];
        let outputs = self.call("sample", condition, &inputs, values, place)?;
        Ok(outputs.get("v")?.to_f32_vec())
    }

    fn run(
        &mut self,
        what: &str,
        example: &Example<'_>,
        values: &[(String, Tensor)],
        factor: Option<&Tensor>,
    ) -> Result<Outputs> {
        let sigma = tensor_f32([], &[example.sigma as f32])?;
        let mut inputs = vec![("x0", example.clean), ("noise", example.noise), ("sigma", &sigma)];
        inputs.extend(factor.map(|factor| ("factor", factor)));
        let place = format!("{}, noise level {:.4}", example.place, example.sigma);
        self.call(what, example.condition, &inputs, values, &place)
    }

    /// Runs a phase of a condition with `given` and the trained values.
    fn call(
        &mut self,
        what: &str,
        condition: &Condition,
        given: &[(&str, &Tensor)],
        values: &[(String, Tensor)],
        place: &str,
    ) -> Result<Outputs> {
        let references = &condition.references;
        let frames = references.shape()[1];
        let segments = self.segments.get(&frames).ok_or_else(|| {
            Error::internal("E1009", format!("no plan for {frames} frames of references"))
        })?;
        let inputs = Inputs::new()
            .set("ref", references)
            .set("seg", segments)
            .set("txt", &condition.text)
            .all(given.iter().copied())
            .all(values.iter().map(|(name, tensor)| (name.as_str(), tensor)));
        let phase = phase(what, frames);
        let outputs = self.program.call(&phase, &inputs)?;
        if !finite::all_finite(&outputs) {
            let origin = self.program.origin(&phase, &inputs, None, None)?.unwrap_or_default();
            return Err(origin.error(place));
        }
        Ok(outputs)
    }
}

fn loss_of(outputs: &Outputs) -> Result<f64> {
    Ok(outputs.get("loss")?.to_f64_vec()[0])
}
