//! Rules of arithmetic. Only identities that hold for every number: `x · 1`, `x / 1`, `x − 0` and
//! `x + (−0)`, but neither `x + 0` (which makes −0 positive) nor `x · 0` (which is NaN for
//! infinities).

use super::{Equal, Found, Look, Rule, one};
use crate::program::{ProgramStep, ValueIndex};
use anyid_ir::{BinaryFn, Op, ReduceFn, TensorType, UnaryFn};

/// The rules in the order in which they are tried.
pub(super) const RULES: &[Rule] =
    &[double_neg, double_abs, neutral, equals, signs, choice, reduce_one];

fn double_neg(look: &Look<'_>, step: &ProgramStep) -> Found {
    let inner = look.maker(step, 0)?;
    // The smallest integer has no opposite.
    let float = look.ty(step.result()).dtype.is_float();
    let neg = Op::Unary(UnaryFn::Neg);
    let twice = float && step.op == neg && inner.op == neg;
    twice.then(|| ("negated twice", Equal::Value(inner.operands[0])))
}

fn double_abs(look: &Look<'_>, step: &ProgramStep) -> Found {
    let inner = look.maker(step, 0)?;
    let float = look.ty(step.result()).dtype.is_float();
    let rule = "absolute value of one";
    match (&step.op, &inner.op) {
        (Op::Unary(UnaryFn::Abs), Op::Unary(UnaryFn::Abs)) => {
            Some((rule, Equal::Value(inner.result())))
        }
        (Op::Unary(UnaryFn::Abs), Op::Unary(UnaryFn::Neg)) if float => {
            one(rule, step.op.clone(), inner.operands[0])
        }
        _ => None,
    }
}

/// `value` if it is the whole result of `step`, not repeated.
fn whole(rule: &'static str, look: &Look<'_>, step: &ProgramStep, value: ValueIndex) -> Found {
    (look.ty(value) == look.ty(step.result())).then_some((rule, Equal::Value(value)))
}

fn neutral(look: &Look<'_>, step: &ProgramStep) -> Found {
    let Op::Binary(f) = step.op else { return None };
    let [a, b] = [step.operands[0], step.operands[1]];
    let float = look.ty(step.result()).dtype.is_float();
    // Bits tell the zeros apart.
    let is = |value: ValueIndex, number: f64| {
        look.program.number(value).is_some_and(|v| v.to_bits() == number.to_bits())
    };
    let nothing = |value: ValueIndex| match float {
        true => is(value, -0.0),
        false => look.program.number(value) == Some(0.0),
    };
    let kept = match f {
        BinaryFn::Mul if is(b, 1.0) => a,
        BinaryFn::Mul if is(a, 1.0) => b,
        BinaryFn::Div if is(b, 1.0) => a,
        BinaryFn::Sub if is(b, 0.0) => a,
        BinaryFn::Add if nothing(b) => a,
        BinaryFn::Add if nothing(a) => b,
        _ => return None,
    };
    whole("neutral operand", look, step, kept)
}

fn equals(look: &Look<'_>, step: &ProgramStep) -> Found {
    let Op::Binary(BinaryFn::Max | BinaryFn::Min) = step.op else { return None };
    let [a, b] = [step.operands[0], step.operands[1]];
    (a == b).then(|| whole("the larger or smaller of equals", look, step, a))?
}

/// `a − (−b)` is `a + b` and `a + (−b)` is `a − b`, exactly.
fn signs(look: &Look<'_>, step: &ProgramStep) -> Found {
    let inner = look.maker(step, 1)?;
    if inner.op != Op::Unary(UnaryFn::Neg) || !look.ty(step.result()).dtype.is_float() {
        return None;
    }
    let f = match step.op {
        Op::Binary(BinaryFn::Sub) => BinaryFn::Add,
        Op::Binary(BinaryFn::Add) => BinaryFn::Sub,
        _ => return None,
    };
    let operands = smallvec::smallvec![step.operands[0], inner.operands[0]];
    Some(("sign moved into the sum", Equal::Step(Op::Binary(f), operands)))
}

fn choice(look: &Look<'_>, step: &ProgramStep) -> Found {
    if step.op != Op::Select {
        return None;
    }
    let [condition, yes, no] = [step.operands[0], step.operands[1], step.operands[2]];
    let holds = yes == no || look.program.number(condition)? != 0.0;
    whole("known or needless choice", look, step, if holds { yes } else { no })
}

/// Floats are left alone: neither a sum nor a largest element is −0.
fn reduce_one(look: &Look<'_>, step: &ProgramStep) -> Found {
    let Op::Reduce { f: ReduceFn::Max, axes, .. } = &step.op else { return None };
    let TensorType { dtype, shape } = look.ty(step.operands[0]);
    if dtype.is_float() {
        return None;
    }
    let single = axes.iter().all(|axis| shape[*axis] == 1);
    single.then(|| one("largest of one element", Op::Reshape, step.operands[0]))?
}

#[cfg(test)]
mod tests {
    use super::super::tests::after;
    use anyid_ir::{
        BinaryFn, CompareFn, DType, FuncBuilder, Op, ReduceFn, TensorType, UnaryFn, ValueId,
    };

    fn param(f: &mut FuncBuilder<'_>, dtype: DType) -> ValueId {
        f.param("x", TensorType::new(dtype, [6, 4]))
    }

