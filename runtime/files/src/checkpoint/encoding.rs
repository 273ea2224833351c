//! How the elements of a stored tensor are encoded, and what they are as numbers.
//!
//! The set is closed. An encoding of another file format is one more member with its block and its
//! decoding; those of blocks that share a scale are decoded in `blocks`. Nothing outside these two
//! files counts bytes of elements or decodes them. Stored data may start at any byte, so nothing
//! here casts it in place: elements are read byte by byte, in pieces that become vector code. Each
//! value is rounded at most once.

use anyid_ir::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::fmt;

use super::blocks;
use crate::error::{Error, Result};

/// How the elements of a stored tensor are encoded: little-endian, in row-major order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// 8-bit float, 4 exponent bits, no infinities (`float8_e4m3fn`).
    F8E4M3,
    /// 8-bit float, 5 exponent bits.
    F8E5M2,
    /// Blocks of 32 with 4 bits each and one scale.
    Q4_0,
    /// Blocks of 32 with 4 bits each, one scale and one minimum.
    Q4_1,
    /// Blocks of 32 with 5 bits each and one scale.
    Q5_0,
    /// Blocks of 32 with 5 bits each, one scale and one minimum.
    Q5_1,
    /// Blocks of 32 with 8 bits each and one scale.
    Q8_0,
    /// Blocks of 256 with 2 bits each; runs of 16 have scales and minima of their own.
    Q2K,
    /// Blocks of 256 with 3 bits each; runs of 16 have scales of their own.
    Q3K,
    /// Blocks of 256 with 4 bits each; runs of 32 have scales and minima of their own.
    Q4K,
    /// Blocks of 256 with 5 bits each; runs of 32 have scales and minima of their own.
    Q5K,
    /// Blocks of 256 with 6 bits each; runs of 16 have scales of their own.
    Q6K,
    /// Blocks of 32 with 4 bits each that choose among 16 uneven values, and one scale.
    Iq4Nl,
    /// Blocks of 256 with 4 bits each that choose among 16 uneven values; runs of 32 have scales of
    /// their own.
    Iq4Xs,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 64-bit integer.
    U64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte per value, zero is false.
    Bool,
}

/// The smallest run of elements that can be read by itself. Blocks lie along the last axis; for all
/// encodings without a shared scale a block is one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Elements in a block.
    pub elements: u64,
    /// Bytes that a block takes.
    pub bytes: u64,
}

impl Block {
    /// Bytes of a tensor of this shape; `None` if they do not fit 64 bits, or if its rows are no
    /// whole blocks.
    ///
    /// A zero dimension does not excuse an overflow among the others: later stride arithmetic
    /// multiplies those as well.
    fn bytes_of(self, shape: &[u64]) -> Option<u64> {
        let (last, outer) = shape.split_last().unwrap_or((&1, &[]));
        if !last.is_multiple_of(self.elements) {
            return None;
        }
        let nonzero = outer
            .iter()
            .chain([&(last / self.elements)])
            .filter(|&&size| size != 0)
            .try_fold(self.bytes, |bytes, &size| bytes.checked_mul(size))?;
        Some(if shape.contains(&0) { 0 } else { nonzero })
    }

    /// The blocks that hold `count` elements from the `first` on: the number of the first block, and
    /// how many there are.
    fn span(self, first: u64, count: u64) -> (u64, u64) {
        let begin = first / self.elements;
        (begin, (first + count).div_ceil(self.elements) - begin)
    }
}

/// Elements decoded at a time: small enough for the stack, large enough for wide instructions, and
/// a whole number of blocks of every encoding.
pub(super) const PIECE: usize = 1024;

