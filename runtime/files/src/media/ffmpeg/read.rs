//! Decoding through `ffmpeg`.
//!
//! Three short conversations: which streams there are, what the first frame of the chosen one is,
//! then all frames as raw RGB through a pipe, with a note on each beside it. Frames keep the times
//! that the file gives them; where these are a constant rate to within the file's own clock, the
//! exact rate is used. A bare bitstream of ours ([`Bitstream`]) takes the same way.

use super::clock::{Changes, Clock, Shown};
use super::log::{Listed, Log, Note};
use super::plan::Plan;
use super::process::{Input, Process};
use crate::error::{Error, Result};
use crate::media::color::ColourTags;
use crate::media::streams::{Stream, main_stream};
use crate::media::{
    Foreign, Limits, MediaKind, ReadOptions, RgbFrame, SourceInfo, Visit, oriented,
};
use std::ffi::OsString;
use std::io::{BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ChildStdout;

/// The code point of the matrix that Dolby Vision uses by itself.
const IPT: u8 = 15;

/// Bare coded frames that we took out of a container ourselves.
pub(in crate::media) struct Bitstream<'a> {
    /// What the file is, in words.
    pub name: &'a str,
    /// The demuxer for the bare form.
    pub demuxer: &'a str,
    /// The coded frames.
    pub bytes: Vec<u8>,
    /// How many there are.
    pub count: usize,
    /// Width and height of each.
    pub size: (usize, usize),
    /// What the container says about colours; wins over the stream.
    pub tags: ColourTags,
    /// The frames are opacities: one value a pixel, full range, kept as three equal ones.
    pub opacity: bool,
}

/// Frames of a bitstream, and what to warn of.
pub(in crate::media) type Decoded = (Vec<RgbFrame>, Vec<String>);

/// Something that `ffmpeg` decodes.
struct Decoding<'a> {
    program: PathBuf,
    path: &'a Path,
    name: &'a str,
    /// Options of the input, before its name.
    before: Vec<OsString>,
    /// In place of the file itself.
    bytes: Option<&'a [u8]>,
    map: String,
}

fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

impl Decoding<'_> {
    fn start(&self, rest: &[&str], output: bool) -> Result<Process> {
        let input = match self.bytes {
            Some(bytes) => Input::Bytes(bytes.to_vec()),
            None => Input::File(self.path),
        };
        let mut arguments = self.before.clone();
        arguments.extend(input.arguments());
        if !rest.is_empty() {
            arguments.extend(words(&["-map", &self.map, "-an", "-sn", "-dn"]));
            arguments.extend(words(rest));
        }
        Process::start(&self.program, input, &arguments, output)
    }

    /// What `ffmpeg` finds in the input.
    fn list(&self) -> Result<Log> {
        let (_, mut log) = self.start(&[], false)?.finish()?;
        // It is right to say that we asked for nothing.
        let kept: Vec<&str> =
            log.complaints.lines().filter(|l| !l.contains("At least one output file")).collect();
        log.complaints = kept.join("\n");
        Ok(log)
    }

    /// The first frame.
    fn probe(&self) -> Result<Note> {
        let rest = ["-frames:v", "1", "-vf", "showinfo=checksum=0", "-f", "null", "-"];
        let mut process = self.start(&rest, false)?;
        let note = process.notes.recv();
        // Later frames may be on their way through the filter.
        while process.notes.recv().is_ok() {}
        let (_, log) = process.finish()?;
        note.map_err(|_| self.failed("E0811", "ffmpeg cannot decode this", &log))
    }

    fn failed(&self, code: &'static str, what: &str, log: &Log) -> Error {
        if log.unloaded {
            return log.no_memory().at(self.path.display());
        }
        Error::input(code, format!("{what} ({}); {}", self.name, log.quote()))
            .at(self.path.display())
            .help("check that the file plays; convert it to an H.264 MP4, a picture to PNG")
    }

    /// All frames, or the first alone; `each` gets the bytes of each with its note, if it has one.
    /// Gives whether it ran to the end, and the messages.
    fn run(
        &self,
        plan: &Plan,
        old: bool,
        first_only: bool,
        each: &mut dyn FnMut(Vec<u8>, Option<Note>) -> Result<ControlFlow<()>>,
    ) -> Result<Option<Log>> {
        // Every frame once, whatever its time. Before 5.1 the option had another name.
        let mut rest = match old {
            true => vec!["-vsync", "passthrough"],
            false => vec!["-fps_mode", "passthrough"],
        };
        if first_only {
            rest.extend(["-frames:v", "1"]);
        }
        rest.extend(["-vf", plan.filters(), "-f", "rawvideo", "-"]);
        let mut process = self.start(&rest, true)?;
        let Some(output) = process.output.take() else {
            return Err(Error::internal("E0811", "ffmpeg was started without its output"));
        };
        let mut output = BufReader::with_capacity(1 << 20, output);
        let mut ahead: Option<Note> = None;
        for number in 0u64.. {
            let Some(data) = read_frame(&mut output, plan.frame_bytes(), self.path)? else { break };
            // A note comes before its frame, so waiting for it ends; one that got lost among the
            // messages of another thread is found missing by the number of the next.
            let note = match ahead.take().map_or_else(|| process.notes.recv().ok(), Some) {
                Some(note) if note.number > number => {
                    ahead = Some(note);
                    None
                }
                note => note,
            };
            if each(data, note)? == ControlFlow::Break(()) {
                return Ok(None);
            }
        }
        drop(output);
        let (success, log) = process.finish()?;
        if success { Ok(Some(log)) } else { Err(self.failed("E0811", "ffmpeg failed", &log)) }
    }
}

