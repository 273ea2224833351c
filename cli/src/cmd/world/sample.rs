//! `world sample`: a manifest and what it names, in a folder that appears when it is complete.
//!
//! A sample is drawn by seed and index alone, so the samples are drawn twice: once to learn which
//! people they show, and once to be written, so that no number of samples takes memory.

use super::args::Sample;
use super::{coded, refuse_others};
use crate::cmd::generate::opened::existing;
use crate::interrupt;
use crate::output::{self, bytes, duration, plural};
use crate::progress::{Progress, left};
use anyid_runtime::checkpoint::hash_file;
use anyid_runtime::files::AtomicFolder;
use anyid_runtime::media::lossless;
use anyid_runtime::{Error, Result};
use anyid_world::{FPS, Painter, Reel, Sampling, Split, Visibility};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Instant;

/// The file of the lines.
const MANIFEST: &str = "manifest.jsonl";
/// The folder of the pictures.
const GROUPS: &str = "groups";
/// Most samples of a manifest.
const MOST: u64 = 10_000_000;
/// Bytes of lines that are written at a time.
const PIECE: usize = 1 << 20;

/// Runs the verb.
///
/// # Errors
/// E098x for what cannot be drawn, E0823 for a folder of something else, E1016 for one that is to be
/// kept, E101x where something cannot be written.
pub fn run(args: &Sample) -> Result<()> {
    let begun = Instant::now();
    let sampling = args.draw.sampling()?;
    if args.count == 0 || args.count > MOST {
        let message = format!("{} samples", args.count);
        let help = format!("give 1 to {MOST}");
        return Err(Error::input("E0986", message).at("--count").help(help));
    }
    let mut painter = Painter::new(args.size).map_err(coded)?;
    refuse_others(&args.output, &[MANIFEST, GROUPS])?;
    let folder = AtomicFolder::create(&args.output, existing(args.force))?;
    interrupt::say_swept();
    folder.make_folder(GROUPS)?;
    let mut progress = Progress::new();
    let groups = lines(args, &sampling, &folder)?;
    progress.part("painting");
    let (reel, side, mut size) = (Reel { clips: args.draw.set.clips }, args.size, 0u64);
    for (done, number) in (1..).zip(&groups) {
        let group = args.draw.world().group(*number).map_err(coded)?;
        let film = reel.paint(&group, &mut painter).map_err(coded)?;
        let file = lossless::animation(&film, side, side, FPS as u16)?;
        folder.write(&Reel::file(*number), &file)?;
        size += file.len() as u64;
        let total = groups.len() as u64;
        progress.update(done, total, || {
            format!("{done} of {total} people{}", left(begun.elapsed(), done, total))
        });
    }
    progress.clear();
    let path = folder.commit()?;
    let manifest = path.join(MANIFEST);
    let sha256 = hash_file(&manifest)?;
    let world = args.draw.world();
    let split = Split::from(args.draw.split).name();
    let pictures = groups.len() * reel.pictures();
    match args.json {
        true => output::print_json(&json!({
            "manifest": manifest.to_string_lossy(), "sha256": sha256, "world": world.to_string(),
            "split": split, "samples": args.count, "groups": groups.len(), "pictures": pictures,
            "media_bytes": size,
        })),
        false => output::print(&format!(
            "wrote {}: {} of {} of {world} ({split}), {pictures} pictures in {}, in {}\n\
             SHA-256 of the manifest {sha256}\n",
            manifest.display(),
            plural(args.count as usize, "sample"),
            plural(groups.len(), "group"),
            bytes(size),
            duration(begun.elapsed()),
        )),
    }
}

/// Writes the manifest; gives the groups that it names.
fn lines(args: &Sample, sampling: &Sampling, folder: &AtomicFolder) -> Result<BTreeSet<u64>> {
    let (world, reel) = (args.draw.world(), Reel { clips: args.draw.set.clips });
    let (mut groups, mut text) = (BTreeSet::new(), String::new());
    let mut visibility = args.shows.then(Visibility::new);
    for index in 0..args.count {
        let set = world.sample(sampling, args.draw.set.seed, index).map_err(coded)?;
        groups.insert(set.group.number());
        let shows = visibility.as_mut().map(|visibility| set.shows(visibility));
        text.push_str(&set.line(&format!("s_{index:06}"), &reel, shows.as_deref()));
        text.push('\n');
        if text.len() >= PIECE {
            folder.append(MANIFEST, text.as_bytes())?;
            text.clear();
        }
    }
    folder.append(MANIFEST, text.as_bytes())?;
    Ok(groups)
}
