//! Row kernels by a vector machine with one accumulator.
//!
//! A kernel is cut into stages at its reductions, and each stage is compiled once into code of an
//! accumulator machine ([`emit`]). A row goes through a stage in strips of some sixteen-lane vectors:
//! the accumulator is as wide as a strip and stays in vector registers from one instruction to the
//! next ([`strip`]); other operands are read where they lie, and only what is used again later is
//! kept in a slot of scratch. What a later stage needs is made again there. Results are written in
//! the last stage only, each strip after everything that it still reads, so a result may lie over an
//! operand.
//!
//! Sums have one fixed association (64 lanes in turn, then halves), so a fused kernel gives the bits
//! of the same ops one by one, for any number of threads. exp, log, sin, cos, floor and erf go through
//! `f64`, so that tables of constants made with them are correctly rounded (the time embedding moves
//! by 1.5e-5 for one unit in exp); the functions that run over activations are vector code.

mod emit;
mod machine;
mod run;
mod strip;

pub(super) use machine::Codes;

use super::simd::Level;
use super::threads::{Pool, WorkerScratch};
use anyid_ir::DType;
use anyid_ir::kernel::{Access, Columns, Instruction, RowFn, RowKernel, RowMap, RowReduce};
use anyid_ir::op::{BinaryFn, CompareFn};
use machine::Program;
use std::sync::Arc;

/// Columns of rows that make a block together, where one row has fewer.
const CHUNK: usize = 2048;
/// Most rows of a block, a multiple of the lanes.
const BLOCK: usize = 64;
/// Bytes of a result that is written past the caches: its first rows would have left them before
/// anybody reads them.
const STREAMED: usize = 32 << 20;
/// Elements one task works on.
const TASK: usize = 16_384;

/// Position of an operand in the table of a [`Code`].
type Arg = u16;

/// One operation of the machine; `acc` is the accumulator.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// acc = operand
    Take(Arg),
    /// acc = a row of this type
    Load(DType, Arg),
    /// acc = a row of this type that repeats after so many elements
    Every(DType, Arg, usize),
    /// acc = one element for each row of the block; the index of a load
    Numbers(usize),
    /// slot = acc
    Keep(Arg),
    /// acc = f(acc)
    Unary(RowFn),
    /// acc = f(acc, operand)
    Left(BinaryFn, Arg),
    /// acc = f(operand, acc)
    Right(BinaryFn, Arg),
    /// acc = acc · first + second
    Multiply(Arg, Arg),
    /// acc = first · acc + second
    Multiplied(Arg, Arg),
    /// acc = first · second + acc
    Accumulate(Arg, Arg),
    /// acc = f(acc, operand) as 1 or 0
    Compare(CompareFn, Arg),
    /// acc = acc ≠ 0 ? first : second
    Select(Arg, Arg),
    /// acc = pairs of acc turned by the operand
    Rotate(Arg),
    /// acc = acc rounded to the type
    Round(DType),
    /// sums of a reduction = f(sums, acc)
    Reduce(RowReduce, usize),
    /// row of a result = acc
    Store(DType, Arg),
    /// row of a result = acc, past the caches
    Stream(DType, Arg),
    /// the one element that a result has for the row = acc
    StoreOne(DType, Arg),
}

/// What an operand is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    /// A strip that was kept.
    Slot(usize),
    /// One number.
    Const(f32),
    /// The row's own number of a scalar.
    Scalar(usize),
    /// The numbers of a scalar for all rows of the block, as a row.
    Numbers(usize),
    /// The row of a load, where it lies.
    Row(usize),
    /// The row of a result.
    Result(usize),
}

/// Straight-line code and the operands that it names.
#[derive(Clone, Debug, Default)]
struct Code {
    ops: Vec<Op>,
    operands: Vec<Source>,
    /// Which of them are others for each row.
    moving: Vec<Arg>,
    /// Operands of all codes before it.
    first: usize,
}

