//! What a model is made of on disk: a folder, single files, or a folder of which files replace
//! some parts.
//!
//! A part comes from its file where one is named, and else from the folder. The sizes of a network
//! that comes from a file are those of its tensors; what these do not say is taken from the
//! `config.json` beside the file where there is one, from the folder's network of the same kind, or
//! from Wan2.2. Which model it is, is found out before anything is compared, so that another one is
//! refused by its name.

use super::{BUILT_IN, Model, agree, checked, config_error, configured};
use crate::checkpoint::{JsonFile, Layout, ModelFolder, WeightFiles, WeightSet, read_json};
use crate::error::{Error, Result};
use crate::places::Places;
use crate::sampling::SchedulerSettings;
use crate::text::PromptTokenizer;
use crate::weights::ModelWeights;
use anyid_models::wan::config::{ConfigError, DitConfig, ShapeLookup, TextConfig, VaeConfig};
use anyid_models::wan::kin;
use anyid_models::wan::names::Component;
use std::path::{Path, PathBuf};

/// The files and the folder that a model is opened from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The folder.
    pub folder: Option<PathBuf>,
    /// The transformer's weights, or their index.
    pub transformer: Option<PathBuf>,
    /// The text encoder's weights, or their index.
    pub text_encoder: Option<PathBuf>,
    /// The autoencoder's weights, or their index.
    pub vae: Option<PathBuf>,
    /// The tokenizer: `tokenizer.json` or `spiece.model`.
    pub tokenizer: Option<PathBuf>,
}

/// Names of the parts that a file may be given for, as flags and recipes call them.
pub const PART_NAMES: [&str; 4] = ["transformer", "text-encoder", "vae", "tokenizer"];

impl Parts {
    /// Everything from one folder.
    pub fn folder(path: &Path) -> Self {
        Self { folder: Some(path.to_owned()), ..Self::default() }
    }

    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The files that are named, with the names of their parts.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let files = [&self.transformer, &self.text_encoder, &self.vae, &self.tokenizer];
        let named = PART_NAMES.into_iter().zip(files);
        named.filter_map(|(name, file)| Some((name, file.as_deref()?)))
    }

    /// The place of the file of a part of this name.
    pub fn file_mut(&mut self, name: &str) -> Option<&mut Option<PathBuf>> {
        Some(match name {
            "transformer" => &mut self.transformer,
            "text-encoder" => &mut self.text_encoder,
            "vae" => &mut self.vae,
            "tokenizer" => &mut self.tokenizer,
            _ => return None,
        })
    }

    /// The same parts with another path for each.
    pub fn each(&self, path: impl Fn(&Path) -> PathBuf) -> Self {
        let of = |part: &Option<PathBuf>| part.as_deref().map(&path);
        Self {
            folder: of(&self.folder),
            transformer: of(&self.transformer),
            text_encoder: of(&self.text_encoder),
            vae: of(&self.vae),
            tokenizer: of(&self.tokenizer),
        }
    }

    /// Adds all that is read: the files of the folder as `what`, the single files by the names of
    /// their parts behind `before`.
    pub fn add_places(&self, what: &str, before: &str, places: &mut Places) {
        if let Some(folder) = &self.folder {
            places.reads_folder(what, folder);
        }
        for (name, file) in self.files() {
            let what = format!("{before}{name}");
            places.reads(what.clone(), file);
            // The shards that an index names are in its folder.
            if file.extension().is_some_and(|ending| ending == "json")
                && name != "tokenizer"
                && let Some(folder) = file.parent()
            {
                places.reads_folder(format!("{what}, file"), folder);
            }
        }
    }

    /// In words: the folder, or what is named first.
    pub fn describe(&self) -> String {
        let first = self.folder.as_deref().or_else(|| self.files().next().map(|(_, file)| file));
        first.map_or_else(|| BUILT_IN.to_owned(), |path| path.display().to_string())
    }
}

/// The parts of a folder, each opened where no file replaces it.
#[derive(Default)]
struct Base {
    dit: Option<(DitConfig, Option<WeightSet>)>,
    vae: Option<(VaeConfig, Option<WeightSet>)>,
    text: Option<(TextConfig, Option<WeightSet>)>,
    tokenizer: Option<PathBuf>,
    scheduler: Option<SchedulerSettings>,
}

