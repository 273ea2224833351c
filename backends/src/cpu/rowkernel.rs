//! Row kernels by a vector interpreter.
//!
//! A kernel is cut into stages at its reductions. A block of rows goes through every stage in
//! chunks of columns small enough for the first-level cache: each instruction is one vector loop
//! over a chunk, and vectors needed by a later stage are made again there rather than kept.
//! Results are written in the last stage only, after everything that row still reads, so a result
//! may lie over an operand.
//!
//! Sums have one fixed association (64 lanes in turn, then halves), so a fused kernel gives the bits
//! of the same ops one by one, for any number of threads. exp, log, sin, cos, floor and erf go through
//! `f64`, so that tables of constants made with them are correctly rounded (the time embedding moves
//! by 1.5e-5 for one unit in exp); the functions that run over activations are vector code.

mod run;

use super::threads::{Pool, WorkerScratch};
use anyid_ir::DType;
use anyid_ir::kernel::{
    Access, Columns, Instruction, Register, RowFn, RowKernel, RowMap, RowReduce,
};
use anyid_ir::op::{BinaryFn, CompareFn};

/// Columns of a chunk, a multiple of the 64 lanes of a reduction.
const CHUNK: usize = 1024;
/// Most rows of a block.
const BLOCK: usize = 64;
/// Elements one task works on.
const TASK: usize = 16_384;

/// Where an instruction finds an operand.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// A vector made in this stage.
    Slot(usize),
    /// A number for each row of the block.
    Scalar(usize),
    /// One number.
    Const(f32),
    /// f32 rows where they lie; the index of a load.
    Memory(usize),
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Load(usize),
    Unary(RowFn, Source),
    Binary(BinaryFn, Source, Source),
    Fma(Source, Source, Source),
    Compare(CompareFn, Source, Source),
    Select(Source, Source, Source),
    Rotate(Source, Source),
    Round(DType, Source),
    Reduce(RowReduce, Source),
    Store(usize, Source),
}

/// Where the result of an action goes.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// A vector or scalar slot, or a reduction's sums.
    Slot(usize),
    /// The rows of an f32 result, which nothing else in the stage needs.
    Result(usize),
}

/// An action and where its result goes.
#[derive(Clone, Copy, Debug)]
struct Step {
    action: Action,
    to: Place,
}

#[derive(Clone, Debug, Default)]
struct Stage {
    /// Once a block, on numbers of its rows.
    scalars: Vec<Step>,
    /// Once a chunk.
    vectors: Vec<Step>,
    /// Reductions finished at its end: function, sums, scalar slot.
    finished: Vec<(RowReduce, usize, usize)>,
}

#[derive(Clone, Copy, Debug)]
struct Load {
    access: Access,
    dtype: DType,
    elements: usize,
}

/// How the rows of a result lie.
#[derive(Clone, Copy, Debug)]
struct Stored {
    dtype: DType,
    /// Elements of a row.
    width: usize,
    /// Elements from one row to the next.
    stride: usize,
}

/// Rows of an operand or a result that are columns of wider ones, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pitch {
    pub width: usize,
    pub stride: usize,
}

impl Pitch {
    /// How far the element that is number `at` of dense memory lies behind the first.
    fn place(self, at: usize) -> usize {
        at / self.width * self.stride + at % self.width
    }
}

/// How the memory of a launch lies, known when it is made ready.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    /// Whether a result lies over an operand.
    pub in_place: bool,
    /// Of each operand, if it is columns; all others are dense.
    pub operands: Vec<Option<Pitch>>,
    /// Of each result.
    pub results: Vec<Option<Pitch>>,
}

/// A row kernel made ready.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    rows: usize,
    width: usize,
    block: usize,
    chunk: usize,
    pitch: usize,
    loads: Vec<Load>,
    results: Vec<Stored>,
    stages: Vec<Stage>,
    vectors: usize,
    scalars: usize,
    sums: usize,
    /// The sum or mean of each row of operand 0 where that is all the kernel does.
    plain: Option<RowReduce>,
}

/// A segment that names no row of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadSegment {
    pub index: i64,
    pub rows: usize,
}