#[derive(Clone, Debug, Default)]
struct Stage {
    /// Once a block, on numbers of its rows.
    numbers: Code,
    /// Once a row.
    vectors: Code,
    /// Reductions finished at its end: function, sums, scalar.
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
    /// Whether it goes past the caches.
    streamed: bool,
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
    /// Whether a result may lie over an operand.
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
    loads: Vec<Load>,
    results: Vec<Stored>,
    stages: Vec<Stage>,
    /// Loads that the first of several stages reads row by row: those of the next row are asked for
    /// while the last stage works.
    ahead: Vec<usize>,
    slots: usize,
    scalars: usize,
    sums: usize,
    /// Operands of all codes.
    operands: usize,
    /// The sum or mean of each row of operand 0 where that is all the kernel does.
    plain: Option<RowReduce>,
    /// What machine code is made of, if the kernel can have any.
    program: Option<Program>,
    code: Option<Arc<machine::Code>>,
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

/// What a kernel reads that does nothing but sum or average each row of it.
pub(super) fn lone_reduction(kernel: &RowKernel) -> Option<(Access, RowReduce)> {
    match kernel.code[..] {
        [
            Instruction::Load(access),
            Instruction::Reduce(f @ (RowReduce::Sum | RowReduce::Mean), 0),
            Instruction::Store { value: 1, .. },
        ] => Some((access, f)),
        _ => None,
    }
}

fn plain_reduction(kernel: &RowKernel) -> Option<RowReduce> {
    let (access, f) = lone_reduction(kernel)?;
    let all = kernel.rows * kernel.width == kernel.operands[access.operand].elements();
    let dense = access.rows == RowMap::OWN
        && access.columns == Columns::All
        && (access.offset, access.stride) == (0, kernel.width);
    let [result] = &kernel.results[..] else { return None };
    let narrow = result.elements() == kernel.rows && access.operand == 0 && result.dtype.is_float();
    (all && dense && narrow && kernel.width > 0).then_some(f)
}

impl Prepared {
    /// Makes `kernel` ready.
    pub fn new(kernel: &RowKernel, layout: &Layout) -> Self {
        let (width, in_place) = (kernel.width, layout.in_place);
        let pitch_of = |list: &[Option<Pitch>], at: usize| list.get(at).copied().flatten();
        let results = (0..kernel.results.len()).map(|at| {
            let (dtype, width) = (kernel.results[at].dtype, kernel.result_width(at));
            let stride = pitch_of(&layout.results, at).map_or(width, |pitch| pitch.stride);
            let bytes = kernel.rows.saturating_mul(width).saturating_mul(dtype.bytes());
            // Over an operand it is in the caches already.
            Stored { dtype, width, stride, streamed: !in_place && bytes >= STREAMED }
        });
        let columns = layout.operands.iter().chain(&layout.results).any(Option::is_some);
        let mut out = Self {
            rows: kernel.rows,
            width,
            block: (CHUNK / width.clamp(1, CHUNK)).min(BLOCK),
            loads: Vec::new(),
            results: results.collect(),
            stages: Vec::new(),
            ahead: Vec::new(),
            slots: 0,
            scalars: 0,
            sums: 0,
            operands: 0,
            // Its kernel holds slices of both sides, which may not be one memory, of dense rows.
            plain: plain_reduction(kernel).filter(|_| !in_place && !columns),
            program: None,
            code: None,
        };
        let placement = emit::stages(&mut out, kernel, in_place);
        out.ahead = out.read_ahead();
        out.program = machine::lower(kernel, &out, &placement);
        // Steps from row to row are whole rows of columns (verified), so that they stay even.
        for Load { access, .. } in &mut out.loads {
            if let Some(pitch) = pitch_of(&layout.operands, access.operand) {
                (access.offset, access.stride) =
                    (pitch.place(access.offset), pitch.place(access.stride));
            }
        }
        out
    }

    /// Takes the machine code of the kernel, if there is any.
    pub fn compile(&mut self, codes: &Codes) {
        self.code = self.program.as_ref().and_then(|program| codes.code(program));
    }

    /// Whether it runs as machine code.
    #[cfg(test)]
    fn is_compiled(&self) -> bool {
        self.code.is_some()
    }

    /// The program and code to run at a level, on results that begin and go on as it writes them.
    #[cfg(target_arch = "x86_64")]
    fn compiled(&self, level: Level, bound: &Bound<'_>) -> Option<(&Program, &machine::Code)> {
        let whole = |(result, at): (&Stored, &*mut u8)| {
            let line = 64;
            let even = (result.stride * result.dtype.bytes()).is_multiple_of(line);
            !result.streamed || (even && at.addr().is_multiple_of(line))
        };
        let usable = level.usable() >= Level::Avx512;
        let usable = usable && self.results.iter().zip(bound.results).all(whole);
        self.program.as_ref().zip(self.code.as_deref()).filter(|_| usable)
    }

    fn read_ahead(&self) -> Vec<usize> {
        let [first, _, ..] = &self.stages[..] else { return Vec::new() };
        let loads = first.vectors.operands.iter().filter_map(|source| match source {
            Source::Row(load) => Some(*load),
            _ => None,
        });
        let whole = |load: &usize| self.loads[*load].access.columns == Columns::All;
        let moves = |load: &usize| matches!(self.loads[*load].access.rows, RowMap::Affine { .. });
        loads.filter(whole).filter(moves).take(run::AHEAD).collect()
    }

    /// The sum or mean over dense rows of operand 0, and their width, if the kernel is nothing else:
    /// [`rows::reduce`](super::rows::reduce) gives the same bits and knows short rows.
    pub fn plain_reduction(&self) -> Option<(RowReduce, usize)> {
        self.plain.map(|f| (f, self.width))
    }

    /// Bytes of scratch a launch needs.
    pub fn scratch_bytes(&self, workers: usize) -> usize {
        WorkerScratch::bytes(run::Scratch::new(self).bytes(), workers)
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
        level: Level,
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
        #[cfg(target_arch = "x86_64")]
        let compiled = self.compiled(level, bound);
        let layout = run::Scratch::new(self);
        let regions = WorkerScratch::new(scratch, layout.bytes(), pool.threads());
        pool.run(self.rows.div_ceil(down) * strips, &|task, worker| {
            let (first, left) = (task / strips * down, task % strips * across);
            let rows = first..(first + down).min(self.rows);
            let columns = left..(left + across).min(self.width);
            let launch =
                run::Launch { kernel: self, bound, layout, memory: regions.region(worker) };
            #[cfg(target_arch = "x86_64")]
            if let Some(code) = compiled {
                // SAFETY: the machine has the level; the code is that of this kernel.
                unsafe { machine::rows(&launch, code, rows, columns) };
                return;
            }
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
