//! Elements that are moved as they are, tensors that are made of numbers alone, and the look for indices
//! that name no row.
//!
//! A thread makes a whole vector of the result where rows are made of such, a whole word where words lie evenly,
//! else one element. What kind of number a moved element holds does not matter.

use super::element::{Memory, Quad, Slot, bits, load, picked, put, put_quad, put_word, quad, size};
use super::math;
use super::number::Number;
use cubecl::prelude::*;
use std::sync::Arc;

/// A result that threads make in order of its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flat {
    pub(crate) result: Slot,
    /// Which number of the launch says how many threads have work.
    pub(crate) count: usize,
}

impl Flat {
    /// Elements of a thread.
    pub(crate) fn piece(&self) -> usize {
        match self.result {
            slot if slot.wide => slot.vector(),
            slot if slot.aligned => slot.pack(),
            _ => 1,
        }
    }
}

/// A part of every line of a copy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CopyPart {
    /// Where it comes from; zeros without it.
    pub(crate) from: Option<Slot>,
    /// Elements in front of the first.
    pub(crate) offset: usize,
    /// Size, and distance of neighbours, of each axis.
    pub(crate) axes: Vec<(usize, usize)>,
    /// First element in a line, and their number.
    pub(crate) first: usize,
    pub(crate) length: usize,
}

impl CopyPart {
    /// Whether it is made of runs of `each` neighbours that begin at multiples of as many elements, in what is
    /// copied and in the line.
    pub(crate) fn is_wide(&self, each: usize) -> bool {
        let whole = |elements: usize| elements.is_multiple_of(each);
        let inside = whole(self.first) && whole(self.length);
        let Some(((size, 1), outer)) = self.axes.split_last() else { return false };
        inside && whole(self.offset) && whole(*size) && outer.iter().all(|(_, step)| whole(*step))
    }
}

/// A copy of strided parts.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) flat: Flat,
    pub(crate) parts: Vec<CopyPart>,
    /// Elements of a line.
    pub(crate) line: usize,
}

/// Rows of a table picked by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Gather {
    pub(crate) flat: Flat,
    pub(crate) table: Slot,
    pub(crate) indices: Slot,
    pub(crate) rows: usize,
    pub(crate) width: usize,
}

/// What a result is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Filled {
    /// The first element of what lies in memory.
    One(Slot),
    /// Elements that lie in memory.
    List(Slot),
    /// 0, 1, 2, … along an axis of this size, whose neighbours are so far apart.
    Iota { stride: usize, size: usize },
    /// The rotary table of a grid.
    Rope { positions: Slot, frequencies: Slot, rows: usize, columns: usize, head: usize },
    /// Sinusoids of timesteps.
    Timesteps { steps: Slot, frequencies: Slot, dim: usize },
    /// Buckets of distances.
    Buckets { deltas: Slot, thresholds: Slot, count: usize, half: usize, near: usize },
}

/// A tensor made of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fill {
    pub(crate) flat: Flat,
    pub(crate) filled: Filled,
}

/// Looks through indices of a table with so many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Check {
    pub(crate) indices: Slot,
    /// Which number of the launch says how many there are, and which how many rows.
    pub(crate) count: usize,
    pub(crate) rows: usize,
    /// Two words: the place of the first that is no row, and that index.
    pub(crate) found: Slot,
}

/// Words moved from one piece of memory to another, or one word to all of them; in vectors if both sides are wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Moved {
    pub(crate) from: Option<Slot>,
    pub(crate) to: Slot,
    /// Which number of the launch says how many words or vectors, and which what words are set to.
    pub(crate) count: usize,
    pub(crate) value: usize,
}

impl Moved {
    fn is_wide(&self) -> bool {
        self.to.wide && self.from.is_none_or(|from| from.wide)
    }
}

/// Which thread of the launch this is.
#[cube]
fn thread(#[comptime] threads: u32) -> usize {
    CUBE_POS as usize * comptime!(threads as usize) + UNIT_POS as usize
}

