//! Frames of the best, the median and the worst case of each task, all systems one below the other, and
//! players of all cases.
//!
//! Faces are shown of people whose consent covers results. Of others each face that was found is made of a few
//! large pixels, and so is a whole frame in which none was found: one may be there all the same.

use super::Found;
use crate::footage;
use crate::raw::{Case, Metric, Raw, Results, Task};
use crate::set::publish;
use crate::statistics::values;
use crate::systems::Videos;
use anyid_files::Result;
use anyid_files::checkpoint::hash_file;
use anyid_guard::audit::moment;
use anyid_guard::consent::Publish;
use anyid_study::report::pictures::small;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Frames of a video.
const FRAMES: usize = 5;
/// Width of a frame in pixels.
const WIDTH: usize = 224;

/// Frames of a system's video of a case.
pub(super) struct Strip {
    /// The system.
    pub system: String,
    /// JPEG files in base64; none where there is no video, or where it is not the one that was scored.
    pub frames: Vec<String>,
    /// Its value of the metric that the case was chosen by.
    pub value: Option<f64>,
}

/// A case with frames of all systems.
pub(super) struct Sheet {
    /// `best`, `median` or `worst`.
    pub rank: &'static str,
    /// What the case was chosen by.
    pub metric: Metric,
    /// Its name.
    pub case: String,
    /// Its prompt.
    pub prompt: String,
    /// Whether faces are shown.
    pub shown: bool,
    /// By system.
    pub strips: Vec<Strip>,
}

/// A case with its videos.
pub(super) struct Player {
    /// Its name.
    pub case: String,
    /// Its prompt.
    pub prompt: String,
    /// By system: the address of a video beside the page; none where it may not be shown.
    pub videos: Vec<(String, Option<String>)>,
}

/// What can be shown.
pub(super) struct Shown<'s> {
    pub results: &'s Results,
    /// The evaluation set.
    pub root: &'s Path,
    /// Where videos are, by system and place of the case.
    pub videos: &'s Videos,
}

impl Shown<'_> {
    fn faces(&self, case: &Case) -> bool {
        let today = moment(SystemTime::now());
        publish(self.root, &case.person, &today[..10]) != Publish::No
    }

    /// Cases to be shown: of each task the best, the median and the worst by the first metric there is, in the
    /// mean over systems.
    pub fn sheets(&self, found: &Found<'_>) -> Result<Vec<Sheet>> {
        let mut sheets = Vec::new();
        if self.videos.is_empty() {
            return Ok(sheets);
        }
        for block in &found.blocks {
            let (Some(task), Some(column)) = (block.task, block.columns.first()) else { continue };
            let metric = column.metric;
            for (rank, unit) in self.chosen(metric, task) {
                let case = self.results.cases.iter().find(|case| case.id == unit);
                if let Some(case) = case {
                    sheets.push(self.sheet(case, rank, metric)?);
                }
            }
        }
        Ok(sheets)
    }

    fn chosen(&self, metric: Metric, task: Task) -> Vec<(&'static str, String)> {
        let mut means: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for system in &self.results.run.systems {
            for ((_, unit), value) in values(self.results, system, metric, Some(task)) {
                means.entry(unit).or_default().push(value);
            }
        }
        // Those that most systems have, so that there is something to compare.
        let most = means.values().map(Vec::len).max().unwrap_or(0);
        let mut order: Vec<(f64, &str)> = means
            .into_iter()
            .filter(|(_, all)| all.len() == most)
            .map(|(unit, all)| (all.iter().sum::<f64>() / all.len() as f64, unit))
            .collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        let places = BTreeMap::from([
            (0, "best"),
            (order.len() / 2, "median"),
            (order.len().saturating_sub(1), "worst"),
        ]);
        let there = places.into_iter().filter(|(at, _)| *at < order.len());
        there.map(|(at, rank)| (rank, order[at].1.to_owned())).collect()
    }

    fn sheet(&self, case: &Case, rank: &'static str, metric: Metric) -> Result<Sheet> {
        let at = self.results.cases.iter().position(|own| own.id == case.id).unwrap_or_default();
        let shown = self.faces(case);
        let mut strips = Vec::new();
        for system in &self.results.run.systems {
            let Some(raw) = self.results.raws.get(&(system.clone(), case.id.clone())) else {
                continue;
            };
            let path = self.videos.get(system).and_then(|videos| videos.get(&at));
            let frames = match path {
                Some(path) if scored(raw, path)? => strip(raw, path, shown)?,
                _ => Vec::new(),
            };
            let value = raw.value(metric, self.results.run.norms);
            strips.push(Strip { system: system.clone(), frames, value });
        }
        Ok(Sheet {
            rank,
            metric,
            case: case.id.clone(),
            prompt: case.prompt.clone(),
            shown,
            strips,
        })
    }

    /// Players of all cases.
    pub fn players(&self) -> Vec<Player> {
        let cases = self.results.cases.iter().enumerate();
        let players = cases.map(|(at, case)| {
            let shown = self.faces(case);
            let systems = self.results.run.systems.iter();
            let videos = systems.filter_map(|system| {
                let path = self.videos.get(system)?.get(&at)?;
                let address = shown.then(|| address(&self.results.folder, path));
                Some((system.clone(), address))
            });
            Player { case: case.id.clone(), prompt: case.prompt.clone(), videos: videos.collect() }
        });
        players.filter(|player| !player.videos.is_empty()).collect()
    }
}

