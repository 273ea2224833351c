//! Pictures doubled on the way into a convolution: where that is one kernel, what it computes, and
//! why it is none elsewhere.

use crate::common::{check_for, kinds, plan, run, values};
use anyid_ir::kernel::{Kernel, Load};
use anyid_ir::plan::Plan;
use anyid_ir::plan_text::{parse_plans, print_plans};
use anyid_ir::{Axes, DType, FuncBuilder, Manifest, Module, Op, TensorType, ValueId};
use anyid_passes::{CompileRequest, Options};
use anyid_tests::devices::target;

/// What may be said of a doubled picture and its convolution.
#[derive(Clone, Copy)]
struct Case {
    frames: usize,
    channels: usize,
    dtype: DType,
    factors: [usize; 4],
    kernel: &'static [usize],
    pad: [[usize; 2]; 3],
}

const BASE: Case = Case {
    frames: 1,
    channels: 160,
    dtype: DType::F32,
    factors: [1, 2, 2, 1],
    kernel: &[3, 3],
    pad: [[0, 0], [1, 1], [1, 1]],
};

fn options() -> Options {
    Options { target: target(), ..Options::default() }
}

/// `end` of the convolution of a doubled picture, which it also gets.
fn module(
    case: Case,
    end: impl FnOnce(&mut FuncBuilder<'_>, ValueId, ValueId) -> Vec<ValueId>,
) -> Module {
    let Case { frames, channels, dtype, .. } = case;
    let mut weights = Manifest::new("w");
    let seen = channels * case.factors[3];
    let shape: Vec<usize> = [channels, seen].iter().chain(case.kernel).copied().collect();
    weights.add("w", TensorType::new(dtype, shape)).unwrap();
    weights.add("b", TensorType::new(dtype, [channels])).unwrap();
    let mut module = Module { name: "m".into(), weights, ..Module::default() };
    let mut b = FuncBuilder::new(&module, "f");
    let x = b.param("x", TensorType::new(dtype, [frames, 9, 7, channels]));
    let factors = Axes::from_slice(&case.factors);
    let up = b.op("up", Op::Upsample { factors }, &[x], None);
    let (w, bias) = (b.weight("w"), b.weight("b"));
    let op = Op::Conv { stride: [1; 3], pad: case.pad };
    let y = b.op("y", op, &[up, w, bias], Some(TensorType::new(DType::F32, [])));
    let results = end(&mut b, up, y);
    let func = b.finish(&results);
    module.add(func);
    module
}

/// The convolution with a residual of its result's shape.
fn added(case: Case) -> Module {
    module(case, |b, _, y| {
        let shape = b.shape(y);
        let skip = b.param("skip", TensorType::new(DType::F32, shape));
        vec![b.add("z", y, skip)]
    })
}

/// Why the doubled picture of a module is made before it is read.
fn why(module: &Module, options: &Options) -> String {
    let found = plan(module, "f", options);
    assert!(kinds(&found).contains(&"upsample"), "{:?}", kinds(&found));
    let cuts = CompileRequest::new(module, "f").with(options).unfused().unwrap();
    let cut = cuts.iter().find(|cut| cut.producer.ends_with("/up") && cut.consumer.ends_with("/y"));
    cut.unwrap_or_else(|| panic!("{cuts:?}")).reason.clone()
}

fn loads(plan: &Plan) -> Vec<Load> {
    let load = |kernel: &Kernel| match kernel {
        Kernel::Anchor(anchor) => Some(anchor.load),
        _ => None,
    };
    plan.steps.iter().filter_map(|step| load(&step.kernel)).collect()
}

#[test]
fn a_doubled_picture_its_convolution_and_a_residual_are_one_kernel() {
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::Bf16, 2e-2)] {
        for kernel in [&[3, 3][..], &[1, 3, 3]] {
            let module = added(Case { dtype, kernel, ..BASE });
            let plan = check_for(target(), &module, "f", tolerance);
            assert_eq!(kinds(&plan), ["upsample+conv+add"]);
            assert_eq!(loads(&plan), [Load::Nearest([1, 2, 2])]);
            let text = print_plans(std::slice::from_ref(&plan));
            assert!(text.contains("y0 = a3 + conv(a0[t,h/2,w/2,c], a1, a2)"), "{text}");
            assert_eq!(parse_plans(&text).unwrap(), [plan]);
        }
    }
}

