//! Headers, names and blocks of a function.

use super::*;

impl<'s> Body<'_, 's> {
    pub(super) fn header(&mut self, decl: &'s FuncDecl) -> bool {
        let source = self.up.source;
        for span in &decl.index {
            let name = source.at(*span);
            self.bind_index(name, *span);
            self.func.index_params.push(name.to_owned());
        }
        if let Some(span) = decl.scope {
            for index in verify::path_indices(source.unquoted(span)) {
                if !self.indices.contains(index) && !decl.broken {
                    let message = format!("the scope's index {index} is not a parameter");
                    let help = format!("declare it: `func @{}<{index}>(…)`", self.func.name);
                    self.up.report("E0407", span, message, help);
                }
            }
        }
        let results: Vec<_> = decl.results.iter().map(|ty| self.up.ty(ty)).collect();
        let results: Option<Vec<TensorType>> = results.into_iter().collect();
        // Parameters are typed later; a type in error leaves fewer of them.
        let broken = results.is_none();
        self.open_ended |= broken;
        self.func.results = results.unwrap_or_default();
        broken
    }

    pub(super) fn bind_index(&mut self, name: &'s str, span: Span) {
        if self.indices.contains(name) {
            let message = format!("index {name} is already bound here");
            self.up.report("E0411", span, message, "choose another name".to_owned());
        }
        self.indices.push(name, ());
    }

    /// Collects the names a block defines, with those of its bodies.
    pub(super) fn names(&mut self, block: &'s BlockDecl) {
        for stmt in &block.stmts {
            for span in &stmt.results {
                self.elsewhere.entry(self.up.source.sigil(*span)).or_insert(*span);
            }
            if let StmtKind::Repeat(decl) = &stmt.kind {
                for (span, _) in decl.carries.iter().chain(&decl.stacks) {
                    self.elsewhere.entry(self.up.source.sigil(*span)).or_insert(*span);
                }
                self.names(&decl.body);
            }
        }
    }

    // ---- blocks and names

    pub(super) fn open_block(&mut self) {
        let index = (!self.open.is_empty()).then(|| self.indices.last()).flatten();
        self.open.push(Open {
            weights: Vec::new(),
            by_path: HashMap::new(),
            nodes: Vec::new(),
            index,
        });
        self.scopes.push(HashMap::new());
    }

    pub(super) fn close_block(&mut self, block: BlockId) {
        self.scopes.pop();
        if let Some(open) = self.open.pop() {
            let mut nodes = open.weights;
            nodes.extend(open.nodes);
            self.func.blocks[block].nodes = nodes;
        }
    }

    pub(super) fn visible(&self, name: &str) -> Option<Option<ValueId>> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name).copied())
    }

    pub(super) fn define(&mut self, span: Span, value: Option<ValueId>, code: &'static str) {
        let name = self.up.source.sigil(span);
        if self.visible(name).is_some() {
            let message = format!("%{name} is defined twice");
            self.up.report(code, span, message, "choose another name".to_owned());
        }
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, value);
        }
    }

    pub(super) fn param(
        &mut self,
        block: BlockId,
        name: Span,
        ty: Option<TensorType>,
        code: &'static str,
    ) {
        let value = ty.map(|ty| self.func.add_param(block, self.up.source.sigil(name), ty));
        self.open_ended |= value.is_none() && block == self.func.entry;
        self.define(name, value, code);
    }

    pub(super) fn block(&mut self, decl: &'s BlockDecl, end: Op) {
        let mut broken = false;
        let mut ended = None;
        for stmt in &decl.stmts {
            if self.up.sink.full() {
                return;
            }
            if let Some(ended) = ended
                && !matches!(stmt.kind, StmtKind::Broken)
            {
                let message = format!("a statement after {ended}");
                let help = format!("{ended} is the last statement of its block");
                self.up.report("E0409", stmt.span, message, help);
                return;
            }
            let op = self.up.source.at(stmt.op);
            match &stmt.kind {
                StmtKind::Broken => {
                    broken = true;
                    self.poison(stmt);
                }
                StmtKind::End(operands) => {
                    ended = Some(op);
                    self.terminator(stmt, operands, &end);
                }
                StmtKind::Op { operands, attrs } => self.plain(stmt, operands, attrs),
                StmtKind::Call { func, index, operands } => {
                    self.call(stmt, *func, index, operands);
                }
                StmtKind::Repeat(decl) => self.repeat(stmt, decl),
            }
        }
        if ended.is_none() && !broken {
            let message = format!("the block ends without {}", end.name());
            let help = format!("end it with `{} %value`", end.name());
            self.up.report("E0409", decl.close, message, help);
        }
    }
}
