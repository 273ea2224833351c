//! Weights that are computed from others when they are read: sums, products, rounding.
//!
//! Contract: everything is computed in f32 and in an order that depends on the element alone, so
//! that a value is the same whatever range it is read in. A range is worked off in chunks of whole
//! rows where it has some ([`CHUNK`] elements), because a product reads all of `down` for each of
//! them. It keeps the rows of `up` that a chunk needs and a block of columns of `down` (`rank`
//! times 1024 numbers, half a MiB for a rank of 128).

use anyid_ir::memory;

use super::derivation::runs;
use super::encoding::{Encoding, PIECE};
use super::weight::{Files, Made, Weight};
use crate::error::{Error, Result};

/// Elements that are computed at a time: 4 MiB.
pub(super) const CHUNK: usize = 1 << 20;

/// Room for `count` numbers.
///
/// # Errors
/// E0603.
pub(super) fn room(count: u64) -> Result<Vec<f32>> {
    let none = || Error::no_memory(count.saturating_mul(4), "a weight that is computed");
    let mut room = usize::try_from(count).ok().and_then(memory::room).ok_or_else(none)?;
    room.resize(count as usize, 0.0);
    Ok(room)
}

impl Weight {
    /// Fills `out` with elements from the `first` on, in the encoding of this weight.
    ///
    /// # Errors
    /// As [`Weight::values`].
    pub(super) fn read_computed(
        &self,
        files: &Files,
        mut first: u64,
        out: &mut [u8],
    ) -> Result<()> {
        let size = self.encoding.block().bytes as usize;
        let mut values = room((out.len() / size).min(CHUNK) as u64)?;
        for out in out.chunks_mut(CHUNK * size) {
            let values = &mut values[..out.len() / size];
            let of = if let Made::Rounded(of) = &self.made { of } else { self };
            of.values(files, first, values)?;
            self.encoding.encode(values, out)?;
            first += values.len() as u64;
        }
        Ok(())
    }

    /// Fills `out` with the values of a weight that is computed.
    ///
    /// # Errors
    /// As [`Weight::values`].
    pub(super) fn compute(&self, files: &Files, first: u64, out: &mut [f32]) -> Result<()> {
        match &self.made {
            Made::Sum(terms) => sum(terms, files, first, out),
            Made::Product(parts) => product(parts, files, first, out),
            Made::Elementwise(parts) => {
                let [a, b] = parts.as_ref();
                a.values(files, first, out)?;
                combine(b, files, first, out, |a, b| *a *= b)
            }
            Made::Kronecker(parts) => kronecker(parts, files, first, out),
            Made::Normalised(parts, factors) => {
                let [of, magnitudes] = parts.as_ref();
                let (rows, columns) = matrix(of);
                let by_row = by_row(magnitudes, rows);
                let factors = match factors.get() {
                    Some(factors) => factors,
                    None => {
                        let made = lengths(of, magnitudes, by_row, files)?;
                        factors.get_or_init(|| made)
                    }
                };
                of.values(files, first, out)?;
                for (at, value) in (first..).zip(out) {
                    let place = if by_row { at / columns } else { at % columns };
                    *value *= factors[place as usize];
                }
                Ok(())
            }
            Made::Scaled(parts) => scale(parts, files, first, out),
            Made::Rounded(of) => {
                of.values(files, first, out)?;
                if self.encoding == Encoding::F32 || self.encoding == Encoding::F64 {
                    return Ok(());
                }
                let mut rounded = [0; 2 * PIECE];
                for values in out.chunks_mut(PIECE) {
                    let rounded = &mut rounded[..2 * values.len()];
                    self.encoding.encode(values, rounded)?;
                    self.encoding.decode(rounded, values)?;
                }
                Ok(())
            }
            Made::Stored { .. }
            | Made::Reshaped(_)
            | Made::Transposed(_)
            | Made::Finite(..)
            | Made::Concatenated(..) => self.values(files, first, out),
        }
    }
}

