//! Values of named dims and of the expressions over them.
//!
//! Arithmetic is checked 64-bit; `/` rounds down and `ceil_div` rounds up. Every dim must come out
//! between 1 and 2^40. A dim whose value could not be found is reported once and then silent.

use super::ast::{DimValue, Expr, InstrKind, Source};
use crate::diag::Sink;
use crate::diag::{Diagnostic, Span};
use crate::graph::BoundDim;
use crate::spelling::meant;
use std::collections::HashMap;

/// Largest dim, axis size or integer attribute.
pub(super) const LARGEST: i64 = 1 << 40;

/// Values of a source's dims; `None` for one that is in error.
pub(super) struct Dims<'s> {
    source: &'s Source,
    order: Vec<&'s str>,
    values: HashMap<&'s str, Option<i64>>,
}

impl<'s> Dims<'s> {
    /// Evaluates every dim of `source` with `bindings` for the free ones.
    pub(super) fn evaluate(source: &'s Source, bindings: &[(&str, i64)], sink: &mut Sink) -> Self {
        let mut dims = Self { source, order: Vec::new(), values: HashMap::new() };
        // Index of the first declaration of each name; later ones are refused.
        let mut declared: HashMap<&str, usize> = HashMap::new();
        for (i, dim) in source.dims.iter().enumerate() {
            let name = source.at(dim.name);
            if declared.contains_key(name) {
                let message = format!("dim {name} is declared twice");
                sink.push(Diagnostic::error("E0116", message).at(dim.name).help("keep one"));
            } else {
                declared.insert(name, i);
                dims.order.push(name);
            }
        }
        let given = dims.given(bindings, &declared, sink);

        // Kahn's algorithm: a dim is evaluated when everything it names has been.
        let mut waiting: Vec<usize> = vec![0; source.dims.len()];
        let mut users: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut ready = Vec::new();
        for name in &dims.order {
            let i = declared[name];
            if let DimValue::Expr(expr) = source.dims[i].value {
                for used in dims.names(expr).filter_map(|n| declared.get(n)) {
                    users.entry(*used).or_default().push(i);
                    waiting[i] += 1;
                }
            }
            if waiting[i] == 0 {
                ready.push(i);
            }
        }
        ready.reverse();
        while let Some(i) = ready.pop() {
            let dim = &source.dims[i];
            let name = source.at(dim.name);
            let value = match dim.value {
                DimValue::Broken => None,
                DimValue::Expr(expr) => {
                    let value = dims.eval(expr, sink);
                    value.filter(|v| in_range(name, *v, expr.span, sink))
                }
                DimValue::Free => match given.get(name) {
                    Some(value) => Some(*value).filter(|v| in_range(name, *v, dim.name, sink)),
                    None => {
                        let message = format!("dim {name} has no value");
                        let help = format!("give it one: `--dim {name}=3`, or `dim {name} = 3`");
                        sink.push(
                            Diagnostic::error("E0112", message)
                                .at(dim.name)
                                .label("declared here")
                                .help(help),
                        );
                        None
                    }
                },
            };
            dims.values.insert(name, value);
            for user in users.remove(&i).unwrap_or_default() {
                waiting[user] -= 1;
                if waiting[user] == 0 {
                    ready.push(user);
                }
            }
        }
        dims.report_cycle(&declared, sink);
        for name in &dims.order {
            dims.values.entry(name).or_insert(None);
        }
        dims
    }

    /// The bindings that fit a free dim.
    fn given(
        &self,
        bindings: &[(&str, i64)],
        declared: &HashMap<&str, usize>,
        sink: &mut Sink,
    ) -> HashMap<String, i64> {
        let mut given = HashMap::new();
        for (name, value) in bindings {
            let dim = declared.get(name).map(|i| &self.source.dims[*i]);
            let error = match dim {
                None if self.source.incomplete => None,
                None => {
                    let free = || match self.source.free_dims().join(", ") {
                        none if none.is_empty() => "all its sizes are numbers".to_owned(),
                        names => format!("its free dims are {names}"),
                    };
                    let help = meant(name, "", self.order.iter().copied(), free);
                    Some(("is not a dim of this module", None, help))
                }
                Some(dim) if dim.value != DimValue::Free => Some((
                    "has its value in the text and takes none from outside",
                    Some(dim.name),
                    format!("remove the binding, or declare `dim {name}` without a value"),
                )),
                Some(dim) if given.insert((*name).to_owned(), *value).is_some() => {
                    Some(("is given twice", Some(dim.name), "give each dim once".to_owned()))
                }
                Some(_) => None,
            };
            if let Some((what, span, help)) = error {
                let error = Diagnostic::error("E0116", format!("{name} {what}")).help(help);
                sink.push(match span {
                    Some(span) => error.at(span),
                    None => error.place(format!("binding {name}={value}")),
                });
            }
        }
        given
    }

