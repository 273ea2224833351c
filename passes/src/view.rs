//! A function as a picture: nodes and edges in the language of Graphviz, which places them.

use anyid_ir::{BlockId, Def, Func, Op, TensorType, ValueId};
use std::collections::HashMap;

/// The whole function as Graphviz text. Bodies of repeats are drawn with the operands flowing into
/// their parameters and the yielded values into the repeat's node.
pub fn dot(func: &Func) -> String {
    let (nodes, edges, makers) = Default::default();
    let mut picture = Picture { func, nodes, count: 0, edges, makers };
    for value in func.params() {
        let label = format!("%{}\\n{}", escape(&func.values[*value].name), func.ty(*value));
        let node = picture.node(&label, "ellipse");
        picture.makers.insert(*value, node);
    }
    picture.block(func.entry, None, 0);
    format!("// @{}\ndigraph {{\n{}{}}}\n", func.name, picture.nodes, picture.edges)
}

/// Deepest nesting of repeats that is drawn; the text form allows no deeper one.
const DEEPEST: usize = 64;

struct Picture<'f> {
    func: &'f Func,
    nodes: String,
    /// How many nodes there are.
    count: usize,
    edges: String,
    /// Node that a value comes from.
    makers: HashMap<ValueId, usize>,
}

impl Picture<'_> {
    fn node(&mut self, label: &str, shape: &str) -> usize {
        let at = self.count;
        self.nodes.push_str(&format!("    {at} [ label=\"{label}\" shape={shape}]\n"));
        self.count += 1;
        at
    }

    /// Draws a block; `owner` is the repeat that its yield flows into.
    fn block(&mut self, block: BlockId, owner: Option<usize>, depth: usize) {
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
                _ => self.node(&label, shape),
            };
            match node.body {
                Some(body) if depth < DEEPEST => {
                    for (param, value) in func.blocks[body].params.iter().zip(&node.operands) {
                        let label = format!("%{}", escape(&func.values[*param].name));
                        let inside = self.node(&label, "ellipse");
                        self.makers.insert(*param, inside);
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
                self.makers.insert(*value, drawn);
            }
        }
    }

    fn edge(&mut self, value: ValueId, to: usize) {
        let Some(from) = self.makers.get(&value) else { return };
        let made = &self.func.values[value];
        let label = match made.def {
            Def::Result(node, _) if matches!(self.func.nodes[node].op, Op::Weight { .. }) => {
                "".into()
            }
            _ => format!("%{}", escape(&made.name)),
        };
        self.edges.push_str(&format!("    {from} -> {to} [ label=\"{label}\"]\n"));
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
