//! Finds changes of the request that make a run fit into memory, by compiling the phases that are
//! too large again with each change. Only budgets, sizes and element types are tried.

use super::fit::fitted;
use super::need::{Sizes, need};
use super::plan::{Preflight, compile};
use super::shelf::Keep;
use super::{Budget, Request, Size};
use anyid_models::wan::{Precision, Residual};

impl Preflight<'_> {
    /// Changes of the request each of which makes the phases `failing` fit into `there` bytes; first
    /// the one that changes the least.
    pub(super) fn remedies(&self, failing: &[&'static str], there: u64) -> Vec<String> {
        let (mut changes, keep) = (Vec::new(), self.pipeline.shelf.keep());
        let fits = |change: &dyn Fn(&mut Request)| {
            // Pixels of references and noise are left out, because only sizes matter.
            let mut request =
                Request { references: Vec::new(), noise: None, ..self.request.clone() };
            change(&mut request);
            if request.first_frame.is_some() && request.size.frames == 1 {
                return false;
            }
            let on = (self.pipeline.backend(), self.pipeline.model());
            let sizes = Sizes::of(on.1, &request, self.sizes.references.clone(), self.sizes.tokens);
            failing.iter().all(|name| {
                let counts = *name == "decoding" && !self.apart();
                let received = if counts { self.received } else { 0 };
                let there = there.saturating_sub(received);
                if request.budget == Budget::Refuse || keep == Keep::Loaded {
                    let made = compile(name, on.0, on.1, &request, &sizes);
                    let needed = |made| need(name, &made, on.1, &request, &sizes).device_bytes();
                    return made.is_ok_and(|made| needed(made) <= there);
                }
                let fitted = fitted(name, on, &request, &mut sizes.clone(), there);
                fitted.is_ok_and(|(_, phase)| phase.device_bytes() <= there)
            })
        };
        if self.request.budget == Budget::Refuse && keep == Keep::Released {
            let fitted = |request: &mut Request| request.budget = Budget::Available;
            changes.extend(fits(&fitted).then(|| "--budget auto".to_owned()));
        }
        let sampling = failing.contains(&"sampling");
        if sampling && self.request.residual != Residual::Bf16 {
            let cheaper = |request: &mut Request| request.residual = Residual::Bf16;
            changes.extend(fits(&cheaper).then(|| "--residual bf16".to_owned()));
        }
        let precise = self.sizes.precision == Precision::F32;
        if precise && failing.iter().any(|name| matches!(*name, "text" | "sampling")) {
            let cheaper = |request: &mut Request| request.precision = Some(Precision::Bf16);
            changes.extend(fits(&cheaper).then(|| "--precision bf16".to_owned()));
        }
        if self.request.finished_latents().is_some() {
            return changes;
        }
        let Size { width, height, frames } = self.request.size;
        // They are fewer for the transformer and for tiles, which are complete only in the end; the
        // other networks work piece by piece.
        if frames > 1 {
            let geometry = self.sizes.geometry;
            let least =
                |k: usize| fits(&move |request| request.size.frames = geometry.frames(k + 1));
            if let Some(k) = largest(geometry.latent_frames(frames) - 1, &least) {
                changes.push(format!("--frames {}", geometry.frames(k + 1)));
            }
        }
        let [rows, columns] = self.sizes.geometry.sides();
        let scaled = |eighths: usize| {
            [(width, columns), (height, rows)]
                .map(|(pixels, side)| (pixels * eighths / (8 * side) * side).max(side))
        };
        let smaller = |eighths: usize| {
            let [width, height] = scaled(eighths);
            fits(&move |request| (request.size.width, request.size.height) = (width, height))
        };
        if let Some(eighths) = largest(8, &smaller).filter(|eighths| *eighths > 0) {
            let [width, height] = scaled(eighths);
            changes.push(format!("--size {width}x{height}"));
        }
        changes
    }
}

/// The largest number below `limit` for which `fits` holds. If it holds for a number, it holds for
/// all smaller ones.
fn largest(limit: usize, fits: &dyn Fn(usize) -> bool) -> Option<usize> {
    if limit == 0 || !fits(0) {
        return None;
    }
    let (mut good, mut bad) = (0, limit);
    while bad - good > 1 {
        let middle = good.midpoint(bad);
        if fits(middle) { good = middle } else { bad = middle }
    }
    Some(good)
}
