//! Strided copies, and copy kernels made of them.

use super::rows::each_chunk;
use super::threads::Pool;
use anyid_ir::kernel::{CopyKernel, Part};
use smallvec::SmallVec;

type Sizes = SmallVec<[usize; 8]>;

/// A strided copy of `shape` elements of `element` bytes. Strides and offsets count elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    shape: Sizes,
    from_strides: Sizes,
    to_strides: Sizes,
    from: usize,
    to: usize,
    element: usize,
}

/// Bytes one task copies at least; smaller moves run on the calling thread's first task.
const TASK_BYTES: usize = 256 * 1024;

/// Elements of an innermost loop that is worth its beginning.
const SHORT: usize = 16;

impl Move {
    fn new(shape: &[usize], from_strides: &[usize], to_strides: &[usize], element: usize) -> Self {
        let mut out = Self {
            shape: Sizes::new(),
            from_strides: Sizes::new(),
            to_strides: Sizes::new(),
            from: 0,
            to: 0,
            element,
        };
        for axis in 0..shape.len() {
            if shape[axis] == 1 {
                continue;
            }
            // An axis joins the one before it where both sides step evenly from one to the next.
            if let Some(last) = out.shape.len().checked_sub(1) {
                let joins = out.from_strides[last] == from_strides[axis] * shape[axis]
                    && out.to_strides[last] == to_strides[axis] * shape[axis];
                if joins {
                    out.shape[last] *= shape[axis];
                    out.from_strides[last] = from_strides[axis];
                    out.to_strides[last] = to_strides[axis];
                    continue;
                }
            }
            out.shape.push(shape[axis]);
            out.from_strides.push(from_strides[axis]);
            out.to_strides.push(to_strides[axis]);
        }
        // The innermost loop is the quick one: where the last axis is short and no run of memory,
        // the longest of those whose elements are neighbours on one side goes there. The first
        // axis stays, as tasks are parts of it.
        let last = out.shape.len().saturating_sub(1);
        if last > 1 && out.shape[last] < SHORT && !out.ends_in_run() {
            let beside = |axis: &usize| out.from_strides[*axis] == 1 || out.to_strides[*axis] == 1;
            let longest = (1..=last).filter(beside).max_by_key(|axis| out.shape[*axis]);
            if let Some(axis) = longest.filter(|axis| out.shape[*axis] > out.shape[last]) {
                out.shape[axis..].rotate_left(1);
                out.from_strides[axis..].rotate_left(1);
                out.to_strides[axis..].rotate_left(1);
            }
        }
        if out.shape.is_empty() {
            out.shape.push(shape.iter().product());
            out.from_strides.push(1);
            out.to_strides.push(1);
        }
        out
    }

    /// Whether the last axis is one run of memory on both sides.
    fn ends_in_run(&self) -> bool {
        (self.from_strides.last(), self.to_strides.last()) == (Some(&1), Some(&1))
    }

    fn at(mut self, from: usize, to: usize) -> Self {
        self.from = from;
        self.to = to;
        self
    }

    /// Copies. Neither side allocates; tasks depend on the shape alone.
    ///
    /// # Safety
    /// Every element the strides reach lies inside the memory behind the pointers, the two do not
    /// overlap, and nobody else writes the source or touches the destination meanwhile.
    pub unsafe fn run(&self, pool: &Pool, source: *const u8, target: *mut u8) {
        if self.shape.contains(&0) {
            return;
        }
        let outer = self.shape[0];
        let inner: usize = self.shape[1..].iter().product();
        let rows = (TASK_BYTES / (inner * self.element).max(1)).clamp(1, outer);
        let ends = Ends(source, target);
        pool.run(outer.div_ceil(rows), &|task, _| {
            let ends = &ends;
            let range = task * rows..((task + 1) * rows).min(outer);
            // SAFETY: tasks cover disjoint ranges of the outer axis; the caller vouches for the rest.
            unsafe { self.copy(range, ends.0, ends.1) }
        });
    }

