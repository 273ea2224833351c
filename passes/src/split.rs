//! Partial evaluation by dependence: what does not depend on the inputs that change per step is
//! computed once, by `prepare`; `step` reads it from the persistent arena.
//!
//! On the transformer this finds the text context with every block's text keys and values, the
//! rotary table and the references' patch embedding, without being told about any of them.

use crate::fuse::view::is_movement;
use crate::program::{Origin, Port, Program, Role, Translation, ValueIndex};
use crate::rewrite::Rewrites;
use crate::simplify::simplify;
use anyid_ir::Op;

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

    let mut prepare = Translation::empty(program);
    let mut step = Translation::empty(program);
    for port in &program.inputs {
        let side = if varies[port.value as usize] { &mut step } else { &mut prepare };
        side.input(port);
    }
    // `prepare` keeps what `step` reads of it. An output that is an unvarying input is handed through.
    let hand_over =
        |value: ValueIndex, prepare: &mut Translation<'_>, step: &mut Translation<'_>| {
            let moved = &mut step.moved[value as usize];
            if !varies[value as usize] && !program.is_weight(value) && moved.is_none() {
                let (name, index) = (program.name(value), prepare.out.outputs.len() as u32);
                let kept = Port::new(name, prepare.find(value));
                prepare.out.outputs.push(Port { role: Role::Kept, ..kept });
                let ty = program.ty(value).clone();
                *moved = Some(step.out.value(ty, Origin::Persistent(index)));
            }
        };
    for each in &program.steps {
        let result = each.result() as usize;
        if !varies[result] || (used_by_prepare[result] && cheap[result]) {
            prepare.step(each);
        }
        if varies[result] {
            each.operands.iter().for_each(|value| hand_over(*value, &mut prepare, &mut step));
            step.step(each);
        }
    }
    program.outputs.iter().for_each(|port| hand_over(port.value, &mut prepare, &mut step));
    Split { prepare: simplify(prepare.out), step: simplify(step.done()) }
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
