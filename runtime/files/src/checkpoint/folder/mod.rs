//! Which files make up a model: recognises a diffusers folder or an original Wan2.2 folder.
//!
//! Contract: a folder that opens has every file that a run needs, its JSON files parsed, and is
//! Wan2.2-TI2V-5B as far as names and channel counts tell; other models are refused by name.
//! Weight files are chosen here but opened by [`WeightFiles::open`]. The meaning of the
//! configurations is not judged here: the typed getters give coded errors to those who do.
//! `formats.md` §1 and §2 describe the reading order and the variants. `find` chooses files by their
//! names; what is in them is told when they are opened.

mod diffusers;
mod find;
mod original;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::json::JsonFile;
use super::set::WeightSet;
use crate::error::{Error, Result};

/// A recognised model folder.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// The folder.
    pub root: PathBuf,
    /// What it holds.
    pub layout: Layout,
    /// What was odd but not wrong; worth showing to the user.
    pub warnings: Vec<String>,
}

/// The two layouts in which the model is published.
#[derive(Clone, Debug)]
pub enum Layout {
    /// `model_index.json` and one folder per component.
    Diffusers(Box<DiffusersFolder>),
    /// `config.json` and all weight files in one folder.
    Original(Box<OriginalFolder>),
}

/// The files of a diffusers folder.
#[derive(Clone, Debug)]
pub struct DiffusersFolder {
    /// `model_index.json`.
    pub index: JsonFile,
    /// `transformer/`, names as diffusers spells them.
    pub transformer: Component,
    /// `vae/`.
    pub vae: Component,
    /// `text_encoder/`.
    pub text_encoder: Component,
    /// `tokenizer/tokenizer.json`, or `spiece.model` beside it where there is no such file.
    pub tokenizer: PathBuf,
    /// `scheduler/scheduler_config.json`.
    pub scheduler: JsonFile,
}

/// The files of an original folder; the sizes of VAE and text encoder follow from their tensors.
#[derive(Clone, Debug)]
pub struct OriginalFolder {
    /// `config.json` of the transformer.
    pub config: JsonFile,
    /// The transformer's weights.
    pub transformer: WeightFiles,
    /// The VAE's weights.
    pub vae: WeightFiles,
    /// The text encoder's weights.
    pub text_encoder: WeightFiles,
    /// `google/umt5-xxl/tokenizer.json`, or `spiece.model` beside it where there is no such file.
    pub tokenizer: PathBuf,
}

/// A component of a diffusers folder.
#[derive(Clone, Debug)]
pub struct Component {
    /// `config.json`.
    pub config: JsonFile,
    /// Its weights.
    pub weights: WeightFiles,
}

/// Weights in one file or in shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightFiles {
    /// One file, of any format that is read.
    Single(PathBuf),
    /// An index in JSON that names the shards.
    Index(PathBuf),
}

impl WeightFiles {
    /// The file to be opened: the weights or their index.
    pub fn path(&self) -> &Path {
        match self {
            Self::Single(path) | Self::Index(path) => path,
        }
    }

    /// Opens the weights. Errors: as [`WeightSet::open_files`] or [`WeightSet::open_index`].
    pub fn open(&self) -> Result<WeightSet> {
        match self {
            Self::Single(path) => WeightSet::open_files(&[path]),
            Self::Index(path) => WeightSet::open_index(path),
        }
    }
}

impl ModelFolder {
    /// Recognises the folder, taking the weights without a variant name where there are several.
    ///
    /// Errors: E0701 no such folder, E0702 not a model folder, E0703 a JSON file missing, E0704
    /// not a JSON object, E0705 component missing, E0706 weights missing, E0707 weights only in a
    /// format that is not read, E0708 another model, E0709 several candidates, E0710 and E0711 a field
    /// missing or of the wrong type, E0712 tokenizer missing.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        Self::open_variant(folder, None)
    }

    /// [`ModelFolder::open`] that prefers the weights of a variant such as `fp16`. Components
    /// that lack it use their other weights, with a warning.
    pub fn open_variant(folder: impl AsRef<Path>, variant: Option<&str>) -> Result<Self> {
        let root = folder.as_ref();
        let mut warnings = Vec::new();
        let names = list(root)?;
        let layout = if names.iter().any(|name| name == "model_index.json") {
            let folder = DiffusersFolder::open(root, variant, &mut warnings)?;
            Layout::Diffusers(Box::new(folder))
        } else if names.iter().any(|name| name == "config.json") {
            let folder = OriginalFolder::open(root, &names, variant, &mut warnings)?;
            Layout::Original(Box::new(folder))
        } else {
            return Err(not_a_model(root));
        };
        Ok(Self { root: root.to_owned(), layout, warnings })
    }
}

