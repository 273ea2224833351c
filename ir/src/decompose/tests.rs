//! Every composite against a plain formula in doubles, written here without its decomposition.

mod golden;

use super::tables::bucket_thresholds;
use super::*;
use crate::eval::{Evaluator, Mode};
use crate::op::Axes;
use crate::tensor::Tensor;

/// Repeatable numbers in −1..1.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as f64 / (1u64 << 30) as f64 - 1.0
    }

    pub(super) fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let ty = TensorType::new(dtype, shape.iter().copied());
        let values: Vec<f64> = (0..ty.elements()).map(|_| self.next()).collect();
        Tensor::from_f64s(ty, &values).unwrap()
    }
}

pub(super) fn f32_tensor(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape.iter().copied())
}

/// `op` as the only node of a function of its operands.
pub(super) fn one_op(op: &Op, operands: &[Tensor], result: &TensorType) -> Module {
    let mut module = Module::default();
    let mut f = FuncBuilder::new(&module, "main");
    let params: Vec<ValueId> = operands
        .iter()
        .enumerate()
        .map(|(i, x)| f.param(&format!("p{i}"), x.ty().clone()))
        .collect();
    let y = f.op("y", op.clone(), &params, Some(result.clone()));
    assert_eq!(f.ty(y), result);
    let func = f.finish(&[y]);
    module.add(func);
    module
}

/// The decomposition of `op` as the only function.
fn parts(op: &Op, operands: &[Tensor], results: &[TensorType]) -> Module {
    let types: Vec<TensorType> = operands.iter().map(|x| x.ty().clone()).collect();
    let mut module = Module::default();
    module.add(Func { name: "main".into(), ..decomposed(op, &types, results) });
    module
}

pub(super) fn apply(op: &Op, operands: &[Tensor], result: &TensorType, mode: Mode) -> Tensor {
    let module = one_op(op, operands, result);
    let run = |module: &Module| {
        Evaluator::new(module, mode).run("main", operands, &(), None).unwrap().remove(0)
    };
    let y = run(&module);
    let parts = parts(op, operands, std::slice::from_ref(result));
    let func = parts.main().unwrap();
    assert!(func.walk().iter().all(|n| !func.nodes[*n].op.is_composite()), "primitives only");
    assert_eq!(run(&parts), y, "the decomposed module gives the same bits");
    y
}

pub(super) fn close(given: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(given.len(), wanted.len());
    for (i, (g, w)) in given.iter().zip(wanted).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "element {i}: {g}, wanted {w}");
    }
}

/// Checks `op` against `wanted` without rounding and with.
fn check(op: &Op, operands: &[Tensor], result: &TensorType, wanted: &[f64]) {
    close(&apply(op, operands, result, Mode::F64).to_f64_vec(), wanted, 1e-12);
    let tolerance = if result.dtype == DType::F64 { 1e-12 } else { 4e-6 };
    let rounded = apply(op, operands, result, Mode::F32);
    assert_eq!(rounded.ty(), result);
    if result.dtype != DType::Bf16 {
        close(&rounded.to_f64_vec(), wanted, tolerance);
        return;
    }
    // One rounding at the end: as near as bf16 allows, give or take an f32 error at a tie.
    for (g, w) in rounded.to_f64_vec().iter().zip(wanted) {
        assert!((g - w).abs() <= (w.abs() / 256.0) * 1.001 + 1e-6, "{g}, wanted {w}");
    }
}

