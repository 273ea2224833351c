//! Scores the videos of systems, case by case, and writes what came of each.
//!
//! What came of a case is one file, written whole or not at all. A file whose numbers depend on the same
//! inputs is kept, so that a run which was stopped goes on, and parts of a run can be made by several
//! processes in one folder. The order of systems, the number of parts and that of threads change nothing.

mod folder;
mod pool;
#[cfg(test)]
mod tests;

use crate::identity::{Detectors, Looked, Seen};
use crate::raw::{Case, Identity, Judged, KeptElements, Norms, Raw, Results, Run, Video, schema};
use crate::systems::{System, Videos, locate};
use crate::{cases, elements, footage, identity, raw, summary};
use anyid_files::checkpoint::hash_file;
use anyid_files::media::RgbFrame;
use anyid_files::output::AtomicFile;
use anyid_files::shard::Shard;
use anyid_files::{Error, Kind, Result};
use anyid_study::lines::hash;
use anyid_study::records::Failure;
use folder::Folder;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A frame of a video with its time.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Seconds from the start.
    pub seconds: f64,
    /// The picture.
    pub image: RgbFrame,
}

/// What judges videos by their frames.
pub trait Judge: Send + Sync {
    /// How many frames it sees, spread evenly over the video.
    fn frames(&self) -> usize;

    /// Hash of all that an answer depends on besides the video.
    ///
    /// # Errors
    /// Those of facts that cannot be read or made.
    fn key(&self, case: &Case) -> Result<String>;

    /// What it says of a video. The key is filled in by the run.
    ///
    /// # Errors
    /// What stops the whole run; an answer that is none is a value that is missing.
    fn judge(&self, case: &Case, frames: &[Moment]) -> Result<Judged>;

    /// What it is, for the record of the run.
    fn described(&self) -> Value;
}

/// What is scored, and where it goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file of cases.
    pub cases: PathBuf,
    /// Where paths of references start.
    pub root: PathBuf,
    /// The folder of results.
    pub out: PathBuf,
    /// The systems.
    pub systems: Vec<System>,
    /// The normalisations of tables.
    pub norms: Norms,
    /// Which part of the work.
    pub shard: Shard,
    /// Threads.
    pub threads: usize,
    /// Whether what was measured otherwise is measured again.
    pub redo: bool,
    /// The command, for the record.
    pub command: String,
}

/// What measures.
#[derive(Default)]
pub struct Tools {
    /// Faces.
    pub identity: Option<identity::Measure>,
    /// Elements.
    pub elements: Option<elements::Measure>,
    /// What finds the main person of a frame for elements, where faces are not measured, with its hash.
    pub detectors: Option<(Detectors, String)>,
    /// What judges prompts and quality.
    pub judge: Option<Box<dyn Judge>>,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Videos that were scored.
    pub scored: usize,
    /// Cases of which nothing had to be done.
    pub kept: usize,
    /// Cases without a video, each with its system.
    pub missing: Vec<(String, String)>,
    /// Cases whose video cannot be read, each with its system and why.
    pub unreadable: Vec<(String, String, Failure)>,
    /// Where the summary is, once all parts are done.
    pub summary: Option<PathBuf>,
}

/// What came of one case.
enum Done {
    Scored,
    Kept,
    Missing,
    Unreadable(Failure),
}

