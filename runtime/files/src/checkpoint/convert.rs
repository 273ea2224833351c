//! Stored elements of any dtype as f32 or bf16.
//!
//! Tensor data may start at any byte, so nothing here casts it in place: elements are read
//! byte-wise, in pieces that become vector code. Each value is rounded at most once.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::header::TensorDtype;
use crate::error::{Error, Result};

/// A stored tensor in memory: little-endian bytes, row-major, at any alignment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: TensorDtype,
    /// Sizes, slowest dimension first; empty for a scalar.
    pub shape: &'a [u64],
    /// Exactly `elements · dtype.size_bytes()` bytes.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.bytes.len() / self.dtype.size_bytes() as usize
    }
}

/// Elements converted at a time: small enough for the stack, large enough for wide instructions.
const BLOCK: usize = 1024;

/// Decodes a floating-point tensor to f32.
///
/// F64 is rounded to nearest even; all other float dtypes are exact. `out` has one element per
/// element of the tensor. Errors: E0321 for a dtype that is no float, E0322 for a wrong length.
pub fn to_f32_into(tensor: &TensorView<'_>, out: &mut [f32]) -> Result<()> {
    check_length(tensor, out.len())?;
    let bytes = tensor.bytes;
    match tensor.dtype {
        TensorDtype::F32 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*raw);
            }
        }
        TensorDtype::F64 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *value = f64::from_le_bytes(*raw) as f32;
            }
        }
        TensorDtype::Bf16 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
            }
        }
        TensorDtype::F16 => {
            let mut block = [f16::ZERO; BLOCK];
            for (out, raw) in out.chunks_mut(BLOCK).zip(bytes.chunks(2 * BLOCK)) {
                let block = &mut block[..out.len()];
                for (value, raw) in block.iter_mut().zip(raw.as_chunks::<2>().0) {
                    *value = f16::from_le_bytes(*raw);
                }
                block.convert_to_f32_slice(out);
            }
        }
        TensorDtype::F8E5M2 => {
            for (value, &raw) in out.iter_mut().zip(bytes) {
                *value = f16::from_bits(u16::from(raw) << 8).to_f32();
            }
        }
        TensorDtype::F8E4M3 => {
            let table: [f32; 256] = std::array::from_fn(|code| e4m3_to_f32(code as u8));
            for (value, &raw) in out.iter_mut().zip(bytes) {
                *value = table[usize::from(raw)];
            }
        }
        TensorDtype::I64
        | TensorDtype::I32
        | TensorDtype::I16
        | TensorDtype::I8
        | TensorDtype::U32
        | TensorDtype::U16
        | TensorDtype::U8
        | TensorDtype::Bool => return Err(not_a_float(tensor)),
    }
    Ok(())
}

/// Decodes a floating-point tensor to bf16, rounding once, to nearest even.
///
/// `out` has one element per element of the tensor. NaN stays NaN. Errors: as [`to_f32_into`].
pub fn to_bf16_into(tensor: &TensorView<'_>, out: &mut [bf16]) -> Result<()> {
    check_length(tensor, out.len())?;
    let bytes = tensor.bytes;
    match tensor.dtype {
        TensorDtype::Bf16 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = bf16::from_le_bytes(*raw);
            }
        }
        TensorDtype::F32 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = round_to_bf16(f32::from_le_bytes(*raw));
            }
        }
        TensorDtype::F64 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *value = round_to_bf16(round_to_odd(f64::from_le_bytes(*raw)));
            }
        }
        // Exact in f32, so the rounding below is the only one.
        TensorDtype::F16 | TensorDtype::F8E4M3 | TensorDtype::F8E5M2 => {
            let mut block = [0.0; BLOCK];
            let size = tensor.dtype.size_bytes() as usize;
            for (out, bytes) in out.chunks_mut(BLOCK).zip(bytes.chunks(size * BLOCK)) {
                let block = &mut block[..out.len()];
                to_f32_into(&TensorView { bytes, ..*tensor }, block)?;
                for (value, &wide) in out.iter_mut().zip(block.iter()) {
                    *value = round_to_bf16(wide);
                }
            }
        }
        TensorDtype::I64
        | TensorDtype::I32
        | TensorDtype::I16
        | TensorDtype::I8
        | TensorDtype::U32
        | TensorDtype::U16
        | TensorDtype::U8
        | TensorDtype::Bool => return Err(not_a_float(tensor)),
    }
    Ok(())
}