    unsafe fn copy(&self, range: std::ops::Range<usize>, source: *const u8, target: *mut u8) {
        let rank = self.shape.len();
        let last = rank - 1;
        if rank == 2 && self.shape[1] < range.len() && !self.ends_in_run() {
            for second in 0..self.shape[1] {
                let from = range.start * self.from_strides[0] + second * self.from_strides[1];
                let to = range.start * self.to_strides[0] + second * self.to_strides[1];
                let steps = (self.from_strides[0], self.to_strides[0]);
                // SAFETY: the caller vouches for every reached element.
                unsafe {
                    let source = source.add((self.from + from) * self.element);
                    let target = target.add((self.to + to) * self.element);
                    line(source, target, range.len(), steps, self.element);
                }
            }
            return;
        }
        let (count, from_step, to_step) = if last == 0 {
            (range.len(), self.from_strides[0], self.to_strides[0])
        } else {
            (self.shape[last], self.from_strides[last], self.to_strides[last])
        };
        let mut index: Sizes = smallvec::smallvec![0; rank];
        index[0] = range.start;
        loop {
            let mut from = self.from;
            let mut to = self.to;
            for axis in 0..rank {
                from += index[axis] * self.from_strides[axis];
                to += index[axis] * self.to_strides[axis];
            }
            // SAFETY: the caller vouches for every reached element.
            unsafe {
                let source = source.add(from * self.element);
                let target = target.add(to * self.element);
                line(source, target, count, (from_step, to_step), self.element);
            }
            if last == 0 {
                return;
            }
            let mut axis = last;
            loop {
                axis -= 1;
                index[axis] += 1;
                let end = if axis == 0 { range.end } else { self.shape[axis] };
                if index[axis] < end {
                    break;
                }
                if axis == 0 {
                    return;
                }
                index[axis] = 0;
            }
        }
    }
}

struct Ends(*const u8, *mut u8);
// SAFETY: tasks write disjoint parts behind the pointer; see `Move::run`.
unsafe impl Sync for Ends {}

/// Copies `count` elements of `element` bytes, `steps` elements apart.
///
/// # Safety
/// Every element lies inside the memory behind its pointer.
unsafe fn line(
    source: *const u8,
    target: *mut u8,
    count: usize,
    (from, to): (usize, usize),
    element: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match (from, to, element) {
            (1, 1, size) => std::ptr::copy_nonoverlapping(source, target, count * size),
            (_, _, 4) => lane::<u32>(source, target, count, from, to),
            (_, _, 2) => lane::<u16>(source, target, count, from, to),
            (_, _, 8) => lane::<u64>(source, target, count, from, to),
            _ => lane::<u8>(source, target, count, from, to),
        }
    }
}

unsafe fn lane<T: Copy>(source: *const u8, target: *mut u8, count: usize, from: usize, to: usize) {
    let (source, target) = (source.cast::<T>(), target.cast::<T>());
    for i in 0..count {
        // SAFETY: the caller vouches for every reached element; alignment may be any.
        unsafe { target.add(i * to).write_unaligned(source.add(i * from).read_unaligned()) };
    }
}

/// A copy kernel made ready: what is zeroed first, and the copies with the operand of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    /// First elements and lengths of what is zeroed.
    zeros: Vec<(usize, usize)>,
    moves: Vec<(usize, Move)>,
    element: usize,
}

impl Copies {
    /// `kernel`, which was verified, on elements of `element` bytes.
    pub fn new(kernel: &CopyKernel, element: usize) -> Self {
        let length = |part: &Part| kernel.length(part).expect("verified: parts have a length");
        let line: usize = kernel.parts.iter().map(length).sum();
        let (mut zeros, mut moves) = (Vec::new(), Vec::new());
        let mut start = 0;
        for part in &kernel.parts {
            let len = length(part);
            match part {
                // Between lines: everything, which the copies then write over.
                Part::Zeros(_) if kernel.lines > 1 => zeros = vec![(0, kernel.lines * line)],
                Part::Zeros(_) => zeros.push((start, len)),
                Part::Strided { operand, offset, axes } => {
                    let mut to: Sizes = smallvec::smallvec![0; axes.len()];
                    let mut step = 1;
                    for (to, (size, _)) in to.iter_mut().zip(axes).rev() {
                        if step == len {
                            step = line;
                        }
                        *to = step;
                        step *= size;
                    }
                    let sizes: Sizes = axes.iter().map(|(size, _)| *size).collect();
                    let from: Sizes = axes.iter().map(|(_, stride)| *stride).collect();
                    let each = Move::new(&sizes, &from, &to, element).at(*offset, start);
                    moves.push((*operand, each));
                }
            }
            start += len;
        }
        Self { zeros, moves, element }
    }

