//! `data`: from a folder of videos to a manifest of samples. The library does the steps; here are
//! flags, progress and what is printed.

pub mod args;

use crate::output;
use crate::progress::Progress;
use crate::render::Failure;
use anyid_runtime::shard::Shard;
use anyid_runtime::study::group::threshold::threshold;
use anyid_runtime::study::materialize::{self, Cut};
use anyid_runtime::study::records::{Clip, Span, schema};
use anyid_runtime::study::settings::Settings;
use anyid_runtime::study::stages::part::Done;
use anyid_runtime::study::stages::{Job, Stage};
use anyid_runtime::study::{check, detect, lines, report};
use anyid_runtime::{Error, Result};
use args::{Check, DataVerb, Group, Merge, Report, Sample, Work};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

/// Faults of a file that are printed.
const SHOWN: usize = 20;

/// Runs the verb.
///
/// # Errors
/// E12xx for what the steps refuse, and those of reading and writing.
pub fn run(verb: DataVerb) -> std::result::Result<(), Failure> {
    match verb {
        DataVerb::Index(work) => stage(&work, Stage::Index)?,
        DataVerb::Shots(work) => stage(&work, Stage::Shots)?,
        DataVerb::Detect(work) => stage(&work, Stage::Detect)?,
        DataVerb::Filter(work) => stage(&work, Stage::Filter)?,
        DataVerb::Group(args) => group(&args)?,
        DataVerb::Describe(work) => {
            whole(&work)?;
            let described = work.job()?.0.describe()?;
            let text = format!("{described} clips are described");
            say(&work, &text, "desc.jsonl", json!({"described": described}))?;
        }
        DataVerb::Sample(args) => sample(&args)?,
        DataVerb::All(work) => all(&work)?,
        DataVerb::Merge(args) => merge(&args)?,
        DataVerb::Report(args) => page(&args)?,
        DataVerb::Check(args) => checked(&args)?,
    }
    Ok(())
}

