//! One task of a row kernel: blocks of rows through the stages.
//!
//! Safety of this file: a [`Launch`] comes from [`Prepared::run`](super::Prepared::run), whose
//! caller vouches for operands and results; loads were verified to stay inside their operands, and
//! segments checked against their tables. Slots lie one after the other in the worker's scratch,
//! and an action never writes the slot it reads. A result that is made where it belongs is written by
//! one action a stage, behind every load that may lie under it.

use super::super::math::lanes::{get, put};
use super::super::math::{Element, LANES, Lanes, gelu_tanh, silu, tanh, vectorised};
use super::{Action, Bound, Load, Place, Prepared, Source, Stage, Step, Stored};
use anyid_ir::DType;
use anyid_ir::kernel::{Columns, RowFn, RowMap, RowReduce};
use anyid_ir::op::{BinaryFn, CompareFn, UnaryFn};
use half::{bf16, f16};
use std::ops::Range;

/// Lanes of the sums of one reduction of a row.
pub(super) const SUMS: usize = 64;

/// What a task works on.
pub(super) struct Launch<'l> {
    pub kernel: &'l Prepared,
    pub bound: &'l Bound<'l>,
    /// The worker's scratch.
    pub memory: *mut f32,
}

/// Part of a block: rows of it, or its numbers as one row.
#[derive(Clone, Copy)]
struct Part {
    /// First row of the block in the kernel.
    first: usize,
    /// Rows, 1 for the numbers.
    rows: usize,
    /// First column.
    column: usize,
    /// Elements of a row.
    len: usize,
    /// Whether the numbers of the block are the row.
    numbers: bool,
}

#[derive(Clone, Copy)]
enum Span<'a> {
    Slice(&'a [f32]),
    Repeated(f32),
}

#[inline(always)]
fn lanes_of<V: Lanes>(span: Span<'_>, at: usize) -> V {
    match span {
        Span::Slice(data) => get(data, at),
        Span::Repeated(value) => V::splat(value),
    }
}

#[inline(always)]
fn one_of(span: Span<'_>, at: usize) -> f32 {
    match span {
        Span::Slice(data) => data[at],
        Span::Repeated(value) => value,
    }
}

