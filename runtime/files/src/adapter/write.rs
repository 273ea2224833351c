//! Adapters written in any dialect that can express them, read back, and compared before they get
//! their name.
//!
//! Factors are stored as they are, in their encodings, with alpha beside them; only DiffSynth,
//! which knows no alpha, gets scaled factors. What a dialect cannot say is an error before anything
//! is written. `formats.md` §5.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::change::Change;
use super::modules::Modules;
use super::spell::{Spelled, spell};
use super::{Adapter, CONFIG, Dialect, NAMES};
use crate::checkpoint::{Encoding, SafetensorsWriter, TensorSpec, WeightSet};
use crate::error::{Error, Result};
use crate::output::{AtomicFile, AtomicFolder, Existing};

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file, or the folder of PEFT's dialect.
    pub path: PathBuf,
    /// Tensors in it.
    pub tensors: usize,
    /// Bytes of the tensors.
    pub bytes: u64,
}

/// Writes an adapter as `dialect`: a file, or a folder for PEFT. It is read back and compared, and
/// appears whole or not at all.
///
/// # Errors
/// E0374 for what the dialect cannot express, E0376 where the file reads back as something else,
/// E0379 for values that are not finite with their scale, and E101x where it cannot be written.
pub fn write(
    adapter: &Adapter,
    dialect: Dialect,
    modules: &Modules,
    path: &Path,
    existing: Existing,
) -> Result<Written> {
    let spelled = spell(adapter, dialect)?;
    let set = adapter.set.derived(spelled.tensors.iter().cloned())?;
    let tensors = spelled.tensors.len() + spelled.numbers.len();
    let bytes = set.total_bytes() + 4 * spelled.numbers.len() as u64;
    let check = |file: &Path, config: Option<&Path>| -> Result<()> {
        compare(&set, &spelled.numbers, file)?;
        let again = Adapter::open_files(file, config, modules)?;
        same(adapter, &again, dialect)
    };
    // What is read back is called as it would have been.
    let placed = |error: Error, temporary: &Path| {
        let own = error.place().is_some_and(|place| Path::new(place).starts_with(temporary));
        if own || error.code() == "E0376" { error.placed(path.display()) } else { error }
    };
    let path = match &spelled.config {
        Some(config) => {
            let folder = AtomicFolder::create(path, existing)?;
            let mut text = serde_json::to_string_pretty(config).expect("JSON values serialise");
            text.push('\n');
            folder.write(CONFIG, text.as_bytes())?;
            let file = folder.temporary_path().join(NAMES[0]);
            store(AtomicFile::create(&file)?, &set, &spelled)?.commit()?;
            let temporary = folder.temporary_path();
            check(&file, Some(&temporary.join(CONFIG)))
                .map_err(|error| placed(error, temporary))?;
            folder.commit()?
        }
        None => {
            let file = AtomicFile::create_as(path, existing)?;
            let mut file = store(file, &set, &spelled)?;
            file.close()?;
            if let Some(temporary) = file.temporary_path() {
                check(temporary, None).map_err(|error| placed(error, temporary))?;
            }
            file.commit()?
        }
    };
    Ok(Written { path, tensors, bytes })
}

/// Streams the tensors into a file, the widest encodings first.
fn store(file: AtomicFile, set: &WeightSet, spelled: &Spelled) -> Result<AtomicFile> {
    const PIECE: u64 = 4 << 20;
    let mut specs: Vec<TensorSpec> = set
        .iter()
        .map(|(name, weight)| TensorSpec::new(name, weight.encoding, weight.shape.clone()))
        .collect();
    let numbers = spelled.numbers.iter();
    specs.extend(numbers.map(|(name, _)| TensorSpec::new(name, Encoding::F32, [])));
    specs.sort_by_key(|spec| std::cmp::Reverse(spec.encoding.block().bytes));
    let mut writer = SafetensorsWriter::create_in(file, &specs, &spelled.metadata)?;
    let numbers: BTreeMap<&str, f32> =
        spelled.numbers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let mut room = Vec::new();
    for spec in &specs {
        if let Some(value) = numbers.get(spec.name.as_str()) {
            writer.write(&spec.name, &value.to_le_bytes())?;
            continue;
        }
        let bytes = spec.bytes()?;
        for from in (0..bytes).step_by(PIECE as usize) {
            room.resize((bytes - from).min(PIECE) as usize, 0);
            set.read(&spec.name, from, &mut room)?;
            writer.write(&spec.name, &room)?;
        }
    }
    writer.finish_file()
}

