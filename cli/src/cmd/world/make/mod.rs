//! `world make`: a model of the drawn world from nothing, step by step as a recipe says.
//!
//! Contract: all of the recipe is checked before the first step. What is finished is skipped, what was
//! interrupted goes on, and after any interruption the same bytes come out. A gate that is missed ends
//! the work, and what came before it stays. Trainings are the stages of `train stages`; nothing is
//! trained, drawn, made or judged here that its own command does not do.

pub mod args;
pub mod pack;
mod reader;
mod recipe;
mod record;

use super::clips::prints;
use super::sample::MANIFEST;
use super::{eval, pairs, refuse_others, sample};
use crate::cmd::init;
use crate::cmd::train::stages::show_stage;
use crate::interrupt;
use crate::output::{self, duration, plural};
use crate::progress::Progress;
use anyid_runtime::checkpoint::hash_file;
use anyid_runtime::files::{AtomicFolder, Existing, make_folder};
use anyid_runtime::init::Preset;
use anyid_runtime::training::{StageEvent, lock, read_text};
use anyid_runtime::{Backend, Cancel, Error, Kind, Model, Result};
use args::Make;
use recipe::{Recipe, Step, Work};
use record::{Costs, Record, otherwise, put};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FULL: &str = include_str!("full.toml");
const QUICK: &str = include_str!("quick.toml");
/// The recipe in the folder.
const RECIPE: &str = "recipe.toml";
/// Largest recipe, in bytes.
const LARGEST: u64 = 1 << 20;

/// Runs the verb.
///
/// # Errors
/// As [`Recipe::read`]; E0823 for a folder of something else, E0961 where another program works in it,
/// E0969 and E0970 for gates, E0995 for what was made otherwise, E1002 when it was stopped; those of the
/// steps' own commands.
pub fn run(args: &Make) -> Result<()> {
    let own = args.output.join(RECIPE);
    let there = own.exists();
    let (text, path) = text(args, &own, there)?;
    let recipe = Recipe::read(&text, &path, &args.output, &device(args))?;
    let steps = until(args, &recipe, &path)?;
    if !there {
        refuse_others(&args.output, &[])?;
    } else if read_text(&own, LARGEST)? != text {
        return Err(Error::input("E0995", "the folder was begun with another recipe")
            .at(own.display())
            .help(
                "leave out --recipe, --quick and --seed to go on with it, or name another folder",
            ));
    }
    let backend = args.on.open()?;
    make_folder(&args.output)?;
    let _lock = lock(&args.output)?;
    interrupt::say_swept();
    if !there {
        put(&own, &text)?;
    }
    let cancel = Cancel::new();
    interrupt::graceful_without_limit(cancel.flag());
    interrupt::leaves(|| GOES_ON.to_owned());
    let costs = Costs::open(args.output.join("costs.jsonl"));
    let progress = Progress::new();
    let folder = &args.output;
    let mut work = Making { folder, recipe: &recipe, backend, cancel, progress, costs };
    let mut done = Vec::new();
    for (number, step) in (1..).zip(steps) {
        let head = format!("step {}, {number} of {}: {}", step.name, steps.len(), step.work.name());
        work.progress.note(&head);
        done.push(work.follow(step).map_err(resumable)?);
    }
    work.progress.clear();
    match args.json {
        true => output::print_json(&work.json(steps, &done)),
        false => output::print(&work.text(steps, &done)),
    }
}

/// The recipe's text with the seed that was given, and where it is from.
fn text(args: &Make, own: &Path, there: bool) -> Result<(String, PathBuf)> {
    let (text, path) = match (&args.recipe, args.quick) {
        (Some(path), _) => (read_text(path, LARGEST)?, path.clone()),
        (None, true) => (QUICK.to_owned(), own.to_owned()),
        (None, false) if there => (read_text(own, LARGEST)?, own.to_owned()),
        (None, false) => (FULL.to_owned(), own.to_owned()),
    };
    Ok((args.seed.map_or(text.clone(), |seed| seeded(&text, seed)), path))
}

/// A recipe with another seed: in its line, or in a new first one.
fn seeded(text: &str, seed: u64) -> String {
    let top = text.lines().take_while(|line| !line.trim_start().starts_with('['));
    let is_seed = |line: &&str| line.split('=').next().is_some_and(|key| key.trim() == "seed");
    match top.clone().find(is_seed) {
        Some(line) => text.replacen(line, &format!("seed = {seed}"), 1),
        None => format!("seed = {seed}\n{text}"),
    }
}

/// The flags of the device, for steps that have them.
fn device(args: &Make) -> Vec<String> {
    vec![format!("--device={}", args.on.device), format!("--threads={}", args.on.threads)]
}

/// The steps that are wanted.
fn until<'r>(args: &Make, recipe: &'r Recipe, path: &Path) -> Result<&'r [Step]> {
    let Some(name) = &args.until else { return Ok(&recipe.steps) };
    let at = recipe.steps.iter().position(|step| step.name == *name).ok_or_else(|| {
        let names: Vec<&str> = recipe.steps.iter().map(|step| step.name.as_str()).collect();
        Error::input("E0970", format!("there is no step \"{name}\""))
            .at(path.display())
            .help(format!("the steps are {}", names.join(", ")))
    })?;
    Ok(&recipe.steps[..=at])
}

