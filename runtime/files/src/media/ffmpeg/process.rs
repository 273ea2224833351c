//! The `ffmpeg` program as a child: where it is found, how it is started, what it says.
//!
//! It is looked for in absolute folders of the PATH, started without a shell and in silence but for
//! its messages, which a thread of their own reads (a full pipe would stop the program). Killed when
//! dropped. What it is asked to do is the business of `read.rs` and `write.rs`.

use super::log::{self, Log, Note};
use crate::error::{Error, Result};
use crate::output::{Running, no_descriptor, spawn, too_many_files};
use crate::threads;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

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

/// What the program gets on its standard input.
pub(super) enum Input<'a> {
    /// This file, to be read from any place in it.
    File(&'a Path),
    /// These bytes.
    Bytes(Vec<u8>),
    /// What is written to [`Process::input`].
    Pipe,
}

impl Input<'_> {
    /// The words that name it to the program: a file arrives as an open descriptor, so that its
    /// name, whatever it is, is never read as a pattern, a protocol, an option or a place to look
    /// for other files.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let words = |protocol: &str, name: &str| {
            ["-protocol_whitelist", protocol, "-i", name].map(OsString::from).to_vec()
        };
        match self {
            #[cfg(unix)]
            Self::File(_) => words("file", "file:/dev/stdin"),
            #[cfg(not(unix))]
            Self::File(path) => {
                let mut all = words("file", "");
                all[3] = file_argument(path);
                all
            }
            Self::Bytes(_) | Self::Pipe => words("pipe", "pipe:0"),
        }
    }
}

/// `file:` and the absolute name: never an option, never another protocol.
pub(super) fn file_argument(path: &Path) -> OsString {
    let mut argument = OsString::from("file:");
    argument.push(std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()));
    argument
}

/// A running `ffmpeg`; killed when dropped.
pub(super) struct Process {
    running: Running,
    /// The pipe to its input, if it was asked for.
    pub input: Option<ChildStdin>,
    /// The pipe from its output, if it was asked for.
    pub output: Option<ChildStdout>,
    /// A note on every frame that its first `showinfo` filter sees.
    pub notes: Receiver<Note>,
    log: Option<JoinHandle<Log>>,
    feeder: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `program`; `output` says whether its output is wanted.
    ///
    /// # Errors
    /// `E0811` it cannot be started, `E0801` the input cannot be opened.
    pub(super) fn start(
        program: &Path,
        input: Input<'_>,
        arguments: &[OsString],
        output: bool,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        // Every message with its level, none left out as a repetition.
        command.args(["-nostdin", "-nostats", "-loglevel", "repeat+level+info"]);
        command.env("AV_LOG_FORCE_NOCOLOR", "1").env_remove("FFREPORT");
        command.args(arguments);
        command.stdin(match &input {
            #[cfg(unix)]
            Input::File(path) => {
                Stdio::from(File::open(path).map_err(|e| crate::media::unreadable(path, e))?)
            }
            #[cfg(not(unix))]
            Input::File(_) => Stdio::null(),
            Input::Bytes(_) | Input::Pipe => Stdio::piped(),
        });
        command.stdout(if output { Stdio::piped() } else { Stdio::null() });
        command.stderr(Stdio::piped());
        let mut running = spawn(&mut command).map_err(|e| {
            if too_many_files(&e) {
                return no_descriptor(e).at(program.display());
            }
            Error::input("E0811", "ffmpeg cannot be started")
                .at(program.display())
                .help("check that the ffmpeg on the PATH runs")
                .caused_by(e)
        })?;
        let (sender, notes) = channel();
        let log = running.take_stderr().map(|stderr| {
            threads::start("anyid-ffmpeg-log", move || {
                // Nobody may be listening to notes any more; the messages count all the same.
                log::read(BufReader::new(stderr), |note| drop(sender.send(note)))
            })
        });
        let refused = |cause| Error::threads(1, 0, cause);
        let log = log.transpose().map_err(refused)?;
        let (mut pipe, output) = (running.take_stdin(), running.take_stdout());
        let feeder = match input {
            Input::Bytes(bytes) => pipe.take().map(|mut pipe| {
                // A program that stops reading has its reason, which it tells itself.
                threads::start("anyid-ffmpeg-feed", move || drop(pipe.write_all(&bytes)))
            }),
            _ => None,
        };
        let feeder = feeder.transpose().map_err(refused)?;
        Ok(Self { running, input: pipe, output, notes, log, feeder })
    }

    /// Waits for the end; gives success and the messages.
    pub(super) fn finish(&mut self) -> Result<(bool, Log)> {
        self.input = None;
        let status = self
            .running
            .wait()
            .map_err(|e| Error::input("E0811", "ffmpeg cannot be waited for").caused_by(e))?;
        if let Some(feeder) = self.feeder.take() {
            let _ = feeder.join();
        }
        let log = self.log.take().and_then(|thread| thread.join().ok());
        let mut log = log.unwrap_or_default();
        log.ended = (!status.success()).then(|| status.to_string());
        Ok((status.success(), log))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_folders_of_the_path_are_searched() {
        assert_eq!(find_in(OsStr::new("")), None);
        assert_eq!(find_in(OsStr::new(".:bin:/nonexistent")), None);
    }

    #[test]
    fn names_are_never_options() {
        let argument = file_argument(Path::new("-i.webm")).into_string().unwrap();
        assert!(argument.starts_with("file:/") && argument.ends_with("/-i.webm"), "{argument}");
        #[cfg(unix)]
        for name in ["me%d.tiff", "concat:a|b", "a\nb", "http://x"] {
            let words = Input::File(Path::new(name)).arguments();
            assert!(words.iter().all(|word| !word.to_string_lossy().contains(name)), "{words:?}");
        }
    }
}
