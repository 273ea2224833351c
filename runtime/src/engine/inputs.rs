//! Named tensors that go into and come out of a phase.

use crate::error::{Error, Result};
use anyid_ir::Tensor;
use anyid_ir::plan::{Branch, title};
use std::borrow::Cow;

/// Named inputs, borrowed. Where a phase evaluates two branches at once, what belongs to one of them
/// is given for that branch; all else is branch 0.
#[derive(Clone, Debug, Default)]
pub struct Inputs<'a> {
    tensors: Vec<(&'a str, Branch, &'a Tensor)>,
}

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
        self.tensors.push((name, branch, tensor));
        self
    }

    /// Adds many.
    #[must_use]
    pub fn all(mut self, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Self {
        self.tensors.extend(tensors.into_iter().map(|(name, tensor)| (name, 0, tensor)));
        self
    }

    /// The tensor called `name` of branch 0.
    pub fn get(&self, name: &str) -> Option<&'a Tensor> {
        self.get_branch(0, name)
    }

    /// The tensor called `name` of a branch.
    pub fn get_branch(&self, branch: Branch, name: &str) -> Option<&'a Tensor> {
        let found = self.tensors.iter().find(|(n, b, _)| (*n, *b) == (name, branch));
        found.map(|(_, _, tensor)| *tensor)
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
