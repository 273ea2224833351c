//! The lines of `--jobs`: JSON objects whose keys are flags of `generate`, in the same words.
//!
//! A line is read by the parser of the command line, on top of the flags that the command has, so that
//! a flag means the same in both places. Every fault of every line is noted. Which model and device are
//! used is the command's business alone.

use crate::cmd::generate::args::{Generate, Seed, Seeds};
use anyid_ir::spelling::nearest;
use anyid_runtime::error::{plural, unreadable};
use anyid_runtime::input;
use anyid_runtime::{Error, Result};
use clap::{Args, Command, FromArgMatches};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Largest file of jobs, in bytes.
const LARGEST: u64 = 64 << 20;
/// Faults that are listed.
const LISTED: usize = 50;
/// Flags that a line may have, as keys with `_` or `-`.
const KEYS: [&str; 26] = [
    "ref",
    "first-frame",
    "prompt",
    "negative-prompt",
    "output",
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
    "seeds",
    "noise",
    "precision",
    "residual",
    "tile",
    "save-latents",
    "codec",
    "quality",
    "pix-format",
];

/// One video that is to be made.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Its name: the id of its line, with the seed where there are several.
    pub(super) name: String,
    /// Its line, from 1.
    pub(super) line: usize,
    /// Flags of a command that makes it alone; its output among them.
    pub(super) args: Generate,
    /// Where the video goes.
    pub(super) output: PathBuf,
}

/// What is wrong with a line.
pub(super) type Fault = (usize, String);

/// The jobs of a command without a file of them: one for each of its seeds.
pub(super) fn of_seeds(args: &Generate) -> Vec<Job> {
    let output = args.output.clone().unwrap_or_default();
    let args = Generate { resume: Some(None), ..args.clone() };
    spread(Job { name: String::new(), line: 1, args, output })
}

/// The jobs of the lines of a file, and what is wrong with lines.
///
/// # Errors
/// E0911 where the file cannot be read, E1303 for one without lines or that is not text.
pub(super) fn read(path: &Path, base: &Generate) -> Result<(Vec<Job>, Vec<Fault>)> {
    let no_jobs = |what: String| {
        Error::input("E1303", what).at(path.display()).help(
            "a line is an object such as {\"id\": \"a\", \"ref\": [\"me.jpg\"], \"prompt\": \"…\"}",
        )
    };
    let large = |limit| no_jobs(format!("a file of jobs does not have more than {limit} bytes"));
    let bytes = input::read(path, LARGEST)
        .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
    let text = String::from_utf8(bytes)
        .map_err(|fault| no_jobs(format!("this is not UTF-8 text: {}", fault.utf8_error())))?;
    let (mut jobs, mut faults) = (Vec::new(), Vec::new());
    let (mut names, mut outputs) = (HashMap::new(), HashMap::<PathBuf, usize>::new());
    let mut any = false;
    for (line, text) in (1..).zip(text.lines()) {
        if text.trim().is_empty() {
            continue;
        }
        any = true;
        let mut notes = Vec::new();
        let job = Line { line, base }.job(text, &mut notes);
        for job in job.into_iter().flat_map(spread) {
            if let Some(first) = names.insert(job.name.clone(), line) {
                notes.push(format!("its name \"{}\" is also that of line {first}", job.name));
            }
            if let Some(first) = outputs.insert(job.output.clone(), line) {
                let output = job.output.display();
                notes.push(format!("its video {output} is also that of line {first}"));
            }
            jobs.push(job);
        }
        faults.extend(notes.into_iter().map(|what| (line, what)));
    }
    match any {
        true => Ok((jobs, faults)),
        false => Err(no_jobs("the file has no lines".to_owned())),
    }
}

