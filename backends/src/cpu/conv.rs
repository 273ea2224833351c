//! 3-d convolution over channels-last pictures, as an implicit matrix product.
//!
//! Input [T, H, W, Cin], output [To, Ho, Wo, Cout]; a causal convolution is one whose padding in
//! time is all in front (or none, when earlier frames lie directly before the chunk in memory).
//! The weight [Cout, Cin, kt, kh, kw] is packed once with K running over the taps and channels
//! innermost, so the pixels under one row of the kernel are one run of memory: a block of rows
//! is gathered run by run into the worker's scratch and no unfolded picture ever exists.
//! Products, epilogues and the guarantee about threads are those of [`gemm`](super::gemm).
//! Taps in time that would meet zero padding only are left out of the product.
//!
//! [`conv_algorithm`] says, from the shape alone, where the transforms of [`winograd`] are used
//! instead, on the same packed weight. [`upsample_conv`] doubles the picture on the way.

mod upsample;
pub mod winograd;

pub use upsample::*;

use super::amx;
use super::gemm::{
    Combine, Convert, Dtype, Epilogue, Finish, Output, Packed, PackedMatrix, PanelKind, RowLoader,
    Slice, WeightSource, decode_one, gemm_scratch_bytes, pack_source, packed_bytes, product,
};
use super::simd::Level;
use super::threads::Pool;
use std::ops::Range;
use winograd::{Form, Tile};

/// The shape of a convolution. Axes come in the order time, height, width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// T, H, W of the input.
    pub input: [usize; 3],
    /// Input channels.
    pub cin: usize,
    /// Output channels.
    pub cout: usize,
    /// Taps along each axis.
    pub kernel: [usize; 3],
    /// Steps along each axis, at least one.
    pub stride: [usize; 3],
    /// Zeros before and behind each axis.
    pub padding: [(usize, usize); 3],
}

impl ConvShape {
    /// To, Ho, Wo of the output: ⌊(size + before + behind − taps) / stride⌋ + 1, or zero where the
    /// padded axis is shorter than the kernel.
    pub fn output(&self) -> [usize; 3] {
        std::array::from_fn(|axis| {
            let padded = self.input[axis] + self.padding[axis].0 + self.padding[axis].1;
            let steps = padded.checked_sub(self.kernel[axis]);
            steps.map_or(0, |steps| steps / self.stride[axis] + 1)
        })
    }

    /// Rows of the product: To·Ho·Wo.
    pub fn rows(&self) -> usize {
        self.output().iter().product()
    }

    /// Length of its sums: taps · Cin.
    pub fn k(&self) -> usize {
        self.kernel.iter().product::<usize>() * self.cin
    }

    /// Bytes of the packed weight.
    pub fn packed_bytes(&self, kind: PanelKind) -> usize {
        packed_bytes(self.cout, self.k(), kind)
    }

    /// Output frames `t..` that meet the same taps in time, and those taps.
    fn frames_alike(&self, t: usize) -> (Range<usize>, Range<usize>) {
        let (front, kt) = (self.padding[0].0, self.kernel[0]);
        let taps = |t: usize| {
            let low = front.saturating_sub(t * self.stride[0]).min(kt);
            let high = (self.input[0] + front).saturating_sub(t * self.stride[0]).clamp(low, kt);
            low..high
        };
        let all = self.output()[0];
        let end = (t..all).find(|&next| taps(next) != taps(t)).unwrap_or(all);
        (t..end, taps(t))
    }
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// One product over all taps and channels.
    Direct,
    /// Tiles of 3×3 taps in the transform domain; see [`winograd`].
    Winograd(Tile),
}

/// Shares of the simpler algorithm's cost below which a transform, and the larger tile, are taken.
const WORTH: f64 = 0.85;
const WORTH_FOUR: f64 = 0.9;

