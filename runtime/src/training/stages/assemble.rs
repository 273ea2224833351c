//! Model folders with the result of a stage in them: an adapter merged, or a network in the place of that
//! of the base. The other files of the model are copied. A folder appears whole or not at all.

use super::file::Stage;
use crate::adapter::{self, Beside, Tolerance, Wanted, copy_file, copy_model, weight_files};
use crate::checkpoint::{Layout, ModelFolder};
use crate::error::{Error, Result};
use crate::files::{AtomicFolder, Existing};
use crate::model::Model;
use crate::training::parameters::Kind;
use crate::training::settings::TrainedNetwork;
use anyid_models::wan::names::Component;
use std::collections::BTreeSet;
use std::path::Path;

/// Writes the model `base` with `result` of `stage` in it to `output`.
///
/// # Errors
/// E0970 for a network in a folder whose layout has no place for it, those of [`adapter::merge`] and of
/// reading models, E101x where it cannot be written.
pub fn model(base: &Path, stage: &Stage, result: &Path, output: &Path) -> Result<()> {
    if stage.kind == Kind::Full {
        return replaced(base, stage.settings.train.network, result, output);
    }
    // What is trained is the model with the adapters of its settings: they are part of the result.
    let mut open = |modules: &adapter::Modules, _: &adapter::Ground| {
        let mut list = Vec::new();
        for text in &stage.settings.model.adapters {
            let Wanted { path, scale } = Wanted::parse(text)?;
            list.push((adapter::open(&path, modules, Tolerance::default())?, scale));
        }
        list.push((adapter::open(result, modules, Tolerance::default())?, 1.0));
        Ok(list)
    };
    let to = (output, Existing::Overwrite, Beside::Model);
    let merged = adapter::merge(base, &mut open, to, &mut |_, _| {});
    merged.map(drop)
}

/// Writes `base` with the weights of `network` from the file `weights` to `output`, and with the
/// configuration beside that file, if there is one. A judge is no part of a model.
fn replaced(base: &Path, network: TrainedNetwork, weights: &Path, output: &Path) -> Result<()> {
    let folder = ModelFolder::open(base)?;
    let Some(component) = network.component(&Model::open(base)?) else {
        let made = AtomicFolder::create(output, Existing::Overwrite)?;
        copy_model(&folder, made.temporary_path(), &BTreeSet::new())?;
        return made.commit().map(drop);
    };
    let (files, inside, stem) = match (&folder.layout, component) {
        (Layout::Diffusers(files), Component::Dit) => {
            (&files.transformer.weights, "transformer", "diffusion_pytorch_model")
        }
        (Layout::Diffusers(files), Component::Vae { .. }) => {
            (&files.vae.weights, "vae", "diffusion_pytorch_model")
        }
        (Layout::Diffusers(files), Component::Text) => {
            (&files.text_encoder.weights, "text_encoder", "model")
        }
        (Layout::Original(files), Component::Dit) => {
            (&files.transformer, "", "diffusion_pytorch_model")
        }
        (Layout::Original(_), Component::Vae { .. } | Component::Text) => {
            let message =
                format!("the trained {} has no place in this folder", network.described());
            return Err(Error::input("E0970", message)
                .at(base.display())
                .help("begin with a model folder that has `model_index.json`"));
        }
    };
    let mut left_out = weight_files(base, inside, files)?;
    let config = Some(weights.with_extension("json")).filter(|config| config.is_file());
    left_out.extend(config.iter().map(|_| base.join(inside).join("config.json")));
    let made = AtomicFolder::create(output, Existing::Overwrite)?;
    let target = made.temporary_path();
    copy_model(&folder, target, &left_out)?;
    copy_file(weights, &target.join(inside).join(format!("{stem}.safetensors")))?;
    if let Some(config) = config {
        copy_file(&config, &target.join(inside).join("config.json"))?;
    }
    made.commit().map(drop)
}
