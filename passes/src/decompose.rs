//! What no kernel computes as it stands becomes what kernels compute, so that every verified module
//! runs.
//!
//! Each step is shown to the [`Target`]; a composite it refuses is replaced by its decomposition,
//! which is its definition. A primitive it refuses cannot be replaced: the module is refused with
//! the node and the reason. Row kernels read rows that lie evenly in memory: operands that repeat in
//! another way are spread out by a copy, and reductions over axes in the middle begin with a
//! permutation. This pass also gives every value that `prepare` keeps a step of its own to write it,
//! as only steps write. It is required by what follows and so no rewrite is counted.

use crate::CompileError;
use crate::fuse::view::{own, row_view};
use crate::program::{Origin, Port, Program, ProgramStep, Translation, ValueIndex};
use crate::storage::storages;
use anyid_ir::decompose::decomposed;
use anyid_ir::{Axes, Entity, Op, ReduceFn, Shape, Target, TensorType};
use smallvec::{SmallVec, smallvec};
use std::collections::HashMap;

/// Most steps a program may have after decomposition.
const MOST_STEPS: usize = 1 << 20;

/// `program` in ops that `target` has kernels for.
///
/// # Errors
/// E0502 where it gets too long, E0505 for a primitive that the target does not have.
pub fn decompose(program: &Program, target: &Target) -> Result<Program, CompileError> {
    let refused: Vec<Option<&'static str>> =
        program.steps.iter().map(|step| native(program, step, target).err()).collect();
    let uneven = |step: &ProgramStep| {
        uneven(program, &step.op, &step.operands, &program.ty(step.result()).shape)
    };
    if refused.iter().all(Option::is_none) && !program.steps.iter().any(uneven) {
        return Ok(program.clone());
    }
    let mut copy = Translation::new(program);
    copy.given();
    for (step, why) in program.steps.iter().zip(refused) {
        let operands = copy.operands(step);
        let made = match why {
            Some(why) if !step.op.is_composite() => {
                let types = TensorType::list(program.types(&step.operands));
                let (op, name) = (step.op.name(), target.name);
                let message = format!("target {name} has no kernel for {op} of {types}: {why}");
                return Err(CompileError::new("E0505", message).at(step.label()));
            }
            Some(_) => {
                let types: Vec<TensorType> =
                    program.types(&step.results).into_iter().cloned().collect();
                inline(&mut copy.out, step, &operands, &types, evenly)
            }
            None if step.results.len() > 1 => copy.out.step_like(program, step, operands),
            None => {
                let (ty, label) = (program.ty(step.result()).clone(), step.label().to_owned());
                smallvec![evenly(&mut copy.out, &step.op, operands, ty, label)]
            }
        };
        copy.made(step, &made);
        if copy.out.steps.len() > MOST_STEPS {
            let message = format!("{} decomposes into too many steps", step.op.name());
            return Err(CompileError::new("E0502", message).at(step.label()));
        }
    }
    let out = copy.done();
    for step in &out.steps {
        if let Err(why) = native(&out, step, target) {
            let (op, name) = (step.op.name(), target.name);
            let message = format!("target {name} has no kernel for {op}: {why}");
            return Err(CompileError::new("E0505", message).at(step.label()));
        }
    }
    Ok(out)
}

fn native(program: &Program, step: &ProgramStep, target: &Target) -> Result<(), &'static str> {
    let weights: SmallVec<[bool; 4]> =
        step.operands.iter().map(|value| program.is_weight(*value)).collect();
    let [operands, results] = [&step.operands[..], &step.results].map(|v| program.types(v));
    target.native(&step.op, &operands, &weights, &results)
}

