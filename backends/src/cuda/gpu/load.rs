//! Weights on their way to the GPU: read a piece at a time into memory that copies are fast from, of which
//! there are two pieces, so that one is filled while the other is copied.

use super::Gpu;
use super::driver::{Event, Refused};
use super::memory::{Memory, Pinned};
use crate::WeightProvider;
use crate::cuda::launches::Span;
use crate::cuda::wanted::wanted;
use crate::device::Progress;
use crate::errors::LoadError;
use crate::places::GAP;
use crate::stop::stop_requested;
use crate::stored::Source;
use anyid_ir::plan::Plan;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a piece: whole elements of every type.
const PIECE: usize = if cfg!(test) { 1 << 10 } else { 32 << 20 };

/// Weights on the GPU, all in one piece of memory.
pub(super) struct Loaded {
    pub(super) gpu: Arc<Gpu>,
    memory: Memory,
    /// First byte and bytes of each, by name and by whether it is packed.
    places: BTreeMap<(String, bool), (u64, u64)>,
}

impl Loaded {
    /// The memory of a weight.
    pub(super) fn span(&self, name: &str, packed: bool) -> Span {
        let (from, bytes) = self.places[&(name.to_owned(), packed)];
        self.memory.span().part(from, bytes)
    }

    pub(super) fn total(&self) -> u64 {
        self.memory.span().bytes
    }
}

/// Two pieces, of which the next one is taken when its last copy is done.
struct Staging {
    gpu: Arc<Gpu>,
    pieces: [Pinned; 2],
    copied: [Event; 2],
    /// Whether a piece has been copied from yet.
    used: [bool; 2],
    next: usize,
}

impl Staging {
    fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self, Refused> {
        let pieces = [Pinned::new(gpu, bytes)?, Pinned::new(gpu, bytes)?];
        let first = gpu.driver.event()?;
        let second = gpu.driver.event().inspect_err(|_| gpu.driver.drop_event(first))?;
        let (copied, used) = ([first, second], [false; 2]);
        Ok(Self { gpu: gpu.clone(), pieces, copied, used, next: 0 })
    }

    /// Fills the next piece and starts to copy it.
    fn send(
        &mut self,
        to: Span,
        fill: impl FnOnce(&mut [u8]) -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        let at = self.next;
        let failed = |refused: Refused| LoadError::Failed(self.gpu.fault(&refused));
        if self.used[at] {
            self.gpu.driver.wait_for(self.copied[at]).map_err(failed)?;
        }
        let piece = &mut self.pieces[at];
        fill(&mut piece.bytes_mut()[..to.bytes as usize])?;
        let send = || {
            let _turn = self.gpu.turn();
            // SAFETY: the piece is filled again only when its event says that it was copied; weights and
            // pieces are given back behind a wait for the stream.
            unsafe { piece.upload(0, to)? };
            self.gpu.driver.record(self.copied[at])
        };
        send().map_err(failed)?;
        (self.used[at], self.next) = (true, 1 - at);
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.copied.into_iter().for_each(|event| self.gpu.driver.drop_event(event));
    }
}

/// Loads the weights of plans.
pub(super) fn load(
    gpu: &Arc<Gpu>,
    plans: &[&Plan],
    provider: &dyn WeightProvider,
    progress: &mut Progress<'_>,
) -> Result<Loaded, LoadError> {
    let wanted = wanted(plans, gpu.kernels.architecture());
    let (mut places, mut end) = (BTreeMap::new(), 0u64);
    for ((name, packed), ty) in &wanted {
        places.insert(((*name).to_owned(), *packed), (end, ty.bytes()));
        end += ty.bytes().next_multiple_of(GAP);
    }
    // Missing ones are told before anything is copied.
    let sources: Vec<Source<'_>> = wanted
        .iter()
        .map(|((name, packed), ty)| Source::find(provider, name, ty, *packed))
        .collect::<Result<_, _>>()?;
    let memory = Memory::new(gpu, end)
        .map_err(|refused| LoadError::Failed(gpu.refused_memory("weights", end, &refused)))?;
    let loaded = Loaded { gpu: gpu.clone(), memory, places };
    let total = wanted.values().map(|ty| ty.bytes()).sum();
    let failed = |refused: Refused| LoadError::Failed(gpu.fault(&refused));
    let unit = sources.iter().map(Source::unit).max().unwrap_or(0);
    let room = PIECE.max(unit);
    let mut staging = if end > 0 { Some(Staging::new(gpu, room).map_err(failed)?) } else { None };
    let mut done = 0;
    for (((name, packed), ty), mut source) in wanted.iter().zip(sources) {
        let all = loaded.span(name, *packed);
        // As many whole units as fit into a piece.
        let most = (room / source.unit().max(1) * source.unit()) as u64;
        let mut from = 0;
        while from < ty.bytes() {
            if !progress(done, total) || stop_requested() {
                return Err(LoadError::Stopped);
            }
            let bytes = most.min(ty.bytes() - from);
            let staging = staging.as_mut().expect("there are bytes to send");
            staging.send(all.part(from, bytes), |piece| source.read(from, piece))?;
            from += bytes;
            done += bytes;
        }
    }
    if staging.is_some() {
        let _turn = gpu.turn();
        gpu.driver.wait().map_err(failed)?;
    }
    progress(total, total);
    Ok(loaded)
}