impl Launch<'_> {
    fn vector(&self, slot: usize, row: usize) -> *mut f32 {
        let k = self.kernel;
        // SAFETY: slots lie inside the worker's scratch.
        unsafe { self.memory.add((slot * k.block + row) * k.pitch) }
    }

    fn scalar(&self, slot: usize) -> *mut f32 {
        let k = self.kernel;
        // SAFETY: as above.
        unsafe { self.memory.add(k.vectors * k.block * k.pitch + slot * k.block) }
    }

    fn sums(&self, slot: usize, row: usize) -> *mut f32 {
        let k = self.kernel;
        let before = k.vectors * k.block * k.pitch + k.scalars * k.block;
        // SAFETY: as above.
        unsafe { self.memory.add(before + (slot * k.block + row) * SUMS) }
    }

    /// First element of a load's row for row `row` of the kernel.
    fn place(&self, load: &Load, row: usize) -> usize {
        let index = match load.access.rows {
            RowMap::Fixed => 0,
            RowMap::Affine { divisor: 1, modulus: usize::MAX } => row,
            RowMap::Affine { divisor, modulus } => row / divisor % modulus,
            // SAFETY: segments are one `i32` a row (verified); none is negative (checked).
            RowMap::Segment(operand) => unsafe {
                *self.bound.operands[operand].cast::<i32>().add(row) as usize
            },
        };
        load.access.offset + index * load.access.stride
    }

    #[inline(always)]
    fn span(&self, source: Source, part: &Part, row: usize) -> Span<'_> {
        // SAFETY: see the head of the file.
        unsafe {
            match source {
                Source::Const(value) => Span::Repeated(value),
                Source::Scalar(slot) if part.numbers => {
                    Span::Slice(std::slice::from_raw_parts(self.scalar(slot), part.len))
                }
                Source::Scalar(slot) => Span::Repeated(*self.scalar(slot).add(row)),
                Source::Slot(slot) => {
                    Span::Slice(std::slice::from_raw_parts(self.vector(slot, row), part.len))
                }
                Source::Memory(load) => {
                    let load = &self.kernel.loads[load];
                    let base = self.bound.operands[load.access.operand].cast::<f32>();
                    let at = self.place(load, part.first + row) + part.column;
                    Span::Slice(std::slice::from_raw_parts(base.add(at), part.len))
                }
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    fn target(&self, to: Place, part: &Part, row: usize) -> &mut [f32] {
        let start = match to {
            Place::Slot(slot) if part.numbers => self.scalar(slot),
            Place::Slot(slot) => self.vector(slot, row),
            Place::Result(result) => {
                let stride = self.kernel.results[result].stride;
                let place = (part.first + row) * stride + part.column;
                // SAFETY: this row's columns of the result, which no other task touches.
                unsafe { self.bound.results[result].cast::<f32>().add(place) }
            }
        };
        // SAFETY: see the head of the file.
        unsafe { std::slice::from_raw_parts_mut(start, part.len) }
    }
}

macro_rules! each {
    ($l:ident, $p:ident, $to:expr, $v:ident; $($x:ident = $source:expr),+ => $result:expr) => {
        for row in 0..$p.rows {
            $(let $x = $l.span($source, $p, row);)+
            let out = $l.target($to, $p, row);
            for at in (0..out.len()).step_by(LANES) {
                $(let $x = lanes_of::<$v>($x, at);)+
                put::<$v, f32>(out, at, $result);
            }
        }
    };
}

macro_rules! each_one {
    ($l:ident, $p:ident, $to:expr; $($x:ident = $source:expr),+ => $result:expr) => {
        for row in 0..$p.rows {
            $(let $x = $l.span($source, $p, row);)+
            let out = $l.target($to, $p, row);
            for at in 0..out.len() {
                $(let $x = one_of($x, at);)+
                out[at] = $result;
            }
        }
    };
}

vectorised! {
    /// Runs `rows` and `columns` of a launch: blocks of rows through every stage.
    pub(super) fn rows<V>(launch: &Launch<'_>, rows: Range<usize>, columns: Range<usize>) {
        let kernel = launch.kernel;
        for first in rows.clone().step_by(kernel.block) {
            let count = kernel.block.min(rows.end - first);
            for stage in &kernel.stages {
                let numbers = Part { first, rows: 1, column: 0, len: count, numbers: true };
                for step in &stage.scalars {
                    act::<V>(launch, &numbers, step);
                }
                for (_, sums, _) in &stage.finished {
                    clear(launch, stage, *sums, count);
                }
                for column in columns.clone().step_by(kernel.chunk) {
                    let len = kernel.chunk.min(columns.end - column);
                    let part = Part { first, rows: count, column, len, numbers: false };
                    for step in &stage.vectors {
                        act::<V>(launch, &part, step);
                    }
                }
                for (f, sums, to) in &stage.finished {
                    finish::<V>(launch, *f, *sums, *to, count);
                }
            }
        }
    }
}

fn clear(launch: &Launch<'_>, stage: &Stage, sums: usize, rows: usize) {
    let of = |(_, s, _): &&(RowReduce, usize, usize)| *s == sums;
    let largest = stage.finished.iter().find(of).is_some_and(|(f, ..)| *f == RowReduce::Max);
    let start = if largest { f32::NEG_INFINITY } else { 0.0 };
    for row in 0..rows {
        // SAFETY: see the head of the file.
        unsafe { std::slice::from_raw_parts_mut(launch.sums(sums, row), SUMS) }.fill(start);
    }
}

/// Sums in one association: 64 lanes in turn, then halves.
#[inline(always)]
fn finish<V: Lanes>(launch: &Launch<'_>, f: RowReduce, sums: usize, to: usize, rows: usize) {
    let width = launch.kernel.width as f32;
    for row in 0..rows {
        // SAFETY: see the head of the file.
        let lanes = unsafe { std::slice::from_raw_parts(launch.sums(sums, row), SUMS) };
        let part = |at: usize| get::<V, f32>(lanes, at * LANES);
        let total = part(0).add(part(2)).add(part(1).add(part(3)));
        let value = match f {
            RowReduce::Sum | RowReduce::SumSquares => total.sum(),
            RowReduce::Mean | RowReduce::MeanSquares => total.sum() / width,
            // A largest element of 0 is +0.
            RowReduce::Max => part(0).largest() + 0.0,
        };
        // SAFETY: see the head of the file.
        unsafe { *launch.scalar(to).add(row) = value };
    }
}

#[inline(always)]
fn reduce<V: Lanes>(launch: &Launch<'_>, part: &Part, f: RowReduce, x: Source, to: Place) {
    let Place::Slot(to) = to else { unreachable!("sums have slots") };
    for row in 0..part.rows {
        let x = launch.span(x, part, row);
        // SAFETY: see the head of the file.
        let lanes = unsafe { std::slice::from_raw_parts_mut(launch.sums(to, row), SUMS) };
        let load = |at: usize| match x {
            Span::Slice(data) => get::<V, f32>(data, at),
            Span::Repeated(value) => V::splat(value),
        };
        if f == RowReduce::Max {
            let mut largest = get::<V, f32>(lanes, 0);
            let whole = part.len / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                let value = load(at);
                largest = largest.nan_or(value.nan_or(largest.max(value)));
            }
            if whole < part.len {
                let mut rest = [f32::NEG_INFINITY; LANES];
                rest[..part.len - whole].copy_from_slice(&load(whole).array()[..part.len - whole]);
                let value = get::<V, f32>(&rest, 0);
                largest = largest.nan_or(value.nan_or(largest.max(value)));
            }
            put(lanes, 0, largest);
            continue;
        }
        let squares = matches!(f, RowReduce::SumSquares | RowReduce::MeanSquares);
        let mut sums: [V; 4] = std::array::from_fn(|at| get::<V, f32>(lanes, at * LANES));
        for at in (0..part.len).step_by(4 * LANES) {
            for each in 0..4 {
                if at + each * LANES < part.len {
                    let value = load(at + each * LANES);
                    sums[each] =
                        if squares { value.fma(value, sums[each]) } else { sums[each].add(value) };
                }
            }
        }
        for (at, sum) in sums.into_iter().enumerate() {
            put(lanes, at * LANES, sum);
        }
    }
}