    #[test]
    fn signs_that_cancel_disappear_for_floats_only() {
        let twice = |dtype| {
            after(move |f| {
                let x = param(f, dtype);
                let a = f.unary("a", UnaryFn::Neg, x);
                f.unary("b", UnaryFn::Neg, a)
            })
        };
        assert!(twice(DType::Bf16).is_empty());
        assert_eq!(twice(DType::I32), ["neg", "neg"], "the smallest integer has no opposite");
        let abs = after(|f| {
            let x = param(f, DType::F32);
            let a = f.unary("a", UnaryFn::Neg, x);
            let b = f.unary("b", UnaryFn::Abs, a);
            f.unary("c", UnaryFn::Abs, b)
        });
        assert_eq!(abs, ["abs"]);
        let sum = |op| {
            after(move |f| {
                let x = param(f, DType::F32);
                let y = f.param("y", TensorType::new(DType::F32, [6, 4]));
                let a = f.unary("a", UnaryFn::Neg, y);
                f.binary("b", op, x, a)
            })
        };
        assert_eq!(sum(BinaryFn::Sub), ["add"]);
        assert_eq!(sum(BinaryFn::Add), ["sub"]);
        assert_eq!(sum(BinaryFn::Mul), ["neg", "mul"]);
    }

    #[test]
    fn neutral_operands_disappear_where_that_holds_for_every_number() {
        let with = |op, number: f64, first: bool, dtype| {
            after(move |f| {
                let x = param(f, dtype);
                let c = f.scalar("c", dtype, number);
                let c = f.reshape("c", c, [1, 1]);
                let c = f.broadcast("c", c, [6, 4]);
                if first { f.binary("y", op, c, x) } else { f.binary("y", op, x, c) }
            })
            .contains(&Op::Binary(op).name())
        };
        let f32 = DType::F32;
        assert!(with(BinaryFn::Mul, 1.0, false, f32), "the constant is not folded yet");
        let literal = |op, number: f64, first: bool, dtype| {
            let left = after(move |f| {
                let x = param(f, dtype);
                let c = f.constant("c", number, TensorType::new(dtype, [1, 1]));
                if first { f.binary("y", op, c, x) } else { f.binary("y", op, x, c) }
            });
            left.is_empty()
        };
        for dtype in [DType::F32, DType::I32] {
            assert!(literal(BinaryFn::Mul, 1.0, false, dtype));
            assert!(literal(BinaryFn::Mul, 1.0, true, dtype));
            assert!(literal(BinaryFn::Div, 1.0, false, dtype));
            assert!(literal(BinaryFn::Sub, 0.0, false, dtype));
            assert!(!literal(BinaryFn::Div, 1.0, true, dtype));
            assert!(!literal(BinaryFn::Sub, 0.0, true, dtype));
            assert!(!literal(BinaryFn::Mul, 0.0, false, dtype), "infinity times zero");
        }
        assert!(literal(BinaryFn::Add, -0.0, true, f32));
        assert!(!literal(BinaryFn::Add, 0.0, false, f32), "it makes a negative zero positive");
        assert!(!literal(BinaryFn::Sub, -0.0, false, f32));
        assert!(literal(BinaryFn::Add, 0.0, false, DType::I32));
        let wide = after(|f| {
            let x = f.param("x", TensorType::new(f32, [1, 4]));
            let c = f.constant("c", 1.0, TensorType::new(f32, [6, 4]));
            f.mul("y", x, c)
        });
        assert_eq!(wide, ["const", "mul"], "it also repeats");
        let rounded = after(|f| {
            let x = param(f, DType::Bf16);
            let c = f.constant("c", 1.001, TensorType::new(DType::Bf16, [1, 1]));
            f.mul("y", x, c)
        });
        assert!(rounded.is_empty(), "in bf16 it is 1");
    }

    #[test]
    fn choices_that_are_none_disappear() {
        let built = |known: bool, same: bool| {
            after(move |f| {
                let x = param(f, DType::F32);
                let y = f.param("y", TensorType::new(DType::F32, [6, 4]));
                let c = match known {
                    true => f.constant("c", 0.0, TensorType::new(DType::Bool, [1, 1])),
                    false => f.compare("c", CompareFn::Lt, x, y),
                };
                f.op("z", Op::Select, &[c, if same { y } else { x }, y], None)
            })
        };
        assert!(built(true, false).is_empty());
        assert!(built(false, true).is_empty());
        assert_eq!(built(false, false), ["lt", "select"]);
        let larger = after(|f| {
            let x = param(f, DType::F32);
            f.binary("y", BinaryFn::Max, x, x)
        });
        assert!(larger.is_empty());
    }

    #[test]
    fn the_largest_of_one_is_itself_but_a_sum_of_one_is_not() {
        let built = |function, dtype| {
            after(move |f| {
                let x = f.param("x", TensorType::new(dtype, [6, 1, 4]));
                f.reduce("y", function, x, &[1], false)
            })
        };
        assert_eq!(built(ReduceFn::Max, DType::I32), ["reshape"]);
        assert_eq!(built(ReduceFn::Max, DType::F32), ["reduce_max"], "it makes -0 positive");
        assert_eq!(built(ReduceFn::Sum, DType::I32), ["reduce_sum"]);
    }
}
