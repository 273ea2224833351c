//! Runs a plan: one kernel a step, on memory reserved beforehand.
//!
//! A plan guarantees that a result of a step shares no byte with its operands unless its kernel
//! writes in place over them, that offsets stay inside their arenas, and that all buffers are
//! aligned to 64 bytes; those guarantees are what the `unsafe` of this file rests on.

use super::attention::{self, Attention, AttentionShape, Operand, OutputOperand, Source, Target};
use super::buffer::AlignedBytes;
use super::conv::{self, ConvShape, UpsampleShape};
use super::gemm::{self, Combine, Epilogue, Gate, Output, Rows as MatrixRows, Slice};
use super::moves::{self, Move};
use super::rowkernel::{self, Prepared};
use super::rows::{
    self, Binary, LayerNorm, Modulation, RmsForm, RmsNorm, Rope, Rows, RowsMut, Strided, Table,
    Unary,
};
use super::scalar::{self, Reading};
use super::tables;
use super::weights::{Weights, is_table};
use super::{Cpu, kernel_shape, panel_kind, upsampled};
use crate::WeightProvider;
use anyid_ir::kernel::{self, AnchorKernel, Kernel, Load};
use anyid_ir::op::{BinaryFn, ReduceFn, UnaryFn};
use anyid_ir::plan::{Buffer, BufferId, Plan, Port, Root, Step};
use anyid_ir::{DType, Op, Tensor, TensorType};
use bytemuck::Pod;
use half::{bf16, f16};
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

/// Called with the label and value of every step's result.
pub type Trace<'t> = dyn FnMut(&str, &Tensor) + 't;

/// Why a run ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunError {
    /// The caller asked to stop.
    Stopped,
    /// No kernel for this op on these types.
    Unsupported {
        /// The step.
        label: String,
        /// The op's name.
        op: &'static str,
    },
    /// A row of a table was asked for that does not exist.
    Index {
        /// The step.
        label: String,
        /// The index.
        index: i64,
        /// Rows of the table.
        rows: usize,
    },
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
    /// For each output of the plan that the caller gets: its position among those.
    returned: Vec<Option<usize>>,
}

/// Runs `$body` with `$T` as the float type of `$dtype`; `None` for other types.
macro_rules! float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $T = f32;
                Some($body)
            }
            DType::Bf16 => {
                type $T = bf16;
                Some($body)
            }
            DType::F16 => {
                type $T = f16;
                Some($body)
            }
            _ => None,
        }
    };
}

impl Executable {
    /// Prepares `plan`, whose weights are in `weights`.
    pub fn new(cpu: &Cpu, plan: Plan, weights: &Weights) -> Self {
        let rows: Vec<Option<Prepared>> = plan.steps.iter().map(|s| prepared(&plan, s)).collect();
        let workers = cpu.pool().threads();
        let scratch = plan
            .steps
            .iter()
            .zip(&rows)
            .map(|(step, rows)| match rows {
                Some(rows) => rows.scratch_bytes(workers),
                None => scratch_bytes(cpu, &plan, step),
            })
            .max();
        let moves = plan.steps.iter().map(|step| step_moves(&plan, step)).collect();
        let forms = plan
            .steps
            .iter()
            .map(|step| (0..step.operands.len()).map(|at| weights.find(&plan, step, at)).collect());
        let forms = forms.collect();
        let plain = plan.weights.iter().map(|w| weights.find_plain(&w.name)).collect();
        let (states, _) = plan.state_layout();
        let mut count = 0..;
        let position = |port: &Port| Plan::is_returned(port).then(|| count.next()).flatten();
        let returned = plan.outputs.iter().map(position).collect();
        let scratch = scratch.unwrap_or(0);
        Self { scratch, moves, forms, rows, plain, states, returned, plan }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes of kernel scratch it needs.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    /// Runs all steps. `inputs` and `outputs` are in the plan's order (outputs whose name starts
    /// with `persistent.` stay inside); lengths are the caller's to check. `states` holds the plan's
    /// [states](Plan::state_layout) and is changed. `stopped` is asked before every step and before
    /// outputs are copied; `trace` sees every step's results.
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
        let returned = self.plan.outputs.iter().filter(|port| Plan::is_returned(port));
        let sizes = returned.map(|port| self.plan.buffer(port.buffer).ty.bytes());
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
            if stopped() {
                return Err(RunError::Stopped);
            }
            frame.step(at, step, memory.scratch.bytes_mut())?;
            if let Some(trace) = &mut trace {
                for (result, label) in step.results.iter().zip(&step.labels) {
                    let ty = &self.plan.buffer(*result).ty;
                    let tensor = Tensor::from_bytes(ty.clone(), frame.bytes(*result));
                    trace(label, &tensor.expect("a buffer holds its type"));
                }
            }
        }
        if stopped() {
            return Err(RunError::Stopped);
        }
        for (port, returned) in self.plan.outputs.iter().zip(&self.returned) {
            let Some(at) = returned else { continue };
            if !matches!(self.plan.buffer(port.buffer).root, Root::Output(_)) {
                let (bytes, to) = (frame.bytes(port.buffer), &given[*at]);
                // SAFETY: the caller's memory is as long as the buffer (checked above), exclusive,
                // and apart from all memory that buffers of other roots lie in.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.base, bytes.len()) };
            }
        }
        Ok(())
    }
}

