//! Matrix products `y = x · Wᵀ` for the CPU: f32 or bf16 operands, f32 sums, fused epilogues.
//!
//! W is packed once into panels ([`PackedMatrix`], or [`pack_into`] for a buffer of the caller);
//! [`gemm`] multiplies rows of activations with it, and [`gemm_dynamic`] takes a second matrix of
//! activations and packs it on the fly, as does [`dot`] for a batch of pairs of matrices that lie
//! either way round. Nothing is allocated in a product: all working memory is the caller's scratch,
//! sized by [`gemm_scratch_bytes`] and its like.
//!
//! Work is cut by shape alone and one output element is summed over blocks of K in a fixed order
//! (blocks depend on K and the kind alone), so results are bit for bit the same for any number of
//! threads and a row's bits do not depend on the other rows.
//! They differ between levels ([`Level`]) in the last bits. `vdpbf16ps` treats denormals as zero.

mod batch;
#[cfg(test)]
mod batch_tests;
mod driver;
mod epilogue;
mod matrix;
mod micro;
mod pack;
mod rows;
#[cfg(test)]
mod tests;
mod turned;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use batch::{BatchShape, Other, dot, dot_scratch_bytes};
pub(crate) use driver::product;
pub(crate) use epilogue::Finish;
pub use matrix::{Dtype, Weights};
pub(crate) use matrix::{WeightSource, decode_one};
pub(crate) use micro::{LANES, Words, micro, tile_rows};
pub use pack::{Packed, PackedMatrix, pack_into, packed_bytes};
pub(crate) use pack::{TILE_COLUMNS, TILE_K, WIDTH, pack_source, panel_width};
pub(crate) use rows::{Convert, RowLoader};
pub use rows::{Rows, Slice};

pub use super::amx::Tiles;
use super::simd::Level;
use super::threads::Pool;
use driver::Plan;
use half::bf16;

/// What a panel holds, and with it the arithmetic of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PanelKind {
    /// f32 weights; activations are used as f32; fused multiply-add.
    F32,
    /// bf16 weights; activations are rounded to bf16; products are exact, sums f32.
    Bf16,
    /// The same for products by tiles, as the tiles take them.
    Tiles(Tiles),
}

impl PanelKind {
    /// The kind in which `level` has its products of this arithmetic.
    pub(super) fn at(self, level: Level) -> PanelKind {
        match (self, level.tiles()) {
            (Self::Bf16, Some(tiles)) => Self::Tiles(tiles),
            _ => self,
        }
    }

    /// Both arithmetics as `level` has them.
    #[cfg(test)]
    pub(super) fn every(level: Level) -> [PanelKind; 2] {
        [Self::F32, Self::Bf16.at(level)]
    }

    /// Elements in a word of a panel.
    pub(super) fn elements(self) -> usize {
        if self == Self::F32 { 1 } else { 2 }
    }
}

/// A function applied to each element after the bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// The element itself.
    #[default]
    None,
    /// 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))).
    GeluTanh,
    /// x / (1 + e⁻ˣ).
    Silu,
}

/// Column factors chosen by row: row `i` is scaled by `data[segments[i] * stride ..][..N]`.
#[derive(Clone, Copy, Debug)]
pub struct Gate<'a> {
    /// Rows of N factors.
    pub data: &'a [f32],
    /// Elements from one row of factors to the next.
    pub stride: usize,
    /// The factor row of each of the M rows; `None` takes row 0 for all.
    pub segments: Option<&'a [u32]>,
}

/// How a finished value `v` (bias and activation applied) meets the output.
#[derive(Clone, Copy, Debug, Default)]
pub enum Combine<'a> {
    /// `out = v`.
    #[default]
    Store,
    /// `out = out + v·gate`.
    InPlace {
        /// Factors, one where `None`.
        gate: Option<Gate<'a>>,
    },
    /// `out = residual + v·gate`, with the residual in other memory than the output.
    Residual {
        /// M rows of N elements.
        data: Slice<'a>,
        /// Elements from one row to the next.
        stride: usize,
        /// Factors, one where `None`.
        gate: Option<Gate<'a>>,
    },
}

