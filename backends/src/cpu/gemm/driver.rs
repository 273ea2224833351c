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
use super::pack::{FillRows, Packed, Panel, WIDTH, k_words, panel_width, transpose};
use super::rows::{Convert, RowLoader};
use super::{Epilogue, Output, PanelKind};
use std::ops::Range;

/// Rows of a full block; a multiple of every tile height.
const MC: usize = 120;

/// Panel words of K in a full block.
const KC: usize = 512;

/// Panels in a full block.
const NB: usize = 16;

/// Rows of a product of which panels are made by the tasks that read them.
pub(super) const SLIM: usize = 240;

/// Rows for which a task makes panels that others make as well.
const LEAST: usize = 32;

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
    kind: PanelKind,
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
    /// Whether tasks make their panels.
    slim: bool,
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
            kind,
            mc,
            m_blocks,
            nb,
            n_blocks,
            kc,
            k_blocks,
            lda,
            turned: false,
            slim: false,
            tiles,
        }
    }

    /// The plan of a product whose rows are the columns of the result.
    pub(super) fn turned(self) -> Plan {
        Plan { turned: true, ..self }
    }

    /// The plan of a product of at most [`SLIM`] rows whose panels are not made before.
    pub(super) fn slim(self) -> Plan {
        let panels = self.n.div_ceil(WIDTH);
        // Each task loads the rows again.
        let nb = panels.div_ceil(TASKS / 2).clamp(1, NB).min(panels);
        let n_blocks = if nb == 0 { 0 } else { panels.div_ceil(nb) };
        // Where panels are few, each is made by several tasks.
        let apart = (TASKS / 2 / n_blocks.max(1)).clamp(1, (self.m / LEAST).max(1));
        let step = if self.m > 24 { 12 } else { 1 };
        let mc = self.m.div_ceil(apart).next_multiple_of(step).min(self.m);
        let m_blocks = if mc == 0 { 0 } else { self.m.div_ceil(mc) };
        Plan { slim: true, mc, m_blocks, nb, n_blocks, ..self }
    }

    /// Tasks of a product.
    pub(super) fn tasks(&self) -> usize {
        match &self.tiles {
            Some(tiles) => tiles.tasks(),
            None => self.m_blocks * self.n_blocks,
        }
    }

    /// Words of K of block `ki`.
    fn words(&self, ki: usize) -> Range<usize> {
        ki * self.kc..((ki + 1) * self.kc).min(k_words(self.k, self.kind))
    }

    /// Elements of K of block `ki`.
    fn elements(&self, ki: usize) -> Range<usize> {
        let (words, each) = (self.words(ki), self.kind.elements());
        words.start * each..(words.end * each).min(self.k)
    }

    /// Rows of a block, in whole squares where they are turned.
    fn tall(&self) -> usize {
        self.mc.next_multiple_of(if self.turned { LANES } else { 1 })
    }

    /// Words of A, of sums, and of a part of a panel, in one worker's scratch.
    fn worker_words(&self) -> [usize; 3] {
        let panels = if self.k_blocks == 1 { 1 } else { self.nb };
        let sums = match (self.turned, self.k_blocks) {
            (false, 1) => TILE,
            (false, _) => self.mc * self.nb * WIDTH,
            (true, _) => self.tall() * (panels * WIDTH + LANES),
        };
        [self.mc * self.lda, sums, if self.slim { self.kc * WIDTH } else { 0 }]
    }

    pub(crate) fn scratch_bytes(&self, workers: usize) -> usize {
        match &self.tiles {
            Some(tiles) => tiles.scratch_bytes(workers),
            None => WorkerScratch::bytes(self.worker_words().iter().sum::<usize>() * 4, workers),
        }
    }
}

/// Where the panels of pages come from.
pub(super) enum Panels<'b, 'a> {
    /// They lie somewhere.
    Packed(&'b (dyn Fn(usize) -> Packed<'a> + Sync)),
    /// Tasks make them.
    Made(&'b FillRows<'b>),
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
    multiply(pool, &plan, 0..1, loader, &Panels::Packed(&|_| b), &finish, scratch);
}

