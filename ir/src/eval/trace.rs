//! Names for the values of a run, so that a test can ask for `q1` of block 0, and for its weights.
//!
//! The rules are here, apart from the interpreter, because the compiler goes the same way.

use crate::graph::Func;
use crate::manifest::{bind_path, join_path};
use crate::op::IndexArg;
use crate::tensor::Tensor;
use std::collections::HashMap;

/// One named value of a run: a result of a node of the source module. Weights are not reported,
/// nor what happens inside a composite.
pub struct TraceEvent<'e> {
    /// Where and what: `dit/blocks.0/q1`; see [`TracePath`].
    pub path: &'e str,
    /// The value's name alone: `q1`.
    pub name: &'e str,
    /// The value, in the type in which the run's outputs would be.
    pub value: &'e Tensor,
}

/// The path of the function and loop iteration being run, with what indices stand for there.
///
/// A function contributes its weight scope with the indices filled in, or its name where it has no
/// scope (with `<0>` for index values that the scope does not show). Segments are joined by `/`. A
/// loop iteration contributes `index=number`, except to a call that is given that index.
///
/// ```text
/// dit/x0               value x0 of @dit
/// dit/l=2/x            value x in iteration l = 2 of a loop of @dit
/// dit/blocks.2/q1      value q1 of @block<l>, scope "blocks.{l}", called there
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracePath {
    calls: String,
    /// The function's weight scope, with its indices filled in; `None` where one stands for nothing.
    scope: Option<String>,
    /// Values of the function's index parameters.
    own: HashMap<String, u32>,
    loops: Vec<(String, u32)>,
}

impl TracePath {
    /// The path of the function a run starts with and the values of its index parameters.
    pub fn root(func: &Func, index: &[u32]) -> Self {
        let own: HashMap<String, u32> =
            func.index_params.iter().cloned().zip(index.iter().copied()).collect();
        let scope = bind_path(&func.scope, |name| own.get(name).copied());
        let calls = label(func, scope.clone().unwrap_or_else(|| func.scope.clone()), index);
        Self { calls, scope, own, loops: Vec::new() }
    }

    /// The path inside `callee`, called from here with index arguments `args` that stand for
    /// `index`.
    #[must_use]
    pub fn call(&self, callee: &Func, args: &[IndexArg], index: &[u32]) -> Self {
        let given = |name: &str| args.iter().any(|a| matches!(a, IndexArg::Name(n) if n == name));
        let mut inner = Self::root(callee, index);
        let mut calls = self.calls.clone();
        for (name, at) in self.loops.iter().filter(|(name, _)| !given(name)) {
            calls.push_str(&format!("/{name}={at}"));
        }
        inner.calls = format!("{calls}/{}", inner.calls);
        inner
    }

    /// Enters iteration `at` of a loop over `index`.
    pub fn enter(&mut self, index: &str, at: u32) {
        self.loops.push((index.to_owned(), at));
    }

    /// Leaves the iteration entered last.
    pub fn leave(&mut self) {
        self.loops.pop();
    }

    /// What an index stands for here, if it is bound.
    fn number(&self, name: &str) -> Option<u32> {
        let inside = self.loops.iter().rev().find(|(index, _)| index == name);
        inside.map(|(_, at)| *at).or_else(|| self.own.get(name).copied())
    }

    /// What the index arguments of a call stand for; `None` where one is not bound.
    pub fn numbers(&self, args: &[IndexArg]) -> Option<Vec<u32>> {
        args.iter().map(|arg| arg.value(|name| self.number(name))).collect()
    }

    /// The name of the weight that `path` means here; `None` where an index is not bound.
    pub fn weight(&self, path: &str) -> Option<String> {
        // The scope speaks of the function's own indices, whatever the loops inside are called.
        let path = bind_path(path, |name| self.number(name))?;
        Some(join_path(self.scope.as_deref()?, &path))
    }

    /// Path of the value called `name` here.
    pub fn of(&self, name: &str) -> String {
        let mut path = self.calls.clone();
        for (index, at) in &self.loops {
            path.push_str(&format!("/{index}={at}"));
        }
        path.push('/');
        path.push_str(name);
        path
    }
}

/// Most index values in a path: each name of a value holds all of it.
const MOST_SHOWN: usize = 64;

fn label(func: &Func, scope: String, index: &[u32]) -> String {
    let mut label = if scope.is_empty() { func.name.clone() } else { scope };
    let shown = |param: &String| func.scope.split('.').any(|s| s == format!("{{{param}}}"));
    if !func.index_params.iter().all(shown) {
        let mut numbers: Vec<String> = index.iter().take(MOST_SHOWN).map(u32::to_string).collect();
        if index.len() > MOST_SHOWN {
            numbers.push("…".to_owned());
        }
        label.push_str(&format!("<{}>", numbers.join(",")));
    }
    label
}
