//! Elements in memory that is made of words: two of a half type in each, or four bytes.
//!
//! A word of which several threads of a launch write parts is changed by atomic operations that leave the
//! other parts alone; all other words are written whole. Roundings are done with whole numbers, to the
//! nearest and to even, so that they are those of the processor on every device.

use super::number::Number;
use anyid_ir::DType;
use cubecl::prelude::*;

/// The memory of a launch, and the numbers it was given.
#[derive(CubeType)]
pub(crate) struct Memory {
    /// Memory whose words are written whole.
    pub words: Sequence<Array<u32>>,
    /// Memory whose words are written in parts.
    pub atoms: Sequence<Array<Atomic<u32>>>,
    /// Memory that is written in vectors.
    pub quads: Sequence<Array<Quad>>,
    /// First [`INFINITY`], then what the kernel says.
    pub sizes: Sequence<u32>,
}

/// Four words: the widest vector that devices read and write at once.
pub(crate) type Quad = Vector<u32, Const<4>>;

/// Bytes of it.
pub(crate) const WIDEST: usize = 16;

/// How a piece of memory is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    /// As words, which are written whole.
    Words,
    /// As words, which several threads write in parts.
    Parts,
    /// As vectors, which are written whole.
    Quads,
}

/// The number of a launch that holds the bits of +∞: a shader cannot write them.
pub(crate) const INFINITY: usize = 0;

/// An operand or a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    pub(crate) dtype: DType,
    /// How the memory that it lies in is bound.
    pub(crate) access: Access,
    /// Which of the memory that is bound so.
    pub(crate) binding: usize,
    /// Which number of the launch says how many elements lie in front of it.
    pub(crate) base: usize,
    /// Whether pieces of as many elements as the kernel writes at once are whole words.
    pub(crate) aligned: bool,
    /// Whether that are whole vectors, or what the kernel reads at once is.
    pub(crate) wide: bool,
}

impl Slot {
    /// Elements of a word.
    pub(crate) fn pack(&self) -> usize {
        4 / self.dtype.bytes()
    }

    /// Elements of a vector.
    pub(crate) fn vector(&self) -> usize {
        WIDEST / self.dtype.bytes()
    }
}

/// A number that was given to the launch.
#[cube]
pub(crate) fn size(memory: &Memory, #[comptime] at: usize) -> u32 {
    *memory.sizes.index(at)
}

#[cube]
fn word(memory: &Memory, #[comptime] slot: Slot, at: usize) -> u32 {
    match comptime!(slot.access) {
        Access::Words => memory.words.index(comptime!(slot.binding))[at],
        Access::Parts => memory.atoms.index(comptime!(slot.binding))[at].load(),
        Access::Quads => memory.quads.index(comptime!(slot.binding))[at / 4][at % 4],
    }
}

/// The vector of an operand whose first element is number `at`.
#[cube]
pub(crate) fn quad(memory: &Memory, #[comptime] slot: Slot, at: usize) -> Quad {
    let place = at + size(memory, comptime!(slot.base)) as usize;
    memory.quads.index(comptime!(slot.binding))[place / comptime!(slot.vector())]
}

/// Element `at` of a vector as a number.
#[cube]
pub(crate) fn element<N: Number>(quad: Quad, #[comptime] slot: Slot, #[comptime] at: usize) -> N {
    let word = quad[comptime!(at / slot.pack())];
    let bits = if comptime!(slot.pack() == 1) {
        word
    } else {
        let mask = comptime!((1u32 << (32 / slot.pack() as u32)) - 1);
        (word >> comptime!((at % slot.pack()) as u32 * (32 / slot.pack() as u32))) & mask
    };
    N::take(bits, comptime!(slot.dtype))
}

/// Sets the vector of a result whose first element is number `at`.
#[cube]
pub(crate) fn put_quad(memory: &mut Memory, #[comptime] slot: Slot, at: usize, value: Quad) {
    let place = at + size(memory, comptime!(slot.base)) as usize;
    let quads = memory.quads.index_mut(comptime!(slot.binding));
    quads[place / comptime!(slot.vector())] = value;
}

/// The bits of element `at` of an operand.
#[cube]
pub(crate) fn bits(memory: &Memory, #[comptime] slot: Slot, at: usize) -> u32 {
    let place = at + size(memory, comptime!(slot.base)) as usize;
    if comptime!(slot.pack() == 1) {
        word(memory, slot, place)
    } else {
        let pack = comptime!(slot.pack());
        let width = comptime!(32 / slot.pack() as u32);
        let mask = comptime!((1u32 << (32 / slot.pack() as u32)) - 1);
        let shift = (place % pack) as u32 * width;
        (word(memory, slot, place / pack) >> shift) & mask
    }
}

/// Element `at` of an operand as a number.
#[cube]
pub(crate) fn load<N: Number>(memory: &Memory, #[comptime] slot: Slot, at: usize) -> N {
    N::take(bits(memory, slot, at), comptime!(slot.dtype))
}

/// Sets element `at` of a result to a number, rounded to its type.
#[cube]
pub(crate) fn store<N: Number>(memory: &mut Memory, #[comptime] slot: Slot, at: usize, value: N) {
    put(memory, slot, at, N::give(value, comptime!(slot.dtype)));
}

/// Sets the bits of element `at` of a result.
#[cube]
pub(crate) fn put(memory: &mut Memory, #[comptime] slot: Slot, at: usize, value: u32) {
    let place = at + size(memory, comptime!(slot.base)) as usize;
    if comptime!(slot.pack() == 1) {
        set(memory, slot, place, value);
    } else {
        let pack = comptime!(slot.pack());
        let width = comptime!(32 / slot.pack() as u32);
        let mask = comptime!((1u32 << (32 / slot.pack() as u32)) - 1);
        let shift = (place % pack) as u32 * width;
        let atom = memory.atoms.index(comptime!(slot.binding));
        atom[place / pack].fetch_and(!(mask << shift));
        atom[place / pack].fetch_or(value << shift);
    }
}

/// Sets a word of a result, of which element `at` is the first.
#[cube]
pub(crate) fn put_word(memory: &mut Memory, #[comptime] slot: Slot, at: usize, value: u32) {
    let place = at + size(memory, comptime!(slot.base)) as usize;
    set(memory, slot, place / comptime!(slot.pack()), value);
}

#[cube]
fn set(memory: &mut Memory, #[comptime] slot: Slot, at: usize, value: u32) {
    match comptime!(slot.access) {
        Access::Words => {
            let words = memory.words.index_mut(comptime!(slot.binding));
            words[at] = value;
        }
        Access::Parts => memory.atoms.index(comptime!(slot.binding))[at].store(value),
        Access::Quads => panic!("vectors are written whole"),
    }
}

/// The row of a table of `rows` rows that element `i` of the indices names; row 0 for one that is not
/// there, which the run has found before.
#[cube]
pub(crate) fn picked(
    memory: &Memory,
    #[comptime] indices: Slot,
    i: usize,
    #[comptime] rows: usize,
) -> usize {
    let index = bits(memory, indices, i);
    // Negative ones are large as unsigned numbers.
    let there = index < comptime!(rows as u32);
    select(there, index, 0u32) as usize
}
