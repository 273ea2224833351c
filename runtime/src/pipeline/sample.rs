//! The sampling loop: the branches of guidance, their mix, the solver.
//!
//! The compiler decides whether both branches are evaluated together (with few tokens) or one after
//! the other; the result has the same bits.

use super::codec::ReferenceLatents;
use super::context::{tensor_f32, tensor_i32};
use super::need::Sizes;
use super::plan::Stage;
use super::shelf::Lent;
use super::{Cancel, Event, Request, Run};
use crate::engine::{
    Backend, CompileRequest, Compiler, Inputs, Outputs, Prepared, Program, interrupted_in,
};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::sampling::noise::NoiseStream;
use crate::sampling::{Schedule, SchedulerSettings, Solver, first_non_finite, guidance};
use anyid_ir::plan::{Branch, Plan};
use anyid_ir::{DType, Tensor, TensorType};
use anyid_models::wan::dit::{self, DitSize, DitTypes};
use std::time::Instant;

/// Velocities and latents of one step, for comparisons.
#[derive(Clone, Debug)]
pub struct StepRecord {
    /// Velocity of the conditional branch.
    pub conditional: Vec<f32>,
    /// Velocity of the null branch, empty without guidance.
    pub unconditional: Vec<f32>,
    /// Guided velocity.
    pub velocity: Vec<f32>,
    /// Latents after the step.
    pub latents: Vec<f32>,
}

/// The transformer loaded for one request, with its solver and latents.
pub struct Sampler {
    program: Lent,
    /// What each run of `prepare` kept: one for each branch, or one for both.
    prepared: Vec<Prepared>,
    /// For each branch: the run that evaluates it, and which of that run's branches it is.
    branches: Vec<(usize, Branch)>,
    schedule: Schedule,
    solver: Box<dyn Solver>,
    guidance: f32,
    timesteps: Tensor,
    latents: Tensor,
    outputs: [Outputs; 2],
    velocity: Vec<f32>,
}

/// Solver and schedule of a request; its own settings override those of the model.
pub fn settings(model: &Model, request: &Request) -> SchedulerSettings {
    let mut settings = model.scheduler.clone();
    if let Some(solver) = request.solver {
        settings.solver = solver;
    }
    if let Some(schedule) = request.schedule {
        settings.schedule = schedule;
    }
    if let Some(shift) = request.shift {
        settings.shift = shift;
    }
    settings
}

/// The sizes of the transformer.
pub(super) fn size(request: &Request, sizes: &Sizes) -> DitSize {
    let [frames, height, width] = request.size.latent(sizes.geometry);
    let reference_frames = sizes.reference_latents();
    DitSize {
        reference_frames,
        frames,
        height,
        width,
        text_tokens: sizes.rows,
        // References have timestep 0, the target has the timestep of the step.
        timesteps: if reference_frames > 0 { 2 } else { 1 },
    }
}

/// The transformer split into `prepare` and `step`.
pub(super) fn compile(
    backend: &Backend,
    model: &Model,
    request: &Request,
    sizes: &Sizes,
) -> Result<Compiler> {
    let types = DitTypes { precision: sizes.precision, residual: request.residual };
    let size = size(request, sizes);
    let module = dit::dit(&model.dit, &size, types);
    let own = ["txt", "ref"].into_iter().take(1 + usize::from(size.reference_frames > 0));
    let own = if sizes.guided { own.collect() } else { Vec::new() };
    let request = CompileRequest::new(&module, "dit").varying(["lat", "t"]).branches(own);
    Compiler::new(backend).add("step", request)
}

/// Samples and returns the final latents.
pub(super) fn run(
    run: &mut Run<'_>,
    stage: Stage,
    request: &Request,
    sizes: &Sizes,
    contexts: &[Tensor; 2],
    references: &Option<ReferenceLatents>,
) -> Result<Tensor> {
    let since = run.begin("sampling");
    let mut sampler = Sampler::new(run, stage, request, sizes, contexts, references)?;
    let total = sampler.schedule.steps();
    for step in 0..total {
        run.cancel.check(&format!("before sampling step {}", step + 1))?;
        let begun = Instant::now();
        let doing = || format!("in sampling step {}", step + 1);
        sampler.step(step).map_err(|error| interrupted_in(error, doing))?;
        run.event(Event::Step { done: step + 1, total, time: begun.elapsed() });
    }
    let plan = sampler.program.memory_bytes()
        + sampler.prepared.len() as u64
            * sampler.program.plan("step").map_or(0, |p| p.persistent_bytes);
    run.end("sampling", since, sampler.program.weight_bytes(), plan);
    Ok(sampler.latents)
}

