//! Cotangents against f64, over shapes, levels, thread counts, biases, masks and strides.

use super::super::{Source, Target};
use super::*;
use crate::cpu::rows::testing::{noise, same_bits, to_bf16};
use half::bf16;

/// An attention with dense operands of a width of `heads · head_dim`, and what its derivative should be.
struct Case {
    shape: AttentionShape,
    scale: f32,
    rounded: bool,
    /// Queries, keys, values, results and cotangents.
    operands: [Vec<f32>; 5],
    bias: Option<Vec<f32>>,
    log_sums: Vec<f32>,
    want: [Vec<f64>; 4],
}

fn rounded(data: &[f32]) -> Vec<f32> {
    to_bf16(data).into_iter().map(bf16::to_f32).collect()
}

impl Case {
    /// `bias` is the size of the bias, `masked` sets it to −∞ where a key lies so far behind its query.
    fn new(
        [batch, heads, head_dim, queries, keys]: [usize; 5],
        round: bool,
        bias: Option<f32>,
        masked: Option<usize>,
    ) -> Self {
        let shape = AttentionShape { batch, heads, head_dim, queries, keys };
        let width = batch * heads * head_dim;
        let mut operands = [(1, queries), (2, keys), (3, keys), (4, queries), (5, queries)]
            .map(|(seed, rows)| noise(seed, rows * width, 1.0));
        if round {
            operands = operands.map(|data| rounded(&data));
        }
        let span = queries + keys - 1;
        let mut bias = bias.map(|size| noise(6, heads * span, size));
        if let (Some(bias), Some(far)) = (&mut bias, masked) {
            for (at, bias) in bias.iter_mut().enumerate() {
                if (at % span) + far < queries {
                    *bias = f32::NEG_INFINITY;
                }
            }
        }
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut case = Self {
            shape,
            scale,
            rounded: round,
            operands,
            bias,
            log_sums: Vec::new(),
            want: Default::default(),
        };
        case.answer();
        case
    }

    fn answer(&mut self) {
        let AttentionShape { batch, heads, head_dim: dim, queries, keys } = self.shape;
        let width = heads * dim;
        let [q, k, v, _, d] = &self.operands;
        let mut want = self.operands.each_ref().map(|data| vec![0.0; data.len()]);
        let span = queries + keys - 1;
        let mut table = vec![0.0; heads * span];
        let at = |data: &[f32], rows: usize, b: usize, row: usize, channel: usize| {
            f64::from(data[(b * rows + row) * width + channel])
        };
        for b in 0..batch {
            for head in 0..heads {
                for query in 0..queries {
                    let place = |key: usize| head * span + key + queries - 1 - query;
                    let channels = head * dim..(head + 1) * dim;
                    let dots = |a: &[f32], rows: &[f32], key: usize| -> f64 {
                        let product = |c| at(a, queries, b, query, c) * at(rows, keys, b, key, c);
                        channels.clone().map(product).sum()
                    };
                    let scores: Vec<f64> = (0..keys)
                        .map(|key| {
                            let bias = self.bias.as_ref().map_or(0.0, |t| f64::from(t[place(key)]));
                            dots(q, k, key) * f64::from(self.scale) + bias
                        })
                        .collect();
                    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let base = if most.is_finite() { most } else { 0.0 };
                    let sum: f64 = scores.iter().map(|score| (score - base).exp()).sum();
                    let log_sum = if sum > 0.0 { base + sum.ln() } else { f64::NEG_INFINITY };
                    self.log_sums.push(log_sum as f32);
                    let weights: Vec<f64> = scores
                        .iter()
                        .map(|score| if sum > 0.0 { (score - log_sum).exp() } else { 0.0 })
                        .collect();
                    let slopes: Vec<f64> = (0..keys).map(|key| dots(d, v, key)).collect();
                    let own: f64 = weights.iter().zip(&slopes).map(|(w, s)| w * s).sum();
                    for key in 0..keys {
                        let slope = weights[key] * (slopes[key] - own);
                        table[place(key)] += slope;
                        for c in channels.clone() {
                            let [q_at, k_at] = [(queries, query), (keys, key)]
                                .map(|(rows, row)| (b * rows + row) * width + c);
                            let scaled = slope * f64::from(self.scale);
                            want[0][q_at] += scaled * f64::from(k[k_at]);
                            want[1][k_at] += scaled * f64::from(q[q_at]);
                            want[2][k_at] += weights[key] * f64::from(d[q_at]);
                            want[3][q_at] += weights[key] * f64::from(v[k_at]);
                        }
                    }
                }
            }
        }
        let [dq, dk, dv, out, _] = want;
        self.operands[3] = out.into_iter().map(|x| x as f32).collect();
        if self.rounded {
            self.operands[3] = rounded(&self.operands[3]);
        }
        self.want = [dq, dk, dv, table];
    }

