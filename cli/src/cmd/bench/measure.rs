//! Measures one network: the time of runs, the memory as planned and as the process held it, and,
//! if requested, the time of every step.
//!
//! Everything goes through the compiler and programs of the library, as in a real run. The peaks of
//! the machine are measured last, because this takes memory of its own.

use super::profile::Profile;
use crate::cmd::bench::args::BenchPhase;
use crate::output;
use crate::page;
use crate::progress::Progress;
use anyid_ir::Tensor;
use anyid_ir::plan::Plan;
use anyid_models::wan::Precision;
use anyid_passes::report::PhaseSummary;
use anyid_runtime::engine::{
    Compiler, LaunchTime, Program, Throughput, Times, Watched, available_memory,
};
use anyid_runtime::init::RandomWeights;
use anyid_runtime::sampling::first_non_finite;
use anyid_runtime::{Backend, Error, Result};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most runs that may be asked for.
const MOST_REPEATS: usize = 1000;

/// Bounds on how long each peak of the machine is measured; otherwise as long as the runs took.
const CEILING: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(400)];

/// What a run of a network is.
pub trait Job {
    /// Whatever is done once before all runs.
    ///
    /// # Errors
    /// As [`Program::prepare`].
    fn begin(&mut self, program: &mut Program) -> Result<()>;

    /// One run.
    ///
    /// # Errors
    /// As [`Program::call`].
    fn run(&mut self, program: &mut Program) -> Result<()>;

    /// Results of the last run, in order.
    fn results(&self) -> Vec<&Tensor>;
}

/// A network ready to be compiled.
pub struct Setup {
    /// Peak memory of the process before inputs were made, if the system reports it.
    pub start: Option<u64>,
    /// What it is, for people.
    pub title: String,
    /// Its sizes, for programs.
    pub settings: Vec<(&'static str, Value)>,
    /// Its arithmetic.
    pub precision: Precision,
    /// Its phases.
    pub compiler: Compiler,
    /// Its weights.
    pub weights: RandomWeights,
    /// Phases in the order a run calls them.
    pub calls: Vec<&'static str>,
    /// A run.
    pub job: Box<dyn Job>,
}

/// Where the memory of a run goes, in bytes.
pub struct MemoryUse {
    /// Weights in the form the kernels read.
    pub weights: u64,
    /// Largest workspace of the phases, as planned.
    pub workspace: u64,
    /// Scratch of the kernels of all threads.
    pub scratch: u64,
    /// What `prepare` keeps for the steps, and states.
    pub persistent: u64,
    /// Inputs and outputs of all calls, which the caller holds.
    pub ports: u64,
    /// Peak memory of the process before anything was made, if the system reports it.
    pub start: Option<u64>,
    /// Peak memory of the process until everything was loaded.
    pub loading: Option<u64>,
    /// Peak memory of the process from then on until the last run.
    pub running: Option<u64>,
}

impl MemoryUse {
    /// All that is planned.
    pub fn planned(&self) -> u64 {
        self.weights + self.workspace + self.scratch + self.persistent + self.ports
    }

    /// Peak memory of the process over the whole time.
    pub fn peak(&self) -> Option<u64> {
        self.loading.max(self.running)
    }
}

/// What was found.
pub struct Measured {
    /// [`Setup::title`].
    pub title: String,
    /// [`Setup::settings`].
    pub settings: Vec<(&'static str, Value)>,
    /// Arithmetic.
    pub precision: Precision,
    /// Instructions used.
    pub instructions: String,
    /// Times of the runs, shortest first.
    pub times: Vec<Duration>,
    /// Processor time of a run, on average, if the system reports it.
    pub processor: Option<Duration>,
    /// Time to make, pack and place the weights; compiling is not included.
    pub load: Duration,
    /// Figures of each phase, with the number of its calls in a run.
    pub phases: Vec<(PhaseSummary, usize)>,
    /// Memory.
    pub memory: MemoryUse,
    /// Peaks of the device.
    pub ceilings: Throughput,
    /// Time of the steps, if requested.
    pub profile: Option<Profile>,
    /// What a page shows besides, if one was requested.
    pub shown: Option<Shown>,
    /// Hash of all results: the same for any number of threads and any run.
    pub digest: u64,
}

/// What a page shows of a measurement.
pub struct Shown {
    /// The plans of all phases.
    pub plans: Vec<Plan>,
    /// What the compiler did.
    pub watched: Vec<Watched>,
    /// When every launch ran.
    pub times: page::Measured,
}

impl Measured {
    /// Median time of a run in seconds.
    pub fn median(&self) -> f64 {
        self.times[self.times.len() / 2].as_secs_f64()
    }

