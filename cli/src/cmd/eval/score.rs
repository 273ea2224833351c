//! `eval run`: the videos of systems, scored case by case.

use super::set::TaskName;
use crate::cmd::prompt::CacheName;
use crate::output::{self, plural};
use crate::progress::Progress;
use crate::render;
use anyid_runtime::evaluation::elements;
use anyid_runtime::evaluation::identity::{self, Detectors, model_hash};
use anyid_runtime::evaluation::raw::{Case, Norm, read_cases};
use anyid_runtime::evaluation::run::{Judge, Options, Outcome, Tools, run as score};
use anyid_runtime::evaluation::settings::Settings;
use anyid_runtime::evaluation::systems::System;
use anyid_runtime::evaluation::vlm::{self, Vlm};
use anyid_runtime::files::make_folder;
use anyid_runtime::shard::Shard;
use anyid_runtime::study::prompt::cache::Mode;
use anyid_runtime::study::prompt::server::allowed;
use anyid_runtime::study::prompt::server::client::Server;
use anyid_runtime::{Error, Result};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Cases that are printed by name.
const SHOWN: usize = 20;

/// Videos that are scored.
#[derive(Debug, Args)]
#[command(
    after_help = "The settings name the user's own models; docs/evaluation.md has examples. The same command \
goes on where it was stopped, and adds systems, models and a judge to a folder of results. Several \
processes share the work with --shard K/N, or by the variables of Slurm, MPI, Kubernetes (with --shards N) \
or torchrun."
)]
pub struct Run {
    /// File of cases (`anyid.case/1`).
    #[arg(long, value_name = "FILE")]
    pub cases: PathBuf,
    /// Where paths of references start [default: the folder of the cases].
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// A system: its name and the folder of its videos, called after their cases or named in a table with
    /// case and path; may be given several times.
    #[arg(long = "system", value_name = "NAME=DIR[,TABLE]", required = true)]
    pub systems: Vec<String>,
    /// A system that was made for one task alone, such as phantom=ipt2v.
    #[arg(long, value_name = "NAME=TASK")]
    pub only: Vec<String>,
    /// What has to be known of a system, such as short="given prompt_short".
    #[arg(long, value_name = "NAME=TEXT")]
    pub note: Vec<String>,
    /// The folder of results.
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
    /// Settings (TOML) with the models and the judge.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Frames of a video whose faces are looked at [default: 16].
    #[arg(long, value_name = "N")]
    pub frames: Option<usize>,
    /// What becomes of cosines of faces in tables [default: affine, (cosine + 1)/2].
    #[arg(long, value_enum)]
    pub norm_holi: Option<NormName>,
    /// What becomes of cosines of elements in tables [default: plain].
    #[arg(long, value_enum)]
    pub norm_ele: Option<NormName>,
    /// How elements are outlined: by networks, or by boxes about the face, which is approximate.
    #[arg(long, value_enum, default_value_t)]
    pub ele_masks: MasksName,
    /// How often a judge is asked about each video; the median counts.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub repeats: usize,
    /// Have a judge say the three numbers of the prompt directly, and not fact by fact.
    #[arg(long)]
    pub holistic: bool,
    /// Videos that never change, with their cases: they are judged again with this run, and it is told
    /// where their means have moved.
    #[arg(long, value_name = "DIR")]
    pub anchors: Option<PathBuf>,
    /// What is done with answers of a judge that are kept.
    #[arg(long, value_enum, default_value_t)]
    pub cache: CacheName,
    /// Stop when a judge has cost more than this.
    #[arg(long, value_name = "X")]
    pub max_cost: Option<f64>,
    /// Call a judge on another machine without TLS.
    #[arg(long)]
    pub insecure_http: bool,
    /// The people in the videos agreed that their pictures go to the judge.
    #[arg(long)]
    pub yes: bool,
    /// This part of the work, such as 3/16 [default: what a launcher's variables say, or all].
    #[arg(long, value_name = "K/N")]
    pub shard: Option<String>,
    /// Number of parts, for launchers that do not say it.
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
    /// Threads. Results do not depend on them.
    #[arg(long, value_name = "T")]
    pub threads: Option<usize>,
    /// Measure again what was measured with other models or of videos that are gone.
    #[arg(long)]
    pub redo: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A normalisation, as flags write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NormName {
    /// (cosine + 1)/2.
    Affine,
    /// The cosine, at least 0.
    Positive,
    /// The cosine.
    Plain,
}

impl From<NormName> for Norm {
    fn from(name: NormName) -> Self {
        match name {
            NormName::Affine => Self::Affine,
            NormName::Positive => Self::Positive,
            NormName::Plain => Self::Plain,
        }
    }
}

/// How elements are outlined, as flags write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum MasksName {
    /// By Grounding DINO and SAM.
    #[default]
    Segmented,
    /// By boxes about the face.
    Geometric,
}

