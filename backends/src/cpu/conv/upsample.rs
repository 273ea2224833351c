//! A picture doubled to nearest neighbours and convolved with 3×3 taps, without the doubled picture.
//!
//! Of the nine taps a doubled pixel meets only four pixels, in four phases. Instead of four kernels
//! of 2×2 taps the pixel is multiplied with the sums of the taps, and its differences to its
//! neighbours with the outer ones (`winograd/tile.rs`): nine products for four outputs, a quarter of
//! those over the doubled picture. The sums are taken in f32 when the weight is packed, which has as
//! many elements as the taps. The rest is the machinery of [`winograd`](super::winograd) with its
//! guarantees about threads and scratch.
//!
//! Tiles multiply so fast that differences are not worth their time: with panels for them a doubled
//! pixel is the product of four pixels with the sums of the taps that meet each, phase by phase
//! ([`amx::conv`](super::super::amx::conv)).

use super::super::amx;
use super::super::gemm::{
    Dtype, Epilogue, Finish, Output, Packed, PackedMatrix, PanelKind, Slice, Tiles, WeightSource,
    decode_one, pack_source, packed_bytes,
};
use super::super::math::LANES;
use super::super::simd::Level;
use super::super::threads::Pool;
use super::winograd::{self, Form};
use super::{Algorithm, ConvShape, conv_algorithm};
use std::ops::Range;

/// Products of a pixel: those of the sum of the taps and the two outer taps, along both axes.
const POINTS: usize = 9;

/// The shape of an upsampling by two along height and width and the 3×3 convolution that follows,
/// with one pixel of zeros around the doubled picture and stride 1, frame by frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpsampleShape {
    /// T, H, W of the input, before it is doubled.
    pub input: [usize; 3],
    /// Input channels.
    pub cin: usize,
    /// Output channels.
    pub cout: usize,
}

impl UpsampleShape {
    /// T, 2H, 2W of the output.
    pub fn output(&self) -> [usize; 3] {
        let [t, h, w] = self.input;
        [t, 2 * h, 2 * w]
    }

    /// Pixels of the output: T·2H·2W.
    pub fn rows(&self) -> usize {
        self.output().iter().product()
    }

    /// Length of the sums as packed: 9·Cin, or for tiles 4·Cin for each of four phases.
    pub fn k(&self, kind: PanelKind) -> usize {
        match kind {
            PanelKind::Tiles(_) => 16 * self.cin,
            _ => POINTS * self.cin,
        }
    }

    /// The panels in which `level` has the arithmetic of `kind` for this shape.
    pub(in super::super) fn panels(&self, level: Level, kind: PanelKind) -> PanelKind {
        match amx::conv::fits(&self.conv(self.input)) {
            true => kind.at(level),
            false => kind,
        }
    }

    /// Bytes of the packed weight.
    pub fn packed_bytes(&self, kind: PanelKind) -> usize {
        packed_bytes(self.cout, self.k(kind), kind)
    }

    /// The convolution over a picture of the given size.
    fn conv(&self, input: [usize; 3]) -> ConvShape {
        ConvShape {
            input,
            cin: self.cin,
            cout: self.cout,
            kernel: [1, 3, 3],
            stride: [1; 3],
            padding: [(0, 0), (1, 1), (1, 1)],
        }
    }
}

/// Whether [`upsample_conv`] computes `shape` with panels of `kind`: bf16 panels hold pairs of
/// channels.
pub fn upsample_conv_fits(shape: &UpsampleShape, kind: PanelKind) -> bool {
    winograd::fits(&shape.conv(shape.input), kind)
}

