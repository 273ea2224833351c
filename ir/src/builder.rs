//! Typed construction of functions by code.
//!
//! Methods infer result types and panic, naming the op, where they do not hold: a model builder is
//! our code, not input. Names are hints; weights are looked up in the manifest at once.

use crate::diag::Loc;
use crate::entity::{BlockId, Entity, NodeId, ValueId};
use crate::graph::{Block, Func, Module};
use crate::infer::infer;
use crate::manifest::join_path;
use crate::op::{Axes, BinaryFn, CompareFn, IndexArg, Op, ReduceFn, UnaryFn};
use crate::types::{DType, Shape, TensorType};
use crate::verify::repeat_results;
use std::collections::HashMap;

/// Builds one function of a module.
pub struct FuncBuilder<'m> {
    module: &'m Module,
    func: Func,
    /// Blocks under construction, innermost last, with the index of their repeat.
    open: Vec<(BlockId, String)>,
    weights: HashMap<(BlockId, String), ValueId>,
    /// Weight nodes at the head of each block.
    heads: HashMap<BlockId, usize>,
}

impl<'m> FuncBuilder<'m> {
    /// A function `name` of `module`, whose manifest and earlier functions it may use.
    pub fn new(module: &'m Module, name: &str) -> Self {
        let func = Func::empty(name, Loc::Path(name.into()));
        let open = vec![(func.entry, String::new())];
        Self { module, func, open, weights: HashMap::new(), heads: HashMap::new() }
    }

    /// Adds compile-time index parameters and the weight scope that uses them.
    #[must_use]
    pub fn indexed(mut self, params: &[&str], scope: &str) -> Self {
        self.func.index_params = params.iter().map(|p| (*p).to_owned()).collect();
        self.func.scope = scope.to_owned();
        self
    }

    /// Adds a parameter.
    pub fn param(&mut self, name: &str, ty: TensorType) -> ValueId {
        self.func.add_param(self.func.entry, name, ty)
    }