impl Model {
    /// Opens the parts of a model. Of the weight files, only the headers are read.
    ///
    /// # Errors
    /// E07xx for the folder, configurations and tokenizer, E0705 for a part that nothing gives,
    /// E03xx for checkpoint files and tensors.
    pub fn of_parts(parts: &Parts) -> Result<Self> {
        let mut warnings = Vec::new();
        let Base { dit, vae, text, tokenizer, scheduler } = match &parts.folder {
            Some(folder) => Base::open(folder, parts, &mut warnings)?,
            None => Base::default(),
        };
        // What the folder's configurations say of each other comes before what its tensors say.
        let replaced = [&parts.transformer, &parts.vae, &parts.text_encoder];
        if let ([None, None, None], Some(dit), Some(vae), Some(text)) =
            (replaced, &dit, &vae, &text)
        {
            agree(&dit.0, &vae.0, &text.0, &parts.describe())?;
        }
        let (like, set) = part(dit, &parts.transformer, "transformer", &mut warnings)?;
        let (dit, dit_weights) = match &parts.transformer {
            Some(file) => transformer(file, &set, like.as_ref())?,
            None => checked(like.ok_or_else(|| missing("transformer"))?, &set)?,
        };
        let (like, set) = part(vae, &parts.vae, "vae", &mut warnings)?;
        let vae = match &parts.vae {
            Some(file) => autoencoder(file, &set, like.as_ref())?,
            None => checked(like.ok_or_else(|| missing("vae"))?, &set)?,
        };
        let (like, text_set) = part(text, &parts.text_encoder, "text-encoder", &mut warnings)?;
        let (text, text_weights) = match &parts.text_encoder {
            Some(file) => text_encoder(file, &text_set)?,
            None => checked(like.ok_or_else(|| missing("text-encoder"))?, &text_set)?,
        };
        let rows = text.vocab_size;
        let inside = match (&parts.tokenizer, &parts.text_encoder) {
            (None, Some(_)) => PromptTokenizer::inside(&text_set, rows)?,
            _ => None,
        };
        let tokenizer = match (inside, parts.tokenizer.clone().or(tokenizer)) {
            (Some(inside), _) => inside,
            (None, Some(file)) => PromptTokenizer::open_for(file, rows)?,
            (None, None) => match parts.text_encoder.as_deref().and_then(beside) {
                Some(file) => PromptTokenizer::open_for(file, rows)?,
                None => {
                    let what = "nothing says how a prompt becomes tokens";
                    return Err(Error::input("E0712", what).at(parts.describe()).help(
                        "name tokenizer.json or spiece.model of google/umt5-xxl with --tokenizer",
                    ));
                }
            },
        };
        let mut model = Self::assemble(
            (dit, dit_weights),
            vae,
            (text, text_weights),
            tokenizer,
            scheduler.unwrap_or_default(),
            parts.describe(),
            warnings,
        )?;
        model.parts = parts.clone();
        Ok(model)
    }
}

impl Base {
    /// Opens a folder; the weights of parts that a file replaces are not looked at.
    fn open(path: &Path, parts: &Parts, warnings: &mut Vec<String>) -> Result<Self> {
        let folder = ModelFolder::open(path)?;
        warnings.extend(folder.warnings.iter().cloned());
        let wanted = |file: &Option<PathBuf>, files: &WeightFiles| match file {
            Some(_) => Ok(None),
            None => files.open().map(Some),
        };
        match &folder.layout {
            Layout::Diffusers(files) => {
                let scheduler = SchedulerSettings::from_diffusers(&files.scheduler.value)
                    .map_err(|e| e.at(files.scheduler.path.display()))?;
                warnings.extend(scheduler.warnings.iter().cloned());
                let (dit, vae, text) = (&files.transformer, &files.vae, &files.text_encoder);
                Ok(Self {
                    dit: Some((
                        configured(&dit.config, DitConfig::from_diffusers)?,
                        wanted(&parts.transformer, &dit.weights)?,
                    )),
                    vae: Some((
                        configured(&vae.config, VaeConfig::from_diffusers)?,
                        wanted(&parts.vae, &vae.weights)?,
                    )),
                    text: Some((
                        configured(&text.config, TextConfig::from_diffusers)?,
                        wanted(&parts.text_encoder, &text.weights)?,
                    )),
                    tokenizer: Some(files.tokenizer.clone()),
                    scheduler: Some(scheduler),
                })
            }
            // Sizes are those of the tensors, which have to be there.
            Layout::Original(files) => {
                let config = &files.config;
                let set = files.transformer.open()?;
                let dit = inferred(&set, Component::Dit, &config.path, &|shape| {
                    DitConfig::from_original(Some(&config.value), shape)
                })?;
                let dit = (dit, parts.transformer.is_none().then_some(set));
                let set = files.vae.open()?;
                let path = files.vae.path();
                let vae = inferred(&set, Component::VAE, path, &VaeConfig::from_original)?;
                let vae = (vae, parts.vae.is_none().then_some(set));
                let set = files.text_encoder.open()?;
                let path = files.text_encoder.path();
                let text = inferred(&set, Component::Text, path, &TextConfig::from_original)?;
                let text = (text, parts.text_encoder.is_none().then_some(set));
                let tokenizer = Some(files.tokenizer.clone());
                Ok(Self {
                    dit: Some(dit),
                    vae: Some(vae),
                    text: Some(text),
                    tokenizer,
                    scheduler: None,
                })
            }
        }
    }
}

