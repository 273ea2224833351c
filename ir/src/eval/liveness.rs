//! After which node each value of a function can be forgotten.

use crate::entity::{BlockId, Entity, NodeId, ValueId};
use crate::graph::{Def, Func};
use smallvec::SmallVec;

/// Values that die with each node.
pub(super) struct Drops {
    after: Vec<SmallVec<[ValueId; 2]>>,
}

impl Drops {
    /// A value dies after the last node of its own block that uses it, itself or inside its body;
    /// a result without uses dies at once.
    pub(super) fn new(func: &Func) -> Self {
        let order = func.walk();
        let mut block_of: Vec<Option<BlockId>> = vec![None; func.nodes.len()];
        let mut owner: Vec<Option<NodeId>> = vec![None; func.blocks.len()];
        for (id, block) in func.blocks.iter() {
            for node in &block.nodes {
                block_of[node.index()] = Some(id);
                if let Some(body) = func.nodes[*node].body {
                    owner[body.index()] = Some(*node);
                }
            }
        }
        let mut last: Vec<Option<NodeId>> = vec![None; func.values.len()];
        for node in &order {
            for value in &func.nodes[*node].results {
                last[value.index()] = Some(*node);
            }
            for value in &func.nodes[*node].operands {
                let home = match func.values[*value].def {
                    Def::Param(block, _) => Some(block),
                    Def::Result(maker, _) => block_of[maker.index()],
                };
                // In program order the latest use wins; uses inside a loop count for the loop.
                let mut at = Some(*node);
                while let Some(user) = at {
                    let block = block_of[user.index()];
                    if block == home {
                        break;
                    }
                    at = block.and_then(|b| owner[b.index()]);
                }
                last[value.index()] = at;
            }
        }
        let mut after = vec![SmallVec::new(); func.nodes.len()];
        for (value, node) in last.iter().enumerate() {
            if let Some(node) = node {
                after[node.index()].push(ValueId::from_index(value));
            }
        }
        Self { after }
    }

    pub(super) fn after(&self, node: NodeId) -> &[ValueId] {
        &self.after[node.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::FuncBuilder;
    use crate::graph::Module;
    use crate::types::{DType, TensorType};

    #[test]
    fn values_die_after_their_last_use_in_their_own_block() {
        let module = Module::default();
        let mut f = FuncBuilder::new(&module, "main");
        let x = f.param("x", TensorType::new(DType::F32, [1]));
        let k = f.add("k", x, x);
        let unused = f.add("unused", k, x);
        let (mut inner, mut carry) = (k, k);
        let out = f.repeat("r", "i", 0..2, &[("c", x)], &[], |f, c, _| {
            carry = c[0];
            inner = f.mul("inner", c[0], k);
            (vec![f.add("next", inner, inner)], vec![])
        });
        let func = f.finish(&out);
        let drops = Drops::new(&func);
        let by_name = |name: &str| {
            let nodes = func.walk();
            let node = nodes.into_iter().find(|n| {
                let results = &func.nodes[*n].results;
                results.first().is_some_and(|v| func.values[*v].name == name)
            });
            drops.after(node.unwrap()).to_vec()
        };
        assert!(by_name("k").is_empty());
        assert_eq!(by_name("unused"), [unused]);
        assert_eq!(by_name("inner"), [carry]);
        assert_eq!(by_name("next"), [inner]);
        assert_eq!(by_name("r"), [x, k]);
    }
}
