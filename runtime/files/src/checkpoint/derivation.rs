//! What a weight is made of on its way from a file to a backend: a stored tensor as it is, or
//! something simple made of several.
//!
//! Checkpoints of other programs hold the same values in other orders, and an adapter holds a
//! correction to them. Neither is copied into a file of our own: a [`Derivation`] says how a weight
//! follows from what is stored, and [`WeightSet::derived`](super::WeightSet::derived) gives a set
//! of such weights, which is read like any other, a range at a time. Shapes and encodings are
//! compared here, before anything is read. What a weight means is the caller's business.

use std::fmt;
use std::sync::Arc;

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
    /// The sum of its terms, each times a factor, as adapters change a weight. The first term gives
    /// the shape; the others have as many rows (its first axis) and as many elements. Computed in
    /// f32, term by term in this order.
    Sum(Vec<(f32, Self)>),
    /// `up · down`: `up` is `[rows, rank]` and `down` is `[rank, …]`, which gives `[rows, …]`. In
    /// f32, summed in the order of the rank.
    Product(Box<[Self; 2]>),
    /// Two tensors of one shape multiplied element by element.
    Elementwise(Box<[Self; 2]>),
    /// The Kronecker product of two matrices: every element of the first times all of the second.
    Kronecker(Box<[Self; 2]>),
    /// A matrix whose rows are brought to given lengths (magnitudes `[rows]` or `[rows, 1, …]`), or
    /// its columns (magnitudes `[1, columns]`).
    Normalised(Box<[Self; 2]>),
    /// A matrix times scales: one for all of it (`[]` or `[1]`), one for each row (`[rows]` or
    /// `[rows, 1]`), or one for each of several runs of a row (`[rows, runs, 1]`). In f32, each value
    /// rounded once.
    Scaled(Box<[Self; 2]>),
    /// The same values rounded once to another encoding: F64, F32, F16 or BF16.
    Rounded(Box<Self>, Encoding),
    /// The same values, which have to be finite as they are encoded. What was computed of what and where
    /// it is from are said, for the error of one that is not.
    Finite(Box<Self>, Arc<[String; 2]>),
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

    /// This and another term of a sum.
    #[must_use]
    pub fn plus(self, factor: f32, term: Self) -> Self {
        let mut terms = match self {
            Self::Sum(terms) => terms,
            other => vec![(1.0, other)],
        };
        terms.push((factor, term));
        Self::Sum(terms)
    }

    /// This and a product of low rank: `up`, often called B, leads from the rank to the rows, and
    /// `down`, often called A, from the columns to the rank.
    #[must_use]
    pub fn plus_low_rank(self, scale: f32, up: Self, down: Self) -> Self {
        self.plus(scale, Self::product(up, down))
    }

    /// The matrix product of two.
    pub fn product(up: Self, down: Self) -> Self {
        Self::Product(Box::new([up, down]))
    }

    /// This times scales.
    #[must_use]
    pub fn scaled(self, scales: Self) -> Self {
        Self::Scaled(Box::new([self, scales]))
    }

    /// This rounded once to another encoding.
    #[must_use]
    pub fn rounded(self, to: Encoding) -> Self {
        Self::Rounded(Box::new(self), to)
    }

    /// This, which is refused when it is read where a value is not finite (E0379): `what` was computed of
    /// the file at `place`.
    #[must_use]
    pub fn finite(self, what: impl Into<String>, place: impl Into<String>) -> Self {
        Self::Finite(Box::new(self), Arc::new([what.into(), place.into()]))
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
            Self::Sum(terms) => {
                let terms: Result<Vec<(f32, Weight)>> =
                    terms.iter().map(|(factor, term)| Ok((*factor, term.resolve(find)?))).collect();
                self.sum(terms?)
            }
            Self::Product(parts) => self.pair(parts, find, product_shape, Made::Product),
            Self::Elementwise(parts) => {
                let same = |a: &[u64], b: &[u64]| (a == b).then(|| a.to_vec());
                self.pair(parts, find, same, Made::Elementwise)
            }
            Self::Kronecker(parts) => self.pair(parts, find, kronecker_shape, Made::Kronecker),
            Self::Normalised(parts) => self.pair(parts, find, normalised_shape, |parts| {
                Made::Normalised(parts, Arc::default())
            }),
            Self::Scaled(parts) => {
                let shape = |of: &[u64], scales: &[u64]| runs(of, scales).map(|_| of.to_vec());
                self.pair(parts, find, shape, Made::Scaled)
            }
            Self::Rounded(of, encoding) => {
                let of = of.resolve(find)?;
                self.numbers(&[&of])?;
                let shape = of.shape.clone();
                self.weight(*encoding, shape, Made::Rounded(Box::new(of)))
            }
            Self::Finite(of, whose) => {
                let of = of.resolve(find)?;
                self.numbers(&[&of])?;
                let (encoding, shape) = (of.encoding, of.shape.clone());
                self.weight(encoding, shape, Made::Finite(Box::new(of), whose.clone()))
            }
        }
    }

    /// What is computed of two parts, in f32; `shape` is that of the result, if there is one.
    fn pair<'w>(
        &self,
        parts: &[Self; 2],
        find: &impl Fn(&str) -> Option<&'w Weight>,
        shape: impl Fn(&[u64], &[u64]) -> Option<Vec<u64>>,
        made: impl Fn(Box<[Weight; 2]>) -> Made,
    ) -> Result<Weight> {
        let [a, b] = parts;
        let parts = [a.resolve(find)?, b.resolve(find)?];
        let [a, b] = &parts;
        self.numbers(&[a, b])?;
        let shape = shape(&a.shape, &b.shape).ok_or_else(|| self.misfit(&[a, b]))?;
        self.weight(Encoding::F32, shape, made(Box::new(parts)))
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

    fn sum(&self, terms: Vec<(f32, Weight)>) -> Result<Weight> {
        let shown: Vec<&Weight> = terms.iter().map(|(_, term)| term).collect();
        self.numbers(&shown)?;
        let Some(first) = shown.first() else { return Err(self.misfit(&shown)) };
        let fits = |term: &&Weight| {
            term.shape.first() == first.shape.first() && term.elements() == first.elements()
        };
        if !shown.iter().all(fits) {
            return Err(self.misfit(&shown));
        }
        let shape = first.shape.clone();
        self.weight(Encoding::F32, shape, Made::Sum(terms))
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
            Self::Sum(terms) => {
                for (at, (factor, term)) in terms.iter().enumerate() {
                    let plus = if at == 0 { "" } else { " + " };
                    match (at, *factor == 1.0) {
                        (0, true) => write!(f, "{term}")?,
                        _ => write!(f, "{plus}{factor} * {term}")?,
                    }
                }
                Ok(())
            }
            Self::Product(parts) => write!(f, "{} * {}", parts[0], parts[1]),
            Self::Elementwise(parts) => write!(f, "elementwise({}, {})", parts[0], parts[1]),
            Self::Kronecker(parts) => write!(f, "kronecker({}, {})", parts[0], parts[1]),
            Self::Normalised(parts) => write!(f, "normalise({}, {})", parts[0], parts[1]),
            Self::Scaled(parts) => write!(f, "{} times {}", parts[0], parts[1]),
            Self::Rounded(of, encoding) => write!(f, "{encoding}({of})"),
            Self::Finite(of, _) => write!(f, "{of}"),
        }
    }
}

