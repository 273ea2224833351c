//! Named tensors that go into and come out of a phase.

use crate::error::{Error, Result};
use anyid_ir::Tensor;

/// Named inputs, borrowed.
#[derive(Clone, Debug, Default)]
pub struct Inputs<'a> {
    tensors: Vec<(&'a str, &'a Tensor)>,
}

impl<'a> Inputs<'a> {
    /// No inputs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `tensor` as input `name` (without `%`).
    #[must_use]
    pub fn set(mut self, name: &'a str, tensor: &'a Tensor) -> Self {
        self.tensors.push((name, tensor));
        self
    }

    /// Adds many.
    #[must_use]
    pub fn all(mut self, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Self {
        self.tensors.extend(tensors);
        self
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&'a Tensor> {
        self.tensors.iter().find(|(n, _)| *n == name).map(|(_, t)| *t)
    }

    /// Names and tensors in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        self.tensors.iter().copied()
    }

    /// Names in the order given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| *name)
    }
}

/// Named outputs, owned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    pub(super) tensors: Vec<(String, Tensor)>,
}

impl Outputs {
    /// Outputs from names and tensors.
    pub fn from_pairs(tensors: Vec<(String, Tensor)>) -> Self {
        Self { tensors }
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        let found = self.tensors.iter().find(|(n, _)| n == name);
        found.map(|(_, tensor)| tensor).ok_or_else(|| self.unknown(name))
    }

    /// Takes the tensor called `name` out.
    pub fn take(&mut self, name: &str) -> Result<Tensor> {
        match self.tensors.iter().position(|(n, _)| n == name) {
            Some(at) => Ok(self.tensors.remove(at).1),
            None => Err(self.unknown(name)),
        }
    }

    /// Names and tensors in the module's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The tensors alone, in the module's order.
    pub fn into_tensors(self) -> Vec<Tensor> {
        self.tensors.into_iter().map(|(_, tensor)| tensor).collect()
    }

    fn unknown(&self, name: &str) -> Error {
        let names: Vec<&str> = self.iter().map(|(n, _)| n).collect();
        Error::internal("E1009", format!("there is no output \"{name}\""))
            .help(format!("the outputs are {}", names.join(", ")))
    }
}
