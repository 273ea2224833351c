//! The primitives on vectors of doubles.
//!
//! Integer arithmetic saturates at the bounds of its type, and division by zero gives 0 for
//! integers. `max`, `min` and `reduce_max` give a NaN if any element is one. Sums over no elements
//! are 0, means NaN, maxima −∞ (each rounded to the element type).

use super::Mode;
use super::dot::dot;
use super::error::{EvalError, broken, outside_table};
use super::walk::{Walk, repeated};
use crate::infer::sides;
use crate::op::{BinaryFn, CompareFn, Op, ReduceFn, UnaryFn};
use crate::types::{DType, Shape, TensorType, strides};
use std::rc::Rc;

/// Elements of a value, shared between values that only differ in shape.
pub(super) type Data = Rc<Vec<f64>>;

/// An operand: its type and elements.
pub(super) type Operand<'o> = (&'o TensorType, &'o Data);

/// The result of a primitive of type `ty`, rounded as `mode` says.
pub(super) fn primitive(
    op: &Op,
    operands: &[Operand<'_>],
    ty: &TensorType,
    mode: Mode,
) -> Result<Data, EvalError> {
    let settle = |values: Vec<f64>| Ok(Rc::new(settled(mode, ty.dtype, values)));
    let moved = |values: Vec<f64>| Ok(Rc::new(values));
    match (op, operands) {
        (Op::Const { values }, []) => match values.as_slice() {
            [value] => settle(vec![*value; ty.elements()]),
            values => settle(values.to_vec()),
        },
        (Op::Iota { axis }, []) => settle(iota(&ty.shape, *axis)),
        (Op::Cast, [(from, x)]) if from.dtype.widens_to(ty.dtype) => Ok((*x).clone()),
        (Op::Cast, [(_, x)]) => settle(x.to_vec()),
        (Op::Reshape, [(_, x)]) => Ok((*x).clone()),
        (Op::Permute { perm }, [(from, x)]) => {
            let own = from.strides();
            let strides: Shape = perm.iter().map(|axis| own[*axis]).collect();
            moved(copied(x, 0, &ty.shape, &strides))
        }
        (Op::Broadcast, [(from, x)]) => {
            moved(copied(x, 0, &ty.shape, &repeated(&from.shape, &ty.shape)))
        }
        (Op::Slice { axis, start, .. }, [(from, x)]) => {
            let strides = from.strides();
            moved(copied(x, start * strides[*axis], &ty.shape, &strides))
        }
        (Op::Index { axis, at }, [(from, x)]) => {
            let mut strides = from.strides();
            let start = at * strides.remove(*axis);
            moved(copied(x, start, &ty.shape, &strides))
        }
        (Op::Pad { axis, lo, hi }, [(from, x)]) => moved(pad(x, &from.shape, *axis, [*lo, *hi])),
        (Op::Concat { axis }, parts) => moved(concat(parts, *axis)),
        (Op::Gather, [(table, x), (_, rows)]) => moved(gather(x, &table.shape, rows)?),
        (Op::Unary(f), [(_, x)]) => settle(unary(*f, x)),
        (Op::Binary(f), [a, b]) => settle(binary(*f, *a, *b, ty)),
        (Op::Compare(f), [a, b]) => moved(compare(*f, *a, *b, ty)),
        (Op::Select, [c, a, b]) => moved(select(*c, *a, *b, ty)),
        (Op::Reduce { f, axes, .. }, [(from, x)]) => settle(reduce(*f, x, &from.shape, axes)),
        (Op::Dot { transposed }, [(a_ty, a), (b_ty, b)]) => {
            let batch = a_ty.shape[..a_ty.rank() - 2].iter().product();
            let [(m, k), (n, _)] = [sides(a_ty, transposed[0]), sides(b_ty, transposed[1])];
            let [a, b] = [(a, a_ty, transposed[0]), (b, b_ty, transposed[1])]
                .map(|(x, ty, turned)| if turned { turn(x, ty) } else { (*x).clone() });
            settle(dot(&a, &b, batch, [m, n, k]))
        }
        _ => Err(broken(&format!("{} with {} operands", op.name(), operands.len()))),
    }
}

/// `values` rounded to `dtype`, unless `mode` keeps them.
fn settled(mode: Mode, dtype: DType, mut values: Vec<f64>) -> Vec<f64> {
    match dtype {
        DType::F64 => {}
        _ if mode == Mode::F64 && dtype.is_float() => {}
        // The common type, in a form that vectorises.
        DType::F32 => values.iter_mut().for_each(|v| *v = f64::from(*v as f32)),
        _ => values.iter_mut().for_each(|v| *v = dtype.round(*v)),
    }
    values
}

/// `x` with its last two axes exchanged.
fn turn(x: &[f64], ty: &TensorType) -> Data {
    let (mut shape, mut strides, last) = (ty.shape.clone(), ty.strides(), ty.rank() - 1);
    shape.swap(last - 1, last);
    strides.swap(last - 1, last);
    Rc::new(copied(x, 0, &shape, &strides))
}

fn iota(shape: &[usize], axis: usize) -> Vec<f64> {
    let outer: usize = shape[..axis].iter().product();
    let inner: usize = shape[axis + 1..].iter().product();
    let mut out = Vec::with_capacity(outer * shape[axis] * inner);
    for _ in 0..outer {
        for i in 0..shape[axis] {
            out.resize(out.len() + inner, i as f64);
        }
    }
    out
}

/// Elements `start + Σ index · stride` of `x` for every index of `shape`.
fn copied(x: &[f64], start: usize, shape: &[usize], strides: &[usize]) -> Vec<f64> {
    let walk = Walk::new(shape, [strides]);
    let mut out = Vec::with_capacity(shape.iter().product());
    let (length, step) = (walk.length, walk.steps[0]);
    walk.rows(|[base]| {
        let base = start + base;
        match step {
            0 => out.resize(out.len() + length, x[base]),
            1 => out.extend_from_slice(&x[base..base + length]),
            _ => out.extend((0..length).map(|i| x[base + i * step])),
        }
    });
    out
}

fn pad(x: &[f64], shape: &[usize], axis: usize, [lo, hi]: [usize; 2]) -> Vec<f64> {
    let inner: usize = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    let line = shape[axis] * inner;
    let mut out = Vec::with_capacity(outer * (line + (lo + hi) * inner));
    for i in 0..outer {
        out.resize(out.len() + lo * inner, 0.0);
        out.extend_from_slice(&x[i * line..(i + 1) * line]);
        out.resize(out.len() + hi * inner, 0.0);
    }
    out
}

fn concat(parts: &[Operand<'_>], axis: usize) -> Vec<f64> {
    let total = parts.iter().map(|(_, x)| x.len()).sum();
    let outer: usize = parts.first().map_or(0, |(ty, _)| ty.shape[..axis].iter().product());
    let mut out = Vec::with_capacity(total);
    for i in 0..outer {
        for (ty, x) in parts {
            let line: usize = ty.shape[axis..].iter().product();
            out.extend_from_slice(&x[i * line..(i + 1) * line]);
        }
    }
    out
}

fn gather(table: &[f64], shape: &[usize], rows: &[f64]) -> Result<Vec<f64>, EvalError> {
    let line: usize = shape[1..].iter().product();
    let mut out = Vec::with_capacity(rows.len() * line);
    for row in rows {
        if *row < 0.0 || *row >= shape[0] as f64 {
            return Err(outside_table(*row, shape[0]));
        }
        let at = *row as usize * line;
        out.extend_from_slice(&table[at..at + line]);
    }
    Ok(out)
}

fn unary(f: UnaryFn, x: &[f64]) -> Vec<f64> {
    let map = |f: fn(f64) -> f64| x.iter().map(|v| f(*v)).collect();
    match f {
        UnaryFn::Neg => map(|v| -v),
        UnaryFn::Abs => map(f64::abs),
        UnaryFn::Exp => map(f64::exp),
        UnaryFn::Log => map(f64::ln),
        UnaryFn::Sqrt => map(f64::sqrt),
        UnaryFn::Rsqrt => map(|v| 1.0 / v.sqrt()),
        UnaryFn::Recip => map(|v| 1.0 / v),
        UnaryFn::Tanh => map(f64::tanh),
        UnaryFn::Sin => map(f64::sin),
        UnaryFn::Cos => map(f64::cos),
        UnaryFn::Floor => map(f64::floor),
        UnaryFn::Erf => map(crate::erf),
    }
}

/// `f` on pairs of elements, with size-1 broadcasting to `shape`.
fn pairs(a: Operand<'_>, b: Operand<'_>, shape: &[usize], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let strides = [repeated(&a.0.shape, shape), repeated(&b.0.shape, shape)];
    let walk = Walk::new(shape, [&strides[0], &strides[1]]);
    let (x, y) = (a.1.as_slice(), b.1.as_slice());
    let mut out = Vec::with_capacity(shape.iter().product());
    let length = walk.length;
    walk.rows(|[i, j]| match walk.steps {
        [1, 1] => {
            let both = x[i..i + length].iter().zip(&y[j..j + length]);
            out.extend(both.map(|(x, y)| f(*x, *y)));
        }
        [1, 0] => {
            let right = y[j];
            out.extend(x[i..i + length].iter().map(|x| f(*x, right)));
        }
        [0, 1] => {
            let left = x[i];
            out.extend(y[j..j + length].iter().map(|y| f(left, *y)));
        }
        [s, t] => out.extend((0..length).map(|at| f(x[i + at * s], y[j + at * t]))),
    });
    out
}

fn binary(f: BinaryFn, a: Operand<'_>, b: Operand<'_>, ty: &TensorType) -> Vec<f64> {
    let shape = &ty.shape;
    match f {
        BinaryFn::Add => pairs(a, b, shape, |x, y| x + y),
        BinaryFn::Sub => pairs(a, b, shape, |x, y| x - y),
        BinaryFn::Mul => pairs(a, b, shape, |x, y| x * y),
        BinaryFn::Div if ty.dtype.is_float() => pairs(a, b, shape, |x, y| x / y),
        BinaryFn::Div => pairs(a, b, shape, |x, y| if y == 0.0 { 0.0 } else { (x / y).trunc() }),
        BinaryFn::Max => pairs(a, b, shape, |x, y| if x > y || x.is_nan() { x } else { y }),
        BinaryFn::Min => pairs(a, b, shape, |x, y| if x < y || x.is_nan() { x } else { y }),
    }
}

fn compare(f: CompareFn, a: Operand<'_>, b: Operand<'_>, ty: &TensorType) -> Vec<f64> {
    let shape = &ty.shape;
    let truth = |holds: bool| f64::from(u8::from(holds));
    match f {
        CompareFn::Eq => pairs(a, b, shape, |x, y| truth(x == y)),
        CompareFn::Lt => pairs(a, b, shape, |x, y| truth(x < y)),
        CompareFn::Le => pairs(a, b, shape, |x, y| truth(x <= y)),
        CompareFn::Gt => pairs(a, b, shape, |x, y| truth(x > y)),
        CompareFn::Ge => pairs(a, b, shape, |x, y| truth(x >= y)),
    }
}

fn select(c: Operand<'_>, a: Operand<'_>, b: Operand<'_>, ty: &TensorType) -> Vec<f64> {
    let shape = &ty.shape;
    let strides = [c, a, b].map(|(ty, _)| repeated(&ty.shape, shape));
    let walk = Walk::new(shape, [&strides[0], &strides[1], &strides[2]]);
    let [u, v, w] = walk.steps;
    let mut out = Vec::with_capacity(ty.elements());
    walk.rows(|[i, j, k]| {
        out.extend(
            (0..walk.length)
                .map(|at| if c.1[i + at * u] == 0.0 { b.1[k + at * w] } else { a.1[j + at * v] }),
        );
    });
    out
}

fn reduce(f: ReduceFn, x: &[f64], shape: &[usize], axes: &[usize]) -> Vec<f64> {
    // The result with reduced axes kept as size 1 is read as the operand's shape.
    let kept: Shape =
        shape.iter().enumerate().map(|(i, s)| if axes.contains(&i) { 1 } else { *s }).collect();
    let start = if f == ReduceFn::Max { f64::NEG_INFINITY } else { 0.0 };
    let mut out = vec![start; kept.iter().product()];
    let strides = [strides(shape), repeated(&kept, shape)];
    let walk = Walk::new(shape, [&strides[0], &strides[1]]);
    let combine = |a: f64, v: f64| match f {
        ReduceFn::Max if v > a || v.is_nan() => v,
        ReduceFn::Max => a,
        ReduceFn::Sum | ReduceFn::Mean => a + v,
    };
    walk.rows(|[from, to]| {
        let row = &x[from..from + walk.length];
        match walk.steps[1] {
            0 => out[to] = row.iter().fold(out[to], |a, v| combine(a, *v)),
            step => {
                for (i, v) in row.iter().enumerate() {
                    let at = &mut out[to + i * step];
                    *at = combine(*at, *v);
                }
            }
        }
    });
    if f == ReduceFn::Max {
        // Which of the zeros comes first says nothing: a largest element of 0 is +0.
        out.iter_mut().for_each(|v| *v += 0.0);
    }
    if f == ReduceFn::Mean {
        let count: usize = axes.iter().map(|axis| shape[*axis]).product();
        out.iter_mut().for_each(|v| *v /= count as f64);
    }
    out
}
