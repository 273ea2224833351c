//! The CPU under the contract of devices: weights, plans and memory as the kernels want them.
//!
//! Memory of the process is the device's own, so inputs are read and outputs are written where they
//! lie. What a launch does is not decided here.

use super::packed::Stream;
use super::simd::Level;
use super::{AlignedBytes, Cpu, Executable, Memory, peak};
use crate::arena::HostArena;
use crate::device::{
    About, Arena, Call, Device, LaunchTime, Progress, Provider, Runner, Streaming, Throughput,
    Times, Value, Weights,
};
use crate::errors::{LoadError, NoMemory, OpenError, RunError};
use crate::registry::{Kind, Opening, Setting, Settings};
use anyid_ir::plan::Plan;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// How the CPU is found by name.
pub const KIND: Kind = Kind {
    name: "cpu",
    names: "cpu",
    targets: || vec![super::target()],
    settings: &[
        Setting { name: SIMD, variable: "ANYID_SIMD" },
        Setting { name: ROWS, variable: "ANYID_ROWS" },
    ],
    variants,
    devices: || Ok(vec!["cpu".to_owned()]),
    rank: 1,
    open: Some(open),
};

/// The setting of vector instructions.
pub(super) const SIMD: &str = "simd";
/// The setting of how row kernels run: `compiled` or `interpreted`.
pub(super) const ROWS: &str = "rows";

fn variants() -> Vec<Settings> {
    let of = |level: Level| Settings::default().with(SIMD, level.name());
    let interpreted = of(Level::preferred()).with(ROWS, "interpreted");
    [interpreted].into_iter().chain(Level::available().map(of)).collect()
}

fn open(opening: &Opening<'_>) -> Result<Arc<dyn Device>, OpenError> {
    if opening.variant.is_some() {
        return Err(OpenError::NotThere("there is one CPU, which is called cpu".to_owned()));
    }
    let settings = opening.settings;
    Ok(Arc::new(Cpu::open(settings.threads, settings.get(SIMD), settings.get(ROWS))?))
}

/// Weights in the form the kernels read, and where the rows of tables come from.
struct Loaded {
    cpu: Arc<Cpu>,
    weights: super::Weights,
    provider: Arc<Provider>,
}

/// Plans with the memory they work in.
struct Ready {
    loaded: Arc<Loaded>,
    executables: Vec<Executable>,
    memory: Memory,
    /// Brings in the weights that are not held.
    stream: Option<Stream>,
}

impl Device for Cpu {
    fn about(&self) -> &About {
        &self.about
    }

    fn weight_bytes(&self, plans: &[&Plan]) -> u64 {
        super::Weights::planned_bytes(self.level(), plans)
    }

    fn scratch_bytes(&self, plan: &Plan) -> u64 {
        Executable::planned_scratch(self, plan) as u64
    }

    fn load(
        self: Arc<Self>,
        plans: &[&Plan],
        provider: Arc<Provider>,
        progress: &mut Progress<'_>,
    ) -> Result<Arc<dyn Weights>, LoadError> {
        let weights = super::Weights::load(&self, plans, &*provider, None, progress)?;
        Ok(Arc::new(Loaded { cpu: self, weights, provider }))
    }

    fn streaming(&self, plans: &[&Plan], most: u64) -> Option<Streaming> {
        let planned = super::Weights::planned_streaming(self.level(), plans, most);
        planned.map(|[held, moved]| Streaming { held, moved })
    }

    fn load_streaming(
        self: Arc<Self>,
        plans: &[&Plan],
        provider: Arc<Provider>,
        most: u64,
        progress: &mut Progress<'_>,
    ) -> Result<Arc<dyn Weights>, LoadError> {
        let weights = super::Weights::load(&self, plans, &*provider, Some(most), progress)?;
        Ok(Arc::new(Loaded { cpu: self, weights, provider }))
    }

    fn throughput(&self, each: Duration) -> Throughput {
        peak::measure(self.pool(), self.level(), each)
    }
}