/// Whoever else reads the doubled picture, the convolution reads through it: its bits are the same.
#[test]
fn a_doubled_picture_that_others_read_is_made_for_them_alone() {
    let alone = plan(&module(BASE, |_, _, y| vec![y]), "f", &options());
    let want = run(&[&alone], 1);
    let kept = module(BASE, |_, up, y| vec![y, up]);
    let twice = module(BASE, |b, up, y| vec![y, b.op("s", Op::Silu, &[up], None)]);
    for module in [kept, twice] {
        let plan = check_for(target(), &module, "f", 1e-5);
        assert!(kinds(&plan).contains(&"upsample"), "{:?}", kinds(&plan));
        assert_eq!(loads(&plan), [Load::Nearest([1, 2, 2])]);
        assert_eq!(run(&[&plan], 1)[0], want[0]);
    }
}

#[test]
fn one_weight_is_packed_for_each_way_it_is_read() {
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::Bf16, 2e-2)] {
        let module = module(Case { dtype, ..BASE }, |b, _, y| {
            let (w, bias) = (b.weight("w"), b.weight("b"));
            let y = if dtype == DType::F32 { y } else { b.cast("narrow", y, dtype) };
            let op = Op::Conv { stride: [1; 3], pad: BASE.pad };
            vec![b.op("again", op, &[y, w, bias], None)]
        });
        let plan = check_for(target(), &module, "f", tolerance);
        assert_eq!(loads(&plan), [Load::Nearest([1, 2, 2]), Load::Own]);
    }
}

#[test]
fn frames_of_a_longer_clip_are_the_same_bits() {
    for dtype in [DType::F32, DType::Bf16] {
        let case = Case { dtype, ..BASE };
        let all = [1, 2, 7].map(|frames| {
            let plan = plan(&module(Case { frames, ..case }, |_, _, y| vec![y]), "f", &options());
            assert_eq!(kinds(&plan), ["upsample+conv"]);
            values(&run(&[&plan], 2)[0])
        });
        for part in &all[..2] {
            assert!(all[2][..part.len()] == part[..], "{dtype}, {} values", part.len());
        }
    }
}

#[test]
fn it_stays_apart_where_it_cannot_be_read_through_or_does_not_pay() {
    let reason = |case: Case| why(&added(case), &options());
    assert!(reason(Case { channels: 4, ..BASE }).contains("too few channels"));
    let odd = Case { channels: 161, dtype: DType::Bf16, ..BASE };
    assert!(reason(odd).contains("pairs of channels"));
    assert!(reason(Case { factors: [1, 2, 2, 2], ..BASE }).contains("repeated channels"));
    for case in [
        Case { factors: [1, 3, 2, 1], ..BASE },
        Case { factors: [2, 2, 2, 1], ..BASE },
        Case { kernel: &[3, 3, 3], pad: [[2, 0], [1, 1], [1, 1]], ..BASE },
        Case { kernel: &[1, 1], pad: [[0, 0]; 3], ..BASE },
        Case { pad: [[0, 0], [1, 1], [0, 2]], ..BASE },
    ] {
        let reason = reason(case);
        assert!(reason.contains("3×3 taps on a doubled picture"), "{reason}");
    }
    let other = Options::default();
    assert!(why(&added(BASE), &other).contains("read what lies there"));
    let none = Options { stop_after: Some(0), ..options() };
    let made = plan(&added(BASE), "f", &none);
    assert!(kinds(&made).contains(&"upsample"), "{:?}", kinds(&made));
}
