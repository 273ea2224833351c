//! What an adapter was trained on, as its header says it, and adapters as the headers of files name them.
//!
//! A transformer is named by the fingerprint of its files, an adapter by the SHA-256 of the file of its
//! tensors: under another name it is the same one, converted it is another one. `formats.md` §5.6.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Adapter;
use crate::checkpoint::hash_file;
use crate::error::Result;

/// The key of the transformer.
const MODEL: &str = "anyid.base_model";
/// The key of the adapters on it.
const ADAPTERS: &str = "anyid.base_adapters";

/// What an adapter was trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct Base {
    /// Fingerprint of the transformer.
    pub model: String,
    /// Adapters that were in its weights.
    pub adapters: Vec<Part>,
}

/// An adapter in weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// SHA-256 of the file of its tensors.
    pub sha256: String,
    /// What all of its changes are multiplied by.
    pub scale: f64,
}

impl Base {
    /// That of the header of an adapter, where it says so.
    pub fn of(header: &BTreeMap<String, String>) -> Option<Self> {
        let model = header.get(MODEL)?.clone();
        let adapters = header.get(ADAPTERS).map_or_else(Vec::new, |text| Part::listed(text));
        Some(Self { model, adapters })
    }

    /// Says so in a header.
    pub fn say(&self, header: &mut BTreeMap<String, String>) {
        header.insert(MODEL.to_owned(), self.model.clone());
        if !self.adapters.is_empty() {
            header.insert(ADAPTERS.to_owned(), Part::list(&self.adapters));
        }
    }
}

impl Part {
    /// An adapter at a strength.
    ///
    /// # Errors
    /// E0310 and E0330 to E0332 where its file cannot be read.
    pub fn of(adapter: &Adapter, scale: f64) -> Result<Self> {
        Ok(Self { sha256: hash_file(&adapter.path)?, scale })
    }

    /// Whether it does anything.
    pub fn counts(&self) -> bool {
        self.scale != 0.0
    }

    /// Whether this is `other` at the same scale, but for rounding.
    pub fn is(&self, other: &Self) -> bool {
        let near = (self.scale - other.scale).abs() <= 1e-6 * other.scale.abs();
        self.sha256 == other.sha256 && near
    }

    /// Those of `all` that are not among `others`, one for one.
    pub fn without(all: &[Self], others: &[Self]) -> Vec<Self> {
        let mut left: Vec<&Self> = others.iter().collect();
        let lacks = |part: &&Self| match left.iter().position(|other| other.is(part)) {
            Some(at) => {
                left.remove(at);
                false
            }
            None => true,
        };
        all.iter().filter(lacks).cloned().collect()
    }

    /// Those of a list in a header; what cannot be read is left out.
    pub fn listed(text: &str) -> Vec<Self> {
        let list: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
        let part = |value: &Value| {
            let sha256 = value["sha256"].as_str()?.to_owned();
            Some(Self { sha256, scale: value["scale"].as_f64()? })
        };
        list.iter().filter_map(part).collect()
    }

    /// A list for a header.
    pub fn list(parts: &[Self]) -> String {
        let parts = parts.iter().map(Self::to_json);
        Value::Array(parts.collect()).to_string()
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({ "sha256": self.sha256, "scale": self.scale })
    }
}
