//! Pictures and clips in, videos out.
//!
//! [`visit_frames`] decodes a file frame by frame ([`visit_decoded`] without making colours that are not
//! asked for), [`read_clip`] as a whole,
//! [`standardise::read_reference`] brings it to the model's size and rate, and
//! [`writer::VideoWriter`] writes a result; [`inscription`] are texts in such files. Files are recognised by their content, never by their
//! name. Frames are 8-bit RGB; sound is not looked at.

mod animation;
pub mod coding;
pub mod color;
mod decoded;
mod display;
pub mod ffmpeg;
pub mod h264;
mod heif;
mod image;
pub mod inscription;
pub mod lossless;
mod mp4;
pub mod named;
mod oriented;
mod sink;
mod sniff;
pub mod standardise;
mod stream;
mod streams;
mod tone;
mod video;
pub mod writer;

pub use decoded::DecodedFrame;
pub use sniff::{Foreign, Signature, sniff};

use crate::error::{Error, Result};
use crate::output::{no_descriptor, too_many_files};
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// One picture: 8-bit RGB, rows from the top, three bytes a pixel, no padding.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbFrame {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `width * height * 3` bytes, R G B.
    pub data: Vec<u8>,
}

impl std::fmt::Debug for RgbFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbFrame({}x{}, {} bytes)", self.width, self.height, self.data.len())
    }
}

/// A decoded frame with its place in time.
#[derive(Clone, Debug)]
pub struct TimedFrame {
    /// The pixels.
    pub image: RgbFrame,
    /// Presentation time in seconds; the first frame of a file is at 0.
    pub time: f64,
    /// How long it stays on screen, in seconds; 0 for a still.
    pub duration: f64,
}

/// Whether a file holds one picture or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaKind {
    /// Exactly one frame.
    Image,
    /// Frames in time.
    Video,
}

/// What a file turned out to be.
#[derive(Clone, Debug)]
pub struct SourceInfo {
    /// The file.
    pub path: PathBuf,
    /// One picture or several.
    pub kind: MediaKind,
    /// Width as shown, after orientation and rotation.
    pub width: usize,
    /// Height as shown, after orientation and rotation.
    pub height: usize,
    /// Mean frames a second; none for a still.
    pub fps: Option<f64>,
    /// Frames decoded (fewer than the file holds when the visitor stopped early).
    pub frames: usize,
    /// Frames that the file holds, where it says so without being decoded.
    pub total: Option<usize>,
    /// In words, such as `H.264 in MP4`.
    pub description: String,
    /// Whether it has sound, which is not read.
    pub sound: bool,
    /// Things a user may want to know that did not stop the reading.
    pub warnings: Vec<String>,
}

/// A file decoded as a whole.
#[derive(Clone, Debug)]
pub struct Clip {
    /// Frames in presentation order; at least one.
    pub frames: Vec<RgbFrame>,
    /// Mean frames a second; none for a still.
    pub fps: Option<f64>,
    /// One picture or several.
    pub kind: MediaKind,
    /// Where it came from.
    pub source: SourceInfo,
}

/// Bounds against files that unpack to absurd sizes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest side in pixels.
    pub side: usize,
    /// Decoded bytes of one frame.
    pub frame_bytes: u64,
    /// Decoded bytes of a whole clip, for [`read_clip`] only.
    pub clip_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { side: 16_384, frame_bytes: 512 << 20, clip_bytes: 4 << 30 }
    }
}

/// How files are read.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    /// Bounds on decoded sizes.
    pub limits: Limits,
    /// Whether an `ffmpeg` program on the PATH may decode what we cannot (default yes).
    pub allow_ffmpeg: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), allow_ffmpeg: true }
    }
}

