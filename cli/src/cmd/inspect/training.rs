//! `inspect` of what training reads and leaves: manifests, settings, checkpoints, folders of runs.

use super::Found;
use crate::output::{self, plural};
use anyid_runtime::Result;
use anyid_runtime::checkpoint::WeightSet;
use anyid_runtime::training::about::{self, FolderAbout, ManifestAbout, RunAbout};
use serde_json::{Value, json};
use std::path::Path;

/// A checkpoint of a run; none where the file is another one.
///
/// # Errors
/// E0962.
pub fn checkpoint(path: &Path, set: &WeightSet) -> Result<Option<Found>> {
    let Some(run) = about::run(path, set)? else { return Ok(None) };
    let text = format!("checkpoint of a training run\n{}", run_text(&run));
    let mut json = run_json(&run);
    json["kind"] = json!("training checkpoint");
    Ok(Some(Found { text, json, warnings: Vec::new() }))
}

fn run_text(run: &RunAbout) -> String {
    let [done, all] = run.updates;
    let what = match run.kind.as_str() {
        "full" => "every weight",
        "dpo" => "an adapter, from preferences",
        _ => "an adapter",
    };
    let mut text = format!("trains    {what} (train {})\n", output::plain(&run.kind));
    let samples = plural(run.samples as usize, "sample");
    text.push_str(&format!("position  update {done} of {all}, {samples} seen\n"));
    if let Some(loss) = run.loss {
        text.push_str(&format!("loss      {loss:.4}\n"));
    }
    if let Some([best, base]) = run.validation {
        text.push_str(&format!(
            "best      {best:.4} on the validation set (untrained {base:.4})\n"
        ));
    }
    for (name, value) in [
        ("settings", &run.settings),
        ("manifest", &run.manifest),
        ("model", &run.model),
        ("device", &run.device),
    ] {
        text.push_str(&format!("{name:<10}{}\n", output::plain(value)));
    }
    text
}

fn run_json(run: &RunAbout) -> Value {
    json!({
        "trains": run.kind, "updates": run.updates[0], "steps": run.updates[1],
        "samples": run.samples, "loss": run.loss,
        "validation": run.validation.map(|[best, base]| json!({"best": best, "base": base})),
        "settings": run.settings, "manifest": run.manifest, "model": run.model,
        "device": run.device,
    })
}

/// A manifest; none where the file is another one.
///
/// # Errors
/// E0911.
pub fn manifest(path: &Path) -> Result<Option<Found>> {
    let Some(found) = about::manifest(path)? else { return Ok(None) };
    let ManifestAbout { schema, sha256, samples, faults, warnings } = found;
    let pairs = schema.contains("dpo");
    let name = if pairs { "pair" } else { "sample" };
    let count: usize = samples.values().sum();
    let mut text = format!("manifest of {name}s for training ({schema})\n");
    text.push_str(&format!("{:<10}{}\n", format!("{name}s"), plural(count, name)));
    for (references, count) in &samples {
        let own = plural(*references, "reference");
        text.push_str(&format!("          {} with {own}\n", plural(*count, name)));
    }
    text.push_str(&format!("sha256    {sha256}\n"));
    const SHOWN: usize = 10;
    for fault in faults.iter().take(SHOWN) {
        text.push_str(&format!("fault     line {}: {}\n", fault.line, output::plain(&fault.what)));
    }
    if faults.len() > SHOWN {
        text.push_str(&format!("fault     … ({} in all)\n", faults.len()));
    }
    text.push_str("media     not looked at; `anyid-rt train check` decodes them\n");
    let by: serde_json::Map<String, Value> =
        samples.iter().map(|(references, count)| (references.to_string(), json!(count))).collect();
    let json = json!({
        "kind": "manifest", "schema": schema, "samples": count, "by_references": by,
        "sha256": sha256,
        "faults": faults.iter().map(|f| json!({"line": f.line, "what": f.what})).collect::<Vec<_>>(),
    });
    Ok(Some(Found { text, json, warnings }))
}

/// The settings of a run; none where the file is other TOML.
///
/// # Errors
/// E0955 and E0956 for settings that no run could use.
pub fn settings(path: &Path) -> Result<Option<Found>> {
    let Some((settings, digest)) = about::settings(path)? else { return Ok(None) };
    let size = settings.size();
    let (lora, train) = (&settings.lora, &settings.train);
    let model = match &settings.model.path {
        Some(path) => path.display().to_string(),
        None => "built-in model".to_owned(),
    };
    let mut text = format!("settings of a training run\nmodel     {model}\n");
    for adapter in &settings.model.adapters {
        text.push_str(&format!("          with {adapter}\n"));
    }
    text.push_str(&format!("manifest  {}\n", settings.data.manifest.display()));
    if let Some(validation) = &settings.data.validation {
        text.push_str(&format!("          {} is measured\n", validation.display()));
    }
    text.push_str(&format!(
        "video     {}x{}, {}, {} a second\n",
        size.width,
        size.height,
        plural(size.frames, "frame"),
        settings.video.fps
    ));
    text.push_str(&format!("adapter   rank {}, alpha {}\n", lora.rank, lora.alpha));
    text.push_str(&format!(
        "training  {} of {}",
        plural(train.steps as usize, "update"),
        train.batch
    ));
    text.push_str(&format!(", learning rate {}\n", train.learning_rate));
    text.push_str(&format!("folder    {}\n", settings.run.folder.display()));
    text.push_str(&format!("settings  {digest}\n"));
    let json = json!({
        "kind": "training settings", "settings": settings.to_json(), "digest": digest,
    });
    Ok(Some(Found { text, json, warnings: Vec::new() }))
}

/// The folder of a run; none for another folder.
///
/// # Errors
/// E0962 and E0911 for its files.
pub fn folder(path: &Path) -> Result<Option<Found>> {
    let Some(FolderAbout { run, lines, results }) = about::folder(path)? else { return Ok(None) };
    let mut text = "folder of a training run\n".to_owned();
    match &run {
        Some(run) => text.push_str(&run_text(run)),
        None => text.push_str("position  unknown: there is no checkpoint\n"),
    }
    text.push_str(&format!("log       {}\n", plural(lines, "update")));
    let names: Vec<String> = results
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let list = if names.is_empty() { "none yet".to_owned() } else { names.join(", ") };
    text.push_str(&format!("results   {list}\n"));
    let json = json!({
        "kind": "training run", "run": run.as_ref().map(run_json), "log": lines, "results": names,
    });
    Ok(Some(Found { text, json, warnings: Vec::new() }))
}
