//! A function as a picture, drawn with a petgraph graph that is made for it and stored nowhere.

use anyid_ir::{BlockId, Entity, Func, Op, TensorType, ValueId};
use petgraph::dot::{Config, Dot};
use petgraph::graph::{DiGraph, NodeIndex};
use std::collections::HashMap;

/// The whole function as Graphviz text. Bodies of repeats are drawn with the operands flowing into
/// their parameters and the yielded values into the repeat's node.
pub fn dot(func: &Func) -> String {
    let mut picture = Picture { func, graph: DiGraph::new(), makers: HashMap::new() };
    for value in func.params() {
        let ty = func.ty(*value);
        let label = format!("%{}\\n{ty}", escape(&func.values[*value].name));
        let node = picture.graph.add_node((label, "ellipse"));
        picture.makers.insert(value.index(), node);
    }
    picture.block(func.entry, None, 0);
    let edge = |_: &_, edge: petgraph::graph::EdgeReference<'_, String>| {
        format!("label=\"{}\"", edge.weight())
    };
    let node = |_: &_, (_, (label, shape)): (NodeIndex, &(String, &str))| {
        format!("label=\"{label}\" shape={shape}")
    };
    let config = [Config::NodeNoLabel, Config::EdgeNoLabel];
    let picture = &picture.graph;
    // Weights are not printed themselves: the labels above are.
    format!("// @{}\n{:?}", func.name, Dot::with_attr_getters(picture, &config, &edge, &node))
}

/// Deepest nesting of repeats that is drawn; the text form allows no deeper one.
const DEEPEST: usize = 64;

struct Picture<'f> {
    func: &'f Func,
    graph: DiGraph<(String, &'static str), String>,
    /// Node that a value comes from.
    makers: HashMap<usize, NodeIndex>,
}

impl Picture<'_> {
    /// Draws a block; `owner` is the repeat that its yield flows into.
    fn block(&mut self, block: BlockId, owner: Option<NodeIndex>, depth: usize) {
        let func = self.func;
        for id in &func.blocks[block].nodes {
            let node = &func.nodes[*id];
            let types = TensorType::list(node.results.iter().map(|value| func.ty(*value)));
            let (label, shape) = match &node.op {
                Op::Weight { path } => (format!("${}\\n{}", escape(path), types), "note"),
                Op::Call { func, .. } => (format!("call @{}", escape(func)), "component"),
                Op::Repeat { index, lo, hi, .. } => {
                    (format!("repeat {} in {lo}..{hi}", escape(index)), "doubleoctagon")
                }
                op => (format!("{}\\n{}", op.name(), types), "box"),
            };
            let drawn = match (&node.op, owner) {
                (Op::Yield, Some(owner)) => owner,
                _ => self.graph.add_node((label, shape)),
            };
            match node.body {
                Some(body) if depth < DEEPEST => {
                    for (param, value) in func.blocks[body].params.iter().zip(&node.operands) {
                        let label = format!("%{}", escape(&func.values[*param].name));
                        let inside = self.graph.add_node((label, "ellipse"));
                        self.makers.insert(param.index(), inside);
                        self.edge(*value, inside);
                    }
                    self.block(body, Some(drawn), depth + 1);
                }
                _ => {
                    for value in &node.operands {
                        self.edge(*value, drawn);
                    }
                }
            }
            for value in &node.results {
                self.makers.insert(value.index(), drawn);
            }
        }
    }

    fn edge(&mut self, value: ValueId, to: NodeIndex) {
        if let Some(from) = self.makers.get(&value.index()) {
            let name = &self.func.values[value].name;
            let from_weight = self.graph[*from].1 == "note";
            let label = if from_weight { String::new() } else { format!("%{}", escape(name)) };
            self.graph.add_edge(*from, to, label);
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::text::parse_module;

    #[test]
    fn a_function_with_a_repeat_is_drawn_whole() {
        let text = "module @m\nweights @w {\n  \"b.{l:0..2}.g\" : f32[4]\n}\n\
            func @main(%x: f32[2,4]) -> f32[2,4] {\n  \
            %y = repeat l in 0..2 carry(%c = %x) {\n    \
            %n = rms_norm %c, $b.{l}.g {eps=1e-6} : f32[2,4]\n    yield %n\n  } : f32[2,4]\n  \
            %z = silu %y : f32[2,4]\n  return %z\n}\n";
        let module = parse_module(text, &[]).unwrap();
        let func = module.main().unwrap();
        let picture = dot(func);
        for part in ["digraph", "repeat l in 0..2", "$b.{l}.g", "silu\\nf32[2,4]", "label=\"%n\""] {
            assert!(picture.contains(part), "{part}\n{picture}");
        }
    }
}
