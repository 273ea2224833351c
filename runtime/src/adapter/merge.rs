//! A model with adapters merged into it: a whole folder, or one checkpoint file.
//!
//! Contract: weights are computed and written a piece at a time, so memory is bounded whatever the
//! size of the model; the result appears whole or not at all; everything that was written is read
//! back and compared by digest before it gets its name. Names, encodings and order of the tensors
//! are those of the base. What the adapters do not change is copied.

use super::{Adapter, Ground, Modules, Part, modules_of};
use crate::checkpoint::{
    Derivation, Encoding, Layout, ModelFolder, SafetensorsWriter, TensorSpec, WeightFiles,
    WeightSet, write_error, write_sharded,
};
use crate::error::{Error, Result};
use crate::files::{AtomicFile, AtomicFolder, Existing};
use crate::weights::ModelWeights;
use anyid_files::adapter::applied;
use anyid_models::wan::names::{self, Component};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// How [`merge`] gets the adapters, given the modules of the transformer and what it is.
pub type OpenAdapters<'a> = dyn FnMut(&Modules, &Ground) -> Result<Vec<(Adapter, f64)>> + 'a;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The folder or file.
    pub path: PathBuf,
    /// Tensors of the transformer that an adapter changed.
    pub changed: usize,
    /// Bytes of the transformer.
    pub bytes: u64,
}

/// Largest shard, in bytes; the reference library uses the same.
const SHARD_BYTES: u64 = 5_000_000_000;
/// Bytes computed at a time.
const PIECE: u64 = 16 << 20;

/// What a folder gets beside the weights that are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// All that lies in the folder of the base.
    Everything,
    /// The files of the model alone.
    Model,
}

