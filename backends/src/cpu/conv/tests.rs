//! Convolutions against their definition, in every form and shape.

use super::*;

pub(super) fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2654435761) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

pub(super) fn naive(shape: &ConvShape, x: &[f32], w: &[f32]) -> Vec<f64> {
    let ConvShape { input, cin, cout, kernel, stride, padding } = *shape;
    let [to, ho, wo] = shape.output();
    let mut out = Vec::new();
    for t in 0..to {
        for h in 0..ho {
            for w_out in 0..wo {
                for o in 0..cout {
                    let mut sum = 0.0;
                    for kt in 0..kernel[0] {
                        for kh in 0..kernel[1] {
                            for kw in 0..kernel[2] {
                                let place = |axis: usize, out: usize, tap: usize| {
                                    (out * stride[axis] + tap)
                                        .checked_sub(padding[axis].0)
                                        .filter(|&i| i < input[axis])
                                };
                                let (Some(ti), Some(hi), Some(wi)) =
                                    (place(0, t, kt), place(1, h, kh), place(2, w_out, kw))
                                else {
                                    continue;
                                };
                                for c in 0..cin {
                                    let xi = ((ti * input[1] + hi) * input[2] + wi) * cin + c;
                                    let tap = (kt * kernel[1] + kh) * kernel[2] + kw;
                                    let taps = kernel.iter().product::<usize>();
                                    let wi = (o * cin + c) * taps + tap;
                                    sum += f64::from(x[xi]) * f64::from(w[wi]);
                                }
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
    }
    out
}

fn shapes() -> Vec<ConvShape> {
    let base = ConvShape {
        input: [3, 5, 6],
        cin: 8,
        cout: 12,
        kernel: [3, 3, 3],
        stride: [1, 1, 1],
        padding: [(2, 0), (1, 1), (1, 1)],
    };
    vec![
        base,
        ConvShape { cin: 7, cout: 70, ..base },
        ConvShape { cin: 48, cout: 17, input: [1, 4, 3], ..base },
        ConvShape { kernel: [1, 3, 3], padding: [(0, 0), (1, 1), (1, 1)], ..base },
        ConvShape {
            kernel: [1, 3, 3],
            stride: [1, 2, 2],
            padding: [(0, 0), (0, 1), (0, 1)],
            cin: 5,
            ..base
        },
        ConvShape {
            kernel: [3, 1, 1],
            stride: [2, 1, 1],
            padding: [(0, 0), (0, 0), (0, 0)],
            input: [5, 3, 4],
            ..base
        },
        ConvShape { kernel: [1, 1, 1], padding: [(0, 0); 3], cin: 40, cout: 8, ..base },
        ConvShape {
            kernel: [2, 4, 5],
            stride: [1, 3, 2],
            padding: [(1, 1), (3, 2), (4, 6)],
            input: [2, 4, 2],
            cin: 3,
            ..base
        },
        // Several blocks of K, more rows than one task, a single output column.
        ConvShape { cin: 70, cout: 1, input: [2, 13, 13], ..base },
        // Whole blocks of 32 channels: in all directions, over the lines alone, over time alone,
        // with more padding than taps reach, and more products than are added up at a time.
        ConvShape { cin: 64, cout: 40, input: [3, 6, 13], ..base },
        ConvShape {
            kernel: [1, 3, 3],
            padding: [(0, 0), (1, 1), (1, 1)],
            cin: 32,
            cout: 33,
            input: [6, 4, 17],
            ..base
        },
        ConvShape { kernel: [3, 1, 1], padding: [(2, 0), (0, 0), (0, 0)], cin: 96, ..base },
        ConvShape {
            kernel: [2, 4, 5],
            padding: [(3, 2), (3, 5), (4, 6)],
            input: [2, 4, 2],
            cin: 32,
            ..base
        },
        ConvShape { cin: 320, cout: 5, input: [2, 3, 4], ..base },
    ]
}

fn run(
    pool: &Pool,
    level: Level,
    shape: &ConvShape,
    x: Slice<'_>,
    w: &[f32],
    kind: PanelKind,
) -> Vec<f32> {
    let packed = pack_conv(pool, level, shape, (bytemuck::cast_slice(w), Dtype::F32), kind);
    let count = shape.rows() * shape.cout;
    let bias = noise(shape.cout, 9);
    let residual = noise(count, 10);
    let epilogue = Epilogue {
        bias: Some(&bias),
        combine: Combine::Residual { data: Slice::F32(&residual), stride: shape.cout, gate: None },
        ..Epilogue::default()
    };
    let mut out = vec![f32::NAN; count];
    let bytes = conv_scratch_bytes(level, shape, kind, pool.threads());
    let mut scratch = vec![0xaau8; bytes + 64];
    let output = Output::F32 { data: &mut out, stride: shape.cout };
    let (inner, guard) = scratch.split_at_mut(bytes);
    conv(pool, level, shape, x, packed.view(), &epilogue, output, inner);
    assert!(guard.iter().all(|&byte| byte == 0xaa), "scratch overrun");
    out
}

#[test]
fn agrees_with_the_definition_at_every_level() {
    let pools = [Pool::new(1), Pool::new(2), Pool::new(3)];
    for shape in shapes() {
        let round = |values: Vec<f32>| -> Vec<f32> {
            values.into_iter().map(|v| half::bf16::from_f32(v).to_f32()).collect()
        };
        let x = round(noise(shape.input.iter().product::<usize>() * shape.cin, 1));
        let w = round(noise(shape.cout * shape.k(), 2));
        let halves: Vec<half::bf16> = x.iter().map(|&v| half::bf16::from_f32(v)).collect();
        let want = naive(&shape, &x, &w);
        let (bias, residual) = (noise(shape.cout, 9), noise(want.len(), 10));
        let slack = 3e-7 * shape.k() as f64 + 1e-6;
        for level in Level::available() {
            for kind in PanelKind::every(level) {
                let got = run(&pools[0], level, &shape, Slice::F32(&x), &w, kind);
                for (index, (&got, &want)) in got.iter().zip(&want).enumerate() {
                    let add = bias[index % shape.cout] + residual[index];
                    let error = (f64::from(got) - want - f64::from(add)).abs();
                    assert!(error < slack, "{level:?} {kind:?} {shape:?} {index} {error}");
                }
                for pool in &pools[1..] {
                    assert_eq!(got, run(pool, level, &shape, Slice::Bf16(&halves), &w, kind));
                }
            }
        }
    }
}

#[test]
fn a_kernel_larger_than_the_picture_gives_nothing() {
    let shape = ConvShape {
        input: [1, 2, 2],
        cin: 1,
        cout: 1,
        kernel: [3, 1, 1],
        stride: [1, 1, 1],
        padding: [(0, 0); 3],
    };
    assert_eq!(shape.output(), [0, 2, 2]);
    assert_eq!(shape.rows(), 0);
}

#[test]
#[should_panic(expected = "does not fit")]
fn a_foreign_weight_is_refused() {
    let shape = shapes()[0];
    let other = ConvShape { cin: 9, ..shape };
    let pool = Pool::new(1);
    let w = noise(shape.cout * other.k(), 3);
    let weight = (bytemuck::cast_slice(&w), Dtype::F32);
    let packed = pack_conv(&pool, Level::Portable, &other, weight, PanelKind::F32);
    let x = noise(1000, 4);
    let output = Output::F32 { data: &mut [], stride: 12 };
    let epilogue = Epilogue::default();
    let x = Slice::F32(&x);
    conv(&pool, Level::Portable, &shape, x, packed.view(), &epilogue, output, &mut []);
}
