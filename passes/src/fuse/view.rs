//! Values as strided views of other values.
//!
//! A row kernel can read a slice, an index or a broadcast where it lies, so such steps cost nothing
//! in front of one. Every value gets the base it can be read from: itself, or the value at the
//! start of a chain of movement ops that keep a stride for every axis.

use crate::program::{Program, ProgramStep, ValueIndex};
use anyid_ir::kernel::{Access, Columns, RowMap, looked};
use anyid_ir::{Op, Shape};

/// A value as elements of another: element `index` lies at `offset + Σ index · stride`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strided {
    /// The value whose memory is read.
    pub base: ValueIndex,
    /// Elements before the first.
    pub offset: usize,
    /// Elements from one index to the next, for every axis.
    pub strides: Shape,
}

/// A value as it lies in its own memory.
pub fn own(program: &Program, value: ValueIndex) -> Strided {
    Strided { base: value, offset: 0, strides: program.ty(value).strides() }
}

/// The view of every value.
pub fn views(program: &Program) -> Vec<Strided> {
    let mut views: Vec<Strided> =
        (0..program.values.len() as u32).map(|value| own(program, value)).collect();
    for step in &program.steps {
        if let Some(view) = through(program, step, &views) {
            views[step.result() as usize] = view;
        }
    }
    views
}

fn through(program: &Program, step: &ProgramStep, views: &[Strided]) -> Option<Strided> {
    let operand = *step.operands.first()?;
    let from = program.ty(operand);
    let to = program.ty(step.result());
    let mut view = views[operand as usize].clone();
    match &step.op {
        Op::Reshape => {
            let own = from.strides();
            let dense = (0..from.rank()).all(|a| from.shape[a] == 1 || view.strides[a] == own[a]);
            if dense {
                view.strides = to.strides();
                return Some(view);
            }
            // Axes of size 1 may come and go; any other reshape needs the elements in order.
            let mut kept = (0..from.rank()).filter(|a| from.shape[*a] != 1);
            let mut strides = Shape::new();
            for size in &to.shape {
                if *size == 1 {
                    strides.push(0);
                } else {
                    let axis = kept.next().filter(|a| from.shape[*a] == *size)?;
                    strides.push(view.strides[axis]);
                }
            }
            if kept.next().is_some() {
                return None;
            }
            view.strides = strides;
        }
        op => {
            let (offset, strides) = looked(op, from, &view.strides, to)?;
            (view.offset, view.strides) = (view.offset + offset, strides);
        }
    }
    Some(view)
}

/// Whether an op only rearranges elements by strides.
pub fn is_movement(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape | Op::Slice { .. } | Op::Index { .. } | Op::Broadcast | Op::Permute { .. }
    )
}

/// How a row kernel reads `view` of a value of `shape` over a space whose last `inner` axes are the
/// columns; `None` where neighbours in a row are not neighbours in memory or rows follow no single
/// stride.
pub fn row_view(view: &Strided, shape: &[usize], space: &[usize], inner: usize) -> Option<Access> {
    let skip = space.len().checked_sub(shape.len())?;
    let axes = |range: std::ops::Range<usize>| -> Vec<(usize, usize)> {
        // Axes from the innermost, merged where they step evenly: size and stride.
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for axis in range.rev().filter(|a| space[*a] != 1) {
            let stride = match axis.checked_sub(skip) {
                Some(own) if shape[own] != 1 => view.strides[own],
                _ => 0,
            };
            match merged.last_mut() {
                Some((size, inner)) if stride == *inner * *size => *size *= space[axis],
                _ => merged.push((space[axis], stride)),
            }
        }
        merged
    };
    let split = space.len() - inner;
    let (width, columns) = match axes(split..space.len())[..] {
        [] => (1, Columns::All),
        [(size, 1)] => (size, Columns::All),
        [(size, 0)] => (size, Columns::One),
        _ => return None,
    };
    let outer = axes(0..split);
    let mut found = None;
    let mut divisor = 1;
    for (at, (size, stride)) in outer.iter().enumerate() {
        if *stride != 0 {
            if found.is_some() {
                return None;
            }
            let modulus = if at + 1 == outer.len() { usize::MAX } else { *size };
            found = Some((divisor, modulus, *stride));
        }
        divisor *= size;
    }
    let (rows, stride) = match found {
        Some((divisor, modulus, stride)) => (RowMap::Affine { divisor, modulus }, stride),
        // One row in all is its own row.
        None if outer.is_empty() => (RowMap::OWN, if columns == Columns::One { 1 } else { width }),
        None => (RowMap::Fixed, 0),
    };
    Some(Access { operand: 0, rows, columns, offset: view.offset, stride })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Origin;
    use anyid_ir::{DType, TensorType};

    #[test]
    fn rows_of_broadcast_slices_and_tables() {
        let mut program = Program::default();
        let ty = |shape: &[usize]| TensorType::new(DType::F32, shape.iter().copied());
        let table = program.value(ty(&[2, 6, 8]), Origin::Input(0));
        let pattern = program.value(ty(&[1, 6, 8]), Origin::Input(1));
        let number = program.value(ty(&[1, 1]), Origin::Input(2));
        let mut step = |op, from, shape: &[usize]| {
            program.step(op, smallvec::smallvec![from], ty(shape), String::new())
        };
        let third = step(Op::Index { axis: 1, at: 3 }, table, &[2, 8]);
        let wide = step(Op::Reshape, third, &[2, 1, 8]);
        let mixed = step(Op::Reshape, third, &[16]);
        let turned = step(Op::Permute { perm: [1, 0].into_iter().collect() }, third, &[8, 2]);
        let views = views(&program);
        let read = |value: ValueIndex, shape: &[usize], space: &[usize]| {
            row_view(&views[value as usize], shape, space, 1)
        };
        let own = |offset, stride| {
            let (rows, columns) = (RowMap::OWN, Columns::All);
            Access { operand: 0, rows, columns, offset, stride }
        };
        let affine = |divisor, modulus| RowMap::Affine { divisor, modulus };
        assert_eq!(read(third, &[2, 8], &[2, 8]), Some(own(24, 48)));
        assert_eq!(views[third as usize].base, table);
        let repeated = read(wide, &[2, 1, 8], &[2, 6, 8]).unwrap();
        assert_eq!((repeated.rows, repeated.stride), (affine(6, usize::MAX), 48));
        let again = read(pattern, &[1, 6, 8], &[2, 6, 8]).unwrap();
        assert_eq!((again.rows, again.stride), (affine(1, 6), 8));
        assert_eq!(views[mixed as usize].base, mixed, "not in order in memory");
        assert_eq!(read(turned, &[8, 2], &[8, 2]), None, "neighbours are far apart");
        let scalar = read(number, &[1, 1], &[4, 5]).unwrap();
        assert_eq!((scalar.columns, scalar.rows), (Columns::One, RowMap::Fixed));
    }
}
