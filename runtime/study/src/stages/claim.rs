//! Work that processes take from each other file by file, for folders that several machines share and
//! whose files take different times (`data.md` §9).
//!
//! A lease is a file that only one process can make; who holds it touches it from time to time, and one
//! that was not touched for long is taken over. What comes out of each file is written by rename under a
//! name that depends on that file alone. Two processes at one file would therefore write the same:
//! leases save work, results do not depend on them.

use super::items::Item;
use super::merge::head;
use super::part::{AT_A_TIME, Done, Part};
use crate::lines::{Lines, hash};
use anyid_files::output::{AtomicFile, make_folder, write_error};
use anyid_files::{Result, error};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// How long a lease lasts that nobody touches.
const STALE: Duration = Duration::from_secs(30 * 60);
/// How often a lease that is held is touched.
const BEAT: Duration = Duration::from_secs(60);

/// Files of video, one after the other.
pub type Items = Box<dyn Iterator<Item = Result<Item>>>;

/// What came of a process's share.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// Files that this process worked on.
    pub own: usize,
    /// Files that other processes are at work on.
    pub elsewhere: usize,
    /// The whole stage, where everything is finished.
    pub done: Option<Done>,
}

/// A lease that this process holds; given back when dropped.
struct Lease(PathBuf);

impl Drop for Lease {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// Whether nobody has touched a file for long, or it is gone.
fn is_stale(path: &Path) -> bool {
    let touched = std::fs::metadata(path).and_then(|about| about.modified());
    touched.is_ok_and(|time| time.elapsed().is_ok_and(|past| past > STALE))
}

/// Takes a lease, if nobody holds it.
fn lease(path: PathBuf) -> Result<Option<Lease>> {
    if is_stale(&path) {
        // Taken aside first: of several processes that see it, one can do that.
        let aside = path.with_extension(format!("stale-{}", std::process::id()));
        if std::fs::rename(&path, &aside).is_ok() {
            drop(std::fs::remove_file(&aside));
        }
    }
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(file) => file,
        Err(fault) if fault.kind() == ErrorKind::AlreadyExists => return Ok(None),
        Err(fault) => return Err(write_error(&path, fault)),
    };
    let held = Lease(path);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.map_or(0, |since| since.as_secs());
    let says = json!({"host": host.trim(), "pid": std::process::id(), "since": since});
    file.write_all(format!("{says}\n").as_bytes()).map_err(|e| write_error(&held.0, e))?;
    Ok(Some(held))
}

/// Touches leases as long as work is done.
fn while_touched<T>(leases: &[Lease], work: impl FnOnce() -> T) -> T {
    struct End<'e>(&'e (Mutex<bool>, Condvar));
    impl Drop for End<'_> {
        fn drop(&mut self) {
            *self.0.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
            self.0.1.notify_all();
        }
    }
    let ended = (Mutex::new(false), Condvar::new());
    std::thread::scope(|scope| {
        let _end = End(&ended);
        let (ended, bell) = (&ended.0, &ended.1);
        // Without this thread, long work may be done twice, to the same result.
        drop(std::thread::Builder::new().name("anyid-lease".into()).spawn_scoped(
            scope,
            move || {
                let mut over = ended.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                while !*over {
                    let waited = bell.wait_timeout(over, BEAT);
                    over = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
                    for lease in leases {
                        let file = OpenOptions::new().write(true).open(&lease.0);
                        drop(file.and_then(|file: File| file.set_modified(SystemTime::now())));
                    }
                }
            },
        ));
        work()
    })
}