/// All that is applied to the sums on their way out: bias, then activation, then combination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// N values added to each row.
    pub bias: Option<&'a [f32]>,
    /// Whether the sums with their bias are rounded to bf16 before what follows.
    pub round_sums: bool,
    /// Applied after the bias.
    pub activation: Activation,
    /// Whether the activation's values are rounded to bf16 before what follows.
    pub round_activated: bool,
    /// Applied last.
    pub combine: Combine<'a>,
}

/// Where the M rows of N results go; `stride` is the number of elements between rows.
#[derive(Debug)]
pub enum Output<'a> {
    /// Single precision.
    F32 {
        /// The elements.
        data: &'a mut [f32],
        /// Elements from one row to the next.
        stride: usize,
    },
    /// bfloat16, rounded to nearest even.
    Bf16 {
        /// The elements.
        data: &'a mut [bf16],
        /// Elements from one row to the next.
        stride: usize,
    },
}

/// Bytes of scratch [`gemm`] needs for `m` rows against `n`×`k` panels of `kind`.
pub fn gemm_scratch_bytes(
    level: Level,
    (m, n, k): (usize, usize, usize),
    kind: PanelKind,
    workers: usize,
) -> usize {
    Plan::new(level.usable(), m, n, k, kind.at(level)).scratch_bytes(workers)
}

/// `out = epilogue(a · bᵀ)` for `m` rows of `a` [m, K] and packed `b` [N, K].
///
/// `scratch` has at least [`gemm_scratch_bytes`] for the same arguments and `pool.threads()`
/// workers; its contents do not matter before and mean nothing after.
///
/// # Panics
/// If a slice (scratch included) is too short for its shape, or a segment has no gate row.
pub fn gemm(
    pool: &Pool,
    level: Level,
    m: usize,
    a: Rows<'_>,
    b: Packed<'_>,
    epilogue: &Epilogue<'_>,
    output: Output<'_>,
    scratch: &mut [u8],
) {
    check_rows(&a, m, b.k());
    driver::product(pool, level, m, &a, b, epilogue, output, scratch);
}

fn check_rows(a: &Rows<'_>, m: usize, k: usize) {
    assert!(a.stride >= k, "rows of A {} apart cannot hold {k} elements", a.stride);
    let needed = if m == 0 { 0 } else { (m - 1) * a.stride + k };
    assert!(a.data.len() >= needed, "A has {} elements, needs {needed}", a.data.len());
}

/// Bytes of scratch [`gemm_dynamic`] needs.
pub fn gemm_dynamic_scratch_bytes(
    level: Level,
    (m, n, k): (usize, usize, usize),
    kind: PanelKind,
    workers: usize,
) -> usize {
    let shape = BatchShape { pages: 1, m, n, k, turned: [false; 2], kind };
    batch::dynamic_scratch_bytes(level, &shape, workers)
}

/// [`gemm`] with a second operand `b` [n, k] that is not packed yet: it is packed into `scratch`
/// first, in parallel. Worth it from some tens of rows on.
///
/// # Panics
/// As [`gemm`], and if `b` is too short for `n` and `k`.
pub fn gemm_dynamic(
    pool: &Pool,
    level: Level,
    (m, n, k): (usize, usize, usize),
    a: Rows<'_>,
    b: Weights<'_>,
    kind: PanelKind,
    epilogue: &Epilogue<'_>,
    output: Output<'_>,
    scratch: &mut [u8],
) {
    check_rows(&a, m, k);
    let shape = BatchShape { pages: 1, m, n, k, turned: [false; 2], kind };
    batch::dynamic(pool, level, &shape, a, b, epilogue, output, scratch);
}
