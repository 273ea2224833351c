//! What only derivatives need: that of attention, and sums of segments.
//!
//! The weights of an attention are computed again from the logarithms of their sums. A cube owns a few rows,
//! queries or keys, and goes through the other side in blocks, so that every sum is formed by one thread in
//! one order. Differences of the bias's table have a thread each.

use super::attention::{Lines, PARTS, Scores, rows_of, score};
use super::element::{Memory, Slot, bits, load, size, store};
use super::math;
use super::rows::store_piece;
use cubecl::prelude::*;
use std::sync::Arc;

/// The derivative of an attention by its queries, or by its keys and values.
#[derive(Clone, Debug)]
pub(crate) struct Back {
    pub(crate) query: Lines,
    pub(crate) key: Lines,
    pub(crate) value: Lines,
    /// What the attention gave, and the derivative by that.
    pub(crate) given: Lines,
    pub(crate) slope: Lines,
    /// Logarithms of the sums.
    pub(crate) sums: Slot,
    pub(crate) scores: Scores,
    pub(crate) heads: usize,
    pub(crate) width: usize,
    /// Rows of a cube, and of a block of the other side.
    pub(crate) tile: usize,
    /// By keys and values.
    pub(crate) by_keys: bool,
    /// The derivative by queries, or by keys and by values.
    pub(crate) results: [Lines; 2],
    /// Which numbers of the launch say how many queries, keys and pages there are.
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) pages: usize,
}

impl Back {
    /// Floats of shared memory.
    pub(crate) fn floats(tile: usize, width: usize) -> usize {
        4 * tile * (width + 1) + 2 * tile * (tile + 1) + tile * PARTS
    }

    /// Channels of a thread.
    fn own(&self) -> usize {
        self.width / PARTS
    }

    /// Neighbouring channels of a thread.
    fn run(&self) -> usize {
        if self.width.is_multiple_of(2 * PARTS) { 2 } else { 1 }
    }
}