/// The algorithm for `shape` with panels of `kind`: the one decision that scratch and execution
/// share. The larger tile must earn its larger error, and any transform its memory traffic.
///
/// It is made for two frames that meet every tap in time, however many there are and wherever they
/// lie in the clip: the chunks in which a clip is worked through are no part of its result.
///
/// With bf16 panels the larger tile is left to [`conv_by`]: there the transforms are rounded, and a
/// chain of nine convolutions over features of a photograph lies 60 dB from f32 when direct, 58 dB
/// with the smaller tile, 56 dB with the larger.
pub fn conv_algorithm(shape: &ConvShape, kind: PanelKind) -> Algorithm {
    if !winograd::fits(shape, kind) || shape.rows() == 0 {
        return Algorithm::Direct;
    }
    let (mut typical, [taps, ..], [step, ..]) = (*shape, shape.kernel, shape.stride);
    (typical.input[0], typical.padding[0]) = (taps + step, (0, 0));
    let direct = winograd::direct_cost(&typical, kind);
    let cost = |tile| winograd::cost(&typical, kind, Form::Tiles(tile));
    let [two, four] = [Tile::Two, Tile::Four].map(cost);
    if kind == PanelKind::F32 && four < WORTH_FOUR * two && four < WORTH * direct {
        Algorithm::Winograd(Tile::Four)
    } else if two < WORTH * direct {
        Algorithm::Winograd(Tile::Two)
    } else {
        Algorithm::Direct
    }
}

/// A stored weight [Cout, Cin, kt, kh, kw] at any byte alignment, with K reordered to taps first.
struct Taps<'a> {
    bytes: &'a [u8],
    dtype: Dtype,
    cin: usize,
    taps: usize,
}

impl WeightSource for Taps<'_> {
    fn fill(&self, _level: Level, n: usize, k: Range<usize>, out: &mut [f32]) {
        let base = n * self.cin * self.taps;
        let (mut tap, mut channel) = (k.start / self.cin, k.start % self.cin);
        for out in out.iter_mut() {
            *out = decode_one(self.bytes, self.dtype, base + channel * self.taps + tap);
            channel += 1;
            if channel == self.cin {
                (tap, channel) = (tap + 1, 0);
            }
        }
    }
}

/// Packs a stored weight [Cout, Cin, kt, kh, kw] into `to`; view it afterwards with
/// [`Packed::from_bytes`]`(cout, shape.k(), kind, to)`.
///
/// # Panics
/// If `to` is unaligned or shorter than [`ConvShape::packed_bytes`], or the weight is too short.
pub fn pack_conv_into(
    pool: &Pool,
    level: Level,
    shape: &ConvShape,
    (bytes, dtype): (&[u8], Dtype),
    kind: PanelKind,
    to: &mut [u8],
) {
    let (cin, taps) = (shape.cin, shape.kernel.iter().product());
    let needed = shape.cout * cin * taps * dtype.size();
    assert!(bytes.len() >= needed, "weight has {} bytes, needs {needed}", bytes.len());
    let source = Taps { bytes, dtype, cin, taps };
    pack_source(pool, level, &source, (shape.cout, shape.k()), kind, to);
}

/// [`pack_conv_into`] storage of its own.
///
/// # Panics
/// If the weight is too short for the shape.
pub fn pack_conv(
    pool: &Pool,
    level: Level,
    shape: &ConvShape,
    weight: (&[u8], Dtype),
    kind: PanelKind,
) -> PackedMatrix {
    let mut packed = PackedMatrix::zeroed((shape.cout, shape.k()), kind);
    pack_conv_into(pool, level, shape, weight, kind, packed.bytes_mut());
    packed
}

/// Bytes of scratch [`conv`] needs for [`conv_algorithm`]'s choice, for a shape whose strides are
/// at least one.
pub fn conv_scratch_bytes(
    level: Level,
    shape: &ConvShape,
    kind: PanelKind,
    workers: usize,
) -> usize {
    conv_scratch_bytes_for(level, shape, kind, conv_algorithm(shape, kind), workers)
}

/// Bytes of scratch [`conv_by`] needs for `algorithm`.
pub fn conv_scratch_bytes_for(
    level: Level,
    shape: &ConvShape,
    kind: PanelKind,
    algorithm: Algorithm,
    workers: usize,
) -> usize {
    if let Algorithm::Winograd(tile) = algorithm {
        return winograd::scratch_bytes(level, shape, kind, Form::Tiles(tile));
    }
    if let Some(plan) = tiles(level, shape, kind) {
        return plan.scratch_bytes(workers);
    }
    let [to, ho, wo] = shape.output();
    let (mut t, mut most) = (0, 0);
    while t < to {
        let (frames, taps) = shape.frames_alike(t);
        let rows = frames.len() * ho * wo;
        for k in [taps_k(shape, &taps).len(), shape.k()] {
            let bytes = gemm_scratch_bytes(level, (rows, shape.cout, k), kind, workers);
            most = most.max(bytes);
        }
        t = frames.end;
    }
    most
}

