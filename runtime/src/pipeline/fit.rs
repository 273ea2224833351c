//! Makes the phases of a run fit into the memory that it may hold.
//!
//! Text encoder and transformer stream their weights, which changes no bit but reads them again for
//! every evaluation. The autoencoder works in tiles, the ones that need the least work of those that
//! fit. Both are done only if the request has a budget, and where networks stay loaded between
//! requests, neither is.

use super::need::{PhasePlan, Sizes, need};
use super::plan::{Made, Preflight, compile, key};
use super::shelf::Keep;
use super::tiles::Tiling;
use super::{Budget, Request};
use crate::engine::memory_check::Room;
use crate::engine::{Backend, Compiler};
use crate::error::Result;
use crate::model::Model;

/// Part of what a tile is expected to take by its area that it takes at least.
const SURELY: f64 = 0.9;
/// Most tilings that are compiled to find the best that fits.
const MOST_TRIED: usize = 12;

impl Preflight<'_> {
    /// Makes phases fit into `room` and the budget.
    ///
    /// # Errors
    /// As [`Self::check_room`] if that is not possible.
    pub(super) fn fit(&mut self, room: &Room) -> Result<()> {
        let limit = self.limit(room).filter(|_| self.may_change());
        if let Some(limit) = limit {
            for at in 0..self.phases.len() {
                if self.phases[at].device_bytes() > limit.bytes {
                    self.fit_phase(at, limit.bytes)?;
                }
            }
        }
        self.check_room(room)
    }

    /// Whether phases may be changed to fit.
    pub(super) fn may_change(&self) -> bool {
        self.request.budget != Budget::Refuse && self.pipeline.shelf.keep() == Keep::Released
    }

    /// Makes phase `at` fit into `there` bytes, or hold as little as it can if that is not possible.
    pub(super) fn fit_phase(&mut self, at: usize, there: u64) -> Result<()> {
        let (name, request) = (self.stages[at].name, self.request);
        // What the receiver holds is in the memory of the process.
        let counts = name == "decoding" && !self.phases[at].apart;
        let received = if name == "decoding" { self.received } else { 0 };
        let within = there.saturating_sub(if counts { received } else { 0 });
        let mut sizes = self.sizes.clone();
        let on = (self.pipeline.backend(), self.pipeline.model());
        let (made, mut phase) = fitted(name, on, request, &mut sizes, within)?;
        phase.pixel_bytes = phase.pixel_bytes.saturating_add(received);
        self.phases[at] = phase;
        self.stages[at].key = key(name, request, &sizes);
        self.stages[at].made = Made::Compiled(Box::new(made));
        self.sizes = sizes;
        Ok(())
    }
}

/// Phase `name` compiled to hold at most `there` bytes, or as few as it can, in `sizes` that say how.
pub(super) fn fitted(
    name: &'static str,
    (backend, model): (&Backend, &Model),
    request: &Request,
    sizes: &mut Sizes,
    there: u64,
) -> Result<(Compiler, PhasePlan)> {
    let tried = |sizes: &Sizes| -> Result<(Compiler, PhasePlan)> {
        let made = compile(name, backend, model, request, sizes)?;
        let phase = need(name, &made, model, request, sizes);
        Ok((made, phase))
    };
    let (made, whole) = tried(sizes)?;
    if whole.device_bytes() <= there {
        return Ok((made, whole));
    }
    let half = match name {
        "text" | "sampling" => {
            let beside = whole.device_bytes() - whole.weight_bytes;
            let most = Some(there.saturating_sub(beside));
            let of_phase = usize::from(name == "sampling");
            let before = std::mem::replace(&mut sizes.most_weights[of_phase], most);
            let made = made.holding(most);
            let phase = need(name, &made, model, request, sizes);
            if phase.device_bytes() < whole.device_bytes() {
                return Ok((made, phase));
            }
            // The slots would take more than the weights of so small a network.
            sizes.most_weights[of_phase] = before;
            return Ok((made.holding(before), whole));
        }
        "references" => sizes.tiles.encoder,
        _ => sizes.tiles.decoder,
    };
    let mut tiled = |tiling: &Tiling| {
        match name {
            "references" => sizes.tiles.encoder = Some(tiling.pixels()),
            _ => sizes.tiles.decoder = Some(tiling.pixels()),
        }
        tried(sizes)
    };
    let choices = Tiling::choices(model, request.size);
    let area = |tiling: &Tiling| tiling.area() as f64;
    let largest = area(&Tiling::of(model, request.size, half));
    let smaller = choices.iter().filter(|tiling| area(tiling) < largest);
    let Some(smallest) = smaller.clone().min_by_key(|tiling| tiling.area()) else {
        return Ok((made, whole));
    };
    let (tiniest, least) = tiled(smallest)?;
    if least.device_bytes() > there {
        if least.device_bytes() < whole.device_bytes() {
            return Ok((tiniest, least));
        }
        // Of a long video, what the tiles are put together in is more than what they save.
        match name {
            "references" => sizes.tiles.encoder = half,
            _ => sizes.tiles.decoder = half,
        }
        return Ok((made, whole));
    }
    // Memory grows with the area of a tile, so that most that are too large need not be compiled.
    let grows = |phase: &PhasePlan| phase.plan_bytes.saturating_add(phase.kept_bytes) as f64;
    let each = (grows(&whole) - grows(&least)).max(0.0) / (largest - area(smallest)).max(1.0);
    let expected = |tiling: &Tiling| {
        least.device_bytes() as f64 + each * (area(tiling) - area(smallest)) * SURELY
    };
    for tiling in smaller.filter(|tiling| expected(tiling) <= there as f64).take(MOST_TRIED) {
        let (made, phase) = tiled(tiling)?;
        if phase.device_bytes() <= there {
            return Ok((made, phase));
        }
    }
    tiled(smallest)
}
