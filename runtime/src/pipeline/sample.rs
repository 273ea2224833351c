//! The sampling loop: the branches of guidance, their mix, the solver.
//!
//! The compiler decides whether both branches are evaluated together (with few tokens) or one after
//! the other; the result has the same bits.

use super::codec::{ReferenceLatents, concat_time, prefix_time};
use super::context::{tensor_f32, tensor_i32};
use super::need::Sizes;
use super::plan::Stage;
use super::preview::{Preview, Projection};
use super::shelf::Lent;
use super::state::{SamplingState, StepState};
use super::{Cancel, Event, Request, Run};
use crate::engine::{
    Backend, CompileRequest, Compiler, Inputs, Outputs, Prepared, Program, interrupted_in,
};
use crate::error::{Error, Kind, Result};
use crate::model::Model;
use crate::sampling::noise::NoiseStream;
use crate::sampling::{Schedule, SchedulerSettings, Solver, StepCache, first_non_finite, guidance};
use anyid_ir::plan::{Branch, Plan};
use anyid_ir::{DType, Tensor, TensorType};
use anyid_models::wan::dit::{self, DitSize, DitTypes};
use std::borrow::Cow;
use std::time::Instant;

/// Names of the tensors of a state: the latents, and the beginnings of what solver and cache keep.
pub(super) const LATENTS: &str = "latents";
const SOLVER: &str = "solver.";
const CACHE: &str = "cache.";

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
    /// Noise levels at which guidance is at work.
    interval: Option<[f64; 2]>,
    cache: Option<StepCache>,
    /// Velocities of the branches in steps that the cache leaves out.
    predicted: [Vec<f32>; 2],
    timesteps: Tensor,
    /// Of the frames that are made.
    latents: Tensor,
    /// The first frame, where it is given; it is in front of the latents.
    first: Option<Tensor>,
    projection: Option<Projection>,
    outputs: [Outputs; 2],
    velocity: Vec<f32>,
}

/// A tensor of f32 in a state: name, shape and values.
pub type KeptTensor<'s> = (String, Vec<usize>, Cow<'s, [f32]>);

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

/// The schedule of a request: its own noise levels, or that of solver and settings.
///
/// # Errors
/// E092x.
pub fn schedule(settings: &SchedulerSettings, request: &Request) -> Result<Schedule> {
    match &request.sigmas {
        Some(levels) => Schedule::of_levels(levels, settings.solver),
        None => settings.schedule(request.steps),
    }
}

