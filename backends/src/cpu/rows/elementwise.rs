//! Element-wise maps: one operand, two operands with broadcasting, and conversions of type.
//!
//! Contract: computed in `f32`, rounded once. exp, log, sin, cos and pow go through `f64`, so that
//! tables of constants made with them are correctly rounded (the time embedding moves by 1.5e-5 for
//! one unit in exp); the maps that run over activations are vector code. max, min and clamp hand NaN
//! on.

use super::super::math::lanes::{get, put};
use super::super::math::{Element, LANES, Lanes, gelu_tanh, silu, tanh, vectorised};
use super::super::simd::Level;
use super::super::threads::{Pool, SharedPtr};
use super::{TASK, each_chunk};

/// A map of one operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// −x.
    Neg,
    /// |x|.
    Abs,
    /// e^x, correctly rounded.
    Exp,
    /// Natural logarithm, correctly rounded.
    Log,
    /// √x.
    Sqrt,
    /// 1/√x.
    Rsqrt,
    /// 1/x.
    Recip,
    /// x².
    Square,
    /// tanh.
    Tanh,
    /// Sine, correctly rounded.
    Sin,
    /// Cosine, correctly rounded.
    Cos,
    /// x·σ(x).
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
    /// min(max(x, low), high).
    Clamp {
        /// Lower bound.
        low: f32,
        /// Upper bound, not below `low`.
        high: f32,
    },
    /// x unchanged: a conversion of type.
    Copy,
}

/// A map of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// a + b.
    Add,
    /// a − b.
    Sub,
    /// a·b.
    Mul,
    /// a / b.
    Div,
    /// The larger; NaN if either is.
    Max,
    /// The smaller; NaN if either is.
    Min,
    /// a^b, correctly rounded.
    Pow,
}

#[inline(always)]
fn larger<V: Lanes>(a: V, b: V) -> V {
    a.nan_or(a.max(b))
}

#[inline(always)]
fn smaller<V: Lanes>(a: V, b: V) -> V {
    a.nan_or(a.min(b))
}

macro_rules! map {
    ($x:ident, $y:ident, $v:ident, $value:ident => $result:expr) => {
        for at in (0..$y.len()).step_by(LANES) {
            let $value = get::<$v, _>($x, at);
            put::<$v, _>($y, at, $result);
        }
    };
}

vectorised! {
    fn unary_part<V, I: Element, O: Element>(op: Unary, x: &[I], y: &mut [O]) {
        match op {
            Unary::Neg => map!(x, y, V, value => value.neg()),
            Unary::Abs => map!(x, y, V, value => value.abs()),
            Unary::Exp => precise(x, y, f64::exp),
            Unary::Log => precise(x, y, f64::ln),
            Unary::Sin => precise(x, y, f64::sin),
            Unary::Cos => precise(x, y, f64::cos),
            Unary::Sqrt => map!(x, y, V, value => value.sqrt()),
            Unary::Rsqrt => map!(x, y, V, value => V::splat(1.0).div(value.sqrt())),
            Unary::Recip => map!(x, y, V, value => V::splat(1.0).div(value)),
            Unary::Square => map!(x, y, V, value => value.mul(value)),
            Unary::Tanh => map!(x, y, V, value => tanh(value)),
            Unary::Silu => map!(x, y, V, value => silu(value)),
            Unary::GeluTanh => map!(x, y, V, value => gelu_tanh(value)),
            Unary::Clamp { low, high } => {
                let (low, high) = (V::splat(low), V::splat(high));
                map!(x, y, V, value => high.min(low.max(value)));
            }
            Unary::Copy => map!(x, y, V, value => value),
        }
    }
}

fn precise<I: Element, O: Element>(x: &[I], y: &mut [O], f: fn(f64) -> f64) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = O::from_f32(f(f64::from(x.to_f32())) as f32);
    }
}

