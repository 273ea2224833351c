//! A page about a run (`evaluation.md` §8): tables in the paper's order, intervals, comparisons, and frames of
//! cases, in one file that asks for nothing outside of itself. Beside it the tables as Markdown and with
//! commas, and how everything was measured.
//!
//! Faces are shown only of people whose consent covers that; those of all others are blurred, and their
//! videos are not linked.

mod charts;
mod html;
mod methods;
mod sheets;
mod table;
#[cfg(test)]
mod tests;

use crate::raw::{Metric, Results};
use crate::statistics::noise::{judge_noise, sampling_noise};
use crate::statistics::{Block, RESAMPLINGS, blocks};
use crate::summary;
use crate::systems::{System, Videos, locate};
use crate::vlm::agreement::with_people;
use anyid_files::Result;
use anyid_files::output::AtomicFile;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// What a report shows besides numbers.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The evaluation set, whose records of consent say whose faces may be shown.
    pub root: PathBuf,
    /// Where videos are; frames are shown of those that are given.
    pub systems: Vec<System>,
    /// Whether every case has players, whose videos the page links.
    pub embed_links: bool,
    /// A run of the same videos that looked at other numbers of frames.
    pub sampling: Option<PathBuf>,
    /// What people said of the videos.
    pub people: Option<PathBuf>,
}

/// Bounds of the directions in which faces look, in degrees.
const YAWS: [f64; 3] = [15.0, 30.0, 45.0];

/// Everything that the report says, computed once.
struct Found<'r> {
    results: &'r Results,
    summary: Value,
    blocks: Vec<Block>,
    /// For each system and direction, how many frames and their mean cosine.
    yaws: Vec<[(usize, f64); 4]>,
    /// For each system and place of a reference, the mean cosine.
    references: Vec<Vec<Option<f64>>>,
    /// What judges and the choice of frames add of their own.
    noise: Vec<(Metric, Value)>,
    /// How a judge judges what never changes, if that was looked at.
    anchors: Option<Value>,
    people: Option<Value>,
}

fn average(values: impl Iterator<Item = f64>) -> (usize, f64) {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count, if count > 0 { sum / count as f64 } else { 0.0 })
}

/// The mean cosine by the direction of the face, and by the place of the reference.
fn faces(results: &Results, system: &str) -> ([(usize, f64); 4], Vec<Option<f64>>) {
    let own = results.raws.values().filter(|raw| raw.system == system);
    let identities: Vec<_> = own.filter_map(|raw| raw.identity.as_ref()).collect();
    let mut frames: [Vec<f64>; 4] = Default::default();
    let mut places: Vec<Vec<f64>> = Vec::new();
    for identity in identities {
        let Some(cosines) = identity.arc.as_ref().or(identity.cur.as_ref()) else { continue };
        for (frame, cosine) in identity.frames.iter().zip(cosines.curve()) {
            if let (Some(yaw), Some(cosine)) = (frame.yaw, cosine) {
                let bin = YAWS.iter().filter(|bound| yaw.abs() >= **bound).count();
                frames[bin].push(cosine);
            }
        }
        let own = cosines.per_reference(identity.references.len());
        places.resize(places.len().max(own.len()), Vec::new());
        for (place, cosine) in places.iter_mut().zip(own) {
            place.extend(cosine);
        }
    }
    let yaws = frames.map(|all| average(all.into_iter()));
    let means = places.into_iter().map(|all| average(all.into_iter()));
    (yaws, means.map(|(count, mean)| (count > 0).then_some(mean)).collect())
}

