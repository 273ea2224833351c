//! Steps of a recipe, read one behind the other.
//!
//! What a step does is said by the flags of its command, as keys of a table, and checked by the parser of
//! these flags. Names of steps stand for what they make: where a model is wanted, its folder.

use super::recipe::{HELP, Recipe, Step, TAKEN, Work};
use crate::args::{Cli, Command};
use crate::cmd::world::args::{Sample, WorldVerb};
use crate::cmd::world::{eval, pairs, sample};
use crate::hints;
use anyid_runtime::training::Gate;
use anyid_runtime::{Error, Result};
use clap::Parser;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Flags that are not for a recipe.
const DECIDED: [&str; 9] =
    ["output", "force", "json", "keep", "sheet", "device", "threads", "lora", "help"];

fn wrong(message: String, help: &str) -> Error {
    Error::input("E0970", message).help(help)
}

/// Reads steps one behind the other.
pub struct Reader<'r> {
    folder: &'r Path,
    seed: u64,
    settings: Table,
    device: &'r [String],
    /// What was read.
    pub steps: Vec<Step>,
    /// Steps that make a model, and where it lies.
    models: Vec<(String, PathBuf)>,
    /// Steps that make a judge, and where it lies.
    judges: Vec<(String, PathBuf)>,
    /// The one that the first training begins with.
    pub first: Option<(String, PathBuf)>,
    /// The trainings, as stages.
    pub stages: Vec<Table>,
}

impl<'r> Reader<'r> {
    /// A reader of a recipe that is followed in `folder`, with the seed and the settings of steps that
    /// have none of their own.
    pub fn new(folder: &'r Path, seed: u64, settings: Table, device: &'r [String]) -> Self {
        let (models, judges) = (Vec::new(), Vec::new());
        let (steps, stages) = (Vec::new(), Vec::new());
        Self { folder, seed, settings, device, steps, models, judges, first: None, stages }
    }

    /// Reads the next step.
    ///
    /// # Errors
    /// E0955 and E0970, and those of the step's command.
    pub fn step(&mut self, name: String, mut table: Table) -> Result<()> {
        table.remove("name");
        self.check_name(&name)?;
        let what = table.remove("do");
        let what = what.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        if what == "train" {
            return self.train(name, table);
        }
        let mut gates = Vec::new();
        if let Some(list) = table.remove("gate") {
            let read = |error: toml::de::Error| {
                Error::input("E0955", error.message().to_owned()).at("gate").help(HELP)
            };
            gates = list.try_into::<Vec<Gate>>().map_err(read)?;
        }
        let late = |gate: &Gate| {
            let what = |at| format!("at = {at} is for the gates of trainings");
            gate.at.map(|at| (what(at), "leave it out".to_owned()))
        };
        let mut faults = gates.iter().map(|gate| gate.wrong().or_else(|| late(gate)));
        if let Some((fault, help)) = faults.find_map(|fault| fault) {
            return Err(wrong(fault, &help));
        }
        let output = self.folder.join(&name);
        let (work, flags) = match what.as_str() {
            "sample" => {
                let (flags, command) = self.command(&["world", "sample"], table, true, &output)?;
                let Command::World(WorldVerb::Sample(args)) = command else { unreachable!() };
                // A folder without a record was not finished.
                let args = Sample { force: true, ..args };
                sample::check(&args)?;
                (Work::Sample(Box::new(args)), flags)
            }
            "init" => self.init(&name, table, &output)?,
            "pairs" => {
                let model = self.model(&mut table)?;
                let (flags, command) = self.command(&["world", "pairs"], table, true, &output)?;
                let Command::World(WorldVerb::Pairs(mut args)) = command else { unreachable!() };
                args.weights.model = Some(model);
                pairs::check(&args)?;
                (Work::Pairs(args), flags)
            }
            "eval" => {
                let model = self.model(&mut table)?;
                let (flags, command) = self.command(&["world", "eval"], table, false, &output)?;
                let Command::World(WorldVerb::Eval(mut args)) = command else { unreachable!() };
                args.weights.model = Some(model);
                for arm in &mut args.more {
                    *arm = self.arm(arm)?;
                }
                if let Some(judge) = &mut args.judge {
                    *judge = found(&self.judges, &judge.to_string_lossy(), "a judge")?;
                }
                args.keep = Some(output.join("verdicts.jsonl"));
                args.sheet = Some(output.join("sheet.png"));
                args.force = true;
                args.arms()?;
                eval::cases(&args)?;
                (Work::Eval(args), flags)
            }
            _ => {
                let message = format!("`do` is \"{what}\"");
                let help = "do is \"sample\", \"init\", \"train\", \"pairs\" or \"eval\"";
                return Err(Error::input("E0955", message).help(help));
            }
        };
        self.steps.push(Step { name, work, flags, gates });
        Ok(())
    }