/// y = op(x), element by element.
///
/// # Panics
/// When the lengths differ.
pub fn unary<I: Element, O: Element>(pool: &Pool, level: Level, op: Unary, x: &[I], y: &mut [O]) {
    assert_eq!(x.len(), y.len(), "input and output have one length");
    each_chunk(pool, y, TASK, &|first, y| {
        unary_part(level, op, &x[first..first + y.len()], y);
    });
}

/// Conversion of type, to nearest even.
///
/// # Panics
/// When the lengths differ.
pub fn cast<I: Element, O: Element>(pool: &Pool, level: Level, x: &[I], y: &mut [O]) {
    unary(pool, level, Unary::Copy, x, y);
}

/// An operand with a stride per axis of the result; 0 repeats it along that axis.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a, E> {
    /// The elements.
    pub data: &'a [E],
    /// Elements from one index to the next, for every axis of the result.
    pub strides: &'a [usize],
}

/// Part of an operand along the last axis.
#[derive(Clone, Copy)]
enum Span<'a, E> {
    Slice(&'a [E]),
    Repeated(f32),
}

#[inline(always)]
fn span_lanes<V: Lanes, E: Element>(span: Span<'_, E>, at: usize) -> V {
    match span {
        Span::Slice(data) => get(data, at),
        Span::Repeated(value) => V::splat(value),
    }
}

macro_rules! zip {
    ($a:ident, $b:ident, $y:ident, $v:ident, $x:ident, $z:ident => $result:expr) => {
        for at in (0..$y.len()).step_by(LANES) {
            let $x = span_lanes::<$v, _>($a, at);
            let $z = span_lanes::<$v, _>($b, at);
            put::<$v, _>($y, at, $result);
        }
    };
}

vectorised! {
    fn binary_part<V, A: Element, B: Element, O: Element>(
        op: Binary, a: Span<'_, A>, b: Span<'_, B>, y: &mut [O]
    ) {
        match op {
            Binary::Add => zip!(a, b, y, V, a, b => a.add(b)),
            Binary::Sub => zip!(a, b, y, V, a, b => a.sub(b)),
            Binary::Mul => zip!(a, b, y, V, a, b => a.mul(b)),
            Binary::Div => zip!(a, b, y, V, a, b => a.div(b)),
            Binary::Max => zip!(a, b, y, V, a, b => larger(a, b)),
            Binary::Min => zip!(a, b, y, V, a, b => smaller(a, b)),
            Binary::Pow => {
                for at in 0..y.len() {
                    let (a, b) = (f64::from(scalar(a, at)), f64::from(scalar(b, at)));
                    y[at] = O::from_f32(a.powf(b) as f32);
                }
            }
        }
    }
}

fn scalar<E: Element>(span: Span<'_, E>, at: usize) -> f32 {
    match span {
        Span::Slice(data) => data[at].to_f32(),
        Span::Repeated(value) => value,
    }
}

/// Most axes of a result.
pub const MOST_AXES: usize = 8;

/// Result axes with the strides of two operands, neighbours merged where memory allows.
#[derive(Clone, Copy)]
struct Axes {
    rank: usize,
    sizes: [usize; MOST_AXES],
    a: [usize; MOST_AXES],
    b: [usize; MOST_AXES],
}

impl Axes {
    fn merged(sizes: &[usize], a: &[usize], b: &[usize]) -> Self {
        assert!(sizes.len() <= MOST_AXES, "at most {MOST_AXES} axes");
        assert!(a.len() == sizes.len() && b.len() == sizes.len(), "one stride per axis");
        let mut axes =
            Self { rank: 0, sizes: [1; MOST_AXES], a: [0; MOST_AXES], b: [0; MOST_AXES] };
        for (axis, &size) in sizes.iter().enumerate().filter(|(_, size)| **size != 1) {
            if axes.rank > 0 {
                let last = axes.rank - 1;
                if axes.a[last] == a[axis] * size && axes.b[last] == b[axis] * size {
                    axes.sizes[last] *= size;
                    (axes.a[last], axes.b[last]) = (a[axis], b[axis]);
                    continue;
                }
            }
            (axes.sizes[axes.rank], axes.a[axes.rank], axes.b[axes.rank]) =
                (size, a[axis], b[axis]);
            axes.rank += 1;
        }
        axes.rank = axes.rank.max(1);
        axes
    }

