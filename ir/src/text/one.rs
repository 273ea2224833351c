//! One op with its attributes as text, outside any function: the form in which plans hold ops.
//!
//! The same words as in a module's statements, without results, operands and types. Structure ops
//! and weights have no place in a plan and are refused.

use super::ast;
use super::ast::StmtKind;
use super::dims::Dims;
use super::ops::{self, Reader};
use super::parser::parse_statement;
use crate::diag::Diagnostic;
use crate::diag::Sink;
use crate::op::Op;

/// Name and attributes of `op`: `attention {heads=24,scale=0.5}` as two parts, the second with the
/// blank in front of it, or empty where the op has none.
pub(crate) fn op_text(op: &Op) -> (&'static str, String) {
    let attributes = ops::attributes(op);
    let text = match attributes.is_empty() {
        true => String::new(),
        false => format!(" {{{}}}", attributes.join(", ")),
    };
    (op.name(), text)
}

/// The op written as `name {attributes}`; E0101 to E0106, E0111, E0114 or E0115 otherwise.
pub(crate) fn parse_op(text: &str) -> Result<Op, Box<Diagnostic>> {
    let malformed = || Box::new(Diagnostic::error("E0101", "expected an op and its attributes"));
    let (source, stmt, diagnostics) = parse_statement(text);
    if let Some(first) = diagnostics.into_iter().next() {
        return Err(Box::new(first));
    }
    let Some(ast::Stmt { results, op, kind: StmtKind::Op { operands, attrs }, types, .. }) = stmt
    else {
        return Err(malformed());
    };
    if !(results.is_empty() && operands.is_empty() && types.is_empty()) {
        return Err(malformed());
    }
    let mut sink = Sink::default();
    let dims = Dims::evaluate(&source, &[], &mut sink);
    let reader = Reader {
        source: &source,
        dims: &dims,
        sink: &mut sink,
        attrs: &attrs,
        op,
        known: Vec::new(),
    };
    let op = reader.build();
    match (op, sink.finish().into_iter().next()) {
        (Some(op), None) => Ok(op),
        (_, Some(first)) => Err(Box::new(first)),
        (None, None) => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_alone_read_back() {
        for op in [
            Op::Linear,
            Op::Attention { heads: 24, scale: 1.0 / 128f64.sqrt(), lse: false, last: 1 },
            Op::Attention { heads: 1, scale: 0.0, lse: true, last: 1 },
            Op::Const { values: vec![0.5, -1.0, f64::INFINITY] },
            Op::Conv { stride: [1, 2, 2], pad: [[2, 0], [1, 1], [1, 1]] },
            Op::Gelu,
            Op::GeluErf,
        ] {
            let (name, attributes) = op_text(&op);
            assert_eq!(parse_op(&format!("{name} {attributes}")).unwrap(), op);
        }
        for bad in ["", "frob", "linear %x", "return", "slice {axis=1}", "gelu\ngelu", "call @f()"]
        {
            assert!(parse_op(bad).is_err(), "{bad}");
        }
    }
}
