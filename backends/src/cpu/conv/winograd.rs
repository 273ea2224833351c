//! Winograd convolution: 3×3 taps in space, stride 1, any number of taps in time, f32.
//!
//! A block of tiles (all output frames of a group) is transformed, multiplied point by point with
//! the transformed kernel, summed over temporal taps and channels in the transform domain, and
//! transformed back through the epilogue. The kernel stays in the panels of the direct algorithm:
//! it is transformed piece by piece, for each block anew, so that weights take no more memory.
//! Blocks and pieces are sized to stay in the last-level cache, so scratch is bounded whatever the
//! picture. All is cut by shape alone: bits do not depend on the number of threads. Temporal taps
//! that would meet zero padding are left out.

#[cfg(test)]
mod tests;
mod tile;
mod transform;

use super::ConvShape;
use crate::cpu::gemm::{
    Epilogue, Finish, LANES, Output, Packed, Slice, WIDTH, Words, micro, panel_width, tile_rows,
};
use crate::cpu::simd::Level;
use crate::cpu::threads::{ALIGN, Pool, SharedPtr};
use std::ops::Range;
use tile::{Four, TileSize, Two};

/// Outputs of a tile along each axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tile {
    /// F(2×2, 3×3): 2.25 times fewer products than direct, about its error.
    Two,
    /// F(4×4, 3×3): 4 times fewer products, some four times its error.
    Four,
}

impl Tile {
    /// Outputs along one axis.
    pub fn outputs(self) -> usize {
        match self {
            Self::Two => Two::M,
            Self::Four => Four::M,
        }
    }

    /// Products for one tile, channel and output channel.
    pub fn points(self) -> usize {
        (self.outputs() + 2).pow(2)
    }
}

/// Whether `shape` is one this file computes.
pub(super) fn fits(shape: &ConvShape) -> bool {
    let [kt, kh, kw] = shape.kernel;
    let (front, behind) = shape.padding[0];
    (kh, kw) == (3, 3) && shape.stride == [1; 3] && front < kt && behind < kt && shape.cin > 0
}

/// Output frames that share one pass over the kernel.
const FRAMES: usize = 4;

/// Rows (tiles of all frames of a group) that a pass over the kernel aims at.
const ROWS: usize = 288;

/// Fewer rows than this are not cut further, whatever memory they take.
const LEAST_ROWS: usize = 96;

/// Bytes that transformed inputs and sums of one block aim to stay under.
const BLOCK_BYTES: usize = 24 << 20;

/// Panel columns and bytes of a piece of the transformed kernel.
const COLUMNS: usize = 2 * WIDTH;
const PIECE_BYTES: usize = 8 << 20;

/// Channels in one task of the kernel transform.
const CHANNELS: usize = 8;

/// Tiles in one task of the input transform.
const RUN: usize = 8;

/// How a convolution is cut; depends on shape, tile and level only.
#[derive(Clone, Debug)]
struct Plan {
    level: Level,
    shape: ConvShape,
    out: [usize; 3],
    /// Products of a tile.
    points: usize,
    /// Tiles of a frame: down, across.
    tiles: [usize; 2],
    /// Output frames in a group, and the input frames those need at most.
    group: usize,
    frames: usize,
    /// Tiles of a frame in a block.
    block: usize,
    /// Floats between rows of transformed inputs.
    lda: usize,
    /// Channels in a piece of the kernel.
    kc: usize,
}

impl Plan {
    fn new(level: Level, shape: &ConvShape, tile: Tile) -> Plan {
        let (out, m, points) = (shape.output(), tile.outputs(), tile.points());
        let tiles = [out[1].div_ceil(m), out[2].div_ceil(m)];
        let groups = out[0].div_ceil(FRAMES).max(1);
        let group = out[0].div_ceil(groups);
        let frames = (group + shape.kernel[0] - 1).min(shape.input[0]);
        // An odd number of cache lines between rows spreads a column of A over the sets of L1.
        let lda = (shape.cin.div_ceil(LANES) | 1) * LANES;
        let each = points * (frames * lda + group * shape.cout.next_multiple_of(LANES)) * 4;
        let rows = |rows: usize| rows.div_ceil(group.max(1)).max(1);
        let most = (BLOCK_BYTES / each.max(1)).clamp(rows(LEAST_ROWS), rows(ROWS));
        let all = tiles[0] * tiles[1];
        let blocks = all.div_ceil(most).max(1);
        // Whole tiles of the micro-kernels, which take six or twelve rows.
        let block = all.div_ceil(blocks).next_multiple_of(6).min(all);
        let columns = shape.cout.next_multiple_of(LANES).clamp(1, COLUMNS);
        let most = (PIECE_BYTES / (points * shape.kernel[0] * columns * 4)).max(CHANNELS);
        let kc = shape.cin.div_ceil(shape.cin.div_ceil(most).max(1)).next_multiple_of(CHANNELS);
        let kc = kc.min(shape.cin);
        Plan { level, shape: *shape, out, points, tiles, group, frames, block, lda, kc }
    }

