//! Sizes of the three networks: the real model, tiny ones for tests, and any other that a
//! model folder describes.
//!
//! A configuration comes from a preset, from a diffusers `config.json`, or from the tensor shapes
//! of an original checkpoint (`formats.md` §2.2). Every reader ends in `validate`, so that what it
//! returns is a network that can be built; what cannot be run is refused with the key and the
//! reason. Sizes are never hard-wired elsewhere. Nothing here reads a file.

mod dit;
mod files;
mod read;
mod text;
mod vae;

pub use dit::DitConfig;
pub use files::{model_index_json, scheduler_config_json};
pub use text::TextConfig;
pub use vae::VaeConfig;

use std::fmt;

/// A configuration that cannot be used: which key, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, or the tensor, that is wrong.
    pub key: String,
    /// What is wrong with it, with the value.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl std::error::Error for ConfigError {}

/// The shape of a tensor of an original checkpoint by its canonical name, if the file has it.
pub type ShapeLookup<'a> = &'a dyn Fn(&str) -> Option<Vec<u64>>;

/// Largest size any single key may have.
const MAX_SIZE: usize = 1_000_000;
/// Largest number of repeated blocks.
const MAX_BLOCKS: usize = 1000;
/// Version of the library whose files the writers imitate.
const DIFFUSERS_VERSION: &str = "0.42.1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::names::{dit_tensors, text_tensors, vae_tensors};
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn file(name: &str) -> Value {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/");
        serde_json::from_slice(&std::fs::read(format!("{folder}{name}")).expect(name)).unwrap()
    }

    #[test]
    fn presets_are_valid_and_the_micro_model_is_small() {
        for dit in [DitConfig::ti2v_5b(), DitConfig::micro(), DitConfig::world()] {
            dit.validate().unwrap();
        }
        for vae in [VaeConfig::ti2v_5b(), VaeConfig::micro()] {
            vae.validate().unwrap();
            assert_eq!((vae.spatial_factor(), vae.temporal_factor()), (16, 4));
        }
        for text in [TextConfig::ti2v_5b(), TextConfig::micro(), TextConfig::world()] {
            text.validate().unwrap();
        }
        let (dit, vae, text) = (DitConfig::micro(), VaeConfig::micro(), TextConfig::micro());
        let counts = [dit.parameter_count(), vae.parameter_count(), text.parameter_count()];
        println!("micro model: {counts:?}");
        assert!(counts.iter().sum::<u64>() <= 1_200_000, "{counts:?}");
        assert_eq!((dit.in_channels, dit.text_dim), (vae.z_dim, text.d_model));
        let (dit, vae, text) = (DitConfig::world(), VaeConfig::world(), TextConfig::world());
        vae.validate().unwrap();
        assert_eq!((vae.spatial_factor(), vae.temporal_factor()), (8, 4));
        assert_eq!((dit.in_channels, dit.text_dim), (vae.z_dim, text.d_model));
        assert_eq!((dit.parameter_count(), vae.parameter_count()), (2_752_728, 1_561_548));
        let real = (DitConfig::ti2v_5b(), VaeConfig::ti2v_5b(), TextConfig::ti2v_5b());
        assert_eq!(real.0.parameter_count(), 4_999_787_712);
        assert_eq!(real.1.parameter_count(), 704_688_668);
        assert_eq!(real.2.parameter_count(), 5_680_910_336);
        assert_eq!((real.0.width(), real.0.patch_values()), (3072, 192));
    }

    #[test]
    fn levels_follow_the_multiples() {
        let vae = VaeConfig::ti2v_5b();
        assert_eq!(vae.encoder_levels(), [(160, 160), (160, 320), (320, 640), (640, 640)]);
        assert_eq!(vae.decoder_levels(), [(1024, 1024), (1024, 1024), (1024, 512), (512, 256)]);
        assert_eq!((vae.encoder_width(), vae.decoder_width()), (640, 1024));
        assert_eq!(vae.temporal_upsample(), [true, true, false]);
    }

    #[test]
    fn files_are_read_and_written_back_unchanged() {
        for name in
            ["dit/base", "dit/hd128", "dit/patch1", "dit/patch213", "pipeline/base/transformer"]
        {
            let value = file(&format!("{name}/config.json"));
            let config = DitConfig::from_diffusers(&value).unwrap();
            assert_eq!(config.to_diffusers_json(), value, "{name}");
            assert_eq!((config.text_len, config.rope_theta), (512, 10000.0));
        }
        for name in ["vae/base", "vae/levels3", "vae/plain", "vae/still", "pipeline/base/vae"] {
            let value = file(&format!("{name}/config.json"));
            let config = VaeConfig::from_diffusers(&value).unwrap();
            assert_eq!(config.to_diffusers_json(), value, "{name}");
        }
        for name in ["text/base", "text/plain", "pipeline/base/text_encoder"] {
            let value = file(&format!("{name}/config.json"));
            let config = TextConfig::from_diffusers(&value).unwrap();
            assert_eq!(config.to_diffusers_json(), value, "{name}");
        }
        assert_eq!(
            scheduler_config_json(5.0),
            file("pipeline/base/scheduler/scheduler_config.json")
        );
        assert_eq!(model_index_json(), file("pipeline/base/model_index.json"));
    }

    #[test]
    fn presets_survive_their_files() {
        for dit in [DitConfig::ti2v_5b(), DitConfig::micro(), DitConfig::world()] {
            assert_eq!(DitConfig::from_diffusers(&dit.to_diffusers_json()).unwrap(), dit);
        }
        for vae in [VaeConfig::ti2v_5b(), VaeConfig::micro(), VaeConfig::world()] {
            assert_eq!(VaeConfig::from_diffusers(&vae.to_diffusers_json()).unwrap(), vae);
        }
        for text in [TextConfig::ti2v_5b(), TextConfig::micro(), TextConfig::world()] {
            assert_eq!(TextConfig::from_diffusers(&text.to_diffusers_json()).unwrap(), text);
        }
    }

    /// Sets (or, with `None`, removes) each key in turn and expects an error at that key.
    fn refuses<T: std::fmt::Debug>(
        base: &Value,
        read: fn(&Value) -> Result<T, ConfigError>,
        cases: &[(&str, Option<Value>, &str)],
    ) {
        read(base).unwrap();
        for (key, value, reason) in cases {
            let mut config = base.clone();
            let object = config.as_object_mut().unwrap();
            match value {
                Some(value) => object.insert((*key).to_owned(), value.clone()),
                None => object.remove(*key),
            };
            let error = read(&config).unwrap_err();
            assert!(error.to_string().contains(reason), "{key} {value:?}: {error}");
        }
        for not_an_object in [json!(null), json!([]), json!("text")] {
            assert_eq!(read(&not_an_object).unwrap_err().key, "config.json");
        }
    }

    #[test]
    fn impossible_transformers_are_refused() {
        refuses(
            &DitConfig::ti2v_5b().to_diffusers_json(),
            DitConfig::from_diffusers,
            &[
                ("num_attention_heads", Some(json!(0)), "num_attention_heads: 0"),
                ("num_attention_heads", Some(json!(40)), "14B"),
                ("num_attention_heads", Some(json!(10_000)), "too wide"),
                ("num_attention_heads", None, "num_attention_heads: is missing"),
                ("attention_head_dim", Some(json!(127)), "attention_head_dim: 127 must be even"),
                ("attention_head_dim", Some(json!(4)), "at least 6"),
                ("num_layers", Some(json!(100_000)), "num_layers"),
                ("num_layers", Some(json!("30")), "\"30\" is not a whole number"),
                ("num_layers", Some(json!(-1)), "not a whole number"),
                ("num_layers", Some(json!(1e300)), "not a whole number"),
                ("ffn_dim", Some(json!(1_000_001)), "ffn_dim: 1000001"),
                ("ffn_dim", Some(json!(u64::MAX)), "ffn_dim"),
                ("in_channels", Some(json!(16)), "out_channels: 48 differs"),
                ("in_channels", Some(json!(36)), "image-to-video"),
                ("out_channels", Some(json!(16)), "out_channels: 16 differs"),
                ("patch_size", Some(json!([1, 0, 4])), "patch_size: [1, 0, 4]"),
                ("patch_size", Some(json!([1, 2, 17])), "patch_size: [1, 2, 17]"),
                ("patch_size", Some(json!([2, 2])), "2 sizes, not 3"),
                ("patch_size", Some(json!(2)), "list of whole numbers"),
                ("freq_dim", Some(json!(255)), "freq_dim: 255 must be even"),
                ("eps", Some(json!(0)), "eps: 0"),
                ("eps", Some(json!("x")), "not a number"),
                ("qk_norm", Some(json!("layer_norm")), "rms_norm_across_heads"),
                ("qk_norm", Some(json!(null)), "rms_norm_across_heads"),
                ("added_kv_proj_dim", Some(json!(5120)), "Wan2.1 image-to-video"),
                ("image_dim", Some(json!(1280)), "Wan2.1 image-to-video"),
                ("cross_attn_norm", Some(json!(1)), "not true or false"),
                ("text_len", Some(json!(0)), "text_len: 0"),
                ("sample_frames", Some(json!(0)), "sample_frames: 0"),
                ("sample_steps", Some(json!(0)), "sample_steps: 0"),
                ("sample_guidance", Some(json!("high")), "not a number"),
                (
                    "_class_name",
                    Some(json!("WanVACETransformer3DModel")),
                    "WanVACETransformer3DModel",
                ),
            ],
        );
    }

    #[test]
    fn impossible_autoencoders_are_refused() {
        let mut infinite = vec![json!(0.0); 48];
        infinite[3] = json!(1e300);
        let mut zero = vec![json!(1.0); 48];
        zero[7] = json!(0.0);
        refuses(
            &VaeConfig::ti2v_5b().to_diffusers_json(),
            VaeConfig::from_diffusers,
            &[
                ("is_residual", Some(json!(1)), "not true or false"),
                ("dim_mult", Some(json!([1, 2, 4])), "temperal_downsample: 3 flags for 3 levels"),
                ("dim_mult", Some(json!([])), "dim_mult: 0 levels"),
                ("dim_mult", Some(json!([1, 1, 1, 1, 1, 1, 1, 1, 1])), "dim_mult: 9 levels"),
                ("dim_mult", Some(json!([1, 2, 4, 0])), "dim_mult: 0"),
                ("dim_mult", Some(json!([1, 2, 4, 1_000_000_000_000u64])), "dim_mult"),
                ("dim_mult", Some(json!([1, 3, 4, 7])), "encoder level"),
                ("dim_mult", Some(json!([1, 2, 4, "4"])), "list of whole numbers"),
                ("temperal_downsample", Some(json!([true])), "temperal_downsample: 1 flags"),
                ("temperal_downsample", Some(json!([0, 1, 1])), "list of booleans"),
                ("temperal_downsample", Some(json!([true, true, true])), "scale_factor_temporal"),
                ("scale_factor_spatial", Some(json!(8)), "scale_factor_spatial: 8"),
                ("latents_mean", Some(json!([0.0])), "latents_mean: 1 values for z_dim = 48"),
                ("latents_mean", Some(json!(infinite)), "value 3 is inf"),
                ("latents_std", Some(json!(zero)), "latents_std: value 7 is 0, not positive"),
                ("latents_std", None, "latents_std: is missing"),
                ("z_dim", Some(json!(16)), "latents_mean"),
                ("patch_size", Some(json!(0)), "patch_size: 0"),
                ("patch_size", Some(json!(17)), "patch_size: 17"),
                (
                    "patch_size",
                    Some(json!(null)),
                    "in_channels: 12 does not fit pixel patches of 1",
                ),
                ("in_channels", Some(json!(3)), "in_channels: 3"),
                ("num_res_blocks", Some(json!(0)), "num_res_blocks: 0"),
                ("attn_scales", Some(json!([0.5])), "attn_scales"),
                ("base_dim", Some(json!(0)), "base_dim: 0"),
                ("_class_name", Some(json!("AutoencoderKL")), "AutoencoderKLWan"),
            ],
        );
    }

    #[test]
    fn an_autoencoder_without_shortcuts_halves_its_channels() {
        let plain = VaeConfig { residual: false, ..VaeConfig::micro() };
        let odd = VaeConfig { decoder_base_dim: 9, dim_mult: vec![1, 3, 1, 1], ..plain.clone() };
        let error = odd.validate().unwrap_err();
        assert_eq!(error.to_string(), "dim_mult: 9 channels cannot be halved");
        // What diffusers leaves out is Wan2.1's.
        let mut file = plain.to_diffusers_json();
        for key in ["is_residual", "patch_size", "in_channels", "out_channels"] {
            file.as_object_mut().unwrap().remove(key);
        }
        for key in ["scale_factor_spatial", "scale_factor_temporal"] {
            file[key] = Value::Null;
        }
        let read = VaeConfig::from_diffusers(&file).unwrap();
        assert_eq!((read.residual, read.patch_size, read.in_channels), (false, 1, 3));
        assert_eq!(read.spatial_factor(), 8);
    }

    #[test]
    fn impossible_text_encoders_are_refused() {
        refuses(
            &TextConfig::ti2v_5b().to_diffusers_json(),
            TextConfig::from_diffusers,
            &[
                ("model_type", Some(json!("t5")), "umt5"),
                ("feed_forward_proj", Some(json!("relu")), "gated GELU"),
                ("vocab_size", Some(json!(0)), "vocab_size: 0"),
                ("num_heads", Some(json!(1_000_000)), "too wide"),
                ("relative_attention_num_buckets", Some(json!(31)), "multiple of 4"),
                ("relative_attention_max_distance", Some(json!(8)), "exceed"),
                ("layer_norm_epsilon", Some(json!(2)), "layer_norm_epsilon: 2"),
                ("layer_norm_epsilon", Some(json!(1e-60)), "layer_norm_epsilon: 0.0000"),
                ("d_kv", None, "d_kv: is missing"),
            ],
        );
    }

    fn table(manifest: Vec<(String, Vec<u64>)>) -> BTreeMap<String, Vec<u64>> {
        manifest.into_iter().collect()
    }

    #[test]
    fn original_checkpoints_are_inferred_from_their_tensors() {
        let real = DitConfig::ti2v_5b();
        let mut tensors = table(dit_tensors(&real));
        let lookup = |name: &str| tensors.get(name).cloned();
        assert_eq!(DitConfig::from_original(None, &lookup).unwrap(), real);
        let config = json!({
            "_class_name": "WanModel", "dim": 3072, "eps": 1e-6, "ffn_dim": 14336, "freq_dim": 256,
            "in_dim": 48, "model_type": "ti2v", "num_heads": 24, "num_layers": 30, "out_dim": 48,
            "text_len": 512
        });
        assert_eq!(DitConfig::from_original(Some(&config), &lookup).unwrap(), real);
        let mut other = config.clone();
        other["num_layers"] = json!(31);
        let error = DitConfig::from_original(Some(&other), &lookup).unwrap_err();
        assert_eq!(error.to_string(), "num_layers: config.json says 31, but the tensors have 30");
        other = config.clone();
        other["model_type"] = json!("i2v");
        assert_eq!(DitConfig::from_original(Some(&other), &lookup).unwrap_err().key, "model_type");

        let micro = DitConfig { text_len: 16, ..DitConfig::micro() };
        let small = table(dit_tensors(&micro));
        let lookup = |name: &str| small.get(name).cloned();
        assert_eq!(DitConfig::from_original(None, &lookup).unwrap_err().key, "num_heads");
        // What it says nothing about is as in Wan2.2.
        let DitConfig { sample, sample_steps, .. } = DitConfig::ti2v_5b();
        let usual = DitConfig { sample, sample_steps, ..micro.clone() };
        let config = json!({ "num_heads": 2, "text_len": 16 });
        assert_eq!(DitConfig::from_original(Some(&config), &lookup).unwrap(), usual);
        let config = json!({ "num_heads": 2, "text_len": 16, "sample_width": 192,
            "sample_height": 192, "sample_frames": 9, "sample_steps": 8 });
        assert_eq!(DitConfig::from_original(Some(&config), &lookup).unwrap(), micro);
        let config = json!({ "num_heads": 7 });
        assert_eq!(DitConfig::from_original(Some(&config), &lookup).unwrap_err().key, "num_heads");

        tensors.insert("blocks.0.cross_attn.k_img.weight".into(), vec![3072, 3072]);
        let lookup = |name: &str| tensors.get(name).cloned();
        let error = DitConfig::from_original(None, &lookup).unwrap_err();
        assert!(error.message.contains("image-to-video"), "{error}");
        let error = DitConfig::from_original(None, &|_: &str| None).unwrap_err();
        assert_eq!(error.to_string(), "patch_embedding.bias: the tensor is missing");
        let scalar = |_: &str| Some(vec![]);
        assert!(TextConfig::from_original(&scalar).unwrap_err().message.contains("axes"));
        let huge = |name: &str| {
            // Nothing foreign, and every other tensor of an absurd shape.
            let foreign = ["img", "vace", "motion", "control", "downsamples.0.residual"];
            let known = !foreign.iter().any(|part| name.contains(part));
            known.then(|| if name.ends_with("bias") { vec![4] } else { vec![u64::MAX; 5] })
        };
        assert_eq!(DitConfig::from_original(None, &huge).unwrap_err().message, "is too large");
        assert!(VaeConfig::from_original(&huge).is_err());
        assert!(TextConfig::from_original(&huge).is_err());
    }

    #[test]
    fn merged_patch_embeddings_are_understood() {
        let mut tensors = table(dit_tensors(&DitConfig::ti2v_5b()));
        tensors.insert("patch_embedding.weight".into(), vec![48 * 3072, 1, 2, 2]);
        let read = DitConfig::from_original(None, &|name: &str| tensors.get(name).cloned());
        assert_eq!(read.unwrap(), DitConfig::ti2v_5b());
    }

    #[test]
    fn original_autoencoders_and_text_encoders_are_inferred() {
        for vae in [VaeConfig::ti2v_5b(), VaeConfig::micro()] {
            let tensors = table(vae_tensors(&vae));
            let read = VaeConfig::from_original(&|name: &str| tensors.get(name).cloned());
            assert_eq!(read.unwrap(), vae);
        }
        let flat = |name: &str| {
            (name == "encoder.downsamples.0.residual.2.weight").then(|| vec![96, 96, 3, 3, 3])
        };
        assert!(VaeConfig::from_original(&flat).unwrap_err().message.contains("Wan2.1"));
        for text in [TextConfig::ti2v_5b(), TextConfig::micro()] {
            let tensors = table(text_tensors(&text));
            let read = TextConfig::from_original(&|name: &str| tensors.get(name).cloned());
            assert_eq!(read.unwrap(), text);
        }
    }
}