/// Runs with a line of progress about the step and how many files are done.
fn with_progress<T>(work: impl FnOnce(&mut dyn FnMut(&'static str, usize)) -> T) -> T {
    let mut progress = Progress::new();
    let mut part = "";
    let out = work(&mut |name, count| {
        if part != name {
            progress.part(name);
            part = name;
        }
        progress.update(count as u64, u64::MAX, || format!("{count} done"));
    });
    progress.clear();
    out
}

/// Prints what came of a step, and where it is.
fn say(work: &Work, text: &str, file: &str, mut value: Value) -> Result<()> {
    let path = work.out.join(file);
    if work.json {
        value["file"] = path.display().to_string().into();
        return output::print_json(&value);
    }
    output::print(&format!("{text}: {}\n", path.display()))
}

fn of_done(done: &Done) -> Value {
    json!({
        "files": done.items, "lines": done.records, "errors": done.errors, "seconds": done.seconds,
    })
}

fn words_of(done: &Done) -> String {
    let (items, records, errors) = (done.items, done.records, done.errors);
    let errors =
        if errors > 0 { format!(", {errors} files could not be used") } else { String::new() };
    format!("{records} lines of {items} files{errors}")
}

/// Says what users of the models of a step have to know.
fn licences(job: &Job, stage: Stage) {
    if stage == Stage::Detect {
        for what in detect::licences(&job.settings.detect) {
            output::note(&format!("note: {what}"));
        }
    }
}

/// Refuses to share what is not done file by file.
fn whole(work: &Work) -> Result<()> {
    let Some(leases) = &work.claim else { return Ok(()) };
    Err(Error::input("E1203", "this step looks at everything and is not shared")
        .at(leases.display())
        .help("--claim goes with index, shots, detect and filter"))
}

/// Does as much of a step as no other process is at work on.
fn claim(work: &Work, stage: Stage, leases: &Path) -> Result<()> {
    let job = work.job()?.0;
    licences(&job, stage);
    let found = with_progress(|told| job.claim(stage, leases, told))?;
    let (own, elsewhere) = (found.own, found.elsewhere);
    let mut value = json!({"own": own, "elsewhere": elsewhere});
    let text = match &found.done {
        Some(done) => {
            value["whole"] = of_done(done);
            format!("{own} files here, all of them finished, {}", words_of(done))
        }
        None => format!("{own} files here, {elsewhere} are still at work elsewhere"),
    };
    say(work, &text, stage.file(), value)
}

fn stage(work: &Work, stage: Stage) -> Result<()> {
    if let Some(leases) = &work.claim {
        return claim(work, stage, leases);
    }
    let (job, source) = work.job()?;
    licences(&job, stage);
    if let (true, Some(source)) = (job.shard != Shard::WHOLE, source) {
        output::note(&format!("part {} (by {source})", job.shard));
    }
    let done = with_progress(|told| job.stage(stage, told))?;
    let file = match job.shard == Shard::WHOLE {
        true => stage.file().to_owned(),
        false => format!("{}/{}.jsonl", stage.name(), job.shard.name()),
    };
    let mut value = of_done(&done);
    value["part"] = job.shard.to_string().into();
    say(work, &words_of(&done), &file, value)
}

fn group(args: &Group) -> Result<()> {
    let work = &args.work;
    whole(work)?;
    let job = work.job()?.0;
    if let Some(pairs) = &args.calibrate {
        let found = threshold(pairs, &job.clips_read()?)?;
        if work.json {
            return output::print_json(&json!(found));
        }
        return output::print(&format!(
            "group.edge = {}: links {:.4} of {} pairs of one person and {:.4} of {} pairs of two\n",
            found.edge, found.found, found.same, found.wrong, found.different
        ));
    }
    let (groups, left) = job.group()?;
    let text = format!("{groups} groups, {left} clips in none");
    say(work, &text, "groups.jsonl", json!({"groups": groups, "left": left}))
}

fn sample(args: &Sample) -> Result<()> {
    let work = &args.work;
    whole(work)?;
    let job = work.job()?.0;
    let made = with_progress(|told| job.sample(told))?;
    let mut value = json!({"samples": made});
    let Some(into) = &args.materialize else {
        return say(work, &format!("{made} samples"), "train.jsonl", value);
    };
    let wanted = &job.settings.sample;
    let cut = Cut {
        manifest: &job.path("train.jsonl"),
        root: &job.root,
        into,
        size: [wanted.width, wanted.height],
        first: args.first,
        // Each holds a clip in memory.
        threads: job.threads.min(4),
    };
    let count = with_progress(|told| cut.write(&mut |count| told("materialize", count)))?;
    let path = materialize::manifest(into).display().to_string();
    value["materialized"] = json!({"samples": count, "file": path});
    let text = format!("{count} of them as files: {path}\n{made} samples");
    say(work, &text, "train.jsonl", value)
}

fn all(work: &Work) -> Result<()> {
    whole(work)?;
    let job = work.job()?.0;
    licences(&job, Stage::Detect);
    let totals = with_progress(|told| job.all(told));
    if totals.is_ok() || job.path("groups.jsonl").exists() {
        // Where no sample can be drawn it shows what became of the videos.
        report::write(&job.out, Some(&job.root), false)?;
    }
    let totals = totals?;
    if work.json {
        let stages: serde_json::Map<String, Value> =
            totals.stages.iter().map(|(name, done)| ((*name).to_owned(), of_done(done))).collect();
        let value = json!({
            "stages": stages, "groups": totals.groups, "left": totals.left,
            "samples": totals.samples, "file": job.path("train.jsonl").display().to_string(),
        });
        return output::print_json(&value);
    }
    let mut text = String::new();
    for (name, done) in &totals.stages {
        text.push_str(&format!("{name}: {}\n", words_of(done)));
    }
    text.push_str(&format!("{} groups, {} clips in none\n", totals.groups, totals.left));
    let (train, page) = (job.path("train.jsonl"), job.path("report.html"));
    text.push_str(&format!("{} samples: {}\n", totals.samples, train.display()));
    text.push_str(&format!("report: {}\n", page.display()));
    output::print(&text)
}

/// A job of one process in a folder of results.
pub fn in_folder(out: &Path, root: &Path, settings: Settings) -> Job {
    let (out, root) = (out.to_owned(), root.to_owned());
    Job { root, lines: None, out, settings, shard: Shard::WHOLE, threads: 1, redo: false }
}

fn merge(args: &Merge) -> Result<()> {
    let stage = Stage::from(args.stage);
    let done = in_folder(&args.out, Path::new(""), Settings::default()).merge(stage)?;
    let path = args.out.join(stage.file());
    if args.json {
        let mut value = of_done(&done);
        value["file"] = path.display().to_string().into();
        return output::print_json(&value);
    }
    output::print(&format!("{}: {}\n", words_of(&done), path.display()))
}

fn page(args: &Report) -> Result<()> {
    let found = report::write(&args.out, args.root.as_deref(), args.show_faces)?;
    if args.json {
        return output::print_json(&found);
    }
    output::print(&format!("report: {}\n", args.out.join("report.html").display()))
}

fn checked(args: &Check) -> Result<()> {
    let clips = match &args.clips {
        Some(path) => {
            let all: Vec<Clip> = lines::all(path, schema::CLIP)?;
            let spans = all.into_iter().map(|clip| (clip.span.id.clone(), clip.span));
            Some(spans.collect::<HashMap<String, Span>>())
        }
        None => None,
    };
    let mut found = check::check(&args.file, clips.as_ref())?;
    if let Some(root) = &args.root {
        found.faults.extend(check::missing(&args.file, root)?);
        found.faults.sort();
    }
    if !found.faults.is_empty() {
        let shown = found.faults.iter().take(SHOWN);
        let mut list: Vec<String> = shown.map(|(n, what)| format!("  line {n}: {what}")).collect();
        if found.faults.len() > SHOWN {
            list.push(format!("  and {} more", found.faults.len() - SHOWN));
        }
        let count = anyid_runtime::error::plural(found.faults.len(), "fault");
        return Err(Error::input("E1202", format!("{count}\n{}", list.join("\n")))
            .at(args.file.display())
            .help("docs/data.md has a table of all fields"));
    }
    if args.json {
        return output::print_json(&json!({"lines": found.lines, "errors": found.errors}));
    }
    let kinds = found.lines.iter().map(|(kind, count)| format!("{count} {kind}"));
    let kinds: Vec<String> = kinds.collect();
    output::print(&format!("sound: {}\n", kinds.join(", ")))
}
