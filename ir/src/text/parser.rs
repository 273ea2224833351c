//! Recursive-descent parser of IR text with recovery at line ends.
//!
//! Reports up to [`super::MOST_DIAGNOSTICS`] syntax errors. Time is linear in the text; recursion
//! is limited by [`DEEPEST`] and memory by [`MOST_ITEMS`], so any input is answered. It
//! resolves no names and checks no types.

mod expr;
mod module;
mod operand;
mod stmt;

use super::ast::*;
use super::lexer::{Lexer, Tok, Token, is_name};
use crate::diag::Sink;
use crate::diag::{Diagnostic, Span};
use crate::graph::BoundDim;
use crate::graph::DEEPEST;
use crate::spelling::meant;
use crate::types::DType;

/// Largest accepted text, in bytes.
pub const LARGEST_SOURCE: usize = 64 << 20;
/// Most statements, operands, attributes, expression parts and declarations together.
const MOST_ITEMS: usize = 2 << 20;

/// An error that has been reported.
struct Failed;
type Parse<T> = Result<T, Failed>;

/// Parses IR text. Syntax errors are E0101–E0110 and E0210; the source is usable for what could be
/// read, but a module made from it is complete only when there are none.
pub fn parse(text: &str) -> (Source, Vec<Diagnostic>) {
    if text.len() > LARGEST_SOURCE {
        return (Source::default(), vec![too_large(text.len())]);
    }
    let mut parser = Parser::new(text);
    parser.module();
    let mut source = parser.out;
    source.text = text.to_owned();
    (source, parser.sink.finish())
}

/// Parses one statement that stands alone, without the declarations around it.
pub(super) fn parse_statement(text: &str) -> (Source, Option<Stmt>, Vec<Diagnostic>) {
    let mut parser = Parser::new(text);
    let stmt = parser.stmt();
    let stmt = (parser.token.kind == Tok::Eof).then_some(stmt);
    let mut source = parser.out;
    source.text = text.to_owned();
    (source, stmt, parser.sink.finish())
}

/// Parses bytes read from a file: E0108 if they are not UTF-8, E0110 if there are too many.
pub fn parse_bytes(bytes: &[u8]) -> (Source, Vec<Diagnostic>) {
    if bytes.len() > LARGEST_SOURCE {
        return (Source::default(), vec![too_large(bytes.len())]);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text),
        Err(error) => {
            let at = error.valid_up_to();
            let line = bytes[..at].iter().filter(|b| **b == b'\n').count() + 1;
            let error = Diagnostic::error("E0108", "the file is not UTF-8 text")
                .at(Span::new(at, at + 1))
                .note(format!("byte {at}, on line {line}, is 0x{:02x}", bytes[at]))
                .help("IR files are plain text; is this the right file?");
            (Source::default(), vec![error])
        }
    }
}

fn too_large(bytes: usize) -> Diagnostic {
    Diagnostic::error("E0110", format!("the text has {bytes} bytes, more than {LARGEST_SOURCE}"))
        .help("IR text holds no weights; is this the right file?")
}

struct Parser<'s> {
    text: &'s str,
    lexer: Lexer<'s>,
    /// The token being looked at.
    token: Token,
    /// End of the last token taken.
    end: usize,
    out: Source,
    sink: Sink,
    items: usize,
    /// Open brackets of the current statement, over which line ends do not count.
    brackets: usize,
    /// Open recursion.
    nesting: usize,
    /// Start of the declaration or statement being read.
    from: usize,
    stopped: bool,
}

impl<'s> Parser<'s> {
    fn new(text: &'s str) -> Self {
        let mut lexer = Lexer::new(text);
        let token = lexer.next();
        Self {
            text,
            lexer,
            token,
            end: 0,
            out: Source::default(),
            sink: Sink::default(),
            items: 0,
            brackets: 0,
            nesting: 0,
            from: 0,
            stopped: false,
        }
    }

    // ---- tokens

    fn advance(&mut self) -> Token {
        let token = self.token;
        match token.kind {
            Tok::Punct(b'(' | b'[' | b'{') => self.brackets += 1,
            Tok::Punct(b')' | b']' | b'}') => self.brackets = self.brackets.saturating_sub(1),
            _ => {}
        }
        self.end = token.span.end;
        self.token = if self.stopped { self.eof() } else { self.lexer.next() };
        token
    }

    fn eof(&self) -> Token {
        let end = self.text.len();
        Token { kind: Tok::Eof, span: Span::new(end, end), first: true }
    }

    /// Gives up on the rest of the text.
    fn stop(&mut self) {
        self.stopped = true;
        self.lexer.at = self.text.len();
        self.token = self.eof();
    }

