//! The files that a run makes: the video, its recipe, the latents.
//!
//! All of them are opened before anything is loaded and stay open until the end, when they get
//! their names together. If a file appears under one of these names while the run works, it is
//! kept; the results then go to free names in the same folder, and the run reports this. A result
//! that goes to a pipe has no recipe, because there is no folder for it.
//!
//! Latents are stored as soon as sampling is over, even if they were not requested (`kept`). If
//! decoding fails, the disk is full or the run is interrupted, only decoding is lost.

use super::kept::{self, Kept};
use super::state::{FoundState, StateFile, StepState};
use super::{
    Cancel, Event, Pipeline, Preflight, Receiver, ReferenceSource, Request, RunReport, Size,
};
use crate::error::{Error, Kind, Result};
use crate::files::{self, AtomicFile, Beside, Existing};
use crate::media::color::{Rounding, planar_to_rgb};
use crate::media::writer::{VideoWriter, WriterOptions, WrittenInfo, makes_folder};
use crate::places::Places;
use crate::recipe::{self, Recipe};
use crate::safeguards::{FrameMarker, Inspector, MarkAs, Seal};
use anyid_ir::Tensor;
use std::path::{Path, PathBuf};

/// How a run is written to a file.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// Frames per second.
    pub fps: f64,
    /// The format of the video, and what happens to existing results.
    pub writer: WriterOptions,
    /// Whether a recipe is written next to the video. This is possible only if references, noise
    /// and latents come from files.
    pub recipe: bool,
    /// Whether the recipe lies inside the video too, with files by their names alone; under the same
    /// condition.
    pub recipe_inside: bool,
    /// Where the latents go; `None` keeps them only if decoding fails.
    pub save_latents: Option<PathBuf>,
    /// Where the state of sampling is stored until the video is complete, and looked for. It has a
    /// recipe in it, so this is possible under the same conditions.
    pub state: Option<PathBuf>,
    /// Which previews are made of the steps, if any.
    pub preview: Option<PreviewOptions>,
    /// The invisible mark of the frames; none unless the program asks for it.
    pub mark: Option<MarkAs>,
}

/// Decides about a run by its recipe, see `Pipeline::to_file`.
pub(crate) type Decide<'a> = &'a mut dyn FnMut(&mut Recipe, &mut ResultFiles) -> Result<()>;

/// Previews of a run.
#[derive(Clone, Debug)]
pub struct PreviewOptions {
    /// Steps from one to the next, 1 or more.
    pub every: usize,
    /// An animated PNG file that each of them replaces; events have them in any case.
    pub file: Option<PathBuf>,
}

impl Default for FileOptions {
    fn default() -> Self {
        let writer = WriterOptions { existing: Existing::Keep, ..WriterOptions::default() };
        Self {
            fps: 24.0,
            writer,
            recipe: false,
            recipe_inside: false,
            save_latents: None,
            state: None,
            preview: None,
            mark: None,
        }
    }
}

/// Where the results are in the end.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The video.
    pub written: WrittenInfo,
    /// Its recipe.
    pub recipe: Option<PathBuf>,
    /// The latents, if they were requested.
    pub latents: Option<PathBuf>,
    /// What the user should know about the names.
    pub notes: Vec<String>,
}

/// The open results of a run.
pub struct ResultFiles {
    writer: VideoWriter,
    output: PathBuf,
    /// No results so far.
    recipe: Option<AtomicFile>,
    recipe_inside: bool,
    latents: Kept,
    state: Option<StateFile>,
    preview: Option<PreviewOptions>,
    /// What marks frames.
    marker: Option<FrameMarker>,
    /// What signs the result.
    seal: Option<Seal>,
    /// What looks at frames.
    inspector: Option<Inspector>,
}

impl FileOptions {
    /// Adds the files that a run to `output` writes. Without `sampling` there are no latents to
    /// keep.
    pub fn add_places(&self, output: &Path, sampling: bool, places: &mut Places) {
        match makes_folder(output) {
            true => places.writes_folder("--output", output),
            false => places.writes("--output", output),
        };
        let special = files::is_direct(output);
        if self.recipe && !special {
            places.writes("the recipe", &recipe::path_beside(output));
        }
        match &self.save_latents {
            Some(path) => {
                places.writes("--save-latents", path);
            }
            None if sampling && !special && self.state.is_none() => {
                places.writes("the latents kept if decoding fails", &kept::spare_beside(output));
            }
            None => {}
        }
        if let Some(path) = &self.state {
            places.writes("the state of sampling", path);
        }
        if let Some(path) = self.preview.as_ref().and_then(|preview| preview.file.as_deref()) {
            places.writes("--preview", path);
        }
    }
}

