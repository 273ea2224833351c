//! Sampling: noise levels, solvers, the mix of guidance, and noise, all computed on the host.
//!
//! Conventions (Wan): x_σ = (1−σ)·x0 + σ·ε with σ = 1 pure noise and σ = 0 clean; the network's
//! velocity is v = dx/dσ = ε − x0 and its timestep is τ = 1000·σ. Latents, velocities and solver
//! state are f32; scalars are f64 taken from the stored f32 noise levels. Every solver is
//! element-wise, deterministic, and allocates only when it is made. Nothing here calls a network.

pub mod cache;
pub mod dpmpp;
pub mod euler;
pub mod guidance;
pub use anyid_noise as noise;
pub mod lcm;
pub mod schedule;
pub mod unipc;

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};

pub use cache::StepCache;
pub use dpmpp::Dpmpp;
pub use euler::Euler;
pub use lcm::Lcm;
pub use noise::NoiseStream;
pub use schedule::{Schedule, SchedulerSettings, TimestepRounding};
pub use unipc::UniPc;

/// The solver of the ordinary differential equation that leads from noise to clean latents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SolverKind {
    /// UniPC, order 2, variant bh2, on x0-predictions, with the corrector: Wan's default.
    #[default]
    UniPc,
    /// Flow-matching Euler: x ← x + (σ_next − σ)·v.
    Euler,
    /// DPM-Solver++, order 2, midpoint, multistep.
    Dpmpp,
    /// Predicts clean latents and noises them again: for models distilled to a few steps.
    Lcm,
}

impl SolverKind {
    /// All solvers, in the order in which messages list them.
    pub const ALL: [Self; 4] = [Self::UniPc, Self::Euler, Self::Dpmpp, Self::Lcm];

    /// The name a user types.
    pub fn name(self) -> &'static str {
        match self {
            Self::UniPc => "unipc",
            Self::Euler => "euler",
            Self::Dpmpp => "dpmpp",
            Self::Lcm => "lcm",
        }
    }

    /// How many buffers of the latent's size the solver keeps between steps.
    pub fn state_buffers(self) -> usize {
        match self {
            Self::UniPc => 3,
            Self::Euler | Self::Lcm => 0,
            Self::Dpmpp => 1,
        }
    }
}

impl fmt::Display for SolverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SolverKind {
    type Err = Error;

    /// Reads `unipc`, `euler`, `dpmpp` or `lcm`; anything else is E0921.
    fn from_str(text: &str) -> Result<Self> {
        choose("E0921", "solver", text, &Self::ALL, Self::name)
    }
}

/// Where the noise levels come from. Together with the solver it picks one of the schedules A to E
/// of `sampling.md` §3 (see [`Schedule::new`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ScheduleKind {
    /// The original programs: A for `unipc`, C for `dpmpp`, D for `euler` and `lcm`.
    #[default]
    Wan,
    /// The diffusers library with flow sigmas: B for `unipc` and `dpmpp`, D for `euler` and
    /// `lcm`.
    Diffusers,
    /// E: what the diffusers class `FlowMatchEulerDiscreteScheduler` does, which applies the shift
    /// twice. `euler` only; for comparisons with that class, not for generating.
    DiffusersEuler,
}

impl ScheduleKind {
    /// All schedules, in the order in which messages list them.
    pub const ALL: [Self; 3] = [Self::Wan, Self::Diffusers, Self::DiffusersEuler];

    /// The name a user types.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wan => "wan",
            Self::Diffusers => "diffusers",
            Self::DiffusersEuler => "diffusers-euler",
        }
    }
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ScheduleKind {
    type Err = Error;

    /// Reads `wan`, `diffusers` or `diffusers-euler`; anything else is E0922.
    fn from_str(text: &str) -> Result<Self> {
        choose("E0922", "schedule", text, &Self::ALL, Self::name)
    }
}

/// One run of a solver over one latent.
///
/// A solver is made for a fixed schedule and a fixed number of elements. Steps come in order,
/// `index` 0, 1, … N−1; each gets the network's velocity at (x, σ_index) and leaves x at
/// σ_{index+1}.
pub trait Solver: Send {
    /// Carries `x` from σ_index to σ_{index+1}, given `velocity` at (x, σ_index).
    ///
    /// # Errors
    /// E0926 (internal) when the step is out of order or a length differs from the one given at
    /// construction; `x` and the state are then unchanged.
    fn step(&mut self, index: usize, x: &mut [f32], velocity: &[f32]) -> Result<()>;