/// What helps where it was interrupted.
const GOES_ON: &str = "the same command goes on from here";

/// An interruption, after which nothing but the same command is needed.
fn resumable(error: Error) -> Error {
    match error.code() {
        "E1002" => error.help(GOES_ON),
        _ => error,
    }
}

/// What a step came to.
struct Done {
    skipped: bool,
    report: Value,
}

/// A recipe that is followed.
struct Making<'m> {
    folder: &'m Path,
    recipe: &'m Recipe,
    backend: Backend,
    cancel: Cancel,
    progress: Progress,
    costs: Costs,
}

impl Making<'_> {
    /// Makes a step, unless it is finished, and checks its gates. What it took counts even if it fails.
    fn follow(&mut self, step: &Step) -> Result<Done> {
        if self.cancel.is_cancelled() {
            let what = format!("interrupted before step {}", step.name);
            return Err(Error::new(Kind::Interrupted, "E1002", what));
        }
        let (begun, before) = (Instant::now(), output::processor_time());
        let done = match &step.work {
            Work::Train => self.train(&step.name),
            _ => self.other(step),
        };
        if !done.as_ref().is_ok_and(|done| done.skipped) {
            let taken = output::processor_time().zip(before).map(|(now, before)| now - before);
            let added = self.costs.add(&step.name, taken.unwrap_or_default(), begun.elapsed());
            // Whoever was interrupted is told so.
            if done.is_ok() {
                added?;
            }
        }
        let done = done?;
        self.pass(step, &done.report)?;
        Ok(done)
    }

    /// A training, by the stages up to it; those before it are finished.
    fn train(&mut self, name: &str) -> Result<Done> {
        let progress = &mut self.progress;
        let reports =
            // Everybody in it is drawn.
            self.recipe.stages.run(&self.backend, None, Some(name), &self.cancel, &mut |event| {
                let known = matches!(event, StageEvent::Skipped { .. } | StageEvent::Begun { .. });
                if !known {
                    show_stage(progress, event);
                }
            })?;
        let report = reports.last().expect("the stage itself was run");
        let gates = report.gates.iter().map(|measured| {
            json!({"value": measured.gate.value, "step": measured.step, "found": measured.found})
        });
        let gates: Vec<Value> = gates.collect();
        let value = json!({"updates": report.updates, "gates": gates});
        Ok(Done { skipped: report.skipped, report: value })
    }

    /// Any other step.
    fn other(&mut self, step: &Step) -> Result<Done> {
        let folder = self.folder.join(&step.name);
        let now = made_of(step)?;
        if let Some(record) = Record::open(&folder)? {
            record.same(&now, &folder)?;
            unchanged(step, &record.report, &folder)?;
            return Ok(Done { skipped: true, report: record.report });
        }
        let report = match &step.work {
            Work::Sample(args) => {
                let mut report = sample::write(args, &mut self.progress)?.json(args);
                report.as_object_mut().map(|report| report.remove("manifest"));
                report
            }
            Work::Init(preset, seed) => self.init(&folder, *preset, *seed)?,
            Work::Pairs(args) => pairs::make(args, &self.cancel, &mut self.progress)?.lasting(),
            Work::Eval(args) => {
                make_folder(&folder)?;
                let outcome = eval::measure(args, &self.cancel, &mut self.progress)?;
                put(&folder.join("table.md"), &outcome.markdown)?;
                put(&folder.join("result.json"), &format!("{:#}\n", outcome.json))?;
                outcome.json
            }
            Work::Train => unreachable!("a training is a stage"),
        };
        Record::write(&folder, &now, &report)?;
        Ok(Done { skipped: false, report })
    }

    fn init(&mut self, folder: &Path, preset: Preset, seed: Option<u64>) -> Result<Value> {
        make_folder(folder)?;
        let path = folder.join("model");
        let made = AtomicFolder::create(&path, Existing::Overwrite)?;
        init::write(&made, (preset, seed), &mut self.progress)?;
        made.commit()?;
        Ok(json!({"weights": prints(&Model::open(path)?)?}))
    }

    /// Checks the gates of a step that is no training.
    fn pass(&mut self, step: &Step, report: &Value) -> Result<()> {
        for gate in &step.gates {
            let Step { name, .. } = step;
            let Some(found) = gate.find(report) else {
                let message =
                    format!("step {name} has a gate for {}, which it did not measure", gate.value);
                return Err(Error::input("E0970", message)
                    .at(self.folder.join(name).display())
                    .help("name a number of its report, such as arms.full.large.value, or pairs"));
            };
            let said = format!("{} is {found}, to be {}", gate.value, gate.bounds());
            if !gate.keeps(found) {
                return Err(Error::input("E0969", format!("step {name} missed a gate: {said}"))
                    .at(self.folder.join(name).display())
                    .help(format!(
                        "what was made before it is as it was; move the bound in {}, or change a \
                         step, and remove its folder and those of the steps behind it",
                        self.folder.join(RECIPE).display()
                    )));
            }
            self.progress.note(&said);
        }
        Ok(())
    }

    /// The last model that was made.
    fn model(&self, steps: &[Step]) -> Option<PathBuf> {
        let model = |step: &Step| match step.work {
            Work::Train => Some(Recipe::trained(self.folder, &step.name)),
            Work::Init(..) => Some(self.folder.join(&step.name).join("model")),
            _ => None,
        };
        steps.iter().rev().find_map(model)
    }

    fn json(&self, steps: &[Step], done: &[Done]) -> Value {
        let list = steps.iter().zip(done).map(|(step, done)| {
            let [processor, clock] = self.costs.of(&step.name);
            json!({
                "name": step.name, "do": step.work.name(), "skipped": done.skipped,
                "processor_seconds": processor, "seconds": clock, "report": done.report,
            })
        });
        let list: Vec<Value> = list.collect();
        let model = self.model(steps).map(|model| model.display().to_string());
        json!({"steps": list, "model": model})
    }

    fn text(&self, steps: &[Step], done: &[Done]) -> String {
        let time = |seconds: f64| duration(Duration::from_secs_f64(seconds));
        let row = |name: &str, what: &str, took: [f64; 2], before: &str| {
            vec![name.to_owned(), what.to_owned(), time(took[0]), time(took[1]), before.to_owned()]
        };
        let mut rows = vec![["step", "", "processor", "clock", ""].map(str::to_owned).to_vec()];
        let mut sum = [0.0; 2];
        for (step, done) in steps.iter().zip(done) {
            let took = self.costs.of(&step.name);
            sum = [sum[0] + took[0], sum[1] + took[1]];
            rows.push(row(
                &step.name,
                step.work.name(),
                took,
                if done.skipped { "before" } else { "" },
            ));
        }
        rows.push(row("together", "", sum, ""));
        let mut text = output::table(&rows);
        let measured = |step: &&Step| matches!(step.work, Work::Eval(_));
        if let Some(step) = steps.iter().rev().find(measured) {
            let folder = self.folder.join(&step.name);
            let [table, sheet] = ["table.md", "sheet.png"].map(|name| folder.join(name));
            text.push_str(&format!("measured: {}, {}\n", table.display(), sheet.display()));
        }
        if let Some(model) = self.model(steps) {
            let count = plural(steps.len(), "step");
            text.push_str(&format!("{} is the model of {count}\n", model.display()));
        }
        text
    }
}