/// The caller's memory for an output.
struct Returned {
    base: *mut u8,
    len: usize,
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

fn attention_shape(
    plan: &Plan,
    step: &Step,
    heads: usize,
) -> (AttentionShape, attention::Precision) {
    let (q, k) = (&plan.buffer(step.operands[0]).ty, &plan.buffer(step.operands[1]).ty);
    let rank = q.rank();
    let shape = AttentionShape {
        batch: if rank == 3 { q.shape[0] } else { 1 },
        heads,
        head_dim: q.last() / heads,
        queries: q.shape[rank - 2],
        keys: k.shape[rank - 2],
    };
    let precision = match q.dtype {
        DType::Bf16 => attention::Precision::Bf16,
        _ => attention::Precision::F32,
    };
    (shape, precision)
}

fn conv_shape(plan: &Plan, step: &Step, stride: [usize; 3], pad: [[usize; 2]; 3]) -> ConvShape {
    let x = &plan.buffer(step.operands[0]).ty;
    let kernel = kernel_shape(&plan.buffer(step.operands[1]).ty.shape);
    ConvShape {
        input: [x.shape[0], x.shape[1], x.shape[2]],
        cin: kernel[1],
        cout: kernel[0],
        kernel: [kernel[2], kernel[3], kernel[4]],
        stride,
        padding: pad.map(|[lo, hi]| (lo, hi)),
    }
}

/// The shape of a convolution that reads through a load, where there is a kernel for it.
fn doubled_shape(plan: &Plan, step: &Step, kernel: &AnchorKernel) -> Option<UpsampleShape> {
    let [x, w] = [0, 1].map(|at| &plan.buffer(step.operands[at]).ty);
    let shape = upsampled(kernel.load, &kernel.op, x, w)?;
    conv::upsample_conv_fits(&shape, panel_kind(x.dtype, w.dtype)).then_some(shape)
}

/// Rows, columns and length of the sums of a part of a linear step.
fn linear_shape(plan: &Plan, step: &Step, weight: usize) -> (usize, usize, usize) {
    let (x, w) = (&plan.buffer(step.operands[0]).ty, &plan.buffer(step.operands[weight]).ty);
    let k = x.last();
    (x.elements() / k.max(1), w.shape[0], k)
}

fn scratch_bytes(cpu: &Cpu, plan: &Plan, step: &Step) -> usize {
    let Kernel::Anchor(kernel) = &step.kernel else { return 0 };
    let workers = cpu.pool().threads();
    let dtype = |at: usize| plan.buffer(step.operands[at]).ty.dtype;
    match &kernel.op {
        Op::Linear => (0..kernel.parts)
            .map(|part| {
                let weight = kernel.part_operand(part, 1);
                let shape = linear_shape(plan, step, weight);
                let kind = panel_kind(dtype(0), dtype(weight));
                if matches!(plan.buffer(step.operands[weight]).root, Root::Weight(_)) {
                    gemm::gemm_scratch_bytes(cpu.level(), shape, kind, workers)
                } else {
                    gemm::gemm_dynamic_scratch_bytes(cpu.level(), shape, kind, workers)
                }
            })
            .max()
            .unwrap_or(0),
        Op::Attention { heads, .. } => {
            let (shape, precision) = attention_shape(plan, step, *heads);
            let bias = kernel.arity == 4;
            attention::scratch_bytes(cpu.level(), &shape, precision, bias, workers)
        }
        Op::Conv { stride, pad } => {
            let (level, kind) = (cpu.level(), panel_kind(dtype(0), dtype(1)));
            if kernel.load != Load::Own {
                let shape = doubled_shape(plan, step, kernel);
                return shape.map_or(0, |s| conv::upsample_conv_scratch_bytes(level, &s, kind));
            }
            let shape = conv_shape(plan, step, *stride, *pad);
            conv::conv_scratch_bytes(level, &shape, kind, workers)
        }
        _ => 0,
    }
}

/// One execution: where every buffer lies.
struct Frame<'f> {
    cpu: &'f Cpu,
    executable: &'f Executable,
    plan: &'f Plan,
    weights: &'f Weights,
    provider: &'f dyn WeightProvider,
    workspace: *mut u8,
    workspace_len: usize,
    persistent: *mut u8,
    persistent_len: usize,
    states: *mut u8,
    states_len: usize,
    inputs: &'f [&'f [u8]],
    outputs: &'f [Returned],
}

