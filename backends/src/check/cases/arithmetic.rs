//! Elementwise functions, conversions, reductions, literals and the plain product.

use super::{
    FLOATS, Fill, Gives, NUMBERS, OpCase, PRODUCTS, ROWS, Tolerance, again, gives, single, value,
    weight,
};
use anyid_ir::{Axes, BinaryFn, CompareFn, DType, Op, ReduceFn, UnaryFn};

pub(super) fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    unary(&mut out);
    binary(&mut out);
    conditions(&mut out);
    casts(&mut out);
    reductions(&mut out);
    products(&mut out);
    sources(&mut out);
    out
}

fn unary(out: &mut Vec<OpCase>) {
    for f in UnaryFn::ALL {
        let op = Op::Unary(f);
        let positive = matches!(f, UnaryFn::Log | UnaryFn::Sqrt | UnaryFn::Rsqrt | UnaryFn::Recip);
        let fill = if positive { Fill::Within(0.2, 9.0) } else { Fill::Within(-3.0, 3.0) };
        let (dtypes, tolerance) = match f {
            UnaryFn::Neg | UnaryFn::Abs => (&DType::ALL[..], Tolerance::EXACT),
            UnaryFn::Floor => (FLOATS, Tolerance::EXACT),
            _ => (FLOATS, Tolerance::singles(1e-6)),
        };
        for shape in [&[1][..], &[17], &[3, 5], &[2, 1, 33], &[]] {
            let x = value(shape).filled(fill.clone());
            out.push(single(format!("{shape:?}"), dtypes, tolerance, op.clone(), vec![x], None));
        }
        let x = value(&[5, 31]).filled(Fill::Special);
        out.push(single("of special values", dtypes, tolerance, op.clone(), vec![x], None));
        // More than one task, and a last one that is not full.
        let x = value(&[5, 8199]).filled(fill);
        out.push(single("[5, 8199]", &[DType::F32], tolerance, op, vec![x], None));
    }
    for op in [Op::Gelu, Op::GeluErf, Op::Silu] {
        let tolerance = Tolerance::singles(2e-6);
        for shape in [&[1][..], &[17], &[3, 5, 7], &[3, 16_399]] {
            let x = value(shape).filled(Fill::Within(-9.0, 9.0));
            let name = if op == Op::GeluErf { "by erf " } else { "" };
            let name = format!("{name}{shape:?}");
            out.push(single(name, ROWS, tolerance, op.clone(), vec![x], None));
        }
        let x = value(&[7, 31]).filled(Fill::Special);
        let name = if op == Op::GeluErf { "by erf of special values" } else { "of special values" };
        out.push(single(name, ROWS, tolerance, op, vec![x], None));
    }
}

/// Pairs of shapes that go together.
const PAIRS: [[&[usize]; 2]; 11] = [
    [&[17], &[17]],
    [&[3, 1, 5], &[4, 1]],
    [&[2, 3, 7], &[]],
    [&[], &[2, 3]],
    [&[1, 257], &[3, 1]],
    [&[4, 5, 6], &[4, 1, 6]],
    [&[4, 5, 6], &[5, 1]],
    [&[1], &[1, 1, 1]],
    [&[3, 1], &[1, 33]],
    [&[2, 9, 1000], &[2, 1, 1000]],
    [&[2, 1, 2, 1, 2, 1, 2, 1, 3], &[1, 2, 1, 2, 1, 2, 1, 2, 1]],
];

fn binary(out: &mut Vec<OpCase>) {
    for f in BinaryFn::ALL {
        let op = Op::Binary(f);
        let dtypes = match f {
            BinaryFn::Max | BinaryFn::Min => &DType::ALL[..],
            _ => NUMBERS,
        };
        let tolerance = match f {
            BinaryFn::Max | BinaryFn::Min => Tolerance::EXACT,
            _ => Tolerance::singles(1e-6),
        };
        for [a, b] in PAIRS {
            let name = format!("{a:?} {b:?}");
            let operands = vec![value(a), value(b).filled(Fill::Within(0.5, 3.0))];
            out.push(single(name, dtypes, tolerance, op.clone(), operands, None));
        }
        let special = |shape: &[usize]| value(shape).filled(Fill::Special);
        let operands = vec![special(&[9, 31]), special(&[9, 31])];
        out.push(single("of special values", dtypes, tolerance, op.clone(), operands, None));
        let operands = vec![special(&[1, 77]), special(&[5, 1])];
        out.push(single("of special rows", dtypes, tolerance, op.clone(), operands, None));
        let operands = vec![value(&[3, 5]).filled(Fill::Within(1.0, 2.0)), again(0)];
        out.push(single("with itself", dtypes, tolerance, op, operands, None));
    }
}

