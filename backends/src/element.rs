//! Single elements of every type, as they lie in memory: little-endian, in any alignment.

use anyid_ir::DType;

/// Element `index` of little-endian `bytes`, as a number.
pub(crate) fn read(dtype: DType, bytes: &[u8], index: usize) -> f64 {
    let size = dtype.bytes();
    let b = &bytes[index * size..(index + 1) * size];
    match dtype {
        DType::F32 => f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        DType::F64 => f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
        DType::Bf16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f64(),
        DType::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f64(),
        DType::I32 => f64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        DType::U8 => f64::from(b[0]),
        DType::Bool => f64::from(u8::from(b[0] != 0)),
    }
}

/// Writes `value`, rounded, as element `index`.
pub(crate) fn write(dtype: DType, bytes: &mut [u8], index: usize, value: f64) {
    let size = dtype.bytes();
    let b = &mut bytes[index * size..(index + 1) * size];
    match dtype {
        DType::F32 => b.copy_from_slice(&(value as f32).to_le_bytes()),
        DType::F64 => b.copy_from_slice(&value.to_le_bytes()),
        // `half` converts doubles in two roundings on some processors.
        DType::Bf16 => {
            let value = half::bf16::from_f32(dtype.round(value) as f32);
            b.copy_from_slice(&value.to_le_bytes());
        }
        DType::F16 => {
            let value = half::f16::from_f32(dtype.round(value) as f32);
            b.copy_from_slice(&value.to_le_bytes());
        }
        DType::I32 => b.copy_from_slice(&(value as i32).to_le_bytes()),
        DType::U8 => b[0] = value as u8,
        DType::Bool => b[0] = u8::from(value != 0.0),
    }
}