impl Limits {
    /// Checks a frame size; `bytes_per_pixel` is that of the decoded form.
    ///
    /// # Errors
    /// `E0806` when a side is zero or too long, or the frame too large.
    pub(crate) fn check(&self, path: &Path, width: u64, height: u64, bytes: u64) -> Result<()> {
        let place = path.display();
        if width == 0 || height == 0 {
            return Err(Error::input("E0806", format!("the picture is {width}x{height}: empty"))
                .at(place)
                .help("the file is damaged or was written wrongly; export it again"));
        }
        let total = width.saturating_mul(height).saturating_mul(bytes);
        if width > self.side as u64 || height > self.side as u64 || total > self.frame_bytes {
            return Err(Error::input(
                "E0806",
                format!(
                    "a frame of {width}x{height} is too large: at most {} pixels a side and {} MiB \
                     decoded",
                    self.side,
                    self.frame_bytes >> 20
                ),
            )
            .at(place)
            .help("scale the file down; references are resized to the video's size anyway"));
        }
        Ok(())
    }
}

/// Opens a regular, non-empty file and reads its first bytes.
///
/// # Errors
/// `E0801` missing or not allowed, `E0802` not a regular file, `E0803` empty.
fn open(path: &Path) -> Result<(File, u64, Vec<u8>)> {
    let place = path.display();
    let meta = std::fs::metadata(path).map_err(|e| unreadable(path, e))?;
    if meta.is_dir() {
        return Err(Error::input("E0802", "this is a folder, not a picture or clip")
            .at(place)
            .help("give one file; give several files as several references"));
    }
    if !meta.is_file() {
        return Err(Error::input("E0802", "this is a pipe or device, not a regular file")
            .at(place)
            .help("save it to a file first: decoding needs to move back and forth in it"));
    }
    let mut file = File::open(path).map_err(|e| unreadable(path, e))?;
    if meta.len() == 0 {
        return Err(Error::input("E0803", "the file is empty")
            .at(place)
            .help("the download or export did not finish; fetch it again"));
    }
    let mut head = Vec::with_capacity(256);
    file.by_ref().take(256).read_to_end(&mut head).map_err(|e| unreadable(path, e))?;
    file.seek(SeekFrom::Start(0)).map_err(|e| unreadable(path, e))?;
    Ok((file, meta.len(), head))
}

/// Turns a failure to open or read `path` into a coded error.
fn unreadable(path: &Path, error: std::io::Error) -> Error {
    if too_many_files(&error) {
        return no_descriptor(error).at(path.display());
    }
    let (what, help) = match error.kind() {
        std::io::ErrorKind::NotFound => {
            ("there is no such file", "check the name; relative names start at the current folder")
        }
        std::io::ErrorKind::PermissionDenied => {
            ("the file may not be read", "change its permissions or copy it")
        }
        _ => ("the file cannot be read", "check the disk or the network drive"),
    };
    Error::input("E0801", what).at(path.display()).help(help).caused_by(error)
}

/// What a visitor of frames returns: go on, or stop here.
pub type Visit<'a> = &'a mut dyn FnMut(TimedFrame) -> Result<ControlFlow<()>>;

/// Decodes a file and hands every frame, in presentation order, to `visit`; only one decoded frame
/// (plus the decoder's own buffers) is held at a time. Frames after a `Break` are not decoded, so
/// damage there goes unnoticed.
///
/// # Errors
/// `E0801`–`E0812`: the file is missing, not media, damaged, too large, or needs `ffmpeg`; `E0835`
/// it has several videos alike; `E0840` it is a picture that cannot be put together; and whatever
/// `visit` returns.
pub fn visit_frames(path: &Path, options: &ReadOptions, visit: Visit<'_>) -> Result<SourceInfo> {
    match opened(path, options)? {
        Opened::Mp4(reader) => reader.visit(options, &mut |frame| {
            let (time, duration) = (frame.time, frame.duration);
            visit(TimedFrame { image: frame.image()?, time, duration })
        }),
        Opened::Other(other) => other.visit(path, options, visit),
    }
}

