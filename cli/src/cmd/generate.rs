//! `generate`: references and a prompt in, a video and its recipe out.
//!
//! Everything that can be refused is refused before the long work: flags, model, references, the
//! place of the result. The recipe is written after the result, so that it never speaks of a video
//! that is not there.

use super::size;
use crate::args::Generate;
use crate::output;
use crate::progress::{Progress, left};
use crate::recipe::{self, HashedFile, ModelEntry, Recipe};
use crate::render::Failure;
use crate::trace::TraceFile;
use crate::{interrupt, output::bytes, output::duration};
use anyid_ir::Tensor;
use anyid_models::wan::{Precision, Residual};
use anyid_runtime::init::write_bytes;
use anyid_runtime::media::color::{Rounding, planar_to_rgb};
use anyid_runtime::media::writer::{VideoWriter, WriterOptions, WrittenInfo};
use anyid_runtime::pipeline::RunReport;
use anyid_runtime::weights::{read_tensors, write_tensors};
use anyid_runtime::{
    Backend, Error, Event, Model, Pipeline, ReferenceSource, Request, Result, Size,
};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What was asked for, with the recipe's words under the flags'.
struct Wishes {
    references: Vec<PathBuf>,
    prompt: String,
    output: PathBuf,
    model: Option<PathBuf>,
    noise: Option<PathBuf>,
    recipe: Option<(PathBuf, Recipe)>,
}

/// Runs the verb.
///
/// # Errors
/// Any coded error of flags, model, references, sampling or writing.
pub fn run(args: Generate) -> std::result::Result<(), Failure> {
    let begun = Instant::now();
    let mut progress = Progress::new();
    let wishes = wishes(&args)?;
    let old = wishes.recipe.as_ref().map(|(_, recipe)| recipe);

    let size = wanted_size(&args, old, wishes.model.is_none())?;
    size.check()?;
    let fps = args.fps.or(old.map(|r| r.fps)).unwrap_or(24.0);
    let writer_options = WriterOptions::default();
    // Taken and given back: it tells early whether the result can be written there.
    drop(VideoWriter::create(&wishes.output, size.width, size.height, fps, &writer_options)?);
    let recipe_path = recipe::path_beside(&wishes.output);
    if let Some(path) = &args.save_latents {
        drop(anyid_runtime::checkpoint::AtomicFile::create(path)?);
    }

    let trace = TraceFile::wanted(args.trace.as_deref())?;
    let backend = trace.watch(Backend::open(&args.device, args.threads)?);
    let instructions = backend.cpu().level().name().to_owned();
    let references: Vec<HashedFile> = wishes
        .references
        .iter()
        .map(|path| recipe::hashed_reference(path))
        .collect::<Result<_>>()?;
    let noise = wishes.noise.as_deref().map(recipe::hashed).transpose()?;
    let model = match &wishes.model {
        Some(folder) => Model::open(folder)?,
        None => Model::micro()?,
    };
    let fingerprints = model.fingerprints()?;
    if let Some((path, old)) = &wishes.recipe
        && args.model.is_none()
    {
        recipe::check_model(&old.model, &fingerprints, &model.source, path)?;
    }

    let mut request = Request { size, prompt: wishes.prompt.clone(), ..Request::default() };
    request.references = wishes.references.iter().cloned().map(ReferenceSource::File).collect();
    fill(&mut request, &args, old, wishes.model.is_none())?;
    request.noise = wishes.noise.as_deref().map(read_noise).transpose()?;
    let settings = resolved(&model, &request);
    // Whether solver, schedule and number of steps go together.
    settings.solver(&settings.schedule(request.steps)?, 1)?;
    request.check(&model)?;
    let precision = request.precision.unwrap_or_else(|| model.default_precision());

    let made = Recipe {
        product: env!("CARGO_PKG_VERSION").to_owned(),
        instructions,
        prompt: request.prompt.clone(),
        references,
        size: [size.width, size.height, size.frames],
        fps,
        steps: request.steps,
        solver: settings.solver.name().to_owned(),
        schedule: settings.schedule.name().to_owned(),
        shift: settings.shift,
        guidance: request.guidance,
        precision: precision.name().to_owned(),
        residual: request.residual.name().to_owned(),
        seed: request.seed,
        noise,
        model: ModelEntry {
            path: wishes.model.as_deref().map(recipe::absolute).transpose()?,
            fingerprints,
        },
        output: recipe::absolute(&wishes.output)?,
    };
    introduce(&mut progress, &made, old, &model);

    let pipeline = Pipeline::new(model, backend);
    interrupt::graceful(pipeline.cancel_flag());
    let mut writer =
        VideoWriter::create(&wishes.output, size.width, size.height, fps, &writer_options)?;
    let partial = partial_folder(&wishes.output);
    let mut warnings = Vec::new();
    let mut watcher =
        Watcher { progress: &mut progress, steps: Duration::ZERO, warnings: &mut warnings };
    let report = pipeline.generate(&request, &mut |event| watcher.see(event), &mut |video| {
        push_frames(&mut writer, video, size)
    });
    // Also that of a run which was interrupted or failed.
    trace.write()?;
    let report = report?;
    let written = writer.finish()?;
    drop(partial);
    if let Some(path) = &args.save_latents {
        let metadata = std::collections::BTreeMap::new();
        write_tensors(path, [("latents", &report.latents)], &metadata)?;
    }
    let text = format!("{:#}\n", made.to_json());
    write_bytes(&recipe_path, text.as_bytes())?;
    progress.clear();
    let total = begun.elapsed();
    if args.json {
        let value = report_json(&args, &written, &recipe_path, &report, total, &warnings);
        output::print_json(&value)?;
    } else {
        output::print(&report_text(&args, &written, &recipe_path, &report, total))?;
    }
    Ok(())
}

