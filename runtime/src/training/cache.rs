//! Encoded clips and prompts on disk, so that every one is encoded once.
//!
//! The name of an entry is the hash of everything that it depends on: the bytes of the source, the
//! part and size that are taken, and the weights of the encoder. Entries appear whole or not at all,
//! carry the digest of their values and what they depend on, and are compared with both whenever they
//! are read; one that is damaged, or that is another entry's, is made again with a warning, so nothing
//! waits for the disk to have it. What is no file, or cannot be read, is refused: nothing is ever removed
//! here. By what is in the header, other programs can tell entries apart, too.

use crate::checkpoint::Checkpoint;
use crate::engine::finite::first_non_finite;
use crate::error::{Error, Result};
use crate::files::{self as output, AtomicFile};
use crate::weights::{read_tensors, write_tensors_in};
use anyid_ir::Tensor;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Part of every key: changes when what is stored for the same source changes.
const VERSION: &str = "anyid.cache/1";
/// Key of the header that holds the digest.
const DIGEST: &str = "sha256";
/// Key of the header that holds what the entry depends on, as JSON.
const SOURCE: &str = "source";
/// Name of the tensor of an entry.
const NAME: &str = "value";

/// A folder of encoded clips and prompts.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// An entry: values, and numbers about the source.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What the encoder gave.
    pub value: Tensor,
    /// Width and height of the pixels that it was made of; 0 for text.
    pub source: [usize; 2],
}

/// What a look into the cache gives.
#[derive(Debug)]
pub enum Found {
    /// The entry, as it was stored.
    Entry(Entry),
    /// There is none.
    Nothing,
    /// There is one, but not as it was stored.
    Damaged,
}

