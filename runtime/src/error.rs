//! The coded error of every library call, and what faults of backends are in its terms.

use anyid_backends::Fault;
use anyid_backends::threads::ThreadsRefused;
pub use anyid_files::error::{Error, Kind, Result, plural, unreadable};

/// The system refuses threads (E1025).
pub fn threads(refused: ThreadsRefused) -> Error {
    Error::threads(refused.asked, refused.started, refused.cause)
}

/// An error as a backend passes it on.
pub fn to_fault(error: Error) -> Fault {
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    Fault {
        code: error.code(),
        message: error.message().to_owned(),
        place: error.place().map(str::to_owned),
        help: error.help_text().map(str::to_owned),
        cause,
    }
}

/// The error that a backend passed on.
pub fn from_fault(fault: Fault) -> Error {
    // Of a device without memory, as of the machine itself.
    let kind = if fault.code == "E0603" { Kind::Budget } else { Kind::Input };
    let mut error = Error::new(kind, fault.code, fault.message);
    if let Some(place) = fault.place {
        error = error.at(place);
    }
    if let Some(help) = fault.help {
        error = error.help(help);
    }
    match fault.cause {
        Some(cause) => error.caused_by(std::io::Error::other(cause)),
        None => error,
    }
}
