//! `generate`: makes a video and its recipe from references and a prompt.
//!
//! Everything that can be refused is refused before the long work begins: flags, files that are
//! used for two purposes, the places of all results, model, references, memory. `--dry-run` stops
//! there. The library does the work itself and decides what is kept if it fails.

mod adopted;
pub mod args;
mod changes;
mod defaults;
mod jobs;
mod lines;
pub mod opened;
mod report;
mod table;
mod watch;
mod wishes;

use crate::cmd::generate::args::{Generate, Seed};
use crate::cmd::lora;
use crate::progress::Progress;
use crate::recipe::{self, ModelEntry, Recipe, Sources};
use crate::render::{self, Failure};
use crate::trace::{self, TraceFile};
use crate::{interrupt, output, pictures};
use anyid_models::wan::Geometry;
use anyid_models::wan::config::DitConfig;
use anyid_runtime::adapter::Tolerance;
use anyid_runtime::files::is_standard_output;
use anyid_runtime::pipeline::FoundState;
use anyid_runtime::places::Places;
use anyid_runtime::safeguards::consent::Scope;
use anyid_runtime::safeguards::policy::FrameCheck;
use anyid_runtime::safeguards::{Checked, MarkAs, Safeguards, unless_locked};
use anyid_runtime::{
    Backend, Cancel, Event, FileOptions, Model, Pipeline, ReferenceSource, Request, Result,
};
use opened::{existing, open_writer, options};
use report::{report_json, report_text};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};
use watch::{Watcher, introduce};
use wishes::{Wishes, fill, read_noise, sized, wanted_size, wishes};

/// Runs the verb.
///
/// # Errors
/// Any coded error of flags, model, references, sampling or writing.
pub fn run(args: Generate) -> std::result::Result<(), Failure> {
    let (args, cancel) = (defaults::filled(changes::prompted(args)?)?, Cancel::new());
    if args.jobs.is_some() || args.seeds.is_some() {
        return jobs::run(&args, &cancel);
    }
    let made = make(&args, None, &cancel)?;
    let told = match args.json {
        true => output::print_json(&made.json),
        false => output::report(&made.text, &made.output),
    };
    // What fails now does not concern the video.
    told.and(made.traced).map_err(|error| match made.complete {
        Some(path) => error.also(format!("the video is complete: {}", path.display())),
        None => error,
    })?;
    Ok(())
}

/// What came of a run.
struct Made {
    /// The report.
    text: String,
    json: serde_json::Value,
    /// Where the video was to go; nowhere for a dry run.
    output: PathBuf,
    /// Where it is; none of a dry run.
    complete: Option<PathBuf>,
    /// Whether the trace could be written.
    traced: Result<()>,
}