#[cube]
pub(crate) fn copy(memory: &mut Memory, #[comptime] copy: Arc<Copy>, #[comptime] threads: u32) {
    let at = thread(threads);
    if at < size(memory, comptime!(copy.flat.count)) as usize {
        let slot = comptime!(copy.flat.result);
        if comptime!(slot.wide) {
            let first = at * comptime!(copy.flat.piece());
            let value = copied_vector(memory, copy.clone(), first);
            put_quad(memory, slot, first, value);
        } else if comptime!(copy.flat.piece() == 1) {
            let value = copied(memory, copy.clone(), at);
            put(memory, slot, at, value);
        } else {
            let first = at * comptime!(copy.flat.piece());
            let mut word = 0u32;
            #[unroll]
            for e in 0..comptime!(copy.flat.piece()) {
                let own = copied(memory, copy.clone(), first + e);
                word |= own << comptime!(e as u32 * 8 * slot.dtype.bytes() as u32);
            }
            put_word(memory, slot, first, word);
        }
    }
}

/// The bits of element `at` of a copy.
#[cube]
fn copied(memory: &Memory, #[comptime] copy: Arc<Copy>, at: usize) -> u32 {
    let line = at / comptime!(copy.line);
    let own = at % comptime!(copy.line);
    let mut found = 0u32;
    #[unroll]
    for p in 0..comptime!(copy.parts.len()) {
        let first = comptime!(copy.parts[p].first);
        let length = comptime!(copy.parts[p].length);
        match comptime!(copy.parts[p].from) {
            Some(slot) => {
                if own >= first && own < first + length {
                    let place = place_of(copy.clone(), p, line * length + own - first);
                    found = bits(memory, slot, place);
                }
            }
            None => {}
        }
    }
    found
}

/// Where element `e` of a part lies in what is copied.
#[cube]
fn place_of(#[comptime] copy: Arc<Copy>, #[comptime] part: usize, e: usize) -> usize {
    let mut place = comptime!(copy.parts[part].offset).runtime();
    #[unroll]
    for axis in 0..comptime!(copy.parts[part].axes.len()) {
        let axis_size = comptime!(copy.parts[part].axes[axis].0);
        let stride = comptime!(copy.parts[part].axes[axis].1);
        let inner =
            comptime!(copy.parts[part].axes[axis + 1..].iter().map(|a| a.0).product::<usize>());
        place += e / inner % axis_size * stride;
    }
    place
}

/// The vector of a copy whose first element is number `at`: all of it is of one part.
#[cube]
fn copied_vector(memory: &Memory, #[comptime] copy: Arc<Copy>, at: usize) -> Quad {
    let line = at / comptime!(copy.line);
    let own = at % comptime!(copy.line);
    let each = comptime!(copy.flat.result.vector());
    let mut found = Quad::empty();
    #[unroll]
    for word in 0..comptime!(4usize) {
        found[word] = 0u32;
    }
    #[unroll]
    for p in 0..comptime!(copy.parts.len()) {
        let first = comptime!(copy.parts[p].first);
        let length = comptime!(copy.parts[p].length);
        match comptime!(copy.parts[p].from) {
            Some(slot) => {
                if own >= first && own < first + length {
                    let e = line * length + own - first;
                    if comptime!(slot.wide && copy.parts[p].is_wide(each)) {
                        found = quad(memory, slot, place_of(copy.clone(), p, e));
                    } else {
                        #[unroll]
                        for word in 0..comptime!(4usize) {
                            let mut value = 0u32;
                            #[unroll]
                            for n in 0..comptime!(slot.pack()) {
                                let inside = comptime!(word * slot.pack() + n);
                                let place = place_of(copy.clone(), p, e + inside);
                                value |= bits(memory, slot, place)
                                    << comptime!(n as u32 * 8 * slot.dtype.bytes() as u32);
                            }
                            found[word] = value;
                        }
                    }
                }
            }
            None => {}
        }
    }
    found
}

