//! Named tensors that go into and come out of a phase.

use crate::error::{Error, Result};
use anyid_ir::plan::{Branch, title};
use anyid_ir::{Tensor, TensorType};
use std::borrow::Cow;

/// Named inputs, borrowed. Where a phase evaluates two branches at once, what belongs to one of them
/// is given for that branch; all else is branch 0.
#[derive(Clone, Debug, Default)]
pub struct Inputs<'a> {
    tensors: Vec<(&'a str, Branch, Given<'a>)>,
}

/// Type and elements of an input, dense and row-major.
pub(super) type Given<'a> = (&'a TensorType, &'a [u8]);

impl<'a> Inputs<'a> {
    /// No inputs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `tensor` as input `name` (without `%`).
    #[must_use]
    pub fn set(self, name: &'a str, tensor: &'a Tensor) -> Self {
        self.set_branch(0, name, tensor)
    }

    /// Adds `tensor` as input `name` of a branch.
    #[must_use]
    pub fn set_branch(mut self, branch: Branch, name: &'a str, tensor: &'a Tensor) -> Self {
        self.tensors.push((name, branch, (tensor.ty(), tensor.bytes())));
        self
    }

    /// Adds many.
    #[must_use]
    pub fn all(self, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Self {
        tensors.into_iter().fold(self, |inputs, (name, tensor)| inputs.set(name, tensor))
    }

    /// Adds input `name` as elements that lie in memory of another form: dense, row-major and
    /// little-endian.
    #[must_use]
    pub fn set_bytes(mut self, name: &'a str, ty: &'a TensorType, bytes: &'a [u8]) -> Self {
        self.tensors.push((name, 0, (ty, bytes)));
        self
    }

    /// What is called `name` of a branch.
    pub(super) fn get_branch(&self, branch: Branch, name: &str) -> Option<Given<'a>> {
        let found = self.tensors.iter().find(|(n, b, _)| (*n, *b) == (name, branch));
        found.map(|(_, _, given)| *given)
    }

    /// Names in the order given.
    pub fn names(&self) -> impl Iterator<Item = Cow<'a, str>> {
        self.tensors.iter().map(|(name, branch, _)| title(name, *branch))
    }
}

/// Named outputs, owned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    pub(super) tensors: Vec<(String, Branch, Tensor)>,
}

impl Outputs {
    /// Outputs from names and tensors.
    pub fn from_pairs(tensors: Vec<(String, Tensor)>) -> Self {
        Self { tensors: tensors.into_iter().map(|(name, tensor)| (name, 0, tensor)).collect() }
    }

    /// The tensor called `name` of branch 0.
    ///
    /// # Errors
    /// E1009 for a name that no output has.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.get_branch(0, name)
    }

    /// The tensor called `name` of a branch.
    ///
    /// # Errors
    /// E1009 for a name that no output of the branch has.
    pub fn get_branch(&self, branch: Branch, name: &str) -> Result<&Tensor> {
        let found = self.tensors.iter().find(|(n, b, _)| (n.as_str(), *b) == (name, branch));
        found.map(|(_, _, tensor)| tensor).ok_or_else(|| self.unknown(name))
    }

    /// Takes the tensor called `name` of branch 0 out.
    ///
    /// # Errors
    /// E1009 for a name that no output has.
    pub fn take(&mut self, name: &str) -> Result<Tensor> {
        match self.tensors.iter().position(|(n, branch, _)| n == name && *branch == 0) {
            Some(at) => Ok(self.tensors.remove(at).2),
            None => Err(self.unknown(name)),
        }
    }

    /// Names and tensors in the module's order; a branch beside the first is part of the name.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'_, str>, &Tensor)> {
        self.tensors.iter().map(|(name, branch, tensor)| (title(name, *branch), tensor))
    }

    /// The tensors alone, in the module's order.
    pub fn into_tensors(self) -> Vec<Tensor> {
        self.tensors.into_iter().map(|(_, _, tensor)| tensor).collect()
    }

    fn unknown(&self, name: &str) -> Error {
        let names: Vec<Cow<'_, str>> = self.iter().map(|(n, _)| n).collect();
        Error::internal("E1009", format!("there is no output \"{name}\""))
            .help(format!("the outputs are {}", names.join(", ")))
    }
}