/// Makes one video, with the pipeline of `shared` or one of its own.
fn make(
    args: &Generate,
    shared: Option<&Pipeline>,
    cancel: &Cancel,
) -> std::result::Result<Made, Failure> {
    let begun = Instant::now();
    let mut progress = Progress::new();
    let args = &adopted::adopted(args.clone(), &mut |warning| progress.warn(&warning))?;
    let wishes = wishes(args)?;
    let old = wishes.recipe.as_ref().map(|(_, recipe)| recipe);
    let sampling = wishes.latents.is_none();
    let now = SystemTime::now();
    let guards = args.safeguards.open()?;
    // Latents that are decoded later were made of the prompt of their own recipe.
    let texts = [Some(wishes.prompt.as_str()), old.map(|old| old.prompt.as_str())];
    let texts = if args.prompt.is_some() { &texts[..1] } else { &texts[..] };
    let negative = old.and_then(|old| old.choices.negative_prompt.as_deref());
    let negative = args.negative_prompt.as_deref().or(negative);
    let texts: Vec<&str> = texts.iter().copied().flatten().chain(negative).collect();
    let mut checked = guards.check_text(&texts, now)?;

    let model = match shared {
        Some(_) => None,
        None if wishes.model.is_empty() => Some(Model::built_in()),
        None => Some(Model::of_parts(&wishes.model)),
    };
    let model = model.map(|model| model.map_err(|error| adopted::unplaced(error, &wishes)));
    // A result that is in the way is said first, whatever the model.
    let known = shared.map(Pipeline::model).or(model.as_ref().and_then(|m| m.as_ref().ok()));
    let geometry = known.map_or(Geometry::TI2V_5B, Model::geometry);
    let real = DitConfig::ti2v_5b();
    let made_for = known.map_or(&real, |model| &model.dit);
    let size = wanted_size(args, &wishes, geometry, made_for.sample)?;
    let usual = (made_for.sample_steps, made_for.sample_guidance);
    let files = wishes.references.iter().cloned().map(ReferenceSource::File).collect();
    let first_frame = wishes.first_frame.clone().map(ReferenceSource::File);
    let mut request = Request { size, references: files, first_frame, ..Request::default() };
    if let Some(misfit) = size.misfit(geometry, request.most_side()) {
        return Err(sized(misfit, args, &wishes).into());
    }
    let fps = args.fps.or(old.map(|r| r.fps)).unwrap_or(24.0);
    let options = options(args, &wishes, fps);
    places(args, &wishes, &options).check()?;
    let sides = [size.width, size.height];
    let writer = open_writer(&wishes.output, sides, fps, &options.writer, args.json)?;
    let mut files =
        anyid_runtime::pipeline::ResultFiles::open(writer, &wishes.output, &options, sampling)?;
    let trace = match shared {
        Some(_) => TraceFile::none(),
        None => TraceFile::wanted(args.trace.as_deref(), existing(args.force))?,
    };
    interrupt::say_swept();
    let backend = match shared {
        Some(_) => None,
        None => Some(trace.watch(args.on.open()?)),
    };
    let found = match wishes.state.as_deref().map(FoundState::find).transpose() {
        // One of many videos is not held up by what is left of an earlier run of its own.
        Err(error) if shared.is_some() && error.code().starts_with("E03") => {
            let (code, what) = (error.code(), error.message());
            progress.warn(&format!("[{code}] the state is damaged ({what}): sampling begins anew"));
            None
        }
        found => found?.flatten(),
    };

    request.prompt.clone_from(&wishes.prompt);
    fill(&mut request, args, old, usual)?;
    if let Some(found) = found.as_ref().filter(|_| args.seed == Some(Seed::Random)) {
        request.seed = found.recipe.seed;
    }
    request.preview = args.preview.is_some();
    if args.preview == Some(None) && pictures::protocol().is_none() {
        render::warn(
            "this terminal is not known to show pictures: name a file, --preview FILE.png",
        );
    }
    request.noise = wishes.noise.as_deref().map(read_noise).transpose()?;
    request.latents = wishes.latents.as_ref().map(|latents| latents.tensor.clone());
    let opened = match (model, backend) {
        (Some(model), Some(backend)) => Some(pipeline_of(args, &wishes, model, backend)?),
        _ => None,
    };
    let pipeline = shared.or(opened.as_ref()).expect("a run without a shared pipeline opens one");
    let model = pipeline.model();
    if let Some((path, old)) = &wishes.recipe
        && args.parts().is_empty()
    {
        recipe::check_model(&old.model, &model.fingerprints()?, &model.source, path)?;
    }
    request.check(model)?;
    let mut made = made(pipeline, &request, &wishes, fps)?;
    made.choices.coding = options.writer.coding;
    if let Some(found) = found {
        found.check(&made)?;
        files.goes_on(&found);
        if args.tile.is_none() {
            request.tiles = found.recipe.tiles;
        }
        request.resume = Some(found.state);
    }
    let shown: Vec<_> = made.references.iter().chain(&made.choices.first_frame).cloned().collect();
    guards.check_references(&shown, Scope::Generate, &mut checked, now)?;
    guards.look_at_references(&shown, &mut checked, now)?;
    guards.ask_model(&texts, &mut checked, now)?;
    files.inspect(guards.inspector(&made, &checked, args.moderation_report.as_deref()));
    let seal = guards.seal(&files.ending(), &mut checked)?;
    made.safeguards = Some(guards.statement(&made, &checked, seal.as_ref()));
    files.seal(seal);
    let threads = args.on.thread_count();
    files.mark(guards.mark(&made).map(|mark| MarkAs { threads, ..mark }).as_ref());
    introduce(&mut progress, &made, old, model, sampling);

    let mut warnings = Vec::new();
    let mut watcher = Watcher {
        progress: &mut progress,
        steps: Duration::ZERO,
        warnings: &mut warnings,
        reading: 0,
        resumed: 0,
    };
    warn_of(&guards, &checked, &mut watcher);
    if sampling {
        let others = changes::other_styles(&wishes.prompt, &wishes.adapters);
        others.into_iter().for_each(|warning| watcher.see(Event::Warning(warning)));
    }
    // Up to here a signal ends the program at once. From here on the work stops by itself.
    interrupt::graceful(cancel.flag());
    let mut plan = pipeline.plan(&request, cancel, &mut |event| watcher.see(event))?;
    plan.receiver_holds(files.held_bytes(size))?;
    // A repetition makes the same tiles, whatever memory there is then.
    made.tiles = plan.tiles();
    if args.dry_run {
        progress.clear();
        let (phases, on) = (plan.phases(), pipeline.backend());
        let json = table::json(&made, phases, on, &wishes.output, &warnings);
        let (text, output) = (table::text(phases, on), PathBuf::new());
        return Ok(Made { text, json, output, complete: None, traced: Ok(()) });
    }
    if plan.most_bytes() >= table::WORTH_SAYING || table::changed(plan.phases()) {
        watcher.progress.note(table::text(plan.phases(), pipeline.backend()).trim_end());
    }
    let outcome = files.run(plan, cancel, Some(&made), &mut |event| watcher.see(event));
    // The trace of an interrupted or failed run is written as well.
    let traced = trace.write();
    if let Err(error) = &outcome {
        guards.note_refusal(error, &made, &checked)?;
    }
    let (report, finished) = outcome?;
    let kept = guards.finished(&made, &checked, &finished.written.path, SystemTime::now());
    progress.clear();
    finished.notes.iter().for_each(|line| output::note(line));
    let total = begun.elapsed();
    let kept = unless_locked(kept, guards.policy())
        .map(|warning| warning.iter().for_each(|warning| render::warn(warning)));
    Ok(Made {
        text: report_text(&finished, &report, total),
        json: report_json(&finished, &report, total, &warnings),
        output: wishes.output,
        complete: Some(finished.written.path),
        traced: traced.and(kept),
    })
}

