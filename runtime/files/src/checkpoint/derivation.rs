//! What a weight is made of on its way from a file to a backend: a stored tensor as it is, or
//! something simple made of several.
//!
//! Checkpoints of other programs hold the same values in other orders, and an adapter holds a
//! correction to them. Neither is copied into a file of our own: a [`Derivation`] says how a weight
//! follows from what is stored, and [`WeightSet::derived`](super::WeightSet::derived) gives a set of
//! such weights, which is read like any other, a range at a time. Shapes and encodings are compared
//! here, before anything is read. What a weight means is the caller's business.

use std::fmt;

use super::encoding::Encoding;
use super::weight::{Made, Weight};
use crate::error::{Error, Result};

/// How a tensor follows from tensors of a set. It is written by programs: how deep it is nested is
/// their business.
#[derive(Clone, Debug, PartialEq)]
pub enum Derivation {
    /// The tensor of this name.
    Tensor(String),
    /// The same elements in the same order, under another shape.
    Reshaped(Box<Self>, Vec<u64>),
    /// The last two axes exchanged.
    Transposed(Box<Self>),
    /// Tensors one behind the other along an axis; they agree in all others.
    Concatenated(Vec<Self>, usize),
    /// `base + scale · up · down`, as an adapter of low rank changes a weight: `base` is
    /// `[rows, …]`, `up` is `[rows, rank]` and `down` is `[rank, …]`. Computed in f32, whatever the
    /// three are stored as; the product is summed in the order of the rank.
    LowRankSum {
        /// The weight without the adapter.
        base: Box<Self>,
        /// From the rank to the rows, often called B.
        up: Box<Self>,
        /// From the columns to the rank, often called A.
        down: Box<Self>,
        /// Factor of the product.
        scale: f32,
    },
}

impl Derivation {
    /// The tensor of this name.
    pub fn tensor(name: impl Into<String>) -> Self {
        Self::Tensor(name.into())
    }

    /// This under another shape.
    #[must_use]
    pub fn reshaped(self, shape: impl Into<Vec<u64>>) -> Self {
        Self::Reshaped(Box::new(self), shape.into())
    }

