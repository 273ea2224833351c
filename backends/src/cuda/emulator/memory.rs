//! Memory of the emulated device: weights, and what a run works in, none of it the caller's.

use crate::WeightProvider;
use crate::buffer::AlignedBytes;
use crate::cuda::emit::Architecture;
use crate::cuda::launches::{Roots, Span};
use crate::cuda::wanted::wanted;
use crate::device::Progress;
use crate::errors::LoadError;
use crate::stop::stop_requested;
use crate::stored::Source;
use anyid_ir::plan::{BufferId, Plan, Root};
use anyid_ir::{Tensor, TensorType};
use std::collections::BTreeMap;

/// What memory holds that nothing was written to: NaN in every floating-point type.
pub(super) const POISON: u8 = 0xFF;

/// Weights by name and by whether they are packed.
pub(super) type Stored = BTreeMap<(String, bool), AlignedBytes>;

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
    for ((name, packed), ty) in wanted {
        if !progress(done, total) || stop_requested() {
            return Err(LoadError::Stopped);
        }
        let mut source = Source::find(provider, name, ty, packed)?;
        let room = usize::try_from(ty.bytes()).ok().and_then(AlignedBytes::try_zeroed);
        let no_memory = || LoadError::NoMemory { name: name.to_owned(), bytes: ty.bytes() };
        let mut out = room.ok_or_else(no_memory)?;
        source.read(0, out.bytes_mut())?;
        loaded.insert((name.to_owned(), packed), out);
        done += ty.bytes();
    }
    progress(total, total);
    Ok(loaded)
}

/// Memory as launches name it.
pub(super) fn span(memory: &mut AlignedBytes) -> Span {
    let base = memory.bytes_mut().as_mut_ptr().expose_provenance();
    Span::dense(base as u64, memory.len() as u64)
}

/// Memory that is read and never written.
pub(super) fn read(bytes: &[u8]) -> Span {
    Span::dense(bytes.as_ptr().expose_provenance() as u64, bytes.len() as u64)
}

/// One run: where every root is.
pub(super) struct Frame<'f> {
    pub(super) roots: Roots<'f>,
}

impl Frame<'_> {
    fn bytes(&self, span: Span) -> &[u8] {
        let base = std::ptr::with_exposed_provenance(span.address as usize);
        // SAFETY: spans of roots lie inside memory that the run has borrowed, as [`Span::part`] has
        // checked; a frame is used by one thread, which writes no memory while it looks at it.
        unsafe { std::slice::from_raw_parts(base, span.bytes as usize) }
    }

    /// Bytes of workspace, kept values, states and ports, for writing.
    #[expect(clippy::mut_from_ref, reason = "the frame owns the memory that it names")]
    fn bytes_mut(&self, span: Span) -> &mut [u8] {
        let base = std::ptr::with_exposed_provenance_mut(span.address as usize);
        // SAFETY: as in `bytes`; callers write no weight, and hold one slice at a time.
        unsafe { std::slice::from_raw_parts_mut(base, span.bytes as usize) }
    }

    /// Appends the bytes of a buffer.
    pub(super) fn copy_to(&self, id: BufferId, out: &mut Vec<u8>) {
        self.roots.pieces(id).for_each(|piece| out.extend_from_slice(self.bytes(piece)));
    }

    /// Sets the bytes of a buffer, as [`Self::copy_to`] has copied them; the rest of `from`.
    pub(super) fn copy_from<'b>(&self, id: BufferId, mut from: &'b [u8]) -> &'b [u8] {
        for piece in self.roots.pieces(id) {
            let (own, rest) = from.split_at(piece.bytes as usize);
            self.bytes_mut(piece).copy_from_slice(own);
            from = rest;
        }
        from
    }

    /// Sets every byte of a buffer.
    pub(super) fn fill(&self, id: BufferId, byte: u8) {
        self.roots.pieces(id).for_each(|piece| self.bytes_mut(piece).fill(byte));
    }

    /// What a buffer holds.
    pub(super) fn tensor(&self, id: BufferId) -> Tensor {
        let ty: TensorType = self.roots.plan.buffer(id).ty.clone();
        let mut bytes = Vec::with_capacity(ty.bytes() as usize);
        self.copy_to(id, &mut bytes);
        Tensor::from_bytes(ty, &bytes).expect("a buffer holds its type")
    }

    /// Takes the caller's inputs, and fills what outputs will be with NaN.
    pub(super) fn take(&self, inputs: &[&[u8]]) {
        for (at, bytes) in inputs.iter().enumerate() {
            self.bytes_mut(self.roots.root(Root::Input(at as u32))).copy_from_slice(bytes);
        }
        for at in 0..self.roots.plan.outputs.len() {
            self.bytes_mut(self.roots.root(Root::Output(at as u32))).fill(POISON);
        }
    }

    /// Gives the caller the outputs.
    pub(super) fn give(&self, outputs: &mut [&mut [u8]]) {
        for (port, out) in self.roots.plan.outputs.iter().zip(outputs) {
            let mut at = 0;
            for piece in self.roots.pieces(port.buffer) {
                let bytes = self.bytes(piece);
                out[at..at + bytes.len()].copy_from_slice(bytes);
                at += bytes.len();
            }
        }
    }
}
