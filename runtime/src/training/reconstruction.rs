//! The objective of the autoencoder: target clips encoded and decoded again.
//!
//! It reads pixels, which need no encoder, and neither references nor prompts. All clips have one shape.
//! Single frames go through the network together, clips each by itself.

use super::dataset::Item;
use super::draws::Draw;
use super::learner::{Numbers, named};
use super::objective::{Example, Objective};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::weights::ModelWeights;
use anyid_ir::{Module, Tensor};
use anyid_models::wan::reconstruction::{Latents, reconstruction};
use anyid_models::wan::vae::VaeSize;
use std::sync::Arc;

/// The autoencoder on clips.
pub struct Reconstruction<'l> {
    model: &'l Model,
    settings: &'l Settings,
}

impl<'l> Reconstruction<'l> {
    /// Of a model, as settings say.
    pub fn new(model: &'l Model, settings: &'l Settings) -> Self {
        Self { model, settings }
    }
}

impl Objective for Reconstruction<'_> {
    fn weights(&self) -> &Arc<ModelWeights> {
        &self.model.vae_weights
    }

    fn shape(&self, _: &Item) -> usize {
        0
    }

    fn stream(&self, _: usize) -> usize {
        let (size, config) = (self.settings.size(), &self.model.vae);
        match size.frames {
            // Pictures go through together.
            1 => config.base_dim * size.height * size.width / config.patch_size.pow(2),
            _ => usize::MAX,
        }
    }

    fn describe(&self, _: usize) -> String {
        let size = self.settings.size();
        let end = if size.frames == 1 { "" } else { "s" };
        format!("{} frame{end} of {}x{}", size.frames, size.width, size.height)
    }

    fn tokens(&self, _: usize) -> Option<usize> {
        None
    }

    fn drawn(&self) -> bool {
        false
    }

    fn module(&self, _: usize, samples: usize) -> Module {
        let size = self.settings.size();
        let sizes = VaeSize { height: size.height, width: size.width, chunk: 1 };
        let train = &self.settings.train;
        let latents = Latents { noise: train.latent_noise, penalty: train.latent_penalty };
        reconstruction(&self.model.vae, &sizes, size.frames, samples, latents)
    }

    fn fixed(&self, _: &str, _: usize, _: usize) -> Result<Option<Tensor>> {
        Ok(None)
    }

    fn fill(&self, example: &Example<'_>, name: &str, into: &mut [f32]) -> Result<()> {
        let Example { data, item, member, draw, learned, .. } = example;
        match name {
            "pixels" => data.fill_pixels(item, *member, into),
            "noise" if *learned => {
                draw.fill_noise(into);
                Ok(())
            }
            // What is measured is what the autoencoder makes of a clip.
            "noise" => {
                into.fill(0.0);
                Ok(())
            }
            _ => Err(Error::internal("E1009", format!("input %{name} is unknown"))),
        }
    }

    fn place(&self, example: &Example<'_>) -> String {
        format!("sample {}", example.item.id)
    }

    fn weight(&self, _: &Draw) -> f64 {
        1.0
    }

    fn logged(&self, _: &Item, found: &[f64], weight: f64) -> Numbers {
        // Pixels are from −1 to 1.
        let psnr = |square: f64| 10.0 * (4.0 / square.max(1e-12)).log10();
        let mut numbers = named([("loss", weight * found[0]), ("psnr_first", psnr(found[1]))]);
        numbers.extend(found.get(2).map(|later| ("psnr_later".to_owned(), psnr(*later))));
        numbers
    }
}
