//! What happens to a finished tile on its way out: bias, activation, residual and gate, rounding.
//!
//! Works on 16 columns at a time with the arithmetic of [`math`], so that a function gives the same
//! bits here and in a kernel of its own.

use super::super::caches::prefetch_later;
use super::super::math::lanes::{LANES, Portable, get, put};
#[cfg(target_arch = "x86_64")]
use super::super::math::lanes_x86;
use super::super::math::{self, Element, Lanes};
use super::super::simd::Level;
use super::{Activation, Combine, Epilogue, Gate, Output, Slice};
use half::bf16;

/// The output and everything the epilogue reads, as pointers that tasks share.
pub(crate) struct Finish<'a> {
    level: Level,
    bias: Option<&'a [f32]>,
    round_sums: bool,
    activation: Activation,
    round_activated: bool,
    residual: Option<(Pointer, usize)>,
    gate: Option<Gate<'a>>,
    out: Pointer,
    stride: usize,
}

/// Where elements lie; those of a residual are only read.
#[derive(Clone, Copy, PartialEq)]
enum Pointer {
    F32(*mut f32),
    Bf16(*mut bf16),
}

// SAFETY: tasks write disjoint tiles of the output, and read the residual at the same places only.
unsafe impl Sync for Finish<'_> {}

impl<'a> Finish<'a> {
    /// Checks all shapes of the epilogue for an `m`×`n` product.
    ///
    /// # Panics
    /// If a slice is too short or a segment has no gate row.
    pub(crate) fn new(
        level: Level,
        m: usize,
        n: usize,
        epilogue: &Epilogue<'a>,
        output: Output<'a>,
    ) -> Finish<'a> {
        let (out, len, stride) = match output {
            Output::F32 { data, stride } => (Pointer::F32(data.as_mut_ptr()), data.len(), stride),
            Output::Bf16 { data, stride } => (Pointer::Bf16(data.as_mut_ptr()), data.len(), stride),
        };
        check("output", m, n, stride, len);
        if let Some(bias) = epilogue.bias {
            assert!(bias.len() == n, "bias has {} elements for {n} columns", bias.len());
        }
        let mut gate = None;
        let residual = match epilogue.combine {
            Combine::Store => None,
            Combine::InPlace { gate: scale } => {
                gate = scale;
                Some((out, stride))
            }
            Combine::Residual { data, stride, gate: scale } => {
                gate = scale;
                check("residual", m, n, stride, data.len());
                let at = match data {
                    Slice::F32(data) => Pointer::F32(data.as_ptr().cast_mut()),
                    Slice::Bf16(data) => Pointer::Bf16(data.as_ptr().cast_mut()),
                };
                Some((at, stride))
            }
        };
        if let Some(gate) = gate {
            let last = match gate.segments {
                None => 0,
                Some(segments) => {
                    assert!(segments.len() >= m, "{} segments for {m} rows", segments.len());
                    segments[..m].iter().copied().max().unwrap_or(0) as usize
                }
            };
            // Rows of factors are only read, so they may lie over each other.
            let end = last.checked_mul(gate.stride).and_then(|start| start.checked_add(n));
            let len = gate.data.len();
            assert!(end.is_some_and(|end| end <= len), "gate has {len} elements, too few");
        }
        let Epilogue { bias, round_sums, activation, round_activated, .. } = *epilogue;
        Finish { level, bias, round_sums, activation, round_activated, residual, gate, out, stride }
    }

    /// Writes a part of `size` rows and columns of a tile whose rows are `width` floats apart to
    /// the output, at row and column `place`.
    ///
    /// # Safety
    /// The tile holds the rows, the place lies inside the output, and no other task touches it.
    pub(crate) unsafe fn tile(
        &self,
        tile: *const f32,
        width: usize,
        place: (usize, usize),
        size: (usize, usize),
    ) {
        // SAFETY: the caller's promise.
        unsafe { self.tile_apart(tile, width, place, size, 1) }
    }

    /// [`Finish::tile`] for rows of the output that are so many apart.
    ///
    /// # Safety
    /// As of [`Finish::tile`].
    pub(crate) unsafe fn tile_apart(
        &self,
        tile: *const f32,
        width: usize,
        place: (usize, usize),
        size: (usize, usize),
        apart: usize,
    ) {
        // SAFETY: the caller's promise; the level was clamped to the machine's.
        unsafe {
            match self.level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 | Level::Avx512Bf16 => {
                    tile_512(self, tile, width, place, size, apart);
                }
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => tile_256(self, tile, width, place, size, apart),
                _ => self.each::<Portable>(tile, width, place, size, apart),
            }
        }
    }

    /// Hints that a part of `size` rows and columns at `place` of the output is finished soon.
    pub(crate) fn ask(&self, (row, column): (usize, usize), (rows, columns): (usize, usize)) {
        let ask = |to: Pointer, stride: usize| {
            for at in (row..row + rows).map(|row| row * stride + column) {
                match to {
                    Pointer::F32(to) => prefetch_later(to.wrapping_add(at).cast(), columns * 4),
                    Pointer::Bf16(to) => prefetch_later(to.wrapping_add(at).cast(), columns * 2),
                }
            }
        };
        ask(self.out, self.stride);
        if let Some((old, stride)) = self.residual.filter(|(old, _)| *old != self.out) {
            ask(old, stride);
        }
    }

    #[inline(always)]
    unsafe fn each<V: Lanes>(
        &self,
        tile: *const f32,
        width: usize,
        (row, column): (usize, usize),
        (rows, columns): (usize, usize),
        apart: usize,
    ) {
        // SAFETY: `tile`'s contract; `read` and `write` touch `lanes` elements only.
        unsafe {
            for r in 0..rows {
                let i = row + r * apart;
                let gate = self.gate.map(|gate| {
                    let segment = gate.segments.map_or(0, |segments| segments[i] as usize);
                    gate.data.as_ptr().add(segment * gate.stride)
                });
                for first in (0..columns).step_by(LANES) {
                    let j = column + first;
                    let lanes = (columns - first).min(LANES);
                    let mut y = V::load(tile.add(r * width + first));
                    if let Some(bias) = self.bias {
                        y = y.add(read(bias.as_ptr().add(j), lanes));
                    }
                    if self.round_sums {
                        y = y.round_bf16();
                    }
                    match self.activation {
                        Activation::None => {}
                        Activation::GeluTanh => y = math::gelu_tanh(y),
                        Activation::Silu => y = math::silu(y),
                    }
                    if self.round_activated {
                        y = y.round_bf16();
                    }
                    let old = match self.residual {
                        None => None,
                        Some((Pointer::F32(at), stride)) => {
                            Some(read(at.add(i * stride + j), lanes))
                        }
                        Some((Pointer::Bf16(at), stride)) => {
                            Some(read(at.add(i * stride + j), lanes))
                        }
                    };
                    let gate: Option<V> = gate.map(|gate| read(gate.add(j), lanes));
                    y = match (old, gate) {
                        (Some(old), Some(gate)) => y.fma(gate, old),
                        (Some(old), None) => y.add(old),
                        (None, _) => y,
                    };
                    match self.out {
                        Pointer::F32(out) => write(out.add(i * self.stride + j), y, lanes),
                        Pointer::Bf16(out) => write(out.add(i * self.stride + j), y, lanes),
                    }
                }
            }
        }
    }
}

