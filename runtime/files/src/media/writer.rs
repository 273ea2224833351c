//! Writes a video: `.mp4`, `.gif`, `.apng`, `.webp`, a folder of PNG frames, or whatever `ffmpeg` can
//! write.
//!
//! The name decides the form. A result appears under its name only when [`VideoWriter::finish`]
//! succeeds, whole; before that it is a temporary beside it, removed when the writer is dropped.
//! What goes to a pipe or a device is completed first as well, see `stream`. Sound, variable rates
//! and sizes other than the model's are not offered.

use super::animation::{Animation, AnimationSink};
use super::coding::Coding;
use super::ffmpeg::FfmpegSink;
use super::inscription::Inscription;
use super::sink::{FolderSink, GifSink, Mp4Sink};
use super::stream::Stream;
use super::{RgbFrame, ffmpeg};
use crate::error::{Error, Result};
use crate::output::{self, Existing, Whole, write_error};
use std::fs::File;
use std::path::{Path, PathBuf};

/// How a video is written.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// H.264 quantiser of MP4 files, 12 (best) to 40; 18 is visually lossless, about 43 dB on
    /// natural pictures.
    pub quantiser: u8,
    /// Whether an `ffmpeg` on the PATH may write other formats.
    pub allow_ffmpeg: bool,
    /// What happens to a result that is there already.
    pub existing: Existing,
    /// The form of what goes to a pipe or a device, whose name says nothing.
    pub format: Option<Format>,
    /// Codec and quality; a quality takes the place of the quantiser.
    pub coding: Coding,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            quantiser: 18,
            allow_ffmpeg: true,
            existing: Existing::Overwrite,
            format: None,
            coding: Coding::default(),
        }
    }
}

/// What may lie beside the frames of a folder: the list of their hashes, and a statement of origin about
/// that.
pub const BESIDE_FRAMES: [&str; 2] = ["frames.sha256", "manifest.c2pa"];

/// The forms that can go through a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// H.264 in MP4.
    Mp4,
    /// An endless GIF.
    Gif,
    /// An animated PNG.
    Apng,
    /// An animated WebP without losses.
    Webp,
    /// Matroska, by `ffmpeg`.
    Mkv,
    /// WebM, by `ffmpeg`.
    Webm,
    /// QuickTime, by `ffmpeg`.
    Mov,
}

impl Format {
    /// All.
    pub const ALL: [Self; 7] =
        [Self::Mp4, Self::Gif, Self::Apng, Self::Webp, Self::Mkv, Self::Webm, Self::Mov];

    /// The ending of its files.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Gif => "gif",
            Self::Apng => "apng",
            Self::Webp => "webp",
            Self::Mkv => "mkv",
            Self::Webm => "webm",
            Self::Mov => "mov",
        }
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
    Animation(Animation),
    Folder,
    Other,
}

/// Whether a name asks for a folder of frames.
pub fn makes_folder(path: &Path) -> bool {
    !output::is_direct(path) && form(path) == Form::Folder
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
        Some("apng") => Form::Animation(Animation::Apng),
        Some("webp") => Form::Animation(Animation::Webp),
        Some(_) => Form::Other,
    }
}

/// The form of a name with what was chosen of its coding.
///
/// # Errors
/// E0820 and E0821 for what the form does not have.
fn form_of(path: &Path, options: &WriterOptions) -> Result<Form> {
    let form = form(path);
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let ending = ending.filter(|_| form != Form::Folder).unwrap_or_default();
    options.coding.check(&ending)?;
    Ok(if form == Form::Mp4 && options.coding.is_foreign() { Form::Other } else { form })
}

enum Sink {
    Mp4(Box<Mp4Sink>),
    Gif(GifSink),
    Animation(AnimationSink),
    Folder(FolderSink),
    Ffmpeg(Box<FfmpegSink>),
}

/// Takes frames in order and writes them.
pub struct VideoWriter {
    sink: Sink,
    /// Where the result goes when that is no file.
    stream: Option<Stream>,
    path: PathBuf,
    format: String,
    width: usize,
    height: usize,
    rate: (u32, u32),
    frames: usize,
}

