//! Checkpoint tensors as a backend's weights, under the manifest's names.

use crate::checkpoint::{Derivation, Format, Weight, WeightSet};
pub use crate::checkpoint::{read_tensors, writable, write_tensors, write_tensors_in};
use crate::error::{Error, Result, from_fault, to_fault};
use anyid_backends::{Fault, StoredWeight, WeightProvider};
use anyid_files::adapter::{Adapter, applied};
use anyid_ir::{DType, Tensor, TensorType};
use anyid_models::wan::kin;
use anyid_models::wan::names::{self, Component, Naming};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Stored weights with canonical (original Wan) names.
pub struct ModelWeights {
    set: WeightSet,
    naming: Naming,
    prefix: &'static str,
    /// The network they are of; none where they go by the names they have.
    component: Option<Component>,
    /// The weights without adapters, where there are some.
    base: Option<WeightSet>,
}

impl ModelWeights {
    /// Recognises naming and prefix of `set` and renames its tensors. Of a file that holds all of a
    /// model, those of the other networks are left out. Weights that were stored with scales are
    /// scaled.
    ///
    /// # Errors
    /// E0307 if the tensors are not those of `component`; E0308 if a tensor and its alias differ;
    /// E0335 to E0337 for quantised tensors; E0330 to E0332 where these cannot be read.
    pub fn recognise(set: &WeightSet, component: Component) -> Result<Self> {
        let (naming, prefix) = names::detect(component, set.names()).ok_or_else(|| {
            let wanted = describe(component);
            let what = match kin::other(set.names()) {
                Some(model) => format!("this is not a {wanted}, but {model}"),
                None => {
                    let some: Vec<&str> = set.names().take(3).collect();
                    format!("these tensors are not a {wanted}: {} …", some.join(", "))
                }
            };
            Error::input("E0307", what)
                .at(set.files().next().map_or_else(String::new, |f| f.path().display().to_string()))
                .help("give a checkpoint in the original Wan or the diffusers naming")
        })?;
        let set = &own(set, component, prefix).unscaled()?;
        let canonical = |name: &str| {
            let bare = name.strip_prefix(prefix).unwrap_or(name);
            names::to_canonical(component, bare)
        };
        let mut left_out = None;
        if let Some(alias) = set.names().find(|name| is_alias(name)) {
            let wanted = canonical(alias);
            let twin = set.names().find(|name| !is_alias(name) && canonical(name) == wanted);
            if let (Some(twin), Some(_)) = (twin, &wanted) {
                if !equal(set, alias, twin)? {
                    return Err(Error::input(
                        "E0308",
                        format!("\"{alias}\" and \"{twin}\" must be equal and are not"),
                    ));
                }
                left_out = Some(alias);
            }
        }
        let stored = set.names().filter(|name| Some(*name) != left_out);
        let set = set.derived(stored.map(|name| {
            (canonical(name).unwrap_or_else(|| name.to_owned()), Derivation::tensor(name))
        }))?;
        Ok(Self { set, naming, prefix, component: Some(component), base: None })
    }

    /// The same weights, in which those of GGUF files have the shapes that a manifest gives them.
    /// Such files have four axes at most: where a tensor has more, some of them are one there.
    ///
    /// # Errors
    /// None in practice: the numbers of elements are compared before.
    pub fn shaped(self, expected: &[(String, Vec<u64>)]) -> Result<Self> {
        let shapes: BTreeMap<&str, &Vec<u64>> =
            expected.iter().map(|(name, shape)| (name.as_str(), shape)).collect();
        let gguf = self.set.files().any(|file| file.table().format() == Format::Gguf);
        let joined = |name: &str, weight: &Weight| {
            let shape = *shapes.get(name)?;
            let other =
                weight.shape != *shape && weight.elements() == shape.iter().product::<u64>();
            (other && (name == PATCHES || same_but_joined(shape, &weight.shape))).then_some(shape)
        };
        if !gguf || !self.set.iter().any(|(name, weight)| joined(name, weight).is_some()) {
            return Ok(self);
        }
        let set = self.set.derived(self.set.iter().map(|(name, weight)| {
            let whole = Derivation::tensor(name);
            let shaped = match joined(name, weight) {
                Some(shape) => whole.reshaped(shape.clone()),
                None => whole,
            };
            (name.to_owned(), shaped)
        }))?;
        Ok(Self { set, ..self })
    }

    /// Tensors under the names they have, for modules whose manifest uses those.
    pub fn as_named(set: WeightSet) -> Self {
        Self { set, naming: Naming::Original, prefix: "", component: None, base: None }
    }

