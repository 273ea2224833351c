//! Sizes of the text encoder and its configuration file.

use super::super::names::{parameter_count, text_tensors};
use super::read::*;
use super::{ConfigError, MAX_SIZE, ShapeLookup};
use serde_json::{Value, json};

/// Sizes of the umT5 text encoder (`text.md` §1).
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

    /// A tiny text encoder for tests.
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

    /// A text encoder for the prompts of the drawn world, whose words are its tokens.
    pub fn world() -> Self {
        Self {
            vocab_size: 80,
            d_model: 96,
            d_kv: 24,
            heads: 4,
            d_ff: 256,
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

    /// The `config.json` that transformers reads. `dtype` is `float32`; whoever writes the weights
    /// in another type changes this key.
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
