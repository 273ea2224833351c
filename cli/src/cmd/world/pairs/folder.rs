//! The folder of pairs: what was read in every clip, the clips of pairs, and the manifest.
//!
//! Clips and reels are there before the verdict that speaks of them, and sets come in their order: what
//! the file of verdicts says was done is done, and the same sets give the same bytes, however often the
//! work was stopped.

use crate::cmd::world::kept::{Kept, Lines};
use crate::cmd::world::sample::MANIFEST;
use crate::cmd::world::{coded, refuse_others};
use anyid_runtime::checkpoint::hash_file;
use anyid_runtime::files::{AtomicFile, Existing, make_folder};
use anyid_runtime::media::lossless;
use anyid_runtime::training::lock;
use anyid_runtime::{Error, Result};
use anyid_world::{FPS, Made, Painter, Part, Reel, Set, Tracks};
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};

const VERDICTS: &str = "verdicts.jsonl";
const GROUPS: &str = "groups";
const CLIPS: &str = "clips";
const LOCK: &str = "lock";

const LINES: Lines = Lines {
    schema: "anyid.pairs/1",
    code: "E0992",
    what: "verdicts of these pairs",
    help: "give the flags that the folder was begun with, or another folder",
};

/// What became of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Its person.
    pub group: u64,
    /// The seeds of its clips' noise.
    pub seeds: [u64; 2],
    /// What its clips came to.
    pub tracks: [Tracks; 2],
    /// Which of them was preferred, and the hashes of the chosen and the rejected clip.
    pub pair: Option<(usize, [String; 2])>,
}

/// A folder of pairs that is open for more.
pub struct Folder {
    path: PathBuf,
    file: Kept,
    /// What became of the first sets, in their order.
    pub judged: Vec<Judged>,
    /// Nobody else works here as long as it is held.
    _lock: File,
}

impl Folder {
    /// Opens a folder, which is made if it is not there. `about` is how sets are drawn, clips made and
    /// pairs chosen.
    ///
    /// # Errors
    /// E0823 for a folder of something else, E0961 where another program works in it, E0992 for pairs
    /// of another run, E0911 and E101x where something cannot be read or written.
    pub fn open(path: &Path, about: &Value) -> Result<Self> {
        let ours = [MANIFEST, VERDICTS, GROUPS, CLIPS, LOCK];
        // A folder of samples has a manifest, too, but no verdicts.
        let begun = path.join(VERDICTS).exists();
        refuse_others(path, if begun { &ours } else { &[LOCK] })?;
        make_folder(path)?;
        let lock = lock(path)?;
        let mut judged = Vec::new();
        let file = Kept::open(&path.join(VERDICTS), &LINES, about, &mut |number, line| {
            let read = read(line, judged.len() as u64);
            judged.push(read.ok_or_else(|| format!("its line {number} is not that of its set"))?);
            Ok(())
        })?;
        for folder in [GROUPS, CLIPS] {
            make_folder(&path.join(folder))?;
        }
        Ok(Self { path: path.to_owned(), file, judged, _lock: lock })
    }

    /// How many sets gave a pair.
    pub fn pairs(&self) -> usize {
        self.judged.iter().filter(|one| one.pair.is_some()).count()
    }

    /// Keeps what became of the next set, and the frames of its clips if one was preferred.
    ///
    /// # Errors
    /// E101x where something cannot be written.
    pub fn put(
        &mut self,
        set: &Set,
        mut judged: Judged,
        frames: [&[Vec<u8>]; 2],
        reel: &Reel,
        (painter, side): (&mut Painter, usize),
    ) -> Result<()> {
        let index = self.judged.len();
        if let Some((chosen, hashes)) = &mut judged.pair {
            let reels = self.path.join(Reel::file(set.group.number()));
            if !reels.exists() {
                let film = reel.paint(&set.group, painter).map_err(coded)?;
                write(&reels, &film, side)?;
            }
            let names = media(index);
            for ((name, hash), frames) in
                names.iter().zip(hashes).zip([frames[*chosen], frames[1 - *chosen]])
            {
                let path = self.path.join(name);
                write(&path, &frames.concat(), side)?;
                *hash = hash_file(&path)?;
            }
        }
        self.file.append(&line(index as u64, &judged))?;
        self.judged.push(judged);
        Ok(())
    }