fn conditions(out: &mut Vec<OpCase>) {
    for f in CompareFn::ALL {
        for [a, b] in PAIRS {
            let operands =
                vec![value(a).filled(Fill::Whole(0, 3)), value(b).filled(Fill::Whole(0, 3))];
            let op = Op::Compare(f);
            let name = format!("{a:?} {b:?}");
            out.push(single(name, &DType::ALL, Tolerance::EXACT, op, operands, None));
        }
        let special = || value(&[9, 31]).filled(Fill::Special);
        let operands = vec![special(), special()];
        let op = Op::Compare(f);
        let name = "of special values";
        out.push(single(name, &DType::ALL, Tolerance::EXACT, op, operands, None));
    }
    for [a, b] in PAIRS {
        for condition in [&[1][..], a, b] {
            let condition = value(condition).of(DType::Bool).filled(Fill::Whole(0, 2));
            let operands = vec![condition.clone(), value(a), value(b).filled(Fill::Special)];
            let name = format!("{condition:?} {a:?} {b:?}");
            out.push(single(name, &DType::ALL, Tolerance::EXACT, Op::Select, operands, None));
        }
    }
}

fn casts(out: &mut Vec<OpCase>) {
    for to in DType::ALL {
        for (name, fill) in [("ordinary", Fill::Within(-300.0, 300.0)), ("special", Fill::Special)]
        {
            for shape in [&[1][..], &[5, 67], &[]] {
                let operands = vec![value(shape).filled(fill.clone())];
                let result = Some(gives(Some(to), shape));
                let name = format!("of {name} values {shape:?} to {to}");
                out.push(single(name, &DType::ALL, Tolerance::EXACT, Op::Cast, operands, result));
            }
        }
    }
}

fn reductions(out: &mut Vec<OpCase>) {
    let patterns: [(&[usize], &[usize]); 12] = [
        (&[17], &[0]),
        (&[3, 1], &[1]),
        (&[5, 33], &[1]),
        (&[5, 33], &[0]),
        (&[2, 3, 7], &[1]),
        (&[2, 3, 7], &[0, 2]),
        (&[2, 3, 7], &[1, 2]),
        (&[2, 3, 7], &[0, 1, 2]),
        (&[1, 1], &[0, 1]),
        (&[2, 3, 4, 5], &[1, 3]),
        (&[3, 4099], &[1]),
        (&[700, 64], &[1]),
    ];
    for f in ReduceFn::ALL {
        let tolerance =
            if f == ReduceFn::Max { Tolerance::EXACT } else { Tolerance::singles(1e-5) };
        for (shape, axes) in patterns {
            for keep in [false, true] {
                let op = Op::Reduce { f, axes: Axes::from_slice(axes), keep };
                let name = format!("{shape:?} over {axes:?} keep={keep}");
                out.push(single(name, NUMBERS, tolerance, op, vec![value(shape)], None));
            }
        }
        // Of any number of them the result is a NaN, an infinity or an exact sum.
        let values = [1.0, 2.0, f64::INFINITY, 3.0, f64::NEG_INFINITY, f64::NAN, 5.0];
        for width in 1..=values.len() {
            let x = value(&[9, width]).filled(Fill::List(values.to_vec()));
            let op = Op::Reduce { f, axes: Axes::from_slice(&[1]), keep: false };
            let name = format!("of special rows of {width}");
            out.push(single(name, FLOATS, Tolerance::singles(1e-6), op, vec![x], None));
        }
    }
}

