//! The contract between the runtime and what executes plans.
//!
//! A [`Device`] loads weights; on [`Weights`] plans are made ready to run, together with the memory
//! they work in: a [`Runner`]. A run executes a whole plan, so that streams, graphs and libraries are
//! the device's own affair. Workspace, packed weights and whatever outlives a run (an [`Arena`]) lie
//! where the device wants them; only named tensors cross: inputs and outputs in the order of the
//! plan's ports, states by name in both directions. All is made before the first run, and nothing is
//! allocated in one.
//!
//! To stop, the caller puts a call inside [`with_stop`](crate::stop::with_stop): [`Device::load`] and
//! [`Runner::run`] ask [`stop_requested`](crate::stop::stop_requested) between launches at least. The
//! contract knows no passes, models or files. `docs/adding-a-backend.md` says what a device promises.

use crate::WeightProvider;
use crate::errors::{LoadError, NoMemory, RunError};
use anyid_ir::kernel::Target;
use anyid_ir::plan::{Branch, Plan, Root, State};
use anyid_ir::{Tensor, TensorType};
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a device is.
#[derive(Clone, Debug)]
pub struct About {
    /// The name it was opened by, such as `cuda:1`.
    pub name: String,
    /// The same for people, such as the product's name.
    pub words: String,
    /// What else decides the bits of its results: instructions or architecture.
    pub instructions: String,
    /// Bytes of memory of its own; `None` where it takes the memory of this process.
    pub capacity: Option<u64>,
    /// What plans for it are compiled for.
    pub target: Target,
    /// What its user should know, once: a sentence each, with a code.
    pub warnings: Vec<String>,
}

/// Weights as a device takes them: they may be read again while a plan runs.
pub type Provider = dyn WeightProvider + Send + Sync;

/// Gets bytes of weights done and in all, and says whether to go on.
pub type Progress<'p> = dyn FnMut(u64, u64) -> bool + 'p;

/// Gets label and value of every result of every step, in order.
pub type Trace<'t> = dyn FnMut(&str, &Tensor) + 't;

/// An opened device. Any number of threads may use it at the same time; runs may take turns.
pub trait Device: Send + Sync {
    /// What it is.
    fn about(&self) -> &About;

    /// Bytes of its own memory that can still be had; `None` where it takes the memory of this process.
    fn free_bytes(&self) -> Option<u64> {
        self.about().capacity
    }

    /// Bytes that the weights of `plans` will take once loaded, known without them.
    fn weight_bytes(&self, plans: &[&Plan]) -> u64;

    /// What the weights of `plans` take if some of them are read again whenever they are needed, as few
    /// as it takes to hold at most `most` bytes; `None` where the device holds all of its weights. More
    /// bytes are held where so few are not enough.
    fn streaming(&self, plans: &[&Plan], most: u64) -> Option<Streaming> {
        let _ = (plans, most);
        None
    }

    /// Bytes that kernels take beside the workspace when `plan` runs, known without its weights.
    fn scratch_bytes(&self, plan: &Plan) -> u64;

    /// Loads every weight of `plans` in the form its kernels read, a piece at a time: there are never
    /// two full copies of one.
    ///
    /// # Errors
    /// Where a weight is missing, of another size or unreadable, or has no room; where `progress`
    /// or [`stop_requested`](crate::stop::stop_requested) says stop.
    fn load(
        self: Arc<Self>,
        plans: &[&Plan],
        provider: Arc<Provider>,
        progress: &mut Progress<'_>,
    ) -> Result<Arc<dyn Weights>, LoadError>;

    /// [`Self::load`] of weights that are held as [`Self::streaming`] says. Results have the same bits.
    /// The provider is read by a thread of the device as long as there are runners.
    ///
    /// # Errors
    /// As [`Self::load`].
    fn load_streaming(
        self: Arc<Self>,
        plans: &[&Plan],
        provider: Arc<Provider>,
        most: u64,
        progress: &mut Progress<'_>,
    ) -> Result<Arc<dyn Weights>, LoadError> {
        let _ = most;
        self.load(plans, provider, progress)
    }

    /// What it can do at most, spending about `each` on every figure.
    fn throughput(&self, each: Duration) -> Throughput;
}

/// Weights of which some are read again whenever they are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streaming {
    /// Bytes held at the same time, with the memory that the others pass through.
    pub held: u64,
    /// Bytes that a run of one of the plans brings in at most.
    pub moved: u64,
}

/// Weights on a device in the form its kernels read.
pub trait Weights: Send + Sync {
    /// Bytes held.
    fn bytes(&self) -> u64;

    /// Bytes that a run of one of the plans brings in at most.
    fn moved(&self) -> u64 {
        0
    }

    /// Makes plans ready whose weights are among these, and reserves the memory of the largest:
    /// they run one at a time.
    ///
    /// # Errors
    /// [`LoadError::NoWorkspace`], or a failure of the device.
    fn prepare(self: Arc<Self>, plans: Vec<Plan>) -> Result<Box<dyn Runner>, LoadError>;
}

/// Verified plans that are ready to run, with the memory they work in. Plans are named by their
/// position among those that were prepared together.
pub trait Runner: Send + Sync {
    /// A plan.
    fn plan(&self, at: usize) -> &Plan;

    /// Bytes reserved for the workspace: those of the plan that needs most.
    fn workspace_bytes(&self) -> u64;

    /// Bytes reserved in all.
    fn memory_bytes(&self) -> u64;