/// Memory of a launch: first bytes of operands and results, in the kernel's order.
pub(super) struct Bound<'b> {
    pub operands: &'b [*const u8],
    pub results: &'b [*mut u8],
}

// SAFETY: tasks read operands and write disjoint rows of results; see `Prepared::run`.
unsafe impl Sync for Bound<'_> {}

fn plain_reduction(kernel: &RowKernel) -> Option<RowReduce> {
    let [
        Instruction::Load(access),
        Instruction::Reduce(f @ (RowReduce::Sum | RowReduce::Mean), 0),
        Instruction::Store { value: 1, .. },
    ] = kernel.code[..]
    else {
        return None;
    };
    let all = kernel.rows * kernel.width == kernel.operands[access.operand].elements();
    let dense = access.rows == RowMap::OWN
        && access.columns == Columns::All
        && (access.offset, access.stride) == (0, kernel.width);
    let [result] = &kernel.results[..] else { return None };
    let narrow = result.elements() == kernel.rows && access.operand == 0;
    (all && dense && narrow && kernel.width > 0).then_some(f)
}

impl Prepared {
    /// Makes `kernel` ready. In place, rows of operands are copied before they are used.
    pub fn new(kernel: &RowKernel, layout: &Layout) -> Self {
        let (width, in_place) = (kernel.width, layout.in_place);
        let chunk = width.clamp(1, CHUNK);
        let pitch = chunk.next_multiple_of(16);
        let block = if width > CHUNK { 1 } else { (CHUNK / pitch).clamp(1, BLOCK) };
        let pitch_of = |list: &[Option<Pitch>], at: usize| list.get(at).copied().flatten();
        let results = (0..kernel.results.len()).map(|at| {
            let (dtype, width) = (kernel.results[at].dtype, kernel.result_width(at));
            let stride = pitch_of(&layout.results, at).map_or(width, |pitch| pitch.stride);
            Stored { dtype, width, stride }
        });
        let columns = layout.operands.iter().chain(&layout.results).any(Option::is_some);
        let mut out = Self {
            rows: kernel.rows,
            width,
            block,
            chunk,
            pitch,
            loads: Vec::new(),
            results: results.collect(),
            stages: Vec::new(),
            vectors: 0,
            scalars: 0,
            sums: 0,
            // Its kernel holds slices of both sides, which may not be one memory, of dense rows.
            plain: plain_reduction(kernel).filter(|_| !in_place && !columns),
        };
        out.plan(kernel, in_place);
        // Steps from row to row are whole rows of columns (verified), so that they stay even.
        for Load { access, .. } in &mut out.loads {
            if let Some(pitch) = pitch_of(&layout.operands, access.operand) {
                (access.offset, access.stride) =
                    (pitch.place(access.offset), pitch.place(access.stride));
            }
        }
        out
    }

