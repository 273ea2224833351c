//! Several adapters as one: of each module, factors side by side, so that ranks add up and nothing
//! is approximated.
//!
//! The scales go into the second factors, which then are f32 unless the scale is 1. Differences of
//! weights, biases and modulations are added. What is not linear, or no product of low rank, cannot
//! be joined exactly and is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::apply::{name_in, named, set_of};
use super::base::{Base, Part};
use super::change::{Change, Factors, Product};
use super::modules::Modules;
use super::{Adapter, Dialect};
use crate::checkpoint::{Derivation, Encoding, WeightSet};
use crate::error::{Error, Result};

/// Keys of the header that all adapters have to agree on.
const SHARED: [&str; 3] = ["anyid.rope_layout", "anyid.null_refs", "anyid.pad"];
/// One adapter that does what these do together, each at its strength.
///
/// # Errors
/// E0375 for adapters that cannot be joined exactly, or were made for different layouts. Reading a tensor
/// gives E0379 where it is not finite.
pub fn combined(adapters: &[(&Adapter, f64)], modules: &Modules) -> Result<Adapter> {
    let mut joined = WeightSet::default();
    let mut by_module: BTreeMap<usize, Vec<(Change, usize)>> = BTreeMap::new();
    for (number, (adapter, _)) in adapters.iter().enumerate() {
        joined = joined.joined(&set_of(adapter, number)?)?;
        for change in &adapter.changes {
            let exact = change.magnitude.is_none()
                && change
                    .product
                    .as_ref()
                    .is_none_or(|product| matches!(product.factors, Factors::LowRank { .. }));
            if !exact {
                let what = format!("`{}` is {}", change.module, change.describe());
                return Err(Error::input(
                    "E0375",
                    format!("this cannot be joined exactly: {what}"),
                )
                .at(adapter.path.display())
                .help("only plain LoRA has a sum of ranks; give both to `generate --lora`"));
            }
            let position = modules.list().iter().position(|m| m.name == change.module);
            let place = by_module.entry(position.unwrap_or(usize::MAX)).or_default();
            place.push((change.renamed(|name| name_in(number, name)), number));
        }
    }
    let mut derived = Vec::new();
    let mut changes = Vec::new();
    for parts in by_module.values() {
        changes.push(join(parts, (adapters, &joined), &mut derived));
    }
    let warnings = adapters.iter().flat_map(|(adapter, _)| adapter.warnings.clone()).collect();
    Ok(Adapter {
        path: PathBuf::from("combination"),
        config: None,
        dialect: None::<Dialect>,
        changes,
        unmatched: Vec::new(),
        metadata: shared(adapters)?,
        warnings,
        set: joined.derived(derived)?,
    })
}

/// What all headers say alike.
fn shared(adapters: &[(&Adapter, f64)]) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    let mut own = Vec::new();
    for (adapter, scale) in adapters {
        own.extend(Part::all_of(adapter, *scale)?);
    }
    // The transformer of the first: one of preferences is trained on the model with the first on it. What is
    // joined here is part of the result and not of its base; what any of them needs besides is.
    let mut bases = adapters.iter().filter_map(|(adapter, _)| Base::of(&adapter.metadata));
    if let Some(mut base) = bases.next() {
        let mut needed = Part::without(&base.adapters, &own);
        for other in bases.filter(|other| other.model == base.model) {
            let more = Part::without(&other.adapters, &own);
            needed.extend(Part::without(&more, &needed));
        }
        base.adapters = needed;
        base.say(&mut out);
    }
    Part::say_made_of(&Part::summed(&own), &mut out);
    for key in SHARED {
        let said: BTreeSet<&String> =
            adapters.iter().filter_map(|(adapter, _)| adapter.metadata.get(key)).collect();
        let mut said = said.into_iter();
        if let (Some(one), Some(other)) = (said.next(), said.next()) {
            let what = format!("their `{key}` differ: {one} and {other}");
            let paths: Vec<String> =
                adapters.iter().map(|(adapter, _)| adapter.path.display().to_string()).collect();
            return Err(Error::input("E0375", format!("these cannot be joined: {what}"))
                .at(paths.join(", "))
                .help("join adapters that were trained for the same arrangement of references"));
        }
        if let Some((adapter, _)) =
            adapters.iter().find(|(adapter, _)| adapter.metadata.contains_key(key))
        {
            out.insert(key.to_owned(), adapter.metadata[key].clone());
        }
    }
    Ok(out)
}

