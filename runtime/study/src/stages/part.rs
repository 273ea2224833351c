//! One part of one stage: work shared among threads, lines in the order of the input, and a journal
//! by which a run that was killed goes on to the same bytes (`data.md` §9).
//!
//! A part is written as `NAME.jsonl.partial`, with `NAME.journal` beside it that says up to where it
//! is whole. At the end it gets its name, and `NAME.done` says what it was made from. Threads are those
//! of `workers.rs`.

use super::items::Item;
use super::journal::{Entry, Journal};
use crate::lines::{Lines, hash};
use crate::records::Failure;
use anyid_files::output::{AtomicFile, make_folder, write_error};
use anyid_files::shard::Shard;
use anyid_files::{Error, Kind, Result, error, input};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Share of items with errors above which a part counts as failed.
const MOST_ERRORS: f64 = 0.2;
/// Files that could not be used which a message names.
const NAMED: usize = 3;
/// Items per thread that are taken at a time.
pub(super) const AT_A_TIME: usize = 4;

/// Which part, and what it is made from.
#[derive(Clone, Debug)]
pub struct Part<'p> {
    /// The folder of the stage.
    pub folder: PathBuf,
    /// Which part.
    pub shard: Shard,
    /// The schema of its lines.
    pub schema: &'p str,
    /// A hash of all settings that decide what comes out.
    pub config: String,
    /// A hash of what goes in.
    pub input: String,
    /// Threads.
    pub threads: usize,
    /// Whether a part that was made otherwise is made again.
    pub redo: bool,
}

/// What a finished part says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The hash of its settings.
    pub config: String,
    /// The hash of what went in.
    pub input: String,
    /// Files of video.
    pub items: usize,
    /// Lines.
    pub records: usize,
    /// Files that could not be used.
    pub errors: usize,
    /// How long it took, all runs together.
    pub seconds: f64,
}

impl Part<'_> {
    pub(super) fn path(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.shard.name()))
    }

    /// What is said of the part where it is finished and was made from the same.
    ///
    /// # Errors
    /// E1204 where it was made from something else.
    pub fn finished(&self) -> Result<Option<Done>> {
        let path = self.path("done");
        let Some(done) = read_done(&path)? else { return Ok(None) };
        if !self.path("jsonl").is_file() || self.redo && !self.fits(&done.config, &done.input) {
            return Ok(None);
        }
        if !self.fits(&done.config, &done.input) {
            return Err(self.other(&done.config, &path));
        }
        Ok(Some(done))
    }

    pub(super) fn fits(&self, config: &str, input: &str) -> bool {
        self.config == config && self.input == input
    }

    pub(super) fn other(&self, config: &str, path: &Path) -> Error {
        let what = if config == self.config { "another input" } else { "other settings" };
        Error::input("E1204", format!("this part was made from {what}"))
            .at(path.display())
            .help("make it again (--redo), or write to another folder (--out)")
    }

    /// Makes the part, or what is left of it. `work` gives the lines of an item; `told` hears how many
    /// items are done.
    ///
    /// # Errors
    /// E1204, E1207 where another run is at it, E1206 where too many files could not be used, E101x
    /// where it cannot be written, and those of `work` that are not about one file.
    pub fn run(
        &self,
        items: &mut dyn Iterator<Item = Result<Item>>,
        work: &(dyn Fn(&Item) -> Result<Vec<Value>> + Sync),
        told: &mut dyn FnMut(usize),
    ) -> Result<Done> {
        if let Some(done) = self.finished()? {
            return self.verdict(done);
        }
        make_folder(&self.folder)?;
        let begun = Instant::now();
        let mut journal = Journal::open(self)?;
        let mut done =
            Done { config: self.config.clone(), input: self.input.clone(), ..Done::default() };
        let (partial, whole) = (self.path("jsonl.partial"), self.path("jsonl"));
        // Killed between its name and the word that it is finished.
        if !partial.exists() && whole.exists() {
            std::fs::rename(&whole, &partial).map_err(|fault| write_error(&partial, fault))?;
        }
        let fail = |fault| write_error(&partial, fault);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&partial)
            .map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        let before = journal.entries(self, length)?;
        let end = before.last().map_or(0, |entry| entry.end);
        file.set_len(end).map_err(fail)?;
        file.seek(SeekFrom::Start(end)).map_err(fail)?;
        for entry in &before {
            done.items += 1;
            done.records += entry.records;
            done.errors += usize::from(entry.error);
        }
        let mut end = end;
        let mut rest = items.filter(|item| match item {
            Ok(item) => self.shard.has(&item.media),
            Err(_) => true,
        });
        // What is in the journal comes first in the input too: it is the same input.
        for media in before.iter().map(|entry| entry.media.as_str()) {
            match rest.next().transpose()? {
                Some(item) if item.media == media => {}
                _ => return Err(self.other(&self.config, &self.path("journal"))),
            }
        }
        told(done.items);
        loop {
            let chunk: Vec<Item> =
                rest.by_ref().take(self.threads.max(1) * AT_A_TIME).collect::<Result<_>>()?;
            if chunk.is_empty() {
                break;
            }
            self.chunk(&chunk, work, &mut |item, made| {
                file.write_all(made.text.as_bytes()).map_err(fail)?;
                end += made.text.len() as u64;
                done.items += 1;
                done.records += made.records;
                done.errors += usize::from(made.error);
                journal.add(&Entry {
                    media: item.media.clone(),
                    end,
                    records: made.records,
                    error: made.error,
                })?;
                told(done.items);
                Ok(())
            })?;
        }
        file.sync_all().map_err(fail)?;
        std::fs::rename(&partial, &whole).map_err(fail)?;
        done.seconds = journal.seconds_before + begun.elapsed().as_secs_f64();
        self.finish(&done)?;
        drop(std::fs::remove_file(self.path("journal")));
        self.verdict(done)
    }

    /// Says that the part is finished.
    pub(super) fn finish(&self, done: &Done) -> Result<()> {
        let mut says = AtomicFile::create(self.path("done"))?;
        says.append(format!("{}\n", json!(done)).as_bytes())?;
        says.commit().map(drop)
    }

    pub(super) fn verdict(&self, done: Done) -> Result<Done> {
        if done.errors as f64 <= MOST_ERRORS * done.items as f64 {
            return Ok(done);
        }
        let (errors, items) = (done.errors, done.items);
        let mut named = self.failed(NAMED)?;
        if errors > named.len() {
            named.push(format!("and {} more", errors - named.len()));
        }
        let what = format!("{errors} of {items} files could not be used: {}", named.join("; "));
        Err(Error::input("E1206", what)
            .at(self.path("jsonl").display())
            .help("lines with \"error\" say why; mend the files or take them out, then --redo"))
    }

    /// The first files that could not be used, with what was wrong.
    fn failed(&self, most: usize) -> Result<Vec<String>> {
        let mut named = Vec::new();
        for line in Lines::open(&self.path("jsonl"))? {
            let Ok(value) = serde_json::from_str::<Value>(&line?) else { continue };
            let Ok(own) = serde_json::from_value::<Failure>(value["error"].clone()) else {
                continue;
            };
            let media = value["media"].as_str().unwrap_or_default();
            named.push(format!("{media}: {} ({})", own.message, own.code));
            if named.len() == most {
                break;
            }
        }
        Ok(named)
    }
}

