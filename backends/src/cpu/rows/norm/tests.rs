//! Norms, modulation, gates and rotary positions against f64.

use half::bf16;

use super::super::testing::{assert_close, noise, same_bits, to_bf16};
use super::*;

/// Runs the kernel at every level, with one and three threads, into strided guarded rows.
fn on_all(
    rows: usize,
    width: usize,
    want: &[f64],
    kernel: &dyn Fn(&Pool, Level, RowsMut<'_, f32>),
) {
    for level in Level::available() {
        let mut results = Vec::new();
        for workers in [1, 3] {
            let stride = width + 3;
            let mut out = vec![f32::NAN; rows * stride];
            let y = RowsMut::strided(&mut out, rows, width, stride);
            kernel(&Pool::new(workers), level, y);
            assert!(out.chunks(stride).all(|row| row[width..].iter().all(|x| x.is_nan())));
            let dense: Vec<f32> =
                out.chunks(stride).flat_map(|row| row[..width].to_vec()).collect();
            assert_close(&dense, want, 2e-6, &format!("{level:?} {rows}x{width}"));
            results.push(dense);
        }
        assert!(same_bits(&results[0], &results[1]));
    }
}

const SIZES: [(usize, usize); 7] =
    [(1, 1), (3, 3), (5, 17), (2, 48), (40, 640), (9, 3072), (3, 1031)];

#[test]
fn layer_norm_with_everything() {
    for (rows, width) in SIZES {
        let x: Vec<f32> = noise(1, rows * width, 2.0).iter().map(|x| x + 3.0).collect();
        let weight = noise(2, width, 1.0);
        let bias = noise(3, width, 1.0);
        let tables = noise(4, 3 * 2 * width, 1.0);
        let segments: Vec<i32> = (0..rows).map(|row| (row * 7 % 3) as i32).collect();
        let modulation = Modulation {
            scale: Table { data: &tables, stride: 2 * width },
            shift: Table { data: &tables[width..], stride: 2 * width },
            segments: &segments,
        };
        for parts in 0..8 {
            let norm = LayerNorm {
                eps: 1e-6,
                weight: (parts & 1 > 0).then_some(&weight[..]),
                bias: (parts & 2 > 0).then_some(&bias[..]),
                modulation: (parts & 4 > 0).then_some(modulation),
            };
            let mut want = Vec::new();
            for (row, values) in x.chunks(width).enumerate() {
                let n = width as f64;
                let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
                let variance =
                    values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
                for (c, &x) in values.iter().enumerate() {
                    let mut y = (f64::from(x) - mean) / (variance + 1e-6).sqrt();
                    y *= norm.weight.map_or(1.0, |w| f64::from(w[c]));
                    y += norm.bias.map_or(0.0, |b| f64::from(b[c]));
                    if norm.modulation.is_some() {
                        let group = &tables[segments[row] as usize * 2 * width..];
                        y = y * (1.0 + f64::from(group[c])) + f64::from(group[width + c]);
                    }
                    want.push(y);
                }
            }
            // The width of one has a deviation of exactly zero, which eps must carry.
            on_all(rows, width, &want, &|pool, level, y| {
                layer_norm(pool, level, Rows::new(&x, width), &norm, y);
            });
        }
    }
}

#[test]
fn rms_norm_forms_with_silu_and_rope() {
    for (rows, width) in SIZES {
        let x = noise(1, rows * width, 2.0);
        let gain = noise(2, width, 1.0);
        let forms = [RmsForm::Mean { eps: 1e-6 }, RmsForm::Clamped { eps: 1e-12 }];
        for (form, silu) in forms.into_iter().flat_map(|form| [(form, false), (form, true)]) {
            let norm = RmsNorm { form, gain: &gain, round_bf16: false, silu, rope: None };
            let mut want = Vec::new();
            for values in x.chunks(width) {
                let squares: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
                let rate = match form {
                    RmsForm::Mean { .. } => (squares / width as f64 + 1e-6).sqrt(),
                    RmsForm::Clamped { .. } => squares.sqrt() / (width as f64).sqrt(),
                };
                for (x, g) in values.iter().zip(&gain) {
                    let y = f64::from(*x) / rate * f64::from(*g);
                    want.push(if silu { y / (1.0 + (-y).exp()) } else { y });
                }
            }
            on_all(rows, width, &want, &|pool, level, y| {
                rms_norm(pool, level, Rows::new(&x, width), &norm, y);
            });
        }
    }
    // A zero row stays zero in both forms.
    let zero = [0.0_f32; 20];
    for form in [RmsForm::Mean { eps: 1e-6 }, RmsForm::Clamped { eps: 1e-12 }] {
        let gain = [1.0; 20];
        let norm = RmsNorm { form, gain: &gain, round_bf16: false, silu: false, rope: None };
        on_all(1, 20, &[0.0; 20], &|pool, level, y| {
            rms_norm(pool, level, Rows::new(&zero, 20), &norm, y);
        });
    }
}

fn reference_rope(x: &[f32], table: &[f32], width: usize, head: usize) -> Vec<f64> {
    let mut want = Vec::new();
    for (row, values) in x.chunks(width).enumerate() {
        for at in (0..width).step_by(2) {
            let pair = &table[row * head + at % head..][..2];
            let (cos, sin) = (f64::from(pair[0]), f64::from(pair[1]));
            let (a, b) = (f64::from(values[at]), f64::from(values[at + 1]));
            want.extend([a * cos - b * sin, a * sin + b * cos]);
        }
    }
    want
}

#[test]
fn rope_alone_and_after_a_norm() {
    for (rows, heads, head) in [(1, 1, 2), (5, 3, 6), (7, 2, 48), (11, 24, 128), (3, 2, 34)] {
        let width = heads * head;
        let x = noise(1, rows * width, 2.0);
        let table: Vec<f32> = (0..rows * head / 2)
            .flat_map(|i| [(i as f32 * 0.7).cos(), (i as f32 * 0.7).sin()])
            .collect();
        let turn = Rope { head_dim: head, table: &table };
        let want = reference_rope(&x, &table, width, head);
        on_all(rows, width, &want, &|pool, level, y| {
            rope(pool, level, Rows::new(&x, width), &turn, y);
        });
        let gain = noise(5, width, 1.0);
        let form = RmsForm::Mean { eps: 1e-6 };
        let mut norm = RmsNorm { form, gain: &gain, round_bf16: true, silu: false, rope: None };
        for level in Level::available() {
            let pool = Pool::new(2);
            let (mut two, mut one) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            let mut between = vec![0.0_f32; x.len()];
            norm.rope = None;
            let y = RowsMut::new(&mut between, width);
            rms_norm(&pool, level, Rows::new(&x, width), &norm, y);
            let y = RowsMut::new(&mut two, width);
            rope(&pool, level, Rows::new(&between, width), &turn, y);
            norm.rope = Some(turn);
            let y = RowsMut::new(&mut one, width);
            rms_norm(&pool, level, Rows::new(&x, width), &norm, y);
            assert!(same_bits(&one, &two), "fused and apart agree");
        }
    }
}

#[test]
fn modulation_and_gates() {
    for (rows, width) in SIZES {
        let x = noise(1, rows * width, 2.0);
        let branch = noise(2, rows * width, 2.0);
        let table = noise(3, 2 * width, 1.0);
        let segments: Vec<i32> = (0..rows).map(|row| (row % 2) as i32).collect();
        let gate = Table { data: &table, stride: width };
        let at = |row: usize, c: usize| f64::from(table[segments[row] as usize * width + c]);
        let cells = || (0..rows).flat_map(|row| (0..width).map(move |c| (row, c)));
        let value = |data: &[f32], row: usize, c: usize| f64::from(data[row * width + c]);
        let want: Vec<f64> =
            cells().map(|(r, c)| value(&x, r, c) * (1.0 + at(r, c)) + at(r, c)).collect();
        let modulation = Modulation { scale: gate, shift: gate, segments: &segments };
        on_all(rows, width, &want, &|pool, level, y| {
            modulate(pool, level, Rows::new(&x, width), &modulation, y);
        });
        let want: Vec<f64> =
            cells().map(|(r, c)| value(&x, r, c) + value(&branch, r, c) * at(r, c)).collect();
        on_all(rows, width, &want, &|pool, level, y| {
            let (x, branch) = (Rows::new(&x, width), Rows::new(&branch, width));
            gate_add(pool, level, x, branch, gate, &segments, y);
        });
        for level in Level::available() {
            let mut y = x.clone();
            let branch = Rows::new(&branch, width);
            let rows = RowsMut::new(&mut y, width);
            gate_add_in_place(&Pool::new(2), level, rows, branch, gate, &segments);
            assert_close(&y, &want, 2e-6, "in place");
        }
    }
}

#[test]
fn bf16_rows_round_once() {
    let width = 77;
    let x = to_bf16(&noise(1, 5 * width, 2.0));
    let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
    let norm = LayerNorm { eps: 1e-6, weight: None, bias: None, modulation: None };
    for level in Level::available() {
        let mut exact = vec![0.0_f32; wide.len()];
        let mut half = vec![bf16::ZERO; wide.len()];
        let pool = Pool::new(1);
        let y = RowsMut::new(&mut exact, width);
        layer_norm(&pool, level, Rows::new(&wide, width), &norm, y);
        let y = RowsMut::new(&mut half, width);
        layer_norm(&pool, level, Rows::new(&x, width), &norm, y);
        assert_eq!(half, to_bf16(&exact));
    }
}

#[test]
#[should_panic(expected = "segment 2 is no group")]
fn unknown_segment_is_refused() {
    let table = Table { data: &[0.0; 8], stride: 4 };
    let modulation = Modulation { scale: table, shift: table, segments: &[2] };
    let mut y = [0.0_f32; 4];
    let y = RowsMut::new(&mut y, 4);
    modulate(&Pool::new(1), Level::Portable, Rows::new(&[0.0_f32; 4], 4), &modulation, y);
}
