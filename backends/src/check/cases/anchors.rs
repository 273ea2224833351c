//! Linear layers, attention and convolutions.

use super::{Fill, OpCase, PRODUCTS, Tolerance, gives, single, value, weight};
use anyid_ir::{DType, Op};

pub(super) fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    linear(&mut out);
    attention(&mut out);
    conv(&mut out);
    out
}

fn linear(out: &mut Vec<OpCase>) {
    // Leading axes of x, length of the sums, columns.
    let sizes: [(&[usize], usize, usize); 13] = [
        (&[1], 1, 1),
        (&[], 17, 5),
        (&[1], 17, 3),
        (&[17], 5, 1),
        (&[2, 3], 17, 9),
        (&[3], 64, 64),
        (&[33], 131, 70),
        (&[5], 600, 33),
        (&[130], 48, 17),
        (&[2, 1, 7], 16, 16),
        (&[64], 2, 129),
        (&[257], 40, 48),
        (&[700], 33, 65),
    ];
    let tolerance = Tolerance::singles(1e-5);
    for (leading, k, n) in sizes {
        let mut shape = leading.to_vec();
        shape.push(k);
        for w in [weight(&[n, k]), value(&[n, k])] {
            for bias in [None, Some(false), Some(true)] {
                for to in [None, Some(DType::F32), Some(DType::Bf16)] {
                    let mut operands = vec![value(&shape), w.clone()];
                    operands.extend(bias.map(|w| value(&[n]).of(DType::F32).given_as(w)));
                    let name = format!("{leading:?} {k} {n} w {w:?} bias {bias:?} to {to:?}");
                    let result = to.map(|to| gives(Some(to), &[]));
                    let case = single(name, PRODUCTS, tolerance, Op::Linear, operands, result);
                    out.push(case);
                }
            }
        }
    }
    // Types of weights other than that of the input, declared and stored.
    for x in PRODUCTS {
        for (declared, stored) in [
            (DType::F32, DType::F32),
            (DType::F32, DType::Bf16),
            (DType::F32, DType::F16),
            (DType::Bf16, DType::F32),
            (DType::Bf16, DType::Bf16),
            (DType::Bf16, DType::F16),
            (DType::F16, DType::F16),
            (DType::F16, DType::F32),
        ] {
            let w = weight(&[35, 66]).of(declared).stored(stored);
            let bias = weight(&[35]).of(declared).stored(stored);
            let name = format!("{declared} weights stored as {stored}, {x}");
            let result = Some(gives(Some(DType::F32), &[]));
            let operands = vec![value(&[19, 66]), w, bias];
            out.push(single(name, &[*x], tolerance, Op::Linear, operands, result));
            let w = value(&[35, 66]).of(declared);
            let name = format!("{declared} values, {x}, {stored}");
            let result = Some(gives(Some(DType::F32), &[]));
            let operands = vec![value(&[19, 66]), w];
            out.push(single(name, &[*x], tolerance, Op::Linear, operands, result));
        }
    }
    // A NaN or an infinity stays in its row.
    let x = value(&[5, 7]).filled(Fill::List(vec![1.0; 7].into_iter().chain([f64::NAN]).collect()));
    let operands = vec![x, weight(&[6, 7])];
    out.push(single("a NaN in some rows", PRODUCTS, tolerance, Op::Linear, operands, None));
}

