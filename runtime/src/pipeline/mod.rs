//! Makes frames from references and a prompt: the AnyID sampling run (`anyid.md` §1–6).
//!
//! Text encoder, reference encoder, transformer and decoder run one after the other, and each is
//! released before the next is loaded. References are encoded independently. Their clean latents
//! are placed in front of the noisy target and have timestep 0. Guidance uses one null state: black
//! references of the same lengths and the empty prompt.

mod cancel;
mod codec;
mod context;
mod fit;
mod kept;
mod need;
mod plan;
mod preview;
mod remedy;
mod request;
mod results;
mod sample;
mod shelf;
mod state;
#[cfg(test)]
mod tests;
mod tiles;

pub use cancel::Cancel;
pub use codec::{ClipEncoder, coder_phases, decode_latents, encode_in_tiles, encode_pixels};
pub(crate) use codec::{decode_each, decoder_bytes};
pub use context::encode_prompts;
pub(crate) use context::{encode_each, tensor_f32, tensor_i32};
pub use kept::RECIPE_KEY;
pub use need::{PhasePlan, TilePlan};
pub use plan::Preflight;
pub use preview::Preview;
pub use request::{Budget, Misfit, Request, Size, Tiles, check_frames};
pub use results::{FileOptions, Finished, PreviewOptions, ResultFiles};
pub use sample::{KeptTensor, Sampler, StepRecord, schedule, settings};
pub use shelf::Keep;
pub use state::{FoundState, STEP_KEY, SamplingState, StepState, differences, state_beside};

use crate::engine::Backend;
use crate::error::{Error, Result};
use crate::media::standardise::Reference;
use crate::model::Model;
use anyid_backends::stop::with_stop;
use anyid_ir::Tensor;
use anyid_models::wan::Precision;
use shelf::Shelf;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One reference of the person.
#[derive(Clone, Debug)]
pub enum ReferenceSource {
    /// A picture or clip to read and fit to the target size.
    File(PathBuf),
    /// Pixels `f32[3,T,H,W]` in [−1,1] of the target size, T = 4k+1.
    Pixels(Tensor),
}

/// What a run reports while it works.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A problem that does not stop the run.
    Warning(String),
    /// What was found or done, for users who want to know more.
    Detail(String),
    /// A reference file is being read.
    Reading {
        /// Which reference it is, from 1.
        reference: usize,
        /// References in all.
        references: usize,
        /// Frames of it kept so far.
        frames: usize,
    },
    /// A phase begins: `text`, `references`, `sampling`, `decoding`.
    Phase(&'static str),
    /// A phase has ended.
    Finished(PhaseReport),
    /// Bytes of weights that are loaded, and in total.
    Loading {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Latent frames of references that are encoded, and in total.
    Encoded {
        /// Which reference it is, from 1; none for the black ones of guidance.
        reference: Option<usize>,
        /// References in all.
        references: usize,
        /// Latent frames done, of all references and the black ones.
        done: usize,
        /// Latent frames in all.
        total: usize,
    },
    /// Sampling goes on behind so many of all steps, which an earlier run has made.
    Resumed {
        /// Steps done.
        done: usize,
        /// Steps in all.
        total: usize,
    },
    /// Sampling steps done and in total, with the time of the last one.
    Step {
        /// Steps done.
        done: usize,
        /// Steps in all.
        total: usize,
        /// Time of this step.
        time: Duration,
    },
    /// A picture of what is predicted behind a step, as PNG, where previews are wanted.
    Preview {
        /// Steps done.
        done: usize,
        /// The file.
        png: Vec<u8>,
    },
    /// Frames decoded and in total.
    Decoded {
        /// Frames done.
        done: usize,
        /// Frames in all.
        total: usize,
    },
}

/// Time and memory of one phase.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseReport {
    /// Its name, as in [`Event::Phase`].
    pub name: &'static str,
    /// Wall time, loading included.
    pub time: Duration,
    /// Bytes of weights held.
    pub weight_bytes: u64,
    /// Bytes of workspace, scratch and persistent memory as planned.
    pub plan_bytes: u64,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// The phases in order.
    pub phases: Vec<PhaseReport>,
    /// Final latents of the target, `f32[C,F,h,w]`, normalised.
    pub latents: Tensor,
    /// Precision that was used.
    pub precision: Precision,
    /// Tokens of one transformer evaluation.
    pub tokens: usize,
}

/// Receives what a run makes, as soon as it is there.
pub trait Receiver {
    /// A warning, a phase, or progress.
    fn event(&mut self, event: Event) {
        let _ = event;
    }

    /// The state of sampling behind a step, and behind the last whole one when a step is interrupted.
    /// Stored ones are what [`Request::resume`] goes on from.
    ///
    /// # Errors
    /// Any error ends the run.
    fn state(&mut self, state: &StepState<'_>) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// The final latents `f32[C,F,h,w]`, as soon as sampling is over. If they are stored, a failure
    /// in decoding does not lose them ([`Request::latents`] continues from them).
    ///
    /// # Errors
    /// Any error ends the run.
    fn latents(&mut self, latents: &Tensor) -> Result<()> {
        let _ = latents;
        Ok(())
    }

    /// A piece of the video, `f32[3,t,H,W]` in [−1,1]; pieces come in order.
    ///
    /// # Errors
    /// Any error ends the run.
    fn frames(&mut self, video: &Tensor) -> Result<()>;
}

/// A model on a backend, ready for requests.
///
/// Several threads may run requests at the same time. Each request has programs and memory of its
/// own. They take turns at the device, and each gives the same result as when it runs alone.
pub struct Pipeline {
    model: Model,
    backend: Backend,
    shelf: Arc<Shelf>,
}

/// Most references of one person (`anyid.md` §1).
pub const MOST_REFERENCES: usize = 5;

impl Pipeline {
    /// A pipeline for `model` on `backend`.
    pub fn new(model: Model, backend: Backend) -> Self {
        Self { model, backend, shelf: Shelf::new(Keep::default()) }
    }

