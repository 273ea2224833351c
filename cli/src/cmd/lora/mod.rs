//! `lora`: adapters of the transformer as files: what they are, in other dialects, joined, and
//! merged into a model.
//!
//! Nothing is trained or sampled here. Results appear whole or not at all and are read back before
//! they do; the library does that.

pub mod args;
mod show;

use crate::cmd::lora::args::{Lora, LoraCombine, LoraConvert, LoraInspect, LoraMerge};
use crate::cmd::safeguards::write_down_export;
use crate::interrupt;
use crate::output::{self, bytes, duration, plural};
use crate::progress::{Progress, left};
use crate::render::{self, Failure};
use anyid_runtime::adapter::{
    self, Adapter, Beside, Dialect, Ground, Modules, Part, Tolerance, Used, Wanted, base_of,
    other_base, parts_of, twice,
};
use anyid_runtime::checkpoint::ModelFolder;
use anyid_runtime::files::Existing;
use anyid_runtime::places::Places;
use anyid_runtime::{Error, Model, Result};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

pub use show::{Shown, is_adapter_folder, shown};

/// Runs the verb.
///
/// # Errors
/// E036x and E037x for adapters, and those of reading and writing files.
pub fn run(args: Lora) -> std::result::Result<(), Failure> {
    match args {
        Lora::Inspect(args) => inspect(&args),
        Lora::Convert(args) => convert(&args),
        Lora::Combine(args) => combine(&args),
        Lora::Merge(args) => merge(&args),
    }
}

/// The modules of the model that was named, or of any by name alone.
fn modules(model: Option<&Path>) -> Result<Modules> {
    match model {
        Some(folder) => Ok(adapter::modules_of(Model::open(folder)?.dit_weights.set())),
        None => Ok(adapter::modules_by_name()),
    }
}

fn existing(force: bool) -> Existing {
    if force { Existing::Replace } else { Existing::Keep }
}

fn warn(adapter: &Adapter) {
    adapter.warnings.iter().for_each(|warning| render::warn(warning));
}

fn inspect(args: &LoraInspect) -> std::result::Result<(), Failure> {
    let model = args.model.as_deref().map(Model::open).transpose()?;
    let modules = match &model {
        Some(model) => adapter::modules_of(model.dit_weights.set()),
        None => adapter::modules_by_name(),
    };
    let adapter = Adapter::open(&args.path, &modules)?;
    let ground = model.map(|model| Ground::of(&model.dit_weights)).transpose()?;
    let Shown { text, mut json, warnings } = shown(&adapter, args.modules, ground.as_ref())?;
    warnings.iter().for_each(|warning| render::warn(warning));
    match args.json {
        true => {
            json["path"] = json!(args.path.to_string_lossy());
            json["warnings"] = json!(warnings);
            output::print_json(&json)?;
        }
        false => output::print(&text)?,
    }
    Ok(())
}

fn dialect(name: &str) -> Result<Dialect> {
    name.parse().map_err(|error: Error| error.at("--to"))
}

/// Adds an adapter to the files that are read.
pub fn reads(places: &mut Places, what: &str, path: &Path) {
    match path.is_dir() {
        true => places.reads_folder(format!("{what}, file"), path),
        false => places.reads(what, path),
    };
}

fn writes(places: &mut Places, dialect: Dialect, path: &Path) {
    match dialect {
        Dialect::Peft => places.writes_folder("--output", path),
        _ => places.writes("--output", path),
    };
}

fn convert(args: &LoraConvert) -> std::result::Result<(), Failure> {
    let dialect = dialect(&args.write.to)?;
    let mut places = Places::new();
    reads(&mut places, "the adapter", &args.path);
    writes(&mut places, dialect, &args.write.output);
    places.check()?;
    let modules = modules(args.write.model.as_deref())?;
    let mut adapter = Adapter::open(&args.path, &modules)?;
    adapter.require_matches(args.write.allow_unmatched)?;
    warn(&adapter);
    // It does what the one does that it was converted from.
    Part::say_made_of(&Part::all_of(&adapter, 1.0)?, &mut adapter.metadata);
    store(&adapter, dialect, &modules, &args.write.output, args.write.force)?;
    Ok(write_down_export("lora convert", &args.write.output)?)
}

fn store(
    adapter: &Adapter,
    dialect: Dialect,
    modules: &Modules,
    path: &Path,
    force: bool,
) -> std::result::Result<(), Failure> {
    let written = adapter::write(adapter, dialect, modules, path, existing(force))?;
    interrupt::say_swept();
    let (modules, size) = (plural(adapter.changes.len(), "module"), bytes(written.bytes));
    let tensors = plural(written.tensors, "tensor");
    output::print(&format!(
        "wrote {}: {modules} as {dialect}, {tensors}, {size}, read back and compared\n",
        path.display()
    ))?;
    Ok(())
}

