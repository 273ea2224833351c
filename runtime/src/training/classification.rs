//! The objective of telling classes apart: the text encoder those that prompts name, a judge those that
//! frames show, slot by slot.
//!
//! Prompts of as many tokens go through the network together. The linear heads of the text encoder are
//! parameters of the run that begin with zeros; they are in its checkpoints and not in what it leaves.
//! Those of a judge are part of it.

use super::dataset::{Dataset, Item, Slot};
use super::degrade::degrade;
use super::draws::Draw;
use super::learner::{Numbers, named};
use super::objective::{Example, Objective};
use super::settings::Settings;
use crate::error::{Error, Result, plural};
use crate::judge;
use crate::model::Model;
use crate::weights::ModelWeights;
use anyid_ir::{Module, Tensor};
use anyid_models::judge::{JudgeConfig, judging};
use anyid_models::wan::config::TextConfig;
use anyid_models::wan::slots::slots;
use std::sync::Arc;

/// A network on labelled samples.
pub struct Classification<'l> {
    reader: Reader<'l>,
    weights: Arc<ModelWeights>,
    slots: Vec<Slot>,
}

/// What classes are read off by.
enum Reader<'l> {
    Text(&'l TextConfig),
    Judge(JudgeConfig),
}

impl<'l> Classification<'l> {
    /// The text encoder of a model, for the slots that samples have.
    pub fn text(model: &'l Model, data: &Dataset) -> Self {
        let (reader, weights) = (Reader::Text(&model.text), model.text_weights.clone());
        Self { reader, weights, slots: data.slots.clone() }
    }

    /// A new judge, for the slots that samples have.
    ///
    /// # Errors
    /// E1009 never: the first values are those of its weights.
    pub fn judge(settings: &Settings, data: &Dataset) -> Result<Self> {
        let config = judge::trained(settings.size());
        let weights = judge::first(&config, &classes(&data.slots), settings.train.seed)?;
        Ok(Self { reader: Reader::Judge(config), weights, slots: data.slots.clone() })
    }
}

/// How many classes each slot has.
fn classes(slots: &[Slot]) -> Vec<usize> {
    slots.iter().map(|slot| slot.classes.len()).collect()
}

/// The number that says how often a slot counts.
fn share_of(slot: &Slot) -> String {
    format!("shown_{}", slot.name)
}

fn accuracy_of(slot: &Slot) -> String {
    format!("accuracy_{}", slot.name)
}

impl Objective for Classification<'_> {
    fn weights(&self) -> &Arc<ModelWeights> {
        &self.weights
    }

    fn shape(&self, item: &Item) -> usize {
        item.tokens.len()
    }

    fn stream(&self, shape: usize) -> usize {
        match &self.reader {
            Reader::Text(config) => shape * config.d_model,
            Reader::Judge(config) => config.stream(),
        }
    }

    fn describe(&self, shape: usize) -> String {
        match &self.reader {
            Reader::Text(_) => format!("prompts of {}", plural(shape, "token")),
            Reader::Judge(JudgeConfig { frames: 1, width, height, .. }) => {
                format!("1 frame of {width}x{height}")
            }
            Reader::Judge(JudgeConfig { frames, width, height, .. }) => {
                format!("{frames} frames of {width}x{height}")
            }
        }
    }

    fn tokens(&self, shape: usize) -> Option<usize> {
        matches!(self.reader, Reader::Text(_)).then_some(shape)
    }

    fn drawn(&self) -> bool {
        false
    }

    fn module(&self, shape: usize, samples: usize) -> Module {
        let classes = classes(&self.slots);
        match &self.reader {
            Reader::Text(config) => slots(config, shape, samples, &classes),
            Reader::Judge(config) => judging(config, samples, &classes),
        }
    }

    fn fixed(&self, _: &str, _: usize, _: usize) -> Result<Option<Tensor>> {
        Ok(None)
    }

    fn fill(&self, example: &Example<'_>, name: &str, into: &mut [f32]) -> Result<()> {
        let item = example.item;
        match (name, &self.reader) {
            // Below 2^24, so they are exact.
            ("ids", _) => into.iter_mut().zip(&item.tokens).for_each(|(to, id)| *to = *id as f32),
            ("pixels", Reader::Judge(config)) => {
                example.data.fill_pixels(item, example.member, into)?;
                // What is measured is what is read off frames as they are.
                if example.learned {
                    degrade(into, [config.height, config.width], &example.draw);
                }
            }
            ("labels", _) => {
                into.fill(0.0);
                let mut before = 0;
                for (slot, class) in self.slots.iter().zip(&item.classes) {
                    class.iter().for_each(|class| into[before + class] = 1.0);
                    before += slot.classes.len();
                }
            }
            _ => return Err(Error::internal("E1009", format!("input %{name} is unknown"))),
        }
        Ok(())
    }

    fn place(&self, example: &Example<'_>) -> String {
        format!("sample {}", example.item.id)
    }

    fn weight(&self, _: &Draw) -> f64 {
        1.0
    }

    fn logged(&self, item: &Item, found: &[f64], weight: f64) -> Numbers {
        let (mut right, mut shown) = (0.0, 0.0);
        let mut numbers = named([("loss", weight * found[0])]);
        for ((slot, class), margin) in self.slots.iter().zip(&item.classes).zip(&found[1..]) {
            let counts = f64::from(u8::from(class.is_some()));
            let own = counts * f64::from(u8::from(*margin > 0.0));
            (right, shown) = (right + own, shown + counts);
            numbers.insert(accuracy_of(slot), own);
            numbers.insert(share_of(slot), counts);
        }
        numbers.insert("accuracy".to_owned(), right / f64::max(shown, 1.0));
        numbers
    }

    /// Accuracies of slots are of the samples in which they count.
    fn settled(&self, means: &mut Numbers) {
        for slot in &self.slots {
            let shown = means.remove(&share_of(slot)).unwrap_or(1.0);
            // None of the samples may show it.
            let right = means.remove(&accuracy_of(slot)).filter(|_| shown > 0.0);
            means.extend(right.map(|right| (accuracy_of(slot), right / shown)));
        }
    }
}
