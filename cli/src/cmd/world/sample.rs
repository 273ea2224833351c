//! `world sample`: a manifest and what it names, in a folder that appears when it is complete.
//!
//! A sample is drawn by seed and index alone, so the samples are drawn twice: once to learn which
//! people they show, and once to be written, so that no number of samples takes memory.

use super::args::{Sample, TargetKind};
use super::makers::each;
use super::{coded, refuse_others, said};
use crate::args::DeviceArgs;
use crate::cmd::generate::opened::existing;
use crate::interrupt;
use crate::output::{self, bytes, duration, plural};
use crate::progress::{Progress, left};
use anyid_runtime::checkpoint::hash_file;
use anyid_runtime::files::AtomicFolder;
use anyid_runtime::media::lossless;
use anyid_runtime::{Error, Result};
use anyid_world::{FPS, Painter, Reel, Sampling, Split, Visibility};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

/// The file of the lines.
pub const MANIFEST: &str = "manifest.jsonl";
/// The folder of the pictures.
const GROUPS: &str = "groups";
/// Most samples of a manifest.
const MOST: u64 = 10_000_000;
/// Bytes of lines that are written at a time.
const PIECE: usize = 1 << 20;

/// Runs the verb.
///
/// # Errors
/// As [`write()`].
pub fn run(args: &Sample) -> Result<()> {
    let begun = Instant::now();
    let mut progress = Progress::new();
    let report = write(args, &mut progress)?;
    progress.clear();
    let Report { manifest, groups, pictures, size, sha256 } = &report;
    let (world, split) = (args.draw.world(), Split::from(args.draw.split).name());
    match args.json {
        true => output::print_json(&report.json(args)),
        false => output::print(&format!(
            "wrote {}: {} of {} of {world} ({split}), {pictures} pictures in {}, in {}\n\
             SHA-256 of the manifest {sha256}\n",
            manifest.display(),
            plural(args.count as usize, "sample"),
            plural(*groups, "group"),
            bytes(*size),
            duration(begun.elapsed()),
        )),
    }
}

/// What was written.
pub struct Report {
    /// The manifest, and its hash.
    pub manifest: PathBuf,
    pub sha256: String,
    /// The people, and how many pictures there are of them, in so many bytes.
    groups: usize,
    pictures: usize,
    size: u64,
}

impl Report {
    /// It as an object.
    pub fn json(&self, args: &Sample) -> Value {
        let (world, split) = (args.draw.world(), Split::from(args.draw.split).name());
        json!({
            "manifest": self.manifest.to_string_lossy(), "sha256": self.sha256,
            "world": world.to_string(), "split": split, "samples": args.count,
            "groups": self.groups, "pictures": self.pictures, "media_bytes": self.size,
        })
    }
}

/// Refuses samples that cannot be drawn.
///
/// # Errors
/// E098x.
pub fn check(args: &Sample) -> Result<Sampling> {
    let sampling = args.draw.sampling()?;
    if args.count == 0 || args.count > MOST {
        let message = format!("the number of samples cannot be {}", args.count);
        let place = format!("--count {}", args.count);
        return Err(Error::input("E0986", message).at(place).help(format!("give 1 to {MOST}")));
    }
    if args.shows && args.targets == TargetKind::Pictures {
        let help = "a judge is trained on clips: leave one of the two flags out";
        return Err(Error::input("E0986", "what a clip shows is not said of single pictures")
            .at("--shows, --targets pictures")
            .help(help));
    }
    Painter::new(args.size).map_err(said(format!("--size {}", args.size)))?;
    Ok(sampling)
}

/// Writes the samples.
///
/// # Errors
/// E098x for what cannot be drawn, E0918 and E1025 for the threads, E0823 for a folder of something
/// else, E1016 for one that is to be kept, E101x where something cannot be written.
pub fn write(args: &Sample, progress: &mut Progress) -> Result<Report> {
    let begun = Instant::now();
    let sampling = check(args)?;
    let painter = |_| Painter::new(args.size).map_err(coded);
    let on = DeviceArgs { device: "cpu".to_owned(), threads: args.threads };
    // It is opened for what it says of the number alone.
    on.open()?;
    let mut painters: Vec<Painter> = (0..on.thread_count()).map(painter).collect::<Result<_>>()?;
    refuse_others(&args.output, &[MANIFEST, GROUPS])?;
    let folder = AtomicFolder::create(&args.output, existing(args.force))?;
    interrupt::say_swept();
    folder.make_folder(GROUPS)?;
    let groups = lines(args, &sampling, &folder)?;
    progress.part("painting");
    let (reel, side, mut size) = (Reel { clips: args.draw.set.clips }, args.size, 0u64);
    let numbers: Vec<u64> = groups.iter().copied().collect();
    let painted = |painter: &mut Painter, number: &u64| {
        let group = args.draw.world().group(*number).map_err(coded)?;
        let film = reel.paint(&group, painter).map_err(coded)?;
        lossless::animation(&film, side, side, FPS as u16)
    };
    each(&mut painters, &numbers, &painted, &mut |at, file: Vec<u8>| {
        folder.write(&Reel::file(numbers[at]), &file)?;
        size += file.len() as u64;
        let (done, total) = (at as u64 + 1, numbers.len() as u64);
        progress.update(done, total, || {
            format!("{done} of {total} people{}", left(begun.elapsed(), done, total))
        });
        Ok(())
    })?;
    progress.clear();
    let manifest = folder.commit()?.join(MANIFEST);
    let (groups, sha256) = (groups.len(), hash_file(&manifest)?);
    Ok(Report { manifest, sha256, groups, pictures: groups * reel.pictures(), size })
}

/// Writes the manifest; gives the groups that it names.
fn lines(args: &Sample, sampling: &Sampling, folder: &AtomicFolder) -> Result<BTreeSet<u64>> {
    let (world, reel) = (args.draw.world(), Reel { clips: args.draw.set.clips });
    let (mut groups, mut text) = (BTreeSet::new(), String::new());
    let mut visibility = args.shows.then(Visibility::new);
    for index in 0..args.count {
        let set = world.sample(sampling, args.draw.set.seed, index).map_err(coded)?;
        groups.insert(set.group.number());
        let id = format!("s_{index:06}");
        let shows = visibility.as_mut().map(|visibility| set.shows(visibility));
        text.push_str(&match args.targets {
            TargetKind::Clips => set.line(&id, &reel, shows.as_deref()),
            TargetKind::Pictures => set.line_of_picture(&id, &reel, index),
        });
        text.push('\n');
        if text.len() >= PIECE {
            folder.append(MANIFEST, text.as_bytes())?;
            text.clear();
        }
    }
    folder.append(MANIFEST, text.as_bytes())?;
    Ok(groups)
}