    fn check_name(&self, name: &str) -> Result<()> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            let message = format!("\"{name}\" is no name of a step");
            return Err(wrong(message, "take at most 64 letters, digits, _ and -"));
        }
        let same = |other: &str| name.eq_ignore_ascii_case(other);
        if TAKEN.into_iter().any(same) || self.steps.iter().any(|step| same(&step.name)) {
            return Err(wrong(format!("the name \"{name}\" is taken"), "give it another name"));
        }
        Ok(())
    }

    fn init(&mut self, name: &str, mut table: Table, output: &Path) -> Result<(Work, Vec<String>)> {
        if let Some((first, _)) = &self.first {
            let message = format!("there are two models to begin with, {first} and {name}");
            return Err(wrong(message, "write one step with do = \"init\""));
        }
        table.entry("preset").or_insert_with(|| Value::String("world".to_owned()));
        let output = output.join("model");
        // The built-in model has no seed.
        let random =
            table.get("random_weights").is_some_and(|value| value == &Value::Boolean(true));
        let seeded =
            random || table.get("preset").is_some_and(|name| name.as_str() != Some("micro"));
        let (flags, command) = self.command(&["init"], table, seeded, &output)?;
        let Command::Init(args) = command else { unreachable!() };
        let made = (name.to_owned(), output);
        self.models.push(made.clone());
        self.first = Some(made);
        let (preset, seed) = args.weights()?;
        Ok((Work::Init(preset, seed), flags))
    }

    /// A training is a stage, with the settings of all stages where it has none of its own.
    fn train(&mut self, name: String, mut table: Table) -> Result<()> {
        let Some((first, _)) = &self.first else {
            let help = "write a step with do = \"init\" before the first training";
            return Err(wrong("there is no model to begin with".to_owned(), help));
        };
        if let Some(Value::String(model)) = table.get_mut("model")
            && model == first
        {
            *model = "start".to_owned();
        }
        table.insert("name".to_owned(), Value::String(name.clone()));
        if let Some(Value::Table(own)) = table.get_mut("settings") {
            for (section, keys) in &self.settings {
                match (own.get_mut(section), keys) {
                    (None, keys) => drop(own.insert(section.clone(), keys.clone())),
                    (Some(Value::Table(own)), Value::Table(keys)) => {
                        for (key, value) in keys {
                            own.entry(key).or_insert_with(|| value.clone());
                        }
                    }
                    _ => {}
                }
            }
            let train = own.entry("train").or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(train) = train {
                train.entry("seed").or_insert(Value::Integer(self.seed as i64));
            }
        }
        let set = || table.get("settings")?.get("train")?.get("network");
        if table.get("network").or_else(set).and_then(Value::as_str) == Some("judge") {
            self.judges.push((name.clone(), Recipe::run(self.folder, &name)));
        }
        self.models.push((name.clone(), Recipe::trained(self.folder, &name)));
        self.stages.push(table);
        self.steps.push(Step { name, work: Work::Train, flags: Vec::new(), gates: Vec::new() });
        Ok(())
    }

    /// The model that a step is about: the one that it names, or the last before it.
    fn model(&self, table: &mut Table) -> Result<PathBuf> {
        match table.remove("model") {
            Some(Value::String(name)) => found(&self.models, &name, "a model"),
            Some(_) => Err(Error::input("E0955", "model is no name of a step").help(HELP)),
            None => self.models.last().map(|(_, folder)| folder.clone()).ok_or_else(|| {
                wrong(
                    "there is no model yet".to_owned(),
                    "write a step with do = \"init\" before it",
                )
            }),
        }
    }

    /// `NAME=STEP` with the folder of the step's model.
    fn arm(&self, text: &str) -> Result<String> {
        let (name, step) = text.split_once('=').unwrap_or((text, ""));
        Ok(format!("{name}={}", found(&self.models, step, "a model")?.display()))
    }

    /// The flags of a table, and the command that they make.
    fn command(
        &self,
        verb: &[&str],
        mut table: Table,
        seeded: bool,
        output: &Path,
    ) -> Result<(Vec<String>, Command)> {
        if seeded {
            table.entry("seed").or_insert(Value::Integer(self.seed as i64));
        }
        let flags = flags(&table)?;
        let output = output.to_string_lossy().into_owned();
        let mut more = self.device.to_vec();
        match verb {
            ["init"] => more = vec![output],
            [_, "eval"] => {}
            // Painting has no device, but threads.
            [_, "sample"] => {
                more.retain(|flag| flag.starts_with("--threads"));
                more.push(format!("--output={output}"));
            }
            _ => more.push(format!("--output={output}")),
        }
        let words = ["anyid-rt"].iter().chain(verb).map(|word| (*word).to_owned());
        let cli = Cli::try_parse_from(words.chain(flags.clone()).chain(more));
        let cli = cli.map_err(|error| {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            let message = line.strip_prefix("error: ").unwrap_or(line).to_owned();
            let advice = hints::advice(&error);
            let usual = format!("keys are the flags of `{}`", verb.join(" "));
            Error::input("E0955", message).help(advice.unwrap_or(usual))
        })?;
        Ok((flags, cli.command))
    }
}

/// What the step called `name` made, of those that made `what`.
fn found(made: &[(String, PathBuf)], name: &str, what: &str) -> Result<PathBuf> {
    let step = made.iter().find(|(other, _)| other == name);
    step.map(|(_, path)| path.clone()).ok_or_else(|| {
        let names: Vec<&str> = made.iter().map(|(name, _)| name.as_str()).collect();
        let help = match names.as_slice() {
            [] => format!("no step before it makes {what}"),
            names => format!("those before it are {}", names.join(", ")),
        };
        wrong(format!("\"{name}\" is no earlier step that makes {what}"), &help)
    })
}

/// Keys and values as flags; a list gives a flag several times.
fn flags(table: &Table) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for (key, value) in table {
        let flag = format!("--{}", key.replace('_', "-"));
        if DECIDED.contains(&&flag[2..]) {
            let help = "leave it out: the recipe decides it";
            return Err(wrong(format!("{key} is not for a recipe"), help));
        }
        let list = match value {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in list {
            out.push(match value {
                Value::Boolean(true) => flag.clone(),
                Value::Boolean(false) => continue,
                Value::String(text) => format!("{flag}={text}"),
                Value::Integer(number) => format!("{flag}={number}"),
                Value::Float(number) => format!("{flag}={number}"),
                _ => {
                    let message = format!("{key} is no text, number or list of these");
                    return Err(Error::input("E0955", message).help(HELP));
                }
            });
        }
    }
    Ok(out)
}