    /// Floats of: a line of zeros, transformed inputs, a piece of the kernel, sums.
    fn words(&self) -> [usize; 4] {
        let zeros = self.shape.cin.next_multiple_of(LANES);
        let inputs = self.points * self.frames * self.block * self.lda;
        let columns = self.shape.cout.next_multiple_of(LANES);
        let piece = self.points * self.shape.kernel[0] * self.kc * columns.min(COLUMNS);
        [zeros, inputs, piece, self.points * self.group * self.block * columns]
    }

    fn scratch_bytes(&self) -> usize {
        self.words().iter().sum::<usize>() * 4 + ALIGN - 1
    }

    /// The input frames under a group of output frames.
    fn frames(&self, out: &Range<usize>) -> Range<usize> {
        under(&self.shape, out.start).0.start..under(&self.shape, out.end - 1).0.end
    }

    /// The taps in time that meet any frame of a group.
    fn taps(&self, out: &Range<usize>) -> Range<usize> {
        let (last, first_tap) = under(&self.shape, out.start);
        let (_, lowest) = under(&self.shape, out.end - 1);
        lowest..first_tap + last.len()
    }
}

/// Expected cost of `shape` in multiply-adds of sixteen lanes; see [`direct_cost`].
///
/// Weights of a vector that is transformed, beside one multiply-add for a vector of the products,
/// are fits to measurements with AVX-512: they stand for memory traffic more than for arithmetic.
pub(super) fn cost(shape: &ConvShape, tile: Tile) -> f64 {
    const INPUT: f64 = 70.0;
    const OUTPUT: f64 = 55.0;
    const KERNEL: f64 = 45.0;
    let plan = Plan::new(Level::Portable, shape, tile);
    let tiles = plan.tiles[0] * plan.tiles[1];
    let (cin, cout) = (shape.cin.div_ceil(LANES), shape.cout.div_ceil(LANES));
    let (mut transformed, mut kernels) = (0, 0);
    for t0 in (0..plan.out[0]).step_by(plan.group.max(1)) {
        let out = t0..(t0 + plan.group).min(plan.out[0]);
        transformed += plan.frames(&out).len();
        kernels += plan.taps(&out).len();
    }
    let passes = kernels * tiles.div_ceil(plan.block.max(1));
    let vectors = INPUT * (tiles * transformed * cin) as f64
        + OUTPUT * (tiles * plan.out[0] * cout) as f64
        + KERNEL * (passes * shape.cin * cout) as f64
        + (tiles * meetings(shape) * shape.cin * cout) as f64;
    plan.points as f64 * vectors
}

/// Expected cost of the direct algorithm, likewise.
pub(super) fn direct_cost(shape: &ConvShape) -> f64 {
    let [_, height, width] = shape.output();
    let vectors = height * width * 9 * shape.cin * shape.cout.div_ceil(LANES);
    (vectors * meetings(shape)) as f64
}

/// Pairs of an output frame and a tap in time that meets an input frame.
fn meetings(shape: &ConvShape) -> usize {
    (0..shape.output()[0]).map(|t| under(shape, t).0.len()).sum()
}

/// The input frames under output frame `t`, and the tap that meets the first of them.
fn under(shape: &ConvShape, t: usize) -> (Range<usize>, usize) {
    let ((front, _), kt) = (shape.padding[0], shape.kernel[0]);
    let first = t.saturating_sub(front);
    (first..(t + kt - front).min(shape.input[0]), first + front - t)
}

/// Bytes of scratch [`conv`] needs.
pub(super) fn scratch_bytes(level: Level, shape: &ConvShape, tile: Tile) -> usize {
    Plan::new(level.usable(), shape, tile).scratch_bytes()
}

