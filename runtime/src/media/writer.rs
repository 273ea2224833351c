//! Writes a video: `.mp4`, `.gif`, a folder of PNG frames, or whatever `ffmpeg` can write.
//!
//! The name decides the form. A result appears under its name only when [`VideoWriter::finish`]
//! succeeds, whole; before that it is a temporary beside it, removed when the writer is dropped.
//! Sound, variable rates and sizes other than the model's are not offered.

use super::sink::{FfmpegSink, FolderSink, GifSink, Mp4Sink};
use super::{RgbFrame, ffmpeg};
use crate::checkpoint::atomic::write_error;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// How a video is written.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// H.264 quantiser of MP4 files, 12 (best) to 40; 18 is visually lossless, about 43 dB on
    /// natural pictures.
    pub quantiser: u8,
    /// Whether an `ffmpeg` on the PATH may write other formats.
    pub allow_ffmpeg: bool,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { quantiser: 18, allow_ffmpeg: true }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenInfo {
    /// The file or folder.
    pub path: PathBuf,
    /// In words, such as `MP4 (H.264)`.
    pub format: String,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Number of frames.
    pub frames: usize,
    /// Frames a second as a fraction.
    pub rate: (u32, u32),
    /// Size of the file, or of the frames together.
    pub bytes: u64,
}

/// The form that a name asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Mp4,
    Gif,
    Folder,
    Other,
}

/// Names ending in a slash, existing folders and names without an ending are folders.
fn form(path: &Path) -> Form {
    let text = path.as_os_str().to_string_lossy();
    if text.ends_with(std::path::is_separator) || path.is_dir() {
        return Form::Folder;
    }
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    match ending.as_deref() {
        None => Form::Folder,
        Some("mp4" | "m4v") => Form::Mp4,
        Some("gif") => Form::Gif,
        Some(_) => Form::Other,
    }
}

enum Sink {
    Mp4(Box<Mp4Sink>),
    Gif(GifSink),
    Folder(FolderSink),
    Ffmpeg(FfmpegSink),
}

/// Takes frames in order and writes them.
pub struct VideoWriter {
    sink: Sink,
    path: PathBuf,
    format: String,
    width: usize,
    height: usize,
    rate: (u32, u32),
    frames: usize,
}

impl VideoWriter {
    /// Prepares to write `path`: `width` x `height` frames at `fps` (24.0; 23.976 means 24000/1001).
    /// Everything that can be refused is refused here, before the long job that makes the frames.
    ///
    /// # Errors
    /// `E0820` the name's form is unknown, `E0821` size, rate or quantiser impossible, `E0823`
    /// the folder holds other files, `E0811` `ffmpeg` refuses, `E1010`–`E1014` the place cannot be
    /// written.
    pub fn create(
        path: &Path,
        width: usize,
        height: usize,
        fps: f64,
        options: &WriterOptions,
    ) -> Result<Self> {
        let rate = rate(fps).ok_or_else(|| {
            Error::input("E0821", format!("a video cannot run at {fps} frames a second"))
                .at(path.display())
                .help("give a rate from 1 to 1000, such as 24")
        })?;
        check_size(path, form(path), width, height, options)?;
        check_place(path)?;
        let (sink, format) = match form(path) {
            Form::Mp4 => {
                let sink = Mp4Sink::create(path, width, height, rate, options.quantiser)?;
                (Sink::Mp4(Box::new(sink)), "MP4 (H.264)".to_string())
            }
            Form::Gif => (Sink::Gif(GifSink::create(path, rate)?), "GIF".to_string()),
            Form::Folder => (Sink::Folder(FolderSink::create(path)?), "PNG frames".to_string()),
            Form::Other => {
                let program = find_ffmpeg(path, options)?;
                let sink = FfmpegSink::create(program, path, width, height, rate)
                    .map_err(|e| e.at(path.display()))?;
                let ending = path.extension().unwrap_or_default().to_string_lossy();
                (Sink::Ffmpeg(sink), format!("{} by ffmpeg", ending.to_uppercase()))
            }
        };
        let path = path.to_path_buf();
        Ok(Self { sink, path, format, width, height, rate, frames: 0 })
    }

    /// Adds a frame: `height * width * 3` bytes of interleaved RGB.
    ///
    /// # Errors
    /// `E0825` wrong length, `E0824` the encoder fails, `E1010`–`E1013` it cannot be stored.
    pub fn push(&mut self, rgb: &[u8]) -> Result<()> {
        let expected = self.width * self.height * 3;
        if rgb.len() != expected {
            let what = format!("a frame of {} bytes where {expected} belong", rgb.len());
            return Err(Error::internal("E0825", what).at(self.path.display()));
        }
        let index = self.frames;
        match &mut self.sink {
            Sink::Mp4(sink) => sink.push(index, rgb),
            Sink::Gif(sink) => sink.push(index, self.width, self.height, rgb),
            Sink::Folder(sink) => sink.push(index, self.width, self.height, rgb),
            Sink::Ffmpeg(sink) => sink.push(rgb),
        }
        .map_err(|e| e.at(self.path.display()))?;
        self.frames += 1;
        Ok(())
    }

