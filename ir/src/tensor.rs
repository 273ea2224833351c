//! Host tensors: the values a module takes and gives, and the form in which weights, inputs and
//! outputs cross every interface of the product.
//!
//! A [`Tensor`] is a [`TensorType`] and its elements, dense, row-major (the last axis is
//! contiguous) and little-endian, in memory that begins with a cache line, so that a typed slice of any
//! element type is a plain view and no vector of a kernel lies across two lines. It owns its memory.
//! There are no strides, no views and no arithmetic here; those are the module's business.

use crate::types::{DType, TensorType};
use bytemuck::{Pod, cast_slice, cast_slice_mut};
use half::{bf16, f16};
use std::fmt;

// Typed views reinterpret the stored bytes, which are little-endian by contract.
const _: () = assert!(cfg!(target_endian = "little"), "little-endian hosts only");

/// A dense tensor in host memory.
///
/// ```
/// use anyid_ir::{DType, Tensor};
///
/// let x = Tensor::from_f32([2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
/// assert_eq!(x.ty().to_string(), "f32[2,2]");
/// assert_eq!(x.as_f32().unwrap()[2], 3.0);
/// assert_eq!(x.cast(DType::Bf16).to_f64_vec(), [1.0, 2.0, 3.0, 4.0]);
/// assert!(x.as_i32().is_err());
/// ```
///
/// Equality compares types and stored bits: equal NaN patterns are equal, `0.0` and `-0.0` differ.
pub struct Tensor {
    ty: TensorType,
    /// The bytes, with zeros before them up to a cache line and behind them to whole words.
    words: Vec<u64>,
    /// The first word of the bytes.
    start: usize,
}

/// Bytes of a cache line, on which tensors begin.
const LINE: usize = 64;

impl Clone for Tensor {
    fn clone(&self) -> Self {
        let mut out = Self::zeros(self.ty.clone());
        out.bytes_mut().copy_from_slice(self.bytes());
        out
    }
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.ty == other.ty && self.bytes() == other.bytes()
    }
}

impl Eq for Tensor {}

/// Why a tensor could not be made from data or read as a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorError {
    /// The data has another length than the type asks for.
    Length {
        /// The type that was asked for.
        ty: TensorType,
        /// Elements or bytes wanted.
        expected: usize,
        /// Elements or bytes given.
        given: usize,
    },
    /// The tensor holds another element type than the one asked for.
    Element {
        /// The tensor's type.
        ty: TensorType,
        /// The element type asked for.
        expected: &'static str,
    },
}

impl fmt::Display for TensorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { ty, expected, given } => {
                write!(f, "data for {ty} has length {given}, expected {expected}")
            }
            Self::Element { ty, expected } => {
                write!(f, "a tensor of type {ty} was read as {expected}")
            }
        }
    }
}

impl std::error::Error for TensorError {}

/// Result with [`TensorError`].
pub type TensorResult<T> = Result<T, TensorError>;

macro_rules! views {
    ($($read:ident $write:ident $element:ty, $name:literal, $($dtype:ident)|+;)+) => {
        impl Tensor {
            $(
                #[doc = concat!("The elements as `", $name, "`. Error: another element type.")]
                pub fn $read(&self) -> TensorResult<&[$element]> {
                    self.expect(matches!(self.ty.dtype, $(DType::$dtype)|+), $name)?;
                    Ok(self.view())
                }

                #[doc = concat!("The elements as mutable `", $name, "`. Error: another type.")]
                pub fn $write(&mut self) -> TensorResult<&mut [$element]> {
                    self.expect(matches!(self.ty.dtype, $(DType::$dtype)|+), $name)?;
                    Ok(self.view_mut())
                }
            )+
        }
    };
}

views! {
    as_f32 as_f32_mut f32, "f32", F32;
    as_f64 as_f64_mut f64, "f64", F64;
    as_bf16 as_bf16_mut bf16, "bf16", Bf16;
    as_f16 as_f16_mut f16, "f16", F16;
    as_i32 as_i32_mut i32, "i32", I32;
    as_u8 as_u8_mut u8, "u8 or bool", U8 | Bool;
}

impl Tensor {
    /// All elements zero.
    pub fn zeros(ty: TensorType) -> Self {
        let words = Self::words(&ty).expect("a tensor has at most 2^63 bytes");
        Self::within(ty, vec![0; words])
    }

    /// All elements zero; `None` where there is no memory for them.
    pub fn try_zeros(ty: TensorType) -> Option<Self> {
        let count = Self::words(&ty)?;
        let mut words = crate::memory::room(count)?;
        words.resize(count, 0);
        Some(Self::within(ty, words))
    }

    /// Words that hold the type's bytes wherever the memory begins.
    fn words(ty: &TensorType) -> Option<usize> {
        let bytes = ty.elements().checked_mul(ty.dtype.bytes())?;
        Some(bytes.div_ceil(size_of::<u64>()) + LINE / size_of::<u64>() - 1)
    }