/// Refuses values from the `first` on that are not finite in an encoding.
///
/// # Errors
/// E0379.
pub(super) fn all_finite(
    values: &[f32],
    [what, place]: &[String; 2],
    (first, encoding): (u64, Encoding),
) -> Result<()> {
    match (first..).zip(values).find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((at, value)) => {
            let message = format!("{what} is {value} in {encoding} at element {at}");
            Err(Error::input("E0379", message)
                .at(place)
                .help("take a smaller scale, or a model whose weights are stored in a wider type"))
        }
    }
}

/// Rows, and columns with all further axes.
fn matrix(weight: &Weight) -> (u64, u64) {
    let rows = weight.shape.first().copied().unwrap_or(1);
    (rows, weight.elements() / rows.max(1))
}

/// Whether magnitudes are those of rows; otherwise they are those of columns.
fn by_row(magnitudes: &Weight, rows: u64) -> bool {
    magnitudes.shape.first() == Some(&rows) && magnitudes.elements() == rows
}

/// Changes `out` by the values of `other` from the `first` on, chunk by chunk.
fn combine(
    other: &Weight,
    files: &Files,
    mut first: u64,
    out: &mut [f32],
    change: impl Fn(&mut f32, f32),
) -> Result<()> {
    let mut values = room(out.len().min(CHUNK) as u64)?;
    for out in out.chunks_mut(CHUNK) {
        let values = &mut values[..out.len()];
        other.values(files, first, values)?;
        out.iter_mut().zip(&*values).for_each(|(out, value)| change(out, *value));
        first += out.len() as u64;
    }
    Ok(())
}

fn sum(terms: &[(f32, Weight)], files: &Files, first: u64, out: &mut [f32]) -> Result<()> {
    let Some(((factor, base), rest)) = terms.split_first() else { return Ok(()) };
    base.values(files, first, out)?;
    if *factor != 1.0 {
        out.iter_mut().for_each(|value| *value *= factor);
    }
    for (factor, term) in rest {
        combine(term, files, first, out, |sum, value| *sum += factor * value)?;
    }
    Ok(())
}

/// Elements of a matrix times its scales from the `first` on.
fn scale([of, scales]: &[Weight; 2], files: &Files, first: u64, out: &mut [f32]) -> Result<()> {
    of.values(files, first, out)?;
    let run = runs(&of.shape, &scales.shape).expect("the shapes were compared");
    let mut factors = room((out.len() as u64).min(PIECE as u64))?;
    let (mut at, mut rest) = (first, out);
    while !rest.is_empty() {
        // As many runs as there is room for their scales, the first and the last perhaps in part.
        let begin = at / run;
        let until = ((begin + factors.len() as u64) * run).min(at + rest.len() as u64);
        let (now, later) = std::mem::take(&mut rest).split_at_mut((until - at) as usize);
        let factors = &mut factors[..(until.div_ceil(run) - begin) as usize];
        scales.values(files, begin, factors)?;
        usable(factors, scales, files)?;
        for (at, value) in (at..).zip(now) {
            *value *= factors[(at / run - begin) as usize];
        }
        (rest, at) = (later, until);
    }
    Ok(())
}

/// Refuses scales that are not finite or not above zero.
///
/// # Errors
/// E0336.
pub(super) fn usable(factors: &[f32], scales: &Weight, files: &Files) -> Result<()> {
    match factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
        None => Ok(()),
        Some(factor) => {
            let what = format!("the scale {} is {factor}", scales.made_of(files));
            let file = files[scales.file()].path().display();
            Err(Error::input("E0336", what)
                .at(file)
                .help("scales are finite and above zero: the file is damaged, fetch it again"))
        }
    }
}