fn attention(out: &mut Vec<OpCase>) {
    // Batch (0 for none), heads, channels of a head, queries, keys.
    let sizes = [
        (0, 1, 16, 1, 1),
        (0, 2, 32, 17, 17),
        (0, 3, 16, 33, 7),
        (0, 2, 48, 5, 61),
        (3, 2, 64, 9, 20),
        (3, 1, 128, 34, 34),
        (1, 1, 640, 20, 20),
        (2, 1, 640, 3, 70),
        (0, 2, 128, 140, 150),
        (0, 2, 64, 70, 140),
        (0, 1, 7, 19, 23),
        (3, 2, 6, 1, 300),
        (0, 1, 1, 4, 3),
    ];
    let close = Tolerance { f32: 1e-5, half: 2e-2, f64: 0.0 };
    for (batch, heads, dim, queries, keys) in sizes {
        let rows = |rows: usize| match batch {
            0 => value(&[rows, heads * dim]),
            _ => value(&[batch, rows, heads * dim]),
        };
        for bias in [None, Some(false), Some(true)] {
            for scale in [1.0 / (dim as f64).sqrt(), 1.0 / (1.0 + dim as f64)] {
                let mut operands = vec![rows(queries), rows(keys), rows(keys)];
                let table = [heads, queries + keys - 1];
                operands.extend(bias.map(|w| value(&table).of(DType::F32).given_as(w)));
                let op = Op::Attention { heads, scale, lse: false, last: 1 };
                let name = format!("{batch}x{heads}x{dim} {queries}x{keys} {bias:?} {scale}");
                out.push(single(name, PRODUCTS, close, op, operands, None));
            }
        }
    }
    // With the logarithms of its sums, which are f32 whatever it multiplies.
    for (batch, heads, dim, queries, keys) in [
        (None, 1, 1, 1, 1),
        (None, 3, 16, 33, 7),
        (Some(3), 2, 64, 9, 20),
        (None, 2, 128, 140, 150),
        (Some(2), 1, 640, 3, 70),
    ] {
        let rows = |rows: usize| {
            let shape: Vec<usize> = batch.into_iter().chain([rows, heads * dim]).collect();
            value(&shape)
        };
        for bias in [false, true] {
            let mut operands = vec![rows(queries), rows(keys), rows(keys)];
            let table = value(&[heads, queries + keys - 1]).of(DType::F32);
            operands.extend(bias.then_some(table));
            let op = Op::Attention { heads, scale: 1.0 / (dim as f64).sqrt(), lse: true, last: 1 };
            let name = format!("with sums {batch:?}x{heads}x{dim} {queries}x{keys} {bias}");
            out.push(single(name, PRODUCTS, close, op, operands, None));
        }
    }
    // A last key that counts several times.
    for (batch, heads, dim, queries, keys, last) in [
        (Some(2), 1, 1, 1, 1, 2),
        (Some(2), 3, 16, 33, 7, 506),
        (Some(2), 2, 64, 70, 140, 3),
        (None, 1, 128, 70, 140, 3),
        (Some(2), 1, 8, 5, 300, 1 << 20),
    ] {
        let rows = |rows: usize| {
            let shape: Vec<usize> = batch.into_iter().chain([rows, heads * dim]).collect();
            value(&shape)
        };
        for bias in [false, true] {
            let mut operands = vec![rows(queries), rows(keys), rows(keys)];
            let table = value(&[heads, queries + keys - 1]).of(DType::F32);
            operands.extend(bias.then_some(table));
            let op = Op::Attention { heads, scale: 1.0 / (dim as f64).sqrt(), lse: true, last };
            let name =
                format!("{batch:?}x{heads}x{dim} {queries}x{keys}, the last {last} times, {bias}");
            out.push(single(name, PRODUCTS, close, op, operands, None));
        }
    }
    // The logarithm of 1 is 0, whatever stands for the weight of the largest score.
    let operands = vec![value(&[3, 8]), value(&[1, 8]), value(&[1, 8])];
    let op = Op::Attention { heads: 1, scale: 0.0, lse: true, last: 1 };
    out.push(single("with sums of one key without a score", PRODUCTS, close, op, operands, None));
    // The operands of the derivative need not be those of an attention.
    for (batch, heads, dim, queries, keys) in
        [(None, 1, 1, 1, 1), (None, 3, 16, 33, 7), (Some(2), 2, 8, 9, 20), (None, 2, 64, 70, 65)]
    {
        let shaped =
            |shape: &[usize]| -> Vec<usize> { batch.iter().chain(shape).copied().collect() };
        let rows = |rows: usize| value(&shaped(&[rows, heads * dim]));
        for (bias, last) in [(false, 1), (true, 1), (false, 5), (true, 5)] {
            let lse =
                value(&shaped(&[heads, queries])).of(DType::F32).filled(Fill::Within(2.0, 4.0));
            let mut operands =
                vec![rows(queries), rows(keys), rows(keys), rows(queries), lse, rows(queries)];
            operands.extend(bias.then(|| value(&[heads, queries + keys - 1]).of(DType::F32)));
            let op = Op::AttentionVjp { heads, scale: 1.0 / (dim as f64).sqrt(), bias, last };
            let name = format!("{batch:?}x{heads}x{dim} {queries}x{keys} {bias} {last}");
            out.push(single(name, PRODUCTS, Tolerance::singles(2e-5), op, operands, None));
        }
    }
    let table = value(&[2, 24]).of(DType::F32);
    let table = table.filled(Fill::List(vec![f64::NEG_INFINITY; 24]));
    let operands = vec![value(&[5, 16]), value(&[20, 16]), value(&[20, 16]), table];
    let op = Op::Attention { heads: 2, scale: 0.25, lse: true, last: 1 };
    out.push(single("with sums and every key masked", PRODUCTS, close, op, operands, None));
    for (x, to) in [(DType::Bf16, DType::F32), (DType::F32, DType::Bf16)] {
        let operands = vec![value(&[21, 64]), value(&[30, 64]), value(&[30, 64])];
        let op = Op::Attention { heads: 2, scale: 0.17, lse: false, last: 1 };
        let result = Some(gives(Some(to), &[]));
        let tolerance = Tolerance { f32: if x == DType::F32 { 1e-5 } else { 2e-2 }, ..close };
        out.push(single(format!("{x} to {to}"), &[x], tolerance, op, operands, result));
    }
    // Scores far apart: one key takes all, and nothing overflows.
    let rows = || value(&[9, 32]).filled(Fill::Within(-60.0, 60.0));
    let op = Op::Attention { heads: 2, scale: 1.0, lse: false, last: 1 };
    let operands = vec![rows(), rows(), value(&[9, 32])];
    out.push(single("of large scores", &[DType::F32], close, op, operands, None));
    // A bias of −∞ masks.
    let table = value(&[1, 9]).of(DType::F32);
    let table = table.filled(Fill::List(vec![0.0, 0.5, f64::NEG_INFINITY, 1.0, -1.0]));
    let op = Op::Attention { heads: 1, scale: 0.25, lse: false, last: 1 };
    let operands = vec![value(&[5, 16]), value(&[5, 16]), value(&[5, 16]), table];
    out.push(single("with masked keys", PRODUCTS, close, op, operands, None));
}

