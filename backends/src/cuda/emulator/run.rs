//! Plans on the emulated device: made ready, and run launch by launch.
//!
//! Each launch runs once in every order that the device was opened with. Results hold NaN before it,
//! unless they lie over an operand, and what they hold afterwards has to be the same each time.

use super::library::{Given, Kernel, Room};
use super::memory::{self, Frame, POISON, Stored};
use super::{Emulated, fault};
use crate::arena::HostArena;
use crate::buffer::AlignedBytes;
use crate::cuda::emit::Emitted;
use crate::cuda::launches::{self, Ports, Roots, Span, worst};
use crate::device::{Arena, Call, LaunchTime, Runner, Value, Weights};
use crate::errors::{LoadError, NoMemory, RunError};
use crate::stop::stop_requested;
use anyid_ir::plan::{BufferId, Plan, Step};
use smallvec::SmallVec;
use std::sync::Arc;

/// Processors of the device: so few that kernels that take any number of blocks go through turns.
const PROCESSORS: u32 = 2;

/// Weights on the device.
pub(super) struct Loaded {
    pub(super) device: Arc<Emulated>,
    pub(super) weights: Stored,
}

/// A step that is ready.
struct Launch {
    emitted: Emitted,
    kernel: Kernel,
    /// What it reads beside its operands.
    constants: AlignedBytes,
    /// For each result: whether it lies over an operand.
    over: SmallVec<[bool; 2]>,
}

/// A plan that is ready.
struct Prepared {
    plan: Plan,
    ports: Ports,
    launches: Vec<Launch>,
    states_at: Vec<u64>,
}

struct Ready {
    loaded: Arc<Loaded>,
    plans: Vec<Prepared>,
    workspace: AlignedBytes,
    edge: AlignedBytes,
    scratch: Scratch,
}

/// What launches work in, beside the memory of the plan.
struct Scratch {
    room: Room,
    /// The results before a launch, and after its first run.
    before: Vec<u8>,
    first: Vec<u8>,
    again: Vec<u8>,
}

impl Weights for Loaded {
    fn bytes(&self) -> u64 {
        self.weights.values().map(|bytes| bytes.len() as u64).sum()
    }

    fn prepare(self: Arc<Self>, plans: Vec<Plan>) -> Result<Box<dyn Runner>, LoadError> {
        let architecture = self.device.architecture;
        let sources: Vec<Vec<Emitted>> =
            plans.iter().map(|plan| launches::emitted(plan, architecture)).collect();
        let kernels = &self.device.kernels;
        kernels.load(sources.iter().flatten()).map_err(LoadError::Failed)?;
        let bytes = plans.iter().map(|plan| plan.workspace_bytes).max().unwrap_or(0);
        let reserve = |bytes: u64| {
            let room = usize::try_from(bytes).ok().and_then(AlignedBytes::try_zeroed);
            room.ok_or(LoadError::NoWorkspace(NoMemory::of(bytes)))
        };
        let workspace = reserve(bytes)?;
        let ready = |(plan, sources): (Plan, Vec<Emitted>)| {
            let launch = |(step, emitted)| Launch::new(&plan, step, emitted, kernels);
            let launches = plan.steps.iter().zip(sources).map(launch).collect();
            let (ports, states_at) = (Ports::new(&plan), plan.state_layout().0);
            Prepared { plan, ports, launches, states_at }
        };
        let plans: Vec<Prepared> = plans.into_iter().zip(sources).map(ready).collect();
        let edge = plans.iter().map(|each| each.ports.bytes()).max().unwrap_or(0);
        let all = || plans.iter().flat_map(|each| each.launches.iter());
        let room = Room::of(all().map(|launch| &launch.kernel));
        let results = |plan: &Plan, step: &Step| {
            step.results.iter().map(|id| plan.buffer(*id).ty.bytes()).sum::<u64>() as usize
        };
        let most = plans
            .iter()
            .flat_map(|each| each.plan.steps.iter().map(|step| results(&each.plan, step)));
        let most = most.max().unwrap_or(0);
        let [before, first, again] = [(); 3].map(|()| Vec::with_capacity(most));
        let scratch = Scratch { room, before, first, again };
        let edge = reserve(edge)?;
        Ok(Box::new(Ready { loaded: self, plans, workspace, edge, scratch }))
    }
}

impl Launch {
    fn new(plan: &Plan, step: &Step, emitted: Emitted, kernels: &super::Kernels) -> Self {
        let kernel = kernels.find(&emitted.name);
        let mut constants = AlignedBytes::zeroed(emitted.constants.len());
        constants.bytes_mut().copy_from_slice(&emitted.constants);
        let same = |result: &BufferId| {
            let result = plan.buffer(*result);
            step.operands.iter().any(|operand| plan.buffer(*operand).same_bytes(result))
        };
        let over = step.results.iter().map(same).collect();
        Self { emitted, kernel, constants, over }
    }

