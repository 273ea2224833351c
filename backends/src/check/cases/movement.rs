//! Views and movement: every element arrives, unchanged, where it belongs.

use super::{Fill, Given, OpCase, Tolerance, again, gives, indices, single, value, weight};
use anyid_ir::{Axes, DType, Op};

/// One type of each width, and truth values.
const WIDTHS: &[DType] = &[DType::F32, DType::Bf16, DType::F64, DType::I32, DType::U8, DType::Bool];

pub(super) fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    shapes(&mut out);
    windows(&mut out);
    joins(&mut out);
    gathers(&mut out);
    blocks(&mut out);
    of_weights(&mut out);
    out
}

fn moved(out: &mut Vec<OpCase>, name: String, op: Op, operands: Vec<Given>, shape: &[usize]) {
    let result = Some(gives(None, shape));
    out.push(single(name, WIDTHS, Tolerance::EXACT, op, operands, result));
}

fn shapes(out: &mut Vec<OpCase>) {
    let reshapes: [(&[usize], &[usize]); 6] = [
        (&[2, 3, 4], &[4, 6]),
        (&[2, 3, 4], &[24]),
        (&[2, 3, 4], &[1, 2, 1, 12]),
        (&[1], &[]),
        (&[], &[1, 1]),
        (&[7, 5], &[7, 5]),
    ];
    for (from, to) in reshapes {
        moved(out, format!("{from:?} to {to:?}"), Op::Reshape, vec![value(from)], to);
    }
    let permutations: [(&[usize], &[usize]); 13] = [
        (&[5], &[0]),
        (&[3, 7], &[0, 1]),
        (&[3, 7], &[1, 0]),
        (&[1, 9], &[1, 0]),
        (&[2, 3, 5], &[0, 2, 1]),
        (&[2, 3, 5], &[2, 0, 1]),
        (&[2, 3, 5], &[1, 0, 2]),
        (&[2, 3, 5], &[2, 1, 0]),
        (&[2, 3, 4, 5], &[1, 2, 3, 0]),
        (&[2, 3, 4, 5], &[3, 0, 2, 1]),
        (&[2, 2, 3, 2, 2], &[0, 2, 1, 4, 3]),
        // More than one task.
        (&[301, 257], &[1, 0]),
        (&[5, 130, 131], &[1, 0, 2]),
    ];
    for (shape, perm) in permutations {
        let op = Op::Permute { perm: Axes::from_slice(perm) };
        moved(out, format!("{shape:?} by {perm:?}"), op, vec![value(shape)], &[]);
    }
    let broadcasts: [(&[usize], &[usize]); 7] = [
        (&[1, 3], &[4, 3]),
        (&[3, 1], &[3, 5]),
        (&[2, 1, 3], &[2, 5, 3]),
        (&[1, 1, 1], &[2, 3, 4]),
        (&[2, 1, 3, 1], &[2, 4, 3, 5]),
        (&[3, 5], &[3, 5]),
        (&[1, 701], &[303, 701]),
    ];
    for (from, to) in broadcasts {
        moved(out, format!("{from:?} to {to:?}"), Op::Broadcast, vec![value(from)], to);
    }
}

fn windows(out: &mut Vec<OpCase>) {
    let shape = [5, 4, 7];
    for axis in 0..3 {
        let size = shape[axis];
        for (start, len) in [(0, 1), (1, 2), (size - 1, 1), (1, size - 1), (0, size)] {
            let op = Op::Slice { axis, start, len };
            moved(out, format!("{start}+{len} of {axis}"), op, vec![value(&shape)], &[]);
        }
        for at in [0, 1, size - 1] {
            let op = Op::Index { axis, at };
            moved(out, format!("{at} of {axis}"), op, vec![value(&shape)], &[]);
        }
        for (lo, hi) in [(0, 0), (1, 0), (0, 2), (3, 1)] {
            let op = Op::Pad { axis, lo, hi };
            moved(out, format!("{lo} and {hi} on {axis}"), op, vec![value(&shape)], &[]);
        }
    }
    let one = vec![value(&[1, 6, 5])];
    moved(out, "behind an axis of 1".into(), Op::Slice { axis: 1, start: 2, len: 3 }, one, &[]);
    let one = vec![value(&[1, 6, 5])];
    moved(out, "behind an axis of 1".into(), Op::Index { axis: 1, at: 4 }, one, &[]);
    moved(out, "of a vector".into(), Op::Index { axis: 0, at: 2 }, vec![value(&[3])], &[]);
}

