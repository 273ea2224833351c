//! Stored weights on their way into the form the kernels read, in pieces.
//!
//! A piece is as many whole rows of a matrix, panels of them where they are packed, as fit the
//! buffer, or a run of elements. The threads of the pool read a piece together and pack it
//! together. One buffer serves all tensors of a load; memory for results is asked for, not taken.

use super::super::buffer::AlignedBytes;
use super::super::conv::{ConvShape, UpsampleShape, pack_conv_into, pack_upsample_conv_into};
use super::super::gemm::{Dtype, PackedMatrix, PanelKind, WIDTH, Weights as Matrix, pack_into};
use super::super::kernel_shape;
use super::super::simd::Level;
use super::super::threads::{Pool, SharedPtr};
use super::{Form, LoadError, Loaded};
use crate::element;
use crate::{Fault, StoredWeight, WeightProvider};
use anyid_ir::{DType, TensorType, memory};
use std::sync::Mutex;

/// Bytes of stored elements in a piece, more only where one panel has more.
const PIECE: usize = 16 << 20;

/// Bytes that one task reads.
const PART: usize = 1 << 20;

/// A tensor of the provider with as many elements as `ty`.
pub(super) fn fetch(
    provider: &dyn WeightProvider,
    name: &str,
    ty: &TensorType,
) -> Result<StoredWeight, LoadError> {
    let stored = provider.find(name).ok_or_else(|| LoadError::Missing(name.to_owned()))?;
    if stored.bytes != ty.elements() as u64 * stored.dtype.bytes() as u64 {
        let (name, ty, bytes) = (name.to_owned(), ty.clone(), stored.bytes);
        return Err(LoadError::Size { name, ty, bytes });
    }
    Ok(stored)
}

/// Brings tensors of a provider into the form the kernels read, one after the other.
pub(super) struct Reader<'r> {
    pool: &'r Pool,
    level: Level,
    provider: &'r dyn WeightProvider,
    buffers: Buffers,
}

/// Stored elements, and the same in another type.
#[derive(Default)]
pub(super) struct Buffers {
    stored: Vec<u8>,
    widened: Vec<u8>,
}

/// Bytes of a reader's buffers that a matrix of type `ty` takes at most, whatever type it is stored in.
pub(super) fn staging_bytes(ty: &TensorType) -> u64 {
    let (rows, row) = (ty.shape[0], ty.elements() / ty.shape[0].max(1));
    let most = DType::F32.bytes();
    2 * (rows_at_once(row * most).min(rows) * row * most) as u64
}

/// Rows of a matrix that are read at once, whole panels of them.
fn rows_at_once(bytes_of_row: usize) -> usize {
    (PIECE / (bytes_of_row.max(1) * WIDTH)).max(1) * WIDTH
}

/// The type that packing reads elements in which are stored as `from`: as they are, unless the declared
/// type is narrower than the panels' (its rounding has to happen first) or nothing packs theirs.
/// First what they are rounded to, then what they are kept in.
fn packed_from(from: DType, declared: DType, kind: PanelKind) -> [DType; 2] {
    let narrow = kind == PanelKind::F32 && declared != from && declared != DType::F32;
    let via = if narrow { declared } else { from };
    let read = match via {
        DType::F32 | DType::Bf16 | DType::F16 => via,
        _ => DType::F32,
    };
    [via, read]
}

impl<'r> Reader<'r> {
    pub(super) fn new(pool: &'r Pool, level: Level, provider: &'r dyn WeightProvider) -> Self {
        Self::with_buffers(pool, level, provider, Buffers::default())
    }

    pub(super) fn with_buffers(
        pool: &'r Pool,
        level: Level,
        provider: &'r dyn WeightProvider,
        buffers: Buffers,
    ) -> Self {
        Self { pool, level, provider, buffers }
    }

    pub(super) fn into_buffers(self) -> Buffers {
        self.buffers
    }

    /// Makes the buffers as long as [`Self::load_into`] needs them for a matrix.
    pub(super) fn reserve(
        &mut self,
        name: &str,
        ty: &TensorType,
        form: Form,
    ) -> Result<(), LoadError> {
        let stored = fetch(self.provider, name, ty)?;
        let kind = form.kind(self.level, ty).expect("a form in panels");
        let (rows, row) = (ty.shape[0], ty.elements() / ty.shape[0].max(1));
        let elements = rows_at_once(row * stored.dtype.bytes()).min(rows) * row;
        let longer = |bytes: &mut Vec<u8>, each: usize| {
            let len = bytes.len().max(elements * each);
            resize(name, bytes, len)
        };
        longer(&mut self.buffers.stored, stored.dtype.bytes())?;
        let [via, read] = packed_from(stored.dtype, ty.dtype, kind);
        match via == stored.dtype && read == stored.dtype {
            true => Ok(()),
            false => longer(&mut self.buffers.widened, read.bytes()),
        }
    }

