//! Adapters: corrections of a network's weights in the dialects that trainers and other programs
//! write.
//!
//! An [`Adapter`] is read from a file or folder of any dialect (`keys`, `modules`, `settings`,
//! `read`) into one [`Change`] for each module. Changes are applied to weights on their way to a
//! device (`apply`), joined (`combine`), and written in any dialect that can express them
//! (`write`). What an adapter was trained on is in its header (`base`). Nothing here knows a
//! network: the caller gives its [`Modules`], and weights are derived, never copied. `formats.md` §5
//! describes the dialects.

mod apply;
mod base;
mod change;
mod combine;
mod dialect;
mod keys;
mod modules;
mod read;
mod settings;
mod spell;
#[cfg(test)]
mod tests;
mod values;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::checkpoint::{Checkpoint, WeightSet, first_ten, read_json};
use crate::error::{Error, Result};
pub use apply::{applied, shown_scale};
pub use base::{Base, Part};
pub use change::{Change, Factor, Factors, Product};
pub use combine::combined;
pub use dialect::Dialect;
pub use keys::is_adapter;
pub use modules::{KnownTensor, Module, Modules, Slot};
use settings::Settings;
pub use write::{Written, write};

/// An adapter, open and checked. Its tensors are read when they are needed.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// The file of its tensors.
    pub path: PathBuf,
    /// The configuration beside it, which is part of the adapter.
    pub config: Option<PathBuf>,
    /// The dialect it is written in, where its names show one.
    pub dialect: Option<Dialect>,
    /// What it does, in the order of the network's modules.
    pub changes: Vec<Change>,
    /// Tensors that are for no module that is known.
    pub unmatched: Vec<String>,
    /// What the file says about itself.
    pub metadata: BTreeMap<String, String>,
    /// What was odd but not wrong; worth showing to the user.
    pub warnings: Vec<String>,
    set: WeightSet,
}

/// Files that hold the tensors of an adapter's folder, in order of preference.
const NAMES: [&str; 2] = ["adapter_model.safetensors", "pytorch_lora_weights.safetensors"];
/// PEFT's configuration.
const CONFIG: &str = "adapter_config.json";

impl Adapter {
    /// Opens a file, or the folder of one adapter, and checks it against the modules of a network.
    /// All values are looked at once, none is kept. Whether anything matches is asked for by
    /// [`Adapter::require_matches`].
    ///
    /// # Errors
    /// E0360 for a file or folder without an adapter, E0363 for a network of another width, E0364
    /// to E0366 for tensors that are incomplete, do not fit, or are there twice, E0367 for a kind
    /// that is not supported, E0368 for an alpha that is no scale, E0369 for a rank that
    /// contradicts the configuration, E0370 for values that cannot be used, E0371 and E07xx for the
    /// configuration, and those of [`Checkpoint::open`].
    pub fn open(path: impl AsRef<Path>, modules: &Modules) -> Result<Self> {
        let (path, config) = files(path.as_ref())?;
        Self::open_files(&path, config.as_deref(), modules)
    }

    fn open_files(path: &Path, config: Option<&Path>, modules: &Modules) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let metadata = file.metadata().clone();
        let set = WeightSet::from_checkpoints(vec![file])?;
        let header = metadata.get(settings::HEADER_KEY);
        let settings = match (header, config) {
            (Some(text), _) => Settings::from_header(text, path)?,
            (None, Some(config)) => Settings::from_file(&read_json(config)?)?,
            (None, None) => Settings::plain(&metadata, path)?,
        };
        let source = read::Source { set: &set, modules, settings: &settings, path };
        let found = read::read(&source).map_err(|error| error.at(path.display()))?;
        if found.recognised == 0 {
            let some: Vec<String> = set.names().take(3).map(|name| format!("`{name}`")).collect();
            let what = match some.is_empty() {
                true => "there are no tensors in the adapter".to_owned(),
                false => format!("no tensor is one of an adapter: {} …", some.join(", ")),
            };
            return Err(Error::input("E0360", what)
                .at(path.display())
                .help("give an adapter (LoRA); `anyid-rt inspect FILE` says what a file is"));
        }
        let dialect = dialect::recognised(&found.spellings, header.is_some());
        let mut warnings = set.warnings().to_vec();
        let only_folder = config.is_some() && header.is_none();
        if only_folder && dialect == Some(Dialect::ComfyUi) {
            warnings.extend(trainer_ignores_alpha(&found.changes, path));
        }
        warnings.extend(contradictions(&found.changes, dialect, &metadata, path));
        Ok(Self {
            path: path.to_owned(),
            config: config.map(Path::to_owned),
            dialect,
            changes: found.changes,
            unmatched: found.unmatched,
            metadata,
            warnings,
            set,
        })
    }

    /// Refuses an adapter of which nothing or not everything matches; with `allow_unmatched` some
    /// tensors may be left out, with a warning that names them.
    ///
    /// # Errors
    /// E0361 for tensors that match nothing, E0362 where nothing matches.
    pub fn require_matches(&mut self, allow_unmatched: bool) -> Result<()> {
        let list: Vec<String> = self.unmatched.iter().map(|name| format!("`{name}`")).collect();
        let list = first_ten(&list);
        if self.changes.is_empty() {
            return Err(Error::input("E0362", format!("nothing in the adapter matches: {list}"))
                .at(self.path.display())
                .help("the adapter is for another network than Wan's transformer"));
        }
        match self.unmatched.len() {
            0 => Ok(()),
            count if allow_unmatched => {
                let what = format!("{count} tensors match nothing and are left out: {list}");
                self.warnings.push(format!("{}: {what}", self.path.display()));
                Ok(())
            }
            count => {
                let what = format!("{count} tensors of the adapter match nothing: {list}");
                Err(Error::input("E0361", what).at(self.path.display()).help(
                    "the adapter is for another version of the model; --allow-unmatched leaves \
                     these tensors out",
                ))
            }
        }
    }

    /// Its tensors, by the names that the changes have.
    pub fn tensors(&self) -> &WeightSet {
        &self.set
    }

    /// The distinct ranks, ascending.
    pub fn ranks(&self) -> Vec<u64> {
        let products = self.changes.iter().filter_map(|change| change.product.as_ref());
        let mut ranks: Vec<u64> = products.filter_map(|product| product.rank).collect();
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    /// The distinct scales, ascending.
    pub fn scales(&self) -> Vec<f64> {
        let products = self.changes.iter().filter_map(|change| change.product.as_ref());
        let mut scales: Vec<f64> = products.map(|product| product.scale).collect();
        scales.sort_by(f64::total_cmp);
        scales.dedup();
        scales
    }
}

