//! Recipes: steps that make a model, read and checked before the first one.
//!
//! A training is a stage of `train stages`; what other steps are is for `reader.rs`. Nothing is written
//! here.

use super::reader::Reader;
use crate::cmd::world::args::Sample;
use crate::cmd::world::eval::args::Eval;
use crate::cmd::world::pairs::args::Pairs;
use crate::cmd::world::sample::MANIFEST;
use anyid_runtime::init::Preset;
use anyid_runtime::training::{Gate, Stages};
use anyid_runtime::{Error, Result};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// A recipe that can be followed.
pub struct Recipe {
    /// In their order.
    pub steps: Vec<Step>,
    /// The trainings among them.
    pub stages: Stages,
}

/// A step.
pub struct Step {
    /// Its name, and that of its folder.
    pub name: String,
    /// What it does.
    pub work: Work,
    /// The flags that say how.
    pub flags: Vec<String>,
    /// What its report has to keep; the gates of a training are those of its stage.
    pub gates: Vec<Gate>,
}

/// What a step does.
pub enum Work {
    /// Writes samples.
    Sample(Box<Sample>),
    /// Writes the model that the first training begins with; one without a seed is the built-in model.
    Init(Preset, Option<u64>),
    /// Trains.
    Train,
    /// Makes pairs.
    Pairs(Box<Pairs>),
    /// Measures what a model keeps.
    Eval(Box<Eval>),
}

impl Work {
    /// Its name in recipes.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sample(_) => "sample",
            Self::Init(..) => "init",
            Self::Train => "train",
            Self::Pairs(_) => "pairs",
            Self::Eval(_) => "eval",
        }
    }
}

/// The folder of the trainings.
const STAGES: &str = "stages";
/// Names that no step may have.
pub const TAKEN: [&str; 3] = [STAGES, "lock", "cache"];
impl Recipe {
    /// The recipe of a text at `path`, to be followed in `folder` with the flags `device`.
    ///
    /// # Errors
    /// E0955 and E0956 for what is in it, E0970 for steps that cannot be made one behind the other, E0981
    /// to E0987 for sets that cannot be drawn.
    pub fn read(text: &str, path: &Path, folder: &Path, device: &[String]) -> Result<Self> {
        let mut table: Table = toml::from_str(text).map_err(|error| {
            let line = |at: usize| text[..at].matches('\n').count() + 1;
            let place = error.span().map(|span| format!("{}:{}", path.display(), line(span.start)));
            let place = place.unwrap_or_else(|| path.display().to_string());
            Error::input("E0955", error.message().to_owned()).at(place).help(HELP)
        })?;
        let seed = match table.remove("seed") {
            None => 0,
            Some(Value::Integer(seed)) if seed >= 0 => seed as u64,
            Some(_) => return Err(no_key("seed is no whole number, 0 or more", path)),
        };
        let settings = match table.remove("settings") {
            None => Table::new(),
            Some(Value::Table(settings)) => settings,
            Some(_) => return Err(no_key("settings is no table", path)),
        };
        let list = match table.remove("step") {
            None => Vec::new(),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(no_key("step is no list of tables: write [[step]]", path)),
        };
        if let Some(key) = table.keys().next() {
            let message = format!("unknown field `{key}`, expected seed, settings or step");
            return Err(no_key(&message, path));
        }
        let mut reader = Reader::new(folder, seed, settings, device);
        for (number, step) in (1..).zip(list) {
            let Value::Table(step) = step else {
                return Err(no_key(&format!("step {number} is no table"), path));
            };
            let name = step.get("name").and_then(Value::as_str).map(str::to_owned);
            let name = name.ok_or_else(|| no_key(&format!("step {number} has no name"), path))?;
            let place = format!("{}, step {name}", path.display());
            reader.step(name, step).map_err(|error| match error.place() {
                None => error.at(&place),
                Some(inner) => {
                    let inner = format!("{place}, {inner}");
                    error.placed(inner)
                }
            })?;
        }
        let Reader { steps, stages, first, .. } = reader;
        let Some((_, first)) = first.filter(|_| !stages.is_empty()) else {
            let message = "the recipe has no training";
            return Err(Error::input("E0970", message)
                .at(path.display())
                .help("write at least a step with do = \"init\" and one with do = \"train\""));
        };
        let stages = Stages::of_tables(path, folder, [folder.join(STAGES), first], stages)?;
        let recipe = Self { steps, stages };
        recipe.check_manifests(path, folder)?;
        Ok(recipe)
    }

    /// Refuses trainings whose manifest neither is there nor comes into being before them.
    fn check_manifests(&self, path: &Path, folder: &Path) -> Result<()> {
        for stage in &self.stages.list {
            let data = &stage.settings.data;
            for (key, file) in
                [("manifest", Some(&data.manifest)), ("validation", data.validation.as_ref())]
            {
                let Some(file) = file else { continue };
                let before = self.steps.iter().take_while(|step| step.name != stage.name);
                let mut made = before
                    .filter(|step| matches!(step.work, Work::Sample(_) | Work::Pairs(_)))
                    .map(|step| folder.join(&step.name).join(MANIFEST));
                if !made.any(|made| made == *file) && !file.exists() {
                    let message = format!("data.{key} is of no step before, and is not there");
                    return Err(Error::input("E0970", message)
                        .at(format!("{}, step {}: {}", path.display(), stage.name, file.display()))
                        .help("name the manifest of an earlier step: samples/manifest.jsonl"));
                }
            }
        }
        Ok(())
    }

    /// The folder of a training.
    pub fn run(folder: &Path, name: &str) -> PathBuf {
        folder.join(STAGES).join(name)
    }

    /// The folder of the model that a training makes.
    pub fn trained(folder: &Path, name: &str) -> PathBuf {
        Self::run(folder, name).join("model")
    }
}

pub const HELP: &str = "docs/world.md describes recipes";

fn no_key(message: &str, path: &Path) -> Error {
    Error::input("E0955", message.to_owned()).at(path.display()).help(HELP)
}
