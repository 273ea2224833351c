//! Answers that are kept, so that a run can be made again without a network (`prompts.md` §3.5). A name
//! depends on everything that was asked; what was sent of pictures is not kept, and no key is.

use crate::lines::hash;
use anyid_files::output::{AtomicFile, make_folder, write_error};
use anyid_files::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is done with answers that are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They are used and written.
    #[default]
    ReadWrite,
    /// They are used, and nothing is asked that is not there.
    ReadOnly,
    /// They are left alone.
    Off,
}

/// A folder of answers.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    mode: Mode,
}

/// What a folder of answers holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counted {
    /// Answers.
    pub entries: usize,
    /// Bytes.
    pub bytes: u64,
}

impl Cache {
    /// The answers in a folder.
    pub fn new(folder: &Path, mode: Mode) -> Self {
        Self { folder: folder.to_owned(), mode }
    }

    /// The name of what is asked.
    pub fn key(asked: &Value) -> String {
        hash(sorted(asked).to_string().as_bytes())
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(&key[..2]).join(format!("{key}.json"))
    }

    /// What is kept under a name. An entry that is damaged counts as none.
    ///
    /// # Errors
    /// E1238 where nothing else may be asked and it is not there.
    pub fn get(&self, key: &str) -> Result<Option<Value>> {
        if self.mode == Mode::Off {
            return Ok(None);
        }
        match read(&self.path(key)) {
            None if self.mode == Mode::ReadOnly => {
                Err(Error::input("E1238", format!("the answer {key} is not kept"))
                    .at(self.folder.display())
                    .help(
                        "ask for it once with --cache rw, or name the folder of the run that did",
                    ))
            }
            found => Ok(found),
        }
    }

    /// Keeps an entry. Other processes may keep the same one meanwhile.
    ///
    /// # Errors
    /// E101x.
    pub fn put(&self, key: &str, entry: &Value) -> Result<()> {
        if self.mode != Mode::ReadWrite {
            return Ok(());
        }
        let path = self.path(key);
        make_folder(path.parent().unwrap_or(&self.folder))?;
        let mut file = AtomicFile::create(&path)?;
        file.let_be_lost();
        file.append(format!("{entry}\n").as_bytes())?;
        file.commit().map(drop)
    }

    /// The files of all entries, in the order of their names.
    fn files(&self) -> Vec<PathBuf> {
        let inside = |path: &Path| -> Vec<PathBuf> {
            let all = std::fs::read_dir(path).into_iter().flatten().flatten();
            all.map(|entry| entry.path()).collect()
        };
        let ending = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json");
        let all = inside(&self.folder).into_iter().flat_map(|folder| inside(&folder));
        let mut files: Vec<PathBuf> = all.filter(ending).collect();
        files.sort();
        files
    }

    /// What the folder holds.
    pub fn count(&self) -> Counted {
        let mut counted = Counted::default();
        for path in self.files() {
            counted.entries += 1;
            counted.bytes += std::fs::metadata(&path).map_or(0, |about| about.len());
        }
        counted
    }

    /// Removes entries that are damaged, and those that were written longer ago than `age`; gives what
    /// was removed.
    ///
    /// # Errors
    /// E101x where one cannot be removed.
    pub fn prune(&self, age: Option<Duration>) -> Result<Counted> {
        let mut removed = Counted::default();
        for path in self.files() {
            let about = std::fs::metadata(&path).ok();
            let written = about.as_ref().and_then(|about| about.modified().ok());
            let past = written.and_then(|time| time.elapsed().ok());
            let old = age.zip(past).is_some_and(|(age, past)| past > age);
            if old || read(&path).is_none() {
                std::fs::remove_file(&path).map_err(|fault| write_error(&path, fault))?;
                removed.entries += 1;
                removed.bytes += about.map_or(0, |about| about.len());
            }
        }
        Ok(removed)
    }

    /// Writes all sound entries into a file, one a line with its name; gives how many there are.
    ///
    /// # Errors
    /// E101x.
    pub fn export(&self, into: &Path) -> Result<usize> {
        let mut file = AtomicFile::create(into)?;
        let mut count = 0;
        for path in self.files() {
            let Some(mut entry) = read(&path) else { continue };
            entry["key"] = path.file_stem().map(|name| name.to_string_lossy()).into();
            file.append(format!("{entry}\n").as_bytes())?;
            count += 1;
        }
        file.commit()?;
        Ok(count)
    }
}

/// What an entry says; none where it is damaged.
fn read(path: &Path) -> Option<Value> {
    let entry: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    entry["parsed"].is_object().then_some(entry)
}

/// The same value with the keys of objects in their order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut keys: Vec<&String> = object.keys().collect();
            keys.sort();
            Value::Object(keys.into_iter().map(|key| (key.clone(), sorted(&object[key]))).collect())
        }
        Value::Array(list) => list.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;
    use serde_json::json;

    #[test]
    fn answers_are_kept_under_what_was_asked() {
        let folder = TempFolder::new("cache");
        let key = Cache::key(&json!({"a": 1, "b": [{"d": 2, "c": 3}]}));
        assert_eq!(key, Cache::key(&json!({"b": [{"c": 3, "d": 2}], "a": 1})));
        let cache = Cache::new(folder.path(), Mode::ReadWrite);
        assert_eq!(cache.get(&key).unwrap(), None);
        let entry = json!({"parsed": {"x": 1}});
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| cache.put(&key, &entry).unwrap());
            }
        });
        assert_eq!(cache.get(&key).unwrap(), Some(entry.clone()));
        assert_eq!(cache.count().entries, 1);
        let read = Cache::new(folder.path(), Mode::ReadOnly);
        assert_eq!(read.get(&key).unwrap(), Some(entry));
        assert_eq!(read.get(&"0".repeat(64)).unwrap_err().code(), "E1238");
        assert_eq!(Cache::new(folder.path(), Mode::Off).get(&key).unwrap(), None);
        let other = Cache::key(&json!(1));
        cache.put(&other, &json!({"parsed": {"y": 2}})).unwrap();
        std::fs::write(cache.path(&key), "half").unwrap();
        assert_eq!(cache.get(&key).unwrap(), None);
        let into = folder.path().join("all.jsonl");
        assert_eq!(cache.export(&into).unwrap(), 1);
        let line: Value = serde_json::from_slice(&std::fs::read(&into).unwrap()).unwrap();
        assert_eq!(line, json!({"parsed": {"y": 2}, "key": other}));
        // What is damaged goes, then what is old.
        assert_eq!(cache.prune(Some(Duration::from_secs(3600))).unwrap().entries, 1);
        assert!(cache.get(&other).unwrap().is_some());
        assert_eq!(cache.prune(None).unwrap().entries, 0);
        let written = std::fs::File::options().write(true).open(cache.path(&other)).unwrap();
        let before = std::time::SystemTime::now() - Duration::from_secs(7200);
        written.set_modified(before).unwrap();
        assert_eq!(cache.prune(Some(Duration::from_secs(3600))).unwrap().entries, 1);
        assert_eq!(cache.count(), Counted::default());
    }
}