/// Scores all videos of this part; `told` hears how many of how many are done.
///
/// # Errors
/// E1701 for references, E1702 for cases, E1703 for systems, E1705 for a folder with other results or
/// another run at work, E101x where it cannot be written, and those of models and the judge.
pub fn run(
    options: &Options,
    tools: &Tools,
    told: &mut dyn FnMut(usize, usize),
) -> Result<Outcome> {
    if tools.identity.is_none() && tools.elements.is_none() && tools.judge.is_none() {
        return Err(Error::input("E1706", "nothing is measured").help(
            "set models of faces (face with arc or cur), of pictures (clip, dino), or a judge in the \
             settings (--config); docs/evaluation.md has examples",
        ));
    }
    let list = raw::read_cases(&options.cases)?;
    let known = cases::locked(&options.cases)?;
    let mut systems = options.systems.clone();
    systems.sort_by(|a, b| a.name.cmp(&b.name));
    let videos = locate(&systems, &list)?;
    let run = record(options, tools, &systems, hash_file(&options.cases)?);
    let folder = Folder::open(&options.out, options.shard)?;
    let run = folder.agree(run, &options.cases, options.redo)?;
    let work = Work {
        options,
        tools,
        videos: &videos,
        cases: &list,
        known,
        hashes: Mutex::default(),
        seen: Mutex::default(),
    };
    let mut items = Vec::new();
    for system in &systems {
        for at in (0..list.len()).filter(|at| system.asks(&list[*at])) {
            if options.shard.has(&format!("{}/{}", system.name, list[at].id)) {
                items.push((system.name.as_str(), at));
            }
        }
    }
    let count = items.len();
    let done =
        pool::each(options.threads, count, &|at| work.one(items[at].0, items[at].1), &mut |n| {
            told(n, count);
        })?;
    let mut outcome = Outcome::default();
    for ((system, at), done) in items.into_iter().zip(done) {
        let named = (system.to_owned(), list[at].id.clone());
        match done {
            Done::Scored => outcome.scored += 1,
            Done::Kept => outcome.kept += 1,
            Done::Missing => outcome.missing.push(named),
            Done::Unreadable(why) => outcome.unreadable.push((named.0, named.1, why)),
        }
    }
    outcome.summary = finish(&options.out, &run, &list)?;
    Ok(outcome)
}

/// How this run measures.
fn record(options: &Options, tools: &Tools, systems: &[System], cases: String) -> Run {
    let mut models = Vec::new();
    let of_identity = tools.identity.iter().flat_map(|measure| &measure.models);
    let of_elements = tools.elements.iter().flat_map(|measure| &measure.models);
    for model in of_identity.chain(of_elements) {
        if !models.contains(model) {
            models.push(model.clone());
        }
    }
    models.sort_by(|a, b| (&a.role, &a.name).cmp(&(&b.role, &b.name)));
    let tasks = systems.iter().filter(|system| !system.tasks.is_empty());
    let notes = systems.iter().filter_map(|s| Some((s.name.clone(), s.note.clone()?)));
    Run {
        schema: schema::RUN.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: options.command.clone(),
        cases,
        systems: systems.iter().map(|system| system.name.clone()).collect(),
        tasks: tasks.map(|system| (system.name.clone(), system.tasks.clone())).collect(),
        notes: notes.collect(),
        models,
        frames: tools.identity.as_ref().map_or(0, |measure| measure.frames),
        norms: options.norms,
        judge: tools.judge.as_ref().map(|judge| judge.described()),
    }
}

/// Writes what is made of all cases together, if all are there.
fn finish(out: &Path, run: &Run, list: &[Case]) -> Result<Option<PathBuf>> {
    let asked = |system: &str, case: &Case| {
        run.tasks.get(system).is_none_or(|tasks| tasks.contains(&case.task))
    };
    let there = run.systems.iter().all(|system| {
        let mut own = list.iter().filter(|case| asked(system, case));
        own.all(|case| raw::raw_path(out, system, &case.id).is_file())
    });
    if !there {
        return Ok(None);
    }
    let results = Results::open(out)?;
    folder::join_embeddings(&results)?;
    let path = out.join("summary.json");
    let mut table = AtomicFile::create(out.join("table.csv"))?;
    table.append(summary::table(&results).as_bytes())?;
    table.commit()?;
    write_json(&path, &summary::of(&results))?;
    Ok(Some(path))
}

/// Writes a value as a file that people can read.
fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.append(format!("{:#}\n", json!(value)).as_bytes())?;
    file.commit().map(drop)
}

/// A reference that some thread has looked at, or is looking at.
type Slot = Arc<Mutex<Option<Arc<Seen>>>>;

/// What all threads share.
struct Work<'w> {
    options: &'w Options,
    tools: &'w Tools,
    videos: &'w Videos,
    cases: &'w [Case],
    /// Hashes of references, where they were locked.
    known: BTreeMap<String, String>,
    hashes: Mutex<HashMap<String, String>>,
    seen: Mutex<HashMap<String, Slot>>,
}

/// Whether an error is about a video and not about the run.
fn of_video(error: &Error) -> bool {
    error.kind() == Kind::Input && error.code().starts_with("E08")
}