impl Cache {
    /// A cache in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// E1011 to E1014 where it cannot be made.
    pub fn open(folder: &Path) -> Result<Self> {
        crate::files::make_folder(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// What there is of a cache in `folder`, which may not be there yet.
    pub fn there(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The key of what depends on `parts`.
    pub fn key(parts: &Value) -> String {
        Self::key_of(&parts.to_string())
    }

    fn key_of(parts: &str) -> String {
        hex(Sha256::new().chain_update(VERSION).chain_update(parts))
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.safetensors"))
    }

    /// The file of an entry that is something else than a file, so that the entry cannot be there.
    pub fn blocked(&self, key: &str) -> Option<PathBuf> {
        let path = self.path(key);
        path.metadata().is_ok_and(|about| !about.is_file()).then_some(path)
    }

    /// Refuses what has names of entries and is none.
    ///
    /// # Errors
    /// E1014 with all of these paths, if there are any.
    pub fn refuse(&self, blocked: &[PathBuf]) -> Result<()> {
        let folders = blocked.iter().all(|path| path.is_dir());
        let (message, place, help) = match blocked {
            [] => return Ok(()),
            [path] => {
                let what = if folders { "a folder" } else { "something that is no file" };
                (
                    format!("{what} has the name of an entry of the cache"),
                    path,
                    "move it away, or remove it: what the entry holds is then made again",
                )
            }
            all => {
                let what = if folders { "folders" } else { "things that are no files" };
                let names = all.iter().map(|path| format!("\n  {}", path.display()));
                (
                    format!(
                        "{} {what} have names of entries of the cache:{}",
                        all.len(),
                        names.collect::<String>()
                    ),
                    &self.folder,
                    "move them away, or remove them: what the entries hold is then made again",
                )
            }
        };
        Err(Error::input("E1014", message).at(place.display()).help(help))
    }

    /// Looks for an entry.
    ///
    /// # Errors
    /// E0603 without memory, E1014 where something else than a file has its name, E0911 where it cannot be
    /// read.
    pub fn find(&self, key: &str) -> Result<Found> {
        let path = self.path(key);
        let unreadable = |fault: &dyn std::fmt::Display| {
            let message = format!("an entry of the cache cannot be read: {fault}");
            Error::input("E0911", message)
                .at(path.display())
                .help("move it away, or remove it: what the entry holds is then made again")
        };
        match path.metadata() {
            Ok(about) if about.is_file() => {}
            Ok(_) => {
                return self.refuse(std::slice::from_ref(&path)).map(|()| Found::Nothing);
            }
            Err(fault) if fault.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(fault) => return Err(unreadable(&fault)),
        }
        let read = || -> Result<Option<Entry>> {
            let file = Checkpoint::open(&path)?;
            let said = |key: &str| file.metadata().get(key).map(String::as_str);
            let number = |key: &str| said(key).and_then(|text| text.parse().ok());
            let [width, height] = ["width", "height"].map(number);
            let mut tensors = read_tensors(&path)?;
            let value = match &tensors[..] {
                [(name, _)] if name == NAME => tensors.remove(0).1,
                _ => return Ok(None),
            };
            let whole = said(DIGEST) == Some(digest(&value).as_str());
            // A file of another entry that was given this name is whole, and not what is asked for.
            let own = said(SOURCE).is_some_and(|parts| Self::key_of(parts) == key);
            let source = width.zip(height).map(|(width, height)| [width, height]);
            Ok(source.filter(|_| whole && own).map(|source| Entry { value, source }))
        };
        match read() {
            Ok(Some(entry)) => Ok(Found::Entry(entry)),
            Ok(None) => Ok(Found::Damaged),
            Err(error) if ["E0603", "E1013"].contains(&error.code()) => Err(error),
            // It cannot even be opened.
            Err(error) if error.code() == "E0310" => Err(unreadable(&error.message())),
            Err(_) => Ok(Found::Damaged),
        }
    }

    /// An entry as messages name it: `what` it is of, and its file.
    pub fn named(&self, key: &str, what: &str) -> String {
        format!("{what} ({})", self.path(key).display())
    }

    /// Stores the entry of what depends on `parts`, under their key.
    ///
    /// # Errors
    /// E1012 disk full, E1011 and E1013 otherwise; what was stored before stays.
    pub fn store(&self, parts: &Value, entry: &Entry) -> Result<()> {
        let [width, height] = entry.source;
        let header = BTreeMap::from([
            (DIGEST.to_owned(), digest(&entry.value)),
            (SOURCE.to_owned(), parts.to_string()),
            ("width".to_owned(), width.to_string()),
            ("height".to_owned(), height.to_string()),
        ]);
        let mut file = AtomicFile::create(self.path(&Self::key(parts)))?;
        // Its digest tells whether it is as it was stored, and then it is made again.
        file.let_be_lost();
        output::commit(vec![write_tensors_in(file, [(NAME, &entry.value)], &header)?]).map(drop)
    }

    /// The value of an entry that was stored in this run or before it.
    ///
    /// # Errors
    /// E0960 where it is no longer there or damaged, E1001 where it holds a non-finite value;
    /// `place` says whose it is.
    pub fn value(&self, key: &str, place: &str) -> Result<Tensor> {
        let entry = match self.find(key)? {
            Found::Entry(entry) => entry,
            Found::Nothing => return Err(self.changed(key, place, "is gone")),
            Found::Damaged => return Err(self.changed(key, place, "is damaged")),
        };
        self.finite(key, &entry.value, place)?;
        Ok(entry.value)
    }

    /// The error E0960 of an entry that is not what it was when the run began.
    pub fn changed(&self, key: &str, place: &str, how: &str) -> Error {
        Error::input("E0960", format!("what was encoded of {place} {how}"))
            .at(self.path(key).display())
            .help(
                "something changed the cache during the run; when it goes on, it is encoded again",
            )
    }

    /// Refuses the value of an entry that is not finite everywhere.
    ///
    /// # Errors
    /// E1001; `place` says whose it is.
    pub fn finite(&self, key: &str, value: &Tensor, place: &str) -> Result<()> {
        let Some(at) = first_non_finite(value) else { return Ok(()) };
        let message = format!("a non-finite value in the cache of {place}, element {at}");
        Err(Error::input("E1001", message)
            .at(self.path(key).display())
            .help("remove this file: what it holds is then made again"))
    }
}

/// The warning about entries, as [`Cache::named`] names them, that were damaged.
pub fn damage(entries: &[String]) -> String {
    /// Entries that are named.
    const NAMED: usize = 3;
    let named = entries.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match entries.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let what = match entries {
        [_] => "an entry of the cache is damaged and is made again".to_owned(),
        all => format!("{} entries of the cache are damaged and are made again", all.len()),
    };
    format!("{what}: {named}{more}")
}

/// The digest of a tensor: type and values.
pub fn digest(tensor: &Tensor) -> String {
    hex(Sha256::new().chain_update(tensor.ty().to_string()).chain_update(tensor.bytes()))
}

/// The digest so far as lower-case hex.
pub fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(values: &[f32]) -> Entry {
        let value = Tensor::from_f32([values.len()], values).unwrap();
        Entry { value, source: [64, 32] }
    }

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("a/b")).unwrap();
        (folder, cache)
    }

    #[test]
    fn what_was_stored_is_found_again_by_what_it_depends_on() {
        let (_folder, cache) = cache();
        let parts = json!({"media": "aa", "start": 3});
        let key = Cache::key(&parts);
        assert!(matches!(cache.find(&key).unwrap(), Found::Nothing));
        cache.store(&parts, &entry(&[1.0, 2.0])).unwrap();
        let Found::Entry(found) = cache.find(&key).unwrap() else { panic!() };
        assert_eq!((found.value, found.source), (entry(&[1.0, 2.0]).value, [64, 32]));
        assert_ne!(key, Cache::key(&json!({"media": "aa", "start": 4})));
        // What it was made of is told to other programs.
        let file = Checkpoint::open(cache.path(&key)).unwrap();
        let told: Value = serde_json::from_str(&file.metadata()[SOURCE]).unwrap();
        assert_eq!(told, parts);
    }

