//! Attention in blocks of keys with a running softmax: scores are never in memory.
//!
//! A cube has a few queries of a head, and four threads for each of them. They share out the keys of a block
//! for the scores, and the channels for the sums. All is f32 whatever it is stored as.

use super::element::{Memory, Slot, element, load, quad, size, store};
use super::math;
use super::matrices::{APART, SUMS_APART};
use super::number::Number;
use super::rows::store_piece;
use cubecl::prelude::*;
use std::sync::Arc;

/// Threads of a query.
pub(crate) const PARTS: usize = 4;

/// Queries of a cube, and keys of a block, where units for matrices multiply.
pub(crate) const UNITS_TILE: usize = 32;

/// Rows of an operand: where they are, and elements from one to the next.
pub(crate) type Lines = (Slot, usize);

/// What makes a score of the product of a query and a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scores {
    pub(crate) scale: f32,
    /// What those of the last key are larger by.
    pub(crate) last: f32,
    /// Table of a relative bias.
    pub(crate) bias: Option<Slot>,
}

/// An attention.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) query: Lines,
    pub(crate) key: Lines,
    pub(crate) value: Lines,
    pub(crate) result: Lines,
    pub(crate) scores: Scores,
    /// Where the logarithms of the sums go.
    pub(crate) sums: Option<Slot>,
    pub(crate) heads: usize,
    /// Channels of a head.
    pub(crate) width: usize,
    /// Queries of a cube, and keys of a block.
    pub(crate) tile: usize,
    /// Whether units for matrices multiply.
    pub(crate) units: bool,
    /// Which numbers of the launch say how many queries, keys and pages there are.
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) pages: usize,
}

impl Attention {
    /// Floats of shared memory.
    pub(crate) fn floats(tile: usize, width: usize) -> usize {
        2 * tile * (width + 1) + tile * (tile + 1)
    }

    /// Bytes of shared memory where units for matrices multiply.
    pub(crate) fn bytes_of_units(width: usize) -> usize {
        let halves = 2 * UNITS_TILE * (width + APART) + UNITS_TILE * (UNITS_TILE + APART);
        let sums = UNITS_TILE * (width + SUMS_APART) + UNITS_TILE * (UNITS_TILE + SUMS_APART);
        2 * halves + 4 * sums
    }

    /// Channels of a thread.
    pub(crate) fn own(&self) -> usize {
        self.width / PARTS
    }

    /// Neighbouring channels of a thread.
    pub(crate) fn run(&self) -> usize {
        if self.width.is_multiple_of(2 * PARTS) { 2 } else { 1 }
    }
}