/// The changes of one module as one; what it is made of goes to `derived`.
fn join(
    parts: &[(Change, usize)],
    (adapters, set): (&[(&Adapter, f64)], &WeightSet),
    derived: &mut Vec<(String, Derivation)>,
) -> Change {
    let first = &parts[0].0;
    let mut joined = Change::of(&first.module, &first.other);
    let own: Vec<(&Adapter, f64)> = parts.iter().map(|(_, number)| adapters[*number]).collect();
    let [with, place] = named(&own);
    let mut put = |leaf: &str, derivation: Option<Derivation>| {
        let name = format!("{}.{leaf}", first.module);
        derivation.map(|derivation| {
            let what = format!("`{name}` of {with}");
            derived.push((name.clone(), derivation.finite(what, &place)));
            name
        })
    };
    let mut factors: Vec<(&str, &str, f64)> = Vec::new();
    let (mut biases, mut diffs, mut modulations) = (Vec::new(), Vec::new(), Vec::new());
    let mut rank = 0;
    for (change, number) in parts {
        let (_, strength) = adapters[*number];
        if let Some(product) = &change.product
            && let Factors::LowRank { up, down } = &product.factors
        {
            factors.push((up, down, strength * product.scale));
            rank += product.rank.unwrap_or(0);
        }
        let scale = change.product.as_ref().map_or(1.0, |product| product.scale);
        biases.extend(change.up_bias.iter().map(|name| (strength * scale, name)));
        biases.extend(change.diff_bias.iter().map(|name| (strength, name)));
        diffs.extend(change.diff.iter().map(|name| (strength, name)));
        modulations.extend(change.diff_modulation.iter().map(|name| (strength, name)));
    }
    joined.diff_bias = put("bias", sum(&biases));
    joined.diff = put("weight", sum(&diffs));
    joined.diff_modulation = put("modulation", sum(&modulations));
    if rank > 0 {
        let side_by_side = |names: Vec<(&str, f64)>, axis: usize| {
            let shapes = names.iter().filter_map(|(name, _)| set.tensor(name));
            let others: BTreeSet<Vec<u64>> = shapes
                .map(|weight| {
                    let mut shape = weight.shape.clone();
                    shape[axis] = 0;
                    shape
                })
                .collect();
            // Factors of a convolution may be written with and without its axes.
            let flat = others.len() > 1;
            let parts = names.iter().map(|(name, factor)| {
                let part = scaled(name, *factor);
                match set.tensor(name).filter(|_| flat) {
                    Some(weight) => {
                        let rows = weight.shape[0];
                        part.reshaped([rows, weight.elements() / rows.max(1)])
                    }
                    None => part,
                }
            });
            Derivation::Concatenated(parts.collect(), axis)
        };
        let ups = side_by_side(factors.iter().map(|(up, _, s)| (*up, *s)).collect(), 1);
        let downs = side_by_side(factors.iter().map(|(_, down, _)| (*down, 1.0)).collect(), 0);
        let up = put("up", Some(ups)).expect("it is given");
        let down = put("down", Some(downs)).expect("it is given");
        let factors = Factors::LowRank { up, down };
        joined.product = Some(Product { factors, scale: 1.0, rank: Some(rank) });
    }
    joined
}

/// A tensor times a factor, in f32 unless the factor is 1.
pub(super) fn scaled(name: &str, factor: f64) -> Derivation {
    match factor == 1.0 {
        true => Derivation::tensor(name),
        false => Derivation::Sum(vec![(factor as f32, Derivation::tensor(name))]),
    }
}

fn sum(terms: &[(f64, &String)]) -> Option<Derivation> {
    match terms {
        [] => None,
        [(factor, name)] => Some(scaled(name, *factor)),
        many => {
            let terms = many.iter().map(|(f, name)| (*f as f32, Derivation::tensor(*name)));
            Some(Derivation::Sum(terms.collect()).rounded(Encoding::F32))
        }
    }
}
