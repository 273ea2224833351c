//! `inspect`: what a file or folder is, in words or JSON.
//!
//! The content decides the kind; the name decides only between kinds of text. Nothing is changed,
//! and the values of tensors are not read.

mod devices;
mod training;

use crate::args::ModuleArgs;
use crate::cmd::{check, lora};
use crate::modules::{self, Network, unreadable};
use crate::output::{self, bytes, count};
use crate::recipe::{self, Recipe};
use crate::recipe_text;
use crate::render::{self, Failure};
use anyid_models::wan::config::{DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::kin;
use anyid_models::wan::names::detect;
use anyid_runtime::adapter::{Adapter, is_adapter, modules_by_name};
use anyid_runtime::checkpoint::{Checkpoint, Foreign, Format, WeightSet, foreign, read_json};
use anyid_runtime::engine::{PlanFile, plan_file};
use anyid_runtime::input;
use anyid_runtime::media::{MediaKind, ReadOptions, Signature, sniff, visit_frames};
use anyid_runtime::weights::ModelWeights;
use anyid_runtime::{Error, Model, Result};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct Inspect {
    /// File or folder, or the word devices for what can be computed on here (./devices is a file).
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// List every tensor of a checkpoint.
    #[arg(long)]
    pub tensors: bool,
    /// Read all of a checkpoint and compare it with the checksums in it, which only files of PyTorch have.
    #[arg(long)]
    pub verify: bool,
}

/// What was found, as text and as JSON.
struct Found {
    text: String,
    json: Value,
    warnings: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// E0915 for an unknown kind, else the errors of the kind that was recognised.
pub fn run(args: Inspect) -> std::result::Result<(), Failure> {
    let mut found = look(&args)?;
    for warning in &found.warnings {
        render::warn(warning);
    }
    if args.json {
        found.json["path"] = json!(args.path.to_string_lossy());
        found.json["warnings"] = json!(found.warnings);
        output::print_json(&found.json)?;
    } else {
        output::print(&found.text)?;
    }
    Ok(())
}

fn look(args: &Inspect) -> std::result::Result<Found, Failure> {
    let path = &args.path;
    if path == Path::new("devices") {
        return Ok(devices::list());
    }
    let meta = std::fs::metadata(path).map_err(|fault| unreadable(path, fault))?;
    if meta.is_dir() {
        return Ok(folder(path, args)?);
    }
    let head = input::head(path, 256).map_err(|fault| unreadable(path, fault))?;
    if head.is_empty() {
        return Err(Error::input("E0915", "the file is empty")
            .at(path.display())
            .help("the download or export did not finish; fetch it again")
            .into());
    }
    if let Some(Foreign { what, help }) = foreign(&head, meta.len()) {
        return Err(unknown(path, what).help(help).into());
    }
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    match ending.as_deref() {
        _ if Format::is_likely(&head, meta.len()) => return Ok(verified(path, args)?),
        Some("safetensors") => return Ok(verified(path, args)?),
        Some("json") => return Ok(json_file(path, args.tensors)?),
        Some("toml") => {
            let other = || unknown(path, "TOML without a section of training settings").help(TAKEN);
            return Ok(training::settings(path)?.ok_or_else(other)?);
        }
        Some("jsonl") => {
            let other = || unknown(path, "JSON lines of an unknown schema").help(TAKEN);
            return Ok(training::manifest(path)?.ok_or_else(other)?);
        }
        Some("ir") => return module(path),
        Some("plan") => return Ok(plan(path)?),
        _ => {}
    }
    if plan_file::is_plan(&head) {
        return Ok(plan(path)?);
    }
    match sniff(&head) {
        Signature::Still(_) | Signature::Mp4 | Signature::Heif(_) | Signature::Foreign(_) => {
            Ok(media(path)?)
        }
        // Where a header has its brace, and a length that the file does not have.
        Signature::NotMedia(_) if head.get(8) == Some(&b'{') => Ok(checkpoint(path, args.tensors)?),
        Signature::NotMedia("a text file") => match training::manifest(path) {
            Ok(Some(found)) => Ok(found),
            _ => module(path),
        },
        Signature::NotMedia(what) => Err(unknown(path, what).help(TAKEN).into()),
    }
}

const TAKEN: &str = "give a checkpoint, a model folder, an adapter, IR text, a plan, a recipe, a picture, a video, or \
                     settings, a manifest or the folder of a training run";

fn unknown(path: &Path, what: &str) -> Error {
    Error::input("E0915", format!("this is nothing that can be inspected: it is {what}"))
        .at(path.display())
}

/// `inspect` of a compiled plan.
fn plan(path: &Path) -> Result<Found> {
    let file = PlanFile::read(path)?;
    let weights = file.weights().len();
    let mut text = format!("plan for target {}\n", file.target());
    let mut phases = Vec::new();
    for plan in file.phases() {
        text.push_str(&format!(
            "phase     {}: {}, peak {}, persistent {}\n",
            plan.name,
            output::plural(plan.steps.len(), "step"),
            bytes(plan.workspace_bytes),
            bytes(plan.persistent_bytes)
        ));
        let names = |ports: &[anyid_ir::plan::Port]| -> Vec<String> {
            let ports = ports.iter();
            ports.map(|p| format!("%{}: {}", p.title(), plan.buffer(p.buffer).ty)).collect()
        };
        let (inputs, outputs) = (names(&plan.inputs), names(&plan.outputs));
        text.push_str(&format!("          in  {}\n", inputs.join(", ")));
        text.push_str(&format!("          out {}\n", outputs.join(", ")));
        phases.push(json!({
            "name": plan.name,
            "launches": plan.steps.len(),
            "peak_bytes": plan.workspace_bytes,
            "persistent_bytes": plan.persistent_bytes,
            "inputs": inputs,
            "outputs": outputs,
        }));
    }
    text.push_str(&format!("weights   {}\n", output::plural(weights, "tensor")));
    let json = json!({
        "kind": "plan", "target": file.target(), "phases": phases, "weights": weights,
    });
    Ok(Found { text, json, warnings: Vec::new() })
}

/// `inspect` of an adapter; without a model, modules are known by name.
fn adapter(path: &Path, list: bool) -> Result<Found> {
    let adapter = Adapter::open(path, &modules_by_name())?;
    let lora::Shown { text, json, warnings } = lora::shown(&adapter, list, None)?;
    Ok(Found { text, json, warnings })
}

/// `inspect` of a folder: a model, an adapter, a training run, or frames.
fn folder(path: &Path, args: &Inspect) -> Result<Found> {
    if lora::is_adapter_folder(path) {
        return adapter(path, args.tensors);
    }
    if let Some(found) = training::folder(path)? {
        return Ok(found);
    }
    let entries = std::fs::read_dir(path).map_err(|fault| unreadable(path, fault))?;
    let mut frames: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.starts_with("frame_") && name.ends_with(".png"))
        .collect();
    if frames.is_empty() {
        return model(path, args.verify);
    }
    frames.sort();
    let first = media(&path.join(&frames[0]))?;
    let recipe = beside(path)?;
    let (width, height) = (&first.json["width"], &first.json["height"]);
    let mut text = format!("folder of frames\nframes    {}, {width}x{height}\n", frames.len());
    let mut json = json!({
        "kind": "frames", "frames": frames.len(), "width": width, "height": height,
    });
    match recipe {
        Some(recipe) => add_recipe(&mut text, &mut json, &recipe, "beside"),
        // Every frame holds that of all.
        None => {
            if let Some(at) = first.text.find("recipe inside\n") {
                text.push_str(&first.text[at..]);
            }
            for key in ["recipe", "recipe_from", "settings"] {
                if let Some(value) = first.json.get(key) {
                    json[key] = value.clone();
                }
            }
        }
    }
    Ok(Found { text, json, warnings: first.warnings })
}

fn model(path: &Path, verify: bool) -> Result<Found> {
    let model = Model::open(path)?;
    let mut text = format!("model folder {}\n", path.display());
    let mut parts = Vec::new();
    let all = [
        (Network::Dit, &model.dit_weights, dit_line(&model.dit)),
        (Network::Vae, &model.vae_weights, vae_line(&model.vae)),
        (Network::Text, &model.text_weights, text_line(&model.text)),
    ];
    for (network, weights, line) in all {
        let what = modules::describe(network, weights.naming(), weights.prefix());
        text.push_str(&format!("\n{what}\n  {line}\n"));
        let set = weights.set();
        text.push_str(&format!("  {}\n", sizes(set)));
        let mut json = set_json(set);
        json["network"] = json!(network.describe());
        json["naming"] = json!(what);
        json["configuration"] = json!(line);
        json["fingerprint"] = json!(set.fingerprint()?);
        if verify {
            let sums = set.files().map(Checkpoint::verify).collect::<Result<Vec<bool>>>()?;
            text.push_str(&format!("  {}", said(sums.contains(&true))));
            json["verified"] = json!(sums.contains(&true));
        }
        parts.push(json);
    }
    let scheduler = &model.scheduler;
    let line =
        format!("{}, schedule {}, shift {}", scheduler.solver, scheduler.schedule, scheduler.shift);
    text.push_str(&format!(
        "\nscheduler  {line}\nprecision  {}\n",
        model.default_precision().name()
    ));
    let json = json!({
        "kind": "model",
        "networks": parts,
        "scheduler": {
            "solver": scheduler.solver.name(),
            "schedule": scheduler.schedule.name(),
            "shift": scheduler.shift,
        },
        "precision": model.default_precision().name(),
    });
    Ok(Found { text, json, warnings: model.warnings })
}

fn dit_line(c: &DitConfig) -> String {
    format!(
        "{} layers, {} heads of {}, feed-forward {}, {} channels, text {}",
        c.layers, c.heads, c.head_dim, c.ffn_dim, c.in_channels, c.text_dim
    )
}

fn vae_line(c: &VaeConfig) -> String {
    format!(
        "base {} / {}, {} latent channels, {} pixels a latent side, {} frames a latent frame",
        c.base_dim,
        c.decoder_base_dim,
        c.z_dim,
        c.spatial_factor(),
        c.temporal_factor()
    )
}

fn text_line(c: &TextConfig) -> String {
    format!(
        "{} layers, {} heads of {}, width {}, feed-forward {}, vocabulary {}",
        c.layers, c.heads, c.d_kv, c.d_model, c.d_ff, c.vocab_size
    )
}

fn parameters(set: &WeightSet) -> u64 {
    set.iter().map(|(_, view)| view.elements()).sum()
}

/// `825 tensors, 5.00 billion parameters, 9.31 GiB (BF16 9.31 GiB)`, as the files have them.
fn sizes(set: &WeightSet) -> String {
    let stored = set.stored_bytes_by_encoding();
    let by: Vec<String> =
        stored.iter().map(|(d, b)| format!("{} {}", d.name(), bytes(*b))).collect();
    format!(
        "{}, {} parameters, {} ({})",
        output::plural(set.len(), "tensor"),
        count(parameters(set)),
        bytes(stored.values().sum()),
        by.join(", ")
    )
}

fn set_json(set: &WeightSet) -> Value {
    let stored = set.stored_bytes_by_encoding();
    let by: serde_json::Map<String, Value> =
        stored.iter().map(|(d, b)| (d.name().to_owned(), json!(b))).collect();
    json!({
        "tensors": set.len(),
        "parameters": parameters(set),
        "bytes": stored.values().sum::<u64>(),
        "bytes_by_dtype": by,
    })
}

/// What a comparison with checksums found; `sums` says whether there were any.
fn said(sums: bool) -> String {
    let said = if sums { "right" } else { "none in this format" };
    format!("checksums {said}\n")
}

/// A checkpoint, compared with its checksums where that is wanted.
fn verified(path: &Path, args: &Inspect) -> Result<Found> {
    let mut found = checkpoint(path, args.tensors)?;
    if args.verify {
        let sums = Checkpoint::open(path)?.verify()?;
        found.text.push_str(&said(sums));
        found.json["verified"] = json!(sums);
    }
    Ok(found)
}

fn checkpoint(path: &Path, list: bool) -> Result<Found> {
    let set = WeightSet::open(path)?;
    if is_adapter(set.names()) {
        return adapter(path, list);
    }
    if let Some(found) = training::checkpoint(path, &set)? {
        return Ok(found);
    }
    let files = set.files().len();
    let format = set.files().next().map_or("empty", |file| file.table().format().name());
    let mut text = match files {
        1 => format!("{format} checkpoint\n"),
        n => format!("{format} checkpoint in {n} files\n"),
    };
    let mut json = set_json(&set);
    json["kind"] = json!("checkpoint");
    json["files"] = json!(files);
    text.push_str(&format!("tensors   {}\n", sizes(&set)));
    let mut warnings = set.warnings().to_vec();
    let mut networks = Vec::new();
    let other = kin::other(set.names());
    for network in [Network::Dit, Network::Vae, Network::Text] {
        let component = network.candidates()[0];
        let found = detect(component, set.names()).filter(|_| other.is_none());
        let Some((naming, prefix)) = found else { continue };
        let what = modules::describe(network, naming, prefix);
        text.push_str(&format!("network   {what}\n"));
        let name = network.describe();
        let mut one = json!({ "network": name, "naming": what });
        match ModelWeights::recognise(&set, component) {
            Ok(weights) => {
                let scaled = weights.set().scaled_weights();
                if scaled > 0 {
                    let scaled = output::plural(scaled, "weight");
                    text.push_str(&format!("          {scaled} with scales\n"));
                }
                one["scaled"] = json!(scaled);
                let model = (network == Network::Dit).then(|| member(weights.set())).flatten();
                if let Some(model) = &model {
                    let other = if kin::is_ours(model) { "" } else { ", which is not supported" };
                    text.push_str(&format!("          {model}{other}\n"));
                }
                one["model"] = json!(model);
            }
            Err(error) => warnings.push(format!("{}: {}", error.code(), error.message())),
        }
        let line = configuration(&set, network, path);
        if let Some(line) = &line {
            text.push_str(&format!("          {line}\n"));
        }
        one["configuration"] = json!(line);
        networks.push(one);
    }
    match other {
        Some(model) => text.push_str(&format!("network   {model}, which is not supported\n")),
        None if networks.is_empty() => text.push_str("network   not recognised\n"),
        None => {}
    }
    json["other_model"] = json!(other);
    json["networks"] = json!(networks);
    let mut metadata: BTreeMap<String, String> = BTreeMap::new();
    for file in set.files() {
        metadata.extend(file.metadata().iter().map(|(k, v)| (k.clone(), v.clone())));
    }
    for (key, value) in &metadata {
        let short: String = output::plain(value).chars().take(100).collect();
        text.push_str(&format!("metadata  {}: {short}\n", output::plain(key)));
    }
    json["metadata"] = json!(metadata);
    json["fingerprint"] = json!(set.fingerprint()?);
    if list {
        let mut rows = Vec::new();
        for (name, view) in set.iter() {
            text.push_str(&format!(
                "  {} {}{:?}\n",
                output::plain(name),
                view.encoding.name(),
                view.shape
            ));
            rows.push(json!({ "name": name, "dtype": view.encoding.name(), "shape": view.shape }));
        }
        json["list"] = json!(rows);
    }
    Ok(Found { text, json, warnings })
}

/// The member of the Wan family that a transformer is.
fn member(set: &WeightSet) -> Option<String> {
    kin::transformer(&|name| set.tensor(name).map(|weight| weight.shape.clone()))
}

/// The sizes of a network, from the configuration next to the file or from the shapes of the
/// tensors; nothing if neither gives them.
fn configuration(set: &WeightSet, network: Network, path: &Path) -> Option<String> {
    let config = read_json(path.with_file_name("config.json")).ok().map(|file| file.value);
    let beside = config.as_ref().and_then(|config| match network {
        Network::Dit => DitConfig::from_diffusers(config).ok().map(|c| dit_line(&c)),
        Network::Vae => VaeConfig::from_diffusers(config).ok().map(|c| vae_line(&c)),
        Network::Text => TextConfig::from_diffusers(config).ok().map(|c| text_line(&c)),
    });
    beside.or_else(|| {
        let weights = ModelWeights::recognise(set, network.candidates()[0]).ok()?;
        let set = weights.set();
        let shape = |name: &str| set.tensor(name).map(|view| view.shape.to_vec());
        match network {
            Network::Dit => {
                let with = config.as_ref().map(|c| DitConfig::from_original(Some(c), &shape));
                let made = with
                    .and_then(|c| c.ok())
                    .map_or_else(|| DitConfig::from_original(None, &shape).ok(), Some);
                made.map(|c| dit_line(&c))
            }
            Network::Vae => VaeConfig::from_original(&shape).ok().map(|c| vae_line(&c)),
            Network::Text => TextConfig::from_original(&shape).ok().map(|c| text_line(&c)),
        }
    })
}

/// A recipe, an index of shards, or the configuration of something.
fn json_file(path: &Path, list: bool) -> Result<Found> {
    let file = read_json(path)?;
    if file.value["format"] == recipe::FORMAT {
        let recipe = Recipe::read(path)?;
        let text = format!("recipe\n{}", recipe_text::summary(&recipe));
        let json = json!({ "kind": "recipe", "recipe": recipe.to_json() });
        return Ok(Found { text, json, warnings: Vec::new() });
    }
    if file.value["weight_map"].is_object() {
        return checkpoint(path, list);
    }
    let class = file.value["_class_name"].as_str().or(file.value["model_type"].as_str());
    match class {
        Some(class) => {
            let text = format!("configuration of {}\n", output::plain(class));
            let json = json!({ "kind": "configuration", "class": class });
            Ok(Found { text, json, warnings: Vec::new() })
        }
        None => Err(unknown(path, "a JSON file without a known key").help(TAKEN)),
    }
}

fn module(path: &Path) -> std::result::Result<Found, Failure> {
    let args = ModuleArgs { file: path.to_owned(), dims: Vec::new() };
    let (module, findings) = modules::examine(&args)?;
    // Free dims have no value here; `check --dim` would give them one.
    if findings.list.iter().any(|d| d.code != "E0112") {
        return Err(Failure::Findings(Box::new(findings)));
    }
    if !findings.list.is_empty() {
        let warnings = findings.list.into_iter().map(|d| d.message).collect();
        let text = format!("IR text with free dims; `anyid-rt check {} --dim …`\n", path.display());
        return Ok(Found { text, json: json!({ "kind": "ir", "bound": false }), warnings });
    }
    let text = format!("IR text\n{}", check::describe(&module));
    let mut json = check::describe_json(&module);
    if let Some(network) = modules::network_of(&module.weights) {
        json["network"] = json!(network.describe());
    }
    Ok(Found { text, json, warnings: findings.list.iter().map(|d| d.message.clone()).collect() })
}

fn media(path: &Path) -> Result<Found> {
    let mut frames = 0;
    let info = visit_frames(path, &ReadOptions::default(), &mut |_| {
        frames += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    let kind = match info.kind {
        MediaKind::Image => "picture",
        MediaKind::Video => "video",
    };
    let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
    let mut text = format!("{kind}\nformat    {}, {}\n", info.description, bytes(size));
    text.push_str(&format!("size      {}x{}\n", info.width, info.height));
    if info.kind == MediaKind::Video {
        let rate = info.fps.map_or_else(String::new, |fps| format!(", {fps:.3} a second"));
        text.push_str(&format!("frames    {frames}{rate}\n"));
    }
    let mut json = json!({
        "kind": kind,
        "format": info.description,
        "bytes": size,
        "width": info.width,
        "height": info.height,
        "frames": frames,
        "fps": info.fps,
    });
    let mut warnings = info.warnings;
    let inside = recipe::read_inside(path)?;
    warnings.extend(inside.warnings);
    let own = match inside.recipe {
        Some(Err(error)) => {
            warnings.push(format!("its recipe cannot be read: {}", error.message()));
            None
        }
        Some(Ok(recipe)) => Some(recipe),
        None => None,
    };
    match (beside(path)?, own) {
        (Some(beside), own) => {
            if own.is_some_and(|own| own.to_json() != beside.shared()) {
                warnings.push("the recipe inside is another one than that beside it".to_owned());
            }
            add_recipe(&mut text, &mut json, &beside, "beside");
        }
        (None, Some(own)) => add_recipe(&mut text, &mut json, &own, "inside"),
        (None, None) => {}
    }
    if let Some(foreign) = inside.foreign {
        text.push_str(&recipe_text::foreign(&foreign));
        json["settings"] = foreign.to_json();
    }
    Ok(Found { text, json, warnings })
}

/// The recipe next to a result, if there is one.
fn beside(path: &Path) -> Result<Option<Recipe>> {
    let recipe = recipe::path_beside(path);
    if recipe.is_file() { Recipe::read(&recipe).map(Some) } else { Ok(None) }
}

/// Adds a recipe that lies `place` the result: beside or inside.
fn add_recipe(text: &mut String, json: &mut Value, recipe: &Recipe, place: &str) {
    text.push_str(&format!("recipe {place}\n{}", recipe_text::summary(recipe)));
    json["recipe"] = recipe.to_json();
    json["recipe_from"] = json!(place);
}
