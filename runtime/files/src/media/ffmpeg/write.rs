//! Encoding through `ffmpeg`, and looking at what it wrote.
//!
//! Containers of video get YUV that we made ourselves (4:2:0, BT.601, limited range, as in our MP4) and
//! are told to say so; other samples are made of RGB by the program, to the same end, and forms of pictures get
//! RGB. A trial of a few frames comes before the work: it
//! shows whether the form, the size and the rate can be had. The result is decoded again before it
//! gets its name: the program's success is not taken for a whole file, as it reports none of a full
//! disk in several of its containers. Bit rates are chosen here, codecs by `ffmpeg`.

use super::log::Log;
use super::process::{Input, Process, file_argument};
use super::read::choose;
use super::tags;
use crate::error::{Error, Result};
use crate::media::coding::{Coding, Pixels};
use crate::media::color::Yuv420;
use crate::media::inscription::{COMMENT, Inscription};
use crate::output::{AtomicFile, Existing, Whole, write_error};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Endings of containers of video, in which 4:2:0 is what players expect, and what reads them.
const VIDEO: [(&str, &str); 22] = [
    ("mp4", "mov"),
    ("m4v", "mov"),
    ("mov", "mov"),
    ("mkv", "matroska"),
    ("webm", "matroska"),
    ("avi", "avi"),
    ("ogv", "ogg"),
    ("ogg", "ogg"),
    ("mpg", "mpeg"),
    ("mpeg", "mpeg"),
    ("vob", "mpeg"),
    ("ts", "mpegts"),
    ("m2ts", "mpegts"),
    ("mts", "mpegts"),
    ("flv", "flv"),
    ("wmv", "asf"),
    ("asf", "asf"),
    ("3gp", "mov"),
    ("nut", "nut"),
    ("y4m", "yuv4mpegpipe"),
    ("mxf", "mxf"),
    ("avif", "mov"),
];
/// Endings whose usual codec, MPEG-1 or MPEG-2, knows only certain rates.
const MPEG: [&str; 9] = ["mpg", "mpeg", "vob", "ts", "m2ts", "mts", "m1v", "m2v", "mxf"];
const MPEG_RATES: [(u32, u32); 8] =
    [(24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (50, 1), (60000, 1001), (60, 1)];
/// Frames of the trial: the last of three has two distances before it.
const TRIAL: usize = 3;

fn value((over, under): (u32, u32)) -> f64 {
    f64::from(over) / f64::from(under)
}

/// What is to be written.
#[derive(Clone, Debug)]
struct Wanted {
    program: PathBuf,
    /// The file that `ffmpeg` writes.
    target: PathBuf,
    ending: String,
    width: usize,
    height: usize,
    rate: (u32, u32),
    /// A file of tags, in `ffmpeg`'s own form.
    tags: Option<PathBuf>,
    coding: Coding,
}

impl Wanted {
    fn video(&self) -> bool {
        self.demuxer().is_some()
    }

    /// Whether the samples are made here.
    fn own_samples(&self) -> bool {
        self.video() && self.coding.pixels_of(&self.ending) == Pixels::Yuv420
    }

    fn demuxer(&self) -> Option<&'static str> {
        VIDEO.iter().find(|(ending, _)| *ending == self.ending).map(|(_, demuxer)| *demuxer)
    }

    /// Refuses rates that the form is known not to hold.
    fn check_rate(&self) -> Result<()> {
        if !MPEG.contains(&self.ending.as_str()) || MPEG_RATES.contains(&self.rate) {
            return Ok(());
        }
        let fps = value(self.rate);
        let far = |rate: &(u32, u32)| (value(*rate) - fps).abs();
        let nearest = MPEG_RATES.iter().min_by(|a, b| far(a).total_cmp(&far(b))).copied();
        Err(unheld(&self.ending, fps, value(nearest.unwrap_or((24, 1)))))
    }

    fn arguments(&self) -> Vec<OsString> {
        let size = format!("{}x{}", self.width, self.height);
        let rate = format!("{}/{}", self.rate.0, self.rate.1);
        let format = if self.own_samples() { "yuv420p" } else { "rgb24" };
        let mut words = vec!["-f", "rawvideo", "-pix_fmt", format, "-s", &size, "-r", &rate];
        words.extend(["-protocol_whitelist", "pipe", "-i", "pipe:0"]);
        let mut arguments: Vec<OsString> = words.drain(..).map(OsString::from).collect();
        if let Some(tags) = &self.tags {
            arguments.extend(tags::arguments(tags));
        }
        words.push("-an");
        let (bits, coded, filter);
        if self.video() {
            // What the samples are. New versions take that from the frames, old ones from the options.
            let said = "setparams=range=tv:colorspace=smpte170m:color_primaries=bt709:\
                        color_trc=bt709";
            filter = match self.own_samples() {
                true => said.to_owned(),
                false => format!(
                    "scale=out_color_matrix=bt601:out_range=tv:\
                     flags=bicubic+accurate_rnd+full_chroma_int,format={},{said}",
                    self.coding.pixels_of(&self.ending).name()
                ),
            };
            words.extend(["-vf", &filter]);
            words.extend(["-color_range", "tv", "-colorspace", "smpte170m"]);
            words.extend(["-color_primaries", "bt709", "-color_trc", "bt709"]);
            // Its default bit rates are meant for thumbnails: a quarter bit a pixel is plenty.
            bits = format!("{:.0}", (self.width * self.height) as f64 * value(self.rate) / 4.0);
            coded = self.coding.arguments(&self.ending);
            match self.demuxer() {
                _ if !coded.is_empty() => words.extend(coded.iter().map(String::as_str)),
                // Theora leaves out frames that are like the one before, unless each is a key.
                Some("ogg") => words.extend(["-pix_fmt", "yuv420p", "-q:v", "8", "-g", "1"]),
                _ => words.extend(["-pix_fmt", "yuv420p", "-b:v", &bits]),
            }
        }
        if matches!(self.ending.as_str(), "mkv" | "webm") {
            // Without a random number for the segment: the same frames make the same file.
            words.extend(["-fflags", "+bitexact"]);
        }
        words.push("-y");
        arguments.extend(words.into_iter().map(OsString::from));
        arguments.push(file_argument(&self.target));
        arguments
    }

    /// Decodes the file again and compares it with what should be in it.
    fn look(&self, frames: usize) -> Result<()> {
        let mut reading: Vec<OsString> = Vec::new();
        if let Some(demuxer) = self.demuxer() {
            reading.extend(["-f", demuxer].map(OsString::from));
        }
        reading.extend(Input::File(&self.target).arguments());
        let start = |arguments: &[OsString]| {
            Process::start(&self.program, Input::File(&self.target), arguments, false)
        };
        // Pictures in motion come with the first one as a stream of its own.
        let (_, list) = start(&reading)?.finish()?;
        let stream = choose(&self.target, &list).map_or(0, |(index, _)| index);
        let stream = format!("0:{stream}");
        let rest = ["-map", &stream, "-an", "-sn", "-dn", "-vf", "showinfo=checksum=0", "-f"];
        reading.extend(rest.iter().chain(&["null", "-"]).map(OsString::from));
        let mut process = start(&reading)?;
        let (mut found, mut size, mut first, mut last) = (0usize, None, None, None);
        let mut tick = 0.0f64;
        while let Ok(note) = process.notes.recv() {
            found += 1;
            size.get_or_insert(note.size);
            first = first.or(note.time);
            last = note.time.or(last);
            tick = note.tick;
        }
        let (_, log) = process.finish()?;
        let said = match log.complaints.is_empty() {
            true => String::new(),
            false => format!("; reading it again, {}", log.quote()),
        };
        let partial = |what: String| {
            Err(Error::input("E0843", format!("the file that ffmpeg wrote {what}{said}")).help(
                "make room on the disk, or write an .mp4, a .gif or a folder of PNG frames, \
                 which need no ffmpeg",
            ))
        };
        if found != frames {
            return partial(format!("holds {found} of {frames} frames"));
        }
        let right = (self.width, self.height);
        if let Some(size) = size.filter(|size| *size != right) {
            let [a, b] = [size, right].map(|(width, height)| format!("{width}x{height}"));
            return partial(format!("has frames of {a} instead of {b}"));
        }
        let steps = frames.saturating_sub(1) as f64;
        if let (Some(first), Some(last)) = (first, last)
            && steps > 0.0
            // A clock of milliseconds rounds both ends.
            && ((last - first) - steps / value(self.rate)).abs() > tick.clamp(0.001, 0.01) + 1e-6
        {
            return Err(unheld(&self.ending, value(self.rate), steps / (last - first).max(1e-9)));
        }
        Ok(())
    }

    fn failed(&self, log: &Log) -> Error {
        if log.complaints.contains("No space left on device") {
            return write_error(&self.target, std::io::ErrorKind::StorageFull.into());
        }
        if log.unloaded || log.complaints.contains("Cannot allocate memory") {
            return log.no_memory();
        }
        Error::input("E0811", format!("ffmpeg could not write the video; {}", log.quote()))
            .help("write an .mp4, a .gif or a folder of PNG frames instead; these need no ffmpeg")
    }
}

