//! Instructions of AVX-512 and of loops, written one behind the other.
//!
//! A thin layer over `iced_x86::Encoder`: vectors are registers by number, memory is a base with an
//! index of columns, labels are positions. It knows nothing of kernels. An operand that does not fit
//! its instruction is a bug of ours and panics.

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Register};

/// A vector register by number.
pub(super) type Zmm = u8;
/// A mask register by number; 0 is none.
pub(super) type Mask = u8;

/// The operand of an instruction that may lie in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    Register(Zmm),
    Memory(MemoryOperand),
}

/// Lanes that an instruction leaves alone: none, or those outside of a mask, which stay as they are
/// or become 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Lanes {
    pub mask: Mask,
    pub zero: bool,
}

impl Lanes {
    pub const ALL: Self = Self { mask: 0, zero: false };

    pub fn merged(mask: Mask) -> Self {
        Self { mask, zero: false }
    }

    pub fn zeroed(mask: Mask) -> Self {
        Self { mask, zero: mask != 0 }
    }
}

/// A jump whose target is still to come.
pub(super) struct Jump(usize);

/// Code that is being written.
pub(super) struct Assembler {
    encoder: Encoder,
    at: u64,
    jumps: Vec<(usize, u64)>,
}

pub(super) fn zmm(number: Zmm) -> Register {
    Register::ZMM0 + u32::from(number)
}

/// Where `columns` elements of `size` bytes behind `base`, and `bytes` more, lie.
pub(super) fn memory(
    base: Register,
    columns: Option<(Register, usize)>,
    bytes: usize,
    repeated: bool,
) -> MemoryOperand {
    let (index, scale) = columns.map_or((Register::None, 1), |(index, size)| (index, size as u32));
    MemoryOperand::new(base, index, scale, bytes as i64, 1, repeated, Register::None)
}

const FITS: &str = "operands fit their instruction";

impl Assembler {
    pub fn new() -> Self {
        Self { encoder: Encoder::new(64), at: 0, jumps: Vec::new() }
    }

    /// Where the next instruction will lie.
    pub fn here(&self) -> u64 {
        self.at
    }

    pub fn put(&mut self, instruction: Instruction) {
        self.at += self.encoder.encode(&instruction, self.at).expect(FITS) as u64;
    }

    fn masked(&mut self, mut instruction: Instruction, lanes: Lanes) {
        if lanes.mask != 0 {
            instruction.set_op_mask(Register::K0 + u32::from(lanes.mask));
            instruction.set_zeroing_masking(lanes.zero);
        }
        self.put(instruction);
    }

    /// `to = code(from)`
    pub fn one(&mut self, code: Code, to: Zmm, from: Place, lanes: Lanes) {
        let to = zmm(to);
        let made = match from {
            Place::Register(from) => Instruction::with2(code, to, zmm(from)),
            Place::Memory(from) => Instruction::with2(code, to, from),
        };
        self.masked(made.expect(FITS), lanes);
    }

    /// `to = code(from, number)`
    pub fn one_by(&mut self, code: Code, to: Zmm, from: Place, by: u32, lanes: Lanes) {
        let to = zmm(to);
        let made = match from {
            Place::Register(from) => Instruction::with3(code, to, zmm(from), by),
            Place::Memory(from) => Instruction::with3(code, to, from, by),
        };
        self.masked(made.expect(FITS), lanes);
    }

    /// `to = code(first, second)`, or of `to` as well.
    pub fn two(&mut self, code: Code, to: Zmm, first: Zmm, second: Place, lanes: Lanes) {
        let (to, first) = (zmm(to), zmm(first));
        let made = match second {
            Place::Register(second) => Instruction::with3(code, to, first, zmm(second)),
            Place::Memory(second) => Instruction::with3(code, to, first, second),
        };
        self.masked(made.expect(FITS), lanes);
    }

    /// `to = first compared with second`, a mask; only lanes of `lanes` can be in it.
    pub fn compare(&mut self, to: Mask, first: Zmm, second: Place, how: u32, lanes: Mask) {
        let code = Code::EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae;
        let (to, first) = (Register::K0 + u32::from(to), zmm(first));
        let made = match second {
            Place::Register(second) => Instruction::with4(code, to, first, zmm(second), how),
            Place::Memory(second) => Instruction::with4(code, to, first, second, how),
        };
        self.masked(made.expect(FITS), Lanes::merged(lanes));
    }

    /// `to = lanes of first with a bit of second`, a mask.
    pub fn bits(&mut self, to: Mask, first: Zmm, second: Place) {
        let code = Code::EVEX_Vptestmd_kr_k1_zmm_zmmm512b32;
        let (to, first) = (Register::K0 + u32::from(to), zmm(first));
        let made = match second {
            Place::Register(second) => Instruction::with3(code, to, first, zmm(second)),
            Place::Memory(second) => Instruction::with3(code, to, first, second),
        };
        self.put(made.expect(FITS));
    }

    /// `to = code(from)` in memory.
    pub fn write(&mut self, code: Code, to: MemoryOperand, from: Register, lanes: Lanes) {
        let made = Instruction::with2(code, to, from).expect(FITS);
        self.masked(made, lanes);
    }

    /// [`Self::write`] with a number.
    pub fn write_by(
        &mut self,
        code: Code,
        to: MemoryOperand,
        from: Register,
        by: u32,
        lanes: Lanes,
    ) {
        let made = Instruction::with3(code, to, from, by).expect(FITS);
        self.masked(made, lanes);
    }

    /// `to = code(from)` of registers that need not be whole vectors.
    pub fn small(&mut self, code: Code, to: Register, from: Register, lanes: Lanes) {
        let made = Instruction::with2(code, to, from).expect(FITS);
        self.masked(made, lanes);
    }

    /// [`Self::small`] with a number.
    pub fn small_by(&mut self, code: Code, to: Register, from: Register, by: u32) {
        self.put(Instruction::with3(code, to, from, by).expect(FITS));
    }

    /// `to = from`, a general register.
    pub fn load(&mut self, to: Register, from: MemoryOperand) {
        self.put(Instruction::with2(Code::Mov_r64_rm64, to, from).expect(FITS));
    }

    /// `to += number`
    pub fn add(&mut self, to: Register, number: usize) {
        self.put(Instruction::with2(Code::Add_rm64_imm32, to, number as i32).expect(FITS));
    }

    /// `to = 0`
    pub fn clear(&mut self, to: Register) {
        self.put(Instruction::with2(Code::Xor_r64_rm64, to, to).expect(FITS));
    }

    /// Back to `target` while `code` holds.
    pub fn back(&mut self, code: Code, target: u64) {
        self.put(Instruction::with_branch(code, target).expect(FITS));
    }

    /// Forward where `code` holds.
    pub fn forward(&mut self, code: Code) -> Jump {
        // The distance is written when it is known; one that needs all four bytes stands in for it.
        let far = self.at + 0x1000_0000;
        self.put(Instruction::with_branch(code, far).expect(FITS));
        Jump(self.at as usize)
    }

    /// Lets a jump land here.
    pub fn land(&mut self, jump: Jump) {
        self.jumps.push((jump.0, self.at));
    }

    /// The bytes of all of it.
    pub fn finish(mut self) -> Vec<u8> {
        let mut bytes = self.encoder.take_buffer();
        for (end, target) in self.jumps {
            let distance = (target as usize - end) as i32;
            bytes[end - 4..end].copy_from_slice(&distance.to_le_bytes());
        }
        bytes
    }
}
