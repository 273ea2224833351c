//! The preflight: everything that can be known about a run before its first step.
//!
//! The request is checked, references are read, and the prompt is tokenised. Every phase is
//! compiled and compared with the available memory. The plans made here are the ones that run;
//! nothing is compiled twice. If a phase does not fit, and the request has a budget, the phase works in
//! tiles, or streams its weights (`fit.rs`). If that is not enough or not wanted, the error names the
//! phase, what it needs, what is available, and changes of the request that were tried and fit.

use super::need::{PhasePlan, Planned, Sizes, need};
use super::shelf::{Keep, Lent, Shelf};
use super::{
    Budget, Cancel, Event, LoadedReference, Pipeline, Receiver, ReferenceSource, Request, Run,
    RunReport, Size, Tiles, codec, context, sample,
};
use crate::engine::memory_check::{self, Bound, Limit, Room};
use crate::engine::{Backend, Compiler};
use crate::error::{Error, Kind, Result, plural};
use crate::media::ReadOptions;
use crate::media::standardise::{Fit, StandardiseOptions, read_reference};
use crate::model::Model;
use anyid_models::wan::vae::Half;
use anyid_models::wan::{Geometry, Precision};
use std::sync::Arc;

/// Names of the phases, in order.
const PHASES: [&str; 4] = ["text", "references", "sampling", "decoding"];

/// A run that is ready for its first step.
pub struct Preflight<'p> {
    pub(super) pipeline: &'p Pipeline,
    pub(super) request: &'p Request,
    pub(super) sizes: Sizes,
    ids: Option<[Vec<u32>; 2]>,
    references: Vec<LoadedReference>,
    first: Option<LoadedReference>,
    pub(super) stages: Vec<Stage>,
    pub(super) phases: Vec<PhasePlan>,
    /// Bytes that are already held and therefore no longer counted as available: of references, and of
    /// networks.
    held: [u64; 2],
    /// Bytes that the receiver of the frames holds during decoding.
    pub(super) received: u64,
}

/// A phase that is compiled, or still loaded from the previous request.
pub(super) struct Stage {
    pub(super) name: &'static str,
    /// What its plans depend on, as text.
    pub(super) key: String,
    pub(super) made: Made,
}

pub(super) enum Made {
    Compiled(Box<Compiler>),
    Kept(Lent),
    Taken,
}

impl Stage {
    pub(super) fn need(&self, model: &Model, request: &Request, sizes: &Sizes) -> PhasePlan {
        match &self.made {
            Made::Compiled(compiler) => need(self.name, &**compiler, model, request, sizes),
            Made::Kept(program) => need(self.name, &**program, model, request, sizes),
            Made::Taken => unreachable!("what a phase needs is asked before it runs"),
        }
    }

    /// Bytes of networks that are loaded already.
    fn loaded(&self) -> u64 {
        match &self.made {
            Made::Kept(program) => Planned::weights(&**program) + Planned::memory(&**program),
            _ => 0,
        }
    }
}

/// The phases that a request has.
fn wanted(request: &Request, sizes: &Sizes) -> impl Iterator<Item = &'static str> {
    let (whole, contexts) = (request.finished_latents().is_none(), request.contexts.is_some());
    let references = sizes.clean_latents() > 0;
    PHASES.into_iter().filter(move |name| match *name {
        "text" => whole && !contexts,
        "references" => whole && references,
        "sampling" => whole,
        _ => true,
    })
}

/// What the plans of a phase depend on, as text; equal for equal plans.
pub(super) fn key(name: &str, request: &Request, sizes: &Sizes) -> String {
    let Size { width, height, frames } = request.size;
    match name {
        "text" => format!("{:?} {:?} {:?}", sizes.tokens, sizes.precision, sizes.most_weights[0]),
        "references" => {
            format!("{width}x{height} {:?} {}", sizes.tiles.encoder, sizes.longest() > 1)
        }
        "sampling" => {
            let (own, fixed, rows) = (sizes.reference_latents(), sizes.fixed, sizes.rows);
            let (precision, residual) = (sizes.precision, request.residual);
            let (guided, most) = (sizes.guided, sizes.most_weights[1]);
            let apart = request.guidance_interval.is_some();
            format!(
                "{width}x{height} {frames} {own} {fixed} {rows} {guided} {apart} {precision:?} \
                 {residual:?} {most:?}"
            )
        }
        _ => format!("{width}x{height} {:?} {}", sizes.tiles.decoder, frames > 1),
    }
}

