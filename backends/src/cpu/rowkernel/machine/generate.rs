//! Code of AVX-512 for a program: one function that takes a block of rows through every stage.
//!
//! The function gets where the rows of operands and results begin (a table made for each block), and
//! goes through a row in turns of four vectors. An operation is written for several vectors of a turn
//! together, as many as have room in the registers, so that they hide each other's latency. A value
//! has a register from the operation that makes it to the last that reads it; nothing is written to
//! memory in between. Sums stay in registers for the whole row: column `c` in lane `c` modulo 64, as
//! the interpreter has them. Numbers come from memory, or from registers where some are left.

use super::asm::{Assembler, Lanes, Mask, Place, Zmm, memory};
use super::program::{Asked, Op, Program, Source, Stage, TURN};
use super::reads::Reads;
use super::registers::{
    ARGUMENTS, COLUMN, END, Fixed, Free, Full, LEFT, ODD, PART, POINTERS, POOL, REGISTERS,
    REPEATED, SCALARS, SCRATCH,
};
use crate::cpu::math::LANES;
use anyid_ir::kernel::RowReduce;
use iced_x86::{Code, Instruction, MemoryOperand, Register};

/// Columns of a turn.
pub(super) const COLUMNS: usize = TURN * LANES;

/// What the function is called with.
#[repr(C)]
pub(super) struct Arguments {
    pub pointers: *const *const u8,
    pub scalars: *mut f32,
    pub rows: usize,
    /// Columns in whole turns.
    pub columns: usize,
    /// Whether the columns after the last whole turn belong to it.
    pub rest: usize,
    pub pool: *const u32,
}

/// Numbers that four vectors of a turn may leave in memory, before two at once are faster.
const FEW: usize = 4;

/// Bytes of the next block that may wait in the first cache: more would drive out what is worked on.
const NEAR: usize = 8 << 10;

/// A vector of a turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Vector {
    pub index: usize,
    /// Whether it is the last of its row, and not whole.
    pub part: bool,
}

/// A function on its way.
pub(super) struct Generator<'g> {
    pub asm: Assembler,
    pub program: &'g Program,
    /// Numbers, and tables of words, that the code reads.
    pub pool: Vec<u32>,
}

/// Code and the numbers it reads.
pub(super) fn generate(program: &Program) -> Result<(Vec<u8>, Vec<u32>), Full> {
    let mut generator = Generator { asm: Assembler::new(), program, pool: Vec::new() };
    generator.asm.put(two(Code::Mov_r64_rm64, ARGUMENTS, Register::RDI));
    generator.load(POOL, std::mem::offset_of!(Arguments, pool));
    let part = program.width % LANES;
    if part > 0 {
        generator.set_mask(PART, (1 << part) - 1);
    }
    generator.set_mask(ODD, 0xaaaa_aaaa);
    for stage in &program.stages {
        if !stage.numbers.is_empty() {
            generator.numbers(&stage.numbers)?;
        }
        if !stage.vectors.is_empty() {
            generator.rows(stage)?;
        }
    }
    generator.asm.put(Instruction::with(Code::VEX_Vzeroupper));
    generator.asm.put(Instruction::with(Code::Retnq));
    Ok((generator.asm.finish(), generator.pool))
}

fn two(code: Code, to: Register, from: Register) -> Instruction {
    Instruction::with2(code, to, from).expect("registers of 64 bits")
}

