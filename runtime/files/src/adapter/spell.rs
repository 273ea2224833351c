//! What an adapter is called and made of in each dialect.
//!
//! Factors are stored as they are, in their encodings, with alpha beside them; only DiffSynth, which
//! knows no alpha, gets scaled factors. What a dialect cannot say is an error before anything is
//! written. `formats.md` §5.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::apply::shown_scale;
use super::change::{Change, Factor, Factors, Product};
use super::combine::scaled;
use super::settings::HEADER_KEY;
use super::{Adapter, Dialect};
use crate::checkpoint::{Derivation, WeightSet};
use crate::error::{Error, Result};

/// An adapter as a dialect spells it.
pub(super) struct Spelled {
    pub(super) tensors: Vec<(String, Derivation)>,
    /// Alphas: scalars in f32.
    pub(super) numbers: Vec<(String, f32)>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) config: Option<Value>,
}

/// The names and contents of all tensors in a dialect.
pub(super) fn spell(adapter: &Adapter, dialect: Dialect) -> Result<Spelled> {
    let mut spelled = Spelled {
        tensors: Vec::new(),
        numbers: Vec::new(),
        metadata: metadata(adapter),
        config: None,
    };
    for change in &adapter.changes {
        let from = spelled.tensors.len();
        speak(change, dialect, &adapter.set, &mut spelled)
            .map_err(|error| error.at(adapter.path.display()))?;
        // What a scale was multiplied into.
        let scale = shown_scale(change.product.as_ref().map_or(1.0, |product| product.scale));
        for (name, derivation) in &mut spelled.tensors[from..] {
            if let Derivation::Sum(_) = derivation {
                let what = format!("`{name}` with the scale {scale}");
                let place = adapter.path.display().to_string();
                *derivation = derivation.clone().finite(what, place);
            }
        }
    }
    let config = || configuration(&adapter.changes);
    match dialect {
        Dialect::ComfyUi | Dialect::DiffSynth => {}
        Dialect::Diffusers => {
            let keys =
                config().into_iter().map(|(key, value)| (format!("transformer.{key}"), value));
            let text = Value::Object(keys.collect()).to_string();
            spelled.metadata.insert(HEADER_KEY.to_owned(), text);
        }
        Dialect::Peft => spelled.config = Some(Value::Object(config())),
        Dialect::Musubi => {
            let network = "networks.lora_wan".to_owned();
            spelled.metadata.insert("ss_network_module".to_owned(), network);
            // One number each: only where it is true of every module.
            if let ([rank], [scale]) = (&adapter.ranks()[..], &adapter.scales()[..]) {
                let sizes =
                    [("dim", rank.to_string()), ("alpha", (scale * *rank as f64).to_string())];
                for (key, value) in sizes {
                    spelled.metadata.insert(format!("ss_network_{key}"), value);
                }
            }
        }
    }
    Ok(spelled)
}

