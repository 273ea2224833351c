//! The accumulator machine: a code over one strip of a row.
//!
//! The accumulator is an array of `U` vectors, touched by constant indices only, so that it lives in
//! registers across the operations. What is rare works on a copy in memory, out of line.

use super::super::math::{Element, LANES, Lanes, gelu_tanh, silu, tanh};
use super::run::{Launch, SUMS};
use super::{Arg, Op};
use anyid_ir::DType;
use anyid_ir::kernel::{RowFn, RowReduce};
use anyid_ir::op::{BinaryFn, CompareFn, UnaryFn};
use half::{bf16, f16};

/// Where an operand lies.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub base: *mut u8,
    /// Elements from one vector to the next: sixteen, or 0 where one vector is all.
    pub step: usize,
    /// All bits where columns count from the base, none where each strip begins there.
    pub columns: usize,
}

/// Which part of a row.
#[derive(Clone, Copy)]
pub(super) struct Window {
    /// First row of the block.
    pub first: usize,
    /// First column.
    pub column: usize,
    /// Elements from there that are the row's.
    pub valid: usize,
    /// Elements of a vector; fewer than all in the last of a row.
    pub lanes: usize,
}

/// An operand in a strip.
#[derive(Clone, Copy)]
struct View<E> {
    at: *mut E,
    step: usize,
    lanes: usize,
}

impl<E: Element> View<E> {
    /// Vector `index`; lanes past the end of the row are 0.
    #[inline(always)]
    fn get<V: Lanes, const U: usize>(&self, index: usize) -> V {
        // SAFETY: the vector lies inside its row, or its first `lanes` elements do; see `run`.
        unsafe {
            let at = self.at.add(index * self.step);
            if U > 1 || self.lanes == LANES {
                return E::load(at);
            }
            let mut part = [E::zeroed(); LANES];
            std::ptr::copy_nonoverlapping(at, part.as_mut_ptr(), self.lanes);
            E::load(part.as_ptr())
        }
    }

    #[inline(always)]
    fn put<V: Lanes, const U: usize>(&self, index: usize, value: V) {
        // SAFETY: as above; the row is the task's own.
        unsafe {
            let at = self.at.add(index * self.step);
            if U > 1 || self.lanes == LANES {
                return E::store(value, at);
            }
            let mut part = [E::zeroed(); LANES];
            E::store(value, part.as_mut_ptr());
            std::ptr::copy_nonoverlapping(part.as_ptr(), at, self.lanes);
        }
    }
}

/// The operands of a code in a strip.
#[derive(Clone, Copy)]
struct Views {
    operands: *const Operand,
    window: Window,
}

impl Views {
    #[inline(always)]
    fn row<E>(self, arg: Arg) -> View<E> {
        // SAFETY: the code names operands of its own table, whose rows hold the window.
        unsafe {
            let Operand { base, step, columns } = *self.operands.add(usize::from(arg));
            let at = base.cast::<E>().add(self.window.column & columns);
            View { at, step, lanes: self.window.lanes }
        }
    }

    /// A row that repeats after `period` elements, where the strip lies within one period.
    #[inline(always)]
    fn within<E>(self, arg: Arg, period: usize, count: usize) -> Option<View<E>> {
        let start = self.window.column % period;
        // SAFETY: as above; the row begins at the base.
        let at = unsafe { (*self.operands.add(usize::from(arg))).base.cast::<E>().add(start) };
        (start + count <= period).then_some(View { at, step: LANES, lanes: self.window.lanes })
    }
}