    /// A matrix in panels, into memory that is as long as these.
    pub(super) fn load_into(
        &mut self,
        name: &str,
        ty: &TensorType,
        form: Form,
        to: &mut [u8],
    ) -> Result<(), LoadError> {
        let stored = fetch(self.provider, name, ty)?;
        let kind = form.kind(self.level, ty).expect("a form in panels");
        self.panels_into(name, stored.dtype, ty, form, kind, to)
    }

    /// The tensor `name` of type `ty` in `form`.
    pub(super) fn load(
        &mut self,
        name: &str,
        ty: &TensorType,
        form: Form,
    ) -> Result<Loaded, LoadError> {
        let stored = fetch(self.provider, name, ty)?;
        match form {
            // Rounded to the declared type first, widened then.
            Form::Vector => self.plain(name, stored.dtype, ty, DType::F32).map(Loaded::Plain),
            Form::Plain | Form::Stored => {
                self.plain(name, stored.dtype, ty, ty.dtype).map(Loaded::Plain)
            }
            Form::Matrix { .. } | Form::Kernel { .. } | Form::Doubled { .. } => {
                let kind = form.kind(self.level, ty).expect("a form in panels");
                self.panels(name, stored.dtype, ty, form, kind).map(Loaded::Matrix)
            }
        }
    }

    /// Row-major elements of type `to`, rounded to the type of `ty` on the way.
    fn plain(
        &mut self,
        name: &str,
        from: DType,
        ty: &TensorType,
        to: DType,
    ) -> Result<AlignedBytes, LoadError> {
        let count = ty.elements();
        let room = count.checked_mul(to.bytes()).and_then(AlignedBytes::try_zeroed);
        let mut out = room.ok_or_else(|| no_memory(name, count as u64 * to.bytes() as u64))?;
        if from == ty.dtype && ty.dtype == to {
            self.read(name, 0, out.bytes_mut())?;
            return Ok(out);
        }
        let each = PIECE / from.bytes();
        for first in (0..count).step_by(each) {
            let elements = each.min(count - first);
            let mut bytes = std::mem::take(&mut self.buffers.stored);
            let filled = self.fill(name, first, elements, from, &mut bytes);
            if filled.is_ok() {
                for at in 0..elements {
                    let value = rounded(from, &bytes, at, ty.dtype);
                    element::write(to, out.bytes_mut(), first + at, value);
                }
            }
            self.buffers.stored = bytes;
            filled?;
        }
        Ok(out)
    }

    /// Panels of a matrix or of the kernel of a convolution.
    fn panels(
        &mut self,
        name: &str,
        from: DType,
        ty: &TensorType,
        form: Form,
        kind: PanelKind,
    ) -> Result<PackedMatrix, LoadError> {
        let (rows, k) = (ty.shape[0], Self::sums(ty, form, kind));
        let packed = PackedMatrix::try_zeroed((rows, k), kind);
        let mut packed = packed.ok_or_else(|| no_memory(name, packed_size(rows, k, kind)))?;
        self.panels_into(name, from, ty, form, kind, packed.bytes_mut())?;
        Ok(packed)
    }

    /// The length of the sums of a product with a tensor of type `ty` in panels.
    fn sums(ty: &TensorType, form: Form, kind: PanelKind) -> usize {
        let (rows, row) = (ty.shape[0], ty.elements() / ty.shape[0].max(1));
        match form {
            Form::Doubled { .. } => {
                UpsampleShape { input: [1; 3], cin: row / 9, cout: rows }.k(kind)
            }
            _ => row,
        }
    }

    /// [`Self::panels`] into memory that is as long as these.
    fn panels_into(
        &mut self,
        name: &str,
        from: DType,
        ty: &TensorType,
        form: Form,
        kind: PanelKind,
        packed: &mut [u8],
    ) -> Result<(), LoadError> {
        let (rows, row) = (ty.shape[0], ty.elements() / ty.shape[0].max(1));
        let k = Self::sums(ty, form, kind);
        let [via, read] = packed_from(from, ty.dtype, kind);
        let each = rows_at_once(row * from.bytes());
        for first in (0..rows).step_by(each) {
            let count = each.min(rows - first);
            let mut stored = std::mem::take(&mut self.buffers.stored);
            let filled = self.fill(name, first * row, count * row, from, &mut stored);
            let mut widened = std::mem::take(&mut self.buffers.widened);
            let bytes = match filled {
                Ok(()) if via == from && read == from => Ok(stored.as_slice()),
                Ok(()) => convert(name, (from, &stored), via, (read, &mut widened)),
                Err(fault) => Err(fault),
            };
            let done = bytes.map(|bytes| {
                let to = &mut packed[packed_size(first, k, kind) as usize..];
                self.pack((bytes, dtype(read)), ty, form, count, kind, to);
            });
            (self.buffers.stored, self.buffers.widened) = (stored, widened);
            done?;
        }
        Ok(())
    }