impl ResultFiles {
    /// Opens everything except `writer`, which writes to `output`. Without `sampling` there are no
    /// latents to keep.
    ///
    /// # Errors
    /// Those of [`AtomicFile::create_as`].
    pub fn open(
        writer: VideoWriter,
        output: &Path,
        options: &FileOptions,
        sampling: bool,
    ) -> Result<Self> {
        let existing = options.writer.existing;
        let recipe = match options.recipe && !writer.is_stream() {
            true => Some(AtomicFile::create_as(recipe::path_beside(output), existing)?),
            false => None,
        };
        let latents = Kept::open(output, options, sampling)?;
        let state = StateFile::open(options)?;
        Ok(Self {
            writer,
            output: output.to_owned(),
            recipe,
            recipe_inside: options.recipe_inside,
            latents,
            state,
            preview: options.preview.clone(),
            marker: options.mark.as_ref().map(MarkAs::marker),
            seal: None,
            inspector: None,
        })
    }

    /// The run goes on from a state that was found.
    pub fn goes_on(&mut self, found: &FoundState) {
        if let Some(state) = &mut self.state {
            state.goes_on(found.state.done);
        }
    }

    /// Largest number of bytes held in memory for a video of `size`.
    pub fn held_bytes(&self, size: Size) -> u64 {
        let Size { width, height, frames } = size;
        let marking = self.marker.as_ref().map_or(0, |marker| {
            let frame = 3 * (width as u64) * (height as u64);
            (marker.together() as u64).saturating_mul(marker.held_bytes(width, height) + frame)
        });
        self.writer.held_bytes(frames).saturating_add(marking)
    }

    /// Marks the frames, for a mark that depends on what is known only after the files are open.
    pub fn mark(&mut self, mark: Option<&MarkAs>) {
        self.marker = mark.map(MarkAs::marker);
    }

    /// The ending of the form of the result; `frames` for a folder of them.
    pub fn ending(&self) -> String {
        self.writer.ending()
    }

    /// Has frames looked at before they are marked. A result that is refused is not left, nor are its
    /// latents.
    pub fn inspect(&mut self, inspector: Option<Inspector>) {
        self.inspector = inspector;
    }

    /// Has the result signed when it is complete.
    pub fn seal(&mut self, seal: Option<Seal>) {
        self.seal = seal;
    }

    /// Runs what was planned and writes the result.
    ///
    /// # Errors
    /// As [`Preflight::run`], E082x and E101x for the files. If sampling was over already, the help
    /// says where the latents are.
    pub fn run(
        mut self,
        plan: Preflight<'_>,
        cancel: &Cancel,
        made: Option<&Recipe>,
        events: &mut dyn FnMut(Event),
    ) -> Result<(RunReport, Finished)> {
        let sampling = plan.samples();
        if let Some(made) = made.filter(|_| self.recipe_inside) {
            match made.inscription() {
                Some(what) => self.writer.inscribe(what)?,
                None => events(Event::Warning(
                    "the recipe is too long to be put inside the video".to_owned(),
                )),
            }
        }
        let mut receiver = ToFiles { files: &mut self, made, sampling, events: &mut *events };
        let outcome = plan.run(cancel, &mut receiver);
        let Self { writer, output, recipe, mut latents, state, preview, seal, inspector, .. } =
            self;
        let mut seen = None;
        if let (Ok(_), Some(inspector), Some(made)) = (&outcome, inspector, made) {
            match inspector.conclude(made, events) {
                Ok(recipe) => seen = Some(recipe),
                Err(refusal) => {
                    latents.discard();
                    // It shows what was refused.
                    if let Some(file) = preview.and_then(|preview| preview.file) {
                        let _ = std::fs::remove_file(file);
                    }
                    if let Some(state) = state {
                        state.done();
                    }
                    return Err(refusal);
                }
            }
        }
        let made = seen.as_ref().or(made);
        let outcome = outcome.and_then(|report| {
            if let Some(warning) = match (sampling, &state) {
                (true, Some(_)) => latents.store(&report.latents, made)?,
                _ => None,
            } {
                events(Event::Warning(warning));
            }
            let (written, notes, recipe) = finish(writer, recipe, &output, made, seal)?;
            Ok((report, written, notes, recipe))
        });
        match outcome {
            Ok((report, written, notes, recipe)) => {
                let latents = latents.done(&written.path)?;
                if let Some(state) = state {
                    state.done();
                }
                Ok((report, Finished { written, recipe, latents, notes }))
            }
            Err(error) => {
                // A state that is at fault is nothing to go on from.
                let state = state.filter(|_| error.code() != "E1301");
                let advice = latents.advice().or_else(|| state.and_then(StateFile::advice));
                Err(match advice {
                    Some(advice) => error.also(advice),
                    None => error,
                })
            }
        }
    }
}