    fn plan(&mut self, kernel: &RowKernel, in_place: bool) {
        let code = &kernel.code;
        let is_scalar = kernel.scalars();
        let mut stage = vec![0usize; code.len()];
        for (at, instruction) in code.iter().enumerate() {
            let before = instruction.reads().iter().map(|r| stage[*r as usize]).max().unwrap_or(0);
            stage[at] = before + usize::from(matches!(instruction, Instruction::Reduce(..)));
        }
        let last = stage.iter().copied().max().unwrap_or(0);
        // Loads and numbers have one place for the whole kernel.
        let mut load_of = vec![usize::MAX; code.len()];
        let mut scalar_of = vec![usize::MAX; code.len()];
        for (at, instruction) in code.iter().enumerate() {
            if let Instruction::Load(access) = instruction {
                load_of[at] = self.loads.len();
                let ty = &kernel.operands[access.operand];
                let (dtype, elements) = (ty.dtype, ty.elements());
                self.loads.push(Load { access: *access, dtype, elements });
            }
            let is_const = matches!(instruction, Instruction::Const(_));
            let is_store = matches!(instruction, Instruction::Store { .. });
            if is_scalar[at] && !is_const && !is_store {
                scalar_of[at] = self.scalars;
                self.scalars += 1;
            }
        }
        let direct = |at: usize| match &code[at] {
            Instruction::Load(access) => {
                let f32 = kernel.operands[access.operand].dtype == DType::F32;
                f32 && access.columns == Columns::All && !in_place
            }
            _ => false,
        };
        for now in 0..=last {
            let mut out = Stage::default();
            let is_sink = |at: usize| match &code[at] {
                Instruction::Reduce(_, x) => stage[*x as usize] == now,
                Instruction::Store { .. } => now == last,
                _ => false,
            };
            let mut needed = vec![false; code.len()];
            let mut last_use = vec![0; code.len()];
            for at in (0..code.len()).rev() {
                if is_sink(at) || (needed[at] && !is_scalar[at]) {
                    needed[at] = true;
                    for read in code[at].reads() {
                        let read = read as usize;
                        if !needed[read] {
                            last_use[read] = at;
                        }
                        needed[read] = true;
                    }
                }
            }
            // Results that are made where they belong: the vectors that nothing but their store reads.
            // What lies under them must have been read before.
            let loads_after = |at: usize| {
                let later = code.iter().zip(&needed).skip(at + 1);
                later.into_iter().any(|(i, needed)| *needed && matches!(i, Instruction::Load(_)))
            };
            let mut made_in = vec![None; code.len()];
            for instruction in &code[..] {
                let Instruction::Store { result, value } = instruction else { continue };
                let at = *value as usize;
                let readers = code.iter().zip(&needed).filter(|(_, needed)| **needed);
                let readers = readers.flat_map(|(i, _)| i.reads()).filter(|r| r == value).count();
                let Stored { dtype, width, .. } = self.results[*result];
                let whole = (dtype, width) == (DType::F32, self.width) && width > 1;
                let alone = readers == 1 && whole && !is_scalar[at] && !direct(at);
                if now == last && alone && !(in_place && loads_after(at)) {
                    made_in[at] = Some(*result);
                }
            }
            let mut slot_of = vec![usize::MAX; code.len()];
            let mut free: Vec<usize> = Vec::new();
            for (at, instruction) in code.iter().enumerate() {
                let scalar = is_scalar[at];
                let source = |r: Register| -> Source {
                    let r = r as usize;
                    match &code[r] {
                        Instruction::Const(value) => Source::Const(*value),
                        _ if is_scalar[r] => Source::Scalar(scalar_of[r]),
                        _ if direct(r) => Source::Memory(load_of[r]),
                        _ => Source::Slot(slot_of[r]),
                    }
                };
                let action = match instruction {
                    Instruction::Load(_) => Action::Load(load_of[at]),
                    Instruction::Const(_) => continue,
                    Instruction::Unary(f, x) => Action::Unary(*f, source(*x)),
                    Instruction::Binary(f, a, b) => Action::Binary(*f, source(*a), source(*b)),
                    Instruction::Fma(a, b, c) => Action::Fma(source(*a), source(*b), source(*c)),
                    Instruction::Compare(f, a, b) => Action::Compare(*f, source(*a), source(*b)),
                    Instruction::Select(c, a, b) => {
                        Action::Select(source(*c), source(*a), source(*b))
                    }
                    Instruction::Reduce(f, x) => Action::Reduce(*f, source(*x)),
                    Instruction::Rotate(x, angles) => Action::Rotate(source(*x), source(*angles)),
                    Instruction::Round(dtype, x) => Action::Round(*dtype, source(*x)),
                    Instruction::Store { result, value } => Action::Store(*result, source(*value)),
                };
                match instruction {
                    Instruction::Reduce(f, _) if is_sink(at) => {
                        out.vectors.push(Step { action, to: Place::Slot(self.sums) });
                        out.finished.push((*f, self.sums, scalar_of[at]));
                        self.sums += 1;
                    }
                    Instruction::Reduce(..) => continue,
                    Instruction::Store { value, .. } => {
                        if needed[at] && made_in[*value as usize].is_none() {
                            out.vectors.push(Step { action, to: Place::Slot(0) });
                        }
                    }
                    _ if scalar => {
                        if stage[at] == now {
                            out.scalars.push(Step { action, to: Place::Slot(scalar_of[at]) });
                        }
                        continue;
                    }
                    _ if !needed[at] || direct(at) => continue,
                    _ if made_in[at].is_some() => {
                        let to = Place::Result(made_in[at].expect("just asked"));
                        out.vectors.push(Step { action, to });
                    }
                    _ => {
                        let to = free.pop().unwrap_or_else(|| {
                            self.vectors += 1;
                            self.vectors - 1
                        });
                        slot_of[at] = to;
                        out.vectors.push(Step { action, to: Place::Slot(to) });
                    }
                }
                for read in instruction.reads() {
                    let read = read as usize;
                    if last_use[read] == at
                        && slot_of[read] != usize::MAX
                        && !free.contains(&slot_of[read])
                    {
                        free.push(slot_of[read]);
                    }
                }
            }
            self.stages.push(out);
        }
    }

