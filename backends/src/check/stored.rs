//! Weights in memory, for modules that are checked without a checkpoint.

use crate::device::Provider;
use crate::{Fault, StoredWeight, WeightProvider};
use anyid_ir::{Tensor, TensorType, WeightSource};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Weights in memory, as a checkpoint would store them: types may differ from the declared ones.
#[derive(Clone, Debug, Default)]
pub struct Stored(BTreeMap<String, Tensor>);

impl Stored {
    /// Adds a weight.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.0.insert(name.into(), tensor);
    }

    /// All of them by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The weights as devices take them.
    pub fn shared(&self) -> Arc<Provider> {
        Arc::new(self.clone())
    }
}

impl WeightProvider for Stored {
    fn find(&self, name: &str) -> Option<StoredWeight> {
        let tensor = self.0.get(name)?;
        Some(StoredWeight { dtype: tensor.dtype(), bytes: tensor.bytes().len() as u64 })
    }

    fn read(&self, name: &str, from: u64, out: &mut [u8]) -> Result<(), Fault> {
        out.copy_from_slice(&self.0[name].bytes()[from as usize..][..out.len()]);
        Ok(())
    }
}

impl WeightSource for Stored {
    fn weight(&self, name: &str, ty: &TensorType) -> Result<Cow<'_, Tensor>, String> {
        let tensor = self.0.get(name).ok_or_else(|| format!("there is no weight \"{name}\""))?;
        Ok(Cow::Owned(tensor.cast(ty.dtype)))
    }
}
