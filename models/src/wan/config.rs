//! Sizes of the three networks: the real model, the built-in micro model, and any other that a
//! model folder describes.
//!
//! A configuration comes from a preset, from a diffusers `config.json`, or from the tensor shapes
//! of an original checkpoint (formats.md §2.2). Every reader ends in `validate`, so that what it
//! returns is a network that can be built; what cannot be run is refused with the key and the
//! reason. Sizes are never hard-wired elsewhere. Nothing here reads a file.

use std::fmt;

use serde_json::{Map, Value, json};

use super::names::{dit_tensors, parameter_count, text_tensors, vae_tensors};

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

/// Sizes of the diffusion transformer (dit.md §1).
#[derive(Clone, Debug, PartialEq)]
pub struct DitConfig {
    /// Attention heads.
    pub heads: usize,
    /// Channels per head; even.
    pub head_dim: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Width inside the feed-forward.
    pub ffn_dim: usize,
    /// Latent channels that go in.
    pub in_channels: usize,
    /// Velocity channels that come out; equal to `in_channels`.
    pub out_channels: usize,
    /// Patch size (frames, rows, columns); always (1, 2, 2).
    pub patch: [u32; 3],
    /// Width of a text embedding row.
    pub text_dim: usize,
    /// Length of the timestep sinusoid; even.
    pub freq_dim: usize,
    /// Added to the variance in every norm.
    pub eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether an affine norm stands before cross-attention.
    pub cross_attn_norm: bool,
    /// Whether queries and keys are RMS-normalised over all heads together.
    pub qk_norm: bool,
    /// Rows to which text embeddings are padded.
    pub text_len: usize,
}

impl DitConfig {
    /// Wan2.2-TI2V-5B: 825 tensors, 4,999,787,712 parameters.
    pub fn ti2v_5b() -> Self {
        Self {
            heads: 24,
            head_dim: 128,
            layers: 30,
            ffn_dim: 14336,
            in_channels: 48,
            out_channels: 48,
            patch: [1, 2, 2],
            text_dim: 4096,
            freq_dim: 256,
            eps: 1e-6,
            rope_theta: 10000.0,
            cross_attn_norm: true,
            qk_norm: true,
            text_len: 512,
        }
    }

    /// The transformer of the built-in micro model.
    pub fn micro() -> Self {
        Self {
            heads: 2,
            head_dim: 32,
            layers: 2,
            ffn_dim: 192,
            text_dim: 64,
            freq_dim: 64,
            ..Self::ti2v_5b()
        }
    }