/// Whether [`upsample_conv`] is expected to take less time than doubling the picture and
/// [`conv`](super::conv) on it.
///
/// It has as many products as the larger tile of the transforms and a quarter of the direct ones,
/// spares the transform of the kernel and the doubled picture, and has the error of the smaller
/// tile: it loses only where channels are too few to pay for the transforms. As in
/// [`conv_algorithm`] the answer is that for two frames, whatever their number.
pub fn upsample_conv_wins(shape: &UpsampleShape, kind: PanelKind) -> bool {
    /// Multiply-adds that a vector of the doubled picture stands for, written and read once.
    const COPY: f64 = 30.0;
    if !upsample_conv_fits(shape, kind) || shape.rows() == 0 {
        return false;
    }
    let [_, height, width] = shape.input;
    let shape = &UpsampleShape { input: [2, height, width], ..*shape };
    let doubled = shape.conv(shape.output());
    let other = match conv_algorithm(&doubled, kind) {
        Algorithm::Direct => winograd::direct_cost(&doubled, kind),
        Algorithm::Winograd(tile) => winograd::cost(&doubled, kind, Form::Tiles(tile)),
    };
    let copy = COPY * (shape.rows() * shape.cin.div_ceil(LANES)) as f64;
    winograd::cost(&shape.conv(shape.input), kind, Form::Upsampled) < other + copy
}

/// A stored weight [Cout, Cin, 3, 3] or [Cout, Cin, 1, 3, 3] as K of points and channels.
struct Folded<'a> {
    bytes: &'a [u8],
    dtype: Dtype,
    cin: usize,
    phases: bool,
}

impl Folded<'_> {
    /// The taps along height and width whose sum is a point.
    fn taps(&self, point: usize) -> [&'static [usize]; 2] {
        /// The sum of the taps, the first and the last one.
        const SUMS: [&[usize]; 3] = [&[0, 1, 2], &[0], &[2]];
        /// Those that meet the first and the second of two pixels, from either half of a pixel.
        const HALVES: [[&[usize]; 2]; 2] = [[&[0], &[1, 2]], [&[0, 1], &[2]]];
        if !self.phases {
            return [SUMS[point / 3], SUMS[point % 3]];
        }
        let (phase, pixel) = (point / 4, point % 4);
        [HALVES[phase / 2][pixel / 2], HALVES[phase % 2][pixel % 2]]
    }
}

impl WeightSource for Folded<'_> {
    fn fill(&self, _level: Level, n: usize, k: Range<usize>, out: &mut [f32]) {
        for (at, out) in k.zip(out) {
            let (point, channel) = (at / self.cin, at % self.cin);
            let base = (n * self.cin + channel) * 9;
            let tap = |i: usize, j: usize| decode_one(self.bytes, self.dtype, base + 3 * i + j);
            let [lines, columns] = self.taps(point);
            let line = |i: usize| columns.iter().map(|&j| tap(i, j)).sum::<f32>();
            *out = lines.iter().map(|&i| line(i)).sum();
        }
    }
}

/// Packs a stored weight [Cout, Cin, 3, 3] for [`upsample_conv`] into `to`: sums of taps in f32,
/// rounded once where the panels are bf16.
///
/// # Panics
/// If `to` is unaligned or too short for the panels, or the weight is too short for the shape.
pub fn pack_upsample_conv_into(
    pool: &Pool,
    level: Level,
    shape: &UpsampleShape,
    (bytes, dtype): (&[u8], Dtype),
    kind: PanelKind,
    to: &mut [u8],
) {
    let needed = shape.cout * shape.cin * 9 * dtype.size();
    assert!(bytes.len() >= needed, "weight has {} bytes, needs {needed}", bytes.len());
    let phases = matches!(kind, PanelKind::Tiles(_));
    let source = Folded { bytes, dtype, cin: shape.cin, phases };
    pack_source(pool, level, &source, (shape.cout, shape.k(kind)), kind, to);
}

/// [`pack_upsample_conv_into`] storage of its own.
///
/// # Panics
/// If the weight is too short for the shape.
pub fn pack_upsample_conv(
    pool: &Pool,
    level: Level,
    shape: &UpsampleShape,
    weight: (&[u8], Dtype),
    kind: PanelKind,
) -> PackedMatrix {
    let mut packed = PackedMatrix::zeroed((shape.cout, shape.k(kind)), kind);
    pack_upsample_conv_into(pool, level, shape, weight, kind, packed.bytes_mut());
    packed
}

/// Bytes of scratch [`upsample_conv`] needs.
pub fn upsample_conv_scratch_bytes(
    level: Level,
    shape: &UpsampleShape,
    kind: PanelKind,
    workers: usize,
) -> usize {
    if let PanelKind::Tiles(body) = kind {
        return tiles(body, level, shape).scratch_bytes(workers);
    }
    winograd::scratch_bytes(level, &shape.conv(shape.input), kind, Form::Upsampled)
}

