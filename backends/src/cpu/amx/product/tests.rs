//! Products by tiles against an f64 evaluation, with every body that this machine has.

use super::super::tests::bodies;
use super::*;
use crate::cpu::gemm::{
    Dtype, Epilogue, Output, PackedMatrix, PanelKind, Rows, Slice, Weights, pack_into,
};
use half::bf16;

fn noise(count: usize, seed: u32) -> Vec<bf16> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..count).map(|_| next()).collect()
}

/// A product of `pages` with scratch of exactly the size that is asked for, holding NaN.
fn product(threads: usize, plan: &Plan, pages: usize, a: &[bf16], b: Packed<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; pages * plan.m * plan.n];
    let output = Output::F32 { data: &mut out, stride: plan.n };
    let finish = Finish::new(plan.level, pages * plan.m, plan.n, &Epilogue::default(), output);
    let bytes = plan.scratch_bytes(threads);
    let mut scratch = vec![0xff; bytes + 64];
    let (inner, guard) = scratch.split_at_mut(bytes);
    let rows = Rows { data: Slice::Bf16(a), stride: plan.k };
    multiply(&Pool::new(threads), plan, 0..pages, &rows, &|_| b, &finish, inner);
    assert!(guard.iter().all(|byte| *byte == 0xff), "scratch overrun");
    out
}

/// Few rows, halves of strips and of panels, several blocks along every axis.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 40, 100),
    (16, 200, 1100),
    (17, 48, 33),
    (40, 16, 512),
    (64, 700, 520),
    (130, 90, 1030),
    (545, 300, 1101),
    (1100, 33, 64),
    (33, 1100, 31),
];

#[test]
fn every_cut_gives_the_product_and_the_same_bits() {
    let level = Level::detect().usable();
    for body in bodies() {
        for (m, n, k) in SHAPES {
            let (a, w) = (noise(m * k, 1), noise(n * k, 2));
            let weights = Weights::row_major(bytemuck::cast_slice(&w), Dtype::Bf16, k);
            let kind = PanelKind::Tiles(body);
            let packed = PackedMatrix::new(&Pool::new(2), level, weights, (n, k), kind);
            let plan = Plan::new(body, level, (m, n, k));
            let got = product(1, &plan, 1, &a, packed.view());
            for i in (0..m).step_by(m.div_ceil(50)) {
                for j in (0..n).step_by(n.div_ceil(70)) {
                    let terms = a[i * k..][..k].iter().zip(&w[j * k..][..k]);
                    let want: f64 = terms.map(|(a, w)| a.to_f64() * w.to_f64()).sum();
                    let error = (f64::from(got[i * n + j]) - want).abs();
                    assert!(error < 1e-6 + 1e-8 * k as f64, "{body:?} {m} {n} {k} {i} {j} {error}");
                }
            }
            for threads in [1, 2, 3] {
                // Rows by chunks of one block, and blocks of another size.
                let single = Plan { chunk: 1, ..plan.clone() };
                assert!(product(threads, &plan, 1, &a, packed.view()) == got);
                assert!(product(threads, &single, 1, &a, packed.view()) == got);
            }
        }
    }
}

#[test]
fn the_bits_of_a_row_depend_on_no_other_row_or_page() {
    let (m, n, k, level) = (75, 70, 600, Level::detect().usable());
    let (a, w) = (noise(3 * m * k, 3), noise(n * k, 4));
    for body in bodies() {
        let kind = PanelKind::Tiles(body);
        let mut panels = PackedMatrix::zeroed((n, k), kind);
        let weights = Weights::row_major(bytemuck::cast_slice(&w), Dtype::Bf16, k);
        pack_into(&Pool::new(1), level, weights, (n, k), kind, panels.bytes_mut());
        let plan = Plan::new(body, level, (m, n, k));
        let all = product(2, &plan, 3, &a, panels.view());
        for (row, want) in all.chunks(n).enumerate().step_by(7) {
            let one = Plan::new(body, level, (1, n, k));
            let got = product(1, &one, 1, &a[row * k..][..k], panels.view());
            assert!(got == want, "{body:?} row {row}");
        }
        let single = Plan { chunk: 2, ..plan };
        assert!(product(3, &single, 3, &a, panels.view()) == all);
    }
}

#[test]
fn plans_fill_the_threads_and_cover_the_product() {
    for (m, n, k) in
        [(2048, 14336, 3072), (1024, 3072, 3072), (28160, 3072, 14336), (64, 3072, 3072)]
    {
        let plan = Plan::new(Tiles::Emulated, Level::Portable, (m, n, k));
        assert!(plan.tasks() >= TASKS, "{m} {n} {k}: {} tasks", plan.tasks());
        assert!((12..=16).contains(&plan.block_steps));
        assert!(plan.m_blocks * plan.strips * STRIP >= m && plan.n_blocks * plan.panels * 32 >= n);
        assert!(plan.scratch_bytes(2) < 64 << 20, "{} bytes", plan.scratch_bytes(2));
    }
}
