//! Types and dim expressions. Expressions become postfix instructions.

use super::*;

impl<'s> Parser<'s> {
    pub(super) fn ty(&mut self) -> Parse<TypeExpr> {
        self.charge()?;
        let name = self.expect_kind(Tok::Ident, "a type such as `bf16[N,D]`")?;
        let word = &self.text[name.start..name.end];
        let dtype = DType::from_name(word);
        self.expect(b'[')?;
        let dims = self.list_before(b']', Self::expr)?;
        let close = self.close(b']')?;
        if dtype.is_none() {
            let names = DType::ALL.map(DType::name);
            let help = meant(word, "", names, || format!("element types: {}", names.join(", ")));
            let message = format!("{} is not an element type", shorten(word));
            self.report(Diagnostic::error("E0210", message).at(name).help(help));
        }
        Ok(TypeExpr { dtype, dims, span: Span::new(name.start, close.end) })
    }

    pub(super) fn expr(&mut self) -> Parse<Expr> {
        let start = self.out.code.len() as u32;
        let from = self.token.span.start;
        self.sum()?;
        let span = Span::new(from, self.end);
        Ok(Expr { span, start, end: self.out.code.len() as u32 })
    }

    pub(super) fn emit(&mut self, kind: InstrKind, span: Span) -> Parse<()> {
        self.charge()?;
        self.out.code.push(Instr { kind, span });
        Ok(())
    }

    pub(super) fn sum(&mut self) -> Parse<()> {
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

    pub(super) fn product(&mut self) -> Parse<()> {
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

    pub(super) fn factor(&mut self) -> Parse<()> {
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
}