impl ModelFolder {
    /// Its own files, sorted: configurations, weights with their index, and all that lies beside the
    /// tokenizer, which other programs read. What else is in the folder is none of the model.
    ///
    /// Errors: those of opening weights by an index, E0701 for a folder that cannot be read.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let (mut out, weights, tokenizer) = match &self.layout {
            Layout::Diffusers(files) => {
                let parts = [&files.transformer, &files.vae, &files.text_encoder];
                let mut out = vec![files.index.path.clone(), files.scheduler.path.clone()];
                out.extend(parts.map(|part| part.config.path.clone()));
                (out, parts.map(|part| &part.weights), &files.tokenizer)
            }
            Layout::Original(files) => {
                let weights = [&files.transformer, &files.vae, &files.text_encoder];
                (vec![files.config.path.clone()], weights, &files.tokenizer)
            }
        };
        for weights in weights {
            out.push(weights.path().to_owned());
            if let WeightFiles::Index(_) = weights {
                out.extend(weights.open()?.files().map(|file| file.path().to_owned()));
            }
        }
        let beside = tokenizer.parent().unwrap_or(&self.root);
        let names = list(beside)?.into_iter().filter(|name| !name.starts_with('.'));
        out.extend(names.map(|name| beside.join(name)));
        out.sort();
        out.dedup();
        Ok(out)
    }
}

fn other_model(what: &str, place: &Path) -> Error {
    Error::input("E0708", format!("this is another model: {what}"))
        .at(place.display())
        .help("Wan2.2-TI2V-5B is needed: `WanPipeline` with `expand_timesteps`, 48 channels")
}

fn check_channels(channels: Option<u64>, path: &Path) -> Result<()> {
    match channels {
        Some(16) => Err(other_model("Wan2.1 or Wan2.2-A14B text-to-video (16 channels)", path)),
        Some(36) => Err(other_model("Wan2.1 or Wan2.2-A14B image-to-video (36 channels)", path)),
        _ => Ok(()),
    }
}

fn check_width(width: Option<u64>, path: &Path) -> Result<()> {
    match width {
        Some(5120) => Err(other_model("a 14B model (width 5120; the 5B model has 3072)", path)),
        _ => Ok(()),
    }
}

/// Names of the files in a folder (links followed), sorted.
fn list(folder: &Path) -> Result<Vec<String>> {
    let fail = |what: &str, fault: std::io::Error| {
        Error::input("E0701", what)
            .at(folder.display())
            .help("check the path for typing mistakes, and the permissions of the folder")
            .caused_by(fault)
    };
    let about = fs::metadata(folder).map_err(|fault| match fault.kind() {
        ErrorKind::NotFound => {
            let error = Error::input("E0701", "the model folder does not exist")
                .at(folder.display())
                .caused_by(fault);
            match hub_name(folder) {
                // Nothing is downloaded by this program: whoever runs it decides what it fetches.
                Some((owner, name)) => error.help(format!(
                    "models are not downloaded by themselves; if this is the name of one on the \
                     Hugging Face hub, fetch it with `hf download {owner}/{name} --local-dir \
                     {name}` and give --model {name}"
                )),
                None => error
                    .help("check the path for typing mistakes, and the permissions of the folder"),
            }
        }
        _ => fail("the model folder cannot be read", fault),
    })?;
    if !about.is_dir() {
        return Err(Error::input("E0701", "this is a file, not a model folder")
            .at(folder.display())
            .help("pass the folder that holds `model_index.json`, or the original `config.json`"));
    }
    let entries = fs::read_dir(folder).map_err(|fault| fail("the folder cannot be read", fault))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|fault| fail("the folder cannot be read", fault))?;
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().is_file()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Owner and name, where a path that does not exist looks like a model of a hub: `OWNER/NAME`.
fn hub_name(path: &Path) -> Option<(&str, &str)> {
    let (owner, name) = path.to_str()?.split_once('/')?;
    let word = |text: &str| {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        first && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    // A folder of that name makes it a path with a mistake in its end.
    (word(owner) && word(name) && !Path::new(owner).exists()).then_some((owner, name))
}

fn not_a_model(root: &Path) -> Error {
    if root.join("high_noise_model").is_dir() && root.join("low_noise_model").is_dir() {
        return other_model("Wan2.2-A14B (two experts, original layout)", root);
    }
    if root.join("transformer").is_dir() {
        return Error::input("E0703", "`model_index.json` is missing")
            .at(root.display())
            .help("fetch it from where the model came from; it says what the folder holds");
    }
    let mut inner: Vec<String> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("model_index.json").is_file())
        .map(|entry| entry.path().display().to_string())
        .collect();
    inner.sort();
    let help = match inner.first() {
        Some(inner) => format!("there is one inside it: {inner}"),
        None => "a model folder holds `model_index.json` (diffusers) or `config.json` (original); \
                 `anyid-rt init DIR` makes one with random weights"
            .to_owned(),
    };
    Error::input("E0702", "this is not a model folder").at(root.display()).help(help)
}

#[cfg(test)]
mod tests;