impl<'f> Frame<'f> {
    fn buffer(&self, id: BufferId) -> &'f Buffer {
        self.plan.buffer(id)
    }

    fn ty(&self, id: BufferId) -> &'f TensorType {
        &self.plan.buffer(id).ty
    }

    /// Memory that steps write: its first byte, its length, and where a buffer of offset 0 begins.
    fn writable(&self, root: Root) -> Option<(*mut u8, usize, usize)> {
        match root {
            Root::Workspace => Some((self.workspace, self.workspace_len, 0)),
            Root::Persistent => Some((self.persistent, self.persistent_len, 0)),
            Root::State(index) => {
                let start = self.executable.states[index as usize] as usize;
                Some((self.states, self.states_len, start))
            }
            Root::Output(index) => {
                let at = self.executable.returned[index as usize]?;
                Some((self.outputs[at].base, self.outputs[at].len, 0))
            }
            Root::Input(_) | Root::Weight(_) => None,
        }
    }

    fn bytes(&self, id: BufferId) -> &'f [u8] {
        let buffer = self.buffer(id);
        let (mut offset, len) = (buffer.offset as usize, buffer.ty.bytes() as usize);
        let (base, size) = match buffer.root {
            Root::Workspace | Root::Persistent | Root::State(_) | Root::Output(_) => {
                let memory = self.writable(buffer.root);
                let (base, size, start) = memory.expect("a verified plan has this memory");
                offset += start;
                (base.cast_const(), size)
            }
            Root::Input(index) => {
                let input = self.inputs[index as usize];
                (input.as_ptr(), input.len())
            }
            Root::Weight(index) => {
                let at = self.executable.plain[index as usize];
                let bytes = at.map_or(&[][..], |at| self.weights.plain(at));
                (bytes.as_ptr(), bytes.len())
            }
        };
        assert!(offset + len <= size, "a buffer ends at {} of {size} bytes", offset + len);
        // SAFETY: the range lies inside its arena (just checked), the arenas outlive the frame, and
        // by the plan's guarantee nobody writes this buffer while a step reads it.
        unsafe { std::slice::from_raw_parts(base.add(offset), len) }
    }

    /// First byte and length of a result.
    fn target(&self, id: BufferId) -> (*mut u8, usize) {
        let buffer = self.buffer(id);
        let len = buffer.ty.bytes() as usize;
        let memory = self.writable(buffer.root);
        let (base, size, start) = memory.expect("a step never writes its inputs");
        let offset = start + buffer.offset as usize;
        assert!(offset + len <= size, "a buffer ends at {} of {size} bytes", offset + len);
        // SAFETY: inside the arena (just checked).
        (unsafe { base.add(offset) }, len)
    }

    /// The result's memory. Steps run one after the other, so there is one writer at a time.
    #[allow(clippy::mut_from_ref)]
    fn bytes_mut(&self, id: BufferId) -> &'f mut [u8] {
        let (base, len) = self.target(id);
        // SAFETY: by the plan's guarantee no operand of the step shares a byte with its result
        // (kernels that write in place hold no slice of that operand), and only this step runs.
        unsafe { std::slice::from_raw_parts_mut(base, len) }
    }

    fn of<T: Pod>(&self, id: BufferId) -> &'f [T] {
        bytemuck::cast_slice(self.bytes(id))
    }

    fn of_mut<T: Pod>(&self, id: BufferId) -> &'f mut [T] {
        bytemuck::cast_slice_mut(self.bytes_mut(id))
    }

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

    /// A fused row kernel.
    fn rows(&self, at: usize, step: &Step, scratch: &mut [u8]) -> Result<(), RunError> {
        let rows = self.executable.rows[at].as_ref().expect("row kernels are made ready");
        if let Some((f, width)) = rows.plain_reduction()
            && self.reduction(step, f, width).is_some()
        {
            return Ok(());
        }
        let operands: SmallVec<[*const u8; 16]> =
            step.operands.iter().map(|id| self.bytes(*id).as_ptr()).collect();
        let results: SmallVec<[*mut u8; 16]> =
            step.results.iter().map(|id| self.target(*id).0).collect();
        let bound = rowkernel::Bound { operands: &operands, results: &results };
        // SAFETY: buffers hold the kernel's types (the plan was made from it); results lie over
        // operands only where the kernel allows, for which it was made ready.
        let done = unsafe { rows.run(self.cpu.pool(), self.cpu.level(), &bound, scratch) };
        done.map_err(|bad| RunError::Index {
            label: step.label().to_owned(),
            index: bad.index,
            rows: bad.rows,
        })
    }

    /// A kernel that reduces dense rows and does nothing else.
    fn reduction(&self, step: &Step, f: kernel::RowReduce, width: usize) -> Option<()> {
        let f = match f {
            kernel::RowReduce::Sum => rows::Reduce::Sum,
            kernel::RowReduce::Mean => rows::Reduce::Mean,
            _ => return None,
        };
        let (pool, level) = (self.cpu.pool(), self.cpu.level());
        let (x, y) = (step.operands[0], step.results[0]);
        float!(self.ty(x).dtype, I => float!(self.ty(y).dtype, O => rows::reduce(
            pool, level, f, Rows::new(self.of::<I>(x), width), self.of_mut::<O>(y),
        )))?
    }

    /// Segments of a gate must name rows of its table.
    fn check_gate(&self, step: &Step, kernel: &AnchorKernel) -> Result<(), RunError> {
        let kernel::Combine::GateAdd { offset, stride } = kernel.combine else { return Ok(()) };
        let first = kernel.own_operands();
        let table = self.ty(step.operands[first + 1]).elements().saturating_sub(offset);
        let n = self.ty(step.results[0]).last();
        for index in self.of::<i32>(step.operands[first + 2]) {
            let start = usize::try_from(*index).ok().and_then(|i| i.checked_mul(stride));
            let end = start.and_then(|start| start.checked_add(n));
            if end.is_none_or(|end| end > table) {
                let rows = table.checked_div(stride).unwrap_or(1).max(1);
                let (label, index) = (step.label().to_owned(), i64::from(*index));
                return Err(RunError::Index { label, index, rows });
            }
        }
        Ok(())
    }

    fn movement(&self, op: &Op, step: &Step, moves: &[Move]) {
        let result = self.bytes_mut(step.results[0]);
        if let (Op::Pad { .. }, [only]) = (op, moves) {
            only.clear(self.cpu.pool(), result);
        }
        for (each, operand) in moves.iter().zip(&step.operands) {
            let source = self.bytes(*operand).as_ptr();
            // SAFETY: `moves` made the copy from these very types, and result and operands are
            // disjoint by the plan's guarantee.
            unsafe { each.run(self.cpu.pool(), source, result.as_mut_ptr()) };
        }
    }

    /// Products, attention and convolution.
    fn anchor(&self, at: usize, step: &Step, kernel: &AnchorKernel, scratch: &mut [u8]) -> bool {
        match &kernel.op {
            Op::Linear => {
                (0..kernel.parts).all(|part| self.linear(at, step, kernel, part, scratch))
            }
            // It has no epilogue.
            Op::Attention { heads, scale } if kernel.is_plain() => {
                self.attention(step, kernel.arity, *heads, *scale, scratch)
            }
            Op::Conv { stride, pad } => self.conv(at, step, kernel, *stride, *pad, scratch),
            _ => false,
        }
    }

    /// What happens to the sums of a part.
    fn epilogue(
        &self,
        at: usize,
        step: &Step,
        kernel: &AnchorKernel,
        part: usize,
    ) -> Option<Epilogue<'f>> {
        let bias = match kernel.arity {
            3 => self.bias(at, step, kernel.part_operand(part, 2))?,
            _ => None,
        };
        let activation = match kernel.activation {
            None => gemm::Activation::None,
            Some(kernel::Activation::Gelu) => gemm::Activation::GeluTanh,
            Some(kernel::Activation::Silu) => gemm::Activation::Silu,
        };
        let first = kernel.own_operands();
        let gate = match kernel.combine {
            kernel::Combine::GateAdd { offset, stride } => {
                let table = self.of::<f32>(step.operands[first + 1]);
                let segments = bytemuck::cast_slice(self.bytes(step.operands[first + 2]));
                Some(Gate { data: &table[offset..], stride, segments: Some(segments) })
            }
            _ => None,
        };
        let combine = match kernel.residual_operand() {
            None => Combine::Store,
            Some(residual) => {
                let (from, to) = (step.operands[residual], step.results[0]);
                let [a, b] = [from, to].map(|id| (self.buffer(id).root, self.buffer(id).offset));
                if a == b {
                    Combine::InPlace { gate }
                } else {
                    let stride = self.ty(to).last();
                    Combine::Residual { data: self.slice(from)?, stride, gate }
                }
            }
        };
        Some(Epilogue { bias, activation, combine })
    }

    fn slice(&self, id: BufferId) -> Option<Slice<'f>> {
        match self.ty(id).dtype {
            DType::F32 => Some(Slice::F32(self.of(id))),
            DType::Bf16 => Some(Slice::Bf16(self.of(id))),
            _ => None,
        }
    }

    /// Operand `position` of step `at` as a vector of f32, if the step has that operand; `None` for
    /// other types, unless it is a weight, which was widened after load.
    fn bias(&self, at: usize, step: &Step, position: usize) -> Option<Option<&'f [f32]>> {
        match step.operands.get(position) {
            None => Some(None),
            Some(id) if self.ty(*id).dtype == DType::F32 => Some(Some(self.of(*id))),
            Some(_) => {
                let index = self.executable.forms[at][position]?;
                Some(Some(bytemuck::cast_slice(self.weights.plain(index))))
            }
        }
    }

    fn panels(&self, at: usize, position: usize) -> Option<gemm::Packed<'f>> {
        let index = self.executable.forms[at][position]?;
        self.weights.matrix(index).map(gemm::PackedMatrix::view)
    }

    fn linear(
        &self,
        at: usize,
        step: &Step,
        kernel: &AnchorKernel,
        part: usize,
        scratch: &mut [u8],
    ) -> bool {
        let weight = kernel.part_operand(part, 1);
        let w = step.operands[weight];
        let (m, n, k) = linear_shape(self.plan, step, weight);
        let Some(data) = self.slice(step.operands[0]) else { return false };
        let Some(epilogue) = self.epilogue(at, step, kernel, part) else { return false };
        let a = MatrixRows { data, stride: k };
        let Some(output) = self.output(step.results[part], n) else { return false };
        let (pool, level) = (self.cpu.pool(), self.cpu.level());
        match self.panels(at, weight) {
            Some(w) => gemm::gemm(pool, level, m, a, w, &epilogue, output, scratch),
            None => {
                let dtype = match self.ty(w).dtype {
                    DType::F32 => gemm::Dtype::F32,
                    DType::Bf16 => gemm::Dtype::Bf16,
                    DType::F16 => gemm::Dtype::F16,
                    _ => return false,
                };
                let kind = panel_kind(self.ty(step.operands[0]).dtype, self.ty(w).dtype);
                let b = gemm::Weights::row_major(self.bytes(w), dtype, k);
                gemm::gemm_dynamic(pool, level, (m, n, k), a, b, kind, &epilogue, output, scratch);
            }
        }
        true
    }

    fn attention(
        &self,
        step: &Step,
        arity: usize,
        heads: usize,
        scale: f64,
        scratch: &mut [u8],
    ) -> bool {
        // The kernel takes the largest score before it is scaled.
        if scale.is_nan() || scale < 0.0 {
            return false;
        }
        let (shape, precision) = attention_shape(self.plan, step, heads);
        let width = shape.heads * shape.head_dim;
        let operand = |at: usize, rows: usize| -> Option<Operand<'f>> {
            let id = step.operands[at];
            let data = match self.ty(id).dtype {
                DType::F32 => Source::F32(self.of(id)),
                DType::Bf16 => Source::Bf16(self.of(id)),
                _ => return None,
            };
            Some(Operand { data, row_stride: width, batch_stride: rows * width })
        };
        let (Some(query), Some(key), Some(value)) =
            (operand(0, shape.queries), operand(1, shape.keys), operand(2, shape.keys))
        else {
            return false;
        };
        let data = match self.ty(step.results[0]).dtype {
            DType::F32 => Target::F32(self.of_mut(step.results[0])),
            DType::Bf16 => Target::Bf16(self.of_mut(step.results[0])),
            _ => return false,
        };
        let call = Attention {
            shape,
            precision,
            scale: scale as f32,
            query,
            key,
            value,
            relative_bias: (arity == 4).then(|| self.of(step.operands[3])),
            key_limit: None,
        };
        let output = OutputOperand { data, row_stride: width, batch_stride: shape.queries * width };
        attention::attention(self.cpu.pool(), self.cpu.level(), &call, output, scratch);
        true
    }

    fn conv(
        &self,
        at: usize,
        step: &Step,
        kernel: &AnchorKernel,
        stride: [usize; 3],
        pad: [[usize; 2]; 3],
        scratch: &mut [u8],
    ) -> bool {
        let Some(weight) = self.panels(at, 1) else { return false };
        let Some(x) = self.slice(step.operands[0]) else { return false };
        let Some(epilogue) = self.epilogue(at, step, kernel, 0) else { return false };
        let cout = self.ty(step.results[0]).last();
        let Some(output) = self.output(step.results[0], cout) else { return false };
        let (pool, level) = (self.cpu.pool(), self.cpu.level());
        if kernel.load != Load::Own {
            let Some(shape) = doubled_shape(self.plan, step, kernel) else { return false };
            conv::upsample_conv(pool, level, &shape, x, weight, &epilogue, output, scratch);
            return true;
        }
        let shape = conv_shape(self.plan, step, stride, pad);
        conv::conv(pool, level, &shape, x, weight, &epilogue, output, scratch);
        true
    }

    fn output(&self, id: BufferId, stride: usize) -> Option<Output<'f>> {
        match self.ty(id).dtype {
            DType::F32 => Some(Output::F32 { data: self.of_mut(id), stride }),
            DType::Bf16 => Some(Output::Bf16 { data: self.of_mut(id), stride }),
            _ => None,
        }
    }

    /// Row-wise and element-wise kernels; `None` where the op or its types are not theirs.
    fn row_kernel(&self, at: usize, op: &Op, step: &Step) -> Option<()> {
        let (pool, level) = (self.cpu.pool(), self.cpu.level());
        let ty = self.ty(step.results[0]);
        let width = ty.last();
        let x = *step.operands.first()?;
        let from = self.ty(x).dtype;
        match op {
            Op::LayerNorm { eps } => {
                let norm = LayerNorm {
                    eps: *eps as f32,
                    weight: self.bias(at, step, 1)?,
                    bias: self.bias(at, step, 2)?,
                    modulation: None,
                };
                float!(from, I => float!(ty.dtype, O => rows::layer_norm(
                    pool, level,
                    Rows::new(self.of::<I>(x), width),
                    &norm,
                    RowsMut::new(self.of_mut::<O>(step.results[0]), width),
                )))?
            }
            Op::RmsNorm { eps, clamp } => {
                let eps = *eps as f32;
                let form = if *clamp { RmsForm::Clamped { eps } } else { RmsForm::Mean { eps } };
                let gain = self.bias(at, step, 1)??;
                let norm = RmsNorm { form, gain, round_bf16: false, silu: false, rope: None };
                float!(from, I => float!(ty.dtype, O => rows::rms_norm(
                    pool, level,
                    Rows::new(self.of::<I>(x), width),
                    &norm,
                    RowsMut::new(self.of_mut::<O>(step.results[0]), width),
                )))?
            }
            Op::Rope { heads } => {
                let rope = Rope { head_dim: width / heads, table: self.of(step.operands[1]) };
                float!(from, I => float!(ty.dtype, O => rows::rope(
                    pool, level,
                    Rows::new(self.of::<I>(x), width),
                    &rope,
                    RowsMut::new(self.of_mut::<O>(step.results[0]), width),
                )))?
            }
            Op::Modulate => {
                let table = |at: usize| Table { data: self.of(step.operands[at]), stride: width };
                let modulation = Modulation {
                    shift: table(1),
                    scale: table(2),
                    segments: self.of(step.operands[3]),
                };
                float!(from, I => float!(ty.dtype, O => rows::modulate(
                    pool, level,
                    Rows::new(self.of::<I>(x), width),
                    &modulation,
                    RowsMut::new(self.of_mut::<O>(step.results[0]), width),
                )))?
            }
            Op::GateAdd => {
                let branch = step.operands[1];
                let gate = Table { data: self.of(step.operands[2]), stride: width };
                let segments = self.of::<i32>(step.operands[3]);
                float!(from, I => float!(self.ty(branch).dtype, B => rows::gate_add(
                    pool, level,
                    Rows::new(self.of::<I>(x), width),
                    Rows::new(self.of::<B>(branch), width),
                    gate, segments,
                    RowsMut::new(self.of_mut::<I>(step.results[0]), width),
                )))?
            }
            Op::Gelu => self.unary(step, Unary::GeluTanh),
            Op::Silu => self.unary(step, Unary::Silu),
            Op::Cast if from.is_float() => self.unary(step, Unary::Copy),
            Op::Unary(f) => {
                let f = match f {
                    UnaryFn::Neg => Unary::Neg,
                    UnaryFn::Abs => Unary::Abs,
                    UnaryFn::Exp => Unary::Exp,
                    UnaryFn::Log => Unary::Log,
                    UnaryFn::Sqrt => Unary::Sqrt,
                    UnaryFn::Rsqrt => Unary::Rsqrt,
                    UnaryFn::Recip => Unary::Recip,
                    UnaryFn::Tanh => Unary::Tanh,
                    UnaryFn::Sin => Unary::Sin,
                    UnaryFn::Cos => Unary::Cos,
                    UnaryFn::Floor => return None,
                };
                self.unary(step, f)
            }
            // Rarer shapes are for the scalar code.
            Op::Binary(_) if ty.rank() > rows::MOST_AXES => None,
            Op::Binary(f) => {
                let f = match f {
                    BinaryFn::Add => Binary::Add,
                    BinaryFn::Sub => Binary::Sub,
                    BinaryFn::Mul => Binary::Mul,
                    BinaryFn::Div => Binary::Div,
                    BinaryFn::Max => Binary::Max,
                    BinaryFn::Min => Binary::Min,
                };
                let strides = |id: BufferId| broadcast_strides(self.ty(id), &ty.shape);
                let (a, b) = (step.operands[0], step.operands[1]);
                let (sa, sb) = (strides(a), strides(b));
                float!(ty.dtype, T => rows::binary(
                    pool, level, f, &ty.shape,
                    Strided { data: self.of::<T>(a), strides: &sa },
                    Strided { data: self.of::<T>(b), strides: &sb },
                    self.of_mut::<T>(step.results[0]),
                ))
            }
            Op::Reduce { f, axes, .. } => {
                let rank = self.ty(x).rank();
                let trailing = axes.iter().copied().eq(rank - axes.len()..rank);
                if !trailing {
                    return None;
                }
                let width: usize = axes.iter().map(|a| self.ty(x).shape[*a]).product();
                let f = match f {
                    ReduceFn::Sum => rows::Reduce::Sum,
                    ReduceFn::Mean => rows::Reduce::Mean,
                    ReduceFn::Max => rows::Reduce::Max,
                };
                if width == 0 {
                    return None;
                }
                float!(from, I => float!(ty.dtype, O => rows::reduce(
                    pool, level, f,
                    Rows::new(self.of::<I>(x), width),
                    self.of_mut::<O>(step.results[0]),
                )))?
            }
            Op::RopeTable { rows, cols, head_dim, theta } => {
                let out = self.of_mut::<f32>(step.results[0]);
                tables::rope(self.of(x), *rows, *cols, *head_dim, *theta, out);
                Some(())
            }
            Op::TimestepEmbedding { dim } => {
                tables::timesteps(self.of(x), *dim, self.of_mut(step.results[0]));
                Some(())
            }
            Op::RelativeBucket { buckets, max_distance } => {
                let out = self.of_mut::<i32>(step.results[0]);
                tables::relative_buckets(self.of(x), *buckets, *max_distance, out);
                Some(())
            }
            _ => None,
        }
    }

    fn unary(&self, step: &Step, f: Unary) -> Option<()> {
        let (pool, level) = (self.cpu.pool(), self.cpu.level());
        let x = step.operands[0];
        float!(self.ty(x).dtype, I => float!(self.ty(step.results[0]).dtype, O => rows::unary(
            pool, level, f, self.of::<I>(x), self.of_mut::<O>(step.results[0]),
        )))?
    }

    /// Fails where a row's segment is not in every table it picks from.
    fn check_segments(&self, op: &Op, step: &Step) -> Result<(), RunError> {
        let tables = match op {
            Op::Modulate => &step.operands[1..3],
            Op::GateAdd => &step.operands[2..3],
            _ => return Ok(()),
        };
        let rows = tables.iter().map(|id| self.ty(*id).shape[0]).min().unwrap_or(0);
        let inside = |index: &i32| usize::try_from(*index).is_ok_and(|index| index < rows);
        match self.of::<i32>(step.operands[3]).iter().find(|index| !inside(index)) {
            None => Ok(()),
            Some(index) => {
                let (label, index) = (step.label().to_owned(), i64::from(*index));
                Err(RunError::Index { label, index, rows })
            }
        }
    }

    fn gather(&self, step: &Step) -> Result<(), RunError> {
        let (table, indices) = (step.operands[0], self.of::<i32>(step.operands[1]));
        let ty = self.ty(table);
        let row: usize = ty.shape[1..].iter().product();
        let stored;
        let (dtype, bytes): (DType, &[u8]) = match self.buffer(table).root {
            // A weight is read where it is stored: only the rows that are asked for.
            Root::Weight(index) if is_table(&step.kernel, 0) => {
                let name = &self.plan.weights[index as usize].name;
                stored = self.provider.get(name);
                match &stored {
                    Some(data) => (data.dtype, &data.bytes),
                    None => (ty.dtype, self.bytes(table)),
                }
            }
            _ => (ty.dtype, self.bytes(table)),
        };
        let out = self.bytes_mut(step.results[0]);
        for (at, index) in indices.iter().enumerate() {
            let found = usize::try_from(*index).ok().filter(|i| *i < ty.shape[0]);
            let Some(from) = found else {
                let (label, index) = (step.label().to_owned(), i64::from(*index));
                return Err(RunError::Index { label, index, rows: ty.shape[0] });
            };
            let size = row * dtype.bytes();
            let source = &bytes[from * size..(from + 1) * size];
            if dtype == ty.dtype {
                out[at * size..(at + 1) * size].copy_from_slice(source);
            } else {
                for i in 0..row {
                    scalar::write(ty.dtype, out, at * row + i, scalar::read(dtype, source, i));
                }
            }
        }
        Ok(())
    }
}

/// Strides of `ty` for every axis of `shape`, 0 where it repeats.
fn broadcast_strides(ty: &TensorType, shape: &[usize]) -> smallvec::SmallVec<[usize; 8]> {
    let skip = shape.len() - ty.rank();
    let strides = ty.strides();
    (0..shape.len())
        .map(|axis| match axis.checked_sub(skip) {
            Some(own) if ty.shape[own] != 1 => strides[own],
            _ => 0,
        })
        .collect()
}
