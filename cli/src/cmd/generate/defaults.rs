//! Defaults of `generate` from a file: TOML whose table `generate` has flags as keys.
//!
//! A flag of the command comes before the file, and the file before what the model was made for. A recipe,
//! latents and states say everything about their run, so the file is not read for them. What is taken of it
//! is in the recipe like any other setting.

use super::args::Generate;
use super::lines::words;
use crate::output;
use anyid_runtime::error::{plural, unreadable};
use anyid_runtime::input;
use anyid_runtime::{Error, Result};
use clap::{Args, Command, FromArgMatches};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Largest file of defaults, in bytes.
const LARGEST: u64 = 1 << 20;
/// Flags that may have a default.
const KEYS: [&str; 27] = [
    "model",
    "transformer",
    "text-encoder",
    "vae",
    "tokenizer",
    "negative-prompt",
    "size",
    "frames",
    "fps",
    "steps",
    "sigmas",
    "shift",
    "guidance",
    "guidance-interval",
    "cache",
    "solver",
    "schedule",
    "seed",
    "precision",
    "residual",
    "budget",
    "tile",
    "codec",
    "quality",
    "pix-format",
    "preview",
    "preview-every",
];

/// The command with the defaults of its file, if there is one.
///
/// # Errors
/// E1310 for a file with faults, E0911 for one that is named and cannot be read.
pub(super) fn filled(args: Generate) -> Result<Generate> {
    let complete = args.recipe.is_some() || args.latents.is_some();
    if complete || (args.resume.is_some() && args.prompt.is_none() && args.jobs.is_none()) {
        return Ok(args);
    }
    let path = match (&args.config, usual()) {
        (Some(path), _) => path.clone(),
        (None, Some(path)) if path.exists() => path,
        (None, _) => return Ok(args),
    };
    let from = read(&path)?;
    if !output::quiet() {
        output::note(&format!("defaults from {}", path.display()));
    }
    Ok(over(args, from))
}

/// Where the file is looked for.
fn usual() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")));
    Some(folder?.join("anyid-rt").join("config.toml"))
}

/// The defaults of a file, as a command that has them all.
fn read(path: &Path) -> Result<Generate> {
    let bad = |what: String| {
        Error::input("E1310", what).at(path.display()).help(
            "write a table of flags: [generate], then lines such as steps = 30 or size = \"832x480\"",
        )
    };
    let large = |limit| bad(format!("a file of defaults does not have more than {limit} bytes"));
    let bytes = input::read(path, LARGEST)
        .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
    let text = String::from_utf8(bytes).map_err(|_| bad("this is not UTF-8 text".to_owned()))?;
    let table: toml::Table = toml::from_str(&text)
        .map_err(|fault| bad(format!("this is not TOML: {}", fault.message())))?;
    let mut notes: Vec<String> = table
        .keys()
        .filter(|key| *key != "generate")
        .map(|key| format!("\"{key}\" is not known: defaults stand in the table [generate]"))
        .collect();
    let fields = table.get("generate").map(serde_json::to_value).transpose();
    let fields = fields.map_err(|fault| bad(fault.to_string()))?.unwrap_or_default();
    let none = serde_json::Map::new();
    let fields = match &fields {
        Value::Null => &none,
        Value::Object(fields) => fields,
        _ => return Err(bad("\"generate\" is not a table".to_owned())),
    };
    let mut list = words(fields, &KEYS, &mut notes);
    // What a command must have, and a file of defaults does not give.
    list.extend(["--prompt=", "--output=x"].map(str::to_owned));
    let command = Generate::augment_args(Command::new("defaults"));
    let command = command.no_binary_name(true).disable_help_flag(true);
    let made = command.try_get_matches_from(list).and_then(|m| Generate::from_arg_matches(&m));
    let made = made.map_err(|fault| {
        let text = fault.to_string();
        let first = text.lines().next().unwrap_or_default();
        notes.push(first.trim_start_matches("error: ").to_owned());
    });
    match (made, notes.is_empty()) {
        (Ok(made), true) => Ok(made),
        _ => {
            let faults = plural(notes.len(), "fault");
            Err(bad(format!("the file has {faults}:\n  {}", notes.join("\n  "))))
        }
    }
}

/// `args` with what `from` says where they say nothing.
fn over(mut args: Generate, from: Generate) -> Generate {
    // One way to say which noise levels takes back the other.
    let scheduled = args.steps.is_some() || args.shift.is_some() || args.schedule.is_some();
    let levels = !args.sigmas.is_empty();
    if !scheduled && !levels {
        args.sigmas = from.sigmas;
    }
    if !levels {
        args.steps = args.steps.or(from.steps);
        args.shift = args.shift.or(from.shift);
        args.schedule = args.schedule.or(from.schedule);
    }
    if args.noise.is_none() && args.seeds.is_none() {
        args.seed = args.seed.or(from.seed);
    }
    // The parts of a model go together.
    if args.parts().is_empty() {
        args.model = from.model;
        args.transformer = from.transformer;
        args.text_encoder = from.text_encoder;
        args.vae = from.vae;
        args.tokenizer = from.tokenizer;
    }
    if args.codec.is_none() && args.quality.is_none() && args.pix_format.is_none() {
        args.codec = from.codec;
        args.quality = from.quality;
        args.pix_format = from.pix_format;
    }
    args.preview_every =
        args.preview_every.or(from.preview_every.filter(|_| args.preview.is_some()));
    if args.preview.is_none() {
        (args.preview, args.preview_every) = (from.preview, from.preview_every);
    }
    args.negative_prompt = args.negative_prompt.or(from.negative_prompt);
    args.size = args.size.or(from.size);
    args.frames = args.frames.or(from.frames);
    args.fps = args.fps.or(from.fps);
    args.guidance = args.guidance.or(from.guidance);
    args.guidance_interval = args.guidance_interval.or(from.guidance_interval);
    args.cache = args.cache.or(from.cache);
    args.solver = args.solver.or(from.solver);
    args.precision = args.precision.or(from.precision);
    args.residual = args.residual.or(from.residual);
    args.budget = args.budget.or(from.budget);
    args.tile = args.tile.or(from.tile);
    args
}
