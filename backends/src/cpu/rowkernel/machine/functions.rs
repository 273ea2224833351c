//! Functions in vector code, step by step as in `cpu::math`.
//!
//! A step is left out only where it changes no bit.

use super::lower::{Lowering, SIGN, constant};
use super::program::{One, Op, Source, Test, Two};
use crate::cpu::math::{LN2_HIGH, LN2_LOW};

impl Lowering<'_> {
    /// The first where it is NaN, else `f` of both.
    pub fn or_nan(&mut self, f: Two, a: Source, b: Source) -> Source {
        let mask = self.test(Test::Ordered, a, a);
        self.push(Op::Masked(f, mask, a, a, b))
    }

    /// Rounded to bf16 in the upper halves of the lanes; the lower are anything.
    pub fn narrow(&mut self, x: Source) -> Source {
        let odd = self.test(Test::Bits, x, Source::Const(0x0001_0000));
        let up = self.two(Two::Count, x, Source::Const(0x7fff));
        let even = self.push(Op::Masked(Two::Count, odd, up, x, Source::Const(0x8000)));
        let nan = self.test(Test::Unordered, x, x);
        self.push(Op::Masked(Two::Or, nan, even, x, Source::Const(0x0040_0000)))
    }

    pub fn polynomial<const N: usize>(&mut self, x: Source, coefficients: [f32; N]) -> Source {
        let mut value = constant(coefficients[0]);
        for next in &coefficients[1..] {
            value = match value {
                Source::Value(_) => self.fma(value, x, constant(*next)),
                // The number is where an instruction can read it.
                _ => self.fma(x, value, constant(*next)),
            };
        }
        value
    }

    /// e^x of x that is no greater than 89, or NaN.
    pub fn exp_below(&mut self, x: Source) -> Source {
        let x = self.two(Two::Max, constant(-105.0), x);
        let n = self.two(Two::Mul, x, constant(std::f32::consts::LOG2_E));
        let n = self.one(One::Round, n);
        let r = self.fma(n, constant(-LN2_HIGH), x);
        let r = self.fma(n, constant(-LN2_LOW), r);
        let p = self.polynomial(
            r,
            [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5],
        );
        let square = self.two(Two::Mul, r, r);
        let p = self.fma(p, square, r);
        let p = self.two(Two::Add, p, constant(1.0));
        self.two(Two::Scale, p, n)
    }

    pub fn tanh(&mut self, x: Source) -> Source {
        let z = self.two(Two::Mul, x, x);
        let p = self.polynomial(
            z,
            [-5.704_988_7e-3, 2.063_908_8e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8],
        );
        let zx = self.two(Two::Mul, z, x);
        let small = self.fma(p, zx, x);
        let size = self.two(Two::And, x, Source::Const(!SIGN));
        let double = self.two(Two::Add, size, size);
        let bounded = self.two(Two::Min, constant(89.0), double);
        let e = self.exp_below(bounded);
        let e = self.two(Two::Add, e, constant(1.0));
        let share = self.two(Two::Div, constant(2.0), e);
        let large = self.two(Two::Sub, constant(1.0), share);
        // The sign of either is that of x.
        let less = self.test(Test::Less, size, constant(0.625));
        let chosen = self.push(Op::Blend(less, large, small));
        let magnitude = self.two(Two::And, chosen, Source::Const(!SIGN));
        let sign = self.two(Two::And, x, Source::Const(SIGN));
        self.two(Two::Or, magnitude, sign)
    }

    pub fn times_sigmoid(&mut self, x: Source, argument: Source) -> Source {
        let one = constant(1.0);
        // -|argument| is not above 0, which spares the upper bound.
        let below = self.two(Two::Or, argument, Source::Const(SIGN));
        let e = self.exp_below(below);
        let negative = self.test(Test::Less, argument, constant(0.0));
        let sum = self.two(Two::Add, e, one);
        let share = self.push(Op::Blend(negative, one, e));
        let share = self.two(Two::Div, share, sum);
        let bounded = self.two(Two::Max, constant(-200.0), x);
        self.two(Two::Mul, bounded, share)
    }

    pub fn gelu(&mut self, u: Source) -> Source {
        let square = self.two(Two::Mul, u, u);
        let inner = self.fma(square, constant(0.071_354_814), constant(1.595_769_2));
        let argument = self.two(Two::Mul, u, inner);
        self.times_sigmoid(u, argument)
    }
}