/// Shape of `up · down`.
fn product_shape(up: &[u64], down: &[u64]) -> Option<Vec<u64>> {
    let ((rows, ups), (rank, _)) = (up.split_first()?, down.split_first()?);
    // Not the plain product of the axes: that may not fit 64 bits where one of them is 0.
    let across = ups.iter().try_fold(1u64, |all, size| all.checked_mul(*size))?;
    (*rank > 0 && across == *rank).then(|| [&[*rows], &down[1..]].concat())
}

/// Elements of a matrix of shape `of` that share each of the scales of a shape, in its order; `None`
/// where the shapes do not go together.
pub(super) fn runs(of: &[u64], scales: &[u64]) -> Option<u64> {
    let (rows, row) = of.split_first()?;
    let columns: u64 = row.iter().product();
    match scales {
        [] | [1] => Some((rows * columns).max(1)),
        [all] | [all, 1] if all == rows => Some(columns.max(1)),
        [all, runs, 1] if all == rows && *runs > 0 && columns.is_multiple_of(*runs) => {
            Some((columns / runs).max(1))
        }
        _ => None,
    }
}

fn kronecker_shape(a: &[u64], b: &[u64]) -> Option<Vec<u64>> {
    let ([rows, columns], [times, across]) = (a, b) else { return None };
    Some(vec![rows.checked_mul(*times)?, columns.checked_mul(*across)?])
}

/// Shape of a matrix with magnitudes for its rows or columns; a matrix may have trailing axes,
/// which count as columns.
fn normalised_shape(of: &[u64], magnitudes: &[u64]) -> Option<Vec<u64>> {
    let (rows, row) = of.split_first()?;
    let elements: u64 = of.iter().product();
    let (first, rest) = magnitudes.split_first()?;
    let ones = |axes: &[u64]| axes.iter().all(|size| *size == 1);
    let by_row = first == rows && ones(rest);
    let by_column = magnitudes.len() > 1 && *first == 1 && rest == row;
    ((by_row || by_column) && elements > 0).then(|| of.to_vec())
}
