//! From parsed text and values of its dims to a module.
//!
//! Resolves names, makes constants of number operands and one weight node per path, and types
//! every statement with the rules the verifier uses. What is in error is reported once: results of
//! a faulty statement keep their printed type or are ignored where they are used.

mod body;
mod operand;
mod stmt;

use super::ast::*;
use super::dims::Dims;
use super::ops::Reader;
use crate::diag::Sink;
use crate::diag::{Diagnostic, Loc, Span, TextLoc};
use crate::entity::{BlockId, NodeId, ValueId};
use crate::graph::{Block, Func, Module};
use crate::indices::Indices;
use crate::infer::infer;
use crate::manifest::{Manifest, ManifestError, join_path};
use crate::op::{IndexArg, Op};
use crate::spelling::meant;
use crate::types::{DType, TensorType};
use crate::verify::{self, Context};
use std::collections::HashMap;

/// Names considered for "did you mean".
const MOST_CANDIDATES: usize = 4096;

/// See [`Source::bind`].
pub(super) fn lower(source: &Source, bindings: &[(&str, i64)]) -> (Module, Vec<Diagnostic>) {
    let mut sink = Sink::default();
    let dims = Dims::evaluate(source, bindings, &mut sink);
    let mut bound = source.noted.clone();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (at, noted) in bound.iter().enumerate() {
        places.entry(noted.name.clone()).or_insert(at);
    }
    for dim in dims.bound() {
        match places.get(&dim.name) {
            Some(at) => bound[*at] = dim,
            None => bound.push(dim),
        }
    }
    let mut module = Module { name: source.name().to_owned(), dims: bound, ..Module::default() };
    let mut lower = Lower { source, dims, sink, funcs: HashMap::new(), broken: Vec::new() };
    lower.weights(&mut module);
    for (position, decl) in source.funcs.iter().enumerate() {
        let name = source.sigil(decl.name);
        if lower.funcs.contains_key(name) {
            let error = Diagnostic::error("E0411", format!("function @{name} is defined twice"));
            lower.sink.push(error.at(decl.name).help("rename one"));
        }
        lower.funcs.entry(name).or_insert(position);
    }
    for (position, decl) in source.funcs.iter().enumerate() {
        if lower.sink.full() {
            break;
        }
        lower.func(&mut module, position, decl);
    }
    (module, lower.sink.finish())
}

struct Lower<'s> {
    source: &'s Source,
    dims: Dims<'s>,
    sink: Sink,
    funcs: HashMap<&'s str, usize>,
    /// Functions whose signature is in error; calls of them are not checked.
    broken: Vec<bool>,
}

impl<'s> Lower<'s> {
    fn report(&mut self, code: &'static str, span: Span, message: String, help: String) {
        self.sink.push(Diagnostic::error(code, message).at(span).help(help));
    }

    fn ty(&mut self, decl: &TypeExpr) -> Option<TensorType> {
        if decl.dims.len() > verify::MOST_AXES {
            let message = format!("a tensor with {} axes", decl.dims.len());
            let help = format!("at most {} axes", verify::MOST_AXES);
            self.report("E0208", decl.span, message, help);
            return None;
        }
        // Every size is evaluated, so that all errors are seen.
        let sizes: Vec<Option<usize>> =
            decl.dims.iter().map(|expr| self.dims.size(*expr, &mut self.sink)).collect();
        let sizes: Option<Vec<usize>> = sizes.into_iter().collect();
        let ty = TensorType::new(decl.dtype?, sizes?);
        match verify::unusable(&ty) {
            Some(error) => {
                self.sink.push(error.at(decl.span));
                None
            }
            None => Some(ty),
        }
    }

    fn weights(&mut self, module: &mut Module) {
        let Some(decl) = &self.source.weights else { return };
        module.weights = Manifest::new(self.source.sigil(decl.name));
        for (name, ty) in &decl.entries {
            if self.sink.full() {
                return;
            }
            // An unusable type still declares the names, so that their uses are not reported too.
            let ty = self.ty(ty).unwrap_or(TensorType::new(DType::F32, []));
            let before = module.weights.len();
            let (message, help) = match module.weights.add(self.source.unquoted(*name), ty) {
                Ok(()) if module.weights.len() > before => continue,
                Ok(()) => ("this template stands for no tensor".to_owned(), "check its range"),
                Err(ManifestError::Template(why)) => {
                    (why, "write templates as in \"blocks.{l:0..30}.{q,k}.weight\"")
                }
                Err(ManifestError::Duplicate(name)) => {
                    (format!("weight {name} is declared twice"), "keep one of the entries")
                }
            };
            self.report("E0306", *name, message, help.to_owned());
        }
    }

    fn func(&mut self, module: &mut Module, position: usize, decl: &'s FuncDecl) {
        let source = self.source;
        let mut func = Func::empty(source.sigil(decl.name), Body::at(decl.name));
        func.scope = decl.scope.map_or(String::new(), |span| source.unquoted(span).to_owned());
        let entry = func.entry;
        let mut body = Body {
            up: self,
            module,
            position,
            func,
            scopes: Vec::new(),
            open: Vec::new(),
            indices: Indices::default(),
            elsewhere: HashMap::new(),
            open_ended: decl.broken,
        };
        let broken = body.header(decl);
        body.names(&decl.body);
        body.open_block();
        for (name, ty) in &decl.params {
            let ty = body.up.ty(ty);
            body.param(entry, *name, ty, "E0411");
        }
        body.block(&decl.body, Op::Return);
        body.close_block(entry);
        let func = body.func;
        module.funcs.push(func);
        self.broken.push(broken || decl.broken);
    }
}

/// A block being filled.
struct Open<'s> {
    /// Weight nodes, which go to the head.
    weights: Vec<NodeId>,
    by_path: HashMap<&'s str, Option<ValueId>>,
    nodes: Vec<NodeId>,
    /// Index of the repeat, `None` for the function's body.
    index: Option<&'s str>,
}

/// A function being lowered.
struct Body<'a, 's> {
    up: &'a mut Lower<'s>,
    module: &'a Module,
    position: usize,
    func: Func,
    /// Visible names, innermost last; `None` for a value in error.
    scopes: Vec<HashMap<&'s str, Option<ValueId>>>,
    open: Vec<Open<'s>>,
    indices: Indices<'s>,
    /// Every name the function defines, for messages.
    elsewhere: HashMap<&'s str, Span>,
    /// The header could not be read, so parameters may be missing.
    open_ended: bool,
}
