//! What a finished step was made of and came to, and what the steps cost.
//!
//! The record of a step is written behind everything else that it wrote: it is there only where the step
//! is complete. Trainings have records of their own.

use anyid_runtime::files::{AtomicFile, Existing, write_error};
use anyid_runtime::training::read_text;
use anyid_runtime::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAME: &str = "step.json";
const SCHEMA: &str = "anyid.step/1";

/// A finished step.
pub struct Record {
    made_of: Value,
    /// What it came to.
    pub report: Value,
}

impl Record {
    /// The record of the step in `folder`, if it is finished.
    ///
    /// # Errors
    /// E0995 where it cannot be read.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(NAME);
        if !path.exists() {
            return Ok(None);
        }
        let value: Option<Value> = serde_json::from_str(&read_text(&path, 1 << 24)?).ok();
        let ours = value.filter(|value| value["schema"] == SCHEMA);
        let read = ours.and_then(|mut value| {
            let mut part = |key| value.get_mut(key).map(Value::take);
            Some(Self { made_of: part("made_of")?, report: part("report")? })
        });
        read.map(Some).ok_or_else(|| {
            Error::input("E0995", "this is not what a step of this version leaves")
                .at(path.display())
                .help("restore it, or remove the folder of the step to make it anew")
        })
    }

    /// Writes that the step in `folder` is finished.
    ///
    /// # Errors
    /// E101x.
    pub fn write(folder: &Path, made_of: &Value, report: &Value) -> Result<()> {
        let value = json!({"schema": SCHEMA, "made_of": made_of, "report": report});
        put(&folder.join(NAME), &format!("{value:#}\n"))
    }

    /// Refuses a finished step that would be made of something else `now`.
    ///
    /// # Errors
    /// E0995.
    pub fn same(&self, now: &Value, folder: &Path) -> Result<()> {
        let keys = now.as_object().into_iter().flatten();
        let rows: Vec<String> = keys
            .filter(|(key, value)| self.made_of[key.as_str()] != **value)
            .map(|(key, value)| format!("\n  {key}: {}, now {value}", self.made_of[key.as_str()]))
            .collect();
        match rows.is_empty() {
            true => Ok(()),
            false => Err(otherwise(&rows.concat(), folder)),
        }
    }
}

/// A finished step that is not what the recipe says.
pub fn otherwise(how: &str, folder: &Path) -> Error {
    let message = format!("the step was finished with something else:{how}");
    Error::input("E0995", message).at(folder.display()).help(
        "go back to what it was made with, or remove its folder and those of the steps that depend \
         on it to make them anew",
    )
}

/// Writes a text file, whole or not at all.
///
/// # Errors
/// E101x.
pub fn put(path: &Path, text: &str) -> Result<()> {
    let mut file = AtomicFile::create_as(path, Existing::Overwrite)?;
    file.append(text.as_bytes())?;
    file.commit().map(drop)
}

/// What the steps took so far: a line for each time that something was done for one, whether it was
/// finished or interrupted.
pub struct Costs {
    path: PathBuf,
    /// Seconds of a processor, and of the clock.
    steps: BTreeMap<String, [f64; 2]>,
}

const COSTS: [&str; 2] = ["processor_seconds", "seconds"];

impl Costs {
    /// Those that the file at `path` has, and an older one, an object of steps, whose name ends in
    /// `.json`. What says nothing of the kind does not count.
    pub fn open(path: PathBuf) -> Self {
        let text = |path: &Path| read_text(path, 1 << 24).unwrap_or_default();
        let (older, lines) = (text(&path.with_extension("json")), text(&path));
        let mut out = Self { path, steps: BTreeMap::new() };
        let older: Value = serde_json::from_str(&older).unwrap_or_default();
        for (name, step) in older.as_object().into_iter().flatten() {
            out.count(name, step);
        }
        for line in lines.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            if let Some(name) = line["step"].as_str() {
                out.count(name, &line);
            }
        }
        out
    }

    fn count(&mut self, name: &str, took: &Value) {
        if let [Some(processor), Some(clock)] = COSTS.map(|key| took[key].as_f64()) {
            let sum = self.steps.entry(name.to_owned()).or_default();
            *sum = [sum[0] + processor, sum[1] + clock];
        }
    }

    /// Seconds of a processor, and of the clock, that a step took.
    pub fn of(&self, name: &str) -> [f64; 2] {
        self.steps.get(name).copied().unwrap_or_default()
    }

    /// Adds what a step took; also when the run was told to end.
    ///
    /// # Errors
    /// E101x where the file cannot be written.
    pub fn add(&mut self, name: &str, processor: Duration, clock: Duration) -> Result<()> {
        let took = [processor, clock].map(|time| time.as_secs_f64());
        let line = json!({"step": name, COSTS[0]: took[0], COSTS[1]: took[1]});
        self.count(name, &line);
        let file = OpenOptions::new().append(true).create(true).open(&self.path);
        let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        written.map_err(|fault| write_error(&self.path, fault))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_add_up_over_runs() {
        let folder = std::env::temp_dir().join(format!("anyid-costs-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("costs.jsonl");
        let older = json!({"a": {"processor_seconds": 1, "seconds": 1}, "b": 7});
        std::fs::write(folder.join("costs.json"), older.to_string()).unwrap();
        let lines = "{\"step\":\"a\",\"processor_seconds\":0.5,\"seconds\":1}\nno\n";
        std::fs::write(&path, lines).unwrap();
        let mut costs = Costs::open(path.clone());
        costs.add("a", Duration::from_millis(500), Duration::from_secs(1)).unwrap();
        costs.add("b", Duration::ZERO, Duration::from_secs(4)).unwrap();
        for costs in [costs, Costs::open(path)] {
            let found = ["a", "b", "c"].map(|name| costs.of(name));
            assert_eq!(found, [[2.0, 3.0], [0.0, 4.0], [0.0; 2]]);
        }
        std::fs::remove_dir_all(folder).unwrap();
        let nowhere = Path::new("/nowhere/costs.jsonl").to_owned();
        assert!(Costs::open(nowhere).add("a", Duration::ZERO, Duration::ZERO).is_err());
    }

    #[test]
    fn a_finished_step_is_compared_with_what_it_would_be_made_of() {
        let record =
            Record { made_of: json!({"flags": ["--count=3"], "do": "sample"}), report: json!({}) };
        let folder = Path::new("out/samples");
        assert!(record.same(&json!({"do": "sample", "flags": ["--count=3"]}), folder).is_ok());
        let error =
            record.same(&json!({"do": "sample", "flags": ["--count=4"]}), folder).unwrap_err();
        assert_eq!((error.code(), error.place()), ("E0995", Some("out/samples")));
        assert!(error.message().contains("flags: [\"--count=3\"], now [\"--count=4\"]"), "{error}");
    }
}
