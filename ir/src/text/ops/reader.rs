//! Attributes of one statement, by name and kind.

use crate::diag::Sink;
use crate::diag::{Diagnostic, Span};
use crate::op::{Axes, Op};
use crate::text::ast::{Attr, AttrValue, Expr, Source};
use crate::text::dims::{Dims, LARGEST};
use crate::weights::nearest;

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
    pub(super) fn find(&mut self, name: &'static str) -> Option<usize> {
        self.known.push(name);
        self.attrs.iter().position(|attr| self.source.at(attr.name) == name)
    }

    pub(super) fn need(&mut self, name: &'static str, example: &str) -> Option<usize> {
        let found = self.find(name);
        if found.is_none() {
            let op = self.source.at(self.op);
            let message = format!("{op} needs the attribute {name}");
            let help = format!("write `{{{name}={example}}}`");
            self.sink.push(Diagnostic::error("E0106", message).at(self.op).help(help));
        }
        found
    }

    pub(super) fn wrong(&mut self, at: usize, expected: &str) {
        let attr = &self.attrs[at];
        let message =
            format!("attribute {} of {} is not {expected}", self.name(at), self.source.at(self.op));
        let error = Diagnostic::error("E0106", message).at(attr.span);
        self.sink.push(error.help("see the op's attributes in docs/ir.md"));
    }

    pub(super) fn name(&self, at: usize) -> &'s str {
        self.source.at(self.attrs[at].name)
    }

    pub(super) fn whole(&mut self, expr: Expr, name: &str) -> Option<usize> {
        let value = self.dims.eval(expr, self.sink)?;
        if (0..=LARGEST).contains(&value) {
            return Some(value as usize);
        }
        let message = format!("{name} is {value}, which is not usable");
        let error = Diagnostic::error("E0114", message).at(expr.span);
        self.sink.push(error.help("a whole number from 0 to 2^40"));
        None
    }

    pub(super) fn int(&mut self, name: &'static str) -> Option<usize> {
        let at = self.need(name, "1")?;
        match &self.attrs[at].value {
            AttrValue::Expr(expr) => self.whole(*expr, name),
            _ => {
                self.wrong(at, "a whole number");
                None
            }
        }
    }

    pub(super) fn ints(&mut self, at: usize, name: &'static str) -> Option<Axes> {
        match &self.attrs[at].value {
            AttrValue::List(list) => {
                // Every element is evaluated, so that all errors are seen.
                let mut values = Vec::new();
                for item in list {
                    values.push(match item {
                        AttrValue::Expr(expr) => self.whole(*expr, name),
                        _ => {
                            self.wrong(at, "a list of whole numbers such as [1,2]");
                            return None;
                        }
                    });
                }
                values.into_iter().collect()
            }
            _ => {
                self.wrong(at, "a list of whole numbers such as [1,2]");
                None
            }
        }
    }

    pub(super) fn list(&mut self, name: &'static str) -> Option<Axes> {
        let at = self.need(name, "[0,1]")?;
        self.ints(at, name)
    }

    pub(super) fn fixed<const N: usize>(
        &mut self,
        at: usize,
        name: &'static str,
    ) -> Option<[usize; N]> {
        let list = self.ints(at, name)?;
        let fixed = <[usize; N]>::try_from(&list[..]).ok();
        if fixed.is_none() {
            self.wrong(at, &format!("a list of {N} numbers"));
        }
        fixed
    }

    pub(super) fn triple(&mut self, name: &'static str) -> Option<[usize; 3]> {
        let at = self.need(name, "[1,2,2]")?;
        self.fixed(at, name)
    }

    pub(super) fn optional<const N: usize>(
        &mut self,
        name: &'static str,
        default: [usize; N],
    ) -> Option<[usize; N]> {
        match self.find(name) {
            Some(at) => self.fixed(at, name),
            None => Some(default),
        }
    }

    pub(super) fn float(&mut self, name: &'static str) -> Option<f64> {
        let at = self.need(name, "1e-6")?;
        self.number(at, &self.attrs[at].value)
    }

    pub(super) fn number(&mut self, at: usize, value: &AttrValue) -> Option<f64> {
        match value {
            AttrValue::Float(value) => Some(*value),
            AttrValue::Expr(expr) => self.dims.eval(*expr, self.sink).map(|value| value as f64),
            _ => {
                self.wrong(at, "a number");
                None
            }
        }
    }

    pub(super) fn floats(&mut self, at: usize) -> Option<Vec<f64>> {
        match &self.attrs[at].value {
            AttrValue::List(list) => list.iter().map(|item| self.number(at, item)).collect(),
            _ => {
                self.wrong(at, "a list of numbers such as [0,0.5]");
                None
            }
        }
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Option<bool> {
        let Some(at) = self.find(name) else { return Some(false) };
        match &self.attrs[at].value {
            AttrValue::Flag(value) => Some(*value),
            _ => {
                self.wrong(at, "true or false");
                None
            }
        }
    }

    /// Which form of GELU, spelt out so that the text says it.
    pub(super) fn gelu(&mut self) -> Option<Op> {
        let at = self.need("approx", "tanh")?;
        let word = match &self.attrs[at].value {
            AttrValue::Expr(expr) => self.dims.word(*expr),
            _ => None,
        };
        match word {
            Some("tanh") => Some(Op::Gelu),
            Some("erf") => Some(Op::GeluErf),
            _ => {
                self.wrong(at, "tanh or erf");
                None
            }
        }
    }

    /// Reports attributes the op does not have, and repeated ones.
    pub(super) fn leftovers(&mut self) -> bool {
        let mut seen: Vec<&str> = Vec::new();
        for (at, attr) in self.attrs.iter().enumerate() {
            let name = self.name(at);
            let op = self.source.at(self.op);
            let error = if !self.known.contains(&name) {
                let help = match nearest(name, self.known.iter().copied()) {
                    Some(close) => format!("did you mean {close}?"),
                    None if self.known.is_empty() => format!("{op} takes no attributes"),
                    None => format!("attributes of {op}: {}", self.known.join(", ")),
                };
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