/// The files and the prompt, from flags or recipe.
fn wishes(args: &Generate) -> Result<Wishes> {
    let recipe = match &args.recipe {
        Some(path) => Some((path.clone(), Recipe::read(path)?)),
        None => None,
    };
    let old = recipe.as_ref();
    let references = match old {
        Some((path, recipe)) if args.references.is_empty() => {
            recipe.references.iter().map(|f| recipe::find_again(f, path)).collect::<Result<_>>()?
        }
        _ => args.references.clone(),
    };
    let noise = match (&args.noise, old) {
        (Some(path), _) => Some(path.clone()),
        (None, Some((path, recipe))) if args.seed.is_none() => {
            recipe.noise.as_ref().map(|f| recipe::find_again(f, path)).transpose()?
        }
        _ => None,
    };
    let prompt = args.prompt.clone().or_else(|| old.map(|(_, r)| r.prompt.clone()));
    let output = args.output.clone().or_else(|| old.map(|(_, r)| r.output.clone()));
    let model = args.model.clone().or_else(|| old.and_then(|(_, r)| r.model.path.clone()));
    Ok(Wishes {
        references,
        prompt: prompt.unwrap_or_default(),
        output: output.unwrap_or_default(),
        model,
        noise,
        recipe,
    })
}

fn wanted_size(args: &Generate, old: Option<&Recipe>, micro: bool) -> Result<Size> {
    let [width, height] = match (&args.size, old) {
        (Some(text), _) => size(text)?,
        (None, Some(recipe)) => [recipe.size[0], recipe.size[1]],
        (None, None) if micro => [192, 192],
        (None, None) => [1280, 704],
    };
    let default = if micro { 9 } else { 121 };
    let frames = args.frames.or(old.map(|r| r.size[2])).unwrap_or(default);
    Ok(Size { width, height, frames })
}

