//! Where weights come from.

use crate::tensor::Tensor;
use crate::types::TensorType;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Gives the weights of a module by name.
pub trait WeightSource {
    /// The tensor `name` of the manifest, with every index filled in (`blocks.3.norm3.bias`), in
    /// type `ty`. Converting what is stored to `ty` is the source's work. Error: why there is
    /// none, in words.
    fn weight(&self, name: &str, ty: &TensorType) -> Result<Cow<'_, Tensor>, String>;
}

/// No weights: for functions that use none.
impl WeightSource for () {
    fn weight(&self, _name: &str, _ty: &TensorType) -> Result<Cow<'_, Tensor>, String> {
        Err("no weights were given".to_owned())
    }
}

impl WeightSource for BTreeMap<String, Tensor> {
    fn weight(&self, name: &str, ty: &TensorType) -> Result<Cow<'_, Tensor>, String> {
        let found = self.get(name).map(Cow::Borrowed);
        found.ok_or_else(|| format!("not found, wanted as {ty}"))
    }
}

/// Weights made on demand by a function of name and type.
pub struct WeightsFrom<F>(pub F);

impl<F: Fn(&str, &TensorType) -> Result<Tensor, String>> WeightSource for WeightsFrom<F> {
    fn weight(&self, name: &str, ty: &TensorType) -> Result<Cow<'_, Tensor>, String> {
        (self.0)(name, ty).map(Cow::Owned)
    }
}
