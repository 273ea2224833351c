//! Runs a plan: one kernel a step, on memory reserved beforehand.
//!
//! A verified plan guarantees that a result of a step shares no byte with its operands unless its
//! kernel writes in place over them, that buffers stay inside their arenas and are aligned to their
//! elements, and that kernels fit the types they are launched with; those guarantees are what the
//! `unsafe` of these files rests on. `docs/plans.md` lists them all with where each is checked.

mod frame;
mod launch;
mod run;

use super::Cpu;
use super::buffer::AlignedBytes;
use super::packed::{Schedule, Streaming, Weights};
use super::threads::stop_requested;
use crate::WeightProvider;
use crate::device::Trace;
use crate::errors::RunError;
use anyid_ir::plan::{Plan, Root};
use frame::{Frame, Returned};
pub(super) use launch::Launch;
use smallvec::SmallVec;

/// Memory of one program: workspace and kernel scratch.
pub struct Memory {
    workspace: AlignedBytes,
    scratch: AlignedBytes,
}

impl Memory {
    /// [`Self::new`], or `None` where the system does not give so much.
    pub fn try_new(workspace: u64, scratch: usize) -> Option<Self> {
        let workspace = AlignedBytes::try_zeroed(usize::try_from(workspace).ok()?)?;
        Some(Self { workspace, scratch: AlignedBytes::try_zeroed(scratch)? })
    }

    /// Reserves `workspace` bytes as planned and `scratch` bytes for kernels.
    pub fn new(workspace: u64, scratch: usize) -> Self {
        Self {
            workspace: AlignedBytes::zeroed(workspace as usize),
            scratch: AlignedBytes::zeroed(scratch),
        }
    }

    /// Sets every byte. No run depends on what the memory held before; tests show it with this.
    pub fn fill(&mut self, byte: u8) {
        self.workspace.bytes_mut().fill(byte);
        self.scratch.bytes_mut().fill(byte);
    }

    /// The workspace, for tests that look at what a run left there.
    pub fn workspace_mut(&mut self) -> &mut [u8] {
        self.workspace.bytes_mut()
    }

    /// Bytes of workspace.
    pub fn workspace_bytes(&self) -> u64 {
        self.workspace.len() as u64
    }

    /// Bytes reserved.
    pub fn bytes(&self) -> u64 {
        (self.workspace.len() + self.scratch.len()) as u64
    }
}

/// Where a weight is.
#[derive(Clone, Copy)]
enum Place {
    /// Among those that are held.
    Held(usize),
    /// In a group of those that are not.
    Streamed { group: usize, item: usize },
}

/// A plan made ready for this CPU.
pub struct Executable {
    plan: Plan,
    scratch: usize,
    /// What each step launches.
    launches: Vec<Launch>,
    /// For each operand of each step: the weight in panels or widened to f32.
    packed: Vec<SmallVec<[Option<Place>; 4]>>,
    /// What each step reads of the weights that are not held.
    schedule: Schedule,
    /// For each weight of the plan: its row-major bytes.
    plain: Vec<Option<usize>>,
    /// For each state: its first byte in the memory of all states.
    states: Vec<u64>,
}

impl Executable {
    /// Prepares `plan`, whose weights are in `weights`.
    pub fn new(cpu: &Cpu, plan: Plan, weights: &Weights) -> Self {
        let mut launches: Vec<Launch> = plan.steps.iter().map(|s| Launch::new(&plan, s)).collect();
        launches.iter_mut().for_each(|launch| launch.compile(cpu));
        let scratch = launches.iter().map(|launch| launch.scratch_bytes(cpu)).max().unwrap_or(0);
        let schedule = weights.schedule(cpu.level(), &plan);
        let packed = plan.steps.iter().zip(&launches).enumerate().map(|(at, (step, launch))| {
            let mut packed = smallvec::smallvec![None; step.operands.len()];
            for (position, form) in launch.forms() {
                let buffer = step.operands[position];
                let held = weights.find(&plan, buffer, form).map(Place::Held);
                let streamed = || {
                    let item = schedule.find(at, &plan, buffer, form)?;
                    Some(Place::Streamed { group: schedule.steps[at]?, item })
                };
                packed[position] = held.or_else(streamed);
            }
            packed
        });
        let packed = packed.collect();
        let plain = plan.weights.iter().map(|w| weights.find_plain(&w.name)).collect();
        let (states, _) = plan.state_layout();
        Self { scratch, launches, packed, schedule, plain, states, plan }
    }

