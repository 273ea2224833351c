//! The verifier: what every module must satisfy before a pass, a backend or the interpreter may
//! rely on it.
//!
//! Names: functions, their index parameters and their parameters are declared once (E0411), and
//! every name can be written in text (E0413).
//! Ids: nodes and values lie in their function's arenas, each node stands in one block and each
//! block under one node, and definitions point back to where they are (E0412).
//! Scope: a value is used after its definition, inside the block that defines it or a body nested
//! in that block (E0403); an index is bound by an enclosing `repeat` or an index parameter
//! (E0407).
//! Blocks: the last node is `return` (function) or `yield` (repeat body), and only the last
//! (E0409). Bodies nest at most 64 deep (E0109).
//! Types: no axis of size 0 (E0114), at most 2^48 elements and 16 axes (E0208); recorded result
//! types are those of [`infer`] (E0201–E0206, E0208), as many as the op has (E0207).
//! Weights: every path is in the manifest with the type recorded (E0305, E0206), for every value
//! its indices take in the module; entries can be written in text (E0306).
//! Calls: the function exists (E0404) and stands earlier, so there is no recursion (E0405);
//! operands and indices fit its signature (E0406). `return` fits the function's results (E0410).
//! Repeats: carries keep their type, stacks have one slot an iteration (E0408).
//!
//! At most 50 diagnostics are given. Modules from text carry spans, others a place in words.

use crate::diag::{Diagnostic, Loc, Span};
use crate::entity::{BlockId, Entity, NodeId, ValueId};
use crate::graph::{Def, Func, Module};
use crate::infer::{TypeError, infer};
use crate::op::{IndexArg, Op};
use crate::text::{DEEPEST, Sink};
use crate::types::TensorType;
use crate::weights::{bind_path, join_path, nearest};
use std::collections::{HashMap, HashSet};

/// Most elements of a tensor, exclusive.
const MOST_ELEMENTS: usize = 1 << 48;
/// Most axes of a tensor.
pub(crate) const MOST_AXES: usize = 16;
/// Most iterations of a `repeat`.
pub(crate) const MOST_ITERATIONS: u32 = 1 << 20;
/// Manifests above this size get no "did you mean": the search would take too long.
const MOST_CANDIDATES: usize = 1 << 14;
/// Steps after which the check of every index value is cut short.
const MOST_STEPS: usize = 1 << 20;

/// Checks every property in the header of this file; empty when all hold.
pub fn verify(module: &Module) -> Vec<Diagnostic> {
    let mut sink = Sink::default();
    let mut funcs: HashMap<&str, usize> = HashMap::new();
    for (position, func) in module.funcs.iter().enumerate() {
        if !is_func_name(&func.name) {
            sink.push(unwritable("function", &func.name).place(format!("@{}", func.name)));
        }
        if funcs.contains_key(func.name.as_str()) {
            let message = format!("function @{} is defined twice", func.name);
            sink.push(header(func, Diagnostic::error("E0411", message)).help("rename one"));
        }
        funcs.entry(&func.name).or_insert(position);
    }
    for entry in module.weights.entries() {
        let place = format!("weight \"{}\"", entry.template);
        if !is_writable(&entry.template) {
            let error = Diagnostic::error("E0306", "a template that cannot be written in text");
            sink.push(error.place(place.clone()).help("no quotes or control characters"));
        }
        if let Some(error) = unusable(&entry.ty) {
            sink.push(error.place(place));
        }
    }
    for (position, func) in module.funcs.iter().enumerate() {
        if sink.full() {
            break;
        }
        let mut check = FuncCheck {
            module,
            funcs: &funcs,
            position,
            func,
            sink: &mut sink,
            visible: vec![false; func.values.len()],
            defined: vec![false; func.values.len()],
            placed: vec![false; func.nodes.len()],
            entered: vec![false; func.blocks.len()],
            indices: func.index_params.iter().map(String::as_str).collect(),
            sound: true,
        };
        check.header();
        check.block(func.entry, 0);
    }
    if sink.len() == 0 {
        Bindings { module, funcs: &funcs, sink: &mut sink, reported: HashSet::new(), steps: 0 }
            .check();
    }
    sink.finish()
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 256
        && bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_func_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=255).contains(&name.len()) && name.bytes().all(allowed)
}

/// Whether a string can stand between quotes in text.
fn is_writable(text: &str) -> bool {
    (1..=1000).contains(&text.len()) && !text.chars().any(|c| c == '"' || c.is_control())
}