#[cube]
pub(crate) fn gather(memory: &mut Memory, #[comptime] gather: Gather, #[comptime] threads: u32) {
    let at = thread(threads);
    if at < size(memory, comptime!(gather.flat.count)) as usize {
        let slot = comptime!(gather.flat.result);
        if comptime!(slot.wide) {
            let first = at * comptime!(gather.flat.piece());
            let width = comptime!(gather.width);
            let rows = comptime!(gather.rows);
            let row = picked(memory, comptime!(gather.indices), first / width, rows);
            let value = quad(memory, comptime!(gather.table), row * width + first % width);
            put_quad(memory, slot, first, value);
        } else if comptime!(gather.flat.piece() == 1) {
            let value = gathered(memory, gather, at);
            put(memory, slot, at, value);
        } else {
            let first = at * comptime!(gather.flat.piece());
            let mut word = 0u32;
            #[unroll]
            for e in 0..comptime!(gather.flat.piece()) {
                let own = gathered(memory, gather, first + e);
                word |= own << comptime!(e as u32 * 8 * slot.dtype.bytes() as u32);
            }
            put_word(memory, slot, first, word);
        }
    }
}

#[cube]
fn gathered(memory: &Memory, #[comptime] gather: Gather, at: usize) -> u32 {
    let width = comptime!(gather.width);
    let row = picked(memory, comptime!(gather.indices), at / width, comptime!(gather.rows));
    bits(memory, comptime!(gather.table), row * width + at % width)
}

#[cube]
pub(crate) fn fill(memory: &mut Memory, #[comptime] fill: Fill, #[comptime] threads: u32) {
    let at = thread(threads);
    if at < size(memory, comptime!(fill.flat.count)) as usize {
        let slot = comptime!(fill.flat.result);
        if comptime!(fill.flat.piece() == 1) {
            let value = made(memory, fill, at);
            put(memory, slot, at, value);
        } else {
            let first = at * comptime!(fill.flat.piece());
            let mut word = 0u32;
            #[unroll]
            for e in 0..comptime!(fill.flat.piece()) {
                let own = made(memory, fill, first + e);
                word |= own << comptime!(e as u32 * 8 * slot.dtype.bytes() as u32);
            }
            put_word(memory, slot, first, word);
        }
    }
}

/// The bits of element `at` of a fill.
#[cube]
fn made(memory: &Memory, #[comptime] fill: Fill, at: usize) -> u32 {
    let dtype = comptime!(fill.flat.result.dtype);
    match comptime!(fill.filled) {
        Filled::One(list) => bits(memory, list, 0usize),
        Filled::List(list) => bits(memory, list, at),
        Filled::Iota { stride, size } => {
            let own = at / stride % size;
            if comptime!(dtype.is_float()) {
                <f32 as Number>::give(f32::cast_from(own as u32), dtype)
            } else {
                <i32 as Number>::give(i32::cast_from(own as u32), dtype)
            }
        }
        Filled::Rope { positions, frequencies, rows, columns, head } => {
            rope(memory, positions, frequencies, rows, columns, head, at)
        }
        Filled::Timesteps { steps, frequencies, dim } => {
            let own = at % dim;
            let half = comptime!(dim / 2);
            // The product is rounded to f32 before its sine is taken.
            let turns =
                load::<f32>(memory, steps, at / dim) * load::<f32>(memory, frequencies, own % half);
            let quarters = select(own < half, 1u32, 0u32);
            u32::reinterpret(math::sine(turns, quarters))
        }
        Filled::Buckets { deltas, thresholds, count, half, near } => {
            let delta = i32::reinterpret(bits(memory, deltas, at));
            // Without a sign, so that the smallest has one too.
            let distance = u32::reinterpret(select(delta < 0i32, -delta, delta));
            let near = comptime!(near as u32).runtime();
            let mut bucket = select(delta > 0i32, comptime!(half as u32).runtime(), 0u32);
            bucket += select(distance < near, distance, near);
            for step in 0..count {
                let threshold = bits(memory, thresholds, step);
                bucket += select(distance >= threshold, 1u32, 0u32);
            }
            bucket
        }
    }
}

