//! A checkpoint in several files: the index that says which tensor is in which, and the set of all.
//!
//! An index is read strictly: a repeated name or a path in place of a file name is refused, and the
//! shards have to agree with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::first_ten;
use super::set::WeightSet;
use crate::error::{Error, Result};
use crate::input::read_text;

impl WeightSet {
    /// Opens the shards named by a `*.safetensors.index.json`, in order of their names.
    ///
    /// The index and the shards must agree on where each tensor is. A tensor that the index does
    /// not list, or a `metadata.total_size` that does not fit, gives a warning. Errors: E0324 for
    /// a bad index, E0325 a shard name that is no plain file name, E0326 missing shards, E0327 a
    /// listed tensor that is not where the index says, E0328 a tensor in two shards.
    pub fn open_index(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let index = Index::read(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let names: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
        let shards: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
        let missing: Vec<&str> = names
            .iter()
            .zip(&shards)
            .filter(|(_, shard)| matches!(shard.try_exists(), Ok(false)))
            .map(|(name, _)| *name)
            .collect();
        if !missing.is_empty() {
            return Err(Error::input(
                "E0326",
                format!(
                    "{} of {} shards are missing: {}",
                    missing.len(),
                    names.len(),
                    first_ten(&missing)
                ),
            )
            .at(path.display())
            .help("fetch the missing files into the folder of the index"));
        }
        let mut set = Self::open_files(&shards)?;
        let shard_names: Vec<&str> = names.into_iter().collect();
        let mut misplaced = Vec::new();
        for (name, shard) in &index.weight_map {
            match set.tensor(name).map(|weight| shard_names[weight.file()]) {
                None => misplaced.push(format!("`{name}` is not in {shard}")),
                Some(found) if found != shard => {
                    misplaced.push(format!("`{name}` is in {found}, not in {shard}"));
                }
                Some(_) => {}
            }
        }
        if !misplaced.is_empty() {
            return Err(Error::input(
                "E0327",
                format!("the index and the shards disagree: {}", first_ten(&misplaced)),
            )
            .at(path.display())
            .help("index and shards come from different versions: fetch all of them again"));
        }
        set.note_differences(path, &index);
        Ok(set)
    }

    fn note_differences(&mut self, path: &Path, index: &Index) {
        let unlisted: Vec<&str> =
            self.names().filter(|name| !index.weight_map.contains_key(*name)).collect();
        if !unlisted.is_empty() {
            let note = format!("{}: not listed: {}", path.display(), first_ten(&unlisted));
            self.warnings.push(note);
        }
        let total = self.total_bytes();
        if let Some(stated) = index.total_bytes()
            && stated != total as f64
        {
            self.warnings.push(format!(
                "{}: metadata.total_size is {stated}, the tensors take {total} bytes",
                path.display()
            ));
        }
    }
}

/// An `*.index.json`.
#[derive(Deserialize)]
struct Index {
    #[serde(deserialize_with = "unique_strings")]
    weight_map: BTreeMap<String, String>,
    #[serde(default)]
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Index {
    fn read(path: &Path) -> Result<Self> {
        let bad = |message: String| {
            Error::input("E0324", message)
                .at(path.display())
                .help("an index holds {\"weight_map\": {TENSOR: SHARD, …}}: fetch it again")
        };
        let text = read_text(path, MAX_INDEX_BYTES, "E0310", "E0324")?;
        let index: Self = serde_json::from_str(&text)
            .map_err(|fault| bad(format!("not a usable weight index: {fault}")))?;
        if index.weight_map.is_empty() {
            return Err(bad("the index lists no tensors".to_owned()));
        }
        for (tensor, shard) in &index.weight_map {
            if !is_plain_file_name(shard) {
                return Err(Error::input(
                    "E0325",
                    format!("tensor `{tensor}` is said to be in `{shard}`, not a plain file name"),
                )
                .at(path.display())
                .help("shards lie beside their index; a path in it is a fault or an attack"));
            }
        }
        Ok(index)
    }

    /// The bytes that all tensors take together, if it states them.
    fn total_bytes(&self) -> Option<f64> {
        self.metadata.as_ref()?.get("total_size")?.as_f64()
    }
}

/// Far above any real index, which names a few thousand tensors.
const MAX_INDEX_BYTES: u64 = 64 << 20;

fn is_plain_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0'])
}

/// A map of strings in which a repeated key is an error instead of being overwritten.
fn unique_strings<'de, D: serde::Deserializer<'de>>(
    reader: D,
) -> std::result::Result<BTreeMap<String, String>, D::Error> {
    struct Unique;
    impl<'de> Visitor<'de> for Unique {
        type Value = BTreeMap<String, String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object that maps tensor names to file names")
        }
        fn visit_map<A: MapAccess<'de>>(
            self,
            mut map: A,
        ) -> std::result::Result<Self::Value, A::Error> {
            let mut found = BTreeMap::new();
            while let Some((key, value)) = map.next_entry::<String, String>()? {
                if found.contains_key(&key) {
                    let message = format!("tensor `{key}` is listed twice");
                    return Err(serde::de::Error::custom(message));
                }
                found.insert(key, value);
            }
            Ok(found)
        }
    }
    reader.deserialize_map(Unique)
}
