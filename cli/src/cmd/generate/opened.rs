//! Where the video of `generate` goes: a file, a folder, a pipe or standard output.

use crate::cmd::generate::args::Generate;
use anyid_runtime::files::{self, Existing, is_standard_output};
use anyid_runtime::media::writer::{Format, VideoWriter, WriterOptions};
use anyid_runtime::{Error, FileOptions, Result, Size};
use std::path::Path;

/// What happens to existing results.
pub(super) fn existing(args: &Generate) -> Existing {
    match args.force {
        true => Existing::Replace,
        false => Existing::Keep,
    }
}

/// How the results are written.
pub(super) fn options(args: &Generate, fps: f64) -> FileOptions {
    let format = args.format.map(Into::into);
    let writer = WriterOptions { existing: existing(args), format, ..WriterOptions::default() };
    FileOptions { fps, writer, recipe: true, save_latents: args.save_latents.clone() }
}

/// Opens the output of the video.
///
/// # Errors
/// E0947 for a format that differs from that of the name, E0948 for `--json` with standard output,
/// and those of [`VideoWriter::create`].
pub(super) fn open_writer(
    args: &Generate,
    output: &Path,
    size: Size,
    options: &FileOptions,
) -> Result<VideoWriter> {
    let Size { width, height, .. } = size;
    let (fps, writer) = (options.fps, &options.writer);
    if !is_standard_output(output) {
        agree(args, output)?;
        return VideoWriter::create(output, width, height, fps, writer);
    }
    if args.json {
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
fn agree(args: &Generate, output: &Path) -> Result<()> {
    let Some(format) = args.format.map(Format::from) else {
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
