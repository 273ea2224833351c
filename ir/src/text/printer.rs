//! Modules as text that parses back to the same module.
//!
//! Names come from the hints, made unique in program order; weights are written where they are
//! used; dims are kept as comments under the module line. Any module can be printed, also one the
//! verifier refuses; only verified ones are promised to parse back.

use super::lexer::{Lexer, Tok};
use super::one::op_text;
use crate::entity::{BlockId, Entity, NodeId, ValueId};
use crate::graph::DEEPEST;
use crate::graph::{Func, Module};
use crate::op::{IndexArg, Op};
use crate::types::TensorType;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

/// Statements wider than this do not move the column of types.
const WIDEST: usize = 72;
/// Result lists wider than this do not move the column of `=`.
const WIDEST_RESULTS: usize = 12;
/// Width beyond which a function header is broken over lines.
const LINE: usize = 100;

/// The module as text.
pub fn print(module: &Module) -> String {
    let mut out = format!("module @{}\n", func_name(&module.name, "module"));
    if !module.dims.is_empty() {
        out.push('\n');
        for dim in &module.dims {
            let _ = writeln!(out, "// {} = {}", dim.name, dim.value);
        }
    }
    let entries = module.weights.entries();
    if !entries.is_empty() {
        let _ = writeln!(out, "\nweights @{} {{", func_name(&module.weights.name, "weights"));
        for entry in entries {
            let _ = writeln!(out, "  \"{}\" : {}", entry.template, entry.ty);
        }
        out.push_str("}\n");
    }
    for func in &module.funcs {
        out.push('\n');
        out.push_str(&print_func(func));
    }
    out
}

/// One function as text.
pub fn print_func(func: &Func) -> String {
    let printer = Printer { func, names: names(func), entered: RefCell::default() };
    let mut out = printer.header();
    if func.blocks.get(func.entry).is_some() {
        printer.block(func.entry, 1, &mut out);
    }
    out.push_str("}\n");
    out
}

fn func_name(name: &str, otherwise: &str) -> String {
    if name.is_empty() {
        return otherwise.to_owned();
    }
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.chars().map(|c| if keep(c) { c } else { '_' }).take(255).collect()
}

/// A name from a hint: letters, digits, `_` and `.`.
fn value_name(hint: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    let name: String = hint.chars().map(|c| if keep(c) { c } else { '_' }).take(200).collect();
    if name.is_empty() { "v".to_owned() } else { name }
}

/// Printed names by value: `%name`, or `$path` for a weight.
fn names(func: &Func) -> Vec<Option<String>> {
    let mut order: Vec<ValueId> = Vec::new();
    let mut names: Vec<Option<String>> = vec![None; func.values.len()];
    if let Some(entry) = func.blocks.get(func.entry) {
        order.extend(&entry.params);
    }
    for id in func.walk() {
        let node = &func.nodes[id];
        if let (Op::Weight { path }, Some(result)) = (&node.op, node.results.first())
            && let Some(name) = names.get_mut(result.index())
        {
            *name = Some(path_text(path));
            continue;
        }
        order.extend(&node.results);
        if let Some(body) = node.body.and_then(|body| func.blocks.get(body)) {
            order.extend(&body.params);
        }
    }
    let mut used: HashSet<String> = HashSet::new();
    let mut next: HashMap<String, usize> = HashMap::new();
    for value in order {
        let Some(stored) = func.values.get(value) else { continue };
        let hint = value_name(&stored.name);
        let mut name = hint.clone();
        while !used.insert(name.clone()) {
            let count = next.entry(hint.clone()).or_insert(0);
            *count += 1;
            name = format!("{hint}.{count}");
        }
        names[value.index()] = Some(format!("%{name}"));
    }
    names
}

fn path_text(path: &str) -> String {
    let plain = format!("${path}");
    let token = Lexer::new(&plain).next();
    if token.kind == Tok::Path && token.span.end == plain.len() && !path.starts_with('"') {
        plain
    } else {
        format!("$\"{path}\"")
    }
}

/// A statement in columns.
struct Line {
    results: String,
    rest: String,
    types: String,
    /// Lines of a body and the brace that closes it.
    body: Option<String>,
}

struct Printer<'f> {
    func: &'f Func,
    names: Vec<Option<String>>,
    /// Blocks printed so far; a faulty module may name one as two bodies.
    entered: RefCell<HashSet<BlockId>>,
}

