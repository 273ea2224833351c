//! Checkpoint tensors as a backend's weights, under the manifest's names.

use crate::checkpoint::{Checkpoint, TensorDtype, WeightSet, to_f32_into};
use crate::error::{Error, Result};
use anyid_backends::{WeightData, WeightProvider};
use anyid_ir::{DType, Tensor, TensorType};
use anyid_models::wan::names::{self, Component, Naming};
use std::borrow::Cow;

/// Mapped weights with canonical (original Wan) names.
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
    /// E0307 if the tensors are not those of `component`; E0308 if a tensor and its alias differ.
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
                let same = set.tensor(alias).map(|t| t.bytes) == set.tensor(twin).map(|t| t.bytes);
                if !same {
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

impl WeightProvider for ModelWeights {
    fn get(&self, name: &str) -> Option<WeightData<'_>> {
        let view = self.set.tensor(name)?;
        if let Some(dtype) = element_type(view.dtype) {
            return Some(WeightData { dtype, bytes: Cow::Borrowed(view.bytes) });
        }
        let mut values = vec![0f32; view.elements()];
        to_f32_into(&view, &mut values).ok()?;
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Some(WeightData { dtype: DType::F32, bytes: Cow::Owned(bytes) })
    }

    fn release(&self, name: &str) {
        self.set.release(name);
    }

    fn stored(&self, name: &str) -> Option<String> {
        let (file, name) = self.set.origin(name)?;
        Some(format!("\"{name}\" of {}", file.display()))
    }
}

impl anyid_ir::eval::WeightSource for ModelWeights {
    fn weight(&self, name: &str, ty: &TensorType) -> std::result::Result<Cow<'_, Tensor>, String> {
        let data = self.get(name).ok_or_else(|| format!("there is no weight \"{name}\""))?;
        let stored = Tensor::from_bytes(ty.with_dtype(data.dtype), &data.bytes)
            .map_err(|error| error.to_string())?;
        Ok(Cow::Owned(stored.cast(ty.dtype)))
    }
}

/// Every tensor of a safetensors file as a named tensor of the IR; 64-bit integers become `i32`.
///
/// # Errors
/// E03xx where the file cannot be read; E0309 for an element type without an equal in the IR.
pub fn read_tensors(path: &std::path::Path) -> Result<Vec<(String, Tensor)>> {
    let file = Checkpoint::open(path)?;
    let mut out = Vec::with_capacity(file.len());
    for (name, view) in file.iter() {
        let shape = view.shape.iter().map(|s| *s as usize);
        let tensor = if view.dtype == TensorDtype::I64 {
            let mut values = Vec::with_capacity(view.elements());
            for chunk in view.bytes.as_chunks::<8>().0 {
                let value = i64::from_le_bytes(*chunk);
                values.push(i32::try_from(value).map_err(|_| {
                    Error::input("E0309", format!("{value} in \"{name}\" does not fit 32 bits"))
                        .at(path.display())
                })?);
            }
            Tensor::from_i32(shape, &values)
        } else {
            let dtype = element_type(view.dtype).ok_or_else(|| {
                Error::input("E0309", format!("\"{name}\" is stored as {}", view.dtype.name()))
                    .at(path.display())
                    .help("tensors for a module are f32, bf16, f16, f64, i32, i64, u8 or bool")
            })?;
            Tensor::from_bytes(TensorType::new(dtype, shape), view.bytes)
        };
        let tensor =
            tensor.map_err(|e| Error::internal("E1009", e.to_string()).at(path.display()))?;
        out.push((name.to_owned(), tensor));
    }
    Ok(out)
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
    crate::checkpoint::save(path, &rows, metadata)
}
