//! Equal steps are computed once (`cse`) and unused ones dropped (`dce`).
//!
//! Ops are pure, so two steps with the same op, operands and result types make the same values. One
//! forward sweep finds them; one backward sweep drops steps of which no output needs any result.

use crate::program::{Origin, Program, Stage, ValueIndex};
use crate::rewrite::Rewrites;
use anyid_ir::TensorType;
use smallvec::SmallVec;
use std::collections::HashMap;

/// The program with common subexpressions shared and dead steps removed. Values keep their
/// relative order; labels are those of the first occurrence.
pub fn simplify(program: Program) -> Program {
    let mut rewrites = Rewrites::unlimited();
    let shared = share(program, &mut rewrites);
    drop_unused(shared, &mut rewrites)
}

/// The program with equal steps, and equal views of weights, computed once.
pub fn share(program: Program, rewrites: &mut Rewrites) -> Program {
    let mut replaced: Vec<ValueIndex> = (0..program.values.len() as u32).collect();
    let mut kept = vec![true; program.steps.len()];
    let mut views: HashMap<(u32, String), ValueIndex> = HashMap::new();
    for (at, value) in program.values.iter().enumerate() {
        if let Origin::Weight(index) = value.origin {
            let first = *views.entry((index, value.ty.to_string())).or_insert(at as ValueIndex);
            if first != at as ValueIndex
                && rewrites.allow("equal views of a weight", &program.weights[index as usize].name)
            {
                replaced[at] = first;
            }
        }
    }
    // A step that is computed again is no other's equal; see `Stage::Again`.
    let mut seen: HashMap<(bool, String, SmallVec<[ValueIndex; 4]>), usize> = HashMap::new();
    for (at, step) in program.steps.iter().enumerate() {
        let operands: SmallVec<[ValueIndex; 4]> =
            step.operands.iter().map(|v| replaced[*v as usize]).collect();
        let what = format!("{:?} {}", step.op, TensorType::list(program.types(&step.results)));
        let key = (step.stage == Stage::Again, what, operands);
        match seen.get(&key) {
            Some(first) if rewrites.allow("equal steps", step.label()) => {
                for (value, first) in step.results.iter().zip(&program.steps[*first].results) {
                    replaced[*value as usize] = *first;
                }
                kept[at] = false;
            }
            Some(_) => {}
            None => {
                seen.insert(key, at);
            }
        }
    }
    program.rebuilt(&replaced, &kept)
}

/// The program without steps, and results of steps, that no output needs.
pub fn drop_unused(mut program: Program, rewrites: &mut Rewrites) -> Program {
    let mut live = vec![false; program.values.len()];
    for port in &program.outputs {
        live[port.value as usize] = true;
    }
    let mut kept = vec![true; program.steps.len()];
    for (at, step) in program.steps.iter_mut().enumerate().rev() {
        let needed = |value: &ValueIndex| live[*value as usize];
        kept[at] = step.results.iter().any(needed) || !rewrites.allow("unused step", step.label());
        if !kept[at] {
            continue;
        }
        let alone = step.op.first_alone();
        let left = alone.results();
        if step.results.len() > left
            && !step.results[left..].iter().any(needed)
            && rewrites.allow("unused results", step.label())
        {
            step.op = alone;
            step.results.truncate(left);
            step.labels.truncate(left);
        }
        step.operands.iter().for_each(|value| live[*value as usize] = true);
    }
    let same: Vec<ValueIndex> = (0..program.values.len() as u32).collect();
    program.rebuilt(&same, &kept)
}