/// Adds what `NAME=…` flags say of systems.
fn told<'f>(
    flag: &str,
    texts: &'f [String],
    systems: &mut [System],
    set: &mut dyn FnMut(&mut System, &'f str) -> bool,
) -> Result<()> {
    for text in texts {
        let wrong = |what: String| Error::input("E1703", what).at(flag.to_owned());
        let (name, what) = text
            .split_once('=')
            .ok_or_else(|| wrong(format!("\"{text}\" has no \"=\"")).help("write NAME=WHAT"))?;
        let names: Vec<String> = systems.iter().map(|system| system.name.clone()).collect();
        let system = systems.iter_mut().find(|system| system.name == name).ok_or_else(|| {
            wrong(format!("there is no system \"{name}\""))
                .help(format!("the systems are: {}", names.join(", ")))
        })?;
        if !set(system, what) {
            let help = "the tasks are ipt2v and iept2v";
            return Err(wrong(format!("\"{what}\" is no task")).help(help));
        }
    }
    Ok(())
}

fn systems(args: &Run) -> Result<Vec<System>> {
    let parsed = args.systems.iter().map(|text| System::parse(text));
    let mut systems = parsed.collect::<Result<Vec<_>>>()?;
    told("--only", &args.only, &mut systems, &mut |system, task| {
        TaskName::from_str(task, true).map(|task| system.tasks.insert(task.into())).is_ok()
    })?;
    told("--note", &args.note, &mut systems, &mut |system, note| {
        system.note = Some(note.to_owned());
        true
    })?;
    Ok(systems)
}

/// The settings with what flags say.
fn settings(args: &Run) -> Result<Settings> {
    let mut settings = Settings::open(&args.config)?;
    settings.frames = args.frames.unwrap_or(settings.frames);
    settings.norm_holi = args.norm_holi.map_or(settings.norm_holi, Norm::from);
    settings.norm_ele = args.norm_ele.map_or(settings.norm_ele, Norm::from);
    settings.check()?;
    Ok(settings)
}

/// The judge that the settings name.
fn judge(args: &Run, settings: &Settings, cases: &[Case]) -> Result<Option<Vlm>> {
    let Some(profile) = settings.judge.as_ref().and_then(|name| settings.llm.get(name)) else {
        return Ok(None);
    };
    let folder = args.out.join("vlm");
    let opened = |mode: Mode, facts: &Path, cases: &[Case]| -> Result<Vlm> {
        let variable = |name: &str| std::env::var(name).ok();
        let cache = folder.join("cache");
        let cost = args.max_cost;
        let server = Server::open(profile, &cache, mode, args.insecure_http, cost, &variable)?;
        let options = vlm::Options { repeats: args.repeats.max(1), holistic: args.holistic };
        if mode != Mode::ReadOnly {
            make_folder(&folder)?;
            // Frames of each video, in two questions.
            let frames = 2 * profile.max_images.min(16) * options.repeats;
            allowed(&folder, &server, frames * cases.len() * args.systems.len(), args.yes)?;
        }
        Vlm::open(server, facts, options, cases)
    };
    let mode = match args.cache {
        CacheName::Rw => Mode::ReadWrite,
        CacheName::Ro => Mode::ReadOnly,
        CacheName::Off => Mode::Off,
    };
    let own = opened(mode, &folder, cases)?;
    if let Some(anchors) = &args.anchors {
        // Of answers that are kept nothing would be learned, and their facts stay the same.
        let cases = read_cases(&anchors.join("cases.jsonl"))?;
        let fresh = opened(Mode::Off, anchors, &cases)?;
        let found = vlm::anchors::judged(&fresh, anchors, &folder.join("anchors.json"))?;
        let moved = found["moved"].as_object().into_iter().flatten();
        for (metric, by) in moved {
            let by = by.as_f64().unwrap_or_default();
            render::warn(&format!(
                "the judge has drifted: {metric} of the anchors moved by {by:+.1} points"
            ));
        }
    }
    Ok(Some(own))
}

