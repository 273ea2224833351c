//! Operations of a program as instructions, for the vectors of a group.
//!
//! Each operation is written for one vector after the other. The result takes the register of an
//! operand that is read for the last time, where the instruction allows. One operand of an
//! instruction may lie in memory: the last one, or any of a fused multiply-add, which has a form for
//! each.

use super::asm::{Lanes, Mask, Place, Zmm, memory, zmm};
use super::generate::{COLUMNS, Generator, Vector};
use super::program::{One, Op, Source, TURN, Test, Two};
use super::reads::Reads;
use super::registers::{
    COLUMN, Fixed, Free, Full, KNOWN, PART, POINTERS, REPEATED, SCALARS, SCRATCH,
};
use crate::cpu::math::LANES;
use anyid_ir::DType;
use anyid_ir::kernel::RowReduce;
use iced_x86::{Code, MemoryOperand, Register};
use smallvec::SmallVec;

/// Comparisons as the instruction numbers them.
const EQUAL: u32 = 0x00;
const UNORDERED: u32 = 0x03;
const DIFFERS: u32 = 0x04;
pub(super) const ORDERED: u32 = 0x07;
const LESS: u32 = 0x11;
const LESS_OR_EQUAL: u32 = 0x12;
/// To the nearest, without an exception.
const NEAREST: u32 = 8;

fn code_of(f: Two) -> Code {
    match f {
        Two::Add => Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er,
        Two::Sub => Code::EVEX_Vsubps_zmm_k1z_zmm_zmmm512b32_er,
        Two::Mul => Code::EVEX_Vmulps_zmm_k1z_zmm_zmmm512b32_er,
        Two::Div => Code::EVEX_Vdivps_zmm_k1z_zmm_zmmm512b32_er,
        Two::Max => Code::EVEX_Vmaxps_zmm_k1z_zmm_zmmm512b32_sae,
        Two::Min => Code::EVEX_Vminps_zmm_k1z_zmm_zmmm512b32_sae,
        Two::And => Code::EVEX_Vpandd_zmm_k1z_zmm_zmmm512b32,
        Two::Or => Code::EVEX_Vpord_zmm_k1z_zmm_zmmm512b32,
        Two::Xor => Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32,
        Two::Count => Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32,
        Two::Scale => Code::EVEX_Vscalefps_zmm_k1z_zmm_zmmm512b32_er,
    }
}

/// Registers of values, and masks, for each vector of a group.
type Registers = [Zmm; TURN];

impl Generator<'_> {
    /// Writes all operations for the vectors of a group.
    pub fn write_group(
        &mut self,
        reads: &Reads<'_>,
        fixed: &Fixed,
        group: &[Vector],
        free: &mut Free,
    ) -> Result<(), Full> {
        let mut writer = Writer {
            of: vec![[0; TURN]; reads.ops.len()],
            generator: self,
            reads,
            fixed,
            group,
            free,
        };
        for at in 0..reads.ops.len() {
            writer.op(at)?;
        }
        Ok(())
    }
}

pub(super) struct Writer<'w, 'g, 'p, 'o> {
    pub generator: &'w mut Generator<'p>,
    pub reads: &'g Reads<'o>,
    pub fixed: &'g Fixed,
    pub group: &'g [Vector],
    pub free: &'w mut Free,
    /// What each operation has made, for each vector.
    pub of: Vec<Registers>,
}

impl Writer<'_, '_, '_, '_> {
    fn op(&mut self, at: usize) -> Result<(), Full> {
        let op = self.reads.ops[at];
        if let Some(pointer) = pointer_of(&op) {
            let bytes = usize::from(pointer) * size_of::<usize>();
            self.generator.asm.load(SCRATCH, memory(POINTERS, None, bytes, false));
        }
        if let Op::Load { dtype: DType::Bf16, period: None, .. } = op {
            return self.load_halves(at);
        }
        if let Op::Store { dtype: DType::Bf16, streamed, value, .. } = op {
            self.store_halves(value, self.reads.dies(value, at), streamed)?;
            self.release(&op, at, None);
            return Ok(());
        }
        for lane in 0..self.group.len() {
            self.one_vector(at, &op, lane)?;
        }
        Ok(())
    }