/// How tiles convolve, where they do so without unfolding the picture.
fn tiles(level: Level, shape: &ConvShape, kind: PanelKind) -> Option<amx::conv::Plan> {
    let PanelKind::Tiles(body) = kind else { return None };
    amx::conv::fits(shape).then(|| amx::conv::Plan::new(body, level.usable(), shape))
}

/// The part of the sums that belongs to `taps` in time.
fn taps_k(shape: &ConvShape, taps: &Range<usize>) -> Range<usize> {
    let each = shape.k() / shape.kernel[0].max(1);
    taps.start * each..taps.end * each
}

/// `out = epilogue(conv(x, w))`: the output's rows are the pixels [To·Ho·Wo], its columns Cout.
///
/// `x` holds [T, H, W, Cin] without gaps; with bf16 panels it is rounded to bf16 on the way. The
/// epilogue's residual and gate segments go by output pixel.
///
/// # Panics
/// If the weight's shape is not the convolution's, a stride is zero, or a slice or the scratch
/// ([`conv_scratch_bytes`] for `pool.threads()` workers) is too short.
pub fn conv(
    pool: &Pool,
    level: Level,
    shape: &ConvShape,
    x: Slice<'_>,
    weight: Packed<'_>,
    epilogue: &Epilogue<'_>,
    output: Output<'_>,
    scratch: &mut [u8],
) {
    let algorithm = conv_algorithm(shape, weight.kind());
    conv_by(pool, level, shape, algorithm, x, weight, epilogue, output, scratch);
}

/// [`conv`] by a given algorithm; its scratch is [`conv_scratch_bytes_for`] that algorithm.
///
/// # Panics
/// As [`conv`], and if the algorithm is not one for the shape and the kind of panels.
pub fn conv_by(
    pool: &Pool,
    level: Level,
    shape: &ConvShape,
    algorithm: Algorithm,
    x: Slice<'_>,
    weight: Packed<'_>,
    epilogue: &Epilogue<'_>,
    mut output: Output<'_>,
    scratch: &mut [u8],
) {
    assert!(shape.stride.iter().all(|&stride| stride > 0), "a stride is zero in {shape:?}");
    let needed = shape.input.iter().product::<usize>() * shape.cin;
    assert!(x.len() >= needed, "x has {} elements, needs {needed}", x.len());
    let packed = (weight.n(), weight.k());
    assert!(packed == (shape.cout, shape.k()), "weight {packed:?} does not fit {shape:?}");
    if let Algorithm::Winograd(tile) = algorithm {
        let form = Form::Tiles(tile);
        winograd::run(pool, level, shape, form, x, weight, epilogue, output, scratch);
        return;
    }
    if let Some(plan) = tiles(level, shape, weight.kind()) {
        let finish = Finish::new(level.usable(), shape.rows(), shape.cout, epilogue, output);
        return amx::conv::run(pool, &plan, x, weight, &finish, scratch);
    }
    let [to, ho, wo] = shape.output();
    let mut t = 0;
    while t < to {
        let (frames, taps) = shape.frames_alike(t);
        let k = taps_k(shape, &taps);
        let (k, part) = weight.part(k.clone()).map_or((0..shape.k(), weight), |part| (k, part));
        let loader = Pixels { shape, out: [to, ho, wo], x, first: (t, k.start) };
        let rows = frames.start * ho * wo..frames.end * ho * wo;
        let (epilogue, output) = (of_rows(epilogue, rows.start), below(&mut output, rows.start));
        product(pool, level, rows.len(), &loader, part, &epilogue, output, scratch);
        t = frames.end;
    }
}

