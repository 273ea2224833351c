//! The memory of a run while it trains, known before its first update.
//!
//! Everything of more than a few kilobytes is counted, so that the sum is what the system says that the
//! process holds at most: from the program itself to the pictures of a video. Encoding comes before
//! and is not in it, and neither is the system's cache of file contents.

use super::dataset::Dataset;
use super::judging::Judging;
use super::network::Wanted;
use super::parameters::Parameters;
use super::settings::Settings;
use crate::engine::{Backend, Compiler, resident_memory};
use crate::error::Result;
use crate::model::Model;
use crate::pipeline::{Cancel, decoder_bytes};

/// Bytes that a run holds while it trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What the process holds before the network is there: the program, tables of models and samples.
    /// Zero where the system does not tell.
    pub program: u64,
    /// Weights as the kernels read them.
    pub weights: u64,
    /// Workspace and kernel scratch of network and optimiser.
    pub plans: u64,
    /// Vectors as long as what is trained: parameters, two moments, the gradient of a call and the sum
    /// of a batch; with pairs whose clips go one after the other their sum; with an average that.
    pub vectors: u64,
    /// Inputs and results of calls, and what is held of the cache.
    pub samples: u64,
    /// The decoder, latents and pictures of videos, and the judge that reads them, with `run.samples`.
    pub videos: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.program.saturating_add(self.taken())
    }

    /// All but the program itself: what a budget is for.
    pub fn taken(&self) -> u64 {
        [self.weights, self.plans, self.vectors, self.samples, self.videos]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// What is known before the network is compiled: samples that are held, and videos.
    ///
    /// # Errors
    /// E05xx where the decoder cannot be compiled, E1002 where `cancel` says to stop.
    pub fn beside(
        settings: &Settings,
        model: &Model,
        backend: &Backend,
        (data, judging): (&[&Dataset], Option<&Judging>),
        cancel: &Cancel,
    ) -> Result<Self> {
        let samples = data.iter().map(|data| data.held_bytes()).fold(0, u64::saturating_add);
        let mut videos = 0;
        if settings.run.samples > 0 {
            videos = decoder_bytes(model, backend, settings.size(), cancel)?;
            // Latents with the solver's history, and what the network gets in both branches.
            let [frames, rows, columns] = settings.size().latent(model.geometry());
            let items = data.iter().flat_map(|data| &data.items);
            let references = items.map(|item| item.reference_frames()).max().unwrap_or(0);
            let frame = 4 * (model.dit.in_channels * rows * columns) as u64;
            let text = 4 * (model.dit.text_len * model.dit.text_dim) as u64;
            let latents = frame * (8 * frames + 2 * references) as u64;
            videos = videos.saturating_add(latents).saturating_add(2 * text);
            videos = videos.saturating_add(judging.map_or(0, Judging::bytes));
        }
        Ok(Self { samples, videos, ..Self::default() })
    }

    /// Adds the program as it is now, and what a compiled network takes that is not loaded yet.
    #[must_use]
    pub fn with(self, wanted: &Wanted<'_>, compiler: &Compiler, parameters: &Parameters) -> Self {
        let calls = wanted.stages(compiler).map(|(_, plan)| parameters.call_bytes(plan));
        Self {
            program: resident_memory().unwrap_or(0),
            weights: compiler.weight_bytes(),
            plans: compiler.memory_bytes(),
            vectors: wanted.vector_bytes(parameters),
            samples: calls.fold(self.samples, u64::saturating_add),
            ..self
        }
    }
}
