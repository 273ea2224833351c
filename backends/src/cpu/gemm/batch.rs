//! Products of two matrices of activations, page by page of a batch, with either side turned.
//!
//! One side is packed. That is B, or A where it is so much smaller that it pays to turn the sums: a
//! weight that is read backwards then needs no second copy. Where the other side has few rows, tasks
//! pack what they need into memory of their worker; else panels lie in scratch, for as many pages at a
//! time as give the threads enough to do, and their blocks are then handed out together: pages of any
//! size keep all threads busy with two waits a group.

use super::super::simd::Level;
use super::super::threads::{ALIGN, Pool, until_stopped};
use super::driver::{Panels, Plan, SLIM, TASKS, multiply};
use super::epilogue::Finish;
use super::pack::{Panel, check, fill_panel, pack_pages, pack_panel, pack_source};
use super::rows::RowLoader;
use super::turned::{Columns, Turned};
use super::{Epilogue, Output, Packed, PanelKind, Rows, Slice, Weights, packed_bytes};
use std::ops::Range;

/// Panels are packed for pages at a time up to this size, however many that are.
const GROUP_BYTES: usize = 1 << 18;

/// A batch of products [M, K] · [N, K]ᵀ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Products.
    pub pages: usize,
    /// Rows of a page of A and of the result.
    pub m: usize,
    /// Columns of a page of the result.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// Whether a page of A is [K, M], and whether one of B is [K, N].
    pub turned: [bool; 2],
    /// The arithmetic.
    pub kind: PanelKind,
}

impl BatchShape {
    /// Whether B · Aᵀ is formed: it packs M rows for N, and turns M · N sums. Turning one takes as long
    /// as packing an eighth of an element. Lines of K are packed faster than loaded as rows.
    ///
    /// Tiles take either side in a form of its own, so that nothing is spared there.
    fn exchanged(&self) -> bool {
        match (self.m <= SLIM, self.n <= SLIM) {
            _ if by_tiles(self.kind) => false,
            (true, _) => false,
            (false, true) => self.turned[0] && self.k > self.n,
            _ => self.n.saturating_sub(self.m).saturating_mul(self.k) > self.m * self.n / 8,
        }
    }

    /// The batch by the products that the level has.
    fn at(self, level: Level) -> Self {
        Self { kind: self.kind.at(level), ..self }
    }
}

fn by_tiles(kind: PanelKind) -> bool {
    matches!(kind, PanelKind::Tiles(_))
}

/// Whether tasks make the panels that meet so many rows.
fn slim(m: usize, kind: PanelKind) -> bool {
    m <= SLIM && !by_tiles(kind)
}

/// How a batch is computed.
struct Way {
    plan: Plan,
    /// Rows and columns of the product as it is formed, and its sums.
    shape: BatchShape,
}

impl Way {
    fn new(level: Level, shape: &BatchShape, exchanged: bool) -> Way {
        let shape = shape.at(level);
        let BatchShape { m, n, k, turned: [a, b], kind, .. } = shape;
        let plan = |m: usize, n: usize| {
            let plan = Plan::new(level.usable(), m, n, k, kind);
            if slim(m, kind) { plan.slim() } else { plan }
        };
        match exchanged {
            false => Way { plan: plan(m, n), shape },
            true => Way {
                plan: plan(n, m).turned(),
                shape: BatchShape { m: n, n: m, turned: [b, a], ..shape },
            },
        }
    }

    /// Bytes of a packed page.
    fn panel_bytes(&self) -> usize {
        packed_bytes(self.shape.n, self.shape.k, self.shape.kind)
    }

    /// Pages that are worked on together.
    fn group(&self) -> usize {
        let busy = TASKS.div_ceil(self.plan.tasks().max(1));
        let full = GROUP_BYTES / self.panel_bytes().max(1);
        busy.max(full).clamp(1, self.shape.pages.max(1))
    }

    fn slim(&self) -> bool {
        slim(self.shape.m, self.shape.kind)
    }

    fn scratch_bytes(&self, workers: usize) -> usize {
        let panels = if self.slim() { 0 } else { self.group() * self.panel_bytes() + ALIGN };
        panels + self.plan.scratch_bytes(workers)
    }
}