    fn report_cycle(&self, declared: &HashMap<&str, usize>, sink: &mut Sink) {
        let undone = |name: &str| !self.values.contains_key(name) && declared.contains_key(name);
        let Some(first) = self.order.iter().find(|name| undone(name)) else { return };
        // Following unfinished dims from any of them ends in a cycle.
        let mut path: Vec<&str> = vec![first];
        let mut place: HashMap<&str, usize> = HashMap::from([(*first, 0)]);
        let cycle = loop {
            let at = path.last().expect("the path starts with a dim");
            let DimValue::Expr(expr) = self.source.dims[declared[at]].value else { return };
            let Some(next) = self.names(expr).find(|n| undone(n)) else { return };
            if let Some(start) = place.get(next) {
                break &path[*start..];
            }
            place.insert(next, path.len());
            path.push(next);
        };
        let mut round: Vec<&str> = cycle.iter().copied().take(8).collect();
        if cycle.len() > 8 {
            round.push("…");
        }
        round.push(cycle[0]);
        sink.push(
            Diagnostic::error("E0113", format!("dim {} depends on itself", cycle[0]))
                .at(self.source.dims[declared[cycle[0]]].name)
                .note(round.join(" → "))
                .help("give one of these dims a value of its own"),
        );
    }

    /// Names an expression uses.
    fn names(&self, expr: Expr) -> impl Iterator<Item = &'s str> + use<'s> {
        let source = self.source;
        let code = &source.code[expr.start as usize..expr.end as usize];
        code.iter().filter(|i| i.kind == InstrKind::Name).map(|i| source.at(i.span))
    }

    /// The expression's only word, for attributes whose value is a word.
    pub(super) fn word(&self, expr: Expr) -> Option<&'s str> {
        let code = &self.source.code[expr.start as usize..expr.end as usize];
        match code {
            [only] if only.kind == InstrKind::Name => Some(self.source.at(only.span)),
            _ => None,
        }
    }

    /// Value of an expression, or `None` after reporting E0111 or E0115.
    pub(super) fn eval(&self, expr: Expr, sink: &mut Sink) -> Option<i64> {
        let code = &self.source.code[expr.start as usize..expr.end as usize];
        let mut stack: Vec<i64> = Vec::new();
        for instr in code {
            let value = match instr.kind {
                InstrKind::Int(value) => Some(value),
                InstrKind::Name => Some(self.lookup(instr.span, sink)?),
                InstrKind::Neg => stack.pop()?.checked_neg(),
                _ => {
                    let (right, left) = (stack.pop()?, stack.pop()?);
                    match instr.kind {
                        InstrKind::Add => left.checked_add(right),
                        InstrKind::Sub => left.checked_sub(right),
                        InstrKind::Mul => left.checked_mul(right),
                        InstrKind::Div => floor_div(left, right),
                        _ => floor_div(left, right).and_then(|quotient| {
                            quotient.checked_add(i64::from(left % right != 0))
                        }),
                    }
                }
            };
            let Some(value) = value else {
                sink.push(
                    Diagnostic::error("E0115", "this is a division by zero or overflows 64 bits")
                        .at(instr.span)
                        .help("check the dims it is made of"),
                );
                return None;
            };
            stack.push(value);
        }
        stack.pop()
    }

    /// Value of a dim, or `None` after reporting E0111, or where its own error was reported.
    fn lookup(&self, span: Span, sink: &mut Sink) -> Option<i64> {
        let name = self.source.at(span);
        if let Some(value) = self.values.get(name) {
            return *value;
        }
        if !self.source.incomplete {
            let declare = || format!("declare it: `dim {name}`");
            let help = meant(name, "", self.order.iter().copied(), declare);
            let message = format!("dim {name} is not declared");
            sink.push(Diagnostic::error("E0111", message).at(span).help(help));
        }
        None
    }

    /// An expression that has to be a size: E0114 unless it is in 1 ..= 2^40.
    pub(super) fn size(&self, expr: Expr, sink: &mut Sink) -> Option<usize> {
        let value = self.eval(expr, sink)?;
        in_range("this size", value, expr.span, sink).then_some(value as usize)
    }

    /// Names and values in source order, without those in error.
    pub(super) fn bound(&self) -> Vec<BoundDim> {
        let value = |name: &str| self.values.get(name).copied().flatten();
        let bound = |name: &&str| {
            let value = value(name)? as usize;
            Some(BoundDim { name: (*name).to_owned(), value })
        };
        self.order.iter().filter_map(bound).collect()
    }
}