    fn word(&self) -> &'s str {
        &self.text[self.token.span.start..self.token.span.end]
    }

    fn is(&self, punct: u8) -> bool {
        self.token.kind == Tok::Punct(punct)
    }

    fn is_word(&self, word: &str) -> bool {
        self.token.kind == Tok::Ident && self.word() == word
    }

    fn accept(&mut self, punct: u8) -> bool {
        let found = self.is(punct);
        if found {
            self.advance();
        }
        found
    }

    /// Takes the token if it is what the parser has to find.
    fn take(&mut self, found: bool, expected: impl FnOnce() -> String) -> Parse<Span> {
        if found { Ok(self.advance().span) } else { self.unexpected(&expected()) }
    }

    fn expect(&mut self, punct: u8) -> Parse<Span> {
        self.take(self.is(punct), || format!("`{}`", punct as char))
    }

    fn expect_kind(&mut self, kind: Tok, what: &str) -> Parse<Span> {
        self.take(self.token.kind == kind, || what.to_owned())
    }

    /// One or more items with commas between them.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parse<T>) -> Parse<Vec<T>> {
        let mut list = vec![item(self)?];
        while self.accept(b',') {
            list.push(item(self)?);
        }
        Ok(list)
    }

    /// Items with commas between them in front of `close`, or none.
    fn list_before<T>(
        &mut self,
        close: u8,
        item: impl FnMut(&mut Self) -> Parse<T>,
    ) -> Parse<Vec<T>> {
        if self.is(close) { Ok(Vec::new()) } else { self.list(item) }
    }

    /// An opening bracket, items each of which may have a comma behind it, and `close`.
    fn list_to<T>(
        &mut self,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Parse<T>,
    ) -> Parse<Vec<T>> {
        self.advance();
        let mut list = Vec::new();
        while !self.is(close) {
            self.charge()?;
            list.push(item(self)?);
            if !self.accept(b',') && !self.is(close) {
                return self.close(close).map(|_| list);
            }
        }
        self.advance();
        Ok(list)
    }

    /// The end of a list.
    fn close(&mut self, close: u8) -> Parse<Span> {
        self.take(self.is(close), || format!("`,` or `{}`", close as char))
    }

    /// Whether the statement's line goes on: inside brackets it always does.
    fn same_line(&self) -> bool {
        self.token.kind != Tok::Eof && (!self.token.first || self.brackets > 0)
    }

    // ---- reports

    fn report(&mut self, diagnostic: Diagnostic) {
        if !self.stopped {
            self.sink.push(diagnostic);
            if self.sink.full() {
                self.stop();
            }
        }
    }

    /// Whether the line of the current declaration or statement has ended.
    fn at_next_line(&self) -> bool {
        self.token.first
            && self.token.span.start > self.from
            && (self.brackets == 0 || self.at_statement())
    }

    /// Whether the token reads like the start of a statement, so that an open bracket before it
    /// was probably meant to be closed.
    fn at_statement(&self) -> bool {
        let rest = &self.text[self.token.span.end..];
        let assigned = rest.trim_start_matches([' ', '\t']).starts_with('=');
        (self.token.kind == Tok::Value && assigned)
            || self.is_word("return")
            || self.is_word("yield")
    }

    fn unexpected<T>(&mut self, expected: &str) -> Parse<T> {
        let span = self.token.span;
        let diagnostic = match self.token.kind {
            Tok::Bad(why) => {
                Diagnostic::error("E0102", format!("{why}: `{}`", shorten(self.word())))
                    .label(format!("expected {expected}"))
                    .help("see docs/ir.md for names, numbers and strings")
            }
            Tok::Eof => Diagnostic::error("E0101", format!("expected {expected}, found the end"))
                .help("the text stops in the middle"),
            _ if self.at_next_line() => {
                let message = format!("expected {expected}, found the end of the line");
                let end = Span::new(self.end.saturating_sub(1), self.end);
                let error = Diagnostic::error("E0101", message).at(end);
                self.report(error.help("a statement stands on one line"));
                return Err(Failed);
            }
            _ => {
                let found = shorten(self.word());
                Diagnostic::error("E0101", format!("expected {expected}, found `{found}`"))
                    .help("see the grammar in docs/ir.md")
            }
        };
        self.report(diagnostic.at(span));
        Err(Failed)
    }

    /// Counts one piece of the tree.
    fn charge(&mut self) -> Parse<()> {
        self.items += 1;
        if self.items <= MOST_ITEMS {
            return Ok(());
        }
        let message = format!("the text has more than {MOST_ITEMS} parts");
        let error = Diagnostic::error("E0110", message).at(self.token.span);
        self.report(error.help("use functions and `repeat` instead of unrolled statements"));
        self.stop();
        Err(Failed)
    }

    fn nest<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
        if self.nesting >= DEEPEST {
            let message = format!("nested more than {DEEPEST} deep");
            let error = Diagnostic::error("E0109", message).at(self.token.span);
            self.report(error.help("split it with a further dim or function"));
            self.stop();
            return Err(Failed);
        }
        self.nesting += 1;
        let result = parse(self);
        self.nesting -= 1;
        result
    }

    /// Goes on at the next line; whether the line left ends with an opening brace, and so
    /// probably starts a block.
    fn recover_line(&mut self) -> bool {
        // An error noticed at the start of the next line leaves that line to be read.
        let from = if self.at_next_line() {
            self.end
        } else {
            let from = self.token.span.start;
            self.lexer.at = self.lexer.line_end();
            if !self.stopped {
                self.token = self.lexer.next();
            }
            from
        };
        self.brackets = 0;
        let start = self.text[..from].rfind('\n').map_or(0, |n| n + 1);
        let line = &self.text[start..];
        let line = &line[..line.find('\n').unwrap_or(line.len())];
        let code = line.find("//").map_or(line, |n| &line[..n]);
        self.end = from;
        code.trim_end().ends_with('{')
    }
}

/// At most 40 characters of a word, for messages.
fn shorten(word: &str) -> String {
    match word.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &word[..end]),
        None => word.to_owned(),
    }
}