impl Printer<'_> {
    fn name(&self, value: ValueId) -> String {
        let name = self.names.get(value.index()).cloned().flatten();
        name.unwrap_or_else(|| format!("%undefined.{}", value.index()))
    }

    fn list(&self, values: &[ValueId]) -> String {
        values.iter().map(|v| self.name(*v)).collect::<Vec<_>>().join(", ")
    }

    fn ty(&self, value: ValueId) -> String {
        self.func.values.get(value).map_or("?".to_owned(), |v| v.ty.to_string())
    }

    fn header(&self) -> String {
        let func = self.func;
        let mut out = format!("func @{}", func.name);
        if !func.index_params.is_empty() {
            let _ = write!(out, "<{}>", func.index_params.join(", "));
        }
        out.push('(');
        let mut tail = String::from(")");
        if !func.results.is_empty() {
            let _ = write!(tail, " -> {}", TensorType::list(&func.results));
        }
        if !func.scope.is_empty() {
            let _ = write!(tail, " scope \"{}\"", func.scope);
        }
        tail.push_str(" {\n");
        let indent = out.len();
        let mut column = indent;
        let params = func.blocks.get(func.entry).map_or(&[][..], |b| &b.params);
        for (i, value) in params.iter().enumerate() {
            let text = format!("{}: {}", self.name(*value), self.ty(*value));
            let room = if i + 1 == params.len() { tail.len() } else { 1 };
            if i > 0 {
                out.push(',');
                if column + text.len() + 2 + room > LINE {
                    out.push('\n');
                    out.push_str(&" ".repeat(indent));
                    column = indent;
                } else {
                    out.push(' ');
                    column += 2;
                }
            }
            column += text.len();
            out.push_str(&text);
        }
        out.push_str(&tail);
        out
    }

    fn block(&self, block: BlockId, depth: usize, out: &mut String) {
        let indent = "  ".repeat(depth);
        if depth > DEEPEST + 1 || !self.entered.borrow_mut().insert(block) {
            let _ = writeln!(out, "{indent}// nested too deep to print, or printed already");
            return;
        }
        let nodes = self.func.blocks.get(block).map_or(&[][..], |b| &b.nodes);
        let lines: Vec<Line> =
            nodes.iter().filter_map(|node| self.line(*node, depth, &indent)).collect();
        let width = |text: &str| text.chars().count();
        let fits = lines.iter().map(|l| width(&l.results)).filter(|w| *w <= WIDEST_RESULTS);
        let results = fits.max().unwrap_or(0);
        let left: Vec<String> = lines
            .iter()
            .map(|line| match line.results.as_str() {
                "" => format!("{indent}{}", line.rest),
                names => format!("{indent}{names:results$} = {}", line.rest),
            })
            .collect();
        let typed = lines.iter().zip(&left).filter(|(l, _)| !l.types.is_empty());
        let widths = typed.filter(|(l, _)| l.body.is_none()).map(|(_, text)| width(text));
        let column = widths.filter(|w| *w <= WIDEST).max().unwrap_or(0);
        for (line, mut text) in lines.into_iter().zip(left) {
            if let Some(body) = &line.body {
                text.push('\n');
                text.push_str(body);
                out.push_str(&text);
                text = format!("{indent}}}");
            }
            if line.types.is_empty() {
                let _ = writeln!(out, "{text}");
            } else {
                let _ = writeln!(out, "{text:column$} : {}", line.types);
            }
        }
    }

    fn line(&self, id: NodeId, depth: usize, indent: &str) -> Option<Line> {
        let Some(node) = self.func.nodes.get(id) else {
            let rest = format!("// {id:?} is missing");
            return Some(Line { results: String::new(), rest, types: String::new(), body: None });
        };
        let results = self.list(&node.results);
        let types = node.results.iter().map(|v| self.ty(*v)).collect::<Vec<_>>().join(", ");
        let operands = self.list(&node.operands);
        let mut body = None;
        let rest = match &node.op {
            Op::Weight { .. } => return None,
            Op::Call { func, index } => {
                let index: Vec<String> = index
                    .iter()
                    .map(|arg| match arg {
                        IndexArg::Name(name) => name.clone(),
                        IndexArg::Int(value) => value.to_string(),
                    })
                    .collect();
                let index = if index.is_empty() {
                    String::new()
                } else {
                    format!("<{}>", index.join(", "))
                };
                format!("call @{func}{index}({operands})")
            }
            Op::Repeat { index, lo, hi, carries } => {
                let mut text = String::new();
                let inner = node.body.filter(|b| self.func.blocks.get(*b).is_some());
                match inner {
                    Some(block) => self.block(block, depth + 1, &mut text),
                    None => {
                        let _ = writeln!(text, "{indent}  // the body is missing");
                    }
                }
                body = Some(text);
                let params = inner.map_or(&[][..], |b| &self.func.blocks[b].params);
                let pairs: Vec<String> = params
                    .iter()
                    .zip(&node.operands)
                    .map(|(param, value)| format!("{} = {}", self.name(*param), self.name(*value)))
                    .collect();
                let (carry, each) = pairs.split_at(pairs.len().min(*carries));
                let mut head = format!("repeat {index} in {lo}..{hi} carry({})", carry.join(", "));
                if !each.is_empty() {
                    let _ = write!(head, " each({})", each.join(", "));
                }
                head + " {"
            }
            op => {
                let (name, attributes) = op_text(op);
                let space = if operands.is_empty() { "" } else { " " };
                format!("{name}{space}{operands}{attributes}")
            }
        };
        Some(Line { results, rest, types, body })
    }
}
