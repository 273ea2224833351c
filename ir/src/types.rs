//! Element types, shapes and tensor types. Shapes hold integers only: named dims exist in source
//! text and are bound before a [`crate::Module`] is made.

use crate::named;
use smallvec::SmallVec;
use std::fmt;

named! {
    /// Element type of a tensor.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum DType {
        /// IEEE single precision.
        F32 = "f32",
        /// bfloat16: the upper half of a single.
        Bf16 = "bf16",
        /// IEEE half precision.
        F16 = "f16",
        /// IEEE double precision: position tables and gradient checks.
        F64 = "f64",
        /// 32-bit signed integer: token ids, segment indices, positions.
        I32 = "i32",
        /// Byte.
        U8 = "u8",
        /// Truth value, one byte, 0 or 1.
        Bool = "bool",
    }
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::Bf16 | Self::F16 | Self::F64)
    }

    /// Whether every value of the type, infinities and NaN included, is one of `to`.
    pub fn widens_to(self, to: Self) -> bool {
        let small = matches!(self, Self::U8 | Self::Bool);
        match to {
            Self::F64 => true,
            Self::F32 => small || matches!(self, Self::Bf16 | Self::F16 | Self::F32),
            Self::I32 => small || self == Self::I32,
            _ => self == to,
        }
    }

    /// `value` rounded to this type (to nearest, ties to even), as the interpreter stores it.
    /// Integers truncate towards zero and saturate; `bool` is 1 for anything but 0.
    pub fn round(self, value: f64) -> f64 {
        match self {
            Self::F64 => value,
            Self::F32 => f64::from(value as f32),
            Self::Bf16 => half::bf16::from_f32(narrow_to_odd(value)).to_f64(),
            Self::F16 => half::f16::from_f32(narrow_to_odd(value)).to_f64(),
            Self::I32 => f64::from(value as i32),
            Self::U8 => f64::from(value as u8),
            Self::Bool => f64::from(u8::from(value != 0.0)),
        }
    }

    /// Why a literal of this type cannot be `value`, or `None` where it can. Integers and `bool`
    /// hold their numbers exactly or not at all. A literal of a floating-point type is the number
    /// of the type nearest to it, as long as that is neither infinite nor 0 where `value` is not.
    pub fn refusal(self, value: f64) -> Option<String> {
        let (least, most) = match self {
            Self::I32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
            Self::U8 => (0.0, 255.0),
            Self::Bool => (0.0, 1.0),
            Self::F32 | Self::Bf16 | Self::F16 | Self::F64 => {
                let rounded = self.round(value);
                if rounded.is_infinite() && value.is_finite() {
                    return Some(format!("{self} ends at {}", self.largest()));
                }
                let lost = rounded == 0.0 && value != 0.0;
                return lost.then(|| format!("{self} would hold 0"));
            }
        };
        if (least..=most).contains(&value) && value.fract() == 0.0 {
            return None;
        }
        Some(match self {
            Self::Bool => "bool holds 0 and 1".to_owned(),
            _ => format!("{self} holds the whole numbers from {least} to {most}"),
        })
    }

    /// The largest finite number of a floating-point type.
    fn largest(self) -> &'static str {
        match self {
            Self::F16 => "65504",
            Self::Bf16 => "3.39e38",
            Self::F32 => "3.40e38",
            _ => "1.79e308",
        }
    }
}

/// `value` as a single, rounded to odd: towards zero, with the last bit set where that lost
/// something. Rounding the result to a half type then equals rounding `value` to it at once;
/// rounding twice to nearest would not, and `half`'s own conversion from doubles ignores the low
/// half of the mantissa or goes through a single, depending on the processor.
fn narrow_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if value.is_nan() || f64::from(nearest) == value {
        return nearest;
    }
    let away = f64::from(nearest).abs() > value.abs();
    f32::from_bits((nearest.to_bits() - u32::from(away)) | 1)
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Sizes of the axes, outermost first. Row-major (the last axis is contiguous).
pub type Shape = SmallVec<[usize; 6]>;

/// Element type and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Axis sizes, outermost first; empty for a scalar.
    pub shape: Shape,
}