fn unwritable(what: &str, name: &str) -> Diagnostic {
    let message = format!("the {what} name \"{}\" cannot be written in text", name.escape_debug());
    Diagnostic::error("E0413", message).help("use letters, digits and _")
}

fn header(func: &Func, diagnostic: Diagnostic) -> Diagnostic {
    match func.loc.span() {
        Some(span) => diagnostic.at(span),
        None => diagnostic.place(format!("@{}", func.name)),
    }
}

/// Index names in a path's `{name}` segments.
pub(crate) fn path_indices(path: &str) -> impl Iterator<Item = &str> {
    path.split('.').filter_map(|s| s.strip_prefix('{').and_then(|s| s.strip_suffix('}')))
}

/// Why a type cannot be worked with at all, if so: E0114 or E0208.
pub(crate) fn unusable(ty: &TensorType) -> Option<Diagnostic> {
    if ty.rank() > MOST_AXES {
        let message = format!("a tensor with {} axes", ty.rank());
        let help = format!("at most {MOST_AXES} axes");
        return Some(Diagnostic::error("E0208", message).help(help));
    }
    if ty.shape.contains(&0) {
        let error = Diagnostic::error("E0114", format!("{ty} has an axis of size 0"));
        return Some(error.help("sizes are whole numbers from 1 to 2^40"));
    }
    let elements = ty.shape.iter().try_fold(1usize, |n, s| n.checked_mul(*s));
    if elements.is_none_or(|n| n >= MOST_ELEMENTS) {
        let error = Diagnostic::error("E0208", format!("{ty} is too large"));
        return Some(error.help("at most 2^48 elements"));
    }
    None
}

// ---- one node

/// What a node may refer to besides the values of its function.
pub(crate) struct Context<'a> {
    /// Manifest and earlier functions.
    pub(crate) module: &'a Module,
    /// Position of every function of the module.
    pub(crate) funcs: &'a HashMap<&'a str, usize>,
    /// Position of the node's function.
    pub(crate) position: usize,
    /// Index names bound where the node stands.
    pub(crate) indices: &'a [&'a str],
}