fn floor_div(left: i64, right: i64) -> Option<i64> {
    let quotient = left.checked_div(right)?;
    let below = left % right != 0 && (left < 0) != (right < 0);
    quotient.checked_sub(i64::from(below))
}

fn in_range(name: &str, value: i64, span: Span, sink: &mut Sink) -> bool {
    if (1..=LARGEST).contains(&value) {
        return true;
    }
    sink.push(
        Diagnostic::error("E0114", format!("{name} is {value}, which is not a usable size"))
            .at(span)
            .help("sizes are whole numbers from 1 to 2^40"),
    );
    false
}

#[cfg(test)]
mod tests {
    use crate::text::parse;

    fn values(text: &str, bindings: &[(&str, i64)]) -> Result<Vec<(String, usize)>, Vec<String>> {
        let (source, diagnostics) = parse(text);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        let (module, list) = source.bind(bindings);
        match list.is_empty() {
            true => Ok(module.dims.into_iter().map(|d| (d.name, d.value)).collect()),
            false => Err(list.iter().map(|d| format!("{}: {}", d.code, d.message)).collect()),
        }
    }

    fn codes(text: &str, bindings: &[(&str, i64)]) -> Vec<String> {
        let errors = values(text, bindings).expect_err("should be refused");
        errors.into_iter().map(|e| e[..5].to_owned()).collect()
    }

    #[test]
    fn expressions_follow_the_usual_precedence_and_order_does_not_matter() {
        let text = "module @m\ndim N = F*H*(W+1) - 2*3, Q = ceil_div(N, 4) + 7/2, R = -7/2 + 10\n\
                    dim F, H, W = 4";
        let got = values(text, &[("F", 3), ("H", 5)]).unwrap();
        let n = 3 * 5 * 5 - 6;
        let want = [("N", n), ("Q", 18 + 3), ("R", 6), ("F", 3), ("H", 5), ("W", 4)];
        let want: Vec<_> = want.iter().map(|(s, v)| ((*s).to_owned(), *v as usize)).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn unusable_dims_are_coded_errors() {
        assert_eq!(codes("module @m\ndim A = B, B = C + 1, C = A, D = A", &[]), ["E0113"]);
        assert_eq!(codes("module @m\ndim A = A", &[]), ["E0113"]);
        assert_eq!(codes("module @m\ndim A, B = A", &[]), ["E0112"]);
        assert_eq!(codes("module @m\ndim A = 3 - 4", &[]), ["E0114"]);
        assert_eq!(codes("module @m\ndim A = 0", &[]), ["E0114"]);
        assert_eq!(codes("module @m\ndim A", &[("A", -3)]), ["E0114"]);
        assert_eq!(codes("module @m\ndim A = 9000000000000000000", &[]), ["E0114"]);
        let overflow = "module @m\ndim A = 9000000000000000000 * 9";
        assert_eq!(codes(overflow, &[]), ["E0115"]);
        assert_eq!(codes("module @m\ndim A = 4 / (2 - 2)", &[]), ["E0115"]);
        assert_eq!(codes("module @m\ndim A = ceil_div(4, 0)", &[]), ["E0115"]);
        assert_eq!(codes("module @m\ndim A = X + 1", &[]), ["E0111"]);
        assert_eq!(codes("module @m\ndim A = 1, A = 2", &[]), ["E0116"]);
        assert_eq!(codes("module @m\ndim A = 1", &[("A", 2)]), ["E0116"]);
        assert_eq!(codes("module @m\ndim A", &[("A", 2), ("A", 3)]), ["E0116"]);
        assert_eq!(codes("module @m\ndim A", &[("A", 2), ("Z", 3)]), ["E0116"]);
    }

    #[test]
    fn long_chains_of_dims_do_not_recurse() {
        let mut text = String::from("module @m\ndim A0 = A1");
        for i in 1..100_000 {
            text.push_str(&format!(", A{i} = A{}", i + 1));
        }
        text.push_str(", A100000 = 7");
        assert_eq!(values(&text, &[]).unwrap()[0].1, 7);
        let sum = format!("module @m\ndim A = 1{}", " + 1".repeat(100_000));
        assert_eq!(values(&sum, &[]).unwrap()[0].1, 100_001);
    }
}
