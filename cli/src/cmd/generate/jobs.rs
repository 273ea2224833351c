//! Many videos by one command: the lines of `--jobs`, or several `--seeds`.
//!
//! Everything that can be known of all of them is found out before the first is begun. What is done is
//! told by what is there: a video whose recipe is that of its job is not made again, so that the same
//! command goes on where it was stopped, by whatever. A job that fails is told and the others are made,
//! unless what it failed for concerns them as well.

use super::lines::{self, Job};
use super::opened::agree;
use super::wishes::{Wishes, fill, read_noise, sized, wanted_size, wishes};
use super::{existing, made, make, options, pipeline_of, places};
use crate::cmd::generate::args::{Generate, Seed};
use crate::output::{self, plural};
use crate::recipe::{self, Recipe};
use crate::render::{self, Failure};
use crate::trace::TraceFile;
use anyid_runtime::files::{fresh_name, is_direct};
use anyid_runtime::media::writer::{VideoWriter, WriterOptions};
use anyid_runtime::pipeline::{Budget, FoundState, differences};
use anyid_runtime::shard::Shard;
use anyid_runtime::{
    Cancel, Error, Keep, Kind, Model, Pipeline, ReferenceSource, Request, Result, Size,
};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// What is known of a job before it is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Its video is there.
    Done,
    /// It is to be made.
    Wanted,
}

/// Runs all jobs of the command.
///
/// # Errors
/// E1303 for lines that cannot be made, E1307 for a part that there is not, E1308 where jobs failed, and
/// what ends a run of one video.
pub(super) fn run(args: &Generate, cancel: &Cancel) -> std::result::Result<(), Failure> {
    if args.recipe.is_some() || matches!(args.resume, Some(Some(_))) {
        return Err(Error::input("E0900", "several videos have no recipe or state in common")
            .at(if args.recipe.is_some() { "--recipe" } else { "--resume FILE" })
            .help("give the settings as flags, and --resume without a file")
            .into());
    }
    if let Some(pipe) = args.output.as_deref().filter(|output| is_direct(output)) {
        return Err(to_pipe(pipe).into());
    }
    let (jobs, mut faults) = match &args.jobs {
        Some(path) => lines::read(path, args)?,
        None => (lines::of_seeds(args), Vec::new()),
    };
    let variable = |name: &str| std::env::var(name).ok();
    let (shard, source) = match &args.jobs {
        Some(_) => Shard::find(args.shard.as_deref(), args.shards, &variable)?,
        None => (Shard::WHOLE, None),
    };
    let all = jobs.len();
    let jobs: Vec<Job> = jobs.into_iter().filter(|job| shard.has(&job.name)).collect();
    if let Some(source) = source {
        note(&format!("part {shard} by {source}: {} of {}", jobs.len(), plural(all, "job")));
    }
    let trace = TraceFile::wanted(args.trace.as_deref(), existing(args.force))?;
    let backend = trace.watch(args.on.open()?);
    let first = wishes(&first_of(args))?;
    let model = match first.model.is_empty() {
        true => Model::built_in(),
        false => Model::of_parts(&first.model),
    };
    let mut pipeline = pipeline_of(args, &first, model, backend)?;
    let mut known = Vec::new();
    let mut forms = HashSet::new();
    for job in &jobs {
        match look(job, &pipeline, &mut forms) {
            Ok(found) => known.push(found),
            Err(error) if error.kind() == Kind::Input => {
                faults.push((job.line, said(&error)));
                known.push(Known::Wanted);
            }
            Err(error) => return Err(error.into()),
        }
    }
    if !faults.is_empty() {
        return Err(lines::refused(faults, args.jobs.as_deref()).into());
    }
    let done = known.iter().filter(|known| **known == Known::Done).count();
    if done > 0 {
        note(&format!("{done} of {} done already", plural(jobs.len(), "video")));
    }
    if args.dry_run {
        let told = match args.json {
            true => output::print_json(&listed_json(&jobs, &known)),
            false => output::print(&listed(&jobs, &known)),
        };
        return Ok(told?);
    }
    if args.jobs.is_some() {
        jobs.iter().try_for_each(make_folder)?;
    }
    let wanted = jobs.iter().zip(&known).find(|(_, known)| **known == Known::Wanted);
    if let Some((job, _)) = wanted {
        pipeline = kept(pipeline, job, cancel)?;
    }
    let outcome = run_each(&jobs, &known, &pipeline, args.json, cancel);
    let traced = trace.write();
    outcome?;
    Ok(traced?)
}

