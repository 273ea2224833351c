//! Sums of rows over each other: of all of them, or of those of each segment.
//!
//! Contract: a sum is formed in doubles, in ascending order of its rows, and rounded once; the work is
//! cut into segments and columns by the shape alone. So the bits are those of the scalar form, and do
//! not depend on the number of threads. Speed is limited by memory.

use super::super::caches::prefetch;
use super::super::math::lanes::get;
use super::super::math::{Element, LANES, vectorised};
use super::super::simd::Level;
use super::super::threads::{Pool, SharedPtr, until_stopped};
use super::Rows;
use crate::element;
use anyid_ir::DType;
use std::ops::Range;

/// Most columns of a task: their sums are in the first-level cache.
const COLUMNS: usize = 256;
/// Parts that columns are cut into where they are wide enough.
const PARTS: usize = 16;
/// Least columns of a part: what is read of a row are whole lines of a cache.
const LEAST: usize = 2 * LANES;
/// Blocks that segments are cut into where there are so many.
const BLOCKS: usize = 256;

/// Rows that are asked for ahead of their use.
const AHEAD: usize = 24;
/// Rows that are added to a sum while it is at hand.
const TOGETHER: usize = 4;

/// The sums of a task's columns.
type Sums = [[f64; LANES]; COLUMNS / LANES];

vectorised! {
    /// Sums of `width` columns from `first` on, over the first `count` rows, or those of a list.
    fn add_rows<V, I: Element>(
        x: Rows<'_, I>, list: Option<&[usize]>, count: usize, first: usize, width: usize,
        sums: &mut Sums
    ) {
        let sums = &mut sums[..width.div_ceil(LANES)];
        sums.fill([0.0; LANES]);
        let row = |at: usize| {
            let row = list.map_or(at, |list| list[at]);
            &x.row(row)[first..first + width]
        };
        let whole = count / TOGETHER * TOGETHER;
        for at in until_stopped(whole / TOGETHER).map(|at| at * TOGETHER) {
            // Rows are too far apart for the machine to foresee the next.
            for later in (at + AHEAD..count).take(TOGETHER).map(row) {
                prefetch(later.as_ptr().cast(), size_of_val(later));
            }
            let rows: [_; TOGETHER] = std::array::from_fn(|next| row(at + next));
            for (at, sums) in sums.iter_mut().enumerate() {
                let mut own = *sums;
                for row in rows {
                    let values = get::<V, I>(row, at * LANES).array();
                    for (sum, value) in own.iter_mut().zip(values) {
                        *sum += f64::from(value);
                    }
                }
                *sums = own;
            }
        }
        for row in (whole..count).map(row) {
            for (at, sums) in sums.iter_mut().enumerate() {
                let values = get::<V, I>(row, at * LANES).array();
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += f64::from(value);
                }
            }
        }
    }
}

/// Results of type `dtype`: rows as wide as those that are added.
#[derive(Debug)]
pub struct Output<'a> {
    /// Their bytes.
    pub bytes: &'a mut [u8],
    /// Their type.
    pub dtype: DType,
}

impl Output<'_> {
    /// Its rows, cut into tasks; each gets a block of rows, its first column and their number.
    fn each(
        self,
        pool: &Pool,
        width: usize,
        task: &(dyn Fn(usize, Range<usize>, &mut Part) + Sync),
    ) {
        let Self { bytes, dtype } = self;
        let count = bytes.len() / dtype.bytes() / width.max(1);
        let columns = width.div_ceil(PARTS).next_multiple_of(LEAST).min(COLUMNS);
        let (parts, block) = (width.div_ceil(columns), count.div_ceil(BLOCKS).max(1));
        let base = SharedPtr::new(bytes.as_mut_ptr());
        pool.run(count.div_ceil(block) * parts, &|number, _| {
            let first = number % parts * columns;
            let range = first..width.min(first + columns);
            for row in number / parts * block..count.min((number / parts + 1) * block) {
                let (at, len) = (row * width + first, range.len());
                // SAFETY: parts of rows are disjoint and inside the bytes.
                let bytes = unsafe {
                    let at = base.get().add(at * dtype.bytes());
                    std::slice::from_raw_parts_mut(at, len * dtype.bytes())
                };
                task(row, range.clone(), &mut Part { bytes, dtype });
            }
        });
    }
}

/// A part of a row of results.
struct Part<'a> {
    bytes: &'a mut [u8],
    dtype: DType,
}

impl Part<'_> {
    /// Writes sums, divided by `divisor` and rounded.
    fn write(&mut self, sums: &Sums, divisor: f64) {
        let count = self.bytes.len() / self.dtype.bytes();
        for (at, sum) in sums.as_flattened()[..count].iter().enumerate() {
            element::write(self.dtype, self.bytes, at, sum / divisor);
        }
    }
}

