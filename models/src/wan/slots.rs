//! The training objective of the text encoder: what a prompt says of each of a few slots, read off the
//! state of its last token by linear heads that are thrown away afterwards.

use super::Precision;
use super::config::TextConfig;
use super::text::text_batch;
use crate::classes::with_classes;
use anyid_ir::{DType, Module, TensorType};

/// Beginning of the names of the heads' weights.
pub const HEADS: &str = "slots.";

/// The text encoder with `@losses(%ids: f32[S,n], %labels: f32[S,c])` and `@train` as
/// [`with_classes`] says, for `samples` prompts of `tokens` tokens. `%ids` are whole numbers.
pub fn slots(config: &TextConfig, tokens: usize, samples: usize, classes: &[usize]) -> Module {
    let mut module = text_batch(config, tokens, samples, Precision::F32);
    let (d, all) = (config.d_model, classes.iter().sum::<usize>());
    let [weight, bias] = ["weight", "bias"].map(|leaf| format!("{HEADS}{leaf}"));
    for (name, shape) in [(&weight, vec![all, d]), (&bias, vec![all])] {
        let ty = TensorType::new(DType::F32, shape);
        module.weights.add(name, ty).expect("no weight of the encoder is called so");
    }
    with_classes(module, classes, |b| {
        let ids = b.param("ids", TensorType::new(DType::F32, [samples, tokens]));
        let ids = b.reshape("ids", ids, [samples * tokens]);
        let ids = b.cast("ids", ids, DType::I32);
        let states = b.call("states", "text", &[], &[ids])[0];
        let states = b.reshape("states", states, [samples, tokens, d]);
        let end = b.slice("end", states, 1, tokens - 1, 1);
        let end = b.reshape("end", end, [samples, d]);
        b.linear("logits", end, &weight, Some(&bias), DType::F32)
    })
}