    /// D, the width of the residual stream: heads · head_dim.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Values of one patch that enter the patch embedding: channels · patch volume.
    pub fn patch_values(&self) -> usize {
        self.in_channels * self.patch.iter().map(|size| *size as usize).product::<usize>()
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> u64 {
        parameter_count(&dit_tensors(self))
    }

    /// Reads the `config.json` of a diffusers `transformer/` folder.
    ///
    /// # Errors
    /// A missing key, a wrong type, an impossible size, or a model of the family that is not
    /// supported (named in the message).
    pub fn from_diffusers(config: &Value) -> Result<Self, ConfigError> {
        let reader = Reader::new(config, "WanTransformer3DModel")?;
        for key in ["added_kv_proj_dim", "image_dim", "pos_embed_seq_len"] {
            reader.demand(
                key,
                &Value::Null,
                "this is Wan2.1 image-to-video with an image encoder, which is not supported",
            )?;
        }
        let qk_norm = reader.required("qk_norm")?;
        if qk_norm != "rms_norm_across_heads" {
            let text = format!("{} is not supported, only rms_norm_across_heads", shown(qk_norm));
            return Err(fault("qk_norm", text));
        }
        let in_channels = reader.size("in_channels")?;
        let made = Self {
            heads: reader.size("num_attention_heads")?,
            head_dim: reader.size("attention_head_dim")?,
            layers: reader.size("num_layers")?,
            ffn_dim: reader.size("ffn_dim")?,
            in_channels,
            out_channels: match reader.given("out_channels") {
                Some(_) => reader.size("out_channels")?,
                None => in_channels,
            },
            patch: reader.patch("patch_size")?,
            text_dim: reader.size("text_dim")?,
            freq_dim: reader.size("freq_dim")?,
            eps: reader.number_or("eps", 1e-6)?,
            cross_attn_norm: reader.flag("cross_attn_norm")?,
            ..Self::ti2v_5b()
        };
        made.validate()?;
        Ok(made)
    }

    /// Infers the sizes from the tensors of an original checkpoint; `config` is its `config.json`
    /// where there is one. Without it there are as many heads as 128 divides the width.
    ///
    /// # Errors
    /// A tensor that is missing or has an impossible shape, a contradiction between tensors and
    /// `config`, or what [`DitConfig::from_diffusers`] refuses.
    pub fn from_original(
        config: Option<&Value>,
        shape: ShapeLookup<'_>,
    ) -> Result<Self, ConfigError> {
        let foreign = [
            ("img_emb.proj.1.weight", "Wan2.1 image-to-video"),
            ("blocks.0.cross_attn.k_img.weight", "Wan2.1 image-to-video"),
            ("vace_blocks.0.self_attn.q.weight", "a VACE model"),
            ("vace_patch_embedding.weight", "a VACE model"),
            ("motion_encoder.enc.fc.0.weight", "Wan2.2-Animate"),
            ("control_adapter.conv.weight", "a camera-control model"),
        ];
        for (tensor, model) in foreign {
            if shape(tensor).is_some() {
                return Err(fault(tensor, format!("this is {model}, which is not supported")));
            }
        }
        let width = dimension(shape, "patch_embedding.bias", 0)?;
        let patches = of(shape, "patch_embedding.weight")?;
        let patches = patches.iter().try_fold(1u64, |all, size| all.checked_mul(*size));
        let patches = patches.ok_or_else(|| fault("patch_embedding.weight", "is too large"))?;
        let volume = 4 * width as u64;
        if patches == 0 || patches % volume != 0 {
            let text = format!("{patches} values do not make 1x2x2 patches of width {width}");
            return Err(fault("patch_embedding.weight", text));
        }
        let head = dimension(shape, "head.head.weight", 0)?;
        if head % 4 != 0 {
            return Err(fault(
                "head.head.weight",
                format!("{head} rows do not make 1x2x2 patches"),
            ));
        }
        let empty = Value::Object(Map::new());
        let reader = Reader::new(config.unwrap_or(&empty), "WanModel")?;
        if let Some(kind) = reader.given("model_type")
            && kind != "ti2v"
            && kind != "t2v"
        {
            let text = format!("{} is not supported, only ti2v", shown(kind));
            return Err(fault("model_type", text));
        }
        let heads = match reader.given("num_heads") {
            Some(_) => reader.size("num_heads")?,
            None if width.is_multiple_of(128) => width / 128,
            None => {
                let text = format!("missing, and the width {width} is not a multiple of 128");
                return Err(fault("num_heads", text));
            }
        };
        if heads == 0 || width % heads != 0 {
            return Err(fault("num_heads", format!("{heads} heads do not divide width {width}")));
        }
        let made = Self {
            heads,
            head_dim: width / heads,
            layers: counted(shape, |i| format!("blocks.{i}.modulation")),
            ffn_dim: dimension(shape, "blocks.0.ffn.0.bias", 0)?,
            in_channels: usize_of("patch_embedding.weight", patches / volume)?,
            out_channels: head / 4,
            text_dim: dimension(shape, "text_embedding.0.weight", 1)?,
            freq_dim: dimension(shape, "time_embedding.0.weight", 1)?,
            eps: reader.number_or("eps", 1e-6)?,
            cross_attn_norm: shape("blocks.0.norm3.weight").is_some(),
            qk_norm: shape("blocks.0.self_attn.norm_q.weight").is_some(),
            text_len: match reader.given("text_len") {
                Some(_) => reader.size("text_len")?,
                None => 512,
            },
            ..Self::ti2v_5b()
        };
        for (key, inferred) in [
            ("dim", made.width()),
            ("ffn_dim", made.ffn_dim),
            ("freq_dim", made.freq_dim),
            ("in_dim", made.in_channels),
            ("out_dim", made.out_channels),
            ("num_layers", made.layers),
        ] {
            if reader.given(key).is_some() && reader.size(key)? != inferred {
                let said = reader.size(key)?;
                let text = format!("config.json says {said}, but the tensors have {inferred}");
                return Err(fault(key, text));
            }
        }
        made.validate()?;
        Ok(made)
    }

    /// The `config.json` that diffusers reads. `text_len` and `rope_theta` have no key there.
    pub fn to_diffusers_json(&self) -> Value {
        json!({
            "_class_name": "WanTransformer3DModel",
            "_diffusers_version": DIFFUSERS_VERSION,
            "added_kv_proj_dim": null,
            "attention_head_dim": self.head_dim,
            "cross_attn_norm": self.cross_attn_norm,
            "eps": self.eps,
            "ffn_dim": self.ffn_dim,
            "freq_dim": self.freq_dim,
            "image_dim": null,
            "in_channels": self.in_channels,
            "num_attention_heads": self.heads,
            "num_layers": self.layers,
            "out_channels": self.out_channels,
            "patch_size": self.patch,
            "pos_embed_seq_len": null,
            "qk_norm": if self.qk_norm { json!("rms_norm_across_heads") } else { Value::Null },
            "rope_max_seq_len": 1024,
            "text_dim": self.text_dim,
        })
    }

    /// Checks that the network can be built; keys are those of diffusers.
    ///
    /// # Errors
    /// The first size that is impossible or not supported.
    pub fn validate(&self) -> Result<(), ConfigError> {
        sizes(&[
            ("num_attention_heads", self.heads),
            ("attention_head_dim", self.head_dim),
            ("ffn_dim", self.ffn_dim),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("text_dim", self.text_dim),
            ("freq_dim", self.freq_dim),
            ("text_len", self.text_len),
        ])?;
        blocks("num_layers", self.layers)?;
        let unsupported = match self.in_channels {
            16 => Some("the text-to-video models of Wan2.1 and Wan2.2-A14B"),
            36 => Some("the image-to-video models of Wan2.1 and Wan2.2-A14B"),
            _ => None,
        };
        if let Some(models) = unsupported {
            let text = format!("{} channels belong to {models}, not supported", self.in_channels);
            return Err(fault("in_channels", text));
        }
        if self.out_channels != self.in_channels {
            let text =
                format!("{} differs from in_channels = {}", self.out_channels, self.in_channels);
            return Err(fault("out_channels", text));
        }
        if self.width() > MAX_SIZE {
            let text = format!("{} heads of {} are too wide", self.heads, self.head_dim);
            return Err(fault("num_attention_heads", text));
        }
        if self.width() == 5120 {
            let text = "width 5120 is a 14B model of Wan, not supported; the 5B model has 3072";
            return Err(fault("num_attention_heads", text));
        }
        if !self.head_dim.is_multiple_of(2) || self.head_dim < 6 {
            let text = format!(
                "{} must be even and at least 6, so that each of three axes has a channel pair",
                self.head_dim
            );
            return Err(fault("attention_head_dim", text));
        }
        if !self.freq_dim.is_multiple_of(2) {
            return Err(fault("freq_dim", format!("{} must be even", self.freq_dim)));
        }
        if self.patch != [1, 2, 2] {
            let text = format!("{:?} is not supported, only [1, 2, 2]", self.patch);
            return Err(fault("patch_size", text));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 1.0) {
            return Err(fault("rope_theta", format!("{} must be above 1", self.rope_theta)));
        }
        epsilon("eps", self.eps)
    }
}

/// Sizes and latent statistics of the video autoencoder (vae.md §1, §6).
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Width of the encoder's first level before `dim_mult`.
    pub base_dim: usize,
    /// Width of the decoder's last level before `dim_mult`.
    pub decoder_base_dim: usize,
    /// Latent channels.
    pub z_dim: usize,
    /// Width of each of the four levels as a multiple of the base.
    pub dim_mult: Vec<usize>,
    /// Residual blocks per encoder level; a decoder level has one more.
    pub num_res_blocks: usize,
    /// Whether encoder levels 0, 1, 2 halve the time axis. diffusers spells the key
    /// `temperal_downsample`.
    pub temporal_downsample: Vec<bool>,
    /// Pixels per side that are folded into channels first; always 2.
    pub patch_size: usize,
    /// Channels after folding: 3 · patch².
    pub in_channels: usize,
    /// Channels before unfolding: 3 · patch².
    pub out_channels: usize,
    /// Mean of each latent channel; `z_dim` values.
    pub latents_mean: Vec<f32>,
    /// Standard deviation of each latent channel; `z_dim` positive values.
    pub latents_std: Vec<f32>,
}