fn conv(out: &mut Vec<OpCase>) {
    let none = [[0, 0]; 3];
    let same = [[0, 0], [1, 1], [1, 1]];
    // Input [T, H, W, C], outputs, kernel (without time where it has two axes), stride, padding.
    type Case = ([usize; 4], usize, &'static [usize], [usize; 3], [[usize; 2]; 3]);
    let sizes: [Case; 20] = [
        ([1, 1, 1, 1], 1, &[1, 1, 1], [1, 1, 1], none),
        ([2, 5, 4, 3], 7, &[1, 1, 1], [1, 1, 1], none),
        ([3, 5, 4, 33], 17, &[1, 1, 1], [1, 1, 1], none),
        ([3, 5, 7, 3], 5, &[3, 3, 3], [1, 1, 1], none),
        ([3, 5, 7, 6], 5, &[3, 3, 3], [1, 1, 1], [[2, 0], [1, 1], [1, 1]]),
        ([1, 4, 4, 16], 16, &[3, 3, 3], [1, 1, 1], [[2, 0], [1, 1], [1, 1]]),
        ([4, 6, 5, 12], 33, &[3, 3, 3], [1, 1, 1], [[0, 0], [1, 1], [1, 1]]),
        ([2, 5, 7, 4], 6, &[3, 3], [1, 1, 1], same),
        ([2, 6, 8, 4], 6, &[3, 3], [1, 2, 2], [[0, 0], [0, 1], [0, 1]]),
        ([1, 7, 9, 17], 9, &[3, 3], [1, 2, 2], [[0, 0], [0, 1], [0, 1]]),
        ([2, 7, 5, 4], 6, &[1, 3, 3], [1, 1, 1], same),
        ([5, 3, 2, 8], 8, &[3, 1, 1], [2, 1, 1], none),
        ([4, 3, 2, 8], 16, &[3, 1, 1], [1, 1, 1], [[2, 0], [0, 0], [0, 0]]),
        ([5, 4, 3, 5], 3, &[3, 1, 1], [2, 1, 1], [[1, 0], [0, 0], [0, 0]]),
        ([3, 8, 8, 5], 4, &[2, 3, 4], [2, 3, 2], [[1, 2], [0, 2], [3, 1]]),
        ([2, 2, 2, 2], 3, &[2, 2, 2], [5, 5, 5], none),
        ([1, 3, 3, 130], 40, &[3, 3], [1, 1, 1], same),
        ([1, 20, 21, 12], 24, &[3, 3, 3], [1, 1, 1], [[2, 0], [1, 1], [1, 1]]),
        ([2, 1, 1, 4], 4, &[3, 3, 3], [1, 1, 1], [[1, 1], [1, 1], [1, 1]]),
        ([1, 2, 2, 3], 2, &[1, 5, 5], [1, 1, 1], [[0, 0], [4, 4], [4, 4]]),
    ];
    let tolerance = Tolerance::singles(1e-5);
    for (x, outputs, kernel, stride, pad) in sizes {
        let mut shape = vec![outputs, x[3]];
        shape.extend(kernel);
        for bias in [None, Some(false), Some(true)] {
            for to in [None, Some(DType::F32)] {
                let mut operands = vec![value(&x), weight(&shape)];
                operands.extend(bias.map(|w| value(&[outputs]).of(DType::F32).given_as(w)));
                let name = format!("{x:?} by {shape:?} {stride:?} {pad:?} {bias:?} {to:?}");
                let op = Op::Conv { stride, pad };
                let result = to.map(|to| gives(Some(to), &[]));
                out.push(single(name, PRODUCTS, tolerance, op, operands, result));
            }
        }
    }
    // Large enough for the transforms of 3×3 kernels, with tiles that hang over the edge.
    let (causal, rough) = ([[2, 0], [1, 1], [1, 1]], Tolerance::singles(2e-2));
    for (x, outputs, kernel, pad, dtype, tolerance) in [
        ([1, 41, 39, 96], 65, &[3, 3][..], same, DType::F32, tolerance),
        ([5, 21, 22, 64], 64, &[3, 3, 3], causal, DType::F32, tolerance),
        ([1, 22, 22, 256], 256, &[3, 3], same, DType::F32, tolerance),
        ([3, 10, 10, 128], 128, &[3, 3, 3], causal, DType::F32, tolerance),
        // Both factors are rounded to bf16 once more after their transforms.
        ([3, 14, 14, 256], 256, &[3, 3, 3], causal, DType::Bf16, rough),
    ] {
        let mut shape = vec![outputs, x[3]];
        shape.extend(kernel);
        let op = Op::Conv { stride: [1; 3], pad };
        let name = format!("{x:?} by {shape:?} {pad:?}");
        let bias = weight(&[outputs]).of(DType::F32);
        let operands = vec![value(&x), weight(&shape), bias];
        let result = Some(gives(Some(DType::F32), &[]));
        let dtypes: &[DType] = if dtype == DType::F32 { &[DType::F32] } else { &[DType::Bf16] };
        out.push(single(name, dtypes, tolerance, op, operands, result));
    }
    for (declared, stored) in [
        (DType::F32, DType::Bf16),
        (DType::F32, DType::F16),
        (DType::Bf16, DType::F32),
        (DType::Bf16, DType::Bf16),
    ] {
        for x in PRODUCTS {
            let w = weight(&[9, 5, 3, 3, 3]).of(declared).stored(stored);
            let bias = weight(&[9]).of(declared).stored(stored);
            let op = Op::Conv { stride: [1; 3], pad: [[2, 0], [1, 1], [1, 1]] };
            let name = format!("{declared} weights stored as {stored}, {x}");
            let result = Some(gives(Some(DType::F32), &[]));
            let operands = vec![value(&[2, 5, 4, 5]), w, bias];
            out.push(single(name, &[*x], tolerance, op, operands, result));
        }
    }
}
