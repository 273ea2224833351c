//! Partial evaluation by dependence: what does not depend on the inputs that change per step is
//! computed once, by `prepare`; `step` reads it from the persistent arena.
//!
//! On the transformer this finds the text context with every block's text keys and values, the
//! rotary table and the references' patch embedding, without being told about any of them.

use crate::fuse::view::is_movement;
use crate::program::{Origin, Port, Program, Role, ValueIndex};
use crate::rewrite::Rewrites;
use crate::simplify::simplify;
use anyid_ir::Op;
use std::collections::HashMap;

/// A program split in two. `prepare` has as outputs the values it keeps, in order; `step` reads
/// them as [`Origin::Persistent`].
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Runs once a request.
    pub prepare: Program,
    /// Runs every step.
    pub step: Program,
}

/// Splits `program` by the inputs named in `varying`, in every branch, and by its states, which no
/// two steps find the same; all other inputs belong to `prepare`. Every step that moves there is a
/// rewrite.
pub fn split(program: &Program, varying: &[String], rewrites: &mut Rewrites) -> Split {
    let mut varies = vec![false; program.values.len()];
    for port in &program.inputs {
        varies[port.value as usize] = port.role != Role::Caller || varying.contains(&port.name);
    }
    let mut is_output = vec![false; program.values.len()];
    program.outputs.iter().for_each(|port| is_output[port.value as usize] = true);
    // Literals and views of them cost nothing to make again and would only occupy persistent
    // memory: they stay in `step`, and what is made of them may still go.
    let mut cheap = vec![false; program.values.len()];
    for step in &program.steps {
        let literal = match &step.op {
            Op::Const { .. } | Op::Iota { .. } => step.operands.is_empty(),
            op => is_movement(op) && step.operands.iter().all(|v| cheap[*v as usize]),
        };
        let depends = step.operands.iter().any(|v| varies[*v as usize] && !cheap[*v as usize]);
        let returned = step.results.iter().any(|value| is_output[*value as usize]);
        let stays =
            literal || depends || returned || !rewrites.allow("moved to prepare", step.label());
        for value in &step.results {
            (cheap[*value as usize], varies[*value as usize]) = (literal, stays);
        }
    }
    // `prepare` makes the literals it needs for itself.
    let mut used_by_prepare = vec![false; program.values.len()];
    for step in program.steps.iter().rev() {
        // The results of a step are alike, and those of cheap ones are one.
        let result = step.result() as usize;
        if !varies[result] || (cheap[result] && used_by_prepare[result]) {
            for operand in &step.operands {
                used_by_prepare[*operand as usize] = true;
            }
        }
    }

    let mut prepare = Side::new(program);
    let mut step = Side::new(program);
    for port in &program.inputs {
        let side = if varies[port.value as usize] { &mut step } else { &mut prepare };
        let moved = side.out.input(port, program.ty(port.value).clone());
        side.moved[port.value as usize] = Some(moved);
    }
    for each in &program.steps {
        let result = each.result() as usize;
        if varies[result] {
            if used_by_prepare[result] && cheap[result] {
                prepare.copy(each);
            }
            for operand in &each.operands {
                let from_prepare = !varies[*operand as usize] && !program.is_weight(*operand);
                if from_prepare && step.moved[*operand as usize].is_none() {
                    step.moved[*operand as usize] = Some(prepare.keep(*operand, &mut step.out));
                }
            }
            step.copy(each);
        } else {
            prepare.copy(each);
        }
    }
    for port in &program.outputs {
        let value = port.value;
        // An output that is an unvarying input is handed through; a weight is there anyway.
        if !program.is_weight(value) && step.moved[value as usize].is_none() {
            step.moved[value as usize] = Some(prepare.keep(value, &mut step.out));
        }
        let moved = step.find(value);
        step.out.outputs.push(port.with(moved));
    }
    Split { prepare: simplify(prepare.out), step: simplify(step.out) }
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

    /// Keeps a value of this side for `later`, and the value there.
    fn keep(&mut self, value: ValueIndex, later: &mut Program) -> ValueIndex {
        let (name, index) = (self.program.name(value), self.out.outputs.len() as u32);
        let kept = self.find(value);
        self.out.outputs.push(Port { role: Role::Kept, ..Port::new(name, kept) });
        later.value(self.program.ty(value).clone(), Origin::Persistent(index))
    }

    /// The value on this side; a weight is added where it is asked for.
    fn find(&mut self, value: ValueIndex) -> ValueIndex {
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
        if self.moved[step.result() as usize].is_some() {
            return;
        }
        let operands = step.operands.iter().map(|v| self.find(*v)).collect();
        for (value, made) in
            step.results.iter().zip(self.out.step_like(self.program, step, operands))
        {
            self.moved[*value as usize] = Some(made);
        }
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
        let split = split(&program, &["x".to_owned()], &mut Rewrites::unlimited());
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
