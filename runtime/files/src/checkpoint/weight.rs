//! One weight of a set, and reading it: a range of bytes at a time, whatever it is made of.
//!
//! Contract: a read needs no more memory than bounded pieces; what is computed (`computed`) takes a
//! few MiB besides. No weight is ever whole in memory. A transposition reads its source in strips as
//! wide as the range has rows, so ranges of many rows are cheap and single rows are not. Where an
//! element lands is the same whatever the ranges are, and so is its value.

use std::sync::{Arc, OnceLock};

use super::computed;
use super::encoding::{Encoding, PIECE};
use super::file::Checkpoint;
use super::table::TensorRange;
use crate::error::Result;

/// A tensor that can be read: what it is, and what it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The encoding in which it is read.
    pub encoding: Encoding,
    /// Sizes, slowest dimension first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Bytes of all elements in that encoding.
    pub bytes: u64,
    pub(super) made: Made,
}

/// What a weight is made of. Shapes and encodings of the parts fit.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Made {
    /// The tensor at a position of a file of the set.
    Stored {
        file: usize,
        position: usize,
    },
    Reshaped(Box<Weight>),
    Transposed(Box<Weight>),
    /// Along an axis.
    Concatenated(Vec<Weight>, usize),
    /// Terms with their factors.
    Sum(Vec<(f32, Weight)>),
    /// Up and down.
    Product(Box<[Weight; 2]>),
    Elementwise(Box<[Weight; 2]>),
    Kronecker(Box<[Weight; 2]>),
    /// A matrix and the lengths of its rows or columns, with the factors that follow from both once
    /// they were needed.
    Normalised(Box<[Weight; 2]>, Arc<OnceLock<Vec<f32>>>),
    /// A matrix and its scales.
    Scaled(Box<[Weight; 2]>),
    Rounded(Box<Weight>),
    /// What has to be finite, with what it was computed of and where that is from.
    Finite(Box<Weight>, Arc<[String; 2]>),
}

/// The files of a set.
pub(super) type Files = [Arc<Checkpoint>];

impl Weight {
    /// A stored tensor, at `position` of the first file of a set.
    pub(super) fn stored(tensor: &TensorRange, position: usize) -> Self {
        let (encoding, shape, bytes) = (tensor.encoding, tensor.shape.clone(), tensor.bytes);
        Self { encoding, shape, bytes, made: Made::Stored { file: 0, position } }
    }