/// Cosine or sine of a position times a frequency (`dit.md` §4). Frequencies are parts of a turn in 64 bits,
/// so that the product is exact but for whole turns, whatever the position.
#[cube]
fn rope(
    memory: &Memory,
    #[comptime] positions: Slot,
    #[comptime] frequencies: Slot,
    #[comptime] rows: usize,
    #[comptime] columns: usize,
    #[comptime] head: usize,
    at: usize,
) -> u32 {
    let token = at / head;
    let pair = at / 2 % comptime!(head / 2);
    let first_row = comptime!((head - 4 * (head / 6)) / 2);
    let first_column = comptime!((head - 2 * (head / 6)) / 2);
    let time = <i32 as Number>::take(
        bits(memory, positions, token / comptime!(rows * columns)),
        comptime!(positions.dtype),
    );
    let row = i32::cast_from((token / columns % rows) as u32);
    let column = i32::cast_from((token % columns) as u32);
    let place = select(pair < first_row, time, select(pair < first_column, row, column));
    let position = u32::reinterpret(place);
    let high = bits(memory, frequencies, pair * 2);
    let low = bits(memory, frequencies, pair * 2 + 1);
    // Of a negative position the high word of the product is that of an unsigned one minus `low`.
    let carried = position.mul_hi(low) - select(place < 0i32, low, 0u32);
    let turn = position * high + carried;
    // To the nearest quarter, and what is left of one.
    let quarters = (turn + 0x2000_0000u32) >> 30u32;
    let rest = i32::reinterpret(turn - (quarters << 30u32));
    let angle = f32::cast_from(rest) * 1.462_918_1e-9f32;
    let cosine = select(at % 2 == 0, 1u32, 0u32);
    u32::reinterpret(math::sine_of_quarter(angle, quarters + cosine))
}

/// One cube looks through all indices.
#[cube]
pub(crate) fn check(memory: &mut Memory, #[comptime] check: Check, #[comptime] threads: u32) {
    let count = size(memory, comptime!(check.count)) as usize;
    let rows = size(memory, comptime!(check.rows));
    let unit = UNIT_POS as usize;
    let threads = comptime!(threads as usize);
    let mut shared = SharedMemory::<u32>::new(threads);
    let mut first = u32::MAX.runtime();
    for turn in 0..count.div_ceil(threads) {
        let at = turn * threads + unit;
        if at < count {
            let index = bits(memory, comptime!(check.indices), at);
            // Negative ones are large as unsigned numbers.
            if index >= rows && first == u32::MAX {
                first = at as u32;
            }
        }
    }
    shared[unit] = first;
    sync_cube();
    if unit == 0 {
        for other in 0..threads {
            first = select(shared[other] < first, shared[other], first);
        }
        put(memory, comptime!(check.found), 0usize, first);
        if first != u32::MAX {
            let index = bits(memory, comptime!(check.indices), first as usize);
            put(memory, comptime!(check.found), 1usize, index);
        }
    }
}

#[cube]
pub(crate) fn moved(memory: &mut Memory, #[comptime] moved: Moved, #[comptime] threads: u32) {
    let at = thread(threads);
    if at < size(memory, comptime!(moved.count)) as usize {
        if comptime!(moved.is_wide()) {
            let value = match comptime!(moved.from) {
                Some(from) => quad(memory, from, at * 4),
                None => {
                    let mut all = Quad::empty();
                    #[unroll]
                    for word in 0..comptime!(4usize) {
                        all[word] = size(memory, comptime!(moved.value));
                    }
                    all
                }
            };
            put_quad(memory, comptime!(moved.to), at * 4, value);
        } else {
            let word = match comptime!(moved.from) {
                Some(from) => bits(memory, from, at),
                None => size(memory, comptime!(moved.value)),
            };
            put(memory, comptime!(moved.to), at, word);
        }
    }
}
