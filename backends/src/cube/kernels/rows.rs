//! Row kernels: the program of a row, cut at its reductions into passes over the columns.
//!
//! Without reductions every thread computes one piece of a row. With them a row belongs to some threads of
//! a cube, which add up their parts through shared memory in an order that depends on the width alone. A
//! short row is gone through once, with everything held in registers; a long one is read again in every
//! pass. Results are stored in the last pass, by the thread that has read the elements they may lie over.

use super::element::{
    Memory, Quad, Slot, element, load, picked, put_quad, put_word, quad, size, store,
};
use super::number::{Number, holds};
use anyid_ir::kernel::{Columns, Instruction, RowKernel, RowMap, RowReduce};
use cubecl::prelude::*;
use std::sync::Arc;

/// Which threads compute a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Share {
    /// One for every piece.
    Each,
    /// So many neighbouring threads of a cube.
    Lanes(usize),
}

/// Where a load begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Start {
    /// Elements in front of the first row, and from row to row.
    pub(crate) offset: usize,
    pub(crate) stride: usize,
    /// Rows of a table that is read by segments.
    pub(crate) rows: usize,
    /// Whether pieces are whole vectors.
    pub(crate) wide: bool,
}

/// A pass over the columns of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pass {
    /// Scalars that are known before it and were not before the last, reductions left out.
    pub(crate) scalars: Vec<usize>,
    /// Vectors that it computes, in order.
    pub(crate) vectors: Vec<usize>,
    /// Reductions that it adds up.
    pub(crate) reductions: Vec<usize>,
}

/// A row kernel and how it is computed.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) kernel: RowKernel,
    pub(crate) scalars: Vec<bool>,
    pub(crate) passes: Vec<Pass>,
    /// Of each load.
    pub(crate) starts: Vec<Option<Start>>,
    /// Result, value, and whether it is one number a row.
    pub(crate) stores: Vec<(usize, usize, bool)>,
    pub(crate) operands: Vec<Slot>,
    pub(crate) results: Vec<Slot>,
    /// Elements from one row of a result to the next.
    pub(crate) strides: Vec<usize>,
    pub(crate) share: Share,
    /// Elements of a piece.
    pub(crate) piece: usize,
    /// Whether all pieces of a thread are held in registers.
    pub(crate) held: bool,
    /// Which number of the launch says how many rows there are.
    pub(crate) count: usize,
    /// Whether it is computed in whole numbers.
    pub(crate) whole: bool,
}

impl Rows {
    /// Where the register of an instruction is kept, for element `at` of a thread.
    fn key(&self, own: usize, at: usize) -> usize {
        own * 4096 + if self.scalars[own] { 0 } else { at }
    }

    fn lanes(&self) -> usize {
        if let Share::Lanes(lanes) = self.share { lanes } else { 1 }
    }

    /// Pieces of a thread.
    fn chunks(&self) -> usize {
        self.kernel.width.div_ceil(self.lanes() * self.piece)
    }

    /// Whether every thread has a piece in every turn.
    fn is_even(&self) -> bool {
        self.kernel.width.is_multiple_of(self.lanes() * self.piece)
    }

    /// The operand of an instruction that loads whole vectors.
    fn wide(&self, own: usize) -> Option<Slot> {
        let Instruction::Load(access) = &self.kernel.code[own] else { return None };
        let slot = self.operands[access.operand];
        let wide = self.starts[own].is_some_and(|start| start.wide);
        (wide && slot.wide).then_some(slot)
    }

    fn reduction(&self, own: usize) -> (RowReduce, usize) {
        match self.kernel.code[own] {
            Instruction::Reduce(how, x) => (how, usize::from(x)),
            _ => unreachable!("passes list reductions"),
        }
    }
}

