//! Steps on known numbers become literals.
//!
//! The interpreter computes them, so a literal is what the decomposition says, rounded where level 1
//! says; nothing here knows any arithmetic. Only small values are folded: a literal is part of the
//! plan's text and is written anew in every run. Values that are the same number everywhere may be
//! of any size, as one element stands for all. What fails to evaluate (a row outside its table) is
//! left to fail when it runs.

use crate::fuse::view::is_movement;
use crate::program::{Program, ProgramStep, ValueIndex};
use crate::rewrite::Rewrites;
use anyid_ir::{Evaluator, FuncBuilder, Mode, Module, Op, Tensor, TensorType};
use smallvec::SmallVec;

/// Most elements of a literal that is not one number everywhere; the text form allows no more.
const MOST_ELEMENTS: usize = 1024;

/// The program with everything known computed. Steps keep their order and labels; literals that
/// nothing reads any more are left to `dce`.
pub fn fold(mut program: Program, rewrites: &mut Rewrites) -> Program {
    for at in 0..program.steps.len() {
        let step = &program.steps[at];
        let Some(values) = folded(&program, step) else { continue };
        if !rewrites.allow("constant", step.label()) {
            break;
        }
        let step = &mut program.steps[at];
        (step.op, step.operands) = (Op::Const { values }, SmallVec::new());
    }
    program
}

/// A literal operand.
struct Known<'p> {
    values: &'p [f64],
    ty: &'p TensorType,
}

fn known(program: &Program, value: ValueIndex) -> Option<Known<'_>> {
    match &program.maker(value)?.op {
        Op::Const { values } => Some(Known { values, ty: program.ty(value) }),
        _ => None,
    }
}

