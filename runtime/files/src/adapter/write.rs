//! Adapters written in any dialect that can express them, read back, and compared before they get
//! their name.
//!
//! Factors are stored as they are, in their encodings, with alpha beside them; only DiffSynth,
//! which knows no alpha, gets scaled factors. What a dialect cannot say is an error before anything
//! is written. `formats.md` §5.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::change::{Change, Factor, Factors, Product};
use super::combine::scaled;
use super::modules::Modules;
use super::settings::HEADER_KEY;
use super::{Adapter, CONFIG, Dialect, NAMES};
use crate::checkpoint::{Derivation, Encoding, SafetensorsWriter, TensorSpec, WeightSet};
use crate::error::{Error, Result};
use crate::output::{AtomicFile, AtomicFolder, Existing};

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file, or the folder of PEFT's dialect.
    pub path: PathBuf,
    /// Tensors in it.
    pub tensors: usize,
    /// Bytes of the tensors.
    pub bytes: u64,
}

/// An adapter as a dialect spells it.
struct Spelled {
    tensors: Vec<(String, Derivation)>,
    /// Alphas: scalars in f32.
    numbers: Vec<(String, f32)>,
    metadata: BTreeMap<String, String>,
    config: Option<Value>,
}

/// Writes an adapter as `dialect`: a file, or a folder for PEFT. It is read back and compared, and
/// appears whole or not at all.
///
/// # Errors
/// E0374 for what the dialect cannot express, E0376 where the file reads back as something else,
/// and E101x where it cannot be written.
pub fn write(
    adapter: &Adapter,
    dialect: Dialect,
    modules: &Modules,
    path: &Path,
    existing: Existing,
) -> Result<Written> {
    let spelled = spell(adapter, dialect)?;
    let set = adapter.set.derived(spelled.tensors.iter().cloned())?;
    let tensors = spelled.tensors.len() + spelled.numbers.len();
    let bytes = set.total_bytes() + 4 * spelled.numbers.len() as u64;
    let check = |file: &Path, config: Option<&Path>| -> Result<()> {
        compare(&set, &spelled.numbers, file)?;
        let again = Adapter::open_files(file, config, modules)?;
        same(adapter, &again, dialect)
    };
    let placed = |error: Error| match error.code() {
        "E0376" => error.placed(path.display()),
        _ => error,
    };
    let path = match &spelled.config {
        Some(config) => {
            let folder = AtomicFolder::create(path, existing)?;
            let mut text = serde_json::to_string_pretty(config).expect("JSON values serialise");
            text.push('\n');
            folder.write(CONFIG, text.as_bytes())?;
            let file = folder.temporary_path().join(NAMES[0]);
            store(AtomicFile::create(&file)?, &set, &spelled)?.commit()?;
            check(&file, Some(&folder.temporary_path().join(CONFIG))).map_err(placed)?;
            folder.commit()?
        }
        None => {
            let file = AtomicFile::create_as(path, existing)?;
            let mut file = store(file, &set, &spelled)?;
            file.close()?;
            if let Some(temporary) = file.temporary_path() {
                check(temporary, None).map_err(placed)?;
            }
            file.commit()?
        }
    };
    Ok(Written { path, tensors, bytes })
}

/// Streams the tensors into a file, the widest encodings first.
fn store(file: AtomicFile, set: &WeightSet, spelled: &Spelled) -> Result<AtomicFile> {
    const PIECE: u64 = 4 << 20;
    let mut specs: Vec<TensorSpec> = set
        .iter()
        .map(|(name, weight)| TensorSpec::new(name, weight.encoding, weight.shape.clone()))
        .collect();
    let numbers = spelled.numbers.iter();
    specs.extend(numbers.map(|(name, _)| TensorSpec::new(name, Encoding::F32, [])));
    specs.sort_by_key(|spec| std::cmp::Reverse(spec.encoding.block().bytes));
    let mut writer = SafetensorsWriter::create_in(file, &specs, &spelled.metadata)?;
    let numbers: BTreeMap<&str, f32> =
        spelled.numbers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let mut room = Vec::new();
    for spec in &specs {
        if let Some(value) = numbers.get(spec.name.as_str()) {
            writer.write(&spec.name, &value.to_le_bytes())?;
            continue;
        }
        let bytes = spec.bytes()?;
        for from in (0..bytes).step_by(PIECE as usize) {
            room.resize((bytes - from).min(PIECE) as usize, 0);
            set.read(&spec.name, from, &mut room)?;
            writer.write(&spec.name, &room)?;
        }
    }
    writer.finish_file()
}

