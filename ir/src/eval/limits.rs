//! What the interpreter takes on: bounds that keep any verified module from exhausting memory.
//!
//! A shape's extent is the product of its sizes with 0 counted as 1, so that reordering the axes
//! of an empty tensor stays within bounds too.

use super::error::{EvalError, too_large};
use crate::op::Op;
use crate::types::TensorType;

/// Largest extent of one value.
const MOST_ELEMENTS: usize = 1 << 28;

/// Most kernel positions of a convolution, each of which is several nodes.
const MOST_TAPS: usize = 1 << 12;

fn within(sizes: impl IntoIterator<Item = usize>, most: usize) -> bool {
    let extent = sizes.into_iter().try_fold(1usize, |n, size| n.checked_mul(size.max(1)));
    extent.is_some_and(|extent| extent <= most)
}

/// Refuses a value of an absurd type. Error: E1045.
pub(super) fn check(ty: &TensorType) -> Result<(), EvalError> {
    if within(ty.shape.iter().copied(), MOST_ELEMENTS) {
        return Ok(());
    }
    Err(too_large(&format!("a value of type {ty}"), MOST_ELEMENTS))
}

/// Refuses a composite with values inside its decomposition that are much larger than operands and
/// result, which have been checked. Error: E1045.
pub(super) fn check_inside(op: &Op, operands: &[&TensorType]) -> Result<(), EvalError> {
    let shape = |operand: usize| operands[operand].shape.as_slice();
    let fits = match op {
        Op::Attention { heads, .. } => {
            let lead = &shape(0)[..shape(0).len() - 1];
            let keys = shape(1)[shape(1).len() - 2];
            let width = shape(0).last().map_or(1, |d| d / heads);
            let scores = lead.iter().copied().chain([keys, *heads]);
            let rows = [lead.iter().product::<usize>().max(keys), *heads, width];
            within(scores, MOST_ELEMENTS) && within(rows, MOST_ELEMENTS)
        }
        Op::Rope { heads } => within([shape(0)[0], *heads, 2], MOST_ELEMENTS),
        Op::Conv { pad, .. } => {
            let mut padded = [1, 1, 1, shape(0)[3]];
            for axis in 0..3 {
                let [lo, hi] = pad[axis];
                padded[axis] = shape(0)[axis].saturating_add(lo).saturating_add(hi);
            }
            if !within(shape(1)[2..].iter().copied(), MOST_TAPS) {
                return Err(too_large("the kernel of a convolution", MOST_TAPS));
            }
            within(padded, MOST_ELEMENTS)
        }
        _ => true,
    };
    if fits {
        Ok(())
    } else {
        Err(too_large(&format!("the inside of {}", op.name()), MOST_ELEMENTS))
    }
}