#[inline(always)]
fn act<V: Lanes>(l: &Launch<'_>, p: &Part, step: &Step) {
    let to = step.to;
    match step.action {
        Action::Load(load) => copy::<V>(l, p, load, to),
        Action::Unary(f, x) => unary::<V>(l, p, f, x, to),
        Action::Binary(f, a, b) => match f {
            BinaryFn::Add => each!(l, p, to, V; a = a, b = b => a.add(b)),
            BinaryFn::Sub => each!(l, p, to, V; a = a, b = b => a.sub(b)),
            BinaryFn::Mul => each!(l, p, to, V; a = a, b = b => a.mul(b)),
            BinaryFn::Div => each!(l, p, to, V; a = a, b = b => a.div(b)),
            BinaryFn::Max => each!(l, p, to, V; a = a, b = b => a.nan_or(a.max(b))),
            BinaryFn::Min => each!(l, p, to, V; a = a, b = b => a.nan_or(a.min(b))),
        },
        Action::Fma(a, b, c) => each!(l, p, to, V; a = a, b = b, c = c => a.fma(b, c)),
        Action::Compare(f, a, b) => {
            each_one!(l, p, to; a = a, b = b => f32::from(u8::from(match f {
                CompareFn::Eq => a == b,
                CompareFn::Lt => a < b,
                CompareFn::Le => a <= b,
                CompareFn::Gt => a > b,
                CompareFn::Ge => a >= b,
            })))
        }
        Action::Select(c, a, b) => {
            each_one!(l, p, to; c = c, a = a, b = b => if c != 0.0 { a } else { b })
        }
        Action::Rotate(x, angles) => {
            each!(l, p, to, V; x = x, angles = angles => {
                x.fma(angles.even(), x.swap_pairs().mul(angles.odd().neg_even()))
            })
        }
        Action::Round(DType::Bf16, x) => each!(l, p, to, V; x = x => x.round_bf16()),
        Action::Round(DType::F16, x) => {
            each_one!(l, p, to; x = x => f16::from_f32(x).to_f32())
        }
        Action::Round(_, x) => each!(l, p, to, V; x = x => x),
        Action::Reduce(f, x) => reduce::<V>(l, p, f, x, to),
        Action::Store(result, x) => store::<V>(l, p, result, x),
    }
}

#[inline(always)]
fn unary<V: Lanes>(l: &Launch<'_>, p: &Part, f: RowFn, x: Source, to: Place) {
    let f = match f {
        RowFn::Gelu => return each!(l, p, to, V; x = x => gelu_tanh(x)),
        RowFn::Silu => return each!(l, p, to, V; x = x => silu(x)),
        RowFn::Primitive(f) => f,
    };
    // These go through f64.
    let precise = |f: fn(f64) -> f64| {
        each_one!(l, p, to; x = x => f(f64::from(x)) as f32);
    };
    match f {
        UnaryFn::Neg => each!(l, p, to, V; x = x => x.neg()),
        UnaryFn::Abs => each!(l, p, to, V; x = x => x.abs()),
        UnaryFn::Sqrt => each!(l, p, to, V; x = x => x.sqrt()),
        UnaryFn::Rsqrt => each!(l, p, to, V; x = x => V::splat(1.0).div(x.sqrt())),
        UnaryFn::Recip => each!(l, p, to, V; x = x => V::splat(1.0).div(x)),
        UnaryFn::Tanh => each!(l, p, to, V; x = x => tanh(x)),
        UnaryFn::Exp => precise(f64::exp),
        UnaryFn::Log => precise(f64::ln),
        UnaryFn::Sin => precise(f64::sin),
        UnaryFn::Cos => precise(f64::cos),
        UnaryFn::Floor => precise(f64::floor),
        UnaryFn::Erf => precise(anyid_ir::erf),
    }
}

