//! The one error value of the libraries: what was wrong, where, and what to do about it.
//!
//! One concrete type with a stable code; `anyid-rt explain CODE` prints the long text. The code's
//! first digits group it: E01 syntax, E02 types, E03 weights and checkpoints, E04 structure,
//! E05 unsupported by the target, E06 memory, E07 model folders, configuration and text,
//! E08 media, E09 requests, E10 running. Rendering (colour, carets) is the program's business.

use crate::output::{no_descriptor, too_many_files};
use std::fmt;
use std::io;

/// Whose fault an error is; decides the exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The input was wrong: exit code 1.
    Input,
    /// A broken invariant of ours: exit code 2.
    Internal,
    /// The plan does not fit the budget: exit code 3.
    Budget,
    /// The user interrupted the run: exit code 130.
    Interrupted,
}

/// A coded error: message, place, help and, for IR faults, the diagnostics behind it.
#[derive(Debug)]
pub struct Error {
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    code: &'static str,
    kind: Kind,
    message: String,
    place: Option<String>,
    help: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// `1 frame`, `2 frames`.
pub fn plural(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// Result with the coded [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An input fault. `code` is one of `docs/errors/`, `message` says what was wrong.
    pub fn input(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Input, code, message)
    }

    /// A broken invariant.
    pub fn internal(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, code, message)
    }

    /// An error of the given kind.
    pub fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            inner: Box::new(Inner { code, kind, message, place: None, help: None, source: None }),
        }
    }

    /// The system does not give `bytes` of memory for `what` (E0603).
    pub fn no_memory(bytes: u64, what: &str) -> Self {
        let message = format!("there is no memory for {what} ({bytes} bytes)");
        Self::new(Kind::Budget, "E0603", message)
            .help("free memory, run smaller sizes, or raise the limit (`ulimit -v`)")
    }

    /// The system refuses threads (E1025): of those `asked` for it gave those that `started`.
    pub fn threads(asked: usize, started: usize, cause: io::Error) -> Self {
        let threads = if asked == 1 { "thread" } else { "threads" };
        let message = format!("{started} of {asked} {threads} could be started");
        let help = match asked {
            1 => "end other programs, or raise the limit of processes (`ulimit -u`) or of address \
                  space (`ulimit -v`)"
                .to_owned(),
            _ => format!(
                "run with fewer (--threads {}), or raise the limit of processes (`ulimit -u`) or \
                 of address space (`ulimit -v`)",
                (started / 2).max(1)
            ),
        };
        Self::input("E1025", message).help(help).caused_by(cause)
    }

    /// Adds where it happened: a file, a tensor, a flag. The first place given stays.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.inner.place.get_or_insert_with(|| place.to_string());
        self
    }

    /// Says where it happened in other words, for a place that the user knows by another name.
    #[must_use]
    pub fn placed(mut self, place: impl fmt::Display) -> Self {
        self.inner.place = Some(place.to_string());
        self
    }

    /// Adds what the reader can do. The first help given stays.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.inner.help.get_or_insert_with(|| help.into());
        self
    }

    /// Says what to do in other words, where the help that was given does not fit.
    #[must_use]
    pub fn advised(mut self, help: impl Into<String>) -> Self {
        self.inner.help = Some(help.into());
        self
    }

    /// Says more about what was wrong, behind the message.
    #[must_use]
    pub fn detailed(mut self, more: impl fmt::Display) -> Self {
        self.inner.message = format!("{}: {more}", self.inner.message);
        self
    }

    /// Adds something else that helps, behind what is said already.
    #[must_use]
    pub fn also(mut self, help: impl fmt::Display) -> Self {
        self.inner.help = Some(match self.inner.help.take() {
            Some(first) => format!("{first}; {help}"),
            None => help.to_string(),
        });
        self
    }

    /// Adds the error underneath, kept for `source()`.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.inner.source = Some(Box::new(source));
        self
    }

    /// The stable code, such as `E0301`.
    pub fn code(&self) -> &'static str {
        self.inner.code
    }

    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        self.inner.kind
    }

    /// What was wrong, without place or help.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// Where it happened, if known.
    pub fn place(&self) -> Option<&str> {
        self.inner.place.as_deref()
    }

    /// What to do, if known.
    pub fn help_text(&self) -> Option<&str> {
        self.inner.help.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.inner.code, self.inner.message)?;
        if let Some(place) = &self.inner.place {
            write!(f, "\n  --> {place}")?;
        }
        if let Some(source) = &self.inner.source {
            write!(f, "\n  cause: {source}")?;
        }
        if let Some(help) = &self.inner.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}

/// The error E0911 for a file that cannot be read.
pub fn unreadable(path: &std::path::Path, fault: std::io::Error) -> Error {
    if too_many_files(&fault) {
        return no_descriptor(fault).at(path.display());
    }
    let help = match fault.kind() {
        std::io::ErrorKind::NotFound if path == std::path::Path::new("-") => {
            "give a file, or /dev/stdin for standard input"
        }
        std::io::ErrorKind::NotFound => {
            "check the name; relative names start at the current folder"
        }
        std::io::ErrorKind::PermissionDenied => "change its permissions or copy it",
        _ => "give a readable file",
    };
    Error::input("E0911", "the file cannot be read").at(path.display()).help(help).caused_by(fault)
}