/// `out = epilogue(conv(upsample(x), w))`: the output's rows are the pixels [T·2H·2W], its columns
/// Cout.
///
/// `x` holds [T, H, W, Cin] without gaps, and `weight` is [`pack_upsample_conv`]'s; with bf16 panels
/// pixels and differences of pixels are rounded to bf16. The epilogue's residual and gate segments
/// go by output pixel.
///
/// # Panics
/// If the weight's shape is not the convolution's, the kind does not fit the shape
/// ([`upsample_conv_fits`]), or a slice or the scratch ([`upsample_conv_scratch_bytes`]) is too
/// short.
pub fn upsample_conv(
    pool: &Pool,
    level: Level,
    shape: &UpsampleShape,
    x: Slice<'_>,
    weight: Packed<'_>,
    epilogue: &Epilogue<'_>,
    output: Output<'_>,
    scratch: &mut [u8],
) {
    let needed = shape.input.iter().product::<usize>() * shape.cin;
    assert!(x.len() >= needed, "x has {} elements, needs {needed}", x.len());
    let (packed, k) = ((weight.n(), weight.k()), shape.k(weight.kind()));
    assert!(packed == (shape.cout, k), "weight {packed:?} does not fit {shape:?}");
    if let PanelKind::Tiles(body) = weight.kind() {
        let plan = tiles(body, level, shape);
        let finish = Finish::new(level.usable(), shape.rows(), shape.cout, epilogue, output);
        return amx::conv::run(pool, &plan, x, weight, &finish, scratch);
    }
    let (conv, form) = (shape.conv(shape.input), Form::Upsampled);
    winograd::run(pool, level, &conv, form, x, weight, epilogue, output, scratch);
}