fn check(what: &str, rows: usize, columns: usize, stride: usize, len: usize) {
    assert!(stride >= columns, "{what}: rows {stride} apart cannot hold {columns} columns");
    let needed = if rows == 0 { 0 } else { (rows - 1) * stride + columns };
    assert!(len >= needed, "{what} has {len} elements, needs {needed}");
}

macro_rules! tile {
    ($(#[$note:meta])* $name:ident $lanes:ty) => {
        $(#[$note])*
        unsafe fn $name(
            finish: &Finish<'_>,
            tile: *const f32,
            width: usize,
            place: (usize, usize),
            size: (usize, usize),
            apart: usize,
        ) {
            // SAFETY: passed on.
            unsafe { finish.each::<$lanes>(tile, width, place, size, apart) }
        }
    };
}
tile! {
    /// # Safety
    /// As [`Finish::tile`], and the machine has AVX-512.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    tile_512 lanes_x86::Avx512
}
tile! {
    /// # Safety
    /// As [`Finish::tile`], and the machine has AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    tile_256 lanes_x86::Avx2
}

/// Lanes past `lanes` are 0.
///
/// # Safety
/// `from` holds `lanes` elements.
#[inline(always)]
unsafe fn read<V: Lanes, E: Element>(from: *const E, lanes: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        match lanes {
            LANES => E::load(from),
            _ => get(std::slice::from_raw_parts(from, lanes), 0),
        }
    }
}

/// # Safety
/// `to` holds `lanes` elements.
#[inline(always)]
unsafe fn write<V: Lanes, E: Element>(to: *mut E, value: V, lanes: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match lanes {
            LANES => E::store(value, to),
            _ => put(std::slice::from_raw_parts_mut(to, lanes), 0, value),
        }
    }
}