    /// The same weights with adapters in them, each at its strength. They are computed when they
    /// are read, and stay in the encodings that they have.
    ///
    /// # Errors
    /// As [`applied`].
    pub fn with_adapters(&self, adapters: &[(&Adapter, f64)]) -> Result<Self> {
        let base = self.without_adapters();
        let set = applied(base, adapters)?;
        let (naming, prefix, component) = (self.naming, self.prefix, self.component);
        Ok(Self { set, naming, prefix, component, base: Some(base.clone()) })
    }

    /// The weights without adapters.
    pub fn without_adapters(&self) -> &WeightSet {
        self.base.as_ref().unwrap_or(&self.set)
    }

    /// Whether adapters are in them.
    pub fn has_adapters(&self) -> bool {
        self.base.is_some()
    }

    /// Fingerprint of the files of the weights, without those of adapters.
    ///
    /// # Errors
    /// E0330 to E0332.
    pub fn fingerprint(&self) -> Result<String> {
        self.without_adapters().fingerprint()
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
        match self.component {
            Some(component) => {
                format!("{}{}", self.prefix, names::spelled(component, name, self.naming))
            }
            None => format!("{}{name}", self.prefix),
        }
    }

    /// The tensors.
    pub fn set(&self) -> &WeightSet {
        &self.set
    }

    /// The network they are of; none where they go by the names they have.
    pub fn component(&self) -> Option<Component> {
        self.component
    }

    /// The naming found in the file.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// The prefix found in the file.
    pub fn prefix(&self) -> &'static str {
        self.prefix
    }

    /// Whether most bytes of the files are bf16, or something narrower that was made of it.
    pub fn mostly_bf16(&self) -> bool {
        let bytes = self.without_adapters().stored_bytes_by_encoding();
        let narrow = bytes.iter().filter(|(encoding, _)| encoding.is_narrow());
        narrow.map(|(_, bytes)| bytes).sum::<u64>() * 2 > bytes.values().sum::<u64>()
    }
}

/// The tensors of a network, where its names have a prefix that tells them from those of others.
fn own(set: &WeightSet, component: Component, prefix: &str) -> WeightSet {
    let begins = |component: Component, name: &str| {
        component.beginnings().iter().any(|beginning| name.starts_with(beginning))
    };
    if !begins(component, prefix) {
        return set.clone();
    }
    let all = [Component::Dit, Component::VAE, Component::Text];
    let others = all.into_iter().filter(|other| other.beginnings() != component.beginnings());
    let others: Vec<Component> = others.collect();
    set.selected(|name| !others.iter().any(|other| begins(*other, name)))
}

/// The tensor whose axes converters join as they like.
const PATCHES: &str = "patch_embedding.weight";

/// Whether a shape is that of a manifest with axes of one left out, or its first two joined.
fn same_but_joined(expected: &[u64], shape: &[u64]) -> bool {
    let bare = |shape: &[u64]| shape.iter().copied().filter(|s| *s != 1).collect::<Vec<u64>>();
    let joined = match expected {
        [first, second, rest @ ..] => [&[first * second], rest].concat(),
        _ => expected.to_vec(),
    };
    bare(expected) == bare(shape) || bare(&joined) == bare(shape)
}

/// Whether two tensors have the same bytes.
fn equal(set: &WeightSet, one: &str, other: &str) -> Result<bool> {
    let bytes = |name: &str| set.tensor(name).map_or(0, |weight| weight.bytes);
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

/// The type in which a weight is given to a backend: its own where the kernels read that, and f32
/// for other floating-point encodings.
fn given_as(weight: &Weight) -> Option<DType> {
    let float = weight.encoding.is_float().then_some(DType::F32);
    weight.encoding.element_type().or(float)
}

impl WeightProvider for ModelWeights {
    fn find(&self, name: &str) -> Option<StoredWeight> {
        let weight = self.set.tensor(name)?;
        let dtype = given_as(weight)?;
        Some(StoredWeight { dtype, bytes: weight.elements() * dtype.bytes() as u64 })
    }

    fn read(&self, name: &str, from: u64, out: &mut [u8]) -> Result<(), Fault> {
        let read = match self.set.tensor(name).map(|weight| weight.encoding.element_type()) {
            Some(None) => self.set.read_f32(name, from / 4, out),
            _ => self.set.read(name, from, out),
        };
        read.map_err(to_fault)
    }

    fn stored(&self, name: &str) -> Option<String> {
        self.set.origin(name)
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
        self.read(name, 0, tensor.bytes_mut()).map_err(|fault| from_fault(fault).to_string())?;
        Ok(Cow::Owned(tensor.cast(ty.dtype)))
    }
}