impl Part<'_> {
    /// Where what comes out of a file is kept.
    fn own(&self, media: &str) -> PathBuf {
        let name = hash(media.as_bytes());
        self.folder.join("claimed").join(&name[..2]).join(format!("{name}.jsonl"))
    }

    /// Makes as much of the part as nobody else is at work on, with leases in a folder that all
    /// processes share. `items` gives the files, from the beginning each time. Who finishes the last of
    /// them puts all together.
    ///
    /// # Errors
    /// As [`Part::run`].
    pub fn claimed(
        &self,
        leases: &Path,
        items: &dyn Fn() -> Result<Items>,
        work: &(dyn Fn(&Item) -> Result<Vec<Value>> + Sync),
        told: &mut dyn FnMut(usize),
    ) -> Result<Claimed> {
        if let Some(done) = self.finished()? {
            return Ok(Claimed { own: 0, elsewhere: 0, done: Some(self.verdict(done)?) });
        }
        let begun = Instant::now();
        self.begin()?;
        make_folder(leases)?;
        let stage = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut own = 0;
        let mut all = items()?;
        loop {
            let (mut held, mut taken) = (Vec::new(), Vec::new());
            while taken.len() < self.threads.max(1) * AT_A_TIME {
                let Some(item) = all.next().transpose()? else { break };
                if self.own(&item.media).exists() {
                    continue;
                }
                let name = format!("{stage}-{}.lease", &hash(item.media.as_bytes())[..32]);
                match lease(leases.join(name))? {
                    // Finished between the two looks.
                    Some(_) if self.own(&item.media).exists() => {}
                    Some(lease) => {
                        held.push(lease);
                        taken.push(item);
                    }
                    None => {}
                }
            }
            if taken.is_empty() {
                break;
            }
            while_touched(&held, || {
                self.chunk(&taken, work, &mut |item, made| {
                    let path = self.own(&item.media);
                    make_folder(path.parent().unwrap_or(&self.folder))?;
                    let mut file = AtomicFile::create(&path)?;
                    file.append(made.text.as_bytes())?;
                    file.commit()?;
                    own += 1;
                    told(own);
                    Ok(())
                })
            })?;
        }
        let name = format!("{}-{}", std::process::id(), begun.elapsed().as_nanos());
        let seconds = self.folder.join("claimed").join(format!("{name}.seconds"));
        let mut file = AtomicFile::create(seconds)?;
        file.append(format!("{}\n", begun.elapsed().as_secs_f64()).as_bytes())?;
        file.commit()?;
        // Whoever finishes last finds nothing missing here.
        let mut elsewhere = 0;
        for item in items()? {
            elsewhere += usize::from(!self.own(&item?.media).exists());
        }
        let done = match elsewhere {
            0 => Some(self.verdict(self.together(items()?)?)?),
            _ => None,
        };
        Ok(Claimed { own, elsewhere, done })
    }

    /// Says what the results are made from, or compares it with what was said.
    fn begin(&self) -> Result<()> {
        let folder = self.folder.join("claimed");
        let path = folder.join("head.json");
        let says = json!({"config": self.config, "input": self.input});
        if let Ok(bytes) = std::fs::read(&path) {
            let found: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            if found == says {
                return Ok(());
            }
            if !self.redo {
                return Err(self.other(found["config"].as_str().unwrap_or_default(), &path));
            }
            std::fs::remove_dir_all(&folder).map_err(|fault| write_error(&folder, fault))?;
        }
        make_folder(&folder)?;
        let mut file = AtomicFile::create(&path)?;
        file.append(format!("{says}\n").as_bytes())?;
        file.commit().map(drop)
    }

    /// Puts together what came of all files.
    fn together(&self, items: Items) -> Result<Done> {
        let (config, input) = (self.config.clone(), self.input.clone());
        let mut done = Done { config, input, ..Done::default() };
        let mut file = AtomicFile::create(self.path("jsonl"))?;
        for item in items {
            done.items += 1;
            let mut lines = Lines::open(&self.own(&item?.media))?;
            while let Some((_, line)) = head(&mut lines)? {
                let failed = serde_json::from_str::<Value>(&line);
                done.errors += usize::from(failed.is_ok_and(|v| v.get("error").is_some()));
                done.records += 1;
                file.append(line.as_bytes())?;
            }
        }
        file.commit()?;
        let folder = self.folder.join("claimed");
        let entries = std::fs::read_dir(&folder).map_err(|e| error::unreadable(&folder, e))?;
        let seconds = entries.flatten().map(|entry| entry.path());
        let seconds = seconds.filter(|path| path.extension().is_some_and(|e| e == "seconds"));
        let seconds = seconds.filter_map(|path| std::fs::read_to_string(path).ok());
        done.seconds = seconds.filter_map(|text| text.trim().parse::<f64>().ok()).sum();
        self.finish(&done)?;
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::part::tests::{all, bytes, part, run, work};
    use super::*;
    use crate::testing::TempFolder;
    use anyid_files::Error;
    use anyid_files::shard::Shard;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const PART: &str = "stage/part-00000-of-00001.jsonl";

    fn items() -> Result<Items> {
        Ok(Box::new(all().into_iter().map(Ok)))
    }

    fn claim(folder: &TempFolder, part: &Part<'_>) -> Result<Claimed> {
        part.claimed(&folder.path().join("leases"), &items, &work, &mut |_| {})
    }

    #[test]
    fn what_several_processes_take_from_each_other_is_the_whole() {
        let whole = TempFolder::new("claim-whole");
        let expected = run(&part(&whole, Shard::WHOLE, 1)).unwrap();
        let folder = TempFolder::new("claims");
        let calls = AtomicUsize::new(0);
        let found: Vec<Claimed> = std::thread::scope(|scope| {
            let worker = || {
                let own = part(&folder, Shard::WHOLE, 2);
                let counted = |item: &Item| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    work(item)
                };
                own.claimed(&folder.path().join("leases"), &items, &counted, &mut |_| {}).unwrap()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        // Each file is worked on once, and whoever was last has put them together.
        assert_eq!(calls.into_inner(), 60);
        assert_eq!(found.iter().map(|claimed| claimed.own).sum::<usize>(), 60);
        let done = found.iter().find_map(|claimed| claimed.done.clone()).unwrap();
        assert_eq!((done.items, done.records, done.errors), (60, expected.records, 1));
        assert!(bytes(&folder, PART) == bytes(&whole, PART));
        let left = std::fs::read_dir(folder.path().join("leases")).unwrap().count();
        assert_eq!(left, 0, "leases are given back");
        // Again there is nothing to do; from something else it is refused.
        let own = part(&folder, Shard::WHOLE, 2);
        assert_eq!(claim(&folder, &own).unwrap().own, 0);
        let other = Part { config: "d".into(), ..own };
        assert_eq!(claim(&folder, &other).unwrap_err().code(), "E1204");
        assert_eq!(claim(&folder, &Part { redo: true, ..other }).unwrap().own, 60);
    }

    #[test]
    fn leases_are_taken_over_when_nobody_touches_them() {
        let folder = TempFolder::new("stale");
        let held = |media: &str| {
            let name = format!("stage-{}.lease", &hash(media.as_bytes())[..32]);
            folder.write(&format!("leases/{name}"), "{}")
        };
        let (live, stale) = (held("a/003.mp4"), held("a/004.mp4"));
        let long_ago = SystemTime::now() - STALE - Duration::from_secs(9);
        let file = OpenOptions::new().write(true).open(&stale).unwrap();
        file.set_modified(long_ago).unwrap();
        let own = part(&folder, Shard::WHOLE, 1);
        let claimed = claim(&folder, &own).unwrap();
        assert_eq!((claimed.own, claimed.elsewhere, claimed.done), (59, 1, None));
        assert!(live.exists() && !own.path("jsonl").exists());
        // The other process is gone, and so is its lease after a while.
        std::fs::remove_file(live).unwrap();
        let claimed = claim(&folder, &own).unwrap();
        assert_eq!((claimed.own, claimed.done.unwrap().items), (1, 60));
        // A fault ends the run and gives its leases back.
        let folder = TempFolder::new("fault");
        let own = part(&folder, Shard::WHOLE, 1);
        let fails = |_: &Item| Err(Error::input("E1012", "the disk is full"));
        let fault = own.claimed(&folder.path().join("leases"), &items, &fails, &mut |_| {});
        assert_eq!(fault.unwrap_err().code(), "E1012");
        assert_eq!(std::fs::read_dir(folder.path().join("leases")).unwrap().count(), 0);
    }
}