/// The command with a prompt and an output, which lines may have instead.
fn first_of(args: &Generate) -> Generate {
    let prompt = Some(args.prompt.clone().unwrap_or_default());
    let output = Some(args.output.clone().unwrap_or_else(|| "out.mp4".into()));
    Generate { prompt, output, resume: None, ..args.clone() }
}

fn note(line: &str) {
    if !output::quiet() {
        output::note(line);
    }
}

/// An error in one line.
fn said(error: &Error) -> String {
    let place = error.place().map_or_else(String::new, |place| format!(" ({place})"));
    format!("[{}] {}{place}", error.code(), error.message())
}

/// The request of a job, with what it was made of and the frame rate.
fn asked(job: &Job, model: &Model) -> Result<(Wishes, Request, f64)> {
    let args = &job.args;
    let wishes = wishes(args)?;
    let size = wanted_size(args, &wishes, model.geometry(), model.dit.sample)?;
    let references = wishes.references.iter().cloned().map(ReferenceSource::File).collect();
    let first_frame = wishes.first_frame.clone().map(ReferenceSource::File);
    let mut request = Request { size, references, first_frame, ..Request::default() };
    if let Some(misfit) = size.misfit(model.geometry(), request.most_side()) {
        return Err(sized(misfit, args, &wishes));
    }
    request.prompt.clone_from(&wishes.prompt);
    fill(&mut request, args, None, (model.dit.sample_steps, model.dit.sample_guidance))?;
    request.noise = wishes.noise.as_deref().map(read_noise).transpose()?;
    Ok((wishes, request, args.fps.unwrap_or(24.0)))
}

/// Finds out all that can be known of a job before it is begun.
fn look(job: &Job, pipeline: &Pipeline, forms: &mut HashSet<String>) -> Result<Known> {
    let args = &job.args;
    if is_direct(&job.output) {
        return Err(to_pipe(&job.output));
    }
    if matches!(args.seed, Some(Seed::Random)) {
        let what = "a random seed is another one whenever the command is repeated";
        return Err(Error::input("E1303", what).at("seed"));
    }
    let (wishes, request, fps) = asked(job, pipeline.model())?;
    let options = options(args, &wishes, fps);
    agree(options.writer.format, &job.output)?;
    places(args, &wishes, &options).check()?;
    request.check(pipeline.model())?;
    let mut made = made(pipeline, &request, &wishes, fps)?;
    made.choices.coding = options.writer.coding;
    let mut wanted =
        || try_form(&job.output, request.size, fps, &options.writer, forms).map(|()| Known::Wanted);
    if !job.output.exists() {
        return wanted();
    }
    let differ = match Recipe::read(&recipe::path_beside(&job.output)) {
        Ok(old) if old.fps != fps => "its frame rate differs".to_owned(),
        Ok(old) if old.choices.coding != made.choices.coding => "its coding differs".to_owned(),
        Ok(old) => match &differences(&old, &made)[..] {
            [] => {
                // Left by a run that was killed when all was done.
                let left = wishes.state.as_deref().filter(|_| !args.dry_run);
                if let Some(Ok(Some(found))) = left.map(FoundState::find)
                    && found.check(&made).is_ok()
                {
                    let _ = std::fs::remove_file(&found.path);
                }
                return Ok(Known::Done);
            }
            some => format!("they differ in {}", some.join(", ")),
        },
        Err(_) => "there is no recipe beside it".to_owned(),
    };
    match args.force {
        true => wanted(),
        false => Err(Error::input("E1016", format!("another video is there ({differ})"))
            .at(job.output.display())),
    }
}

/// Opens a result of the same form elsewhere, as a run opens it, so that the form, its coding, size and rate
/// are known to go together; each combination once. The place of the result may not be there yet.
fn try_form(
    output: &Path,
    Size { width, height, .. }: Size,
    fps: f64,
    options: &WriterOptions,
    forms: &mut HashSet<String>,
) -> Result<()> {
    let Some(ending) = output.extension() else {
        return Ok(());
    };
    let key = format!("{ending:?} {width}x{height} {fps} {options:?}");
    if forms.contains(&key) {
        return Ok(());
    }
    let folder = fresh_name(&std::env::temp_dir(), "anyid-rt-", "");
    if std::fs::create_dir(&folder).is_err() {
        // A run says what is wrong there.
        return Ok(());
    }
    let path = folder.join("video").with_extension(ending);
    let opened = VideoWriter::create(&path, width, height, fps, options).map(drop);
    let _ = std::fs::remove_dir_all(&folder);
    match opened {
        // Faults of the place are not those of the form.
        Err(error) if !error.code().starts_with("E10") => Err(error.placed(output.display())),
        _ => {
            forms.insert(key);
            Ok(())
        }
    }
}

