//! Convolutions by tiles, without an unfolded picture: a tap is an offset.
//!
//! A band of lines of some frames is brought into planes of 32 channels, with the zeros around it:
//! sixteen neighbours of a plane are a tile, wherever they begin, and the taps of a pixel are the tiles
//! at fixed distances from its own. Positions are counted through lines and the zeros between them,
//! so a strip of 32 may end in the middle of a line; what comes out between lines is left out.
//! All products of a strip and a panel are added up in tiles, as many as of a panel stay in
//! the second cache at a time.
//!
//! A picture that is doubled on the way is four convolutions of two by two taps, whose pixels alternate
//! in the output: the band is that of the small picture.
//!
//! It takes steps of one pixel and channels in whole blocks; others go through
//! [`product`](super::product), which unfolds them. All is cut by the shape alone.

mod taps;
#[cfg(test)]
mod tests;

use super::super::conv::ConvShape;
use super::super::gemm::{Convert, Finish, Packed, Slice, TILE_COLUMNS, TILE_K, Words};
use super::super::simd::Level;
use super::super::threads::{ALIGN, Pool, SharedPtr, WorkerScratch, stop_requested};
use super::{ROW_BYTES, ROWS, TileOps, TileWork, Tiles};
use std::ops::Range;
use taps::taps;

/// Positions of a strip.
const STRIP: usize = 2 * ROWS;

/// Words of the sums of a strip and a panel.
const SUMS: usize = STRIP * TILE_COLUMNS;

/// Strips that a panel is taken through.
const STRIPS: usize = 16;

/// Most steps of K of a panel at a time: half a megabyte of the second cache.
const STEPS: usize = 256;

/// Output frames that share a band, and most bytes of it.
const FRAMES: usize = 4;
const BAND_BYTES: usize = 32 << 20;

/// Fewer tasks than this and panels are shared out as well.
const TASKS: usize = 32;

/// Pixels that are converted at a time.
const PIXELS: usize = 64;

/// How a convolution is cut.
#[derive(Clone, Debug)]
pub(in super::super) struct Plan {
    body: Tiles,
    level: Level,
    shape: ConvShape,
    out: [usize; 3],
    /// Planes of 32 channels.
    planes: usize,
    /// Positions of a line, zeros included.
    width: usize,
    /// Output frames of a group and lines of a band, and the input frames of a group at most.
    group: usize,
    lines: usize,
    frames: usize,
    /// Whether each pixel stands for two along height and width.
    doubled: bool,
}

/// Whether a convolution is one of this file.
pub(in super::super) fn fits(shape: &ConvShape) -> bool {
    let [kt, kh, kw] = shape.kernel;
    let whole = shape.cin > 0 && shape.cin.is_multiple_of(TILE_K);
    // Offsets are 32-bit, and a band has a line at least.
    let width = shape.input[2] + shape.padding[2].0 + shape.padding[2].1;
    let sizes = [FRAMES + kt, shape.cin * 2, kh, width];
    let band = sizes.into_iter().try_fold(1usize, usize::checked_mul);
    let small = band.is_some_and(|bytes| bytes < 1 << 31);
    // One tap is a product.
    kt * kh * kw > 1 && whole && small && shape.stride == [1; 3]
}

impl Plan {
    pub(in super::super) fn new(body: Tiles, level: Level, shape: &ConvShape) -> Self {
        let out = shape.output();
        let planes = shape.cin / TILE_K;
        let width = shape.input[2] + shape.padding[2].0 + shape.padding[2].1;
        let group = out[0].min(FRAMES);
        let frames = (group + shape.kernel[0] - 1).min(shape.input[0]);
        let line = (frames * planes * width * ROW_BYTES).max(1);
        let most = (BAND_BYTES / line).saturating_sub(shape.kernel[1] - 1).max(1);
        let lines = out[1].div_ceil(out[1].div_ceil(most).max(1));
        let (shape, doubled) = (*shape, false);
        Self { body, level, shape, out, planes, width, group, lines, frames, doubled }
    }