/// Compares what is in a file with what was to be written, byte by byte.
fn compare(set: &WeightSet, numbers: &[(String, f32)], file: &Path) -> Result<()> {
    const PIECE: u64 = 4 << 20;
    let stored = WeightSet::open_files(&[file])?;
    let differs = |name: &str| {
        Err(Error::input("E0376", format!("`{name}` reads back as something else"))
            .help("the disk is failing or the file was changed meanwhile: write it elsewhere"))
    };
    if stored.len() != set.len() + numbers.len() {
        return differs("the list of tensors");
    }
    for (name, value) in numbers {
        match stored.tensor(name) {
            Some(weight) if weight.bytes == 4 && stored.contents(name)? == value.to_le_bytes() => {}
            _ => return differs(name),
        }
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (name, weight) in set.iter() {
        let same = |other: &crate::checkpoint::Weight| {
            other.shape == weight.shape && other.encoding == weight.encoding
        };
        if !stored.tensor(name).is_some_and(same) {
            return differs(name);
        }
        for from in (0..weight.bytes).step_by(PIECE as usize) {
            let count = (weight.bytes - from).min(PIECE) as usize;
            a.resize(count, 0);
            b.resize(count, 0);
            set.read(name, from, &mut a)?;
            stored.read(name, from, &mut b)?;
            if a != b {
                return differs(name);
            }
        }
    }
    Ok(())
}

/// Compares the meaning of what was written with what was meant: modules, kinds, ranks, scales.
fn same(meant: &Adapter, found: &Adapter, dialect: Dialect) -> Result<()> {
    let differs = |what: &str| {
        let what = format!("the file reads back as another adapter: {what}");
        Err(Error::input("E0376", what)
            .help("this is a fault of the program: please report it, and do not use the file"))
    };
    if !found.unmatched.is_empty() || meant.changes.len() != found.changes.len() {
        let (one, other) = (meant.changes.len(), found.changes.len());
        return differs(&format!("{one} modules were written, {other} are there"));
    }
    let by_name: BTreeMap<&str, &Change> =
        found.changes.iter().map(|change| (change.module.as_str(), change)).collect();
    for change in &meant.changes {
        let Some(other) = by_name.get(change.module.as_str()) else {
            return differs(&format!("`{}` is missing", change.module));
        };
        let alike = match (&change.product, &other.product) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                let folded = dialect == Dialect::DiffSynth || a.rank.is_none();
                let scale = if folded { 1.0 } else { a.scale };
                a.rank == b.rank
                    && a.factors.kind() == b.factors.kind()
                    && (b.scale - scale).abs() <= 1e-6 * scale.abs()
            }
            _ => false,
        };
        let magnitude = change.magnitude.is_some() == other.magnitude.is_some();
        let diff = change.diff.is_some() == other.diff.is_some();
        let bias = |change: &Change| change.up_bias.is_some() || change.diff_bias.is_some();
        let modulation = change.diff_modulation.is_some() == other.diff_modulation.is_some();
        if !(alike && magnitude && diff && modulation && bias(change) == bias(other)) {
            let (one, other) = (change.describe(), other.describe());
            return differs(&format!("`{}` is {other} instead of {one}", change.module));
        }
    }
    Ok(())
}

/// The names and contents of all tensors in a dialect.
fn spell(adapter: &Adapter, dialect: Dialect) -> Result<Spelled> {
    let mut spelled = Spelled {
        tensors: Vec::new(),
        numbers: Vec::new(),
        metadata: metadata(adapter),
        config: None,
    };
    for change in &adapter.changes {
        speak(change, dialect, &adapter.set, &mut spelled)
            .map_err(|error| error.at(adapter.path.display()))?;
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
    let names: std::collections::BTreeSet<String> = changes.iter().map(short).collect();
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
            out.numbers.push((format!("{stem}.alpha"), product.alpha() as f32));
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
    use super::super::tests::modules;
    use super::*;
    use crate::checkpoint::save;
    use crate::testing::TempFolder;

    fn adapter(folder: &TempFolder, name: &str, value: f32, alpha: f32) -> Adapter {
        let bytes: Vec<u8> = [value; 128].iter().flat_map(|v| v.to_le_bytes()).collect();
        let q = |end: &str| format!("diffusion_model.blocks.0.self_attn.q.{end}");
        let [a, b, s] = [q("lora_A.weight"), q("lora_B.weight"), q("alpha")];
        let path = folder.path().join(name);
        let rows: [(&str, Encoding, &[u64], &[u8]); 3] = [
            (&a, Encoding::F32, &[4, 32], &bytes),
            (&b, Encoding::F32, &[32, 4], &bytes),
            (&s, Encoding::F32, &[], &alpha.to_le_bytes()),
        ];
        save(&path, &rows, &BTreeMap::new()).unwrap();
        Adapter::open(&path, &modules()).unwrap()
    }

    #[test]
    fn a_file_that_reads_back_as_something_else_is_an_error() {
        let folder = TempFolder::new();
        let one = adapter(&folder, "one", 1.0, 8.0);
        let numbers =
            |value: f32| [("diffusion_model.blocks.0.self_attn.q.alpha".to_owned(), value)];
        let own = one.set.selected(|name| !name.ends_with("alpha"));
        compare(&own, &numbers(8.0), &one.path).unwrap();
        same(&one, &one, Dialect::ComfyUi).unwrap();
        let other = adapter(&folder, "other", 2.0, 8.0);
        let few = own.selected(|name| name.ends_with("lora_A.weight"));
        for outcome in [
            compare(&own, &numbers(8.0), &other.path),
            compare(&own, &numbers(4.0), &one.path),
            compare(&few, &numbers(8.0), &one.path),
            same(&one, &adapter(&folder, "scaled", 1.0, 4.0), Dialect::ComfyUi),
            same(&one, &one, Dialect::DiffSynth),
            same(&one, &Adapter { changes: Vec::new(), ..one.clone() }, Dialect::ComfyUi),
        ] {
            assert_eq!(outcome.unwrap_err().code(), "E0376");
        }
    }

    #[test]
    fn modules_are_named_without_their_block() {
        let folder = TempFolder::new();
        let one = adapter(&folder, "one", 1.0, 8.0);
        assert_eq!(targets(&one.changes), ["self_attn.q"]);
        assert_eq!(metadata(&one)["anyid.alpha"], "8");
        let config = configuration(&one.changes);
        assert_eq!(config["lora_alpha"], 8.0);
        assert_eq!(config["target_modules"], json!(["blocks.0.attn1.to_q"]));
    }
}
