//! Places that are written into and never replaced: standard output, pipes, devices, and whatever
//! the caller has opened and names by its descriptor (`/dev/fd/3`).
//!
//! This is the one file that knows what `-` and its other names mean. What such a place has taken
//! cannot be taken back, so whatever can fail is done before.

use super::fault::write_error;
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::path::Path;

/// Whether `path` is standard output: `-`, or one of the names that systems have for it.
pub fn is_standard_output(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]
        .iter()
        .any(|name| path.as_os_str() == *name)
}

/// Whether `path` is written into as it is, without a temporary that takes its name.
pub fn is_direct(path: &Path) -> bool {
    is_standard_output(path)
        || match std::fs::metadata(path) {
            Ok(data) => !data.is_dir() && (!data.is_file() || is_descriptor(path)),
            Err(_) => is_descriptor(path),
        }
}

/// Whether `path` names an open descriptor of this process.
fn is_descriptor(path: &Path) -> bool {
    let of = |folder: &str| {
        let name = path.strip_prefix(folder).ok().and_then(Path::to_str);
        name.is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()))
    };
    cfg!(unix) && (path == Path::new("/dev/stderr") || of("/dev/fd") || of("/proc/self/fd"))
}

/// Opens a place for which [`is_direct`] holds.
///
/// # Errors
/// E1014 for a descriptor that is not open, E1011 and E1013 as the system says.
pub fn open_direct(path: &Path) -> Result<File> {
    if is_standard_output(path) {
        return standard_output();
    }
    let descriptor = is_descriptor(path);
    let mut how = OpenOptions::new();
    match std::fs::metadata(path) {
        // Behind what whoever opened it has written, as through the descriptor itself.
        Ok(data) if descriptor && data.is_file() => how.append(true),
        Err(fault) if descriptor && fault.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::input("E1014", "this descriptor is not open")
                .at(path.display())
                .help("open it in the shell, as in `3>FILE`, or give the name of a file"));
        }
        _ => how.write(true),
    };
    how.open(path).map_err(|fault| write_error(path, fault))
}

/// A duplicate of standard output as a file.
///
/// # Errors
/// E1013.
pub fn standard_output() -> Result<File> {
    #[cfg(unix)]
    let clone = {
        use std::os::fd::AsFd;
        std::io::stdout().as_fd().try_clone_to_owned().map(File::from)
    };
    #[cfg(windows)]
    let clone = {
        use std::os::windows::io::AsHandle;
        std::io::stdout().as_handle().try_clone_to_owned().map(File::from)
    };
    clone.map_err(|fault| write_error("standard output".as_ref(), fault))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::testing::TempFolder;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    #[test]
    fn pipes_devices_and_descriptors_are_recognised_before_links_are_followed() {
        let folder = TempFolder::new();
        let file = folder.write("file", b"old");
        let (reader, writer) = std::io::pipe().unwrap();
        let by_number = |number: i32| format!("/dev/fd/{number}");
        let open = File::open(&file).unwrap();
        for (path, direct) in [
            ("-".to_owned(), true),
            ("/dev/stdout".to_owned(), true),
            ("/dev/null".to_owned(), true),
            (by_number(writer.as_raw_fd()), true),
            (by_number(open.as_raw_fd()), true),
            (file.display().to_string(), false),
            (folder.path().join("none").display().to_string(), false),
            ("/dev/fd".to_owned(), false),
            ("./-".to_owned(), false),
        ] {
            assert_eq!(is_direct(Path::new(&path)), direct, "{path}");
        }
        assert_eq!(open_direct(Path::new("/dev/fd/999999")).unwrap_err().code(), "E1014");
        let through = OpenOptions::new().append(true).open(&file).unwrap();
        open_direct(Path::new(&by_number(through.as_raw_fd()))).unwrap().write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"oldnew");
        drop(reader);
    }
}