    /// Offsets of the operands at outer index number `index` (all axes but the last).
    fn offsets(&self, mut index: usize) -> (usize, usize) {
        let (mut a, mut b) = (0, 0);
        for axis in (0..self.rank - 1).rev() {
            let at = index % self.sizes[axis];
            index /= self.sizes[axis];
            a += at * self.a[axis];
            b += at * self.b[axis];
        }
        (a, b)
    }
}

/// Elements of an operand with a stride of its own that are gathered at a time.
const GATHER: usize = 256;

fn check_operand<E>(name: &str, operand: &Strided<'_, E>, sizes: &[usize]) {
    assert_eq!(operand.strides.len(), sizes.len(), "{name}: one stride per axis");
    let last: usize = sizes.iter().zip(operand.strides).map(|(n, stride)| (n - 1) * stride).sum();
    assert!(
        last < operand.data.len(),
        "{name}: {} elements, {} needed",
        operand.data.len(),
        last + 1
    );
}

/// `y[i] = op(a[i], b[i])` for every index i of an array of `sizes` (up to 8 axes), where each
/// operand lies by its own strides; `y` is dense. A scalar has strides 0, a row vector 0 on all
/// axes but the last.
///
/// # Panics
/// When `y` has another size or an operand is too short for its strides.
pub fn binary<A: Element, B: Element, O: Element>(
    pool: &Pool,
    level: Level,
    op: Binary,
    sizes: &[usize],
    a: Strided<'_, A>,
    b: Strided<'_, B>,
    y: &mut [O],
) {
    assert_eq!(y.len(), sizes.iter().product::<usize>(), "output size");
    if y.is_empty() {
        return;
    }
    check_operand("first operand", &a, sizes);
    check_operand("second operand", &b, sizes);
    let axes = Axes::merged(sizes, a.strides, b.strides);
    let last = axes.rank - 1;
    let (inner, a_step, b_step) = (axes.sizes[last], axes.a[last], axes.b[last]);
    let part = if a_step > 1 || b_step > 1 { GATHER } else { TASK };
    let parts = inner.div_ceil(part);
    let units = y.len() / inner * parts;
    let group = (TASK / inner.min(part)).max(1);
    let base = SharedPtr::new(y.as_mut_ptr());
    pool.run(units.div_ceil(group), &|task, _| {
        for unit in task * group..units.min((task + 1) * group) {
            let (outer, from) = (unit / parts, unit % parts * part);
            let count = part.min(inner - from);
            let (a_at, b_at) = axes.offsets(outer);
            // SAFETY: units cover disjoint parts of the output.
            let y = unsafe {
                std::slice::from_raw_parts_mut(base.get().add(outer * inner + from), count)
            };
            let (mut a_held, mut b_held) = ([A::zeroed(); GATHER], [B::zeroed(); GATHER]);
            let a = span(a.data, a_at + from * a_step, a_step, count, &mut a_held);
            let b = span(b.data, b_at + from * b_step, b_step, count, &mut b_held);
            binary_part(level, op, a, b, y);
        }
    });
}

fn span<'a, E: Element>(
    data: &'a [E],
    at: usize,
    step: usize,
    count: usize,
    held: &'a mut [E; GATHER],
) -> Span<'a, E> {
    match step {
        0 => Span::Repeated(data[at].to_f32()),
        1 => Span::Slice(&data[at..at + count]),
        _ => {
            for (place, index) in held[..count].iter_mut().zip(0..) {
                *place = data[at + index * step];
            }
            Span::Slice(&held[..count])
        }
    }
}

#[cfg(test)]
mod tests;
