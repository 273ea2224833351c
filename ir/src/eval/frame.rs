//! One run: functions, loops and calls around the primitives.

use super::error::{self, EvalError, broken, placed};
use super::kernels::{Data, Operand, primitive};
use super::limits;
use super::liveness::Drops;
use super::source::WeightSource;
use super::trace::{TraceEvent, TracePath};
use super::{Evaluator, Trace};
use crate::entity::{BlockId, Entity, NodeId, ValueId};
use crate::graph::{Func, Node};
use crate::op::{IndexArg, Op};
use crate::tensor::Tensor;
use crate::types::TensorType;
use std::rc::Rc;

/// Most calls and loops inside each other; bounds the interpreter's own recursion.
const MOST_DEPTH: usize = 64;

/// State of one run.
pub(super) struct Interpreter<'r, 't, 'm> {
    evaluator: &'r Evaluator<'m>,
    weights: &'r dyn WeightSource,
    trace: Option<Trace<'t>>,
    depth: usize,
}

/// A function being run.
struct Frame<'f> {
    func: &'f Func,
    drops: &'f Drops,
    values: Vec<Option<Data>>,
    /// `None` inside a composite, which is not traced.
    path: Option<TracePath>,
}

impl<'f> Frame<'f> {
    fn new(func: &'f Func, drops: &'f Drops, path: Option<TracePath>) -> Self {
        let values = vec![None; func.values.len()];
        Self { func, drops, values, path }
    }

    fn value(&self, value: ValueId) -> Result<&Data, EvalError> {
        self.values[value.index()].as_ref().ok_or_else(|| {
            broken(&format!("%{} is used before it has a value", self.func.values[value].name))
        })
    }

    fn values_of(&self, values: &[ValueId]) -> Result<Vec<Data>, EvalError> {
        values.iter().map(|v| self.value(*v).cloned()).collect()
    }

    fn set(&mut self, values: &[ValueId], data: Vec<Data>) -> Result<(), EvalError> {
        if values.len() != data.len() {
            return Err(broken(&format!("{} values for {}", data.len(), values.len())));
        }
        for (value, data) in values.iter().zip(data) {
            if data.len() != self.func.ty(*value).elements() {
                let name = &self.func.values[*value].name;
                return Err(broken(&format!("%{name} has {} elements", data.len())));
            }
            self.values[value.index()] = Some(data);
        }
        Ok(())
    }

    fn place(&self, node: &Node) -> String {
        let name = node.results.first().map_or("", |v| &self.func.values[*v].name);
        format!("@{}: %{name} = {}", self.func.name, node.op.name())
    }
}

impl<'r, 't, 'm> Interpreter<'r, 't, 'm> {
    pub(super) fn new(
        evaluator: &'r Evaluator<'m>,
        weights: &'r dyn WeightSource,
        trace: Option<Trace<'t>>,
    ) -> Self {
        Self { evaluator, weights, trace, depth: 0 }
    }

    /// Runs function number `at` on tensors that have the parameters' types.
    pub(super) fn entry(
        &mut self,
        at: usize,
        index: &[u32],
        inputs: &[&Tensor],
    ) -> Result<Vec<Data>, EvalError> {
        let func = &self.evaluator.module.funcs[at];
        for (name, ty) in func.param_types() {
            limits::check(ty).map_err(|e| placed(e, || format!("@{}: %{name}", func.name)))?;
        }
        let path = TracePath::root(func, index);
        let inputs = inputs.iter().map(|input| Rc::new(input.to_f64_vec())).collect();
        self.func(at, inputs, path)
    }

    fn func(
        &mut self,
        at: usize,
        inputs: Vec<Data>,
        path: TracePath,
    ) -> Result<Vec<Data>, EvalError> {
        let evaluator = self.evaluator;
        let func = &evaluator.module.funcs[at];
        let mut frame = Frame::new(func, &evaluator.drops[at], Some(path));
        frame.set(func.params(), inputs)?;
        self.block(&mut frame, func.entry)
    }

    /// Runs a block to its `return` or `yield` and gives that node's operands.
    fn block(&mut self, frame: &mut Frame<'_>, block: BlockId) -> Result<Vec<Data>, EvalError> {
        if self.depth >= MOST_DEPTH {
            return Err(error::too_deep(MOST_DEPTH));
        }
        self.depth += 1;
        let func = frame.func;
        for id in &func.blocks[block].nodes {
            let node = &func.nodes[*id];
            if matches!(node.op, Op::Return | Op::Yield) {
                self.depth -= 1;
                return frame.values_of(&node.operands);
            }
            self.node(frame, *id).map_err(|e| placed(e, || frame.place(node)))?;
            for value in frame.drops.after(*id) {
                frame.values[value.index()] = None;
            }
        }
        Err(broken(&format!("a block of @{} has no end", func.name)))
    }

    fn node(&mut self, frame: &mut Frame<'_>, id: NodeId) -> Result<(), EvalError> {
        let func = frame.func;
        let node = &func.nodes[id];
        for value in &node.results {
            limits::check(func.ty(*value))?;
        }
        let results = match &node.op {
            Op::Call { func: callee, index } => self.call(frame, node, callee, index)?,
            Op::Repeat { index, lo, hi, carries } => {
                self.repeat(frame, node, index, *lo..*hi, *carries)?
            }
            Op::Weight { path } => vec![self.weight(frame, path, result_type(func, node)?)?],
            op if op.is_composite() => self.composite(frame, node)?,
            op => {
                let data = frame.values_of(&node.operands)?;
                let types = node.operands.iter().map(|v| func.ty(*v));
                let operands: Vec<Operand<'_>> = types.zip(&data).collect();
                let mode = self.evaluator.mode;
                vec![primitive(op, &operands, result_type(func, node)?, mode)?]
            }
        };
        frame.set(&node.results, results)?;
        self.report(frame, node)
    }