    /// Forgets the run so far, so that a new latent can start at step 0.
    fn reset(&mut self);

    /// Sets the seed of noise that it adds; most add none.
    fn seed(&mut self, seed: u64) {
        let _ = seed;
    }

    /// What it keeps from step to step, by name: all that a later step depends on besides x, the
    /// number of the step and what the solver was made with.
    fn kept(&self) -> Vec<(&'static str, &[f32])>;

    /// Goes on behind `done` steps of another solver that was made with the same; `fill` writes what
    /// that one [kept](Self::kept).
    ///
    /// # Errors
    /// E0926 (internal) for more steps than there are, and those of `fill`.
    fn resume(&mut self, done: usize, fill: Fill<'_>) -> Result<()>;

    /// Which solver this is.
    fn kind(&self) -> SolverKind;
}

/// Writes what a solver kept under a name.
pub type Fill<'f> = &'f mut dyn FnMut(&str, &mut [f32]) -> Result<()>;

/// Makes the solver `kind` (order 2 where it has an order) for `schedule` and `elements` values.
///
/// # Errors
/// E0925 if the schedule does not fall strictly from at most 1 to 0 or starts at a level that the
/// solver cannot use; E0927 if the state does not fit into memory.
pub fn solver(kind: SolverKind, schedule: &Schedule, elements: usize) -> Result<Box<dyn Solver>> {
    Ok(match kind {
        SolverKind::UniPc => Box::new(UniPc::new(schedule, elements, 2)?),
        SolverKind::Euler => Box::new(Euler::new(schedule, elements)?),
        SolverKind::Dpmpp => Box::new(Dpmpp::new(schedule, elements)?),
        SolverKind::Lcm => Box::new(Lcm::new(schedule, elements)?),
    })
}

/// The index of the first NaN or infinity, if there is one.
pub fn first_non_finite(values: &[f32]) -> Option<usize> {
    // A loop without early exit vectorises; only a block with a hit is searched value by value.
    const BLOCK: usize = 1024;
    for (block, chunk) in values.chunks(BLOCK).enumerate() {
        let hit = chunk.iter().fold(false, |hit, value| hit | !value.is_finite());
        if hit {
            let inside = chunk.iter().position(|value| !value.is_finite());
            return inside.map(|inside| block * BLOCK + inside);
        }
    }
    None
}

/// Which step comes next and how many elements it must have: the bookkeeping of every solver.
#[derive(Clone, Debug)]
struct Run {
    sigmas: Vec<f32>,
    elements: usize,
    next: usize,
}

impl Run {
    /// Takes the noise levels after checking that they fall strictly to 0.
    fn new(schedule: &Schedule, elements: usize) -> Result<Self> {
        schedule.check()?;
        Ok(Self { sigmas: schedule.sigmas.clone(), elements, next: 0 })
    }

    /// Number of steps.
    fn steps(&self) -> usize {
        self.sigmas.len() - 1
    }

    /// σ of step `index` in f64.
    fn sigma(&self, index: usize) -> f64 {
        f64::from(self.sigmas[index])
    }

    /// Checks one call before anything is written and moves on to the next step.
    fn admit(&mut self, index: usize, x: &[f32], velocity: &[f32]) -> Result<()> {
        if x.len() != self.elements || velocity.len() != self.elements {
            return Err(Error::internal(
                "E0926",
                format!(
                    "the solver was made for {} elements but the step got {} of the latent and {} \
                     of the velocity",
                    self.elements,
                    x.len(),
                    velocity.len()
                ),
            )
            .at(format!("solver step {index}"))
            .help("make a solver for each latent size"));
        }
        if index != self.next || index >= self.steps() {
            return Err(Error::internal(
                "E0926",
                format!(
                    "solver steps must come in order: got step {index}, expected {}",
                    if self.next < self.steps() {
                        format!("step {} of {}", self.next, self.steps())
                    } else {
                        format!("none, all {} are done", self.steps())
                    }
                ),
            )
            .at(format!("solver step {index}"))
            .help("call reset() before a new run"));
        }
        self.next += 1;
        Ok(())
    }

    /// Goes on behind `done` steps.
    fn resume(&mut self, done: usize) -> Result<()> {
        if done > self.steps() {
            let message = format!("{done} steps are done of {}", self.steps());
            return Err(Error::internal("E0926", message).help("take the schedule of that run"));
        }
        self.next = done;
        Ok(())
    }
}

/// λ = ln α − ln σ with α = 1 − σ: −∞ at σ = 1, +∞ at σ = 0.
fn lambda(sigma: f64) -> f64 {
    (1.0 - sigma).ln() - sigma.ln()
}

/// A zeroed buffer of `elements` values, or E0927.
fn state_buffer(elements: usize) -> Result<Vec<f32>> {
    let mut buffer: Vec<f32> = Vec::new();
    buffer.try_reserve_exact(elements).map_err(|cause| {
        Error::new(
            Kind::Budget,
            "E0927",
            format!("no memory for a solver buffer of {elements} values (4 bytes each)"),
        )
        .help("lower the size or the number of frames, or use the solver euler, which keeps none")
        .caused_by(cause)
    })?;
    buffer.resize(elements, 0.0);
    Ok(buffer)
}

/// Finds `text` among the names of `all`; otherwise a coded error that lists them and suggests the
/// nearest.
fn choose<T: Copy>(
    code: &'static str,
    what: &str,
    text: &str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T> {
    if let Some(found) = all.iter().copied().find(|item| name(*item) == text) {
        return Ok(found);
    }
    let names: Vec<&str> = all.iter().map(|item| name(*item)).collect();
    // The text can be anything that a user typed, so what is compared and shown is bounded.
    let shown: String = text.chars().take(40).collect();
    let nearest = names.iter().copied().min_by_key(|name| distance(&shown.to_lowercase(), name));
    let help = format!("the {what}s are {}", names.join(", "));
    Err(Error::input(code, format!("unknown {what} {shown:?}")).help(match nearest {
        Some(nearest) => format!("did you mean {nearest:?}? {help}"),
        None => help,
    }))
}

/// Number of single-character insertions, deletions and replacements between two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    const STEPS: [usize; 7] = [50, 20, 8, 4, 3, 2, 1];

    fn fixture(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sched/base/");
        std::fs::read(format!("{folder}{name}")).expect("fixture")
    }

    fn tensor(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
        let view = file.tensor(name).expect(name);
        let data = view.data();
        match view.dtype() {
            safetensors::Dtype::F32 => {
                data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            }
            safetensors::Dtype::I64 => data
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32)
                .collect(),
            other => panic!("{name} is {other:?}"),
        }
    }

    /// The model that made the golden trajectories.
    fn golden_model(x: &[f32], timestep: f32, velocity: &mut [f32]) {
        for (v, x) in velocity.iter_mut().zip(x) {
            *v = 0.6 * x - 0.9 * (1.3 * x + (timestep / 170.0).cos()).tanh()
                + 0.25 * (timestep / 90.0).sin();
        }
    }

    fn golden_kinds(prefix: &str) -> (SolverKind, ScheduleKind) {
        match prefix {
            "unipc" => (SolverKind::UniPc, ScheduleKind::Diffusers),
            _ => (SolverKind::Euler, ScheduleKind::DiffusersEuler),
        }
    }

    fn worst(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        let scale = b.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / scale
    }

    #[test]
    fn golden_schedules() {
        let bytes = fixture("expected.safetensors");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for prefix in ["unipc", "euler"] {
            let (solver, kind) = golden_kinds(prefix);
            for n in STEPS {
                let made = Schedule::new(kind, solver, n, 5.0).unwrap();
                let sigmas = tensor(&file, &format!("{prefix}.n{n}.sigmas"));
                let timesteps = tensor(&file, &format!("{prefix}.n{n}.timesteps"));
                assert_eq!(made.sigmas.len(), n + 1);
                for (a, b) in made.sigmas.iter().zip(&sigmas) {
                    assert!((a - b).abs() <= 1e-7, "{prefix} n{n}: {a} {b}");
                }
                if prefix == "unipc" {
                    assert_eq!(made.timesteps, timesteps, "n{n}");
                } else {
                    assert!(worst(&made.timesteps, &timesteps) <= 1.3e-7, "n{n}");
                }
            }
        }
    }

    #[test]
    fn golden_trajectories_replayed_and_closed_loop() {
        let bytes = fixture("expected.safetensors");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let input_bytes = fixture("inputs.safetensors");
        let start = tensor(&SafeTensors::deserialize(&input_bytes).unwrap(), "sample");
        let mut seen = (0.0f32, 0.0f32);
        for prefix in ["unipc", "euler"] {
            let (solver_kind, kind) = golden_kinds(prefix);
            for n in STEPS {
                let schedule = Schedule::new(kind, solver_kind, n, 5.0).unwrap();
                let outputs = tensor(&file, &format!("{prefix}.n{n}.model_outputs"));
                let samples = tensor(&file, &format!("{prefix}.n{n}.samples"));
                let len = start.len();
                let mut replay = solver(solver_kind, &schedule, len).unwrap();
                let mut closed = solver(solver_kind, &schedule, len).unwrap();
                let (mut a, mut b) = (start.clone(), start.clone());
                let mut velocity = vec![0.0; len];
                for i in 0..n {
                    let expected = &samples[i * len..(i + 1) * len];
                    replay.step(i, &mut a, &outputs[i * len..(i + 1) * len]).unwrap();
                    golden_model(&b, schedule.timesteps[i], &mut velocity);
                    closed.step(i, &mut b, &velocity).unwrap();
                    let error = (worst(&a, expected), worst(&b, expected));
                    assert!(error.0 <= 1e-5 && error.1 <= 1e-5, "{prefix} n{n} {i}: {error:?}");
                    seen = (seen.0.max(error.0), seen.1.max(error.1));
                }
            }
        }
        println!("largest relative error: replay {:.2e}, closed loop {:.2e}", seen.0, seen.1);
    }

    /// x after each step for v = 0.5·x + σ from x = 1.
    fn scalar_run(kind: SolverKind, schedule: &Schedule) -> Vec<f32> {
        let mut solver = solver(kind, schedule, 1).unwrap();
        let mut x = [1.0f32];
        let mut all = Vec::new();
        for i in 0..schedule.timesteps.len() {
            let v = [0.5 * x[0] + schedule.sigmas[i]];
            solver.step(i, &mut x, &v).unwrap();
            all.push(x[0]);
        }
        all
    }

    fn close(a: &[f32], b: &[f64], tolerance: f64) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((f64::from(*a) - b).abs() <= tolerance, "{a} {b}");
        }
    }

    #[test]
    fn printed_scalar_tests() {
        let five = Schedule::new(ScheduleKind::Wan, SolverKind::UniPc, 5, 5.0).unwrap();
        let sigmas = [0.999799842, 0.952154025, 0.882093246, 0.768934733, 0.555246780, 0.0];
        close(&five.sigmas, &sigmas, 1e-7);
        let x = [0.928540811, 0.831574548, 0.693761259, 0.483698627, 0.041113588];
        close(&scalar_run(SolverKind::UniPc, &five), &x, 1e-6);

        let eight = Schedule::new(ScheduleKind::Wan, SolverKind::UniPc, 8, 5.0).unwrap();
        assert_eq!(eight.timesteps, [999.0, 972.0, 937.0, 892.0, 833.0, 749.0, 624.0, 416.0]);
        let x = [
            0.958314811,
            0.908677595,
            0.848382384,
            0.772674337,
            0.676053749,
            0.551085622,
            0.395464381,
            0.139751279,
        ];
        close(&scalar_run(SolverKind::UniPc, &eight), &x, 1e-6);

        let euler = Schedule::new(ScheduleKind::Wan, SolverKind::Euler, 5, 5.0).unwrap();
        close(&euler.sigmas, &[1.0, 0.952380952, 0.882352941, 0.769230769, 0.555555556, 0.0], 1e-7);
        let x = [0.928571429, 0.829365079, 0.682641609, 0.445344264, 0.012995549];
        close(&scalar_run(SolverKind::Euler, &euler), &x, 1e-6);
    }

    #[test]
    fn order_of_convergence_on_a_linear_equation() {
        // Equal steps of λ from σ = 0.8 to 0.2; the unavoidable last step to 0 is not looked at.
        // The exact solution of dx/dσ = 0.5·x + σ is x = C·e^{σ/2} − 2σ − 4, here with x(0.8) = 1.
        let exact =
            |sigma: f64| (1.0 + 1.6 + 4.0) * ((sigma - 0.8) / 2.0).exp() - 2.0 * sigma - 4.0;
        for (kind, least) in
            [(SolverKind::Euler, 1.8), (SolverKind::Dpmpp, 3.2), (SolverKind::UniPc, 3.2)]
        {
            let mut errors = Vec::new();
            for n in [16, 32, 64] {
                let ends = (lambda(0.8), lambda(0.2));
                let level = |i: usize| {
                    let at = ends.0 + (ends.1 - ends.0) * i as f64 / n as f64;
                    (1.0 / (1.0 + at.exp())) as f32
                };
                let mut sigmas: Vec<f32> = (0..=n).map(level).collect();
                sigmas.push(0.0);
                let schedule = Schedule { sigmas, timesteps: vec![0.0; n + 1] };
                let reached = f64::from(scalar_run(kind, &schedule)[n - 1]);
                errors.push((reached - exact(f64::from(schedule.sigmas[n]))).abs());
            }
            println!("{kind}: {errors:?}");
            for pair in errors.windows(2) {
                assert!(pair[0] / pair[1] >= least, "{kind}: {errors:?}");
            }
        }
    }

    #[test]
    fn constant_x0_is_exact_for_every_solver_and_step_count() {
        let x0 = [0.25f32, -1.5, 3.0];
        let noise = [1.0f32, -0.5, 2.0];
        for kind in SolverKind::ALL {
            for schedule_kind in [ScheduleKind::Wan, ScheduleKind::Diffusers] {
                for n in [1, 2, 3, 5, 50] {
                    let schedule = Schedule::new(schedule_kind, kind, n, 5.0).unwrap();
                    let mut solver = solver(kind, &schedule, 3).unwrap();
                    let line = |sigma: f32| {
                        let mix = |i: usize| (1.0 - sigma) * x0[i] + sigma * noise[i];
                        [mix(0), mix(1), mix(2)]
                    };
                    let mut x = line(schedule.sigmas[0]);
                    for i in 0..n {
                        let v = [0, 1, 2].map(|e| noise[e] - x0[e]);
                        solver.step(i, &mut x, &v).unwrap();
                        if kind == SolverKind::Lcm && i + 1 < n {
                            // Noised again, so no longer on the line of its noise.
                            x = line(schedule.sigmas[i + 1]);
                        }
                        let expected = line(schedule.sigmas[i + 1]);
                        assert!(worst(&x, &expected) < 2e-6, "{kind} {schedule_kind} {n} {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_reset_solver_repeats_its_run_bit_for_bit() {
        for kind in SolverKind::ALL {
            let schedule = Schedule::new(ScheduleKind::Wan, kind, 6, 5.0).unwrap();
            let mut solver = solver(kind, &schedule, 64).unwrap();
            let mut runs = Vec::new();
            for _ in 0..2 {
                let mut x = vec![0.0f32; 64];
                NoiseStream::new(7, 0).fill(0, &mut x);
                let mut velocity = vec![0.0; 64];
                for i in 0..6 {
                    golden_model(&x, schedule.timesteps[i], &mut velocity);
                    solver.step(i, &mut x, &velocity).unwrap();
                }
                runs.push(x);
                solver.reset();
            }
            assert_eq!(runs[0], runs[1]);
            assert_eq!(first_non_finite(&runs[0]), None);
        }
    }

    #[test]
    fn a_solver_goes_on_from_what_another_kept_bit_for_bit() {
        for kind in SolverKind::ALL {
            let schedule = Schedule::new(ScheduleKind::Wan, kind, 6, 5.0).unwrap();
            let make = || solver(kind, &schedule, 64).unwrap();
            let run = |solver: &mut dyn Solver, x: &mut [f32], steps: std::ops::Range<usize>| {
                let mut velocity = vec![0.0; 64];
                for i in steps {
                    golden_model(x, schedule.timesteps[i], &mut velocity);
                    solver.step(i, x, &velocity).unwrap();
                }
            };
            let mut start = vec![0.0f32; 64];
            NoiseStream::new(7, 0).fill(0, &mut start);
            let mut whole = start.clone();
            run(&mut *make(), &mut whole, 0..6);
            for done in 0..=6 {
                let (mut x, mut first, mut second) = (start.clone(), make(), make());
                run(&mut *first, &mut x, 0..done);
                let kept = first.kept();
                assert_eq!(kept.len(), kind.state_buffers());
                let mut fill = |name: &str, to: &mut [f32]| {
                    let (_, from) = kept.iter().find(|(own, _)| *own == name).expect("kept");
                    to.copy_from_slice(from);
                    Ok(())
                };
                second.resume(done, &mut fill).unwrap();
                run(&mut *second, &mut x, done..6);
                assert_eq!(x, whole, "{kind} {done}");
            }
            let error = make().resume(7, &mut |_, _| Ok(())).unwrap_err();
            assert_eq!((error.code(), error.kind()), ("E0926", Kind::Internal));
        }
    }

    #[test]
    fn wrong_calls_are_coded_and_change_nothing() {
        for kind in SolverKind::ALL {
            let schedule = Schedule::new(ScheduleKind::Wan, kind, 2, 5.0).unwrap();
            let mut solver = solver(kind, &schedule, 2).unwrap();
            assert_eq!(solver.kind(), kind);
            let mut x = [1.0f32, 2.0];
            assert_eq!(solver.step(1, &mut x, &[0.0, 0.0]).unwrap_err().code(), "E0926");
            assert_eq!(solver.step(0, &mut x, &[0.0]).unwrap_err().code(), "E0926");
            assert_eq!(x, [1.0, 2.0]);
            solver.step(0, &mut x, &[0.1, 0.1]).unwrap();
            solver.step(1, &mut x, &[0.1, 0.1]).unwrap();
            let after = x;
            let error = solver.step(2, &mut x, &[0.1, 0.1]).unwrap_err();
            assert_eq!((error.code(), error.kind(), x), ("E0926", Kind::Internal, after));
        }
    }

    #[test]
    fn hand_made_schedules_are_checked() {
        let bad: [&[f32]; 7] = [
            &[],
            &[0.0],
            &[0.9, 0.1],
            &[0.9, 0.9, 0.0],
            &[1.5, 0.5, 0.0],
            &[f32::NAN, 0.0],
            &[0.5, f32::NAN, 0.0],
        ];
        for sigmas in bad {
            let schedule = Schedule { sigmas: sigmas.to_vec(), timesteps: vec![] };
            for kind in SolverKind::ALL {
                let error = solver(kind, &schedule, 1).err().expect("refused");
                assert_eq!(error.code(), "E0925", "{sigmas:?}");
            }
        }
        // UniPC needs a finite λ at the start; the others do not.
        let full = Schedule { sigmas: vec![1.0, 0.5, 0.0], timesteps: vec![1000.0, 500.0] };
        assert_eq!(solver(SolverKind::UniPc, &full, 1).err().expect("refused").code(), "E0925");
        assert!(solver(SolverKind::Dpmpp, &full, 1).is_ok());
        let huge = solver(
            SolverKind::UniPc,
            &Schedule::new(ScheduleKind::Wan, SolverKind::UniPc, 4, 5.0).unwrap(),
            usize::MAX / 2,
        );
        let error = huge.err().expect("refused");
        assert_eq!((error.code(), error.kind()), ("E0927", Kind::Budget));
    }

    #[test]
    fn names_parse_and_unknown_names_suggest() {
        for kind in SolverKind::ALL {
            assert_eq!(kind.to_string().parse::<SolverKind>().unwrap(), kind);
        }
        for kind in ScheduleKind::ALL {
            assert_eq!(kind.to_string().parse::<ScheduleKind>().unwrap(), kind);
        }
        let error = "dpm++".parse::<SolverKind>().unwrap_err();
        assert_eq!(error.code(), "E0921");
        let help = error.help_text().unwrap();
        assert!(help.contains("\"dpmpp\"") && help.contains("unipc, euler, dpmpp"), "{help}");
        let error = "Diffuser".parse::<ScheduleKind>().unwrap_err();
        assert_eq!(error.code(), "E0922");
        assert!(error.help_text().unwrap().contains("did you mean \"diffusers\"?"));
        assert!("x".repeat(100_000).parse::<SolverKind>().is_err());
    }

    #[test]
    fn the_first_non_finite_value_is_found() {
        let mut values = vec![1.0f32; 5000];
        assert_eq!(first_non_finite(&values), None);
        assert_eq!(first_non_finite(&[]), None);
        values[4999] = f32::NEG_INFINITY;
        assert_eq!(first_non_finite(&values), Some(4999));
        values[1024] = f32::NAN;
        values[1025] = f32::INFINITY;
        assert_eq!(first_non_finite(&values), Some(1024));
        values[0] = f32::MAX;
        assert_eq!(first_non_finite(&values), Some(1024));
    }
}
