//! Element types, shapes and tensor types. Shapes hold integers only: named dims exist in source
//! text and are bound before a [`crate::Module`] is made.

use smallvec::SmallVec;
use std::fmt;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// bfloat16: the upper half of a single.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE double precision: position tables and gradient checks.
    F64,
    /// 32-bit signed integer: token ids, segment indices, positions.
    I32,
    /// Byte.
    U8,
    /// Truth value, one byte, 0 or 1.
    Bool,
}

impl DType {
    /// Every element type, in the order of the language reference.
    pub const ALL: [Self; 7] =
        [Self::F32, Self::Bf16, Self::F16, Self::F64, Self::I32, Self::U8, Self::Bool];

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

    /// Name in IR text.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F64 => "f64",
            Self::I32 => "i32",
            Self::U8 => "u8",
            Self::Bool => "bool",
        }
    }

    /// The type named `name` in IR text.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// `value` rounded to this type (to nearest, ties to even), as the interpreter stores it.
    /// Integers truncate towards zero and saturate; `bool` is 1 for anything but 0.
    pub fn round(self, value: f64) -> f64 {
        match self {
            Self::F64 => value,
            Self::F32 => f64::from(value as f32),
            Self::Bf16 => half::bf16::from_f64(value).to_f64(),
            Self::F16 => half::f16::from_f64(value).to_f64(),
            Self::I32 => f64::from(value as i32),
            Self::U8 => f64::from(value as u8),
            Self::Bool => f64::from(u8::from(value != 0.0)),
        }
    }
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

    /// Row-major strides in elements.
    pub fn strides(&self) -> SmallVec<[usize; 6]> {
        let mut strides: SmallVec<[usize; 6]> = smallvec::smallvec![1; self.rank()];
        for axis in (0..self.rank().saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1] * self.shape[axis + 1];
        }
        strides
    }
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
