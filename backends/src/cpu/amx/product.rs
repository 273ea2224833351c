//! Products of rows and packed weights by tiles: the driver of [`gemm`](crate::cpu::gemm) for panels of
//! kind [`PanelKind::Tiles`].
//!
//! Rows are brought into tiles once, by all threads together, a chunk of rows at a time; a task is then
//! a block of them × a block of panels. For one block of K after the other it takes a panel, which
//! stays in the first cache, through all its rows, which are streamed past that cache; sums wait
//! in the second cache. One operand has to come from the first cache, or loading tiles takes
//! longer than multiplying them. What comes next is brought closer meanwhile: the next sums into
//! the first cache, the next panel and the next rows into the second.
//!
//! All of it is decided by the shape alone: a sum runs over K in ascending order, 32 elements at a time
//! as the instruction adds them, so its bits depend on no other row or column and on no thread.

mod strip;
#[cfg(test)]
mod tests;

use super::super::gemm::{Convert, Finish, Packed, RowLoader, TILE_COLUMNS, TILE_K, Words};
use super::super::simd::Level;
use super::super::threads::{ALIGN, Pool, SharedPtr, WorkerScratch, until_stopped};
use super::{ROW_BYTES, ROWS, TILE, TileOps, TileWork, Tiles};
use std::ops::Range;
use strip::{Ahead, micro};

/// Rows of a strip: two tiles, one above the other.
const STRIP: usize = 2 * ROWS;

/// Words of the sums of a strip and a panel: two by two tiles whose rows lie side by side.
const SUMS: usize = STRIP * TILE_COLUMNS;

/// Steps of [`TILE_K`] in a full block of K: a panel of them takes 32 KiB of the first cache.
const STEPS: usize = 16;

/// Strips and panels of a full block: its rows take half a megabyte, its sums one.
const STRIPS: usize = 16;
const PANELS: usize = 16;

/// Fewer tasks than this and blocks are made smaller, so that several threads find work.
const TASKS: usize = 32;

/// Bytes of rows that are brought into tiles at a time: at least the first number, at most the second.
const CHUNK_BYTES: [usize; 2] = [1 << 20, 32 << 20];

/// How a product is cut; depends on the shape only.
#[derive(Clone, Debug)]
pub(in super::super) struct Plan {
    body: Tiles,
    /// Of the vectors that bring rows into tiles.
    level: Level,
    m: usize,
    n: usize,
    k: usize,
    /// Steps of K in all, and in a block.
    steps: usize,
    block_steps: usize,
    /// Strips in a block of rows, and the number of blocks.
    strips: usize,
    m_blocks: usize,
    /// Panels in a block, and the number of blocks.
    panels: usize,
    n_blocks: usize,
    /// Blocks of rows in a chunk.
    chunk: usize,
}

impl Plan {
    pub(in super::super) fn new(
        body: Tiles,
        level: Level,
        (m, n, k): (usize, usize, usize),
    ) -> Self {
        let steps = k.div_ceil(TILE_K);
        let k_blocks = steps.div_ceil(STEPS).max(1);
        let block_steps = steps.div_ceil(k_blocks);
        let (all_strips, all_panels) = (m.div_ceil(STRIP), n.div_ceil(TILE_COLUMNS));
        let (mut strips, mut panels) = (STRIPS.min(all_strips), PANELS.min(all_panels));
        let blocks = |of: usize, each: usize| of.div_ceil(each.max(1));
        while blocks(all_strips, strips) * blocks(all_panels, panels) < TASKS {
            if panels > PANELS / 2 {
                panels = PANELS / 2;
            } else if strips > 4 {
                strips = strips.div_ceil(2);
            } else if panels > 2 {
                panels = panels.div_ceil(2);
            } else {
                break;
            }
        }
        // Blocks of the same size.
        let even = |of: usize, each: usize| of.div_ceil(blocks(of, each).max(1));
        let (strips, panels) = (even(all_strips, strips), even(all_panels, panels));
        let (m_blocks, n_blocks) = (blocks(all_strips, strips), blocks(all_panels, panels));
        let bytes = (strips * STRIP * steps * ROW_BYTES).max(1);
        let [least, most] = CHUNK_BYTES.map(|limit| (limit / bytes).max(1));
        let chunk = m_blocks.clamp(least, most);
        let block_steps = block_steps.max(1);
        Self { body, level, m, n, k, steps, block_steps, strips, m_blocks, panels, n_blocks, chunk }
    }

    /// Tasks of a product.
    pub(in super::super) fn tasks(&self) -> usize {
        self.m_blocks * self.n_blocks
    }

    /// Bytes of the rows of a block.
    fn row_bytes(&self) -> usize {
        self.strips * STRIP * self.steps * ROW_BYTES
    }

