//! Rows from memory into registers, and back.
//!
//! Elements are widened as they are read and narrowed as they are written. Two whole vectors of bf16
//! lie in one line of memory: the words of both go to their places, or come from there, by one
//! instruction each.

use super::asm::{Lanes, Place, Zmm, zmm};
use super::program::{Source, Test};
use super::registers::{Full, ODD};
use super::write::Writer;
use anyid_ir::DType;
use iced_x86::{Code, Register};

impl Writer<'_, '_, '_, '_> {
    pub fn load(
        &mut self,
        to: Zmm,
        dtype: DType,
        period: Option<usize>,
        lane: usize,
    ) -> Result<(), Full> {
        let lanes = self.present(lane);
        let from = Place::Memory(self.element(lane, dtype.bytes(), period));
        let asm = &mut self.generator.asm;
        match dtype {
            DType::F32 => asm.one(Code::EVEX_Vmovups_zmm_k1z_zmmm512, to, from, lanes),
            DType::Bf16 => {
                asm.one(Code::EVEX_Vpmovzxwd_zmm_k1z_ymmm256, to, from, lanes);
                let code = Code::EVEX_Vpslld_zmm_k1z_zmmm512b32_imm8;
                asm.one_by(code, to, Place::Register(to), 16, Lanes::ALL);
            }
            DType::F16 => asm.one(Code::EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae, to, from, lanes),
            _ => {
                asm.one(Code::EVEX_Vpmovzxbd_zmm_k1z_xmmm128, to, from, lanes);
                let mask = self.free.mask()?;
                let one = Place::Memory(self.generator.pooled(&[1.0_f32.to_bits()], false));
                let asm = &mut self.generator.asm;
                asm.bits(mask, to, Place::Register(to));
                asm.one(Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32, to, one, Lanes::zeroed(mask));
                self.free.give_mask(mask);
            }
        }
        Ok(())
    }

    /// A row of bf16, thirty-two elements for two vectors where they are whole.
    pub fn load_halves(&mut self, at: usize) -> Result<(), Full> {
        let mut lane = 0;
        while lane < self.group.len() {
            let to = self.free.vector()?;
            self.of[at][lane] = to;
            let pair = lane + 1 < self.group.len() && !self.group[lane + 1].part;
            match self.fixed.widen {
                Some(table) if pair => {
                    let next = self.free.vector()?;
                    self.of[at][lane + 1] = next;
                    let from = Place::Memory(self.element(lane, 2, None));
                    for (to, table) in [(to, table), (next, table + 1)] {
                        let code = Code::EVEX_Vpermw_zmm_k1z_zmm_zmmm512;
                        self.generator.asm.two(code, to, table, from, Lanes::zeroed(ODD));
                    }
                    lane += 2;
                }
                _ => {
                    self.load(to, DType::Bf16, None, lane)?;
                    lane += 1;
                }
            }
        }
        Ok(())
    }

    pub fn store(
        &mut self,
        from: Zmm,
        dtype: DType,
        streamed: bool,
        lane: usize,
    ) -> Result<(), Full> {
        let to = self.element(lane, dtype.bytes(), None);
        let (lanes, part) = (self.own(lane), self.group[lane].part);
        match dtype {
            DType::F32 if streamed && !part => {
                let code = Code::EVEX_Vmovntps_m512_zmm;
                self.generator.asm.write(code, to, zmm(from), Lanes::ALL);
            }
            DType::F32 => {
                let code = Code::EVEX_Vmovups_zmmm512_k1z_zmm;
                self.generator.asm.write(code, to, zmm(from), lanes);
            }
            DType::F16 => {
                let code = Code::EVEX_Vcvtps2ph_ymmm256_k1z_zmm_imm8_sae;
                self.generator.asm.write_by(code, to, zmm(from), 0, lanes);
            }
            _ => {
                let (truth, bytes) = (self.free.mask()?, self.free.vector()?);
                let zero = Place::Memory(self.generator.pooled(&[0], true));
                let ones = Place::Memory(self.generator.pooled(&[0x0101_0101], false));
                self.test(Test::Differs, truth, from, zero);
                let asm = &mut self.generator.asm;
                asm.one(Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32, bytes, ones, Lanes::ALL);
                let small = Register::XMM0 + u32::from(bytes);
                asm.small(Code::EVEX_Vmovdqu8_xmm_k1z_xmmm128, small, small, Lanes::zeroed(truth));
                asm.write(Code::EVEX_Vmovdqu8_xmmm128_k1z_xmm, to, small, lanes);
                self.free.give_mask(truth);
                self.free.give(bytes);
            }
        }
        Ok(())
    }

    /// Rows of bf16 out of upper halves, two vectors at once where they are whole.
    pub fn store_halves(&mut self, value: Source, dies: bool, streamed: bool) -> Result<(), Full> {
        let mut lane = 0;
        while lane < self.group.len() {
            let from = self.register(value, lane);
            let bits = if dies { from } else { self.free.vector()? };
            let to = self.element(lane, 2, None);
            let pair = lane + 1 < self.group.len() && !self.group[lane + 1].part;
            match self.fixed.narrow {
                Some(table) if pair => {
                    let next = self.register(value, lane + 1);
                    let asm = &mut self.generator.asm;
                    if !dies {
                        let code = Code::EVEX_Vmovaps_zmm_k1z_zmmm512;
                        asm.one(code, bits, Place::Register(from), Lanes::ALL);
                    }
                    let code = Code::EVEX_Vpermt2w_zmm_k1z_zmm_zmmm512;
                    asm.two(code, bits, table, Place::Register(next), Lanes::ALL);
                    let code = match streamed {
                        true => Code::EVEX_Vmovntdq_m512_zmm,
                        false => Code::EVEX_Vmovdqu64_zmmm512_k1z_zmm,
                    };
                    asm.write(code, to, zmm(bits), Lanes::ALL);
                    lane += 2;
                }
                _ => {
                    let lanes = self.own(lane);
                    let asm = &mut self.generator.asm;
                    let code = Code::EVEX_Vpsrld_zmm_k1z_zmmm512b32_imm8;
                    asm.one_by(code, bits, Place::Register(from), 16, Lanes::ALL);
                    let half = Register::YMM0 + u32::from(bits);
                    asm.small(Code::EVEX_Vpmovdw_ymmm256_k1z_zmm, half, zmm(bits), Lanes::ALL);
                    asm.write(Code::EVEX_Vmovdqu16_ymmm256_k1z_ymm, to, half, lanes);
                    lane += 1;
                }
            }
            if !dies {
                self.free.give(bits);
            }
        }
        Ok(())
    }
}