#[test]
fn linear_flattens_leading_axes() {
    let mut random = Random::new(1);
    for (shape, dtype, out) in [
        (vec![5], DType::F32, DType::F32),
        (vec![3, 5], DType::Bf16, DType::Bf16),
        (vec![2, 3, 5], DType::F64, DType::F64),
        (vec![0, 5], DType::F32, DType::F32),
    ] {
        let x = random.tensor(dtype, &shape);
        let w = random.tensor(dtype, &[4, 5]);
        let b = random.tensor(DType::F32, &[4]);
        let (xs, ws, bs) = (x.to_f64_vec(), w.to_f64_vec(), b.to_f64_vec());
        let rows = xs.len() / 5;
        let product = |r: usize, o: usize| (0..5).map(|k| xs[r * 5 + k] * ws[o * 5 + k]).sum();
        let each = (0..rows).flat_map(|r| (0..4).map(move |o| (r, o)));
        let plain: Vec<f64> = each.map(|(r, o)| product(r, o)).collect();
        let biased: Vec<f64> = plain.iter().enumerate().map(|(i, v)| v + bs[i % 4]).collect();
        let mut shape = shape.clone();
        *shape.last_mut().unwrap() = 4;
        let result = TensorType::new(out, shape);
        check(&Op::Linear, &[x.clone(), w.clone()], &result, &plain);
        check(&Op::Linear, &[x, w, b], &result, &biased);
    }
}

/// `bias(head, query, key)` is added to the scaled scores. The second result are the logarithms of
/// the sums.
fn attention_formula(
    [q, k, v]: [&[f64]; 3],
    [batch, nq, nk, heads, width]: [usize; 5],
    scale: f64,
    bias: impl Fn(usize, usize, usize) -> f64,
) -> [Vec<f64>; 2] {
    let d = heads * width;
    let (mut out, mut sums) = (vec![0.0; batch * nq * d], Vec::new());
    for b in 0..batch {
        for h in 0..heads {
            for i in 0..nq {
                let at = |n: usize, row: usize, c: usize| (b * n + row) * d + h * width + c;
                let scores: Vec<f64> = (0..nk)
                    .map(|j| {
                        let s: f64 = (0..width).map(|c| q[at(nq, i, c)] * k[at(nk, j, c)]).sum();
                        (s * scale + bias(h, i, j)).exp()
                    })
                    .collect();
                let total: f64 = scores.iter().sum();
                sums.push(total.ln());
                for c in 0..width {
                    out[at(nq, i, c)] = (0..nk).map(|j| scores[j] / total * v[at(nk, j, c)]).sum();
                }
            }
        }
    }
    [out, sums]
}

#[test]
fn attention_matches_the_softmax_formula() {
    let mut random = Random::new(2);
    let (nq, nk, heads, width) = (5, 7, 3, 4);
    for batch in [None, Some(2)] {
        let lead: Vec<usize> = batch.into_iter().collect();
        let shape = |n: usize| [lead.clone(), vec![n, heads * width]].concat();
        for dtype in [DType::F32, DType::Bf16] {
            let q = random.tensor(dtype, &shape(nq));
            let k = random.tensor(dtype, &shape(nk));
            let v = random.tensor(dtype, &shape(nk));
            let bias = random.tensor(DType::F32, &[heads, nq + nk - 1]);
            let [qs, ks, vs] = [&q, &k, &v].map(Tensor::to_f64_vec);
            let table = bias.to_f64_vec();
            let sizes = [batch.unwrap_or(1), nq, nk, heads, width];
            let op = Op::Attention { heads, scale: 0.7, lse: false, last: 1 };
            let result = TensorType::new(dtype, shape(nq));
            let [plain, sums] = attention_formula([&qs, &ks, &vs], sizes, 0.7, |_, _, _| 0.0);
            check(&op, &[q.clone(), k.clone(), v.clone()], &result, &plain);
            check_sums(&[q.clone(), k.clone(), v.clone()], heads, &plain, &sums);
            let [biased, sums] = attention_formula([&qs, &ks, &vs], sizes, 0.7, |h, i, j| {
                table[h * (nq + nk - 1) + (j + nq - 1 - i)]
            });
            check(&op, &[q.clone(), k.clone(), v.clone(), bias.clone()], &result, &biased);
            check_sums(&[q, k, v, bias], heads, &biased, &sums);
        }
    }
}