/// The sizes of the transformer. A first frame that is given stands in front of those that are made and
/// has timestep 0, as references have, so that to the transformer it is the last of them.
pub(super) fn size(request: &Request, sizes: &Sizes) -> DitSize {
    let [frames, height, width] = request.size.latent(sizes.geometry);
    let reference_frames = sizes.clean_latents();
    DitSize {
        reference_frames,
        frames: frames - sizes.fixed,
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
    // Branches that are not both evaluated in every step are evaluated one by one.
    let joined = sizes.guided && request.guidance_interval.is_none();
    let own = if joined { own.collect() } else { Vec::new() };
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
    let begin = match &request.resume {
        Some(state) => sampler.resume(state)?,
        None => 0,
    };
    if begin > 0 {
        run.event(Event::Resumed { done: begin, total });
    }
    for step in begin..total {
        let begun = Instant::now();
        let doing = || format!("in sampling step {}", step + 1);
        let made = run.cancel.check(&format!("before sampling step {}", step + 1));
        let made = made.and_then(|()| sampler.step(step).map_err(|e| interrupted_in(e, doing)));
        if let Err(error) = made {
            // A step that is ended early changes nothing.
            if error.kind() == Kind::Interrupted && step > 0 {
                let state = StepState { done: step, total, pressing: true, sampler: &sampler };
                run.receiver.state(&state)?;
            }
            return Err(error);
        }
        run.event(Event::Step { done: step + 1, total, time: begun.elapsed() });
        let (done, pressing) = (step + 1, step + 1 == total);
        run.receiver.state(&StepState { done, total, pressing, sampler: &sampler })?;
    }
    if let Some(cache) = &sampler.cache {
        let (evaluated, left) = (cache.evaluated(), total - cache.evaluated());
        run.event(Event::Detail(format!(
            "the step cache left out {left} of {total} steps, {evaluated} were evaluated"
        )));
    }
    let plan = sampler.program.memory_bytes()
        + sampler.prepared.len() as u64
            * sampler.program.plan("step").map_or(0, |p| p.persistent_bytes);
    run.end("sampling", since, sampler.program.weight_bytes(), plan);
    match &sampler.first {
        Some(first) => concat_time(&[first.clone(), sampler.latents]),
        None => Ok(sampler.latents),
    }
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
        let noise = match &request.noise {
            Some(noise) => noise.clone(),
            None => {
                let whole = [shape[0], shape[1] + sizes.fixed, shape[2], shape[3]];
                let mut values = vec![0f32; whole.iter().product()];
                NoiseStream::new(request.seed, NoiseStream::LATENTS).fill(0, &mut values);
                tensor_f32(whole, &values)?
            }
        };
        let latents = match sizes.fixed {
            0 => noise,
            fixed => prefix_time(&noise, fixed, size.frames)?,
        };
        let schedule = schedule(&settings, request)?;
        let mut solver = settings.solver(&schedule, elements)?;
        solver.seed(request.seed);
        let count = branches.len();
        let cache = request
            .cache
            .map(|most| StepCache::new(most, schedule.steps(), elements, count))
            .transpose()?;
        let scratch =
            |at: usize| vec![0f32; if cache.is_some() && at < count { elements } else { 0 }];
        let predicted = [scratch(0), scratch(1)];
        let outputs = [program.outputs("step")?, program.outputs("step")?];
        Ok(Self {
            program,
            prepared,
            branches,
            schedule,
            solver,
            guidance: request.guidance as f32,
            interval: request.guidance_interval,
            cache,
            predicted,
            first: references.as_ref().and_then(|references| references.first.clone()),
            projection: references.as_ref().and_then(|r| r.projection.clone()),
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
            ReferenceLatents { clean, black, frames, first: None, projection: None }
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
        let guided = self.is_guided(step);
        let branches = 1 + usize::from(guided);
        let latents = self.latents.as_f32().expect("latents are f32");
        let left_out = self.cache.as_ref().and_then(|cache| cache.change(step, latents, branches));
        if left_out.is_none() {
            self.evaluate(step, branches)?;
        }
        let latents = self.latents.as_f32().expect("latents are f32");
        if let Some(cache) = &mut self.cache {
            let [first, second] = &mut self.predicted;
            match left_out {
                None => {
                    let mut learned = [velocity(&self.outputs, self.branches[0])?; 2];
                    if guided {
                        learned[1] = velocity(&self.outputs, self.branches[1])?;
                    }
                    cache.learn(step, latents, &learned[..branches]);
                }
                Some(change) => {
                    cache.predict(0, latents, first);
                    if guided {
                        cache.predict(1, latents, second);
                    }
                    cache.left_out(latents, first, change);
                }
            }
        }
        let of = |branch: usize| match left_out {
            None => velocity(&self.outputs, self.branches[branch]),
            Some(_) => Ok(&self.predicted[branch][..]),
        };
        let conditional = of(0)?;
        match guided {
            true => guidance::mix(conditional, of(1)?, self.guidance, &mut self.velocity)?,
            false => self.velocity.copy_from_slice(conditional),
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

    /// Whether the null branch has a part in a step.
    fn is_guided(&self, step: usize) -> bool {
        let level = f64::from(self.schedule.sigmas[step]);
        let inside = self.interval.is_none_or(|[low, high]| (low..=high).contains(&level));
        self.branches.len() > 1 && inside
    }

    /// Evaluates so many branches.
    fn evaluate(&mut self, step: usize, branches: usize) -> Result<()> {
        let t = self.timesteps.as_f32_mut().expect("timesteps are f32");
        *t.last_mut().expect("one timestep at least") = self.schedule.timesteps[step];
        let runs = self.branches[..branches].iter().map(|(run, _)| run + 1).max().unwrap_or(0);
        for (prepared, outputs) in self.prepared.iter_mut().zip(&mut self.outputs).take(runs) {
            let inputs = Inputs::new().set("lat", &self.latents).set("t", &self.timesteps);
            self.program.step(prepared, &inputs, outputs)?;
        }
        for branch in 0..branches {
            if first_non_finite(velocity(&self.outputs, self.branches[branch])?).is_some() {
                return Err(self.non_finite(step, branch));
            }
        }
        Ok(())
    }

    /// All that the following steps depend on.
    pub(super) fn kept(&self) -> Result<Vec<KeptTensor<'_>>> {
        let shape = self.latents.shape().to_vec();
        let values = self.latents.as_f32().expect("latents are f32");
        let whole = match &self.first {
            Some(first) => {
                let whole = concat_time(&[first.clone(), self.latents.clone()])?;
                let values = whole.as_f32().expect("latents are f32").to_vec();
                (LATENTS.to_owned(), whole.shape().to_vec(), Cow::Owned(values))
            }
            None => (LATENTS.to_owned(), shape.clone(), Cow::Borrowed(values)),
        };
        let solver = self.solver.kept().into_iter().map(|(name, values)| (SOLVER, name, values));
        let cache = self.cache.iter().flat_map(|cache| cache.kept());
        let cache = cache.map(|(name, values)| (CACHE, name, values));
        let rows = solver.chain(cache).map(|(whose, name, values)| {
            (format!("{whose}{name}"), shape.clone(), Cow::Borrowed(values))
        });
        let numbers = self.cache.iter().map(|cache| {
            let (name, numbers) = cache.numbers();
            let values: Cow<'_, [f32]> = Cow::Owned(numbers.to_vec());
            (format!("{CACHE}{name}"), vec![numbers.len()], values)
        });
        Ok(std::iter::once(whole).chain(rows).chain(numbers).collect())
    }

    /// Pictures of the clean latents that are predicted behind `done` steps; none where nothing says
    /// which colours latents have.
    pub(super) fn preview(&self, done: usize) -> Option<Preview> {
        let projection = self.projection.as_ref()?;
        let sigma = self.schedule.sigmas[done];
        let latents = self.latents.as_f32().expect("latents are f32");
        let clean: Vec<f32> =
            latents.iter().zip(&self.velocity).map(|(x, v)| x - sigma * v).collect();
        let shape = self.latents.shape().try_into().expect("latents have four axes");
        Some(projection.pictures(&clean, shape))
    }

    /// Goes on from a state; gives the number of steps that are done.
    fn resume(&mut self, state: &SamplingState) -> Result<usize> {
        let total = self.schedule.steps();
        if state.total != total {
            let message = format!("the state is of a run of {} steps, not {total}", state.total);
            return Err(Error::input("E1301", message).help("repeat the run that it is of"));
        }
        let latents = state.latents();
        let frames = self.latents.shape()[1];
        self.latents = match latents.shape()[1] - frames {
            0 => latents.clone(),
            fixed => prefix_time(latents, fixed, frames)?,
        };
        let done = state.done;
        self.solver.resume(done, &mut |name, to| state.fill(&format!("{SOLVER}{name}"), to))?;
        if let Some(cache) = &mut self.cache {
            cache.resume(&mut |name, to| state.fill(&format!("{CACHE}{name}"), to))?;
        }
        Ok(done)
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
