//! Where the video of `generate` goes: a file, a folder, a pipe or standard output.

use crate::cmd::generate::args::Generate;
use crate::cmd::generate::wishes::Wishes;
use anyid_runtime::files::{self, Existing, is_standard_output};
use anyid_runtime::media::coding::Coding;
use anyid_runtime::media::writer::{Format, VideoWriter, WriterOptions};
use anyid_runtime::pipeline::PreviewOptions;
use anyid_runtime::{Error, FileOptions, Result};
use std::path::Path;

/// Steps from one preview to the next.
const USUAL_STEPS: usize = 5;

/// What happens to existing results.
pub fn existing(force: bool) -> Existing {
    match force {
        true => Existing::Replace,
        false => Existing::Keep,
    }
}

/// How the results are written.
pub(super) fn options(args: &Generate, wishes: &Wishes, fps: f64) -> FileOptions {
    let format = args.format.map(Into::into);
    let (codec, quality, pixels) = (args.codec.map(Into::into), args.quality, args.pix_format);
    let given = Coding { codec, quality, pixels };
    let coding = match &wishes.recipe {
        // A quality is on the scale of its codec, and a codec has its pixel formats.
        Some((_, recipe)) if given == Coding::default() => recipe.choices.coding,
        _ => given,
    };
    let writer = WriterOptions {
        existing: existing(args.force),
        format,
        coding,
        ..WriterOptions::default()
    };
    let save_latents = args.save_latents.clone();
    let every = args.preview_every.map_or(USUAL_STEPS, usize::from);
    let preview = args.preview.clone().map(|file| PreviewOptions { every, file });
    let state = wishes.state.clone();
    let recipe_inside = !args.no_recipe_inside;
    FileOptions {
        fps,
        writer,
        recipe: true,
        recipe_inside,
        save_latents,
        state,
        preview,
        ..FileOptions::default()
    }
}

/// Opens the output of a video of `width` × `height` pixels; `json` says whether a report is to go
/// to standard output.
///
/// # Errors
/// E0947 for a format that differs from that of the name, E0948 for `--json` with standard output,
/// and those of [`VideoWriter::create`].
pub fn open_writer(
    output: &Path,
    [width, height]: [usize; 2],
    fps: f64,
    writer: &WriterOptions,
    json: bool,
) -> Result<VideoWriter> {
    if !is_standard_output(output) {
        agree(writer.format, output)?;
        return VideoWriter::create(output, width, height, fps, writer);
    }
    if json {
        return Err(Error::input("E0948", "video and report cannot both go there")
            .at("standard output")
            .help("write the video to a file, or leave --json out"));
    }
    VideoWriter::create_into(
        files::standard_output()?,
        "standard output",
        width,
        height,
        fps,
        writer,
    )
}

/// Refuses a format that the name of a file contradicts.
pub(super) fn agree(format: Option<Format>, output: &Path) -> Result<()> {
    let Some(format) = format else {
        return Ok(());
    };
    let ending = output.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    if files::is_direct(output) || ending.as_deref() == Some(format.ending()) {
        return Ok(());
    }
    let what = format!("--format {} and the name of the file do not agree", format.ending());
    Err(Error::input("E0947", what)
        .at(output.display())
        .help("the ending of a file's name says its format; --format is for pipes"))
}
