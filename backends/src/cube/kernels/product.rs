//! Products in tiles: linear, `dot`, and convolution as a product whose rows are read through the positions
//! that they look at.
//!
//! Every thread sums four rows by four columns in f32. Both sides of a tile come through shared memory, in
//! f32 whatever they are stored as. What follows the sums is done by the thread that has them. Products of
//! few rows have a kernel of their own.

use super::element::{Memory, Slot, element, load, picked, quad, size, store};
use super::math;
use super::matrices::{APART, SUMS_APART};
use super::number::Number;
use super::rows::store_piece;
use crate::cube::tune::Tile;
use anyid_ir::DType;
use anyid_ir::kernel::Activation;
use cubecl::prelude::*;
use std::sync::Arc;

/// Rows and columns of a thread.
pub(crate) const OWN: usize = 4;

/// Summands that are added up by themselves, in every tile, so that long sums lose less.
pub(crate) const BLOCK: usize = 32;

/// Where the numbers of a side lie, by (line, k).
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sides {
    /// Rows of an operand that lie so far apart; kernels lie one after the other.
    Linear { stride: usize },
    /// Pages of matrices, each of which may lie the other way round; rows of the left one.
    Dot { transposed: [bool; 2], rows: usize },
    /// Positions of a clip.
    Conv(Clip),
}

/// What a convolution looks at. Axes are time, rows, columns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Clip {
    /// Sizes of the operand as it lies.
    pub(crate) from: [usize; 3],
    pub(crate) channels: usize,
    pub(crate) taps: [usize; 3],
    pub(crate) stride: [usize; 3],
    /// Zeros in front.
    pub(crate) front: [usize; 3],
    /// How often every element is seen along each axis.
    pub(crate) factors: [usize; 3],
    /// Rows and columns of the result.
    pub(crate) to: [usize; 2],
}

/// What happens to a sum, in this order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct End {
    pub(crate) bias: Option<Slot>,
    pub(crate) sums: Option<DType>,
    pub(crate) activation: Option<Activation>,
    pub(crate) activated: Option<DType>,
    pub(crate) gate: Option<Gate>,
    /// What is added, and elements from one of its rows to the next.
    pub(crate) residual: Option<(Slot, usize)>,
    pub(crate) result: Slot,
    pub(crate) stride: usize,
}

/// A factor by row and column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gate {
    pub(crate) table: Slot,
    pub(crate) segments: Slot,
    pub(crate) offset: usize,
    pub(crate) stride: usize,
    pub(crate) rows: usize,
}

/// A product.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub(crate) sides: Sides,
    pub(crate) left: Slot,
    pub(crate) right: Slot,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Which numbers of the launch say how many rows a page has, and how many pages there are.
    pub(crate) rows: usize,
    pub(crate) pages: usize,
    pub(crate) tile: Tile,
    /// Whether units for matrices multiply.
    pub(crate) units: bool,
    pub(crate) end: End,
}

impl Product {
    /// Rows and columns of a tile.
    pub(crate) fn lines(&self) -> usize {
        self.tile.side * OWN
    }

    /// Numbers of shared memory from one summand to the next; with units, from one row or column to the next.
    pub(crate) fn pitch(&self) -> usize {
        if self.units { self.tile.depth + APART } else { self.lines() + 1 }
    }

    /// The left side or the right.
    fn slot(&self, right: bool) -> Slot {
        if right { self.right } else { self.left }
    }

    /// Numbers of a side that a thread loads at once.
    fn each(&self, right: bool) -> usize {
        let slot = self.slot(right);
        if slot.wide { slot.vector() } else { 1 }
    }

    /// Turns in which the threads of a cube load a side.
    fn turns(&self, right: bool) -> usize {
        let loads = self.lines() * self.tile.depth / self.each(right);
        loads.div_ceil(self.threads() as usize)
    }

    /// Floats of shared memory.
    pub(crate) fn floats(tile: Tile) -> usize {
        2 * tile.depth * (tile.side * OWN + 1)
    }

