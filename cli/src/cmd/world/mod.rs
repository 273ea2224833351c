//! `world`: pictures, samples and contact sheets of the drawn world, and what models keep of its people.
//!
//! The library draws and paints; here are files, progress and reports.

pub mod args;
mod clips;
pub mod eval;
mod kept;
pub mod make;
mod makers;
pub mod pairs;
mod render;
mod sample;
mod sheet;

use crate::render::Failure;
use anyid_runtime::files::{AtomicFile, Existing, is_direct, is_temporary};
use anyid_runtime::media::{RgbFrame, lossless};
use anyid_runtime::{Error, Result};
use args::WorldVerb;
use std::path::{Path, PathBuf};

/// Runs the verb.
///
/// # Errors
/// E098x for numbers that the world does not have, and those of writing.
pub fn run(verb: WorldVerb) -> std::result::Result<(), Failure> {
    match verb {
        WorldVerb::Render(args) => render::run(&args)?,
        WorldVerb::Sample(args) => sample::run(&args)?,
        WorldVerb::Sheet(args) => sheet::run(&args)?,
        WorldVerb::Eval(args) => eval::run(&args)?,
        WorldVerb::Pairs(args) => pairs::run(&args)?,
        WorldVerb::Make(args) => make::run(&args)?,
        WorldVerb::Pack(args) => make::pack::run(&args)?,
    }
    Ok(())
}

/// An error of the world in the terms of the runtime.
pub fn coded(error: anyid_world::Error) -> Error {
    Error::input(error.code(), error.message()).help(error.help())
}

/// As [`coded`], of what a flag says.
pub fn said(flag: impl std::fmt::Display) -> impl FnOnce(anyid_world::Error) -> Error {
    move |error| coded(error).at(flag)
}

/// The file of a single picture, opened before it is painted.
///
/// # Errors
/// E0820 for a name that is none of a PNG file, E1010 to E1016 where it cannot be written.
fn open_picture(path: &Path, existing: Existing) -> Result<AtomicFile> {
    let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
    if is_direct(path) || ending.is_none_or(|ending| ending != "png") {
        return Err(Error::input("E0820", "a single picture is written as a .png file")
            .at(path.display())
            .help("give a file name such as out.png"));
    }
    AtomicFile::create_as(path, existing)
}

/// Writes a picture; gives the file and its bytes.
///
/// # Errors
/// E1011 to E1013 where it cannot be written.
fn write_picture(mut file: AtomicFile, picture: &RgbFrame) -> Result<(PathBuf, u64)> {
    let bytes = lossless::picture(picture)?;
    file.append(&bytes)?;
    Ok((file.commit()?, bytes.len() as u64))
}

/// Refuses a folder that holds something else than `ours`, even where it may be replaced.
///
/// # Errors
/// E0823.
fn refuse_others(target: &Path, ours: &[&str]) -> Result<()> {
    let target: PathBuf = target.components().collect();
    let Ok(entries) = std::fs::read_dir(&target) else { return Ok(()) };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    let own = |name: &std::ffi::OsString| ours.iter().any(|own| name == own);
    if names.iter().filter(|name| !is_temporary(name)).all(own) {
        return Ok(());
    }
    Err(Error::input("E0823", "the folder holds other files, so it is left alone")
        .at(target.display())
        .help("name a new or empty folder, or one that the same command made"))
}
