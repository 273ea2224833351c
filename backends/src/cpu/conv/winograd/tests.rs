//! The transformed convolution against the plain one: choice of method, agreement, threads.

use super::super::tests::{naive, noise};
use super::super::{
    Algorithm, Combine, conv_algorithm, conv_by, conv_scratch_bytes_for, pack_conv,
};
use super::*;
use crate::cpu::gemm::Dtype;

const SAME: [(usize, usize); 3] = [(2, 0), (1, 1), (1, 1)];

fn shapes() -> Vec<ConvShape> {
    let base = ConvShape {
        input: [3, 7, 9],
        cin: 24,
        cout: 20,
        kernel: [3; 3],
        stride: [1; 3],
        padding: SAME,
    };
    vec![
        base,
        // One frame, a picture smaller than a tile, one channel.
        ConvShape { input: [1, 2, 1], cin: 1, cout: 1, ..base },
        // The past lies before the chunk; several groups of frames; two panels.
        ConvShape { input: [9, 5, 4], padding: [(0, 0), (1, 1), (1, 1)], cout: 70, ..base },
        ConvShape { kernel: [1, 3, 3], padding: [(0, 0), (1, 1), (1, 1)], cin: 33, ..base },
        // Uneven borders, none at all, and padding behind in time.
        ConvShape { padding: [(1, 1), (0, 2), (3, 0)], input: [2, 6, 5], ..base },
        ConvShape { padding: [(0, 2), (0, 0), (0, 0)], input: [1, 8, 11], ..base },
        // Several blocks of tiles, two blocks of K, five panels.
        ConvShape {
            input: [1, 37, 41],
            cin: 520,
            cout: 12,
            kernel: [1, 3, 3],
            padding: [(0, 0), (1, 1), (1, 1)],
            ..base
        },
        ConvShape { input: [2, 14, 15], cin: 16, cout: 310, ..base },
        ConvShape { kernel: [2, 3, 3], padding: [(1, 0), (1, 1), (1, 1)], ..base },
    ]
}

struct Problem {
    shape: ConvShape,
    x: Vec<f32>,
    w: Vec<f32>,
    want: Vec<f64>,
}

fn problem(shape: ConvShape) -> Problem {
    let x = noise(shape.input.iter().product::<usize>() * shape.cin, 1);
    let w = noise(shape.cout * shape.k(), 2);
    let want = naive(&shape, &x, &w);
    Problem { shape, x, w, want }
}

fn run(
    pool: &Pool,
    level: Level,
    problem: &Problem,
    algorithm: Algorithm,
    x: Slice<'_>,
    combine: Combine<'_>,
) -> Vec<f32> {
    run_kind(pool, level, problem, PanelKind::F32, algorithm, x, combine)
}

fn run_kind(
    pool: &Pool,
    level: Level,
    problem: &Problem,
    kind: PanelKind,
    algorithm: Algorithm,
    x: Slice<'_>,
    combine: Combine<'_>,
) -> Vec<f32> {
    let shape = &problem.shape;
    let weight = (bytemuck::cast_slice(&problem.w), Dtype::F32);
    let packed = pack_conv(pool, level, shape, weight, kind);
    let bias = noise(shape.cout, 9);
    let epilogue = Epilogue { bias: Some(&bias), combine, ..Epilogue::default() };
    let mut out = vec![f32::NAN; shape.rows() * shape.cout];
    let bytes = conv_scratch_bytes_for(level, shape, kind, algorithm, pool.threads());
    let mut scratch = vec![0xaau8; bytes + 64];
    let (inner, guard) = scratch.split_at_mut(bytes);
    let output = Output::F32 { data: &mut out, stride: shape.cout };
    conv_by(pool, level, shape, algorithm, x, packed.view(), &epilogue, output, inner);
    assert!(guard.iter().all(|&byte| byte == 0xaa), "scratch overrun");
    out
}

/// Largest and root mean square error over the largest and root mean square value.
fn errors(got: &[f32], want: &[f64], bias: &[f32]) -> (f64, f64) {
    let (mut most, mut sum, mut scale, mut square) = (0f64, 0f64, 1e-30f64, 1e-30f64);
    for (index, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want - f64::from(bias[index % bias.len()])).abs();
        assert!(error.is_finite());
        (most, scale) = (most.max(error), scale.max(want.abs()));
        (sum, square) = (sum + error * error, square + want * want);
    }
    (most / scale, (sum / square).sqrt())
}