/// Completes the video and gives it and its recipe their names; also gives what the user should
/// know about these.
fn finish(
    writer: VideoWriter,
    recipe: Option<AtomicFile>,
    asked: &Path,
    made: Option<&Recipe>,
    seal: Option<Seal>,
) -> Result<(WrittenInfo, Vec<String>, Option<PathBuf>)> {
    let (mut written, video) = writer.finish_after(&mut |path| match (&seal, made) {
        (Some(seal), Some(made)) => seal.apply(path, made),
        _ => Ok(()),
    })?;
    let target = video.path().to_owned();
    let mut names = match (recipe, made) {
        (Some(file), Some(made)) => {
            let contents = |path: &Path| {
                let output = if path == target { asked } else { path };
                let output = recipe::absolute(output).unwrap_or_else(|_| output.to_owned());
                format!("{:#}\n", Recipe { output, ..made.clone() }.to_json()).into_bytes()
            };
            let beside = Beside { file, suffix: ".recipe.json", contents: &contents };
            files::commit_with(vec![video], beside)?
        }
        _ => files::commit(vec![video])?,
    };
    let recipe = (names.len() > 1).then(|| names.pop()).flatten();
    let mut notes = Vec::new();
    let moved = names[0] != target;
    if moved {
        let (was, now) = (asked.display(), names[0].display());
        notes.push(format!("{was} came there meanwhile and was kept: the result is {now}"));
        written.path = names.swap_remove(0);
    }
    let recipe = recipe.map(|name| if moved { name } else { recipe::path_beside(asked) });
    Ok((written, notes, recipe))
}

/// Passes frames to the writer and latents to their file.
struct ToFiles<'r> {
    files: &'r mut ResultFiles,
    made: Option<&'r Recipe>,
    sampling: bool,
    events: &'r mut dyn FnMut(Event),
}

impl ToFiles<'_> {
    /// Makes the preview of a step, if it is one that has a preview.
    fn show(&mut self, state: &StepState<'_>) -> Result<()> {
        let Some(PreviewOptions { every, file }) = &self.files.preview else { return Ok(()) };
        let (done, last) = (state.done, state.done == state.total);
        if !(last || done.is_multiple_of((*every).max(1))) {
            return Ok(());
        }
        let Some(preview) = state.preview() else {
            let what = "colours of latents are found with references, and there are none";
            return Err(Error::input("E1309", what));
        };
        if let Some(path) = file {
            let mut file = AtomicFile::create(path)?;
            file.append(&preview.animation()?)?;
            file.commit()?;
        }
        (self.events)(Event::Preview { done, png: preview.picture()? });
        Ok(())
    }
}