impl Generator<'_> {
    fn load(&mut self, to: Register, argument: usize) {
        self.asm.load(to, memory(ARGUMENTS, None, argument, false));
    }

    fn set_mask(&mut self, mask: Mask, bits: u32) {
        let set = Instruction::with2(Code::Mov_r32_imm32, Register::EAX, bits);
        self.asm.put(set.expect("a number of 32 bits"));
        let to = Register::K0 + u32::from(mask);
        self.asm.put(two(Code::VEX_Kmovd_kr_r32, to, Register::EAX));
    }

    /// Where the pool has these words one after the other.
    pub fn pooled(&mut self, words: &[u32], repeated: bool) -> MemoryOperand {
        let found = self.pool.windows(words.len()).position(|window| window == words);
        let at = found.unwrap_or_else(|| {
            self.pool.extend(words);
            self.pool.len() - words.len()
        });
        memory(POOL, None, 4 * at, repeated)
    }

    /// The number of a scalar for the row.
    pub fn scalar(&self, scalar: u16, repeated: bool) -> MemoryOperand {
        memory(SCALARS, None, 4 * usize::from(scalar) * self.program.pitch, repeated)
    }

    /// Puts a number into every lane of a register.
    fn hold(&mut self, source: Source, register: Zmm) {
        let from = match source {
            Source::Const(bits) => self.pooled(&[bits], false),
            Source::Scalar(scalar) => self.scalar(scalar, false),
            Source::Value(_) | Source::Row(_) => unreachable!("numbers alone are held"),
        };
        let code = Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32;
        self.asm.one(code, register, Place::Memory(from), Lanes::ALL);
    }

    fn table(&mut self, words: [u16; 32], register: Zmm) {
        let pairs = words.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16);
        let pairs: Vec<u32> = pairs.collect();
        let from = Place::Memory(self.pooled(&pairs, false));
        self.asm.one(Code::EVEX_Vmovdqu64_zmm_k1z_zmmm512, register, from, Lanes::ALL);
    }

    /// Over the rows of a block.
    fn numbers(&mut self, ops: &[Op]) -> Result<(), Full> {
        let (reads, fixed, _) = self.fit(ops, Fixed::default(), &[1])?;
        self.load(SCALARS, std::mem::offset_of!(Arguments, scalars));
        self.load(END, std::mem::offset_of!(Arguments, rows));
        for (source, register) in fixed.held.clone() {
            self.hold(source, register);
        }
        self.asm.clear(COLUMN);
        let turn = self.asm.here();
        self.group(&reads, &fixed, &[Vector { index: 0, part: false }])?;
        self.asm.add(COLUMN, LANES);
        self.asm.put(two(Code::Cmp_r64_rm64, COLUMN, END));
        self.asm.back(Code::Jb_rel32_64, turn);
        Ok(())
    }

    /// Chooses how many vectors go together, and which numbers are held in registers.
    fn fit<'o>(
        &mut self,
        ops: &'o [Op],
        fixed: Fixed,
        groups: &[usize],
    ) -> Result<(Reads<'o>, Fixed, usize), Full> {
        let reads = Reads::new(ops).ok_or(Full)?;
        for &count in groups {
            let mut fixed = fixed.clone();
            if count > 1 && reads.narrows {
                fixed.narrow = Some(fixed.take(1));
            }
            if count > 1 && reads.widens {
                fixed.widen = Some(fixed.take(2));
            }
            for source in &reads.held {
                let register = fixed.take(1);
                fixed.held.push((*source, register));
            }
            if fixed.next > 30 {
                continue;
            }
            let group: Vec<Vector> =
                (0..count).map(|index| Vector { index, part: false }).collect();
            let mut trial =
                Generator { asm: Assembler::new(), program: self.program, pool: Vec::new() };
            let Ok(most) = trial.group(&reads, &fixed, &group) else { continue };
            // Where a few numbers more come from memory, more vectors at once are still faster.
            let left = reads.wanted.len() + most as usize;
            if left > REGISTERS + FEW && count > 2 {
                continue;
            }
            for source in reads.wanted.iter().take(REGISTERS.saturating_sub(most as usize)) {
                let register = fixed.take(1);
                fixed.held.push((*source, register));
            }
            return Ok((reads, fixed, count));
        }
        Err(Full)
    }

    /// The vectors of a stage, row by row.
    fn rows(&mut self, stage: &Stage) -> Result<(), Full> {
        let mut fixed = Fixed::default();
        for (f, _) in &stage.finished {
            let count = if *f == RowReduce::Max { 2 } else { TURN as u8 };
            let first = fixed.take(count);
            fixed.sums.push(first);
        }
        if fixed.next > 24 {
            return Err(Full);
        }
        let (reads, fixed, together) = self.fit(&stage.vectors, fixed, &[4, 2, 1])?;
        for &(source, register) in &fixed.held {
            if matches!(source, Source::Const(_)) {
                self.hold(source, register);
            }
        }
        if let Some(register) = fixed.narrow {
            self.table(std::array::from_fn(|word| 2 * word as u16 + 1), register);
        }
        if let Some(register) = fixed.widen {
            self.table(std::array::from_fn(|word| word as u16 / 2), register);
            self.table(std::array::from_fn(|word| word as u16 / 2 + 16), register + 1);
        }
        self.load(POINTERS, std::mem::offset_of!(Arguments, pointers));
        self.load(SCALARS, std::mem::offset_of!(Arguments, scalars));
        self.load(LEFT, std::mem::offset_of!(Arguments, rows));
        self.load(END, std::mem::offset_of!(Arguments, columns));
        let row = self.asm.here();
        self.begin_row(stage, &reads, &fixed);
        self.columns(stage, &reads, &fixed, together)?;
        for (at, (f, scalar)) in stage.finished.iter().enumerate() {
            self.finish(*f, fixed.sums[at], *scalar);
        }
        self.asm.add(POINTERS, self.program.pointers.len() * size_of::<*const u8>());
        self.asm.add(SCALARS, size_of::<f32>());
        let less = Instruction::with1(Code::Dec_rm64, LEFT).expect("a register of 64 bits");
        self.asm.put(less);
        self.asm.back(Code::Jne_rel32_64, row);
        Ok(())
    }

    fn begin_row(&mut self, stage: &Stage, reads: &Reads<'_>, fixed: &Fixed) {
        for &(source, register) in &fixed.held {
            if matches!(source, Source::Scalar(_)) {
                self.hold(source, register);
            }
        }
        for ((f, _), &first) in stage.finished.iter().zip(&fixed.sums) {
            if *f == RowReduce::Max {
                self.hold(Source::Const(f32::NEG_INFINITY.to_bits()), first);
                continue;
            }
            for sum in first..first + TURN as u8 {
                let code = Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32;
                self.asm.two(code, sum, sum, Place::Register(sum), Lanes::ALL);
            }
        }
        self.asm.clear(COLUMN);
        if reads.period.is_some() {
            self.asm.clear(REPEATED);
        }
    }

    /// All turns of a row.
    fn columns(
        &mut self,
        stage: &Stage,
        reads: &Reads<'_>,
        fixed: &Fixed,
        together: usize,
    ) -> Result<(), Full> {
        let Program { width, split, .. } = *self.program;
        if width >= COLUMNS {
            let none = split.then(|| {
                self.asm.put(two(Code::Test_rm64_r64, END, END));
                self.asm.forward(Code::Je_rel32_64)
            });
            let turn = self.asm.here();
            self.ask(&stage.asked);
            let all: [Vector; TURN] = std::array::from_fn(|index| Vector { index, part: false });
            for group in all.chunks(together) {
                self.group(reads, fixed, group)?;
            }
            self.asm.add(COLUMN, COLUMNS);
            if let Some(period) = reads.period {
                self.asm.add(REPEATED, COLUMNS);
                // Back to the beginning of what repeats.
                let whole = Instruction::with2(Code::Cmp_rm64_imm32, REPEATED, period as i32);
                self.asm.put(whole.expect("a number of 32 bits"));
                let within = self.asm.forward(Code::Jne_rel32_64);
                self.asm.clear(REPEATED);
                self.asm.land(within);
            }
            self.asm.put(two(Code::Cmp_r64_rm64, COLUMN, END));
            self.asm.back(Code::Jb_rel32_64, turn);
            none.into_iter().for_each(|jump| self.asm.land(jump));
        }
        let rest = width % COLUMNS;
        if rest > 0 {
            let none = split.then(|| {
                let flag = memory(ARGUMENTS, None, std::mem::offset_of!(Arguments, rest), false);
                let asked = Instruction::with2(Code::Cmp_rm64_imm8, flag, 0);
                self.asm.put(asked.expect("a number of 8 bits"));
                self.asm.forward(Code::Je_rel32_64)
            });
            let count = rest.div_ceil(LANES);
            let vector = |index| Vector { index, part: (index + 1) * LANES > rest };
            let all: Vec<Vector> = (0..count).map(vector).collect();
            for group in all.chunks(together) {
                self.group(reads, fixed, group)?;
            }
            none.into_iter().for_each(|jump| self.asm.land(jump));
        }
        Ok(())
    }

    /// Asks for a turn of rows of the next block.
    fn ask(&mut self, asked: &[Asked]) {
        let Program { width, block, .. } = *self.program;
        for &(pointer, size) in asked {
            let at = block * self.program.pointers.len() + usize::from(pointer);
            self.asm.load(SCRATCH, memory(POINTERS, None, at * size_of::<usize>(), false));
            let near = block * width * size <= NEAR;
            let code = if near { Code::Prefetcht0_m8 } else { Code::Prefetcht1_m8 };
            for line in (0..COLUMNS * size).step_by(64) {
                let line = memory(SCRATCH, Some((COLUMN, size)), line, false);
                self.asm.put(Instruction::with1(code, line).expect("any address"));
            }
        }
    }

    /// A turn, or a part of it: every operation for all vectors of the group. Gives the most registers
    /// that were taken at once.
    pub fn group(
        &mut self,
        reads: &Reads<'_>,
        fixed: &Fixed,
        group: &[Vector],
    ) -> Result<u32, Full> {
        let mut free = Free::beside(fixed);
        self.write_group(reads, fixed, group, &mut free)?;
        Ok(free.most)
    }
}