/// The error of lines that cannot be made.
pub(super) fn refused(mut faults: Vec<Fault>, path: Option<&Path>) -> Error {
    faults.sort();
    let mut lines: Vec<usize> = faults.iter().map(|(line, _)| *line).collect();
    lines.dedup();
    let mut message = match path {
        Some(_) => format!("{} cannot be made", plural(lines.len(), "line")),
        None => "the videos cannot be made".to_owned(),
    };
    for (line, what) in faults.iter().take(LISTED) {
        let what = what.replace('\n', "\n    ");
        match path {
            Some(_) => message.push_str(&format!("\n  line {line}: {what}")),
            None => message.push_str(&format!("\n  {what}")),
        }
    }
    if faults.len() > LISTED {
        message.push_str(&format!("\n  … and {} more faults", faults.len() - LISTED));
    }
    let error = Error::input("E1303", message);
    let error = match path {
        Some(path) => error.at(path.display()),
        None => error,
    };
    error.help("mend what is listed: no video was begun")
}

/// A job for each of its seeds.
fn spread(job: Job) -> Vec<Job> {
    let Some(Seeds(seeds)) = job.args.seeds.clone() else { return vec![job] };
    let one = |seed: &u64| {
        let (seed, mut own) = (*seed, job.clone());
        own.name = match job.name.as_str() {
            "" => format!("seed{seed}"),
            name => format!("{name}-seed{seed}"),
        };
        own.output = with_seed(&job.output, seed);
        let latents = own.args.save_latents.as_deref().map(|path| with_seed(path, seed));
        own.args.save_latents = latents;
        own.args.seeds = None;
        own.args.seed = Some(Seed::Number(seed));
        own.args.output = Some(own.output.clone());
        own
    };
    seeds.iter().map(one).collect()
}

/// A name with the seed in front of its ending.
fn with_seed(path: &Path, seed: u64) -> PathBuf {
    let clean: PathBuf = path.components().collect();
    let mut name = clean.file_stem().unwrap_or_default().to_os_string();
    name.push(format!("-seed{seed}"));
    if let Some(ending) = clean.extension() {
        name.push(".");
        name.push(ending);
    }
    clean.with_file_name(name)
}

/// A line, and the flags that hold for all lines.
struct Line<'b> {
    line: usize,
    base: &'b Generate,
}

impl Line<'_> {
    fn job(&self, text: &str, notes: &mut Vec<String>) -> Option<Job> {
        let fields = match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => {
                notes.push("this is not a JSON object".to_owned());
                return None;
            }
            Err(fault) => {
                let what = fault.to_string();
                let what = what.split(" at line ").next().unwrap_or_default();
                notes.push(format!("this is not JSON: {what}, at column {}", fault.column()));
                return None;
            }
        };
        let name = self.name(&fields, notes);
        let words = words(&fields, &KEYS, notes);
        let args = self.args(&fields, words, notes)?;
        if args.prompt.is_none() {
            notes.push("\"prompt\" is missing, and the command has no --prompt".to_owned());
        }
        let output = self.output(&fields, &name, notes);
        // A video that was interrupted is gone on with, whatever is left of many.
        let resume = Some(None);
        let args = Generate { output: Some(output.clone()), jobs: None, resume, ..args };
        notes.is_empty().then_some(Job { name, line: self.line, args, output })
    }

    /// The id, or one made of the number of the line.
    fn name(&self, fields: &Map<String, Value>, notes: &mut Vec<String>) -> String {
        let named = |text: &str| {
            let plain = |c: char| c.is_alphanumeric() || "_-. ".contains(c);
            !text.is_empty()
                && text.len() <= 128
                && !text.starts_with('.')
                && text.chars().all(plain)
        };
        match fields.get("id") {
            None | Some(Value::Null) => format!("job-{:05}", self.line),
            Some(Value::String(text)) if named(text) => text.clone(),
            Some(other) => {
                let what =
                    "at most 128 letters, digits, spaces, _, - and dots that do not begin it";
                notes.push(format!("\"id\" is {other}: use {what}"));
                String::new()
            }
        }
    }

    /// The flags of the command with those of the line over them.
    fn args(
        &self,
        fields: &Map<String, Value>,
        mut words: Vec<String>,
        notes: &mut Vec<String>,
    ) -> Option<Generate> {
        // As every job goes on, so that what only new videos need may come from the command.
        words.push("--resume".to_owned());
        let command = Generate::augment_args_for_update(Command::new("job"));
        let command = command.no_binary_name(true).disable_help_flag(true);
        let base = self.base;
        let mut own = base.clone();
        let read = command.try_get_matches_from(words);
        if let Err(fault) = read.and_then(|found| own.update_from_arg_matches(&found)) {
            let text = fault.to_string();
            // Up to the usage, which is that of the command.
            let lines: Vec<&str> =
                text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
            notes.push(lines.join(" ").trim_start_matches("error: ").to_owned());
            return None;
        }
        // What the command alone decides; switches that a line does not have would be off.
        own.on.clone_from(&base.on);
        own.safeguards.clone_from(&base.safeguards);
        own.no_recipe_inside = base.no_recipe_inside;
        own.force = base.force;
        own.allow_unmatched = base.allow_unmatched;
        own.allow_mismatch = base.allow_mismatch;
        own.dry_run = base.dry_run;
        own.json = base.json;
        // A line that says one thing in one way takes back what the command says in another.
        let has = |key: &str| fields.keys().any(|own| flag(own) == key);
        if has("seed") || has("noise") {
            own.seeds = None;
        }
        if has("seeds") || has("noise") {
            own.seed = None;
        }
        if has("sigmas") {
            (own.steps, own.shift, own.schedule) = (None, None, None);
        } else if ["steps", "shift", "schedule"].iter().any(|key| has(key)) {
            own.sigmas = Vec::new();
        }
        Some(own)
    }

    /// Where the video goes: what the line says, or its name, in the folder of the command.
    fn output(&self, fields: &Map<String, Value>, name: &str, notes: &mut Vec<String>) -> PathBuf {
        let folder = self.base.output.as_deref();
        match (fields.get("output").and_then(Value::as_str), folder) {
            (Some(output), Some(folder)) => folder.join(output),
            (Some(output), None) => PathBuf::from(output),
            (None, Some(folder)) => folder.join(format!("{name}.mp4")),
            (None, None) => {
                let what = "there is no \"output\", and no folder for it: -o FOLDER";
                notes.push(what.to_owned());
                PathBuf::new()
            }
        }
    }
}

