//! Partial evaluation by dependence: what does not depend on the inputs that change per step is
//! computed once, by `prepare`; `step` reads it from the persistent arena.
//!
//! On the transformer this finds the text context with every block's text keys and values, the
//! rotary table and the references' patch embedding, without being told about any of them.

use crate::CompileError;
use crate::program::{Origin, Program, ValueIndex};
use crate::rewrite::Rewrites;
use crate::simplify::simplify;
use anyid_ir::{Op, TensorType};
use std::collections::HashMap;

/// A program split in two. `prepare` has as outputs the persistent values in order; `step` reads
/// them as [`Origin::Persistent`].
#[derive(Clone, Debug, PartialEq)]
pub struct Split<P> {
    /// Runs once a request.
    pub prepare: P,
    /// Runs every step.
    pub step: P,
    /// Types of the persistent values.
    pub persistent: Vec<TensorType>,
}

/// Splits `program` by the inputs named in `varying`; all other inputs belong to `prepare`.
///
/// # Errors
/// E0503 for a name that no input has.
pub fn split(program: &Program, varying: &[&str]) -> Result<Split<Program>, CompileError> {
    split_with(program, varying, &mut Rewrites::unlimited())
}

/// [`split`], with every step that moves to `prepare` a rewrite.
///
/// # Errors
/// As [`split`].
pub fn split_with(
    program: &Program,
    varying: &[&str],
    rewrites: &mut Rewrites,
) -> Result<Split<Program>, CompileError> {
    if let Some(missing) =
        varying.iter().find(|name| !program.inputs.iter().any(|(n, _)| n == *name))
    {
        let message = format!("there is no input %{missing} to split by");
        let inputs: Vec<String> =
            program.inputs.iter().map(|(name, _)| format!("%{name}")).collect();
        let help = format!("the inputs are {}", inputs.join(", "));
        return Err(CompileError::new("E0503", message).help(help));
    }
    let mut varies = vec![false; program.values.len()];
    for (name, value) in &program.inputs {
        varies[*value as usize] = varying.contains(&name.as_str());
    }
    let mut is_output = vec![false; program.values.len()];
    program.outputs.iter().for_each(|(_, value)| is_output[*value as usize] = true);
    // Literals and views of them cost nothing to make again and would only occupy persistent
    // memory: they stay in `step`, and what is made of them may still go.
    let mut cheap = vec![false; program.values.len()];
    for step in &program.steps {
        let result = step.result as usize;
        let literal = match &step.op {
            Op::Const { .. } | Op::Iota { .. } => step.operands.is_empty(),
            op => is_view(op) && step.operands.iter().all(|v| cheap[*v as usize]),
        };
        let depends = step.operands.iter().any(|v| varies[*v as usize] && !cheap[*v as usize]);
        cheap[result] = literal;
        varies[result] = literal
            || depends
            || is_output[result]
            || !rewrites.allow("moved to prepare", &step.label);
    }
    // `prepare` makes the literals it needs for itself.
    let mut used_by_prepare = vec![false; program.values.len()];
    for step in program.steps.iter().rev() {
        let result = step.result as usize;
        if !varies[result] || (cheap[result] && used_by_prepare[result]) {
            for operand in &step.operands {
                used_by_prepare[*operand as usize] = true;
            }
        }
    }

    let mut prepare = Side::new(program);
    let mut step = Side::new(program);
    for (name, value) in &program.inputs {
        let side = if varies[*value as usize] { &mut step } else { &mut prepare };
        side.input(name, *value);
    }
    let mut persistent = Vec::new();
    for each in &program.steps {
        let result = each.result as usize;
        if varies[result] {
            if used_by_prepare[result] && cheap[result] {
                prepare.copy(each);
            }
            for operand in &each.operands {
                let origin = program.values[*operand as usize].origin;
                let from_prepare =
                    !varies[*operand as usize] && !matches!(origin, Origin::Weight(_));
                if from_prepare && step.moved[*operand as usize].is_none() {
                    let ty = program.ty(*operand).clone();
                    let index = persistent.len() as u32;
                    persistent.push(ty.clone());
                    let name = format!("persistent.{index}");
                    prepare.output(&name, *operand);
                    let value = step.out.value(ty, Origin::Persistent(index));
                    step.moved[*operand as usize] = Some(value);
                }
            }
            step.copy(each);
        } else {
            prepare.copy(each);
        }
    }
    for (name, value) in &program.outputs {
        if step.moved[*value as usize].is_none() {
            // An output that is an unvarying input or weight: hand it through.
            let ty = program.ty(*value).clone();
            if matches!(program.values[*value as usize].origin, Origin::Weight(_)) {
                step.weight(*value);
            } else {
                let index = persistent.len() as u32;
                persistent.push(ty.clone());
                prepare.output(&format!("persistent.{index}"), *value);
                step.moved[*value as usize] = Some(step.out.value(ty, Origin::Persistent(index)));
            }
        }
        step.output(name, *value);
    }
    Ok(Split { prepare: simplify(prepare.out), step: simplify(step.out), persistent })
}