#[test]
fn agrees_with_the_definition_at_every_level_and_number_of_threads() {
    let pools = [Pool::new(1), Pool::new(2), Pool::new(3)];
    for shape in shapes() {
        let problem = problem(shape);
        let bias = noise(shape.cout, 9);
        for (tile, bound) in [(Tile::Two, 2e-6), (Tile::Four, 1e-5)] {
            let algorithm = Algorithm::Winograd(tile);
            for level in Level::available() {
                let x = Slice::F32(&problem.x);
                let got = run(&pools[0], level, &problem, algorithm, x, Combine::Store);
                let (most, _) = errors(&got, &problem.want, &bias);
                assert!(most < bound, "{tile:?} {level:?} {shape:?}: {most:.2e}");
                for pool in &pools[1..] {
                    let other = run(pool, level, &problem, algorithm, x, Combine::Store);
                    assert!(got.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits()));
                }
            }
        }
    }
}

#[test]
fn bf16_products_agree_with_the_definition_at_every_level_and_number_of_threads() {
    let pools = [Pool::new(1), Pool::new(2), Pool::new(3)];
    let kind = PanelKind::Bf16;
    for shape in shapes() {
        if !fits(&shape, kind) {
            assert!(shape.cin % 2 == 1);
            assert_eq!(conv_algorithm(&shape, kind), Algorithm::Direct);
            continue;
        }
        let mut problem = problem(shape);
        let halves: Vec<bf16> = problem.x.iter().map(|&v| bf16::from_f32(v)).collect();
        problem.x = halves.iter().map(|v| v.to_f32()).collect();
        problem.w = problem.w.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
        problem.want = naive(&shape, &problem.x, &problem.w);
        let bias = noise(shape.cout, 9);
        for (tile, bound) in [(Tile::Two, 5e-3), (Tile::Four, 2e-2)] {
            let algorithm = Algorithm::Winograd(tile);
            for level in Level::available() {
                let of =
                    |pool, x| run_kind(pool, level, &problem, kind, algorithm, x, Combine::Store);
                let got = of(&pools[0], Slice::F32(&problem.x));
                let (_, rms) = errors(&got, &problem.want, &bias);
                assert!(rms < bound, "{tile:?} {level:?} {shape:?}: {rms:.2e}");
                for pool in &pools[1..] {
                    let other = of(pool, Slice::Bf16(&halves));
                    assert!(got.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits()));
                }
            }
        }
    }
}

/// A picture of soft shapes, edges and fine texture, as 16 channels of shifted copies.
fn picture(side: usize, channels: usize) -> Vec<f32> {
    let texture = noise(side * side, 5);
    let mut out = Vec::new();
    for pixel in 0..side * side {
        for channel in 0..channels {
            let (h, w) = (pixel / side, (pixel % side + channel) % side);
            let (y, x) = (h as f32 / side as f32, w as f32 / side as f32);
            let soft = (5.0 * x + channel as f32).sin() * (3.0 * y).cos();
            let edge = if x + y > 1.0 { 0.5 } else { -0.3 };
            out.push(soft + edge + 0.05 * texture[h * side + w]);
        }
    }
    out.iter().map(|&v| bf16::from_f32(v).to_f32()).collect()
}

#[test]
fn bf16_products_on_a_picture_stay_above_50_decibels() {
    let shape = ConvShape {
        input: [1, 40, 40],
        cin: 32,
        cout: 24,
        kernel: [1, 3, 3],
        stride: [1; 3],
        padding: [(0, 0), (1, 1), (1, 1)],
    };
    let mut problem = problem(shape);
    problem.x = picture(40, 32);
    problem.w = problem.w.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
    let want = naive(&shape, &problem.x, &problem.w);
    let bias = noise(shape.cout, 9);
    let (low, high) = want.iter().fold((0f64, 0f64), |(l, h), &v| (l.min(v), h.max(v)));
    let size = (want.iter().map(|v| v * v).sum::<f64>() / want.len() as f64).sqrt();
    let (pool, kind) = (Pool::new(2), PanelKind::Bf16);
    for (tile, least) in [(Tile::Two, 60.0), (Tile::Four, 55.0)] {
        let (algorithm, x) = (Algorithm::Winograd(tile), Slice::F32(&problem.x));
        let level = Level::detect();
        let got = run_kind(&pool, level, &problem, kind, algorithm, x, Combine::Store);
        let (_, rms) = errors(&got, &want, &bias);
        let decibels = 20.0 * ((high - low) / (rms * size)).log10();
        println!("{tile:?}: {decibels:.1} dB");
        assert!(decibels > least, "{tile:?}: {decibels:.1} dB");
    }
}

#[test]
fn errors_stay_near_those_of_the_direct_kernel() {
    let shape = ConvShape {
        input: [3, 12, 12],
        cin: 192,
        cout: 48,
        kernel: [3; 3],
        stride: [1; 3],
        padding: SAME,
    };
    let problem = problem(shape);
    let bias = noise(shape.cout, 9);
    let (pool, level) = (Pool::new(2), Level::detect());
    let measure = |algorithm| {
        let x = Slice::F32(&problem.x);
        errors(&run(&pool, level, &problem, algorithm, x, Combine::Store), &problem.want, &bias).1
    };
    let direct = measure(Algorithm::Direct);
    let two = measure(Algorithm::Winograd(Tile::Two));
    let four = measure(Algorithm::Winograd(Tile::Four));
    println!("rms: direct {direct:.2e}, F(2,3) {two:.2e}, F(4,3) {four:.2e}");
    assert!(two < 2.5 * direct && four < 10.0 * direct, "{direct:.2e} {two:.2e} {four:.2e}");
}

