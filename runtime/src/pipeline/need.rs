//! What each phase of a run will hold in memory and compute, before the first step.
//!
//! Everything larger than a few kilobytes is counted: weights as the kernels read them, workspace
//! and kernel scratch as planned, what is kept from one launch to the next, and pixels of
//! references and result. The system's cache of file contents is not counted.

use super::state::SamplingState;
use super::tiles::Tiling;
use super::{Request, Size, Tiles};
use crate::engine::{Compiler, Program};
use crate::model::Model;
use crate::sampling::StepCache;
use anyid_ir::plan::Plan;
use anyid_models::wan::vae::Half;
use anyid_models::wan::{Geometry, Precision};
use anyid_passes::cost::plan_cost;

/// What one phase needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhasePlan {
    /// Its name, as in [`super::Event::Phase`].
    pub name: &'static str,
    /// Floating-point operations of all its launches.
    pub flops: u64,
    /// Bytes of weights as the kernels read them.
    pub weight_bytes: u64,
    /// Bytes of workspace and kernel scratch.
    pub plan_bytes: u64,
    /// Bytes that are kept from one launch to the next: states, what `prepare` computes, results,
    /// contexts, latents, the solver's history.
    pub kept_bytes: u64,
    /// Of [`Self::kept_bytes`], those that lie where the device computes: states, and what `prepare`
    /// computes.
    pub resident_bytes: u64,
    /// Whether the device has memory of its own, where weights, plans and what is resident are.
    pub apart: bool,
    /// Bytes of pixels: references, pieces on their way through the autoencoder, and the result if
    /// its container is built in memory.
    pub pixel_bytes: u64,
    /// Bytes of other phases' networks that stay loaded meanwhile ([`super::Keep::Loaded`]).
    pub loaded_bytes: u64,
    /// Bytes of weights that are read again for every evaluation, because they do not stay in memory.
    pub streamed_bytes: u64,
    /// The tiles that its pictures are cut into, if they are.
    pub tiles: Option<TilePlan>,
}

/// How the pictures of a phase are cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TilePlan {
    /// Tiles beside and below each other.
    pub grid: [usize; 2],
    /// Width and height of a tile in pixels.
    pub pixels: [usize; 2],
    /// Pixels that neighbouring tiles share at least.
    pub overlap: usize,
}

impl PhasePlan {
    /// All bytes held during the phase.
    pub fn held_bytes(&self) -> u64 {
        [self.weight_bytes, self.plan_bytes, self.kept_bytes, self.pixel_bytes, self.loaded_bytes]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Those of them that lie in the memory that the device computes in: all, where it has none of its
    /// own.
    pub fn device_bytes(&self) -> u64 {
        let own = [self.weight_bytes, self.plan_bytes, self.resident_bytes, self.loaded_bytes];
        match self.apart {
            true => sum(&own),
            false => self.held_bytes(),
        }
    }

    /// The rest, which is in the memory of the process.
    pub fn process_bytes(&self) -> u64 {
        self.held_bytes().saturating_sub(self.device_bytes())
    }
}

/// The sizes of a run, which determine its plans.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub(super) geometry: Geometry,
    /// Frames of each reference.
    pub(super) references: Vec<usize>,
    /// Latent frames of the video that are given: 1 with a first frame, else 0.
    pub(super) fixed: usize,
    /// Tokens of the prompt and of the empty one; none where contexts are given.
    pub(super) tokens: Option<[usize; 2]>,
    /// Rows of the text context.
    pub(super) rows: usize,
    pub(super) precision: Precision,
    pub(super) guided: bool,
    /// Tiles of the autoencoder.
    pub(super) tiles: Tiles,
    /// Bytes of weights of the text encoder and of the transformer that may be held at most; others
    /// are read again when they are needed.
    pub(super) most_weights: [Option<u64>; 2],
}

impl Sizes {
    /// How a half of the autoencoder cuts pictures of `size`.
    pub(super) fn tiling(&self, model: &Model, half: Half, size: Size) -> Tiling {
        let most = match half {
            Half::Encoder => self.tiles.encoder,
            Half::Decoder => self.tiles.decoder,
        };
        Tiling::of(model, size, most)
    }