/// The kernel.
#[cube]
pub(crate) fn rows<N: Number>(
    memory: &mut Memory,
    #[comptime] rows: Arc<Rows>,
    #[comptime] threads: u32,
) {
    let count = size(memory, comptime!(rows.count)) as usize;
    let mut registers = Registry::<usize, N>::new();
    let mut places = Registry::<usize, usize>::new();
    if comptime!(rows.share == Share::Each) {
        let pieces = comptime!(rows.kernel.width / rows.piece);
        let at = CUBE_POS as usize * comptime!(threads as usize) + UNIT_POS as usize;
        if at < count * pieces {
            let i = at / pieces;
            let j = at % pieces * comptime!(rows.piece);
            begin(memory, &mut places, rows.clone(), i);
            scalars::<N>(memory, &mut registers, &places, rows.clone(), 0usize);
            vectors::<N>(memory, &mut registers, &places, rows.clone(), 0usize, 0usize, j);
            narrow::<N>(memory, &registers, rows.clone(), i, j == 0);
            wide::<N>(memory, &registers, rows.clone(), 0usize, i, j);
        }
    } else {
        let lanes = comptime!(rows.lanes());
        let lane = UNIT_POS as usize % lanes;
        let row = CUBE_POS as usize * comptime!(threads as usize / rows.lanes())
            + UNIT_POS as usize / lanes;
        let live = row < count;
        let i = select(live, row, 0usize);
        let mut shared = SharedMemory::<N>::new(comptime!(threads as usize));
        begin(memory, &mut places, rows.clone(), i);
        #[unroll]
        for at in 0..comptime!(rows.passes.len()) {
            scalars::<N>(memory, &mut registers, &places, rows.clone(), at);
            pass::<N>(
                memory,
                &mut registers,
                &places,
                &mut shared,
                rows.clone(),
                at,
                i,
                lane,
                live,
            );
        }
    }
}

/// The first element of the row of every load.
#[cube]
fn begin(
    memory: &Memory,
    places: &mut Registry<usize, usize>,
    #[comptime] rows: Arc<Rows>,
    i: usize,
) {
    #[unroll]
    for own in 0..comptime!(rows.kernel.code.len()) {
        match comptime!((rows.kernel.code[own], rows.starts[own])) {
            (Instruction::Load(access), Some(start)) => {
                let row = match comptime!(access.rows) {
                    RowMap::Fixed => 0usize.runtime(),
                    RowMap::Affine { divisor, modulus } => {
                        if comptime!(modulus == usize::MAX) {
                            i / comptime!(divisor)
                        } else {
                            i / comptime!(divisor) % comptime!(modulus)
                        }
                    }
                    RowMap::Segment(segments) => {
                        picked(memory, comptime!(rows.operands[segments]), i, comptime!(start.rows))
                    }
                };
                places.insert(own, row * comptime!(start.stride) + comptime!(start.offset));
            }
            _ => {}
        }
    }
}

/// Scalars that are known before a pass.
#[cube]
fn scalars<N: Number>(
    memory: &Memory,
    registers: &mut Registry<usize, N>,
    places: &Registry<usize, usize>,
    #[comptime] rows: Arc<Rows>,
    #[comptime] at: usize,
) {
    #[unroll]
    for n in 0..comptime!(rows.passes[at].scalars.len()) {
        let own = comptime!(rows.passes[at].scalars[n]);
        let value = match comptime!(rows.kernel.code[own]) {
            Instruction::Load(access) => {
                load::<N>(memory, comptime!(rows.operands[access.operand]), places.find(own))
            }
            _ => function::<N>(memory, registers, rows.clone(), own, 0usize),
        };
        registers.insert(comptime!(rows.key(own, 0)), value);
    }
}

/// The vectors of a pass for the piece at column `j`.
#[cube]
fn vectors<N: Number>(
    memory: &Memory,
    registers: &mut Registry<usize, N>,
    places: &Registry<usize, usize>,
    #[comptime] rows: Arc<Rows>,
    #[comptime] at: usize,
    #[comptime] first: usize,
    j: usize,
) {
    #[unroll]
    for n in 0..comptime!(rows.passes[at].vectors.len()) {
        let own = comptime!(rows.passes[at].vectors[n]);
        match comptime!(rows.wide(own)) {
            Some(slot) =>
            {
                #[unroll]
                for vector in 0..comptime!(rows.piece / slot.vector()) {
                    let start = comptime!(vector * slot.vector());
                    let numbers = quad(memory, slot, places.find(own) + j + start);
                    #[unroll]
                    for e in 0..comptime!(slot.vector()) {
                        let value = element::<N>(numbers, slot, e);
                        registers.insert(comptime!(rows.key(own, first + start + e)), value);
                    }
                }
            }
            None => single::<N>(memory, registers, places, rows.clone(), own, first, j),
        }
    }
}