    /// Gives back the registers of what is read for the last time: of one vector, or of all.
    fn release(&mut self, op: &Op, at: usize, lane: Option<usize>) {
        let lanes = lane.map_or(0..self.group.len(), |lane| lane..lane + 1);
        for lane in lanes {
            let mut given: SmallVec<[u16; 3]> = SmallVec::new();
            for source in op.sources() {
                if let Source::Value(value) = source
                    && self.reads.dies(source, at)
                    && !given.contains(&value)
                {
                    given.push(value);
                    self.free.give(self.of[usize::from(value)][lane]);
                }
            }
            if let Some(mask) = op.mask()
                && self.reads.last[usize::from(mask)] == at
            {
                self.free.give_mask(self.of[usize::from(mask)][lane]);
            }
        }
    }

    pub fn register(&self, source: Source, lane: usize) -> Zmm {
        match source {
            Source::Value(value) => self.of[usize::from(value)][lane],
            number => self.fixed.of(number).expect("numbers that cannot lie in memory are held"),
        }
    }

    fn place(&mut self, source: Source, lane: usize) -> Place {
        match source {
            Source::Value(value) => Place::Register(self.of[usize::from(value)][lane]),
            Source::Row(_) => Place::Memory(self.element(lane, 4, None)),
            number => match (self.fixed.of(number), number) {
                (Some(register), _) => Place::Register(register),
                (None, Source::Scalar(scalar)) => {
                    Place::Memory(self.generator.scalar(scalar, true))
                }
                (None, Source::Const(bits)) => Place::Memory(self.generator.pooled(&[bits], true)),
                (None, _) => unreachable!("matched above"),
            },
        }
    }

    /// Where the vector's elements of so many bytes lie behind the pointer.
    pub fn element(&self, lane: usize, size: usize, period: Option<usize>) -> MemoryOperand {
        let ahead = self.group[lane].index * LANES;
        let (column, ahead) = match period {
            None => (Some((COLUMN, size)), ahead),
            Some(period) if period > COLUMNS => (Some((REPEATED, size)), ahead),
            Some(period) => (None, ahead % period),
        };
        memory(SCRATCH, column, ahead * size, false)
    }

    /// Lanes that are the row's, for what reads memory: others become 0.
    pub fn present(&self, lane: usize) -> Lanes {
        Lanes::zeroed(if self.group[lane].part { PART } else { 0 })
    }

    /// Lanes that are the row's, for what writes memory.
    pub fn own(&self, lane: usize) -> Lanes {
        Lanes::merged(if self.group[lane].part { PART } else { 0 })
    }

    fn lanes_of(&self, sources: &[Source], lane: usize) -> Lanes {
        let reads = sources.iter().any(|source| matches!(source, Source::Row(_)));
        if reads { self.present(lane) } else { Lanes::ALL }
    }

    /// Operation `at` for one vector of the group.
    fn one_vector(&mut self, at: usize, op: &Op, lane: usize) -> Result<(), Full> {
        match *op {
            Op::Load { dtype, period, .. } => {
                let to = self.free.vector()?;
                self.of[at][lane] = to;
                self.load(to, dtype, period, lane)?;
            }
            Op::Number(scalar) => {
                let to = self.free.vector()?;
                self.of[at][lane] = to;
                let from = Place::Memory(self.numbers_of(scalar));
                let code = Code::EVEX_Vmovups_zmm_k1z_zmmm512;
                self.generator.asm.one(code, to, from, Lanes::ALL);
            }
            Op::One(f, a) => {
                let from = self.place(a, lane);
                self.release(op, at, Some(lane));
                let to = self.free.vector()?;
                self.of[at][lane] = to;
                self.one(f, to, from, self.lanes_of(&[a], lane));
            }
            Op::Two(f, a, b) => {
                let (first, second) = (self.register(a, lane), self.place(b, lane));
                self.release(op, at, Some(lane));
                let to = self.free.vector()?;
                self.of[at][lane] = to;
                let lanes = self.lanes_of(&[b], lane);
                self.generator.asm.two(code_of(f), to, first, second, lanes);
            }
            Op::Fma(a, b, c) => self.fused(at, op, &FMA, [a, b, c], lane)?,
            Op::Turn(a, b, c) => self.fused(at, op, &TURNED, [a, b, c], lane)?,
            Op::Test(how, a, b) => {
                let (first, second) = (self.register(a, lane), self.place(b, lane));
                self.release(op, at, Some(lane));
                let to = self.free.mask()?;
                self.of[at][lane] = to;
                self.test(how, to, first, second);
            }
            Op::Masked(f, mask, base, a, b) => {
                let (first, second) = (self.register(a, lane), self.place(b, lane));
                let mask = self.of[usize::from(mask)][lane];
                let to = self.over(base, op, at, lane)?;
                self.generator.asm.two(code_of(f), to, first, second, Lanes::merged(mask));
            }
            Op::Blend(mask, no, yes) => {
                let mask = self.of[usize::from(mask)][lane];
                let second = self.place(yes, lane);
                let first = (no != Source::Const(0)).then(|| self.register(no, lane));
                self.release(op, at, Some(lane));
                let to = self.free.vector()?;
                self.of[at][lane] = to;
                self.blend(to, mask, first, second);
            }
            Op::Store { dtype, streamed, value, .. } => {
                let from = self.register(value, lane);
                self.store(from, dtype, streamed, lane)?;
                self.release(op, at, Some(lane));
            }
            Op::Keep(scalar, value) => {
                let (to, from) = (self.numbers_of(scalar), zmm(self.register(value, lane)));
                let code = Code::EVEX_Vmovups_zmmm512_k1z_zmm;
                self.generator.asm.write(code, to, from, Lanes::ALL);
                self.release(op, at, Some(lane));
            }
            Op::Reduce(f, sums, value) => {
                self.reduce(f, self.fixed.sums[usize::from(sums)], value, lane);
                self.release(op, at, Some(lane));
            }
        }
        // What nobody reads, such as a value that is computed for another's sake alone.
        if self.reads.last[at] == at {
            match op {
                Op::Test(..) => self.free.give_mask(self.of[at][lane]),
                Op::Store { .. } | Op::Keep(..) | Op::Reduce(..) => {}
                _ => self.free.give(self.of[at][lane]),
            }
        }
        Ok(())
    }

