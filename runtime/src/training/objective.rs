//! What a network is trained for: its module, what each sample gives it, and whose weights it has.
//!
//! An objective knows no optimiser and no loop. Its module gives the loss of every sample of a call, and
//! every input of the module is either fixed by the shape or has the samples along its first axis, so
//! that each can be written by itself.

use super::classification::Classification;
use super::dataset::{Dataset, Item};
use super::denoising::Denoising;
use super::draws::Draw;
use super::labels::Labelled;
use super::learner::Numbers;
use super::parameters::Kind;
use super::reconstruction::Reconstruction;
use super::settings::{Settings, TrainedNetwork};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::weights::ModelWeights;
use anyid_ir::{Module, Tensor};
use anyid_models::wan::Precision;
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
    pub const ALL: [Self; 4] = [Self::Transformer, Self::Vae, Self::Text, Self::Judge];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Vae => "vae",
            Self::Text => "text",
            Self::Judge => "judge",
        }
    }

    /// Name of the file that a run leaves of it.
    pub fn file(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Vae => "vae",
            Self::Text => "text_encoder",
            Self::Judge => "judge",
        }
    }

    /// What it is, in words.
    pub fn described(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Vae => "autoencoder",
            Self::Text => "text encoder",
            Self::Judge => "judge",
        }
    }

    /// Its weights in a model, if it is part of one.
    pub fn weights(self, model: &Model) -> Option<&Arc<ModelWeights>> {
        match self {
            Self::Transformer => Some(&model.dit_weights),
            Self::Vae => Some(&model.vae_weights),
            Self::Text => Some(&model.text_weights),
            Self::Judge => None,
        }
    }

    /// How its tensors are named in a model, if it is part of one.
    pub fn component(self, model: &Model) -> Option<Component> {
        match self {
            Self::Transformer => Some(Component::Dit),
            Self::Vae => Some(model.vae.component()),
            Self::Text => Some(Component::Text),
            Self::Judge => None,
        }
    }

    /// What its samples are labelled by, if they are.
    pub fn labelled(self) -> Option<Labelled> {
        match self {
            Self::Transformer | Self::Vae => None,
            Self::Text => Some(Labelled::Prompt),
            Self::Judge => Some(Labelled::Frames),
        }
    }
}

/// Refuses what the network that is trained cannot be asked for.
///
/// # Errors
/// E0976 for another network than the transformer where `kind` is one of adapters, or where videos of
/// samples are asked for, or another precision than f32.
pub fn check(kind: Kind, settings: &Settings) -> Result<()> {
    let network = settings.train.network;
    if network == TrainedNetwork::Transformer {
        return Ok(());
    }
    let refused = |why: &str, key: &str, help: String| {
        let message = format!("train.network is \"{}\", and {why}", network.name());
        Err(Error::input("E0976", message).at(settings.place(key)).help(help))
    };
    if kind != Kind::Full {
        let help = format!("`train full` trains the {}", network.described());
        return refused("adapters are of the transformer", "train.network", help);
    }
    if settings.run.samples > 0 {
        let help = "leave run.samples out".to_owned();
        return refused("videos need the transformer", "run.samples", help);
    }
    match settings.precision(Precision::F32)? {
        Precision::F32 => Ok(()),
        Precision::Bf16 => {
            let why = format!("the {} is trained in f32", network.described());
            refused(&why, "model.precision", "leave model.precision out".to_owned())
        }
    }
}

/// The objective that settings ask for, on what `data` has.
///
/// # Errors
/// E0956 for a precision that there is not, E1009 never.
pub fn of<'l>(
    model: &'l Model,
    settings: &'l Settings,
    data: &Dataset,
) -> Result<Box<dyn Objective + 'l>> {
    Ok(match settings.train.network {
        TrainedNetwork::Transformer => Box::new(Denoising::new(model, settings)?),
        TrainedNetwork::Vae => Box::new(Reconstruction::new(model, settings)),
        TrainedNetwork::Text => Box::new(Classification::text(model, data)),
        TrainedNetwork::Judge => Box::new(Classification::judge(settings, data)?),
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
    fn logged(&self, item: &Item, found: &[f64], weight: f64) -> Numbers;

    /// Makes what is shown of the means of these numbers over samples.
    fn settled(&self, _means: &mut Numbers) {}
}