/// How tiles do it.
fn tiles(body: Tiles, level: Level, shape: &UpsampleShape) -> amx::conv::Plan {
    amx::conv::Plan::doubled(body, level.usable(), &shape.conv(shape.input))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{naive, noise};
    use super::*;
    use crate::cpu::gemm::{Combine, Slice};
    use half::bf16;

    fn shapes() -> Vec<UpsampleShape> {
        let base = UpsampleShape { input: [1, 5, 7], cin: 24, cout: 20 };
        vec![
            base,
            UpsampleShape { input: [1, 1, 1], cin: 2, cout: 1 },
            // Several groups of frames, two panels, blocks of tiles that end inside a line.
            UpsampleShape { input: [5, 3, 4], cout: 70, ..base },
            UpsampleShape { input: [1, 31, 29], cin: 6, cout: 5 },
            // Several pieces of the channels, in either kind.
            UpsampleShape { input: [2, 3, 2], cin: 700, cout: 17 },
            // Whole blocks of 32 channels; more products than tiles add up at a time.
            UpsampleShape { input: [2, 6, 19], cin: 64, cout: 40 },
            UpsampleShape { input: [5, 2, 3], cin: 2080, cout: 5 },
        ]
    }

    /// The doubled picture [T, 2H, 2W, Cin].
    fn doubled(shape: &UpsampleShape, x: &[f32]) -> Vec<f32> {
        let [t, h, w] = shape.input;
        let mut out = Vec::new();
        for row in 0..t * 2 * h {
            let (frame, line) = (row / (2 * h), row % (2 * h) / 2);
            for column in 0..2 * w {
                let pixel = (frame * h + line) * w + column / 2;
                out.extend_from_slice(&x[pixel * shape.cin..][..shape.cin]);
            }
        }
        out
    }

    fn rounded(values: Vec<f32>) -> Vec<f32> {
        values.into_iter().map(|v| bf16::from_f32(v).to_f32()).collect()
    }

    fn run(
        pool: &Pool,
        level: Level,
        shape: &UpsampleShape,
        x: Slice<'_>,
        w: &[f32],
        kind: PanelKind,
    ) -> Vec<f32> {
        let weight = (bytemuck::cast_slice(w), Dtype::F32);
        let packed = pack_upsample_conv(pool, level, shape, weight, kind);
        let count = shape.rows() * shape.cout;
        let (bias, residual) = (noise(shape.cout, 9), noise(count, 10));
        let epilogue = Epilogue {
            bias: Some(&bias),
            combine: Combine::Residual {
                data: Slice::F32(&residual),
                stride: shape.cout,
                gate: None,
            },
            ..Epilogue::default()
        };
        let mut out = vec![f32::NAN; count];
        let bytes = upsample_conv_scratch_bytes(level, shape, kind, pool.threads());
        let mut scratch = vec![0xaau8; bytes + 64];
        let (inner, guard) = scratch.split_at_mut(bytes);
        let output = Output::F32 { data: &mut out, stride: shape.cout };
        upsample_conv(pool, level, shape, x, packed.view(), &epilogue, output, inner);
        assert!(guard.iter().all(|&byte| byte == 0xaa), "scratch overrun");
        out
    }

    /// Largest error over the largest value.
    fn error(shape: &UpsampleShape, got: &[f32], want: &[f64]) -> f64 {
        let (bias, residual) = (noise(shape.cout, 9), noise(want.len(), 10));
        let scale = want.iter().fold(1e-30, |most, want| want.abs().max(most));
        let errors = got.iter().zip(want).enumerate().map(|(index, (&got, &want))| {
            let add = f64::from(bias[index % shape.cout] + residual[index]);
            let error = (f64::from(got) - want - add).abs();
            if error.is_nan() { f64::INFINITY } else { error }
        });
        errors.fold(0.0, f64::max) / scale
    }

    #[test]
    fn agrees_with_the_convolution_of_the_doubled_picture() {
        let pools = [Pool::new(1), Pool::new(2), Pool::new(3)];
        for shape in shapes() {
            let count = shape.input.iter().product::<usize>() * shape.cin;
            let x = rounded(noise(count, 1));
            let halves: Vec<bf16> = x.iter().map(|&v| bf16::from_f32(v)).collect();
            let w = rounded(noise(shape.cout * 9 * shape.cin, 2));
            let want = naive(&shape.conv(shape.output()), &doubled(&shape, &x), &w);
            for level in Level::available() {
                for (kind, bound) in [(PanelKind::F32, 2e-6), (PanelKind::Bf16, 1.5e-2)] {
                    let kind = shape.panels(level, kind);
                    let got = run(&pools[0], level, &shape, Slice::F32(&x), &w, kind);
                    let error = error(&shape, &got, &want);
                    assert!(error < bound, "{level:?} {kind:?} {shape:?}: {error:.2e}");
                    for pool in &pools[1..] {
                        let other = run(pool, level, &shape, Slice::Bf16(&halves), &w, kind);
                        assert!(got.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits()));
                    }
                }
            }
        }
    }

    #[test]
    fn it_wins_on_the_layers_of_the_decoder_and_not_on_few_channels() {
        let layer = |side, frames, channels| UpsampleShape {
            input: [frames, side, side],
            cin: channels,
            cout: channels,
        };
        for kind in [PanelKind::F32, PanelKind::Bf16] {
            for (side, channels) in [(16, 1024), (32, 1024), (64, 512)] {
                for frames in [1, 2, 4] {
                    assert!(upsample_conv_wins(&layer(side, frames, channels), kind));
                }
            }
            assert!(!upsample_conv_wins(&layer(64, 1, 4), kind));
            assert!(!upsample_conv_wins(&layer(64, 0, 512), kind));
        }
        assert!(!upsample_conv_wins(&layer(64, 1, 511), PanelKind::Bf16));
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn the_weight_of_another_shape_is_refused() {
        let (pool, level) = (Pool::new(1), Level::Portable);
        let shape = UpsampleShape { input: [1, 2, 2], cin: 4, cout: 3 };
        let other = UpsampleShape { cin: 6, ..shape };
        let w = noise(other.cout * 9 * other.cin, 1);
        let weight = (bytemuck::cast_slice(&w), Dtype::F32);
        let packed = pack_upsample_conv(&pool, level, &other, weight, PanelKind::F32);
        let x = noise(1000, 2);
        let output = Output::F32 { data: &mut [], stride: 3 };
        let (x, epilogue) = (Slice::F32(&x), Epilogue::default());
        upsample_conv(&pool, level, &shape, x, packed.view(), &epilogue, output, &mut []);
    }
}
