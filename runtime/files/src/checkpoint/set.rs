//! One or several checkpoint files as one map from names to tensors.
//!
//! Contract: every name occurs once; names keep file order, then offset order; the files stay
//! open as long as any set made of them lives. Other sets follow from a set (other names, a
//! selection, weights made of several tensors) without touching data, and a set can be compared with
//! a model's manifest before anything is read. It does not know prefixes or dialects: the caller
//! says how the tensors of one set follow from those of another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use anyid_ir::memory;
use sha2::{Digest, Sha256};

use super::computed::room;
use super::derivation::Derivation;
use super::digest::hex;
use super::encoding::Encoding;
use super::file::Checkpoint;
use super::first_ten;
use super::format::Format;
use super::weight::Weight;
use crate::error::{Error, Result};
use crate::input::head;

/// Named tensors of one component, from one or several files. Cloning copies names, not data.
#[derive(Clone, Debug, Default)]
pub struct WeightSet {
    pub(super) files: Vec<Arc<Checkpoint>>,
    entries: Vec<(String, Weight)>,
    by_name: HashMap<String, usize>,
    pub(super) warnings: Vec<String>,
}

impl WeightSet {
    /// Opens a checkpoint, or the shards that an index in JSON names.
    ///
    /// Errors: as [`WeightSet::open_index`] for JSON, else as [`Checkpoint::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // What cannot be read here is an error when it is opened.
        let head = head(path, 256).unwrap_or_default();
        let bytes = path.metadata().map_or(0, |about| about.len());
        let text = head.trim_ascii_start();
        let json = text.starts_with(b"{") || text.starts_with("\u{feff}{".as_bytes());
        let named = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("json"));
        match named || json && !Format::is_likely(&head, bytes) {
            true => Self::open_index(path),
            false => Self::open_files(&[path]),
        }
    }

    /// Opens several files as one set. Errors: E0328 for a name in two of them, or as
    /// [`Checkpoint::open`].
    pub fn open_files(paths: &[impl AsRef<Path>]) -> Result<Self> {
        let files: Result<Vec<Checkpoint>> = paths.iter().map(Checkpoint::open).collect();
        Self::from_checkpoints(files?)
    }

    /// Joins open files into one set. Errors: E0328 for a name in two of them.
    pub fn from_checkpoints(files: Vec<Checkpoint>) -> Result<Self> {
        files.into_iter().try_fold(Self::default(), |set, file| set.joined(&Self::of(file)))
    }

    /// The tensors of one file.
    fn of(file: Checkpoint) -> Self {
        let tensors = file.table().tensors().iter().enumerate();
        let entries: Vec<(String, Weight)> = tensors
            .map(|(position, tensor)| (tensor.name.clone(), Weight::stored(tensor, position)))
            .collect();
        Self {
            by_name: positions(&entries),
            entries,
            files: vec![Arc::new(file)],
            ..Self::default()
        }
    }

    /// The weights of this set and then those of `other`, such as a model's and an adapter's.
    ///
    /// Errors: E0328 for a name in both.
    pub fn joined(mut self, other: &Self) -> Result<Self> {
        let earlier = self.files.len();
        self.files.extend(other.files.iter().cloned());
        self.warnings.extend(other.warnings.iter().cloned());
        for (name, weight) in &other.entries {
            let path = |weight: &Weight| self.files[weight.file()].path().display();
            let mut weight = weight.clone();
            weight.shift(earlier);
            if let Some(first) = self.tensor(name) {
                let message =
                    format!("tensor `{name}` is in two files, the other is {}", path(first));
                return Err(Error::input("E0328", message)
                    .at(path(&weight))
                    .help("pass each shard once, and shards of one model only"));
            }
            self.by_name.insert(name.clone(), self.entries.len());
            self.entries.push((name.clone(), weight));
        }
        Ok(self)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the set holds no tensor.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Names in file order, as renamed.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// The weight of this name.
    pub fn tensor(&self, name: &str) -> Option<&Weight> {
        self.by_name.get(name).map(|&at| &self.entries[at].1)
    }

    /// Names and weights in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Weight)> {
        self.entries.iter().map(|(name, weight)| (name.as_str(), weight))
    }

    /// The files, in order. Their metadata is read through them.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Checkpoint> {
        self.files.iter().map(Arc::as_ref)
    }

    /// Bytes of all tensors of the set.
    pub fn total_bytes(&self) -> u64 {
        self.entries.iter().fold(0, |sum, (_, weight)| sum.saturating_add(weight.bytes))
    }

    /// Bytes of each encoding, in order of [`Encoding`].
    pub fn bytes_by_encoding(&self) -> BTreeMap<Encoding, u64> {
        let mut sums = BTreeMap::new();
        for (_, weight) in &self.entries {
            let sum: &mut u64 = sums.entry(weight.encoding).or_default();
            *sum = sum.saturating_add(weight.bytes);
        }
        sums
    }

    /// Bytes that the tensors take in their files, which the weights are made of, by encoding and in
    /// its order. A tensor that several weights are made of counts once.
    pub fn stored_bytes_by_encoding(&self) -> BTreeMap<Encoding, u64> {
        let leaves: BTreeSet<(usize, usize)> =
            self.entries.iter().flat_map(|(_, weight)| weight.leaves()).collect();
        let mut sums = BTreeMap::new();
        for (file, position) in leaves {
            let tensor = &self.files[file].table().tensors()[position];
            let sum: &mut u64 = sums.entry(tensor.encoding).or_default();
            *sum = sum.saturating_add(tensor.bytes);
        }
        sums
    }

    /// Whether a weight is made of values of eight bits or fewer, which no other type holds exactly
    /// in as few.
    pub fn is_quantised(&self, name: &str) -> bool {
        let narrow = |(file, position): &(usize, usize)| {
            let encoding = self.files[*file].table().tensors()[*position].encoding;
            encoding.is_narrow() && encoding != Encoding::Bf16
        };
        self.tensor(name).is_some_and(|weight| weight.leaves().iter().any(narrow))
    }

    /// What was odd but not wrong when the set was opened.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Fills `out` with bytes of the weight of this name, `from` bytes behind its first. Of a weight
    /// that is made of several tensors both are whole elements.
    ///
    /// Errors: E0301 without such a weight, E0330 to E0332 as [`Checkpoint::read`], E0603 where there
    /// is no memory to make it.
    ///
    /// # Panics
    /// If the range ends behind the weight.
    pub fn read(&self, name: &str, from: u64, out: &mut [u8]) -> Result<()> {
        self.found(name)?.read(&self.files, from, out)
    }

    /// As [`WeightSet::read`], with every element as f32, little-endian: `first` is an element.
    ///
    /// Errors: as [`WeightSet::read`], and E0321 for integers.
    ///
    /// # Panics
    /// If the range ends behind the weight.
    pub fn read_f32(&self, name: &str, first: u64, out: &mut [u8]) -> Result<()> {
        self.found(name)?.read_as(Encoding::F32, &self.files, first, out)
    }

    /// All bytes of the weight of this name: for small ones.
    ///
    /// Errors: as [`WeightSet::read`], and E0603 where there is no memory for them.
    pub fn contents(&self, name: &str) -> Result<Vec<u8>> {
        let weight = self.found(name)?;
        let room = usize::try_from(weight.bytes).ok().and_then(memory::zeroed);
        let mut bytes = room.ok_or_else(|| {
            Error::no_memory(weight.bytes, &format!("weight `{name}`")).at(self.place())
        })?;
        weight.read(&self.files, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// The values of the weight of this name: for small ones.
    ///
    /// Errors: as [`WeightSet::read_f32`], and E0603 where there is no memory for them.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let weight = self.found(name)?;
        let mut values = room(weight.elements())?;
        weight.values(&self.files, 0, &mut values)?;
        Ok(values)
    }

    fn found(&self, name: &str) -> Result<&Weight> {
        self.tensor(name).ok_or_else(|| {
            Error::input("E0301", format!("there is no weight \"{name}\""))
                .at(self.place())
                .help("give the checkpoint that holds it")
        })
    }

    /// Where a weight is stored and under which name, or what it is made of, in words for a message.
    pub fn origin(&self, name: &str) -> Option<String> {
        self.tensor(name).map(|weight| weight.origin(&self.files))
    }

    /// One digest for all files: SHA-256 over their [`Checkpoint::fingerprint`]s (as hex text) in
    /// order. It covers the files, whatever was selected or renamed.
    ///
    /// Errors: E0330 to E0332 as [`Checkpoint::read`].
    pub fn fingerprint(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        for file in &self.files {
            hasher.update(file.fingerprint()?);
        }
        Ok(hex(hasher))
    }

    /// Other weights that are made of those of this set, and no others.
    ///
    /// Errors: E0329 for two of one name; E0301, E0303, E0304 and E0316 for a derivation that these
    /// weights do not allow (see [`Derivation`]).
    pub fn derived(&self, weights: impl IntoIterator<Item = (String, Derivation)>) -> Result<Self> {
        let mut by_name: HashMap<String, usize> = HashMap::new();
        let mut entries: Vec<(String, Weight)> = Vec::new();
        for (name, derivation) in weights {
            let weight = derivation
                .resolve(&|name| self.tensor(name))
                .map_err(|error| error.at(self.place()))?;
            if let Some(other) = by_name.insert(name.clone(), entries.len()) {
                return Err(Error::input(
                    "E0329",
                    format!(
                        "{} and {} both stand for `{name}`",
                        entries[other].1.made_of(&self.files),
                        weight.made_of(&self.files)
                    ),
                )
                .at(self.place())
                .help("the file mixes two ways of naming tensors: keep one of the two"));
            }
            entries.push((name, weight));
        }
        Ok(Self { files: self.files.clone(), entries, by_name, warnings: self.warnings.clone() })
    }

    /// The same weights under other names: `new_name(current)`, or unchanged where it is `None`.
    ///
    /// Errors: E0329 when two of them end up with one name.
    pub fn renamed(&self, new_name: impl Fn(&str) -> Option<String>) -> Result<Self> {
        self.derived(self.names().map(|name| {
            (new_name(name).unwrap_or_else(|| name.to_owned()), Derivation::tensor(name))
        }))
    }

    /// The weights whose name passes `keep`.
    #[must_use]
    pub fn selected(&self, keep: impl Fn(&str) -> bool) -> Self {
        let entries: Vec<(String, Weight)> =
            self.entries.iter().filter(|(name, _)| keep(name)).cloned().collect();
        let by_name = positions(&entries);
        Self { files: self.files.clone(), entries, by_name, warnings: self.warnings.clone() }
    }

    /// Compares with the names and shapes that a model expects, before any data are read.
    ///
    /// Errors, the first that applies: E0301 tensors missing, E0302 tensors left over, E0303
    /// shapes that differ, E0304 integers where floats are expected. Each lists the first ten in
    /// manifest order (left-over ones in file order) and says how many there are.
    pub fn require(&self, expected: &[(String, Vec<u64>)]) -> Result<()> {
        self.require_spelled(expected, &str::to_owned)
    }

    /// [`Self::require`], with missing tensors named as `spell` writes them: in the naming of the
    /// file, which is what its owner can look for.
    ///
    /// # Errors
    /// As [`Self::require`].
    pub fn require_spelled(
        &self,
        expected: &[(String, Vec<u64>)],
        spell: &dyn Fn(&str) -> String,
    ) -> Result<()> {
        let known: HashMap<&str, ()> =
            expected.iter().map(|(name, _)| (name.as_str(), ())).collect();
        let extra: Vec<&(String, Weight)> =
            self.entries.iter().filter(|(name, _)| !known.contains_key(name.as_str())).collect();
        let mut missing = Vec::new();
        let mut misshapen = Vec::new();
        let mut integers = Vec::new();
        for (name, shape) in expected {
            let Some(weight) = self.tensor(name) else {
                missing.push((name.as_str(), shape));
                continue;
            };
            let label = self.label(name, weight);
            if weight.shape != *shape {
                misshapen.push(format!("{label} has {:?}, expected {shape:?}", weight.shape));
            } else if !weight.encoding.is_float() {
                integers.push(format!("{label} is {}", weight.encoding));
            }
        }
        let place = self.place();
        if !missing.is_empty() {
            let list: Vec<String> = missing
                .iter()
                .map(|(name, shape)| format!("`{}` {shape:?}", spell(name)))
                .collect();
            let mut message = format!("{} of {} tensors missing: ", list.len(), expected.len())
                + &first_ten(&list);
            if !extra.is_empty() {
                message += &format!("; {} others are not expected", extra.len());
            }
            return Err(Error::input("E0301", message)
                .at(place)
                .help(missing_help(missing[0].0, &extra)));
        }
        if !extra.is_empty() {
            let list: Vec<String> = extra
                .iter()
                .map(|(name, weight)| format!("{} {:?}", self.label(name, weight), weight.shape))
                .collect();
            return Err(Error::input(
                "E0302",
                format!("{} not expected by the model: ", tensors(list.len())) + &first_ten(&list),
            )
            .at(place)
            .help("the file is for another model or configuration, or holds more than one model"));
        }
        if !misshapen.is_empty() {
            return Err(Error::input(
                "E0303",
                format!("{} of another shape: ", tensors(misshapen.len())) + &first_ten(&misshapen),
            )
            .at(place)
            .help("the weights and the configuration are of different models: check config.json"));
        }
        if !integers.is_empty() {
            return Err(Error::input(
                "E0304",
                format!("{} not floating-point: ", tensors(integers.len())) + &first_ten(&integers),
            )
            .at(place)
            .help(
                "the file may be quantised in a way that is not read: take another version of it",
            ));
        }
        Ok(())
    }

    /// The name for messages, with the stored one where they differ.
    fn label(&self, name: &str, weight: &Weight) -> String {
        let stored = weight.made_of(&self.files);
        match stored == format!("`{name}`") {
            true => stored,
            false => format!("`{name}` (stored as {stored})"),
        }
    }

    pub(super) fn place(&self) -> String {
        match self.files.as_slice() {
            [] => "no file".to_owned(),
            [one] => one.path().display().to_string(),
            [first, rest @ ..] => {
                format!("{} and {} more", first.path().display(), rest.len())
            }
        }
    }
}