    fn numbers_of(&self, scalar: u16) -> MemoryOperand {
        let bytes = 4 * usize::from(scalar) * self.generator.program.pitch;
        memory(SCALARS, Some((COLUMN, 4)), bytes, false)
    }

    /// A register with the value of `base` that may be overwritten, as the result of operation `at`.
    fn over(&mut self, base: Source, op: &Op, at: usize, lane: usize) -> Result<Zmm, Full> {
        let from = self.register(base, lane);
        let own = self.reads.dies(base, at);
        let to = if own { from } else { self.free.vector()? };
        if !own {
            let code = Code::EVEX_Vmovaps_zmm_k1z_zmmm512;
            self.generator.asm.one(code, to, Place::Register(from), Lanes::ALL);
        }
        self.release(op, at, Some(lane));
        if own {
            self.free.keep(from);
        }
        self.of[at][lane] = to;
        Ok(to)
    }

    fn one(&mut self, f: One, to: Zmm, from: Place, lanes: Lanes) {
        let asm = &mut self.generator.asm;
        match f {
            One::Sqrt => asm.one(Code::EVEX_Vsqrtps_zmm_k1z_zmmm512b32_er, to, from, lanes),
            One::Even => asm.one(Code::EVEX_Vmovsldup_zmm_k1z_zmmm512, to, from, lanes),
            One::Odd => asm.one(Code::EVEX_Vmovshdup_zmm_k1z_zmmm512, to, from, lanes),
            One::Round => {
                let code = Code::EVEX_Vrndscaleps_zmm_k1z_zmmm512b32_imm8_sae;
                asm.one_by(code, to, from, NEAREST, lanes);
            }
            One::Swap => {
                let code = Code::EVEX_Vpermilps_zmm_k1z_zmmm512b32_imm8;
                asm.one_by(code, to, from, 0b10_11_00_01, lanes);
            }
            One::Half => {
                let Place::Register(from) = from else { unreachable!("made by an operation") };
                let half = Register::YMM0 + u32::from(to);
                asm.small_by(Code::EVEX_Vcvtps2ph_ymmm256_k1z_zmm_imm8_sae, half, zmm(from), 0);
                asm.small(Code::EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae, zmm(to), half, Lanes::ALL);
            }
        }
    }

    pub fn test(&mut self, how: Test, to: Mask, first: Zmm, second: Place) {
        let asm = &mut self.generator.asm;
        let how = match how {
            Test::Bits => return asm.bits(to, first, second),
            Test::Equal => EQUAL,
            Test::Less => LESS,
            Test::LessOrEqual => LESS_OR_EQUAL,
            Test::Differs => DIFFERS,
            Test::Ordered => ORDERED,
            Test::Unordered => UNORDERED,
        };
        asm.compare(to, first, second, how, 0);
    }

