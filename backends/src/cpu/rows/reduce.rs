//! Sums, means and maxima along the last axis.
//!
//! Contract: one fixed association per row (see `rows`); a maximum is NaN if any element is. An
//! empty row sums to 0, has no mean (NaN) and the maximum −∞.

use super::super::math::lanes::get;
use super::super::math::{Element, LANES, Lanes, vectorised};
use super::super::simd::Level;
use super::super::threads::Pool;
use super::{Rows, TASK, each_chunk};

/// A reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Σ x.
    Sum,
    /// Σ x / width.
    Mean,
    /// The largest x.
    Max,
}

/// Σ x over a row in the fixed association.
#[inline(always)]
fn row_sum<V: Lanes, I: Element>(x: &[I]) -> f32 {
    let mut sums = [V::splat(0.0); 4];
    for at in (0..x.len()).step_by(4 * LANES) {
        for part in 0..4 {
            sums[part] = sums[part].add(get(x, at + part * LANES));
        }
    }
    sums[0].add(sums[2]).add(sums[1].add(sums[3])).sum()
}

#[inline(always)]
fn row_largest<V: Lanes, I: Element>(x: &[I]) -> f32 {
    let mut largest = V::splat(f32::NEG_INFINITY);
    let whole = x.len() / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let value = get::<V, I>(x, at);
        largest = largest.nan_or(value.nan_or(largest.max(value)));
    }
    let mut result = largest.largest();
    for value in &x[whole..] {
        let value = value.to_f32();
        result = if value > result || value.is_nan() { value } else { result };
    }
    result
}

/// Sums of rows of `W` elements, a power of two of at most [`LANES`], divided by `divisor`:
/// [`row_sum`]'s association, in which the lanes past a row are zeros, without the lanes.
#[inline(always)]
fn short_sums<const W: usize, I: Element, O: Element>(x: &[I], divisor: f32, y: &mut [O]) {
    for (row, y) in x.chunks_exact(W).zip(y) {
        // A sum begins with a zero, which makes −0 positive.
        let mut sums: [f32; W] = std::array::from_fn(|at| 0.0 + row[at].to_f32());
        let mut half = W / 2;
        while half > 0 {
            for at in 0..half {
                sums[at] += sums[at + half];
            }
            half /= 2;
        }
        *y = O::from_f32(sums[0] / divisor);
    }
}

vectorised! {
    fn reduce_rows<V, I: Element, O: Element>(
        op: Reduce, x: Rows<'_, I>, first: usize, y: &mut [O]
    ) {
        if op != Reduce::Max {
            let data = &x.data[first * x.width..(first + y.len()) * x.width];
            let divisor = if op == Reduce::Mean { x.width as f32 } else { 1.0 };
            match x.width {
                2 => return short_sums::<2, I, O>(data, divisor, y),
                4 => return short_sums::<4, I, O>(data, divisor, y),
                8 => return short_sums::<8, I, O>(data, divisor, y),
                16 => return short_sums::<16, I, O>(data, divisor, y),
                _ => {}
            }
        }
        for (index, y) in y.iter_mut().enumerate() {
            let row = x.row(first + index);
            *y = O::from_f32(match op {
                Reduce::Sum => row_sum::<V, I>(row),
                Reduce::Mean => row_sum::<V, I>(row) / row.len() as f32,
                // A largest element of 0 is +0.
                Reduce::Max => row_largest::<V, I>(row) + 0.0,
            });
        }
    }
}

/// `y[row]` = op over the row.
///
/// # Panics
/// When `y` has not one element per row.
pub fn reduce<I: Element, O: Element>(
    pool: &Pool,
    level: Level,
    op: Reduce,
    x: Rows<'_, I>,
    y: &mut [O],
) {
    assert_eq!(x.rows, y.len(), "one result per row");
    let block = (TASK / x.width.max(1)).max(1);
    each_chunk(pool, y, block, &|first, y| reduce_rows(level, op, x, first, y));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, noise, same_bits};
    use super::*;

    vectorised! {
        fn sums_by_lanes<V>(x: &[f32], width: usize, y: &mut [f32]) {
            for (row, y) in x.chunks(width).zip(y) {
                *y = row_sum::<V, f32>(row);
            }
        }
    }

    #[test]
    fn short_rows_are_the_bits_of_long_ones() {
        for width in [2, 4, 8, 16] {
            let rows = 5000;
            let mut x = noise(3, rows * width, 1.0);
            x[..2 * width].fill(-0.0);
            x[3 * width] = f32::INFINITY;
            for level in Level::available() {
                let [mut want, mut got] = [0, 1].map(|_| vec![f32::NAN; rows]);
                sums_by_lanes(level, &x, width, &mut want);
                reduce(&Pool::new(3), level, Reduce::Sum, Rows::new(&x, width), &mut got);
                assert!(same_bits(&got, &want), "{level:?} {width}");
                let mean: Vec<f32> = want.iter().map(|sum| sum / width as f32).collect();
                reduce(&Pool::new(2), level, Reduce::Mean, Rows::new(&x, width), &mut got);
                assert!(same_bits(&got, &mean), "{level:?} {width}");
            }
        }
    }

    #[test]
    fn all_reductions() {
        for (rows, width) in [(1, 1), (3, 3), (40, 17), (7, 4097), (2, 64)] {
            let x = noise(1, rows * width, 1.0);
            let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            for (op, scale) in [(Reduce::Sum, 1.0), (Reduce::Mean, width as f64)] {
                let want: Vec<f64> =
                    wide.chunks(width).map(|row| row.iter().sum::<f64>() / scale).collect();
                for level in Level::available() {
                    let (mut y, mut again) = (vec![0.0_f32; rows], vec![0.0_f32; rows]);
                    reduce(&Pool::new(1), level, op, Rows::new(&x, width), &mut y);
                    reduce(&Pool::new(3), level, op, Rows::new(&x, width), &mut again);
                    assert_close(&y, &want, 1e-5, &format!("{op:?} {level:?}"));
                    assert!(same_bits(&y, &again));
                }
            }
            for level in Level::available() {
                let mut y = vec![0.0_f32; rows];
                reduce(&Pool::new(2), level, Reduce::Max, Rows::new(&x, width), &mut y);
                for (y, row) in y.iter().zip(x.chunks(width)) {
                    assert_eq!(*y, row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                }
                for place in [0, width / 2, width - 1] {
                    let mut bad = x.clone();
                    bad[place] = f32::NAN;
                    reduce(&Pool::new(2), level, Reduce::Max, Rows::new(&bad, width), &mut y);
                    assert!(y[0].is_nan(), "{level:?} {place} of {width}");
                }
            }
        }
    }
}
