//! Products against an f64 evaluation, at every level the machine has.

use super::*;
use half::f16;

fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2654435761) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn halves(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&value| bf16::from_f32(value)).collect()
}

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&value| bf16::from_f32(value).to_f32()).collect()
}

fn naive(a: &[f32], w: &[f32], (m, n, k): (usize, usize, usize), stride: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for i in 0..m {
        for j in 0..n {
            let row = &a[i * stride..i * stride + k];
            let column = &w[j * k..(j + 1) * k];
            out.push(row.iter().zip(column).map(|(&a, &w)| f64::from(a) * f64::from(w)).sum());
        }
    }
    out
}

const SHAPES: [(usize, usize, usize); 19] = [
    (1, 1, 1),
    (1, 64, 3),
    (2, 16, 2),
    (3, 17, 5),
    (5, 48, 33),
    (6, 65, 31),
    (7, 12, 64),
    (11, 33, 129),
    (12, 128, 7),
    (13, 100, 513),
    (16, 192, 100),
    (23, 80, 1025),
    (25, 31, 2049),
    (49, 63, 12),
    (241, 20, 40),
    (250, 130, 17),
    (1, 700, 600),
    (0, 16, 4),
    (4, 16, 0),
];

/// Runs a product with guarded scratch and a gap behind each row of A and of the output.
fn run(
    pool: &Pool,
    level: Level,
    (m, n, k): (usize, usize, usize),
    a: Slice<'_>,
    b: Packed<'_>,
    epilogue: &Epilogue<'_>,
    start: &[f32],
) -> Vec<f32> {
    let bytes = gemm_scratch_bytes(level, (m, n, k), b.kind(), pool.threads());
    let mut scratch = vec![0xaau8; bytes + 64];
    let (inner, guard) = scratch.split_at_mut(bytes);
    let mut out = start.to_vec();
    let output = Output::F32 { data: &mut out, stride: n + 3 };
    gemm(pool, level, m, Rows { data: a, stride: k + 5 }, b, epilogue, output, inner);
    assert!(guard.iter().all(|&byte| byte == 0xaa), "scratch overrun");
    for i in 0..m {
        assert!(out[i * (n + 3) + n..(i + 1) * (n + 3)] == start[i * (n + 3) + n..][..3]);
    }
    out
}

#[test]
fn products_agree_with_f64_and_do_not_depend_on_threads() {
    let pools = [Pool::new(1), Pool::new(2), Pool::new(3)];
    for (m, n, k) in SHAPES {
        let a = rounded(&noise(m * (k + 5), 1));
        let w = rounded(&noise(n * k, 2));
        let want = naive(&a, &w, (m, n, k), k + 5);
        let start = vec![7.0; m * (n + 3)];
        // An odd address, as of a piece of a file.
        let mut stored = vec![0u8];
        stored.extend_from_slice(bytemuck::cast_slice(&halves(&w)));
        let weights = Weights::row_major(&stored[1..], Dtype::Bf16, k);
        let ah = halves(&a);
        for level in Level::available() {
            for kind in PanelKind::every(level) {
                let packed = PackedMatrix::new(&pools[1], level, weights, (n, k), kind);
                let plain = Epilogue::default();
                let shape = (m, n, k);
                let (narrow, wide) = (Slice::Bf16(&ah), Slice::F32(&a));
                let got = run(&pools[0], level, shape, wide, packed.view(), &plain, &start);
                for i in 0..m {
                    for j in 0..n {
                        let error = (f64::from(got[i * (n + 3) + j]) - want[i * n + j]).abs();
                        let slack = 1e-6 + 1e-7 * k as f64;
                        assert!(error <= slack, "{level:?} {kind:?} {shape:?} {i} {j} {error}");
                    }
                }
                for pool in &pools {
                    assert_eq!(got, run(pool, level, shape, narrow, packed.view(), &plain, &start));
                }
            }
        }
    }
}