/// Mean of the 48 latent channels of Wan2.2's autoencoder.
#[rustfmt::skip]
const LATENTS_MEAN: [f32; 48] = [
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799,  0.0174,  0.1838,  0.1557,
    -0.1382,  0.0542,  0.2813,  0.0891,  0.1570, -0.0098,  0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698,  0.5109,  0.2665, -0.2108, -0.2158,  0.2502,
    -0.2055, -0.0322,  0.1109,  0.1567, -0.0729,  0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649,  0.0117,  0.0723, -0.2839, -0.2083, -0.0520,  0.3748,
     0.0152,  0.1957,  0.1433, -0.2944,  0.3573, -0.0548, -0.1681, -0.0667,
];

/// Standard deviation of the 48 latent channels of Wan2.2's autoencoder.
#[rustfmt::skip]
const LATENTS_STD: [f32; 48] = [
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
];

impl VaeConfig {
    /// The autoencoder of Wan2.2-TI2V-5B: 196 tensors, 704,688,668 parameters.
    pub fn ti2v_5b() -> Self {
        Self {
            base_dim: 160,
            decoder_base_dim: 256,
            z_dim: 48,
            dim_mult: vec![1, 2, 4, 4],
            num_res_blocks: 2,
            temporal_downsample: vec![false, true, true],
            patch_size: 2,
            in_channels: 12,
            out_channels: 12,
            latents_mean: LATENTS_MEAN.to_vec(),
            latents_std: LATENTS_STD.to_vec(),
        }
    }

    /// The autoencoder of the built-in micro model.
    pub fn micro() -> Self {
        Self { base_dim: 8, decoder_base_dim: 8, num_res_blocks: 1, ..Self::ti2v_5b() }
    }

    /// Width in and out of each encoder level.
    pub fn encoder_levels(&self) -> Vec<(usize, usize)> {
        levels(self.base_dim, 1, self.dim_mult.iter())
    }

    /// Width in and out of each decoder level; the multiples run backwards.
    pub fn decoder_levels(&self) -> Vec<(usize, usize)> {
        let start = self.dim_mult.last().copied().unwrap_or(1);
        levels(self.decoder_base_dim, start, self.dim_mult.iter().rev())
    }

