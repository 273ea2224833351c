//! Model folders: configurations, index and scheduler files, and what original checkpoints imply.
//!
//! The first line names the file, the rest is its text. The file takes its place in a folder that is
//! otherwise whole, and the folder is opened; configurations are read by themselves too, and what is
//! accepted must come back from what is written. `shapes/PART` holds the tensor shapes of an
//! original checkpoint.

use super::{corpus, refused};
use crate::engine::{Outcome, Target, Verdict};
use crate::mutate;
use crate::rng::Rng;
use anyid_models::wan::config::{ConfigError, DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::names;
use anyid_runtime::Model;
use anyid_runtime::checkpoint::folder::ModelFolder;
use anyid_runtime::sampling::SchedulerSettings;
use anyid_tests::folders::{Folder, diffusers, original};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The target.
pub struct Configs {
    diffusers: Folder,
    original: Folder,
}

/// Files of the folder in the layout of diffusers.
const FILES: [&str; 6] = [
    "model_index.json",
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
];
const INDEX: usize = 5;
/// The file of the original layout.
const ORIGINAL: &str = "config.json";

const WORDS: [&str; 48] = [
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "\"\"",
    "1e400",
    "-0.0",
    "_class_name",
    "num_layers",
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "out_channels",
    "ffn_dim",
    "freq_dim",
    "text_dim",
    "eps",
    "qk_norm",
    "cross_attn_norm",
    "patch_size",
    "rope_max_seq_len",
    "z_dim",
    "base_dim",
    "decoder_base_dim",
    "dim_mult",
    "num_res_blocks",
    "temperal_downsample",
    "latents_mean",
    "latents_std",
    "d_model",
    "d_kv",
    "d_ff",
    "num_heads",
    "vocab_size",
    "relative_attention_num_buckets",
    "flow_shift",
    "shift",
    "solver_order",
    "prediction_type",
    "UniPCMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "weight_map",
    "metadata",
    "total_size",
    "transformer",
    "WanPipeline",
    "../../x",
];

impl Configs {
    /// The target.
    pub fn new() -> Self {
        Self { diffusers: diffusers(1), original: original(1, |_| {}) }
    }

    fn place(&self, name: &str) -> Option<PathBuf> {
        let folder = if name == ORIGINAL { &self.original } else { &self.diffusers };
        let known = name == ORIGINAL || FILES.contains(&name);
        known.then(|| folder.path().join(name))
    }
}

fn input(name: &str, text: &str) -> Vec<u8> {
    format!("{name}\n{text}").into_bytes()
}

fn shapes(tensors: &[(String, Vec<u64>)]) -> String {
    let object: Map<String, Value> =
        tensors.iter().map(|(name, shape)| (name.clone(), json!(shape))).collect();
    Value::Object(object).to_string()
}

impl Target for Configs {
    fn name(&self) -> &'static str {
        "config"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut out = corpus("config");
        for name in FILES.iter().chain([&ORIGINAL]) {
            if let Some(text) = self.place(name).and_then(|path| std::fs::read_to_string(path).ok())
            {
                out.push(input(name, &text));
            }
        }
        let tensors = names::dit_tensors(&DitConfig::micro());
        let map: Map<String, Value> = tensors
            .iter()
            .map(|(name, _)| (name.clone(), json!("diffusion_pytorch_model.safetensors")))
            .collect();
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
        out.push(input(FILES[INDEX], &index.to_string()));
        for (part, tensors) in [
            ("shapes/dit", names::dit_tensors(&DitConfig::micro())),
            ("shapes/vae", names::vae_tensors(&VaeConfig::micro())),
            ("shapes/text", names::text_tensors(&TextConfig::micro())),
        ] {
            out.push(input(part, &shapes(&tensors)));
        }
        for (name, value) in [
            (FILES[1], DitConfig::ti2v_5b().to_diffusers_json()),
            (FILES[2], VaeConfig::ti2v_5b().to_diffusers_json()),
            (FILES[3], TextConfig::ti2v_5b().to_diffusers_json()),
            (FILES[4], json!({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 5.0})),
        ] {
            out.push(input(name, &format!("{value:#}")));
        }
        out
    }

    fn words(&self) -> &'static [&'static str] {
        &WORDS
    }

    fn change(&self, rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
        let end = data.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut text = data.split_off(end);
        mutate::text(rng, &mut text, self.words(), other);
        data.extend(text);
    }

    fn run(&self, data: &[u8]) -> Outcome {
        let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
        let name = String::from_utf8_lossy(&data[..end]).into_owned();
        let text = data.get(end + 1..).unwrap_or_default();
        let value = serde_json::from_slice::<Value>(text).ok();
        if let Some(value) = &value {
            alone(&name, value)?;
        }
        let Some(path) = self.place(&name) else {
            return match value.map(|value| inferred(&name, &value)) {
                Some(Ok(())) => Ok(Verdict::Taken),
                Some(Err(error)) => Ok(Verdict::Refused(error.key.chars().take(12).collect())),
                None => Ok(Verdict::Refused("no JSON".to_owned())),
            };
        };
        let sum = data.iter().map(|byte| usize::from(*byte)).sum::<usize>();
        // What is no JSON is refused in one place, whatever it is.
        if value.is_none() && sum % 8 > 0 {
            return Ok(Verdict::Refused("no JSON".to_owned()));
        }
        let fault = |fault: std::io::Error| format!("{}: {fault}", path.display());
        let kept = std::fs::read(&path).ok();
        std::fs::write(&path, text).map_err(fault)?;
        let folder = if name == ORIGINAL { &self.original } else { &self.diffusers };
        // Opening weights and tokenizer takes most of the time and sees little of these files.
        let whole = sum % 32 == 0;
        let outcome = match ModelFolder::open(folder.path()) {
            Ok(_) if whole || name == FILES[INDEX] => Model::open(folder.path()).map(drop),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        match kept {
            Some(kept) => std::fs::write(&path, kept).map_err(fault)?,
            None => std::fs::remove_file(&path).map_err(fault)?,
        }
        match outcome {
            Ok(()) => Ok(Verdict::Taken),
            Err(error) => refused(&error),
        }
    }
}