    /// Packs `rows` rows into `to`, where the panels of the first of them begin.
    fn pack(
        &self,
        weight: (&[u8], Dtype),
        ty: &TensorType,
        form: Form,
        rows: usize,
        kind: PanelKind,
        to: &mut [u8],
    ) {
        let (pool, level) = (self.pool, self.level);
        match form {
            Form::Kernel { .. } => {
                let [_, cin, kt, kh, kw] = kernel_shape(&ty.shape);
                let kernel = [kt, kh, kw];
                let shape = ConvShape {
                    input: kernel,
                    cin,
                    cout: rows,
                    kernel,
                    stride: [1; 3],
                    padding: [(0, 0); 3],
                };
                pack_conv_into(pool, level, &shape, weight, kind, to);
            }
            Form::Doubled { .. } => {
                let [_, cin, ..] = kernel_shape(&ty.shape);
                let shape = UpsampleShape { input: [1; 3], cin, cout: rows };
                pack_upsample_conv_into(pool, level, &shape, weight, kind, to);
            }
            Form::Matrix { .. } | Form::Vector | Form::Plain | Form::Stored => {
                let k = ty.elements() / ty.shape[0].max(1);
                let weights = Matrix::row_major(weight.0, weight.1, k);
                pack_into(pool, level, weights, (rows, k), kind, to);
            }
        }
    }

    /// Makes `bytes` the stored elements `first..first + count`.
    fn fill(
        &self,
        name: &str,
        first: usize,
        count: usize,
        from: DType,
        bytes: &mut Vec<u8>,
    ) -> Result<(), LoadError> {
        resize(name, bytes, count * from.bytes())?;
        self.read(name, first as u64 * from.bytes() as u64, bytes)
    }

    /// Fills `out` with stored bytes from `from` on, in parts that the threads share.
    fn read(&self, name: &str, from: u64, out: &mut [u8]) -> Result<(), LoadError> {
        // The first fault in the order of the file, whichever thread met it.
        let fault: Mutex<Option<(usize, Fault)>> = Mutex::new(None);
        let (base, len) = (SharedPtr::new(out.as_mut_ptr()), out.len());
        self.pool.run(len.div_ceil(PART), &|task, _| {
            let start = task * PART;
            // SAFETY: the parts of different tasks do not overlap and lie inside `out`, which is
            // exclusively borrowed until all tasks are done.
            let part = unsafe {
                std::slice::from_raw_parts_mut(base.get().add(start), PART.min(len - start))
            };
            if let Err(new) = self.provider.read(name, from + start as u64, part) {
                let mut fault = fault.lock().expect("nothing panics while it is held");
                if fault.as_ref().is_none_or(|(other, _)| start < *other) {
                    *fault = Some((start, new));
                }
            }
        });
        match fault.into_inner().expect("nothing panics while it is held") {
            None => Ok(()),
            Some((_, fault)) => Err(LoadError::Unreadable(fault)),
        }
    }
}

fn dtype(of: DType) -> Dtype {
    match of {
        DType::Bf16 => Dtype::Bf16,
        DType::F16 => Dtype::F16,
        _ => Dtype::F32,
    }
}

fn packed_size(rows: usize, k: usize, kind: PanelKind) -> u64 {
    super::super::gemm::packed_bytes(rows, k, kind) as u64
}

fn no_memory(name: &str, bytes: u64) -> LoadError {
    LoadError::NoMemory { name: name.to_owned(), bytes }
}

/// Makes `bytes` that long without asking for more than that.
fn resize(name: &str, bytes: &mut Vec<u8>, len: usize) -> Result<(), LoadError> {
    if let Some(more) = len.checked_sub(bytes.len()) {
        memory::ask(|| bytes.try_reserve_exact(more)).map_err(|_| no_memory(name, len as u64))?;
    }
    bytes.resize(len, 0);
    Ok(())
}

/// The elements of `stored` rounded to `via`, in the type and the memory of `out`.
fn convert<'o>(
    name: &str,
    (from, stored): (DType, &[u8]),
    via: DType,
    (to, out): (DType, &'o mut Vec<u8>),
) -> Result<&'o [u8], LoadError> {
    let count = stored.len() / from.bytes();
    resize(name, out, count * to.bytes())?;
    for at in 0..count {
        element::write(to, out, at, rounded(from, stored, at, via));
    }
    Ok(out)
}

/// Element `at` of `stored`, rounded to `via`.
fn rounded(from: DType, stored: &[u8], at: usize, via: DType) -> f64 {
    let value = element::read(from, stored, at);
    if via == from {
        return value;
    }
    let mut narrow = [0; 8];
    element::write(via, &mut narrow, 0, value);
    element::read(via, &narrow, 0)
}