    /// Width of the encoder's middle and head.
    pub fn encoder_width(&self) -> usize {
        self.base_dim * self.dim_mult.last().copied().unwrap_or(1)
    }

    /// Width of the decoder's first convolution and middle.
    pub fn decoder_width(&self) -> usize {
        self.decoder_base_dim * self.dim_mult.last().copied().unwrap_or(1)
    }

    /// Whether decoder levels 0, 1, 2 double the time axis: the encoder's flags backwards.
    pub fn temporal_upsample(&self) -> Vec<bool> {
        self.temporal_downsample.iter().rev().copied().collect()
    }

    /// Pixels per latent on each side: 16.
    pub fn spatial_factor(&self) -> usize {
        self.patch_size << self.dim_mult.len().saturating_sub(1)
    }

    /// Frames per latent frame after the first: 4.
    pub fn temporal_factor(&self) -> usize {
        1 << self.temporal_downsample.iter().filter(|flag| **flag).count()
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> u64 {
        parameter_count(&vae_tensors(self))
    }

    /// Reads the `config.json` of a diffusers `vae/` folder.
    ///
    /// # Errors
    /// A missing key, a wrong type, an impossible size, or Wan2.1's autoencoder.
    pub fn from_diffusers(config: &Value) -> Result<Self, ConfigError> {
        let reader = Reader::new(config, "AutoencoderKLWan")?;
        if reader.given("is_residual").is_none() || !reader.flag("is_residual")? {
            let text = "must be true; without it this is the autoencoder of Wan2.1 and \
                        Wan2.2-A14B, which is not supported";
            return Err(fault("is_residual", text));
        }
        reader.demand("attn_scales", &json!([]), "attention inside levels is not supported")?;
        let base_dim = reader.size("base_dim")?;
        let made = Self {
            base_dim,
            decoder_base_dim: match reader.given("decoder_base_dim") {
                Some(_) => reader.size("decoder_base_dim")?,
                None => base_dim,
            },
            z_dim: reader.size("z_dim")?,
            dim_mult: reader
                .list("dim_mult", "whole numbers", |v| usize::try_from(v.as_u64()?).ok())?,
            num_res_blocks: reader.size("num_res_blocks")?,
            temporal_downsample: reader.list("temperal_downsample", "booleans", Value::as_bool)?,
            patch_size: reader.size("patch_size")?,
            in_channels: reader.size("in_channels")?,
            out_channels: reader.size("out_channels")?,
            latents_mean: reader.list("latents_mean", "numbers", |v| Some(v.as_f64()? as f32))?,
            latents_std: reader.list("latents_std", "numbers", |v| Some(v.as_f64()? as f32))?,
        };
        made.validate()?;
        for (key, derived) in [
            ("scale_factor_spatial", made.spatial_factor()),
            ("scale_factor_temporal", made.temporal_factor()),
        ] {
            if reader.given(key).is_some() && reader.size(key)? != derived {
                let text =
                    format!("{} does not fit the levels, which give {derived}", reader.size(key)?);
                return Err(fault(key, text));
            }
        }
        Ok(made)
    }

    /// Infers the sizes from the tensors of an original checkpoint. The latent statistics are those
    /// of Wan2.2, which has 48 channels; no file of that layout stores them.
    ///
    /// # Errors
    /// A tensor that is missing or has an impossible shape, another number of latent channels, or
    /// Wan2.1's autoencoder.
    pub fn from_original(shape: ShapeLookup<'_>) -> Result<Self, ConfigError> {
        let flat = "encoder.downsamples.0.residual.2.weight";
        if shape(flat).is_some() {
            let text = "this is the autoencoder of Wan2.1 and Wan2.2-A14B, which is not supported";
            return Err(fault(flat, text));
        }
        let base_dim = dimension(shape, "encoder.conv1.weight", 0)?;
        let decoder_base_dim = dimension(shape, "decoder.head.0.gamma", 0)?;
        let z_dim = dimension(shape, "conv2.weight", 0)?;
        if z_dim != LATENTS_MEAN.len() {
            let text = format!("{z_dim} latent channels: the statistics are known for 48 only");
            return Err(fault("conv2.weight", text));
        }
        let num_res_blocks = counted(shape, |block| {
            format!("encoder.downsamples.0.downsamples.{block}.residual.2.weight")
        });
        let resample = |level: usize| {
            let name = format!("encoder.downsamples.{level}.downsamples.{num_res_blocks}");
            format!("{name}.time_conv.weight")
        };
        let made = Self {
            base_dim,
            decoder_base_dim,
            z_dim,
            num_res_blocks,
            temporal_downsample: (0..3).map(|level| shape(&resample(level)).is_some()).collect(),
            in_channels: dimension(shape, "encoder.conv1.weight", 1)?,
            out_channels: dimension(shape, "decoder.head.2.weight", 0)?,
            ..Self::ti2v_5b()
        };
        made.validate()?;
        Ok(made)
    }

    /// The `config.json` that diffusers reads.
    pub fn to_diffusers_json(&self) -> Value {
        json!({
            "_class_name": "AutoencoderKLWan",
            "_diffusers_version": DIFFUSERS_VERSION,
            "attn_scales": [],
            "base_dim": self.base_dim,
            "decoder_base_dim": self.decoder_base_dim,
            "dim_mult": self.dim_mult,
            "dropout": 0.0,
            "in_channels": self.in_channels,
            "is_residual": true,
            "latents_mean": decimals(&self.latents_mean),
            "latents_std": decimals(&self.latents_std),
            "num_res_blocks": self.num_res_blocks,
            "out_channels": self.out_channels,
            "patch_size": self.patch_size,
            "scale_factor_spatial": self.spatial_factor(),
            "scale_factor_temporal": self.temporal_factor(),
            "temperal_downsample": self.temporal_downsample,
            "z_dim": self.z_dim,
        })
    }

    /// Checks that the network can be built; keys are those of diffusers.
    ///
    /// # Errors
    /// The first size that is impossible or not supported.
    pub fn validate(&self) -> Result<(), ConfigError> {
        sizes(&[
            ("base_dim", self.base_dim),
            ("decoder_base_dim", self.decoder_base_dim),
            ("z_dim", self.z_dim),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
        ])?;
        blocks("num_res_blocks", self.num_res_blocks)?;
        let count = self.dim_mult.len();
        if count != 4 {
            return Err(fault("dim_mult", format!("{count} levels are not supported, only 4")));
        }
        for mult in &self.dim_mult {
            let widest = self.base_dim.max(self.decoder_base_dim);
            if *mult == 0 || mult.saturating_mul(widest) > MAX_SIZE {
                return Err(fault("dim_mult", format!("{mult} is not a usable multiple")));
            }
        }
        if self.temporal_downsample.len() != count - 1 {
            let text = format!(
                "{} flags for {count} levels; there must be {}",
                self.temporal_downsample.len(),
                count - 1
            );
            return Err(fault("temperal_downsample", text));
        }
        if self.patch_size != 2 {
            let text = format!("{} is not supported, only 2", self.patch_size);
            return Err(fault("patch_size", text));
        }
        for (key, channels) in
            [("in_channels", self.in_channels), ("out_channels", self.out_channels)]
        {
            if channels != 12 {
                let text = format!("{channels} does not fit pixel patches of 2, which have 12");
                return Err(fault(key, text));
            }
        }
        for (key, values) in
            [("latents_mean", &self.latents_mean), ("latents_std", &self.latents_std)]
        {
            if values.len() != self.z_dim {
                let text = format!("{} values for z_dim = {}", values.len(), self.z_dim);
                return Err(fault(key, text));
            }
            let bad = |value: &f32| !value.is_finite() || (key == "latents_std" && *value <= 0.0);
            if let Some(at) = values.iter().position(bad) {
                let rule = if key == "latents_std" { "positive" } else { "finite" };
                return Err(fault(key, format!("value {at} is {}, not {rule}", values[at])));
            }
        }
        self.validate_shortcuts()
    }

    /// The parameter-free shortcuts around the levels average or repeat whole groups of channels.
    fn validate_shortcuts(&self) -> Result<(), ConfigError> {
        let time = |flags: &[bool], level: usize| 1 + usize::from(flags.get(level) == Some(&true));
        for (level, (from, to)) in self.encoder_levels().into_iter().enumerate() {
            let space = if level < 3 { 4 } else { 1 };
            let values = from * time(&self.temporal_downsample, level) * space;
            if values % to != 0 {
                let text = format!("encoder level {level} cannot average {values} values to {to}");
                return Err(fault("dim_mult", text));
            }
        }
        let upsample = self.temporal_upsample();
        for (level, (from, to)) in self.decoder_levels().into_iter().enumerate().take(3) {
            let values = to * time(&upsample, level) * 4;
            if values % from != 0 {
                let text = format!("decoder level {level} cannot repeat {from} values to {values}");
                return Err(fault("dim_mult", text));
            }
        }
        Ok(())
    }
}

/// Sizes of the umT5 text encoder (text.md §1).
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream and of the output.
    pub d_model: usize,
    /// Channels per head; heads · d_kv need not equal d_model.
    pub d_kv: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width inside the gated feed-forward.
    pub d_ff: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Buckets of relative positions, both directions together; a multiple of 4.
    pub buckets: usize,
    /// Distance from which on all positions share the last bucket.
    pub max_distance: usize,
    /// Added to the mean square in every norm.
    pub eps: f64,
}

