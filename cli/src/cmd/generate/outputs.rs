//! Where the results of `generate` go: the video, its recipe, the latents.
//!
//! All of them are opened before anything is loaded and held until the end, when the video and its
//! recipe get their names together. Results that are there already are replaced with `--force` only; what comes
//! while the run works is kept, and the new results go to free names beside it, which is said.
//! What goes to a pipe has no recipe: there is no place beside it.

use crate::args::Generate;
use crate::recipe::{self, Recipe};
use anyid_ir::Tensor;
use anyid_runtime::files::{self, AtomicFile, Beside, Existing};
use anyid_runtime::media::writer::{VideoWriter, WriterOptions, WrittenInfo};
use anyid_runtime::weights::write_tensors_in;
use anyid_runtime::{Error, Result, Size};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The open results of a run.
pub(super) struct Outputs {
    pub(super) writer: VideoWriter,
    output: PathBuf,
    /// Empty so far; none for a pipe.
    recipe: Option<AtomicFile>,
    /// Until they are written.
    latents: Option<(PathBuf, AtomicFile)>,
    /// Where the latents lie, once they do.
    named: Option<PathBuf>,
    notes: Vec<String>,
}

/// Where everything lies in the end.
pub(super) struct Finished {
    pub(super) written: WrittenInfo,
    pub(super) recipe: Option<PathBuf>,
    pub(super) latents: Option<PathBuf>,
    /// What the user should know about the names.
    pub(super) notes: Vec<String>,
}

/// What happens to results that are there already.
pub(super) fn existing(args: &Generate) -> Existing {
    match args.force {
        true => Existing::Replace,
        false => Existing::Keep,
    }
}

/// Whether the video goes to standard output, where the report must not go then.
pub(super) fn is_standard_output(output: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| output == *name)
}

impl Outputs {
    /// Opens everything.
    ///
    /// # Errors
    /// E0947 for a format that is not the name's, E0948 for `--json` with standard output, and
    /// those of [`VideoWriter::create`] and [`AtomicFile::create_as`].
    pub(super) fn open(args: &Generate, output: &Path, size: Size, fps: f64) -> Result<Self> {
        let existing = existing(args);
        let format = args.format.map(Into::into);
        let options = WriterOptions { existing, format, ..WriterOptions::default() };
        let Size { width, height, .. } = size;
        let to_standard_output = is_standard_output(output);
        let writer = if to_standard_output {
            if args.json {
                return Err(Error::input("E0948", "video and report cannot both go there")
                    .at("standard output")
                    .help("write the video to a file, or leave --json out"));
            }
            VideoWriter::create_into(
                standard_output()?,
                "standard output",
                width,
                height,
                fps,
                &options,
            )?
        } else {
            agree(args, output)?;
            VideoWriter::create(output, width, height, fps, &options)?
        };
        let recipe = match writer.is_stream() {
            true => None,
            false => Some(AtomicFile::create_as(recipe::path_beside(output), existing)?),
        };
        let latents = match &args.save_latents {
            None => None,
            Some(path) => Some((path.clone(), AtomicFile::create_as(path, existing)?)),
        };
        let (output, named, notes) = (output.to_owned(), None, Vec::new());
        Ok(Self { writer, output, recipe, latents, named, notes })
    }

    /// Stores the latents, if they are wanted. They get their name at once, before the decoding that
    /// may fail: what was sampled is not lost with it.
    ///
    /// # Errors
    /// E101x.
    pub(super) fn write_latents(&mut self, latents: &Tensor) -> Result<()> {
        let Some((path, file)) = self.latents.take() else { return Ok(()) };
        let wanted = file.path().to_owned();
        let whole = write_tensors_in(file, [("latents", latents)], &BTreeMap::new())?;
        let name = files::commit(vec![whole])?.swap_remove(0);
        if name == wanted {
            self.named = Some(path);
        } else {
            self.notes.push(kept(&path, &name));
            self.named = Some(name);
        }
        Ok(())
    }

    /// Completes the video and gives everything its name.
    ///
    /// # Errors
    /// Those of [`VideoWriter::finish`] and [`files::commit_with`].
    pub(super) fn finish(self, made: &Recipe) -> Result<Finished> {
        let Self { writer, output: asked, recipe, named: latents, mut notes, .. } = self;
        let (mut written, video) = writer.finish_unnamed()?;
        let target = video.path().to_owned();
        let names = match recipe {
            None => files::commit(vec![video])?,
            Some(file) => {
                let contents = |path: &Path| {
                    let output = if path == target { asked.as_path() } else { path };
                    let output = recipe::absolute(output).unwrap_or_else(|_| output.to_owned());
                    format!("{:#}\n", Recipe { output, ..made.clone() }.to_json()).into_bytes()
                };
                let beside = Beside { file, suffix: ".recipe.json", contents: &contents };
                files::commit_with(vec![video], beside)?
            }
        };
        let mut recipe = names.get(1).cloned();
        if names[0] == target {
            // As the user wrote it, not as its links lead.
            recipe = recipe.map(|_| recipe::path_beside(&asked));
        } else {
            notes.push(kept(&asked, &names[0]));
            written.path = names[0].clone();
        }
        Ok(Finished { written, recipe, latents, notes })
    }
}

fn kept(wanted: &Path, name: &Path) -> String {
    let (wanted, name) = (wanted.display(), name.display());
    format!("{wanted} came there meanwhile and was kept: the result is {name}")
}

/// Refuses a format that the name of a file contradicts.
fn agree(args: &Generate, output: &Path) -> Result<()> {
    let Some(format) = args.format.map(anyid_runtime::media::writer::Format::from) else {
        return Ok(());
    };
    let special = std::fs::metadata(output).is_ok_and(|data| !data.is_file() && !data.is_dir());
    let ending = output.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    if special || ending.as_deref() == Some(format.ending()) {
        return Ok(());
    }
    let what = format!("--format {} and the name of the file do not agree", format.ending());
    Err(Error::input("E0947", what)
        .at(output.display())
        .help("the ending of a file's name says its format; --format is for pipes"))
}

/// Standard output as a file of its own.
fn standard_output() -> Result<File> {
    #[cfg(unix)]
    let clone = {
        use std::os::fd::AsFd;
        std::io::stdout().as_fd().try_clone_to_owned().map(File::from)
    };
    #[cfg(windows)]
    let clone = {
        use std::os::windows::io::AsHandle;
        std::io::stdout().as_handle().try_clone_to_owned().map(File::from)
    };
    clone.map_err(|fault| files::write_error("standard output".as_ref(), fault))
}