/// The kernel. Cubes go through the rows, then the heads, then the pages.
#[cube]
pub(crate) fn back(memory: &mut Memory, #[comptime] b: Arc<Back>) {
    let all_queries = size(memory, comptime!(b.queries)) as usize;
    let all_keys = size(memory, comptime!(b.keys)) as usize;
    let pages = size(memory, comptime!(b.pages)) as usize;
    let by_keys = comptime!(b.by_keys);
    let tile = comptime!(b.tile);
    let width = comptime!(b.width);
    let pitch = comptime!(b.width + 1);
    let wide = comptime!(b.tile + 1);
    let all_own = if by_keys { all_keys } else { all_queries };
    let all_other = if by_keys { all_queries } else { all_keys };
    let across = all_own.div_ceil(tile);
    let cube = CUBE_POS as usize;
    let first = cube % across * tile;
    let head = cube / across % comptime!(b.heads);
    let page = cube / across / comptime!(b.heads);
    // There may be more cubes than work.
    let there = page < pages;
    let own = select(there, all_own, 0usize);
    let other = select(there, all_other, 0usize);
    let row = UNIT_POS as usize / PARTS;
    let part = UNIT_POS as usize % PARTS;
    let mut mine = SharedMemory::<f32>::new(comptime!(b.tile * (b.width + 1)));
    let mut mine_too = SharedMemory::<f32>::new(comptime!(b.tile * (b.width + 1)));
    let mut theirs = SharedMemory::<f32>::new(comptime!(b.tile * (b.width + 1)));
    let mut theirs_too = SharedMemory::<f32>::new(comptime!(b.tile * (b.width + 1)));
    let mut weights = SharedMemory::<f32>::new(comptime!(b.tile * (b.tile + 1)));
    let mut slopes = SharedMemory::<f32>::new(comptime!(b.tile * (b.tile + 1)));
    let mut parts = SharedMemory::<f32>::new(comptime!(b.tile * PARTS));
    let before = page * all_own;
    let lines = comptime!(if b.by_keys { [b.key, b.value] } else { [b.query, b.slope] });
    let other_lines = comptime!(if b.by_keys { [b.query, b.slope] } else { [b.key, b.value] });
    rows_of(memory, &mut mine, comptime!(lines[0]), tile, width, pitch, before, first, own, head);
    rows_of(
        memory,
        &mut mine_too,
        comptime!(lines[1]),
        tile,
        width,
        pitch,
        before,
        first,
        own,
        head,
    );
    let mut by_first = Array::<f32>::new(comptime!(b.own()));
    let mut by_second = Array::<f32>::new(comptime!(b.own()));
    #[unroll]
    for c in 0..comptime!(b.own()) {
        by_first[c] = 0.0f32;
        by_second[c] = 0.0f32;
    }
    for block in 0..all_other.div_ceil(tile) {
        let from = block * tile;
        let behind = page * all_other;
        rows_of(
            memory,
            &mut theirs,
            comptime!(other_lines[0]),
            tile,
            width,
            pitch,
            behind,
            from,
            other,
            head,
        );
        rows_of(
            memory,
            &mut theirs_too,
            comptime!(other_lines[1]),
            tile,
            width,
            pitch,
            behind,
            from,
            other,
            head,
        );
        sync_cube();
        // Of the queries of both sides: the product of what was given with its slope.
        let query_first = if by_keys { from } else { first };
        let queries = if by_keys { other } else { own };
        let mut sum = 0.0f32;
        if query_first + row < queries {
            let place =
                (page * all_queries + query_first + row) * comptime!(b.given.1) + head * width;
            for channel in 0..comptime!(b.own()) {
                let at = channel * PARTS + part;
                let slope =
                    if by_keys { theirs_too[row * pitch + at] } else { mine_too[row * pitch + at] };
                sum += slope * load::<f32>(memory, comptime!(b.given.0), place + at);
            }
        }
        parts[row * PARTS + part] = sum;
        sync_cube();
        #[unroll]
        for n in 0..comptime!(b.tile / PARTS) {
            let column = part + comptime!(n * PARTS);
            let mut product = 0.0f32;
            let mut change = 0.0f32;
            for channel in 0..width {
                product += mine[row * pitch + channel] * theirs[column * pitch + channel];
                change += mine_too[row * pitch + channel] * theirs_too[column * pitch + channel];
            }
            let mut weight = 0.0f32;
            let mut slope = 0.0f32;
            if first + row < own && from + column < other {
                let i = if by_keys { from + column } else { first + row };
                let j = if by_keys { first + row } else { from + column };
                let inside = if by_keys { column } else { row };
                let mut given = 0.0f32;
                #[unroll]
                for p in 0..comptime!(PARTS) {
                    given += parts[inside * PARTS + p];
                }
                let scores = comptime!(b.scores);
                let found = score(memory, scores, head, i, j, all_queries, all_keys, product);
                let place = (page * comptime!(b.heads) + head) * all_queries + i;
                weight = math::exponential(found - load::<f32>(memory, comptime!(b.sums), place));
                slope = weight * (change - given);
            }
            weights[row * wide + column] = weight;
            slopes[row * wide + column] = slope;
        }
        sync_cube();
        for column in 0..tile {
            let weight = weights[row * wide + column];
            let slope = slopes[row * wide + column];
            #[unroll]
            for c in 0..comptime!(b.own()) {
                let channel = part * comptime!(b.run())
                    + comptime!(c / b.run() * PARTS * b.run() + c % b.run());
                by_first[c] += slope * theirs[column * pitch + channel];
                if by_keys {
                    by_second[c] += weight * theirs_too[column * pitch + channel];
                }
            }
        }
        sync_cube();
    }
    if first + row < own {
        let scale = f32::new(comptime!(b.scores.scale));
        let i = page * all_own + first + row;
        #[unroll]
        for n in 0..comptime!(b.own() / b.run()) {
            let channel = part * comptime!(b.run()) + comptime!(n * PARTS * b.run());
            let mut values = Registry::<usize, f32>::new();
            let mut others = Registry::<usize, f32>::new();
            #[unroll]
            for e in 0..comptime!(b.run()) {
                values.insert(e, by_first[comptime!(n * b.run() + e)] * scale);
                others.insert(e, by_second[comptime!(n * b.run() + e)]);
            }
            let place = i * comptime!(b.results[0].1) + head * width + channel;
            store_piece::<f32>(
                memory,
                &values,
                comptime!(b.results[0].0),
                place,
                comptime!(b.run()),
            );
            if by_keys {
                let place = i * comptime!(b.results[1].1) + head * width + channel;
                store_piece::<f32>(
                    memory,
                    &others,
                    comptime!(b.results[1].0),
                    place,
                    comptime!(b.run()),
                );
            }
        }
    }
}

