//! What asking servers has cost, all runs of a folder of results together (`prompts.md` §3), for its
//! report.

use super::client::{Costs, Server};
use anyid_files::Result;
use anyid_files::output::AtomicFile;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Stages that ask servers.
pub const STAGES: [&str; 2] = ["describe", "compare"];

fn path(out: &Path, stage: &str) -> PathBuf {
    out.join(format!("{stage}.costs.json"))
}

/// What a stage has cost, one object for each model; none where it never asked.
pub fn read(out: &Path, stage: &str) -> Vec<Value> {
    let bytes = std::fs::read(path(out, stage)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// What each stage that asked has cost.
pub fn of(out: &Path) -> BTreeMap<String, Value> {
    let all = STAGES.map(|stage| (stage.to_owned(), read(out, stage)));
    let asked = all.into_iter().filter(|(_, costs)| !costs.is_empty());
    asked.map(|(stage, costs)| (stage, costs.into())).collect()
}

/// The sum of two objects of numbers; what is unknown in one of them is unknown.
fn sum(before: &Value, now: &Value) -> Value {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => {
            let mut all = before.clone();
            for (key, value) in now {
                let both = before.get(key).map(|before| sum(before, value));
                all.insert(key.clone(), both.unwrap_or_else(|| value.clone()));
            }
            all.into()
        }
        (Value::Number(before), Value::Number(now)) => match (before.as_u64(), now.as_u64()) {
            (Some(before), Some(now)) => json!(before + now),
            _ => json!(before.as_f64().unwrap_or(0.0) + now.as_f64().unwrap_or(0.0)),
        },
        _ => Value::Null,
    }
}

/// Adds what a run of a stage has cost; `server` is the one that it asked.
///
/// # Errors
/// E101x.
pub fn add(out: &Path, stage: &str, server: &Server, now: &Costs) -> Result<()> {
    if *now == (Costs { money: now.money, ..Costs::default() }) {
        return Ok(());
    }
    let mut all = read(out, stage);
    let own = all.iter_mut().find(|one| one["model"] == server.model());
    match own {
        Some(own) => own["costs"] = sum(&own["costs"], &json!(now)),
        None => all.push(json!({
            "model": server.model(), "currency": server.profile().currency, "costs": now,
        })),
    }
    let mut file = AtomicFile::create(path(out, stage))?;
    file.append(format!("{}\n", Value::from(all)).as_bytes())?;
    file.commit().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_added_and_what_is_unknown_stays_so() {
        let costs = |calls: u64, money: Option<f64>, fault: &str| {
            let faults = [(fault.to_owned(), 1)].into();
            json!(Costs { calls, money, faults, ..Costs::default() })
        };
        let both = sum(&costs(3, Some(0.5), "failed"), &costs(4, Some(0.25), "refused"));
        assert_eq!((&both["calls"], &both["money"]), (&json!(7), &json!(0.75)));
        assert_eq!(both["faults"], json!({"failed": 1, "refused": 1}));
        assert_eq!(sum(&both, &costs(1, None, "failed"))["money"], Value::Null);
        assert_eq!(sum(&both, &costs(1, None, "failed"))["faults"]["failed"], 2);
    }
}