    fn within(ty: TensorType, words: Vec<u64>) -> Self {
        let start = words.as_ptr().align_offset(LINE);
        Self { ty, words, start }
    }

    /// From little-endian bytes in row-major order. Error: not as many bytes as the type has.
    pub fn from_bytes(ty: TensorType, bytes: &[u8]) -> TensorResult<Self> {
        let mut tensor = Self::zeros(ty);
        tensor.expect_length(tensor.byte_len(), bytes.len())?;
        tensor.bytes_mut().copy_from_slice(bytes);
        Ok(tensor)
    }

    /// An `f32` tensor. Error: not as many values as the shape has.
    pub fn from_f32(shape: impl IntoIterator<Item = usize>, values: &[f32]) -> TensorResult<Self> {
        Self::from_elements(TensorType::new(DType::F32, shape), values)
    }

    /// An `i32` tensor. Error: not as many values as the shape has.
    pub fn from_i32(shape: impl IntoIterator<Item = usize>, values: &[i32]) -> TensorResult<Self> {
        Self::from_elements(TensorType::new(DType::I32, shape), values)
    }

    /// A `u8` tensor. Error: not as many values as the shape has.
    pub fn from_u8(shape: impl IntoIterator<Item = usize>, values: &[u8]) -> TensorResult<Self> {
        Self::from_elements(TensorType::new(DType::U8, shape), values)
    }

    /// A tensor of any type from doubles, each rounded as [`DType::round`] does. Error: not as
    /// many values as the type has elements.
    pub fn from_f64s(ty: TensorType, values: &[f64]) -> TensorResult<Self> {
        let mut tensor = Self::zeros(ty);
        tensor.expect_length(tensor.ty.elements(), values.len())?;
        let dtype = tensor.ty.dtype;
        match dtype {
            DType::F32 => fill::<f32>(&mut tensor, values, |v| v as f32),
            DType::F64 => fill::<f64>(&mut tensor, values, |v| v),
            DType::Bf16 => fill(&mut tensor, values, |v| bf16::from_f32(dtype.round(v) as f32)),
            DType::F16 => fill(&mut tensor, values, |v| f16::from_f32(dtype.round(v) as f32)),
            DType::I32 => fill::<i32>(&mut tensor, values, |v| v as i32),
            DType::U8 => fill::<u8>(&mut tensor, values, |v| v as u8),
            DType::Bool => fill::<u8>(&mut tensor, values, |v| u8::from(v != 0.0)),
        }
        Ok(tensor)
    }

    fn from_elements<T: Pod>(ty: TensorType, values: &[T]) -> TensorResult<Self> {
        let mut tensor = Self::zeros(ty);
        tensor.expect_length(tensor.ty.elements(), values.len())?;
        tensor.view_mut().copy_from_slice(values);
        Ok(tensor)
    }

    /// Element type and shape.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.ty.dtype
    }

    /// Axis sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.ty.shape
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.ty.elements()
    }

    /// The elements' bytes, little-endian, row-major, without padding.
    pub fn bytes(&self) -> &[u8] {
        self.view()
    }

    /// The elements' bytes for writing. Any `bool` byte but 0 counts as 1.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.view_mut()
    }

    /// The elements as doubles; exact for every element type.
    pub fn to_f64_vec(&self) -> Vec<f64> {
        match self.ty.dtype {
            DType::F32 => self.view::<f32>().iter().map(|v| f64::from(*v)).collect(),
            DType::F64 => self.view::<f64>().to_vec(),
            DType::Bf16 => self.view::<bf16>().iter().map(|v| f64::from(v.to_f32())).collect(),
            DType::F16 => self.view::<f16>().iter().map(|v| f64::from(v.to_f32())).collect(),
            DType::I32 => self.view::<i32>().iter().map(|v| f64::from(*v)).collect(),
            DType::U8 => self.view::<u8>().iter().map(|v| f64::from(*v)).collect(),
            DType::Bool => self.view::<u8>().iter().map(|v| f64::from(u8::from(*v != 0))).collect(),
        }
    }

    /// The elements as singles, rounded to nearest where they do not fit.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        match self.ty.dtype {
            DType::F32 => self.view::<f32>().to_vec(),
            DType::Bf16 => self.view::<bf16>().iter().map(|v| v.to_f32()).collect(),
            DType::F16 => self.view::<f16>().iter().map(|v| v.to_f32()).collect(),
            _ => self.to_f64_vec().into_iter().map(|v| v as f32).collect(),
        }
    }

    /// The same values in another element type, rounded as [`DType::round`] does.
    #[must_use]
    pub fn cast(&self, dtype: DType) -> Self {
        if dtype == self.ty.dtype {
            return self.clone();
        }
        Self::from_f64s(self.ty.with_dtype(dtype), &self.to_f64_vec())
            .expect("a tensor has as many values as elements")
    }

    /// The same elements in another shape. Error: another number of elements.
    pub fn reshaped(mut self, shape: impl IntoIterator<Item = usize>) -> TensorResult<Self> {
        let ty = TensorType::new(self.ty.dtype, shape);
        if ty.elements() != self.ty.elements() {
            let (expected, given) = (ty.elements(), self.ty.elements());
            return Err(TensorError::Length { ty, expected, given });
        }
        self.ty = ty;
        Ok(self)
    }

    fn byte_len(&self) -> usize {
        self.ty.elements() * self.ty.dtype.bytes()
    }

    /// Callers have matched `T` to the element type, or ask for bytes.
    fn view<T: Pod>(&self) -> &[T] {
        let bytes: &[u8] = &cast_slice(&self.words[self.start..])[..self.byte_len()];
        cast_slice(bytes)
    }

    fn view_mut<T: Pod>(&mut self) -> &mut [T] {
        let len = self.byte_len();
        let bytes: &mut [u8] = &mut cast_slice_mut(&mut self.words[self.start..])[..len];
        cast_slice_mut(bytes)
    }

    fn expect(&self, holds: bool, expected: &'static str) -> TensorResult<()> {
        if holds { Ok(()) } else { Err(TensorError::Element { ty: self.ty.clone(), expected }) }
    }

    fn expect_length(&self, expected: usize, given: usize) -> TensorResult<()> {
        if expected == given {
            return Ok(());
        }
        Err(TensorError::Length { ty: self.ty.clone(), expected, given })
    }
}