/// Opens the adapters for the transformer of `base` (a model folder, a checkpoint file, or the
/// index of its shards) by `open`, and writes the merged model to `output`: a folder for a folder,
/// a file for a file. `progress` gets the bytes done and in total.
///
/// # Errors
/// E0307 where there is no transformer in `base`, E0374 where nothing is to be merged, E0376 where
/// what was written reads back as something else, E0379 for weights that are not finite with the
/// adapters; those of reading models and adapters; E101x where it cannot be written.
pub fn merge(
    base: &Path,
    open: &mut OpenAdapters<'_>,
    (output, existing, beside): (&Path, Existing, Beside),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Merged> {
    if !base.is_dir() {
        let merged = Transformer::open(WeightSet::open(base)?, open)?;
        let mut file = AtomicFile::create_as(output, existing)?;
        file = merged.write_file(file, progress)?;
        let path = file.commit()?;
        return Ok(merged.report(path));
    }
    let folder = ModelFolder::open(base)?;
    let (files, stem, inside) = match &folder.layout {
        Layout::Diffusers(files) => {
            (&files.transformer.weights, "diffusion_pytorch_model", "transformer")
        }
        Layout::Original(files) => (&files.transformer, "diffusion_pytorch_model", ""),
    };
    let merged = Transformer::open(files.open()?, open)?;
    let made = AtomicFolder::create(output, existing)?;
    let target = made.temporary_path();
    let left_out = weight_files(base, inside, files)?;
    let copied = match beside {
        Beside::Everything => copy_folder(base, target, &left_out),
        Beside::Model => copy_model(&folder, target, &left_out),
    };
    let written = copied.and_then(|()| merged.write_folder(&target.join(inside), stem, progress));
    // The folder gets its name when it is complete; users know it by that.
    written.map_err(|error| {
        match error.place().map(|place| Path::new(place).strip_prefix(target)) {
            Some(Ok(within)) => {
                let place = output.join(within);
                error.placed(place.display())
            }
            _ => error,
        }
    })?;
    let path = made.commit()?;
    Ok(merged.report(path))
}

/// A transformer with adapters in it, under the names of its files.
struct Transformer {
    set: WeightSet,
    changed: usize,
    header: BTreeMap<String, String>,
}

impl Transformer {
    fn open(stored: WeightSet, open: &mut OpenAdapters<'_>) -> Result<Self> {
        let weights = ModelWeights::recognise(&stored, Component::Dit)?;
        let ground = Ground::of(&weights)?;
        let adapters = open(&modules_of(weights.set()), &ground)?;
        if adapters.is_empty() {
            return Err(Error::input("E0374", "there is no adapter to be merged")
                .at("--lora")
                .help("name at least one: --lora FILE:SCALE"));
        }
        let list: Vec<(&Adapter, f64)> = adapters.iter().map(|(a, s)| (a, *s)).collect();
        let applied = applied(weights.set(), &list)?;
        // Back to the names of the file, in its order. What described a quantisation has no part in
        // the weights, and quantised ones that safetensors does not hold are written as bf16.
        let set = applied.derived(stored.names().filter_map(|name| {
            let bare = name.strip_prefix(weights.prefix()).unwrap_or(name);
            let canonical = names::to_canonical(Component::Dit, bare);
            let canonical = canonical.unwrap_or_else(|| name.to_owned());
            let weight = applied.tensor(&canonical)?;
            let whole = Derivation::tensor(&canonical);
            let plain = Encoding::from_name(weight.encoding.name()).is_some();
            let scaled = weight.encoding == Encoding::F32 && weights.set().is_quantised(&canonical);
            let written = match plain && !scaled {
                true => whole,
                false => whole.rounded(Encoding::Bf16),
            };
            Some((name.to_owned(), written))
        }))?;
        let changed: BTreeSet<String> = list
            .iter()
            .filter(|(_, scale)| *scale != 0.0)
            .flat_map(|(adapter, _)| adapter.changes.iter().flat_map(|change| change.tensors()))
            .collect();
        let mut header: BTreeMap<String, String> = BTreeMap::new();
        for file in stored.files() {
            header.extend(file.metadata().iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        header.entry("format".to_owned()).or_insert_with(|| "pt".to_owned());
        let mut parts = Vec::new();
        for (adapter, scale) in &list {
            parts.extend(Part::all_of(adapter, *scale)?);
        }
        ground.say_merged(&parts, &mut header);
        Ok(Self { set, changed: changed.len(), header })
    }

    fn report(&self, path: PathBuf) -> Merged {
        Merged { path, changed: self.changed, bytes: self.set.total_bytes() }
    }

    fn specs(&self) -> Vec<TensorSpec> {
        let spec = |(name, weight): (&str, &crate::checkpoint::Weight)| {
            TensorSpec::new(name, weight.encoding, weight.shape.clone())
        };
        self.set.iter().map(spec).collect()
    }

    /// Fills a file and compares what it holds then.
    fn write_file(
        &self,
        file: AtomicFile,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<AtomicFile> {
        let (total, mut done) = (self.set.total_bytes(), 0);
        let specs = self.specs();
        let mut writer = SafetensorsWriter::create_in(file, &specs, &self.header)?;
        let mut digests = BTreeMap::new();
        for spec in &specs {
            let digest = digest(&self.set, &spec.name, &mut |piece| {
                done += piece.len() as u64;
                progress(done, total);
                writer.write(&spec.name, piece)
            })?;
            digests.insert(spec.name.clone(), digest);
        }
        let file = writer.finish_file()?;
        if let Some(temporary) = file.temporary_path() {
            let found = WeightSet::open_files(&[temporary])?;
            compare(&found, &digests).map_err(|error| error.at(file.path().display()))?;
        }
        Ok(file)
    }

    /// Fills shards in a folder and compares what they hold then.
    fn write_folder(
        &self,
        folder: &Path,
        stem: &str,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<()> {
        let (total, mut done) = (self.set.total_bytes(), 0);
        let mut digests = BTreeMap::new();
        let paths =
            write_sharded(folder, stem, &self.specs(), &self.header, SHARD_BYTES, |spec, sink| {
                let digest = digest(&self.set, &spec.name, &mut |piece| {
                    done += piece.len() as u64;
                    progress(done, total);
                    sink.write(piece)
                })?;
                digests.insert(spec.name.clone(), digest);
                Ok(())
            })?;
        // The index comes last, where there is one.
        let found = paths.last().map(WeightSet::open).transpose()?.unwrap_or_default();
        compare(&found, &digests).map_err(|error| error.at(folder.display()))
    }
}

/// Reads a tensor piece by piece and gives its digest.
fn digest(
    set: &WeightSet,
    name: &str,
    put: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Vec<u8>> {
    let bytes = set.tensor(name).map_or(0, |weight| weight.bytes);
    let (mut hasher, mut piece) = (Sha256::new(), Vec::new());
    for from in (0..bytes).step_by(PIECE as usize) {
        piece.resize((bytes - from).min(PIECE) as usize, 0);
        set.read(name, from, &mut piece)?;
        hasher.update(&piece);
        put(&piece)?;
    }
    Ok(hasher.finalize().to_vec())
}

/// Compares tensors with the digests of what was written.
///
/// # Errors
/// E0376 for one that is something else; those of reading.
pub fn compare(found: &WeightSet, digests: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    for (name, expected) in digests {
        let there = found.tensor(name).is_some();
        if !there || digest(found, name, &mut |_| Ok(()))? != *expected {
            return Err(Error::input("E0376", format!("`{name}` reads back as something else"))
                .help(
                    "the disk is failing or the file was changed meanwhile: write it elsewhere",
                ));
        }
    }
    Ok(())
}

/// Files of the model folder `base` that hold weights of the network whose `files` are, with its folder
/// `inside`; all variants. They stay behind where the folder is copied with other weights.
pub fn weight_files(base: &Path, inside: &str, files: &WeightFiles) -> Result<BTreeSet<PathBuf>> {
    let folder = base.join(inside);
    let mut out = BTreeSet::from([files.path().to_owned()]);
    if let WeightFiles::Index(_) = files {
        out.extend(files.open()?.files().map(|file| file.path().to_owned()));
    }
    if !inside.is_empty() {
        let entries = fs::read_dir(&folder).map_err(|fault| unreadable(&folder, fault))?;
        let weights = entries.flatten().map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            [".safetensors", ".bin", ".pth", ".gguf"].iter().any(|end| name.ends_with(end))
                || name.contains(".index.")
        });
        out.extend(weights);
    }
    Ok(out)
}

fn unreadable(path: &Path, fault: std::io::Error) -> Error {
    crate::error::unreadable(path, fault)
}

/// Copies the files of a model without `left_out`, for which there are folders as well.
pub fn copy_model(folder: &ModelFolder, to: &Path, left_out: &BTreeSet<PathBuf>) -> Result<()> {
    for path in &folder.files()? {
        let target = to.join(path.strip_prefix(&folder.root).unwrap_or(path));
        let inner = target.parent().unwrap_or(to);
        fs::create_dir_all(inner).map_err(|fault| write_error(inner, fault))?;
        if !left_out.contains(path) {
            copy_file(path, &target)?;
        }
    }
    Ok(())
}

/// Copies a folder without `left_out` and without what is hidden. Links are followed.
fn copy_folder(from: &Path, to: &Path, left_out: &BTreeSet<PathBuf>) -> Result<()> {
    copy(from, to, left_out, 0)
}

fn copy(from: &Path, to: &Path, left_out: &BTreeSet<PathBuf>, depth: usize) -> Result<()> {
    const DEEPEST: usize = 6;
    let mut entries: Vec<PathBuf> = fs::read_dir(from)
        .map_err(|fault| unreadable(from, fault))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if left_out.contains(&path) || name.to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if depth < DEEPEST {
                fs::create_dir_all(&target).map_err(|fault| write_error(&target, fault))?;
                copy(&path, &target, left_out, depth + 1)?;
            }
        } else if path.is_file() {
            copy_file(&path, &target)?;
        }
    }
    Ok(())
}

/// Copies a file in pieces, so that a full disk is told from a source that cannot be read.
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    use std::io::Read;
    let mut source = fs::File::open(from).map_err(|fault| unreadable(from, fault))?;
    let mut file = AtomicFile::create(to)?;
    let mut piece = vec![0; 1 << 20];
    loop {
        let count = source.read(&mut piece).map_err(|fault| unreadable(from, fault))?;
        if count == 0 {
            break;
        }
        file.append(&piece[..count])?;
    }
    file.commit().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::init;

    #[test]
    fn what_reads_back_as_something_else_is_an_error() {
        let set = |seed| {
            let bytes = init::safetensors_bytes(&[("a".to_owned(), vec![64, 3])], seed);
            let file = Checkpoint::from_bytes(bytes, "a file").unwrap();
            WeightSet::from_checkpoints(vec![file]).unwrap()
        };
        let own = digest(&set(1), "a", &mut |_| Ok(())).unwrap();
        let digests = BTreeMap::from([("a".to_owned(), own)]);
        compare(&set(1), &digests).unwrap();
        for found in [set(2), WeightSet::default()] {
            assert_eq!(compare(&found, &digests).unwrap_err().code(), "E0376");
        }
    }
}
