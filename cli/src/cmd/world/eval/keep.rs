//! Verdicts on disk: one JSON object a line. The first says how clips are made, a line for each arm
//! with which weights, and the others what a clip of an arm gave.
//!
//! Lines are written as soon as there is something to keep, so an evaluation that was stopped goes
//! on where it was, and may go on with more people and arms.

use crate::cmd::world::kept::{Kept, Lines};
use anyid_runtime::Result;
use anyid_world::{Part, Parts};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const VERDICTS: Lines = Lines {
    schema: "anyid.verdicts/1",
    code: "E0988",
    what: "verdicts of this evaluation",
    help: "give another file to --keep, or remove this one to begin again",
};

/// The verdicts of an evaluation: what each arm's clip of each group gave.
#[derive(Debug, Default)]
pub struct Verdicts {
    parts: BTreeMap<(String, u64), Parts>,
    file: Option<Kept>,
}

impl Verdicts {
    /// Verdicts that are kept in memory alone, or in a file too. `about` is how clips are made, and
    /// `arms` has the weights of each arm.
    ///
    /// # Errors
    /// E0988 for a file of something else or of another evaluation, E0911 where it cannot be read,
    /// E1010 to E1013 where it cannot be written.
    pub fn open(path: Option<&Path>, about: &Value, arms: &[(String, Value)]) -> Result<Self> {
        let mut out = Self::default();
        let Some(path) = path else { return Ok(out) };
        let (mut known, parts) = (BTreeSet::new(), &mut out.parts);
        let mut file = Kept::open(path, &VERDICTS, about, &mut |number, line| {
            let wrong = || format!("its line {number} is no verdict");
            let arm = line.get("arm").and_then(Value::as_str).ok_or_else(wrong)?.to_owned();
            if let Some(weights) = line.get("weights") {
                let now = arms.iter().find(|(name, _)| *name == arm);
                if now.is_some_and(|(_, now)| now != weights) {
                    return Err(format!("its arm \"{arm}\" is of other weights"));
                }
                known.insert(arm);
                return Ok(());
            }
            let (group, found) = verdict(line).ok_or_else(wrong)?;
            parts.insert((arm, group), found);
            Ok(())
        })?;
        for (name, weights) in arms.iter().filter(|(name, _)| !known.contains(name)) {
            file.append(&json!({"arm": name, "weights": weights}))?;
        }
        out.file = Some(file);
        Ok(out)
    }

    /// What the clip of an arm for a group gave, if it was judged.
    pub fn of(&self, arm: &str, group: u64) -> Option<&Parts> {
        self.parts.get(&(arm.to_owned(), group))
    }

    /// Keeps what the clip of an arm for a group gave.
    ///
    /// # Errors
    /// E1012 and others where the file cannot be written.
    pub fn put(&mut self, arm: &str, group: u64, parts: Parts) -> Result<()> {
        if let Some(file) = &mut self.file {
            let list: Map<String, Value> = parts
                .iter()
                .map(|(name, part)| (name.clone(), json!([part.sum, part.cases])))
                .collect();
            file.append(&json!({"arm": arm, "group": group, "parts": list}))?;
        }
        self.parts.insert((arm.to_owned(), group), parts);
        Ok(())
    }
}

fn verdict(value: &Value) -> Option<(u64, Parts)> {
    let mut parts = Parts::new();
    for (name, part) in value.get("parts")?.as_object()? {
        let (sum, cases) = (part.get(0)?.as_f64()?, part.get(1)?.as_f64()?);
        parts.insert(name.clone(), Part { sum, cases });
    }
    Some((value.get("group")?.as_u64()?, parts))
}
