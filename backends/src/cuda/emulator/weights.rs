//! Weights of the emulated device: row-major, in the types that plans want, each read in pieces; those
//! that kernels read packed in that order.

use crate::buffer::AlignedBytes;
use crate::cpu::{read_element, write_element};
use crate::cuda::emit::{self, Architecture};
use crate::device::Progress;
use crate::errors::LoadError;
use crate::stop::stop_requested;
use crate::{StoredWeight, WeightProvider};
use anyid_ir::TensorType;
use anyid_ir::plan::{Plan, Root};
use std::collections::{BTreeMap, BTreeSet};

/// Elements of a piece.
const PIECE: usize = 1 << 18;

/// Weights by name and by whether they are packed.
pub(super) type Stored = BTreeMap<(String, bool), AlignedBytes>;

/// The weights of plans by name, in every form in which their kernels read them.
pub(super) fn wanted<'p>(
    plans: &[&'p Plan],
    architecture: Architecture,
) -> BTreeMap<(&'p str, bool), &'p TensorType> {
    let mut all = BTreeMap::new();
    for plan in plans {
        let (mut plain, mut packed) = (BTreeSet::new(), BTreeSet::new());
        for step in &plan.steps {
            let emitted = emit::step_with_packing(plan, step, architecture);
            for (at, id) in step.operands.iter().enumerate() {
                if let Root::Weight(weight) = plan.buffer(*id).root {
                    let packs = emitted.packed.contains(&at);
                    let uses = if packs { &mut packed } else { &mut plain };
                    uses.insert(weight as usize);
                }
            }
        }
        for (at, weight) in plan.weights.iter().enumerate() {
            // What no step reads may be an output.
            let packs = packed.contains(&at);
            let forms = [(false, plain.contains(&at) || !packs), (true, packs)];
            let forms = forms.into_iter().filter(|(_, wanted)| *wanted);
            all.extend(forms.map(|(packs, _)| ((weight.name.as_str(), packs), &weight.ty)));
        }
    }
    all
}

/// Loads the weights of plans.
pub(super) fn load(
    plans: &[&Plan],
    architecture: Architecture,
    provider: &dyn WeightProvider,
    progress: &mut Progress<'_>,
) -> Result<Stored, LoadError> {
    let wanted = wanted(plans, architecture);
    let total = wanted.values().map(|ty| ty.bytes()).sum();
    let (mut done, mut loaded) = (0, Stored::new());
    for ((name, packs), ty) in wanted {
        if !progress(done, total) || stop_requested() {
            return Err(LoadError::Stopped);
        }
        let bytes = one(provider, name, ty)?;
        let bytes = if packs { packed(name, ty, &bytes)? } else { bytes };
        loaded.insert((name.to_owned(), packs), bytes);
        done += ty.bytes();
    }
    progress(total, total);
    Ok(loaded)
}

/// A weight with its second axis behind all others.
fn packed(name: &str, ty: &TensorType, bytes: &AlignedBytes) -> Result<AlignedBytes, LoadError> {
    let (rows, columns) = (ty.shape[0], ty.shape[1]);
    let (each, size) = (ty.shape[2..].iter().product::<usize>(), ty.dtype.bytes());
    let no_memory = || LoadError::NoMemory { name: name.to_owned(), bytes: ty.bytes() };
    let mut out = AlignedBytes::try_zeroed(bytes.len()).ok_or_else(no_memory)?;
    for row in 0..rows {
        for column in 0..columns {
            for at in 0..each {
                let from = ((row * columns + column) * each + at) * size;
                let to = ((row * each + at) * columns + column) * size;
                out.bytes_mut()[to..to + size].copy_from_slice(&bytes.bytes()[from..from + size]);
            }
        }
    }
    Ok(out)
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
