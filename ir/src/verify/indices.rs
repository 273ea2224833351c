//! Weights for every value their indices take.

use super::node::at_node;
use super::{MOST_STEPS, path_indices};
use crate::diag::Diagnostic;
use crate::diag::Sink;
use crate::entity::{BlockId, NodeId};
use crate::graph::{Func, Module};
use crate::indices::Indices;
use crate::manifest::{bind_path, join_path};
use crate::op::{IndexArg, Op};
use std::collections::{HashMap, HashSet};

/// Follows calls and loops from the functions that can be run, with every value of the indices
/// that weight paths use.
pub(super) struct Bindings<'a> {
    pub(super) module: &'a Module,
    pub(super) funcs: &'a HashMap<&'a str, usize>,
    pub(super) sink: &'a mut Sink,
    pub(super) reported: HashSet<(usize, NodeId)>,
    pub(super) steps: usize,
}

type Env<'a> = Indices<'a, u32>;

impl<'a> Bindings<'a> {
    pub(super) fn check(&mut self) {
        let module = self.module;
        let mut seen: HashSet<(usize, Vec<u32>)> = HashSet::new();
        let mut open: Vec<(usize, Vec<u32>)> = Vec::new();
        for (position, func) in module.funcs.iter().enumerate() {
            if func.index_params.is_empty() {
                open.push((position, Vec::new()));
            }
        }
        while let Some((position, values)) = open.pop() {
            if !seen.insert((position, values.clone())) {
                continue;
            }
            let func = &module.funcs[position];
            let mut env = Env::default();
            func.index_params.iter().zip(values).for_each(|(name, value)| env.push(name, value));
            self.block(position, func.entry, &mut env, &mut open);
        }
    }

    fn block(
        &mut self,
        position: usize,
        block: BlockId,
        env: &mut Env<'a>,
        open: &mut Vec<(usize, Vec<u32>)>,
    ) {
        let func = &self.module.funcs[position];
        for id in &func.blocks[block].nodes {
            self.steps += 1;
            if self.steps > MOST_STEPS || self.sink.full() {
                return;
            }
            let node = &func.nodes[*id];
            match (&node.op, node.body) {
                (Op::Weight { path }, _) => self.weight(position, *id, path, env),
                (Op::Call { func: name, index }, _) => {
                    let value = |arg: &IndexArg| arg.value(|name| env.get(name).copied());
                    let values: Option<Vec<u32>> = index.iter().map(value).collect();
                    if let (Some(values), Some(callee)) = (values, self.funcs.get(name.as_str()))
                        && !values.is_empty()
                    {
                        open.push((*callee, values));
                    }
                }
                (Op::Repeat { index, lo, hi, .. }, Some(body)) => {
                    let values =
                        if uses(func, body, index) { *lo..*hi } else { *lo..*hi.min(&(lo + 1)) };
                    for value in values {
                        env.push(index, value);
                        self.block(position, body, env, open);
                        env.pop();
                    }
                }
                _ => {}
            }
        }
    }

    fn weight(&mut self, position: usize, id: NodeId, path: &str, env: &Env<'_>) {
        let func = &self.module.funcs[position];
        let recorded = func.ty(func.nodes[id].results[0]);
        let full = join_path(&func.scope, path);
        let Some(name) = bind_path(&full, |index| env.get(index).copied()) else { return };
        let found = self.module.weights.get(&name);
        if found == Some(recorded) || !self.reported.insert((position, id)) {
            return;
        }
        let error = match found {
            Some(ty) => {
                Diagnostic::error("E0206", format!("weight {name} is {ty}, not {recorded}"))
                    .help("tensors reached by one path with an index must have one type")
            }
            None => {
                Diagnostic::error("E0305", format!("there is no weight {name} in the manifest"))
                    .help("check the range of the repeat and of the template")
            }
        };
        let values: Vec<String> = env.iter().map(|(n, v)| format!("{n} = {v}")).collect();
        let error = if values.is_empty() { error } else { error.note(values.join(", ")) };
        self.sink.push(at_node(func, id, None, error));
    }
}

/// Whether a weight or call inside `block` depends on `index`.
fn uses(func: &Func, block: BlockId, index: &str) -> bool {
    func.blocks[block].nodes.iter().any(|id| {
        let node = &func.nodes[*id];
        match &node.op {
            Op::Weight { path } => path_indices(path).any(|name| name == index),
            Op::Call { index: args, .. } => {
                args.iter().any(|arg| matches!(arg, IndexArg::Name(name) if name == index))
            }
            Op::Repeat { .. } => node.body.is_some_and(|body| uses(func, body, index)),
            _ => false,
        }
    })
}