/// `y` = Σ `x` over all rows, divided by `divisor`.
///
/// # Panics
/// When `y` is no row.
pub fn columns<I: Element>(pool: &Pool, level: Level, x: Rows<'_, I>, divisor: f64, y: Output<'_>) {
    assert_eq!(y.bytes.len(), x.width * y.dtype.bytes(), "one row of results");
    y.each(pool, x.width, &|_, range, y| {
        let mut sums = [[0.0; LANES]; COLUMNS / LANES];
        add_rows(level, x, None, x.rows, range.start, range.len(), &mut sums);
        y.write(&sums, divisor);
    });
}

/// Bytes of scratch [`segments`] needs for so many rows and segments.
pub fn segments_scratch_bytes(rows: usize, segments: usize) -> usize {
    (rows + segments + 1) * size_of::<usize>()
}

/// `y[segment]` = Σ `x` over the rows of the segment; a row whose segment is no row of `y` counts
/// nowhere.
///
/// # Panics
/// When `of` has not one segment a row, or the scratch is too short.
pub fn segments<I: Element>(
    pool: &Pool,
    level: Level,
    x: Rows<'_, I>,
    of: &[i32],
    y: Output<'_>,
    scratch: &mut [u8],
) {
    assert_eq!(of.len(), x.rows, "one segment a row");
    let count = y.bytes.len() / y.dtype.bytes() / x.width.max(1);
    let (_, words, _) = bytemuck::pod_align_to_mut::<u8, usize>(scratch);
    assert!(words.len() >= x.rows + count, "scratch has {} words", words.len());
    // The rows of each segment, one segment behind the other: first where each begins.
    let (ends, order) = words.split_at_mut(count);
    let own = |segment: &i32| usize::try_from(*segment).ok().filter(|at| *at < count);
    ends.fill(0);
    of.iter().filter_map(own).for_each(|segment| ends[segment] += 1);
    let mut total = 0;
    for end in ends.iter_mut() {
        total += std::mem::replace(end, total);
    }
    for (row, segment) in of.iter().enumerate() {
        if let Some(segment) = own(segment) {
            order[ends[segment]] = row;
            ends[segment] += 1;
        }
    }
    let (ends, order) = (&*ends, &*order);
    y.each(pool, x.width, &|segment, range, y| {
        let begin = segment.checked_sub(1).map_or(0, |before| ends[before]);
        let rows = &order[begin..ends[segment]];
        let mut sums = [[0.0; LANES]; COLUMNS / LANES];
        add_rows(level, x, Some(rows), rows.len(), range.start, range.len(), &mut sums);
        y.write(&sums, 1.0);
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{noise, to_bf16};
    use super::*;

    fn exact(x: &[f32], width: usize, own: impl Fn(usize) -> bool) -> Vec<f32> {
        let column = |at: usize| -> f64 {
            let rows = x.chunks(width).enumerate().filter(|(row, _)| own(*row));
            rows.map(|(_, row)| f64::from(row[at])).sum()
        };
        (0..width).map(|at| column(at) as f32).collect()
    }

    #[test]
    fn sums_are_those_of_doubles_for_any_number_of_threads() {
        for (rows, width) in [(1, 1), (7, 3), (100, 16), (33, 257), (5, 5000)] {
            let x = noise(rows as u32, rows * width, 1.0);
            let of: Vec<i32> = (0..rows).map(|row| (row * row % 7) as i32 - 1).collect();
            let whole = exact(&x, width, |_| true);
            let parts: Vec<f32> =
                (0..4).flat_map(|own| exact(&x, width, |row| of[row] == own)).collect();
            for level in Level::available() {
                for threads in [1, 3] {
                    let (pool, x) = (Pool::new(threads), Rows::new(&x, width));
                    let mut y = vec![f32::NAN; width];
                    let bytes = bytemuck::cast_slice_mut(&mut y);
                    columns(&pool, level, x, 1.0, Output { bytes, dtype: DType::F32 });
                    assert_eq!(y, whole);
                    let mut y = vec![f32::NAN; 4 * width];
                    let bytes = bytemuck::cast_slice_mut(&mut y);
                    let mut scratch = vec![0xA5; segments_scratch_bytes(rows, 4)];
                    let y_out = Output { bytes, dtype: DType::F32 };
                    segments(&pool, level, x, &of, y_out, &mut scratch);
                    assert_eq!(y, parts);
                }
            }
        }
    }

    #[test]
    fn half_types_are_read_widened_and_written_rounded() {
        let x = to_bf16(&noise(3, 40 * 20, 1.0));
        let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
        let mean: Vec<f32> = (0..20)
            .map(|at| wide.chunks(20).map(|row| f64::from(row[at])).sum::<f64>() / 40.0)
            .map(|mean| mean as f32)
            .collect();
        let mut y = vec![half::bf16::ZERO; 20];
        let bytes = bytemuck::cast_slice_mut(&mut y);
        let output = Output { bytes, dtype: DType::Bf16 };
        columns(&Pool::new(2), Level::Portable, Rows::new(&x, 20), 40.0, output);
        assert_eq!(y, to_bf16(&mean));
    }
}