fn tools(args: &Run, settings: &Settings) -> Result<Tools> {
    let identity = identity::Measure::open(settings)?;
    let elements = elements::Measure::open(settings, args.ele_masks == MasksName::Geometric)?;
    let detectors = match (&identity, &elements, &settings.face) {
        (None, Some(_), Some(face)) => Some((Detectors::open(face)?, model_hash(&face.path)?)),
        _ => None,
    };
    let judge = match settings.judge {
        Some(_) => judge(args, settings, &read_cases(&args.cases)?)?,
        None => None,
    };
    let judge = judge.map(|judge| Box::new(judge) as Box<dyn Judge>);
    Ok(Tools { identity, elements, detectors, judge })
}

/// Runs the verb.
///
/// # Errors
/// E170x, E1307 for a part that there is not, those of models and the judge, E101x.
pub fn run(args: &Run) -> Result<()> {
    let settings = settings(args)?;
    let systems = systems(args)?;
    let variable = |name: &str| std::env::var(name).ok();
    let (shard, source) = Shard::find(args.shard.as_deref(), args.shards, &variable)?;
    if let (true, Some(source)) = (shard != Shard::WHOLE, source) {
        output::note(&format!("part {shard} (by {source})"));
    }
    let tools = tools(args, &settings)?;
    let known = |models: &[anyid_runtime::evaluation::raw::ModelFile]| -> Vec<String> {
        models.iter().filter_map(|model| model.licence.clone()).collect()
    };
    let mut licences = tools.identity.as_ref().map_or_else(Vec::new, |m| known(&m.models));
    licences.dedup();
    licences.iter().for_each(|licence| output::note(&format!("note: {licence}")));
    let folder = args.cases.parent().unwrap_or(Path::new("")).to_owned();
    let available = || std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let options = Options {
        cases: args.cases.clone(),
        root: args.root.clone().unwrap_or(folder),
        out: args.out.clone(),
        systems,
        norms: settings.norms(),
        shard,
        threads: args.threads.unwrap_or_else(available).max(1),
        redo: args.redo,
        command: std::env::args().collect::<Vec<_>>().join(" "),
    };
    let mut progress = Progress::new();
    progress.part("scoring");
    let outcome = score(&options, &tools, &mut |done, count| {
        progress.update(done as u64, count as u64, || format!("{done} of {count} videos"));
    });
    progress.clear();
    tell(args, &outcome?)
}

/// Prints what came of it.
fn tell(args: &Run, outcome: &Outcome) -> Result<()> {
    let Outcome { scored, kept, missing, unreadable, summary } = outcome;
    let summary = summary.as_ref().map(|path| path.display().to_string());
    if args.json {
        let missing: Vec<_> =
            missing.iter().map(|(system, case)| json!({"system": system, "case": case})).collect();
        let one = |(system, case, why): &(String, String, _)| json!({ "system": system, "case": case, "error": why });
        let unreadable: Vec<_> = unreadable.iter().map(one).collect();
        return output::print_json(&json!({
            "scored": scored, "kept": kept, "missing": missing, "unreadable": unreadable,
            "folder": args.out.display().to_string(), "summary": summary,
        }));
    }
    for (system, case) in missing.iter().take(SHOWN) {
        render::warn(&format!("{system} has no video of case {case}"));
    }
    for (system, case, why) in unreadable.iter().take(SHOWN) {
        render::warn(&format!(
            "{system}: the video of case {case}: [{}] {}",
            why.code, why.message
        ));
    }
    let more = missing.len().saturating_sub(SHOWN) + unreadable.len().saturating_sub(SHOWN);
    if more > 0 {
        render::warn(&format!("and {more} more; with --json they are listed"));
    }
    let kept = if *kept > 0 { format!(", {kept} kept") } else { String::new() };
    let lost = missing.len() + unreadable.len();
    let lost = if lost > 0 { format!(", {lost} missing") } else { String::new() };
    let end = match summary {
        Some(path) => path,
        None => format!("{} (other parts are still to come)", args.out.display()),
    };
    output::print(&format!("{} scored{kept}{lost}: {end}\n", plural(*scored, "video")))
}