/// Adds the primitives of a composite with `add`; those that give its results have its labels, those
/// inside `label.part`.
pub(crate) fn inline(
    out: &mut Program,
    step: &ProgramStep,
    operands: &[ValueIndex],
    results: &[TensorType],
    add: Add,
) -> SmallVec<[ValueIndex; 1]> {
    let types: Vec<TensorType> = operands.iter().map(|v| out.ty(*v).clone()).collect();
    let parts = decomposed(&step.op, &types, results);
    let mut values: HashMap<usize, ValueIndex> =
        parts.params().iter().map(|v| v.index()).zip(operands.iter().copied()).collect();
    let returned = parts.returned();
    for id in &parts.blocks[parts.entry].nodes {
        let part = &parts.nodes[*id];
        if part.op == Op::Return {
            break;
        }
        let result = part.results[0];
        let label = match returned.iter().position(|value| *value == result) {
            Some(at) => step.labels[at].clone(),
            None => format!("{}.{}", step.label(), parts.values[result].name),
        };
        let operands = part.operands.iter().map(|v| values[&v.index()]).collect();
        let made = add(out, &part.op, operands, parts.ty(result).clone(), label);
        values.insert(result.index(), made);
    }
    returned.iter().map(|value| values[&value.index()]).collect()
}

/// Adds a step of one result.
pub(crate) type Add =
    fn(&mut Program, &Op, SmallVec<[ValueIndex; 4]>, TensorType, String) -> ValueIndex;

/// Whether a primitive reads an operand in a way that no row kernel does.
fn uneven(program: &Program, op: &Op, operands: &[ValueIndex], shape: &[usize]) -> bool {
    match op {
        Op::Binary(_) | Op::Compare(_) | Op::Select => {
            operands.iter().any(|value| repeats(program, *value, shape))
        }
        Op::Reduce { axes, .. } => {
            let rank = program.ty(operands[0]).rank();
            let last = axes.iter().copied().eq(rank - axes.len()..rank);
            !last && !axes.iter().copied().eq(0..axes.len())
        }
        _ => false,
    }
}

/// Whether `value` repeats over `shape` in a way that no row kernel reads.
fn repeats(program: &Program, value: ValueIndex, shape: &[usize]) -> bool {
    let ty = program.ty(value);
    !shape.is_empty() && row_view(&own(program, value), &ty.shape, shape, 1).is_none()
}

/// Adds a step of one result as row kernels can read it.
fn evenly(
    out: &mut Program,
    op: &Op,
    mut operands: SmallVec<[ValueIndex; 4]>,
    ty: TensorType,
    label: String,
) -> ValueIndex {
    if !uneven(out, op, &operands, &ty.shape) {
        return out.step(op.clone(), operands, ty, label);
    }
    if let Op::Reduce { f, axes, .. } = op {
        return reduced(out, *f, axes, operands[0], ty, &label);
    }
    for value in &mut operands {
        if repeats(out, *value, &ty.shape) {
            let from = out.ty(*value).clone();
            let mut shape = Shape::from_elem(1, ty.rank() - from.rank());
            shape.extend_from_slice(&from.shape);
            let mut own = |op, value, shape: &[usize]| {
                let ty = TensorType::new(from.dtype, shape.iter().copied());
                out.step(op, smallvec![value], ty, format!("{label}.wide"))
            };
            if from.rank() < ty.rank() {
                *value = own(Op::Reshape, *value, &shape);
            }
            *value = own(Op::Broadcast, *value, &ty.shape);
        }
    }
    out.step(op.clone(), operands, ty, label)
}

/// Adds a reduction over axes in the middle, which a permutation brings to the front.
fn reduced(
    out: &mut Program,
    f: ReduceFn,
    axes: &[usize],
    x: ValueIndex,
    ty: TensorType,
    label: &str,
) -> ValueIndex {
    let kept = (0..out.ty(x).rank()).filter(|axis| !axes.contains(axis));
    let perm: Axes = axes.iter().copied().chain(kept).collect();
    let front = out.emit(Op::Permute { perm }, &[x], &[], &format!("{label}.front"));
    let reduce = Op::Reduce { f, axes: (0..axes.len()).collect(), keep: false };
    let keeps = out.ty(x).rank() == ty.rank();
    let name = if keeps { &format!("{label}.reduced") } else { label };
    let short = out.emit(reduce, &front, &[], name)[0];
    if keeps { out.emit(Op::Reshape, &[short], &[ty], label)[0] } else { short }
}