    /// The weights that are not held, group by group, for the stream that brings them in.
    pub(super) fn take_groups(&mut self) -> super::packed::Groups {
        std::mem::take(&mut self.schedule.groups)
    }

    /// Bytes of kernel scratch that `plan` will need, known without its weights.
    pub fn planned_scratch(cpu: &Cpu, plan: &Plan) -> usize {
        let each = plan.steps.iter().map(|step| Launch::new(plan, step).scratch_bytes(cpu));
        each.max().unwrap_or(0)
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes of kernel scratch it needs.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    /// Runs all steps. `inputs` and `outputs` are in the plan's order; the caller checks their
    /// lengths. Where some weights are not held, a stream brings them in. `states` holds the plan's [states](Plan::state_layout) and is changed. `stopped` is
    /// asked before every step and before outputs are copied; inside
    /// [`with_stop`](super::threads::with_stop) a step ends early as well, and the run with
    /// `Stopped`. `trace` sees every step's results.
    pub(super) fn run(
        &self,
        cpu: &Cpu,
        (weights, streaming): (&Weights, Option<&Streaming<'_>>),
        provider: &dyn WeightProvider,
        memory: &mut Memory,
        persistent: &mut AlignedBytes,
        states: &mut AlignedBytes,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        stopped: &dyn Fn() -> bool,
        mut trace: Option<&mut Trace<'_>>,
    ) -> Result<(), RunError> {
        assert!(
            memory.workspace.len() as u64 >= self.plan.workspace_bytes,
            "workspace is too small"
        );
        assert!(memory.scratch.len() >= self.scratch, "kernel scratch is too small");
        let sizes = self.plan.outputs.iter().map(|port| self.plan.buffer(port.buffer).ty.bytes());
        let given: SmallVec<[Returned; 16]> = outputs
            .iter_mut()
            .map(|out| Returned { base: out.as_mut_ptr(), len: out.len() })
            .collect();
        assert!(sizes.eq(given.iter().map(|out| out.len as u64)), "outputs have other sizes");
        let frame = Frame {
            cpu,
            executable: self,
            plan: &self.plan,
            weights,
            streaming,
            provider,
            workspace: memory.workspace.bytes_mut().as_mut_ptr(),
            persistent: persistent.bytes_mut().as_mut_ptr(),
            persistent_len: persistent.len(),
            workspace_len: memory.workspace.len(),
            states: states.bytes_mut().as_mut_ptr(),
            states_len: states.len(),
            inputs,
            outputs: &given,
        };
        for (at, step) in self.plan.steps.iter().enumerate() {
            if stopped() || stop_requested() {
                return Err(RunError::Stopped);
            }
            if let (Some(streaming), Some(Some(group))) = (streaming, self.schedule.steps.get(at)) {
                streaming.wait(*group, step.label())?;
            }
            frame.step(at, step, memory.scratch.bytes_mut())?;
            // What a step wrote that was told to stop is worthless.
            if let Some(trace) = trace.as_mut().filter(|_| !stop_requested()) {
                for (result, label) in step.results.iter().zip(&step.labels) {
                    trace(label, &frame.tensor(*result));
                }
            }
        }
        if stopped() || stop_requested() {
            return Err(RunError::Stopped);
        }
        for (port, to) in self.plan.outputs.iter().zip(&given) {
            if !matches!(self.plan.buffer(port.buffer).root, Root::Output(_)) {
                let bytes = frame.bytes(port.buffer);
                // SAFETY: the caller's memory is as long as the buffer (checked above), exclusive,
                // and apart from all memory that buffers of other roots lie in.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.base, bytes.len()) };
            }
        }
        Ok(())
    }
}
