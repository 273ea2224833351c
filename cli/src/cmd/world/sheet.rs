//! `world sheet`: sets in one picture, one in a row.

use super::args::Sheet;
use super::{coded, open_picture, said, write_picture};
use crate::cmd::generate::opened::existing;
use crate::interrupt;
use crate::output::{self, bytes};
use anyid_runtime::error::unreadable;
use anyid_runtime::media::RgbFrame;
use anyid_runtime::{Error, Result};
use anyid_world::{Set, sheet, sheet_sides};
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Most rows of a sheet.
const MOST: u64 = 1000;
/// Places of a row behind its references: a gap, and first and last frame of the target.
const MORE: usize = 3;
/// Longest line of a manifest, in bytes.
const LONGEST: u64 = 1 << 20;

/// Runs the verb.
///
/// # Errors
/// E098x for what cannot be drawn and for lines of another world, E0911 for a manifest that cannot be
/// read, and those of writing.
pub fn run(args: &Sheet) -> Result<()> {
    if args.count == 0 || args.count > MOST {
        let message = format!("the number of sets cannot be {}", args.count);
        let place = format!("--count {}", args.count);
        return Err(Error::input("E0986", message).at(place).help(format!("give 1 to {MOST}")));
    }
    let sets = match &args.manifest {
        Some(path) => read(args, path)?,
        None => {
            let (world, sampling) = (args.draw.world(), args.draw.sampling()?);
            let set = |index| world.sample(&sampling, args.draw.set.seed, index).map_err(coded);
            (0..args.count).map(set).collect::<Result<_>>()?
        }
    };
    // Frames are painted where there is room for them only.
    let longest = sets.iter().map(|set| set.references.len()).max().unwrap_or(0);
    let sides = sheet_sides(longest + MORE, sets.len(), args.size, args.gap);
    sides.map_err(said(format!("--size {}", args.size)))?;
    let file = open_picture(&args.output, existing(args.force))?;
    interrupt::say_swept();
    let rows = sets.iter().map(|set| set.row(args.size).map_err(coded));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let picture = sheet(&rows, args.size, args.gap).map_err(coded)?;
    let (width, height) = (picture.width, picture.height);
    let (path, size) = write_picture(file, &RgbFrame { width, height, data: picture.pixels })?;
    if args.json {
        let row = |set: &Set| {
            json!({"group": set.group.number(), "target": set.target,
            "references": set.references.len(), "prompt": set.prompt.text})
        };
        return output::print_json(&json!({
            "output": {"path": path.to_string_lossy(), "width": width, "height": height,
                "bytes": size},
            "world": args.draw.world().to_string(),
            "sets": sets.iter().map(row).collect::<Vec<_>>(),
        }));
    }
    let mut text = format!("wrote {}: {width}x{height}, {}\n", path.display(), bytes(size));
    for set in &sets {
        text.push_str(&format!("group {}: {}\n", set.group.number(), set.prompt.text));
    }
    output::print(&text)
}

/// The first sets of a manifest.
fn read(args: &Sheet, path: &Path) -> Result<Vec<Set>> {
    let lines = BufReader::new(File::open(path).map_err(|fault| unreadable(path, fault))?);
    let (mut lines, mut sets, mut number) = (lines, Vec::new(), 0);
    while (sets.len() as u64) < args.count {
        let mut line = Vec::new();
        let read = lines.by_ref().take(LONGEST).read_until(b'\n', &mut line);
        if read.map_err(|fault| unreadable(path, fault))? == 0 {
            break;
        }
        number += 1;
        let line = String::from_utf8_lossy(&line);
        if line.trim().is_empty() {
            continue;
        }
        let place = format!("{}, line {number}", path.display());
        let set = Set::parse(&args.draw.world(), &line);
        sets.push(set.map_err(|error| {
            let version = error.part() == Some("version");
            let error = coded(error).at(place);
            match version {
                true => error.also("or give its version with --version"),
                false => error,
            }
        })?);
    }
    match sets.is_empty() {
        false => Ok(sets),
        true => Err(Error::input("E0983", "the manifest has no line")
            .at(path.display())
            .help("give a manifest that `world sample` wrote")),
    }
}
