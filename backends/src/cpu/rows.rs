//! Row-wise and element-wise kernels of the CPU backend: norms, modulation, gates, rotary
//! positions, element-wise maps, reductions, permutations and nearest upsampling.
//!
//! Contract: inputs and outputs are `f32`, bf16 or f16, computed in `f32` and rounded once at the
//! end; one read and one write per element, a row staying in the first-level cache. The work is cut
//! by the shape alone and sums have one fixed association (64 lanes in turn, then halves), so the
//! bits do not depend on the number of threads. Sizes are checked by assertions, since a plan has
//! been verified before it gets here. No kernel allocates in proportion to its data.

mod elementwise;
mod layout;
mod norm;
mod reduce;

pub use elementwise::{Binary, MOST_AXES, Strided, Unary, binary, cast, unary};
pub use layout::{permute, upsample_nearest};
pub use norm::{
    LayerNorm, Modulation, RmsForm, RmsNorm, Rope, Table, gate_add, gate_add_in_place, layer_norm,
    modulate, rms_norm, rope,
};
pub use reduce::{Reduce, reduce};

use super::threads::{Pool, SharedPtr};

/// Rows of `width` elements, `stride` apart, inside a slice.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, E> {
    data: &'a [E],
    rows: usize,
    width: usize,
    stride: usize,
}

impl<'a, E> Rows<'a, E> {
    /// All of `data` as rows of `width` elements, one behind the other.
    ///
    /// # Panics
    /// When `data` is not a whole number of rows.
    pub fn new(data: &'a [E], width: usize) -> Self {
        Self { data, rows: whole_rows(data.len(), width), width, stride: width }
    }

    /// `rows` rows that begin `stride` elements apart.
    ///
    /// # Panics
    /// When the last row ends behind `data`.
    pub fn strided(data: &'a [E], rows: usize, width: usize, stride: usize) -> Self {
        check_rows(data.len(), rows, width, stride);
        Self { data, rows, width, stride }
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [E] {
        &self.data[row * self.stride..][..self.width]
    }
}

/// Writable rows of `width` elements, `stride` apart; what lies between them stays as it is.
#[derive(Debug)]
pub struct RowsMut<'a, E> {
    data: &'a mut [E],
    rows: usize,
    width: usize,
    stride: usize,
}

impl<'a, E> RowsMut<'a, E> {
    /// All of `data` as rows of `width` elements, one behind the other.
    ///
    /// # Panics
    /// When `data` is not a whole number of rows.
    pub fn new(data: &'a mut [E], width: usize) -> Self {
        Self { rows: whole_rows(data.len(), width), data, width, stride: width }
    }

    /// `rows` rows that begin `stride` elements apart.
    ///
    /// # Panics
    /// When the last row ends behind `data`, or rows overlap.
    pub fn strided(data: &'a mut [E], rows: usize, width: usize, stride: usize) -> Self {
        check_rows(data.len(), rows, width, stride);
        assert!(rows < 2 || stride >= width, "rows overlap: stride {stride} for width {width}");
        Self { data, rows, width, stride }
    }

    #[inline(always)]
    fn row(&mut self, row: usize) -> &mut [E] {
        &mut self.data[row * self.stride..][..self.width]
    }
}

fn whole_rows(len: usize, width: usize) -> usize {
    let rows = len.checked_div(width).unwrap_or(0);
    assert_eq!(rows * width, len, "{len} elements are no whole rows of {width}");
    rows
}

fn check_rows(len: usize, rows: usize, width: usize, stride: usize) {
    let needed = if rows == 0 { 0 } else { (rows - 1) * stride + width };
    assert!(needed <= len, "rows end at {needed} in a slice of {len}");
}

/// Elements that a task works on: about half of a second-level cache with its inputs.
const TASK: usize = 16_384;

/// Runs `body(first row, rows)` over blocks of rows.
fn each_block<E: Send>(
    pool: &Pool,
    rows: RowsMut<'_, E>,
    body: &(dyn Fn(usize, RowsMut<'_, E>) + Sync),
) {
    let RowsMut { data, rows, width, stride } = rows;
    if rows == 0 || width == 0 {
        return;
    }
    let block = (TASK / width).max(1);
    let base = SharedPtr::new(data.as_mut_ptr());
    pool.run(rows.div_ceil(block), &|task, _| {
        let first = task * block;
        let rows = block.min(rows - first);
        // SAFETY: rows do not overlap, so the extents of the blocks are disjoint; the last one ends
        // with its last row, which the constructor found inside the slice.
        let data = unsafe {
            let len = (rows - 1) * stride + width;
            std::slice::from_raw_parts_mut(base.get().add(first * stride), len)
        };
        body(first, RowsMut { data, rows, width, stride });
    });
}

/// Runs `body(first element, part)` over parts of `chunk` elements.
pub(super) fn each_chunk<E: Send>(
    pool: &Pool,
    data: &mut [E],
    chunk: usize,
    body: &(dyn Fn(usize, &mut [E]) + Sync),
) {
    let len = data.len();
    let base = SharedPtr::new(data.as_mut_ptr());
    pool.run(len.div_ceil(chunk), &|task, _| {
        let first = task * chunk;
        // SAFETY: the parts are disjoint and end with the slice.
        let part = unsafe {
            std::slice::from_raw_parts_mut(base.get().add(first), chunk.min(len - first))
        };
        body(first, part);
    });
}

#[cfg(test)]
pub(crate) mod testing {
    use half::bf16;

    /// Deterministic values in about ±size.
    pub(crate) fn noise(seed: u32, count: usize, size: f32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 - 0.5
        };
        (0..count).map(|_| (next() + next() + next()) * 2.0 * size).collect()
    }

    pub(crate) fn to_bf16(data: &[f32]) -> Vec<bf16> {
        data.iter().map(|&x| bf16::from_f32(x)).collect()
    }

    pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
        assert_eq!(got.len(), want.len());
        for (at, (&got, &want)) in got.iter().zip(want).enumerate() {
            let error = (f64::from(got) - want).abs();
            assert!(error <= tolerance * want.abs().max(1.0), "{what} at {at}: {got} for {want}");
        }
    }

    pub(crate) fn same_bits(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
    }
}