fn to_pipe(output: &Path) -> Error {
    Error::input("E1303", "one of many videos cannot go to a pipe")
        .at(output.display())
        .help("name a file, or a folder for all of them")
}

/// Makes the folder of a video where it is missing.
fn make_folder(job: &Job) -> Result<()> {
    let clean: PathBuf = job.output.components().collect();
    match clean.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::create_dir_all(folder)
            .map_err(|fault| anyid_runtime::checkpoint::write_error(folder, fault)),
        None => Ok(()),
    }
}

/// The pipeline with its networks kept between jobs, if those of `job` fit into memory together.
fn kept(pipeline: Pipeline, job: &Job, cancel: &Cancel) -> Result<Pipeline> {
    let (_, request, _) = asked(job, pipeline.model())?;
    if request.budget != Budget::Refuse {
        return Ok(pipeline);
    }
    let pipeline = pipeline.keep(Keep::Loaded);
    let planned = pipeline.plan(&request, cancel, &mut |_| {}).map(drop);
    match planned {
        Err(error) if error.kind() == Kind::Budget => Ok(pipeline.keep(Keep::Released)),
        // Other faults are those of the job.
        _ => Ok(pipeline),
    }
}

/// Makes the videos that are wanted.
fn run_each(
    jobs: &[Job],
    known: &[Known],
    pipeline: &Pipeline,
    as_json: bool,
    cancel: &Cancel,
) -> std::result::Result<(), Failure> {
    let mut reports: Vec<Value> = Vec::new();
    let mut failed: Vec<String> = Vec::new();
    let count = jobs.len();
    let mut ended = None;
    for (at, (job, known)) in jobs.iter().zip(known).enumerate() {
        let shown = json!({ "name": job.name, "line": job.line, "output": job.output });
        let report = |state: &str, key: &str, value: Value| {
            let mut own = shown.clone();
            own["state"] = json!(state);
            own[key] = value;
            own
        };
        if *known == Known::Done {
            reports.push(report("done before", "report", Value::Null));
            continue;
        }
        note(&format!("video {} of {count}: {} to {}", at + 1, job.name, job.output.display()));
        let error = match make(&job.args, Some(pipeline), cancel) {
            Ok(made) => {
                if !as_json {
                    output::print(&format!("{}\n", made.text.lines().next().unwrap_or_default()))?;
                }
                reports.push(report("made", "report", made.json));
                continue;
            }
            Err(Failure::Error(error)) => error,
            Err(other) => return Err(other),
        };
        reports.push(report("failed", "error", json!(said(&error))));
        // What concerns all of them ends the work; what is of one job does not.
        let all = matches!(error.kind(), Kind::Interrupted | Kind::Internal);
        if all || error.code() == "E1012" {
            let made = reports.iter().filter(|own| own["state"] != "failed").count();
            let what = format!("{made} of {count} videos are there: the same command goes on");
            ended = Some(error.also(what));
            break;
        }
        render::report(&error.into());
        failed.push(job.name.clone());
    }
    if as_json {
        output::print_json(&json!({ "jobs": reports }))?;
    }
    if let Some(error) = ended {
        return Err(error.into());
    }
    if failed.is_empty() {
        return Ok(());
    }
    let message =
        format!("{} of {} failed: {}", failed.len(), plural(count, "video"), shown(&failed));
    Err(Error::input("E1308", message)
        .help("the errors are above; the same command makes those that are missing")
        .into())
}

/// A few names of many.
fn shown(names: &[String]) -> String {
    let some: Vec<&str> = names.iter().take(5).map(String::as_str).collect();
    let more = names.len().saturating_sub(5);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", some.join(", "))
}

/// What would be done.
fn listed(jobs: &[Job], known: &[Known]) -> String {
    let mut rows = vec![["video", "line", "output", ""].map(str::to_owned).to_vec()];
    for (job, known) in jobs.iter().zip(known) {
        let state = if *known == Known::Done { "done" } else { "to make" };
        let output: &Path = &job.output;
        rows.push(vec![
            job.name.clone(),
            job.line.to_string(),
            output.display().to_string(),
            state.to_owned(),
        ]);
    }
    output::table(&rows)
}

fn listed_json(jobs: &[Job], known: &[Known]) -> Value {
    let one = |(job, known): (&Job, &Known)| {
        let state = if *known == Known::Done { "done before" } else { "to make" };
        json!({ "name": job.name, "line": job.line, "output": job.output, "state": state })
    };
    json!({ "dry_run": true, "jobs": jobs.iter().zip(known).map(one).collect::<Vec<_>>() })
}
