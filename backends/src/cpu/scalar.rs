//! Element-by-element execution of the arithmetic primitives for any element type.
//!
//! The row kernels cover what models spend time on; this covers the rest (integer index
//! arithmetic, f64 tables, odd broadcasts) with the interpreter's rule: compute in f64, round once
//! to the declared type. It allocates nothing, and ends early when the work shall stop.

use super::threads::until_stopped;
use anyid_ir::op::{BinaryFn, CompareFn, ReduceFn, UnaryFn};
use anyid_ir::{DType, Op, TensorType};

/// A dense tensor to read: type and first byte.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Element type and shape.
    pub ty: &'a TensorType,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl Reading<'_> {
    fn get(&self, index: usize) -> f64 {
        read(self.ty.dtype, self.bytes, index)
    }
}

/// Element `index` of little-endian `bytes`, in any alignment.
pub fn read(dtype: DType, bytes: &[u8], index: usize) -> f64 {
    let size = dtype.bytes();
    let b = &bytes[index * size..(index + 1) * size];
    match dtype {
        DType::F32 => f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        DType::F64 => f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
        DType::Bf16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f64(),
        DType::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f64(),
        DType::I32 => f64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        DType::U8 => f64::from(b[0]),
        DType::Bool => f64::from(u8::from(b[0] != 0)),
    }
}

/// Writes `value`, rounded, as element `index`.
pub fn write(dtype: DType, bytes: &mut [u8], index: usize, value: f64) {
    let size = dtype.bytes();
    let b = &mut bytes[index * size..(index + 1) * size];
    match dtype {
        DType::F32 => b.copy_from_slice(&(value as f32).to_le_bytes()),
        DType::F64 => b.copy_from_slice(&value.to_le_bytes()),
        // `half` converts doubles in two roundings on some processors.
        DType::Bf16 => {
            let value = half::bf16::from_f32(dtype.round(value) as f32);
            b.copy_from_slice(&value.to_le_bytes());
        }
        DType::F16 => {
            let value = half::f16::from_f32(dtype.round(value) as f32);
            b.copy_from_slice(&value.to_le_bytes());
        }
        DType::I32 => b.copy_from_slice(&(value as i32).to_le_bytes()),
        DType::U8 => b[0] = value as u8,
        DType::Bool => b[0] = u8::from(value != 0.0),
    }
}

fn unary(f: UnaryFn, x: f64) -> f64 {
    match f {
        UnaryFn::Neg => -x,
        UnaryFn::Abs => x.abs(),
        UnaryFn::Exp => x.exp(),
        UnaryFn::Log => x.ln(),
        UnaryFn::Sqrt => x.sqrt(),
        UnaryFn::Rsqrt => 1.0 / x.sqrt(),
        UnaryFn::Recip => 1.0 / x,
        UnaryFn::Tanh => x.tanh(),
        UnaryFn::Sin => x.sin(),
        UnaryFn::Cos => x.cos(),
        UnaryFn::Floor => x.floor(),
    }
}

fn binary(f: BinaryFn, a: f64, b: f64, integer: bool) -> f64 {
    match f {
        BinaryFn::Add => a + b,
        BinaryFn::Sub => a - b,
        BinaryFn::Mul => a * b,
        BinaryFn::Div if integer && b == 0.0 => 0.0,
        BinaryFn::Div if integer => (a / b).trunc(),
        BinaryFn::Div => a / b,
        // Of equal operands the second, which tells zeros apart.
        BinaryFn::Max => {
            if a > b || a.is_nan() {
                a
            } else {
                b
            }
        }
        BinaryFn::Min => {
            if a < b || a.is_nan() {
                a
            } else {
                b
            }
        }
    }
}

fn compare(f: CompareFn, a: f64, b: f64) -> bool {
    match f {
        CompareFn::Eq => a == b,
        CompareFn::Lt => a < b,
        CompareFn::Le => a <= b,
        CompareFn::Gt => a > b,
        CompareFn::Ge => a >= b,
    }
}

/// Position in `ty` of the element that result position `index` of `shape` reads under
/// broadcasting.
fn broadcast_index(ty: &TensorType, shape: &[usize], mut index: usize) -> usize {
    let skip = shape.len() - ty.rank();
    let mut at = 0;
    let mut stride = 1;
    for axis in (0..shape.len()).rev() {
        let position = index % shape[axis];
        index /= shape[axis];
        if axis >= skip {
            let size = ty.shape[axis - skip];
            if size != 1 {
                at += position * stride;
            }
            stride *= size;
        }
    }
    at
}