/// One whole frame; none at the end of the stream.
fn read_frame(
    from: &mut BufReader<ChildStdout>,
    bytes: usize,
    path: &Path,
) -> Result<Option<Vec<u8>>> {
    let mut data = Vec::with_capacity(bytes);
    let read = from.take(bytes as u64).read_to_end(&mut data);
    read.map_err(|e| {
        Error::input("E0811", "the pipe from ffmpeg broke").at(path.display()).caused_by(e)
    })?;
    match data.len() {
        0 => Ok(None),
        n if n == bytes => Ok(Some(data)),
        _ => Err(Error::input("E0811", "ffmpeg ended in the middle of a frame")
            .at(path.display())
            .help("check that the file plays; convert it to an H.264 MP4")),
    }
}

/// The stream to read, and what to say about the choice.
pub(super) fn choose(path: &Path, log: &Log) -> Result<(usize, Option<String>)> {
    let aside = |listed: &Listed| {
        let words = ["attached pic", "still image", "timed thumbnails", "dependent"];
        listed.dispositions.iter().any(|word| words.contains(&word.as_str()))
    };
    let seen = |listed: &&Listed| !aside(listed) && listed.size.0 > 0;
    let mut videos: Vec<&Listed> = log.streams.iter().filter(seen).collect();
    // A sequence of pictures comes with its first one as a stream of its own, and with its
    // opacities; tracks have a language and colours.
    if videos.iter().any(|v| v.language) {
        videos.retain(|v| v.language);
    }
    let grey = |listed: &Listed| listed.format.starts_with("gray");
    let mut opacities = None;
    if videos.iter().any(|v| !grey(v)) {
        opacities = videos.iter().find(|v| grey(v)).map(|v| {
            format!(
                "stream {} is grey and not read: were it opacities, they are not applied",
                v.index
            )
        });
        videos.retain(|v| !grey(v));
    }
    if videos.is_empty() {
        let what = match log.streams.is_empty() {
            true => "only sound or data tracks",
            false => "a cover picture and no video of its own",
        };
        return Err(Error::input("E0809", format!("the file has {what}"))
            .at(path.display())
            .help("give a picture or a clip that shows the person"));
    }
    let streams: Vec<Stream> = videos
        .iter()
        .map(|v| Stream {
            name: format!("stream {}", v.index),
            width: v.size.0,
            height: v.size.1,
            default: v.dispositions.iter().any(|word| word == "default"),
            ..Stream::default()
        })
        .collect();
    let (chosen, warning) = main_stream(path, &streams)?;
    Ok((videos[chosen].index, warning.or(opacities)))
}