/// Adds the place of `node`: `span`, else that of its statement, else words.
fn at_node(func: &Func, node: NodeId, span: Option<Span>, error: Diagnostic) -> Diagnostic {
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
        let bound = self.cx.indices.contains(&index);
        if !bound {
            let help = match self.cx.indices {
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
                let help = match nearest(name, names) {
                    Some(near) => format!("did you mean @{near}?"),
                    None => "define it above this function".to_owned(),
                };
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

// ---- one function

struct FuncCheck<'a> {
    module: &'a Module,
    funcs: &'a HashMap<&'a str, usize>,
    position: usize,
    func: &'a Func,
    sink: &'a mut Sink,
    visible: Vec<bool>,
    defined: Vec<bool>,
    placed: Vec<bool>,
    entered: Vec<bool>,
    indices: Vec<&'a str>,
    /// No id is wrong so far, so types may be looked at.
    sound: bool,
}

impl<'a> FuncCheck<'a> {
    fn header(&mut self) {
        let func = self.func;
        let mut seen: HashSet<&str> = HashSet::new();
        for name in &func.index_params {
            if !is_identifier(name) {
                self.sink.push(header(func, unwritable("index", name)));
            }
            if !seen.insert(name) {
                let message = format!("index {name} is declared twice");
                self.sink.push(header(func, Diagnostic::error("E0411", message)));
            }
        }
        for index in path_indices(&func.scope) {
            if !self.indices.contains(&index) {
                let message = format!("the scope's index {index} is not a parameter");
                let help = format!("declare it: `func @{}<{index}>(…)`", func.name);
                self.sink.push(header(func, Diagnostic::error("E0407", message).help(help)));
            }
        }
        if !func.scope.is_empty() && !is_writable(&func.scope) {
            self.sink.push(header(func, unwritable("scope", &func.scope)));
        }
        let Some(entry) = func.blocks.get(func.entry) else { return };
        let mut seen: HashSet<&str> = HashSet::new();
        for value in entry.params.iter().filter_map(|v| func.values.get(*v)) {
            if !value.name.is_empty() && !seen.insert(&value.name) {
                let message = format!("parameter %{} is declared twice", value.name);
                self.sink.push(header(func, Diagnostic::error("E0411", message)));
            }
        }
    }

    fn broken(&mut self, node: Option<NodeId>, message: String) {
        self.sound = false;
        let error = Diagnostic::error("E0412", message)
            .help("the module was changed inconsistently; this is a bug of the pass or builder");
        let node = node.filter(|n| n.index() < self.func.nodes.len());
        self.sink.push(match node {
            Some(node) => at_node(self.func, node, None, error),
            None => header(self.func, error),
        });
    }

    /// Marks a value as defined here; its type must be usable.
    fn define(&mut self, value: ValueId, def: Def, node: Option<NodeId>, names: &mut Vec<ValueId>) {
        let func = self.func;
        let Some(stored) = func.values.get(value) else {
            return self.broken(node, format!("{value:?} is not a value of the function"));
        };
        if self.defined[value.index()] || stored.def != def {
            return self.broken(node, format!("the definition of %{} is wrong", stored.name));
        }
        if let Some(error) = unusable(&stored.ty) {
            self.sound = false;
            self.sink.push(match node {
                Some(node) => at_node(func, node, None, error),
                None => header(func, error),
            });
        }
        self.defined[value.index()] = true;
        self.visible[value.index()] = true;
        names.push(value);
    }

    fn block(&mut self, id: BlockId, depth: usize) {
        let func = self.func;
        let Some(block) = func.blocks.get(id) else {
            return self.broken(None, format!("{id:?} is not a block of the function"));
        };
        if self.entered[id.index()] {
            return self.broken(None, format!("{id:?} is the body of two nodes"));
        }
        if depth > DEEPEST {
            self.sound = false;
            let error = Diagnostic::error("E0109", format!("bodies nest more than {DEEPEST} deep"));
            return self.sink.push(header(func, error));
        }
        self.entered[id.index()] = true;
        let mut names = Vec::new();
        for (i, value) in block.params.iter().enumerate() {
            self.define(*value, Def::Param(id, i as u32), None, &mut names);
        }
        let end = if depth == 0 { Op::Return } else { Op::Yield };
        for (i, node) in block.nodes.iter().enumerate() {
            if self.sink.full() {
                return;
            }
            self.node(*node, depth, &mut names);
            let Some(op) = func.nodes.get(*node).map(|n| &n.op) else { continue };
            let terminates = matches!(op, Op::Return | Op::Yield);
            let last = i + 1 == block.nodes.len();
            if terminates != last || (last && *op != end) {
                let message = format!("{} at position {i} of a block", op.name());
                let help = format!("the block ends with {}, and only there", end.name());
                let error = Diagnostic::error("E0409", message).help(help);
                self.sink.push(at_node(func, *node, None, error));
            }
        }
        if block.nodes.is_empty() {
            let message = format!("a block without {}", end.name());
            self.sink.push(header(func, Diagnostic::error("E0409", message)));
        }
        for value in names {
            self.visible[value.index()] = false;
        }
    }

    fn node(&mut self, id: NodeId, depth: usize, names: &mut Vec<ValueId>) {
        let func = self.func;
        let Some(node) = func.nodes.get(id) else {
            return self.broken(None, format!("{id:?} is not a node of the function"));
        };
        if std::mem::replace(&mut self.placed[id.index()], true) {
            return self.broken(Some(id), "the node stands in two places".to_owned());
        }
        for (i, operand) in node.operands.iter().enumerate() {
            let Some(value) = func.values.get(*operand) else {
                self.broken(Some(id), format!("operand {i}, {operand:?}, is not a value"));
                continue;
            };
            if !self.visible[operand.index()] {
                self.sound = false;
                let message = format!("%{} is used where it is not defined", value.name);
                let error = Diagnostic::error("E0403", message)
                    .help("values are visible after their definition, inside their block");
                let span = node.loc.operand_span(i);
                self.sink.push(at_node(func, id, span, error));
            }
        }
        match (&node.op, node.body) {
            (Op::Repeat { index, .. }, Some(body)) => {
                if !is_identifier(index) {
                    self.sink.push(at_node(func, id, None, unwritable("index", index)));
                }
                if self.indices.contains(&index.as_str()) {
                    let message = format!("index {index} is already bound here");
                    let error = Diagnostic::error("E0411", message).help("rename it");
                    self.sink.push(at_node(func, id, None, error));
                }
                self.indices.push(index);
                self.block(body, depth + 1);
                self.indices.pop();
            }
            (Op::Repeat { .. }, None) => self.broken(Some(id), "a repeat without a body".into()),
            (_, Some(_)) => self.broken(Some(id), "a body on an op that has none".into()),
            (Op::Weight { path }, None) if !is_writable(path) => {
                self.sink.push(at_node(func, id, None, unwritable("weight", path)));
            }
            _ => {}
        }
        for (i, value) in node.results.iter().enumerate() {
            self.define(*value, Def::Result(id, i as u32), Some(id), names);
        }
        if self.sound {
            let cx = Context {
                module: self.module,
                funcs: self.funcs,
                position: self.position,
                indices: &self.indices,
            };
            for error in check_node(&cx, func, id) {
                self.sink.push(error);
            }
        }
    }
}

// ---- every value of the indices

/// Follows calls and loops from the functions that can be run, with every value of the indices
/// that weight paths use.
struct Bindings<'a> {
    module: &'a Module,
    funcs: &'a HashMap<&'a str, usize>,
    sink: &'a mut Sink,
    reported: HashSet<(usize, NodeId)>,
    steps: usize,
}

type Env<'a> = Vec<(&'a str, u32)>;

