//! The mean and the standard deviation of each channel of an autoencoder's latents, measured once it is
//! trained: transformers are trained on latents that are normalised by them.
//!
//! They are part of the configuration of the autoencoder, which is written beside its weights, so that
//! the two take the places of those in a copy of the model's folder.

use super::dataset::Dataset;
use super::settings::Settings;
use crate::checkpoint::WeightSet;
use crate::engine::{Backend, CompileRequest, Compiler, Inputs};
use crate::error::{Error, Result};
use crate::init::write_bytes;
use crate::model::Model;
use crate::pipeline::{Cancel, Size};
use crate::weights::ModelWeights;
use anyid_ir::{DType, Tensor, TensorType};
use anyid_models::wan::config::VaeConfig;
use anyid_models::wan::vae::{Half, VaeSize, encoder, whole_clip};
use std::path::Path;
use std::sync::Arc;

/// Clips that are measured at most, spread evenly over the set.
const CLIPS: usize = 256;
/// A standard deviation below this is that of a channel that says nothing; it counts as 1.
const NOTHING: f64 = 1e-6;

/// Sums of the values of a channel, and of their squares.
#[derive(Clone, Copy, Default)]
struct Sums {
    count: f64,
    sum: f64,
    square: f64,
}

impl Sums {
    fn add(&mut self, values: &[f32]) {
        self.count += values.len() as f64;
        self.sum += values.iter().map(|value| f64::from(*value)).sum::<f64>();
        self.square += values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
    }

    fn mean(&self) -> f64 {
        self.sum / self.count
    }

    fn deviation(&self) -> f64 {
        let deviation = (self.square / self.count - self.mean().powi(2)).max(0.0).sqrt();
        if deviation < NOTHING { 1.0 } else { deviation }
    }
}

/// Writes the configuration of the autoencoder whose weights are in `weights` into `path`, with the
/// statistics that it has on `data`.
///
/// # Errors
/// E1001 for a non-finite value, E1002 when cancelled, E0603 where there is no memory, those of reading
/// the weights and the cache, E101x where the file cannot be written.
pub fn write(
    (model, settings, backend): (&Model, &Settings, &Backend),
    data: &Dataset,
    weights: &Path,
    path: &Path,
    cancel: &Cancel,
) -> Result<()> {
    let Size { width, height, frames } = settings.size();
    let size = VaeSize { height, width, chunk: 1 };
    let module = encoder(&model.vae, &size);
    let module = whole_clip(&model.vae, &size, Half::Encoder, module, frames);
    let compiler = Compiler::new(backend).stopped_by(cancel.flag());
    let compiler = compiler.add("encode", CompileRequest::new(&module, "encode"))?;
    let set = ModelWeights::recognise(&WeightSet::open(weights)?, model.vae.component())?;
    let mut program = compiler.load_until(Arc::new(set), &cancel.flag())?;
    let mut channels = vec![Sums::default(); model.vae.z_dim];
    let mut pixels = Tensor::zeros(TensorType::new(DType::F32, [3, frames, height, width]));
    for item in data.items.iter().step_by(data.items.len().div_ceil(CLIPS)) {
        cancel.check("while measuring latents")?;
        data.fill_pixels(item, 0, pixels.as_f32_mut().expect("pixels are f32"))?;
        let outputs = program.call("encode", &Inputs::new().set("video", &pixels))?;
        let means = outputs.get("mean")?.to_f32_vec();
        let each = means.chunks_exact(means.len() / channels.len());
        channels.iter_mut().zip(each).for_each(|(sums, values)| sums.add(values));
    }
    let config = VaeConfig {
        latents_mean: channels.iter().map(|sums| sums.mean() as f32).collect(),
        latents_std: channels.iter().map(|sums| sums.deviation() as f32).collect(),
        ..model.vae.clone()
    };
    config.validate().map_err(|fault| {
        Error::input("E1001", format!("latents of the trained autoencoder: {fault}"))
            .at(weights.display())
            .help("train again with a smaller train.learning_rate")
    })?;
    let text = serde_json::to_string_pretty(&config.to_diffusers_json());
    let text = text.map_err(|error| Error::internal("E1009", error.to_string()))? + "\n";
    write_bytes(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_has_the_mean_and_the_deviation_of_all_its_values() {
        let mut sums = Sums::default();
        sums.add(&[1.0, 2.0]);
        sums.add(&[3.0, 6.0]);
        assert_eq!(sums.mean(), 3.0);
        assert!((sums.deviation() - 3.5f64.sqrt()).abs() < 1e-12);
        let mut constant = Sums::default();
        constant.add(&[0.25; 4]);
        assert_eq!((constant.mean(), constant.deviation()), (0.25, 1.0));
    }
}