impl Weights for Loaded {
    fn bytes(&self) -> u64 {
        self.weights.bytes()
    }

    fn moved(&self) -> u64 {
        self.weights.moved()
    }

    fn prepare(self: Arc<Self>, plans: Vec<Plan>) -> Result<Box<dyn Runner>, LoadError> {
        let ready = |plan| Executable::new(&self.cpu, plan, &self.weights);
        let mut executables: Vec<Executable> = plans.into_iter().map(ready).collect();
        let workspace = executables.iter().map(|each| each.plan().workspace_bytes).max();
        let scratch = executables.iter().map(Executable::scratch_bytes).max();
        let (workspace, scratch) = (workspace.unwrap_or(0), scratch.unwrap_or(0));
        let memory = Memory::try_new(workspace, scratch);
        let memory = memory.ok_or(LoadError::NoWorkspace(NoMemory::of(workspace)))?;
        let stream = match self.weights.slot() {
            None => None,
            Some(slot) => {
                let groups = executables.iter_mut().map(Executable::take_groups).collect();
                Some(Stream::new(self.cpu.level(), self.provider.clone(), slot, groups)?)
            }
        };
        Ok(Box::new(Ready { loaded: self, executables, memory, stream }))
    }
}

impl Runner for Ready {
    fn plan(&self, at: usize) -> &Plan {
        self.executables[at].plan()
    }

    fn workspace_bytes(&self) -> u64 {
        self.memory.workspace_bytes()
    }

    fn memory_bytes(&self) -> u64 {
        self.memory.bytes()
    }

    fn kept(&self, at: usize) -> Result<Box<dyn Arena>, NoMemory> {
        let plan = self.plan(at);
        HostArena::reserve(plan.persistent_bytes, Value::kept(plan))
    }

    fn states(&self, at: usize) -> Result<Box<dyn Arena>, NoMemory> {
        let plan = self.plan(at);
        HostArena::reserve(plan.state_bytes(), Value::states(plan))
    }

    fn run(&mut self, at: usize, call: Call<'_, '_>) -> Result<(), RunError> {
        let mut none = [(); 2].map(|()| AlignedBytes::zeroed(0));
        let [no_kept, no_states] = &mut none;
        let Loaded { cpu, weights, provider } = &*self.loaded;
        let clock = call.times.map(|times| RefCell::new(Clock { begun: None, times }));
        // Asked before every launch and after the last.
        let between = || {
            if let Some(clock) = &clock {
                clock.borrow_mut().tick();
            }
            false
        };
        let streaming = self.stream.as_ref().map(|stream| stream.begin(at));
        let result = self.executables[at].run(
            cpu,
            (weights, streaming.as_ref()),
            &**provider,
            &mut self.memory,
            call.kept.map_or(no_kept, HostArena::memory),
            call.states.map_or(no_states, HostArena::memory),
            call.inputs,
            call.outputs,
            &between,
            call.trace,
        );
        if let Some(streaming) = streaming {
            streaming.end(result.is_ok());
        }
        // The launch that failed took its time too.
        if let (Some(clock), Err(error)) = (&clock, &result)
            && *error != RunError::Stopped
        {
            clock.borrow_mut().tick();
        }
        result
    }

    fn fill(&mut self, byte: u8) {
        self.memory.fill(byte);
    }

    fn workspace(&mut self, from: u64, out: &mut [u8]) {
        let from = from as usize;
        out.copy_from_slice(&self.memory.workspace_mut()[from..from + out.len()]);
    }
}

/// Reads the time between launches: a step begins when the one before it ends.
struct Clock<'t> {
    begun: Option<(usize, u64)>,
    times: &'t mut Times,
}

impl Clock<'_> {
    fn tick(&mut self) {
        let now = self.times.now();
        let next = match self.begun {
            None => 0,
            Some((step, begin)) => {
                self.times.push(LaunchTime { step, begin, end: now });
                step + 1
            }
        };
        self.begun = Some((next, now));
    }
}
