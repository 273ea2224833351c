//! A folder of diffusers: `model_index.json`, and a folder for each component.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::find::{find_weights, tokenizer};
use super::{Component, DiffusersFolder, check_channels, check_width, list, other_model};
use crate::checkpoint::json::{
    JsonFile, get_string, optional_bool, optional_string, optional_u64, read_json, wrong_type,
};
use crate::error::{Error, Result};

impl DiffusersFolder {
    pub(super) fn open(
        root: &Path,
        variant: Option<&str>,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let index = read_json(root.join("model_index.json"))?;
        check_pipeline(&index)?;
        let transformer = component(root, "transformer", STEM, variant, warnings)?;
        check_transformer(&transformer.config)?;
        if optional_bool(&index.value, "expand_timesteps", &index.path)? != Some(true) {
            warnings.push(format!(
                "{}: `expand_timesteps` is not true, as in older conversions; read as \
                 Wan2.2-TI2V-5B because the transformer has 48 channels",
                index.path.display()
            ));
        }
        let vae = component(root, "vae", STEM, variant, warnings)?;
        let text_encoder = component(root, "text_encoder", TEXT_STEMS, variant, warnings)?;
        let tokenizer = tokenizer(&[component_folder(root, "tokenizer")?])?;
        let folder = component_folder(root, "scheduler")?;
        let scheduler = read_json(folder.join("scheduler_config.json"))?;
        Ok(Self { index, transformer, vae, text_encoder, tokenizer, scheduler })
    }
}

/// How the files of weights begin.
pub(super) const STEM: &[&str] = &["diffusion_pytorch_model"];
/// How those of the text encoder begin: as transformers writes them, today and earlier.
const TEXT_STEMS: &[&str] = &["model", "pytorch_model"];

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
    stems: &[&str],
    variant: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<Component> {
    let folder = component_folder(root, name)?;
    let config = read_json(folder.join("config.json"))?;
    let weights = find_weights(&folder, &list(&folder)?, stems, variant, warnings)?;
    Ok(Component { config, weights })
}
