//! Decomposition of whole functions: one composite as a function of its own, and every composite
//! of a module in place.

use super::decompose;
use crate::builder::FuncBuilder;
use crate::entity::{Arena, NodeId, ValueId};
use crate::graph::{Block, Def, Func, Module, Node, Value};
use crate::op::Op;
use crate::types::TensorType;
use smallvec::smallvec;
use std::collections::HashMap;

/// The decomposition of `op` as a function of its operands: parameters of the types `operands`,
/// results of the types `results`. It holds primitives only and uses no weights. Panics as
/// [`decompose`].
pub fn decomposed(op: &Op, operands: &[TensorType], results: &[TensorType]) -> Func {
    let empty = Module::default();
    let mut builder = FuncBuilder::new(&empty, op.name());
    let params: Vec<ValueId> = operands
        .iter()
        .enumerate()
        .map(|(i, ty)| builder.param(&format!("operand{i}"), ty.clone()))
        .collect();
    let values = decompose(op, &mut builder, &params, results);
    builder.finish(&values)
}

/// `module` with every composite replaced by primitives. Manifest, functions, calls, loops, value
/// names and source places stay; the results of a replaced op keep their names, the values inside
/// get names `result.part`. Panics where a composite is ill-typed: verify first.
pub fn decompose_module(module: &Module) -> Module {
    Module { funcs: module.funcs.iter().map(decompose_func).collect(), ..module.clone() }
}

/// Values and blocks keep their ids, so operands, parameters and bodies need no translation; nodes
/// are numbered anew.
fn decompose_func(func: &Func) -> Func {
    let mut out = Func { nodes: Arena::default(), blocks: Arena::default(), ..func.clone() };
    for (_, block) in func.blocks.iter() {
        let mut nodes = Vec::with_capacity(block.nodes.len());
        for id in &block.nodes {
            let node = &func.nodes[*id];
            if node.op.is_composite() {
                inline(&mut out, node, &mut nodes);
            } else {
                nodes.push(push(&mut out, node.clone()));
            }
        }
        out.blocks.push(Block { params: block.params.clone(), nodes });
    }
    out
}

fn push(func: &mut Func, node: Node) -> NodeId {
    let results = node.results.clone();
    let id = func.nodes.push(node);
    for (i, value) in results.iter().enumerate() {
        func.values[*value].def = Def::Result(id, i as u32);
    }
    id
}

/// Appends the primitives of composite `node`; some of them define its result values.
fn inline(func: &mut Func, node: &Node, nodes: &mut Vec<NodeId>) {
    let types = |values: &[ValueId]| -> Vec<TensorType> {
        values.iter().map(|v| func.ty(*v).clone()).collect()
    };
    let parts = decomposed(&node.op, &types(&node.operands), &types(&node.results));
    let mut values: HashMap<ValueId, ValueId> =
        parts.params().iter().copied().zip(node.operands.iter().copied()).collect();
    for (last, result) in parts.returned().iter().zip(&node.results) {
        if let Some(value) = values.get(last) {
            // Nothing to do on these operands, but the result must still be a value of its own.
            let (operands, results) = (smallvec![*value], smallvec![*result]);
            let copy = Node { op: Op::Reshape, operands, results, ..node.clone() };
            nodes.push(push(func, copy));
        } else {
            values.insert(*last, *result);
        }
    }
    let prefix = func.values[node.results[0]].name.clone();
    for id in &parts.blocks[parts.entry].nodes {
        let part = &parts.nodes[*id];
        if part.op == Op::Return {
            break;
        }
        let operands = part.operands.iter().map(|v| values[v]).collect();
        let results = part
            .results
            .iter()
            .map(|v| {
                *values.entry(*v).or_insert_with(|| {
                    let Value { ty, def, name } = parts.values[*v].clone();
                    func.values.push(Value { ty, def, name: format!("{prefix}.{name}") })
                })
            })
            .collect();
        let op = part.op.clone();
        let part = Node { op, operands, results, body: None, loc: node.loc.clone() };
        nodes.push(push(func, part));
    }
}