impl TensorType {
    /// A type from an element type and axis sizes.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = usize>) -> Self {
        Self { dtype, shape: shape.into_iter().collect() }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements (1 for a scalar).
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of the dense tensor.
    pub fn bytes(&self) -> u64 {
        self.elements() as u64 * self.dtype.bytes() as u64
    }

    /// The same shape with another element type.
    #[must_use]
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self { dtype, shape: self.shape.clone() }
    }

    /// Size of the last axis, 1 for a scalar.
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Types one after the other, as texts and messages have them.
    pub fn list<'t>(types: impl IntoIterator<Item = &'t Self>) -> String {
        types.into_iter().map(Self::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Row-major strides in elements.
    pub fn strides(&self) -> Shape {
        strides(&self.shape)
    }
}

/// Row-major strides in elements of a tensor of this shape.
pub(crate) fn strides(shape: &[usize]) -> Shape {
    let mut strides = Shape::from_elem(1, shape.len());
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (axis, size) in self.shape.iter().enumerate() {
            let comma = if axis == 0 { "" } else { "," };
            write!(f, "{comma}{size}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_literal_of_each_type_may_be() {
        let fine: [(DType, &[f64]); 7] = [
            (DType::F32, &[0.1, -0.0, 16_777_217.0, 3.4028235e38, 1e-45, f64::NAN, f64::INFINITY]),
            (DType::F64, &[f64::MAX, 5e-324, f64::NEG_INFINITY]),
            (DType::Bf16, &[0.1, 257.0, 3.39e38, f64::NAN]),
            (DType::F16, &[0.1, 65504.0, 65519.0, 6e-8, f64::NEG_INFINITY]),
            (DType::I32, &[-2147483648.0, 2147483647.0, -0.0]),
            (DType::U8, &[0.0, 255.0]),
            (DType::Bool, &[0.0, 1.0]),
        ];
        for (dtype, values) in fine {
            for value in values {
                assert_eq!(dtype.refusal(*value), None, "{value} in {dtype}");
            }
        }
        let refused: [(DType, &[f64]); 6] = [
            (DType::F32, &[1e39, -3.5e38, 1e-46, f64::MAX]),
            (DType::Bf16, &[3.4e38, 1e-41]),
            (DType::F16, &[65520.0, 1e6, -1e6, 1e-8]),
            (DType::I32, &[2.5, 2147483648.0, -2147483649.0, f64::NAN, f64::INFINITY]),
            (DType::U8, &[300.0, 256.0, -1.0, 0.5, f64::NAN]),
            (DType::Bool, &[2.5, 2.0, -1.0, 0.5, f64::NEG_INFINITY, f64::NAN]),
        ];
        for (dtype, values) in refused {
            for value in values {
                assert!(dtype.refusal(*value).is_some(), "{value} in {dtype}");
            }
        }
    }

    #[test]
    fn half_types_round_once_to_nearest_even() {
        let bf16 = |v| DType::Bf16.round(v);
        assert_eq!(bf16(1.0 + 2f64.powi(-8)), 1.0); // a tie goes to even
        assert_eq!(bf16(1.0 + 2f64.powi(-8) + 2f64.powi(-45)), 1.0 + 2f64.powi(-7));
        assert_eq!(bf16(-1.0 - 3.0 * 2f64.powi(-8)), -1.0 - 2f64.powi(-6));
        assert_eq!(bf16(1e39), f64::INFINITY);
        assert_eq!(bf16(f64::NEG_INFINITY), f64::NEG_INFINITY);
        assert!(bf16(f64::NAN).is_nan());
        assert_eq!(bf16(1e-50), 0.0);
        let f16 = |v| DType::F16.round(v);
        assert_eq!(f16(1.0 + 2f64.powi(-11)), 1.0);
        assert_eq!(f16(1.0 + 2f64.powi(-11) + 2f64.powi(-40)), 1.0 + 2f64.powi(-10));
        assert_eq!(f16(65504.0), 65504.0);
        assert_eq!(f16(65520.0), f64::INFINITY);
        assert_eq!(f16(2f64.powi(-24) * 1.5 - 2f64.powi(-60)), 2f64.powi(-24));
    }
}
