//! The folder of the original repository: everything beside `config.json`.

use std::path::Path;

use super::diffusers::STEM;
use super::find::{find_named, find_weights, tokenizer};
use super::{OriginalFolder, check_channels, check_width, other_model};
use crate::checkpoint::json::{JsonFile, get_string, optional_string, optional_u64, read_json};
use crate::error::{Error, Result};

impl OriginalFolder {
    pub(super) fn open(
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
        let transformer = find_weights(root, names, STEM, variant, warnings)?;
        let vae = find_named(root, names, "the VAE's", "wan2.2_vae", &["vae"])?;
        let text_encoder = find_named(root, names, "the text encoder's", "models_t5", &["t5"])?;
        let places = [root.join("google/umt5-xxl"), root.join("tokenizer"), root.to_owned()];
        let tokenizer = tokenizer(&places)?;
        Ok(Self { config, transformer, vae, text_encoder, tokenizer })
    }
}
