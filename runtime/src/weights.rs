//! Checkpoint tensors as a backend's weights, under the manifest's names.

use crate::checkpoint::{Checkpoint, TensorDtype, TensorEntry, TensorView, WeightSet, to_f32_into};
use crate::error::{Error, Result, from_weight_fault, to_weight_fault};
use crate::files::{self, AtomicFile, Whole};
use anyid_backends::{StoredWeight, WeightFault, WeightProvider};
use anyid_ir::{DType, Tensor, TensorType};
use anyid_models::wan::names::{self, Component, Naming};
use std::borrow::Cow;

/// Stored weights with canonical (original Wan) names.
pub struct ModelWeights {
    set: WeightSet,
    naming: Naming,
    prefix: &'static str,
    /// The network they are of; none where they go by the names they have.
    component: Option<Component>,
}

impl ModelWeights {
    /// Recognises naming and prefix of `set` and renames its tensors.
    ///
    /// # Errors
    /// E0307 if the tensors are not those of `component`; E0308 if a tensor and its alias differ;
    /// E0330 to E0332 where these cannot be read.
    pub fn recognise(set: &WeightSet, component: Component) -> Result<Self> {
        let (naming, prefix) = names::detect(component, set.names()).ok_or_else(|| {
            let some: Vec<&str> = set.names().take(3).collect();
            Error::input(
                "E0307",
                format!("these tensors are not a {}: {} …", describe(component), some.join(", ")),
            )
            .at(set.files().next().map_or_else(String::new, |f| f.path().display().to_string()))
            .help("give a checkpoint in the original Wan or the diffusers naming")
        })?;
        let canonical = |name: &str| {
            let bare = name.strip_prefix(prefix).unwrap_or(name);
            names::to_canonical(component, bare)
        };
        let aliases: Vec<&str> = set.names().filter(|n| is_alias(n)).collect();
        let mut kept = None;
        if let Some(alias) = aliases.first() {
            let wanted = canonical(alias);
            let twin = set.names().find(|n| !is_alias(n) && canonical(n) == wanted);
            if let (Some(twin), Some(_)) = (twin, &wanted) {
                if !equal(set, alias, twin)? {
                    return Err(Error::input(
                        "E0308",
                        format!("\"{alias}\" and \"{twin}\" must be equal and are not"),
                    ));
                }
                kept = Some(set.selected(|n| n != *alias));
            }
        }
        let set = kept.as_ref().unwrap_or(set).renamed(canonical)?;
        Ok(Self { set, naming, prefix, component: Some(component) })
    }

    /// Tensors under the names they have, for modules whose manifest uses those.
    pub fn as_named(set: WeightSet) -> Self {
        Self { set, naming: Naming::Original, prefix: "", component: None }
    }

    /// [`WeightSet::require`], with missing tensors named as the file would name them.
    ///
    /// # Errors
    /// As [`WeightSet::require`].
    pub fn require(&self, expected: &[(String, Vec<u64>)]) -> Result<()> {
        self.set.require_spelled(expected, &|name| self.spelled(name))
    }

    /// A canonical name in the naming and with the prefix of the file.
    pub fn spelled(&self, name: &str) -> String {
        match (self.component, self.naming) {
            (Some(component), Naming::Diffusers) => {
                format!("{}{}", self.prefix, names::to_diffusers(component, name))
            }
            _ => format!("{}{name}", self.prefix),
        }
    }

    /// The tensors.
    pub fn set(&self) -> &WeightSet {
        &self.set
    }

    /// The naming found in the file.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// The prefix found in the file.
    pub fn prefix(&self) -> &'static str {
        self.prefix
    }

    /// Whether most bytes are stored as bf16.
    pub fn mostly_bf16(&self) -> bool {
        let bytes = self.set.bytes_by_dtype();
        let bf16 = bytes.get(&TensorDtype::Bf16).copied().unwrap_or(0);
        bf16 * 2 > self.set.total_bytes()
    }
}