/// Compiles one phase.
pub(super) fn compile(
    name: &str,
    backend: &Backend,
    model: &Model,
    request: &Request,
    sizes: &Sizes,
) -> Result<Compiler> {
    let compiler = Compiler::new(backend);
    match name {
        "text" => {
            let tokens = sizes.tokens.expect("a run with a text phase has tokens");
            let made = context::compile(compiler, model, &tokens, sizes.precision)?;
            Ok(made.holding(sizes.most_weights[0]))
        }
        "references" => {
            let tiling = sizes.tiling(model, Half::Encoder, request.size);
            codec::compile(compiler, model, Half::Encoder, tiling.pixels(), sizes.longest() > 1)
        }
        "sampling" => {
            let made = sample::compile(backend, model, request, sizes)?;
            Ok(made.holding(sizes.most_weights[1]))
        }
        _ => {
            let tiling = sizes.tiling(model, Half::Decoder, request.size);
            let clips = request.size.frames > 1;
            codec::compile(compiler, model, Half::Decoder, tiling.pixels(), clips)
        }
    }
}

impl Sizes {
    /// The sizes of a request with known references and tokens.
    pub(super) fn of(
        model: &Model,
        request: &Request,
        references: Vec<usize>,
        tokens: Option<[usize; 2]>,
    ) -> Self {
        let given = request.contexts.as_ref().map(|contexts| contexts[0].shape()[0]);
        Self {
            geometry: model.geometry(),
            references,
            fixed: usize::from(request.first_frame.is_some()),
            tokens,
            rows: given.or(request.text_tokens).unwrap_or(model.dit.text_len),
            precision: request.precision.unwrap_or_else(|| model.default_precision()),
            guided: crate::sampling::guidance::needs_unconditional(request.guidance as f32),
            tiles: request.tiles,
            most_weights: [None; 2],
        }
    }
}

impl Pipeline {
    /// Finds out everything about `request` that can be known before the first step. Nothing is
    /// loaded or computed yet, and the result can simply be dropped.
    ///
    /// # Errors
    /// E09xx for a bad request, E08xx for references, E073x for the prompt, E1001 for a non-finite
    /// value that was given, E0603 of kind `Budget` for a phase that does not fit into memory,
    /// E1002 when cancelled.
    pub fn plan<'p>(
        &'p self,
        request: &'p Request,
        cancel: &Cancel,
        events: &mut dyn FnMut(Event),
    ) -> Result<Preflight<'p>> {
        let model = self.model();
        request.check(model)?;
        for warning in model.warnings.iter().cloned().chain(request.outside(model)) {
            events(Event::Warning(warning));
        }
        let whole = request.finished_latents().is_none();
        let (references, first) = match whole {
            true => read_references(request, model.geometry(), cancel, events)?,
            false => (Vec::new(), None),
        };
        let ids = match request.contexts.is_none() && whole {
            true => Some(context::tokenise(model, request, events)?),
            false => None,
        };
        let tokens = ids.as_ref().map(|ids| ids.each_ref().map(Vec::len));
        let frames = references.iter().map(LoadedReference::frames).collect();
        let sizes = Sizes::of(model, request, frames, tokens);
        let mut stages = Vec::new();
        for name in wanted(request, &sizes) {
            cancel.check("while planning")?;
            let key = key(name, request, &sizes);
            let made = match self.shelf.take(name, &key) {
                Some(program) => Made::Kept(program),
                None => {
                    let made = compile(name, self.backend(), model, request, &sizes)?;
                    Made::Compiled(Box::new(made))
                }
            };
            stages.push(Stage { name, key, made });
        }
        let mut phases: Vec<PhasePlan> =
            stages.iter().map(|stage| stage.need(model, request, &sizes)).collect();
        if self.shelf.keep() == Keep::Loaded {
            stay_loaded(&mut phases, &stages);
        }
        let pixels = references.iter().chain(&first).map(LoadedReference::bytes).sum::<u64>();
        let held = [pixels, stages.iter().map(Stage::loaded).fold(0, u64::saturating_add)];
        let (pipeline, received) = (self, 0);
        let mut made = Preflight {
            pipeline,
            request,
            sizes,
            ids,
            references,
            first,
            stages,
            phases,
            held,
            received,
        };
        made.fit(&Room::now())?;
        Ok(made)
    }
}