    /// Latent frames of all references.
    pub(super) fn reference_latents(&self) -> usize {
        self.references.iter().map(|frames| self.geometry.latent_frames(*frames)).sum()
    }

    /// Latent frames that the transformer gets clean: those of references and a given first frame.
    pub(super) fn clean_latents(&self) -> usize {
        self.reference_latents() + self.fixed
    }

    /// Frames of the longest reference, or of a given first frame.
    pub(super) fn longest(&self) -> usize {
        self.references.iter().copied().max().unwrap_or(self.fixed)
    }
}

/// The plans of a phase, loaded or not.
pub(super) trait Planned {
    fn weights(&self) -> u64;
    fn streamed(&self) -> u64;
    fn memory(&self) -> u64;
    fn phase(&self, name: &str) -> Option<&Plan>;
    /// Whether their device has memory of its own.
    fn apart(&self) -> bool;

    fn of(&self, name: &str, what: impl Fn(&Plan) -> u64) -> u64
    where
        Self: Sized,
    {
        self.phase(name).map_or(0, what)
    }
}

impl Planned for Compiler {
    fn weights(&self) -> u64 {
        self.weight_bytes()
    }

    fn streamed(&self) -> u64 {
        self.streamed_bytes()
    }

    fn memory(&self) -> u64 {
        self.memory_bytes()
    }

    fn phase(&self, name: &str) -> Option<&Plan> {
        self.plans().find(|(own, _)| *own == name).map(|(_, plan)| plan)
    }

    fn apart(&self) -> bool {
        self.backend().about().capacity.is_some()
    }
}

impl Planned for Program {
    fn weights(&self) -> u64 {
        self.weight_bytes()
    }

    fn streamed(&self) -> u64 {
        self.streamed_bytes()
    }

    fn memory(&self) -> u64 {
        self.memory_bytes()
    }

    fn phase(&self, name: &str) -> Option<&Plan> {
        self.plan(name)
    }

    fn apart(&self) -> bool {
        self.backend().about().capacity.is_some()
    }
}

fn flops(plan: &Plan) -> u64 {
    plan_cost(plan).flops
}

/// Bytes of the results that a phase gives to its caller.
fn results(plan: &Plan) -> u64 {
    plan.outputs.iter().map(|port| plan.buffer(port.buffer).ty.bytes()).fold(0, u64::saturating_add)
}

const F32: u64 = 4;

/// A product of sizes in bytes that cannot overflow.
fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1u64, |all, factor| all.saturating_mul(*factor as u64))
}

fn sum(parts: &[u64]) -> u64 {
    parts.iter().copied().fold(0, u64::saturating_add)
}

/// What decoding a video of `size` needs by itself; its plans are `made`.
pub(super) fn decoding(made: &impl Planned, model: &Model, size: Size) -> PhasePlan {
    let request = Request { size, ..Request::default() };
    let sizes = Sizes {
        geometry: model.geometry(),
        references: Vec::new(),
        fixed: 0,
        tokens: None,
        rows: 0,
        precision: Precision::F32,
        guided: false,
        tiles: Tiles::default(),
        most_weights: [None; 2],
    };
    need("decoding", made, model, &request, &sizes)
}