impl Sampler {
    /// Loads the transformer and computes for both branches what does not change from step to step.
    fn new(
        run: &mut Run<'_>,
        stage: Stage,
        request: &Request,
        sizes: &Sizes,
        contexts: &[Tensor; 2],
        references: &Option<ReferenceLatents>,
    ) -> Result<Self> {
        let config = &run.model.dit;
        let size = size(request, sizes);
        let reference_frames = size.reference_frames;
        let weights = run.model.dit_weights.clone();
        let settings = settings(run.model, request);
        let shape = [config.in_channels, size.frames, size.height, size.width];
        let elements = shape.iter().product();
        let tokens = size.tokens(config);
        let target = size.frames * size.tokens_per_frame(config);
        let mut program = stage.load(run, &weights)?;
        let both = program.plan("prepare").is_some_and(Plan::has_branches);

        let segments: Vec<i32> =
            (0..tokens).map(|i| i32::from(i >= tokens - target && reference_frames > 0)).collect();
        let seg = tensor_i32([tokens], &segments)?;
        let (mut prepared, mut branches) = (Vec::new(), Vec::new());
        for branch in 0..1 + usize::from(sizes.guided) {
            branches.push(if both { (0, branch as Branch) } else { (branch, 0) });
            if branch == 0 || !both {
                let inputs = Inputs::new().set("seg", &seg);
                let mut inputs = with_branch(inputs, 0, branch, contexts, references);
                if both {
                    inputs = with_branch(inputs, 1, 1, contexts, references);
                }
                let one = prepare(&mut program, &inputs, branch_name(both, branch));
                let doing = || "before sampling step 1".to_owned();
                prepared.push(one.map_err(|error| interrupted_in(error, doing))?);
            }
        }
        let latents = match &request.noise {
            Some(noise) => noise.clone(),
            None => {
                let mut values = vec![0f32; elements];
                NoiseStream::new(request.seed, NoiseStream::LATENTS).fill(0, &mut values);
                tensor_f32(shape, &values)?
            }
        };
        let schedule = settings.schedule(request.steps)?;
        let solver = settings.solver(&schedule, elements)?;
        let outputs = [program.outputs("step")?, program.outputs("step")?];
        Ok(Self {
            program,
            prepared,
            branches,
            schedule,
            solver,
            guidance: request.guidance as f32,
            timesteps: Tensor::zeros(TensorType::new(DType::F32, [size.timesteps])),
            latents,
            outputs,
            velocity: vec![0f32; elements],
        })
    }

    /// A sampler outside a pipeline run, for comparisons step by step.
    ///
    /// # Errors
    /// As [`super::Pipeline::generate`].
    pub fn open(
        model: &Model,
        backend: &Backend,
        request: &Request,
        contexts: &[Tensor; 2],
        references: Option<[Tensor; 2]>,
    ) -> Result<Self> {
        let references = references.map(|[clean, black]| {
            let frames = clean.shape()[1];
            ReferenceLatents { clean, black, frames }
        });
        // A single clip with the same number of latent frames has the same plans.
        let frames = references.as_ref().map(|r| model.geometry().frames(r.frames));
        let mut sizes = Sizes::of(model, request, frames.into_iter().collect(), None);
        sizes.rows = contexts[0].shape()[0];
        Run::quiet(model, &Cancel::new(), &mut |_| Ok(()), |run| {
            let stage = Stage::alone("sampling", compile(backend, model, request, &sizes)?);
            Self::new(run, stage, request, &sizes, contexts, &references)
        })
    }