    /// This with its last two axes exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self::Transposed(Box::new(self))
    }

    /// This and a product of low rank.
    #[must_use]
    pub fn plus_low_rank(self, scale: f32, up: Self, down: Self) -> Self {
        Self::LowRankSum { base: Box::new(self), up: Box::new(up), down: Box::new(down), scale }
    }

    /// The weight that this is, with the tensors that `find` finds.
    ///
    /// # Errors
    /// E0301 for a tensor that is not there, E0303 for shapes that do not fit, E0304 for integers
    /// where numbers are computed or changed in type, E0316 for a weight of more than 2^64 bytes.
    pub(super) fn resolve<'w>(&self, find: &impl Fn(&str) -> Option<&'w Weight>) -> Result<Weight> {
        match self {
            Self::Tensor(name) => find(name).cloned().ok_or_else(|| {
                Error::input("E0301", format!("there is no weight \"{name}\""))
                    .help("give the checkpoint that holds it")
            }),
            Self::Reshaped(of, shape) => {
                let of = of.resolve(find)?;
                let elements = shape.iter().try_fold(1u64, |all, size| all.checked_mul(*size));
                if elements != Some(of.elements()) {
                    return Err(self.misfit(&[&of]));
                }
                self.weight(of.encoding.by_element(), shape.clone(), Made::Reshaped(Box::new(of)))
            }
            Self::Transposed(of) => {
                let of = of.resolve(find)?;
                let mut shape = of.shape.clone();
                let [.., rows, columns] = shape.as_mut_slice() else {
                    return Err(self.misfit(&[&of]));
                };
                std::mem::swap(rows, columns);
                self.weight(of.encoding.by_element(), shape, Made::Transposed(Box::new(of)))
            }
            Self::Concatenated(parts, axis) => {
                let parts: Result<Vec<Weight>> =
                    parts.iter().map(|part| part.resolve(find)).collect();
                self.concatenate(parts?, *axis)
            }
            Self::LowRankSum { base, up, down, scale } => {
                let parts = [base.resolve(find)?, up.resolve(find)?, down.resolve(find)?];
                self.sum(parts, *scale)
            }
        }
    }

    fn concatenate(&self, parts: Vec<Weight>, axis: usize) -> Result<Weight> {
        let shown: Vec<&Weight> = parts.iter().collect();
        let Some(first) = parts.first().filter(|first| axis < first.shape.len()) else {
            return Err(self.misfit(&shown));
        };
        let others = |weight: &Weight| {
            let mut shape = weight.shape.clone();
            if let Some(size) = shape.get_mut(axis) {
                *size = 0;
            }
            shape
        };
        if parts.iter().any(|part| others(part) != others(first)) {
            return Err(self.misfit(&shown));
        }
        let same = parts.iter().all(|part| part.encoding == first.encoding);
        let encoding = match same {
            true => first.encoding.by_element(),
            false => Encoding::F32,
        };
        if !same {
            self.numbers(&shown)?;
        }
        let mut shape = first.shape.clone();
        shape[axis] = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.shape[axis]));
        self.weight(encoding, shape, Made::Concatenated(parts, axis))
    }

    fn sum(&self, parts: [Weight; 3], scale: f32) -> Result<Weight> {
        let [base, up, down] = &parts;
        self.numbers(&[base, up, down])?;
        let volume = |axes: &[u64]| axes.iter().product::<u64>();
        let shapes = [base, up, down].map(|part| part.shape.split_first());
        let [Some((rows, row)), Some((first, ups)), Some((rank, downs))] = shapes else {
            return Err(self.misfit(&[base, up, down]));
        };
        let fits = first == rows && volume(ups) == *rank && volume(row) == volume(downs);
        if *rank == 0 || !fits {
            return Err(self.misfit(&[base, up, down]));
        }
        let shape = base.shape.clone();
        self.weight(Encoding::F32, shape, Made::LowRankSum(Box::new(parts), scale))
    }

    fn weight(&self, encoding: Encoding, shape: Vec<u64>, made: Made) -> Result<Weight> {
        match encoding.bytes_of(&shape) {
            Some(bytes) => Ok(Weight { encoding, shape, bytes, made }),
            None => Err(Error::input(
                "E0316",
                format!("{self}: a {encoding} of shape {shape:?} is larger than 2^64 bytes"),
            )
            .help("take each part once")),
        }
    }

    /// Refuses integers among the parts.
    fn numbers(&self, parts: &[&Weight]) -> Result<()> {
        match parts.iter().find(|part| !part.encoding.is_float()) {
            None => Ok(()),
            Some(part) => Err(Error::input(
                "E0304",
                format!("{self}: one of its parts is not floating-point: it is {}", part.encoding),
            )
            .help("use the F32, F16, BF16 or plain F8 version of the weights")),
        }
    }

    fn misfit(&self, parts: &[&Weight]) -> Error {
        let shapes: Vec<String> = parts.iter().map(|part| format!("{:?}", part.shape)).collect();
        let message = format!("{self}: shapes that do not fit: {}", shapes.join(", "));
        Error::input("E0303", message).help("the files are of different models or versions")
    }
}

impl fmt::Display for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor(name) => write!(f, "`{name}`"),
            Self::Reshaped(of, shape) => write!(f, "reshape({of}, {shape:?})"),
            Self::Transposed(of) => write!(f, "transpose({of})"),
            Self::Concatenated(parts, axis) => {
                f.write_str("concat(")?;
                parts.iter().try_for_each(|part| write!(f, "{part}, "))?;
                write!(f, "axis {axis})")
            }
            Self::LowRankSum { base, up, down, scale } => {
                write!(f, "{base} + {scale} * {up} * {down}")
            }
        }
    }
}
