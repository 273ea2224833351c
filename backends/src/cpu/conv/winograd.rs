//! Winograd convolution: 3×3 taps in space, stride 1, any number of taps in time.
//!
//! A block of tiles (all output frames of a group) is transformed, multiplied point by point with
//! the transformed kernel, summed over temporal taps and channels in the transform domain, and
//! transformed back through the epilogue. The kernel stays in the panels of the direct algorithm:
//! it is transformed piece by piece, for each block anew, so that weights take no more memory.
//! Transforms are f32; with bf16 panels both factors of the products are rounded to bf16.
//! Blocks and pieces are sized to stay in the last-level cache, so scratch is bounded whatever the
//! picture. All is cut by shape alone: bits do not depend on the number of threads. Temporal taps
//! that would meet zero padding are left out.

mod plan;
#[cfg(test)]
mod tests;
mod tile;
mod transform;

use super::ConvShape;
use crate::cpu::gemm::{
    Epilogue, Finish, LANES, Output, Packed, PanelKind, Slice, WIDTH, Words, micro, panel_width,
    tile_rows,
};
use crate::cpu::math::Element;
use crate::cpu::simd::Level;
use crate::cpu::threads::{ALIGN, Pool, SharedPtr};
use half::bf16;
use plan::{CHANNELS, COLUMNS, Plan, under};
pub(super) use plan::{Form, cost, direct_cost};
use std::ops::Range;
use tile::{Four, TileSize, Two, Upsampled};
use transform::{Pairs, Rounded, Row, Wide};

/// Outputs of a tile along each axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tile {
    /// F(2×2, 3×3): 2.25 times fewer products than direct, about its error.
    Two,
    /// F(4×4, 3×3): 4 times fewer products, some four times its error.
    Four,
}

/// Whether `shape` is one this file computes with panels of `kind`.
pub(super) fn fits(shape: &ConvShape, kind: PanelKind) -> bool {
    let [kt, kh, kw] = shape.kernel;
    let (front, behind) = shape.padding[0];
    // Tiles multiply so much faster than vectors that transforms cost more than they spare.
    let whole = match kind {
        PanelKind::F32 => true,
        PanelKind::Bf16 => shape.cin.is_multiple_of(2),
        PanelKind::Tiles(_) => false,
    };
    let time = front < kt && behind < kt;
    (kh, kw) == (3, 3) && shape.stride == [1; 3] && time && shape.cin > 0 && whole
}

/// Tiles in one task of the input transform.
const RUN: usize = 8;

/// Bytes of scratch [`run`] needs.
pub(super) fn scratch_bytes(level: Level, shape: &ConvShape, kind: PanelKind, form: Form) -> usize {
    Plan::new(level.usable(), shape, kind, form).scratch_bytes()
}

