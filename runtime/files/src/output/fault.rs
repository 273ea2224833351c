//! Faults of writing as coded errors.

use crate::error::{Error, Kind};
use std::io::{self, ErrorKind};
use std::path::Path;

/// The coded error for a failure to write `path`: E1010 folder missing, E1011 not writable, E1012
/// disk full, E1013 anything else; of kind `Interrupted` when the run was told to end.
pub fn write_error(path: &Path, fault: io::Error) -> Error {
    if fault.kind() == ErrorKind::Interrupted {
        let what = "the file was not written: the program was interrupted";
        return Error::new(Kind::Interrupted, "E1013", what)
            .at(path.display())
            .help("start again; whatever was at this path before is unchanged");
    }
    let (code, message, help) = match fault.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            let folder = path.parent().unwrap_or(path);
            (
                "E1010",
                format!("the folder {} does not exist", folder.display()),
                "make the folder first, or check the path for typing mistakes",
            )
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => (
            "E1011",
            "no permission to write here".to_owned(),
            "check the permissions of the file and its folder, or write somewhere else",
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (
            "E1012",
            "the disk is full".to_owned(),
            "free some space or write to another disk; no partial file was left",
        ),
        ErrorKind::FileTooLarge => (
            "E1013",
            "the file is too large for this file system or limit".to_owned(),
            "write to another disk, or raise the limit (`ulimit -f`)",
        ),
        _ => (
            "E1013",
            "writing failed".to_owned(),
            "see the cause; the disk or its connection may be at fault",
        ),
    };
    Error::input(code, message).at(path.display()).help(help).caused_by(fault)
}
