//! Sums and means of dense rows, along them and over each other, and parts of slices for tasks.
//!
//! Contract: inputs and outputs are `f32`, bf16 or f16, computed in `f32` and rounded once at the
//! end. The work is cut by the shape alone and sums have one fixed association (64 lanes in turn,
//! then halves), that of the row kernels, so the bits do not depend on the number of threads.

mod reduce;
mod segments;

pub use reduce::{Reduce, reduce};
pub use segments::{Output, columns, segments, segments_scratch_bytes};

use super::threads::{Pool, SharedPtr};

/// Rows of `width` elements, one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, E> {
    data: &'a [E],
    rows: usize,
    width: usize,
}

impl<'a, E> Rows<'a, E> {
    /// All of `data` as rows of `width` elements.
    ///
    /// # Panics
    /// When `data` is not a whole number of rows.
    pub fn new(data: &'a [E], width: usize) -> Self {
        let rows = data.len().checked_div(width).unwrap_or(0);
        assert_eq!(rows * width, data.len(), "{} elements are no rows of {width}", data.len());
        Self { data, rows, width }
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [E] {
        &self.data[row * self.width..][..self.width]
    }
}

/// Elements that a task works on: about half of a second-level cache with its inputs.
const TASK: usize = 16_384;

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