#[test]
fn long_sums_stay_accurate_in_f32() {
    let (m, n, k) = (3, 20, 14336);
    let (a, w) = (noise(m * (k + 5), 3), noise(n * k, 4));
    let want = naive(&a, &w, (m, n, k), k + 5);
    let pool = Pool::new(2);
    let weights = Weights::row_major(bytemuck::cast_slice(&w), Dtype::F32, k);
    let start = vec![0.0; m * (n + 3)];
    for level in Level::available() {
        let packed = PackedMatrix::new(&pool, level, weights, (n, k), PanelKind::F32);
        let plain = Epilogue::default();
        let view = packed.view();
        let got = run(&pool, level, (m, n, k), Slice::F32(&a), view, &plain, &start);
        let scale = (k as f64 / 9.0).sqrt();
        for i in 0..m {
            for j in 0..n {
                let error = (f64::from(got[i * (n + 3) + j]) - want[i * n + j]).abs() / scale;
                assert!(error < 1.5e-6, "{level:?} {error}");
            }
        }
    }
}

/// A rounding in an epilogue gives the bits of a result that is stored and read again.
#[test]
fn roundings_in_between_are_those_of_stored_values() {
    let (m, n, k) = (29, 83, 40);
    let (a, w) = (rounded(&noise(m * (k + 5), 5)), rounded(&noise(n * k, 6)));
    let (bias, residual) = (noise(n, 7), noise(m * (n + 3), 8));
    let pool = Pool::new(2);
    let weights = Weights::row_major(bytemuck::cast_slice(&w), Dtype::F32, k);
    for level in Level::available() {
        let packed = PackedMatrix::new(&pool, level, weights, (n, k), PanelKind::F32);
        let product = |epilogue: &Epilogue<'_>| {
            let x = Slice::F32(&a);
            run(&pool, level, (m, n, k), x, packed.view(), epilogue, &residual)
        };
        let bare = Epilogue { bias: Some(&bias), ..Epilogue::default() };
        let sums = product(&bare);
        let narrow: Vec<f32> = sums.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
        let got = product(&Epilogue { round_sums: true, ..bare });
        let each = |i: usize| (i / n, i / n * (n + 3) + i % n);
        assert!((0..m * n).map(each).all(|(_, at)| got[at] == narrow[at]), "{level:?}");
        let combine = Combine::Residual { data: Slice::F32(&residual), stride: n + 3, gate: None };
        for activation in [Activation::GeluTanh, Activation::Silu] {
            let active = product(&Epilogue { activation, ..bare });
            let got = product(&Epilogue { activation, round_activated: true, combine, ..bare });
            for (_, at) in (0..m * n).map(each) {
                let want = bf16::from_f32(active[at]).to_f32() + residual[at];
                assert_eq!(got[at], want, "{level:?} {activation:?}");
            }
        }
    }
}

#[test]
fn every_epilogue_agrees_with_its_definition() {
    let (m, n, k) = (29, 83, 40);
    let (a, w) = (rounded(&noise(m * (k + 5), 5)), rounded(&noise(n * k, 6)));
    let sums = naive(&a, &w, (m, n, k), k + 5);
    let (bias, residual) = (noise(n, 7), noise(m * (n + 3), 8));
    let factors = noise(3 * (n + 1), 9);
    let segments: Vec<u32> = (0..m as u32).map(|i| i * 3 / m as u32).collect();
    let gates = [
        None,
        Some(Gate { data: &factors[..], stride: n + 1, segments: Some(&segments[..]) }),
        Some(Gate { data: &factors[..], stride: n + 1, segments: None }),
    ];
    let pool = Pool::new(2);
    let weights = Weights::row_major(bytemuck::cast_slice(&w), Dtype::F32, k);
    for level in Level::available() {
        for kind in PanelKind::every(level) {
            let packed = PackedMatrix::new(&pool, level, weights, (n, k), kind);
            for bias in [None, Some(&bias[..])] {
                for activation in [Activation::None, Activation::GeluTanh, Activation::Silu] {
                    for (mode, gate) in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)] {
                        let gate = gates[gate];
                        let combine = match mode {
                            0 => Combine::Store,
                            1 => Combine::InPlace { gate },
                            _ => Combine::Residual {
                                data: Slice::F32(&residual),
                                stride: n + 3,
                                gate,
                            },
                        };
                        let epilogue =
                            Epilogue { bias, activation, combine, ..Epilogue::default() };
                        let got = run(
                            &pool,
                            level,
                            (m, n, k),
                            Slice::F32(&a),
                            packed.view(),
                            &epilogue,
                            &residual,
                        );
                        for i in 0..m {
                            for j in 0..n {
                                let v = sums[i * n + j] + bias.map_or(0.0, |b| f64::from(b[j]));
                                let mut v = activate(activation, v);
                                if let Some(gate) = gate {
                                    let row = gate.segments.map_or(0, |s| s[i] as usize);
                                    v *= f64::from(gate.data[row * gate.stride + j]);
                                }
                                if mode != 0 {
                                    v += f64::from(residual[i * (n + 3) + j]);
                                }
                                let error = (f64::from(got[i * (n + 3) + j]) - v).abs();
                                assert!(error < 1.5e-6, "{level:?} {kind:?} {epilogue:?} {error}");
                            }
                        }
                    }
                }
            }
        }
    }
}