fn combine(args: &LoraCombine) -> std::result::Result<(), Failure> {
    let dialect = dialect(&args.write.to)?;
    let wanted = wanted(&args.adapters)?;
    let mut places = Places::new();
    wanted.iter().for_each(|wanted| reads(&mut places, "the adapter", &wanted.path));
    writes(&mut places, dialect, &args.write.output);
    places.check()?;
    let modules = modules(args.write.model.as_deref())?;
    let mut adapters = Vec::new();
    for wanted in &wanted {
        let mut adapter = Adapter::open(&wanted.path, &modules)?;
        adapter.require_matches(args.write.allow_unmatched)?;
        warn(&adapter);
        adapters.push((adapter, wanted.scale));
    }
    warn_of_twice(&[], &used(&adapters)?.concat());
    warn_of_other_base(&adapters);
    let list: Vec<(&Adapter, f64)> = adapters.iter().map(|(a, s)| (a, *s)).collect();
    let joined = adapter::combined(&list, &modules)?;
    store(&joined, dialect, &modules, &args.write.output, args.write.force)?;
    Ok(write_down_export("lora combine", &args.write.output)?)
}

/// What each adapter puts into weights, with what that is called.
fn used(adapters: &[(Adapter, f64)]) -> Result<Vec<Vec<Used>>> {
    let named = adapters.iter().map(|(adapter, scale)| {
        let wanted = Wanted { path: adapter.path.clone(), scale: *scale };
        adapter::used(&wanted.to_string(), adapter, *scale)
    });
    named.collect()
}

/// Warns of adapters that were trained on another transformer than the first that says on which.
fn warn_of_other_base(adapters: &[(Adapter, f64)]) {
    let bases = adapters.iter().filter_map(|(adapter, _)| Some((adapter, base_of(adapter)?.model)));
    let bases: Vec<_> = bases.collect();
    let Some((first, model)) = bases.first() else { return };
    for (other, _) in bases.iter().filter(|(_, other)| other != model) {
        render::warn(&format!(
            "{} was trained on another transformer than {}: together they will not do what they were trained \
             for, unless that is the same one with the other adapters merged in",
            other.path.display(),
            first.path.display()
        ));
    }
}

/// Warns of adapters that count twice: beside each other, or as they are `merged` into the weights.
fn warn_of_twice(merged: &[Part], used: &[Used]) {
    for same in twice(merged, used, &[]) {
        render::warn(&format!("an adapter counts twice: {same}"));
    }
}

/// The adapters that were named, with their scales.
///
/// # Errors
/// E0377.
pub fn wanted(texts: &[String]) -> Result<Vec<Wanted>> {
    texts.iter().map(|text| Wanted::parse(text)).collect()
}

fn merge(args: &LoraMerge) -> std::result::Result<(), Failure> {
    let wanted = wanted(&args.adapters)?;
    let tolerance = Tolerance { unmatched: args.allow_unmatched, mismatch: args.allow_mismatch };
    let mut places = Places::new();
    wanted.iter().for_each(|wanted| reads(&mut places, "--lora", &wanted.path));
    match args.base.is_dir() {
        true => {
            // Errors of the folder come before those of places.
            ModelFolder::open(&args.base)?;
            places.reads_folder("the model, file", &args.base);
            places.writes_folder("--output", &args.output);
        }
        false => {
            places.reads("the checkpoint", &args.base);
            places.writes("--output", &args.output);
        }
    }
    places.check()?;
    let begun = Instant::now();
    let mut progress = Progress::new();
    progress.part("merge");
    let mut open = |modules: &Modules, ground: &Ground| {
        let open = |wanted: &Wanted| {
            let adapter = adapter::open(&wanted.path, modules, tolerance)?;
            Ok((adapter, wanted.scale))
        };
        let adapters = wanted.iter().map(open).collect::<Result<Vec<_>>>()?;
        let used = used(&adapters)?;
        for (at, (adapter, _)) in adapters.iter().enumerate() {
            warn(adapter);
            let beside = used.iter().enumerate().filter(|(other, _)| *other != at);
            let beside: Vec<Part> = beside.flat_map(|(_, used)| parts_of(used)).collect();
            other_base(adapter, ground, &beside).iter().for_each(|text| render::warn(text));
        }
        warn_of_twice(&ground.merged, &used.concat());
        Ok(adapters)
    };
    let to = (args.output.as_path(), existing(args.force), Beside::Everything);
    let merged = adapter::merge(&args.base, &mut open, to, &mut |done, total| {
        let time = begun.elapsed();
        progress.update(done, total, || {
            format!("{} of {}{}", bytes(done), bytes(total), left(time, done, total))
        });
    })?;
    progress.clear();
    interrupt::say_swept();
    output::print(&format!(
        "wrote {}: {} changed by {}, {} of weights, read back and compared, in {}\n",
        args.output.display(),
        plural(merged.changed, "tensor"),
        plural(wanted.len(), "adapter"),
        bytes(merged.bytes),
        duration(begun.elapsed())
    ))?;
    Ok(write_down_export("lora merge", &args.output)?)
}
