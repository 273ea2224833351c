//! The module: weight manifest and functions of nodes over values.
//!
//! Order is explicit (a block is a list of nodes and the printed order is the program order);
//! operands are ordered ids. No graph library's type appears here.
//!
//! A `repeat` node has operands `[carry inits…, stacks…]`, a body block with parameters
//! `[carries…, slots…]`, a `yield` of `[next carries…, collected…]` and results
//! `[final carries…, collected stacks…]`; a stack has one leading axis of length `hi − lo`.

use crate::diag::Loc;
use crate::entity::{Arena, BlockId, Entity, NodeId, ValueId};
use crate::manifest::Manifest;
use crate::op::Op;
use crate::types::TensorType;
use smallvec::SmallVec;
use std::collections::HashSet;

/// Deepest nesting of brackets in text, or of `repeat` bodies.
pub(crate) const DEEPEST: usize = 64;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Def {
    /// Parameter `.1` of block `.0`.
    Param(BlockId, u32),
    /// Result `.1` of node `.0`.
    Result(NodeId, u32),
}

/// A value: its type, definition and name hint.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Element type and shape.
    pub ty: TensorType,
    /// What defines it.
    pub def: Def,
    /// Name in text, without `%`; unique within the function after printing.
    pub name: String,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// Operands in order.
    pub operands: SmallVec<[ValueId; 4]>,
    /// Results in order.
    pub results: SmallVec<[ValueId; 1]>,
    /// Body of a `repeat`.
    pub body: Option<BlockId>,
    /// Where it came from.
    pub loc: Loc,
}

/// Parameters and nodes in program order; the last node is `return` or `yield`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// Parameters.
    pub params: Vec<ValueId>,
    /// Nodes in program order.
    pub nodes: Vec<NodeId>,
}

/// A function: arenas of values, nodes and blocks, and a signature.
#[derive(Clone, Debug, PartialEq)]
pub struct Func {
    /// Name without `@`.
    pub name: String,
    /// Compile-time integer parameters; they may appear only in weight paths and calls.
    pub index_params: Vec<String>,
    /// Prefix of every weight path inside, with `{index}` segments.
    pub scope: String,
    /// All values.
    pub values: Arena<ValueId, Value>,
    /// All nodes.
    pub nodes: Arena<NodeId, Node>,
    /// All blocks.
    pub blocks: Arena<BlockId, Block>,
    /// The body.
    pub entry: BlockId,
    /// Result types.
    pub results: Vec<TensorType>,
    /// Names of the results, where the `return` operands have them; used for named outputs.
    pub loc: Loc,
}

impl Func {
    /// A function without parameters, nodes and results.
    pub(crate) fn empty(name: &str, loc: Loc) -> Self {
        let mut blocks = Arena::default();
        let entry = blocks.push(Block::default());
        Self {
            name: name.to_owned(),
            index_params: Vec::new(),
            scope: String::new(),
            values: Arena::default(),
            nodes: Arena::default(),
            blocks,
            entry,
            results: Vec::new(),
            loc,
        }
    }

    /// Adds a parameter to a block.
    pub(crate) fn add_param(&mut self, block: BlockId, name: &str, ty: TensorType) -> ValueId {
        let def = Def::Param(block, self.blocks[block].params.len() as u32);
        let value = self.values.push(Value { ty, def, name: name.to_owned() });
        self.blocks[block].params.push(value);
        value
    }

    /// Adds a node that stands in no block yet, with results of these types and names.
    pub(crate) fn add_node(
        &mut self,
        op: Op,
        operands: &[ValueId],
        results: impl IntoIterator<Item = (TensorType, String)>,
        loc: Loc,
    ) -> NodeId {
        let id = NodeId::from_index(self.nodes.len());
        let value = |(i, (ty, name)): (u32, (TensorType, String))| {
            self.values.push(Value { ty, def: Def::Result(id, i), name })
        };
        let results = (0..).zip(results).map(value).collect();
        let operands = operands.iter().copied().collect();
        self.nodes.push(Node { op, operands, results, body: None, loc })
    }

    /// Parameter values.
    pub fn params(&self) -> &[ValueId] {
        &self.blocks[self.entry].params
    }

    /// Type of a value.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        &self.values[value].ty
    }

    /// Name and type of every parameter.
    pub fn param_types(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.params().iter().map(|v| (self.values[*v].name.as_str(), &self.values[*v].ty))
    }

    /// Operands of the final `return`; empty for a malformed body.
    pub fn returned(&self) -> &[ValueId] {
        let last = self.blocks[self.entry].nodes.last();
        last.map_or(&[], |node| match self.nodes[*node].op {
            Op::Return => &self.nodes[*node].operands[..],
            _ => &[],
        })
    }

    /// Names of the results: those of the returned values, made unique by position.
    pub fn result_names(&self) -> Vec<String> {
        let name = |value: &ValueId| self.values[*value].name.as_str();
        let own: HashSet<&str> = self.returned().iter().map(name).collect();
        let mut taken: HashSet<String> = HashSet::new();
        let unique = |(i, value): (usize, &ValueId)| {
            let name = name(value);
            let mut others = (i..).map(|number| format!("{name}.{number}"));
            // Nor may it be the own name of a result that follows.
            let free = |other: &String| !taken.contains(other) && !own.contains(other.as_str());
            let unique = match name.is_empty() || taken.contains(name) {
                true => others.find(free).expect("there are endless names"),
                false => name.to_owned(),
            };
            taken.insert(unique.clone());
            unique
        };
        self.returned().iter().enumerate().map(unique).collect()
    }

    /// Every node of the function in program order, bodies included. Of a faulty function, ids that
    /// are out of range and blocks that are met twice are left out.
    pub fn walk(&self) -> Vec<NodeId> {
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut entered: HashSet<BlockId> = HashSet::from([self.entry]);
        let mut stack: Vec<(BlockId, usize)> = vec![(self.entry, 0)];
        while let Some((block, at)) = stack.pop() {
            let Some(&id) = self.blocks.get(block).and_then(|b| b.nodes.get(at)) else { continue };
            stack.push((block, at + 1));
            let Some(node) = self.nodes.get(id) else { continue };
            order.push(id);
            stack.extend(node.body.filter(|body| entered.insert(*body)).map(|body| (body, 0)));
        }
        order
    }
}

/// A named dim of the source, kept for readers of the bound text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundDim {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: usize,
}

/// A whole program: manifest and functions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module {
    /// Name without `@`.
    pub name: String,
    /// Named dims with their bound values; printed as comments.
    pub dims: Vec<BoundDim>,
    /// The weights it needs.
    pub weights: Manifest,
    /// Functions in source order. A function may call only functions that stand before it.
    pub funcs: Vec<Func>,
}

impl Module {
    /// The function called `name`.
    pub fn func(&self, name: &str) -> Option<&Func> {
        self.funcs.iter().find(|f| f.name == name)
    }

    /// The last function: the one that is run when none is named.
    pub fn main(&self) -> Option<&Func> {
        self.funcs.last()
    }

    /// Adds a function and returns its name for calls.
    pub fn add(&mut self, func: Func) -> String {
        let name = func.name.clone();
        self.funcs.push(func);
        name
    }
}