    /// Runs the launch in every order.
    fn run(
        &self,
        device: &Emulated,
        frame: &Frame<'_>,
        step: &Step,
        scratch: &mut Scratch,
    ) -> Result<(), RunError> {
        let failed = |code, message: String| {
            let label = Some(step.label().to_owned());
            let help = Some(format!("the kernel is {}", self.emitted.name));
            RunError::Failed { label, fault: fault(code, message, help) }
        };
        let Scratch { room, before, first, again } = scratch;
        before.clear();
        step.results.iter().for_each(|id| frame.copy_to(*id, before));
        let mut found = None;
        for (at, order) in device.orders.iter().enumerate() {
            let mut rest = &before[..];
            for (id, over) in step.results.iter().zip(&self.over) {
                rest = frame.copy_from(*id, rest);
                if !over {
                    frame.fill(*id, POISON);
                }
            }
            let mut faults: SmallVec<[u64; 4]> =
                self.emitted.tables.iter().map(|_| u64::MAX).collect();
            let given = self.given(frame, step, &mut faults);
            let grid = launches::grid(&self.emitted, PROCESSORS);
            // SAFETY: the frame owns what results lie in, and operands and constants are only read.
            let done = unsafe { self.kernel.launch(grid, &given, *order, room) };
            done.map_err(|message| failed("E0854", message))?;
            let into: &mut Vec<u8> = if at == 0 { first } else { again };
            into.clear();
            step.results.iter().for_each(|id| frame.copy_to(*id, into));
            let same = at == 0 || (first == again && found == worst(&faults));
            if !same {
                let names = [device.orders[0], *order].map(super::Order::name);
                let message = format!(
                    "the results depend on the order of threads: {} and {} differ",
                    names[0], names[1]
                );
                return Err(failed("E0855", message));
            }
            found = worst(&faults);
        }
        let Some((table, index)) = found else { return Ok(()) };
        let rows = self.emitted.tables[table];
        Err(RunError::Index { label: step.label().to_owned(), index: i64::from(index), rows })
    }

    /// What the parameters of the kernel are in this run.
    fn given(&self, frame: &Frame<'_>, step: &Step, faults: &mut [u64]) -> Given {
        let bytes = size_of_val(faults) as u64;
        let faults = Span::dense(faults.as_mut_ptr().expose_provenance() as u64, bytes);
        let own = [memory::read(self.constants.bytes()), faults];
        let blocks = launches::grid(&self.emitted, PROCESSORS).blocks[0];
        Given::of(&frame.roots.parameters(step, &self.emitted, own, blocks))
    }
}

impl Runner for Ready {
    fn plan(&self, at: usize) -> &Plan {
        &self.plans[at].plan
    }

    fn workspace_bytes(&self) -> u64 {
        self.workspace.len() as u64
    }

    fn memory_bytes(&self) -> u64 {
        (self.workspace.len() + self.edge.len()) as u64
    }

    fn kept(&self, at: usize) -> Result<Box<dyn Arena>, NoMemory> {
        let plan = self.plan(at);
        HostArena::reserve(plan.persistent_bytes, Value::kept(plan))
    }

    fn states(&self, at: usize) -> Result<Box<dyn Arena>, NoMemory> {
        let plan = self.plan(at);
        HostArena::reserve(plan.state_bytes(), Value::states(plan))
    }

    fn run(&mut self, at: usize, mut call: Call<'_, '_>) -> Result<(), RunError> {
        let mut none = [(); 2].map(|()| AlignedBytes::zeroed(0));
        let [no_kept, no_states] = &mut none;
        let Prepared { plan, ports, launches, states_at } = &self.plans[at];
        let weights = &self.loaded.weights;
        let roots = Roots {
            plan,
            ports,
            states_at,
            weights: &|name, packed| memory::read(weights[&(name.to_owned(), packed)].bytes()),
            workspace: memory::span(&mut self.workspace),
            kept: memory::span(call.kept.map_or(no_kept, HostArena::memory)),
            states: memory::span(call.states.map_or(no_states, HostArena::memory)),
            edge: memory::span(&mut self.edge),
        };
        let frame = Frame { roots };
        frame.take(call.inputs);
        for (index, (step, launch)) in plan.steps.iter().zip(launches).enumerate() {
            if stop_requested() {
                return Err(RunError::Stopped);
            }
            let begin = call.times.as_ref().map_or(0, |times| times.now());
            launch.run(&self.loaded.device, &frame, step, &mut self.scratch)?;
            if let Some(trace) = call.trace.as_mut().filter(|_| !stop_requested()) {
                for (result, label) in step.results.iter().zip(&step.labels) {
                    trace(label, &frame.tensor(*result));
                }
            }
            if let Some(times) = &mut call.times {
                let end = times.now();
                times.push(LaunchTime { step: index, begin, end });
            }
        }
        if stop_requested() {
            return Err(RunError::Stopped);
        }
        frame.give(call.outputs);
        Ok(())
    }

    fn fill(&mut self, byte: u8) {
        self.workspace.bytes_mut().fill(byte);
        self.edge.bytes_mut().fill(byte);
    }

    fn workspace(&mut self, from: u64, out: &mut [u8]) {
        let from = from as usize;
        out.copy_from_slice(&self.workspace.bytes()[from..from + out.len()]);
    }
}
