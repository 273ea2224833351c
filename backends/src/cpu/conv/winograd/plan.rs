//! How a transformed convolution is cut into groups of frames, blocks of tiles and pieces of the
//! channels, what that takes in scratch, and what it is expected to cost.
//!
//! Everything here follows from the shape, the transform and the form of the products alone.

use super::super::ConvShape;
use super::tile::{Four, TileSize, Two, Upsampled};
use super::{Range, Tile};
use crate::cpu::gemm::{LANES, PanelKind, WIDTH, Words};
use crate::cpu::simd::Level;
use crate::cpu::threads::ALIGN;

/// Output frames that share one pass over the kernel.
const FRAMES: usize = 4;

/// Rows (tiles of all frames of a group) that a pass over the kernel has at most.
const ROWS: usize = 576;

/// Fewer rows than this are not cut further, whatever memory they take.
const LEAST_ROWS: usize = 96;

/// Bytes that transformed inputs and sums of one block aim to stay under.
const BLOCK_BYTES: usize = 24 << 20;

/// Panel columns and bytes of a piece of the transformed kernel.
pub(super) const COLUMNS: usize = 2 * WIDTH;
const PIECE_BYTES: usize = 8 << 20;

/// Channels in one task of the kernel transform.
pub(super) const CHANNELS: usize = 8;

/// Words of the panels that one call of a micro-kernel runs over at most.
const STEPS: usize = 320;

/// What is computed: a convolution by tiles, or one over the picture twice as large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Form {
    /// 3×3 taps by tiles; the kernel is transformed on the way.
    Tiles(Tile),
    /// Each pixel doubled, then 3×3 taps; the panels hold the transformed kernel.
    Upsampled,
}

impl Form {
    /// Outputs and products of a tile along an axis, and output pixels for an input pixel.
    fn sizes(self) -> (usize, usize, usize) {
        match self {
            Self::Tiles(Tile::Two) => (Two::M, Two::N, 1),
            Self::Tiles(Tile::Four) => (Four::M, Four::N, 1),
            Self::Upsampled => (Upsampled::M, Upsampled::N, 2),
        }
    }
}

/// How a convolution is cut.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) level: Level,
    pub(super) words: Words,
    /// Elements of K in a word of a panel.
    pub(super) per_word: usize,
    pub(super) form: Form,
    pub(super) shape: ConvShape,
    pub(super) out: [usize; 3],
    /// Products of a tile.
    pub(super) points: usize,
    /// Tiles of a frame: down, across.
    pub(super) tiles: [usize; 2],
    /// Output frames in a group, and the input frames those need at most.
    pub(super) group: usize,
    frames: usize,
    /// Tiles of a frame in a block.
    pub(super) block: usize,
    /// Channels in a piece of the kernel.
    pub(super) kc: usize,
    /// Words between rows of transformed inputs.
    pub(super) lda: usize,
}

/// At least `words`, in lines of [`LANES`] whose number is odd: so that the same place of several
/// planes falls into different sets of the caches.
fn odd_lines(words: usize) -> usize {
    (words.div_ceil(LANES) | 1) * LANES
}

impl Plan {
    pub(super) fn new(level: Level, shape: &ConvShape, kind: PanelKind, form: Form) -> Plan {
        let words = Words::of(level, kind);
        let per_word = if kind == PanelKind::F32 { 1 } else { 2 };
        let (m, n, scale) = form.sizes();
        let [to, ho, wo] = shape.output();
        let (out, points) = ([to, ho * scale, wo * scale], n * n);
        let tiles = [out[1].div_ceil(m), out[2].div_ceil(m)];
        let groups = to.div_ceil(FRAMES).max(1);
        let group = to.div_ceil(groups);
        let frames = (group + shape.kernel[0] - 1).min(shape.input[0]);
        let all_columns = shape.cout.next_multiple_of(LANES);
        let columns = all_columns.clamp(1, COLUMNS);
        let each = points * shape.kernel[0] * columns * 4 / per_word;
        let most = match form {
            Form::Tiles(_) => (PIECE_BYTES / each).clamp(CHANNELS, STEPS * per_word),
            Form::Upsampled => STEPS * per_word,
        };
        let pieces = shape.cin.div_ceil(most).max(1);
        let kc = shape.cin.div_ceil(pieces).next_multiple_of(LANES).min(shape.cin);
        let lda = odd_lines(kc.div_ceil(per_word) * words.per_panel_word());
        let each = points * (frames * lda + group * all_columns) * 4;
        let rows = |rows: usize| rows.div_ceil(group.max(1)).max(1);
        let most = (BLOCK_BYTES / each.max(1)).clamp(rows(LEAST_ROWS), rows(ROWS));
        let all = tiles[0] * tiles[1];
        let blocks = all.div_ceil(most).max(1);
        // Whole tiles of the micro-kernels, which take six or twelve rows.
        let block = all.div_ceil(blocks).next_multiple_of(6).min(all);
        let shape = *shape;
        Plan {
            level,
            words,
            per_word,
            form,
            shape,
            out,
            points,
            tiles,
            group,
            frames,
            block,
            kc,
            lda,
        }
    }

