//! The training objective of the text encoder: what a prompt says of each of a few slots, read off the
//! state of its last token by linear heads that are thrown away afterwards.

use super::Precision;
use super::config::TextConfig;
use super::loss::weighted;
use super::text::text_batch;
use anyid_ir::{BinaryFn, DType, FuncBuilder, Module, ReduceFn, TensorType, UnaryFn, ValueId};

/// Beginning of the names of the heads' weights.
pub const HEADS: &str = "slots.";

/// Far below any logit.
const NEVER: f64 = -1e9;

/// The text encoder with `@losses(%ids: f32[S,n], %labels: f32[S,c]) -> %loss, %margin0, …: f32[S]` and,
/// behind it, `@train` as for the transformer: for `samples` prompts of `tokens` tokens. `%ids` are
/// whole numbers. `classes` is how many classes each slot has, c their sum; `%labels` has 1 for the class that
/// each slot has and 0 for the others. The loss is the mean over slots of the cross-entropy; a margin is by
/// how much the logit of the right class is above that of any other.
pub fn slots(config: &TextConfig, tokens: usize, samples: usize, classes: &[usize]) -> Module {
    let mut module = text_batch(config, tokens, samples, Precision::F32);
    let (d, all) = (config.d_model, classes.iter().sum::<usize>());
    let [weight, bias] = ["weight", "bias"].map(|leaf| format!("{HEADS}{leaf}"));
    for (name, shape) in [(&weight, vec![all, d]), (&bias, vec![all])] {
        let ty = TensorType::new(DType::F32, shape);
        module.weights.add(name, ty).expect("no weight of the encoder is called so");
    }
    let mut b = FuncBuilder::new(&module, "losses");
    let ids = b.param("ids", TensorType::new(DType::F32, [samples, tokens]));
    let labels = b.param("labels", TensorType::new(DType::F32, [samples, all]));
    let ids = b.reshape("ids", ids, [samples * tokens]);
    let ids = b.cast("ids", ids, DType::I32);
    let states = b.call("states", "text", &[], &[ids])[0];
    let states = b.reshape("states", states, [samples, tokens, d]);
    let end = b.slice("end", states, 1, tokens - 1, 1);
    let end = b.reshape("end", end, [samples, d]);
    let logits = b.linear("logits", end, &weight, Some(&bias), DType::F32);
    let (mut sum, mut margins, mut start) = (None, Vec::new(), 0);
    for count in classes {
        let [own, label] = [logits, labels].map(|x| b.slice("own", x, 1, start, *count));
        let (entropy, margin) = slot(&mut b, own, label);
        sum = Some(match sum {
            Some(sum) => b.add("sum", sum, entropy),
            None => entropy,
        });
        margins.push(margin);
        start += count;
    }
    let share = b.scalar("share", DType::F32, 1.0 / classes.len() as f64);
    let loss = b.mul("loss", sum.expect("there is a slot"), share);
    let mut names = vec!["loss".to_owned()];
    b.rename(loss, "loss");
    for (at, margin) in margins.iter().enumerate() {
        names.push(format!("margin{at}"));
        b.rename(*margin, &names[at + 1]);
    }
    let results: Vec<ValueId> = std::iter::once(loss).chain(margins).collect();
    let func = b.finish(&results);
    module.add(func);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    weighted(module, &names)
}

/// Cross-entropy and margin of a slot from its logits and labels.
fn slot(b: &mut FuncBuilder<'_>, logits: ValueId, labels: ValueId) -> (ValueId, ValueId) {
    let most = b.reduce("most", ReduceFn::Max, logits, &[1], true);
    let shifted = b.binary("shifted", BinaryFn::Sub, logits, most);
    let power = b.unary("power", UnaryFn::Exp, shifted);
    let sum = b.reduce("sum", ReduceFn::Sum, power, &[1], false);
    let log = b.unary("log", UnaryFn::Log, sum);
    let right = b.mul("right", shifted, labels);
    let right = b.reduce("right", ReduceFn::Sum, right, &[1], false);
    let entropy = b.binary("entropy", BinaryFn::Sub, log, right);
    let never = b.scalar("never", DType::F32, NEVER);
    let away = b.mul("away", labels, never);
    let others = b.add("others", shifted, away);
    let other = b.reduce("other", ReduceFn::Max, others, &[1], false);
    (entropy, b.binary("margin", BinaryFn::Sub, right, other))
}
