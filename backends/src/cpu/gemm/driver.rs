//! The loops around the micro-kernels: how a product is cut into tasks, blocks and tiles.
//!
//! A task is a block of rows × a block of panels. It copies its rows of A, one block of K after
//! the other, into its worker's scratch (L2), and runs every panel over them; sums wait in the
//! worker's scratch between blocks of K, and the last block hands each tile to the epilogue. Many
//! panels share a copy of A: copying costs as much time as a product with a quarter of a panel, while
//! the sums of a panel are touched once a block of K and need not stay in L2.
//!
//! A product may also be formed the other way round, B · Aᵀ: sums of a panel are then turned on their
//! way to the epilogue. Products and their order are the same either way, and so are the bits.

use super::super::amx::product;
use super::super::simd::Level;
use super::super::threads::{Pool, WorkerScratch};
use super::epilogue::Finish;
use super::micro::{LANES, TILE, Words, micro, tile_rows};
use super::pack::{Packed, WIDTH, k_words, panel_width, transpose};
use super::rows::{Convert, RowLoader};
use super::{Epilogue, Output, PanelKind};
use std::ops::Range;

/// Rows of a full block; a multiple of every tile height.
const MC: usize = 120;

/// Panel words of K in a full block.
const KC: usize = 512;

/// Panels in a full block.
const NB: usize = 16;

/// Fewer tasks than this and blocks are made smaller, so that several threads find work.
pub(super) const TASKS: usize = 16;

/// How a product is cut; depends on shape, kind and level only.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    level: Level,
    words: Words,
    m: usize,
    n: usize,
    k: usize,
    /// Rows in a block and number of blocks.
    mc: usize,
    m_blocks: usize,
    /// Panels in a block and number of blocks.
    nb: usize,
    n_blocks: usize,
    /// Panel words in a block of K and number of blocks.
    kc: usize,
    k_blocks: usize,
    /// Words between rows of the A block.
    lda: usize,
    /// Whether rows of the product are columns of the result.
    turned: bool,
    /// How tiles do it instead, where the panels are for them.
    tiles: Option<product::Plan>,
}

impl Plan {
    pub(crate) fn new(level: Level, m: usize, n: usize, k: usize, kind: PanelKind) -> Plan {
        let words = Words::of(level, kind);
        let kw = k_words(k, kind);
        let k_blocks = kw.div_ceil(KC).max(1);
        let kc = kw.div_ceil(k_blocks).next_multiple_of(8).min(kw);
        let k_blocks = if kc == 0 { 1 } else { kw.div_ceil(kc) };
        // An odd number of cache lines between rows spreads a column of A over the sets of L1.
        let lines = (kc * words.per_panel_word()).div_ceil(LANES) | 1;
        let panels = n.div_ceil(WIDTH);
        let (mut mc, mut nb) = (MC, NB);
        let blocks = |mc: usize, nb: usize| m.div_ceil(mc) * panels.div_ceil(nb);
        while blocks(mc, nb) < TASKS {
            if nb > 4 && panels > 4 {
                nb /= 2;
            } else if mc > 48 && m > 48 {
                mc /= 2;
            } else if nb > 1 && panels > 1 {
                nb -= 1;
            } else {
                break;
            }
        }
        let (mut m_blocks, n_blocks) = (m.div_ceil(mc), panels.div_ceil(nb));
        // Where blocks are few, an odd one keeps a single thread busy at the end.
        m_blocks += usize::from(m_blocks > 1 && m_blocks * n_blocks % 2 == 1);
        let step = if m > 24 { 12 } else { 1 };
        let mc = m.div_ceil(m_blocks.max(1)).next_multiple_of(step).min(m);
        let m_blocks = if mc == 0 { 0 } else { m.div_ceil(mc) };
        let nb = panels.div_ceil(n_blocks.max(1));
        let n_blocks = if nb == 0 { 0 } else { panels.div_ceil(nb) };
        let lda = lines * LANES;
        let tiles = match kind {
            PanelKind::Tiles(body) => Some(product::Plan::new(body, level, (m, n, k))),
            _ => None,
        };
        Plan {
            level,
            words,
            m,
            n,
            k,
            mc,
            m_blocks,
            nb,
            n_blocks,
            kc,
            k_blocks,
            lda,
            turned: false,
            tiles,
        }
    }