impl TextConfig {
    /// The encoder of umT5-xxl: 242 tensors, 5,680,910,336 parameters.
    pub fn ti2v_5b() -> Self {
        Self {
            vocab_size: 256_384,
            d_model: 4096,
            d_kv: 64,
            heads: 64,
            d_ff: 10_240,
            layers: 24,
            buckets: 32,
            max_distance: 128,
            eps: 1e-6,
        }
    }

    /// The text encoder of the built-in micro model.
    pub fn micro() -> Self {
        Self {
            vocab_size: 512,
            d_model: 64,
            d_kv: 16,
            heads: 4,
            d_ff: 128,
            layers: 2,
            ..Self::ti2v_5b()
        }
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> u64 {
        parameter_count(&text_tensors(self))
    }

    /// Reads the `config.json` of a transformers `text_encoder/` folder.
    ///
    /// # Errors
    /// A missing key, a wrong type, an impossible size, or another model than umT5.
    pub fn from_diffusers(config: &Value) -> Result<Self, ConfigError> {
        let reader = Reader::of(config)?;
        let other = "only umt5 is supported: T5 and mT5 share one position bias between layers";
        reader.demand("model_type", &json!("umt5"), other)?;
        let activation = "only the gated GELU with the tanh form is supported";
        reader.demand("feed_forward_proj", &json!("gated-gelu"), activation)?;
        reader.demand("dense_act_fn", &json!("gelu_new"), activation)?;
        reader.demand("is_gated_act", &json!(true), activation)?;
        let made = Self {
            vocab_size: reader.size("vocab_size")?,
            d_model: reader.size("d_model")?,
            d_kv: reader.size("d_kv")?,
            heads: reader.size("num_heads")?,
            d_ff: reader.size("d_ff")?,
            layers: reader.size("num_layers")?,
            buckets: reader.size("relative_attention_num_buckets")?,
            max_distance: reader.size("relative_attention_max_distance")?,
            eps: reader.number_or("layer_norm_epsilon", 1e-6)?,
        };
        made.validate()?;
        Ok(made)
    }

    /// Infers the sizes from the tensors of an original checkpoint; distance 128 and eps 1e-6 are
    /// stored nowhere.
    ///
    /// # Errors
    /// A tensor that is missing or has an impossible shape.
    pub fn from_original(shape: ShapeLookup<'_>) -> Result<Self, ConfigError> {
        let bias = "blocks.0.pos_embedding.embedding.weight";
        let heads = dimension(shape, bias, 1)?;
        let inner = dimension(shape, "blocks.0.attn.q.weight", 0)?;
        if inner % heads != 0 {
            let text = format!("{inner} rows do not divide into {heads} heads");
            return Err(fault("blocks.0.attn.q.weight", text));
        }
        let made = Self {
            vocab_size: dimension(shape, "token_embedding.weight", 0)?,
            d_model: dimension(shape, "token_embedding.weight", 1)?,
            d_kv: inner / heads,
            heads,
            d_ff: dimension(shape, "blocks.0.ffn.fc1.weight", 0)?,
            layers: counted(shape, |i| format!("blocks.{i}.attn.q.weight")),
            buckets: dimension(shape, bias, 0)?,
            ..Self::ti2v_5b()
        };
        made.validate()?;
        Ok(made)
    }

    /// The `config.json` that transformers reads. `dtype` is that of a float32 file: a writer of
    /// another type changes that key.
    pub fn to_diffusers_json(&self) -> Value {
        json!({
            "architectures": ["UMT5EncoderModel"],
            "classifier_dropout": 0.0,
            "d_ff": self.d_ff,
            "d_kv": self.d_kv,
            "d_model": self.d_model,
            "decoder_start_token_id": 0,
            "dense_act_fn": "gelu_new",
            "dropout_rate": 0.1,
            "dtype": "float32",
            "eos_token_id": 1,
            "feed_forward_proj": "gated-gelu",
            "initializer_factor": 1.0,
            "is_decoder": false,
            "is_encoder_decoder": true,
            "is_gated_act": true,
            "layer_norm_epsilon": self.eps,
            "model_type": "umt5",
            "num_decoder_layers": self.layers,
            "num_heads": self.heads,
            "num_layers": self.layers,
            "pad_token_id": 0,
            "relative_attention_max_distance": self.max_distance,
            "relative_attention_num_buckets": self.buckets,
            "tie_word_embeddings": true,
            "transformers_version": "5.23.0",
            "use_cache": true,
            "vocab_size": self.vocab_size,
        })
    }

    /// Checks that the network can be built; keys are those of transformers.
    ///
    /// # Errors
    /// The first size that is impossible.
    pub fn validate(&self) -> Result<(), ConfigError> {
        sizes(&[
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("num_heads", self.heads),
            ("d_ff", self.d_ff),
            ("relative_attention_num_buckets", self.buckets),
            ("relative_attention_max_distance", self.max_distance),
        ])?;
        blocks("num_layers", self.layers)?;
        if self.heads * self.d_kv > MAX_SIZE {
            let text = format!("{} heads of {} are too wide", self.heads, self.d_kv);
            return Err(fault("num_heads", text));
        }
        if !self.buckets.is_multiple_of(4) {
            let text = format!("{} must be a multiple of 4", self.buckets);
            return Err(fault("relative_attention_num_buckets", text));
        }
        if self.max_distance <= self.buckets / 4 {
            let text = format!(
                "{} must exceed a quarter of the {} buckets",
                self.max_distance, self.buckets
            );
            return Err(fault("relative_attention_max_distance", text));
        }
        epsilon("layer_norm_epsilon", self.eps)
    }
}

/// The `scheduler/scheduler_config.json` of a folder that this program writes: UniPC of order 2 on
/// flow sigmas with the given shift.
pub fn scheduler_config_json(flow_shift: f64) -> Value {
    json!({
        "_class_name": "UniPCMultistepScheduler",
        "_diffusers_version": DIFFUSERS_VERSION,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "disable_corrector": [],
        "dynamic_thresholding_ratio": 0.995,
        "final_sigmas_type": "zero",
        "flow_shift": flow_shift,
        "lower_order_final": true,
        "num_train_timesteps": 1000,
        "predict_x0": true,
        "prediction_type": "flow_prediction",
        "rescale_betas_zero_snr": false,
        "sample_max_value": 1.0,
        "shift_terminal": null,
        "sigma_max": null,
        "sigma_min": null,
        "solver_order": 2,
        "solver_p": null,
        "solver_type": "bh2",
        "steps_offset": 0,
        "thresholding": false,
        "time_shift_type": "exponential",
        "timestep_spacing": "linspace",
        "trained_betas": null,
        "use_beta_sigmas": false,
        "use_dynamic_shifting": false,
        "use_exponential_sigmas": false,
        "use_flow_sigmas": true,
        "use_karras_sigmas": false,
    })
}

/// The `model_index.json` of a folder that this program writes.
pub fn model_index_json() -> Value {
    json!({
        "_class_name": "WanPipeline",
        "_diffusers_version": DIFFUSERS_VERSION,
        "boundary_ratio": null,
        "expand_timesteps": true,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": [null, null],
        "vae": ["diffusers", "AutoencoderKLWan"],
    })
}

/// The keys of one configuration file.
struct Reader<'a> {
    object: &'a Map<String, Value>,
}

