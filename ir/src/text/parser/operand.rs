//! Operands, attributes, calls and repeats: what follows the name of an op.

use super::*;

impl<'s> Parser<'s> {
    pub(super) fn at_operand(&self) -> bool {
        let literal = matches!(self.token.kind, Tok::Int | Tok::Float | Tok::Punct(b'-'));
        literal
            || matches!(self.token.kind, Tok::Value | Tok::Path)
            || self.is_word("inf")
            || self.is_word("nan")
    }

    pub(super) fn operands(&mut self) -> Parse<Vec<Operand>> {
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

    pub(super) fn operand(&mut self) -> Parse<Operand> {
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
    pub(super) fn literal(&mut self) -> Parse<(f64, Span)> {
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

    pub(super) fn operand_list(&mut self) -> Parse<Vec<Operand>> {
        self.expect(b'(')?;
        let operands = self.list_before(b')', Self::operand)?;
        self.close(b')')?;
        Ok(operands)
    }

    pub(super) fn attrs(&mut self) -> Parse<Vec<Attr>> {
        if !self.same_line() || !self.is(b'{') {
            return Ok(Vec::new());
        }
        self.list_to(b'}', |p| {
            let name = p.expect_kind(Tok::Ident, "an attribute such as `axis=1`")?;
            p.expect(b'=')?;
            let start = p.token.span.start;
            let value = p.attr_value()?;
            Ok(Attr { name, value, span: Span::new(start, p.end) })
        })
    }

    pub(super) fn attr_value(&mut self) -> Parse<AttrValue> {
        match self.is(b'[') {
            true => self.list_to(b']', Self::attr_item).map(AttrValue::List),
            false => self.attr_item(),
        }
    }

    pub(super) fn attr_item(&mut self) -> Parse<AttrValue> {
        let (kind, word) = (self.token.kind, self.word());
        let number = kind == Tok::Float
            || (kind == Tok::Ident && matches!(word, "inf" | "nan"))
            || (self.is(b'-') && self.number_after_sign());
        match kind {
            _ if number => self.literal().map(|(value, _)| AttrValue::Float(value)),
            Tok::Ident if word == "true" || word == "false" => {
                self.advance();
                Ok(AttrValue::Flag(word == "true"))
            }
            Tok::Str => {
                self.advance();
                Ok(AttrValue::Str)
            }
            _ => self.expr().map(AttrValue::Expr),
        }
    }

    /// Whether a float, `inf` or `nan` follows the sign being looked at.
    pub(super) fn number_after_sign(&self) -> bool {
        let mut ahead = Lexer::new(self.text);
        ahead.at = self.token.span.end;
        let next = ahead.next();
        let word = &self.text[next.span.start..next.span.end];
        next.kind == Tok::Float || (next.kind == Tok::Ident && matches!(word, "inf" | "nan"))
    }

    pub(super) fn call(&mut self) -> Parse<StmtKind> {
        let func = self.expect_kind(Tok::Func, "the called function, as in `call @name(%x)`")?;
        let mut index = Vec::new();
        if self.accept(b'<') {
            index = self.list(|p| {
                p.charge()?;
                match p.token.kind {
                    Tok::Ident | Tok::Int => Ok(p.advance().span),
                    _ => p.unexpected("an index: a name or a number"),
                }
            })?;
            self.expect(b'>')?;
        }
        Ok(StmtKind::Call { func, index, operands: self.operand_list()? })
    }

    pub(super) fn repeat(&mut self) -> Parse<StmtKind> {
        let index = self.expect_kind(Tok::Ident, "the loop's index, as in `repeat l in 0..30`")?;
        self.take(self.is_word("in"), || "`in`".to_owned())?;
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

    pub(super) fn bindings(&mut self) -> Parse<Vec<(Span, Operand)>> {
        self.expect(b'(')?;
        let list = self.list_before(b')', |p| {
            let name = p.expect_kind(Tok::Value, "a pair such as `%x = %x0`")?;
            p.expect(b'=')?;
            Ok((name, p.operand()?))
        })?;
        self.expect(b')')?;
        Ok(list)
    }
}