    /// Type of a value.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        self.func.ty(value)
    }

    /// Shape of a value.
    pub fn shape(&self, value: ValueId) -> Shape {
        self.func.ty(value).shape.clone()
    }

    /// Gives `value` another name hint.
    pub fn rename(&mut self, value: ValueId, name: &str) -> ValueId {
        name.clone_into(&mut self.func.values[value].name);
        value
    }

    /// Adds a node that stands in no block yet.
    fn node(&mut self, op: Op, operands: &[ValueId], types: &[TensorType], name: &str) -> NodeId {
        let name = |i: usize| match types {
            [_] => name.to_owned(),
            _ => format!("{name}.{i}"),
        };
        let results = types.iter().enumerate().map(|(i, ty)| (ty.clone(), name(i)));
        let loc = Loc::Path(format!("@{}", self.func.name).into());
        self.func.add_node(op, operands, results, loc)
    }

    /// Adds a node at the end of the innermost block, and its results.
    fn push(
        &mut self,
        op: Op,
        operands: &[ValueId],
        types: &[TensorType],
        name: &str,
    ) -> Vec<ValueId> {
        let node = self.node(op, operands, types, name);
        let (block, _) = self.open.last().expect("a block is open until finish");
        self.func.blocks[*block].nodes.push(node);
        self.func.nodes[node].results.to_vec()
    }

    /// Adds any op and gives its first result, of most ops the only one. `declared` is needed where
    /// the result is not fixed by the operands.
    pub fn op(
        &mut self,
        name: &str,
        op: Op,
        operands: &[ValueId],
        declared: Option<TensorType>,
    ) -> ValueId {
        self.op_of(name, op, operands, declared.as_slice())[0]
    }

    /// Adds any op and gives its results, as [`Self::op`]; where they are several, they are called
    /// `name.0`, `name.1`, ….
    pub fn op_of(
        &mut self,
        name: &str,
        op: Op,
        operands: &[ValueId],
        declared: &[TensorType],
    ) -> Vec<ValueId> {
        let types: Vec<&TensorType> = operands.iter().map(|v| self.func.ty(*v)).collect();
        let inferred = match infer(&op, &types, declared) {
            Ok(types) => types,
            Err(error) => panic!(
                "building %{name} in @{}: {} ({})",
                self.func.name, error.message, error.help
            ),
        };
        self.push(op, operands, &inferred, name)
    }

    /// A weight by path relative to the function's scope. Each path gives one value; a path that
    /// uses the index of an open repeat gives one inside that repeat.
    pub fn weight(&mut self, path: &str) -> ValueId {
        let uses = |index: &str| path.split('.').any(|s| s == format!("{{{index}}}"));
        let inner = self.open[1..].iter().rev().find(|(_, index)| uses(index));
        let block = inner.map_or(self.func.entry, |(block, _)| *block);
        let key = (block, path.to_owned());
        if let Some(value) = self.weights.get(&key) {
            return *value;
        }
        let full = join_path(&self.func.scope, path);
        let ty = match self.module.weights.resolve(&full) {
            Some(ty) => ty.clone(),
            None => panic!("@{}: no weight \"{full}\" in the manifest", self.func.name),
        };
        let node = self.node(Op::Weight { path: path.to_owned() }, &[], &[ty], path);
        // Weights stand at the head of their block so that all of it, with inner blocks, may use
        // them.
        let at = self.heads.entry(block).or_insert(0);
        self.func.blocks[block].nodes.insert(*at, node);
        *at += 1;
        let value = self.func.nodes[node].results[0];
        self.weights.insert(key, value);
        value
    }

    /// A scalar constant.
    pub fn scalar(&mut self, name: &str, dtype: DType, value: f64) -> ValueId {
        self.constant(name, value, TensorType::new(dtype, []))
    }

    /// A tensor filled with `value`.
    pub fn constant(&mut self, name: &str, value: f64, ty: TensorType) -> ValueId {
        self.op(name, Op::Const { values: vec![value] }, &[], Some(ty))
    }

    /// A tensor with the listed elements in row-major order, at most 1024.
    pub fn literal(&mut self, name: &str, values: &[f64], ty: TensorType) -> ValueId {
        self.op(name, Op::Const { values: values.to_vec() }, &[], Some(ty))
    }

    /// 0, 1, 2, … along `axis`.
    pub fn iota(&mut self, name: &str, axis: usize, ty: TensorType) -> ValueId {
        self.op(name, Op::Iota { axis }, &[], Some(ty))
    }

    /// Conversion to `dtype`; the value itself when it already has it.
    pub fn cast(&mut self, name: &str, x: ValueId, dtype: DType) -> ValueId {
        if self.ty(x).dtype == dtype {
            return x;
        }
        let ty = self.ty(x).with_dtype(dtype);
        self.op(name, Op::Cast, &[x], Some(ty))
    }

    /// Same elements in another shape.
    pub fn reshape(
        &mut self,
        name: &str,
        x: ValueId,
        shape: impl IntoIterator<Item = usize>,
    ) -> ValueId {
        let ty = TensorType::new(self.ty(x).dtype, shape);
        self.op(name, Op::Reshape, &[x], Some(ty))
    }

    /// Axes in another order.
    pub fn permute(&mut self, name: &str, x: ValueId, perm: &[usize]) -> ValueId {
        self.op(name, Op::Permute { perm: Axes::from_slice(perm) }, &[x], None)
    }

    /// Axes of size 1 repeated up to `shape`.
    pub fn broadcast(
        &mut self,
        name: &str,
        x: ValueId,
        shape: impl IntoIterator<Item = usize>,
    ) -> ValueId {
        let ty = TensorType::new(self.ty(x).dtype, shape);
        self.op(name, Op::Broadcast, &[x], Some(ty))
    }

    /// `len` positions from `start` along `axis`; the value itself when that is all of it.
    pub fn slice(
        &mut self,
        name: &str,
        x: ValueId,
        axis: usize,
        start: usize,
        len: usize,
    ) -> ValueId {
        if start == 0 && self.ty(x).shape[axis] == len {
            return x;
        }
        self.op(name, Op::Slice { axis, start, len }, &[x], None)
    }

    /// One position of `axis`, which disappears.
    pub fn index(&mut self, name: &str, x: ValueId, axis: usize, at: usize) -> ValueId {
        self.op(name, Op::Index { axis, at }, &[x], None)
    }

    /// Zeros before and after along `axis`.
    pub fn pad(&mut self, name: &str, x: ValueId, axis: usize, lo: usize, hi: usize) -> ValueId {
        self.op(name, Op::Pad { axis, lo, hi }, &[x], None)
    }

    /// Values one after the other along `axis`; a single value is returned as it is.
    pub fn concat(&mut self, name: &str, xs: &[ValueId], axis: usize) -> ValueId {
        match xs {
            [x] => *x,
            _ => self.op(name, Op::Concat { axis }, xs, None),
        }
    }

    /// Elementwise function.
    pub fn unary(&mut self, name: &str, f: UnaryFn, x: ValueId) -> ValueId {
        self.op(name, Op::Unary(f), &[x], None)
    }

    /// Elementwise function of two values.
    pub fn binary(&mut self, name: &str, f: BinaryFn, a: ValueId, b: ValueId) -> ValueId {
        self.op(name, Op::Binary(f), &[a, b], None)
    }

    /// Sum of two values.
    pub fn add(&mut self, name: &str, a: ValueId, b: ValueId) -> ValueId {
        self.binary(name, BinaryFn::Add, a, b)
    }

    /// Product of two values.
    pub fn mul(&mut self, name: &str, a: ValueId, b: ValueId) -> ValueId {
        self.binary(name, BinaryFn::Mul, a, b)
    }

    /// Elementwise comparison.
    pub fn compare(&mut self, name: &str, f: CompareFn, a: ValueId, b: ValueId) -> ValueId {
        self.op(name, Op::Compare(f), &[a, b], None)
    }

    /// Reduction over `axes`.
    pub fn reduce(
        &mut self,
        name: &str,
        f: ReduceFn,
        x: ValueId,
        axes: &[usize],
        keep: bool,
    ) -> ValueId {
        self.op(name, Op::Reduce { f, axes: Axes::from_slice(axes), keep }, &[x], None)
    }

    /// `x · Wᵀ + b` with weights by path, result of type `dtype`.
    pub fn linear(
        &mut self,
        name: &str,
        x: ValueId,
        weight: &str,
        bias: Option<&str>,
        dtype: DType,
    ) -> ValueId {
        let w = self.weight(weight);
        let mut operands = vec![x, w];
        operands.extend(bias.map(|path| self.weight(path)));
        self.linear_of(name, &operands, dtype)
    }

    /// `x · Wᵀ (+ b)` on values.
    pub fn linear_of(&mut self, name: &str, operands: &[ValueId], dtype: DType) -> ValueId {
        let ty = TensorType::new(dtype, []);
        self.op(name, Op::Linear, operands, Some(ty))
    }

    /// Calls `func` with index arguments; one value a result.
    pub fn call(
        &mut self,
        name: &str,
        func: &str,
        index: &[IndexArg],
        operands: &[ValueId],
    ) -> Vec<ValueId> {
        let callee = self.module.func(func);
        let callee =
            callee.unwrap_or_else(|| panic!("@{}: call of unknown @{func}", self.func.name));
        let wanted: Vec<&TensorType> = callee.param_types().map(|(_, ty)| ty).collect();
        let given: Vec<&TensorType> = operands.iter().map(|v| self.func.ty(*v)).collect();
        assert_eq!(given, wanted, "@{}: arguments of @{func}", self.func.name);
        let types = callee.results.clone();
        let op = Op::Call { func: func.to_owned(), index: index.to_vec() };
        self.push(op, operands, &types, name)
    }

    /// A loop `index in lo..hi`. `carries` are `(name, initial value)`; `stacks` are read one slot
    /// an iteration. `body` gets carry and slot parameters and returns next carries and values to
    /// stack; the loop's results are final carries, then stacks.
    pub fn repeat(
        &mut self,
        name: &str,
        index: &str,
        range: std::ops::Range<u32>,
        carries: &[(&str, ValueId)],
        stacks: &[(&str, ValueId)],
        body: impl FnOnce(&mut Self, &[ValueId], &[ValueId]) -> (Vec<ValueId>, Vec<ValueId>),
    ) -> Vec<ValueId> {
        let block = self.func.blocks.push(Block::default());
        let mut carry_params = Vec::new();
        for (carry, init) in carries {
            let ty = self.ty(*init).clone();
            carry_params.push(self.func.add_param(block, carry, ty));
        }
        let mut slots = Vec::new();
        for (slot, stack) in stacks {
            let mut ty = self.ty(*stack).clone();
            ty.shape.remove(0);
            slots.push(self.func.add_param(block, slot, ty));
        }
        self.open.push((block, index.to_owned()));
        let (next, collected) = body(self, &carry_params, &slots);
        assert_eq!(next.len(), carries.len(), "one next value a carry");
        let yielded: Vec<ValueId> = next.iter().chain(&collected).copied().collect();
        self.push(Op::Yield, &yielded, &[], "");
        self.open.pop();

        let length = (range.end - range.start) as usize;
        let types = repeat_results(&self.func, carries.len(), length, &yielded);
        let operands: Vec<ValueId> = carries.iter().chain(stacks).map(|(_, v)| *v).collect();
        let (lo, hi) = (range.start, range.end);
        let op = Op::Repeat { index: index.to_owned(), lo, hi, carries: carries.len() };
        let node = NodeId::from_index(self.func.nodes.len());
        let results = self.push(op, &operands, &types, name);
        self.func.nodes[node].body = Some(block);
        results
    }

    /// Ends the function with its results.
    pub fn finish(mut self, results: &[ValueId]) -> Func {
        self.func.results = results.iter().map(|v| self.func.ty(*v).clone()).collect();
        self.push(Op::Return, results, &[], "");
        self.func
    }
}
