//! The optional `ffmpeg` program: reads what we cannot decode, writes what we cannot encode.
//!
//! It is looked for on the PATH, started without a shell, given file names only as `file:` inputs
//! (so that no name is taken for an option or an address), and killed when we stop early. Frames
//! travel as raw RGB through a pipe. Nothing here is needed for MP4/H.264, GIF or pictures.

use super::{MediaKind, ReadOptions, RgbFrame, SourceInfo, TimedFrame, Visit};
use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

/// How much of the program's messages is kept.
const MESSAGE_BYTES: usize = 8 << 10;
/// Rates above this are variable-rate guesses, not rates.
const RATE_LIMIT: f64 = 120.0;

/// The `ffmpeg` program, if one is on the PATH.
pub fn find() -> Option<PathBuf> {
    find_in(&std::env::var_os("PATH")?)
}

fn find_in(path: &OsStr) -> Option<PathBuf> {
    let name = format!("ffmpeg{}", std::env::consts::EXE_SUFFIX);
    // An empty or relative entry would mean the current folder: never run a program from there.
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(&name))
        .find(|candidate| is_program(candidate))
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file()
}

/// A running `ffmpeg`; killed when dropped.
struct Process {
    child: Child,
    messages: Option<JoinHandle<String>>,
}

impl Process {
    fn start(program: &Path, arguments: &[OsString], input: Stdio, output: Stdio) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["-hide_banner", "-loglevel", "error"]).args(arguments);
        let child = command.stdin(input).stdout(output).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|e| {
            Error::input("E0811", "ffmpeg cannot be started")
                .at(program.display())
                .help("check that the ffmpeg on the PATH runs")
                .caused_by(e)
        })?;
        // Read on a thread of its own: a full message pipe would stop the program.
        let messages = child.stderr.take().map(|stderr| std::thread::spawn(move || tail(stderr)));
        Ok(Self { child, messages })
    }

    /// Waits for the end; gives success and the last messages.
    fn finish(&mut self) -> Result<(bool, String)> {
        let status = self
            .child
            .wait()
            .map_err(|e| Error::input("E0811", "ffmpeg cannot be waited for").caused_by(e))?;
        let messages = self.messages.take().and_then(|thread| thread.join().ok());
        Ok((status.success(), messages.unwrap_or_default()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Harmless when it has ended; without the wait it would stay as a zombie.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end, keeping the last part.
fn tail(mut from: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 2 * MESSAGE_BYTES {
            kept.drain(..kept.len() - MESSAGE_BYTES);
        }
    }
    String::from_utf8_lossy(&kept).trim().to_string()
}

/// The last lines of the program's messages, for an error of ours.
fn quote(messages: &str) -> String {
    let lines: Vec<&str> = messages.lines().rev().take(3).collect();
    match lines.is_empty() {
        true => "it said nothing".to_string(),
        false => format!("it said: {}", lines.into_iter().rev().collect::<Vec<_>>().join(" / ")),
    }
}

/// `file:` and the absolute name: never an option, never another protocol.
fn file_argument(path: &Path) -> OsString {
    let mut argument = OsString::from("file:");
    argument.push(std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()));
    argument
}

fn input_arguments(path: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        ["-nostdin", "-protocol_whitelist", "file", "-i"].map(OsString::from).to_vec();
    arguments.push(file_argument(path));
    // The first true video stream; cover pictures of sound files do not count.
    arguments.extend(["-map", "0:V:0"].map(OsString::from));
    arguments
}

/// Size and rate of the first video stream, from the header of a one-frame Y4M stream.
fn probe(program: &Path, path: &Path, what: &str) -> Result<(usize, usize, (u64, u64))> {
    let mut arguments = input_arguments(path);
    let rest = ["-frames:v", "1", "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "-"];
    arguments.extend(rest.map(OsString::from));
    let mut process = Process::start(program, &arguments, Stdio::null(), Stdio::piped())?;
    let mut header = Vec::new();
    if let Some(stdout) = process.child.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        // What cannot be read leaves the header short, which is an error below.
        let _ = stdout.by_ref().take(512).read_until(b'\n', &mut header);
        // The frame itself is not wanted; closing the pipe would make the program complain.
        let _ = std::io::copy(&mut stdout, &mut std::io::sink());
    }
    let (_, messages) = process.finish()?;
    parse_header(header.trim_ascii_end()).ok_or_else(|| {
        Error::input("E0811", format!("ffmpeg cannot decode this ({what}); {}", quote(&messages)))
            .at(path.display())
            .help("check that the file plays; convert it to an H.264 MP4")
    })
}

/// `YUV4MPEG2 W640 H480 F30000:1001 …`
fn parse_header(header: &[u8]) -> Option<(usize, usize, (u64, u64))> {
    let text = std::str::from_utf8(header).ok()?;
    let mut words = text.split(' ');
    if words.next()? != "YUV4MPEG2" {
        return None;
    }
    let (mut width, mut height, mut rate) = (None, None, None);
    for word in words {
        let Some((key, value)) = word.split_at_checked(1) else { continue };
        match key {
            "W" => width = value.parse().ok(),
            "H" => height = value.parse().ok(),
            "F" => {
                let (over, under) = value.split_once(':')?;
                rate = Some((over.parse::<u64>().ok()?, under.parse::<u64>().ok()?));
            }
            _ => {}
        }
    }
    let (over, under) = rate?;
    let per_second = over as f64 / under as f64;
    let rate = if under == 0 || over == 0 {
        (25, 1)
    } else if per_second > RATE_LIMIT {
        (RATE_LIMIT as u64, 1)
    } else {
        (over, under)
    };
    Some((width?, height?, rate))
}

/// Decodes `path` through `ffmpeg` at a constant rate (its own guess of the stream's rate) and
/// hands the frames to `visit`. `what` names the kind of file for the error.
///
/// # Errors
/// `E0807` there is no `ffmpeg` or it may not be used, `E0811` it fails, `E0806`, `E0809`.
pub(super) fn visit(
    path: &Path,
    what: &str,
    options: &ReadOptions,
    visit: Visit<'_>,
) -> Result<SourceInfo> {
    let Some(program) = options.allow_ffmpeg.then(find).flatten() else {
        let why = if options.allow_ffmpeg { "is not on the PATH" } else { "may not be used here" };
        let what = format!("this is {what}; reading it needs ffmpeg, which {why}");
        return Err(Error::input("E0807", what).at(path.display()).help(
            "install ffmpeg, or convert the file elsewhere: a clip to an H.264 MP4, \
             a picture to PNG",
        ));
    };
    let (width, height, (over, under)) = probe(&program, path, what)?;
    options.limits.check(path, width as u64, height as u64, 3)?;
    let mut arguments = input_arguments(path);
    arguments.extend(["-vf", &format!("fps={over}/{under}")].map(OsString::from));
    arguments.extend(["-pix_fmt", "rgb24", "-f", "rawvideo", "-"].map(OsString::from));
    let mut process = Process::start(&program, &arguments, Stdio::null(), Stdio::piped())?;
    let Some(stdout) = process.child.stdout.take() else {
        return Err(Error::internal("E0811", "ffmpeg was started without its output"));
    };
    let mut stdout = BufReader::with_capacity(1 << 20, stdout);
    let step = under as f64 / over as f64;
    let (mut count, mut stopped) = (0usize, false);
    while !stopped {
        let Some(data) = read_frame(&mut stdout, width * height * 3, path)? else { break };
        let image = RgbFrame { width, height, data };
        let frame = TimedFrame { image, time: count as f64 * step, duration: step };
        count += 1;
        stopped = visit(frame)? == ControlFlow::Break(());
    }
    let mut warnings = Vec::new();
    if !stopped {
        drop(stdout);
        let (success, messages) = process.finish()?;
        if !success || count == 0 {
            let code = if success { "E0809" } else { "E0811" };
            let what = format!("ffmpeg gave {count} frames of {what}; {}", quote(&messages));
            return Err(Error::input(code, what)
                .at(path.display())
                .help("check that the file plays; convert it to an H.264 MP4"));
        }
        if !messages.is_empty() {
            warnings.push(format!("ffmpeg: {}", quote(&messages)));
        }
    }
    let still = count == 1 && !stopped;
    Ok(SourceInfo {
        path: path.to_path_buf(),
        kind: if still { MediaKind::Image } else { MediaKind::Video },
        width,
        height,
        fps: (!still).then(|| over as f64 / under as f64),
        frames: count,
        description: format!("{what}, read by ffmpeg"),
        warnings,
    })
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

/// An `ffmpeg` that encodes raw RGB frames from its input.
pub(super) struct Encoder {
    process: Process,
    input: Option<ChildStdin>,
}

impl Encoder {
    /// Starts encoding to `target`; the name's ending decides the format. `rate` is a fraction.
    ///
    /// # Errors
    /// `E0811` when the program cannot be started.
    pub(super) fn start(
        program: &Path,
        target: &Path,
        width: usize,
        height: usize,
        rate: (u32, u32),
    ) -> Result<Self> {
        let size = format!("{width}x{height}");
        let fps = f64::from(rate.0) / f64::from(rate.1);
        let rate = format!("{}/{}", rate.0, rate.1);
        let mut arguments: Vec<OsString> =
            ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-r", &rate, "-i", "-", "-an"]
                .map(OsString::from)
                .to_vec();
        // Left alone, ffmpeg keeps full colour resolution, which most players refuse.
        let ending = target.extension().map(|e| e.to_ascii_lowercase()).unwrap_or_default();
        if ["mov", "m4v", "mkv", "webm", "avi"].iter().any(|known| ending == *known) {
            // Its default bit rates are meant for thumbnails: a quarter bit a pixel is plenty.
            let bits = width as f64 * height as f64 * fps / 4.0;
            let bits = format!("{bits:.0}");
            arguments.extend(["-pix_fmt", "yuv420p", "-b:v", &bits].map(OsString::from));
        }
        arguments.push("-y".into());
        arguments.push(file_argument(target));
        let mut process = Process::start(program, &arguments, Stdio::piped(), Stdio::null())?;
        let input = process.child.stdin.take();
        Ok(Self { process, input })
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// `E0811` with the program's messages when it has ended.
    pub(super) fn push(&mut self, rgb: &[u8]) -> Result<()> {
        let sent = self.input.as_mut().map(|input| input.write_all(rgb));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => {
                self.input = None;
                let (_, messages) = self.process.finish()?;
                Err(failed(&messages))
            }
        }
    }

    /// Ends the stream and waits for the file.
    ///
    /// # Errors
    /// `E0811` with the program's messages when it failed.
    pub(super) fn finish(mut self) -> Result<()> {
        self.input = None;
        let (success, messages) = self.process.finish()?;
        if success { Ok(()) } else { Err(failed(&messages)) }
    }
}

fn failed(messages: &str) -> Error {
    Error::input("E0811", format!("ffmpeg could not write the video; {}", quote(messages)))
        .help("write an .mp4, a .gif or a folder of PNG frames instead; these need no ffmpeg")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_pipes_are_read() {
        let header = b"YUV4MPEG2 W480 H360 F30000:1001 Ip A1:1 C420mpeg2 XYSCSS=420MPEG2";
        assert_eq!(parse_header(header), Some((480, 360, (30000, 1001))));
        assert_eq!(parse_header(b"YUV4MPEG2 W8 H8 F90000:1"), Some((8, 8, (120, 1))));
        assert_eq!(parse_header(b"YUV4MPEG2 W8 H8 F0:0"), Some((8, 8, (25, 1))));
        assert_eq!(parse_header(b"YUV4MPEG2 W8 F24:1"), None);
        assert_eq!(parse_header(b""), None);
    }

    #[test]
    fn only_absolute_folders_of_the_path_are_searched() {
        assert_eq!(find_in(OsStr::new("")), None);
        assert_eq!(find_in(OsStr::new(".:bin:/nonexistent")), None);
    }

    #[test]
    fn names_are_never_options() {
        let argument = file_argument(Path::new("-i.webm")).into_string().unwrap();
        assert!(argument.starts_with("file:/") && argument.ends_with("/-i.webm"), "{argument}");
    }

    #[test]
    fn long_messages_keep_their_end() {
        let text = format!("{}the end", "x".repeat(100_000));
        let kept = tail(text.as_bytes());
        assert!(kept.len() <= 2 * MESSAGE_BYTES && kept.ends_with("the end"));
    }
}
