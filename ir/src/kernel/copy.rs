//! Strided copies: what moves elements and does nothing else, with zeros between them where asked
//! for. Every op that moves data by a fixed rule is one such kernel; [`copies`] says which.

use crate::op::Op;
use crate::types::{Shape, TensorType};
use smallvec::SmallVec;

/// Most axes of a part.
pub const MOST_AXES: usize = 128;

/// Sizes and strides (elements of an operand from one index to the next) of axes, outermost first.
pub type Axes = SmallVec<[(usize, usize); 8]>;

/// A part of every line of a copy's result.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// This many zeros in every line.
    Zeros(usize),
    /// Elements of an operand.
    Strided {
        /// Position of the operand.
        operand: usize,
        /// Elements of the operand before the first one read.
        offset: usize,
        /// How they lie in the operand, in the order in which they stand in the result: axes of the
        /// lines first, then those of what the part has of a line.
        axes: Axes,
    },
}

/// A result of some lines, each of which is its parts one behind the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CopyKernel {
    /// Name of the op it was made of.
    pub name: String,
    /// Lines of the result.
    pub lines: usize,
    /// Parts of a line.
    pub parts: Vec<Part>,
}

impl CopyKernel {
    /// A copy of all `elements` of the only operand as they lie.
    pub fn whole(name: &str, elements: usize) -> Self {
        let axes = merged([(elements, 1)], 1);
        let part = Part::Strided { operand: 0, offset: 0, axes };
        Self { name: name.to_owned(), lines: 1, parts: vec![part] }
    }

    /// Number of operands.
    pub fn operands(&self) -> usize {
        let operand = |part: &Part| match part {
            Part::Zeros(_) => 0,
            Part::Strided { operand, .. } => operand.saturating_add(1),
        };
        self.parts.iter().map(operand).max().unwrap_or(0)
    }

    /// Elements that a part has of each line; `None` where its axes are not those of the lines and
    /// of so many elements.
    pub fn length(&self, part: &Part) -> Option<usize> {
        let axes = match part {
            Part::Zeros(count) => return Some(*count),
            Part::Strided { axes, .. } => axes,
        };
        let (mut lines, mut length) = (1usize, 1usize);
        for (size, _) in axes {
            let to = if lines < self.lines { &mut lines } else { &mut length };
            *to = to.checked_mul(*size)?;
        }
        (lines == self.lines).then_some(length)
    }

    /// Whether the parts are whole operands, one each in their order, in one line.
    pub fn joins_whole(&self, operands: &[&TensorType]) -> bool {
        let whole = |(at, part): (usize, &Part)| {
            let elements = operands.get(at).map_or(0, |ty| ty.elements());
            let axes = merged([(elements, 1)], 1);
            *part == Part::Strided { operand: at, offset: 0, axes }
        };
        self.lines == 1
            && self.parts.len() == operands.len()
            && self.parts.iter().enumerate().all(whole)
    }
}

/// Axes with those of size 1 left out and neighbours joined where they step evenly, but for the
/// first that is not of the `lines`.
fn merged(axes: impl IntoIterator<Item = (usize, usize)>, lines: usize) -> Axes {
    let mut out = Axes::new();
    let mut seen = 1;
    for (size, stride) in axes {
        let begins = seen == lines;
        seen *= size;
        match out.last_mut() {
            _ if size == 1 => {}
            Some((outer, step)) if !(begins && lines > 1) && *step == stride * size => {
                (*outer, *step) = (*outer * size, stride);
            }
            _ => out.push((size, stride)),
        }
    }
    out
}

/// Of an op that looks at its operand in another way, with a stride for every axis: where the first
/// element of the result, of type `to`, lies in the operand and how far apart its neighbours lie, if
/// the operand, of type `from`, lies by `strides`. `None` for other ops.
pub fn looked(
    op: &Op,
    from: &TensorType,
    strides: &[usize],
    to: &TensorType,
) -> Option<(usize, Shape)> {
    let mut own = Shape::from_slice(strides);
    let offset = match op {
        Op::Slice { axis, start, .. } => start * own[*axis],
        Op::Index { axis, at } => at * own.remove(*axis),
        Op::Permute { perm } => {
            own = perm.iter().map(|axis| strides[*axis]).collect();
            0
        }
        Op::Broadcast => {
            let repeated = |axis: &usize| from.shape[*axis] == 1 && to.shape[*axis] != 1;
            (0..to.rank()).filter(repeated).for_each(|axis| own[axis] = 0);
            0
        }
        _ => return None,
    };
    Some((offset, own))
}