fn joins(out: &mut Vec<OpCase>) {
    for axis in 0..3 {
        for sizes in [&[3][..], &[1, 1], &[2, 5], &[4, 1, 3]] {
            let part = |size: &usize| {
                let mut shape = [2, 3, 4];
                shape[axis] = *size;
                value(&shape)
            };
            let operands = sizes.iter().map(part).collect();
            let name = format!("{sizes:?} along {axis}");
            moved(out, name, Op::Concat { axis }, operands, &[]);
        }
        let twice = vec![value(&[2, 3, 4]), again(0), value(&[2, 3, 4]), again(0)];
        moved(out, format!("of one twice along {axis}"), Op::Concat { axis }, twice, &[]);
    }
}

fn gathers(out: &mut Vec<OpCase>) {
    let tables: [(&[usize], &[usize]); 6] = [
        (&[7, 5], &[4]),
        (&[1, 5], &[3]),
        (&[9], &[2, 3]),
        (&[4, 2, 3], &[2, 1, 3]),
        (&[6, 17], &[]),
        (&[3, 1], &[33]),
    ];
    for (table, shape) in tables {
        let rows = indices(shape, table[0]);
        let name = format!("{shape:?} of {table:?}");
        moved(out, name.clone(), Op::Gather, vec![value(table), rows.clone()], &[]);
        let name = format!("{name}, a weight");
        moved(out, name, Op::Gather, vec![weight(table), rows.clone()], &[]);
        for stored in [DType::F32, DType::Bf16, DType::F16] {
            let operands = vec![weight(table).stored(stored), rows.clone()];
            let name = format!("{shape:?} of {table:?}, a weight stored as {stored}");
            let dtypes = [DType::F32, DType::Bf16, DType::F16];
            out.push(single(name, &dtypes, Tolerance::EXACT, Op::Gather, operands, None));
        }
    }
}

fn blocks(out: &mut Vec<OpCase>) {
    let factors: [(&[usize], &[usize]); 6] = [
        (&[5], &[3]),
        (&[2, 3], &[1, 2]),
        (&[2, 3], &[3, 1]),
        (&[2, 3, 4, 5], &[1, 2, 2, 1]),
        (&[2, 1, 3, 2], &[2, 2, 2, 3]),
        (&[1, 1], &[1, 1]),
    ];
    for (shape, factors) in factors {
        let op = Op::Upsample { factors: Axes::from_slice(factors) };
        moved(out, format!("{shape:?} by {factors:?}"), op, vec![value(shape)], &[]);
    }
    for (shape, patch) in [
        ([3, 2, 4, 6], [1, 2, 2]),
        ([3, 2, 4, 6], [2, 2, 3]),
        ([1, 3, 1, 5], [3, 1, 1]),
        ([5, 1, 2, 2], [1, 2, 2]),
        ([2, 3, 5, 7], [1, 1, 1]),
    ] {
        let op = Op::Patchify { patch };
        moved(out, format!("{shape:?} by {patch:?}"), op, vec![value(&shape)], &[]);
        let [c, f, h, w] = shape;
        let grid = [f / patch[0], h / patch[1], w / patch[2]];
        let volume: usize = patch.iter().product();
        let tokens = [grid.iter().product(), volume * c];
        let op = Op::Unpatchify { patch, grid };
        moved(out, format!("{grid:?} by {patch:?}"), op, vec![value(&tokens)], &[]);
    }
}

/// Weights as operands of movement, in their type and stored in another.
fn of_weights(out: &mut Vec<OpCase>) {
    let ops = [
        (Op::Permute { perm: Axes::from_slice(&[2, 0, 1]) }, &[][..]),
        (Op::Slice { axis: 0, start: 1, len: 2 }, &[]),
        (Op::Slice { axis: 2, start: 1, len: 3 }, &[]),
        (Op::Index { axis: 0, at: 2 }, &[]),
        (Op::Index { axis: 1, at: 2 }, &[]),
        (Op::Pad { axis: 1, lo: 1, hi: 2 }, &[]),
        (Op::Concat { axis: 1 }, &[]),
        (Op::Reshape, &[4, 15]),
        (Op::Broadcast, &[3, 4, 5]),
        (Op::Cast, &[3, 4, 5]),
    ];
    for (op, shape) in ops {
        let weights = [
            (weight(&[3, 4, 5]), "a weight".to_owned()),
            (weight(&[3, 4, 5]).stored(DType::Bf16), "a weight stored as bf16".to_owned()),
            (weight(&[3, 4, 5]).stored(DType::F32), "a weight stored as f32".to_owned()),
        ];
        for (operand, name) in weights {
            let result = Some(gives(None, shape));
            let dtypes = [DType::F32, DType::Bf16, DType::F16];
            let operands = vec![operand.filled(Fill::Within(-1.0, 1.0))];
            out.push(single(
                format!("{name} {shape:?}"),
                &dtypes,
                Tolerance::EXACT,
                op.clone(),
                operands,
                result,
            ));
        }
    }
}