    /// Results at a level, with `gap` elements between rows, which stay.
    fn run(&self, level: Level, workers: usize, gap: usize) -> [Vec<f32>; 4] {
        let width = self.shape.heads * self.shape.head_dim;
        let halves = self.operands.each_ref().map(|data| to_bf16(data));
        let operand = |at: usize| {
            let rows = self.operands[at].len() / self.shape.batch / width;
            let data = match self.rounded {
                true => Source::Bf16(&halves[at]),
                false => Source::F32(&self.operands[at]),
            };
            Operand { data, row_stride: width, batch_stride: rows * width }
        };
        let precision = if self.rounded { Precision::Bf16 } else { Precision::F32 };
        let call = AttentionVjp {
            shape: self.shape,
            precision,
            scale: self.scale,
            last: 1,
            query: operand(0),
            key: operand(1),
            value: operand(2),
            result: operand(3),
            log_sums: &self.log_sums,
            cotangent: operand(4),
            relative_bias: self.bias.as_deref(),
        };
        let mut made =
            [0, 1, 2].map(|at| vec![f32::NAN; self.operands[at].len() / width * (width + gap)]);
        let mut table = vec![f32::NAN; self.bias.as_ref().map_or(0, Vec::len)];
        let bytes = vjp_scratch_bytes(level, &self.shape, precision, self.bias.is_some(), workers);
        let mut scratch = vec![0xA5_u8; bytes + 128];
        {
            let [query, key, value] = made.each_mut().map(|data| {
                let row_stride = width + gap;
                let batch_stride = data.len() / self.shape.batch;
                OutputOperand { data: Target::F32(data), row_stride, batch_stride }
            });
            let relative_bias = self.bias.is_some().then_some(table.as_mut_slice());
            let to = Cotangents { query, key, value, relative_bias };
            attention_vjp(&Pool::new(workers), level, &call, to, &mut scratch[64..64 + bytes]);
        }
        assert!(scratch[..64].iter().chain(&scratch[64 + bytes..]).all(|&byte| byte == 0xA5));
        let dense = made.map(|data| {
            let rows = data.chunks(width + gap);
            assert!(rows.clone().all(|row| row[width..].iter().all(|x| x.is_nan())), "gaps stay");
            rows.flat_map(|row| row[..width].to_vec()).collect()
        });
        let [dq, dk, dv] = dense;
        [dq, dk, dv, table]
    }

    fn check(&self, tolerance: f64) {
        for level in Level::available() {
            let first = self.run(level, 1, 3);
            for (name, (got, want)) in
                ["q", "k", "v", "bias"].iter().zip(first.iter().zip(&self.want))
            {
                let expected = if *name == "bias" && self.bias.is_none() { 0 } else { want.len() };
                assert_eq!(got.len(), expected);
                // Sums over queries grow with them.
                let size = want.iter().fold(1.0f64, |most, x| most.max(x.abs()));
                for (got, want) in got.iter().zip(want) {
                    let off = (f64::from(*got) - want).abs() / size;
                    assert!(
                        off <= tolerance,
                        "{level:?} {:?} d{name}: {got} for {want}",
                        self.shape
                    );
                }
            }
            for workers in [2, 3] {
                let again = self.run(level, workers, 0);
                let same = first.iter().zip(&again).all(|(a, b)| same_bits(a, b));
                assert!(same, "{level:?} {:?}: bits depend on threads or strides", self.shape);
            }
        }
    }
}

/// Batch, heads, channels of a head, queries, keys.
const SHAPES: [[usize; 5]; 12] = [
    [1, 1, 1, 1, 1],
    [1, 2, 3, 3, 17],
    [2, 2, 48, 17, 1],
    [1, 3, 32, 1, 300],
    [2, 2, 128, 70, 133],
    [1, 16, 64, 130, 140],
    [1, 2, 64, 265, 265],
    [3, 1, 16, 33, 7],
    [1, 1, 640, 90, 75],
    [1, 1, 130, 49, 12],
    [1, 17, 8, 20, 40],
    [1, 1, 7, 100, 700],
];

