//! Walks over strided tensors: rows along the innermost axis, with axes merged where possible.

use crate::types::{Shape, strides};
use smallvec::SmallVec;

/// One axis: its size and the step each of the `N` tensors makes along it.
type Axis<const N: usize> = (usize, [usize; N]);

/// A walk over a shape shared by `N` tensors.
pub(super) struct Walk<const N: usize> {
    outer: SmallVec<[Axis<N>; 6]>,
    /// Length of a row.
    pub(super) length: usize,
    /// Steps along a row.
    pub(super) steps: [usize; N],
    empty: bool,
}

impl<const N: usize> Walk<N> {
    pub(super) fn new(shape: &[usize], strides: [&[usize]; N]) -> Self {
        let mut axes: SmallVec<[Axis<N>; 6]> = SmallVec::new();
        for (axis, size) in shape.iter().enumerate().filter(|(_, size)| **size != 1) {
            let steps = strides.map(|s| s[axis]);
            if let Some((outer, outer_steps)) = axes.last_mut()
                && (0..N).all(|i| outer_steps[i] == steps[i] * size)
            {
                *outer *= size;
                *outer_steps = steps;
                continue;
            }
            axes.push((*size, steps));
        }
        let empty = shape.contains(&0);
        let (length, steps) = axes.pop().unwrap_or((1, [0; N]));
        Self { outer: axes, length, steps, empty }
    }

    /// Calls `row` with the first position of every row in each tensor, in row-major order.
    pub(super) fn rows(&self, mut row: impl FnMut([usize; N])) {
        if self.empty {
            return;
        }
        let mut at: SmallVec<[usize; 6]> = smallvec::smallvec![0; self.outer.len()];
        let mut base = [0; N];
        loop {
            row(base);
            let mut axis = self.outer.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                let (size, steps) = self.outer[axis];
                at[axis] += 1;
                if at[axis] < size {
                    (0..N).for_each(|i| base[i] += steps[i]);
                    break;
                }
                at[axis] = 0;
                (0..N).for_each(|i| base[i] -= steps[i] * (size - 1));
            }
        }
    }
}

/// Strides with which a tensor of shape `from` is read as shape `to`: 0 where it is repeated.
/// Missing leading axes count as size 1.
pub(super) fn repeated(from: &[usize], to: &[usize]) -> Shape {
    let own = strides(from);
    let missing = to.len() - from.len();
    (0..to.len())
        .map(|axis| match axis.checked_sub(missing) {
            Some(i) if from[i] != 1 => own[i],
            _ => 0,
        })
        .collect()
}