/// The copy that makes the result of an op which moves elements by a fixed rule; `None` for other
/// ops. A cast to the same type is one too.
pub fn copies(op: &Op, operands: &[&TensorType], result: &TensorType) -> Option<CopyKernel> {
    let x = *operands.first()?;
    let strides = x.strides();
    let before = |axis: usize| result.shape[..axis].iter().product::<usize>();
    // Axes of an operand from one on, and the elements of all of them.
    let own = |ty: &TensorType| -> Vec<(usize, usize)> {
        ty.shape.iter().copied().zip(ty.strides()).collect()
    };
    let part = |operand: usize, offset: usize, lines: usize, axes: Vec<(usize, usize)>| {
        Part::Strided { operand, offset, axes: merged(axes, lines) }
    };
    let kernel = |lines: usize, parts: Vec<Part>| {
        Some(CopyKernel { name: op.name().to_owned(), lines, parts })
    };
    let single =
        |offset: usize, axes: Vec<(usize, usize)>| kernel(1, vec![part(0, offset, 1, axes)]);
    if let Some((offset, strides)) = looked(op, x, &strides, result) {
        return single(offset, result.shape.iter().copied().zip(strides).collect());
    }
    match op {
        Op::Cast if x == result => single(0, own(x)),
        Op::Reshape => single(0, own(x)),
        Op::Pad { axis, lo, hi } => {
            let (lines, inner) = (before(*axis), strides[*axis]);
            let middle = part(0, 0, lines, own(x));
            let parts = [Part::Zeros(lo * inner), middle, Part::Zeros(hi * inner)];
            kernel(lines, parts.into_iter().filter(|part| *part != Part::Zeros(0)).collect())
        }
        Op::Concat { axis } => {
            let lines = before(*axis);
            let parts = operands.iter().enumerate().map(|(at, ty)| part(at, 0, lines, own(ty)));
            kernel(lines, parts.collect())
        }
        Op::Upsample { factors } => {
            let each = (0..x.rank()).flat_map(|a| [(x.shape[a], strides[a]), (factors[a], 0)]);
            single(0, each.collect())
        }
        Op::Patchify { patch } => {
            // Result axes: frame, row, column, channel, then the position inside the patch.
            let blocks = (0..3).map(|a| (x.shape[a + 1] / patch[a], strides[a + 1] * patch[a]));
            let inside = (0..3).map(|a| (patch[a], strides[a + 1]));
            single(0, blocks.chain([(x.shape[0], strides[0])]).chain(inside).collect())
        }
        Op::Unpatchify { patch, grid } => {
            let channels = result.shape[0];
            // The operand has the grid, then the position inside a patch, then the channel.
            let shape = [grid[0], grid[1], grid[2], patch[0], patch[1], patch[2], channels];
            let from = TensorType::new(x.dtype, shape).strides();
            let each = (0..3).flat_map(|a| [(grid[a], from[a]), (patch[a], from[a + 3])]);
            single(0, std::iter::once((channels, from[6])).chain(each).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DType;

    fn ty(shape: &[usize]) -> TensorType {
        TensorType::new(DType::F32, shape.iter().copied())
    }

    #[test]
    fn axes_are_joined_where_memory_is_one_run() {
        let strided = |operand, offset, axes: &[(usize, usize)]| {
            let axes = axes.iter().copied().collect();
            Part::Strided { operand, offset, axes }
        };
        let made = |op: Op, from: &[usize], to: &[usize]| {
            let kernel = copies(&op, &[&ty(from)], &ty(to)).unwrap();
            let lengths: usize = kernel.parts.iter().map(|p| kernel.length(p).unwrap()).sum();
            assert_eq!(kernel.lines * lengths, ty(to).elements(), "{kernel:?}");
            (kernel.lines, kernel.parts)
        };
        let perm = |perm: &[usize]| Op::Permute { perm: perm.iter().copied().collect() };
        assert_eq!(
            made(perm(&[0, 1, 3, 2]), &[2, 3, 4, 5], &[2, 3, 5, 4]),
            (1, vec![strided(0, 0, &[(6, 20), (5, 1), (4, 5)])])
        );
        assert_eq!(
            made(Op::Slice { axis: 1, start: 1, len: 2 }, &[3, 4, 5], &[3, 2, 5]),
            (1, vec![strided(0, 5, &[(3, 20), (10, 1)])])
        );
        assert_eq!(
            made(Op::Pad { axis: 1, lo: 0, hi: 2 }, &[3, 4, 5], &[3, 6, 5]),
            (3, vec![strided(0, 0, &[(3, 20), (20, 1)]), Part::Zeros(10)])
        );
        let (lines, parts) = made(Op::Reshape, &[1, 1], &[1]);
        assert_eq!((lines, parts), (1, CopyKernel::whole("", 1).parts));
        let kernel = copies(&Op::Concat { axis: 1 }, &[&ty(&[2, 3]), &ty(&[2, 1])], &ty(&[2, 4]));
        let kernel = kernel.unwrap();
        assert_eq!(kernel.parts[1], strided(1, 0, &[(2, 1)]));
        assert_eq!((kernel.operands(), kernel.length(&kernel.parts[1])), (2, Some(1)));
        assert!(!kernel.joins_whole(&[&ty(&[2, 3]), &ty(&[2, 1])]));
        let kernel = copies(&Op::Concat { axis: 0 }, &[&ty(&[2, 3]), &ty(&[1, 3])], &ty(&[3, 3]));
        assert!(kernel.unwrap().joins_whole(&[&ty(&[2, 3]), &ty(&[1, 3])]));
        assert_eq!(copies(&Op::Silu, &[&ty(&[2])], &ty(&[2])), None);
    }
}