/// The kernel. Cubes go through the queries, then the heads, then the pages.
#[cube]
pub(crate) fn attention(memory: &mut Memory, #[comptime] a: Arc<Attention>) {
    let all_queries = size(memory, comptime!(a.queries)) as usize;
    let all_keys = size(memory, comptime!(a.keys)) as usize;
    let pages = size(memory, comptime!(a.pages)) as usize;
    let tile = comptime!(a.tile);
    let width = comptime!(a.width);
    let pitch = comptime!(a.width + 1);
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
    let mut query = SharedMemory::<f32>::new(comptime!(a.tile * (a.width + 1)));
    let mut other = SharedMemory::<f32>::new(comptime!(a.tile * (a.width + 1)));
    let mut weights = SharedMemory::<f32>::new(comptime!(a.tile * (a.tile + 1)));
    let before = page * all_queries;
    rows_of(
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
    let mut sums = Array::<f32>::new(comptime!(a.own()));
    #[unroll]
    for c in 0..comptime!(a.own()) {
        sums[c] = 0.0f32;
    }
    let mut largest = <f32 as Number>::least(memory);
    let mut total = 0.0f32;
    let i = first + row;
    for block in 0..all_keys.div_ceil(tile) {
        let from = block * tile;
        let before = page * all_keys;
        rows_of(memory, &mut other, comptime!(a.key), tile, width, pitch, before, from, keys, head);
        sync_cube();
        #[unroll]
        for n in 0..comptime!(a.tile / PARTS) {
            let key = part + comptime!(n * PARTS);
            let mut sum = 0.0f32;
            for channel in 0..width {
                sum += query[row * pitch + channel] * other[key * pitch + channel];
            }
            let mut found = <f32 as Number>::least(memory);
            if i < queries && from + key < keys {
                let scores = comptime!(a.scores);
                found = score(memory, scores, head, i, from + key, all_queries, all_keys, sum);
            }
            weights[row * comptime!(a.tile + 1) + key] = found;
        }
        sync_cube();
        let mut most = largest;
        for key in 0..tile {
            most = math::larger(most, weights[row * comptime!(a.tile + 1) + key]);
        }
        // A query of nothing but −∞ has no weights.
        let base = select(most == <f32 as Number>::least(memory), 0.0f32, most);
        let factor = math::exponential(largest - base);
        largest = most;
        sync_cube();
        #[unroll]
        for n in 0..comptime!(a.tile / PARTS) {
            let at = row * comptime!(a.tile + 1) + part + comptime!(n * PARTS);
            weights[at] = math::exponential(weights[at] - base);
        }
        rows_of(
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
        total *= factor;
        #[unroll]
        for c in 0..comptime!(a.own()) {
            sums[c] *= factor;
        }
        for key in 0..tile {
            let weight = weights[row * comptime!(a.tile + 1) + key];
            total += weight;
            #[unroll]
            for c in 0..comptime!(a.own()) {
                let channel = part * comptime!(a.run())
                    + comptime!(c / a.run() * PARTS * a.run() + c % a.run());
                sums[c] += weight * other[key * pitch + channel];
            }
        }
        sync_cube();
    }
    if i < queries {
        given(memory, a.clone(), &sums, page, head, i, part, all_queries, largest, total);
    }
}

/// Stores the result of query `i` from the sums of a thread, and the logarithm of the sum of its weights.
#[cube]
pub(crate) fn given(
    memory: &mut Memory,
    #[comptime] a: Arc<Attention>,
    sums: &Array<f32>,
    page: usize,
    head: usize,
    i: usize,
    part: usize,
    all_queries: usize,
    largest: f32,
    total: f32,
) {
    // It is at least 1 but where there are no weights.
    let all = math::larger(total, 1.0f32);
    match comptime!(a.sums) {
        Some(slot) => {
            if part == 0 {
                let place = (page * comptime!(a.heads) + head) * all_queries + i;
                store::<f32>(memory, slot, place, largest + math::logarithm(all));
            }
        }
        None => {}
    }
    let place = (page * all_queries + i) * comptime!(a.result.1) + head * comptime!(a.width);
    #[unroll]
    for n in 0..comptime!(a.own() / a.run()) {
        let mut values = Registry::<usize, f32>::new();
        #[unroll]
        for e in 0..comptime!(a.run()) {
            values.insert(e, sums[comptime!(n * a.run() + e)] / all);
        }
        let channel = part * comptime!(a.run()) + comptime!(n * PARTS * a.run());
        store_piece::<f32>(
            memory,
            &values,
            comptime!(a.result.0),
            place + channel,
            comptime!(a.run()),
        );
    }
}

/// Has the threads of a cube load rows of a head from `from` on, zeros behind the last; lines of shared memory are
/// `pitch` numbers apart.
#[cube]
pub(crate) fn rows_of<E: Numeric>(
    memory: &Memory,
    to: &mut SharedMemory<E>,
    #[comptime] lines: Lines,
    #[comptime] tile: usize,
    #[comptime] width: usize,
    #[comptime] pitch: usize,
    before: usize,
    from: usize,
    count: usize,
    head: usize,
) {
    let slot = comptime!(lines.0);
    let each = comptime!(if slot.wide { slot.vector() } else { 1 });
    let all = comptime!(tile * width / each);
    let threads = comptime!(tile * PARTS);
    for turn in 0..comptime!((tile * width / each).div_ceil(tile * PARTS)) {
        let at = turn * threads + UNIT_POS as usize;
        if at < all {
            let line = at / comptime!(width / each);
            let channel = at % comptime!(width / each) * each;
            let row = from + line;
            let into = line * pitch + channel;
            let place = (before + row) * comptime!(lines.1) + head * width + channel;
            if comptime!(slot.wide) {
                if row < count {
                    let numbers = quad(memory, slot, place);
                    #[unroll]
                    for e in 0..each {
                        to[into + e] = E::cast_from(element::<f32>(numbers, slot, e));
                    }
                } else {
                    #[unroll]
                    for e in 0..each {
                        to[into + e] = E::from_int(0);
                    }
                }
            } else {
                let mut value = 0.0f32;
                if row < count {
                    value = load::<f32>(memory, slot, place);
                }
                to[into] = E::cast_from(value);
            }
        }
    }
}

/// The score of a query and a key from their product.
#[cube]
pub(crate) fn score(
    memory: &Memory,
    #[comptime] scores: Scores,
    head: usize,
    i: usize,
    j: usize,
    queries: usize,
    keys: usize,
    product: f32,
) -> f32 {
    let scaled = product * f32::new(comptime!(scores.scale));
    let counted = if comptime!(scores.last != 0.0) {
        scaled + select(j + 1 == keys, f32::new(comptime!(scores.last)), 0.0f32)
    } else {
        scaled
    };
    match comptime!(scores.bias) {
        Some(table) => {
            let place = head * (queries + keys - 1) + j + queries - 1 - i;
            counted + load::<f32>(memory, table, place)
        }
        None => counted,
    }
}