#[test]
fn matches_f64_in_single_precision() {
    for shape in SHAPES {
        Case::new(shape, false, None, None).check(3e-6);
    }
}

#[test]
fn matches_f64_with_bf16_inputs() {
    for shape in SHAPES {
        // Weights and their cotangents round to 2^-9.
        Case::new(shape, true, None, None).check(8e-3);
    }
}

#[test]
fn a_bias_has_a_cotangent_and_masks() {
    for shape in [[1, 2, 16, 5, 9], [3, 2, 64, 70, 140], [2, 1, 24, 150, 30], [1, 20, 8, 33, 33]] {
        for masked in [None, Some(0), Some(3)] {
            Case::new(shape, false, Some(2.0), masked).check(5e-6);
            Case::new(shape, true, Some(2.0), masked).check(1e-2);
        }
    }
}

#[test]
fn results_in_bf16_are_the_rounded_ones() {
    let case = Case::new([2, 2, 24, 19, 31], false, None, None);
    let width = 48;
    let operand = |at: usize, rows: usize| Operand {
        data: Source::F32(&case.operands[at]),
        row_stride: width,
        batch_stride: rows * width,
    };
    for level in Level::available() {
        let call = AttentionVjp {
            shape: case.shape,
            precision: Precision::F32,
            scale: case.scale,
            last: 1,
            query: operand(0, 19),
            key: operand(1, 31),
            value: operand(2, 31),
            result: operand(3, 19),
            log_sums: &case.log_sums,
            cotangent: operand(4, 19),
            relative_bias: None,
        };
        let bytes = vjp_scratch_bytes(level, &case.shape, Precision::F32, false, 2);
        let mut made = [19, 31, 31].map(|rows| vec![bf16::ZERO; 2 * rows * width]);
        let [query, key, value] = made.each_mut().map(|data| {
            let batch_stride = data.len() / 2;
            OutputOperand { data: Target::Bf16(data), row_stride: width, batch_stride }
        });
        let to = Cotangents { query, key, value, relative_bias: None };
        attention_vjp(&Pool::new(2), level, &call, to, &mut vec![0; bytes]);
        for (half, single) in made.iter().zip(case.run(level, 1, 0)) {
            assert_eq!(*half, to_bf16(&single));
        }
    }
}

#[test]
fn a_nan_stays_in_what_depends_on_it() {
    let mut case = Case::new([1, 2, 16, 40, 50], false, None, None);
    // A value of the second head.
    case.operands[2][3 * 32 + 20] = f32::NAN;
    for level in Level::available() {
        let [dq, dk, dv, _] = case.run(level, 2, 0);
        for data in [&dq, &dk] {
            assert!(data.chunks(32).all(|row| row[..16].iter().all(|x| x.is_finite())));
        }
        assert!(dq.chunks(32).all(|row| row[16..].iter().all(|x| x.is_nan())));
        assert!(dv.iter().all(|x| x.is_finite()), "values get weights alone");
    }
}

#[test]
#[should_panic(expected = "scratch")]
fn short_scratch_is_refused() {
    let data = noise(1, 64, 1.0);
    let source = Operand { data: Source::F32(&data), row_stride: 16, batch_stride: 0 };
    let call = AttentionVjp {
        shape: AttentionShape { batch: 1, heads: 1, head_dim: 16, queries: 4, keys: 4 },
        precision: Precision::F32,
        scale: 1.0,
        last: 1,
        query: source,
        key: source,
        value: source,
        result: source,
        log_sums: &[0.0; 4],
        cotangent: source,
        relative_bias: None,
    };
    let mut made = [vec![0.0; 64], vec![0.0; 64], vec![0.0; 64]];
    let [query, key, value] = made.each_mut().map(|data| OutputOperand {
        data: Target::F32(data),
        row_stride: 16,
        batch_stride: 0,
    });
    let to = Cotangents { query, key, value, relative_bias: None };
    attention_vjp(&Pool::new(1), Level::Portable, &call, to, &mut [0; 64]);
}