fn fill<T: Pod>(tensor: &mut Tensor, values: &[f64], convert: impl Fn(f64) -> T) {
    for (to, from) in tensor.view_mut::<T>().iter_mut().zip(values) {
        *to = convert(*from);
    }
}

impl fmt::Debug for Tensor {
    /// The type and the first few values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        write!(f, "{} ", self.ty)?;
        let ty = TensorType::new(self.ty.dtype, [self.elements().min(SHOWN)]);
        let bytes = &self.bytes()[..ty.elements() * ty.dtype.bytes()];
        let start = Self::from_bytes(ty, bytes).expect("it is a part of the bytes");
        let mut list = f.debug_list();
        list.entries(start.to_f64_vec());
        if self.elements() > SHOWN { list.finish_non_exhaustive() } else { list.finish() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_stores_and_returns_its_values() {
        let values = [0.0, 1.0, 2.5, -3.25, 300.0];
        for dtype in DType::ALL {
            let ty = TensorType::new(dtype, [5]);
            let tensor = Tensor::from_f64s(ty.clone(), &values).unwrap();
            let expected: Vec<f64> = values.iter().map(|v| dtype.round(*v)).collect();
            assert_eq!(tensor.to_f64_vec(), expected, "{dtype}");
            assert_eq!(tensor.bytes().len() as u64, ty.bytes());
            assert_eq!(tensor.clone().bytes().as_ptr().align_offset(LINE), 0);
            let again = Tensor::from_bytes(ty, tensor.bytes()).unwrap();
            assert_eq!(again, tensor);
            assert_eq!(tensor.cast(DType::F64).cast(dtype), tensor);
        }
    }

    #[test]
    fn typed_views_read_and_write_the_same_memory() {
        let mut x = Tensor::zeros(TensorType::new(DType::I32, [3]));
        x.as_i32_mut().unwrap().copy_from_slice(&[1, -2, 3]);
        assert_eq!(x.as_i32().unwrap(), [1, -2, 3]);
        assert_eq!(&x.bytes()[4..8], (-2i32).to_le_bytes());
        let error = x.as_f32().unwrap_err();
        assert_eq!(error.to_string(), "a tensor of type i32[3] was read as f32");
        assert_eq!(Tensor::from_u8([2], &[7, 9]).unwrap().as_u8().unwrap(), [7, 9]);
        let half = Tensor::from_f64s(TensorType::new(DType::Bf16, [1]), &[1.5]).unwrap();
        assert_eq!(half.as_bf16().unwrap()[0].to_f32(), 1.5);
    }

    #[test]
    fn lengths_are_checked() {
        let error = Tensor::from_f32([2, 2], &[1.0]).unwrap_err();
        assert_eq!(error.to_string(), "data for f32[2,2] has length 1, expected 4");
        assert!(Tensor::from_bytes(TensorType::new(DType::F32, [2]), &[0; 9]).is_err());
        let x = Tensor::from_i32([4], &[1, 2, 3, 4]).unwrap();
        assert!(x.clone().reshaped([3]).is_err());
        assert_eq!(x.reshaped([2, 2]).unwrap().shape(), [2, 2]);
    }

    #[test]
    fn empty_and_scalar_tensors_work() {
        let empty = Tensor::zeros(TensorType::new(DType::Bf16, [3, 0]));
        assert!(empty.to_f32_vec().is_empty());
        let scalar = Tensor::from_f32([], &[4.0]).unwrap();
        assert_eq!(scalar.to_f64_vec(), [4.0]);
        assert_eq!(format!("{scalar:?}"), "f32[] [4.0]");
        let long = Tensor::from_u8([9], &[1; 9]).unwrap();
        assert!(format!("{long:?}").ends_with("..]"), "{long:?}");
    }
}
