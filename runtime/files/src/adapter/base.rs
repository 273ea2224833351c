//! What an adapter was trained on, as its header says it, and adapters as the headers of files name them.
//!
//! A transformer is named by the fingerprint of its files, an adapter by the SHA-256 of the file of its
//! tensors: under another name it is the same one. What was joined or converted from others says from which,
//! and stands for these. `formats.md` §5.6.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Adapter;
use crate::checkpoint::hash_file;
use crate::error::Result;

/// The key of the transformer.
const MODEL: &str = "anyid.base_model";
/// The key of the adapters on it.
const ADAPTERS: &str = "anyid.base_adapters";
/// The key of the adapters that an adapter was joined or converted from.
const MADE_OF: &str = "anyid.made_of";

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

    /// What an adapter at a strength puts into weights: those that it was joined or converted from, as its
    /// header says, or itself.
    ///
    /// # Errors
    /// As [`Part::of`].
    pub fn all_of(adapter: &Adapter, scale: f64) -> Result<Vec<Self>> {
        let made_of =
            adapter.metadata.get(MADE_OF).map_or_else(Vec::new, |text| Self::listed(text));
        if made_of.is_empty() {
            return Ok(vec![Self::of(adapter, scale)?]);
        }
        let scaled = |part: Self| Self { scale: part.scale * scale, ..part };
        Ok(made_of.into_iter().map(scaled).collect())
    }

    /// Says in the header of an adapter what it was made of.
    pub fn say_made_of(parts: &[Self], header: &mut BTreeMap<String, String>) {
        header.insert(MADE_OF.to_owned(), Self::list(parts));
    }

    /// One of each adapter, at the sum of its scales, in the order in which they come first.
    pub fn summed(parts: &[Self]) -> Vec<Self> {
        let mut out: Vec<Self> = Vec::new();
        for part in parts {
            match out.iter_mut().find(|other| other.sha256 == part.sha256) {
                Some(other) => other.scale += part.scale,
                None => out.push(part.clone()),
            }
        }
        out
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

    /// Those of `all` that `others` do not have at the same scale, each at the sum of its scales.
    pub fn without(all: &[Self], others: &[Self]) -> Vec<Self> {
        let others = Self::summed(others);
        let lacks = |part: &Self| part.counts() && !others.iter().any(|other| other.is(part));
        Self::summed(all).into_iter().filter(lacks).collect()
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