impl<'r> Found<'r> {
    fn of(results: &'r Results, options: &Options, resamplings: usize) -> Result<Self> {
        let (yaws, references) =
            results.run.systems.iter().map(|system| faces(results, system)).unzip();
        let finer = options.sampling.as_deref().map(Results::open).transpose()?;
        let noise = Metric::ALL.into_iter().filter_map(|metric| {
            let judge = judge_noise(results, metric);
            let frames = finer.as_ref().and_then(|finer| sampling_noise(results, finer, metric));
            let own = json!({
                "judge": judge.map(|(noise, videos)| json!({"deviation": noise, "videos": videos})),
                "frames": frames.map(|[mean, most, videos]| {
                    json!({"mean": mean, "most": most, "videos": videos as usize})
                }),
            });
            (judge.is_some() || frames.is_some()).then_some((metric, own))
        });
        let anchors = results.folder.join("vlm/anchors.json");
        let anchors = match anchors.is_file() {
            true => Some(crate::raw::read(&anchors, crate::vlm::anchors::SCHEMA)?),
            false => None,
        };
        Ok(Self {
            summary: summary::of(results),
            blocks: blocks(results, resamplings),
            yaws,
            references,
            noise: noise.collect(),
            anchors,
            people: options.people.as_deref().map(|path| with_people(results, path)).transpose()?,
            results,
        })
    }

    /// The warning where a judge no longer judges as it did.
    fn drift(&self) -> Option<String> {
        let moved = self.anchors.as_ref()?["moved"].as_object()?;
        let all = moved
            .iter()
            .map(|(metric, by)| format!("{metric} by {:+.1}", by.as_f64().unwrap_or_default()));
        let all: Vec<String> = all.collect();
        (!all.is_empty()).then(|| {
            format!(
                "The judge no longer judges as it did: its mean of the anchors moved, {}.",
                all.join(", ")
            )
        })
    }

    /// For programs.
    fn json(&self) -> Value {
        let bins = ["0-15", "15-30", "30-45", "45-"];
        let named = |at: usize| {
            let yaws = bins.iter().zip(self.yaws[at]);
            let yaws = yaws.filter(|(_, (count, _))| *count > 0).map(|(name, (count, mean))| {
                ((*name).to_owned(), json!({"frames": count, "cosine": mean}))
            });
            json!({"yaw": yaws.collect::<Map<_, _>>(), "references": self.references[at]})
        };
        let systems = self.results.run.systems.iter().enumerate();
        let noise = self.noise.iter().map(|(metric, own)| (metric.name().to_owned(), own.clone()));
        json!({
            "schema": "anyid.evaluation/1",
            "tables": self.blocks.iter().map(Block::json).collect::<Vec<_>>(),
            "faces": systems.map(|(at, name)| (name.clone(), named(at))).collect::<Map<_, _>>(),
            "noise": noise.collect::<Map<_, _>>(), "anchors": self.anchors, "people": self.people,
        })
    }
}

/// Writes `report.html`, `report.md`, `report.json`, `table.csv` and `methods.md` into the folder of a run;
/// gives the first.
///
/// # Errors
/// E0911, E1704 for folders that are not whole, E1703 for videos that cannot be told apart, E1708 for a table
/// of what people said, those of decoding, E101x.
pub fn write(results: &Results, options: &Options) -> Result<PathBuf> {
    let found = Found::of(results, options, RESAMPLINGS)?;
    let videos = match options.systems.is_empty() {
        true => Videos::new(),
        false => locate(&options.systems, &results.cases)?,
    };
    let shown = sheets::Shown { results, root: &options.root, videos: &videos };
    let sheets = shown.sheets(&found)?;
    let players = if options.embed_links { shown.players() } else { Vec::new() };
    let page = results.folder.join("report.html");
    let files = [
        ("report.json", format!("{:#}\n", found.json())),
        ("table.csv", table::csv(&found)),
        ("report.md", table::markdown(&found)),
        ("methods.md", methods::markdown(&found)),
        ("report.html", html::page(&found, &sheets, &players, options.embed_links)),
    ];
    for (name, text) in files {
        let mut file = AtomicFile::create(results.folder.join(name))?;
        file.append(text.as_bytes())?;
        file.commit()?;
    }
    Ok(page)
}
