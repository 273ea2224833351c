//! Results that take over the memory of an operand that dies under them.
//!
//! A result and an operand may be one buffer where the kernel
//! [writes in place](anyid_ir::Kernel::writes_in_place), nothing later reads the operand, the
//! operand is the whole of its memory and of equal size, and no other operand of the step looks
//! into that memory.

use super::Home;
use crate::lower::Lowered;
use crate::program::{Origin, ValueIndex};
use crate::rewrite::Rewrites;

/// Moves the homes of results into operands where that is safe, each a rewrite. Values in `kept`
/// outlive the program and are left alone.
pub(crate) fn in_place(
    lowered: &Lowered<'_>,
    homes: &mut [Home],
    kept: &[ValueIndex],
    rewrites: &mut Rewrites,
) {
    let program = lowered.program;
    let count = program.values.len();
    let mut fixed = vec![false; count];
    for value in 0..count {
        fixed[value] = !matches!(program.values[value].origin, Origin::Step(_));
    }
    for value in kept {
        fixed[*value as usize] = true;
    }
    // Last step that touches each value's memory, views included.
    let mut last = vec![0; count];
    for (at, step) in lowered.steps.iter().enumerate() {
        for value in step.operands.iter().chain(&step.results) {
            last[homes[*value as usize].owner as usize] = at;
        }
    }
    for (_, value) in &program.outputs {
        last[homes[*value as usize].owner as usize] = lowered.steps.len();
    }
    // Where the memory of an owner was moved to.
    let mut moved: Vec<ValueIndex> = (0..count as u32).collect();
    for (at, step) in lowered.steps.iter().enumerate() {
        for (result, value) in step.results.iter().enumerate() {
            if fixed[*value as usize] || homes[*value as usize].owner != *value {
                continue;
            }
            let bytes = program.ty(*value).bytes();
            let fits = |operand: usize| {
                let home = homes[step.operands[operand] as usize];
                let owner = home.owner;
                let shared = step.operands.iter().enumerate().any(|(other, v)| {
                    other != operand
                        && moved[homes[*v as usize].owner as usize] == moved[owner as usize]
                });
                let taken = step.results[..result]
                    .iter()
                    .any(|r| moved[*r as usize] == moved[owner as usize]);
                step.kernel.writes_in_place(operand, result)
                    && !fixed[moved[owner as usize] as usize]
                    && !fixed[owner as usize]
                    && last[owner as usize] == at
                    && home.offset == 0
                    && program.ty(owner).bytes() == bytes
                    && !shared
                    && !taken
            };
            if let Some(operand) = (0..step.operands.len()).find(|operand| fits(*operand))
                && rewrites.allow("result over an operand", &step.labels[result])
            {
                let owner = homes[step.operands[operand] as usize].owner;
                moved[*value as usize] = moved[owner as usize];
            }
        }
    }
    for home in homes {
        home.owner = moved[home.owner as usize];
    }
}
