//! Products of two matrices of activations, page by page of a batch, with either side turned.
//!
//! B is packed into scratch, for as many pages at a time as give the threads enough to do, and their
//! blocks are then handed out together: pages of any size keep all threads busy with two waits a
//! group.

use super::super::simd::Level;
use super::super::threads::{ALIGN, Pool, until_stopped};
use super::driver::{Plan, TASKS, multiply};
use super::epilogue::Finish;
use super::pack::{pack_pages, pack_source};
use super::rows::RowLoader;
use super::turned::{Columns, Turned};
use super::{Epilogue, Output, Packed, PanelKind, Rows, Slice, Weights, packed_bytes};

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
    fn plan(&self, level: Level) -> Plan {
        Plan::new(level.usable(), self.m, self.n, self.k, self.kind)
    }

    /// The batch by the products that the level has.
    fn at(self, level: Level) -> Self {
        Self { kind: self.kind.at(level), ..self }
    }

    fn panel_bytes(&self) -> usize {
        packed_bytes(self.n, self.k, self.kind)
    }

    /// Pages that are worked on together.
    fn group(&self, plan: &Plan) -> usize {
        let busy = TASKS.div_ceil(plan.tasks().max(1));
        let full = GROUP_BYTES / self.panel_bytes().max(1);
        busy.max(full).clamp(1, self.pages.max(1))
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

/// Where B comes from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// The first of its pages.
    Pages(Weights<'a>),
    /// Panels of its transpose.
    Turned(Packed<'a>),
}

/// Bytes of scratch [`dot`] needs.
pub fn dot_scratch_bytes(level: Level, shape: &BatchShape, workers: usize) -> usize {
    let shape = shape.at(level);
    let plan = shape.plan(level);
    shape.group(&plan) * shape.panel_bytes() + ALIGN + plan.scratch_bytes(workers)
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
    let BatchShape { pages, m, n, k, turned, .. } = *shape;
    let needed = pages * m * k;
    assert!(a.len() >= needed, "A has {} elements, needs {needed}", a.len());
    let b = match b {
        Other::Panels(panels) => {
            let fits = pages == 1 && turned[1] && (panels.n(), panels.k()) == (k, n);
            assert!(fits, "panels of [{}, {}] for {shape:?}", panels.n(), panels.k());
            Source::Turned(panels)
        }
        Other::Pages(b) => {
            let (bytes, dtype) = b.stored();
            Source::Pages(match turned[1] {
                true => Weights::transposed(bytes, dtype, n),
                false => Weights::row_major(bytes, dtype, k),
            })
        }
    };
    if turned[0] {
        let (bytes, dtype) = a.stored();
        let a = Columns { first: Weights::transposed(bytes, dtype, m), m, k };
        batched(pool, level, shape, &a, b, epilogue, output, scratch);
    } else {
        let a = Rows { data: a, stride: k };
        batched(pool, level, shape, &a, b, epilogue, output, scratch);
    }
}

/// [`dot`] for any source of rows, with an epilogue over the rows of all pages.
///
/// # Panics
/// If the scratch or B is too short, or a shape of the epilogue does not fit.
pub(super) fn batched(
    pool: &Pool,
    level: Level,
    shape: &BatchShape,
    a: &dyn RowLoader,
    b: Source<'_>,
    epilogue: &Epilogue<'_>,
    output: Output<'_>,
    scratch: &mut [u8],
) {
    let shape = &shape.at(level);
    let BatchShape { pages, m, n, k, kind, .. } = *shape;
    let needed = dot_scratch_bytes(level, shape, pool.threads());
    assert!(scratch.len() >= needed, "scratch has {} bytes, needs {needed}", scratch.len());
    let plan = shape.plan(level);
    let finish = Finish::new(level.usable(), pages * m, n, epilogue, output);
    let (group, each) = (shape.group(&plan), shape.panel_bytes());
    let skip = scratch.as_ptr().align_offset(ALIGN);
    let (packed, rest) = scratch[skip..].split_at_mut(group * each);
    for first in until_stopped(pages.div_ceil(group)) {
        let some = first * group..((first + 1) * group).min(pages);
        match b {
            Source::Pages(b) => pack_pages(pool, level, b, some.clone(), (n, k), kind, packed),
            Source::Turned(b) => pack_source(pool, level, &Turned(b), (n, k), kind, packed),
        }
        let panels = |page: usize| {
            let at = (page - some.start) * each;
            Packed::from_bytes(n, k, kind, &packed[at..at + each])
        };
        multiply(pool, &plan, some.clone(), a, &panels, &finish, rest);
    }
}
