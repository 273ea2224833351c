//! Which files make up a model: recognises a diffusers folder or an original Wan2.2 folder.
//!
//! Contract: a folder that opens has every file that a run needs, its JSON files parsed, and is
//! Wan2.2-TI2V-5B as far as names and channel counts tell; other models are refused by name.
//! Weight files are chosen here but opened by [`WeightFiles::open`]. The meaning of the
//! configurations is not judged here: the typed getters give coded errors to those who do.
//! `formats.md` §1 and §2 describe the reading order and the variants.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::first_ten;
use super::json::{
    JsonFile, get_string, optional_bool, optional_string, optional_u64, read_json, wrong_type,
};
use super::set::WeightSet;
use super::writer::is_shard;
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
    /// `tokenizer/tokenizer.json`.
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
    /// `google/umt5-xxl/tokenizer.json`.
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
    /// A `.safetensors` file.
    Single(PathBuf),
    /// A `.safetensors.index.json` that names the shards.
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
    /// PyTorch format, E0708 another model, E0709 several candidates, E0710 and E0711 a field
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

fn other_model(what: &str, place: &Path) -> Error {
    Error::input("E0708", format!("this is another model: {what}"))
        .at(place.display())
        .help("Wan2.2-TI2V-5B is needed: `WanPipeline` with `expand_timesteps`, 48 channels")
}

impl DiffusersFolder {
    fn open(root: &Path, variant: Option<&str>, warnings: &mut Vec<String>) -> Result<Self> {
        let index = read_json(root.join("model_index.json"))?;
        check_pipeline(&index)?;
        let transformer = component(root, "transformer", DIFFUSERS_STEM, variant, warnings)?;
        check_transformer(&transformer.config)?;
        if optional_bool(&index.value, "expand_timesteps", &index.path)? != Some(true) {
            warnings.push(format!(
                "{}: `expand_timesteps` is not true, as in older conversions; read as \
                 Wan2.2-TI2V-5B because the transformer has 48 channels",
                index.path.display()
            ));
        }
        let vae = component(root, "vae", DIFFUSERS_STEM, variant, warnings)?;
        let text_encoder = component(root, "text_encoder", "model", variant, warnings)?;
        let tokenizer = tokenizer(&[component_folder(root, "tokenizer")?])?;
        let folder = component_folder(root, "scheduler")?;
        let scheduler = read_json(folder.join("scheduler_config.json"))?;
        Ok(Self { index, transformer, vae, text_encoder, tokenizer, scheduler })
    }
}

const DIFFUSERS_STEM: &str = "diffusion_pytorch_model";

/// Whether `model_index.json` describes the model; the table of `formats.md` section 1.
fn check_pipeline(index: &JsonFile) -> Result<()> {
    let JsonFile { path, value } = index;
    let refuse = |what: &str| Err(other_model(what, path));
    let class = get_string(value, "_class_name", path)?;
    if !matches!(class.as_str(), "WanPipeline" | "WanImageToVideoPipeline") {
        return refuse(&format!("a `{class}`"));
    }
    if value.get("boundary_ratio").is_some_and(|ratio| !ratio.is_null())
        || class_of(index, "transformer_2")?.is_some()
    {
        return refuse("Wan2.2-A14B (two experts)");
    }
    if class_of(index, "image_encoder")?.is_some() {
        return refuse("Wan2.1 image-to-video (it has an image encoder)");
    }
    for (name, expected) in [
        ("transformer", Some("WanTransformer3DModel")),
        ("vae", Some("AutoencoderKLWan")),
        ("text_encoder", Some("UMT5EncoderModel")),
        ("tokenizer", None),
        ("scheduler", None),
    ] {
        let Some(found) = class_of(index, name)? else {
            return Err(Error::input("E0705", format!("the pipeline has no `{name}`"))
                .at(path.display())
                .help("the folder is a partial export: fetch the whole model"));
        };
        if expected.is_some_and(|expected| expected != found) {
            return refuse(&format!("its `{name}` is a `{found}`"));
        }
    }
    Ok(())
}

