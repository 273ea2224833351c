//! Products and attention of half types on units that multiply matrices, where a device has such for planes of 32
//! threads: a plane multiplies squares of 16 by 16 with sums in f32.
//!
//! Tiles, sides and what follows the sums are those of the kernels without such units. Sums of a tile come out through shared
//! memory, since a device decides for itself which thread has which of them.

use super::attention::{Attention, PARTS, given, rows_of, score};
use super::element::{Memory, size};
use super::math;
use super::number::Number;
use super::product::{OWN, Product, fetched, finished};
use anyid_ir::DType;
use cubecl::cmma::{self, Matrix, MatrixIdent, MatrixLayout};
use cubecl::prelude::*;
use std::sync::Arc;

/// Threads of a plane.
const PLANE: usize = 32;
/// Rows, columns and summands of a square.
pub(crate) const SQUARE: usize = 16;
/// Numbers between one line in shared memory and the next, so that lines are in different banks: they begin at multiples
/// of 16 bytes, and squares at multiples of 32.
pub(crate) const APART: usize = 8;
/// The same for sums.
pub(crate) const SUMS_APART: usize = 4;
/// How shared memory begins.
const ALIGNED: usize = 32;

/// The types of which a device multiplies squares with sums in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Units {
    pub(crate) f16: bool,
    pub(crate) bf16: bool,
}

impl Units {
    /// Whether numbers of a type are multiplied so.
    pub(crate) fn has(self, dtype: DType) -> bool {
        match dtype {
            DType::F16 => self.f16,
            DType::Bf16 => self.bf16,
            _ => false,
        }
    }

    /// Those that a device reports.
    pub(crate) fn of(device: &cubecl::ir::DeviceProperties) -> Self {
        use cubecl::ir::{ElemType, FloatKind};
        let hardware = &device.hardware;
        let planes = [hardware.plane_size_min, hardware.plane_size_max];
        let has = |kind: FloatKind| {
            let [own, sums] = [kind, FloatKind::F32].map(|kind| ElemType::Float(kind).into());
            let square = |config: &cubecl::ir::features::MmaConfig| {
                let sizes = [config.m, config.n, config.k];
                (config.a_type, config.b_type, config.cd_type) == (own, own, sums)
                    && sizes == [SQUARE as u32; 3]
            };
            planes == [PLANE as u32; 2] && device.features.matmul.cmma.iter().any(square)
        };
        Self { f16: has(FloatKind::F16), bf16: has(FloatKind::BF16) }
    }
}

/// A product. A plane has 16 rows and 32 columns of the tile.
#[cube]
pub(crate) fn product<E: Float>(memory: &mut Memory, #[comptime] product: Arc<Product>) {
    let all_rows = size(memory, comptime!(product.rows)) as usize;
    let pages = size(memory, comptime!(product.pages)) as usize;
    let n = comptime!(product.n);
    let tile = comptime!(product.lines());
    let depth = comptime!(product.tile.depth);
    let across = comptime!(product.n.div_ceil(product.lines()));
    let down = all_rows.div_ceil(tile);
    let cube = CUBE_POS as usize;
    let column = cube % across * tile;
    let row = cube / across % down * tile;
    let page = cube / across / down;
    // There may be more cubes than work.
    let m = select(page < pages, all_rows, 0usize);
    let pitch = comptime!(product.pitch());
    let wide = comptime!(product.lines() + SUMS_APART);
    let mut left =
        SharedMemory::<E>::new_aligned(comptime!(product.lines() * product.pitch()), ALIGNED);
    let mut right =
        SharedMemory::<E>::new_aligned(comptime!(product.lines() * product.pitch()), ALIGNED);
    let mut sums = SharedMemory::<f32>::new_aligned(
        comptime!(product.lines() * (product.lines() + SUMS_APART)),
        ALIGNED,
    );
    let unit = UNIT_POS as usize;
    let plane = unit / PLANE;
    let planes_across = comptime!(product.lines() / (2 * SQUARE));
    let own_row = plane / planes_across * SQUARE;
    let own_column = plane % planes_across * comptime!(2 * SQUARE);
    let first = zeros();
    let second = zeros();
    for turn in 0..comptime!(product.k.div_ceil(product.tile.depth)) {
        let from = turn * depth;
        fetched::<E>(memory, &mut left, product.clone(), false, page, row, m, from);
        fetched::<E>(memory, &mut right, product.clone(), true, page, column, n.runtime(), from);
        sync_cube();
        #[unroll]
        for step in 0..comptime!(product.tile.depth / SQUARE) {
            let at = comptime!(step * SQUARE);
            let rows = left_square::<E>(&left, own_row * pitch + at, pitch);
            let columns = right_square::<E>(&right, own_column * pitch + at, pitch);
            cmma::execute::<E, E, f32, f32>(&rows, &columns, &first, &first);
            let behind = (own_column + SQUARE) * pitch + at;
            let columns = right_square::<E>(&right, behind, pitch);
            cmma::execute::<E, E, f32, f32>(&rows, &columns, &second, &second);
        }
        sync_cube();
    }
    let place = own_row * wide + own_column;
    kept(&mut sums, place, &first, wide);
    kept(&mut sums, place + SQUARE, &second, wide);
    sync_cube();
    let pieces = comptime!(product.lines() / OWN);
    let threads = comptime!(product.threads() as usize);
    #[unroll]
    for turn in 0..comptime!(product.lines() * product.lines() / OWN / product.threads() as usize) {
        let at = turn * threads + unit;
        let r = at / pieces;
        let c = at % pieces * OWN;
        let mut own = Registry::<usize, f32>::new();
        #[unroll]
        for e in 0..comptime!(OWN) {
            own.insert(e, sums[r * wide + c + e]);
        }
        let i = row + r;
        if i < m {
            finished(memory, product.clone(), &own, page * m + i, column + c);
        }
    }
}

