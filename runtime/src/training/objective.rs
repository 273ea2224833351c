//! What a network is trained for: its module, what each sample gives it, and whose weights it has.
//!
//! An objective knows no optimiser and no loop. Its module gives the loss of every sample of a call, and
//! every input of the module is either fixed by the shape or has the samples along its first axis, so
//! that each can be written by itself.

use super::dataset::{Dataset, Item};
use super::denoising::Denoising;
use super::draws::Draw;
use super::learner::Numbers;
use super::parameters::Kind;
use super::reconstruction::Reconstruction;
use super::settings::{Settings, TrainedNetwork};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::weights::ModelWeights;
use anyid_ir::{Module, Tensor};
use anyid_models::wan::names::Component;
use std::sync::Arc;

/// A sample in a call: a clip with what the network is given beside it, under one draw.
#[derive(Clone, Copy, Debug)]
pub struct Example<'e> {
    /// Where it is from.
    pub data: &'e Dataset,
    /// The sample or pair.
    pub item: &'e Item,
    /// Which of its targets.
    pub member: usize,
    /// What is drawn for it, null decision included.
    pub draw: Draw,
    /// Whether it is learned from, and not only measured.
    pub learned: bool,
    /// What its loss counts in the sum that is differentiated.
    pub weight: f64,
}

impl TrainedNetwork {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Transformer, Self::Vae];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Vae => "vae",
        }
    }

    /// Name of the file that a run leaves of it.
    pub fn file(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Vae => "vae",
        }
    }

    /// What it is, in words.
    pub fn described(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Vae => "autoencoder",
        }
    }

    /// Its weights in a model.
    pub fn weights(self, model: &Model) -> &Arc<ModelWeights> {
        match self {
            Self::Transformer => &model.dit_weights,
            Self::Vae => &model.vae_weights,
        }
    }

    /// How its tensors are named.
    pub fn component(self, model: &Model) -> Component {
        match self {
            Self::Transformer => Component::Dit,
            Self::Vae => model.vae.component(),
        }
    }
}

/// The objective that settings ask for.
///
/// # Errors
/// E0956 for a precision that it has not; E0976 for another network than the transformer where `kind` is
/// one of adapters, or where videos of samples are asked for.
pub fn of<'l>(
    kind: Kind,
    model: &'l Model,
    settings: &'l Settings,
) -> Result<Box<dyn Objective + 'l>> {
    let network = settings.train.network;
    if network != TrainedNetwork::Transformer {
        let (name, place) = (network.name(), settings.place("train.network"));
        if kind != Kind::Full {
            let message =
                format!("train.network is \"{name}\", and adapters are of the transformer");
            let help = format!("`train full` trains the {}", network.described());
            return Err(Error::input("E0976", message).at(place).help(help));
        }
        if settings.run.samples > 0 {
            let message = format!("train.network is \"{name}\", and videos need the transformer");
            let place = settings.place("run.samples");
            return Err(Error::input("E0976", message).at(place).help("leave run.samples out"));
        }
    }
    Ok(match network {
        TrainedNetwork::Transformer => Box::new(Denoising::new(model, settings)?),
        TrainedNetwork::Vae => Box::new(Reconstruction::new(model, settings)?),
    })
}

/// What a network is trained for.
pub trait Objective {
    /// The weights that it begins with.
    fn weights(&self) -> &Arc<ModelWeights>;

    /// Takes sizes that suit all samples, whose prompts take so many rows at most.
    fn fit(&mut self, _text_rows: usize) {}

    /// What the sizes of its module depend on for a sample.
    fn shape(&self, item: &Item) -> usize;

    /// How many numbers the widest stream between two layers holds for one clip of a shape.
    fn stream(&self, shape: usize) -> usize;

    /// What a shape is, for messages.
    fn describe(&self, shape: usize) -> String;

    /// Tokens of one clip of a shape, where there are any.
    fn tokens(&self, shape: usize) -> Option<usize>;

    /// Whether what is found of a clip that is measured depends on its draw.
    fn drawn(&self) -> bool;

    /// Functions `@losses`, which gives `%loss: f32[samples]` and what else is measured of each sample,
    /// and `@train`, which gives `%total` in front of these: the sum of losses times `%weight`.
    fn module(&self, shape: usize, samples: usize) -> Module;

    /// An input that samples have no part in.
    ///
    /// # Errors
    /// E1009 never: the values fill the shape.
    fn fixed(&self, name: &str, shape: usize, samples: usize) -> Result<Option<Tensor>>;

    /// Writes what a sample gives input `name`.
    ///
    /// # Errors
    /// E0960 and E1001 for what the cache holds.
    fn fill(&self, example: &Example<'_>, name: &str, into: &mut [f32]) -> Result<()>;

    /// Which sample it is, for the error of a non-finite value.
    fn place(&self, example: &Example<'_>) -> String;

    /// What the loss of a sample under a draw counts.
    fn weight(&self, draw: &Draw) -> f64;

    /// What is logged of a sample that was learned from, from what `@losses` gives of it. `weight` is what its
    /// loss counts.
    fn logged(&self, found: &[f64], weight: f64) -> Numbers;
}
