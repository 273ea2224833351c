//! Pictures and clips in, videos out.
//!
//! [`visit_frames`] decodes a file frame by frame, [`read_clip`] as a whole,
//! [`standardise::read_reference`] brings it to the model's size and rate, and
//! [`writer::VideoWriter`] writes a result. Files are recognised by their content, never by their
//! name. Frames are 8-bit RGB; colour profiles, edit lists and sound are not looked at.

pub mod color;
mod display;
pub mod ffmpeg;
pub mod h264;
mod image;
mod mp4;
mod sink;
pub mod standardise;
mod stream;
mod streams;
mod tone;
mod video;
pub mod writer;

use crate::error::{Error, Result};
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
    /// In words, such as `H.264 in MP4`.
    pub description: String,
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

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// A picture (or animation) that the built-in decoders read.
    Still(::image::ImageFormat),
    /// ISO base media: MP4, MOV and kin.
    Mp4,
    /// Known media that needs `ffmpeg`; the words name it.
    Foreign(&'static str),
    /// Something else; the words name it.
    NotMedia(&'static str),
}

/// Names a file by its first bytes (64 are enough).
pub fn sniff(head: &[u8]) -> Signature {
    use ::image::ImageFormat as F;
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    if at(0, b"\x89PNG\r\n\x1a\n") {
        return Signature::Still(F::Png);
    }
    if at(0, b"\xff\xd8\xff") {
        return Signature::Still(F::Jpeg);
    }
    if at(0, b"GIF87a") || at(0, b"GIF89a") {
        return Signature::Still(F::Gif);
    }
    if at(0, b"RIFF") && at(8, b"WEBP") {
        return Signature::Still(F::WebP);
    }
    // "BM" alone is too weak a mark: also ask for the reserved zeros and a known header size.
    let bmp_header = head.get(14).copied().unwrap_or(0);
    if at(0, b"BM")
        && at(6, &[0; 4])
        && matches!(bmp_header, 12 | 16 | 40 | 52 | 56 | 64 | 108 | 124)
    {
        return Signature::Still(F::Bmp);
    }
    if at(4, b"ftyp") {
        let brand = head.get(8..12).unwrap_or_default();
        return match brand {
            b"avif" | b"avis" => Signature::Foreign("an AVIF picture"),
            b"heic" | b"heix" | b"heim" | b"heis" | b"mif1" | b"msf1" | b"hevc" => {
                Signature::Foreign("a HEIC picture")
            }
            b"M4A " | b"M4B " => Signature::NotMedia("an M4A sound file"),
            _ => Signature::Mp4,
        };
    }
    if [b"moov", b"mdat", b"free", b"wide", b"skip", b"pnot"].iter().any(|name| at(4, *name)) {
        return Signature::Mp4;
    }
    let table: [(usize, &[u8], Signature); 31] = [
        (0, b"\x1a\x45\xdf\xa3", Signature::Foreign("a WebM or Matroska video")),
        (8, b"AVI ", Signature::Foreign("an AVI video")),
        (0, b"FLV\x01", Signature::Foreign("an FLV video")),
        (0, b"OggS", Signature::Foreign("an Ogg file")),
        (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Signature::Foreign("a Windows Media video")),
        (0, b"\x00\x00\x01\xba", Signature::Foreign("an MPEG program stream")),
        (0, b"\x00\x00\x01\xb3", Signature::Foreign("an MPEG video stream")),
        (0, b"\x00\x00\x00\x01\x67", Signature::Foreign("a bare H.264 stream")),
        (0, b"\x00\x00\x00\x01\x09", Signature::Foreign("a bare H.264 stream")),
        (0, b"YUV4MPEG2", Signature::Foreign("a Y4M video")),
        (0, b"DKIF", Signature::Foreign("an IVF video")),
        (0, b"II*\0", Signature::Foreign("a TIFF picture")),
        (0, b"MM\0*", Signature::Foreign("a TIFF picture")),
        (0, b"\xff\x0a", Signature::Foreign("a JPEG XL picture")),
        (0, b"\0\0\0\x0cJXL ", Signature::Foreign("a JPEG XL picture")),
        (0, b"\0\0\0\x0cjP  ", Signature::Foreign("a JPEG 2000 picture")),
        (0, b"8BPS", Signature::Foreign("a Photoshop document")),
        (0, b"qoif", Signature::Foreign("a QOI picture")),
        (0, b"\x76\x2f\x31\x01", Signature::Foreign("an OpenEXR picture")),
        (8, b"WAVE", Signature::NotMedia("a WAV sound file")),
        (0, b"ID3", Signature::NotMedia("an MP3 sound file")),
        (0, b"fLaC", Signature::NotMedia("a FLAC sound file")),
        (0, b"%PDF", Signature::NotMedia("a PDF document")),
        (0, b"PK\x03\x04", Signature::NotMedia("a ZIP archive")),
        (0, b"\x1f\x8b", Signature::NotMedia("a gzip archive")),
        (0, b"7z\xbc\xaf\x27\x1c", Signature::NotMedia("a 7-Zip archive")),
        (0, b"\x7fELF", Signature::NotMedia("a program")),
        (0, b"MZ", Signature::NotMedia("a Windows program")),
        (0, b"<svg", Signature::NotMedia("an SVG drawing")),
        (0, b"version https://git-lfs", Signature::NotMedia("a Git LFS pointer, not the file")),
        (0, b"<", Signature::NotMedia("an HTML or XML text")),
    ];
    if let Some((_, _, found)) = table.iter().find(|(offset, magic, _)| at(*offset, magic)) {
        return *found;
    }
    // A transport stream repeats its mark every 188 bytes.
    if at(0, b"G") && at(188, b"G") {
        return Signature::Foreign("an MPEG transport stream");
    }
    let text = |b: &u8| matches!(*b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
    if std::str::from_utf8(head).is_ok() && head.iter().all(text) {
        return Signature::NotMedia("a text file");
    }
    Signature::NotMedia("of no known kind")
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
/// `E0801`–`E0812`: the file is missing, not media, damaged, too large, or needs `ffmpeg`; and
/// whatever `visit` returns.
pub fn visit_frames(path: &Path, options: &ReadOptions, visit: Visit<'_>) -> Result<SourceInfo> {
    let (file, length, head) = open(path)?;
    match sniff(&head) {
        Signature::Still(format) => image::visit(path, file, format, options, visit),
        Signature::Mp4 => match video::open(path, file, length, options)? {
            video::Opened::Ready(reader) => reader.visit(options, visit),
            video::Opened::Foreign(what) => ffmpeg::visit(path, &what, options, visit),
        },
        Signature::Foreign(what) => ffmpeg::visit(path, what, options, visit),
        Signature::NotMedia(what) => Err(Error::input(
            "E0804",
            format!("this is not a picture or video; by its first bytes it is {what}"),
        )
        .at(path.display())
        .help("references are PNG, JPEG, WebP, BMP, GIF or MP4 files")),
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
pub(crate) mod testing {
    //! A folder for one test, removed with it.

    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicUsize, Ordering};

    pub(crate) struct Folder(PathBuf);

    impl Folder {
        pub(crate) fn new() -> Self {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("anyid-media-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }

        pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        }

        pub(crate) fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(&self.0).unwrap();
            let mut names: Vec<String> =
                entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests;
