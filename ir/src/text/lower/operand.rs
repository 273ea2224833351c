//! Operands: values, weights and numbers.

use super::*;

impl<'s> Body<'_, 's> {
    pub(super) fn plain_operands(&mut self, operands: &[Operand]) -> Option<Vec<ValueId>> {
        let values: Vec<_> = operands.iter().map(|operand| self.operand(operand)).collect();
        values.into_iter().collect()
    }

    pub(super) fn operand(&mut self, operand: &Operand) -> Option<ValueId> {
        match operand.kind {
            OperandKind::Value => self.value(operand.span),
            OperandKind::Path => self.weight(operand.span),
            OperandKind::Literal(_) => {
                let message = "a number cannot stand here".to_owned();
                let help = "make it a value: `%c = const {value=1} : f32[]`".to_owned();
                self.up.report("E0209", operand.span, message, help);
                None
            }
        }
    }

    pub(super) fn value(&mut self, span: Span) -> Option<ValueId> {
        let name = self.up.source.sigil(span);
        if let Some(value) = self.visible(name) {
            return value;
        }
        if let Some(defined) = self.elsewhere.get(name) {
            let later = defined.start > span.start;
            let (message, help) = if later {
                (format!("%{name} is used before it is defined"), "move its definition up")
            } else {
                (
                    format!("%{name} belongs to a repeat body and is not visible here"),
                    "yield it, and use the repeat's result",
                )
            };
            self.up.report("E0403", span, message, help.to_owned());
        } else if !self.open_ended {
            let mut names: Vec<&str> =
                self.scopes.iter().flat_map(|s| s.keys().copied()).take(MOST_CANDIDATES).collect();
            names.sort_unstable();
            let help = meant(name, "%", names, || "define it above, or add a parameter".to_owned());
            self.up.report("E0401", span, format!("%{name} is not defined"), help);
        }
        None
    }

    /// The weight node of a path: at the head of the innermost repeat whose index it uses, else of
    /// the function.
    pub(super) fn weight(&mut self, span: Span) -> Option<ValueId> {
        let path = self.up.source.unquoted(span);
        let uses = |index: &str| verify::path_indices(path).any(|name| name == index);
        let level = self.open.iter().rposition(|open| open.index.is_some_and(uses)).unwrap_or(0);
        if let Some(value) = self.open[level].by_path.get(path) {
            return *value;
        }
        let value = self.new_weight(path, span, level);
        self.open[level].by_path.insert(path, value);
        value
    }

    pub(super) fn new_weight(
        &mut self,
        path: &'s str,
        span: Span,
        level: usize,
    ) -> Option<ValueId> {
        let source = self.up.source;
        let lost = match &source.weights {
            Some(decl) => decl.broken,
            None => source.incomplete,
        };
        let full = join_path(&self.func.scope, path);
        let ty = self.module.weights.resolve(&full).cloned();
        if ty.is_none() && (lost || self.open_ended) {
            return None;
        }
        let known = ty.is_some();
        let ty = ty.unwrap_or(TensorType::new(DType::F32, []));
        let op = Op::Weight { path: path.to_owned() };
        let id = self.func.add_node(op, &[], [(ty, path.to_owned())], Self::at(span));
        self.open[level].weights.push(id);
        self.check(id);
        known.then(|| self.func.nodes[id].results[0])
    }

    /// Operands of an op; numbers become constants where the op takes them.
    pub(super) fn operands(
        &mut self,
        op: &Op,
        operands: &[Operand],
        printed: Option<&[TensorType]>,
        hint: &str,
    ) -> Option<Vec<ValueId>> {
        let skip = match op {
            Op::Binary(_) | Op::Compare(_) => 0,
            Op::Select => 1,
            _ => return self.plain_operands(operands),
        };
        let is_literal = |o: &Operand| matches!(o.kind, OperandKind::Literal(_));
        let mut values: Vec<Option<ValueId>> = Vec::new();
        for (i, operand) in operands.iter().enumerate() {
            let later = i >= skip && is_literal(operand);
            values.push(if later { None } else { self.operand(operand) });
        }
        // The first operand that is a value gives its element type.
        let model = operands.iter().skip(skip).position(|o| !is_literal(o)).map(|i| i + skip);
        let dtype = match model {
            Some(i) => Some(self.func.ty(values[i]?).dtype),
            None if matches!(op, Op::Compare(_)) => None,
            None => printed.and_then(|types| types.first()).map(|ty| ty.dtype),
        };
        for (i, operand) in operands.iter().enumerate() {
            let OperandKind::Literal(value) = operand.kind else { continue };
            if i < skip {
                continue;
            }
            let Some(dtype) = dtype else {
                let message = "the type of this number is open".to_owned();
                let help = "at least one operand must be a value".to_owned();
                self.up.report("E0209", operand.span, message, help);
                return None;
            };
            let ty = TensorType::new(dtype, []);
            let op = Op::Const { values: vec![value] };
            let node = self.push(op, &[], &[ty], &[], Self::at(operand.span));
            self.check(node);
            let result = self.func.nodes[node].results[0];
            self.func.values[result].name = format!("{hint}.c");
            values[i] = Some(result);
        }
        values.into_iter().collect()
    }
}