    /// The same weight where its files stand `by` places further behind.
    pub(super) fn shift(&mut self, by: usize) {
        match &mut self.made {
            Made::Stored { file, .. } => *file += by,
            Made::Reshaped(of) | Made::Transposed(of) | Made::Rounded(of) | Made::Finite(of, _) => {
                of.shift(by)
            }
            Made::Concatenated(parts, _) => parts.iter_mut().for_each(|part| part.shift(by)),
            Made::Sum(terms) => terms.iter_mut().for_each(|(_, term)| term.shift(by)),
            Made::Product(parts)
            | Made::Elementwise(parts)
            | Made::Kronecker(parts)
            | Made::Scaled(parts)
            | Made::Normalised(parts, _) => parts.iter_mut().for_each(|part| part.shift(by)),
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Files and positions of the stored tensors it is made of; there is one at least.
    pub(super) fn leaves(&self) -> Vec<(usize, usize)> {
        match &self.made {
            Made::Stored { file, position } => vec![(*file, *position)],
            Made::Reshaped(of) | Made::Transposed(of) | Made::Rounded(of) | Made::Finite(of, _) => {
                of.leaves()
            }
            Made::Concatenated(parts, _) => parts.iter().flat_map(Self::leaves).collect(),
            Made::Sum(terms) => terms.iter().flat_map(|(_, term)| term.leaves()).collect(),
            Made::Product(parts)
            | Made::Elementwise(parts)
            | Made::Kronecker(parts)
            | Made::Scaled(parts)
            | Made::Normalised(parts, _) => parts.iter().flat_map(Self::leaves).collect(),
        }
    }

    /// The file of the first tensor it is made of.
    pub(super) fn file(&self) -> usize {
        self.leaves()[0].0
    }

    /// The tensors it is made of by the names they are stored under: `` `a` and `b` ``.
    pub(super) fn made_of(&self, files: &Files) -> String {
        self.list(|file, position| format!("`{}`", files[file].table().tensors()[position].name))
    }

    /// As [`Weight::made_of`], with their files.
    pub(super) fn origin(&self, files: &Files) -> String {
        self.list(|file, position| {
            let file = &files[file];
            let name = &file.table().tensors()[position].name;
            format!("\"{name}\" of {}", file.path().display())
        })
    }

    fn list(&self, word: impl Fn(usize, usize) -> String) -> String {
        let words: Vec<String> = self.leaves().iter().map(|leaf| word(leaf.0, leaf.1)).collect();
        words.join(" and ")
    }

    /// Fills `out` with bytes, `from` bytes behind the first. Of a weight that is not simply stored
    /// both are whole elements.
    ///
    /// # Errors
    /// Those of reading files, E0603 where there is no memory for what is computed, and E0379 for a value
    /// that is not finite and has to be.
    ///
    /// # Panics
    /// If the range ends behind the weight.
    pub(super) fn read(&self, files: &Files, from: u64, out: &mut [u8]) -> Result<()> {
        let inside = from.checked_add(out.len() as u64).is_some_and(|end| end <= self.bytes);
        assert!(inside, "{} bytes from {from} of {} bytes", out.len(), self.bytes);
        let size = self.encoding.block().bytes;
        let first = from / size;
        match &self.made {
            Made::Stored { file, position } => files[*file].read(*position, from, out),
            Made::Reshaped(of) => of.read_as(self.encoding, files, first, out),
            Made::Transposed(of) => self.transpose(of, files, first, out),
            Made::Concatenated(parts, axis) => self.concatenate(parts, *axis, files, first, out),
            Made::Finite(of, whose) => {
                of.read(files, from, out)?;
                self.require_finite(whose, first, out)
            }
            Made::Sum(_)
            | Made::Product(_)
            | Made::Elementwise(_)
            | Made::Kronecker(_)
            | Made::Normalised(..)
            | Made::Scaled(_)
            | Made::Rounded(_) => self.read_computed(files, first, out),
        }
    }

    /// Fills `out` with elements from the `first` on in an encoding that is its own, or F32.
    ///
    /// # Errors
    /// As [`Weight::read`], and E0321 for integers as F32.
    pub(super) fn read_as(
        &self,
        encoding: Encoding,
        files: &Files,
        mut first: u64,
        out: &mut [u8],
    ) -> Result<()> {
        if encoding == self.encoding {
            return self.read(files, first * encoding.block().bytes, out);
        }
        let mut room = computed::room((out.len() / 4).min(computed::CHUNK) as u64)?;
        for out in out.chunks_mut(4 * computed::CHUNK) {
            let values = &mut room[..out.len() / 4];
            self.values(files, first, values)?;
            Encoding::F32.encode(values, out)?;
            first += values.len() as u64;
        }
        Ok(())
    }

    /// Fills `out` with the values of the elements from the `first` on.
    ///
    /// # Errors
    /// As [`Weight::read`], and E0321 for integers.
    pub(super) fn values(&self, files: &Files, first: u64, out: &mut [f32]) -> Result<()> {
        match &self.made {
            Made::Reshaped(of) => of.values(files, first, out),
            Made::Finite(of, whose) => {
                of.values(files, first, out)?;
                computed::all_finite(out, whose, (first, self.encoding))
            }
            Made::Sum(_)
            | Made::Product(_)
            | Made::Elementwise(_)
            | Made::Kronecker(_)
            | Made::Normalised(..)
            | Made::Scaled(_)
            | Made::Rounded(_) => self.compute(files, first, out),
            Made::Stored { .. } | Made::Transposed(_) | Made::Concatenated(..) => {
                self.encoding.decode_from(first, out, |from, bytes| self.read(files, from, bytes))
            }
        }
    }

    /// Refuses elements from the `first` on that are not finite as they are encoded.
    fn require_finite(&self, whose: &[String; 2], first: u64, bytes: &[u8]) -> Result<()> {
        let size = self.encoding.block().bytes as usize;
        let mut values = [0f32; PIECE];
        for (piece, bytes) in (0u64..).zip(bytes.chunks(PIECE * size)) {
            let values = &mut values[..bytes.len() / size];
            self.encoding.decode(bytes, values)?;
            let first = first + piece * PIECE as u64;
            computed::all_finite(values, whose, (first, self.encoding))?;
        }
        Ok(())
    }

    /// The last two axes of `of` exchanged.
    fn transpose(&self, of: &Self, files: &Files, first: u64, out: &mut [u8]) -> Result<()> {
        let [.., rows, columns] = *self.shape.as_slice() else { return Ok(()) };
        let size = self.encoding.block().bytes;
        let count = out.len() as u64 / size;
        let mut strip = [0; 8 * PIECE];
        let widest = strip.len() as u64 / size;
        let mut at = first;
        while at < first + count {
            // A tile: rows of this weight, whole ones but for the first and the last of the range.
            let row = at / columns;
            let matrix = row / rows;
            let tile = (row + widest).min((matrix + 1) * rows) * columns;
            let end = tile.min(first + count);
            let last = end.div_ceil(columns);
            for column in 0..columns {
                // The rows of the tile in which the range holds this column lie together in `of`.
                let from = row + u64::from(column < at - row * columns);
                let until = last - u64::from(column >= end - (last - 1) * columns);
                if from >= until {
                    continue;
                }
                let strip = &mut strip[..((until - from) * size) as usize];
                let source = (matrix * columns + column) * rows + from - matrix * rows;
                of.read_as(self.encoding, files, source, strip)?;
                for (row, value) in (from..until).zip(strip.chunks_exact(size as usize)) {
                    let place = ((row * columns + column - first) * size) as usize;
                    out[place..][..size as usize].copy_from_slice(value);
                }
            }
            at = end;
        }
        Ok(())
    }

    /// `parts` one behind the other along `axis`.
    fn concatenate(
        &self,
        parts: &[Self],
        axis: usize,
        files: &Files,
        first: u64,
        out: &mut [u8],
    ) -> Result<()> {
        let size = self.encoding.block().bytes;
        let inner: u64 = self.shape[axis + 1..].iter().product();
        let row = self.shape[axis] * inner;
        let (mut at, mut rest) = (first, out);
        while !rest.is_empty() {
            let (outer, mut column) = (at / row, at % row);
            for part in parts {
                let width = part.shape[axis] * inner;
                if column >= width {
                    column -= width;
                    continue;
                }
                let count = (width - column).min(rest.len() as u64 / size);
                let (now, later) = std::mem::take(&mut rest).split_at_mut((count * size) as usize);
                part.read_as(self.encoding, files, outer * width + column, now)?;
                (rest, at, column) = (later, at + count, 0);
                if rest.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Derivation, WeightSet};
    use super::*;
    use crate::testing::{TempFolder, file};
    use half::{bf16, f16};

    const FLOATS: [Encoding; 3] = [Encoding::F32, Encoding::Bf16, Encoding::F16];

    /// `count` numbers that all three encodings hold exactly.
    fn numbers(count: u64, seed: u64) -> Vec<f64> {
        (0..count).map(|i| ((i * 37 + seed * 11) % 61) as f64 / 8.0 - 3.0).collect()
    }

    fn encoded(encoding: Encoding, values: &[f64]) -> Vec<u8> {
        let one = |value: &f64| match encoding {
            Encoding::F32 => (*value as f32).to_le_bytes().to_vec(),
            Encoding::Bf16 => bf16::from_f64(*value).to_le_bytes().to_vec(),
            Encoding::F16 => f16::from_f64(*value).to_le_bytes().to_vec(),
            Encoding::I16 => (*value as i16).to_le_bytes().to_vec(),
            _ => panic!("{encoding}"),
        };
        values.iter().flat_map(one).collect()
    }

    fn contents(tensors: &[(&str, Encoding, &[u64], &[f64])]) -> Vec<u8> {
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        for (name, encoding, shape, values) in tensors {
            let begin = data.len();
            data.extend(encoded(*encoding, values));
            entries.push(format!(
                r#""{name}":{{"dtype":"{encoding}","shape":{shape:?},"data_offsets":[{begin},{}]}}"#,
                data.len()
            ));
        }
        file(&format!("{{{}}}", entries.join(",")), &data)
    }

    fn set(tensors: &[(&str, Encoding, &[u64], &[f64])]) -> WeightSet {
        let file = Checkpoint::from_bytes(contents(tensors), "memory").unwrap();
        WeightSet::from_checkpoints(vec![file]).unwrap()
    }

    /// The weight `w` that is made so.
    fn made(set: &WeightSet, derivation: Derivation) -> Result<WeightSet> {
        set.derived([("w".to_owned(), derivation)])
    }

    fn tensor(name: &str) -> Derivation {
        Derivation::tensor(name)
    }

    /// All of `w`, read at once; every range of it must be a part of that.
    fn whole(set: &WeightSet) -> Vec<u8> {
        let weight = set.tensor("w").unwrap();
        let all = set.contents("w").unwrap();
        assert_eq!(Some(all.len() as u64), weight.encoding.bytes_of(&weight.shape));
        let size = weight.encoding.block().bytes as usize;
        let count = all.len() / size;
        let steps = [1, 2, 3, 5, 7, 64, 1000, 1024, 1025, 4096, count].map(|step| step.max(1));
        for (first, step) in (0..count).step_by(count / 40 + 1).zip(steps.iter().cycle()) {
            let until = (first + step).min(count);
            let mut part = vec![0xff; (until - first) * size];
            set.read("w", (first * size) as u64, &mut part).unwrap();
            assert_eq!(part, all[first * size..until * size], "{first}..{until} of {count}");
        }
        all
    }

    #[test]
    fn a_transposition_exchanges_the_last_two_axes() {
        for encoding in [Encoding::F32, Encoding::Bf16, Encoding::F16, Encoding::I16] {
            for shape in [[1u64, 1, 1], [2, 3, 4], [3, 2, 7], [1, 2100, 3], [2, 3, 2100], [2, 0, 3]]
            {
                let [outer, rows, columns] = shape;
                let values = numbers(outer * rows * columns, 1);
                let stored = set(&[("a", encoding, &shape, &values)]);
                let turned = made(&stored, tensor("a").transposed()).unwrap();
                assert_eq!(turned.tensor("w").unwrap().shape, [outer, columns, rows]);
                let mut expected = Vec::new();
                for o in 0..outer {
                    for c in 0..columns {
                        let row =
                            (0..rows).map(|r| values[((o * rows + r) * columns + c) as usize]);
                        expected.extend(row);
                    }
                }
                assert_eq!(whole(&turned), encoded(encoding, &expected), "{encoding} {shape:?}");
            }
        }
    }

    #[test]
    fn a_concatenation_goes_along_any_axis() {
        for encoding in [Encoding::F32, Encoding::Bf16, Encoding::F16, Encoding::I16] {
            for axis in 0..3 {
                let (mut a, mut b, c) = ([2u64, 3, 4], [2u64, 3, 4], [2u64, 3, 4]);
                (a[axis], b[axis]) = (5, 0);
                let parts =
                    [a, b, c].map(|shape| (shape, numbers(shape.iter().product(), shape[0])));
                let stored = set(&[
                    ("a", encoding, &parts[0].0, &parts[0].1),
                    ("b", encoding, &parts[1].0, &parts[1].1),
                    ("c", encoding, &parts[2].0, &parts[2].1),
                ]);
                let list = ["a", "b", "c"].map(tensor).to_vec();
                let joined = made(&stored, Derivation::Concatenated(list, axis)).unwrap();
                let shape = joined.tensor("w").unwrap().shape.clone();
                assert_eq!(shape[axis], 5 + c[axis]);
                let mut expected = Vec::new();
                for i in 0..shape[0] {
                    for j in 0..shape[1] {
                        for k in 0..shape[2] {
                            let mut at = [i, j, k];
                            let (shape, values) = parts
                                .iter()
                                .find(|(shape, _)| {
                                    let inside = at[axis] < shape[axis];
                                    at[axis] -= if inside { 0 } else { shape[axis] };
                                    inside
                                })
                                .unwrap();
                            let place = (at[0] * shape[1] + at[1]) * shape[2] + at[2];
                            expected.push(values[place as usize]);
                        }
                    }
                }
                assert_eq!(whole(&joined), encoded(encoding, &expected), "{encoding} axis {axis}");
            }
        }
    }

    #[test]
    fn parts_of_different_encodings_come_out_as_f32() {
        let (a, b) = (numbers(2100, 1), numbers(4200, 2));
        let stored =
            set(&[("a", Encoding::Bf16, &[1, 2100], &a), ("b", Encoding::F16, &[2, 2100], &b)]);
        let list = vec![tensor("a"), tensor("b")];
        let joined = made(&stored, Derivation::Concatenated(list, 0)).unwrap();
        assert_eq!(joined.tensor("w").unwrap().encoding, Encoding::F32);
        assert_eq!(whole(&joined), encoded(Encoding::F32, &[a, b].concat()));
    }

    #[test]
    fn a_low_rank_sum_is_what_plain_arithmetic_gives() {
        // Rows, rank, and the axes of a row: a matrix wider than a piece, and a convolution.
        for (rows, rank, row) in [(3u64, 2u64, &[2500u64][..]), (70, 5, &[33]), (4, 3, &[3, 2, 2])]
        {
            let columns: u64 = row.iter().product();
            let (base, up, down) =
                (numbers(rows * columns, 1), numbers(rows * rank, 2), numbers(rank * columns, 3));
            let shape = [&[rows], row].concat();
            let (up_shape, down_shape) = (vec![rows, rank, 1, 1], [&[rank], row].concat());
            for (a, b, c) in [(0, 0, 0), (1, 1, 1), (2, 2, 2), (0, 1, 2)] {
                let stored = set(&[
                    ("base", FLOATS[a], &shape, &base),
                    ("up", FLOATS[b], &up_shape, &up),
                    ("down", FLOATS[c], &down_shape, &down),
                ]);
                let sum = tensor("base").plus_low_rank(0.3, tensor("up"), tensor("down"));
                let merged = made(&stored, sum).unwrap();
                let weight = merged.tensor("w").unwrap();
                assert_eq!((weight.encoding, &weight.shape), (Encoding::F32, &shape));
                let all = whole(&merged);
                for (at, found) in all.as_chunks::<4>().0.iter().enumerate() {
                    let (i, j) = (at as u64 / columns, at as u64 % columns);
                    let term = |k| up[(i * rank + k) as usize] * down[(k * columns + j) as usize];
                    let (product, size) = (0..rank)
                        .map(term)
                        .fold((0.0, 0.0), |(sum, size), term: f64| (sum + term, size + term.abs()));
                    let scale = f64::from(0.3f32);
                    let expected = base[at] + scale * product;
                    // One rounding for each term, one for the factor, one for the sum.
                    let bound =
                        (rank + 2) as f64 * 2f64.powi(-24) * (base[at].abs() + scale * size);
                    let found = f64::from(f32::from_le_bytes(*found));
                    assert!((found - expected).abs() <= bound, "{found} {expected} {bound}");
                }
            }
        }
    }

    #[test]
    fn products_of_other_kinds_are_what_plain_arithmetic_gives() {
        // Kronecker: [2,3] and [4,700]; element by element: two products of rank 2.
        let (a, b) = (numbers(6, 1), numbers(2800, 2));
        let (up, down) = (numbers(16, 3), numbers(4200, 4));
        let stored = set(&[
            ("a", Encoding::F32, &[2, 3], &a),
            ("b", Encoding::Bf16, &[4, 700], &b),
            ("up", Encoding::F16, &[8, 2], &up),
            ("down", Encoding::F32, &[2, 2100], &down),
        ]);
        let outer = Derivation::Kronecker(Box::new([tensor("a"), tensor("b")]));
        let product = Derivation::product(tensor("up"), tensor("down"));
        let both = Derivation::Elementwise(Box::new([outer, product]));
        let sum = Derivation::Sum(vec![(-2.0, both.clone()), (0.5, both)]);
        let made = made(&stored, sum).unwrap();
        assert_eq!(made.tensor("w").unwrap().shape, [8, 2100]);
        for (at, found) in whole(&made).as_chunks::<4>().0.iter().enumerate() {
            let (i, j) = (at / 2100, at % 2100);
            let outer = a[i / 4 * 3 + j / 700] * b[i % 4 * 700 + j % 700];
            let expected = -1.5 * outer * (up[2 * i] * down[j] + up[2 * i + 1] * down[2100 + j]);
            let found = f64::from(f32::from_le_bytes(*found));
            assert!((found - expected).abs() <= 1e-5 * expected.abs(), "{found} {expected}");
        }
    }

    #[test]
    fn rows_or_columns_are_brought_to_their_magnitudes() {
        let (values, lengths) = (numbers(35, 1), numbers(35, 2));
        for (shape, by_row) in [(&[5u64][..], true), (&[5, 1], true), (&[1, 7], false)] {
            let count = if by_row { 5 } else { 7 };
            let stored = set(&[
                ("m", Encoding::Bf16, &[5, 7], &values),
                ("l", Encoding::F32, shape, &lengths[..count]),
            ]);
            let scaled = Derivation::Normalised(Box::new([tensor("m"), tensor("l")]));
            let found = whole(&made(&stored, scaled).unwrap());
            for (at, found) in found.as_chunks::<4>().0.iter().enumerate() {
                let line = |other: &usize| match by_row {
                    true => other / 7 == at / 7,
                    false => other % 7 == at % 7,
                };
                let square: f64 = (0..35).filter(line).map(|at| values[at] * values[at]).sum();
                let length = lengths[if by_row { at / 7 } else { at % 7 }];
                let expected = values[at] * length / square.sqrt();
                let found = f64::from(f32::from_le_bytes(*found));
                assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{found} {expected}");
            }
        }
        let zeros = set(&[
            ("m", Encoding::F32, &[2, 2], &[0.0; 4]),
            ("l", Encoding::F32, &[2], &lengths[..2]),
        ]);
        let scaled = Derivation::Normalised(Box::new([tensor("m"), tensor("l")]));
        assert_eq!(whole(&made(&zeros, scaled).unwrap()), [0; 16], "a row of zeros stays one");
    }

    #[test]
    fn what_is_computed_is_rounded_once_where_that_is_asked_for() {
        let (a, b) = (numbers(6, 1), numbers(6, 2));
        let stored = set(&[("a", Encoding::Bf16, &[2, 3], &a), ("b", Encoding::F32, &[2, 3], &b)]);
        for encoding in [Encoding::F64, Encoding::F32, Encoding::F16, Encoding::Bf16] {
            let sum = tensor("a").plus(0.001, tensor("b"));
            let rounded = made(&stored, sum.rounded(encoding)).unwrap();
            let weight = rounded.tensor("w").unwrap();
            assert_eq!((weight.encoding, &weight.shape[..]), (encoding, &[2, 3][..]));
            let exact: Vec<f32> =
                a.iter().zip(&b).map(|(a, b)| *a as f32 + 0.001 * *b as f32).collect();
            let mut expected = vec![0; 6 * encoding.block().bytes as usize];
            encoding.encode(&exact, &mut expected).unwrap();
            assert_eq!(whole(&rounded), expected, "{encoding}");
            // Read as f32, the values are the rounded ones.
            let (mut read, mut back) = ([0; 24], [0f32; 6]);
            rounded.read_f32("w", 0, &mut read).unwrap();
            encoding.decode(&expected, &mut back).unwrap();
            let back: Vec<u8> = back.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(read[..], back, "{encoding}");
        }
        assert_eq!(Encoding::I16.encode(&[1.0], &mut [0; 2]).unwrap_err().code(), "E0322");
        assert_eq!(Encoding::F32.encode(&[1.0], &mut [0; 2]).unwrap_err().code(), "E0322");
        assert!(!Encoding::F8E4M3.can_encode() && Encoding::F16.can_encode());
    }

    #[test]
    fn derivations_nest_and_follow_one_another() {
        let (a, b) = (numbers(6, 1), numbers(6, 2));
        let stored = set(&[("a", Encoding::F16, &[2, 3], &a), ("b", Encoding::F16, &[3, 2], &b)]);
        let list = vec![tensor("a").transposed(), tensor("b")];
        let first = stored
            .derived([
                ("both".to_owned(), Derivation::Concatenated(list, 1)),
                ("other".to_owned(), tensor("b")),
            ])
            .unwrap();
        // Rows of `both`: a column of `a`, then a row of `b`.
        let second = made(&first, tensor("both").reshaped([2, 6]).transposed()).unwrap();
        let both = [a[0], a[3], b[0], b[1], a[1], a[4], b[2], b[3], a[2], a[5], b[4], b[5]];
        let expected: Vec<f64> = (0..12).map(|i| both[i % 2 * 6 + i / 2]).collect();
        assert_eq!(whole(&second), encoded(Encoding::F16, &expected));
        assert_eq!(second.origin("w").unwrap(), "\"a\" of memory and \"b\" of memory");
        let values =
            numbers(6, 1).iter().flat_map(|v| (*v as f32).to_le_bytes()).collect::<Vec<_>>();
        let mut read = vec![0; 24];
        stored.read_f32("a", 0, &mut read).unwrap();
        assert_eq!(read, values);
    }

    #[test]
    fn an_adapter_of_another_file_is_joined_to_a_model() {
        let (base, up, down) = (numbers(6, 1), numbers(2, 2), numbers(3, 3));
        let model = set(&[("q", Encoding::Bf16, &[2, 3], &base)]);
        let adapter = set(&[
            ("q.up", Encoding::F32, &[2, 1], &up),
            ("q.down", Encoding::F32, &[1, 3], &down),
        ]);
        let both = model.clone().joined(&adapter).unwrap();
        assert_eq!(both.files().len(), 2);
        let sum = tensor("q").plus_low_rank(1.0, tensor("q.up"), tensor("q.down"));
        let merged = made(&both, sum).unwrap();
        let expected: Vec<f64> = (0..6).map(|i| base[i] + up[i / 3] * down[i % 3]).collect();
        assert_eq!(whole(&merged), encoded(Encoding::F32, &expected));
        assert_eq!(model.clone().joined(&model).unwrap_err().code(), "E0328");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let six = numbers(6, 1);
        let stored = set(&[
            ("m", Encoding::F32, &[2, 3], &six),
            ("t", Encoding::F32, &[3, 2], &six),
            ("v", Encoding::Bf16, &[6], &six),
            ("i", Encoding::I16, &[2, 3], &six),
            ("s", Encoding::F32, &[], &six[..1]),
            ("z", Encoding::F32, &[0, 1 << 60], &[]),
        ]);
        let join = |names: &[&str], axis| {
            Derivation::Concatenated(names.iter().map(|name| tensor(name)).collect(), axis)
        };
        let sum = |base, up, down| tensor(base).plus_low_rank(1.0, tensor(up), tensor(down));
        let pair =
            |of: fn(Box<[Derivation; 2]>) -> Derivation, a, b| of(Box::new([tensor(a), tensor(b)]));
        for (derivation, code, word) in [
            (tensor("none"), "E0301", "none"),
            (tensor("m").reshaped([7]), "E0303", "[2, 3]"),
            (tensor("m").reshaped([u64::MAX, u64::MAX]), "E0303", "[2, 3]"),
            (tensor("v").transposed(), "E0303", "transpose(`v`)"),
            (tensor("s").transposed(), "E0303", "[]"),
            (join(&[], 0), "E0303", "concat("),
            (join(&["m", "m"], 2), "E0303", "axis 2"),
            (join(&["m", "t"], 0), "E0303", "[2, 3], [3, 2]"),
            (join(&["m", "v"], 0), "E0303", "[2, 3], [6]"),
            (join(&["m", "i"], 0), "E0304", "I16"),
            (join(&["z", "z", "z", "z"], 1), "E0316", "[0, 4611686018427387904]"),
            (sum("m", "m", "m"), "E0303", "`m` * `m`"),
            (
                sum("m", "t", "m"),
                "E0303",
                "`m` + 1 * `t` * `m`: shapes that do not fit: [2, 3], [3, 3]",
            ),
            (sum("m", "s", "m"), "E0303", "[]"),
            (sum("s", "m", "t"), "E0303", "[]"),
            (sum("m", "m", "s"), "E0303", "[]"),
            (sum("i", "m", "t"), "E0304", "I16"),
            (tensor("m").plus(2.0, tensor("v")), "E0303", "`m` + 2 * `v`"),
            (Derivation::Sum(Vec::new()), "E0303", "fit: "),
            (pair(Derivation::Elementwise, "m", "t"), "E0303", "elementwise(`m`, `t`)"),
            (pair(Derivation::Kronecker, "m", "v"), "E0303", "kronecker(`m`, `v`)"),
            (pair(Derivation::Normalised, "m", "v"), "E0303", "normalise(`m`, `v`)"),
            (pair(Derivation::Kronecker, "m", "i"), "E0304", "I16"),
            (tensor("i").rounded(Encoding::Bf16), "E0304", "BF16(`i`)"),
        ] {
            let error = made(&stored, derivation).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().contains(word), "{error}");
            assert!(error.place().is_some() && error.help_text().is_some(), "{error}");
        }
        let huge = Derivation::Concatenated(vec![tensor("m").reshaped([6, 1, 1]); 2], 0);
        assert_eq!(made(&stored, huge).unwrap().tensor("w").unwrap().shape, [12, 1, 1]);
        let twice = stored.derived(["m", "t"].map(|name| ("w".to_owned(), tensor(name))));
        let error = twice.unwrap_err();
        assert_eq!(error.code(), "E0329");
        assert!(error.message().contains("`m` and `t`"), "{error}");
    }

    #[test]
    fn a_file_that_changes_ends_the_read_of_what_is_made_of_it() {
        let folder = TempFolder::new();
        let six = numbers(6, 1);
        let path = folder.write("a.safetensors", contents(&[("a", Encoding::F32, &[2, 3], &six)]));
        let stored = WeightSet::open(&path).unwrap();
        let list = vec![tensor("a"), tensor("a")];
        let made = [
            tensor("a").reshaped([6]),
            tensor("a").transposed(),
            Derivation::Concatenated(list, 0),
            tensor("a").plus_low_rank(
                1.0,
                tensor("a").reshaped([2, 3]),
                tensor("a").reshaped([3, 2]),
            ),
        ];
        let sets: Vec<Result<WeightSet>> =
            made.map(|derivation| stored.derived([("w".to_owned(), derivation)])).into();
        assert_eq!(sets[3].as_ref().unwrap_err().code(), "E0303");
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(70).unwrap();
        for set in sets.into_iter().flatten() {
            let error = set.contents("w").unwrap_err();
            assert_eq!(error.code(), "E0330", "{error}");
            assert_eq!(error.place(), Some(path.display().to_string().as_str()));
        }
    }
}
