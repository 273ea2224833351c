//! The objective of the transformer: the velocity of noisy targets (`anyid.md` §4.1).
//!
//! A shape is the number of latent frames of all references.

use super::dataset::Item;
use super::draws::{Draw, Levels};
use super::learner::{Numbers, named};
use super::objective::{Example, Objective};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::pipeline::tensor_i32;
use crate::weights::ModelWeights;
use anyid_ir::{Module, Tensor};
use anyid_models::wan::Precision;
use anyid_models::wan::dit::{Batch, DitSize, dit_batch};
use anyid_models::wan::loss::with_draws;
use std::sync::Arc;

/// The transformer on noisy targets.
pub struct Denoising<'l> {
    model: &'l Model,
    settings: &'l Settings,
    precision: Precision,
    levels: Levels,
    /// Rows of a text, of which the last stands for so many rows of zeros.
    text: [usize; 2],
}

impl<'l> Denoising<'l> {
    /// Of a model, as settings say.
    ///
    /// # Errors
    /// E0956 for a precision that there is not.
    pub fn new(model: &'l Model, settings: &'l Settings) -> Result<Self> {
        let precision = settings.precision(model.default_precision())?;
        let (levels, text) = (Levels::new(&settings.train), [model.dit.text_len, 1]);
        Ok(Self { model, settings, precision, levels, text })
    }

    fn size(&self, shape: usize, samples: usize) -> DitSize {
        let [frames, height, width] = self.settings.size().latent(self.model.geometry());
        let [text_tokens, _] = self.text;
        // References share timestep 0.
        let timesteps = samples + usize::from(shape > 0);
        DitSize { reference_frames: shape, frames, height, width, text_tokens, timesteps }
    }
}

impl Objective for Denoising<'_> {
    fn weights(&self) -> &Arc<ModelWeights> {
        &self.model.dit_weights
    }

    fn fit(&mut self, text_rows: usize) {
        let all = self.model.dit.text_len;
        // One row of zeros behind the longest prompt stands for all that follow it.
        let rows = (text_rows + 1).min(all);
        self.text = [rows, all - rows + 1];
    }

    fn shape(&self, item: &Item) -> usize {
        item.reference_frames()
    }

    fn stream(&self, shape: usize) -> usize {
        let config = &self.model.dit;
        (self.size(shape, 1).tokens(config) + self.text[0]) * config.width()
    }

    fn describe(&self, shape: usize) -> String {
        let end = if shape == 1 { "" } else { "s" };
        format!("{shape} latent frame{end} of references")
    }

    fn tokens(&self, shape: usize) -> Option<usize> {
        Some(self.size(shape, 1).tokens(&self.model.dit))
    }

    fn drawn(&self) -> bool {
        true
    }

    fn module(&self, shape: usize, samples: usize) -> Module {
        let size = self.size(shape, samples);
        let batch = Batch { samples, last_text: self.text[1], targets: true };
        with_draws(dit_batch(&self.model.dit, &size, batch, self.precision), samples)
    }

    fn fixed(&self, name: &str, shape: usize, samples: usize) -> Result<Option<Tensor>> {
        if name != "seg" {
            return Ok(None);
        }
        let size = self.size(shape, samples);
        let (tokens, clean) = (size.tokens(&self.model.dit), shape > 0);
        let config = &self.model.dit;
        let first = shape / config.patch[0] as usize * size.tokens_per_frame(config);
        let segment = |row: usize| match row % tokens < first {
            true => 0,
            false => (row / tokens + usize::from(clean)) as i32,
        };
        let values: Vec<i32> = (0..samples * tokens).map(segment).collect();
        tensor_i32([values.len()], &values).map(Some)
    }

    fn fill(&self, example: &Example<'_>, name: &str, into: &mut [f32]) -> Result<()> {
        let Example { data, item, member, draw, .. } = example;
        match name {
            "x0" => data.fill_target(item, *member, into),
            "noise" => {
                draw.fill_noise(into);
                Ok(())
            }
            "sigma" => {
                into.fill(self.levels.sigma(draw.level) as f32);
                Ok(())
            }
            "ref" => data.fill_references(item, draw.null, into),
            "txt" => data.fill_text(item, draw.null, into),
            _ => Err(Error::internal("E1009", format!("input %{name} is unknown"))),
        }
    }

    fn place(&self, example: &Example<'_>) -> String {
        let sigma = self.levels.sigma(example.draw.level);
        format!("sample {}, noise level {sigma:.4}", example.item.id)
    }

    fn weight(&self, draw: &Draw) -> f64 {
        self.levels.weight(draw.level)
    }

    fn logged(&self, _: &Item, found: &[f64], weight: f64) -> Numbers {
        named([("loss", weight * found[0]), ("error", found[0])])
    }
}