/// Adds to each phase the networks of other phases that are in memory during it.
fn stay_loaded(phases: &mut [PhasePlan], stages: &[Stage]) {
    let network = |phase: &PhasePlan| phase.weight_bytes.saturating_add(phase.plan_bytes);
    let each: Vec<u64> = phases.iter().map(network).collect();
    for at in 0..phases.len() {
        let others = (0..phases.len())
            .filter(|other| *other < at || (*other > at && stages[*other].loaded() > 0))
            .map(|other| each[other]);
        phases[at].loaded_bytes = others.fold(0, u64::saturating_add);
    }
}

/// Reads the references, and the first frame where it is given.
fn read_references(
    request: &Request,
    geometry: Geometry,
    cancel: &Cancel,
    events: &mut dyn FnMut(Event),
) -> Result<(Vec<LoadedReference>, Option<LoadedReference>)> {
    let options = StandardiseOptions {
        max_frames: request.reference_frames,
        group: geometry.time,
        ..StandardiseOptions::new(request.size.width, request.size.height)
    };
    let count = request.references.len();
    let mut read = |at: usize, source: &ReferenceSource, options: &StandardiseOptions| {
        let place = (at + 1, count + usize::from(request.first_frame.is_some()));
        read_source(source, options, place, cancel, events)
    };
    let mut out = Vec::new();
    for (at, source) in request.references.iter().enumerate() {
        out.push(read(at, source, &options)?);
    }
    // It fills the picture, as Wan's image-to-video has it (`sampling.md` §8).
    let first = StandardiseOptions { max_frames: 1, fit: Fit::Cover, ..options };
    let first = request.first_frame.as_ref().map(|source| read(count, source, &first));
    Ok((out, first.transpose()?))
}

fn read_source(
    source: &ReferenceSource,
    options: &StandardiseOptions,
    (reference, references): (usize, usize),
    cancel: &Cancel,
    events: &mut dyn FnMut(Event),
) -> Result<LoadedReference> {
    cancel.check("while reading references")?;
    let path = match source {
        ReferenceSource::Pixels(tensor) => return Ok(LoadedReference::Pixels(tensor.clone())),
        ReferenceSource::File(path) => path,
    };
    let mut told = 0;
    let mut seen = |frames: usize| {
        cancel.check("while reading references")?;
        if frames > told {
            told = frames;
            events(Event::Reading { reference, references, frames });
        }
        Ok(())
    };
    let read = read_reference(path, options, &ReadOptions::default(), &mut seen)?;
    let info = &read.source;
    let taken = plural(read.frames.len(), "frame");
    events(Event::Detail(format!(
        "{}: {}, {}x{}, taken as {taken}",
        path.display(),
        info.description,
        info.width,
        info.height,
    )));
    if read.source.sound {
        events(Event::Warning(format!("{}: its sound is not used", path.display())));
    }
    for warning in &read.source.warnings {
        events(Event::Warning(format!("{}: {warning}", path.display())));
    }
    Ok(LoadedReference::Read(read))
}

