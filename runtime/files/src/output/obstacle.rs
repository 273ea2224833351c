//! Names that no rename can take: mount points, files of others in shared folders, locked files.
//!
//! A result is made under a temporary name and renamed at the end. Where the system would refuse
//! that rename, it is better known before the work than after it. Everything here is only looked
//! at; what cannot be seen is found at the end, and the run keeps its latents then.

use crate::error::{Error, Result};
use std::fs::Metadata;
use std::path::Path;

/// Whether another file system, or a part of one, is mounted at `path`.
pub(super) fn is_mounted(path: &Path) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some((known, set)) = attributes(path)
        && known.contains(rustix::fs::StatxAttributes::MOUNT_ROOT)
    {
        return set.contains(rustix::fs::StatxAttributes::MOUNT_ROOT);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let device = |path: &Path| std::fs::metadata(path).ok().map(|data| data.dev());
        device(path) != device(super::place::folder_of(path))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}

/// The attributes of a file that the system knows, and those that are set.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn attributes(path: &Path) -> Option<(rustix::fs::StatxAttributes, rustix::fs::StatxAttributes)> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS).ok()?;
    Some((found.stx_attributes_mask, found.stx_attributes))
}

/// Whether the system was told that a file, or the names in a folder, must not change.
fn is_locked(path: &Path) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::StatxAttributes as Attributes;
        let locked = Attributes::IMMUTABLE | Attributes::APPEND;
        attributes(path).is_some_and(|(_, set)| set.intersects(locked))
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = path;
        false
    }
}

/// Refuses `target`, which holds `found`, if it could not be replaced; `path` is its name in
/// messages.
///
/// # Errors
/// E1018.
pub(super) fn check(path: &Path, target: &Path, found: Option<&Metadata>) -> Result<()> {
    let refuse = |what: &str, help: &str| {
        Err(Error::input("E1018", what).at(path.display()).help(help.to_owned()))
    };
    let folder = super::place::folder_of(target);
    if is_locked(folder) {
        let what = "the folder is locked: no file in it can be given a name";
        return refuse(what, "write to another folder, or unlock it (`chattr -i -a`)");
    }
    let Some(found) = found else { return Ok(()) };
    if found.is_file() && is_mounted(target) {
        let what = "this file is mounted by itself, so it cannot be replaced";
        return refuse(what, "mount the folder that holds it instead, or write somewhere else");
    }
    if is_locked(target) {
        let what = "what is there is locked, so it cannot be replaced";
        return refuse(what, "choose another name, or unlock it (`chattr -i -a`)");
    }
    if belongs_to_another(found, folder) {
        let what = "what is there belongs to another user, and in this folder only owners may \
                    replace their files";
        return refuse(what, "choose another name or another folder");
    }
    Ok(())
}

/// Whether the folder lets only owners rename files, and this is not one of ours.
#[cfg(unix)]
fn belongs_to_another(found: &Metadata, folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    const STICKY: u32 = 0o1000;
    let Ok(folder) = std::fs::metadata(folder) else { return false };
    let user = rustix::process::geteuid();
    let mine = |data: &Metadata| data.uid() == user.as_raw();
    !user.is_root() && folder.mode() & STICKY != 0 && !mine(&folder) && !mine(found)
}

#[cfg(not(unix))]
fn belongs_to_another(_: &Metadata, _: &Path) -> bool {
    false
}