/// Executes `op` if it is an arithmetic primitive, a literal or a cast; `false` otherwise.
pub fn execute(op: &Op, operands: &[Reading<'_>], ty: &TensorType, out: &mut [u8]) -> bool {
    let count = ty.elements();
    let dtype = ty.dtype;
    let wide = |i: usize, x: &Reading<'_>| x.get(broadcast_index(x.ty, &ty.shape, i));
    match op {
        Op::Const { values } => {
            for (i, value) in values.iter().take(count).enumerate() {
                write(dtype, out, i, *value);
            }
            // One value fills everything, in copies that double.
            let (all, mut done) = (count * dtype.bytes(), values.len() * dtype.bytes());
            while (1..all).contains(&done) {
                let more = done.min(all - done);
                out.copy_within(..more, done);
                done += more;
            }
        }
        Op::Iota { axis } => {
            let stride = ty.strides()[*axis];
            for i in until_stopped(count) {
                write(dtype, out, i, (i / stride % ty.shape[*axis]) as f64);
            }
        }
        Op::Cast => {
            for i in until_stopped(count) {
                write(dtype, out, i, operands[0].get(i));
            }
        }
        Op::Unary(f) => {
            for i in until_stopped(count) {
                write(dtype, out, i, unary(*f, operands[0].get(i)));
            }
        }
        Op::Binary(f) => {
            for i in until_stopped(count) {
                let (a, b) = (wide(i, &operands[0]), wide(i, &operands[1]));
                write(dtype, out, i, binary(*f, a, b, !dtype.is_float()));
            }
        }
        Op::Compare(f) => {
            for i in until_stopped(count) {
                let holds = compare(*f, wide(i, &operands[0]), wide(i, &operands[1]));
                write(dtype, out, i, f64::from(u8::from(holds)));
            }
        }
        Op::Select => {
            for i in until_stopped(count) {
                let chosen = if wide(i, &operands[0]) != 0.0 { 1 } else { 2 };
                write(dtype, out, i, wide(i, &operands[chosen]));
            }
        }
        Op::Reduce { f, axes, .. } => reduce(*f, axes, &operands[0], dtype, count, out),
        Op::Dot => dot(&operands[0], &operands[1], dtype, out),
        _ => return false,
    }
    true
}

fn reduce(
    f: ReduceFn,
    axes: &[usize],
    x: &Reading<'_>,
    dtype: DType,
    count: usize,
    out: &mut [u8],
) {
    let shape = &x.ty.shape;
    let strides = x.ty.strides();
    let kept = (0..shape.len()).filter(|a| !axes.contains(a));
    let reduced: usize = axes.iter().map(|a| shape[*a]).product();
    for i in until_stopped(count) {
        let mut rest = i;
        let mut base = 0;
        for axis in kept.clone().rev() {
            base += rest % shape[axis] * strides[axis];
            rest /= shape[axis];
        }
        let mut total = if f == ReduceFn::Max { f64::NEG_INFINITY } else { 0.0 };
        for j in until_stopped(reduced) {
            let mut rest = j;
            let mut at = base;
            for axis in axes.iter().rev() {
                at += rest % shape[*axis] * strides[*axis];
                rest /= shape[*axis];
            }
            let value = x.get(at);
            total = match f {
                ReduceFn::Max if value.is_nan() || total.is_nan() => f64::NAN,
                ReduceFn::Max => total.max(value),
                ReduceFn::Sum | ReduceFn::Mean => total + value,
            };
        }
        match f {
            ReduceFn::Mean => total /= reduced as f64,
            // A largest element of 0 is +0.
            ReduceFn::Max => total += 0.0,
            ReduceFn::Sum => {}
        }
        write(dtype, out, i, total);
    }
}

fn dot(a: &Reading<'_>, b: &Reading<'_>, dtype: DType, out: &mut [u8]) {
    let rank = a.ty.rank();
    let [m, k] = [a.ty.shape[rank - 2], a.ty.shape[rank - 1]];
    let n = b.ty.shape[rank - 2];
    let batch: usize = a.ty.shape[..rank - 2].iter().product();
    for index in until_stopped(batch * m * n) {
        let (row, j) = (index / n, index % n);
        let (page, i) = (row / m, row % m);
        let product = |at| a.get((page * m + i) * k + at) * b.get((page * n + j) * k + at);
        let sum: f64 = until_stopped(k).map(product).sum();
        write(dtype, out, index, sum);
    }
}