impl Preflight<'_> {
    /// What each phase will hold and compute, in order.
    pub fn phases(&self) -> &[PhasePlan] {
        &self.phases
    }

    /// The largest amount that is held during any phase.
    pub fn most_bytes(&self) -> u64 {
        self.phases.iter().map(PhasePlan::held_bytes).max().unwrap_or(0)
    }

    /// Whether the device has memory of its own.
    pub(super) fn apart(&self) -> bool {
        self.pipeline.backend().about().capacity.is_some()
    }

    /// Whether the run samples; otherwise it decodes what another run has sampled.
    pub fn samples(&self) -> bool {
        self.request.latents.is_none()
    }

    /// The precision of the run.
    pub fn precision(&self) -> Precision {
        self.sizes.precision
    }

    /// Tokens of one transformer evaluation; 0 if nothing is sampled.
    pub fn tokens(&self) -> usize {
        match self.request.finished_latents() {
            None => sample::size(self.request, &self.sizes).tokens(&self.pipeline.model().dit),
            Some(_) => 0,
        }
    }

    /// Adds `bytes` that the receiver of the frames holds during decoding, as a
    /// [writer](crate::media::writer::VideoWriter::held_bytes) does.
    ///
    /// # Errors
    /// E0603 if decoding does not fit together with them.
    pub fn receiver_holds(&mut self, bytes: u64) -> Result<()> {
        self.received = self.received.saturating_add(bytes);
        if let Some(decoding) = self.phases.last_mut() {
            decoding.pixel_bytes = decoding.pixel_bytes.saturating_add(bytes);
        }
        self.fit(&Room::now())
    }

    /// The tiles of the autoencoder, those that the budget has made included.
    pub fn tiles(&self) -> Tiles {
        let size = self.request.size;
        let of = |half: Half, name: &str| {
            let tiling = self.sizes.tiling(self.pipeline.model(), half, size);
            let there = self.phases.iter().any(|phase| phase.name == name);
            (there && !tiling.is_whole()).then(|| tiling.pixels())
        };
        Tiles { encoder: of(Half::Encoder, "references"), decoder: of(Half::Decoder, "decoding") }
    }

    /// What a run may hold where its device computes, with what it holds there already, and what says so.
    pub(super) fn limit(&self, room: &Room) -> Option<Limit> {
        let [pixels, networks] = self.held;
        let room = match memory_check::of_device(&**self.pipeline.backend().device()) {
            Some(own) => Some((own, networks)),
            None => room.least().cloned().map(|least| (least, pixels.saturating_add(networks))),
        };
        let room = room.map(|(least, held)| {
            let bytes = least.bytes.saturating_add(held);
            Limit { bytes, ..least }
        });
        let budget = match self.request.budget {
            Budget::Bytes(bytes) => Some(Limit { bytes, bound: Bound::Budget }),
            _ => None,
        };
        room.into_iter().chain(budget).min_by_key(|limit| limit.bytes)
    }

    /// Refuses a run if one of its phases does not fit into `room` and the budget, or into the memory of
    /// the device.
    pub(super) fn check_room(&self, room: &Room) -> Result<()> {
        if self.apart() {
            self.check_process(room)?;
        }
        let Some(least) = self.limit(room) else { return Ok(()) };
        let there = least.bytes;
        let over = |phase: &&PhasePlan| phase.device_bytes() > there;
        let Some(worst) = self.phases.iter().filter(over).max_by_key(|p| p.device_bytes()) else {
            return Ok(());
        };
        let size = memory_check::size;
        let (needed, left) = memory_check::left(worst.device_bytes(), &least);
        let loaded = match worst.loaded_bytes {
            0 => String::new(),
            bytes => format!(", networks kept loaded {}", size(bytes)),
        };
        let (kept, pixels) = match worst.apart {
            true => (worst.resident_bytes, String::new()),
            false => (worst.kept_bytes, format!(", pixels {}", size(worst.pixel_bytes))),
        };
        let message = format!(
            "{} needs {needed} of memory (weights {}, plan {}, kept values {}{pixels}{loaded}); {left}",
            worst.name,
            size(worst.weight_bytes),
            size(worst.plan_bytes),
            size(kept),
        );
        let failing: Vec<&'static str> = self.phases.iter().filter(over).map(|p| p.name).collect();
        let more = match least.bound {
            Bound::Budget => "a larger budget",
            _ => "more free memory",
        };
        let changes = self.remedies(&failing, there);
        let help = match changes.is_empty() {
            false => format!("{} would make it fit; so would {more}", changes.join(" or ")),
            true => format!(
                "no smaller size and no other precision that was tried fits, in tiles and with \
                 streamed weights neither: it takes {more}"
            ),
        };
        Err(Error::new(Kind::Budget, "E0603", message).at(worst.name).help(help))
    }

    /// Refuses a run of which a phase holds more in the memory of the process than `room` has, while it
    /// computes elsewhere.
    fn check_process(&self, room: &Room) -> Result<()> {
        let Some(least) = room.least().cloned() else { return Ok(()) };
        let bytes = least.bytes.saturating_add(self.held[0]);
        let Some(worst) = self.phases.iter().max_by_key(|phase| phase.process_bytes()) else {
            return Ok(());
        };
        if worst.process_bytes() <= bytes {
            return Ok(());
        }
        let (needed, left) = memory_check::left(worst.process_bytes(), &Limit { bytes, ..least });
        let message = format!(
            "{} needs {needed} of memory of the process for pixels and latents, beside that of the \
             device; {left}",
            worst.name
        );
        Err(Error::new(Kind::Budget, "E0603", message)
            .at(worst.name)
            .help("fewer frames, a smaller size or more free memory would make it fit"))
    }

    /// Runs what was planned. `receiver` gets events, latents and frames as soon as they are there.
    ///
    /// # Errors
    /// E1001 for a non-finite value, E1002 when cancelled, and those of `receiver`.
    pub fn run(mut self, cancel: &Cancel, receiver: &mut dyn Receiver) -> Result<RunReport> {
        let (pipeline, request) = (self.pipeline, self.request);
        let tokens = self.tokens();
        let mut stages = std::mem::take(&mut self.stages).into_iter();
        let mut run = Run {
            model: pipeline.model(),
            shelf: Arc::clone(&pipeline.shelf),
            cancel: cancel.clone(),
            receiver,
            phases: Vec::new(),
        };
        let mut next = |name: &str| {
            let stage = stages.next().filter(|stage| stage.name == name);
            stage.expect("the stages were made in the order of the phases")
        };
        let latents = match request.finished_latents() {
            Some(latents) => latents.clone(),
            None => {
                let contexts = match (&request.contexts, &self.ids) {
                    (Some(contexts), _) => contexts.clone(),
                    (None, Some(ids)) => {
                        context::run(&mut run, next("text"), ids, self.sizes.rows)?
                    }
                    (None, None) => unreachable!("a run without contexts has tokens"),
                };
                let references = std::mem::take(&mut self.references);
                let first = self.first.take();
                let encoded = match self.sizes.clean_latents() {
                    0 => None,
                    _ => {
                        let stage = next("references");
                        let guided = self.sizes.guided;
                        let tiling =
                            self.sizes.tiling(pipeline.model(), Half::Encoder, request.size);
                        let whole = (request, &tiling);
                        let run = &mut run;
                        let given = (&references[..], first.as_ref());
                        Some(codec::encode_references(run, stage, whole, guided, given)?)
                    }
                };
                drop((references, first));
                let stage = next("sampling");
                sample::run(&mut run, stage, request, &self.sizes, &contexts, &encoded)?
            }
        };
        run.receiver.latents(&latents)?;
        let tiling = self.sizes.tiling(pipeline.model(), Half::Decoder, request.size);
        codec::decode(&mut run, next("decoding"), &latents, &tiling)?;
        Ok(RunReport { phases: run.phases, latents, precision: self.sizes.precision, tokens })
    }
}

impl Stage {
    /// A phase outside a pipeline.
    pub(super) fn alone(name: &'static str, compiler: Compiler) -> Self {
        Self { name, key: String::new(), made: Made::Compiled(Box::new(compiler)) }
    }

    /// Loads its program unless it is loaded already, reports progress and stops if interrupted.
    pub(super) fn load(
        mut self,
        run: &mut Run<'_>,
        weights: &Arc<crate::weights::ModelWeights>,
    ) -> Result<Lent> {
        let mut program = match std::mem::replace(&mut self.made, Made::Taken) {
            Made::Kept(program) => program,
            Made::Compiled(compiler) => {
                let program = run.load(*compiler, weights)?;
                run.shelf.lend(self.name, self.key, program)
            }
            Made::Taken => unreachable!("a phase is loaded once"),
        };
        program.set_cancel(run.cancel.flag());
        Ok(program)
    }
}

/// A shelf that keeps no program.
pub(super) fn no_shelf() -> Arc<Shelf> {
    Shelf::new(Keep::Released)
}