    /// Bytes of a worker: sums, or what rows go through on their way into tiles.
    fn worker_bytes(&self) -> usize {
        let waiting = if self.steps <= self.block_steps { 1 } else { self.strips * self.panels };
        (waiting * SUMS * 4).max(STRIP * self.block_steps * ROW_BYTES)
    }

    pub(in super::super) fn scratch_bytes(&self, workers: usize) -> usize {
        let own = WorkerScratch::bytes(self.worker_bytes(), workers);
        self.chunk * self.row_bytes() + ALIGN + own
    }

    /// The rows of a strip of block `block`, counted over all pages; those of a page fill whole blocks.
    fn rows(&self, block: usize, strip: usize) -> Range<usize> {
        let (page, block) = (block / self.m_blocks, block % self.m_blocks);
        let first = ((block * self.strips + strip) * STRIP).min(self.m);
        page * self.m + first..page * self.m + (first + STRIP).min(self.m)
    }

    /// The strips of block `block`.
    fn strips(&self, block: usize) -> usize {
        let block = block % self.m_blocks;
        self.strips.min(self.m.div_ceil(STRIP) - block * self.strips)
    }

    /// Tiles of a strip, one above the other.
    fn height(&self, block: usize, strip: usize) -> usize {
        self.rows(block, strip).len().div_ceil(ROWS)
    }

    /// Bytes of a step of all rows of a block.
    fn tall(&self, block: usize) -> usize {
        let first = block % self.m_blocks * self.strips * STRIP;
        (self.m - first).min(self.strips * STRIP).div_ceil(ROWS) * TILE
    }

    /// The blocks of K, in steps; one without steps where there is no K.
    fn k_blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let (all, each) = (self.steps, self.block_steps);
        (0..all.max(1)).step_by(each).map(move |first| first..(first + each).min(all))
    }
}

/// The products of `pages` of a batch, where `b` has the panels of each; the rows of all pages follow
/// each other in what `loader` brings and in the output.
///
/// # Panics
/// If the scratch is too small.
pub(in super::super) fn multiply<'a>(
    pool: &Pool,
    plan: &Plan,
    pages: Range<usize>,
    loader: &dyn RowLoader,
    b: &(dyn Fn(usize) -> Packed<'a> + Sync),
    finish: &Finish<'_>,
    scratch: &mut [u8],
) {
    let needed = plan.scratch_bytes(pool.threads());
    assert!(scratch.len() >= needed, "scratch has {} bytes, needs {needed}", scratch.len());
    let skip = scratch.as_ptr().align_offset(ALIGN);
    let (rows, rest) = scratch[skip..].split_at_mut(plan.chunk * plan.row_bytes());
    let own = WorkerScratch::new(rest, plan.worker_bytes(), pool.threads());
    let rows = SharedPtr::new(rows.as_mut_ptr());
    let all = pages.start * plan.m_blocks..pages.end * plan.m_blocks;
    for chunk in until_stopped(all.len().div_ceil(plan.chunk)) {
        let first = all.start + chunk * plan.chunk;
        let blocks = first..(first + plan.chunk).min(all.end);
        let parts = plan.k_blocks().count();
        // SAFETY: of the chunk's blocks, each in its place.
        let place = |block: usize| unsafe { rows.get().add((block - first) * plan.row_bytes()) };
        pool.run(blocks.len() * plan.strips * parts, &|task, worker| {
            let (block, strip) = (first + task / parts / plan.strips, task / parts % plan.strips);
            if strip < plan.strips(block) {
                let steps = plan.k_blocks().nth(task % parts).unwrap_or_default();
                // SAFETY: no other task has these tiles or this worker's memory.
                unsafe {
                    bring(plan, loader, (block, strip), steps, own.region(worker), place(block));
                }
            }
        });
        pool.run(blocks.len() * plan.n_blocks, &|task, worker| {
            let (block, part) = (first + task % blocks.len(), task / blocks.len());
            let panels =
                part * plan.panels..((part + 1) * plan.panels).min(plan.n.div_ceil(TILE_COLUMNS));
            let next = if block + 1 < blocks.end { block + 1 } else { first };
            let work = Block {
                plan,
                block,
                rows: place(block),
                next: place(next),
                panels,
                b: b(block / plan.m_blocks),
                finish,
                sums: own.region(worker).cast(),
            };
            // SAFETY: rows are complete, no other task has these sums of the result or this worker's
            // memory, and the body is the plan's.
            unsafe { plan.body.run(&work) };
        });
    }
}