    /// Memory for what a plan keeps for later phases; the plans of one function agree about it.
    ///
    /// # Errors
    /// Where there is not so much.
    fn kept(&self, at: usize) -> Result<Box<dyn Arena>, NoMemory>;

    /// Memory for the states of a plan, all zero. Plans with the same states share it.
    ///
    /// # Errors
    /// Where there is not so much.
    fn states(&self, at: usize) -> Result<Box<dyn Arena>, NoMemory>;

    /// Runs a plan and comes back when its outputs are there.
    ///
    /// # Errors
    /// Why it ended early; outputs, kept values and states then hold anything.
    fn run(&mut self, at: usize, call: Call<'_, '_>) -> Result<(), RunError>;

    /// Sets every byte it works in. No run depends on what was there; tests show it with this.
    fn fill(&mut self, byte: u8);

    /// Copies what a run left in the workspace from byte `from` on, for tests that look for
    /// stray writes.
    fn workspace(&mut self, from: u64, out: &mut [u8]);
}

/// What goes into a run and comes out. Slices hold dense elements, row-major and little-endian; the
/// caller sees to it that there are as many as the plan has ports, and that their sizes are right.
#[derive(Default)]
pub struct Call<'c, 'o> {
    /// The plan's inputs in order.
    pub inputs: &'c [&'c [u8]],
    /// The plan's outputs in order.
    pub outputs: &'c mut [&'o mut [u8]],
    /// What the plan keeps or was kept for it: an arena of [`Runner::kept`].
    pub kept: Option<&'c mut (dyn Arena + 'static)>,
    /// Its states: an arena of [`Runner::states`], which the run changes.
    pub states: Option<&'c mut (dyn Arena + 'static)>,
    /// Asks for the time of every launch.
    pub times: Option<&'c mut Times>,
    /// Asks for every value. The run may then be slow, and allocate.
    pub trace: Option<&'c mut Trace<'c>>,
    /// Asks whether every output is finite. A device that has not looked leaves it as it is.
    pub finite: Option<&'c mut Option<bool>>,
}

/// A tensor in an arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its name in the plan.
    pub name: String,
    /// The branch that it belongs to.
    pub branch: Branch,
    /// Its type.
    pub ty: TensorType,
    /// Its first byte, as the plan lays it out; where it really lies is the device's affair.
    pub offset: u64,
}

impl Value {
    /// What a plan keeps for later phases, in persistent memory.
    pub fn kept(plan: &Plan) -> Vec<Self> {
        let placed = plan.kept.iter().map(|port| (port, plan.buffer(port.buffer)));
        placed
            .filter(|(_, buffer)| buffer.root == Root::Persistent)
            .map(|(port, buffer)| Self {
                name: port.name.clone(),
                branch: port.branch,
                ty: buffer.ty.clone(),
                offset: buffer.offset,
            })
            .collect()
    }

    /// The states of a plan.
    pub fn states(plan: &Plan) -> Vec<Self> {
        let value = |(state, offset): (&State, u64)| Self {
            name: state.name.clone(),
            branch: state.branch,
            ty: state.ty.clone(),
            offset,
        };
        plan.states.iter().zip(plan.state_layout().0).map(value).collect()
    }
}

/// Memory of a device that outlives a run. Which values lie in it is known; a value is named by its
/// position among them.
pub trait Arena: Any + Send + Sync {
    /// The values in it.
    fn values(&self) -> &[Value];

    /// Bytes of all of it.
    fn bytes(&self) -> u64;

    /// Shows the bytes of a value, dense and row-major.
    fn read(&self, at: usize, look: &mut dyn FnMut(&[u8]));

    /// Whether every value is finite; `None` where the device has to show them for that.
    fn finite(&self) -> Option<bool> {
        None
    }

    /// Replaces a value. `bytes` are as many as its type has.
    fn write(&mut self, at: usize, bytes: &[u8]);

    /// Sets every byte, for tests.
    fn fill(&mut self, byte: u8);
}

/// When a launch ran, in nanoseconds since the origin of its [`Times`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchTime {
    /// The step of the plan.
    pub step: usize,
    /// Its begin.
    pub begin: u64,
    /// Its end.
    pub end: u64,
}

/// When the launches of a run ran, as the device tells afterwards.
#[derive(Clone, Debug)]
pub struct Times {
    origin: Instant,
    launches: Vec<LaunchTime>,
}

impl Times {
    /// Room for the times of `launches` launches, counted from `origin`.
    pub fn new(origin: Instant, launches: usize) -> Self {
        Self { origin, launches: Vec::with_capacity(launches) }
    }

    /// What the times are counted from.
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// Nanoseconds from the origin until now.
    pub fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds a launch: for devices.
    pub fn push(&mut self, launch: LaunchTime) {
        self.launches.push(launch);
    }

    /// The launches that ran, in the order of their ends.
    pub fn launches(&self) -> &[LaunchTime] {
        &self.launches
    }
}

/// What a device can do at most, to relate times to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// Threads that took part, on devices whose threads are a setting.
    pub threads: usize,
    /// f32 multiply-adds, in 10⁹ operations a second (two for each multiply-add).
    pub f32_gflops: f64,
    /// bf16 products, likewise; `None` where they are computed in f32.
    pub bf16_gflops: Option<f64>,
    /// The instructions that these two figures are of.
    pub instructions: [&'static str; 2],
    /// Bytes read plus bytes written by a copy between buffers beyond the caches, in 10⁹ a second.
    pub copy_gb_per_second: f64,
}