/// The second side of products.
#[derive(Clone, Copy, Debug)]
pub enum Other<'a> {
    /// Dense pages.
    Pages(Slice<'a>),
    /// One page [K, N] that is turned, as the panels of [K, N] lying along N.
    Panels(Packed<'a>),
}

/// Where the packed side comes from.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// The first of its pages.
    Pages(Weights<'a>),
    /// Panels of its transpose.
    Turned(Packed<'a>),
}

/// Bytes of scratch [`dot`] needs.
pub fn dot_scratch_bytes(level: Level, shape: &BatchShape, workers: usize) -> usize {
    let shape = &shape.at(level);
    Way::new(level, shape, shape.exchanged()).scratch_bytes(workers)
}

/// `out = a · bᵀ` for every page: dense pages of `a` and `b` one after the other, rows of `output`
/// and of the epilogue for all pages together.
///
/// # Panics
/// If a slice (scratch included) is too short for the shape, or panels are not those of one page [K, N].
pub fn dot(
    pool: &Pool,
    level: Level,
    shape: &BatchShape,
    a: Slice<'_>,
    b: Other<'_>,
    epilogue: &Epilogue<'_>,
    output: Output<'_>,
    scratch: &mut [u8],
) {
    let shape = &shape.at(level);
    let BatchShape { pages, m, n, k, turned, .. } = *shape;
    let needed = pages * m * k;
    assert!(a.len() >= needed, "A has {} elements, needs {needed}", a.len());
    match b {
        Other::Panels(panels) => {
            let fits = pages == 1 && turned[1] && (panels.n(), panels.k()) == (k, n);
            assert!(fits, "panels of [{}, {}] for {shape:?}", panels.n(), panels.k());
        }
        Other::Pages(b) => {
            let needed = pages * n * k;
            assert!(b.len() >= needed, "weights have {} elements, need {needed}", b.len());
        }
    }
    let way = Way::new(level, shape, shape.exchanged());
    let finish = Finish::new(level.usable(), pages * m, n, epilogue, output);
    let (loaded, packed) =
        if shape.exchanged() { (b, Other::Pages(a)) } else { (Other::Pages(a), b) };
    let packed = match packed {
        Other::Panels(panels) => Source::Turned(panels),
        Other::Pages(data) => {
            let (bytes, dtype) = data.stored();
            Source::Pages(match way.shape.turned[1] {
                true => Weights::transposed(bytes, dtype, way.shape.n),
                false => Weights::row_major(bytes, dtype, k),
            })
        }
    };
    match loaded {
        Other::Panels(panels) => run(pool, level, &way, &Turned(panels), packed, &finish, scratch),
        Other::Pages(data) if way.shape.turned[0] => {
            let (bytes, dtype) = data.stored();
            let m = way.shape.m;
            let rows = Columns { first: Weights::transposed(bytes, dtype, m), m, k };
            run(pool, level, &way, &rows, packed, &finish, scratch);
        }
        Other::Pages(data) => {
            run(pool, level, &way, &Rows { data, stride: k }, packed, &finish, scratch);
        }
    }
}

/// Bytes of scratch [`dynamic`] needs.
pub(super) fn dynamic_scratch_bytes(level: Level, shape: &BatchShape, workers: usize) -> usize {
    Way::new(level, shape, false).scratch_bytes(workers)
}

/// [`dot`] for rows of one page that lie any distance apart.
///
/// # Panics
/// If the scratch or B is too short, or a shape of the epilogue does not fit.
pub(super) fn dynamic(
    pool: &Pool,
    level: Level,
    shape: &BatchShape,
    a: Rows<'_>,
    b: Weights<'_>,
    epilogue: &Epilogue<'_>,
    output: Output<'_>,
    scratch: &mut [u8],
) {
    let finish = Finish::new(level.usable(), shape.m, shape.n, epilogue, output);
    let way = Way::new(level, shape, false);
    run(pool, level, &way, &a, Source::Pages(b), &finish, scratch);
}

/// The products of all pages, with the rows of one side and the other one packed.
///
/// # Panics
/// If the scratch or the packed side is too short.
fn run(
    pool: &Pool,
    level: Level,
    way: &Way,
    rows: &dyn RowLoader,
    other: Source<'_>,
    finish: &Finish<'_>,
    scratch: &mut [u8],
) {
    let BatchShape { pages, n, k, kind, .. } = way.shape;
    let needed = way.scratch_bytes(pool.threads());
    assert!(scratch.len() >= needed, "scratch has {} bytes, needs {needed}", scratch.len());
    if let Source::Pages(pages) = &other {
        check(pages, way.shape.pages, (n, k));
    }
    if way.slim() {
        let fill = |level: Level, page: usize, panel: Panel, words: Range<usize>, to: *mut u32| {
            // SAFETY: `to` is that panel, and its rows `words` are the task's.
            unsafe {
                match other {
                    Source::Pages(b) => fill_panel(level, b.page(page, n * k), panel, words, to),
                    Source::Turned(b) => pack_panel(level, &Turned(b), panel, words, to),
                }
            }
        };
        return multiply(pool, &way.plan, 0..pages, rows, &Panels::Made(&fill), finish, scratch);
    }
    let (group, each) = (way.group(), way.panel_bytes());
    let skip = scratch.as_ptr().align_offset(ALIGN);
    let (packed, rest) = scratch[skip..].split_at_mut(group * each);
    for first in until_stopped(pages.div_ceil(group)) {
        let some = first * group..((first + 1) * group).min(pages);
        match other {
            Source::Pages(b) => pack_pages(pool, level, b, some.clone(), (n, k), kind, packed),
            Source::Turned(b) => pack_source(pool, level, &Turned(b), (n, k), kind, packed),
        }
        let panels = |page: usize| {
            let at = (page - some.start) * each;
            Packed::from_bytes(n, k, kind, &packed[at..at + each])
        };
        multiply(pool, &way.plan, some.clone(), rows, &Panels::Packed(&panels), finish, rest);
    }
}