/// The settings of sampling: flags over recipe over defaults.
fn fill(request: &mut Request, args: &Generate, old: Option<&Recipe>, micro: bool) -> Result<()> {
    let default = if micro { 8 } else { 50 };
    request.steps = args.steps.or(old.map(|r| r.steps)).unwrap_or(default);
    request.guidance = args.guidance.or(old.map(|r| r.guidance)).unwrap_or(request.guidance);
    request.shift = args.shift.or(old.map(|r| r.shift));
    request.seed = args.seed.or(old.map(|r| r.seed)).unwrap_or(0);
    let solver = args.solver.as_deref().or(old.map(|r| r.solver.as_str()));
    request.solver =
        solver.map(|name| name.parse().map_err(|e: Error| e.at("--solver"))).transpose()?;
    let schedule = args.schedule.as_deref().or(old.map(|r| r.schedule.as_str()));
    request.schedule =
        schedule.map(|name| name.parse().map_err(|e: Error| e.at("--schedule"))).transpose()?;
    request.precision = match (args.precision, old.map(|r| r.precision.as_str())) {
        (Some(name), _) => Some(name.into()),
        (None, Some("f32")) => Some(Precision::F32),
        (None, Some("bf16")) => Some(Precision::Bf16),
        (None, Some(other)) => {
            return Err(Error::input("E0910", format!("\"{other}\" is no precision"))
                .at("the recipe")
                .help("the precisions are f32 and bf16"));
        }
        (None, None) => None,
    };
    request.residual = match (args.residual, old.map(|r| r.residual.as_str())) {
        (Some(name), _) => name.into(),
        (None, None | Some("f32")) => Residual::F32,
        (None, Some("bf16")) => Residual::Bf16,
        (None, Some(other)) => {
            return Err(Error::input("E0910", format!("\"{other}\" is no residual stream"))
                .at("the recipe")
                .help("its element type is f32 or bf16"));
        }
    };
    Ok(())
}

fn resolved(model: &Model, request: &Request) -> anyid_runtime::sampling::SchedulerSettings {
    let mut settings = model.scheduler.clone();
    settings.solver = request.solver.unwrap_or(settings.solver);
    settings.schedule = request.schedule.unwrap_or(settings.schedule);
    settings.shift = request.shift.unwrap_or(settings.shift);
    settings
}

/// Start latents from a file with a tensor `noise`, with or without a leading axis of 1.
fn read_noise(path: &Path) -> Result<Tensor> {
    let tensors = read_tensors(path)?;
    let names: Vec<String> = tensors.iter().map(|(name, _)| name.clone()).collect();
    let found = tensors.into_iter().find(|(name, _)| name == "noise").map(|(_, tensor)| tensor);
    let tensor = found.ok_or_else(|| {
        Error::input("E0906", "the file has no tensor \"noise\"")
            .at(path.display())
            .help(format!("it has {}", crate::tensors::shown(&names)))
    })?;
    let shape: Vec<usize> = match tensor.shape() {
        [1, rest @ ..] if rest.len() == 4 => rest.to_vec(),
        other => other.to_vec(),
    };
    let tensor = tensor.reshaped(shape).map_err(|e| Error::internal("E1009", e.to_string()))?;
    let float = tensor.dtype().is_float();
    Ok(if float { tensor.cast(anyid_ir::DType::F32) } else { tensor })
}

/// Says what is going to be made.
fn introduce(progress: &mut Progress, made: &Recipe, old: Option<&Recipe>, model: &Model) {
    if model.source == "built-in micro model" {
        progress.note("using the built-in micro model; --model DIR takes a real one");
    }
    if made.references.is_empty() {
        progress.note("no references: plain text-to-video");
    }
    if let Some(old) = old {
        if old.product != made.product {
            let (then, now) = (&old.product, &made.product);
            progress.warn(&format!(
                "the recipe is from version {then}, this is {now}: details may differ"
            ));
        }
        if old.instructions != made.instructions {
            let (then, now) = (&old.instructions, &made.instructions);
            progress.warn(&format!(
                "the recipe's run used {then} instructions, this machine {now}: the last bits of \
                 values differ"
            ));
        }
    }
    let [width, height, frames] = made.size;
    let references = output::plural(made.references.len(), "reference");
    progress.note(&format!(
        "{width}x{height}, {}, {} steps, {references}, {}",
        output::plural(frames, "frame"),
        made.steps,
        made.precision
    ));
}

/// A folder of frames is made under another name first; it must go if the program ends at once.
fn partial_folder(path: &Path) -> interrupt::PartialFolder {
    let clean: PathBuf = path.components().collect();
    let name = clean.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let partial = format!(".{name}.partial-{}", std::process::id());
    interrupt::PartialFolder::watch(clean.with_file_name(partial))
}

fn push_frames(writer: &mut VideoWriter, video: &Tensor, size: Size) -> Result<()> {
    let values = video.as_f32().map_err(|e| Error::internal("E1009", e.to_string()))?;
    let frames = video.shape()[1];
    let mut rgb = vec![0u8; 3 * size.width * size.height];
    for t in 0..frames {
        planar_to_rgb(values, frames, t, size.height, size.width, Rounding::default(), &mut rgb);
        writer.push(&rgb)?;
    }
    Ok(())
}

