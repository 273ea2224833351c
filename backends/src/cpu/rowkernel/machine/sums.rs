//! The values of reductions at the end of a row.
//!
//! The order of summation is the interpreter's: 64 lanes in turn while the row is gone through, then
//! their four parts, then halves of the last sixteen.

use super::asm::{Lanes, Place, Zmm, zmm};
use super::generate::Generator;
use super::registers::KNOWN;
use super::write::ORDERED;
use anyid_ir::kernel::RowReduce;
use iced_x86::{Code, Instruction, Register};

impl Generator<'_> {
    /// The value of a reduction: parts of sums, then halves.
    pub fn finish(&mut self, f: RowReduce, first: Zmm, scalar: u16) {
        let add = Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er;
        let largest = f == RowReduce::Max;
        // The second of its registers is free: from here on, or always.
        let other = first + 1;
        if !largest {
            for (to, from) in [(first, first + 2), (first + 1, first + 3), (first, first + 1)] {
                self.asm.two(add, to, to, Place::Register(from), Lanes::ALL);
            }
        }
        for half in 0..4 {
            let (from, all) = (Place::Register(first), Lanes::ALL);
            match half {
                0 => {
                    let to = Register::YMM0 + u32::from(other);
                    let code = Code::EVEX_Vextractf64x4_ymmm256_k1z_zmm_imm8;
                    self.asm.small_by(code, to, zmm(first), 1);
                }
                1 => {
                    let to = Register::XMM0 + u32::from(other);
                    let code = Code::EVEX_Vextractf32x4_xmmm128_k1z_zmm_imm8;
                    self.asm.small_by(code, to, zmm(first), 1);
                }
                2 => {
                    let code = Code::EVEX_Vpermilps_zmm_k1z_zmmm512b32_imm8;
                    self.asm.one_by(code, other, from, 0b1110, all);
                }
                _ => self.asm.one(Code::EVEX_Vmovshdup_zmm_k1z_zmmm512, other, from, all),
            }
            if largest {
                self.asm.compare(KNOWN, first, from, ORDERED, 0);
                let code = Code::EVEX_Vmaxps_zmm_k1z_zmm_zmmm512b32_sae;
                self.asm.two(code, first, first, Place::Register(other), Lanes::merged(KNOWN));
            } else {
                self.asm.two(add, first, first, Place::Register(other), all);
            }
        }
        match f {
            RowReduce::Sum | RowReduce::SumSquares => {}
            RowReduce::Mean | RowReduce::MeanSquares => {
                let width = self.pooled(&[(self.program.width as f32).to_bits()], false);
                let code = Code::EVEX_Vdivss_xmm_k1z_xmm_xmmm32_er;
                let first = Register::XMM0 + u32::from(first);
                let mean = Instruction::with3(code, first, first, width);
                self.asm.put(mean.expect("a number of 32 bits"));
            }
            // A largest element of 0 is +0.
            RowReduce::Max => {
                let zero = Place::Memory(self.pooled(&[0], true));
                self.asm.two(add, first, first, zero, Lanes::ALL);
            }
        }
        let to = self.scalar(scalar, false);
        let from = Register::XMM0 + u32::from(first);
        self.asm.write(Code::EVEX_Vmovss_m32_k1_xmm, to, from, Lanes::ALL);
    }
}