    /// Bytes of shared memory where units for matrices multiply.
    pub(crate) fn bytes_of_units(tile: Tile) -> usize {
        let lines = tile.side * OWN;
        2 * 2 * lines * (tile.depth + APART) + 4 * lines * (lines + SUMS_APART)
    }

    /// Threads of a cube.
    pub(crate) fn threads(&self) -> u32 {
        (self.tile.side * self.tile.side) as u32
    }

    /// Cubes for so many rows of so many pages.
    pub(crate) fn cubes(&self, m: usize, pages: usize) -> usize {
        pages * m.div_ceil(self.lines()) * self.n.div_ceil(self.lines())
    }
}

/// The kernel. Cubes go through the columns, then the rows, then the pages.
#[cube]
pub(crate) fn product(memory: &mut Memory, #[comptime] product: Arc<Product>) {
    let all_rows = size(memory, comptime!(product.rows)) as usize;
    let pages = size(memory, comptime!(product.pages)) as usize;
    let n = comptime!(product.n);
    let tile = comptime!(product.lines());
    let side = comptime!(product.tile.side);
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
    let mut left = SharedMemory::<f32>::new(comptime!(product.tile.depth * (product.lines() + 1)));
    let mut right = SharedMemory::<f32>::new(comptime!(product.tile.depth * (product.lines() + 1)));
    let unit = UNIT_POS as usize;
    let own_row = unit / side * OWN;
    let own_column = unit % side * OWN;
    let mut sums = Array::<f32>::new(comptime!(OWN * OWN));
    let mut parts = Array::<f32>::new(comptime!(OWN * OWN));
    #[unroll]
    for at in 0..comptime!(OWN * OWN) {
        sums[at] = 0.0f32;
        parts[at] = 0.0f32;
    }
    for turn in 0..comptime!(product.k.div_ceil(product.tile.depth)) {
        let from = turn * depth;
        fetched(memory, &mut left, product.clone(), false, page, row, m, from);
        fetched(memory, &mut right, product.clone(), true, page, column, n.runtime(), from);
        sync_cube();
        for inner in 0..depth {
            let mut a = Registry::<usize, f32>::new();
            let mut b = Registry::<usize, f32>::new();
            #[unroll]
            for at in 0..comptime!(OWN) {
                a.insert(at, left[inner * pitch + own_row + at]);
                b.insert(at, right[inner * pitch + own_column + at]);
            }
            #[unroll]
            for i in 0..comptime!(OWN) {
                #[unroll]
                for j in 0..comptime!(OWN) {
                    parts[comptime!(i * OWN + j)] += a.find(i) * b.find(j);
                }
            }
        }
        sync_cube();
        if (turn + 1) % comptime!(BLOCK / product.tile.depth) == 0 {
            #[unroll]
            for at in 0..comptime!(OWN * OWN) {
                sums[at] += parts[at];
                parts[at] = 0.0f32;
            }
        }
    }
    #[unroll]
    for r in 0..comptime!(OWN) {
        let mut own = Registry::<usize, f32>::new();
        #[unroll]
        for c in 0..comptime!(OWN) {
            own.insert(c, sums[comptime!(r * OWN + c)] + parts[comptime!(r * OWN + c)]);
        }
        let i = row + own_row + r;
        if i < m {
            finished(memory, product.clone(), &own, page * m + i, column + own_column);
        }
    }
}

/// Stores what becomes of the sums at neighbouring columns of a row, from `j` on.
#[cube]
pub(crate) fn finished(
    memory: &mut Memory,
    #[comptime] product: Arc<Product>,
    sums: &Registry<usize, f32>,
    i: usize,
    j: usize,
) {
    let n = comptime!(product.n);
    let slot = comptime!(product.end.result);
    let at = i * comptime!(product.end.stride) + j;
    if comptime!(slot.aligned) {
        if j < n {
            let mut values = Registry::<usize, f32>::new();
            #[unroll]
            for c in 0..comptime!(OWN) {
                values.insert(c, ended(memory, product.clone(), i, j + c, sums.find(c)));
            }
            store_piece::<f32>(memory, &values, slot, at, OWN);
        }
    } else {
        #[unroll]
        for c in 0..comptime!(OWN) {
            if j + c < n {
                let value = ended(memory, product.clone(), i, j + c, sums.find(c));
                store::<f32>(memory, slot, at + c, value);
            }
        }
    }
}