/// `$body` for `$i` = 0, 1 .. below `U`, each a constant.
macro_rules! each {
    ($i:ident => $body:expr) => {
        each!(@ $i => $body; 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident => $body:expr; $($index:literal)*) => {{
        $(if $index < U {
            let $i = $index;
            $body;
        })*
    }};
}

/// Runs `code` over `U` vectors, at most eight.
#[inline(always)]
pub(super) fn strip<V: Lanes, const U: usize>(
    launch: &Launch<'_>,
    code: &[Op],
    operands: *const Operand,
    window: Window,
) {
    let views = Views { operands, window };
    let mut acc = [V::splat(0.0); U];
    // acc = an expression of acc and operands, vector by vector.
    macro_rules! set {
        ($x:ident $(, $y:ident = $arg:expr)* => $value:expr) => {{
            $(let $y = views.row::<f32>($arg);)*
            each!(i => {
                $(let $y = $y.get::<V, U>(i);)*
                let $x = acc[i];
                acc[i] = $value;
            })
        }};
    }
    macro_rules! load {
        ($view:expr) => {{
            let view = $view;
            each!(i => acc[i] = view.get::<V, U>(i))
        }};
    }
    // acc as elements in memory, for a function out of line.
    macro_rules! apart {
        ($acc:ident => $work:expr) => {{
            let mut kept = [[0f32; LANES]; U];
            // SAFETY: the arrays have sixteen places.
            each!(i => unsafe { acc[i].store(kept[i].as_mut_ptr()) });
            let $acc = kept.as_flattened_mut();
            $work;
            // SAFETY: as above.
            each!(i => acc[i] = unsafe { V::load(kept[i].as_ptr()) });
        }};
    }
    let count = if U == 1 { window.lanes } else { U * LANES };
    for op in code {
        match *op {
            Op::Take(arg) => set!(_x, y = arg => y),
            Op::Keep(arg) => {
                let to = views.row::<f32>(arg);
                // SAFETY: slots and numbers are whole vectors; see `run`.
                each!(i => unsafe { acc[i].store(to.at.add(i * LANES)) })
            }
            Op::Left(f, arg) => match f {
                BinaryFn::Add => set!(x, y = arg => x.add(y)),
                BinaryFn::Sub => set!(x, y = arg => x.sub(y)),
                BinaryFn::Mul => set!(x, y = arg => x.mul(y)),
                BinaryFn::Div => set!(x, y = arg => x.div(y)),
                BinaryFn::Max => set!(x, y = arg => x.nan_or(x.max(y))),
                BinaryFn::Min => set!(x, y = arg => x.nan_or(x.min(y))),
            },
            Op::Right(f, arg) => match f {
                BinaryFn::Add => set!(x, y = arg => y.add(x)),
                BinaryFn::Sub => set!(x, y = arg => y.sub(x)),
                BinaryFn::Mul => set!(x, y = arg => y.mul(x)),
                BinaryFn::Div => set!(x, y = arg => y.div(x)),
                BinaryFn::Max => set!(x, y = arg => y.nan_or(y.max(x))),
                BinaryFn::Min => set!(x, y = arg => y.nan_or(y.min(x))),
            },
            Op::Multiply(b, c) => set!(x, b = b, c = c => x.fma(b, c)),
            Op::Multiplied(a, c) => set!(x, a = a, c = c => a.fma(x, c)),
            Op::Accumulate(a, b) => set!(x, a = a, b = b => a.fma(b, x)),
            Op::Rotate(arg) => set!(x, angles = arg => {
                x.fma(angles.even(), x.swap_pairs().mul(angles.odd().neg_even()))
            }),
            Op::Load(dtype, arg) => match dtype {
                DType::Bf16 => load!(views.row::<bf16>(arg)),
                DType::F16 => load!(views.row::<f16>(arg)),
                _ => apart!(acc => repeat(acc, views, arg, usize::MAX, count, truth)),
            },
            Op::Every(dtype, arg, period) => match dtype {
                DType::F32 => match views.within::<f32>(arg, period, count) {
                    Some(view) => load!(view),
                    None => apart!(acc => repeat(acc, views, arg, period, count, f32::to_f32)),
                },
                DType::Bf16 => match views.within::<bf16>(arg, period, count) {
                    Some(view) => load!(view),
                    None => apart!(acc => repeat(acc, views, arg, period, count, bf16::to_f32)),
                },
                DType::F16 => apart!(acc => repeat(acc, views, arg, period, count, f16::to_f32)),
                _ => apart!(acc => repeat(acc, views, arg, period, count, truth)),
            },
            Op::Numbers(load) => apart!(acc => numbers(acc, launch, load, window)),
            Op::Unary(f) => match f {
                RowFn::Gelu => set!(x => gelu_tanh(x)),
                RowFn::Silu => set!(x => silu(x)),
                RowFn::Primitive(f) => match f {
                    UnaryFn::Neg => set!(x => x.neg()),
                    UnaryFn::Abs => set!(x => x.abs()),
                    UnaryFn::Sqrt => set!(x => x.sqrt()),
                    UnaryFn::Rsqrt => set!(x => V::splat(1.0).div(x.sqrt())),
                    UnaryFn::Recip => set!(x => V::splat(1.0).div(x)),
                    UnaryFn::Tanh => set!(x => tanh(x)),
                    _ => apart!(acc => precise(acc, f, window.valid)),
                },
            },
            Op::Compare(f, arg) => {
                let (one, zero) = (V::splat(1.0), V::splat(0.0));
                match f {
                    CompareFn::Eq => set!(x, y = arg => x.select_equal(y, one, zero)),
                    CompareFn::Lt => set!(x, y = arg => x.select_less(y, one, zero)),
                    CompareFn::Gt => set!(x, y = arg => y.select_less(x, one, zero)),
                    CompareFn::Le => set!(x, y = arg => {
                        x.select_less(y, one, x.select_equal(y, one, zero))
                    }),
                    CompareFn::Ge => set!(x, y = arg => {
                        y.select_less(x, one, x.select_equal(y, one, zero))
                    }),
                }
            }
            Op::Select(a, b) => {
                set!(x, yes = a, no = b => x.select_equal(V::splat(0.0), no, yes))
            }
            Op::Round(dtype) => match dtype {
                DType::Bf16 => set!(x => x.round_bf16()),
                DType::F16 => apart!(acc => round_f16(acc)),
                _ => {}
            },
            Op::Reduce(f, sums) => reduce(launch.sums(sums), f, acc, window),
            Op::Stream(DType::F32, arg) => stream::<V, f32, U>(&views.row(arg), acc),
            Op::Stream(DType::Bf16, arg) => stream::<V, bf16, U>(&views.row(arg), acc),
            Op::Store(dtype, arg) | Op::Stream(dtype, arg) => match dtype {
                DType::F32 => store::<V, f32, U>(&views.row(arg), acc),
                DType::Bf16 => store::<V, bf16, U>(&views.row(arg), acc),
                DType::F16 => store::<V, f16, U>(&views.row(arg), acc),
                _ => apart!(acc => store_truths(acc, views.row(arg), count)),
            },
            // With its first columns only: the others may be another task's.
            Op::StoreOne(dtype, arg) => {
                if window.column == 0 {
                    store_one(acc[0].array()[0], dtype, views.row::<u8>(arg).at);
                }
            }
        }
    }
}

#[inline(always)]
fn store<V: Lanes, E: Element, const U: usize>(to: &View<E>, acc: [V; U]) {
    each!(i => to.put::<V, U>(i, acc[i]))
}

/// Stores whole vectors past the caches; a row that does not begin with a vector, as any other.
#[inline(always)]
fn stream<V: Lanes, E: Element, const U: usize>(to: &View<E>, acc: [V; U]) {
    if U == 1 || to.at.align_offset(LANES * size_of::<E>()) != 0 {
        return store(to, acc);
    }
    // SAFETY: as in `View::put`, of a strip of whole vectors.
    each!(i => unsafe { E::stream(acc[i], to.at.add(i * to.step)) })
}

/// Adds a strip to the sums of a reduction: column `c` to lane `c` modulo 64. Lanes past the end of the
/// row count nothing.
#[inline(always)]
fn reduce<V: Lanes, const U: usize>(sums: *mut f32, f: RowReduce, mut acc: [V; U], window: Window) {
    if U == 1 && window.lanes < LANES {
        let nothing = if f == RowReduce::Max { f32::NEG_INFINITY } else { 0.0 };
        let mut lanes = acc[0].array();
        lanes[window.lanes..].fill(nothing);
        // SAFETY: the array has sixteen places.
        acc[0] = unsafe { V::load(lanes.as_ptr()) };
    }
    // Sums of the lanes that vector `$i` falls on, which are those of vector `$i + 4` too.
    macro_rules! sum {
        ($value:ident, $sum:ident => $next:expr) => {
            each!(i => if i < 4 {
                // SAFETY: sixteen of the sixty-four sums.
                let at = unsafe { sums.add((window.column + i * LANES) % SUMS) };
                // SAFETY: as above.
                let $sum = unsafe { V::load(at) };
                let $value = acc[i];
                let mut $sum = $next;
                if i + 4 < U {
                    let $value = acc[i + 4];
                    $sum = $next;
                }
                // SAFETY: as above.
                unsafe { $sum.store(at) };
            })
        };
    }
    match f {
        RowReduce::Max => {
            // SAFETY: see `run`.
            let mut largest = unsafe { V::load(sums) };
            each!(i => {
                let value = acc[i];
                largest = largest.nan_or(value.nan_or(largest.max(value)));
            });
            // SAFETY: as above.
            unsafe { largest.store(sums) };
        }
        RowReduce::Sum | RowReduce::Mean => sum!(value, sum => sum.add(value)),
        RowReduce::SumSquares | RowReduce::MeanSquares => sum!(value, sum => value.fma(value, sum)),
    }
}

#[inline(never)]
fn round_f16(acc: &mut [f32]) {
    for value in acc {
        *value = f16::from_f32(*value).to_f32();
    }
}

/// The functions that go through `f64`, on the first `valid` elements.
#[inline(never)]
fn precise(acc: &mut [f32], f: UnaryFn, valid: usize) {
    let f: fn(f64) -> f64 = match f {
        UnaryFn::Exp => f64::exp,
        UnaryFn::Log => f64::ln,
        UnaryFn::Sin => f64::sin,
        UnaryFn::Cos => f64::cos,
        UnaryFn::Floor => f64::floor,
        UnaryFn::Erf => anyid_ir::erf,
        _ => unreachable!("vector code"),
    };
    for value in acc.iter_mut().take(valid) {
        *value = f(f64::from(*value)) as f32;
    }
}

fn truth(value: u8) -> f32 {
    f32::from(u8::from(value != 0))
}

#[inline(never)]
fn store_truths(acc: &[f32], row: View<u8>, count: usize) {
    for (at, value) in acc.iter().take(count).enumerate() {
        // SAFETY: the element lies in the task's row.
        unsafe { *row.at.add(at) = u8::from(*value != 0.0) };
    }
}

#[inline(never)]
pub(super) fn store_one(value: f32, dtype: DType, to: *mut u8) {
    // SAFETY: the one element of this row.
    unsafe {
        match dtype {
            DType::F32 => *to.cast() = value,
            DType::Bf16 => *to.cast() = bf16::from_f32(value),
            DType::F16 => *to.cast() = f16::from_f32(value),
            _ => *to = u8::from(value != 0.0),
        }
    }
}

/// A row that repeats after `period` elements, one element after the other.
#[inline(never)]
fn repeat<E: Copy>(
    acc: &mut [f32],
    views: Views,
    arg: Arg,
    period: usize,
    count: usize,
    to_f32: fn(E) -> f32,
) {
    // SAFETY: as in `Views::row`; the row begins at the base.
    let base = unsafe { (*views.operands.add(usize::from(arg))).base.cast::<E>() };
    let mut column = views.window.column % period;
    for value in acc.iter_mut().take(count) {
        // SAFETY: the element lies in the row.
        *value = to_f32(unsafe { *base.add(column) });
        column = if column + 1 == period { 0 } else { column + 1 };
    }
}

#[inline(never)]
fn numbers(acc: &mut [f32], launch: &Launch<'_>, load: usize, window: Window) {
    for (at, value) in acc.iter_mut().take(window.valid).enumerate() {
        *value = launch.number(load, window.first + window.column + at);
    }
}
