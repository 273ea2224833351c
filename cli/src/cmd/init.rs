//! `init`: a model folder with random weights, whole or not at all.
//!
//! The folder is made under a hidden name beside the wanted one and renamed at the end, so that an
//! interrupted run leaves nothing behind.

use crate::args::Init;
use crate::interrupt::PartialFolder;
use crate::output::{self, bytes, duration};
use crate::progress::{Progress, left};
use crate::render::Failure;
use anyid_runtime::checkpoint::write_error;
use anyid_runtime::init::{Preset, write_folder};
use anyid_runtime::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Runs the verb.
///
/// # Errors
/// E0908 for the preset, E0909 where the folder is in use, E101x where it cannot be written.
pub fn run(args: Init) -> std::result::Result<(), Failure> {
    let preset: Preset = args.preset.parse().map_err(|e: Error| e.at("--preset"))?;
    let target: PathBuf = args.folder.components().collect();
    check(&target)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let partial = target.with_file_name(format!(".{name}.partial-{}", std::process::id()));
    std::fs::create_dir(&partial).map_err(|fault| write_error(&target, fault))?;
    let partial = PartialFolder::watch(partial);
    let begun = Instant::now();
    let mut progress = Progress::new();
    progress.part("init");
    let mut all = 0;
    write_folder(partial.path(), preset, args.seed, &mut |done, total| {
        all = total;
        let time = begun.elapsed();
        progress.update(done, total, || {
            let rate = bytes((done as f64 / time.as_secs_f64().max(1e-3)) as u64);
            format!("{} of {}, {rate}/s{}", bytes(done), bytes(total), left(time, done, total))
        });
    })?;
    progress.clear();
    place(&partial, &target)?;
    let (time, peak) = (duration(begun.elapsed()), output::peak_memory());
    let peak = peak.map_or_else(String::new, |p| format!(", peak memory {}", bytes(p)));
    let what = format!("{} of random weights, seed {}", bytes(all), args.seed);
    output::print(&format!("wrote {}: {what}, in {time}{peak}\n", args.folder.display()))?;
    Ok(())
}

/// Only a new or an empty folder is taken.
fn check(target: &Path) -> Result<()> {
    if target.file_name().is_none() {
        return Err(Error::input("E0909", "this is not a name for a new folder")
            .at(target.display())
            .help("give a folder name, such as model"));
    }
    let empty = match std::fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !target.exists(),
    };
    if empty {
        return Ok(());
    }
    let what = if target.join("model_index.json").exists() {
        "the folder already holds a model"
    } else {
        "something else of this name is in the way"
    };
    Err(Error::input("E0909", what)
        .at(target.display())
        .help("choose another folder or remove this one"))
}

fn place(partial: &PartialFolder, target: &Path) -> Result<()> {
    if target.is_dir() {
        std::fs::remove_dir(target).map_err(|fault| write_error(target, fault))?;
    }
    std::fs::rename(partial.path(), target).map_err(|fault| write_error(target, fault))
}