/// Has the threads of a cube load a side of a tile: `count` lines there are from `first` on, summands from `from` on,
/// zeros behind the last.
#[cube]
pub(crate) fn fetched<E: Numeric>(
    memory: &Memory,
    to: &mut SharedMemory<E>,
    #[comptime] product: Arc<Product>,
    #[comptime] is_right: bool,
    page: usize,
    first: usize,
    count: usize,
    from: usize,
) {
    let slot = comptime!(product.slot(is_right));
    let each = comptime!(product.each(is_right));
    let deep = comptime!(product.tile.depth / product.each(is_right));
    let all = comptime!(product.lines() * deep);
    let pitch = comptime!(product.pitch());
    let units = comptime!(product.units);
    let next = comptime!(if product.units { 1 } else { product.pitch() });
    let k = comptime!(product.k);
    for turn in 0..comptime!(product.turns(is_right)) {
        let at = UNIT_POS as usize + turn * comptime!(product.threads() as usize);
        let line = at / deep;
        let inner = at % deep * each;
        if at < all {
            let into = if units { line * pitch + inner } else { inner * pitch + line };
            let there = from + inner < k && first + line < count;
            if comptime!(slot.wide) {
                if there {
                    let place = if comptime!(is_right) {
                        right_place(product.clone(), page, first + line, from + inner)
                    } else {
                        left_place(product.clone(), page, first + line, from + inner)
                    };
                    let numbers = quad(memory, slot, place);
                    #[unroll]
                    for e in 0..each {
                        let number = element::<f32>(numbers, slot, e);
                        to[into + comptime!(e * next)] = E::cast_from(number);
                    }
                } else {
                    #[unroll]
                    for e in 0..each {
                        to[into + comptime!(e * next)] = E::from_int(0);
                    }
                }
            } else {
                let mut value = 0.0f32;
                if there {
                    value = if comptime!(is_right) {
                        right_of(memory, product.clone(), page, first + line, from + inner)
                    } else {
                        left_of(memory, product.clone(), page, first + line, from + inner)
                    };
                }
                to[into] = E::cast_from(value);
            }
        }
    }
}

/// Most rows of a product whose columns are summed by neighbouring threads.
pub(crate) const FEW: usize = 4;
/// Threads of a column of such a product.
pub(crate) const LANES: usize = 32;

/// A product of few rows, which is bound by the right side: neighbouring threads read neighbouring numbers of
/// it, each of them once, and add up their sums in pairs.
#[cube]
pub(crate) fn few(
    memory: &mut Memory,
    #[comptime] product: Arc<Product>,
    #[comptime] threads: u32,
) {
    let m = size(memory, comptime!(product.rows)) as usize;
    let n = comptime!(product.n);
    let k = comptime!(product.k);
    let unit = UNIT_POS as usize;
    let lane = unit % LANES;
    let column = CUBE_POS as usize * comptime!(threads as usize / LANES) + unit / LANES;
    let mut sums = Array::<f32>::new(comptime!(FEW));
    #[unroll]
    for row in 0..comptime!(FEW) {
        sums[row] = 0.0f32;
    }
    for turn in 0..comptime!(product.k.div_ceil(LANES)) {
        let at = turn * LANES + lane;
        if column < n && at < k {
            let other = right_of(memory, product.clone(), 0usize, column, at);
            #[unroll]
            for row in 0..comptime!(FEW) {
                if row < m {
                    sums[row] += left_of(memory, product.clone(), 0usize, row, at) * other;
                }
            }
        }
    }
    let mut shared = SharedMemory::<f32>::new(comptime!(threads as usize * FEW));
    #[unroll]
    for row in 0..comptime!(FEW) {
        shared[unit * FEW + row] = sums[row];
    }
    sync_cube();
    #[unroll]
    for step in 0..comptime!(LANES.ilog2()) {
        let half = comptime!(LANES >> (step as usize + 1));
        if lane < half {
            #[unroll]
            for row in 0..comptime!(FEW) {
                shared[unit * FEW + row] += shared[(unit + half) * FEW + row];
            }
        }
        sync_cube();
    }
    if lane < FEW && lane < m && column < n {
        let sum = shared[(unit - lane) * FEW + lane];
        let value = ended(memory, product.clone(), lane, column, sum);
        let at = lane * comptime!(product.end.stride) + column;
        store::<f32>(memory, comptime!(product.end.result), at, value);
    }
}