/// The folder's configuration of a part, and the tensors of the part: those of its file, or the
/// folder's.
fn part<C>(
    base: Option<(C, Option<WeightSet>)>,
    file: &Option<PathBuf>,
    name: &str,
    warnings: &mut Vec<String>,
) -> Result<(Option<C>, WeightSet)> {
    let (config, set) = base.map_or((None, None), |(config, set)| (Some(config), set));
    let set = match (file, set) {
        (Some(file), _) => WeightSet::open(file)?,
        (None, Some(set)) => set,
        (None, None) => return Err(missing(name)),
    };
    warnings.extend(set.warnings().iter().cloned());
    Ok((config, set))
}

fn missing(name: &str) -> Error {
    Error::input("E0705", format!("there is no {}", name.replace('-', " ")))
        .at(format!("--{name}"))
        .help("name its file with this flag, or a folder that has it with --model")
}

/// The sizes that the tensors of a set say, under their canonical names.
fn inferred<C>(
    set: &WeightSet,
    component: Component,
    path: &Path,
    read: &dyn Fn(ShapeLookup<'_>) -> std::result::Result<C, ConfigError>,
) -> Result<C> {
    let weights = ModelWeights::recognise(set, component)?;
    let shape = |name: &str| weights.set().tensor(name).map(|weight| weight.shape.clone());
    if component == Component::Dit
        && let Some(model) = kin::transformer(&shape).filter(|model| !kin::is_ours(model))
    {
        return Err(Error::input("E0708", format!("this is another model: {model}"))
            .at(path.display())
            .help("Wan2.2-TI2V-5B is needed: width 3072, 48 channels"));
    }
    read(&shape).map_err(|error| config_error(error, path))
}

/// `config.json` beside a file, where it is one of the class of the part.
fn config_beside(file: &Path, classes: &[&str]) -> Option<JsonFile> {
    let config = read_json(file.with_file_name("config.json")).ok()?;
    let class = config.value["_class_name"].as_str().or(config.value["model_type"].as_str());
    class.is_some_and(|class| classes.contains(&class)).then_some(config)
}

fn transformer(
    file: &Path,
    set: &WeightSet,
    like: Option<&DitConfig>,
) -> Result<(DitConfig, ModelWeights)> {
    let config = config_beside(file, &["WanTransformer3DModel", "WanModel"]);
    let dit = match &config {
        Some(config) if config.value["_class_name"] == "WanTransformer3DModel" => {
            configured(config, DitConfig::from_diffusers)?
        }
        Some(config) => inferred(set, Component::Dit, file, &|shape| {
            DitConfig::from_original(Some(&config.value), shape)
        })?,
        None => inferred(set, Component::Dit, file, &|shape| DitConfig::from_tensors(like, shape))?,
    };
    checked(dit, set)
}

fn autoencoder(
    file: &Path,
    set: &WeightSet,
    like: Option<&VaeConfig>,
) -> Result<(VaeConfig, ModelWeights)> {
    let vae = match config_beside(file, &["AutoencoderKLWan"]) {
        Some(config) => configured(&config, VaeConfig::from_diffusers)?,
        None => inferred(set, Component::VAE, file, &|shape| VaeConfig::from_tensors(like, shape))?,
    };
    checked(vae, set)
}

fn text_encoder(file: &Path, set: &WeightSet) -> Result<(TextConfig, ModelWeights)> {
    let text = match config_beside(file, &["umt5"]) {
        Some(config) => configured(&config, TextConfig::from_diffusers)?,
        None => inferred(set, Component::Text, file, &TextConfig::from_original)?,
    };
    checked(text, set)
}

/// A tokenizer in the folder of a text encoder, or in `tokenizer` beside that.
fn beside(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?;
    let folders = [folder.to_owned(), folder.join("tokenizer"), folder.join("../tokenizer")];
    let names = ["tokenizer.json", "spiece.model"].into_iter();
    let mut paths = names.flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    paths.find(|path| path.is_file())
}