/// `out = epilogue(conv(x, w))`; the arguments are those of [`conv`](super::conv).
///
/// # Panics
/// If the shape does not fit, or the scratch is too short.
pub(super) fn conv(
    pool: &Pool,
    level: Level,
    shape: &ConvShape,
    tile: Tile,
    x: Slice<'_>,
    weight: Packed<'_>,
    epilogue: &Epilogue<'_>,
    output: Output<'_>,
    scratch: &mut [u8],
) {
    assert!(fits(shape), "{shape:?} has no transform");
    let plan = Plan::new(level.usable(), shape, tile);
    let finish = Finish::new(plan.level, shape.rows(), shape.cout, epilogue, output);
    let needed = plan.scratch_bytes();
    assert!(scratch.len() >= needed, "scratch has {} bytes, needs {needed}", scratch.len());
    if shape.rows() == 0 || shape.cout == 0 {
        return;
    }
    let skip = scratch.as_ptr().align_offset(ALIGN);
    let [zero_words, input_words, piece_words, _] = plan.words();
    let base = scratch[skip..].as_mut_ptr().cast::<f32>();
    // SAFETY: the scratch holds the four regions, as just checked.
    let (inputs, piece, sums) = unsafe {
        base.write_bytes(0, zero_words);
        let inputs = base.add(zero_words);
        let piece = inputs.add(input_words);
        (inputs, piece, piece.add(piece_words))
    };
    // SAFETY: the line was just zeroed and nobody writes it from here on.
    let zeros = unsafe { std::slice::from_raw_parts(base.cast_const(), zero_words) };
    let job = Job {
        plan: &plan,
        weight,
        finish: &finish,
        inputs: SharedPtr::new(inputs),
        piece: SharedPtr::new(piece),
        sums: SharedPtr::new(sums),
    };
    let all = plan.tiles[0] * plan.tiles[1];
    for t0 in (0..plan.out[0]).step_by(plan.group) {
        let t1 = (t0 + plan.group).min(plan.out[0]);
        let (frames, taps) = (plan.frames(&(t0..t1)), plan.taps(&(t0..t1)));
        for first in (0..all).step_by(plan.block) {
            let part = Part {
                frames: frames.clone(),
                taps: taps.clone(),
                out: t0..t1,
                tiles: first..(first + plan.block).min(all),
            };
            match tile {
                Tile::Two => job.part::<Two>(pool, x, zeros, &part),
                Tile::Four => job.part::<Four>(pool, x, zeros, &part),
            }
        }
    }
}

/// A block of tiles: input and output frames, the taps between them and the tiles of each.
struct Part {
    taps: Range<usize>,
    frames: Range<usize>,
    out: Range<usize>,
    tiles: Range<usize>,
}

/// A piece of the kernel.
struct Piece {
    panels: Range<usize>,
    channels: Range<usize>,
}

impl Piece {
    /// Where row `channel` of tap `tap` of panel `p` of point 0 stands, and the floats of a point.
    fn place(
        &self,
        cout: usize,
        kt: usize,
        p: usize,
        tap: usize,
        channel: usize,
    ) -> (usize, usize) {
        let first = self.panels.start * WIDTH;
        let columns = ((self.panels.end * WIDTH).min(cout) - first).next_multiple_of(LANES);
        let rows = kt * self.channels.len();
        let width = panel_width(cout, self.panels.start + p);
        (p * WIDTH * rows + (tap * self.channels.len() + channel) * width, columns * rows)
    }
}

/// What all blocks share.
///
/// Transformed inputs are [points, frames, tiles, lda], the piece of the kernel [points, panels,
/// taps in time, channels, panel width], sums [points, panels, frames, tiles, panel width], with as
/// many of each as the block and piece at hand have.
struct Job<'a> {
    plan: &'a Plan,
    weight: Packed<'a>,
    finish: &'a Finish<'a>,
    inputs: SharedPtr<f32>,
    piece: SharedPtr<f32>,
    sums: SharedPtr<f32>,
}

