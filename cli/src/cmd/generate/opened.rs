//! Where the video of `generate` goes: a file, a folder, a pipe or standard output.

use crate::args::Generate;
use anyid_runtime::files::{self, Existing};
use anyid_runtime::media::writer::{Format, VideoWriter, WriterOptions};
use anyid_runtime::{Error, FileOptions, Result, Size};
use std::fs::File;
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

/// Whether the video goes to standard output; the report must then go elsewhere.
pub(super) fn is_standard_output(output: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| output == *name)
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
    VideoWriter::create_into(standard_output()?, "standard output", width, height, fps, writer)
}

/// Refuses a format that the name of a file contradicts.
fn agree(args: &Generate, output: &Path) -> Result<()> {
    let Some(format) = args.format.map(Format::from) else {
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

/// A duplicate of standard output as a file.
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