fn positions(entries: &[(String, Weight)]) -> HashMap<String, usize> {
    entries.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect()
}

fn tensors(count: usize) -> String {
    if count == 1 { "1 tensor is".to_owned() } else { format!("{count} tensors are") }
}

/// Points at a common prefix when the missing name is there behind one.
fn missing_help(missing: &str, extra: &[&(String, Weight)]) -> String {
    let prefixed = extra.iter().find_map(|(name, _)| {
        let prefix = name.strip_suffix(missing)?;
        prefix.ends_with('.').then(|| format!("the file's names carry the prefix `{prefix}`"))
    });
    prefixed.unwrap_or_else(|| {
        "the file is incomplete, or for another model or configuration than config.json says".into()
    })
}

#[cfg(test)]
mod tests {
    use super::super::writer::save;
    use super::*;
    use crate::testing::{TempFolder, fixtures};
    use std::path::PathBuf;

    /// A file of f32 tensors named after their sizes' list.
    fn shard(folder: &TempFolder, file: &str, tensors: &[(&str, &[u64])]) -> PathBuf {
        let path = folder.path().join(file);
        let data = [0u8; 4096];
        let list: Vec<(&str, Encoding, &[u64], &[u8])> = tensors
            .iter()
            .map(|(name, shape)| {
                let bytes = 4 * shape.iter().product::<u64>() as usize;
                (*name, Encoding::F32, *shape, &data[..bytes])
            })
            .collect();
        save(&path, &list, &BTreeMap::new()).unwrap();
        path
    }