/// `program` with a copy in front of every output that is an input, a weight or a view of one:
/// kept values must be written by `prepare` itself.
pub fn with_copied_outputs(program: &Program) -> Program {
    let mut program = program.clone();
    let storages = storages(&program);
    for at in 0..program.outputs.len() {
        let Port { name, value, .. } = program.outputs[at].clone();
        let owner = storages[value as usize].owner as usize;
        if !matches!(program.values[owner].origin, Origin::Step(..)) {
            let ty = program.ty(value).clone();
            program.outputs[at].value = program.step(Op::Cast, smallvec![value], ty, name);
        }
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::{DType, FuncBuilder, Module};

    fn program(op: Op, types: &[TensorType], weight: Option<TensorType>) -> Program {
        let mut module = Module::default();
        if let Some(ty) = &weight {
            module.weights.add("w", ty.clone()).unwrap();
        }
        let mut f = FuncBuilder::new(&module, "f");
        let mut values: Vec<_> =
            types.iter().enumerate().map(|(i, ty)| f.param(&format!("x{i}"), ty.clone())).collect();
        if weight.is_some() {
            values.push(f.weight("w"));
        }
        let y = f.op("y", op, &values, None);
        let func = f.finish(&[y]);
        module.add(func);
        crate::flatten::flatten(&module, "f").unwrap()
    }

    #[test]
    fn only_what_the_target_lacks_is_taken_apart() {
        let target = Target::default();
        let ty = |dtype, shape: &[usize]| TensorType::new(dtype, shape.iter().copied());
        let rows = |dtype| vec![ty(dtype, &[3, 8]), ty(dtype, &[5, 8])];
        for (dtype, whole) in
            [(DType::F32, true), (DType::Bf16, true), (DType::F16, false), (DType::F64, false)]
        {
            let before = program(Op::Linear, &rows(dtype), None);
            let after = decompose(&before, &target).unwrap();
            assert_eq!(after == before, whole, "{dtype}");
            assert_eq!(after.verify(), Ok(()));
            assert!(whole || after.steps.iter().all(|step| !step.op.is_composite()));
            assert_eq!(after.steps.last().unwrap().label(), "f/y");
        }
        let conv = Op::Conv { stride: [1; 3], pad: [[0, 0]; 3] };
        let x = ty(DType::F32, &[1, 4, 4, 3]);
        let kernel = ty(DType::F32, &[2, 3, 3, 3]);
        let weight = program(conv.clone(), std::slice::from_ref(&x), Some(kernel.clone()));
        assert_eq!(decompose(&weight, &target).unwrap(), weight);
        let given = decompose(&program(conv, &[x, kernel], None), &target).unwrap();
        assert!(given.steps.len() > 9, "one product a kernel position");
        assert_eq!(given.verify(), Ok(()));
    }

    #[test]
    fn a_primitive_without_a_kernel_is_refused_with_its_place() {
        let mut target = Target { products: &[], ..Target::default() };
        let rows = vec![TensorType::new(DType::F32, [3, 8]); 2];
        let error = decompose(&program(Op::Linear, &rows, None), &target);
        assert!(error.is_ok(), "{error:?}");
        target.axes = 1;
        let sum = Op::Concat { axis: 0 };
        let error = decompose(&program(sum, &rows, None), &target).unwrap_err();
        assert_eq!((error.code, error.place.as_deref()), ("E0505", Some("f/y")));
        assert!(error.message.contains("concat of f32[3,8], f32[3,8]"), "{error}");
    }
}