/// A rate that a form cannot hold, and the nearest that it can.
pub(in crate::media) fn unheld(ending: &str, fps: f64, nearest: f64) -> Error {
    let short = |rate: f64| {
        let text = format!("{rate:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    let nearest = short(nearest);
    let what = format!(
        "a .{ending} cannot hold {} frames a second; the nearest that it can is {nearest}",
        short(fps)
    );
    Error::input("E0842", what)
        .help(format!("give --fps {nearest}, or write an .mp4, which holds any rate"))
}

/// An `ffmpeg` that encodes raw frames from its input.
struct Encoder {
    process: Process,
}

impl Encoder {
    fn start(wanted: &Wanted) -> Result<Self> {
        let process = Process::start(&wanted.program, Input::Pipe, &wanted.arguments(), false)?;
        Ok(Self { process })
    }

    fn push(&mut self, wanted: &Wanted, frame: &[&[u8]]) -> Result<()> {
        let Some(input) = &mut self.process.input else {
            return Err(Error::internal("E0824", "the encoder was not started"));
        };
        if frame.iter().all(|plane| input.write_all(plane).is_ok()) {
            return Ok(());
        }
        let (_, log) = self.process.finish()?;
        Err(wanted.failed(&log))
    }

    fn finish(mut self, wanted: &Wanted) -> Result<()> {
        let (success, log) = self.process.finish()?;
        if success { Ok(()) } else { Err(wanted.failed(&log)) }
    }
}

/// Any form that we do not write ourselves.
pub(in crate::media) struct FfmpegSink {
    // First, as the program must be gone before its files are. It is started for the first frame.
    encoder: Option<Encoder>,
    file: AtomicFile,
    tags: Option<AtomicFile>,
    wanted: Wanted,
    picture: Option<Yuv420>,
    frames: usize,
}

impl FfmpegSink {
    /// Prepares everything, with a trial: what the program cannot write must be refused before the
    /// frames are made, not after.
    ///
    /// # Errors
    /// `E0811`, `E0842` the form cannot hold the rate, `E0843` the trial is not what it should be,
    /// `E0821` odd sides, `E1010`–`E1016`.
    pub(in crate::media) fn create(
        program: PathBuf,
        path: &Path,
        existing: Existing,
        (width, height): (usize, usize),
        rate: (u32, u32),
        coding: Coding,
    ) -> Result<Self> {
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let file = AtomicFile::for_program(path, existing)?;
        let target = file.temporary_path().unwrap_or(path).to_path_buf();
        let wanted = Wanted { program, target, ending, width, height, rate, coding, tags: None };
        wanted.check_rate()?;
        let odd = width % 2 == 1 || height % 2 == 1;
        if wanted.video() && odd {
            let what = format!("a .{} needs even sides, not {width}x{height}", wanted.ending);
            return Err(Error::input("E0821", what)
                .help("choose even sides, or write a .gif or a folder of PNG frames"));
        }
        let mut trial = Encoder::start(&wanted)?;
        let black = Yuv420::new(width & !1, height & !1);
        let dark = vec![0; width * height * 3];
        for _ in 0..TRIAL {
            match wanted.own_samples() {
                true => trial.push(&wanted, &[&black.y, &black.u, &black.v])?,
                false => trial.push(&wanted, &[&dark])?,
            }
        }
        trial.finish(&wanted)?;
        wanted.look(TRIAL)?;
        let picture = wanted.own_samples().then_some(black);
        Ok(Self { encoder: None, file, tags: None, wanted, picture, frames: 0 })
    }

    /// Has the file say this, in forms that have a place for it. Before the first frame.
    ///
    /// # Errors
    /// `E1010`–`E1016` where the texts cannot be put beside it for the program.
    pub(in crate::media) fn inscribe(&mut self, what: &Inscription) -> Result<()> {
        let mut name = self.file.path().file_name().unwrap_or_default().to_os_string();
        name.push(".tags");
        let beside = self.file.path().with_file_name(name);
        let mut file = AtomicFile::create_as(beside, Existing::Beside)?;
        file.append(tags::file(COMMENT, &what.keyed()).as_bytes())?;
        file.close()?;
        self.wanted.tags = file.temporary_path().map(Path::to_path_buf);
        self.tags = Some(file);
        Ok(())
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// `E0811` with the program's messages when it does not start or has ended, `E1012` for want of
    /// room.
    pub(in crate::media) fn push(&mut self, rgb: &[u8]) -> Result<()> {
        self.frames += 1;
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => none.insert(Encoder::start(&self.wanted)?),
        };
        match &mut self.picture {
            Some(picture) => {
                picture.set_rgb(rgb);
                encoder.push(&self.wanted, &[&picture.y, &picture.u, &picture.v])
            }
            None => encoder.push(&self.wanted, &[rgb]),
        }
    }

    /// Ends the stream, waits for the file, and looks at it; gives it without its name yet, and its
    /// bytes.
    ///
    /// # Errors
    /// As [`FfmpegSink::push`], and `E0843` when the file is not whole.
    pub(in crate::media) fn finish(self) -> Result<(Whole, u64)> {
        let Self { encoder, file, wanted, frames, tags, .. } = self;
        if let Some(encoder) = encoder {
            encoder.finish(&wanted)?;
        }
        drop(tags);
        // On the disk first: a file that is only on its way there may still be lost.
        let whole = file.finish()?;
        wanted.look(frames)?;
        let bytes =
            std::fs::metadata(&wanted.target).map_err(|e| write_error(&wanted.target, e))?.len();
        Ok((whole, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::log;
    use super::*;
    use crate::error::Kind;

    fn wanted(ending: &str, rate: (u32, u32)) -> Wanted {
        let target = PathBuf::from(format!("x.{ending}"));
        let ending = ending.to_string();
        let (program, coding) = (PathBuf::new(), Coding::default());
        Wanted { program, target, ending, width: 64, height: 32, rate, coding, tags: None }
    }

    #[test]
    fn rates_that_mpeg_does_not_know_are_refused_with_the_nearest() {
        assert!(wanted("mpg", (24, 1)).check_rate().is_ok());
        assert!(wanted("mkv", (7, 1)).check_rate().is_ok());
        let error = wanted("ts", (28, 1)).check_rate().unwrap_err();
        assert_eq!(error.code(), "E0842");
        assert!(error.message().ends_with("the nearest that it can is 29.97"), "{error}");
        let error = wanted("mpg", (12, 1)).check_rate().unwrap_err();
        assert!(error.message().contains("23.976"), "{error}");
    }

    #[test]
    fn want_of_memory_is_called_that() {
        let said = "ffmpeg: error while loading shared libraries: libwebp.so.7: failed to map \
                    segment from shared object\n";
        let log = log::read(said.as_bytes(), |_| ());
        let error = wanted("mkv", (24, 1)).failed(&log);
        assert_eq!((error.code(), error.kind()), ("E0603", Kind::Budget));
        assert!(error.message().contains("libwebp"), "{error}");
        let missing = "ffmpeg: error while loading shared libraries: libx.so: cannot open shared \
                       object file: No such file or directory\n";
        let error = wanted("mkv", (24, 1)).failed(&log::read(missing.as_bytes(), |_| ()));
        assert!(error.code() == "E0811" && error.message().contains("libx.so"), "{error}");
    }

    #[test]
    fn a_full_disk_is_called_one() {
        let complaints = "out#0: Error writing trailer: No space left on device\n".to_string();
        let log = Log { complaints, ..Log::default() };
        assert_eq!(wanted("mkv", (24, 1)).failed(&log).code(), "E1012");
        assert_eq!(wanted("mkv", (24, 1)).failed(&Log::default()).code(), "E0811");
    }

    #[test]
    fn a_program_that_dies_without_a_word_is_quoted_with_how_it_ended() {
        let ended = Some("signal: 6 (SIGABRT)".to_owned());
        let error = wanted("mkv", (24, 1)).failed(&Log { ended, ..Log::default() });
        assert!(error.message().contains("signal: 6 (SIGABRT)"), "{error}");
    }

    #[test]
    fn video_says_what_its_samples_are() {
        let text = |ending| format!("{:?}", wanted(ending, (24, 1)).arguments());
        assert!(text("webm").contains("smpte170m") && text("webm").contains("yuv420p"));
        assert!(!text("webm").contains("scale="));
        let coding = Coding { pixels: Some(Pixels::Yuv444), ..Coding::default() };
        let full = format!("{:?}", Wanted { coding, ..wanted("mkv", (24, 1)) }.arguments());
        assert!(full.contains("rgb24") && full.contains("format=yuv444p,setparams"), "{full}");
        assert!(text("apng").contains("rgb24") && !text("apng").contains("smpte170m"));
    }
}