    fn index(folder: &TempFolder, text: &str) -> Result<WeightSet> {
        WeightSet::open(folder.write("model.safetensors.index.json", text))
    }

    fn refused<T>(result: Result<T>, code: &str, word: &str) {
        let error = result.map(|_| ()).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(word), "{error}");
        assert!(error.place().is_some() && error.help_text().is_some(), "{error}");
    }

    #[test]
    fn joins_the_shards_of_an_index() {
        let folder = TempFolder::new();
        shard(&folder, "b.safetensors", &[("z", &[2])]);
        shard(&folder, "a.safetensors", &[("y", &[3]), ("x", &[])]);
        let text = r#"{"metadata":{"total_size":24},
            "weight_map":{"z":"b.safetensors","x":"a.safetensors","y":"a.safetensors"}}"#;
        let set = index(&folder, text).unwrap();
        assert_eq!(set.names().collect::<Vec<_>>(), ["y", "x", "z"]);
        assert_eq!(set.warnings(), [""; 0]);
        assert_eq!((set.len(), set.total_bytes(), set.files().len()), (3, 24, 2));
        assert_eq!(set.tensor("z").unwrap().shape, [2]);
        assert!(set.origin("z").unwrap().ends_with("b.safetensors"));
        assert_eq!(set.bytes_by_encoding()[&Encoding::F32], 24);
        assert_eq!(set.fingerprint().unwrap().len(), 64);
        assert_eq!(set.contents("z").unwrap(), [0; 8]);
        let mut piece = [1; 4];
        set.read("y", 8, &mut piece).unwrap();
        assert_eq!(piece, [0; 4]);
        refused(set.contents("none"), "E0301", "none");
        let odd = r#"{"metadata":{"total_size":25},"weight_map":{"z":"b.safetensors",
            "x":"a.safetensors"}}"#;
        let set = index(&folder, odd).unwrap();
        assert_eq!(set.warnings().len(), 2, "{:?}", set.warnings());
        assert!(set.tensor("y").is_some());
    }

    #[test]
    fn refuses_bad_indexes_and_shards() {
        let folder = TempFolder::new();
        shard(&folder, "a.safetensors", &[("x", &[1])]);
        shard(&folder, "b.safetensors", &[("x", &[1]), ("y", &[1])]);
        shard(&folder, "c.safetensors", &[("z", &[1])]);
        refused(index(&folder, "not json"), "E0324", "index");
        refused(index(&folder, "[]"), "E0324", "index");
        refused(index(&folder, "{}"), "E0324", "weight_map");
        refused(index(&folder, r#"{"weight_map":{}}"#), "E0324", "no tensors");
        refused(index(&folder, r#"{"weight_map":{"x":1}}"#), "E0324", "string");
        let twice = r#"{"weight_map":{"x":"a.safetensors","x":"c.safetensors"}}"#;
        refused(index(&folder, twice), "E0324", "twice");
        let deep = format!(r#"{{"weight_map":{}"#, "[".repeat(1_000_000));
        refused(index(&folder, &deep), "E0324", "index");
        for name in ["../a.safetensors", "/etc/passwd", "..", "", "sub/a", "sub\\\\a"] {
            let text = format!(r#"{{"weight_map":{{"x":"{name}"}}}}"#);
            refused(index(&folder, &text), "E0325", "plain file name");
        }
        let missing = r#"{"weight_map":{"x":"a.safetensors","q":"gone.safetensors"}}"#;
        refused(index(&folder, missing), "E0326", "gone.safetensors");
        let absent = r#"{"weight_map":{"x":"a.safetensors","q":"c.safetensors"}}"#;
        refused(index(&folder, absent), "E0327", "`q` is not in c.safetensors");
        let moved = r#"{"weight_map":{"x":"c.safetensors","z":"a.safetensors"}}"#;
        refused(index(&folder, moved), "E0327", "`x` is in a.safetensors, not in c");
        let double = r#"{"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}"#;
        refused(index(&folder, double), "E0328", "`x`");
        folder.write("bad.safetensors", b"PK\x03\x04");
        let bad = r#"{"weight_map":{"x":"bad.safetensors"}}"#;
        refused(index(&folder, bad), "E0311", "zip");
        refused(WeightSet::open(folder.path().join("none.json")), "E0310", "exist");
    }

    #[test]
    fn renames_and_selects_without_copying() {
        let folder = TempFolder::new();
        let path = shard(&folder, "a.safetensors", &[("norm2", &[1]), ("norm3", &[2]), ("k", &[])]);
        let set = WeightSet::open(&path).unwrap();
        let swapped = set
            .renamed(|name| match name {
                "norm2" => Some("norm3".into()),
                "norm3" => Some("norm2".into()),
                _ => None,
            })
            .unwrap();
        assert_eq!(swapped.tensor("norm3").unwrap().shape, [1]);
        assert_eq!(swapped.origin("norm3"), Some(format!("\"norm2\" of {}", path.display())));
        assert_eq!(swapped.origin("k"), Some(format!("\"k\" of {}", path.display())));
        assert_eq!(swapped.tensor("norm3"), set.tensor("norm2"));
        let again = swapped.renamed(|name| name.strip_prefix("nor").map(str::to_owned)).unwrap();
        assert_eq!(again.origin("m3"), swapped.origin("norm3"), "renamings follow one another");
        refused(set.renamed(|_| Some("one".into())), "E0329", "`norm2` and `norm3`");
        let few = swapped.selected(|name| name != "norm3");
        assert_eq!(few.len(), 2);
        assert!(few.tensor("norm3").is_none() && few.tensor("norm2").is_some());
        drop((set, swapped));
        assert_eq!(few.contents("norm2").unwrap(), [0; 8], "the file outlives other selections");
    }

    #[test]
    fn requires_the_manifest_exactly() {
        let folder = TempFolder::new();
        let path = shard(&folder, "a.safetensors", &[("m.w", &[2, 3]), ("m.b", &[2])]);
        let set = WeightSet::open(&path).unwrap();
        let manifest = |list: &[(&str, &[u64])]| -> Vec<(String, Vec<u64>)> {
            list.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
        };
        set.require(&manifest(&[("m.b", &[2]), ("m.w", &[2, 3])])).unwrap();
        let check = |list: &[(&str, &[u64])], code: &str, words: &[&str]| {
            let error = set.require(&manifest(list)).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            words.iter().for_each(|word| assert!(error.to_string().contains(word), "{error}"));
        };
        check(&[("m.w", &[2, 3]), ("m.b", &[2]), ("m.c", &[7])], "E0301", &["`m.c` [7]"]);
        check(&[("w", &[2, 3]), ("b", &[2])], "E0301", &["prefix `m.`", "2 of 2", "2 others"]);
        check(&[("m.w", &[2, 3])], "E0302", &["`m.b` [2]"]);
        check(&[("m.w", &[3, 2]), ("m.b", &[2])], "E0303", &["has [2, 3], expected [3, 2]"]);
        let many: Vec<(String, Vec<u64>)> = (0..25).map(|i| (format!("t{i}"), vec![i])).collect();
        let error = set.require(&many).unwrap_err();
        assert!(error.message().contains("`t9` [9], … (25 in all)"), "{error}");
        assert!(!error.message().contains("`t10`"), "{error}");
        let ints = folder.path().join("i.safetensors");
        save(&ints, &[("q", Encoding::I8, &[2], &[0, 0])], &BTreeMap::new()).unwrap();
        let set = WeightSet::open(&ints).unwrap();
        let renamed = set.renamed(|_| Some("w".into())).unwrap();
        let error = renamed.require(&manifest(&[("w", &[2])])).unwrap_err();
        assert_eq!(error.code(), "E0304");
        assert!(error.message().contains("`w` (stored as `q`) is I8"), "{error}");
    }

    #[test]
    fn opens_a_fixture() {
        let path = fixtures().join("dit/base/diffusion_pytorch_model.safetensors");
        let set = WeightSet::open(&path).unwrap();
        assert_eq!(set.tensor("patch_embedding.weight").unwrap().shape, [128, 48, 1, 2, 2]);
        let manifest: Vec<(String, Vec<u64>)> =
            set.iter().map(|(name, view)| (name.to_owned(), view.shape.to_vec())).collect();
        set.require(&manifest).unwrap();
        assert_eq!(set.require(&manifest[1..]).unwrap_err().code(), "E0302");
    }
}