/// Compares what is in a file with what was to be written, byte by byte.
fn compare(set: &WeightSet, numbers: &[(String, f32)], file: &Path) -> Result<()> {
    const PIECE: u64 = 4 << 20;
    let stored = WeightSet::open_files(&[file])?;
    let differs = |name: &str| {
        Err(Error::input("E0376", format!("`{name}` reads back as something else"))
            .help("the disk is failing or the file was changed meanwhile: write it elsewhere"))
    };
    if stored.len() != set.len() + numbers.len() {
        return differs("the list of tensors");
    }
    for (name, value) in numbers {
        match stored.tensor(name) {
            Some(weight) if weight.bytes == 4 && stored.contents(name)? == value.to_le_bytes() => {}
            _ => return differs(name),
        }
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (name, weight) in set.iter() {
        let same = |other: &crate::checkpoint::Weight| {
            other.shape == weight.shape && other.encoding == weight.encoding
        };
        if !stored.tensor(name).is_some_and(same) {
            return differs(name);
        }
        for from in (0..weight.bytes).step_by(PIECE as usize) {
            let count = (weight.bytes - from).min(PIECE) as usize;
            a.resize(count, 0);
            b.resize(count, 0);
            set.read(name, from, &mut a)?;
            stored.read(name, from, &mut b)?;
            if a != b {
                return differs(name);
            }
        }
    }
    Ok(())
}

/// Compares the meaning of what was written with what was meant: modules, kinds, ranks, scales.
fn same(meant: &Adapter, found: &Adapter, dialect: Dialect) -> Result<()> {
    let differs = |what: &str| {
        let what = format!("the file reads back as another adapter: {what}");
        Err(Error::input("E0376", what)
            .help("this is a fault of the program: please report it, and do not use the file"))
    };
    if !found.unmatched.is_empty() || meant.changes.len() != found.changes.len() {
        let (one, other) = (meant.changes.len(), found.changes.len());
        return differs(&format!("{one} modules were written, {other} are there"));
    }
    let by_name: BTreeMap<&str, &Change> =
        found.changes.iter().map(|change| (change.module.as_str(), change)).collect();
    for change in &meant.changes {
        let Some(other) = by_name.get(change.module.as_str()) else {
            return differs(&format!("`{}` is missing", change.module));
        };
        let alike = match (&change.product, &other.product) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                let folded = dialect == Dialect::DiffSynth || a.rank.is_none();
                let scale = if folded { 1.0 } else { a.scale };
                a.rank == b.rank
                    && a.factors.kind() == b.factors.kind()
                    && (b.scale - scale).abs() <= 1e-6 * scale.abs()
            }
            _ => false,
        };
        let magnitude = change.magnitude.is_some() == other.magnitude.is_some();
        let diff = change.diff.is_some() == other.diff.is_some();
        let bias = |change: &Change| change.up_bias.is_some() || change.diff_bias.is_some();
        let modulation = change.diff_modulation.is_some() == other.diff_modulation.is_some();
        if !(alike && magnitude && diff && modulation && bias(change) == bias(other)) {
            let (one, other) = (change.describe(), other.describe());
            return differs(&format!("`{}` is {other} instead of {one}", change.module));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::modules;
    use super::*;
    use crate::checkpoint::save;
    use crate::testing::TempFolder;

    fn adapter(folder: &TempFolder, name: &str, value: f32, alpha: f32) -> Adapter {
        let bytes: Vec<u8> = [value; 128].iter().flat_map(|v| v.to_le_bytes()).collect();
        let q = |end: &str| format!("diffusion_model.blocks.0.self_attn.q.{end}");
        let [a, b, s] = [q("lora_A.weight"), q("lora_B.weight"), q("alpha")];
        let path = folder.path().join(name);
        let rows: [(&str, Encoding, &[u64], &[u8]); 3] = [
            (&a, Encoding::F32, &[4, 32], &bytes),
            (&b, Encoding::F32, &[32, 4], &bytes),
            (&s, Encoding::F32, &[], &alpha.to_le_bytes()),
        ];
        save(&path, &rows, &BTreeMap::new()).unwrap();
        Adapter::open(&path, &modules()).unwrap()
    }

    #[test]
    fn a_file_that_reads_back_as_something_else_is_an_error() {
        let folder = TempFolder::new();
        let one = adapter(&folder, "one", 1.0, 8.0);
        let numbers =
            |value: f32| [("diffusion_model.blocks.0.self_attn.q.alpha".to_owned(), value)];
        let own = one.set.selected(|name| !name.ends_with("alpha"));
        compare(&own, &numbers(8.0), &one.path).unwrap();
        same(&one, &one, Dialect::ComfyUi).unwrap();
        let other = adapter(&folder, "other", 2.0, 8.0);
        let few = own.selected(|name| name.ends_with("lora_A.weight"));
        for outcome in [
            compare(&own, &numbers(8.0), &other.path),
            compare(&own, &numbers(4.0), &one.path),
            compare(&few, &numbers(8.0), &one.path),
            same(&one, &adapter(&folder, "scaled", 1.0, 4.0), Dialect::ComfyUi),
            same(&one, &one, Dialect::DiffSynth),
            same(&one, &Adapter { changes: Vec::new(), ..one.clone() }, Dialect::ComfyUi),
        ] {
            assert_eq!(outcome.unwrap_err().code(), "E0376");
        }
    }
}