/// The last key of an attention counts as so many equal ones, and its cotangents are the sums of theirs.
#[test]
fn a_key_that_counts_several_times_is_so_many_keys() {
    let mut random = Random::new(7);
    let mut rows = |count: usize| random.tensor(DType::F64, &[count, 6]);
    let [q, k, v, d] = [3, 4, 4, 3].map(&mut rows);
    let again = |x: &Tensor, times: usize| {
        let mut values = x.to_f64_vec();
        for _ in 1..times {
            values.extend_from_within(18..24);
        }
        Tensor::from_f64s(TensorType::new(DType::F64, [3 + times, 6]), &values).unwrap()
    };
    let attend = |k: &Tensor, v: &Tensor, last: usize| {
        let op = Op::Attention { heads: 2, scale: 0.7, lse: true, last };
        let made = all(&op, &[q.clone(), k.clone(), v.clone()], Mode::F64);
        let [out, lse] = made.clone().try_into().expect("both results");
        let vjp = Op::AttentionVjp { heads: 2, scale: 0.7, bias: false, last };
        let given = [q.clone(), k.clone(), v.clone(), out, lse, d.clone()];
        [made, all(&vjp, &given, Mode::F64)].concat()
    };
    let short = attend(&k, &v, 5);
    let long = attend(&again(&k, 5), &again(&v, 5), 1);
    for (at, (short, long)) in short.iter().zip(&long).enumerate() {
        let mut long = long.to_f64_vec();
        if at > 2 {
            let copies = long.split_off(24);
            for (at, value) in copies.iter().enumerate() {
                long[18 + at % 6] += value;
            }
        }
        close(&short.to_f64_vec(), &long, 1e-12);
    }
}

/// Attention with the scale 0.7 and both its results, for these operands.
fn with_sums(operands: &[Tensor], heads: usize, mode: Mode) -> [Tensor; 2] {
    let op = Op::Attention { heads, scale: 0.7, lse: true, last: 1 };
    all(&op, operands, mode).try_into().unwrap()
}

/// All results of `op`.
fn all(op: &Op, operands: &[Tensor], mode: Mode) -> Vec<Tensor> {
    let mut module = Module::default();
    let mut f = FuncBuilder::new(&module, "main");
    let params: Vec<ValueId> =
        (0..).zip(operands).map(|(i, x)| f.param(&format!("p{i}"), x.ty().clone())).collect();
    let made = f.op_of("y", op.clone(), &params, &[]);
    let func = f.finish(&made);
    module.add(func);
    assert_eq!(crate::verify::verify(&module), []);
    let results = module.funcs[0].results.clone();
    let run = |module: &Module| Evaluator::new(module, mode).run("main", operands, &(), None);
    let (whole, parts) = (run(&module).unwrap(), run(&parts(op, operands, &results)).unwrap());
    assert_eq!(format!("{whole:?}"), format!("{parts:?}"), "decomposed, the same bits");
    whole
}

/// The first result has the bits that it has alone, and the second is near `sums`.
fn check_sums(operands: &[Tensor], heads: usize, wanted: &[f64], sums: &[f64]) {
    let [y, lse] = with_sums(operands, heads, Mode::F64);
    close(&y.to_f64_vec(), wanted, 1e-12);
    close(&lse.to_f64_vec(), sums, 1e-12);
    let [y, lse] = with_sums(operands, heads, Mode::F32);
    let op = Op::Attention { heads, scale: 0.7, lse: false, last: 1 };
    assert_eq!(apply(&op, operands, y.ty(), Mode::F32), y);
    assert_eq!(lse.dtype(), DType::F32);
    close(&lse.to_f64_vec(), sums, 4e-6);
}

