//! Sums, means and maxima along the last axis.
//!
//! Contract: one fixed association per row (see `rows`); a maximum is NaN if any element is. An
//! empty row sums to 0, has no mean (NaN) and the maximum −∞.

use super::super::math::lanes::get;
use super::super::math::{Element, LANES, Lanes, vectorised};
use super::super::simd::Level;
use super::super::threads::Pool;
use super::norm::row_sum;
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

vectorised! {
    fn reduce_rows<V, I: Element, O: Element>(
        op: Reduce, x: Rows<'_, I>, first: usize, y: &mut [O]
    ) {
        for (index, y) in y.iter_mut().enumerate() {
            let row = x.row(first + index);
            *y = O::from_f32(match op {
                Reduce::Sum => row_sum::<V, I>(row),
                Reduce::Mean => row_sum::<V, I>(row) / row.len() as f32,
                Reduce::Max => row_largest::<V, I>(row),
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
