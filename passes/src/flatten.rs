//! Inlines every call and unrolls every repeat.
//!
//! A whole denoising step of the 5B model is about a thousand steps, so the straight-line form costs
//! nothing and lets every later pass be a loop over a list. Weight paths become absolute names.

use crate::CompileError;
use crate::program::{Origin, Port, Program, ValueIndex};
use anyid_ir::eval::TracePath;
use anyid_ir::plan::WeightRef;
use anyid_ir::{BlockId, Entity, Func, Module, NodeId, Op, ValueId};
use smallvec::SmallVec;
use std::collections::{BTreeSet, HashMap};

/// Most steps a program may unroll to; a guard against absurd repeats in source text.
const MOST_STEPS: usize = 1 << 20;
/// Deepest nesting of calls and repeats.
const MOST_DEPTH: usize = 64;

struct Flattener<'m> {
    funcs: HashMap<&'m str, &'m Func>,
    program: Program,
    weights: HashMap<String, ValueIndex>,
    iterations: Iterations,
    /// Whether the place is inside of a repeat.
    inside: bool,
}

/// For each repeat that is in no other, the weights that each of its iterations reads.
pub(crate) type Iterations = Vec<Vec<BTreeSet<String>>>;

struct Frame<'f> {
    func: &'f Func,
    /// Values of this activation by id; unset until defined.
    env: Vec<Option<ValueIndex>>,
    /// Names values and weights, as the interpreter does.
    path: TracePath,
}

impl Frame<'_> {
    fn set(&mut self, values: &[ValueId], made: &[ValueIndex]) {
        for (value, made) in values.iter().zip(made) {
            self.env[value.index()] = Some(*made);
        }
    }
}

/// The straight-line program of `func`.
pub fn flatten(module: &Module, func: &str) -> Result<Program, CompileError> {
    Ok(flattened(module, func)?.0)
}

/// The straight-line program of `func`, and what its repeats read.
pub(crate) fn flattened(
    module: &Module,
    func: &str,
) -> Result<(Program, Iterations), CompileError> {
    let main = module.func(func).ok_or_else(|| {
        let message = format!("there is no function @{func} in module @{}", module.name);
        CompileError::new("E0501", message)
    })?;
    let mut funcs = HashMap::new();
    for func in &module.funcs {
        funcs.entry(func.name.as_str()).or_insert(func);
    }
    let (program, weights, iterations) = Default::default();
    let mut flattener = Flattener { funcs, program, weights, iterations, inside: false };
    let mut arguments = Vec::new();
    for (name, ty) in main.param_types() {
        arguments.push(flattener.program.input(&Port::new(name, 0), ty.clone()));
    }
    let path = TracePath::root(main, &[]);
    let results = flattener.call(main, &arguments, path, 0)?;
    let named = main.result_names().into_iter().zip(results);
    flattener.program.outputs = named.map(|(name, value)| Port::new(name, value)).collect();
    Ok((flattener.program, flattener.iterations))
}

impl<'m> Flattener<'m> {
    fn call(
        &mut self,
        func: &'m Func,
        arguments: &[ValueIndex],
        path: TracePath,
        depth: usize,
    ) -> Result<Vec<ValueIndex>, CompileError> {
        let mut frame = Frame { func, env: vec![None; func.values.len()], path };
        frame.set(func.params(), arguments);
        self.block(&mut frame, func.entry, depth)
    }