    /// The pipeline with a different rule about what stays in memory between requests.
    #[must_use]
    pub fn keep(mut self, keep: Keep) -> Self {
        self.shelf = Shelf::new(keep);
        self
    }

    /// Opens a model folder on the CPU with all its threads.
    ///
    /// # Errors
    /// As [`Model::open`] and [`Backend::open`].
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self> {
        Ok(Self::new(Model::open(path)?, Backend::open("cpu", 0)?))
    }

    /// The built-in model on the CPU.
    ///
    /// # Errors
    /// As [`Backend::open`].
    pub fn built_in() -> Result<Self> {
        Ok(Self::new(Model::built_in()?, Backend::open("cpu", 0)?))
    }

    /// [`Model::micro`] on the CPU.
    ///
    /// # Errors
    /// As [`Backend::open`].
    pub fn micro() -> Result<Self> {
        Ok(Self::new(Model::micro()?, Backend::open("cpu", 0)?))
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The device.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Runs `request`. `frames` gets the decoded video in pieces `f32[3,t,H,W]` in [−1,1], in
    /// order, as they come.
    ///
    /// # Errors
    /// As [`Self::plan`] and [`Preflight::run`].
    pub fn generate(
        &self,
        request: &Request,
        events: &mut dyn FnMut(Event),
        frames: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<RunReport> {
        self.generate_with(request, &Cancel::new(), &mut Closures { events, frames })
    }

    /// As [`Self::generate`], but `cancel` can stop it, and it also hands out latents.
    ///
    /// # Errors
    /// As [`Self::plan`] and [`Preflight::run`].
    pub fn generate_with(
        &self,
        request: &Request,
        cancel: &Cancel,
        receiver: &mut dyn Receiver,
    ) -> Result<RunReport> {
        self.plan(request, cancel, &mut |event| receiver.event(event))?.run(cancel, receiver)
    }
}

/// A receiver made of closures.
pub(crate) struct Closures<'c> {
    pub(crate) events: &'c mut dyn FnMut(Event),
    pub(crate) frames: &'c mut dyn FnMut(&Tensor) -> Result<()>,
}

impl Receiver for Closures<'_> {
    fn event(&mut self, event: Event) {
        (self.events)(event);
    }

    fn frames(&mut self, video: &Tensor) -> Result<()> {
        (self.frames)(video)
    }
}

/// A reference in memory.
pub(crate) enum LoadedReference {
    Pixels(Tensor),
    Read(Reference),
}

impl LoadedReference {
    pub(crate) fn frames(&self) -> usize {
        match self {
            Self::Pixels(tensor) => tensor.shape()[1],
            Self::Read(reference) => reference.frames.len(),
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Pixels(tensor) => tensor.ty().bytes(),
            Self::Read(reference) => reference.frames.iter().map(|frame| frame.len() as u64).sum(),
        }
    }
}

/// State of one run that every phase shares.
pub(crate) struct Run<'r> {
    pub(crate) model: &'r Model,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) cancel: Cancel,
    pub(crate) receiver: &'r mut dyn Receiver,
    pub(crate) phases: Vec<PhaseReport>,
}

impl Run<'_> {
    /// Does `work` outside a whole run, without events, until `cancel` says to stop.
    pub(crate) fn quiet<T>(
        model: &Model,
        cancel: &Cancel,
        frames: &mut dyn FnMut(&Tensor) -> Result<()>,
        work: impl FnOnce(&mut Run<'_>) -> T,
    ) -> T {
        work(&mut Run {
            model,
            shelf: plan::no_shelf(),
            cancel: cancel.clone(),
            receiver: &mut Closures { events: &mut |_| {}, frames },
            phases: Vec::new(),
        })
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.receiver.event(event);
    }

    pub(crate) fn begin(&mut self, name: &'static str) -> Instant {
        self.event(Event::Phase(name));
        Instant::now()
    }

    pub(crate) fn end(&mut self, name: &'static str, since: Instant, weights: u64, plan: u64) {
        let time = since.elapsed();
        let report = PhaseReport { name, time, weight_bytes: weights, plan_bytes: plan };
        self.event(Event::Finished(report.clone()));
        self.phases.push(report);
    }

    /// Loads a program, reports progress and stops if interrupted.
    pub(crate) fn load(
        &mut self,
        compiler: crate::engine::Compiler,
        weights: &Arc<crate::weights::ModelWeights>,
    ) -> Result<crate::engine::Program> {
        let (receiver, cancel) = (&mut *self.receiver, &self.cancel);
        let provider: Arc<dyn anyid_backends::WeightProvider + Send + Sync> = weights.clone();
        let mut told: Option<Instant> = None;
        let mut progress = |done, total| {
            // A message every tenth of a second is enough.
            let due = told.is_none_or(|at| at.elapsed() >= Duration::from_millis(100));
            if due || done == total {
                told = Some(Instant::now());
                receiver.event(Event::Loading { done, total });
            }
            !cancel.is_cancelled()
        };
        // Packing a large weight can be stopped in the middle, too.
        with_stop(&cancel.flag(), || compiler.load(provider, &mut progress))
    }
}

/// A tensor from the caller with a wrong size.
pub(crate) fn shape_error(what: &str, given: &Tensor, expected: &str) -> Error {
    Error::input("E0906", format!("{what} is {}, expected {expected}", given.ty()))
}