    /// The plan of a product whose rows are the columns of the result.
    pub(super) fn turned(level: Level, m: usize, n: usize, k: usize, kind: PanelKind) -> Plan {
        Plan { turned: true, ..Plan::new(level, m, n, k, kind) }
    }

    /// Tasks of a product.
    pub(super) fn tasks(&self) -> usize {
        match &self.tiles {
            Some(tiles) => tiles.tasks(),
            None => self.m_blocks * self.n_blocks,
        }
    }

    /// Rows of a block, in whole squares where they are turned.
    fn tall(&self) -> usize {
        self.mc.next_multiple_of(if self.turned { LANES } else { 1 })
    }

    /// Words of A, then of sums, in one worker's scratch.
    fn worker_words(&self) -> (usize, usize) {
        let panels = if self.k_blocks == 1 { 1 } else { self.nb };
        let sums = match (self.turned, self.k_blocks) {
            (false, 1) => TILE,
            (false, _) => self.mc * self.nb * WIDTH,
            (true, _) => self.tall() * (panels * WIDTH + LANES),
        };
        (self.mc * self.lda, sums)
    }

    pub(crate) fn scratch_bytes(&self, workers: usize) -> usize {
        if let Some(tiles) = &self.tiles {
            return tiles.scratch_bytes(workers);
        }
        let (a, sums) = self.worker_words();
        WorkerScratch::bytes((a + sums) * 4, workers)
    }
}

/// The product of `m` rows that `loader` brings and the panels of `b`.
///
/// # Panics
/// If the scratch is too small or a shape of the epilogue does not fit.
pub(crate) fn product(
    pool: &Pool,
    level: Level,
    m: usize,
    loader: &dyn RowLoader,
    b: Packed<'_>,
    epilogue: &Epilogue<'_>,
    output: Output<'_>,
    scratch: &mut [u8],
) {
    let plan = Plan::new(level.usable(), m, b.n(), b.k(), b.kind());
    let finish = Finish::new(plan.level, m, plan.n, epilogue, output);
    multiply(pool, &plan, 0..1, loader, &|_| b, &finish, scratch);
}

/// The products of `pages` of a batch, where `b` has the panels of each; the rows of all pages follow
/// each other in what `loader` brings and in the output.
///
/// # Panics
/// If the scratch is too small.
pub(super) fn multiply<'a>(
    pool: &Pool,
    plan: &Plan,
    pages: Range<usize>,
    loader: &dyn RowLoader,
    b: &(dyn Fn(usize) -> Packed<'a> + Sync),
    finish: &Finish<'_>,
    scratch: &mut [u8],
) {
    if let Some(tiles) = &plan.tiles {
        return product::multiply(pool, tiles, pages, loader, b, finish, scratch);
    }
    let (a_words, sum_words) = plan.worker_words();
    let scratch = WorkerScratch::new(scratch, (a_words + sum_words) * 4, pool.threads());
    pool.run(pages.len() * plan.tasks(), &|task, worker| {
        let (page, task) = (pages.start + task / plan.tasks(), task % plan.tasks());
        let place = [page, task % plan.m_blocks, task / plan.m_blocks];
        let a = scratch.region(worker).cast::<u32>();
        // SAFETY: the region holds A and the sums, and tasks of one worker do not overlap; blocks
        // of the output are disjoint between tasks.
        unsafe {
            let sums = a.add(a_words).cast::<f32>();
            block(plan, place, loader, b(page), finish, a, sums);
        }
    });
}