fn products(out: &mut Vec<OpCase>) {
    let shapes: [[&[usize]; 2]; 6] = [
        [&[1, 1], &[1, 1]],
        [&[3, 5], &[4, 5]],
        [&[17, 1], &[3, 1]],
        [&[2, 3, 7, 17], &[2, 3, 1, 17]],
        [&[3, 9, 33], &[3, 5, 33]],
        [&[1, 64, 70], &[1, 33, 70]],
    ];
    for [a, b] in shapes {
        for to in [None, Some(DType::F32), Some(DType::Bf16)] {
            let operands = vec![value(a), value(b)];
            let name = format!("{a:?} {b:?} to {to:?}");
            let result = to.map(|to| gives(Some(to), &[]));
            let op = Op::Dot { transposed: [false; 2] };
            out.push(single(name, FLOATS, Tolerance::singles(1e-6), op, operands, result));
        }
    }
    let turned: [([bool; 2], [&[usize]; 2]); 6] = [
        ([true, false], [&[5, 3], &[4, 5]]),
        ([false, true], [&[3, 5], &[5, 4]]),
        ([true, true], [&[5, 3], &[5, 4]]),
        ([true, false], [&[2, 70, 33], &[2, 17, 70]]),
        ([false, true], [&[2, 33, 70], &[2, 70, 17]]),
        ([true, true], [&[3, 1, 1], &[3, 1, 65]]),
    ];
    for (transposed, [a, b]) in turned {
        let (operands, op) = (vec![value(a), value(b)], Op::Dot { transposed });
        let name = format!("{a:?} {b:?} turned {transposed:?}");
        out.push(single(name, FLOATS, Tolerance::singles(1e-6), op, operands, None));
    }
    large_products(out);
}

/// Products of the types that have kernels of their own: several blocks of the sums, many pages,
/// sides that are weights.
fn large_products(out: &mut Vec<OpCase>) {
    let shapes: [(&[usize], [usize; 3]); 3] =
        [(&[], [131, 70, 601]), (&[5, 7], [9, 5, 33]), (&[3], [65, 129, 90])];
    for (batch, [m, n, k]) in shapes {
        for transposed in [[false, false], [true, false], [false, true], [true, true]] {
            let sides = [(m, transposed[0]), (n, transposed[1])];
            let [a, b] = sides.map(|(size, turned)| {
                let page = if turned { [k, size] } else { [size, k] };
                [batch, &page].concat()
            });
            let pairs = [
                ("", [value(&a), value(&b)]),
                (" A stored", [weight(&a), value(&b)]),
                (" B stored", [value(&a), weight(&b)]),
            ];
            for (which, operands) in pairs {
                let name = format!("large {a:?} {b:?} turned {transposed:?}{which}");
                let op = Op::Dot { transposed };
                let to = Some(gives(Some(DType::F32), &[]));
                let bound = Tolerance::singles(1e-6);
                out.push(single(name, PRODUCTS, bound, op, operands.to_vec(), to));
            }
        }
    }
}

fn sources(out: &mut Vec<OpCase>) {
    // A literal is for the types that hold all of its numbers.
    let mut add = |name: String, op: Op, result: Gives| {
        let numbers = match &op {
            Op::Const { values } => values.clone(),
            Op::Iota { axis } => vec![result.size(*axis) as f64 - 1.0],
            _ => Vec::new(),
        };
        let holds = |dtype: &DType| numbers.iter().all(|v| dtype.refusal(*v).is_none());
        let dtypes: Vec<DType> = DType::ALL.into_iter().filter(holds).collect();
        out.push(single(name, &dtypes, Tolerance::EXACT, op, Vec::new(), Some(result)));
    };
    for number in [0.0, 1.0, 7.0, -2.5, 300.0, -70000.0, 1e10, 1.0 / 3.0] {
        for shape in [&[][..], &[17], &[2, 3]] {
            let op = Op::Const { values: vec![number] };
            add(format!("{number} {shape:?}"), op, gives(None, shape));
        }
    }
    let values = vec![0.0, 1.0, 2.5, -3.0, 260.0, 1.0 + 1.0 / 512.0];
    add("literal".into(), Op::Const { values }, gives(None, &[2, 3]));
    for values in [[0.0, 1.0, 1.0, 0.0, 1.0, 0.0], [0.0, 255.0, 3.0, 17.0, 128.0, 1.0]] {
        let op = Op::Const { values: values.to_vec() };
        add(format!("literal {values:?}"), op, gives(None, &[2, 3]));
    }
    for (shape, axis) in
        [(&[1][..], 0), (&[17], 0), (&[300], 0), (&[3, 5], 0), (&[3, 5], 1), (&[2, 3, 4], 1)]
    {
        add(format!("{shape:?} along {axis}"), Op::Iota { axis }, gives(None, shape));
    }
    for number in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
        let op = Op::Const { values: vec![number] };
        let result = Some(gives(None, &[3]));
        out.push(single(format!("{number}"), FLOATS, Tolerance::EXACT, op, Vec::new(), result));
    }
}