    fn call(
        &mut self,
        frame: &Frame<'_>,
        node: &Node,
        callee: &str,
        args: &[IndexArg],
    ) -> Result<Vec<Data>, EvalError> {
        let evaluator = self.evaluator;
        let at =
            *evaluator.by_name.get(callee).ok_or_else(|| error::unknown_function(callee, None))?;
        let path = frame.path.as_ref().ok_or_else(|| broken("a call inside a composite"))?;
        let index = path.numbers(args).ok_or_else(|| broken("an index that has no value here"))?;
        let inputs = frame.values_of(&node.operands)?;
        let path = path.call(&evaluator.module.funcs[at], args, &index);
        self.func(at, inputs, path)
    }

    fn repeat(
        &mut self,
        frame: &mut Frame<'_>,
        node: &Node,
        index: &str,
        range: std::ops::Range<u32>,
        carries: usize,
    ) -> Result<Vec<Data>, EvalError> {
        let func = frame.func;
        let body = node.body.ok_or_else(|| broken("a repeat without a body"))?;
        let params = &func.blocks[body].params;
        let mut carried = frame.values_of(&node.operands)?;
        if carries > carried.len() || carries > node.results.len() {
            return Err(broken("more carries than operands or results"));
        }
        let stacks = carried.split_off(carries);
        let mut collected: Vec<Vec<f64>> = vec![Vec::new(); node.results.len() - carries];
        for (i, at) in range.enumerate() {
            let mut arguments = carried;
            for (stack, param) in stacks.iter().zip(params.iter().skip(carries)) {
                let size = func.ty(*param).elements();
                let slot = stack.get(i * size..(i + 1) * size);
                let slot = slot.ok_or_else(|| broken("a stack shorter than its loop"))?;
                arguments.push(Rc::new(slot.to_vec()));
            }
            frame.set(params, arguments)?;
            if let Some(path) = &mut frame.path {
                path.enter(index, at);
            }
            let mut yielded = self.block(frame, body)?;
            if let Some(path) = &mut frame.path {
                path.leave();
            }
            if yielded.len() != node.results.len() {
                return Err(broken("a yield with another number of values than the loop"));
            }
            let slots = yielded.split_off(carries);
            collected.iter_mut().zip(slots).for_each(|(all, slot)| all.extend_from_slice(&slot));
            carried = yielded;
        }
        for param in params {
            frame.values[param.index()] = None;
        }
        carried.extend(collected.into_iter().map(Rc::new));
        Ok(carried)
    }

    fn weight(&self, frame: &Frame<'_>, path: &str, ty: &TensorType) -> Result<Data, EvalError> {
        let name = frame.path.as_ref().and_then(|at| at.weight(path));
        let unbound = || broken("a weight path with an index that has no value here");
        let name = name.ok_or_else(unbound)?;
        let tensor = self.weights.weight(&name, ty).map_err(|why| error::weight(&name, &why))?;
        if !self.evaluator.mode.admits(ty, tensor.ty()) {
            let message = format!("given as {}, expected {ty}", tensor.ty());
            return Err(error::weight(&name, &message));
        }
        Ok(Rc::new(tensor.to_f64_vec()))
    }

    fn composite(&mut self, frame: &Frame<'_>, node: &Node) -> Result<Vec<Data>, EvalError> {
        let func = frame.func;
        let types: Vec<&TensorType> = node.operands.iter().map(|v| func.ty(*v)).collect();
        let results: Vec<TensorType> = node.results.iter().map(|v| func.ty(*v).clone()).collect();
        if results.len() != node.op.results() {
            return Err(broken(&format!("{} with {} results", node.op.name(), results.len())));
        }
        limits::check_inside(&node.op, &types)?;
        let parts = self.evaluator.composite(&node.op, &types, &results);
        let mut inner = Frame::new(&parts.func, &parts.drops, None);
        inner.set(parts.func.params(), frame.values_of(&node.operands)?)?;
        // The place of a fault inside is the composite itself.
        self.block(&mut inner, parts.func.entry).map_err(|mut error| {
            error.place = None;
            error
        })
    }

    fn report(&mut self, frame: &Frame<'_>, node: &Node) -> Result<(), EvalError> {
        let (Some(trace), Some(path)) = (&mut self.trace, &frame.path) else { return Ok(()) };
        if matches!(node.op, Op::Weight { .. }) {
            return Ok(());
        }
        for value in &node.results {
            let name = frame.func.values[*value].name.as_str();
            if name.is_empty() {
                continue;
            }
            let data = frame.value(*value)?;
            let tensor = self.evaluator.tensor(frame.func.ty(*value), data)?;
            trace(&TraceEvent { path: &path.of(name), name, value: &tensor });
        }
        Ok(())
    }
}

fn result_type<'f>(func: &'f Func, node: &Node) -> Result<&'f TensorType, EvalError> {
    let value = node.results.first();
    Ok(func.ty(*value.ok_or_else(|| broken(&format!("{} without a result", node.op.name())))?))
}
