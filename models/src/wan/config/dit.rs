//! Sizes of the diffusion transformer and its configuration file.

use super::super::names::{dit_tensors, parameter_count};
use super::read::*;
use super::{ConfigError, DIFFUSERS_VERSION, MAX_SIZE, ShapeLookup};
use serde_json::{Map, Value, json};

/// Longest side of a patch.
const MOST_PATCH: u64 = 16;

/// Sizes of the diffusion transformer (`dit.md` §1).
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
    /// Patch size (frames, rows, columns); (1, 2, 2) in Wan2.2.
    pub patch: [u32; 3],
    /// Width of a text embedding row.
    pub text_dim: usize,
    /// Length of the timestep sinusoid; even.
    pub freq_dim: usize,
    /// Added to the variance in every norm.
    pub eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether there is an affine norm before cross-attention.
    pub cross_attn_norm: bool,
    /// Whether queries and keys are RMS-normalised over all heads together.
    pub qk_norm: bool,
    /// Rows to which text embeddings are padded.
    pub text_len: usize,
    /// Width, height and frames of the videos that it was made for.
    pub sample: [usize; 3],
    /// Sampling steps that it is used with.
    pub sample_steps: usize,
    /// Guidance scale that it is used with.
    pub sample_guidance: f64,
}

/// Keys of ours for [`DitConfig::sample`].
const SAMPLE: [&str; 3] = ["sample_width", "sample_height", "sample_frames"];
const STEPS: &str = "sample_steps";
const GUIDANCE: &str = "sample_guidance";

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
            sample: [1280, 704, 121],
            sample_steps: 50,
            sample_guidance: 5.0,
        }
    }

    /// A tiny transformer for tests.
    pub fn micro() -> Self {
        Self {
            heads: 2,
            head_dim: 32,
            layers: 2,
            ffn_dim: 192,
            text_dim: 64,
            freq_dim: 64,
            sample: [192, 192, 9],
            sample_steps: 8,
            ..Self::ti2v_5b()
        }
    }

    /// A transformer that learns from scratch within minutes: its residual stream is wider than a
    /// patch, so that noise can be told from what it hides.
    pub fn small() -> Self {
        Self { heads: 4, head_dim: 64, ffn_dim: 512, ..Self::micro() }
    }

    /// A transformer for the drawn world, small enough to be trained on two cores: 2,752,728
    /// parameters. A patch is one latent, so that every token has few values to carry.
    pub fn world() -> Self {
        Self {
            heads: 6,
            head_dim: 32,
            layers: 4,
            ffn_dim: 768,
            in_channels: 24,
            out_channels: 24,
            patch: [1, 1, 1],
            text_dim: 96,
            text_len: 48,
            sample: [48, 48, 5],
            sample_steps: 12,
            sample_guidance: 2.0,
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
            text_len: match reader.given("text_len") {
                Some(_) => reader.size("text_len")?,
                None => Self::ti2v_5b().text_len,
            },
            sample: sample(&reader)?,
            sample_steps: reader.size_or(STEPS, Self::ti2v_5b().sample_steps)?,
            sample_guidance: reader.number_or(GUIDANCE, Self::ti2v_5b().sample_guidance)?,
            ..Self::ti2v_5b()
        };
        made.validate()?;
        Ok(made)
    }

    /// Infers the sizes from the tensors of an original checkpoint; `config` is its `config.json`
    /// where there is one. Without it a head is taken to have 128 channels.
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
        // Stored as a matrix, it does not tell the sides of a patch.
        let patch = match patches.as_slice() {
            [_, _, sides @ ..]
                if sides.len() == 3 && sides.iter().all(|side| *side <= MOST_PATCH) =>
            {
                [0, 1, 2].map(|axis| sides[axis] as u32)
            }
            _ => Self::ti2v_5b().patch,
        };
        let sides = patch.map(|side| side.to_string()).join("x");
        let volume: u64 = patch.iter().map(|side| u64::from(*side)).product();
        let patches = patches.iter().try_fold(1u64, |all, size| all.checked_mul(*size));
        let patches = patches.ok_or_else(|| fault("patch_embedding.weight", "is too large"))?;
        let columns = volume.max(1) * width as u64;
        if patches == 0 || patches % columns != 0 {
            let text = format!("{patches} values do not make {sides} patches of width {width}");
            return Err(fault("patch_embedding.weight", text));
        }
        let head = dimension(shape, "head.head.weight", 0)?;
        if !(head as u64).is_multiple_of(volume) {
            return Err(fault(
                "head.head.weight",
                format!("{head} rows do not make {sides} patches"),
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
            in_channels: usize_of("patch_embedding.weight", patches / columns)?,
            out_channels: head / volume as usize,
            patch,
            text_dim: dimension(shape, "text_embedding.0.weight", 1)?,
            freq_dim: dimension(shape, "time_embedding.0.weight", 1)?,
            eps: reader.number_or("eps", 1e-6)?,
            cross_attn_norm: shape("blocks.0.norm3.weight").is_some(),
            qk_norm: shape("blocks.0.self_attn.norm_q.weight").is_some(),
            text_len: match reader.given("text_len") {
                Some(_) => reader.size("text_len")?,
                None => 512,
            },
            sample: sample(&reader)?,
            sample_steps: reader.size_or(STEPS, Self::ti2v_5b().sample_steps)?,
            sample_guidance: reader.number_or(GUIDANCE, Self::ti2v_5b().sample_guidance)?,
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

    /// The sizes that tensors with canonical names say; what they do not is that of `like`, of which
    /// they are another version, or else that of Wan2.2.
    ///
    /// # Errors
    /// As [`DitConfig::from_original`].
    pub fn from_tensors(like: Option<&Self>, shape: ShapeLookup<'_>) -> Result<Self, ConfigError> {
        let Some(like) = like else { return Self::from_original(None, shape) };
        let mut said = json!({
            "eps": like.eps,
            "text_len": like.text_len,
            STEPS: like.sample_steps,
            GUIDANCE: like.sample_guidance,
        });
        for (key, value) in SAMPLE.into_iter().zip(like.sample) {
            said[key] = json!(value);
        }
        let width = shape("patch_embedding.bias").and_then(|shape| shape.first().copied());
        if width == Some(like.width() as u64) {
            said["num_heads"] = json!(like.heads);
        }
        Self::from_original(Some(&said), shape)
    }

    /// The `config.json` that diffusers reads. `rope_theta` has no key there; `text_len` and what
    /// begins with `sample` have keys of ours, which are left out where they are those of Wan2.2:
    /// diffusers takes them with a warning.
    pub fn to_diffusers_json(&self) -> Value {
        let mut config = json!({
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
        });
        if self.text_len != Self::ti2v_5b().text_len {
            config["text_len"] = json!(self.text_len);
        }
        for ((key, own), usual) in SAMPLE.into_iter().zip(self.sample).zip(Self::ti2v_5b().sample) {
            if own != usual {
                config[key] = json!(own);
            }
        }
        if self.sample_steps != Self::ti2v_5b().sample_steps {
            config[STEPS] = json!(self.sample_steps);
        }
        if self.sample_guidance != Self::ti2v_5b().sample_guidance {
            config[GUIDANCE] = json!(self.sample_guidance);
        }
        config
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
            (SAMPLE[0], self.sample[0]),
            (SAMPLE[1], self.sample[1]),
            (SAMPLE[2], self.sample[2]),
            (STEPS, self.sample_steps),
        ])?;
        blocks("num_layers", self.layers)?;
        let unsupported = match self.in_channels {
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
        if self.patch.iter().any(|side| !(1..=MOST_PATCH).contains(&u64::from(*side))) {
            let text = format!("{:?}: the sides of a patch are 1 to {MOST_PATCH}", self.patch);
            return Err(fault("patch_size", text));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 1.0) {
            return Err(fault("rope_theta", format!("{} must be above 1", self.rope_theta)));
        }
        epsilon("eps", self.eps)
    }
}

/// The size that a configuration says videos were made with; what it leaves out is as in Wan2.2.
fn sample(reader: &Reader<'_>) -> Result<[usize; 3], ConfigError> {
    let mut out = DitConfig::ti2v_5b().sample;
    for (size, key) in out.iter_mut().zip(SAMPLE) {
        if reader.given(key).is_some() {
            *size = reader.size(key)?;
        }
    }
    Ok(out)
}