    /// Makes the result.
    ///
    /// # Safety
    /// Operands begin memory of the types the kernel was verified for, and the result, which has
    /// the kernel's size, overlaps none of them.
    pub unsafe fn run(&self, pool: &Pool, operand: impl Fn(usize) -> *const u8, result: &mut [u8]) {
        for (start, len) in &self.zeros {
            let part = &mut result[start * self.element..(start + len) * self.element];
            each_chunk(pool, part, TASK_BYTES, &|_, part| part.fill(0));
        }
        for (position, each) in &self.moves {
            // SAFETY: verified: every element read lies in its operand, every one written in the
            // result.
            unsafe { each.run(pool, operand(*position), result.as_mut_ptr()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::kernel::{Kernel, copies};
    use anyid_ir::{DType, Op, TensorType};

    /// The result of `op` on 0, 1, 2, ..
    fn moved(op: &Op, from: &TensorType, result: &TensorType) -> Vec<f32> {
        let values: Vec<f32> = (0..from.elements()).map(|v| v as f32).collect();
        let mut out = vec![f32::NAN; result.elements()];
        let kernel = copies(op, &[from], result).expect("a movement op");
        assert!(Kernel::Copy(kernel.clone()).check(&[from], &[result]).is_ok());
        for pool in [Pool::new(1), Pool::new(3)] {
            out.fill(f32::NAN);
            let (from, to) = (values.as_ptr().cast(), bytemuck::cast_slice_mut(&mut out));
            // SAFETY: source and target have the sizes of the types.
            unsafe { Copies::new(&kernel, 4).run(&pool, |_| from, to) };
        }
        out
    }

    #[test]
    fn what_is_padded_is_zero_and_nothing_else() {
        let x: Vec<usize> = vec![3, 4, 5];
        for axis in 0..3 {
            for (lo, hi) in [(0, 0), (2, 0), (0, 3), (1, 2)] {
                let mut to = x.clone();
                to[axis] += lo + hi;
                let [from, to] = [&x, &to].map(|shape| TensorType::new(DType::F32, shape.clone()));
                let out = moved(&Op::Pad { axis, lo, hi }, &from, &to);
                let inner: usize = to.shape[axis + 1..].iter().product();
                let mut next = 0..from.elements();
                for (at, got) in out.iter().enumerate() {
                    let place = at / inner % to.shape[axis];
                    let inside = (lo..to.shape[axis] - hi).contains(&place);
                    let want = if inside { next.next().expect("as many") as f32 } else { 0.0 };
                    assert_eq!(*got, want, "axis {axis}, {lo} and {hi}, element {at}");
                }
            }
        }
    }

    #[test]
    fn a_short_last_axis_is_repeated_and_moved_like_any_other() {
        // More than one task, and a last axis that is not one run of memory.
        let (rows, width) = (300, 500);
        let x = TensorType::new(DType::F32, [rows, width]);
        let twice = TensorType::new(DType::F32, [rows, 2 * width]);
        let factors = anyid_ir::Axes::from_slice(&[1, 2]);
        let got = moved(&Op::Upsample { factors }, &x, &twice);
        assert!(got.iter().enumerate().all(|(at, &v)| v == (at / 2) as f32));

        let x = TensorType::new(DType::F32, [3, 2, 40, 70]);
        let result = TensorType::new(DType::F32, [40, 70, 3, 2]);
        let perm = anyid_ir::Axes::from_slice(&[2, 3, 0, 1]);
        let got = moved(&Op::Permute { perm }, &x, &result);
        for (at, &v) in got.iter().enumerate() {
            let (pixel, part) = (at / 6, at % 6);
            assert_eq!(v, (part * 40 * 70 + pixel) as f32);
        }
        // Blocks of 2x2 pixels gathered behind their channels.
        let x = TensorType::new(DType::F32, [3, 4, 2, 5, 2, 40]);
        let result = TensorType::new(DType::F32, [3, 4, 5, 40, 2, 2]);
        let perm = anyid_ir::Axes::from_slice(&[0, 1, 3, 5, 2, 4]);
        let got = moved(&Op::Permute { perm }, &x, &result);
        for (at, &v) in got.iter().enumerate() {
            let (w, h, c, column, line) = (at % 2, at / 2 % 2, at / 4 % 40, at / 160 % 5, at / 800);
            assert_eq!(v, ((((line * 2 + h) * 5 + column) * 2 + w) * 40 + c) as f32);
        }

        let x = TensorType::new(DType::F32, [3, 2, 40, 70]);
        let perm = anyid_ir::Axes::from_slice(&[0, 2, 3, 1]);
        let result = TensorType::new(DType::F32, [3, 40, 70, 2]);
        let got = moved(&Op::Permute { perm }, &x, &result);
        for (at, &v) in got.iter().enumerate() {
            let (outer, pixel, part) = (at / 5600, at % 5600 / 2, at % 2);
            assert_eq!(v, ((outer * 2 + part) * 2800 + pixel) as f32);
        }
    }
}