    /// Runs a block and returns the operands of its terminator.
    fn block(
        &mut self,
        frame: &mut Frame<'m>,
        block: BlockId,
        depth: usize,
    ) -> Result<Vec<ValueIndex>, CompileError> {
        let func = frame.func;
        if depth > MOST_DEPTH {
            let error = CompileError::new("E0502", "calls and repeats nest too deeply");
            return Err(error.at(format!("@{}", func.name)));
        }
        for &id in &func.blocks[block].nodes {
            let node = &func.nodes[id];
            let operands: SmallVec<[ValueIndex; 4]> = node
                .operands
                .iter()
                .map(|v| frame.env[v.index()].expect("verified: defined before use"))
                .collect();
            match &node.op {
                Op::Return | Op::Yield => return Ok(operands.to_vec()),
                Op::Weight { path } => {
                    let name = frame.path.weight(path).ok_or_else(|| {
                        let message =
                            format!("the weight path \"{path}\" names an index that is not bound");
                        CompileError::new("E0501", message)
                    })?;
                    let value = self.weight(name, func, id);
                    frame.set(&node.results, &[value]);
                }
                Op::Call { func: callee, index } => {
                    let callee =
                        *self.funcs.get(callee.as_str()).expect("verified: the callee exists");
                    let indices = frame.path.numbers(index);
                    let indices = indices.expect("verified: index arguments are bound");
                    let path = frame.path.call(callee, index, &indices);
                    let results = self.call(callee, &operands, path, depth + 1)?;
                    frame.set(&node.results, &results);
                }
                Op::Repeat { index, lo, hi, carries } => {
                    let body = node.body.expect("verified: a repeat has a body");
                    self.repeat(frame, id, body, index, *lo..*hi, *carries, &operands, depth)?;
                }
                op => {
                    let path = &frame.path;
                    let label = |result: ValueId| path.of(&func.values[result].name);
                    let made = match (op, operands.first()) {
                        // A weight in another shape is still that weight.
                        (Op::Reshape, Some(x)) if self.program.is_weight(*x) => {
                            let origin = self.program.values[*x as usize].origin;
                            let ty = func.ty(node.results[0]).clone();
                            smallvec::smallvec![self.program.value(ty, origin)]
                        }
                        _ => {
                            let made = node.results.iter();
                            let made = made.map(|v| (func.ty(*v).clone(), label(*v)));
                            self.program.step_of(op.clone(), operands, made)
                        }
                    };
                    if self.program.steps.len() > MOST_STEPS {
                        let message = "the function unrolls to more than 2^20 steps";
                        let error = CompileError::new("E0502", message);
                        return Err(error.at(label(node.results[0])));
                    }
                    frame.set(&node.results, &made);
                }
            }
        }
        unreachable!("verified: a block ends in return or yield")
    }

    fn weight(&mut self, name: String, func: &Func, node: NodeId) -> ValueIndex {
        if let (true, Some(read)) = (self.inside, self.iterations.last_mut()) {
            read.last_mut().expect("it began").insert(name.clone());
        }
        if let Some(value) = self.weights.get(&name) {
            return *value;
        }
        let ty = func.ty(func.nodes[node].results[0]).clone();
        let index = self.program.weights.len() as u32;
        self.program.weights.push(WeightRef { name: name.clone(), ty: ty.clone() });
        let value = self.program.value(ty, Origin::Weight(index));
        self.weights.insert(name, value);
        value
    }

    fn repeat(
        &mut self,
        frame: &mut Frame<'m>,
        node: NodeId,
        body: BlockId,
        index: &str,
        range: std::ops::Range<u32>,
        carries: usize,
        operands: &[ValueIndex],
        depth: usize,
    ) -> Result<(), CompileError> {
        let func = frame.func;
        let (inits, stacks) = operands.split_at(carries);
        let params = &func.blocks[body].params;
        let results = &func.nodes[node].results;
        let mut current = inits.to_vec();
        let collected = results.len() - carries;
        let mut stacked: Vec<Vec<ValueIndex>> = vec![Vec::new(); collected];
        let outermost = !std::mem::replace(&mut self.inside, true);
        if outermost {
            self.iterations.push(Vec::new());
        }
        for (slot, i) in range.enumerate() {
            if outermost {
                self.iterations.last_mut().expect("it began").push(BTreeSet::new());
            }
            frame.path.enter(index, i);
            frame.set(params, &current);
            for (param, stack) in params[carries..].iter().zip(stacks) {
                let ty = func.ty(*param).clone();
                let at = Op::Index { axis: 0, at: slot };
                let name = frame.path.of(&func.values[*param].name);
                let value = self.program.step(at, smallvec::smallvec![*stack], ty, name);
                frame.env[param.index()] = Some(value);
            }
            let yielded = self.block(frame, body, depth + 1)?;
            current = yielded[..carries].to_vec();
            for (stack, value) in stacked.iter_mut().zip(&yielded[carries..]) {
                stack.push(*value);
            }
            frame.path.leave();
        }
        self.inside = !outermost;
        frame.set(results, &current);
        for (result, slots) in results[carries..].iter().zip(stacked) {
            let ty = func.ty(*result).clone();
            let name = frame.path.of(&func.values[*result].name);
            let rows: SmallVec<[ValueIndex; 4]> = slots
                .iter()
                .map(|value| {
                    let mut row = self.program.ty(*value).clone();
                    row.shape.insert(0, 1);
                    self.program.step(Op::Reshape, smallvec::smallvec![*value], row, name.clone())
                })
                .collect();
            let value = if rows.is_empty() {
                self.program.step(Op::Const { values: vec![0.0] }, rows, ty, name)
            } else {
                self.program.step(Op::Concat { axis: 0 }, rows, ty, name)
            };
            frame.env[result.index()] = Some(value);
        }
        Ok(())
    }
}
