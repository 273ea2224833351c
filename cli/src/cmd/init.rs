//! `init`: writes a model folder, the built-in model or one with random weights, completely or not at all.
//!
//! The folder is created under a hidden name next to the final one and renamed at the end, so that
//! an interrupted run leaves nothing behind.

use crate::interrupt;
use crate::output::{self, bytes, duration};
use crate::progress::{Progress, left};
use crate::render::Failure;
use anyid_runtime::files::{AtomicFolder, Existing, is_empty_folder};
use anyid_runtime::init::{Preset, write_built_in, write_folder};
use anyid_runtime::{Error, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Debug, Args)]
pub struct Init {
    /// The folder to create.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// What is written: micro (9 MB: the built-in model, or with --random-weights tiny networks for tests,
    /// about 4 MB), small (about 13 MB: trains from scratch), world (about 18 MB: a model of the drawn
    /// world with the values that training begins from) or wan2.2-ti2v-5b (about 24 GB).
    #[arg(long, value_name = "NAME", default_value = "micro")]
    pub preset: String,
    /// Write random weights; those of every preset but micro are.
    #[arg(long)]
    pub random_weights: bool,
    /// Seed of random weights [default: 0].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl Init {
    /// The preset, with the seed of its weights unless it is the built-in model.
    ///
    /// # Errors
    /// E0908 for a preset that there is not, E0900 for a seed of the built-in model.
    pub fn weights(&self) -> Result<(Preset, Option<u64>)> {
        let preset: Preset = self.preset.parse().map_err(|e: Error| e.at("--preset"))?;
        match (preset == Preset::Micro && !self.random_weights, self.seed) {
            (true, None) => Ok((preset, None)),
            (true, Some(seed)) => Err(Error::input("E0900", "the built-in model has no seed")
                .at(format!("--seed {seed}"))
                .help("add --random-weights for tiny networks with random weights")),
            (false, seed) => Ok((preset, Some(seed.unwrap_or(0)))),
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// Those of [`Init::weights`], E0909 where the folder is in use, E101x where it cannot be written.
pub fn run(args: Init) -> std::result::Result<(), Failure> {
    let (preset, seed) = args.weights()?;
    let target: PathBuf = args.folder.components().collect();
    check(&target)?;
    let folder = AtomicFolder::create(&target, Existing::Keep)?;
    interrupt::say_swept();
    let begun = Instant::now();
    let mut progress = Progress::new();
    let all = write(&folder, (preset, seed), &mut progress)?;
    let wanted = folder.path().to_owned();
    let path = folder.commit()?;
    let shown = match path == wanted {
        true => args.folder.display(),
        // A folder of somebody else appeared there in the meantime and was kept.
        false => path.display(),
    };
    let (time, peak) = (duration(begun.elapsed()), output::peak_memory());
    let peak = peak.map_or_else(String::new, |p| format!(", peak memory {}", bytes(p)));
    let what = match seed {
        Some(seed) => format!("{} of random weights, seed {seed}", bytes(all)),
        None => format!("{}, the built-in model", bytes(all)),
    };
    output::print(&format!("wrote {shown}: {what}, in {time}{peak}\n"))?;
    Ok(())
}

/// Fills the folder: with random weights, or with the built-in model where there is no seed. Gives the
/// bytes of its weights.
///
/// # Errors
/// E101x where it cannot be written.
pub fn write(
    folder: &AtomicFolder,
    (preset, seed): (Preset, Option<u64>),
    progress: &mut Progress,
) -> Result<u64> {
    let begun = Instant::now();
    progress.part("init");
    let mut all = 0;
    let Some(seed) = seed else { return write_built_in(folder.temporary_path()) };
    write_folder(folder.temporary_path(), preset, seed, &mut |done, total| {
        all = total;
        let time = begun.elapsed();
        progress.update(done, total, || {
            let rate = bytes((done as f64 / time.as_secs_f64().max(1e-3)) as u64);
            format!("{} of {}, {rate}/s{}", bytes(done), bytes(total), left(time, done, total))
        });
    })?;
    progress.clear();
    Ok(all)
}

/// Accepts only a new or an empty folder.
fn check(target: &Path) -> Result<()> {
    if target.file_name().is_none() {
        return Err(Error::input("E0909", "this is not a name for a new folder")
            .at(target.display())
            .help("give a folder name, such as model"));
    }
    if is_empty_folder(target) || !target.exists() {
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