impl Encoding {
    /// Every encoding, in declaration order.
    pub const ALL: [Self; 27] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U64,
        Self::U32,
        Self::U16,
        Self::U8,
        Self::Bool,
    ];

    /// Its name: that of safetensors headers, such as `BF16`, or that of GGUF files for blocks, such
    /// as `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq4Xs => "IQ4_XS",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U64 => "U64",
            Self::U32 => "U32",
            Self::U16 => "U16",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }

    /// The encodings that stand in safetensors headers: all in which an element stands by itself.
    pub(super) fn of_elements() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|encoding| encoding.block().elements == 1)
    }

    /// The encoding that has this name in safetensors headers.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::of_elements().find(|encoding| encoding.name() == name)
    }

    /// Its block.
    pub fn block(self) -> Block {
        let (elements, bytes) = match self {
            Self::F64 | Self::I64 | Self::U64 => (1, 8),
            Self::F32 | Self::I32 | Self::U32 => (1, 4),
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => (1, 2),
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 | Self::Bool => (1, 1),
            Self::Q4_0 | Self::Iq4Nl => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
            Self::Iq4Xs => (256, 136),
        };
        Block { elements, bytes }
    }

    /// Bytes of a tensor of this encoding and shape; `None` if there is no such tensor: its bytes do
    /// not fit 64 bits, or its rows are no whole blocks.
    pub fn bytes_of(self, shape: &[u64]) -> Option<u64> {
        self.block().bytes_of(shape)
    }

    /// Whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        match self {
            Self::F64 | Self::F32 | Self::F16 | Self::Bf16 | Self::F8E4M3 | Self::F8E5M2 => true,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => true,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => true,
            Self::Iq4Nl | Self::Iq4Xs => true,
            Self::I64 | Self::I32 | Self::I16 | Self::I8 => false,
            Self::U64 | Self::U32 | Self::U16 | Self::U8 | Self::Bool => false,
        }
    }

    /// Whether it has 16 bits or fewer for a value and is made from bf16 or for arithmetic in bf16:
    /// BF16 itself, eight bits, and blocks.
    pub fn is_narrow(self) -> bool {
        self.is_float() && !matches!(self, Self::F64 | Self::F32 | Self::F16)
    }

    /// The element type of the IR that has the same bytes, if there is one.
    pub fn element_type(self) -> Option<DType> {
        match self {
            Self::F64 => Some(DType::F64),
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::Bf16),
            Self::I32 => Some(DType::I32),
            Self::U8 => Some(DType::U8),
            Self::Bool => Some(DType::Bool),
            Self::F8E4M3 | Self::F8E5M2 | Self::I64 | Self::I16 | Self::I8 => None,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => None,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => None,
            Self::Iq4Nl | Self::Iq4Xs => None,
            Self::U64 | Self::U32 | Self::U16 => None,
        }
    }

    /// The encoding with the same bytes as an element type of the IR.
    pub fn of_element_type(dtype: DType) -> Self {
        match dtype {
            DType::F64 => Self::F64,
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::Bf16 => Self::Bf16,
            DType::I32 => Self::I32,
            DType::U8 => Self::U8,
            DType::Bool => Self::Bool,
        }
    }

    /// The encoding in which elements of this one can be moved one by one: itself, or F32 where they
    /// share a block.
    pub(super) fn by_element(self) -> Self {
        if self.block().elements == 1 { self } else { Self::F32 }
    }

    /// Decodes whole blocks of floating-point elements to f32.
    ///
    /// F64 is rounded to nearest even; all other encodings are exact. `out` has one element per
    /// element of the bytes.
    ///
    /// # Errors
    /// E0321 for an encoding of integers, E0322 for a wrong length.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) -> Result<()> {
        if self.bytes_of(&[out.len() as u64]) != Some(bytes.len() as u64) {
            let (given, room) = (bytes.len(), out.len());
            return Err(Error::internal(
                "E0322",
                format!("a {self} tensor of {given} bytes is to be converted into {room} elements"),
            )
            .help("this is a fault of the program: please report it"));
        }
        match self {
            Self::F32 => {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*raw);
                }
            }
            Self::F64 => {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
                    *value = f64::from_le_bytes(*raw) as f32;
                }
            }
            Self::Bf16 => {
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
                }
            }
            Self::F16 => {
                let mut piece = [f16::ZERO; PIECE];
                for (out, raw) in out.chunks_mut(PIECE).zip(bytes.chunks(2 * PIECE)) {
                    let piece = &mut piece[..out.len()];
                    for (value, raw) in piece.iter_mut().zip(raw.as_chunks::<2>().0) {
                        *value = f16::from_le_bytes(*raw);
                    }
                    piece.convert_to_f32_slice(out);
                }
            }
            Self::F8E5M2 => {
                for (value, &raw) in out.iter_mut().zip(bytes) {
                    *value = f16::from_bits(u16::from(raw) << 8).to_f32();
                }
            }
            Self::F8E4M3 => {
                let table: [f32; 256] = std::array::from_fn(|code| e4m3_to_f32(code as u8));
                for (value, &raw) in out.iter_mut().zip(bytes) {
                    *value = table[usize::from(raw)];
                }
            }
            Self::Q4_0 => blocks::each(bytes, out, blocks::q4_0),
            Self::Q4_1 => blocks::each(bytes, out, blocks::q4_1),
            Self::Q5_0 => blocks::each(bytes, out, blocks::q5_0),
            Self::Q5_1 => blocks::each(bytes, out, blocks::q5_1),
            Self::Q8_0 => blocks::each(bytes, out, blocks::q8_0),
            Self::Q2K => blocks::each(bytes, out, blocks::q2_k),
            Self::Q3K => blocks::each(bytes, out, blocks::q3_k),
            Self::Q4K => blocks::each(bytes, out, blocks::q4_k),
            Self::Q5K => blocks::each(bytes, out, blocks::q5_k),
            Self::Q6K => blocks::each(bytes, out, blocks::q6_k),
            Self::Iq4Nl => blocks::each(bytes, out, blocks::iq4_nl),
            Self::Iq4Xs => blocks::each(bytes, out, blocks::iq4_xs),
            Self::I64
            | Self::I32
            | Self::I16
            | Self::I8
            | Self::U64
            | Self::U32
            | Self::U16
            | Self::U8
            | Self::Bool => {
                let message = format!("a tensor of dtype {self} cannot serve as a weight");
                return Err(Error::input("E0321", message)
                    .help("weights are F64, F32, F16, BF16, F8_E4M3, F8_E5M2 or blocks of GGUF"));
            }
        }
        Ok(())
    }

    /// Whether values can be rounded to it.
    pub fn can_encode(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Writes values in this encoding, each rounded once to nearest even.
    ///
    /// # Errors
    /// E0322 for a wrong length, or an encoding that is only read.
    pub fn encode(self, values: &[f32], out: &mut [u8]) -> Result<()> {
        let fits = self.bytes_of(&[values.len() as u64]) == Some(out.len() as u64);
        if !self.can_encode() || !fits {
            let (given, room) = (values.len(), out.len());
            let what = format!("{given} values are to be written into {room} bytes as {self}");
            return Err(Error::internal("E0322", what)
                .help("this is a fault of the program: please report it"));
        }
        match self {
            Self::F64 => {
                for (out, value) in out.as_chunks_mut::<8>().0.iter_mut().zip(values) {
                    *out = f64::from(*value).to_le_bytes();
                }
            }
            Self::Bf16 => {
                for (out, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                    *out = bf16::from_f32(*value).to_le_bytes();
                }
            }
            Self::F16 => {
                for (out, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                    *out = f16::from_f32(*value).to_le_bytes();
                }
            }
            _ => {
                for (out, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *out = value.to_le_bytes();
                }
            }
        }
        Ok(())
    }

    /// Decodes the elements from the `first` on into `out`, of bytes that `read` gives: it fills a
    /// buffer with those from an offset on.
    ///
    /// # Errors
    /// Those of `read`, and as [`Encoding::decode`].
    pub(super) fn decode_from(
        self,
        mut first: u64,
        mut out: &mut [f32],
        mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let block = self.block();
        let (mut stored, mut values) = ([0; PIECE * 8], [0f32; PIECE]);
        while !out.is_empty() {
            let skipped = (first % block.elements) as usize;
            let count = out.len().min(PIECE - skipped);
            let (begin, blocks) = block.span(first, count as u64);
            let stored = &mut stored[..(blocks * block.bytes) as usize];
            read(begin * block.bytes, stored)?;
            let values = &mut values[..(blocks * block.elements) as usize];
            self.decode(stored, values)?;
            let (now, rest) = out.split_at_mut(count);
            now.copy_from_slice(&values[skipped..skipped + count]);
            (out, first) = (rest, first + count as u64);
        }
        Ok(())
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `float8_e4m3fn`: bias 7, no infinities, NaN is 0x7f and 0xff.
fn e4m3_to_f32(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    sign * magnitude
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_at_any_alignment() {
        let values: Vec<f32> = (0..3000).map(|i| (i as f32 - 1500.0) * 0.37).collect();
        for shift in 0..8 {
            let mut bytes = vec![0u8; shift];
            values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
            let mut out = vec![0.0; 3000];
            Encoding::F32.decode(&bytes[shift..], &mut out).unwrap();
            assert_eq!(out, values);
            let mut bytes = vec![0u8; shift];
            values.iter().for_each(|v| bytes.extend((f64::from(*v) + 1e-12).to_le_bytes()));
            Encoding::F64.decode(&bytes[shift..], &mut out).unwrap();
            let near: Vec<f32> = values.iter().map(|v| (f64::from(*v) + 1e-12) as f32).collect();
            assert_eq!(out, near, "rounded to nearest");
        }
    }

    #[test]
    fn every_16_bit_code_decodes_as_the_half_crate_does() {
        let codes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut bytes = vec![0];
        bytes.extend(&codes);
        let mut wide = vec![0.0; 65536];
        Encoding::F16.decode(&bytes[1..], &mut wide).unwrap();
        for code in 0..=u16::MAX {
            let value = f16::from_bits(code);
            let at = usize::from(code);
            assert!(wide[at] == value.to_f32() || value.is_nan() && wide[at].is_nan());
        }
        Encoding::Bf16.decode(&bytes[1..], &mut wide).unwrap();
        for code in 0..=u16::MAX {
            assert_eq!(wide[usize::from(code)].to_bits(), u32::from(code) << 16);
        }
    }

    #[test]
    fn eight_bit_floats_follow_their_definition() {
        let codes: Vec<u8> = (0..=255).collect();
        let mut out = [0.0; 256];
        Encoding::F8E4M3.decode(&codes, &mut out).unwrap();
        assert_eq!(out[0], 0.0);
        assert_eq!(out[0x80].to_bits(), (-0.0f32).to_bits());
        assert_eq!(out[1], 2f32.powi(-9));
        assert_eq!(out[8], 2f32.powi(-6));
        assert_eq!(out[0x38], 1.0);
        assert_eq!(out[0x7e], 448.0);
        assert_eq!(out[0xfe], -448.0);
        assert!(out[0x7f].is_nan() && out[0xff].is_nan());
        Encoding::F8E5M2.decode(&codes, &mut out).unwrap();
        assert_eq!(out[1], 2f32.powi(-16));
        assert_eq!(out[0x3c], 1.0);
        assert_eq!(out[0x7b], 57344.0);
        assert_eq!(out[0x7c], f32::INFINITY);
        assert!(out[0x7d].is_nan());
    }

    #[test]
    fn a_range_of_elements_is_the_same_as_a_part_of_all() {
        let codes: Vec<u8> = (0..5000).map(|i| (i * 7 % 120) as u8).collect();
        let mut all = vec![0.0; 5000];
        Encoding::F8E4M3.decode(&codes, &mut all).unwrap();
        for (first, count) in [(0, 5000), (1, 4999), (1023, 2), (4999, 1), (5000, 0)] {
            let mut part = vec![0.0; count];
            let read = |from: u64, out: &mut [u8]| {
                out.copy_from_slice(&codes[from as usize..][..out.len()]);
                Ok(())
            };
            Encoding::F8E4M3.decode_from(first as u64, &mut part, read).unwrap();
            assert_eq!(part, all[first..first + count]);
        }
    }

    #[test]
    fn blocks_of_several_elements_are_counted_along_the_rows() {
        let quantised = Block { elements: 32, bytes: 18 };
        assert_eq!(quantised.bytes_of(&[3, 64]), Some(3 * 2 * 18));
        assert_eq!(quantised.bytes_of(&[64, 3]), None, "a row is no whole block");
        assert_eq!(quantised.bytes_of(&[0, 64]), Some(0));
        assert_eq!(quantised.bytes_of(&[u64::MAX / 18, 64]), None);
        assert_eq!(quantised.span(0, 32), (0, 1));
        assert_eq!(quantised.span(31, 2), (0, 2));
        assert_eq!(quantised.span(64, 0), (2, 0));
        for encoding in Encoding::ALL {
            let block = encoding.block();
            assert!((PIECE as u64).is_multiple_of(block.elements));
            assert!(PIECE as u64 / block.elements * block.bytes <= 8 * PIECE as u64);
            let own = if block.elements == 1 { encoding } else { Encoding::F32 };
            assert_eq!(encoding.by_element(), own);
        }
    }

    #[test]
    fn element_types_have_an_encoding_of_the_same_size() {
        for encoding in Encoding::ALL {
            if let Some(dtype) = encoding.element_type() {
                assert_eq!(Encoding::of_element_type(dtype), encoding);
                assert_eq!(encoding.block().bytes, dtype.bytes() as u64);
            }
        }
    }

    #[test]
    fn refuses_integers_and_wrong_lengths() {
        assert_eq!(Encoding::I32.decode(&[0; 4], &mut [0.0]).unwrap_err().code(), "E0321");
        assert_eq!(Encoding::Bool.decode(&[0], &mut [0.0]).unwrap_err().code(), "E0321");
        assert_eq!(Encoding::F32.decode(&[0; 4], &mut [0.0; 2]).unwrap_err().code(), "E0322");
        assert_eq!(Encoding::F32.decode(&[0; 5], &mut [0.0]).unwrap_err().code(), "E0322");
    }
}
