//! What the parser makes of IR text: names as spans, dims still symbolic.
//!
//! Expressions are kept in postfix order in one array, so neither evaluating nor dropping them
//! recurses. Nothing here is checked beyond the grammar; [`Source::bind`] does the rest.

use super::lower;
use crate::diag::{Diagnostic, Span};
use crate::graph::{BoundDim, Module};
use crate::types::DType;

/// Parsed IR text. Owns a copy of the text; byte offsets in diagnostics refer to it.
#[derive(Debug, Default)]
pub struct Source {
    pub(super) text: String,
    pub(super) name: Option<Span>,
    /// Dims recorded as comments by the printer.
    pub(super) noted: Vec<BoundDim>,
    pub(super) dims: Vec<DimDecl>,
    pub(super) weights: Option<WeightsDecl>,
    pub(super) funcs: Vec<FuncDecl>,
    pub(super) code: Vec<Instr>,
    /// A declaration could not be read, so an unknown dim or function may be its fault.
    pub(super) incomplete: bool,
}

impl Source {
    /// The text it was parsed from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The module's name without `@`; empty when the header is missing.
    pub fn name(&self) -> &str {
        self.name.map_or("", |span| self.sigil(span))
    }

    /// Dims without a value in the text, in order: what [`Source::bind`] has to be given.
    pub fn free_dims(&self) -> Vec<&str> {
        self.dims.iter().filter(|d| d.value == DimValue::Free).map(|d| self.at(d.name)).collect()
    }

    /// Evaluates dims with `bindings` for the free ones and makes the module.
    ///
    /// Diagnostics: E0103, E0105, E0106 (ops and attributes), E0111–E0116 (dims), E02xx (types),
    /// E0305, E0306 (weights), E04xx (structure). The module is complete only when none of them
    /// is an error. Run [`crate::verify::verify`] on it before use, or call
    /// [`super::parse_module`].
    pub fn bind(&self, bindings: &[(&str, i64)]) -> (Module, Vec<Diagnostic>) {
        lower::lower(self, bindings)
    }

    /// Text of a span.
    pub(super) fn at(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or("")
    }

    /// Text of a span without its leading sign.
    pub(super) fn sigil(&self, span: Span) -> &str {
        self.text.get(span.start + 1..span.end).unwrap_or("")
    }

    /// Text of a string or path span without signs and quotes.
    pub(super) fn unquoted(&self, span: Span) -> &str {
        self.at(span).trim_start_matches('$').trim_matches('"')
    }
}

/// `dim NAME [= value]`
#[derive(Debug)]
pub(super) struct DimDecl {
    pub(super) name: Span,
    pub(super) value: DimValue,
}

/// What a dim was declared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum DimValue {
    /// Nothing: it is bound from outside.
    Free,
    /// An expression.
    Expr(Expr),
    /// Something with a syntax error, already reported.
    Broken,
}

/// A range of postfix instructions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Expr {
    pub(super) span: Span,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// One postfix instruction with the text it came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instr {
    pub(super) kind: InstrKind,
    pub(super) span: Span,
}

/// What an instruction does to the stack of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum InstrKind {
    /// Pushes a number.
    Int(i64),
    /// Pushes the dim named by the span.
    Name,
    /// Negates the top.
    Neg,
    /// Sum of the top two.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Quotient rounded down.
    Div,
    /// Quotient rounded up.
    CeilDiv,
}

/// `dtype[dims]`
#[derive(Debug)]
pub(super) struct TypeExpr {
    /// `None` for an unknown name, already reported.
    pub(super) dtype: Option<DType>,
    pub(super) dims: Vec<Expr>,
    pub(super) span: Span,
}

/// `weights @name { "template" : type … }`
#[derive(Debug)]
pub(super) struct WeightsDecl {
    pub(super) name: Span,
    pub(super) entries: Vec<(Span, TypeExpr)>,
    /// An entry could not be read.
    pub(super) broken: bool,
}

/// A function with its body.
#[derive(Debug)]
pub(super) struct FuncDecl {
    pub(super) name: Span,
    pub(super) index: Vec<Span>,
    pub(super) params: Vec<(Span, TypeExpr)>,
    pub(super) results: Vec<TypeExpr>,
    pub(super) scope: Option<Span>,
    pub(super) body: BlockDecl,
    /// The header has a syntax error, already reported.
    pub(super) broken: bool,
}

/// Statements between braces.
#[derive(Debug, Default)]
pub(super) struct BlockDecl {
    pub(super) stmts: Vec<Stmt>,
    /// The closing brace.
    pub(super) close: Span,
}

/// One statement.
#[derive(Debug)]
pub(super) struct Stmt {
    pub(super) span: Span,
    pub(super) results: Vec<Span>,
    /// Name of the op.
    pub(super) op: Span,
    pub(super) kind: StmtKind,
    pub(super) types: Vec<TypeExpr>,
}

/// The part of a statement that depends on its op.
#[derive(Debug)]
pub(super) enum StmtKind {
    /// A syntax error, already reported.
    Broken,
    /// `op operands {attributes}`
    Op { operands: Vec<Operand>, attrs: Vec<Attr> },
    /// `call @func<index>(operands)`
    Call { func: Span, index: Vec<Span>, operands: Vec<Operand> },
    /// `repeat`
    Repeat(Box<RepeatDecl>),
    /// `return operands` or `yield operands`
    End(Vec<Operand>),
}

/// `repeat index in lo..hi carry(…) each(…) { … }`
#[derive(Debug)]
pub(super) struct RepeatDecl {
    pub(super) index: Span,
    pub(super) lo: Expr,
    pub(super) hi: Expr,
    pub(super) carries: Vec<(Span, Operand)>,
    pub(super) stacks: Vec<(Span, Operand)>,
    pub(super) body: BlockDecl,
}

/// An operand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand {
    pub(super) kind: OperandKind,
    pub(super) span: Span,
}

/// Kind of an operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum OperandKind {
    /// `%name`
    Value,
    /// `$path`
    Path,
    /// A number.
    Literal(f64),
}

/// `name=value`
#[derive(Debug)]
pub(super) struct Attr {
    pub(super) name: Span,
    pub(super) value: AttrValue,
    /// The value.
    pub(super) span: Span,
}

/// Value of an attribute.
#[derive(Debug)]
pub(super) enum AttrValue {
    /// A dim expression, which includes integers and bare words.
    Expr(Expr),
    /// A number with a point or an exponent, or `inf`, `nan`.
    Float(f64),
    /// `true` or `false`.
    Flag(bool),
    /// A string, which no op takes today.
    Str,
    /// A list of dim expressions and numbers.
    List(Vec<AttrValue>),
}
