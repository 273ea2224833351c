//! One task of a row kernel: blocks of rows through the stages.
//!
//! Safety of this file and of [`strip`](super::strip): a [`Launch`] comes from
//! [`Prepared::run`](super::Prepared::run), whose caller vouches for operands and results; loads were
//! verified to stay inside their operands, and segments checked against their tables. A task writes
//! its own rows and columns of the results alone, and its worker's scratch, whose parts lie one
//! after the other as [`Scratch`] says.

use super::super::caches::{end_streams, prefetch_later};
use super::super::math::lanes::get;
use super::super::math::{LANES, Lanes, vectorised};
use super::strip::{Operand, Window, strip};
use super::{Bound, Code, Load, Prepared, Source, Stage, Stored};
use anyid_ir::DType;
use anyid_ir::kernel::{RowMap, RowReduce};
use half::{bf16, f16};
use smallvec::SmallVec;
use std::ops::Range;

/// Lanes of the sums of one reduction of a row.
pub(super) const SUMS: usize = 64;
/// Elements of the longest strip.
const STRIP: usize = 8 * LANES;

/// Most rows that are asked for ahead of their use.
pub(super) const AHEAD: usize = 4;

/// Memory that the strips of a row ask for on their way: first byte of a row, bytes of an element.
type Asked = SmallVec<[(*const u8, usize); AHEAD]>;

/// Where the parts of a worker's scratch begin, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Scratch {
    sums: usize,
    scalars: usize,
    repeated: usize,
    operands: usize,
    pointers: usize,
    end: usize,
    /// Numbers of a scalar, whole vectors of them.
    pitch: usize,
}

impl Scratch {
    pub fn new(kernel: &Prepared) -> Self {
        let pitch = kernel.block.next_multiple_of(LANES);
        let floats = |count: usize| count * size_of::<f32>();
        // Kept strips come first.
        let sums = floats(kernel.slots * STRIP);
        let scalars = sums + floats(kernel.sums * SUMS);
        let repeated = scalars + floats(kernel.scalars * pitch);
        let operands = repeated + floats(kernel.operands * LANES);
        let pointers = operands + kernel.operands * size_of::<Operand>();
        let end = pointers + kernel.program.as_ref().map_or(0, |program| program.pointer_bytes());
        Self { sums, scalars, repeated, operands, pointers, end, pitch }
    }

    pub fn bytes(&self) -> usize {
        self.end.max(1)
    }
}

/// What a task works on.
pub(super) struct Launch<'l> {
    pub kernel: &'l Prepared,
    pub bound: &'l Bound<'l>,
    pub layout: Scratch,
    /// The worker's scratch.
    pub memory: *mut u8,
}

