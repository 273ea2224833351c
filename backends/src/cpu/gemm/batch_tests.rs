//! Batched products whose sides lie either way round, at every level the machine has.

use super::*;

/// Pages, M, N, K: single elements, tails of every kind, sums of several blocks, many small pages,
/// several groups of large ones, panels that several tasks make.
const SHAPES: [[usize; 4]; 12] = [
    [1, 1, 1, 1],
    [3, 1, 17, 5],
    [2, 17, 1, 33],
    [5, 12, 16, 64],
    [70, 9, 5, 7],
    [3, 33, 65, 129],
    [1, 250, 130, 17],
    [2, 61, 83, 1101],
    [1, 49, 200, 2051],
    [9, 260, 300, 250],
    [2, 200, 70, 301],
    [1, 150, 64, 1200],
];

const SIDES: [[bool; 2]; 4] = [[false, false], [true, false], [false, true], [true, true]];

fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2654435761) | 1;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn halves(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|value| bf16::from_f32(*value)).collect()
}

/// Each page [rows, columns] the other way round.
fn turn<T: Copy>(values: &[T], [rows, columns]: [usize; 2]) -> Vec<T> {
    let page = |page: &[T]| -> Vec<T> {
        (0..rows * columns).map(|at| page[at % rows * columns + at / rows]).collect()
    };
    values.chunks(rows * columns).flat_map(page).collect()
}

