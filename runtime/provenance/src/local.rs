//! The key of an installation, which signs every result that is made on it.

use crate::certificate::Chain;
use anyid_files::error::{Error, Result};
use anyid_files::output::{make_folder, write_error};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The files of the key in the state folder: the certificates, and the key.
pub const LOCAL: [&str; 2] = ["provenance/certificates.pem", "provenance/key.pem"];

/// Makes the key of an installation in its state folder; gives the two files. `name` is what its
/// certificate says.
///
/// # Errors
/// E1016 there is one already, E1107 the system has no random numbers, E1010–E1013 it cannot be
/// written.
pub fn init(state: &Path, name: &str, now: SystemTime) -> Result<[PathBuf; 2]> {
    let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    let chain = Chain::make(&name, now)?;
    let [certificates, key] = LOCAL.map(|file| state.join(file));
    if let Some(folder) = key.parent() {
        make_folder(folder)?;
    }
    // The key first: certificates without a key would be of no use, and name nobody's.
    for (path, text, mode) in
        [(&key, &chain.key, 0o600), (&certificates, &chain.certificates, 0o644)]
    {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        #[cfg(not(unix))]
        let _: u32 = mode;
        let mut file = options.open(path).map_err(|fault| match fault.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::input("E1016", "this installation has a key already").at(path.display()).help(
                    "keep it: what was signed with it names it; or move both files away to make another",
                )
            }
            _ => write_error(path, fault),
        })?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(|fault| write_error(path, fault))?;
    }
    Ok([certificates, key])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_has_one_key_that_nobody_else_reads() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let [certificates, key] = init(&state, "here\n", SystemTime::now()).unwrap();
        assert!(std::fs::read_to_string(&certificates).unwrap().contains("BEGIN CERTIFICATE"));
        anyid_guard::signature::check_private(&key).unwrap();
        let before = std::fs::read(&key).unwrap();
        assert_eq!(init(&state, "x", SystemTime::now()).unwrap_err().code(), "E1016");
        assert_eq!(std::fs::read(&key).unwrap(), before);
    }
}