impl Receiver for ToFiles<'_> {
    fn event(&mut self, event: Event) {
        (self.events)(event);
    }

    fn state(&mut self, state: &StepState<'_>) -> Result<()> {
        if let (Some(file), Some(made)) = (&mut self.files.state, self.made)
            && let Some(warning) = file.store(state, made)
        {
            (self.events)(Event::Warning(warning));
        }
        if let Err(error) = self.show(state)
            && error.kind() != Kind::Interrupted
        {
            // The first fault is told; it is no reason to end a run.
            self.files.preview = None;
            let what = format!("[{}] there are no previews: {}", error.code(), error.message());
            (self.events)(Event::Warning(what));
        }
        Ok(())
    }

    fn latents(&mut self, latents: &Tensor) -> Result<()> {
        if !self.sampling {
            return Ok(());
        }
        let kept = &mut self.files.latents;
        let warning = match &self.files.state {
            // The file comes with the video.
            Some(state) if state.has_latents() => None,
            Some(_) => kept.store_without_state(latents, self.made)?,
            None => kept.store(latents, self.made)?,
        };
        if let Some(warning) = warning {
            (self.events)(Event::Warning(warning));
        }
        Ok(())
    }

    fn frames(&mut self, video: &Tensor) -> Result<()> {
        let [_, frames, height, width] = video.shape().try_into().expect("a video has four axes");
        let values = video.as_f32().map_err(|e| Error::internal("E1009", e.to_string()))?;
        let together = self.files.marker.as_ref().map_or(1, FrameMarker::together);
        let mut held = vec![vec![0u8; 3 * width * height]; together.min(frames)];
        for start in (0..frames).step_by(together) {
            let here = &mut held[..together.min(frames - start)];
            for (t, rgb) in (start..).zip(&mut *here) {
                planar_to_rgb(values, frames, t, height, width, Rounding::default(), rgb);
                if let Some(inspector) = &mut self.files.inspector {
                    inspector.see(rgb, width, height)?;
                }
            }
            if let Some(marker) = &mut self.files.marker {
                marker.mark(here, width, height)?;
            }
            here.iter().try_for_each(|rgb| self.files.writer.push(rgb))?;
        }
        Ok(())
    }
}

impl Pipeline {
    /// Runs `request` and writes the video to `path`, with its recipe and latents as `options` say.
    /// The command line uses this. Everything is opened and checked before the first step, and
    /// appears completely or not at all.
    ///
    /// # Errors
    /// E095x for files that are used for two purposes or that no recipe can name, those of
    /// [`VideoWriter::create`], [`Self::plan`] and [`Preflight::run`].
    pub fn generate_to_file(
        &self,
        request: &Request,
        path: impl AsRef<Path>,
        options: &FileOptions,
        cancel: &Cancel,
        events: &mut dyn FnMut(Event),
    ) -> Result<(RunReport, Finished)> {
        let made = self.to_file(request, path.as_ref(), options, None, cancel, events)?;
        Ok((made.0, made.1))
    }

    /// As [`Self::generate_to_file`]; `decide` may refuse what a recipe says before anything is computed,
    /// add to it, and have the frames marked. Gives the recipe too, if there is one.
    pub(crate) fn to_file(
        &self,
        request: &Request,
        path: &Path,
        options: &FileOptions,
        decide: Option<Decide<'_>>,
        cancel: &Cancel,
        events: &mut dyn FnMut(Event),
    ) -> Result<(RunReport, Finished, Option<Recipe>)> {
        let sampling = request.latents.is_none();
        request.check(self.model())?;
        let mut places = Places::new();
        for source in &request.references {
            if let ReferenceSource::File(path) = source {
                places.reads("a reference", path);
            }
        }
        self.model().parts.add_places("the model's file", "", &mut places);
        options.add_places(path, sampling, &mut places);
        places.check()?;
        let Size { width, height, .. } = request.size;
        let writer = VideoWriter::create(path, width, height, options.fps, &options.writer)?;
        let mut files = ResultFiles::open(writer, path, options, sampling)?;
        let named = options.recipe || options.recipe_inside || options.state.is_some();
        let mut made = match named || decide.is_some() {
            true => {
                Some(Recipe::of(self, request, options.fps, path, &recipe::Sources::default())?)
            }
            false => None,
        };
        if let (Some(decide), Some(made)) = (decide, &mut made) {
            decide(made, &mut files)?;
        }
        let mut request = std::borrow::Cow::Borrowed(request);
        if let (Some(path), Some(made)) = (&options.state, &made)
            && let Some(found) = FoundState::find(path)?
        {
            found.check(made)?;
            files.goes_on(&found);
            let own = request.to_mut();
            own.tiles = found.recipe.tiles;
            own.resume = Some(found.state);
        }
        let mut plan = self.plan(&request, cancel, events)?;
        plan.receiver_holds(files.held_bytes(request.size))?;
        if let Some(made) = &mut made {
            made.choices.coding = options.writer.coding;
            made.tiles = plan.tiles();
        }
        let (report, finished) = files.run(plan, cancel, made.as_ref(), events)?;
        Ok((report, finished, made))
    }
}