/// Brings the rows of a strip into tiles, for some steps of K.
///
/// # Safety
/// `place` holds the rows of the block, of which these tiles are the caller's, and `through` so many
/// bytes as a worker has.
unsafe fn bring(
    plan: &Plan,
    loader: &dyn RowLoader,
    (block, strip): (usize, usize),
    steps: Range<usize>,
    through: *mut u8,
    place: *mut u8,
) {
    if steps.is_empty() {
        return;
    }
    let (rows, through) = (plan.rows(block, strip), through.cast::<u32>());
    let pitch = steps.len() * ROW_BYTES / 4;
    let k = steps.start * TILE_K..(steps.end * TILE_K).min(plan.k);
    let convert = Convert::new(plan.level, Words::Pairs);
    // SAFETY: the rows lie inside the matrix, and a worker's memory holds a strip of so many steps.
    unsafe {
        loader.load(convert, rows.clone(), k.clone(), through, pitch);
        let words = k.len().div_ceil(2);
        for row in 0..rows.len() {
            through.add(row * pitch + words).write_bytes(0, pitch - words);
        }
        let height = plan.height(block, strip);
        let below = rows.len()..height * ROWS;
        through.add(below.start * pitch).write_bytes(0, below.len() * pitch);
        let to = place.add(steps.start * plan.tall(block) + strip * 2 * TILE * steps.len());
        match plan.level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 => {
                x86::arrange_512(through.cast(), steps.len(), height, to);
            }
            _ => arrange(through.cast(), steps.len(), height, to),
        }
    }
}

/// Rows of `steps` lines each as tiles: for every step, `height` of them one above the other.
///
/// # Safety
/// There are so many rows and tiles.
#[inline(always)]
unsafe fn arrange(from: *const u8, steps: usize, height: usize, to: *mut u8) {
    for step in 0..steps {
        for row in 0..height * ROWS {
            // SAFETY: the caller's promise.
            unsafe {
                let from = from.add((row * steps + step) * ROW_BYTES);
                let to = to.add((step * height * ROWS + row) * ROW_BYTES);
                std::ptr::copy_nonoverlapping(from, to, ROW_BYTES);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    /// # Safety
    /// As [`super::arrange`], and the machine has AVX-512.
    #[target_feature(enable = "avx512f,avx512vl,avx2")]
    pub(super) unsafe fn arrange_512(from: *const u8, steps: usize, height: usize, to: *mut u8) {
        // SAFETY: passed on.
        unsafe { super::arrange(from, steps, height, to) }
    }
}

/// One task: a block of rows against a block of panels.
///
/// It may run where the rows are complete, `sums` holds what a worker has for this task alone, and no
/// other task writes this block of the output.
struct Block<'a> {
    plan: &'a Plan,
    block: usize,
    rows: *const u8,
    /// The rows that come after these.
    next: *const u8,
    panels: Range<usize>,
    b: Packed<'a>,
    finish: &'a Finish<'a>,
    sums: *mut f32,
}

impl TileWork for Block<'_> {
    unsafe fn run<T: TileOps>(&self) {
        let Block { plan, block, .. } = *self;
        let strips = plan.strips(block);
        let waits = plan.steps > plan.block_steps;
        // A panel that few strips share comes from memory: it is asked for in fewer steps.
        let lines = match strips {
            STRIPS.. => 2,
            4.. => 8,
            _ => 32,
        };
        for steps in plan.k_blocks() {
            let rows = self.rows.wrapping_add(steps.start * plan.tall(block));
            let last = steps.end == plan.steps;
            let coming =
                if last { self.next } else { rows.wrapping_add(steps.len() * plan.tall(block)) };
            for (at, p) in self.panels.clone().enumerate() {
                let columns = (plan.n - p * TILE_COLUMNS).min(TILE_COLUMNS);
                let panel = self.b.tiles(p, steps.start);
                let next = match p + 1 < self.panels.end {
                    true => self.b.tiles(p + 1, steps.start),
                    false if last => panel,
                    false => self.b.tiles(self.panels.start, steps.end),
                };
                for strip in 0..strips {
                    let share = if waits { at * plan.strips + strip } else { 0 };
                    let sums = self.sums.wrapping_add(share * SUMS);
                    let done = strip * steps.len() * lines * ALIGN;
                    let turn = (at * strips + strip) * steps.len() * 2 * ALIGN;
                    let ahead = Ahead {
                        sums: sums.wrapping_add(SUMS).cast(),
                        panel: next.wrapping_add(done),
                        rows: coming.wrapping_add(turn % plan.row_bytes().max(1)),
                    };
                    let height = plan.height(block, strip);
                    let micro = micro::<T>(height, columns.div_ceil(16), lines);
                    // SAFETY: tiles of the strip and the panel lie behind each other for so many
                    // steps, and sums have a place of their own until the last block of K.
                    unsafe {
                        let rows = rows.add(strip * 2 * TILE * steps.len());
                        micro(steps.len(), rows, panel, sums, steps.start == 0, ahead);
                        if last {
                            let rows = plan.rows(block, strip);
                            let place = (rows.start, p * TILE_COLUMNS);
                            self.finish.tile(sums, TILE_COLUMNS, place, (rows.len(), columns));
                        }
                    }
                }
            }
        }
    }
}
