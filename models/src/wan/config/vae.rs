//! Sizes and latent statistics of the autoencoder and its configuration file.

use super::super::names::{Component, parameter_count, vae_tensors};
use super::read::*;
use super::{ConfigError, DIFFUSERS_VERSION, MAX_SIZE, ShapeLookup};
use serde_json::{Value, json};

/// Sizes and latent statistics of the video autoencoder (`vae.md` §1, §6).
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Width of the encoder's first level before `dim_mult`.
    pub base_dim: usize,
    /// Width of the decoder's last level before `dim_mult`.
    pub decoder_base_dim: usize,
    /// Latent channels.
    pub z_dim: usize,
    /// Width of each level as a multiple of the base.
    pub dim_mult: Vec<usize>,
    /// Residual blocks per encoder level; a decoder level has one more.
    pub num_res_blocks: usize,
    /// Whether each encoder level but the last halves the time axis. diffusers spells the key
    /// `temperal_downsample`.
    pub temporal_downsample: Vec<bool>,
    /// Whether there are shortcuts around whole levels, which average or repeat groups of channels, as
    /// Wan2.2's autoencoder has them. Without them it is that of Wan2.1.
    pub residual: bool,
    /// Pixels per side that are folded into channels first; 1 for none.
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

/// Most levels of an autoencoder, so that a side has at most 2^7 pixels for each latent and patch.
const MOST_LEVELS: usize = 8;
/// Most pixels on a side that are folded into channels.
const MOST_PATCH: usize = 16;

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
            residual: true,
            patch_size: 2,
            in_channels: 12,
            out_channels: 12,
            latents_mean: LATENTS_MEAN.to_vec(),
            latents_std: LATENTS_STD.to_vec(),
        }
    }

    /// A tiny autoencoder for tests.
    pub fn micro() -> Self {
        Self { base_dim: 8, decoder_base_dim: 8, num_res_blocks: 1, ..Self::ti2v_5b() }
    }

    /// An autoencoder for the drawn world: 8 pixels a side and 4 frames of time for each of 24
    /// channels, whose latents are taken as they come; 1,561,548 parameters.
    pub fn world() -> Self {
        Self {
            base_dim: 24,
            decoder_base_dim: 24,
            z_dim: 24,
            dim_mult: vec![1, 2, 2],
            num_res_blocks: 1,
            temporal_downsample: vec![true, true],
            latents_mean: vec![0.0; 24],
            latents_std: vec![1.0; 24],
            ..Self::ti2v_5b()
        }
    }

    /// Width in and out of each encoder level.
    pub fn encoder_levels(&self) -> Vec<(usize, usize)> {
        levels(self.base_dim, 1, self.dim_mult.iter())
    }

    /// Width in and out of each decoder level; the multiples are used in reverse order. Without
    /// shortcuts around levels, an upsampling halves its channels.
    pub fn decoder_levels(&self) -> Vec<(usize, usize)> {
        let start = self.dim_mult.last().copied().unwrap_or(1);
        let mut out = levels(self.decoder_base_dim, start, self.dim_mult.iter().rev());
        if !self.residual {
            out.iter_mut().skip(1).for_each(|(from, _)| *from /= 2);
        }
        out
    }

    /// The network as names of tensors know it.
    pub fn component(&self) -> Component {
        Component::Vae { num_res_blocks: self.num_res_blocks, residual: self.residual }
    }

    /// Width of the encoder's middle and head.
    pub fn encoder_width(&self) -> usize {
        self.base_dim * self.dim_mult.last().copied().unwrap_or(1)
    }

    /// Width of the decoder's first convolution and middle.
    pub fn decoder_width(&self) -> usize {
        self.decoder_base_dim * self.dim_mult.last().copied().unwrap_or(1)
    }

    /// Whether decoder levels double the time axis: the encoder's flags in reverse order.
    pub fn temporal_upsample(&self) -> Vec<bool> {
        self.temporal_downsample.iter().rev().copied().collect()
    }

    /// Pixels per latent on each side: 16 in Wan2.2.
    pub fn spatial_factor(&self) -> usize {
        self.patch_size << self.dim_mult.len().saturating_sub(1)
    }

    /// Frames per latent frame after the first: 4 in Wan2.2.
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
    /// A missing key, a wrong type, or an impossible size.
    pub fn from_diffusers(config: &Value) -> Result<Self, ConfigError> {
        let reader = Reader::new(config, "AutoencoderKLWan")?;
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
            residual: reader.given("is_residual").is_some() && reader.flag("is_residual")?,
            patch_size: reader.size_or("patch_size", 1)?,
            in_channels: reader.size_or("in_channels", 3)?,
            out_channels: reader.size_or("out_channels", 3)?,
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

    /// The sizes that tensors with canonical names say. Where they are those of `like`, so are the
    /// statistics of the latents; otherwise these are those of Wan2.2.
    ///
    /// # Errors
    /// As [`VaeConfig::from_original`].
    pub fn from_tensors(like: Option<&Self>, shape: ShapeLookup<'_>) -> Result<Self, ConfigError> {
        let same = |like: &&Self| {
            vae_tensors(like).iter().all(|(name, own)| shape(name).as_ref() == Some(own))
        };
        match like.filter(same) {
            Some(like) => Ok(like.clone()),
            None => Self::from_original(shape),
        }
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
            "is_residual": self.residual,
            "latents_mean": decimals(&self.latents_mean),
            "latents_std": decimals(&self.latents_std),
            "num_res_blocks": self.num_res_blocks,
            "out_channels": self.out_channels,
            "patch_size": if self.patch_size > 1 { json!(self.patch_size) } else { Value::Null },
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
        if !(1..=MOST_LEVELS).contains(&count) {
            let text = format!("{count} levels; there must be 1 to {MOST_LEVELS}");
            return Err(fault("dim_mult", text));
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
        if !(1..=MOST_PATCH).contains(&self.patch_size) {
            let text = format!("{} pixels; there must be 1 to {MOST_PATCH}", self.patch_size);
            return Err(fault("patch_size", text));
        }
        let folded = 3 * self.patch_size * self.patch_size;
        for (key, channels) in
            [("in_channels", self.in_channels), ("out_channels", self.out_channels)]
        {
            if channels != folded {
                let patch = self.patch_size;
                let text = format!(
                    "{channels} does not fit pixel patches of {patch}, which have {folded}"
                );
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
        let last = self.dim_mult.len() - 1;
        if !self.residual {
            let odd = self.decoder_levels().into_iter().take(last).find(|(_, to)| to % 2 != 0);
            return match odd {
                Some((_, to)) => Err(fault("dim_mult", format!("{to} channels cannot be halved"))),
                None => Ok(()),
            };
        }
        let time = |flags: &[bool], level: usize| 1 + usize::from(flags.get(level) == Some(&true));
        for (level, (from, to)) in self.encoder_levels().into_iter().enumerate() {
            let space = if level < last { 4 } else { 1 };
            let values = from * time(&self.temporal_downsample, level) * space;
            if values % to != 0 {
                let text = format!("encoder level {level} cannot average {values} values to {to}");
                return Err(fault("dim_mult", text));
            }
        }
        let upsample = self.temporal_upsample();
        for (level, (from, to)) in self.decoder_levels().into_iter().enumerate().take(last) {
            let values = to * time(&upsample, level) * 4;
            if values % from != 0 {
                let text = format!("decoder level {level} cannot repeat {from} values to {values}");
                return Err(fault("dim_mult", text));
            }
        }
        Ok(())
    }
}