#[test]
fn sums_of_masked_rows_are_minus_infinity_and_those_of_others_are_finite() {
    let ty = |rows| f32_tensor(&[rows, 2]);
    let near = Tensor::from_f64s(ty(3), &[1.0, -2.0, 3.0, 0.5, 0.0, 1.0]).unwrap();
    let far = Tensor::from_f64s(ty(3), &[1e4, 0.0, -1e4, 0.0, 1.0, 0.0]).unwrap();
    let bias = |values: &[f64]| Tensor::from_f64s(f32_tensor(&[1, 5]), values).unwrap();
    let none = f64::NEG_INFINITY;
    // Query 0 meets entries 2, 3, 4, query 2 meets 0, 1, 2.
    let masked = bias(&[none, none, none, 1.0, none]);
    let [y, lse] = with_sums(&[near.clone(), near.clone(), near.clone(), masked], 1, Mode::F32);
    let (y, lse) = (y.to_f64_vec(), lse.to_f64_vec());
    assert_eq!((y[4], y[5], lse[2]), (0.0, 0.0, none));
    assert!(lse[..2].iter().all(|sum| sum.is_finite()), "{lse:?}");
    let [_, lse] = with_sums(&[far.clone(), far.clone(), far], 1, Mode::F32);
    // One key takes all: its score.
    close(&lse.to_f64_vec()[..2], &[0.7e8, 0.7e8], 1e-6);
    let odd = bias(&[0.0, 0.0, f64::NAN, 0.0, 0.0]);
    let [y, lse] = with_sums(&[near.clone(), near.clone(), near, odd], 1, Mode::F32);
    assert!(y.to_f64_vec().iter().chain(&lse.to_f64_vec()).all(|v| v.is_nan()));
}