/// [`dot`] into f32, with scratch of exactly the size that is asked for, holding garbage.
fn product(
    pool: &Pool,
    level: Level,
    shape: &BatchShape,
    [a, b]: [Slice<'_>; 2],
    garbage: u8,
) -> Vec<f32> {
    let bytes = dot_scratch_bytes(level, shape, pool.threads());
    let mut scratch = vec![garbage; bytes + 64];
    let (inner, guard) = scratch.split_at_mut(bytes);
    let mut out = vec![f32::NAN; shape.pages * shape.m * shape.n];
    let output = Output::F32 { data: &mut out, stride: shape.n };
    dot(pool, level, shape, a, Other::Pages(b), &Epilogue::default(), output, inner);
    assert!(guard.iter().all(|byte| *byte == garbage), "scratch overrun");
    out
}

/// Every page by itself, with B in panels of its own.
fn pages_apart(pool: &Pool, level: Level, shape: &BatchShape, a: &[f32], b: &[f32]) -> Vec<f32> {
    let BatchShape { m, n, k, kind, .. } = *shape;
    let mut out = vec![0.0; shape.pages * m * n];
    for ((a, b), out) in a.chunks(m * k).zip(b.chunks(n * k)).zip(out.chunks_mut(m * n)) {
        let weights = Weights::row_major(bytemuck::cast_slice(b), Dtype::F32, k);
        let packed = PackedMatrix::new(pool, level, weights, (n, k), kind);
        let mut scratch = vec![0; gemm_scratch_bytes(level, (m, n, k), kind, pool.threads())];
        let rows = Rows { data: Slice::F32(a), stride: k };
        let output = Output::F32 { data: out, stride: n };
        let plain = Epilogue::default();
        gemm(pool, level, m, rows, packed.view(), &plain, output, &mut scratch);
    }
    out
}

/// So linear layers, whose tests compare with sums in f64, and `dot` agree in every bit.
#[test]
fn however_its_sides_lie_a_product_has_the_bits_of_its_pages() {
    let pools = [Pool::new(1), Pool::new(2), Pool::new(3)];
    for [pages, m, n, k] in SHAPES {
        let rounded =
            |values: Vec<f32>| -> Vec<f32> { halves(&values).into_iter().map(f32::from).collect() };
        let (a, b) = (rounded(noise(pages * m * k, 1)), rounded(noise(pages * n * k, 2)));
        for level in Level::available() {
            for kind in PanelKind::every(level) {
                let shape = BatchShape { pages, m, n, k, turned: [false; 2], kind };
                let want = pages_apart(&pools[1], level, &shape, &a, &b);
                for turned in SIDES {
                    let shape = BatchShape { turned, ..shape };
                    let a = if turned[0] { turn(&a, [m, k]) } else { a.clone() };
                    let b = if turned[1] { turn(&b, [n, k]) } else { b.clone() };
                    let narrow = [halves(&a), halves(&b)];
                    let narrow = [Slice::Bf16(&narrow[0]), Slice::Bf16(&narrow[1])];
                    let wide = [Slice::F32(&a), Slice::F32(&b)];
                    for (pool, garbage) in pools.iter().zip([0xff, 0x00, 0x7f]) {
                        for sides in [narrow, wide] {
                            let got = product(pool, level, &shape, sides, garbage);
                            assert!(got == want, "{level:?} {shape:?} {} threads", pool.threads());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn values_that_no_bf16_holds_are_rounded_alike_on_both_sides() {
    let [pages, m, n, k] = [2, 19, 35, 77];
    let (a, b) = (noise(pages * m * k, 3), noise(pages * n * k, 4));
    let pool = Pool::new(2);
    for level in Level::available() {
        for kind in PanelKind::every(level) {
            let shape = BatchShape { pages, m, n, k, turned: [false; 2], kind };
            let want = pages_apart(&pool, level, &shape, &a, &b);
            let (a, b) = (turn(&a, [m, k]), turn(&b, [n, k]));
            let shape = BatchShape { turned: [true; 2], ..shape };
            let got = product(&pool, level, &shape, [Slice::F32(&a), Slice::F32(&b)], 0xff);
            assert!(got == want, "{level:?} {kind:?}");
        }
    }
}

#[test]
fn results_in_bf16_are_the_rounded_sums() {
    let shape =
        BatchShape { pages: 3, m: 21, n: 37, k: 50, turned: [true; 2], kind: PanelKind::Bf16 };
    let (a, b) = (halves(&noise(3 * 21 * 50, 5)), halves(&noise(3 * 37 * 50, 6)));
    let pool = Pool::new(2);
    for level in Level::available() {
        let sides = [Slice::Bf16(&a), Slice::Bf16(&b)];
        let wide = product(&pool, level, &shape, sides, 0);
        let mut narrow = vec![bf16::ZERO; wide.len()];
        let mut scratch = vec![0; dot_scratch_bytes(level, &shape, 2)];
        let output = Output::Bf16 { data: &mut narrow, stride: 37 };
        dot(
            &pool,
            level,
            &shape,
            sides[0],
            Other::Pages(sides[1]),
            &Epilogue::default(),
            output,
            &mut scratch,
        );
        assert_eq!(halves(&wide), narrow);
    }
}

#[test]
fn an_infinity_reaches_its_row_and_column_alone() {
    let shape = BatchShape { pages: 2, m: 3, n: 5, k: 7, turned: [true; 2], kind: PanelKind::F32 };
    let (mut a, b) = (vec![1.0; 2 * 3 * 7], vec![1.0; 2 * 5 * 7]);
    // Row 2 of the second page.
    a[3 * 7 + 4 * 3 + 2] = f32::INFINITY;
    let pool = Pool::new(1);
    for level in Level::available() {
        for kind in PanelKind::every(level) {
            let shape = BatchShape { kind, ..shape };
            let got = product(&pool, level, &shape, [Slice::F32(&a), Slice::F32(&b)], 0xff);
            let want = |at: usize| if at >= 25 { f32::INFINITY } else { 7.0 };
            assert!(got.iter().enumerate().all(|(at, value)| *value == want(at)), "{got:?}");
        }
    }
}

#[test]
#[should_panic(expected = "weights have")]
fn a_batch_with_too_few_pages_is_refused() {
    let shape = BatchShape { pages: 2, m: 3, n: 5, k: 7, turned: [false; 2], kind: PanelKind::F32 };
    let (a, b) = (vec![1.0; 2 * 3 * 7], vec![1.0; 2 * 5 * 7 - 1]);
    product(&Pool::new(1), Level::Portable, &shape, [Slice::F32(&a), Slice::F32(&b)], 0);
}

/// A weight [K, N] is read from the panels that products with it read.
#[test]
fn panels_turned_round_give_the_bits_of_the_matrix() {
    let pool = Pool::new(2);
    for [_, m, n, k] in SHAPES {
        let (a, w) = (noise(m * k, 5), noise(k * n, 6));
        let (half_a, half_w) = (halves(&a), halves(&w));
        for level in Level::available() {
            for (kind, held) in [
                (PanelKind::F32, PanelKind::F32),
                (PanelKind::Bf16, PanelKind::Bf16),
                (PanelKind::F32, PanelKind::Bf16),
            ] {
                let (narrow, held) = (held == PanelKind::Bf16, held.at(level));
                let (a, b) = match narrow {
                    true => (Slice::Bf16(&half_a), Slice::Bf16(&half_w)),
                    false => (Slice::F32(&a), Slice::F32(&w)),
                };
                let shape = BatchShape { pages: 1, m, n, k, turned: [false, true], kind };
                let (bytes, dtype) = b.stored();
                let weights = Weights::row_major(bytes, dtype, n);
                let packed = PackedMatrix::new(&pool, level, weights, (k, n), held);
                let made = [Other::Pages(b), Other::Panels(packed.view())].map(|b| {
                    let mut out = vec![f32::NAN; m * n];
                    let mut scratch = vec![0xA5; dot_scratch_bytes(level, &shape, pool.threads())];
                    let output = Output::F32 { data: &mut out, stride: n };
                    let plain = Epilogue::default();
                    dot(&pool, level, &shape, a, b, &plain, output, &mut scratch);
                    out
                });
                assert_eq!(made[0], made[1], "{level:?} {shape:?} from {held:?}");
            }
        }
    }
}