/// The products of `pages` of a batch, where `b` has the panels of each; a slim plan has them made.
/// The rows of all pages follow each other in what `loader` brings and in the output.
///
/// # Panics
/// If the scratch is too small.
pub(super) fn multiply(
    pool: &Pool,
    plan: &Plan,
    pages: Range<usize>,
    loader: &dyn RowLoader,
    b: &Panels<'_, '_>,
    finish: &Finish<'_>,
    scratch: &mut [u8],
) {
    if let (Some(tiles), Panels::Packed(b)) = (&plan.tiles, b) {
        return product::multiply(pool, tiles, pages, loader, b, finish, scratch);
    }
    let [a_words, sum_words, panel_words] = plan.worker_words();
    let all = a_words + sum_words + panel_words;
    let scratch = WorkerScratch::new(scratch, all * 4, pool.threads());
    pool.run(pages.len() * plan.tasks(), &|task, worker| {
        let (page, task) = (pages.start + task / plan.tasks(), task % plan.tasks());
        let place = [page, task % plan.m_blocks, task / plan.m_blocks];
        let rows = scratch.region(worker).cast::<u32>();
        // SAFETY: the region holds A and the sums, and tasks of one worker do not overlap; blocks
        // of the output are disjoint between tasks.
        unsafe {
            let sums = rows.add(a_words).cast::<f32>();
            let panel = rows.add(a_words + sum_words);
            let region = Region { rows, a: rows, lda: plan.lda, sums, panel };
            block(plan, place, loader, b, finish, region);
        }
    });
}

/// A worker's scratch, as long as [`Plan::worker_words`] says, and where the rows of A are.
#[derive(Clone, Copy)]
struct Region {
    rows: *mut u32,
    /// There, or where they lie anyway, with the words between them.
    a: *const u32,
    lda: usize,
    sums: *mut f32,
    panel: *mut u32,
}

/// One block of K of a panel, and what comes with it.
struct Part {
    p: usize,
    ki: usize,
    /// Its first word, and what is read after it.
    from: *const u32,
    next: *const u32,
    /// Whether the rows of the next block of K are asked for meanwhile.
    asks: bool,
    /// Whether no panel has read the rows before, which nothing has brought near.
    far: bool,
}

/// One task: the rows of block `mi` of a page against the panels of block `ni`.
///
/// # Safety
/// The region is this task's alone; no other task writes the same block of the output.
unsafe fn block(
    plan: &Plan,
    [page, mi, ni]: [usize; 3],
    loader: &dyn RowLoader,
    b: &Panels<'_, '_>,
    finish: &Finish<'_>,
    mut region: Region,
) {
    let above = page * plan.m;
    let rows = above + mi * plan.mc..above + ((mi + 1) * plan.mc).min(plan.m);
    let panels = ni * plan.nb..((ni + 1) * plan.nb).min(plan.n.div_ceil(WIDTH));
    let convert = Convert::new(plan.level, plan.words);
    let kw = k_words(plan.k, plan.kind);
    for ki in 0..plan.k_blocks {
        let words = plan.words(ki);
        let last = ki + 1 == plan.k_blocks;
        let lying = match plan.k_blocks {
            1 => loader.in_place(plan.words, rows.start, plan.k),
            _ => None,
        };
        match lying {
            Some(a) => (region.a, region.lda) = (a, kw),
            // SAFETY: the block of A holds `mc` rows of `lda` words, which cover `kc` panel words.
            None => unsafe {
                loader.load(convert, rows.clone(), plan.elements(ki), region.rows, plan.lda);
            },
        }
        for p in panels.clone() {
            let asks = p + 1 == panels.end && !last;
            let width = panel_width(plan.n, p);
            let (from, next) = match b {
                Panels::Packed(of) => {
                    let b = of(page);
                    // The panel block that comes after this one, to be brought into L2 meanwhile.
                    let next = match asks {
                        true => b.panel(panels.start).wrapping_add(words.end * WIDTH),
                        false => b.panel(p).wrapping_add(width * kw + words.start * WIDTH),
                    };
                    (b.panel(p).wrapping_add(words.start * width), next)
                }
                Panels::Made(fill) => {
                    let Plan { n, k, kind, .. } = *plan;
                    let to = region.panel.wrapping_sub(words.start * width);
                    fill(plan.level, page, Panel { n, k, p, kind }, words.clone(), to);
                    (region.panel.cast_const(), region.panel.cast_const())
                }
            };
            let behind = match plan.k_blocks {
                1 => 0,
                _ => (p - panels.start) * WIDTH * plan.tall(),
            };
            let far = lying.is_some() && p == panels.start;
            let part = Part { p, ki, from, next, asks, far };
            // SAFETY: every panel has sums of its own where they wait for the next block of K.
            unsafe {
                let region = Region { sums: region.sums.add(behind), ..region };
                tiles(plan, (page, rows.clone()), loader, part, finish, region);
                if last && plan.turned {
                    turn(plan, finish, (page, p), (rows.start - above, rows.len()), region);
                }
            }
        }
    }
}