impl VideoWriter {
    /// Prepares to write `path`: `width` x `height` frames at `fps` (23.976 is 24000/1001).
    /// Everything that can be refused is refused here, before the long job that makes the frames.
    ///
    /// A pipe or a device is opened here, which waits for a reader, and gets the result when it is
    /// complete.
    ///
    /// # Errors
    /// `E0820` the name's form is unknown, `E0821` size, rate or quantiser impossible, `E0842` the
    /// form cannot hold the rate, `E0843` a trial is not whole, `E0823` the folder holds other
    /// files, `E0811` `ffmpeg` refuses, `E1010`–`E1014` the place cannot be written, `E1016`
    /// something is there that shall be kept, `E1017` a pipe cannot take it.
    pub fn create(
        path: &Path,
        width: usize,
        height: usize,
        fps: f64,
        options: &WriterOptions,
    ) -> Result<Self> {
        match Stream::open(path, options.format)? {
            Some(stream) => Self::spooled(stream, width, height, fps, options),
            None => Self::plain(path, width, height, fps, options),
        }
    }

    /// As [`VideoWriter::create`], into `output`, such as standard output; `name` is what errors
    /// call it. The form is that of `options`, or MP4.
    ///
    /// # Errors
    /// As [`VideoWriter::create`].
    pub fn create_into(
        output: File,
        name: &str,
        width: usize,
        height: usize,
        fps: f64,
        options: &WriterOptions,
    ) -> Result<Self> {
        let stream = Stream::into(output, name, options.format.unwrap_or(Format::Mp4))?;
        Self::spooled(stream, width, height, fps, options)
    }

    fn spooled(
        stream: Stream,
        width: usize,
        height: usize,
        fps: f64,
        options: &WriterOptions,
    ) -> Result<Self> {
        let mut made = Self::plain(&stream.spool_path(), width, height, fps, options)
            .map_err(|error| stream.named(error))?;
        made.path = stream.path().to_owned();
        made.stream = Some(stream);
        Ok(made)
    }

    fn plain(
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
        let form = form_of(path, options).map_err(|e| e.at(path.display()))?;
        let quantiser = options.coding.quality.unwrap_or(options.quantiser);
        check_size(path, form, width, height, quantiser)?;
        check_rate(form, rate).map_err(|e| e.at(path.display()))?;
        check_place(path)?;
        let existing = options.existing;
        let (sink, format) = match form {
            Form::Mp4 => {
                let sink = Mp4Sink::create(path, width, height, rate, quantiser, existing)?;
                (Sink::Mp4(Box::new(sink)), "MP4 (H.264)".to_string())
            }
            Form::Gif => (Sink::Gif(GifSink::create(path, rate, existing)?), "GIF".to_string()),
            Form::Animation(form) => {
                let sink = AnimationSink::create(form, path, rate, existing)?;
                let format = match form {
                    Animation::Apng => "APNG",
                    Animation::Webp => "WebP (lossless)",
                };
                (Sink::Animation(sink), format.to_string())
            }
            Form::Folder => {
                (Sink::Folder(FolderSink::create(path, existing)?), "PNG frames".to_string())
            }
            Form::Other => {
                let program = find_ffmpeg(path, options)?;
                let (size, coding) = ((width, height), options.coding);
                let sink = FfmpegSink::create(program, path, existing, size, rate, coding)
                    .map_err(|e| e.at(path.display()))?;
                let ending = path.extension().unwrap_or_default().to_string_lossy();
                let codec =
                    coding.codec.map_or_else(String::new, |own| format!(" ({})", own.name()));
                let what = format!("{}{codec} by ffmpeg", ending.to_uppercase());
                (Sink::Ffmpeg(Box::new(sink)), what)
            }
        };
        let path = path.to_path_buf();
        Ok(Self { sink, stream: None, path, format, width, height, rate, frames: 0 })
    }

    /// The ending of the form that is written, in small letters; `frames` for a folder of them.
    pub fn ending(&self) -> String {
        match (&self.sink, &self.stream) {
            (Sink::Folder(_), _) => "frames".to_owned(),
            (_, Some(stream)) => stream.ending().to_owned(),
            _ => self.path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase(),
        }
    }

    /// Whether the result goes to a pipe or a device.
    pub fn is_stream(&self) -> bool {
        self.stream.is_some()
    }