/// A vector of a pass, element by element.
#[cube]
fn single<N: Number>(
    memory: &Memory,
    registers: &mut Registry<usize, N>,
    places: &Registry<usize, usize>,
    #[comptime] rows: Arc<Rows>,
    #[comptime] own: usize,
    #[comptime] first: usize,
    j: usize,
) {
    #[unroll]
    for e in 0..comptime!(rows.piece) {
        let value = match comptime!(rows.kernel.code[own]) {
            Instruction::Load(access) => {
                let column = match comptime!(access.columns) {
                    Columns::All => j + e,
                    Columns::One => 0usize.runtime(),
                    Columns::Every(period) => (j + e) % period,
                    Columns::Step(step) => (j + e) * step,
                };
                let slot = comptime!(rows.operands[access.operand]);
                load::<N>(memory, slot, places.find(own) + column)
            }
            _ => function::<N>(memory, registers, rows.clone(), own, comptime!(first + e)),
        };
        registers.insert(comptime!(rows.key(own, first + e)), value);
    }
}

/// What an instruction makes of registers.
#[cube]
fn function<N: Number>(
    memory: &Memory,
    registers: &Registry<usize, N>,
    #[comptime] rows: Arc<Rows>,
    #[comptime] own: usize,
    #[comptime] at: usize,
) -> N {
    match comptime!(rows.kernel.code[own]) {
        Instruction::Const(value) => N::constant(memory, comptime!(value.to_bits())),
        Instruction::Unary(f, x) => {
            N::unary(comptime!(f), registers.find(comptime!(rows.key(x as usize, at))))
        }
        Instruction::Binary(f, a, b) => {
            let left = registers.find(comptime!(rows.key(a as usize, at)));
            let right = registers.find(comptime!(rows.key(b as usize, at)));
            N::binary(comptime!(f), left, right)
        }
        Instruction::Fma(a, b, c) => {
            let product = registers.find(comptime!(rows.key(a as usize, at)))
                * registers.find(comptime!(rows.key(b as usize, at)));
            product + registers.find(comptime!(rows.key(c as usize, at)))
        }
        Instruction::Compare(f, a, b) => {
            let left = registers.find(comptime!(rows.key(a as usize, at)));
            let right = registers.find(comptime!(rows.key(b as usize, at)));
            let held = holds::<N>(comptime!(f), left, right);
            select(held, N::from_int(1), N::from_int(0))
        }
        Instruction::Select(c, a, b) => {
            let condition = registers.find(comptime!(rows.key(c as usize, at)));
            let yes = registers.find(comptime!(rows.key(a as usize, at)));
            let no = registers.find(comptime!(rows.key(b as usize, at)));
            select(condition != N::from_int(0), yes, no)
        }
        Instruction::Round(dtype, x) => {
            let value = registers.find(comptime!(rows.key(x as usize, at)));
            N::take(N::give(value, comptime!(dtype)), comptime!(dtype))
        }
        // Neighbours are elements of one piece, which has an even number of them.
        Instruction::Rotate(x, angles) => {
            let even = comptime!(at / 2 * 2);
            let a = registers.find(comptime!(rows.key(x as usize, even)));
            let b = registers.find(comptime!(rows.key(x as usize, even + 1)));
            let cosine = registers.find(comptime!(rows.key(angles as usize, even)));
            let sine = registers.find(comptime!(rows.key(angles as usize, even + 1)));
            if comptime!(at % 2 == 0) { a * cosine - b * sine } else { a * sine + b * cosine }
        }
        _ => panic!("it is no function of single elements"),
    }
}