    /// The plan of a convolution with 3×3 taps over a picture of `shape` that is doubled on the way.
    pub(in super::super) fn doubled(body: Tiles, level: Level, shape: &ConvShape) -> Self {
        Self { doubled: true, ..Self::new(body, level, shape) }
    }

    /// Convolutions that share the band: phases of a doubled pixel.
    fn phases(&self) -> usize {
        if self.doubled { 4 } else { 1 }
    }

    /// Bytes of a plane of a band: its lines and those that its taps reach.
    fn plane(&self) -> usize {
        (self.lines + self.shape.kernel[1] - 1) * self.width * ROW_BYTES
    }

    /// Steps of K of a phase.
    fn steps(&self) -> usize {
        let taps = if self.doubled { 4 } else { self.shape.kernel.iter().product() };
        taps * self.planes
    }

    /// Bytes of the offsets of all steps of all phases, of a band, and of a worker. The last strip of a band reads past
    /// its end.
    fn parts(&self) -> [usize; 3] {
        let offsets = (self.phases() * self.steps() * 4).next_multiple_of(ALIGN);
        let past = (STRIP + self.shape.kernel[2]) * ROW_BYTES;
        let band = self.frames * self.planes * self.plane() + past;
        let waiting = if self.steps() > STEPS { STRIPS } else { 1 };
        [offsets, band, (waiting * SUMS * 4).max(PIXELS * self.shape.cin * 2)]
    }

    pub(in super::super) fn scratch_bytes(&self, workers: usize) -> usize {
        let [offsets, band, own] = self.parts();
        offsets + band + ALIGN + WorkerScratch::bytes(own, workers)
    }

    /// The input frames under output frames, and the taps in time of one that meet any.
    fn under(&self, frames: &Range<usize>) -> Range<usize> {
        let (front, kt) = (self.shape.padding[0].0, self.shape.kernel[0]);
        let end = (frames.end + kt - 1).saturating_sub(front).min(self.shape.input[0]);
        frames.start.saturating_sub(front).min(end)..end
    }
}

/// `finish(conv(x, w))` for channels-last `x`, where `finish` has a row for every output pixel.
///
/// # Panics
/// If the scratch or `x` is too short.
pub(in super::super) fn run(
    pool: &Pool,
    plan: &Plan,
    x: Slice<'_>,
    weight: Packed<'_>,
    finish: &Finish<'_>,
    scratch: &mut [u8],
) {
    let needed = plan.scratch_bytes(pool.threads());
    assert!(scratch.len() >= needed, "scratch has {} bytes, needs {needed}", scratch.len());
    let [to, ho, wo] = plan.out;
    if to * ho * wo * plan.shape.cout == 0 {
        return;
    }
    let [offset_bytes, band_bytes, own] = plan.parts();
    let skip = scratch.as_ptr().align_offset(ALIGN);
    let (offsets, rest) = scratch[skip..].split_at_mut(offset_bytes);
    let (band, rest) = rest.split_at_mut(band_bytes);
    // SAFETY: aligned bytes of any value.
    let offsets = unsafe {
        std::slice::from_raw_parts_mut(
            offsets.as_mut_ptr().cast::<u32>(),
            plan.phases() * plan.steps(),
        )
    };
    fill_offsets(plan, offsets);
    let own = WorkerScratch::new(rest, own, pool.threads());
    let band = SharedPtr::new(band.as_mut_ptr());
    let job = Job { plan, x, weight, finish, offsets, band };
    for first in (0..to).step_by(plan.group) {
        let frames = first..(first + plan.group).min(to);
        for first in (0..ho).step_by(plan.lines) {
            if stop_requested() {
                return;
            }
            job.band(pool, &own, &frames, first..(first + plan.lines).min(ho));
        }
    }
}

/// Where the tile of each step lies, from that of the first tap and channel on; steps come in the order
/// of the weight: phases first, then taps, channels innermost.
fn fill_offsets(plan: &Plan, offsets: &mut [u32]) {
    let [_, kh, kw] = plan.shape.kernel;
    for (step, offset) in offsets.iter_mut().enumerate() {
        let (tap, channel) = (step / plan.planes, step % plan.planes);
        let (frame, line, column) = match plan.doubled {
            // The upper left quarter of a pixel meets its neighbours there, and so on.
            true => (0, tap / 8 + tap / 2 % 2, tap / 4 % 2 + tap % 2),
            false => (tap / (kh * kw), tap / kw % kh, tap % kw),
        };
        let planes = (frame * plan.planes + channel) * plan.plane();
        *offset = (planes + (line * plan.width + column) * ROW_BYTES) as u32;
    }
}