    fn blend(&mut self, to: Zmm, mask: Mask, no: Option<Zmm>, yes: Place) {
        let asm = &mut self.generator.asm;
        match (no, yes) {
            (Some(no), yes) => {
                let code = Code::EVEX_Vblendmps_zmm_k1z_zmm_zmmm512b32;
                asm.two(code, to, no, yes, Lanes::merged(mask));
            }
            (None, Place::Register(_)) => {
                asm.one(Code::EVEX_Vmovaps_zmm_k1z_zmmm512, to, yes, Lanes::zeroed(mask));
            }
            (None, Place::Memory(mut yes)) => {
                yes.is_broadcast = false;
                let (code, yes) = (Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32, Place::Memory(yes));
                asm.one(code, to, yes, Lanes::zeroed(mask));
            }
        }
    }

    /// A product and a sum. The result lies over an operand that dies, or over a copy.
    fn fused(
        &mut self,
        at: usize,
        op: &Op,
        forms: &Forms,
        sources: [Source; 3],
        lane: usize,
    ) -> Result<(), Full> {
        let [a, b, c] = sources;
        let lies = |source: Source| match source {
            Source::Value(_) => false,
            Source::Row(_) => true,
            number => self.fixed.of(number).is_none(),
        };
        let places = [lies(a), lies(b), lies(c)];
        let dies = |at_source: usize| !places[at_source] && self.reads.dies(sources[at_source], at);
        let any = |at_source: usize| !places[at_source];
        let order = [2, 0, 1];
        let to = order.into_iter().find(|which| dies(*which));
        let to = to.or_else(|| order.into_iter().find(|which| any(*which))).ok_or(Full)?;
        let lanes = self.lanes_of(&sources, lane);
        // The form, the operand in a register, and the one that may lie in memory.
        let (form, second, third) = match to {
            2 if places[0] => (forms.sum, b, a),
            2 => (forms.sum, a, b),
            _ => {
                let other = if to == 0 { 1 } else { 0 };
                match places[other] {
                    true => (forms.first, c, sources[other]),
                    false => (forms.product, sources[other], c),
                }
            }
        };
        let (second, third) = (self.register(second, lane), self.place(third, lane));
        let to = self.over(sources[to], op, at, lane)?;
        self.generator.asm.two(form, to, second, third, lanes);
        Ok(())
    }

    fn reduce(&mut self, f: RowReduce, first: Zmm, value: Source, lane: usize) {
        let lanes = self.own(lane);
        let sum = first + self.group[lane].index as u8;
        let from = self.place(value, lane);
        match f {
            RowReduce::Sum | RowReduce::Mean => {
                self.generator.asm.two(code_of(Two::Add), sum, sum, from, lanes);
            }
            RowReduce::SumSquares | RowReduce::MeanSquares => {
                let (code, value) = (FMA.sum, self.register(value, lane));
                self.generator.asm.two(code, sum, value, Place::Register(value), lanes);
            }
            RowReduce::Max => {
                let asm = &mut self.generator.asm;
                // A largest that is NaN stays.
                asm.compare(KNOWN, first, Place::Register(first), ORDERED, lanes.mask);
                asm.two(code_of(Two::Max), first, first, from, Lanes::merged(KNOWN));
            }
        }
    }
}

/// Forms of a fused product and sum, by what the result lies over: `to · second + third`,
/// `to · third + second`, `second · third + to`.
struct Forms {
    product: Code,
    first: Code,
    sum: Code,
}

const FMA: Forms = Forms {
    product: Code::EVEX_Vfmadd213ps_zmm_k1z_zmm_zmmm512b32_er,
    first: Code::EVEX_Vfmadd132ps_zmm_k1z_zmm_zmmm512b32_er,
    sum: Code::EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er,
};
const TURNED: Forms = Forms {
    product: Code::EVEX_Vfmaddsub213ps_zmm_k1z_zmm_zmmm512b32_er,
    first: Code::EVEX_Vfmaddsub132ps_zmm_k1z_zmm_zmmm512b32_er,
    sum: Code::EVEX_Vfmaddsub231ps_zmm_k1z_zmm_zmmm512b32_er,
};

/// The pointer of an operation that reads or writes memory.
fn pointer_of(op: &Op) -> Option<u16> {
    match *op {
        Op::Load { pointer, .. } | Op::Store { pointer, .. } => Some(pointer),
        _ => op.sources().find_map(|source| match source {
            Source::Row(pointer) => Some(pointer),
            _ => None,
        }),
    }
}