/// The demuxer, and a bound on what its pictures may unpack to before we see them.
fn demuxer(name: &str, limits: &Limits) -> Vec<OsString> {
    let pixels = (limits.side as u64).saturating_mul(limits.side as u64).min(i64::MAX as u64);
    words(&["-f", name, "-max_pixels", &pixels.to_string()])
}

/// Options that a demuxer or its decoder needs. Files of the MP4 family may name other files that
/// hold their samples: never followed.
fn input_options(source: Foreign<'_>, limits: &Limits) -> Vec<OsString> {
    let mut options = demuxer(source.demuxer, limits);
    match source.demuxer {
        "mov" => options.extend(words(&["-enable_drefs", "0", "-use_absolute_path", "0"])),
        // Light becomes the curve of ordinary pictures; without this it would look far too dark.
        "exr_pipe" => options.extend(words(&["-apply_trc", "iec61966_2_1"])),
        _ => {}
    }
    if source.picture {
        // Whether `ffmpeg` turns pictures depends on its version; we do it ourselves.
        options.extend(words(&["-noautorotate"]));
    }
    options
}

/// Decodes `path` and hands the frames to `visit`.
///
/// # Errors
/// `E0807` there is no `ffmpeg` or it may not be used, `E0811` it fails, `E0806`, `E0809`, `E0835`
/// several videos are alike.
pub(in crate::media) fn visit(
    path: &Path,
    source: Foreign<'_>,
    options: &ReadOptions,
    visit: Visit<'_>,
) -> Result<SourceInfo> {
    let program = super::needed(path, source.name, options)?;
    let before = input_options(source, &options.limits);
    let map = "0:0".to_string();
    let mut decoding = Decoding { program, path, name: source.name, before, bytes: None, map };
    let log = decoding.list()?;
    if log.all_streams == 0 {
        return Err(decoding.failed("E0811", "ffmpeg cannot read this", &log));
    }
    let (index, mut warnings) = match source.picture {
        true => (0, Vec::new()),
        false => {
            let (index, warning) = choose(path, &log)?;
            (index, Vec::from_iter(warning))
        }
    };
    let sound = log.sound;
    decoding.map = format!("0:{index}");
    let listed = log.streams.iter().find(|s| s.index == index).cloned().unwrap_or_default();
    if listed.size.0 > 0 {
        options.limits.check(path, listed.size.0, listed.size.1, 3)?;
    }
    let mut note = decoding.probe()?;
    if listed.alpha_layer {
        match decoding.with_alpha(&listed.codec) {
            Some(with_alpha) => note = with_alpha,
            None => warnings.push("transparent in parts, which is not read: shown opaque".into()),
        }
    }
    if listed.dolby_only && note.tags.matrix == 2 {
        note.tags.matrix = IPT;
    }
    options.limits.check(path, note.size.0 as u64, note.size.1 as u64, 3)?;
    let plan = Plan::new(&note, source.picture);
    let (width, height) = plan.size();
    options.limits.check(path, width as u64, height as u64, 3)?;
    warnings.extend(plan.warnings.iter().cloned());

    let old = log.version.is_some_and(|version| version < (5, 1));
    let turn = if source.picture { oriented::read(path, source.demuxer) } else { None };
    let mut clock = Clock::new(&note);
    let mut changes = Changes::new(note);
    let mut shown = Shown::default();
    let mut size = (width, height);
    let ended = decoding.run(&plan, old, source.picture, &mut |raw, note| {
        let time = clock.time(note.as_ref().and_then(|n| n.time));
        changes.look(note.as_ref());
        let mut image = plan.show(raw);
        if let Some(turn) = turn {
            image = oriented::apply(image, turn);
        }
        size = (image.width, image.height);
        shown.next(image, time, visit)
    })?;
    let whole = match &ended {
        Some(_) => shown.end(clock.step(), visit)? == ControlFlow::Continue(()),
        None => false,
    };
    if let Some(log) = ended {
        if shown.count == 0 {
            return Err(decoding.failed("E0809", "ffmpeg gave no frame", &log));
        }
        if !log.complaints.is_empty() {
            warnings.push(format!("ffmpeg: {}", log.quote()));
        }
    }
    warnings.extend(changes.warnings);
    let still = source.picture || (whole && shown.count == 1);
    Ok(SourceInfo {
        path: path.to_path_buf(),
        kind: if still { MediaKind::Image } else { MediaKind::Video },
        width: size.0,
        height: size.1,
        fps: if still { None } else { clock.rate(shown.count, shown.last) },
        frames: shown.count,
        total: None,
        description: format!("{}, read by ffmpeg", source.name),
        sound,
        warnings,
    })
}

