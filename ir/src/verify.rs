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
//! types are those of [`mod@crate::infer`] (E0201–E0206, E0208), as many as the op has (E0207).
//! Weights: every path is in the manifest with the type recorded (E0305, E0206), for every value
//! its indices take in the module; entries can be written in text (E0306).
//! Calls: the function exists (E0404) and stands earlier, so there is no recursion (E0405);
//! operands and indices fit its signature (E0406). `return` fits the function's results (E0410).
//! Repeats: carries keep their type, stacks have one slot an iteration (E0408).
//!
//! Nodes and values that stand in no block are not looked at. Types are not checked behind a wrong
//! id. At most 50 diagnostics are given. Modules from text carry spans, others a place in words.

mod indices;
mod node;

pub(crate) use node::{Context, check_node, repeat_results};

use crate::diag::{Diagnostic, Sink};
use crate::entity::{BlockId, Entity, NodeId, ValueId};
use crate::graph::{DEEPEST, Def, Func, Module};
use crate::indices::Indices;
use crate::op::Op;
use crate::types::TensorType;
use indices::Bindings;
use node::at_node;
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
    // Types of a call are looked up in the function called, whose ids must hold.
    let mut sound = true;
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
            indices: Indices::default(),
            sound,
        };
        func.index_params.iter().for_each(|name| check.indices.push(name, ()));
        check.header();
        check.block(func.entry, 0);
        sound = check.sound;
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
    indices: Indices<'a>,
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
            if !self.indices.contains(index) {
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
        self.report(node.filter(|n| n.index() < self.func.nodes.len()), error);
    }

    /// Reports an error of a node or, where there is none, of the function.
    fn report(&mut self, node: Option<NodeId>, error: Diagnostic) {
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
            self.report(node, error);
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
                if self.indices.contains(index) {
                    let message = format!("index {index} is already bound here");
                    let error = Diagnostic::error("E0411", message).help("rename it");
                    self.sink.push(at_node(func, id, None, error));
                }
                self.indices.push(index, ());
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