fn activate(activation: Activation, v: f64) -> f64 {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    match activation {
        Activation::None => v,
        Activation::GeluTanh => 0.5 * v * (1.0 + (root * (v + 0.044715 * v * v * v)).tanh()),
        Activation::Silu => v / (1.0 + (-v).exp()),
    }
}

#[test]
fn bf16_output_is_the_rounded_f32_output() {
    let (m, n, k) = (14, 70, 90);
    let (a, w) = (noise(m * k, 10), noise(n * k, 11));
    let pool = Pool::new(2);
    for level in Level::available() {
        for kind in PanelKind::every(level) {
            let weights = Weights::row_major(bytemuck::cast_slice(&w), Dtype::F32, k);
            let packed = PackedMatrix::new(&pool, level, weights, (n, k), kind);
            let rows = Rows { data: Slice::F32(&a), stride: k };
            let mut scratch = vec![0; gemm_scratch_bytes(level, (m, n, k), kind, 2)];
            let (mut wide, mut narrow) = (vec![0.0; m * n], vec![bf16::ZERO; m * n]);
            let plain = Epilogue::default();
            let output = Output::F32 { data: &mut wide, stride: n };
            gemm(&pool, level, m, rows, packed.view(), &plain, output, &mut scratch);
            let output = Output::Bf16 { data: &mut narrow, stride: n };
            gemm(&pool, level, m, rows, packed.view(), &plain, output, &mut scratch);
            assert_eq!(halves(&wide), narrow);
        }
    }
}

#[test]
fn stored_types_layouts_and_levels_pack_to_the_same_panels() {
    let (n, k) = (83, 141);
    let w = rounded(&noise(n * k, 12));
    let coarse: Vec<f16> = w.iter().map(|&value| f16::from_f32(value)).collect();
    // Values that both half types hold, so that all sources agree.
    let w: Vec<f32> = coarse.iter().map(|v| bf16::from_f32(v.to_f32()).to_f32()).collect();
    let coarse: Vec<f16> = w.iter().map(|&value| f16::from_f32(value)).collect();
    assert!(w.iter().zip(&coarse).all(|(a, b)| *a == b.to_f32()));
    let turned: Vec<f32> = (0..n * k).map(|i| w[i % n * k + i / n]).collect();
    let narrow = halves(&w);
    let sources = [
        Weights::row_major(bytemuck::cast_slice(&w), Dtype::F32, k),
        Weights::row_major(bytemuck::cast_slice(&narrow), Dtype::Bf16, k),
        Weights::row_major(bytemuck::cast_slice(&coarse), Dtype::F16, k),
        Weights::transposed(bytemuck::cast_slice(&turned), Dtype::F32, n),
    ];
    let pool = Pool::new(2);
    for kind in [PanelKind::F32, PanelKind::Bf16] {
        let mut seen: Option<Vec<u8>> = None;
        for level in Level::available() {
            for source in sources {
                let packed = PackedMatrix::new(&pool, level, source, (n, k), kind);
                let bytes = packed.bytes()[..packed_bytes(n, k, kind)].to_vec();
                assert_eq!(seen.get_or_insert_with(|| bytes.clone()), &bytes);
            }
        }
    }
}