/// Turns events into progress.
struct Watcher<'w> {
    progress: &'w mut Progress,
    /// Time of the steps so far.
    steps: Duration,
    warnings: &'w mut Vec<String>,
}

impl Watcher<'_> {
    fn see(&mut self, event: Event) {
        match event {
            Event::Warning(text) => {
                self.progress.warn(&text);
                self.warnings.push(text);
            }
            Event::Phase(name) => self.progress.part(name),
            Event::Loading { done, total } => {
                let time = self.progress.elapsed();
                // Small weights are there at once; a line about them would be noise.
                if time < Duration::from_secs(1) {
                    return;
                }
                self.progress.update(done, total, || {
                    let rate = done as f64 / time.as_secs_f64().max(1e-3);
                    let (have, all) = (bytes(done), bytes(total));
                    format!("loading weights, {have} of {all}, {}/s", bytes(rate as u64))
                });
            }
            Event::Encoded { done, total } => {
                self.progress
                    .update(done as u64, total as u64, || format!("{done} of {total} encoded"));
            }
            Event::Step { done, total, time } => {
                self.steps += time;
                let steps = self.steps;
                self.progress.update(done as u64, total as u64, || {
                    let each = duration(steps.div_f64(done as f64));
                    let left = left(steps, done as u64, total as u64);
                    format!("step {done} of {total}, {each} a step{left}")
                });
            }
            Event::Decoded { done, total } => {
                let time = self.progress.elapsed();
                self.progress.update(done as u64, total as u64, || {
                    format!("frame {done} of {total}{}", left(time, done as u64, total as u64))
                });
            }
        }
    }
}

fn rate(written: &WrittenInfo) -> f64 {
    f64::from(written.rate.0) / f64::from(written.rate.1)
}

fn report_text(
    args: &Generate,
    written: &WrittenInfo,
    recipe: &Path,
    report: &RunReport,
    total: Duration,
) -> String {
    let mut out = format!(
        "wrote {}: {}, {}x{}, {}, {} frames a second, {}\nrecipe {}\n",
        written.path.display(),
        written.format,
        written.width,
        written.height,
        output::plural(written.frames, "frame"),
        rate(written),
        bytes(written.bytes),
        recipe.display()
    );
    if let Some(path) = &args.save_latents {
        out.push_str(&format!("latents {}\n", path.display()));
    }
    let row = |cells: [String; 4]| cells.to_vec();
    let mut rows = vec![row(["phase", "time", "weights", "memory"].map(str::to_owned))];
    for phase in &report.phases {
        rows.push(row([
            phase.name.to_owned(),
            duration(phase.time),
            bytes(phase.weight_bytes),
            bytes(phase.plan_bytes),
        ]));
    }
    out.push_str(&output::table(&rows));
    let peak =
        output::peak_memory().map_or_else(String::new, |p| format!(", peak memory {}", bytes(p)));
    out.push_str(&format!("total {}{peak}\n", duration(total)));
    out
}

fn report_json(
    args: &Generate,
    written: &WrittenInfo,
    recipe: &Path,
    report: &RunReport,
    total: Duration,
    warnings: &[String],
) -> serde_json::Value {
    let phases: Vec<_> = report
        .phases
        .iter()
        .map(|phase| {
            json!({
                "name": phase.name,
                "seconds": phase.time.as_secs_f64(),
                "weight_bytes": phase.weight_bytes,
                "plan_bytes": phase.plan_bytes,
            })
        })
        .collect();
    json!({
        "output": {
            "path": written.path.to_string_lossy(),
            "format": written.format,
            "width": written.width,
            "height": written.height,
            "frames": written.frames,
            "fps": rate(written),
            "bytes": written.bytes,
        },
        "recipe": recipe.to_string_lossy(),
        "latents": args.save_latents.as_ref().map(|p| p.to_string_lossy()),
        "precision": report.precision.name(),
        "tokens": report.tokens,
        "phases": phases,
        "seconds": total.as_secs_f64(),
        "peak_memory_bytes": output::peak_memory(),
        "warnings": warnings,
    })
}