/// `out = epilogue(conv(x, w))`; the arguments are those of [`conv`](super::conv) and
/// [`upsample_conv`](super::upsample_conv).
///
/// # Panics
/// If the shape does not fit, or the scratch is too short.
pub(super) fn run(
    pool: &Pool,
    level: Level,
    shape: &ConvShape,
    form: Form,
    x: Slice<'_>,
    weight: Packed<'_>,
    epilogue: &Epilogue<'_>,
    output: Output<'_>,
    scratch: &mut [u8],
) {
    let kind = weight.kind();
    assert!(fits(shape, kind), "no transform for {kind:?} panels of {shape:?}");
    let plan = &Plan::new(level.usable(), shape, kind, form);
    let rows = plan.out.iter().product();
    let finish = Finish::new(plan.level, rows, plan.shape.cout, epilogue, output);
    let needed = plan.scratch_bytes();
    assert!(scratch.len() >= needed, "scratch has {} bytes, needs {needed}", scratch.len());
    if rows == 0 || plan.shape.cout == 0 {
        return;
    }
    let skip = scratch.as_ptr().align_offset(ALIGN);
    let [zero_words, input_words, piece_words, _] = plan.regions();
    let base = scratch[skip..].as_mut_ptr().cast::<u32>();
    // SAFETY: the scratch holds the four regions, as just checked.
    let (inputs, piece, sums) = unsafe {
        base.write_bytes(0, zero_words);
        let inputs = base.add(zero_words);
        let piece = inputs.add(input_words);
        (inputs, piece, piece.add(piece_words).cast::<f32>())
    };
    // SAFETY: the line was just zeroed and nobody writes it from here on.
    let zeros = unsafe { std::slice::from_raw_parts(base.cast_const().cast(), zero_words) };
    let job = Job {
        plan,
        weight,
        finish: &finish,
        x,
        zeros,
        inputs: SharedPtr::new(inputs),
        piece: SharedPtr::new(piece),
        sums: SharedPtr::new(sums),
    };
    let all = plan.tiles[0] * plan.tiles[1];
    for out in plan.groups() {
        for first in (0..all).step_by(plan.block) {
            let part = Part {
                frames: plan.frames(&out),
                taps: plan.taps(&out),
                out: out.clone(),
                tiles: first..(first + plan.block).min(all),
            };
            match plan.form {
                Form::Tiles(Tile::Two) => job.part::<Two>(pool, &part),
                Form::Tiles(Tile::Four) => job.part::<Four>(pool, &part),
                Form::Upsampled => job.part::<Upsampled>(pool, &part),
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

/// What all blocks share.
///
/// Transformed inputs are [points, frames, tiles, lda], the piece of the kernel [points, panels,
/// taps in time, channels, panel width], sums [points, panels, frames, tiles, panel width], with as
/// many of each as the block and piece at hand have, and points a plane of the plan apart.
struct Job<'a> {
    plan: &'a Plan,
    weight: Packed<'a>,
    finish: &'a Finish<'a>,
    x: Slice<'a>,
    zeros: &'a [f32],
    inputs: SharedPtr<u32>,
    piece: SharedPtr<u32>,
    sums: SharedPtr<f32>,
}

impl Job<'_> {
    fn part<S: TileSize>(&self, pool: &Pool, part: &Part) {
        let plan = self.plan;
        let ConvShape { cin, cout, .. } = plan.shape;
        let columns = if plan.form == Form::Upsampled { cout } else { COLUMNS };
        for channel in (0..cin).step_by(plan.kc) {
            let channels = channel..(channel + plan.kc).min(cin);
            self.inputs::<S>(pool, part, &channels);
            for column in (0..cout).step_by(columns) {
                let panels = column / WIDTH..(column + columns).min(cout).div_ceil(WIDTH);
                let piece = Piece { panels, channels: channels.clone() };
                let panels = piece.panels.len();
                if plan.form != Form::Upsampled {
                    let runs = piece.channels.len().div_ceil(CHANNELS);
                    let taps = part.taps.len();
                    pool.run(panels * taps * runs, &|task, _| {
                        let (p, rest) = (task / (taps * runs), task % (taps * runs));
                        let tap = part.taps.start + rest / runs;
                        // SAFETY: each task has rows of the piece of its own.
                        unsafe { self.kernel::<S>(&piece, p, tap, rest % runs) };
                    });
                }
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

    /// Transforms some channels of the block's tiles, all frames.
    fn inputs<S: TileSize>(&self, pool: &Pool, part: &Part, channels: &Range<usize>) {
        let count = part.tiles.len();
        let runs = count.div_ceil(RUN);
        pool.run(part.frames.len() * runs, &|task, _| {
            let (frame, run) = (task / runs, task % runs);
            let tiles = run * RUN..((run + 1) * RUN).min(count);
            match (self.plan.words, self.x) {
                (Words::F32, Slice::F32(x)) => {
                    self.input::<S, Wide, f32>(x, part, frame, tiles, channels);
                }
                (Words::F32, Slice::Bf16(x)) => {
                    self.input::<S, Wide, bf16>(x, part, frame, tiles, channels);
                }
                (Words::Rounded, Slice::F32(x)) => {
                    self.input::<S, Rounded, f32>(x, part, frame, tiles, channels);
                }
                (Words::Rounded, Slice::Bf16(x)) => {
                    self.input::<S, Rounded, bf16>(x, part, frame, tiles, channels);
                }
                (Words::Pairs, Slice::F32(x)) => {
                    self.input::<S, Pairs, f32>(x, part, frame, tiles, channels);
                }
                (Words::Pairs, Slice::Bf16(x)) => {
                    self.input::<S, Pairs, bf16>(x, part, frame, tiles, channels);
                }
            }
        });
    }

    /// Transforms tiles (counted from the block's first) of one of the block's input frames.
    fn input<S: TileSize, R: Row, T: Element>(
        &self,
        x: &[T],
        part: &Part,
        frame: usize,
        tiles: Range<usize>,
        channels: &Range<usize>,
    ) {
        let ConvShape { input: [_, height, width], cin, padding, .. } = self.plan.shape;
        let zeros: &[T] = bytemuck::cast_slice(self.zeros);
        let plane = self.plan.input_plane(part.frames.len() * part.tiles.len());
        for tile in tiles {
            let at = part.tiles.start + tile;
            let corner = [at / self.plan.tiles[1] * S::STEP, at % self.plan.tiles[1] * S::STEP];
            let mut pixels = [[&zeros[..channels.len()]; tile::MOST]; tile::MOST];
            for (i, line) in pixels.iter_mut().enumerate().take(S::N) {
                let h = (corner[0] + i).wrapping_sub(padding[1].0);
                if h >= height {
                    continue;
                }
                let line_start = ((part.frames.start + frame) * height + h) * width;
                for (j, pixel) in line.iter_mut().enumerate().take(S::N) {
                    let w = (corner[1] + j).wrapping_sub(padding[2].0);
                    if w < width {
                        *pixel = &x[(line_start + w) * cin..][channels.clone()];
                    }
                }
            }
            let row = (frame * part.tiles.len() + tile) * self.plan.lda;
            // SAFETY: row of this task in each of the planes, which the scratch holds.
            let to = unsafe { self.inputs.get().add(row) };
            transform::input::<S, R, T>(self.plan.level, &pixels, to, plane);
        }
    }

    /// Words from the beginning of a plane to row `channel` of tap `tap` of panel `p` of a piece,
    /// and words of a plane.
    fn place(&self, piece: &Piece, p: usize, tap: usize, channel: usize) -> (usize, usize) {
        let ConvShape { cout, kernel: [kt, ..], .. } = self.plan.shape;
        let columns = (piece.panels.end * WIDTH).min(cout) - piece.panels.start * WIDTH;
        let each = piece.channels.len() / self.plan.per_word;
        let row = tap * each + channel / self.plan.per_word;
        let width = panel_width(cout, piece.panels.start + p);
        let plane = self.plan.kernel_plane(piece.channels.len(), columns);
        (p * WIDTH * kt * each + row * width, plane)
    }

    /// Transforms a run of channels of one panel and tap in time of the kernel.
    ///
    /// # Safety
    /// No other task has the same.
    unsafe fn kernel<S: TileSize>(&self, piece: &Piece, p: usize, tap: usize, run: usize) {
        let Plan { level, per_word, ref shape, .. } = *self.plan;
        let width = panel_width(shape.cout, piece.panels.start + p);
        let (first, end) = (run * CHANNELS, ((run + 1) * CHANNELS).min(piece.channels.len()));
        let row = (tap * 9 * shape.cin + piece.channels.start + first) / per_word;
        let (place, plane) = self.place(piece, p, tap, first);
        let (apart, count) = (shape.cin * width, (end - first) * width);
        // SAFETY: nine runs of rows of the panel; the task's rows of the piece in each plane.
        unsafe {
            let from = self.weight.panel(piece.panels.start + p).add(row * width);
            let to = self.piece.get().add(place);
            match self.weight.kind() {
                PanelKind::F32 => {
                    let (from, to) = (from.cast::<f32>(), to.cast::<f32>());
                    transform::kernel::<S, f32>(level, from, apart, count, to, plane);
                }
                PanelKind::Bf16 => {
                    let (from, to) = (from.cast::<bf16>(), to.cast::<bf16>());
                    transform::kernel::<S, bf16>(level, from, apart, count, to, plane * per_word);
                }
                PanelKind::Tiles(_) => unreachable!("no transform fits them"),
            }
        }
    }

    /// The products of one point with one panel of a piece of the kernel.
    ///
    /// # Safety
    /// The inputs of the block and the piece are complete, and no other task has the same point and
    /// panel.
    unsafe fn products(&self, part: &Part, piece: &Piece, point: usize, p: usize) {
        let Plan { level, words, per_word, form, ref shape, lda, .. } = *self.plan;
        let front = shape.padding[0].0;
        let (count, steps) = (part.tiles.len(), piece.channels.len() / per_word);
        let rows = part.out.len() * count;
        let panel = piece.panels.start + p;
        let width = panel_width(shape.cout, panel);
        let most = tile_rows(level, width);
        let inputs = point * self.plan.input_plane(part.frames.len() * count);
        let inputs = self.inputs.get().wrapping_add(inputs);
        let sums = point * self.plan.sum_plane(rows) + panel * WIDTH * rows;
        let sums = self.sums.get().wrapping_add(sums);
        for tap in part.taps.clone() {
            let b = if form == Form::Upsampled {
                let row = (point * shape.cin + piece.channels.start) / per_word;
                self.weight.panel(panel).wrapping_add(row * width)
            } else {
                let (place, plane) = self.place(piece, p, tap, 0);
                self.piece.get().wrapping_add(point * plane + place).cast_const()
            };
            // What comes after it is brought into L2 meanwhile, and then the rows of the next tiles.
            // Taps and panels of a piece follow each other; a whole kernel has them far apart.
            let next = if form == Form::Upsampled && panel + 1 < piece.panels.end {
                let row = (point * shape.cin + piece.channels.start) / per_word;
                let width = panel_width(shape.cout, panel + 1);
                self.weight.panel(panel + 1).wrapping_add(row * width)
            } else {
                b.wrapping_add(width * steps)
            };
            let mut calls = 0;
            for (index, t) in part.out.clone().enumerate() {
                let (under, first_tap) = under(shape, t);
                if tap < first_tap || tap >= first_tap + under.len() {
                    continue;
                }
                let fresh = piece.channels.start == 0 && tap == first_tap;
                let frame = t + tap - front - part.frames.start;
                let a = inputs.wrapping_add(frame * count * lda).cast_const();
                let mut row = 0;
                while row < count {
                    let left = (count - row).min(most);
                    let (height, kernel) = micro(level, words, width, left);
                    let rest = calls * 2 * LANES * steps;
                    let a = a.wrapping_add(row * lda);
                    let ahead = if rest < width * steps {
                        next.wrapping_add(rest)
                    } else {
                        a.wrapping_add(height * lda)
                    };
                    // SAFETY: `height` rows of the plane of inputs, `steps` rows of the piece and
                    // the tile's own sums lie inside their regions.
                    unsafe {
                        let tile = sums.add((index * count + row) * width);
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
        let plane = self.plan.sum_plane(rows);
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
