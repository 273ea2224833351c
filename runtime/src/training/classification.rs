//! The objective of the text encoder: to tell the classes that prompts name, slot by slot.
//!
//! Samples that have as many tokens go through the network together. The linear heads are parameters of
//! the run that begin with zeros; they are in its checkpoints and not in what it leaves.

use super::dataset::{Dataset, Item, Slot};
use super::draws::Draw;
use super::learner::{Numbers, named};
use super::objective::{Example, Objective};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::weights::ModelWeights;
use anyid_ir::{Module, Tensor};
use anyid_models::wan::slots::slots;
use std::sync::Arc;

/// The text encoder on labelled prompts.
pub struct Classification<'l> {
    model: &'l Model,
    slots: Vec<Slot>,
}

impl<'l> Classification<'l> {
    /// Of a model, for the slots that samples have.
    pub fn new(model: &'l Model, data: &Dataset) -> Self {
        Self { model, slots: data.slots.clone() }
    }
}

impl Objective for Classification<'_> {
    fn weights(&self) -> &Arc<ModelWeights> {
        &self.model.text_weights
    }

    fn shape(&self, item: &Item) -> usize {
        item.tokens.len()
    }

    fn stream(&self, shape: usize) -> usize {
        shape * self.model.text.d_model
    }

    fn describe(&self, shape: usize) -> String {
        format!("prompts of {shape} tokens")
    }

    fn tokens(&self, shape: usize) -> Option<usize> {
        Some(shape)
    }

    fn drawn(&self) -> bool {
        false
    }

    fn module(&self, shape: usize, samples: usize) -> Module {
        let classes: Vec<usize> = self.slots.iter().map(|slot| slot.classes.len()).collect();
        slots(&self.model.text, shape, samples, &classes)
    }

    fn fixed(&self, _: &str, _: usize, _: usize) -> Result<Option<Tensor>> {
        Ok(None)
    }

    fn fill(&self, example: &Example<'_>, name: &str, into: &mut [f32]) -> Result<()> {
        let item = example.item;
        match name {
            // Below 2^24, so they are exact.
            "ids" => into.iter_mut().zip(&item.tokens).for_each(|(to, id)| *to = *id as f32),
            "labels" => {
                into.fill(0.0);
                let mut before = 0;
                for (slot, class) in self.slots.iter().zip(&item.classes) {
                    into[before + class] = 1.0;
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

    fn logged(&self, found: &[f64], weight: f64) -> Numbers {
        let right = |margin: &f64| f64::from(u8::from(*margin > 0.0));
        let all = found[1..].iter().map(right).sum::<f64>() / self.slots.len() as f64;
        let mut numbers = named([("loss", weight * found[0]), ("accuracy", all)]);
        for (slot, margin) in self.slots.iter().zip(&found[1..]) {
            numbers.insert(format!("accuracy_{}", slot.name), right(margin));
        }
        numbers
    }
}