/// The epilogue of the rows from `first` on.
fn of_rows<'a>(epilogue: &Epilogue<'a>, first: usize) -> Epilogue<'a> {
    let mut out = *epilogue;
    if let Combine::Residual { data, stride, .. } = &mut out.combine {
        *data = data.from(first * *stride);
    }
    if let Combine::InPlace { gate: Some(gate) } | Combine::Residual { gate: Some(gate), .. } =
        &mut out.combine
    {
        gate.segments = gate.segments.map(|segments| &segments[first.min(segments.len())..]);
    }
    out
}

/// The rows of an output from `first` on.
fn below<'a>(output: &'a mut Output<'_>, first: usize) -> Output<'a> {
    match output {
        Output::F32 { data, stride } => {
            let from = (first * *stride).min(data.len());
            Output::F32 { data: &mut data[from..], stride: *stride }
        }
        Output::Bf16 { data, stride } => {
            let from = (first * *stride).min(data.len());
            Output::Bf16 { data: &mut data[from..], stride: *stride }
        }
    }
}

/// The rows of the implicit matrix: row (t, h, w) is the input under the kernel at that pixel.
struct Pixels<'a> {
    shape: &'a ConvShape,
    out: [usize; 3],
    x: Slice<'a>,
    /// The output frame and the element of K that are counted from.
    first: (usize, usize),
}

impl RowLoader for Pixels<'_> {
    unsafe fn load(
        &self,
        convert: Convert,
        rows: Range<usize>,
        k: Range<usize>,
        to: *mut u32,
        lda: usize,
    ) {
        let [_, ho, wo] = self.out;
        let (frame, skip) = (self.first.0 + rows.start / (ho * wo), self.first.1);
        let mut at = [frame, rows.start / wo % ho, rows.start % wo];
        let k = k.start + skip..k.end + skip;
        for index in 0..rows.len() {
            // SAFETY: the caller vouches for a row of scratch at each index.
            unsafe {
                let row = to.add(index * lda);
                self.gather(convert, at, k.clone(), row);
                convert.pad(row, k.len());
            }
            at[2] += 1;
            if at[2] == wo {
                at = [at[0], at[1] + 1, 0];
            }
            if at[1] == ho {
                at = [at[0] + 1, 0, 0];
            }
        }
    }
}

impl Pixels<'_> {
    /// Writes elements `k` of the row at output pixel `at`.
    ///
    /// # Safety
    /// `row` holds `k.len()` elements of the form.
    unsafe fn gather(&self, convert: Convert, at: [usize; 3], k: Range<usize>, row: *mut u32) {
        let ConvShape { input, cin, kernel, stride, padding, .. } = *self.shape;
        // Positions of the kernel's first tap in the padded input, and the run of one kernel row.
        let start: [usize; 3] = std::array::from_fn(|axis| at[axis] * stride[axis]);
        let run = kernel[2] * cin;
        let inside = |axis: usize, tap: usize| {
            (start[axis] + tap).checked_sub(padding[axis].0).filter(|&i| i < input[axis])
        };
        // The part of a run that lies inside the picture's width, in elements of the run.
        let (left, width) = (padding[2].0, input[2]);
        let low = left.saturating_sub(start[2]).min(kernel[2]);
        let high = (width + left).saturating_sub(start[2]).clamp(low, kernel[2]);
        let mut from = k.start;
        while from < k.end {
            let (tap, begin) = (from / run, from % run);
            let end = run.min(begin + k.end - from);
            let place = from - k.start;
            let frame = inside(0, tap / kernel[1]);
            let line = inside(1, tap % kernel[1]);
            // SAFETY: everything lies between `place` and `place + end - begin` of the row.
            unsafe {
                if let (Some(t), Some(h)) = (frame, line) {
                    let first = begin.max(low * cin).min(end);
                    let behind = end.min(high * cin).max(first);
                    if first > begin {
                        convert.zeros(row, place, first - begin);
                    }
                    if behind > first {
                        let pixel = (t * input[1] + h) * width + start[2];
                        let source = pixel * cin + first - left * cin;
                        convert.run(self.x, source, behind - first, row, place + first - begin);
                    }
                    if end > behind {
                        convert.zeros(row, place + behind - begin, end - behind);
                    }
                } else {
                    convert.zeros(row, place, end - begin);
                }
            }
            from += end - begin;
        }
    }
}

#[cfg(test)]
mod tests;