    /// Writes the manifest of these sets, each with its number; gives its path.
    ///
    /// # Errors
    /// E0993 for a clip that is not as it was written, E101x where the manifest cannot be written.
    pub fn finish(&self, pairs: &[(usize, Set)], reel: &Reel) -> Result<PathBuf> {
        let mut text = String::new();
        for (index, set) in pairs {
            let (_, hashes) = self.judged[*index].pair.as_ref().expect("one was preferred");
            let [one, other] = media(*index);
            let clips = [(one, &hashes[0]), (other, &hashes[1])];
            for (media, hash) in &clips {
                self.unchanged(media, Some(hash))?;
            }
            self.unchanged(&Reel::file(set.group.number()), None)?;
            let made = |(media, sha256): (String, &String)| Made { media, sha256: sha256.clone() };
            text.push_str(&set.pair(&name(*index), reel, &clips.map(made)));
            text.push('\n');
        }
        let path = self.path.join(MANIFEST);
        let mut file = AtomicFile::create_as(&path, Existing::Overwrite)?;
        file.append(text.as_bytes())?;
        file.commit()
    }

    fn unchanged(&self, media: &str, hash: Option<&String>) -> Result<()> {
        let path = self.path.join(media);
        let what = match (path.is_file(), hash) {
            (false, _) => "is not there",
            (true, Some(hash)) if hash_file(&path)? != *hash => "was changed",
            _ => return Ok(()),
        };
        Err(Error::input("E0993", format!("a file of a pair {what}"))
            .at(path.display())
            .help("restore it, or begin again in another folder"))
    }
}

/// The name of a set.
fn name(index: usize) -> String {
    format!("s_{index:06}")
}

/// The files of the chosen and the rejected clip of a set.
fn media(index: usize) -> [String; 2] {
    ["chosen", "rejected"].map(|which| format!("{CLIPS}/{}_{which}.png", name(index)))
}

/// Writes pictures, RGB bytes one behind the other.
fn write(path: &Path, film: &[u8], side: usize) -> Result<()> {
    let bytes = lossless::animation(film, side, side, FPS as u16)?;
    let mut file = AtomicFile::create_as(path, Existing::Overwrite)?;
    file.append(&bytes)?;
    file.commit().map(drop)
}

fn line(index: u64, judged: &Judged) -> Value {
    let part = |part: Part| json!([part.sum, part.cases]);
    let clips = judged.tracks.iter().zip(judged.seeds).map(|(tracks, seed)| {
        json!({"seed": seed, "identity": part(tracks.identity), "prompt": part(tracks.prompt)})
    });
    let clips: Vec<Value> = clips.collect();
    let mut line = json!({"set": index, "group": judged.group, "clips": clips});
    if let Some((chosen, hashes)) = &judged.pair {
        line["chosen"] = json!(chosen);
        line["sha256"] = json!(hashes);
    }
    line
}

/// What a line says of set `index`.
fn read(line: &Value, index: u64) -> Option<Judged> {
    (line.get("set")?.as_u64()? == index).then_some(())?;
    let part =
        |value: &Value| Some(Part { sum: value.get(0)?.as_f64()?, cases: value.get(1)?.as_f64()? });
    let clip = |at: usize| {
        let clip = line.get("clips")?.get(at)?;
        let (identity, prompt) = (part(clip.get("identity")?)?, part(clip.get("prompt")?)?);
        Some((clip.get("seed")?.as_u64()?, Tracks { identity, prompt }))
    };
    let [one, other] = [clip(0)?, clip(1)?];
    let pair = match line.get("chosen") {
        Some(chosen) => {
            let chosen = chosen.as_u64().filter(|chosen| *chosen < 2)? as usize;
            let hash = |at: usize| Some(line.get("sha256")?.get(at)?.as_str()?.to_owned());
            Some((chosen, [hash(0)?, hash(1)?]))
        }
        None => None,
    };
    let group = line.get("group")?.as_u64()?;
    Some(Judged { group, seeds: [one.0, other.0], tracks: [one.1, other.1], pair })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let part = |sum, cases| Part { sum, cases };
        let tracks =
            [5.0, 7.0].map(|sum| Tracks { identity: part(sum, 9.0), prompt: part(sum, 8.0) });
        let hashes = ["ab", "cd"].map(str::to_owned);
        for pair in [None, Some((1, hashes))] {
            let judged = Judged { group: 12, seeds: [3, 1 << 52], tracks, pair };
            let text = line(4, &judged).to_string();
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(read(&value, 4), Some(judged));
            assert_eq!(read(&value, 5), None);
        }
        assert_eq!(read(&json!({"set": 0, "group": 1, "clips": []}), 0), None);
    }
}