/// The file of an adapter's tensors, and its configuration if there is one.
fn files(path: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
    let beside = |path: &Path| Some(path.with_file_name(CONFIG)).filter(|path| path.is_file());
    if !path.is_dir() {
        return Ok((path.to_owned(), beside(path)));
    }
    let config = beside(&path.join(CONFIG));
    let fault = |what: String| {
        Error::input("E0360", what).at(path.display()).help(format!(
            "give the file itself, or a folder that holds {} or {}",
            NAMES[0], NAMES[1]
        ))
    };
    if let Some(name) = NAMES.iter().find(|name| path.join(name).is_file()) {
        return Ok((path.join(name), config));
    }
    let pickle = path.join("adapter_model.bin");
    if pickle.is_file() {
        return Ok((pickle, config));
    }
    let entries = std::fs::read_dir(path)
        .map_err(|cause| fault("the folder cannot be read".to_owned()).caused_by(cause))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
        .collect();
    found.sort();
    match found.as_slice() {
        [one] => Ok((one.clone(), config)),
        [] => Err(fault("there is no adapter in the folder".to_owned())),
        many => {
            let names: Vec<String> = many
                .iter()
                .filter_map(|path| Some(format!("`{}`", path.file_name()?.to_string_lossy())))
                .collect();
            Err(fault(format!("several files may be the adapter: {}", first_ten(&names))))
        }
    }
}

/// Says so where a configuration scales names whose trainer knows no scale.
fn trainer_ignores_alpha(changes: &[Change], path: &Path) -> Option<String> {
    let scaled = |change: &&Change| change.product.as_ref().is_some_and(|p| p.scale != 1.0);
    let scale = changes.iter().find(scaled)?.product.as_ref()?.scale;
    Some(format!(
        "{}: scaled by {scale}, as {CONFIG} says; trainers that write these names mean 1",
        path.display()
    ))
}

/// Says so where the header speaks of another alpha or rank than the tensors have.
fn contradictions(
    changes: &[Change],
    dialect: Option<Dialect>,
    metadata: &BTreeMap<String, String>,
    path: &Path,
) -> Vec<String> {
    let said = |key: &str| metadata.get(key).and_then(|text| text.parse::<f64>().ok());
    let products = || changes.iter().filter_map(|change| change.product.as_ref());
    let mut warnings = Vec::new();
    let mut compare = |key: &str, found: &dyn Fn(&Product) -> Option<f64>| {
        let Some(said) = said(key) else { return };
        let apart = |found: &f64| (found - said).abs() > 1e-3 * said.abs();
        if let Some(found) = products().filter_map(found).find(apart) {
            warnings.push(format!(
                "{}: the header's {key} is {said}, the tensors have {found} and are followed",
                path.display()
            ));
        }
    };
    compare("ss_network_dim", &|product| product.rank.map(|rank| rank as f64));
    let alpha = |product: &Product| product.rank.map(|_| product.alpha());
    compare("ss_network_alpha", &alpha);
    // Written by this program, and lost with alphas that lie elsewhere; DiffSynth has them in its factors.
    if dialect != Some(Dialect::DiffSynth) {
        compare("anyid.alpha", &alpha);
    }
    warnings
}
