//! The files that a run makes: the video, its recipe, the latents.
//!
//! All of them are opened before anything is loaded and stay open until the end, when they get
//! their names together. If a file appears under one of these names while the run works, it is
//! kept; the results then go to free names in the same folder, and the run reports this. A result
//! that goes to a pipe has no recipe, because there is no folder for it.
//!
//! Latents are stored under their name as soon as sampling is over, even if they were not
//! requested. If decoding fails, the disk is full or the run is interrupted, only decoding is lost.
//! Latents that were not requested are removed when the video is complete.

use super::{
    Cancel, Event, Pipeline, Preflight, Receiver, ReferenceSource, Request, RunReport, Size,
};
use crate::error::{Error, Result};
use crate::files::{self, AtomicFile, Beside, Existing};
use crate::media::color::{Rounding, planar_to_rgb};
use crate::media::writer::{VideoWriter, WriterOptions, WrittenInfo, makes_folder};
use crate::places::Places;
use crate::recipe::{self, Recipe};
use crate::weights::write_tensors_in;
use anyid_ir::Tensor;
use std::collections::BTreeMap;
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
    /// Where the latents go; `None` keeps them only if decoding fails.
    pub save_latents: Option<PathBuf>,
}

impl Default for FileOptions {
    fn default() -> Self {
        let writer = WriterOptions { existing: Existing::Keep, ..WriterOptions::default() };
        Self { fps: 24.0, writer, recipe: false, save_latents: None }
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

/// Suffix of the latents that are kept next to a result that could not be decoded.
const LATENTS_SUFFIX: &str = ".latents.safetensors";

/// Metadata key of a file of latents; its value is the recipe of their run.
pub const RECIPE_KEY: &str = "anyid-rt recipe";

/// The open results of a run.
pub struct ResultFiles {
    writer: VideoWriter,
    output: PathBuf,
    /// No results so far.
    recipe: Option<AtomicFile>,
    latents: Latents,
    /// Whether the latents are removed when the video is complete.
    spare: bool,
}

enum Latents {
    None,
    Open(PathBuf, AtomicFile),
    Named(PathBuf),
}

/// Where the latents of a result are kept if it cannot be decoded.
fn spare_latents(output: &Path) -> PathBuf {
    let clean: PathBuf = output.components().collect();
    let mut name = clean.file_name().unwrap_or_default().to_os_string();
    name.push(LATENTS_SUFFIX);
    clean.with_file_name(name)
}

impl FileOptions {
    /// Adds the files that a run to `output` writes. Without `sampling` there are no latents to
    /// keep.
    pub fn add_places(&self, output: &Path, sampling: bool, places: &mut Places) {
        match makes_folder(output) {
            true => places.writes_folder("--output", output),
            false => places.writes("--output", output),
        };
        let special = std::fs::metadata(output).is_ok_and(|data| !data.is_file() && !data.is_dir());
        if self.recipe && !special {
            places.writes("the recipe", &recipe::path_beside(output));
        }
        match &self.save_latents {
            Some(path) => {
                places.writes("--save-latents", path);
            }
            None if sampling && !special => {
                places.writes("the latents kept if decoding fails", &spare_latents(output));
            }
            None => {}
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
        let open = |path: PathBuf, existing| {
            let file = AtomicFile::create_as(&path, existing)?;
            Ok::<_, Error>(Latents::Open(path, file))
        };
        let latents = match &options.save_latents {
            Some(path) => open(path.clone(), existing)?,
            None if !sampling => Latents::None,
            None if writer.is_stream() => {
                // A pipe has no folder; the latents go where the video is made, if possible.
                let name = format!("anyid-rt-{}{LATENTS_SUFFIX}", std::process::id());
                open(std::env::temp_dir().join(name), Existing::Replace).unwrap_or(Latents::None)
            }
            None => open(spare_latents(output), existing)?,
        };
        let spare = options.save_latents.is_none();
        Ok(Self { writer, output: output.to_owned(), recipe, latents, spare })
    }

    /// Largest number of bytes held in memory for a video of `size`.
    pub fn held_bytes(&self, size: Size) -> u64 {
        self.writer.held_bytes(size.frames)
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
        let mut receiver = ToFiles { files: &mut self, made, sampling, events };
        let outcome = plan.run(cancel, &mut receiver);
        let (spare, kept) = (self.spare, self.kept());
        let outcome = outcome.and_then(|report| Ok((report, self.finish(made)?)));
        match (&outcome, kept) {
            (Ok(_), Some(path)) if spare => {
                let _ = std::fs::remove_file(path);
            }
            (Err(_), Some(path)) => {
                return outcome.map_err(|error| error.also(latents_are_at(&path)));
            }
            _ => {}
        }
        outcome
    }

    /// The latents, if they are stored already.
    fn kept(&self) -> Option<PathBuf> {
        match &self.latents {
            Latents::Named(path) => Some(path.clone()),
            _ => None,
        }
    }

    /// Stores the latents under their name, so that they survive a later failure.
    fn keep_latents(&mut self, latents: &Tensor, made: Option<&Recipe>) -> Result<()> {
        if let Latents::Open(path, file) = std::mem::replace(&mut self.latents, Latents::None) {
            let recipe = made.map(|made| (RECIPE_KEY.to_owned(), made.to_json().to_string()));
            let metadata: BTreeMap<String, String> = recipe.into_iter().collect();
            let whole = write_tensors_in(file, [("latents", latents)], &metadata)?;
            let target = whole.path().to_owned();
            let name = files::commit(vec![whole])?.swap_remove(0);
            self.latents = Latents::Named(if name == target { path } else { name });
        }
        Ok(())
    }

    /// Completes the video and gives everything its name.
    fn finish(self, made: Option<&Recipe>) -> Result<Finished> {
        let (mut written, video) = self.writer.finish_unnamed()?;
        let (target, asked) = (video.path().to_owned(), self.output);
        let mut names = match (self.recipe, made) {
            (Some(file), Some(made)) => {
                let contents = |path: &Path| {
                    let output = if path == target { asked.as_path() } else { path };
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
        let recipe = recipe.map(|name| if moved { name } else { recipe::path_beside(&asked) });
        let latents = match self.latents {
            Latents::Named(path) if !self.spare => Some(path),
            _ => None,
        };
        Ok(Finished { written, recipe, latents, notes })
    }
}

/// What the user should know after decoding has failed.
fn latents_are_at(path: &Path) -> String {
    let path = path.display();
    format!("the latents are in {path}: `anyid-rt generate --latents {path}` goes on from there")
}

/// Passes frames to the writer and latents to their file.
struct ToFiles<'r> {
    files: &'r mut ResultFiles,
    made: Option<&'r Recipe>,
    sampling: bool,
    events: &'r mut dyn FnMut(Event),
}

impl Receiver for ToFiles<'_> {
    fn event(&mut self, event: Event) {
        (self.events)(event);
    }

    fn latents(&mut self, latents: &Tensor) -> Result<()> {
        match self.sampling {
            true => self.files.keep_latents(latents, self.made),
            false => Ok(()),
        }
    }

    fn frames(&mut self, video: &Tensor) -> Result<()> {
        let [_, frames, height, width] = video.shape().try_into().expect("a video has four axes");
        let values = video.as_f32().map_err(|e| Error::internal("E1009", e.to_string()))?;
        let mut rgb = vec![0u8; 3 * width * height];
        for t in 0..frames {
            planar_to_rgb(values, frames, t, height, width, Rounding::default(), &mut rgb);
            self.files.writer.push(&rgb)?;
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
        let (path, sampling) = (path.as_ref(), request.latents.is_none());
        request.check(self.model())?;
        let mut places = Places::new();
        for source in &request.references {
            if let ReferenceSource::File(path) = source {
                places.reads("a reference", path);
            }
        }
        if let Some(folder) = &self.model().folder {
            places.reads_folder("the model's file", folder);
        }
        options.add_places(path, sampling, &mut places);
        places.check()?;
        let Size { width, height, .. } = request.size;
        let writer = VideoWriter::create(path, width, height, options.fps, &options.writer)?;
        let files = ResultFiles::open(writer, path, options, sampling)?;
        let made = match options.recipe {
            true => {
                Some(Recipe::of(self, request, options.fps, path, &recipe::Sources::default())?)
            }
            false => None,
        };
        let mut plan = self.plan(request, cancel, events)?;
        plan.receiver_holds(files.held_bytes(request.size))?;
        files.run(plan, cancel, made.as_ref(), events)
    }
}