    /// Floating-point operations of a run, as the compiler counts them.
    pub fn flops(&self) -> u64 {
        self.phases.iter().map(|(phase, calls)| phase.flops * *calls as u64).sum()
    }

    /// Kernel launches of a run.
    pub fn launches(&self) -> usize {
        self.phases.iter().map(|(phase, calls)| phase.launches * calls).sum()
    }

    /// Operations a second at the median, in 10⁹.
    pub fn gflops(&self) -> f64 {
        self.flops() as f64 / self.median() * 1e-9
    }

    /// [`Measured::gflops`] as a share of the machine's peak in this arithmetic.
    pub fn share(&self) -> f64 {
        let peak = match self.precision {
            Precision::F32 => self.ceilings.f32_gflops,
            Precision::Bf16 => self.ceilings.bf16_gflops.unwrap_or(self.ceilings.f32_gflops),
        };
        self.gflops() / peak
    }
}

/// Measures what `setup` describes.
///
/// # Errors
/// E0918 for a number of runs out of range, E1001 for results that are not finite.
pub fn measure(
    args: &BenchPhase,
    backend: &Backend,
    setup: Setup,
    progress: &mut Progress,
) -> Result<Measured> {
    if !(1..=MOST_REPEATS).contains(&args.repeats) {
        let what = format!("{} is not a number from 1 to {MOST_REPEATS}", args.repeats);
        return Err(Error::input("E0918", what).at("--repeats"));
    }
    let Setup { start, title, settings, precision, compiler, weights, calls, mut job } = setup;
    let names: Vec<String> = compiler.plans().map(|(name, _)| name.to_owned()).collect();
    let watched = compiler.watched().to_vec();
    progress.part("loading");
    let begun = Instant::now();
    let mut program = compiler.load(Arc::new(weights), &mut |_, _| true)?;
    let load = begun.elapsed();
    let loading = output::peak_memory();
    // If the peak cannot be reset, the one of loading is used for both.
    output::forget_peak_memory();
    progress.part("running");
    job.begin(&mut program)?;
    job.run(&mut program)?;
    let mut times = Vec::with_capacity(args.repeats);
    let before = output::processor_time();
    for done in 0..args.repeats {
        let begun = Instant::now();
        job.run(&mut program)?;
        times.push(begun.elapsed());
        let total = args.repeats as u64;
        progress.update(done as u64 + 1, total, || format!("{} of {total}", done + 1));
    }
    let taken = output::processor_time().zip(before).and_then(|(now, then)| now.checked_sub(then));
    let processor = taken.map(|taken| taken / args.repeats as u32);
    times.sort();
    let running = output::peak_memory();
    let phases = phases(&program, &calls);
    let memory = memory(&program, &calls, [start, loading, running]);
    let plans: Vec<Plan> = names.iter().filter_map(|name| program.plan(name)).cloned().collect();
    let (mut profile, mut shown) = (None, None);
    if args.profile || args.report.is_some() {
        let (steps, times) = profiled(&mut program, &calls, &mut *job, args.repeats, &plans)?;
        profile = args.profile.then_some(steps);
        shown = args.report.is_some().then_some(Shown { plans, watched, times });
    }
    let digest = digest(&job.results())?;
    drop((program, job));
    progress.part("measuring the machine");
    let each = times.iter().sum::<Duration>().clamp(CEILING[0], CEILING[1]);
    let ceilings = backend.device().throughput(each);
    progress.clear();
    let instructions = backend.about().instructions.clone();
    Ok(Measured {
        title,
        settings,
        precision,
        instructions,
        times,
        processor,
        load,
        phases,
        memory,
        ceilings,
        profile,
        shown,
        digest,
    })
}

/// Refuses plans that this machine, or its device, has no memory for. Call it before inputs are made.
///
/// # Errors
/// E0940.
pub fn fits(compiler: &Compiler, runs: usize) -> Result<()> {
    let most = |bytes: &dyn Fn(&Plan) -> u64| -> u64 {
        compiler.plans().map(|(_, plan)| bytes(plan)).max().unwrap_or(0)
    };
    let plans: Vec<&Plan> = compiler.plans().map(|(_, plan)| plan).collect();
    let parts = [
        most(&Plan::weight_bytes),
        most(&|plan| plan.workspace_bytes),
        persistent(&plans, runs),
        most(&port_bytes),
    ];
    let needed = parts.into_iter().fold(0u64, u64::saturating_add);
    // Of a device with memory of its own all of this lies there.
    let backend = compiler.backend();
    let (room, of) = match backend.free_bytes() {
        Some(free) => (Some(free), format!("{}'s memory", backend.about().name)),
        None => (available_memory(), "memory".to_owned()),
    };
    let Some(available) = room.filter(|bytes| *bytes < needed) else {
        return Ok(());
    };
    let (needed, available) = (output::bytes(needed), output::bytes(available));
    let what = format!("weights and plans take {needed}, and {available} of {of} are free");
    Err(Error::input("E0940", what).help("measure smaller sizes or fewer layers"))
}

/// Bytes that outlive a run: kept by `prepare` for each of `runs`, or carried as states.
fn persistent(plans: &[&Plan], runs: usize) -> u64 {
    let most = |of: fn(&Plan) -> u64| plans.iter().map(|plan| of(plan)).max().unwrap_or(0);
    let kept = most(|plan| plan.persistent_bytes).saturating_mul(runs as u64);
    kept.saturating_add(most(Plan::state_bytes))
}

/// Bytes of the caller's inputs and outputs.
fn port_bytes(plan: &Plan) -> u64 {
    let held = plan.inputs.iter().chain(&plan.outputs);
    held.map(|port| plan.buffer(port.buffer).ty.bytes()).sum()
}

/// Figures of each phase that is called, in the order of its first call.
fn phases(program: &Program, calls: &[&'static str]) -> Vec<(PhaseSummary, usize)> {
    let mut out: Vec<(PhaseSummary, usize)> = Vec::new();
    for call in calls {
        match out.iter_mut().find(|(phase, _)| phase.name == *call) {
            Some((_, count)) => *count += 1,
            None => out.extend(program.plan(call).map(|plan| (PhaseSummary::of(plan), 1))),
        }
    }
    out
}

fn memory(
    program: &Program,
    calls: &[&'static str],
    [start, loading, running]: [Option<u64>; 3],
) -> MemoryUse {
    let mut names = calls.to_vec();
    let runs = calls.iter().filter(|call| **call == "step").count();
    if runs > 0 {
        // All runs of one step share inputs and outputs; each chunk has its own.
        names.dedup();
    }
    names.push("prepare");
    let plans: Vec<&Plan> = names.iter().filter_map(|name| program.plan(name)).collect();
    let workspace = plans.iter().map(|plan| plan.workspace_bytes).max().unwrap_or(0);
    MemoryUse {
        weights: program.weight_bytes(),
        workspace,
        scratch: program.memory_bytes().saturating_sub(workspace),
        persistent: persistent(&plans, runs),
        ports: plans.iter().map(|plan| port_bytes(plan)).sum(),
        start,
        loading,
        running,
    }
}

fn profiled(
    program: &mut Program,
    calls: &[&'static str],
    job: &mut dyn Job,
    runs: usize,
    plans: &[Plan],
) -> Result<(Profile, page::Measured)> {
    let mut profile = Profile::new(program, calls);
    let mut measured = page::Measured::new(plans.iter().map(|plan| plan.steps.len()));
    program.time_launches(true);
    for _ in 0..runs {
        job.run(program)?;
        let times = program.take_times();
        profile.add(&times);
        measured.add(executions(&times, plans));
    }
    program.time_launches(false);
    Ok((profile, measured))
}

/// The executions of a run, with the times of all launches counted from the same moment.
fn executions(run: &[(String, Times)], plans: &[Plan]) -> Vec<page::Execution> {
    let one = |(name, times): &(String, Times)| {
        let phase = plans.iter().position(|plan| plan.name == *name)?;
        let since = times.origin().saturating_duration_since(run[0].1.origin()).as_nanos();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        let later = |launch: &LaunchTime| LaunchTime {
            step: launch.step,
            begin: launch.begin.saturating_add(since),
            end: launch.end.saturating_add(since),
        };
        Some(page::Execution { phase, launches: times.launches().iter().map(later).collect() })
    };
    run.iter().filter_map(one).collect()
}

/// Hash of the results' bytes (FNV-1a).
///
/// # Errors
/// E1001 for a value that is not finite.
fn digest(results: &[&Tensor]) -> Result<u64> {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for tensor in results {
        if let Ok(values) = tensor.as_f32()
            && first_non_finite(values).is_some()
        {
            return Err(Error::internal("E1001", "the measured network gave non-finite values"));
        }
        for byte in tensor.bytes() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    Ok(hash)
}
