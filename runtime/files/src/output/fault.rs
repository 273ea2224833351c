//! Faults of writing as coded errors.

use super::place::{folder_of, follow};
use crate::error::{Error, Kind, Result};
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
        _ if too_many_files(&fault) => return no_descriptor(fault).at(path.display()),
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            ("E1010", missing(path), "make the folder first, or check the path for typing mistakes")
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
        ErrorKind::InvalidFilename => (
            "E1013",
            "the name is too long for this file system".to_owned(),
            "choose a shorter name: what is written beside a result is named after it",
        ),
        _ => (
            "E1013",
            "writing failed".to_owned(),
            "see the cause; the disk or its connection may be at fault",
        ),
    };
    Error::input(code, message).at(path.display()).help(help).caused_by(fault)
}

/// Makes a folder, and those above it, where they are not there.
///
/// # Errors
/// E1014 where a file or a broken link is in the way, E1011 to E1013 otherwise.
pub fn make_folder(path: &Path) -> Result<()> {
    let Err(fault) = std::fs::create_dir_all(path) else { return Ok(()) };
    check_way(path)?;
    Err(write_error(path, fault))
}

/// Refuses what is in the way of a folder that is still to be made. Nothing is made.
///
/// # Errors
/// E1014 for a file or a broken link.
pub fn check_way(path: &Path) -> Result<()> {
    let found = |above: &&Path| above.symlink_metadata().is_ok();
    let Some(found) = path.ancestors().find(found).filter(|found| !found.is_dir()) else {
        return Ok(());
    };
    let what = match (found.exists(), found == path) {
        (false, _) => format!("{} is a link that leads nowhere", found.display()),
        (true, true) => "a file of this name is in the way of the folder".to_owned(),
        (true, false) => format!("{} is a file, not a folder", found.display()),
    };
    Err(Error::input("E1014", what)
        .at(path.display())
        .help("name another folder, or remove what is in the way"))
}

/// Which folder is missing, where a link leads to it too.
fn missing(path: &Path) -> String {
    let target = follow(path).unwrap_or_else(|_| path.to_owned());
    let folder = folder_of(&target).display();
    match target == path {
        true => format!("the folder {folder} does not exist"),
        false => format!(
            "this link leads to {}, and the folder {folder} does not exist",
            target.display()
        ),
    }
}

/// Whether the process, or the system, has no descriptor left.
pub fn too_many_files(fault: &io::Error) -> bool {
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        let of = |errno: Errno| fault.raw_os_error() == Some(errno.raw_os_error());
        of(Errno::MFILE) || of(Errno::NFILE)
    }
    #[cfg(not(unix))]
    {
        // ERROR_TOO_MANY_OPEN_FILES.
        fault.raw_os_error() == Some(4)
    }
}

/// The coded error (E1013) for a process that can open no more files.
pub fn no_descriptor(fault: io::Error) -> Error {
    Error::input("E1013", "too many files are open")
        .help("raise the limit (`ulimit -n 1024`), or close files in the program that starts this")
        .caused_by(fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;

    #[test]
    fn what_is_in_the_way_of_a_folder_is_named() {
        let folder = TempFolder::new();
        make_folder(&folder.path().join("a/b")).unwrap();
        make_folder(&folder.path().join("a/b")).unwrap();
        let file = folder.write("file", b"x");
        let mut rows = vec![
            (file.clone(), "a file of this name is in the way"),
            (file.join("below"), "file is a file, not a folder"),
        ];
        #[cfg(unix)]
        {
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(folder.path().join("none"), &link).unwrap();
            rows.push((link.clone(), "link is a link that leads nowhere"));
            rows.push((link.join("below"), "link is a link that leads nowhere"));
        }
        for (path, said) in rows {
            for error in [check_way(&path).unwrap_err(), make_folder(&path).unwrap_err()] {
                assert_eq!(error.code(), "E1014", "{error}");
                assert!(error.message().contains(said), "{error}");
                assert_eq!(error.place(), Some(path.display().to_string().as_str()));
            }
        }
        let none = folder.path().join("c/d");
        check_way(&none).unwrap();
        assert!(!folder.path().join("c").exists(), "nothing is made");
    }
}