/// An attention. A plane has the products of 16 of 32 queries and of 16 of 32 keys, and of the results of 16 queries every
/// second square. Weights are rounded to the type of the values before they are multiplied by them.
#[cube]
pub(crate) fn attention<E: Float>(memory: &mut Memory, #[comptime] a: Arc<Attention>) {
    let all_queries = size(memory, comptime!(a.queries)) as usize;
    let all_keys = size(memory, comptime!(a.keys)) as usize;
    let pages = size(memory, comptime!(a.pages)) as usize;
    let tile = comptime!(a.tile);
    let width = comptime!(a.width);
    let pitch = comptime!(a.width + APART);
    let across = all_queries.div_ceil(tile);
    let cube = CUBE_POS as usize;
    let first = cube % across * tile;
    let head = cube / across % comptime!(a.heads);
    let page = cube / across / comptime!(a.heads);
    // There may be more cubes than work.
    let queries = select(page < pages, all_queries, 0usize);
    let keys = select(page < pages, all_keys, 0usize);
    let unit = UNIT_POS as usize;
    let row = unit / PARTS;
    let part = unit % PARTS;
    let plane = unit / PLANE;
    let planes_across = comptime!(a.tile / SQUARE);
    let own_row = plane / planes_across * SQUARE;
    let own_column = plane % planes_across;
    let mut query = SharedMemory::<E>::new_aligned(comptime!(a.tile * (a.width + APART)), ALIGNED);
    let mut other = SharedMemory::<E>::new_aligned(comptime!(a.tile * (a.width + APART)), ALIGNED);
    let mut weights = SharedMemory::<E>::new_aligned(comptime!(a.tile * (a.tile + APART)), ALIGNED);
    let mut scores =
        SharedMemory::<f32>::new_aligned(comptime!(a.tile * (a.tile + SUMS_APART)), ALIGNED);
    let mut results =
        SharedMemory::<f32>::new_aligned(comptime!(a.tile * (a.width + SUMS_APART)), ALIGNED);
    let scores_pitch = comptime!(a.tile + SUMS_APART);
    let weights_pitch = comptime!(a.tile + APART);
    let results_pitch = comptime!(a.width + SUMS_APART);
    let before = page * all_queries;
    rows_of::<E>(
        memory,
        &mut query,
        comptime!(a.query),
        tile,
        width,
        pitch,
        before,
        first,
        queries,
        head,
    );
    #[unroll]
    for c in 0..comptime!(a.own()) {
        results[row * results_pitch + part * comptime!(a.own()) + c] = 0.0f32;
    }
    let mut largest = <f32 as Number>::least(memory);
    let mut total = 0.0f32;
    let i = first + row;
    for block in 0..all_keys.div_ceil(tile) {
        let from = block * tile;
        let before = page * all_keys;
        rows_of::<E>(
            memory,
            &mut other,
            comptime!(a.key),
            tile,
            width,
            pitch,
            before,
            from,
            keys,
            head,
        );
        sync_cube();
        let products = zeros();
        #[unroll]
        for step in 0..comptime!(a.width / SQUARE) {
            let at = comptime!(step * SQUARE);
            let left = left_square::<E>(&query, own_row * pitch + at, pitch);
            let right = right_square::<E>(&other, own_column * SQUARE * pitch + at, pitch);
            cmma::execute::<E, E, f32, f32>(&left, &right, &products, &products);
        }
        let place = own_row * scores_pitch + own_column * SQUARE;
        kept(&mut scores, place, &products, scores_pitch);
        sync_cube();
        #[unroll]
        for n in 0..comptime!(a.tile / PARTS) {
            let key = part + comptime!(n * PARTS);
            let mut found = <f32 as Number>::least(memory);
            if i < queries && from + key < keys {
                let sum = scores[row * scores_pitch + key];
                let made = comptime!(a.scores);
                found = score(memory, made, head, i, from + key, all_queries, all_keys, sum);
            }
            scores[row * scores_pitch + key] = found;
        }
        sync_cube();
        let mut most = largest;
        for key in 0..tile {
            most = math::larger(most, scores[row * scores_pitch + key]);
        }
        // A query of nothing but −∞ has no weights.
        let base = select(most == <f32 as Number>::least(memory), 0.0f32, most);
        let factor = math::exponential(largest - base);
        largest = most;
        sync_cube();
        #[unroll]
        for n in 0..comptime!(a.tile / PARTS) {
            let key = part + comptime!(n * PARTS);
            let weight = math::exponential(scores[row * scores_pitch + key] - base);
            scores[row * scores_pitch + key] = weight;
            weights[row * weights_pitch + key] = E::cast_from(weight);
        }
        #[unroll]
        for c in 0..comptime!(a.own()) {
            results[row * results_pitch + part * comptime!(a.own()) + c] *= factor;
        }
        rows_of::<E>(
            memory,
            &mut other,
            comptime!(a.value),
            tile,
            width,
            pitch,
            before,
            from,
            keys,
            head,
        );
        sync_cube();
        #[unroll]
        for n in 0..comptime!((a.width / SQUARE).div_ceil(a.tile / SQUARE)) {
            let square = own_column + comptime!(n * (a.tile / SQUARE));
            if square < comptime!(a.width / SQUARE) {
                let place = own_row * results_pitch + square * SQUARE;
                let sums = started(&results, place, results_pitch);
                #[unroll]
                for step in 0..comptime!(a.tile / SQUARE) {
                    let at = comptime!(step * SQUARE);
                    let left =
                        left_square::<E>(&weights, own_row * weights_pitch + at, weights_pitch);
                    let right = down_square::<E>(&other, at * pitch + square * SQUARE, pitch);
                    cmma::execute::<E, E, f32, f32>(&left, &right, &sums, &sums);
                }
                kept(&mut results, place, &sums, results_pitch);
            }
        }
        total *= factor;
        for key in 0..tile {
            total += scores[row * scores_pitch + key];
        }
        sync_cube();
    }
    let mut sums = Array::<f32>::new(comptime!(a.own()));
    #[unroll]
    for c in 0..comptime!(a.own()) {
        let channel =
            part * comptime!(a.run()) + comptime!(c / a.run() * PARTS * a.run() + c % a.run());
        sums[c] = results[row * results_pitch + channel];
    }
    if i < queries {
        given(memory, a.clone(), &sums, page, head, i, part, all_queries, largest, total);
    }
}

