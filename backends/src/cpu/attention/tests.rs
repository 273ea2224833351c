//! Attention against f64, over shapes, levels, thread counts, biases, limits and masks.

use super::*;
use crate::cpu::rows::testing::{noise, to_bf16};

/// Attention in f64 on contiguous [rows, heads·dim] inputs of one batch, and the logarithm of the sum
/// of each head's queries.
fn reference(call: &Attention<'_>, q: &[f32], k: &[f32], v: &[f32]) -> [Vec<f64>; 2] {
    let AttentionShape { heads, head_dim: dim, queries, keys, .. } = call.shape;
    let width = heads * dim;
    let used = call.key_limit.unwrap_or(keys).min(keys);
    let (mut out, mut log_sums) = (vec![0.0; queries * width], Vec::new());
    for head in 0..heads {
        for query in 0..queries {
            let mut scores: Vec<f64> = (0..used)
                .map(|key| {
                    let dot: f64 = (0..dim)
                        .map(|d| {
                            f64::from(q[query * width + head * dim + d])
                                * f64::from(k[key * width + head * dim + d])
                        })
                        .sum();
                    let bias = call.relative_bias.map_or(0.0, |bias| {
                        f64::from(bias[head * (queries + keys - 1) + key + queries - 1 - query])
                    });
                    dot * f64::from(call.scale) + bias
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            scores.iter_mut().for_each(|s| *s = (*s - largest).exp());
            let sum: f64 = scores.iter().sum();
            log_sums.push(largest + sum.ln());
            for d in 0..dim {
                let mixed: f64 = scores
                    .iter()
                    .enumerate()
                    .map(|(key, s)| s * f64::from(v[key * width + head * dim + d]))
                    .sum();
                out[query * width + head * dim + d] = mixed / sum;
            }
        }
    }
    [out, log_sums]
}

struct Case {
    shape: AttentionShape,
    scale: f32,
    size: f32,
    bias: Option<f32>,
    limit: Option<usize>,
}

impl Case {
    fn new(heads: usize, dim: usize, queries: usize, keys: usize) -> Self {
        let shape = AttentionShape { batch: 1, heads, head_dim: dim, queries, keys };
        Self { shape, scale: 1.0 / (dim as f32).sqrt(), size: 1.0, bias: None, limit: None }
    }
}

fn run(
    level: Level,
    workers: usize,
    call: &Attention<'_>,
    row_stride: usize,
    batch_stride: usize,
    output: &mut [f32],
    log_sums: Option<&mut [f32]>,
) {
    let bias = call.relative_bias.is_some();
    let bytes = scratch_bytes(level, &call.shape, call.precision, bias, workers);
    let mut scratch = vec![0xA5_u8; bytes + 128];
    let pool = Pool::new(workers);
    let data = Target::F32(output);
    let out = OutputOperand { data, row_stride, batch_stride };
    attention(&pool, level, call, out, log_sums, &mut scratch[64..64 + bytes]);
    assert!(scratch[..64].iter().chain(&scratch[64 + bytes..]).all(|&byte| byte == 0xA5));
}

fn operand(data: Source<'_>, row_stride: usize) -> Operand<'_> {
    Operand { data, row_stride, batch_stride: 0 }
}

fn check_case(case: &Case, tolerance: f64, rounded: bool) {
    let shape = case.shape;
    let width = shape.heads * shape.head_dim;
    let mut q = noise(1, shape.queries * width, case.size);
    let mut k = noise(2, shape.keys * width, case.size);
    let mut v = noise(3, shape.keys * width, 1.0);
    let bias = case.bias.map(|size| noise(4, shape.heads * (shape.queries + shape.keys - 1), size));
    let (qb, kb, vb) = (to_bf16(&q), to_bf16(&k), to_bf16(&v));
    if rounded {
        for (data, half) in [(&mut q, &qb), (&mut k, &kb), (&mut v, &vb)] {
            data.iter_mut().zip(half).for_each(|(x, h)| *x = h.to_f32());
        }
    }
    let sources = if rounded {
        [Source::Bf16(&qb), Source::Bf16(&kb), Source::Bf16(&vb)]
    } else {
        [Source::F32(&q), Source::F32(&k), Source::F32(&v)]
    };
    let call = Attention {
        shape,
        precision: if rounded { Precision::Bf16 } else { Precision::F32 },
        scale: case.scale,
        last: 1,
        query: operand(sources[0], width),
        key: operand(sources[1], width),
        value: operand(sources[2], width),
        relative_bias: bias.as_deref(),
        key_limit: case.limit,
    };
    let [want, want_sums] = reference(&call, &q, &k, &v);
    // That of the exponentials, and of sums of products of up to this size.
    let terms = f64::from(case.scale * case.size * case.size) * shape.head_dim as f64;
    let bound = 4e-6 + terms * f64::from(f32::EPSILON) / 4.0;
    for level in Level::available() {
        let stride = width + 5;
        let mut first = vec![f32::NAN; shape.queries * stride];
        let mut sums = vec![f32::NAN; shape.heads * shape.queries];
        run(level, 1, &call, stride, 0, &mut first, Some(&mut sums));
        let mut worst = 0.0_f64;
        for (row, want) in first.chunks(stride).zip(want.chunks(width)) {
            assert!(row[width..].iter().all(|x| x.is_nan()), "gaps between rows stay");
            for (&got, &want) in row.iter().zip(want) {
                worst = worst.max((f64::from(got) - want).abs());
            }
        }
        assert!(worst <= tolerance, "{level:?} {shape:?}: {worst:e}");
        for (got, want) in sums.iter().zip(&want_sums) {
            let off = (f64::from(*got) - want).abs();
            assert!(
                off <= bound * want.abs().max(1.0),
                "{level:?} {shape:?}: {got} is {off:e} off"
            );
        }
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        let mut second = vec![f32::NAN; shape.queries * stride];
        let mut again = vec![f32::NAN; sums.len()];
        run(level, 3, &call, stride, 0, &mut second, Some(&mut again));
        let threads = same(&first, &second) && same(&sums, &again);
        assert!(threads, "{level:?} {shape:?}: bits differ between thread counts");
        run(level, 2, &call, stride, 0, &mut second, None);
        assert!(
            same(&first, &second),
            "{level:?} {shape:?}: bits depend on whether sums are wanted"
        );
    }
}

#[test]
fn matches_f64_in_single_precision() {
    for (heads, dim, queries, keys) in [
        (1, 1, 1, 1),
        (2, 3, 3, 17),
        (2, 48, 17, 1),
        (3, 32, 1, 300),
        (2, 128, 70, 133),
        (2, 64, 530, 265),
        (1, 16, 33, 7),
        (1, 640, 90, 75),
        (1, 1024, 66, 74),
        (2, 130, 49, 12),
    ] {
        check_case(&Case::new(heads, dim, queries, keys), 2e-6, false);
    }
}

#[test]
fn matches_f64_with_bf16_inputs() {
    for (heads, dim, queries, keys) in
        [(1, 1, 1, 1), (2, 3, 3, 17), (2, 48, 17, 1), (2, 128, 70, 265), (1, 641, 30, 75)]
    {
        // Weights round to 2^-9 and average out over the keys.
        check_case(&Case::new(heads, dim, queries, keys), 6e-3, true);
    }
}

#[test]
fn bias_by_distance_and_large_scores() {
    for (queries, keys) in [(20, 20), (1, 9), (9, 1), (150, 150), (600, 140)] {
        let mut case = Case::new(3, 64, queries, keys);
        case.scale = 1.0;
        case.size = 2.5;
        case.bias = Some(8.0);
        check_case(&case, 1e-4, false);
        case.size = 1.0;
        case.bias = Some(2.0);
        check_case(&case, 3e-5, false);
        case.limit = Some(keys.div_ceil(2));
        check_case(&case, 3e-5, false);
        check_case(&case, 1.5e-2, true);
    }
}

#[test]
fn key_limit_drops_the_rest() {
    let mut case = Case::new(2, 48, 37, 300);
    for limit in [1, 5, 133, 299, 300, 900] {
        case.limit = Some(limit);
        check_case(&case, 2e-6, false);
    }
}

#[test]
fn masks_and_extreme_scores() {
    // Every key but the last masked by -inf; then all masked; then scores of ±1e4.
    let shape = AttentionShape { batch: 1, heads: 1, head_dim: 16, queries: 1, keys: 5 };
    let q = noise(1, 16, 1.0);
    let k = noise(2, 80, 1.0);
    let v = noise(3, 80, 1.0);
    let mut bias = [f32::NEG_INFINITY; 5];
    for level in Level::available() {
        bias[4] = 0.0;
        let mut call = Attention {
            shape,
            precision: Precision::F32,
            scale: 1.0,
            last: 1,
            query: operand(Source::F32(&q), 16),
            key: operand(Source::F32(&k), 16),
            value: operand(Source::F32(&v), 16),
            relative_bias: Some(&bias),
            key_limit: None,
        };
        let (mut out, mut sum) = (vec![9.0; 16], [9.0]);
        run(level, 1, &call, 16, 0, &mut out, Some(&mut sum));
        assert_eq!(out, v[64..]);
        let score: f32 = q.iter().zip(&k[64..]).map(|(q, k)| q * k).sum();
        assert!((sum[0] - score).abs() < 1e-5, "one key's score is all: {sum:?}, {score}");
        call.key_limit = Some(4);
        run(level, 1, &call, 16, 0, &mut out, Some(&mut sum));
        assert_eq!((&out[..], sum), (&[0.0; 16][..], [f32::NEG_INFINITY]));
        call.relative_bias = None;
        call.scale = 1e6;
        run(level, 1, &call, 16, 0, &mut out, Some(&mut sum));
        assert!(out.iter().all(|x| x.is_finite()));
        let scores = k.chunks(16).map(|k| q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>());
        let largest = scores.take(4).fold(f32::NEG_INFINITY, f32::max) * 1e6;
        assert!((sum[0] / largest - 1.0).abs() < 1e-5, "{sum:?}, {largest}");
        let mut bad = q.clone();
        bad[3] = f32::NAN;
        call.query = operand(Source::F32(&bad), 16);
        run(level, 1, &call, 16, 0, &mut out, Some(&mut sum));
        assert!(out.iter().chain(&sum).all(|x| x.is_nan()));
    }
}

#[test]
fn batches_strides_and_mixed_types() {
    let shape = AttentionShape { batch: 3, heads: 2, head_dim: 24, queries: 19, keys: 31 };
    let (row, batch) = (3 * 48, 31 * 3 * 48);
    let fused = noise(7, 3 * batch, 1.0);
    let values = to_bf16(&fused);
    for level in Level::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            let at = |data, batch_stride| Operand { data, row_stride: row, batch_stride };
            let call = Attention {
                shape,
                precision,
                scale: 0.2,
                last: 1,
                query: at(Source::F32(&fused), batch),
                key: at(Source::F32(&fused[48..]), batch),
                value: at(Source::Bf16(&values[96..]), batch),
                relative_bias: None,
                key_limit: None,
            };
            let mut whole = vec![0.0; 3 * 19 * 48];
            let mut sums = vec![0.0; 3 * 2 * 19];
            run(level, 2, &call, 48, 19 * 48, &mut whole, Some(&mut sums));
            for index in 0..3 {
                let from = index * batch;
                let pick = |column: usize, rows: usize| -> Vec<f32> {
                    (0..rows)
                        .flat_map(|r| fused[from + r * row + column..][..48].to_vec())
                        .collect()
                };
                let v: Vec<f32> =
                    pick(96, 31).iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
                let one = Attention { shape: AttentionShape { batch: 1, ..shape }, ..call };
                let [want, want_sums] = reference(&one, &pick(0, 19), &pick(48, 31), &v);
                let tolerance = if precision == Precision::F32 { 2e-6 } else { 1e-2 };
                for (got, want) in whole[index * 19 * 48..].iter().zip(want) {
                    assert!((f64::from(*got) - want).abs() < tolerance, "{level:?}");
                }
                for (got, want) in sums[index * 2 * 19..].iter().zip(want_sums) {
                    assert!((f64::from(*got) - want).abs() < tolerance, "{level:?}: {got}, {want}");
                }
            }
            // The bf16 output is the rounded f32 output.
            let mut half = vec![bf16::ZERO; whole.len()];
            let bytes = scratch_bytes(level, &shape, precision, false, 2);
            let out = OutputOperand {
                data: Target::Bf16(&mut half),
                row_stride: 48,
                batch_stride: 19 * 48,
            };
            attention(&Pool::new(2), level, &call, out, None, &mut vec![0; bytes]);
            assert_eq!(half, to_bf16(&whole));
        }
    }
}

#[test]
#[should_panic(expected = "scratch")]
fn short_scratch_is_refused() {
    let data = noise(1, 64, 1.0);
    let source = operand(Source::F32(&data), 16);
    let call = Attention {
        shape: AttentionShape { batch: 1, heads: 1, head_dim: 16, queries: 4, keys: 4 },
        precision: Precision::F32,
        scale: 1.0,
        last: 1,
        query: source,
        key: source,
        value: source,
        relative_bias: None,
        key_limit: None,
    };
    let mut out = vec![0.0; 64];
    let data = Target::F32(&mut out);
    let out = OutputOperand { data, row_stride: 16, batch_stride: 0 };
    attention(&Pool::new(1), Level::Portable, &call, out, None, &mut [0; 64]);
}