impl Job<'_> {
    fn part<S: TileSize>(&self, pool: &Pool, x: Slice<'_>, zeros: &[f32], part: &Part) {
        let plan = self.plan;
        let count = part.tiles.len();
        let runs = count.div_ceil(RUN);
        pool.run(part.frames.len() * runs, &|task, _| {
            let (frame, run) = (task / runs, task % runs);
            let tiles = run * RUN..((run + 1) * RUN).min(count);
            match x {
                Slice::F32(x) => self.input::<S, f32>(x, zeros, part, frame, tiles),
                Slice::Bf16(x) => {
                    self.input::<S, half::bf16>(x, bytemuck::cast_slice(zeros), part, frame, tiles);
                }
            }
        });
        let ConvShape { cin, cout, .. } = plan.shape;
        for column in (0..cout).step_by(COLUMNS) {
            for channel in (0..cin).step_by(plan.kc) {
                let piece = Piece {
                    panels: column / WIDTH..(column + COLUMNS).min(cout).div_ceil(WIDTH),
                    channels: channel..(channel + plan.kc).min(cin),
                };
                let (panels, runs) = (piece.panels.len(), piece.channels.len().div_ceil(CHANNELS));
                let taps = part.taps.len();
                pool.run(panels * taps * runs, &|task, _| {
                    let (p, rest) = (task / (taps * runs), task % (taps * runs));
                    let tap = part.taps.start + rest / runs;
                    // SAFETY: each task has rows of the piece of its own.
                    unsafe { self.kernel::<S>(&piece, p, tap, rest % runs) };
                });
                pool.run(plan.points * panels, &|task, _| {
                    // SAFETY: inputs and piece are complete; each task has sums of its own.
                    unsafe { self.products(part, &piece, task / panels, task % panels) };
                });
            }
        }
        // Runs of tiles that end where a line of tiles ends.
        let per_run = transform::FLOATS / WIDTH / (S::M * S::M);
        let across = plan.tiles[1];
        let lines = part.tiles.start / across..part.tiles.end.div_ceil(across);
        let runs = across.div_ceil(per_run);
        pool.run(part.out.len() * lines.len() * runs, &|task, _| {
            let (frame, rest) = (task / (lines.len() * runs), task % (lines.len() * runs));
            let line = (lines.start + rest / runs) * across;
            let run = rest % runs * per_run;
            let tiles = (line + run).max(part.tiles.start)
                ..(line + (run + per_run).min(across)).min(part.tiles.end);
            if !tiles.is_empty() {
                self.output::<S>(part, frame, tiles);
            }
        });
    }

    /// Transforms tiles (counted from the block's first) of one of the block's input frames.
    fn input<S: TileSize, T: crate::cpu::math::Element>(
        &self,
        x: &[T],
        zeros: &[T],
        part: &Part,
        frame: usize,
        tiles: Range<usize>,
    ) {
        let ConvShape { input: [_, height, width], cin, padding, .. } = self.plan.shape;
        let plane = part.frames.len() * part.tiles.len() * self.plan.lda;
        for tile in tiles {
            let at = part.tiles.start + tile;
            let corner = [at / self.plan.tiles[1] * S::M, at % self.plan.tiles[1] * S::M];
            let mut pixels = [[&zeros[..cin]; tile::MOST]; tile::MOST];
            for (i, line) in pixels.iter_mut().enumerate().take(S::N) {
                let h = (corner[0] + i).wrapping_sub(padding[1].0);
                if h >= height {
                    continue;
                }
                let line_start = ((part.frames.start + frame) * height + h) * width;
                for (j, pixel) in line.iter_mut().enumerate().take(S::N) {
                    let w = (corner[1] + j).wrapping_sub(padding[2].0);
                    if w < width {
                        *pixel = &x[(line_start + w) * cin..][..cin];
                    }
                }
            }
            let row = (frame * part.tiles.len() + tile) * self.plan.lda;
            // SAFETY: row of this task in each of the planes, which the scratch holds.
            let to = unsafe { self.inputs.get().add(row) };
            transform::input::<S, T>(self.plan.level, &pixels, to, plane);
        }
    }

    /// Transforms a run of channels of one panel and tap in time of the kernel.
    ///
    /// # Safety
    /// No other task has the same.
    unsafe fn kernel<S: TileSize>(&self, piece: &Piece, p: usize, tap: usize, run: usize) {
        let ConvShape { cin, cout, kernel: [kt, ..], .. } = self.plan.shape;
        let width = panel_width(cout, piece.panels.start + p);
        let (first, end) = (run * CHANNELS, ((run + 1) * CHANNELS).min(piece.channels.len()));
        let row = tap * 9 * cin + piece.channels.start + first;
        let (place, plane) = piece.place(cout, kt, p, tap, first);
        // SAFETY: nine runs of rows of the panel; the task's rows of the piece in each plane.
        unsafe {
            let from = self.weight.panel(piece.panels.start + p).add(row * width).cast();
            let to = self.piece.get().add(place);
            let size = (end - first, width);
            transform::kernel::<S>(self.plan.level, from, cin * width, size, to, plane);
        }
    }

    /// The products of one point with one panel of a piece of the kernel.
    ///
    /// # Safety
    /// The inputs of the block and the piece are complete, and no other task has the same point and
    /// panel.
    unsafe fn products(&self, part: &Part, piece: &Piece, point: usize, p: usize) {
        let Plan { level, ref shape, lda, .. } = *self.plan;
        let (kt, front) = (shape.kernel[0], shape.padding[0].0);
        let (count, steps) = (part.tiles.len(), piece.channels.len());
        let rows = part.out.len() * count;
        let columns = shape.cout.next_multiple_of(LANES);
        let width = panel_width(shape.cout, piece.panels.start + p);
        let most = tile_rows(level, width);
        let inputs = point * part.frames.len() * count * lda + piece.channels.start;
        let inputs = self.inputs.get().wrapping_add(inputs);
        let sums = point * rows * columns + (piece.panels.start + p) * WIDTH * rows;
        let sums = self.sums.get().wrapping_add(sums);
        for tap in part.taps.clone() {
            let (place, plane) = piece.place(shape.cout, kt, p, tap, 0);
            let b = self.piece.get().wrapping_add(point * plane + place).cast::<u32>().cast_const();
            // The next tap or panel follows directly: to be brought into L2 meanwhile.
            let next = b.wrapping_add(width * steps);
            let mut calls = 0;
            for (index, t) in part.out.clone().enumerate() {
                let (under, first_tap) = under(shape, t);
                if tap < first_tap || tap >= first_tap + under.len() {
                    continue;
                }
                let fresh = piece.channels.start == 0 && tap == first_tap;
                let frame = t + tap - front - part.frames.start;
                let a = inputs.wrapping_add(frame * count * lda);
                let mut row = 0;
                while row < count {
                    let left = (count - row).min(most);
                    let (height, kernel) = micro(level, Words::F32, width, left);
                    let rest = calls * 2 * LANES * steps;
                    let ahead = if rest < width * steps { next.wrapping_add(rest) } else { b };
                    // SAFETY: `height` rows of the plane of inputs, `steps` rows of the piece and
                    // the tile's own sums lie inside their regions.
                    unsafe {
                        let tile = sums.add((index * count + row) * width);
                        let a = a.add(row * lda).cast::<u32>().cast_const();
                        kernel(steps, a, lda, b, tile, fresh, ahead);
                    }
                    row += height;
                    calls += 1;
                }
            }
        }
    }

    /// Transforms a run of tiles of one output frame back and applies the epilogue.
    fn output<S: TileSize>(&self, part: &Part, frame: usize, tiles: Range<usize>) {
        let Plan { ref shape, out: [_, height, wide], tiles: [_, across], level, .. } = *self.plan;
        let count = part.tiles.len();
        let rows = part.out.len() * count;
        let plane = rows * shape.cout.next_multiple_of(LANES);
        let corner = [tiles.start / across * S::M, tiles.start % across * S::M];
        let first = frame * count + tiles.start - part.tiles.start;
        let mut pixels = transform::Pixels([0.0; transform::FLOATS]);
        for p in 0..shape.cout.div_ceil(WIDTH) {
            let width = panel_width(shape.cout, p);
            let from = self.sums.get().wrapping_add(p * WIDTH * rows + first * width);
            transform::output::<S>(level, from, plane, tiles.len(), width, &mut pixels);
            let columns = (shape.cout - p * WIDTH).min(WIDTH);
            let across = (tiles.len() * S::M).min(wide - corner[1]);
            for line in 0..S::M.min(height - corner[0]) {
                let from = pixels.0[line * tiles.len() * S::M * width..].as_ptr();
                let t = part.out.start + frame;
                let row = (t * height + corner[0] + line) * wide + corner[1];
                // SAFETY: the pixels hold the lines, which lie inside the output, and no other
                // task has the same tiles.
                unsafe { self.finish.tile(from, width, (row, p * WIDTH), (across, columns)) };
            }
        }
    }
}
