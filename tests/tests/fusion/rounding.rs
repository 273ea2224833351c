//! Epilogues round where level 1 names a narrower type: whether a value is read elsewhere, and so
//! is stored, changes no bit of what is made of it.

use crate::common::{check_for, kinds, plan, run};
use anyid_backends::cpu::target;
use anyid_ir::kernel::text::print;
use anyid_ir::plan::Plan;
use anyid_ir::{Axes, DType, FuncBuilder, Manifest, Module, Op, TensorType, ValueId};
use anyid_passes::Options;

/// What makes the sums.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Anchor {
    Linear,
    /// A product of two values.
    Dot,
    Conv,
    /// A convolution that doubles the picture on the way.
    Doubled,
}

/// What becomes of them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Nothing,
    Add,
    Gate,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    anchor: Anchor,
    activation: Option<&'static str>,
    end: End,
    /// Type of the residual and of the result.
    last: DType,
}

const WIDTH: usize = 160;

/// The case in bf16; the values before the last are returned as well where `saved` says so.
fn module(case: Case, saved: &[usize]) -> Module {
    let narrow = |shape: &[usize]| TensorType::new(DType::Bf16, shape.iter().copied());
    let mut weights = Manifest::new("w");
    let shape: &[usize] = match case.anchor {
        Anchor::Linear | Anchor::Dot => &[WIDTH, WIDTH],
        _ => &[WIDTH, WIDTH, 3, 3],
    };
    weights.add("w", narrow(shape)).unwrap();
    weights.add("b", narrow(&[WIDTH])).unwrap();
    let mut module = Module { name: "m".into(), weights, ..Module::default() };
    let mut b = FuncBuilder::new(&module, "f");
    let mut made = values(&mut b, case);
    let last = made.pop().expect("the result");
    let results: Vec<ValueId> =
        std::iter::once(last).chain(saved.iter().filter_map(|at| made.get(*at).copied())).collect();
    let func = b.finish(&results);
    module.add(func);
    module
}

/// All values of the chain.
fn values(b: &mut FuncBuilder<'_>, case: Case) -> Vec<ValueId> {
    let narrow = |shape: &[usize]| TensorType::new(DType::Bf16, shape.iter().copied());
    let (w, bias) = (b.weight("w"), b.weight("b"));
    let mut made = Vec::new();
    if case.anchor == Anchor::Linear {
        let x = b.param("x", narrow(&[70, WIDTH]));
        made.push(b.op("y", Op::Linear, &[x, w, bias], None));
    } else if case.anchor == Anchor::Dot {
        let sides = [("x", [WIDTH, 70]), ("d", [WIDTH, WIDTH])];
        let sides = sides.map(|(name, shape)| b.param(name, narrow(&shape)));
        made.push(b.op("y", Op::Dot { transposed: [true, true] }, &sides, None));
    } else {
        let mut x = b.param("x", narrow(&[1, 9, 7, WIDTH]));
        if case.anchor == Anchor::Doubled {
            let factors = Axes::from_slice(&[1, 2, 2, 1]);
            x = b.op("up", Op::Upsample { factors }, &[x], None);
            made.push(x);
        }
        let conv = Op::Conv { stride: [1; 3], pad: [[0, 0], [1, 1], [1, 1]] };
        made.push(b.op("y", conv, &[x, w, bias], None));
    }
    match case.activation {
        Some("gelu") => made.push(b.op("a", Op::Gelu, &[made[made.len() - 1]], None)),
        Some(_) => made.push(b.op("a", Op::Silu, &[made[made.len() - 1]], None)),
        None => {}
    }
    let value = made[made.len() - 1];
    let shape = b.shape(value).to_vec();
    match case.end {
        End::Nothing => {}
        End::Add => {
            let residual = b.param("r", TensorType::new(case.last, shape));
            let wide = b.cast("wide", value, case.last);
            made.push(b.add("z", residual, wide));
        }
        End::Gate => {
            let residual = b.param("r", TensorType::new(case.last, shape));
            let gate = b.param("g", TensorType::new(DType::F32, [2, WIDTH]));
            let segments = b.param("s", TensorType::new(DType::I32, [70]));
            made.push(b.op("z", Op::GateAdd, &[residual, value, gate, segments], None));
        }
    }
    made
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for anchor in [Anchor::Linear, Anchor::Dot, Anchor::Conv, Anchor::Doubled] {
        for activation in [None, Some("gelu"), Some("silu")] {
            for end in [End::Nothing, End::Add, End::Gate] {
                for last in [DType::F32, DType::Bf16] {
                    // Gates are for rows of two axes.
                    if end != End::Gate || matches!(anchor, Anchor::Linear | Anchor::Dot) {
                        cases.push(Case { anchor, activation, end, last });
                    }
                }
            }
        }
    }
    cases
}

fn fused(module: &Module) -> Plan {
    plan(module, "f", &Options { target: target(), ..Options::default() })
}

#[test]
fn saving_a_value_changes_no_bit_of_what_follows() {
    for case in cases() {
        let alone = fused(&module(case, &[]));
        assert_eq!(alone.steps.len(), 1, "{case:?} {:?}", kinds(&alone));
        let text = print(&alone.steps[0].kernel);
        let rounds = case.activation.is_some() || case.end != End::Nothing;
        assert_eq!(text.contains("bf16("), rounds, "{text}");
        let want = run(&[&alone], 1);
        for saved in [&[0][..], &[1], &[2], &[0, 1, 2]] {
            let beside = fused(&module(case, saved));
            let got = run(&[&beside], 2);
            assert!(got[0] == want[0], "{case:?} {saved:?} {:?}", kinds(&beside));
        }
    }
}

#[test]
fn fused_epilogues_in_bf16_are_the_bits_of_the_ops_one_by_one() {
    for case in cases().into_iter().filter(|case| case.anchor != Anchor::Doubled) {
        check_for(target(), &module(case, &[]), "f", 0.0);
    }
}

#[test]
fn a_type_that_comes_back_or_another_one_is_still_rounded_to() {
    let module = |end: fn(&mut FuncBuilder<'_>, ValueId) -> ValueId| {
        let mut module = Module::default();
        module.weights.add("w", TensorType::new(DType::Bf16, [WIDTH, WIDTH])).unwrap();
        let mut b = FuncBuilder::new(&module, "f");
        let x = b.param("x", TensorType::new(DType::F32, [70, WIDTH]));
        let y = b.linear("y", x, "w", None, DType::Bf16);
        let last = end(&mut b, y);
        let func = b.finish(&[last]);
        module.add(func);
        module
    };
    let back = module(|b, y| b.cast("wide", y, DType::F32));
    let back = check_for(target(), &back, "f", 0.0);
    assert_eq!(kinds(&back), ["linear+cast"]);
    assert!(print(&back.steps[0].kernel).contains("y0 = bf16(linear(a0, a1))"));
    let other = module(|b, y| {
        let y = b.cast("other", y, DType::F16);
        b.op("last", Op::Gelu, &[y], None)
    });
    let other = check_for(target(), &other, "f", 0.0);
    assert_eq!(kinds(&other), ["linear", "cast+gelu"]);
}