/// The op that gives one element of the result, wherever it stands, from one of each operand; `None`
/// where the operands are not the same number everywhere or elements differ.
fn uniform(op: &Op, operands: &[Known<'_>]) -> Option<Op> {
    if operands.iter().any(|operand| operand.values.len() != 1) {
        return None;
    }
    let first = operands[0].values[0];
    let equal = || operands.iter().all(|operand| operand.values[0].to_bits() == first.to_bits());
    let moved = match op {
        Op::Cast | Op::Gelu | Op::Silu | Op::Unary(_) | Op::Binary(_) => return Some(op.clone()),
        Op::Compare(_) | Op::Select => return Some(op.clone()),
        Op::Concat { .. } => equal(),
        Op::Upsample { .. } => true,
        _ => is_movement(op),
    };
    // Any movement of one number is that number.
    moved.then_some(Op::Cast)
}

/// The elements of a step's result, or one for all of them; `None` where they are not known or too
/// many.
fn folded(program: &Program, step: &ProgramStep) -> Option<Vec<f64>> {
    let [result] = step.results[..] else { return None };
    if step.operands.is_empty() || step.op.is_structure() {
        return None;
    }
    let operands: SmallVec<[Known<'_>; 4]> =
        step.operands.iter().map(|value| known(program, *value)).collect::<Option<_>>()?;
    let result = program.ty(result);
    let values = if let Some(op) = uniform(&step.op, &operands) {
        let one = |ty: &TensorType| TensorType::new(ty.dtype, [1]);
        let count = if op == Op::Cast { 1 } else { operands.len() };
        let given: Vec<(TensorType, Vec<f64>)> =
            operands[..count].iter().map(|known| (one(known.ty), known.values.to_vec())).collect();
        evaluated(&op, &given, &one(result))?
    } else {
        let small = |ty: &TensorType| ty.elements() <= MOST_ELEMENTS;
        if !small(result) || !operands.iter().all(|known| small(known.ty)) {
            return None;
        }
        let all = |known: &Known<'_>| match known.values {
            [one] => vec![*one; known.ty.elements()],
            values => values.to_vec(),
        };
        let given: Vec<(TensorType, Vec<f64>)> =
            operands.iter().map(|known| (known.ty.clone(), all(known))).collect();
        evaluated(&step.op, &given, result)?
    };
    let first = *values.first()?;
    let same = values.iter().all(|v| v.to_bits() == first.to_bits());
    Some(if same { vec![first] } else { values })
}

fn evaluated(op: &Op, given: &[(TensorType, Vec<f64>)], result: &TensorType) -> Option<Vec<f64>> {
    let mut module = Module::default();
    let mut f = FuncBuilder::new(&module, "f");
    let mut params = Vec::new();
    let mut inputs = Vec::new();
    for (at, (ty, values)) in given.iter().enumerate() {
        params.push(f.param(&format!("x{at}"), ty.clone()));
        inputs.push(Tensor::from_f64s(ty.clone(), values).ok()?);
    }
    let y = f.op("y", op.clone(), &params, Some(result.clone()));
    let func = f.finish(&[y]);
    module.add(func);
    let out = Evaluator::new(&module, Mode::F32).run("f", &inputs, &(), None).ok()?;
    let plain = |value: f64| if value.is_nan() { f64::NAN } else { value };
    Some(out[0].to_f64_vec().into_iter().map(plain).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::{BinaryFn, DType, UnaryFn, ValueId};

    /// The op and literal that the last step becomes.
    fn after(build: impl Fn(&mut FuncBuilder<'_>) -> ValueId) -> (&'static str, Vec<f64>) {
        let mut module = Module::default();
        let mut f = FuncBuilder::new(&module, "f");
        let y = build(&mut f);
        let func = f.finish(&[y]);
        module.add(func);
        let program = crate::flatten::flatten(&module, "f").unwrap();
        let mut rewrites = Rewrites::unlimited();
        let out = fold(program.clone(), &mut rewrites);
        assert_eq!(out.verify(), Ok(()));
        let before = rewrites.done();
        // As text, in which NaN is NaN.
        let text = |program: &Program| format!("{program:?}");
        assert_eq!(text(&fold(out.clone(), &mut rewrites)), text(&out));
        assert_eq!(rewrites.done(), before, "twice is once");
        assert_eq!(text(&fold(program.clone(), &mut Rewrites::new(Some(0)))), text(&program));
        let last = out.steps.last().unwrap();
        match &last.op {
            Op::Const { values } => ("const", values.clone()),
            op => (op.name(), Vec::new()),
        }
    }

    fn literal(f: &mut FuncBuilder<'_>, dtype: DType, values: &[f64]) -> ValueId {
        f.literal("c", values, TensorType::new(dtype, [values.len()]))
    }

    #[test]
    fn small_values_are_computed_as_the_interpreter_does() {
        let sum = after(|f| {
            let a = literal(f, DType::F32, &[1.0, 2.0, 3.0]);
            let b = literal(f, DType::F32, &[10.0, 20.0, 30.0]);
            let c = f.mul("c", a, b);
            f.reduce("y", anyid_ir::ReduceFn::Sum, c, &[0], true)
        });
        assert_eq!(sum, ("const", vec![140.0]));
        let rounded = after(|f| {
            let a = literal(f, DType::F32, &[1.001, 256.5]);
            f.cast("y", a, DType::Bf16)
        });
        assert_eq!(rounded, ("const", vec![1.0, 256.0]));
        let composite = after(|f| {
            let a = literal(f, DType::F32, &[0.0, 1.0]);
            f.op("y", Op::Silu, &[a], None)
        });
        assert_eq!(composite.1[0], 0.0);
        assert!((composite.1[1] - 0.731_058_6).abs() < 1e-6);
        let integer = after(|f| {
            let a = literal(f, DType::I32, &[7.0, -7.0]);
            let b = literal(f, DType::I32, &[2.0, 0.0]);
            f.binary("y", BinaryFn::Div, a, b)
        });
        assert_eq!(integer, ("const", vec![3.0, 0.0]));
    }

    #[test]
    fn special_numbers_stay_what_they_are() {
        let special = after(|f| {
            let a = literal(f, DType::F32, &[f64::INFINITY, -0.0, -1.0, f64::NAN]);
            let zero = f.constant("zero", 0.0, TensorType::new(DType::F32, [1]));
            f.mul("y", a, zero)
        });
        assert!(special.1[0].is_nan() && special.1[3].is_nan());
        assert_eq!(special.1[1].to_bits(), (-0.0f64).to_bits());
        let log = after(|f| {
            let a = literal(f, DType::F32, &[0.0]);
            f.unary("y", UnaryFn::Log, a)
        });
        assert_eq!(log, ("const", vec![f64::NEG_INFINITY]));
        let large = after(|f| {
            let a = literal(f, DType::F32, &[3e38]);
            f.add("y", a, a)
        });
        assert_eq!(large, ("const", vec![f64::INFINITY]), "rounded to singles");
    }

    #[test]
    fn one_number_everywhere_may_be_large() {
        let built = after(|f| {
            let a = f.constant("a", 2.0, TensorType::new(DType::F32, [1, 1000]));
            let a = f.broadcast("b", a, [1000, 1000]);
            let a = f.slice("c", a, 0, 1, 500);
            f.unary("y", UnaryFn::Sqrt, a)
        });
        assert_eq!(built.0, "const");
        assert_eq!(built.1, [f64::from(2f32.sqrt())]);
        let padded = after(|f| {
            let a = f.constant("a", 2.0, TensorType::new(DType::F32, [1, 2000]));
            f.pad("y", a, 0, 1, 0)
        });
        assert_eq!(padded.0, "pad", "two numbers, too many of them");
    }

    #[test]
    fn what_is_unknown_large_or_wrong_stays() {
        let unknown = after(|f| {
            let a = literal(f, DType::F32, &[1.0]);
            let x = f.param("x", TensorType::new(DType::F32, [1]));
            f.add("y", a, x)
        });
        assert_eq!(unknown.0, "add");
        let outside = after(|f| {
            let table = literal(f, DType::F32, &[1.0, 2.0]);
            let rows = literal(f, DType::I32, &[5.0]);
            f.op("y", Op::Gather, &[table, rows], None)
        });
        assert_eq!(outside.0, "gather", "it fails when it runs, as it should");
        let counted = after(|f| f.iota("y", 0, TensorType::new(DType::I32, [8])));
        assert_eq!(counted.0, "iota");
    }
}