impl Work<'_> {
    /// The hash of a reference.
    fn hash(&self, file: &str) -> Result<String> {
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hashes.get(file) {
            return Ok(known.clone());
        }
        let path = self.options.root.join(file);
        let found = hash_file(&path)?;
        if self.known.get(file).is_some_and(|known| *known != found) {
            return Err(Error::input(
                "E1701",
                "this reference was changed after the cases were drawn",
            )
            .at(path.display())
            .help("restore the file, or draw the cases again for the set as it is now"));
        }
        hashes.insert(file.to_owned(), found.clone());
        Ok(found)
    }

    /// A reference that was looked at, once for all of its cases.
    fn reference(&self, measure: &identity::Measure, file: &str) -> Result<Arc<Seen>> {
        let slot = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.entry(file.to_owned()).or_default().clone()
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = &*slot {
            return Ok(seen.clone());
        }
        let seen = Arc::new(measure.reference(&self.options.root, file)?);
        *slot = Some(seen.clone());
        Ok(seen)
    }

    /// Scores a case, unless that was done.
    fn one(&self, system: &str, at: usize) -> Result<Done> {
        let case = &self.cases[at];
        let path = raw::raw_path(&self.options.out, system, &case.id);
        // What cannot be read is made again.
        let old = raw::read::<Raw>(&path, schema::RAW).ok();
        let old = old.filter(|old| old.system == system && old.case == case.id);
        let bare = Raw {
            schema: schema::RAW.to_owned(),
            system: system.to_owned(),
            case: case.id.clone(),
            unit: case.unit().to_owned(),
            task: case.task,
            video: None,
            failure: None,
            identity: None,
            elements: None,
            judged: None,
        };
        let Some(video) = self.videos.get(system).and_then(|videos| videos.get(&at)) else {
            if old.as_ref().is_some_and(|old| old.video.is_some()) && !self.options.redo {
                let what =
                    format!("the video of case {} is gone, and results of it are there", case.id);
                return Err(Error::input("E1703", what)
                    .at(path.display())
                    .help("restore the video, or give it up with its results (--redo)"));
            }
            if old.as_ref() != Some(&bare) {
                self.write(&path, &bare)?;
            }
            return Ok(Done::Missing);
        };
        match self.score(bare.clone(), old.as_ref(), case, video) {
            Ok((scored, _)) if old.as_ref() == Some(&scored) => Ok(Done::Kept),
            Ok((scored, embeddings)) => {
                if let Some(looked) = embeddings {
                    folder::write_embeddings(&self.options.out, system, &case.id, &looked)?;
                }
                self.write(&path, &scored)?;
                Ok(Done::Scored)
            }
            Err(fault) if of_video(&fault) => {
                let why = Failure::of(&fault);
                self.write(&path, &Raw { failure: Some(why.clone()), ..bare })?;
                Ok(Done::Unreadable(why))
            }
            Err(fault) => Err(fault),
        }
    }

    fn write(&self, path: &Path, raw: &Raw) -> Result<()> {
        if let Some(folder) = path.parent() {
            anyid_files::output::make_folder(folder)?;
        }
        write_json(path, raw)
    }

    /// The numbers of a video; those that are known already are kept.
    fn score(
        &self,
        mut raw: Raw,
        old: Option<&Raw>,
        case: &Case,
        path: &Path,
    ) -> Result<(Raw, Option<Looked>)> {
        let Tools { identity, elements, detectors, judge } = self.tools;
        let sha256 = hash_file(path)?;
        let same = old.filter(|old| old.video.as_ref().is_some_and(|v| v.sha256 == sha256));
        let key = |parts: Value| hash(parts.to_string().as_bytes());
        // What is not measured now and was measured of the same video stays.
        raw.identity = same.and_then(|old| old.identity.clone());
        raw.elements = same.and_then(|old| old.elements.clone());
        raw.judged = same.and_then(|old| old.judged.clone());

        let mut of_references = Vec::new();
        for file in &case.references {
            of_references.push(self.root_fault(self.hash(file))?);
        }
        let identity = identity.as_ref().map(|measure| {
            let parts = json!([measure.key, sha256, case.references, of_references]);
            (measure, key(parts))
        });
        let identity =
            identity.filter(|(_, key)| raw.identity.as_ref().is_none_or(|old| old.key != *key));
        let primary = self.options.root.join(&case.primary);
        let wanted = match elements {
            Some(_) if !case.preserve.is_empty() => elements::wanted(&case.preserve, &primary)?,
            _ => Vec::new(),
        };
        let finder = self.tools.identity.as_ref().map(|m| (&m.detectors, m.key.as_str()));
        let finder = finder.or(detectors.as_ref().map(|(own, hash)| (own, hash.as_str())));
        let elements = elements.as_ref().filter(|_| !wanted.is_empty()).map(|measure| {
            let names: Vec<Value> =
                wanted.iter().map(|one| json!([one.element.name(), one.noun])).collect();
            let by = finder.map(|(_, key)| key);
            let at = case.references.iter().position(|file| *file == case.primary);
            let primary = at.map(|at| &of_references[at]);
            (measure, key(json!([measure.key, by, sha256, primary, names])))
        });
        let elements =
            elements.filter(|(_, key)| raw.elements.as_ref().is_none_or(|old| old.key != *key));
        let judge = judge
            .as_ref()
            .map(|judge| Ok((judge, key(json!([judge.key(case)?, sha256])))))
            .transpose()?;
        let judge = judge.filter(|(_, key)| raw.judged.as_ref().is_none_or(|old| old.key != *key));
        if let (None, None, None, Some(same)) = (&identity, &elements, &judge, same) {
            raw.video =
                same.video.as_ref().map(|video| Video { path: name_of(path), ..video.clone() });
            return Ok((raw, None));
        }

        let facts = footage::facts(path)?;
        let Some(fps) = facts.fps.filter(|_| facts.clip) else {
            return Err(Error::input("E0802", "this is a single picture, not a video")
                .at(path.display())
                .help("put the video of the case in its place"));
        };
        raw.video = Some(Video {
            path: name_of(path),
            sha256,
            width: facts.width,
            height: facts.height,
            frames: facts.frames,
            fps,
        });
        let places = |count: usize| footage::spread(facts.frames, count);
        let of_faces = identity.as_ref().map_or_else(Vec::new, |(m, _)| places(m.frames));
        let of_elements = elements.as_ref().map_or_else(Vec::new, |_| places(elements::FRAMES));
        let of_judge = judge.as_ref().map_or_else(Vec::new, |(judge, _)| places(judge.frames()));
        let all: BTreeSet<usize> =
            of_faces.iter().chain(&of_elements).chain(&of_judge).copied().collect();
        let moments = footage::take(path, &all)?;

        let mut embeddings = None;
        if let Some((measure, key)) = identity {
            let seen = case.references.iter().map(|file| self.reference(measure, file));
            let seen = seen.map(|seen| self.root_fault(seen)).collect::<Result<Vec<_>>>()?;
            let seen: Vec<&Seen> = seen.iter().map(Arc::as_ref).collect();
            let looked = measure.video(&of_faces, &moments, &seen)?;
            let [arc, cur] = looked.cosines.clone();
            let references = seen.iter().map(|seen| seen.reference.clone()).collect();
            let frames = looked.frames.clone();
            raw.identity = Some(Identity { key, references, frames, arc, cur });
            embeddings = Some(looked);
        }
        if let Some((measure, key)) = elements {
            let image = self.root_fault(still(&primary))?;
            let detectors = finder.map(|(detectors, _)| detectors);
            let elements = measure.video(&wanted, &image, &of_elements, &moments, detectors)?;
            raw.elements = Some(KeptElements { key, masks: measure.masks, elements });
        }
        if let Some((judge, key)) = judge {
            let frames: Vec<Moment> = of_judge.iter().map(|at| moments[at].clone()).collect();
            raw.judged = Some(Judged { key, ..judge.judge(case, &frames)? });
        }
        Ok((raw, embeddings))
    }

    /// A fault of a reference, which is none of the video that it is compared with.
    fn root_fault<T>(&self, result: Result<T>) -> Result<T> {
        let of_file = |fault: &Error| of_video(fault) || ["E0310", "E0911"].contains(&fault.code());
        result.map_err(|fault| match of_file(&fault) {
            true => {
                let place = fault.place().unwrap_or_default().to_owned();
                Error::input("E1701", format!("a reference cannot be read: {}", fault.message()))
                    .at(place)
                    .help("mend the file; `eval check` looks at all of them")
                    .caused_by(fault)
            }
            false => fault,
        })
    }
}

/// The picture of a reference: of a clip, its middle frame.
fn still(path: &Path) -> Result<RgbFrame> {
    let facts = footage::facts(path)?;
    let middle = facts.frames / 2;
    let mut frames = footage::take(path, &BTreeSet::from([middle]))?;
    frames
        .remove(&middle)
        .map(|moment| moment.image)
        .ok_or_else(|| Error::input("E0810", "the file has no frame").at(path.display()))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