/// The flag that a key means.
fn flag(key: &str) -> String {
    key.replace('_', "-")
}

/// An object as words of a command line; what is wrong with it is noted.
pub(super) fn words(
    fields: &Map<String, Value>,
    keys: &[&str],
    notes: &mut Vec<String>,
) -> Vec<String> {
    let mut words = Vec::new();
    for (key, value) in fields.iter().filter(|(key, value)| *key != "id" && !value.is_null()) {
        let flag = flag(key);
        if !keys.contains(&flag.as_str()) {
            let near = nearest(&flag, keys.iter().copied());
            let near = near.map_or_else(String::new, |near| format!("; is it \"{near}\"?"));
            notes.push(format!("\"{key}\" is not a flag that may stand here{near}"));
            continue;
        }
        let word = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let several = matches!(flag.as_str(), "ref" | "sigmas" | "seeds");
        let list = match value {
            Value::Array(list) if several => list.iter().map(word).collect::<Option<Vec<_>>>(),
            other => word(other).map(|word| vec![word]),
        };
        match list {
            // One word, so that a value may begin with a dash or hold a comma.
            Some(list) if flag == "ref" => {
                words.extend(list.iter().map(|word| format!("--{flag}={word}")));
            }
            Some(list) => words.push(format!("--{flag}={}", list.join(","))),
            None => {
                let what =
                    if several { "text, a number or a list of these" } else { "text or a number" };
                notes.push(format!("\"{key}\" is {value}, not {what}"));
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_stand_in_front_of_endings() {
        for (path, name) in [
            ("a/out.mp4", "a/out-seed7.mp4"),
            ("frames/", "frames-seed7"),
            ("x.y.gif", "x.y-seed7.gif"),
        ] {
            assert_eq!(with_seed(Path::new(path), 7), Path::new(name));
        }
    }

    #[test]
    fn every_key_is_a_flag() {
        let command = Generate::augment_args(Command::new("x"));
        let flags: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        for key in KEYS {
            assert!(flags.contains(&key), "{key}");
        }
    }
}
