//! The objective of telling classes apart: the cross-entropies of a few slots, read off one row of logits,
//! and by how much the right class of each is ahead.

use crate::wan::loss::weighted;
use anyid_ir::{BinaryFn, DType, FuncBuilder, Module, ReduceFn, UnaryFn, ValueId};

/// Far below any logit.
const NEVER: f64 = -1e9;

/// `module` with `@losses(…, %labels: f32[S,c]) -> %loss, %margin0, …: f32[S]` and, behind it, `@train` as
/// for the transformer. `logits` adds the parameters in front of `%labels` and gives `f32[S,c]`. `classes` is
/// how many classes each slot has, c their sum; `%labels` has 1 for the class that each slot has and 0 for
/// the others, and zeros alone where a slot is left out. The loss is the sum of the cross-entropies of the
/// slots that are not, divided by the number of all; a margin is by how much the logit of the right class is
/// above that of any other.
pub fn with_classes(
    mut module: Module,
    classes: &[usize],
    logits: impl FnOnce(&mut FuncBuilder<'_>) -> ValueId,
) -> Module {
    let mut b = FuncBuilder::new(&module, "losses");
    let logits = logits(&mut b);
    let labels = b.ty(logits).clone();
    let labels = b.param("labels", labels);
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
    let sum = b.reduce("sum", ReduceFn::Sum, power, &[1], true);
    let log = b.unary("log", UnaryFn::Log, sum);
    // Each class by itself, so that a slot without a label has none of it.
    let apart = b.binary("apart", BinaryFn::Sub, log, shifted);
    let counted = b.mul("counted", apart, labels);
    let entropy = b.reduce("entropy", ReduceFn::Sum, counted, &[1], false);
    let right = b.mul("right", shifted, labels);
    let right = b.reduce("right", ReduceFn::Sum, right, &[1], false);
    let never = b.scalar("never", DType::F32, NEVER);
    let away = b.mul("away", labels, never);
    let others = b.add("others", shifted, away);
    let other = b.reduce("other", ReduceFn::Max, others, &[1], false);
    (entropy, b.binary("margin", BinaryFn::Sub, right, other))
}
