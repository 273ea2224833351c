//! Whether a judge still judges as it did: a few videos that never change are judged again with every run,
//! and their means are compared with those of the first time.
//!
//! A folder of anchors has `cases.jsonl` and a video of each case. What a judge said the first time is a
//! file there, one for each judge; nothing is taken from answers that are kept.

use super::Vlm;
use crate::raw::{Metric, median, read_cases};
use crate::run::{Judge, Moment};
use crate::systems::{System, locate};
use crate::{footage, raw};
use anyid_files::output::AtomicFile;
use anyid_files::{Error, Result};
use anyid_study::lines::hash;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The kind of both files.
pub const SCHEMA: &str = "anyid.anchors/1";
/// Points by which a mean may move.
pub const MOST: f64 = 3.0;

/// Judges the anchors and writes what came of it: means now and the first time, and metrics whose mean
/// moved by more than [`MOST`] points. The judge has to be one that keeps no answers.
///
/// # Errors
/// E1702 and E1703 for a folder that is none, E1707 where the first means cannot be read, those of asking,
/// E101x.
pub fn judged(vlm: &Vlm, folder: &Path, into: &Path) -> Result<Value> {
    let cases = read_cases(&folder.join("cases.jsonl"))?;
    let system = System {
        name: "anchors".to_owned(),
        folder: folder.to_owned(),
        map: None,
        tasks: BTreeSet::new(),
        note: None,
    };
    let videos = locate(&[system], &cases)?;
    let mut values: BTreeMap<Metric, Vec<f64>> = BTreeMap::new();
    for (at, path) in videos.values().flatten() {
        let facts = footage::facts(path)?;
        let places = footage::spread(facts.frames, vlm.frames());
        let moments = footage::take(path, &places.iter().copied().collect())?;
        let frames: Vec<Moment> = places.iter().map(|place| moments[place].clone()).collect();
        let judged = vlm.judge(&cases[*at], &frames)?;
        for metric in Metric::ALL {
            values.entry(metric).or_default().extend(judged.repeats(metric).and_then(median));
        }
    }
    let means: Map<String, Value> = values
        .into_iter()
        .filter(|(_, all)| !all.is_empty())
        .map(|(metric, all)| {
            (metric.name().to_owned(), json!(all.iter().sum::<f64>() / all.len() as f64))
        })
        .collect();
    let described = vlm.described();
    let name = format!("judge-{}.json", &hash(described.to_string().as_bytes())[..12]);
    let path = folder.join(name);
    let now = json!({
        "schema": SCHEMA, "judge": described, "videos": cases.len(), "means": means,
    });
    if !path.exists() {
        write(&path, &now)?;
    }
    let first: Value = raw::read(&path, SCHEMA)?;
    let mut moved = Map::new();
    for (metric, mean) in &means {
        let [now, before] = [mean, &first["means"][metric]].map(Value::as_f64);
        let Some((now, before)) = now.zip(before) else {
            return Err(Error::input("E1707", format!("there was no {metric} the first time"))
                .at(path.display())
                .help("remove the file: the next run then is the first"));
        };
        if (now - before).abs() > MOST {
            moved.insert(metric.clone(), json!(now - before));
        }
    }
    let found = json!({
        "schema": SCHEMA, "judge": now["judge"], "videos": cases.len(), "means": means,
        "first": first["means"], "moved": moved,
    });
    write(into, &found)?;
    Ok(found)
}

fn write(path: &Path, value: &Value) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.append(format!("{value:#}\n").as_bytes())?;
    file.commit().map(drop)
}