/// Whether two tensors have the same bytes.
fn equal(set: &WeightSet, one: &str, other: &str) -> Result<bool> {
    let bytes = |name: &str| set.tensor(name).map_or(0, TensorEntry::bytes);
    let (length, mut at) = (bytes(one), 0);
    if length != bytes(other) {
        return Ok(false);
    }
    let mut pieces = [vec![0; COMPARED], vec![0; COMPARED]];
    while at < length {
        let count = (length - at).min(COMPARED as u64) as usize;
        let [a, b] = &mut pieces;
        set.read(one, at, &mut a[..count])?;
        set.read(other, at, &mut b[..count])?;
        if a[..count] != b[..count] {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

/// Bytes compared at a time.
const COMPARED: usize = 1 << 20;

fn is_alias(name: &str) -> bool {
    name.ends_with("encoder.embed_tokens.weight")
}

fn describe(component: Component) -> &'static str {
    match component {
        Component::Dit => "Wan2.2 transformer",
        Component::Vae { .. } => "Wan2.2 autoencoder",
        Component::Text => "umT5 text encoder",
    }
}

/// The IR's element type of a stored one, if the kernels read it as it is.
pub fn element_type(dtype: TensorDtype) -> Option<DType> {
    Some(match dtype {
        TensorDtype::F32 => DType::F32,
        TensorDtype::F16 => DType::F16,
        TensorDtype::Bf16 => DType::Bf16,
        TensorDtype::F64 => DType::F64,
        TensorDtype::I32 => DType::I32,
        TensorDtype::U8 => DType::U8,
        TensorDtype::Bool => DType::Bool,
        _ => return None,
    })
}

/// Stored elements converted at a time where the kernels do not read their type.
const BLOCK: usize = 1024;

impl ModelWeights {
    /// Fills `out` with f32 elements from the `first` on, converted from a type of one byte.
    fn read_converted(
        &self,
        name: &str,
        entry: &TensorEntry,
        from: u64,
        out: &mut [u8],
    ) -> Result<()> {
        let (size, mut first) = (entry.dtype.size_bytes(), from / 4);
        let (mut stored, mut values) = ([0; BLOCK * 8], [0f32; BLOCK]);
        for out in out.chunks_mut(BLOCK * 4) {
            let count = out.len() / 4;
            let (stored, values) = (&mut stored[..count * size as usize], &mut values[..count]);
            self.set.read(name, first * size, stored)?;
            let shape = [count as u64];
            to_f32_into(&TensorView { dtype: entry.dtype, shape: &shape, bytes: stored }, values)?;
            for (out, value) in out.chunks_exact_mut(4).zip(values) {
                out.copy_from_slice(&value.to_le_bytes());
            }
            first += count as u64;
        }
        Ok(())
    }
}

impl WeightProvider for ModelWeights {
    fn find(&self, name: &str) -> Option<StoredWeight> {
        let entry = self.set.tensor(name)?;
        match element_type(entry.dtype) {
            Some(dtype) => Some(StoredWeight { dtype, bytes: entry.bytes() }),
            None if entry.dtype.is_float() => {
                Some(StoredWeight { dtype: DType::F32, bytes: entry.elements() * 4 })
            }
            None => None,
        }
    }

    fn read(&self, name: &str, from: u64, out: &mut [u8]) -> Result<(), WeightFault> {
        let read = match self.set.tensor(name) {
            Some(entry) if element_type(entry.dtype).is_none() => {
                self.read_converted(name, entry, from, out)
            }
            _ => self.set.read(name, from, out),
        };
        read.map_err(to_weight_fault)
    }

    fn stored(&self, name: &str) -> Option<String> {
        let (file, name) = self.set.origin(name)?;
        Some(format!("\"{name}\" of {}", file.display()))
    }
}

impl anyid_ir::eval::WeightSource for ModelWeights {
    fn weight(&self, name: &str, ty: &TensorType) -> std::result::Result<Cow<'_, Tensor>, String> {
        let found = self.find(name).ok_or_else(|| format!("there is no weight \"{name}\""))?;
        let stored = ty.with_dtype(found.dtype);
        if stored.bytes() != found.bytes {
            return Err(format!("weight \"{name}\" has {} bytes, not those of {ty}", found.bytes));
        }
        let mut tensor = Tensor::try_zeros(stored)
            .ok_or_else(|| format!("there is no memory for weight \"{name}\""))?;
        self.read(name, 0, tensor.bytes_mut())
            .map_err(|fault| from_weight_fault(fault).to_string())?;
        Ok(Cow::Owned(tensor.cast(ty.dtype)))
    }
}

/// Every tensor of a safetensors file as a named tensor of the IR; 64-bit integers become `i32`.
///
/// # Errors
/// E03xx where the file cannot be read; E0309 for an element type without an equal in the IR; E0603
/// without memory for a tensor.
pub fn read_tensors(path: &std::path::Path) -> Result<Vec<(String, Tensor)>> {
    let file = Checkpoint::open(path)?;
    let mut out = Vec::new();
    for (position, entry) in file.header().tensors().iter().enumerate() {
        let name = entry.name.as_str();
        let shape = entry.shape.iter().map(|s| *s as usize);
        let dtype = match entry.dtype {
            TensorDtype::I64 => DType::I32,
            other => element_type(other).ok_or_else(|| {
                Error::input("E0309", format!("\"{name}\" is stored as {}", other.name()))
                    .at(path.display())
                    .help("tensors for a module are f32, bf16, f16, f64, i32, i64, u8 or bool")
            })?,
        };
        let tensor = Tensor::try_zeros(TensorType::new(dtype, shape));
        let mut tensor = tensor.ok_or_else(|| {
            Error::no_memory(entry.bytes(), &format!("tensor \"{name}\"")).at(path.display())
        })?;
        if entry.dtype == TensorDtype::I64 {
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
    path: &std::path::Path,
    tensors: impl IntoIterator<Item = (&'t str, &'t Tensor)>,
    metadata: &std::collections::BTreeMap<String, String>,
) -> Result<()> {
    let file = AtomicFile::create(path)?;
    files::commit(vec![write_tensors_in(file, tensors, metadata)?]).map(drop)
}

/// As [`write_tensors`], in a file that was opened before, which lacks only its name then.
///
/// # Errors
/// E101x where the file cannot be written.
pub fn write_tensors_in<'t>(
    file: AtomicFile,
    tensors: impl IntoIterator<Item = (&'t str, &'t Tensor)>,
    metadata: &std::collections::BTreeMap<String, String>,
) -> Result<Whole> {
    let rows: Vec<(&str, TensorDtype, Vec<u64>, &[u8])> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let dtype = match tensor.dtype() {
                DType::F32 => TensorDtype::F32,
                DType::Bf16 => TensorDtype::Bf16,
                DType::F16 => TensorDtype::F16,
                DType::F64 => TensorDtype::F64,
                DType::I32 => TensorDtype::I32,
                DType::U8 => TensorDtype::U8,
                DType::Bool => TensorDtype::Bool,
            };
            let shape = tensor.shape().iter().map(|s| *s as u64).collect();
            (name, dtype, shape, tensor.bytes())
        })
        .collect();
    let rows: Vec<(&str, TensorDtype, &[u64], &[u8])> =
        rows.iter().map(|(n, d, s, b)| (*n, *d, s.as_slice(), *b)).collect();
    crate::checkpoint::save_in(file, &rows, metadata)
}
