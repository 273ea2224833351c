//! Which register holds what.
//!
//! General registers and masks have one use each in the whole function. Vector registers are those of
//! sums and numbers, which hold one thing for a row or for all of them, and those of values, which are
//! taken and given back by the operations.

use super::asm::{Mask, Zmm};
use super::program::Source;
use iced_x86::Register;

/// Registers of the whole function.
pub(super) const ARGUMENTS: Register = Register::R8;
pub(super) const POOL: Register = Register::R9;
/// Pointers of the row.
pub(super) const POINTERS: Register = Register::RSI;
/// Scalars of the row, or of the block.
pub(super) const SCALARS: Register = Register::RDI;
pub(super) const COLUMN: Register = Register::RCX;
pub(super) const END: Register = Register::RDX;
pub(super) const LEFT: Register = Register::R10;
/// The column in a row that repeats.
pub(super) const REPEATED: Register = Register::R11;
/// The pointer that an operation needs.
pub(super) const SCRATCH: Register = Register::RAX;
/// Lanes of the last vector of a row.
pub(super) const PART: Mask = 7;
/// Odd words.
pub(super) const ODD: Mask = 6;
/// The largest elements that are no NaN.
pub(super) const KNOWN: Mask = 5;
/// Masks that values may have: 1 to 4.
const MASKS: u8 = 0b0001_1110;

/// Vector registers that may be taken: one is left, so that there is always some to be found.
pub(super) const REGISTERS: usize = 31;

/// There are not enough registers for a program.
#[derive(Debug)]
pub(super) struct Full;

/// Registers that hold one thing for longer than an operation.
#[derive(Clone, Debug, Default)]
pub(super) struct Fixed {
    /// First register of the sums of each reduction.
    pub sums: Vec<Zmm>,
    /// Numbers.
    pub held: Vec<(Source, Zmm)>,
    /// Where upper halves of two vectors go together.
    pub narrow: Option<Zmm>,
    /// Where halves of thirty-two elements become upper halves of vectors.
    pub widen: Option<Zmm>,
    pub next: Zmm,
}

impl Fixed {
    pub fn take(&mut self, count: u8) -> Zmm {
        self.next += count;
        self.next - count
    }

    pub fn of(&self, source: Source) -> Option<Zmm> {
        self.held.iter().find(|(held, _)| *held == source).map(|(_, register)| *register)
    }
}

/// Registers that are free, as bits.
#[derive(Clone, Copy)]
pub(super) struct Free {
    vectors: u32,
    masks: u8,
    /// Most vectors that were taken at once.
    pub most: u32,
}

impl Free {
    pub fn beside(fixed: &Fixed) -> Self {
        Self { vectors: u32::MAX << fixed.next, masks: MASKS, most: u32::from(fixed.next) }
    }

    pub fn vector(&mut self) -> Result<Zmm, Full> {
        if self.vectors == 0 {
            return Err(Full);
        }
        let register = self.vectors.trailing_zeros() as u8;
        self.vectors &= self.vectors - 1;
        self.most = self.most.max(32 - self.vectors.count_ones());
        Ok(register)
    }

    pub fn mask(&mut self) -> Result<Mask, Full> {
        if self.masks == 0 {
            return Err(Full);
        }
        let register = self.masks.trailing_zeros() as u8;
        self.masks &= self.masks - 1;
        Ok(register)
    }

    /// Takes back a register that was given.
    pub fn keep(&mut self, register: Zmm) {
        self.vectors &= !(1 << register);
    }

    pub fn give(&mut self, register: Zmm) {
        self.vectors |= 1 << register;
    }

    pub fn give_mask(&mut self, register: Mask) {
        self.masks |= 1 << register;
    }
}