/// Whether the op only looks at its operand in another way.
fn is_view(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape | Op::Slice { .. } | Op::Index { .. } | Op::Broadcast | Op::Permute { .. }
    )
}

struct Side<'p> {
    program: &'p Program,
    out: Program,
    moved: Vec<Option<ValueIndex>>,
    /// Weights by name.
    weights: HashMap<&'p str, u32>,
}

impl<'p> Side<'p> {
    fn new(program: &'p Program) -> Self {
        let moved = vec![None; program.values.len()];
        Self { program, out: Program::default(), moved, weights: HashMap::new() }
    }

    fn input(&mut self, name: &str, value: ValueIndex) {
        let index = self.out.inputs.len() as u32;
        let ty = self.program.ty(value).clone();
        let moved = self.out.value(ty, Origin::Input(index));
        self.out.inputs.push((name.to_owned(), moved));
        self.moved[value as usize] = Some(moved);
    }

    fn weight(&mut self, value: ValueIndex) -> ValueIndex {
        if let Some(moved) = self.moved[value as usize] {
            return moved;
        }
        let Origin::Weight(index) = self.program.values[value as usize].origin else {
            unreachable!("only weights are copied on demand")
        };
        let weight = &self.program.weights[index as usize];
        let at = *self.weights.entry(&weight.name).or_insert_with(|| {
            self.out.weights.push(weight.clone());
            self.out.weights.len() as u32 - 1
        });
        let ty = self.program.ty(value).clone();
        let moved = self.out.value(ty, Origin::Weight(at));
        self.moved[value as usize] = Some(moved);
        moved
    }

    fn copy(&mut self, step: &crate::program::ProgramStep) {
        if self.moved[step.result as usize].is_some() {
            return;
        }
        let operands = step
            .operands
            .iter()
            .map(|v| match self.moved[*v as usize] {
                Some(moved) => moved,
                None => self.weight(*v),
            })
            .collect();
        let ty = self.program.ty(step.result).clone();
        let result = self.out.step(step.op.clone(), operands, ty, step.label.clone());
        self.moved[step.result as usize] = Some(result);
    }

    fn output(&mut self, name: &str, value: ValueIndex) {
        let moved = match self.moved[value as usize] {
            Some(moved) => moved,
            None => self.weight(value),
        };
        self.out.outputs.push((name.to_owned(), moved));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::text::parse_module;

    fn halves(body: &str) -> [Vec<String>; 2] {
        let text = format!(
            "module @m\nfunc @main(%x: f32[6,4], %c: f32[6,4]) -> f32[6,4] {{\n{body}\n}}\n"
        );
        let module = parse_module(&text, &[]).unwrap();
        let program = crate::flatten::flatten(&module, "main").unwrap();
        let split = split(&program, &["x"]).unwrap();
        let names = |program: &Program| {
            program.steps.iter().map(|step| step.op.name().to_owned()).collect::<Vec<_>>()
        };
        [names(&split.prepare), names(&split.step)]
    }

    #[test]
    fn tables_of_literals_are_made_once() {
        let body = "%at = iota {axis=0} : i32[1]\n\
            %t = rope_table %at {rows=2, cols=3, head_dim=6, theta=10000} : f32[6,3,2]\n\
            %s = reshape %t : f32[6,6]\n%k = slice %s {axis=1, start=0, len=4} : f32[6,4]\n\
            %y = add %x, %k : f32[6,4]\nreturn %y";
        let [prepare, step] = halves(body);
        assert!(prepare.contains(&"rope_table".to_owned()), "{prepare:?}");
        assert!(!step.contains(&"rope_table".to_owned()), "{step:?}");
    }

    #[test]
    fn literals_stay_and_both_halves_make_their_own() {
        let body = "%two = const {value=2} : f32[]\n%r = reshape %two : f32[1,1]\n\
            %w = broadcast %r : f32[6,4]\n%k = mul %c, %w : f32[6,4]\n\
            %y = mul %x, %w : f32[6,4]\n%z = add %y, %k : f32[6,4]\nreturn %z";
        let [prepare, step] = halves(body);
        for (half, own) in [(prepare, "mul"), (step, "add")] {
            let has = |name: &str| half.iter().any(|other| other == name);
            assert!(has("const") && has("broadcast") && has("mul") && has(own), "{half:?}");
        }
    }
}
