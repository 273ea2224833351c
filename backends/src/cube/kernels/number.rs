//! What registers of row kernels hold: f32, or whole numbers of 32 bits.
//!
//! Doubles are not there on most devices. What the scalar form of a row kernel computes in doubles is
//! computed in f32 here, or in whole numbers where nothing but whole numbers goes in and comes out.

use super::element::{INFINITY, Memory, size};
use super::math;
use anyid_ir::kernel::{Instruction, RowFn};
use anyid_ir::{BinaryFn, CompareFn, DType, UnaryFn};
use cubecl::prelude::*;

/// A kind of number.
#[cube]
pub(crate) trait Number: Numeric {
    /// An element of a type as a number.
    fn take(bits: u32, #[comptime] dtype: DType) -> Self;
    /// A number as an element of a type.
    fn give(value: Self, #[comptime] dtype: DType) -> u32;
    /// A constant.
    fn constant(memory: &Memory, #[comptime] value: u32) -> Self;
    /// A function of one number.
    fn unary(#[comptime] f: RowFn, x: Self) -> Self;
    /// A function of two.
    fn binary(#[comptime] f: BinaryFn, a: Self, b: Self) -> Self;
    /// Less than every other.
    fn least(memory: &Memory) -> Self;
}

#[cube]
impl Number for f32 {
    fn take(bits: u32, #[comptime] dtype: DType) -> f32 {
        match comptime!(dtype) {
            DType::F32 => f32::reinterpret(bits),
            DType::Bf16 => f32::reinterpret(bits << 16u32),
            DType::F16 => math::widened(bits),
            DType::I32 => f32::cast_from(i32::reinterpret(bits)),
            DType::U8 => f32::cast_from(bits),
            DType::Bool => select(bits != 0u32, 1.0f32, 0.0f32),
            DType::F64 => panic!("no device of this kind is given doubles"),
        }
    }

    fn give(value: f32, #[comptime] dtype: DType) -> u32 {
        match comptime!(dtype) {
            DType::F32 => u32::reinterpret(value),
            DType::Bf16 => math::rounded_bf16(value),
            DType::F16 => math::rounded_f16(value),
            DType::I32 => u32::reinterpret(math::whole(value)),
            DType::U8 => math::byte(value),
            // What is no number is not 0 either, and compilers take it that there is none.
            DType::Bool => {
                let size = u32::reinterpret(value) & 0x7fff_ffffu32;
                select(size != 0u32, 1u32, 0u32)
            }
            DType::F64 => panic!("no device of this kind is given doubles"),
        }
    }

    fn constant(memory: &Memory, #[comptime] value: u32) -> f32 {
        // Shaders have no literals that are not finite, and devices may drop the smallest.
        if comptime!(f32::from_bits(value).is_normal() || value == 0) {
            // CUDA C++ has bits of variables alone.
            let number = RuntimeCell::<f32>::new(f32::new(comptime!(f32::from_bits(value))));
            number.read()
        } else {
            let infinity = size(memory, INFINITY);
            f32::reinterpret(infinity ^ comptime!(value ^ f32::INFINITY.to_bits()))
        }
    }

    fn unary(#[comptime] f: RowFn, x: f32) -> f32 {
        match comptime!(f) {
            RowFn::Gelu => math::gelu(x),
            RowFn::Silu => math::silu(x),
            RowFn::Primitive(f) => match comptime!(f) {
                UnaryFn::Neg => -x,
                UnaryFn::Abs => x.abs(),
                UnaryFn::Exp => math::exponential(x),
                UnaryFn::Log => math::logarithm(x),
                UnaryFn::Sqrt => x.sqrt(),
                UnaryFn::Rsqrt => 1.0f32 / x.sqrt(),
                UnaryFn::Recip => 1.0f32 / x,
                UnaryFn::Tanh => math::tangent(x),
                UnaryFn::Sin => math::sine(x, 0u32),
                UnaryFn::Cos => math::sine(x, 1u32),
                UnaryFn::Floor => x.floor(),
                UnaryFn::Erf => math::error_function(x),
            },
        }
    }

    fn binary(#[comptime] f: BinaryFn, a: f32, b: f32) -> f32 {
        match comptime!(f) {
            BinaryFn::Add => a + b,
            BinaryFn::Sub => a - b,
            BinaryFn::Mul => a * b,
            BinaryFn::Div => a / b,
            BinaryFn::Max => math::larger(a, b),
            BinaryFn::Min => math::smaller(a, b),
        }
    }

    fn least(memory: &Memory) -> f32 {
        -f32::reinterpret(size(memory, INFINITY))
    }
}

#[cube]
impl Number for i32 {
    fn take(bits: u32, #[comptime] dtype: DType) -> i32 {
        if comptime!(dtype == DType::Bool) {
            select(bits != 0u32, 1i32, 0i32)
        } else {
            i32::reinterpret(bits)
        }
    }

    fn give(value: i32, #[comptime] dtype: DType) -> u32 {
        match comptime!(dtype) {
            DType::I32 => u32::reinterpret(value),
            DType::U8 => {
                let low = select(value > 0i32, value, 0i32);
                u32::reinterpret(select(low < 255i32, low, 255i32))
            }
            DType::Bool => select(value != 0i32, 1u32, 0u32),
            _ => panic!("whole numbers are stored as whole numbers"),
        }
    }

    fn constant(_memory: &Memory, #[comptime] value: u32) -> i32 {
        i32::new(comptime!(f32::from_bits(value) as i64))
    }

    fn unary(#[comptime] f: RowFn, x: i32) -> i32 {
        match comptime!(f) {
            RowFn::Primitive(UnaryFn::Neg) => negative(x),
            RowFn::Primitive(UnaryFn::Abs) => select(x < 0i32, negative(x), x),
            RowFn::Primitive(UnaryFn::Floor) => x,
            _ => panic!("no function of whole numbers"),
        }
    }

    fn binary(#[comptime] f: BinaryFn, a: i32, b: i32) -> i32 {
        match comptime!(f) {
            BinaryFn::Add => {
                let sum = a + b;
                select(((a ^ sum) & (b ^ sum)) < 0i32, bound(a < 0i32), sum)
            }
            BinaryFn::Sub => {
                let difference = a - b;
                select(((a ^ b) & (a ^ difference)) < 0i32, bound(a < 0i32), difference)
            }
            BinaryFn::Mul => product(a, b),
            BinaryFn::Div => {
                // The smallest by −1 is the one quotient that there is no whole number for.
                let turned = b == -1i32;
                let divisor = select(b == 0i32 || turned, 1i32, b);
                let quotient = select(turned, negative(a), a / divisor);
                select(b == 0i32, 0i32, quotient)
            }
            BinaryFn::Max => select(a > b, a, b),
            BinaryFn::Min => select(a < b, a, b),
        }
    }

    fn least(_memory: &Memory) -> i32 {
        i32::new(comptime!(i64::from(i32::MIN)))
    }
}

/// The bound that a whole number has passed.
#[cube]
fn bound(below: bool) -> i32 {
    let least = i32::new(comptime!(i64::from(i32::MIN)));
    let most = i32::new(comptime!(i64::from(i32::MAX)));
    select(below, least, most)
}

/// −x, which the smallest whole number has none of.
#[cube]
fn negative(x: i32) -> i32 {
    select(x == i32::new(comptime!(i64::from(i32::MIN))), bound(false), -x)
}

/// A product, or the bound that it passes.
#[cube]
fn product(a: i32, b: i32) -> i32 {
    let below = (a ^ b) < 0i32;
    let size = u32::reinterpret(select(a < 0i32, -a, a));
    let other = u32::reinterpret(select(b < 0i32, -b, b));
    let low = size * other;
    let most = select(below, 0x8000_0000u32, 0x7fff_ffffu32);
    let inside = size.mul_hi(other) == 0u32 && low <= most;
    let found = i32::reinterpret(low);
    select(inside, select(below, -found, found), bound(below))
}

/// Whether `a` and `b` are as the function says.
#[cube]
pub(crate) fn holds<N: Number>(#[comptime] f: CompareFn, a: N, b: N) -> bool {
    match comptime!(f) {
        CompareFn::Eq => a == b,
        CompareFn::Lt => a < b,
        CompareFn::Le => a <= b,
        CompareFn::Gt => a > b,
        CompareFn::Ge => a >= b,
    }
}

/// Whether whole numbers can compute an instruction of a kernel that loads and stores nothing else.
pub(crate) fn is_whole(instruction: &Instruction) -> bool {
    match instruction {
        Instruction::Const(value) => value.fract() == 0.0 && value.abs() < 2e9,
        Instruction::Unary(f, _) => {
            matches!(f, RowFn::Primitive(UnaryFn::Neg | UnaryFn::Abs | UnaryFn::Floor))
        }
        Instruction::Round(dtype, _) => !dtype.is_float(),
        Instruction::Fma(..) | Instruction::Rotate(..) => false,
        Instruction::Load(_)
        | Instruction::Binary(..)
        | Instruction::Compare(..)
        | Instruction::Select(..)
        | Instruction::Reduce(..)
        | Instruction::Store { .. } => true,
    }
}
