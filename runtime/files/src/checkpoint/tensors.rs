//! Checkpoint files as named tensors of the IR in memory: inputs and results of modules.

use std::collections::BTreeMap;
use std::path::Path;

use anyid_ir::{DType, Tensor, TensorType};

use super::encoding::Encoding;
use super::file::Checkpoint;
use super::writer::save_in;
use crate::error::{Error, Result};
use crate::output::{self, AtomicFile, Whole};

/// Every tensor of a checkpoint file as a named tensor of the IR; 64-bit integers become `i32`.
///
/// # Errors
/// E03xx where the file cannot be read; E0309 for an element type without an equal in the IR; E0603
/// without memory for a tensor.
pub fn read_tensors(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let file = Checkpoint::open(path)?;
    let mut out = Vec::new();
    for (position, stored) in file.table().tensors().iter().enumerate() {
        let name = stored.name.as_str();
        let shape = stored.shape.iter().map(|s| *s as usize);
        let dtype = match stored.encoding {
            Encoding::I64 => DType::I32,
            other => other.element_type().ok_or_else(|| {
                Error::input("E0309", format!("\"{name}\" is stored as {}", other.name()))
                    .at(path.display())
                    .help("tensors for a module are f32, bf16, f16, f64, i32, i64, u8 or bool")
            })?,
        };
        let tensor = Tensor::try_zeros(TensorType::new(dtype, shape));
        let mut tensor = tensor.ok_or_else(|| {
            Error::no_memory(stored.bytes, &format!("tensor \"{name}\"")).at(path.display())
        })?;
        if stored.encoding == Encoding::I64 {
            let bytes = file.contents(position)?;
            let values = tensor.as_i32_mut().expect("it was made of this type");
            for (to, chunk) in values.iter_mut().zip(bytes.as_chunks::<8>().0) {
                let value = i64::from_le_bytes(*chunk);
                *to = i32::try_from(value).map_err(|_| {
                    Error::input("E0309", format!("{value} in \"{name}\" does not fit 32 bits"))
                        .at(path.display())
                })?;
            }
        } else {
            file.read(position, 0, tensor.bytes_mut())?;
        }
        out.push((name.to_owned(), tensor));
    }
    Ok(out)
}

/// Refuses results that a tensor file cannot hold by their names: to be asked before they are computed.
///
/// # Errors
/// E0520.
pub fn writable<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<()> {
    match names.into_iter().find(|name| *name == "__metadata__") {
        None => Ok(()),
        Some(name) => {
            let message = format!("tensor files keep the name {name} for themselves");
            Err(Error::input("E0520", message)
                .at(format!("result %{name}"))
                .help("rename the result"))
        }
    }
}

/// Writes named tensors as a safetensors file, whole or not at all.
///
/// # Errors
/// E101x where the file cannot be written.
pub fn write_tensors<'t>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'t str, &'t Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let file = AtomicFile::create(path)?;
    output::commit(vec![write_tensors_in(file, tensors, metadata)?]).map(drop)
}

/// As [`write_tensors`], in a file that was opened before, which lacks only its name then.
///
/// # Errors
/// E101x where the file cannot be written.
pub fn write_tensors_in<'t>(
    file: AtomicFile,
    tensors: impl IntoIterator<Item = (&'t str, &'t Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<Whole> {
    let rows: Vec<(&str, Encoding, Vec<u64>, &[u8])> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let shape = tensor.shape().iter().map(|s| *s as u64).collect();
            (name, Encoding::of_element_type(tensor.dtype()), shape, tensor.bytes())
        })
        .collect();
    let rows: Vec<(&str, Encoding, &[u64], &[u8])> =
        rows.iter().map(|(n, e, s, b)| (*n, *e, s.as_slice(), *b)).collect();
    save_in(file, &rows, metadata)
}
