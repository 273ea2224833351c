//! Functions, blocks and statements, with recovery inside a function.

use super::*;

impl<'s> Parser<'s> {
    pub(super) fn func(&mut self) -> Parse<()> {
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

    pub(super) fn func_header(&mut self, decl: &mut FuncDecl) -> Parse<()> {
        // Inside a header line ends do not count.
        self.brackets = 1;
        if self.accept(b'<') {
            self.list(|p| {
                p.charge()?;
                decl.index.push(p.expect_kind(Tok::Ident, "the name of an index")?);
                Ok(())
            })?;
            self.expect(b'>')?;
        }
        self.expect(b'(')?;
        self.list_before(b')', |p| {
            p.charge()?;
            let name = p.expect_kind(Tok::Value, "a parameter such as `%x: bf16[N,D]`")?;
            p.expect(b':')?;
            decl.params.push((name, p.ty()?));
            Ok(())
        })?;
        self.expect(b')')?;
        if self.token.kind == Tok::Arrow {
            self.advance();
            decl.results = self.list(Self::ty)?;
        }
        if self.is_word("scope") {
            self.advance();
            decl.scope = Some(self.expect_kind(Tok::Str, "the scope in quotes")?);
        }
        self.expect(b'{')?;
        Ok(())
    }

    /// Statements up to and including the closing brace.
    pub(super) fn block(&mut self, open: Span) -> BlockDecl {
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

    pub(super) fn stmt(&mut self) -> Stmt {
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

    pub(super) fn stmt_or_fail(
        &mut self,
        results: &mut Vec<Span>,
    ) -> Parse<(Span, StmtKind, Vec<TypeExpr>)> {
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
            "return" | "yield" => StmtKind::End(self.operands()?),
            "call" => self.call()?,
            "repeat" => self.repeat()?,
            _ => StmtKind::Op { operands: self.operands()?, attrs: self.attrs()? },
        };
        let mut types = Vec::new();
        if self.same_line() && self.accept(b':') {
            if !self.same_line() {
                return self.unexpected("a type such as `bf16[N,D]`");
            }
            types = self.list(Self::ty)?;
        }
        if self.same_line() && !self.is(b'}') {
            return self.unexpected("the end of the statement");
        }
        Ok((op, kind, types))
    }
}

fn broken(span: Span, results: Vec<Span>) -> Stmt {
    Stmt { span, results, op: span, kind: StmtKind::Broken, types: Vec::new() }
}
