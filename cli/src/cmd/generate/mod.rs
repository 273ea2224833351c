//! `generate`: references and a prompt in, a video and its recipe out.
//!
//! Everything that can be refused is refused before the long work: flags, model, references, the
//! place of the result. The recipe is written after the result, so that it never speaks of a video
//! that is not there.

mod report;
mod watch;
mod wishes;

use crate::args::Generate;
use crate::progress::Progress;
use crate::recipe::{self, HashedFile, ModelEntry, Recipe};
use crate::render::Failure;
use crate::trace::TraceFile;
use crate::{interrupt, output};
use anyid_ir::Tensor;
use anyid_runtime::init::write_bytes;
use anyid_runtime::media::color::{Rounding, planar_to_rgb};
use anyid_runtime::media::writer::{VideoWriter, WriterOptions};
use anyid_runtime::weights::write_tensors;
use anyid_runtime::{
    Backend, Error, Event, Model, Pipeline, Receiver, ReferenceSource, Request, Result, Size,
};
use report::{report_json, report_text};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use watch::{Watcher, introduce};
use wishes::{fill, read_noise, resolved, wanted_size, wishes};

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
    let fingerprints = model.fingerprints();
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
    let cancel = anyid_runtime::Cancel::new();
    interrupt::graceful(cancel.flag());
    let mut writer =
        VideoWriter::create(&wishes.output, size.width, size.height, fps, &writer_options)?;
    let partial = partial_folder(&wishes.output);
    let mut warnings = Vec::new();
    let mut watcher =
        Watcher { progress: &mut progress, steps: Duration::ZERO, warnings: &mut warnings };
    let plan = pipeline.plan(&request, &cancel, &mut |event| watcher.see(event))?;
    let report = plan.run(&cancel, &mut Ends { watcher: &mut watcher, writer: &mut writer, size });
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

/// Where events and frames go.
struct Ends<'e, 'w> {
    watcher: &'e mut Watcher<'w>,
    writer: &'e mut VideoWriter,
    size: Size,
}

impl Receiver for Ends<'_, '_> {
    fn event(&mut self, event: Event) {
        self.watcher.see(event);
    }

    fn frames(&mut self, video: &Tensor) -> Result<()> {
        push_frames(self.writer, video, self.size)
    }
}