    /// Adds a frame of the size given at creation.
    ///
    /// # Errors
    /// As [`VideoWriter::push`].
    pub fn push_frame(&mut self, frame: &RgbFrame) -> Result<()> {
        self.push(&frame.data)
    }

    /// Completes the file or folder and gives it its name.
    ///
    /// # Errors
    /// `E0825` no frame was added, `E0824` or `E0811` encoding fails, `E1010`–`E1013` it cannot be
    /// stored.
    pub fn finish(self) -> Result<WrittenInfo> {
        let place = self.path.display().to_string();
        if self.frames == 0 {
            return Err(Error::internal("E0825", "a video without frames").at(place));
        }
        let bytes = match self.sink {
            Sink::Mp4(sink) => sink.finish(self.frames),
            Sink::Gif(sink) => sink.finish(),
            Sink::Folder(sink) => sink.finish(),
            Sink::Ffmpeg(sink) => sink.finish(),
        }
        .map_err(|e| e.at(place))?;
        Ok(WrittenInfo {
            path: self.path,
            format: self.format,
            width: self.width,
            height: self.height,
            frames: self.frames,
            rate: self.rate,
            bytes,
        })
    }
}

fn find_ffmpeg(path: &Path, options: &WriterOptions) -> Result<PathBuf> {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let place = path.display();
    if ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff"].contains(&ending.as_str()) {
        let what = format!("a .{ending} file holds a single picture, not a video");
        return Err(Error::input("E0820", what)
            .at(place)
            .help("give a folder name, such as `frames/`, to get every frame as a PNG"));
    }
    options.allow_ffmpeg.then(ffmpeg::find).flatten().ok_or_else(|| {
        let why = if options.allow_ffmpeg { "is not on the PATH" } else { "may not be used here" };
        Error::input("E0820", format!("writing .{ending} needs ffmpeg, which {why}"))
            .at(place)
            .help("write an .mp4, a .gif or a folder of PNG frames (`frames/`), or install ffmpeg")
    })
}

fn check_size(
    path: &Path,
    form: Form,
    width: usize,
    height: usize,
    options: &WriterOptions,
) -> Result<()> {
    let refuse = |what: String, help: &str| {
        Err(Error::input("E0821", what).at(path.display()).help(help.to_string()))
    };
    let size = format!("{width}x{height}");
    if width == 0 || height == 0 {
        return refuse(format!("a video of {size} is empty"), "give a size such as 1280x704");
    }
    match form {
        Form::Mp4 => {
            let (long, short) = (width.max(height), width.min(height));
            if width % 2 == 1 || height % 2 == 1 {
                let help = "choose even sides, or write a .gif or a folder of PNG frames";
                return refuse(format!("H.264 needs even sides, not {size}"), help);
            }
            if short < 16 || long > 3840 || short > 2160 {
                let help = "choose a size in that range, or write a folder of PNG frames";
                let what = format!("H.264 is written from 16x16 to 3840x2160, not {size}");
                return refuse(what, help);
            }
            if !(12..=40).contains(&options.quantiser) {
                let what = format!("the quantiser {} is out of range", options.quantiser);
                return refuse(what, "give 12 (best quality) to 40 (smallest file)");
            }
        }
        Form::Gif | Form::Folder | Form::Other => {
            if width > 16_384 || height > 16_384 {
                let what = format!("a video of {size} is too large");
                return refuse(what, "sides run to 16384 pixels");
            }
        }
    }
    Ok(())
}

/// Checks that the folder that will hold the result exists and is one.
fn check_place(path: &Path) -> Result<()> {
    if path.file_name().is_none() && !path.is_dir() {
        return Err(Error::input("E0820", "this is not a name that can be written")
            .at(path.display())
            .help("give a file name such as out.mp4, or a folder name"));
    }
    match std::fs::metadata(super::sink::folder_of(path)) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(write_error(path, std::io::ErrorKind::NotADirectory.into())),
        Err(e) => Err(write_error(path, e)),
    }
}

/// A rate as a fraction: whole rates, the television ones (23.976 is 24000/1001), then the nearest
/// with a denominator up to 1000. None outside 1 to 1000 frames a second.
fn rate(fps: f64) -> Option<(u32, u32)> {
    if !(1.0..=1000.0).contains(&fps) {
        return None;
    }
    if (fps - fps.round()).abs() < 1e-6 {
        return Some((fps.round() as u32, 1));
    }
    let television = (fps * 1.001).round();
    if (television / 1.001 - fps).abs() < 1e-4 {
        return Some((television as u32 * 1000, 1001));
    }
    let near = |under: &u32| {
        let over = fps * f64::from(*under);
        (over - over.round()).abs() < 1e-6 * f64::from(*under)
    };
    let under = (2..=1000).find(near).unwrap_or(1000);
    Some(((fps * f64::from(under)).round() as u32, under))
}
