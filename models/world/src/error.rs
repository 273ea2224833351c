//! The error of this crate: a stable code, what was wrong, and what to do about it.
//!
//! The crate knows no other of the workspace; whoever calls it turns this into an error of its own.

use std::fmt;

/// What was wrong with a request to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: &'static str,
    message: String,
    help: String,
    part: Option<&'static str>,
}

/// Result with the coded [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { code, message: message.into(), help: help.into(), part: None }
    }

    /// Says what of the request it is about.
    pub(crate) fn of(self, part: &'static str) -> Self {
        Self { part: Some(part), ..self }
    }

    /// The stable code, one of `docs/errors/`.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What was wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What of the request it is about, where that has several parts: a field of
    /// [`Sampling`](crate::Sampling), or `version`.
    pub fn part(&self) -> Option<&'static str> {
        self.part
    }

    /// What the reader can do.
    pub fn help(&self) -> &str {
        &self.help
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.code, self.message, self.help)
    }
}

impl std::error::Error for Error {}