/// One task: the rows of block `mi` of a page against the panels of block `ni`.
///
/// # Safety
/// `a` and `sums` are this task's alone and as long as [`Plan::worker_words`] says; no other task
/// writes the same block of the output.
unsafe fn block(
    plan: &Plan,
    [page, mi, ni]: [usize; 3],
    loader: &dyn RowLoader,
    b: Packed<'_>,
    finish: &Finish<'_>,
    a: *mut u32,
    sums: *mut f32,
) {
    let above = page * plan.m;
    let tall = plan.tall();
    let rows = above + mi * plan.mc..above + ((mi + 1) * plan.mc).min(plan.m);
    let panels = ni * plan.nb..((ni + 1) * plan.nb).min(plan.n.div_ceil(WIDTH));
    let convert = Convert::new(plan.level, plan.words);
    let kw = k_words(plan.k, b.kind());
    let per_word = if b.kind() == PanelKind::F32 { 1 } else { 2 };
    for ki in 0..plan.k_blocks {
        let words = ki * plan.kc..((ki + 1) * plan.kc).min(kw);
        let elements = words.start * per_word..(words.end * per_word).min(plan.k);
        let last = ki + 1 == plan.k_blocks;
        // SAFETY: the block of A holds `mc` rows of `lda` words, which cover `kc` panel words.
        unsafe { loader.load(convert, rows.clone(), elements, a, plan.lda) };
        for p in panels.clone() {
            let width = panel_width(plan.n, p);
            let columns = (plan.n - p * WIDTH).min(WIDTH);
            let most = tile_rows(plan.level, width);
            // The panel block that comes after this one, to be brought into L2 meanwhile.
            let next = if p + 1 == panels.end && !last {
                b.panel(panels.start).wrapping_add(words.end * WIDTH)
            } else {
                b.panel(p).wrapping_add(width * kw + words.start * WIDTH)
            };
            let mut row = 0;
            while row < rows.len() {
                let left = rows.len() - row;
                let (height, kernel) = micro(plan.level, plan.words, width, left.min(most));
                // SAFETY: tile and panel rows lie inside their buffers; a tile that waits for the
                // next block of K has a place of its own in `sums`.
                unsafe {
                    let tile = match (plan.k_blocks, plan.turned) {
                        (1, false) => sums,
                        (1, true) => sums.add(row * width),
                        _ => sums.add((p - panels.start) * WIDTH * tall + row * width),
                    };
                    let b = b.panel(p).add(words.start * width);
                    let rest = row / most * 2 * LANES * words.len();
                    let ahead =
                        if rest < width * words.len() { next.wrapping_add(rest) } else { b };
                    let a = a.add(row * plan.lda);
                    kernel(words.len(), a, plan.lda, b, tile, ki == 0, ahead);
                    if last && !plan.turned {
                        let at = (rows.start + row, p * WIDTH);
                        finish.tile(tile, width, at, (height, columns));
                    }
                }
                row += height;
            }
            if last && plan.turned {
                let sums_before = if plan.k_blocks == 1 { 0 } else { p - panels.start };
                let at = (page * plan.n + p * WIDTH, rows.start - above);
                // SAFETY: the panel's sums are complete, and the last words of them are a square's.
                unsafe {
                    let from = sums.add(sums_before * WIDTH * tall);
                    let to = sums.add(plan.worker_words().1 - tall * LANES);
                    turn(plan, finish, (from, width), to, at, (columns, rows.len()));
                }
            }
        }
    }
}

/// Hands the sums of a panel to the epilogue as rows of the result: sixteen columns at a time.
///
/// # Safety
/// `from` holds rows of `width` sums up to a whole number of sixteen rows, `to` sixteen times as many
/// words; the place and size are those of a part of the output that is this task's.
unsafe fn turn(
    plan: &Plan,
    finish: &Finish<'_>,
    (from, width): (*const f32, usize),
    to: *mut f32,
    (row, column): (usize, usize),
    (rows, columns): (usize, usize),
) {
    let tall = plan.tall();
    for first in (0..rows).step_by(LANES) {
        // SAFETY: sixteen sums of each of sixteen rows, and sixteen rows of the square.
        unsafe {
            for at in (0..columns).step_by(LANES) {
                let from = from.add(at * width + first).cast();
                transpose(plan.level, from, width, LANES, to.add(at).cast(), tall);
            }
            let size = ((rows - first).min(LANES), columns);
            finish.tile(to, tall, (row + first, column), size);
        }
    }
}