impl Launch<'_> {
    fn floats(&self, bytes: usize, floats: usize) -> *mut f32 {
        // SAFETY: see the head of the file.
        unsafe { self.memory.add(bytes).cast::<f32>().add(floats) }
    }

    pub fn scalar(&self, scalar: usize, row: usize) -> *mut f32 {
        self.floats(self.layout.scalars, scalar * self.layout.pitch + row)
    }

    /// Where code finds the rows of operands and results.
    pub fn pointers(&self) -> *mut *const u8 {
        // SAFETY: see the head of the file.
        unsafe { self.memory.add(self.layout.pointers).cast() }
    }

    /// The type of a result, and the first element of it for row `row` of the kernel.
    pub fn result(&self, result: usize, row: usize) -> (DType, *mut u8) {
        let Stored { dtype, stride, .. } = self.kernel.results[result];
        (dtype, self.bound.results[result].wrapping_add(row * stride * dtype.bytes()))
    }

    /// The sums of a reduction.
    pub fn sums(&self, sums: usize) -> *mut f32 {
        self.floats(self.layout.sums, sums * SUMS)
    }

    /// The first operand of a code.
    fn operands(&self, code: &Code) -> *mut Operand {
        // SAFETY: see the head of the file.
        unsafe { self.memory.add(self.layout.operands).cast::<Operand>().add(code.first) }
    }

    /// Sixteen times `value`, as an operand.
    fn repeated(&self, code: &Code, at: usize, value: f32) -> Operand {
        let place = self.floats(self.layout.repeated, (code.first + at) * LANES);
        // SAFETY: see the head of the file.
        unsafe { std::slice::from_raw_parts_mut(place, LANES) }.fill(value);
        Operand { base: place.cast(), step: 0, columns: 0 }
    }

    /// First element of a load's row for row `row` of the kernel.
    pub fn place(&self, load: &Load, row: usize) -> usize {
        let index = match load.access.rows {
            RowMap::Fixed => 0,
            RowMap::Affine { divisor: 1, modulus: usize::MAX } => row,
            RowMap::Affine { divisor: 1, modulus } => row % modulus,
            RowMap::Affine { divisor, modulus } => row / divisor % modulus,
            // SAFETY: segments are one `i32` a row (verified); none is negative (checked).
            RowMap::Segment(operand) => unsafe {
                *self.bound.operands[operand].cast::<i32>().add(row) as usize
            },
        };
        load.access.offset + index * load.access.stride
    }

    /// The one number that a load has for a row.
    pub fn number(&self, load: usize, row: usize) -> f32 {
        let load = &self.kernel.loads[load];
        let (base, at) = (self.bound.operands[load.access.operand], self.place(load, row));
        // SAFETY: see the head of the file.
        unsafe {
            match load.dtype {
                DType::F32 => *base.cast::<f32>().add(at),
                DType::Bf16 => (*base.cast::<bf16>().add(at)).to_f32(),
                DType::F16 => (*base.cast::<f16>().add(at)).to_f32(),
                _ => f32::from(u8::from(*base.add(at) != 0)),
            }
        }
    }

    /// Finds all operands of a code; those that move, for row 0 of the kernel and of a block.
    fn fix(&self, code: &Code) {
        for at in 0..code.operands.len() {
            self.point(code, at, 0, 0);
        }
    }

    /// Finds operand `at` of a code for row `row`, which is row `in_block` of its block.
    fn point(&self, code: &Code, at: usize, row: usize, in_block: usize) {
        let follow = |base: *mut u8| Operand { base, step: LANES, columns: usize::MAX };
        let operand = match code.operands[at] {
            Source::Slot(slot) => {
                Operand { columns: 0, ..follow(self.floats(0, slot * STRIP).cast()) }
            }
            Source::Const(value) => self.repeated(code, at, value),
            Source::Numbers(scalar) => follow(self.scalar(scalar, 0).cast()),
            Source::Scalar(scalar) => {
                // SAFETY: see the head of the file.
                let value = unsafe { *self.scalar(scalar, in_block) };
                self.repeated(code, at, value)
            }
            Source::Row(load) => {
                let load = &self.kernel.loads[load];
                let start = self.place(load, row) * load.dtype.bytes();
                let base = self.bound.operands[load.access.operand].wrapping_add(start);
                follow(base.cast_mut())
            }
            Source::Result(result) => follow(self.result(result, row).1),
        };
        // SAFETY: see the head of the file.
        unsafe { self.operands(code).add(at).write(operand) };
    }

    /// What is worth asking for while stage `stage` of several works on row `row`, so that memory is
    /// busy throughout: at first this row of the results, at last the next row of what is read first.
    fn asked(&self, stage: usize, row: usize) -> Asked {
        let last = self.kernel.stages.len() - 1;
        let next = |load: &usize| {
            let load = &self.kernel.loads[*load];
            let (size, base) = (load.dtype.bytes(), self.bound.operands[load.access.operand]);
            (base.wrapping_add(self.place(load, row + 1) * size), size)
        };
        let written = |(at, result): (usize, &Stored)| {
            let (size, base) = (result.dtype.bytes(), self.bound.results[at].cast_const());
            let wide = result.width == self.kernel.width && !result.streamed;
            wide.then(|| (base.wrapping_add(row * result.stride * size), size))
        };
        match stage {
            _ if last == 0 => Asked::new(),
            0 => {
                let results = self.kernel.results.iter().enumerate();
                results.filter_map(written).take(AHEAD).collect()
            }
            _ if stage == last && row + 1 < self.kernel.rows => {
                self.kernel.ahead.iter().map(next).collect()
            }
            _ => Asked::new(),
        }
    }

    fn clear(&self, stage: &Stage) {
        for (f, sums, _) in &stage.finished {
            let start = if *f == RowReduce::Max { f32::NEG_INFINITY } else { 0.0 };
            // SAFETY: see the head of the file.
            unsafe { std::slice::from_raw_parts_mut(self.sums(*sums), SUMS) }.fill(start);
        }
    }

    /// Sums in one association: 64 lanes in turn, then halves.
    #[inline(always)]
    fn finish<V: Lanes>(&self, stage: &Stage, in_block: usize) {
        let width = self.kernel.width as f32;
        for (f, sums, to) in &stage.finished {
            // SAFETY: see the head of the file.
            let lanes = unsafe { std::slice::from_raw_parts(self.sums(*sums), SUMS) };
            let part = |at: usize| get::<V, f32>(lanes, at * LANES);
            let total = part(0).add(part(2)).add(part(1).add(part(3)));
            let value = match f {
                RowReduce::Sum | RowReduce::SumSquares => total.sum(),
                RowReduce::Mean | RowReduce::MeanSquares => total.sum() / width,
                // A largest element of 0 is +0.
                RowReduce::Max => part(0).largest() + 0.0,
            };
            // SAFETY: see the head of the file.
            unsafe { *self.scalar(*to, in_block) = value };
        }
    }
}

