//! One node: types, weights, indices and signature. Used by the verifier and while text is
//! lowered, so that both say the same.

use super::{MOST_CANDIDATES, MOST_ITERATIONS, path_indices};
use crate::diag::{Diagnostic, Loc, Span};
use crate::entity::{NodeId, ValueId};
use crate::graph::{Func, Module};
use crate::indices::Indices;
use crate::infer::{TypeError, infer};
use crate::manifest::join_path;
use crate::op::{IndexArg, Op};
use crate::spelling::meant;
use crate::types::TensorType;
use std::collections::HashMap;

/// Most names that a message lists.
const MOST_SHOWN: usize = 16;

/// What a node may refer to besides the values of its function.
pub(crate) struct Context<'a> {
    /// Manifest and earlier functions.
    pub(crate) module: &'a Module,
    /// Position of every function of the module.
    pub(crate) funcs: &'a HashMap<&'a str, usize>,
    /// Position of the node's function.
    pub(crate) position: usize,
    /// Index names bound where the node stands.
    pub(crate) indices: &'a Indices<'a>,
}

/// Adds the place of `node`: `span`, else that of its statement, else words.
pub(super) fn at_node(
    func: &Func,
    node: NodeId,
    span: Option<Span>,
    error: Diagnostic,
) -> Diagnostic {
    let node = &func.nodes[node];
    match span.or_else(|| node.loc.span()) {
        Some(span) => error.at(span),
        None => {
            let result = node.results.first().and_then(|v| func.values.get(*v));
            let result = result.map_or(String::new(), |v| format!("%{} = ", v.name));
            let error = error.place(format!("@{}: {result}{}", func.name, node.op.name()));
            match &node.loc {
                Loc::Path(path) if path.contains(' ') => error.note(format!("made by {path}")),
                _ => error,
            }
        }
    }
}

/// A type error of `node` as a diagnostic.
pub(crate) fn type_diagnostic(func: &Func, node: NodeId, error: TypeError) -> Diagnostic {
    let span = error.operand.and_then(|operand| func.nodes[node].loc.operand_span(operand));
    let diagnostic = Diagnostic::error(error.code, error.message).help(error.help);
    at_node(func, node, span, diagnostic)
}

/// Result types of a `repeat` with `length` iterations, from what its body yields.
pub(crate) fn repeat_results(
    func: &Func,
    carries: usize,
    length: usize,
    yielded: &[ValueId],
) -> Vec<TensorType> {
    let stacked = |(i, value): (usize, &ValueId)| {
        let mut ty = func.ty(*value).clone();
        if i >= carries {
            ty.shape.insert(0, length);
        }
        ty
    };
    yielded.iter().enumerate().map(stacked).collect()
}

/// Types, weights, indices and signature of one node whose ids are sound.
pub(crate) fn check_node(cx: &Context<'_>, func: &Func, id: NodeId) -> Vec<Diagnostic> {
    NodeCheck { cx, func, id, out: Vec::new() }.check()
}

struct NodeCheck<'a> {
    cx: &'a Context<'a>,
    func: &'a Func,
    id: NodeId,
    out: Vec<Diagnostic>,
}