#[inline(always)]
fn copy<V: Lanes>(l: &Launch<'_>, p: &Part, load: usize, to: Place) {
    let load = &l.kernel.loads[load];
    match load.dtype {
        DType::F32 => copy_from::<V, f32>(l, p, load, to),
        DType::Bf16 => copy_from::<V, bf16>(l, p, load, to),
        DType::F16 => copy_from::<V, f16>(l, p, load, to),
        _ => {
            let base = l.bound.operands[load.access.operand];
            // SAFETY: see the head of the file.
            let truth = |at: usize| f32::from(u8::from(unsafe { *base.add(at) } != 0));
            if p.numbers {
                for (row, out) in l.target(to, p, 0).iter_mut().enumerate() {
                    *out = truth(l.place(load, p.first + row));
                }
                return;
            }
            for row in 0..p.rows {
                let start = l.place(load, p.first + row);
                for (at, out) in l.target(to, p, row).iter_mut().enumerate() {
                    *out = truth(start + column_of(load, p.column + at));
                }
            }
        }
    }
}

fn column_of(load: &Load, column: usize) -> usize {
    match load.access.columns {
        Columns::All => column,
        Columns::One => 0,
        Columns::Every(period) => column % period,
        Columns::Step(_) => unreachable!("verified: not in f32"),
    }
}

#[inline(always)]
fn copy_from<V: Lanes, E: Element>(l: &Launch<'_>, p: &Part, load: &Load, to: Place) {
    let base = l.bound.operands[load.access.operand].cast::<E>();
    if p.numbers {
        for (row, out) in l.target(to, p, 0).iter_mut().enumerate() {
            // SAFETY: see the head of the file.
            *out = unsafe { *base.add(l.place(load, p.first + row)) }.to_f32();
        }
        return;
    }
    for row in 0..p.rows {
        let start = l.place(load, p.first + row);
        let out = l.target(to, p, row);
        let mut done = 0;
        while done < out.len() {
            let column = column_of(load, p.column + done);
            let run = match load.access.columns {
                Columns::Every(period) => (period - column).min(out.len() - done),
                _ => out.len() - done,
            };
            // SAFETY: see the head of the file.
            let from = unsafe { std::slice::from_raw_parts(base.add(start + column), run) };
            let into = &mut out[done..done + run];
            for at in (0..run).step_by(LANES) {
                put::<V, f32>(into, at, get::<V, E>(from, at));
            }
            done += run;
        }
    }
}

#[inline(always)]
fn store<V: Lanes>(l: &Launch<'_>, p: &Part, result: usize, x: Source) {
    match l.kernel.results[result].dtype {
        DType::F32 => store_to::<V, f32>(l, p, result, x),
        DType::Bf16 => store_to::<V, bf16>(l, p, result, x),
        DType::F16 => store_to::<V, f16>(l, p, result, x),
        _ => {
            let Stored { width, stride, .. } = l.kernel.results[result];
            for row in 0..p.rows {
                let x = l.span(x, p, row);
                // The one element of a row is written with its first columns only: the others
                // may be another task's.
                let len = if width == 1 { usize::from(p.column == 0) } else { p.len };
                for at in 0..len {
                    let place =
                        (p.first + row) * stride + if width == 1 { 0 } else { p.column + at };
                    // SAFETY: see the head of the file.
                    unsafe { *l.bound.results[result].add(place) = u8::from(one_of(x, at) != 0.0) };
                }
            }
        }
    }
}

#[inline(always)]
fn store_to<V: Lanes, E: Element>(l: &Launch<'_>, p: &Part, result: usize, x: Source) {
    let Stored { width, stride, .. } = l.kernel.results[result];
    let base = l.bound.results[result].cast::<E>();
    for row in 0..p.rows {
        let x = l.span(x, p, row);
        let start = (p.first + row) * stride;
        if width == 1 {
            // With its first columns only: the others may be another task's.
            if p.column == 0 {
                // SAFETY: one element for this row; see the head of the file.
                unsafe { *base.add(start) = E::from_f32(one_of(x, 0)) };
            }
            continue;
        }
        // SAFETY: this row's columns of the result, which no other task touches.
        let out = unsafe { std::slice::from_raw_parts_mut(base.add(start + p.column), p.len) };
        for at in (0..out.len()).step_by(LANES) {
            put::<V, E>(out, at, lanes_of::<V>(x, at));
        }
    }
}