#[test]
fn dynamic_operands_give_the_same_product() {
    let (m, n, k) = (37, 50, 75);
    let (a, b) = (noise(m * k, 13), noise(n * k, 14));
    let pool = Pool::new(3);
    let rows = Rows { data: Slice::F32(&a), stride: k };
    let weights = Weights::row_major(bytemuck::cast_slice(&b), Dtype::F32, k);
    for level in Level::available() {
        for kind in PanelKind::every(level) {
            let packed = PackedMatrix::new(&pool, level, weights, (n, k), kind);
            let (mut first, mut second) = (vec![0.0; m * n], vec![0.0; m * n]);
            let mut scratch = vec![0; gemm_scratch_bytes(level, (m, n, k), kind, 3)];
            let plain = Epilogue::default();
            let output = Output::F32 { data: &mut first, stride: n };
            gemm(&pool, level, m, rows, packed.view(), &plain, output, &mut scratch);
            let mut scratch = vec![0; gemm_dynamic_scratch_bytes(level, (m, n, k), kind, 3)];
            let output = Output::F32 { data: &mut second, stride: n };
            let shape = (m, n, k);
            gemm_dynamic(&pool, level, shape, rows, weights, kind, &plain, output, &mut scratch);
            assert_eq!(first, second);
        }
    }
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    let (n, k) = (130, 1100);
    let (a, w) = (noise(40 * (k + 5), 15), noise(n * k, 16));
    let pool = Pool::new(2);
    let weights = Weights::row_major(bytemuck::cast_slice(&w), Dtype::F32, k);
    for level in Level::available() {
        for kind in PanelKind::every(level) {
            let packed = PackedMatrix::new(&pool, level, weights, (n, k), kind);
            let (view, plain) = (packed.view(), Epilogue::default());
            let start = vec![0.0; 40 * (n + 3)];
            let all = run(&pool, level, (40, n, k), Slice::F32(&a), view, &plain, &start);
            let start = &start[..n + 3];
            let last = Slice::F32(&a[39 * (k + 5)..]);
            let one = run(&pool, level, (1, n, k), last, view, &plain, start);
            assert_eq!(one, all[39 * (n + 3)..]);
        }
    }
}

#[test]
fn special_values_survive() {
    let w = [1.0f32, 0.0, f32::INFINITY, 1.0];
    let a = [f32::NAN, 1.0, 2.0, 3.0];
    let pool = Pool::new(1);
    for level in Level::available() {
        for kind in PanelKind::every(level) {
            let weights = Weights::row_major(bytemuck::cast_slice(&w), Dtype::F32, 2);
            let packed = PackedMatrix::new(&pool, level, weights, (2, 2), kind);
            let mut scratch = vec![0; gemm_scratch_bytes(level, (2, 2, 2), kind, 1)];
            let mut out = [0.0; 4];
            let rows = Rows { data: Slice::F32(&a), stride: 2 };
            let output = Output::F32 { data: &mut out, stride: 2 };
            let plain = Epilogue::default();
            gemm(&pool, level, 2, rows, packed.view(), &plain, output, &mut scratch);
            assert!(out[0].is_nan() && out[1].is_nan());
            assert_eq!((out[2], out[3]), (2.0, f32::INFINITY));
        }
    }
}

#[test]
#[should_panic(expected = "scratch has")]
fn short_scratch_is_refused() {
    let pool = Pool::new(1);
    let weights = Weights::row_major(&[0; 64], Dtype::F32, 4);
    let packed = PackedMatrix::new(&pool, Level::Portable, weights, (4, 4), PanelKind::F32);
    let rows = Rows { data: Slice::F32(&[0.0; 16]), stride: 4 };
    let mut out = [0.0; 16];
    let output = Output::F32 { data: &mut out, stride: 4 };
    let epilogue = Epilogue::default();
    gemm(&pool, Level::Portable, 4, rows, packed.view(), &epilogue, output, &mut [0; 64]);
}

#[test]
#[should_panic(expected = "gate has")]
fn a_segment_without_a_gate_row_is_refused() {
    let pool = Pool::new(1);
    let level = Level::Portable;
    let weights = Weights::row_major(&[0; 64], Dtype::F32, 4);
    let packed = PackedMatrix::new(&pool, level, weights, (4, 4), PanelKind::F32);
    let rows = Rows { data: Slice::F32(&[0.0; 8]), stride: 4 };
    let gate = Gate { data: &[1.0; 8], stride: 4, segments: Some(&[1, 2]) };
    let combine = Combine::InPlace { gate: Some(gate) };
    let epilogue = Epilogue { combine, ..Epilogue::default() };
    let mut scratch = vec![0; gemm_scratch_bytes(level, (2, 4, 4), PanelKind::F32, 1)];
    let mut out = [0.0; 8];
    let output = Output::F32 { data: &mut out, stride: 4 };
    gemm(&pool, level, 2, rows, packed.view(), &epilogue, output, &mut scratch);
}
