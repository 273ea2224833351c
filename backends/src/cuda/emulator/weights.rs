//! Weights of the emulated device: row-major, in the types that plans want, each read in pieces.

use crate::buffer::AlignedBytes;
use crate::cpu::{read_element, write_element};
use crate::device::Progress;
use crate::errors::LoadError;
use crate::stop::stop_requested;
use crate::{StoredWeight, WeightProvider};
use anyid_ir::TensorType;
use anyid_ir::plan::Plan;
use std::collections::BTreeMap;

/// Elements of a piece.
const PIECE: usize = 1 << 18;

/// Weights by name.
pub(super) type Stored = BTreeMap<String, AlignedBytes>;

/// The weights of plans by name.
pub(super) fn wanted<'p>(plans: &[&'p Plan]) -> BTreeMap<&'p str, &'p TensorType> {
    let all = plans.iter().flat_map(|plan| &plan.weights);
    all.map(|weight| (weight.name.as_str(), &weight.ty)).collect()
}

/// Loads the weights of plans.
pub(super) fn load(
    plans: &[&Plan],
    provider: &dyn WeightProvider,
    progress: &mut Progress<'_>,
) -> Result<Stored, LoadError> {
    let wanted = wanted(plans);
    let total = wanted.values().map(|ty| ty.bytes()).sum();
    let (mut done, mut loaded) = (0, Stored::new());
    for (name, ty) in wanted {
        if !progress(done, total) || stop_requested() {
            return Err(LoadError::Stopped);
        }
        loaded.insert(name.to_owned(), one(provider, name, ty)?);
        done += ty.bytes();
    }
    progress(total, total);
    Ok(loaded)
}

fn one(
    provider: &dyn WeightProvider,
    name: &str,
    ty: &TensorType,
) -> Result<AlignedBytes, LoadError> {
    let missing = || LoadError::Missing(name.to_owned());
    let StoredWeight { dtype, bytes } = provider.find(name).ok_or_else(missing)?;
    let (count, size) = (ty.elements(), dtype.bytes());
    if bytes != count as u64 * size as u64 {
        return Err(LoadError::Size { name: name.to_owned(), ty: ty.clone(), bytes });
    }
    let room = usize::try_from(ty.bytes()).ok().and_then(AlignedBytes::try_zeroed);
    let no_memory = || LoadError::NoMemory { name: name.to_owned(), bytes: ty.bytes() };
    let mut out = room.ok_or_else(no_memory)?;
    if dtype == ty.dtype {
        provider.read(name, 0, out.bytes_mut()).map_err(LoadError::Unreadable)?;
        return Ok(out);
    }
    let mut piece = vec![0; PIECE.min(count) * size];
    for first in (0..count).step_by(PIECE) {
        let elements = PIECE.min(count - first);
        let piece = &mut piece[..elements * size];
        let read = provider.read(name, (first * size) as u64, piece);
        read.map_err(LoadError::Unreadable)?;
        for at in 0..elements {
            let value = read_element(dtype, piece, at);
            write_element(ty.dtype, out.bytes_mut(), first + at, value);
        }
    }
    Ok(out)
}
