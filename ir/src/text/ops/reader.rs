//! Attributes of one statement, by name and kind.

use super::{BLANK, names};
use crate::diag::{Diagnostic, Sink, Span};
use crate::op::{Attribute, Axes, Op};
use crate::spelling::meant;
use crate::text::ast::{Attr, AttrValue, Expr, Source};
use crate::text::dims::{Dims, LARGEST};
use crate::text::words;

/// Reads the attributes of one statement.
pub(in crate::text) struct Reader<'a, 's> {
    pub(in crate::text) source: &'s Source,
    pub(in crate::text) dims: &'a Dims<'s>,
    pub(in crate::text) sink: &'a mut Sink,
    pub(in crate::text) attrs: &'a [Attr],
    /// Name of the op.
    pub(in crate::text) op: Span,
    /// Attributes the op has; filled while reading.
    pub(in crate::text) known: Vec<&'static str>,
}

impl<'s> Reader<'_, 's> {
    /// The op, or `None` after reporting E0103, E0105, E0106, E0111, E0114 or E0115.
    pub(in crate::text) fn build(mut self) -> Option<Op> {
        let name = self.source.at(self.op);
        let Some(blank) = BLANK.iter().find(|op| op.name() == name) else {
            let error = Diagnostic::error("E0103", format!("there is no op {name}")).at(self.op);
            let help = match words::instead(name) {
                _ if name == "weight" => {
                    "write a weight as `$path` where it is used; it needs no statement".to_owned()
                }
                Some(known) => known,
                None => {
                    meant(name, "", names(), || "see docs/ir.md for the list of ops".to_owned())
                }
            };
            self.sink.push(error.help(help));
            return None;
        };
        let op = match blank {
            Op::Gelu => self.gelu(),
            _ => self.filled(blank.clone()),
        };
        if self.leftovers() { op.filter(|op| !op.is_structure()) } else { None }
    }

    /// `op` with its attributes. All of them are read, so that every missing one is reported.
    fn filled(&mut self, mut op: Op) -> Option<Op> {
        let mut complete = true;
        for (name, attribute) in op.attributes() {
            complete &= self.fill(name, attribute).is_some();
        }
        complete.then_some(op)
    }

    fn fill(&mut self, name: &'static str, attribute: Attribute<'_>) -> Option<()> {
        match attribute {
            Attribute::Int(value) => *value = self.int(name)?,
            Attribute::Count(value) => match self.find(name) {
                Some(_) => *value = self.int(name)?,
                None => *value = 1,
            },
            Attribute::Float(value) => *value = self.float(name)?,
            Attribute::Flag(value) => *value = self.flag(name)?,
            Attribute::List(values) => {
                let at = self.need(name, "[0,1]")?;
                *values = self.ints(at, name)?;
            }
            Attribute::Sizes(values, None) => {
                let at = self.need(name, "[1,2,2]")?;
                self.sizes(at, name, values)?;
            }
            Attribute::Sizes(values, Some(default)) => match self.find(name) {
                Some(at) => self.sizes(at, name, values)?,
                None => values.fill(default),
            },
            Attribute::Sides(sides) => {
                let mut values = [0; 2];
                self.fill(name, Attribute::Sizes(&mut values, Some(0)))?;
                *sides = values.map(|side| side != 0);
            }
            Attribute::Values(values) => match self.find(name) {
                Some(at) => *values = self.floats(at)?,
                None => *values = vec![self.float("value")?],
            },
        }
        Some(())
    }

    fn find(&mut self, name: &'static str) -> Option<usize> {
        self.known.push(name);
        self.attrs.iter().position(|attr| self.source.at(attr.name) == name)
    }

    fn need(&mut self, name: &'static str, example: &str) -> Option<usize> {
        let found = self.find(name);
        if found.is_none() {
            let op = self.source.at(self.op);
            let message = format!("{op} needs the attribute {name}");
            let help = format!("write `{{{name}={example}}}`");
            self.sink.push(Diagnostic::error("E0106", message).at(self.op).help(help));
        }
        found
    }

    /// Reports that attribute `at` is not what was expected.
    fn wrong<T>(&mut self, at: usize, expected: &str) -> Option<T> {
        let (name, op) = (self.name(at), self.source.at(self.op));
        let message = format!("attribute {name} of {op} is not {expected}");
        let error = Diagnostic::error("E0106", message).at(self.attrs[at].span);
        self.sink.push(error.help("see the op's attributes in docs/ir.md"));
        None
    }

    fn name(&self, at: usize) -> &'s str {
        self.source.at(self.attrs[at].name)
    }

    fn whole(&mut self, expr: Expr, name: &str) -> Option<usize> {
        let value = self.dims.eval(expr, self.sink)?;
        if (0..=LARGEST).contains(&value) {
            return Some(value as usize);
        }
        let message = format!("{name} is {value}, which is not usable");
        let error = Diagnostic::error("E0114", message).at(expr.span);
        self.sink.push(error.help("a whole number from 0 to 2^40"));
        None
    }

    fn int(&mut self, name: &'static str) -> Option<usize> {
        let at = self.need(name, "1")?;
        match &self.attrs[at].value {
            AttrValue::Expr(expr) => self.whole(*expr, name),
            _ => self.wrong(at, "a whole number"),
        }
    }

    fn ints(&mut self, at: usize, name: &'static str) -> Option<Axes> {
        const LIST: &str = "a list of whole numbers such as [1,2]";
        let AttrValue::List(list) = &self.attrs[at].value else { return self.wrong(at, LIST) };
        // Every element is evaluated, so that all errors are seen.
        let mut values = Vec::new();
        for item in list {
            values.push(match item {
                AttrValue::Expr(expr) => self.whole(*expr, name),
                _ => return self.wrong(at, LIST),
            });
        }
        values.into_iter().collect()
    }

    fn sizes(&mut self, at: usize, name: &'static str, to: &mut [usize]) -> Option<()> {
        let list = self.ints(at, name)?;
        if list.len() != to.len() {
            return self.wrong(at, &format!("a list of {} numbers", to.len()));
        }
        to.copy_from_slice(&list);
        Some(())
    }

    fn float(&mut self, name: &'static str) -> Option<f64> {
        let at = self.need(name, "1e-6")?;
        self.number(at, &self.attrs[at].value)
    }

    fn number(&mut self, at: usize, value: &AttrValue) -> Option<f64> {
        match value {
            AttrValue::Float(value) => Some(*value),
            AttrValue::Expr(expr) => self.dims.eval(*expr, self.sink).map(|value| value as f64),
            _ => self.wrong(at, "a number"),
        }
    }

    fn floats(&mut self, at: usize) -> Option<Vec<f64>> {
        match &self.attrs[at].value {
            AttrValue::List(list) => list.iter().map(|item| self.number(at, item)).collect(),
            _ => self.wrong(at, "a list of numbers such as [0,0.5]"),
        }
    }

    fn flag(&mut self, name: &'static str) -> Option<bool> {
        let Some(at) = self.find(name) else { return Some(false) };
        match &self.attrs[at].value {
            AttrValue::Flag(value) => Some(*value),
            _ => self.wrong(at, "true or false"),
        }
    }

    /// Which form of GELU, spelt out so that the text says it.
    fn gelu(&mut self) -> Option<Op> {
        let at = self.need("approx", "tanh")?;
        let word = match &self.attrs[at].value {
            AttrValue::Expr(expr) => self.dims.word(*expr),
            _ => None,
        };
        match word {
            Some("tanh") => Some(Op::Gelu),
            Some("erf") => Some(Op::GeluErf),
            _ => self.wrong(at, "tanh or erf"),
        }
    }

    /// Reports attributes the op does not have, and repeated ones.
    fn leftovers(&mut self) -> bool {
        let mut seen: Vec<&str> = Vec::new();
        for (at, attr) in self.attrs.iter().enumerate() {
            let name = self.name(at);
            let op = self.source.at(self.op);
            let error = if !self.known.contains(&name) {
                let help = meant(name, "", self.known.iter().copied(), || match self.known[..] {
                    [] => format!("{op} takes no attributes"),
                    _ => format!("attributes of {op}: {}", self.known.join(", ")),
                });
                Some((format!("{op} has no attribute {name}"), help))
            } else if seen.contains(&name) {
                Some((format!("attribute {name} is given twice"), "keep one".to_owned()))
            } else {
                seen.push(name);
                None
            };
            if let Some((message, help)) = error {
                self.sink.push(Diagnostic::error("E0105", message).at(attr.name).help(help));
                if self.sink.full() {
                    break;
                }
            }
        }
        seen.len() == self.attrs.len()
    }
}
