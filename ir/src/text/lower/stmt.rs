//! Statements to nodes.

use super::*;

impl<'s> Body<'_, 's> {
    pub(super) fn loc(stmt: &Stmt, operands: &[Operand]) -> Loc {
        let types = match (stmt.types.first(), stmt.types.last()) {
            (Some(first), Some(last)) => Span::new(first.span.start, last.span.end),
            _ => Span::default(),
        };
        let operands = operands.iter().map(|operand| operand.span).collect();
        Loc::Text(Box::new(TextLoc { whole: stmt.span, operands, types }))
    }

    /// The place of what is no statement.
    pub(super) fn at(span: Span) -> Loc {
        Loc::Text(Box::new(TextLoc { whole: span, ..TextLoc::default() }))
    }

    /// Defines the results of a statement in error: with its printed types if they are known, so
    /// that later statements are still checked.
    pub(super) fn placeholder(&mut self, stmt: &Stmt, types: Option<Vec<TensorType>>) {
        let types = types.filter(|types| types.len() == stmt.results.len());
        let Some(types) = types else { return self.poison(stmt) };
        for (span, ty) in stmt.results.iter().zip(types) {
            let loc = Self::loc(stmt, &[]);
            let names = std::slice::from_ref(span);
            let node = self.push(Op::Const { values: vec![0.0] }, &[], &[ty], names, loc);
            let value = self.func.nodes[node].results[0];
            self.define(*span, Some(value), "E0402");
        }
    }

    pub(super) fn poison(&mut self, stmt: &Stmt) {
        for span in &stmt.results {
            self.define(*span, None, "E0402");
        }
    }

    /// Adds a node to the innermost block.
    pub(super) fn push(
        &mut self,
        op: Op,
        operands: &[ValueId],
        types: &[TensorType],
        names: &[Span],
        loc: Loc,
    ) -> NodeId {
        let name = |i| names.get(i).map_or("", |span| self.up.source.sigil(*span)).to_owned();
        let results = types.iter().enumerate().map(|(i, ty)| (ty.clone(), name(i)));
        let id = self.func.add_node(op, operands, results, loc);
        if let Some(open) = self.open.last_mut() {
            open.nodes.push(id);
        }
        id
    }

    /// Reports what the verifier would say of `node`.
    pub(super) fn check(&mut self, node: NodeId) {
        let cx = Context {
            module: self.module,
            funcs: &self.up.funcs,
            position: self.position,
            indices: &self.indices,
        };
        for error in verify::check_node(&cx, &self.func, node) {
            self.up.sink.push(error);
        }
    }

    /// The printed types: outer `None` if one is in error, empty if none is printed.
    pub(super) fn printed(&mut self, stmt: &Stmt) -> Option<Vec<TensorType>> {
        let types: Vec<_> = stmt.types.iter().map(|ty| self.up.ty(ty)).collect();
        types.into_iter().collect()
    }

    /// Pushes and checks a node whose operands are sound, with its body if it has one, and defines its
    /// results.
    fn finish(
        &mut self,
        stmt: &Stmt,
        op: Op,
        operands: &[ValueId],
        types: &[TensorType],
        loc: Loc,
        body: Option<BlockId>,
    ) {
        let unusable = body.and_then(|_| types.iter().find_map(verify::unusable));
        if let Some(error) = unusable {
            self.up.sink.push(error.at(stmt.span));
            return self.poison(stmt);
        }
        if self.miscounted(stmt, types.len()) {
            return self.poison(stmt);
        }
        let node = self.push(op, operands, types, &stmt.results, loc);
        self.func.nodes[node].body = body;
        self.check(node);
        for (i, span) in stmt.results.iter().enumerate() {
            let value = self.func.nodes[node].results[i];
            self.define(*span, Some(value), "E0402");
        }
    }

    /// Reports E0207 where `stmt` does not name `count` results, or prints another number of types.
    fn miscounted(&mut self, stmt: &Stmt, count: usize) -> bool {
        let (named, printed) = (stmt.results.len(), stmt.types.len());
        let (other, help) = match () {
            () if named != count => {
                let help = match stmt.kind {
                    StmtKind::Repeat(_) => "one result a carry, then one a collected value",
                    _ => "name each result once, as in `%a, %b = …`",
                };
                (format!("{named} are named"), help)
            }
            () if printed != 0 && printed != count => {
                (format!("{printed} types are printed"), "print the type of each result, or none")
            }
            () => return false,
        };
        let message = format!("{} gives {count} results, {other}", self.up.source.at(stmt.op));
        self.up.report("E0207", stmt.span, message, help.to_owned());
        true
    }

    pub(super) fn plain(&mut self, stmt: &'s Stmt, operands: &[Operand], attrs: &[Attr]) {
        let printed = self.printed(stmt);
        let (source, known) = (self.up.source, Vec::new());
        let (dims, sink) = (&self.up.dims, &mut self.up.sink);
        let op = Reader { source, dims, sink, attrs, op: stmt.op, known }.build();
        let values = match &op {
            Some(op) => {
                let hint = stmt.results.first().map_or("", |span| source.sigil(*span));
                self.operands(op, operands, printed.as_deref(), hint)
            }
            None => self.plain_operands(operands),
        };
        let (Some(op), Some(values), Some(types)) = (op, values, printed.clone()) else {
            return self.placeholder(stmt, printed);
        };
        let loc = Self::loc(stmt, operands);
        let given: Vec<&TensorType> = values.iter().map(|v| self.func.ty(*v)).collect();
        match infer(&op, &given, &types) {
            Ok(inferred) if self.miscounted(stmt, inferred.len()) => {
                self.placeholder(stmt, printed);
            }
            // Printed types that differ are the verifier's to report.
            Ok(_) if !types.is_empty() => self.finish(stmt, op, &values, &types, loc, None),
            Ok(types) => self.finish(stmt, op, &values, &types, loc, None),
            Err(error) => {
                let operand = error.operand.and_then(|i| operands.get(i)).map(|o| o.span);
                let named = |name| attrs.iter().find(|attr| source.at(attr.name) == name);
                let attribute = error.attribute.and_then(named).map(|attr| attr.span);
                let span = operand.or(attribute).unwrap_or(stmt.span);
                self.up.report(error.code, span, error.message, error.help);
                self.placeholder(stmt, printed);
            }
        }
    }

    pub(super) fn terminator(&mut self, stmt: &'s Stmt, operands: &[Operand], end: &Op) {
        let values = self.plain_operands(operands);
        let name = self.up.source.at(stmt.op);
        if name != end.name() {
            let message = format!("{name} in a block that ends with {}", end.name());
            let help = "functions end with return, repeat bodies with yield".to_owned();
            return self.up.report("E0409", stmt.op, message, help);
        }
        if !stmt.results.is_empty() || !stmt.types.is_empty() {
            let message = format!("{name} has no results");
            let help = format!("write `{name} %value`");
            self.up.report("E0207", stmt.span, message, help);
        }
        if let Some(values) = values {
            let node = self.push(end.clone(), &values, &[], &[], Self::loc(stmt, operands));
            if !(name == "return" && self.open_ended) {
                self.check(node);
            }
        }
    }

    pub(super) fn call(
        &mut self,
        stmt: &'s Stmt,
        func: Span,
        index: &[Span],
        operands: &[Operand],
    ) {
        let source = self.up.source;
        let name = source.sigil(func);
        let printed = self.printed(stmt);
        let values = self.plain_operands(operands);
        let mut args = Vec::new();
        for span in index {
            let word = source.at(*span);
            args.push(match word.parse::<u32>() {
                Ok(value) => IndexArg::Int(value),
                Err(_) if word.starts_with(|c: char| c.is_ascii_digit()) => {
                    let message = format!("index {word} is too large");
                    self.up.report("E0114", *span, message, "at most 2^32 - 1".to_owned());
                    IndexArg::Int(0)
                }
                Err(_) => IndexArg::Name(word.to_owned()),
            });
        }
        let position = self.up.funcs.get(name).copied();
        let unknown = position.is_none() && self.up.source.incomplete;
        let broken = position.is_some_and(|p| self.up.broken.get(p).copied().unwrap_or(false));
        let (Some(values), Some(types)) = (values, printed.clone()) else {
            return self.placeholder(stmt, printed);
        };
        if unknown || broken {
            return self.placeholder(stmt, Some(types));
        }
        let op = Op::Call { func: name.to_owned(), index: args };
        let loc = Self::loc(stmt, operands);
        let callee = position.filter(|p| *p < self.position).map(|p| &self.module.funcs[p]);
        let types = match callee {
            Some(callee) if types.is_empty() => callee.results.clone(),
            None if types.len() != stmt.results.len() => {
                // The unknown function is the point, not its results.
                let node = self.push(op, &values, &[], &[], loc);
                self.check(node);
                return self.poison(stmt);
            }
            _ => types,
        };
        self.finish(stmt, op, &values, &types, loc, None);
    }

    pub(super) fn repeat(&mut self, stmt: &'s Stmt, decl: &'s RepeatDecl) {
        let source = self.up.source;
        let printed = self.printed(stmt);
        let bound = |body: &mut Self, expr: Expr| {
            let value = body.up.dims.eval(expr, &mut body.up.sink)?;
            let fits = u32::try_from(value).ok();
            if fits.is_none() {
                let message = format!("{value} is not a usable bound");
                let help = "bounds are whole numbers from 0".to_owned();
                body.up.report("E0408", expr.span, message, help);
            }
            fits
        };
        let (lo, hi) = (bound(self, decl.lo), bound(self, decl.hi));
        let operands: Vec<Operand> =
            decl.carries.iter().chain(&decl.stacks).map(|(_, operand)| *operand).collect();
        let values: Vec<Option<ValueId>> =
            operands.iter().map(|operand| self.operand(operand)).collect();

        let block = self.func.blocks.push(Block::default());
        self.bind_index(source.at(decl.index), decl.index);
        self.open_block();
        let mut sound = true;
        for (i, (name, operand)) in decl.carries.iter().chain(&decl.stacks).enumerate() {
            let mut ty = values[i].map(|value| self.func.ty(value).clone());
            if i >= decl.carries.len()
                && let Some(stack) = ty.take()
            {
                if stack.rank() == 0 {
                    let message = format!("{stack} cannot be read slot by slot");
                    let help = "its first axis counts the iterations".to_owned();
                    self.up.report("E0408", operand.span, message, help);
                } else {
                    ty = Some(TensorType::new(stack.dtype, stack.shape[1..].iter().copied()));
                }
            }
            sound &= ty.is_some();
            self.param(block, *name, ty, "E0402");
        }
        self.block(&decl.body, Op::Yield);
        self.close_block(block);
        self.indices.pop();

        let last = self.func.blocks[block].nodes.last().copied();
        let yielded = last.filter(|node| self.func.nodes[*node].op == Op::Yield);
        let values: Option<Vec<ValueId>> = values.into_iter().collect();
        let (Some(values), Some(yielded), Some(lo), Some(hi), Some(types), true) =
            (values, yielded, lo, hi, printed.clone(), sound)
        else {
            return self.placeholder(stmt, printed);
        };
        let carries = decl.carries.len();
        let op = Op::Repeat { index: source.at(decl.index).to_owned(), lo, hi, carries };
        let types = if types.is_empty() {
            let length = hi.saturating_sub(lo) as usize;
            let yielded = self.func.nodes[yielded].operands.clone();
            verify::repeat_results(&self.func, carries, length, &yielded)
        } else {
            types
        };
        let loc = Self::loc(stmt, &operands);
        self.finish(stmt, op, &values, &types, loc, Some(block));
    }
}
