//! What a finished step was made of and came to, and what the steps cost.
//!
//! The record of a step is written behind everything else that it wrote: it is there only where the step
//! is complete. Trainings have records of their own.

use anyid_runtime::files::{AtomicFile, Existing};
use anyid_runtime::training::read_text;
use anyid_runtime::{Error, Result};
use serde_json::{Map, Value, json};
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

/// What the steps took so far, over all interruptions that were noticed.
pub struct Costs {
    path: PathBuf,
    steps: Map<String, Value>,
}

impl Costs {
    /// Those that the file at `path` has; none where it is not there or is something else.
    pub fn open(path: PathBuf) -> Self {
        let text = read_text(&path, 1 << 24).unwrap_or_default();
        let steps = serde_json::from_str(&text).ok();
        Self { path, steps: steps.unwrap_or_default() }
    }

    /// Seconds of a processor, and of the clock, that a step took.
    pub fn of(&self, name: &str) -> [f64; 2] {
        ["processor_seconds", "seconds"]
            .map(|key| self.steps.get(name).and_then(|step| step[key].as_f64()).unwrap_or(0.0))
    }

    /// Adds what a step took.
    ///
    /// # Errors
    /// E101x where the file cannot be written.
    pub fn add(&mut self, name: &str, processor: Duration, clock: Duration) -> Result<()> {
        let [before, begun] = self.of(name);
        let (processor, clock) = (before + processor.as_secs_f64(), begun + clock.as_secs_f64());
        let step = json!({"processor_seconds": processor, "seconds": clock});
        self.steps.insert(name.to_owned(), step);
        put(&self.path, &format!("{:#}\n", Value::Object(self.steps.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
