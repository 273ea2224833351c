//! Results that go to a pipe or a device: completed in a folder of their own first, then sent.
//!
//! So a reader never gets the beginning of a run that failed, and formats whose index is written
//! last work as they do in files. A terminal is refused: it would show bytes. What a pipe takes is
//! gone; nothing can be taken back when sending fails half way, which is an error then.

use super::writer::Format;
use crate::error::{Error, Result};
use crate::output::{self, AtomicFolder, Existing, Whole, write_error};
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

/// An open pipe or device that waits for a result.
#[derive(Debug)]
pub(super) struct Stream {
    output: File,
    path: PathBuf,
    format: Format,
    /// Where the result is made. It never gets its name: it is removed when this is dropped.
    spool: AtomicFolder,
}

impl Stream {
    /// Opens `path` if it is a pipe or a device; none if it is a file, a folder or nothing yet.
    ///
    /// Errors: `E1017` for a terminal, or when neither its name nor `format` says the form; E101x
    /// where it cannot be opened.
    pub(super) fn open(path: &Path, format: Option<Format>) -> Result<Option<Self>> {
        if !output::is_direct(path) {
            return Ok(None);
        }
        // Nothing is said by `-` and its other names, and MP4 is what most want.
        let usual = output::is_standard_output(path).then_some(Format::Mp4);
        let Some(format) = format.or_else(|| of_ending(path)).or(usual) else {
            return Err(Error::input(
                "E1017",
                "this is a pipe or a device, whose name says no form",
            )
            .at(path.display())
            .help("say it with --format, such as --format mp4"));
        };
        let output = output::open_direct(path)?;
        Self::into(output, &path.to_string_lossy(), format).map(Some)
    }

    /// Takes an open output.
    ///
    /// Errors: `E1017` for a terminal, E101x where the temporary folder cannot be written.
    pub(super) fn into(output: File, name: &str, format: Format) -> Result<Self> {
        if output.is_terminal() {
            return Err(Error::input("E1017", "a video does not go to a terminal")
                .at(name)
                .help("name a file, or send it on: -o - | program"));
        }
        let unused = output::fresh_name(&std::env::temp_dir(), ".anyid-rt-spool-", "");
        let spool = AtomicFolder::create(unused, Existing::Beside)?;
        Ok(Self { output, path: name.into(), format, spool })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The ending of its form.
    pub(super) fn ending(&self) -> &'static str {
        self.format.ending()
    }

    /// The file in which the result is made.
    pub(super) fn spool_path(&self) -> PathBuf {
        self.spool.temporary_path().join(format!("out.{}", self.format.ending()))
    }

    /// `error` with the output's name in place of the spool's, unless that is where the fault is.
    pub(super) fn named(&self, error: Error) -> Error {
        let storage = matches!(error.code(), "E1010" | "E1011" | "E1012" | "E1013");
        if storage { error } else { error.placed(self.path.display()) }
    }

    /// Sends the complete result.
    ///
    /// Errors: E1012, E1013 (for a reader that went away too).
    pub(super) fn send(mut self, whole: Whole) -> Result<Whole> {
        let from = whole.temporary_path().map(Path::to_owned).unwrap_or_default();
        let mut file = File::open(&from).map_err(|fault| write_error(&from, fault))?;
        let mut piece = vec![0; 64 << 10];
        loop {
            let count = file.read(&mut piece).map_err(|fault| write_error(&from, fault))?;
            if count == 0 {
                break;
            }
            let sent = match output::stopped() {
                true => Err(std::io::ErrorKind::Interrupted.into()),
                false => self.output.write_all(&piece[..count]),
            };
            sent.map_err(|fault| write_error(&self.path, fault))?;
        }
        Ok(Whole::sent(&self.path))
    }
}

fn of_ending(path: &Path) -> Option<Format> {
    let ending = path.extension()?.to_string_lossy().to_ascii_lowercase();
    Format::ALL.into_iter().find(|format| format.ending() == ending)
}

#[cfg(test)]
mod tests {
    use super::super::writer::{VideoWriter, WriterOptions};
    use super::*;
    use crate::testing::TempFolder;

    #[cfg(unix)]
    fn make_fifo(path: &Path) -> bool {
        std::process::Command::new("mkfifo").arg(path).status().is_ok_and(|status| status.success())
    }

    fn write(path: &Path, options: &WriterOptions) -> Result<()> {
        let mut writer = VideoWriter::create(path, 32, 32, 24.0, options)?;
        for shade in 0..3 {
            writer.push(&[shade * 80; 32 * 32 * 3])?;
        }
        writer.finish().map(drop)
    }

    #[test]
    #[cfg(unix)]
    fn a_pipe_gets_the_same_bytes_as_a_file() {
        let folder = TempFolder::new();
        let pipe = folder.path().join("pipe.gif");
        if !make_fifo(&pipe) {
            eprintln!("skipped: no mkfifo program");
            return;
        }
        for format in [Format::Gif, Format::Mp4] {
            let file = folder.path().join(format!("file.{}", format.ending()));
            write(&file, &WriterOptions::default()).unwrap();
            let from = pipe.clone();
            let reader = std::thread::spawn(move || std::fs::read(from).unwrap());
            // The ending speaks where nothing else does.
            let said = (format == Format::Mp4).then_some(format);
            write(&pipe, &WriterOptions { format: said, ..WriterOptions::default() }).unwrap();
            assert_eq!(reader.join().unwrap(), std::fs::read(&file).unwrap());
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn devices_are_written_or_refused_before_the_frames() {
        let null = Path::new("/dev/null");
        let as_mp4 = WriterOptions { format: Some(Format::Mp4), ..WriterOptions::default() };
        write(null, &as_mp4).unwrap();
        assert_eq!(write(null, &WriterOptions::default()).unwrap_err().code(), "E1017");
        let full = write(Path::new("/dev/full"), &as_mp4).unwrap_err();
        assert_eq!((full.code(), full.place()), ("E1012", Some("/dev/full")));
    }

    #[test]
    #[cfg(unix)]
    fn a_reader_that_went_away_is_a_coded_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        let output = File::from(std::os::fd::OwnedFd::from(writer));
        let options = WriterOptions::default();
        let mut writer =
            VideoWriter::create_into(output, "standard output", 32, 32, 24.0, &options).unwrap();
        writer.push(&[0; 32 * 32 * 3]).unwrap();
        drop(reader);
        let error = writer.finish().unwrap_err();
        assert_eq!((error.code(), error.place()), ("E1013", Some("standard output")));
    }
}