/// What decides what a step makes.
fn made_of(step: &Step) -> Result<Value> {
    let mut value = json!({"do": step.work.name(), "flags": step.flags});
    match &step.work {
        Work::Pairs(args) => value["weights"] = json!(prints(&args.weights.weights()?.open()?)?),
        Work::Eval(args) => value["weights"] = eval::models_are(args)?,
        Work::Sample(args) => value["world"] = json!(args.draw.world().to_string()),
        Work::Init(..) | Work::Train => {}
    }
    Ok(value)
}

/// Refuses a finished step whose result was changed since.
fn unchanged(step: &Step, report: &Value, folder: &Path) -> Result<()> {
    let (what, found, kept) = match &step.work {
        Work::Sample(_) | Work::Pairs(_) => {
            let found = json!(hash_file(folder.join(MANIFEST))?);
            ("SHA-256 of the manifest", found, &report["sha256"])
        }
        Work::Init(..) => {
            let found = json!(prints(&Model::open(folder.join("model"))?)?);
            ("digests of the model", found, &report["weights"])
        }
        Work::Eval(_) | Work::Train => return Ok(()),
    };
    match found == *kept {
        true => Ok(()),
        false => Err(otherwise(&format!("\n  {what}: {kept}, now {found}"), folder)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_recipes_can_be_followed() {
        let folder = Path::new("out");
        for (text, last) in [(FULL, "preferences"), (QUICK, "report")] {
            let recipe = Recipe::read(text, Path::new("recipe.toml"), folder, &[]).unwrap();
            assert_eq!(recipe.steps.last().unwrap().name, last);
            let trainings = recipe.steps.iter().filter(|step| matches!(step.work, Work::Train));
            let names: Vec<&str> = trainings.map(|step| step.name.as_str()).collect();
            let stages: Vec<&str> =
                recipe.stages.list.iter().map(|stage| stage.name.as_str()).collect();
            assert_eq!(names, stages);
            for kind in ["text", "frames", "vae", "images", "clips", "tuned", "preferred"] {
                assert!(names.contains(&kind), "{kind} is missing: {names:?}");
            }
        }
    }

    #[test]
    fn another_seed_takes_the_place_of_the_recipes() {
        let step = "[[step]]\nname = \"a\"\nseed = 9\n";
        assert_eq!(seeded(&format!("seed = 1\n{step}"), 5), format!("seed = 5\n{step}"));
        assert_eq!(seeded(step, 5), format!("seed = 5\n{step}"));
        let text = format!("# seed = 3\nseed=2\n{step}");
        assert_eq!(seeded(&text, 5), format!("# seed = 3\nseed = 5\n{step}"));
    }
}
