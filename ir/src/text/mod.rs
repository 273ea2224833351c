//! The text form of modules: parser, lowering and printer. The language is described in
//! `docs/ir.md`.
//!
//! [`parse`] reads the grammar and reports syntax errors, several at once; [`Source::bind`] gives
//! the named dims values and makes a [`Module`]; [`print()`] writes it back. Printing what was
//! parsed from printed text gives the same text. Input of any kind and size gives coded
//! diagnostics, in time linear in its length and without deep recursion.

mod ast;
mod dims;
mod lexer;
mod lower;
mod one;
mod ops;
mod parser;
mod printer;
mod words;

pub use ast::Source;
pub(crate) use lexer::is_zero;
pub(crate) use one::{op_text, parse_op};
pub(crate) use ops::float;
pub use parser::{LARGEST_SOURCE, parse, parse_bytes};
pub use printer::{print, print_func};

pub use crate::diag::MOST_DIAGNOSTICS;

use crate::diag::Diagnostic;
use crate::graph::Module;

/// Parses `text`, binds its free dims, and verifies the module.
///
/// Errors are those of [`parse`], [`Source::bind`] and [`crate::verify::verify`], in text order.
pub fn parse_module(text: &str, bindings: &[(&str, i64)]) -> Result<Module, Vec<Diagnostic>> {
    let (source, mut diagnostics) = parse(text);
    let (module, more) = source.bind(bindings);
    diagnostics.extend(more);
    if diagnostics.is_empty() {
        diagnostics = crate::verify::verify(&module);
    }
    if diagnostics.is_empty() {
        return Ok(module);
    }
    diagnostics.sort_by_key(|d| d.span.map_or(usize::MAX, |span| span.start));
    diagnostics.truncate(MOST_DIAGNOSTICS);
    Err(diagnostics)
}

/// Line starts of a text, for turning byte offsets into lines and columns.
#[derive(Clone, Debug)]
pub struct LineIndex {
    starts: Vec<usize>,
}

impl LineIndex {
    /// The index of `text`.
    pub fn new(text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
        Self { starts: std::iter::once(0).chain(breaks).collect() }
    }

    /// Line and column of a byte offset, both from 1; the column counts characters.
    pub fn line_col(&self, text: &str, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.starts.partition_point(|start| *start <= offset);
        let column = text[self.starts[line - 1]..offset].chars().count();
        (line, column + 1)
    }

    /// Text of line `line` (from 1) without its line break; empty past the end.
    pub fn line<'t>(&self, text: &'t str, line: usize) -> &'t str {
        let Some(start) = line.checked_sub(1).and_then(|i| self.starts.get(i)) else { return "" };
        let end = self.starts.get(line).map_or(text.len(), |next| next - 1);
        text[*start..end].trim_end_matches('\r')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_lines_and_columns() {
        let text = "ab\r\nc\u{e4}d\n";
        let index = LineIndex::new(text);
        assert_eq!(index.line_col(text, 0), (1, 1));
        assert_eq!(index.line_col(text, 4), (2, 1));
        assert_eq!(index.line_col(text, 7), (2, 3));
        assert_eq!(index.line_col(text, 6), (2, 2));
        assert_eq!(index.line_col(text, 999), (3, 1));
        assert_eq!(index.line(text, 1), "ab");
        assert_eq!(index.line(text, 2), "c\u{e4}d");
        assert_eq!(index.line(text, 9), "");
    }
}