/// The error of a program that was interrupted while it filled a folder.
pub(crate) fn interrupted(folder: &Path) -> Error {
    Error::new(Kind::Interrupted, "E1013", "the program was interrupted")
        .at(folder.display())
        .help("the same command goes on where it was")
}

/// What a part says of itself, where it is finished.
pub(super) fn read_done(path: &Path) -> Result<Option<Done>> {
    if !path.is_file() {
        return Ok(None);
    }
    let large = |_| Error::input("E1205", "this is no record of a finished part");
    let bytes = input::read(path, 1 << 20)
        .map_err(|fault| fault.coded(path, |fault| error::unreadable(path, fault), large))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|fault| {
        Error::input("E1205", format!("this is no record of a finished part: {fault}"))
            .at(path.display())
            .help("make the part again with --redo")
    })
}

/// A hash of settings.
pub fn config_hash(stage: &str, settings: &Value) -> String {
    hash(format!("{stage}\n{}\n{settings}", env!("CARGO_PKG_VERSION")).as_bytes())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::merge::merge;
    use super::*;
    use crate::testing::TempFolder;

    pub(in super::super) fn part(
        folder: &TempFolder,
        shard: Shard,
        threads: usize,
    ) -> Part<'static> {
        Part {
            folder: folder.path().join("stage"),
            shard,
            schema: "anyid.media/1",
            config: "c".into(),
            input: "i".into(),
            threads,
            redo: false,
        }
    }

    pub(in super::super) fn all() -> Vec<Item> {
        let item = |at| Item { media: format!("a/{at:03}.mp4"), lines: vec![] };
        (0..60).map(item).collect()
    }

    pub(in super::super) fn work(item: &Item) -> Result<Vec<Value>> {
        let number: usize = item.media[2..5].parse().unwrap();
        if number == 7 {
            return Err(Error::input("E0810", "it is damaged"));
        }
        Ok((0..number % 3).map(|at| json!({"media": item.media, "at": at})).collect())
    }

    pub(in super::super) fn run(part: &Part<'_>) -> Result<Done> {
        part.run(&mut all().into_iter().map(Ok), &work, &mut |_| {})
    }

    pub(in super::super) fn bytes(folder: &TempFolder, name: &str) -> Vec<u8> {
        std::fs::read(folder.path().join(name)).unwrap()
    }

    #[test]
    fn parts_are_the_whole_whatever_their_number_and_threads() {
        let mut results = Vec::new();
        for (count, threads) in [(1, 1), (1, 5), (3, 2), (7, 1)] {
            let folder = TempFolder::new("parts");
            for index in (0..count).rev() {
                run(&part(&folder, Shard { index, count }, threads)).unwrap();
            }
            let into = folder.path().join("out.jsonl");
            let total = merge(&folder.path().join("stage"), &into).unwrap();
            assert_eq!((total.items, total.records, total.errors), (60, 60, 1));
            results.push(bytes(&folder, "out.jsonl"));
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
        let text = String::from_utf8(results.remove(0)).unwrap();
        assert!(text.contains(r#""error":{"code":"E0810","message":"it is damaged"}"#));
    }

    #[test]
    fn what_is_finished_is_not_made_again_and_what_is_other_is_refused() {
        let folder = TempFolder::new("again");
        let own = part(&folder, Shard::WHOLE, 2);
        let done = run(&own).unwrap();
        let never = |_: &Item| -> Result<Vec<Value>> { panic!("made again") };
        let again = own.run(&mut all().into_iter().map(Ok), &never, &mut |_| {}).unwrap();
        assert_eq!(done, again);
        let other = Part { config: "d".into(), ..own.clone() };
        assert_eq!(run(&other).unwrap_err().code(), "E1204");
        assert!(run(&Part { redo: true, ..other }).is_ok());
        assert_eq!(run(&own).unwrap_err().code(), "E1204");
    }

    #[test]
    fn a_part_that_broke_off_goes_on_to_the_same_bytes() {
        let whole = TempFolder::new("whole");
        run(&part(&whole, Shard::WHOLE, 1)).unwrap();
        let expected = bytes(&whole, "stage/part-00000-of-00001.jsonl");
        for at in [0, 1, 7, 20, 59] {
            let folder = TempFolder::new("broken");
            let own = part(&folder, Shard::WHOLE, 2);
            let breaks = |item: &Item| match item.media == format!("a/{at:03}.mp4") {
                true => Err(Error::input("E1012", "the disk is full")),
                false => work(item),
            };
            let fault = own.run(&mut all().into_iter().map(Ok), &breaks, &mut |_| {}).unwrap_err();
            assert_eq!(fault.code(), "E1012");
            // As a kill leaves it: half a line in both files.
            for (name, more) in [("jsonl.partial", "{\"media\": \"half"), ("journal", "{\"med")] {
                let path = own.path(name);
                let mut file = OpenOptions::new().append(true).open(path).unwrap();
                file.write_all(more.as_bytes()).unwrap();
            }
            run(&own).unwrap();
            assert_eq!(bytes(&folder, "stage/part-00000-of-00001.jsonl"), expected, "{at}");
            assert!(!own.path("journal").exists() && !own.path("jsonl.partial").exists());
        }
    }

    #[test]
    fn two_runs_are_not_at_one_part() {
        let folder = TempFolder::new("two");
        let own = part(&folder, Shard::WHOLE, 1);
        let inner = |_: &Item| -> Result<Vec<Value>> {
            assert_eq!(run(&own).unwrap_err().code(), "E1207");
            Ok(vec![])
        };
        own.run(&mut all().into_iter().take(1).map(Ok), &inner, &mut |_| {}).unwrap();
    }

    #[test]
    fn too_many_faults_and_missing_parts_are_errors() {
        let folder = TempFolder::new("faults");
        let own = part(&folder, Shard { index: 0, count: 2 }, 1);
        let failing = |_: &Item| Err(Error::input("E0804", "no video"));
        let fault = own.run(&mut all().into_iter().map(Ok), &failing, &mut |_| {}).unwrap_err();
        assert_eq!(fault.code(), "E1206");
        let named = fault.message().matches(".mp4: no video (E0804)").count();
        assert!(named == 3 && fault.message().ends_with(" more"), "{fault}");
        let into = folder.path().join("out.jsonl");
        let stage = folder.path().join("stage");
        let fault = merge(&stage, &into).unwrap_err();
        assert!(fault.code() == "E1205" && fault.message().contains("parts 1 of 2"), "{fault}");
        run(&part(&folder, Shard::WHOLE, 1)).unwrap();
        let fault = merge(&stage, &into).unwrap_err();
        assert!(fault.message().contains("different divisions: [1, 2]"), "{fault}");
        assert_eq!(merge(&folder.path().join("none"), &into).unwrap_err().code(), "E0911");
        std::fs::write(stage.join("part-00000-of-00001.done"), "no").unwrap();
        std::fs::remove_file(own.path("done")).unwrap();
        assert_eq!(merge(&stage, &into).unwrap_err().code(), "E1205");
    }
}
