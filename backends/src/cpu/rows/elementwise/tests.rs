//! Element-wise maps against f64, broadcasting, casts and NaN.

use half::{bf16, f16};

use super::super::testing::{assert_close, noise, same_bits};
use super::*;

#[test]
fn maps_of_one_operand() {
    type Exact = fn(f64) -> f64;
    let cases: [(Unary, Exact); 13] = [
        (Unary::Neg, |x| -x),
        (Unary::Abs, f64::abs),
        (Unary::Exp, f64::exp),
        (Unary::Log, f64::ln),
        (Unary::Sqrt, f64::sqrt),
        (Unary::Rsqrt, |x| 1.0 / x.sqrt()),
        (Unary::Recip, |x| 1.0 / x),
        (Unary::Square, |x| x * x),
        (Unary::Tanh, f64::tanh),
        (Unary::Sin, f64::sin),
        (Unary::Cos, f64::cos),
        (Unary::Silu, |x| x / (1.0 + (-x).exp())),
        (Unary::Clamp { low: -0.5, high: 1.5 }, |x| x.clamp(-0.5, 1.5)),
    ];
    let signed = noise(1, 40_003, 2.0);
    let positive: Vec<f32> = signed.iter().map(|x| x.abs() + 0.01).collect();
    for (op, exact) in cases {
        let roots = matches!(op, Unary::Log | Unary::Sqrt | Unary::Rsqrt | Unary::Recip);
        let x = if roots { &positive } else { &signed };
        let want: Vec<f64> = x.iter().map(|&x| exact(f64::from(x))).collect();
        for level in Level::available() {
            let mut y = vec![0.0_f32; x.len()];
            unary(&Pool::new(1), level, op, x, &mut y);
            assert_close(&y, &want, 2e-6, &format!("{op:?} {level:?}"));
            let mut again = vec![0.0_f32; x.len()];
            unary(&Pool::new(3), level, op, x, &mut again);
            assert!(same_bits(&y, &again));
        }
    }
}

#[test]
fn casts_between_all_types() {
    let x = noise(2, 1003, 3.0);
    for level in Level::available() {
        let pool = Pool::new(2);
        let (mut brain, mut half) = (vec![bf16::ZERO; 1003], vec![f16::ZERO; 1003]);
        cast(&pool, level, &x, &mut brain);
        cast(&pool, level, &brain, &mut half);
        for ((x, brain), half) in x.iter().zip(&brain).zip(&half) {
            assert_eq!(*brain, bf16::from_f32(*x));
            assert_eq!(*half, f16::from_f32(brain.to_f32()));
        }
    }
}

fn apply(op: Binary, a: f64, b: f64) -> f64 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        Binary::Pow => a.powf(b),
    }
}

#[test]
fn two_operands_with_broadcasting() {
    let a = noise(3, 60_000, 1.0).iter().map(|x| x.abs() + 0.3).collect::<Vec<_>>();
    let b = noise(4, 60_000, 1.0).iter().map(|x| x.abs() + 0.3).collect::<Vec<_>>();
    let ops =
        [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min, Binary::Pow];
    let cases: [(&[usize], &[usize], &[usize]); 9] = [
        (&[20_003], &[1], &[1]),
        (&[20_003], &[1], &[0]),
        (&[31, 17], &[17, 1], &[0, 1]),
        (&[31, 17], &[17, 1], &[1, 0]),
        (&[3, 5, 7, 300], &[0, 300, 0, 1], &[10_500, 0, 300, 1]),
        (&[70, 600], &[1, 70], &[600, 1]),
        (&[2, 1, 2, 1, 2, 1, 2, 3], &[24, 0, 12, 0, 6, 0, 3, 1], &[0, 0, 0, 0, 0, 0, 0, 1]),
        (&[1, 1], &[0, 0], &[5, 5]),
        (&[], &[], &[]),
    ];
    for (sizes, a_strides, b_strides) in cases {
        for op in ops {
            let count: usize = sizes.iter().product();
            let want: Vec<f64> = (0..count)
                .map(|mut index| {
                    let (mut i, mut j) = (0, 0);
                    for axis in (0..sizes.len()).rev() {
                        i += index % sizes[axis] * a_strides[axis];
                        j += index % sizes[axis] * b_strides[axis];
                        index /= sizes[axis];
                    }
                    apply(op, f64::from(a[i]), f64::from(b[j]))
                })
                .collect();
            for level in Level::available() {
                let left = Strided { data: &a[..], strides: a_strides };
                let right = Strided { data: &b[..], strides: b_strides };
                let mut y = vec![0.0_f32; count];
                binary(&Pool::new(2), level, op, sizes, left, right, &mut y);
                assert_close(&y, &want, 2e-6, &format!("{op:?} {sizes:?}"));
            }
        }
    }
}

#[test]
fn larger_smaller_and_clamp_hand_nan_on() {
    let a = [f32::NAN, 1.0, f32::NAN, 2.0];
    let b = [1.0, f32::NAN, f32::NAN, 3.0];
    for level in Level::available() {
        for op in [Binary::Max, Binary::Min] {
            let mut y = [0.0_f32; 4];
            let left = Strided { data: &a, strides: &[1] };
            let right = Strided { data: &b, strides: &[1] };
            binary(&Pool::new(1), level, op, &[4], left, right, &mut y);
            assert!(y[..3].iter().all(|y| y.is_nan()));
            assert_eq!(y[3], if op == Binary::Max { 3.0 } else { 2.0 });
        }
        let mut y = [0.0_f32; 4];
        unary(&Pool::new(1), level, Unary::Clamp { low: 0.0, high: 1.5 }, &a, &mut y);
        assert!(y[0].is_nan() && y[1] == 1.0 && y[2].is_nan() && y[3] == 1.5);
    }
}

#[test]
fn empty_slices_are_fine() {
    let mut none: [f32; 0] = [];
    unary(&Pool::new(2), Level::Portable, Unary::Neg, &[0.0_f32; 0], &mut none);
    let empty = Strided { data: &[0.0_f32; 0], strides: &[1] };
    binary(&Pool::new(2), Level::Portable, Binary::Add, &[0], empty, empty, &mut none);
}