#[test]
fn attention_survives_large_scores() {
    let q = Tensor::from_f32([1, 2], &[1e4, 0.0]).unwrap();
    let k = Tensor::from_f32([2, 2], &[1e4, 0.0, -1e4, 0.0]).unwrap();
    let v = Tensor::from_f32([2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
    let op = Op::Attention { heads: 1, scale: 1.0, lse: false, last: 1 };
    let y = apply(&op, &[q, k, v], &f32_tensor(&[1, 2]), Mode::F32);
    assert_eq!(y.as_f32().unwrap(), [1.0, 2.0]);
}

#[test]
fn norms_match_their_formulas() {
    let mut random = Random::new(3);
    let (rows, d) = (4, 6);
    for (dtype, out) in
        [(DType::F32, DType::F32), (DType::Bf16, DType::Bf16), (DType::F64, DType::F64)]
    {
        let x = random.tensor(dtype, &[2, 2, d]);
        let w = random.tensor(DType::Bf16, &[d]);
        let b = random.tensor(DType::F32, &[d]);
        let [xs, ws, bs] = [&x, &w, &b].map(Tensor::to_f64_vec);
        let result = TensorType::new(out, [2, 2, d]);
        let rowwise = |f: &dyn Fn(&[f64], usize) -> f64| -> Vec<f64> {
            (0..rows)
                .flat_map(|r| (0..d).map(move |c| (r, c)))
                .map(|(r, c)| f(&xs[r * d..(r + 1) * d], c))
                .collect()
        };
        let normal = |row: &[f64], c: usize| {
            let mean = row.iter().sum::<f64>() / d as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / d as f64;
            (row[c] - mean) / (variance + 1e-3).sqrt()
        };
        let op = Op::LayerNorm { eps: 1e-3 };
        check(&op, std::slice::from_ref(&x), &result, &rowwise(&normal));
        let weighted = rowwise(&|row, c| normal(row, c) * ws[c]);
        check(&op, &[x.clone(), w.clone()], &result, &weighted);
        let affine = rowwise(&|row, c| normal(row, c) * ws[c] + bs[c]);
        check(&op, &[x.clone(), w.clone(), b], &result, &affine);

        let square = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>();
        let rms = rowwise(&|row, c| row[c] / (square(row) / d as f64 + 1e-3).sqrt() * ws[c]);
        let op = Op::RmsNorm { eps: 1e-3, clamp: false };
        check(&op, &[x.clone(), w.clone()], &result, &rms);
        // Large enough for some rows to be clamped.
        let clamped =
            rowwise(&|row, c| row[c] / square(row).sqrt().max(1.4) * (d as f64).sqrt() * ws[c]);
        check(&Op::RmsNorm { eps: 1.4, clamp: true }, &[x, w], &result, &clamped);
    }
}

#[test]
fn rope_turns_neighbouring_pairs() {
    let mut random = Random::new(4);
    let (rows, heads, width) = (3, 2, 4);
    let x = random.tensor(DType::F32, &[rows, heads * width]);
    let table = random.tensor(DType::F32, &[rows, width / 2, 2]);
    let (xs, ts) = (x.to_f64_vec(), table.to_f64_vec());
    let mut wanted = vec![0.0; xs.len()];
    for r in 0..rows {
        for h in 0..heads {
            for p in 0..width / 2 {
                let at = r * heads * width + h * width + 2 * p;
                let (cos, sin) = (ts[(r * 2 + p) * 2], ts[(r * 2 + p) * 2 + 1]);
                wanted[at] = xs[at] * cos - xs[at + 1] * sin;
                wanted[at + 1] = xs[at] * sin + xs[at + 1] * cos;
            }
        }
    }
    let result = f32_tensor(&[rows, heads * width]);
    check(&Op::Rope { heads }, &[x, table], &result, &wanted);
}

#[test]
fn rope_table_covers_the_grid_and_negative_frames() {
    let (rows, cols, head_dim) = (2, 3, 16); // 4 rows, 4 columns, 8 time channels
    let positions = [-2.0, 0.0, 5.0];
    let frames = Tensor::from_i32([3], &positions.map(|p| p as i32)).unwrap();
    let mut wanted = Vec::new();
    for frame in positions {
        for row in 0..rows {
            for col in 0..cols {
                for (position, n) in [(frame, 8), (row as f64, 4), (col as f64, 4)] {
                    for j in 0..n / 2 {
                        let angle = position * 100f64.powf(-2.0 * f64::from(j) / f64::from(n));
                        wanted.extend([angle.cos(), angle.sin()]);
                    }
                }
            }
        }
    }
    let op = Op::RopeTable { rows, cols, head_dim, theta: 100.0 };
    check(&op, &[frames], &f32_tensor(&[18, 8, 2]), &wanted);
}

#[test]
fn activations_match_and_have_no_nan_but_for_nan() {
    let values = [-f32::INFINITY, -1e30, -100.0, -89.0, -3.0, -0.5, 0.0, 0.7, 4.0, 90.0, 1e30];
    let x = Tensor::from_f32([11], &values).unwrap();
    let ty = f32_tensor(&[11]);
    let finite = |f: &dyn Fn(f64) -> f64| -> Vec<f64> {
        let outer = values.iter().map(|v| f64::from(*v));
        outer.map(|v| if v < -1e4 { 0.0 } else { f(v) }).collect()
    };
    let gelu = finite(&|v| {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v.powi(3));
        0.5 * v * (1.0 + inner.tanh())
    });
    check(&Op::Gelu, std::slice::from_ref(&x), &ty, &gelu);
    check(&Op::Silu, &[x], &ty, &finite(&|v| v / (1.0 + (-v).exp())));
    let special = Tensor::from_f32([2], &[f32::INFINITY, f32::NAN]).unwrap();
    for op in [Op::Gelu, Op::Silu] {
        let y =
            apply(&op, std::slice::from_ref(&special), &f32_tensor(&[2]), Mode::F32).to_f32_vec();
        assert_eq!(y[0], f32::INFINITY);
        assert!(y[1].is_nan());
    }
}

#[test]
fn modulation_picks_rows_by_segment() {
    let mut random = Random::new(5);
    let (n, d) = (4, 3);
    let x = random.tensor(DType::Bf16, &[n, d]);
    let o = random.tensor(DType::F32, &[n, d]);
    let shift = random.tensor(DType::F32, &[2, d]);
    let scale = random.tensor(DType::F32, &[2, d]);
    let segments = [1usize, 0, 0, 1];
    let seg = Tensor::from_i32([n], &segments.map(|s| s as i32)).unwrap();
    let [xs, os, shifts, scales] = [&x, &o, &shift, &scale].map(Tensor::to_f64_vec);
    let row = |i: usize| segments[i / d] * d + i % d;
    let modulated: Vec<f64> =
        (0..n * d).map(|i| os[i] * (1.0 + scales[row(i)]) + shifts[row(i)]).collect();
    let operands = [o.clone(), shift, scale.clone(), seg.clone()];
    check(&Op::Modulate, &operands, &TensorType::new(DType::Bf16, [n, d]), &modulated);
    let gated: Vec<f64> = (0..n * d).map(|i| xs[i] + os[i] * scales[row(i)]).collect();
    let result = x.ty().clone();
    check(&Op::GateAdd, &[x, o, scale, seg], &result, &gated);
}

#[test]
fn conv_matches_the_sum_over_taps() {
    let mut random = Random::new(6);
    let cases = [
        ([3usize, 3, 3], [1usize, 1, 1], [[2usize, 0], [1, 1], [1, 1]]),
        ([1, 3, 3], [1, 2, 2], [[0, 0], [0, 1], [0, 1]]),
        ([3, 1, 1], [2, 1, 1], [[0, 0], [0, 0], [0, 0]]),
        ([1, 1, 1], [1, 1, 1], [[0, 0], [0, 0], [0, 0]]),
        ([2, 3, 1], [3, 2, 4], [[1, 2], [0, 3], [2, 0]]),
    ];
    let [t, h, w, c, o] = [5usize, 6, 4, 3, 2];
    for (kernel, stride, pad) in cases {
        for flat in [false, true] {
            if flat && kernel[0] != 1 {
                continue;
            }
            let x = random.tensor(DType::F32, &[t, h, w, c]);
            let sizes: Vec<usize> =
                [o, c].into_iter().chain(kernel.into_iter().skip(usize::from(flat))).collect();
            let weight = random.tensor(DType::F32, &sizes);
            let bias = random.tensor(DType::F32, &[o]);
            let [xs, ws, bs] = [&x, &weight, &bias].map(Tensor::to_f64_vec);
            let input = [t, h, w];
            let out: Vec<usize> = (0..3)
                .map(|a| (input[a] + pad[a][0] + pad[a][1] - kernel[a]) / stride[a] + 1)
                .collect();
            let mut wanted = Vec::new();
            for at in 0..out.iter().product::<usize>() * o {
                let (oc, rest) = (at % o, at / o);
                let place = [rest / (out[1] * out[2]), rest / out[2] % out[1], rest % out[2]];
                let mut sum = bs[oc];
                for tap in 0..kernel.iter().product::<usize>() {
                    let k = [
                        tap / (kernel[1] * kernel[2]),
                        tap / kernel[2] % kernel[1],
                        tap % kernel[2],
                    ];
                    let from: Option<Vec<usize>> = (0..3)
                        .map(|a| (place[a] * stride[a] + k[a]).checked_sub(pad[a][0]))
                        .collect();
                    let Some(from) = from.filter(|f| (0..3).all(|a| f[a] < input[a])) else {
                        continue;
                    };
                    for ic in 0..c {
                        let taps = kernel.iter().product::<usize>();
                        let x = xs[((from[0] * h + from[1]) * w + from[2]) * c + ic];
                        sum += x * ws[(oc * c + ic) * taps + tap];
                    }
                }
                wanted.push(sum);
            }
            let result = f32_tensor(&[out[0], out[1], out[2], o]);
            check(&Op::Conv { stride, pad }, &[x, weight, bias], &result, &wanted);
        }
    }
}

#[test]
fn upsample_repeats_positions() {
    let mut random = Random::new(7);
    let x = random.tensor(DType::F32, &[2, 3, 2]);
    let xs = x.to_f64_vec();
    let factors = [1usize, 2, 3];
    let mut wanted = Vec::new();
    for a in 0..2 {
        for b in 0..6 {
            for c in 0..6 {
                wanted.push(xs[(a * 3 + b / 2) * 2 + c / 3]);
            }
        }
    }
    let op = Op::Upsample { factors: Axes::from_slice(&factors) };
    check(&op, std::slice::from_ref(&x), &f32_tensor(&[2, 6, 6]), &wanted);
    let same = Op::Upsample { factors: Axes::from_slice(&[1, 1, 1]) };
    check(&same, &[x], &f32_tensor(&[2, 3, 2]), &xs);
}

#[test]
fn patches_are_channel_slowest_in_and_channel_fastest_out() {
    let mut random = Random::new(8);
    let (c, [f, h, w], [pt, ph, pw]) = (3, [4, 4, 6], [2, 2, 3]);
    let x = random.tensor(DType::F32, &[c, f, h, w]);
    let xs = x.to_f64_vec();
    let grid = [f / pt, h / ph, w / pw];
    let (tokens, volume) = (grid.iter().product::<usize>(), pt * ph * pw);
    let mut first = vec![0.0; xs.len()];
    let mut last = vec![0.0; xs.len()];
    for (at, value) in xs.iter().enumerate() {
        let [ic, t, y, x] = [at / (f * h * w), at / (h * w) % f, at / w % h, at % w];
        let token = ((t / pt) * grid[1] + y / ph) * grid[2] + x / pw;
        let place = ((t % pt) * ph + y % ph) * pw + x % pw;
        first[token * c * volume + ic * volume + place] = *value;
        last[token * c * volume + place * c + ic] = *value;
    }
    let patch = [pt, ph, pw];
    check(&Op::Patchify { patch }, &[x], &f32_tensor(&[tokens, c * volume]), &first);
    let rows = Tensor::from_f64s(f32_tensor(&[tokens, c * volume]), &last).unwrap();
    check(&Op::Unpatchify { patch, grid }, &[rows], &f32_tensor(&[c, f, h, w]), &xs);
}

#[test]
fn timestep_embedding_has_the_published_values() {
    let t = Tensor::from_f32([2], &[999.0, 0.0]).unwrap();
    let op = Op::TimestepEmbedding { dim: 256 };
    let y = apply(&op, &[t], &f32_tensor(&[2, 256]), Mode::F32).to_f64_vec();
    // At i = 1, 64 and 127 the argument itself is off the exact one by an f32 rounding of ω.
    let cosines = [0.9996499, 0.9637825, -0.8444697, 0.9942432];
    let sines = [-0.0264608, -0.2666896, -0.5356033, 0.1071472];
    for (n, i) in [0usize, 1, 64, 127].into_iter().enumerate() {
        assert!((y[i] - cosines[n]).abs() < 3e-5, "cos {i}: {}", y[i]);
        assert!((y[128 + i] - sines[n]).abs() < 3e-5, "sin {i}: {}", y[128 + i]);
    }
    assert!(y[256..384].iter().all(|v| *v == 1.0) && y[384..].iter().all(|v| *v == 0.0));
}

#[test]
fn relative_buckets_match_their_formula() {
    assert_eq!(bucket_thresholds(32, 128), [12, 16, 23, 32, 46, 64, 91]);
    assert!(bucket_thresholds(4, 9).is_empty());
    for (buckets, max_distance) in [(32, 128), (4, 7), (8, 20), (16, 5), (64, 1000)] {
        let deltas: Vec<i32> = (-1200..=1200).chain([i32::MIN, i32::MAX]).collect();
        let x = Tensor::from_i32([deltas.len()], &deltas).unwrap();
        let op = Op::RelativeBucket { buckets, max_distance };
        let result = x.ty().clone();
        let given = apply(&op, &[x], &result, Mode::F32);
        let (half, exact) = (buckets as f64 / 2.0, buckets as f64 / 4.0);
        for (delta, bucket) in deltas.iter().zip(given.to_f64_vec()) {
            let distance = f64::from(*delta).abs();
            let steps = (distance / exact).ln() / (max_distance as f64 / exact).ln();
            let far = (exact + (exact * steps + 1e-9).floor()).min(half - 1.0);
            let wanted = if distance < exact { distance } else { far };
            let side = if *delta > 0 { half } else { 0.0 };
            assert_eq!(bucket, side + wanted, "{delta} of {buckets}/{max_distance}");
        }
    }
}

#[test]
fn an_op_that_may_change_nothing_gives_its_operand() {
    let x = Random::new(9).tensor(DType::F32, &[2, 2]);
    let op = Op::Upsample { factors: Axes::from_slice(&[1, 1]) };
    let y = apply(&op, std::slice::from_ref(&x), &f32_tensor(&[2, 2]), Mode::F32);
    assert_eq!(y, x);
}