impl NodeCheck<'_> {
    fn error(&mut self, code: &'static str, message: String, help: &str) {
        self.error_at(None, code, message, help);
    }

    fn error_at(
        &mut self,
        operand: Option<usize>,
        code: &'static str,
        message: String,
        help: &str,
    ) {
        let span = operand.and_then(|i| self.func.nodes[self.id].loc.operand_span(i));
        let error = Diagnostic::error(code, message).help(help);
        self.out.push(at_node(self.func, self.id, span, error));
    }

    fn ty(&self, value: ValueId) -> &TensorType {
        self.func.ty(value)
    }

    fn check(mut self) -> Vec<Diagnostic> {
        let node = &self.func.nodes[self.id];
        match &node.op {
            Op::Weight { path } => self.weight(path),
            Op::Call { func, index } => self.call(func, index),
            Op::Repeat { lo, hi, carries, .. } => self.repeat(*lo, *hi, *carries),
            Op::Return => {
                self.results(&[]);
                self.returned();
            }
            Op::Yield => self.results(&[]),
            op => {
                let operands: Vec<&TensorType> =
                    node.operands.iter().map(|v| self.ty(*v)).collect();
                let declared: Vec<TensorType> =
                    node.results.iter().map(|v| self.ty(*v).clone()).collect();
                match infer(op, &operands, &declared) {
                    Ok(types) => self.results(&types),
                    Err(error) => self.out.push(type_diagnostic(self.func, self.id, error)),
                }
            }
        }
        self.out
    }

    fn results(&mut self, types: &[TensorType]) {
        let node = &self.func.nodes[self.id];
        let name = node.op.name();
        if node.results.len() != types.len() {
            let message =
                format!("{name} gives {} results, {} are named", types.len(), node.results.len());
            return self.error("E0207", message, "name each result once, as in `%a, %b = …`");
        }
        for (value, ty) in node.results.iter().zip(types) {
            let recorded = self.ty(*value);
            if recorded != ty {
                let message = format!("{name} gives {ty}, not {recorded}");
                let error = Diagnostic::error("E0206", message)
                    .label(format!("should be {ty}"))
                    .help("correct the type, or convert with cast or reshape");
                let span = node.loc.type_span().filter(|span| span.end > span.start);
                self.out.push(at_node(self.func, self.id, span, error));
            }
        }
    }

    fn bound(&mut self, index: &str) -> bool {
        let bound = self.cx.indices.contains(index);
        if !bound {
            let names = self.cx.indices.iter().map(|(name, _)| *name);
            let help = match names.take(MOST_SHOWN).collect::<Vec<_>>().as_slice() {
                [] => "no index is bound here; write a number".to_owned(),
                names => format!("indices bound here: {}", names.join(", ")),
            };
            self.error("E0407", format!("index {index} is not bound here"), &help);
        }
        bound
    }

    fn weight(&mut self, path: &str) {
        let full = join_path(&self.func.scope, path);
        for index in path_indices(path) {
            if !self.bound(index) {
                return;
            }
        }
        let manifest = &self.cx.module.weights;
        match manifest.resolve(&full) {
            Some(ty) => {
                let ty = ty.clone();
                self.results(&[ty]);
            }
            None => {
                let near = (manifest.len() <= MOST_CANDIDATES)
                    .then(|| manifest.nearest(&full))
                    .flatten()
                    .map(|near| format!("did you mean {near}?"));
                let help = near.unwrap_or_else(|| "declare it in the weights block".to_owned());
                let message = format!("there is no weight {full} in the manifest");
                self.error("E0305", message, &help);
            }
        }
    }

    fn call(&mut self, name: &str, index: &[IndexArg]) {
        let callee = match self.cx.funcs.get(name) {
            Some(position) if *position < self.cx.position => &self.cx.module.funcs[*position],
            Some(_) => {
                let message = format!("@{name} is called before it is defined");
                let help = "functions call only functions that stand above them";
                return self.error("E0405", message, help);
            }
            None => {
                let names = self.cx.funcs.keys().copied().take(MOST_CANDIDATES);
                let mut names: Vec<&str> = names.collect();
                names.sort_unstable();
                let help = meant(name, "@", names, || "define it above this function".to_owned());
                return self.error("E0404", format!("there is no function @{name}"), &help);
            }
        };
        if index.len() != callee.index_params.len() {
            let message = format!(
                "@{name} has {} index parameters, {} are given",
                callee.index_params.len(),
                index.len()
            );
            self.error("E0406", message, "write them as in `call @name<l>(…)`");
        }
        for arg in index {
            if let IndexArg::Name(index) = arg {
                self.bound(index);
            }
        }
        let operands = &self.func.nodes[self.id].operands;
        if operands.len() != callee.params().len() {
            let message =
                format!("@{name} takes {} operands, not {}", callee.params().len(), operands.len());
            self.error("E0406", message, "operands follow the function's parameters");
        } else {
            for (i, ((param, wanted), given)) in callee.param_types().zip(operands).enumerate() {
                if self.ty(*given) != wanted {
                    let message = format!(
                        "operand {i} of @{name} is {}, expected {wanted} for %{param}",
                        self.ty(*given)
                    );
                    self.error_at(Some(i), "E0406", message, "types must be equal; cast it");
                }
            }
        }
        self.results(&callee.results);
    }

    fn repeat(&mut self, lo: u32, hi: u32, carries: usize) {
        let node = &self.func.nodes[self.id];
        if lo > hi || hi - lo > MOST_ITERATIONS {
            let message = format!("a repeat over {lo}..{hi}");
            return self.error("E0408", message, "ascending, at most 2^20 iterations");
        }
        let length = (hi - lo) as usize;
        let body = node.body.and_then(|block| self.func.blocks.get(block));
        let Some(body) = body.filter(|b| b.params.len() == node.operands.len()) else {
            let message = "a repeat whose body does not have one parameter an operand".to_owned();
            return self.error("E0408", message, "carries first, then slots");
        };
        let yielded = match body.nodes.last().map(|n| &self.func.nodes[*n]) {
            Some(last) if last.op == Op::Yield => last,
            // Reported as a block without terminator.
            _ => return,
        };
        if carries > node.operands.len() || yielded.operands.len() < carries {
            let message =
                format!("{} values are yielded for {carries} carries", yielded.operands.len());
            return self.error("E0408", message, "yield each carry first, then what is collected");
        }
        for (i, (operand, param)) in node.operands.iter().zip(&body.params).enumerate() {
            let (given, inside) = (self.ty(*operand), self.ty(*param));
            if i < carries {
                let next = self.ty(yielded.operands[i]);
                if given != inside {
                    let message = format!("carry {i} starts as {given}, its parameter is {inside}");
                    self.error_at(Some(i), "E0408", message, "a carry keeps one type");
                } else if next != inside {
                    let message = format!("carry {i} is {inside} but the next one is {next}");
                    let error = Diagnostic::error("E0408", message).help("a carry keeps one type");
                    let at = *body.nodes.last().expect("it ends with a yield");
                    let span = yielded.loc.operand_span(i);
                    self.out.push(at_node(self.func, at, span, error));
                }
            } else if given.shape.first() != Some(&length)
                || given.shape[1..] != inside.shape[..]
                || given.dtype != inside.dtype
            {
                let message = format!("stack {given} over {length} iterations of {inside}");
                self.error_at(Some(i), "E0408", message, "its first axis counts the iterations");
            }
        }
        // With a carry in error the results follow from nothing.
        if self.out.is_empty() {
            let types = repeat_results(self.func, carries, length, &yielded.operands);
            self.results(&types);
        }
    }

    fn returned(&mut self) {
        let operands = &self.func.nodes[self.id].operands;
        let wanted = &self.func.results;
        if operands.len() != wanted.len() {
            let message = format!(
                "@{} returns {} values, its header names {}",
                self.func.name,
                operands.len(),
                wanted.len()
            );
            return self.error("E0410", message, "return one value a result type");
        }
        for (i, (given, wanted)) in operands.iter().zip(wanted).enumerate() {
            if self.ty(*given) != wanted {
                let message =
                    format!("result {i} is {}, the header says {wanted}", self.ty(*given));
                self.error_at(Some(i), "E0410", message, "change the header or the value");
            }
        }
    }
}