/// The tiles of one block of K of a panel.
///
/// # Safety
/// As of [`block`]: the part of the panel and the rows are in place, and `region` has the panel's sums.
unsafe fn tiles(
    plan: &Plan,
    (page, rows): (usize, Range<usize>),
    loader: &dyn RowLoader,
    Part { p, ki, from, next, asks, far }: Part,
    finish: &Finish<'_>,
    Region { a, lda, sums, .. }: Region,
) {
    let (width, columns) = (panel_width(plan.n, p), (plan.n - p * WIDTH).min(WIDTH));
    let (steps, most) = (plan.words(ki).len(), tile_rows(plan.level, width));
    let last = ki + 1 == plan.k_blocks;
    let mut row = 0;
    while row < rows.len() {
        let (height, kernel) = micro(plan.level, plan.words, width, (rows.len() - row).min(most));
        let at = (rows.start + row, p * WIDTH);
        if asks {
            loader.ask(at.0..at.0 + height, plan.elements(ki + 1));
        } else if far {
            let later = at.0 + height..(at.0 + 2 * height).min(rows.end);
            loader.ask(later, plan.elements(ki));
        }
        match (last, plan.turned) {
            (true, false) => finish.ask(at, (height, columns)),
            (true, true) => {
                let share = |row: usize| row * columns / rows.len();
                let (above, left) = (page * plan.n + p * WIDTH, rows.start - page * plan.m);
                let some = share(row)..share(row + height);
                finish.ask((above + some.start, left), (some.len(), rows.len()));
            }
            _ => {}
        }
        // SAFETY: tile and panel rows lie inside their buffers.
        unsafe {
            let wait = plan.k_blocks > 1 || plan.turned;
            let tile = if wait { sums.add(row * width) } else { sums };
            let rest = row / most * 2 * LANES * steps;
            let ahead = if rest < width * steps { next.wrapping_add(rest) } else { from };
            kernel(steps, a.add(row * lda), lda, from, tile, ki == 0, ahead);
            if last && !plan.turned {
                finish.tile(tile, width, at, (height, columns));
            }
        }
        row += height;
    }
}

/// Hands the sums of panel `p` to the epilogue as rows of the result, sixteen columns at a time: its
/// columns `from..` so many.
///
/// # Safety
/// The region begins with the panel's complete sums, rows of them up to a whole number of sixteen; the
/// part of the output is this task's.
unsafe fn turn(
    plan: &Plan,
    finish: &Finish<'_>,
    (page, p): (usize, usize),
    (column, count): (usize, usize),
    Region { sums, panel, .. }: Region,
) {
    let (tall, width) = (plan.tall(), panel_width(plan.n, p));
    // The last words of the sums, which end where panels begin.
    let to = panel.wrapping_sub(tall * LANES).cast::<f32>();
    for first in (0..(plan.n - p * WIDTH).min(WIDTH)).step_by(LANES) {
        // SAFETY: sixteen sums of each of sixteen rows, and sixteen rows of the square.
        unsafe {
            for at in (0..count).step_by(LANES) {
                let from = sums.add(at * width + first).cast_const().cast();
                transpose(plan.level, from, width, LANES, to.add(at).cast(), tall);
            }
            let size = ((plan.n - p * WIDTH - first).min(LANES), count);
            finish.tile(to, tall, (page * plan.n + p * WIDTH + first, column), size);
        }
    }
}
