//! Adapters applied to the weights of a network, without a copy of either.
//!
//! Every weight that an adapter changes becomes a derivation: base, plus scale times product for
//! each adapter, in f32, rounded once to the encoding of the base. The changes of all adapters are
//! those of the original weight, so their order does not matter, but for DoRA, which is not linear
//! and has to be the first of its module (`formats.md` §5). A weight that is not finite then, in the
//! encoding of the base, is an error of whoever reads it.

use std::collections::{BTreeSet, HashMap};

use super::Adapter;
use super::change::Change;
use crate::checkpoint::{Derivation, Encoding, WeightSet};
use crate::error::{Error, Result};

/// The weights of `base`, which have their canonical names, with every adapter at its strength.
///
/// # Errors
/// E0301 for a weight that `base` lacks, E0303 for shapes that do not fit, E0373 for DoRA behind
/// another adapter. Reading a weight gives E0379 where it is not finite.
pub fn applied(base: &WeightSet, adapters: &[(&Adapter, f64)]) -> Result<WeightSet> {
    let mut joined = base.clone();
    let mut changed: HashMap<String, Derivation> = HashMap::new();
    let mut by: HashMap<String, BTreeSet<usize>> = HashMap::new();
    for (number, (adapter, strength)) in adapters.iter().enumerate() {
        joined = joined.joined(&set_of(adapter, number)?)?;
        for change in &adapter.changes {
            let change = change.renamed(|name| name_in(number, name));
            add(&mut changed, &change, *strength)
                .map_err(|error| error.at(adapter.path.display()))?;
            for name in change.tensors() {
                by.entry(name).or_default().insert(number);
            }
        }
    }
    let missing = changed.keys().filter(|name| base.tensor(name).is_none()).min();
    if let Some(name) = missing {
        return Err(Error::input("E0301", format!("there is no weight \"{name}\" to be changed"))
            .help("give the whole network that the adapter is for"));
    }
    joined.derived(base.iter().map(|(name, weight)| {
        let derivation = match changed.remove(name) {
            Some(derivation) => {
                let own: Vec<(&Adapter, f64)> =
                    by.get(name).into_iter().flatten().map(|number| adapters[*number]).collect();
                let [with, place] = named(&own);
                let rounded = derivation.rounded(rounded_to(weight.encoding));
                rounded.finite(format!("`{name}` with {with}"), place)
            }
            None => Derivation::tensor(name),
        };
        (name.to_owned(), derivation)
    }))
}

/// Adapters with their strengths in words, and their files.
pub(super) fn named(adapters: &[(&Adapter, f64)]) -> [String; 2] {
    let files = || adapters.iter().map(|(adapter, _)| adapter.path.display().to_string());
    let scales = adapters.iter().map(|(_, scale)| shown_scale(*scale));
    let with = files().zip(scales).map(|(file, scale)| format!("{file} at scale {scale}"));
    [with.collect::<Vec<_>>().join(" and "), files().collect::<Vec<_>>().join(", ")]
}

/// A scale as people write it.
pub fn shown_scale(scale: f64) -> String {
    match scale == 0.0 || (1e-4..1e6).contains(&scale.abs()) {
        true => scale.to_string(),
        false => format!("{scale:e}"),
    }
}

/// The encoding of a weight that was changed: its own, or BF16 for those of eight bits, which have
/// no room for a correction.
pub(super) fn rounded_to(base: Encoding) -> Encoding {
    if base.can_encode() { base } else { Encoding::Bf16 }
}

/// The tensors of an adapter under names that no other has.
pub(super) fn set_of(adapter: &Adapter, number: usize) -> Result<WeightSet> {
    adapter.set.renamed(|name| Some(name_in(number, name)))
}

/// The name of a tensor among those of several adapters.
pub(super) fn name_in(number: usize, name: &str) -> String {
    format!("adapter {number}: {name}")
}

fn add(changed: &mut HashMap<String, Derivation>, change: &Change, strength: f64) -> Result<()> {
    let mut plus = |leaf: &str, factor: f64, term: Derivation| {
        let name = format!("{}.{leaf}", change.module);
        let base = changed.remove(&name).unwrap_or_else(|| Derivation::tensor(&name));
        changed.insert(name, base.plus(factor as f32, term));
    };
    let scale = change.product.as_ref().map_or(1.0, |product| product.scale);
    for (leaf, factor, tensor) in [
        ("bias", strength * scale, &change.up_bias),
        ("bias", strength, &change.diff_bias),
        ("modulation", strength, &change.diff_modulation),
    ] {
        if let Some(tensor) = tensor {
            plus(leaf, factor, Derivation::tensor(tensor));
        }
    }
    if let (Some(product), None) = (&change.product, &change.magnitude) {
        plus("weight", strength * product.scale, product.factors.derivation());
    }
    if let (Some(product), Some(magnitude)) = (&change.product, &change.magnitude) {
        let name = format!("{}.weight", change.module);
        if changed.contains_key(&name) {
            let what = format!("`{}` is changed by another adapter before", change.module);
            return Err(Error::input("E0373", format!("DoRA has to come first: {what}"))
                .help("name this adapter before the others; two of the kind cannot be stacked"));
        }
        let base = || Derivation::tensor(&name);
        let sum = base().plus(product.scale as f32, product.factors.derivation());
        let whole = Derivation::Normalised(Box::new([sum, Derivation::tensor(magnitude)]));
        let weight = match strength == 1.0 {
            true => whole,
            false => base().plus(strength as f32, whole).plus(-strength as f32, base()),
        };
        changed.insert(name, weight);
    }
    if let Some(diff) = &change.diff {
        let name = format!("{}.weight", change.module);
        let base = changed.remove(&name).unwrap_or_else(|| Derivation::tensor(&name));
        changed.insert(name, base.plus(strength as f32, Derivation::tensor(diff)));
    }
    Ok(())
}