/// A number of the left side.
#[cube]
pub(crate) fn left_of(
    memory: &Memory,
    #[comptime] product: Arc<Product>,
    page: usize,
    i: usize,
    k: usize,
) -> f32 {
    let slot = comptime!(product.left);
    match comptime!(product.sides.clone()) {
        Sides::Conv(clip) => seen(memory, slot, comptime!(Arc::new(clip.clone())), i, k),
        _ => load::<f32>(memory, slot, left_place(product.clone(), page, i, k)),
    }
}

/// Where a number of a left side of matrices lies.
#[cube]
fn left_place(#[comptime] product: Arc<Product>, page: usize, i: usize, k: usize) -> usize {
    match comptime!(product.sides.clone()) {
        Sides::Linear { stride } => i * stride + k,
        Sides::Dot { transposed, rows } => {
            let first = page * comptime!(rows * product.k);
            if comptime!(transposed[0]) {
                first + k * rows + i
            } else {
                first + i * comptime!(product.k) + k
            }
        }
        Sides::Conv(_) => panic!("it has no rows in memory"),
    }
}

/// A number of the right side.
#[cube]
pub(crate) fn right_of(
    memory: &Memory,
    #[comptime] product: Arc<Product>,
    page: usize,
    j: usize,
    k: usize,
) -> f32 {
    load::<f32>(memory, comptime!(product.right), right_place(product.clone(), page, j, k))
}

/// Where a number of the right side lies.
#[cube]
fn right_place(#[comptime] product: Arc<Product>, page: usize, j: usize, k: usize) -> usize {
    match comptime!(product.sides.clone()) {
        Sides::Dot { transposed, .. } => {
            let first = page * comptime!(product.n * product.k);
            if comptime!(transposed[1]) {
                first + k * comptime!(product.n) + j
            } else {
                first + j * comptime!(product.k) + k
            }
        }
        _ => j * comptime!(product.k) + k,
    }
}

/// The number that tap `k` of a convolution sees from position `i`; k goes through the taps of one channel
/// after the other.
#[cube]
fn seen(
    memory: &Memory,
    #[comptime] slot: Slot,
    #[comptime] clip: Arc<Clip>,
    i: usize,
    k: usize,
) -> f32 {
    let each = comptime!(clip.taps.iter().product::<usize>());
    let channel = k / each;
    let tap = k % each;
    let height = comptime!(clip.to[0]);
    let width = comptime!(clip.to[1]);
    let time = along(
        comptime!(clip.clone()),
        0usize,
        i / comptime!(height * width),
        tap / comptime!(clip.taps[1] * clip.taps[2]),
    );
    let row = along(
        comptime!(clip.clone()),
        1usize,
        i / width % height,
        tap / comptime!(clip.taps[2]) % comptime!(clip.taps[1]),
    );
    let column = along(comptime!(clip.clone()), 2usize, i % width, tap % comptime!(clip.taps[2]));
    let t = comptime!((clip.from[0] * clip.factors[0]) as u32);
    let h = comptime!((clip.from[1] * clip.factors[1]) as u32);
    let w = comptime!((clip.from[2] * clip.factors[2]) as u32);
    let mut value = 0.0f32;
    // What lies in front is large as an unsigned number.
    if time < t && row < h && column < w {
        let time = time as usize / comptime!(clip.factors[0]);
        let row = row as usize / comptime!(clip.factors[1]);
        let column = column as usize / comptime!(clip.factors[2]);
        let place = (time * comptime!(clip.from[1]) + row) * comptime!(clip.from[2]) + column;
        value = load::<f32>(memory, slot, place * comptime!(clip.channels) + channel);
    }
    value
}

