//! Samples that whoever trains draws for itself: a file that says from what and how, and the same lines
//! as `data sample` writes (`data.md` §7).

use crate::lines::parsed;
use crate::prompt::server::costs;
use crate::prompt::similarity::Similarity;
use crate::records::schema;
use crate::settings::{SampleSettings, Settings};
use crate::stages::Job;
use anyid_files::checkpoint::hash_file;
use anyid_files::shard::Shard;
use anyid_files::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The file beside `train.jsonl`.
pub const FILE: &str = "pool.json";
/// What samples are drawn from, as far as it is there.
const FROM: [&str; 4] = ["clips.jsonl", "groups.jsonl", "desc.jsonl", "pairs.jsonl"];

/// What samples are drawn from, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `anyid.pool/1`.
    pub schema: String,
    /// How they are drawn.
    pub sample: SampleSettings,
    /// How texts are compared where no server did.
    pub similarity: Similarity,
    /// The hashes of the files beside it.
    pub files: BTreeMap<String, String>,
    /// What asking servers about them has cost, by stage: one object for each model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub costs: BTreeMap<String, Value>,
}

/// What a training wants of targets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// Columns of pixels.
    pub width: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Frames.
    pub frames: usize,
    /// Frames a second.
    pub fps: f64,
}

/// The line of a job's results.
///
/// # Errors
/// E0911.
pub fn line(job: &Job) -> Result<Value> {
    let mut files = BTreeMap::new();
    for name in FROM.into_iter().filter(|name| job.path(name).exists()) {
        files.insert(name.to_owned(), hash_file(job.path(name))?);
    }
    let (sample, similarity) = (job.settings.sample.clone(), job.settings.prompt.similarity);
    let costs = costs::of(&job.out);
    Ok(json!(Source { schema: schema::POOL.to_owned(), sample, similarity, files, costs }))
}

/// Whether a file's text is such a line.
pub fn is_pool(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    !text.contains(&b'\n')
        && serde_json::from_slice::<Value>(text).is_ok_and(|value| value["schema"] == schema::POOL)
}

/// The lines of all samples that the file at `path`, which says `text`, stands for.
///
/// # Errors
/// E1202 for the file, E1204 where what it names has changed since, E1211 where nothing can be drawn,
/// E0911.
pub fn drawn(path: &Path, text: &[u8], wanted: Wanted) -> Result<String> {
    let fault = |what: String| {
        Error::input("E1202", what).at(path.display()).help("`anyid-rt data sample` writes it")
    };
    let text = std::str::from_utf8(text.trim_ascii()).map_err(|e| fault(e.to_string()))?;
    let source: Source = parsed(text, schema::POOL).map_err(fault)?;
    let out = path.parent().unwrap_or(Path::new("")).to_owned();
    for name in FROM {
        let file = out.join(name);
        let now = file.exists().then(|| hash_file(&file)).transpose()?;
        if now.as_ref() != source.files.get(name) {
            return Err(Error::input("E1204", format!("{name} has changed since it was written"))
                .at(path.display())
                .help("run `anyid-rt data sample` again, or restore the file"));
        }
    }
    let Wanted { width, height, frames, fps } = wanted;
    let sample = SampleSettings { width, height, frames, fps, ..source.sample };
    let mut settings = Settings { sample, ..Settings::default() };
    settings.prompt.similarity = source.similarity;
    let (shard, root) = (Shard::WHOLE, out.clone());
    let job = Job { root, lines: None, out, settings, shard, threads: 1, redo: false };
    let mut lines = String::new();
    job.samples(&mut |_, _| {}, &mut |sample| {
        lines.push_str(&format!("{sample}\n"));
        Ok(())
    })?;
    Ok(lines)
}