    /// Most bytes that `frames` frames hold in memory until [`Self::finish`]: an MP4 is written at
    /// the end, at four bits a pixel, which no picture but noise needs at the quantisers offered.
    pub fn held_bytes(&self, frames: usize) -> u64 {
        let pixels = (self.width as u64).saturating_mul(self.height as u64);
        let once = pixels.saturating_mul(6);
        match self.sink {
            Sink::Mp4(_) => once.saturating_add(pixels.saturating_mul(frames as u64) / 2),
            // A frame in several forms of the encoder, and its bytes.
            Sink::Animation(_) => once.saturating_mul(4),
            Sink::Gif(_) | Sink::Folder(_) | Sink::Ffmpeg(_) => once,
        }
    }

    /// Has the result say this about itself: a file that we write once, a folder in each of its frames, and
    /// what `ffmpeg` writes where its form has a place for it.
    ///
    /// # Errors
    /// `E0825` after the first frame, `E1010`–`E1016` where it cannot be handed to `ffmpeg`.
    pub fn inscribe(&mut self, what: Inscription) -> Result<()> {
        if self.frames > 0 {
            let late = "what a video says about itself comes before its frames";
            return Err(Error::internal("E0825", late).at(self.path.display()));
        }
        match &mut self.sink {
            Sink::Mp4(sink) => sink.inscription = Some(what),
            Sink::Gif(sink) => sink.inscription = Some(what),
            Sink::Animation(sink) => sink.inscription = Some(what),
            Sink::Folder(sink) => sink.inscribe(&what),
            Sink::Ffmpeg(sink) => sink.inscribe(&what)?,
        }
        Ok(())
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
            Sink::Animation(sink) => sink.push(self.width, self.height, rgb),
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

    /// Completes the file or folder and gives it its name, or a free one beside it if something
    /// came there that must be kept ([`WrittenInfo::path`]).
    ///
    /// # Errors
    /// `E0825` no frame was added, `E0824` or `E0811` encoding fails, `E1010`–`E1013` it cannot be
    /// stored.
    pub fn finish(self) -> Result<WrittenInfo> {
        let named = self.path.clone();
        let (mut info, whole) = self.finish_unnamed()?;
        let (was, got) = (whole.path().to_owned(), output::commit(vec![whole])?.swap_remove(0));
        info.path = if got == was { named } else { got };
        Ok(info)
    }

    /// Completes the file or folder, which [`output::commit`] gives its name together with others.
    /// A pipe or a device has got everything after this.
    ///
    /// # Errors
    /// As [`VideoWriter::finish`].
    pub fn finish_unnamed(self) -> Result<(WrittenInfo, Whole)> {
        self.finish_after(&mut |_| Ok(()))
    }

    /// As [`Self::finish_unnamed`], with something to be done last to the whole file or folder, at the
    /// place where it lies until it has its name. If that fails, there is no result.
    ///
    /// # Errors
    /// As [`VideoWriter::finish`], and those of `last`.
    pub fn finish_after(
        self,
        last: &mut dyn FnMut(&Path) -> Result<()>,
    ) -> Result<(WrittenInfo, Whole)> {
        let place = self.path.display().to_string();
        if self.frames == 0 {
            return Err(Error::internal("E0825", "a video without frames").at(place));
        }
        let finished = match self.sink {
            Sink::Mp4(sink) => sink.finish(self.frames),
            Sink::Gif(sink) => sink.finish(),
            Sink::Animation(sink) => sink.finish(),
            Sink::Folder(sink) => sink.finish(),
            Sink::Ffmpeg(sink) => sink.finish(),
        };
        let (mut whole, mut bytes) = finished.map_err(|e| match &self.stream {
            Some(stream) => stream.named(e),
            None => e.at(place),
        })?;
        if let Some(path) = whole.temporary_path() {
            last(path)?;
            bytes = if path.is_dir() { bytes } else { whole.bytes() };
        }
        if let Some(stream) = self.stream {
            whole = stream.send(whole)?;
        }
        let info = WrittenInfo {
            path: self.path,
            format: self.format,
            width: self.width,
            height: self.height,
            frames: self.frames,
            rate: self.rate,
            bytes,
        };
        Ok((info, whole))
    }
}

fn find_ffmpeg(path: &Path, options: &WriterOptions) -> Result<PathBuf> {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let place = path.display();
    if ["png", "jpg", "jpeg", "bmp", "tif", "tiff"].contains(&ending.as_str()) {
        let what = format!("a .{ending} file holds a single picture, not a video");
        return Err(Error::input("E0820", what).at(place).help(
            "give a folder name, such as `frames/`, to get every frame as a PNG, or write an .apng",
        ));
    }
    options.allow_ffmpeg.then(ffmpeg::find).flatten().ok_or_else(|| {
        let why = if options.allow_ffmpeg { "is not on the PATH" } else { "may not be used here" };
        Error::input("E0820", format!("writing .{ending} needs ffmpeg, which {why}"))
            .at(place)
            .help(
                "write an .mp4, .gif, .apng or .webp, or a folder of PNG frames (`frames/`), or \
                 install ffmpeg",
            )
    })
}

fn check_size(path: &Path, form: Form, width: usize, height: usize, quantiser: u8) -> Result<()> {
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
            if !(12..=40).contains(&quantiser) {
                let what = format!("the quantiser {quantiser} is out of range");
                return refuse(what, "give 12 (best quality) to 40 (smallest file)");
            }
        }
        Form::Gif | Form::Animation(_) | Form::Folder | Form::Other => {
            if width > 16_384 || height > 16_384 {
                let what = format!("a video of {size} is too large");
                return refuse(what, "sides run to 16384 pixels");
            }
        }
    }
    Ok(())
}