impl Decoding<'_> {
    /// Turns to a decoder that knows the layer of opacities, if there is one.
    fn with_alpha(&mut self, codec: &str) -> Option<Note> {
        let decoder = match codec {
            "vp8" => "libvpx",
            "vp9" => "libvpx-vp9",
            _ => return None,
        };
        let before = self.before.clone();
        self.before.extend(words(&["-c:v", decoder]));
        let note = self.probe();
        if note.is_err() {
            self.before = before;
        }
        note.ok()
    }
}

/// Decodes a bare bitstream as a whole, without turning or scaling anything. Gives as many frames
/// as there are, and what to warn of; none when their size is another than it should be.
///
/// # Errors
/// `E0807`, `E0811`, `E0806`.
pub(in crate::media) fn decode(
    path: &Path,
    stream: &Bitstream<'_>,
    options: &ReadOptions,
) -> Result<Option<Decoded>> {
    let program = super::needed(path, stream.name, options)?;
    let before = demuxer(stream.demuxer, &options.limits);
    let bytes = Some(stream.bytes.as_slice());
    let map = "0:0".to_string();
    let decoding = Decoding { program, path, name: stream.name, before, bytes, map };
    let log = decoding.list()?;
    let old = log.version.is_some_and(|version| version < (5, 1));
    let mut note = decoding.probe()?;
    if note.size != stream.size {
        return Ok(None);
    }
    note.tags = stream.tags.or(note.tags);
    if stream.opacity {
        // Luma as it is; without colours it comes out three times.
        note.tags = ColourTags { full_range: Some(true), ..ColourTags::default() };
    }
    let plan = Plan::new(&note, true);
    let (mut frames, mut right) = (Vec::new(), true);
    decoding.run(&plan, old, false, &mut |raw, note| {
        right &= note.is_none_or(|note| note.size == stream.size);
        // One more than there should be is as wrong as a thousand more.
        let enough = !right || frames.len() > stream.count;
        if !enough {
            frames.push(plan.show(raw));
        }
        Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(right.then_some((frames, plan.warnings)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_stream_is_chosen_or_asked_for() {
        let stream = |index, side, words: &[&str]| Listed {
            index,
            size: (side, side),
            format: "yuv420p".to_string(),
            dispositions: words.iter().map(ToString::to_string).collect(),
            ..Listed::default()
        };
        let pick = |streams: &[Listed]| {
            let log = Log { streams: streams.to_vec(), ..Log::default() };
            choose(Path::new("x.mkv"), &log)
        };
        let cover = stream(0, 999, &["attached pic"]);
        assert_eq!(pick(&[cover.clone(), stream(2, 64, &[])]).unwrap(), (2, None));
        assert_eq!(pick(&[cover]).unwrap_err().code(), "E0809");
        assert_eq!(pick(&[]).unwrap_err().code(), "E0809");
        let (index, warning) = pick(&[stream(0, 64, &[]), stream(3, 128, &[])]).unwrap();
        assert!(index == 3 && warning.unwrap().contains("stream 0"));
        let alike = [stream(0, 64, &["default"]), stream(1, 64, &["default"])];
        assert_eq!(pick(&alike).unwrap_err().code(), "E0835");
        // The poster of a sequence of pictures, its track, and the opacities of the track.
        let track = Listed { language: true, ..stream(1, 64, &[]) };
        let grey = Listed { language: true, format: "gray".to_string(), ..stream(2, 64, &[]) };
        let (index, warning) = pick(&[stream(0, 64, &["default"]), track, grey]).unwrap();
        assert!(index == 1 && warning.unwrap().starts_with("stream 2 is grey"));
    }
}