fn check_length(tensor: &TensorView<'_>, given: usize) -> Result<()> {
    if given == tensor.elements() && tensor.elements() * element_bytes(tensor) == tensor.bytes.len()
    {
        return Ok(());
    }
    Err(Error::internal(
        "E0322",
        format!(
            "a {} tensor of {} bytes is to be converted into {given} elements",
            tensor.dtype,
            tensor.bytes.len()
        ),
    )
    .help("this is a fault of the program: please report it"))
}

fn element_bytes(tensor: &TensorView<'_>) -> usize {
    tensor.dtype.size_bytes() as usize
}

fn not_a_float(tensor: &TensorView<'_>) -> Error {
    Error::input("E0321", format!("a tensor of dtype {} cannot serve as a weight", tensor.dtype))
        .help("weights are F64, F32, F16, BF16, F8_E4M3 or F8_E5M2")
}

/// Written without branches so that it becomes vector code.
fn round_to_bf16(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    bf16::from_bits(if value.is_nan() { quiet } else { rounded } as u16)
}

/// The f32 below or above an inexact f64 whose last bit is 1, so that a second rounding to fewer
/// bits equals a single one (von Neumann rounding).
fn round_to_odd(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near) == value || value.is_nan() {
        return near;
    }
    let toward_zero = near.to_bits() - u32::from(f64::from(near).abs() > value.abs());
    f32::from_bits(toward_zero | 1)
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

    fn view<'a>(dtype: TensorDtype, shape: &'a [u64], bytes: &'a [u8]) -> TensorView<'a> {
        TensorView { dtype, shape, bytes }
    }

    #[test]
    fn converts_at_any_alignment() {
        let values: Vec<f32> = (0..3000).map(|i| (i as f32 - 1500.0) * 0.37).collect();
        for shift in 0..8 {
            let mut bytes = vec![0u8; shift];
            values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
            let mut out = vec![0.0; 3000];
            to_f32_into(&view(TensorDtype::F32, &[3000], &bytes[shift..]), &mut out).unwrap();
            assert_eq!(out, values);
            let mut narrow = vec![bf16::ZERO; 3000];
            to_bf16_into(&view(TensorDtype::F32, &[3000], &bytes[shift..]), &mut narrow).unwrap();
            for (a, b) in narrow.iter().zip(&values) {
                assert_eq!(*a, bf16::from_f32(*b));
            }
        }
    }

    #[test]
    fn every_16_bit_code_converts_as_the_half_crate_does() {
        let codes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut bytes = vec![0];
        bytes.extend(&codes);
        let mut wide = vec![0.0; 65536];
        let mut narrow = vec![bf16::ZERO; 65536];
        to_f32_into(&view(TensorDtype::F16, &[65536], &bytes[1..]), &mut wide).unwrap();
        to_bf16_into(&view(TensorDtype::F16, &[65536], &bytes[1..]), &mut narrow).unwrap();
        for code in 0..=u16::MAX {
            let value = f16::from_bits(code);
            let at = usize::from(code);
            assert!(wide[at] == value.to_f32() || value.is_nan() && wide[at].is_nan());
            let expected = bf16::from_f32(value.to_f32());
            assert!(narrow[at] == expected || expected.is_nan() && narrow[at].is_nan());
        }
        to_f32_into(&view(TensorDtype::Bf16, &[65536], &bytes[1..]), &mut wide).unwrap();
        to_bf16_into(&view(TensorDtype::Bf16, &[65536], &bytes[1..]), &mut narrow).unwrap();
        for code in 0..=u16::MAX {
            assert_eq!(narrow[usize::from(code)].to_bits(), code, "copied bit by bit");
            assert_eq!(wide[usize::from(code)].to_bits(), u32::from(code) << 16);
        }
    }

    #[test]
    fn rounds_once_to_nearest_even() {
        let as_bf16 = |value: f64| {
            let bytes = value.to_le_bytes();
            let mut out = [bf16::ZERO];
            to_bf16_into(&view(TensorDtype::F64, &[], &bytes), &mut out).unwrap();
            out[0].to_f32()
        };
        let step = 2f64.powi(-7);
        assert_eq!(as_bf16(1.0 + step / 2.0), 1.0, "a tie goes to even");
        assert_eq!(as_bf16(1.0 + 1.5 * step), 1.0 + 2.0 * step as f32);
        // Rounding to f32 first would make this a tie and lose the last bits.
        assert_eq!(as_bf16(1.0 + step / 2.0 + 2f64.powi(-40)), 1.0 + step as f32);
        assert_eq!(as_bf16(-(1.0 + step / 2.0 + 2f64.powi(-40))), -1.0 - step as f32);
        assert_eq!(as_bf16(1.0 + 1.5 * step - 2f64.powi(-40)), 1.0 + step as f32);
        assert_eq!(as_bf16(1e300), f32::INFINITY);
        assert_eq!(as_bf16(-1e-300).to_bits(), (-0.0f32).to_bits());
        assert!(as_bf16(f64::NAN).is_nan());
        assert_eq!(round_to_bf16(f32::INFINITY), bf16::INFINITY);
        assert_eq!(round_to_bf16(f32::MAX), bf16::INFINITY);
        assert!(round_to_bf16(f32::from_bits(0x7f80_0001)).is_nan());
        assert!(round_to_bf16(f32::from_bits(0xffff_ffff)).is_nan());
        let mut bits = 1u32;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(bits);
            let expected = bf16::from_f32(value);
            let found = round_to_bf16(value);
            assert!(found == expected || expected.is_nan() && found.is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn eight_bit_floats_follow_their_definition() {
        let codes: Vec<u8> = (0..=255).collect();
        let mut out = [0.0; 256];
        to_f32_into(&view(TensorDtype::F8E4M3, &[256], &codes), &mut out).unwrap();
        assert_eq!(out[0], 0.0);
        assert_eq!(out[0x80].to_bits(), (-0.0f32).to_bits());
        assert_eq!(out[1], 2f32.powi(-9));
        assert_eq!(out[8], 2f32.powi(-6));
        assert_eq!(out[0x38], 1.0);
        assert_eq!(out[0x7e], 448.0);
        assert_eq!(out[0xfe], -448.0);
        assert!(out[0x7f].is_nan() && out[0xff].is_nan());
        to_f32_into(&view(TensorDtype::F8E5M2, &[256], &codes), &mut out).unwrap();
        assert_eq!(out[1], 2f32.powi(-16));
        assert_eq!(out[0x3c], 1.0);
        assert_eq!(out[0x7b], 57344.0);
        assert_eq!(out[0x7c], f32::INFINITY);
        assert!(out[0x7d].is_nan());
    }

    #[test]
    fn refuses_integers_and_wrong_lengths() {
        let error = to_f32_into(&view(TensorDtype::I32, &[1], &[0; 4]), &mut [0.0]).unwrap_err();
        assert_eq!(error.code(), "E0321");
        let error = to_bf16_into(&view(TensorDtype::Bool, &[1], &[0]), &mut [bf16::ZERO]);
        assert_eq!(error.unwrap_err().code(), "E0321");
        let error = to_f32_into(&view(TensorDtype::F32, &[1], &[0; 4]), &mut [0.0; 2]).unwrap_err();
        assert_eq!(error.code(), "E0322");
        let ragged = to_f32_into(&view(TensorDtype::F32, &[1], &[0; 5]), &mut [0.0]).unwrap_err();
        assert_eq!(ragged.code(), "E0322");
    }
}
