//! Recursive-descent parser of IR text with recovery at line ends.
//!
//! Reports up to [`super::MOST_DIAGNOSTICS`] syntax errors. Time is linear in the text; recursion
//! is limited by [`super::DEEPEST`] and memory by [`MOST_ITEMS`], so any input is answered. It
//! resolves no names and checks no types.

use super::ast::*;
use super::lexer::{Lexer, Tok, Token, is_name};
use super::{DEEPEST, Sink};
use crate::diag::{Diagnostic, Span};
use crate::graph::BoundDim;
use crate::types::DType;
use crate::weights::nearest;

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
    let mut lexer = Lexer::new(text);
    let token = lexer.next();
    let mut parser = Parser {
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
    };
    parser.module();
    let mut source = parser.out;
    source.text = text.to_owned();
    (source, parser.sink.finish())
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

    fn expect(&mut self, punct: u8) -> Parse<Span> {
        if self.is(punct) {
            Ok(self.advance().span)
        } else {
            self.unexpected(&format!("`{}`", punct as char))
        }
    }

    fn expect_kind(&mut self, kind: Tok, what: &str) -> Parse<Span> {
        if self.token.kind == kind { Ok(self.advance().span) } else { self.unexpected(what) }
    }

    fn expect_word(&mut self, word: &str) -> Parse<Span> {
        if self.is_word(word) {
            Ok(self.advance().span)
        } else {
            self.unexpected(&format!("`{word}`"))
        }
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

    // ---- module

    fn at_declaration(&self) -> bool {
        self.token.first && ["dim", "weights", "func", "module"].iter().any(|w| self.is_word(w))
    }

    fn module(&mut self) {
        if self.is_word("module") {
            self.advance();
            match self.expect_kind(Tok::Func, "the module's name, as in `module @name`") {
                Ok(name) => {
                    self.out.name = Some(name);
                    self.notes();
                }
                Err(Failed) => {
                    self.recover_line();
                }
            }
        } else {
            let error = Diagnostic::error("E0107", "the text does not start with a module line")
                .at(self.token.span);
            self.report(error.help("start it with `module @name`"));
        }
        let mut silent = self.out.name.is_none();
        while self.token.kind != Tok::Eof {
            self.brackets = 0;
            self.from = self.token.span.start;
            let result = match self.word() {
                "dim" if self.at_declaration() => self.dims(),
                "weights" if self.at_declaration() => self.weights(),
                "func" if self.at_declaration() => self.func(),
                "module" if self.at_declaration() => {
                    let error = Diagnostic::error("E0107", "a second module line");
                    self.report(error.at(self.token.span).help("one module a file"));
                    Err(Failed)
                }
                "}" if !silent => {
                    let error =
                        Diagnostic::error("E0104", "a closing brace without an opening one");
                    self.report(error.at(self.token.span).help("remove it"));
                    Err(Failed)
                }
                _ if silent => Err(Failed),
                _ => self.unexpected("`dim`, `weights` or `func`"),
            };
            silent = result.is_err();
            if silent {
                self.out.incomplete = true;
                self.skip_to_declaration();
            }
        }
    }

    /// One report for a stretch of lines that are no declarations.
    fn skip_to_declaration(&mut self) {
        while !(self.at_declaration() && self.token.span.start > self.from) {
            if self.token.kind == Tok::Eof {
                return;
            }
            self.lexer.at = self.lexer.line_end();
            self.token = self.lexer.next();
        }
    }

    /// Dims recorded as `// NAME = INTEGER` lines under the module line.
    fn notes(&mut self) {
        let between = &self.text[self.end..self.token.span.start];
        for line in between.lines().filter_map(|l| l.trim().strip_prefix("//")) {
            let Some((name, value)) = line.split_once('=') else { continue };
            let name = name.trim();
            let fits = name.len() <= 256
                && name.bytes().all(is_name)
                && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
            if let (true, Ok(value)) = (fits, value.trim().parse())
                && self.charge().is_ok()
            {
                self.out.noted.push(BoundDim { name: name.to_owned(), value });
            }
        }
    }

    fn dims(&mut self) -> Parse<()> {
        self.advance();
        // A list of dims may go on after a comma; its end is a line end.
        loop {
            self.charge()?;
            let name = self.expect_kind(Tok::Ident, "the name of a dim")?;
            if ["ceil_div", "inf", "nan", "true", "false"]
                .contains(&&self.text[name.start..name.end])
            {
                let error = Diagnostic::error("E0101", "this word cannot name a dim").at(name);
                self.report(error.help("choose another name"));
            }
            let value = match self.accept(b'=') {
                false => DimValue::Free,
                true => match self.expr() {
                    Ok(expr) => DimValue::Expr(expr),
                    Err(Failed) => DimValue::Broken,
                },
            };
            self.out.dims.push(DimDecl { name, value });
            if value == DimValue::Broken {
                // Only what follows on the line is lost.
                let rest = &self.text[self.token.span.start..];
                let rest = rest.lines().next().unwrap_or("");
                self.out.incomplete |= !self.at_next_line() && rest.contains(',');
                self.recover_line();
                return Ok(());
            }
            if !self.accept(b',') {
                break;
            }
        }
        if self.token.first || self.token.kind == Tok::Eof {
            Ok(())
        } else {
            self.unexpected("`,` or the end of the line")
        }
    }

    fn weights(&mut self) -> Parse<()> {
        let word = self.advance().span;
        let name = self.expect_kind(Tok::Func, "the name of the weights, as in `weights @name`")?;
        let open = self.expect(b'{')?;
        self.brackets = 0;
        let mut decl = WeightsDecl { name, entries: Vec::new(), broken: false };
        loop {
            if self.is(b'}') {
                self.advance();
                break;
            }
            if self.token.kind == Tok::Eof || self.at_declaration() {
                self.unclosed(open);
                decl.broken = true;
                break;
            }
            match self.weight_entry() {
                Ok(entry) => decl.entries.push(entry),
                Err(Failed) => {
                    decl.broken = true;
                    self.recover_line();
                }
            }
        }
        if self.out.weights.is_some() {
            let error = Diagnostic::error("E0107", "a second weights block").at(word);
            self.report(error.help("a module has one; put all entries there"));
        } else {
            self.out.weights = Some(decl);
        }
        Ok(())
    }

    fn weight_entry(&mut self) -> Parse<(Span, TypeExpr)> {
        self.charge()?;
        self.from = self.token.span.start;
        let name = self.expect_kind(Tok::Str, "a weight's name in quotes")?;
        self.expect(b':')?;
        let ty = self.ty()?;
        if self.same_line() && !self.is(b'}') {
            return self.unexpected("the end of the line");
        }
        Ok((name, ty))
    }

    fn unclosed(&mut self, open: Span) {
        let error = Diagnostic::error("E0104", "this brace is not closed").at(open);
        self.report(error.help("add a `}`"));
    }

    // ---- types and expressions

    fn ty(&mut self) -> Parse<TypeExpr> {
        self.charge()?;
        let name = self.expect_kind(Tok::Ident, "a type such as `bf16[N,D]`")?;
        let word = &self.text[name.start..name.end];
        let dtype = DType::from_name(word);
        let mut dims = Vec::new();
        self.expect(b'[')?;
        if !self.is(b']') {
            loop {
                dims.push(self.expr()?);
                if !self.accept(b',') {
                    break;
                }
            }
        }
        let close = match self.token.kind {
            Tok::Punct(b']') => self.advance().span,
            _ => return self.unexpected("`,` or `]`"),
        };
        if dtype.is_none() {
            let names = DType::ALL.map(DType::name);
            let help = match nearest(word, names) {
                Some(close) => format!("did you mean {close}?"),
                None => format!("element types: {}", names.join(", ")),
            };
            let message = format!("{} is not an element type", shorten(word));
            self.report(Diagnostic::error("E0210", message).at(name).help(help));
        }
        Ok(TypeExpr { dtype, dims, span: Span::new(name.start, close.end) })
    }

    fn types(&mut self) -> Parse<Vec<TypeExpr>> {
        let mut types = vec![self.ty()?];
        while self.accept(b',') {
            types.push(self.ty()?);
        }
        Ok(types)
    }

    fn expr(&mut self) -> Parse<Expr> {
        let start = self.out.code.len() as u32;
        let from = self.token.span.start;
        self.sum()?;
        let span = Span::new(from, self.end);
        Ok(Expr { span, start, end: self.out.code.len() as u32 })
    }

    fn emit(&mut self, kind: InstrKind, span: Span) -> Parse<()> {
        self.charge()?;
        self.out.code.push(Instr { kind, span });
        Ok(())
    }

    fn sum(&mut self) -> Parse<()> {
        let from = self.token.span.start;
        self.product()?;
        loop {
            let kind = match self.token.kind {
                Tok::Punct(b'+') => InstrKind::Add,
                Tok::Punct(b'-') => InstrKind::Sub,
                _ => return Ok(()),
            };
            self.advance();
            self.product()?;
            self.emit(kind, Span::new(from, self.end))?;
        }
    }

    fn product(&mut self) -> Parse<()> {
        let from = self.token.span.start;
        self.factor()?;
        loop {
            let kind = match self.token.kind {
                Tok::Punct(b'*') => InstrKind::Mul,
                Tok::Punct(b'/') => InstrKind::Div,
                _ => return Ok(()),
            };
            self.advance();
            self.factor()?;
            self.emit(kind, Span::new(from, self.end))?;
        }
    }

    fn factor(&mut self) -> Parse<()> {
        let span = self.token.span;
        match self.token.kind {
            Tok::Int => {
                let Ok(value) = self.word().parse() else {
                    let error = Diagnostic::error("E0102", "a number that does not fit 64 bits");
                    self.report(error.at(span).help("sizes are at most 2^40"));
                    return Err(Failed);
                };
                self.advance();
                self.emit(InstrKind::Int(value), span)
            }
            Tok::Ident if self.word() == "ceil_div" => {
                self.advance();
                self.expect(b'(')?;
                self.nest(Self::sum)?;
                self.expect(b',')?;
                self.nest(Self::sum)?;
                self.expect(b')')?;
                self.emit(InstrKind::CeilDiv, Span::new(span.start, self.end))
            }
            Tok::Ident => {
                self.advance();
                self.emit(InstrKind::Name, span)
            }
            Tok::Punct(b'(') => {
                self.advance();
                self.nest(Self::sum)?;
                self.expect(b')')?;
                Ok(())
            }
            Tok::Punct(b'-') => {
                self.advance();
                self.nest(Self::factor)?;
                self.emit(InstrKind::Neg, Span::new(span.start, self.end))
            }
            _ => self.unexpected("a number or the name of a dim"),
        }
    }

    // ---- functions

    fn func(&mut self) -> Parse<()> {
        self.advance();
        let name = self.expect_kind(Tok::Func, "the function's name, as in `func @name`")?;
        let mut decl = FuncDecl {
            name,
            index: Vec::new(),
            params: Vec::new(),
            results: Vec::new(),
            scope: None,
            body: BlockDecl::default(),
            broken: false,
        };
        if let Err(Failed) = self.func_header(&mut decl) {
            decl.broken = true;
            // Header lines up to the brace that opens the body.
            let mut opens = self.recover_line();
            while !opens && self.token.kind != Tok::Eof && !self.at_declaration() {
                if self.at_statement() {
                    break;
                }
                self.brackets = 1;
                opens = self.recover_line();
            }
            if !opens {
                self.out.funcs.push(decl);
                return Ok(());
            }
        }
        let open = match decl.broken {
            true => name,
            false => Span::new(self.end - 1, self.end),
        };
        decl.body = self.block(open);
        self.out.funcs.push(decl);
        if !self.token.first && self.token.kind != Tok::Eof {
            return self.unexpected("the end of the line");
        }
        Ok(())
    }

    fn func_header(&mut self, decl: &mut FuncDecl) -> Parse<()> {
        // Inside a header line ends do not count.
        self.brackets = 1;
        if self.accept(b'<') {
            loop {
                self.charge()?;
                decl.index.push(self.expect_kind(Tok::Ident, "the name of an index")?);
                if !self.accept(b',') {
                    break;
                }
            }
            self.expect(b'>')?;
        }
        self.expect(b'(')?;
        if !self.is(b')') {
            loop {
                self.charge()?;
                let name = self.expect_kind(Tok::Value, "a parameter such as `%x: bf16[N,D]`")?;
                self.expect(b':')?;
                decl.params.push((name, self.ty()?));
                if !self.accept(b',') {
                    break;
                }
            }
        }
        self.expect(b')')?;
        if self.token.kind == Tok::Arrow {
            self.advance();
            decl.results = self.types()?;
        }
        if self.is_word("scope") {
            self.advance();
            decl.scope = Some(self.expect_kind(Tok::Str, "the scope in quotes")?);
        }
        self.expect(b'{')?;
        Ok(())
    }

    /// Statements up to and including the closing brace.
    fn block(&mut self, open: Span) -> BlockDecl {
        let mut stmts = Vec::new();
        loop {
            self.brackets = 0;
            if self.is(b'}') {
                let close = self.advance().span;
                return BlockDecl { stmts, close };
            }
            if self.token.kind == Tok::Eof || self.at_declaration() {
                if !self.stopped {
                    self.unclosed(open);
                }
                let close = Span::new(self.end.saturating_sub(1), self.end);
                // The missing end is reported; what the block lacks is not its author's point.
                stmts.push(broken(Span::new(self.end, self.end), Vec::new()));
                return BlockDecl { stmts, close };
            }
            let stmt = self.stmt();
            stmts.push(stmt);
        }
    }

    fn stmt(&mut self) -> Stmt {
        let start = self.token.span.start;
        self.from = start;
        let mut results = Vec::new();
        match self.charge().and_then(|()| self.stmt_or_fail(&mut results)) {
            Ok((op, kind, types)) => {
                Stmt { span: Span::new(start, self.end), results, op, kind, types }
            }
            Err(Failed) => {
                let end = self.end.max(start);
                if self.recover_line() {
                    // The body of something unreadable is read, for its own errors, and dropped.
                    let open = Span::new(start, end);
                    let inside = self.nest(|p| Ok(p.block(open)));
                    if inside.is_ok() && self.same_line() {
                        self.recover_line();
                    }
                }
                broken(Span::new(start, end), results)
            }
        }
    }

    fn stmt_or_fail(&mut self, results: &mut Vec<Span>) -> Parse<(Span, StmtKind, Vec<TypeExpr>)> {
        if self.token.kind == Tok::Value {
            loop {
                self.charge()?;
                results.push(self.advance().span);
                if !self.accept(b',') {
                    break;
                }
                if self.token.kind != Tok::Value || !self.same_line() {
                    return self.unexpected("a further result such as `%name`");
                }
            }
            if !self.same_line() || !self.is(b'=') {
                return self.unexpected("`=` and an op");
            }
            self.advance();
        }
        if !self.same_line() && !results.is_empty() {
            return self.unexpected("an op");
        }
        let op = self.expect_kind(Tok::Ident, "a statement such as `%y = neg %x`")?;
        let kind = match &self.text[op.start..op.end] {
            "return" => StmtKind::Return(self.operands()?),
            "yield" => StmtKind::Yield(self.operands()?),
            "call" => self.call()?,
            "repeat" => self.repeat()?,
            _ => StmtKind::Op { operands: self.operands()?, attrs: self.attrs()? },
        };
        let mut types = Vec::new();
        if self.same_line() && self.accept(b':') {
            if !self.same_line() {
                return self.unexpected("a type such as `bf16[N,D]`");
            }
            types = self.types()?;
        }
        if self.same_line() && !self.is(b'}') {
            return self.unexpected("the end of the statement");
        }
        Ok((op, kind, types))
    }

    fn at_operand(&self) -> bool {
        let literal = matches!(self.token.kind, Tok::Int | Tok::Float | Tok::Punct(b'-'));
        literal
            || matches!(self.token.kind, Tok::Value | Tok::Path)
            || self.is_word("inf")
            || self.is_word("nan")
    }

    fn operands(&mut self) -> Parse<Vec<Operand>> {
        let mut operands = Vec::new();
        if !self.same_line() || !(self.at_operand() || matches!(self.token.kind, Tok::Bad(_))) {
            return Ok(operands);
        }
        loop {
            operands.push(self.operand()?);
            if !self.same_line() || !self.accept(b',') {
                return Ok(operands);
            }
        }
    }

    fn operand(&mut self) -> Parse<Operand> {
        self.charge()?;
        let span = self.token.span;
        if !self.same_line() || !self.at_operand() {
            return self.unexpected("an operand such as `%x`, `$path` or a number");
        }
        let kind = match self.token.kind {
            Tok::Value => OperandKind::Value,
            Tok::Path => OperandKind::Path,
            _ => {
                return self
                    .literal()
                    .map(|(value, span)| Operand { kind: OperandKind::Literal(value), span });
            }
        };
        self.advance();
        Ok(Operand { kind, span })
    }

    /// A number with an optional sign.
    fn literal(&mut self) -> Parse<(f64, Span)> {
        let start = self.token.span.start;
        let negative = self.accept(b'-');
        let value = match self.token.kind {
            Tok::Int | Tok::Float => self.word().parse().ok(),
            Tok::Ident if self.word() == "inf" => Some(f64::INFINITY),
            Tok::Ident if self.word() == "nan" => Some(f64::NAN),
            _ => None,
        };
        let Some(value) = value else { return self.unexpected("a number") };
        self.advance();
        Ok((if negative { -value } else { value }, Span::new(start, self.end)))
    }

    fn operand_list(&mut self) -> Parse<Vec<Operand>> {
        self.expect(b'(')?;
        let mut operands = Vec::new();
        if !self.is(b')') {
            loop {
                operands.push(self.operand()?);
                if !self.accept(b',') {
                    break;
                }
            }
        }
        if !self.is(b')') {
            return self.unexpected("`,` or `)`");
        }
        self.advance();
        Ok(operands)
    }

    fn attrs(&mut self) -> Parse<Vec<Attr>> {
        let mut attrs = Vec::new();
        if !self.same_line() || !self.is(b'{') {
            return Ok(attrs);
        }
        self.advance();
        while !self.is(b'}') {
            self.charge()?;
            let name = self.expect_kind(Tok::Ident, "an attribute such as `axis=1`")?;
            self.expect(b'=')?;
            let start = self.token.span.start;
            let value = self.attr_value()?;
            attrs.push(Attr { name, value, span: Span::new(start, self.end) });
            if !self.accept(b',') && !self.is(b'}') {
                return self.unexpected("`,` or `}`");
            }
        }
        self.advance();
        Ok(attrs)
    }

    fn attr_value(&mut self) -> Parse<AttrValue> {
        if !self.is(b'[') {
            return self.attr_item();
        }
        self.advance();
        let mut list = Vec::new();
        while !self.is(b']') {
            self.charge()?;
            list.push(self.attr_item()?);
            if !self.accept(b',') && !self.is(b']') {
                return self.unexpected("`,` or `]`");
            }
        }
        self.advance();
        Ok(AttrValue::List(list))
    }

    fn attr_item(&mut self) -> Parse<AttrValue> {
        let word = self.word();
        match self.token.kind {
            Tok::Float => return self.literal().map(|(value, _)| AttrValue::Float(value)),
            Tok::Punct(b'-') if self.number_after_sign() => {
                return self.literal().map(|(value, _)| AttrValue::Float(value));
            }
            Tok::Ident if matches!(word, "inf" | "nan") => {
                return self.literal().map(|(value, _)| AttrValue::Float(value));
            }
            Tok::Ident if word == "true" || word == "false" => {
                self.advance();
                return Ok(AttrValue::Flag(word == "true"));
            }
            Tok::Str => {
                self.advance();
                return Ok(AttrValue::Str);
            }
            _ => {}
        }
        self.expr().map(AttrValue::Expr)
    }

    /// Whether a float, `inf` or `nan` follows the sign being looked at.
    fn number_after_sign(&self) -> bool {
        let mut ahead = Lexer::new(self.text);
        ahead.at = self.token.span.end;
        let next = ahead.next();
        let word = &self.text[next.span.start..next.span.end];
        next.kind == Tok::Float || (next.kind == Tok::Ident && matches!(word, "inf" | "nan"))
    }

    fn call(&mut self) -> Parse<StmtKind> {
        let func = self.expect_kind(Tok::Func, "the called function, as in `call @name(%x)`")?;
        let mut index = Vec::new();
        if self.accept(b'<') {
            loop {
                self.charge()?;
                if !matches!(self.token.kind, Tok::Ident | Tok::Int) {
                    return self.unexpected("an index: a name or a number");
                }
                index.push(self.advance().span);
                if !self.accept(b',') {
                    break;
                }
            }
            self.expect(b'>')?;
        }
        Ok(StmtKind::Call { func, index, operands: self.operand_list()? })
    }

    fn repeat(&mut self) -> Parse<StmtKind> {
        let index = self.expect_kind(Tok::Ident, "the loop's index, as in `repeat l in 0..30`")?;
        self.expect_word("in")?;
        let lo = self.expr()?;
        self.expect_kind(Tok::DotDot, "`..`")?;
        let hi = self.expr()?;
        let mut lists = [Vec::new(), Vec::new()];
        for (list, word) in lists.iter_mut().zip(["carry", "each"]) {
            if self.is_word(word) {
                self.advance();
                *list = self.bindings()?;
            }
        }
        if !self.is(b'{') {
            return self.unexpected("`carry(…)`, `each(…)` or `{`");
        }
        let open = self.advance().span;
        let body = self.nest(|p| Ok(p.block(open)))?;
        let [carries, stacks] = lists;
        Ok(StmtKind::Repeat(Box::new(RepeatDecl { index, lo, hi, carries, stacks, body })))
    }

    fn bindings(&mut self) -> Parse<Vec<(Span, Operand)>> {
        self.expect(b'(')?;
        let mut list = Vec::new();
        if !self.is(b')') {
            loop {
                let name = self.expect_kind(Tok::Value, "a pair such as `%x = %x0`")?;
                self.expect(b'=')?;
                list.push((name, self.operand()?));
                if !self.accept(b',') {
                    break;
                }
            }
        }
        self.expect(b')')?;
        Ok(list)
    }
}

fn broken(span: Span, results: Vec<Span>) -> Stmt {
    Stmt { span, results, op: span, kind: StmtKind::Broken, types: Vec::new() }
}

/// At most 40 characters of a word, for messages.
fn shorten(word: &str) -> String {
    match word.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &word[..end]),
        None => word.to_owned(),
    }
}
