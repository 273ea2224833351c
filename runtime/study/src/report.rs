//! What came of a folder of videos, as JSON, as Markdown and as a page that needs nothing else
//! (`data.md` §10): where clips are lost, how measures are distributed, what samples are made of.

mod html;
pub mod pictures;

use crate::lines::{all, parsed};
use crate::prompt::elements::Element;
use crate::prompt::server::costs;
use crate::records::{Clip, Group, schema};
use crate::stages::Stage;
use crate::stages::items::items;
use anyid_files::output::AtomicFile;
use anyid_files::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Bars of a distribution.
const BARS: usize = 16;
/// Tokens of a latent frame at 1280x704.
const TOKENS: usize = 880;

/// Values between two bounds, in equal steps.
fn distribution(values: &[f64]) -> Value {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.is_empty() {
        return json!({"count": 0});
    }
    let step = ((most - least) / BARS as f64).max(f64::MIN_POSITIVE);
    let mut bars = [0usize; BARS];
    for value in values {
        bars[(((value - least) / step) as usize).min(BARS - 1)] += 1;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let short = |value: f64| (value * 1e3).round() / 1e3;
    json!({
        "count": values.len(), "least": short(least), "most": short(most), "mean": short(mean),
        "bars": bars,
    })
}

fn counted(values: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts
}

/// What a stage says of itself; null where it was not run.
fn stats(out: &Path, stage: &str) -> Value {
    let path = out.join(format!("{stage}.stats.json"));
    let text = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

/// Seconds that the parts of a stage took together, and their files.
fn throughput(out: &Path, stage: &str) -> Option<Value> {
    let (mut seconds, mut items) = (0.0, 0);
    for entry in std::fs::read_dir(out.join(stage)).ok()?.flatten() {
        if entry.path().extension().is_some_and(|ending| ending == "done") {
            let done: Value = serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()?;
            seconds += done["seconds"].as_f64().unwrap_or(0.0);
            items += done["items"].as_u64().unwrap_or(0);
        }
    }
    let rate = if seconds > 0.0 { items as f64 * 60.0 / seconds } else { 0.0 };
    Some(json!({
        "files": items, "seconds": (seconds * 10.0).round() / 10.0,
        "files_a_minute": (rate * 10.0).round() / 10.0,
    }))
}

/// What a server has cost, as a row: stage, model, and what was counted.
fn rows_of_costs(found: &Value) -> Vec<[String; 8]> {
    let mut rows = Vec::new();
    for (stage, all) in found["costs"].as_object().into_iter().flatten() {
        for own in all.as_array().into_iter().flatten() {
            let (costs, text) = (&own["costs"], |value: &Value| value.as_str().map(str::to_owned));
            let money = match costs["money"].as_f64() {
                Some(money) => {
                    format!("{money:.4} {}", text(&own["currency"]).unwrap_or_default())
                }
                None => "unknown price".to_owned(),
            };
            let calls = costs["calls"].as_f64().unwrap_or(0.0);
            let seconds = costs["seconds"].as_f64().unwrap_or(0.0) / calls.max(1.0);
            rows.push([
                stage.clone(),
                text(&own["model"]).unwrap_or_default(),
                costs["calls"].to_string(),
                costs["hits"].to_string(),
                costs["tokens_in"].to_string(),
                costs["tokens_out"].to_string(),
                money.trim_end().to_owned(),
                format!("{seconds:.1} s"),
            ]);
        }
    }
    rows
}

/// Names of the columns of [`rows_of_costs`].
const COSTS: [&str; 8] =
    ["", "model", "calls", "answers kept", "tokens in", "tokens out", "money", "a call"];

/// Everything that the report says, without pictures.
///
/// # Errors
/// E0911 where there are no clips, E1202.
pub fn found(out: &Path) -> Result<Value> {
    let path = out.join(Stage::Filter.file());
    let mut clips: Vec<Clip> = Vec::new();
    for item in items(&path)? {
        for line in item?.lines {
            let fault = |what| Error::input("E1202", what).at(path.display());
            clips.push(parsed(&line, schema::CLIP).map_err(fault)?);
        }
    }
    let optional = |name: &str| Some(out.join(name)).filter(|path| path.exists());
    let groups: Vec<Group> = match optional("groups.jsonl") {
        Some(path) => all(&path, schema::GROUP)?,
        None => Vec::new(),
    };
    let samples: Vec<Value> = match optional("train.jsonl") {
        Some(path) => all(&path, schema::SAMPLE)?,
        None => Vec::new(),
    };
    let of_stages: Map<String, Value> = Stage::ALL
        .into_iter()
        .map(|stage| (stage.name().to_owned(), stats(out, stage.name())))
        .collect();
    let kept: Vec<&Clip> = clips.iter().filter(|clip| clip.keep).collect();
    let grouped: usize = groups.iter().map(|group| group.clips.len()).sum();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let gates = json!([
        {"gate": "files of video", "count": number(&of_stages["index"]["items"])},
        {"gate": "readable", "count": number(&of_stages["index"]["items"])
            .saturating_sub(number(&of_stages["index"]["errors"]))
            .saturating_sub(number(&of_stages["shots"]["errors"]))},
        {"gate": "shots", "count": clips.len()},
        {"gate": "kept", "count": kept.len()},
        {"gate": "in a group", "count": grouped},
    ]);
    let of = |value: &dyn Fn(&Clip) -> f64| {
        distribution(&clips.iter().filter(|c| c.quality.n > 0).map(value).collect::<Vec<_>>())
    };
    let distributions = json!({
        "face side (pixels)": of(&|clip| clip.quality.face_med),
        "sharpness": of(&|clip| clip.quality.blur_med),
        "yaw, 90th percentile (degrees)": of(&|clip| clip.quality.yaw_p90),
        "luma": of(&|clip| clip.quality.luma_med),
        "motion (eye distances)": of(&|clip| clip.quality.motion),
        "duration (seconds)": of(&|clip| clip.span.duration),
        "clips of a group":
            distribution(&groups.iter().map(|g| g.clips.len() as f64).collect::<Vec<_>>()),
        "cohesion of a group":
            distribution(&groups.iter().filter_map(|g| g.cohesion).collect::<Vec<_>>()),
    });
    let references = |sample: &Value| sample["references"].as_array().cloned().unwrap_or_default();
    let said = |element: Element| {
        samples.iter().filter(|s| s["elements"][element.name()]["keep"] == true).count()
    };
    let latent = |frames: u64| (frames.max(1) - 1) / 4 + 1;
    let tokens = |sample: &Value| -> f64 {
        let of = |part: &Value| latent(part["frames"].as_u64().unwrap_or(1)) as usize * TOKENS;
        (of(&sample["target"]) + references(sample).iter().map(of).sum::<usize>()) as f64
    };
    Ok(json!({
        "schema": "anyid.report/1",
        "gates": gates,
        "stages": of_stages,
        "reasons": counted(clips.iter().flat_map(|clip| clip.reasons.clone())),
        "distributions": distributions,
        "groups": groups.len(),
        "outliers": groups.iter().filter(|g| !g.outliers.is_empty())
            .map(|g| json!({"group": g.id, "clips": g.outliers})).collect::<Vec<_>>(),
        "duplicates": groups.iter().filter(|g| !g.duplicates_of.is_empty())
            .map(|g| json!({"group": g.id, "of": g.duplicates_of})).collect::<Vec<_>>(),
        "copies": groups.iter().flat_map(|g| g.copies.clone()).collect::<Vec<_>>(),
        "samples": samples.len(),
        "references": counted(samples.iter().map(|s| references(s).len().to_string())),
        "forms": counted(samples.iter().flat_map(references)
            .filter_map(|r| r["form"].as_str().map(str::to_owned))),
        "elements": Element::ALL.map(|e| (e.name(), said(e))).into_iter()
            .collect::<BTreeMap<_, _>>(),
        "tokens": distribution(&samples.iter().map(tokens).collect::<Vec<_>>()),
        "throughput": Stage::ALL.into_iter()
            .filter_map(|s| Some((s.name().to_owned(), throughput(out, s.name())?)))
            .collect::<Map<_, _>>(),
        "costs": costs::of(out),
    }))
}

fn markdown(found: &Value) -> String {
    let mut text = "# What came of the videos\n\n| gate | count |\n|---|---|\n".to_owned();
    for gate in found["gates"].as_array().into_iter().flatten() {
        let name = gate["gate"].as_str().unwrap_or_default();
        text.push_str(&format!("| {name} | {} |\n", gate["count"]));
    }
    let tables = [
        ("Why clips were left out", "reasons"),
        ("References of a sample", "references"),
        ("Forms of references", "forms"),
        ("Elements that prompts say", "elements"),
    ];
    for (title, key) in tables {
        text.push_str(&format!("\n## {title}\n\n| | |\n|---|---|\n"));
        for (name, count) in found[key].as_object().into_iter().flatten() {
            text.push_str(&format!("| {name} | {count} |\n"));
        }
    }
    text.push_str(
        "\n## Distributions\n\n| | count | least | mean | most |\n|---|---|---|---|---|\n",
    );
    for (name, of) in found["distributions"].as_object().into_iter().flatten() {
        let [count, least, mean, most] = ["count", "least", "mean", "most"].map(|key| &of[key]);
        text.push_str(&format!("| {name} | {count} | {least} | {mean} | {most} |\n"));
    }
    let costs = rows_of_costs(found);
    if !costs.is_empty() {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        text.push_str("\n## Servers\n\n");
        text.push_str(&line(&COSTS.map(str::to_owned)));
        text.push_str(&line(&COSTS.map(|_| "---".to_owned())));
        costs.iter().for_each(|row| text.push_str(&line(row)));
    }
    text
}

/// Writes `report.json`, `report.md` and `report.html` into the folder of results; gives the first.
/// With `root`, the page has pictures of the groups, with faces blurred unless `show_faces`.
///
/// # Errors
/// E0911 where there are no clips, E1202, E101x.
pub fn write(out: &Path, root: Option<&Path>, show_faces: bool) -> Result<Value> {
    let found = found(out)?;
    let pictures = match root {
        Some(root) => pictures::of_groups(out, root, show_faces)?,
        None => Vec::new(),
    };
    let page = html::page(&found, &pictures);
    for (name, text) in [
        ("report.json", format!("{found:#}\n")),
        ("report.md", markdown(&found)),
        ("report.html", page),
    ] {
        let mut file = AtomicFile::create(out.join(name))?;
        file.append(text.as_bytes())?;
        file.commit()?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_have_every_value_in_one_bar() {
        let found = distribution(&[1.0, 2.0, 3.0, 17.0]);
        assert_eq!((&found["least"], &found["most"]), (&json!(1.0), &json!(17.0)));
        let bars: Vec<usize> = serde_json::from_value(found["bars"].clone()).unwrap();
        assert_eq!((bars.iter().sum::<usize>(), bars[0], bars[15]), (4, 1, 1));
        assert_eq!(distribution(&[5.0, 5.0])["bars"][0], 2);
        assert_eq!(distribution(&[])["count"], 0);
    }

    #[test]
    fn what_servers_have_cost_is_told() {
        let costs = json!({"calls": 4, "hits": 1, "tokens_in": 900, "tokens_out": 80,
            "money": 0.5, "seconds": 10.0});
        let found = json!({"costs": {"describe": [
            {"model": "m<1>", "currency": "EUR", "costs": costs},
            {"model": "n", "currency": null, "costs": {"calls": 0, "money": null}},
        ]}});
        let rows = rows_of_costs(&found);
        assert_eq!(rows[0][6..], ["0.5000 EUR", "2.5 s"]);
        assert_eq!(rows[1][6..], ["unknown price", "0.0 s"]);
        assert!(markdown(&found).contains("| describe | m<1> | 4 | 1 | 900 | 80 |"));
        assert!(html::page(&found, &[]).contains("<td>m&lt;1&gt;</td><td>4</td>"));
        assert!(!markdown(&json!({})).contains("Servers"));
    }
}