fn value_of(env: &Env<'_>, name: &str) -> Option<u32> {
    env.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| *value)
}

impl<'a> Bindings<'a> {
    fn check(&mut self) {
        let module = self.module;
        let mut seen: HashSet<(usize, Vec<u32>)> = HashSet::new();
        let mut open: Vec<(usize, Vec<u32>)> = Vec::new();
        for (position, func) in module.funcs.iter().enumerate() {
            if func.index_params.is_empty() {
                open.push((position, Vec::new()));
            }
        }
        while let Some((position, values)) = open.pop() {
            if !seen.insert((position, values.clone())) {
                continue;
            }
            let func = &module.funcs[position];
            let mut env: Env<'_> =
                func.index_params.iter().map(String::as_str).zip(values).collect();
            self.block(position, func.entry, &mut env, &mut open);
        }
    }

    fn block(
        &mut self,
        position: usize,
        block: BlockId,
        env: &mut Env<'a>,
        open: &mut Vec<(usize, Vec<u32>)>,
    ) {
        let func = &self.module.funcs[position];
        for id in &func.blocks[block].nodes {
            self.steps += 1;
            if self.steps > MOST_STEPS || self.sink.full() {
                return;
            }
            let node = &func.nodes[*id];
            match (&node.op, node.body) {
                (Op::Weight { path }, _) => self.weight(position, *id, path, env),
                (Op::Call { func: name, index }, _) => {
                    let value = |arg: &IndexArg| match arg {
                        IndexArg::Int(value) => Some(*value),
                        IndexArg::Name(name) => value_of(env, name),
                    };
                    let values: Option<Vec<u32>> = index.iter().map(value).collect();
                    if let (Some(values), Some(callee)) = (values, self.funcs.get(name.as_str()))
                        && !values.is_empty()
                    {
                        open.push((*callee, values));
                    }
                }
                (Op::Repeat { index, lo, hi, .. }, Some(body)) => {
                    let values =
                        if uses(func, body, index) { *lo..*hi } else { *lo..*hi.min(&(lo + 1)) };
                    for value in values {
                        env.push((index, value));
                        self.block(position, body, env, open);
                        env.pop();
                    }
                }
                _ => {}
            }
        }
    }

    fn weight(&mut self, position: usize, id: NodeId, path: &str, env: &Env<'_>) {
        let func = &self.module.funcs[position];
        let recorded = func.ty(func.nodes[id].results[0]);
        let full = join_path(&func.scope, path);
        let Some(name) = bind_path(&full, |index| value_of(env, index)) else { return };
        let found = self.module.weights.get(&name);
        if found == Some(recorded) || !self.reported.insert((position, id)) {
            return;
        }
        let error = match found {
            Some(ty) => {
                Diagnostic::error("E0206", format!("weight {name} is {ty}, not {recorded}"))
                    .help("tensors reached by one path with an index must have one type")
            }
            None => {
                Diagnostic::error("E0305", format!("there is no weight {name} in the manifest"))
                    .help("check the range of the repeat and of the template")
            }
        };
        let values: Vec<String> = env.iter().map(|(n, v)| format!("{n} = {v}")).collect();
        let error = if values.is_empty() { error } else { error.note(values.join(", ")) };
        self.sink.push(at_node(func, id, None, error));
    }
}

/// Whether a weight or call inside `block` depends on `index`.
fn uses(func: &Func, block: BlockId, index: &str) -> bool {
    func.blocks[block].nodes.iter().any(|id| {
        let node = &func.nodes[*id];
        match &node.op {
            Op::Weight { path } => path_indices(path).any(|name| name == index),
            Op::Call { index: args, .. } => {
                args.iter().any(|arg| matches!(arg, IndexArg::Name(name) if name == index))
            }
            Op::Repeat { .. } => node.body.is_some_and(|body| uses(func, body, index)),
            _ => false,
        }
    })
}