/// Elements of `up · down` from the `first` on.
fn product([up, down]: &[Weight; 2], files: &Files, first: u64, out: &mut [f32]) -> Result<()> {
    let end = first + out.len() as u64;
    if end == first {
        return Ok(());
    }
    let rank = down.shape[0];
    let columns = down.elements() / rank;
    let rows = first / columns..end.div_ceil(columns);
    let block = columns.min(PIECE as u64);
    let mut ups = room((rows.end - rows.start) * rank)?;
    let mut downs = room(rank.saturating_mul(block))?;
    up.values(files, rows.start * rank, &mut ups)?;
    for left in (0..columns).step_by(PIECE) {
        let width = block.min(columns - left) as usize;
        for (k, downs) in (0..rank).zip(downs.chunks_mut(width)) {
            down.values(files, k * columns + left, downs)?;
        }
        for (row, ups) in rows.clone().zip(ups.chunks(rank as usize)) {
            // What the range has of this row, in these columns.
            let begin = (row * columns + left).max(first);
            let until = (row * columns + left + width as u64).min(end);
            if begin >= until {
                continue;
            }
            let skipped = (begin - row * columns - left) as usize;
            let sums = &mut out[(begin - first) as usize..(until - first) as usize];
            sums.fill(0.0);
            accumulate(ups, &downs, width, skipped, sums);
        }
    }
    Ok(())
}

/// Adds the products of `ups` with rows of `downs`, each `width` long and taken from its element
/// `skipped` on. Four ranks at a time stay in a register; the order of the sum is that of the rank.
fn accumulate(ups: &[f32], downs: &[f32], width: usize, skipped: usize, sums: &mut [f32]) {
    let count = sums.len();
    let row = |rank: usize| &downs[rank * width + skipped..][..count];
    let fours = ups.as_chunks::<4>();
    for (at, [a, b, c, d]) in fours.0.iter().enumerate() {
        let [p, q, r, s] = [0, 1, 2, 3].map(|next| row(4 * at + next));
        for i in 0..count {
            sums[i] = sums[i] + a * p[i] + b * q[i] + c * r[i] + d * s[i];
        }
    }
    for (up, rank) in fours.1.iter().zip(4 * fours.0.len()..) {
        for (sum, down) in sums.iter_mut().zip(row(rank)) {
            *sum += up * down;
        }
    }
}

/// Elements of the Kronecker product of two matrices from the `first` on.
fn kronecker([a, b]: &[Weight; 2], files: &Files, first: u64, out: &mut [f32]) -> Result<()> {
    let ((_, across), (times, columns)) = (matrix(a), matrix(b));
    let width = across * columns;
    let (mut left, mut right) = (room(across)?, room(columns)?);
    let (mut at, mut rest) = (first, out);
    while !rest.is_empty() {
        let (row, column) = (at / width, at % width);
        let count = ((width - column) as usize).min(rest.len());
        let (now, later) = std::mem::take(&mut rest).split_at_mut(count);
        a.values(files, row / times * across, &mut left)?;
        b.values(files, row % times * columns, &mut right)?;
        for (column, value) in (column..).zip(now) {
            *value = left[(column / columns) as usize] * right[(column % columns) as usize];
        }
        (rest, at) = (later, at + count as u64);
    }
    Ok(())
}

/// The factors that bring rows or columns of `of` to their magnitudes. The squares are summed in
/// double precision, row by row.
fn lengths(of: &Weight, magnitudes: &Weight, by_row: bool, files: &Files) -> Result<Vec<f32>> {
    let (rows, columns) = matrix(of);
    let count = if by_row { rows } else { columns };
    let mut squares = vec![0f64; count as usize];
    let mut values = room(of.elements().min(CHUNK as u64))?;
    let mut at = 0;
    while at < of.elements() {
        let count = (of.elements() - at).min(CHUNK as u64) as usize;
        of.values(files, at, &mut values[..count])?;
        for (at, value) in (at..).zip(&values[..count]) {
            let place = if by_row { at / columns } else { at % columns };
            squares[place as usize] += f64::from(*value) * f64::from(*value);
        }
        at += count as u64;
    }
    let mut factors = room(count)?;
    magnitudes.values(files, 0, &mut factors)?;
    for (factor, square) in factors.iter_mut().zip(squares) {
        // What is all zeros has no direction and stays as it is.
        *factor = if square > 0.0 { (f64::from(*factor) / square.sqrt()) as f32 } else { 0.0 };
    }
    Ok(factors)
}