/// The class of an entry `[library, class]`; `None` if absent, null or `[null, null]`.
fn class_of(index: &JsonFile, key: &str) -> Result<Option<String>> {
    let Some(value) = index.value.get(key).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    match value.as_array().map(Vec::as_slice) {
        Some([_, Value::Null]) => Ok(None),
        Some([_, Value::String(class)]) => Ok(Some(class.clone())),
        _ => Err(wrong_type(key, value, "a list [library, class]", &index.path)),
    }
}

fn check_transformer(config: &JsonFile) -> Result<()> {
    let JsonFile { path, value } = config;
    if let Some(class) = optional_string(value, "_class_name", path)?
        && class != "WanTransformer3DModel"
    {
        return Err(other_model(&format!("a `{class}`"), path));
    }
    check_channels(optional_u64(value, "in_channels", path)?, path)?;
    let heads = optional_u64(value, "num_attention_heads", path)?;
    let head_dim = optional_u64(value, "attention_head_dim", path)?;
    check_width(heads.zip(head_dim).map(|(heads, width)| heads.saturating_mul(width)), path)
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

fn component_folder(root: &Path, name: &str) -> Result<PathBuf> {
    let folder = root.join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(Error::input("E0705", format!("the folder `{name}` is missing"))
        .at(folder.display())
        .help("the model is incomplete: fetch this folder as well"))
}

fn component(
    root: &Path,
    name: &str,
    stem: &str,
    variant: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<Component> {
    let folder = component_folder(root, name)?;
    let config = read_json(folder.join("config.json"))?;
    let weights = find_weights(&folder, &list(&folder)?, stem, variant, warnings)?;
    Ok(Component { config, weights })
}

impl OriginalFolder {
    fn open(
        root: &Path,
        names: &[String],
        variant: Option<&str>,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let config = read_json(root.join("config.json"))?;
        let JsonFile { path, value } = &config;
        let class = optional_string(value, "_class_name", path)?;
        match class.as_deref() {
            None | Some("WanModel") => {}
            Some("WanTransformer3DModel" | "AutoencoderKLWan") => {
                return Err(Error::input("E0702", "this is one component of a diffusers folder")
                    .at(root.display())
                    .help("pass the folder above it, the one with `model_index.json`"));
            }
            Some(class) => return Err(other_model(&format!("a `{class}`"), path)),
        }
        if class.is_none() && value.get("model_type").is_none() && value.get("dim").is_none() {
            return Err(Error::input("E0702", "`config.json` is not that of a Wan model")
                .at(path.display())
                .help("pass the folder with `model_index.json`, or the original model folder"));
        }
        let kind = get_string(value, "model_type", path)?;
        if kind != "ti2v" {
            return Err(other_model(&format!("a Wan model of type `{kind}`"), path));
        }
        check_channels(optional_u64(value, "in_dim", path)?, path)?;
        check_width(optional_u64(value, "dim", path)?, path)?;
        let transformer = find_weights(root, names, DIFFUSERS_STEM, variant, warnings)?;
        let vae = find_named(root, names, "the VAE's", "wan2.2_vae", &["vae"])?;
        let text_encoder = find_named(root, names, "the text encoder's", "models_t5", &["t5"])?;
        let places = [root.join("google/umt5-xxl"), root.join("tokenizer"), root.to_owned()];
        let tokenizer = tokenizer(&places)?;
        Ok(Self { config, transformer, vae, text_encoder, tokenizer })
    }
}

/// The weights of `stem` in a folder: an index before a single file, the variant asked for before
/// the unnamed one before the only one.
fn find_weights(
    folder: &Path,
    names: &[String],
    stem: &str,
    variant: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<WeightFiles> {
    let mut found: Vec<(Option<&str>, WeightFiles)> = Vec::new();
    let mut loose_shards = false;
    for name in names {
        let Some(rest) = name.strip_prefix(stem) else { continue };
        let path = folder.join(name);
        match classify(rest) {
            Some((variant, true)) => found.push((variant, WeightFiles::Index(path))),
            Some((variant, false)) => found.push((variant, WeightFiles::Single(path))),
            None => loose_shards |= rest.contains("-of-") && rest.ends_with(".safetensors"),
        }
    }
    let pick = |wanted: Option<&str>, warnings: &mut Vec<String>| {
        let mut same: Vec<&WeightFiles> =
            found.iter().filter(|(variant, _)| *variant == wanted).map(|(_, file)| file).collect();
        same.sort_by_key(|file| matches!(file, WeightFiles::Single(_)));
        if let [first, others @ ..] = same.as_slice() {
            warnings.extend(others.iter().map(|other| {
                format!(
                    "{} is not used: {} comes first",
                    other.path().display(),
                    first.path().display()
                )
            }));
            return Some((*first).clone());
        }
        None
    };
    if let Some(wanted) = variant
        && let Some(files) = pick(Some(wanted), warnings)
    {
        return Ok(files);
    }
    let mut variants: Vec<&str> = found.iter().filter_map(|(variant, _)| *variant).collect();
    variants.sort_unstable();
    variants.dedup();
    let files = match pick(None, warnings) {
        Some(files) => files,
        None if variants.len() > 1 => {
            return Err(Error::input(
                "E0709",
                format!("several variants of the weights: {}", first_ten(&variants)),
            )
            .at(folder.display())
            .help("say which one, or keep only one in the folder"));
        }
        None => match variants.first().and_then(|only| pick(Some(only), warnings)) {
            Some(files) => files,
            None if loose_shards => {
                return Err(Error::input(
                    "E0706",
                    format!("there are shards, but no `{stem}.safetensors.index.json`"),
                )
                .at(folder.display())
                .help("fetch the index file as well: it says which tensor is in which shard"));
            }
            None => return Err(no_weights(folder, names, "the", |name| name.starts_with(stem))),
        },
    };
    if let Some(wanted) = variant {
        let used = files.path().display();
        warnings.push(format!("no weights of the variant `{wanted}`: using {used}"));
    }
    Ok(files)
}

/// What follows the stem: `(variant, is an index)`, or `None` for anything else.
fn classify(rest: &str) -> Option<(Option<&str>, bool)> {
    let (variant, is_index) = if let Some(rest) = rest.strip_suffix(".json") {
        let (before, after) = rest.split_once(".safetensors.index")?;
        // `.safetensors.index.V.json` is today's spelling, `.V.safetensors.index.json` an older.
        let spelled = match (before, after) {
            (variant, "") | ("", variant) => variant,
            _ => return None,
        };
        (spelled, true)
    } else {
        (rest.strip_suffix(".safetensors")?, false)
    };
    if variant.is_empty() {
        return Some((None, is_index));
    }
    let variant = variant.strip_prefix('.')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let usable = !variant.is_empty() && variant.bytes().all(plain) && !variant.contains("-of-");
    usable.then_some((Some(variant), is_index))
}

/// A file of the original layout by its usual beginning, else by a word in its name.
fn find_named(
    folder: &Path,
    names: &[String],
    whose: &str,
    usual: &str,
    words: &[&str],
) -> Result<WeightFiles> {
    let matches = |name: &str| words.iter().any(|word| name.to_lowercase().contains(word));
    let candidates: Vec<&String> = names
        .iter()
        .filter(|name| !name.starts_with(DIFFUSERS_STEM) && matches(name))
        .filter(|name| name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))
        .filter(|name| !name.get(name.len().saturating_sub(27)..).is_some_and(is_shard))
        .collect();
    let preferred: Vec<&String> =
        candidates.iter().copied().filter(|name| name.to_lowercase().starts_with(usual)).collect();
    let choice = if preferred.is_empty() { candidates } else { preferred };
    match choice.as_slice() {
        [] => Err(no_weights(folder, names, whose, matches)),
        [one] if one.ends_with(".json") => Ok(WeightFiles::Index(folder.join(one))),
        [one] => Ok(WeightFiles::Single(folder.join(one))),
        several => Err(Error::input(
            "E0709",
            format!("several files may be {whose} weights: {}", first_ten(several)),
        )
        .at(folder.display())
        .help("keep one of them in the folder")),
    }
}

/// Weights that are missing, or there in a format that is not read.
fn no_weights(
    folder: &Path,
    names: &[String],
    whose: &str,
    matches: impl Fn(&str) -> bool,
) -> Error {
    let old = |name: &&String| {
        matches(name) && [".pth", ".pt", ".bin", ".ckpt"].iter().any(|end| name.ends_with(end))
    };
    if let Some(name) = names.iter().find(old) {
        return Error::input("E0707", format!("{whose} weights are a PyTorch file: {name}"))
            .at(folder.join(name).display())
            .help(
                "convert it to safetensors: load it in Python with torch.load(FILE, \
                 weights_only=True) and write it with safetensors.torch.save_file",
            );
    }
    let there: Vec<&String> = names.iter().filter(|name| name.ends_with(".safetensors")).collect();
    let found = match there.as_slice() {
        [] => "no .safetensors file is there".to_owned(),
        some => format!("found {}", first_ten(some)),
    };
    Error::input("E0706", format!("{whose} weights are missing: {found}"))
        .at(folder.display())
        .help("the model is incomplete: fetch the missing files, under their usual names")
}

fn tokenizer(places: &[PathBuf]) -> Result<PathBuf> {
    if let Some(found) =
        places.iter().map(|folder| folder.join("tokenizer.json")).find(|path| path.is_file())
    {
        return Ok(found);
    }
    let model = places.iter().map(|folder| folder.join("spiece.model")).find(|path| path.is_file());
    let note = model.map_or_else(String::new, |path| format!(" (only {} is)", path.display()));
    Err(Error::input("E0712", format!("`tokenizer.json` is not there{note}"))
        .at(places.first().map_or_else(String::new, |folder| folder.display().to_string()))
        .help("fetch `tokenizer.json` of google/umt5-xxl into this folder"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::json::*;
    use super::*;
    use crate::testing::{TempFolder, fixtures};

    fn golden() -> PathBuf {
        fixtures().join("pipeline/base")
    }

    /// A copy of the golden pipeline that a test can spoil.
    fn copy() -> TempFolder {
        let folder = TempFolder::new();
        for name in [
            "model_index.json",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/tokenizer.json",
            "scheduler/scheduler_config.json",
        ] {
            folder.write(name, fs::read(golden().join(name)).unwrap());
        }
        folder
    }

    /// The same weights in the layout of the original repository.
    fn original() -> TempFolder {
        let folder = TempFolder::new();
        let config = json!({
            "_class_name": "WanModel", "dim": 128, "ffn_dim": 256, "freq_dim": 32, "in_dim": 48,
            "model_type": "ti2v", "num_heads": 4, "num_layers": 2, "out_dim": 48, "text_len": 16,
            "eps": 1e-6,
        });
        folder.write("config.json", config.to_string());
        for (name, source) in [
            (
                "diffusion_pytorch_model.safetensors",
                "transformer/diffusion_pytorch_model.safetensors",
            ),
            ("Wan2.2_VAE.safetensors", "vae/diffusion_pytorch_model.safetensors"),
            ("models_t5_umt5-xxl-enc-bf16.safetensors", "text_encoder/model.safetensors"),
            ("google/umt5-xxl/tokenizer.json", "tokenizer/tokenizer.json"),
        ] {
            folder.write(name, fs::read(golden().join(source)).unwrap());
        }
        folder
    }

    fn remove(folder: &TempFolder, name: &str) {
        let path = folder.path().join(name);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    fn edit(folder: &TempFolder, name: &str, key: &str, value: Value) {
        let mut json = read_json(folder.path().join(name)).unwrap().value;
        json[key] = value;
        folder.write(name, json.to_string());
    }

    fn refused(folder: impl AsRef<Path>, code: &str, words: &[&str]) {
        let error = ModelFolder::open(folder).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        words.iter().for_each(|word| assert!(error.to_string().contains(word), "{error}"));
        assert!(error.place().is_some() && error.help_text().is_some(), "{error}");
    }

    fn diffusers(folder: &ModelFolder) -> &DiffusersFolder {
        match &folder.layout {
            Layout::Diffusers(folder) => folder,
            Layout::Original(_) => panic!("taken for an original folder"),
        }
    }

    #[test]
    fn opens_the_golden_pipeline() {
        let folder = ModelFolder::open(golden()).unwrap();
        assert!(folder.warnings.is_empty(), "{:?}", folder.warnings);
        let parts = diffusers(&folder);
        assert_eq!(
            get_u64(&parts.transformer.config.value, "num_layers", Path::new("")).unwrap(),
            2
        );
        assert_eq!(parts.scheduler.value["flow_shift"], 5.0);
        assert!(parts.tokenizer.is_file());
        for component in [&parts.transformer, &parts.vae, &parts.text_encoder] {
            assert!(!component.weights.open().unwrap().is_empty());
        }
    }

    #[test]
    fn opens_an_original_folder() {
        let folder = original();
        let opened = ModelFolder::open(folder.path()).unwrap();
        let Layout::Original(parts) = &opened.layout else { panic!("taken for diffusers") };
        assert_eq!(parts.config.value["dim"], 128);
        assert!(parts.vae.path().ends_with("Wan2.2_VAE.safetensors"));
        assert!(parts.tokenizer.ends_with("google/umt5-xxl/tokenizer.json"));
        for weights in [&parts.transformer, &parts.vae, &parts.text_encoder] {
            assert!(!weights.open().unwrap().is_empty());
        }
        fs::rename(
            folder.path().join("Wan2.2_VAE.safetensors"),
            folder.path().join("my_vae_f32.safetensors"),
        )
        .unwrap();
        ModelFolder::open(folder.path()).unwrap();
        folder.write("other_VAE.safetensors", b"");
        refused(folder.path(), "E0709", &["my_vae_f32.safetensors", "other_VAE.safetensors"]);
    }

    #[test]
    fn original_folders_lacking_something_are_refused() {
        let folder = original();
        remove(&folder, "google");
        refused(folder.path(), "E0712", &["tokenizer.json"]);
        folder.write("google/umt5-xxl/spiece.model", b"x");
        refused(folder.path(), "E0712", &["spiece.model"]);
        let folder = original();
        remove(&folder, "Wan2.2_VAE.safetensors");
        refused(folder.path(), "E0706", &["VAE", "models_t5"]);
        folder.write("Wan2.2_VAE.pth", b"PK");
        refused(folder.path(), "E0707", &["Wan2.2_VAE.pth", "safetensors"]);
        let folder = original();
        remove(&folder, "models_t5_umt5-xxl-enc-bf16.safetensors");
        folder.write("models_t5_umt5-xxl-enc-bf16.pth", b"PK");
        refused(folder.path(), "E0707", &["models_t5_umt5-xxl-enc-bf16.pth"]);
        let folder = original();
        remove(&folder, "diffusion_pytorch_model.safetensors");
        refused(folder.path(), "E0706", &["Wan2.2_VAE.safetensors"]);
        folder.write("diffusion_pytorch_model-00001-of-00002.safetensors", b"");
        refused(folder.path(), "E0706", &["index"]);
        for (key, value, word) in [
            ("model_type", json!("t2v"), "t2v"),
            ("in_dim", json!(36), "image-to-video"),
            ("dim", json!(5120), "14B"),
            ("_class_name", json!("VaceWanModel"), "VaceWanModel"),
        ] {
            let folder = original();
            edit(&folder, "config.json", key, value);
            refused(folder.path(), "E0708", &[word]);
        }
        let folder = original();
        edit(&folder, "config.json", "model_type", json!(null));
        refused(folder.path(), "E0710", &["model_type"]);
        folder.write("config.json", r#"{"vocab": 3}"#);
        refused(folder.path(), "E0702", &["Wan"]);
        refused(golden().join("transformer"), "E0702", &["component"]);
    }

    #[test]
    fn what_is_no_model_folder_is_told_apart() {
        let folder = TempFolder::new();
        refused(folder.path().join("none"), "E0701", &["does not exist"]);
        refused(folder.write("file", b""), "E0701", &["is a file"]);
        refused(folder.path(), "E0702", &["not a model folder"]);
        folder.write("inner/model_index.json", b"{}");
        refused(folder.path(), "E0702", &["inner"]);
        fs::create_dir(folder.path().join("high_noise_model")).unwrap();
        fs::create_dir(folder.path().join("low_noise_model")).unwrap();
        refused(folder.path(), "E0708", &["A14B"]);
        let folder = copy();
        remove(&folder, "model_index.json");
        refused(folder.path(), "E0703", &["model_index.json"]);
    }

    #[test]
    fn every_missing_piece_is_named() {
        for (name, code) in [
            ("transformer", "E0705"),
            ("vae", "E0705"),
            ("text_encoder", "E0705"),
            ("tokenizer", "E0705"),
            ("scheduler", "E0705"),
            ("transformer/config.json", "E0703"),
            ("vae/config.json", "E0703"),
            ("text_encoder/config.json", "E0703"),
            ("scheduler/scheduler_config.json", "E0703"),
            ("transformer/diffusion_pytorch_model.safetensors", "E0706"),
            ("vae/diffusion_pytorch_model.safetensors", "E0706"),
            ("text_encoder/model.safetensors", "E0706"),
            ("tokenizer/tokenizer.json", "E0712"),
        ] {
            let folder = copy();
            remove(&folder, name);
            refused(folder.path(), code, &[name.split('/').next().unwrap()]);
        }
        let folder = copy();
        remove(&folder, "transformer/diffusion_pytorch_model.safetensors");
        folder.write("transformer/diffusion_pytorch_model.bin", b"");
        refused(folder.path(), "E0707", &["diffusion_pytorch_model.bin"]);
    }

    #[test]
    fn bad_json_is_refused_with_its_path() {
        for (text, word) in [
            ("", "not JSON"),
            ("{", "not JSON"),
            ("[1]", "a list of 1"),
            ("<html>", "web page"),
            ("version https://git-lfs.github.com/spec/v1", "git lfs pull"),
            (&"[".repeat(1_000_000) as &str, "not JSON"),
        ] {
            for name in ["model_index.json", "vae/config.json"] {
                let folder = copy();
                folder.write(name, text);
                refused(folder.path(), "E0704", &[name, word]);
            }
        }
        let folder = copy();
        folder.write("vae/config.json", [b'{', 0xff]);
        refused(folder.path(), "E0704", &["UTF-8"]);
        let text = fs::read_to_string(golden().join("vae/config.json")).unwrap();
        folder.write("vae/config.json", format!("\u{feff}{text}"));
        ModelFolder::open(folder.path()).unwrap();
        folder.write("vae/config.json", vec![b' '; (16 << 20) + 1]);
        refused(folder.path(), "E0704", &["larger than 16 MiB"]);
        edit(&folder, "model_index.json", "vae", json!("AutoencoderKLWan"));
        refused(folder.path(), "E0711", &["`vae`"]);
    }

    #[test]
    fn other_models_are_refused_by_name() {
        for (name, key, value, word) in [
            ("model_index.json", "_class_name", json!("WanVACEPipeline"), "WanVACEPipeline"),
            ("model_index.json", "boundary_ratio", json!(0.875), "A14B"),
            ("model_index.json", "transformer_2", json!(["d", "WanTransformer3DModel"]), "A14B"),
            ("model_index.json", "image_encoder", json!(["t", "CLIPVisionModel"]), "Wan2.1"),
            ("model_index.json", "vae", json!(["d", "AutoencoderKL"]), "AutoencoderKL"),
            ("transformer/config.json", "in_channels", json!(16), "16 channels"),
            ("transformer/config.json", "in_channels", json!(36), "36 channels"),
            ("transformer/config.json", "num_attention_heads", json!(160), "14B"),
            ("transformer/config.json", "_class_name", json!("WanVACE"), "WanVACE"),
        ] {
            let folder = copy();
            edit(&folder, name, key, value);
            refused(folder.path(), "E0708", &[word, name]);
        }
        let folder = copy();
        edit(&folder, "model_index.json", "_class_name", json!("WanImageToVideoPipeline"));
        edit(&folder, "model_index.json", "image_encoder", json!([null, null]));
        edit(&folder, "model_index.json", "transformer_2", json!(null));
        assert!(ModelFolder::open(folder.path()).unwrap().warnings.is_empty());
        edit(&folder, "model_index.json", "expand_timesteps", json!(false));
        assert_eq!(ModelFolder::open(folder.path()).unwrap().warnings.len(), 1);
        edit(&folder, "model_index.json", "vae", json!([null, null]));
        refused(folder.path(), "E0705", &["`vae`"]);
        edit(&folder, "model_index.json", "_class_name", json!(3));
        refused(folder.path(), "E0711", &["_class_name", "the number 3"]);
    }

    #[test]
    fn variants_follow_the_reading_order() {
        let folder = copy();
        let place = "transformer/";
        let single = "diffusion_pytorch_model.safetensors";
        let chosen = |variant: Option<&str>| {
            let opened = ModelFolder::open_variant(folder.path(), variant).unwrap();
            let path = diffusers(&opened).transformer.weights.path().to_owned();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), opened.warnings.len())
        };
        // Two warnings: the VAE and the text encoder lack the variant as well.
        assert_eq!(chosen(Some("fp16")), (single.into(), 3));
        let index = "diffusion_pytorch_model.safetensors.index.fp16.json";
        folder.write(&format!("{place}{index}"), b"{}");
        folder
            .write(&format!("{place}diffusion_pytorch_model.fp16-00001-of-00002.safetensors"), b"");
        folder
            .write(&format!("{place}diffusion_pytorch_model-00001-of-00002.fp16.safetensors"), b"");
        assert_eq!(chosen(Some("fp16")), (index.into(), 2));
        assert_eq!(chosen(None), (single.into(), 0));
        folder.write(&format!("{place}diffusion_pytorch_model.fp16.safetensors"), b"");
        assert_eq!(chosen(Some("fp16")), (index.into(), 3));
        folder.write(&format!("{place}{single}.index.json"), b"{}");
        assert_eq!(chosen(None), (format!("{single}.index.json"), 1));
        remove(&folder, &format!("{place}{single}.index.json"));
        remove(&folder, &format!("{place}{single}"));
        assert_eq!(chosen(None).0, index, "the only variant");
        folder.write(&format!("{place}diffusion_pytorch_model.bf16.safetensors"), b"");
        refused(folder.path(), "E0709", &["bf16, fp16"]);
    }

    #[test]
    fn typed_getters_name_key_file_and_types() {
        let path = Path::new("some/config.json");
        let value = json!({
            "n": 3, "x": 0.5, "neg": -1, "flag": true, "text": "t", "none": null,
            "list": [1, 2], "mixed": [1, "two"], "float": 3.0, "object": {},
        });
        assert_eq!(get_u64(&value, "n", path).unwrap(), 3);
        assert_eq!(get_f64(&value, "n", path).unwrap(), 3.0);
        assert_eq!(get_f64(&value, "neg", path).unwrap(), -1.0);
        assert!(get_bool(&value, "flag", path).unwrap());
        assert_eq!(get_string(&value, "text", path).unwrap(), "t");
        assert_eq!(get_u64_list(&value, "list", path).unwrap(), [1, 2]);
        assert_eq!(get_f64_list(&value, "list", path).unwrap(), [1.0, 2.0]);
        assert_eq!(optional_u64(&value, "none", path).unwrap(), None);
        assert_eq!(optional_f64_list(&value, "absent", path).unwrap(), None);
        for (error, code, words) in [
            (get_u64(&value, "absent", path).unwrap_err(), "E0710", "`absent` is missing"),
            (get_string(&value, "none", path).unwrap_err(), "E0710", "expected a text"),
            (get_u64(&value, "neg", path).unwrap_err(), "E0711", "the number -1"),
            (get_u64(&value, "float", path).unwrap_err(), "E0711", "the number 3.0"),
            (get_u64(&value, "text", path).unwrap_err(), "E0711", "the text \"t\""),
            (get_bool(&value, "n", path).unwrap_err(), "E0711", "expected true or false"),
            (get_f64(&value, "object", path).unwrap_err(), "E0711", "an object"),
            (get_u64_list(&value, "n", path).unwrap_err(), "E0711", "expected a list"),
            (get_u64_list(&value, "mixed", path).unwrap_err(), "E0711", "`mixed[1]`"),
        ] {
            assert_eq!(error.code(), code);
            assert!(error.message().contains(words), "{error}");
            assert_eq!(error.place(), Some("some/config.json"));
        }
    }
}