/// A configuration by itself: what is accepted must come back from what is written.
fn alone(name: &str, value: &Value) -> Result<(), String> {
    let same =
        |good: bool| if good { Ok(()) } else { Err(format!("{name} comes back as another")) };
    if let ("transformer/config.json", Ok(config)) = (name, DitConfig::from_diffusers(value)) {
        let _ = config.parameter_count();
        let again = DitConfig::from_diffusers(&config.to_diffusers_json());
        same(again.as_ref() == Ok(&config))?;
    }
    if let ("vae/config.json", Ok(config)) = (name, VaeConfig::from_diffusers(value)) {
        let _ = config.parameter_count();
        same(VaeConfig::from_diffusers(&config.to_diffusers_json()).as_ref() == Ok(&config))?;
    }
    if let ("text_encoder/config.json", Ok(config)) = (name, TextConfig::from_diffusers(value)) {
        let _ = config.parameter_count();
        same(TextConfig::from_diffusers(&config.to_diffusers_json()).as_ref() == Ok(&config))?;
    }
    if name == "scheduler/scheduler_config.json"
        && let Ok(settings) = SchedulerSettings::from_diffusers(value)
        && !(settings.shift.is_finite() && settings.shift > 0.0)
    {
        return Err(format!("a shift of {}", settings.shift));
    }
    Ok(())
}

/// What the shapes of an original checkpoint imply.
fn inferred(name: &str, value: &Value) -> Result<(), ConfigError> {
    let shape = |name: &str| -> Option<Vec<u64>> {
        value.get(name)?.as_array()?.iter().map(Value::as_u64).collect()
    };
    match name {
        "shapes/dit" => {
            let config = DitConfig::from_original(None, &shape)?;
            let _ = config.parameter_count();
        }
        "shapes/vae" => {
            let config = VaeConfig::from_original(&shape)?;
            let _ = config.parameter_count();
        }
        _ => {
            let config = TextConfig::from_original(&shape)?;
            let _ = config.parameter_count();
        }
    }
    Ok(())
}