impl<'a> Reader<'a> {
    fn of(config: &'a Value) -> Result<Self, ConfigError> {
        match config.as_object() {
            Some(object) => Ok(Self { object }),
            None => Err(fault("config.json", "is not a JSON object")),
        }
    }

    /// As `of`, refusing the configuration of another class.
    fn new(config: &'a Value, class: &str) -> Result<Self, ConfigError> {
        let reader = Self::of(config)?;
        let message = format!("only {class} is supported here");
        reader.demand("_class_name", &json!(class), &message)?;
        Ok(reader)
    }

    /// The value of a key that is there and not null.
    fn given(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn required(&self, key: &str) -> Result<&'a Value, ConfigError> {
        self.object.get(key).ok_or_else(|| fault(key, "is missing"))
    }

    /// Refuses every value of a key but one; a missing key is fine.
    fn demand(&self, key: &str, wanted: &Value, message: &str) -> Result<(), ConfigError> {
        match self.object.get(key) {
            Some(found) if found != wanted => {
                Err(fault(key, format!("{}: {message}", shown(found))))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A whole number; its range is checked by `validate`.
    fn size(&self, key: &str) -> Result<usize, ConfigError> {
        let value = self.required(key)?;
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| fault(key, format!("{} is not a whole number", shown(value))))
    }

    fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        let value = self.required(key)?;
        value.as_bool().ok_or_else(|| fault(key, format!("{} is not true or false", shown(value))))
    }

    fn number_or(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        match self.given(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .ok_or_else(|| fault(key, format!("{} is not a number", shown(value)))),
        }
    }

    fn list<T>(
        &self,
        key: &str,
        what: &str,
        item: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, ConfigError> {
        let value = self.required(key)?;
        let items = value.as_array().and_then(|items| items.iter().map(item).collect());
        items.ok_or_else(|| fault(key, format!("{} is not a list of {what}", shown(value))))
    }

    fn patch(&self, key: &str) -> Result<[u32; 3], ConfigError> {
        let sizes = self.list(key, "whole numbers", |v| u32::try_from(v.as_u64()?).ok())?;
        let count = sizes.len();
        sizes.try_into().map_err(|_| fault(key, format!("has {count} sizes, not 3")))
    }
}

fn fault(key: &str, message: impl Into<String>) -> ConfigError {
    ConfigError { key: key.to_owned(), message: message.into() }
}

/// A value of a file, cut short for a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    text.chars().take(57).chain("...".chars()).collect()
}

fn sizes(all: &[(&str, usize)]) -> Result<(), ConfigError> {
    for (key, size) in all {
        if !(1..=MAX_SIZE).contains(size) {
            return Err(fault(key, format!("{size} is not a size from 1 to {MAX_SIZE}")));
        }
    }
    Ok(())
}

fn blocks(key: &str, count: usize) -> Result<(), ConfigError> {
    if (1..=MAX_BLOCKS).contains(&count) {
        return Ok(());
    }
    Err(fault(key, format!("{count} is not a number of blocks from 1 to {MAX_BLOCKS}")))
}

fn epsilon(key: &str, eps: f64) -> Result<(), ConfigError> {
    if eps > 0.0 && eps < 1.0 {
        return Ok(());
    }
    Err(fault(key, format!("{eps} is not between 0 and 1")))
}

/// Input and output width of each level whose output is `base` times its multiple.
fn levels<'a>(
    base: usize,
    start: usize,
    mults: impl Iterator<Item = &'a usize>,
) -> Vec<(usize, usize)> {
    let mut from = base * start;
    let next = |mult: &usize| {
        let pair = (from, base * mult);
        from = pair.1;
        pair
    };
    mults.map(next).collect()
}