/// A pass of the threads of a row: its vectors, its reductions, in the last the stores.
#[cube]
fn pass<N: Number>(
    memory: &mut Memory,
    registers: &mut Registry<usize, N>,
    places: &Registry<usize, usize>,
    shared: &mut SharedMemory<N>,
    #[comptime] rows: Arc<Rows>,
    #[comptime] at: usize,
    i: usize,
    lane: usize,
    live: bool,
) {
    let count = comptime!(rows.passes[at].reductions.len());
    let last = comptime!(at + 1 == rows.passes.len());
    let piece = comptime!(rows.piece);
    let lanes = comptime!(rows.lanes());
    let mut parts = Array::<N>::new(comptime!(rows.passes[at].reductions.len().max(1)));
    #[unroll]
    for n in 0..count {
        let how = comptime!(rows.reduction(rows.passes[at].reductions[n]).0);
        parts[n] = if comptime!(how == RowReduce::Max) { N::least(memory) } else { N::from_int(0) };
    }
    if last {
        narrow::<N>(memory, registers, rows.clone(), i, live && lane == 0);
    }
    if comptime!(rows.held) {
        #[unroll]
        for c in 0..comptime!(rows.chunks()) {
            let j = (lane + comptime!(c * rows.lanes())) * piece;
            let first = comptime!(c * rows.piece);
            turn::<N>(memory, registers, places, &mut parts, rows.clone(), at, first, i, j, live);
        }
    } else {
        for c in 0..comptime!(rows.chunks()) {
            let j = (c * lanes + lane) * piece;
            turn::<N>(memory, registers, places, &mut parts, rows.clone(), at, 0usize, i, j, live);
        }
    }
    #[unroll]
    for n in 0..count {
        let own = comptime!(rows.passes[at].reductions[n]);
        let how = comptime!(rows.reduction(own).0);
        let all = gathered::<N>(parts[n], shared, lanes, comptime!(how == RowReduce::Max));
        let value = match comptime!(how) {
            RowReduce::Sum | RowReduce::SumSquares => all,
            // A largest element of 0 is +0.
            RowReduce::Max => all + N::from_int(0),
            RowReduce::Mean | RowReduce::MeanSquares => {
                all / N::from_int(comptime!(rows.kernel.width as i64))
            }
        };
        registers.insert(comptime!(rows.key(own, 0)), value);
    }
}

/// A turn of a pass: the piece at column `j`, if it is inside of the row.
#[cube]
fn turn<N: Number>(
    memory: &mut Memory,
    registers: &mut Registry<usize, N>,
    places: &Registry<usize, usize>,
    parts: &mut Array<N>,
    #[comptime] rows: Arc<Rows>,
    #[comptime] at: usize,
    #[comptime] first: usize,
    i: usize,
    j: usize,
    live: bool,
) {
    let even = comptime!(rows.is_even());
    let inside = j < comptime!(rows.kernel.width);
    let column = if even { j } else { select(inside, j, 0usize) };
    vectors::<N>(memory, registers, places, rows.clone(), at, first, column);
    #[unroll]
    for n in 0..comptime!(rows.passes[at].reductions.len()) {
        let how = comptime!(rows.reduction(rows.passes[at].reductions[n]).0);
        let x = comptime!(rows.reduction(rows.passes[at].reductions[n]).1);
        #[unroll]
        for e in 0..comptime!(rows.piece) {
            let value = registers.find(comptime!(rows.key(x, first + e)));
            let joined = match comptime!(how) {
                RowReduce::Sum | RowReduce::Mean => parts[n] + value,
                RowReduce::SumSquares | RowReduce::MeanSquares => parts[n] + value * value,
                RowReduce::Max => N::binary(anyid_ir::BinaryFn::Max, value, parts[n]),
            };
            parts[n] = if even { joined } else { select(inside, joined, parts[n]) };
        }
    }
    if comptime!(at + 1 == rows.passes.len()) {
        if live && inside {
            wide::<N>(memory, registers, rows.clone(), first, i, column);
        }
    }
}