/// What all bands share.
struct Job<'a> {
    plan: &'a Plan,
    x: Slice<'a>,
    weight: Packed<'a>,
    finish: &'a Finish<'a>,
    offsets: &'a [u32],
    band: SharedPtr<u8>,
}

impl Job<'_> {
    /// Some lines of some output frames.
    fn band(
        &self,
        pool: &Pool,
        own: &WorkerScratch<'_>,
        frames: &Range<usize>,
        lines: Range<usize>,
    ) {
        let plan = self.plan;
        let under = plan.under(frames);
        let reached = lines.len() + plan.shape.kernel[1] - 1;
        pool.run(under.len() * reached, &|task, worker| {
            let (frame, line) = (task / reached, task % reached);
            let source = (lines.start + line).checked_sub(plan.shape.padding[1].0);
            let source = source.filter(|line| *line < plan.shape.input[1]);
            // SAFETY: every task has a line of each plane of its own.
            unsafe {
                let place = frame * plan.planes * plan.plane() + line * plan.width * ROW_BYTES;
                let to = self.band.get().add(place);
                self.line((under.start + frame, source), own.region(worker).cast(), to);
            }
        });
        let strips = (lines.len() * plan.width).div_ceil(STRIP);
        let runs = strips.div_ceil(STRIPS);
        let panels = plan.phases() * plan.shape.cout.div_ceil(TILE_COLUMNS);
        let parts = TASKS.div_ceil(frames.len() * runs).clamp(1, panels);
        let each = panels.div_ceil(parts);
        let parts = panels.div_ceil(each);
        pool.run(frames.len() * runs * parts, &|task, worker| {
            let (run, rest) = (task % runs, task / runs);
            let (frame, part) = (frames.start + rest % frames.len(), rest / frames.len());
            let work = Block {
                job: self,
                frame,
                first_frame: under.start,
                lines: lines.clone(),
                strips: run * STRIPS..((run + 1) * STRIPS).min(strips),
                panels: part * each..((part + 1) * each).min(panels),
                sums: own.region(worker).cast(),
            };
            // SAFETY: the band is complete, no other task has these pixels and columns or this
            // worker's memory, and the body is the plan's.
            unsafe { plan.body.run(&work) };
        });
    }

    /// Brings a line of a frame into its planes; one that is not there is zeros.
    ///
    /// # Safety
    /// `through` holds [`PIXELS`] pixels, and `to` a line in every plane that is the caller's.
    unsafe fn line(&self, (frame, line): (usize, Option<usize>), through: *mut u32, to: *mut u8) {
        let plan = self.plan;
        let ConvShape { input: [_, height, width], cin, padding, .. } = plan.shape;
        let (left, convert) = (padding[2].0, Convert::new(plan.level, Words::Pairs));
        let inside = line.map_or(0, |_| width);
        for plane in 0..plan.planes {
            // SAFETY: the line of this plane.
            unsafe {
                let to = to.add(plane * plan.plane());
                to.write_bytes(0, left * ROW_BYTES);
                let behind = left + inside;
                to.add(behind * ROW_BYTES).write_bytes(0, (plan.width - behind) * ROW_BYTES);
            }
        }
        let Some(line) = line else { return };
        for first in (0..width).step_by(PIXELS) {
            let count = PIXELS.min(width - first);
            let from = ((frame * height + line) * width + first) * cin;
            // SAFETY: so many pixels lie in the picture, and each has a row in every plane.
            unsafe {
                convert.run(self.x, from, count * cin, through, 0);
                for plane in 0..plan.planes {
                    let to = to.add(plane * plan.plane() + (left + first) * ROW_BYTES);
                    let from = through.cast::<u8>().add(plane * ROW_BYTES);
                    for pixel in 0..count {
                        std::ptr::copy_nonoverlapping(
                            from.add(pixel * cin * 2),
                            to.add(pixel * ROW_BYTES),
                            ROW_BYTES,
                        );
                    }
                }
            }
        }
    }
}