/// The derivative of an attention by the table of its bias: a thread for every difference of a head.
#[derive(Clone, Debug)]
pub(crate) struct BackBias {
    pub(crate) back: Back,
    pub(crate) result: Slot,
    /// Which number of the launch says how many differences all heads have.
    pub(crate) count: usize,
}

#[cube]
pub(crate) fn back_bias(
    memory: &mut Memory,
    #[comptime] bias: Arc<BackBias>,
    #[comptime] threads: u32,
) {
    let queries = size(memory, comptime!(bias.back.queries)) as usize;
    let keys = size(memory, comptime!(bias.back.keys)) as usize;
    let pages = size(memory, comptime!(bias.back.pages)) as usize;
    let width = comptime!(bias.back.width);
    let at = CUBE_POS as usize * comptime!(threads as usize) + UNIT_POS as usize;
    if at < size(memory, comptime!(bias.count)) as usize {
        let head = at / (queries + keys - 1);
        let difference = at % (queries + keys - 1);
        let mut sum = 0.0f32;
        for page in 0..pages {
            for i in 0..queries {
                let moved = i + difference;
                if moved + 1 >= queries && moved + 1 < queries + keys {
                    let j = moved + 1 - queries;
                    let mut product = 0.0f32;
                    let mut change = 0.0f32;
                    let own = page * queries + i;
                    let other = page * keys + j;
                    for channel in 0..width {
                        let c = head * width + channel;
                        let slope = line(memory, comptime!(bias.back.slope), own, c);
                        product += line(memory, comptime!(bias.back.query), own, c)
                            * line(memory, comptime!(bias.back.key), other, c);
                        change += slope
                            * (line(memory, comptime!(bias.back.value), other, c)
                                - line(memory, comptime!(bias.back.given), own, c));
                    }
                    let scores = comptime!(bias.back.scores);
                    let found = score(memory, scores, head, i, j, queries, keys, product);
                    let place = (page * comptime!(bias.back.heads) + head) * queries + i;
                    let sums = load::<f32>(memory, comptime!(bias.back.sums), place);
                    sum += math::exponential(found - sums) * change;
                }
            }
        }
        store::<f32>(memory, comptime!(bias.result), at, sum);
    }
}

/// A number of a row.
#[cube]
fn line(memory: &Memory, #[comptime] lines: Lines, row: usize, column: usize) -> f32 {
    load::<f32>(memory, comptime!(lines.0), row * comptime!(lines.1) + column)
}

/// Sums of the rows of each segment: a thread for every sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Segments {
    pub(crate) values: Slot,
    pub(crate) segments: Slot,
    pub(crate) result: Slot,
    pub(crate) width: usize,
    /// Which numbers of the launch say how many rows and how many sums there are.
    pub(crate) rows: usize,
    pub(crate) count: usize,
}

#[cube]
pub(crate) fn segments(memory: &mut Memory, #[comptime] s: Segments, #[comptime] threads: u32) {
    let rows = size(memory, comptime!(s.rows)) as usize;
    let at = CUBE_POS as usize * comptime!(threads as usize) + UNIT_POS as usize;
    if at < size(memory, comptime!(s.count)) as usize {
        let segment = (at / comptime!(s.width)) as u32;
        let j = at % comptime!(s.width);
        let mut sum = 0.0f32;
        // What additions have lost so far.
        let mut lost = 0.0f32;
        for i in 0..rows {
            if bits(memory, comptime!(s.segments), i) == segment {
                let value = load::<f32>(memory, comptime!(s.values), i * comptime!(s.width) + j);
                let next = value - lost;
                let all = sum + next;
                lost = (all - sum) - next;
                sum = all;
            }
        }
        store::<f32>(memory, comptime!(s.result), at, sum);
    }
}