/// Where a tap looks along an axis.
#[cube]
fn along(#[comptime] clip: Arc<Clip>, #[comptime] axis: usize, position: usize, tap: usize) -> u32 {
    let place = position * comptime!(clip.stride[axis]) + tap;
    place as u32 - comptime!(clip.front[axis] as u32)
}

/// What becomes of the sum at (row, column).
#[cube]
fn ended(memory: &Memory, #[comptime] product: Arc<Product>, i: usize, j: usize, sum: f32) -> f32 {
    let value = match comptime!(product.end.bias) {
        Some(bias) => sum + load::<f32>(memory, bias, j),
        None => sum,
    };
    let value = through(value, comptime!(product.end.sums));
    let value = match comptime!(product.end.activation) {
        Some(Activation::Gelu) => math::gelu(value),
        Some(Activation::Silu) => math::silu(value),
        None => value,
    };
    let value = through(value, comptime!(product.end.activated));
    let value = match comptime!(product.end.gate) {
        Some(gate) => {
            let row = picked(memory, comptime!(gate.segments), i, comptime!(gate.rows));
            let place = row * comptime!(gate.stride) + comptime!(gate.offset) + j;
            value * load::<f32>(memory, comptime!(gate.table), place)
        }
        None => value,
    };
    match comptime!(product.end.residual) {
        Some((slot, stride)) => load::<f32>(memory, slot, i * stride + j) + value,
        None => value,
    }
}

/// A number rounded to a type and widened again, if one is named.
#[cube]
pub(crate) fn through(value: f32, #[comptime] to: Option<DType>) -> f32 {
    match comptime!(to) {
        Some(dtype) => <f32 as Number>::take(<f32 as Number>::give(value, dtype), dtype),
        None => value,
    }
}

/// A product of whole numbers.
#[derive(Clone, Debug)]
pub(crate) struct Exact {
    pub(crate) left: Slot,
    pub(crate) right: Slot,
    pub(crate) result: Slot,
    pub(crate) transposed: [bool; 2],
    /// Rows and columns of a page, summands.
    pub(crate) sizes: [usize; 3],
    /// Which number of the launch says how many sums there are.
    pub(crate) count: usize,
}

#[cube]
pub(crate) fn exact(memory: &mut Memory, #[comptime] exact: Arc<Exact>, #[comptime] threads: u32) {
    let at = CUBE_POS as usize * comptime!(threads as usize) + UNIT_POS as usize;
    let m = comptime!(exact.sizes[0]);
    let n = comptime!(exact.sizes[1]);
    let depth = comptime!(exact.sizes[2]);
    if at < size(memory, comptime!(exact.count)) as usize {
        let page = at / comptime!(m * n);
        let i = at / n % m;
        let j = at % n;
        let mut sum = 0i32;
        for k in 0..depth {
            let a = if comptime!(exact.transposed[0]) { k * m + i } else { i * depth + k };
            let b = if comptime!(exact.transposed[1]) { k * n + j } else { j * depth + k };
            let left = load::<i32>(memory, comptime!(exact.left), page * comptime!(m * depth) + a);
            let right =
                load::<i32>(memory, comptime!(exact.right), page * comptime!(n * depth) + b);
            sum += left * right;
        }
        store::<i32>(memory, comptime!(exact.result), at, sum);
    }
}