/// A square of nothing.
#[cube]
fn zeros() -> Matrix<f32> {
    Matrix::<f32>::from_value(
        MatrixIdent::Accumulator,
        16usize,
        16usize,
        16usize,
        MatrixLayout::Undefined,
        0.0f32,
    )
}

/// A square of sums in rows.
#[cube]
fn started(from: &SharedMemory<f32>, at: usize, #[comptime] pitch: usize) -> Matrix<f32> {
    let square = zeros();
    let lines = from.slice(at, at + comptime!(15 * pitch + 16));
    cmma::load_with_layout(&square, &lines, comptime!(pitch as u32), MatrixLayout::RowMajor);
    square
}

/// Writes a square of sums in rows.
#[cube]
fn kept(to: &mut SharedMemory<f32>, at: usize, square: &Matrix<f32>, #[comptime] pitch: usize) {
    let mut lines = to.slice_mut(at, at + comptime!(15 * pitch + 16));
    cmma::store(&mut lines, square, comptime!(pitch as u32), MatrixLayout::RowMajor);
}

/// A square of a left side, whose rows are lines.
#[cube]
fn left_square<E: Float>(from: &SharedMemory<E>, at: usize, #[comptime] pitch: usize) -> Matrix<E> {
    Matrix::<E>::from_slice(
        MatrixIdent::A,
        16usize,
        16usize,
        16usize,
        MatrixLayout::RowMajor,
        &from.slice(at, at + comptime!(15 * pitch + 16)),
        comptime!(pitch as u32),
    )
}

/// A square of a right side, whose columns are lines.
#[cube]
fn right_square<E: Float>(
    from: &SharedMemory<E>,
    at: usize,
    #[comptime] pitch: usize,
) -> Matrix<E> {
    Matrix::<E>::from_slice(
        MatrixIdent::B,
        16usize,
        16usize,
        16usize,
        MatrixLayout::ColMajor,
        &from.slice(at, at + comptime!(15 * pitch + 16)),
        comptime!(pitch as u32),
    )
}

/// A square of a right side, whose rows are lines.
#[cube]
fn down_square<E: Float>(from: &SharedMemory<E>, at: usize, #[comptime] pitch: usize) -> Matrix<E> {
    Matrix::<E>::from_slice(
        MatrixIdent::B,
        16usize,
        16usize,
        16usize,
        MatrixLayout::RowMajor,
        &from.slice(at, at + comptime!(15 * pitch + 16)),
        comptime!(pitch as u32),
    )
}
