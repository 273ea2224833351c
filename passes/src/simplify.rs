//! Equal steps are computed once and unused ones dropped.
//!
//! Ops are pure, so two steps with the same op, operands and result type are the same value. One
//! forward sweep finds them; one backward sweep drops what no output needs.

use crate::program::{Origin, Program, ValueIndex};
use smallvec::SmallVec;
use std::collections::HashMap;

/// The program with common subexpressions shared and dead steps removed. Values keep their
/// relative order; labels are those of the first occurrence.
pub fn simplify(program: Program) -> Program {
    let mut replaced: Vec<ValueIndex> = (0..program.values.len() as u32).collect();
    let mut seen: HashMap<(String, SmallVec<[ValueIndex; 4]>), ValueIndex> = HashMap::new();
    let mut kept = Vec::new();
    for (index, step) in program.steps.iter().enumerate() {
        let operands: SmallVec<[ValueIndex; 4]> =
            step.operands.iter().map(|v| replaced[*v as usize]).collect();
        let key = (format!("{:?} {}", step.op, program.ty(step.result)), operands.clone());
        match seen.get(&key) {
            Some(first) => replaced[step.result as usize] = *first,
            None => {
                seen.insert(key, step.result);
                kept.push((index, operands));
            }
        }
    }
    let outputs: Vec<(String, ValueIndex)> =
        program.outputs.iter().map(|(n, v)| (n.clone(), replaced[*v as usize])).collect();

    let mut live = vec![false; program.values.len()];
    for (_, value) in &outputs {
        live[*value as usize] = true;
    }
    let mut needed = vec![false; kept.len()];
    for (at, (index, operands)) in kept.iter().enumerate().rev() {
        if live[program.steps[*index].result as usize] {
            needed[at] = true;
            for value in operands {
                live[*value as usize] = true;
            }
        }
    }

    let mut out = Program::default();
    let mut moved: Vec<Option<ValueIndex>> = vec![None; program.values.len()];
    for (name, value) in &program.inputs {
        let input = &program.values[*value as usize];
        let index = out.value(input.ty.clone(), input.origin);
        moved[*value as usize] = Some(index);
        out.inputs.push((name.clone(), index));
    }
    let mut weights: HashMap<u32, u32> = HashMap::new();
    for (value, is_live) in live.iter().enumerate() {
        if matches!(program.values[value].origin, Origin::Persistent(_)) {
            let kept = &program.values[value];
            moved[value] = Some(out.value(kept.ty.clone(), kept.origin));
        }
        if let (Origin::Weight(index), true) = (program.values[value].origin, *is_live) {
            let index = *weights.entry(index).or_insert_with(|| {
                out.weights.push(program.weights[index as usize].clone());
                (out.weights.len() - 1) as u32
            });
            let ty = program.values[value].ty.clone();
            moved[value] = Some(out.value(ty, Origin::Weight(index)));
        }
    }
    for ((index, operands), _) in kept.iter().zip(&needed).filter(|(_, needed)| **needed) {
        let step = &program.steps[*index];
        let operands =
            operands.iter().map(|v| moved[*v as usize].expect("operands come first")).collect();
        let ty = program.ty(step.result).clone();
        let result = out.step(step.op.clone(), operands, ty, step.label.clone());
        moved[step.result as usize] = Some(result);
    }
    out.outputs = outputs
        .into_iter()
        .map(|(name, value)| (name, moved[value as usize].expect("outputs are live")))
        .collect();
    out
}