/// What a visitor of frames whose colours are not made yet returns: go on, or stop here.
pub type VisitDecoded<'a> = &'a mut dyn FnMut(DecodedFrame<'_>) -> Result<ControlFlow<()>>;

/// As [`visit_frames`], and colours of a frame are made only as far as `visit` asks for them.
///
/// # Errors
/// Those of [`visit_frames`]. A frame whose colours nobody asks for may be incomplete.
pub fn visit_decoded(
    path: &Path,
    options: &ReadOptions,
    visit: VisitDecoded<'_>,
) -> Result<SourceInfo> {
    match opened(path, options)? {
        Opened::Mp4(reader) => reader.visit(options, visit),
        Opened::Other(other) => other.visit(path, options, &mut |frame| visit(frame.into())),
    }
}

/// A file that is known by its first bytes.
enum Opened {
    Mp4(Box<video::Mp4Reader>),
    Other(Other),
}

/// What gives whole frames alone.
enum Other {
    Still(File, ::image::ImageFormat),
    Heif(File, u64, &'static str),
    Foreign(Foreign<'static>),
    /// What an MP4 file holds that the built-in decoder does not read.
    Inside(String),
}

fn opened(path: &Path, options: &ReadOptions) -> Result<Opened> {
    let (file, length, head) = open(path)?;
    Ok(Opened::Other(match sniff(&head) {
        Signature::Still(format) => Other::Still(file, format),
        Signature::Mp4 => match video::open(path, file, length, options)? {
            video::Opened::Ready(reader) => return Ok(Opened::Mp4(reader)),
            video::Opened::Foreign(what) => Other::Inside(what),
        },
        Signature::Heif(what) => Other::Heif(file, length, what),
        Signature::Foreign(source) => Other::Foreign(source),
        Signature::NotMedia(what) => {
            let what = format!("this is not a picture or video; by its first bytes it is {what}");
            return Err(Error::input("E0804", what)
                .at(path.display())
                .help("references are PNG, JPEG, WebP, BMP, GIF or MP4 files"));
        }
    }))
}

impl Other {
    fn visit(self, path: &Path, options: &ReadOptions, visit: Visit<'_>) -> Result<SourceInfo> {
        match self {
            Self::Still(file, format) => image::visit(path, file, format, options, visit),
            Self::Heif(file, length, what) => heif::visit(path, file, length, what, options, visit),
            Self::Foreign(source) => ffmpeg::visit(path, source, options, visit),
            Self::Inside(what) => {
                let source = Foreign { name: &what, demuxer: "mov", picture: false };
                ffmpeg::visit(path, source, options, visit)
            }
        }
    }
}

/// Decodes a whole file. Long clips are better visited: see [`visit_frames`].
///
/// # Errors
/// As [`visit_frames`]; `E0806` also when the frames together exceed [`Limits::clip_bytes`].
pub fn read_clip(path: &Path, options: &ReadOptions) -> Result<Clip> {
    let mut frames: Vec<RgbFrame> = Vec::new();
    let mut total = 0u64;
    let source = visit_frames(path, options, &mut |frame| {
        total += frame.image.data.len() as u64;
        if total > options.limits.clip_bytes {
            return Err(Error::input(
                "E0806",
                format!("the clip unpacks to more than {} MiB", options.limits.clip_bytes >> 20),
            )
            .at(path.display())
            .help("cut it shorter or scale it down"));
        }
        frames.push(frame.image);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Clip { frames, fps: source.fps, kind: source.kind, source })
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs third-party decoding code that may panic on hostile input; a panic becomes `E0812` and
/// prints nothing.
pub(crate) fn guard<T>(path: &Path, what: &str, work: impl FnOnce() -> T) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    result.map_err(|_| {
        Error::input("E0812", format!("{what} broke off inside the decoder"))
            .at(path.display())
            .help("the file is damaged in a way the decoder does not survive; export it again")
    })
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod clips;
