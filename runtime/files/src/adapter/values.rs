//! Values that are looked at when an adapter is opened: every alpha, and whether all others are
//! finite.

use std::collections::BTreeSet;
use std::path::Path;

use super::settings::usable;
use crate::checkpoint::{Encoding, Weight, WeightSet};
use crate::error::{Error, Result};

/// The value of an alpha tensor.
///
/// # Errors
/// E0368 for what is no scale; those of reading.
pub(super) fn alpha(set: &WeightSet, name: &str, path: &Path) -> Result<f64> {
    let weight = set.tensor(name).expect("names come from the set");
    if weight.elements() != 1 || weight.shape.len() > 1 {
        return Err(Error::input("E0368", format!("`{name}` has the shape {:?}", weight.shape))
            .help("alpha is one number, of shape [] or [1]"));
    }
    let alpha = match weight.encoding.is_float() {
        true => {
            let mut bytes = [0; 4];
            set.read_f32(name, 0, &mut bytes)?;
            f64::from(f32::from_le_bytes(bytes))
        }
        false => whole_number(&set.contents(name)?, weight),
    };
    usable(alpha, &format!("`{name}`"), path)?;
    Ok(alpha)
}

/// The value of an integer.
fn whole_number(bytes: &[u8], weight: &Weight) -> f64 {
    let mut wide = [0; 8];
    wide[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
    let value = i64::from_le_bytes(wide);
    match weight.encoding {
        Encoding::I8 => value as i8 as f64,
        Encoding::I16 => value as i16 as f64,
        Encoding::I32 => value as i32 as f64,
        _ => value as f64,
    }
}

/// Refuses values that are not finite, in all tensors that are used.
///
/// # Errors
/// E0370; those of reading.
pub(super) fn finite(set: &WeightSet, left_out: &[String]) -> Result<()> {
    const PIECE: u64 = 1 << 18;
    let mut bytes = vec![0; 4 * PIECE as usize];
    let left_out: BTreeSet<&str> = left_out.iter().map(String::as_str).collect();
    for (name, weight) in set.iter() {
        if left_out.contains(name) || !weight.encoding.is_float() {
            continue;
        }
        let mut first = 0;
        while first < weight.elements() {
            let count = (weight.elements() - first).min(PIECE);
            let bytes = &mut bytes[..4 * count as usize];
            set.read_f32(name, first, bytes)?;
            let values = bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value));
            if let Some((at, value)) = (first..).zip(values).find(|(_, value)| !value.is_finite()) {
                return Err(unusable(&format!("`{name}` has {value} at element {at}")));
            }
            first += count;
        }
    }
    Ok(())
}

/// Values that cannot be used.
pub(super) fn unusable(what: &str) -> Error {
    Error::input("E0370", what).help("the adapter is damaged or its training failed: fetch another")
}
