//! Weights as the kernels of GPUs read them: row-major, in the types that plans want, or packed, each read
//! a piece at a time. Which form a kernel wants is its backend's affair.

use crate::element;
use crate::errors::LoadError;
use crate::{StoredWeight, WeightProvider};
use anyid_ir::{DType, TensorType};

/// Elements that are converted at once.
const PIECE: usize = 1 << 18;

/// A stored weight, and the type and form in which it is wanted.
pub(crate) struct Source<'s> {
    provider: &'s dyn WeightProvider,
    name: &'s str,
    ty: &'s TensorType,
    stored: DType,
    /// Whether its second axis comes last.
    packed: bool,
    /// Stored elements on their way to another type, and rows on their way to another order.
    piece: Vec<u8>,
    rows: Vec<u8>,
}

impl<'s> Source<'s> {
    /// The weight called `name`.
    pub(crate) fn find(
        provider: &'s dyn WeightProvider,
        name: &'s str,
        ty: &'s TensorType,
        packed: bool,
    ) -> Result<Self, LoadError> {
        let missing = || LoadError::Missing(name.to_owned());
        let StoredWeight { dtype, bytes } = provider.find(name).ok_or_else(missing)?;
        if bytes != ty.elements() as u64 * dtype.bytes() as u64 {
            return Err(LoadError::Size { name: name.to_owned(), ty: ty.clone(), bytes });
        }
        let (piece, rows) = (Vec::new(), Vec::new());
        Ok(Self { provider, name, ty, stored: dtype, packed, piece, rows })
    }

    /// Pieces that are read are made of so many bytes: of elements, or of whole rows.
    pub(crate) fn unit(&self) -> usize {
        let row = self.ty.shape.iter().skip(1).product::<usize>();
        self.ty.dtype.bytes() * if self.packed { row } else { 1 }
    }

    /// Fills `out` with the bytes from `from` on, as they are wanted. Both are whole units.
    pub(crate) fn read(&mut self, from: u64, out: &mut [u8]) -> Result<(), LoadError> {
        if !self.packed {
            return self.plain(from, out);
        }
        let mut rows = std::mem::take(&mut self.rows);
        rows.resize(out.len(), 0);
        self.plain(from, &mut rows)?;
        let (columns, size) = (self.ty.shape[1], self.ty.dtype.bytes());
        let taps = self.ty.shape[2..].iter().product::<usize>();
        let unit = self.unit();
        for (row, out) in rows.chunks(unit).zip(out.chunks_mut(unit)) {
            for column in 0..columns {
                for tap in 0..taps {
                    let [from, to] =
                        [column * taps + tap, tap * columns + column].map(|at| at * size);
                    out[to..to + size].copy_from_slice(&row[from..from + size]);
                }
            }
        }
        self.rows = rows;
        Ok(())
    }

    /// The same in the stored order.
    fn plain(&mut self, from: u64, out: &mut [u8]) -> Result<(), LoadError> {
        let Self { provider, name, ty, stored, piece, .. } = self;
        if *stored == ty.dtype {
            return provider.read(name, from, out).map_err(LoadError::Unreadable);
        }
        let (size, wide) = (stored.bytes(), ty.dtype.bytes());
        let first = from / wide as u64;
        for (at, part) in out.chunks_mut(PIECE * wide).enumerate() {
            let elements = part.len() / wide;
            piece.resize(elements * size, 0);
            let place = (first + (at * PIECE) as u64) * size as u64;
            provider.read(name, place, piece).map_err(LoadError::Unreadable)?;
            for element in 0..elements {
                element::write(ty.dtype, part, element, element::read(*stored, piece, element));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;
    use anyid_ir::Tensor;

    struct One(Tensor);

    impl WeightProvider for One {
        fn find(&self, name: &str) -> Option<StoredWeight> {
            let bytes = self.0.bytes().len() as u64;
            (name == "w").then_some(StoredWeight { dtype: self.0.dtype(), bytes })
        }

        fn read(&self, _: &str, from: u64, out: &mut [u8]) -> Result<(), Fault> {
            out.copy_from_slice(&self.0.bytes()[from as usize..][..out.len()]);
            Ok(())
        }
    }

    #[test]
    fn pieces_are_those_of_the_whole_in_every_type() {
        let count = PIECE + 70;
        let values: Vec<f32> = (0..count).map(|at| (at % 251) as f32 / 4.0 - 20.0).collect();
        let singles = Tensor::from_f32([count], &values).unwrap();
        for (stored, wanted) in
            [(DType::F32, DType::Bf16), (DType::F16, DType::F32), (DType::Bf16, DType::Bf16)]
        {
            let ty = TensorType::new(wanted, [count]);
            let one = One(singles.cast(stored));
            let whole = one.0.cast(wanted);
            let mut source = Source::find(&one, "w", &ty, false).unwrap();
            for (from, elements) in [(0, count), (64, 6), (PIECE - 3, 9)] {
                let mut out = vec![0; elements * wanted.bytes()];
                source.read((from * wanted.bytes()) as u64, &mut out).unwrap();
                assert_eq!(out, whole.bytes()[from * wanted.bytes()..][..out.len()], "{from}");
            }
        }
    }

    #[test]
    fn what_is_not_there_or_of_another_size_is_an_error() {
        let one = One(Tensor::from_f32([3], &[1.0; 3]).unwrap());
        let ty = TensorType::new(DType::F32, [4]);
        let error = |name: &'static str| Source::find(&one, name, &ty, false).err().unwrap();
        assert_eq!(error("v"), LoadError::Missing("v".into()));
        assert!(matches!(error("w"), LoadError::Size { bytes: 12, .. }));
    }

    #[test]
    fn packed_weights_have_their_second_axis_last() {
        let values: Vec<f32> = (0..2 * 3 * 4).map(|at| at as f32).collect();
        let one = One(Tensor::from_f32([2, 3, 2, 2], &values).unwrap());
        let ty = TensorType::new(DType::Bf16, [2, 3, 2, 2]);
        let mut source = Source::find(&one, "w", &ty, true).unwrap();
        assert_eq!(source.unit(), 24);
        let mut second = vec![0; 24];
        source.read(24, &mut second).unwrap();
        let wanted = [12.0, 16.0, 20.0, 13.0, 17.0, 21.0, 14.0, 18.0, 22.0, 15.0, 19.0, 23.0];
        let wanted = Tensor::from_f32([12], &wanted).unwrap().cast(DType::Bf16);
        assert_eq!(second, wanted.bytes());
    }
}