/// Refuses rates that the form cannot hold. Others that `ffmpeg` writes are tried out.
fn check_rate(form: Form, (over, under): (u32, u32)) -> Result<()> {
    // Delays are whole hundredths of a second, and viewers take those below two for ten.
    if form == Form::Gif && u64::from(over) > 50 * u64::from(under) {
        return Err(ffmpeg::unheld("gif", f64::from(over) / f64::from(under), 50.0));
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

#[cfg(test)]
mod tests {
    use super::super::{MediaKind, ReadOptions, read_clip};
    use super::*;
    use crate::testing::TempFolder;

    const ALONE: ReadOptions = ReadOptions {
        limits: super::super::Limits { side: 4096, frame_bytes: 1 << 28, clip_bytes: 1 << 30 },
        allow_ffmpeg: false,
    };

    /// Frame `t` of a moving texture.
    fn texture(width: usize, height: usize, t: usize) -> Vec<u8> {
        let value = |x: usize, y: usize| {
            let (x, y) = ((x + 3 * t) as f64, y as f64);
            128.0 + 60.0 * (x * 0.21).sin() * (y * 0.13).cos() + 40.0 * ((x + y) * 0.07).sin()
        };
        (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .flat_map(|(x, y)| {
                let v = value(x, y);
                [v as u8, (v * 0.95) as u8, (v * 0.9 + 12.0) as u8]
            })
            .collect()
    }

    fn write(path: &Path, width: usize, height: usize, frames: usize, fps: f64) -> WrittenInfo {
        let options = WriterOptions::default();
        let mut writer = VideoWriter::create(path, width, height, fps, &options).unwrap();
        for t in 0..frames {
            writer.push(&texture(width, height, t)).unwrap();
        }
        writer.finish().unwrap()
    }

    fn psnr(a: &[u8], b: &[u8]) -> f64 {
        let square = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b)).powi(2);
        let mean = a.iter().zip(b).map(square).sum::<f64>() / a.len() as f64;
        10.0 * (255.0f64.powi(2) / mean.max(1e-9)).log10()
    }

    fn refusal(path: &Path, width: usize, height: usize, fps: f64) -> &'static str {
        let options = WriterOptions { allow_ffmpeg: false, ..WriterOptions::default() };
        let error = VideoWriter::create(path, width, height, fps, &options).err().unwrap();
        assert!(error.place().is_some() && error.help_text().is_some(), "{error}");
        error.code()
    }

    #[test]
    fn mp4_has_every_frame_the_exact_rate_and_the_colours() {
        let folder = TempFolder::new();
        for (name, fps, rate) in
            [("a.mp4", 24.0, 24.0), ("b.mp4", 23.976, 24000.0 / 1001.0), ("c.MP4", 7.0, 7.0)]
        {
            let path = folder.path().join(name);
            let info = write(&path, 128, 96, 9, fps);
            assert_eq!((info.frames, info.width, info.height), (9, 128, 96));
            assert_eq!(info.bytes, std::fs::metadata(&path).unwrap().len());
            let clip = read_clip(&path, &ALONE).unwrap();
            assert_eq!((clip.frames.len(), clip.kind), (9, MediaKind::Video));
            assert!((clip.fps.unwrap() - rate).abs() < 1e-9);
            for (t, frame) in clip.frames.iter().enumerate() {
                let quality = psnr(&frame.data, &texture(128, 96, t));
                assert!(quality > 38.0, "frame {t}: {quality:.1} dB");
            }
        }
        assert_eq!(folder.names(), ["a.mp4", "b.mp4", "c.MP4"]);
    }

    /// Every sample black or full, which takes an encoder more bits than it has room for.
    fn noise(width: usize, height: usize, seed: usize) -> Vec<u8> {
        let mut state = seed as u64 + 1;
        let mut sample = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if state >> 63 == 1 { 255 } else { 0 }
        };
        (0..width * height * 3).map(|_| sample()).collect()
    }

    #[test]
    fn loud_noise_is_written_coarser_until_the_next_key_frame() {
        let folder = TempFolder::new();
        let path = folder.path().join("noise.mp4");
        let options = WriterOptions { quantiser: 12, ..WriterOptions::default() };
        // Key frames are 20 frames apart. Noise comes right behind one and in the midst.
        let loud = |t: usize| matches!(t, 1..4 | 30..33);
        let picture = |t: usize| if loud(t) { noise(128, 96, t) } else { texture(128, 96, t) };
        let mut writer = VideoWriter::create(&path, 128, 96, 10.0, &options).unwrap();
        (0..60).for_each(|t| writer.push(&picture(t)).unwrap());
        writer.finish().unwrap();
        let clip = read_clip(&path, &ALONE).unwrap();
        assert_eq!(clip.frames.len(), 60);
        let quality: Vec<f64> =
            clip.frames.iter().enumerate().map(|(t, f)| psnr(&f.data, &picture(t))).collect();
        // The order of the frames: each is nearest to its own original.
        for t in (0..60).filter(|t| !loud(*t)) {
            assert!(quality[t] > 30.0, "frame {t}: {:.1} dB", quality[t]);
        }
        println!("{quality:.1?}");
        assert!(quality[0] > 40.0 && quality[25] > 40.0 && quality[59] > 40.0, "{quality:.1?}");
    }

    #[test]
    fn the_same_frames_give_the_same_file() {
        let folder = TempFolder::new();
        let (a, b) = (folder.path().join("a.mp4"), folder.path().join("b.mp4"));
        write(&a, 64, 32, 5, 24.0);
        write(&b, 64, 32, 5, 24.0);
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }

    #[test]
    fn one_frame_is_a_picture() {
        let folder = TempFolder::new();
        let path = folder.path().join("one.mp4");
        write(&path, 64, 32, 1, 24.0);
        let clip = read_clip(&path, &ALONE).unwrap();
        assert_eq!((clip.kind, clip.frames.len()), (MediaKind::Image, 1));
    }

    #[test]
    fn gif_delays_do_not_drift() {
        let folder = TempFolder::new();
        let path = folder.path().join("a.gif");
        write(&path, 33, 21, 25, 24.0);
        let clip = read_clip(&path, &ALONE).unwrap();
        assert_eq!(clip.frames.len(), 25);
        // 25/24 s to the nearest hundredth.
        assert!((25.0 / clip.fps.unwrap() - 1.04).abs() < 1e-6);
        let quality = psnr(&clip.frames[24].data, &texture(33, 21, 24));
        assert!(quality > 30.0, "{quality:.1} dB");
    }

    #[test]
    fn folders_of_frames_are_whole_and_replace_only_their_own_kind() {
        let folder = TempFolder::new();
        let path = folder.path().join("frames");
        write(&path, 5, 3, 3, 24.0);
        assert_eq!(folder.names(), ["frames"]);
        let clip = read_clip(&path.join("frame_00002.png"), &ALONE).unwrap();
        assert_eq!(clip.frames[0].data, texture(5, 3, 2));
        // Again, fewer: nothing of the first run stays.
        let info = write(&folder.path().join("frames/"), 5, 3, 2, 24.0);
        assert_eq!(info.frames, 2);
        let left = std::fs::read_dir(&path).unwrap().count();
        assert_eq!((left, folder.names()), (2, vec!["frames".to_string()]));

        std::fs::write(path.join("notes.txt"), "mine").unwrap();
        assert_eq!(refusal(&path, 5, 3, 24.0), "E0823");
        assert_eq!(folder.names(), ["frames"]);
        assert_eq!(refusal(&folder.write("plain", b"x"), 5, 3, 24.0), "E0823");
        let empty = folder.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        write(&empty, 5, 3, 1, 24.0);
        assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 1);
    }

    #[test]
    fn an_unfinished_video_leaves_nothing() {
        let folder = TempFolder::new();
        for name in ["a.mp4", "a.gif", "frames"] {
            let path = folder.path().join(name);
            let options = WriterOptions::default();
            let mut writer = VideoWriter::create(&path, 64, 32, 24.0, &options).unwrap();
            writer.push(&texture(64, 32, 0)).unwrap();
            drop(writer);
            assert!(folder.names().is_empty(), "{:?}", folder.names());
            let writer = VideoWriter::create(&path, 64, 32, 24.0, &options).unwrap();
            assert_eq!(writer.finish().unwrap_err().code(), "E0825");
            assert!(folder.names().is_empty(), "{:?}", folder.names());
        }
    }

    #[test]
    fn what_cannot_be_written_is_refused_at_once() {
        let folder = TempFolder::new();
        let mp4 = folder.path().join("a.mp4");
        assert_eq!(refusal(&mp4, 63, 32, 24.0), "E0821");
        assert_eq!(refusal(&mp4, 0, 32, 24.0), "E0821");
        assert_eq!(refusal(&mp4, 4096, 2304, 24.0), "E0821");
        for fps in [0.0, -1.0, f64::NAN, f64::INFINITY, 5000.0] {
            assert_eq!(refusal(&mp4, 64, 32, fps), "E0821");
        }
        assert_eq!(refusal(&folder.path().join("a.webm"), 64, 32, 24.0), "E0820");
        assert_eq!(refusal(&folder.path().join("a.png"), 64, 32, 24.0), "E0820");
        assert_eq!(refusal(&folder.path().join("none/a.mp4"), 64, 32, 24.0), "E1010");
        assert_eq!(refusal(&folder.path().join("none/frames"), 64, 32, 24.0), "E1010");
        let file = folder.write("file", b"");
        assert_eq!(refusal(&file.join("a.gif"), 64, 32, 24.0), "E1010");
        let mut writer =
            VideoWriter::create(&mp4, 64, 32, 24.0, &WriterOptions::default()).unwrap();
        assert_eq!(writer.push(&[0; 7]).unwrap_err().code(), "E0825");
    }

    #[test]
    fn rates_become_fractions() {
        assert_eq!(rate(24.0), Some((24, 1)));
        assert_eq!(rate(23.976), Some((24000, 1001)));
        assert_eq!(rate(29.97), Some((30000, 1001)));
        assert_eq!(rate(59.94), Some((60000, 1001)));
        assert_eq!(rate(12.5), Some((25, 2)));
        assert_eq!(rate(0.5), None);
    }

    #[test]
    fn other_forms_go_through_ffmpeg() {
        if ffmpeg::find().is_none() {
            println!("skipped: no ffmpeg on the PATH");
            return;
        }
        let folder = TempFolder::new();
        let path = folder.path().join("a.mkv");
        let info = write(&path, 64, 32, 7, 24.0);
        assert_eq!((info.frames, folder.names()), (7, vec!["a.mkv".to_string()]));
        let clip = read_clip(&path, &ReadOptions::default()).unwrap();
        assert_eq!((clip.frames.len(), clip.fps), (7, Some(24.0)));
        // A form it does not know is refused before any frame is made, and leaves nothing.
        let unknown = folder.path().join("a.xyz");
        let error = VideoWriter::create(&unknown, 64, 32, 24.0, &WriterOptions::default());
        assert_eq!(error.err().unwrap().code(), "E0811");
        assert_eq!(folder.names(), ["a.mkv"]);
    }

    #[test]
    fn mp4_decodes_cleanly_elsewhere() {
        let Some(program) = ffmpeg::find() else {
            println!("skipped: no ffmpeg on the PATH");
            return;
        };
        let folder = TempFolder::new();
        let path = folder.path().join("a.mp4");
        write(&path, 128, 64, 13, 24.0);
        let output = std::process::Command::new(program)
            .args(["-v", "warning", "-i"])
            .arg(&path)
            .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
            .output()
            .unwrap();
        assert!(output.status.success() && output.stderr.is_empty());
        assert_eq!(output.stdout.len(), 13 * 128 * 64 * 3);
        for (t, frame) in output.stdout.chunks(128 * 64 * 3).enumerate() {
            let quality = psnr(frame, &texture(128, 64, t));
            assert!(quality > 38.0, "frame {t}: {quality:.1} dB");
        }
    }
}
