//! Declarations: the module line, dims and weights.

use super::*;

impl<'s> Parser<'s> {
    pub(super) fn at_declaration(&self) -> bool {
        self.token.first && ["dim", "weights", "func", "module"].iter().any(|w| self.is_word(w))
    }

    pub(super) fn module(&mut self) {
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
    pub(super) fn skip_to_declaration(&mut self) {
        while !(self.at_declaration() && self.token.span.start > self.from) {
            if self.token.kind == Tok::Eof {
                return;
            }
            self.lexer.at = self.lexer.line_end();
            self.token = self.lexer.next();
        }
    }

    /// Dims recorded as `// NAME = INTEGER` lines under the module line.
    pub(super) fn notes(&mut self) {
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

    pub(super) fn dims(&mut self) -> Parse<()> {
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

    pub(super) fn weights(&mut self) -> Parse<()> {
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

    pub(super) fn weight_entry(&mut self) -> Parse<(Span, TypeExpr)> {
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

    pub(super) fn unclosed(&mut self, open: Span) {
        let error = Diagnostic::error("E0104", "this brace is not closed").at(open);
        self.report(error.help("add a `}`"));
    }
}
