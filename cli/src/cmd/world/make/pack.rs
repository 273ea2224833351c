//! `world pack`: a model that `world make` made, small enough to be handed on: weights in f16, with the
//! recipe, and what says where it is from.
//!
//! Contract: the folder appears when it is complete, and the same folder of `world make` gives the same
//! bytes. What is packed is not changed.

use super::args::Pack;
use super::recipe::{Recipe, Step, Work};
use super::record::{Costs, put};
use super::{LARGEST, RECIPE};
use crate::interrupt;
use crate::output::{self, bytes};
use anyid_runtime::checkpoint::hash_file;
use anyid_runtime::files::{AtomicFolder, Existing};
use anyid_runtime::halved;
use anyid_runtime::models::wan::config::DitConfig;
use anyid_runtime::training::read_text;
use anyid_runtime::{Error, Model, Result};
use serde_json::{Value, json};
use std::path::Path;

/// What says where a packed model is from.
const PROVENANCE: &str = "provenance.json";
const SCHEMA: &str = "anyid.provenance/1";
const CONFIG: &str = "transformer/config.json";

/// Runs the verb.
///
/// # Errors
/// E0955, E0956 and E0970 for the recipe, those of [`halved::write`], E1016 where the folder is there
/// already, E101x where it cannot be written.
pub fn run(args: &Pack) -> Result<()> {
    let recipe_path = args.made.join(RECIPE);
    let text = read_text(&recipe_path, LARGEST)?;
    let recipe = Recipe::read(&text, &recipe_path, &args.made, &[])?;
    let step = step(args, &recipe, &recipe_path)?;
    let from = Recipe::trained(&args.made, &step.name);
    let folder = AtomicFolder::create(&args.output, Existing::Keep);
    let folder = folder.map_err(|error| match error.code() {
        "E1016" => error.advised("choose another name, or remove the folder first"),
        _ => error,
    })?;
    interrupt::say_swept();
    let to = folder.temporary_path().to_owned();
    let size = halved::write(&from, &to)?;
    let mut dit = Model::open(&to)?.dit;
    dit.sample = DitConfig::world().sample;
    (dit.sample_steps, dit.sample_guidance) = (args.steps, args.guidance);
    put(&to.join(CONFIG), &pretty(&dit.to_diffusers_json()))?;
    // What was written is a model.
    Model::open(&to)?;
    put(&to.join(RECIPE), &text)?;
    let provenance = provenance(args, &recipe, step, &to)?;
    put(&to.join(PROVENANCE), &pretty(&provenance))?;
    let path = folder.commit()?;
    match args.json {
        true => output::print_json(&json!({
            "output": path.to_string_lossy(), "bytes": size, "provenance": provenance,
        })),
        false => output::print(&format!(
            "wrote {}: the model of step {}, {} in f16\n",
            path.display(),
            step.name,
            bytes(size)
        )),
    }
}

/// The training whose model is packed: the one that is named, or the last one that is finished.
fn step<'r>(args: &Pack, recipe: &'r Recipe, path: &Path) -> Result<&'r Step> {
    let trainings: Vec<&Step> =
        recipe.steps.iter().filter(|step| matches!(step.work, Work::Train)).collect();
    let finished = |step: &&&Step| Recipe::trained(&args.made, &step.name).exists();
    let found = match &args.step {
        Some(name) => trainings.iter().find(|step| step.name == *name),
        None => trainings.iter().rev().find(finished),
    };
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = trainings.iter().map(|step| step.name.as_str()).collect();
        let (message, place) = match &args.step {
            Some(name) => (format!("there is no training \"{name}\""), path),
            None => ("no training is finished".to_owned(), args.made.as_path()),
        };
        let help = format!("the trainings are {}; `world make` makes them", names.join(", "));
        Error::input("E0970", message).at(place.display()).help(help)
    })
}

/// What the model was made of, what that took, and the digests of its weights.
fn provenance(args: &Pack, recipe: &Recipe, last: &Step, packed: &Path) -> Result<Value> {
    let costs = Costs::open(args.made.join("costs.jsonl"));
    let until = recipe.steps.iter().position(|step| step.name == last.name).unwrap_or(0);
    let steps = recipe.steps[..=until].iter().map(|step| {
        let [processor, _] = costs.of(&step.name);
        json!({
            "name": step.name, "do": step.work.name(), "processor_seconds": processor.round(),
        })
    });
    let worlds = recipe.steps.iter().find_map(|step| match &step.work {
        Work::Sample(args) => Some(args.draw.world().to_string()),
        _ => None,
    });
    let files = [
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ];
    let mut digests = serde_json::Map::new();
    for name in files {
        digests.insert(name.to_owned(), hash_file(packed.join(name))?.into());
    }
    let steps: Vec<Value> = steps.collect();
    Ok(json!({
        "schema": SCHEMA, "world": worlds, "step": last.name, "steps": steps,
        "recipe": hash_file(args.made.join(RECIPE))?, "sha256": digests, "stored": "F16",
    }))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
