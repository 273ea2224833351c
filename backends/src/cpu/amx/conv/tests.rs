//! Bands, groups of frames and shares of panels change no bit. What is computed is compared with the
//! definition where all kinds of convolutions are.

use super::super::tests::bodies;
use super::*;
use crate::cpu::conv::pack_conv;
use crate::cpu::gemm::{Dtype, Epilogue, Output, PanelKind};
use half::bf16;

fn noise(count: usize, seed: usize) -> Vec<bf16> {
    let element = |at: usize| ((at * 7919 + seed) % 509) as f32 / 254.0 - 1.0;
    (0..count).map(|at| bf16::from_f32(element(at))).collect()
}

fn convolved(threads: usize, plan: &Plan, x: &[bf16], weight: Packed<'_>) -> Vec<f32> {
    let (rows, columns) = (plan.shape.rows(), plan.shape.cout);
    let mut out = vec![f32::NAN; rows * columns];
    let output = Output::F32 { data: &mut out, stride: columns };
    let finish = Finish::new(plan.level, rows, columns, &Epilogue::default(), output);
    let bytes = plan.scratch_bytes(threads);
    let mut scratch = vec![0xff; bytes + 64];
    let (inner, guard) = scratch.split_at_mut(bytes);
    run(&Pool::new(threads), plan, Slice::Bf16(x), weight, &finish, inner);
    assert!(guard.iter().all(|byte| *byte == 0xff), "scratch overrun");
    assert!(out.iter().all(|value| value.is_finite()), "pixels are left out");
    out
}

#[test]
fn however_it_is_cut_a_convolution_has_the_same_bits() {
    let shape = ConvShape {
        input: [5, 9, 21],
        cin: 320,
        cout: 70,
        kernel: [3, 3, 3],
        stride: [1; 3],
        padding: [(2, 0), (1, 1), (1, 1)],
    };
    let level = Level::detect().usable();
    let x = noise(shape.input.iter().product::<usize>() * shape.cin, 1);
    let w = noise(shape.cout * shape.k(), 2);
    for body in bodies() {
        let weight = (bytemuck::cast_slice(w.as_slice()), Dtype::Bf16);
        let kind = PanelKind::Tiles(body);
        let packed = pack_conv(&Pool::new(2), level, &shape, weight, kind);
        let plan = Plan::new(body, level, &shape);
        assert!(plan.steps() > STEPS && plan.group < shape.input[0]);
        let want = convolved(1, &plan, &x, packed.view());
        for (threads, lines, group) in [(2, 9, 4), (3, 4, 4), (2, 1, 1), (1, 5, 2)] {
            let frames = group + 2;
            let cut = Plan { lines, group, frames, ..plan.clone() };
            let got = convolved(threads, &cut, &x, packed.view());
            assert!(got == want, "{body:?} {lines} lines, {group} frames");
        }
    }
}

#[test]
fn bands_of_large_pictures_are_bounded() {
    let shape = ConvShape {
        input: [6, 480, 832],
        cin: 256,
        cout: 256,
        kernel: [3, 3, 3],
        stride: [1; 3],
        padding: [(0, 0), (1, 1), (1, 1)],
    };
    let plan = Plan::new(Tiles::Emulated, Level::Portable, &shape);
    assert!(plan.scratch_bytes(2) < 40 << 20 && plan.lines > 4, "{plan:?}");
}