    #[test]
    fn an_entry_under_the_name_of_another_is_damage() {
        let (_folder, cache) = cache();
        let [one, other] = ["one", "other"].map(|name| json!({"media": name}));
        cache.store(&one, &entry(&[1.0])).unwrap();
        let other = Cache::key(&other);
        std::fs::copy(cache.path(&Cache::key(&one)), cache.path(&other)).unwrap();
        assert!(matches!(cache.find(&other).unwrap(), Found::Damaged));
        assert_eq!(cache.value(&other, "sample a").unwrap_err().code(), "E0960");
    }

    #[test]
    fn damage_is_noticed_whenever_an_entry_is_read() {
        let (_folder, cache) = cache();
        let parts = json!("k");
        let key = Cache::key(&parts);
        cache.store(&parts, &entry(&[1.0, 2.0, 3.0, 4.0])).unwrap();
        let path = cache.path(&key);
        let sound = std::fs::read(&path).unwrap();
        let mut flipped = sound.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [&flipped[..], &sound[..sound.len() - 4], &sound[..10], b""] {
            std::fs::write(&path, damaged).unwrap();
            assert!(matches!(cache.find(&key).unwrap(), Found::Damaged));
            let error = cache.value(&key, "sample s_1").unwrap_err();
            assert_eq!(error.code(), "E0960");
            assert_eq!(error.message(), "what was encoded of sample s_1 is damaged");
        }
        std::fs::remove_file(&path).unwrap();
        let error = cache.value(&key, "sample s_1").unwrap_err();
        assert_eq!(error.message(), "what was encoded of sample s_1 is gone");
        std::fs::write(&path, &sound).unwrap();
        assert_eq!(cache.value(&key, "").unwrap().shape(), [4]);
    }

    #[test]
    fn what_has_the_name_of_an_entry_and_is_none_is_refused() {
        let (_folder, cache) = cache();
        let parts = json!("k");
        let key = Cache::key(&parts);
        let path = cache.path(&key);
        let refused = |code: &str, said: &str| {
            for error in [cache.find(&key).unwrap_err(), cache.value(&key, "x").unwrap_err()] {
                assert_eq!(error.code(), code, "{error}");
                assert!(error.message().contains(said), "{error}");
                assert_eq!(error.place(), Some(path.display().to_string().as_str()));
                assert!(error.help_text().unwrap().contains("made again"), "{error}");
            }
        };
        std::fs::create_dir(&path).unwrap();
        refused("E1014", "a folder has the name of an entry");
        std::fs::remove_dir(&path).unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("/dev/null", &path).unwrap();
            refused("E1014", "something that is no file");
            std::fs::remove_file(&path).unwrap();
            // A link to itself cannot be followed by anybody.
            std::os::unix::fs::symlink(&path, &path).unwrap();
            refused("E0911", "cannot be read");
            std::fs::remove_file(&path).unwrap();
        }
        cache.store(&parts, &entry(&[1.0])).unwrap();
        assert_eq!(cache.value(&key, "x").unwrap().shape(), [1]);
    }

    #[test]
    fn all_that_is_in_the_way_is_listed_at_once() {
        let (_folder, cache) = cache();
        let keys: Vec<String> = (0..3).map(|at| Cache::key(&json!(at))).collect();
        assert!(keys.iter().all(|key| cache.blocked(key).is_none()));
        keys.iter().for_each(|key| std::fs::create_dir(cache.path(key)).unwrap());
        let blocked: Vec<PathBuf> = keys.iter().filter_map(|key| cache.blocked(key)).collect();
        let error = cache.refuse(&blocked).unwrap_err();
        assert_eq!(error.code(), "E1014");
        assert!(error.message().starts_with("3 folders have names of entries"), "{error}");
        blocked.iter().for_each(|path| assert!(error.message().contains(path.to_str().unwrap())));
        cache.refuse(&[]).unwrap();
    }

    #[test]
    fn damage_is_told_with_the_first_entries() {
        let named = |count: usize| (0..count).map(|at| format!("e{at}")).collect::<Vec<_>>();
        assert_eq!(damage(&named(1)), "an entry of the cache is damaged and is made again: e0");
        let said = damage(&named(5));
        assert!(said.starts_with("5 entries of the cache are damaged"), "{said}");
        assert!(said.ends_with(": e0, e1, e2 and 2 more"), "{said}");
    }

    #[test]
    fn values_that_are_not_finite_are_named() {
        let (_folder, cache) = cache();
        cache.store(&json!("k"), &entry(&[1.0, f32::NAN])).unwrap();
        let error = cache.value(&Cache::key(&json!("k")), "sample s_1").unwrap_err();
        assert_eq!(error.code(), "E1001");
        assert!(error.message().contains("sample s_1, element 1"), "{error}");
    }
}