/// What the phase `name` needs; its plans are `made`.
pub(super) fn need(
    name: &'static str,
    made: &impl Planned,
    model: &Model,
    request: &Request,
    sizes: &Sizes,
) -> PhasePlan {
    let size = request.size;
    let geometry = sizes.geometry;
    let [frames, rows, columns] = size.latent(geometry);
    let frame = product(&[3, size.height, size.width]);
    let latent = product(&[model.dit.in_channels, rows, columns]).saturating_mul(F32);
    let target = latent.saturating_mul(frames as u64);
    let branches = 1 + u64::from(sizes.guided);
    let contexts = product(&[2, sizes.rows, model.dit.text_dim]).saturating_mul(F32);
    // Clean and black latents.
    let encoded = latent.saturating_mul(2 * sizes.clean_latents() as u64);
    let pictures = sizes.references.iter().sum::<usize>() + sizes.fixed;
    let held = frame.saturating_mul(pictures as u64);
    // A chunk of pixels on its way in, and the copy that it is made from.
    let chunk =
        frame.saturating_mul(2 * F32 * if sizes.longest() > 1 { geometry.time as u64 } else { 1 });
    let clip = |frames: usize| {
        let later = geometry.latent_frames(frames.max(1)) as u64 - 1;
        made.of("first", flops).saturating_add(made.of("next", flops).saturating_mul(later))
    };
    let most = |names: &[&str], what: fn(&Plan) -> u64| {
        names.iter().map(|name| made.of(name, what)).max().unwrap_or(0)
    };
    let half = if name == "references" { Half::Encoder } else { Half::Decoder };
    let tiling = matches!(name, "references" | "decoding").then(|| sizes.tiling(model, half, size));
    let tiling = tiling.filter(|tiling| !tiling.is_whole());
    let count = tiling.map_or(1, |tiling| tiling.count() as u64);
    let (flops, resident_bytes, kept_bytes, pixel_bytes) = match name {
        "text" => {
            let phases = sizes.tokens.unwrap_or_default().map(super::context::phase);
            let phases = phases.each_ref().map(String::as_str);
            let work = sum(&phases.map(|phase| made.of(phase, flops)));
            (work, 0, sum(&[contexts, most(&phases, results)]), held)
        }
        "references" => {
            let dark = sizes.guided && !sizes.references.is_empty();
            let black = if dark { clip(sizes.longest()) } else { 0 };
            let black = black.saturating_add(clip(1).saturating_mul(sizes.fixed as u64));
            let clips = sizes.references.iter().map(|frames| clip(*frames));
            let states = made.of("first", Plan::state_bytes);
            // The pieces are concatenated at the end.
            let latents = encoded.saturating_mul(2);
            let results = most(&["first", "next"], results);
            let kept = sum(&[contexts, states, results, latents]);
            let work = clips.fold(black, u64::saturating_add).saturating_mul(count);
            (work, states, kept, sum(&[held, chunk]))
        }
        "sampling" => {
            let runs =
                if made.phase("prepare").is_some_and(Plan::has_branches) { 1 } else { branches };
            let steps = request.sigmas.as_ref().map_or(request.steps, Vec::len);
            let steps = runs.saturating_mul(steps as u64);
            let work = made.of("prepare", flops).saturating_mul(runs);
            let work = work.saturating_add(made.of("step", flops).saturating_mul(steps));
            let prepared = made.of("step", |plan| plan.persistent_bytes).saturating_mul(runs);
            let results = made.of("step", results).saturating_mul(2);
            // Latents, velocity, and up to three earlier ones of the solver; what the cache of steps keeps
            // and predicts; the state that the run goes on from.
            let cached = match request.cache {
                Some(_) => StepCache::buffers(branches as usize) as u64 + branches,
                None => 0,
            };
            let resumed = request.resume.as_ref().map_or(0, SamplingState::bytes);
            let latents = target.saturating_mul(5 + cached).saturating_add(resumed);
            let area: usize = geometry.patch.iter().product();
            let all = product(&[sizes.reference_latents() + frames, rows, columns]);
            let tokens = all / area as u64;
            let segments = tokens.saturating_mul(2 * F32);
            let kept = sum(&[contexts, encoded, prepared, results, latents, segments]);
            (work, prepared, kept, 0)
        }
        _ => {
            let states = made.of("first", Plan::state_bytes);
            let results = most(&["first", "next"], results);
            // Tiles are complete only when the last one is.
            let whole = tiling.map_or(0, |_| frame.saturating_mul(F32 * size.frames as u64));
            let work = clip(size.frames).saturating_mul(count);
            let kept = sum(&[states, target, latent * 2]);
            (work, states, kept, sum(&[results, frame, whole]))
        }
    };
    PhasePlan {
        name,
        flops,
        weight_bytes: made.weights(),
        plan_bytes: made.memory(),
        kept_bytes,
        resident_bytes,
        apart: made.apart(),
        pixel_bytes,
        loaded_bytes: 0,
        streamed_bytes: made.streamed(),
        tiles: tiling.map(|tiling| TilePlan {
            grid: tiling.grid(),
            pixels: tiling.pixels(),
            overlap: tiling.overlap(),
        }),
    }
}