#[test]
fn epilogues_bf16_inputs_and_bf16_outputs() {
    let mut problem = problem(shapes()[0]);
    let shape = problem.shape;
    let halves: Vec<bf16> = problem.x.iter().map(|&v| bf16::from_f32(v)).collect();
    problem.x = halves.iter().map(|v| v.to_f32()).collect();
    let pool = Pool::new(2);
    let algorithm = Algorithm::Winograd(Tile::Two);
    let residual = noise(shape.rows() * shape.cout, 4);
    let combine = Combine::Residual { data: Slice::F32(&residual), stride: shape.cout, gate: None };
    for level in Level::available() {
        let x = Slice::F32(&problem.x);
        let plain = run(&pool, level, &problem, algorithm, x, Combine::Store);
        let bits = run(&pool, level, &problem, algorithm, Slice::Bf16(&halves), Combine::Store);
        assert_eq!(plain, bits);
        let added = run(&pool, level, &problem, algorithm, x, combine);
        for index in 0..plain.len() {
            assert_eq!(added[index], plain[index] + residual[index]);
        }
        let weight = (bytemuck::cast_slice(&problem.w), Dtype::F32);
        let packed = pack_conv(&pool, level, &shape, weight, PanelKind::F32);
        let mut out = vec![bf16::NAN; plain.len()];
        let mut scratch =
            vec![0; scratch_bytes(level, &shape, PanelKind::F32, Form::Tiles(Tile::Two))];
        let bias = noise(shape.cout, 9);
        let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
        let output = Output::Bf16 { data: &mut out, stride: shape.cout };
        conv_by(&pool, level, &shape, algorithm, x, packed.view(), &epilogue, output, &mut scratch);
        assert!(out.iter().zip(&plain).all(|(a, b)| *a == bf16::from_f32(*b)));
    }
}

#[test]
fn the_choice_follows_the_shape() {
    let base = ConvShape {
        input: [6, 64, 64],
        cin: 256,
        cout: 256,
        kernel: [3; 3],
        stride: [1; 3],
        padding: [(0, 0), (1, 1), (1, 1)],
    };
    let choice = |shape: ConvShape| conv_algorithm(&shape, PanelKind::F32);
    assert_eq!(choice(base), Algorithm::Winograd(Tile::Four));
    assert_eq!(conv_algorithm(&base, PanelKind::Bf16), Algorithm::Winograd(Tile::Two));
    let odd = ConvShape { cin: 255, ..base };
    assert_eq!(conv_algorithm(&odd, PanelKind::Bf16), Algorithm::Direct);
    let first = ConvShape { input: [1, 128, 128], padding: SAME, ..base };
    assert_eq!(choice(first), Algorithm::Winograd(Tile::Four));
    let per_frame = ConvShape { kernel: [1, 3, 3], input: [1, 128, 128], ..base };
    assert_eq!(choice(per_frame), Algorithm::Winograd(Tile::Four));
    assert_eq!(choice(ConvShape { input: [3, 2, 2], ..base }), Algorithm::Direct);
    assert_eq!(choice(ConvShape { stride: [1, 2, 2], ..base }), Algorithm::Direct);
    assert_eq!(choice(ConvShape { kernel: [3, 1, 1], ..base }), Algorithm::Direct);
    assert_eq!(choice(ConvShape { cin: 3, cout: 3, ..base }), Algorithm::Direct);
    assert_eq!(choice(ConvShape { input: [2, 64, 64], ..base }), Algorithm::Direct);
}

#[test]
fn scratch_is_bounded_for_large_pictures() {
    let shape = ConvShape {
        input: [6, 352, 640],
        cin: 512,
        cout: 256,
        kernel: [3; 3],
        stride: [1; 3],
        padding: [(0, 0), (1, 1), (1, 1)],
    };
    for tile in [Tile::Two, Tile::Four] {
        assert!(
            scratch_bytes(Level::Portable, &shape, PanelKind::F32, Form::Tiles(tile)) < 48 << 20
        );
    }
}

#[test]
#[should_panic(expected = "no transform")]
fn a_strided_convolution_is_refused() {
    let mut problem = problem(shapes()[0]);
    problem.shape.stride = [1, 2, 2];
    let algorithm = Algorithm::Winograd(Tile::Two);
    let x = Slice::F32(&problem.x);
    run(&Pool::new(1), Level::Portable, &problem, algorithm, x, Combine::Store);
}