vectorised! {
    /// Runs `rows` and `columns` of a launch: blocks of rows through every stage.
    pub(super) fn rows<V>(launch: &Launch<'_>, rows: Range<usize>, columns: Range<usize>) {
        let kernel = launch.kernel;
        for stage in &kernel.stages {
            launch.fix(&stage.numbers);
            launch.fix(&stage.vectors);
        }
        for first in rows.clone().step_by(kernel.block) {
            let count = kernel.block.min(rows.end - first);
            for (at, stage) in kernel.stages.iter().enumerate() {
                // The numbers of the block, then its rows, by the same loops over strips.
                for turn in 0..=count {
                    let (code, range) = match turn {
                        0 => (&stage.numbers, 0..count),
                        _ => (&stage.vectors, columns.clone()),
                    };
                    if code.ops.is_empty() {
                        continue;
                    }
                    let mut asked = Asked::new();
                    if turn > 0 {
                        asked = launch.asked(at, first + turn - 1);
                        for &at in &code.moving {
                            launch.point(code, usize::from(at), first + turn - 1, turn - 1);
                        }
                        launch.clear(stage);
                    }
                    strips::<V>(launch, code, first, turn == 0, range, &asked);
                    if turn > 0 {
                        launch.finish::<V>(stage, turn - 1);
                    }
                }
            }
        }
        if kernel.results.iter().any(|result| result.streamed) {
            end_streams();
        }
    }
}

/// Runs a code over a range of columns, or of a block's numbers.
#[inline(always)]
fn strips<V: Lanes>(
    launch: &Launch<'_>,
    code: &Code,
    first: usize,
    numbers: bool,
    range: Range<usize>,
    asked: &[(*const u8, usize)],
) {
    let operands = launch.operands(code).cast_const();
    // Numbers fill whole vectors in scratch.
    let end = if numbers { range.end.next_multiple_of(LANES) } else { range.end };
    let mut window = Window { first, column: range.start, valid: 0, lanes: LANES };
    while window.column < end {
        let left = end - window.column;
        window.valid = range.end - window.column;
        let vectors = match left / LANES {
            8.. if V::STRIP == 8 => {
                strip::<V, 8>(launch, &code.ops, operands, window);
                8
            }
            4.. if V::STRIP >= 4 => {
                strip::<V, 4>(launch, &code.ops, operands, window);
                4
            }
            2.. => {
                strip::<V, 2>(launch, &code.ops, operands, window);
                2
            }
            _ => {
                window.lanes = left.min(LANES);
                strip::<V, 1>(launch, &code.ops, operands, window);
                1
            }
        };
        for &(row, size) in asked {
            prefetch_later(row.wrapping_add(window.column * size), vectors * LANES * size);
        }
        window.column += vectors * LANES;
    }
}
