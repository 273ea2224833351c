//! Norms, rotation, modulation and the tables made from positions.

use super::{Fill, OpCase, ROWS, Tolerance, gives, indices, single, value, weight};
use anyid_ir::{DType, Op};

pub(super) fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    norms(&mut out);
    flat_rows(&mut out);
    rotations(&mut out);
    modulations(&mut out);
    tables(&mut out);
    out
}

const SHAPES: [&[usize]; 9] =
    [&[1], &[17], &[3, 1], &[5, 2], &[17, 64], &[2, 3, 33], &[1, 1, 2, 130], &[7, 640], &[401, 48]];

fn norms(out: &mut Vec<OpCase>) {
    let tolerance = Tolerance::singles(3e-6);
    let mut add = |name: String, dtypes: &[DType], op: &Op, operands: Vec<_>, to: Option<DType>| {
        let result = to.map(|to| gives(Some(to), &[]));
        out.push(single(name, dtypes, tolerance, op.clone(), operands, result));
    };
    for shape in SHAPES {
        let width = *shape.last().expect("every shape has an axis");
        let vector = |w: bool| value(&[width]).of(DType::F32).given_as(w);
        for to in [None, Some(DType::F32), Some(DType::Bf16)] {
            for eps in [1e-6, 1e-2] {
                let op = Op::LayerNorm { eps };
                let name = format!("{shape:?} {eps} to {to:?}");
                add(name.clone(), ROWS, &op, vec![value(shape)], to);
                for w in [false, true] {
                    let operands = vec![value(shape), vector(w)];
                    add(format!("{name}, scaled {w}"), ROWS, &op, operands, to);
                    let operands = vec![value(shape), vector(w), vector(!w)];
                    add(format!("{name}, affine {w}"), ROWS, &op, operands, to);
                }
                for clamp in [false, true] {
                    let op = Op::RmsNorm { eps, clamp };
                    for w in [false, true] {
                        let operands = vec![value(shape), vector(w)];
                        add(format!("{name} {clamp} {w}"), ROWS, &op, operands, to);
                    }
                }
            }
        }
    }
    // Gains in another type than f32, as in a checkpoint that is stored so.
    for declared in [DType::Bf16, DType::F16] {
        let gain = || weight(&[33]).of(declared);
        let op = Op::RmsNorm { eps: 1e-6, clamp: false };
        add(format!("{declared} gains"), ROWS, &op, vec![value(&[5, 33]), gain()], None);
        let op = Op::LayerNorm { eps: 1e-6 };
        let operands = vec![value(&[5, 33]), gain(), gain().stored(DType::F32)];
        add(format!("{declared} gains"), ROWS, &op, operands, None);
    }
}

/// Rows far from zero, and rows that are all alike.
fn flat_rows(out: &mut Vec<OpCase>) {
    for fill in [Fill::Within(999.0, 1001.0), Fill::List(vec![0.0]), Fill::List(vec![3.0])] {
        // Everything is a difference from a mean near 1000, which is rounded to a single.
        let tolerance = Tolerance::singles(1e-4);
        let operands = || vec![value(&[5, 70]).filled(fill.clone())];
        let name = format!("of {fill:?}");
        let op = Op::LayerNorm { eps: 1.0 };
        out.push(single(name.clone(), &[DType::F32], tolerance, op, operands(), None));
        for clamp in [false, true] {
            let mut operands = operands();
            operands.push(value(&[70]).of(DType::F32));
            let op = Op::RmsNorm { eps: 1e-6, clamp };
            let name = format!("{name} {clamp}");
            out.push(single(name, ROWS, Tolerance::singles(3e-6), op, operands, None));
        }
    }
}

fn rotations(out: &mut Vec<OpCase>) {
    for (rows, heads, dim) in
        [(1, 1, 2), (17, 1, 6), (5, 3, 34), (33, 2, 64), (3, 1, 128), (301, 4, 32)]
    {
        for w in [false, true] {
            let table = value(&[rows, dim / 2, 2]).of(DType::F32).given_as(w);
            let operands = vec![value(&[rows, heads * dim]), table];
            let name = format!("{rows} rows of {heads}x{dim}, weight {w}");
            let op = Op::Rope { heads };
            out.push(single(name, ROWS, Tolerance::singles(1e-6), op, operands, None));
        }
    }
}