/// What the header says in every dialect: what the adapter was trained for, and its sizes.
fn metadata(adapter: &Adapter) -> BTreeMap<String, String> {
    let own = adapter.metadata.iter().filter(|(key, _)| key.starts_with("anyid."));
    let mut out: BTreeMap<String, String> =
        own.map(|(key, value)| (key.clone(), value.clone())).collect();
    out.insert("format".to_owned(), "pt".to_owned());
    out.insert("anyid.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let words = |list: Vec<String>| list.join(", ");
    out.insert(
        "anyid.rank".to_owned(),
        words(adapter.ranks().iter().map(u64::to_string).collect()),
    );
    let products = adapter.changes.iter().filter_map(|change| change.product.as_ref());
    let mut alphas: Vec<f64> = products.map(Product::alpha).collect();
    alphas.sort_by(f64::total_cmp);
    alphas.dedup();
    out.insert("anyid.alpha".to_owned(), words(alphas.iter().map(f64::to_string).collect()));
    out.insert("anyid.target_modules".to_owned(), words(targets(&adapter.changes)));
    out
}

/// The modules as users name them: the part behind the number of a block, each once, sorted.
fn targets(changes: &[Change]) -> Vec<String> {
    let short = |change: &Change| {
        let rest = change.module.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
        rest.map_or_else(|| change.module.clone(), |(_, rest)| rest.to_owned())
    };
    let names: BTreeSet<String> = changes.iter().map(short).collect();
    names.into_iter().collect()
}

fn cannot(change: &Change, dialect: Dialect, what: &str) -> Error {
    let message = format!("{dialect} cannot express {what} (`{}`)", change.module);
    Error::input("E0374", message)
        .help("write it as comfyui or musubi, or merge it into the weights (`lora merge`)")
}

/// The tensors of one change in a dialect.
fn speak(change: &Change, dialect: Dialect, set: &WeightSet, out: &mut Spelled) -> Result<()> {
    let stem = match dialect {
        Dialect::ComfyUi => format!("diffusion_model.{}", change.module),
        Dialect::DiffSynth => change.module.clone(),
        Dialect::Diffusers => format!("transformer.{}", change.other),
        Dialect::Peft => format!("base_model.model.{}", change.other),
        Dialect::Musubi => format!("lora_unet_{}", change.module.replace('.', "_")),
    };
    let rich = matches!(dialect, Dialect::ComfyUi | Dialect::Musubi);
    if let Some(product) = &change.product {
        factors(change, product, dialect, &stem, out)?;
        if rich && product.rank.is_some() {
            let (name, alpha) = (format!("{stem}.alpha"), product.alpha());
            // Infinity and 0 are no scales, and what is subnormal would be another one.
            if !(alpha as f32).is_normal() {
                let message = format!("`{name}` is {} and does not fit f32", shown_scale(alpha));
                return Err(Error::input("E0379", message)
                    .help("write it as peft or diffusers, or take an adapter of another alpha"));
            }
            out.numbers.push((name, alpha as f32));
        }
        if let Some(name) = &change.magnitude {
            let (end, shape) = magnitude(change, name, dialect, set)?;
            let lengths = Derivation::tensor(name).reshaped(shape);
            out.tensors.push((format!("{stem}{end}"), lengths));
        }
    }
    let scale = change.product.as_ref().map_or(1.0, |product| product.scale);
    match (&change.up_bias, &change.diff_bias) {
        (None, None) => {}
        (Some(bias), None) if matches!(dialect, Dialect::Peft | Dialect::Diffusers) => {
            out.tensors.push((format!("{stem}.lora_B.bias"), Derivation::tensor(bias)));
        }
        _ if !rich => return Err(cannot(change, dialect, "a difference of a bias")),
        (Some(bias), None) => out.tensors.push((format!("{stem}.diff_b"), scaled(bias, scale))),
        (None, Some(diff)) => out.tensors.push((format!("{stem}.diff_b"), scaled(diff, 1.0))),
        (Some(bias), Some(diff)) => {
            let sum = scaled(diff, 1.0).plus(scale as f32, Derivation::tensor(bias));
            out.tensors.push((format!("{stem}.diff_b"), sum));
        }
    }
    for (end, part, what) in [
        ("diff", &change.diff, "a difference of a weight"),
        ("diff_m", &change.diff_modulation, "a difference of a modulation"),
    ] {
        if let Some(name) = part {
            if !rich {
                return Err(cannot(change, dialect, what));
            }
            out.tensors.push((format!("{stem}.{end}"), Derivation::tensor(name)));
        }
    }
    Ok(())
}

/// The factors of a product.
fn factors(
    change: &Change,
    product: &Product,
    dialect: Dialect,
    stem: &str,
    out: &mut Spelled,
) -> Result<()> {
    let mut put = |end: &str, derivation: Derivation| {
        out.tensors.push((format!("{stem}.{end}"), derivation));
    };
    let tensor = |name: &String| Derivation::tensor(name);
    match &product.factors {
        Factors::LowRank { up, down } => match dialect {
            Dialect::ComfyUi | Dialect::Diffusers | Dialect::Peft => {
                put("lora_A.weight", tensor(down));
                put("lora_B.weight", tensor(up));
            }
            Dialect::DiffSynth => {
                put("lora_A.default.weight", tensor(down));
                put("lora_B.default.weight", scaled(up, product.scale));
            }
            Dialect::Musubi => {
                put("lora_down.weight", tensor(down));
                put("lora_up.weight", tensor(up));
            }
        },
        other if !matches!(dialect, Dialect::ComfyUi | Dialect::Musubi) => {
            return Err(cannot(change, dialect, other.kind()));
        }
        Factors::LoHa(names) => {
            for (end, name) in
                ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"].iter().zip(names)
            {
                put(end, tensor(name));
            }
        }
        Factors::LoKr(parts) => {
            for (number, part) in parts.iter().enumerate() {
                // Without a rank there is no alpha: the first factor takes the scale.
                let scale = if product.rank.is_none() && number == 0 { product.scale } else { 1.0 };
                let stem = format!("lokr_w{}", number + 1);
                match part {
                    Factor::Whole(name) => put(&stem, scaled(name, scale)),
                    Factor::Product(a, b) => {
                        put(&format!("{stem}_a"), tensor(a));
                        put(&format!("{stem}_b"), tensor(b));
                    }
                }
            }
        }
    }
    Ok(())
}

/// The end of the name of DoRA's lengths in a dialect, and their shape there.
fn magnitude(
    change: &Change,
    name: &str,
    dialect: Dialect,
    set: &WeightSet,
) -> Result<(&'static str, Vec<u64>)> {
    let shape = set.tensor(name).map(|weight| weight.shape.clone()).unwrap_or_default();
    let by_row = shape.iter().skip(1).all(|size| *size == 1);
    match dialect {
        Dialect::ComfyUi | Dialect::Musubi => {
            let shape = if shape.len() == 1 { vec![shape[0], 1] } else { shape };
            Ok((".dora_scale", shape))
        }
        Dialect::Peft if by_row => Ok((".lora_magnitude_vector", shape[..1].to_vec())),
        Dialect::Peft => Err(cannot(change, dialect, "DoRA with a length for each column")),
        Dialect::DiffSynth | Dialect::Diffusers => Err(cannot(change, dialect, "DoRA")),
    }
}

/// The rank and the alpha that most modules have.
fn usual(changes: &[Change]) -> Option<(u64, f64)> {
    let mut counts: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for product in changes.iter().filter_map(|change| change.product.as_ref()) {
        *counts.entry((product.rank.unwrap_or(0), product.alpha().to_bits())).or_default() += 1;
    }
    let most = counts.iter().max_by_key(|(_, count)| **count)?;
    Some((most.0.0, f64::from_bits(most.0.1)))
}

/// PEFT's configuration: ranks and alphas that differ from the usual ones by module.
fn configuration(changes: &[Change]) -> Map<String, Value> {
    let (rank, alpha) = usual(changes).unwrap_or((0, 1.0));
    let (mut ranks, mut alphas, mut names) = (Map::new(), Map::new(), Vec::new());
    for change in changes {
        let Some(product) = &change.product else { continue };
        names.push(change.other.clone());
        // Whole names; a dot in them stands for any sign, which no other name has there.
        if product.rank != Some(rank) {
            ranks.insert(change.other.clone(), json!(product.rank));
        }
        if product.alpha() != alpha {
            alphas.insert(change.other.clone(), json!(product.alpha()));
        }
    }
    let some = |part: fn(&Change) -> bool| changes.iter().any(part);
    let value = json!({
        "alpha_pattern": alphas,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": alpha,
        "lora_bias": some(|change| change.up_bias.is_some()),
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": ranks,
        "target_modules": names,
        "task_type": null,
        "use_dora": some(|change| change.magnitude.is_some()),
        "use_rslora": false,
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::open;
    use super::*;

    #[test]
    fn sizes_and_modules_are_said_in_words() {
        let one = open("comfy_ab.safetensors").unwrap();
        let all = "cross_attn.k, cross_attn.o, cross_attn.q, cross_attn.v, ffn.0, ffn.2, \
                   self_attn.k, self_attn.o, self_attn.q, self_attn.v";
        let header = metadata(&one);
        assert_eq!(header["anyid.target_modules"], all);
        assert_eq!((&header["anyid.alpha"][..], &header["anyid.rank"][..]), ("8", "4"));
        let config = configuration(&one.changes);
        assert_eq!((&config["lora_alpha"], &config["r"]), (&json!(8.0), &json!(4)));
        assert_eq!(config["target_modules"].as_array().unwrap().len(), 20);
        assert!(config["rank_pattern"].as_object().unwrap().is_empty());
        let mixed = configuration(&open("peft_patterns").unwrap().changes);
        assert_eq!(mixed["rank_pattern"]["blocks.0.attn1.to_q"], json!(5));
        assert!(!mixed["alpha_pattern"].as_object().unwrap().is_empty());
    }
}
