//! Small local rewrites with an obvious reason, until none applies.
//!
//! A rule looks at one step and the steps that make its operands. It either names an earlier value
//! the step's result is equal to, or another op on earlier values that gives it; no rule adds a
//! step. Every rule holds for every bit pattern of the operands, infinities, NaN and signed zeros
//! included (which NaN it is may change), and keeps element types, so nothing is rounded anew. The
//! rules are in `views` and `arithmetic`. Steps that lose their last reader are left to `dce`.

mod arithmetic;
mod views;

use crate::program::{Program, ProgramStep, ValueIndex};
use crate::rewrite::Rewrites;
use anyid_ir::{Op, TensorType};
use smallvec::SmallVec;

/// Most sweeps; rules only shorten chains, so that long before this nothing changes any more.
const MOST_SWEEPS: usize = 64;

/// What a step is equal to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Equal {
    /// An earlier value of the same type.
    Value(ValueIndex),
    /// Another op on earlier values, of the same result type.
    Step(Op, SmallVec<[ValueIndex; 4]>),
    /// A weight in another shape.
    View(ValueIndex),
}

/// What a rule may look at.
pub(crate) struct Look<'p> {
    program: &'p Program,
    /// How many steps and outputs read each value.
    users: &'p [u32],
}

impl<'p> Look<'p> {
    fn ty(&self, value: ValueIndex) -> &'p TensorType {
        self.program.ty(value)
    }

    /// The step that makes operand `at` of `step`.
    fn maker(&self, step: &ProgramStep, at: usize) -> Option<&'p ProgramStep> {
        self.program.maker(*step.operands.get(at)?)
    }

    fn read_once(&self, value: ValueIndex) -> bool {
        self.users[value as usize] == 1
    }
}

fn one(rule: &'static str, op: Op, operand: ValueIndex) -> Found {
    Some((rule, Equal::Step(op, smallvec::smallvec![operand])))
}

/// What a step is equal to, if a rule holds, and what the rule is called.
type Found = Option<(&'static str, Equal)>;

/// What a rule makes of a step.
type Rule = fn(&Look<'_>, &ProgramStep) -> Found;

/// The program with every rule applied until none applies.
pub fn canonicalize(mut program: Program, rewrites: &mut Rewrites) -> Program {
    let mut kept = vec![true; program.steps.len()];
    let mut replaced: Vec<ValueIndex> = (0..program.values.len() as u32).collect();
    let mut any = false;
    for _ in 0..MOST_SWEEPS {
        let mut users = vec![0u32; program.values.len()];
        for (step, _) in program.steps.iter().zip(&kept).filter(|(_, kept)| **kept) {
            step.operands.iter().for_each(|v| users[replaced[*v as usize] as usize] += 1);
        }
        for port in &program.outputs {
            users[replaced[port.value as usize] as usize] += 1;
        }
        let mut changed = false;
        for at in 0..program.steps.len() {
            if !kept[at] {
                continue;
            }
            for operand in &mut program.steps[at].operands {
                *operand = replaced[*operand as usize];
            }
            // A rule may open the way for another one on the same step.
            while let Some((rule, equal)) = apply(&program, &users, at) {
                if !rewrites.allow(rule, program.steps[at].label()) {
                    break;
                }
                (changed, any) = (true, true);
                let result = program.steps[at].result() as usize;
                match equal {
                    Equal::Value(value) => replaced[result] = value,
                    Equal::View(weight) => {
                        let ty = program.values[result].ty.clone();
                        let origin = program.values[weight as usize].origin;
                        replaced[result] = program.value(ty, origin);
                        replaced.push(replaced[result]);
                        users.push(0);
                    }
                    Equal::Step(op, operands) => {
                        (program.steps[at].op, program.steps[at].operands) = (op, operands);
                        continue;
                    }
                }
                kept[at] = false;
                break;
            }
        }
        if !changed {
            break;
        }
    }
    if any { program.rebuilt(&replaced, &kept) } else { program }
}

fn apply(program: &Program, users: &[u32], at: usize) -> Found {
    let look = Look { program, users };
    let mut rules = views::RULES.iter().chain(arithmetic::RULES);
    rules.find_map(|rule| rule(&look, &program.steps[at]))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use anyid_ir::{FuncBuilder, Module, ValueId};

    /// Runs the pass over the function `build` makes; the names of the ops left, dead ones dropped.
    pub(crate) fn after(build: impl Fn(&mut FuncBuilder<'_>) -> ValueId) -> Vec<&'static str> {
        let mut module = Module::default();
        let ty = TensorType::new(anyid_ir::DType::F32, [6, 4]);
        module.weights.add("w", ty).unwrap();
        let mut f = FuncBuilder::new(&module, "f");
        let y = build(&mut f);
        let func = f.finish(&[y]);
        let result = func.results[0].clone();
        module.add(func);
        let program = crate::flatten::flatten(&module, "f").unwrap();
        let mut rewrites = Rewrites::unlimited();
        let out = canonicalize(program.clone(), &mut rewrites);
        assert_eq!(out.verify(), Ok(()));
        assert_eq!(out.ty(out.outputs[0].value), &result);
        let before = rewrites.done();
        let again = canonicalize(out.clone(), &mut rewrites);
        assert_eq!((rewrites.done(), again == out), (before, true), "twice is once");
        let mut none = Rewrites::new(Some(0));
        assert_eq!(canonicalize(program.clone(), &mut none), program, "a limit stops it");
        let out = crate::simplify::drop_unused(out, &mut rewrites);
        out.steps.iter().map(|step| step.op.name()).collect()
    }
}
