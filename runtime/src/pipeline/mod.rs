//! References and a prompt in, frames out: the AnyID sampling run (`anyid.md` §1–6).
//!
//! The four networks run one after the other and each is released before the next is loaded: text
//! encoder, reference encoder, transformer, decoder. References are encoded independently, their
//! clean latents stand in front of the noisy target with timestep 0, and guidance uses one null
//! state: black references of the same lengths and the empty prompt.

mod codec;
mod context;
mod request;
mod sample;

pub use codec::{coder_phases, decode_latents, encode_pixels};
pub use context::encode_prompts;
pub use request::{Request, Size};
pub use sample::{Sampler, StepRecord};

use crate::engine::Backend;
use crate::error::{Error, Result};
use crate::media::ReadOptions;
use crate::media::standardise::{Reference, StandardiseOptions, read_reference};
use crate::model::Model;
use anyid_ir::Tensor;
use anyid_models::wan::Precision;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// One reference of the person.
#[derive(Clone, Debug)]
pub enum ReferenceSource {
    /// A picture or clip to read and fit to the target size.
    File(PathBuf),
    /// Pixels `f32[3,T,H,W]` in [−1,1] of the target size, T = 4k+1.
    Pixels(Tensor),
}

/// What a run tells while it works.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Something worth knowing that does not stop the run.
    Warning(String),
    /// A phase begins: `text`, `references`, `sampling`, `decoding`.
    Phase(&'static str),
    /// Weight bytes ready and in all.
    Loading {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// References encoded and in all.
    Encoded {
        /// References done.
        done: usize,
        /// References in all.
        total: usize,
    },
    /// Sampling steps done and in all, with the time of the last.
    Step {
        /// Steps done.
        done: usize,
        /// Steps in all.
        total: usize,
        /// Time of this step.
        time: Duration,
    },
    /// Frames decoded and in all.
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

/// A model on a backend, ready for requests.
pub struct Pipeline {
    model: Model,
    backend: Backend,
    cancel: Arc<AtomicBool>,
}

/// Most references of one person (paper, §P: N = 1 … 5).
pub const MOST_REFERENCES: usize = 5;

impl Pipeline {
    /// A pipeline for `model` on `backend`.
    pub fn new(model: Model, backend: Backend) -> Self {
        Self { model, backend, cancel: Arc::default() }
    }

    /// Opens a model folder on the CPU with all its threads.
    ///
    /// # Errors
    /// As [`Model::open`] and [`Backend::open`].
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self> {
        Ok(Self::new(Model::open(path)?, Backend::open("cpu", 0)?))
    }

    /// The built-in micro model on the CPU.
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

    /// Setting this flag from anywhere stops a run soon, with an error of kind `Interrupted`.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }

    /// Runs `request`. `frames` gets the decoded video in pieces `f32[3,t,H,W]` in [−1,1], in
    /// order, as they come.
    ///
    /// # Errors
    /// E09xx for a bad request, E08xx for references, E1001 for a non-finite value, E1002 when
    /// cancelled.
    pub fn generate(
        &self,
        request: &Request,
        events: &mut dyn FnMut(Event),
        frames: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<RunReport> {
        request.check(&self.model)?;
        for warning in &self.model.warnings {
            events(Event::Warning(warning.clone()));
        }
        let precision = request.precision.unwrap_or_else(|| self.model.default_precision());
        let references = self.read_references(request, events)?;
        let mut run = Run {
            model: &self.model,
            backend: &self.backend,
            cancel: &self.cancel,
            events,
            phases: Vec::new(),
        };
        let contexts = context::run(&mut run, request, precision)?;
        let latents = codec::encode_references(&mut run, request, &references)?;
        drop(references);
        let sampled = sample::run(&mut run, request, precision, &contexts, &latents)?;
        codec::decode(&mut run, request, &sampled.latents, frames)?;
        Ok(RunReport {
            phases: run.phases,
            latents: sampled.latents,
            precision,
            tokens: sampled.tokens,
        })
    }

    fn read_references(
        &self,
        request: &Request,
        events: &mut dyn FnMut(Event),
    ) -> Result<Vec<LoadedReference>> {
        let options = StandardiseOptions {
            max_frames: request.reference_frames,
            ..StandardiseOptions::new(request.size.width, request.size.height)
        };
        let mut out = Vec::new();
        for source in &request.references {
            out.push(match source {
                ReferenceSource::Pixels(tensor) => LoadedReference::Pixels(tensor.clone()),
                ReferenceSource::File(path) => {
                    let read = read_reference(path, &options, &ReadOptions::default())?;
                    for warning in &read.source.warnings {
                        events(Event::Warning(format!("{}: {warning}", path.display())));
                    }
                    LoadedReference::Read(read)
                }
            });
        }
        Ok(out)
    }
}

/// A reference in memory.
pub(crate) enum LoadedReference {
    Pixels(Tensor),
    Read(Reference),
}

/// State of one run that every phase shares.
pub(crate) struct Run<'r> {
    pub(crate) model: &'r Model,
    pub(crate) backend: &'r Backend,
    pub(crate) cancel: &'r Arc<AtomicBool>,
    pub(crate) events: &'r mut dyn FnMut(Event),
    pub(crate) phases: Vec<PhaseReport>,
}

impl Run<'_> {
    /// Does `work` outside a whole run: nobody listens and nothing interrupts.
    pub(crate) fn quiet<T>(
        model: &Model,
        backend: &Backend,
        work: impl FnOnce(&mut Run<'_>) -> T,
    ) -> T {
        let cancel = Arc::default();
        let mut events = |_| {};
        let phases = Vec::new();
        work(&mut Run { model, backend, cancel: &cancel, events: &mut events, phases })
    }

    /// An interruption, if one was asked for.
    pub(crate) fn check_cancel(&self, place: &str) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(crate::engine::interrupted(place));
        }
        Ok(())
    }

    pub(crate) fn begin(&mut self, name: &'static str) -> Instant {
        (self.events)(Event::Phase(name));
        Instant::now()
    }

    pub(crate) fn end(&mut self, name: &'static str, since: Instant, weights: u64, plan: u64) {
        self.phases.push(PhaseReport {
            name,
            time: since.elapsed(),
            weight_bytes: weights,
            plan_bytes: plan,
        });
    }

    /// Loads a program, telling progress and heeding interruption.
    pub(crate) fn load(
        &mut self,
        compiler: crate::engine::Compiler,
        weights: &Arc<crate::weights::ModelWeights>,
    ) -> Result<crate::engine::Program> {
        let (events, cancel) = (&mut *self.events, self.cancel);
        let provider: Arc<dyn anyid_backends::WeightProvider + Send + Sync> = weights.clone();
        let mut told: Option<Instant> = None;
        let mut program = compiler.load(provider, &mut |done, total| {
            // A tenth of a second between messages is plenty for a reader.
            let due = told.is_none_or(|at| at.elapsed() >= Duration::from_millis(100));
            if due || done == total {
                told = Some(Instant::now());
                events(Event::Loading { done, total });
            }
            !cancel.load(Ordering::Relaxed)
        })?;
        program.set_cancel(Arc::clone(cancel));
        Ok(program)
    }
}

/// A broken size in a tensor given by the caller.
pub(crate) fn shape_error(what: &str, given: &Tensor, expected: &str) -> Error {
    Error::input("E0906", format!("{what} is {}, expected {expected}", given.ty()))
}

/// An error if `tensor` holds a non-finite value.
pub(crate) fn finite(tensor: &Tensor, phase: impl Fn() -> String) -> Result<()> {
    let values = tensor.as_f32().map_err(|e| Error::internal("E1009", e.to_string()))?;
    match crate::sampling::first_non_finite(values) {
        None => Ok(()),
        Some(at) => Err(Error::input(
            "E1001",
            format!("a non-finite value in {}, element {at} of the result", phase()),
        )
        .help("check the weights with `anyid-rt inspect`")),
    }
}
