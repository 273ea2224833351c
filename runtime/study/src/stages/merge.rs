//! The parts of a stage put together: each must be there once, and all must be made from the same
//! (`data.md` §9). The result does not depend on their number.

use super::items::media_of;
use super::part::{Done, read_done};
use crate::lines::Lines;
use anyid_files::output::AtomicFile;
use anyid_files::shard::Shard;
use anyid_files::{Error, Result, error};
use std::path::Path;

/// Puts all parts of a stage together, in the order of the files of video, and says what they say
/// together.
///
/// # Errors
/// E1205 where parts are missing, of different divisions or made from different things; E101x.
pub fn merge(folder: &Path, into: &Path) -> Result<Done> {
    let fault = |what: String| {
        Error::input("E1205", what)
            .at(folder.display())
            .help("make what is missing, with the same settings and number of parts")
    };
    let mut counts: Vec<usize> = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|e| error::unreadable(folder, e))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let count = name.strip_prefix("part-").and_then(|rest| rest.strip_suffix(".done"));
        let count = count.and_then(|rest| rest.split_once("-of-")?.1.parse::<usize>().ok());
        counts.extend(count);
    }
    counts.sort_unstable();
    let Some(count) = counts.first().copied() else {
        return Err(fault("there is no finished part".to_owned()));
    };
    if counts.iter().any(|other| *other != count) {
        counts.dedup();
        return Err(fault(format!("there are parts of different divisions: {counts:?}"))
            .advised("remove those of the divisions that are not wanted"));
    }
    let mut total = Done::default();
    let mut readers = Vec::new();
    let mut missing = Vec::new();
    for index in 0..count {
        let shard = Shard { index, count };
        let path = |ending: &str| folder.join(format!("{}.{ending}", shard.name()));
        let (done, lines) = (read_done(&path("done"))?, path("jsonl"));
        let Some(done) = done.filter(|_| lines.is_file()) else {
            missing.push(index.to_string());
            continue;
        };
        if index > 0
            && (&done.config, &done.input) != (&total.config, &total.input)
            && !total.config.is_empty()
        {
            return Err(fault(format!("part {index} was made from another input or settings")));
        }
        (total.config, total.input) = (done.config, done.input);
        total.items += done.items;
        total.records += done.records;
        total.errors += done.errors;
        total.seconds += done.seconds;
        readers.push(Lines::open(&lines)?);
    }
    if !missing.is_empty() {
        return Err(fault(format!("parts {} of {count} are not finished", missing.join(", "))));
    }
    let mut out = AtomicFile::create(into)?;
    // The next line of each part with the file of video that it is about.
    let mut heads = Vec::new();
    for reader in &mut readers {
        heads.push(head(reader)?);
    }
    loop {
        let first = heads.iter().enumerate().filter_map(|(at, head)| Some((head.as_ref()?, at)));
        let Some(((media, _), at)) = first.min_by(|(a, i), (b, j)| (&a.0, i).cmp(&(&b.0, j)))
        else {
            break;
        };
        // All lines of a file stand together in its part.
        let media = media.clone();
        while let Some((_, line)) = heads[at].take_if(|(own, _)| *own == media) {
            out.append(line.as_bytes())?;
            heads[at] = head(&mut readers[at])?;
        }
    }
    out.commit()?;
    Ok(total)
}

/// The next line with the file of video that it is about.
pub(super) fn head(lines: &mut Lines) -> Result<Option<(String, String)>> {
    let Some(line) = lines.next().transpose()? else { return Ok(None) };
    let media = media_of(&line).ok_or_else(|| lines.fault("\"media\" is missing"))?;
    Ok(Some((media, line)))
}
