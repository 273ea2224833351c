//! Finds a change of the request that makes a run fit into memory, by compiling the phases that are
//! too large again with the change. Only sizes and element types are tried.

use super::need::{Sizes, need};
use super::plan::{Preflight, compile};
use super::{Request, Size};
use anyid_models::wan::{Precision, Residual};

impl Preflight<'_> {
    /// A change of the request that makes the phases `failing` fit into `there` bytes.
    pub(super) fn remedy(&self, failing: &[&'static str], there: u64) -> Option<String> {
        let extra = self.phases.last().map_or(0, |last| {
            let own = self.stages.last().map(|stage| {
                stage.need(self.pipeline.model(), self.request, &self.sizes).pixel_bytes
            });
            last.pixel_bytes.saturating_sub(own.unwrap_or(0))
        });
        let fits = |change: &dyn Fn(&mut Request)| {
            // Pixels of references and noise are left out, because only sizes matter.
            let mut request =
                Request { references: Vec::new(), noise: None, ..self.request.clone() };
            change(&mut request);
            let model = self.pipeline.model();
            let sizes =
                Sizes::of(model, &request, self.sizes.references.clone(), self.sizes.tokens);
            failing.iter().all(|name| {
                let made = compile(name, self.pipeline.backend(), model, &request, &sizes);
                made.is_ok_and(|made| {
                    let need = need(name, &made, model, &request, &sizes).held_bytes();
                    need.saturating_add(if *name == "decoding" { extra } else { 0 }) <= there
                })
            })
        };
        let sampling = failing.contains(&"sampling");
        if sampling && self.request.residual != Residual::Bf16 {
            let cheaper = |request: &mut Request| request.residual = Residual::Bf16;
            if fits(&cheaper) {
                return Some("--residual bf16".to_owned());
            }
        }
        let precise = self.sizes.precision == Precision::F32;
        if precise && failing.iter().any(|name| matches!(*name, "text" | "sampling")) {
            let cheaper = |request: &mut Request| request.precision = Some(Precision::Bf16);
            if fits(&cheaper) {
                return Some("--precision bf16".to_owned());
            }
        }
        let Size { width, height, frames } = self.request.size;
        // Fewer frames help only the transformer; the other networks work piece by piece.
        if self.request.latents.is_none() && failing == ["sampling"] && frames > 1 {
            let geometry = self.sizes.geometry;
            let least =
                |k: usize| fits(&move |request| request.size.frames = geometry.frames(k + 1));
            if let Some(k) = largest(geometry.latent_frames(frames) - 1, &least) {
                return Some(format!("--frames {}", geometry.frames(k + 1)));
            }
        }
        if self.request.latents.is_some() {
            return None;
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
        let eighths = largest(8, &smaller).filter(|eighths| *eighths > 0)?;
        let [width, height] = scaled(eighths);
        Some(format!("--size {width}x{height}"))
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
