//! Runs a plan: one kernel a step, on memory reserved beforehand.
//!
//! A verified plan guarantees that a result of a step shares no byte with its operands unless its
//! kernel writes in place over them, that buffers stay inside their arenas and are aligned to their
//! elements, and that kernels fit the types they are launched with; those guarantees are what the
//! `unsafe` of these files rests on. `docs/plans.md` lists them all with where each is checked.

mod anchors;
mod frame;
mod ops;
mod shapes;

use super::Cpu;
use super::buffer::AlignedBytes;
use super::moves::{self, Move};
use super::rowkernel::Prepared;
use super::scalar::{self, Reading};
use super::threads::stop_requested;
use super::weights::Weights;
use crate::WeightProvider;
use crate::device::Trace;
use crate::errors::RunError;
use anyid_ir::kernel::Kernel;
use anyid_ir::plan::{BufferId, Plan, Root, Step};
use anyid_ir::{Op, Tensor, TensorType};
use frame::{Frame, Returned};
use shapes::scratch_bytes;
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

/// A plan made ready for this CPU.
pub struct Executable {
    plan: Plan,
    scratch: usize,
    /// For each step: the copies of a movement op.
    moves: Vec<Option<Vec<Move>>>,
    /// For each operand of each step: the weight in panels or widened to f32.
    forms: Vec<SmallVec<[Option<usize>; 4]>>,
    /// For each step: its row kernel made ready.
    rows: Vec<Option<Prepared>>,
    /// For each weight of the plan: its row-major bytes.
    plain: Vec<Option<usize>>,
    /// For each state: its first byte in the memory of all states.
    states: Vec<u64>,
}

impl Executable {
    /// Prepares `plan`, whose weights are in `weights`.
    pub fn new(cpu: &Cpu, plan: Plan, weights: &Weights) -> Self {
        let rows: Vec<Option<Prepared>> = plan.steps.iter().map(|s| prepared(&plan, s)).collect();
        let scratch = most_scratch(cpu, &plan, &rows);
        let moves = plan.steps.iter().map(|step| step_moves(&plan, step)).collect();
        let forms = plan
            .steps
            .iter()
            .map(|step| (0..step.operands.len()).map(|at| weights.find(&plan, step, at)).collect());
        let forms = forms.collect();
        let plain = plan.weights.iter().map(|w| weights.find_plain(&w.name)).collect();
        let (states, _) = plan.state_layout();
        Self { scratch, moves, forms, rows, plain, states, plan }
    }

    /// Bytes of kernel scratch that `plan` will need, known without its weights.
    pub fn planned_scratch(cpu: &Cpu, plan: &Plan) -> usize {
        let rows: Vec<Option<Prepared>> = plan.steps.iter().map(|s| prepared(plan, s)).collect();
        most_scratch(cpu, plan, &rows)
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes of kernel scratch it needs.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    /// Runs all steps. `inputs` and `outputs` are in the plan's order; lengths are the caller's to check. `states` holds the plan's
    /// [states](Plan::state_layout) and is changed. `stopped` is asked before every step and before
    /// outputs are copied; inside [`with_stop`](super::threads::with_stop) a step ends early as
    /// well, and the run with `Stopped`. `trace` sees every step's results.
    pub fn run(
        &self,
        cpu: &Cpu,
        weights: &Weights,
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
            frame.step(at, step, memory.scratch.bytes_mut())?;
            // What a step wrote that was told to stop is worthless.
            if let Some(trace) = trace.as_mut().filter(|_| !stop_requested()) {
                for (result, label) in step.results.iter().zip(&step.labels) {
                    let ty = &self.plan.buffer(*result).ty;
                    let tensor = Tensor::from_bytes(ty.clone(), frame.bytes(*result));
                    trace(label, &tensor.expect("a buffer holds its type"));
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

/// Scratch of the step that needs most.
fn most_scratch(cpu: &Cpu, plan: &Plan, rows: &[Option<Prepared>]) -> usize {
    let workers = cpu.pool().threads();
    let each = plan.steps.iter().zip(rows).map(|(step, rows)| match rows {
        Some(rows) => rows.scratch_bytes(workers),
        None => scratch_bytes(cpu, plan, step),
    });
    each.max().unwrap_or(0)
}

fn prepared(plan: &Plan, step: &Step) -> Option<Prepared> {
    let Kernel::Row(kernel) = &step.kernel else { return None };
    let place = |id: &BufferId| (plan.buffer(*id).root, plan.buffer(*id).offset);
    let in_place = step.results.iter().any(|r| step.operands.iter().any(|o| place(o) == place(r)));
    Some(Prepared::new(kernel, in_place))
}

fn step_moves(plan: &Plan, step: &Step) -> Option<Vec<Move>> {
    let Kernel::Op(op) = &step.kernel else { return None };
    let types: Vec<&TensorType> = step.operands.iter().map(|id| &plan.buffer(*id).ty).collect();
    let result = &plan.buffer(step.results[0]).ty;
    let same = *op == Op::Cast && types.first() == Some(&result);
    moves::moves(if same { &Op::Reshape } else { op }, &types, result)
}

impl Frame<'_> {
    fn step(&self, at: usize, step: &Step, scratch: &mut [u8]) -> Result<(), RunError> {
        if step.results.iter().all(|id| self.ty(*id).elements() == 0) {
            return Ok(());
        }
        let op = match &step.kernel {
            Kernel::Row(_) => return self.rows(at, step, scratch),
            Kernel::Anchor(kernel) => {
                self.check_gate(step, kernel)?;
                if self.anchor(at, step, kernel, scratch) {
                    return Ok(());
                }
                if !kernel.is_plain() {
                    let label = step.label().to_owned();
                    return Err(RunError::Unsupported { label, op: kernel.op.name() });
                }
                &kernel.op
            }
            Kernel::Op(op) => {
                if let Some(moves) = &self.executable.moves[at] {
                    self.movement(op, step, moves);
                    return Ok(());
                }
                self.check_segments(op, step)?;
                if self.row_kernel(at, op, step).is_some() {
                    return Ok(());
                }
                if *op == Op::Gather {
                    return self.gather(step);
                }
                op
            }
        };
        let operands: SmallVec<[Reading<'_>; 4]> = step
            .operands
            .iter()
            .map(|id| Reading { ty: self.ty(*id), bytes: self.bytes(*id) })
            .collect();
        let ty = self.ty(step.results[0]);
        if scalar::execute(op, &operands, ty, self.bytes_mut(step.results[0])) {
            return Ok(());
        }
        Err(RunError::Unsupported { label: step.label().to_owned(), op: op.name() })
    }
}