/// The shape of a tensor that must be there.
fn of(shape: ShapeLookup<'_>, name: &str) -> Result<Vec<u64>, ConfigError> {
    shape(name).ok_or_else(|| fault(name, "the tensor is missing"))
}

/// One size of a tensor that must be there.
fn dimension(shape: ShapeLookup<'_>, name: &str, axis: usize) -> Result<usize, ConfigError> {
    let found = of(shape, name)?;
    match found.get(axis) {
        Some(size) => usize_of(name, *size),
        None => Err(fault(name, format!("has {} axes, needs {}", found.len(), axis + 1))),
    }
}

fn usize_of(name: &str, size: u64) -> Result<usize, ConfigError> {
    let small = usize::try_from(size).ok().filter(|size| (1..=MAX_SIZE).contains(size));
    small.ok_or_else(|| fault(name, format!("{size} is not a size from 1 to {MAX_SIZE}")))
}

/// How many numbered tensors there are, counted from 0 without a gap.
fn counted(shape: ShapeLookup<'_>, name: impl Fn(usize) -> String) -> usize {
    (0..=MAX_BLOCKS).take_while(|i| shape(&name(*i)).is_some()).count()
}

/// The shortest decimals that give these f32 back, so that files stay readable.
fn decimals(values: &[f32]) -> Vec<f64> {
    let shortest = |value: &f32| value.to_string().parse().unwrap_or(f64::from(*value));
    values.iter().map(shortest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn file(name: &str) -> Value {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/");
        serde_json::from_slice(&std::fs::read(format!("{folder}{name}")).expect(name)).unwrap()
    }

    #[test]
    fn presets_are_valid_and_the_micro_model_is_small() {
        for dit in [DitConfig::ti2v_5b(), DitConfig::micro()] {
            dit.validate().unwrap();
        }
        for vae in [VaeConfig::ti2v_5b(), VaeConfig::micro()] {
            vae.validate().unwrap();
            assert_eq!((vae.spatial_factor(), vae.temporal_factor()), (16, 4));
        }
        for text in [TextConfig::ti2v_5b(), TextConfig::micro()] {
            text.validate().unwrap();
        }
        let (dit, vae, text) = (DitConfig::micro(), VaeConfig::micro(), TextConfig::micro());
        let counts = [dit.parameter_count(), vae.parameter_count(), text.parameter_count()];
        println!("micro model: {counts:?}");
        assert!(counts.iter().sum::<u64>() <= 1_200_000, "{counts:?}");
        assert_eq!((dit.in_channels, dit.text_dim), (vae.z_dim, text.d_model));
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
        for name in ["dit/base", "dit/hd128", "pipeline/base/transformer"] {
            let value = file(&format!("{name}/config.json"));
            let config = DitConfig::from_diffusers(&value).unwrap();
            assert_eq!(config.to_diffusers_json(), value, "{name}");
            assert_eq!((config.text_len, config.rope_theta), (512, 10000.0));
        }
        for name in ["vae/base", "pipeline/base/vae"] {
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
        for dit in [DitConfig::ti2v_5b(), DitConfig::micro()] {
            assert_eq!(DitConfig::from_diffusers(&dit.to_diffusers_json()).unwrap(), dit);
        }
        for vae in [VaeConfig::ti2v_5b(), VaeConfig::micro()] {
            assert_eq!(VaeConfig::from_diffusers(&vae.to_diffusers_json()).unwrap(), vae);
        }
        for text in [TextConfig::ti2v_5b(), TextConfig::micro()] {
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
                ("in_channels", Some(json!(16)), "Wan2.1"),
                ("in_channels", Some(json!(36)), "image-to-video"),
                ("out_channels", Some(json!(16)), "out_channels: 16 differs"),
                ("patch_size", Some(json!([1, 4, 4])), "patch_size: [1, 4, 4]"),
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
                ("is_residual", Some(json!(false)), "Wan2.1"),
                ("is_residual", None, "Wan2.1"),
                ("dim_mult", Some(json!([1, 2, 4])), "dim_mult: 3 levels"),
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
                ("patch_size", Some(json!(1)), "patch_size: 1"),
                ("patch_size", Some(json!(null)), "patch_size: null"),
                ("in_channels", Some(json!(3)), "in_channels: 3"),
                ("num_res_blocks", Some(json!(0)), "num_res_blocks: 0"),
                ("attn_scales", Some(json!([0.5])), "attn_scales"),
                ("base_dim", Some(json!(0)), "base_dim: 0"),
                ("_class_name", Some(json!("AutoencoderKL")), "AutoencoderKLWan"),
            ],
        );
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
        let config = json!({ "num_heads": 2, "text_len": 16 });
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