    /// Words of a plane of transformed inputs of `rows` rows.
    pub(super) fn input_plane(&self, rows: usize) -> usize {
        odd_lines(rows * self.lda)
    }

    /// Words of a plane of a piece of the kernel: `channels` of each tap, some of the columns.
    pub(super) fn kernel_plane(&self, channels: usize, columns: usize) -> usize {
        let rows = self.shape.kernel[0] * channels.div_ceil(self.per_word);
        odd_lines(rows * columns.next_multiple_of(LANES))
    }

    /// Words of a plane of sums of `rows` rows.
    pub(super) fn sum_plane(&self, rows: usize) -> usize {
        odd_lines(rows * self.shape.cout.next_multiple_of(LANES))
    }

    /// Words of: a line of zeros, transformed inputs, a piece of the kernel, sums.
    pub(super) fn regions(&self) -> [usize; 4] {
        let zeros = self.shape.cin.next_multiple_of(LANES);
        let inputs = self.points * self.input_plane(self.frames * self.block);
        let piece = match self.form {
            Form::Tiles(_) => self.kernel_plane(self.kc, self.shape.cout.min(COLUMNS)),
            Form::Upsampled => 0,
        };
        let sums = self.points * self.sum_plane(self.group * self.block);
        [zeros, inputs, self.points * piece, sums]
    }

    pub(super) fn scratch_bytes(&self) -> usize {
        self.regions().iter().sum::<usize>() * 4 + ALIGN - 1
    }

    /// The input frames under a group of output frames.
    pub(super) fn frames(&self, out: &Range<usize>) -> Range<usize> {
        under(&self.shape, out.start).0.start..under(&self.shape, out.end - 1).0.end
    }

    /// The taps in time that meet any frame of a group.
    pub(super) fn taps(&self, out: &Range<usize>) -> Range<usize> {
        let (last, first_tap) = under(&self.shape, out.start);
        let (_, lowest) = under(&self.shape, out.end - 1);
        lowest..first_tap + last.len()
    }

    /// The groups of output frames.
    pub(super) fn groups(&self) -> impl Iterator<Item = Range<usize>> {
        let (all, group) = (self.out[0], self.group.max(1));
        (0..all).step_by(group).map(move |t| t..(t + group).min(all))
    }
}

/// Expected cost of `shape` in f32 multiply-adds of sixteen lanes; see [`direct_cost`].
///
/// Weights of a vector that is transformed, beside one multiply-add for a vector of the direct
/// products, are fits to measurements with AVX-512: they stand for memory traffic more than for
/// arithmetic.
pub(in super::super) fn cost(shape: &ConvShape, kind: PanelKind, form: Form) -> f64 {
    const INPUT: f64 = 50.0;
    const OUTPUT: f64 = 40.0;
    const KERNEL: f64 = 17.0;
    const PRODUCT: f64 = 1.1;
    let plan = Plan::new(Level::Portable, shape, kind, form);
    let tiles = plan.tiles[0] * plan.tiles[1];
    let (cin, cout) = (shape.cin.div_ceil(LANES), shape.cout.div_ceil(LANES));
    let (mut transformed, mut kernels) = (0, 0);
    for out in plan.groups() {
        transformed += plan.frames(&out).len();
        kernels += plan.taps(&out).len();
    }
    let passes = match form {
        Form::Tiles(_) => kernels * tiles.div_ceil(plan.block.max(1)),
        Form::Upsampled => 0,
    };
    let products = (tiles * meetings(shape) * shape.cin * cout) as f64;
    let vectors = INPUT * (tiles * transformed * cin) as f64
        + OUTPUT * (tiles * plan.out[0] * cout) as f64
        + KERNEL * (passes * shape.cin * cout) as f64
        + PRODUCT * products / plan.per_word as f64;
    plan.points as f64 * vectors
}

/// Expected cost of the direct algorithm, likewise.
pub(in super::super) fn direct_cost(shape: &ConvShape, kind: PanelKind) -> f64 {
    let [_, height, width] = shape.output();
    let vectors = height * width * 9 * shape.cin * shape.cout.div_ceil(LANES);
    let per_word = if kind == PanelKind::F32 { 1.0 } else { 2.0 };
    (vectors * meetings(shape)) as f64 / per_word
}

/// Pairs of an output frame and a tap in time that meets an input frame.
fn meetings(shape: &ConvShape) -> usize {
    (0..shape.output()[0]).map(|t| under(shape, t).0.len()).sum()
}

/// The input frames under output frame `t`, and the tap that meets the first of them.
pub(super) fn under(shape: &ConvShape, t: usize) -> (Range<usize>, usize) {
    let ((front, _), kt) = (shape.padding[0], shape.kernel[0]);
    let first = t.saturating_sub(front);
    (first..(t + kt - front).min(shape.input[0]), first + front - t)
}