/// One task: strips of a band in one output frame against some panels.
struct Block<'a> {
    job: &'a Job<'a>,
    frame: usize,
    /// The input frame that the band begins with.
    first_frame: usize,
    lines: Range<usize>,
    strips: Range<usize>,
    panels: Range<usize>,
    sums: *mut f32,
}

impl TileWork for Block<'_> {
    unsafe fn run<T: TileOps>(&self) {
        let Job { plan, weight, finish, offsets, band, .. } = *self.job;
        let ConvShape { cout, kernel, padding, input, .. } = plan.shape;
        // Taps in time that meet an input frame, and where the first of all would.
        let low = padding[0].0.saturating_sub(self.frame).min(kernel[0]);
        let high = (input[0] + padding[0].0).saturating_sub(self.frame).clamp(low, kernel[0]);
        let each = plan.steps() / kernel[0].max(1);
        let panels = cout.div_ceil(TILE_COLUMNS);
        let ahead = (self.frame as isize - padding[0].0 as isize) - self.first_frame as isize;
        let origin = band.get().wrapping_offset(ahead * (plan.planes * plan.plane()) as isize);
        for p in self.panels.clone() {
            let (phase, p) = (p / panels, p % panels);
            let columns = (cout - p * TILE_COLUMNS).min(TILE_COLUMNS);
            let before = phase * plan.steps();
            let all = before + low * each..before + high * each;
            let mut from = all.start;
            loop {
                let steps = from..(from + STEPS).min(all.end);
                let last = steps.end == all.end;
                for (at, strip) in self.strips.clone().enumerate() {
                    let share = if plan.steps() > STEPS { at } else { 0 };
                    let sums = self.sums.wrapping_add(share * SUMS);
                    let end = self.lines.len() * plan.width;
                    let positions = strip * STRIP..(strip * STRIP + STRIP).min(end);
                    let kernel = taps::<T>(positions.len().div_ceil(ROWS), columns.div_ceil(16));
                    // SAFETY: the tiles of these steps lie in the band, or behind its end, and in the
                    // panel; sums have a place of their own until the last step.
                    unsafe {
                        let tile = origin.wrapping_add(positions.start * ROW_BYTES);
                        let panel = weight.tiles(p, steps.start);
                        let offsets = &offsets[steps.clone()];
                        kernel(offsets, tile, panel, sums, steps.start == all.start);
                        if last {
                            let place = (p * TILE_COLUMNS, columns);
                            self.write(finish, sums, positions, phase, place);
                        }
                    }
                }
                if last {
                    break;
                }
                from = steps.end;
            }
        }
    }
}

impl Block<'_> {
    /// Hands sums of positions to the epilogue, line by line.
    ///
    /// # Safety
    /// The sums are complete and these pixels and columns of the output the caller's.
    unsafe fn write(
        &self,
        finish: &Finish<'_>,
        sums: *const f32,
        positions: Range<usize>,
        phase: usize,
        (column, columns): (usize, usize),
    ) {
        let plan = self.job.plan;
        let [_, height, width] = plan.out;
        let apart = if plan.doubled { 2 } else { 1 };
        let (down, right) = (phase / 2, phase % 2);
        let mut at = positions.start;
        while at < positions.end {
            let (line, x) = (at / plan.width, at % plan.width);
            let end = positions.end.min((line + 1) * plan.width);
            let count = (end - at).min(width.saturating_sub(x));
            if count > 0 {
                let line = (self.frame * height + self.lines.start + line) * apart + down;
                let row = (line * width + x) * apart + right;
                // SAFETY: the caller's promise.
                unsafe {
                    let from = sums.add((at - positions.start) * TILE_COLUMNS);
                    let (place, size) = ((row, column), (count, columns));
                    finish.tile_apart(from, TILE_COLUMNS, place, size, apart);
                }
            }
            at = end;
        }
    }
}