    /// The sum or mean over dense rows of operand 0, and their width, if the kernel is nothing else:
    /// [`rows::reduce`](super::rows::reduce) gives the same bits and knows short rows.
    pub fn plain_reduction(&self) -> Option<(RowReduce, usize)> {
        self.plain.map(|f| (f, self.width))
    }

    fn floats(&self) -> usize {
        self.vectors * self.block * self.pitch
            + self.scalars * self.block
            + self.sums * self.block * run::SUMS
    }

    /// Bytes of scratch a launch needs.
    pub fn scratch_bytes(&self, workers: usize) -> usize {
        WorkerScratch::bytes(self.floats().max(1) * 4, workers)
    }

    /// Runs the kernel.
    ///
    /// # Safety
    /// Operands and results are memory of the kernel's types, aligned to their elements; a result
    /// shares bytes with an operand only where the kernel writes in place over it and was made
    /// ready for that, and with no other result.
    pub unsafe fn run(
        &self,
        pool: &Pool,
        level: super::simd::Level,
        bound: &Bound<'_>,
        scratch: &mut [u8],
    ) -> Result<(), BadSegment> {
        // SAFETY: the caller's promise.
        unsafe { self.check_segments(bound)? };
        if self.rows == 0 || self.width == 0 {
            return Ok(());
        }
        // Without reductions a long row is several tasks.
        let across = if self.stages.len() == 1 { TASK.min(self.width) } else { self.width };
        let down = (TASK / across).max(1).next_multiple_of(self.block);
        let strips = self.width.div_ceil(across);
        let regions = WorkerScratch::new(scratch, self.floats().max(1) * 4, pool.threads());
        pool.run(self.rows.div_ceil(down) * strips, &|task, worker| {
            let memory = regions.region(worker).cast::<f32>();
            let (first, left) = (task / strips * down, task % strips * across);
            let rows = first..(first + down).min(self.rows);
            let columns = left..(left + across).min(self.width);
            let launch = run::Launch { kernel: self, bound, memory };
            run::rows(level, &launch, rows, columns);
        });
        Ok(())
    }

    /// # Safety
    /// As [`Self::run`].
    unsafe fn check_segments(&self, bound: &Bound<'_>) -> Result<(), BadSegment> {
        for load in &self.loads {
            let RowMap::Segment(segments) = load.access.rows else { continue };
            let wide = match load.access.columns {
                Columns::All => self.width,
                Columns::One => 1,
                Columns::Every(period) => period.min(self.width),
                Columns::Step(_) => unreachable!("verified: not in f32"),
            };
            let room = load.elements.saturating_sub(load.access.offset);
            // Stride and segment are anyone's numbers: their product may pass 64 bits.
            let inside = |index: usize| {
                let start = index.checked_mul(load.access.stride);
                start.and_then(|start| start.checked_add(wide)).is_some_and(|end| end <= room)
            };
            // SAFETY: segments are one `i32` a row (verified).
            let segments = unsafe {
                std::slice::from_raw_parts(bound.operands[segments].cast::<i32>(), self.rows)
            };
            for index in segments {
                if !usize::try_from(*index).is_ok_and(inside) {
                    let rows = room.checked_div(load.access.stride).unwrap_or(1);
                    return Err(BadSegment { index: i64::from(*index), rows: rows.max(1) });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