/// The pipeline of a run: its model with its adapters.
fn pipeline_of(
    args: &Generate,
    wishes: &Wishes,
    model: Result<Model>,
    backend: Backend,
) -> Result<Pipeline> {
    let tolerance = Tolerance { unmatched: args.allow_unmatched, mismatch: args.allow_mismatch };
    Ok(Pipeline::new(model?.with_adapters(&wishes.adapters, tolerance)?, backend))
}

/// Says what the safeguards found, and what of them is off.
fn warn_of(guards: &Safeguards, checked: &Checked, watcher: &mut Watcher<'_>) {
    for warning in &checked.warnings {
        watcher.see(Event::Warning(warning.clone()));
    }
    let off = guards.policy().switched_off();
    if !off.is_empty() {
        watcher.see(Event::Warning(format!("switched off: {}", off.join(", "))));
    }
    if guards.policy().frames == FrameCheck::Auto && guards.policy().frame_models.is_none() {
        watcher.progress.note("frames are not checked (no model configured)");
    }
}

/// Every file that is read and written.
fn places(args: &Generate, wishes: &Wishes, options: &FileOptions) -> Places {
    let mut places = Places::new();
    for path in &wishes.references {
        places.reads("--ref", path);
    }
    args.safeguards.add_places(&mut places);
    if let Some(path) = &wishes.first_frame {
        places.reads("--first-frame", path);
    }
    if let Some(path) = &wishes.noise {
        places.reads("--noise", path);
    }
    if let Some(latents) = &wishes.latents {
        places.reads("--latents", &latents.path);
    }
    for adapter in &wishes.adapters {
        lora::reads(&mut places, "--lora", &adapter.path);
    }
    wishes.model.add_places("--model, file", "--", &mut places);
    // If a result is replaced on purpose, so is the recipe that it is repeated from. Without
    // --force the existing result is an error, which is reported when the output is opened.
    let own = recipe::path_beside(&wishes.output);
    let repeated = |path: &std::path::Path| Places::are_one(path, &own);
    if let Some(path) = args.recipe.as_deref().filter(|path| !repeated(path)) {
        places.reads("--recipe", path);
    }
    options.add_places(&wishes.output, wishes.latents.is_none(), &mut places);
    if let Some(path) = trace::path(args.trace.as_deref()) {
        places.writes("--trace", &path);
    }
    if let Some(path) = &args.moderation_report {
        places.writes("--moderation-report", path);
    }
    if !is_standard_output(&wishes.output) {
        places.prints("the report");
    }
    places
}

/// The recipe of the run.
fn made(pipeline: &Pipeline, request: &Request, wishes: &Wishes, fps: f64) -> Result<Recipe> {
    let Some(latents) = &wishes.latents else {
        let sources = Sources { noise: wishes.noise.clone(), latents: None };
        return Recipe::of(pipeline, request, fps, &wishes.output, &sources);
    };
    let output = recipe::absolute(&wishes.output)?;
    Ok(match &wishes.recipe {
        // The recipe of the run whose decoding was left to do.
        Some((_, old)) if latents.own => {
            let decoded_from = Some(recipe::hashed(&latents.path)?);
            let (now, then) = (pipeline.model(), &old.model.fingerprints);
            // Only the autoencoder of the given model was used.
            let [_, autoencoder, _] = now.fingerprints()?;
            let fingerprints = [then[0].clone(), autoencoder, then[2].clone()];
            let model = ModelEntry { parts: recipe::absolute_parts(&now.parts)?, fingerprints };
            Recipe { fps, output, decoded_from, model, ..old.clone() }
        }
        _ => {
            let sources = Sources { noise: None, latents: Some(latents.path.clone()) };
            Recipe::of(pipeline, request, fps, &wishes.output, &sources)?
        }
    })
}
