//! From parsed text and values of its dims to a module.
//!
//! Resolves names, makes constants of number operands and one weight node per path, and types
//! every statement with the rules the verifier uses. What is in error is reported once: results of
//! a faulty statement keep their printed type or are ignored where they are used.

use super::Sink;
use super::ast::*;
use super::dims::Dims;
use super::ops::Reader;
use crate::diag::{Diagnostic, Loc, Span, TextLoc};
use crate::entity::{Arena, BlockId, Entity, NodeId, ValueId};
use crate::graph::{Block, Def, Func, Module, Node, Value};
use crate::infer::infer;
use crate::op::{IndexArg, Op};
use crate::types::{DType, TensorType};
use crate::verify::{self, Context};
use crate::weights::{Manifest, ManifestError, join_path, nearest};
use std::collections::HashMap;

/// Names considered for "did you mean".
const MOST_CANDIDATES: usize = 4096;

/// See [`Source::bind`].
pub(super) fn lower(source: &Source, bindings: &[(&str, i64)]) -> (Module, Vec<Diagnostic>) {
    let mut sink = Sink::default();
    let dims = Dims::evaluate(source, bindings, &mut sink);
    let mut bound = source.noted.clone();
    for dim in dims.bound() {
        match bound.iter_mut().find(|noted| noted.name == dim.name) {
            Some(noted) => *noted = dim,
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
        let mut blocks = Arena::default();
        let entry = blocks.push(Block::default());
        let name = source.sigil(decl.name);
        let func = Func {
            name: name.to_owned(),
            index_params: Vec::new(),
            scope: decl.scope.map_or(String::new(), |span| source.unquoted(span).to_owned()),
            values: Arena::default(),
            nodes: Arena::default(),
            blocks,
            entry,
            results: Vec::new(),
            loc: Loc::Text(Box::new(TextLoc { whole: decl.name, ..TextLoc::default() })),
        };
        let mut body = Body {
            up: self,
            module,
            position,
            func,
            scopes: Vec::new(),
            open: Vec::new(),
            indices: Vec::new(),
            elsewhere: HashMap::new(),
            open_ended: decl.broken,
        };
        let broken = body.header(decl);
        body.names(&decl.body);
        body.open_block(entry);
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
    indices: Vec<&'s str>,
    /// Every name the function defines, for messages.
    elsewhere: HashMap<&'s str, Span>,
    /// The header could not be read, so parameters may be missing.
    open_ended: bool,
}

impl<'s> Body<'_, 's> {
    fn header(&mut self, decl: &'s FuncDecl) -> bool {
        let source = self.up.source;
        for span in &decl.index {
            let name = source.at(*span);
            self.bind_index(name, *span);
            self.func.index_params.push(name.to_owned());
        }
        if let Some(span) = decl.scope {
            for index in verify::path_indices(source.unquoted(span)) {
                if !self.indices.contains(&index) && !decl.broken {
                    let message = format!("the scope's index {index} is not a parameter");
                    let help = format!("declare it: `func @{}<{index}>(…)`", self.func.name);
                    self.up.report("E0407", span, message, help);
                }
            }
        }
        let results: Vec<_> = decl.results.iter().map(|ty| self.up.ty(ty)).collect();
        let results: Option<Vec<TensorType>> = results.into_iter().collect();
        // Parameters are typed later; a type in error leaves fewer of them.
        let broken = results.is_none();
        self.open_ended |= broken;
        self.func.results = results.unwrap_or_default();
        broken
    }

    fn bind_index(&mut self, name: &'s str, span: Span) {
        if self.indices.contains(&name) {
            let message = format!("index {name} is already bound here");
            self.up.report("E0411", span, message, "choose another name".to_owned());
        }
        self.indices.push(name);
    }

    /// Collects the names a block defines, with those of its bodies.
    fn names(&mut self, block: &'s BlockDecl) {
        for stmt in &block.stmts {
            for span in &stmt.results {
                self.elsewhere.entry(self.up.source.sigil(*span)).or_insert(*span);
            }
            if let StmtKind::Repeat(decl) = &stmt.kind {
                for (span, _) in decl.carries.iter().chain(&decl.stacks) {
                    self.elsewhere.entry(self.up.source.sigil(*span)).or_insert(*span);
                }
                self.names(&decl.body);
            }
        }
    }

    // ---- blocks and names

    fn open_block(&mut self, _block: BlockId) {
        let index = (!self.open.is_empty()).then(|| self.indices.last().copied()).flatten();
        self.open.push(Open {
            weights: Vec::new(),
            by_path: HashMap::new(),
            nodes: Vec::new(),
            index,
        });
        self.scopes.push(HashMap::new());
    }

    fn close_block(&mut self, block: BlockId) {
        self.scopes.pop();
        if let Some(open) = self.open.pop() {
            let mut nodes = open.weights;
            nodes.extend(open.nodes);
            self.func.blocks[block].nodes = nodes;
        }
    }

    fn visible(&self, name: &str) -> Option<Option<ValueId>> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name).copied())
    }

    fn define(&mut self, span: Span, value: Option<ValueId>, code: &'static str) {
        let name = self.up.source.sigil(span);
        if self.visible(name).is_some() {
            let message = format!("%{name} is defined twice");
            self.up.report(code, span, message, "choose another name".to_owned());
        }
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, value);
        }
    }

    fn param(&mut self, block: BlockId, name: Span, ty: Option<TensorType>, code: &'static str) {
        let value = ty.map(|ty| {
            let def = Def::Param(block, self.func.blocks[block].params.len() as u32);
            let name = self.up.source.sigil(name).to_owned();
            let value = self.func.values.push(Value { ty, def, name });
            self.func.blocks[block].params.push(value);
            value
        });
        self.open_ended |= value.is_none() && block == self.func.entry;
        self.define(name, value, code);
    }

    fn block(&mut self, decl: &'s BlockDecl, end: Op) {
        let mut broken = false;
        let mut ended = None;
        for stmt in &decl.stmts {
            if self.up.sink.full() {
                return;
            }
            if let Some(ended) = ended {
                let message = format!("a statement after {ended}");
                let help = format!("{ended} is the last statement of its block");
                self.up.report("E0409", stmt.span, message, help);
                return;
            }
            let op = self.up.source.at(stmt.op);
            match &stmt.kind {
                StmtKind::Broken => {
                    broken = true;
                    self.poison(stmt);
                }
                StmtKind::Return(operands) | StmtKind::Yield(operands) => {
                    ended = Some(op);
                    self.terminator(stmt, operands, &end);
                }
                StmtKind::Op { operands, attrs } => self.plain(stmt, operands, attrs),
                StmtKind::Call { func, index, operands } => {
                    self.call(stmt, *func, index, operands);
                }
                StmtKind::Repeat(decl) => self.repeat(stmt, decl),
            }
        }
        if ended.is_none() && !broken {
            let message = format!("the block ends without {}", end.name());
            let help = format!("end it with `{} %value`", end.name());
            self.up.report("E0409", decl.close, message, help);
        }
    }

    // ---- statements

    fn loc(stmt: &Stmt, operands: &[Operand]) -> Loc {
        let types = match (stmt.types.first(), stmt.types.last()) {
            (Some(first), Some(last)) => Span::new(first.span.start, last.span.end),
            _ => Span::default(),
        };
        let operands = operands.iter().map(|operand| operand.span).collect();
        Loc::Text(Box::new(TextLoc { whole: stmt.span, op: stmt.op, operands, types }))
    }

    /// Defines the results of a statement in error: with its printed types if they are known, so
    /// that later statements are still checked.
    fn placeholder(&mut self, stmt: &Stmt, types: Option<Vec<TensorType>>) {
        let types = types.filter(|types| types.len() == stmt.results.len());
        let Some(types) = types else { return self.poison(stmt) };
        for (span, ty) in stmt.results.iter().zip(types) {
            let loc = Self::loc(stmt, &[]);
            let names = std::slice::from_ref(span);
            let node = self.push(Op::Const { values: vec![0.0] }, &[], &[ty], names, loc);
            let value = self.func.nodes[node].results[0];
            self.define(*span, Some(value), "E0402");
        }
    }

    fn poison(&mut self, stmt: &Stmt) {
        for span in &stmt.results {
            self.define(*span, None, "E0402");
        }
    }

    /// Adds a node to the innermost block.
    fn push(
        &mut self,
        op: Op,
        operands: &[ValueId],
        types: &[TensorType],
        names: &[Span],
        loc: Loc,
    ) -> NodeId {
        let id = NodeId::from_index(self.func.nodes.len());
        let results = types
            .iter()
            .enumerate()
            .map(|(i, ty)| {
                let name = names.get(i).map_or("", |span| self.up.source.sigil(*span)).to_owned();
                let def = Def::Result(id, i as u32);
                self.func.values.push(Value { ty: ty.clone(), def, name })
            })
            .collect();
        let operands = operands.iter().copied().collect();
        self.func.nodes.push(Node { op, operands, results, body: None, loc });
        if let Some(open) = self.open.last_mut() {
            open.nodes.push(id);
        }
        id
    }

    /// Reports what the verifier would say of `node`.
    fn check(&mut self, node: NodeId) {
        let cx = Context {
            module: self.module,
            funcs: &self.up.funcs,
            position: self.position,
            indices: &self.indices,
        };
        for error in verify::check_node(&cx, &self.func, node) {
            self.up.sink.push(error);
        }
    }

    /// The printed types: outer `None` if one is in error, empty if none is printed.
    fn printed(&mut self, stmt: &Stmt) -> Option<Vec<TensorType>> {
        let types: Vec<_> = stmt.types.iter().map(|ty| self.up.ty(ty)).collect();
        types.into_iter().collect()
    }

    /// Pushes and checks a node whose operands are sound and defines its results.
    fn finish(
        &mut self,
        stmt: &Stmt,
        op: Op,
        operands: &[ValueId],
        types: &[TensorType],
        loc: Loc,
    ) {
        if types.len() != stmt.results.len() {
            let name = self.up.source.at(stmt.op);
            let message =
                format!("{name} gives {} results, {} are named", types.len(), stmt.results.len());
            let help = "name each result once, as in `%a, %b = …`".to_owned();
            self.up.report("E0207", stmt.span, message, help);
            return self.poison(stmt);
        }
        let node = self.push(op, operands, types, &stmt.results, loc);
        self.check(node);
        for (i, span) in stmt.results.iter().enumerate() {
            let value = self.func.nodes[node].results[i];
            self.define(*span, Some(value), "E0402");
        }
    }

    fn plain(&mut self, stmt: &'s Stmt, operands: &[Operand], attrs: &[Attr]) {
        let printed = self.printed(stmt);
        let (source, known) = (self.up.source, Vec::new());
        let (dims, sink) = (&self.up.dims, &mut self.up.sink);
        let op = Reader { source, dims, sink, attrs, op: stmt.op, known }.build();
        let values = match &op {
            Some(op) => {
                let hint = stmt.results.first().map_or("", |span| source.sigil(*span));
                self.operands(op, operands, printed.as_deref(), hint)
            }
            None => self.plain_operands(operands),
        };
        let (Some(op), Some(values), Some(types)) = (op, values, printed.clone()) else {
            return self.placeholder(stmt, printed.filter(|types| !types.is_empty()));
        };
        let loc = Self::loc(stmt, operands);
        if !types.is_empty() {
            return self.finish(stmt, op, &values, &types, loc);
        }
        let given: Vec<&TensorType> = values.iter().map(|v| self.func.ty(*v)).collect();
        match infer(&op, &given, &[]) {
            Ok(types) => self.finish(stmt, op, &values, &types, loc),
            Err(error) => {
                let span = error.operand.and_then(|i| operands.get(i)).map(|o| o.span);
                let span = span.unwrap_or(stmt.span);
                self.up.report(error.code, span, error.message, error.help);
                self.poison(stmt);
            }
        }
    }

    fn terminator(&mut self, stmt: &'s Stmt, operands: &[Operand], end: &Op) {
        let values = self.plain_operands(operands);
        let name = self.up.source.at(stmt.op);
        if name != end.name() {
            let message = format!("{name} in a block that ends with {}", end.name());
            let help = "functions end with return, repeat bodies with yield".to_owned();
            return self.up.report("E0409", stmt.op, message, help);
        }
        if !stmt.results.is_empty() || !stmt.types.is_empty() {
            let message = format!("{name} has no results");
            let help = format!("write `{name} %value`");
            self.up.report("E0207", stmt.span, message, help);
        }
        if let Some(values) = values {
            let node = self.push(end.clone(), &values, &[], &[], Self::loc(stmt, operands));
            if !(name == "return" && self.open_ended) {
                self.check(node);
            }
        }
    }

    fn call(&mut self, stmt: &'s Stmt, func: Span, index: &[Span], operands: &[Operand]) {
        let source = self.up.source;
        let name = source.sigil(func);
        let printed = self.printed(stmt);
        let values = self.plain_operands(operands);
        let mut args = Vec::new();
        for span in index {
            let word = source.at(*span);
            args.push(match word.parse::<u32>() {
                Ok(value) => IndexArg::Int(value),
                Err(_) if word.starts_with(|c: char| c.is_ascii_digit()) => {
                    let message = format!("index {word} is too large");
                    self.up.report("E0114", *span, message, "at most 2^32 - 1".to_owned());
                    IndexArg::Int(0)
                }
                Err(_) => IndexArg::Name(word.to_owned()),
            });
        }
        let position = self.up.funcs.get(name).copied();
        let unknown = position.is_none() && self.up.source.incomplete;
        let broken = position.is_some_and(|p| self.up.broken.get(p).copied().unwrap_or(false));
        let (Some(values), Some(types)) = (values, printed.clone()) else {
            return self.placeholder(stmt, printed.filter(|types| !types.is_empty()));
        };
        if unknown || broken {
            return self.placeholder(stmt, Some(types));
        }
        let op = Op::Call { func: name.to_owned(), index: args };
        let loc = Self::loc(stmt, operands);
        let callee = position.filter(|p| *p < self.position).map(|p| &self.module.funcs[p]);
        let types = match callee {
            Some(callee) if types.is_empty() => callee.results.clone(),
            None if types.len() != stmt.results.len() => {
                // The unknown function is the point, not its results.
                let node = self.push(op, &values, &[], &[], loc);
                self.check(node);
                return self.poison(stmt);
            }
            _ => types,
        };
        self.finish(stmt, op, &values, &types, loc);
    }

    fn repeat(&mut self, stmt: &'s Stmt, decl: &'s RepeatDecl) {
        let source = self.up.source;
        let printed = self.printed(stmt);
        let bound = |body: &mut Self, expr: Expr| {
            let value = body.up.dims.eval(expr, &mut body.up.sink)?;
            let fits = u32::try_from(value).ok();
            if fits.is_none() {
                let message = format!("{value} is not a usable bound");
                let help = "bounds are whole numbers from 0".to_owned();
                body.up.report("E0408", expr.span, message, help);
            }
            fits
        };
        let (lo, hi) = (bound(self, decl.lo), bound(self, decl.hi));
        let operands: Vec<Operand> =
            decl.carries.iter().chain(&decl.stacks).map(|(_, operand)| *operand).collect();
        let values: Vec<Option<ValueId>> =
            operands.iter().map(|operand| self.operand(operand)).collect();

        let block = self.func.blocks.push(Block::default());
        self.bind_index(source.at(decl.index), decl.index);
        self.open_block(block);
        let mut sound = true;
        for (i, (name, operand)) in decl.carries.iter().chain(&decl.stacks).enumerate() {
            let mut ty = values[i].map(|value| self.func.ty(value).clone());
            if i >= decl.carries.len()
                && let Some(stack) = ty.take()
            {
                if stack.rank() == 0 {
                    let message = format!("{stack} cannot be read slot by slot");
                    let help = "its first axis counts the iterations".to_owned();
                    self.up.report("E0408", operand.span, message, help);
                } else {
                    ty = Some(TensorType::new(stack.dtype, stack.shape[1..].iter().copied()));
                }
            }
            sound &= ty.is_some();
            self.param(block, *name, ty, "E0402");
        }
        self.block(&decl.body, Op::Yield);
        self.close_block(block);
        self.indices.pop();

        let last = self.func.blocks[block].nodes.last().copied();
        let yielded = last.filter(|node| self.func.nodes[*node].op == Op::Yield);
        let values: Option<Vec<ValueId>> = values.into_iter().collect();
        let (Some(values), Some(yielded), Some(lo), Some(hi), Some(types), true) =
            (values, yielded, lo, hi, printed.clone(), sound)
        else {
            return self.placeholder(stmt, printed.filter(|types| !types.is_empty()));
        };
        let carries = decl.carries.len();
        let op = Op::Repeat { index: source.at(decl.index).to_owned(), lo, hi, carries };
        let types = if types.is_empty() {
            let length = hi.saturating_sub(lo) as usize;
            let yielded = self.func.nodes[yielded].operands.clone();
            verify::repeat_results(&self.func, carries, length, &yielded)
        } else {
            types
        };
        let loc = Self::loc(stmt, &operands);
        self.finish_repeat(stmt, op, &values, &types, loc, block);
    }

    fn finish_repeat(
        &mut self,
        stmt: &Stmt,
        op: Op,
        operands: &[ValueId],
        types: &[TensorType],
        loc: Loc,
        body: BlockId,
    ) {
        // The body has to be in place before the node is checked.
        let node = self.push(op, operands, types, &stmt.results, loc);
        self.func.nodes[node].body = Some(body);
        if let Some(error) = types.iter().find_map(verify::unusable) {
            self.up.sink.push(error.at(stmt.span));
            return self.poison(stmt);
        }
        if types.len() == stmt.results.len() {
            self.check(node);
            for (i, span) in stmt.results.iter().enumerate() {
                let value = self.func.nodes[node].results[i];
                self.define(*span, Some(value), "E0402");
            }
        } else {
            let message =
                format!("repeat gives {} results, {} are named", types.len(), stmt.results.len());
            let help = "one result a carry, then one a collected value".to_owned();
            self.up.report("E0207", stmt.span, message, help);
            self.poison(stmt);
        }
    }

    // ---- operands

    fn plain_operands(&mut self, operands: &[Operand]) -> Option<Vec<ValueId>> {
        let values: Vec<_> = operands.iter().map(|operand| self.operand(operand)).collect();
        values.into_iter().collect()
    }

    fn operand(&mut self, operand: &Operand) -> Option<ValueId> {
        match operand.kind {
            OperandKind::Value => self.value(operand.span),
            OperandKind::Path => self.weight(operand.span),
            OperandKind::Literal(_) => {
                let message = "a number cannot stand here".to_owned();
                let help = "make it a value: `%c = const {value=1} : f32[]`".to_owned();
                self.up.report("E0209", operand.span, message, help);
                None
            }
        }
    }

    fn value(&mut self, span: Span) -> Option<ValueId> {
        let name = self.up.source.sigil(span);
        if let Some(value) = self.visible(name) {
            return value;
        }
        if let Some(defined) = self.elsewhere.get(name) {
            let later = defined.start > span.start;
            let (message, help) = if later {
                (format!("%{name} is used before it is defined"), "move its definition up")
            } else {
                (
                    format!("%{name} belongs to a repeat body and is not visible here"),
                    "yield it, and use the repeat's result",
                )
            };
            self.up.report("E0403", span, message, help.to_owned());
        } else if !self.open_ended {
            let mut names: Vec<&str> =
                self.scopes.iter().flat_map(|s| s.keys().copied()).take(MOST_CANDIDATES).collect();
            names.sort_unstable();
            let help = match nearest(name, names) {
                Some(near) => format!("did you mean %{near}?"),
                None => "define it above, or add a parameter".to_owned(),
            };
            self.up.report("E0401", span, format!("%{name} is not defined"), help);
        }
        None
    }

    /// The weight node of a path: at the head of the innermost repeat whose index it uses, else of
    /// the function.
    fn weight(&mut self, span: Span) -> Option<ValueId> {
        let path = self.up.source.unquoted(span);
        let uses = |index: &str| verify::path_indices(path).any(|name| name == index);
        let level = self.open.iter().rposition(|open| open.index.is_some_and(uses)).unwrap_or(0);
        if let Some(value) = self.open[level].by_path.get(path) {
            return *value;
        }
        let value = self.new_weight(path, span, level);
        self.open[level].by_path.insert(path, value);
        value
    }

    fn new_weight(&mut self, path: &'s str, span: Span, level: usize) -> Option<ValueId> {
        let source = self.up.source;
        let lost = match &source.weights {
            Some(decl) => decl.broken,
            None => source.incomplete,
        };
        let full = join_path(&self.func.scope, path);
        let ty = self.module.weights.resolve(&full).cloned();
        if ty.is_none() && (lost || self.open_ended) {
            return None;
        }
        let known = ty.is_some();
        let ty = ty.unwrap_or(TensorType::new(DType::F32, []));
        let id = NodeId::from_index(self.func.nodes.len());
        let name = path.to_owned();
        let value = self.func.values.push(Value { ty, def: Def::Result(id, 0), name });
        let whole = TextLoc { whole: span, op: span, ..TextLoc::default() };
        self.func.nodes.push(Node {
            op: Op::Weight { path: path.to_owned() },
            operands: Default::default(),
            results: smallvec::smallvec![value],
            body: None,
            loc: Loc::Text(Box::new(whole)),
        });
        self.open[level].weights.push(id);
        self.check(id);
        known.then_some(value)
    }

    /// Operands of an op; numbers become constants where the op takes them.
    fn operands(
        &mut self,
        op: &Op,
        operands: &[Operand],
        printed: Option<&[TensorType]>,
        hint: &str,
    ) -> Option<Vec<ValueId>> {
        let skip = match op {
            Op::Binary(_) | Op::Compare(_) => 0,
            Op::Select => 1,
            _ => return self.plain_operands(operands),
        };
        let is_literal = |o: &Operand| matches!(o.kind, OperandKind::Literal(_));
        let mut values: Vec<Option<ValueId>> = Vec::new();
        for (i, operand) in operands.iter().enumerate() {
            let later = i >= skip && is_literal(operand);
            values.push(if later { None } else { self.operand(operand) });
        }
        // The first operand that is a value gives its element type.
        let model = operands.iter().skip(skip).position(|o| !is_literal(o)).map(|i| i + skip);
        let dtype = match model {
            Some(i) => Some(self.func.ty(values[i]?).dtype),
            None if matches!(op, Op::Compare(_)) => None,
            None => printed.and_then(|types| types.first()).map(|ty| ty.dtype),
        };
        for (i, operand) in operands.iter().enumerate() {
            let OperandKind::Literal(value) = operand.kind else { continue };
            if i < skip {
                continue;
            }
            let Some(dtype) = dtype else {
                let message = "the type of this number is open".to_owned();
                let help = "at least one operand must be a value".to_owned();
                self.up.report("E0209", operand.span, message, help);
                return None;
            };
            let stmt = Stmt {
                span: operand.span,
                results: Vec::new(),
                op: operand.span,
                kind: StmtKind::Broken,
                types: Vec::new(),
            };
            let loc = Self::loc(&stmt, &[]);
            let ty = TensorType::new(dtype, []);
            let node = self.push(Op::Const { values: vec![value] }, &[], &[ty], &[], loc);
            self.check(node);
            let result = self.func.nodes[node].results[0];
            self.func.values[result].name = format!("{hint}.c");
            values[i] = Some(result);
        }
        values.into_iter().collect()
    }
}
