//! The index of a checkpoint in several files: which tensor is in which.
//!
//! It is strict about what it takes (a repeated name, a path in place of a file name), and opens no
//! shard.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use crate::error::{Error, Result};
use crate::input::read_text;

/// An `*.index.json`.
#[derive(Deserialize)]
pub(super) struct Index {
    #[serde(deserialize_with = "unique_strings")]
    pub(super) weight_map: BTreeMap<String, String>,
    #[serde(default)]
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Index {
    pub(super) fn read(path: &Path) -> Result<Self> {
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
    pub(super) fn total_bytes(&self) -> Option<f64> {
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