    /// The schedule.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// One sampling step. Nothing is allocated.
    ///
    /// # Errors
    /// E1001 naming step and node for a non-finite value, E1002 when cancelled.
    pub fn step(&mut self, step: usize) -> Result<()> {
        let t = self.timesteps.as_f32_mut().expect("timesteps are f32");
        *t.last_mut().expect("one timestep at least") = self.schedule.timesteps[step];
        for (prepared, outputs) in self.prepared.iter_mut().zip(&mut self.outputs) {
            let inputs = Inputs::new().set("lat", &self.latents).set("t", &self.timesteps);
            self.program.step(prepared, &inputs, outputs)?;
        }
        for branch in 0..self.branches.len() {
            if first_non_finite(velocity(&self.outputs, self.branches[branch])?).is_some() {
                return Err(self.non_finite(step, branch));
            }
        }
        let conditional = velocity(&self.outputs, self.branches[0])?;
        match self.branches.get(1) {
            Some(null) => {
                let null = velocity(&self.outputs, *null)?;
                guidance::mix(conditional, null, self.guidance, &mut self.velocity)?;
            }
            None => self.velocity.copy_from_slice(conditional),
        }
        let place =
            |what: &str| format!("a non-finite value in sampling step {}: {what}", step + 1);
        if first_non_finite(&self.velocity).is_some() {
            let error = Error::input("E1001", place("in the mix of guidance"));
            return Err(error.help("take a smaller --guidance; the branches are finite"));
        }
        let latents = self.latents.as_f32_mut().expect("latents are f32");
        self.solver.step(step, latents, &self.velocity)?;
        if first_non_finite(latents).is_some() {
            let error = Error::input("E1001", place("in the solver's update"));
            return Err(error.help("take another --solver or more --steps; the velocity is finite"));
        }
        Ok(())
    }

    /// One step with a copy of everything it computed.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn record(&mut self, step: usize) -> Result<StepRecord> {
        self.step(step)?;
        let branch = |at: usize| match self.branches.get(at) {
            Some(branch) => velocity(&self.outputs, *branch).map(<[f32]>::to_vec),
            None => Ok(Vec::new()),
        };
        Ok(StepRecord {
            conditional: branch(0)?,
            unconditional: branch(1)?,
            velocity: self.velocity.clone(),
            latents: self.latents.as_f32().expect("latents are f32").to_vec(),
        })
    }

    /// Runs the branch again and checks every node, to name the first that went wrong.
    fn non_finite(&mut self, step: usize, branch: usize) -> Error {
        let inputs = Inputs::new().set("lat", &self.latents).set("t", &self.timesteps);
        let prepared = Some(&mut self.prepared[self.branches[branch].0]);
        let origin = match self.program.origin("step", &inputs, prepared, None) {
            Ok(origin) => origin.unwrap_or_default(),
            Err(error) => return error,
        };
        let name = branch_name(false, branch);
        origin.error(&format!("sampling step {}, {name}", step + 1))
    }
}

/// `inputs` with text and references of branch `own` as those of branch `branch` of the program.
fn with_branch<'a>(
    inputs: Inputs<'a>,
    branch: Branch,
    own: usize,
    contexts: &'a [Tensor; 2],
    references: &'a Option<ReferenceLatents>,
) -> Inputs<'a> {
    let inputs = inputs.set_branch(branch, "txt", &contexts[own]);
    match references {
        Some(r) if own == 0 => inputs.set_branch(branch, "ref", &r.clean),
        Some(r) => inputs.set_branch(branch, "ref", &r.black),
        None => inputs,
    }
}

fn branch_name(both: bool, branch: usize) -> &'static str {
    match (both, branch) {
        (true, _) => "both branches",
        (false, 0) => "conditional branch",
        (false, _) => "null branch",
    }
}

/// Runs `prepare` and checks everything that it keeps.
fn prepare(program: &mut Program, inputs: &Inputs<'_>, branch: &str) -> Result<Prepared> {
    let mut prepared = program.prepare(inputs)?;
    if !program.is_finite(&prepared) {
        let origin = program.origin("prepare", inputs, Some(&mut prepared), None)?;
        let place = format!("`prepare`, what the transformer computes before its steps, {branch}");
        return Err(origin.unwrap_or_default().error(&place));
    }
    Ok(prepared)
}

/// Velocity that run `run` gives for `branch`.
fn velocity(outputs: &[Outputs; 2], (run, branch): (usize, Branch)) -> Result<&[f32]> {
    let v = outputs[run].get_branch(branch, "v")?;
    v.as_f32().map_err(|e| Error::internal("E1009", e.to_string()))
}