/// Whether a file is the video that was scored.
fn scored(raw: &Raw, path: &Path) -> Result<bool> {
    match &raw.video {
        Some(video) => Ok(hash_file(path)? == video.sha256),
        None => Ok(false),
    }
}

fn strip(raw: &Raw, path: &Path, shown: bool) -> Result<Vec<String>> {
    // Frames whose faces are known, where there are any.
    let known: BTreeMap<usize, &Vec<[f64; 4]>> = match &raw.identity {
        Some(identity) => identity.frames.iter().map(|frame| (frame.f, &frame.faces)).collect(),
        None => BTreeMap::new(),
    };
    let total = raw.video.as_ref().map_or(0, |video| video.frames);
    let all: Vec<usize> = match known.is_empty() {
        true => (0..total).collect(),
        false => known.keys().copied().collect(),
    };
    let places: BTreeSet<usize> = footage::spread(all.len(), FRAMES)
        .into_iter()
        .filter_map(|at| all.get(at))
        .copied()
        .collect();
    let moments = footage::take(path, &places)?;
    let picture = |(at, moment): (&usize, &crate::run::Moment)| {
        let whole = [0.0, 0.0, moment.image.width as f64, moment.image.height as f64];
        let faces = known.get(at).filter(|faces| !faces.is_empty());
        let hidden = match (shown, faces) {
            (true, _) => Vec::new(),
            (false, Some(faces)) => faces.to_vec(),
            (false, None) => vec![whole],
        };
        small(&moment.image, WIDTH, &hidden)
    };
    moments.iter().map(picture).collect()
}

/// The address of a file as seen from a folder, as pages write it.
fn address(from: &Path, to: &Path) -> String {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (from, to) = (absolute(from), absolute(to));
    let (a, b): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let shared = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n(PathBuf::from(".."), a.len() - shared);
    let down = b[shared..].iter().map(|part| PathBuf::from(part.as_os_str()));
    let parts: Vec<String> = up.chain(down).map(|part| coded(&part.to_string_lossy())).collect();
    parts.join("/")
}

/// A part of an address: everything but letters, digits and a few signs as its bytes.
fn coded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let one =
        |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_seen_from_the_folder_of_the_page() {
        let address = |from: &str, to: &str| address(Path::new(from), Path::new(to));
        assert_eq!(address("/a/results", "/a/videos/x y/1.mp4"), "../videos/x%20y/1.mp4");
        assert_eq!(address("/a", "/a/b.mp4"), "b.mp4");
        assert_eq!(coded("ä\"<"), "%C3%A4%22%3C");
    }
}