/// A sum or the largest of what the threads of a row have, the same for all of them.
#[cube]
fn gathered<N: Number>(
    value: N,
    shared: &mut SharedMemory<N>,
    #[comptime] lanes: usize,
    #[comptime] largest: bool,
) -> N {
    if comptime!(lanes == 1) {
        value
    } else {
        let unit = UNIT_POS as usize;
        let lane = unit % lanes;
        shared[unit] = value;
        sync_cube();
        #[unroll]
        for step in 0..comptime!(lanes.ilog2()) {
            let half = comptime!(lanes >> (step as usize + 1));
            if lane < half {
                let a = shared[unit];
                let b = shared[unit + half];
                shared[unit] = if comptime!(largest) {
                    N::binary(anyid_ir::BinaryFn::Max, a, b)
                } else {
                    a + b
                };
            }
            sync_cube();
        }
        let all = shared[unit - lane];
        sync_cube();
        all
    }
}

/// Stores of one number a row.
#[cube]
fn narrow<N: Number>(
    memory: &mut Memory,
    registers: &Registry<usize, N>,
    #[comptime] rows: Arc<Rows>,
    i: usize,
    own: bool,
) {
    #[unroll]
    for n in 0..comptime!(rows.stores.len()) {
        let result = comptime!(rows.stores[n].0);
        let value = comptime!(rows.stores[n].1);
        let single = comptime!(rows.stores[n].2);
        if single {
            if own {
                let number = registers.find(comptime!(rows.key(value, 0)));
                store::<N>(memory, comptime!(rows.results[result]), i, number);
            }
        }
    }
}

/// Stores of a piece of a row.
#[cube]
fn wide<N: Number>(
    memory: &mut Memory,
    registers: &Registry<usize, N>,
    #[comptime] rows: Arc<Rows>,
    #[comptime] first: usize,
    i: usize,
    j: usize,
) {
    #[unroll]
    for n in 0..comptime!(rows.stores.len()) {
        let result = comptime!(rows.stores[n].0);
        let value = comptime!(rows.stores[n].1);
        let single = comptime!(rows.stores[n].2);
        if !single {
            let at = i * comptime!(rows.strides[result]) + j;
            let mut piece = Registry::<usize, N>::new();
            #[unroll]
            for e in 0..comptime!(rows.piece) {
                piece.insert(e, registers.find(comptime!(rows.key(value, first + e))));
            }
            store_piece::<N>(
                memory,
                &piece,
                comptime!(rows.results[result]),
                at,
                comptime!(rows.piece),
            );
        }
    }
}

/// Stores neighbouring elements, in whole words where they are aligned.
#[cube]
pub(crate) fn store_piece<N: Number>(
    memory: &mut Memory,
    values: &Registry<usize, N>,
    #[comptime] slot: Slot,
    at: usize,
    #[comptime] count: usize,
) {
    if comptime!(slot.wide) {
        #[unroll]
        for vector in 0..comptime!(count / slot.vector()) {
            let mut numbers = Quad::empty();
            #[unroll]
            for word in 0..comptime!(4usize) {
                let mut bits = 0u32;
                #[unroll]
                for e in 0..comptime!(slot.pack()) {
                    let value =
                        values.find(comptime!(vector * slot.vector() + word * slot.pack() + e));
                    let own = N::give(value, comptime!(slot.dtype));
                    bits |= own << comptime!(e as u32 * 8 * slot.dtype.bytes() as u32);
                }
                numbers[word] = bits;
            }
            put_quad(memory, slot, at + comptime!(vector * slot.vector()), numbers);
        }
    } else if comptime!(slot.aligned && slot.pack() > 1) {
        let pack = comptime!(slot.pack());
        #[unroll]
        for word in 0..comptime!(count / slot.pack()) {
            let mut bits = 0u32;
            #[unroll]
            for e in 0..pack {
                let value = values.find(comptime!(word * slot.pack() + e));
                let own = N::give(value, comptime!(slot.dtype));
                bits |= own << comptime!(e as u32 * 8 * slot.dtype.bytes() as u32);
            }
            put_word(memory, slot, at + comptime!(word * slot.pack()), bits);
        }
    } else {
        #[unroll]
        for e in 0..count {
            store::<N>(memory, slot, at + e, values.find(e));
        }
    }
}