fn modulations(out: &mut Vec<OpCase>) {
    let tolerance = Tolerance::singles(1e-6);
    for (rows, groups, width) in [(1, 1, 1), (17, 2, 5), (5, 7, 33), (64, 1, 64), (301, 2, 96)] {
        for w in [false, true] {
            let table = || value(&[groups, width]).of(DType::F32).given_as(w);
            for to in [None, Some(DType::F32), Some(DType::Bf16)] {
                let operands =
                    vec![value(&[rows, width]), table(), table(), indices(&[rows], groups)];
                let name = format!("{rows}x{width} of {groups}, weights {w} to {to:?}");
                let result = to.map(|to| gives(Some(to), &[]));
                out.push(single(name, ROWS, tolerance, Op::Modulate, operands, result));
            }
            for branch in ROWS {
                let branch = value(&[rows, width]).of(*branch);
                let name = format!("{rows}x{width} of {groups}, weights {w} {branch:?}");
                let operands =
                    vec![value(&[rows, width]), branch, table(), indices(&[rows], groups)];
                out.push(single(name, ROWS, tolerance, Op::GateAdd, operands, None));
            }
        }
        for to in [None, Some(DType::F32)] {
            let operands = vec![value(&[rows, width]), indices(&[rows], groups)];
            let name = format!("{rows}x{width} of {groups} to {to:?}");
            let result = to.map(|to| gives(Some(to), &[]));
            let op = Op::SegmentSum { segments: groups };
            out.push(single(name, ROWS, tolerance, op, operands, result));
        }
        // Rows of segments that are not there count nowhere.
        let operands = vec![value(&[rows, width]), indices(&[rows], groups + 2)];
        let op = Op::SegmentSum { segments: groups };
        let name = format!("{rows}x{width} of {groups} and more");
        out.push(single(name, ROWS, tolerance, op, operands, None));
    }
}

fn tables(out: &mut Vec<OpCase>) {
    let close = Tolerance::singles(1e-6);
    let single_type = &[DType::F32];
    for (rows, cols, head_dim, theta) in
        [(1, 1, 6, 10000.0), (2, 3, 16, 10000.0), (3, 5, 34, 100.0), (2, 2, 128, 10000.0)]
    {
        for positions in [vec![0.0], vec![0.0, 1.0, 2.0], vec![30.0, 7.0, 1023.0, -5.0]] {
            let name = format!("{rows}x{cols} {head_dim} {theta} at {positions:?}");
            let frames = value(&[positions.len()]).of(DType::I32).filled(Fill::List(positions));
            let op = Op::RopeTable { rows, cols, head_dim, theta };
            out.push(single(name, single_type, close, op, vec![frames], None));
        }
    }
    for dim in [2, 6, 64, 256] {
        for steps in [vec![0.0], vec![0.0, 1000.0], vec![999.5, 3.25, 1e-3, 417.0, 1.0]] {
            let name = format!("{dim} at {steps:?}");
            let steps = value(&[steps.len()]).of(DType::F32).filled(Fill::List(steps));
            let op = Op::TimestepEmbedding { dim };
            out.push(single(name, single_type, close, op, vec![steps], None));
        }
    }
    let extremes = [0.0, 1.0, -1.0, f64::from(i32::MAX), f64::from(i32::MIN), -128.0, 127.0];
    for (buckets, max_distance) in [(32, 128), (8, 16), (64, 1000), (4, 2), (16, 5), (4096, 5000)] {
        let op = Op::RelativeBucket { buckets, max_distance };
        for (name, fill) in [
            ("near", Fill::Whole(-20, 21)),
            ("middle", Fill::Whole(-300, 301)),
            ("far", Fill::Whole(-9000, 9001)),
            ("extreme", Fill::List(extremes.to_vec())),
        ] {
            let delta = value(&[7, 43]).of(DType::I32).filled(fill);
            let name = format!("{buckets} to {max_distance}, {name}");
            out.push(single(name, single_type, Tolerance::EXACT, op.clone(), vec![delta], None));
        }
    }
}
