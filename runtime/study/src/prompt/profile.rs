//! A server that describes or compares: where it is, what it can do, and what it costs
//! (`prompts.md` §3.3).

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What answers a server is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// JSON of a schema.
    #[default]
    JsonSchema,
    /// Any JSON, with the schema in the text.
    JsonObject,
    /// Text, in which the first object is looked for.
    Text,
}

/// What is sent of a clip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaMode {
    /// Frames, each with its time.
    #[default]
    Frames,
    /// The clip itself, made small.
    Video,
    /// One picture with frames in rows.
    Grid,
}

/// Kinds of servers, each with defaults of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Google's, by its compatible interface.
    Gemini,
    /// OpenAI's.
    Openai,
    /// vLLM on this machine.
    Vllm,
    /// llama.cpp on this machine.
    Llamacpp,
    /// Ollama on this machine.
    Ollama,
}

impl Kind {
    /// Where it is, if nothing else is said.
    fn base_url(self) -> &'static str {
        match self {
            Self::Gemini => "https://generativelanguage.googleapis.com/v1beta/openai",
            Self::Openai => "https://api.openai.com/v1",
            Self::Vllm => "http://127.0.0.1:8000/v1",
            Self::Llamacpp => "http://127.0.0.1:8080/v1",
            Self::Ollama => "http://127.0.0.1:11434/v1",
        }
    }

    fn key_variable(self) -> Option<&'static str> {
        match self {
            Self::Gemini => Some("GEMINI_API_KEY"),
            Self::Openai => Some("OPENAI_API_KEY"),
            Self::Vllm | Self::Llamacpp | Self::Ollama => None,
        }
    }
}

/// A server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Profile {
    /// Where it is, up to `/v1`.
    pub base_url: String,
    /// The model that is asked for.
    pub model: String,
    /// The environment variable that has the key.
    pub api_key_env: Option<String>,
    /// A file that has it, which only its owner may read.
    pub api_key_file: Option<PathBuf>,
    /// Seconds that an answer may take: 120 for descriptions and 60 for texts where it is not said.
    pub timeout_s: Option<f64>,
    /// Requests a minute.
    pub rpm: Option<f64>,
    /// Tokens a minute.
    pub tpm: Option<f64>,
    /// Requests at a time.
    pub concurrency: usize,
    /// The field that bounds an answer.
    pub max_tokens_field: String,
    /// Tokens of an answer, where it is more than is usual: what models think counts too.
    pub max_tokens: u64,
    /// What is sent of a clip.
    pub media_mode: MediaMode,
    /// Most pictures of a request, or of a grid.
    pub max_images: usize,
    /// Most bytes of a request.
    pub max_body: usize,
    /// What answers it is asked for at first.
    pub response_format: Answer,
    /// Whether it takes a seed.
    pub seed: bool,
    /// Further fields of each request.
    pub extra_body: serde_json::Map<String, serde_json::Value>,
    /// Price of a million tokens that are sent.
    pub price_in: Option<f64>,
    /// Price of a million tokens of answers.
    pub price_out: Option<f64>,
    /// The currency of prices.
    pub currency: Option<String>,
}

/// A server as settings say it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    kind: Option<Kind>,
    base_url: Option<String>,
    model: String,
    api_key_env: Option<String>,
    api_key_file: Option<PathBuf>,
    timeout_s: Option<f64>,
    rpm: Option<f64>,
    tpm: Option<f64>,
    concurrency: Option<usize>,
    max_tokens_field: Option<String>,
    max_tokens: Option<u64>,
    media_mode: Option<MediaMode>,
    max_images: Option<usize>,
    max_body: Option<usize>,
    response_format: Option<Answer>,
    seed: Option<bool>,
    #[serde(default)]
    extra_body: serde_json::Map<String, serde_json::Value>,
    price_in: Option<f64>,
    price_out: Option<f64>,
    currency: Option<String>,
}

impl TryFrom<Written> for Profile {
    type Error = String;

    fn try_from(own: Written) -> Result<Self, String> {
        let Some(base_url) = own.base_url.or_else(|| Some(own.kind?.base_url().to_owned())) else {
            return Err("a server needs base_url, or kind: gemini, openai, vllm, llamacpp or \
                        ollama"
                .to_owned());
        };
        for (name, value) in [("timeout_s", own.timeout_s), ("rpm", own.rpm), ("tpm", own.tpm)] {
            if value.is_some_and(|value| !(value > 0.0 && value <= 1e9)) {
                return Err(format!("{name} is a number above 0"));
            }
        }
        let key =
            || Some(own.kind?.key_variable()?.to_owned()).filter(|_| own.api_key_file.is_none());
        let field =
            if own.kind == Some(Kind::Openai) { "max_completion_tokens" } else { "max_tokens" };
        // What a model thinks is part of its answer there.
        let most = if own.kind == Some(Kind::Gemini) { 8192 } else { 0 };
        Ok(Self {
            base_url,
            model: own.model,
            api_key_env: own.api_key_env.or_else(key),
            api_key_file: own.api_key_file,
            timeout_s: own.timeout_s,
            rpm: own.rpm,
            tpm: own.tpm,
            concurrency: own.concurrency.unwrap_or(4),
            max_tokens_field: own.max_tokens_field.unwrap_or_else(|| field.to_owned()),
            max_tokens: own.max_tokens.unwrap_or(most),
            media_mode: own.media_mode.unwrap_or_default(),
            max_images: own.max_images.unwrap_or(8),
            max_body: own.max_body.unwrap_or(15_000_000),
            response_format: own.response_format.unwrap_or_default(),
            seed: own.seed.unwrap_or_default(),
            extra_body: own.extra_body,
            price_in: own.price_in,
            price_out: own.price_out,
            currency: own.currency,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_of_servers_have_defaults_that_settings_change() {
        let of = |value| serde_json::from_value::<Profile>(value);
        let own = of(json!({"kind": "gemini", "model": "m"})).unwrap();
        assert_eq!(own.api_key_env.as_deref(), Some("GEMINI_API_KEY"));
        assert!(own.base_url.starts_with("https://generativelanguage") && own.max_tokens == 8192);
        let own = of(json!({"kind": "openai", "model": "m", "api_key_file": "key"})).unwrap();
        assert_eq!((own.api_key_env, &*own.max_tokens_field), (None, "max_completion_tokens"));
        let other = json!({"kind": "vllm", "model": "m", "base_url": "http://127.0.0.1:9/v1",
            "media_mode": "video", "max_images": 4});
        let own = of(other).unwrap();
        assert_eq!((&*own.base_url, own.media_mode), ("http://127.0.0.1:9/v1", MediaMode::Video));
        assert_eq!((own.max_images, own.max_body, own.api_key_env), (4, 15_000_000, None));
        // What is written of it is read again.
        let again = of(json!(of(json!({"kind": "ollama", "model": "m"})).unwrap()));
        assert_eq!(again.unwrap().base_url, "http://127.0.0.1:11434/v1");
        for (value, part) in [
            (json!({"model": "m"}), "base_url"),
            (json!({"kind": "x", "model": "m"}), "unknown variant"),
            (json!({"kind": "vllm", "model": "m", "rpm": 0.0}), "rpm is a number above 0"),
            (json!({"kind": "vllm", "model": "m", "temp": 1}), "unknown field"),
        ] {
            let fault = of(value).unwrap_err().to_string();
            assert!(fault.contains(part), "{part}: {fault}");
        }
    }
}
